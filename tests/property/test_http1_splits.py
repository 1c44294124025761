"""Invariants of the HTTP/1 framing machines over generated input.

- Split independence: however the octets are cut, and however late the events are taken, the trace is the same.
- What is well-formed is read back exactly: requests and responses composed from their parts, pipelined and cut at
  random.
- Limits bind at the octet: n is accepted, n + 1 is refused, with the status the limit stands for, and an input without
  end is refused as soon as it cannot be within the limit any more, not when a line end comes.
- Nothing escapes but TypeError and OverflowError for arguments of the wrong type or range.

The order of events, the finality of ERROR and the bound on the number of events are checked by the driver in
tests/kits/http1.py in each of these runs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from agw._fast.http1 import ERROR, NEED_DATA, Limits, RequestParser, ResponseParser
from tests.kits.http1 import corpus, cut, octets, run_request, run_response
from tests.kits.mutation import HTTP1_TOKENS, Mutator

PROFILE = settings(max_examples=400, deadline=None, derandomize=True, database=None)
SMALL = settings(PROFILE, max_examples=120)

REQUESTS = corpus(requests=True)
RESPONSES = corpus(requests=False)

CUTS = st.lists(st.integers(0, 700), max_size=9)
LIMITS = st.one_of(
    st.just(Limits()),
    st.builds(
        Limits,
        max_line=st.integers(0, 64),
        max_field=st.integers(0, 64),
        max_head=st.integers(64, 300),
        max_headers=st.integers(0, 5),
        max_chunk_line=st.integers(0, 20),
        max_chunk_ext=st.integers(0, 20),
        max_trailers=st.integers(0, 20),
    ),
)
METHOD = st.sampled_from([b"GET", b"HEAD", b"POST", b"", b"\xff"])


def soup(near: list[bytes]) -> st.SearchStrategy[bytes]:
    """Octets from nothing in common with HTTP to a valid stream with one flaw."""
    tokens = st.lists(st.one_of(st.sampled_from(HTTP1_TOKENS), st.binary(max_size=4)), max_size=30).map(b"".join)
    mutated = st.integers(0, 1 << 32).map(lambda seed: Mutator(seed, near, HTTP1_TOKENS, 1024).mutate())
    return st.one_of(
        mutated, mutated, tokens, st.binary(max_size=64), st.lists(st.sampled_from(near), max_size=3).map(b"".join)
    )


# ------------------------------------------------------------------------------------------------- split independence


@PROFILE
@given(soup(REQUESTS), CUTS, LIMITS)
def test_requests_read_the_same_however_cut(raw: bytes, places: list[int], limits: Limits) -> None:
    whole = run_request([raw], limits)
    assert run_request(cut(raw, places), limits) == whole
    assert run_request(octets(raw), limits) == whole
    assert run_request(cut(raw, places), limits, lazy=True) == whole


@PROFILE
@given(soup(RESPONSES), CUTS, LIMITS, METHOD, st.booleans())
def test_responses_read_the_same_however_cut(
    raw: bytes, places: list[int], limits: Limits, method: bytes, eof: bool
) -> None:
    whole = run_response([raw], limits, method, eof=eof)
    assert run_response(cut(raw, places), limits, method, eof=eof) == whole
    assert run_response(octets(raw), limits, method, eof=eof) == whole
    assert run_response(cut(raw, places), limits, method, eof=eof, lazy=True) == whole


@pytest.mark.parametrize("place", range(2))
def test_mutations_read_the_same_however_cut(place: int) -> None:
    """The same, by numbers: what hypothesis has not the time for."""
    mutator = Mutator(f"splits {place}", (REQUESTS, RESPONSES)[place], HTTP1_TOKENS, 1024)
    limits = Limits()
    for number in range(20_000):
        raw = mutator.mutate()
        chunks = mutator.cuts(raw)
        if place == 0:
            assert run_request(chunks, limits) == run_request([raw], limits), (raw, chunks)
        else:
            eof = number % 2 == 0
            assert run_response(chunks, limits, eof=eof) == run_response([raw], limits, eof=eof), (raw, chunks, eof)


# --------------------------------------------------------------------------------------------------------- read back

TOKENS = st.text("!#$%&'*+-.^_`|~09azAZ", min_size=1, max_size=12).map(str.encode)
VALUES = (
    st.lists(st.sampled_from([*range(0x21, 0x7F), *range(0x80, 0x100), 0x20, 0x09]), max_size=20)
    .map(bytes)
    .map(lambda v: v.strip(b" \t"))
)
RESERVED = {b"host", b"content-length", b"transfer-encoding", b"connection", b"expect", b"upgrade"}
FIELDS = st.lists(st.tuples(TOKENS.filter(lambda name: name.lower() not in RESERVED), VALUES), max_size=5)
BLANKS = st.text(" \t", max_size=3).map(str.encode)
PATHS = st.lists(st.sampled_from([bytes([c]) for c in range(0x21, 0x7F) if c not in b"#?"]), max_size=12).map(
    lambda parts: b"/" + b"".join(parts)
)
QUERIES = st.one_of(
    st.just(b""),
    st.lists(st.sampled_from([bytes([c]) for c in range(0x21, 0x7F) if c != 0x23]), max_size=8).map(
        lambda parts: b"?" + b"".join(parts)
    ),
)
HOSTS = st.sampled_from([b"a", b"b.example:80", b"[::1]", b"[2001:db8::1]:8443", b"10.0.0.1"])
EXTENSIONS = st.sampled_from([b"", b"", b";a", b";a=b", b';a="b;c"', b';a="\\""'])


@dataclass
class Composed:
    """A message on the wire, and what a parser has to read from it."""

    raw: bytes
    fields: dict[str, Any]
    body: bytes


@st.composite
def bodies(draw: st.DrawFn) -> tuple[list[tuple[bytes, bytes]], bytes, bytes]:
    """(framing fields, octets on the wire, payload)"""
    kind = draw(st.sampled_from(["none", "length", "chunked"]))
    if kind == "none":
        return [], b"", b""
    if kind == "length":
        payload = draw(st.binary(max_size=40))
        return [(b"Content-Length", b"0" * draw(st.integers(0, 3)) + b"%d" % len(payload))], payload, payload
    chunks = draw(st.lists(st.binary(min_size=1, max_size=20), max_size=4))
    wire = b"".join(
        b"%s%x%s\r\n%s\r\n" % (b"0" * draw(st.integers(0, 3)), len(chunk), draw(EXTENSIONS), chunk) for chunk in chunks
    )
    trailers = b"".join(name + b":" + value + b"\r\n" for name, value in draw(FIELDS))
    return (
        [(b"Transfer-Encoding", draw(st.sampled_from([b"chunked", b"Chunked"])))],
        wire + b"0\r\n" + trailers + b"\r\n",
        b"".join(chunks),
    )


def lines(fields: list[tuple[bytes, bytes]], draw: Callable[[Any], Any]) -> bytes:
    return b"".join(name + b":" + draw(BLANKS) + value + draw(BLANKS) + b"\r\n" for name, value in fields) + b"\r\n"


@st.composite
def requests(draw: st.DrawFn) -> Composed:
    framing, wire, payload = draw(bodies())
    method, path, host = draw(TOKENS.filter(lambda name: name not in (b"CONNECT",))), draw(PATHS), draw(HOSTS)
    target = path + draw(QUERIES)
    fields = draw(st.permutations([(b"Host", host), *framing, *draw(FIELDS)]))
    raw = method + b" " + target + b" HTTP/1.1\r\n" + lines(fields, draw) + wire
    length = int(framing[0][1]) if framing and framing[0][0] == b"Content-Length" else -1
    return Composed(
        raw,
        {
            "method": method,
            "target": target,
            "path": path,
            "host": host,
            "version": 11,
            "headers": tuple(fields),
            "keep_alive": True,
            "expect_continue": False,
            "upgrade": b"",
            "content_length": length,
            "chunked": bool(framing) and length < 0,
        },
        payload,
    )


@PROFILE
@given(st.lists(requests(), min_size=1, max_size=4), CUTS, st.booleans())
def test_composed_requests_are_read_back(messages: list[Composed], places: list[int], lazy: bool) -> None:
    raw = b"".join(message.raw for message in messages)
    trace = run_request(cut(raw, places), Limits(), lazy=lazy)
    assert trace.error is None
    assert [(message.head._asdict(), message.body, message.complete) for message in trace.messages] == [
        (message.fields, message.body, True) for message in messages
    ]


@PROFILE
@given(st.integers(200, 999), VALUES, FIELDS, bodies(), st.binary(max_size=8), CUTS, st.data())
def test_composed_responses_are_read_back(
    status: int,
    reason: bytes,
    others: list[tuple[bytes, bytes]],
    body: tuple[list[tuple[bytes, bytes]], bytes, bytes],
    surplus: bytes,
    places: list[int],
    data: st.DataObject,
) -> None:
    framing, wire, payload = body
    fields = data.draw(st.permutations([*framing, *others]))
    head = b"HTTP/1.1 %d %s\r\n" % (status, reason) + lines(fields, data.draw)
    bodyless = status in (204, 304)
    trace = run_response(cut(head + wire + surplus, places), Limits(), eof=True)
    (message,) = trace.messages
    assert (message.head.status, message.head.reason, message.head.headers, message.complete) == (
        status,
        reason,
        tuple(fields),
        True,
    )
    if bodyless:
        assert (message.body, trace.surplus) == (b"", wire + surplus)
    elif not framing:
        assert (message.body, trace.surplus, message.head.keep_alive) == (wire + surplus, b"", False)
    else:
        assert (message.body, trace.surplus) == (payload, surplus)


# ------------------------------------------------------------------------------------------------------------ limits


def line_of(size: int) -> bytes:
    """A request whose first line has `size` octets before its CRLF."""
    return b"GET /" + b"x" * (size - 14) + b" HTTP/1.1\r\nHost: a\r\n\r\n"


def field_of(size: int) -> bytes:
    """A request with one field line of `size` octets before its CRLF."""
    return b"GET / HTTP/1.1\r\nHost: a\r\nX:" + b"v" * (size - 2) + b"\r\n\r\n"


def head_of(size: int) -> bytes:
    """A request of `size` octets, the final CRLF included, no line of it long."""
    start = b"GET / HTTP/1.1\r\nHost: a\r\n"
    rest = size - len(start) - 2
    filler = b"X: 12\r\n" * (rest // 7 - 1)
    last = rest - len(filler)
    return start + filler + b"X:" + b"v" * (last - 4) + b"\r\n\r\n"


def fields_of(count: int) -> bytes:
    return b"GET / HTTP/1.1\r\nHost: a\r\n" + b"X:\r\n" * (count - 1) + b"\r\n"


CHUNKED = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"


def chunk_line_of(size: int) -> bytes:
    """A chunked request with one size line of `size` octets before its CRLF."""
    return CHUNKED + b"1;" + b"a" * (size - 2) + b"\r\nx\r\n0\r\n\r\n"


def extensions_of(size: int) -> bytes:
    """A chunked request with `size` octets of extension in all, behind the semicolons, spread over several chunks."""
    each, rest = divmod(size, 4)
    return (
        CHUNKED
        + b"".join(b"1;" + b"a" * n + b"\r\nx\r\n" for n in (each, each, each))
        + b"0;"
        + b"a" * (each + rest)
        + b"\r\n\r\n"
    )


def trailers_of(size: int) -> bytes:
    """A chunked request with `size` octets of trailer fields, their CRLFs included, the final CRLF not."""
    filler = b"X: 123\r\n" * (size // 8 - 1)
    return CHUNKED + b"0\r\n" + filler + b"X:" + b"v" * (size - len(filler) - 4) + b"\r\n\r\n"


@dataclass
class Bound:
    name: str
    make: Callable[[int], bytes]
    statuses: tuple[int, ...]
    least: int  # the smallest size `make` can make, and one at which no other limit is near
    room: dict[str, int]  # the other limits


WIDE = {
    "max_line": 8192,
    "max_field": 8192,
    "max_head": 1 << 20,
    "max_headers": 5000,
    "max_chunk_line": 8192,
    "max_chunk_ext": 1 << 20,
    "max_trailers": 1 << 20,
}
BOUNDS = [
    Bound("max_line", line_of, (414,), 20, WIDE),
    Bound("max_field", field_of, (431,), 8, WIDE),
    Bound("max_head", head_of, (431,), 60, WIDE),
    Bound("max_headers", fields_of, (431,), 1, WIDE),
    Bound("max_chunk_line", chunk_line_of, (400, 413, 431), 20, WIDE),
    Bound("max_chunk_ext", extensions_of, (400, 413, 431), 8, WIDE),
    Bound("max_trailers", trailers_of, (400, 413, 431), 16, WIDE),
]
# Limits that do not bind at the octet yet; a row that holds is an error.
EACH_BOUND = pytest.mark.parametrize(
    "bound",
    [
        pytest.param(
            bound,
            id=bound.name,
        )
        for bound in BOUNDS
    ],
)


@EACH_BOUND
@SMALL
@given(st.integers(0, 300), CUTS)
@example(0, [])
def test_limit_binds_at_the_octet(bound: Bound, more: int, places: list[int]) -> None:
    size = bound.least + more
    limits = Limits(**{**bound.room, bound.name: size})
    for raw, fits in [(bound.make(size), True), (bound.make(size + 1), False)]:
        for chunks in ([raw], cut(raw, places), octets(raw)):
            trace = run_request(chunks, limits)
            if fits:
                assert trace.error is None, f"{size} of {size} refused"
                assert len(trace.complete) == 1
            else:
                assert trace.error is not None, f"{size + 1} of {size} accepted"
                assert trace.error[0] in bound.statuses


@pytest.mark.parametrize(
    "bound",
    [bound for bound in BOUNDS if bound.name in ("max_line", "max_field", "max_head", "max_headers")],
    ids=lambda bound: bound.name,
)
@SMALL
@given(st.integers(0, 300), CUTS)
def test_limit_of_a_response_head_binds_at_the_octet(bound: Bound, more: int, places: list[int]) -> None:
    """The same heads with a status line for the request line; here every refusal is the upstream's fault."""
    size = bound.least + more
    limits = Limits(**{**bound.room, bound.name: size})
    for wanted, fits in [(size, True), (size + 1, False)]:
        if bound.name == "max_line":
            raw = b"HTTP/1.1 200 " + b"x" * (wanted - 13) + b"\r\nContent-Length: 0\r\n\r\n"
        else:
            raw = b"HTTP/1.1 200 O" + bound.make(wanted)[14:]  # as long as GET / HTTP/1.1
        trace = run_response(cut(raw, places), limits, eof=True)
        assert (trace.error is None) == fits
        assert len(trace.complete) == fits
        assert fits or (trace.error is not None and trace.error[0] == 502)


