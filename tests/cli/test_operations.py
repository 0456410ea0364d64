"""``backup``, ``restore``, ``verify`` and ``accept-loss`` on real journals."""

from __future__ import annotations

import json
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from agent_journal.store.integrity import inspect
from agent_journal.store.page_sums import Flags
from agent_journal.testing.daemon import RunningDaemon
from cli.fake_daemon import Result, Run

PAGE_BYTES = 8192

Ask = Callable[..., Result]


@pytest.fixture
def daemon() -> Iterator[RunningDaemon]:
    with RunningDaemon() as running:
        yield running


@pytest.fixture
def ask(daemon: RunningDaemon, run: Run) -> Ask:
    return lambda *argv, **given: run("-s", str(daemon.socket), *argv, **given)


def request(daemon: RunningDaemon, **fields: Any) -> dict[str, Any]:
    reply = daemon.request(fields)
    assert reply["ok"], reply
    return reply


def fill(daemon: RunningDaemon, entries: int = 3000) -> None:
    """Record some agents' entries, some with keys, one compacted, one large."""
    lines = [
        {
            "op": "append",
            "agent_id": f"agent-{number % 10}",
            "event": {"Noted": [number, "x" * (number % 200)]},
            **({"key": f"{number:06}"} if number % 3 else {}),
        }
        for number in range(entries)
    ]
    assert all(reply["ok"] for reply in daemon.exchange(lines))
    request(daemon, op="append", agent_id="large", event={"Noted": "y" * 100_000})
    request(daemon, op="compact", agent_id="agent-9", force=True)
    request(daemon, op="append", agent_id="done", event={"Terminated": {"reason": "Completed"}})
    request(daemon, op="attach", agent_id="held", kind="report")


def everything(daemon: RunningDaemon) -> dict[str, list[dict[str, Any]]]:
    """Return all entries of all agents."""
    found = {}
    for agent in request(daemon, op="agents", limit=1000)["agents"]:
        entries: list[dict[str, Any]] = []
        more = True
        while more:
            reply = request(
                daemon, op="read", agent_id=agent["agent_id"], from_sequence=len(entries)
            )
            entries += reply["entries"]
            more = reply["more"]
        found[agent["agent_id"]] = entries
    return found


# Backup and restore


def test_a_backup_in_the_place_of_the_journal(
    daemon: RunningDaemon, ask: Ask, tmp_path: Path
) -> None:
    fill(daemon)
    backup = tmp_path / "backup.db"
    result = ask("backup", str(backup))
    assert result.code == 0, result.err
    assert result.out.startswith("13 agents with 2,703 entries backed up to ")
    assert backup.stat().st_mode & 0o777 == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ["backup.db"]
    was = everything(daemon)
    request(daemon, op="append", agent_id="late", event={"Noted": "behind the backup"})
    last = request(daemon, op="append", agent_id="agent-1", event={"Noted": "and this"})
    refused = ask("restore", "--database", str(daemon.database), str(backup))
    assert refused.code == 5
    assert f"pid {daemon.pid}" in refused.what
    daemon.kill()
    restored = ask("restore", "--database", str(daemon.database), str(backup))
    assert restored.code == 0, restored.err
    aside = Path(restored.lines[1].removeprefix("what was there before is in "))
    assert {path.name for path in aside.iterdir()} >= {"journal.db", "journal.db-wal"}
    daemon.start()
    assert everything(daemon) == was
    told = request(daemon, op="append", agent_id="agent-1", event={"Noted": "goes on"})
    assert told["sequence"] == last["sequence"]
    daemon.stop()
    assert ask("verify", "--offline", str(daemon.database)).code == 0
    assert ask("verify", "--offline", str(aside / "journal.db")).code == 0


