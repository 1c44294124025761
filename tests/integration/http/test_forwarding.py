"""What arrives upstream and what comes back, octet by octet."""

from __future__ import annotations

import base64
import hashlib
import os
import threading
import time
from collections.abc import Iterator

import pytest

from tests.integration.http.conftest import Dial, OpenTalk, as_mcp, configuration, host_route, result, settled
from tests.kits.gateway import Gateway
from tests.peers.client import Client
from tests.peers.upstream import Peer, Upstream

FORWARDED = b"X-Forwarded-For: 127.0.0.1\r\nX-Forwarded-Proto: http\r\nX-Forwarded-Host: %b\r\n"


def raw(answer: bytes) -> object:
    """A script that gives every request the same octets."""

    def script(peer: Peer) -> None:
        while True:
            peer.request()
            peer.send(answer)

    return script


def closing(answer: bytes) -> object:
    """A script that answers one request and closes."""

    def script(peer: Peer) -> None:
        peer.request()
        peer.send(answer)

    return script


# ------------------------------------------------------------------------------------------------------ request heads


def test_request_head_is_rebuilt_field_by_field(client: Client, upstream: Upstream) -> None:
    upstream.play(Peer.serve)
    client.ask(
        b"GET /a/b?x=1&y=%2f&z HTTP/1.1\r\nAccept: */*\r\nHOST: gw.test\r\nx-LOWER-Case:  v  \r\nX-Obs: caf\xe9\t\xff\r\n"
        b"X-Empty:\r\nCookie: a=1\r\nX-LOWER-case: second\r\nCookie: b=2\r\nUser-Agent: t/1\r\n\r\n"
    )
    assert upstream.requests[0].head == (
        b"GET /a/b?x=1&y=%2f&z HTTP/1.1\r\nAccept: */*\r\nHost: " + upstream.authority + b"\r\nx-LOWER-Case: v\r\nX-Obs: caf\xe9\t\xff\r\n"
        b"X-Empty: \r\nCookie: a=1\r\nX-LOWER-case: second\r\nCookie: b=2\r\nUser-Agent: t/1\r\n" + FORWARDED % b"gw.test" + b"\r\n"
    )


def test_hop_by_hop_fields_stay_here(client: Client, upstream: Upstream) -> None:
    upstream.play(Peer.serve)
    client.get(
        "/",
        b"Connection: keep-alive, X-Secret , x-two",
        b"Keep-Alive: timeout=5",
        b"Proxy-Connection: keep-alive",
        b"Proxy-Authorization: Basic eA==",
        b"TE: trailers",
        b"Trailer: X-T",
        b"x-secret: s",
        b"X-TWO: 2",
        b"X-Kept: 1",
        b"Authorization: Bearer t",
        b"HTTP2-Settings: AAMAAABkAAQAAP__",
    )
    names = [name.lower() for name, _ in upstream.requests[0].fields]
    assert names == [b"host", b"x-kept", b"authorization", b"x-forwarded-for", b"x-forwarded-proto", b"x-forwarded-host"]


@pytest.mark.parametrize("named", [b"Content-Length", b"transfer-encoding", b"HOST", b"Authorization"])
def test_connection_may_not_name_what_decides(client: Client, upstream: Upstream, named: bytes) -> None:
    upstream.play(Peer.serve)
    answer = client.ask(b"POST / HTTP/1.1\r\nHost: x\r\nConnection: " + named + b"\r\nContent-Length: 1\r\n\r\na")
    assert answer.status == 400
    assert answer.closes
    assert client.closed()
    assert not upstream.peers


@pytest.mark.parametrize("method", [b"GET", b"HEAD", b"POST", b"PUT", b"DELETE", b"OPTIONS", b"PATCH", b"PROPFIND", b"get", b"M-SEARCH", b"!#$%&'*+-.^_`|~"])
def test_methods_pass_as_they_are(client: Client, upstream: Upstream, method: bytes) -> None:
    upstream.play(Peer.serve)
    assert client.get("/m", method=method).status == 200
    assert upstream.requests[0].method == method


@pytest.mark.parametrize("method", [b"CONNECT", b"TRACE"])
def test_connect_and_trace_are_refused(client: Client, upstream: Upstream, method: bytes) -> None:
    upstream.play(Peer.serve)
    target = b"gw.test:80" if method == b"CONNECT" else b"/"
    assert client.get(target, method=method).status == 405
    assert not upstream.peers


