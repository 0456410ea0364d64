"""Our own rules about the code, as tests."""

from __future__ import annotations

import ast
import re
import sqlite3
import tomllib
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from agent_journal import __version__
from agent_journal.errors import ERRORS
from agent_journal.store.sql import MIGRATIONS, QUERIES, SCHEMA_VERSION

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "daemon"
PACKAGE = SOURCE / "agent_journal"
MODULES = sorted(PACKAGE.rglob("*.py"))

MODULE_LINES_MAX = 500

# Only clock.py asks for the time or for chance, so that a test can say what they are.
TIME_AND_CHANCE = {"time", "datetime", "random", "uuid", "secrets"}
ASK_ALL_THE_SAME = {
    "clock.py": "it is the clock",
    "wire_requests.py": "has a datetime for a timestamp",
    "wire.py": "renders and reads timestamps, never asks for one",
    "store/database.py": "bounds slices of reading, and times writes; nothing recorded shows it",
    "service/exposition.py": "reads a timestamp, never asks for one",
    "client/_encoding.py": "reads and renders timestamps, never asks for one",
    "client/_results.py": "has a datetime for a timestamp",
    "testing/daemon.py": "waits for a real process",
}
EXEMPT_PARTS = ("cli/",)  # programs for people: they show times and wait for processes


