"""What an MCP route adds to forwarding: the envelope is read, errors are JSON-RPC, streams pass as they come."""

from __future__ import annotations

import json
import random
import threading
import time
from typing import Any

import pytest

from tests.integration.http.conftest import Dial, settled
from tests.kits.gateway import Gateway
from tests.peers.client import Answer, Client
from tests.peers.upstream import Peer, Upstream

CALL = b'{"jsonrpc":"2.0","id":%b,"method":"tools/call","params":{"name":"t","arguments":{"x":1}}}'


def post(client: Client, body: bytes, *lines: bytes) -> Answer:
    return client.ask(client.message(b"POST", "/mcp", body, b"Content-Type: application/json", b"Accept: application/json, text/event-stream", *lines))


def error_of(answer: Answer, status: int, code: int, ident: bytes = b"null") -> dict[str, Any]:
    """The error object; the id is compared as text, because 1 and 1.0 and 2**53+1 are not the same to a caller."""
    assert answer.status == status, (answer.head, answer.body)
    assert answer.get(b"content-type") == [b"application/json"]
    assert b'"id":' + ident + b"," in answer.body, answer.body
    message = json.loads(answer.body)
    assert message["jsonrpc"] == "2.0"
    assert set(message) == {"jsonrpc", "id", "error"}
    assert message["error"]["code"] == code, message
    assert isinstance(message["error"]["message"], str)
    return dict(message["error"])


# ------------------------------------------------------------------------------------------------------------ envelopes


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b" ",
        b"{",
        b"nonsense",
        b'{"jsonrpc":"2.0","id":1,"method":"ping"}x',
        b'{"jsonrpc":"2.0","id":01,"method":"ping"}',
        b'{"jsonrpc":"2.0","id":NaN}',
        b'{"jsonrpc":"2.0","method":"ping\xff"}',
        b'{"a":"\t"}',
        b'{"a":1,}',
        b"[" * 100_000,
        b'{"a":' * 5000,
        b"\xef\xbb\xbf{}",
        b'{"jsonrpc":"2.0",\x00}',
    ],
)
def test_what_is_no_json_is_a_parse_error(client: Client, upstream: Upstream, body: bytes) -> None:
    upstream.play(Peer.serve)
    answer = client.ask(client.message(b"POST", "/mcp", body))
    error_of(answer, 400, -32700)
    assert not upstream.peers
    assert post(client, CALL % b"1").status == 200


@pytest.mark.parametrize(
    ("body", "ident"),
    [
        (b"1", b"null"),
        (b'"x"', b"null"),
        (b"{}", b"null"),
        (b'{"id":7,"jsonrpc":"1.0","method":"ping"}', b"7"),
        (b'{"jsonrpc":"2.0","id":"a","method":1}', b'"a"'),
        (b'{"jsonrpc":"2.0","id":1.5,"method":"ping"}', b"null"),
        (b'{"jsonrpc":"2.0","id":null,"method":"ping"}', b"null"),
        (b'{"jsonrpc":"2.0","id":{},"method":"ping"}', b"null"),
        (b'{"jsonrpc":"2.0","id":true,"method":"ping"}', b"null"),
        (b'{"jsonrpc":"2.0","id":8,"method":"ping","params":1}', b"8"),
        (b'{"jsonrpc":"2.0","id":8}', b"8"),
        (b'{"jsonrpc":"2.0","id":8,"method":"ping","result":1}', b"8"),
        (b'{"jsonrpc":"2.0","id":8,"result":1,"error":{}}', b"8"),
    ],
)
def test_bad_envelope(client: Client, upstream: Upstream, body: bytes, ident: bytes) -> None:
    upstream.play(Peer.serve)
    error_of(post(client, body), 400, -32600, ident)
    assert not upstream.peers
    assert post(client, CALL % b"1").status == 200


