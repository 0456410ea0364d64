"""Log lines have the right form for where they go, are harmless, and never block."""

from __future__ import annotations

import io
import json
import logging
import os
import pty
import re
import select
import socket
import struct
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog
from hypothesis import given, settings
from hypothesis import strategies as st

from agent_journal.service import logs
from agent_journal.service.config import Log
from agent_journal.service.log_output import DATAGRAM_BYTES_MAX, datagram
from agent_journal.service.logs import FIELD_BYTES_MAX, clean_text, configure, set_level


@pytest.fixture(autouse=True)
def _unconfigured() -> Iterator[None]:
    """Leave the process's logging as it was."""
    root = logging.getLogger()
    handlers = list(root.handlers)
    yield
    logs._pipeline.take(None)  # the one state that outlives a test
    logs._pipeline._given_up = 0
    logging.captureWarnings(capture=False)
    root.handlers = handlers
    structlog.reset_defaults()


@pytest.fixture
def stream() -> io.StringIO:
    return io.StringIO()


@pytest.fixture
def lines(stream: io.StringIO) -> Callable[[], list[dict[str, Any]]]:
    """Return what was written since the last time, as JSON objects without the time."""

    def lines() -> list[dict[str, Any]]:
        text = stream.getvalue()
        stream.seek(0)
        stream.truncate()
        return parsed(text)

    return lines


def parsed(text: str) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in text.splitlines()]
    for line in found:
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", line.pop("timestamp"))
    return found


def fail(message: str) -> None:
    raise ValueError(message)


class TestJson:
    def test_a_line_is_an_object(
        self, stream: io.StringIO, lines: Callable[[], list[dict[str, Any]]]
    ) -> None:
        configure(Log(), stream=stream, environ={})
        log = structlog.get_logger().bind(agent_id="a-1")
        log.info("batch_committed", entries=3, ok=True, share=0.5, reason=None)
        assert lines() == [
            {
                "level": "info",
                "event": "batch_committed",
                "agent_id": "a-1",
                "entries": 3,
                "ok": True,
                "share": 0.5,
                "reason": None,
            }
        ]

    def test_time_level_and_event_come_first(self, stream: io.StringIO) -> None:
        configure(Log(), stream=stream, environ={})
        structlog.get_logger().warning("it_happened", a=1)
        assert list(json.loads(stream.getvalue())) == ["timestamp", "level", "event", "a"]

    def test_an_exception_is_one_line_with_its_traceback(
        self, stream: io.StringIO, lines: Callable[[], list[dict[str, Any]]]
    ) -> None:
        configure(Log(), stream=stream, environ={})
        try:
            fail("bad\x1b[31m")
        except ValueError:
            structlog.get_logger().exception("request_failed")
        (line,) = lines()
        assert line["level"] == "error"
        assert line["exception"].startswith("Traceback (most recent call last):\n")
        assert line["exception"].endswith("ValueError: bad\\x1b[31m")

    def test_of_an_endless_traceback_the_end_is_kept(
        self, stream: io.StringIO, lines: Callable[[], list[dict[str, Any]]]
    ) -> None:
        configure(Log(), stream=stream, environ={})
        try:
            fail("\n".join(["x" * 80] * 1000 + ["the end"]))
        except ValueError:
            structlog.get_logger().exception("request_failed")
        (line,) = lines()
        assert len(line["exception"]) <= 8192
        assert line["exception"].endswith("the end")


