"""What the demo's agents were told is durable, kept where the daemon cannot reach it.

Each acknowledgement is written down by the one who got it, before it does
anything else.  Afterwards the ledger is held against the journal: the verdict
counts, it assumes nothing.
"""

from __future__ import annotations

import json
import os
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from ..client import Entry


@dataclass(frozen=True, slots=True, kw_only=True)
class Acknowledgement:
    """One entry that the daemon said is durable, and when that was asked and said."""

    agent_id: str
    sequence: int
    position: int
    iteration: int
    event: dict[str, Any]
    duplicate: bool  # the answer to a repeat: it had been recorded by the first try
    asked: float  # of the monotonic clock, which all processes share
    answered: float


class Ledger:
    """The file that one process writes its acknowledgements to; threads may share it."""

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)

    def write(self, acknowledgement: Acknowledgement) -> None:
        """Add a line; one write, so that the lines of threads do not mix."""
        os.write(self._fd, json.dumps(asdict(acknowledgement)).encode() + b"\n")

    def close(self) -> None:
        """Close; may be called twice."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def read_ledger(path: Path) -> list[Acknowledgement]:
    """Return what was written to *path*, in the order of writing."""
    if not path.exists():
        return []
    with path.open(encoding="utf-8") as lines:
        return [Acknowledgement(**json.loads(line)) for line in lines]


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """The journal held against the ledger."""

    acknowledged: int
    found: int  # at the acknowledged place, with equal content
    lost: int  # nothing at that place
    altered: int  # something else at that place
    doubled: int  # recorded more than once
    misplaced: int  # out of order: by sequence, by position, or against the ledger
    unacknowledged: int  # recorded, but nobody was told

    @property
    def is_good(self) -> bool:
        """Tell whether every acknowledged entry is there, once, in order, with equal content."""
        wrong = self.lost + self.altered + self.doubled + self.misplaced
        return 0 < self.acknowledged == self.found and wrong == 0

    def __str__(self) -> str:
        counts = [
            f"{self.acknowledged:,} acknowledged",
            f"{self.found:,} found",
            f"{self.lost:,} lost",
            f"{self.doubled:,} doubled",
        ]
        rare = {
            "altered": self.altered,
            "out of order": self.misplaced,
            "recorded without an acknowledgement": self.unacknowledged,
        }
        return ", ".join(counts + [f"{count:,} {name}" for name, count in rare.items() if count])


def held_against(ledger: Sequence[Acknowledgement], entries: Iterable[Entry]) -> Verdict:
    """Compare what was acknowledged with what the journal holds (each agent's in read order)."""
    journal: dict[str, list[Entry]] = defaultdict(list)
    for entry in entries:
        journal[entry.agent_id].append(entry)
    at_place = {(entry.agent_id, entry.sequence): entry for of in journal.values() for entry in of}
    places = {(known.agent_id, known.sequence) for known in ledger}
    found = [at_place.get((known.agent_id, known.sequence)) for known in ledger]
    equal = [
        entry is not None and _is_equal(known, entry)
        for known, entry in zip(ledger, found, strict=True)
    ]
    return Verdict(
        acknowledged=len(ledger),
        found=sum(equal),
        lost=sum(entry is None for entry in found),
        altered=sum(entry is not None for entry in found) - sum(equal),
        doubled=sum(map(_doubled, journal.values())) + len(ledger) - len(places),
        misplaced=sum(map(_misplaced, journal.values())) + _against_ledger(ledger),
        unacknowledged=len(at_place.keys() - places),
    )


def _is_equal(known: Acknowledgement, entry: Entry) -> bool:
    return (known.position, known.iteration, known.event) == (
        entry.position,
        entry.iteration,
        entry.event,
    )


def _doubled(entries: Sequence[Entry]) -> int:
    """Count repeated contents of one agent; no two events of the demo are equal."""
    contents = {json.dumps([entry.iteration, entry.event], sort_keys=True) for entry in entries}
    return len(entries) - len(contents)


def _misplaced(entries: Sequence[Entry]) -> int:
    """Count entries of one agent that do not stand at 0, 1, 2, … with rising positions."""
    gaps = sum(entry.sequence != place for place, entry in enumerate(entries))
    falls = sum(later.position <= earlier.position for earlier, later in pairwise(entries))
    return gaps + falls


def _against_ledger(ledger: Iterable[Acknowledgement]) -> int:
    """Count acknowledgements that name an earlier place than the agent's previous one did."""
    latest: dict[str, int] = {}
    falls = 0
    for known in ledger:
        falls += known.sequence <= latest.get(known.agent_id, -1)
        latest[known.agent_id] = known.sequence
    return falls