@pytest.mark.parametrize(
    "body",
    [
        b'{"jsonrpc":"2.0","id":1,"id":2,"method":"ping"}',
        b'{"jsonrpc":"2.0","id":1,"method":"ping","method":"tools/call"}',
        b'{"jsonrpc":"2.0","id":1,"method":"ping","Method":"tools/call"}',
        b'{"jsonrpc":"2.0","ID":1,"method":"ping"}',
        b'{"jsonrpc":"2.0","id":1,"meth\\u006fd":"tools/call","method":"ping"}',
        b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"a","name":"b"}}',
        b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"a","NAME":"b"}}',
        b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"a"},"params":{"name":"b"}}',
        b'{"jsonrpc":"2.0","id":1,"method":"resources/read","params":{"uri":"a","Uri":"b"}}',
    ],
)
def test_duplicate_members_are_refused(client: Client, upstream: Upstream, body: bytes) -> None:
    upstream.play(Peer.serve)
    answer = post(client, body)
    assert answer.status == 400
    assert json.loads(answer.body)["error"]["code"] == -32600
    assert not upstream.peers


@pytest.mark.parametrize(
    "ident", [b'"abc"', b"1", b"0", b"-1", b"9007199254740993", b"123456789012345678901234567890", b'"\\u00e9\\n\\""', '"é"'.encode(), b'""']
)
def test_upstream_failure_carries_the_callers_id(tight: Gateway, dial: Dial, upstream: Upstream, ident: bytes) -> None:
    upstream.play(lambda peer: (peer.request(), peer.reset()))
    client = dial(tight)
    error = error_of(post(client, CALL % ident), 502, -32603, ident)
    assert error["data"] == {"reason": "UpstreamFailure", "status": 502}
    upstream.play(Peer.serve)
    assert post(client, CALL % ident).status == 200


def test_upstream_failures_of_every_kind_are_json_rpc(tight: Gateway, dial: Dial, upstream: Upstream) -> None:
    client = dial(tight)
    upstream.play(lambda peer: (peer.request(), peer.until_eof(3)))
    error_of(post(client, CALL % b'"slow"'), 504, -32603, b'"slow"')
    upstream.play(lambda peer: (peer.request(), peer.send(b"SSH-2.0-OpenSSH\r\n\r\n"), peer.until_eof()))
    error_of(post(client, CALL % b"2"), 502, -32603, b"2")
    upstream.settle()
    upstream.stop_listening()
    try:
        error_of(post(client, CALL % b"3"), 503, -32603, b"3")
        error_of(post(client, b'{"jsonrpc":"2.0","method":"notifications/initialized"}'), 503, -32603)
        error_of(client.get("/mcp"), 503, -32603)
    finally:
        upstream.listen_again()
    upstream.play(Peer.serve)
    assert post(client, CALL % b"4").status == 200


def test_failure_after_failure_does_not_leak_ids(tight: Gateway, dial: Dial, upstream: Upstream) -> None:
    upstream.play(lambda peer: (peer.request(), peer.reset()))
    client = dial(tight)
    error_of(post(client, CALL % b'"secret-of-another"'), 502, -32603, b'"secret-of-another"')
    error_of(client.get("/mcp"), 502, -32603)
    error_of(post(client, b'{"jsonrpc":"2.0","method":"notifications/initialized"}'), 502, -32603)
    error_of(post(client, b"{"), 400, -32700)
    assert b"secret" not in client.get("/", method=b"PUT").body


# --------------------------------------------------------------------------------------------------------------- bodies


def test_body_arrives_unchanged(client: Client, upstream: Upstream) -> None:
    body = b' {"jsonrpc" : "2.0",\r\n"id":1e0 ,"method":"x"}'.replace(b"1e0", b"10") + b"\n\t "
    body = body.replace(b'"x"', '"x/é\\u00e9","params":{"a":1.10,"b":-0,"c":1e400,"d":["",{}],"name":"n"}'.encode())
    upstream.play(lambda peer: peer.serve(b'{"jsonrpc":"2.0","id":10,"result":{}}', head=b"Content-Type: application/json\r\nMcp-Session-Id: s-1\r\n"))
    answer = post(client, body, b"Mcp-Session-Id: s-0", b"MCP-Protocol-Version: 2025-11-25", b"Last-Event-ID: 7")
    request = upstream.requests[0]
    assert request.body == body
    assert request.get(b"content-length") == [b"%d" % len(body)]
    assert request.get(b"transfer-encoding") == []
    assert request.get(b"mcp-session-id") == [b"s-0"]
    assert request.get(b"mcp-protocol-version") == [b"2025-11-25"]
    assert request.get(b"last-event-id") == [b"7"]
    assert answer.get(b"mcp-session-id") == [b"s-1"]
    assert answer.body == b'{"jsonrpc":"2.0","id":10,"result":{}}'
    assert request.target == b"/mcp"


