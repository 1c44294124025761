"""What a backend can do wrong, what the client of that request sees, and that nobody else sees anything of it."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from tests.integration.http.conftest import TIGHT_BACKEND, Dial, configuration, host_route, mcp_route, settled, unharmed
from tests.kits.gateway import Gateway, wait_until
from tests.peers.client import Client, Truncated
from tests.peers.upstream import Blackhole, Peer, Upstream

SECRET = b"SECRET-OF-THE-UPSTREAM"


def after(script: Callable[[Peer], object]) -> Callable[[Peer], None]:
    """The script on the first connection; later ones are served in good order."""

    def run(peer: Peer) -> None:
        if peer.index == 0:
            script(peer)
        else:
            peer.serve(b"fine")

    return run


def goes_on(client: Client, upstream: Upstream) -> None:
    """The client's connection is in order, and so is the next request."""
    answer = client.get("/next")
    assert (answer.status, answer.body) == (200, b"fine")
    assert client.post("/next", b"body").body == b"fine"


@contextmanager
def frozen(gateway: Gateway) -> Iterator[None]:
    """The worker is stopped: what happens meanwhile is seen by it in one batch, in order of arrival."""
    (pid,) = gateway.pids()
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


# ------------------------------------------------------------------------------------------------------- no connection


def test_refused_connection_is_503_and_recovery_is_immediate(client: Client, upstream: Upstream) -> None:
    upstream.settle()
    upstream.stop_listening()
    try:
        for _ in range(3):
            began = time.monotonic()
            answer = client.get("/")
            assert answer.status == 503
            assert time.monotonic() - began < 1
            assert client.post("/", b"x").status == 503
    finally:
        upstream.listen_again()
    upstream.play(after(Peer.serve))
    assert client.get("/").status == 200


def test_refused_unix_socket_is_503(client: Client, on_unix: Upstream) -> None:
    on_unix.settle()
    on_unix.stop_listening()
    try:
        assert client.get("/unix").status == 503
        assert on_unix.unix is not None
        os.unlink(on_unix.unix)
        assert client.get("/unix").status == 503
    finally:
        on_unix.listen_again()
    on_unix.play(Peer.serve)
    assert client.get("/unix").status == 200


@pytest.fixture(scope="module")
def lost(session_upstreams: dict[str, Upstream]) -> Iterator[Gateway]:
    hole = Blackhole()
    routes = [host_route(session_upstreams["a"].host), host_route(hole.host, "/hole"), host_route("no-such-name.invalid:80", "/dns")]
    with Gateway(configuration(routes, backend=TIGHT_BACKEND), workers=1) as gateway:
        yield gateway
    hole.close()


def test_black_hole_is_504_and_others_are_unaffected(lost: Gateway, dial: Dial, upstream: Upstream) -> None:
    upstream.play(Peer.serve)
    waiting = [dial(lost) for _ in range(5)]
    began = time.monotonic()
    for one in waiting:
        one.send(b"GET /hole HTTP/1.1\r\nHost: h\r\n\r\n")
    other = dial(lost)
    for _ in range(20):
        assert other.get("/").status == 200
    assert time.monotonic() - began < 0.4
    assert [one.answer().status for one in waiting] == [504] * 5
    assert 0.4 < time.monotonic() - began < 1.5
    assert waiting[0].get("/").status == 200


def test_unknown_name_is_503(lost: Gateway, dial: Dial, upstream: Upstream) -> None:
    upstream.play(Peer.serve)
    client = dial(lost)
    for _ in range(2):
        assert client.get("/dns").status == 503
    assert client.get("/").status == 200


# --------------------------------------------------------------------------------------------------- no usable answer

HEADLESS: dict[str, Callable[[Peer], object]] = {
    "closes at once": Peer.close,
    "resets at once": Peer.reset,
    "closes after the request": lambda peer: peer.request(),
    "resets after the request": lambda peer: (peer.request(), peer.reset()),
    "closes inside its head": lambda peer: (peer.request(), peer.send(b"HTTP/1.1 200 OK\r\nX-S: " + SECRET + b"\r\nContent-Le")),
    "resets inside its head": lambda peer: (peer.request(), peer.send(b"HTTP/1.1 200 OK\r\nX-S: " + SECRET), peer.reset()),
    "closes after an interim answer": lambda peer: (peer.request(), peer.send(b"HTTP/1.1 100 Continue\r\n\r\n")),
}


