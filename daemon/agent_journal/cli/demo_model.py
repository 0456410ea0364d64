"""The model of the demo's agent: scripted, so that the demo needs no network and no key.

It is a function from what was observed so far to what to do next, as a real
model is.  Only the words are prepared: every file, number and decision in them
comes from the observations.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

GOAL: Final = "find out what kind of project this is, and write it down"
SUMMARY_FILE: Final = "SUMMARY.md"
COMPARED_FILES: Final = 3

# A word to look for in each kind of file that may be the main one.
WORDS: Final[Mapping[str, str]] = {
    ".c": "#include",
    ".go": "func ",
    ".java": "class ",
    ".js": "function",
    ".md": "# ",
    ".py": "def ",
    ".rs": "fn ",
    ".sh": "()",
    ".ts": "function",
    ".txt": "the",
}


@dataclass(frozen=True, slots=True)
class Action:
    """A tool that the model wants to be called."""

    tool: str
    arguments: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Decision:
    """What the model thinks, and does; with an answer it is done."""

    thought: str
    actions: Sequence[Action] = ()
    answer: str | None = None


@dataclass(frozen=True, slots=True)
class Observation:
    """What came back of one action: a result, or an error (a denial is one)."""

    tool: str
    result: Mapping[str, Any] | None = None
    error: str | None = None


def decide(observations: Sequence[Observation]) -> Decision:
    """Return what to do after *observations*."""
    seen = _Seen(observations)
    if not seen.has("list_files"):
        return Decision("First I look at what is there.", [Action("list_files")])
    if not seen.has("largest_files"):
        return _look_closer(seen)
    if not seen.has("read_head"):
        return _open_largest(seen)
    if not seen.has("write_file"):
        return _write_down(seen)
    if not seen.has("count_lines"):
        return _compare(seen)
    return Decision("That is all I need.", answer=_answer(seen))


class _Seen:
    """What is known by now."""

    def __init__(self, observations: Sequence[Observation]) -> None:
        self._observations = observations

    def has(self, tool: str) -> bool:
        """Tell whether *tool* was asked for, with success or not."""
        return any(observation.tool == tool for observation in self._observations)

    def results(self, tool: str) -> list[Mapping[str, Any]]:
        return [o.result for o in self._observations if o.tool == tool and o.result is not None]

    def result(self, tool: str) -> Mapping[str, Any]:
        """Return what *tool* found the last time, nothing if it found nothing."""
        return next(reversed(self.results(tool)), {})

    def errors(self, tool: str) -> list[str]:
        return [o.error for o in self._observations if o.tool == tool and o.error is not None]

    @property
    def main_suffix(self) -> str:
        """The most common kind of file, of text before others."""
        suffixes: Mapping[str, int] = self.result("list_files").get("by_suffix", {})
        return next((s for s in suffixes if s in WORDS), next(iter(suffixes), ""))

    @property
    def largest(self) -> list[str]:
        return list(self.result("largest_files").get("files", []))


def _look_closer(seen: _Seen) -> Decision:
    listing = seen.result("list_files")
    suffix = seen.main_suffix
    word = WORDS.get(suffix, "the")
    of_them = f"{_number(listing.get('by_suffix', {}).get(suffix, 0), 'is', 'are')} {_kind(suffix)}"
    files = _number(listing.get("files", 0), "file", "files")
    return Decision(
        f"{files}, of which {of_them}."
        if suffix or listing.get("files")
        else "Nothing to be seen.",
        [
            Action("largest_files", {"suffix": suffix, "count": COMPARED_FILES}),
            Action("search", {"word": word, "suffix": suffix}),
        ],
    )


def _open_largest(seen: _Seen) -> Decision:
    if not seen.largest:
        return Decision("None of them. Is there a README?", [_head_of("README.md")])
    return Decision(
        f"{seen.largest[0]} is the largest; how does it begin?", [_head_of(seen.largest[0])]
    )


def _head_of(path: str) -> Action:
    return Action("read_head", {"path": path, "count": 1})


def _write_down(seen: _Seen) -> Decision:
    # It does not know the policy: models do propose what they may not do.
    draft = Action("write_file", {"path": SUMMARY_FILE, "text": _findings(seen)})
    todo = Action("search", {"word": "TODO", "suffix": seen.main_suffix})
    return Decision(f"Enough for {SUMMARY_FILE}; and is there work left to do?", [draft, todo])


def _compare(seen: _Seen) -> Decision:
    counting = [Action("count_lines", {"path": path}) for path in seen.largest or ["README.md"]]
    denied = seen.errors("write_file")
    thought = f"{SUMMARY_FILE} was refused, so I will tell it instead." if denied else "Written."
    return Decision(f"{thought} How long are the files?", counting)


def _findings(seen: _Seen) -> str:
    listing = seen.result("list_files")
    suffix = seen.main_suffix
    files = _number(listing.get("files", 0), "file", "files")
    if not listing.get("files"):
        return "There are no files here that I may look at."
    size = f"{listing.get('bytes', 0):,} bytes"
    count = listing.get("by_suffix", {}).get(suffix, 0)
    more = "" if listing.get("is_complete", True) else " (and more than I looked at)"
    return f"{files} with {size}{more}, {count:,} of them {_kind(suffix)}."


def _answer(seen: _Seen) -> str:
    sentences = [_findings(seen)]
    for search in seen.results("search"):
        lines = _number(search["lines"], "line has", "lines have")
        files = _number(search["files_searched"], "file", "files")
        sentences.append(f'{lines} "{search["word"].strip()}" in {files} searched.')
    counted = [
        f"{c['path']} ({_number(c['lines'], 'line', 'lines')})" for c in seen.results("count_lines")
    ]
    if counted:
        sentences.append(f"The largest: {', '.join(counted)}.")
    sentences += [
        f"{SUMMARY_FILE} was not written: {error}." for error in seen.errors("write_file")
    ]
    return " ".join(sentences)


def _kind(suffix: str) -> str:
    return suffix or "without a suffix"


def _number(count: int, one: str, many: str) -> str:
    return f"{count:,} {one if count == 1 else many}"
