"""Limits on connections: of clients, and of the pool towards the upstreams."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from tests.integration.http.conftest import Dial, configuration, host_route, unharmed
from tests.kits.gateway import Gateway, wait_until
from tests.peers.upstream import Peer, Upstream


@pytest.fixture(scope="module")
def module_limited(session_upstreams: dict[str, Upstream]) -> Iterator[Gateway]:
    port = session_upstreams["a"].port
    http = {"maxConnections": 8, "maxConnectionsPerAddress": 5, "maxRequestsPerConnection": 3, "maxConnectionDuration": "1500ms"}
    backend = {"poolIdleTimeout": "400ms", "poolMaxSize": 1, "poolMaxLifetime": "900ms"}
    gateways = {"default": {"port": 0, "address": ""}}
    with Gateway(configuration([host_route(f"localhost:{port}")], http, backend, gateways=gateways), workers=1) as gateway:
        yield gateway


@pytest.fixture
def limited(module_limited: Gateway) -> Iterator[Gateway]:
    """Small limits of connections; the upstream by its name."""
    with unharmed(module_limited):
        wait_until(lambda: module_limited.metrics().total("downstream_connections_active") == 0, 5, "no connection is left")
        yield module_limited


def test_connections_of_one_address_are_bounded(limited: Gateway, dial: Dial, upstream: Upstream) -> None:
    upstream.play(Peer.serve)
    held = [dial(limited) for _ in range(5)]
    for one in held:
        assert one.get("/").status == 200
    refused = dial(limited)
    answer = refused.answer()
    assert answer.status == 503
    assert answer.get(b"retry-after") == [b"1"]
    assert answer.closes
    assert refused.closed()
    held.pop().close()
    wait_until(lambda: dial(limited).get("/").status == 200, 3, "room for another connection", 0.1)


def test_connections_of_a_worker_are_bounded(limited: Gateway, dial: Dial, upstream: Upstream) -> None:
    upstream.play(Peer.serve)
    for _ in range(4):
        assert dial(limited).get("/").status == 200
    for source in ("127.0.0.2", "127.0.0.3"):
        for _ in range(2):
            assert dial(limited, source=source).get("/").status == 200
    assert dial(limited, source="127.0.0.4").answer().status == 503


def test_requests_of_one_connection_are_bounded(limited: Gateway, dial: Dial, upstream: Upstream) -> None:
    upstream.play(Peer.serve)
    client = dial(limited)
    assert [client.get("/").closes for _ in range(3)] == [False, False, True]
    assert client.closed()


def test_age_of_a_connection_is_bounded(limited: Gateway, dial: Dial, upstream: Upstream) -> None:
    upstream.play(Peer.serve)
    client = dial(limited)
    assert not client.get("/").closes
    threading.Event().wait(1.6)
    try:
        assert client.get("/").closes
    except ConnectionError:
        pass
    assert client.closed()


def test_mapped_ipv4_client_is_an_ipv4_client(limited: Gateway, dial: Dial, upstream: Upstream) -> None:
    upstream.play(Peer.serve)
    assert dial(limited).get("/").status == 200
    assert upstream.requests[0].get(b"x-forwarded-for") == [b"127.0.0.1"]


def test_ipv6_client(limited: Gateway, dial: Dial, upstream: Upstream) -> None:
    upstream.play(Peer.serve)
    try:
        client = dial(limited, host="::1")
    except OSError:
        pytest.skip("no IPv6 on this machine, or not on the wildcard address")
    assert client.get("/").status == 200
    assert upstream.requests[0].get(b"x-forwarded-for") == [b"::1"]


def test_idle_pool_is_bounded_in_size_and_time(limited: Gateway, dial: Dial, upstream: Upstream) -> None:
    go = threading.Barrier(3)

    def script(peer: Peer) -> None:
        request = peer.request()
        go.wait(5)
        peer.answer(request)
        peer.until_eof(4)

    upstream.play(script)
    clients = [dial(limited) for _ in range(3)]
    for client in clients:
        client.send(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
    for client in clients:
        assert client.answer().status == 200
    began = time.monotonic()
    assert len(upstream.peers) == 3
    upstream.wait(lambda: sum(p.closed.is_set() for p in upstream.peers) >= 2, "all but one idle connection are closed", 1)
    assert sum(p.closed.is_set() for p in upstream.peers) == 2
    upstream.wait(lambda: all(p.closed.is_set() for p in upstream.peers), "the last idle connection is closed", 2)
    assert 0.3 < time.monotonic() - began < 1.5


def test_old_upstream_connections_are_not_reused(limited: Gateway, dial: Dial, upstream: Upstream) -> None:
    upstream.play(Peer.serve)
    pause = threading.Event()
    began = time.monotonic()
    while time.monotonic() - began < 1.5:
        client = dial(limited)
        for _ in range(3):
            assert client.get("/").status == 200
        client.close()
        pause.wait(0.05)
    assert len(upstream.peers) == 2