def test_a_backup_while_everybody_writes(daemon: RunningDaemon, ask: Ask, tmp_path: Path) -> None:
    """It holds all that was acknowledged before it, each agent up to some entry, no gaps."""
    fill(daemon, 20_000)
    acknowledged = {name: len(entries) for name, entries in everything(daemon).items()}
    stop = threading.Event()
    failures: list[object] = []

    def write(name: str) -> None:
        with daemon.connect() as connection:
            while not stop.is_set():
                lines = [
                    b'{"op":"append","agent_id":"%b","event":{"Noted":"%b"}}\n'
                    % (name.encode(), b"z" * 300)
                ]
                connection.send(b"".join(lines * 50))
                failures.extend(reply for reply in connection.replies(50) if not reply["ok"])

    writers = [threading.Thread(target=write, args=(f"agent-{n}",)) for n in range(4)]
    for writer in writers:
        writer.start()
    try:
        backups = [tmp_path / f"{number}.db" for number in range(3)]
        results = [ask("backup", str(backup), "--json") for backup in backups]
    finally:
        stop.set()
        for writer in writers:
            writer.join()
    assert not failures
    assert [result.code for result in results] == [0, 0, 0], results[0].err
    told = [result.objects[0]["entries"] for result in results]
    assert told == sorted(told)
    full = everything(daemon)
    for backup in backups:
        with RunningDaemon() as other:
            other.stop()
            argv = ("restore", "--database", str(other.database), str(backup))
            assert ask(*argv).code == 0
            other.start()
            for name, entries in everything(other).items():
                assert entries == full[name][: len(entries)]
                assert len(entries) >= acknowledged[name]


def test_a_restore_from_standard_input(daemon: RunningDaemon, ask: Ask, tmp_path: Path) -> None:
    fill(daemon, 100)
    backup = tmp_path / "backup.db"
    ask("backup", str(backup))
    was = everything(daemon)
    daemon.stop()
    argv = ("restore", "--database", str(daemon.database), "-", "--json")
    result = ask(*argv, stdin=backup.read_bytes())
    assert result.objects[0]["entries"] == 93
    daemon.start()
    assert everything(daemon) == was


def test_a_damaged_backup_is_not_restored(daemon: RunningDaemon, ask: Ask, tmp_path: Path) -> None:
    fill(daemon)
    backup = tmp_path / "backup.db"
    ask("backup", str(backup))
    was = everything(daemon)
    daemon.stop()
    damage(backup, 20)
    result = ask("restore", "--database", str(daemon.database), str(backup))
    assert result.code == 6
    assert "is not sound" in result.what
    assert not [*daemon.database.parent.glob("*replaced*")]
    assert not [*daemon.database.parent.glob(".*")]
    daemon.start()
    assert everything(daemon) == was


def test_a_backup_of_a_backup_given_up(daemon: RunningDaemon) -> None:
    """Pages are given to one at a time, and each of them once."""
    fill(daemon, 5000)
    first = request(daemon, op="backup")
    assert first["more"]
    again = daemon.request({"op": "backup", "cursor": first["cursor"]})
    assert again["ok"]
    repeated = daemon.request({"op": "backup", "cursor": first["cursor"]})
    assert repeated["error"]["field"] == "cursor"
    request(daemon, op="backup")
    given_up = daemon.request({"op": "backup", "cursor": again["cursor"]})
    assert given_up["error"]["field"] == "cursor"


@pytest.mark.skipif(os.geteuid() != 0, reason="not root: another uid could not be tried")
def test_only_operators_get_a_backup(daemon: RunningDaemon) -> None:
    pytest.importorskip("agent_journal.testing.daemon")
    daemon.directory.chmod(0o755)
    daemon.socket.chmod(0o666)
    reader, writer = os.pipe()
    pid = os.fork()
    if not pid:
        os.setresuid(12345, 12345, 12345)
        try:
            codes = [
                daemon.request({"op": op}).get("error", {}).get("code")
                for op in ("backup", "verify")
            ]
            os.write(writer, json.dumps(codes).encode())
        finally:
            os._exit(0)
    os.close(writer)
    os.waitpid(pid, 0)
    with os.fdopen(reader) as answers:
        assert json.load(answers) == ["forbidden", "forbidden"]


# Verify


def damage(path: Path, page: int, at: int = 5000) -> None:
    """Flip a bit of a page."""
    with path.open("r+b") as file:
        file.seek((page - 1) * PAGE_BYTES + at)
        byte = file.read(1)[0]
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte ^ 0x10]))


