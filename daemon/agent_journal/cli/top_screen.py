"""How ``top`` looks: an interval on a page of 80 columns, or as wide as it may be."""

from __future__ import annotations

import pwd
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from .counted import counted
from .states import STATE_SIGNS, STATE_STYLES
from .terminal import Cell, Column, Table, Terminal, cut, harmless, width_of
from .top_figures import Interval, Trouble, troubles

LABEL_WIDTH: Final = 9
FIELD_WIDTH: Final = 22
KIB: Final = 1024
MINUTE_S, HOUR_S, DAY_S = 60, 3600, 86_400
UIDS_MAX: Final = 8
UID_COLUMNS: Final = (
    Column(title="UID", right=True),
    Column(title="USER", flexible=True, width_min=8),
    Column(title="CONNECTIONS", right=True),
    Column(title="IN FLIGHT", right=True),
)


def draw(terminal: Terminal, interval: Interval, *, seconds: float, complaint: str = "") -> None:
    """Print a page; *complaint* is why the daemon tells nothing new."""
    _head(terminal, interval, seconds)
    for trouble in [Trouble(complaint, "trying again")] if complaint else troubles(interval):
        width = terminal.width or len(trouble.what) + len(trouble.hint) + 20
        sign = terminal.sign("▲", "!")
        first = cut(f"{sign} {harmless(trouble.what)}", width)
        rest = cut(f"  try: {trouble.hint}", width - width_of(first))
        terminal.line(terminal.paint(first, "alarm") + terminal.paint(rest, "dim"))
    terminal.line()
    _agents(terminal, interval.now.get("agents"))
    for label, fields in _rows(interval):
        _row(terminal, label, fields)
    uids = interval.now.get("uids")
    if interval.now.get("is_admin") and isinstance(uids, Mapping):
        terminal.line()
        _uids(terminal, uids)


def _head(terminal: Terminal, interval: Interval, seconds: float) -> None:
    now = interval.now
    dot = terminal.sign("·", "-")
    since = "since its start" if interval.is_first else f"every {seconds:g} s"
    text = (
        f"agent-journald {now.get('version', '?')} {dot} pid {now.get('pid', '?')} {dot} "
        f"up {duration_text(interval.figure('uptime_seconds'))} {dot} {since}"
    )
    quits = f"  {dot} q quits" if terminal.is_tty else ""
    terminal.line(terminal.paint(cut(harmless(text) + quits, terminal.width or 200), "bold"))


def _agents(terminal: Terminal, agents: object) -> None:
    """Print how many agents are in each state, in as many lines as it takes."""
    if not isinstance(agents, Mapping):
        _row(terminal, "Agents", [Cell("being counted", "dim")])
        return
    cells = [
        Cell(
            f"{terminal.sign(*STATE_SIGNS.get(state, ('?', '?')))} {count:,} {harmless(state)}",
            STATE_STYLES.get(state, "") if count else "dim",
        )
        for state, count in agents.items()
    ]
    for start in range(0, len(cells), 4):
        _row(terminal, "" if start else "Agents", cells[start : start + 4], width=17)


def _rows(interval: Interval) -> Iterable[tuple[str, Sequence[Cell]]]:
    if interval.has("commits"):
        yield from _write_path(interval)
    else:  # a plain user's: what is known of the host is since its start
        yield (
            "Commit",
            [
                Cell(f"p50 {interval.figure('commit_ms_p50'):g} ms"),
                Cell(f"p99 {interval.figure('commit_ms_p99'):g} ms"),
                Cell("since the start", "dim"),
            ],
        )
    yield (
        "In flight",
        [
            Cell(size_text(interval.figure("bytes_in_flight"))),
            Cell(counted(interval.figure("connections"), "connection")),
        ],
    )
    if interval.has("wal_bytes"):
        yield (
            "Files",
            [
                Cell(f"database {size_text(interval.figure('database_bytes'))}"),
                Cell(f"WAL {size_text(interval.figure('wal_bytes'))}"),
                Cell(
                    f"{size_text(interval.figure('disk_free_bytes'))} free "
                    f"({interval.free_share:.0%})"
                ),
            ],
        )
    if interval.has("cpu_seconds"):
        yield (
            "Process",
            [
                Cell(f"{interval.rate('cpu_seconds'):.1%} of a core"),
                Cell(f"memory {size_text(interval.figure('rss_bytes'))}"),
                Cell(f"{interval.figure('fds'):,.0f} descriptors"),
            ],
        )


