"""Journals of agents, to be told: entries as the client gives them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from agent_journal.client import Entry

BEGIN = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


class Story:
    """Entries of one agent, a second apart."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []

    def add(self, event: str, /, *, iteration: int = 0, **payload: object) -> Story:
        sequence = len(self.entries)
        self.entries.append(
            Entry(
                sequence=sequence,
                position=100 + sequence,
                timestamp=BEGIN + timedelta(seconds=sequence),
                agent_id="a",
                iteration=iteration,
                event={event: payload},
            )
        )
        return self

    def attempt(self, number: int, *, launched: bool = False) -> Story:
        return self.add(
            "AttemptStarted", attempt=number, epoch=number, launched=launched, pid=100 + number
        )

    def ended(self, number: int, how: str = "lost", **more: object) -> Story:
        return self.add("AttemptEnded", attempt=number, how=how, **more)

    def began(self, key: str, effect: str = "unsafe") -> Story:
        return self.add(
            "StepStarted",
            key=key,
            name=key,
            input_hash=f"h-{key}",
            effect=effect,
            idempotency_key=f"i-{key}",
        )

    def done(self, key: str, result: object = None, **more: object) -> Story:
        payload = {"key": key, "name": key, "input_hash": f"h-{key}", "result": result, **more}
        return self.add("StepCompleted", **payload)

    def failed(self, key: str, message: str = "no luck") -> Story:
        error = {"type": "ValueError", "message": message}
        return self.add("StepFailed", key=key, name=key, input_hash=f"h-{key}", error=error)

    def step(self, key: str, result: object = None, **more: object) -> Story:
        return self.began(key).done(key, result, **more)


def wire(entries: Sequence[Entry]) -> list[dict[str, Any]]:
    """Return entries as the daemon sends them."""
    return [
        {
            "sequence": entry.sequence,
            "position": entry.position,
            "timestamp": entry.timestamp.isoformat(timespec="microseconds").replace("+00:00", "Z"),
            "agent_id": entry.agent_id,
            "iteration": entry.iteration,
            "event": entry.event,
        }
        for entry in entries
    ]


def page(story: Story) -> Mapping[str, Any]:
    """Return the reply that gives all of *story*."""
    entries = wire(story.entries)
    return {"entries": entries, "next_sequence": len(entries), "more": False}


def killed_twice() -> Story:
    """Two finished steps, one cut off and run again, one in doubt."""
    story = Story()
    story.attempt(1).step("plan", {"n": 3}, usage={"input_tokens": 100, "output_tokens": 20})
    story.began("search", "idempotent").ended(1, "signalled", signal="SIGKILL")
    story.attempt(2, launched=True).began("search", "idempotent").done("search", [1, 2])
    story.began("write").failed("write")
    story.began("send", "unsafe").ended(2, "exited", exit_code=3, stderr="Traceback\nboom\n")
    return story
