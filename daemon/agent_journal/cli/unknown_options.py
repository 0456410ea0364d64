"""The option that was meant by one that is none, among those of the command that was typed."""

from __future__ import annotations

import argparse
import difflib
from collections.abc import Iterator, Sequence
from typing import Final

# Not for being spelt alike: they leave out a question, or take what is another's.
DANGEROUS: Final = frozenset({"--force", "--purge", "--take-over", "--yes"})


def nearest_option(words: Sequence[str], parser: argparse.ArgumentParser) -> str | None:
    """Return the option of *parser* that is most like the first of *words* that is spelt as one."""
    typed = next((word.partition("=")[0] for word in words if word.startswith("--")), None)
    if typed is None:
        return None
    options = {option for option in _options(parser) if option.startswith("--")} - DANGEROUS
    nearest = difflib.get_close_matches(typed, options, n=1)
    return nearest[0] if nearest else None


def _options(parser: argparse.ArgumentParser) -> Iterator[str]:
    """Yield the options of a parser, and of the command under it: only what was typed is there."""
    for action in parser._actions:  # noqa: SLF001 - argparse has no other way to ask
        yield from action.option_strings
        if isinstance(action, argparse._SubParsersAction):  # noqa: SLF001 - as above
            for command in action.choices.values():
                yield from _options(command)
