"""``agent-journal completion``: what the shell offers when Tab is pressed.

The scripts are made from the parsers, so a new option is in them.  Agents' ids and
kinds are asked of the daemon at the moment, with little patience; whatever goes wrong
then, nothing is offered and nothing is said, since somebody is in the middle of a line.
"""

from __future__ import annotations

import argparse
from typing import Final

from .failures import ExitCode, usage_error
from .terminal import standard_output

EXAMPLES: Final = """\
  source <(agent-journal completion bash)        # for this shell
  agent-journal completion bash > /etc/bash_completion.d/agent-journal
  agent-journal completion zsh > "${fpath[1]}/_agent-journal"
  agent-journal completion fish > ~/.config/fish/completions/agent-journal.fish

"agent-journal install" puts all three in their places.
"""

SHELLS: Final = ("bash", "zsh", "fish")
PATIENCE_S: Final = 0.5
OFFERED_MAX: Final = 200  # more than a person reads; a longer prefix narrows it


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("shell", choices=SHELLS, nargs="?", help="which shell it is for")
    # What the scripts ask; not for people.
    for name in ("--agents", "--kinds"):
        parser.add_argument(name, metavar="PREFIX", help=argparse.SUPPRESS)


def run(arguments: argparse.Namespace) -> int:
    """Print a script, or what its function asks for."""
    if arguments.agents is not None or arguments.kinds is not None:
        for word in _asked(arguments):
            standard_output().line(word)
        return ExitCode.OK
    if arguments.shell is None:
        raise usage_error("no shell is named", "agent-journal completion bash, zsh or fish")
    from .completion_scripts import script  # noqa: PLC0415 - imports the module of every command

    standard_output().line(script(arguments.shell).rstrip("\n"))
    return ExitCode.OK


def _asked(arguments: argparse.Namespace) -> list[str]:
    """Return ids or kinds that begin as typed; nothing where they can't be had at once."""
    from ..client import connect  # noqa: PLC0415 - imported when there is something to ask

    prefix = arguments.agents if arguments.agents is not None else arguments.kinds
    request: dict[str, object] = {"op": "agents", "limit": OFFERED_MAX}
    if arguments.agents is None or not prefix:
        request["order"] = "newest"
    else:
        request["prefix"] = prefix
    try:
        with connect(arguments.socket, timeout_s=PATIENCE_S, retry_s=0) as journal:
            agents = journal.call(request)["agents"]
        member = "agent_id" if arguments.agents is not None else "kind"
        words = {str(agent[member]) for agent in agents if agent.get(member)}
    except Exception:  # noqa: BLE001 - anything: a message would stand in what is being typed
        return []
    return sorted(word for word in words if word.startswith(prefix) and _is_plain(word))


def _is_plain(word: str) -> bool:
    """Tell whether a shell takes *word* as it stands; a kind may be any text."""
    return word.isascii() and all(c.isalnum() or c in "._:@-" for c in word)
