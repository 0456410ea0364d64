"""What a daemon did to its directory, as it was recorded, read back.

A trace begins with what was on the disk, and goes on with every change to it,
every sync and every byte that was answered, in order.  It needs nothing else to
be judged, so a trace that shows a defect can be kept, and sent to somebody.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

_HEAD = struct.Struct("<IIIiqIBB")
_HEAD_OF_BASE = struct.Struct("<II")  # lengths: of the base as JSON, of the requests


class UnmodelledError(AssertionError):
    """A daemon does to its files what the recorder, or the model of a disk, does not know."""


@dataclass(frozen=True, slots=True)
class Write:
    """Bytes at a place in a file."""

    file: int
    offset: int
    data: bytes
    size_before: int  # of the file, as the daemon saw it


@dataclass(frozen=True, slots=True)
class Resize:
    """A file cut off, or made longer with zeros."""

    file: int
    size: int


@dataclass(frozen=True, slots=True)
class Named:
    """A name that was given to a file; *before* is the one that it loses by that."""

    path: str
    file: int
    before: str | None = None


@dataclass(frozen=True, slots=True)
class Unnamed:
    """A name that was taken away."""

    path: str


@dataclass(frozen=True, slots=True)
class Synced:
    """A sync that ended well: it covers what came before *began*."""

    file: int | None  # a file's contents, or
    directory: str | None  # a directory's names
    began: int


@dataclass(frozen=True, slots=True)
class SyncBegun:
    """A sync that may never end."""


@dataclass(frozen=True, slots=True)
class Answered:
    """Lines that are now complete at the other end."""

    connection: int
    lines: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Started:
    """A process that begins: what was open is closed, and what was written is still there."""


Event = Write | Resize | Named | Unnamed | Synced | SyncBegun | Answered | Started


@dataclass(slots=True)
class Trace:
    """A recording."""

    base: dict[str, bytes]  # the directory at its beginning, all of it on the disk
    requests: list[dict[str, Any]]  # by their id
    events: list[Event]

    def changes(self) -> Iterator[tuple[int, Event]]:
        """Yield what changes what a power cut would leave, or what was promised by then."""
        for index, event in enumerate(self.events):
            if not isinstance(event, Started):
                yield index, event


def save(path: Path, base: dict[str, bytes], requests: list[dict[str, Any]], raw: bytes) -> None:
    """Write a trace down as one file."""
    names = json.dumps({name: len(data) for name, data in base.items()}).encode()
    asked = json.dumps(requests).encode()
    head = _HEAD_OF_BASE.pack(len(names), len(asked))
    path.write_bytes(b"".join((head, names, asked, *base.values(), raw)))


def load(path: Path) -> Trace:
    """Read a trace.

    Raises:
        UnmodelledError: there is something in it that the model of a disk does not know.
    """
    data = path.read_bytes()
    names_size, asked_size = _HEAD_OF_BASE.unpack_from(data)
    at = _HEAD_OF_BASE.size
    sizes = json.loads(data[at : at + names_size])
    at += names_size
    requests = json.loads(data[at : at + asked_size])
    at += asked_size
    base = {}
    for name, size in sizes.items():
        base[name] = data[at : at + size]
        at += size
    return Trace(base, requests, _Reader(base).read(data[at:]))


class _Record(NamedTuple):
    """What the recorder wrote of one call."""

    kind: str
    flags: int
    thread: int
    fd: int
    offset: int
    names: list[str]
    data: bytes


def _records(raw: bytes) -> Iterator[_Record]:
    at = 0
    while at + _HEAD.size <= len(raw):
        size, _, thread, fd, offset, names_size, kind, flags = _HEAD.unpack_from(raw, at)
        at += _HEAD.size
        names = raw[at : at + names_size].decode().split("\0")
        data = raw[at + names_size : at + size]
        yield _Record(chr(kind), flags, thread, fd, offset, names, data)
        at += size


class _Reader:
    """Follows descriptors and names, as the kernel did."""

    def __init__(self, base: dict[str, bytes]) -> None:
        self._names = {name: number for number, name in enumerate(base)}
        self._sizes = {number: len(data) for number, data in enumerate(base.values())}
        self._root = ""
        self._open: dict[int, int | str] = {}  # descriptor -> a file, or a directory's name
        self._syncing: dict[int, int] = {}  # thread -> where its sync began
        self._unfinished: dict[int, bytes] = {}  # descriptor -> the beginning of a line
        self._events: list[Event] = []
        self._takes: dict[str, Callable[[_Record], None]] = {
            "B": self._begin,
            "O": self._opened,
            "C": lambda record: self._forget(record.fd),
            "d": self._copied,
            "W": self._written,
            "T": self._cut,
            "P": self._reserved,
            "U": self._unnamed,
            "R": self._renamed,
            "L": self._linked,
            "F": self._sync_begun,
            "f": self._synced,
            "A": self._accepted,
            "S": self._sent,
        }

    def read(self, raw: bytes) -> list[Event]:
        for record in _records(raw):
            take = self._takes.get(record.kind)
            if take is None:
                raise UnmodelledError(f"{record.kind} {record.names[0]}")
            take(record)
        return self._events

    # Processes and their peers

    def _begin(self, record: _Record) -> None:
        self._root = record.names[0]
        self._open.clear()
        self._syncing.clear()
        self._unfinished.clear()
        self._events.append(Started())

    def _accepted(self, record: _Record) -> None:
        self._unfinished[record.fd] = b""

    def _sent(self, record: _Record) -> None:
        before = self._unfinished.get(record.fd, b"")
        *lines, rest = (before + record.data).split(b"\n")
        self._unfinished[record.fd] = rest
        self._events.append(Answered(record.fd, tuple(lines)))

    # Names and descriptors

    def _name(self, path: str) -> str:
        return path.removeprefix(self._root).strip("/")

    def _file(self, fd: int) -> int:
        file = self._open[fd]
        if not isinstance(file, int):
            raise UnmodelledError(f"a directory written to: {file}")
        return file

    def _opened(self, record: _Record) -> None:
        path = self._name(record.names[0])
        is_new, is_directory, is_cut = (record.flags & bit for bit in (1, 2, 4))
        if is_directory:
            self._open[record.fd] = path
            return
        if is_new:
            file = len(self._sizes)
            self._sizes[file] = 0
            self._names[path] = file
            self._events.append(Named(path, file))
        elif path not in self._names:
            raise UnmodelledError(f"{path} appeared from nowhere")
        self._open[record.fd] = self._names[path]
        if is_cut and not is_new:
            self._resize(self._names[path], 0)

    def _forget(self, fd: int) -> None:
        self._open.pop(fd, None)

    def _copied(self, record: _Record) -> None:
        self._open[record.offset] = self._open[record.fd]

    def _unnamed(self, record: _Record) -> None:
        path = self._name(record.names[0])
        self._names.pop(path, None)
        self._events.append(Unnamed(path))

    def _renamed(self, record: _Record) -> None:
        before, path = map(self._name, record.names)
        self._names[path] = file = self._names.pop(before)
        self._events.append(Named(path, file, before))

    def _linked(self, record: _Record) -> None:
        before, path = map(self._name, record.names)
        self._names[path] = file = self._names[before]
        self._events.append(Named(path, file))

    # Contents and syncs

    def _written(self, record: _Record) -> None:
        file = self._file(record.fd)
        before = self._sizes[file]
        self._events.append(Write(file, record.offset, record.data, before))
        self._sizes[file] = max(before, record.offset + len(record.data))

    def _cut(self, record: _Record) -> None:
        self._resize(self._file(record.fd), record.offset)

    def _reserved(self, record: _Record) -> None:
        file = self._file(record.fd)
        self._resize(file, max(self._sizes[file], record.offset))

    def _resize(self, file: int, size: int) -> None:
        if size != self._sizes[file]:
            self._events.append(Resize(file, size))
            self._sizes[file] = size

    def _sync_begun(self, record: _Record) -> None:
        self._syncing[record.thread] = len(self._events)
        self._events.append(SyncBegun())

    def _synced(self, record: _Record) -> None:
        began = self._syncing.pop(record.thread)
        what = self._open.get(record.fd)
        if not record.flags or what is None:
            return
        if isinstance(what, int):
            self._events.append(Synced(what, None, began))
        else:
            self._events.append(Synced(None, what, began))
