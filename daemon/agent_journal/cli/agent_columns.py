"""The columns of ``ls``: what is known of an agent, as text and as what it sorts by."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Final

from ..clock import Clock
from ..value import Value
from .failures import usage_error
from .states import state_cell
from .terminal import Cell, Column, Terminal
from .timestamps import age, clock_time, in_future, span

if TYPE_CHECKING:
    from ..client import Agent


class Printing(Value):
    """What cells are made with."""

    terminal: Terminal
    clock: Clock


class AgentColumn(Value):
    """One column: how it looks, what is in it, and what agents are sorted by."""

    column: Column
    cell: Callable[[Agent, Printing], Cell | str]
    key: Callable[[Agent], str | float]
    rising: bool = False  # words sort from A to Z; numbers and times from the greatest


def _number(title: str, name: str, **more: bool) -> AgentColumn:
    return AgentColumn(
        Column(title=title, right=True, **more),
        lambda agent, _: f"{getattr(agent, name):,}",
        lambda agent: float(getattr(agent, name)),
    )


def _owner(agent: Agent) -> int:
    pid = agent.owner.get("pid", 0) if agent.owner and agent.owner.get("alive") else 0
    return pid if isinstance(pid, int) else 0


def _next_at(agent: Agent) -> float:
    moment = agent.next_attempt_at or agent.wake_at
    return 0.0 if moment is None else moment.timestamp()


def _next(agent: Agent, printing: Printing) -> str:
    moment = agent.next_attempt_at or agent.wake_at
    if moment is not None:
        return in_future(moment, clock=printing.clock)
    return f"on {', '.join(agent.wait_for)}" if agent.wait_for else ""


COLUMNS: Final[dict[str, AgentColumn]] = {
    "id": AgentColumn(
        Column(title="AGENT", flexible=True),
        lambda agent, _: Cell(agent.agent_id, "bold"),
        lambda agent: agent.agent_id,
        rising=True,
    ),
    "uid": AgentColumn(
        Column(title="UID", right=True),
        lambda agent, _: str(agent.uid),
        lambda agent: float(agent.uid),
        rising=True,
    ),
    "state": AgentColumn(
        Column(title="STATE"),
        lambda agent, printing: state_cell(agent.state, printing.terminal),
        lambda agent: agent.state,
        rising=True,
    ),
    "kind": AgentColumn(
        Column(title="KIND", optional=True, spare=True),
        lambda agent, _: agent.kind or "",
        lambda agent: agent.kind or "",
        rising=True,
    ),
    "entries": _number("ENTRIES", "entries"),
    "attempts": AgentColumn(
        Column(title="ATT", right=True, optional=True, spare=True),
        lambda agent, _: f"{agent.attempts:,}" if agent.attempts else "",
        lambda agent: float(agent.attempts),
    ),
    "iteration": _number("ITER", "last_completed_iteration", spare=True),
    "epoch": _number("EPOCH", "epoch"),
    "age": AgentColumn(
        Column(title="AGE", right=True, spare=True),
        lambda agent, printing: Cell(span(agent.created_at, clock=printing.clock), "dim"),
        lambda agent: agent.created_at.timestamp(),
    ),
    "created": AgentColumn(
        Column(title="CREATED"),
        lambda agent, printing: Cell(clock_time(agent.created_at, clock=printing.clock), "dim"),
        lambda agent: agent.created_at.timestamp(),
    ),
    "updated": AgentColumn(
        Column(title="UPDATED"),
        lambda agent, printing: Cell(age(agent.updated_at, clock=printing.clock), "dim"),
        lambda agent: agent.updated_at.timestamp(),
    ),
    "owner": AgentColumn(
        Column(title="OWNER", right=True),
        lambda agent, _: str(_owner(agent) or ""),
        lambda agent: float(_owner(agent)),
    ),
    "next": AgentColumn(
        Column(title="NEXT"),
        _next,
        _next_at,
    ),
    "reason": AgentColumn(
        Column(title="REASON", optional=True, flexible=True),
        lambda agent, _: agent.reason or "",
        lambda agent: agent.reason or "",
        rising=True,
    ),
}

DEFAULT: Final = ("id", "state", "kind", "entries", "attempts", "age", "updated", "reason")
EVERYONES: Final = (DEFAULT[0], "uid", *DEFAULT[1:])


def column_names(text: str) -> tuple[str, ...]:
    """Read a list of columns; one that begins with ``+`` adds to the usual ones.

    Raises:
        CommandError: there is no such column.
    """
    names = [name.strip().lower() for name in text.removeprefix("+").split(",")]
    for name in names:
        column(name)
    return tuple(dict.fromkeys((*DEFAULT, *names) if text.startswith("+") else names))


def column(name: str) -> AgentColumn:
    """Return the column of that name.

    Raises:
        CommandError: there is none.
    """
    if name not in COLUMNS:
        raise usage_error(f"there is no column {name!r}", f"one of {', '.join(COLUMNS)}")
    return COLUMNS[name]


def rows(
    agents: Iterator[Agent], names: Sequence[str], terminal: Terminal
) -> Iterator[list[Cell | str]]:
    """Return a table's rows."""
    printing = Printing(terminal, Clock())
    cells = [COLUMNS[name].cell for name in names]
    for agent in agents:
        yield [cell(agent, printing) for cell in cells]
