"""One program that starts daemons, for all tests of this directory."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from faults.daemons import FaultyDaemon, Starter


@pytest.fixture(scope="session")
def starter() -> Iterator[Starter]:
    """Return what starts daemons."""
    starter = Starter()
    try:
        with FaultyDaemon(starter, starter.directory) as daemon:
            if not daemon.calls.count:
                pytest.skip("the calls of this interpreter can't be seen: no fault was tried")
        yield starter
    finally:
        starter.close()
