"""What all tests share: their size, their seed, and the figures that they leave.

Some tests draw from a space that no run exhausts: the disks that a power cut can
leave, schedules, hostile lines.  ``make test`` looks at a part of it that takes
seconds; ``--full``, which ``make crash`` gives, looks at as much as is published in
``docs/RELIABILITY.md``.  Each says at the end of the run how much it saw, and its
seed, with which ``CRASH_SEED`` repeats it.  The part is the same each time, so that
a change that fails is to blame for it; ``--full`` draws a seed that was never used.
"""

from __future__ import annotations

import os
import secrets
import signal
import zlib
from collections.abc import Callable

import pytest
from hypothesis import settings

# No deadline: a test never asserts a speed, and a busy machine is slow at times.
settings.register_profile("journal", deadline=None, max_examples=60, derandomize=True)
settings.register_profile("full", settings.get_profile("journal"), derandomize=False)

pytest.register_assert_rewrite(
    "agent_journal.testing.durable_contract",
    "agent_journal.testing.plain_journal",
    "agent_journal.testing.store_contract",
    "agent_journal.testing.store_machine",
)

Size = Callable[[int, int], int]
Figures = Callable[..., None]

FIGURES = pytest.StashKey[list[str]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add ``--full``."""
    parser.addoption(
        "--full", action="store_true", help="sized tests: as much as docs/RELIABILITY.md publishes"
    )


def pytest_configure(config: pytest.Config) -> None:
    """Begin with no figures, and with Ctrl-C as a terminal's programs have it.

    What a script starts in the background ignores SIGINT, and so do its children;
    tests that send it would wait for nothing.
    """
    config.stash[FIGURES] = []
    settings.load_profile("full" if config.getoption("--full") else "journal")
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def size(request: pytest.FixtureRequest) -> Size:
    """Return what tells how much is to be seen: ``size(quick, full)``.

    ``CRASH_SHARE=0.1`` sees a tenth of the full size.
    """

    def size(quick: int, full: int) -> int:
        if not request.config.getoption("--full"):
            return quick
        return max(quick, round(full * float(os.environ.get("CRASH_SHARE", "1"))))

    return size


@pytest.fixture
def workers(request: pytest.FixtureRequest) -> int:
    """Return how many processes a test may use: with ``--full`` as many as there are processors.

    ``$CRASH_WORKERS`` says otherwise.
    """
    if not request.config.getoption("--full"):
        return 1
    return int(os.environ.get("CRASH_WORKERS") or len(os.sched_getaffinity(0)))


@pytest.fixture
def seed(request: pytest.FixtureRequest) -> str:
    """Return ``$CRASH_SEED``, or the test's own, or with ``--full`` one that was never used.

    A failing test shows it.
    """
    is_full = request.config.getoption("--full")
    own = f"{zlib.crc32(request.node.nodeid.encode()):08x}"
    seed = os.environ.get("CRASH_SEED") or (secrets.token_hex(4) if is_full else own)
    print(f"CRASH_SEED={seed} repeats {request.node.name}")  # noqa: T201 - shown on failure
    return seed


@pytest.fixture
def figures(request: pytest.FixtureRequest) -> Figures:
    """Return what keeps figures for the end of the run: ``figures(states=5000, bad=0)``."""

    def figures(**values: object) -> None:
        told = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in values.items())
        request.config.stash[FIGURES].append(f"{request.node.nodeid}: {told}")

    return figures


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """Show the figures that tests left."""
    if config.stash[FIGURES]:
        terminalreporter.section("figures")
        for line in config.stash[FIGURES]:
            terminalreporter.line(line)
