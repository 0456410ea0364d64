r"""What each command that does something prints, on terminals and into a pipe, to the letter.

As ``test_transcripts``, but the commands of a file act on one journal, one after the
other, and every medium begins with a journal of its own, in a directory that holds
the files of ``FILES_THERE``.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import sys
from pathlib import Path

import pytest

from agent_journal.cli import COMMANDS
from agent_journal.testing.daemon import RunningDaemon
from cli.test_transcripts import MEDIA, volatile
from cli.told_world import fill, shown

FOLDER = Path(__file__).parent / "transcripts" / "acting"
FILES = sorted(FOLDER.glob("*.txt"))

# Nothing is started again: it would happen at some moment or other of a transcript.
CONFIG = "[resume]\nenabled = false\n"

AGENT = """\
import agent_journal.client
with agent_journal.client.connect() as journal, journal.agent("report-43") as agent:
    agent.step("think:1", lambda: "look at the prices", effect="idempotent")
    agent.step("search:prices", lambda: {"pages": 3}, effect="idempotent")
"""
HOOK = {
    "session_id": "3f1c0a52",
    "hook_event_name": "PreToolUse",
    "tool_name": "Bash",
    "tool_input": {"command": "make test"},
    "tool_use_id": "toolu_01",
}
FILES_THERE = {
    "config.toml": '[commit]\ncheckpoint_comits = 8\n\n[retention]\ncompleted_days = "x"\n',
    "good.toml": "[commit]\ncheckpoint_commits = 8\n",
    "report.py": AGENT,
    "hook.json": json.dumps(HOOK),
    "events.ndjson": '{"Noted":{"n":1}}\n{"Noted":{"n":2}}\nnot JSON\n',
}


def told(command: str, daemon: RunningDaemon, directory: Path, columns: int | None) -> str:
    """Run *command* in *directory* and return it with what it prints."""
    environ = {
        **({"NO_COLOR": "1"} if columns == 200 else {}),
        "AGENT_JOURNAL_SOCKET": str(daemon.socket),
        "HOME": str(directory),
        "XDG_RUNTIME_DIR": str(directory),
        "PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin",
    }
    argv = ["--wait", "0", *shlex.split(command)]
    text, code = shown(argv, columns=columns, environ=environ, directory=directory)
    text = volatile(text, daemon).replace(str(directory), "HERE").replace(sys.prefix, "VENV")
    text = re.sub(r"(?<![\d.])\d[\d,.]* (bytes|[KMG]i?B)\b", "SIZE", text)
    text = re.sub(r'("\w*bytes\w*":)\d+', r"\1SIZE", text)
    text = re.sub(r'("(?:pages|milliseconds|seconds)":)[\d.]+', r"\1N", text)
    text = re.sub(r"(?<!\d)20\d\d-\d\d-\d\d[T ][\d:.]+Z?", "MOMENT", text)
    text = re.sub(r'"(\w*[sS]panId|traceId)":"[0-9a-f]+"', r'"\1":"ID"', text)
    text = re.sub(r'(agent_journal.uid","value":\{"intValue":)"\d+"', r'\1"UID"', text)
    text = text.replace(os.uname().nodename, "HOST")
    end = f"[exit {code}]\n" if code else ""
    return f"$ agent-journal {command}\n{text}{end}"


@pytest.mark.parametrize("file", FILES, ids=[file.stem for file in FILES])
def test_commands_do_and_print_what_their_transcripts_say(file: Path, tmp_path: Path) -> None:
    before = file.read_text("utf-8")
    parts = re.split(r"^=== .*\n", before, flags=re.MULTILINE)
    commands = re.findall(r"^\$ agent-journal (.*)$", parts[1], re.MULTILINE)
    now = []
    for number, (medium, (columns, _)) in enumerate(MEDIA.items()):
        directory = tmp_path / str(number)
        directory.mkdir()
        for name, text in FILES_THERE.items():
            (directory / name).write_text(text)
        with RunningDaemon(config=CONFIG) as daemon:
            fill(daemon)
            lines = [told(command, daemon, directory, columns) for command in commands]
        now.append(f"=== {medium}\n" + "\n".join(lines))
    if os.environ.get("RENEW_TRANSCRIPTS"):
        file.write_text("\n".join(now), "utf-8")
    else:
        assert "\n".join(now) == before, "it prints something else: make transcripts"


def test_each_command_has_a_transcript() -> None:
    # Of what tells of the host, only its errors: all else is another on the next host.
    everything = [*FILES, *FOLDER.parent.glob("*.txt")]
    written = "\n".join(file.read_text("utf-8") for file in everything)
    for name in COMMANDS:
        assert re.search(rf"^\$ agent-journal {name}\b", written, re.MULTILINE), name
