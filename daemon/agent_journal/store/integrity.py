"""Whether a journal is what was written, told before SQLite opens it.

SQLite repairs what it finds: it drops what lies behind a bad frame of its WAL,
makes a new WAL where there is none, and serves pages whose bits have flipped.
Each of these loses what was acknowledged, without a word.  So the files are
looked at first, by themselves, and nothing is changed:

- the WAL by its own checksums (``wal_scan``),
- the WAL and the database by the mark, which says how far they had come,
- the pages by their sums (``page_sums``); those that the WAL holds are not
  looked at, since SQLite takes them from there and writes them anew.

A journal from before there were sums (schema 2 and older) has only its WAL
looked at.  From schema 3 on the file of sums must be there.

The daemon looks at as many pages as it can before it serves, and leaves the
rest to the scrub; everybody else looks at all of them.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Final, NamedTuple

from ..errors import ConfigError, DamagedError
from ..wire import render_timestamp
from .page_sums import CHUNK_PAGES, Flags, Mark, PageSums, Progress, sums_path
from .sql import SCHEMA_VERSION
from .wal_scan import WalVerdict, scan, wal_path

SUMMED_SCHEMA: Final = 3  # from this version of the schema on a journal has sums
START_BYTES_MAX: Final = 64 * 1024 * 1024  # looked at before serving: some 50 ms, if cached
PROBLEMS_SHOWN: Final = 3

APPLICATION_ID: Final = 0x416A726E  # "Ajrn": what `file` and SQLite show of the database

# All that was acknowledged is in the database, since the WAL is emptied with
# nothing in it, and is marked again before anything more is acknowledged.
VOID: Final = Flags.IN_FORCE | Flags.EMPTIED

_MAGIC: Final = b"SQLite format 3\0"
_HEADER_BYTES: Final = 100
_NUMBER: Final = struct.Struct(">I")
_SHORT: Final = struct.Struct(">H")
_USER_VERSION_AT: Final = 60
_APPLICATION_ID_AT: Final = 68


class Part(StrEnum):
    """Which part of a journal something is wrong with."""

    LOG = "log"  # the write-ahead log
    MARK = "mark"  # how far the journal had come: something is older, or gone
    PAGE = "page"
    SUMS = "sums"
    ENTRY = "entry"


class Problem(NamedTuple):
    """Something that is not what was written."""

    part: Part
    text: str
    page: int = 0


@dataclass(slots=True, kw_only=True)
class Findings:
    """What was seen of a journal's files, but for its pages."""

    database: Path
    page_bytes: int = 0  # 0: there is no database, or it is no SQLite file
    pages: int = 0  # in the file
    schema: int = 0
    is_journal: bool = False  # False: another's, or not one yet
    wal: WalVerdict
    mark: Mark | None = None  # None: there are no sums
    is_log_void: bool = False  # there is a WAL, of which nothing counts
    problems: list[Problem] = field(default_factory=list)

    @property
    def has_sums(self) -> bool:
        """Tell whether pages can be looked at."""
        return self.mark is not None and self.page_bytes > 0


def inspect(database: Path, *, on_progress: Progress | None = None) -> Findings:
    """Look at a closed journal's WAL and mark, and change nothing."""
    header, size = _header(database)
    page_bytes = _page_bytes(header)
    mark, problem = _mark(sums_path(database))
    wal = scan(wal_path(database), page_bytes=page_bytes or None, on_progress=on_progress)
    is_void = bool(wal.size_bytes) and mark is not None and VOID in mark.flags
    if is_void:
        wal = WalVerdict(path=wal.path)
    findings = Findings(
        database=database, page_bytes=page_bytes, wal=wal, mark=mark, is_log_void=is_void
    )
    findings.pages = size // page_bytes if page_bytes else 0
    effective = (page_bytes and wal.page(1)) or header
    if page_bytes and len(effective) >= _HEADER_BYTES:
        findings.schema = _NUMBER.unpack_from(effective, _USER_VERSION_AT)[0]
        application = _NUMBER.unpack_from(effective, _APPLICATION_ID_AT)[0]
        findings.is_journal = application == APPLICATION_ID
    if wal.damage is not None:
        findings.problems.append(Problem(Part.LOG, f"{wal.path.name}: {wal.damage}"))
    if problem is not None:
        findings.problems.append(problem)
    _look_at_mark(findings, size)
    return findings