@pytest.mark.parametrize("fault", HEADLESS)
def test_end_before_the_head_is_502(client: Client, upstream: Upstream, fault: str) -> None:
    upstream.play(after(HEADLESS[fault]))
    answer = client.post("/", b"once")
    assert answer.status == 502
    assert SECRET not in answer.head + answer.body
    goes_on(client, upstream)
    assert [r.body for r in upstream.requests].count(b"once") <= 1


@pytest.mark.parametrize("fault", HEADLESS)
def test_get_on_a_fresh_connection_fails_visibly_too(client: Client, upstream: Upstream, fault: str) -> None:
    upstream.play(after(HEADLESS[fault]))
    answer = client.get("/")
    assert answer.status == 502
    assert len(upstream.peers) == 1
    goes_on(client, upstream)


MALFORMED = {
    "http/0.9": b"<html>" + SECRET + b"</html>",
    "another protocol": b"SSH-2.0-OpenSSH_9.6\r\n" + SECRET,
    "tls alert": b"\x15\x03\x01\x00\x02\x02\x28",
    "h2 settings": b"\x00\x00\x12\x04\x00\x00\x00\x00\x00" + b"\x00" * 18,
    "h2 settings and more": b"\x00\x00\x12\x04\x00\x00\x00\x00\x00" + b"\x00\n" * 9,
    "version 2": b"HTTP/2.0 200 OK\r\nX: " + SECRET + b"\r\n\r\n",
    "bad version": b"HTTP/1.x 200 OK\r\nContent-Length: 0\r\n\r\n",
    "no code": b"HTTP/1.1 OK\r\nContent-Length: 0\r\n\r\n",
    "code of two digits": b"HTTP/1.1 20 OK\r\nContent-Length: 0\r\n\r\n",
    "code of four digits": b"HTTP/1.1 2000 OK\r\nContent-Length: 0\r\n\r\n",
    "code below 100": b"HTTP/1.1 099 OK\r\nContent-Length: 0\r\n\r\n",
    "empty line first": b"\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
    "two lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
    "two equal lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\nabc",
    "length list": b"HTTP/1.1 200 OK\r\nContent-Length: 3, 3\r\n\r\nabc",
    "signed length": b"HTTP/1.1 200 OK\r\nContent-Length: +3\r\n\r\nabc",
    "length and chunked": b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
    "unknown coding": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "two codings": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "coding in 1.0": b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "nul in a value": b"HTTP/1.1 200 OK\r\nX: a\x00" + SECRET + b"\r\nContent-Length: 0\r\n\r\n",
    "cr in a value": b"HTTP/1.1 200 OK\r\nX: a\rX-Evil: 1\r\nContent-Length: 0\r\n\r\n",
    "bare lf": b"HTTP/1.1 200 OK\nContent-Length: 0\n\n",
    "folded field": b"HTTP/1.1 200 OK\r\nX: a\r\n b\r\nContent-Length: 0\r\n\r\n",
    "blank before the colon": b"HTTP/1.1 200 OK\r\nX : a\r\nContent-Length: 0\r\n\r\n",
    "no colon": b"HTTP/1.1 200 OK\r\nnonsense\r\nContent-Length: 0\r\n\r\n",
    "empty name": b"HTTP/1.1 200 OK\r\n: a\r\nContent-Length: 0\r\n\r\n",
    "control in the reason": b"HTTP/1.1 200 O\x01K\r\nContent-Length: 0\r\n\r\n",
    "huge head": b"HTTP/1.1 200 OK\r\n" + b"".join(b"X-%d: %b\r\n" % (i, b"y" * 1000) for i in range(90)) + b"Content-Length: 0\r\n\r\n",
    "too many fields": b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 300 + b"Content-Length: 0\r\n\r\n",
    "endless line": b"HTTP/1.1 200 OK\r\nX: " + b"z" * 200_000,
    "endless status line": b"HTTP/1.1 200 " + b"z" * 200_000,
}


