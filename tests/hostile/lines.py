"""Hostile lines without end: documented examples, a grammar of requests, and damage to both.

The grammar knows every operation and every member, gives each a value that is good
or one that is known to break parsers, and writes the object in odd but legal ways.
Then bytes are flipped, cut out, repeated, and spliced with another line's.  All of
it follows from one seed.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from protocol.test_examples_in_document import talks_in

DOCUMENT: Final = Path(__file__).parents[2] / "docs" / "PROTOCOL.md"

AGENT_IDS: Final = ("a", "b", "report-42", "x.y:z@1_-", "A" * 128)
EVENTS: Final = (
    '{"Noted":1}',
    '{"Noted":{"deep":[[[{}]]],"text":"\\u00e9\\ud83d\\ude00"}}',
    '{"Blob":[1.0,1E+2,-0.0,123456789012345678901234567890,1e999999]}',
    '{"Terminated":{"reason":"Completed"}}',
    '{"Terminated":null}',
    '{"StepStarted":{"key":"s1","name":"n","input_hash":"h","effect":"unsafe","idempotency_key":"i"}}',
    '{"StepCompleted":{"key":"s1","name":"n","input_hash":"h","result":null}}',
    '{"":""}',
    '{ "Noted" : \t1 }',
)
NO_EVENTS: Final = (
    *("null", "1", "[]", "{}", '"Noted"', '{"A":1,"B":2}', '{"A":NaN}', '{"A":"\\ud800"}'),
    *('{"Parked":1}', '{"\\u0050arked":1}', '{"Forked":{}}', '{"A":1', '{"A":01}', '{"A":.5}'),
)
ODD: Final = (
    *("null", "true", "false", "-1", "0", "-0", "1.0", "1e0", "0.1", "1E400", "-1e-400"),
    *("9223372036854775807", "9223372036854775808", "18446744073709551616", "4294967296"),
    *("[]", "{}", '""', '"\\u0000"', '"é"', '"*"', '"\\ud83d\\ude00"', '"\\uDC00"', "NaN"),
    *("-Infinity", "[[[[]]]]", '{"a":{"a":{}}}', "1" * 400, '"' + "k" * 257 + '"', "+1", "0x1"),
)
TIMES: Final = (
    *('"2026-01-05T09:00:00Z"', '"2026-01-05T10:00:00.5+01:00"', '"1970-01-01T00:00:00.000001Z"'),
    *('"2026-02-30T00:00:00Z"', '"2026-01-05T09:00:00"', '"2026-01-05t09:00:00z"', '"now"'),
    *(
        '"0001-01-01T00:00:00+00:01"',
        '"9999-12-31T23:59:59.999999-23:59"',
        '"2016-12-31T23:59:60Z"',
    ),
    *('"2026-01-05T09:00:00.1234567890Z"', '"2026-01-05 09:00:00Z"', '"10000-01-01T00:00:00Z"'),
)
NUMBERS: Final = ("0", "1", "2", "3", "7", "1000", "9223372036854775807")
TEXTS: Final = (
    '"\\u0000signal:n"',
    '"n"',
    '"s1"',
    '"k-1"',
    '"k-2"',
    '"' + "k" * 256 + '"',
    '"\\"\\\\\\/\\b"',
    '"x y"',
)
STATES: Final = ('"running"', '"waiting"', '"completed"', '"cancelled"', '"done"')
COMMANDS: Final = ('{"argv":["/bin/true"],"cwd":"/"}', '{"argv":[],"cwd":"x"}', '{"argv":1}')
NAMES: Final = ('["n"]', "[]", '["n","m"]', "[1]", '[""]')


def _agent_id(chance: random.Random) -> str:
    return json.dumps(chance.choice(AGENT_IDS))


def _of(*values: str) -> Callable[[random.Random], str]:
    return lambda chance: chance.choice(values)


def _event(chance: random.Random) -> str:
    return chance.choice(EVENTS if chance.random() < 0.8 else NO_EVENTS)


def _entries(chance: random.Random) -> str:
    found = []
    for _ in range(chance.choice((0, 1, 2, 2, 3, 20))):
        members = [f'"event":{_event(chance)}']
        if chance.random() < 0.4:
            members.append(f'"iteration":{chance.choice(NUMBERS)}')
        if chance.random() < 0.4:
            members.append(f'"key":{chance.choice(TEXTS)}')
        if chance.random() < 0.2:
            members.append(f'"timestamp":{chance.choice(TIMES)}')
        if chance.random() < 0.1:
            members.append(chance.choice(members))
        chance.shuffle(members)
        found.append("{" + ",".join(members) + "}")
    return "[" + ",".join(found) + "]"


_NUMBER: Final = _of(*NUMBERS)
_TEXT: Final = _of(*TEXTS)
_TIME: Final = _of(*TIMES)
_BOOLEAN: Final = _of("true", "false")

# What each operation has, those first that it can't do without.
OPERATIONS: Final[dict[str, list[tuple[str, Callable[[random.Random], str]]]]] = {
    "append": [
        ("agent_id", _agent_id),
        ("event", _event),
        ("iteration", _NUMBER),
        ("timestamp", _TIME),
        ("key", _TEXT),
        ("expected_sequence", _NUMBER),
        ("epoch", _NUMBER),
    ],
    "read": [("agent_id", _agent_id), ("from_sequence", _NUMBER), ("limit", _NUMBER)],
    "describe": [("agent_id", _agent_id)],
    "agents": [
        ("state", _of(*STATES)),
        ("kind", _TEXT),
        ("after", _of('"a"', "0", "3", '"nobody"')),
        ("limit", _NUMBER),
        ("order", _of('"newest"', '"oldest"')),
        ("prefix", _of('"a"', '"report"', '"-"')),
    ],
    "compact": [("agent_id", _agent_id), ("force", _BOOLEAN)],
    "tail": [
        ("follow", _of("false", "false", "false", "true")),
        ("agent_id", _agent_id),
        ("from_position", _NUMBER),
        ("last", _NUMBER),
        ("before_position", _NUMBER),
    ],
    "attach": [
        ("agent_id", _agent_id),
        ("kind", _TEXT),
        ("take_over", _BOOLEAN),
        ("launcher", _TEXT),
        ("command", _of(*COMMANDS)),
    ],
    "detach": [
        ("agent_id", _agent_id),
        ("epoch", _NUMBER),
        ("wake_at", _TIME),
        ("wait_for", _of(*NAMES)),
        ("seen_sequence", _NUMBER),
    ],
    "signal": [("agent_id", _agent_id), ("name", _TEXT), ("payload", _event), ("key", _TEXT)],
    "decide": [("agent_id", _agent_id), ("step", _TEXT), ("result", _event), ("rerun", _BOOLEAN)],
    "fork": [
        ("agent_id", _agent_id),
        ("at_sequence", _NUMBER),
        ("as", lambda chance: f'"fork-{chance.randrange(50)}"'),
    ],
    "resume": [("agent_id", _agent_id), ("reason", _TEXT)],
    "park": [("agent_id", _agent_id), ("reason", _TEXT)],
    "cancel": [("agent_id", _agent_id), ("reason", _TEXT)],
    "hello": [("protocol", _of("1", "2", "null"))],
    "export": [("agent_id", _agent_id), ("from_sequence", _NUMBER), ("limit", _NUMBER)],
    "verify": [("cursor", _TEXT)],
    "backup": [("cursor", _TEXT)],
    "forget": [("agent_id", _agent_id), ("force", _BOOLEAN), ("wait", _BOOLEAN)],
    "vacuum": [
        ("ended_before", _TIME),
        ("bytes_max", _NUMBER),
        ("states", _of("[]", '["failed"]', '["running"]', '["done"]')),
        ("kind", _TEXT),
        ("dry_run", _BOOLEAN),
    ],
    "disk_usage": [],
    "ping": [],
    "stats": [],
    "close": [],
}
NEEDED: Final = {
    "append": 2,
    "detach": 2,
    "signal": 2,
    "decide": 3,
    "fork": 3,
    "agents": 0,
    "verify": 0,
}
OFTEN: Final = ("append", "append", "append", *OPERATIONS)
UNKNOWN: Final = (
    '"unknown":{"x":[1,2]}',
    '"x":1e9999',
    '"pad":"\\\\\\""',
    '"":null',
    '"x":1,"x":2',
)
SPACE: Final = (" ", "\t", "\r", "  ")


def request(chance: random.Random) -> bytes:
    """Return one request of the grammar."""
    op = chance.choice(OFTEN)
    known = OPERATIONS[op]
    needed = NEEDED.get(op, 1)
    odds = chance.choice((0.0, 0.2, 0.6))
    chosen = [member for n, member in enumerate(known) if n < needed or chance.random() < odds]
    if op == "append" and chance.random() < 0.3:
        chosen = [("agent_id", _agent_id), ("entries", _entries)]
    members = [f'"op":"{op}"']
    for name, value in chosen:
        if chance.random() < 0.98:
            members.append(f'"{name}":{value(chance)}')
    if chance.random() < 0.9:
        members.append(f'"id":{chance.choice(("1", "17", "-1", _TEXT(chance), "0"))}')
    if chance.random() < 0.1:
        members.append(f'"uid":{chance.choice(ODD)}')
    if chance.random() < 0.3:  # one of them is odd
        spoilt = chance.randrange(len(members))
        name = members[spoilt].partition(":")[0]
        members[spoilt] = f"{name}:{chance.choice(ODD)}"
    if chance.random() < 0.2:
        members.append(chance.choice(UNKNOWN))
    if chance.random() < 0.05:
        members.append(chance.choice(members))
    chance.shuffle(members)
    comma = "," if chance.random() < 0.8 else chance.choice(SPACE) + "," + chance.choice(SPACE)
    return ("{" + comma.join(members) + "}").encode()


TOKENS: Final = (
    *(odd.encode() for odd in ODD),
    *(b"{", b"}", b"[", b"]", b",", b":", b'"', b"\\", b"\r", b"\0", b"\x1f", b"\x7f", b"\xff"),
    *(b"\xc0\x80", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xef\xbb\xbf", b"\xe2\x80\xa8", b"\xc3"),
    *(b"\\u", b"\\ud800", b"\\udc00\\ud800", b"\\u0000", b"//", b"/*", b"'", b"\\x41", b"\xc3\xa9"),
    *(b'"op":"close",', b'"op":"ping",', b'"id":', b'"uid":0,', b'"entries":[', b"[" * 50),
)
BAD_WHOLES: Final = (
    *(b"", b" ", b"\r", b"null", b"17", b'"ping"', b"[]", b"{}", b"{", b"\0", b"\0too long:4"),
    *(b"\0discarded", b"\0unfinished", b'[{"op":"ping"}]', b'{"op":"ping"}{"op":"ping"}'),
    *('{"op":"ping"}'.encode(coding) for coding in ("utf-16-be", "utf-32-be", "utf-8-sig")),
)


def documented() -> list[bytes]:
    """Return every line of the document's examples."""
    talks = talks_in(DOCUMENT.read_text("utf-8"))
    return [line.text.encode() for talk in talks for line in talk]  # answers, too


