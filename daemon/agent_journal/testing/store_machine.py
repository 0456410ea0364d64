"""A store under random use, held against plain lists by hypothesis.

Each step is a batch, a read, or a slice of housekeeping, as the daemon does
them; where the store is durable, also a restart.  What comes back is compared
at once, and all of it at the end.
"""
# ruff: noqa: S101 - this is a test: it asserts

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Callable, Coroutine
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    precondition,
    rule,
    run_state_machine_as_test,
)

from ..model import AgentId, AgentState, Uid
from ..store.attachment import Attachment, Owner
from ..store.base import Filter, Store
from .plain_journal import OWNER, Name, PlainJournal, list_all, scan_all

T = TypeVar("T")

EXAMPLES: Final = 20
STEPS: Final = 25

_NAMES: Final = [(Uid(OWNER + owner), AgentId(f"agent-{n}")) for owner in (0, 1) for n in (0, 1, 2)]
_names = st.sampled_from(_NAMES)
_filters = st.builds(
    Filter,
    uid=st.sampled_from([None, OWNER, Uid(OWNER + 1)]),
    agent_id=st.sampled_from([None, AgentId("agent-0"), AgentId("agent-1"), AgentId("nobody")]),
)
_actions = st.tuples(
    st.sampled_from(["add", "add", "add", "add", "finish", "compact", "remove", "attach"]),
    _names,
    st.integers(0, 40),  # repeats of the event's payload
    st.integers(0, 9),  # iteration
    st.one_of(st.none(), st.integers(-(10**6), 10**18)),  # timestamp
    st.one_of(st.none(), st.text(max_size=2).map(lambda text: f"k{text}")),
)


_ENDS: Final[dict[str, Callable[..., object]]] = {
    "compact": PlainJournal.compact,
    "remove": PlainJournal.remove,
}


