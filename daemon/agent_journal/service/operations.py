"""The operations that ask the store: all but ``append``.

Each is a function of a caller and a request that returns the reply's fields.
What goes on for long goes on in slices, and the store lets commits in between.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from msgspec.structs import replace

from .. import __version__
from ..errors import (
    AgentUnfinishedError,
    ForbiddenError,
    InvalidError,
    NotFoundError,
    OverloadedError,
    UnsupportedProtocolError,
)
from ..lifecycle import is_terminal
from ..model import (
    AGENT_ID_BYTES_MAX,
    KEY_BYTES_MAX,
    PROTOCOL_VERSION,
    SEQUENCE_MAX,
    AgentId,
    Micros,
    Sequence,
    Uid,
)
from ..store.base import AgentRecord, Filter
from ..wire import (
    Compact,
    Describe,
    Hello,
    Read,
    Tail,
    check_agent_id,
    id_prefix,
    ok_reply,
)
from .admission import RETRY_MS
from .amending import head_of, submit
from .context import Context, Sink
from .description import shown
from .peer import Peer
from .rendering import EntryRenderer, Page

AGENTS_MAX: Final = 1000
TAIL_SLICE_ENTRIES: Final = 1000

PAGE: Final = b'%b"ok":true,"entries":[%b],"next_sequence":%d,"more":%b}\n'
PAGE_BYTES: Final = len(PAGE % (b"", b"", SEQUENCE_MAX, b"false"))  # without its entries

EVERYONE: Final = "*"


@dataclass(slots=True)
class Caller:
    """Who asks, and what the daemon may do for them."""

    context: Context
    peer: Peer
    sink: Sink
    is_gone: bool = False  # it will send nothing more
    frame_bytes_max: int = field(init=False)  # of its lines, as it was when it connected

    def __post_init__(self) -> None:
        """Take note of the bound that the connection has."""
        self.frame_bytes_max = self.context.config.limits.frame_bytes_max

    def leave(self) -> None:
        """Take note that it will send nothing more: what it holds, its process has to hold."""
        self.is_gone = True
        self.context.owners.left(self)

    @property
    def is_admin(self) -> bool:
        """Tell whether it may act for others, as the configuration is now."""
        return self.peer.is_admin(self.context.config.access.admin_group)

    def namespace(self, uid: int | str | None) -> Uid:
        """Return the namespace to act in.

        Raises:
            ForbiddenError: it is another's, and the caller is no administrator.
        """
        if uid is None or uid == self.peer.uid:
            return self.peer.uid
        if not self.is_admin:
            raise ForbiddenError(
                f"you are uid {self.peer.uid}; only root, the daemon's own uid and the admin group "
                'may ask for another "uid"; leave the field out to act in your own namespace'
            )
        return Uid(int(uid))

    def namespaces(self, uid: int | str | None) -> Uid | None:
        """Return the namespace to look at, ``None`` for all of them."""
        if uid == EVERYONE:
            self.namespace(-1)
            return None
        return self.namespace(uid)

    async def agent(self, uid: Uid, agent_id: str) -> AgentRecord:
        """Return what is committed of an agent.

        Raises:
            NotFoundError: the namespace has no such agent.
        """
        check_agent_id(agent_id)
        (record,) = await self.context.store.load([(uid, AgentId(agent_id))])
        if record is None:
            raise NotFoundError(
                f"there is no agent {agent_id} of uid {uid}; an agent begins with its first entry"
            )
        return record


def hello(caller: Caller, request: Hello) -> dict[str, object]:
    """Say which protocol is spoken, and within which limits."""
    if request.protocol not in (None, PROTOCOL_VERSION):
        raise UnsupportedProtocolError(
            f"protocol {request.protocol} is not spoken here; use {PROTOCOL_VERSION}",
            supported=[PROTOCOL_VERSION],
        )
    limits = caller.context.config.limits
    return {
        "server": "agent-journald",
        "version": __version__,
        "protocol": PROTOCOL_VERSION,
        "boot_id": caller.context.boot_id,
        "limits": {
            "frame_bytes_max": caller.frame_bytes_max,
            "read_entries_max": limits.read_entries_max,
            "reply_bytes_max": limits.reply_bytes_max,
            "agent_id_bytes_max": AGENT_ID_BYTES_MAX,
            "key_bytes_max": KEY_BYTES_MAX,
        },
    }


async def read(caller: Caller, request: Read) -> bytes:
    """Return the reply with a page of an agent's entries."""
    context = caller.context
    record = await caller.agent(caller.namespace(request.uid), request.agent_id)
    limits = context.config.limits
    check_unsent(caller)
    wanted = min(request.limit, limits.read_entries_max)
    sequence = min(request.from_sequence, record.next_sequence)
    prefix = id_prefix(request.id)
    room = limits.reply_bytes_max - len(prefix) - PAGE_BYTES
    page = Page(record.agent_id.encode(), room)
    while page.count < wanted and sequence < record.next_sequence and page.has_room:
        entries = await context.store.read(
            record.number,
            from_sequence=sequence,
            limit=wanted - page.count,
            bytes_max=page.room,
        )
        if not entries:
            break  # compacted meanwhile
        before = page.count
        page.take(entries)
        sequence += page.count - before
    more = b"true" if sequence < record.next_sequence else b"false"
    return PAGE % (prefix, page.rendered(), sequence, more)


