"""The access log as configured: fields computed of request, answer, identity and message, a filter, fields taken off; over a reload."""

from __future__ import annotations

import json
from typing import Any

from tests.integration.mcp.conftest import http_target, route
from tests.kits.gateway import Gateway, proxy_config
from tests.peers.client import Client
from tests.peers.mcp_client import Endpoint, Session
from tests.peers.mcp_script import Offer
from tests.peers.mcp_server import McpServer
from tests.peers.upstream import Peer, Upstream

KEYS = {"keys": [{"key": "key-of-kim-0123456789", "metadata": {"user": "kim", "team": {"id": 7}}}], "mode": "optional"}


def lines(gateway: Gateway) -> list[dict[str, Any]]:
    """The access log, after the gateway ended."""
    gateway.stop()
    return [json.loads(line) for line in gateway.stdout().splitlines() if '"scope":"request"' in line or '"agw.test"' in line]


def config(where: str, log: dict[str, Any], policies: dict[str, Any] | None = None, **blocks: Any) -> dict[str, Any]:
    routes = [{"name": "app", "backends": [{"host": where}], "policies": policies or {}}]
    return proxy_config(routes=routes, frontendPolicies={"accessLog": log}, **blocks)


def test_fields_of_identity_request_and_answer() -> None:
    log = {
        "add": {
            "user.id": "apiKey.user", "user.team": "apiKey.team", "agent": 'request.headers["user-agent"]', "credential": 'request.headers["authorization"]',
            "query": "request.pathAndQuery", "failed": "response.code >= 400", "type": 'response.headers["content-type"]', "to": "backend",
            "where": "backend.protocol",
            "broken": 'int(request.headers["user-agent"])', "tool": "mcp.tool.name", "http.host": '"mine"',
        },
        "remove": ["src.addr", "endpoint", "time"],
    }  # fmt: skip
    with Upstream(Peer.serve) as upstream, Gateway(config(upstream.host, log, {"apiKey": KEYS}), workers=1) as gateway:
        with Client(gateway.port) as one:
            assert one.get("/a?x=1", b"User-Agent: curl", b"Authorization: Bearer key-of-kim-0123456789").status == 200
            assert one.get("/b", b"User-Agent: 12").status == 200
            assert one.get("/c", b"Authorization: Bearer nonsense").status == 401
        known, nobody, refused = lines(gateway)
        assert (known["user.id"], known["user.team"], known["agent"]) == ("kim", {"id": 7}, "curl")
        assert (known["credential"], known["query"], known["failed"], known["where"]) == ("<redacted>", "/a?x=1", False, "http")
        assert known["to"]["protocol"] == "http" and known["to"]["name"]
        assert "key-of-kim" not in json.dumps(known)
        assert known["http.host"] == "mine" and "time" in known
        assert not {"src.addr", "endpoint", "broken", "tool"} & known.keys()
        assert nobody["broken"] == 12 and "user.id" not in nobody and "credential" not in nobody
        assert refused["failed"] is True and refused["reason"] == "APIKeyAuth" and "where" not in refused


def test_a_filter_leaves_lines_out() -> None:
    log = {"filter": 'request.path != "/health" && !(request.headers["x-noise"] == "1")'}
    with Upstream(Peer.serve) as upstream, Gateway(config(upstream.host, log), workers=1) as gateway:
        with Client(gateway.port) as one:
            for path, line in (("/health", b"X-Noise: 0"), ("/a", b"X-Noise: 0"), ("/b", b"X-Noise: 1"), ("/c", b"X-Other: 1")):
                assert one.get(path, line).status == 200
        assert [line["http.path"] for line in lines(gateway)] == ["/a", "/c"], "what cannot be evaluated has its line"


def test_fields_of_messages_on_the_compiled_and_the_other_path() -> None:
    log = {"add": {"what": "mcp.tool.name", "n": "mcp.tool.arguments.n", "method": "mcp.methodName", "at": "mcp.tool.target"}, "filter": "has(mcp.tool)"}
    with McpServer(Offer(name="a", tools=["echo"])) as a, McpServer(Offer(name="b", tools=["echo"])) as b:
        made = {
            "gateways": {"default": {"port": 0, "address": "127.0.0.1"}}, "frontendPolicies": {"accessLog": log},
            "routes": [route("/mcp", http_target("a", a.port), http_target("b", b.port))],
        }
        with Gateway(made, workers=1) as gateway:
            with Session(Endpoint(gateway.port, "/mcp")) as session:
                session.request("tools/list")
                for number in range(6):
                    assert session.call("b_echo", {"n": number}).status == 200
            seen = lines(gateway)
        assert [line["n"] for line in seen] == list(range(6)), "one line per call, and none for the rest"
        assert {(line["what"], line["at"], line["method"]) for line in seen} == {("echo", "b", "tools/call")}


def test_a_reload_changes_fields_also_of_known_identities() -> None:
    with Upstream(Peer.serve) as upstream:
        made = config(upstream.host, {"add": {"agw.test": "apiKey.user"}}, {"apiKey": KEYS})
        with Gateway(made, workers=1) as gateway:
            with Client(gateway.port) as one:
                asked = b"Authorization: Bearer key-of-kim-0123456789"
                assert one.get("/1", asked).status == 200
                made["frontendPolicies"]["accessLog"] = {"add": {"agw.test": "apiKey.team.id", "from": "proxy.route"}}
                gateway.reload(made)
                assert one.get("/2", asked).status == 200
                made["frontendPolicies"]["accessLog"] = {}
                gateway.reload(made)
                assert one.get("/3", asked).status == 200
            before, after, last = lines(gateway)
            assert before["agw.test"] == "kim"
            assert (after["agw.test"], after["from"]) == (7, "app")
            assert "agw.test" not in last


def test_what_is_no_request_has_a_line_too() -> None:
    log = {"add": {"bad": "response.code == 400", "verb": "request.method", "agent": 'request.headers["user-agent"]', "at": "proxy.route"}}
    with Upstream(Peer.serve) as upstream, Gateway(config(upstream.host, log), workers=1) as gateway:
        for octets in (b"GET\r\n\r\n", b"GET / HTTP/1.1\r\nHost: h\r\nHost: h\r\n\r\n", b"GET /%00 HTTP/1.1\r\nHost: h\r\n\r\n"):
            with Client(gateway.port) as one:
                one.send(octets)
                assert one.answer().status == 400
        with Client(gateway.port) as one:
            one.send(b"GET /gone HTTP/1.1\r\nHost: h\r\nUser-Agent: a\r\n\r\n")
            assert one.answer().status == 200
        found = lines(gateway)
        assert [line["bad"] for line in found] == [True, True, True, False]
        assert (found[3]["verb"], found[3]["agent"], found[3]["at"]) == ("GET", "a", "app")
        gateway.assert_clean_log()
