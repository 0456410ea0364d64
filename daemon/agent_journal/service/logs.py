"""What the daemon says about itself, with structlog: one fact a line, values as fields.

Coloured on a terminal, JSON lines into anything else, and entries with fields
of their own (``journalctl AGENT_ID=...``) where systemd's journal listens.
Level and format can change while the daemon runs; loggers that were bound
before follow, because all of them share the one processor below.

Much of what is logged was written by clients.  Whatever a field holds, it
comes out as at most 256 bytes of printable text on one line: an agent can't
fill the disk through the log, forge a line of it, or send escape sequences to
the terminal of whoever reads it.  A field named ``payload`` is left out of
everything above debug.
"""

from __future__ import annotations

import functools
import json
import logging
import math
import os
import re
import sys
import threading
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Final, Protocol, TextIO

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from .config import Log
from .log_output import JOURNAL_SOCKET, JournalWriter, StreamWriter

FIELD_BYTES_MAX: Final = 256
TRACEBACK_CHARACTERS_MAX: Final = 8192
LIST_ITEMS_MAX: Final = 64

_LEVELS: Final = {"debug": 10, "info": 20, "warning": 30, "error": 40, "critical": 50}
_PRIORITIES: Final = {"debug": "7", "info": "6", "warning": "4", "error": "3", "critical": "2"}
_RESERVED: Final = frozenset({"MESSAGE", "PRIORITY", "SYSLOG_IDENTIFIER"})
_IDENTIFIER: Final = "agent-journald"


class _Output(Protocol):
    """Where lines go, in one of the forms."""

    def __call__(self, fields: EventDict, /) -> bool:
        """Write one line; return False if it was given up."""

    def close(self) -> None:
        """Give back what was opened for it."""


def configure(
    log: Log,
    *,
    stream: TextIO | None = None,
    environ: Mapping[str, str] = os.environ,
    journal_socket: Path = JOURNAL_SOCKET,
) -> None:
    """Log as ``log`` says from now on; may be called again at any time."""
    stream = stream or sys.stderr
    form = log.format
    if form == "auto":
        form = _form(stream, environ, journal_socket)
    if form == "journal" and journal_socket.exists():
        output: _Output = _Journal(journal_socket, otherwise=_Json(stream))
    elif form == "console":
        output = _Console(stream, environ)
    else:
        output = _Json(stream)
    _pipeline.take(output)
    set_level(log.level)
    structlog.configure(
        processors=_PROCESSORS,
        wrapper_class=_BOUND_LOGGER,
        logger_factory=_Emitter,
        cache_logger_on_first_use=True,
    )
    _catch_libraries()


def set_level(level: str) -> None:
    """Say nothing below this level from now on."""
    _pipeline.level = _LEVELS[level]


def _form(stream: TextIO, environ: Mapping[str, str], journal_socket: Path) -> str:
    if _is_journal(stream, environ) and journal_socket.exists():
        return "journal"
    return "console" if stream.isatty() else "json"


def _is_journal(stream: TextIO, environ: Mapping[str, str]) -> bool:
    # The variable is inherited by whatever a service starts, so it counts only
    # while the stream is still the one that systemd connected.
    device, _, inode = environ.get("JOURNAL_STREAM", "").partition(":")
    try:
        status = os.fstat(stream.fileno())
    except (OSError, ValueError):
        return False
    return (device, inode) == (str(status.st_dev), str(status.st_ino))


class _Pipeline:
    """What all loggers share: drops what is too quiet, cleans the rest, hands it on."""

    def __init__(self) -> None:
        self.level = _LEVELS["info"]
        self._output: _Output | None = None
        self._given_up = 0
        self._lock = threading.RLock()  # the database's thread logs too

    def take(self, output: _Output | None) -> None:
        with self._lock:
            former, self._output = self._output, output
        if former is not None:
            former.close()

    def drop_quiet(self, _logger: WrappedLogger, method: str, fields: EventDict) -> EventDict:
        if _LEVELS[method] < self.level:
            raise structlog.DropEvent
        return fields

    def clean(self, _logger: WrappedLogger, method: str, fields: EventDict) -> EventDict:
        if method != "debug":
            fields.pop("payload", None)
        return {name: _cleaned(name, value) for name, value in fields.items()}

    def emit(self, fields: EventDict) -> None:
        with self._lock:
            if self._given_up:
                note = {"event": "log_lines_dropped", "level": "warning", "count": self._given_up}
                if self._write(note):
                    self._given_up = 0
            if not self._write(fields):
                self._given_up += 1

    def _write(self, fields: EventDict) -> bool:
        return self._output is not None and self._output(fields)


class _Emitter:
    """What structlog takes for the logger proper."""

    def __init__(self, *_names: object) -> None:
        pass

    def emit(self, **fields: object) -> None:
        _pipeline.emit(fields)

    debug = info = warning = error = critical = emit


# structlog's configuration is one per process, and so is this.
_pipeline: Final = _Pipeline()
_PROCESSORS: Final[list[Processor]] = [
    _pipeline.drop_quiet,
    structlog.contextvars.merge_contextvars,
    structlog.processors.add_log_level,
    structlog.processors.format_exc_info,
    _pipeline.clean,
]
_BOUND_LOGGER: Final = structlog.make_filtering_bound_logger(logging.DEBUG)


# --- fields --------------------------------------------------------------------------


