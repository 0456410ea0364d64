"""What every backend promises of attachments and of histories that are copied."""
# ruff: noqa: S101, PLR2004, D102 - these are tests: they assert, their names are sentences

from __future__ import annotations

from itertools import product

from msgspec.structs import replace

from ..model import AgentId, AgentState, Micros, Uid
from ..store.attachment import Attachment, Command, Incident, Owner, Standing
from ..store.base import Unfinished
from .plain_journal import OWNER, PlainJournal, list_unfinished, read_all, scan_all

FULL = Attachment(
    owner=Owner(17, 99, "a boot"),
    launcher="python",
    command=Command(("python", "-m", "ä"), "/", {"PATH": "/bin"}),
    wake_at=Micros(5),
    wait_for=("approval", "stop"),
    is_launched=True,
    attempt_sequence=3,
    incident=Incident(1, 2, 3, 4, "a signature", Micros(6)),
)


class HoldingContract:
    """Inherited by ``StoreContract``, whose fixture gives the journal."""

    async def test_an_attachment_is_kept_as_it_was_given(self, journal: PlainJournal) -> None:
        """Every part of it, and each change takes the place of the one before."""
        for agent_id in ("a", "b"):
            await journal.append(agent_id)
        other = replace(FULL, command=Command(("other",), "/tmp"))  # noqa: S108 - nothing is there
        all_of_them = (FULL, Attachment(), other, Attachment(owner=Owner(1)), None, FULL)
        for has_entry, attachment in product((False, True), all_of_them):
            journal.attach("a", attachment, has_entry=has_entry)
            await journal.commit()
            (record,) = await journal.store.load([(OWNER, AgentId("a"))])
            assert record is not None
            assert record.attachment == attachment
            await journal.check()

    async def test_a_change_without_an_entry_leaves_the_time_of_the_last(
        self, journal: PlainJournal
    ) -> None:
        """Whether that is in the index already or not; all else is as the change says."""
        for is_settled in (False, True):
            await journal.append("a")
            if is_settled:
                await journal.keep_house()
            updated_at = journal.agent("a").record.updated_at
            journal.attach("a", FULL, state=AgentState.RESUMING)
            await journal.commit()
            (record,) = await journal.store.load([(OWNER, AgentId("a"))])
            assert record is not None
            assert (record.updated_at, record.state) == (updated_at, "resuming")

    async def test_the_unfinished_are_those_with_an_attachment_in_order(
        self, journal: PlainJournal
    ) -> None:
        for n in range(40):
            journal.add(f"agent-{99 - n}", uid=Uid(OWNER + n % 2))
        await journal.commit()
        for n in range(0, 40, 3):
            journal.attach(f"agent-{99 - n}", Attachment(Owner(n)), uid=Uid(OWNER + n % 2))
        await journal.commit()
        for n in range(0, 40, 9):
            journal.attach(f"agent-{99 - n}", None, uid=Uid(OWNER + n % 2))
        await journal.commit()
        expected = [n for n in range(40) if n % 3 == 0 and n % 9]
        for limit in (1, 4, 1000):
            found = await list_unfinished(journal.store, limit=limit)
            owners = [agent.attachment.owner for agent in found]
            assert owners == [Owner(n) for n in expected]

    async def test_an_unfinished_agent_is_told_as_it_is_less_its_command(
        self, journal: PlainJournal
    ) -> None:
        """Which may be large, and which only who starts the agent asks for."""
        journal.add("a", kind="k")
        await journal.append("b")
        large = Command(("x" * 30_000,), "/", {"NAME": "y" * 30_000})
        for owner in (Owner(1), None):
            journal.attach("a", replace(FULL, owner=owner), state=AgentState.RESUMING)
            journal.attach("b", Attachment(owner=owner, command=large))
            await journal.commit()
            standing = Standing(owner, "python", Micros(5), ("approval", "stop"), True, 3)  # noqa: FBT003 - is_launched
            standing = replace(standing, incident=FULL.incident)
            known = {agent_id: journal.agent(agent_id).record for agent_id in ("a", "b")}
            assert await list_unfinished(journal.store) == [
                Unfinished(
                    uid=OWNER,
                    agent_id=AgentId(agent_id),
                    state=state,
                    kind=kind,
                    epoch=known[agent_id].epoch,
                    attempts=known[agent_id].attempts,
                    first_position=known[agent_id].first_position,
                    attachment=attachment,
                )
                for agent_id, state, kind, attachment in (
                    ("a", AgentState.RESUMING, "k", standing),
                    ("b", AgentState.RUNNING, None, Standing(owner=owner)),
                )
            ]
            (record,) = await journal.store.load([(OWNER, AgentId("b"))])
            assert record is not None
            assert record.attachment == Attachment(owner=owner, command=large)

    async def test_an_attachment_outlives_a_compaction(self, journal: PlainJournal) -> None:
        await journal.append("a")
        journal.attach("a", FULL)
        await journal.commit()
        journal.compact("a")
        await journal.commit()
        (record,) = await journal.store.load([(OWNER, AgentId("a"))])
        assert record is not None
        assert (record.attachment, record.next_sequence) == (FULL, 0)
        (agent,) = await list_unfinished(journal.store)
        assert agent.attachment.owner == FULL.owner
        await journal.append("a")
        await journal.check()

    # Copies

    async def test_a_copied_history_is_nobodys_until_it_is_adopted(
        self, journal: PlainJournal
    ) -> None:
        """Then it is the agent's, from the entry on that says so."""
        for iteration in (3, 9, 4):
            journal.add("a", b'{"E":%d}' % iteration, iteration=iteration)
        await journal.commit()
        copy = journal.begin_copy()
        await journal.commit()
        for entry in journal.agent("a").entries:
            journal.add_copies(copy, [entry])
            journal.add("other")
            await journal.commit()
            await journal.check()
            assert not [name for name, _ in await scan_all(journal.store) if name[1] == "b"]
            await journal.store.maintain()
        journal.adopt(copy, "b", FULL)
        await journal.commit()
        await journal.check()
        (record,) = await journal.store.load([(OWNER, AgentId("b"))])
        assert record is not None
        assert (record.next_sequence, record.last_iteration) == (4, 9)
        entries = await read_all(journal.store, record)
        assert [entry.event for entry in entries] == [
            b'{"E":3}',
            b'{"E":9}',
            b'{"E":4}',
            b'{"Forked":0}',
        ]
        shown = [entry.sequence for name, entry in await scan_all(journal.store) if name[1] == "b"]
        assert shown == [3]
        await journal.append("b")
        await journal.keep_house()
        await journal.check()

    async def test_a_copy_may_be_empty_or_of_one_batch(self, journal: PlainJournal) -> None:
        await journal.append("a", b'{"A":1}', b'{"A":2}')
        copy, empty = journal.begin_copy(), journal.begin_copy()
        journal.add_copies(copy, journal.agent("a").entries)
        journal.adopt(copy, "b")
        journal.adopt(empty, "c")
        await journal.commit()
        await journal.check()

    async def test_a_copy_that_was_given_up_was_never_there(self, journal: PlainJournal) -> None:
        await journal.append("a", b'{"A":1}', b'{"A":2}')
        copy = journal.begin_copy()
        journal.add_copies(copy, journal.agent("a").entries)
        await journal.commit()
        journal.give_up(copy)
        await journal.commit()
        await journal.append("a")
        await journal.keep_house()
        await journal.check()
        assert await journal.store.read(copy.number, from_sequence=0, limit=9, bytes_max=99) == []

    async def test_an_agent_with_copies_is_compacted_as_any(self, journal: PlainJournal) -> None:
        await journal.append("a", b'{"A":1}', b'{"A":2}')
        copy = journal.begin_copy()
        journal.add_copies(copy, journal.agent("a").entries)
        journal.adopt(copy, "b")
        await journal.commit()
        assert journal.compact("b") == 3
        await journal.commit()
        await journal.keep_house()
        await journal.append("b")
        await journal.check()
