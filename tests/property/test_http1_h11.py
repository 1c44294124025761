"""h11 as an oracle for agw's HTTP/1 framing: same octets, same heads and bodies, or a listed difference.

Two tables list all differences that are meant. STRICTER names what h11 lets pass and agw refuses, LAXER what h11
refuses and agw lets pass; each row is a predicate on the octets of one message. The tests hold agw to the tables in
every direction:

- what agw delivers, h11 delivers too, with the same content, unless a row of LAXER says why not;
- what h11 delivers, agw delivers too, unless a row of STRICTER is true of the message;
- whenever a row of STRICTER is true of a message h11 has delivered, agw does refuse it: the table is a promise, not an
  excuse;
- every row is shown by a vector: no dead rows.

The predicates are written against the RFC text on regular expressions, not against agw's scanner.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import h11
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agw._fast.http1 import Limits
from tests.kits.http1 import Message, Trace, Vector, corpus, run_request, run_response, vectors
from tests.kits.mutation import HTTP1_TOKENS, Mutator

MUTATIONS = 30_000  # seeded mutations per parser and run; tests/fuzz goes on from here
LIMITS = Limits()
PROFILE = settings(max_examples=500, deadline=None, derandomize=True, database=None)


@dataclass
class Heard:
    """What h11 made of a stream: its messages, where each began, whether it then refused or stopped."""

    messages: list[dict[str, Any]]
    starts: list[int]
    interim: list[tuple[int, int]]  # where each 1xx head began and ended
    refused: str | None = None
    stopped: bool = False  # h11 does not read on (the connection is to be closed)
    end: int = 0  # of the response


def listen_request(raw: bytes) -> Heard:
    """Serve every request in `raw` with h11, answering each once it is complete."""
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 20)
    heard = Heard([], [0], [])
    if raw:
        connection.receive_data(raw)
    message: dict[str, Any] | None = None
    try:
        while True:
            event = connection.next_event()
            if event is h11.NEED_DATA:
                return heard
            if isinstance(event, h11.Request):
                message = {
                    "method": bytes(event.method),
                    "target": bytes(event.target),
                    "version": 10 if event.http_version == b"1.0" else 11,
                    "headers": [(bytes(name), bytes(value)) for name, value in event.headers.raw_items()],
                    "body": b"",
                    "complete": False,
                    "expect_continue": connection.they_are_waiting_for_100_continue,
                    "keep_alive": None,
                }
                heard.messages.append(message)
            elif isinstance(event, h11.Data):
                assert message is not None
                message["body"] += event.data
            elif isinstance(event, h11.EndOfMessage):
                assert message is not None
                message["complete"] = True
                connection.send(h11.Response(status_code=400, headers=[(b"Content-Length", b"0")]))
                connection.send(h11.EndOfMessage())
                heard.starts.append(len(raw) - len(connection.trailing_data[0]))
                if connection.our_state is h11.MUST_CLOSE:
                    message["keep_alive"] = False if message["version"] == 11 else None
                    heard.stopped = True
                    return heard
                message["keep_alive"] = True
                connection.start_next_cycle()
            else:
                raise AssertionError(f"unexpected {event!r}")
    except h11.RemoteProtocolError as error:
        heard.refused = str(error)
        return heard


def listen_response(raw: bytes, method: bytes, eof: bool) -> Heard:
    connection = h11.Connection(h11.CLIENT, max_incomplete_event_size=1 << 20)
    connection.send(h11.Request(method=method, target=b"/", headers=[(b"Host", b"a")]))
    connection.send(h11.EndOfMessage())
    heard = Heard([], [0], [])
    if raw:
        connection.receive_data(raw)
    if eof:
        connection.receive_data(b"")
    message: dict[str, Any] | None = None
    before = 0
    try:
        while True:
            event = connection.next_event()
            here = len(raw) - len(connection.trailing_data[0])
            if event is h11.NEED_DATA:
                return heard
            if isinstance(event, h11.InformationalResponse):
                heard.interim.append((before, here))
                before = here
                heard.starts[0] = here
            elif isinstance(event, h11.Response):
                message = {
                    "status": event.status_code,
                    "reason": bytes(event.reason),
                    "version": 10 if event.http_version == b"1.0" else 11,
                    "headers": [(bytes(name), bytes(value)) for name, value in event.headers.raw_items()],
                    "body": b"",
                    "complete": False,
                }
                heard.messages.append(message)
            elif isinstance(event, h11.Data):
                assert message is not None
                message["body"] += event.data
            elif isinstance(event, h11.EndOfMessage):
                assert message is not None
                message["complete"] = True
                heard.stopped = True
                heard.end = here
                return heard
            elif isinstance(event, h11.ConnectionClosed):
                heard.refused = "closed without a response"
                return heard
            else:
                raise AssertionError(f"unexpected {event!r}")
    except h11.RemoteProtocolError as error:
        heard.refused = str(error)
        return heard


# ----------------------------------------------------------------------------------------- one message, by the RFC

HEAD_END = re.compile(rb"\n\r?\n")
FIELD = re.compile(rb"([^:\r\n]*):[ \t]*(.*?)[ \t]*\r?\Z", re.DOTALL)
TOKEN = re.compile(rb"[-!#$%&'*+.^_`|~0-9A-Za-z]+")
CTL = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
REG_NAME = re.compile(rb"(?:[-A-Za-z0-9._~!$&'()*+,;=]|%[0-9A-Fa-f]{2})+")
SIZE = re.compile(rb"([0-9A-Fa-f]+)(.*)", re.DOTALL)


class Octets:
    """One message as h11 saw it: from its first octet, at most to the first octet of the next."""

    def __init__(self, raw: bytes, request: bool, method: bytes = b"") -> None:
        end = HEAD_END.search(raw)
        self.head = raw[: end.end()] if end else raw
        self.whole_head = end is not None
        self.rest = raw[len(self.head) :]
        self.request = request
        self.request_method = method
        lines = self.head.split(b"\n")
        self.start = lines[0].rstrip(b"\r")
        self.lines = [line for line in lines[1:] if line.rstrip(b"\r")]
        matches = [FIELD.match(line) for line in self.lines]
        self.fields = [(match.group(1).lower(), match.group(2)) for match in matches if match]

    def all(self, name: bytes) -> list[bytes]:
        return [value for known, value in self.fields if known == name]

    def elements(self, name: bytes) -> list[bytes]:
        return [part for value in self.all(name) for part in (part.strip(b" \t") for part in value.split(b",")) if part]

    @property
    def version(self) -> bytes:
        return self.start.rsplit(b" ", 1)[-1] if self.request else self.start[:8]

    @property
    def target(self) -> bytes:
        return self.start.split(b" ")[1] if self.start.count(b" ") >= 2 else b""

    @property
    def method(self) -> bytes:
        return self.start.split(b" ")[0]

    @property
    def is_chunked(self) -> bool:
        if not self.request:
            status = self.start[9:12]
            if status in (b"204", b"304") or status[:1] == b"1" or self.request_method == b"HEAD":
                return False
        return [value.lower() for value in self.all(b"transfer-encoding")] == [b"chunked"]

    def chunk_lines(self) -> Iterator[bytes]:
        """The size lines as h11 finds them, without their CRLF; the trailers stay behind in `self.trailers`."""
        at, raw = 0, self.rest
        self.trailers = b""
        while True:
            end = raw.find(b"\r\n", at)
            if end < 0:
                yield raw[at:]
                return
            line = raw[at:end]
            yield line
            match = SIZE.match(line)
            if match is None:
                return
            size = int(match.group(1), 16)
            if size == 0:
                self.trailers = raw[end + 2 :]
                return
            at = end + 2 + size + 2

    @property
    def trailer_lines(self) -> bytes:
        """The trailer section with its end, or what there is of it."""
        if not self.is_chunked:
            return b""
        for _ in self.chunk_lines():
            pass
        if self.trailers[:1] == b"\n":
            return self.trailers[:1]
        if self.trailers[:2] == b"\r\n":
            return self.trailers[:2]
        end = HEAD_END.search(self.trailers)
        return self.trailers[: end.end()] if end else self.trailers


def is_ipv6(text: bytes) -> bool:
    try:
        return b"%" not in text and ipaddress.IPv6Address(text.decode("ascii")) is not None
    except ValueError:
        return False


def is_authority(text: bytes) -> bool:
    """host [":" port] of RFC 3986 3.2 without userinfo; a port is at most five digits; IPvFuture is left out.

    What stands in brackets is looked at by the row on IPv6 only.
    """
    host = re.fullmatch(rb"(\[[0-9A-Fa-f:.]{2,}\]|[^:\[\]]*)(?::([^:]*))?", text, re.DOTALL)
    if host is None:
        return False
    name, port = host.group(1), host.group(2) or b""
    return re.fullmatch(rb"[0-9]{0,5}", port) is not None and (name[:1] == b"[" or REG_NAME.fullmatch(name) is not None)


def is_target(method: bytes, target: bytes) -> bool:
    """The four forms of RFC 9112 3.2; schemes other than http and https have no meaning for a gateway."""
    if b"#" in target:
        return False
    if method == b"CONNECT":
        return is_authority(target)
    if target == b"*":
        return method == b"OPTIONS"
    absolute = re.fullmatch(rb"(?i:https?)://([^/?]*)(?:[/?].*)?", target, re.DOTALL)
    return target[:1] == b"/" or (absolute is not None and is_authority(absolute.group(1)))


def bad_length(m: Octets) -> bool:
    values = m.all(b"content-length")
    return len(values) > 1 or any(not re.fullmatch(rb"[0-9]{1,18}", value) for value in values)


def bad_host(m: Octets) -> bool:
    return m.request and any(not is_authority(value) for value in m.all(b"host"))


def bad_ipv6(m: Octets) -> bool:
    hosts = [*m.all(b"host"), re.sub(rb"(?i)\Ahttps?://", b"", m.target)] if m.request else []
    return any(
        literal and not is_ipv6(literal.group(1)) for literal in (re.match(rb"\[([^\]]*)\]", host) for host in hosts)
    )


def over_head_limits(m: Octets) -> bool:
    return (
        len(m.head) > 32768
        or len(m.start) > 8192
        or len(m.fields) > 100
        or any(len(line.rstrip(b"\r")) > 16384 for line in m.lines)
    )


def over_chunk_limits(m: Octets) -> bool:
    if not m.is_chunked:
        return False
    lines = list(m.chunk_lines())
    extensions = sum(len(line.partition(b";")[2]) for line in lines)
    return any(len(line) > 4096 for line in lines) or extensions > 16384 or len(m.trailer_lines) > 8192


def any_size_line(test: Callable[[bytes, bytes], bool]) -> Callable[[Octets], bool]:
    def predicate(m: Octets) -> bool:
        if not (m.is_chunked and m.whole_head):
            return False
        matches = (SIZE.match(line) for line in m.chunk_lines())
        return any(test(match.group(1), match.group(2)) for match in matches if match)

    return predicate


def head(test: Callable[[Octets], bool]) -> Callable[[Octets], bool]:
    return lambda m: m.whole_head and test(m)


# What agw refuses though h11 accepts it; agw refuses it always.
STRICTER: dict[str, Callable[[Octets], bool]] = {
    "bare LF ends a line of the head (2.2)": head(lambda m: re.search(rb"(?<!\r)\n", m.head) is not None),
    "obs-fold (5.2)": head(lambda m: re.search(rb"\n[ \t]", m.head) is not None),
    "control octet in the head (9110 5.5)": head(lambda m: CTL.search(m.head) is not None),
    "HTTP version other than 1.x (9110 2.5)": head(lambda m: m.version[:7] != b"HTTP/1."),
    "HTTP/1.2 and later without Host (3.2)": head(
        lambda m: m.request and m.version != b"HTTP/1.0" and not m.all(b"host")
    ),
    "Host is no host[:port] (3.2)": head(bad_host),
    "IP-literal in Host or request-target is no IPv6 address (3986 3.2.2)": head(bad_ipv6),
    "request-target of none of the four forms (3.2)": head(lambda m: m.request and not is_target(m.method, m.target)),
    "Content-Length list, repeated, or of more than 18 digits (rule 1)": head(bad_length),
    "Content-Length beside Transfer-Encoding (6.3)": head(
        lambda m: bool(m.all(b"content-length") and m.all(b"transfer-encoding"))
    ),
    "Transfer-Encoding in HTTP/1.0 (6.1)": head(
        lambda m: m.version == b"HTTP/1.0" and bool(m.all(b"transfer-encoding"))
    ),
    "Connection names a field that frames, routes or authorises (rule 8)": head(
        lambda m: any(
            element.lower() in (b"content-length", b"transfer-encoding", b"host", b"authorization")
            for element in m.elements(b"connection")
        )
    ),
    "Connection option is no token (9110 7.6.1)": head(
        lambda m: any(not TOKEN.fullmatch(element) for element in m.elements(b"connection"))
    ),
    "expectation other than 100-continue (9110 10.1.1)": head(
        lambda m: m.request and any(value.lower() != b"100-continue" for value in m.all(b"expect"))
    ),
    "a limit of the head (rule 10)": head(over_head_limits),
    "blank after the chunk size (rule 2)": any_size_line(lambda size, rest: rest[:1] in (b" ", b"\t")),
    "control octet in a chunk extension (7.1.1)": any_size_line(
        lambda size, rest: re.search(rb"[\x00-\x08\x0a-\x1f\x7f]", rest) is not None
    ),
    "chunk size of more than 15 digits (rule 2)": any_size_line(lambda size, rest: len(size) > 15),
    "bare LF, fold or control octet in the trailers (7.1.2)": lambda m: (
        re.search(rb"(?<!\r)\n|\n[ \t]|[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]", m.trailer_lines) is not None
    ),
    "a limit of chunk lines or trailers (rule 10)": over_chunk_limits,
}

def unfinished(m: Octets) -> bool:
    """agw judges octet by octet inside a chunked body; h11 waits for the CRLF."""
    if not (m.is_chunked and m.whole_head):
        return False
    *_, last = m.chunk_lines()
    if m.trailers:
        return HEAD_END.search(m.trailers) is None
    return not re.fullmatch(rb"(?:[0-9A-Fa-f]{1,15}(?:;[^\x00-\x08\x0a-\x1f\x7f]*)?\r?)?", last)


# What agw accepts though h11 refuses it.
LAXER: dict[str, Callable[[bytes, Octets], bool]] = {
    "one or two empty lines before the request-line (2.2: SHOULD ignore at least one)": lambda raw, m: (
        m.request and re.match(rb"(\r\n){1,2}[^\r\n]", raw) is not None
    ),
    "framing fields in trailers (7.1.2: trailers are dropped, so nothing reads them)": lambda raw, m: (
        re.search(rb"(?i)^(content-length|transfer-encoding):", m.trailer_lines, re.MULTILINE) is not None
    ),
    "101 (9110 15.2.2: whether it was asked for is the caller's to know)": lambda raw, m: (
        not m.request and m.start[9:12] == b"101"
    ),
}


def reasons(m: Octets) -> list[str]:
    return [name for name, test in STRICTER.items() if test(m)]


def excuses(raw: bytes, m: Octets) -> list[str]:
    return [name for name, test in LAXER.items() if test(raw, m)]


# ------------------------------------------------------------------------------------------------------ the comparison


def same_headers(ours: tuple[tuple[bytes, bytes], ...], theirs: list[tuple[bytes, bytes]]) -> bool:
    """h11 delivers the value of Transfer-Encoding in lower case."""

    def plain(headers: Any) -> list[tuple[bytes, bytes]]:
        return [(name, value.lower() if name.lower() == b"transfer-encoding" else value) for name, value in headers]

    return plain(ours) == plain(theirs)


def compare_head(ours: Any, theirs: dict[str, Any]) -> None:
    for name in ("method", "target", "version", "expect_continue", "status", "reason"):
        if name in theirs:
            assert getattr(ours, name) == theirs[name], name
    if theirs.get("keep_alive") is not None:
        assert ours.keep_alive == theirs["keep_alive"]
    assert same_headers(ours.headers, theirs["headers"])


def compare(raw: bytes, ours: Trace, heard: Heard, make: Callable[[bytes], Octets]) -> set[str]:
    """Compare message by message until one side stops; returns the rows of the tables that were needed."""
    for number in range(max(len(ours.messages), len(heard.messages)) + 1):
        start = heard.starts[number] if number < len(heard.starts) else len(raw)
        end = heard.starts[number + 1] if number + 1 < len(heard.starts) else len(raw)
        mine: Message | None = ours.messages[number] if number < len(ours.messages) else None
        theirs = heard.messages[number] if number < len(heard.messages) else None
        octets = make(raw[start:end])
        if heard.stopped and number >= len(heard.messages):
            return set()
        if theirs is None and mine is None:
            # Neither delivered a head. h11 waits for the empty line, agw judges each line: end the head there.
            if ours.error is not None and heard.refused is None and not over_head_limits(octets):
                lines = octets.head[: octets.head.rfind(b"\n") + 1]
                assert lines, f"agw refuses ({ours.error}) an incomplete line: {raw[start:]!r}"
                closed = lines + b"\r\n"
                again = Octets(closed, octets.request, octets.request_method)
                listened = (
                    listen_request(closed) if octets.request else listen_response(closed, octets.request_method, False)
                )
                assert listened.refused or reasons(again), (
                    f"agw refuses ({ours.error}) a head h11 accepts so far: {lines!r}"
                )
            return set()
        if theirs is None:
            assert mine is not None
            # The octets behind the empty lines agw skipped are compared on their own.
            row = excuses(raw[start:], octets)
            assert row, f"agw accepts a head, h11 says {heard.refused}: {raw[start:]!r}"
            if octets.request and raw[start : start + 2] == b"\r\n":
                skipped = raw[start:].lstrip(b"\r\n")
                rest = Trace(messages=ours.messages[number:], error=ours.error)
                return {*row, *compare(skipped, rest, listen_request(skipped), make)}
            return set(row)
        why = reasons(octets)
        if mine is None or (theirs["complete"] and not mine.complete):
            assert ours.error is not None, "agw waits for more than h11 needs"
            assert why, f"agw refuses ({ours.error}) what h11 accepts: {raw[start:end]!r}"
            return set(why)
        compare_head(mine.head, theirs)
        if mine.complete and theirs["complete"]:
            assert not why, f"agw accepts in spite of {why}: {raw[start:end]!r}"
            assert mine.body == theirs["body"]
            continue
        if mine.complete:
            row = excuses(raw[start:], octets)
            assert row, (
                f"agw completes a message, h11 says {heard.refused or 'that more is needed'}: {raw[start:end]!r}"
            )
            return set(row)
        # Both are inside the body.
        if ours.error is None and heard.refused is None:
            assert mine.body == theirs["body"]
        elif ours.error is None:
            assert excuses(raw[start:], octets), (
                f"agw waits inside a body h11 refuses ({heard.refused}): {raw[start:end]!r}"
            )
        elif heard.refused is None:
            assert why or unfinished(octets), f"agw refuses ({ours.error}) a body h11 reads on: {raw[start:end]!r}"
        assert mine.body.startswith(theirs["body"]) or theirs["body"].startswith(mine.body)
        return set()
    return set()


def compare_request(raw: bytes) -> set[str]:
    return compare(
        raw, run_request([raw], LIMITS, stop_at_close=True), listen_request(raw), lambda part: Octets(part, True)
    )


def compare_response(raw: bytes, method: bytes, eof: bool) -> set[str]:
    ours, heard = run_response([raw], LIMITS, method, eof=eof), listen_response(raw, method, eof)
    rows: set[str] = set()
    for number, (start, end) in enumerate(heard.interim):
        part = Octets(raw[start:end], False, method)
        why = reasons(part)
        if number >= len(ours.interim):
            assert ours.error is not None, "agw waits inside an interim head h11 accepts"
            assert why, f"agw refuses ({ours.error}) an interim head h11 accepts: {raw[start:end]!r}"
            return set(why)
        assert not why, f"agw accepts an interim head in spite of {why}"
    if heard.stopped and ours.complete:
        assert ours.surplus == raw[heard.end :]
    rows |= compare(raw, ours, heard, lambda part: Octets(part, False, method))
    return rows


def compare_vector(vector: Vector, raw: bytes | None = None) -> set[str]:
    octets = vector.raw if raw is None else raw
    return compare_request(octets) if vector.is_request else compare_response(octets, vector.request_method, vector.eof)


# ---------------------------------------------------------------------------------------------------------------- tests

COMPARED = [vector for vector in vectors() if "limits" not in vector.expected]
REQUESTS = [vector for vector in COMPARED if vector.is_request]
RESPONSES = [vector for vector in COMPARED if not vector.is_request]


@pytest.mark.parametrize("vector", COMPARED, ids=[vector.name for vector in COMPARED])
def test_vector(vector: Vector) -> None:
    compare_vector(vector)


def test_no_row_is_dead() -> None:
    """Each listed difference is the verdict on at least one vector, so that removing it would be noticed."""
    used: set[str] = set()
    for vector in COMPARED:
        used |= compare_vector(vector)
    assert used == {*STRICTER, *LAXER}


def test_mutated_requests() -> None:
    mutator = Mutator("requests", corpus(requests=True), HTTP1_TOKENS, 2048)
    for _ in range(MUTATIONS):
        raw = mutator.mutate()
        try:
            compare_request(raw)
        except AssertionError as problem:
            raise AssertionError(f"{problem}\n  input: {raw!r}") from problem


def test_mutated_responses() -> None:
    mutator = Mutator("responses", corpus(requests=False), HTTP1_TOKENS, 2048)
    for number in range(MUTATIONS):
        raw = mutator.mutate()
        method, eof = (b"GET", b"HEAD", b"POST", b"GET")[number % 4], number % 3 == 0
        try:
            compare_response(raw, method, eof)
        except AssertionError as problem:
            raise AssertionError(f"{problem}\n  input: {raw!r}, {method!r}, eof={eof}") from problem


EDITS = st.lists(
    st.tuples(st.sampled_from(["insert", "delete", "replace"]), st.integers(0, 1 << 16), st.sampled_from(HTTP1_TOKENS)),
    max_size=3,
)


def edited(raw: bytes, edits: list[tuple[str, int, bytes]]) -> bytes:
    for kind, place, token in edits:
        at = place % (len(raw) + 1)
        over = {"insert": 0, "delete": len(token), "replace": len(token)}[kind]
        raw = raw[:at] + (b"" if kind == "delete" else token) + raw[at + over :]
    return raw


@PROFILE
@given(st.sampled_from(REQUESTS), EDITS)
def test_edited_requests(vector: Vector, edits: list[tuple[str, int, bytes]]) -> None:
    compare_request(edited(vector.raw, edits))


@PROFILE
@given(st.sampled_from(RESPONSES), EDITS, st.sampled_from([b"GET", b"HEAD"]), st.booleans())
def test_edited_responses(vector: Vector, edits: list[tuple[str, int, bytes]], method: bytes, eof: bool) -> None:
    compare_response(edited(vector.raw, edits), method, eof)


# Requests composed of parts that are each plausible: what mutation reaches rarely is the unlucky combination.
METHODS = st.sampled_from([b"GET", b"POST", b"OPTIONS", b"CONNECT", b"TRACE", b"get", b"A!", b"G(T", b""])
TARGETS = st.sampled_from(
    [
        b"/",
        b"/p?q",
        b"*",
        b"a:80",
        b"http://b/",
        b"http://[::1]:1/p",
        b"http://u@b/",
        b"HTTPS://b?q",
        b"ftp://b/",
        b"/#",
        b"//x",
        b"?",
        b"",
        b"http://",
    ]
)
VERSIONS = st.sampled_from([b"HTTP/1.1", b"HTTP/1.1", b"HTTP/1.0", b"HTTP/1.2", b"HTTP/2.0", b"HTTP/1.01", b"http/1.1"])
NAMES = st.sampled_from(
    [
        b"Host",
        b"Content-Length",
        b"Transfer-Encoding",
        b"Connection",
        b"Expect",
        b"Upgrade",
        b"X",
        b"hOsT",
        b"TE",
        b"X ",
        b"",
        b"\xe9",
    ]
)
VALUES = st.sampled_from(
    [
        b"a",
        b"5",
        b"0",
        b"chunked",
        b"Chunked",
        b"gzip, chunked",
        b"identity",
        b"close",
        b"keep-alive",
        b"keep-alive, close",
        b"Host",
        b"100-continue",
        b"websocket",
        b"upgrade",
        b"",
        b"5, 5",
        b"05",
        b"+5",
        b"[::1]",
        b"a:80",
        b"a@b",
        b"a b",
        b"\x01",
        b"\xff",
        b"\t",
        b"0" * 18,
        b"0" * 19,
    ]
)
BODIES = st.sampled_from(
    [
        b"",
        b"hello",
        b"0\r\n\r\n",
        b"5\r\nhello\r\n0\r\n\r\n",
        b"5;a\r\nhello\r\n0\r\nX: v\r\n\r\n",
        b"5 \r\nhello\r\n0\r\n\r\n",
        b"5\r\nhello0\r\n\r\n",
        b"5\r\nhelloXX0\r\n\r\n",
        b"0\r\nContent-Length: x\r\n\r\n",
        b"5;\x01\r\nhello\r\n",
        b"0" * 17,
    ]
)
EOLS = st.sampled_from([b"\r\n"] * 12 + [b"\n", b"\r\n ", b"\r\r\n"])


@st.composite
def composed(draw: st.DrawFn) -> bytes:
    out = []
    for _ in range(draw(st.integers(1, 3))):
        out += [draw(METHODS), b" ", draw(TARGETS), b" ", draw(VERSIONS), draw(EOLS)]
        if draw(st.integers(0, 4)):
            out += [b"Host: a", draw(EOLS)]
        for name, value in draw(st.lists(st.tuples(NAMES, VALUES), max_size=4)):
            out += [name, b":", value, draw(EOLS)]
        out += [draw(EOLS), draw(BODIES)]
    return b"".join(out)


@PROFILE
@given(composed())
def test_composed_requests(raw: bytes) -> None:
    compare_request(raw)


@PROFILE
@given(
    st.sampled_from(
        [
            b"HTTP/1.1 200 OK",
            b"HTTP/1.1 204 N",
            b"HTTP/1.1 304",
            b"HTTP/1.0 200 OK",
            b"HTTP/1.1 100 C",
            b"HTTP/1.1 101 S",
            b"HTTP/2.0 200 OK",
        ]
    ),
    st.lists(st.tuples(NAMES, VALUES, EOLS), max_size=4),
    EOLS,
    st.lists(BODIES, max_size=3),
    st.sampled_from([b"GET", b"HEAD"]),
    st.booleans(),
)
def test_composed_responses(
    status: bytes, fields: list[tuple[bytes, bytes, bytes]], eol: bytes, bodies: list[bytes], method: bytes, eof: bool
) -> None:
    raw = (
        status + b"\r\n" + b"".join(name + b": " + value + end for name, value, end in fields) + eol + b"".join(bodies)
    )
    compare_response(raw, method, eof)
