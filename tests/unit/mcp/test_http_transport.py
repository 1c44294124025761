"""Streamable HTTP against raw peers: answers in every form, refusals, lost streams, listening, the end."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable

import pytest

from agw.mcp.transport import Headers, Reply, TransportError
from agw.mcp.transports import http as module
from agw.mcp.transports.http import HttpTransport
from tests.kits.plane import Plane, refused_host, run
from tests.peers.upstream import Peer, Request, Upstream

CALL = b'{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":"x"}}'
DONE = b'{"jsonrpc":"2.0","id":7,"result":{"ok":true}}'
NOTE = b'{"jsonrpc":"2.0","method":"notifications/progress","params":{"progress":%d}}'
ERROR = b'{"jsonrpc":"2.0","id":%b,"error":{"code":-32020,"message":"no"}}'
JSON = b"Content-Type: application/json\r\n"
SSE = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\nTransfer-Encoding: chunked\r\n\r\n"
LAST = b"0\r\n\r\n"
SESSION: Headers = [(b"Mcp-Session-Id", b"s1"), (b"MCP-Protocol-Version", b"2025-11-25")]

Script = Callable[[Peer, Request], None]


def chunk(octets: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(octets), octets)


def event(data: bytes, ident: bytes | None = None, retry: int | None = None, kind: bytes | None = b"message") -> bytes:
    lines = [] if kind is None else [b"event: " + kind]
    lines += [] if ident is None else [b"id: " + ident]
    lines += [] if retry is None else [b"retry: %d" % retry]
    return chunk(b"\n".join([*lines, b"data: " + data]) + b"\n\n")


class Heard:
    """What a transport's owner and a request's caller were told."""

    def __init__(self, transport: HttpTransport) -> None:
        self.stray: list[bytes] = []
        self.down: list[str] = []
        self.own: list[bytes] = []
        self.gaps: list[int | None] = []
        transport.on_stray = self.stray.append
        transport.on_down = self.down.append


Body = Callable[[Plane, HttpTransport, Heard, Upstream], Awaitable[None]]


def against(script: Script, body: Body, *, max_message_bytes: int = 1 << 20) -> None:
    """`script` answers one request; a connection carries as many as it lets it."""

    def connection(peer: Peer) -> None:
        while True:
            script(peer, peer.request())

    with Upstream(connection) as upstream:

        async def whole(plane: Plane) -> None:
            transport = HttpTransport(plane.origin(upstream.host), b"/mcp", max_message_bytes=max_message_bytes)
            heard = Heard(transport)
            await body(plane, transport, heard, upstream)
            await transport.close()

        run(whole)
        upstream.check()


async def call(transport: HttpTransport, heard: Heard, *, timeout_s: float = 5.0, headers: Headers = SESSION) -> Reply:
    return await transport.request(CALL, b"7", headers=headers, on_message=heard.own.append, on_gap=heard.gaps.append, timeout_s=timeout_s)


async def failure(transport: HttpTransport, heard: Heard, *, timeout_s: float = 5.0) -> TransportError:
    with pytest.raises(TransportError) as caught:
        await call(transport, heard, timeout_s=timeout_s)
    return caught.value


# ------------------------------------------------------------------------------------------------------- one JSON text


def test_json() -> None:
    async def body(plane: Plane, transport: HttpTransport, heard: Heard, upstream: Upstream) -> None:
        for _ in range(2):
            reply = await call(transport, heard)
            assert (reply.message, reply.status, reply.header(b"mcp-session-id")) == (DONE, 200, b"new")
        request = upstream.requests[0]
        assert request.line == b"POST /mcp HTTP/1.1" and request.body == CALL
        assert request.fields == [
            (b"Host", upstream.authority),
            (b"Content-Type", b"application/json"),
            (b"Accept", b"application/json, text/event-stream"),
            *SESSION,
            (b"Content-Length", b"%d" % len(CALL)),
        ]
        assert len(upstream.peers) == 1 and not heard.own

    against(lambda peer, request: peer.answer(body=DONE, head=JSON + b"Mcp-Session-Id: new\r\n"), body)


def test_json_array() -> None:
    async def body(plane: Plane, transport: HttpTransport, heard: Heard, upstream: Upstream) -> None:
        assert (await call(transport, heard)).message == DONE
        assert heard.own == [NOTE % 1, NOTE % 2] and not heard.stray

    against(lambda peer, request: peer.answer(body=b"[%b, %b, %b]" % (NOTE % 1, DONE, NOTE % 2), head=JSON), body)


def test_json_error_without_a_readable_id() -> None:
    async def body(plane: Plane, transport: HttpTransport, heard: Heard, upstream: Upstream) -> None:
        assert (await call(transport, heard)).message == ERROR % b"null"

    against(lambda peer, request: peer.answer(body=ERROR % b"null", head=JSON), body)


@pytest.mark.parametrize("octets", [b"", b"{}", b"not json", b"[]", b"[1]", DONE[:-1], DONE.replace(b"7", b"8"), DONE.replace(b"7", b'"7"'), NOTE % 1])
@pytest.mark.parametrize("status", [b"200 OK", b"202 Accepted"])
def test_what_is_no_response(octets: bytes, status: bytes) -> None:
    async def body(plane: Plane, transport: HttpTransport, heard: Heard, upstream: Upstream) -> None:
        error = await failure(transport, heard)
        assert (error.kind, error.sent) == ("protocol", True)

    against(lambda peer, request: peer.answer(body=octets, head=JSON, status=status), body)


def test_ids_are_compared_as_trimmed_text() -> None:
    async def body(plane: Plane, transport: HttpTransport, heard: Heard, upstream: Upstream) -> None:
        reply = await transport.request(CALL, b' "a" \n', timeout_s=5)
        assert reply.message == b'{ "jsonrpc":"2.0", "id" : "a" , "result":{} }'

    against(lambda peer, request: peer.answer(body=b'{ "jsonrpc":"2.0", "id" : "a" , "result":{} }', head=JSON), body)


def test_json_above_the_bound() -> None:
    async def body(plane: Plane, transport: HttpTransport, heard: Heard, upstream: Upstream) -> None:
        assert (await failure(transport, heard)).kind == "limit"

    against(lambda peer, request: peer.answer(body=DONE, head=JSON), body, max_message_bytes=len(DONE) - 1)


# ------------------------------------------------------------------------------------------------------- an event stream


@pytest.mark.parametrize("step", [1 << 20, 1])
def test_events(step: int) -> None:
    octets = SSE + chunk(b": hello\n\n") + event(NOTE % 1) + event(b"x", kind=b"other") + event(NOTE % 2, kind=None) + event(DONE) + LAST

    def script(peer: Peer, request: Request) -> None:
        for start in range(0, len(octets), step):
            peer.send(octets[start : start + step])

    async def body(plane: Plane, transport: HttpTransport, heard: Heard, upstream: Upstream) -> None:
        for _ in range(2):
            assert (await call(transport, heard)).message == DONE
            # The end of the stream comes behind the response; the connection is for the next request.
            await plane.until(lambda: not plane.gauge("upstream_connections") or plane.clusters[0].idle_count(), "the end of the stream")
        assert heard.own == [NOTE % 1, NOTE % 2] * 2 and not heard.stray and len(upstream.peers) == 1

    against(script, body)


def test_without_a_listener_of_its_own_a_requests_messages_are_stray() -> None:
    async def body(plane: Plane, transport: HttpTransport, heard: Heard, upstream: Upstream) -> None:
        await transport.request(CALL, b"7", timeout_s=5)
        assert heard.stray == [NOTE % 1]

    against(lambda peer, request: peer.send(SSE + event(NOTE % 1) + event(DONE) + LAST), body)


def test_requests_and_other_responses_on_the_stream() -> None:
    other = DONE.replace(b"7", b"8")
    ping = b'{"jsonrpc":"2.0","id":7,"method":"ping"}'

    async def body(plane: Plane, transport: HttpTransport, heard: Heard, upstream: Upstream) -> None:
        assert (await call(transport, heard)).message == DONE
        assert heard.own == [other, ping, NOTE % 1, NOTE % 2]

    against(lambda peer, request: peer.send(SSE + event(other) + event(ping) + event(b"[%b,%b,%b]" % (NOTE % 1, DONE, NOTE % 2)) + LAST), body)


def test_a_stream_left_open_after_the_response_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agw.runtime.origin.LINGER_S", 0.2)

    def script(peer: Peer, request: Request) -> None:
        peer.send(SSE + event(DONE))
        peer.until_eof()

    async def body(plane: Plane, transport: HttpTransport, heard: Heard, upstream: Upstream) -> None:
        assert (await call(transport, heard)).message == DONE
        await plane.until(upstream.peers[0].closed.is_set, "the close", 3)

    against(script, body)


@pytest.mark.parametrize(
    ("octets", "kind"),
    [
        (event(b"not json"), "protocol"),
        (event(b"[1"), "protocol"),
        (event(b"{}"), "protocol"),
        (chunk(b"data: " + b"x" * 3000 + b"\n\n"), "limit"),
        (chunk(b"data: " + b"x" * 3000), "limit"),
        (b"zz\r\n", "protocol"),
        (event(NOTE % 1) + LAST, "closed"),
        (event(NOTE % 1, b"") + LAST, "closed"),
        (event(NOTE % 1, b"\x01") + LAST, "closed"),
        (chunk(b"data: " + DONE) + LAST, "closed"),
    ],
)
def test_broken_streams(octets: bytes, kind: str) -> None:
    async def body(plane: Plane, transport: HttpTransport, heard: Heard, upstream: Upstream) -> None:
        error = await failure(transport, heard)
        assert (error.kind, error.sent) == (kind, True) and not heard.gaps

    def script(peer: Peer, request: Request) -> None:
        assert request.method == b"POST"
        peer.send(SSE + octets)

    against(script, body, max_message_bytes=2000)


def test_silence_is_bounded_and_messages_break_it() -> None:
    stop = threading.Event()

    def script(peer: Peer, request: Request) -> None:
        peer.send(SSE)
        for number in range(4):
            stop.wait(0.2)
            peer.send(event(NOTE % number))
        while not stop.wait(0.1):
            # Comments keep connections open, not requests.
            peer.send(chunk(b": still here\n\n"))

    async def body(plane: Plane, transport: HttpTransport, heard: Heard, upstream: Upstream) -> None:
        begin = plane.loop.time()
        error = await failure(transport, heard, timeout_s=0.5)
        assert error.kind == "timeout" and len(heard.own) == 4
        assert 1.2 <= plane.loop.time() - begin < 3
        stop.set()

    against(script, body)


def test_no_answer_in_time() -> None:
    async def body(plane: Plane, transport: HttpTransport, heard: Heard, upstream: Upstream) -> None:
        error = await failure(transport, heard, timeout_s=0.3)
        assert (error.kind, error.sent) == ("timeout", True)

    against(lambda peer, request: peer.until_eof() and None, body)


def test_cancelling_a_request_closes_its_connection() -> None:
    def script(peer: Peer, request: Request) -> None:
        peer.send(SSE + event(NOTE % 1))
        peer.until_eof()

    async def body(plane: Plane, transport: HttpTransport, heard: Heard, upstream: Upstream) -> None:
        task = asyncio.ensure_future(call(transport, heard))
        await plane.until(lambda: heard.own, "the first message")
        task.cancel()
        await asyncio.wait((task,))
        assert task.cancelled()
        await plane.until(upstream.peers[0].closed.is_set, "the close")

    against(script, body)


# --------------------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize("ident", [b"7", b"null"])
@pytest.mark.parametrize("status", [b"400 Bad Request", b"404 Not Found", b"500 Oh"])
def test_a_refusal_may_be_a_response(ident: bytes, status: bytes) -> None:
    async def body(plane: Plane, transport: HttpTransport, heard: Heard, upstream: Upstream) -> None:
        reply = await call(transport, heard)
        assert (reply.message, reply.status, reply.header(b"x-a")) == (ERROR % ident, int(status[:3]), b"b")

    against(lambda peer, request: peer.answer(body=ERROR % ident, head=JSON + b"X-A: b\r\n", status=status), body)


def test_a_refusal_without_id_gets_null() -> None:
    async def body(plane: Plane, transport: HttpTransport, heard: Heard, upstream: Upstream) -> None:
        reply = await call(transport, heard)
        assert reply.message == b'{"jsonrpc":"2.0","id":null,"error":{"code":1,"message":"m"}}' and reply.status == 400

    against(lambda peer, request: peer.answer(body=b'{"jsonrpc":"2.0","error":{"code":1,"message":"m"}}', head=JSON, status=b"400 No"), body)


@pytest.mark.parametrize(
    ("status", "octets"),
    [
        (b"404 Not Found", b""),
        (b"401 Unauthorized", b"who are you?"),
        (b"400 Bad Request", b'{"error":"not JSON-RPC"}'),
        (b"400 Bad Request", ERROR % b"8"),
        (b"400 Bad Request", DONE),
        (b"503 Later", b"[" + ERROR % b"7" + b"]"),
    ],
)
def test_refusals(status: bytes, octets: bytes) -> None:
    async def body(plane: Plane, transport: HttpTransport, heard: Heard, upstream: Upstream) -> None:
        error = await failure(transport, heard)
        assert (error.kind, error.status, error.body, error.sent) == ("status", int(status[:3]), octets, True)
        assert (b"www-authenticate", b"Bearer x") in error.headers
        assert octets.decode() not in str(error) or not octets

    against(lambda peer, request: peer.answer(body=octets, status=status, head=b"WWW-Authenticate: Bearer x\r\n"), body)


def test_a_refusal_keeps_at_most_64_kib_of_its_body() -> None:
    async def body(plane: Plane, transport: HttpTransport, heard: Heard, upstream: Upstream) -> None:
        error = await failure(transport, heard)
        assert error.status == 500 and error.body == b"x" * 65536

    against(lambda peer, request: peer.answer(body=b"x" * 5_000_000, status=b"500 Oh"), body)


def test_a_refusal_whose_body_never_ends_is_still_a_refusal() -> None:
    def script(peer: Peer, request: Request) -> None:
        peer.send(b"HTTP/1.1 400 No\r\nContent-Length: 100\r\n\r\nhalf")
        peer.until_eof()

    async def body(plane: Plane, transport: HttpTransport, heard: Heard, upstream: Upstream) -> None:
        error = await failure(transport, heard, timeout_s=0.3)
        assert (error.kind, error.status, error.body) == ("status", 400, b"half")

    against(script, body)


def test_redirects_are_refusals() -> None:
    async def body(plane: Plane, transport: HttpTransport, heard: Heard, upstream: Upstream) -> None:
        error = await failure(transport, heard)
        assert (error.kind, error.status) == ("status", 307) and len(upstream.requests) == 1

    against(lambda peer, request: peer.answer(body=b"", status=b"307 There", head=b"Location: /elsewhere\r\n"), body)


def test_nobody_listens() -> None:
    async def body(plane: Plane) -> None:
        transport = HttpTransport(plane.origin(refused_host()), b"/mcp")
        for attempt in (transport.request(CALL, b"7"), transport.send(CALL), transport.listen()):
            with pytest.raises(TransportError) as caught:
                await attempt
            assert (caught.value.kind, caught.value.sent) == ("connect", False)

    run(body)


# ----------------------------------------------------------------------------------------------------------- lost streams


def test_a_lost_stream_is_resumed() -> None:
    """Twice: once after an orderly end, once after a cut; with everything that identifies the caller and nothing more."""

    def script(peer: Peer, request: Request) -> None:
        last = request.get(b"last-event-id")
        if request.method == b"POST":
            peer.send(SSE + event(b"", b"e-0", 150, None) + event(NOTE % 1, b"e-1") + LAST)
        elif last == [b"e-1"]:
            peer.send(SSE + event(NOTE % 2, b"e 2"))
            peer.close()
        else:
            assert last == [b"e 2"]
            peer.send(SSE + event(DONE, b"e-3") + LAST)

    async def body(plane: Plane, transport: HttpTransport, heard: Heard, upstream: Upstream) -> None:
        begin = plane.loop.time()
        headers = [*SESSION, (b"Mcp-Method", b"tools/call"), (b"Mcp-Name", b"x"), (b"Mcp-Param-Region", b"y"), (b"Authorization", b"Bearer z")]
        reply = await call(transport, heard, headers=headers)
        assert reply.message == DONE and heard.own == [NOTE % 1, NOTE % 2] and heard.gaps == [150, 150]
        assert 0.29 <= plane.loop.time() - begin < 3
        assert [r.method for r in upstream.requests] == [b"POST", b"GET", b"GET"]
        assert upstream.requests[1].fields == [
            (b"Host", upstream.authority), *SESSION, (b"Authorization", b"Bearer z"), (b"Accept", b"text/event-stream"), (b"Last-Event-ID", b"e-1"),
        ]

    against(script, body)


def test_the_session_of_the_lost_answer_identifies_the_resumption() -> None:
    def script(peer: Peer, request: Request) -> None:
        if request.method == b"POST":
            peer.send(SSE.replace(b"\r\n\r\n", b"\r\nMcp-Session-Id: fresh\r\n\r\n") + event(b"", b"1", 100) + LAST)
        else:
            assert request.get(b"mcp-session-id") == [b"fresh"]
            peer.send(SSE + event(DONE) + LAST)

    async def body(plane: Plane, transport: HttpTransport, heard: Heard, upstream: Upstream) -> None:
        reply = await call(transport, heard, headers=())
        assert reply.message == DONE and reply.header(b"mcp-session-id") == b"fresh"

    against(script, body)


@pytest.mark.parametrize("answer", [b"HTTP/1.1 405 No\r\nContent-Length: 0\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", b"nonsense\r\n"])
def test_a_stream_that_cannot_be_resumed(answer: bytes) -> None:
    def script(peer: Peer, request: Request) -> None:
        peer.send(SSE + event(b"", b"1", 100) + LAST if request.method == b"POST" else answer)

    async def body(plane: Plane, transport: HttpTransport, heard: Heard, upstream: Upstream) -> None:
        error = await failure(transport, heard)
        assert (error.kind, error.sent) == ("closed", True)
        assert len(upstream.requests) == 2 and heard.gaps == [100]

    against(script, body)


def test_patience_with_a_stream_that_gets_no_further() -> None:
    def script(peer: Peer, request: Request) -> None:
        if request.method == b"POST":
            peer.send(SSE + event(b"", b"1", 1) + LAST)
        else:
            # Progress once; then the same end again and again.
            peer.send(SSE + (event(NOTE % 1, b"2") if request.get(b"last-event-id") == [b"1"] else b"") + LAST)

    async def body(plane: Plane, transport: HttpTransport, heard: Heard, upstream: Upstream) -> None:
        assert (await failure(transport, heard)).kind == "closed"
        assert len(upstream.requests) == 1 + 1 + module.RESUME_ATTEMPTS and heard.own == [NOTE % 1]

    against(script, body)


# -------------------------------------------------------------------------------------------------------------------- send


@pytest.mark.parametrize("status", [b"202 Accepted", b"200 OK", b"204 No Content"])
def test_send(status: bytes) -> None:
    async def body(plane: Plane, transport: HttpTransport, heard: Heard, upstream: Upstream) -> None:
        await transport.send(NOTE % 1, headers=SESSION)
        await transport.send(NOTE % 2, headers=SESSION)
        assert [r.body for r in upstream.requests] == [NOTE % 1, NOTE % 2] and len(upstream.peers) == 1
        assert upstream.requests[0].get(b"mcp-session-id") == [b"s1"]

    def script(peer: Peer, request: Request) -> None:
        peer.send(b"HTTP/1.1 %b\r\n%b\r\n" % (status, b"" if b"204" in status else b"Content-Length: 0\r\n"))

    against(script, body)


def test_send_refused() -> None:
    async def body(plane: Plane, transport: HttpTransport, heard: Heard, upstream: Upstream) -> None:
        with pytest.raises(TransportError) as caught:
            await transport.send(NOTE % 1)
        assert (caught.value.kind, caught.value.status, caught.value.body) == ("status", 404, ERROR % b"null")

    against(lambda peer, request: peer.answer(body=ERROR % b"null", status=b"404 Not Found"), body)


# ------------------------------------------------------------------------------------------------------------------ listen


@pytest.mark.parametrize(("answer", "kind", "status"), [(b"405 Method Not Allowed", "status", 405), (b"404 Gone", "status", 404), (b"200 OK", "protocol", 0)])
def test_listening_refused(answer: bytes, kind: str, status: int) -> None:
    async def body(plane: Plane, transport: HttpTransport, heard: Heard, upstream: Upstream) -> None:
        with pytest.raises(TransportError) as caught:
            await transport.listen(SESSION)
        assert (caught.value.kind, caught.value.status) == (kind, status) and not heard.down
        assert upstream.requests[0].get(b"accept") == [b"text/event-stream"]

    against(lambda peer, request: peer.answer(body=b"{}", status=answer), body)


def test_listening_goes_on_behind_the_last_event() -> None:
    held = threading.Event()

    def script(peer: Peer, request: Request) -> None:
        last = request.get(b"last-event-id")
        if not last:
            peer.send(SSE + event(b"broken", b"0", 100) + event(NOTE % 1, b"1") + event(b"[%b,%b]" % (NOTE % 2, NOTE % 3)) + LAST)
        elif last == [b"1"]:
            # An event above the bound is skipped, its id is not.
            peer.send(SSE + event(b"x" * 3000, b"2") + event(NOTE % 4))
            peer.reset()
        else:
            assert last == [b"2"] and request.get(b"mcp-session-id") == [b"s1"]
            peer.send(SSE + event(NOTE % 5, b"3"))
            peer.pause(held)

    async def body(plane: Plane, transport: HttpTransport, heard: Heard, upstream: Upstream) -> None:
        await transport.listen(SESSION)
        await plane.until(lambda: len(heard.stray) == 6, "all messages")
        assert heard.stray == [b"broken", *(NOTE % number for number in range(1, 6))]
        assert len(upstream.requests) == 3 and not heard.down
        held.set()

    against(script, body, max_message_bytes=2000)


def test_listening_is_over_when_the_target_says_so() -> None:
    def script(peer: Peer, request: Request) -> None:
        if peer.index == 0 and len(peer.owner.requests) == 1:
            peer.send(SSE + event(b"", b"1", 100) + LAST)
        else:
            peer.answer(body=b"", status=b"404 Not Found")

    async def body(plane: Plane, transport: HttpTransport, heard: Heard, upstream: Upstream) -> None:
        await transport.listen(SESSION)
        await plane.until(lambda: heard.down, "the end")
        assert heard.down == ["the event stream was refused with HTTP status 404"] and len(upstream.requests) == 2

    against(script, body)


def test_listening_is_over_when_nothing_helps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LISTEN_ATTEMPTS", 2)
    monkeypatch.setattr(module, "MAX_RETRY_S", 0.1)

    def script(peer: Peer, request: Request) -> None:
        if len(peer.owner.requests) == 1:
            peer.send(SSE + event(b"", b"1", 100) + LAST)
        else:
            peer.answer(body=b"", status=b"503 Later")

    async def body(plane: Plane, transport: HttpTransport, heard: Heard, upstream: Upstream) -> None:
        await transport.listen(SESSION)
        await plane.until(lambda: heard.down, "the end")
        assert len(heard.down) == 1 and len(upstream.requests) == 3

    against(script, body)


def test_listening_again_replaces_the_stream() -> None:
    def script(peer: Peer, request: Request) -> None:
        peer.send(SSE)
        peer.until_eof()

    async def body(plane: Plane, transport: HttpTransport, heard: Heard, upstream: Upstream) -> None:
        await transport.listen(SESSION)
        await transport.listen([(b"Mcp-Session-Id", b"s2")])
        await plane.until(lambda: [p.closed.is_set() for p in upstream.peers] == [True, False], "the close of the first")
        assert not heard.down

    against(script, body)


def test_a_fault_of_the_owner_does_not_end_the_stream(caplog: pytest.LogCaptureFixture) -> None:
    async def body(plane: Plane, transport: HttpTransport, heard: Heard, upstream: Upstream) -> None:
        def take(message: bytes) -> None:
            heard.stray.append(message)
            if len(heard.stray) == 1:
                raise RuntimeError("a fault")

        transport.on_stray = take
        await transport.listen(SESSION)
        await plane.until(lambda: len(heard.stray) == 2, "the second message")

    def script(peer: Peer, request: Request) -> None:
        peer.send(SSE + event(NOTE % 1) + event(NOTE % 2))
        peer.until_eof()

    against(script, body)
    assert "internal error while taking a message" in caplog.text


# ------------------------------------------------------------------------------------------------------------------- close


def test_close_ends_everything() -> None:
    def script(peer: Peer, request: Request) -> None:
        if request.method == b"DELETE":
            peer.answer(body=b"", status=b"405 Method Not Allowed")
        else:
            if b"silent" not in request.body:
                peer.send(SSE + event(b"", b"1"))
            peer.until_eof()

    async def body(plane: Plane, transport: HttpTransport, heard: Heard, upstream: Upstream) -> None:
        await transport.listen(SESSION)
        running = [asyncio.ensure_future(call(transport, heard)), asyncio.ensure_future(transport.request(b"silent", b"8"))]
        await plane.until(lambda: len(upstream.requests) == 3, "the requests")
        await transport.close(SESSION)
        for task in running:
            with pytest.raises(TransportError) as caught:
                await task
            assert caught.value.kind == "closed"
        await plane.until(lambda: all(p.closed.is_set() for p in upstream.peers[:3]), "the close of all connections")
        request = upstream.requests[3]
        assert request.line == b"DELETE /mcp HTTP/1.1" and request.get(b"mcp-session-id") == [b"s1"]
        for attempt in (transport.request(CALL, b"7"), transport.send(CALL), transport.listen()):
            with pytest.raises(TransportError) as caught:
                await attempt
            assert (caught.value.kind, caught.value.sent) == ("closed", False)
        assert not heard.down and not heard.gaps and len(upstream.requests) == 4

    against(script, body)


def test_close_without_session_says_nothing() -> None:
    async def body(plane: Plane, transport: HttpTransport, heard: Heard, upstream: Upstream) -> None:
        await transport.close([(b"MCP-Protocol-Version", b"2026-07-28")])
        assert not upstream.requests and not upstream.peers

    against(lambda peer, request: None, body)


def test_close_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "DELETE_S", 0.3)

    async def body(plane: Plane, transport: HttpTransport, heard: Heard, upstream: Upstream) -> None:
        begin = plane.loop.time()
        await transport.close(SESSION)
        assert 0.29 <= plane.loop.time() - begin < 2

    against(lambda peer, request: peer.until_eof() and None, body)
