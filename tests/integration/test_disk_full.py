"""A disk that is full costs nothing but time, and one that fails ends the daemon before it lies.

A full disk is real here: a small tmpfs or ext4, which takes root to mount, or
what strace makes of a system call.  Where neither is to be had the test says so.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from agent_journal.testing.daemon import DaemonError, RawConnection, RunningDaemon
from integration.observed import MIB, error_of, line_of, noted, wait_until

DAEMON = [sys.executable, "-m", "agent_journal"]
PAYLOAD = "x" * 2000
ANYTHING_GOES = "[commit]\nfree_bytes_min = 0\n"
FREE_BYTES_MIN_MAX = 1 << 40  # the highest that can be configured


# What is checked


def read_all(daemon: RunningDaemon, agent_id: str) -> list[dict[str, Any]]:
    """Read an agent from its beginning, page by page."""
    found: list[dict[str, Any]] = []
    more = True
    with daemon.connect() as connection:
        while more:
            request = {"op": "read", "agent_id": agent_id, "from_sequence": len(found)}
            page = connection.request(request)
            if not page["ok"]:
                assert error_of(page)["code"] == "not_found", page
                assert not found
                return []
            found += page["entries"]
            more = page["more"]
    return found


def check_whole(daemon: RunningDaemon, acknowledged: dict[str, list[str]]) -> None:
    """See that each agent has what was acknowledged, in order, and nothing else."""
    for agent_id, texts in acknowledged.items():
        entries = read_all(daemon, agent_id)
        assert [entry["sequence"] for entry in entries] == [*range(len(texts))], agent_id
        assert [entry["event"]["Noted"] for entry in entries] == texts, agent_id


class Load:
    """Appends, and what was answered to them."""

    def __init__(self, daemon: RunningDaemon) -> None:
        self.acknowledged: dict[str, list[str]] = {f"a{number}": [] for number in range(7)}
        self._daemon = daemon
        self._count = 0

    def append(self, connection: RawConnection, count: int) -> list[dict[str, Any]]:
        """Send *count* entries at once; return the errors."""
        sent = []
        for _ in range(count):
            sent.append((f"a{self._count % 7}", f"{self._count} {PAYLOAD}"))
            self._count += 1
        connection.send(b"".join(line_of(noted(text, agent_id=agent)) for agent, text in sent))
        errors = []
        for agent, text in sent:
            reply = connection.reply()
            if reply["ok"]:
                assert reply["sequence"] == len(self.acknowledged[agent])
                self.acknowledged[agent].append(text)
            else:
                errors.append(error_of(reply))
        return errors

    def append_until_full(self, connection: RawConnection) -> None:
        """Append until three times in a row all was refused as it should be."""
        refused = 0
        for _ in range(20_000):
            errors = self.append(connection, 20)
            for error in errors:
                assert error["code"] == "storage_full", error
                assert (error["retryable"], error["outcome"]) == (True, "not_recorded")
            refused = refused + 1 if len(errors) == 20 else 0
            if refused == 3:
                return
        raise AssertionError("the disk was not filled")

    def append_again(self, connection: RawConnection) -> None:
        """Append until it works, which may take a moment after room was made."""
        wait_until(lambda: not self.append(connection, 20), "appends are recorded again")

    def check(self) -> None:
        """See that what was acknowledged is there, and nothing else."""
        check_whole(self._daemon, self.acknowledged)


def check_reads_go_on(connection: RawConnection) -> None:
    for op in ("describe", "read"):
        assert connection.request({"op": op, "agent_id": "a1"})["ok"]
    for op in ("ping", "agents", "stats", "hello"):
        assert connection.request({"op": op})["ok"]
    connection.send_line({"op": "tail", "last": 1, "follow": False})
    assert "entry" in connection.reply()
    assert connection.reply()["ok"]


def check_verified(connection: RawConnection) -> None:
    """See that all of the journal is looked at, and found whole."""
    cursor, stages = None, set()
    while "pages" not in stages or cursor is not None:
        more = {} if cursor is None else {"cursor": cursor}
        reply = connection.request({"op": "verify", **more})
        assert reply["ok"], reply
        assert reply["problems"] == []
        cursor = reply["cursor"]
        stages.add(reply["stage"])


# Full disks


@contextmanager
def mounted(kind: str, directory: Path, size: int) -> Iterator[Path]:
    """Mount a file system of *size* bytes."""
    if os.geteuid() != 0:
        pytest.skip(f"not root: a {kind} that is really full was not tried")
    place = directory / "small"
    place.mkdir()
    if kind == "tmpfs":
        command = ["mount", "-t", "tmpfs", "-o", f"size={size},mode=0700", "none", str(place)]
    else:
        if shutil.which("mkfs.ext4") is None:
            pytest.skip("no mkfs.ext4: a real file system that is full was not tried")
        image = directory / "image"
        with image.open("wb") as file:
            file.truncate(size)
        subprocess.run(["mkfs.ext4", "-q", "-m", "0", str(image)], check=True, timeout=20)
        command = ["mount", "-o", "loop", str(image), str(place)]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=20)
    if done.returncode != 0:
        pytest.skip(f"no {kind} can be mounted here, so it was not filled: {done.stderr.strip()}")
    try:
        yield place
    finally:
        # Lazily: whatever the test has left open does not keep it.
        subprocess.run(["umount", "-l", str(place)], check=True, timeout=20)


def occupy(place: Path, size: int) -> Path:
    """Take *size* bytes of the disk away."""
    filler = place / "filler"
    filler.write_bytes(b"\xff" * size)
    return filler


def occupy_all(place: Path) -> None:
    """Take away what is left of the disk."""
    with (place / "filler").open("ab", buffering=0) as filler:
        for size in (65_536, 4096, 512):
            try:
                while filler.write(b"\xff" * size) == size:
                    pass
            except OSError:
                continue


def test_appends_are_refused_while_there_is_little_room(tmp_path: Path) -> None:
    """By the bound that leaves room for others: nothing has failed yet."""
    if shutil.disk_usage(tmp_path).free >= FREE_BYTES_MIN_MAX:
        pytest.skip("the disk has a tebibyte free, and no more can be asked for")
    config = f"[commit]\nfree_bytes_min = {FREE_BYTES_MIN_MAX}\n"
    with RunningDaemon(tmp_path, config=ANYTHING_GOES) as daemon, daemon.connect() as connection:
        load = Load(daemon)
        assert not load.append(connection, 100)
        finished = noted(agent_id="finished", event={"Terminated": {}})
        assert connection.request(finished)["ok"]
        for _ in range(2):
            reload(daemon, config)
            load.append_until_full(connection)
            check_reads_go_on(connection)
            with daemon.connect() as other:  # who is new gets the same answer
                refused = other.request(noted(agent_id="new"))
                assert error_of(refused)["code"] == "storage_full"
                missing = other.request({"op": "describe", "agent_id": "new"})
                assert error_of(missing)["code"] == "not_found"
            reload(daemon, ANYTHING_GOES)
            load.append_again(connection)
        reload(daemon, config)
        # What makes room is allowed while there is none.
        load.append_until_full(connection)
        assert connection.request({"op": "compact", "agent_id": "finished"})["removed"] == 1
        assert connection.request({"op": "stats"})["storage_full"], "as the next append is told"
        load.check()
        daemon.kill()
        daemon.start()
        load.check()
        reload(daemon, ANYTHING_GOES)
        with daemon.connect() as again:
            load.append_again(again)
        load.check()


def reload(daemon: RunningDaemon, config: str) -> None:
    """Give the daemon another configuration, and see that it took it."""
    behind = len(daemon.log)
    daemon.configuration.write_text(config)
    daemon.reload()
    daemon.wait_for_log("config_reloaded", behind=behind)


@pytest.mark.parametrize("kind", ["tmpfs", "ext4"])
def test_room_that_others_took_is_waited_for(tmp_path: Path, kind: str) -> None:
    with mounted(kind, tmp_path, 24 * MIB) as place:
        config = '[commit]\nfree_bytes_min = "8MiB"\n'
        daemon = RunningDaemon(tmp_path, config=config, database=place / "journal.db")
        with daemon, daemon.connect() as connection:
            load = Load(daemon)
            load.append_until_full(connection)
            free = shutil.disk_usage(place).free
            assert 4 * MIB < free < 8 * MIB, "it was filled to the bound, and not much further"
            check_reads_go_on(connection)
            assert daemon.stop() == 0  # with room to end properly, as promised
            daemon.start()
            load.check()


@pytest.mark.parametrize("kind", ["tmpfs", "ext4"])
def test_a_disk_that_is_really_full_loses_nothing(tmp_path: Path, kind: str) -> None:
    """By writes that fail with ENOSPC, again and again, in the log and in the index."""
    with mounted(kind, tmp_path, 16 * MIB) as place:
        filler = occupy(place, 8 * MIB)
        daemon = RunningDaemon(tmp_path, config=ANYTHING_GOES, database=place / "journal.db")
        with daemon, daemon.connect() as connection:
            load = Load(daemon)
            for size in (6 * MIB, 4 * MIB):
                load.append_until_full(connection)
                check_reads_go_on(connection)
                check_verified(connection)
                load.check()
                filler.unlink()
                filler = occupy(place, size)
                load.append_again(connection)
                load.check()
            assert "storage_filled" in daemon.log
            filler.unlink()
            daemon.kill()
            daemon.start()
            load.check()
            with daemon.connect() as again:
                load.append_again(again)
            load.check()
            assert daemon.stop() == 0


@pytest.mark.parametrize("kind", ["tmpfs", "ext4"])
@pytest.mark.parametrize("how", ["stopped", "killed"])
def test_a_daemon_starts_on_a_full_disk_and_serves_what_is_there(
    tmp_path: Path, kind: str, how: str
) -> None:
    with mounted(kind, tmp_path, 16 * MIB) as place:
        filler = occupy(place, 8 * MIB)
        daemon = RunningDaemon(tmp_path, config=ANYTHING_GOES, database=place / "journal.db")
        with daemon:
            load = Load(daemon)
            with daemon.connect() as connection:
                load.append_until_full(connection)
            occupy_all(place)
            if how == "stopped":
                assert daemon.stop() == 0, "a disk that is full has not failed"
            else:
                daemon.kill()
            daemon.start()
            with daemon.connect() as connection:
                check_reads_go_on(connection)
                load.check()
                filler.unlink()
                load.append_again(connection)
            load.check()


# Failing system calls


def strace(tmp_path: Path, *injections: str) -> list[str]:
    """Return the daemon's command under strace, with what it shall do to it."""
    program = shutil.which("strace")
    if program is None:
        pytest.skip("no strace: what follows a system call that fails was not checked")
    command = [program, "-f", "-y", "--seccomp-bpf", "-o", str(tmp_path / "trace")]
    calls = sorted({injection.split(":")[0] for injection in injections})
    command += ["-e", f"trace={','.join(calls)}"]
    for injection in injections:
        command += ["-e", f"inject={injection}"]
    probe = [program, "-f", "--seccomp-bpf", "-o", str(tmp_path / "probe"), "true"]
    if subprocess.run(probe, check=False, capture_output=True, timeout=20).returncode != 0:
        pytest.skip("strace may trace nothing here: failing system calls were not checked")
    return command + DAEMON


