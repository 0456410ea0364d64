"""The scan of the write-ahead log: what a power cut can leave is never refused, rot is."""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent_journal.store.wal_checksum import behind, checksum_of, frame_sums
from agent_journal.store.wal_scan import WalVerdict, scan, wal_path

PAGE = 1024  # small, so that a WAL of many frames is
FRAME = PAGE + 24
SECTOR = 512

Size = Callable[[int, int], int]
Figures = Callable[..., None]


class Step(NamedTuple):
    """A commit: the WAL before and after it."""

    before: bytes
    after: bytes
    commits: int  # in the WAL that is in use, this one among them
    is_first: bool  # the WAL was begun anew by it


@contextmanager
def opened(path: Path) -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute(f"PRAGMA page_size={PAGE}")
        connection.execute("PRAGMA locking_mode=EXCLUSIVE")
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA wal_autocheckpoint=0")
        yield connection


def history(path: Path, chance: random.Random, commits: int) -> list[Step]:
    """Return the steps of a WAL that was begun anew at times, with old frames behind."""
    steps: list[Step] = []
    since = 0
    with opened(path) as connection:
        connection.execute("CREATE TABLE t (a INTEGER PRIMARY KEY, b BLOB)")
        while len(steps) < commits:
            before = wal_path(path).read_bytes()
            connection.execute("BEGIN")
            for _ in range(chance.choice([1, 1, 2, 9])):
                if chance.random() < 0.3:
                    connection.execute("UPDATE t SET b = zeroblob(9) WHERE a % 5 = 1")
                size = chance.choice([5, 300, 3000])
                connection.execute("INSERT INTO t (b) VALUES (?)", (chance.randbytes(size),))
            connection.execute("COMMIT")
            after = wal_path(path).read_bytes()
            is_first = before[:32] != after[:32]
            since = 1 if is_first else since + 1
            if not is_first and not steps:
                since = 2  # behind CREATE TABLE
            steps.append(Step(before, after, since, is_first))
            if chance.random() < 0.15:
                connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
    return steps


def torn(step: Step, chance: random.Random) -> bytes:
    """Return a WAL that a power cut amid the step's sync can leave."""
    base = step.after[:32] + step.before[32:] if step.is_first else step.before
    # The header is synced before any frame is written.
    length = chance.randint(len(base), max(len(base), len(step.after)))
    length = chance.choice([len(base), len(step.after), length])
    content = bytearray(base.ljust(length, b"\0")[:length])
    keep = chance.choice([0.0, 0.1, 0.5, 0.9, 1.0])
    for at in range(0, length, SECTOR):
        if chance.random() < keep:
            content[at : at + SECTOR] = step.after[at : at + SECTOR][: length - at]
    return bytes(content)


def verdict_of(path: Path, content: bytes) -> WalVerdict:
    path.write_bytes(content)
    return scan(path, page_bytes=PAGE)


def flipped(content: bytes, bit: int) -> bytes:
    changed = bytearray(content)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


@pytest.mark.sized
@pytest.mark.timeout(600)
def test_what_a_power_cut_can_leave_is_never_refused(
    tmp_path: Path, size: Size, seed: str, figures: Figures
) -> None:
    """And every commit that was synced before it is there."""
    chance = random.Random(seed)  # noqa: S311 - not for a secret
    states = 0
    wanted = size(2_000, 100_000)
    while states < wanted:
        steps = history(tmp_path / f"{states}.db", chance, 40)
        for step in steps:
            for _ in range(10):
                verdict = verdict_of(tmp_path / "state", torn(step, chance))
                assert verdict.damage is None
                assert verdict.commits >= step.commits - 1
                states += 1
            if step.is_first:  # not even the header has reached the disk
                assert verdict_of(tmp_path / "state", step.before).damage is None
    figures(states=states, refused=0)


