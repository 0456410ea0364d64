"""Makes requests of every kind out of a seed, and sends them from threads.

All of a load is made before it is sent, so the same seed makes the same
requests, and nothing but the network and a clock stands between a reply and
the ledger while the daemon is killed.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random

from agent_journal.testing.daemon import RawConnection
from crash.checker import Checker
from crash.ledger import Attempt, Item, Name, Talk

# What JSON text must come back byte for byte.
_ODD_VALUES = (
    "1.0",
    "-0.0",
    "1E+2",
    "1234567890123456789012345678901234567890",
    '"\\u00e9\\ud83d\\ude00"',
    '"é😀 \\\\ \\" \\u0000"',
    '{"b":1,"a":{"b":[null,true,false]}}',
    "[[[[[[]]]]]]",
)
_LARGE_BYTES = 100_000

ANSWERED = "all was answered"


class Scripts:
    """Writes what the connections of one cycle shall send."""

    def __init__(self, random: Random, cycle: str, uid: int, checker: Checker) -> None:
        self._random = random
        self._cycle = cycle
        self._uid = uid
        self._checker = checker
        self._made = 0

    def talks(self, requests: int) -> list[Talk]:
        """Return a conversation of each kind, of about *requests* requests each.

        Each stays in one namespace: uids take turns in the batches, so there is
        no order between what one connection, an administrator's, asks of two.
        """
        kinds: list[tuple[str, int, Callable[[str, int, int], list[Attempt]]]] = [
            ("singles", self._uid, self._singles),
            ("groups", self._uid, self._groups),
            ("keys", self._uid, self._keys),
            ("expecting", self._uid, self._expecting),
            ("lives", self._uid, self._lives),
            ("elsewhere", self._uid + 100_001, self._singles),
        ]
        return [
            Talk.of(f"{self._cycle}/{name}", write(name, uid, requests))
            for name, uid, write in kinds
        ]

    def _item(self, *, key: str | None = None, ends: str | None = None) -> Item:
        random = self._random
        self._made += 1
        token = f"{self._cycle}.{self._made}"
        if ends is not None:
            reason = "Completed" if ends == "completed" else "Crashed"
            event = f'{{"Terminated":{{"reason":"{reason}","n":"{token}"}}}}'
        else:
            value = random.choice(_ODD_VALUES)
            pad = "x" * (_LARGE_BYTES if random.random() < 0.001 else random.randrange(400))
            event = f'{{"Noted":{{"n":"{token}","value":{value},"pad":"{pad}"}}}}'
        timestamp = None
        if random.random() < 0.1:
            timestamp = f"20{random.randrange(10, 99)}-02-03T04:05:06.{random.randrange(10**6):06}Z"
        return Item(
            event=event.encode(),
            iteration=random.choice((0, 1, self._made, 2**32 - 1)),
            key=key,
            timestamp=timestamp,
            ends=ends,
        )

    def _fresh_key(self, name: str) -> str:
        # Rising keys are new without a look-up, others have to be looked for.
        if self._random.random() < 0.5:
            return f"{name}-{self._cycle}-{self._made:08}"
        return f"{self._random.getrandbits(64):016x}-{self._made}-é"

    def _name(self, kind: str, uid: int, count: int) -> Name:
        return uid, f"{kind}-{self._random.randrange(count)}"

    def _singles(self, kind: str, uid: int, requests: int) -> list[Attempt]:
        """Append to agents of its own, to new ones, and to some that others write, too."""
        made = []
        for _ in range(requests):
            which = self._random.random()
            if which < 0.2:
                name = uid, f"shared-{self._random.randrange(3)}"
            elif which < 0.25:
                name = uid, f"{kind}-{self._cycle}-{self._random.randrange(50)}"
            else:
                name = self._name(kind, uid, 5)
            made.append(Attempt(agent=name, items=(self._item(),)))
        return made

    def _groups(self, kind: str, uid: int, requests: int) -> list[Attempt]:
        """Append several entries at once, which are recorded all or none."""
        made = []
        for _ in range(requests // 3 + 1):
            is_shared = self._random.random() < 0.3
            name = (uid, "shared-0") if is_shared else self._name(kind, uid, 4)
            has_keys = self._random.random() < 0.3
            count = self._random.choice((1, 2, 3, 20))
            items = [
                self._item(key=self._fresh_key(kind) if has_keys else None) for _ in range(count)
            ]
            made.append(Attempt(agent=name, items=tuple(items)))
        return made

    def _keys(self, kind: str, uid: int, requests: int) -> list[Attempt]:
        """Append with keys, some of them twice, and some for something else."""
        made: list[Attempt] = []
        for _ in range(requests):
            which = self._random.random()
            if made and which < 0.15:
                made.append(self._random.choice(made))
            elif made and which < 0.2:
                old = self._random.choice(made)
                item = self._item(key=old.items[0].key)
                made.append(Attempt(agent=old.agent, items=(item,)))
            else:
                item = self._item(key=self._fresh_key(kind))
                made.append(Attempt(agent=self._name(kind, uid, 4), items=(item,)))
        return made

    def _expecting(self, kind: str, uid: int, requests: int) -> list[Attempt]:
        """Append with the sequence expected, which is wrong now and then."""
        names = [(uid, f"{kind}-{index}") for index in range(2)]
        sequences = {name: self._checker.next_sequence(name) for name in names}
        made = []
        for _ in range(requests):
            name = self._random.choice(names)
            wrong = 7 if self._random.random() < 0.1 else 0
            made.append(
                Attempt(
                    agent=name,
                    items=(self._item(),),
                    expected_sequence=sequences[name] + wrong,
                )
            )
            if not wrong:
                sequences[name] += 1
        return made

    def _lives(self, kind: str, uid: int, requests: int) -> list[Attempt]:
        """End agents, write to them all the same, compact them, and begin again."""
        made = []
        for _ in range(requests):
            name = self._name(kind, uid, 6)
            which = self._random.random()
            if which < 0.05:
                ends = self._random.choice(("completed", "failed"))
                made.append(Attempt(agent=name, items=(self._item(ends=ends),)))
            elif which < 0.1:
                made.append(Attempt(agent=name, force=self._random.random() < 0.5))
            elif which < 0.2:
                items = (self._item(), self._item(key=self._fresh_key(kind)))
                made.append(Attempt(agent=name, items=items))
            else:
                made.append(Attempt(agent=name, items=(self._item(),)))
        return made


class Writer(threading.Thread):
    """Holds one conversation: so many requests at once, never more than a window in flight."""

    def __init__(self, talk: Talk, socket: Path, random: Random) -> None:
        super().__init__(daemon=True)
        self.talk = talk
        self._random = random
        self._window = random.choice((1, 1, 8, 64, 256))
        self._connection = RawConnection(socket)

    def run(self) -> None:
        """Send until all is answered, or the daemon is gone."""
        try:
            self._talk()
            self.talk.ended_by = ANSWERED
        except (OSError, EOFError) as error:
            self.talk.ended_by = repr(error)
        finally:
            self._connection.close()

    def _talk(self) -> None:
        talk, socket = self.talk, self._connection.socket
        answered = 0
        while answered < len(talk.lines):
            room = self._window - (talk.sent - answered)
            if room > 0 and talk.sent < len(talk.lines):
                start = talk.sent
                # Noted before it is sent: from here on it may be recorded.
                talk.sent = min(start + self._random.randint(1, room), len(talk.lines))
                socket.sendall(b"".join(talk.lines[start : talk.sent]))
                if self._random.random() < 0.5:
                    continue
            data = socket.recv(1 << 16)
            if not data:
                raise EOFError("the daemon closed")
            talk.received += data
            answered += data.count(b"\n")


def converse(talk: Talk, socket: Path) -> None:
    """Hold one conversation, to its end or the daemon's."""
    writer = Writer(talk, socket, Random(talk.name))  # noqa: S311 - repeatable, not secret
    writer.start()
    writer.join()


def retries(talks: Sequence[Talk], name: str, random: Random) -> Talk:
    """Return what a careful client sends after a crash: all that it has keys for, again.

    What is in doubt, and some of what was answered, in the order in which it was sent.
    """
    again: list[Attempt] = []
    for talk in talks:
        answered = len(talk.replies())
        for index, attempt in enumerate(talk.attempts[: talk.sent]):
            is_wanted = index >= answered or random.random() < 0.02
            if is_wanted and attempt.items and all(item.key for item in attempt.items):
                again.append(attempt)
    return Talk.of(name, again)
