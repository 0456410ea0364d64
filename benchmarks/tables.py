"""Aligned plain-text tables."""

from collections.abc import Sequence


def render(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table; the first column is text, the others are figures and stand to the right."""
    cells = [list(header), *map(list, rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(header))]
    lines = [
        "  ".join(
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in cells
    ]
    lines.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join([title, "", *lines, ""])


def figure(value: float | None, unit: str = "") -> str:
    """Return a figure as a reader wants it: whole and grouped, or with two digits if small."""
    if value is None:
        return "-"
    return (f"{value:,.0f}" if abs(value) >= 10 else f"{value:.2f}") + unit


def milliseconds(microseconds: float | None) -> str:
    """Return a latency in milliseconds."""
    return "-" if microseconds is None else f"{microseconds / 1000:.2f}"
