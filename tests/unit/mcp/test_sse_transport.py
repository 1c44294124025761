"""HTTP+SSE of 2024-11-05 against raw peers: the endpoint, the shared stream, its loss."""

from __future__ import annotations

import asyncio
import re
import threading
from collections.abc import Awaitable, Callable

import pytest

from agw._fast.pool import Cluster
from agw.mcp.transport import Headers, TransportError
from agw.mcp.transports import sse as module
from agw.mcp.transports.sse import SseTransport, endpoint_path
from agw.runtime.origin import Origin
from agw.runtime.plan import ClusterPlan, TlsClientPlan
from tests.kits.plane import Plane, refused_host, run
from tests.peers.upstream import Peer, Request, Upstream

CALL = b'{"jsonrpc":"2.0","id":%d,"method":"tools/call","params":{"name":"x"}}'
DONE = b'{"jsonrpc":"2.0","id":%d,"result":{"ok":true}}'
NOTE = b'{"jsonrpc":"2.0","method":"notifications/progress","params":{"progress":%d}}'
ERROR = b'{"jsonrpc":"2.0","id":%b,"error":{"code":-32602,"message":"no"}}'
SSE = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n"
AUTH: Headers = [(b"Authorization", b"Bearer z")]


def event(data: bytes, kind: bytes = b"message") -> bytes:
    return b"event: %b\ndata: %b\n\n" % (kind, data)


class Server:
    """A target of 2024-11-05: `stream` says what the GET brings first, `post` what a POST does. Octets go out by `push`."""

    def __init__(self, stream: bytes = SSE + event(b"/messages?s=1", b"endpoint"), post: Callable[[Server, Peer, Request], None] | None = None) -> None:
        self.stream = stream
        self.post = post or Server.echo
        self.streams: list[Peer] = []
        self.closing = threading.Event()

    def __call__(self, peer: Peer) -> None:
        while True:
            request = peer.request()
            if request.method == b"GET":
                self.streams.append(peer)
                peer.send(self.stream)
                if self.stream.startswith(SSE):
                    peer.until_eof()
                    return
            else:
                self.post(self, peer, request)

    def push(self, octets: bytes) -> None:
        self.streams[-1].send(octets)

    def echo(self, peer: Peer, request: Request) -> None:
        """202, and the response on the stream."""
        peer.answer(body=b"Accepted", status=b"202 Accepted")
        found = re.search(rb'"id":(\d+)', request.body)
        if found:
            self.push(event(DONE % int(found[1])))


class Heard:
    def __init__(self, transport: SseTransport) -> None:
        self.stray: list[bytes] = []
        self.down: list[str] = []
        transport.on_stray = self.stray.append
        transport.on_down = self.down.append


Body = Callable[[Plane, SseTransport, Heard, Upstream], Awaitable[None]]


def against(server: Callable[[Peer], None], body: Body, *, max_message_bytes: int = 1 << 20, max_in_flight: int = 100) -> None:
    with Upstream(server) as upstream:

        async def whole(plane: Plane) -> None:
            transport = SseTransport(plane.origin(upstream.host), b"/v1/sse", max_message_bytes=max_message_bytes, max_in_flight=max_in_flight)
            heard = Heard(transport)
            await body(plane, transport, heard, upstream)
            await transport.close()

        run(whole)
        upstream.check()


async def call(transport: SseTransport, number: int = 7, timeout_s: float = 5.0) -> bytes:
    reply = await transport.request(CALL % number, b"%d" % number, headers=AUTH, timeout_s=timeout_s)
    return reply.message


async def failure(awaited: Awaitable[object]) -> TransportError:
    with pytest.raises(TransportError) as caught:
        await awaited
    return caught.value


# --------------------------------------------------------------------------------------------------------------- endpoint


@pytest.mark.parametrize(
    ("named", "path"),
    [
        (b"/messages?s=1", b"/messages?s=1"),
        (b"messages/", b"/v1/messages/"),
        (b"?s=1", b"/v1/sse?s=1"),
        (b"../m", b"/m"),
        (b"http://h.example/m", b"/m"),
        (b"HTTP://H.Example:80/m?a=b#part", b"/m?a=b"),
        (b"//h.example/m", b"/m"),
        (b"http://h.example", b"/"),
    ],
)
def test_endpoints(named: bytes, path: bytes) -> None:
    assert endpoint_path("http://h.example/v1/sse", named) == path


