"""``agent-journal metrics``: the daemon's figures in Prometheus' text format."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Final

from ..service.exposition import Figures, exposition, samples
from .connection import connected
from .failures import ExitCode
from .output import print_json

if TYPE_CHECKING:
    from ..client import Client

EXAMPLES: Final = """\
  agent-journal metrics
  agent-journal metrics > /var/lib/node_exporter/agent_journal.prom.new
  curl --unix-socket /run/agent-journal/journal.sock http://j/metrics
  agent-journal metrics --json | jq 'select(.labels.code)'
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments: there are none."""


def run(arguments: argparse.Namespace) -> int:
    """Print them: the caller's own, and an administrator's those of the host."""
    with connected(arguments) as journal:
        figures = all_figures(journal)
    if not arguments.json:
        print(exposition(figures), end="")
        return ExitCode.OK
    for name, kind, _, found in samples(figures):
        for suffix, labels, value in found:
            print_json(
                {"name": name + suffix, "type": kind, "labels": dict(labels), "value": value}
            )
    return ExitCode.OK


def all_figures(journal: Client) -> Figures:
    """Return the figures of everything that the caller may see."""
    figures = journal.stats()
    return journal.stats(uid="*") if figures.get("is_admin") else figures
