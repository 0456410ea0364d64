"""``read``, ``describe``, ``tail`` and ``stats``."""

from __future__ import annotations

import json

import pytest

from agent_journal.cli.details import detail
from agent_journal.cli.timestamps import age, clock_time
from agent_journal.clock import Clock
from cli.fake_daemon import FakeDaemon, Run, agent, entry, refused

LONG = f"{'x' * 5000}end"
LOOP = [
    {"Started": {"goal": "sum up", "model": "m"}},
    {"ReasoningComplete": {"thought": "look", "actions": [{"tool": t} for t in "aba"]}},
    {"PolicyEvaluated": {"allowed": ["c1"], "denied": [{"tool": "rm", "reason": "no writes"}]}},
    {"ToolsDispatched": {"calls": [{"tool": "ls"}]}},
    {
        "ObservationsCollected": {
            "observations": [
                {"tool": "ls", "result": {"files": 3, "name": "a b"}},
                {"tool": "rm", "error": "denied"},
            ]
        }
    },
    {"Terminated": {"reason": "Completed", "answer": "three files"}},
]


def page(*events: dict[str, object], more: bool = False, start: int = 0) -> dict[str, object]:
    entries = [entry(start + n, event) for n, event in enumerate(events)]
    return {"entries": entries, "next_sequence": start + len(entries), "more": more}


def test_read_prints_a_table(fake: FakeDaemon, ask: Run) -> None:
    fake.on("read", page(*LOOP))
    result = ask("read", "a")
    assert result.code == 0
    assert result.lines[0].split() == ["SEQ", "TIME", "ITER", "EVENT", "DETAIL"]
    assert [line.split()[0] for line in result.lines[1:]] == ["0", "1", "2", "3", "4", "5"]
    assert "2026-01-02 03:04:05" in result.lines[1]
    for shown in (
        "sum up",
        "look → a x2, b",
        "1 denied: rm (no writes); 1 allowed",
        'ls: files=3 name="a b" | rm: denied',
        "Completed: three files",
    ):
        assert shown in result.out
    assert "\x1b" not in result.out


def test_read_json_prints_an_entry_a_line(fake: FakeDaemon, ask: Run) -> None:
    fake.on("read", page({"A": 1}, more=True), page({"B": None}, start=1))
    result = ask("read", "a", "--json")
    assert result.objects == [entry(0, {"A": 1}), entry(1, {"B": None})]
    assert fake.of("read")[1]["from_sequence"] == 1


def test_read_asks_for_what_was_asked(fake: FakeDaemon, ask: Run) -> None:
    fake.on("read", page({"A": 1}, start=7))
    assert ask("read", "a", "--from", "7", "--limit", "1", "--uid", "12").code == 0
    request = fake.of("read")[0]
    assert request.items() >= {"agent_id": "a", "from_sequence": 7, "limit": 1, "uid": 12}.items()


def test_read_of_no_entries_prints_nothing(fake: FakeDaemon, ask: Run) -> None:
    fake.on("read", page())
    assert ask("read", "a").out == ""


def test_read_shows_what_came_before_an_error(fake: FakeDaemon, ask: Run) -> None:
    fake.on("read", page({"A": 1}, more=True), refused("damaged", "a checksum is wrong"))
    result = ask("read", "a", "--json")
    assert result.code == 6
    assert len(result.objects) == 1


def test_read_of_a_stranger(fake: FakeDaemon, ask: Run) -> None:
    fake.on("read", refused("not_found", "there is no agent a"))
    result = ask("read", "a")
    assert result.code == 4
    assert result.hint == "agent-journal ls lists the ones you have"


def test_what_an_agent_recorded_cannot_harm_the_terminal(fake: FakeDaemon, ask: Run) -> None:
    """Invariant: nothing out of the journal reaches the screen as a control character."""
    nasty = "\x1b[2J\x9b31m\u202egood\x07\r\n"
    fake.on("read", page({"Started": {"goal": nasty}}, {nasty: {nasty: [nasty]}}))
    result = ask("read", "a")
    assert len(result.out.splitlines()) == result.out.count("\n") == 3
    assert not {"\x1b", "\x9b", "\u202e", "\x07", "\r"} & set(result.out)


# What an encoder that writes anew would change: white space, digits, escapes, repeated names.
VERBATIM = r'{"A": {"n":1.10,"m": 1e400 ,"u":"\u00e9é\/","r":1,"r":2, "d":[-0.0,1E+2,7777777]}}'


