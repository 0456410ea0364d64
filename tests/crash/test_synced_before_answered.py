"""An answer leaves behind the sync of what it acknowledges, as the kernel sees it.

To kill a daemon proves nothing about syncs: what it wrote lives on in the
kernel's cache, and only a power cut takes it away.  So this looks at the system
calls themselves, in the order in which strace saw them end.  A thread goes on
only when strace has noted its call's end, so of two calls of which one waited
for the other the order is certain.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from agent_journal.testing.daemon import RunningDaemon
from integration.observed import noted

MUTANTS = Path(__file__).parent / "mutants"
SENDING = "write,writev,sendto,sendmsg"
ENTRIES = 150  # with checkpoints among them, which also write and sync
CONFIG = "[commit]\ncheckpoint_commits = 8\n"

_CALL = re.compile(r"^\d+ +(?:<\.\.\. )?(?P<name>\w+)(?:\(| resumed)")
_LOG = re.compile(r"<[^>]*journal\.db-wal>")
_REPLY = re.compile(r'\\"ok\\":true,\\"sequence\\":(\d+)')


class NotSyncedError(AssertionError):
    """An answer came too early."""


def traced(directory: Path, argv: list[str]) -> RunningDaemon:
    """Return a daemon whose writes, syncs and answers are listed in ``trace``."""
    program = shutil.which("strace")
    if program is None:
        pytest.skip("no strace: that answers follow their sync was not checked")
    options = ["-f", "-y", "-s", "65536", "-e", f"trace=fdatasync,fsync,pwrite64,{SENDING}"]
    probe = [program, *options, "-o", str(directory / "probe"), "true"]
    if subprocess.run(probe, check=False, capture_output=True, timeout=20).returncode != 0:
        pytest.skip("strace may trace nothing here: that answers follow their sync was not checked")
    command = [program, *options, "-o", str(directory / "trace"), *argv]
    return RunningDaemon(directory, argv=command, config=CONFIG)


def check_trace(trace: Path) -> int:
    """See that no answer left before its sync; return how many answers there were.

    Raises:
        NotSyncedError: one did.
    """
    answered = written = synced = 0  # written, synced: counts of writes to the WAL
    syncing: dict[str, int] = {}  # by thread: how much was written when its sync began
    acknowledged = -1  # how much was written at the last answer
    for line in trace.read_text("utf-8", "replace").splitlines():
        found = _CALL.match(line)
        if found is None:
            continue
        thread, name = line.split(maxsplit=1)[0], found["name"]
        if name == "pwrite64":
            written += bool(_LOG.search(line[:400]))
        elif name in ("fdatasync", "fsync"):
            if _LOG.search(line):
                syncing[thread] = written
            if line.endswith("= 0") and thread in syncing:
                synced = max(synced, syncing.pop(thread))
        else:  # what is sent stands where the call begins
            for sequence in _REPLY.findall(line):
                if not acknowledged < written == synced:
                    raise NotSyncedError(
                        f"the answer to {sequence} left when {written} writes to the log had been "
                        f"made, {written - acknowledged} since the last answer, {synced} synced"
                    )
                acknowledged = written
                answered += 1
    return answered


def append_one_by_one(daemon: RunningDaemon) -> None:
    with daemon.connect() as connection:
        for index in range(ENTRIES):
            reply = connection.request(noted("x" * 50, iteration=index))
            assert reply["sequence"] == index


def test_an_answer_leaves_when_its_entry_was_synced(tmp_path: Path) -> None:
    with traced(tmp_path, [sys.executable, "-m", "agent_journal"]) as daemon:
        append_one_by_one(daemon)
        assert daemon.stop() == 0
    assert check_trace(tmp_path / "trace") == ENTRIES


@pytest.mark.parametrize("mutant", ["synchronous_off", "ack_before_commit"])
def test_a_daemon_that_answers_too_early_is_caught(mutant: str, tmp_path: Path) -> None:
    with traced(tmp_path, [sys.executable, str(MUTANTS / f"{mutant}.py")]) as daemon:
        append_one_by_one(daemon)
        daemon.kill()
    with pytest.raises(NotSyncedError):
        check_trace(tmp_path / "trace")
