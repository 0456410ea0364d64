"""systemd, as its own tools tell of it: of the host, or of one user."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
from pathlib import Path
from typing import Final

UNITS: Final = ("agent-journald.socket", "agent-journald.service")
ANSWER_S: Final = 10.0  # what only asks
LINGER: Final = Path("/var/lib/systemd/linger")


class ServiceManager:
    """The systemd that runs our units."""

    def __init__(self, *, is_system: bool) -> None:
        self.is_system: Final = is_system

    def command(self, *arguments: str) -> list[str]:
        """Return the command line that tells it *arguments*."""
        return ["systemctl", *([] if self.is_system else ["--user"]), *arguments]

    def ask(self, *arguments: str) -> str | None:
        """Return what it says, be it "no"; ``None`` where it cannot be asked."""
        return answer_of(self.command(*arguments))

    def runs(self) -> bool:
        """Tell whether it is there to be asked."""
        return bool(self.ask("show", "--property=Version", "--value"))


def answer_of(command: list[str]) -> str | None:
    """Return what a command prints, without the last line's end; ``None`` where it cannot run."""
    program = shutil.which(command[0])
    if program is None:
        return None
    try:
        done = subprocess.run(  # noqa: S603 - systemd's own tools
            [program, *command[1:]],
            capture_output=True,
            check=False,
            timeout=ANSWER_S,
            stdin=subprocess.DEVNULL,
            env={**os.environ, "LC_ALL": "C", "SYSTEMD_PAGER": "", "SYSTEMD_COLORS": "0"},
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.decode("utf-8", "replace").strip()


def user_name(uid: int) -> str:
    """Return a user's name, or the number where nobody gave it one."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def lingers(uid: int, directory: Path = LINGER) -> bool:
    """Tell whether a user's services run while the user is not logged in."""
    return (directory / user_name(uid)).exists()
