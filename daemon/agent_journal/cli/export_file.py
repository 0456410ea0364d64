"""An exported file, read: checked to its end first, and then taken apart into pages.

A file that was cut off or changed is refused before anything of it is sent.
However large it is, only a page of it is held in memory.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, BinaryIO, Final

from ..errors import MalformedError
from .failures import CommandError, ExitCode
from .progress import Progress
from .raw_json import INT_DIGITS_MAX, object_members

LINE_BYTES_MAX: Final = 64 << 20  # more than any daemon takes; bounds our memory
PAGE_ENTRIES: Final = 512
PAGE_BYTES: Final = 256 * 1024
FORMAT: Final = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Contents:
    """What a file holds."""

    agents: int
    entries: int
    has_uids: bool = False
    renumbered: int = 0  # entries whose sequence was not what it should have been


@dataclass(slots=True, kw_only=True)
class Page:
    """Neighbouring entries of an agent, as they are sent."""

    agent_id: str
    agent: str  # the agent's own JSON text
    uid: int | None = None
    entries: list[str] = field(default_factory=list)
    size: int = 0
    at: int = 0  # how far in the file this is

    def add(self, text: str) -> None:
        """Add an entry's JSON text."""
        self.entries.append(text)
        self.size += len(text)

    @property
    def is_full(self) -> bool:
        """Tell whether it should be sent before more is added."""
        return len(self.entries) >= PAGE_ENTRIES or self.size >= PAGE_BYTES


def unusable(what: str) -> CommandError:
    """Return the error for a file that is not what it should be."""
    return CommandError(what, "export it again; nothing of this file was imported", ExitCode.USAGE)


class ExportFile:
    """A file that ``agent-journal export`` wrote."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream

    def check(self, progress: Progress) -> Contents:
        """Read the file to its end; return what it holds.

        Raises:
            CommandError: it is not whole; names the line.
        """
        check = _Check()
        for number, line in enumerate(self._lines(), 1):
            progress.at(self._stream.tell())
            try:
                check.take(line)
            except (MalformedError, CommandError) as error:
                what = error.failure.what if isinstance(error, CommandError) else error.message
                raise unusable(f"line {number} of the file: {what}") from None
        if not check.has_ended:
            raise unusable(
                "the file is cut off: its last line, which counts the others, is not there"
            )
        return Contents(agents=check.agents, entries=check.entries, has_uids=check.has_uids)

    def pages(self) -> Iterator[Page]:
        """Yield what the file holds, in its order."""
        page: Page | None = None
        for line in self._lines():
            text = line.decode().rstrip("\r\n")
            fields = decoded(text)
            if "sequence" in fields and page is not None:
                page.add(text)
                if not page.is_full:
                    continue
            if page is not None and page.entries:
                page.at = self._stream.tell()
                yield page
                page = Page(agent_id=page.agent_id, agent=page.agent, uid=page.uid)
            if "agent" in fields:
                agent = object_members(text)["agent"].text
                page = Page(
                    agent_id=fields["agent"]["agent_id"], agent=agent, uid=fields.get("uid")
                )

    def _lines(self) -> Iterator[bytes]:
        self._stream.seek(0)
        while line := self._stream.readline(LINE_BYTES_MAX):
            yield line


class _Check:
    """Follows the lines of a file."""

    def __init__(self) -> None:
        self.agents = 0
        self.entries = 0
        self.has_uids = False
        self.has_begun = False
        self.has_ended = False
        self._left = 0  # entries of the agent that are still to come
        self._next = 0
        self._hash = hashlib.sha256()

    def take(self, line: bytes) -> None:
        """Take the next line.

        Raises:
            CommandError: it can't stand there.
        """
        if not line.endswith(b"\n") or self.has_ended:
            raise unusable("the file is cut off here, or goes on behind its end")
        fields = decoded(line)
        if not self.has_begun:
            self._begin(fields)
        elif "sequence" in fields:
            self._entry(fields)
        elif self._left:
            raise unusable(f"{self._left} more entries of the agent should stand here")
        elif "agent" in fields:
            self._agent(fields)
        elif "end" in fields:
            self._end(fields["end"])
        else:
            raise unusable("it is neither an agent nor an entry")
        self._hash.update(line)

    def _begin(self, fields: dict[str, Any]) -> None:
        told = fields.get("export")
        if not isinstance(told, dict):
            raise unusable("it is no export of a journal's agents")
        if told.get("format") != FORMAT:
            raise unusable(
                f"it is of format {told.get('format')}, and this agent-journal knows {FORMAT}"
            )
        self.has_begun = True

    def _agent(self, fields: dict[str, Any]) -> None:
        agent = fields["agent"]
        if not isinstance(agent, dict) or not isinstance(agent.get("agent_id"), str):
            raise unusable("the agent has no agent_id")
        total = agent.get("entries")
        if not isinstance(total, int) or total < 1:
            raise unusable('the agent\'s "entries" is not a number from 1 up')
        self.agents += 1
        self.has_uids = self.has_uids or "uid" in fields
        self._left, self._next = total, 0

    def _entry(self, fields: dict[str, Any]) -> None:
        if not self._left or fields["sequence"] != self._next:
            raise unusable(f"entry {fields['sequence']} does not follow what is before it")
        self.entries += 1
        self._left -= 1
        self._next += 1

    def _end(self, told: Any) -> None:  # noqa: ANN401 - anything may stand there
        if not isinstance(told, dict) or (told.get("agents"), told.get("entries")) != (
            self.agents,
            self.entries,
        ):
            raise unusable("it counts other agents and entries than there are")
        if told.get("sha256", self._hash.hexdigest()) != self._hash.hexdigest():
            raise unusable(
                "the file was changed: it has not the SHA-256 that it was written with "
                '(where that was on purpose, take "sha256" out of this line)'
            )
        self.has_ended = True


def decoded(text: str | bytes) -> dict[str, Any]:
    """Return the JSON object *text*, of which only our own members are looked at.

    Raises:
        CommandError: it is none.
    """
    try:
        fields = _decode(text if isinstance(text, str) else text.decode())
    except (ValueError, RecursionError) as error:
        raise unusable(f"not JSON: {error}") from None
    if not isinstance(fields, dict):
        raise unusable("not a JSON object")
    return fields


def _int(digits: str) -> int:
    return int(digits) if len(digits) <= INT_DIGITS_MAX else -1


_decode: Final = json.JSONDecoder(parse_int=_int).decode
