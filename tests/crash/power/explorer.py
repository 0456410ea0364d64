"""Starts a daemon's recovery on the disks that a power cut could have left, and judges it.

Two questions are asked of each disk.  Is the journal one of those that there ever
were, at or behind what had been answered by the moment of the cut?  And does a
second recovery find the same?  The journals that there ever were are those that
a crash without a power cut would have left, one after the other, which is what
the kill tests look at; so nothing here has to foretell what a request does.

A recovery ends in a file, and thousands of disks end in the same one: it is read
once, every way there is.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from agent_journal.model import AgentId, Uid
from agent_journal.store.sqlite import SqliteStore
from agent_journal.testing.inspection import InconsistentJournalError, Inspection, Name, inspect
from crash.power.answers import Floor, promises_of
from crash.power.disk import BY_PLACE, DRAWN, MODELS, WHOLE, Choice, Disk, Files, choose
from crash.power.trace import Answered, SyncBegun, Trace

DATABASE = "journal.db"
DIGESTS_MAX = 64
LOOKED_AT_TWICE = 97  # one in so many is read although its like was


@dataclass(frozen=True, slots=True)
class Bad:
    """A disk that a power cut could have left, and that the daemon makes the wrong journal of."""

    index: int
    choice: Choice
    reason: str


@dataclass(slots=True)
class Seen:
    """What became of it."""

    states: int = 0  # distinct disks
    bad: list[Bad] = field(default_factory=list)
    contents: int = 0  # distinct journals that came out
    commits: int = 0  # journals that there were
    sample: tuple[Files, Inspection] | None = None  # one of the disks, and what came out


class Explorer:
    """A trace, and the disks that it could have ended in."""

    def __init__(self, trace: Trace, scratch: Path) -> None:
        self._trace = trace
        self._scratch = scratch
        own = Uid(os.geteuid())
        self._keys: dict[Name, list[str]] = {}
        for request in trace.requests:
            if "key" in request:
                name = Uid(request.get("uid", own)), AgentId(request["agent_id"])
                self._keys.setdefault(name, []).append(request["key"])
        self._digests: dict[int, tuple[bytes, bytes]] = {}  # kept with its data: ids come again
        self._known: dict[object, bytes] = {}  # what is kept of what -> the disk's digest
        self._by_file: dict[bytes, Inspection] = {}
        self._by_disk: dict[bytes, Inspection | Exception] = {}
        self._judged: set[bytes] = set()  # disks that were counted
        self._order: dict[bytes, int] = {}  # digest of contents -> their place among all
        self._contents: list[Inspection] = []
        self._ceilings: list[int] = []  # by event: the newest contents that there can be
        self._recoveries = 0
        self._lost: list[str] = []  # journals that even a crash leaves unreadable

    async def prepare(self, own_uid: int) -> list[str]:
        """Find out which contents there were; return the answers that none of them keeps."""
        disk = Disk(self._trace, "strict")
        changed = True
        for index, event in enumerate(self._trace.events):
            if isinstance(event, SyncBegun | Answered) and changed:
                await self._look(disk)
                changed = False
            disk.follow(index, event)
            changed = changed or not isinstance(event, SyncBegun | Answered)
            self._ceilings.append(len(self._contents))
        await self._look(disk)
        promises = promises_of(self._trace, own_uid)
        self._floor = Floor(promises, self._contents)
        early = [
            f"answered before it was written: {reason.text}"
            for promise in promises
            if (found := self._floor.at(promise.index))[0] > self._ceilings[promise.index]
            and (reason := found[1]) is not None
        ]
        never = [f"never kept: {one.text}" for one in self._floor.unkept]
        return self._lost + never + early

    async def _look(self, disk: Disk) -> None:
        files = disk.left([WHOLE] * len(disk.pending))
        found = await self._recovered(self._digest(files), files)
        if isinstance(found, Exception):
            self._lost.append(f"a crash without a power cut cannot be recovered: {found!r}")
        elif found.digest not in self._order:
            self._order[found.digest] = len(self._contents)
            self._contents.append(found)

    async def explore(self, wanted: int, seed: str) -> Seen:
        """Look at *wanted* distinct disks, or as many as there are."""
        seen = Seen(commits=len(self._contents))
        random = Random(seed)  # noqa: S311 - repeatable, not secret
        before = -1
        while seen.states < wanted and seen.states > before:
            before = seen.states
            for index, choice, (key, files) in self._draw(random):
                if seen.states >= wanted:
                    break
                problem = await self._judge(index, key, files, seen)
                if problem is not None:
                    seen.bad.append(Bad(index, choice, problem))
                elif files is not None and random.random() < 1 / (1 + seen.states):
                    seen.sample = files, self._of_disk(key)
        seen.contents = len({found.digest for found in self._by_file.values()})
        return seen

    async def repeat(self, index: int, choice: Choice) -> str | None:
        """Judge one disk again; its files are left for inspection."""
        disk = Disk(self._trace, choice.model)
        for at, event in enumerate(self._trace.events[: index + 1]):
            disk.follow(at, event)
        files = disk.left(choose(choice, disk.pending))
        problem = await self._judge(index, self._digest(files), files, Seen())
        self._materialize(files)
        return problem

    async def judge_answered(self, files: Files, answered: Iterable[int], seen: Seen) -> str | None:
        """Judge a disk of which it is known which requests were answered by then."""
        moments = [self._floor.moments[one] for one in answered if one in self._floor.moments]
        index = max(moments, default=-1)
        return await self._judge(index, self._digest(files), files, seen, is_known=False)

    def _draw(self, random: Random) -> Iterator[tuple[int, Choice, tuple[bytes, Files | None]]]:
        """Yield a few disks of each moment."""
        disks = {model: Disk(self._trace, model) for model in MODELS}
        for index, event in self._trace.changes():
            for model, disk in disks.items():
                disk.follow(index, event)
                count = len(disk.pending)
                choices = [Choice(model, "all", 0)]
                if count:
                    choices.append(Choice(model, "none", 0))
                    choices.append(Choice(model, random.choice(BY_PLACE), random.randrange(count)))
                    choices.append(Choice(model, random.choice(DRAWN), random.getrandbits(32)))
                for choice in choices:
                    yield index, choice, self._disk_of(disk, choice)

    def _disk_of(self, disk: Disk, choice: Choice) -> tuple[bytes, Files | None]:
        """Return the name of a disk, and its files if it is not known yet."""
        kept = choose(choice, disk.pending)
        what = (
            choice.model,
            disk.version,
            *((one.event, how) for one, how in zip(disk.pending, kept, strict=True) if how),
        )
        known = self._known.get(what)
        if known is not None:
            return known, None
        files = disk.left(kept)
        self._known[what] = key = self._digest(files)
        return key, files

    def _digest(self, files: Files) -> bytes:
        """Return a name for a disk; of what is durable, the same object comes again and again."""
        digests = self._digests
        if len(digests) > DIGESTS_MAX:
            digests.clear()
        named = []
        for name, data in sorted(files.items()):
            if id(data) not in digests:
                digests[id(data)] = data, hashlib.sha1(data, usedforsecurity=False).digest()
            named.append(name.encode() + b"\0" + digests[id(data)][1])
        return hashlib.sha1(b"".join(named), usedforsecurity=False).digest()

    async def _judge(
        self, index: int, key: bytes, files: Files | None, seen: Seen, *, is_known: bool = True
    ) -> str | None:
        """Return what is wrong with what becomes of *files*, if anything is.

        Where the moment is not *known* exactly, more may be there than was by then.
        """
        if files is not None and key not in self._judged:
            seen.states += 1
            self._judged.add(key)
            await self._recovered(key, files)
        found = self._by_disk[key]
        if isinstance(found, Exception):
            return f"{type(found).__name__}: {found}"
        floor, reason = self._floor.at(index)
        place = self._order.get(found.digest)
        if place is None:
            return f"a journal that never was: {self._nearest(found)}"
        if place < floor:
            lost = reason.text if reason else "what was on the disk before"
            return f"lost: contents {place} of {floor} that were promised; {lost}"
        if is_known and place > self._ceilings[index]:
            return f"contents {place} that are yet to come, behind {self._ceilings[index]}"
        return None

    def _nearest(self, found: Inspection) -> str:
        """Say how *found* differs from the contents that reach as far."""
        like = min(self._contents, key=lambda one: abs(one.next_position - found.next_position))
        differences = [
            f"{name}: {len(found.entries.get(name, ()))} entries, {found.agents.get(name)!r:.400}, "
            f"there were {len(like.entries.get(name, ()))}, {like.agents.get(name)!r:.400}"
            for name in sorted(found.agents.keys() | like.agents.keys())
            if found.agents.get(name) != like.agents.get(name)
            or found.entries.get(name) != like.entries.get(name)
        ]
        ends = f"ends at {found.next_position}, the nearest at {like.next_position}"
        return f"{ends}; {differences[:3]}"

    def _of_disk(self, key: bytes) -> Inspection:
        found = self._by_disk[key]
        assert isinstance(found, Inspection)
        return found

    # Recovery

    async def _recovered(self, key: bytes, files: Files) -> Inspection | Exception:
        """Return what becomes of the disk *key*, of which there is only one."""
        found = self._by_disk.get(key)
        if found is None:
            try:
                found = await self._recover(files)
            except Exception as error:  # noqa: BLE001 - whatever it is, it is the verdict
                found = error
            self._by_disk[key] = found
        return found

    async def _recover(self, files: Files) -> Inspection:
        self._recoveries += 1
        self._materialize(files)
        await self._opened_and_closed()
        key = hashlib.sha1(self._path.read_bytes(), usedforsecurity=False).digest()
        known = self._by_file.get(key)
        if known is not None and self._recoveries % LOOKED_AT_TWICE:
            return known
        self._materialize(files)
        first = await self._inspected()
        again = await self._inspected()
        if again.digest != first.digest:
            raise InconsistentJournalError(["a second recovery finds another journal"])
        if known is not None and known.digest != first.digest:
            raise InconsistentJournalError(["two recoveries that leave one file tell two stories"])
        self._by_file[key] = first
        return first

    @property
    def _path(self) -> Path:
        return self._scratch / DATABASE

    def _materialize(self, files: Files) -> None:
        with os.scandir(self._scratch) as found:
            for one in found:
                if one.name not in files:
                    os.unlink(one.path)  # noqa: PTH108 - thousands of times a second
        for name, data in files.items():
            # Written over: to free a file's pages and to fill new ones takes longer.
            descriptor = os.open(self._scratch / name, os.O_WRONLY | os.O_CREAT, 0o600)
            try:
                if os.pwrite(descriptor, data, 0) != len(data):
                    raise OSError(f"no room for {name} in {self._scratch}")
                os.truncate(descriptor, len(data))
            finally:
                os.close(descriptor)

    async def _opened_and_closed(self) -> None:
        store = SqliteStore(self._path)
        await store.open()
        await store.close()

    async def _inspected(self) -> Inspection:
        store = SqliteStore(self._path)
        await store.open()
        try:
            return await inspect(store, self._keys)
        finally:
            await store.close()
