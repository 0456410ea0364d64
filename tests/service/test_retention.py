"""Retention: who goes, in which order, what is archived before, and who never goes."""

from __future__ import annotations

import gzip
import hashlib
import json
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

from agent_journal.model import Uid
from agent_journal.service.config_retention import Retention as Options
from agent_journal.service.retention import ByHand, ByRule, Retention
from agent_journal.store.base import Space
from agent_journal.store.memory import MemoryStore
from agent_journal.wire import render_timestamp
from helpers import ALICE, BOB, Service, append, code_of, terminated

DAY = 86_400


def timestamp(days_ago: float, service: Service) -> str:
    """Return a moment so long before the service's now."""
    micros = service.clock.wall_us() - int(days_ago * DAY * 1_000_000)
    return render_timestamp(micros)


async def ended(  # noqa: PLR0913 - who, when and how
    service: Service,
    agent_id: str,
    days_ago: float,
    *,
    reason: str = "Completed",
    kind: str | None = None,
    uid: Uid = ALICE,
) -> None:
    """Record an agent that ended so long ago."""
    client = service.connect(uid)
    at, epoch = timestamp(days_ago, service), {}
    if kind is not None:
        attached = await client.ask_one({"op": "attach", "agent_id": agent_id, "kind": kind})
        epoch = {"epoch": attached["epoch"]}
    await client.ask(
        append(agent_id, timestamp=at, key=f"k-{agent_id}", **epoch),
        terminated(agent_id, reason=reason, timestamp=at, **epoch),
    )


async def agents_of(service: Service) -> list[str]:
    """Return who is there, of everybody."""
    found, _ = await service.store.agents(uid=None, state=None, kind=None, after=-1, limit=1000)
    return sorted(record.agent_id for record in found)


async def apply(service: Service, **options: Any) -> None:
    """Have the configuration's rules be applied once."""
    config = service.context.config
    service.context.config = replace(config, retention=Options(**options))
    await Retention(service.context)._apply()


async def test_who_ended_long_enough_ago_goes_and_nobody_else() -> None:
    async with Service() as service:
        for days in (1, 29, 31, 400):
            await ended(service, f"completed-{days}", days)
            await ended(service, f"failed-{days}", days, reason="Error")
            await service.connect().ask_one(
                append(f"running-{days}", timestamp=timestamp(days, service))
            )
        await apply(service)
        assert len(await agents_of(service)) == 12  # off by default
        await apply(service, completed_days=30)
        gone = {"completed-31", "completed-400"}
        assert not gone & {*await agents_of(service)}
        assert len(await agents_of(service)) == 10
        await apply(service, failed_days=0.5, cancelled_days=1)
        assert [one for one in await agents_of(service) if "failed" in one] == []
        assert len([one for one in await agents_of(service) if "running" in one]) == 4
        assert code_of(await service.connect().ask_one({"op": "read", "agent_id": "failed-1"})) == (
            "not_found"
        )


async def test_a_kind_has_its_own_rules() -> None:
    """What it does not say for itself holds for it as for all."""
    async with Service() as service:
        for kind in (None, "nightly", "audit"):
            for days in (2, 40):
                await ended(service, f"{kind}-{days}", days, kind=kind)
        kinds = {"nightly": {"completed_days": 1}, "audit": {"completed_days": 0}}
        await apply(service, completed_days=30, kinds=MappingProxyType(kinds))
        assert await agents_of(service) == ["None-2", "audit-2", "audit-40"]


async def test_agents_of_everybody_are_looked_at() -> None:
    async with Service() as service:
        await ended(service, "a", 5)
        await ended(service, "a", 5, uid=BOB)
        await ended(service, "b", 0.5, uid=BOB)
        await apply(service, completed_days=1)
        assert await agents_of(service) == ["b"]


async def test_the_first_that_ended_go_until_the_journal_is_small_enough() -> None:
    """But for kinds that are spared, and for agents that have not ended."""

    class Sized(MemoryStore):
        async def space(self) -> Space:
            found, _ = await self.agents(uid=None, state=None, kind=None, after=-1, limit=999)
            return Space(file_bytes=1024 * len(found), free_bytes=0)

    async with Service(Sized()) as service:
        for days in (9, 3, 7, 5):
            await ended(service, f"a-{days}", days)
            await ended(service, f"b-{days}", days + 1, reason="Error")
            await ended(service, f"spared-{days}", days * 100, kind="audit")
        await service.connect().ask_one(append("running", timestamp=timestamp(999, service)))
        kinds = {"audit": {"is_spared_by_size": True}}
        await apply(service, journal_bytes_max=9 * 1024, kinds=MappingProxyType(kinds))
        left = await agents_of(service)
        assert [one for one in left if one[0] in "ab"] == ["a-3", "a-5", "b-3", "b-5"]
        assert len(left) == 9
        await apply(service, journal_bytes_max=1, kinds=MappingProxyType(kinds))
        assert await agents_of(service) == [
            "running", "spared-3", "spared-5", "spared-7", "spared-9"
        ]  # fmt: skip


async def test_an_agent_that_began_again_meanwhile_stays() -> None:
    """It was found among those that ended, and by the time of its removal it had not."""
    async with Service() as service:
        await ended(service, "a", 5)
        retention = Retention(service.context)
        wanted = ByRule(options=Options(completed_days=1), now=service.context.now)
        plan = await retention.plan(wanted)
        assert [record.agent_id for record in plan.records] == ["a"]
        await service.connect().ask({"op": "compact", "agent_id": "a"}, append())
        assert await retention._remove_one(plan.records[0], plan.ended_before) is None
        assert await agents_of(service) == ["a"]


