"""HTTP between us and both sides: what of a request goes on, content codings, redirects, CORS, the log."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from tests.integration.conftest import Start
from tests.integration.mcp.conftest import Farm, configuration, http_target, route
from tests.peers.mcp_client import Endpoint, Session
from tests.peers.mcp_exchange import HttpExchange
from tests.peers.mcp_script import Exchange
from tests.peers.mcp_server import McpServer

SECRETS = {
    "Authorization": "Bearer secret-token", "Cookie": "sid=secret-cookie", "Proxy-Authorization": "Basic c2VjcmV0", "X-Api-Key": "secret-key",
    "Forwarded": "for=1.2.3.4", "X-Forwarded-For": "1.2.3.4", "X-Custom": "secret-custom", "Last-Event-ID": "9", "Referer": "http://localhost/secret",
    "X-Forwarded-Host": "evil.example",
}
PLACES = [("/one", "", "a"), ("/two", "a_", "a"), ("/modern", "", "m"), ("/mixed", "m_", "m"), ("/dual", "", "d")]


@pytest.mark.parametrize("path,prefix,name", PLACES)
def test_what_of_a_request_goes_on(farm: Farm, path: str, prefix: str, name: str) -> None:
    """On the first call and on later ones, which take another way through the gateway."""
    server = getattr(farm, name)
    at = farm.at(path)
    trace = {"traceparent": "00-" + "a" * 32 + "-" + "b" * 16 + "-01", "tracestate": "x=y", "baggage": "k=v"}
    headers = {**SECRETS, "Origin": "http://localhost", **trace}
    with Session(at) as session:
        for number in range(6):
            extra = headers if number % 2 else {key: value for key, value in headers.items() if key != "Origin"}
            assert session.request("tools/call", {"name": prefix + "echo"}, headers=extra).status == 200
            assert at.modern("tools/call", {"name": prefix + "echo"}, headers={**extra, "Mcp-Session-Id": session.id}).status == 200
    calls = [each for each in server.seen if isinstance(each.message, dict) and each.message.get("method") == "tools/call"]
    assert len(calls) >= 12
    for seen in calls:
        fields = dict(seen.headers)
        # One open server without renaming is a pipe: the caller's Authorization is meant for it. Cookies are nobody's.
        assert seen.values("authorization") == ([] if path in ("/two", "/mixed") else ["Bearer secret-token"])
        never = {"cookie", "proxy-authorization", "origin", "forwarded", "referer", "last-event-id"}
        assert never & set(fields) == set()
        assert "evil.example" not in json.dumps(seen.headers)
        assert "1.2.3.4" not in json.dumps(seen.headers)
        assert seen.values("x-custom") == ["secret-custom"]
        assert seen.values("mcp-session-id") != [session.id]
        assert len(seen.values("host")) == 1
        assert str(server.port) in fields["host"]
        assert fields["traceparent"] == trace["traceparent"], fields
        assert "application/json" in fields["accept"]
        assert "text/event-stream" in fields["accept"]
        assert fields["content-type"].startswith("application/json")


def test_forwarded_and_set_headers(start: Start, server: Callable[..., McpServer]) -> None:
    a = server(name="a", era="dual")
    policies = {"requestHeaderModifier": {"set": {"Authorization": "Bearer ours", "X-Set": "1"}}}
    b = server(name="b")
    gateway = start(configuration(route("/mcp", http_target("a", a.port, policies=policies)),
                                  route("/two", http_target("a", a.port, forwardHeaders=["authorization", "cookie"]), http_target("b", b.port))), workers=1)
    at = Endpoint(gateway.port)
    headers = {"X-Tenant": "t1", "Authorization": "Bearer theirs", "Cookie": "c=1"}
    with Session(Endpoint(gateway.port, "/two")) as session:
        for _ in range(4):
            for each, name in ((a, "a_echo"), (b, "b_echo")):
                session.request("tools/call", {"name": name}, headers=headers)
                seen = each.last("tools/call")
                assert seen.values("authorization") == (["Bearer theirs"] if each is a else [])
                assert seen.values("cookie") == (["c=1"] if each is a else [])
                assert seen.values("x-tenant") == ["t1"]
    a.seen.clear()
    with Session(at) as session:
        for _ in range(4):
            session.request("tools/call", {"name": "echo"}, headers=headers)
            at.modern("tools/call", {"name": "echo"}, headers=headers)
    calls = [each for each in a.seen if isinstance(each.message, dict) and each.message.get("method") == "tools/call"]
    assert len(calls) == 8
    for seen in calls:
        assert seen.values("authorization") == ["Bearer ours"]
        assert (seen.values("x-tenant"), seen.values("x-set"), seen.values("cookie")) == (["t1"], ["1"], [])
    assert a.last("initialize").values("authorization") == ["Bearer ours"]


def test_param_headers_go_on_and_are_checked(start: Start, server: Callable[..., McpServer]) -> None:
    schema = {"type": "object", "properties": {"region": {"type": "string", "x-mcp-header": "Region"}}}
    bad = {"type": "object", "properties": {"x": {"type": "object", "x-mcp-header": "Not Allowed"}}}
    lists = {"tools": [{"name": "echo", "inputSchema": schema}, {"name": "bad", "inputSchema": bad}]}
    m, b = server(name="m", era="modern", lists=lists), server(name="b", era="modern")
    gateway = start(configuration(route("/mcp", http_target("m", m.port), http_target("b", b.port))), workers=1)
    at = Endpoint(gateway.port)
    assert [tool["name"] for tool in at.modern("tools/list").result["tools"]] == ["m_echo", "b_echo"], "an invalid annotation drops the tool"
    for _ in range(3):
        params = {"name": "m_echo", "arguments": {"region": "eu"}}
        assert at.modern("tools/call", params, headers={"Mcp-Param-Region": "eu", "Mcp-Param-Other": "kept"}).status == 200
        seen = m.last("tools/call")
        assert (seen.values("mcp-param-region"), seen.values("mcp-param-other"), seen.values("mcp-name")) == (["eu"], ["kept"], ["echo"])
        for headers in ({"Mcp-Param-Region": "us"}, {"Mcp-Param-Region": "EU"}):
            answer = at.modern("tools/call", params, headers=headers)
            assert (answer.status, answer.error["code"]) == (400, -32020), headers
        assert at.modern("tools/call", params, headers={"Mcp-Param-Region": "=?base64?ZXU=?="}).status == 200
    with Session(at) as session:
        for _ in range(2):
            assert session.call("m_echo", {"region": "é u"}).status == 200
            [value] = m.last("tools/call").values("mcp-param-region")
            assert value.startswith("=?base64?")


def test_a_missing_param_header_is_always_noticed(start: Start, server: Callable[..., McpServer]) -> None:
    schema = {"type": "object", "properties": {"region": {"type": "string", "x-mcp-header": "Region"}}}
    m, b = server(name="m", era="modern", lists={"tools": [{"name": "echo", "inputSchema": schema}]}), server(name="b", era="modern")
    gateway = start(configuration(route("/mcp", http_target("m", m.port), http_target("b", b.port))), workers=1)
    at = Endpoint(gateway.port)
    params = {"name": "m_echo", "arguments": {"region": "eu"}}
    for _ in range(3):
        answer = at.modern("tools/call", params)
        assert (answer.status, answer.error["code"]) == (400, -32020)
        assert at.modern("tools/call", params, headers={"Mcp-Param-Region": "eu"}).status == 200


def test_names_that_need_coding(farm: Farm) -> None:
    at = farm.at("/modern")
    for name, coded in (("é", "=?base64?w6k=?="), (" a", "=?base64?IGE=?="), ("=?base64?x?=", "=?base64?PT9iYXNlNjQ/eD89?=")):
        for _ in range(2):
            answer = at.modern("tools/call", {"name": name}, headers={"Mcp-Name": coded})
            assert answer.status == 200, (name, answer.body)
        assert farm.m.last("tools/call").values("mcp-name") == [coded]
        assert farm.m.last("tools/call").message["params"]["name"] == name


# ------------------------------------------------------------------------------------------------------- from the targets


@pytest.mark.parametrize("path,prefix,name", PLACES)
def test_compressed_event_streams(farm: Farm, path: str, prefix: str, name: str) -> None:
    async def squeezed(x: Exchange) -> None:
        assert isinstance(x, HttpExchange)
        await x.begin(gzip=True)
        await x.notify("notifications/progress", {"progressToken": 5, "progress": 1})
        await x.text("squeezed")

    getattr(farm, name).on("squeezed", squeezed)
    getattr(farm, name).on("echo", squeezed)
    at = farm.at(path)
    with Session(at) as session:
        for _ in range(3):
            modern = at.modern("tools/call", {"name": prefix + "echo"}, meta={"progressToken": 5})
            for answer in (session.call(prefix + "echo", meta={"progressToken": 5}), modern):
                assert answer.text == "squeezed"
                assert "content-encoding" not in answer.headers
                assert len(answer.messages) == 2


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirects_are_not_followed(farm: Farm, status: int) -> None:
    async def away(x: HttpExchange) -> bool:
        if x.message.get("method") != "tools/call":
            return False
        await x.reply(status, {"Location": f"http://127.0.0.1:{farm.c.port}/mcp"})
        return True

    with Session(farm.at("/one")) as session:
        farm.a.take = away
        for _ in range(2):
            assert session.call("echo").error["code"] == -32603
        assert not farm.c.requests("tools/call")


def test_a_targets_headers_stay_there(farm: Farm) -> None:
    async def chatty(x: Exchange) -> None:
        assert isinstance(x, HttpExchange)
        body = b'{"jsonrpc":"2.0","id":' + x.raw_id + b',"result":{"content":[]}}'
        await x.reply(200, {
            "Content-Type": "application/json", "Mcp-Session-Id": "theirs-now", "Set-Cookie": "a=b", "WWW-Authenticate": "Basic",
            "Access-Control-Allow-Origin": "*",
        }, body)

    for server in (farm.a, farm.d):
        server.on("echo", chatty)
    with Session(farm.at("/one")) as session, Session(farm.at("/two")) as two:
        answers = [session.call("echo") for _ in range(4)] + [two.call("a_echo") for _ in range(4)]
        answers += [farm.at("/dual").modern("tools/call", {"name": "echo"}) for _ in range(3)]
        for answer in answers:
            assert "result" in answer.message
            assert answer.headers.get("mcp-session-id") != "theirs-now"
            assert "set-cookie" not in answer.headers, answer.headers
        assert session.request("ping").status == 200


def test_probes_leak_no_session(farm: Farm) -> None:
    """A legacy target that hands out a session id with its refusal of a modern probe: we do not use it."""
    with Session(farm.at("/mixed")) as session:
        assert session.names()
    assert farm.at("/one").modern("tools/list").status == 200
    assert not any(each.values("mcp-session-id") == ["leaked"] for each in farm.a.seen if each.method == "POST")


# ------------------------------------------------------------------------------------------------------------- CORS, logs


def test_cors_only_when_configured(farm: Farm, start: Start) -> None:
    asked = {"Origin": "http://localhost:5173", "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "mcp-session-id"}
    plain = farm.at("/one").send("OPTIONS", None, asked)
    assert plain.status != 200 or "access-control-allow-origin" not in plain.headers
    config = configuration(route("/mcp", http_target("a", farm.a.port)))
    config["routes"][0]["policies"] = {"cors": {
        "allowOrigins": ["http://localhost:5173"], "allowMethods": ["GET", "POST", "DELETE"], "allowHeaders": ["mcp-session-id", "content-type"],
        "exposeHeaders": ["Mcp-Session-Id", "WWW-Authenticate"]}}
    at = Endpoint(start(config, workers=1).port)
    preflight = at.send("OPTIONS", None, asked)
    assert preflight.status in (200, 204)
    assert preflight.headers["access-control-allow-origin"] == "http://localhost:5173"
    with Session(at) as session:
        for _ in range(3):
            answer = session.request("tools/call", {"name": "echo"}, headers={"Origin": "http://localhost:5173"})
            assert answer.headers["access-control-allow-origin"] == "http://localhost:5173"
            assert "mcp-session-id" in answer.headers["access-control-expose-headers"].lower()


def test_secrets_are_never_logged(start: Start, server: Callable[..., McpServer]) -> None:
    a, b = server(name="a"), server(name="m", era="modern")
    config = configuration(
        route("/mcp", http_target("a", a.port), http_target("m", b.port)), frontendPolicies={"accessLog": {"enabled": True}},
        config={"logging": {"level": "debug"}})
    gateway = start(config, workers=1)
    at = Endpoint(gateway.port)
    secret = "s3cr3t-value"
    with Session(at, capabilities={"elicitation": {}}) as session:
        headers = {"Authorization": f"Bearer {secret}", "Cookie": secret}
        session.request("tools/call", {"name": "a_echo", "arguments": {"password": secret}}, headers=headers)
        session.request("tools/call", {"name": "a_die", "arguments": {"password": secret}}, headers=headers)
        session.request("tools/call", {"name": f"zzz-{secret}"[:4], "arguments": {"password": secret}}, headers=headers)
        asked = {"method": "elicitation/create", "params": {"message": secret, "requestedSchema": {"type": "object", "properties": {}}}}
        with session.open_call("m_ask", asked) as stream:
            question = stream.until(lambda m: m.get("method") == "elicitation/create")
            session.answer(question, {"action": "accept", "content": {"pin": secret}})
            stream.until(lambda m: "result" in m)
        first = at.modern("tools/call", {"name": "m_ask", "arguments": asked}, capabilities={"elicitation": {}})
        state = first.result["requestState"]
        sid = session.id
    gateway.stop()
    text = gateway.stderr() + gateway.stdout()
    assert secret not in text
    assert state not in text
    assert sid not in text


def test_http_1_0(farm: Farm) -> None:
    from tests.peers.client import once

    body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "ping"}).encode()
    with Session(farm.at("/one")) as session:
        head = f"POST /one HTTP/1.0\r\nHost: localhost\r\nContent-Type: application/json\r\nMcp-Session-Id: {session.id}\r\nContent-Length: {len(body)}\r\n\r\n"
        assert b'"result":{}' in once(farm.gateway.port, head.encode() + body)
        call: dict[str, Any] = {"jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": {"name": "progress", "_meta": {"progressToken": 1}}}
        body = json.dumps(call).encode()
        head = head.replace("Content-Length: 40", f"Content-Length: {len(body)}")
        head = "\r\n".join(line if not line.startswith("Content-Length") else f"Content-Length: {len(body)}" for line in head.split("\r\n"))
        whole = once(farm.gateway.port, head.encode() + body)
        assert whole.count(b"notifications/progress") == 3
        assert b"chunked" not in whole.lower()
