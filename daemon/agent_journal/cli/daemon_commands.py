"""What to type to have a daemon start or stop here: to be pasted as it is.

One that systemd was told of is systemd's to start.  Where it was not, the program is
named so that this shell finds it: that of a virtual environment is in nobody's PATH.
"""

from __future__ import annotations

import os
import shlex
import shutil
from pathlib import Path
from typing import Final

from .install_files import program_of
from .install_layout import layout_of
from .service_manager import UNITS, ServiceManager

HOST_DIRECTORY: Final = Path("/run/agent-journal")
# Where packages have units, beside those that an installation of ours writes.
UNITS_OF_PACKAGES: Final = ("/usr/lib/systemd", "/etc/systemd")


def how_to_start(named: str) -> str:
    """Return what has a daemon listen at the socket *named*."""
    socket = Path(named).absolute()
    manager = ServiceManager(is_system=socket.parent == HOST_DIRECTORY)
    if _is_default(socket) and _has_unit(manager):
        return _as_its_user(manager.command("start", UNITS[0]), manager)
    return how_to_run(socket)


def how_to_run(socket: Path) -> str:
    """Return what has a daemon listen at *socket* without systemd."""
    if _is_default(socket):
        return f"{shlex.join(_program())} &"
    # Who named a socket may have meant another one.
    return f"{shlex.join([*_program(), '--socket', str(socket)])} &  # or another --socket"


def how_to_stop(pid: str) -> str:
    """Return what stops the daemon *pid*, and keeps systemd from starting it again."""
    if not pid.isdecimal():
        return "pgrep -a agent-journald, and stop that one"
    try:
        groups = Path(f"/proc/{pid}/cgroup").read_text("utf-8")
    except OSError:
        groups = ""  # it has ended, or is not to be looked at
    if UNITS[1] not in groups:
        return f"kill -TERM {pid}"
    manager = ServiceManager(is_system="/user@" not in groups)
    return _as_its_user(manager.command("stop", *UNITS), manager)


def _program() -> list[str]:
    program = program_of("agent-journald")
    return ["agent-journald"] if shutil.which("agent-journald") == program[0] else program


def _as_its_user(command: list[str], manager: ServiceManager) -> str:
    needs_root = manager.is_system and os.geteuid() != 0
    return shlex.join([*(["sudo"] if needs_root else []), *command])


def _is_default(socket: Path) -> bool:
    """Tell whether a daemon of this user's listens there unless it is told otherwise."""
    from ..service.config import default_socket  # noqa: PLC0415 - the daemon's, and only now

    at_the_host = socket.parent == HOST_DIRECTORY
    return at_the_host or socket == default_socket(os.environ, uid=os.geteuid())


def _has_unit(manager: ServiceManager) -> bool:
    """Tell whether systemd runs here and knows of the daemon; asking it would take long."""
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    runs = "/run/systemd/system" if manager.is_system else f"{runtime}/systemd/private"
    if not Path(runs).exists():
        return False
    folder = "system" if manager.is_system else "user"
    places = [layout_of(is_system=manager.is_system).units]
    places += [Path(place) / folder for place in UNITS_OF_PACKAGES]
    return any((place / UNITS[0]).exists() for place in places)