@pytest.mark.parametrize(
    "named",
    [
        b"http://evil.example/m",
        b"//evil.example/m",
        b"https://h.example/m",
        b"http://h.example:8080/m",
        b"http://h.example.evil/m",
        b"http://user@h.example/m",
        b"http://h.example@evil/m",
        b"http://h.example:x/m",
        b"http://[::1/m",
        b"\\\\evil.example/m" + b"\xff",
        b"javascript:x",
        b"file:///etc/passwd",
        b"mailto:x",
    ],
)
def test_endpoints_elsewhere(named: bytes) -> None:
    with pytest.raises(TransportError) as caught:
        endpoint_path("http://h.example/v1/sse", named)
    assert caught.value.kind == "protocol"


def test_the_scheme_is_that_of_the_connection() -> None:
    async def body(plane: Plane) -> None:
        for tls, scheme in ((None, "http"), (TlsClientPlan(server_name="h.example"), "https")):
            cluster = Cluster(ClusterPlan(name="x", host="h.example", port=9, authority="h.example:9", tls=tls), 0)
            transport = SseTransport(Origin(plane.context, cluster), b"/sse")
            assert endpoint_path(transport._base, f"{scheme}://h.example:9/m".encode()) == b"/m"
            with pytest.raises(TransportError):
                endpoint_path(transport._base, f"{'https' if tls is None else 'http'}://h.example:9/m".encode())

    run(body)


def test_opened_by_the_first_request_only() -> None:
    server = Server(SSE + b": hello\n\n" + event(b"/messages?s=1", b"endpoint"))

    async def body(plane: Plane, transport: SseTransport, heard: Heard, upstream: Upstream) -> None:
        await transport.listen(AUTH)
        assert not upstream.peers
        assert await asyncio.gather(call(transport, 1), call(transport, 2)) == [DONE % 1, DONE % 2]
        await transport.send(NOTE % 1, headers=AUTH)
        assert sorted(r.line for r in upstream.requests) == [b"GET /v1/sse HTTP/1.1", *[b"POST /messages?s=1 HTTP/1.1"] * 3]
        get = upstream.requests[0]
        assert get.get(b"accept") == [b"text/event-stream"] and get.get(b"authorization") == [b"Bearer z"]
        post = upstream.requests[-1]
        assert post.body == NOTE % 1 and post.get(b"content-type") == [b"application/json"] and post.get(b"authorization") == [b"Bearer z"]
        assert not heard.stray and not heard.down

    against(server, body)


@pytest.mark.parametrize(
    ("stream", "kind", "status"),
    [
        (SSE + event(b"http://127.0.0.1:1/m", b"endpoint"), "protocol", 0),
        (b"HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\nno", "status", 404),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}", "protocol", 0),
        (b"HTTP/1.1 307 There\r\nLocation: /x\r\nContent-Length: 0\r\n\r\n", "status", 307),
        (b"nonsense\r\n\r\n", "protocol", 0),
    ],
)
def test_streams_that_are_not_opened(stream: bytes, kind: str, status: int) -> None:
    async def body(plane: Plane, transport: SseTransport, heard: Heard, upstream: Upstream) -> None:
        error = await failure(call(transport))
        assert (error.kind, error.status, error.sent) == (kind, status, False)
        assert not heard.down and all(r.method == b"GET" for r in upstream.requests)
        # Nothing is remembered of the failure.
        assert (await failure(call(transport))).kind == kind
        assert len(upstream.requests) == 2

    against(Server(stream), body)


def test_a_stream_that_ends_before_its_endpoint() -> None:
    def server(peer: Peer) -> None:
        peer.request()
        peer.send(SSE + event(NOTE % 1))

    async def body(plane: Plane, transport: SseTransport, heard: Heard, upstream: Upstream) -> None:
        error = await failure(call(transport))
        assert (error.kind, error.sent) == ("closed", False)

    against(server, body)


