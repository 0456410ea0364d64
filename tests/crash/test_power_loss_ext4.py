"""What was answered survives a power cut beneath a real ext4.

The states that ``test_power_loss.py`` looks at come from a model of a file system;
here the kernel's own writes to a disk, and the kernel's own recovery mounts what a
power cut left of them.
"""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

import pytest

from crash.power.device import MIB, Device, mounted, require
from crash.power.explorer import Explorer, Seen
from crash.power.hunt import SMALL_GENERATIONS, scratch
from crash.power.hurry import in_a_hurry
from crash.power.logged_disk import LoggedDisk, mark
from crash.power.recording import DAEMON, Recording, compiled
from crash.power.trace import Trace

if TYPE_CHECKING:
    from collections.abc import Sequence

    from conftest import Figures, Size

MUTANTS = Path(__file__).parent / "mutants"
WHAT = "what a power cut leaves of an ext4"
SIZE = 24 * MIB
STATES_PER_DISK = 100


def recorded(directory: Path, seed: str, argv: Sequence[str]) -> tuple[Trace, LoggedDisk]:
    """Have a daemon work on a disk that writes everything down."""
    directory.mkdir()
    with Device(directory / "device", size=SIZE, logged=True) as device:
        recording = Recording(
            directory,
            compiled(directory),
            seed,
            argv=argv,
            state=device.mounted / "state",
            answered=lambda request: mark(device.log, request),
        )
        trace = recording.make(lives=2)
        log = device.log
    return trace, LoggedDisk(log, SIZE)


def explored(
    directory: Path, seed: str, argv: Sequence[str], wanted: int
) -> tuple[Seen, list[str]]:
    """Look at what *wanted* power cuts left; return what was wrong with it."""
    trace, disk = recorded(directory, seed, argv)
    # Repeatable, not secret.
    random = Random(seed)  # noqa: S311
    seen, bad = Seen(), []
    with scratch() as memory, in_a_hurry():
        image, at, recovering = (Path(memory) / name for name in ("image", "at", "recovering"))
        at.mkdir()
        recovering.mkdir()

        async def explore() -> None:
            explorer = Explorer(trace, recovering)
            bad.extend(await explorer.prepare(os.geteuid()))
            for moment, how, data in disk.images(disk.moments(wanted, random), random):
                image.write_bytes(data)
                with mounted(image, at):
                    state = at / "state"
                    files = {path.name: path.read_bytes() for path in state.iterdir()}
                problem = await explorer.judge_answered(files, disk.answered(moment), seen)
                if problem is not None:
                    bad.append(f"seed {seed}, event {moment}, unflushed writes: {how}: {problem}")

        asyncio.run(explore())
    return seen, bad


@pytest.mark.sized
@pytest.mark.timeout(3600)
def test_what_was_answered_survives_a_power_cut_beneath_ext4(
    tmp_path: Path, seed: str, size: Size, figures: Figures
) -> None:
    require(WHAT)
    wanted = size(50, 2_000)
    cuts = states = 0
    while cuts < wanted:
        count = min(STATES_PER_DISK, wanted - cuts)
        argv = (DAEMON, SMALL_GENERATIONS)[cuts // STATES_PER_DISK % 2]
        seen, bad = explored(tmp_path / f"disk-{cuts}", f"{seed}/{cuts}", argv, count)
        assert not bad, "\n".join(bad[:10])
        cuts += count
        states += seen.states
    figures(power_cuts=cuts, distinct_journals_found=states, bad=0, seed=seed)


@pytest.mark.timeout(120)
def test_a_daemon_that_syncs_checkpoints_only_is_caught(tmp_path: Path, seed: str) -> None:
    require(WHAT)
    argv = [sys.executable, str(MUTANTS / "synchronous_normal.py")]
    _, bad = explored(tmp_path / "disk", seed, argv, 50)
    print("\n".join(bad[:3]))  # noqa: T201 - with -s one sees by what
    assert any("lost" in one for one in bad)
