"""What a backend that outlives its process promises besides: nothing is lost by a restart."""
# ruff: noqa: S101, PLR2004, D102 - these are tests: they assert, their names are sentences

from __future__ import annotations

from pathlib import Path

import pytest

from ..errors import JournalError
from ..model import AgentId
from ..store.attachment import Attachment, Owner
from .plain_journal import OWNER, PlainJournal, list_unfinished, read_all
from .store_contract import StoreContract, record_of
from .store_machine import run_store_machine


class DurableStoreContract(StoreContract):
    """What holds of a store that outlives its process."""

    async def reopen(self, journal: PlainJournal, directory: Path) -> None:
        """Close the journal's store, and open what it left behind."""
        await journal.store.close()
        journal.store = self.make_store(directory)
        await journal.store.open()

    async def test_everything_is_there_after_a_restart(
        self, journal: PlainJournal, tmp_path: Path
    ) -> None:
        for step in range(50):
            journal.add(f"agent-{step % 3}", iteration=step, key=f"{step:02}")
            if step % 4 == 0:
                await journal.commit()
            if step % 10 == 9:
                await journal.commit()
                await self.reopen(journal, tmp_path)
                await journal.check()

    async def test_numbering_resumes_after_a_restart(
        self, journal: PlainJournal, tmp_path: Path
    ) -> None:
        """Initialise: after 0, 1, 2 and a restart comes 3, not 2 once more as in the seed."""
        await journal.append("a", b'{"A":0}', b'{"A":1}', b'{"A":2}')
        await self.reopen(journal, tmp_path)
        assert (await record_of(journal.store, "a")).next_sequence == 3
        await journal.append("a")
        record = await record_of(journal.store, "a")
        assert [entry.sequence for entry in await read_all(journal.store, record)] == [0, 1, 2, 3]

    @pytest.mark.parametrize("is_swept", [False, True], ids=["at_once", "swept"])
    async def test_positions_rise_over_a_restart_though_the_newest_were_removed(
        self, journal: PlainJournal, tmp_path: Path, *, is_swept: bool
    ) -> None:
        last = await journal.append("a", *[b'{"A":0}'] * 10)
        journal.compact("a")
        await journal.commit()
        if is_swept:
            await journal.keep_house()
        await self.reopen(journal, tmp_path)
        assert await journal.append("b") >= last + 10

    async def test_a_restart_in_the_middle_of_housekeeping_loses_nothing(
        self, journal: PlainJournal, tmp_path: Path
    ) -> None:
        for step in range(30):
            for agent in range(5):
                journal.add(f"agent-{agent}", key=f"{step:02}")
            if step % 7 == 3:
                journal.compact(f"agent-{step % 5}")
            await journal.commit()
            await self.reopen(journal, tmp_path)
            for _ in range(step % 4):
                await journal.store.maintain()
        await journal.check()

    async def test_a_copy_that_a_restart_interrupted_is_swept(
        self, journal: PlainJournal, tmp_path: Path
    ) -> None:
        """Nobody gets it any more; one that was adopted before stays."""
        await journal.append("a", *[b'{"A":1}'] * 20)
        kept, lost = journal.begin_copy(), journal.begin_copy()
        for copy in (kept, lost):
            journal.add_copies(copy, journal.agent("a").entries)
        journal.adopt(kept, "b")
        await journal.commit()
        await self.reopen(journal, tmp_path)
        await journal.append("a")
        await journal.check()
        await journal.keep_house()
        await journal.check()
        assert await journal.store.read(lost.number, from_sequence=0, limit=9, bytes_max=99) == []
        await self.reopen(journal, tmp_path)
        await journal.append("b")

    async def test_attachments_are_there_after_a_restart(
        self, journal: PlainJournal, tmp_path: Path
    ) -> None:
        for n in range(9):
            journal.add(f"agent-{n}")
            journal.attach(f"agent-{n}", Attachment(Owner(n)) if n % 2 else None)
        await journal.commit()
        await self.reopen(journal, tmp_path)
        assert len(await list_unfinished(journal.store)) == 4

    async def test_a_closed_store_says_so(self, journal: PlainJournal, tmp_path: Path) -> None:
        """Nobody waits for an answer that cannot come."""
        await journal.append("a")
        await journal.store.close()
        with pytest.raises(JournalError, match="closed"):
            await journal.store.load([(OWNER, AgentId("a"))])
        journal.add("a")
        with pytest.raises(JournalError, match="closed"):
            await journal.commit()
        await self.reopen(journal, tmp_path)

    def test_any_history_outlives_restarts(self, tmp_path: Path) -> None:
        """Random batches, compactions and reads between restarts, against lists."""
        run_store_machine(self.make_store, tmp_path, is_durable=True, examples=self.examples)
