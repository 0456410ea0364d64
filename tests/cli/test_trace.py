"""``trace``: an agent's story as OTLP, to a screen, a file and a collector."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from cli.fake_daemon import FakeDaemon, Result, Run, agent
from cli.stories import Story, killed_twice, page

CREATED = "2026-01-02T03:04:05.000000Z"
BEGIN_NS = 1_767_323_045_000_000_000
SECOND_NS = 1_000_000_000
HEX = re.compile(r"[0-9a-f]+")


class Collector:
    """Takes spans on loopback, and keeps what it got."""

    def __init__(self) -> None:
        self.received: list[tuple[str, dict[str, str], dict[str, Any]]] = []
        self.status, self.answer = 200, b"{}"
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                fields = {name.lower(): value for name, value in self.headers.items()}
                got = (self.path, fields, json.loads(body))
                collector.received.append(got)
                self.send_response(collector.status)
                self.send_header("Content-Length", str(len(collector.answer)))
                self.end_headers()
                self.wfile.write(collector.answer)

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture
def collector() -> Iterator[Collector]:
    opened = Collector()
    yield opened
    opened.close()


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OTEL_SERVICE_NAME", "OTEL_EXPORTER_OTLP_HEADERS", "http_proxy", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)


def serve(fake: FakeDaemon, story: Story, **fields: object) -> None:
    fake.on("describe", {"agent": agent("a", created_at=CREATED, **fields)})
    fake.on("read", page(story))


def spans_of(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return all spans, held to the shape that OTLP's JSON has."""
    found = []
    for message in messages:
        assert {*message} == {"resourceSpans"}
        (resource,) = message["resourceSpans"]
        assert {*resource} == {"resource", "scopeSpans"}
        attributes(resource["resource"])
        (scope,) = resource["scopeSpans"]
        assert scope["scope"]["name"] == "agent-journal"
        found += scope["spans"]
    ids = {span["spanId"] for span in found}
    assert len(ids) == len(found), "an id is one span's"
    (root,) = [span for span in found if "parentSpanId" not in span]
    for span in found:
        assert len(span["traceId"]) == 32
        assert len(span["spanId"]) == 16
        assert HEX.fullmatch(span["traceId"] + span["spanId"])
        assert span["traceId"] == root["traceId"]
        assert span.get("parentSpanId") in {*ids, None}
        assert span["kind"] == 1
        start, end = span["startTimeUnixNano"], span["endTimeUnixNano"]
        assert isinstance(start, str)
        assert int(root["startTimeUnixNano"]) <= int(start) <= int(end)
        assert int(end) <= int(root["endTimeUnixNano"])
        attributes(span)
        for event in span.get("events", ()):
            assert int(start) <= int(event["timeUnixNano"]) <= int(end)
            attributes(event)
        assert span.get("status", {"code": 2})["code"] == 2
    return found


def attributes(thing: dict[str, Any]) -> dict[str, Any]:
    """Return attributes by name, each a value of one of OTLP's kinds."""
    found = {}
    for attribute in thing["attributes"]:
        assert {*attribute} == {"key", "value"}
        ((kind, value),) = attribute["value"].items()
        found[attribute["key"]] = value
        match kind:
            case "stringValue":
                assert isinstance(value, str)
            case "intValue":
                assert str(int(value)) == value
            case "boolValue":
                assert isinstance(value, bool)
            case "arrayValue":
                found[attribute["key"]] = [int(one["intValue"]) for one in value["values"]]
            case _:
                pytest.fail(f"{kind} is no kind of value")
    assert len(found) == len(thing["attributes"])
    return found


def named(spans: list[dict[str, Any]], name: str) -> list[dict[str, Any]]:
    return [span for span in spans if span["name"] == name]


def traced(fake: FakeDaemon, ask: Run, story: Story, **fields: object) -> list[dict[str, Any]]:
    serve(fake, story, **fields)
    result: Result = ask("trace", "a")
    assert result.code == 0
    return spans_of(result.objects)