def test_chunked_and_split_bodies_are_reassembled(client: Client, upstream: Upstream) -> None:
    upstream.play(Peer.serve)
    body = CALL % b"5"
    head = b"POST /mcp?q=1 HTTP/1.1\r\nX-Before: 1\r\nHost: h\r\nTransfer-Encoding: chunked\r\nX-After: 2\r\n\r\n"
    chunks = b"".join(b"%x;e\r\n%b\r\n" % (len(body[i : i + 7]), body[i : i + 7]) for i in range(0, len(body), 7)) + b"0\r\nT: 1\r\n\r\n"
    wire = head + chunks
    generator = random.Random(5)
    for pieces in (1, 2, 3, 5, 17):
        cuts = sorted(generator.sample(range(1, len(wire)), pieces - 1))
        client.send_pieces(*[wire[i:j] for i, j in zip([0, *cuts], [*cuts, len(wire)], strict=True)])
        assert client.answer().status == 200
    for cut in range(1, 60, 3):
        whole = client.message(b"POST", "/mcp", body)
        client.send_pieces(whole[:-cut], whole[-cut:], pause=0.001)
        assert client.answer().status == 200
    for request in upstream.requests:
        assert request.body == body
        assert request.get(b"content-length") == [b"%d" % len(body)]
        assert request.get(b"transfer-encoding") == []
    first = upstream.requests[0]
    assert [n for n, _ in first.fields if n.startswith(b"X-") and b"Forw" not in n] == [b"X-Before", b"X-After"]


def test_pipelined_calls(client: Client, upstream: Upstream) -> None:
    def script(peer: Peer) -> None:
        while True:
            request = peer.request()
            peer.answer(request, request.body)

    upstream.play(script)
    bodies = [CALL % b"%d" % i for i in range(10)]
    client.send(b"".join(client.message(b"POST", "/mcp", body) for body in bodies))
    for body in bodies:
        assert client.answer().body == body


def test_bodies_of_all_sizes(client: Client, upstream: Upstream) -> None:
    upstream.play(Peer.serve)
    for size in (100, 2000, 4096, 65_400, 65_536, 70_000, 1_000_000, 4_194_304):
        frame = b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"t","arguments":""}}'
        body = frame[:-3] + b"z" * (size - len(frame)) + frame[-3:]
        assert len(body) == size
        assert post(client, body).status == 200
        assert upstream.requests[-1].body == body


def test_too_large_is_413(tight: Gateway, dial: Dial, upstream: Upstream) -> None:
    upstream.play(Peer.serve)
    client = dial(tight)
    limit = 65536
    announced = dial(tight).ask(b"POST /mcp HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n" % (limit + 1))
    error_of(announced, 413, announced.body and json.loads(announced.body)["error"]["code"])
    client.send(b"POST /mcp HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n" + (b"2000\r\n" + b"x" * 8192 + b"\r\n") * 8 + b"1\r\nx\r\n0\r\n\r\n")
    answer = client.answer()
    assert answer.status == 413
    assert json.loads(answer.body)["id"] is None
    assert not upstream.peers
    fits = b'{"jsonrpc":"2.0","method":"x"' + b" " * (limit - 30) + b"}"
    assert len(fits) == limit
    assert post(dial(tight), fits).status == 200


def test_huge_announcement_costs_nothing(client: Client, upstream: Upstream) -> None:
    upstream.play(Peer.serve)
    client.send(b"POST /mcp HTTP/1.1\r\nHost: h\r\nContent-Length: 999999999999999999\r\n\r\n{")
    answer = client.answer()
    assert answer.status == 413
    assert answer.closes
    assert client.closed()
    assert not upstream.peers


# -------------------------------------------------------------------------------------------------------------- methods


@pytest.mark.parametrize("method", [b"PUT", b"PATCH", b"PROPFIND"])
def test_other_methods_are_405(client: Client, upstream: Upstream, method: bytes) -> None:
    upstream.play(Peer.serve)
    answer = client.ask(client.message(method, "/mcp", b"{}"))
    error_of(answer, 405, -32600)
    assert {m.strip() for m in answer.get(b"allow")[0].split(b",")} >= {b"GET", b"POST", b"DELETE"}
    assert not upstream.peers
    assert post(client, CALL % b"1").status == 200


