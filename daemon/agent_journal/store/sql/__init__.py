"""The SQL of the store: named statements, and the migrations in order."""

from __future__ import annotations

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
MIGRATIONS: Final = _migrations()
SCHEMA_VERSION: Final = len(MIGRATIONS)