def test_options_asterisk(client: Client, upstream: Upstream) -> None:
    upstream.play(Peer.serve)
    assert client.get("*", method=b"OPTIONS").status == 200
    assert upstream.requests[0].line == b"OPTIONS * HTTP/1.1"
    assert client.get("*").status == 400


@pytest.mark.parametrize(
    ("target", "path"),
    [(b"http://gw.test/p?q", b"/p?q"), (b"http://gw.test", b"/"), (b"http://gw.test?q=1", b"/?q=1"), (b"HTTP://GW.test:80/x//y", b"/x/y")],
)
def test_absolute_form_overrides_host(client: Client, upstream: Upstream, target: bytes, path: bytes) -> None:
    upstream.play(Peer.serve)
    assert client.get(target, host=b"other.test").status == 200
    request = upstream.requests[0]
    assert request.target == path
    assert request.get(b"host") == [upstream.authority]
    assert request.get(b"x-forwarded-host")[0].lower().startswith(b"gw.test")


def test_unix_upstream_sees_localhost(client: Client, on_unix: Upstream) -> None:
    on_unix.play(Peer.serve)
    assert client.get("/unix/x").body == b"ok"
    assert on_unix.requests[0].get(b"host") == [b"localhost"]
    assert on_unix.requests[0].target == b"/unix/x"


# ----------------------------------------------------------------------------------------------- x-forwarded, lower case


def test_forwarded_is_replaced_by_default(client: Client, upstream: Upstream) -> None:
    upstream.play(Peer.serve)
    client.get("/", b"X-Forwarded-For: 1.1.1.1", b"x-forwarded-host: evil", b"X-FORWARDED-PROTO: https", b"Forwarded: for=1.1.1.1", b"X-Forwarded-For: 2.2.2.2")
    request = upstream.requests[0]
    assert request.get(b"x-forwarded-for") == [b"127.0.0.1"]
    assert request.get(b"x-forwarded-host") == [b"gw.test"]
    assert request.get(b"x-forwarded-proto") == [b"http"]
    assert request.get(b"forwarded") == []


@pytest.fixture(scope="module")
def variants(session_upstreams: dict[str, Upstream]) -> Iterator[dict[str, Gateway]]:
    routes = [host_route(session_upstreams["a"].host)]
    append = Gateway(configuration(routes, {"forwarded": "append", "http1HeaderCase": "lowercase"}), workers=1)
    off = Gateway(configuration(routes, {"forwarded": "off"}), workers=1)
    with append, off:
        yield {"append": append, "off": off}


def test_forwarded_append(variants: dict[str, Gateway], dial: Dial, upstream: Upstream) -> None:
    upstream.play(Peer.serve)
    dial(variants["append"]).get("/", b"X-Forwarded-For: 1.1.1.1, 3.3.3.3", b"X-Forwarded-For: 2.2.2.2")
    request = upstream.requests[0]
    assert b", ".join(request.get(b"x-forwarded-for")) == b"1.1.1.1, 3.3.3.3, 2.2.2.2, 127.0.0.1"
    dial(variants["append"]).get("/")
    assert upstream.requests[1].get(b"x-forwarded-for") == [b"127.0.0.1"]


def test_forwarded_off(variants: dict[str, Gateway], dial: Dial, upstream: Upstream) -> None:
    upstream.play(Peer.serve)
    dial(variants["off"]).get("/", b"X-Forwarded-For: 1.1.1.1", b"X-Forwarded-Host: h", b"Forwarded: for=x")
    assert upstream.requests[0].fields == [
        (b"Host", upstream.authority),
        (b"X-Forwarded-For", b"1.1.1.1"),
        (b"X-Forwarded-Host", b"h"),
        (b"Forwarded", b"for=x"),
    ]


def test_lower_case_names(variants: dict[str, Gateway], dial: Dial, upstream: Upstream) -> None:
    upstream.play(lambda peer: peer.answer(peer.request(), b"x", head=b'X-Up-Case: Value\r\nETag: "A"\r\n'))
    answer = dial(variants["append"]).get("/", b"X-Some-Name: Some Value", b"ACCEPT: Text")
    fields = dict(upstream.requests[0].fields)
    assert fields[b"x-some-name"] == b"Some Value"
    assert fields[b"accept"] == b"Text"
    assert (b"x-up-case", b"Value") in answer.fields
    assert (b"etag", b'"A"') in answer.fields


# ---------------------------------------------------------------------------------------------------------- responses


