"""Ways in which a disk, or a person, damages a journal's files while nobody has them.

Each is a function of chance and of a directory with the files; it changes them
and says what it did.  A journal's earlier state lies in ``earlier``, for what an
old backup, or a file system that went back in time, puts in the place of a file.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random
from typing import Final

NAME: Final = "journal.db"
DATABASE, WAL, SUMS = FILES = ("", "-wal", "-sums")
SECTOR: Final = 512
PAGE: Final = 8192
FRAME: Final = 24 + PAGE

Damage = Callable[[Random, Path, Path], str | None]


def file_in(directory: Path, suffix: str) -> Path:
    return directory / (NAME + suffix)


def _some_file(chance: Random, directory: Path) -> tuple[Path, bytearray]:
    """Return a file that holds something: each as likely as the others, whatever its size."""
    paths = [path for suffix in FILES if (path := file_in(directory, suffix)).exists()]
    path = chance.choice([path for path in paths if path.stat().st_size])
    return path, bytearray(path.read_bytes())


def flip_a_bit(chance: Random, directory: Path, _earlier: Path) -> str:
    path, data = _some_file(chance, directory)
    at = chance.randrange(len(data))
    bit = chance.randrange(8)
    data[at] ^= 1 << bit
    path.write_bytes(data)
    return f"bit {bit} of byte {at} of {path.name} flipped"


def flip_a_bit_of_a_header(chance: Random, directory: Path, _earlier: Path) -> str:
    """Where a file says what it is, and where each frame does."""
    path, data = _some_file(chance, directory)
    if path.name.endswith(WAL):
        frames = max((len(data) - 32) // FRAME, 1)
        at = 32 + chance.randrange(frames) * FRAME + chance.randrange(24)
        at = chance.choice([at, chance.randrange(32)])
    elif path.name.endswith(SUMS):
        at = chance.choice([chance.randrange(96), 2048 + chance.randrange(96)])
    else:
        at = chance.randrange(112)
    at = min(at, len(data) - 1)
    bit = chance.randrange(8)
    data[at] ^= 1 << bit
    path.write_bytes(data)
    return f"bit {bit} of byte {at} of {path.name} flipped"


def zero_a_sector(chance: Random, directory: Path, _earlier: Path) -> str:
    path, data = _some_file(chance, directory)
    sector = chance.randrange(-(-len(data) // SECTOR))
    count = chance.choice([1, 1, 8, 16])
    piece = slice(sector * SECTOR, min((sector + count) * SECTOR, len(data)))
    data[piece] = bytes(piece.stop - piece.start)
    path.write_bytes(data)
    return f"{count} sectors of {path.name} from {sector} on zeroed"


def overwrite_a_sector(chance: Random, directory: Path, _earlier: Path) -> str:
    path, data = _some_file(chance, directory)
    sector = chance.randrange(-(-len(data) // SECTOR))
    piece = slice(sector * SECTOR, min((sector + 1) * SECTOR, len(data)))
    data[piece] = chance.randbytes(piece.stop - piece.start)
    path.write_bytes(data)
    return f"sector {sector} of {path.name} overwritten"


def truncate(chance: Random, directory: Path, _earlier: Path) -> str:
    path, data = _some_file(chance, directory)
    unit = chance.choice([1, SECTOR, 4096, PAGE])
    size = chance.randrange(len(data)) // unit * unit
    del data[size:]
    path.write_bytes(data)
    return f"{path.name} cut to {size} bytes"


def swap_pages(chance: Random, directory: Path, _earlier: Path) -> str | None:
    path, data = _some_file(chance, directory)
    head, unit = (32, FRAME) if path.name.endswith(WAL) else (0, PAGE)
    if path.name.endswith(SUMS):
        head, unit = 4096, SECTOR
    pages = (len(data) - head) // unit
    if pages < 2:
        return None
    one, other = sorted(chance.sample(range(pages), 2))
    first = slice(head + one * unit, head + (one + 1) * unit)
    second = slice(head + other * unit, head + (other + 1) * unit)
    data[first], data[second] = data[second], data[first]
    path.write_bytes(data)
    return f"pieces {one} and {other} of {path.name} swapped"


def write_one_page_over_another(chance: Random, directory: Path, _earlier: Path) -> str:
    """Do what a write does that went to the wrong place."""
    path = file_in(directory, DATABASE)
    data = bytearray(path.read_bytes())
    one, other = chance.randrange(len(data) // PAGE), chance.randrange(len(data) // PAGE)
    data[other * PAGE : (other + 1) * PAGE] = data[one * PAGE : (one + 1) * PAGE]
    path.write_bytes(data)
    return f"page {one + 1} written over page {other + 1}"


def lose_a_write(chance: Random, directory: Path, earlier: Path) -> str | None:
    """Put a page back as it was: its write was acknowledged by the disk, and forgotten."""
    path = file_in(directory, DATABASE)
    data, before = bytearray(path.read_bytes()), file_in(earlier, DATABASE).read_bytes()
    changed = [
        page
        for page in range(min(len(data), len(before)) // PAGE)
        if data[page * PAGE : (page + 1) * PAGE] != before[page * PAGE : (page + 1) * PAGE]
    ]
    if not changed:
        return None
    page = chance.choice(changed)
    data[page * PAGE : (page + 1) * PAGE] = before[page * PAGE : (page + 1) * PAGE]
    path.write_bytes(data)
    return f"page {page + 1} as it was before"


def delete(chance: Random, directory: Path, _earlier: Path) -> str | None:
    suffix = chance.choice(FILES)
    path = file_in(directory, suffix)
    if not path.exists():
        return None
    path.unlink()
    return f"{path.name} deleted"


def go_back(chance: Random, directory: Path, earlier: Path) -> str:
    """Put some files back as they were, but not the sums: all would be an old journal."""
    suffixes: Sequence[str] = chance.choice([(DATABASE,), (WAL,), (DATABASE, WAL), (DATABASE,)])
    for suffix in suffixes:
        before = file_in(earlier, suffix)
        if before.exists():
            shutil.copy(before, file_in(directory, suffix))
        else:
            file_in(directory, suffix).unlink(missing_ok=True)
    if suffixes == (DATABASE,) and chance.randrange(2):
        file_in(directory, WAL).unlink(missing_ok=True)
        suffixes = (DATABASE, "the WAL deleted")
    return f"an older state of {suffixes} put back"


# Bits first of all: they are what the figures are of.
KINDS: Final[dict[Damage, int]] = {
    flip_a_bit: 60,
    flip_a_bit_of_a_header: 10,
    zero_a_sector: 6,
    overwrite_a_sector: 4,
    truncate: 6,
    swap_pages: 4,
    write_one_page_over_another: 3,
    lose_a_write: 3,
    delete: 1,
    go_back: 3,
}


def damage(chance: Random, directory: Path, earlier: Path) -> tuple[str, str]:
    """Damage the files in *directory*; return the kind, and what was done."""
    while True:
        (kind,) = chance.choices([*KINDS], weights=[*KINDS.values()])
        done = kind(chance, directory, earlier)
        if done is not None:
            return kind.__name__, done
