"""What every backend promises of agents that have ended, and of those that are removed."""
# ruff: noqa: S101, PLR2004, D102 - these are tests: they assert, their names are sentences

from __future__ import annotations

from ..model import SEQUENCE_MAX, AgentId, AgentState, Uid
from ..store.attachment import Attachment, Owner
from ..store.base import EndedGroup
from .plain_journal import OWNER, PlainJournal, list_unfinished, read_all, scan_all

OTHER = Uid(OWNER + 1)


class RetentionContract:
    """Inherited by ``StoreContract``, whose fixture gives the journal."""

    async def test_a_removed_agent_is_gone_with_all_that_it_had(
        self, journal: PlainJournal
    ) -> None:
        """Unlike a compacted one: there is no such agent any more; its neighbours stay."""
        for agent_id in ("a", "b"):
            journal.add(agent_id, key="k")
            journal.add(agent_id, uid=OTHER)
        await journal.commit()
        journal.attach("a", Attachment(Owner(1)))
        await journal.commit()
        number = journal.agent("a").record.number
        journal.remove("a")
        await journal.commit()
        await journal.check()
        assert await journal.store.load([(OWNER, AgentId("a"))]) == [None]
        assert await list_unfinished(journal.store) == []
        await journal.keep_house()
        await journal.check()
        assert await journal.store.is_swept(number)
        assert await journal.store.find_key(number, "k") is None

    async def test_an_id_is_free_again_behind_a_removal(self, journal: PlainJournal) -> None:
        """In the same batch, too; nothing of the first agent is the second's."""
        journal.add("a", b'{"First":1}', key="k")
        journal.remove("a")
        journal.add("a", b'{"Second":2}', key="k")
        await journal.commit()
        await journal.check()
        journal.remove("a")
        await journal.commit()
        journal.add("a", b'{"Third":3}')
        journal.add("a", b'{"Fourth":4}')
        await journal.commit()
        await journal.check()
        await journal.keep_house()
        await journal.check()
        (record,) = await journal.store.load([(OWNER, AgentId("a"))])
        assert record is not None
        events = [entry.event for entry in await read_all(journal.store, record)]
        assert events == [b'{"Third":3}', b'{"Fourth":4}']
        assert len(await scan_all(journal.store)) == 2

    async def test_the_highest_epoch_of_removed_agents_is_remembered(
        self, journal: PlainJournal
    ) -> None:
        """Of each uid apart: what they forget is nobody else's."""
        assert journal.store.epoch_floor(OWNER) == 0
        for agent_id, epochs in (("a", 3), ("b", 5), ("c", 2), ("d", 0)):
            await journal.append(agent_id)
            for _ in range(epochs):
                journal.attach(agent_id, None)
            journal.remove(agent_id)
            await journal.commit()
        assert journal.store.epoch_floor(OWNER) == 5
        assert journal.store.epoch_floor(OTHER) == 0

    async def test_ended_agents_are_found_by_state_kind_and_time(
        self, journal: PlainJournal
    ) -> None:
        """The first ones first, and no others are among them."""
        for n in range(24):
            kind = (None, "nightly", "report")[n % 3]
            journal.add(f"agent-{n}", kind=kind, uid=(OWNER, OTHER)[n % 2], timestamp=5)
            if n % 4:
                state = (AgentState.COMPLETED, AgentState.FAILED, AgentState.CANCELLED)[n % 4 - 1]
                journal.add(
                    f"agent-{n}", uid=(OWNER, OTHER)[n % 2], state=state, timestamp=1000 - n
                )
        await journal.commit()
        await journal.keep_house()
        known = [agent.record for agent in journal.agents.values()]
        ended = [record for record in known if record.state is not AgentState.RUNNING]
        expected = {
            EndedGroup(
                record.state,
                record.kind,
                min(
                    one.updated_at
                    for one in ended
                    if (one.state, one.kind) == (record.state, record.kind)
                ),
            )
            for record in ended
        }
        assert {*await journal.store.ended_groups()} == expected
        for group in expected:
            members = sorted(
                (one for one in ended if (one.state, one.kind) == group[:2]),
                key=lambda record: record.updated_at,
            )
            for before in (group.oldest, members[-1].updated_at, SEQUENCE_MAX):
                wanted = [one for one in members if one.updated_at < before]
                for limit in (1, 100):
                    found = await journal.store.ended(
                        group.state, group.kind, before=before, limit=limit
                    )
                    assert found == wanted[:limit]
                counted = await journal.store.count_ended(group.state, group.kind, before=before)
                assert counted == len(wanted)

    async def test_room_is_told(self, journal: PlainJournal) -> None:
        await journal.append("a", b'{"Blob":"%b"}' % (b"x" * 50_000))
        space = await journal.store.space()
        assert space.used_bytes >= 50_000
        assert space.free_bytes >= 0
        await journal.store.erase()
        await journal.check()
