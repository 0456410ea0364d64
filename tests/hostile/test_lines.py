"""Ten million hostile lines: each is answered once, as documented, and nobody else notices.

Three layers see them: the decoder alone, conversations without a socket, and a real
daemon.  What may be answered is ``judge``'s word, which was written from the document.
Lines, cuts and clients follow from the seed.
"""

from __future__ import annotations

import asyncio
import gc
import random
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import pytest

from agent_journal.errors import JournalError
from agent_journal.framing import Framer
from agent_journal.testing.daemon import RawConnection, RunningDaemon
from agent_journal.wire import RefusedLineError, decode_request
from helpers import Service
from hostile.answers import WrongAnswer, check_answers
from hostile.judge import Verdict, judge
from hostile.lines import Lines
from hostile.talk import FRAME_BYTES_MAX, ROUND_LINES, Round
from integration.observed import MIB, noted, rss_bytes, wait_until_alone

# Of the lines of a run, in a hundred.
DECODED: Final = 40
TALKED: Final = 50
SENT: Final = 10

DECODED_BATCH: Final = 1500
GROWTH_BYTES_MAX: Final = 48 * MIB  # of a process, however many lines it saw

Size = Callable[[int, int], int]


def own_rss_bytes() -> int:
    """Return what this process has in memory."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text("ascii").split()[1])
    return pages * 4096


class Memory:
    """Sees that memory does not grow with the number of lines."""

    def __init__(self, warm_up: int) -> None:
        self._warm_up = warm_up  # lines until everything that is kept has been made
        self._before: int | None = None

    def look(self, count: int) -> None:
        """Take the first measure, or compare with it."""
        if self._before is None and count >= self._warm_up:
            self._before = own_rss_bytes()

    @property
    def growth_bytes(self) -> int:
        """How much more than at the first look is in memory now."""
        return own_rss_bytes() - (self._before or own_rss_bytes())


# The decoder


def decoded(line: bytes) -> tuple[str, int | str | None]:
    """Return what the decoder says of a line: a code, or that it is a request, and its id."""
    try:
        return "request", decode_request(line).id
    except RefusedLineError as refused:
        error: JournalError = refused.error
        return error.code, refused.request_id


def check_decoded(line: bytes, verdict: Verdict, code: str, request_id: int | str | None) -> None:
    """Hold the decoder's word to the verdict, which is of form alone."""
    if code == "request":
        # What is wrong with a member may be found out by the operation.
        is_right = not verdict.codes <= {"malformed", "unknown_op", "frame_too_large"}
    else:
        is_right = code in verdict.codes
    is_echo = request_id == verdict.id and type(request_id) is type(verdict.id)
    if not is_right or not (is_echo or (verdict.has_id_only_if_read and request_id is None)):
        raise WrongAnswer(f"{line[:2000]!r} is {code} with id {request_id!r}; {verdict}")


