r"""Print for people: tables and colours, and data that cannot harm the terminal.

What an agent recorded is anybody's text: a model's answer, a web page, a file's
name.  Printed as it is, an escape sequence in it could clear the screen, change
the window's title or hide the rest of the line.

Invariant: nothing that came out of the journal reaches the screen as a control
character, in a table or in JSON.  It is shown as its escape (``\x1b``).
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain, islice
from typing import Final, TextIO

from ..value import Value

RESET: Final = "\x1b[0m"
STYLES: Final[Mapping[str, str]] = {
    "bold": "\x1b[1m",
    "dim": "\x1b[2m",
    "red": "\x1b[31m",
    "green": "\x1b[32m",
    "yellow": "\x1b[33m",
    "blue": "\x1b[34m",
    "magenta": "\x1b[35m",
    "cyan": "\x1b[36m",
    "alarm": "\x1b[1;31m",
}
WIDTH_DEFAULT: Final = 80  # a terminal that does not tell its width
WIDTH_MIN: Final = 40  # narrower than this and lines may wrap
FLEXIBLE_WIDTH_MIN: Final = 8
MEASURED_ROWS_MAX: Final = 200  # widths come from the first rows; the rest streams
MEASURED_CHARACTERS_MAX: Final = 1_000_000  # kept until they are measured; one may have millions

_JOINERS: Final = frozenset("\u200c\u200d")  # invisible, harmless, and needed by some scripts
# The blocks of East Asian text and of pictures.  A compiled pattern costs every start.
_WIDE: Final = (
    "[\u1100-\u115f\u2e80-\ua4cf\uac00-\ud7a3\uf900-\ufaff\ufe30-\uff60"
    "\uffe0-\uffe6\U0001f000-\U0001faff\U00020000-\U0003fffd]"
)


def harmless(text: str) -> str:
    """Return *text* on one line, with every control character as its escape."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in _JOINERS else _escaped(c) for c in text)


