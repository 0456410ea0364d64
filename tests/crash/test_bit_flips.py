"""Damaged files are refused, or told, and never served as if nothing had happened.

A journal with all that a journal can hold is put aside as a kill leaves it, as a
stop leaves it, and in between; its files are damaged at random; and it is started
as the daemon starts it.  Then everything in it is asked for, and compared with
what was recorded; after that the housekeeping is done, and everything is asked
for again.  What comes of it is one of four:

- *harmless*: every answer is right (the bit was in what nobody reads),
- *refused*: the start refuses the journal,
- *told*: an answer says that it is damaged, and from then on all do,
- *served wrong*: an answer is not what was recorded, and none of them says so.

At its start the daemon looks at 64 MiB of pages, which is all of most journals.
Of a larger one the rest is looked at by the scrub, and until then entries are
told by their own checksums; how often something else was wrong that long (a key,
a counter) is counted apart.

The files are at rest when they are damaged: the daemon has had the tenth of a
second that it takes to write down how far the log has come.
"""

from __future__ import annotations

import asyncio
import copy
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

import pytest

from agent_journal.errors import DamagedError, JournalError
from agent_journal.model import AgentState, Uid
from agent_journal.store import database_thread, integrity
from agent_journal.store.attachment import Attachment, Command, Owner
from agent_journal.store.sqlite import QUIET_SECONDS, SqliteStore
from agent_journal.testing.daemon import RunningDaemon
from agent_journal.testing.plain_journal import OWNER, PlainAgent, PlainJournal, list_all
from crash.damage import FILES, NAME, damage, file_in
from crash.power.hurry import in_a_hurry
from waiting import until

if TYPE_CHECKING:
    from conftest import Figures, Size

OTHER = Uid(OWNER + 1)
SETTLE_ENTRIES = 400

Agents = dict[tuple[Uid, Any], PlainAgent]


@dataclass(frozen=True)
class Base:
    """A journal that is damaged again and again: its files, and what is recorded in it."""

    name: str
    files: Path
    earlier: Path
    agents: Agents
    next_position: int


def store_in(directory: Path) -> SqliteStore:
    return SqliteStore(directory / NAME, settle_entries=SETTLE_ENTRIES, free_bytes_min=0)


