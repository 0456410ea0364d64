"""The head of each agent that is being written: what its next entry must be.

An entry is checked and numbered before it is queued, against these, so that a
bad one is refused without a transaction and cannot fail its neighbours.  A
head runs ahead of the disk by what is queued; if a batch is not recorded, all
heads are forgotten and loaded again as they are needed.

Only so many are kept, and never one that is being committed is dropped: the
store knows what was committed, and nobody else knows what is on its way.
"""

from __future__ import annotations

import asyncio
from typing import Final

import msgspec

from ..clock import Clock
from ..model import AgentId, AgentState, Micros, Sequence, Uid
from ..store.base import AgentChange, AgentNumber, AgentRecord, Copy, Store

HEADS_MAX: Final = 16_384
KEYS_MAX: Final = 1024

_RECORD_FIELDS: Final = AgentRecord.__struct_fields__


class Head(AgentRecord):
    """An agent as it will be when everything queued is committed."""

    submission: int = 0  # the last one of its namespace that holds an entry of it
    is_new: bool = False  # nothing of it was queued yet, nor committed
    queued_state: AgentState | None = None  # as the last change that was queued has it
    keys: dict[str, Sequence] = msgspec.field(default_factory=dict)  # used lately
    keys_before: dict[str, Sequence] = msgspec.field(default_factory=dict)  # and before these
    keys_before_submission: int = 0  # when that is committed, the store knows keys_before
    keys_turns: int = 0  # how often keys became keys_before

    def record(self) -> AgentRecord:
        """Return what the store is to know of the agent from now on."""
        return AgentRecord(*[getattr(self, name) for name in _RECORD_FIELDS])

    def change(
        self,
        index: int = 0,
        *,
        compacted: AgentNumber | None = None,
        has_entry: bool = True,
        copy: Copy | None = None,
        is_removed: bool = False,
    ) -> AgentChange:
        """Return the change that tells the store of it, to be queued."""
        was, self.queued_state = self.queued_state, self.state
        return AgentChange(index, self.record(), was, compacted, has_entry, copy, is_removed)


class Namespace:
    """The heads of one uid, and how far its submissions were committed.

    Submissions of a namespace are committed in the order in which they came.
    """

    __slots__ = ("committed", "epoch_floor", "heads", "submitted")

    def __init__(self, epoch_floor: int = 0) -> None:
        self.epoch_floor = epoch_floor  # the highest epoch of agents that were removed
        self.heads: dict[str, Head] = {}
        self.submitted = 0
        self.committed = 0

    def is_committed(self, head: Head) -> bool:
        """Tell whether nothing of the agent is on its way to the disk."""
        return head.submission <= self.committed


class Heads:
    """The heads in memory, by namespace."""

    def __init__(self, store: Store, clock: Clock, *, heads_max: int = HEADS_MAX) -> None:
        self._store = store
        self._clock = clock
        self._heads_max = heads_max
        self._namespaces: dict[Uid, Namespace] = {}
        self._count = 0
        self._loading: dict[tuple[Uid, AgentId], asyncio.Future[None]] = {}
        self._loaded_since = 0  # rises when heads are forgotten: what was being loaded is stale

    def namespace(self, uid: Uid) -> Namespace:
        """Return the namespace of *uid*, which stays the same one."""
        found = self._namespaces.get(uid)
        if found is None:
            found = self._namespaces[uid] = Namespace(self._store.epoch_floor(uid))
        return found

    async def load(self, uid: Uid, agent_id: AgentId) -> None:
        """Bring the head of an agent into memory, or a new one where there is none."""
        name = uid, agent_id
        while agent_id not in self.namespace(uid).heads:
            loading = self._loading.get(name)
            if loading is None:
                await self._load(uid, agent_id)
            else:
                await asyncio.wait([loading])

    async def _load(self, uid: Uid, agent_id: AgentId) -> None:
        name = uid, agent_id
        done = self._loading[name] = asyncio.get_running_loop().create_future()
        try:
            forgotten = self._loaded_since
            (record,) = await self._store.load([name])
            if forgotten == self._loaded_since:
                self._put(self._new(uid, agent_id) if record is None else _head(record))
        finally:
            del self._loading[name]
            done.set_result(None)

    def _new(self, uid: Uid, agent_id: AgentId) -> Head:
        now = Micros(self._clock.wall_us())
        return Head(
            uid=uid,
            agent_id=agent_id,
            number=self._store.new_number(),
            created_at=now,
            updated_at=now,
            is_new=True,
        )

    def begin_anew(self, head: Head) -> None:
        """Have an agent that is removed by the next submission be one that never was."""
        namespace = self.namespace(head.uid)
        namespace.epoch_floor = max(namespace.epoch_floor, head.epoch)
        anew = self._new(head.uid, head.agent_id)
        anew.submission = namespace.submitted + 1
        namespace.heads[head.agent_id] = anew

    def drop_unborn(self, uid: Uid, agent_id: AgentId) -> None:
        """Drop the head of an agent that there is not, if nobody begins it."""
        namespace = self.namespace(uid)
        head = namespace.heads.get(agent_id)
        if head is not None and head.is_new and namespace.is_committed(head):
            del namespace.heads[agent_id]
            self._count -= 1

    def _put(self, head: Head) -> None:
        if self._count >= self._heads_max:
            self._make_room()
        self.namespace(head.uid).heads[head.agent_id] = head
        self._count += 1

    def _make_room(self) -> None:
        """Drop the oldest quarter of the heads that are not being committed."""
        wanted = self._heads_max // 4
        for namespace in self._namespaces.values():
            heads = namespace.heads
            idle = [name for name, head in heads.items() if namespace.is_committed(head)]
            for name in idle[:wanted]:
                del heads[name]
            self._count -= len(idle[:wanted])
            wanted -= len(idle[:wanted])

    def forget(self) -> None:
        """Drop all heads: what was queued behind them will not be recorded."""
        for namespace in self._namespaces.values():
            namespace.heads.clear()
            namespace.committed = namespace.submitted
        self._count = 0
        self._loaded_since += 1


def remember_key(namespace: Namespace, head: Head, key: str, sequence: Sequence) -> None:
    """Note that *key* is on its way to the disk; the store knows the older ones."""
    if len(head.keys) >= KEYS_MAX and head.keys_before_submission <= namespace.committed:
        head.keys_before, head.keys = head.keys, {}
        head.keys_turns += 1
        head.keys_before_submission = namespace.submitted + 1
    head.keys[key] = sequence
    head.key_high = max(head.key_high, key)


def recent_key(head: Head, key: str) -> Sequence | None:
    """Return where *key* was used, if that was lately."""
    return head.keys.get(key, head.keys_before.get(key))


def _head(record: AgentRecord) -> Head:
    head = Head(*[getattr(record, name) for name in _RECORD_FIELDS])
    head.queued_state = head.state
    return head
