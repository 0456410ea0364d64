"""The same crash in many agents: one of them tries, the others wait.

When a model's service is down or a library is broken, every agent crashes
alike, and each would spend its own budget to find out the same.  A crash's
*signature* is how the process ended and the last line that it wrote to stderr,
without what differs from one to the next (numbers, addresses, the agent's id).  Once
enough different agents crashed with the same one within a while, it is an
*outbreak*: of those who would be launched next and crashed with it last, one
at a time is, the *probe*.  When a probe goes on for a while, ends otherwise or
gets further, the outbreak is over and the others follow.

Time arrives as an argument, in seconds that never go back.
"""

from __future__ import annotations

import re
from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Final

from .attempt_output import Outcome

SIGNATURE_CHARACTERS_MAX: Final = 200
ID_CHARACTERS_MIN: Final = 4  # an agent's id that is shorter may be a part of any word
SIGNATURES_MAX: Final = 1024
"""How many are remembered; the one that was seen the longest ago is forgotten."""

_HEX: Final = re.compile(r"0[xX][0-9a-fA-F]+|\b(?=[0-9a-fA-F-]*[0-9])[0-9a-fA-F-]{6,}\b")
_DIGITS: Final = re.compile(r"[0-9]+")


def signature_of(outcome: Outcome, agent_id: str = "") -> str:
    """Return what two crashes for the same reason have in common."""
    lines = [line.strip() for line in outcome.stderr.splitlines() if line.strip()]
    last = lines[-1] if lines else ""
    if len(agent_id) >= ID_CHARACTERS_MIN:
        last = last.replace(agent_id, "#")
    last = _DIGITS.sub("#", _HEX.sub("#", last))
    return f"{outcome}: {last}"[:SIGNATURE_CHARACTERS_MAX]


@dataclass(slots=True)
class _Crashes:
    seen: dict[Hashable, float] = field(default_factory=dict)  # agent -> when it crashed so last
    probe: Hashable | None = None
    is_outbreak: bool = False


class Outbreaks:
    """Which signatures are going round, and who probes each."""

    def __init__(self, *, agents_min: int, window_seconds: float) -> None:
        self.agents_min = agents_min  # 0: no crash is ever an outbreak
        self.window_seconds = window_seconds
        self._by_signature: dict[str, _Crashes] = {}
        self._probing: dict[Hashable, str] = {}

    def crashed(self, agent: Hashable, signature: str, now: float) -> bool:
        """Take note of a crash; tell whether it makes an outbreak of its signature."""
        former = self._probing.get(agent)
        if former is not None and former != signature:
            self.recovered(agent)
        crashes = self._by_signature.pop(signature, None) or _Crashes()
        self._by_signature[signature] = crashes  # the one that was seen last is the last
        if len(self._by_signature) > SIGNATURES_MAX:
            self._forget(next(iter(self._by_signature)))
        self._end_probe(agent)
        crashes.seen.pop(agent, None)
        crashes.seen[agent] = now
        self._drop_old(crashes, now)
        # Where it began, it goes on until a probe says otherwise: the agents
        # that wait crash no more, so the window alone would end it.
        began = not crashes.is_outbreak and 0 < self.agents_min <= len(crashes.seen)
        crashes.is_outbreak = crashes.is_outbreak or began
        return began

    def may_launch(self, agent: Hashable, signature: str | None) -> bool:
        """Tell whether *agent*, which crashed with *signature* last, may be launched now.

        If it is the first to ask in an outbreak, it is the probe from now on.
        """
        crashes = self._by_signature.get(signature) if signature else None
        if crashes is None or signature is None or not crashes.is_outbreak or not self.agents_min:
            return True
        if crashes.probe is None:
            crashes.probe = agent
            self._probing[agent] = signature
        return crashes.probe == agent

    def signature_probed_by(self, agent: Hashable) -> str | None:
        """Return which outbreak *agent* is the probe of."""
        return self._probing.get(agent)

    def recovered(self, agent: Hashable) -> str | None:
        """End the outbreak that *agent* was the probe of, if it was; return its signature."""
        signature = self._probing.get(agent)
        if signature is not None:
            self._forget(signature)
        return signature

    def withdrew(self, agent: Hashable) -> str | None:
        """Let another one probe: this one ended without telling anything about the crash."""
        return self._end_probe(agent)

    def _end_probe(self, agent: Hashable) -> str | None:
        signature = self._probing.pop(agent, None)
        if signature is not None and signature in self._by_signature:
            self._by_signature[signature].probe = None
        return signature

    def _forget(self, signature: str) -> None:
        crashes = self._by_signature.pop(signature)
        if crashes.probe is not None:
            self._probing.pop(crashes.probe, None)

    def _drop_old(self, crashes: _Crashes, now: float) -> None:
        for agent, when in list(crashes.seen.items()):
            if now - when <= self.window_seconds:
                break
            del crashes.seen[agent]