class TestLiveChanges:
    def test_a_logger_bound_before_follows_a_change_of_the_level(
        self, stream: io.StringIO, lines: Callable[[], list[dict[str, Any]]]
    ) -> None:
        configure(Log(level="warning"), stream=stream, environ={})
        log = structlog.get_logger().bind(a=1)
        log.info("quiet")
        log.warning("loud")
        assert [line["event"] for line in lines()] == ["loud"]
        set_level("debug")
        log.debug("quiet")
        assert [line["event"] for line in lines()] == ["quiet"]
        configure(Log(level="error"), stream=stream, environ={})
        log.warning("loud")
        assert lines() == []

    def test_a_logger_bound_before_follows_a_change_of_the_format(
        self, stream: io.StringIO
    ) -> None:
        configure(Log(format="json"), stream=stream, environ={})
        log = structlog.get_logger().bind(a=1)
        log.info("first")
        configure(Log(format="console"), stream=stream, environ={})
        log.info("second")
        first, second = stream.getvalue().splitlines()
        assert first.startswith("{")
        assert re.search(r"\[info +\] second +a=1", second)


class TestFields:
    @settings(database=None)  # the checkout may be somebody else's
    @given(st.text(st.characters(exclude_categories=[]), max_size=600))
    def test_any_text_comes_out_printable_on_one_line_and_short(self, text: str) -> None:
        cleaned = clean_text(text)
        assert cleaned.isprintable()
        assert len(cleaned.encode()) <= FIELD_BYTES_MAX
        if text.isprintable() and len(text.encode()) <= FIELD_BYTES_MAX:
            assert cleaned == text

    @pytest.mark.parametrize(
        ("value", "shown"),
        [
            ("a\x1b[31mred\x07", "a\\x1b[31mred\\x07"),
            ("two\nlines\u2028three", "two\\nlines\\u2028three"),
            ("right\u202eleft", "right\\u202eleft"),
            ("\udcff", "\\udcff"),
            (b"\xff\x00ok", "\\xff\\x00ok"),
            ("x" * 257, "x" * 253 + "…"),
            ("é" * 129, "é" * 126 + "…"),
            ("x" * 256, "x" * 256),
            (["a", "b\n", 3, 10**5000], "a, b\\n, 3, a huge number"),
            (float("nan"), "nan"),
            (10**5000, "a huge number"),
            (Path("/x"), "/x"),
        ],
        ids=range(12),
    )
    def test_what_a_client_sent_can_not_harm_a_reader_of_the_log(
        self,
        stream: io.StringIO,
        lines: Callable[[], list[dict[str, Any]]],
        value: object,
        shown: str,
    ) -> None:
        configure(Log(), stream=stream, environ={})
        structlog.get_logger().info("it_happened", value=value)
        assert lines()[0]["value"] == shown

    def test_a_payload_is_shown_at_debug_only(
        self, stream: io.StringIO, lines: Callable[[], list[dict[str, Any]]]
    ) -> None:
        configure(Log(level="debug"), stream=stream, environ={})
        structlog.get_logger().error("it_happened", payload="secret")
        structlog.get_logger().debug("it_happened", payload="secret")
        above, debug = lines()
        assert "payload" not in above
        assert debug["payload"] == "secret"


@pytest.fixture
def terminal() -> Iterator[tuple[int, Any]]:
    """Return both ends of a pseudo-terminal: a descriptor to read, a stream to write."""
    reader, writer = pty.openpty()
    with os.fdopen(writer, "w") as stream:
        yield reader, stream
    os.close(reader)


class TestConsole:
    def test_on_a_terminal_lines_are_coloured(self, terminal: tuple[int, Any]) -> None:
        reader, stream = terminal
        configure(Log(), stream=stream, environ={})
        structlog.get_logger().info("it_happened", agent_id="a b")
        text = os.read(reader, 4096).decode()
        assert "\x1b[" in text
        plain = re.sub(r"\x1b\[[0-9;]*m", "", text)
        assert re.search(r"\d\d:\d\d:\d\d \[info +\] it_happened +agent_id='a b'\r\n", plain)

    @pytest.mark.parametrize("environ", [{"NO_COLOR": "1"}, {"TERM": "dumb"}], ids=str)
    def test_who_wants_no_colours_gets_none(
        self, terminal: tuple[int, Any], environ: dict[str, str]
    ) -> None:
        reader, stream = terminal
        configure(Log(), stream=stream, environ=environ)
        structlog.get_logger().info("it_happened", agent_id="a\x1b[31m")
        assert b"\x1b" not in os.read(reader, 4096)

    def test_a_stopped_terminal_does_not_stop_the_daemon(self, terminal: tuple[int, Any]) -> None:
        reader, stream = terminal
        configure(Log(), stream=stream, environ={"NO_COLOR": "1"})
        log = structlog.get_logger()
        for _ in range(1000):  # more than a terminal takes while nobody reads it
            log.info("it_happened", text="x" * 100)
        assert b"it_happened" in os.read(reader, 4096)


