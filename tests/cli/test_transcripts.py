r"""What each command that only looks prints, on terminals and into a pipe, to the letter.

A file of ``transcripts/`` names commands and holds what they print of the journal
that ``told_world`` makes.  To add one, write its line ``$ agent-journal …`` into a
file; to renew them all, ``make transcripts``, and then read what ``git diff`` shows
as a user would.  An escape sequence is written ``␛[1m``.  What differs from run to
run (a socket, a time that was taken) stands as its name in capitals.
"""

from __future__ import annotations

import os
import re
import shlex
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from agent_journal.testing.daemon import RunningDaemon
from cli.told_world import fill, shown
from waiting import until

FOLDER = Path(__file__).parent / "transcripts"
FILES = sorted(FOLDER.glob("*.txt"))
MEDIA = {
    "a terminal of 80 columns, in colour": (80, {}),
    "a terminal of 200 columns, NO_COLOR": (200, {"NO_COLOR": "1"}),
    "a pipe": (None, {}),
}
OTHERS = {"NO_COLOR": (80, {"NO_COLOR": "1"})}


@dataclass(frozen=True)
class Section:
    """What some commands print on one medium."""

    medium: str
    told: str

    @property
    def commands(self) -> list[str]:
        return re.findall(r"^\$ agent-journal (.*)$", self.told, re.MULTILINE)


def sections(text: str) -> list[Section]:
    parts = re.split(r"^=== (.*)\n", text, flags=re.MULTILINE)
    return [Section(*pair) for pair in zip(parts[1::2], parts[2::2], strict=True)]


@pytest.fixture(scope="module")
def daemon() -> Iterator[RunningDaemon]:
    with RunningDaemon() as running:
        fill(running)
        until(lambda: running.request({"op": "stats"})["agents"] is not None)
        yield running


def volatile(text: str, daemon: RunningDaemon) -> str:
    """Put names in the place of what is another at each run."""
    text = text.replace(sys.prefix, "VENV")
    text = text.replace(str(daemon.socket), "SOCKET")
    text = re.sub(rf'(uid(?:\x1b\[[0-9;]*m|[\s":])+){os.getuid()}\b', r"\1UID", text)
    text = re.sub(r"answered in \d+\.\d+ ms", "answered in TIME ms", text)
    text = re.sub(r'"round_trip_ms":[\d.]+', '"round_trip_ms":TIME', text)
    return text.replace("\x1b", "␛")


def told(command: str, medium: str, daemon: RunningDaemon) -> str:
    """Run *command* on *medium* and return it with what it prints."""
    columns, environ = {**MEDIA, **OTHERS}[medium]
    argv = ["--wait", "0", *shlex.split(command)]
    environ = {"AGENT_JOURNAL_SOCKET": str(daemon.socket), **environ}
    text, code = shown(argv, columns=columns, environ=environ)
    if command == "metrics":  # a bucket of each histogram is enough
        text = re.sub(r"(?m)^(\w+?(?:\{.*\})?) [0-9.e+-]+$", r"\1 VALUE", text)
        text = re.sub(r"(?m)^(\w+)_bucket\{.*\n(?:\1_bucket.*\n)*", r"\1_bucket…\n", text)
        text = re.sub(r'uid="\d+"', 'uid="UID"', text)
        text = re.sub(r'version="[^"]*"', 'version="VERSION"', text)
    if command == "stats":  # each value is another, and so are the widths
        text = re.sub(r"(?m)^([a-z]\S+) .*", r"\1  VALUE", text)
        text = re.sub(r"(?m)^uids\.\d+", "uids.UID", text)
        text = re.sub(r"(?m)^(\S*NAME\S*) +(\S+)$", r"\1  \2", text)
    end = f"[exit {code}]\n" if code else ""
    return f"$ agent-journal {command}\n{volatile(text, daemon)}{end}"


@pytest.mark.parametrize("file", FILES, ids=[file.stem for file in FILES])
def test_commands_print_what_their_transcripts_say(file: Path, daemon: RunningDaemon) -> None:
    before = file.read_text("utf-8")
    commands = re.findall(r"^\$ agent-journal (.*)$", before, re.MULTILINE)
    commands = list(dict.fromkeys(commands))
    assert commands
    now = "\n".join(
        f"=== {medium}\n" + "\n".join(told(command, medium, daemon) for command in commands)
        for medium in MEDIA
    )
    if os.environ.get("RENEW_TRANSCRIPTS"):
        file.write_text(now, "utf-8")
    else:
        assert now == before, "it prints something else: make transcripts, and read git diff"


@pytest.mark.parametrize("file", FILES, ids=[file.stem for file in FILES])
def test_colours_are_all_that_no_color_takes_away(file: Path, daemon: RunningDaemon) -> None:
    [coloured, *_] = sections(file.read_text("utf-8"))
    plain = "\n".join(told(command, "NO_COLOR", daemon) for command in coloured.commands)
    assert plain.rstrip("\n") == re.sub(r"␛\[[0-9;]*m", "", coloured.told).rstrip("\n")


def test_no_control_character_of_the_journal_is_in_a_transcript() -> None:
    r"""Invariant: nothing that came out of the journal reaches the screen as a control character.

    A story of the journal has some in it.
    """
    for file in FOLDER.rglob("*.txt"):
        text = file.read_text("utf-8")
        assert not re.findall("[\x00-\x09\x0b-\x1f\x7f-\x9f]", text), file
        assert not re.findall("␛(?!\\[[0-9;]*m)", text), file
