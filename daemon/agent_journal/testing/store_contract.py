"""What every backend promises, as tests: each backend's own test module inherits them.

    class TestMemoryStore(StoreContract):
        def make_store(self, directory: Path) -> Store:
            return MemoryStore()

A store that outlives its process inherits ``DurableStoreContract`` (in
``durable_contract``), which restarts it too.  After each test everything the
store holds is compared with a plain model of it (``plain_journal``).  Those on
attachments and copies are in ``holding_contract``.

Ten of these are the tests of the journal that this project grew from: a storage
(store and read, read from, latest sequence, compact, isolation) and the journal
on it (append and replay, replay from, initialise, compact, last completed
iteration).  Where it had a fault, the test says what is right.

Needs pytest, pytest-asyncio in its automatic mode, and hypothesis.
"""
# ruff: noqa: S101, PLR2004, D102 - these are tests: they assert, their names are sentences

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import ClassVar

import pytest

from ..model import AgentId, AgentState, Position, Uid
from ..store.base import AgentRecord, Batch, Filter, Store
from .holding_contract import HoldingContract
from .plain_journal import OWNER, PlainJournal, list_all, read_all, scan_all
from .retention_contract import RetentionContract
from .store_machine import EXAMPLES, run_store_machine

MIB = 1 << 20
OTHER = Uid(OWNER + 1)


async def record_of(store: Store, agent_id: str, uid: Uid = OWNER) -> AgentRecord:
    """Return what *store* knows of an agent that it must know."""
    (record,) = await store.load([(uid, AgentId(agent_id))])
    assert record is not None
    return record


