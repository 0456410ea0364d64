r"""Write manual pages: text in, the ``man`` macros of roff out.

A page is plain ASCII.  What roff would take for its own is escaped, and every
character that a person may copy to a shell (``-``, ``'``, ``~``) stays the one that
was meant, which in roff it does only when it is asked to.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

_EXACT: Final = {
    "\\": r"\e",
    "-": r"\-",
    "'": r"\(aq",
    "`": r"\(ga",
    "^": r"\(ha",
    "~": r"\(ti",
}
LINE_MAX: Final = 78
_MARKUP: Final = re.compile(r"`([^`]+)`|\*\*(.+?)\*\*|\[([^]]+)\]\([^)]*\)", re.DOTALL)


def exact(text: str) -> str:
    """Return *text* as it is to be typed."""
    return "".join(_EXACT.get(c, c) if c.isascii() else f"\\[u{ord(c):04X}]" for c in text)


def prose(text: str) -> str:
    """Return *text*, in which code, what is strong and links may be marked as in Markdown."""
    said = []
    end = 0
    for match in _MARKUP.finditer(text):
        code, strong, link = match.groups()
        said.append(exact(text[end : match.start()]))
        said.append(prose(link) if link else rf"\fB{exact(code or strong)}\fR")
        end = match.end()
    return "".join(said) + exact(text[end:])


def bold(text: str) -> str:
    """Return *text*, to be typed as it stands."""
    return rf"\fB{exact(text)}\fR"


class Page:
    """A manual page, from its head to its end."""

    def __init__(self, name: str, section: int, *, what: str, date: str, version: str) -> None:
        self.name = name
        self.section = section
        source = f"agent-journal {version}"
        self._lines = [
            f'.TH "{exact(name.upper())}" "{section}" "{date}" "{source}" "Agents"',
            ".nh",  # what is cut in two cannot be searched for
            ".ad l",
        ]
        self.heading("Name")
        self._text(rf"{exact(name)} \- {prose(what)}")

    def heading(self, text: str) -> None:
        """Begin a section; the name of a section of a file stays as it is."""
        title = text if text.startswith("[") else text.upper()
        self._lines.append(f'.SH "{_quotable(prose(title))}"')

    def subheading(self, text: str) -> None:
        """Begin a part of a section."""
        self._lines.append(f'.SS "{_quotable(prose(text))}"')

    def paragraph(self, text: str) -> None:
        """Add a paragraph, whose lines are filled anew."""
        if not self._lines[-1].startswith((".SH", ".SS")):  # which begin one
            self._lines.append(".PP")
        self._text(prose(_filled(text)))

    def item(self, text: str) -> None:
        """Add an item of a list."""
        self._lines.append(r".IP \(bu 2")
        self._text(prose(_filled(text)))

    def tagged(self, tags: Iterable[str], text: str) -> None:
        """Add what *tags*, which are roff already, stand for."""
        for number, tag in enumerate(tags):
            self._lines.append(".TQ" if number else ".TP")
            self._text(tag)
        self._text(prose(_filled(text)) or r"\&")

    def example(self, text: str) -> None:
        """Add lines that stay as they are."""
        if not self._lines[-1].startswith((".SH", ".SS")):
            self._lines.append(".PP")
        self._lines += [".RS 2", ".nf"]
        for line in text.rstrip("\n").split("\n"):
            self._line(exact(line) or r"\&")
        self._lines += [".fi", ".RE"]

    def text(self) -> str:
        """Return the page."""
        return "".join(f"{line}\n" for line in self._lines)

    def _text(self, text: str) -> None:
        """Add text, in lines that a person can read in the source too."""
        line = ""
        for word in text.split(" "):
            if line and len(line) + 1 + len(word) > LINE_MAX:
                self._line(line)
                line = word
            else:
                line = f"{line} {word}" if line else word
        self._line(line)

    def _line(self, line: str) -> None:
        """Add a line of text, which must not begin as a request does."""
        self._lines.append(rf"\&{line}" if line.startswith((".", "'")) else line)


def _filled(text: str) -> str:
    return " ".join(text.split())


def _quotable(text: str) -> str:
    return text.replace('"', r"\(dq")
