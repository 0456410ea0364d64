"""The model of a disk that power cuts are tried on, on examples that one can check by hand."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from crash.power.disk import WHOLE, Choice, Disk, Files, Kept, choose
from crash.power.trace import (
    Event,
    Named,
    Resize,
    SyncBegun,
    Synced,
    Trace,
    Unnamed,
    Write,
)

BASE = {"db": b"A" * 1024, "other": b"O" * 512}
DB, OTHER, NEW = 0, 1, 2


def after(model: str, events: Sequence[Event]) -> Disk:
    disk = Disk(Trace(dict(BASE), [], list(events)), model)
    for index, event in enumerate(events):
        disk.follow(index, event)
    return disk


def left(disk: Disk, how: str = "none", number: int = 0, model: str = "strict") -> Files:
    return disk.left(choose(Choice(model, how, number), disk.pending))


@pytest.mark.parametrize("model", ["strict", "ext4"])
def test_what_is_not_synced_may_be_lost_or_kept(model: str) -> None:
    disk = after(model, [Write(DB, 0, b"B" * 512, 1024)])
    assert left(disk, "none", model=model)["db"] == BASE["db"]
    assert left(disk, "all", model=model)["db"] == b"B" * 512 + b"A" * 512


@pytest.mark.parametrize("model", ["strict", "ext4"])
def test_what_is_synced_is_there(model: str) -> None:
    disk = after(model, [Write(DB, 0, b"B" * 512, 1024), SyncBegun(), Synced(DB, None, 1)])
    assert not disk.pending
    assert left(disk, model=model)["db"] == b"B" * 512 + b"A" * 512


@pytest.mark.parametrize("model", ["strict", "ext4"])
def test_a_sync_covers_what_was_written_before_it_began(model: str) -> None:
    events = [SyncBegun(), Write(DB, 0, b"B" * 512, 1024), Synced(DB, None, 0)]
    assert left(after(model, events), model=model)["db"] == BASE["db"]


def test_a_sync_is_of_its_own_file() -> None:
    disk = after("strict", [Write(DB, 0, b"B", 1024), SyncBegun(), Synced(OTHER, None, 1)])
    assert left(disk)["db"] == BASE["db"]


def test_a_write_is_torn_at_sectors() -> None:
    disk = after("strict", [Write(DB, 0, b"B" * 1024, 1024)])
    assert disk.left([Kept(frozenset({1}))])["db"] == b"A" * 512 + b"B" * 512


def test_a_file_may_have_grown_by_what_was_not_written() -> None:
    disk = after("strict", [Write(DB, 1024, b"B" * 512, 1024)])
    assert disk.left([Kept(fill=b"\0")])["db"] == BASE["db"] + bytes(512)


def test_a_later_write_alone_leaves_a_hole_of_zeros() -> None:
    events = [Write(DB, 1024, b"B" * 512, 1024), Write(DB, 1536, b"C" * 512, 1536)]
    assert left(after("strict", events), "keep", 1)["db"] == BASE["db"] + bytes(512) + b"C" * 512


def test_on_ext4_a_file_does_not_grow_past_what_was_not_written() -> None:
    events = [Write(DB, 1024, b"B" * 512, 1024), Write(DB, 1536, b"C" * 512, 1536)]
    assert left(after("ext4", events), "keep", 1, "ext4")["db"] == BASE["db"]


def test_on_ext4_what_is_written_over_what_was_lost_is_lost() -> None:
    events = [Write(DB, 1024, b"B" * 512, 1024), Write(DB, 1024, b"C" * 512, 1536)]
    assert left(after("ext4", events), "keep", 1, "ext4")["db"] == BASE["db"]


class TestNames:
    NEW_FILE = (Named("new", NEW), Write(NEW, 0, b"N", 0), SyncBegun(), Synced(NEW, None, 2))

    def test_a_synced_file_may_have_no_name(self) -> None:
        assert "new" not in left(after("strict", self.NEW_FILE))

    def test_its_directory_makes_it_durable(self) -> None:
        events = [*self.NEW_FILE, SyncBegun(), Synced(None, "", 4)]
        assert left(after("strict", events))["new"] == b"N"

    def test_on_ext4_its_own_sync_does(self) -> None:
        assert left(after("ext4", self.NEW_FILE), model="ext4")["new"] == b"N"

    def test_a_name_may_be_there_and_nothing_else(self) -> None:
        disk = after("strict", self.NEW_FILE[:2])
        assert left(disk, "keep", 0)["new"] == b""

    def test_a_removed_name_may_come_back(self) -> None:
        disk = after("strict", [Unnamed("db")])
        assert left(disk)["db"] == BASE["db"]
        assert "db" not in left(disk, "all")

    def test_a_rename_is_all_or_nothing(self) -> None:
        disk = after("strict", [Named("other", DB, before="db")])
        assert left(disk) == BASE
        assert left(disk, "all") == {"other": BASE["db"]}

    def test_on_ext4_names_are_kept_in_order(self) -> None:
        disk = after("ext4", [Unnamed("db"), Unnamed("other")])
        assert left(disk, "keep", 1, "ext4") == BASE
        assert left(disk, "keep", 0, "ext4") == {"other": BASE["other"]}


def test_a_size_may_be_lost_or_kept() -> None:
    disk = after("strict", [Resize(DB, 512)])
    assert left(disk)["db"] == BASE["db"]
    assert left(disk, "all")["db"] == BASE["db"][:512]


def test_what_a_durable_size_cut_off_does_not_come_back() -> None:
    events = [
        Write(DB, 1024, b"B" * 512, 1024),
        Resize(DB, 512),
        SyncBegun(),
        Synced(None, "", 2),  # on ext4, any commit of the journal takes the size along
    ]
    disk = after("ext4", events)
    assert disk.left([WHOLE] * len(disk.pending))["db"] == BASE["db"][:512]
