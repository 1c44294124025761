"""Whole answers and streams of one origin, against peers that delay, cut, compress and overdo."""

from __future__ import annotations

import asyncio
import gzip
import threading
import zlib
from collections.abc import Awaitable, Callable

import pytest

from agw.mcp.transport import TransportError
from agw.runtime import origin as module
from agw.runtime.coding import PIECE, CodingError, Inflater
from agw.runtime.origin import Answer, Origin
from tests.kits.plane import Plane, refused_host, run
from tests.peers.upstream import Peer, Upstream

Body = Callable[[Plane, Origin, Upstream], Awaitable[None]]


def against(script: Callable[[Peer], None], body: Body) -> None:
    with Upstream(script) as upstream:

        async def whole(plane: Plane) -> None:
            await body(plane, plane.origin(upstream.host), upstream)

        run(whole)
        upstream.check()


async def get(origin: Origin, *, timeout_s: float = 5, max_bytes: int = 1 << 20) -> Answer:
    return await origin.fetch(b"GET", b"/x", [(b"Accept", b"*/*")], None, timeout_s=timeout_s, max_bytes=max_bytes)


async def failure(origin: Origin, *, timeout_s: float = 5, max_bytes: int = 1 << 20) -> TransportError:
    with pytest.raises(TransportError) as caught:
        await get(origin, timeout_s=timeout_s, max_bytes=max_bytes)
    return caught.value


@pytest.mark.parametrize("status", [b"200 OK", b"404 Not Found", b"500 Oh"])
def test_whole_answers_of_any_status(status: bytes) -> None:
    async def body(plane: Plane, origin: Origin, upstream: Upstream) -> None:
        for _ in range(2):
            answer = await get(origin)
            assert (answer.status, answer.body) == (int(status[:3]), b"content") and answer.header(b"x-a") == b"b" and answer.header(b"x-b") is None
        assert len(upstream.peers) == 1 and upstream.requests[0].get(b"accept") == [b"*/*"]

    against(lambda peer: peer.serve(b"content", status=status, head=b"X-A: b\r\n"), body)


@pytest.mark.parametrize("status", [b"301 Moved", b"302 Found", b"307 Temporary", b"308 Permanent"])
def test_redirects_are_not_followed(status: bytes) -> None:
    async def body(plane: Plane, origin: Origin, upstream: Upstream) -> None:
        error = await failure(origin)
        assert (error.kind, error.status) == ("status", int(status[:3])) and (b"location", b"http://127.0.0.1:1/") in error.headers
        assert len(upstream.requests) == 1

    against(lambda peer: peer.serve(b"", status=status, head=b"Location: http://127.0.0.1:1/\r\n"), body)


