"""Spans to a collector, over HTTP, in the JSON of OTLP."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from http.client import HTTPException
from typing import Any, Final
from urllib.error import HTTPError
from urllib.parse import unquote, urlsplit, urlunsplit
from urllib.request import Request, urlopen

from .failures import CommandError, usage_error

PATH: Final = "/v1/traces"  # where OTLP's signal of traces is, of a collector's address
TIMEOUT_S: Final = 30.0
ANSWER_BYTES_MAX: Final = 64 * 1024
HEADERS_VARIABLE: Final = "OTEL_EXPORTER_OTLP_HEADERS"


def endpoint_url(text: str) -> str:
    """Return where to send to: an address without a path is a collector's.

    Raises:
        CommandError: it is no address of HTTP.
    """
    url = urlsplit(text)
    if url.scheme not in {"http", "https"} or not url.netloc:
        raise usage_error(f"{text!r} is not a URL of http or https", "http://localhost:4318")
    return urlunsplit(url._replace(path=PATH)) if url.path in {"", "/"} else text


def headers_from(environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return the headers that OpenTelemetry's own variable asks for, for an API key say."""
    pairs = (pair.partition("=") for pair in environ.get(HEADERS_VARIABLE, "").split(","))
    return {unquote(name.strip()): unquote(value.strip()) for name, mark, value in pairs if mark}


def send(url: str, message: Mapping[str, Any], headers: Mapping[str, str]) -> None:
    """Send one message.

    Raises:
        CommandError: the collector did not take it, or not all of it.
    """
    body = json.dumps(message, separators=(",", ":")).encode()
    fields = {"Content-Type": "application/json", "User-Agent": "agent-journal", **headers}
    request = Request(url, data=body, headers=fields, method="POST")  # noqa: S310 - checked
    again = "send it again: the same spans have the same ids"
    try:
        with urlopen(request, timeout=TIMEOUT_S) as answer:  # noqa: S310 - checked
            told = answer.read(ANSWER_BYTES_MAX)
    except HTTPError as error:
        with error:
            said = error.read(ANSWER_BYTES_MAX).decode(errors="replace").strip()
        raise CommandError(
            f"{url} answered {error.code} {error.reason}" + (f": {said[:200]}" if said else ""),
            f"see what it wants, and {HEADERS_VARIABLE} if it is a key; then {again}",
        ) from error
    except (OSError, HTTPException, ValueError) as error:
        raise CommandError(
            f"{url} could not be reached: {error}", f"start a collector there, then {again}"
        ) from error
    if rejected := _rejected(told):
        raise CommandError(f"{url} rejected {rejected}", "see the collector's own log")


def _rejected(told: bytes) -> str:
    """Return what a collector that took a message did not take of it."""
    try:
        partial = json.loads(told or b"{}").get("partialSuccess") or {}
        count = int(partial.get("rejectedSpans") or 0)
    except (ValueError, AttributeError, TypeError):
        return ""  # it took the message, and says so in words of its own
    return f"{count} spans: {partial.get('errorMessage', '')}" if count else ""
