"""The gateway's own requests: what goes out, what the sink hears, and which connections live on."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agw._fast.fetch import Fetch
from agw._fast.pool import Cluster
from agw.runtime.plan import ClusterPlan
from tests.kits.plane import Plane, refused_host, run
from tests.peers.upstream import Blackhole, Peer, Upstream

SECOND = 1_000_000_000


class Recorder:
    """A sink that remembers, and does what a test asks it to do inside a callback."""

    def __init__(self, **actions: Callable[[], object]) -> None:
        self.status = 0
        self.headers: list[tuple[bytes, bytes]] = []
        self.pieces: list[bytes] = []
        self.ends: list[tuple[str | None, bool]] = []
        self.calls: list[str] = []
        self.actions = actions
        self.over = asyncio.Event()

    def on_head(self, status: int, headers: list[tuple[bytes, bytes]], /) -> None:
        self.calls.append("head")
        self.status, self.headers = status, headers
        self.actions.get("head", lambda: None)()

    def on_data(self, data: bytes, /) -> None:
        assert data
        self.calls.append("data")
        self.pieces.append(data)
        self.actions.get("data", lambda: None)()

    def on_end(self, problem: str | None, sent: bool, /) -> None:
        self.calls.append("end")
        self.ends.append((problem, sent))
        self.over.set()
        self.actions.get("end", lambda: None)()

    @property
    def body(self) -> bytes:
        return b"".join(self.pieces)

    def check(self) -> None:
        """At most one head, first; exactly one end, last."""
        assert self.calls[-1] == "end" and self.calls.count("end") == 1
        assert "head" not in self.calls[1:] and ("data" not in self.calls or self.calls[0] == "head")


async def fetched(
    plane: Plane, cluster: Cluster, method: bytes = b"GET", path: bytes = b"/", lines: bytes = b"", body: bytes | None = None, timeout: float = 5.0,
    recorder: Recorder | None = None,
) -> Recorder:
    recorder = recorder or Recorder()
    fetch = Fetch(plane.context, cluster, method, path, lines, body, recorder, int(timeout * SECOND))
    await asyncio.wait_for(recorder.over.wait(), 10)
    recorder.check()
    del fetch
    return recorder


def against(script: Callable[[Peer], None], body: Callable[[Plane, Cluster, Upstream], Any], **plan: Any) -> None:
    """Run `body` against an upstream with `script`; what the script raised is raised here."""
    with Upstream(script) as upstream:

        async def whole(plane: Plane) -> None:
            await body(plane, plane.cluster(upstream.host, **plan), upstream)

        run(whole)
        upstream.check()


def raw(*answers: bytes) -> Callable[[Peer], None]:
    """A script that reads a request and sends octets as they stand, once per answer, then closes."""

    def script(peer: Peer) -> None:
        for octets in answers:
            peer.request()
            peer.send(octets)

    return script


# --------------------------------------------------------------------------------------------------------------- request


def test_what_goes_out() -> None:
    async def body(plane: Plane, cluster: Cluster, upstream: Upstream) -> None:
        await fetched(plane, cluster, b"POST", b"/mcp?x=1", b"Accept: text/event-stream\r\nX-Empty:\r\n", b'{"a":1}')
        await fetched(plane, cluster, b"GET", b"/")
        await fetched(plane, cluster, b"POST", b"/none", b"", None)
        await fetched(plane, cluster, b"POST", b"/empty", b"", b"")
        host = b"Host: " + upstream.authority + b"\r\n"
        assert [r.wire for r in upstream.requests] == [
            b"POST /mcp?x=1 HTTP/1.1\r\n" + host + b"Accept: text/event-stream\r\nX-Empty:\r\nContent-Length: 7\r\n\r\n" + b'{"a":1}',
            b"GET / HTTP/1.1\r\n" + host + b"\r\n",
            b"POST /none HTTP/1.1\r\n" + host + b"Content-Length: 0\r\n\r\n",
            b"POST /empty HTTP/1.1\r\n" + host + b"Content-Length: 0\r\n\r\n",
        ]
        assert len(upstream.peers) == 1

    def serve(peer: Peer) -> None:
        # `X-Empty:` has no blank behind its colon, which the peer's reader of fields would not take.
        for _ in range(4):
            request = peer.head()
            if b"Content-Length: 7" in request.head:
                request.body = peer.read(7)
                request.wire += request.body
            peer.owner.keep(request)
            peer.answer()

    against(serve, body)


def test_host_of_a_unix_socket(tmp_path: Path) -> None:
    with Upstream(unix=str(tmp_path / "s")) as upstream:

        async def body(plane: Plane) -> None:
            assert (await fetched(plane, plane.cluster(upstream.host))).body == b"ok"
            assert upstream.requests[0].get(b"host") == [b"localhost"]

        run(body)


@pytest.mark.parametrize(
    ("method", "path", "lines"),
    [
        (b"GET", b"", b""),
        (b"GET", b"x", b""),
        (b"GET", b"http://h/", b""),
        (b"GET", b"/a b", b""),
        (b"GET", b"/a\r\nX: y", b""),
        (b"GET", b"/a#b", b""),
        (b"GET", b"/\xc3\xa4", b""),
        (b"GE T", b"/", b""),
        (b"", b"/", b""),
        (b"CONNECT", b"/", b""),
        (b"GET", b"/", b"A: b"),
        (b"GET", b"/", b"A: b\n"),
        (b"GET", b"/", b"A: b\r\n\r\n"),
        (b"GET", b"/", b"A: b\rc\r\n"),
        (b"GET", b"/", b"A: b\0\r\n"),
        (b"GET", b"/", b": b\r\n"),
        (b"GET", b"/", b"A : b\r\n"),
        (b"GET", b"/", b"A\r\n"),
        (b"GET", b"/", b"host: evil\r\n"),
        (b"GET", b"/", b"Content-Length: 5\r\n"),
        (b"GET", b"/", b"A: b\r\nTransfer-Encoding: chunked\r\n"),
        (b"GET", b"/", b"CONNECTION: close\r\n"),
    ],
)
def test_requests_that_are_not_written(method: bytes, path: bytes, lines: bytes) -> None:
    async def body(plane: Plane, cluster: Cluster, upstream: Upstream) -> None:
        with pytest.raises(ValueError):
            Fetch(plane.context, cluster, method, path, lines, None, Recorder())
        assert cluster.connections == 0 and cluster.waiting_count() == 0

    against(lambda peer: None, body)


def test_a_cluster_without_reactor_is_refused() -> None:
    async def body(plane: Plane) -> None:
        with pytest.raises(ValueError, match="attached"):
            Fetch(plane.context, Cluster(ClusterPlan(name="x", authority="x"), 0), b"GET", b"/", b"", None, Recorder())

    run(body)


# ---------------------------------------------------------------------------------------------------------------- answer

WHOLE = [
    (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX-A:  b \r\n\r\nhello", 200, b"hello", True),
    (b"HTTP/1.1 204 No Content\r\n\r\n", 204, b"", True),
    (b"HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n", 304, b"", True),
    (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n3;x=y\r\nllo\r\n0\r\nT: t\r\n\r\n", 200, b"hello", True),
    (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", 200, b"ok", True),
    (b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok", 200, b"ok", False),
    (b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok", 200, b"ok", False),
    (b"HTTP/1.1 200 OK\r\n\r\nuntil the end", 200, b"until the end", False),
    (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\n", 200, b"ok", False),
]


@pytest.mark.parametrize("pieces", ["whole", "octets"])
@pytest.mark.parametrize(("octets", "status", "content", "keeps"), WHOLE)
def test_whole_answers(octets: bytes, status: int, content: bytes, keeps: bool, pieces: str) -> None:
    held = threading.Event()

    def script(peer: Peer) -> None:
        peer.request()
        for i in range(0, len(octets), 1 if pieces == "octets" else len(octets)):
            peer.send(octets[i : i + (1 if pieces == "octets" else len(octets))])
        if keeps:
            held.wait(10)

    async def body(plane: Plane, cluster: Cluster, upstream: Upstream) -> None:
        heard = await fetched(plane, cluster)
        assert (heard.status, heard.body, heard.ends) == (status, content, [(None, True)])
        if b"X-A" in octets:
            assert heard.headers == [(b"content-length", b"5"), (b"x-a", b"b")]
        if b"okHTTP" not in octets or pieces == "whole":
            assert cluster.idle_count() == int(keeps)
        held.set()

    against(script, body)


@pytest.mark.parametrize(
    ("octets", "problem"),
    [
        (b"", "reset"),
        (b"HTTP/1.1 200", "reset"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhel", "reset"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n", "reset"),
        (b"SSH-2.0-x\r\n", "protocol"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nxx", "protocol"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", "protocol"),
        (b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n", "protocol"),
        (b"HTTP/1.1 100 Continue\r\n\r\n" * 17 + b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", "protocol"),
        (b"HTTP/1.1 200 OK\r\nX: " + b"y" * 70000, "protocol"),
    ],
)
def test_broken_answers(octets: bytes, problem: str) -> None:
    async def body(plane: Plane, cluster: Cluster, upstream: Upstream) -> None:
        heard = await fetched(plane, cluster, b"POST", body=b"x")
        assert heard.ends == [(problem, True)]
        assert cluster.connections == 0

    against(raw(octets), body)


def test_data_before_the_break_arrives() -> None:
    async def body(plane: Plane, cluster: Cluster, upstream: Upstream) -> None:
        heard = await fetched(plane, cluster)
        assert heard.calls == ["head", "data", "end"] and heard.body == b"hello" and heard.ends == [("protocol", True)]

    against(raw(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nzz"), body)


def test_chunks_of_one_read_arrive_as_one_piece() -> None:
    async def body(plane: Plane, cluster: Cluster, upstream: Upstream) -> None:
        heard = await fetched(plane, cluster)
        assert heard.pieces == [b"abc" * 1000]

    against(raw(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"3\r\nabc\r\n" * 1000 + b"0\r\n\r\n"), body)


def test_head_has_no_body() -> None:
    async def body(plane: Plane, cluster: Cluster, upstream: Upstream) -> None:
        heard = await fetched(plane, cluster, b"HEAD")
        assert heard.calls == ["head", "end"] and heard.ends == [(None, True)]

    against(raw(b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n"), body)


def test_large_bodies_both_ways() -> None:
    size = 12 << 20

    def script(peer: Peer) -> None:
        peer.owner.record = False
        request = peer.request()
        peer.answer(request, request.body)

    async def body(plane: Plane, cluster: Cluster, upstream: Upstream) -> None:
        sent = bytes(range(256)) * (size // 256)
        heard = await fetched(plane, cluster, b"POST", body=sent)
        assert heard.body == sent

    against(script, body)


# ------------------------------------------------------------------------------------------------------------ connections


def test_connections_are_reused() -> None:
    async def body(plane: Plane, cluster: Cluster, upstream: Upstream) -> None:
        for _ in range(3):
            assert (await fetched(plane, cluster, b"POST", body=b"x")).body == b"ok"
        assert len(upstream.peers) == 1 and plane.gauge("upstream_reuses_total") == 2

    against(lambda peer: peer.serve(), body)


def test_the_next_request_may_start_inside_the_end() -> None:
    async def body(plane: Plane, cluster: Cluster, upstream: Upstream) -> None:
        second = Recorder()
        started: list[Fetch] = []
        first = Recorder(end=lambda: started.append(Fetch(plane.context, cluster, b"GET", b"/2", b"", None, second)))
        await fetched(plane, cluster, recorder=first)
        await asyncio.wait_for(second.over.wait(), 5)
        assert second.body == b"ok" and len(upstream.peers) == 1

    against(lambda peer: peer.serve(), body)


def test_a_pooled_connection_that_left_is_not_used() -> None:
    def script(peer: Peer) -> None:
        peer.answer(peer.request())
        if peer.index == 0:
            peer.half_close()
            peer.until_eof()

    async def body(plane: Plane, cluster: Cluster, upstream: Upstream) -> None:
        await fetched(plane, cluster, b"POST", body=b"1")
        await asyncio.to_thread(upstream.peers[0].closed.wait, 5)
        assert (await fetched(plane, cluster, b"POST", body=b"2")).ends == [(None, True)]
        assert [r.body for r in upstream.requests] == [b"1", b"2"]

    against(script, body)


def leaves_on_second_request(peer: Peer) -> None:
    peer.answer(peer.request())
    if peer.index == 0:
        peer.request()


@pytest.mark.parametrize("method", [b"GET", b"DELETE"])
def test_idempotent_requests_get_a_second_connection(method: bytes) -> None:
    async def body(plane: Plane, cluster: Cluster, upstream: Upstream) -> None:
        await fetched(plane, cluster, b"POST", body=b"1")
        heard = await fetched(plane, cluster, method, b"/again")
        assert heard.ends == [(None, True)] and heard.body == b"ok"
        assert [r.target for r in upstream.requests] == [b"/", b"/again", b"/again"]
        assert plane.gauge("retries_total") == 1

    against(leaves_on_second_request, body)


def test_a_post_is_never_sent_twice() -> None:
    async def body(plane: Plane, cluster: Cluster, upstream: Upstream) -> None:
        await fetched(plane, cluster, b"POST", body=b"1")
        assert (await fetched(plane, cluster, b"POST", body=b"2")).ends == [("reset", True)]
        assert [r.body for r in upstream.requests] == [b"1", b"2"]

    against(leaves_on_second_request, body)


def test_only_one_second_try_and_none_on_a_new_connection() -> None:
    def script(peer: Peer) -> None:
        if peer.index == 0:
            peer.answer(peer.request())
        peer.request()

    async def body(plane: Plane, cluster: Cluster, upstream: Upstream) -> None:
        await fetched(plane, cluster)
        assert (await fetched(plane, cluster)).ends == [("reset", True)]
        assert len(upstream.peers) == 2
        assert (await fetched(plane, cluster)).ends == [("reset", True)]
        assert len(upstream.peers) == 3

    against(script, body)


def test_an_early_answer_ends_the_request_and_the_connection() -> None:
    def script(peer: Peer) -> None:
        peer.head()
        peer.answer(status=b"413 Too Large")
        peer.until_eof()

    async def body(plane: Plane, cluster: Cluster, upstream: Upstream) -> None:
        heard = await fetched(plane, cluster, b"POST", body=b"x" * (64 << 20))
        assert heard.status == 413 and heard.ends == [(None, True)] and cluster.connections == 0

    against(script, body)


# ------------------------------------------------------------------------------------------------------- never connected


def test_nobody_listens() -> None:
    async def body(plane: Plane) -> None:
        heard = await fetched(plane, plane.cluster(refused_host()), b"POST", body=b"x")
        assert heard.ends == [("connect", False)]

    run(body)


def test_no_connection_in_time() -> None:
    hole = Blackhole()

    async def body(plane: Plane) -> None:
        heard = await fetched(plane, plane.cluster(hole.host, connect_timeout_ns=SECOND // 5))
        assert heard.ends == [("connect-timeout", False)]

    run(body)
    hole.close()


def test_a_name_without_address() -> None:
    async def body(plane: Plane) -> None:
        cluster = plane.cluster("nowhere.invalid:80")
        cluster.set_endpoints([])
        assert (await fetched(plane, cluster)).ends == [("dns", False)]

    run(body)


def test_the_queue_has_two_bounds() -> None:
    async def body(plane: Plane, cluster: Cluster, upstream: Upstream) -> None:
        first, waits, refused = Recorder(), Recorder(), Recorder()
        one = Fetch(plane.context, cluster, b"GET", b"/", b"", None, first)
        await plane.until(lambda: upstream.requests, "the first request")
        two = Fetch(plane.context, cluster, b"GET", b"/", b"", None, waits)
        await asyncio.sleep(0)
        three = Fetch(plane.context, cluster, b"GET", b"/", b"", None, refused)
        await asyncio.wait_for(refused.over.wait(), 5)
        assert refused.ends == [("queue", False)] and not waits.ends
        await asyncio.wait_for(waits.over.wait(), 5)
        assert waits.ends == [("queue", False)] and not first.ends
        one.cancel()
        del two, three

    held = threading.Event()

    def script(peer: Peer) -> None:
        peer.request()
        peer.until_eof()
        held.set()

    against(script, body, max_connections=1, max_pending=1, pending_timeout_ns=SECOND // 3)
    assert held.wait(5)


# ------------------------------------------------------------------------------------------------------------------ time


def test_no_head_in_time() -> None:
    async def body(plane: Plane, cluster: Cluster, upstream: Upstream) -> None:
        begin = plane.loop.time()
        assert (await fetched(plane, cluster, timeout=0.3)).ends == [("timeout", True)]
        assert 0.3 <= plane.loop.time() - begin < 2

    against(lambda peer: (peer.request(), peer.until_eof()), body)  # type: ignore[arg-type,return-value]


def test_the_clusters_time_out_is_the_default() -> None:
    async def body(plane: Plane, cluster: Cluster, upstream: Upstream) -> None:
        assert (await fetched(plane, cluster, timeout=0)).ends == [("timeout", True)]

    against(lambda peer: (peer.request(), peer.until_eof()), body, response_timeout_ns=SECOND // 4)  # type: ignore[arg-type,return-value]


def test_every_octet_restarts_the_time() -> None:
    stop = threading.Event()

    def script(peer: Peer) -> None:
        peer.request()
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n")
        peer.trickle(b"12345678", 0.15, stop)
        peer.until_eof()

    async def body(plane: Plane, cluster: Cluster, upstream: Upstream) -> None:
        heard = await fetched(plane, cluster, timeout=0.5)
        assert heard.body == b"12345678" and heard.ends == [("timeout", True)]

    against(script, body)


# ----------------------------------------------------------------------------------------------- cancel, pause, misconduct


def test_cancel_before_and_after_the_connection() -> None:
    async def body(plane: Plane, cluster: Cluster, upstream: Upstream) -> None:
        silent = Recorder()
        early = Fetch(plane.context, cluster, b"GET", b"/early", b"", None, silent)
        early.cancel()
        assert cluster.waiting_count() == 0
        later = Fetch(plane.context, cluster, b"GET", b"/later", b"", None, silent)
        await plane.until(lambda: upstream.requests, "the request")
        later.cancel()
        later.cancel()
        await plane.until(upstream.peers[-1].closed.is_set, "the close")
        assert not silent.calls and [r.target for r in upstream.requests] == [b"/later"]

    def script(peer: Peer) -> None:
        peer.request()
        peer.until_eof()

    against(script, body)


@pytest.mark.parametrize("where", ["head", "data", "end"])
def test_cancel_inside_a_callback(where: str) -> None:
    async def body(plane: Plane, cluster: Cluster, upstream: Upstream) -> None:
        running: list[Fetch] = []
        recorder = Recorder(**{where: lambda: [fetch.cancel() for fetch in running]})
        running.append(Fetch(plane.context, cluster, b"GET", b"/", b"", None, recorder))
        await plane.until(lambda: where in recorder.calls, where)
        other = await fetched(plane, cluster)
        assert other.body == b"ok"
        assert recorder.calls == ["head", "data", "end"][: ["head", "data", "end"].index(where) + 1]

    against(lambda peer: peer.serve(), body)


def test_a_paused_sink_stops_the_target() -> None:
    size = 24 << 20
    done = threading.Event()

    def script(peer: Peer) -> None:
        peer.request()
        peer.answer(body=b"z" * size)
        done.set()

    async def body(plane: Plane, cluster: Cluster, upstream: Upstream) -> None:
        running: list[Fetch] = []
        recorder = Recorder(head=lambda: [fetch.pause() for fetch in running])
        running.append(Fetch(plane.context, cluster, b"GET", b"/", b"", None, recorder, SECOND))
        await plane.until(lambda: recorder.calls, "the head")
        # Longer than the time-out: a pause is the consumer's, not the target's.
        await asyncio.sleep(1.6)
        assert not done.is_set() and not recorder.ends and len(recorder.body) <= 1 << 17
        running[0].resume()
        await asyncio.wait_for(recorder.over.wait(), 10)
        assert recorder.ends == [(None, True)] and len(recorder.body) == size
        running[0].pause()
        running[0].resume()

    against(script, body)


@pytest.mark.parametrize("where", ["head", "data", "end"])
def test_a_sink_that_raises_costs_its_own_request(where: str) -> None:
    def fault() -> None:
        raise RuntimeError("a fault of the sink")

    async def body(plane: Plane, cluster: Cluster, upstream: Upstream) -> None:
        recorder = Recorder(**{where: fault})
        fetch = Fetch(plane.context, cluster, b"GET", b"/", b"", None, recorder)
        await asyncio.wait_for(recorder.over.wait(), 5)
        recorder.check()
        assert recorder.ends == [(None if where == "end" else "reset", True)]
        assert [str(error) for error in plane.errors] == ["a fault of the sink"] and plane.gauge("internal_errors_total") == 1
        plane.errors.clear()
        assert (await fetched(plane, cluster)).body == b"ok"
        del fetch

    against(lambda peer: peer.serve(), body)


def test_a_reset_in_the_middle() -> None:
    def script(peer: Peer) -> None:
        peer.request()
        peer.send(b"HTTP/1.1 200 OK\r\n\r\nsome")
        peer.pause(heard)
        peer.reset()

    heard = threading.Event()

    async def body(plane: Plane, cluster: Cluster, upstream: Upstream) -> None:
        # Without framing only the way it ends tells a whole body from a broken one.
        recorder = await fetched(plane, cluster, recorder=Recorder(data=heard.set))
        assert recorder.body == b"some" and recorder.ends == [("reset", True)]

    against(script, body)