class Lines:
    """Lines that follow from *seed*; none holds a newline."""

    def __init__(self, seed: str, *, pool: int = 1500) -> None:
        self.chance = random.Random(seed)  # noqa: S311 - a seed repeats it
        self._documented = documented()
        self._pool: list[bytes] = []
        self._size = pool
        self.refresh()

    def refresh(self) -> None:
        """Make new good lines to damage."""
        fresh = [request(self.chance) for _ in range(self._size)]
        self._pool = [*self._documented, *BAD_WHOLES, *fresh]

    def take(self, count: int) -> list[bytes]:
        """Return so many lines; about a third of them are undamaged."""
        chance, pool, damage = self.chance.random, self._pool, self._damage
        size = len(pool)
        found = []
        for _ in range(count):
            line = pool[int(chance() * size)]
            found.append(line if chance() < 0.35 else damage(line))
        return found

    def __iter__(self) -> Iterator[bytes]:
        while True:
            yield from self.take(self._size)
            self.refresh()

    def _damage(self, line: bytes) -> bytes:
        chance = self.chance.random
        for _ in range(1 + int(chance() * chance() * 4)):
            size = len(line)
            at = int(chance() * (size + 1))
            match int(chance() * 9):
                case 0:  # another byte
                    line = line[:at] + bytes([int(chance() * 256)]) + line[at + 1 :]
                case 1:  # a bit
                    if at < size:
                        line = (
                            line[:at] + bytes([line[at] ^ 1 << int(chance() * 8)]) + line[at + 1 :]
                        )
                case 2:  # cut out
                    line = line[:at] + line[at + 1 + int(chance() * chance() * 20) :]
                case 3:  # end early
                    line = line[:at]
                case 4:  # twice
                    line = line[:at] + line[int(chance() * at) :]
                case 5 | 6:  # what breaks parsers
                    line = line[:at] + TOKENS[int(chance() * len(TOKENS))] + line[at:]
                case 7:  # half of this and half of that
                    other = self._pool[int(chance() * len(self._pool))]
                    line = line[:at] + other[int(chance() * len(other)) :]
                case _:  # a digit, a letter
                    line = line.replace(*SWAPS[int(chance() * len(SWAPS))], 1)
        return line.replace(b"\n", b"\r")


SWAPS: Final[tuple[tuple[bytes, bytes], ...]] = (
    *((b"1", b"-1"), (b"1", b"1.0"), (b"0", b"00"), (b"a", b"A"), (b'"', b"'"), (b":", b"::")),
    *((b"true", b"1"), (b"null", b"{}"), (b"{", b"["), (b"a", b"\\u0061"), (b"e", b"\\u0065")),
    *((b"_", b"-"), (b'"agent_id"', b'"agent_id "'), (b'"id"', b'"Id"'), (b"}", b",}")),
)
