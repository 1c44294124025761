"""What a client can do wrong: it is cut at a limit, answered exactly once, and nothing of it reaches an upstream or harms others."""

from __future__ import annotations

import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest

from tests.integration.http.conftest import Dial, OpenTalk, as_mcp, result, settled
from tests.kits.gateway import Gateway, open_fds, wait_until
from tests.peers.client import Client, Truncated
from tests.peers.upstream import Peer, Request, Upstream


def trickle(client: Client, octets: bytes, pause: float) -> float:
    """Octet by octet until the gateway ends the connection; returns when it did, in seconds from the start."""
    began = time.monotonic()
    over = threading.Event()

    def send() -> None:
        try:
            for i in range(len(octets)):
                client.sock.sendall(octets[i : i + 1])
                if over.wait(pause):
                    return
        except OSError:
            pass

    sender = threading.Thread(target=send, daemon=True)
    sender.start()
    try:
        client.buffer += client.until_eof(8)
    finally:
        over.set()
        sender.join(2)
    return time.monotonic() - began


# --------------------------------------------------------------------------------------------------------- slow clients


@pytest.mark.parametrize(
    "octets",
    [b"GET /" + b"a" * 200, b"GET / HTTP/1.1\r\nHost: h\r\n" + b"X: y\r\n" * 50, b"\r\n\r\nGET / HTTP/1.1\r\n" + b"X: y\r\n" * 50],
    ids=["line", "fields", "blank lines"],
)
def test_slowloris_is_408(tight: Gateway, dial: Dial, upstream: Upstream, octets: bytes) -> None:
    upstream.play(Peer.serve)
    client, good = dial(tight), dial(tight)
    done = threading.Event()
    failures: list[int] = []

    def others() -> None:
        while not done.is_set():
            failures.append(good.get("/").status)

    thread = threading.Thread(target=others, daemon=True)
    thread.start()
    took = trickle(client, octets, 0.02)
    done.set()
    thread.join(5)
    assert bytes(client.buffer[:13]) == b"HTTP/1.1 408 "
    assert b"connection: close" in bytes(client.buffer).lower()
    assert 0.5 < took < 2.5
    assert set(failures) == {200}
    assert all(b"X" not in dict(r.fields) for r in upstream.requests)


def test_silence_is_cut(tight: Gateway, dial: Dial) -> None:
    began = time.monotonic()
    client = dial(tight)
    assert client.until_eof(4) == b""
    assert 0.7 < time.monotonic() - began < 2


def test_idle_connection_is_cut(tight: Gateway, dial: Dial, upstream: Upstream) -> None:
    upstream.play(Peer.serve)
    client = dial(tight)
    assert client.get("/").status == 200
    began = time.monotonic()
    assert client.until_eof(4) == b""
    assert 0.7 < time.monotonic() - began < 2


def test_stopped_body_is_408(tight: Gateway, dial: Dial, upstream: Upstream) -> None:
    upstream.play(lambda peer: peer.request())
    for path, framing, part in (
        ("/", b"Content-Length: 10", b"12345"),
        ("/", b"Transfer-Encoding: chunked", b"5\r\n123"),
        ("/mcp", b"Content-Length: 50", b'{"jso'),
    ):
        client = dial(tight)
        client.send(b"POST " + path.encode() + b" HTTP/1.1\r\nHost: h\r\n" + framing + b"\r\n\r\n" + part)
        began = time.monotonic()
        answer = client.answer()
        assert answer.status == 408
        assert answer.closes
        assert client.closed()
        assert 0.5 < time.monotonic() - began < 2
    for peer in upstream.peers:
        assert peer.closed.wait(2)


def test_slow_but_steady_body_passes(tight: Gateway, dial: Dial, talk: OpenTalk, upstream: Upstream) -> None:
    """More than the progress timeout in total, never a pause that long."""
    pause = threading.Event()
    for path in ("/", "/mcp"):
        if path == "/mcp":
            upstream.play(as_mcp())
            session = talk(tight, warm=True)
            client, body = session.client, b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"t"}}'
            message = session.message(body)
        else:
            upstream.play(Peer.serve)
            client, body = dial(tight), b"0123456789"
            message = client.message(b"POST", path, body)
        cut = len(message) - len(body)
        client.send(message[:cut])
        step = max(1, len(body) // 9)
        for i in range(cut, len(message), step):
            pause.wait(0.12)
            client.send(message[i : i + step])
        assert client.answer().status == 200
        assert upstream.requests[-1].body == body


# -------------------------------------------------------------------------------------------------------- stopped reader


def rss_kb(pid: int) -> int:
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1])
    raise AssertionError("no Pss")