async def test_what_goes_is_archived_before_in_a_file_that_can_be_imported(
    tmp_path: Path,
) -> None:
    archive = tmp_path / "archive"
    async with Service() as service:
        for number in range(40):
            await ended(service, f"a-{number}", 5, uid=(ALICE, BOB)[number % 2])
        await ended(service, "emptied", 5)
        await service.connect().ask_one({"op": "compact", "agent_id": "emptied"})
        service.clock.advance(10 * DAY)
        await apply(service, completed_days=1, archive=archive)
        assert await agents_of(service) == []
        assert service.context.metrics.agents_removed == 41
        (told,) = [call for call in service.log.calls if call.args == ("agents_removed",)]
        assert told.kwargs == {"agents": 41, "entries": 80, "archives": 1}
    (file,) = archive.iterdir()
    assert file.name.endswith(".ndjson.gz")
    assert (file.stat().st_mode & 0o777, archive.stat().st_mode & 0o777) == (0o600, 0o700)
    lines = gzip.decompress(file.read_bytes()).splitlines(keepends=True)
    begin, *inner, end = map(json.loads, lines)
    assert begin == {"export": {"format": 1}}
    agents = [line for line in inner if "agent" in line]
    assert {(line["uid"], line["agent"]["agent_id"]) for line in agents} == {
        ((ALICE, BOB)[number % 2], f"a-{number}") for number in range(40)
    }
    assert [line["key"] for line in inner if line.get("sequence") == 0] == [
        f"k-{line['agent']['agent_id']}" for line in agents
    ]
    digest = hashlib.sha256(b"".join(lines[:-1])).hexdigest()
    assert end == {"end": {"agents": 40, "entries": 80, "sha256": digest}}


async def test_what_cannot_be_archived_is_kept(tmp_path: Path) -> None:
    """And it is told why, without anything of it."""
    blocked = tmp_path / "file"
    blocked.write_text("not a directory")
    async with Service() as service:
        await ended(service, "a", 5)
        with pytest.raises(OSError, match=r"are kept: .*correct retention\.archive"):
            await apply(service, completed_days=1, archive=blocked)
        assert await agents_of(service) == ["a"]
        assert service.context.metrics.archives_failed == 1
    assert blocked.is_file()


async def test_a_disk_that_is_full_for_the_archive_leaves_no_half_of_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    async with Service() as service:
        await ended(service, "a", 5)
        monkeypatch.setattr("agent_journal.service.archiving.os.fsync", full)
        with pytest.raises(OSError, match="No space left"):
            await apply(service, completed_days=1, archive=tmp_path / "new")
        assert await agents_of(service) == ["a"]
        assert [*(tmp_path / "new").iterdir()] == []
        monkeypatch.undo()
        await apply(service, completed_days=1, archive=tmp_path / "new")
        assert await agents_of(service) == []
        assert len([*(tmp_path / "new").iterdir()]) == 1


async def test_a_large_removal_goes_in_small_transactions() -> None:
    """So that nobody waits behind more than a few of them."""
    async with Service() as service:
        for number in range(50):
            await ended(service, f"a-{number}", 5)
        before = len(service.store.batches)
        await apply(service, completed_days=1)
        sizes = [len(batch.changes) for batch in service.store.batches[before:] if batch.changes]
        assert sum(sizes) == 50
        assert max(sizes) <= 16


class TestByHand:
    async def test_a_person_removes_by_time_state_and_kind(self) -> None:
        async with Service() as service:
            service.context.retention = retention = Retention(service.context)
            for days in (1, 5):
                await ended(service, f"a-{days}", days, kind="k")
                await ended(service, f"b-{days}", days, reason="Error")
            before = service.clock.wall_us() - 3 * DAY * 1_000_000
            options = Options()
            assert await retention.remove_some(ByHand(options=options, before=0)) is None
            removed = await retention.remove_some(ByHand(options=options, before=before, kind="k"))
            assert removed is not None
            assert (removed.agents, removed.entries) == (1, 3)
            assert await agents_of(service) == ["a-1", "b-1", "b-5"]

    async def test_only_an_operator_may(self) -> None:
        async with Service() as service:
            service.context.retention = Retention(service.context)
            client = service.connect()
            for request in ({"op": "vacuum", "kind": "k"}, {"op": "disk_usage"}):
                assert code_of(await client.ask_one(request)) == "forbidden"

    async def test_what_is_asked_for_is_checked_before_anything_goes(self) -> None:
        async with Service() as service:
            service.context.retention = Retention(service.context)
            await ended(service, "a", 5)
            root = service.connect(Uid(0))
            for fields in ({}, {"states": ["running"]}, {"kind": "no kind"}):
                reply = await root.ask_one({"op": "vacuum", **fields})
                assert code_of(reply) == "invalid", fields
            told = await root.ask_one({"op": "vacuum", "states": ["completed"], "dry_run": True})
            assert (told["agents"], told["more"]) == (1, False)
            assert await agents_of(service) == ["a"]
            reply = await root.ask_one({"op": "vacuum", "states": ["completed"]})
            assert (reply["agents"], reply["more"]) == (1, True)
            assert (await root.ask_one({"op": "vacuum", "states": ["completed"]}))["more"] is False