@pytest.mark.sized
@pytest.mark.timeout(7200)
def test_the_decoder_says_what_the_document_says(size: Size, seed: str, figures: object) -> None:
    lines = Lines(seed)
    wanted = size(50, 100_000) * DECODED
    memory = Memory(wanted // 10)
    seen: Counter[str] = Counter()
    count = 0
    while count < wanted:
        taken = lines.take(DECODED_BATCH)
        framer = Framer(FRAME_BYTES_MAX)
        stream = b"\n".join(taken) + b"\n"
        cut = lines.chance.randrange(len(stream))
        framed = framer.feed(stream[:cut]) + framer.feed(stream[cut:])
        for line, as_framed in zip(taken, framed, strict=True):
            code, request_id = decoded(as_framed)
            check_decoded(line, judge(line, FRAME_BYTES_MAX), code, request_id)
            seen[code] += 1
        count += len(taken)
        lines.refresh()
        memory.look(count)
    assert memory.growth_bytes < GROWTH_BYTES_MAX
    assert {"request", "malformed", "invalid", "unknown_op"} <= seen.keys()
    figures(lines=count, wrong=0, **seen, seed=seed)  # type: ignore[operator]


# Conversations without a socket


async def play(lines: Sequence[bytes], chance: random.Random, seen: Counter[str]) -> None:
    """Send *lines* to a daemon without sockets, which begins and ends here."""
    async with Service(frame_bytes_max=FRAME_BYTES_MAX) as service:
        await Round(service, chance, seen).play(lines)


@pytest.mark.sized
@pytest.mark.timeout(7200)
def test_a_conversation_goes_on_whatever_is_said(size: Size, seed: str, figures: object) -> None:
    lines = Lines(seed)
    wanted = size(50, 100_000) * TALKED
    memory = Memory(wanted // 10)
    seen: Counter[str] = Counter()
    count = 0
    while count < wanted:
        taken = lines.take(min(ROUND_LINES, wanted - count))
        asyncio.run(play(taken, lines.chance, seen))
        count += len(taken)
        lines.refresh()
        memory.look(count)
    assert memory.growth_bytes < GROWTH_BYTES_MAX
    assert {"ok", "malformed", "invalid", "unknown_op", "forbidden", "not_found"} <= seen.keys()
    figures(lines=count, wrong=0, **seen, seed=seed)  # type: ignore[operator]


# A real daemon


def check_sent(connection: RawConnection, lines: Sequence[bytes], seen: Counter[str]) -> None:
    """Send *lines* in one go, and hold what comes back to what may be answered."""
    verdicts = [judge(line, FRAME_BYTES_MAX) for line in lines]
    sender = threading.Thread(
        target=connection.send, args=(b"\n".join([*lines, b""]),), daemon=True
    )
    sender.start()
    answers = bytearray()
    end = b'{"id":"the end of this batch","ok":true}\n'
    while not answers.endswith(end):
        received = connection.socket.recv(MIB)
        if not received:
            raise WrongAnswer(f"closed behind {bytes(answers[-300:])!r}")
        answers += received
        if not sender.is_alive() and answers.count(b"\n") >= len(lines) + 1:
            break
    sender.join()
    check_answers(lines, verdicts, bytes(answers), seen)


def is_harmless(line: bytes) -> bool:
    """Tell whether *line* leaves the connection as it is, and asks for no long answer."""
    verdict = judge(line, FRAME_BYTES_MAX)
    return not (verdict.op in ("tail", "close") and "ok" in verdict.codes)


@pytest.mark.sized
@pytest.mark.timeout(7200)
def test_a_real_daemon_answers_each_line_and_serves_the_others(
    tmp_path: Path, size: Size, seed: str, figures: object
) -> None:
    lines = Lines(seed)
    wanted = size(50, 100_000) * SENT
    seen: Counter[str] = Counter()
    config = f"[limits]\nframe_bytes_max = {FRAME_BYTES_MAX}\n"
    with RunningDaemon(tmp_path, config=config) as daemon, daemon.connect() as neighbour:
        before, count, said = 0, 0, 0
        end = [b'{"op":"ping","id":"the end of this batch"}']
        while count < wanted:
            with daemon.connect() as connection:
                for _ in range(20):
                    if count >= wanted:
                        break
                    taken = [line for line in lines.take(500) if is_harmless(line)]
                    check_sent(connection, taken + end, seen)
                    count += len(taken)
                    reply = neighbour.request(noted(str(said), agent_id="neighbour"))
                    assert reply["sequence"] == said, reply
                    said += 1
            lines.refresh()
            before = before or (rss_bytes(daemon) if count >= wanted // 10 else 0)
            forget(neighbour)
        neighbours = read_all(neighbour, "neighbour")
        assert neighbours == [{"Noted": str(n)} for n in range(said)]
        assert rss_bytes(daemon) - before < GROWTH_BYTES_MAX
        neighbour.close()
        wait_until_alone(daemon)
    figures(lines=count, wrong=0, **seen, seed=seed)  # type: ignore[operator]


def forget(connection: RawConnection) -> None:
    """Compact the agents that the lines wrote to: replies are to stay short."""
    for uid in (None, 0):
        page = connection.request({"op": "agents", "limit": 1000, "uid": uid})
        for agent in page.get("agents", []):
            if agent["agent_id"] != "neighbour" and agent["entries"]:
                request = {"op": "compact", "agent_id": agent["agent_id"], "force": True}
                assert connection.request({**request, "uid": uid})["ok"]


def read_all(connection: RawConnection, agent_id: str) -> list[object]:
    """Return an agent's events, page by page."""
    found: list[object] = []
    more = True
    while more:
        request = {"op": "read", "agent_id": agent_id, "from_sequence": len(found)}
        page = connection.request(request)
        found += [entry["event"] for entry in page["entries"]]
        more = page["more"]
    return found
