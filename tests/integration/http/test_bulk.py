"""A gigabyte each way, generated on the fly: every octet arrives, and the worker's memory does not grow with it."""

from __future__ import annotations

import threading
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.integration.http.conftest import Dial, settled
from tests.kits.gateway import Gateway
from tests.peers.client import Client
from tests.peers.upstream import Peer, Upstream

GIB = 1 << 30
PIECE = bytes(range(256)) * 4096
"""A mebibyte; whoever receives compares with it, wherever the cuts fall."""


class Check:
    """Counts octets of a repeated PIECE and compares all of them, without keeping any."""

    def __init__(self) -> None:
        self.seen = 0
        self._twice = memoryview(PIECE * 2)

    def take(self, data: memoryview) -> None:
        offset = self.seen % len(PIECE)
        for at in range(0, len(data), len(PIECE)):
            part = data[at : at + len(PIECE)]
            assert part == self._twice[offset : offset + len(part)], f"wrong octets behind {self.seen}"
        self.seen += len(data)


@contextmanager
def flat_memory(gateway: Gateway, limit_kb: int = 6000) -> Iterator[None]:
    """The worker's memory, sampled all along, stays within `limit_kb` of what it was."""
    (pid,) = gateway.pids()

    def pss() -> int:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1])
        raise AssertionError("no Pss")

    before = pss()
    highest = before
    over = threading.Event()

    def watch() -> None:
        nonlocal highest
        while not over.wait(0.05):
            highest = max(highest, pss())

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join(2)
    assert highest - before < limit_kb, f"{before} kB -> {highest} kB"


def read_chunked(sock: object, buffer: bytearray, check: Check) -> None:
    """Reads a chunked body from a blocking socket; `buffer` holds what came behind the head."""
    view = memoryview(bytearray(1 << 20))
    while True:
        while b"\r\n" not in buffer:
            n = sock.recv_into(view)  # type: ignore[attr-defined]
            assert n
            buffer += view[:n]
        line, _, rest = bytes(buffer).partition(b"\r\n")
        buffer[:] = rest
        left = int(line, 16)
        if left == 0:
            while len(buffer) < 2:
                buffer += sock.recv(2 - len(buffer))  # type: ignore[attr-defined]
            assert buffer == b"\r\n"
            buffer.clear()
            return
        take = min(left, len(buffer))
        check.take(memoryview(bytes(buffer[:take])))
        del buffer[:take]
        left -= take
        while left:
            n = sock.recv_into(view[: min(left, len(view))])  # type: ignore[attr-defined]
            assert n
            check.take(view[:n])
            left -= n
        while len(buffer) < 2:
            buffer += sock.recv(2 - len(buffer))  # type: ignore[attr-defined]
        assert buffer[:2] == b"\r\n"
        del buffer[:2]