class StoreMachine(RuleBasedStateMachine):
    """The rules, and the model that they are checked against."""

    def __init__(self, make_store: Callable[[Path], Store], root: Path, *, durable: bool) -> None:
        super().__init__()
        self._make_store = make_store
        self._durable = durable
        self._directory = Path(tempfile.mkdtemp(dir=root))
        self._runner = asyncio.Runner()
        self._journal = PlainJournal(self._open())

    def _run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return self._runner.run(coroutine)

    def _open(self) -> Store:
        store = self._make_store(self._directory)
        self._run(store.open())
        return store

    @rule(actions=st.lists(_actions, min_size=1, max_size=12))
    def commit(self, actions: list[tuple[str, Name, int, int, int | None, str | None]]) -> None:
        """Commit a batch of what the daemon may put into one."""
        journal = self._journal
        done: dict[Name, AgentState | None] = {}  # of agents of this batch
        gone: set[Name] = set()
        keys = {(name, key) for name, agent in journal.agents.items() for key in agent.keys}
        for what, name, size, iteration, timestamp, key in actions:
            uid, agent_id = name
            known = journal.agents.get(name) if name not in gone else None
            state = done.get(name, known.record.state if known and known.entries else None)
            if what in _ENDS:
                if known is not None or name in done:
                    _ENDS[what](journal, agent_id, uid=uid)
                    keys = {used for used in keys if used[0] != name}
                    done[name] = None
                if what == "remove":
                    done.pop(name, None)
                    gone.add(name)
            elif what == "attach":
                if state not in {None, AgentState.COMPLETED, AgentState.FAILED}:
                    owner = Owner(size, iteration) if size % 3 else None
                    journal.attach(agent_id, Attachment(owner) if owner else None, uid=uid)
            elif state not in {AgentState.COMPLETED, AgentState.FAILED}:
                if what == "finish":
                    journal.finish(agent_id, uid=uid, reason="Completed" if size % 2 else "Error")
                    done[name] = AgentState.COMPLETED
                    continue
                event = b'{"Noted":"%b"}' % (b"x" * size * 7)
                new_key = key if (name, key) not in keys else None
                if new_key is not None:
                    keys.add((name, new_key))
                journal.add(
                    agent_id, event, uid=uid, iteration=iteration, timestamp=timestamp, key=new_key
                )
                done[name] = AgentState.RUNNING
        self._run(journal.commit())

    @rule(slices=st.integers(1, 5))
    def maintain(self, slices: int) -> None:
        """Keep house for some slices."""
        for _ in range(slices):
            self._run(self._journal.store.maintain())

    @rule(
        name=_names,
        start=st.integers(0, 20),
        limit=st.integers(1, 10),
        bytes_max=st.integers(1, 2000),
    )
    def read(self, name: Name, start: int, limit: int, bytes_max: int) -> None:
        """Read a slice: the beginning of what there is."""
        agent = self._journal.agents.get(name)
        if agent is None:
            return
        entries = self._run(
            self._journal.store.read(
                agent.record.number, from_sequence=start, limit=limit, bytes_max=bytes_max
            )
        )
        expected = agent.entries[start : start + limit]
        assert entries == expected[: len(entries)]
        assert bool(entries) == bool(expected)
        assert len(entries) <= 1 or sum(len(entry.event) for entry in entries) <= bytes_max

    @rule(wanted=_filters, start=st.integers(0, 60), limit=st.integers(1, 10))
    def scan(self, wanted: Filter, start: int, limit: int) -> None:
        """Scan to the end."""
        found = self._run(
            scan_all(self._journal.store, wanted, from_position=start, limit=limit, bytes_max=400)
        )
        assert found == [one for one in self._journal.log(wanted) if one[1].position >= start]

    @rule(wanted=_filters, count=st.integers(0, 12))
    def scan_the_last(self, wanted: Filter, count: int) -> None:
        """Scan the last so many."""
        position = self._run(self._journal.store.position_of_last(wanted, count))
        found = self._run(scan_all(self._journal.store, wanted, from_position=position))
        assert found == (self._journal.log(wanted)[-count:] if count else [])

    @rule(
        uid=st.sampled_from([None, OWNER]),
        state=st.one_of(st.none(), st.sampled_from(["running", "completed"])),
        limit=st.integers(1, 4),
    )
    def list_agents(self, uid: Uid | None, state: str | None, limit: int) -> None:
        """List agents in slices."""
        wanted = None if state is None else AgentState(state)
        listed = self._run(list_all(self._journal.store, uid=uid, state=wanted, limit=limit))
        known = [agent.record for agent in self._journal.agents.values()]
        assert listed == sorted(
            (r for r in known if uid in (None, r.uid) and wanted in (None, r.state)),
            key=lambda record: record.first_position,
        )

    @precondition(lambda self: self._durable)
    @rule()
    def restart(self) -> None:
        """Close the store, and open what is left."""
        self._run(self._journal.store.close())
        self._journal.store = self._open()

    def teardown(self) -> None:
        """Compare everything."""
        try:
            self._run(self._journal.check(page=3))
            self._run(self._journal.keep_house())
            self._run(self._journal.check())
        finally:
            self._run(self._journal.store.close())
            self._runner.close()


def run_store_machine(
    make_store: Callable[[Path], Store],
    directory: Path,
    *,
    is_durable: bool = False,
    examples: int = EXAMPLES,
    is_shrunk: bool = False,
) -> None:
    """Use stores that *make_store* makes in directories under *directory* at random.

    A failure is not made smaller unless asked for: it opens thousands of stores.
    """
    phases = [phase for phase in Phase if is_shrunk or phase is not Phase.shrink]
    run_state_machine_as_test(
        partial(StoreMachine, make_store, directory, durable=is_durable),  # type: ignore[arg-type]
        settings=settings(
            max_examples=examples,
            stateful_step_count=STEPS,
            deadline=None,
            phases=phases,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
        ),
    )
