"""The manual pages, made from what they describe: parsers, the protocol, ``config.toml``.

Nothing is told twice.  Who changes an option, its help or the document changes the
page with it.
"""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Callable
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Final

from .. import __version__
from . import EPILOG, HIDDEN, whole_parser
from .command_words import CommandWords, Operand, Option, Value, commands_of, words_of
from .markdown_page import add_markdown
from .roff import Page, bold, exact
from .shipped import shipped

_KEY: Final = re.compile(r"#([a-z][a-z0-9_]*) = (.*)")
_SECTION: Final = re.compile(r"\[([a-z_.]+)\]")
_EXAMPLE: Final = re.compile(r"#(?:\[| {2})")


def _page(name: str, section: int, what: str) -> Page:
    return Page(name, section, what=what, date=_date(), version=__version__)


def _date() -> str:
    """Return the day that what is described is of; a packager may say which."""
    said = os.environ.get("SOURCE_DATE_EPOCH", "")
    changed = int(said) if said.isdecimal() else Path(__file__).stat().st_mtime
    return datetime.fromtimestamp(changed, UTC).strftime("%Y-%m-%d")


# --- the commands --------------------------------------------------------------------


def commands_page() -> Page:
    """Return agent-journal(1): every command, its options and its examples."""
    parser = whole_parser()
    everywhere = words_of(parser, "agent-journal")
    page = _page("agent-journal", 1, "write to and look into the journal of this host's agents")
    page.heading("Synopsis")
    page.tagged([f"{bold('agent-journal')} [{exact('options')}] \\fICOMMAND\\fR"], "")
    _add_options(page, "Options", everywhere.options)
    common = {flag for option in everywhere.options for flag in option.flags}
    page.heading("Commands")
    for command in commands_of(parser):
        if command.name not in HIDDEN:
            _add_command(page, command, common)
    _add_epilog(page, EPILOG)
    _add_see_also(page, ("agent-journald", 8), ("agent-journal.toml", 5))
    return page


def _add_command(page: Page, command: CommandWords, common: set[str]) -> None:
    usage = command.usage.removeprefix("agent-journal ")
    page.subheading(command.name)
    page.paragraph(command.description)
    page.paragraph(f"**{' '.join(usage.split())}**")
    for operand in command.operands:
        page.tagged([_operand(operand)], operand.help)
    for option in command.options:
        if not {*option.flags} & common:
            page.tagged([_flags(option)], option.help)
    examples = command.epilog.removeprefix("examples:\n")
    lines, _, notes = examples.partition("\n\n")
    page.example(lines)
    if notes:
        page.paragraph(notes)


def _add_options(page: Page, title: str, options: tuple[Option, ...]) -> None:
    page.heading(title)
    for option in options:
        page.tagged([_flags(option)], option.help)


def _flags(option: Option) -> str:
    value = "" if option.value is None else f" \\fI{exact(_shown(option.value))}\\fR"
    return ", ".join(f"{bold(flag)}{value}" for flag in option.flags)


def _operand(operand: Operand) -> str:
    return f"\\fI{exact(_shown(operand.value))}\\fR"


def _shown(value: Value) -> str:
    return "|".join(value.choices) if value.choices else value.name


def _add_epilog(page: Page, epilog: str) -> None:
    """Add the blocks of a help's end: one that is titled becomes a section."""
    for block in epilog.rstrip("\n").split("\n\n"):
        title, _, rest = block.partition("\n")
        if title.endswith(":") and rest.startswith("  "):
            name, _, note = title.rstrip(":").partition(" (")
            page.heading("Exit status" if name == "exit codes" else name)
            if note:
                page.paragraph(f"({note}:")
            page.example(rest)
        else:
            page.heading("Notes")
            page.paragraph(block)


def _add_see_also(page: Page, *pages: tuple[str, int]) -> None:
    page.heading("See also")
    others = (*pages, ("agent-journal-protocol", 7))
    page.paragraph(", ".join(f"**{name}**({section})" for name, section in others))


# --- the daemon ----------------------------------------------------------------------


def daemon_page() -> Page:
    """Return agent-journald(8)."""
    from ..__main__ import parser as daemon_parser  # noqa: PLC0415 - imports the whole daemon

    parser: argparse.ArgumentParser = daemon_parser()
    words = words_of(parser, "agent-journald")
    page = _page("agent-journald", 8, "the durable journal of a host's AI agents")
    page.heading("Synopsis")
    page.paragraph(f"**{' '.join(words.usage.split())}**")
    page.heading("Description")
    page.paragraph(words.description)
    page.paragraph(
        "Any local process writes what its reasoning loop does to the socket, a line of JSON an "
        "entry. What all of them sent meanwhile is committed as one transaction, synced, and only "
        "then answered. An agent that dies is started again."
    )
    _add_options(page, "Options", words.options)
    _add_epilog(page, words.epilog)
    _add_see_also(page, ("agent-journal", 1), ("agent-journal.toml", 5))
    return page


# --- the configuration ---------------------------------------------------------------


def config_page() -> Page:
    """Return agent-journal.toml(5), from the comments of the shipped file."""
    page = _page("agent-journal.toml", 5, "the configuration of agent-journald, config.toml")
    page.heading("Description")
    writer = _Commented(page)
    for line in shipped("config.toml").read_text("utf-8").splitlines():
        writer.take(line)
    writer.take("")
    _add_see_also(page, ("agent-journald", 8), ("agent-journal", 1))
    return page


class _Commented:
    """Gathers a comment and what stands below it: options, or an example of a table."""

    def __init__(self, page: Page) -> None:
        self._page = page
        self._comment: list[str] = []
        self._options: list[str] = []
        self._example: list[str] = []
        self._is_described = False  # what the file as a whole says

    def take(self, line: str) -> None:
        """Take the next line."""
        if match := _SECTION.fullmatch(line):
            self._flush()
            self._page.heading(f"[{match[1]}]")
        elif match := _KEY.fullmatch(line):
            self._options.append(f"{match[1]} = {match[2]}")
        elif _EXAMPLE.match(line):
            self._example.append(line[1:])
        elif line in {"", "#"}:
            self._flush()
            if not line and not self._is_described:
                self._is_described = True
                self._page.heading("At the top of the file")
        else:
            self._comment.append(line.removeprefix("#").strip())

    def _flush(self) -> None:
        if self._options:
            self._page.tagged([bold(line) for line in self._options], " ".join(self._comment))
        elif self._comment:
            self._page.paragraph(" ".join(self._comment))
        if self._example:
            self._page.example("\n".join(self._example))
        for gathered in (self._comment, self._options, self._example):
            gathered.clear()


# --- the protocol --------------------------------------------------------------------


def protocol_page() -> Page:
    """Return agent-journal-protocol(7), which is the document."""
    page = _page("agent-journal-protocol", 7, "how any program talks to agent-journald")
    page.heading("Description")
    add_markdown(page, shipped("PROTOCOL.md").read_text("utf-8"))
    page.heading("See also")
    page.paragraph("**agent-journal**(1), **agent-journald**(8), **agent-journal.toml**(5)")
    return page


PAGES: Final[dict[str, Callable[[], Page]]] = {
    "agent-journal": commands_page,
    "agent-journal.toml": config_page,
    "agent-journal-protocol": protocol_page,
    "agent-journald": daemon_page,
}


@cache
def all_pages() -> dict[str, str]:
    """Return every page by its place below a directory of manuals: ``man1/agent-journal.1``."""
    pages = [make() for make in PAGES.values()]
    return {f"man{one.section}/{one.name}.{one.section}": one.text() for one in pages}