def test_a_sound_journal(daemon: RunningDaemon, ask: Ask) -> None:
    fill(daemon)
    running = ask("verify")
    assert running.code == 0
    assert running.out.startswith("the journal is sound: 13 agents, 2,703 entries and ")
    busy = ask("verify", "--offline", str(daemon.database))
    assert busy.code == 5
    assert f"pid {daemon.pid}" in busy.what
    daemon.kill()
    killed = ask("verify", "--offline", str(daemon.database))
    assert killed.code == 0
    assert "is sound: 13 agents with 2,703 entries" in killed.lines[0]
    daemon.start()
    daemon.stop()
    stopped = ask("verify", "--offline", "--database", str(daemon.database), "--json")
    assert stopped.code == 0
    assert stopped.objects[0]["sound"] is True
    assert stopped.objects[0]["problems"] == []
    assert not [name for name in daemon.database.parent.iterdir() if name.suffix.endswith("-shm")]


def test_a_file_that_may_only_be_read(daemon: RunningDaemon, ask: Ask, tmp_path: Path) -> None:
    """Nothing is made beside it, not even for a WAL that was not folded back."""
    fill(daemon)
    daemon.kill()
    copy = tmp_path / "copy"
    shutil.copytree(daemon.database.parent, copy, ignore=shutil.ignore_patterns("*.sock"))
    for path in copy.iterdir():
        path.chmod(0o400)
    copy.chmod(0o500)
    before = {path.name: path.stat().st_mtime_ns for path in copy.iterdir()}
    assert ask("verify", "--offline", str(copy / "journal.db")).code == 0
    assert {path.name: path.stat().st_mtime_ns for path in copy.iterdir()} == before
    copy.chmod(0o700)


def test_what_is_no_journal(ask: Ask, tmp_path: Path) -> None:
    assert ask("verify", "--offline", str(tmp_path / "nothing.db")).code == 1
    text = tmp_path / "text.db"
    text.write_text("hello" * 5000)
    result = ask("verify", "--offline", str(text))
    assert (result.code, result.out) == (1, "")
    assert result.what == f"{text} is not a journal (no SQLite database)"
    assert "verify --offline" in result.hint
    (tmp_path / "empty.db").touch()
    assert ask("verify", "--offline", str(tmp_path / "empty.db")).code == 1
    assert ask("verify", "x.db").code == 2


