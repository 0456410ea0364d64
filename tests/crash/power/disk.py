"""What a power cut leaves: a model of a disk beneath the system calls of a trace.

A change is *durable* when a sync that began behind it has ended, and *pending*
until then: each pending change may be there after the cut, or not, or in part.
Two models say which combinations there are, and both must be survived:

``strict``
    What POSIX promises and not a bit more.  A sync covers the contents of its file,
    that of a directory the names in it.  Pending changes are kept or lost one by
    one, 512 bytes by 512 bytes.  A file may have grown without what was written:
    then zeros are there, or whatever the disk held before.

``ext4``
    A journalling file system with ordered data.  Names, and sizes that were set,
    are kept in the order in which they were made, and any sync that needs the
    journal makes all of them durable.  A file grows no further than its contents.
    What was written over older contents is kept or lost, as above.
"""

from __future__ import annotations

import posixpath
from collections.abc import Sequence
from random import Random
from typing import NamedTuple

from crash.power.trace import Event, Named, Resize, Synced, Trace, Unnamed, Write

SECTOR = 512
MODELS = ("strict", "ext4")


class Pending(NamedTuple):
    """A change that a power cut may take back."""

    event: int  # its number
    change: Write | Resize | Named | Unnamed


class Kept(NamedTuple):
    """What is left of a pending change."""

    sectors: frozenset[int] | None = None  # of a write; none: all
    fill: bytes | None = None  # the file has grown, and this is what is there instead


WHOLE = Kept()
Files = dict[str, bytes]