@pytest.mark.parametrize("fault", MALFORMED)
def test_malformed_head_is_502(client: Client, upstream: Upstream, fault: str) -> None:
    def script(peer: Peer) -> None:
        peer.request()
        peer.send(MALFORMED[fault])
        if b"\n" not in MALFORMED[fault]:
            peer.half_close()
        peer.until_eof()

    upstream.play(after(script))
    answer = client.get("/")
    assert answer.status == 502
    assert SECRET not in answer.head + answer.body
    assert b"evil" not in answer.head.lower()
    assert upstream.peers[0].closed.wait(2), "the connection to the upstream is still open"
    goes_on(client, upstream)


@pytest.mark.parametrize("fault", ["two lengths", "nul in a value", "http/0.9"])
def test_malformed_head_split_into_octets_is_502(client: Client, upstream: Upstream, fault: str) -> None:
    stop = threading.Event()

    def script(peer: Peer) -> None:
        peer.request()
        peer.trickle(MALFORMED[fault], 0.0005, stop)
        peer.half_close()
        peer.until_eof()

    upstream.play(after(script))
    assert client.get("/").status == 502
    stop.set()
    goes_on(client, upstream)


# ------------------------------------------------------------------------------------------------------------ too slow


def test_hanging_upstream_is_504(tight: Gateway, dial: Dial, upstream: Upstream) -> None:
    upstream.play(after(lambda peer: (peer.request(), peer.until_eof())))
    client = dial(tight)
    began = time.monotonic()
    assert client.post("/", b"x").status == 504
    assert 0.6 < time.monotonic() - began < 1.8
    assert upstream.peers[0].closed.wait(2)
    goes_on(client, upstream)


def test_trickled_head_is_bounded_in_total(tight: Gateway, dial: Dial, upstream: Upstream) -> None:
    stop = threading.Event()

    def script(peer: Peer) -> None:
        peer.request()
        peer.trickle(b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 100, 0.05, stop)
        peer.until_eof()

    upstream.play(after(script))
    client = dial(tight)
    began = time.monotonic()
    assert client.get("/").status == 504
    assert time.monotonic() - began < 1.8
    stop.set()
    goes_on(client, upstream)


def test_trickled_interim_answers_are_bounded_in_total(tight: Gateway, dial: Dial, upstream: Upstream) -> None:
    stop = threading.Event()

    def script(peer: Peer) -> None:
        peer.request()
        for _ in range(12):
            peer.send(b"HTTP/1.1 100 Continue\r\n\r\n")
            if stop.wait(0.2):
                return

    upstream.play(after(script))
    began = time.monotonic()
    assert dial(tight).get("/").status in (502, 504)
    assert time.monotonic() - began < 1.8
    stop.set()


