"""What an MCP route adds to forwarding: the envelope is read, errors are JSON-RPC, bodies arrive, calls are counted.

The protocol itself is tested in tests/integration/mcp, with servers that speak it. Here the upstream and the client are
made of octets, and what is looked at is HTTP: framing, limits, ids in errors. What concerns calls is tested on both ways a
call may take: through the MCP service (the first of a session), and relayed without it (`warm`).
"""

from __future__ import annotations

import json
import random
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.integration.http.conftest import INITIALIZE, JSON, Dial, OpenTalk, Talk, answered, as_mcp, configuration, mcp_route, result
from tests.kits.gateway import Gateway
from tests.peers.client import Answer, Client
from tests.peers.upstream import Peer, Request, Upstream

CALL = b'{"jsonrpc":"2.0","id":%b,"method":"tools/call","params":{"name":"t","arguments":{"x":1}}}'
NOTIFICATION = b'{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":1,"progress":%d}}'

WAYS = pytest.mark.parametrize("warm", [False, True], ids=["served", "relayed"])


def post(client: Client, body: bytes, *lines: bytes) -> Answer:
    """Outside of any session."""
    return client.ask(client.message(b"POST", "/mcp", body, *JSON, *lines))


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
    upstream.play(as_mcp())
    answer = client.ask(client.message(b"POST", "/mcp", body))
    error_of(answer, 400, -32700)
    assert not upstream.peers
    assert b'"result"' in Talk(client, warm=False).post(CALL % b"1").body


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
    upstream.play(as_mcp())
    error_of(post(client, body), 400, -32600, ident)
    assert not upstream.peers
    assert b'"result"' in Talk(client, warm=False).post(CALL % b"1").body


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
    upstream.play(as_mcp())
    answer = post(client, body)
    assert answer.status == 400
    assert json.loads(answer.body)["error"]["code"] == -32600
    assert not upstream.peers


# ------------------------------------------------------------------------------------------------------------- failures


def on_call(script: Any) -> Any:
    """An MCP server that does this with every call, and has no GET stream."""

    def run(peer: Peer, request: Request) -> None:
        if request.method == b"POST" and b'"tools/call"' in request.body:
            script(peer)
        else:
            answered(peer, request)

    return as_mcp(run)


@WAYS
@pytest.mark.parametrize(
    "ident", [b'"abc"', b"1", b"0", b"-1", b"9007199254740993", b"123456789012345678901234567890", b'"\\u00e9\\n\\""', '"é"'.encode(), b'""']
)
def test_upstream_failure_carries_the_callers_id(tight: Gateway, talk: OpenTalk, upstream: Upstream, ident: bytes, warm: bool) -> None:
    """The id octet for octet; the HTTP status is that of the protocol, whose requests were answered."""
    upstream.play(on_call(Peer.reset))
    session = talk(tight, warm=warm)
    error_of(session.post(CALL % ident), 200, -32603, ident)
    upstream.play(as_mcp())
    assert b'"id":' + ident + b',"result":' in session.post(CALL % ident).body


def test_a_relayed_failure_has_its_reason(tight: Gateway, talk: OpenTalk, upstream: Upstream) -> None:
    upstream.play(on_call(Peer.reset))
    session = talk(tight, warm=True)
    assert error_of(session.post(CALL % b"5"), 200, -32603, b"5")["data"] == {"reason": "UpstreamFailure", "status": 502}


@WAYS
def test_upstream_failures_of_every_kind_are_json_rpc(tight: Gateway, talk: OpenTalk, upstream: Upstream, warm: bool) -> None:
    upstream.play(on_call(lambda peer: peer.until_eof(3)))
    session = talk(tight, warm=warm)
    began = time.monotonic()
    error_of(session.post(CALL % b'"slow"'), 200, -32603, b'"slow"')
    assert 0.8 < time.monotonic() - began < 2.5
    upstream.play(on_call(lambda peer: (peer.send(b"SSH-2.0-OpenSSH\r\n\r\n"), peer.until_eof())))
    error_of(session.post(CALL % b"2"), 200, -32603, b"2")
    upstream.settle()
    upstream.stop_listening()
    try:
        error_of(session.post(CALL % b"3"), 200, -32603, b"3")
        # What nobody waits for cannot fail.
        assert session.post(b'{"jsonrpc":"2.0","method":"notifications/roots/list_changed"}').status == 202
        error_of(post(session.client, INITIALIZE), 200, -32603, b"0")
    finally:
        upstream.listen_again()
    upstream.play(as_mcp())
    assert b'"result"' in session.post(CALL % b"4").body


