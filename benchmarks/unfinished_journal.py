"""A journal whose host died: a million agents have finished, ten thousand were at work.

It is built through the daemon, as ``large_journal`` does, and kept.  A process
then attaches to all that have not finished, each with the command that starts
it again, the daemon is stopped, and that process is ended: what the next start
finds is what it would find after a reboot.
"""

import asyncio
import contextlib
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from large_journal import Layout, build
from machine import BENCHMARKS
from measures import say
from servers import Journal, ServerError, running

from agent_journal.store.sqlite import SqliteStore

FINISHED_PER_UNFINISHED = 100
ENTRIES_EACH = 2
COMMAND = {
    "argv": [sys.executable, "-I", "-S", str(BENCHMARKS / "tiny_agent.py")],
    "cwd": "/",
    "env": {"HOME": "/", "LANG": "C.UTF-8", "PATH": "/usr/local/bin:/usr/bin:/bin"},
}


class ResumingJournal(Journal):
    """A daemon whose configuration says whether it resumes, and that times its scan."""

    def __init__(self, directory: Path, sockets: Path, *, is_resuming: bool = False) -> None:
        super().__init__(directory, sockets)
        self.configure(is_resuming=is_resuming)

    def configure(self, *, is_resuming: bool) -> None:
        """Have agents started again, or not; a running daemon follows."""
        # As processes wherever this runs: what systemd takes for a unit is not our cost.
        lines = ["[resume]", f"enabled = {str(is_resuming).lower()}", 'start_with = "process"', ""]
        self._config.write_text("\n".join(lines))

    @property
    def command(self) -> list[str]:
        """The command that starts it."""
        python, _, _, *files = super().command
        return [python, str(BENCHMARKS / "timed_daemon.py"), *files]

    def facts_logged(self, event: str) -> list[dict[str, object]]:
        """Return what the daemon's log says of an event."""
        lines = self.log.read_text(errors="replace").splitlines()
        facts = (json.loads(line) for line in lines if line.startswith("{"))
        return [fact for fact in facts if fact.get("event") == event]


def layout_of(unfinished: int) -> Layout:
    """Return what the journal holds before anybody attached: the first of each hundred and one."""
    every = FINISHED_PER_UNFINISHED + 1
    return Layout(unfinished * every, ENTRIES_EACH, every)


def unfinished_ids(layout: Layout) -> list[str]:
    """Return the agents that were at work."""
    return [layout.agent_id(n) for n in range(0, layout.agents, layout.unfinished_every)]


def prepare(journal: ResumingJournal, layout: Layout) -> None:
    """Build what is missing of the journal, up to the death of its host."""
    done = journal.directory / "held"
    if done.exists():
        if done.read_text() != json.dumps(COMMAND):
            raise SystemExit(
                f"the agents of {done.parent} are started in another way ({done.read_text()}); "
                "remove it or choose another --dir"
            )
        return
    build(journal, layout)
    say(f"attaching to {layout.unfinished:,} agents")
    with running(journal), _held(journal, unfinished_ids(layout)):
        journal.stop()
    done.write_text(json.dumps(COMMAND))


@contextlib.contextmanager
def _held(journal: ResumingJournal, agents: list[str]) -> Iterator[None]:
    command = [sys.executable, str(BENCHMARKS / "holder.py"), str(journal.socket)]
    holder = subprocess.Popen(
        [*command, json.dumps(COMMAND)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert holder.stdin is not None  # noqa: S101 - they were opened as pipes
        assert holder.stdout is not None  # noqa: S101
        holder.stdin.write("\n".join(agents))
        holder.stdin.close()
        if holder.stdout.readline() != "held\n":
            raise ServerError("the agents' owner ended early; its complaint stands above")
        yield
    finally:
        holder.kill()
        holder.wait()
        holder.stdout.close()


def copy(kept: ResumingJournal, directory: Path) -> ResumingJournal:
    """Return a journal like the one that is kept, which resumes when it is started."""
    shutil.rmtree(directory, ignore_errors=True)
    journal = ResumingJournal(directory, kept.socket.parent, is_resuming=True)
    for file in kept.directory.glob(f"{kept.database.name}*"):
        if not file.name.endswith(".lock"):
            shutil.copyfile(file, directory / file.name)
    asyncio.run(_bring_up_to_date(journal.database))
    return journal


async def _bring_up_to_date(database: Path) -> None:
    """Have a journal that an older version built migrate now, and not while it is timed."""
    store = SqliteStore(database)
    try:
        await store.open()
    finally:
        await store.close()