def may_be_missed(content: bytes, whole: WalVerdict, bit: int) -> bool:
    """Tell whether the docstring of ``wal_scan`` says of a flip that it can't be seen."""
    ends = [
        place
        for place in range(whole.frames)
        if int.from_bytes(content[32 + place * FRAME + 4 : 32 + place * FRAME + 8], "big")
    ]
    last = ends[-2] + 1 if len(ends) > 1 else 0
    frame = max(bit // 8 - 32, 0) // FRAME
    if bit // 8 >= 32 and frame >= last:
        return True  # of the last transaction, or behind it
    if len(ends) < 2 or frame != ends[-2]:
        return False
    begin = 32 + frame * FRAME
    is_cut = begin // SECTOR != (begin + 8) // SECTOR
    pages = int.from_bytes(content[begin + 4 : begin + 8], "big")
    at = bit // 8 - begin - 4
    says_none = 0 <= at < 4 and pages == 1 << (8 * (3 - at) + bit % 8)
    return is_cut or says_none


@pytest.mark.sized
@pytest.mark.timeout(600)
def test_a_flipped_bit_that_would_drop_an_older_commit_is_refused(
    tmp_path: Path, size: Size, seed: str, figures: Figures
) -> None:
    """Each that is not refused, and is not one of those named, changes nothing."""
    chance = random.Random(seed)  # noqa: S311 - not for a secret
    seen = refused = missed = 0
    wanted = size(1_500, 50_000)
    while seen < wanted:
        step = history(tmp_path / f"{seen}.db", chance, 30)[-1]
        whole = verdict_of(tmp_path / "state", step.after)
        alive = 32 + whole.frames * FRAME
        for _ in range(100):
            bit = chance.randrange(alive * 8)
            if chance.random() < 0.3:  # headers are few, and matter most
                bit = (32 + chance.randrange(whole.frames) * FRAME) * 8 + chance.randrange(24 * 8)
            if chance.random() < 0.05:
                bit = chance.randrange(32 * 8)
            verdict = verdict_of(tmp_path / "state", flipped(step.after, bit))
            seen += 1
            if verdict.damage is not None:
                refused += 1
            elif verdict.frames != whole.frames:
                assert may_be_missed(step.after, whole, bit), f"bit {bit}"
                missed += 1
    assert refused
    figures(flips=seen, refused=refused, of_the_last_commit=missed)


def test_it_recovers_what_sqlite_does(tmp_path: Path) -> None:
    """Pages and commits are those that SQLite reads from the same files."""
    chance = random.Random(7)  # noqa: S311 - not for a secret
    for round_ in range(10):
        path = tmp_path / f"{round_}.db"
        steps = history(path, chance, 12)
        state = tmp_path / f"state{round_}.db"
        state.write_bytes(path.read_bytes())
        content = torn(steps[-1], chance)
        wal_path(state).write_bytes(content)
        verdict = scan(wal_path(state), page_bytes=PAGE)
        pages = dict(verdict.pages_in())
        with closing(sqlite3.connect(state)) as connection:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
            (count,) = connection.execute("PRAGMA page_count").fetchone()
        found = state.read_bytes()
        assert not verdict.frames or count == verdict.pages
        assert all(found[(page - 1) * PAGE : page * PAGE] == pages[page] for page in pages)


class TestHeaders:
    @pytest.fixture
    def content(self, tmp_path: Path) -> bytes:
        return history(tmp_path / "j.db", random.Random(3), 6)[-1].after  # noqa: S311

    def test_no_log_and_an_empty_one_hold_nothing(self, tmp_path: Path) -> None:
        assert scan(tmp_path / "none", page_bytes=PAGE).frames == 0
        empty = verdict_of(tmp_path / "state", b"")
        assert (empty.frames, empty.has_header, empty.damage) == (0, False, None)

    @pytest.mark.parametrize("length", [1, 31, 32, 33, 32 + FRAME - 1])
    def test_a_log_that_has_only_begun_holds_nothing(
        self, tmp_path: Path, content: bytes, length: int
    ) -> None:
        verdict = verdict_of(tmp_path / "state", content[:length])
        assert (verdict.frames, verdict.damage) == (0, None)

    @pytest.mark.parametrize("bit", range(0, 32 * 8, 5))
    def test_a_bad_header_before_good_frames_is_damage(
        self, tmp_path: Path, content: bytes, bit: int
    ) -> None:
        assert verdict_of(tmp_path / "state", flipped(content, bit)).damage is not None

    def test_zeros_before_good_frames_are_damage(self, tmp_path: Path, content: bytes) -> None:
        assert verdict_of(tmp_path / "state", bytes(32) + content[32:]).damage is not None

    def test_another_page_size_than_the_databases_is_damage(
        self, tmp_path: Path, content: bytes
    ) -> None:
        (tmp_path / "state").write_bytes(content)
        assert scan(tmp_path / "state", page_bytes=PAGE * 2).damage is not None

    def test_zeros_alone_are_an_empty_log(self, tmp_path: Path) -> None:
        assert verdict_of(tmp_path / "state", bytes(32 + 3 * FRAME)).damage is None

    def test_it_tells_how_far_it_is(self, tmp_path: Path, content: bytes) -> None:
        seen: list[tuple[int, int]] = []
        (tmp_path / "state").write_bytes(content)
        scan(tmp_path / "state", on_progress=lambda done, total: seen.append((done, total)))
        assert seen
        assert seen[-1][0] <= seen[-1][1] == len(content)


@given(
    frames=st.lists(st.binary(min_size=24 + 16, max_size=24 + 16), min_size=1, max_size=5),
    order=st.sampled_from(["little", "big"]),
    before=st.tuples(st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1)),
)
def test_sums_side_by_side_are_what_a_loop_gives(
    frames: list[bytes], order: str, before: tuple[int, int]
) -> None:
    """For frames of any content, behind any checksum, in both orders of bytes."""
    sums = frame_sums(b"".join(frames), 40, 24, order)  # type: ignore[arg-type]
    for frame, added in zip(frames, sums, strict=True):
        summed = frame[:8] + frame[24:]
        expected = checksum_of(summed, order, before)  # type: ignore[arg-type]
        assert behind(before, added, len(summed)) == expected


def test_the_scan_leaves_the_file_as_it_is(tmp_path: Path) -> None:
    content = history(tmp_path / "j.db", random.Random(1), 3)[-1].after  # noqa: S311
    state = tmp_path / "state"
    state.write_bytes(flipped(content, 5000))
    before = state.stat()
    scan(state, page_bytes=PAGE)
    assert state.stat().st_mtime_ns == before.st_mtime_ns
