"""From standard input's bytes to requests: lines, and what each of them asks for."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, BinaryIO, Final

from ..client import AppendRequest, NewEntry
from ..errors import InvalidError, MalformedError
from ..value import Value
from .raw_json import RawValue, array_items, object_members

READ_BYTES: Final = 1 << 20
LINE_BYTES_MAX: Final = 64 << 20  # more than any daemon takes; bounds our memory


class AppendBatch(Value, kw_only=True):
    """A line with ``entries`` in place of one event: recorded all or none."""

    agent_id: str
    entries: list[NewEntry]
    options: dict[str, Any]


Request = AppendRequest | AppendBatch


def line_groups(stream: BinaryIO) -> Iterator[list[bytes]]:
    """Yield the lines that each read of *stream* completes, without waiting for more.

    A line without an end is cut once it is longer than any can be, and refused.
    """
    pieces: list[bytes] = []
    held_bytes = 0
    # read1, not read: it returns what is there instead of waiting for a full buffer.
    while data := stream.read1(READ_BYTES):  # type: ignore[attr-defined]
        *lines, rest = data.split(b"\n")
        if lines:
            lines[0] = b"".join((*pieces, lines[0]))
            pieces, held_bytes = [], 0
            yield lines
        if held_bytes <= LINE_BYTES_MAX:
            pieces.append(rest)
            held_bytes += len(rest)
    if held_bytes:
        yield [b"".join(pieces)]


def request_of(
    line: bytes, *, agent: str | None, uid: int | None, epoch: int | None = None
) -> Request:
    """Return what *line* asks to record: an event for *agent*, else a whole request.

    Raises:
        MalformedError: it is not one JSON object.
        InvalidError: a field that must be there is not.
    """
    if len(line) > LINE_BYTES_MAX:
        raise MalformedError(f"the line is longer than {LINE_BYTES_MAX:,} bytes")
    try:
        text = line.decode().strip()
    except UnicodeDecodeError as error:
        raise MalformedError(f"not UTF-8: {error}") from None
    members = object_members(text)
    if agent is not None:
        return AppendRequest(agent, text, uid=uid, epoch=epoch)
    if _value(members, "op", "append") != "append":
        raise InvalidError('"op" is not "append"; leave it out', field="op")
    if "agent_id" not in members:
        raise InvalidError('"agent_id" is missing; or name one: append AGENT -', field="agent_id")
    agent_id: Any = members["agent_id"].value
    options = _present(members, "expected_sequence", "epoch")
    options["uid"] = _value(members, "uid", uid)
    if "entries" not in members:
        return AppendRequest(agent_id, **_entry_fields(members), **options)
    entries = [
        NewEntry(**_entry_fields(object_members(item.text)))
        for item in array_items(members["entries"].text)
    ]
    return AppendBatch(agent_id=agent_id, entries=entries, options=options)


# What is of a wrong type is passed on as it is: the daemon's answer names the field.
def _entry_fields(members: dict[str, RawValue]) -> dict[str, Any]:
    if "event" not in members:
        raise InvalidError('"event" is missing', field="event")
    return {"event": members["event"].text, **_present(members, "iteration", "timestamp", "key")}


def _present(members: dict[str, RawValue], *names: str) -> dict[str, Any]:
    return {name: members[name].value for name in names if name in members}


def _value(members: dict[str, RawValue], name: str, default: Any) -> Any:  # noqa: ANN401
    return members[name].value if name in members else default
