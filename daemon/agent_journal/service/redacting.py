"""The write boundary: no request gets past it with a secret that is to be kept out.

Requests are redacted as they are decoded, before anything is compared, numbered or
queued.  So a repeat, by its key or under an epoch, is compared as it would be recorded.

What must stay as it is in order to mean anything cannot be marked, and is refused in
either mode: idempotency keys (two might become one), and the command by which an agent
is to be started again.
"""

from __future__ import annotations

import re
from typing import Final

import msgspec
from msgspec import UNSET, Raw, UnsetType

from ..errors import InvalidError
from ..wire import Append, EntryFields, RefusedLineError, Request, decode_request
from ..wire_requests import (
    Attach,
    Cancel,
    Decide,
    Import,
    ImportedEntry,
    Park,
    Resume,
    Signal,
)
from .config_retention import MARK, OFF
from .config_retention import Redaction as Options
from .redaction import Redaction

_FIRST_MARKER: Final = re.compile(r"\[redacted:([^\]]*)\]")


class Boundary:
    """Decodes requests, and takes secrets out of them or refuses them."""

    def __init__(self, options: Options) -> None:
        self._redaction = Redaction(
            [re.compile(pattern) for pattern in options.patterns], options.keys
        )
        self._is_marking = options.mode == MARK

    def decode_request(self, line: bytes) -> Request:
        """Return the request in *line* as it may be recorded.

        Raises:
            RefusedLineError: *line* is no request, or holds what it must not.
        """
        request = decode_request(line)
        try:
            self._look_at(request)
        except InvalidError as error:
            raise RefusedLineError(error, request.id) from None
        return request

    def text(self, text: str) -> str:
        """Return text of an agent's that the daemon records itself, with secrets marked."""
        return self._redaction.of_text(text)

    def _look_at(self, request: Request) -> None:
        match request:
            case Append():
                self._event(request, "")
                for place, entry in enumerate(request.entries or ()):
                    self._event(entry, f"entries[{place}].")
            case Signal():
                request.payload = self._json(request.payload, "payload")
                self._must_stay(request.key, "key")
                self._must_stay(request.name, "name")
            case Decide():
                request.result = self._json(request.result, "result")
                request.error = self._json(request.error, "error")
            case Park() | Resume() | Cancel():
                if request.reason is not None:
                    request.reason = self._reason(request.reason, "reason")
            case Attach():
                self._command(request)
            case Import():
                self._imported(request)
            case _:
                pass  # records nothing that the caller wrote

    def _event(self, source: Append | EntryFields | ImportedEntry, prefix: str) -> None:
        if source.event is not UNSET:
            event = self._json(source.event, f"{prefix}event")
            if event is not source.event and event is not UNSET:
                source.event = event
        self._must_stay(source.key, f"{prefix}key")

    def _json(self, raw: Raw | UnsetType, field: str) -> Raw | UnsetType:
        if raw is UNSET:
            return raw
        given = bytes(raw)
        redacted = self._redaction.of_json(given)
        if redacted is given:
            return raw
        if not self._is_marking:
            raise _refusal(redacted.decode(), given.decode(), field)
        return Raw(redacted)

    def _reason(self, text: str, field: str) -> str:
        redacted = self._redaction.of_text(text)
        if redacted != text and not self._is_marking:
            raise _refusal(redacted, text, field)
        return redacted

    def _must_stay(self, text: str | None, field: str) -> None:
        if text is not None and (redacted := self._redaction.of_text(text)) != text:
            raise _refusal(redacted, text, field)

    def _command(self, request: Attach) -> None:
        command = request.command
        if command is None:
            return
        for place, argument in enumerate(command.argv):
            self._must_stay(argument, f"command.argv[{place}]")
        env = msgspec.json.encode(command.env)
        redacted = self._redaction.of_json(env)
        if redacted is not env:
            raise _refusal(redacted.decode(), env.decode(), "command.env")

    def _imported(self, request: Import) -> None:
        agent = request.agent
        if agent.reason is not None:
            agent.reason = self._reason(agent.reason, "agent.reason")
        if agent.attachment is not UNSET:
            given = bytes(agent.attachment)
            redacted = self._redaction.of_json(given)
            if redacted is not given:
                raise _refusal(redacted.decode(), given.decode(), "agent.attachment")
        for place, entry in enumerate(request.entries):
            self._event(entry, f"entries[{place}].")


def boundary_of(options: Options) -> Boundary | None:
    """Return what *options* ask for; ``None``: nothing."""
    return None if options.mode == OFF else Boundary(options)


def _refusal(redacted: str, given: str, field: str) -> InvalidError:
    """Say what was found, and never what it is."""
    known = set(_FIRST_MARKER.findall(given))
    kinds = [kind for kind in _FIRST_MARKER.findall(redacted) if kind not in known]
    what = kinds[0] if kinds else "secret"
    return InvalidError(
        f'"{field}" holds what looks like a secret ({what}), and the journal keeps what it is '
        "sent; leave it out, or record where it is kept",
        field=field,
    )
