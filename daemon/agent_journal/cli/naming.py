"""Agents by how their ids begin: ``report`` is enough where one agent's id begins so.

An id that is typed whole always wins, also where others begin with it.  The
daemon looks into an index, so it costs the same among a million agents.  Only
commands that name an agent which is there do this: ``append`` and ``run``
begin an agent, so for them a part of an id is an id.

Invariant: what ends or removes an agent is told its whole id.
"""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Any, Final

from ..errors import InvalidError, UnknownOpError
from .failures import CommandError, ExitCode

if TYPE_CHECKING:
    from ..client import Client

CANDIDATES_MAX: Final = 8  # as many as a person reads


def whole_id(journal: Client, typed: str, uid: int | str | None) -> str:
    """Return the id of the one agent whose id begins with *typed*, or *typed* if there is none.

    Raises:
        CommandError: several begin so.
    """
    if not typed or uid == "*":  # a beginning is looked for among one user's agents
        return typed
    found = beginning_with(journal, typed, uid, limit=CANDIDATES_MAX + 1)
    ids = [str(agent["agent_id"]) for agent in found]
    if typed in ids:
        return typed
    if len(ids) > 1:
        raise _ambiguous(typed, ids)
    return ids[0] if ids else typed


def check_whole(journal: Client, typed: str, uid: int | None, *, command: str) -> None:
    """Refuse the beginning of an id; of an id that nobody has the daemon will say so.

    Raises:
        CommandError: it is a beginning; names the agent that it may have meant.
    """
    found = whole_id(journal, typed, uid)
    if found != typed:
        raise CommandError(
            f"there is no agent {typed!r}, and {command} wants the whole id: {found} begins so",
            f"agent-journal {command} {shlex.quote(found)}, if that one is meant",
            ExitCode.NO_SUCH_AGENT,
        )


def beginning_with(
    journal: Client, prefix: str, uid: int | str | None, *, limit: int
) -> list[dict[str, Any]]:
    """Return the agents whose ids begin with *prefix*, by id."""
    asked: dict[str, object] = {"op": "agents", "prefix": prefix, "limit": limit}
    if uid is not None:
        asked["uid"] = uid
    try:
        agents = journal.call(asked)["agents"]
    except (InvalidError, UnknownOpError):
        return []  # no id begins so
    # A daemon that does not know the member gives all agents.
    return [agent for agent in agents if str(agent["agent_id"]).startswith(prefix)]


def _ambiguous(typed: str, ids: list[str]) -> CommandError:
    told = ", ".join(ids[:CANDIDATES_MAX]) + (", …" if len(ids) > CANDIDATES_MAX else "")
    count = f"{len(ids)}" if len(ids) <= CANDIDATES_MAX else f"more than {CANDIDATES_MAX}"
    return CommandError(
        f"{typed!r} could be {count} agents: {told}",
        f"more of the id; agent-journal ls {shlex.quote(typed)} lists them",
        ExitCode.USAGE,
    )
