"""``export`` and ``import`` against real daemons: what is moved is moved whole, and once."""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from agent_journal.cli.export_file import PAGE_ENTRIES
from agent_journal.testing.daemon import RunningDaemon
from cli.fake_daemon import Result, Run

CLI = [sys.executable, "-c", "from agent_journal.cli import program; program()"]

Ask = Callable[..., Result]


@pytest.fixture
def daemon() -> Iterator[RunningDaemon]:
    with RunningDaemon() as running:
        yield running


@pytest.fixture
def other() -> Iterator[RunningDaemon]:
    with RunningDaemon() as running:
        yield running


@pytest.fixture
def ask(daemon: RunningDaemon, run: Run) -> Ask:
    return lambda *argv, **given: run("-s", str(daemon.socket), *argv, **given)


@pytest.fixture
def ask_other(other: RunningDaemon, run: Run) -> Ask:
    return lambda *argv, **given: run("-s", str(other.socket), *argv, **given)


def request(daemon: RunningDaemon, **fields: Any) -> dict[str, Any]:
    reply = daemon.request(fields)
    assert reply["ok"], reply
    return reply


def fill(daemon: RunningDaemon) -> None:
    """Record agents in every state that an export can show, with all that is kept of them."""
    odd = r'{"Noted":[1.10,1e400,"\u00e9é\u0000",123456789012345678901234567890, {"a" :[]}]}'
    for number in range(3):
        daemon.request(
            f'{{"op":"append","agent_id":"plain","event":{odd},"key":"k{number}",'
            f'"iteration":{number},"timestamp":"2026-01-0{number + 1}T01:00:00.000001+01:00"}}'
        )
    lines = [
        {"op": "append", "agent_id": "long", "event": {"Noted": "x" * (n % 600)}, "key": f"{n:05}"}
        for n in range(3 * PAGE_ENTRIES)
    ]
    lines += [{"op": "append", "agent_id": f"mixed-{n % 3}", "event": {"N": n}} for n in range(90)]
    assert all(reply["ok"] for reply in daemon.exchange(lines))
    end = {"Terminated": {"reason": "Completed"}}
    request(daemon, op="append", agent_id="long", event=end, key="end")
    request(daemon, op="append", agent_id="failed", event={"Terminated": {"reason": "Error"}})
    epoch = request(daemon, op="attach", agent_id="waiting", kind="report")["epoch"]
    request(daemon, op="append", agent_id="waiting", event={"Started": 1}, epoch=epoch)
    wake_at = "2199-01-01T00:00:00Z"
    wait = {"wake_at": wake_at, "wait_for": ["approval"]}
    request(daemon, op="detach", agent_id="waiting", epoch=epoch, **wait)
    request(daemon, op="signal", agent_id="waiting", name="other", payload={"x": 1.50}, key="m-1")
    request(daemon, op="fork", agent_id="waiting", at_sequence=2, **{"as": "forked"})
    request(daemon, op="attach", agent_id="held")
    request(daemon, op="attach", agent_id="parked")
    request(daemon, op="park", agent_id="parked", reason="the figures are wrong")
    request(daemon, op="append", agent_id="cancelled", event={"X": None})
    request(daemon, op="cancel", agent_id="cancelled", reason="not needed")
    request(daemon, op="append", agent_id="again", event=end)
    request(daemon, op="compact", agent_id="again")
    request(daemon, op="append", agent_id="again", event={"Started": "anew"})
    request(daemon, op="append", agent_id="emptied", event=end)
    request(daemon, op="compact", agent_id="emptied")


def described(ask: Ask) -> dict[str, dict[str, Any]]:
    """Return what is shown of each agent, but for what belongs to its host."""
    agents = {agent["agent_id"]: agent for agent in ask("agents", "--json").objects}
    for agent in agents.values():
        del agent["first_position"]
        agent.pop("owner", None)
    return agents