def test_the_wait_for_the_endpoint_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "OPEN_S", 0.3)

    async def body(plane: Plane, transport: SseTransport, heard: Heard, upstream: Upstream) -> None:
        first, second = asyncio.ensure_future(failure(call(transport, 1))), asyncio.ensure_future(failure(call(transport, 2)))
        assert ((await first).kind, (await second).sent) == ("timeout", False)
        assert len(upstream.requests) == 1
        await plane.until(upstream.peers[0].closed.is_set, "the close")

    against(Server(SSE), body)


def test_nobody_listens() -> None:
    async def body(plane: Plane) -> None:
        transport = SseTransport(plane.origin(refused_host()), b"/sse")
        for attempt in (call(transport), transport.send(NOTE % 1)):
            error = await failure(attempt)
            assert (error.kind, error.sent) == ("connect", False)
        await transport.close()

    run(body)


# ---------------------------------------------------------------------------------------------------------- shared stream


def test_responses_by_id_and_everything_else_to_the_owner() -> None:
    ping = b'{"jsonrpc":"2.0","id":1,"method":"ping"}'

    def post(server: Server, peer: Peer, request: Request) -> None:
        peer.answer(body=b"", status=b"202 Accepted")
        if b'"id":2' in request.body:
            # In the other order, with all sorts of things between, cut anywhere; nobody waits for 9.
            octets = (
                event(NOTE % 1) + event(DONE % 2) + event(DONE % 9) + event(b"no json") + event(b"x", b"other") + event(ERROR % b"null") + event(ping)
                + event(b"/elsewhere", b"endpoint") + event(b"[%b,%b]" % (NOTE % 2, DONE % 1))
            )
            for start in range(0, len(octets), 5):
                server.push(octets[start : start + 5])

    async def body(plane: Plane, transport: SseTransport, heard: Heard, upstream: Upstream) -> None:
        first = asyncio.ensure_future(call(transport, 1))
        await plane.until(lambda: len(upstream.requests) == 2, "the first request")
        assert await call(transport, 2) == DONE % 2
        assert await first == DONE % 1
        assert heard.stray == [NOTE % 1, ERROR % b"null", ping, NOTE % 2]

    against(Server(post=post), body)


def test_the_response_may_overtake_the_answer_to_the_post() -> None:
    held = threading.Event()

    def post(server: Server, peer: Peer, request: Request) -> None:
        server.push(event(DONE % 7))
        peer.pause(held)
        peer.answer(body=b"", status=b"202 Accepted")

    async def body(plane: Plane, transport: SseTransport, heard: Heard, upstream: Upstream) -> None:
        assert await call(transport) == DONE % 7
        held.set()

    against(Server(post=post), body)


def test_a_message_behind_the_endpoint_in_one_segment() -> None:
    async def body(plane: Plane, transport: SseTransport, heard: Heard, upstream: Upstream) -> None:
        assert await call(transport) == DONE % 7
        assert heard.stray == [NOTE % 1]

    against(Server(SSE + event(b"/m", b"endpoint") + event(NOTE % 1)), body)


@pytest.mark.parametrize("ident", [b"7", b"null"])
def test_a_refused_post_may_be_a_response(ident: bytes) -> None:
    def post(server: Server, peer: Peer, request: Request) -> None:
        peer.answer(body=ERROR % ident, status=b"400 Bad Request")

    async def body(plane: Plane, transport: SseTransport, heard: Heard, upstream: Upstream) -> None:
        reply = await transport.request(CALL % 7, b"7", timeout_s=5)
        assert (reply.message, reply.status) == (ERROR % ident, 400)

    against(Server(post=post), body)


def test_a_refused_post() -> None:
    def post(server: Server, peer: Peer, request: Request) -> None:
        peer.answer(body=b"unknown session", status=b"404 Not Found")

    async def body(plane: Plane, transport: SseTransport, heard: Heard, upstream: Upstream) -> None:
        for attempt in (call(transport), transport.send(NOTE % 1)):
            error = await failure(attempt)
            assert (error.kind, error.status, error.body, error.sent) == ("status", 404, b"unknown session", True)
        assert not heard.down

    against(Server(post=post), body)


def silent(server: Server, peer: Peer, request: Request) -> None:
    peer.answer(body=b"", status=b"202 Accepted")