def test_response_head_is_rebuilt_field_by_field(client: Client, upstream: Upstream) -> None:
    upstream.play(
        raw(
            b"HTTP/1.1 299 Very  fine \xe9\r\nServer: s\r\nX-odd-CASE:   v\t \r\nSet-Cookie: a=1\r\nX-Empty:\r\nConnection: x-hop, keep-alive\r\n"
            b"X-Hop: 1\r\nKeep-Alive: timeout=5\r\nProxy-Connection: x\r\nUpgrade: foo\r\nTrailer: X-T\r\n"
            b"set-cookie: b=\xff\r\nDate: never\r\nContent-Length: 2\r\n\r\nhi"
        )
    )
    answer = client.get("/")
    assert answer.head == (
        b"HTTP/1.1 299 Very  fine \xe9\r\nServer: s\r\nX-odd-CASE: v\r\nSet-Cookie: a=1\r\nX-Empty: \r\n"
        b"set-cookie: b=\xff\r\nDate: never\r\nContent-Length: 2\r\n\r\n"
    )
    assert answer.body == b"hi"
    assert client.get("/").status == 299
    assert len(upstream.peers) == 1


def test_status_line_without_reason(client: Client, upstream: Upstream) -> None:
    upstream.play(raw(b"HTTP/1.1 200\r\nContent-Length: 0\r\n\r\n"))
    assert client.get("/").line == b"HTTP/1.1 200 "
    upstream.play(raw(b"HTTP/1.1 200 \r\nContent-Length: 0\r\n\r\n"))
    assert client.get("/").line == b"HTTP/1.1 200 "


@pytest.mark.parametrize("framing", [b"Content-Length: 5\r\n", b"Transfer-Encoding: chunked\r\n", b""])
def test_head_has_no_body(client: Client, upstream: Upstream, framing: bytes) -> None:
    upstream.play(raw(b"HTTP/1.1 200 OK\r\n" + framing + b"ETag: x\r\n\r\n"))
    for _ in range(2):
        answer = client.get("/", method=b"HEAD")
        assert answer.status == 200
        assert answer.get(b"etag") == [b"x"]
    assert client.get("/", method=b"HEAD").status == 200
    assert len(upstream.requests) == 3
    assert len(upstream.peers) == 1


@pytest.mark.parametrize("status", [b"204 No Content", b"304 Not Modified"])
def test_no_content_and_not_modified(client: Client, upstream: Upstream, status: bytes) -> None:
    upstream.play(raw(b"HTTP/1.1 " + status + b"\r\nETag: x\r\n\r\n"))
    for _ in range(3):
        answer = client.get("/")
        assert answer.line == b"HTTP/1.1 " + status
        assert answer.get(b"content-length") == []
    assert len(upstream.peers) == 1


def test_not_modified_keeps_its_length(client: Client, upstream: Upstream) -> None:
    upstream.play(raw(b"HTTP/1.1 304 Not Modified\r\nContent-Length: 77\r\n\r\n"))
    assert client.get("/").get(b"content-length") == [b"77"]
    assert client.get("/").status == 304


def test_no_content_never_announces_a_body(client: Client, upstream: Upstream) -> None:
    """RFC 9110, 8.6 and RFC 9112, 6.1: neither field belongs into a 204; a client that believes it would wait."""
    upstream.play(raw(b"HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\n"))
    assert client.get("/").get(b"content-length") in ([], [b"0"])
    upstream.play(raw(b"HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n"))
    assert client.get("/").get(b"transfer-encoding") == []


def test_response_to_1_0_clients(gateway: Gateway, dial: Dial, upstream: Upstream) -> None:
    upstream.play(Peer.serve)
    one = dial(gateway)
    answer = one.ask(b"GET / HTTP/1.0\r\n\r\n")
    assert answer.status == 200
    assert answer.closes
    assert answer.body == b"ok"
    assert one.closed()
    two = dial(gateway)
    for _ in range(3):
        answer = two.ask(b"GET / HTTP/1.0\r\nHost: h\r\nConnection: keep-alive\r\n\r\n")
        assert answer.get(b"connection") == [b"keep-alive"]
        assert answer.body == b"ok"
    assert [r.line for r in upstream.requests] == [b"GET / HTTP/1.1"] * 4


