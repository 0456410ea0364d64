"""The tables of a journal, read page by page past whatever is damaged.

What SQLite's catalogue says where they begin is believed if it can be read; if it
cannot, or where a page that led to others is gone, the pages that nothing leads
to any more are recognised by what they hold.
"""

from __future__ import annotations

import heapq
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from ..errors import DamagedError
from .btree import LEAF_TABLE, Node, Row, Trees, UnreadableError, Value
from .page_file import PageFile
from .rows import PackedRow

AGENT_VALUES_MIN: Final = 14  # columns of an agent before attachments came

LogRow = tuple[int, bytes]


class Problem(NamedTuple):
    """A page, or what is on it, that is not what it should be."""

    page: int
    text: str


class Agent(NamedTuple):
    """An agent's row, its counters as far as they are settled."""

    number: int
    uid: int
    agent_id: str
    state: str
    kind: str | None
    epoch: int
    attempts: int
    reason: str | None
    first_position: int
    created_at: int
    updated_at: int
    next_sequence: int
    last_iteration: int
    key_high: str
    attachment: str | None
    checksum: int | None
    command: str | None


@dataclass(slots=True)
class Layout:
    """Where the tables begin, and what was found wrong on the way."""

    pages: PageFile
    problems: list[Problem] = field(default_factory=list)
    roots: dict[str, int] = field(default_factory=dict)
    sql: dict[str, str] = field(default_factory=dict)
    orphans: list[int] = field(default_factory=list)  # leaves of tables that nothing leads to
    unused: int = 0  # pages that are neither used nor listed as free

    def __post_init__(self) -> None:
        """Read the catalogue, and see which pages it leads to."""
        trees = Trees(self.pages, self._note)
        for _, values in trees.rows(1):
            match values:
                case [str(), str(name), str(), int(root), sql] if root:
                    self.roots[name] = root
                    self.sql[name] = str(sql)
                case _:
                    pass
        self._walk(trees)

    def _note(self, page: int, text: str) -> None:
        self.problems.append(Problem(page, f"page {page} {text}"))

    def _walk(self, trees: Trees) -> None:
        """Follow every tree to its end, for what is in none of them."""
        for name, root in sorted(self.roots.items(), key=lambda item: item[1]):
            before: int | None = None
            is_table = "WITHOUT ROWID" not in self.sql[name] and self.sql[name] != "None"
            is_table = is_table and self.sql[name].startswith("CREATE TABLE")
            for rowid, _ in trees.rows(root):
                if is_table and before is not None and rowid <= before:
                    self.problems.append(Problem(root, f"{name} is out of order at {rowid}"))
                before = rowid
        free = self.pages.free_pages()
        service = self.pages.service_pages()
        for page in range(1, self.pages.pages + 1):
            if trees.used[page]:
                if page in free:
                    self.problems.append(Problem(page, f"page {page} is used, and listed as free"))
            elif page not in free and page not in service:
                self.unused += 1
                if self._is_leaf_of_table(page):
                    self.orphans.append(page)
        if self.unused and not self.problems:
            self.problems.append(Problem(0, f"{self.unused} pages are neither used nor free"))

    def _is_leaf_of_table(self, page: int) -> bool:
        try:
            return Node(page, self.pages).kind == LEAF_TABLE
        except UnreadableError:
            return False

    def _rows(self, name: str) -> Iterator[Row]:
        """Yield the rows of a tree; what is wrong with it was noted before."""
        root = self.roots.get(name)
        if root is not None:
            yield from Trees(self.pages, lambda _page, _text: None).rows(root)

    def _orphaned(self) -> Iterator[Row]:
        for page in self.orphans:
            node = Node(page, self.pages)
            for place in range(node.count):
                try:
                    yield node.row(place)
                except UnreadableError:
                    continue

    def log(self) -> Iterator[LogRow]:
        """Yield the rows of the log, in the order of their positions."""
        lost = [
            (rowid, values[1])
            for rowid, values in self._orphaned()
            if len(values) == 2 and isinstance(values[1], bytes) and _is_row(rowid, values[1])  # noqa: PLR2004 - the log's columns
        ]
        yield from heapq.merge(self._tree_of_log(), sorted(lost))

    def _tree_of_log(self) -> Iterator[LogRow]:
        for rowid, values in self._rows("log"):
            if len(values) == 2 and isinstance(values[1], bytes):  # noqa: PLR2004 - as above
                yield rowid, values[1]

    def agents(self) -> Iterator[Agent]:
        """Yield the agents, by number."""
        for rowid, values in self._rows("agents"):
            agent = _agent(rowid, values)
            if agent is not None:
                yield agent
        for rowid, values in self._orphaned():
            agent = _agent(rowid, values)
            if agent is not None:
                yield agent

    def index(self, name: str) -> Iterator[list[Value]]:
        """Yield the rows of an index, or of a table without row ids, in order."""
        for _, values in self._rows(name):
            yield values

    def numbers(self, name: str) -> dict[int, Value]:
        """Return a small table of two columns, by its row ids."""
        return {rowid: values[1] for rowid, values in self._rows(name) if len(values) > 1}

    def marks(self) -> dict[str, int]:
        """Return the marks."""
        return {
            str(values[0]): values[1]
            for values in self.index("marks")
            if len(values) == 2 and isinstance(values[1], int)  # noqa: PLR2004 - name and value
        }


def _is_row(position: int, data: bytes) -> bool:
    try:
        return PackedRow(position, data).count > 0
    except (DamagedError, struct.error, IndexError):
        return False


def _agent(number: int, values: list[Value]) -> Agent | None:
    """Return an agent, if this is a row of one."""
    if len(values) < AGENT_VALUES_MIN:
        return None
    values = [number, *values[1 : len(Agent._fields)]]
    values += [None] * (len(Agent._fields) - len(values))
    try:
        for value, kind in zip(values, _AGENT_TYPES, strict=True):
            if not isinstance(value, kind):
                return None
        return Agent(*values)  # type: ignore[arg-type] # each was looked at
    except (TypeError, ValueError):
        return None


_TEXT: Final = (str, type(None))
_AGENT_TYPES: Final = (
    (int,), (int,), (str,), (str,), _TEXT, (int,), (int,), _TEXT,
    (int,), (int,), (int,), (int,), (int,), (str,), _TEXT, (int, type(None)), _TEXT,
)  # fmt: skip