@WAYS
def test_failure_after_failure_does_not_leak_ids(tight: Gateway, talk: OpenTalk, upstream: Upstream, warm: bool) -> None:
    upstream.play(on_call(Peer.reset))
    session = talk(tight, warm=warm)
    client = session.client
    error_of(session.post(CALL % b'"secret-of-another"'), 200, -32603, b'"secret-of-another"')
    error_of(client.get("/mcp"), 400, -32600)
    error_of(client.get("/mcp", b"Accept: text/html"), 406, -32600)
    error_of(post(client, b'{"jsonrpc":"2.0","method":"notifications/initialized"}'), 400, -32600)
    error_of(session.post(b"{"), 400, -32700)
    assert b"secret" not in client.get("/", method=b"PUT").body


# --------------------------------------------------------------------------------------------------------------- bodies

PARAMS = '{"a":1.10,"b":-0,"c":1e400,"d":["",{}],"name":"n","e":{"\\u0061b":"é\\u00e9"}}'.encode()


def test_a_relayed_body_arrives_unchanged(gateway: Gateway, talk: OpenTalk, upstream: Upstream) -> None:
    body = b' {"jsonrpc" : "2.0",\r\n"id":10 ,"method":"tools/call","params":' + PARAMS + b"}\n\t "
    said = b' {"jsonrpc":"2.0","id":10, "result":{"x": 1.0}}\n'
    lines = b"Content-Type: application/json\r\nMcp-Session-Id: another\r\nX-Of-The-Target: 1\r\n"
    upstream.play(as_mcp(lambda peer, request: peer.answer(request, said, head=lines)))
    session = talk(gateway, warm=True)
    answer = session.post(body, b"MCP-Protocol-Version: 2025-11-25", b"X-Of-The-Caller: 2", b"Last-Event-ID: 7")
    assert answer.status == 200, answer.body
    [request] = upstream.requests
    assert request.body == body
    assert request.target == b"/mcp"
    assert request.get(b"content-length") == [b"%d" % len(body)]
    assert request.get(b"transfer-encoding") == []
    assert request.get(b"mcp-session-id") == [b"theirs"]
    assert request.get(b"mcp-protocol-version") == [b"2025-11-25"]
    assert request.get(b"x-of-the-caller") == [b"2"]
    assert request.get(b"last-event-id") == []
    assert answer.body == said
    assert answer.get(b"mcp-session-id") == []
    assert answer.get(b"x-of-the-target") == [b"1"]


def test_params_and_results_arrive_unchanged(gateway: Gateway, talk: OpenTalk, upstream: Upstream) -> None:
    """What the service carries is a message of its own making, but every value in it is the caller's or the target's."""
    body = b' {"jsonrpc" : "2.0",\r\n"id":10 ,"method":"tools/call","params":' + PARAMS + b"}\n\t "
    said = b' {"jsonrpc" : "2.0","id":10, "result":{"x": 1.0, "y":1e400}}\n'
    lines = b"Content-Type: application/json\r\nMcp-Session-Id: another\r\n"
    upstream.play(as_mcp(lambda peer, request: peer.answer(request, said, head=lines)))
    session = talk(gateway)
    answer = session.post(body, b"MCP-Protocol-Version: 2025-11-25", b"X-Of-The-Caller: 2", b"Last-Event-ID: 7")
    assert answer.status == 200, answer.body
    [request] = upstream.requests
    assert b'"params":' + PARAMS in request.body
    assert json.loads(request.body)["id"] == 10
    assert request.target == b"/mcp"
    assert request.get(b"content-length") == [b"%d" % len(request.body)]
    assert request.get(b"transfer-encoding") == []
    assert request.get(b"mcp-session-id") == [b"theirs"]
    assert request.get(b"mcp-protocol-version") == [b"2025-11-25"]
    assert request.get(b"x-of-the-caller") == [b"2"]
    assert request.get(b"last-event-id") == []
    assert answer.body == b'{"jsonrpc":"2.0","id":10,"result":{"x": 1.0, "y":1e400}}'
    assert answer.get(b"mcp-session-id") == []


