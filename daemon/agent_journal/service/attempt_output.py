"""Where attempts leave their traces: a directory each, for the last few of each agent.

    attempts/<uid>/<agent id>/<attempt>/{process.json, status.json, stdout, stderr, …}

``attempt_keeper`` writes them and says what is in each.  An id is a valid name
of a directory as it stands (``model.is_agent_id``), so that a person finds them.
What is read here was written by an agent: it is bounded, and cleaned of what
would drive a terminal.
"""

from __future__ import annotations

import marshal
import os
import re
import shutil
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Literal

import msgspec

from ..errors import InvalidError
from ..model import AgentId, Uid, is_agent_id

STDERR_BYTES_MAX: Final = 4096
"""How much of the end of stderr goes into the journal."""

AGENTS_KEPT_MAX: Final = 1000
"""Of how many agents that do not run there are traces; the oldest go first."""

_LOOK_EVERY: Final = 100  # new agents: looking at all directories takes a while
_LOOK_AT: Final = 1

_ESCAPES: Final = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)|\x1b.?")
_CONTROLS: Final = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


class ProcessFile(msgspec.Struct, frozen=True):
    """Who was started, and who keeps it."""

    sequence: int  # where the attempt began: its number may come again
    pid: int | None  # none: its keeper is just starting it
    keeper_pid: int
    boot_id: str
    start_time: int | None = None
    keeper_start_time: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How an attempt ended."""

    how: Literal["exited", "signalled", "lost", "launch_failed"]
    exit_code: int | None = None
    signal: str | None = None
    stderr: str = ""

    def with_note(self, note: str) -> Outcome:
        """Return it with a word of the daemon's at the end of what the agent wrote."""
        return replace(self, stderr=cleaned(f"{self.stderr}\n{note}"))

    def __str__(self) -> str:
        if self.how == "exited":
            return f"exited with status {self.exit_code}"
        if self.how == "signalled":
            return f"was killed by {self.signal}"
        return "could not be started" if self.how == "launch_failed" else "was lost"


class _Status(msgspec.Struct, frozen=True):
    exit_code: int | None = None
    signal: str | None = None
    launch_failed: str | None = None


class AttemptFiles:
    """The directories of attempts below one place."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._new_agents = 0
        # Of whom there is anything; only this daemon makes directories here.
        self._known: set[tuple[int, str]] | None = None

    def directory(self, uid: Uid, agent_id: AgentId, attempt: int) -> Path:
        """Return where the traces of an attempt are, or would be."""
        if not is_agent_id(agent_id):  # it becomes a path
            raise InvalidError("an agent's id is not valid", field="agent_id")
        return self.root / str(int(uid)) / agent_id / str(int(attempt))

    def prepare(
        self, uid: Uid, agent_id: AgentId, attempt: int, spec: dict[str, object], *, kept: int
    ) -> Path:
        """Make the directory of an attempt that is about to begin; drop older ones.

        Raises:
            OSError: it cannot be made.
        """
        directory = self.directory(uid, agent_id, attempt)
        if not directory.parent.exists():
            self._make_room()
        else:
            self._drop_old(directory.parent, kept - 1)
        if directory.exists():  # of an agent that was compacted and began again
            shutil.rmtree(directory)
        directory.mkdir(mode=0o700, parents=True)
        if self._known is not None:
            self._known.add((uid, agent_id))
        descriptor = os.open(
            directory / "spec", os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600
        )
        with os.fdopen(descriptor, "wb") as file:
            marshal.dump(spec, file)
        return directory

    def _make_room(self) -> None:
        self._new_agents += 1
        if self._new_agents % _LOOK_EVERY != _LOOK_AT:
            return
        ended = [
            (agent.stat().st_mtime_ns, agent)
            for agent in self._agents()
            if all((attempt / "status.json").exists() for attempt in _entries(agent))
        ]
        ended.sort()
        for _, agent in ended[: max(len(ended) - AGENTS_KEPT_MAX, 0)]:
            self._drop(agent)

    def has_any(self, uid: Uid, agent_id: AgentId) -> bool:
        """Tell whether anything is there of an agent: of most, no attempt was ever launched.

        Asked for each agent that a start finds, so they are looked for once, all together.
        """
        if self._known is None:
            known = self._known = set()  # before the look: who prepares meanwhile adds to it
            known.update(map(_name_of, self._agents()))
        return (uid, agent_id) in self._known

    def _agents(self) -> list[Path]:
        owners = [path for path in _entries(self.root) if path.name.isdecimal()]
        return [agent for owner in owners for agent in _entries(owner)]

    def _drop(self, agent: Path) -> None:
        shutil.rmtree(agent, ignore_errors=True)
        if self._known is not None:
            self._known.discard(_name_of(agent))

    def attempts(self, uid: Uid, agent_id: AgentId) -> list[Path]:
        """Return the directories of an agent's attempts that are kept."""
        kept = _entries(self.directory(uid, agent_id, 0).parent)
        return [path for path in kept if path.name.isdigit()]

    def remove(self, uid: Uid, agent_id: AgentId) -> None:
        """Remove all traces of an agent."""
        self._drop(self.directory(uid, agent_id, 0).parent)

    @staticmethod
    def _drop_old(agent: Path, kept: int) -> None:
        numbered = sorted(
            (path for path in _entries(agent) if path.name.isdigit()),
            key=lambda path: path.stat().st_mtime_ns,
        )
        for path in numbered[: max(len(numbered) - kept, 0)]:
            shutil.rmtree(path, ignore_errors=True)


