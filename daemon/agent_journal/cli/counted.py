"""Numbers of things, in words that agree with them: ``1 agent``, ``2,300 entries``."""

from __future__ import annotations


def counted(number: float, one: str, many: str = "") -> str:
    """Return so many of something; *many* is what more than one are called, else *one* and s."""
    return f"{number:,.0f} {one if number == 1 else many or one + 's'}"


def agents(number: int) -> str:
    """Return so many agents."""
    return counted(number, "agent")


def entries(number: int) -> str:
    """Return so many entries."""
    return counted(number, "entry", "entries")


def agents_with_entries(of_agents: int, of_entries: int) -> str:
    """Return so many agents with so many entries."""
    return f"{agents(of_agents)} with {entries(of_entries)}"