@pytest.mark.parametrize(
    ("octets", "kind"),
    [
        (b"", "closed"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf", "closed"),
        (b"nonsense\r\n\r\n", "protocol"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz", "protocol"),
        (b"HTTP/1.1 200 OK\r\nContent-Encoding: br\r\nContent-Length: 1\r\n\r\nx", "protocol"),
        (b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip, gzip\r\nContent-Length: 1\r\n\r\nx", "protocol"),
        (b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 5\r\n\r\nhello", "protocol"),
    ],
)
def test_broken_answers(octets: bytes, kind: str) -> None:
    def script(peer: Peer) -> None:
        peer.request()
        peer.send(octets)

    async def body(plane: Plane, origin: Origin, upstream: Upstream) -> None:
        error = await failure(origin)
        assert (error.kind, error.sent) == (kind, True)

    against(script, body)


def test_never_connected() -> None:
    async def body(plane: Plane) -> None:
        error = await failure(plane.origin(refused_host()))
        assert (error.kind, error.sent) == ("connect", False)

    run(body)


def test_a_request_that_cannot_be_written() -> None:
    async def body(plane: Plane, origin: Origin, upstream: Upstream) -> None:
        with pytest.raises(TransportError) as caught:
            await origin.open(b"GET", b"/", [(b"X", b"a\r\nY: b")], None, timeout_s=1)
        assert (caught.value.kind, caught.value.sent) == ("protocol", False)

    against(lambda peer: peer.serve(), body)


def test_the_time_is_for_all_of_an_answer() -> None:
    stop = threading.Event()

    def script(peer: Peer) -> None:
        peer.request()
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
        peer.trickle(b"x" * 1000, 0.05, stop)

    async def body(plane: Plane, origin: Origin, upstream: Upstream) -> None:
        error = await failure(origin, timeout_s=0.4)
        assert error.kind == "timeout"
        stop.set()

    against(script, body)


def test_an_answer_above_the_bound() -> None:
    async def body(plane: Plane, origin: Origin, upstream: Upstream) -> None:
        assert len((await get(origin, max_bytes=1000)).body) == 1000
        assert (await failure(origin, max_bytes=999)).kind == "limit"
        await plane.until(lambda: upstream.peers[0].closed.is_set() or origin.cluster.idle_count(), "the end of the connection")

    against(lambda peer: peer.serve(b"x" * 1000), body)


def raw_deflate(data: bytes) -> bytes:
    machine = zlib.compressobj(wbits=-15)
    return machine.compress(data) + machine.flush()


TEXT = b"some text, " * 500
CODED = {
    "gzip": (b"gzip", gzip.compress(TEXT)),
    "x-gzip": (b"X-GZip", gzip.compress(TEXT)),
    "gzip-members": (b"gzip", gzip.compress(TEXT[:100]) + gzip.compress(b"") + gzip.compress(TEXT[100:])),
    "deflate": (b"deflate", zlib.compress(TEXT)),
    "deflate-bare": (b"deflate", raw_deflate(TEXT)),
    "identity": (b"identity", TEXT),
}


@pytest.mark.parametrize("step", [1 << 20, 1])
@pytest.mark.parametrize("name", CODED)
def test_content_codings(name: str, step: int) -> None:
    coding, coded = CODED[name]

    def script(peer: Peer) -> None:
        peer.request()
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Encoding: %b\r\nTransfer-Encoding: chunked\r\n\r\n" % coding)
        for start in range(0, len(coded), step):
            piece = coded[start : start + step]
            peer.send(b"%x\r\n%b\r\n" % (len(piece), piece))
        peer.send(b"0\r\n\r\n")

    async def body(plane: Plane, origin: Origin, upstream: Upstream) -> None:
        assert (await get(origin)).body == TEXT

    against(script, body)


def test_a_bomb_costs_its_bound() -> None:
    bomb = gzip.compress(b"\0" * (64 << 20))

    async def body(plane: Plane, origin: Origin, upstream: Upstream) -> None:
        assert (await failure(origin, max_bytes=1 << 20)).kind == "limit"

    against(lambda peer: peer.serve(bomb, head=b"Content-Encoding: gzip\r\n"), body)


@pytest.mark.parametrize("coded", [gzip.compress(TEXT)[:-1], gzip.compress(TEXT) + b"x", gzip.compress(TEXT)[:12]])
def test_cut_and_overlong_codings(coded: bytes) -> None:
    async def body(plane: Plane, origin: Origin, upstream: Upstream) -> None:
        assert (await failure(origin)).kind == "protocol"

    against(lambda peer: peer.serve(coded, head=b"Content-Encoding: gzip\r\n"), body)


def test_no_body_needs_no_coding() -> None:
    async def body(plane: Plane, origin: Origin, upstream: Upstream) -> None:
        assert (await get(origin)).body == b""

    against(lambda peer: peer.serve(b"", head=b"Content-Encoding: gzip\r\n"), body)


def test_pieces_of_an_inflater_are_bounded() -> None:
    inflater = Inflater(b"gzip")
    inflater.put(gzip.compress(b"a" * (PIECE * 3 + 5)))
    sizes = []
    while piece := inflater.take():
        sizes.append(len(piece))
    inflater.finish()
    assert sum(sizes) == PIECE * 3 + 5 and max(sizes) <= PIECE
    with pytest.raises(CodingError):
        Inflater(b"zstd")


def test_a_slow_reader_stops_the_target() -> None:
    size = 24 << 20
    done = threading.Event()

    def script(peer: Peer) -> None:
        peer.request()
        peer.answer(body=b"z" * size)
        done.set()

    async def body(plane: Plane, origin: Origin, upstream: Upstream) -> None:
        stream = await origin.open(b"GET", b"/", (), None, timeout_s=20)
        await asyncio.sleep(0.3)
        assert not done.is_set()
        total = 0
        while data := await stream.read():
            assert len(data) <= 200_000
            total += len(data)
        assert total == size and stream.ended
        assert await stream.read() == b""

    against(script, body)


def test_cancelling_the_reader_closes_the_connection() -> None:
    async def body(plane: Plane, origin: Origin, upstream: Upstream) -> None:
        task = asyncio.ensure_future(get(origin))
        await plane.until(lambda: upstream.requests, "the request")
        task.cancel()
        await asyncio.wait((task,))
        assert task.cancelled()
        await plane.until(upstream.peers[0].closed.is_set, "the close")

    def script(peer: Peer) -> None:
        peer.request()
        peer.until_eof()

    against(script, body)


def test_lingering_ends_by_itself_or_by_its_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LINGER_S", 0.3)
    go = threading.Event()

    def script(peer: Peer) -> None:
        for number in range(3):
            peer.request()
            peer.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n")
            if number == 0:
                peer.pause(go)
                peer.send(b"0\r\n\r\n")
            elif peer.index == 0:
                # Octets without end: the bound, not the time, closes.
                peer.until_eof() if number == 2 else peer.send(b"%x\r\n%b\r\n" % (200000, b"x" * 200000))
                peer.until_eof()

    async def body(plane: Plane, origin: Origin, upstream: Upstream) -> None:
        async def opened() -> None:
            stream = await origin.open(b"GET", b"/", (), None, timeout_s=5)
            assert await stream.read()
            stream.linger()
            assert stream.lingering

        await opened()
        go.set()
        await plane.until(origin.cluster.idle_count, "the end of the answer")
        await opened()
        await plane.until(upstream.peers[0].closed.is_set, "the bound on octets")
        assert not origin.lingering and len(upstream.peers) == 1

    against(script, body)


def test_lingering_has_a_bound_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LINGER_S", 0.2)

    def script(peer: Peer) -> None:
        peer.request()
        peer.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n")
        peer.until_eof()

    async def body(plane: Plane, origin: Origin, upstream: Upstream) -> None:
        stream = await origin.open(b"GET", b"/", (), None, timeout_s=5)
        stream.linger()
        await plane.until(upstream.peers[0].closed.is_set, "the close", 2)
        assert not origin.lingering

    against(script, body)
