"""The doctor's look at where the journal is kept: rights, file system, room, syncs."""

from __future__ import annotations

import os
import re
import stat
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ..clock import Clock
from .finding import Finding, note, well, wrong

SYNCS: Final = 48
SYNCED_BYTES: Final = 4096
SYNC_S_MAX: Final = 5.0  # a disk that is slower than that has been measured by then
SLOW_MS: Final = 20.0  # a spinning disk; a step takes two
IMPLAUSIBLE_MS: Final = 0.02  # no disk is told in so short a time, only a cache
MIB: Final = 1 << 20
MOUNTS: Final = Path("/proc/self/mountinfo")
BESIDE: Final = ("", "-wal", "-shm", "-sums", ".lock")

NETWORK: Final = frozenset(
    {"nfs", "nfs4", "cifs", "smb3", "9p", "ceph", "glusterfs", "fuse.sshfs", "afs", "lustre"}
)
FORGETS: Final = frozenset({"tmpfs", "ramfs"})
UNSAFE_OPTIONS: Final = {
    "nobarrier": "the disk's cache is not flushed, so a power cut loses what was acknowledged",
    "barrier=0": "the disk's cache is not flushed, so a power cut loses what was acknowledged",
}
WEAK_OPTIONS: Final = {
    "data=writeback": "a power cut can leave old blocks in new files; the journal's sums notice it",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Mount:
    """A file system, as the kernel has mounted it."""

    place: str
    kind: str
    options: frozenset[str]


def mount_of(path: Path, mounts: Path = MOUNTS) -> Mount | None:
    """Return the file system that *path* lies on."""
    try:
        lines = mounts.read_text("utf-8", "surrogateescape").splitlines()
    except OSError:
        return None
    found = None
    for line in lines:  # of two on one place the later one is seen
        before, _, after = line.partition(" - ")
        fields, kind_fields = before.split(), after.split()
        place = re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), fields[4])
        if path.is_relative_to(place) and (found is None or len(place) >= len(found.place)):
            options = {*fields[5].split(","), *kind_fields[2].split(",")}
            found = Mount(place=place, kind=kind_fields[0], options=frozenset(options))
    return found


def look_at_rights(database: Path) -> Iterator[Finding]:
    """Yield whether the journal is its user's alone."""
    directory = database.parent
    try:
        around = directory.stat()
        there = [path for end in BESIDE if (path := Path(f"{database}{end}")).exists()]
        modes = {path: path.stat() for path in there}
    except PermissionError:
        what = f"{directory} is not yours to look into, as it should be"
        yield well("rights", what)
        return
    except OSError as error:
        yield note("rights", f"{directory}: {error.strerror}", "the daemon makes it at its start")
        return
    open_ones = [path.name for path, status in modes.items() if status.st_mode & 0o077]
    others = {status.st_uid for status in modes.values()} - {around.st_uid}
    if around.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        what = f"others may write to {directory}, and so put another file in the journal's place"
        yield wrong("rights", what, f"chmod go-w {directory}")
    elif open_ones:
        what = f"others may read {', '.join(open_ones)} in {directory}"
        yield wrong("rights", what, f"chmod 600 {database}*")
    elif others:
        what = f"files of {database} belong to another user than {directory}"
        yield wrong("rights", what, f"ls -ln {directory}; chown them to uid {around.st_uid}")
    else:
        what = f"{database}: its user's alone" if there else f"{database}: not made yet"
        yield well("rights", what, database=str(database))


def look_at_file_system(database: Path, mounts: Path = MOUNTS) -> Iterator[Finding]:
    """Yield whether the file system keeps what was synced."""
    mount = mount_of(_nearest(database.parent), mounts)
    if mount is None:
        return
    told = f"{mount.kind} on {mount.place}"
    elsewhere = 'database = "…" on a local disk, in config.toml'
    figures = {"kind": mount.kind, "mount": mount.place, "options": sorted(mount.options)}
    found = False
    if mount.kind in NETWORK:
        what = f"{told}: locks and syncs over a network cannot be relied on"
        yield wrong("filesystem", what, elsewhere, **figures)
        found = True
    if mount.kind in FORGETS:
        what = f"{told}: it is in memory and gone with the next boot"
        yield wrong("filesystem", what, elsewhere, **figures)
        found = True
    if mount.kind == "overlay":
        what = f"{told}: in a container, and gone with it"
        yield note("filesystem", what, "a volume for the journal's directory", **figures)
        found = True
    for option, why in UNSAFE_OPTIONS.items():
        if option in mount.options:
            hint = f"mount {mount.place} without {option}"
            yield wrong("filesystem", f"{told}, {option}: {why}", hint, **figures)
            found = True
    for option, why in WEAK_OPTIONS.items():
        if option in mount.options:
            hint = f"mount {mount.place} with data=ordered"
            yield note("filesystem", f"{told}, {option}: {why}", hint, **figures)
            found = True
    if not found:
        yield well("filesystem", f"{told}, nothing in its options against it", **figures)


