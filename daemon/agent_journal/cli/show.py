"""``agent-journal show``: an agent's story, attempt by attempt and step by step."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from typing import Any, Final

from ..clock import Clock
from .arguments import add_agent_id, add_uid
from .connection import connected
from .details import any_value, detail, event_style
from .failures import ExitCode
from .output import print_json
from .states import STATE_STYLES
from .terminal import Cell, Column, Row, Rule, Table, Terminal, Wide, harmless, standard_output
from .timeline import Attempt, Ending, Item, Moment, Run, StepState, Timeline, tell, tokens_of
from .timestamps import clock_time, duration, wire_time

EXAMPLES: Final = """\
  agent-journal show report-42
  agent-journal show report-42 --json | jq 'select(.state == "in doubt")'
"""

COLUMNS: Final = (
    Column(title="SEQ", right=True),
    Column(title="TIME"),
    Column(title="ITER", right=True, spare=True),
    Column(title="STEP"),
    Column(title="STATE"),
    Column(title="TOOK", right=True, optional=True),
    Column(title="TOKENS", right=True, optional=True, spare=True),
    Column(title="REPLAYED", optional=True),
    Column(title="DETAIL", flexible=True, optional=True),
)

STEP_STYLES: Final[Mapping[StepState, str]] = {
    StepState.RUNNING: "magenta",
    StepState.DONE: "green",
    StepState.FAILED: "red",
    StepState.IN_DOUBT: "alarm",
    StepState.INTERRUPTED: "yellow",
    StepState.RECORDED: "dim",
}

# What happens to an agent from outside is drawn across the table.
ACROSS: Final[Mapping[str, str]] = {
    "Parked": "alarm",
    "Unparked": "green",
    "Cancelled": "alarm",
    "Forked": "cyan",
}

OWNED: Final = frozenset({"running"})
SHOWN_ATTEMPTS_MAX: Final = 3


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    add_agent_id(parser)
    add_uid(parser)


def run(arguments: argparse.Namespace) -> int:
    """Print the timeline."""
    agent, timeline = look(arguments)
    if arguments.json:
        for item in timeline.items:
            if not isinstance(item, Ending):  # it is told with its attempt
                print_json(as_object(item))
        print_json({"type": "summary", **summary(agent, timeline)})
        return ExitCode.OK
    terminal = standard_output()
    Table(terminal, COLUMNS).print(rows(timeline))
    for line in summary_lines(agent, timeline, terminal):
        terminal.line(line)
    return ExitCode.OK


def look(arguments: argparse.Namespace) -> tuple[dict[str, Any], Timeline]:
    """Return what the daemon says of the agent, and the agent's story."""
    with connected(arguments) as journal:
        asked = {"op": "describe", "agent_id": arguments.agent}
        if arguments.uid is not None:
            asked["uid"] = arguments.uid
        agent: dict[str, Any] = journal.call(asked)["agent"]
        entries = journal.read(arguments.agent, uid=arguments.uid)
        return agent, tell(entries, is_owned=agent["state"] in OWNED)


def rows(timeline: Timeline) -> Iterator[Row]:
    """Return the table's rows; the demo's timeline is made of them too."""
    clock = Clock()
    for item in timeline.items:
        match item:
            case Run():
                yield _run_row(item, clock)
            case Attempt():
                yield Rule(f"{_time(item.started_at, clock)}  {began(item)}", "bold")
            case Ending(attempt=attempt):
                style = "dim" if attempt.how == "detached" else "yellow"
                yield Rule(f"{_time(attempt.ended_at, clock)}  {ended(attempt)}", style)
            case Moment() if item.name in ACROSS:
                told = f"{item.name.lower()}: {detail(item.event)}".removesuffix(": ")
                yield Rule(f"{_time(item.timestamp, clock)}  {told}", ACROSS[item.name])
            case Moment():
                yield _moment_row(item, clock)


def _run_row(run: Run, clock: Clock) -> Row:
    took = "" if run.duration_ms is None else duration(run.duration_ms / 1000)
    label = run.key if run.name in {run.key, ""} or run.name in run.key else f"{run.key} {run.name}"
    return (
        str(run.sequence),
        Cell(_time(run.started_at or run.ended_at, clock), "dim"),
        str(run.iteration),
        Cell(label, "bold"),
        Cell(run.state, STEP_STYLES[run.state]),
        took,
        _tokens(*tokens_of(run.usage)),
        Cell(_attempts(run.replayed_in), "cyan"),
        _outcome(run),
    )


def _outcome(run: Run) -> str:
    if run.error is not None:
        error = run.error
        if isinstance(error, dict) and isinstance(error.get("message"), str):
            return f"{error.get('type', 'error')}: {error['message']}"
        return any_value(error)
    if run.is_open and run.effect:
        return run.effect
    return "" if run.result is None else any_value(run.result)


def _moment_row(moment: Moment, clock: Clock) -> Row:
    return Wide(
        (
            str(moment.sequence),
            Cell(_time(moment.timestamp, clock), "dim"),
            str(moment.iteration),
            Cell(moment.name, event_style(moment.name)),
        ),
        detail(moment.event),
    )


