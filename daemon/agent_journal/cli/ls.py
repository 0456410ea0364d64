"""``agent-journal ls``: the caller's agents and where each is in its life, the newest first."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from .agent_columns import (
    COLUMNS,
    DEFAULT,
    EVERYONES,
    AgentColumn,
    column,
    column_names,
    rows,
)
from .agent_query import Query, sorted_by, states_named
from .arguments import add_uid, natural
from .connection import connected
from .counted import agents
from .failures import ExitCode, usage_error
from .moments import MOMENT_HELP, moment
from .output import print_json
from .progress import Progress
from .states import state_cell
from .terminal import Table, Terminal, harmless, standard_output

if TYPE_CHECKING:
    from ..client import Agent, Client

EXAMPLES: Final = """\
  agent-journal ls                                  # the newest
  agent-journal ls --state parked,interrupted       # who needs a person
  agent-journal ls --state unfinished --sort updated
  agent-journal ls --since 2h --kind nightly -o +attempts,next
  agent-journal ls report-                          # whose ids begin so
  agent-journal ls --json | jq -r .agent_id
  sudo agent-journal ls --uid '*'

Without --sort, agents come in the order in which they began, which costs what
is shown, however many there are; with it, all that match are read first.
--since and --until go by when an agent began; a --kind is looked for agent by
agent.
"""

SCREEN_AGENTS: Final = 50  # shown on a terminal where nothing else is said
ATTENTION_STATES: Final = ("parked", "interrupted")
ATTENTION_MAX: Final = 20  # as many are counted


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    add = parser.add_argument
    add("prefix", metavar="PREFIX", nargs="?", help="only agents whose ids begin so, by id")
    add(
        "--state",
        action="append",
        metavar="STATE",
        help="one or more of running, waiting, interrupted, resuming, parked, completed, "
        "failed, cancelled, or unfinished, finished; with commas or again",
    )
    add("--kind", help="only agents of this kind")
    add("--since", "-S", type=moment, metavar="TIME", help=f"that began since: {MOMENT_HELP}")
    add("--until", "-U", type=moment, metavar="TIME", help="that began until then")
    add(
        "-n",
        "--limit",
        type=natural,
        metavar="N",
        help=f"at most so many (default: all; {SCREEN_AGENTS} on a terminal)",
    )
    add("-a", "--all", action="store_true", help="all of them, on a terminal too")
    add(
        "-o",
        "--columns",
        metavar="COLUMNS",
        help=f"with commas, of {', '.join(COLUMNS)}; with + in front beside the usual ones",
    )
    add("--sort", metavar="COLUMN", help="by this column: words from A, numbers from the greatest")
    add("-r", "--reverse", action="store_true", help="the other way round; the oldest first")
    add("--no-header", action="store_true", help="leave out the line with the titles")
    add_uid(parser, everyone=True)


def run(arguments: argparse.Namespace) -> int:
    """Print the agents."""
    terminal = standard_output()
    names: tuple[str, ...] = EVERYONES if arguments.uid == "*" else DEFAULT
    if arguments.columns is not None:
        names = column_names(arguments.columns)
    order = None if arguments.sort is None else column(arguments.sort)
    limit = _limit(arguments, terminal)
    query = _query(arguments, order, limit)
    with connected(arguments) as journal:
        listing = _Listing(limit)
        agents = listing.take(query.agents(journal), order, reverse=arguments.reverse)
        if arguments.json:
            for agent in agents:
                print_json(agent)
            return ExitCode.OK
        columns = [COLUMNS[name].column for name in names]
        table = Table(terminal, columns, with_header=not arguments.no_header)
        table.print(rows(agents, names, terminal))
        terminal.flush()  # before what stands below it on standard error
        notes = Terminal(sys.stderr)
        if not listing.count:
            notes.line("no agents" + (" like that" if _is_narrowed(arguments) else ""))
        elif notes.is_tty:
            notes.line(notes.paint(_told(listing, arguments, query), "dim"))
            _warn(journal, arguments, notes)
    return ExitCode.OK


class _Listing:
    """Counts what is shown, and knows whether there would have been more."""

    def __init__(self, limit: int | None) -> None:
        self._limit = limit
        self.count = 0
        self.has_more = False

    def take(
        self, agents: Iterator[Agent], order: AgentColumn | None, *, reverse: bool
    ) -> Iterator[Agent]:
        """Yield the agents that are shown, in *order*."""
        if order is not None:
            wanted = None if self._limit is None else self._limit + 1
            rising = order.rising is not reverse
            agents = iter(sorted_by(_watched(agents), order.key, rising=rising, limit=wanted))
        for agent in agents:
            if self._limit is not None and self.count >= self._limit:
                self.has_more = True
                return
            self.count += 1
            yield agent


def _watched(agents: Iterator[Agent]) -> Iterator[Agent]:
    with Progress("agents read:") as progress:
        for count, agent in enumerate(agents):
            progress.at(count)
            yield agent


def _query(arguments: argparse.Namespace, order: AgentColumn | None, limit: int | None) -> Query:
    if arguments.prefix is not None and arguments.uid == "*":
        hint = "agent-journal ls --uid UID PREFIX, or without the prefix"
        raise usage_error("a prefix is looked for among the agents of one user", hint)
    states = states_named(",".join(arguments.state)) if arguments.state else ()
    return Query(
        prefix=arguments.prefix,
        states=states,
        kind=arguments.kind,
        since=arguments.since,
        until=arguments.until,
        uid=arguments.uid,
        newest=order is not None or not arguments.reverse,
        wanted=None if order is not None or limit is None else limit + 1,
    )


def _limit(arguments: argparse.Namespace, terminal: Terminal) -> int | None:
    if arguments.limit is not None:
        return int(arguments.limit)
    return SCREEN_AGENTS if terminal.is_tty and not (arguments.all or arguments.json) else None


def _is_narrowed(arguments: argparse.Namespace) -> bool:
    asked = (arguments.prefix, arguments.state, arguments.kind, arguments.since, arguments.until)
    return any(value is not None for value in asked) or arguments.limit == 0


def _told(listing: _Listing, arguments: argparse.Namespace, query: Query) -> str:
    """Return the line below the table: what of how much it shows."""
    shown = agents(listing.count)
    if not listing.has_more:
        return shown
    if query.prefix is not None:
        which = "the first by id"
    elif arguments.sort is not None:
        which = f"the first by {harmless(arguments.sort)}"
    else:
        which = "the newest" if query.newest else "the oldest"
    return f"{shown}, {which}; -a shows all, -n N so many"


def _warn(journal: Client, arguments: argparse.Namespace, notes: Terminal) -> None:
    """Tell of agents that somebody should look at, be they among those shown or not."""
    if arguments.uid == "*" or _is_narrowed(arguments):  # of everybody's, no index tells
        return
    for state in ATTENTION_STATES:
        found = list(journal.agents(state=state, limit=ATTENTION_MAX + 1, uid=arguments.uid))
        if found:
            count = f"{len(found)}" if len(found) <= ATTENTION_MAX else f"more than {ATTENTION_MAX}"
            cell = state_cell(state, notes)
            sign, _, word = cell.text.partition(" ")
            told = notes.paint(f"{sign} {count} {word}", cell.style)
            notes.line(f"{told}: agent-journal ls --state {state}")