def look_at_room(database: Path, free_bytes_min: int) -> Finding:
    """Tell whether there is room for appends."""
    disk = os.statvfs(_nearest(database.parent))
    free = disk.f_bavail * disk.f_frsize
    told = f"{_size(free)} free, appends want {_size(free_bytes_min)} (commit.free_bytes_min)"
    figures = {"free_bytes": free, "free_bytes_min": free_bytes_min}
    if free < free_bytes_min:
        return wrong(
            "room",
            told,
            "df -h; remove what is not needed, or agent-journal ls to compact",
            **figures,
        )
    if disk.f_files and not disk.f_favail:
        return wrong("room", "no inodes are left", "df -i; remove files", **figures)
    if free < 4 * free_bytes_min:
        return note("room", told, "df -h, before appends are refused", **figures)
    return well("room", told, **figures)


def look_at_syncs(database: Path) -> Finding:
    """Tell how long the disk takes to make a page durable, in the journal's own directory."""
    directory = _nearest(database.parent)
    if not os.access(directory, os.W_OK):
        hint = "as the journal's user, to have it measured"
        return note("fsync", f"not measured: {directory} is not yours to write to", hint)
    try:
        times = sync_times_ms(directory)
    except OSError as error:
        what = f"a file in {directory} could not be synced: {error.strerror}"
        return wrong("fsync", what, "df -h and dmesg")
    p50, p99 = quantile(times, 0.5), quantile(times, 0.99)
    told = f"4 KiB are durable in {p50:.2f} ms (p50), {p99:.2f} ms (p99)"
    figures = {"p50_ms": round(p50, 4), "p99_ms": round(p99, 4), "syncs": len(times)}
    if p50 < IMPLAUSIBLE_MS:
        what = f"{told}: faster than any disk, so something on the way does not write"
        return note(
            "fsync", what, "see that the disk's (or the virtual machine's) cache is safe", **figures
        )
    if p50 > SLOW_MS:
        return note("fsync", f"{told}: slow", "an SSD for the journal's directory", **figures)
    return well("fsync", told, **figures)


def sync_times_ms(directory: Path, count: int = SYNCS) -> list[float]:
    """Return how long syncs of a page took, in order of their length; nothing is left behind."""
    clock = Clock()
    times: list[float] = []
    descriptor, name = tempfile.mkstemp(prefix=".agent-journal-fsync-", dir=directory)
    try:
        page = os.urandom(SYNCED_BYTES)
        # Overwritten in place, as the daemon's log is: no length has to be made durable too.
        os.pwrite(descriptor, page * 8, 0)
        os.fsync(descriptor)
        began = clock.monotonic()
        while len(times) < count and clock.monotonic() - began < SYNC_S_MAX:
            before = clock.monotonic()
            os.pwrite(descriptor, page, len(times) % 8 * SYNCED_BYTES)
            os.fdatasync(descriptor)
            times.append((clock.monotonic() - before) * 1000)
    finally:
        os.close(descriptor)
        Path(name).unlink(missing_ok=True)
    return sorted(times)


def quantile(times: Sequence[float], fraction: float) -> float:
    """Return what *fraction* of the sorted *times* do not exceed."""
    return times[min(int(len(times) * fraction), len(times) - 1)] if times else 0.0


def _nearest(directory: Path) -> Path:
    """Return *directory*, or what is there of the way to it."""
    return next(path for path in (directory, *directory.parents) if path.is_dir())


def _size(size: int) -> str:
    return f"{size / (1 << 30):.1f} GiB" if size >= 1 << 30 else f"{size / MIB:.0f} MiB"