def _mark(path: Path) -> tuple[Mark | None, Problem | None]:
    try:
        with PageSums.open(path) as sums:
            return sums.mark, None
    except FileNotFoundError:
        return None, None
    except DamagedError as error:
        return None, Problem(Part.SUMS, str(error))


def _look_at_mark(findings: Findings, size: int) -> None:
    """Add what is wrong if a file is gone, or older than the others."""
    problems, mark = findings.problems, findings.mark
    database, sums = findings.database, sums_path(findings.database)
    if mark is None:
        if findings.is_journal and findings.schema >= SUMMED_SCHEMA and not problems:
            problems.append(Problem(Part.SUMS, f"{sums.name} is missing"))
        return
    if Flags.IN_FORCE not in mark.flags:
        if findings.schema < SUMMED_SCHEMA:
            findings.mark = None  # begun, and the journal not brought up to date yet
            return
    elif size == 0:
        problems.append(Problem(Part.MARK, f"{database.name} is missing or empty"))
        return
    if not findings.page_bytes:
        problems.append(Problem(Part.PAGE, "page 1 is not the beginning of a database", 1))
        return
    if findings.page_bytes != mark.page_bytes:
        problems.append(Problem(Part.PAGE, "page 1 names another page size than the sums do", 1))
        return
    against = [*_log_against_mark(findings.wal, mark)]
    if not against and findings.schema < SUMMED_SCHEMA:
        against = [Problem(Part.MARK, f"{database.name} is older than {sums.name}")]
    problems += against


def _log_against_mark(wal: WalVerdict, mark: Mark) -> Iterable[Problem]:
    """Say what is wrong if the WAL is not as far as the mark says that it was.

    A WAL is begun anew by the first commit behind a checkpoint, its first salt
    being one more; and there is a mark, made durable, for each checkpoint.
    """
    is_checkpointed = Flags.CHECKPOINTED in mark.flags
    if not wal.has_header:
        if Flags.EMPTIED not in mark.flags:
            state = "is missing or empty" if wal.size_bytes == 0 else "has no readable header"
            yield Problem(Part.MARK, f"{wal.path.name} {state}, and held what was acknowledged")
        return
    if wal.salts == mark.salts:
        if wal.frames < mark.frames and not wal.is_damaged:
            yield Problem(
                Part.LOG,
                f"{wal.path.name}: only {wal.frames} of {mark.frames} frames are readable "
                "that were acknowledged",
            )
        return
    if Flags.EMPTIED in mark.flags:
        return  # whichever came behind it
    is_next = wal.salts[0] == (mark.salts[0] + 1) & 0xFFFF_FFFF
    if not (is_checkpointed and is_next):
        yield Problem(Part.MARK, f"{wal.path.name} is not the WAL that was in use last")