def name_of(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


def imported(path: Path) -> Iterator[str]:
    """Yield the top-level names that a module imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.split(".")[0]


def test_the_source_root_is_no_package() -> None:
    """``daemon/`` as a package would overwrite PyPI's python-daemon."""
    assert not (SOURCE / "__init__.py").exists()
    assert {path.name for path in SOURCE.iterdir() if path.is_dir()} - {"__pycache__"} == {
        "agent_journal"
    }
    assert not [*(ROOT / "systemd").rglob("*.py")]


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_a_module_holds_one_idea(path: Path) -> None:
    """One that is this long asks which two are in it."""
    assert len(path.read_text("utf-8").splitlines()) <= MODULE_LINES_MAX


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_a_module_says_what_it_is_for(path: Path) -> None:
    docstring = ast.get_docstring(ast.parse(path.read_text("utf-8")))
    if path.name == "__init__.py" and not path.read_text("utf-8").strip():
        pytest.fail("a package says in a line what it holds")
    assert docstring
    assert docstring.splitlines()[0].endswith((".", ":", "?")) or len(docstring.splitlines()) > 1


@pytest.mark.parametrize(
    "path", [path for path in MODULES if not name_of(path).startswith(EXEMPT_PARTS)], ids=name_of
)
def test_only_the_clock_asks_for_the_time(path: Path) -> None:
    asked = TIME_AND_CHANCE & {*imported(path)}
    assert not asked or name_of(path) in ASK_ALL_THE_SAME, asked


def test_who_asks_for_the_time_all_the_same_still_does() -> None:
    """A reason that no longer applies is taken off the list."""
    asking = {name_of(path) for path in MODULES if TIME_AND_CHANCE & {*imported(path)}}
    assert {*ASK_ALL_THE_SAME} <= asking


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_no_module_is_called_a_drawer(path: Path) -> None:
    assert path.stem not in {"utils", "util", "helpers", "common", "types", "misc"}


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_a_named_exemption_says_why(path: Path) -> None:
    """``noqa`` and ``type: ignore`` name the rule; a bare one would hide whatever comes."""
    for line in path.read_text("utf-8").splitlines():
        assert not re.search(r"#\s*noqa\s*(?!:)(\s|$)", line), line
        assert not re.search(r"#\s*type:\s*ignore(?!\[)", line), line


class TestErrors:
    def test_every_code_is_in_the_protocol(self) -> None:
        document = (ROOT / "docs" / "PROTOCOL.md").read_text("utf-8")
        own_of_clients = {"connection_lost"}
        for code in ERRORS.keys() - own_of_clients:
            assert f"`{code}`" in document, code

    def test_every_code_in_the_protocol_is_an_error(self) -> None:
        document = (ROOT / "docs" / "PROTOCOL.md").read_text("utf-8")
        table = re.findall(r"^\| `(\w+)` \| (?:yes|no) \|", document, re.MULTILINE)
        assert len(table) > 15
        assert {*table} <= ERRORS.keys()


class TestSql:
    @pytest.fixture
    def connection(self) -> Iterator[sqlite3.Connection]:
        with closing(sqlite3.connect(":memory:")) as connection:
            for script in MIGRATIONS:
                connection.executescript(script)
            yield connection

    @pytest.mark.parametrize("name", sorted(QUERIES))
    def test_a_query_fits_the_schema(self, name: str, connection: sqlite3.Connection) -> None:
        query = QUERIES[name]
        numbered = [int(number) for number in re.findall(r"\?(\d+)", query)]
        count = max(numbered, default=query.count("?"))
        assert connection.execute(f"EXPLAIN {query}", [0] * count).fetchall()

    @pytest.mark.parametrize("name", sorted(QUERIES))
    def test_a_query_is_used(self, name: str) -> None:
        text = "".join(path.read_text("utf-8") for path in (PACKAGE / "store").glob("*.py"))
        assert f'"{name}"' in text

    def test_every_query_that_is_named_is_there(self) -> None:
        text = "".join(path.read_text("utf-8") for path in (PACKAGE / "store").glob("*.py"))
        named = re.findall(r'_query\("(\w+)"|QUERIES\["(\w+)"\]', text)
        assert {one or other for one, other in named} <= QUERIES.keys()

    def test_sql_is_in_files(self) -> None:
        """Python names queries, and builds none of its own."""
        pattern = re.compile(r"\b(SELECT\b.+\bFROM|INSERT INTO|UPDATE \w+ SET|DELETE FROM)\b")
        for path in MODULES:
            for node in ast.walk(ast.parse(path.read_text("utf-8"))):
                if isinstance(node, ast.Constant) and isinstance(node.value, str):
                    is_schema = "sqlite_master" in node.value
                    assert is_schema or not pattern.search(node.value), (path, node.value)

    def test_migrations_are_numbered_without_a_gap(self) -> None:
        names = sorted(path.name for path in (PACKAGE / "store/sql/migrations").glob("*.sql"))
        assert len(names) == SCHEMA_VERSION == len(MIGRATIONS)
        assert [int(name[:4]) for name in names] == [*range(1, len(names) + 1)]
        assert all(re.fullmatch(r"\d{4}_[a-z_]+\.sql", name) for name in names)


class TestRepository:
    def test_the_changelog_has_a_place_for_what_is_next(self) -> None:
        changelog = (ROOT / "CHANGELOG.md").read_text("utf-8")
        assert re.search(r"^## \[?Unreleased\]?", changelog, re.MULTILINE)

    def test_the_version_is_said_once(self) -> None:
        project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
        assert project["version"] == __version__

    def test_the_package_is_typed(self) -> None:
        assert (PACKAGE / "py.typed").exists()

    @pytest.mark.parametrize(
        "name", ["README.md", "LICENSE", "config.toml", "Makefile", "docs/ARCHITECTURE.md"]
    )
    def test_what_every_project_has(self, name: str) -> None:
        assert (ROOT / name).is_file()


class TestTests:
    @pytest.mark.parametrize(
        "path",
        [
            path
            for folder in ("unit", "service", "contract")
            for path in sorted((ROOT / "tests" / folder).rglob("*.py"))
        ],
        ids=lambda path: path.relative_to(ROOT).as_posix(),
    )
    def test_no_test_of_the_core_sleeps(self, path: Path) -> None:
        """It waits for what it wants, or steps the clock; ``sleep(0)`` lets others run."""
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if not isinstance(node, ast.Call) or not ast.unparse(node.func).endswith("sleep"):
                continue
            assert ast.unparse(node) == "asyncio.sleep(0)", f"line {node.lineno}"
