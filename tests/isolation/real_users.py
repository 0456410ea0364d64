"""Actors that are what they say: processes of other uids, at a real daemon's socket."""

from __future__ import annotations

import contextlib
import json
import os
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from agent_journal.testing.daemon import RawConnection, RunningDaemon
from isolation.actor import Actor, mark_of

UIDS = tuple(61_001 + index for index in range(8))


class Told(NamedTuple):
    """What a child was answered."""

    seen: list[str]
    order: list[int]
    leaks: list[str]


def configuration() -> str:
    """Return one that lets all in, and names launchers for all and for each."""
    launchers = [("everybodys", "*"), *((f"of-{uid}", str(uid)) for uid in UIDS)]
    sections = [
        f'[launchers.{name}]\nargv = ["/bin/true"]\nusers = ["{whose}"]\n'
        for name, whose in launchers
    ]
    return '[access]\nsocket_mode = "0666"\n[resume]\nenabled = false\n' + "".join(sections)


@contextlib.contextmanager
def open_daemon() -> Iterator[RunningDaemon]:
    """Yield a daemon that everybody can connect to; root's, so it takes root."""
    if os.geteuid() != 0:
        pytest.skip("not root: what processes of other uids are answered was not checked")
    with RunningDaemon(config=configuration()) as daemon:
        daemon.directory.chmod(0o711)
        yield daemon


def become(uid: int) -> None:
    """Be *uid*, for good."""
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)


def asked_by(uids: tuple[int, ...], socket: Path, seed: str, count: int) -> dict[int, Told]:
    """Have a process of each uid ask so many things, all at once."""
    children = {uid: _start(uid, socket, seed, count) for uid in uids}
    return {uid: _told(uid, *child) for uid, child in children.items()}


def _start(uid: int, socket: Path, seed: str, count: int) -> tuple[int, int]:
    received, sent = os.pipe()
    child = os.fork()
    if child == 0:
        said = ""
        try:
            become(uid)
            said = json.dumps(_ask(uid, socket, seed, count))
        except BaseException:  # noqa: BLE001 - the parent is to hear of it
            said = traceback.format_exc()
        with open(sent, "w") as pipe:  # noqa: PTH123 - it has no path
            pipe.write(said)
        os._exit(0)
    os.close(sent)
    return child, received


def _told(uid: int, child: int, received: int) -> Told:
    with open(received) as pipe:
        said = pipe.read()
    os.waitpid(child, 0)
    assert said.startswith("["), f"uid {uid}: {said}"
    return Told(*json.loads(said))


def _ask(uid: int, socket: Path, seed: str, count: int) -> Told:
    actor = Actor(uid, [one for one in UIDS if one != uid], seed, has_clock=False)
    marks = [mark_of(one).encode() for one in UIDS if one != uid]
    leaks = []
    own = b"process %d" % os.getpid()
    with RawConnection(socket) as connection:
        for _ in range(count):
            connection.send_line(actor.next_request())
            is_last = False
            while not is_last:
                line = connection.line()
                is_last = b'"ok":' in line[:64]
                leaks += [repr(line) for mark in marks if mark in line]
                actor.take(line.replace(own, b"process PID"))
    return Told(actor.seen, actor.order(), leaks)