def wrong_pages(
    findings: Findings, *, bytes_max: int | None = None, on_progress: Progress | None = None
) -> Iterator[Problem]:
    """Yield the pages of a closed journal that are not what was written.

    With *bytes_max* only as many are looked at: the first ones, which all else
    hangs on, and the newest, of which an older database would have none.
    """
    mark = findings.mark
    if mark is None or not findings.has_sums:
        return
    pages = mark.pages
    if findings.wal.frames:
        pages = min(pages, findings.wal.pages)  # it may be shorter by now
    total = pages * mark.page_bytes
    allowed = pages if bytes_max is None else max(bytes_max // mark.page_bytes, CHUNK_PAGES)
    done = 0
    descriptor = os.open(findings.database, os.O_RDONLY | os.O_CLOEXEC)
    try:
        with PageSums.open(sums_path(findings.database)) as sums:
            for first in _chunks(pages, allowed):
                count = min(CHUNK_PAGES, pages + 1 - first)
                skip = findings.wal.latest
                for page in sums.mismatches(descriptor, first, count, skip=skip):
                    yield Problem(Part.PAGE, f"page {page} is not what was written", page)
                done += count
                if on_progress is not None:
                    on_progress(done * mark.page_bytes, total)
    except DamagedError as error:
        yield Problem(Part.SUMS, str(error))
    finally:
        os.close(descriptor)


def _chunks(pages: int, allowed: int) -> Iterator[int]:
    """Yield where chunks begin: all of them, or the first and then from the end on."""
    starts = [*range(1, pages + 1, CHUNK_PAGES)]
    if pages <= allowed or not starts:
        yield from starts
        return
    yield starts[0]
    for start in reversed(starts[1:]):
        allowed -= CHUNK_PAGES
        if allowed <= 0:
            return
        yield start


def check_before_open(
    database: Path,
    *,
    bytes_max: int | None = None,
    on_progress: Progress | None = None,
) -> Findings:
    """Look at a journal that nobody has open, and change nothing.

    Raises:
        ConfigError: a newer version wrote it, and only that one can tell.
        DamagedError: it must not be served; the message says what a person does.
    """
    findings = inspect(database)
    problems = findings.problems
    if not problems:
        for problem in wrong_pages(findings, bytes_max=bytes_max, on_progress=on_progress):
            problems.append(problem)
            if len(problems) > PROBLEMS_SHOWN:
                break
    if findings.is_journal and not any(problem.page == 1 for problem in problems):
        check_version(database, findings.schema)
    if problems:
        raise _damage_of(database, problems, findings.mark)
    return findings


def check_version(database: Path, version: int) -> None:
    """Refuse a journal of a schema that is not known yet.

    Raises:
        ConfigError: a newer version wrote it.
    """
    if version > SCHEMA_VERSION:
        raise ConfigError(
            f"{database} was written by a newer agent-journald (its schema is {version}, "
            f"this one knows {SCHEMA_VERSION}); run that version, or choose another --database"
        )


def make_void(findings: Findings) -> None:
    """Empty a WAL of which nothing counts: SQLite would read it."""
    if findings.is_log_void:
        os.truncate(findings.wal.path, 0)


def _damage_of(database: Path, problems: list[Problem], mark: Mark | None) -> DamagedError:
    shown = "; ".join(problem.text for problem in problems[:PROBLEMS_SHOWN])
    if len(problems) > PROBLEMS_SHOWN:
        shown += "; and more"
    details: dict[str, object] = {"part": problems[0].part}
    if problems[0].page:
        details["page"] = problems[0].page
    if mark is not None and mark.scrubbed_at:
        whole_at = details["whole_at"] = render_timestamp(mark.scrubbed_at)
        shown += f" (all of it was last found whole at {whole_at})"
    return damage(database, DamagedError(shown, **details))


def damage(database: Path, error: Exception) -> DamagedError:
    """Return the error that says what is wrong with a journal, and what to do."""
    details = error.details if isinstance(error, DamagedError) else {}
    if "path" in details:
        return DamagedError(str(error), **details)
    return DamagedError(
        f"{database} is damaged: {error}. {advice(database)}", **details, path=str(database)
    )


def advice(database: Path) -> str:
    """Say what is to be done with a damaged journal."""
    return (
        "Nothing of it is served and nothing was changed. Keep its files as they are; look at "
        f"them with `agent-journal verify --offline {database}`; then stop the daemon and put a "
        "backup back with `agent-journal restore`, or go on with what is left with "
        "`agent-journal accept-loss`"
    )


def _header(database: Path) -> tuple[bytes, int]:
    with suppress(FileNotFoundError):
        descriptor = os.open(database, os.O_RDONLY | os.O_CLOEXEC)
        try:
            return os.pread(descriptor, _HEADER_BYTES, 0), os.fstat(descriptor).st_size
        finally:
            os.close(descriptor)
    return b"", 0


def _page_bytes(header: bytes) -> int:
    """Return the page size that a database names, 0 if it is none."""
    if len(header) < _HEADER_BYTES or not header.startswith(_MAGIC):
        return 0
    size: int = _SHORT.unpack_from(header, 16)[0]
    size = 65536 if size == 1 else size
    return size if size >= 512 and not size & (size - 1) else 0  # noqa: PLR2004 - SQLite's least