async def write_some(journal: PlainJournal, chance: Random, batches: int) -> None:
    """Record what agents of two users do, in every way that there is."""
    for _ in range(batches):
        for _ in range(chance.randrange(1, 40)):
            uid = chance.choice([OWNER, OTHER])
            agent_id = f"agent-{chance.randrange(24)}"
            known = journal.agents.get((uid, agent_id))  # type: ignore[call-overload]
            if known is not None and known.record.state is AgentState.COMPLETED:
                continue
            size = chance.choice([10, 100, 300, 300, 2000])
            event = b'{"Noted":"%b"}' % chance.randbytes(size // 2).hex().encode()
            number = journal.next_position * 1000 + chance.randrange(1000)
            key = f"{number:09}" if chance.randrange(2) else None
            journal.add(agent_id, event, uid=uid, iteration=chance.randrange(9), key=key)
        await journal.commit()
    await change_some(journal, chance)


async def change_some(journal: PlainJournal, chance: Random) -> None:
    """Finish, compact, attach, fork: each of some agent."""
    names = sorted(journal.agents)
    running = [
        name for name in names if journal.agents[name].record.state is not AgentState.COMPLETED
    ]
    for uid, agent_id in chance.sample(running, min(2, len(running))):
        command = Command(("agent", agent_id), "/", {"HOME": "/home"})
        attachment = Attachment(Owner(4711, 3), command=command, attempt_sequence=1)
        journal.attach(agent_id, attachment, uid=uid)
    await journal.commit()
    uid, agent_id = chance.choice(running)
    journal.finish(agent_id, uid=uid)
    await journal.commit()
    uid, agent_id = chance.choice(names)
    journal.compact(agent_id, uid=uid)
    await journal.commit()
    source = journal.agents[chance.choice(running)]
    if source.entries:
        copied = journal.begin_copy(uid=source.record.uid)
        journal.add_copies(copied, source.entries[:20])
        await journal.commit()
        journal.adopt(copied, f"fork-{journal.next_position}")
        await journal.commit()


def put_aside(store: Path, files: Path) -> Path:
    """Copy the files, as they are at this moment."""
    files.mkdir(parents=True)
    for suffix in FILES:
        if file_in(store, suffix).exists():
            shutil.copy(file_in(store, suffix), file_in(files, suffix))
    return files


async def make_bases(root: Path, chance: Random) -> list[Base]:
    """Make a journal, and put it aside at different moments of its life."""
    live = root / "live"
    live.mkdir(parents=True)
    store = store_in(live)
    await store.open()
    journal = PlainJournal(store)
    bases: list[Base] = []

    async def at_rest(name: str) -> None:
        await asyncio.sleep(3 * QUIET_SECONDS)  # the end of the log is written down meanwhile
        await store.load([])
        earlier = bases[-1].files if bases else put_aside(live, root / "earlier")
        agents = {key: agent.copy() for key, agent in journal.agents.items()}
        files = put_aside(live, root / name)
        bases.append(Base(name, files, earlier, agents, journal.next_position))

    await write_some(journal, chance, 3)
    await at_rest("young")
    await write_some(journal, chance, 40)
    await at_rest("killed")
    await journal.keep_house()
    await write_some(journal, chance, 12)
    await at_rest("swept")
    await store.settle_all()
    await journal.keep_house()
    await store.close()
    reopened = store_in(live)
    await reopened.open()
    await reopened.close()
    agents = {key: agent.copy() for key, agent in journal.agents.items()}
    files = put_aside(live, root / "stopped")
    bases.append(Base("stopped", files, bases[-1].files, agents, journal.next_position))
    return bases


async def look(base: Base, directory: Path, *, is_to_write: bool) -> str:
    """Start a journal as the daemon does, ask for everything, and say what came of it."""
    store = store_in(directory)
    journal = PlainJournal(store)
    journal.agents = {name: agent.copy() for name, agent in base.agents.items()}
    journal.next_position = base.next_position
    try:
        await store.open()
    except JournalError:
        return "refused"
    try:
        await journal.check(page=200)
        await check_states(journal)
        if is_to_write:
            await journal.append("afterwards")
        await journal.keep_house()
        await journal.check(page=200)
    except DamagedError:
        return "told"
    except AssertionError:
        return "told by the scrub" if await is_scrub_told(store) else "served wrong"
    finally:
        await store.close()
    return "harmless"


async def is_scrub_told(store: SqliteStore) -> bool:
    """Tell whether the look at all pages, which the daemon takes by and by, finds it."""
    page = 1
    try:
        while (looked_at := await store.check_pages(page))[0]:
            page += looked_at[0]
    except DamagedError:
        return True
    return False


async def check_states(journal: PlainJournal) -> None:
    """Ask for the agents of each user, in each state."""
    for uid in (OWNER, OTHER):
        for state in AgentState:
            known = [agent.record for name, agent in journal.agents.items() if name[0] == uid]
            assert await list_all(journal.store, uid=uid, state=state, limit=50) == sorted(
                (record for record in known if record.state is state),
                key=lambda record: record.first_position,
            )


def copied(base: Base, directory: Path) -> Path:
    """Return the base's files in a directory of their own."""
    shutil.rmtree(directory, ignore_errors=True)
    shutil.copytree(base.files, directory)
    return directory


@pytest.fixture
def runner() -> Iterator[asyncio.Runner]:
    """Run stores without their threads: a look asks a thousand things, one after the other."""
    with in_a_hurry(), asyncio.Runner() as runner:
        yield runner


@pytest.fixture
def quick_path(tmp_path: Path) -> Iterator[Path]:
    """Make a directory in memory, where there is one: what is synced here need not last."""
    memory = Path("/dev/shm")  # noqa: S108 - a directory of our own is made in it
    try:
        path = Path(tempfile.mkdtemp(prefix="aj-flips-", dir=memory))
    except OSError:
        path = tmp_path
    yield path
    shutil.rmtree(path)


@pytest.fixture
def bases(quick_path: Path, seed: str, runner: asyncio.Runner) -> list[Base]:
    return runner.run(make_bases(quick_path / "bases", Random(seed)))  # noqa: S311 - repeatable


def damage_many(
    bases: list[Base], path: Path, runner: asyncio.Runner, seed: str, count: int
) -> Counter[str]:
    """Damage the journals *count* times; return how often what came of it.

    Raises:
        AssertionError: something was served wrong, and nothing would ever have told.
    """
    for base in bases:  # undamaged they are what was recorded: the answers can be right
        assert runner.run(look(base, copied(base, path / "x"), is_to_write=True)) == "harmless"
    outcomes: Counter[str] = Counter()
    by_kind: dict[str, Counter[str]] = {}
    wrong: list[str] = []
    for number in range(count):
        chance = Random(f"{seed}/{number}")  # noqa: S311 - repeatable
        base = bases[number % len(bases)]
        directory = copied(base, path / "x")
        kind, done = damage(chance, directory, base.earlier)
        outcome = runner.run(look(base, directory, is_to_write=number % 7 == 0))
        outcomes[outcome] += 1
        by_kind.setdefault(kind, Counter())[outcome] += 1
        if outcome.startswith(("served", "told by the scrub")):
            wrong.append(f"{number}: {base.name}: {done}: {outcome}")
    for kind, found in sorted(by_kind.items()):
        print(kind, dict(found))  # noqa: T201 - shown on failure
    print(*wrong, sep="\n")  # noqa: T201 - likewise
    assert not outcomes["served wrong"]
    assert count - outcomes["harmless"] > count // 5
    return outcomes


@pytest.mark.sized
@pytest.mark.timeout(7200)
def test_no_damage_is_served(  # noqa: PLR0913, PLR0917 - fixtures
    bases: list[Base],
    quick_path: Path,
    runner: asyncio.Runner,
    size: Size,
    seed: str,
    figures: Figures,
) -> None:
    count = size(200, 20_000)
    outcomes = damage_many(bases, quick_path, runner, seed, count)
    figures(
        damaged=count,
        harmless=outcomes["harmless"],
        refused_at_start=outcomes["refused"],
        told_by_an_answer=outcomes["told"],
        served_wrong=outcomes["served wrong"] + outcomes["told by the scrub"],
        seed=seed,
    )
    assert not outcomes["told by the scrub"]


@pytest.mark.sized
@pytest.mark.timeout(7200)
def test_a_journal_too_large_to_be_looked_at_whole(  # noqa: PLR0913, PLR0917 - fixtures
    bases: list[Base],
    quick_path: Path,
    runner: asyncio.Runner,
    size: Size,
    seed: str,
    figures: Figures,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What lies in pages that the start did not come to is told by answers, or by the scrub."""
    monkeypatch.setattr(integrity, "CHUNK_PAGES", 2)
    monkeypatch.setattr(database_thread, "START_BYTES_MAX", 1)
    count = size(60, 4000)
    outcomes = damage_many(bases, quick_path, runner, seed, count)
    figures(
        damaged=count,
        harmless=outcomes["harmless"],
        refused_at_start=outcomes["refused"],
        told_by_an_answer=outcomes["told"],
        told_by_the_scrub_alone=outcomes["told by the scrub"],
        served_wrong=outcomes["served wrong"],
        seed=seed,
    )


def everything(daemon: RunningDaemon) -> dict[str, list[dict[str, Any]]] | None:
    """Return all that a daemon shows; ``None`` where it says that it is damaged."""
    listed = daemon.request({"op": "agents", "limit": 1000})
    if not listed["ok"]:
        assert listed["error"]["code"] == "damaged", listed
        return None
    found = {}
    for agent in listed["agents"]:
        reply = daemon.request({"op": "read", "agent_id": agent["agent_id"], "limit": 1000})
        if not reply["ok"]:
            assert reply["error"]["code"] == "damaged", reply
            return None
        found[agent["agent_id"]] = [copy.copy(entry) for entry in reply["entries"]]
    return found


def is_at_rest(database: Path) -> bool:
    """Tell whether the daemon has written down how far the log has come."""
    found = integrity.inspect(database)
    mark, wal = found.mark, found.wal
    return mark is not None and (mark.salts, mark.frames) == (wal.salts, wal.frames)


@pytest.mark.sized
@pytest.mark.timeout(3600)
def test_no_damage_is_served_by_a_daemon(
    tmp_path: Path, size: Size, seed: str, figures: Figures
) -> None:
    """The daemon stays up and says ``damaged``; a client is never given what is wrong."""
    chance = Random(seed)  # noqa: S311 - repeatable
    with RunningDaemon() as daemon:
        for part in range(2):
            lines = [
                {"op": "append", "agent_id": f"a{n % 9}", "event": {"N": [n, "x" * (n % 500)]}}
                for n in range(800 * part, 800 * (part + 1))
            ]
            assert all(reply["ok"] for reply in daemon.exchange(lines))
            was = everything(daemon)
            until(lambda: is_at_rest(daemon.database))
            daemon.kill()
            put_aside(daemon.database.parent, tmp_path / str(part))
            daemon.start()
    assert was is not None
    outcomes: Counter[str] = Counter()
    count = size(4, 200)
    for _ in range(count):
        directory = tmp_path / "x"
        shutil.rmtree(directory, ignore_errors=True)
        shutil.copytree(tmp_path / "1", directory)
        _, done = damage(chance, directory, tmp_path / "0")
        with RunningDaemon(directory) as daemon:
            found = everything(daemon)
            outcomes["said damaged" if found is None else "harmless"] += 1
            assert found is None or found == was, done
            assert daemon.stop() == 0
    figures(damaged=count, **{name.replace(" ", "_"): n for name, n in outcomes.items()}, seed=seed)
