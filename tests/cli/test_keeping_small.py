"""``forget``, ``vacuum`` and ``disk-usage`` on real journals, and archives taken in again."""

from __future__ import annotations

import json
import os
import pty
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from agent_journal.cli.sizes import size, size_text, span
from agent_journal.testing.daemon import RunningDaemon
from cli.fake_daemon import Result, Run
from integration.observed import wait_until

CLI = [sys.executable, "-c", "from agent_journal.cli import program; program()"]
CANARY = "canary-7f3a"
OLD = "2020-01-01T00:00:00Z"

Ask = Callable[..., Result]


@pytest.fixture
def daemon() -> Iterator[RunningDaemon]:
    with RunningDaemon() as running:
        yield running


@pytest.fixture
def ask(daemon: RunningDaemon, run: Run) -> Ask:
    return lambda *argv, **given: run("-s", str(daemon.socket), *argv, **given)


def record(daemon: RunningDaemon, agent_id: str, *, reason: str = "Completed", **more: Any) -> None:
    """Record an agent that has ended."""
    end = {"Terminated": {"reason": reason}}
    for event in ({"Started": {"goal": agent_id}}, end):
        reply = daemon.request({"op": "append", "agent_id": agent_id, "event": event, **more})
        assert reply["ok"], reply


def names(daemon: RunningDaemon) -> list[str]:
    return [agent["agent_id"] for agent in daemon.request({"op": "agents"})["agents"]]


def leftovers(daemon: RunningDaemon) -> list[str]:
    """Return the files below the data directory that hold the canary, but for the log's."""
    return [
        str(path)
        for path in daemon.directory.rglob("*")
        if path.is_file() and (CANARY in path.name or CANARY.encode() in path.read_bytes())
    ] + [str(path) for path in daemon.directory.rglob(f"*{CANARY}*")]


class TestForget:
    def test_nothing_is_left_of_an_agent_in_any_file(self, daemon: RunningDaemon, ask: Ask) -> None:
        """Not its payload, its keys, its id or its output, when the answer is there."""
        lines = [
            {
                "op": "append",
                "agent_id": CANARY if number % 7 == 3 else f"agent-{number % 7}",
                "event": {"Noted": [number, (CANARY if number % 7 == 3 else "x") * (number % 90)]},
                "key": f"{CANARY if number % 7 == 3 else 'k'}-{number * 7919 % 1000:04}-{number}",
            }
            for number in range(1400)
        ]
        assert all(reply["ok"] for reply in daemon.exchange(lines))
        record(daemon, CANARY, reason=CANARY)
        output = daemon.database.parent / "attempts" / str(os.getuid()) / CANARY / "1"
        output.mkdir(parents=True)
        (output / "stderr").write_text(f"{CANARY} was here\n")
        assert len(leftovers(daemon)) > 3
        result = ask("forget", CANARY, "--yes")
        assert (result.code, result.out) == (0, f"{CANARY} and its 202 entries are gone\n")
        assert leftovers(daemon) == []
        assert ask("forget", CANARY, "--yes").code == 4
        assert all(reply["ok"] for reply in daemon.exchange(lines[:3]))
        daemon.stop()
        assert leftovers(daemon) == []

    def test_without_a_person_or_yes_nothing_is_done(self, daemon: RunningDaemon, ask: Ask) -> None:
        record(daemon, "a")
        result = ask("forget", "a")
        assert result.code == 1
        assert result.what == "nothing was forgotten"
        assert result.hint == "agent-journal forget a --yes"
        assert names(daemon) == ["a"]

    @pytest.mark.parametrize(("answer", "left"), [("yes", []), ("no", ["a"])])
    def test_a_person_is_asked(self, daemon: RunningDaemon, answer: str, left: list[str]) -> None:
        record(daemon, "a")
        ours, theirs = pty.openpty()
        command = subprocess.Popen(
            [*CLI, "-s", str(daemon.socket), "forget", "a"], stdin=theirs, stderr=subprocess.PIPE
        )
        os.close(theirs)
        os.write(ours, f"{answer}\n".encode())
        _, told = command.communicate(timeout=30)
        os.close(ours)
        assert told.startswith(b"Forget a (completed) and its 2 entries, for good? [yes/no] ")
        assert names(daemon) == left

    def test_an_unfinished_agent_needs_force_and_an_id_is_taken_whole(
        self, daemon: RunningDaemon, ask: Ask
    ) -> None:
        """A beginning would name another agent as soon as the one it named is gone."""
        daemon.request({"op": "append", "agent_id": "nightly-1", "event": {"A": 1}})
        assert ask("forget", "nightly", "--yes").code == 4
        assert ask("forget", "nightly-1", "--yes").code == 5
        assert json.loads(ask("forget", "nightly-1", "--yes", "--force", "--json").out) == {
            "agent_id": "nightly-1",
            "removed": 1,
        }