def append_until_it_fails(daemon: RunningDaemon) -> tuple[list[str], str, dict[str, Any]]:
    """Append one by one; return what was recorded, what was not, and the error."""
    recorded: list[str] = []
    with daemon.connect() as connection:
        for index in range(1000):
            text = f"{index} {PAYLOAD}"
            reply = connection.request(noted(text))
            if not reply["ok"]:
                return recorded, text, error_of(reply)
            assert reply["sequence"] == len(recorded)
            recorded.append(text)
    raise AssertionError("nothing has failed")


def check_after_a_failure(daemon: RunningDaemon, recorded: list[str], in_doubt: list[str]) -> None:
    """See that a restart has what was recorded, and of what is in doubt a beginning."""
    with daemon:
        entries = read_all(daemon, "a")
        texts = [entry["event"]["Noted"] for entry in entries]
        assert [entry["sequence"] for entry in entries] == [*range(len(entries))]
        assert texts[: len(recorded)] == recorded
        assert texts[len(recorded) :] == in_doubt[: len(texts) - len(recorded)]
        reply = daemon.request(noted("goes on"))
        assert reply["sequence"] == len(texts)
        assert daemon.stop() == 0


@pytest.mark.parametrize("when", [30, 31])
def test_a_failed_sync_is_an_unknown_outcome_and_the_end(tmp_path: Path, when: int) -> None:
    argv = strace(tmp_path, f"fdatasync:error=EIO:when={when}")
    with RunningDaemon(tmp_path, argv=argv) as daemon:
        recorded, in_doubt, error = append_until_it_fails(daemon)
        assert error["code"] == "storage_failed"
        assert error["outcome"] == "unknown"
        assert daemon.wait() == 74
        assert len(recorded) > 5
    check_after_a_failure(RunningDaemon(tmp_path), recorded, [in_doubt])


