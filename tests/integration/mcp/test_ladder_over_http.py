"""What the gateway refuses before any target hears of it: transport, JSON-RPC, versions, headers, sessions, in that order."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.integration.mcp.conftest import Farm
from tests.peers.client import Answer as RawAnswer
from tests.peers.client import Client
from tests.peers.mcp_client import META, MODERN, Answer, Endpoint, Session, call, initialize, modern_request

PING = {"jsonrpc": "2.0", "id": 7, "method": "ping"}
PATHS = ["/one", "/two"]


@pytest.fixture(params=PATHS)
def at(farm: Farm, request: pytest.FixtureRequest) -> Endpoint:
    """A single target, and two."""
    return farm.at(request.param)


def refused(answer: Answer, status: int, code: int | None, ident: Any = ...) -> None:
    assert answer.status == status, (answer.status, answer.body)
    assert answer.headers["content-type"] == "application/json"
    assert set(answer.message) == {"jsonrpc", "id", "error"}
    if code is not None:
        assert answer.error["code"] == code, answer.body
    if ident is not ...:
        assert answer.message["id"] == ident, answer.body


def nothing_reached(farm: Farm) -> bool:
    """What an earlier test left behind (the end of its session) may still arrive."""
    late = {None, "notifications/initialized", "initialize", "server/discover"}
    return not any(message.get("method") not in late for server in farm.servers for message in server.requests())


# -------------------------------------------------------------------------------------------------------------- transport


@pytest.mark.parametrize("name", ["Host", "Origin"])
@pytest.mark.parametrize("value", ["evil.example", "http://evil.example", "http://evil.example:80", "null"])
def test_foreign_host_or_origin(farm: Farm, at: Endpoint, name: str, value: str) -> None:
    for body, fields in ((json.dumps(initialize()).encode(), {}), modern_request("tools/list", None, 0, None, None, None)):
        answer = at.post(body, {**fields, name: value})
        assert answer.status in ((400, 403, 421) if name == "Host" else (403,))
        assert "mcp-session-id" not in answer.headers
    for method in ("GET", "DELETE"):
        assert at.send(method, None, {name: value}).status in (400, 403, 421)
    assert nothing_reached(farm)


def raw_post(port: int, path: str, body: bytes, *lines: bytes, host: bytes = b"localhost") -> RawAnswer:
    with Client(port) as client:
        return client.post(path, body, b"Content-Type: application/json", b"Accept: application/json, text/event-stream", *lines, host=host)


def test_local_host_and_origin(at: Endpoint) -> None:
    for host, origin in (("localhost:9", None), ("127.0.0.1", "http://localhost:5173"), ("[::1]:80", "http://127.0.0.1"), ("LOCALHOST", "http://[::1]:1")):
        answer = at.post(initialize(), {"Host": host, **({} if origin is None else {"Origin": origin})})
        assert answer.status == 200, (host, origin, answer.body)


@pytest.mark.parametrize("lines", [
    (b"Origin: http://localhost", b"Origin: http://evil.example"), (b"Origin: http://evil.example", b"Origin: http://localhost"),
])
def test_two_origins(farm: Farm, at: Endpoint, lines: tuple[bytes, bytes]) -> None:
    answer = raw_post(at.port, at.path, json.dumps(initialize()).encode(), *lines)
    assert answer.status in (400, 403), answer.body
    assert nothing_reached(farm)


@pytest.mark.parametrize("method", ["PUT", "PATCH"])
def test_other_methods(at: Endpoint, method: str) -> None:
    with Session(at) as session:
        answer = at.send(method, b"{}", {"Content-Type": "application/json", **session.headers})
        assert answer.status == 405
        assert {each.strip() for each in answer.headers["allow"].split(",")} == {"GET", "POST", "DELETE"}
        assert session.request("ping").status == 200


@pytest.mark.parametrize("method", ["GET", "DELETE"])
def test_what_the_modern_era_has_not(at: Endpoint, method: str) -> None:
    answer = at.send(method, None, {"MCP-Protocol-Version": MODERN, "Accept": "text/event-stream"})
    assert answer.status == 405
    assert answer.headers["allow"] == "POST"


@pytest.mark.parametrize("value", [None, "text/plain", "application/json-rpc", "multipart/form-data", "application/jsonx"])
def test_content_type(farm: Farm, at: Endpoint, value: str | None) -> None:
    refused(at.post(initialize(), {"Content-Type": value}), 415, None)  # type: ignore[dict-item]
    assert nothing_reached(farm)


@pytest.mark.parametrize("value", ["application/json; charset=utf-8", "Application/JSON", "application/json;x=y"])
def test_content_type_is_read_leniently(at: Endpoint, value: str) -> None:
    assert at.post(initialize(), {"Content-Type": value}).status == 200


@pytest.mark.parametrize("value", ["text/html", "image/*", "application/json;q=0", "text/event-stream;q=0.0, application/json;q=0"])
def test_accept_of_nothing_usable(farm: Farm, at: Endpoint, value: str) -> None:
    refused(at.post(initialize(), {"Accept": value}), 406, None)
    assert nothing_reached(farm)


@pytest.mark.parametrize("value", [
    "*/*", "application/*", "text/html, */*;q=0.1", "application/json", "text/event-stream", "application/json;q=0.5,text/event-stream;q=0.1", "",
])
def test_accept_is_read_leniently(at: Endpoint, value: str) -> None:
    answer = at.post(initialize(), {"Accept": value})
    assert answer.status == 200
    assert answer.result["protocolVersion"]
    if value == "application/json":
        assert answer.headers["content-type"].startswith("application/json")
    if value == "text/event-stream":
        assert answer.headers["content-type"].startswith("text/event-stream")


# --------------------------------------------------------------------------------------------------------------- messages


@pytest.mark.parametrize("modern", [False, True])
@pytest.mark.parametrize("body", [b"", b"{", b"nonsense", b'{"jsonrpc":"2.0","id":NaN}', b'\xff\xfe{"a":1}', b'{"jsonrpc":"2.0","id":1,"method":"ping"}{}'])
def test_no_json(farm: Farm, at: Endpoint, body: bytes, modern: bool) -> None:
    refused(at.post(body, {"MCP-Protocol-Version": MODERN, "Mcp-Method": "ping"} if modern else {}), 400, -32700, None)
    assert nothing_reached(farm)


@pytest.mark.parametrize(("body", "ident"), [
    ('{"jsonrpc":"2.0","id":null,"method":"ping"}', None),
    ('{"jsonrpc":"2.0","id":1.5,"method":"ping"}', None),
    ('{"jsonrpc":"2.0","id":1e2,"method":"ping"}', None),
    ('{"jsonrpc":"2.0","id":[1],"method":"ping"}', None),
    ('{"jsonrpc":"2.0","id":3}', 3),
    ('{"jsonrpc":"2.0","id":3,"method":7}', 3),
    ('{"id":3,"method":"ping"}', 3),
    ('{"jsonrpc":"2.0","id":3,"method":"ping","method":"tools/call"}', ...),
    ('{"jsonrpc":"2.0","id":3,"method":"tools/call","params":{"name":"echo","name":"hang"}}', ...),
    ('{"jsonrpc":"2.0","id":3,"method":"tools/call","params":{"name":"echo","n\\u0061me":"hang"}}', ...),
    ('[]', None),
    ('[{"jsonrpc":"2.0","id":3,"method":"ping"}]', None),
])
def test_no_message(farm: Farm, at: Endpoint, body: str, ident: Any) -> None:
    with Session(at) as session:
        for server in farm.servers:
            server.seen.clear()
        refused(session.post(body.encode()), 400, -32600, ident)
        assert nothing_reached(farm)


def test_ids_at_the_edge(at: Endpoint) -> None:
    with Session(at) as session:
        for ident in ("9007199254740993", "-5", "0", '"1"', "1", '"\\u00e9\\ud83d\\ude00"', '""', "123456789012345678901234567890"):
            answer = session.post(b'{"jsonrpc":"2.0","id":%b,"method":"ping"}' % ident.encode())
            assert answer.status == 200
            assert b'"id":' + ident.encode() in answer.body.replace(b": ", b":"), answer.body


# ----------------------------------------------------------------------------------------------------------- legacy rungs


def test_without_a_session(farm: Farm, at: Endpoint) -> None:
    refused(at.post(PING), 400, -32600, 7)
    refused(at.post({"jsonrpc": "2.0", "id": "x", "method": "tools/call", "params": call("echo")}), 400, -32600, "x")
    assert at.send("GET").status == 400
    assert at.send("DELETE").status == 400
    assert at.post({"jsonrpc": "2.0", "method": "notifications/initialized"}).status == 400
    assert nothing_reached(farm)


def test_an_unknown_session(farm: Farm, at: Endpoint) -> None:
    fields = {"Mcp-Session-Id": "nobody-knows-this"}
    refused(at.post(PING, fields), 404, None, 7)
    assert at.send("GET", None, fields).status == 404
    assert at.send("DELETE", None, fields).status == 404
    assert nothing_reached(farm)


@pytest.mark.parametrize("version", ["1.0", "2025-11-26", "2025-11-25x", "latest", ""])
def test_an_unknown_version_on_a_session(at: Endpoint, version: str) -> None:
    with Session(at) as session:
        answer = session.request("ping", headers={"MCP-Protocol-Version": version})
        if version:
            refused(answer, 400, None)
        else:
            assert answer.status in (200, 400)
        assert session.request("ping", headers={"MCP-Protocol-Version": "2025-03-26"}).status == 200


def test_a_session_id_twice(at: Endpoint) -> None:
    with Session(at) as session:
        line = b"Mcp-Session-Id: " + session.id.encode()
        assert raw_post(at.port, at.path, json.dumps(PING).encode(), line).status == 200
        assert raw_post(at.port, at.path, json.dumps(PING).encode(), line, line).status == 400
        assert raw_post(at.port, at.path, json.dumps(PING).encode(), line, b"Mcp-Session-Id: other").status == 400


def test_what_a_session_answers(farm: Farm, at: Endpoint) -> None:
    with Session(at) as session:
        assert session.request("ping").message["result"] == {}
        for method in ("no/such", "server/discover", "subscriptions/listen", "tasks/update"):
            answer = session.request(method, {})
            assert answer.status == 200, method
            assert answer.error["code"] == -32601, method
        accepted = session.notify("notifications/whatever", {"x": 1})
        assert (accepted.status, accepted.body) == (202, b"")
        accepted = session.post({"jsonrpc": "2.0", "id": 99, "result": {}})
        assert (accepted.status, accepted.body) == (202, b"")
        again = at.post(initialize(), session.headers)
        assert again.status == 400


def test_get_needs_a_stream(at: Endpoint) -> None:
    with Session(at) as session:
        assert at.send("GET", None, {**session.headers, "Accept": "application/json"}).status == 406


# ----------------------------------------------------------------------------------------------------------- modern rungs


@pytest.mark.parametrize(("headers", "meta", "code"), [
    ({"MCP-Protocol-Version": None}, {}, -32020),
    ({"MCP-Protocol-Version": "2025-11-25"}, {}, -32020),
    ({}, {f"{META}protocolVersion": ...}, -32602),
    ({}, {f"{META}clientCapabilities": ...}, -32602),
    ({}, {f"{META}clientCapabilities": None}, -32602),
    ({}, {f"{META}clientCapabilities": []}, -32602),
    ({}, {f"{META}protocolVersion": 20260728}, -32602),
    ({}, {f"{META}logLevel": "loud"}, -32602),
    ({}, {f"{META}protocolVersion": "2099-01-01"}, -32020),
    ({"MCP-Protocol-Version": "2099-01-01"}, {f"{META}protocolVersion": "2099-01-01"}, -32022),
    ({"Mcp-Method": None}, {}, -32020),
    ({"Mcp-Method": "tools/list"}, {}, -32020),
    ({"Mcp-Method": "Tools/Call"}, {}, -32020),
    ({"Mcp-Name": None}, {}, -32020),
    ({"Mcp-Name": "Echo"}, {}, -32020),
    ({"Mcp-Name": "=?base64?ZWNobw?="}, {}, -32020),
    ({"Mcp-Name": "=?base64?!!!!?="}, {}, -32020),
    ({"Mcp-Name": "=?BASE64?ZWNobw==?="}, {}, -32020),
])
def test_a_modern_request_that_contradicts_itself(farm: Farm, at: Endpoint, headers: dict[str, Any], meta: dict[str, Any], code: int) -> None:
    answer = at.modern("tools/call", {"name": "echo"}, ident="m", headers=headers, meta=meta)
    refused(answer, 400, code, "m")
    if code == -32022:
        assert answer.error["data"] == {"supported": [MODERN], "requested": "2099-01-01"}
    assert nothing_reached(farm)


@pytest.mark.parametrize("headers", [{"mcp-METHOD": "tools/call", "Mcp-Method": None}, {"Mcp-Name": "  {name} \t"}, {"Mcp-Name": "=?base64?{base64}?="}])
def test_header_names_and_blanks(farm: Farm, at: Endpoint, headers: dict[str, Any]) -> None:
    name = "echo" if at.path == "/one" else "a_echo"
    coded = {"echo": "ZWNobw==", "a_echo": "YV9lY2hv"}[name]
    filled = {key: value if value is None else value.replace("{name}", name).replace("{base64}", coded) for key, value in headers.items()}
    assert at.modern("tools/call", {"name": name}, headers=filled).status == 200


@pytest.mark.parametrize("line", [b"Mcp-Name: echo", b"Mcp-Method: tools/call", b"MCP-Protocol-Version: 2026-07-28", b"Mcp-Name: other"])
def test_a_mirrored_header_twice(farm: Farm, at: Endpoint, line: bytes) -> None:
    body, fields = modern_request("tools/call", {"name": "echo"}, 1, None, None, None)
    answer = raw_post(at.port, at.path, body, *(f"{name}: {value}".encode() for name, value in fields.items()), line)
    assert answer.status == 400
    assert json.loads(answer.body)["error"]["code"] == -32020
    assert nothing_reached(farm)


@pytest.mark.parametrize("method", ["initialize", "ping", "logging/setLevel", "resources/subscribe", "resources/unsubscribe", "tasks/list", "tasks/result"])
def test_methods_that_the_modern_era_has_not(farm: Farm, at: Endpoint, method: str) -> None:
    refused(at.modern(method, {"uri": "file:///a", "level": "info", "taskId": "x"}, ident=5, headers={"Mcp-Name": None}), 404, -32601, 5)
    assert nothing_reached(farm)


def test_unknown_methods_with_several_targets(farm: Farm) -> None:
    refused(farm.at("/two").modern("no/such", ident=5), 404, -32601, 5)
    assert nothing_reached(farm)
    answer = farm.at("/one").modern("no/such", ident=5)
    assert (answer.status, answer.error["code"]) == (404, -32601)


def test_a_modern_batch_and_response(farm: Farm, at: Endpoint) -> None:
    body, fields = modern_request("tools/list", None, 1, None, None, None)
    refused(at.post(b"[" + body + b"]", fields), 400, -32600, None)
    refused(at.post({"jsonrpc": "2.0", "id": 1, "result": {}}, {"MCP-Protocol-Version": MODERN, "Mcp-Method": "x"}), 400, -32600)
    assert nothing_reached(farm)


def test_a_modern_notification_has_no_answer(at: Endpoint) -> None:
    note = {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 1}}
    answer = at.post(note, {"MCP-Protocol-Version": MODERN, "Mcp-Method": "notifications/cancelled"})
    assert (answer.status, answer.body) == (202, b"")


def test_a_stray_session_id_is_ignored(at: Endpoint) -> None:
    answer = at.modern("tools/list", headers={"Mcp-Session-Id": "nobody-knows-this", "Last-Event-ID": "1"})
    assert answer.status == 200
    assert "mcp-session-id" not in answer.headers
    with Session(at) as session:
        answer = at.modern("tools/list", headers={"Mcp-Session-Id": session.id})
        assert answer.status == 200
        assert "mcp-session-id" not in answer.headers


def test_the_same_method_by_era(at: Endpoint) -> None:
    with Session(at) as session:
        assert session.request("ping").result == {}
        refused(at.modern("ping", headers={"Mcp-Session-Id": session.id}), 404, -32601)
        assert at.modern("tools/list").result["resultType"] == "complete"
        assert "resultType" not in session.request("tools/list").result or at.path == "/one"
