"""``agent-journal trace``: an agent's story as OpenTelemetry spans."""

from __future__ import annotations

import argparse
import json
import os
import platform
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Final

from .arguments import add_agent_id, add_uid
from .failures import ExitCode
from .otlp_spans import Json, export, resource_of, spans
from .output import print_json
from .show import look
from .terminal import standard_output

EXAMPLES: Final = """\
  agent-journal trace report-42                     # OTLP in JSON, a line each
  agent-journal trace report-42 -o report-42.jsonl  # for otlpjsonfile
  agent-journal trace report-42 --endpoint http://localhost:4318
"""

SPANS_PER_MESSAGE: Final = 1000
SERVICE_VARIABLE: Final = "OTEL_SERVICE_NAME"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    add_agent_id(parser)
    add_uid(parser)
    where = parser.add_mutually_exclusive_group()
    where.add_argument("-o", "--output", type=Path, metavar="FILE", help="write them to a file")
    where.add_argument(
        "--endpoint",
        metavar="URL",
        help="send them to a collector (OTLP over HTTP; $OTEL_EXPORTER_OTLP_HEADERS is heeded)",
    )


def run(arguments: argparse.Namespace) -> int:
    """Print, write or send the spans."""
    if arguments.endpoint is not None:
        return _send(arguments)
    messages = _messages(arguments)
    if arguments.output is None:
        for message in messages:
            print_json(message)
        return ExitCode.OK
    from .whole_file import WholeFile  # noqa: PLC0415 - for a file alone

    with WholeFile(arguments.output) as file:
        for message in messages:
            file.stream.write(json.dumps(message, separators=(",", ":")).encode() + b"\n")
    return ExitCode.OK


def _send(arguments: argparse.Namespace) -> int:
    from .otlp_send import endpoint_url, headers_from, send  # noqa: PLC0415 - imports an HTTP client

    url, headers, count = endpoint_url(arguments.endpoint), headers_from(), 0
    for message in _messages(arguments):
        send(url, message, headers)
        count += len(message["resourceSpans"][0]["scopeSpans"][0]["spans"])
    if arguments.json:
        print_json({"spans": count, "endpoint": url})
    else:
        standard_output().line(f"{count:,} span{'' if count == 1 else 's'} sent to {url}")
    return ExitCode.OK


def _messages(arguments: argparse.Namespace) -> Iterator[Json]:
    """Yield an agent's spans in messages that a collector takes."""
    agent, timeline = look(arguments)
    service = os.environ.get(SERVICE_VARIABLE)
    resource = resource_of(agent, service=service, host=platform.node())
    left = spans(agent, timeline)
    while some := [*islice(left, SPANS_PER_MESSAGE)]:
        yield export(resource, some)
