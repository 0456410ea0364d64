"""What an agent replays is read some pages ahead, by either client."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from agent_journal.client import Client
from agent_journal.client._holding import HISTORY_PAGE_ENTRIES, PAGES_AHEAD
from agent_journal.errors import DamagedError, NotFoundError, OverloadedError

STEPS = 40

Scene = Callable[[Any], None]


def not_again() -> int:
    raise AssertionError("a recorded step was run again")


def replayed(client: Any) -> list[Any]:
    """Return what the recorded steps hand back; the agent is left to be resumed."""
    found: list[Any] = []

    def asked(agent: Any) -> Iterator[Any]:
        return (agent.step(f"step:{number}", not_again) for number in range(STEPS))

    async def replay_async() -> None:
        async with client._client.agent("a", command=False) as agent:
            found.extend([await step for step in asked(agent)])
            raise EOFError

    def replay() -> None:
        with client.agent("a", command=False) as agent:
            found.extend(asked(agent))
            raise EOFError

    with pytest.raises(EOFError):
        replay() if isinstance(client, Client) else client._run(replay_async())
    return found


@pytest.fixture
def recorded(daemon: Any, fake_journal: Any) -> Any:
    """Let the scripted daemon hold an agent of many steps, a page of which has seven entries."""

    class Holding(fake_journal):  # type: ignore[misc]
        def _attach(self, request: Any) -> Any:
            assert request["agent_id"] == "a"
            place = {"next_sequence": STEPS, "resumed": True}
            return {"ok": True, "epoch": 2, "attempt": 2, "state": "running", **place}

    daemon.journal = Holding()
    daemon.journal.page_entries = 7
    for number in range(STEPS):
        payload = {"key": f"step:{number}", "name": "not_again", "result": number}
        daemon.journal._append(
            {
                "agent_id": "a",
                "iteration": 0,
                "key": str(number),
                "event": {"StepCompleted": payload},
            }
        )
    return daemon


def reads_of(daemon: Any) -> list[int]:
    return [each["from_sequence"] for each in daemon.requests if each["op"] == "read"]


def unread(peer: Any) -> None:
    """Hang up before the request is read."""


def unanswered(peer: Any) -> None:
    """Hang up when the request was read."""
    peer.read()


def half_answered(peer: Any) -> None:
    """Hang up in the middle of the answer."""
    request = peer.read()
    (reply,) = peer.journal.replies(request)
    line = repr(reply).encode()
    peer.connection.sendall(line[: len(line) // 2])


def behind(count: int, then: Scene) -> Scene:
    """Answer so many requests, then do something else."""

    def scene(peer: Any) -> None:
        peer.serve(count)
        then(peer)

    return scene


def test_all_that_is_recorded_is_replayed(recorded: Any, opened: Any) -> None:
    assert replayed(opened()) == list(range(STEPS))


@pytest.mark.parametrize("fault", [unread, unanswered, half_answered])
@pytest.mark.parametrize("answered", [0, 1, 2, 4, 6])
def test_a_connection_lost_on_the_way_loses_and_doubles_nothing(
    recorded: Any, opened: Any, answered: int, fault: Scene
) -> None:
    recorded.script(behind(answered, fault), behind(2, fault))
    assert replayed(opened()) == list(range(STEPS))


def test_pages_are_asked_for_ahead_and_no_more_of_them_than_that(
    recorded: Any, opened: Any
) -> None:
    """Reading ahead holds a few pages, however long the agent is."""
    recorded.journal.page_entries = 1000

    def hold_back(peer: Any) -> None:
        peer.serve(1)  # the attach
        begin = [peer.read() for _ in range(PAGES_AHEAD)]
        peer.reply_to(begin[0])
        peer.read()
        peer.connection.shutdown(socket.SHUT_WR)
        with pytest.raises(EOFError):  # it asked for nothing more before it left
            peer.read()

    many = recorded.journal.agents["a"]
    many += [dict(many[0], sequence=number, event={"X": 1}) for number in range(STEPS, 9000)]
    recorded.script(hold_back)
    attached = recorded.journal._attach
    recorded.journal._attach = lambda request: {**attached(request), "next_sequence": 9000}
    assert replayed(opened()) == list(range(STEPS))
    pages = list(range(0, 9000, HISTORY_PAGE_ENTRIES))
    assert reads_of(recorded)[: PAGES_AHEAD + 1] == pages[: PAGES_AHEAD + 1]
    assert len(reads_of(recorded)) == len(pages) + PAGES_AHEAD  # those that the lost one had


def refusing(code: str, **details: Any) -> Scene:
    """Answer three requests, refuse the next, and answer all others."""

    def scene(peer: Any) -> None:
        peer.serve(3)
        peer.refuse(peer.read(), code, **details)
        peer.serve()

    return scene


@pytest.mark.parametrize(
    ("code", "kind"), [("damaged", DamagedError), ("not_found", NotFoundError)]
)
def test_an_error_on_the_way_is_raised_and_the_client_goes_on(
    recorded: Any, opened: Any, code: str, kind: type[Exception]
) -> None:
    recorded.script(refusing(code))
    client = opened()
    with pytest.raises(kind):
        replayed(client)
    # Answers to what was asked ahead are still to come, and are nobody's.
    assert client.describe("a").entries == STEPS
    assert len(recorded.peers) == 1
    assert replayed(client) == list(range(STEPS))


def test_a_refusal_for_the_moment_is_waited_out(recorded: Any, opened: Any) -> None:
    """The pages that were asked for behind it come before it, and are no use."""
    recorded.script(refusing("overloaded", retry_ms=1))
    assert replayed(opened()) == list(range(STEPS))


def test_a_refusal_for_longer_than_one_waits_is_raised(recorded: Any, opened: Any) -> None:
    recorded.script(refusing("overloaded"))
    with pytest.raises(OverloadedError):
        replayed(opened(retry_s=0.0))
