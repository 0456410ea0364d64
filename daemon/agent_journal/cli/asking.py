"""Asking a person before something is done that nobody can undo."""

from __future__ import annotations

import sys

from .failures import CommandError


def ask(question: str, *, nothing: str, hint: str) -> None:
    """Have a person say yes.

    Raises:
        CommandError: nobody did, or nobody is there; says *nothing*, and what to try.
    """
    answer = ""
    if sys.stdin.isatty():
        sys.stderr.write(f"{question} [yes/no] ")
        sys.stderr.flush()
        answer = sys.stdin.readline().strip().lower()
    if answer not in {"yes", "y"}:
        raise CommandError(nothing, hint)