def page_of_entries(database: Path) -> int:
    """Return a page in the middle of the file that holds entries."""
    data = database.read_bytes()
    pages = [
        page + 1
        for page in range(len(data) // PAGE_BYTES)
        if data[page * PAGE_BYTES] == 13 and b"Noted" in data[page * PAGE_BYTES :][:PAGE_BYTES]
    ]
    return pages[len(pages) // 2]


def test_damage_is_told_with_what_is_lost(daemon: RunningDaemon, ask: Ask) -> None:
    fill(daemon)
    was = everything(daemon)
    daemon.stop()
    page = page_of_entries(daemon.database)
    damage(daemon.database, page)
    result = ask("verify", "--offline", str(daemon.database), "--json")
    assert result.code == 1
    found = result.objects[0]
    assert {"page": page, "text": f"page {page} is not what was written"} in found["problems"]
    lost = {
        agent["agent_id"]: sum(last - first + 1 for first, last in agent["sequences"])
        for agent in found["lost"]
    }
    assert lost
    positions = {at for first, last in found["lost_positions"] for at in range(first, last + 1)}
    for agent in found["lost"]:
        for first, last in agent["sequences"]:
            for sequence in range(first, last + 1):
                assert was[agent["agent_id"]][sequence]["position"] in positions
        assert agent["readable"] == len(was[agent["agent_id"]]) - lost[agent["agent_id"]]
    told = ask("verify", "--offline", str(daemon.database))
    assert "is damaged; " in told.lines[0]
    assert any(line.startswith("  lost of agent-") for line in told.lines)


# Accept loss


def test_going_on_with_what_is_left(daemon: RunningDaemon, ask: Ask) -> None:
    fill(daemon)
    was = everything(daemon)
    running = ask("accept-loss", "--database", str(daemon.database))
    assert running.code == 5
    daemon.stop()
    sound = ask("accept-loss", "--database", str(daemon.database))
    assert sound.out.endswith("is sound: there is no loss to accept\n")
    damage(daemon.database, page_of_entries(daemon.database))
    kept = daemon.database.read_bytes()
    dry = ask("accept-loss", "--dry-run", "--database", str(daemon.database), "--json")
    assert dry.code == 0
    lost = {agent["agent_id"]: agent["sequences"] for agent in dry.objects[0]["lost"]}
    assert ask("accept-loss", "--database", str(daemon.database)).code == 1  # nobody says yes
    assert daemon.database.read_bytes() == kept

    result = ask("accept-loss", "--yes", "--database", str(daemon.database))
    assert result.code == 0, result.err
    (aside,) = daemon.database.parent.glob("journal.db.damaged-*")
    assert (aside / "journal.db").read_bytes() == kept
    assert ask("verify", "--offline", str(daemon.database)).code == 0
    daemon.start()
    now = everything(daemon)
    gone = 0
    for name, entries in was.items():
        assert [entry["sequence"] for entry in now[name]] == [*range(len(entries))]
        for sequence, entry in enumerate(entries):
            if any(first <= sequence <= last for first, last in lost.get(name, [])):
                assert now[name][sequence]["event"] == {"Lost": {"by": "damage"}}
                assert now[name][sequence]["position"] == entry["position"]
                gone += 1
            else:
                assert now[name][sequence] == entry
    assert f"in the places of {gone:,} lost entries" in result.out
    assert not (aside / "entries-apart.ndjson").exists()
    described = request(daemon, op="describe", agent_id=next(iter(lost)))["agent"]
    assert described["state"] == "parked"
    assert "lost by damage" in described["reason"]
    untouched = next(name for name in was if name not in lost and name.startswith("agent-"))
    assert request(daemon, op="describe", agent_id=untouched)["agent"]["state"] == "running"
    # What was acknowledged keeps its position, and none is given twice.
    highest = max(entry["position"] for entries in was.values() for entry in entries)
    told = request(daemon, op="append", agent_id="new", event={"Noted": 1})
    assert told["position"] > highest


def killed_with_a_log(daemon: RunningDaemon) -> dict[str, Any]:
    """Kill a daemon whose log holds commits that no checkpoint has copied; return all it held."""
    while True:
        for number in range(3):
            request(daemon, op="append", agent_id="agent-1", event={"Noted": number})
        was = everything(daemon)
        daemon.kill()
        found = inspect(daemon.database)
        mark, wal = found.mark, found.wal
        assert mark is not None
        is_copied = bool(mark.flags & Flags.CHECKPOINTED) and mark.salts == wal.salts
        if wal.frames >= 3 and not (is_copied and mark.frames >= wal.frames):
            return was
        daemon.start()


@pytest.mark.parametrize("what", ["catalogue", "wal", "truncated", "agents", "zeroed"])
def test_whatever_is_damaged_the_rest_is_kept(daemon: RunningDaemon, ask: Ask, what: str) -> None:
    """What comes of it is sound, is a part of what was, and the daemon takes it."""
    fill(daemon)
    was = everything(daemon)
    if what == "wal":
        was = killed_with_a_log(daemon)
        wal = daemon.database.with_name("journal.db-wal")
        raw = bytearray(wal.read_bytes())
        raw[1000] ^= 4  # in the first frame, behind which others were committed
        wal.write_bytes(raw)
    else:
        daemon.stop()
        raw = bytearray(daemon.database.read_bytes())
        if what == "catalogue":
            raw[:200] = bytes(200)
        elif what == "truncated":
            del raw[len(raw) * 2 // 3 // 512 * 512 :]
        elif what == "agents":
            raw[2 * PAGE_BYTES : 3 * PAGE_BYTES] = bytes(PAGE_BYTES)
        else:
            raw[10 * PAGE_BYTES : 14 * PAGE_BYTES] = bytes(4 * PAGE_BYTES)
        daemon.database.write_bytes(raw)
    daemon.start()
    refused = daemon.request({"op": "agents"})
    assert refused["error"]["code"] == "damaged"
    daemon.stop()
    assert ask("verify", "--offline", str(daemon.database)).code == 1
    result = ask("accept-loss", "--yes", "--json", "--database", str(daemon.database))
    assert result.code == 0, result.err
    daemon.start()
    now = everything(daemon)
    kept = 0
    for name, entries in now.items():
        for entry in entries:
            if entry["event"] != {"Lost": {"by": "damage"}}:
                assert entry == was[name][entry["sequence"]]
                kept += 1
    assert kept == result.objects[0]["kept_entries"] > 1000
    assert ask("verify").code == 0
    daemon.stop()
    assert ask("verify", "--offline", str(daemon.database)).code == 0