ENDLESS = [
    ("max_line", b"", b"G"),
    ("max_line", b"GET /", b"x"),
    ("max_field", b"GET / HTTP/1.1\r\n", b"X"),
    ("max_field", b"GET / HTTP/1.1\r\nX:", b" "),
    ("max_field", b"GET / HTTP/1.1\r\nX:", b"v"),
    ("max_head", b"GET / HTTP/1.1\r\n", b"X:v\r\n"),
    ("max_headers", b"GET / HTTP/1.1\r\n", b"X:\r\n"),
    ("max_chunk_line", CHUNKED + b"1;", b"a"),
    ("max_chunk_ext", CHUNKED, b"1;a\r\nx\r\n"),
    ("max_trailers", CHUNKED + b"0\r\n", b"X:v\r\n"),
    ("max_trailers", CHUNKED + b"0\r\nX:", b"v"),
    ("max_trailers", CHUNKED + b"0\r\n", b"X"),
    ("max_head", b"", b"\r\n"),
    ("max_chunk_line", CHUNKED, b"0"),
    ("max_chunk_line", CHUNKED, b"f"),
]


@pytest.mark.parametrize(("name", "start", "again"), ENDLESS, ids=[f"{name}-{again!r}" for name, _, again in ENDLESS])
def test_endless_input_is_cut_while_reading(name: str, start: bytes, again: bytes) -> None:
    """Rule 10. No line end ever comes, or no end of the section; two units beyond the limit it is over."""
    size = 100
    parser = RequestParser(Limits(**{**WIDE, name: size}))
    parser.feed(start)
    while parser.next_event() != NEED_DATA:
        pass
    counted = 0
    while counted <= (size + 4) * max(1, len(again)) + len(start):
        parser.feed(again)
        counted += len(again)
        event = parser.next_event()
        while event not in (NEED_DATA, ERROR):
            event = parser.next_event()
        if event == ERROR:
            return
    pytest.fail(f"{counted} octets taken at {name}={size}")


