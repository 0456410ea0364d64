"""A document in Markdown, as far as ours use it, as a part of a manual page."""

from __future__ import annotations

import re
from typing import Final

from .roff import Page, bold, prose

_HEADING: Final = re.compile(r"(#+) (.*)")
_ITEM: Final = re.compile(r"(?:-|\d+\.) (.*)")
_ROW: Final = re.compile(r"\|(.*)\|\s*$")


def add_markdown(page: Page, text: str) -> None:
    """Add a document without its title."""
    _Writer(page).write(text.splitlines())


class _Writer:
    """Gathers lines into blocks, and gives the page whole ones."""

    def __init__(self, page: Page) -> None:
        self._page = page
        self._block: list[str] = []
        self._rows: list[list[str]] = []
        self._is_item = False

    def write(self, lines: list[str]) -> None:
        """Write all of them."""
        code: list[str] | None = None
        for line in lines:
            if line.startswith("```"):
                self._flush()
                if code is not None:
                    self._page.example("\n".join(code))
                code = [] if code is None else None
            elif code is not None:
                code.append(line)
            else:
                self._line(line)
        self._flush()

    def _line(self, line: str) -> None:
        if match := _HEADING.match(line):
            self._flush()
            level, text = len(match[1]), match[2]
            if level > 1:  # the page has a title of its own
                (self._page.heading if level == 2 else self._page.subheading)(text)  # noqa: PLR2004
        elif match := _ROW.match(line):
            self._flush_block()
            self._rows.append([cell.strip() for cell in re.split(r"(?<!\\)\|", match[1])])
        elif match := _ITEM.match(line):
            self._flush()
            self._is_item = True
            self._block = [match[1]]
        elif line.strip():
            self._flush_rows()
            self._block.append(line)
        else:
            self._flush()

    def _flush(self) -> None:
        self._flush_block()
        self._flush_rows()

    def _flush_block(self) -> None:
        if self._block:
            (self._page.item if self._is_item else self._page.paragraph)("\n".join(self._block))
        self._block, self._is_item = [], False

    def _flush_rows(self) -> None:
        """Write a table as a list: a manual page has no room for columns."""
        if not self._rows:
            return
        titles, *rows = self._rows
        for first, *others in rows[1:]:  # the line of dashes between them is no row
            named = zip(titles[1:], others, strict=False)
            cells = [f"{title}: {cell}" if title else cell for title, cell in named if cell]
            tag = prose(first) if "`" in first else bold(first)
            self._page.tagged([tag], "; ".join(cells).replace("\\|", "|"))
        self._rows = []
