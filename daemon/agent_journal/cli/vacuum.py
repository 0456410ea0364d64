"""``agent-journal vacuum``: remove agents that have ended, so that the journal takes less room.

As journalctl's: by age, by the size that the journal may have, and besides by state
and kind.  The daemon removes some at a time, those that ended first, and writers come
first.  With ``--offline`` the file of a journal that no daemon has is written anew.
"""

from __future__ import annotations

import argparse
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

from ..clock import Clock
from .agent_query import states_named
from .connection import connected
from .counted import agents, agents_with_entries
from .failures import ExitCode, usage_error
from .output import print_json
from .progress import Progress
from .sizes import size, size_text, span
from .terminal import harmless, standard_output

if TYPE_CHECKING:
    from ..client import Client

EXAMPLES: Final = """\
  agent-journal vacuum --time 30d                  # ended before that
  agent-journal vacuum --size 1G                   # until 1 GiB is in use
  agent-journal vacuum --time 7d --state completed --kind nightly
  agent-journal vacuum --time 30d --dry-run        # say how many would go
  agent-journal vacuum --offline                   # while the daemon is stopped

Agents that have not ended are never removed. Where retention.archive is
configured, what goes is archived before. Root's and the daemon's own user only.
With --offline nothing is removed: the file is written anew without what is free
in it, and from then on gives free space back by itself; it takes as much room
again while it runs.
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    add = parser.add_argument
    add("--time", type=span, metavar="SPAN", help="those that ended so long ago: 30d, 12h, 2weeks")
    add("--size", type=size, metavar="SIZE", help="the first ones, until so much is in use: 1G")
    add("--state", metavar="STATE", help="only those: completed, failed, cancelled, or several")
    add("--kind", metavar="KIND", help="only those of a kind")
    add("--dry-run", action="store_true", help="only say what would go")
    add("--offline", action="store_true", help="write the file anew, of a stopped daemon")
    from .closed_journal import add_database  # noqa: PLC0415 - only where it is asked for

    add_database(parser)


def run(arguments: argparse.Namespace) -> int:
    """Remove what was asked for; say how much that was."""
    rules = [arguments.time, arguments.size, arguments.state, arguments.kind]
    if arguments.offline:
        if any(rule is not None for rule in rules) or arguments.dry_run:
            raise usage_error(
                "--offline removes nothing, so there is nobody to choose",
                "agent-journal vacuum --offline",
            )
        from .vacuum_offline import write_anew  # noqa: PLC0415 - the store's, and only now

        return write_anew(arguments)
    if arguments.database is not None:
        raise usage_error("--database goes with --offline", "--socket names a running daemon")
    if all(rule is None for rule in rules):
        raise usage_error(
            "say who is to go: --time, --size, --state or --kind",
            "agent-journal vacuum --time 30d --dry-run",
        )
    with connected(arguments) as journal:
        before = journal.call({"op": "disk_usage"})
        request = _request(arguments)
        if arguments.dry_run:
            return _say_what_would_go(arguments, journal.call(request))
        done = _remove(journal, request, arguments)
    return _report(arguments, done, before)


def _request(arguments: argparse.Namespace) -> dict[str, Any]:
    request: dict[str, Any] = {"op": "vacuum"}
    if arguments.time is not None:
        now = datetime.fromtimestamp(Clock().wall_us() / 1e6, UTC)
        try:
            request["ended_before"] = (now - timedelta(seconds=arguments.time)).isoformat()
        except OverflowError:
            raise usage_error("--time goes back behind the year 1", "--time 10y") from None
    if arguments.size is not None:
        request["bytes_max"] = max(arguments.size, 1)
    if arguments.state is not None:
        request["states"] = list(states_named(arguments.state))
    if arguments.kind is not None:
        request["kind"] = arguments.kind
    return request | ({"dry_run": True} if arguments.dry_run else {})


def _remove(
    journal: Client, request: dict[str, Any], arguments: argparse.Namespace
) -> dict[str, Any]:
    """Have some removed after others, until there are none left; return all that went."""
    done: dict[str, Any] = {"agents": 0, "entries": 0, "archives": [], "used_bytes": 0}
    excess = 0
    with Progress("agents removed") as progress:
        while True:
            reply = journal.call(request)
            for name in ("agents", "entries", "archives"):
                done[name] += reply[name]
            done["used_bytes"] = reply["used_bytes"]
            if not reply["more"]:
                return done
            if arguments.size is None:
                progress.at(done["agents"])
            else:
                excess = excess or reply["excess_bytes"] + 1
                progress.at(excess - min(reply["excess_bytes"], excess), excess)


def _say_what_would_go(arguments: argparse.Namespace, reply: dict[str, Any]) -> int:
    if arguments.json:
        told = {name: reply[name] for name in ("agents", "used_bytes", "excess_bytes")}
        print_json({**told, "dry_run": True})
        return ExitCode.OK
    output = standard_output()
    has_rule = arguments.time is not None or arguments.size is None
    if has_rule:
        output.line(f"{agents(reply['agents'])} would be removed")
    if arguments.size is not None:
        excess, used = reply["excess_bytes"], size_text(reply["used_bytes"])
        output.line(
            f"{used} are in use, {size_text(excess)} too much: those that ended first would go"
            if excess
            else f"{used} are in use: none would go for that"
        )
    return ExitCode.OK


def _report(arguments: argparse.Namespace, done: dict[str, Any], before: dict[str, Any]) -> int:
    used = before["database_bytes"] - before["free_bytes"]
    freed = max(used - done["used_bytes"], 0)
    if arguments.json:
        print_json({**done, "freed_bytes": freed})
        return ExitCode.OK
    output = standard_output()
    removed = agents_with_entries(done["agents"], done["entries"])
    output.line(f"{removed} removed, {size_text(freed)} freed")
    for name in done["archives"]:
        output.line(f"archived in {harmless(name)}")
    if done["agents"] and not before["gives_back"]:
        output.line(
            "the space is used again, and not given back to the disk: this journal was made "
            "before that was possible; agent-journal vacuum --offline, once, changes it"
        )
    return ExitCode.OK
