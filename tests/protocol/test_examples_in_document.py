"""docs/PROTOCOL.md is what the daemon does: its examples are played, its tables compared.

Every fenced block with arrows is a talk; the document's second paragraph tells
how it is written.  The blocks are played in order against one fresh daemon.
What stands in a reply is compared to the letter, but for the members in
``VARYING`` (of an event only ``pid``), timestamps that no request gave, and
"…".  Positions may differ
from the document's, but the same one is the same throughout, and their order
is the document's.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final

import pytest

from agent_journal.errors import ERRORS, ConnectionLostError
from agent_journal.testing.daemon import RawConnection, RunningDaemon
from protocol.patterns import Matcher, Mismatch

VARYING: Final[Mapping[str, str]] = {
    "uid": "$integer:uid",
    "version": "$string:version",
    "boot_id": "$string:boot_id",
    "pid": "$integer:pid",  # of the test, which is all of the document's clients
    "created_at": "$timestamp",
    "updated_at": "$timestamp",
}
POSITIONS: Final = frozenset({"position", "first_position", "from_position", "begins_at"})

_LINE: Final = re.compile(r"(?:(\w+) )?([→←]) (.*)")


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a talk, and where the document has it."""

    number: int
    connection: str
    is_request: bool
    text: str


def talks_in(document: str) -> Iterator[list[Line]]:
    """Yield the talk of each fenced block that holds one."""
    for block in re.finditer(r"^```\w*\n(.*?)^```$", document, re.DOTALL | re.MULTILINE):
        first = document.count("\n", 0, block.start(1)) + 1
        if "→" in block[1]:
            yield list(lines_in(block[1], first))


def lines_in(block: str, first: int) -> Iterator[Line]:
    """Yield the lines of a talk; what begins with spaces belongs to the line before."""
    for piece in re.finditer(r"^\S.*\n(?:[ ]+\S.*\n)*", block, re.MULTILINE):
        number = first + block.count("\n", 0, piece.start())
        text = " ".join(part.strip() for part in piece[0].splitlines())
        found = _LINE.fullmatch(text)
        assert found, f"line {number} is neither a request nor a reply: {text}"
        yield Line(number, found[1] or "", found[2] == "→", found[3])


def play(talk: list[Line], daemon: RunningDaemon, matcher: Matcher) -> None:
    """Send the requests of one block and compare what comes back."""
    given = re.findall(r'"timestamp":"([^"]*)"', "".join(x.text for x in talk if x.is_request))
    with ExitStack() as stack:
        connections: dict[str, RawConnection] = {}
        for line in talk:
            if line.connection not in connections:
                connections[line.connection] = stack.enter_context(daemon.connect())
            connection = connections[line.connection]
            if line.is_request:
                connection.send_line(request_of(line.text, matcher))
                continue
            reply = connection.reply()
            pattern = pattern_of(json.loads(line.text), is_literal_time=bool(given))
            try:
                matcher.match(pattern, reply)
            except Mismatch as problem:
                raise Mismatch(f"PROTOCOL.md, line {line.number}: {problem}") from None


def request_of(text: str, matcher: Matcher) -> str:
    """Return a request with the document's positions replaced by the daemon's."""

    def actual(found: re.Match[str]) -> str:
        return found[1] + str(matcher.kept[f"position-{found[2]}"])

    return re.sub(r'("from_position":|"after":)(\d+)', actual, text)


def pattern_of(example: Any, *, is_literal_time: bool, name: str = "") -> Any:  # noqa: PLR0911
    """Return what a reply must match to be as in the document."""
    if name in POSITIONS:
        return f"$integer:position-{example}"
    if name in VARYING:
        return VARYING[name]
    if name == "timestamp" and not is_literal_time:
        return "$timestamp"
    if example == "…":
        return "$string"
    if isinstance(example, list):
        return [pattern_of(value, is_literal_time=is_literal_time) for value in example]
    if name == "event":
        return event_of(example)
    if not isinstance(example, dict):
        return example
    return {
        "..." if inner == "…" else inner: pattern_of(
            value, is_literal_time=is_literal_time, name=inner
        )
        for inner, value in example.items()
    }


def event_of(example: Any) -> Any:
    """Return an event to the letter, but for the pid."""
    if not isinstance(example, dict):
        return example
    return {
        name: VARYING["pid"] if name == "pid" else event_of(value)
        for name, value in example.items()
    }


def test_every_example_is_what_the_daemon_answers(document: str, daemon: RunningDaemon) -> None:
    matcher = Matcher()
    for talk in talks_in(document):
        play(talk, daemon, matcher)
    positions = {
        int(name.removeprefix("position-")): value
        for name, value in matcher.kept.items()
        if name.startswith("position-")
    }
    actual = [positions[documented] for documented in sorted(positions)]
    assert len(actual) > 1
    assert all(earlier < later for earlier, later in pairwise(actual))


def test_an_example_that_is_wrong_is_found(document: str, daemon: RunningDaemon) -> None:
    """The test above can fail: one altered value in one reply is told, with its line."""
    first = next(talks_in(document))
    wrong = [
        Line(line.number, line.connection, line.is_request, line.text.replace("1388", "1389"))
        if not line.is_request
        else line
        for line in first
    ]
    with pytest.raises(Mismatch, match=rf"line {first[-1].number}: .*1388"):
        play(wrong, daemon, Matcher())


def test_every_operation_has_an_example(document: str) -> None:
    described = set(re.findall(r"^### `(\w+)`$", document, re.MULTILINE))
    shown = {
        name
        for talk in talks_in(document)
        for line in talk
        if line.is_request
        for name in re.findall(r'"op":"(\w+)"', line.text)
    }
    assert described >= {"hello", "append", "read", "describe", "agents", "compact", "tail"}
    assert described <= shown


def test_the_table_of_errors_is_the_one_in_the_code(document: str) -> None:
    """Codes, ``retryable`` and ``outcome`` agree, in both directions."""
    section = document.partition("\n## Errors\n")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| `(\w+)` \| (yes|no) \| `(\w+)` \|", section, re.MULTILINE)
    documented = {code: (retryable == "yes", outcome) for code, retryable, outcome in rows}
    assert len(documented) == len(rows), "a code is in the table twice"
    assert documented == {
        code: (kind.retryable, kind.outcome.value)
        for code, kind in ERRORS.items()
        if kind is not ConnectionLostError  # the client's own: the daemon can't send it
    }


def test_every_error_in_an_example_is_rendered_as_the_table_says(document: str) -> None:
    for talk in talks_in(document):
        for line in talk:
            error = {} if line.is_request else json.loads(line.text).get("error", {})
            if error:
                kind = ERRORS[error["code"]]
                assert error["retryable"] == kind.retryable, line
                assert error["outcome"] == kind.outcome, line