class TestVacuum:
    def test_by_time_state_and_kind(self, daemon: RunningDaemon, ask: Ask) -> None:
        for number in range(3):
            record(daemon, f"old-{number}", timestamp=OLD)
            record(daemon, f"bad-{number}", timestamp=OLD, reason="Error")
        record(daemon, "new")
        result = ask("vacuum", "--time", "30d", "--dry-run")
        assert result.out == "6 agents would be removed\n"
        assert len(names(daemon)) == 7
        result = ask("vacuum", "--time", "30d", "--state", "failed")
        assert result.out.startswith("3 agents with 6 entries removed, ")
        assert names(daemon) == ["old-0", "old-1", "old-2", "new"]
        told = json.loads(ask("vacuum", "--time", "1w", "--json").out)
        assert (told["agents"], told["entries"], told["archives"]) == (3, 6, [])
        assert names(daemon) == ["new"]
        assert ask("vacuum", "--time", "1w").out.startswith("0 agents with 0 entries removed")

    def test_by_size_the_first_that_ended_go(self, daemon: RunningDaemon, ask: Ask) -> None:
        lines = [
            {"op": "append", "agent_id": f"a-{number % 20:02}", "event": {"Noted": "x" * 4000}}
            for number in range(1000)
        ]
        assert all(reply["ok"] for reply in daemon.exchange(lines))
        for number in range(20):
            record(daemon, f"a-{number:02}", timestamp=f"2020-01-{20 - number:02}T00:00:00Z")
        used = json.loads(ask("disk-usage", "--json").out)
        told = ask("vacuum", "--size", "2M", "--dry-run").out
        assert "too much: those that ended first would go" in told
        result = ask("vacuum", "--size", "2M")
        assert "MiB freed" in result.out
        left = names(daemon)
        assert 0 < len(left) < 20
        assert left == [f"a-{number:02}" for number in range(len(left))]  # the last ones to end
        after = json.loads(ask("disk-usage", "--json").out)
        assert after["database_bytes"] - after["free_bytes"] <= 2 << 20
        assert used["database_bytes"] > 4 << 20
        wait_until(
            lambda: json.loads(ask("disk-usage", "--json").out)["database_bytes"] <= 3 << 20,
            "the file was cut off",
        )
        assert ask("vacuum", "--size", "2M", "--dry-run").out.endswith("none would go for that\n")

    @pytest.mark.parametrize(
        "argv",
        [[], ["--time", "soon"], ["--size", "-1"], ["--state", "gone"], ["--state", "running"],
         ["--offline", "--time", "1d"], ["--time", "1d", "--database", "x"]],
        ids=" ".join,
    )  # fmt: skip
    def test_what_makes_no_sense_changes_nothing(
        self, daemon: RunningDaemon, ask: Ask, argv: list[str]
    ) -> None:
        record(daemon, "a", timestamp=OLD)
        assert ask("vacuum", *argv).code in {2, 5, 1}
        assert names(daemon) == ["a"]

    def test_a_journal_of_before_is_written_anew_while_the_daemon_is_stopped(
        self, run: Run, tmp_path: Path
    ) -> None:
        path = tmp_path / "journal.db"
        with closing(sqlite3.connect(path)) as connection:
            connection.execute("PRAGMA page_size=8192")
            connection.execute("PRAGMA auto_vacuum=NONE")
            connection.execute("PRAGMA journal_mode=WAL")
        with RunningDaemon(database=path) as daemon:
            ask = lambda *argv: run("-s", str(daemon.socket), *argv)  # noqa: E731 - as the others
            lines = [
                {"op": "append", "agent_id": f"a-{number % 4}", "event": {"N": "x" * 4000}}
                for number in range(800)
            ]
            assert all(reply["ok"] for reply in daemon.exchange(lines))
            for number in range(1, 4):
                record(daemon, f"a-{number}", timestamp=OLD)
            assert "agent-journal vacuum --offline, once" in ask("vacuum", "--time", "1d").out
            usage = ask("disk-usage").out
            assert "used again, not given back: see agent-journal vacuum --help" in usage
            result = run("vacuum", "--offline", "--database", str(path))
            assert result.code == 5  # the daemon has it
            before = path.stat().st_size
            daemon.stop()
            result = run("vacuum", "--offline", "--database", str(path))
            assert result.code == 0, result.err
            assert path.stat().st_size < before * 2 / 3
            assert result.out.startswith(f"{path} has ")
            assert run("verify", "--offline", str(path)).code == 0
            daemon.start()
            assert names(daemon) == ["a-0"]
            assert json.loads(ask("disk-usage", "--json").out)["gives_back"]