def harmless_json(text: str) -> str:
    r"""Return JSON *text* with every unprintable character as its ``\u`` escape.

    Such a character can only stand inside a string, so the value stays the same.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in _JOINERS else _json_escaped(c) for c in text)


def _escaped(character: str) -> str:
    if character in "\u00a0\u202f\u3000" or "\u2000" <= character <= "\u200a":
        return " "  # a space of another width
    return character.encode("unicode_escape").decode("ascii")


def _json_escaped(character: str) -> str:
    units = character.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[at : at + 2].hex()}" for at in range(0, len(units), 2))


def width_of(text: str) -> int:
    """Return how many columns *text* takes: two for wide characters, none for marks."""
    if text.isascii():
        return len(text)
    # Only text beyond ASCII pays for the import.
    from unicodedata import category  # noqa: PLC0415

    marks = sum(category(c) in {"Mn", "Me", "Cf"} for c in text)
    return len(text) + len(re.findall(_WIDE, text)) - marks


def cut(text: str, width: int) -> str:
    """Return *text* in at most *width* columns, its end replaced by ``…``."""
    if len(text) <= width and width_of(text) <= width:
        return text
    text = text[: max(width - 1, 0)]
    while text and width_of(text) > width - 1:
        text = text[:-1]
    return text + "…" if width > 0 else ""


class Cell(Value):
    """One field of a table and the style it is painted in."""

    text: str
    style: str = ""


class Rule(Value):
    """A line across the table, with a text in it; stands between rows."""

    text: str
    style: str = ""


class Wide(Value):
    """A row that has some cells, and then a text that takes the place of all other columns."""

    cells: Sequence[Cell | str]
    rest: str


class Column(Value):
    """How one column of a table looks."""

    title: str
    right: bool = False
    width_min: int = 0
    optional: bool = False  # left out where the measured rows have nothing in it
    flexible: bool = False  # cut where the row would be wider than the terminal
    spare: bool = False  # left out where even that is not enough


class Terminal:
    """Where output goes: a screen of some width, or a file or pipe without one."""

    def __init__(self, stream: TextIO, environ: Mapping[str, str] = os.environ) -> None:
        self._stream = stream
        self.is_tty: Final = stream.isatty()
        self.has_colours: Final = _wants_colours(environ, is_tty=self.is_tty)
        self.width: Final = _width(stream, environ, is_tty=self.is_tty)
        encoding = getattr(stream, "encoding", None) or "utf-8"
        self._is_unicode: Final = encoding.lower().replace("-", "") == "utf8"

    def paint(self, text: str, style: str) -> str:
        """Return *text* in *style*, or as it is where there are no colours."""
        return f"{STYLES[style]}{text}{RESET}" if style and text and self.has_colours else text

    def sign(self, sign: str, plain: str) -> str:
        """Return *sign*, or *plain* where the locale has no such character."""
        return sign if self._is_unicode else plain

    def line(self, text: str = "") -> None:
        """Print a line; *text* is already harmless."""
        self._stream.write(text + "\n")

    def flush(self) -> None:
        """Let the reader have what was printed so far."""
        self._stream.flush()


def standard_output() -> Terminal:
    """Return the terminal (or pipe) behind standard output."""
    return Terminal(sys.stdout)


def _wants_colours(environ: Mapping[str, str], *, is_tty: bool) -> bool:
    # The order of Python's own tracebacks since 3.13: a refusal beats a wish.
    if environ.get("NO_COLOR"):
        return False
    if environ.get("FORCE_COLOR", "0") not in {"", "0"}:
        return True
    return is_tty and environ.get("TERM") != "dumb"


def _width(stream: TextIO, environ: Mapping[str, str], *, is_tty: bool) -> int | None:
    asked = environ.get("COLUMNS", "")
    if asked.isdecimal() and int(asked) > 0:
        return max(int(asked), WIDTH_MIN)
    if not is_tty:
        return None  # whoever reads a pipe (grep) wants the whole line
    try:
        columns = os.get_terminal_size(stream.fileno()).columns
    except OSError:
        columns = 0
    return max(columns or WIDTH_DEFAULT, WIDTH_MIN)


Row = Sequence[Cell | str] | Rule | Wide


def _first(rows: Iterator[Row]) -> list[Row]:
    """Take the rows to be measured from *rows*."""
    first: list[Row] = []
    characters = 0
    for row in islice(rows, MEASURED_ROWS_MAX):
        first.append(row)
        if not isinstance(row, Rule | Wide):
            characters += sum(len(cell.text if isinstance(cell, Cell) else cell) for cell in row)
        if characters > MEASURED_CHARACTERS_MAX:
            break
    return first


class Table:
    """Rows under a header, in columns as wide as their content.

    ``print`` measures the first rows and streams the others; ``row`` prints at
    once, for rows that come when they come.  A later, wider cell moves its row
    and widens the ones after it.
    """

    def __init__(
        self, terminal: Terminal, columns: Sequence[Column], *, with_header: bool = True
    ) -> None:
        self._terminal = terminal
        self._columns = columns
        self._shown = list(range(len(columns)))
        self._widths = [max(width_of(c.title), c.width_min) for c in columns]
        self._has_header = not with_header  # or it was printed

    def print(self, rows: Iterable[Row]) -> int:
        """Print all *rows* and return how many there were."""
        remaining = iter(rows)
        first = _first(remaining)
        measured = [self._cells(row) for row in first if not isinstance(row, Rule | Wide)]
        self._hide_empty(measured)
        begun = [self._cells(row.cells) for row in first if isinstance(row, Wide)]
        for cells in chain(measured, begun):
            self._widen(cells)
        self._hide_spare()
        if measured or begun:
            self._print_header()  # above a rule that comes first, too
        count = 0
        for row in chain(first, remaining):
            self.row(row)
            count += not isinstance(row, Rule)
        return count

    def row(self, row: Row) -> None:
        """Print one row now, under the header if it is the first."""
        if isinstance(row, Rule):
            self._print_rule(row)
            return
        if isinstance(row, Wide):
            self._print_wide(row)
            return
        cells = self._cells(row)
        self._widen(cells)
        self._print(cells)

    def _print_rule(self, rule: Rule) -> None:
        text = f"── {harmless(rule.text)} "
        if self._terminal.width is not None:
            text = cut(text, self._terminal.width)
        dashes = "─" * ((self._terminal.width or WIDTH_DEFAULT) - width_of(text))
        self._terminal.line(self._terminal.paint(text + dashes, rule.style))

    def _print_wide(self, row: Wide) -> None:
        cells = self._cells(row.cells)
        self._widen(cells)
        self._print_header()
        widths = self._fitted()
        shown = [index for index in self._shown if index < len(cells)]
        begin = "".join(f"{self._field(index, cells[index], widths[index])}  " for index in shown)
        rest = harmless(row.rest)
        if self._terminal.width is not None:
            rest = cut(rest, self._terminal.width - sum(widths[index] + 2 for index in shown))
        self._terminal.line((begin + rest).rstrip())

    @staticmethod
    def _cells(row: Sequence[Cell | str]) -> list[Cell]:
        cells = (cell if isinstance(cell, Cell) else Cell(cell) for cell in row)
        return [Cell(harmless(cell.text), cell.style) for cell in cells]

    def _hide_empty(self, rows: Sequence[Sequence[Cell]]) -> None:
        self._shown = [
            index
            for index, column in enumerate(self._columns)
            if not column.optional or any(row[index].text for row in rows)
        ]

    def _hide_spare(self) -> None:
        spare = [index for index in self._shown if self._columns[index].spare]
        while spare and self._taken(self._fitted()) > (self._terminal.width or sys.maxsize):
            self._shown.remove(spare.pop())

    def _taken(self, widths: Sequence[int]) -> int:
        return sum(widths[index] for index in self._shown) + 2 * (len(self._shown) - 1)

    def _widen(self, row: Sequence[Cell]) -> None:
        for index in self._shown:
            if index < len(row):
                self._widths[index] = max(self._widths[index], width_of(row[index].text))

    def _print(self, row: Sequence[Cell]) -> None:
        self._print_header()
        # Painted when padded: an escape sequence has no width.
        widths = self._fitted()
        fields = [self._field(index, row[index], widths[index]) for index in self._shown]
        self._terminal.line("  ".join(fields).rstrip())

    def _print_header(self) -> None:
        if not self._has_header:
            self._has_header = True
            self._print([Cell(column.title, "bold") for column in self._columns])

    def _field(self, index: int, cell: Cell, width: int) -> str:
        text = cut(cell.text, width)
        padding = " " * (width - width_of(text))
        if index == self._shown[-1] and not self._columns[index].right:
            padding = ""
        painted = self._terminal.paint(text, cell.style)
        return padding + painted if self._columns[index].right else painted + padding

    def _fitted(self) -> list[int]:
        """Return the widths with the flexible column cut to what the screen has left."""
        widths = self._widths.copy()
        if self._terminal.width is not None:
            excess = self._taken(widths) - self._terminal.width
            for index in reversed(self._shown):
                if self._columns[index].flexible and excess > 0:
                    wanted = widths[index]
                    widths[index] = min(max(wanted - excess, FLEXIBLE_WIDTH_MIN), wanted)
                    excess -= wanted - widths[index]
        return widths
