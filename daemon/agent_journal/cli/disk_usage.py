"""``agent-journal disk-usage``: how much room the journal takes, and what of it is free."""

from __future__ import annotations

import argparse
from typing import Final

from .connection import connected
from .failures import ExitCode
from .output import print_json
from .sizes import size_text
from .terminal import Cell, Column, Table, standard_output

EXAMPLES: Final = """\
  agent-journal disk-usage
  agent-journal disk-usage --json | jq .total_bytes
  sudo agent-journal disk-usage                # of the host's journal
"""

COLUMNS: Final = (Column(title="WHAT"), Column(title="SIZE", right=True), Column(title=""))


def configure(parser: argparse.ArgumentParser) -> None:
    """Add no arguments."""


def run(arguments: argparse.Namespace) -> int:
    """Print what each part takes, and all together."""
    with connected(arguments) as journal:
        found = journal.call({"op": "disk_usage"})
    sizes = {name: value for name, value in found.items() if name.endswith("_bytes")}
    total = sum(sizes.values()) - sizes["free_bytes"]  # which are among the database's
    if arguments.json:
        print_json({**sizes, "total_bytes": total, "gives_back": found["gives_back"]})
        return ExitCode.OK
    free = "given back by and by, but for the last MiB"
    if not found["gives_back"]:
        free = "used again, not given back: see agent-journal vacuum --help, --offline"
    rows = (
        ("database", sizes["database_bytes"], "entries, agents and their index"),
        ("  of it free", sizes["free_bytes"], free),
        ("write-ahead log", sizes["log_bytes"], ""),
        ("page sums", sizes["sums_bytes"], ""),
        ("attempts' output", sizes["output_bytes"], ""),
        ("archives", sizes["archive_bytes"], ""),
        ("together", total, ""),
    )
    Table(standard_output(), COLUMNS).print(
        (name, Cell(size_text(size), "bold"), Cell(told, "dim")) for name, size, told in rows
    )
    return ExitCode.OK
