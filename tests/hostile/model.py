"""The model of the protocol: which replies a request may get, and what each of them changes.

Written from docs/PROTOCOL.md, and from nothing else.  Where several refusals apply
the document does not say which comes first, so each of them is possible; where none
does, there is one answer.  Requests are well formed here: what is not is ``judge``'s.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any, Final

from hostile.model_answers import (
    INTEGER,
    OPTIONAL,
    STRING,
    TIMESTAMP,
    Answer,
    Reply,
    Request,
    no,
    same_entry,
    same_value,
    yes,
)
from hostile.model_state import (
    ANY,
    GIVEN_UP,
    Agent,
    Entry,
    Journal,
    Peer,
    is_of,
    steps_of,
)

ENVELOPE_BYTES_MAX: Final = 200
DESCRIPTION_BYTES_MAX: Final = 900


def rendered(timestamp: str) -> str:
    """Return a client's timestamp as it comes back."""
    moment = datetime.fromisoformat(timestamp).astimezone(UTC)
    return moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ")


class Model(Journal):
    """A journal that says what its daemon answers."""

    def answers(  # noqa: PLR0911 - one for each kind of operation
        self, number: int, request: Request
    ) -> list[Answer]:
        """Return what may be answered to a client's request."""
        peer = self.peers[number]
        op = request["op"]
        if peer.stream is not None:
            return [no(request, "invalid", field=STRING)]
        if op == "ping":
            return [yes(request)]
        if op == "hello":
            return [self._hello(request)]
        uid = request.get("uid", peer.uid)
        uid = peer.uid if uid is None else uid
        if uid != peer.uid and not self.is_admin(peer):
            return [no(request, "forbidden")]
        if op == "append":
            return self._append(uid, request)
        if op in ("agents", "tail", "stats"):
            return getattr(self, f"_{op}")(peer, None if uid == "*" else uid, request)
        if op == "attach":
            return self._attach(peer, uid, request)
        agent = self.agents.get((uid, request["agent_id"]))
        if agent is None:
            return [no(request, "not_found")]
        return getattr(self, f"_{op}")(agent, request)

    def _hello(self, request: Request) -> Answer:
        if request.get("protocol") not in (None, 1):
            return no(request, "unsupported_protocol", supported=[1])
        limits = {
            "frame_bytes_max": INTEGER,
            "read_entries_max": self.limits["read_entries_max"],
            "reply_bytes_max": self.limits["reply_bytes_max"],
            "agent_id_bytes_max": 128,
            "key_bytes_max": 256,
        }
        return yes(
            request,
            server="agent-journald",
            version=STRING,
            protocol=1,
            boot_id=STRING,
            limits=limits,
        )

    # append

    def _append(self, uid: int, request: Request) -> list[Answer]:
        agent = self.agents.get((uid, request["agent_id"]))
        fields = request.get("entries") or [request]
        if agent is None:
            agent = Agent(uid, request["agent_id"])  # until it is known whether it begins
        repeat = self._repeat(agent, request, fields)
        if repeat is not None:
            return repeat
        refusals = self._refusals(agent, request)
        if refusals:
            return refusals

        def record(reply: Reply) -> None:
            self._record(uid, request, fields, reply.members["position"])

        first = len(agent.entries)
        return [yes(request, record, sequence=first, position=INTEGER, count=len(fields))]

    def _repeat(self, agent: Agent, request: Request, fields: list[Request]) -> list[Answer] | None:
        """Return what is answered to an append that may have been recorded before."""
        keys = {place: one["key"] for place, one in enumerate(fields) if one.get("key") is not None}
        used = {place: agent.keys[key] for place, key in keys.items() if key in agent.keys}
        if used:
            begins = {sequence - place for place, sequence in used.items()}
            first = min(begins)
            if len(used) == len(keys) and len(begins) == 1 and _stand_at(agent, first, fields):
                found = [_duplicate(agent, request, first, len(fields))]
                if request.get("expected_sequence") not in (None, first):
                    found += self._refusals(agent, request)  # it is not quite the same append
                return found
            sequence = agent.keys[keys[0]] if len(fields) == 1 else INTEGER
            return [
                no(request, "key_conflict", sequence=sequence),
                *self._refusals(agent, request),
            ]
        first = request.get("expected_sequence")
        is_owners = agent.epoch > 0 and request.get("epoch") == agent.epoch
        if not is_owners or first is None or not _stand_at(agent, first, fields):
            return None
        found = [_duplicate(agent, request, first, len(fields))]
        if keys or agent.entries[first].epoch != agent.epoch:
            found += self._refusals(agent, request)  # it may be another's, or another one
        return found

    def _refusals(self, agent: Agent, request: Request) -> list[Answer]:
        """Return the first of the refusals that apply: of its end, of the fence, of its place."""
        epoch, expected = request.get("epoch") or 0, request.get("expected_sequence")
        if agent.is_terminal and agent.entries:
            return [no(request, "agent_finished", state=agent.state)]
        if epoch != agent.epoch or (agent.epoch and agent.state in GIVEN_UP):
            return [no(request, "stale_epoch", current=agent.epoch)]
        if agent.state == "parked":
            return [no(request, "parked")]
        if expected is not None and expected != len(agent.entries):
            actual = len(agent.entries)
            return [no(request, "sequence_conflict", expected=expected, actual=actual)]
        return []

    def _record(self, uid: int, request: Request, fields: list[Request], position: int) -> None:
        agent = self.begin(uid, request["agent_id"])
        if agent.is_terminal:
            agent.reason, agent.attempts, agent.attempt = None, 0, 0
        if not agent.epoch or agent.is_terminal:
            agent.state = "running"
        for offset, one in enumerate(fields):
            given = one.get("timestamp")
            entry = self.write(
                agent,
                one["event"],
                iteration=one.get("iteration", 0),
                timestamp=None if given is None else rendered(given),
                epoch=request.get("epoch") or 0,
            )
            self.learn(entry, position + offset)
            if one.get("key") is not None:
                agent.keys[one["key"]] = entry.sequence
            if entry.name == "Terminated":
                payload = entry.payload
                reason = payload.get("reason") if type(payload) is dict else None
                agent.reason = reason if type(reason) is str else None
                agent.state = "completed" if agent.reason == "Completed" else "failed"
                _let_go(agent)

    # read, describe, agents, tail, stats, compact

    def _read(self, agent: Agent, request: Request) -> list[Answer]:
        start, limit = request.get("from_sequence", 0), request.get("limit", 1000)
        start = min(start, len(agent.entries))
        limit = min(limit, self.limits["read_entries_max"])
        wanted = agent.entries[start : start + limit]

        def check(reply: Reply) -> None:
            count = len(reply.entries)
            end = start + count
            more = end < len(agent.entries)
            yes(request, entries=ANY, next_sequence=end, more=more).check(reply)
            assert count <= len(wanted), f"{count} entries, expected {len(wanted)}"
            for entry, shown in zip(wanted, reply.entries, strict=False):
                same_entry(entry, shown, agent.agent_id, None)
            bytes_max = self.limits["reply_bytes_max"]
            assert len(reply.line) <= bytes_max or count == 1 or not wanted, "the reply is too long"
            if count < len(wanted):
                assert count > 0, "no entry at all"
                following = len(wanted[count].event) + ENVELOPE_BYTES_MAX + len(agent.agent_id)
                assert len(reply.line) + following > bytes_max, "there was room for more"

        def learn(reply: Reply) -> None:
            for entry, shown in zip(wanted, reply.entries, strict=False):
                if entry.is_copy:
                    assert agent.first is not None
                    assert agent.first.position is None or shown.position < agent.first.position
                    assert entry.position in (None, shown.position)
                    entry.position = shown.position
                else:
                    self.learn(entry, shown.position)

        return [Answer(check, learn)]

    def _describe(self, agent: Agent, request: Request) -> list[Answer]:
        def learn(reply: Reply) -> None:
            self._learn_first(agent, reply.members["agent"]["first_position"])

        return [yes(request, learn, agent=self.description(agent))]

    def _learn_first(self, agent: Agent, position: int) -> None:
        if agent.first is not None:
            self.learn(agent.first, position)

    def description(self, agent: Agent) -> dict[Any, Any]:
        """Return what is told of an agent."""
        count = len(agent.entries)
        needed = {
            "agent_id": agent.agent_id,
            "kind": agent.kind,
            "state": agent.state,
            "uid": agent.uid,
            "entries": count,
            "latest_sequence": max(count - 1, 0),
            "next_sequence": count,
            "last_completed_iteration": max([0, *(entry.iteration for entry in agent.entries)]),
            "epoch": agent.epoch,
            "attempts": agent.attempts,
            "created_at": agent.created_at if count else TIMESTAMP,
            "updated_at": agent.updated_at if count else TIMESTAMP,
            "first_position": agent.first.position
            if agent.first and agent.first.position is not None
            else INTEGER,
        }
        optional: dict[str, Any] = {}
        if agent.reason is not None:
            needed["reason"] = agent.reason
        if agent.owner is not None:
            needed["owner"] = {"pid": agent.owner[0], "alive": True}
        for name in ("launcher", "command", "wake_at", "wait_for"):
            value = getattr(agent, name)
            is_sure = not agent.is_terminal and name in ("launcher", "command")
            is_sure = is_sure or (agent.state == "waiting" and agent.epoch > 0)
            if value is None:
                continue
            if is_sure and value is not ANY:
                needed[name] = value
            else:
                optional[name] = value
        if agent.state != "waiting":
            optional |= {"wake_at": ANY, "wait_for": ANY}
        return {**needed, OPTIONAL: optional}

    def _agents(  # noqa: C901 - filters
        self, peer: Peer, uid: int | None, request: Request
    ) -> list[Answer]:
        after = request.get("after")
        if type(after) is str:
            if uid is None:
                return [no(request, "invalid", field="after")]
            if (uid, after) not in self.agents:
                return [no(request, "not_found")]
        found = [
            agent
            for agent in sorted(self.agents.values(), key=self._place)
            if uid in (None, agent.uid)
        ]
        if type(after) is str:
            last = next(n for n, agent in enumerate(found) if agent.agent_id == after)
            found = found[last + 1 :]
        elif after is not None:
            if any(agent.first is None or agent.first.position is None for agent in found):
                return [Answer(_says_yes)]
            found = [agent for agent in found if agent.first.position > after]  # type: ignore[union-attr,operator]
        state, kind = request.get("state"), request.get("kind")
        found = [
            agent
            for agent in found
            if state in (None, agent.state) and (kind is None or kind == agent.kind)
        ]
        limit = min(request.get("limit", 100), 1000)
        page, more = found[:limit], len(found) > limit

        def check(reply: Reply) -> None:
            count = len(reply.members.get("agents", ()))
            told = [self.description(agent) for agent in page[:count]]
            yes(request, agents=told, more=more or count < len(page)).check(reply)
            if count < len(page):  # a reply is not to grow too long
                room = self.limits["reply_bytes_max"] - DESCRIPTION_BYTES_MAX
                assert len(reply.line) > room, "there was room for more"
                assert count > 0, "no agent at all"

        def learn(reply: Reply) -> None:
            for agent, shown in zip(page, reply.members["agents"], strict=False):
                self._learn_first(agent, shown["first_position"])

        return [Answer(check, learn)]

    def _place(self, agent: Agent) -> int:
        """Return the place of an agent's first entry in the order of all that were recorded."""
        return self.births.index((agent.uid, agent.agent_id))

    @property
    def births(self) -> list[tuple[int, str]]:
        """The agents in the order in which they began, which is how they are kept."""
        return [*self.agents]

    def _tail(self, peer: Peer, uid: int | None, request: Request) -> list[Answer]:
        start, last = request.get("from_position"), request.get("last")
        if start is not None and last is not None:
            return [no(request, "invalid", field=STRING)]
        if request.get("follow", True):
            raise NotImplementedError("the machine begins streams itself")

        def learn(reply: Reply) -> None:
            position = reply.members["position"]
            if start is None:
                self.seen_position = max(self.seen_position, position - 1)

        return [yes(request, learn, position=INTEGER)]

    def shown_by_tail(self, uid: int | None, request: Request) -> list[tuple[Any, Entry]]:
        """Return the entries that a tail begins with, in order, as far as that is known."""
        agent_id, last = request.get("agent_id"), request.get("last")
        start = request.get("from_position")
        found = [(name, entry) for name, entry in self.log if is_of(name, uid, agent_id)]
        if start is not None:
            return [
                (name, entry)
                for name, entry in found
                if entry.position is None or entry.position >= start
            ]
        if last is not None:
            begin = max(len(found) - last, 0)
            if last:  # of a group in no certain order, any may be the last ones
                group = found[begin][1].group if begin < len(found) else 0
                while group and begin and found[begin - 1][1].group == group:
                    begin -= 1
            return found[begin:]
        return [] if request.get("follow", True) else found

    def _stats(self, peer: Peer, uid: int | None, request: Request) -> list[Answer]:
        return [Answer(_says_yes)]

    def _compact(self, agent: Agent, request: Request) -> list[Answer]:
        if not agent.is_terminal and not request.get("force", False):
            return [no(request, "agent_unfinished", state=agent.state)]

        def compact(reply: Reply) -> None:
            self.compact(agent)

        return [yes(request, compact, removed=len(agent.entries))]

    # attach, detach

    def _attach(self, peer: Peer, uid: int, request: Request) -> list[Answer]:
        found = self._attach_refusals(peer, uid, request)
        if found:
            return found
        agent = self.agents.get((uid, request["agent_id"])) or Agent(uid, request["agent_id"])
        is_back = self.holds(agent) and agent.state == "running"
        is_back = is_back and agent.owner[0] == peer.pid and not self.is_connected(agent)  # type: ignore[index]
        is_fresh = not is_back and agent.state != "resuming"
        is_replaced = is_fresh and agent.state == "running" and self.holds(agent)
        attempt = (0 if agent.is_terminal else agent.attempts) + is_fresh

        def hold(reply: Reply) -> None:
            self._hold(peer, uid, request, is_fresh=is_fresh, is_replaced=is_replaced)

        return [
            yes(
                request,
                hold,
                epoch=agent.epoch + 1,
                attempt=attempt,
                state="running",
                next_sequence=len(agent.entries) + is_fresh + is_replaced,
                resumed=bool(agent.entries or agent.attempts),
            )
        ]

    def _attach_refusals(self, peer: Peer, uid: int, request: Request) -> list[Answer]:
        found = []
        if request.get("launcher") is not None:
            found.append(no(request, "invalid", field=STRING))  # none is configured
        if request.get("command") is not None and not peer.uid == uid == self.daemon_uid:
            found.append(no(request, "forbidden"))
        agent = self.agents.get((uid, request["agent_id"]))
        if agent is None:
            return found
        if agent.is_terminal and agent.entries:
            found.append(no(request, "agent_finished", state=agent.state))
        if agent.state == "parked":
            found.append(no(request, "parked"))
        if agent.state == "running" and self.holds(agent) and not request.get("take_over"):
            pid, _ = agent.owner  # type: ignore[misc]
            if pid != peer.pid or self.is_connected(agent):
                found.append(no(request, "agent_attached", epoch=agent.epoch, pid=pid))
        return found

    def _hold(
        self, peer: Peer, uid: int, request: Request, *, is_fresh: bool, is_replaced: bool
    ) -> None:
        agent = self.begin(uid, request["agent_id"])
        if agent.is_terminal:
            agent.attempts = 0
            _let_go(agent)
            agent.launcher = agent.command = None
        agent.epoch += 1
        agent.state, agent.reason = "running", None
        agent.kind = request.get("kind") or agent.kind
        if request.get("command") is not None:
            agent.launcher = None
            agent.command = {"argv": request["command"]["argv"], "cwd": request["command"]["cwd"]}
        if is_replaced:
            self.record(agent, "AttemptEnded", {"attempt": agent.attempt, "how": "replaced"})
        if is_fresh:
            agent.attempts += 1
            agent.attempt = agent.attempts
            started: dict[str, Any] = {
                "attempt": agent.attempt,
                "epoch": agent.epoch,
                "launched": False,
                "pid": peer.pid,
            }
            if agent.command is not ANY:
                started["command"] = agent.command["argv"] if agent.command else None
            agent.attempt_began = self.record(agent, "AttemptStarted", started).sequence
        agent.owner = peer.pid, peer.number
        agent.wake_at = agent.wait_for = None

    def _detach(self, agent: Agent, request: Request) -> list[Answer]:
        found = []
        if request["epoch"] != agent.epoch or not agent.epoch:
            found.append(no(request, "stale_epoch", current=agent.epoch))
        elif agent.state == "waiting":
            return [yes(request, state="waiting")]
        elif agent.state in GIVEN_UP or (agent.state == "running" and agent.owner is None):
            found.append(no(request, "stale_epoch", current=agent.epoch))
            if agent.state in GIVEN_UP:
                found.append(no(request, "agent_unfinished", state=agent.state))
        if agent.state == "parked":
            found.append(no(request, "parked"))
        if agent.is_terminal:
            found.append(no(request, "agent_finished", state=agent.state))
        if found and not (agent.state == "running" and agent.epoch == request["epoch"]):
            return found

        def give_up(reply: Reply) -> None:
            names = request.get("wait_for") or None
            seen = request.get("seen_sequence")
            seen = agent.attempt_began if seen is None else seen
            signals = [
                entry.payload["name"]
                for entry in agent.entries[seen:]
                if entry.is_daemons and entry.name == "Signalled"
            ]
            is_due = bool(names) and any(name in names for name in signals)
            self.record(agent, "AttemptEnded", {"attempt": agent.attempt, "how": "detached"})
            wake_at = request.get("wake_at")
            agent.wake_at = self.now() if is_due else None if wake_at is None else rendered(wake_at)
            agent.state, agent.owner, agent.wait_for = "waiting", None, names

        return [*found, yes(request, give_up, state="waiting")]

    # signal, decide

    def _signal(self, agent: Agent, request: Request) -> list[Answer]:
        name, payload, key = request["name"], request.get("payload", "null"), request.get("key")
        told = f'{{"Signalled":{{"name":{json.dumps(name)},"payload":{payload}'
        told += "}}" if key is None else f',"key":{json.dumps(key)}}}}}'
        if key is not None and key in agent.signal_keys:
            sequence = agent.signal_keys[key]
            before = agent.entries[sequence].event
            if same_value(before, told):
                return [yes(request, sequence=sequence, duplicate=True)]
            return [
                no(request, "key_conflict", sequence=sequence),
                *([no(request, "agent_finished", state=agent.state)] if agent.is_terminal else []),
            ]
        if agent.is_terminal:
            return [no(request, "agent_finished", state=agent.state)]

        def tell(reply: Reply) -> None:
            entry = self.write(agent, told, is_daemons=True)
            if key is not None:
                agent.signal_keys[key] = entry.sequence
            if agent.state == "waiting" and name in (agent.wait_for or ()):
                agent.wake_at = self.now()

        return [yes(request, tell, sequence=len(agent.entries))]

    def _decide(self, agent: Agent, request: Request) -> list[Answer]:
        step = request["step"]
        in_doubt, is_open = steps_of(agent).get(step, (False, False))
        found = []
        if not in_doubt or is_open:
            found.append(no(request, "invalid", field="step"))
        if agent.is_terminal:
            found.append(no(request, "agent_finished", state=agent.state))
        if agent.state == "running" and self.holds(agent):
            pid, _ = agent.owner  # type: ignore[misc]
            found.append(no(request, "agent_attached", epoch=agent.epoch, pid=pid))
        if found and not (len(found) == 1 and is_open):
            return found
        decided = {"step": step}
        for name in ("result", "error"):
            if name in request:
                decided[name] = json.loads(request[name])
        if request.get("rerun"):
            decided["rerun"] = True

        def record(reply: Reply) -> None:
            self.record(agent, "Decided", decided)

        return [*found, yes(request, record, sequence=len(agent.entries))]

    # fork

    def _fork(self, agent: Agent, request: Request) -> list[Answer]:
        count, new_id = request["at_sequence"], request["as"]
        found = []
        if count > len(agent.entries):
            found.append(no(request, "invalid", field="at_sequence"))
        if (agent.uid, new_id) in self.agents:
            found.append(no(request, "invalid", field="as"))
        if found:
            return found

        def begin(reply: Reply) -> None:
            new = self.begin(agent.uid, new_id)
            new.state, new.kind = "waiting", agent.kind
            is_sure = not agent.is_terminal
            new.launcher = agent.launcher if is_sure else ANY
            new.command = agent.command if is_sure else ANY
            for entry in agent.entries[:count]:
                copied = Entry(
                    entry.sequence,
                    entry.timestamp,
                    entry.iteration,
                    entry.event,
                    entry.is_daemons,
                    is_copy=True,
                )
                new.entries.append(copied)
            last = max([0, *(entry.iteration for entry in new.entries)])
            forked = {"from": agent.agent_id, "at_sequence": count}
            self.record(new, "Forked", forked, iteration=last)

        return [yes(request, begin, agent_id=new_id, next_sequence=count + 1)]

    # park, resume, cancel

    def _park(self, agent: Agent, request: Request) -> list[Answer]:
        if agent.is_terminal:
            return [no(request, "agent_finished", state=agent.state)]
        if agent.state == "parked":
            return [yes(request, state="parked")]

        def park(reply: Reply) -> None:
            reason = request.get("reason")
            self.record(agent, "Parked", {"reason": reason} if reason else {})
            agent.state, agent.reason = "parked", reason or None

        return [yes(request, park, state="parked")]

    def _resume(self, agent: Agent, request: Request) -> list[Answer]:
        if agent.is_terminal:
            return [no(request, "agent_finished", state=agent.state)]
        if agent.state in ("running", "resuming"):
            return [yes(request, state=agent.state)]
        state = agent.state
        if state == "parked":
            state = "interrupted" if agent.attempt else "waiting"
            state = "running" if self.holds(agent) else state

        def resume(reply: Reply) -> None:
            if agent.state == "parked":
                reason = request.get("reason")
                self.record(agent, "Unparked", {"reason": reason} if reason else {})
                agent.reason = None
            agent.state = state
            if state != "running":  # whose attempt goes on, and is counted still
                agent.attempts = 0
            agent.wake_at = self.now() if state == "waiting" else None

        return [yes(request, resume, state=state)]

    def _cancel(self, agent: Agent, request: Request) -> list[Answer]:
        finished = no(request, "agent_finished", state=agent.state)
        if agent.state == "cancelled":
            return [yes(request, state="cancelled"), finished]
        if agent.is_terminal:
            return [finished]

        def cancel(reply: Reply) -> None:
            reason = request.get("reason")
            self.record(agent, "Cancelled", {"reason": reason} if reason else {})
            agent.state, agent.reason = "cancelled", reason
            _let_go(agent)

        return [yes(request, cancel, state="cancelled")]


def _says_yes(reply: Reply) -> None:
    """Look at no more than that it is no refusal."""
    assert reply.members["ok"] is True, reply


def _let_go(agent: Agent) -> None:
    """Have an agent that has ended be nobody's, and wait for nothing."""
    agent.owner = agent.wake_at = agent.wait_for = None


def _stand_at(agent: Agent, first: int, fields: list[Request]) -> bool:
    """Tell whether an append's events are what stands from *first* on."""
    if first < 0 or first + len(fields) > len(agent.entries):
        return False
    return all(
        same_value(agent.entries[first + offset].event, one["event"])
        for offset, one in enumerate(fields)
    )


def _duplicate(agent: Agent, request: Request, first: int, count: int) -> Answer:
    position = agent.entries[first].position
    expected = INTEGER if position is None else position
    return yes(request, sequence=first, position=expected, count=count, duplicate=True)