def _write_path(interval: Interval) -> Iterable[tuple[str, Sequence[Cell]]]:
    mean = interval.mean("batch_entries")
    yield (
        "Entries",
        [
            Cell(f"{rate_text(interval.rate('entries_committed'))} durable", "bold"),
            Cell(f"{size_text(interval.rate('bytes_committed'))}/s"),
            Cell(f"{rate_text(interval.rate('commits'))} commits"),
        ],
    )
    yield (
        "Commit",
        [
            Cell(f"p50 {milliseconds(interval.quantile('commit_seconds', 0.5))}", "bold"),
            Cell(f"p99 {milliseconds(interval.quantile('commit_seconds', 0.99))}", "bold"),
            Cell(f"batch {'-' if mean is None else f'{mean:,.1f}'} entries"),
        ],
    )
    yield (
        "Write",
        [
            Cell(f"p50 {milliseconds(interval.quantile('write_seconds', 0.5))}"),
            Cell(f"p99 {milliseconds(interval.quantile('write_seconds', 0.99))}"),
            Cell(counted(interval.risen_in("checkpoint_seconds"), "checkpoint")),
        ],
    )
    yield (
        "Queue",
        [
            Cell(f"{interval.figure('queued_entries'):,.0f} entries"),
            Cell(size_text(interval.figure("queued_bytes"))),
        ],
    )
    if refused := interval.risen_by("refused"):
        told = ", ".join(f"{count:,.0f} {harmless(code)}" for code, count in refused.items())
        yield "Refused", [Cell(told, "yellow")]
    ended = interval.risen_by("attempts_ended")
    launched, attached = interval.risen("attempts_launched"), interval.risen("attaches")
    if ended or launched or attached:
        cells = [Cell(f"{launched:,.0f} launched"), Cell(f"{attached:,.0f} attached")]
        told = ", ".join(f"{count:,.0f} {harmless(how)}" for how, count in ended.items())
        yield "Attempts", [*cells, Cell(told, "yellow")]


def _row(
    terminal: Terminal, label: str, fields: Sequence[Cell], *, width: int = FIELD_WIDTH
) -> None:
    """Print a row of fields below each other's, the last one as long as there is room."""
    begin = f"{label:<{LABEL_WIDTH}}  "
    left = (terminal.width or 200) - len(begin)
    line = terminal.paint(begin, "dim") if label else begin
    for number, cell in enumerate(fields, 1):
        shown = cut(cell.text, left if number == len(fields) else min(width - 1, left))
        left -= width
        padding = "" if number == len(fields) else " " * (width - width_of(shown))
        line += terminal.paint(shown, cell.style) + padding
        if left <= 0:
            break
    terminal.line(line.rstrip())


def _uids(terminal: Terminal, uids: Mapping[str, Mapping[str, Any]]) -> None:
    """Print who is connected, who has the most in flight first."""
    ranked = sorted(
        uids.items(), key=lambda one: (-one[1]["bytes_in_flight"], -one[1]["connections"])
    )
    rows = [
        (uid, user_name(uid), f"{one['connections']:,}", size_text(one["bytes_in_flight"]))
        for uid, one in ranked[:UIDS_MAX]
    ]
    Table(terminal, UID_COLUMNS).print(rows)
    if len(ranked) > UIDS_MAX:
        terminal.line(terminal.paint(f"and {len(ranked) - UIDS_MAX} more", "dim"))


def user_name(uid: str) -> str:
    """Return what this host calls a uid, if it has a name for it."""
    try:
        return pwd.getpwuid(int(uid)).pw_name
    except (KeyError, ValueError, OverflowError):
        return ""


def rate_text(rate: float) -> str:
    """Return so many a second."""
    return f"{rate:,.1f}/s" if 0 < rate < 10 else f"{rate:,.0f}/s"  # noqa: PLR2004


def size_text(size: float) -> str:
    """Return bytes in the unit that a person would use."""
    if size < KIB:
        return f"{size:.0f} B"
    for unit in ("KiB", "MiB", "GiB"):
        size /= KIB
        if size < KIB:
            return f"{size:.1f} {unit}"
    return f"{size / KIB:.1f} TiB"


def milliseconds(seconds: float | None) -> str:
    """Return a latency; of nothing, a dash."""
    return "-" if seconds is None else f"{seconds * 1000:.3g} ms"


def duration_text(seconds: float) -> str:
    """Return how long, in its two largest units."""
    whole = int(seconds)
    for unit, size, below, smaller in (
        ("d", DAY_S, "h", HOUR_S),
        ("h", HOUR_S, "min", MINUTE_S),
        ("min", MINUTE_S, "s", 1),
    ):
        if whole >= size:
            return f"{whole // size} {unit} {whole % size // smaller} {below}"
    return f"{whole} s"
