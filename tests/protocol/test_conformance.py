"""The daemon answers as the language-neutral scripts in conformance/ say.

README.md beside this file tells how they are written.
"""

from __future__ import annotations

import base64
import json
import uuid
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from agent_journal.testing.daemon import RawConnection, RunningDaemon
from protocol.patterns import Matcher, Mismatch

SCRIPTS = Path(__file__).parent / "conformance"

Steps = list[tuple[int, dict[str, Any]]]


def cases() -> Iterator[Any]:
    """Yield each case of each script: its steps with their line numbers."""
    for path in sorted(SCRIPTS.glob("*.ndjson")):
        steps: Steps = []
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            if not line:
                continue
            step = json.loads(line)
            if "case" in step:
                steps = []
                yield pytest.param(path.name, steps, id=f"{path.stem}: {step['case']}")
            else:
                steps.append((number, step))


class Player:
    """Plays one case: sends what it is told and compares what comes back."""

    def __init__(self, daemon: RunningDaemon, stack: ExitStack) -> None:
        self._daemon = daemon
        self._stack = stack
        self._connections: dict[str, RawConnection] = {}
        self._matcher = Matcher(agent=f"agent-{uuid.uuid4().hex[:12]}")

    def play(self, step: dict[str, Any]) -> None:
        """Do one step.

        Raises:
            Mismatch: the daemon answered something else.
        """
        name = step.get("on", "")
        if name not in self._connections:
            self._connections[name] = self._stack.enter_context(self._daemon.connect())
        connection = self._connections[name]
        match step:
            case {"send": line}:
                connection.send_line(self._matcher.fill(line))
            case {"send_base64": data}:
                connection.send(base64.b64decode(data))
            case {"send_filled": [before, piece, times, after]}:
                line = self._matcher.fill(before) + piece * times + after
                connection.send(line.encode() + (b"\n" if step.get("newline", True) else b""))
            case {"shutdown": True}:
                connection.shutdown_write()
            case {"expect": pattern}:
                self._expect(connection, pattern, step.get("holds", ""))
            case {"expect_end": True}:
                if rest := connection.rest():
                    raise Mismatch(f"more replies than expected: {rest}")
            case _:
                raise ValueError(f"no such step: {step}")

    def problem_with(self, step: dict[str, Any]) -> str | None:
        """Do one step; return what was wrong, if anything."""
        try:
            self.play(step)
        except (Mismatch, OSError, EOFError) as problem:
            return str(problem)
        return None

    def _expect(self, connection: RawConnection, pattern: object, holds: str) -> None:
        line = connection.line()
        self._matcher.match(pattern, json.loads(line))
        if holds.encode() not in line:
            raise Mismatch(f"the reply does not hold {holds}: {line.decode()}")


@pytest.fixture(scope="module")
def used_daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningDaemon]:
    """One daemon for all cases: a script may be played against a daemon in use."""
    with RunningDaemon(tmp_path_factory.mktemp("conformance")) as running:
        yield running


@pytest.mark.parametrize(("script", "steps"), list(cases()))
def test_the_daemon_answers_as_the_script_says(
    script: str, steps: Steps, used_daemon: RunningDaemon
) -> None:
    assert steps
    with ExitStack() as stack:
        player = Player(used_daemon, stack)
        for number, step in steps:
            problem = player.problem_with(step)
            if problem is not None:
                pytest.fail(f"{script}, line {number}: {problem}", pytrace=False)


def test_a_script_that_is_wrong_is_found(used_daemon: RunningDaemon) -> None:
    """The test above can fail: on a wrong value, on a missing text, and on a missing reply."""
    with ExitStack() as stack:
        player = Player(used_daemon, stack)
        player.play({"send": {"id": 1, "op": "ping"}})
        with pytest.raises(Mismatch):
            player.play({"expect": {"id": 2, "ok": True}})
        player.play({"send": {"id": 1, "op": "ping"}})
        with pytest.raises(Mismatch):
            player.play({"expect": {"id": 1, "ok": True}, "holds": "1.0"})
        player.play({"send": {"id": 1, "op": "ping"}})
        player.play({"shutdown": True})
        with pytest.raises(Mismatch):
            player.play({"expect_end": True})