def test_delete_ends_the_session_upstream(client: Client, upstream: Upstream) -> None:
    upstream.play(lambda peer: peer.serve(b"", status=b"204 No Content"))
    answer = client.get("/mcp", b"Mcp-Session-Id: s-1", method=b"DELETE")
    assert answer.status == 204
    assert upstream.requests[0].method == b"DELETE"
    assert upstream.requests[0].get(b"mcp-session-id") == [b"s-1"]


def test_upstream_status_and_body_pass(client: Client, upstream: Upstream) -> None:
    upstream.play(lambda peer: peer.serve(b"", status=b"202 Accepted"))
    assert post(client, b'{"jsonrpc":"2.0","method":"notifications/initialized"}').status == 202
    upstream.play(lambda peer: peer.serve(b'{"jsonrpc":"2.0","id":1,"error":{"code":-32001,"message":"x"}}', status=b"404 Not Found"))
    assert post(client, CALL % b"1").status == 404


# -------------------------------------------------------------------------------------------------------------- streams


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
    client.send(b"GET /mcp HTTP/1.1\r\nHost: h\r\nAccept: text/event-stream\r\n\r\n")
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
    assert post(client, CALL % b"1").status == 200
    assert len(upstream.peers) == 1


def test_post_answered_by_a_stream(client: Client, upstream: Upstream) -> None:
    seen = threading.Event()

    def script(peer: Peer) -> None:
        peer.request()
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: 1\n\n")
        assert seen.wait(5)
        peer.send(b"data: 2\n\n")

    upstream.play(script)
    client.send(client.message(b"POST", "/mcp", CALL % b"1"))
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
    client.send(b"GET /mcp HTTP/1.1\r\nHost: h\r\nAccept: text/event-stream\r\n\r\n")
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
    client.send(client.message(b"POST", "/mcp", CALL % b"1"))
    client.until(b"data: 1\n\n\r\n")
    go.set()
    assert client.until_eof() == b""


def test_idle_stream_ends_after_its_limit(tight: Gateway, dial: Dial, upstream: Upstream) -> None:
    upstream.play(
        lambda peer: (peer.request(), peer.send(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"), peer.until_eof())
    )
    client = dial(tight)
    client.send(b"GET /mcp HTTP/1.1\r\nHost: h\r\n\r\n")
    client.head()
    began = time.monotonic()
    assert client.until_eof() == b""
    assert 1.2 < time.monotonic() - began < 3


# -------------------------------------------------------------------------------------------------------------- metrics


def test_calls_are_counted_by_method(client: Client, upstream: Upstream, gateway: Gateway) -> None:
    upstream.play(Peer.serve)
    before = gateway.metrics()
    sent = {"tools/call": 3, "tools/list": 2, "initialize": 1, "made/up": 2, "notifications/initialized": 1}
    for method, times in sent.items():
        for _ in range(times):
            ident = b"" if method.startswith("notif") else b'"id":1,'
            assert post(client, b'{"jsonrpc":"2.0",' + ident + b'"method":"' + method.encode() + b'"}').status == 200
    post(client, b'{"jsonrpc":"2.0","id":1,"result":{}}')
    client.get("/mcp", method=b"DELETE")
    client.get("/mcp")
    post(client, b"{")
    after = gateway.metrics()

    def grown(**labels: str) -> float:
        return after.total("mcp_requests_total", **labels) - before.total("mcp_requests_total", **labels)

    names = {"made/up": "other"}
    assert {m: grown(method=names.get(m, m)) for m in sent} == sent
    assert grown(method="response") == grown(method="DELETE") == grown(method="GET") == 1
    assert grown() == 12


def test_label_values_are_a_closed_set(client: Client, upstream: Upstream, gateway: Gateway) -> None:
    upstream.play(Peer.serve)
    before = len(gateway.metrics())
    for i in range(200):
        post(client, b'{"jsonrpc":"2.0","id":1,"method":"m/%d"}' % i)
        client.get(f"/p{i}", method=b"M%d" % i, host=b"h%d.test" % i)
    assert len(gateway.metrics()) - before < 60
