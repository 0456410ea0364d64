"""Coverage-guided fuzzing of framing and decoding, with atheris.

Not a test of pytest's: atheris instruments what it imports, and ends its process.  It is
no dependency of the project; ``test_fuzz.py`` runs this where it is installed:

    pip install -r requirements/fuzz.txt
    python tests/hostile/fuzz.py -runs=1000000 [-seed=1] [CORPUS]

Each input is a stream of bytes.  Cut at any place it gives the same lines; each line is
a request or is refused, with a code and an id that the document allows; and what is held
of a line that has not ended stays within the bound.
"""

from __future__ import annotations

import sys
from pathlib import Path

import atheris

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "daemon")]

with atheris.instrument_imports(include=["agent_journal.framing", "agent_journal.wire"]):
    from agent_journal.framing import Framer
    from agent_journal.wire import (
        UNSET,
        RefusedLineError,
        decode_request,
        event_name,
        is_same_event,
        terminated_reason,
    )

from agent_journal.errors import InvalidError  # noqa: E402 - behind what is instrumented
from hostile.answers import ERRORS, WrongAnswer  # noqa: E402 - behind what is instrumented
from hostile.judge import judge  # noqa: E402 - behind what is instrumented
from hostile.lines import documented  # noqa: E402 - behind what is instrumented

FRAME_BYTES_MAX = 512


def one_input(data: bytes) -> None:
    """Take one input; whatever is raised is a finding."""
    cut = data[0] if data else 0
    stream = data[1:]
    whole, in_pieces = Framer(FRAME_BYTES_MAX), Framer(FRAME_BYTES_MAX)
    lines = whole.feed(stream)
    if in_pieces.feed(stream[:cut]) + in_pieces.feed(stream[cut:]) != lines:
        raise WrongAnswer(f"cut at {cut}, {stream!r} gives other lines")
    if whole.partial_bytes > FRAME_BYTES_MAX:
        raise WrongAnswer(f"{whole.partial_bytes} bytes are held of {stream!r}")
    sent = stream.split(b"\n")
    if len(sent[-1]) <= FRAME_BYTES_MAX:
        sent.pop()
    for line, framed in zip(sent, lines, strict=True):
        check_line(line, framed)


def check_line(line: bytes, framed: bytes) -> None:
    """Hold what the decoder says of a line to the document."""
    verdict = judge(line, FRAME_BYTES_MAX)
    try:
        request = decode_request(framed)
    except RefusedLineError as refused:
        code, request_id = refused.error.code, refused.request_id
        if code not in verdict.codes or code not in ERRORS:
            raise WrongAnswer(f"{line!r} is {code}, expected {verdict}") from refused
    else:
        code, request_id = "ok", request.id
        if verdict.codes <= {"malformed", "unknown_op", "frame_too_large"}:
            raise WrongAnswer(f"{line!r} is a request, expected {verdict}")
        check_event(getattr(request, "event", UNSET))
    is_echo = request_id == verdict.id and type(request_id) is type(verdict.id)
    if not is_echo and not (verdict.has_id_only_if_read and request_id is None):
        raise WrongAnswer(f"{line!r} has the id {request_id!r}, expected {verdict}")


def check_event(event: object) -> None:
    """Look at an event in each of the ways in which it is looked at later."""
    if event is UNSET:
        return
    try:
        event_name(event)  # type: ignore[arg-type]
    except InvalidError:
        return
    raw = bytes(event)  # type: ignore[call-overload]
    terminated_reason(raw)
    if not is_same_event(raw, raw):
        raise WrongAnswer(f"{raw!r} is not itself")


def main() -> None:
    """Run libFuzzer with the documented lines as its first corpus."""
    corpus = next((Path(one) for one in sys.argv[1:] if not one.startswith("-")), None)
    if corpus is not None:
        corpus.mkdir(parents=True, exist_ok=True)
        for number, line in enumerate(documented()):
            (corpus / f"documented-{number}").write_bytes(b"\x07" + line + b"\n")
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
