"""Holds each answer to the document: one a line, in order, with what its code promises."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, Final

from hostile.judge import Verdict
from hostile.lines import DOCUMENT

_ROW: Final = re.compile(r"^\| `(\w+)` \| (yes|no) \| `(\w+)` \|([^|]*)\|", re.MULTILINE)


def _table() -> dict[str, tuple[bool, str, frozenset[str]]]:
    text = DOCUMENT.read_text("utf-8").partition("\n## Errors\n")[2].partition("\n## ")[0]
    return {
        code: (retryable == "yes", outcome, frozenset(re.findall(r"`(\w+)`", members)))
        for code, retryable, outcome, members in _ROW.findall(text)
    }


ERRORS: Final = _table()


class WrongAnswer(AssertionError):  # noqa: N818 - it is a finding
    """A line was not answered as the document says."""


def error_as_documented(reply: dict[str, Any]) -> str:
    """Return the code of a reply that says no, and see that it has what the table says."""
    error = reply["error"]
    code: str = error["code"]
    if code not in ERRORS:
        raise WrongAnswer(f"{code} is not in the table: {reply}")
    retryable, outcome, members = ERRORS[code]
    if (error["retryable"], error["outcome"]) != (retryable, outcome):
        raise WrongAnswer(f"not what the table says of {code}: {reply}")
    if not error["message"] or not members <= error.keys():
        raise WrongAnswer(f"members are missing: {reply}")
    return code


def check_answers(
    lines: Sequence[bytes], verdicts: Sequence[Verdict], answers: bytes, seen: Counter[str]
) -> None:
    """Hold *answers* to what may be answered to *lines*, one for each, in order.

    Raises:
        WrongAnswer: saying to which line.
    """
    if answers and not answers.endswith(b"\n"):
        raise WrongAnswer(f"ends within a line: {answers[-200:]!r}")
    replies = _replies(answers)
    for line, verdict in zip(lines, verdicts, strict=True):
        reply = next(replies, None)
        if reply is None:
            raise WrongAnswer(f"no answer to {line[:2000]!r}")
        code = "ok" if reply["ok"] is True else error_as_documented(reply)
        if not verdict.allows(reply):
            raise WrongAnswer(f"to {line[:2000]!r}: {reply}; expected {verdict}")
        seen[code] += 1
    further = next(replies, None)
    if further is not None:
        raise WrongAnswer(f"an answer too many, behind {lines[-1][:2000]!r}: {further}")


def _replies(answers: bytes) -> Iterator[dict[str, Any]]:
    for line in answers.split(b"\n")[:-1]:
        reply = json.loads(line)
        if "entry" not in reply:  # of a tail, which ends with a line of its own
            yield reply
