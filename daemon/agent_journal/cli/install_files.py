"""What an installation consists of: the shipped files, with this installation's program in them."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from .failures import CommandError
from .install_layout import Layout
from .service_manager import UNITS
from .shipped import shipped

PROGRAMS: Final = ("agent-journal", "agent-journald")
# What ProtectHome= hides from the service of the system.
HIDDEN: Final = (Path("/home"), Path("/root"), Path("/run/user"))
ON_EVERY_PATH: Final = frozenset({Path("/bin"), Path("/usr/bin"), Path("/usr/local/bin")})


@dataclass(frozen=True, slots=True, kw_only=True)
class NewFile:
    """A file to be there: what is in it, or where it leads."""

    path: Path
    content: bytes = b""
    leads_to: Path | None = None


def program_of(name: str) -> list[str]:
    """Return the command line of one of our programs, as this installation has it."""
    beside = Path(sys.executable).with_name(name)
    if beside.exists():
        return [str(beside)]
    typed = Path(sys.argv[0]).absolute().with_name(name)
    if typed.exists():
        return [str(typed)]
    module = "agent_journal" if name == "agent-journald" else "agent_journal.cli"
    return [sys.executable, "-m", module]


def check_visible(program: list[str]) -> None:
    """Refuse a program that the service of the system could not see.

    Raises:
        CommandError: it, its Python or its code lies under a home directory.
    """
    real = Path(program[0]).resolve()
    needed = [Path(program[0]), real]
    if program == program_of("agent-journald"):
        needed += [Path(sys.base_prefix), Path(sys.executable).resolve(), Path(__file__).resolve()]
    for path in needed:
        if any(path.is_relative_to(hidden) for hidden in HIDDEN):
            raise CommandError(
                f"{path} lies under a home directory, which the service of the system cannot see",
                "with a Python of the system: python3 -m venv /opt/agent-journal && "
                "/opt/agent-journal/bin/pip install agent-journal && "
                "/opt/agent-journal/bin/agent-journal install --system",
            )


def files_of(layout: Layout, program: list[str]) -> Iterator[NewFile]:
    """Yield everything that *layout* has a place for."""
    folder = "systemd" if layout.is_system else "systemd/user"
    for unit in UNITS:
        text = shipped(f"{folder}/{unit}").read_text("utf-8")
        yield NewFile(path=layout.units / unit, content=rendered(text, program).encode())
    if layout.is_system:
        yield from _of_the_system()
    example = shipped("config.toml").read_bytes()
    yield NewFile(path=layout.configuration / "config.toml.example", content=example)
    yield from _told_to_people(layout)
    yield from _links(layout, program)


def rendered(unit: str, program: list[str]) -> str:
    """Return a unit that starts *program*."""
    line = f"ExecStart={' '.join(map(_quoted, program))}"
    return re.sub(r"(?m)^ExecStart=.*$", lambda _: line, unit)


def _quoted(word: str) -> str:
    """Return an argument as systemd reads it: its specifiers and variables are not meant."""
    escaped = word.replace("\\", "\\\\").replace("%", "%%").replace("$", "$$").replace('"', '\\"')
    return escaped if re.fullmatch(r"[A-Za-z0-9_./+@%$:,=-]+", escaped) else f'"{escaped}"'


def _of_the_system() -> Iterator[NewFile]:
    for name, place in (
        ("agent-journal.sysusers.conf", "/etc/sysusers.d/agent-journal.conf"),
        ("agent-journal.tmpfiles.conf", "/etc/tmpfiles.d/agent-journal.conf"),
        ("agent-journal.rules", "/etc/polkit-1/rules.d/50-agent-journal.rules"),
    ):
        yield NewFile(path=Path(place), content=shipped(f"systemd/{name}").read_bytes())


def _told_to_people(layout: Layout) -> Iterator[NewFile]:
    from .completion_scripts import script  # noqa: PLC0415 - imports the module of every command
    from .manual import all_pages  # noqa: PLC0415 - as above

    for name, page in all_pages().items():
        yield NewFile(path=layout.manuals / name, content=page.encode())
    for place, shell in (
        (layout.bash / "agent-journal", "bash"),
        (layout.zsh / "_agent-journal", "zsh"),
        (layout.fish / "agent-journal.fish", "fish"),
    ):
        yield NewFile(path=place, content=script(shell).encode())


def _links(layout: Layout, program: list[str]) -> Iterator[NewFile]:
    """Yield links to the programs where a shell finds them, unless it does already."""
    directory = Path(program[0]).parent
    if len(program) > 1 or directory in ON_EVERY_PATH or directory == layout.programs:
        return
    for name in PROGRAMS:
        if (directory / name).exists():
            yield NewFile(path=layout.programs / name, leads_to=directory / name)
