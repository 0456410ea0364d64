"""What must hold at every commit, every launch and every start of a process.

Looked at from outside, with what the host knows and the daemon does not: which
processes live.  The laws: an owner is not declared gone while it lives; an agent is
counted before it is started; no agent runs twice at once; never more are starting,
nor faster, than the configuration says; no agent is started more often than its
budget, by whoever's count.
"""

from __future__ import annotations

from collections import Counter
from typing import Final

from agent_journal.lifecycle import is_terminal
from agent_journal.model import AgentState
from agent_journal.store.base import AgentChange, AgentRecord, Batch, Copy
from simulation.host import Host, Name
from simulation.launching import Keepers, Kept

PACE_SLACK: Final = 3  # the first, one that was late, and one on its way


def _name(record: AgentRecord) -> Name:
    return int(record.uid), str(record.agent_id)


class Laws:
    """Looks on."""

    def __init__(self, host: Host, keepers: Keepers) -> None:
        self.durable: dict[Name, AgentRecord] = {}
        self.launches: Counter[Name] = Counter()  # since the agent last was well
        self.resumed: set[Name] = set()  # by a person, who may not have been answered
        self.checks = 0
        self._host = host
        self._keepers = keepers
        self._resume = host.config.resume
        self._at_once_most = self._resume.at_once_max
        self._attempts_most = self._resume.attempts_max
        self._rate_most = self._resume.per_second
        self._launched_at: list[float] = []
        self._launched_in = 0
        host.disk.on_commit = self.committed
        keepers.on_launch = self.launching
        keepers.on_spawn = self.spawned

    def configured(self) -> None:
        """Take note of another configuration."""
        resume = self._host.config.resume
        self._at_once_most = max(self._at_once_most, resume.at_once_max)
        self._attempts_most = max(self._attempts_most, resume.attempts_max)
        self._rate_most = max(self._rate_most, resume.per_second)

    def _fault(self, text: str) -> None:
        self._host.fault(text)

    # At every commit

    def committed(self, batch: Batch, position: int) -> None:
        """Look at a batch that is durable now."""
        self._host.trace("committed", position, len(batch.entries), len(batch.changes))
        for change in batch.changes:
            if change.copy not in (Copy.BEGUN, Copy.GIVEN_UP):
                self._changed(change)

    def _changed(self, change: AgentChange) -> None:
        self.checks += 1
        new, name = change.record, _name(change.record)
        before = self.durable.get(name)
        self.durable[name] = new
        if before is not None:
            if new.epoch < before.epoch:
                self._fault(f"{name}: its epoch fell from {before.epoch} to {new.epoch}")
            self._check_loss(name, before, new)
        if new.state is not AgentState.RESUMING:
            for kept in self._starting():
                if kept.name == name:
                    kept.has_place = False
        is_launch = new.state is AgentState.RESUMING and (
            before is None or before.state is not AgentState.RESUMING
        )
        if is_launch:
            self._count(name, new)
        elif new.state in (AgentState.WAITING, AgentState.PARKED) or is_terminal(new.state):
            self.launches[name] = 0

    def _check_loss(self, name: Name, before: AgentRecord, new: AgentRecord) -> None:
        owner = before.attachment.owner if before.attachment else None
        still = new.attachment.owner if new.attachment else None
        if owner is None or still is not None or new.state is AgentState.WAITING:
            return
        if is_terminal(new.state) or (
            new.state is AgentState.PARKED and before.state is not AgentState.PARKED
        ):
            return
        process = self._host.processes.get(owner.pid)
        if (
            process is not None
            and (process.start_time, process.boot_id) == (owner.start_time, owner.boot_id)
            and process.is_alive
        ):
            self._fault(f"{name}: its owner {owner.pid} was declared gone, and lives")

    def _count(self, name: Name, new: AgentRecord) -> None:
        """Hold an agent to its budget, by a count of our own."""
        incident = new.attachment.incident if new.attachment else None
        if name in self.resumed and incident is not None and not incident.attempts:
            self.launches[name] = 0  # a person asked, and was not told yet
        self.launches[name] += 1
        # What was due, or asked for, is not counted: troubles begin behind it.
        if self.launches[name] > self._attempts_most + 1:
            self._fault(
                f"{name}: launched {self.launches[name]} times, "
                f"and {self._attempts_most} are allowed"
            )

    # At every launch

    def launching(self, record: AgentRecord) -> None:
        """Look at a launch that begins."""
        self.checks += 1
        name, host = _name(record), self._host
        durable = self.durable.get(name)
        if durable is None or durable.attempts < record.attempts or not record.attempts:
            self._fault(f"{name}: attempt {record.attempts} is started, and was not counted")
        if self._launched_in != host.lives:
            self._launched_in = host.lives
            self._launched_at.clear()
        self._launched_at.append(host.loop.now)
        for count, begun in enumerate(reversed(self._launched_at), 1):
            allowed = (host.loop.now - begun) * self._rate_most + PACE_SLACK + self._at_once_most
            if count > allowed:
                self._fault(f"{count} launches within {host.loop.now - begun:g} s")
                break

    def _starting(self) -> list[Kept]:
        return [
            kept
            for kept in self._keepers.alive.values()
            if kept.has_place and kept.process is not None and kept.process.is_alive
        ]

    def spawned(self, kept: Kept) -> None:
        """Look at a process that begins."""
        self.checks += 1
        durable = self.durable.get(kept.name)
        if durable is None or durable.state is not AgentState.RESUMING:
            kept.has_place = False
        starting = self._starting()
        if len(starting) > self._at_once_most:
            names = [one.name for one in starting]
            self._fault(f"{len(starting)} are starting at once: {names}")
        for other in self._keepers.alive.values():
            process = other.process
            if other is not kept and other.name == kept.name and process and process.is_alive:
                self._fault(
                    f"{kept.name} runs twice at once: attempts {other.number} and {kept.number}"
                )