@WAYS
def test_chunked_and_split_bodies_are_reassembled(gateway: Gateway, talk: OpenTalk, upstream: Upstream, warm: bool) -> None:
    upstream.play(as_mcp())
    session = talk(gateway, warm=warm)
    client = session.client
    body = CALL % b"5"
    fields = b"\r\n".join(session.lines)
    head = b"POST /mcp?q=1 HTTP/1.1\r\nX-Before: 1\r\nHost: h\r\n" + fields + b"\r\nTransfer-Encoding: chunked\r\nX-After: 2\r\n\r\n"
    chunks = b"".join(b"%x;e\r\n%b\r\n" % (len(body[i : i + 7]), body[i : i + 7]) for i in range(0, len(body), 7)) + b"0\r\nT: 1\r\n\r\n"
    wire = head + chunks
    generator = random.Random(5)
    expected = result(Request(b"", body))
    for pieces in (1, 2, 3, 5, 17):
        cuts = sorted(generator.sample(range(1, len(wire)), pieces - 1))
        client.send_pieces(*[wire[i:j] for i, j in zip([0, *cuts], [*cuts, len(wire)], strict=True)])
        assert client.answer().body == expected
    for cut in range(1, 60, 3):
        whole = session.message(body)
        client.send_pieces(whole[:-cut], whole[-cut:], pause=0.001)
        assert client.answer().body == expected
    assert len(upstream.requests) == 25
    for request in upstream.requests:
        assert json.loads(request.body) == json.loads(body)
        assert request.get(b"content-length") == [b"%d" % len(request.body)]
        assert request.get(b"transfer-encoding") == []
    first = upstream.requests[0]
    assert [n.lower() for n, _ in first.fields if n.lower().startswith(b"x-") and b"forw" not in n.lower()] == [b"x-before", b"x-after"]
    assert upstream.requests[-1].body == body


@WAYS
def test_pipelined_calls(gateway: Gateway, talk: OpenTalk, upstream: Upstream, warm: bool) -> None:
    upstream.play(as_mcp())
    session = talk(gateway, warm=warm)
    bodies = [CALL % b"%d" % i for i in range(1, 11)]
    session.client.send(b"".join(session.message(body) for body in bodies))
    for body in bodies:
        assert session.client.answer().body == result(Request(b"", body))
    assert [json.loads(request.body)["id"] for request in upstream.requests] == list(range(1, 11))


@WAYS
def test_bodies_of_all_sizes(gateway: Gateway, talk: OpenTalk, upstream: Upstream, warm: bool) -> None:
    upstream.play(as_mcp(lambda peer, request: peer.answer(
        request, result(request, {"z": "z" * len(request.body)}), head=b"Content-Type: application/json\r\n")))
    session = talk(gateway, warm=warm)
    for size in (100, 2000, 4096, 65_400, 65_536, 70_000, 1_000_000, 4_194_304):
        frame = b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"t","arguments":""}}'
        body = frame[:-3] + b"z" * (size - len(frame)) + frame[-3:]
        assert len(body) == size
        answer = session.post(body)
        if size < 4_194_304:
            assert answer.body == result(upstream.requests[-1], {"z": "z" * size})
        assert upstream.requests[-1].body == body


def test_too_large_is_413(tight: Gateway, dial: Dial, talk: OpenTalk, upstream: Upstream) -> None:
    upstream.play(as_mcp())
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
    assert talk(tight).post(fits).status == 202


def test_huge_announcement_costs_nothing(client: Client, upstream: Upstream) -> None:
    upstream.play(as_mcp())
    client.send(b"POST /mcp HTTP/1.1\r\nHost: h\r\nContent-Length: 999999999999999999\r\n\r\n{")
    answer = client.answer()
    assert answer.status == 413
    assert answer.closes
    assert client.closed()
    assert not upstream.peers


# -------------------------------------------------------------------------------------------------------------- methods


