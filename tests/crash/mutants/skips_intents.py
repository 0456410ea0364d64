"""A mutant: the client library of the agent calls a step's function without the record before it.

Started as the agent is, by the test and by the daemon: ``python skips_intents.py AGENT-ID …``.
Cheaper by half, and nothing shows it until a process dies between an effect and its record.
"""

from __future__ import annotations

import runpy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from agent_journal.client._steps import Steps

AGENT = Path(__file__).parents[1] / "agents" / "fifty_steps.py"


def begins_unseen(_: Steps, step: Any) -> Iterator[Any]:
    step.is_running = True
    return
    yield


Steps._intend = begins_unseen  # type: ignore[assignment,method-assign]

if __name__ == "__main__":
    runpy.run_path(str(AGENT), run_name="__main__")
