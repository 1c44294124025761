"""Much data, slow readers, tunnels and streams with TLS on both sides; what an idle connection costs."""

from __future__ import annotations

import gc
import threading
from pathlib import Path
from typing import Any

import pytest

from tests.integration.http.test_bulk import PIECE, Check, flat_memory, read_chunked
from tests.integration.tls.conftest import Dial, Pki, Start, TlsGateway, configuration
from tests.kits.gateway import Gateway, direct_route, wait_until
from tests.peers.tls import TlsClient, TlsUpstream
from tests.peers.upstream import Peer

SIZE = 100 * len(PIECE)
UPGRADE = b"GET /ws HTTP/1.1\r\nHost: h\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n"
SWITCH = b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n"


def test_download(client: TlsClient, upstream: TlsUpstream, gateway: TlsGateway) -> None:
    def script(peer: Peer) -> None:
        peer.request()
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % SIZE)
        for _ in range(SIZE // len(PIECE)):
            peer.send(PIECE)
        peer.serve()

    upstream.play(script)
    check = Check()
    with flat_memory(gateway):
        client.send(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
        client.head()
        check.take(memoryview(bytes(client.buffer)))
        client.buffer.clear()
        view = memoryview(bytearray(1 << 20))
        while check.seen < SIZE:
            n = client.sock.recv_into(view)
            assert n
            check.take(view[:n])
    assert client.get("/").status == 200
    assert len(upstream.peers) == 1


def test_upload(client: TlsClient, upstream: TlsUpstream, gateway: TlsGateway) -> None:
    check = Check()

    def script(peer: Peer) -> None:
        peer.head()
        read_chunked(peer.sock, peer.buffer, check)
        peer.answer(body=b"%d" % check.seen)
        peer.serve()

    upstream.play(script)
    upstream.record = False
    with flat_memory(gateway):
        client.send(b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n")
        for _ in range(SIZE // len(PIECE)):
            client.sock.sendall(b"%x\r\n%b\r\n" % (len(PIECE), PIECE))
        client.send(b"0\r\n\r\n")
        client.sock.settimeout(20)
        assert client.answer().body == b"%d" % SIZE
    assert client.get("/").status == 200


def test_reader_that_pauses_pauses_the_backend(client: TlsClient, upstream: TlsUpstream, gateway: TlsGateway) -> None:
    sent = 0

    def script(peer: Peer) -> None:
        nonlocal sent
        peer.request()
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (SIZE // 2))
        for _ in range(SIZE // 2 // len(PIECE)):
            peer.send(PIECE)
            sent += len(PIECE)

    upstream.play(script)
    before = gateway.metrics().total("relay_pauses_total")
    client.send(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
    wait_until(lambda: gateway.metrics().total("relay_pauses_total") > before, 5, "a pause")
    quiet = sent
    threading.Event().wait(0.5)
    assert sent - quiet <= 2 * len(PIECE)
    assert sent < SIZE // 2
    check = Check()
    check.take(memoryview(client.body(client.head()).body))
    assert check.seen == SIZE // 2


def test_backend_that_pauses_pauses_the_client(client: TlsClient, upstream: TlsUpstream, gateway: TlsGateway) -> None:
    go = threading.Event()
    check = Check()

    def script(peer: Peer) -> None:
        peer.head()
        peer.pause(go)
        read_chunked(peer.sock, peer.buffer, check)
        peer.answer(body=b"%d" % check.seen)

    upstream.play(script)
    upstream.record = False
    pieces = 40
    sent = 0

    def send() -> None:
        nonlocal sent
        for _ in range(pieces):
            client.sock.sendall(b"%x\r\n%b\r\n" % (len(PIECE), PIECE))
            sent += 1
        client.send(b"0\r\n\r\n")

    before = gateway.metrics().total("relay_pauses_total")
    client.send(b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n")
    sender = threading.Thread(target=send, daemon=True)
    with flat_memory(gateway):
        sender.start()
        wait_until(lambda: gateway.metrics().total("relay_pauses_total") > before, 5, "a pause")
        assert sent < pieces
        go.set()
        assert client.answer().body == b"%d" % (pieces * len(PIECE))
    sender.join(5)


@pytest.mark.parametrize("size", [0, 1, 2048, 2049, 16383, 16384, 16385, 49151, 49152, 49153, 65535, 65536, 65537, 131073, 196609, 1_000_003])
def test_bodies_around_every_limit(client: TlsClient, upstream: TlsUpstream, size: int) -> None:
    """Records, receives, sends and queues each have a size of their own."""
    body = (PIECE * 2)[:size]

    def script(peer: Peer) -> None:
        while True:
            request = peer.request()
            if request.target == b"/length":
                peer.answer(request, request.body)
            else:
                peer.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
                if request.body:
                    peer.send(b"%x\r\n%b\r\n" % (len(request.body), request.body))
                peer.send(b"0\r\n\r\n")

    upstream.play(script)
    for path in ("/length", "/chunked"):
        assert client.post(path, body).body == body
    assert len(upstream.peers) == 1


def test_bytewise_on_both_sides(gateway: TlsGateway, dial: Dial, upstream: TlsUpstream) -> None:
    def script(peer: Peer) -> None:
        sock: Any = peer.sock
        sock.bytewise = True
        while True:
            request = peer.request()
            peer.answer(request, request.body)

    upstream.play(script)
    client = dial(gateway, bytewise=True)
    for size in (0, 1, 5000):
        assert client.post("/", b"q" * size).body == b"q" * size


def test_tunnel_both_ways(client: TlsClient, upstream: TlsUpstream) -> None:
    def script(peer: Peer) -> None:
        peer.request()
        peer.send(SWITCH + b"first")
        peer.expect(b"z" * 3_000_000)
        peer.send(b"y" * 3_000_000)
        assert peer.until_eof() == b"last"
        peer.send(b"after your end")

    upstream.play(script)
    client.send(UPGRADE)
    assert client.head().status == 101
    assert client.read(5) == b"first"
    client.send(b"z" * 3_000_000)
    assert client.read(3_000_000) == b"y" * 3_000_000
    client.send(b"last")
    client.half_close()
    assert client.until_eof() == b"after your end"
    assert client.sock.notified


def test_tunnel_half_closed_by_close_notify_alone(client: TlsClient, upstream: TlsUpstream) -> None:
    """The end of one direction is passed on whichever way it is said, and the other goes on."""
    got: list[bytes] = []

    def script(peer: Peer) -> None:
        peer.request()
        peer.send(SWITCH + b"bye")
        sock: Any = peer.sock
        sock.notify()
        got.append(peer.until_eof())

    upstream.play(script)
    client.send(UPGRADE)
    client.head()
    assert client.until_eof() == b"bye"
    assert client.sock.notified
    client.send(b"still talking")
    client.sock.notify()
    assert upstream.peers[0].closed.wait(3)
    assert got == [b"still talking"]


def test_events_are_relayed_one_by_one(client: TlsClient, upstream: TlsUpstream) -> None:
    go = threading.Semaphore(0)

    def script(peer: Peer) -> None:
        peer.request()
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n")
        for i in range(50):
            peer.send(b"id: %d\n\n" % i)
            assert go.acquire(timeout=5)

    upstream.play(script)
    client.send(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
    client.head()
    for i in range(50):
        assert client.until(b"\n\n") == b"id: %d\n\n" % i
        go.release()
    assert client.until_eof() == b""
    assert client.sock.notified


def memory_of(gateway: Gateway) -> int:
    """The worker's own memory in octets."""
    (pid,) = gateway.pids()
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return 1024 * sum(int(line.split()[1]) for line in lines if line.startswith("Private_"))


@pytest.mark.parametrize(("uploaded", "limit"), [(0, 32_000), (60_000, 64_000)], ids=["small requests", "after a bulk upload"])
def test_an_idle_connection_stays_small(start: Start, dial: Dial, pki: Pki, uploaded: int, limit: int) -> None:
    """docs/tls.md names the numbers. A BIO keeps what it grew to, so nothing but single records may go in."""
    gateway = start(configuration([direct_route()]), listeners={"*": pki.listener()})
    context = pki.client()

    def connect(count: int) -> list[TlsClient]:
        clients = []
        for _ in range(count):
            client = dial(gateway, context=context)
            assert client.post("/", b"u" * uploaded).status == 200
            clients.append(client)
        return clients

    connect(60)
    gc.collect()
    before = memory_of(gateway)
    connect(200)
    each = (memory_of(gateway) - before) // 200
    print(f"{each} octets per idle connection")
    assert each < limit