def test_chunked_upload_of_a_gibibyte(client: Client, upstream: Upstream, gateway: Gateway) -> None:
    check = Check()

    def script(peer: Peer) -> None:
        request = peer.head()
        assert request.get(b"transfer-encoding") == [b"chunked"]
        read_chunked(peer.sock, peer.buffer, check)
        peer.answer(body=b"%d" % check.seen)
        peer.serve()

    upstream.play(script)
    upstream.record = False
    began = time.monotonic()
    with flat_memory(gateway):
        client.send(b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n")
        chunk = b"%x\r\n%b\r\n" % (len(PIECE), PIECE)
        for _ in range(GIB // len(PIECE)):
            client.sock.sendall(chunk)
        client.send(b"0\r\n\r\n")
        assert client.answer().body == b"%d" % GIB
    assert time.monotonic() - began < 30
    assert client.get("/").status == 200
    settled(gateway)


@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_download_of_a_gibibyte(client: Client, upstream: Upstream, gateway: Gateway, framing: str) -> None:
    total = GIB if framing == "length" else GIB // 4
    chunk = PIECE if framing == "length" else b"%x\r\n%b\r\n" % (len(PIECE), PIECE)

    def script(peer: Peer) -> None:
        peer.request()
        peer.send(b"HTTP/1.1 200 OK\r\n" + (b"Content-Length: %d" % total if framing == "length" else b"Transfer-Encoding: chunked") + b"\r\n\r\n")
        for _ in range(total // len(PIECE)):
            peer.send(chunk)
        if framing == "chunked":
            peer.send(b"0\r\n\r\n")
        peer.serve()

    upstream.play(script)
    upstream.record = False
    check = Check()
    began = time.monotonic()
    with flat_memory(gateway):
        client.send(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
        client.head()
        if framing == "length":
            check.take(memoryview(bytes(client.buffer)))
            client.buffer.clear()
            view = memoryview(bytearray(1 << 20))
            while check.seen < total:
                n = client.sock.recv_into(view)
                assert n
                check.take(view[:n])
        else:
            read_chunked(client.sock, client.buffer, check)
            client.buffer.clear()
    assert check.seen == total
    assert time.monotonic() - began < 30
    assert client.get("/").status == 200
    settled(gateway)


def test_chunks_of_one_octet(client: Client, upstream: Upstream) -> None:
    """Linear work: 200 000 chunks each way take seconds, not minutes."""
    count = 200_000
    body = b"1\r\nx\r\n" * count + b"0\r\n\r\n"

    def script(peer: Peer) -> None:
        request = peer.head()
        got = 0
        while True:
            size = int(peer.until(b"\r\n"), 16)
            data = peer.read(size + 2)
            if not size:
                break
            got += len(data) - 2
        assert request.get(b"transfer-encoding") == [b"chunked"]
        peer.send(b"HTTP/1.1 200 OK\r\nX-Got: %d\r\nTransfer-Encoding: chunked\r\n\r\n" % got + body)

    upstream.play(script)
    upstream.record = False
    sender = threading.Thread(target=client.send, args=(b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n" + body,), daemon=True)
    began = time.monotonic()
    sender.start()
    client.sock.settimeout(20)
    answer = client.head()
    assert answer.get(b"x-got") == [b"%d" % count]
    got = 0
    while True:
        size = int(client.until(b"\r\n"), 16)
        data = client.read(size + 2)
        if not size:
            break
        got += len(data) - 2
    sender.join(5)
    assert got == count
    assert time.monotonic() - began < 15


def test_five_seconds_of_events(gateway: Gateway, dial: Dial, upstream: Upstream) -> None:
    """Twenty streams with an event every 50 ms; each event is relayed at once, none is lost, none is joined to another stream's."""
    streams = 20
    stamps: dict[tuple[int, int], float] = {}

    def script(peer: Peer) -> None:
        number = int(peer.request().target.rpartition(b"/")[2])
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n")
        pause = threading.Event()
        for i in range(100):
            stamps[number, i] = time.monotonic()
            peer.send(b"id: %d-%d\n\n" % (number, i))
            pause.wait(0.05)

    upstream.play(script)
    late: list[float] = []
    errors: list[str] = []

    def listen(number: int) -> None:
        client = dial(gateway)
        client.send(b"GET /%d HTTP/1.1\r\nHost: h\r\n\r\n" % number)
        client.head()
        for i in range(100):
            got = client.until(b"\n\n")
            late.append(time.monotonic() - stamps[number, i])
            if got != b"id: %d-%d\n\n" % (number, i):
                errors.append(repr(got))
        if client.until_eof() != b"":
            errors.append("surplus")

    threads = [threading.Thread(target=listen, args=(n,), daemon=True) for n in range(streams)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(15)
    assert not errors
    assert len(late) == streams * 100
    late.sort()
    assert late[len(late) * 95 // 100] < 0.05


def test_responses_of_all_sizes_are_whole(client: Client, upstream: Upstream) -> None:
    """Around every buffer limit of the relay, length-framed and chunked, with and without a slow reader."""
    sizes = [0, 1, 2047, 2048, 2049, 16383, 65534, 65535, 65536, 65537, 131071, 131072, 131073, 196607, 196608, 196609, 1_000_003]

    def script(peer: Peer) -> None:
        while True:
            size = int(peer.request().target.rpartition(b"/")[2])
            body = (PIECE * 2)[:size]
            if len(peer.owner.requests) % 2:
                peer.answer(body=body)
            else:
                cuts = [body[i : i + 40_001] for i in range(0, size, 40_001)]
                peer.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"".join(b"%x\r\n%b\r\n" % (len(c), c) for c in cuts) + b"0\r\n\r\n")

    upstream.play(script)
    for size in sizes:
        for _ in range(2):
            body = client.get(f"/{size}").body
            assert len(body) == size
            assert zlib.crc32(body) == zlib.crc32((PIECE * 2)[:size])
    assert len(upstream.peers) == 1
