"""As much HTTP as a scrape needs: ``GET /metrics`` on the journal's own socket.

    curl --unix-socket /run/agent-journal/journal.sock http://j/metrics

A conversation is HTTP if its first bytes are a method of HTTP and a space; no
request of the protocol begins like that.  One request is answered, then the
connection is closed.  Its head is all that is read, and is bounded; whatever is
wrong with it is answered with a status and a line that says what to do.

No I/O: bytes in, bytes out.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

HEAD_BYTES_MAX: Final = 8192  # as much as a proxy may add to a small request
TARGET: Final = "/metrics"
TEXT: Final = "text/plain; charset=utf-8"

# All that a client may begin with; that of HTTP/2 is told that it is not spoken here.
METHODS: Final = tuple(
    method + b" "
    for method in (
        *(b"GET", b"HEAD", b"POST", b"PUT", b"DELETE", b"OPTIONS", b"PATCH", b"TRACE"),
        *(b"CONNECT", b"PRI"),
    )
)

METHOD_BYTES_MAX: Final = max(map(len, METHODS))

_REASONS: Final = {
    200: "OK",
    400: "Bad Request",
    404: "Not Found",
    405: "Method Not Allowed",
    431: "Request Header Fields Too Large",
    503: "Service Unavailable",
    505: "HTTP Version Not Supported",
}

# The body and its content type.
Page = Callable[[], tuple[str, str]]


def is_http(begin: bytes) -> bool | None:
    """Tell whether a conversation that begins so is HTTP; ``None``: more has to be seen."""
    if begin.startswith(METHODS):
        return True
    if any(method.startswith(begin) for method in METHODS):
        return None
    return False


class HttpRequest:
    """One request, from its first byte to its answer."""

    def __init__(self, page: Page) -> None:
        self._page = page
        self._head = b""

    @property
    def held_bytes(self) -> int:
        """How much was received that can't be answered yet."""
        return len(self._head)

    def feed(self, data: bytes) -> bytes | None:
        """Return the answer when the head is there, or too long; ``None``: it is not yet."""
        self._head += data
        ends = [at for mark in (b"\r\n\r\n", b"\n\n") if (at := self._head.find(mark)) >= 0]
        head = self._head[: min(ends)] if ends else self._head
        if len(head) > HEAD_BYTES_MAX:
            return response(431, f"The request's head is longer than {HEAD_BYTES_MAX} bytes.")
        return self._answer(head) if ends else None

    def end(self) -> bytes:
        """Return the answer to a request that ended before its head did."""
        return response(400, "The request ended before its head did.")

    def refuse(self) -> bytes:
        """Return the answer where there is no room for the rest of its head."""
        return response(503, "Too much is in flight; try again in a moment.")

    def _answer(self, head: bytes) -> bytes:
        first, *fields = head.replace(b"\r\n", b"\n").split(b"\n")
        words = first.decode("latin-1").split(" ")
        if len(words) != len(("method", "target", "version")):
            return response(400, "A request begins with a line like GET /metrics HTTP/1.1.")
        method, target, version = words
        is_head = method == "HEAD"
        if version not in ("HTTP/1.0", "HTTP/1.1"):
            return response(505, "HTTP/1.0 and 1.1 are spoken here.", is_head=is_head)
        if wrong := _wrong_fields(fields, needs_host=version == "HTTP/1.1"):
            return response(400, wrong, is_head=is_head)
        if _path(target) != TARGET:
            return response(404, f"There is {TARGET} here, and nothing else.", is_head=is_head)
        if method not in ("GET", "HEAD"):
            return response(405, f"{TARGET} can be got with GET.", fields=("Allow: GET, HEAD",))
        body, content_type = self._page()
        return response(200, body, content_type=content_type, is_head=is_head)


def _wrong_fields(fields: list[bytes], *, needs_host: bool) -> str | None:
    """Return what is wrong with the header fields, if anything is."""
    names = []
    for field in fields:
        name, colon, _ = field.partition(b":")
        if not colon or not name or name != name.strip() or b"\0" in field:
            return "A header field is a name, a colon and a value, on one line."
        names.append(name.lower())
    if needs_host and names.count(b"host") != 1:
        return "A request of HTTP/1.1 has one field Host."
    return None


def _path(target: str) -> str:
    """Return the path that is asked for: of a target as a proxy writes it, too."""
    scheme, mark, rest = target.partition("://")
    if mark and scheme.lower() == "http":
        target = "/" + rest.partition("/")[2]
    return target.partition("?")[0]


def response(
    status: int,
    body: str,
    *,
    content_type: str = TEXT,
    is_head: bool = False,
    fields: tuple[str, ...] = (),
) -> bytes:
    """Return a whole answer; that to HEAD has the length of the body and not the body."""
    if not body.endswith("\n"):
        body += "\n"
    content = body.encode()
    head = (
        f"HTTP/1.1 {status} {_REASONS[status]}",
        f"Content-Type: {content_type}",
        f"Content-Length: {len(content)}",
        "Cache-Control: no-store",
        *fields,
        "Connection: close",
    )
    return "\r\n".join((*head, "", "")).encode() + (b"" if is_head else content)