class Disk:
    """A disk, as far as a trace has come."""

    def __init__(self, trace: Trace, model: str) -> None:
        self.pending: list[Pending] = []
        self.version = 0  # of what is durable
        self._is_strict = model == "strict"
        self._names = {name: number for number, name in enumerate(trace.base)}
        self._contents = {
            number: bytearray(data) for number, data in enumerate(trace.base.values())
        }
        self._frozen: dict[int, bytes] = {}  # the same objects, for as long as nothing changes

    def follow(self, index: int, event: Event) -> None:
        """Go on by one event."""
        if isinstance(event, Synced):
            self._sync(event)
        elif isinstance(event, Write | Resize | Named | Unnamed):
            self.pending.append(Pending(index, event))

    def left(self, choice: Sequence[Kept | None]) -> Files:
        """Return the files after a power cut that leaves *choice* of what is pending."""
        names = dict(self._names)
        for file, durable in self._contents.items():
            if file not in self._frozen:
                self._frozen[file] = bytes(durable)
        contents = dict(self._frozen)
        changed: dict[int, bytearray] = {}
        for (_, change), kept in zip(self.pending, choice, strict=True):
            if kept is None:
                continue
            if isinstance(change, Named | Unnamed):
                _rename(names, change)
                continue
            data = changed.get(change.file)
            if data is None:
                data = changed[change.file] = bytearray(contents.get(change.file, b""))
            self._apply(data, change, kept)
        contents |= {file: bytes(data) for file, data in changed.items()}
        return {name: contents.get(file, b"") for name, file in names.items()}

    def _apply(self, data: bytearray, change: Write | Resize, kept: Kept) -> None:
        if isinstance(change, Resize):
            _resize(data, change.size)
            return
        end = change.offset + len(change.data)
        if kept.fill is not None:
            if len(data) < end:
                data += (kept.fill * (end // len(kept.fill) + 1))[len(data) : end]
            return
        if not self._is_strict and end <= change.size_before:
            end = min(end, len(data))  # over contents that are not there there is nothing
        if kept.sectors is None:
            _put(data, change.offset, change.data[: max(end - change.offset, 0)])
            return
        for sector in sorted(kept.sectors):
            start = max(sector * SECTOR, change.offset)
            stop = min((sector + 1) * SECTOR, end)
            if start < stop:
                _put(data, start, change.data[start - change.offset : stop - change.offset])

    def _sync(self, sync: Synced) -> None:
        covered = [one for one in self.pending if one.event < sync.began]
        own = [one for one in covered if _is_covered(one.change, sync)]
        if not self._is_strict and (
            sync.directory is not None or any(_is_journalled(one.change) for one in own)
        ):
            own = [one for one in covered if one in own or _is_in_order(one.change)]
        if not own:
            return
        self.version += 1
        done = {one.event for one in own}
        left = [one for one in self.pending if one.event not in done]
        for one in own:
            if isinstance(one.change, Named | Unnamed):
                _rename(self._names, one.change)
            else:
                data = self._contents.setdefault(one.change.file, bytearray())
                self._frozen.pop(one.change.file, None)
                self._apply(data, one.change, WHOLE)
                if isinstance(one.change, Resize):
                    left = [_cut(other, one) for other in left]
        self.pending = left


def _rename(names: dict[str, int], change: Named | Unnamed) -> None:
    if isinstance(change, Unnamed):
        names.pop(change.path, None)
        return
    if change.before is not None:
        names.pop(change.before, None)
    names[change.path] = change.file


def _resize(data: bytearray, size: int) -> None:
    if size < len(data):
        del data[size:]
    else:
        data += bytes(size - len(data))


def _put(data: bytearray, offset: int, what: bytes) -> None:
    if what:
        if offset > len(data):
            data += bytes(offset - len(data))
        data[offset : offset + len(what)] = what


def _cut(other: Pending, resize: Pending) -> Pending:
    """Return an earlier write without what a size that became durable cut off."""
    change, size = other.change, resize.change
    assert isinstance(size, Resize)
    if other.event > resize.event or not isinstance(change, Write) or change.file != size.file:
        return other
    data = change.data[: max(size.size - change.offset, 0)]
    return other._replace(change=Write(change.file, change.offset, data, change.size_before))


def _is_covered(change: Write | Resize | Named | Unnamed, sync: Synced) -> bool:
    if isinstance(change, Write | Resize):
        return change.file == sync.file
    return sync.directory is not None and posixpath.dirname(change.path) == sync.directory


def is_growth(change: object) -> bool:
    """Tell whether a file was longer behind a write than before it."""
    return isinstance(change, Write) and change.offset + len(change.data) > change.size_before


def _is_in_order(change: object) -> bool:
    return isinstance(change, Named | Unnamed | Resize)


def _is_journalled(change: object) -> bool:
    return _is_in_order(change) or is_growth(change)


# Choices


class Choice(NamedTuple):
    """A power cut: with a trace and the event before it, all that it takes to repeat it."""

    model: str
    how: str  # one of the names below
    number: int  # which change, or the seed of those that are drawn

    def __str__(self) -> str:
        return f"{self.model}/{self.how}/{self.number}"

    @classmethod
    def parse(cls, text: str) -> Choice:
        model, how, number = text.split("/")
        return cls(model, how, int(number))


BY_PLACE = ("prefix", "drop", "keep")
DRAWN = ("torn", "some", "sectors", "grown")


def choose(choice: Choice, pending: Sequence[Pending]) -> list[Kept | None]:
    """Say what is left of each pending change."""
    count, number = len(pending), choice.number
    kept: list[Kept | None]
    match choice.how:
        case "all":
            kept = [WHOLE] * count
        case "none":
            kept = [None] * count
        case "prefix":
            kept = [WHOLE if at < number else None for at in range(count)]
        case "drop":
            kept = [None if at == number else WHOLE for at in range(count)]
        case "keep":
            kept = [WHOLE if at == number else None for at in range(count)]
        case "torn":
            # Repeatable, not secret; so are those below.
            random = Random(f"torn/{number}")  # noqa: S311
            place = number % count
            kept = [WHOLE if at < place else None for at in range(count)]
            kept[place] = _torn(pending[place].change, random, 0.5)
        case _:
            kept = _drawn(choice, pending)
    return kept if choice.model == "strict" else _in_order(kept, pending)


def _drawn(choice: Choice, pending: Sequence[Pending]) -> list[Kept | None]:
    random = Random(f"{choice.how}/{choice.number}")  # noqa: S311
    share = random.choice((0.1, 0.5, 0.9))
    start = random.randrange(len(pending) + 1) if random.random() < 0.5 else 0
    kept: list[Kept | None] = []
    for at, (_, change) in enumerate(pending):
        if at < start:
            kept.append(WHOLE)
        elif choice.how == "sectors":
            kept.append(_torn(change, random, share))
        elif random.random() < share:
            kept.append(WHOLE)
        elif choice.how == "grown" and is_growth(change) and random.random() < 0.7:
            garbage = random.randbytes(SECTOR)
            kept.append(Kept(fill=random.choice((b"\0", garbage))))
        else:
            kept.append(None)
    return kept


def _torn(change: object, random: Random, share: float) -> Kept | None:
    if not isinstance(change, Write):
        return WHOLE if random.random() < share else None
    first = change.offset // SECTOR
    last = (change.offset + len(change.data) - 1) // SECTOR
    return Kept(frozenset(at for at in range(first, last + 1) if random.random() < share))


def _in_order(kept: list[Kept | None], pending: Sequence[Pending]) -> list[Kept | None]:
    """Return *kept*, less what a journalling file system would not have kept without the rest."""
    is_broken = False
    stopped: set[int] = set()  # files that have grown no further
    ordered: list[Kept | None] = []
    for one, (_, change) in zip(kept, pending, strict=True):
        result = one
        if _is_in_order(change):
            result = None if is_broken else one
            is_broken |= result is None
        elif isinstance(change, Write) and is_growth(change):
            if change.file in stopped:
                result = None
            elif one is not None and one.sectors is not None:
                result = _beginning(change, one.sectors)
                stopped.add(change.file)
            elif one is None or one.fill is not None:
                result = None
                stopped.add(change.file)
        ordered.append(result)
    return ordered


def _beginning(change: Write, sectors: frozenset[int]) -> Kept:
    """Return as many sectors, but the first ones."""
    first = change.offset // SECTOR
    return Kept(frozenset(range(first, first + len(sectors))))
