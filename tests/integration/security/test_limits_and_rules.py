"""Limits and rules from the file to the wire, with two workers: exact over both, in the caller's protocol, and learned by the compiled path."""

from __future__ import annotations

import json
import socket
import threading
from typing import Any

import pytest

from tests.integration.mcp.conftest import configuration, http_target, route
from tests.kits.gateway import Gateway
from tests.peers.client import Client
from tests.peers.mcp_client import Endpoint, Session
from tests.peers.mcp_script import Offer
from tests.peers.mcp_server import McpServer
from tests.peers.upstream import Peer, Upstream


def host_config(where: str, policies: dict[str, Any], **blocks: Any) -> dict[str, Any]:
    return {
        "gateways": {"default": {"port": 0, "address": "127.0.0.1"}},
        "routes": [{"name": "r", "matches": [{"path": {"pathPrefix": "/"}}], "policies": policies, "backends": [{"host": where}]}],
        "config": {"connectionTerminationDeadline": "1s"}, **blocks,
    }


def test_a_rate_is_one_for_all_workers_and_keyed() -> None:
    limit = {"maxTokens": 10, "tokensPerFill": 1, "fillInterval": "1h", "key": 'request.headers["x-user"]'}
    with Upstream(Peer.serve) as upstream, Gateway(host_config(upstream.host, {"localRateLimit": [limit]}), workers=2) as gateway:
        statuses: dict[bytes, list[int]] = {b"a": [], b"b": []}
        for _ in range(8):
            # New connections, so that both workers get some.
            with Client(gateway.port) as one:
                for user, seen in statuses.items():
                    seen.extend(one.get("/", b"X-User: %b" % user).status for _ in range(3))
        for seen in statuses.values():
            assert seen.count(200) == 10
            assert seen.count(429) == 14
        with Client(gateway.port) as one:
            refused = one.get("/", b"X-User: a")
            assert refused.get(b"x-ratelimit-limit") == [b"10"]
            assert int(refused.get(b"retry-after")[0]) > 0
            assert json.loads(refused.body)["error"]["reason"] == "RateLimit"
            assert one.get("/").status == 429, "a key that cannot be told is no bucket for everybody"
        assert len(upstream.requests) == 20


