"""``agent-journal stats``: the daemon's counters and gauges."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from typing import Final

from .arguments import add_uid
from .connection import connected
from .failures import ExitCode
from .output import print_json
from .terminal import Cell, Column, Table, standard_output

EXAMPLES: Final = """\
  agent-journal stats
  agent-journal stats --json | jq .
"""

COLUMNS: Final = (Column(title="NAME"), Column(title="VALUE", right=True), Column(title=""))
ENVELOPE: Final = frozenset({"id", "ok"})
NAMES: Final = frozenset({"pid", "uid"})  # numbers that nobody counts with
KIB: Final = 1024


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    add_uid(parser, everyone=True)


def run(arguments: argparse.Namespace) -> int:
    """Print every counter."""
    with connected(arguments) as journal:
        stats = journal.stats(uid=arguments.uid)
    counters = {name: value for name, value in stats.items() if name not in ENVELOPE}
    if arguments.json:
        print_json(counters)
    else:
        Table(standard_output(), COLUMNS).print(
            (name, Cell(_number(name, value), "bold"), Cell(_size(name, value), "dim"))
            for name, value in _flat(counters)
        )
    return ExitCode.OK


def _flat(values: Mapping[str, object], prefix: str = "") -> Iterator[tuple[str, object]]:
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}.")
        elif not isinstance(value, list):  # buckets are for programs
            yield prefix + name, value


def _number(name: str, value: object) -> str:
    if name in NAMES or isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:,.3f}"


def _size(name: str, value: object) -> str:
    """Return bytes in the unit that a person would use; nothing for other counters."""
    is_size = "bytes" in name.replace(".", "_").split("_")
    if not is_size or not isinstance(value, int) or value < KIB:
        return ""
    size = float(value)
    for unit in ("B", "KiB", "MiB"):
        if size < KIB:
            return f"{size:.1f} {unit}"
        size /= KIB
    return f"{size:.1f} GiB"
