"""``agent-journal log``: the journal with the habits that journalctl taught.

What is asked for becomes a place to begin, a place to end and a direction, found
without reading what lies between.  From there entries stream through the filter
to the screen, a page at a time, so the first ones are there at once and the
memory is the same for ten entries and ten million.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from ..value import Value
from .arguments import add_agent_id, add_uid, natural
from .connection import connected
from .cursor import Cursor
from .failures import ExitCode, usage_error
from .moments import MOMENT_HELP, moment
from .terminal import Terminal, standard_output

if TYPE_CHECKING:
    from ..client import Client
    from .cursor_file import CursorFile
    from .entry_filter import EntryFilter, Wanted
    from .entry_lines import Write
    from .entry_source import Found, Source

EXAMPLES: Final = """\
  agent-journal log                               # the newest of all agents
  agent-journal log -f -u nightly                 # those that come, of a kind
  agent-journal log report-42 -n 100
  agent-journal log -S today -U 09:30 -g 'timed out'
  agent-journal log -r -t StepFailed -t Parked    # of these events
  agent-journal log -o json --cursor-file ~/.shipped | your-shipper
  sudo agent-journal log --uid '*' -o short-iso

A time is looked for by where the journal was then, so the first line comes at
once from a journal of any size. Entries that were recorded out of order are
found within a thousand places of it; -S may pass over some just before a large
import of older ones.
"""

SCREEN_ENTRIES: Final = 50  # shown on a terminal where nothing else is said
LINES_DEFAULT: Final = 10  # of -n without a number, and of -f: as journalctl
FORMATS: Final = ("short", "short-precise", "short-iso", "short-iso-precise", "cat", "json")


class Lines(Value):
    """How many entries: all, the last so many, or the first so many."""

    count: int | None
    from_oldest: bool = False


def lines(text: str) -> Lines:
    """Read ``50``, ``+50`` or ``all``; the name is what argparse says in an error."""
    if text == "all":
        return Lines(None)
    return Lines(natural(text.removeprefix("+")), from_oldest=text.startswith("+"))


def pattern(text: str) -> re.Pattern[str]:
    """Read a regular expression: small letters alone stand for large ones, too."""
    try:
        return re.compile(text, 0 if any(c.isupper() for c in text) else re.IGNORECASE)
    except re.error as error:
        raise argparse.ArgumentTypeError(f"{text!r} is no pattern: {error}") from None


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    add_agent_id(parser, "only this agent's entries: its id", nargs="?")
    add = parser.add_argument
    add("-f", "--follow", action="store_true", help="go on with the entries that come")
    add(
        "-n",
        "--lines",
        type=lines,
        nargs="?",
        const=Lines(LINES_DEFAULT),
        metavar="N",
        help=f"the last N entries, +N the first N, or all (without N: {LINES_DEFAULT}; default: "
        f"all, {SCREEN_ENTRIES} on a terminal, {LINES_DEFAULT} with -f)",
    )
    add("-r", "--reverse", action="store_true", help="the newest first")
    add("-S", "--since", type=moment, metavar="TIME", help=f"not older than {MOMENT_HELP}")
    add("-U", "--until", type=moment, metavar="TIME", help="not newer")
    add(
        "-u",
        "--kind",
        action="append",
        metavar="KIND",
        help="of agents of this kind (a pattern like night*); may be repeated",
    )
    add(
        "-t",
        "--event",
        action="append",
        metavar="NAME",
        help="only these events, by name (a pattern like Step*); may be repeated",
    )
    add(
        "-g",
        "--grep",
        type=pattern,
        metavar="PATTERN",
        help="whose text matches this regular expression; in small letters, whatever the case",
    )
    add("-o", "--output", choices=FORMATS, metavar="FORM", help=f"one of {', '.join(FORMATS)}")
    add("-l", "--full", action="store_true", help="cut no line to the screen; into a pipe, none is")
    add("--utc", action="store_true", help="times in UTC")
    add("-c", "--cursor", metavar="CURSOR", help="begin with this entry")
    add("--after-cursor", metavar="CURSOR", help="begin behind this entry")
    add(
        "--cursor-file",
        metavar="FILE",
        help="begin behind the entry that is noted there, and note the last one shown",
    )
    add("--show-cursor", action="store_true", help="print the last entry's cursor at the end")
    add("--no-pager", action="store_true", help=argparse.SUPPRESS)  # there is none; a habit
    add_uid(parser, everyone=True)


def run(arguments: argparse.Namespace) -> int:
    """Print what was asked for."""
    _check(arguments)
    terminal = standard_output()
    with connected(arguments, follows=arguments.follow) as journal:
        from .entry_filter import EntryFilter  # noqa: PLC0415 - imports the client
        from .entry_lines import writer  # noqa: PLC0415 - likewise
        from .entry_source import Source  # noqa: PLC0415 - likewise

        wanted = _wanted(arguments)
        source = Source(journal, arguments.agent, arguments.uid)
        form = "json" if arguments.json else arguments.output or "short"
        write = writer(form, terminal, is_utc=arguments.utc, is_whole=arguments.full)
        cursor_file, cursor = _cursor(arguments, journal)
        span = _Span.of(arguments, wanted, source, cursor)
        shown = _Shown(EntryFilter(wanted, journal), terminal, write, cursor_file)
        shown.cursor = cursor
        limit = _limit(arguments, terminal)
        shown.print(
            _pages(arguments, source, span, shown.filter, limit), _at_most(arguments, limit)
        )
        if arguments.agent is not None and not shown.count:
            journal.describe(arguments.agent, uid=_number(arguments.uid))  # is it there at all?
    if arguments.show_cursor and shown.cursor is not None:
        terminal.line(f"-- cursor: {shown.cursor}")
        terminal.flush()
    _tell(arguments, shown.count, limit, terminal)
    return ExitCode.OK


def _check(arguments: argparse.Namespace) -> None:
    """Refuse what contradicts itself, as journalctl does.

    Raises:
        CommandError: two of the options can't go together.
    """
    hint = "agent-journal log --help"
    starts = ("since", "cursor", "after_cursor", "cursor_file")
    given = [f"--{name.replace('_', '-')}" for name in starts if getattr(arguments, name)]
    if len(given) > 1:
        raise usage_error(f"{given[0]} and {given[1]} both say where to begin", hint)
    if arguments.follow and arguments.reverse:
        raise usage_error("what follows comes behind: -f and -r can't go together", hint)
    if arguments.follow and arguments.until is not None:
        raise usage_error("with -f there is no end: -U can't go with it", hint)
    if arguments.json and arguments.output not in {None, "json"}:
        raise usage_error(f"--json and -o {arguments.output} can't go together", hint)
    if arguments.lines and arguments.lines.from_oldest and (arguments.follow or arguments.reverse):
        raise usage_error("-n +N can't go with -f or -r", hint)


def _wanted(arguments: argparse.Namespace) -> Wanted:
    from .entry_filter import Wanted  # noqa: PLC0415 - imports the client

    return Wanted(
        since=arguments.since,
        until=arguments.until,
        kinds=tuple(kind.lower() for kind in arguments.kind or ()),
        events=tuple(event.lower() for event in arguments.event or ()),
        grep=arguments.grep,
    )


def _cursor(
    arguments: argparse.Namespace, journal: Client
) -> tuple[CursorFile | None, Cursor | None]:
    """Return the file for the cursor, and the cursor to begin at."""
    from .entry_source import Source  # noqa: PLC0415 - imports the client

    file = None
    if arguments.cursor_file is not None:
        from .cursor_file import CursorFile  # noqa: PLC0415 - imports pathlib

        file = CursorFile(arguments.cursor_file)
    text = arguments.cursor or arguments.after_cursor
    cursor = Cursor.parse(text) if text is not None else file.load() if file is not None else None
    if text is not None and cursor is None:
        raise usage_error(f"{text!r} is no cursor", "agent-journal log -n 1 --show-cursor")
    if cursor is not None:
        cursor.check(Source(journal, None, arguments.uid))
    return file, cursor


def _limit(arguments: argparse.Namespace, terminal: Terminal) -> int | None:
    """Return how many entries are to be shown of those that are there, ``None`` for all."""
    if arguments.lines is not None:
        count: int | None = arguments.lines.count
        return count
    starts = (arguments.since, arguments.cursor, arguments.after_cursor, arguments.cursor_file)
    if any(start is not None for start in starts):
        return None
    if arguments.follow:
        return LINES_DEFAULT
    return SCREEN_ENTRIES if terminal.is_tty else None


def _number(uid: int | str | None) -> int | None:
    return uid if isinstance(uid, int) else None


def _at_most(arguments: argparse.Namespace, limit: int | None) -> int | None:
    return None if arguments.follow else limit


class _Span(Value):
    """The part of the journal that has to be looked at."""

    begin: int
    end: int | None

    @classmethod
    def of(
        cls,
        arguments: argparse.Namespace,
        wanted: Wanted,
        source: Source,
        cursor: Cursor | None,
    ) -> _Span:
        from .entry_source import STRAGGLERS_MAX  # noqa: PLC0415 - imports the client

        begin, end = 0, None
        since, until = wanted.since, wanted.until
        if since is not None:
            begin = max(source.place_of(lambda time: time >= since) - STRAGGLERS_MAX, 0)
        elif cursor is not None:
            begin = cursor.position + (arguments.cursor is None)
        if until is not None:
            end = source.place_of(lambda time: time > until) + STRAGGLERS_MAX
        return cls(begin, end)


def _pages(
    arguments: argparse.Namespace,
    source: Source,
    span: _Span,
    entry_filter: EntryFilter,
    limit: int | None,
) -> Iterator[list[Found]]:
    """Return the entries to look at, in the order in which they are shown."""
    if arguments.reverse:
        return source.backwards(span.begin, span.end)
    begin = span.begin
    from_newest = arguments.lines is None or not arguments.lines.from_oldest
    if limit is not None and from_newest:
        begin = max(begin, _place_of_last(limit, source, span, entry_filter))
    return source.forwards(begin, span.end, follow=arguments.follow)


def _place_of_last(count: int, source: Source, span: _Span, entry_filter: EntryFilter) -> int:
    """Return where the last *count* wanted entries begin, or where nothing is wanted any more."""
    if count == 0:
        return source.end()
    if entry_filter.is_everything:
        return source.place_of_last(count, span.end) or span.begin
    from .progress import Progress  # noqa: PLC0415 - seldom

    seen, place = 0, span.begin
    with Progress("entries looked at:") as progress:
        for page in source.backwards(span.begin, span.end):
            for found in page:
                seen += 1
                if entry_filter.wants(found):
                    count, place = count - 1, found.entry.position
                    if count == 0:
                        return place
            progress.at(seen)
    return place


class _Shown:
    """What was printed, and where in the journal that was."""

    def __init__(
        self,
        entry_filter: EntryFilter,
        terminal: Terminal,
        write: Write,
        cursor_file: CursorFile | None,
    ) -> None:
        self.filter = entry_filter
        self.count = 0
        self.cursor: Cursor | None = None
        self._terminal = terminal
        self._write = write
        self._file = cursor_file
        self._is_past_end = False

    def print(self, pages: Iterator[list[Found]], limit: int | None) -> None:
        """Print those that are wanted of *pages*, *limit* at the most."""
        if limit == 0:
            return
        for page in pages:
            before = self.cursor
            is_done = self._print(page, limit)
            self._terminal.flush()
            # Behind the flush: a reader that broke off gets these entries again.
            if self._file is not None and self.cursor is not None and self.cursor != before:
                self._file.save(self.cursor)
            if is_done:
                return

    def _print(self, page: list[Found], limit: int | None) -> bool:
        for found in page:
            if self.filter.wants(found):
                self._write(found)
                self.count += 1
            self._note(found)
            if self.count == limit:
                return True
        return False

    def _note(self, found: Found) -> None:
        """Remember the place, but of none behind an entry that is left for another time."""
        entry = found.entry
        self._is_past_end = self._is_past_end or self.filter.is_too_late(entry)
        if not self._is_past_end and (self.cursor is None or entry.position > self.cursor.position):
            self.cursor = Cursor.at(entry)


def _tell(arguments: argparse.Namespace, count: int, limit: int | None, terminal: Terminal) -> None:
    """Say on standard error what the screen does not show."""
    notes = Terminal(sys.stderr)
    if count == 0 and limit != 0:
        notes.line("no entries" + (" like that" if _is_narrowed(arguments) else ""))
    elif terminal.is_tty and notes.is_tty and arguments.lines is None and count == limit:
        told = f"the newest {count}; -n all shows all, -S 1h those of an hour, -f what comes"
        notes.line(notes.paint(told, "dim"))


def _is_narrowed(arguments: argparse.Namespace) -> bool:
    names = ("agent", "since", "until", "kind", "event", "grep", "after_cursor", "cursor_file")
    return any(getattr(arguments, name) is not None for name in names)