class Journald:
    """Plays systemd's journal at the end of a socket."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.settimeout(10)
        self._socket.bind(str(path))

    def entry(self) -> dict[str, str]:
        raw = self._socket.recv(1 << 20)
        fields = {}
        while raw:
            line, _, raw = raw.partition(b"\n")
            name, is_short, value = line.partition(b"=")
            if not is_short:
                (length,) = struct.unpack("<Q", raw[:8])
                value, raw = raw[8 : 8 + length], raw[8 + length + 1 :]
            fields[name.decode()] = value.decode()
        return fields

    def queued(self) -> Iterator[dict[str, str]]:
        """Yield the entries that wait."""
        while select.select([self._socket], [], [], 0)[0]:
            yield self.entry()

    def close(self) -> None:
        self._socket.close()
        self.path.unlink()


@pytest.fixture
def journald(tmp_path: Path) -> Iterator[Journald]:
    journald = Journald(tmp_path / "journald")
    yield journald
    if journald.path.exists():
        journald.close()


@pytest.fixture
def service(tmp_path: Path, journald: Journald) -> Iterator[dict[str, Any]]:
    """Return how ``configure`` is called where systemd connected the stream."""
    with (tmp_path / "stderr").open("w+") as stream:
        status = os.fstat(stream.fileno())
        yield {
            "stream": stream,
            "environ": {"JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino}"},
            "journal_socket": journald.path,
        }


class TestSystemdsJournal:
    def test_an_entry_has_a_message_for_people_and_fields_for_queries(
        self, journald: Journald, service: dict[str, Any]
    ) -> None:
        configure(Log(), **service)
        log = structlog.get_logger().bind(agent_id="a-1")
        log.warning("append_refused", error_code="invalid", tries=3, text='x "y"')
        assert journald.entry() == {
            "MESSAGE": ('append_refused agent_id=a-1 error_code=invalid tries=3 text="x \\"y\\""'),
            "PRIORITY": "4",
            "SYSLOG_IDENTIFIER": "agent-journald",
            "EVENT": "append_refused",
            "AGENT_ID": "a-1",
            "ERROR_CODE": "invalid",
            "TRIES": "3",
            "TEXT": 'x "y"',
        }

    @pytest.mark.parametrize(
        ("level", "priority"), [("debug", "7"), ("info", "6"), ("error", "3"), ("critical", "2")]
    )
    def test_levels_are_priorities(
        self, journald: Journald, service: dict[str, Any], level: str, priority: str
    ) -> None:
        configure(Log(level="debug"), **service)
        getattr(structlog.get_logger(), level)("it_happened")
        assert journald.entry()["PRIORITY"] == priority

    def test_a_traceback_keeps_its_lines(self, journald: Journald, service: dict[str, Any]) -> None:
        configure(Log(), **service)
        try:
            fail("bad")
        except ValueError:
            structlog.get_logger().exception("request_failed", op="append")
        message = journald.entry()["MESSAGE"].splitlines()
        assert message[:2] == [
            "request_failed op=append",
            "Traceback (most recent call last):",
        ]
        assert message[-1] == "ValueError: bad"

    def test_a_field_can_not_pretend_to_be_another(
        self, journald: Journald, service: dict[str, Any]
    ) -> None:
        configure(Log(), **service)
        fields = {"message": "a", "_PID": 1, "9x-y": 2, "priority": "0", "_": 3, "x" * 99: 4}
        structlog.get_logger().info("it_happened", text="a\nPRIORITY=0", **fields)
        entry = journald.entry()
        assert entry["PRIORITY"] == "6"
        assert entry["MESSAGE"].startswith("it_happened ")
        assert {name for name in entry if name.startswith("FIELD_")} == {
            "FIELD_MESSAGE",
            "FIELD_PRIORITY",
            "FIELD_",
        }
        assert entry["PID"] == "1"
        assert entry["X_Y"] == "2"
        assert entry["X" * 50] == "4"
        assert entry["TEXT"] == "a\\nPRIORITY=0"

    def test_an_entry_is_never_larger_than_a_datagram(self) -> None:
        fields = [("MESSAGE", "it_happened"), ("LARGE", "x" * DATAGRAM_BYTES_MAX), ("LAST", "y")]
        assert datagram(fields) == b"MESSAGE=it_happened\nLAST=y\n"

    def test_an_inherited_variable_about_another_stream_does_not_count(
        self, journald: Journald, service: dict[str, Any]
    ) -> None:
        service["environ"] = {"JOURNAL_STREAM": "1:2"}
        configure(Log(), **service)
        structlog.get_logger().info("it_happened")
        service["stream"].seek(0)
        assert parsed(service["stream"].read()) == [{"level": "info", "event": "it_happened"}]

    @pytest.mark.parametrize("form", ["auto", "journal"])
    def test_without_the_journal_s_socket_lines_are_json(
        self, journald: Journald, service: dict[str, Any], form: str
    ) -> None:
        journald.close()
        configure(Log(format=form), **service)
        structlog.get_logger().info("it_happened")
        service["stream"].seek(0)
        assert parsed(service["stream"].read()) == [{"level": "info", "event": "it_happened"}]

    def test_a_restart_of_systemd_s_journal_is_survived(
        self, journald: Journald, service: dict[str, Any]
    ) -> None:
        configure(Log(), **service)
        log = structlog.get_logger()
        journald.close()
        log.info("meanwhile")
        service["stream"].seek(0)
        assert parsed(service["stream"].read()) == [{"level": "info", "event": "meanwhile"}]
        again = Journald(journald.path)
        log.info("after")
        assert again.entry()["MESSAGE"] == "after"
        again.close()

    def test_a_busy_journal_does_not_hold_up_the_daemon_and_hears_what_it_missed(
        self, journald: Journald, service: dict[str, Any]
    ) -> None:
        configure(Log(), **service)
        log = structlog.get_logger()
        total = 2000  # more than the queue of a datagram socket holds
        for number in range(total):
            log.info("it_happened", number=number)
        received = list(journald.queued())
        assert [int(entry["NUMBER"]) for entry in received] == list(range(len(received)))
        log.info("after")
        note, after = journald.queued()
        assert (note["EVENT"], after["EVENT"]) == ("log_lines_dropped", "after")
        assert 0 < len(received) < total
        assert len(received) + int(note["COUNT"]) == total


class TestStalls:
    def test_a_full_pipe_does_not_hold_up_the_daemon_and_tells_what_is_missing(self) -> None:
        reader, writer = os.pipe()
        with os.fdopen(writer, "w") as stream, os.fdopen(reader, "rb", buffering=0) as pipe:
            configure(Log(), stream=stream, environ={})
            log = structlog.get_logger()
            total = 2000
            for number in range(total):
                log.info("it_happened", number=number, text="x" * 200)
            text = pipe.read(1 << 20).decode()
            log.info("after")
            text += pipe.read(1 << 20).decode()
        whole = [json.loads(line) for line in text.splitlines() if line.endswith("}")]
        note, after = whole[-2:]
        assert after["event"] == "after"
        assert note["event"] == "log_lines_dropped"
        assert note["level"] == "warning"
        assert [line["number"] for line in whole[:-2]] == list(range(len(whole) - 2))
        assert len(whole) - 2 + note["count"] == total

    def test_a_line_given_up_in_its_middle_does_not_spoil_the_next(self) -> None:
        reader, writer = os.pipe()
        with os.fdopen(writer, "w") as stream, os.fdopen(reader, "rb", buffering=0) as pipe:
            configure(Log(), stream=stream, environ={})
            # All of the pipe but one page is full: a longer line does not fit.
            os.write(writer, b"." * (65536 - 4097) + b"\n")
            long = {f"field_{number}": "x" * 250 for number in range(100)}
            structlog.get_logger().info("too_long", **long)
            text = pipe.read(1 << 20)
            structlog.get_logger().info("after")
            lines = (text + pipe.read(1 << 20)).splitlines()
        assert b"too_long" in lines[1]
        assert not lines[1].endswith(b"}")
        assert [json.loads(line)["event"] for line in lines[2:]] == ["log_lines_dropped", "after"]

    def test_a_full_socket_does_not_hold_up_the_daemon(self) -> None:
        """A socket can't be opened a second time, so nothing but poll protects it."""
        reader, writer = socket.socketpair()
        with reader, writer, os.fdopen(os.dup(writer.fileno()), "w") as stream:
            configure(Log(), stream=stream, environ={})
            long = {f"field_{number}": "x" * 250 for number in range(1000)}
            for _ in range(100):
                structlog.get_logger().info("it_happened", **long)
            assert os.get_blocking(writer.fileno())
            assert b"it_happened" in reader.recv(4096)

    def test_a_reader_that_went_away_does_no_harm(self) -> None:
        reader, writer = os.pipe()
        with os.fdopen(writer, "w") as stream:
            configure(Log(), stream=stream, environ={})
            os.close(reader)
            structlog.get_logger().info("it_happened")

    def test_a_closed_stream_does_no_harm(self, tmp_path: Path) -> None:
        with (tmp_path / "log").open("w") as stream:
            configure(Log(), stream=stream, environ={})
        structlog.get_logger().info("it_happened")


