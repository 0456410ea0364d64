"""The doctor's look at the host: SQLite, the clock, descriptors, systemd, the configuration."""

from __future__ import annotations

import ctypes
import os
import re
import resource
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final

from ..errors import ConfigError
from .finding import Finding, note, well, wrong
from .service_manager import UNITS, ServiceManager, lingers, user_name

if TYPE_CHECKING:
    from ..service.config import Config

SQLITE_MIN: Final = (3, 35, 0)  # RETURNING
# Two connections that write or checkpoint at once can corrupt a WAL database.
WAL_RESET_BUG: Final = ((3, 7, 0), (3, 51, 2))
WAL_RESET_MENDED: Final = frozenset({(3, 44, 6), (3, 50, 7)})
CLOCK_ERROR: Final = 5  # TIME_ERROR, adjtimex(2): not synchronised
TIMEX_BYTES: Final = 512  # struct timex has 208, and grows
SPARE_DESCRIPTORS: Final = 64  # the daemon's own: database, logs, the agents it starts


def look_at_sqlite(version: str, *, is_daemons: bool) -> Finding:
    """Tell whether this SQLite has a bug that the journal has to know of."""
    numbers = tuple(int(part) for part in re.findall(r"\d+", version)[:3])
    whose = "" if is_daemons else " (of this command's Python; the daemon does not answer)"
    if numbers < SQLITE_MIN:
        what = f"{version}{whose} is older than {'.'.join(map(str, SQLITE_MIN))}"
        return wrong("sqlite", what, "a newer Python or libsqlite3", version=version)
    first, last = WAL_RESET_BUG
    if first <= numbers <= last and numbers not in WAL_RESET_MENDED:
        what = (
            f"{version}{whose} can corrupt a WAL database that two connections write to; "
            "the daemon has one, so it is harmless"
        )
        hint = "leave journal.db to the daemon while that runs"
        return note("sqlite", what, hint, version=version)
    return well("sqlite", f"{version}{whose}, no known bug that matters here", version=version)


def look_at_clock(state: int | None = None) -> Finding:
    """Tell whether the host's time can be believed; the journal's order does not depend on it."""
    state = clock_state() if state is None else state
    if state == CLOCK_ERROR:
        what = "not synchronised; entries keep their order, their times may be wrong"
        return note("clock", what, "timedatectl set-ntp true, or the container's host")
    if state < 0:
        return note("clock", "the kernel does not tell whether it is synchronised")
    return well("clock", "synchronised")


def clock_state() -> int:
    """Return what the kernel says of its clock, as adjtimex(2) does; -1 if it may not be asked."""
    adjtimex = ctypes.CDLL(None, use_errno=True).adjtimex
    state: int = adjtimex(ctypes.create_string_buffer(TIMEX_BYTES))
    return state


def look_at_descriptors(pid: int, connections_max: int) -> Finding:
    """Tell whether as many may connect as the configuration says."""
    limit = _limit_of(pid) if pid else None
    whose = "the daemon" if limit is not None else "a daemon started from here"
    if limit is None:
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        limit = limit if limit != resource.RLIM_INFINITY else 1 << 30
    room = limit - SPARE_DESCRIPTORS
    told = f"{whose} may open {limit:,} files; limits.connections_max is {connections_max:,}"
    figures = {"limit": limit, "connections_max": connections_max}
    if room < connections_max:
        hint = "LimitNOFILE= of the service (or ulimit -n), or a lower limits.connections_max"
        return note("files", f"{told}, so only about {max(room, 0):,} connect", hint, **figures)
    return well("files", told, **figures)


def _limit_of(pid: int) -> int | None:
    try:
        limits = Path(f"/proc/{pid}/limits").read_text("ascii")
    except OSError:
        return None
    found = re.search(r"^Max open files +(\d+|unlimited)", limits, re.MULTILINE)
    if found is None:
        return None
    return 1 << 30 if found[1] == "unlimited" else int(found[1])


def database_of_process(pid: int) -> Path | None:
    """Return the database that a daemon has open, where one may look."""
    try:
        entries = [*Path(f"/proc/{pid}/fd").iterdir()]
    except OSError:
        return None
    for entry in entries:
        try:
            name = str(entry.readlink())
        except OSError:  # closed meanwhile
            continue
        if name.endswith("-wal"):
            return Path(name.removesuffix("-wal"))
    return None


def read_configuration(*, is_system: bool) -> tuple[Config, Finding]:
    """Return the configuration that holds, and whether its file is right."""
    from ..service import config as configuration  # noqa: PLC0415 - the daemon's, and only now
    from .install_layout import layout_of  # noqa: PLC0415 - as above

    environ = dict(os.environ)
    if is_system:
        environ["CONFIGURATION_DIRECTORY"] = str(layout_of(is_system=True).configuration)
    path = configuration.default_config_file(environ, uid=os.geteuid())
    try:
        config = configuration.load(None, environ=environ)
    except ConfigError as error:
        problems = str(error).splitlines()
        count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        what = f"{path}: {count}; the daemon would not start with it"
        return configuration.Config(), wrong("config", what, f"agent-journal config check {path}")
    told = "nothing wrong" if path.exists() else "there is none; the defaults hold"
    return config, well("config", f"{path}: {told}", path=str(path))


# --- systemd -------------------------------------------------------------------------


def look_at_systemd(manager: ServiceManager, *, answers: bool) -> Iterator[Finding]:
    """Yield whether systemd runs the daemon, starts it again, and goes on without a session."""
    whose = "systemd" if manager.is_system else "your systemd"
    install = f"agent-journal install {'--system' if manager.is_system else '--user'}"
    if not manager.runs():
        what = f"{whose} does not run here; nothing starts the daemon again when it dies"
        yield note(
            "systemd", what, "in a container, have its supervisor start agent-journald again"
        )
        return
    states = {unit: manager.ask("is-enabled", unit) or "not-found" for unit in UNITS}
    missing = [unit for unit, state in states.items() if state in {"not-found", ""}]
    if missing:
        what = f"{' and '.join(missing)} are not installed, so nothing starts the daemon at boot"
        hint = install if not answers else f"stop the daemon that runs by hand, then {install}"
        yield note("systemd", what, hint)
        return
    disabled = [unit for unit, state in states.items() if state not in {"enabled", "static"}]
    enable = " ".join(manager.command("enable", "--now", *UNITS))
    if disabled:
        told = ", ".join(f"{unit} is {states[unit]}" for unit in disabled)
        yield wrong("systemd", f"{told}: it is not there after a boot", enable)
    else:
        yield from _activity(manager, enable)
    if not manager.is_system:
        yield _linger()


def _activity(manager: ServiceManager, enable: str) -> Iterator[Finding]:
    states = {unit: manager.ask("is-active", unit) or "unknown" for unit in UNITS}
    idle = [unit for unit in UNITS if states[unit] not in {"active", "activating", "reloading"}]
    if not idle:
        yield well("systemd", f"{' and '.join(UNITS)} are enabled and active")
        return
    told = ", ".join(f"{unit} is {states[unit]}" for unit in idle)
    log = " ".join(["journalctl", *([] if manager.is_system else ["--user"]), "-u", UNITS[1]])
    if "failed" in states.values() or UNITS[0] in idle:
        yield wrong("systemd", told, f"{log} says why; then {enable}")
    else:
        yield note("systemd", f"{told}; the first client starts it")


def _linger() -> Finding:
    if lingers(os.getuid()):
        return well("linger", "the service runs without a session of yours")
    what = "the service, and the agents it started, end with your last session"
    return note("linger", what, f"loginctl enable-linger {user_name(os.getuid())}")