def test_what_was_imported_is_exported_byte_for_byte(
    daemon: RunningDaemon, other: RunningDaemon, ask: Ask, ask_other: Ask, tmp_path: Path
) -> None:
    fill(daemon)
    first, second, third = (tmp_path / name for name in ("1.ndjson", "2.ndjson", "3.ndjson"))
    result = ask("export", "--all", "-o", str(first))
    assert result.out == f"12 agents with 1,644 entries exported to {first}\n"
    assert first.stat().st_mode & 0o777 == 0o600
    imported = ask_other("import", str(first))
    assert imported.out == "1,644 entries of 12 agents: 1,644 recorded\n"
    ask_other("export", "--all", "-o", str(second))
    assert second.read_bytes() == first.read_bytes()
    other.kill()
    other.start()  # and it is as durable as what was appended
    ask_other("export", "--all", "-o", str(third))
    assert third.read_bytes() == first.read_bytes()
    was, now = described(ask), described(ask_other)
    assert was.pop("emptied")["entries"] == 0
    assert was["held"]["state"] == "running"
    for changed in ("held", "parked"):
        was.pop(changed), now.pop(changed)
    assert now == was


def test_the_lines_of_an_export(daemon: RunningDaemon, ask: Ask) -> None:
    """Each line is of use by itself; the last one tells whether all are there."""
    request(daemon, op="append", agent_id="a", event={"X": 1}, key="k")
    request(daemon, op="append", agent_id="b", event={"Y": 2})
    out = ask("export", "b", "a").out
    lines = out.splitlines(keepends=True)
    objects = [json.loads(line) for line in lines]
    assert objects[0] == {"export": {"format": 1}}
    assert [one["agent"]["agent_id"] for one in objects if "agent" in one] == ["b", "a"]
    assert objects[4].pop("timestamp")
    assert objects[4] == {
        "sequence": 0, "agent_id": "a", "iteration": 0, "event": {"X": 1}, "key": "k",
    }  # fmt: skip
    digest = hashlib.sha256("".join(lines[:-1]).encode()).hexdigest()
    assert objects[-1] == {"end": {"agents": 2, "entries": 2, "sha256": digest}}


def test_importing_twice_records_nothing_twice(
    daemon: RunningDaemon, ask: Ask, ask_other: Ask, tmp_path: Path
) -> None:
    fill(daemon)
    file = tmp_path / "all.ndjson"
    ask("export", "--all", "-o", str(file))
    ask_other("import", str(file))
    again = ask_other("import", "-", stdin=file.read_bytes())
    assert again.out == "1,644 entries of 12 agents: 0 recorded, 1,644 were here already\n"
    assert ask_other("export", "--all").out.encode() == file.read_bytes()
    # Into the journal that it came from, too, though an agent goes on there meanwhile.
    request(daemon, op="append", agent_id="plain", event={"More": 1})
    assert ask("import", str(file), "--json").objects[0]["recorded"] == 0


def test_an_import_that_was_killed_goes_on(
    daemon: RunningDaemon, other: RunningDaemon, ask: Ask, ask_other: Ask, tmp_path: Path
) -> None:
    """Neither end needs to know how far it got; meanwhile the agent is nobody else's."""
    fill(daemon)
    file = tmp_path / "long.ndjson"
    ask("export", "long", "-o", str(file))
    lines = file.read_bytes().splitlines(keepends=True)
    agent = json.loads(lines[1])["agent"]
    page = [json.loads(line) for line in lines[2:702]]
    request(other, op="import", agent=agent, entries=page)
    other.kill()
    other.start()
    shown = request(other, op="describe", agent_id="long")["agent"]
    assert (shown["state"], shown["entries"]) == ("parked", 700)
    assert "import" in shown["reason"]
    refused = other.request({"op": "append", "agent_id": "long", "event": {"X": 1}})
    assert refused["error"]["code"] == "parked"
    result = ask_other("import", str(file), "--json").objects[0]
    assert (result["present"], result["recorded"]) == (700, 3 * PAGE_ENTRIES + 1 - 700)
    assert ask_other("export", "long").out.encode() == file.read_bytes()