@pytest.mark.parametrize("method", [b"PUT", b"PATCH", b"PROPFIND"])
def test_other_methods_are_405(client: Client, upstream: Upstream, method: bytes) -> None:
    upstream.play(as_mcp())
    answer = client.ask(client.message(method, "/mcp", b"{}"))
    error_of(answer, 405, -32600)
    assert {m.strip() for m in answer.get(b"allow")[0].split(b",")} >= {b"GET", b"POST", b"DELETE"}
    assert not upstream.peers
    assert b'"result"' in Talk(client, warm=False).post(CALL % b"1").body


@WAYS
def test_delete_ends_the_session_upstream(gateway: Gateway, talk: OpenTalk, upstream: Upstream, warm: bool) -> None:
    """The caller's DELETE is answered at once; the target gets one of its own, for its own session."""
    upstream.play(as_mcp())
    session = talk(gateway, warm=warm)
    answer = session.client.get("/mcp", b"Mcp-Session-Id: " + session.id, method=b"DELETE")
    assert answer.status == 200
    error_of(session.post(CALL % b"1"), 404, -32600, b"1")
    upstream.wait(lambda: any(b"DELETE /mcp HTTP/1.1\r\n" in peer.received for peer in upstream.peers), "DELETE")
    [ended] = [peer.received for peer in upstream.peers if b"DELETE /mcp HTTP/1.1\r\n" in peer.received]
    assert b"mcp-session-id: theirs\r\n" in ended.lower()
    assert session.id not in ended


@WAYS
@pytest.mark.parametrize("status", [b"200 OK", b"403 Forbidden", b"500 Internal Server Error"])
def test_a_targets_error_passes_whatever_its_status(gateway: Gateway, talk: OpenTalk, upstream: Upstream, warm: bool, status: bytes) -> None:
    error = b'{"code":-32001,"message":"x","data":{"a": [1.0]}}'
    said = b'{"jsonrpc":"2.0","id":1,"error":' + error + b"}"
    upstream.play(as_mcp(lambda peer, request: peer.answer(request, said, status=status, head=b"Content-Type: application/json\r\n")))
    answer = talk(gateway, warm=warm).post(CALL % b"1")
    assert (answer.status, answer.body) == (200, said)


# -------------------------------------------------------------------------------------------------------------- streams

STREAM = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nCache-Control: no-cache\r\n"


def chunk(event: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(event), event)


def next_message(client: Client) -> Any:
    """The next event with a message in a chunked answer: one event is one chunk."""
    while True:
        event = client.read(int(client.until(b"\r\n"), 16) + 2)
        assert event.endswith(b"\n\n\r\n"), event
        for line in event.split(b"\n"):
            if line.startswith(b"data:") and line[5:].strip():
                return json.loads(line[5:])


@WAYS
def test_events_pass_one_by_one(gateway: Gateway, talk: OpenTalk, upstream: Upstream, warm: bool) -> None:
    """Every event of a call is at the client before the next is sent."""
    seen = threading.Semaphore(0)

    def script(peer: Peer) -> None:
        peer.send(STREAM + b"Transfer-Encoding: chunked\r\n\r\n")
        for i in range(50):
            peer.send(chunk(b"id: %d\ndata: " % i + NOTIFICATION % i + b"\n\n"))
            assert seen.acquire(timeout=5), f"event {i} did not arrive"
        peer.send(chunk(b'data: {"jsonrpc":"2.0","id":1,"result":{}}\n\n') + b"0\r\n\r\n")

    upstream.play(on_call(script))
    session = talk(gateway, warm=warm)
    client = session.client
    client.send(session.message(CALL % b"1"))
    assert client.head().get(b"content-type") == [b"text/event-stream"]
    pause = threading.Event()
    latest = 0.0
    for i in range(50):
        began = time.monotonic()
        assert next_message(client) == json.loads(NOTIFICATION % i)
        latest = max(latest, time.monotonic() - began)
        pause.wait(0.02)
        seen.release()
    assert next_message(client) == {"jsonrpc": "2.0", "id": 1, "result": {}}
    assert client.read(5) == b"0\r\n\r\n"
    assert latest < 0.25
    upstream.play(as_mcp())
    assert session.post(CALL % b"2").body == result(Request(b"", CALL % b"2"))


