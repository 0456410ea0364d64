"""A load generator that overlooks a wrong answer makes every figure worthless.

So it is run against scripted peers that answer rightly, and then wrongly in
each way that it promises to notice.
"""
# ruff: noqa: S101, D102, D103 - tests assert, and their names tell what

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))
import loader

Answer = dict[str, Any]


@pytest.fixture(scope="module", autouse=True)
def built() -> None:
    try:
        loader.build()
    except loader.LoadError as error:
        pytest.skip(f"the load generator's own checks were not checked: {error}")


class Peer:
    """The journal's wire on lists in memory, with a place to lie."""

    def __init__(self) -> None:
        self.agents: dict[str, list[Answer]] = {}
        self.answered = 0
        self.most_in_flight = 0
        self.lie: Callable[[int, Answer, Answer], Answer | None] = lambda *_: None

    def answer(self, request: Answer) -> Answer:
        self.answered += 1
        answer = {"id": request.get("id"), "ok": True, **getattr(self, request["op"])(request)}
        if "code" in answer:
            answer = {"id": request["id"], "ok": False, "error": answer}
        return self.lie(self.answered, request, answer) or answer

    def ping(self, _: Answer) -> Answer:
        return {}

    def append(self, request: Answer) -> Answer:
        entries = self.agents.setdefault(request["agent_id"], [])
        if entries and "Terminated" in entries[-1]["event"]:
            return {"code": "agent_finished"}
        if request.get("expected_sequence", len(entries)) != len(entries):
            return {"code": "sequence_conflict"}
        entries.append({"sequence": len(entries), "event": request["event"]})
        return {"sequence": len(entries) - 1, "position": self.answered, "count": 1}

    def read(self, request: Answer) -> Answer:
        begin = request["from_sequence"]
        page = self.agents[request["agent_id"]][begin : begin + request["limit"]]
        return {"entries": page, "next_sequence": begin + len(page), "more": True}

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer whatever has come; what came at once was in flight at once."""
        rest = b""
        while data := await reader.read(1 << 20):
            *lines, rest = (rest + data).split(b"\n")
            self.most_in_flight = max(self.most_in_flight, len(lines))
            for line in lines:
                answer = self.answer(json.loads(line))
                if answer.get("hang_up"):
                    writer.close()
                    return
                writer.write(json.dumps(answer, separators=(",", ":")).encode() + b"\n")
        writer.close()


@pytest.fixture
async def peer(tmp_path: Path) -> AsyncIterator[Peer]:
    scripted = Peer()
    async with await asyncio.start_unix_server(scripted.serve, tmp_path / "s"):
        yield scripted


async def load(socket: Path, **options: object) -> tuple[int, dict[str, Any]]:
    line = [f"--{name}={value}" for name, value in {"socket": socket, **options}.items()]
    process = await asyncio.create_subprocess_exec(
        str(loader.BINARY), *line, stdout=asyncio.subprocess.PIPE
    )
    printed, _ = await process.communicate()
    return process.returncode or 0, json.loads(printed)


async def test_every_request_is_an_entry_of_the_wanted_size(peer: Peer, tmp_path: Path) -> None:
    status, report = await load(tmp_path / "s", connections=7, depth=3, requests=1000, bytes=300)
    assert status == 0
    assert (report["entries"], report["errors"], report["unanswered"]) == (1000, 0, 0)
    assert sum(map(len, peer.agents.values())) == 1000
    assert len(peer.agents) == 100
    event = peer.agents["agent-042"][0]["event"]
    assert len(json.dumps(event, separators=(",", ":"))) == 300
    assert list(event) == ["ToolsDispatched"]


async def test_depth_is_how_many_requests_are_in_flight(peer: Peer, tmp_path: Path) -> None:
    await load(tmp_path / "s", connections=1, depth=25, requests=500)
    assert peer.most_in_flight == 25


async def test_a_run_by_time_counts_only_what_its_window_saw(peer: Peer, tmp_path: Path) -> None:
    _, report = await load(tmp_path / "s", connections=2, depth=4, seconds=0.2, warmup=0.1)
    assert 0 < report["entries"] < report["answered"] == peer.answered


def refused(count: int, _: Answer, answer: Answer) -> Answer | None:
    return (
        {"id": answer["id"], "ok": False, "error": {"code": "overloaded"}} if count == 50 else None
    )


def of_another(count: int, _: Answer, answer: Answer) -> Answer | None:
    return answer | {"id": answer["id"] + 1} if count == 50 else None


def twice_the_same(count: int, _: Answer, answer: Answer) -> Answer | None:
    return answer | {"sequence": answer["sequence"] + 1} if count == 250 else None


def without_sequence(count: int, _: Answer, answer: Answer) -> Answer | None:
    return {"id": answer["id"], "ok": True} if count == 50 else None


def hung_up(count: int, _: Answer, __: Answer) -> Answer | None:
    return {"hang_up": True} if count == 50 else None


@pytest.mark.parametrize(
    ("lie", "complaint"),
    [
        (refused, "not the answer to an append"),
        (of_another, "not the answer to an append"),
        (twice_the_same, "does not follow"),
        (without_sequence, "without a sequence"),
        (hung_up, "connection was lost"),
    ],
)
async def test_a_wrong_answer_to_an_append_is_noticed(
    peer: Peer, tmp_path: Path, lie: Callable[..., Answer | None], complaint: str
) -> None:
    peer.lie = lie
    status, report = await load(tmp_path / "s", connections=3, depth=5, requests=600)
    assert status == 1
    assert complaint in report["first_error"]


@pytest.mark.parametrize("depth", [1, 3])
async def test_an_agent_is_read_whole(peer: Peer, tmp_path: Path, depth: int) -> None:
    peer.agents["a"] = [{"sequence": n, "event": {"E": n}} for n in range(2500)]
    status, report = await load(
        tmp_path / "s", mode="read", agent="a", entries=2500, requests=2, depth=depth
    )
    assert (status, report["entries"], report["answered"]) == (0, 5000, 6)


async def test_pages_that_end_early_are_followed(peer: Peer, tmp_path: Path) -> None:
    peer.agents["a"] = [{"sequence": n, "event": {"E": n}} for n in range(2500)]
    peer.lie = lambda _, __, answer: answer | {"entries": answer["entries"][:300]}
    status, report = await load(tmp_path / "s", mode="read", agent="a", entries=2500, requests=1)
    assert (status, report["entries"], report["answered"]) == (0, 2500, 9)


async def test_an_entry_missing_from_a_page_is_noticed(peer: Peer, tmp_path: Path) -> None:
    peer.agents["a"] = [{"sequence": n, "event": {"E": n}} for n in range(2500)]
    peer.lie = lambda _, __, answer: (
        answer | {"entries": [entry for entry in answer["entries"] if entry["sequence"] != 1500]}
    )
    status, report = await load(tmp_path / "s", mode="read", agent="a", entries=2500, requests=1)
    assert status == 1
    assert "gap" in report["first_error"]


async def test_a_fill_that_is_repeated_writes_nothing_twice(peer: Peer, tmp_path: Path) -> None:
    fill = {"mode": "fill", "entries": 5, "unfinished": 10, "connections": 3, "depth": 7}
    await load(tmp_path / "s", agents=40, **fill)
    status, report = await load(tmp_path / "s", agents=60, **fill)
    assert (status, report["entries"], report["present"]) == (0, 100, 200)
    assert {len(entries) for entries in peer.agents.values()} == {5}
    finished = {a for a, entries in peer.agents.items() if "Terminated" in entries[-1]["event"]}
    assert set(peer.agents) - finished == {f"agent-{n:07}" for n in range(0, 60, 10)}


async def test_idle_connections_are_served_and_held(peer: Peer, tmp_path: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        str(loader.BINARY), f"--socket={tmp_path / 's'}", "--mode=idle", "--connections=30",
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert process.stdin is not None
    assert process.stdout is not None
    assert json.loads(await process.stdout.readline())["open"] == 30
    assert peer.answered == 30
    assert process.returncode is None
    process.stdin.close()
    assert await process.wait() == 0


async def serve_redis(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer every XADD with an id, but refuse those for one stream."""
    while head := await reader.readline():
        parts = []
        for _ in range(int(head[1:])):
            size = int((await reader.readline())[1:])
            parts.append((await reader.readexactly(size + 2))[:-2])
        assert parts[0] == b"XADD"
        assert len(json.loads(parts[4])["ToolsDispatched"]) == 3
        assert len(parts[4]) == 300
        writer.write(b"-ERR no\r\n" if parts[1] == b"agent-007" else b"$3\r\n1-1\r\n")
    writer.close()


async def test_redis_gets_the_same_event_and_its_refusals_count(tmp_path: Path) -> None:
    async with await asyncio.start_unix_server(serve_redis, tmp_path / "s"):
        status, report = await load(tmp_path / "s", wire="redis", agents=7, requests=700, depth=9)
        assert (status, report["entries"], report["errors"]) == (0, 700, 0)
        status, report = await load(tmp_path / "s", wire="redis", agents=100, requests=500)
    assert (status, report["entries"], report["errors"]) == (1, 495, 5)
    assert "-ERR no" in report["first_error"]