def check_unsent(caller: Caller) -> None:
    """Refuse to fill the memory with replies that nobody reads.

    Raises:
        OverloadedError: too much is under way already.
    """
    admission = caller.context.admission
    account = admission.accounts.get(caller.peer.uid)  # none: the caller has left meanwhile
    if account is not None and admission.is_full(account):
        raise OverloadedError(
            "too much is in flight for another reply; read the replies that are under way, "
            f"then try again in {RETRY_MS} ms",
            retry_ms=RETRY_MS,
        )


async def describe(caller: Caller, request: Describe) -> dict[str, object]:
    """Tell what is known of one agent."""
    record = await caller.agent(caller.namespace(request.uid), request.agent_id)
    return {"agent": shown(caller.context, record)}


async def compact(caller: Caller, request: Compact) -> dict[str, object]:
    """Remove all entries of an agent."""
    context = caller.context
    uid = caller.namespace(request.uid)
    check_agent_id(request.agent_id)
    await caller.agent(uid, request.agent_id)
    namespace = context.heads.namespace(uid)
    head = await head_of(context, uid, AgentId(request.agent_id))
    if head.is_new:
        raise NotFoundError(f"there is no agent {head.agent_id} of uid {uid} any more")
    if not is_terminal(head.state) and not request.force:
        raise AgentUnfinishedError(
            f"{head.agent_id} is {head.state}; finish it with Terminated or cancel it first, "
            'or send "force": true to lose its entries',
            state=head.state.value,
        )
    removed, ended = head.next_sequence, head.number
    head.number = context.store.new_number()
    head.next_sequence = Sequence(0)
    head.last_iteration = 0
    head.key_high = ""
    if head.attachment is not None:  # what is recorded from now on, the attempt has not read
        head.attachment = replace(head.attachment, attempt_sequence=0)
    head.keys.clear()
    head.keys_before.clear()
    head.submission = namespace.submitted + 1
    head.updated_at = Micros(context.clock.wall_us())
    changes = [head.change(compacted=ended), head.change(has_entry=False)]
    await submit(context, uid, changes=changes)
    return {"removed": removed}


async def tail(caller: Caller, request: Tail, begun: Callable[[], None]) -> None:
    """Stream entries in position order, as fast as the client reads them.

    *begun* is called when nothing can be refused any more, if it is to follow.
    """
    context = caller.context
    uid = caller.namespaces(request.uid)
    config = context.config
    if request.agent_id is not None:
        check_agent_id(request.agent_id)
    agent_id = None if request.agent_id is None else AgentId(request.agent_id)
    wanted = Filter(uid=uid, agent_id=agent_id)
    position, end = await _span(context, request, wanted)
    renderer = EntryRenderer()
    prefix = id_prefix(request.id)
    if request.follow:
        begun()
    while True:
        committed = context.committer.next_commit()  # before the scan: none is missed
        if context.config is not config:  # which said that others may be looked at
            config = context.config
            caller.namespaces(request.uid)
        scan = await context.store.scan(
            wanted,
            from_position=position,
            limit=max(min(TAIL_SLICE_ENTRIES, end - position), 1),
            bytes_max=context.config.limits.reply_bytes_max,
        )
        lines = [
            b'%b"entry":%b}\n'
            % (
                prefix,
                renderer.render(
                    entry.sequence,
                    entry.position,
                    entry.timestamp,
                    record.agent_id.encode(),
                    entry.iteration,
                    entry.event,
                    record.uid if uid is None else None,
                ),
            )
            for record, entry in scan.entries
            if entry.position < end
        ]
        position = min(scan.next_position, end)
        if lines:
            caller.sink.write(b"".join(lines))
            await caller.sink.drained()
        if scan.is_end or position == end:
            if not request.follow:
                break
            await asyncio.wait([committed])  # shared with others: not ours to cancel
    caller.sink.write(ok_reply(request.id, {"position": position}))


async def _span(context: Context, request: Tail, wanted: Filter) -> tuple[int, int]:
    """Return where a tail begins, and where it ends.

    One that does not follow ends where the journal does at this moment: so it does
    end, whoever writes meanwhile, and the last so many are so many.
    """
    if request.from_position is not None and request.last is not None:
        raise InvalidError('send "from_position" or "last", not both', field="last")
    if request.before_position is not None and request.follow:
        raise InvalidError(
            'what comes before a position is there already; send "follow": false',
            field="before_position",
        )
    position_of_last = context.store.position_of_last
    end = SEQUENCE_MAX
    if not request.follow:
        end = await position_of_last(wanted, 0, before=request.before_position)
    if request.from_position is not None:
        return request.from_position, max(end, request.from_position)
    if request.last is not None or request.follow:
        before = None if request.follow else end
        return await position_of_last(wanted, request.last or 0, before=before), end
    return 0, end