FAILING_QUICK = {
    *(("fdatasync", when) for when in (3, 20, 21, 22)),
    *(("pwrite64", when) for when in (60, 63, 66)),
}
FAILING = [
    pytest.param(call, when, marks=[] if (call, when) in FAILING_QUICK else pytest.mark.crash)
    for call, last in (("fdatasync", 40), ("pwrite64", 120))
    for when in range(1, last + 1)
]


@pytest.mark.parametrize(("call", "when"), FAILING)
def test_wherever_it_fails_everybody_is_answered_and_what_was_acknowledged_is_there(
    tmp_path: Path, call: str, when: int
) -> None:
    """At the start, in a commit or in a checkpoint, with requests queued and readers about."""
    argv = strace(tmp_path, f"{call}:error=EIO:when={when}")
    config = "[commit]\ncheckpoint_commits = 2\n"
    recorded: list[str] = []
    in_doubt: list[str] = []
    with contextlib.closing(RunningDaemon(tmp_path, argv=argv, config=config)) as daemon:
        try:
            daemon.start()
        except DaemonError:
            assert daemon.exit_code == 74
        else:
            recorded, in_doubt = append_in_pieces_until_it_ends(daemon)
            ends = (0, 74) if may_be_passed_over(tmp_path / "trace") else (74,)
            assert daemon.wait() in ends
    check_after_a_failure(RunningDaemon(tmp_path), recorded, in_doubt)