def test_time_and_touch() -> None:
    async def body(plane: Plane, transport: SseTransport, heard: Heard, upstream: Upstream) -> None:
        begin = plane.loop.time()
        waiting = asyncio.ensure_future(failure(call(transport, timeout_s=0.4)))
        await asyncio.sleep(0.25)
        transport.touch(b"7")
        transport.touch(b"8")
        error = await waiting
        assert (error.kind, error.sent) == ("timeout", True)
        assert 0.6 <= plane.loop.time() - begin < 3
        # A late response is nobody's.
        server.push(event(DONE % 7) + event(NOTE % 1))
        await plane.until(lambda: heard.stray, "the notification")
        assert heard.stray == [NOTE % 1] and not heard.down

    server = Server(post=silent)
    against(server, body)


def test_a_request_given_up_is_forgotten() -> None:
    async def body(plane: Plane, transport: SseTransport, heard: Heard, upstream: Upstream) -> None:
        task = asyncio.ensure_future(call(transport))
        await plane.until(lambda: len(upstream.requests) == 2, "the request")
        task.cancel()
        await asyncio.wait((task,))
        assert task.cancelled()
        server.push(event(DONE % 7) + event(NOTE % 1))
        await plane.until(lambda: heard.stray, "the notification")
        # The id is free again.
        again = asyncio.ensure_future(call(transport))
        await plane.until(lambda: len(upstream.requests) == 3, "the request")
        server.push(event(DONE % 7))
        assert await again == DONE % 7 and len(server.streams) == 1

    server = Server(post=silent)
    against(server, body)


def test_bounds() -> None:
    async def body(plane: Plane, transport: SseTransport, heard: Heard, upstream: Upstream) -> None:
        running = [asyncio.ensure_future(failure(call(transport, number))) for number in (1, 2)]
        await plane.until(lambda: len(upstream.requests) == 3, "the requests")
        for number in (1, 3):
            error = await failure(call(transport, number))
            assert (error.kind, error.sent) == ("limit", False)
        # An event above the bound may have been anybody's response.
        server.push(event(b"x" * 3000))
        assert [(await task).kind for task in running] == ["limit", "limit"]
        assert not heard.down and len(server.streams) == 1

    server = Server(post=silent)
    against(server, body, max_in_flight=2, max_message_bytes=2000)


# ------------------------------------------------------------------------------------------------------------ loss, close


def test_loss_fails_what_is_in_flight_and_the_next_request_opens_again() -> None:
    def post(server: Server, peer: Peer, request: Request) -> None:
        if len(server.streams) == 1 and b'"id":2' in request.body:
            server.streams[0].half_close()
        elif len(server.streams) == 1:
            silent(server, peer, request)
        else:
            server.echo(peer, request)

    async def body(plane: Plane, transport: SseTransport, heard: Heard, upstream: Upstream) -> None:
        first = asyncio.ensure_future(failure(call(transport, 1)))
        await plane.until(lambda: len(upstream.requests) == 2, "the first request")
        second = await failure(call(transport, 2))
        assert [(e.kind, e.sent) for e in (await first, second)] == [("closed", True)] * 2
        assert heard.down == ["the event stream ended"]
        assert await call(transport, 3) == DONE % 3
        assert len(server.streams) == 2 and len(heard.down) == 1

    server = Server(post=post)
    against(server, body)


def test_close() -> None:
    async def body(plane: Plane, transport: SseTransport, heard: Heard, upstream: Upstream) -> None:
        running = asyncio.ensure_future(failure(call(transport)))
        await plane.until(lambda: len(upstream.requests) == 2, "the request")
        await transport.close(AUTH)
        assert (await running).kind == "closed"
        await plane.until(upstream.peers[0].closed.is_set, "the close of the stream")
        for attempt in (call(transport), transport.send(NOTE % 1)):
            error = await failure(attempt)
            assert (error.kind, error.sent) == ("closed", False)
        assert not heard.down and len(upstream.requests) == 2

    against(Server(post=silent), body)


def test_close_while_it_opens() -> None:
    async def body(plane: Plane, transport: SseTransport, heard: Heard, upstream: Upstream) -> None:
        running = asyncio.ensure_future(failure(call(transport)))
        await plane.until(lambda: upstream.requests, "the GET")
        await transport.close()
        error = await running
        assert (error.kind, error.sent) == ("closed", False)

    against(Server(SSE), body)
