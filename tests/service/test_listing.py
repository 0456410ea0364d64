"""Agents are listed from either end, or found by how their ids begin."""

from __future__ import annotations

import pytest

from helpers import ALICE, BOB, ROOT, Client, Message, Service, append, code_of, terminated

NAMES = ("report-42", "night", "report-7", "report", "nightly", "zebra")


async def filled(service: Service) -> Client:
    client = service.connect()
    await client.ask(*map(append, NAMES), terminated("night"), terminated("report-7"))
    return client


def ids(reply: Message) -> list[str]:
    return [agent["agent_id"] for agent in reply["agents"]]


async def pages(client: Client, after: str, **fields: object) -> list[str]:
    """Return all agents, two at a time, each page asked for behind the last one's *after*."""
    found: list[str] = []
    place: dict[str, object] = {}
    while True:
        reply = await client.ask_one({"op": "agents", "limit": 2, **fields, **place})
        found += ids(reply)
        if not reply["more"]:
            return found
        assert len(reply["agents"]) == 2
        place = {"after": reply["agents"][-1][after]}


@pytest.mark.parametrize("after", ["agent_id", "first_position"])
async def test_the_newest_come_first_where_that_is_asked_for(after: str) -> None:
    async with Service() as service:
        client = await filled(service)
        assert await pages(client, after) == [*NAMES]
        assert await pages(client, after, order="oldest") == [*NAMES]
        assert await pages(client, after, order="newest") == [*reversed(NAMES)]
        completed = {"state": "completed", "order": "newest"}
        assert await pages(client, after, **completed) == ["report-7", "night"]
        assert await pages(client, after, kind="none", order="newest") == []


@pytest.mark.parametrize(
    ("prefix", "expected"),
    [
        ("", sorted(NAMES)),
        ("r", ["report", "report-42", "report-7"]),
        ("report", ["report", "report-42", "report-7"]),
        ("report-", ["report-42", "report-7"]),
        ("report-42", ["report-42"]),
        ("report-421", []),
        ("night", ["night", "nightly"]),
        ("zz", []),
        ("Report", []),
        ("r%", []),
        ("é", []),
        ("\x00", []),
    ],
)
async def test_agents_are_found_by_how_their_ids_begin(prefix: str, expected: list[str]) -> None:
    async with Service() as service:
        client = await filled(service)
        await service.connect(BOB).ask(append("report-of-bob"), append("report"))
        assert await pages(client, "agent_id", prefix=prefix) == expected
        assert await pages(service.connect(ROOT), "agent_id", prefix=prefix, uid=ALICE) == expected


async def test_those_that_begin_alike_can_be_narrowed() -> None:
    async with Service() as service:
        client = await filled(service)
        assert await pages(client, "agent_id", prefix="report", state="completed") == ["report-7"]
        assert await pages(client, "agent_id", prefix="report", kind="none") == []


@pytest.mark.parametrize(
    ("asked", "code", "field"),
    [
        ({"order": "sideways"}, "invalid", "order"),
        ({"order": "newest", "prefix": "a"}, "invalid", "order"),
        ({"after": 3, "prefix": "a"}, "invalid", "after"),
        ({"prefix": 3}, "invalid", "prefix"),
        ({"prefix": "a", "uid": "*"}, "forbidden", None),
    ],
    ids=str,
)
async def test_what_cannot_be_asked_together(asked: Message, code: str, field: str | None) -> None:
    async with Service() as service:
        reply = await service.connect().ask_one({"op": "agents", **asked})
        assert code_of(reply) == code
        assert reply["error"].get("field") == field


async def test_a_beginning_is_looked_for_in_one_namespace() -> None:
    async with Service() as service:
        asked = {"op": "agents", "prefix": "a", "uid": "*"}
        reply = await service.connect(ROOT).ask_one(asked)
        assert (code_of(reply), reply["error"]["field"]) == ("invalid", "prefix")