def test_attempts_and_steps_are_spans(fake: FakeDaemon, ask: Run) -> None:
    spans = traced(
        fake, ask, killed_twice(), state="interrupted", updated_at="2026-01-02T03:04:16Z"
    )
    names = [span["name"] for span in spans]
    assert names == [
        *("agent a", "attempt 1", "plan", "search"),
        *("attempt 2", "search", "write", "send"),
    ]
    root, first, plan, cut_off, second, again, write, send = spans
    assert [span["parentSpanId"] for span in spans[1:]] == [
        *(root["spanId"], first["spanId"], first["spanId"]),
        *(root["spanId"], second["spanId"], second["spanId"], second["spanId"]),
    ]
    assert attributes(plan) == {
        "agent_journal.step.key": "plan",
        "agent_journal.step.effect": "unsafe",
        "agent_journal.step.state": "done",
        "agent_journal.attempt": "1",
        "agent_journal.replayed": True,
        "agent_journal.replayed_in_attempts": [2],
        "gen_ai.usage.input_tokens": "100",
        "gen_ai.usage.output_tokens": "20",
        "agent_journal.sequence": "1",
    }
    assert plan["startTimeUnixNano"] == str(BEGIN_NS + SECOND_NS)
    assert plan["endTimeUnixNano"] == str(BEGIN_NS + 2 * SECOND_NS)
    assert attributes(cut_off)["agent_journal.step.state"] == "interrupted"
    assert cut_off["endTimeUnixNano"] == first["endTimeUnixNano"]
    assert attributes(again)["agent_journal.replayed"] is False
    assert attributes(second)["agent_journal.replayed_steps"] == "1"
    assert attributes(second)["agent_journal.launched"] is True
    assert write["status"]["message"] == "no luck"
    assert attributes(write)["error.type"] == "ValueError"
    assert "in doubt" in send["status"]["message"]
    assert first["status"]["code"] == second["status"]["code"] == 2
    assert attributes(root)["gen_ai.agent.id"] == "a"


def test_iterations_are_spans_and_other_entries_their_events(fake: FakeDaemon, ask: Run) -> None:
    story = Story().add("Started", goal="a secret").attempt(1)
    story.add("ReasoningComplete", iteration=1).add("Signalled", name="s")
    story.add("ToolsDispatched", iteration=1).add("ReasoningComplete", iteration=2)
    spans = traced(fake, ask, story)
    assert [span["name"] for span in spans] == [
        *("agent a", "attempt 1", "iteration 1", "iteration 2"),
    ]
    root, attempt, one, two = spans
    assert [event["name"] for event in root["events"]] == ["Started"]
    assert [event["name"] for event in attempt["events"]] == ["Signalled"]
    assert [event["name"] for event in one["events"]] == ["ReasoningComplete", "ToolsDispatched"]
    assert attributes(one["events"][1]) == {"agent_journal.sequence": "4"}
    assert one["endTimeUnixNano"] == str(BEGIN_NS + 4 * SECOND_NS)
    assert two["parentSpanId"] == attempt["spanId"]
    assert "secret" not in json.dumps(spans), "payloads stay in the journal"


def test_the_same_agent_is_the_same_spans_also_when_it_went_on(fake: FakeDaemon, ask: Run) -> None:
    """A second export adds to the first, and never doubles it."""
    story = Story().attempt(1).step("one")
    first = traced(fake, ask, story)
    assert traced(fake, ask, story) == first
    story.step("two").add("Terminated", reason="Completed")
    later = traced(fake, ask, story, state="completed")
    kept = {span["spanId"]: span["name"] for span in later}
    assert all(kept[span["spanId"]] == span["name"] for span in first)
    assert {span["traceId"] for span in (*first, *later)} == {first[0]["traceId"]}
    serve(fake, story, uid=1001)
    others = spans_of(ask("trace", "a").objects)
    assert not {span["spanId"] for span in others} & {*kept}, "another's agent is another trace"


def test_an_agent_without_an_entry_is_one_span(fake: FakeDaemon, ask: Run) -> None:
    (root,) = traced(fake, ask, Story(), entries=0)
    assert root["startTimeUnixNano"] == str(BEGIN_NS)
    assert attributes(root)["agent_journal.open"] is True


def test_a_value_that_was_only_recorded_takes_as_long_as_it_says(
    fake: FakeDaemon, ask: Run
) -> None:
    spans = traced(fake, ask, Story().attempt(1).add("Noted").done("now", 5, duration_ms=250.0))
    (step,) = named(spans, "now")
    took = int(step["endTimeUnixNano"]) - int(step["startTimeUnixNano"])
    assert took == 250_000_000