class StoreContract(HoldingContract, RetentionContract):
    """What holds of every store while it is open."""

    examples: ClassVar[int] = EXAMPLES  # how many random histories are tried

    def make_store(self, directory: Path) -> Store:
        """Return a store whose files, if it has any, are in *directory*."""
        raise NotImplementedError("say in your subclass how your store is made")

    @pytest.fixture
    async def journal(self, tmp_path: Path) -> AsyncIterator[PlainJournal]:
        """Give a writer on an open store; hold the store to what was written."""
        store = self.make_store(tmp_path)
        await store.open()
        journal = PlainJournal(store)
        try:
            yield journal
            await journal.check()
            await journal.keep_house()
            await journal.check(page=1000)
        finally:
            await journal.store.close()

    # The seed's tests of its storage

    async def test_entries_are_read_as_they_were_stored(self, journal: PlainJournal) -> None:
        """Store and read: every field comes back as it went in, in order."""
        journal.add("a", b'{"Started":{"goal":"x"}}', iteration=0)
        journal.add("a", '{"Noted":"\\u00e4 ä 💾"}'.encode(), iteration=1, timestamp=-5)
        await journal.commit()
        record = await record_of(journal.store, "a")
        first, second = await read_all(journal.store, record)
        assert (first.sequence, first.iteration) == (0, 0)
        assert first.event == b'{"Started":{"goal":"x"}}'
        assert (second.sequence, second.iteration, second.timestamp) == (1, 1, -5)
        assert second.event == '{"Noted":"\\u00e4 ä 💾"}'.encode()

    async def test_reading_begins_at_the_sequence_asked_for(self, journal: PlainJournal) -> None:
        """Read from 3 of 5: the last two."""
        for iteration in range(5):
            journal.add("a", iteration=iteration)
            await journal.commit()
        record = await record_of(journal.store, "a")
        entries = await read_all(journal.store, record, from_sequence=3)
        assert [entry.sequence for entry in entries] == [3, 4]
        assert await read_all(journal.store, record, from_sequence=5) == []
        assert await read_all(journal.store, record, from_sequence=2**62) == []

    async def test_an_empty_agent_and_one_with_one_entry_differ(
        self, journal: PlainJournal
    ) -> None:
        """Latest sequence: the seed's is 0 for both, so ``next_sequence`` tells them apart.

        Nor can a sequence be left out, as the seed allows: the store is given
        neighbours, and the next sequence is the number of entries.
        """
        assert await journal.store.load([(OWNER, AgentId("a"))]) == [None]
        await journal.append("a")
        assert (await record_of(journal.store, "a")).next_sequence == 1
        await journal.append("a", b'{"B":1}', b'{"C":2}')
        assert (await record_of(journal.store, "a")).next_sequence == 3

    async def test_compaction_removes_the_entries_and_keeps_the_agent(
        self, journal: PlainJournal
    ) -> None:
        """Compact: two entries are gone, and the agent is still known, empty."""
        await journal.append("a", b'{"A":1}', b'{"B":2}')
        ended = await record_of(journal.store, "a")
        assert journal.compact("a") == 2
        await journal.commit()
        record = await record_of(journal.store, "a")
        assert record.next_sequence == 0
        assert record.first_position == ended.first_position
        assert record.number != ended.number
        assert await read_all(journal.store, record) == []
        assert await scan_all(journal.store) == []

    async def test_agents_do_not_see_each_others_entries(self, journal: PlainJournal) -> None:
        """Isolation: neither another's entries nor another's compaction is felt."""
        await journal.append("a")
        await journal.append("b")
        await journal.append("a")
        await journal.append("a", uid=OTHER)
        assert len(await read_all(journal.store, await record_of(journal.store, "a"))) == 2
        assert len(await read_all(journal.store, await record_of(journal.store, "b"))) == 1
        journal.compact("a")
        await journal.commit()
        assert await read_all(journal.store, await record_of(journal.store, "a")) == []
        assert len(await read_all(journal.store, await record_of(journal.store, "b"))) == 1
        others = await record_of(journal.store, "a", OTHER)
        assert len(await read_all(journal.store, others)) == 1

    # The seed's tests of its journal

    async def test_what_was_appended_is_replayed(self, journal: PlainJournal) -> None:
        """Append and replay: the journal numbers the entries, the caller does not."""
        await journal.append("a")
        await journal.append("a")
        record = await record_of(journal.store, "a")
        assert record.next_sequence == 2
        assert [entry.sequence for entry in await read_all(journal.store, record)] == [0, 1]

    async def test_replay_begins_where_it_is_asked_to(self, journal: PlainJournal) -> None:
        """Replay from 3 of 5, all of one iteration: two entries."""
        for _ in range(5):
            await journal.append("a")
        record = await record_of(journal.store, "a")
        assert len(await read_all(journal.store, record, from_sequence=3)) == 2

    async def test_numbering_goes_on_behind_what_is_there(self, journal: PlainJournal) -> None:
        """Initialise: the seed goes on with 2 after 0, 1, 2 and so gives 2 twice; 3 is right."""
        for iteration in range(3):
            journal.add("a", iteration=iteration)
            await journal.commit()
        assert (await record_of(journal.store, "a")).next_sequence == 3
        await journal.append("a")
        record = await record_of(journal.store, "a")
        assert record.next_sequence == 4
        assert [entry.sequence for entry in await read_all(journal.store, record)] == [0, 1, 2, 3]

    async def test_a_compacted_agent_begins_again_at_zero(self, journal: PlainJournal) -> None:
        """Compact: the next sequence is 0 again, in a history without the old one's entries."""
        await journal.append("a", b'{"Old":1}', b'{"Old":2}')
        assert journal.compact("a") == 2
        await journal.commit()
        assert (await record_of(journal.store, "a")).next_sequence == 0
        await journal.append("a", b'{"New":1}')
        record = await record_of(journal.store, "a")
        assert [(e.sequence, e.event) for e in await read_all(journal.store, record)] == [
            (0, b'{"New":1}')
        ]

    async def test_the_last_iteration_is_the_greatest(self, journal: PlainJournal) -> None:
        """Last completed iteration: 0 for none, else the greatest, in whatever order they came."""
        await journal.append("a")
        assert (await record_of(journal.store, "a")).last_iteration == 0
        for iteration, last in ((3, 3), (7, 7), (5, 7), (2**32 - 1, 2**32 - 1)):
            journal.add("a", iteration=iteration)
            await journal.commit()
            assert (await record_of(journal.store, "a")).last_iteration == last
        journal.compact("a")
        await journal.commit()
        assert (await record_of(journal.store, "a")).last_iteration == 0

    # Batches and positions

    async def test_a_batch_that_changes_nothing_is_allowed(self, journal: PlainJournal) -> None:
        """An empty batch is durable at once, and takes no position."""
        before = await journal.append("a")
        assert await journal.store.commit(Batch()) == before + 1
        assert await journal.append("a") == before + 1

    async def test_a_batch_takes_neighbouring_positions(self, journal: PlainJournal) -> None:
        await journal.append("a")
        for agent_id in ("a", "b", "a", "c", "b"):
            journal.add(agent_id)
        first = await journal.commit()
        positions = [entry.position for _, entry in await scan_all(journal.store)]
        assert positions[1:] == [*range(first, first + 5)]

    @pytest.mark.parametrize("is_kept_up", [False, True], ids=["at_once", "swept"])
    async def test_positions_only_rise_though_the_newest_were_removed(
        self, journal: PlainJournal, *, is_kept_up: bool
    ) -> None:
        """A position is never given twice, as a reader may have seen it."""
        await journal.append("a")
        for _ in range(3):
            last = await journal.append("b", *[b'{"B":0}'] * 10)
            journal.compact("b")
            await journal.commit()
            if is_kept_up:
                await journal.keep_house()
            assert await journal.append("c") >= last + 10

    async def test_a_change_and_a_compaction_of_one_batch_are_taken_in_order(
        self, journal: PlainJournal
    ) -> None:
        """A batch may hold an agent's end, its compaction and its next beginning."""
        journal.add("a", b'{"First":1}')
        journal.finish("a")
        journal.compact("a")
        journal.add("a", b'{"Second":1}')
        journal.add("b")
        journal.finish("a", reason="Error")
        await journal.commit()
        record = await record_of(journal.store, "a")
        assert (record.state, record.reason, record.next_sequence) == ("failed", "Error", 2)
        await journal.check()
        journal.compact("a")
        journal.compact("a")
        journal.add("a")
        await journal.commit()
        assert (await record_of(journal.store, "a")).state is AgentState.RUNNING

    async def test_large_entries_come_back_whole(self, journal: PlainJournal) -> None:
        """Several MiB an event, beside small neighbours of the same batch."""
        sizes = (1, 3 * MIB, 10, 2 * MIB, 5 * MIB, 0)
        for size in sizes:
            journal.add("a", b'{"Blob":"%b"}' % (b"x" * size))
            journal.add("b")
        await journal.commit()
        record = await record_of(journal.store, "a")
        for bytes_max in (1, 4 * MIB):
            entries = await read_all(journal.store, record, bytes_max=bytes_max)
            assert [len(entry.event) for entry in entries] == [size + 11 for size in sizes]

    async def test_many_agents_are_kept_apart(self, journal: PlainJournal) -> None:
        for agent in [*range(600), *range(0, 600, 7)]:
            journal.add(f"agent-{agent}", b'{"Of":%d}' % agent, uid=Uid(agent % 3))
        await journal.commit()
        assert len(await list_all(journal.store, uid=Uid(1), limit=70)) == 200

    # Reading in slices

    async def test_a_read_gives_at_least_one_entry_and_not_many_more_bytes_than_asked(
        self, journal: PlainJournal
    ) -> None:
        await journal.append("a", *[b'{"Blob":"%b"}' % (b"x" * 989)] * 10)
        number = journal.agent("a").record.number
        for bytes_max, count in ((1, 1), (1000, 1), (1999, 1), (2000, 2), (5500, 5)):
            entries = await journal.store.read(
                number, from_sequence=0, limit=100, bytes_max=bytes_max
            )
            assert 1 <= len(entries) <= count

    async def test_a_scan_sees_what_its_filter_wants_and_only_that(
        self, journal: PlainJournal
    ) -> None:
        for step in range(40):
            journal.add(f"agent-{step % 3}", uid=(OWNER, OTHER)[step % 2])
            if step % 5 == 0:
                await journal.commit()
        await journal.commit()
        for wanted in (
            Filter(),
            Filter(uid=OTHER),
            Filter(agent_id=AgentId("agent-1")),
            Filter(uid=OWNER, agent_id=AgentId("agent-2")),
            Filter(uid=Uid(5)),
        ):
            for start in (0, 1, 17, 39, 40, 1000):
                expected = [found for found in journal.log(wanted) if found[1].position >= start]
                for limit, bytes_max in ((1, 1), (3, 40), (1000, 1 << 20)):
                    assert expected == await scan_all(
                        journal.store,
                        wanted,
                        from_position=start,
                        limit=limit,
                        bytes_max=bytes_max,
                    )

    async def test_a_scan_at_the_end_goes_on_with_the_next_commit(
        self, journal: PlainJournal
    ) -> None:
        """``next_position`` of the last slice misses nothing and repeats nothing."""
        position = Position(0)
        seen: list[int] = []
        for step in range(6):
            await journal.append(f"agent-{step % 2}", *[b'{"A":1}'] * step)
            is_end = False
            while not is_end:
                scan = await journal.store.scan(
                    Filter(agent_id=AgentId("agent-1")),
                    from_position=position,
                    limit=2,
                    bytes_max=1000,
                )
                seen += [entry.position for _, entry in scan.entries]
                position, is_end = scan.next_position, scan.is_end
        assert seen == [entry.position for entry in journal.agent("agent-1").entries]

    async def test_a_scan_from_the_future_waits_there(self, journal: PlainJournal) -> None:
        await journal.append("a")
        scan = await journal.store.scan(Filter(), from_position=50, limit=10, bytes_max=1000)
        assert (scan.entries, scan.next_position, scan.is_end) == ([], 50, True)

    async def test_the_last_entries_are_found_from_the_end(self, journal: PlainJournal) -> None:
        """A scan from ``position_of_last`` yields the last so many, fewer if there are fewer."""
        for step in range(30):
            await journal.append(f"agent-{step % 3}", uid=(OWNER, OTHER)[step % 2])
        journal.compact("agent-2")  # the newest entry among those that are gone
        journal.compact("agent-2", uid=OTHER)
        await journal.commit()
        for wanted in (
            Filter(),
            Filter(uid=OTHER),
            Filter(uid=OWNER, agent_id=AgentId("agent-0")),
            Filter(uid=OWNER, agent_id=AgentId("agent-2")),
            Filter(uid=OWNER, agent_id=AgentId("nobody")),
            Filter(agent_id=AgentId("agent-1")),
            Filter(uid=Uid(5)),
        ):
            expected = journal.log(wanted)
            for count in (0, 1, 2, 5, 1000, 2**63 - 1):
                position = await journal.store.position_of_last(wanted, count)
                found = await scan_all(journal.store, wanted, from_position=position)
                assert found == (expected[-count:] if count else [])

    async def test_the_last_entries_before_a_position_are_found(
        self, journal: PlainJournal
    ) -> None:
        """As above, as if the journal ended at *before*: how one reads it backwards."""
        for step in range(30):
            journal.add(f"agent-{step % 3}", uid=(OWNER, OTHER)[step % 2])
            if step % 4 == 0:
                await journal.commit()
        await journal.commit()
        journal.compact("agent-2")
        await journal.commit()
        for wanted in (
            Filter(),
            Filter(uid=OTHER),
            Filter(uid=OWNER, agent_id=AgentId("agent-0")),
            Filter(uid=OWNER, agent_id=AgentId("agent-2")),
            Filter(agent_id=AgentId("agent-1")),
        ):
            for before in (0, 1, 7, 20, 29, 30, 1000):
                expected = [one for one in journal.log(wanted) if one[1].position < before]
                for count in (0, 1, 4, 1000):
                    position = await journal.store.position_of_last(wanted, count, before=before)
                    found = await scan_all(journal.store, wanted, from_position=position)
                    found = [one for one in found if one[1].position < before]
                    assert found == (expected[-count:] if count else [])

    # Agents, keys and counters

    async def test_agents_are_listed_by_first_position(self, journal: PlainJournal) -> None:
        """In slices, by owner, state and kind; an agent keeps its place when compacted."""
        for step in range(24):
            kind = ("worker", "planner", None)[step % 3]
            journal.add(f"agent-{24 - step}", uid=(OWNER, OTHER)[step % 2], kind=kind)
        await journal.commit()
        for step in range(0, 24, 4):
            journal.finish(f"agent-{24 - step}", reason="Completed" if step % 8 else "Error")
        await journal.commit()
        journal.compact("agent-24")
        journal.compact("agent-22")
        journal.add("agent-24")
        await journal.commit()
        known = sorted(
            (agent.record for agent in journal.agents.values()),
            key=lambda record: record.first_position,
        )
        for uid in (None, OWNER, OTHER, Uid(5)):
            for state in (None, *AgentState):
                for kind in (None, "worker", "nothing"):
                    for after, limit in ((-1, 1), (-1, 5), (7, 1000)):
                        listed = await list_all(
                            journal.store, uid=uid, state=state, kind=kind, after=after, limit=limit
                        )
                        assert listed == [
                            record
                            for record in known
                            if uid in (None, record.uid)
                            and state in (None, record.state)
                            and kind in (None, record.kind)
                            and record.first_position > after
                        ]

    async def test_a_key_is_found_from_its_commit_on(self, journal: PlainJournal) -> None:
        """Each key is found in its own history, before and after housekeeping."""
        keys = ["b", "a", "zz", "z", "ä", "\x00", "'; --", "a" * 256, "💾"]
        for key in keys:
            journal.add("a", key=key)
            journal.add("b", key=f"{key}+")
            journal.add("a")
            await journal.commit()
            assert (await record_of(journal.store, "a")).key_high == max(journal.agent("a").keys)
        await journal.check()
        await journal.keep_house()
        await journal.check()
        journal.compact("a")
        await journal.commit()
        number = journal.agent("a").record.number
        assert [await journal.store.find_key(number, key) for key in keys] == [None] * len(keys)
        assert (await record_of(journal.store, "a")).key_high == ""

    async def test_an_agent_was_created_and_updated_when_its_entries_say(
        self, journal: PlainJournal
    ) -> None:
        """First and last entry's timestamps, in whatever order clients give them."""
        for timestamp in (50, 90, 70, 80, 120, 5):
            journal.add("a", timestamp=timestamp)
            await journal.commit()
            record = await record_of(journal.store, "a")
            assert (record.created_at, record.updated_at) == (50, timestamp)
        journal.add("a", timestamp=110, state=AgentState.COMPLETED, reason="Completed")
        await journal.commit()
        assert (await record_of(journal.store, "a")).updated_at == 110

    async def test_counters_are_exact_at_every_moment(self, journal: PlainJournal) -> None:
        """After each commit and each slice of housekeeping, of all agents."""
        for step in range(60):
            journal.add(f"agent-{step % 4}", iteration=step, key=f"{step:03}")
            if step % 11 == 10:
                journal.compact(f"agent-{step % 4}")
            await journal.commit()
            names = [*journal.agents]
            for _ in range(2):
                known = [journal.agents[name].record for name in names]
                assert await journal.store.load(names) == known
                await journal.store.maintain()

    # Compaction

    async def test_entries_of_a_compacted_history_never_come_back(
        self, journal: PlainJournal
    ) -> None:
        """Not by read, scan or key, whatever was moved or swept meanwhile."""
        for generation in range(4):
            for step in range(15):
                journal.add("a", b'{"Of":%d}' % generation, key=f"{generation}-{step}")
                journal.add("b")
                await journal.commit()
            journal.compact("a")
            await journal.commit()
            assert [name for name, _ in await scan_all(journal.store)] == [
                (OWNER, AgentId("b"))
            ] * (15 * (generation + 1))
            await journal.store.maintain()
        await journal.check()

    async def test_a_new_number_was_never_used_before(self, journal: PlainJournal) -> None:
        numbers = []
        for _ in range(3):
            await journal.append("a")
            numbers.append((await record_of(journal.store, "a")).number)
            journal.compact("a")
            await journal.commit()
            await journal.keep_house()
        assert len(set(numbers)) == 3

    async def test_what_was_given_out_does_not_change_afterwards(
        self, journal: PlainJournal
    ) -> None:
        """A caller may keep a record: the next commit does not reach into it."""
        await journal.append("a")
        record = await record_of(journal.store, "a")
        (listed,) = await list_all(journal.store)
        await journal.append("a")
        assert record.next_sequence == listed.next_sequence == 1

    async def test_closing_twice_is_allowed(self, tmp_path: Path) -> None:
        another = tmp_path / "another"
        another.mkdir()
        store = self.make_store(another)
        await store.open()
        await store.close()
        await store.close()

    def test_any_history_is_kept_as_a_plain_model_keeps_it(self, tmp_path: Path) -> None:
        """Random batches, compactions, reads and housekeeping, against lists."""
        run_store_machine(self.make_store, tmp_path, examples=self.examples)
