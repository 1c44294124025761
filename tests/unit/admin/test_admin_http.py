"""The cold-path HTTP server on real sockets: framing, limits, timeouts, streams, cancellation, shutdown."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import socket
import threading
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest

from agw.admin.http import HttpError, HttpServer, Limits, Request, Response

WAIT_S = 5.0


async def describe(request: Request) -> Response:
    """Answers with what it understood."""
    seen = {
        "method": request.method,
        "path": request.path,
        "query": request.query,
        "authority": request.authority,
        "body": request.body.decode("latin-1"),
        "loopback": request.loopback,
    }
    return Response(200, json.dumps(seen).encode())


def connect(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=WAIT_S)


def read_all(sock: socket.socket) -> bytes:
    received = b""
    while data := sock.recv(65536):
        received += data
    return received


def exchange(port: int, data: bytes) -> bytes:
    """Everything the server says to `data` until it closes."""
    with connect(port) as sock:
        sock.sendall(data)
        return read_all(sock)


def status_of(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1])


def test_requests_follow_each_other_on_one_connection(serve: Any) -> None:
    server, port = serve(describe)
    client = http.client.HTTPConnection("127.0.0.1", port, timeout=WAIT_S)
    for number in range(3):
        client.request("POST", f"/a/b?n={number}", body=b"x" * number)
        response = client.getresponse()
        seen = json.load(response)
        assert (response.status, seen["path"], seen["query"], seen["body"]) == (
            200,
            "/a/b",
            f"n={number}",
            "x" * number,
        )
        assert response.getheader("date")
        assert seen["loopback"] is True
    assert server.connection_count == 1
    client.close()


def test_head_has_the_length_and_no_body(serve: Any) -> None:
    _, port = serve(describe)
    answer = exchange(port, b"HEAD / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
    head, _, body = answer.partition(b"\r\n\r\n")
    assert status_of(answer) == 200
    assert b"content-length: " in head.lower()
    assert body == b""


def test_pipelined_requests_are_answered_in_order(serve: Any) -> None:
    _, port = serve(describe)
    answer = exchange(
        port,
        b"POST /1 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
        b"GET /2 HTTP/1.1\r\nHost: a\r\n\r\nGET /3 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
    )
    assert answer.count(b"HTTP/1.1 200") == 3
    assert answer.index(b'"/1"') < answer.index(b'"/2"') < answer.index(b'"/3"')


def test_any_split_of_the_input_means_the_same(serve: Any) -> None:
    _, port = serve(describe)
    data = (
        b"POST /p?q HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n2\r\nab\r\n0\r\n\r\n"
    )
    with connect(port) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for index in range(len(data)):
            sock.sendall(data[index : index + 1])
        piecewise = read_all(sock)
    assert piecewise.partition(b"\r\n\r\n")[2] == exchange(port, data).partition(b"\r\n\r\n")[2]


def test_the_authority_of_an_absolute_target_replaces_host(serve: Any) -> None:
    _, port = serve(describe)
    answer = exchange(port, b"GET http://other:1/x?y HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
    seen = json.loads(answer.partition(b"\r\n\r\n")[2])
    assert (seen["authority"], seen["path"], seen["query"]) == ("other:1", "/x", "y")


GET = b"GET / HTTP/1.1\r\nHost: a\r\n"
POST = b"POST / HTTP/1.1\r\nHost: a\r\n"


@pytest.mark.parametrize(
    ("data", "status"),
    [
        pytest.param(b"GET / HTTP/1.1\nHost: a\n\n", 400, id="bare-lf"),
        pytest.param(b"GET / HTTP/1.1\r\nHost: a\rX: b\r\n\r\n", 400, id="bare-cr"),
        pytest.param(GET + b"X: a\r\n b\r\n\r\n", 400, id="folded-line"),
        pytest.param(b"GET / HTTP/1.1\r\n\r\n", 400, id="no-host"),
        pytest.param(GET + b"Host: b\r\n\r\n", 400, id="two-hosts"),
        pytest.param(GET + b"X : b\r\n\r\n", 400, id="blank-before-colon"),
        pytest.param(GET + b"X: a\x00b\r\n\r\n", 400, id="nul"),
        pytest.param(GET + b": b\r\n\r\n", 400, id="empty-name"),
        pytest.param(GET + b"nonsense\r\n\r\n", 400, id="no-colon"),
        pytest.param(b"\r\n" + GET + b"\r\n", 400, id="leading-crlf"),
        pytest.param(b"GET / HTTP/2.0\r\nHost: a\r\n\r\n", 505, id="version"),
        pytest.param(b"GET /# HTTP/1.1\r\nHost: a\r\n\r\n", 400, id="fragment"),
        pytest.param(b"GET x HTTP/1.1\r\nHost: a\r\n\r\n", 400, id="no-path"),
        pytest.param(POST + b"Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400, id="cl-te"),
        pytest.param(POST + b"Content-Length: 1\r\nContent-Length: 1\r\n\r\na", 400, id="two-lengths"),
        pytest.param(POST + b"Content-Length: 1, 1\r\n\r\na", 400, id="length-list"),
        pytest.param(POST + b"Content-Length: +1\r\n\r\na", 400, id="signed-length"),
        pytest.param(POST + b"Content-Length: " + b"9" * 5000 + b"\r\n\r\n", 413, id="endless-length"),
        pytest.param(POST + b"Content-Length: 101\r\n\r\n", 413, id="declared-too-large"),
        pytest.param(
            POST + b"Transfer-Encoding: chunked\r\n\r\n65\r\n" + b"a" * 101 + b"\r\n0\r\n\r\n",
            413,
            id="chunks-too-large",
        ),
        pytest.param(POST + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n", 400, id="chunk-size"),
        pytest.param(POST + b"Transfer-Encoding: chunked\r\n\r\n1\r\nab\r\n0\r\n\r\n", 400, id="chunk-end"),
        pytest.param(POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n", 501, id="coding"),
        pytest.param(b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400, id="te-in-1.0"),
        pytest.param(GET + b"Expect: magic\r\n\r\n", 417, id="expectation"),
        pytest.param(b"CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n", 501, id="connect"),
        pytest.param(b"GET /" + b"a" * 8192, 414, id="endless-line"),
        pytest.param(GET + b"X: " + b"a" * 8192, 431, id="endless-header"),
        pytest.param(GET + b"X: " + b"a" * 8192 + b"\r\n\r\n", 431, id="large-head-in-one-piece"),
        pytest.param(GET + b"X: a\r\n" * 100 + b"\r\n", 431, id="many-headers"),
    ],
)
def test_what_is_not_acceptable_is_refused_once_and_nothing_follows(serve: Any, data: bytes, status: int) -> None:
    _, port = serve(describe, Limits(body_bytes=100, linger_s=0.05))
    answer = exchange(port, data + b"GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n")
    assert status_of(answer) == status
    assert answer.count(b"HTTP/1.1 ") == 1
    assert b"connection: close" in answer.lower()
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["status"] == status


def test_a_refusal_arrives_although_the_client_is_still_sending(serve: Any) -> None:
    _, port = serve(describe, Limits(body_bytes=100))
    with connect(port) as sock:
        sock.sendall(POST + b"Content-Length: 4000000\r\n\r\n" + b"a" * 4_000_000)
        sock.shutdown(socket.SHUT_WR)
        assert status_of(read_all(sock)) == 413


def test_continue_is_sent_when_the_client_waits_for_it(serve: Any) -> None:
    _, port = serve(describe)
    with connect(port) as sock:
        sock.sendall(POST + b"Expect: 100-continue\r\nContent-Length: 2\r\nConnection: close\r\n\r\n")
        assert sock.recv(100).startswith(b"HTTP/1.1 100 ")
        sock.sendall(b"ab")
        assert b'"body": "ab"' in read_all(sock)


@pytest.mark.parametrize("data", [b"GET / HT", POST + b"Content-Length: 2\r\n\r\na"], ids=["head", "body"])
def test_a_slow_request_gets_408(serve: Any, data: bytes) -> None:
    _, port = serve(describe, Limits(header_timeout_s=0.1, body_timeout_s=0.1, linger_s=0.01))
    assert status_of(exchange(port, data)) == 408


def test_silent_and_idle_connections_are_closed_without_a_word(serve: Any) -> None:
    _, port = serve(describe, Limits(header_timeout_s=0.1, idle_timeout_s=0.1))
    assert exchange(port, b"") == b""
    assert exchange(port, GET + b"\r\n").count(b"HTTP/1.1") == 1


def test_connections_over_the_limit_get_503(serve: Any) -> None:
    server, port = serve(describe, Limits(connections=2))
    held = [http.client.HTTPConnection("127.0.0.1", port, timeout=WAIT_S) for _ in range(2)]
    for client in held:
        client.request("GET", "/")
        client.getresponse().read()
    with connect(port) as sock:
        answer = read_all(sock)
    assert status_of(answer) == 503
    assert b"retry-after: 1" in answer
    assert server.connection_count == 2
    for client in held:
        client.close()


def test_a_leaving_client_cancels_the_handler(serve: Any) -> None:
    entered, cancelled = threading.Event(), threading.Event()

    async def wait(request: Request) -> Response:
        entered.set()
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()
        return Response()

    _, port = serve(wait)
    with connect(port) as sock:
        sock.sendall(GET + b"\r\n")
        assert entered.wait(WAIT_S)
    assert cancelled.wait(WAIT_S)


def test_a_stream_is_sent_piece_by_piece_and_closed_when_the_client_leaves(serve: Any) -> None:
    closed = threading.Event()

    async def stream(request: Request) -> Response:
        async def chunks() -> AsyncGenerator[bytes, None]:
            try:
                yield b"first"
                await asyncio.Event().wait()
            finally:
                closed.set()

        return Response(200, chunks())

    _, port = serve(stream)
    client = http.client.HTTPConnection("127.0.0.1", port, timeout=WAIT_S)
    client.request("GET", "/")
    response = client.getresponse()
    assert response.read1() == b"first"
    assert not closed.is_set()
    response.close()
    client.close()
    assert closed.wait(WAIT_S)


def test_a_reader_that_stops_stops_the_stream_and_is_dropped(serve: Any) -> None:
    produced = 0
    closed = threading.Event()

    async def stream(request: Request) -> Response:
        async def chunks() -> AsyncGenerator[bytes, None]:
            nonlocal produced
            try:
                while True:
                    produced += 1
                    yield b"x" * 65536
            finally:
                closed.set()

        return Response(200, chunks())

    _, port = serve(stream, Limits(write_timeout_s=0.3))
    with connect(port) as sock:
        sock.sendall(GET + b"\r\n")
        assert closed.wait(WAIT_S)
    # What fits into both kernels' socket buffers, a few MiB; without backpressure it would be endless.
    assert produced < 1000


def test_a_stream_that_fails_is_cut(serve: Any) -> None:
    async def stream(request: Request) -> Response:
        async def chunks() -> AsyncGenerator[bytes, None]:
            yield b"half"
            raise RuntimeError("secret")

        return Response(200, chunks())

    _, port = serve(stream)
    client = http.client.HTTPConnection("127.0.0.1", port, timeout=WAIT_S)
    client.request("GET", "/")
    with pytest.raises((http.client.IncompleteRead, ConnectionError)):
        client.getresponse().read()
    client.close()


def test_a_failing_handler_costs_one_exchange_and_tells_nothing(serve: Any) -> None:
    async def fail(request: Request) -> Response:
        if request.path == "/refuse":
            raise HttpError(418, "no", headers=(("x-why", "teapot"),))
        raise RuntimeError("secret")

    _, port = serve(fail)
    client = http.client.HTTPConnection("127.0.0.1", port, timeout=WAIT_S)
    client.request("GET", "/")
    response = client.getresponse()
    assert (response.status, b"secret" in response.read()) == (500, False)
    client.request("GET", "/refuse")
    response = client.getresponse()
    assert (response.status, response.getheader("x-why")) == (418, "teapot")
    assert json.load(response) == {"error": {"status": 418, "message": "no"}}
    client.close()


def test_a_handler_cannot_split_the_response(serve: Any) -> None:
    async def inject(request: Request) -> Response:
        return Response(200, b"", (("x", "a\r\nset-cookie: b"),))

    _, port = serve(inject)
    assert b"set-cookie" not in exchange(port, GET + b"\r\n")


def test_close_lets_a_running_request_finish_and_cuts_a_stream(loop_thread: Any) -> None:
    entered, release = threading.Event(), threading.Event()

    async def handler(request: Request) -> Response:
        if request.path == "/stream":

            async def chunks() -> AsyncGenerator[bytes, None]:
                yield b"on"
                await asyncio.Event().wait()

            return Response(200, chunks())
        entered.set()
        await asyncio.get_running_loop().run_in_executor(None, release.wait, WAIT_S)
        return Response(200, b"done")

    server = HttpServer(handler)
    sock = socket.create_server(("127.0.0.1", 0))
    port = sock.getsockname()[1]
    loop_thread.run(server.listen(sock))
    with connect(port) as idle, connect(port) as streaming, connect(port) as working:
        streaming.sendall(b"GET /stream HTTP/1.1\r\nHost: a\r\n\r\n")
        while b"on" not in streaming.recv(4096):
            pass
        working.sendall(b"GET /work HTTP/1.1\r\nHost: a\r\n\r\n")
        assert entered.wait(WAIT_S)
        closing = asyncio.run_coroutine_threadsafe(server.close(0.5), loop_thread.loop)
        assert idle.recv(10) == b""
        release.set()
        answer = read_all(working)
        assert answer.endswith(b"done")
        assert b"connection: close" in answer.lower()
        with contextlib.suppress(ConnectionResetError):  # a cut connection may also look like this
            assert b"0\r\n\r\n" not in read_all(streaming)
        closing.result(WAIT_S)
    with pytest.raises(ConnectionRefusedError):
        connect(port)


def test_a_unix_socket_serves_too(loop_thread: Any, tmp_path: Path) -> None:
    address = str(tmp_path / "admin.sock")
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.bind(address)
    server = HttpServer(describe)
    loop_thread.run(server.listen(sock))
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.settimeout(WAIT_S)
        client.connect(address)
        client.sendall(GET + b"Connection: close\r\n\r\n")
        answer = read_all(client)
    assert status_of(answer) == 200
    assert b'"loopback": false' in answer
    loop_thread.run(server.close())
