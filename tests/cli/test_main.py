"""What all commands have in common: options, help, exit codes, ways to end."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from agent_journal import __version__
from agent_journal.cli import COMMANDS
from agent_journal.cli.unknown_commands import DESTRUCTIVE, ELSEWHERE
from agent_journal.client._discovery import _candidates
from cli.fake_daemon import FakeDaemon, Run, agent, entry

CLI = [sys.executable, "-c", "from agent_journal.cli import program; program()"]


def test_version(run: Run) -> None:
    assert run("--version").out == f"agent-journal {__version__}\n"


def test_help_names_every_command_and_ends_with_exit_codes(run: Run) -> None:
    result = run("--help")
    assert result.code == 0
    for name, summary in COMMANDS.items():
        assert f"    {name}" in result.out
        assert summary.split()[0] in result.out
    assert "examples:" in result.out
    assert result.lines[-1].startswith("  6 the journal is damaged")


@pytest.mark.parametrize("environ", [{"XDG_RUNTIME_DIR": "$XDG_RUNTIME_DIR"}, {}], ids=str)
def test_help_names_every_place_of_the_socket(run: Run, environ: dict[str, str]) -> None:
    text = run("--help").out
    places = _candidates(environ, 54321)
    assert len(places) == 2
    for place in places:
        assert place.replace("54321", "UID") in text


@pytest.mark.parametrize("name", list(COMMANDS))
def test_help_of_each_command_ends_with_examples(run: Run, name: str) -> None:
    result = run(name, "-h")
    assert result.code == 0
    assert result.err == ""
    before, examples = result.out.split("examples:\n")
    assert "--socket PATH" in before
    assert f"agent-journal {name}" in examples


def test_without_a_command_the_help_is_an_error(run: Run) -> None:
    result = run()
    assert result.code == 2
    assert result.out == ""
    assert "usage: agent-journal" in result.err


@pytest.mark.parametrize(
    ("argv", "hint"),
    [
        (["raed", "x"], "agent-journal read"),
        (["--wait", "5", "-s", "describe", "agent"], "agent-journal agents"),
        (["frobnicate"], "agent-journal --help"),
    ],
    ids=str,
)
def test_an_unknown_command_names_the_nearest(run: Run, argv: list[str], hint: str) -> None:
    result = run(*argv)
    assert result.code == 2
    assert "there is no command" in result.what
    assert result.hint == hint


@pytest.mark.parametrize(
    ("word", "hint"),
    [
        ("retry", "agent-journal resume"),
        ("restart", "agent-journal resume"),
        ("version", "agent-journal --version"),
        ("rm", "agent-journal forget"),
        ("kill", "agent-journal cancel"),
        ("ps", "agent-journal ls"),
        ("logs", "agent-journal log"),
        ("stop", "agent-journal cancel ends an agent for good, agent-journal park until it is"),
        ("start", "agent-journal resume starts an agent again, agent-journal run begins one"),
    ],
)
def test_what_other_tools_call_a_command_is_known(run: Run, word: str, hint: str) -> None:
    assert run(word).hint.startswith(hint)


@pytest.mark.parametrize("command", sorted(DESTRUCTIVE))
def test_what_destroys_is_never_suggested_for_being_near(run: Run, command: str) -> None:
    """A suggestion is typed without a thought: its help is, at the most."""
    words = {command[:at] + command[at + 1 :] for at in range(len(command))}
    words |= {command[:at] + letter + command[at:] for at in range(len(command)) for letter in "ex"}
    for word in words - COMMANDS.keys():
        hint = run(word).hint
        assert hint.split()[1] not in DESTRUCTIVE or hint == f"agent-journal {command} --help", word


def test_what_is_known_of_other_tools_is_a_command_here() -> None:
    for word, told in ELSEWHERE.items():
        assert word not in COMMANDS
        commands = re.findall(r"agent-journal (\S+)", told) or [told]
        assert set(commands) <= {*COMMANDS, "--version"}, word


@pytest.mark.parametrize(
    "argv",
    [
        ["read"],
        ["read", "a", "--from", "-1"],
        ["read", "a", "--limit", "many"],
        ["read", "a", "--zebra", "3"],
        ["agents", "--state"],
        ["tail", "-n", "1", "--from-position", "1"],
        ["describe", "a", "--uid", "*"],
        ["append", "a", "{}", "--iteration", "4294967296"],
        ["--wait", "-1", "ping"],
        ["ping", "again"],
    ],
    ids=str,
)
def test_a_wrong_command_line_says_what_and_where_to_look(run: Run, argv: list[str]) -> None:
    result = run(*argv)
    assert result.code == 2
    assert result.out == ""
    assert result.what
    assert result.hint.endswith("--help")


@pytest.mark.parametrize(
    ("argv", "hint"),
    [
        (["ls", "--stat", "parked"], "ls --state"),
        (["ls", "--stat=parked"], "ls --state"),
        (["read", "a", "--lim", "3"], "read --limit"),
        (["read", "a", "--jsn"], "read --json"),
        (["forget", "a", "--yess"], "forget --help"),
        (["compact", "a", "--forc"], "compact --help"),
    ],
    ids=str,
)
def test_an_unknown_option_names_the_nearest(run: Run, argv: list[str], hint: str) -> None:
    """Not one that leaves out a question: a suggestion is typed without a thought."""
    result = run(*argv)
    assert (result.code, result.out) == (2, "")
    assert result.what.startswith("unrecognized arguments: --")
    assert result.hint == f"agent-journal {hint}"


def test_the_socket_may_stand_before_and_behind_the_command(fake: FakeDaemon, run: Run) -> None:
    fake.on("stats", {"entries": 1})
    assert run("-s", str(fake.path), "stats", "--json").code == 0
    assert run("--json", "stats", "--socket", str(fake.path)).out == '{"entries":1}\n'


def test_the_socket_comes_from_the_environment(
    fake: FakeDaemon, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake.on("stats", {"entries": 1})
    monkeypatch.setenv("AGENT_JOURNAL_SOCKET", str(fake.path))
    assert run("stats").code == 0
    assert run("stats", "-s", "/nowhere/journal.sock").code == 3


def test_only_the_command_that_was_typed_is_imported(fake: FakeDaemon) -> None:
    """The start is paid by every line of a shell loop."""
    fake.on("ping", {})
    program = (
        "import sys\n"
        "from agent_journal.cli import main\n"
        f"main(['ping', '-s', {str(fake.path)!r}])\n"
        "print(*sys.modules, file=sys.stderr)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    loaded = set(done.stderr.split())
    ours = {name for name in loaded if name.startswith("agent_journal.cli.")}
    assert "agent_journal.cli.ping" in ours
    assert not ours & {f"agent_journal.cli.{name}" for name in COMMANDS if name != "ping"}
    heavy = {"asyncio", "structlog", "msgspec", "uvloop", "subprocess", "tempfile", "shutil"}
    assert not loaded & heavy


def test_what_is_typed_most_imports_nothing_slow(fake: FakeDaemon) -> None:
    """Each of these takes some milliseconds of the hundred that a first screen may."""
    slow = {"asyncio", "dataclasses", "inspect", "msgspec", "pathlib", "subprocess", "tempfile"}
    fake.on("agents", {"agents": [agent("a")], "more": False})
    fake.on("describe", {"agent": agent("a")})
    fake.on("read", {"entries": [entry(0, {"Noted": 1})], "next_sequence": 1, "more": False})
    fake.on("tail", [{"entry": entry(0, {"Noted": 1})}, {"position": 11}])
    fake.on("append", {"sequence": 0, "position": 0, "count": 1})
    commands = [["ls"], ["show", "a"], ["log", "a"], ["read", "a"], ["append", "a", '{"Noted":1}']]
    program = (
        "import sys\n"
        "from agent_journal.cli import main\n"
        f"for words in {commands!r}:\n"
        f"    assert main([*words, '-s', {str(fake.path)!r}]) == 0, words\n"
        f"    print(*({slow!r} & {{*sys.modules}}), file=sys.stderr)\n"
    )
    # -S: the interpreter's own start imports some of these for editable installs.
    done = subprocess.run(
        [sys.executable, "-S", "-c", program],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.split() == []


@pytest.mark.parametrize(
    ("closed", "words", "code"),
    [
        (">&-", ["--version"], 0),
        ("2>&-", ["--version"], 0),
        (">&- 2>&-", ["nope"], 2),
        ("<&-", ["--help"], 0),
        ("<&- >&- 2>&-", ["ls", "-s", "/nowhere/journal.sock"], 3),
    ],
)
def test_a_closed_stream_is_no_traceback(closed: str, words: list[str], code: int) -> None:
    done = subprocess.run(
        ["sh", "-c", f'exec "$@" {closed}', "sh", *CLI, *words],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr


def test_a_reader_that_goes_away_is_no_error(fake: FakeDaemon) -> None:
    many = [entry(n, {"Noted": {"text": "x" * 200}}) for n in range(1000)]
    fake.on("read", {"entries": many, "next_sequence": 1000, "more": False})
    command = subprocess.Popen(
        [*CLI, "read", "a", "-s", str(fake.path)], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert command.stdout is not None
    assert command.stderr is not None
    command.stdout.readline()
    command.stdout.close()
    assert command.stderr.read() == b""
    assert command.wait() == 128 + signal.SIGPIPE
    command.stderr.close()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full: full disk not checked")
@pytest.mark.parametrize("unbuffered", [{}, {"PYTHONUNBUFFERED": "1"}], ids=str)
@pytest.mark.parametrize(
    "words",
    [["stats"], ["read", "a"], ["--help"], ["ls", "--help"], ["help", "protocol"]],
    ids=str,
)
def test_output_that_cannot_be_written_is_an_error(
    fake: FakeDaemon, words: list[str], unbuffered: dict[str, str]
) -> None:
    many = [entry(n, {"Noted": {"text": "x" * 200}}) for n in range(100)]
    fake.on("stats", {"entries": 1})
    fake.on("describe", {"agent": agent("a", entries=100, next_sequence=100)})
    fake.on("agents", {"agents": [], "more": False})
    fake.on("read", {"entries": many, "next_sequence": 100, "more": False})
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [*CLI, "-s", str(fake.path), *words],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
            env={**os.environ, **unbuffered},
        )
    assert done.returncode == 1
    what, hint = done.stderr.splitlines()
    assert what == "agent-journal: standard output could not be written: No space left on device"
    assert hint == "try: another place for it, or room there (df -h)"


def test_ctrl_c_ends_quietly(fake: FakeDaemon) -> None:
    def stream(_request: object) -> list[dict[str, object]]:
        return [{"entry": entry(0, {"Started": {}})}]

    fake.on("tail", stream)
    command = subprocess.Popen(
        [*CLI, "tail", "--json", "-s", str(fake.path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert command.stdout is not None
    assert command.stdout.readline()
    command.send_signal(signal.SIGINT)
    out, err = command.communicate()
    assert (out, err) == (b"", b"")
    assert command.returncode == 130


def test_a_locale_without_unicode_is_no_traceback(fake: FakeDaemon) -> None:
    event = {"Noted": {"text": "Grüße, 世界"}}
    fake.on("read", {"entries": [entry(0, event)], "next_sequence": 1, "more": False})
    for options in ([], ["--json"]):
        done = subprocess.run(
            [*CLI, "read", "a", "-s", str(fake.path), *options],
            env={**os.environ, "PYTHONIOENCODING": "ascii"},
            capture_output=True,
            check=True,
        )
        assert rb"\u4e16" in done.stdout


def test_a_help_imports_nothing_that_only_the_command_needs() -> None:
    """It is looked at often, and by somebody who waits."""
    own = ("doctor", "config", "bench", "install", "uninstall", "completion", "help", "man")
    program = (
        "import sys\n"
        "from agent_journal.cli import main\n"
        f"for words in [[], *[[one] for one in {own!r}]]:\n"
        "    main([*words, '--help'])\n"
        "    if not words: first = {*sys.modules}\n"
        "print(*first, file=sys.stderr)\n"
        "print(*sys.modules, file=sys.stderr)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    first, everything = (set(line.split()) for line in done.stderr.splitlines())
    assert not first & {"dataclasses", "inspect", "json", "datetime", "difflib", "shlex"}
    heavy = {
        "asyncio",
        "subprocess",
        "tempfile",
        "shutil",
        "sqlite3",
        "ctypes",
        "hashlib",
        "socket",
    }
    assert not everything & {*heavy, "msgspec", "structlog", "uvloop", "tomllib"}
