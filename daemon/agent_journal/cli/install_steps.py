"""The steps of an installation, and of its removal: told, and then done.

``--dry-run`` prints the very steps that would be done, since they are made before any
of them is.
"""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from .failures import CommandError
from .output import print_json
from .terminal import Terminal, harmless, standard_output

STEP_S_MAX: Final = 120.0  # a service that is stopped may fold a large log back
REHEARSED: Final = "nothing was changed: without --dry-run these steps are done"
STYLES: Final = {"keep": "yellow", "remove": "red", "rmdir": "red", "run": "cyan", "note": "dim"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One thing to do: how it is told, and what does it."""

    verb: str
    what: str
    why: str = ""
    do: Callable[[], object] | None = None


def run_step(command: list[str], *, why: str = "", is_needed: bool = True) -> Step:
    """Return the step that runs a program; one that is not needed may fail, which is told."""
    what = shlex.join(command)
    return Step(verb="run", what=what, why=why, do=lambda: _run(command, is_needed=is_needed))


def _run(command: list[str], *, is_needed: bool) -> bool:
    program = shutil.which(command[0])
    problem = "is not installed"
    if program is not None:
        try:
            done = subprocess.run(  # noqa: S603 - systemd's own tools
                [program, *command[1:]],
                capture_output=True,
                check=False,
                text=True,
                errors="replace",
                timeout=STEP_S_MAX,
                stdin=subprocess.DEVNULL,
            )
        except subprocess.TimeoutExpired:
            problem = f"did not end within {STEP_S_MAX:g} s"
        else:
            if done.returncode == 0:
                return True
            last = done.stderr.strip().splitlines()[-1:] or [f"exit code {done.returncode}"]
            problem = f"failed: {last[0]}"
    if is_needed:
        raise CommandError(
            f"{shlex.join(command)} {problem}",
            "the same by hand; then this command again, which goes on from there",
        )
    terminal = Terminal(sys.stderr)
    terminal.line(harmless(f"{shlex.join(command)} {problem}; everything else is done"))
    return False


def mkdir_step(path: Path, mode: int) -> Step:
    """Return the step that makes a directory."""

    def do() -> None:
        path.mkdir()
        path.chmod(mode)  # whatever the umask

    return Step(verb="mkdir", what=str(path), do=do)


def perform(steps: Iterable[Step], *, is_dry: bool, as_json: bool) -> None:
    """Tell each step, and do it unless this is a rehearsal, which ends in saying so."""
    for step in steps:
        if is_dry and step.verb == "done":
            continue  # it is not
        _tell(step, is_dry=is_dry, as_json=as_json)
        if step.do is not None and not is_dry:
            step.do()
    if is_dry:
        _tell(Step(verb="note", what=REHEARSED), is_dry=is_dry, as_json=as_json)


def _tell(step: Step, *, is_dry: bool, as_json: bool) -> None:
    output = standard_output()
    if as_json:
        told = {"verb": step.verb, "what": step.what, "why": step.why, "dry_run": is_dry}
        print_json({name: value for name, value in told.items() if value != ""})
    else:
        verb = f"{step.verb:<7}"
        style = STYLES.get(step.verb)
        why = output.paint(harmless(f"  ({step.why})"), "dim") if step.why else ""
        painted = output.paint(verb, style) if style else verb
        output.line(f"{painted} {harmless(step.what)}{why}")
    output.flush()  # before what a program says, and before what may take long