def _name_of(agent: Path) -> tuple[int, str]:
    return int(agent.parent.name), agent.name


def _entries(directory: Path) -> list[Path]:
    try:
        return [path for path in directory.iterdir() if path.is_dir()]
    except OSError:
        return []


def process_of(directory: Path) -> ProcessFile | None:
    """Return who was, or is just being, started for an attempt, if anybody is."""
    # In this order, and the first once more: what is under way moves from one to the other.
    for name in ("process.json", "keeper.json", "process.json"):
        with suppress(OSError, msgspec.MsgspecError):
            return msgspec.json.decode((directory / name).read_bytes(), type=ProcessFile)
    return None


def withdraw(directory: Path) -> None:
    """Have no keeper begin an attempt that was asked for, and of which there is nobody yet."""
    with suppress(OSError):
        (directory / "spec").unlink()


def outcome_of(directory: Path) -> Outcome | None:
    """Return how an attempt ended, if it has and its keeper could say so."""
    try:
        status = msgspec.json.decode((directory / "status.json").read_bytes(), type=_Status)
    except (OSError, msgspec.MsgspecError):
        return None
    stderr = stderr_end(directory)
    if status.launch_failed is not None:
        return Outcome(how="launch_failed", stderr=cleaned(status.launch_failed))
    if status.signal is not None:
        return Outcome(how="signalled", signal=status.signal, stderr=stderr)
    return Outcome(how="exited", exit_code=status.exit_code, stderr=stderr)


def stderr_end(directory: Path) -> str:
    """Return the last lines that an attempt wrote to stderr."""
    try:
        with (directory / "stderr").open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(size - STDERR_BYTES_MAX, 0))
            data = file.read(STDERR_BYTES_MAX)
    except OSError:
        return ""
    if size > STDERR_BYTES_MAX:
        data = data.partition(b"\n")[2] or data  # begin with a whole line
    return cleaned(data.decode(errors="replace"))


def cleaned(text: str) -> str:
    """Take out of *text* what a terminal would obey, and keep what fits into an entry."""
    text = _CONTROLS.sub("", _ESCAPES.sub("", text.replace("\r\n", "\n"))).strip("\n")
    encoded = text.encode(errors="replace")
    if len(encoded) > STDERR_BYTES_MAX:  # characters that were replaced grew
        text = encoded[-STDERR_BYTES_MAX:].decode(errors="ignore")
    return text