@pytest.mark.parametrize("command", ["read", "tail"])
def test_json_is_byte_for_byte_what_the_daemon_sent(
    fake: FakeDaemon, ask: Run, command: str
) -> None:
    """Invariant: what ``--json`` prints into a pipe of an entry is what the daemon sent of it."""
    sent = json.dumps(entry(0, {"mark": 1}), separators=(",", ":")).replace('{"mark":1}', VERBATIM)
    fake.encode = lambda reply: json.dumps(reply).replace('"entry 0"', sent)
    fake.on("read", {"entries": ["entry 0"], "next_sequence": 1, "more": False})
    fake.on("tail", [{"entry": "entry 0"}, {"position": 11}])
    options = ["a"] if command == "read" else ["--no-follow"]
    result = ask(command, *options, "--json")
    assert result.out == sent + "\n"


def test_numbers_beyond_python_stay_json(fake: FakeDaemon, ask: Run) -> None:
    digits = "7" * 5000

    def huge(_request: object) -> dict[str, object]:
        return page({"A": {"inf": float("inf"), "list": [-float("inf")], "name": "Infinity"}})

    # The fake daemon's own encoder writes Infinity; the real one keeps 1e400 as it was sent.
    fake.on("read", huge)
    fake.encode = lambda reply: (
        json.dumps(reply).replace("-Infinity", f"-1e400, {digits}").replace(": Infinity", ": 1e400")
    )
    result = ask("read", "a", "--json")
    assert (
        f'{{"A": {{"inf": 1e400, "list": [-1e400, {digits}], "name": "Infinity"}}}}' in result.out
    )
    assert "Infinity" in ask("read", "a").out


@pytest.mark.parametrize(
    "event",
    [
        {"Started": {}},
        {"Started": None},
        {"Started": {"goal": 7}},
        {"ReasoningComplete": {"thought": "", "actions": "none"}},
        {"ReasoningComplete": {"thought": "x", "actions": [1, {"name": "ls"}]}},
        {"PolicyEvaluated": {"allowed": 3, "denied": 1}},
        {"PolicyEvaluated": {"allowed": [], "denied": ["rm", {}]}},
        {"ToolsDispatched": {"calls": {}}},
        {"ObservationsCollected": {"observations": [1, {}, {"tool": None}]}},
        {"Terminated": {"reason": ["x"]}},
        {"Terminated": "done"},
        {},
    ],
    ids=str,
)
def test_an_event_of_another_shape_is_shown_all_the_same(event: dict[str, object]) -> None:
    assert isinstance(detail(event), str)


def test_details_of_other_events_are_their_fields() -> None:
    assert detail({"X": {"a": 1, "b": "c d", "e": [1, {"f": None}], "g": ""}}) == (
        'a=1 b="c d" e=[1,{"f":null}] g=""'
    )
    assert detail({"X": [1, 2]}) == "[1,2]"
    assert detail({"X": None}) == ""
    assert len(detail({"X": {"long": "y" * 5_000_000}})) == 2000
    assert len(detail({"X": {"many": list(range(1_000_000))}})) == 2000
    assert detail({"X": {"long": "y" * 2001}}).endswith("y…")
    assert detail({"X": "y " * 1001}).endswith("y …")
    assert detail({"Started": {"goal": "y" * 2001}}).endswith("y…")


@pytest.mark.parametrize(
    "event",
    [
        {"Noted": {"text": LONG}},
        {"Said": LONG},
        {"Started": {"goal": LONG}},
        {"Terminated": {"reason": "Completed", "result": {"text": LONG}}},
        {"StepCompleted": {"key": "k", "result": LONG}},
        {"ObservationsCollected": {"observations": [{"tool": "t", "result": LONG}]}},
    ],
    ids=lambda event: next(iter(event)),
)
def test_into_a_pipe_a_line_is_whole(fake: FakeDaemon, ask: Run, event: dict[str, object]) -> None:
    """Whoever greps for what stands at its end finds it."""
    fake.on("tail", [{"entry": entry(0, event)}, {"position": 11}])
    fake.on("read", {"entries": [entry(0, event)], "next_sequence": 1, "more": False})
    for words in (["log", "-n", "all"], ["read", "a"], ["tail", "--no-follow"]):
        assert LONG in ask(*words).out