class TestDiskUsage:
    def test_each_part_is_told_and_all_together(self, daemon: RunningDaemon, ask: Ask) -> None:
        record(daemon, "a")
        told = json.loads(ask("disk-usage", "--json").out)
        database = daemon.database.stat().st_size
        assert told["total_bytes"] >= database
        shown = ask("disk-usage").out
        for part in ("database", "of it free", "write-ahead log", "page sums", "archives"):
            assert part in shown
        assert "given back by and by" in shown


class TestRetention:
    def test_what_the_daemon_removes_is_archived_and_can_be_taken_in_again(
        self, ask: Ask, daemon: RunningDaemon, run: Run, tmp_path: Path
    ) -> None:
        """The rule comes with a configuration that is edited while the daemon runs."""
        archive = tmp_path / "archive"
        for number in range(5):
            record(daemon, f"old-{number}", timestamp=OLD, key=None)
        record(daemon, "new")
        before = ask("export", *[f"old-{number}" for number in range(5)]).out
        daemon.configuration.write_text(
            f'[retention]\ncompleted_days = 30\narchive = "{archive}"\n'
        )
        os.kill(daemon.pid, 1)  # SIGHUP
        wait_until(lambda: names(daemon) == ["new"], "the old ones were removed")
        wait_until(
            lambda: "agents_removed" in (daemon.directory / "daemon.log").read_text(), "it was told"
        )
        (file,) = archive.iterdir()
        stats = daemon.request({"op": "stats"})
        assert (stats["agents_removed"], stats["agents_archived"]) == (5, 5)
        with RunningDaemon() as other:
            result = run("-s", str(other.socket), "import", str(file), "--uid", str(os.getuid()))
            assert result.code == 0, result.err
            after = run(
                "-s", str(other.socket), "export", *[f"old-{number}" for number in range(5)]
            ).out
        assert after == before

    def test_an_archive_that_was_cut_off_is_not_taken_in(
        self, run: Run, daemon: RunningDaemon, tmp_path: Path
    ) -> None:
        file = tmp_path / "agents.ndjson.gz"
        file.write_bytes(b"\x1f\x8b\x08\x00 cut off")
        result = run("-s", str(daemon.socket), "import", str(file))
        assert result.code == 2
        assert "cut off or changed" in result.err
        assert names(daemon) == []


class TestSizes:
    def test_sizes_and_spans_are_read_as_journalctl_has_them(self) -> None:
        for text, value in (("1G", 1 << 30), ("500M", 500 << 20), ("64MiB", 64 << 20), ("7", 7)):
            assert size(text) == value
        for text, seconds in (("30d", 2_592_000), ("12h", 43_200), ("2weeks", 1_209_600)):
            assert span(text) == seconds
        assert [size_text(value) for value in (5, 2048, 3 << 20, 5 << 40)] == [
            "5 B", "2.0 KiB", "3.0 MiB", "5.0 TiB"
        ]  # fmt: skip