def test_how_much_at_once_ends_with_the_requests() -> None:
    limit = {"kind": "concurrency", "maxTokens": 2, "name": "at-once"}
    with Upstream(Peer.serve) as upstream, Gateway(host_config(upstream.host, {"localRateLimit": [limit]}), workers=2) as gateway:
        go = threading.Event()

        def slow(peer: Peer) -> None:
            while True:
                request = peer.request()
                peer.pause(go)
                peer.answer(request)

        upstream.play(slow)
        waiting = [Client(gateway.port) for _ in range(2)]
        for one in waiting:
            one.send(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
        upstream.wait_requests(2)
        with Client(gateway.port) as third:
            assert third.get("/").status == 429
            go.set()
            for one in waiting:
                assert one.answer().status == 200
                one.close()
            assert third.get("/").status == 200


@pytest.fixture
def tools() -> Any:
    with McpServer(Offer(name="a", tools=["echo", "whoami", "secret", "progress"])) as server:
        yield server


def mcp_config(server: McpServer, **policies: Any) -> dict[str, Any]:
    one = route("/mcp", http_target("a", server.port))
    return configuration({**one, "policies": policies})


def test_rules_hide_tools_and_calls_learn_to_go_alone(tools: McpServer) -> None:
    rules = {"rules": ['mcp.tool.name in ["echo", "whoami"]', {"deny": 'mcp.tool.name == "secret"'}]}
    with Gateway(mcp_config(tools, mcpAuthorization=rules), workers=2) as gateway, Session(Endpoint(gateway.port, "/mcp")) as session:
        assert [tool["name"] for tool in session.request("tools/list").result["tools"]] == ["echo", "whoami"]
        for _ in range(20):
            assert session.call("echo", {"n": 1}).status == 200
            hidden = session.call("secret")
            assert hidden.error["code"] == -32602
            assert hidden.error == session.call("nobody").error | {"message": hidden.error["message"]}
        assert not [seen for seen in tools.requests("tools/call") if seen["params"]["name"] == "secret"]
        gateway.assert_clean_log()


def test_limits_of_tools_speak_json_rpc_and_are_exact(tools: McpServer) -> None:
    limit = {"maxTokens": 12, "tokensPerFill": 1, "fillInterval": "1h", "key": "mcp.tool.name", "phase": "mcp"}
    with Gateway(mcp_config(tools, localRateLimit=[limit]), workers=2) as gateway, Session(Endpoint(gateway.port, "/mcp")) as session:
        answers = [session.call("echo", {"n": number}) for number in range(20)]
        good = [answer for answer in answers if answer.status == 200 and "result" in answer.message]
        assert len(good) == 12
        assert all(answer.error["code"] == -32003 for answer in answers[12:])
        assert "result" in session.call("whoami").message
        gateway.assert_clean_log()


def test_a_call_that_streams_is_charged_once(tools: McpServer) -> None:
    """Its answer is not one to relay, so the compiled path, which took the limit, hands it over to the service, which must not again."""
    limit = {"maxTokens": 12, "tokensPerFill": 1, "fillInterval": "1h", "key": "mcp.tool.name", "phase": "mcp"}
    with Gateway(mcp_config(tools, localRateLimit=[limit]), workers=1) as gateway, Session(Endpoint(gateway.port, "/mcp")) as session:
        answers = [session.call("progress", {"steps": 1}, meta={"progressToken": number}) for number in range(16)]
        assert ["error" in answer.messages[-1] for answer in answers] == [False] * 12 + [True] * 4
        gateway.assert_clean_log()


def test_connections_are_judged_before_they_say_anything() -> None:
    rules = {"networkAuthorization": {"rules": ['source.address == "127.0.0.2"']}}
    with Upstream(Peer.serve) as upstream, Gateway(host_config(upstream.host, {}, frontendPolicies=rules), workers=1) as gateway:
        with socket.create_connection(("127.0.0.1", gateway.port), source_address=("127.0.0.2", 0)) as welcome:
            welcome.sendall(b"GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
            assert welcome.recv(100).startswith(b"HTTP/1.1 200")
        with socket.create_connection(("127.0.0.1", gateway.port)) as other:
            other.settimeout(5)
            try:
                other.sendall(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
                assert other.recv(100) == b""
            except ConnectionError:
                pass
        assert len(upstream.requests) == 1


def test_routes_with_the_same_rules_are_told_apart_by_them() -> None:
    """Rules of a gateway have one gate for all of its routes, and so one memory."""
    rules = {"rules": ['proxy.route == "a"']}
    with Upstream(Peer.serve) as upstream:
        routes = [
            {"name": name, "matches": [{"path": {"pathPrefix": f"/{name}"}}], "backends": [{"host": upstream.host}]} for name in "ab"
        ]
        made = {"gateways": {"default": {"port": 0, "address": "127.0.0.1", "authorization": rules}}, "routes": routes}
        with Gateway(made, workers=1) as gateway, Client(gateway.port) as one:
            assert [one.get(path).status for path in ("/a", "/b", "/a", "/b")] == [200, 403, 200, 403]


@pytest.mark.parametrize("targets", [1, 2])
def test_rules_see_what_targets_say_of_their_tools(targets: int) -> None:
    def tool(name: str, annotations: dict[str, Any] | None) -> dict[str, Any]:
        return {"name": name, "inputSchema": {"type": "object"}, **({} if annotations is None else {"annotations": annotations})}

    listed = [tool("echo", {"readOnlyHint": True}), tool("whoami", {"readOnlyHint": False}), tool("secret", None)]
    offer = Offer(name="a", tools=["echo", "whoami", "secret"], lists={"tools": listed})
    rules = {"rules": ["mcp.tool.annotations.readOnlyHint == true"]}
    with McpServer(offer) as a, McpServer(Offer(name="b", tools=[])) as b:
        servers = [http_target("a", a.port), http_target("b", b.port)][:targets]
        one = route("/mcp", *servers)
        prefix = "a_" if targets > 1 else ""
        with Gateway(configuration({**one, "policies": {"mcpAuthorization": rules}}), workers=1) as gateway:
            with Session(Endpoint(gateway.port, "/mcp")) as session:
                for _ in range(3):
                    assert [found["name"] for found in session.request("tools/list").result["tools"]] == [f"{prefix}echo"]
                    assert session.call(f"{prefix}echo", {"n": 1}).status == 200
                    for hidden in ("whoami", "secret", "nobody"):
                        assert session.call(f"{prefix}{hidden}").error["code"] == -32602
            assert {seen["params"]["name"] for seen in a.requests("tools/call")} == {"echo"}
            gateway.assert_clean_log()


def test_what_one_route_decided_is_nothing_to_another_on_the_same_connection() -> None:
    def policies(rule: str) -> dict[str, Any]:
        return {"apiKey": {"mode": "strict", "keys": [{"key": "k1", "metadata": {"user": "me"}}]}, "authorization": {"rules": [rule]}}

    with Upstream(Peer.serve) as upstream:
        config = host_config(upstream.host, policies('apiKey.user == "me"'))
        config["routes"].append({
            "name": "closed", "matches": [{"path": {"pathPrefix": "/closed"}}], "policies": policies('apiKey.user == "you"'),
            "backends": [{"host": upstream.host}]})
        key = b"Authorization: Bearer k1"
        with Gateway(config, workers=1) as gateway, Client(gateway.port) as one:
            for _ in range(3):
                # The connection holds who it is from the second time on.
                assert one.get("/", key).status == 200
                assert one.get("/closed", key).status == 403
        assert len(upstream.requests) == 3