def test_a_killed_command_and_a_killed_daemon_lose_nothing(
    daemon: RunningDaemon, other: RunningDaemon, ask: Ask, ask_other: Ask, tmp_path: Path
) -> None:
    lines = [
        {"op": "append", "agent_id": f"a{n % 40}", "event": {"Noted": [n, "x" * 300]}}
        for n in range(8000)
    ]
    assert all(reply["ok"] for reply in daemon.exchange(lines))
    file = tmp_path / "all.ndjson"
    ask("export", "--all", "-o", str(file))
    for number in range(4):
        command = subprocess.Popen(
            [*CLI, "import", str(file), "-s", str(other.socket)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        wanted = 2 + number * 8
        while len(ask_other("agents", "--json").lines) < wanted and command.poll() is None:
            pass
        if number % 2:
            command.kill()
        else:
            other.kill()
            other.start()
        command.communicate()
    assert ask_other("import", str(file)).code == 0
    assert ask_other("export", "--all").out.encode() == file.read_bytes()


def test_another_agent_of_the_name_is_left_alone(
    daemon: RunningDaemon, other: RunningDaemon, ask: Ask, ask_other: Ask, tmp_path: Path
) -> None:
    """Others in the file are imported all the same, and which were not is said."""
    request(daemon, op="append", agent_id="b", event={"X": 0})
    for number in range(5):
        request(daemon, op="append", agent_id="a", event={"X": number})
    file = tmp_path / "a.ndjson"
    ask("export", "--all", "-o", str(file))
    request(other, op="append", agent_id="a", event={"Other": 0})
    request(other, op="attach", agent_id="b")
    result = ask_other("import", str(file))
    assert result.code == 5
    said = result.err.splitlines()
    assert said[0].startswith("b: b is here already, and its entry 0 is another one")
    assert said[1].startswith("a: a is here already")
    assert said[2] == "agent-journal: 2 of 2 agents were not imported"
    assert said[3].startswith("try: ")
    assert request(other, op="describe", agent_id="a")["agent"]["entries"] == 1
    # The very same beginning is no licence to add to it.
    with RunningDaemon() as third:
        page = json.loads(file.read_bytes().splitlines()[4])
        same = {"timestamp": page["timestamp"], "event": page["event"]}
        request(third, op="append", agent_id="a", **same)
        agent = json.loads(file.read_bytes().splitlines()[3])["agent"]
        entries = [json.loads(line) for line in file.read_bytes().splitlines()[4:9]]
        refused = third.request({"op": "import", "agent": agent, "entries": entries})
        assert refused["error"]["code"] == "sequence_conflict"
        assert request(third, op="describe", agent_id="a")["agent"]["entries"] == 1


def test_a_changed_or_cut_file_is_refused_before_anything_is_sent(
    daemon: RunningDaemon, ask: Ask, ask_other: Ask, tmp_path: Path
) -> None:
    fill(daemon)
    file = tmp_path / "all.ndjson"
    ask("export", "--all", "-o", str(file))
    whole = file.read_bytes()
    chance = random.Random(7)  # noqa: S311 - where a file is cut is no secret
    for _ in range(30):
        at = chance.randrange(len(whole) - 1)
        file.write_bytes(whole[:at])
        cut = ask_other("import", str(file))
        assert cut.code == 2
        assert cut.what
        changed = bytearray(whole)
        changed[at] ^= 1 << chance.randrange(8)
        file.write_bytes(changed)
        assert ask_other("import", str(file)).code == 2
    assert ask_other("agents", "--json").out == ""
    file.write_bytes(b"")
    assert "empty" in ask_other("import", str(file)).what
    file.write_bytes(b'{"op":"ping"}\n')
    assert "line 1 of the file" in ask_other("import", str(file)).what


SEED_ENTRY = {
    "sequence": 0,
    "timestamp": "2025-06-01T12:00:00.123456789Z",
    "agent_id": "7f9c24e5-0c5f-4b1e-9a51-0d0a3b4e5f60",
    "iteration": 1,
    "event": {"Started": {"config": {"max_iterations": 10, "temperature": 0.70}}},
}


def seed_array() -> list[dict[str, Any]]:
    """Return entries of two agents, mixed, numbered as that system did over a restart."""
    one, two = SEED_ENTRY["agent_id"], "0d0a3b4e-0c5f-4b1e-9a51-7f9c24e55f60"
    return [
        SEED_ENTRY,
        {**SEED_ENTRY, "agent_id": two},
        {**SEED_ENTRY, "sequence": 1, "event": {"ReasoningComplete": {"iteration": 1}}},
        {**SEED_ENTRY, "sequence": 1, "event": {"PolicyEvaluated": {"denied": 0}}},
        {
            **SEED_ENTRY,
            "sequence": 2,
            "iteration": 2,
            "event": {"Terminated": {"reason": "Completed", "iterations": 2}},
            "agent_id": one,
        },
    ]


@pytest.mark.parametrize("indent", [None, 2], ids=["on one line", "indented"])
def test_the_array_of_the_seed_system(ask: Ask, tmp_path: Path, indent: int | None) -> None:
    file = tmp_path / "entries.json"
    file.write_text(json.dumps(seed_array(), indent=indent).replace("0.7}", "0.70}"))
    assert ask("import", str(file)).out == (
        "an array of 5 entries of 2 agents: 5 recorded, 2 got another sequence\n"
    )
    one, two = SEED_ENTRY["agent_id"], "0d0a3b4e-0c5f-4b1e-9a51-7f9c24e55f60"
    entries = ask("read", str(one), "--json").objects
    assert [entry["sequence"] for entry in entries] == [0, 1, 2, 3]
    assert [next(iter(entry["event"])) for entry in entries] == [
        "Started", "ReasoningComplete", "PolicyEvaluated", "Terminated",
    ]  # fmt: skip
    assert entries[0]["timestamp"] == "2025-06-01T12:00:00.123456Z"
    if indent is None:
        assert '"temperature": 0.70}' in ask("read", str(one), "--json").out
    assert ask("describe", str(one), "--json").objects[0]["state"] == "completed"
    assert ask("describe", str(two), "--json").objects[0]["state"] == "running"
    assert ask("import", str(file), "--json").objects[0]["recorded"] == 0


def test_a_large_array_is_read_in_pieces(ask: Ask, tmp_path: Path) -> None:
    """Agents are mixed, items lie across the pieces, characters are cut in two."""
    entries = [
        {
            **SEED_ENTRY,
            "agent_id": f"agent-{number % 7}",
            "sequence": number // 7,
            "event": {"ObservationsCollected": "é→𝄞" * (number % 200)},
        }
        for number in range(9000)
    ]
    file = tmp_path / "entries.json"
    file.write_text(json.dumps(entries, ensure_ascii=False), encoding="utf-8")
    assert file.stat().st_size > 4 << 20
    assert ask("import", str(file), "--json").objects[0]["recorded"] == 9000
    read = ask("read", "agent-3", "--json").objects
    assert [entry["event"] for entry in read] == [entry["event"] for entry in entries[3::7]]


@pytest.mark.parametrize("text", ["[", "[{}]", "[1]", '[{"agent_id":"a"', "[] ", "[}"])
def test_what_is_no_array_of_entries(ask: Ask, tmp_path: Path, text: str) -> None:
    file = tmp_path / "entries.json"
    file.write_text(text)
    result = ask("import", str(file))
    assert result.code == (0 if text == "[] " else 2)


def test_parked_agents_are_started_by_nobody(
    daemon: RunningDaemon, ask: Ask, ask_other: Ask, tmp_path: Path
) -> None:
    fill(daemon)
    file = tmp_path / "all.ndjson"
    ask("export", "--all", "-o", str(file))
    assert ask_other("import", "--park", str(file)).code == 0
    states = {a["agent_id"]: a["state"] for a in ask_other("agents", "--json").objects}
    assert states["waiting"] == states["plain"] == states["parked"] == "parked"
    assert (states["long"], states["failed"]) == ("completed", "failed")


def test_a_forged_command_is_refused(other: RunningDaemon) -> None:
    """What would be run must pass as an attach's must."""
    attachment = {"command": {"argv": [], "cwd": "relative"}, "incident": {}}
    agent = {
        "agent_id": "a", "state": "interrupted", "created_at": "2026-01-01T00:00:00Z",
        "entries": 1, "attachment": attachment,
    }  # fmt: skip
    entry = {"sequence": 0, "timestamp": "2026-01-01T00:00:00Z", "event": {"X": 1}}
    reply = other.request({"op": "import", "agent": agent, "entries": [entry]})
    assert reply["error"]["code"] == "invalid"
    assert reply["error"]["field"].startswith("command")
    unknown = {**agent, "attachment": {"launcher": "nobody-knows", "incident": {}}}
    reply = other.request({"op": "import", "agent": unknown, "entries": [entry]})
    assert reply["error"]["field"] == "launcher"


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"state": "resuming"}, "agent.state"),
        ({"agent_id": "a b"}, "agent.agent_id"),
        ({"kind": ""}, "agent.kind"),
        ({"entries": 0}, "agent.entries"),
        ({"epoch": -1}, "agent.epoch"),
        ({"created_at": "yesterday"}, "agent.created_at"),
        ({"attachment": {"owner": 3}}, "agent.attachment"),
        ({"state": "completed", "attachment": {"incident": {}}}, "agent.state"),
    ],
    ids=str,
)
def test_an_agent_that_no_export_gives_out(
    other: RunningDaemon, change: dict[str, Any], field: str
) -> None:
    agent = {
        "agent_id": "a", "state": "running", "created_at": "2026-01-01T00:00:00Z", "entries": 1,
    } | change  # fmt: skip
    entry = {"sequence": 0, "timestamp": "2026-01-01T00:00:00Z", "event": {"X": 1}}
    reply = other.request({"op": "import", "agent": agent, "entries": [entry]})
    assert (reply["error"]["code"], reply["error"]["field"]) == ("invalid", field)