def test_stalled_body_is_cut(tight: Gateway, dial: Dial, upstream: Upstream) -> None:
    upstream.play(after(lambda peer: (peer.request(), peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n12345"), peer.until_eof())))
    client = dial(tight)
    began = time.monotonic()
    with pytest.raises(Truncated) as ended:
        client.get("/")
    assert ended.value.got.endswith(b"12345")
    assert 0.5 < time.monotonic() - began < 2.5
    assert upstream.peers[0].closed.wait(2)


def test_slow_but_steady_body_is_not_cut(tight: Gateway, dial: Dial, upstream: Upstream) -> None:
    stop = threading.Event()

    def script(peer: Peer) -> None:
        peer.request()
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n")
        peer.trickle(b"0123456789", 0.2, stop)

    upstream.play(script)
    assert dial(tight).get("/").body == b"0123456789"


# ------------------------------------------------------------------------------------------------------- broken bodies

BROKEN: dict[str, tuple[bytes, Callable[[Peer], object]]] = {
    "short by a close": (b"Content-Length: 10\r\n\r\n12345", Peer.half_close),
    "short by a reset": (b"Content-Length: 10\r\n\r\n12345", Peer.reset),
    "chunked without end": (b"Transfer-Encoding: chunked\r\n\r\n5\r\n12345\r\n", Peer.half_close),
    "chunked and reset": (b"Transfer-Encoding: chunked\r\n\r\n5\r\n12345\r\n", Peer.reset),
    "ends inside a chunk": (b"Transfer-Encoding: chunked\r\n\r\nff\r\n12345", Peer.half_close),
    "ends before the last line": (b"Transfer-Encoding: chunked\r\n\r\n5\r\n12345\r\n0\r\n", Peer.half_close),
    "bad size": (b"Transfer-Encoding: chunked\r\n\r\n5\r\n12345\r\nxyz\r\n", Peer.until_eof),
    "negative size": (b"Transfer-Encoding: chunked\r\n\r\n5\r\n12345\r\n-1\r\n", Peer.until_eof),
    "no crlf behind the data": (b"Transfer-Encoding: chunked\r\n\r\n5\r\n12345678", Peer.until_eof),
    "bare lf": (b"Transfer-Encoding: chunked\r\n\r\n5\r\n12345\r\n0\n\n", Peer.until_eof),
    "size of 20 digits": (b"Transfer-Encoding: chunked\r\n\r\n5\r\n12345\r\n10000000000000000000\r\n", Peer.until_eof),
    "endless extension": (b"Transfer-Encoding: chunked\r\n\r\n5\r\n12345\r\n1;" + b"e" * 100_000, Peer.until_eof),
    "endless trailer": (b"Transfer-Encoding: chunked\r\n\r\n5\r\n12345\r\n0\r\n" + b"T: 1\r\n" * 10_000, Peer.until_eof),
    "reset of a close-delimited one": (b"\r\n12345", Peer.reset),
}


@pytest.mark.parametrize("fault", BROKEN)
@pytest.mark.parametrize("apart", [False, True], ids=["at once", "after the head"])
def test_broken_body_never_ends_cleanly(client: Client, upstream: Upstream, fault: str, apart: bool) -> None:
    octets, end = BROKEN[fault]
    begun = threading.Event()

    def script(peer: Peer) -> None:
        peer.request()
        head, _, rest = octets.partition(b"12345")
        peer.send(b"HTTP/1.1 200 OK\r\n" + head + b"12345")
        if apart or end is Peer.reset:
            assert begun.wait(5)
        peer.send(rest)
        end(peer)

    upstream.play(after(script))
    client.send(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
    if apart or end is Peer.reset:
        got = client.until(b"12345")
        begun.set()
        got += client.until_eof()
    else:
        got = client.until_eof()
    assert got.startswith((b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 502 "))
    if got.startswith(b"HTTP/1.1 200"):
        assert got.count(b"HTTP/1.1") == 1, "an error page was appended"
        assert b"\r\n0\r\n" not in got, "a clean end"
        body = got.partition(b"\r\n\r\n")[2]
        assert b"12345" in body
        assert len(body) < 30
    assert upstream.peers[0].closed.wait(2)


def test_broken_close_delimited_body_is_reset(client: Client, upstream: Upstream) -> None:
    """The only sign a client has for a body without length is how the connection ends: not with a FIN."""
    begun = threading.Event()

    def script(peer: Peer) -> None:
        peer.request()
        peer.send(b"HTTP/1.1 200 OK\r\n\r\n12345")
        assert begun.wait(5)
        peer.reset()

    upstream.play(script)
    client.send(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
    client.until(b"12345")
    begun.set()
    with pytest.raises(ConnectionResetError):
        assert client.sock.recv(10) != b"", "FIN: the client takes the body for complete"


@pytest.mark.parametrize("end", [Peer.half_close, Peer.reset])
def test_broken_chunked_body_to_a_1_0_client_is_reset(client: Client, upstream: Upstream, end: Callable[[Peer], None]) -> None:
    begun = threading.Event()

    def script(peer: Peer) -> None:
        peer.request()
        peer.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n12345\r\n")
        assert begun.wait(5)
        end(peer)

    upstream.play(script)
    client.send(b"GET / HTTP/1.0\r\n\r\n")
    client.until(b"12345")
    begun.set()
    with pytest.raises(ConnectionResetError):
        assert client.sock.recv(10) != b"", "FIN: the client takes the body for complete"


@pytest.mark.parametrize(
    "octets",
    [
        b"Content-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison",
        b"Transfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison",
        b"Content-Length: 2\r\n\r\nok\r\n",
    ],
)
def test_surplus_octets_reach_nobody(client: Client, upstream: Upstream, gateway: Gateway, dial: Dial, octets: bytes) -> None:
    upstream.play(after(lambda peer: (peer.request(), peer.send(b"HTTP/1.1 200 OK\r\n" + octets), peer.until_eof())))
    assert client.get("/").body == b"ok"
    goes_on(client, upstream)
    assert dial(gateway).get("/").body == b"fine"
    assert upstream.peers[0].closed.wait(2)


@pytest.mark.parametrize("status", [b"204 No Content", b"304 Not Modified", b"200 OK"])
def test_body_where_none_may_be_reaches_nobody(client: Client, upstream: Upstream, status: bytes) -> None:
    method = b"HEAD" if status.startswith(b"200") else b"GET"
    octets = b"HTTP/1.1 " + status + b"\r\nContent-Length: 6\r\n\r\npoison"
    upstream.play(after(lambda peer: (peer.head(), peer.send(octets), peer.until_eof())))
    assert client.get("/", method=method).status == int(status[:3])
    goes_on(client, upstream)


@pytest.mark.parametrize("gap", [0.0, 0.002, 0.05])
def test_unsolicited_octets_on_an_idle_connection_reach_nobody(client: Client, upstream: Upstream, gap: float) -> None:
    def script(peer: Peer) -> None:
        peer.answer(peer.request(), b"fine")
        threading.Event().wait(gap)
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison")
        peer.until_eof()

    upstream.play(script)
    for i in range(10):
        assert client.post("/", b"x").body == b"fine"
        assert upstream.peers[i].closed.wait(2), "the connection is kept although it spoke unasked"


@pytest.mark.parametrize("method", [b"GET", b"POST"])
def test_unsolicited_octets_in_the_same_batch_as_the_next_request(client: Client, upstream: Upstream, gateway: Gateway, method: bytes) -> None:
    """The pool must look at a connection when it is taken out: epoll has not told of the octets yet (rule 12)."""
    go, sent = threading.Event(), threading.Event()

    def script(peer: Peer) -> None:
        peer.answer(peer.request(), b"first")
        assert go.wait(5)
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison")
        sent.set()
        peer.until_eof()

    upstream.play(after(script))
    assert client.get("/").body == b"first"
    settled(gateway)
    with frozen(gateway):
        client.send(client.message(method, "/", b""))
        go.set()
        assert sent.wait(5)
    answer = client.answer()
    assert answer.body != b"poison", "an answer nobody asked for was given to the next request"
    assert answer.status in (200, 502)
    goes_on(client, upstream)


@pytest.mark.parametrize("method", [b"GET", b"POST"])
@pytest.mark.parametrize("end", [Peer.half_close, Peer.reset])
def test_pooled_connection_that_ended_in_the_same_batch(
    client: Client, upstream: Upstream, gateway: Gateway, method: bytes, end: Callable[[Peer], None]
) -> None:
    go, ended = threading.Event(), threading.Event()

    def script(peer: Peer) -> None:
        peer.answer(peer.request(), b"first")
        assert go.wait(5)
        end(peer)
        ended.set()

    upstream.play(after(script))
    assert client.get("/").body == b"first"
    settled(gateway)
    with frozen(gateway):
        client.send(client.message(method, "/", b"once"))
        go.set()
        assert ended.wait(5)
    answer = client.answer()
    assert (answer.status, answer.body) == (200, b"fine")
    assert [r.body for r in upstream.requests].count(b"once") == 1


# ------------------------------------------------------------------------------------------------------ stale and retry


def test_stale_connection_get_is_retried_once(client: Client, upstream: Upstream, gateway: Gateway) -> None:
    """The upstream takes the second request of a connection and closes without a word: the GET is asked again."""

    def script(peer: Peer) -> None:
        if peer.index == 0:
            peer.answer(peer.request(), b"first")
            peer.request()
        else:
            peer.serve(b"fine")

    upstream.play(script)
    before = gateway.metrics().total("retries_total")
    assert client.get("/").body == b"first"
    assert client.get("/again?x", b"X-Y: z").body == b"fine"
    assert upstream.requests[1].wire == upstream.requests[2].wire
    assert gateway.metrics().total("retries_total") in (before + 1, 0)


@pytest.mark.parametrize("method", [b"POST", b"PATCH", b"M-SEARCH"])
def test_stale_connection_post_is_never_executed_twice(client: Client, upstream: Upstream, method: bytes) -> None:
    def script(peer: Peer) -> None:
        if peer.index == 0:
            peer.answer(peer.request(), b"first")
            peer.request()
        else:
            peer.serve(b"fine")

    upstream.play(script)
    assert client.get("/").body == b"first"
    assert client.ask(client.message(method, "/once", b"once")).status == 502
    assert len([r for r in upstream.requests if r.target == b"/once"]) == 1
    goes_on(client, upstream)


def test_retry_happens_only_once(client: Client, upstream: Upstream) -> None:
    def script(peer: Peer) -> None:
        if peer.index == 0:
            peer.answer(peer.request(), b"first")
        peer.request()

    upstream.play(script)
    assert client.get("/").body == b"first"
    assert client.get("/twice").status == 502
    assert len([r for r in upstream.requests if r.target == b"/twice"]) == 2


def test_no_retry_after_the_first_octet(client: Client, upstream: Upstream) -> None:
    def script(peer: Peer) -> None:
        peer.answer(peer.request(), b"first")
        peer.request()
        peer.send(b"H")

    upstream.play(script)
    assert client.get("/").body == b"first"
    assert client.get("/begun").status == 502
    assert len(upstream.requests) == 2


def test_put_with_a_body_is_retried_whole(client: Client, upstream: Upstream) -> None:
    def script(peer: Peer) -> None:
        if peer.index == 0:
            peer.answer(peer.request(), b"first")
            peer.request()
        else:
            peer.serve(b"fine")

    upstream.play(script)
    body = os.urandom(30_000)
    assert client.get("/").body == b"first"
    answer = client.ask(client.message(b"PUT", "/put", body))
    puts = [r for r in upstream.requests if r.target == b"/put"]
    assert (answer.status, len(puts)) in ((200, 2), (502, 1))
    assert all(r.body == body for r in puts)


def test_upstream_that_closes_after_each_answer(client: Client, upstream: Upstream) -> None:
    """Without `Connection: close`. Neither a GET nor a POST may suffer when the close came before the next request was sent."""

    def script(peer: Peer) -> None:
        peer.answer(peer.request(), b"fine")

    upstream.play(script)
    for i in range(60):
        answer = client.get("/") if i % 2 else client.post("/", b"x")
        assert answer.status == 200, i
        assert upstream.peers[i].closed.wait(2)
    assert len(upstream.requests) == 60


def test_upstream_that_says_close_but_stays(client: Client, upstream: Upstream) -> None:
    upstream.play(lambda peer: (peer.answer(peer.request(), b"fine", head=b"Connection: close\r\n"), peer.until_eof()))
    for _ in range(5):
        assert client.post("/", b"x").body == b"fine"
    for peer in upstream.peers:
        assert peer.closed.wait(2)


# ------------------------------------------------------------------------------------------------------ early responses


@pytest.mark.parametrize("framing", [b"Content-Length: 100000000", b"Transfer-Encoding: chunked"])
@pytest.mark.parametrize("stays", [True, False], ids=["stays", "closes"])
def test_early_answer_while_uploading(client: Client, upstream: Upstream, framing: bytes, stays: bool) -> None:
    def script(peer: Peer) -> None:
        peer.owner.keep(peer.head())
        peer.send(b"HTTP/1.1 413 Too Large\r\nContent-Length: 5\r\n\r\nlarge")
        if stays:
            peer.until_eof()

    upstream.play(after(script))
    piece = b"x" * 1000 if framing.startswith(b"C") else b"3e8\r\n" + b"x" * 1000 + b"\r\n"
    client.send(b"POST / HTTP/1.1\r\nHost: h\r\n" + framing + b"\r\n\r\n" + piece)
    answer = client.answer()
    assert (answer.status, answer.body) == (413, b"large")
    assert answer.closes
    assert client.closed(5)
    assert upstream.peers[0].closed.wait(2)
    assert len(upstream.requests) == 1


def test_early_answer_to_a_sender_that_does_not_read(gateway: Gateway, dial: Dial, upstream: Upstream) -> None:
    """The client goes on sending for a while; the answer must survive that (no reset before it is read)."""

    def script(peer: Peer) -> None:
        peer.owner.keep(peer.head())
        peer.send(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno")
        peer.until_eof()

    upstream.play(script)
    client = dial(gateway)
    client.send(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 50000000\r\n\r\n")
    upstream.wait_requests(1)
    try:
        for _ in range(100):
            client.send(b"x" * 10_000)
    except ConnectionError:
        pass
    assert client.answer().body == b"no"


def test_answer_before_the_body_and_a_body_that_still_comes(client: Client, upstream: Upstream) -> None:
    """A streaming upstream may begin its answer early and go on reading; both directions go on."""

    def script(peer: Peer) -> None:
        request = peer.head()
        peer.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nbegun\r\n")
        peer.body(request)
        peer.owner.keep(request)
        peer.send(b"3\r\nend\r\n0\r\n\r\n")
        peer.until_eof()

    upstream.play(script)
    client.send(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 200000\r\n\r\n" + b"a" * 100_000)
    answer = client.head()
    client.until(b"begun\r\n")
    client.send(b"b" * 100_000)
    assert client.body(answer).body == b"end"
    assert upstream.requests[0].body == b"a" * 100_000 + b"b" * 100_000


# -------------------------------------------------------------------------------------------------------- caps, queues


@pytest.fixture(scope="module")
def module_narrow(session_upstreams: dict[str, Upstream]) -> Iterator[Gateway]:
    a, b = session_upstreams["a"].host, session_upstreams["b"].host
    backend = {"maxConnections": 1, "maxPending": 2, "pendingTimeout": "700ms", "responseTimeout": "5s"}
    with Gateway(configuration([host_route(a), host_route(b, "/second"), mcp_route(a)], backend=backend), workers=1) as gateway:
        yield gateway


@pytest.fixture
def narrow(module_narrow: Gateway) -> Iterator[Gateway]:
    """One connection per upstream, two waiting requests, for 700 ms at most."""
    with unharmed(module_narrow):
        yield module_narrow


def test_queue_is_bounded_in_length_and_time(narrow: Gateway, dial: Dial, upstream: Upstream, second: Upstream) -> None:
    go = threading.Event()

    def script(peer: Peer) -> None:
        while True:
            request = peer.request()
            go.wait(5)
            peer.answer(request, request.target)

    upstream.play(script)
    second.play(Peer.serve)
    clients = [dial(narrow) for _ in range(5)]
    clients[0].send(b"GET /0 HTTP/1.1\r\nHost: h\r\n\r\n")
    upstream.wait_requests(1)
    for i in (1, 2):
        clients[i].send(b"GET /%d HTTP/1.1\r\nHost: h\r\n\r\n" % i)
        assert clients[i].silent_for(0.05)
    began = time.monotonic()
    for i in (3, 4):
        assert clients[i].get(f"/{i}").status == 503
    assert time.monotonic() - began < 0.3, "a full queue answers at once"
    assert clients[3].get("/second").status == 200, "another upstream is unaffected"
    assert [clients[i].answer().status for i in (1, 2)] == [503, 503]
    assert 0.4 < time.monotonic() - began < 2
    go.set()
    assert clients[0].answer().body == b"/0"
    assert clients[3].get("/5").body == b"/5"
    assert [r.target for r in upstream.requests] == [b"/0", b"/5"]
    assert len(upstream.peers) == 1


def test_waiting_requests_are_served_in_order(narrow: Gateway, dial: Dial, upstream: Upstream) -> None:
    go = threading.Event()

    def script(peer: Peer) -> None:
        while True:
            request = peer.request()
            go.wait(5)
            peer.answer(request, request.target + request.body)

    upstream.play(script)
    clients = [dial(narrow) for _ in range(3)]
    clients[0].send(b"GET /0 HTTP/1.1\r\nHost: h\r\n\r\n")
    upstream.wait_requests(1)
    body = os.urandom(300_000)
    clients[1].send(clients[1].message(b"POST", "/1", body[:200_000]))
    assert clients[1].silent_for(0.1)
    clients[2].send(b"POST /2 HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n")
    assert clients[2].silent_for(0.1)
    go.set()
    assert clients[0].answer().body == b"/0"
    assert clients[1].answer().body == b"/1" + body[:200_000]
    clients[2].send(b"3\r\nabc\r\n0\r\n\r\n")
    assert clients[2].answer().body == b"/2abc"
    assert len(upstream.peers) == 1


def test_waiting_client_that_leaves_frees_its_place(narrow: Gateway, dial: Dial, upstream: Upstream) -> None:
    go = threading.Event()

    def script(peer: Peer) -> None:
        while True:
            request = peer.request()
            go.wait(5)
            peer.answer(request, request.target)

    upstream.play(script)
    first = dial(narrow)
    first.send(b"GET /0 HTTP/1.1\r\nHost: h\r\n\r\n")
    upstream.wait_requests(1)
    leaving = [dial(narrow) for _ in range(2)]
    for one in leaving:
        one.send(b"GET /gone HTTP/1.1\r\nHost: h\r\n\r\n")
        assert one.silent_for(0.05)
        one.reset()
    stays = dial(narrow)
    stays.send(b"GET /1 HTTP/1.1\r\nHost: h\r\n\r\n")
    assert stays.silent_for(0.05)
    go.set()
    assert first.answer().body == b"/0"
    assert stays.answer().body == b"/1"
    assert b"/gone" not in [r.target for r in upstream.requests]


@pytest.mark.parametrize("fault", ["closes at once", "resets after the request", "closes inside its head"])
def test_the_only_place_is_free_again_after_a_fault(narrow: Gateway, dial: Dial, upstream: Upstream, fault: str) -> None:
    upstream.play(HEADLESS[fault])
    client = dial(narrow)
    for _ in range(5):
        assert client.get("/").status == 502
    upstream.play(lambda peer: peer.serve(b"fine"))
    goes_on(client, upstream)


def test_the_only_place_is_free_again_after_the_client_left(narrow: Gateway, dial: Dial, upstream: Upstream) -> None:
    upstream.play(after(lambda peer: (peer.request(), peer.until_eof())))
    leaving = dial(narrow)
    leaving.send(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
    upstream.wait_requests(1)
    leaving.close()
    client = dial(narrow)
    wait_until(lambda: client.get("/").status == 200, 3, "a free connection")


def test_retry_when_the_only_place_was_stale(narrow: Gateway, dial: Dial, upstream: Upstream) -> None:
    def script(peer: Peer) -> None:
        if peer.index == 0:
            peer.answer(peer.request(), b"first")
            peer.request()
        else:
            peer.serve(b"fine")

    upstream.play(script)
    client = dial(narrow)
    assert client.get("/").body == b"first"
    assert client.get("/again").body == b"fine"
    assert len(upstream.peers) == 2


def test_nothing_is_left_behind(gateway: Gateway, tight: Gateway, narrow: Gateway) -> None:
    """The last test of this file: whatever went wrong above, no request is under way and the gauges agree."""
    for one in (gateway, tight, narrow):
        settled(one)
        metrics = one.metrics()
        assert metrics.total("upstream_connections_active") <= 4
        assert metrics.total("downstream_connections_active") <= 4