def began(attempt: Attempt) -> str:
    """Say how an attempt began, and what of it was replay."""
    who = "launched by the daemon" if attempt.launched else "attached"
    pid = f", pid {attempt.pid}" if attempt.pid else ""
    replayed = ""
    if attempt.known_before:
        steps = "1 step" if attempt.known_before == 1 else f"{attempt.known_before:,} steps"
        replayed = f", {steps} replayed" if attempt.went_on else f", {steps} to replay"
    return f"attempt {attempt.number}: {who}{pid}{replayed}"


def ended(attempt: Attempt) -> str:
    """Say how an attempt ended."""
    how = {
        "exited": f"exited with {attempt.exit_code}",
        "signalled": f"killed by {attempt.signal}",
        "lost": "its process is gone",
        "detached": "gave the agent up",
        "replaced": "replaced by another process",
        "launch_failed": "could not be launched",
    }.get(attempt.how or "", attempt.how or "ended")
    seconds = (attempt.ended_at - attempt.started_at).total_seconds() if attempt.ended_at else 0.0
    return f"attempt {attempt.number}: {how} after {duration(max(seconds, 0.0))}"


def as_object(item: Item) -> dict[str, object]:
    """Return one line of ``--json``."""
    known: dict[str, object]
    match item:
        case Run():
            known = {
                "type": "step",
                "sequence": item.sequence,
                "attempt": item.attempt,
                "iteration": item.iteration,
                "key": item.key,
                "name": item.name,
                "effect": item.effect,
                "state": item.state,
                "started_at": wire_time(item.started_at),
                "ended_at": wire_time(item.ended_at),
                "duration_ms": item.duration_ms,
                "usage": dict(item.usage) or None,
                "error": item.error,
                "replayed_in": item.replayed_in,
            }
        case Attempt():
            known = {
                "type": "attempt",
                "sequence": item.sequence,
                "attempt": item.number,
                "started_at": wire_time(item.started_at),
                "launched": item.launched,
                "pid": item.pid,
                "command": item.command,
                "replayed": item.replayed,
                "executed": item.executed,
                "ended_at": wire_time(item.ended_at),
                "how": item.how,
                "exit_code": item.exit_code,
                "signal": item.signal,
            }
        case Ending():
            return as_object(item.attempt)
        case _:
            known = {
                "type": "event",
                "sequence": item.sequence,
                "attempt": item.attempt,
                "iteration": item.iteration,
                "timestamp": wire_time(item.timestamp),
                "event": item.event,
            }
    return {name: value for name, value in known.items() if value is not None}


def summary(agent: Mapping[str, Any], timeline: Timeline) -> dict[str, object]:
    """Return the story in numbers."""
    counts = timeline.count()
    taken, given = timeline.tokens()
    return {
        "agent_id": agent["agent_id"],
        "state": agent["state"],
        "attempts": agent.get("attempts", len(timeline.attempts)),
        "entries": timeline.entries,
        "steps": {state.replace(" ", "_"): counts[state] for state in StepState if counts[state]},
        "executed": sum(run.was_executed for run in timeline.runs),
        "replayed": timeline.replays(),
        "input_tokens": taken,
        "output_tokens": given,
    }


def summary_lines(
    agent: Mapping[str, Any], timeline: Timeline, terminal: Terminal
) -> Iterator[str]:
    """Return the closing lines of the table."""
    numbers = summary(agent, timeline)
    name, state = harmless(str(agent["agent_id"])), str(agent["state"])
    reason = f" ({harmless(str(agent['reason']))})" if agent.get("reason") else ""
    yield ""
    yield (
        f"{terminal.paint(name, 'bold')} is "
        f"{terminal.paint(state, STATE_STYLES.get(state, ''))}{reason}; {_counted(timeline)}"
    )
    taken, given = timeline.tokens()
    if taken or given:
        yield f"tokens: {taken:,} in, {given:,} out"
    if timeline.attempts:
        attempts = f"{len(timeline.attempts)} attempt" + "s" * (len(timeline.attempts) != 1)
        runs = "1 run" if numbers["executed"] == 1 else f"{numbers['executed']} runs"
        replays = "1 replay" if numbers["replayed"] == 1 else f"{numbers['replayed']} replays"
        yield f"{attempts}; {runs} of steps, {replays}"
    if timeline.in_doubt or state in {"parked", "interrupted", "waiting", "failed"}:
        yield f"{terminal.paint('try:', 'bold')} agent-journal why {name}"


def _counted(timeline: Timeline) -> str:
    counts = timeline.count()
    told = [f"{counts[state]:,} {state}" for state in StepState if counts[state]]
    return f"steps: {', '.join(told)}" if told else "no steps"


def _tokens(taken: int, given: int) -> str:
    return f"{taken:,}+{given:,}" if taken or given else ""


def _attempts(numbers: list[int]) -> str:
    """Return ``in 2, 3``, or ``in 2 to 9`` where there are many in a row."""
    if not numbers:
        return ""
    if len(numbers) > SHOWN_ATTEMPTS_MAX and numbers[-1] - numbers[0] == len(numbers) - 1:
        return f"in {numbers[0]} to {numbers[-1]}"
    return f"in {', '.join(map(str, numbers))}"


def _time(moment: Any, clock: Clock) -> str:  # noqa: ANN401 - a time, or none
    return "" if moment is None else clock_time(moment, clock=clock)
