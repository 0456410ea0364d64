"""What is kept of an agent that was attached to: who holds it, and how to start it again.

It travels with the agent's record and is one JSON value in the database, since
nothing is ever looked up by a part of it.  An agent that has ended has none, so
"has an attachment" is what the recovery at start asks for.

All of these are frozen: a record that was given out does not change afterwards.
"""

from __future__ import annotations

from typing import Final

import msgspec

from ..model import Micros


class Owner(msgspec.Struct, frozen=True):
    """The process that attached, by what tells it from a later one with its pid."""

    pid: int  # 0: it cannot be seen from here; its connection is all there is
    start_time: int | None = None  # clock ticks since the boot; None: /proc does not say
    boot_id: str = ""


class Command(msgspec.Struct, frozen=True):
    """How a client wants to be started again."""

    argv: tuple[str, ...]
    cwd: str
    env: dict[str, str] = msgspec.field(default_factory=dict)


class Incident(msgspec.Struct, frozen=True, omit_defaults=True):
    """What was spent on an agent since it last was well; the resumer's to count."""

    attempts: int = 0  # launched since
    steps: int = 0
    tokens: int = 0
    failures: int = 0  # in a row, without a new step
    signature: str | None = None  # of the last crash
    next_attempt_at: Micros | None = None


class Attachment(msgspec.Struct, frozen=True, omit_defaults=True):
    """Who holds an agent, or what it waits for, and how it is started again."""

    owner: Owner | None = None
    launcher: str | None = None
    command: Command | None = None
    wake_at: Micros | None = None  # a waiting agent is due when it has come
    wait_for: tuple[str, ...] = ()  # names of signals that make a waiting agent due
    is_launched: bool = False  # a process was started for it, and has not attached yet
    attempt_sequence: int = 0  # where the present attempt began in the agent's history
    incident: Incident = msgspec.field(default_factory=Incident)
    is_importing: bool = False  # parked until the rest of its import comes


NOTHING: Final = Attachment()

_encode: Final = msgspec.json.Encoder().encode
_decode: Final = msgspec.json.Decoder(Attachment).decode


def attachment_text(attachment: Attachment | None) -> str | None:
    """Return *attachment* as it is stored."""
    return None if attachment is None else _encode(attachment).decode()


def attachment_from(text: str | None) -> Attachment | None:
    """Return what was stored as *text*."""
    return None if text is None else _decode(text)
