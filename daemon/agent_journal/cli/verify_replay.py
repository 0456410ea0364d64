"""``agent-journal verify-replay``: see whether a changed program fits what an agent recorded.

The program is run against a copy of the journal that records nothing.  Steps
that are recorded are handed back and not called; the first one that is not is
refused, which stops the program.  What the program does outside of its steps it
does, as in every replay.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from .arguments import add_agent_id, add_uid
from .child import checked_program
from .connection import connected
from .failures import CommandError, ExitCode, usage_error
from .output import print_json
from .raw_json import object_members
from .terminal import harmless, standard_output

if TYPE_CHECKING:
    from .replay_check import Difference, Recorded, ReplayCheck

EXAMPLES: Final = """\
  agent-journal verify-replay report-42 -- python report.py
  agent-journal read report-42 --json > report-42.ndjson  # for tests
  agent-journal verify-replay report-42 --from report-42.ndjson -- ./report.py
"""

OUTPUT_LINES_SHOWN: Final = 15


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    add_agent_id(parser, "the id of the agent whose journal is replayed")
    parser.add_argument(
        "--from",
        dest="file",
        type=Path,
        metavar="FILE",
        help="read the journal from the output of agent-journal read --json, not from the daemon",
    )
    parser.add_argument(
        "-v", "--verbose", action="store_true", help="show what the program prints, on stderr"
    )
    add_uid(parser)
    parser.set_defaults(argv=[])  # what stands behind -- is cut off before this looks
    parser.usage = f"{parser.prog} [--from FILE] [--verbose] AGENT -- CMD …"


def run(arguments: argparse.Namespace) -> int:
    """Replay, and say whether they agree; 1 where they do not."""
    argv: list[str] = arguments.argv
    if not argv:
        hint = "agent-journal verify-replay AGENT -- CMD ARGUMENTS"
        raise usage_error("there is no program to replay with", hint)
    checked_program(argv[0], os.environ)
    recorded = _recorded(arguments)
    # Imported when it is known that there is something to replay.
    from .replay_check import ReplayCheck  # noqa: PLC0415
    from .replay_program import Program, verdict_on  # noqa: PLC0415
    from .replay_server import ReplayServer  # noqa: PLC0415

    check = ReplayCheck(arguments.agent, recorded)
    with ReplayServer(check) as server:
        program = Program(argv, server, check, is_verbose=arguments.verbose)
        exit_code = program.run()
    found = verdict_on(check, exit_code, program.output)
    if arguments.json:
        print_json(
            {
                "agent_id": arguments.agent,
                "agrees": not found,
                "steps": check.steps,
                "end": check.end if not found else None,
                "differences": [
                    {"what": d.what, "recorded": d.recorded, "now": d.now} for d in found
                ],
                "exit_code": exit_code,
            }
        )
    else:
        _print(arguments.agent, check, found, program.output)
    return ExitCode.FAILED if found else ExitCode.OK


def _recorded(arguments: argparse.Namespace) -> list[Recorded]:
    if arguments.file is not None:
        with arguments.file.open(encoding="utf-8") as lines:
            found = [_entry(line.rstrip("\n")) for line in lines if line.strip()]
    else:
        from .verbatim import read_lines  # noqa: PLC0415 - imports the client

        with connected(arguments) as journal:
            lines_of = read_lines(journal, arguments.agent, 0, None, uid=arguments.uid)
            found = [_entry(line) for line in lines_of]
    mine = [entry for agent_id, entry in found if agent_id == arguments.agent]
    if [entry.sequence for entry in mine] != list(range(len(mine))):
        hint = f"agent-journal read {arguments.agent} --json > FILE, without --from or --limit"
        raise CommandError("entries are missing: their sequences are not 0, 1, 2, …", hint)
    if not mine:
        raise CommandError(
            f"nothing is recorded of {arguments.agent}",
            "agent-journal ls lists the ones you have",
            ExitCode.NO_SUCH_AGENT,
        )
    return mine


def _entry(line: str) -> tuple[object, Recorded]:
    from .replay_check import Recorded  # noqa: PLC0415 - as above

    members = object_members(line)
    try:
        event: Any = members["event"].value
        ((_name, _),) = event.items()
        sequence: Any = members["sequence"].value
        recorded = Recorded(
            sequence=sequence, event=event, text=line, event_text=members["event"].text
        )
        return members["agent_id"].value, recorded
    except (KeyError, ValueError, AttributeError):
        hint = "agent-journal read AGENT --json > FILE makes such a file"
        raise CommandError(f"this is no entry: {line[:80]}", hint) from None


def _print(agent_id: str, check: ReplayCheck, found: list[Difference], output: str) -> None:
    terminal = standard_output()
    steps = "1 recorded step" if check.steps == 1 else f"{check.steps:,} recorded steps"
    if not found:
        terminal.line(f"{terminal.paint('agrees', 'green')}: {harmless(agent_id)}, {steps}")
        terminal.line(f"replayed to {harmless(str(check.end))}; nothing was recorded")
        return
    terminal.line(f"{terminal.paint('differs', 'alarm')}: {harmless(agent_id)}, {steps}")
    for difference in found:
        for line in _lines(difference):
            terminal.line(harmless(line))
    if not check.differences and found[0].now is None and output.strip():
        terminal.line(terminal.paint("its last words:", "bold"))
        for line in output.strip().splitlines()[-OUTPUT_LINES_SHOWN:]:
            terminal.line(terminal.paint(f"  {harmless(line)}", "dim"))


def _lines(difference: Difference) -> list[str]:
    if difference.recorded is None and difference.now is None:
        return [difference.what]
    if difference.recorded is None and isinstance(difference.now, str):
        # The client's own words, in which an agent's may begin a line: none looks like ours.
        return [difference.what, *(f"  {line}" for line in difference.now.splitlines())]
    return difference.lines()