@pytest.mark.skipif(os.geteuid() != 0, reason="not root: nobody can act for other uids here")
def test_all_uids_of_a_journal(
    daemon: RunningDaemon, ask: Ask, ask_other: Ask, tmp_path: Path
) -> None:
    """Two users may use one name; each gets back what was his."""
    for uid in (1001, 1002):
        request(daemon, op="append", agent_id="same", event={"Of": uid}, uid=uid)
    file = tmp_path / "all.ndjson"
    assert ask("export", "same", "--uid", "*").code == 2
    ask("export", "--all", "--uid", "*", "-o", str(file))
    assert ask_other("import", str(file)).code == 2
    assert ask_other("import", str(file), "--uid", "*").code == 0
    assert ask_other("export", "--all", "--uid", "*").out.encode() == file.read_bytes()
    assert "1001" in ask_other("read", "same", "--uid", "1001", "--json").out
    with RunningDaemon() as third:
        argv = ("import", str(file), "--uid", "1002", "-s", str(third.socket))
        assert ask(*argv).code == 0
        listed = third.request({"op": "agents", "uid": "*"})["agents"]
        assert [agent["uid"] for agent in listed] == [1002]


def test_nothing_is_left_of_an_export_that_failed(ask: Ask, tmp_path: Path) -> None:
    file = tmp_path / "all.ndjson"
    file.write_text("the last one")
    assert ask("export", "nobody", "-o", str(file)).code == 4
    assert file.read_text() == "the last one"
    assert [*tmp_path.iterdir()] == [file]
    assert ask("export").code == 2
    assert ask("export", "a", "--all").code == 2


def test_an_export_into_a_closed_pipe_is_no_error(daemon: RunningDaemon) -> None:
    fill(daemon)
    command = subprocess.Popen(
        [*CLI, "export", "--all", "-s", str(daemon.socket)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert command.stdout is not None
    command.stdout.readline()
    command.stdout.close()
    assert command.stderr is not None
    assert command.stderr.read() == b""
    assert command.wait() == 128 + signal.SIGPIPE
    command.stderr.close()
