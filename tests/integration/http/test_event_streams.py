"""Event streams through a plain route: every event passes when it comes, and streams end as visibly as they were cut."""

from __future__ import annotations

import threading
import time

from tests.integration.http.conftest import Dial, settled
from tests.kits.gateway import Gateway
from tests.peers.client import Client
from tests.peers.upstream import Peer, Upstream


def test_events_pass_one_by_one(client: Client, upstream: Upstream) -> None:
    """Every event is at the client before the next is sent."""
    seen = threading.Semaphore(0)

    def script(peer: Peer) -> None:
        peer.request()
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nCache-Control: no-cache\r\nTransfer-Encoding: chunked\r\n\r\n")
        for i in range(50):
            event = b"id: %d\ndata: {}\n\n" % i
            peer.send(b"%x\r\n%b\r\n" % (len(event), event))
            assert seen.acquire(timeout=5), f"event {i} did not arrive"
        peer.send(b"0\r\n\r\n")
        peer.serve()

    upstream.play(script)
    client.send(b"GET /events HTTP/1.1\r\nHost: h\r\nAccept: text/event-stream\r\n\r\n")
    answer = client.head()
    assert answer.get(b"content-type") == [b"text/event-stream"]
    slow = threading.Event()
    latest = 0.0
    for i in range(50):
        began = time.monotonic()
        size = int(client.until(b"\r\n"), 16)
        assert client.read(size + 2) == b"id: %d\ndata: {}\n\n\r\n" % i
        latest = max(latest, time.monotonic() - began)
        slow.wait(0.04)
        seen.release()
    assert client.read(5) == b"0\r\n\r\n"
    assert latest < 0.25
    assert client.post("/events", b"body").status == 200
    assert len(upstream.peers) == 1


def test_post_answered_by_a_stream(client: Client, upstream: Upstream) -> None:
    seen = threading.Event()

    def script(peer: Peer) -> None:
        peer.request()
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: 1\n\n")
        assert seen.wait(5)
        peer.send(b"data: 2\n\n")

    upstream.play(script)
    client.send(client.message(b"POST", "/events", b"body"))
    answer = client.head()
    assert answer.closes
    assert client.read(9) == b"data: 1\n\n"
    seen.set()
    assert client.until_eof() == b"data: 2\n\n"


def test_client_leaving_a_stream_ends_it_upstream(client: Client, upstream: Upstream, gateway: Gateway) -> None:
    left = threading.Event()

    def script(peer: Peer) -> None:
        peer.request()
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n9\r\ndata: 1\n\n\r\n")
        peer.until_eof(3)
        left.set()

    upstream.play(script)
    client.send(b"GET /events HTTP/1.1\r\nHost: h\r\nAccept: text/event-stream\r\n\r\n")
    client.until(b"data: 1\n\n\r\n")
    client.close()
    assert left.wait(2)
    settled(gateway)


def test_dying_stream_is_visibly_broken(client: Client, upstream: Upstream) -> None:
    def script(peer: Peer) -> None:
        peer.request()
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n9\r\ndata: 1\n\n\r\n")
        go.wait(5)
        peer.reset()

    go = threading.Event()
    upstream.play(script)
    client.send(client.message(b"POST", "/events", b"body"))
    client.until(b"data: 1\n\n\r\n")
    go.set()
    assert client.until_eof() == b""


def test_idle_stream_ends_after_its_limit(tight: Gateway, dial: Dial, upstream: Upstream) -> None:
    upstream.play(
        lambda peer: (peer.request(), peer.send(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"), peer.until_eof())
    )
    client = dial(tight)
    client.send(b"GET /events HTTP/1.1\r\nHost: h\r\n\r\n")
    client.head()
    began = time.monotonic()
    assert client.until_eof() == b""
    assert 1.2 < time.monotonic() - began < 3
