"""Tells whether a program asks for what is recorded, and how it differs, for a person to read."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any, Final

from ._agent_errors import ReplayMismatchError
from ._history import ABSENT, Record
from ._values import bytes_if_plain, canonical, is_plain_form

LINES_MAX: Final = 12
VALUE_CHARS_MAX: Final = 80
AROUND_CHARS: Final = 30  # shown around the place where two long texts part


def hash_of(text: bytes) -> str:
    """Return the hash of an input's canonical text."""
    return hashlib.sha256(text).hexdigest()[:32]


def hash_of_done(record: Record, inputs: object) -> str | None:
    """Return the hash of what a step that is done is asked for with, if no copy of it is needed.

    It is only compared, and mostly it is the same.
    """
    if is_plain_form(record.input, inputs):
        return record.input_hash
    text = bytes_if_plain(inputs)
    return None if text is None else hash_of(text)


def check(record: Record, name: str, input_hash: str, given: object, *, agent_id: str) -> None:
    """Compare *record* with what is asked for under its key.

    Raises:
        ReplayMismatchError: they differ in name or input.
    """
    is_other_name = record.name is not None and record.name != name
    is_other_input = record.input_hash is not None and record.input_hash != input_hash
    if not is_other_name and not is_other_input:
        return
    lines = [f"step {record.key!r} is recorded (sequence {record.sequence}) as another one:"]
    if is_other_name:
        lines.append(f"  name: recorded {record.name!r}, now {name!r}")
    if is_other_input:
        lines.append(f"  input: recorded {record.input_hash}, now {input_hash}")
        lines.extend(f"    {line}" for line in _of_inputs(record, given))
    lines.append(
        "the program has changed, or does not ask for the same each time: give the changed step "
        "another key, or let the agent begin anew as a fork before this step "
        f"('agent-journal fork {agent_id} --at {record.sequence} --as NEW')"
    )
    raise ReplayMismatchError(
        "\n".join(lines),
        step=record.key,
        sequence=record.sequence,
        recorded={"name": record.name, "input_hash": record.input_hash},
        attempted={"name": name, "input_hash": input_hash},
    )


def _of_inputs(record: Record, given: object) -> list[str]:
    if record.input is not ABSENT:
        lines = list(differences(record.input, given))
    elif record.input_start is not None:
        lines = list(_of_texts("", record.input_start, canonical(given)[: len(record.input_start)]))
        lines = lines or [f"the same up to character {len(record.input_start)}, then different"]
    else:
        lines = ["(the recorded input was not kept)"]
    if len(lines) > LINES_MAX:
        lines = [*lines[:LINES_MAX], f"and {len(lines) - LINES_MAX} more"]
    return lines


def differences(recorded: Any, now: Any, path: str = "") -> Iterator[str]:  # noqa: ANN401 - any JSON
    """Yield a line for each place where two JSON values differ."""
    if isinstance(recorded, dict) and isinstance(now, dict):
        for name in sorted({*recorded, *now}):
            yield from _of_parts(recorded, now, name, f"{path}.{name}" if path else name)
    elif isinstance(recorded, list) and isinstance(now, list):
        for number in range(max(len(recorded), len(now))):
            yield from _of_parts(
                dict(enumerate(recorded)), dict(enumerate(now)), number, f"{path}[{number}]"
            )
    elif isinstance(recorded, str) and isinstance(now, str):
        yield from _of_texts(path, recorded, now)
    elif recorded != now or type(recorded) is not type(now):
        yield f"{path or 'input'}: recorded {_shown(recorded)}, now {_shown(now)}"


def _of_parts(
    recorded: dict[Any, Any], now: dict[Any, Any], at: object, path: str
) -> Iterator[str]:
    if at not in now:
        yield f"{path}: recorded {_shown(recorded[at])}, now not there"
    elif at not in recorded:
        yield f"{path}: not recorded, now {_shown(now[at])}"
    else:
        yield from differences(recorded[at], now[at], path)


def _of_texts(path: str, recorded: str, now: str) -> Iterator[str]:
    if recorded == now:
        return
    parting = next(
        (number for number, (a, b) in enumerate(zip(recorded, now, strict=False)) if a != b),
        min(len(recorded), len(now)),
    )
    if max(len(recorded), len(now)) <= VALUE_CHARS_MAX:
        parts = (recorded, now)
        where = ""
    else:
        around = slice(max(0, parting - AROUND_CHARS), parting + AROUND_CHARS)
        parts = (recorded[around], now[around])
        where = f", from character {around.start}"
    yield f"{path or 'input'}{where}: recorded {parts[0]!r}, now {parts[1]!r}"


def _shown(value: object) -> str:
    text = canonical(value)
    return text if len(text) <= VALUE_CHARS_MAX else f"{text[:VALUE_CHARS_MAX]}…"