@WAYS
def test_a_stream_that_ends_with_its_connection(gateway: Gateway, talk: OpenTalk, upstream: Upstream, warm: bool) -> None:
    seen = threading.Event()

    def script(peer: Peer) -> None:
        peer.send(STREAM + b"\r\ndata: " + NOTIFICATION % 1 + b"\n\n")
        assert seen.wait(5)
        peer.send(b'data: {"jsonrpc":"2.0","id":1,"result":{}}\n\n')
        peer.close()

    upstream.play(on_call(script))
    session = talk(gateway, warm=warm)
    session.client.send(session.message(CALL % b"1"))
    session.client.head()
    assert next_message(session.client) == json.loads(NOTIFICATION % 1)
    seen.set()
    assert next_message(session.client) == {"jsonrpc": "2.0", "id": 1, "result": {}}
    assert session.client.read(5) == b"0\r\n\r\n"


@WAYS
def test_a_dying_stream_ends_with_an_error(gateway: Gateway, talk: OpenTalk, upstream: Upstream, warm: bool) -> None:
    def script(peer: Peer) -> None:
        peer.send(STREAM + b"Transfer-Encoding: chunked\r\n\r\n" + chunk(b"data: " + NOTIFICATION % 1 + b"\n\n"))
        go.wait(5)
        peer.reset()

    go = threading.Event()
    upstream.play(on_call(script))
    session = talk(gateway, warm=warm)
    session.client.send(session.message(CALL % b'"mine"'))
    session.client.head()
    assert next_message(session.client) == json.loads(NOTIFICATION % 1)
    go.set()
    last = next_message(session.client)
    assert (last["id"], last["error"]["code"]) == ("mine", -32603)
    assert session.client.read(5) == b"0\r\n\r\n"


# -------------------------------------------------------------------------------------------------------------- metrics


@pytest.fixture
def counting(session_upstreams: dict[str, Upstream]) -> Iterator[Gateway]:
    """A gateway of its own: requests that other tests left open may end, and be counted, at any time."""
    with Gateway(configuration([mcp_route(session_upstreams["a"].host)]), workers=1) as gateway:
        yield gateway


def test_calls_are_counted_by_method(counting: Gateway, talk: OpenTalk, upstream: Upstream) -> None:
    gateway = counting
    upstream.play(as_mcp())
    before = gateway.metrics()
    session = talk(gateway)
    sent = {"tools/call": 3, "tools/list": 2, "ping": 1, "made/up": 2, "notifications/progress": 1}
    for method, times in sent.items():
        for _ in range(times):
            ident = b"" if method.startswith("notif") else b'"id":1,'
            params = b',"params":{"name":"t"}' if method == "tools/call" else b""
            assert session.post(b'{"jsonrpc":"2.0",' + ident + b'"method":"' + method.encode() + b'"' + params + b"}").status in (200, 202)
    assert session.post(b'{"jsonrpc":"2.0","id":1,"result":{}}').status == 202
    session.client.get("/mcp", method=b"DELETE")
    session.client.get("/mcp")
    session.post(b"{")
    after = gateway.metrics()

    def grown(**labels: str) -> float:
        return after.total("mcp_requests_total", **labels) - before.total("mcp_requests_total", **labels)

    names = {"made/up": "other"}
    assert {m: grown(method=names.get(m, m), server="tools") for m in sent} == sent
    assert grown(method="other", server="unknown") == 1, "what is no message went nowhere, and was counted"
    assert grown(method="initialize") == grown(method="notifications/initialized") == 1
    assert grown(method="response") == grown(method="DELETE") == grown(method="GET") == 1
    assert grown() == 15


def test_label_values_are_a_closed_set(gateway: Gateway, talk: OpenTalk, upstream: Upstream) -> None:

    def some(first: int, last: int) -> int:
        """The number of series after requests with names of their own."""
        upstream.play(as_mcp(lambda peer, request: peer.answer(request, result(request), head=b"Content-Type: application/json\r\n")))
        session = talk(gateway)
        for i in range(first, last):
            session.post(b'{"jsonrpc":"2.0","id":1,"method":"m/%d"}' % i)
        upstream.play(Peer.serve)
        for i in range(first, last):
            session.client.get(f"/p{i}", method=b"M%d" % i, host=b"h%d.test" % i)
        return len(gateway.metrics())

    before = some(0, 20)
    assert some(20, 200) - before < 20