class TestLibraries:
    def test_what_asyncio_reports_has_the_same_form(
        self, stream: io.StringIO, lines: Callable[[], list[dict[str, Any]]]
    ) -> None:
        for _ in range(2):  # a second call must not report everything twice
            configure(Log(), stream=stream, environ={})
        logging.getLogger("asyncio").warning("Executing %s took long\n", "it")
        assert lines() == [
            {
                "level": "warning",
                "event": "library_warned",
                "logger": "asyncio",
                "text": "Executing it took long",
            }
        ]

    def test_an_exception_of_a_library_keeps_its_traceback(
        self, stream: io.StringIO, lines: Callable[[], list[dict[str, Any]]]
    ) -> None:
        configure(Log(), stream=stream, environ={})
        try:
            fail("bad")
        except ValueError:
            logging.getLogger("asyncio").exception("Task exception was never retrieved")
        (line,) = lines()
        assert line["level"] == "error"
        assert line["exception"].endswith("ValueError: bad")

    def test_python_s_warnings_have_the_same_form(
        self, stream: io.StringIO, lines: Callable[[], list[dict[str, Any]]]
    ) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            configure(Log(), stream=stream, environ={})
            warnings.warn("careful", UserWarning, stacklevel=1)
            logging.captureWarnings(capture=False)
        (line,) = lines()
        assert line["logger"] == "py.warnings"
        assert "UserWarning: careful" in line["text"]

    def test_what_aiosqlite_says_at_debug_is_never_logged(
        self, stream: io.StringIO, lines: Callable[[], list[dict[str, Any]]]
    ) -> None:
        """It would be every statement, with what agents wrote as its parameters."""
        configure(Log(level="debug"), stream=stream, environ={})
        logging.getLogger("aiosqlite").debug("executing INSERT ... secret")
        assert lines() == []
