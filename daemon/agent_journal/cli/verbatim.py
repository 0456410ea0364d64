"""What the daemon sends, as the text that it sent.

The journal keeps an event byte for byte.  A tool that decodes it and writes it
anew would print ``1.1`` for ``1.10`` and ``1e999`` for ``1e400``, so ``--json``
and ``call`` pass on the text itself.  How lost connections are taken up again
is still the client's business: only what is made of a reply is ours here.

Invariant: what ``--json`` prints into a pipe or a file of an entry is byte for
byte what the daemon sent of it.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Generator, Iterator
from typing import Any, Final, cast

from ..client import Client
from ..client._replies import ReplyFields
from ..client._requests import ReadPages, Reply, Request, Tail, TailRequest, raw
from .raw_json import RawValue, array_items, object_members
from .terminal import harmless_json

# They end the conversation, so the client does not offer them as calls.
STREAM_OP: Final = "tail"
LAST_OP: Final = "close"


def read_lines(
    journal: Client, agent_id: str, from_sequence: int, limit: int | None, *, uid: int | None
) -> Generator[str, None, None]:
    """Yield an agent's entries in sequence order, each as its text."""
    pages = ReadPages(agent_id, from_sequence=from_sequence, limit=limit, uid=uid)
    yield from journal._all(_TextPages(pages))  # noqa: SLF001 - the same package's engine


def tail_lines(journal: Client, tail: Tail) -> Generator[str, None, None]:
    """Yield what *tail* asks for, each entry as its text."""
    texts = journal._follow(_TextTail(tail))  # type: ignore[arg-type]  # noqa: SLF001 - as above
    yield from cast("Iterator[str]", texts)


def call_lines(journal: Client, text: str) -> Generator[str, None, None]:
    """Send the request *text*, its values as they stand, and yield the reply's lines.

    Raises:
        JournalError: the daemon refused it.
    """
    fields = object_members(text)
    op = fields["op"].value
    if op == STREAM_OP:
        stream = _CalledStream(fields)
        texts = journal._follow(stream)  # type: ignore[arg-type]  # noqa: SLF001 - as above
        yield from cast("Iterator[str]", texts)
        return
    yield journal._perform(_called(fields))  # noqa: SLF001 - as above


def print_line(text: str) -> None:
    """Print JSON *text* on a line: as it is, but for what a terminal would obey."""
    if sys.stdout.isatty():
        text = harmless_json(text)
    if not text.isascii() and (sys.stdout.encoding or "").lower().replace("-", "") != "utf8":
        text = _ascii(text)
    sys.stdout.write(text + "\n")


def _ascii(text: str) -> str:
    """Return JSON *text* with what this locale may lack as escapes; the value stays the same."""
    return "".join(c if c.isascii() else _escape(c) for c in text)


def _escape(character: str) -> str:
    units = character.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[at : at + 2].hex()}" for at in range(0, len(units), 2))


def _text_of(reply: Reply) -> str:
    return cast("ReplyFields", reply).line.decode()


class _TextPages:
    """Pages of entries, each entry as its text."""

    def __init__(self, pages: ReadPages) -> None:
        self._pages = pages

    def next_request(self) -> Request[list[str]] | None:
        request = self._pages.next_request()
        if request is None:
            return None
        take = request.parse

        def texts(reply: Reply) -> list[str]:
            take(reply)  # checks the page, and knows where to go on
            entries = object_members(_text_of(reply))["entries"]
            return [entry.text for entry in array_items(entries.text)]

        return Request(op=request.op, body=request.body, parse=texts)


class _TextTail:
    """A tail whose items are texts; where it is, the tail itself knows."""

    def __init__(self, tail: Tail) -> None:
        self.tail = tail
        self.items: list[str] = []

    def requests(self) -> Iterator[_TextTailRequest]:
        for request in self.tail.requests():
            yield _TextTailRequest(self, request)

    def take_items(self) -> list[str]:
        items, self.items = self.items, []
        return items


class _TextTailRequest(Request[None]):
    """One stream of a ``_TextTail``."""

    def __init__(self, texts: _TextTail, request: TailRequest) -> None:
        super().__init__(op=request.op, body=b"", parse=request.parse)
        self._texts = texts
        self._request = request

    @property
    def is_stream(self) -> bool:
        return True

    @property
    def is_full(self) -> bool:
        return bool(self._texts.items)

    def line(self, request_id: int) -> bytes:
        return self._request.line(request_id)

    def take(self, reply: Reply) -> bool:
        more = self._request.take(reply)
        if self._texts.tail.take_items():  # it was not seen before
            self._texts.items.append(object_members(_text_of(reply))["entry"].text)
        return more


def _called(fields: dict[str, RawValue]) -> Request[str]:
    """Return the request for one reply, which is given back with the caller's own id."""
    op = fields["op"].value
    if op == LAST_OP:
        request: Request[Any] = Request(
            op=LAST_OP, body=b"", parse=lambda _: None, may_repeat=False
        )
    else:
        request = raw(_told_apart(fields))
    return Request(
        op=request.op,
        body=_body(fields),
        parse=lambda reply: _with_id_of(fields, reply),
        may_repeat=request.may_repeat or (op == "signal" and "key" in fields),
        agent_id=request.agent_id,
    )


def _told_apart(fields: dict[str, RawValue]) -> dict[str, object]:
    """Return what says whether a request may be repeated, and for whom it is."""
    told: dict[str, object] = {}
    told |= {name: fields[name].value for name in ("op", "agent_id", "key") if name in fields}
    entries = fields["entries"].value if "entries" in fields else None
    if isinstance(entries, list):
        keys = [entry.get("key") if isinstance(entry, dict) else None for entry in entries]
        return {**told, "entries": [{"key": key} for key in keys]}
    return told


class _CalledStream:
    """A ``tail`` asked for in the caller's own words: never repeated, and every line is told."""

    def __init__(self, fields: dict[str, RawValue]) -> None:
        self.fields = fields
        self.items: list[str] = []

    def requests(self) -> Iterator[_CalledStreamRequest]:
        yield _CalledStreamRequest(self)

    def take_items(self) -> list[str]:
        items, self.items = self.items, []
        return items


class _CalledStreamRequest(Request[None]):
    def __init__(self, stream: _CalledStream) -> None:
        super().__init__(
            op=STREAM_OP, body=_body(stream.fields), parse=lambda _: None, may_repeat=False
        )
        self._stream = stream

    @property
    def is_stream(self) -> bool:
        return True

    @property
    def is_full(self) -> bool:
        return bool(self._stream.items)

    def take(self, reply: Reply) -> bool:
        if reply.get("ok") is not False:
            self._stream.items.append(_with_id_of(self._stream.fields, reply))
        return "ok" not in reply


def _body(fields: dict[str, RawValue]) -> bytes:
    others = (
        f",{_name(name)}:{value.text}" for name, value in fields.items() if name not in {"op", "id"}
    )
    # A newline can only stand between tokens, and would end the line.
    text = "".join(others).replace("\r", " ").replace("\n", " ")
    return text.encode() + b"}\n"


def _with_id_of(fields: dict[str, RawValue], reply: Reply) -> str:
    """Return the reply's text with the request's id in place of the client's."""
    members = object_members(_text_of(reply))
    members.pop("id", None)
    whole = {"id": fields["id"], **members} if "id" in fields else members
    return "{" + ",".join(f"{_name(name)}:{value.text}" for name, value in whole.items()) + "}"


def _name(name: str) -> str:
    return json.dumps(name)