def test_chunked_response_to_1_0_client_is_unchunked(gateway: Gateway, dial: Dial, upstream: Upstream) -> None:
    upstream.play(raw(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"))
    client = dial(gateway)
    answer = client.ask(b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
    assert answer.get(b"transfer-encoding") == []
    assert answer.closes
    assert answer.body == b"abcde"


def test_connection_close_is_honoured(client: Client, upstream: Upstream) -> None:
    upstream.play(Peer.serve)
    answer = client.get("/", b"Connection: close")
    assert answer.closes
    assert answer.body == b"ok"
    assert client.closed()
    assert upstream.requests[0].get(b"connection") == []


def test_close_delimited_response(gateway: Gateway, dial: Dial, upstream: Upstream) -> None:
    upstream.play(closing(b"HTTP/1.1 200 OK\r\nX: 1\r\n\r\nall of it"))
    client = dial(gateway)
    answer = client.get("/")
    assert answer.closes
    assert answer.body == b"all of it"
    old = dial(gateway).ask(b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
    assert old.closes
    assert old.body == b"all of it"


def test_1_0_upstream(client: Client, upstream: Upstream) -> None:
    upstream.play(closing(b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok"))
    for _ in range(3):
        assert client.get("/").line == b"HTTP/1.1 200 OK"
    assert len(upstream.peers) == 3


def test_upstream_says_close(client: Client, upstream: Upstream) -> None:
    """The upstream's wish concerns the upstream's connection only."""
    upstream.play(lambda peer: (peer.answer(peer.request(), head=b"Connection: close\r\n"), peer.until_eof()))
    for _ in range(3):
        assert not client.get("/").closes
    assert len(upstream.peers) == 3


# ------------------------------------------------------------------------------------------------------------- bodies


def test_chunked_response_drops_extensions_and_trailers(client: Client, upstream: Upstream) -> None:
    upstream.play(
        raw(b"HTTP/1.1 200 OK\r\nTrailer: X-T\r\nTransfer-Encoding: chunked\r\n\r\n3;a=b\r\nabc\r\n002\r\nde\r\n0;last\r\nX-T: 1\r\nHost: evil\r\n\r\n")
    )
    for _ in range(2):
        answer = client.get("/")
        assert answer.body == b"abcde"
        assert answer.trailer == b""
        assert answer.get(b"transfer-encoding") == [b"chunked"]
        assert answer.get(b"trailer") == []
    assert len(upstream.peers) == 1


def test_chunked_request_drops_extensions_and_trailers(client: Client, upstream: Upstream) -> None:
    upstream.play(Peer.serve)
    for _ in range(2):
        client.send_pieces(
            b"PUT /c HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: CHUNKED\r\nTrailer: X-T\r\n\r\n3;x=",
            b'"y z"\r\na',
            b"bc\r\n00000002\r\nde\r",
            b"\n0;e\r\nX-T: 1\r\nContent-Length: 7\r\n",
            b"\r\n",
        )
        assert client.answer().body == b"ok"
        request = upstream.requests[-1]
        assert request.body == b"abcde"
        assert request.trailer == b""
        assert request.get(b"transfer-encoding") == [b"chunked"]
        assert request.get(b"trailer") == []
    assert len(upstream.peers) == 1


def test_empty_bodies(client: Client, upstream: Upstream) -> None:
    upstream.play(Peer.serve)
    client.post("/", b"")
    client.ask(b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n")
    client.ask(b"POST / HTTP/1.1\r\nHost: h\r\n\r\n")
    first, second, third = upstream.requests
    assert first.get(b"content-length") == [b"0"]
    assert second.body == b""
    assert third.get(b"content-length") in ([], [b"0"])
    assert third.get(b"transfer-encoding") == []


def test_body_of_every_size_and_split(client: Client, upstream: Upstream) -> None:
    def script(peer: Peer) -> None:
        while True:
            request = peer.request()
            peer.answer(request, request.body)

    upstream.play(script)
    for size in (1, 2047, 2048, 2049, 65535, 65536, 65537, 300_000):
        body = os.urandom(size)
        assert client.post("/", body).body == body
        chunked = b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n" + b"".join(
            b"%x\r\n%b\r\n" % (len(body[i : i + 7001]), body[i : i + 7001]) for i in range(0, size, 7001)
        )
        assert client.ask(chunked + b"0\r\n\r\n").body == body
    for i in range(1, 40):
        message = client.message(b"POST", "/", b"0123456789")
        client.send_pieces(message[:-i], message[-i:], pause=0.001)
        assert client.answer().body == b"0123456789"


def test_response_split_at_every_octet(client: Client, upstream: Upstream) -> None:
    whole = b"HTTP/1.1 200 OK\r\nX-A: 1\r\nTransfer-Encoding: chunked\r\n\r\n3;x\r\nabc\r\n0\r\n\r\n"
    stop = threading.Event()

    def script(peer: Peer) -> None:
        for cut in range(1, len(whole)):
            peer.request()
            peer.send(whole[:cut])
            stop.wait(0.001)
            peer.send(whole[cut:])

    upstream.play(script)
    for _ in range(1, len(whole)):
        answer = client.get("/")
        assert answer.head == b"HTTP/1.1 200 OK\r\nX-A: 1\r\nTransfer-Encoding: chunked\r\n\r\n"
        assert answer.body == b"abc"


def test_request_split_at_every_octet(client: Client, upstream: Upstream) -> None:
    upstream.play(Peer.serve)
    whole = b"POST /s?q HTTP/1.1\r\nHost: h\r\nX-A: 1\r\nContent-Length: 3\r\n\r\nabc"
    for cut in range(1, len(whole)):
        client.send_pieces(whole[:cut], whole[cut:], pause=0.001)
        assert client.answer().body == b"ok"
    wire = {r.wire for r in upstream.requests}
    assert len(wire) == 1


# --------------------------------------------------------------------------------------------------------- pipelining


def test_pipelined_requests_are_answered_in_order(client: Client, upstream: Upstream) -> None:
    def script(peer: Peer) -> None:
        while True:
            request = peer.request()
            peer.answer(request, request.target + b" " + request.body)

    upstream.play(script)
    client.send(b"".join(b"GET /%d HTTP/1.1\r\nHost: h\r\n\r\n" % i if i % 3 else client.message(b"POST", b"/%d" % i, b"b%d" % i) for i in range(10)))
    for i in range(10):
        assert client.answer().body == (b"/%d " % i if i % 3 else b"/%d b%d" % (i, i))
    assert [r.target for r in upstream.requests] == [b"/%d" % i for i in range(10)]


def test_pipelining_with_refused_ones(client: Client, upstream: Upstream) -> None:
    upstream.play(Peer.serve)
    client.send(
        b"POST /1 HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n"
        b"GET /a%2fb HTTP/1.1\r\nHost: h\r\n\r\n"
        b"POST /a%2fb HTTP/1.1\r\nHost: h\r\nContent-Length: 4\r\n\r\nGET "
        b"\r\nHEAD /4 HTTP/1.1\r\nHost: h\r\n\r\n"
        b"GET /5 HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"
        b"GET /never HTTP/1.1\r\nHost: h\r\n\r\n"
    )
    assert [client.answer(m).status for m in (b"POST", b"GET", b"POST", b"HEAD", b"GET")] == [200, 400, 400, 200, 200]
    assert client.closed()
    assert [r.target for r in upstream.requests] == [b"/1", b"/4", b"/5"]


def test_unread_chunked_body_is_never_a_request(client: Client, upstream: Upstream) -> None:
    """An early answer to a body of unknown length ends the connection, or reads the body; it never parses it as a request."""
    upstream.play(Peer.serve)
    hidden = b"GET /hidden HTTP/1.1\r\nHost: h\r\n\r\n"
    client.send(b"POST /a%%2fb HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(hidden), hidden))
    answer = client.answer()
    assert answer.status == 400
    if answer.closes:
        assert client.closed()
    else:
        assert client.get("/").status == 200
    assert b"/hidden" not in [r.target for r in upstream.requests]


# ------------------------------------------------------------------------------------------------- 100-continue and 1xx


@pytest.mark.parametrize("framing", [b"Content-Length: 3", b"Transfer-Encoding: chunked"])
@pytest.mark.parametrize("path", ["/", "/mcp"])
def test_expect_continue(gateway: Gateway, dial: Dial, talk: OpenTalk, upstream: Upstream, framing: bytes, path: str) -> None:
    upstream.play(Peer.serve if path == "/" else as_mcp())
    body = b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"t"}}'
    client = dial(gateway)
    lines: tuple[bytes, ...] = ()
    if path == "/mcp":
        session = talk(gateway, warm=True)
        client, lines = session.client, session.lines
    coded = body if framing.startswith(b"C") else b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
    framing = framing.replace(b"3", b"%d" % len(body))
    client.send(b"\r\n".join([b"POST " + path.encode() + b" HTTP/1.1", b"Host: h", b"Expect: 100-Continue", framing, *lines, b"", b""]))
    assert client.head().head == b"HTTP/1.1 100 Continue\r\n\r\n"
    client.send(coded)
    assert client.answer().body == (b"ok" if path == "/" else result(upstream.requests[0]))
    assert upstream.requests[0].body == body
    assert upstream.requests[0].get(b"expect") == []


def test_expect_continue_with_the_body_at_hand_needs_no_100(client: Client, upstream: Upstream) -> None:
    upstream.play(Peer.serve)
    client.send(b"POST / HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\nabc")
    assert client.answer().body == b"ok"


def test_expect_continue_with_a_refusal_ends_the_connection(client: Client, upstream: Upstream) -> None:
    """Whether the body still comes is unknown, so what follows cannot be framed."""
    upstream.play(Peer.serve)
    client.send(b"POST /a%2fb HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 30\r\n\r\n")
    answer = client.answer()
    assert answer.status == 400
    assert answer.closes
    assert client.closed()


def test_unknown_expectation_is_417(client: Client, upstream: Upstream) -> None:
    upstream.play(Peer.serve)
    assert client.get("/", b"Expect: a-miracle").status == 417
    assert not upstream.peers


def test_expect_in_1_0_is_ignored(gateway: Gateway, dial: Dial, upstream: Upstream) -> None:
    upstream.play(Peer.serve)
    client = dial(gateway)
    client.send(b"POST / HTTP/1.0\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n")
    assert client.silent_for(0.2)
    client.send(b"abc")
    assert client.answer().status == 200


def test_early_hints_pass_and_100_does_not(client: Client, upstream: Upstream) -> None:
    upstream.play(
        raw(
            b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\nX-Hop: 1\r\nConnection: X-Hop\r\n\r\n"
            b"HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
        )
    )
    for _ in range(2):
        client.send(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
        assert client.head().head == b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"
        assert client.head().head == b"HTTP/1.1 102 Processing\r\n\r\n"
        assert client.answer().body == b"ok"
    assert len(upstream.peers) == 1


def test_interim_answers_split_at_every_octet(client: Client, upstream: Upstream) -> None:
    whole = b"HTTP/1.1 103 E\r\nA: 1\r\n\r\nHTTP/1.1 100 C\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx"
    stop = threading.Event()

    def script(peer: Peer) -> None:
        for cut in range(1, len(whole)):
            peer.request()
            peer.send(whole[:cut])
            stop.wait(0.001)
            peer.send(whole[cut:])

    upstream.play(script)
    for _ in range(1, len(whole)):
        client.send(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
        assert client.head().head == b"HTTP/1.1 103 E\r\nA: 1\r\n\r\n"
        assert client.answer().body == b"x"


def test_1_0_client_sees_no_interim_answer(gateway: Gateway, dial: Dial, upstream: Upstream) -> None:
    upstream.play(raw(b"HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"))
    assert dial(gateway).ask(b"GET / HTTP/1.0\r\n\r\n").status == 200


def test_flood_of_interim_answers_is_502(client: Client, upstream: Upstream) -> None:
    upstream.play(lambda peer: (peer.request(), peer.send(b"HTTP/1.1 100 Continue\r\n\r\n" * 200), peer.until_eof()))
    assert client.get("/").status == 502
    assert upstream.wait_peers(1)[0].closed.wait(2)


# ------------------------------------------------------------------------------------------------------------ upgrades


def websocket_key() -> tuple[bytes, bytes]:
    key = base64.b64encode(os.urandom(16))
    return key, base64.b64encode(hashlib.sha1(key + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest())


def upgrade(key: bytes) -> bytes:
    return (
        b"GET /ws HTTP/1.1\r\nHost: gw.test\r\nUpgrade: websocket\r\nConnection: keep-alive, Upgrade\r\nSec-WebSocket-Version: 13\r\n"
        b"Sec-WebSocket-Key: " + key + b"\r\n\r\n"
    )


def test_websocket_tunnel_both_ways(client: Client, upstream: Upstream) -> None:
    key, accept = websocket_key()

    def script(peer: Peer) -> None:
        request = peer.request()
        assert request.get(b"sec-websocket-key") == [key]
        assert request.get(b"upgrade") == [b"websocket"]
        assert [v.lower() for v in request.get(b"connection")] == [b"upgrade"]
        peer.send(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: " + accept + b"\r\n\r\nfirst")
        peer.expect(b"\x81\x85maskHELLO")
        peer.send(b"\x81\x05hello")
        peer.expect(b"z" * 1_000_000)
        peer.send(b"y" * 1_000_000)
        assert peer.until_eof() == b"last"
        peer.send(b"after your FIN")

    upstream.play(script)
    client.send(upgrade(key))
    answer = client.head()
    assert answer.status == 101
    assert answer.get(b"sec-websocket-accept") == [accept]
    assert answer.get(b"upgrade") == [b"websocket"]
    assert [v.lower() for v in answer.get(b"connection")] == [b"upgrade"]
    assert client.read(5) == b"first"
    client.send(b"\x81\x85maskHELLO")
    assert client.read(7) == b"\x81\x05hello"
    client.send(b"z" * 1_000_000)
    assert client.read(1_000_000) == b"y" * 1_000_000
    client.send(b"last")
    client.half_close()
    assert client.until_eof() == b"after your FIN"


def test_tunnel_takes_octets_sent_ahead(client: Client, upstream: Upstream) -> None:
    key, _ = websocket_key()

    def script(peer: Peer) -> None:
        peer.request()
        peer.pause(ahead)
        peer.send(b"HTTP/1.1 101 S\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n")
        peer.expect(b"ahead of time")
        peer.send(b"fine")
        peer.until_eof()

    ahead = threading.Event()
    upstream.play(script)
    client.send(upgrade(key) + b"ahead of ")
    upstream.wait_requests(1)
    client.send(b"time")
    ahead.set()
    assert client.head().status == 101
    assert client.read(4) == b"fine"


def test_tunnel_octets_are_no_requests(client: Client, upstream: Upstream) -> None:
    key, _ = websocket_key()
    smuggled = b"GET /admin HTTP/1.1\r\nHost: h\r\n\r\n"

    def script(peer: Peer) -> None:
        peer.request()
        peer.send(b"HTTP/1.1 101 S\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n")
        peer.expect(smuggled)
        peer.send(b"HTTP/1.1 200 OK\r\n\r\n")

    upstream.play(script)
    client.send(upgrade(key))
    client.head()
    client.send(smuggled)
    assert client.until_eof() == b"HTTP/1.1 200 OK\r\n\r\n"
    assert len(upstream.requests) == 1


def test_tunnel_of_a_leaving_upstream_delivers_everything(client: Client, upstream: Upstream) -> None:
    key, _ = websocket_key()

    def script(peer: Peer) -> None:
        peer.request()
        peer.send(b"HTTP/1.1 101 S\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n")
        peer.send(b"q" * 3_000_000)

    upstream.play(script)
    client.send(upgrade(key))
    client.head()
    assert client.until_eof() == b"q" * 3_000_000


def test_tunnel_half_closed_by_the_upstream(client: Client, upstream: Upstream) -> None:
    """A FIN is passed on as a FIN: the other direction goes on."""
    key, _ = websocket_key()
    got: list[bytes] = []

    def script(peer: Peer) -> None:
        peer.request()
        peer.send(b"HTTP/1.1 101 S\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\nbye")
        peer.half_close()
        got.append(peer.until_eof())

    upstream.play(script)
    client.send(upgrade(key))
    client.head()
    assert client.until_eof() == b"bye"
    client.send(b"still talking")
    client.half_close()
    assert upstream.peers[0].closed.wait(3)
    assert got == [b"still talking"]


def test_client_leaving_a_tunnel_ends_it(client: Client, upstream: Upstream) -> None:
    key, _ = websocket_key()

    def script(peer: Peer) -> None:
        peer.request()
        peer.send(b"HTTP/1.1 101 S\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n")
        peer.until_eof(3)

    upstream.play(script)
    client.send(upgrade(key))
    client.head()
    client.close()
    assert upstream.peers[0].closed.wait(2)


def test_refused_upgrade_is_an_ordinary_answer(client: Client, upstream: Upstream) -> None:
    key, _ = websocket_key()
    upstream.play(Peer.serve)
    client.send(upgrade(key))
    answer = client.answer()
    assert (answer.status, answer.body) == (200, b"ok")
    assert client.get("/").status == 200


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\nsecret",
        b"HTTP/1.1 101 Switching Protocols\r\n\r\nsecret",
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 101 S\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n\r\nsecret",
    ],
)
def test_101_unasked_is_502(client: Client, upstream: Upstream, answer: bytes) -> None:
    upstream.play(lambda peer: (peer.request(), peer.send(answer), peer.until_eof()))
    got = client.get("/")
    assert got.status == 502
    assert b"secret" not in got.body
    assert upstream.peers[0].closed.wait(2)


def test_101_to_another_protocol_is_502(client: Client, upstream: Upstream) -> None:
    key, _ = websocket_key()
    upstream.play(lambda peer: (peer.request(), peer.send(b"HTTP/1.1 101 S\r\nUpgrade: foo\r\nConnection: Upgrade\r\n\r\nsecret"), peer.until_eof()))
    client.send(upgrade(key))
    assert client.answer().status == 502


@pytest.mark.parametrize("protocol", [b"h2c", b"H2C", b"h2c, websocket", b"websocket, h2c"])
def test_h2c_is_never_forwarded(client: Client, upstream: Upstream, protocol: bytes) -> None:
    upstream.play(Peer.serve)
    client.get("/", b"Upgrade: " + protocol, b"Connection: Upgrade, HTTP2-Settings", b"HTTP2-Settings: AAMAAABkAAQAAP__")
    request = upstream.requests[0]
    assert all(b"h2c" not in v.lower() for v in request.get(b"upgrade"))
    assert request.get(b"http2-settings") == []


@pytest.mark.parametrize("order", [(b"h2c", b"websocket"), (b"websocket", b"h2c")])
def test_h2c_in_a_second_field_is_never_forwarded(client: Client, upstream: Upstream, order: tuple[bytes, bytes]) -> None:
    upstream.play(Peer.serve)
    client.get("/", b"Upgrade: " + order[0], b"Connection: Upgrade", b"Upgrade: " + order[1])
    assert all(b"h2c" not in v.lower() for v in upstream.requests[0].get(b"upgrade"))


def tunnelling(peer: Peer) -> None:
    """Opens a tunnel, then waits for its end."""
    peer.request()
    peer.send(b"HTTP/1.1 101 S\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n")
    peer.until_eof()


def test_reset_of_a_tunnel_is_passed_on(client: Client, upstream: Upstream) -> None:
    upstream.play(tunnelling)
    client.send(upgrade(websocket_key()[0]))
    client.head()
    client.reset()
    assert upstream.peers[0].closed.wait(2)


def test_upstream_reset_ends_a_tunnel(client: Client, upstream: Upstream) -> None:
    begun = threading.Event()

    def script(peer: Peer) -> None:
        peer.request()
        peer.send(b"HTTP/1.1 101 S\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n")
        assert begun.wait(5)
        peer.reset()

    upstream.play(script)
    client.send(upgrade(websocket_key()[0]))
    client.head()
    begun.set()
    assert client.closed(2)


@pytest.mark.parametrize("half", [False, True], ids=["silent", "half-closed"])
def test_idle_tunnel_ends_after_its_limit(tight: Gateway, dial: Dial, upstream: Upstream, half: bool) -> None:
    def script(peer: Peer) -> None:
        tunnelling(peer)
        over.wait(8)

    over = threading.Event()
    upstream.play(script)
    client = dial(tight)
    client.send(upgrade(websocket_key()[0]))
    client.head()
    if half:
        client.half_close()
    began = time.monotonic()
    assert client.until_eof(5) == b""
    assert 1.2 < time.monotonic() - began < 4
    over.set()
    settled(tight)


def test_busy_tunnel_is_not_idle(tight: Gateway, dial: Dial, upstream: Upstream) -> None:
    """One direction is enough to keep it."""
    upstream.play(tunnelling)
    client = dial(tight)
    client.send(upgrade(websocket_key()[0]))
    client.head()
    pause = threading.Event()
    for _ in range(12):
        client.send(b"ping")
        pause.wait(0.2)
    assert client.silent_for(0.05)


def test_upgrade_with_a_body_is_no_upgrade(client: Client, upstream: Upstream) -> None:
    upstream.play(Peer.serve)
    client.ask(b"POST / HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nContent-Length: 3\r\n\r\nabc")
    assert upstream.requests[0].get(b"upgrade") == []
    assert upstream.requests[0].body == b"abc"


def test_upgrade_of_a_1_0_client_is_no_upgrade(client: Client, upstream: Upstream) -> None:
    upstream.play(Peer.serve)
    client.ask(b"GET / HTTP/1.0\r\nHost: h\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n")
    assert upstream.requests[0].get(b"upgrade") == []


def test_upgrade_without_connection_is_no_upgrade(client: Client, upstream: Upstream) -> None:
    upstream.play(Peer.serve)
    client.get("/", b"Upgrade: websocket")
    assert upstream.requests[0].get(b"upgrade") == []
