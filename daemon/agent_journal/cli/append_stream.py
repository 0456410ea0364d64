"""A stream of lines into the journal, with an account of what became of each.

All lines that one read of the input returned go out together: a file is
pipelined, and of a producer that writes one line a second each is recorded at
once.  A line that is refused is reported with its number, and those behind it
are still recorded.  When the daemon itself fails, nothing behind could be
recorded either: the stream stops there and says at which line.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, BinaryIO

from ..client import Appended, AppendRequest
from ..errors import JournalError, RequestError
from .append_lines import AppendBatch, Request, line_groups, request_of
from .counted import agents, counted, entries
from .failures import ExitCode, failure_of
from .output import as_object, print_json
from .terminal import Terminal, harmless, standard_output

if TYPE_CHECKING:
    from ..client import Client

Numbered = tuple[int, Request | JournalError]
Outcome = tuple[int, Request | JournalError, Appended | JournalError]


class AppendStream:
    """Sends what a stream holds; one use."""

    def __init__(
        self,
        journal: Client,
        *,
        agent: str | None,
        uid: int | None,
        epoch: int | None,
        as_json: bool,
    ) -> None:
        self._journal = journal
        self._agent = agent
        self._uid = uid
        self._epoch = epoch
        self._tally = Tally(agent=agent, as_json=as_json)

    def run(self, stream: BinaryIO) -> ExitCode:
        """Record every line of *stream* and return the exit code."""
        number = 0
        for lines in line_groups(stream):
            numbered = enumerate(lines, number + 1)
            requests = [(at, self._request(line)) for at, line in numbered if line.strip()]
            number += len(lines)
            for outcome in self._sent(requests):
                self._tally.count(*outcome)
                if self._tally.fatal is not None:
                    return self._tally.end()
            standard_output().flush()
        return self._tally.end()

    def _request(self, line: bytes) -> Request | JournalError:
        try:
            return request_of(line, agent=self._agent, uid=self._uid, epoch=self._epoch)
        except JournalError as error:
            return error

    def _sent(self, requests: Sequence[Numbered]) -> Iterator[Outcome]:
        """Send what can be sent; yield every line's outcome, in the order of the lines."""
        for kind, group in groupby(requests, key=lambda numbered: type(numbered[1])):
            if kind is AppendRequest:
                yield from self._pipelined(group)
                continue
            for number, request in group:
                if isinstance(request, AppendBatch):
                    yield number, request, self._batch(request)
                elif isinstance(request, JournalError):  # refused by ourselves
                    yield number, request, request

    def _pipelined(self, requests: Iterator[Numbered]) -> Iterator[Outcome]:
        unanswered: deque[Numbered] = deque()

        def sending() -> Iterator[AppendRequest]:
            for number, request in requests:
                if isinstance(request, AppendRequest):  # as all of this group are
                    unanswered.append((number, request))
                    yield request

        try:
            for result in self._journal.append_pipelined(sending()):
                yield (*unanswered.popleft(), result)
        except JournalError as error:
            yield (*unanswered[0], error)

    def _batch(self, batch: AppendBatch) -> Appended | JournalError:
        try:
            return self._journal.append_many(batch.agent_id, batch.entries, **batch.options)
        except JournalError as error:
            return error


class Tally:
    """What became of the lines so far; prints each as it is known."""

    def __init__(self, *, agent: str | None, as_json: bool) -> None:
        self._agent = agent
        self._as_json = as_json
        self._recorded = 0
        self._repeated = 0
        self._agents: set[str] = set()
        self._refused: list[ExitCode] = []
        self.fatal: ExitCode | None = None

    def count(self, number: int, request: Request | JournalError, result: object) -> None:
        """Take one line's outcome."""
        if isinstance(result, Appended) and not isinstance(request, JournalError):
            self._agents.add(request.agent_id)
            self._recorded += 0 if result.duplicate else result.count
            self._repeated += result.count if result.duplicate else 0
            self._print(number, as_object(result), ok=True)
        elif isinstance(result, JournalError):
            exit_code = self._report(number, result)
            if isinstance(result, RequestError):
                self._refused.append(exit_code)
            else:
                self.fatal = exit_code

    def end(self) -> ExitCode:
        """Print the summary and return the exit code."""
        if not self._as_json:
            standard_output().line(self._summary())
        if self.fatal is not None:
            return self.fatal
        kinds = set(self._refused)
        if len(kinds) > 1:
            return ExitCode.FAILED  # for several reasons
        return kinds.pop() if kinds else ExitCode.OK

    def _report(self, number: int, error: JournalError) -> ExitCode:
        failure = failure_of(error, command="append", agent=self._agent)
        standard_output().flush()
        terminal = Terminal(sys.stderr)
        terminal.line(f"agent-journal: line {number}: {harmless(failure.what)}")
        if not isinstance(error, RequestError):
            terminal.line(f"try: {harmless(failure.hint)}; then go on from line {number}")
        terminal.flush()
        shown = {"code": error.code, "message": error.message, **error.details}
        self._print(number, {"error": shown}, ok=False)
        return failure.exit_code

    def _print(self, number: int, fields: object, *, ok: bool) -> None:
        if self._as_json and isinstance(fields, dict):
            print_json({"line": number, "ok": ok, **fields})

    def _summary(self) -> str:
        summary = f"{entries(self._recorded)} recorded for {agents(len(self._agents))}"
        if self._repeated:
            summary += f", {self._repeated:,} recorded before"
        if self._refused:
            summary += f", {counted(len(self._refused), 'line')} refused"
        return summary