def _cleaned(name: str, value: object) -> object:
    match value:
        case None | bool():
            return value
        case int() if value.bit_length() <= FIELD_BYTES_MAX:
            return value
        case float() if math.isfinite(value):  # the others JSON can't say
            return value
        case str() if name == "exception":
            lines = value[-TRACEBACK_CHARACTERS_MAX:].splitlines()
            return "\n".join(map(clean_text, lines))
        case _:
            return clean_text(_text(value))


def _text(value: object) -> str:
    match value:
        case str():
            return value
        case bytes() | bytearray() | memoryview():
            return bytes(value[: FIELD_BYTES_MAX + 1]).decode(errors="backslashreplace")
        case list() | tuple() | set() | frozenset():
            return ", ".join(clean_text(_text(item)) for item in islice(value, LIST_ITEMS_MAX))
        case int() if value.bit_length() > FIELD_BYTES_MAX:
            return "a huge number"  # Python refuses to print the largest of them
        case _:
            return str(value)


def clean_text(text: str) -> str:
    """Return ``text`` as printable characters on one line, at most 256 bytes in UTF-8."""
    # One character more than can be shown tells a text that was cut from one that fits.
    text = text[: FIELD_BYTES_MAX + 1]
    if not text.isprintable():
        text = "".join(
            one if one.isprintable() else one.encode("unicode_escape").decode() for one in text
        )
    encoded = text.encode()
    if len(encoded) <= FIELD_BYTES_MAX:
        return text
    return encoded[: FIELD_BYTES_MAX - len("…".encode())].decode(errors="ignore") + "…"


def _quoted(value: object) -> str:
    """Write a value so that where it ends can be seen."""
    if isinstance(value, str) and value and not re.search(r'[\s"=]', value):
        return value
    return json.dumps(value, ensure_ascii=False)


# --- outputs -------------------------------------------------------------------------


class _Json:
    def __init__(self, stream: TextIO) -> None:
        self._writer = StreamWriter(stream)
        self._stamp = structlog.processors.TimeStamper(fmt="iso", utc=True)

    def __call__(self, fields: EventDict) -> bool:
        first = self._stamp(None, "", {"level": fields["level"], "event": fields["event"]})
        line = {"timestamp": first.pop("timestamp"), **first, **fields}
        return self._writer.write(json.dumps(line, ensure_ascii=False))

    def close(self) -> None:
        self._writer.close()


class _Console:
    def __init__(self, stream: TextIO, environ: Mapping[str, str]) -> None:
        self._writer = StreamWriter(stream)
        self._stamp = structlog.processors.TimeStamper(fmt="%Y-%m-%d %H:%M:%S", utc=False)
        is_plain = environ.get("NO_COLOR") or environ.get("TERM") == "dumb" or not stream.isatty()
        self._render = structlog.dev.ConsoleRenderer(
            colors=not is_plain,
            sort_keys=False,
            exception_formatter=structlog.dev.plain_traceback,
        )

    def __call__(self, fields: EventDict) -> bool:
        line = self._render(None, "", self._stamp(None, "", dict(fields)))
        return self._writer.write(line)

    def close(self) -> None:
        self._writer.close()


class _Journal:
    def __init__(self, path: Path, *, otherwise: _Output) -> None:
        self._writer = JournalWriter(path)
        self._otherwise = otherwise

    def __call__(self, fields: EventDict) -> bool:
        try:
            return self._writer.write(_journal_fields(fields))
        except OSError:
            return self._otherwise(fields)

    def close(self) -> None:
        self._writer.close()
        self._otherwise.close()


def _journal_fields(fields: EventDict) -> Iterator[tuple[str, str]]:
    """Yield the fields of an entry; MESSAGE is for people and says all of it."""
    own = {name: value for name, value in fields.items() if name not in {"level", "exception"}}
    words = [f"{name}={_quoted(value)}" for name, value in own.items() if name != "event"]
    message = " ".join([str(fields["event"]), *words])
    if "exception" in fields:
        message = f"{message}\n{fields['exception']}"
    yield "MESSAGE", message
    yield "PRIORITY", _PRIORITIES[fields["level"]]
    yield "SYSLOG_IDENTIFIER", _IDENTIFIER
    for name, value in own.items():
        yield _journal_name(name), value if isinstance(value, str) else json.dumps(value)


@functools.lru_cache(maxsize=256)
def _journal_name(name: str) -> str:
    # Letters, digits and underscores, at most 64, and no underscore first:
    # those are the fields that systemd vouches for.
    upper = re.sub(r"[^A-Z0-9_]", "_", name.upper()).lstrip("_0123456789")[:50]
    return f"FIELD_{upper}" if upper in _RESERVED or not upper else upper


# --- what libraries say --------------------------------------------------------------


class _Forwarder(logging.Handler):
    """Gives what asyncio, aiosqlite and ``warnings`` have to say the same form."""

    def emit(self, record: logging.LogRecord) -> None:
        log = structlog.get_logger()
        say = log.error if record.levelno >= logging.ERROR else log.warning
        say(
            "library_warned",
            logger=record.name,
            text=record.getMessage().strip(),
            exc_info=record.exc_info if record.exc_info and record.exc_info[0] else None,
        )


def _catch_libraries() -> None:
    root = logging.getLogger()
    if not any(isinstance(handler, _Forwarder) for handler in root.handlers):
        # Not below warning, whatever our own level: at debug aiosqlite logs
        # every statement with its parameters, which are what agents wrote.
        root.addHandler(_Forwarder(logging.WARNING))
    logging.captureWarnings(capture=True)
