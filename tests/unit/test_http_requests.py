"""As much HTTP as a scrape needs, and whatever else a client sends that speaks it."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent_journal.service.http_requests import (
    HEAD_BYTES_MAX,
    METHOD_BYTES_MAX,
    METHODS,
    HttpRequest,
    is_http,
)

PAGE = ("up 1\n", "text/x")
RESPONSE = re.compile(
    rb"HTTP/1\.1 (\d{3}) [A-Z][A-Za-z ]+\r\n((?:[A-Za-z-]+: [^\r\n]+\r\n)+)\r\n(.*)", re.DOTALL
)


def answer(request: bytes, *, at_once: int = 10_000) -> tuple[int, dict[str, str], bytes]:
    """Return status, header fields and body of the answer to *request*."""
    http = HttpRequest(lambda: PAGE)
    answers = []
    for start in range(0, len(request), at_once):
        if (found := http.feed(request[start : start + at_once])) is not None:
            answers.append(found)
            break
    (raw,) = answers or [http.end()]
    return read(raw)


def read(raw: bytes) -> tuple[int, dict[str, str], bytes]:
    match = RESPONSE.fullmatch(raw)
    assert match, raw
    fields = dict(line.split(": ", 1) for line in match[2].decode().splitlines())
    assert fields["Connection"] == "close"
    assert len(match[3]) in (0, int(fields["Content-Length"]))
    return int(match[1]), fields, match[3]


@pytest.mark.parametrize("end", [b"\r\n", b"\n"], ids=["crlf", "lf"])
@pytest.mark.parametrize("at_once", [1, 7, 10_000])
@pytest.mark.parametrize(
    "lines",
    [
        (b"GET /metrics HTTP/1.0",),
        (b"GET /metrics HTTP/1.1", b"Host: j"),
        (b"GET /metrics?x=1 HTTP/1.1", b"hOST:j", b"X: \xff"),
        (b"GET http://j/metrics HTTP/1.1", b"Host: j"),
    ],
)
def test_the_page_is_got(lines: tuple[bytes, ...], at_once: int, end: bytes) -> None:
    status, fields, body = answer(end.join((*lines, b"", b"")), at_once=at_once)
    assert (status, fields["Content-Type"], body) == (200, "text/x", b"up 1\n")


def test_head_is_told_the_length_and_nothing_more() -> None:
    status, fields, body = answer(b"HEAD /metrics HTTP/1.0\r\n\r\n")
    assert (status, fields["Content-Length"], body) == (200, "5", b"")


@pytest.mark.parametrize(
    ("request_line", "status"),
    [
        (b"GET / HTTP/1.0", 404),
        (b"POST /elsewhere HTTP/1.0", 404),
        (b"POST /metrics HTTP/1.0", 405),
        (b"OPTIONS * HTTP/1.0", 404),
        (b"CONNECT j:80 HTTP/1.0", 404),
        (b"GET /metrics", 400),
        (b"GET  /metrics HTTP/1.0", 400),
        (b"GET /metrics HTTP/1.0 x", 400),
        (b"GET /metrics HTTP/0.9", 505),
        (b"PRI * HTTP/2.0", 505),
        (b"GET /metrics HTTP/1.1", 400),  # without a Host
        (b"GET /metrics HTTP/1.1\r\nHost: a\r\nHost: b", 400),
        (b"GET /metrics HTTP/1.0\r\nno colon", 400),
        (b"GET /metrics HTTP/1.0\r\n folded: x", 400),
        (b"GET /metrics HTTP/1.0\r\nname : x", 400),
        (b"GET /metrics HTTP/1.0\r\nname: \0", 400),
    ],
)
def test_everything_else_is_told_why_not(request_line: bytes, status: int) -> None:
    found, fields, body = answer(request_line + b"\r\n\r\n")
    assert found == status
    assert body.endswith(b".\n")
    assert body.count(b"\n") == 1
    assert fields.get("Allow") == ("GET, HEAD" if status == 405 else None)


def test_a_head_that_does_not_end_is_refused_when_it_is_too_long() -> None:
    http = HttpRequest(lambda: PAGE)
    given = b"GET /metrics HTTP/1.0\r\n" + b"X: y\r\n" * 10_000
    taken = 0
    while (found := http.feed(given[taken : taken + 100])) is None:
        taken += 100
        assert http.held_bytes <= HEAD_BYTES_MAX
    assert read(found)[0] == 431
    assert taken + 100 <= HEAD_BYTES_MAX + 100


def test_a_request_that_ends_in_its_head_is_told_so() -> None:
    assert answer(b"GET /metrics HT")[0] == 400


heads = st.lists(
    st.sampled_from(
        [*METHODS, b"GET", b"/metrics", b" ", b"HTTP/1.1", b"\r\n", b"\n", b"\r", b"Host: j"]
    )
    | st.binary(max_size=8),
    max_size=30,
).map(b"".join)


@given(data=heads, cuts=st.lists(st.integers(1, 40), max_size=20))
def test_whatever_comes_however_it_comes_is_answered_once_and_alike(
    data: bytes, cuts: list[int]
) -> None:
    """The same for every way in which the bytes may be cut."""
    data = b"GET " + data
    whole = answer(data)
    http = HttpRequest(lambda: PAGE)
    found, start = None, 0
    for cut in (*cuts, len(data)):
        found = http.feed(data[start : start + cut])
        start += cut
        if found is not None:
            break
    assert read(found or http.end()) == whole


@given(begin=st.binary(min_size=1, max_size=20))
def test_by_a_few_bytes_http_is_told_from_a_request(begin: bytes) -> None:
    verdict = is_http(begin)
    assert (verdict is True) == any(begin.startswith(method) for method in METHODS)
    if len(begin) >= METHOD_BYTES_MAX:
        assert verdict is not None


@pytest.mark.parametrize("begin", [b"{", b" {", b"Hello?", b"get ", b"\x16\x03\x01", b"GETX"])
def test_what_is_not_http_is_no_scrape(begin: bytes) -> None:
    assert is_http(begin) is False


@pytest.mark.parametrize("begin", [b"G", b"GET", b"P", b"OPTIONS"])
def test_what_may_become_http_is_waited_for(begin: bytes) -> None:
    assert is_http(begin) is None
