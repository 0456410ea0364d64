"""Where ``log`` gets entries from: forwards, backwards, and from a time on.

The daemon gives entries by position, from any place on or so many before one, and
looks at no others for it.  So the newest of millions, and those before any place,
cost what is shown.  A time is looked for by probing: positions rise in the order
in which entries were committed, and timestamps nearly do.

Nearly, since a client may say when something happened, an import brings old
entries to a new place, and a host's clock is set.  Therefore many places are
probed, at distances from the end that grow by a tenth, and the earliest that
has reached the time counts, whatever lies behind it; and reading begins
``STRAGGLERS_MAX`` places before.  What remains: entries just before an import that
is more than ten times as long as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, cast

from ..client._encoding import members
from ..client._requests import Reply, Request, Tail, TailRequest
from ..value import Value
from .raw_json import object_members

if TYPE_CHECKING:
    from ..client import Client, Entry
    from ..client._replies import ReplyFields

STRAGGLERS_MAX: Final = 1000  # places by which an entry may be out of order
NEIGHBOURS: Final = 3  # looked at in each place where a time is looked for
STEP_SHARE: Final = 10  # each probe goes back by this part of its distance more
PROBES_AT_ONCE: Final = 8  # between two places

PAGE_ENTRIES_MIN: Final = 64
PAGE_ENTRIES_MAX: Final = 1000
PAGE_BYTES: Final = 4 << 20  # about as much is kept of a page that is read backwards


class Found(Value):
    """An entry and the line that brought it."""

    entry: Entry
    line: bytes

    @property
    def text(self) -> str:
        """The entry as the daemon wrote it."""
        return object_members(self.line.decode())["entry"].text

    @property
    def event_text(self) -> str:
        """The entry's event as its agent recorded it."""
        return object_members(self.text)["event"].text


class Source:
    """The entries of one agent, of one user or of everybody."""

    def __init__(self, journal: Client, agent_id: str | None, uid: int | str | None) -> None:
        self._journal = journal
        self._agent_id = agent_id
        self._uid = uid

    def forwards(
        self, begin: int, end: int | None = None, *, follow: bool = False
    ) -> Iterator[list[Found]]:
        """Yield the entries from *begin* up to *end*, as many at once as came at once."""
        return self._stream(from_position=begin, before_position=end, follow=follow)

    def backwards(self, begin: int, end: int | None) -> Iterator[list[Found]]:
        """Yield the entries before *end* down to *begin*, the newest first, page by page."""
        size = PAGE_ENTRIES_MIN
        while True:
            page = self._last(size, end)
            wanted = [found for found in reversed(page) if found.entry.position >= begin]
            if wanted:
                yield wanted
            if len(page) < size or len(wanted) < len(page):
                return
            end = page[0].entry.position
            bytes_each = max(sum(len(found.line) for found in page) // len(page), 1)
            size = min(max(PAGE_BYTES // bytes_each, 1), PAGE_ENTRIES_MAX)

    def end(self) -> int:
        """Return the position that the next entry will have, or a later one."""
        lines = self._lines(last=0)
        for _ in self._pages(lines):
            pass
        return lines.position

    def place_of_last(self, count: int, end: int | None) -> int | None:
        """Return the position of the first of the last *count* entries, if there are any."""
        for page in self._stream(last=count, before_position=end):
            return page[0].entry.position
        return None

    def place_of(self, is_reached: Callable[[datetime], bool]) -> int:
        """Return where the journal first came to a time; its end where it did not yet."""

        def have_reached(places: Sequence[int]) -> list[bool]:
            probes = [_Probe(self._lines(last=NEIGHBOURS, before_position=at)) for at in places]
            self._journal._perform_all(probes)  # noqa: SLF001 - the same package's engine
            return [any(map(is_reached, probe.times)) for probe in probes]

        return first_place(self.end(), have_reached)

    def _last(self, count: int, end: int | None) -> list[Found]:
        pages = self._stream(last=count, before_position=end)
        return [found for page in pages for found in page]

    def _stream(self, *, follow: bool = False, **asked: int | None) -> Iterator[list[Found]]:
        return self._pages(self._lines(follow=follow, **asked))

    def _lines(self, *, follow: bool = False, **asked: int | None) -> _Lines:
        return _Lines(agent_id=self._agent_id, uid=self._uid, follow=follow, **asked)

    def _pages(self, lines: _Lines) -> Iterator[list[Found]]:
        pages = self._journal._follow(lines)  # noqa: SLF001 - the same package's engine
        return cast("Iterator[list[Found]]", pages)


def first_place(end: int, have_reached: Callable[[Sequence[int]], list[bool]]) -> int:
    """Return a place up to ``STRAGGLERS_MAX`` behind the first that has reached something.

    That is right where all places behind the first have reached it, too.  Where
    some have not, such as those of an import, it may be a later one.
    """
    places = [*_places_before(end), 0]
    reached = have_reached(places[:-1])
    if True not in reached:
        return end
    earliest = len(reached) - 1 - reached[::-1].index(True)
    # One place more: the neighbour may be of those that only say that they are older.
    low, high = places[min(earliest + 2, len(places) - 1)], places[earliest]
    while high - low > STRAGGLERS_MAX:
        step = -(-(high - low) // PROBES_AT_ONCE)
        between = [*range(low + step, high, step)]
        reached = have_reached(between)
        first = reached.index(True) if True in reached else len(between)
        low, high = [low, *between, high][first : first + 2]
    return high


def _places_before(end: int) -> Iterator[int]:
    distance = STRAGGLERS_MAX
    while distance < end:
        yield end - distance
        distance += distance // STEP_SHARE


class _Lines(Tail):
    """A tail whose items are the pages that came, each entry with its line."""

    def __init__(self, **asked: Any) -> None:  # noqa: ANN401 - as those of a Tail
        super().__init__(**{"from_position": None, "last": None, **asked})
        self.position = 0
        self.line = b""
        self._lines: list[bytes] = []

    def requests(self) -> Iterator[TailRequest]:
        """Yield the one request: where it begins is known, also where it follows."""
        yield _LinesRequest(self, follow=self._follow)

    def saw(self, entry: Entry) -> None:
        """Take *entry*, and its line, unless it is one that was seen."""
        count = len(self.items)
        super().saw(entry)
        if len(self.items) > count:
            self._lines.append(self.line)

    def reached(self, position: int) -> None:
        """Note where the journal ends."""
        super().reached(position)
        self.position = position

    def take_items(self) -> list[list[Found]]:  # type: ignore[override]  # a page is an item
        """Return what came since the last time, as one page."""
        if not self.items:
            return []
        page = [Found(*both) for both in zip(self.items, self._lines, strict=True)]
        self.items, self._lines = [], []
        return [page]


class _LinesRequest(TailRequest):
    def __init__(self, tail: _Lines, *, follow: bool) -> None:
        super().__init__(tail, follow=follow)
        self._lines = tail

    def take(self, reply: Reply) -> bool:
        self._lines.line = cast("ReplyFields", reply).line
        return super().take(reply)


class _Probe(Request[None]):
    """Asks for some entries and keeps their times; many of them go over one connection."""

    def __init__(self, lines: _Lines) -> None:
        super().__init__(
            op="tail",
            body=b"%b}\n" % members({**lines.fields(), "follow": False}),
            parse=lambda _: None,
        )
        self.times: list[datetime] = []

    @property
    def is_stream(self) -> bool:
        return True

    def take(self, reply: Reply) -> bool:
        if "entry" in reply:
            self.times.append(datetime.fromisoformat(reply["entry"]["timestamp"]))
        return "ok" not in reply
