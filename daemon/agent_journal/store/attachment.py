"""What is kept of an agent that was attached to: who holds it, and how to start it again.

It travels with the agent's record.  An agent that has ended has none, so "has an
attachment" is what the recovery at start asks for.

In the database it is two JSON values, since nothing is ever looked up by a part of
it: how the agent stands, which is small, changes often and is what a start reads of
each agent, and the command, which may be large and is needed to start that one.

All of these are frozen: a record that was given out does not change afterwards.
"""

from __future__ import annotations

from typing import Final

import msgspec
from msgspec.structs import replace

from ..model import Micros


class Owner(msgspec.Struct, frozen=True, gc=False):
    """The process that attached, by what tells it from a later one with its pid."""

    pid: int  # 0: it cannot be seen from here; its connection is all there is
    start_time: int | None = None  # clock ticks since the boot; None: /proc does not say
    boot_id: str = ""


class Command(msgspec.Struct, frozen=True, gc=False):
    """How a client wants to be started again."""

    argv: tuple[str, ...]
    cwd: str
    env: dict[str, str] = msgspec.field(default_factory=dict)


class Incident(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """What was spent on an agent since it last was well; the resumer's to count."""

    attempts: int = 0  # launched since
    steps: int = 0
    tokens: int = 0
    failures: int = 0  # in a row, without a new step
    signature: str | None = None  # of the last crash
    next_attempt_at: Micros | None = None


class Standing(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """Who holds an agent, or what it waits for."""

    owner: Owner | None = None
    launcher: str | None = None
    wake_at: Micros | None = None  # a waiting agent is due when it has come
    wait_for: tuple[str, ...] = ()  # names of signals that make a waiting agent due
    is_launched: bool = False  # a process was started for it, and has not attached yet
    attempt_sequence: int = 0  # where the present attempt began in the agent's history
    incident: Incident = msgspec.field(default_factory=Incident)
    is_importing: bool = False  # parked until the rest of its import comes


class Attachment(Standing, frozen=True, omit_defaults=True, gc=False):
    """How an agent stands, and how it is started again where no launcher does it."""

    command: Command | None = None


NOTHING: Final = Attachment()

_encode: Final = msgspec.json.Encoder().encode
_decode: Final = msgspec.json.Decoder(Attachment).decode
_decode_command: Final = msgspec.json.Decoder(Command).decode
_decode_standing: Final = msgspec.json.Decoder(Standing).decode


def attachment_text(attachment: Attachment | None) -> str | None:
    """Return the whole of *attachment*."""
    return None if attachment is None else _encode(attachment).decode()


def stored_texts(attachment: Attachment | None) -> tuple[str | None, str | None]:
    """Return *attachment* as it is stored: without its command, and that."""
    if attachment is None or attachment.command is None:
        return attachment_text(attachment), None
    command = _encode(attachment.command).decode()
    return attachment_text(replace(attachment, command=None)), command


def attachment_from(text: str | None, command: str | None) -> Attachment | None:
    """Return what was stored as *text* and *command*; before schema 5, in *text* alone."""
    if text is None:
        return None
    attachment = _decode(text)
    if command is None:
        return attachment
    return replace(attachment, command=_decode_command(command))


def standing_of(attachment: Standing) -> Standing:
    """Return *attachment* less its command."""
    return Standing(*[getattr(attachment, name) for name in Standing.__struct_fields__])


def standing_from(text: str) -> Standing:
    """Return what was stored as *text*, less its command."""
    return _decode_standing(text)