def may_be_passed_over(trace: Path) -> bool:
    """Tell whether nothing hangs on the call that failed.

    SQLite passes over a name that is not synced; and how far the scrub and the log
    have come is written down again later.
    """
    (failed,) = [line for line in trace.read_text().splitlines() if "INJECTED" in line]
    return "journal." not in failed or "journal.db-sums" in failed


def append_in_pieces_until_it_ends(daemon: RunningDaemon) -> tuple[list[str], list[str]]:
    """Append while somebody tails; return what was recorded, and of what nobody knows."""
    recorded: list[str] = []
    in_doubt: list[str] = []
    with daemon.connect() as connection, daemon.connect() as tail:
        tail.send_line({"op": "tail", "from_position": 0})
        lines: list[dict[str, Any]] = []
        reader = threading.Thread(target=lambda: lines.extend(tail.rest()), daemon=True)
        reader.start()
        count = 0
        with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError):
            while count < 1000:
                texts = [f"{count + index} {PAYLOAD}" for index in range(10)]
                count += 10
                in_doubt += texts
                connection.send(b"".join(line_of(noted(text)) for text in texts))
                for text in texts:
                    reply = connection.reply()
                    if reply["ok"]:
                        assert reply["sequence"] == len(recorded)
                        recorded.append(text)
                        in_doubt.remove(text)
                        continue
                    error = error_of(reply)
                    assert error["code"] in ("storage_failed", "shutting_down"), error
                    if error["outcome"] == "not_recorded":
                        in_doubt.remove(text)
        if count >= 1000:
            daemon.stop()  # nothing has failed
        reader.join()
        shown = [line["entry"]["event"]["Noted"] for line in lines if "entry" in line]
        assert shown == recorded[: len(shown)], "a tail shows what is durable"
    return recorded, in_doubt


@pytest.mark.parametrize("when", [1, 4, 7])  # behind those of the start
def test_a_write_that_finds_no_room_is_refused_and_the_next_one_is_not(
    tmp_path: Path, when: int
) -> None:
    (tmp_path / "unharmed").mkdir()
    argv = strace(tmp_path, "pwrite64:delay_exit=1")
    with RunningDaemon(tmp_path / "unharmed", argv=argv, config=ANYTHING_GOES) as daemon:
        daemon.kill()
    when += (tmp_path / "trace").read_text().count("pwrite64(")
    argv = strace(tmp_path, f"pwrite64:error=ENOSPC:when={when}..{when + 6}")
    with RunningDaemon(tmp_path, argv=argv, config=ANYTHING_GOES) as daemon:
        load = Load(daemon)
        with daemon.connect() as connection:
            errors: list[dict[str, Any]] = []
            for _ in range(60):
                errors += load.append(connection, 1)
            assert errors
            assert {error["code"] for error in errors} == {"storage_full"}
            load.append_again(connection)
        load.check()
        daemon.kill()
    with RunningDaemon(tmp_path) as daemon:
        check_whole(daemon, load.acknowledged)


def test_a_database_that_can_not_be_synced_is_not_served(tmp_path: Path) -> None:
    with RunningDaemon(tmp_path) as daemon:
        daemon.request(noted())
        daemon.kill()
    argv = strace(tmp_path, "fdatasync:error=EIO")
    refused = RunningDaemon(tmp_path, argv=argv)
    with pytest.raises(DaemonError):
        refused.start()
    assert refused.exit_code == 74
    refused.close()
    check_after_a_failure(RunningDaemon(tmp_path), [""], [])