# ------------------------------------------------------------------------------------------------------------ misuse


@pytest.mark.parametrize("argument", [None, "text", 5, [b"x"]], ids=repr)
@pytest.mark.parametrize("make", [RequestParser, ResponseParser])
def test_feed_takes_bytes_only(make: Callable[[Limits], Any], argument: object) -> None:
    """TypeError, and the machine goes on as if nothing had been fed."""
    parser = make(Limits())
    parser.feed(b"")
    with pytest.raises(TypeError):
        parser.feed(argument)
    assert parser.next_event() == NEED_DATA


@pytest.mark.parametrize("name", list(WIDE))
def test_limits_refuse_what_is_no_count(name: str) -> None:
    for value, error in [(-1, ValueError), (1 << 32, ValueError), ((1 << 32) - 1, ValueError), ("8", TypeError), (None, TypeError)]:
        with pytest.raises(error):
            Limits(**{name: value})
    with pytest.raises(TypeError):
        Limits(max_unknown=1)
    with pytest.raises(TypeError):
        RequestParser(None)  # type: ignore[arg-type]


def test_properties_before_any_event_do_not_raise() -> None:
    """A driver that logs too early gets nothing, not an exception or foreign memory."""
    for parser, names in [
        (RequestParser(Limits()), ("method", "target", "path", "host", "expect_continue", "upgrade")),
        (ResponseParser(Limits()), ("status", "reason", "surplus")),
    ]:
        for name in (*names, "version", "headers", "keep_alive", "chunked", "body"):
            assert not getattr(parser, name), name
        assert parser.content_length in (-1, 0)
        assert not parser.error[0]
