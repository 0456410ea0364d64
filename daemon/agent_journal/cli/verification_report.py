"""What a verification found, told to a person or to a program."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from .counted import agents_with_entries
from .failures import ExitCode
from .output import print_json
from .terminal import harmless, standard_output

if TYPE_CHECKING:
    from ..store.verification import Report

SHOWN_MAX: Final = 20


def print_report(report: Report, *, as_json: bool) -> ExitCode:
    """Print what was found; return the exit code that says it, too."""
    if as_json:
        print_json(report_fields(report))
    else:
        for line in report_lines(report):
            standard_output().line(harmless(line))
    return ExitCode.OK if report.is_sound else ExitCode.FAILED


def report_fields(report: Report) -> dict[str, object]:
    """Return what was found as an object."""
    return {
        "path": str(report.path),
        "sound": report.is_sound,
        "schema": report.schema,
        "agents": report.agents,
        "entries": report.entries,
        "next_position": report.next_position,
        "problem_count": report.problem_count,
        "problems": [
            {"text": problem.text} | ({"page": problem.page} if problem.page else {})
            for problem in report.problems
        ],
        "lost": [
            {
                "uid": lost.uid,
                "agent_id": lost.agent_id,
                "sequences": [list(span) for span in lost.sequences],
                "readable": lost.readable,
            }
            for lost in report.lost
        ],
        "lost_positions": [list(span) for span in report.lost_positions],
        "notes": report.notes,
    }


def report_lines(report: Report) -> list[str]:
    """Return what was found as lines."""
    what = f"{agents_with_entries(report.agents, report.entries)}"
    notes = [f"note: {note}" for note in report.notes]
    if report.is_sound:
        return [f"{report.path} is sound: {what}", *notes]
    shown = [f"  {problem.text}" for problem in report.problems[:SHOWN_MAX]]
    more = report.problem_count - len(shown)
    if more > 0:
        shown.append(f"  and {more:,} more; --json tells up to a thousand")
    return [
        f"{report.path} is damaged; {what} can be read",
        *shown,
        *_losses(report),
        *notes,
    ]


def _losses(report: Report) -> list[str]:
    from ..store.verification import told  # noqa: PLC0415 - the store's, and only now

    lines = [
        f"  lost of {lost.agent_id} (uid {lost.uid}): {told(lost.sequences).rpartition(' ')[0]}; "
        f"{lost.readable:,} entries of it can be read"
        for lost in report.lost[:SHOWN_MAX]
    ]
    if len(report.lost) > SHOWN_MAX:
        lines.append(f"  and of {len(report.lost) - SHOWN_MAX:,} more agents")
    return lines