def test_describe(fake: FakeDaemon, ask: Run) -> None:
    fake.on("describe", {"agent": agent("report-42", reason="killed\x1b")})
    fields = dict(line.split(maxsplit=1) for line in ask("describe", "report-42").lines)
    assert fields["agent_id"] == "report-42"
    assert fields["next_sequence"] == "3"
    assert fields["reason"] == "killed\\x1b"
    assert fields["updated_at"].endswith("ago")
    assert "kind" not in fields
    described = ask("describe", "report-42", "--json").objects
    assert described[0]["created_at"] == "2026-01-02T03:04:05.000000Z"


def test_tail_begins_with_the_last_ten_and_follows(fake: FakeDaemon, ask: Run) -> None:
    first = [{"entry": entry(n, LOOP[n])} for n in range(2)]
    fake.on("tail", [*first, {"position": 11}], [{"entry": entry(2, LOOP[2])}, {"position": 12}])
    result = ask("tail")
    assert result.lines[0].split() == ["POSITION", "TIME", "AGENT", "SEQ", "EVENT", "DETAIL"]
    assert [line.split()[0] for line in result.lines[1:]] == ["10", "11", "12"]
    requests = fake.of("tail")
    assert requests[0]["last"] == 10
    assert requests[-1].get("follow") is not False


@pytest.mark.parametrize(
    ("argv", "request_fields"),
    [
        (["a", "-n", "3"], {"agent_id": "a", "last": 3}),
        (["--from-position", "5"], {"from_position": 5}),
        (["--uid", "*", "-n", "0"], {"uid": "*", "last": 0}),
        (["--uid", "77"], {"uid": 77, "last": 10}),
    ],
    ids=str,
)
def test_tail_asks_for_what_was_asked(
    fake: FakeDaemon, ask: Run, argv: list[str], request_fields: dict[str, object]
) -> None:
    fake.on("tail", [{"position": 0}])
    assert ask("tail", "--no-follow", *argv).code == 0
    assert fake.of("tail") == [{"op": "tail", "follow": False, **request_fields}]


def test_tail_json_prints_an_entry_a_line(fake: FakeDaemon, ask: Run) -> None:
    fake.on("tail", [{"entry": entry(0, LOOP[0], uid=5)}, {"lagged": 3}, {"position": 11}])
    assert ask("tail", "--no-follow", "--json").objects == [entry(0, LOOP[0], uid=5)]


def test_stats(fake: FakeDaemon, ask: Run) -> None:
    stats = {
        "entries": 1234567,
        "version": "1",
        "load": 0.5,
        "pid": 12345,
        "bytes_written": 2048,
        "store": {"wal_bytes": 1048576, "is_full": False},
        "commit_seconds": {"count": 3, "buckets": [[0.5, 3]]},
    }
    fake.on("stats", stats)
    lines = [line.split() for line in ask("stats", "--uid", "*").lines]
    assert lines[1:] == [
        ["entries", "1,234,567"],
        ["version", "1"],
        ["load", "0.500"],
        ["pid", "12345"],
        ["bytes_written", "2,048", "2.0", "KiB"],
        ["store.wal_bytes", "1,048,576", "1.0", "MiB"],
        ["store.is_full", "False"],
        ["commit_seconds.count", "3"],
    ]
    assert fake.of("stats")[0]["uid"] == "*"
    assert ask("stats", "--json").objects == [stats]


class At(Clock):
    """A clock that stands still at 2026-01-02 12:00 UTC."""

    def wall_us(self) -> int:
        return 1_767_355_200_000_000


def test_times_of_today_have_no_date() -> None:
    assert clock_time("2026-01-02T03:04:05.678901Z", clock=At()) == "03:04:05.678"
    assert clock_time("2026-01-01T03:04:05.678901Z", clock=At()) == "2026-01-01 03:04:05"
    assert clock_time("2026-01-02T05:04:05+02:00", clock=At()) == "03:04:05.000"
    assert clock_time("some day", clock=At()) == "some day"


@pytest.mark.parametrize(
    ("timestamp", "expected"),
    [
        ("2026-01-02T12:00:00Z", "0 s ago"),
        ("2026-01-02T12:00:09Z", "0 s ago"),
        ("2026-01-02T11:59:01Z", "59 s ago"),
        ("2026-01-02T11:50:00Z", "10 min ago"),
        ("2026-01-02T01:00:00Z", "11 h ago"),
        ("2025-01-02T12:00:00Z", "365 d ago"),
        ("some day", "some day"),
    ],
)
def test_ages(timestamp: str, expected: str) -> None:
    assert age(timestamp, clock=At()) == expected
