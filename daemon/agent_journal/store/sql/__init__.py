"""The SQL of the store: named statements, and the migrations in order."""

from __future__ import annotations

import re
from functools import cache
from importlib.resources import files
from typing import Final


def _statements() -> dict[str, str]:
    text = files(__name__).joinpath("queries.sql").read_text("utf-8")
    sections = text.split("--: ")[1:]
    return {name.strip(): body.strip() for name, _, body in (s.partition("\n") for s in sections)}


def _migrations() -> tuple[str, ...]:
    folder = files(__name__).joinpath("migrations")
    scripts = sorted((path for path in folder.iterdir()), key=lambda path: path.name)
    return tuple(path.read_text("utf-8") for path in scripts if path.name.endswith(".sql"))


QUERIES: Final = _statements()
_VALUES: Final = re.compile(r"VALUES (\([?, ]+\))")


@cache
def with_rows(name: str, count: int) -> str:
    """Return a statement whose VALUES holds *count* rows.

    One such statement runs without the interpreter's lock from its first row to
    its last; ``executemany`` would ask for the lock at every row.
    """
    return _VALUES.sub(lambda row: "VALUES " + ", ".join([row[1]] * count), QUERIES[name])


MIGRATIONS: Final = _migrations()
SCHEMA_VERSION: Final = len(MIGRATIONS)
