"""The whole gateway: an authorization service that is to see the body does, and the upstream gets the same request all the same."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from agw.security.ext_authz.messages import CheckResponse
from tests.integration.conftest import Start
from tests.kits.authorization import AuthorizationPeer
from tests.kits.external import Answer, Asked, HttpPeer
from tests.kits.gateway import Gateway, proxy_config
from tests.kits.peers import Peers
from tests.peers.issuer import Issuer
from tests.peers.mcp_server import McpServer, Offer

CALL = {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {
    "protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}}}  # fmt: skip


@pytest.fixture
def peers() -> Iterator[Peers]:
    running = Peers()
    yield running
    running.close()


def body_back(asked: Asked) -> Answer:
    return 200, [("content-type", "text/plain")], asked.body


def no_secret(asked: Asked) -> Answer:
    """A service that refuses bodies with a certain word."""
    return (403, [], b"not that") if b"secret" in asked.body else (200, [], b"")


def policy(port: int, **body: Any) -> dict[str, Any]:
    return {"extAuthz": {"host": f"localhost:{port}", "protocol": {"http": {}}, "includeRequestBody": body, "includeRequestHeaders": ["x-any"]}}


def config(port: int, policies: dict[str, Any]) -> dict[str, Any]:
    return proxy_config(routes=[{"name": "app", "backends": [{"host": f"127.0.0.1:{port}"}], "policies": policies}])


def chunked(payload: bytes, size: int = 1000) -> bytes:
    pieces = [payload[at : at + size] for at in range(0, len(payload), size)]
    return b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"


def talk(gateway: Gateway, head: bytes, body: bytes, waits: bool = False) -> tuple[int, bytes]:
    """A POST on a connection of its own, octet by octet as given; `waits`: the body is sent after 100 only. (status, the answer's body)."""
    with gateway.connect() as sock:
        reader = sock.makefile("rb")
        sock.sendall(b"POST /x HTTP/1.1\r\nHost: h\r\nConnection: close\r\n" + head + b"\r\n")
        if waits:
            line = reader.readline()
            if line.split()[1] != b"100":
                return int(line.split()[1]), b""
            assert reader.readline() == b"\r\n"
        sock.sendall(body)
        status = int(reader.readline().split()[1])
        text = reader.read()
        return status, text.partition(b"\r\n\r\n")[2]


def test_http_sees_the_body_however_it_is_framed(start: Start, peers: Peers) -> None:
    service, upstream = peers.serve(HttpPeer(no_secret)), peers.serve(HttpPeer(body_back))
    gateway = start(config(upstream.port, policy(service.port, maxRequestBytes=5000)), workers=1)
    for word, status in ((b"public", 200), (b"secret", 403)):
        payload = b"x" * 3000 + word
        whole = b"Content-Length: %d\r\n" % len(payload)
        chunks = b"Transfer-Encoding: chunked\r\n"
        expected = (status, payload if status == 200 else b"not that")
        assert talk(gateway, whole, payload) == expected
        assert talk(gateway, chunks, chunked(payload)) == expected
        assert talk(gateway, whole + b"Expect: 100-continue\r\n", payload, waits=True) == expected
        assert talk(gateway, chunks + b"Expect: 100-continue\r\n", chunked(payload), waits=True) == expected
    assert {len(asked.body) for asked in service.asked} == {3006} and len(upstream.asked) == 4
    assert gateway.get("/x").status == 200, "what has no body is asked about without"
    assert service.asked[-1].body == b""


def test_a_body_that_is_too_long_is_refused_or_cut(start: Start, peers: Peers) -> None:
    service, upstream = peers.serve(HttpPeer(no_secret)), peers.serve(HttpPeer(body_back))
    gateway = start(config(upstream.port, policy(service.port, maxRequestBytes=100)), workers=1)
    payload = b"x" * 200_000
    whole, chunks = b"Content-Length: 200000\r\n", b"Transfer-Encoding: chunked\r\n"
    assert talk(gateway, whole, payload)[0] == 413
    assert talk(gateway, chunks, chunked(payload))[0] == 413
    assert talk(gateway, whole + b"Expect: 100-continue\r\n", payload, waits=True)[0] == 413, "it need not be sent to be too long"
    assert not service.asked and not upstream.asked
    assert gateway.metrics().total("auth_decisions_total", policy="extAuthz", result="refused") == 3
    gateway.reload(config(upstream.port, policy(service.port, maxRequestBytes=100, allowPartialMessage=True)))
    assert talk(gateway, whole, payload) == (200, payload)
    assert talk(gateway, chunks, chunked(payload)) == (200, payload)
    assert talk(gateway, whole + b"Expect: 100-continue\r\n", payload, waits=True) == (200, payload)
    assert [asked.body for asked in service.asked] == [b"x" * 100] * 3


def test_grpc_sees_the_body_and_who_is_refused_before_need_not_send_it(start: Start, peers: Peers) -> None:
    service = peers.serve(AuthorizationPeer(lambda attributes: CheckResponse(status={})))
    upstream = peers.serve(HttpPeer(body_back))
    keys = [{"key": "k-1234567890", "metadata": {}}]
    policies = {
        "apiKey": {"keys": keys},
        "extAuthz": {"host": f"127.0.0.1:{service.port}", "includeRequestBody": {"maxRequestBytes": 100, "packAsBytes": True}},
    }
    gateway = start(config(upstream.port, policies), workers=1)
    head = b"Content-Length: 3\r\nExpect: 100-continue\r\n"
    assert talk(gateway, head, b"\xff\x00a", waits=True)[0] == 401
    assert talk(gateway, head + b"Authorization: Bearer k-1234567890\r\n", b"\xff\x00a", waits=True) == (200, b"\xff\x00a")
    assert [asked.request.http.raw_body for asked in service.service.asked] == [b"\xff\x00a"]


def test_a_message_to_mcp_is_seen_and_served(start: Start, peers: Peers) -> None:
    service = peers.serve(HttpPeer(no_secret))
    with McpServer(Offer(name="a")) as target:
        targets = [{"name": "a", "mcp": {"host": f"http://127.0.0.1:{target.port}/mcp"}}]
        for workers in (1, 2):
            route = {"name": "m", "backends": [{"mcp": {"targets": targets}}], "policies": policy(service.port, maxRequestBytes=64, allowPartialMessage=True)}
            gateway = start(proxy_config(routes=[route]), workers=workers)
            fields = {"content-type": "application/json", "accept": "application/json, text/event-stream"}
            body = json.dumps(CALL).encode()
            opened = gateway.get("/mcp", method="POST", body=body, headers=fields)
            assert opened.status == 200 and b"2025-06-18" in opened.body
            session = {**fields, "mcp-session-id": opened.headers["mcp-session-id"], "mcp-protocol-version": "2025-06-18"}
            before = len(service.asked)
            for number in range(6):
                listed = json.dumps({"jsonrpc": "2.0", "id": number, "method": "tools/list", "params": {"_meta": {"x": "y" * 500}}}).encode()
                answer = gateway.get("/mcp", method="POST", body=listed, headers=session)
                assert answer.status == 200 and b'"tools"' in answer.body, answer
            assert [asked.body for asked in service.asked[before:]] == [
                json.dumps({"jsonrpc": "2.0", "id": n, "method": "tools/list", "params": {"_meta": {"x": "y" * 500}}}).encode()[:64] for n in range(6)
            ], "also what another worker owns is asked about once"


@pytest.mark.parametrize("auth", ["clientCredentials", "aws"])
def test_a_body_that_was_looked_at_waits_for_the_backends_credential_too(start: Start, peers: Peers, auth: str) -> None:
    payload = b"x" * 150_000
    whole, chunks = b"Content-Length: 150000\r\n", b"Transfer-Encoding: chunked\r\n"
    with Issuer() as issuer:
        issuer.add_client("agw", "s3cret")
        issuer.expires_in = 0  # so that each request waits for a token of its own
        service, upstream = peers.serve(HttpPeer(no_secret)), peers.serve(HttpPeer(body_back))
        credentials = {
            "clientCredentials": {"oauthClientCredentials": {
                "tokenUrl": issuer.token_url, "clientAuth": {"clientId": "agw", "clientSecret": "s3cret"}}},
            "aws": {"aws": {"accessKeyId": "AKID", "secretAccessKey": "very secret", "region": "eu-west-1", "serviceName": "execute-api"}},
        }[auth]  # fmt: skip
        for limit in (100, 1_000_000):
            policies = {**policy(service.port, maxRequestBytes=limit, allowPartialMessage=True), "backendAuth": credentials}
            gateway = start(config(upstream.port, policies), workers=1)
            assert talk(gateway, whole, payload) == (200, payload)
            assert talk(gateway, chunks, chunked(payload)) == (200, payload)
            assert talk(gateway, whole + b"Expect: 100-continue\r\n", payload, waits=True) == (200, payload)
        assert [len(asked.body) for asked in service.asked] == [100] * 3 + [150_000] * 3
        assert all(asked.headers["authorization"].startswith("Bearer " if auth == "clientCredentials" else "AWS4-") for asked in upstream.asked)
        assert bool(issuer.count("/token")) == (auth == "clientCredentials")
