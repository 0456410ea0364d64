"""The doctor's look at the daemon: its socket, whether it answers, and who waits for a person."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from .. import __version__
from ..clock import Clock
from ..errors import JournalError
from .connection import client_for
from .failures import FAILURES, failure_of
from .finding import Finding, note, well, wrong

if TYPE_CHECKING:
    from ..client import Client

ANSWER_S: Final = 5.0
LOOKED_AT_MAX: Final = 10  # parked agents whose story is read for steps in doubt
NAMED_MAX: Final = 3
BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")
OTHERS_WRITE: Final = stat.S_IWGRP | stat.S_IWOTH


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What the daemon says of itself."""

    version: str
    pid: int
    sqlite_version: str
    boot_id: str


def why_there(named: str | None) -> str:
    """Return which rule led to the socket."""
    from ..client._discovery import HOST_SOCKET, SOCKET_VARIABLE  # noqa: PLC0415 - the client's

    if named is not None:
        return "named by --socket"
    if os.environ.get(SOCKET_VARIABLE):
        return f"named by ${SOCKET_VARIABLE}"
    found = _found()
    if found == HOST_SOCKET:
        return "the host's" if os.geteuid() == 0 else "the host's; you have none of your own"
    return "in $XDG_RUNTIME_DIR" if os.environ.get("XDG_RUNTIME_DIR") else "yours, below /tmp"


def _found() -> str:
    from ..client import find_socket  # noqa: PLC0415 - imported when there is something to ask

    return str(find_socket())


def look_at_socket(path: Path, why: str, start: str) -> Finding:
    """Tell whether there is a socket that only those may use who should."""
    told = f"{path} ({why})"
    try:
        status = path.stat()
    except FileNotFoundError:
        return wrong("socket", f"there is none at {told}", start)
    except OSError as error:
        return wrong("socket", f"{told}: {error.strerror}", f"ls -ld {path.parent}; ask its owner")
    if not stat.S_ISSOCK(status.st_mode):
        return wrong("socket", f"{told} is no socket", f"move {path} away, or another --socket")
    mode = f"{stat.S_IMODE(status.st_mode):04o}"
    if not os.access(path, os.W_OK):
        what = f"{told}, mode {mode}: you may not connect"
        return wrong("socket", what, "join its group: sudo usermod -aG agents $USER, log in again")
    around = path.parent.stat()
    is_shared = around.st_mode & OTHERS_WRITE and not around.st_mode & stat.S_ISVTX
    if is_shared or around.st_uid not in {0, status.st_uid}:
        what = f"{told}: others may put another socket in its place"
        return wrong("socket", what, f"chmod go-w {path.parent}, or another place for the socket")
    return well("socket", f"{told}, mode {mode}", path=str(path), mode=mode)


def look_at_daemon(journal: Client, start: str) -> tuple[list[Finding], Answer | None]:
    """Tell whether the daemon answers, and which one it is."""
    clock = Clock()
    try:
        journal.ping()  # connects
        began = clock.monotonic()
        journal.ping()
        took_ms = (clock.monotonic() - began) * 1000
        hello, stats = journal.call({"op": "hello"}), journal.call({"op": "stats"})
    except (JournalError, OSError) as error:
        return [_no_answer(error, start)], None
    answer = Answer(
        version=str(hello.get("version")),
        pid=_number(stats.get("pid")),
        sqlite_version=str(stats.get("sqlite_version", "")),
        boot_id=str(hello.get("boot_id", "")),
    )
    told = f"answers in {took_ms:.1f} ms" + (f", pid {answer.pid}" if answer.pid else "")
    findings = [well("daemon", told, pid=answer.pid, answer_ms=round(took_ms, 3))]
    return [*findings, _versions(answer.version), *_state(journal), *_boot(answer)], answer


def _no_answer(error: Exception, start: str) -> Finding:
    code = getattr(error, "code", "")
    if code == "daemon_not_running":
        return wrong("daemon", "none answers", start)
    if code not in FAILURES:
        what = f"{getattr(error, 'message', None) or error} ({code or 'failed'})"
        return wrong("daemon", what, "agent-journal ping, and the daemon's log")
    failure = failure_of(error, command="doctor", agent="ID")
    return wrong("daemon", failure.what, failure.hint)


def _number(value: object) -> int:
    return value if isinstance(value, int) else 0


def _versions(daemon: str) -> Finding:
    if daemon == __version__:
        return well("version", f"{daemon} on both sides", daemon=daemon, client=__version__)
    what = f"the daemon is {daemon}, this command {__version__}"
    hint = "restart the daemon after an update: systemctl --user restart agent-journald.service"
    return note("version", what, hint, daemon=daemon, client=__version__)


def _state(journal: Client) -> Iterator[Finding]:
    """Yield what keeps the daemon from serving; a sound one is looked at by verify."""
    try:
        journal.call({"op": "agents", "limit": 1})
    except JournalError as error:
        code = str(error.details.get("code", error.code))
        hint = FAILURES.get(code, (0, "the daemon's log"))[1]
        yield wrong("journal", f"{error.message} ({code})", hint.format(command="ls", agent="ID"))


def _boot(answer: Answer) -> Iterator[Finding]:
    try:
        ours = BOOT_ID.read_text("ascii").strip()
    except OSError:
        return
    if not answer.boot_id:
        return
    if answer.boot_id != ours:
        what = "the daemon sees another boot id than this command: one of them is in a container"
        yield note("boot", what, boot_id=answer.boot_id)
    else:
        yield well("boot", f"boot id {ours}, as the daemon has it", boot_id=ours)


# --- who waits for a person ----------------------------------------------------------


def look_at_agents(journal: Client) -> Iterator[Finding]:
    """Yield whom nobody resumes until a person has decided."""
    try:
        parked = journal.call({"op": "agents", "state": "parked", "limit": 1000, "order": "newest"})
        ids = [str(agent["agent_id"]) for agent in parked["agents"]]
        doubtful = [one for one in ids[:LOOKED_AT_MAX] if _is_in_doubt(journal, one)]
    except JournalError:
        return  # it has been told already
    if not ids:
        yield well("agents", "none is parked", parked=0)
        return
    count = f"{len(ids):,}{' or more' if parked.get('more') else ''}"
    are = "agent is" if len(ids) == 1 else "agents are"
    what = f"{count} {are} parked: {_named(ids)}"
    yield note("agents", what, f"agent-journal why {ids[0]}", parked=len(ids))
    if doubtful:
        what = f"a step is in doubt in {_named(doubtful)}"
        hint = f"agent-journal why {doubtful[0]}, then agent-journal decide"
        yield note("steps", what, hint, agents=doubtful)


def _is_in_doubt(journal: Client, agent_id: str) -> bool:
    from .timeline import tell  # noqa: PLC0415 - only where somebody is parked

    return bool(tell(journal.read(agent_id), is_owned=False).in_doubt)


def _named(ids: list[str]) -> str:
    more = f" and {len(ids) - NAMED_MAX:,} more" if len(ids) > NAMED_MAX else ""
    return ", ".join(ids[:NAMED_MAX]) + more


def journal_for(path: Path) -> Client:
    """Return a client that asks once."""
    return client_for(path, retry_s=0, silence_s=ANSWER_S)