def test_hostile_entries_become_spans_all_the_same(fake: FakeDaemon, ask: Run) -> None:
    """Times that run backwards, numbers beyond 64 bits, errors of any shape."""
    story = Story().attempt(1)
    story.began("a").add("StepFailed", key="a", name=["x"], error="only text")
    story.done("b", usage={"input_tokens": 2**70, "output_tokens": -1}, duration_ms=1e3)
    story.add("AttemptEnded", attempt=9, how=7, exit_code="x")
    story.add("StepCompleted", key=5).add("\x1b[2J\u202e", iteration=3)
    for place, entry in enumerate(story.entries[2:4]):
        object.__setattr__(entry, "timestamp", story.entries[1 - place].timestamp)
    spans = traced(fake, ask, story)
    assert "gen_ai.usage.input_tokens" not in attributes(named(spans, "b")[0])
    assert named(spans, "a")[0]["status"]["message"] == "_OTHER"


def test_many_spans_come_in_several_messages(
    fake: FakeDaemon, ask: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agent_journal.cli.trace.SPANS_PER_MESSAGE", 2)
    serve(fake, killed_twice())
    messages = ask("trace", "a").objects
    assert len(messages) == 4
    assert len(spans_of(messages)) == 8


def test_a_file_is_what_the_screen_shows(fake: FakeDaemon, ask: Run, short_dir: Path) -> None:
    serve(fake, killed_twice())
    path = short_dir / "a.jsonl"
    assert ask("trace", "a", "-o", str(path)).code == 0
    lines = path.read_text("utf-8").splitlines()
    assert [json.loads(line) for line in lines] == ask("trace", "a").objects


@pytest.mark.parametrize("path", ["", "/", "/v1/traces", "/of/my/own"])
def test_a_collector_gets_them(
    fake: FakeDaemon, ask: Run, collector: Collector, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "x-key=a%20b, y=c=d,broken")
    monkeypatch.setenv("OTEL_SERVICE_NAME", "reports")
    serve(fake, killed_twice())
    result = ask("trace", "a", "--endpoint", collector.url + path)
    wanted = path if len(path) > 1 else "/v1/traces"
    assert (result.code, result.out) == (0, f"8 spans sent to {collector.url}{wanted}\n")
    ((where, headers, message),) = collector.received
    assert where == wanted
    assert headers["content-type"] == "application/json"
    assert (headers["x-key"], headers["y"]) == ("a b", "c=d")
    assert len(spans_of([message])) == 8
    resource = message["resourceSpans"][0]["resource"]
    assert attributes(resource)["service.name"] == "reports"
    sent = ask("trace", "a", "--endpoint", collector.url, "--json").objects
    assert sent == [{"spans": 8, "endpoint": f"{collector.url}/v1/traces"}]


@pytest.mark.parametrize(
    ("answer", "what"),
    [
        ((401, b"who are you"), "401 Unauthorized: who are you"),
        ((503, b""), "503 Service Unavailable"),
        ((200, b'{"partialSuccess":{"rejectedSpans":"3","errorMessage":"old"}}'), "3 spans: old"),
    ],
)
def test_what_a_collector_does_not_take_is_said(
    fake: FakeDaemon, ask: Run, collector: Collector, answer: tuple[int, bytes], what: str
) -> None:
    collector.status, collector.answer = answer
    serve(fake, killed_twice())
    result = ask("trace", "a", "--endpoint", collector.url)
    assert result.code == 1
    assert what in result.what
    assert result.hint


@pytest.mark.parametrize("answer", [b"", b"[]", b"\xff", b'{"partialSuccess":{}}'])
def test_an_answer_of_any_kind_is_taken(
    fake: FakeDaemon, ask: Run, collector: Collector, answer: bytes
) -> None:
    collector.answer = answer
    serve(fake, killed_twice())
    assert ask("trace", "a", "--endpoint", collector.url).code == 0


@pytest.mark.parametrize("url", ["ftp://x", "localhost:4318", "file:///etc/passwd", "http://"])
def test_what_is_no_collector(fake: FakeDaemon, ask: Run, url: str) -> None:
    serve(fake, killed_twice())
    assert ask("trace", "a", "--endpoint", url).code == 2
    assert not fake.of("read")


def test_a_collector_that_is_not_there_is_said(fake: FakeDaemon, ask: Run) -> None:
    serve(fake, killed_twice())
    result = ask("trace", "a", "--endpoint", "http://127.0.0.1:9")
    assert result.code == 1
    assert "could not be reached" in result.what