@pytest.mark.parametrize("framing", [b"Content-Length: 1000000000", b"Transfer-Encoding: chunked", b"Content-Type: text/event-stream\r\nX: y"])
def test_stopped_reader_pauses_the_upstream_and_is_cut(tight: Gateway, dial: Dial, upstream: Upstream, framing: bytes) -> None:
    piece = b"z" * 65536 if not framing.startswith(b"T") else b"10000\r\n" + b"z" * 65536 + b"\r\n"
    sent = [0]

    def script(peer: Peer) -> None:
        peer.request()
        peer.send(b"HTTP/1.1 200 OK\r\n" + framing + b"\r\n\r\n")
        while sent[0] < 1_000_000_000:
            peer.send(piece)
            sent[0] += len(piece)

    upstream.play(script)
    upstream.record = False
    (pid,) = tight.pids()
    before = rss_kb(pid)
    client = dial(tight, rcvbuf=16384)
    client.send(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
    client.head()
    began = time.monotonic()
    other = dial(tight)
    second_status = other.get("/second").status if upstream.peers else 0
    assert second_status == 200
    peer = upstream.wait_peers(1)[0]
    wait_until(lambda: rss_kb(pid) - before < 4000 and peer.closed.is_set(), 5, "the upstream connection is cut")
    took = time.monotonic() - began
    assert 0.5 < took < 3.5
    assert sent[0] < 60_000_000
    assert rss_kb(pid) - before < 4000
    with pytest.raises(Truncated):
        client.read(sent[0] + 1)


def test_reader_that_stops_while_the_upstream_trickles_is_cut(tight: Gateway, dial: Dial, upstream: Upstream) -> None:
    """Octets of the upstream are no progress of the reader: an event now and then must not keep a dead reader alive."""
    full = threading.Event()

    def script(peer: Peer) -> None:
        peer.request()
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n")
        peer.sock.settimeout(0.3)
        # Fill what the kernel takes on the way, in small steps, until the gateway's own queue begins to fill.
        try:
            for _ in range(1000):
                peer.send(b"data: " + b"z" * 16_000 + b"\n\n")
                if queue_is_full():
                    break
        except ConnectionError:
            return  # cut while we filled: as it must be
        except TimeoutError:
            pass  # the gateway has paused us: as full as it gets
        finally:
            full.set()
        for _ in range(60):
            with suppress(TimeoutError):
                peer.send(b"data: tick\n\n")
            if over.wait(0.1):
                return

    over = threading.Event()
    client = dial(tight, rcvbuf=4096)
    port = client.sock.getsockname()[1]
    levels: list[int] = []

    def queue_is_full() -> bool:
        """The send queue of the gateway's socket no longer grows: the next octets stay in the gateway."""
        threading.Event().wait(0.001)
        for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
            fields = line.split()
            if int(fields[2].split(":")[1], 16) == port:
                levels.append(int(fields[4].split(":")[0], 16))
        return len(levels) > 8 and levels[-1] == levels[-4] and levels[-1] > 0

    upstream.play(script)
    upstream.record = False
    client.send(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
    client.head()
    assert full.wait(15)
    began = time.monotonic()
    closed = upstream.peers[0].closed.wait(5)
    over.set()
    assert closed, "the reader took nothing for five seconds and is still served"
    assert time.monotonic() - began < 3


def test_stopped_upstream_pauses_the_client(tight: Gateway, dial: Dial, upstream: Upstream) -> None:
    """The other direction: an upstream that does not read its request body."""
    go = threading.Event()

    def script(peer: Peer) -> None:
        peer.head()
        go.wait(8)

    upstream.play(script)
    (pid,) = tight.pids()
    before = rss_kb(pid)
    client = dial(tight)
    client.send(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 1000000000\r\n\r\n")
    client.sock.settimeout(0.3)
    sent = 0
    with pytest.raises((TimeoutError, ConnectionError)):
        while sent < 200_000_000:
            sent += client.sock.send(b"x" * 65536)
    client.sock.settimeout(5)
    assert sent < 60_000_000
    assert rss_kb(pid) - before < 4000
    assert client.until_eof()[:12] in (b"HTTP/1.1 504", b"HTTP/1.1 408", b"HTTP/1.1 502")
    go.set()
    settled(tight)


# ------------------------------------------------------------------------------------------------------ clients that go


@pytest.mark.parametrize("how", ["close", "reset"])
@pytest.mark.parametrize("kept", [False, True], ids=["first request", "kept alive"])
@pytest.mark.parametrize("moment", ["with the request", "while waiting"])
def test_client_that_leaves_ends_the_upstream_request(gateway: Gateway, dial: Dial, upstream: Upstream, how: str, kept: bool, moment: str) -> None:
    asked, left = threading.Event(), threading.Event()

    def script(peer: Peer) -> None:
        if kept:
            peer.answer(peer.request())
        peer.request()
        asked.set()
        peer.until_eof(4)
        left.set()

    upstream.play(script)
    client = dial(gateway)
    if kept:
        assert client.get("/").status == 200
        settled(gateway)
    client.send(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
    if moment == "while waiting":
        assert asked.wait(2)
    getattr(client, how)()
    began = time.monotonic()
    if moment == "while waiting" or how == "close":
        assert asked.wait(2)
        assert left.wait(2.5), "the upstream connection is still open"
        assert time.monotonic() - began < 2.2
    settled(gateway)


def test_client_that_leaves_inside_its_body(gateway: Gateway, dial: Dial, upstream: Upstream) -> None:
    got: list[bytes] = []
    done = threading.Event()

    def script(peer: Peer) -> None:
        peer.owner.keep(peer.head())
        got.append(peer.until_eof(4))
        done.set()

    for framing, part in ((b"Content-Length: 10", b"12345"), (b"Transfer-Encoding: chunked", b"5\r\n12345\r\n")):
        for how in ("close", "half_close"):
            upstream.play(script)
            done.clear()
            client = dial(gateway)
            client.send(b"POST / HTTP/1.1\r\nHost: h\r\n" + framing + b"\r\n\r\n" + part)
            upstream.wait_requests(1)
            getattr(client, how)()
            assert done.wait(2.5)
            assert not got[-1].endswith(b"0\r\n\r\n"), "the aborted body was ended cleanly"
    settled(gateway)


def test_client_that_leaves_a_download(gateway: Gateway, dial: Dial, upstream: Upstream) -> None:
    def script(peer: Peer) -> None:
        peer.request()
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n")
        while True:
            peer.send(b"x" * 65536)

    for how in ("close", "reset"):
        upstream.play(script)
        client = dial(gateway)
        client.send(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
        client.read(200_000)
        getattr(client, how)()
        assert upstream.peers[0].closed.wait(2)
    settled(gateway)


def test_half_closed_client_is_answered(gateway: Gateway, dial: Dial, upstream: Upstream) -> None:
    def script(peer: Peer) -> None:
        while True:
            request = peer.request()
            threading.Event().wait(0.3)
            peer.answer(request, b"y" * 100_000)

    upstream.play(script)
    for message in (b"GET / HTTP/1.1\r\nHost: h\r\n\r\n", Client.message(b"POST", "/", b"abc")):
        client = dial(gateway)
        client.send(message)
        client.half_close()
        answer = client.answer()
        assert answer.body == b"y" * 100_000
        assert client.closed()


@pytest.mark.parametrize("warm", [False, True], ids=["served", "relayed"])
def test_half_closed_mcp_client_is_answered(gateway: Gateway, talk: OpenTalk, upstream: Upstream, warm: bool) -> None:
    def slowly(peer: Peer, request: Request) -> None:
        threading.Event().wait(0.3)
        peer.answer(request, result(request, {"y": "y" * 100_000}), head=b"Content-Type: application/json\r\n")

    upstream.play(as_mcp(slowly))
    session = talk(gateway, warm=warm)
    session.client.send(session.message(b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"t"}}'))
    session.client.half_close()
    assert session.client.answer().body == result(upstream.requests[0], {"y": "y" * 100_000})
    assert session.client.closed()


def test_half_close_after_pipelined_requests(gateway: Gateway, dial: Dial, upstream: Upstream) -> None:
    upstream.play(Peer.serve)
    client = dial(gateway)
    client.send(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n" * 5)
    client.half_close()
    for _ in range(5):
        assert client.answer().body == b"ok"
    assert client.closed()


def test_half_close_inside_a_head_is_just_the_end(gateway: Gateway, dial: Dial, upstream: Upstream) -> None:
    upstream.play(Peer.serve)
    client = dial(gateway)
    client.send(b"GET / HTTP/1.1\r\nHost:")
    client.half_close()
    assert client.until_eof(2)[:12] in (b"", b"HTTP/1.1 400")
    assert not upstream.peers


# ------------------------------------------------------------------------------------------------------ malformed heads

SMUGGLING = {
    "two lengths": b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
    "two equal lengths": b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\nabc",
    "length list": b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 3, 3\r\n\r\nabc",
    "length +": b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: +3\r\n\r\nabc",
    "length 1_0": b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 1_0\r\n\r\n0123456789",
    "length 0x": b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 0x3\r\n\r\nabc",
    "length empty": b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: \r\n\r\n",
    "length huge": b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 99999999999999999999\r\n\r\n",
    "length and chunked": b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunked and length": b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n",
    "two codings": b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "coding list": b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: identity, chunked\r\n\r\n0\r\n\r\n",
    "coding xchunked": b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "coding with vt": b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n",
    "coding quoted": b'POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: "chunked"\r\n\r\n0\r\n\r\n',
    "coding empty": b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding:\r\n\r\n0\r\n\r\n",
    "coding in 1.0": b"POST / HTTP/1.0\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "blank before the colon": b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
    "folded": b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n",
    "bare lf": b"GET / HTTP/1.1\nHost: h\n\n",
    "bare lf in the middle": b"GET / HTTP/1.1\r\nHost: h\nX: y\r\n\r\n",
    "cr in a value": b"GET / HTTP/1.1\r\nHost: h\r\nX: a\rb\r\n\r\n",
    "nul in a value": b"GET / HTTP/1.1\r\nHost: h\r\nX: a\x00b\r\n\r\n",
    "nul in a name": b"GET / HTTP/1.1\r\nHost: h\r\nX\x00: b\r\n\r\n",
    "empty name": b"GET / HTTP/1.1\r\nHost: h\r\n: b\r\n\r\n",
    "no colon": b"GET / HTTP/1.1\r\nHost: h\r\nnonsense\r\n\r\n",
    "no host": b"GET / HTTP/1.1\r\nX: y\r\n\r\n",
    "two hosts": b"GET / HTTP/1.1\r\nHost: h\r\nHost: h\r\n\r\n",
    "host with a path": b"GET / HTTP/1.1\r\nHost: h/evil\r\n\r\n",
    "host with a user": b"GET / HTTP/1.1\r\nHost: u@h\r\n\r\n",
    "host list": b"GET / HTTP/1.1\r\nHost: h, i\r\n\r\n",
    "host empty": b"GET / HTTP/1.1\r\nHost:\r\n\r\n",
    "two blanks": b"GET  / HTTP/1.1\r\nHost: h\r\n\r\n",
    "tab": b"GET\t/ HTTP/1.1\r\nHost: h\r\n\r\n",
    "leading blank": b" GET / HTTP/1.1\r\nHost: h\r\n\r\n",
    "http/0.9": b"GET /\r\n\r\n",
    "version": b"GET / HTTP/1.10\r\nHost: h\r\n\r\n",
    "version 2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "tls": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\n",
}


@pytest.mark.parametrize("shape", SMUGGLING)
@pytest.mark.parametrize("split", [False, True], ids=["whole", "split"])
def test_smuggling_shapes_are_refused_and_nothing_is_forwarded(
    client: Client, upstream: Upstream, gateway: Gateway, dial: Dial, shape: str, split: bool
) -> None:
    upstream.play(Peer.serve)
    octets = SMUGGLING[shape] + b"GET /evil HTTP/1.1\r\nHost: h\r\n\r\n"
    if split:
        middle = len(SMUGGLING[shape]) // 2
        client.send_pieces(octets[:middle], octets[middle:])
    else:
        client.send(octets)
    answer = client.answer(b"POST")
    expected = {"two codings": (400, 501), "coding list": (400, 501), "coding xchunked": (501,), "coding quoted": (400, 501), "version 2": (505, 400)}
    assert answer.status in expected.get(shape, (400,))
    assert answer.closes
    assert client.until_eof() == b""
    assert not upstream.peers
    assert dial(gateway).get("/").status == 200


def test_good_request_before_garbage_is_answered_first(client: Client, upstream: Upstream) -> None:
    upstream.play(Peer.serve)
    client.send(b"GET /1 HTTP/1.1\r\nHost: h\r\n\r\n" + client.message(b"POST", "/2", b"ab") + b"\x00\x01garbage\r\n\r\nGET /evil HTTP/1.1\r\nHost: h\r\n\r\n")
    assert client.answer().status == 200
    assert client.answer().status == 200
    answer = client.answer()
    assert answer.status == 400
    assert answer.closes
    assert client.closed()
    assert [r.target for r in upstream.requests] == [b"/1", b"/2"]


def test_bad_chunking_is_400(client: Client, upstream: Upstream) -> None:
    for rest in (
        b"xyz\r\n",
        b"-1\r\n",
        b"5 \r\n",
        b"5\n12345\n",
        b"5\r\n123456\r\n",
        b"00000000000000005\r\n",
        b"1;" + b"e" * 10_000,
        b"0\r\nbad trailer\r\n\r\n",
        b"0\r\n" + b"T: 1\r\n" * 5000,
    ):
        upstream.play(lambda peer: (peer.owner.keep(request := peer.head()), peer.body(request)))
        one = Client(client.sock.getpeername()[1])
        one.send(b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n")
        upstream.wait_requests(1)
        one.send(rest + b"GET /evil HTTP/1.1\r\nHost: h\r\n\r\n")
        answer = one.answer()
        assert answer.status == 400, rest[:20]
        assert answer.closes
        assert one.closed()
        assert upstream.peers[0].closed.wait(2)
        assert not upstream.peers[0].received.endswith(b"0\r\n\r\n")
        one.close()


# --------------------------------------------------------------------------------------------------------------- limits


@pytest.mark.parametrize(
    ("octets", "status"),
    [
        (b"GET /" + b"a" * 8200 + b" HTTP/1.1\r\nHost: h\r\n\r\n", 414),
        (b"GET /" + b"a" * 100_000, 414),
        (b"A" * 100_000, 414),
        (b"GET / HTTP/1.1\r\nHost: h\r\n" + b"X: y\r\n" * 100 + b"\r\n", 431),
        (b"GET / HTTP/1.1\r\nHost: h\r\nX: " + b"a" * 16_400 + b"\r\n\r\n", 431),
        (b"GET / HTTP/1.1\r\nHost: h\r\nX: " + b"a" * 100_000, 431),
        (b"GET / HTTP/1.1\r\nHost: h\r\n" + b"".join(b"X-%d: %b\r\n" % (i, b"v" * 4000) for i in range(9)) + b"\r\n", 431),
        (b"\r\n" * 50_000, 400),
    ],
    ids=["line", "endless line", "endless method", "fields", "field", "endless field", "section", "blank lines"],
)
def test_limits_of_the_head(client: Client, upstream: Upstream, octets: bytes, status: int) -> None:
    upstream.play(Peer.serve)
    try:
        client.send(octets)
    except ConnectionError:
        pass
    answer = client.answer()
    assert answer.status == status
    assert answer.closes
    assert client.closed(5)
    assert not upstream.peers


def test_just_below_the_limits(client: Client, upstream: Upstream) -> None:
    upstream.play(Peer.serve)
    assert client.get("/" + "a" * (8192 - len("GET / HTTP/1.1"))).status == 200
    assert client.ask(b"GET / HTTP/1.1\r\nHost: h\r\n" + b"X: y\r\n" * 99 + b"\r\n").status == 200
    assert client.get("/", b"X: " + b"a" * (16384 - 3)).status == 200
    assert client.get("/", *[b"X-%d: %b" % (i, b"v" * 3900) for i in range(8)]).status == 200
    assert len(upstream.peers) == 1


def test_many_requests_on_one_connection_and_many_connections(gateway: Gateway, dial: Dial, upstream: Upstream) -> None:
    upstream.play(Peer.serve)
    (pid,) = gateway.pids()
    clients = [dial(gateway) for _ in range(200)]
    for round_ in range(3):
        for one in clients:
            one.send(b"GET /%d HTTP/1.1\r\nHost: h\r\n\r\n" % round_)
        for one in clients:
            assert one.answer().body == b"ok"
    held = open_fds(pid)
    for one in clients:
        one.close()
    wait_until(lambda: open_fds(pid) <= held - 200, 3, "descriptors are given back")
