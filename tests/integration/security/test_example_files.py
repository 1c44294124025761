"""Configurations of the shape of agentgateway's examples do what is said of them there, from the file to the wire.

| test | example |
|---|---|
| mcp_authorization | mcp-authorization |
| mcp_over_tls | mcp-tls |
| a_local_limit | traffic-ratelimiting-local |
| a_rate_limit_service | traffic-ratelimiting-global |
| a_signed_token_per_request | traffic-jwt-sign |
| browser_login_is_logged | traffic-oidc |
| oauth2_proxy | traffic-oauth2-proxy |

The files themselves are loaded by tests/unit/config/test_config_vectors.py, where they are at hand.
"""

from __future__ import annotations

import http.client
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tests.integration.conftest import Start
from tests.kits.external import Answer, Asked
from tests.kits.gateway import Gateway, free_port, wait_until
from tests.kits.openid import SECRET, OpenId
from tests.kits.peers import Peers
from tests.kits.rate_service import RateService
from tests.kits.tokens import Signer
from tests.peers.authority import Authority, trusting
from tests.peers.mcp_client import Answer as McpAnswer
from tests.peers.mcp_client import Endpoint, Session
from tests.peers.mcp_script import Offer
from tests.peers.mcp_server import McpServer

PROGRAM = str(Path(__file__).resolve().parents[2] / "peers" / "mcp_stdio.py")
TRACING = {"tracing": {"otlpEndpoint": "http://localhost:4317", "randomSampling": True}}


@pytest.fixture
def peers() -> Iterator[Peers]:
    running = Peers()
    yield running
    running.close()


def echo(asked: Asked) -> Answer:
    """An upstream that says what it saw."""
    return 200, [("content-type", "application/json")], json.dumps({**asked.headers, ":path": asked.target}).encode()


def bind(port: int = 0, *routes: dict[str, Any], **blocks: Any) -> dict[str, Any]:
    return {"binds": [{"port": port, "address": "127.0.0.1", "listeners": [{"name": "default", "protocol": "HTTP", "routes": list(routes)}]}], **blocks}


def access_log(gateway: Gateway) -> list[dict[str, Any]]:
    """The lines of all requests, after the gateway ended."""
    gateway.stop()
    return [json.loads(line) for line in gateway.stdout().splitlines() if '"scope":"request"' in line]


class With(Endpoint):
    """An endpoint whose requests carry a token."""

    token = ""

    def connect(self, method: str, body: bytes | None = None, headers: dict[str, str] | None = None) -> http.client.HTTPConnection:
        own = {"Authorization": f"Bearer {self.token}"} if self.token else {}
        return super().connect(method, body, {**own, **(headers or {})})


@pytest.mark.parametrize("mode", [None, "optional"])
def test_mcp_authorization(start: Start, tmp_path: Path, mode: str | None) -> None:
    """Anyone may call echo, the test user get-sum, whoever has the nested claim get-env. `anyone` needs a token unless `mode` says otherwise."""
    key = Signer("P-256", "demo")
    (tmp_path / "pub-key").write_text(json.dumps({"keys": [key.jwk]}))
    port = free_port()

    def token(**claims: Any) -> str:
        about = {"iss": "agentgateway.dev", "aud": "test.agentgateway.dev", "exp": int(time.time()) + 300, "nbf": None, "iat": None}
        return key.token(**{**about, **claims}).decode()

    with McpServer(Offer(name="mcp2", tools=["echo", "get-sum", "get-env", "rest"])) as server:
        jwt_auth = {"issuer": "agentgateway.dev", "audiences": ["test.agentgateway.dev"], "jwks": {"file": str(tmp_path / "pub-key")}}
        rules = ['mcp.tool.name == "echo"', 'jwt.sub == "test-user" && mcp.tool.name == "get-sum"', 'mcp.tool.name == "get-env" && jwt.nested.key == "value"']
        start({"mcp": {
            "port": port,
            "policies": {
                "cors": {"allowOrigins": ["*"], "allowHeaders": ["*"], "exposeHeaders": ["Mcp-Session-Id"]},
                **({"backendAuth": {"passthrough": {}}} if mode is None else {}),
                "jwtAuth": {**jwt_auth, **({"mode": mode} if mode else {})}, "mcpAuthorization": {"rules": rules},
            },
            "targets": [{"name": "mcp2", "mcp": {"host": f"http://localhost:{server.port}/mcp"}}],
        }}, workers=2)  # fmt: skip
        endpoint = With(port, "/mcp")
        for claims, allowed in (
            ({"sub": "test-user", "nested": {"key": "value"}}, ["echo", "get-sum", "get-env"]),
            ({"sub": "test-user"}, ["echo", "get-sum"]), ({"sub": "other", "nested": {"key": "other"}}, ["echo"]),
        ):  # fmt: skip
            endpoint.token = token(**claims)
            with Session(endpoint) as session:
                assert [tool["name"] for tool in session.request("tools/list").result["tools"]] == allowed
                for tool in ("echo", "get-sum", "get-env", "rest"):
                    answer = session.call(tool, {})
                    assert ("result" in answer.message) == (tool in allowed), (claims, tool)
                    if tool not in allowed:
                        assert answer.error["code"] == -32602 and "Unknown tool" in answer.error["message"]
        passed = [dict(seen.headers).get("authorization", "").startswith("Bearer ey") for seen in server.seen if seen.method == "POST"]
        assert all(passed) if mode is None else not any(passed), "what was verified goes on with backendAuth.passthrough only"
        endpoint.token = ""
        if mode is None:
            refused = endpoint.post({"jsonrpc": "2.0", "id": 1, "method": "ping"}, {"Origin": "https://app.example"})
            assert refused.status == 401 and "bearer" in refused.headers["www-authenticate"].lower()
            assert refused.headers["access-control-allow-origin"] == "*" and refused.headers["access-control-expose-headers"] == "Mcp-Session-Id"
        else:
            with Session(endpoint) as session:
                assert [tool["name"] for tool in session.request("tools/list").result["tools"]] == ["echo"]
                assert "result" in session.call("echo", {}).message and session.call("get-sum", {}).error["code"] == -32602
        endpoint.token = token(sub="test-user", aud="elsewhere")
        assert endpoint.post({"jsonrpc": "2.0", "id": 1, "method": "ping"}).status == 401


def test_mcp_over_tls(start: Start, tmp_path: Path) -> None:
    authority = Authority()
    pair = authority.issue("localhost", "127.0.0.1")
    certs = tmp_path / "examples" / "mcp-tls" / "certs"
    certs.mkdir(parents=True)
    (certs / "cert.pem").write_text(pair.cert)
    (certs / "key.pem").write_text(pair.key)
    stdio = {"cmd": sys.executable, "args": [PROGRAM, json.dumps({"name": "everything", "tools": ["echo"]})]}
    made = bind(0, {"backends": [{"mcp": {"targets": [{"name": "everything", "stdio": stdio}]}}]})
    made["binds"][0]["listeners"][0] |= {"protocol": "HTTPS", "tls": {"cert": str(certs / "cert.pem"), "key": str(certs / "key.pem")}}
    gateway = start(made, workers=1)

    class Secure(Endpoint):
        def connect(self, method: str, body: bytes | None = None, headers: dict[str, str] | None = None) -> http.client.HTTPConnection:
            connection = http.client.HTTPSConnection("localhost", self.port, timeout=8, context=trusting(authority.pem))
            fields = {"Accept": "application/json, text/event-stream", "Content-Type": "application/json", **(headers or {})}
            connection.request(method, self.path, body, fields)
            return connection

    with Session(Secure(gateway.port, "/")) as session:
        assert [tool["name"] for tool in session.request("tools/list").result["tools"]] == ["echo"]
        assert "result" in session.call("echo", {"text": "over TLS"}).message
    plain = McpAnswer(*_plain(gateway.port))
    assert plain.status == 400, "nothing is served in the clear"


def _plain(port: int) -> tuple[int, dict[str, str], bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=8)
    try:
        connection.request("POST", "/", b"{}")
        answer = connection.getresponse()
        return answer.status, {}, answer.read()
    finally:
        connection.close()


def test_a_local_limit(start: Start, peers: Peers) -> None:
    """Ten at once, then one a minute; over both workers, and told in headers."""
    upstream = peers.http(echo)
    limit = {"maxTokens": 10, "tokensPerFill": 1, "fillInterval": "60s"}
    gateway = start(bind(0, {"policies": {"localRateLimit": [limit]}, "backends": [{"host": f"localhost:{upstream.port}"}]}, config=TRACING), workers=2)
    answers = [gateway.get("/") for _ in range(13)]
    assert [answer.status for answer in answers] == [200] * 10 + [429] * 3
    assert [answer.headers["x-ratelimit-remaining"] for answer in answers[:11]] == [str(left) for left in range(9, -1, -1)] + ["0"]
    assert {answer.headers["x-ratelimit-limit"] for answer in answers} == {"10"}
    assert 50 <= int(answers[10].headers["retry-after"]) <= 60 and 550 < int(answers[10].headers["x-ratelimit-reset"]) <= 600
    assert answers[10].json()["error"]["reason"] == "RateLimit"
    assert len(upstream.asked) == 10
    assert "exports no spans yet" in gateway.stderr()


def test_a_rate_limit_service(start: Start, peers: Peers) -> None:
    """What the service counts by method and path; while it is down, failOpen lets pass and failClosed answers 500."""
    port = free_port()
    upstream, service = peers.http(echo), RateService({(("method", "GET"), ("path", "/limited")): 3}, port)
    peers.serve(service)
    policy: dict[str, Any] = {
        "domain": "agentgateway", "host": f"127.0.0.1:{port}", "failureMode": "failOpen",
        "descriptors": [{"entries": [{"key": "method", "value": "request.method"}, {"key": "path", "value": "request.path"}], "type": "requests"}],
    }  # fmt: skip
    made = bind(0, {"policies": {"remoteRateLimit": policy}, "backends": [{"host": f"localhost:{upstream.port}"}]}, config=TRACING)
    gateway = start(made, workers=2)
    answers = [gateway.get("/limited") for _ in range(5)]
    assert [answer.status for answer in answers] == [200] * 3 + [429] * 2
    assert answers[-1].headers["x-ratelimit-limit"] == "3, 3;w=60"
    assert gateway.get("/free").status == 200 and gateway.get("/limited", method="POST", body=b"").status == 200
    assert service.domains == {"agentgateway"}
    peers.end(service)
    assert gateway.get("/limited").status == 200, "failOpen"
    policy["failureMode"] = "failClosed"
    gateway.reload(made)
    assert gateway.get("/limited").status == 500
    assert gateway.metrics().total("auth_decisions_total", policy="remoteLimit", result="error") == 2


def test_a_signed_token_per_request(start: Start, peers: Peers) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()).decode()
    claims = {"iss": "MYACCOUNT.MYUSER.SHA256:public-key-fingerprint", "sub": "MYACCOUNT.MYUSER", "aud": "http://127.0.0.1:8080"}
    upstream = peers.http(echo)
    policies = {
        "backendAuth": {"jwtSign": {"signingKey": pem, "alg": "ES256", "kid": "demo-key-1", "claims": claims, "ttl": "300s"}},
        "requestHeaderModifier": {"set": {"x-demo-authorization-token-type": "KEYPAIR_JWT"}},
    }
    gateway = start(bind(0, {"name": "jwt-sign", "policies": policies, "backends": [{"host": f"127.0.0.1:{upstream.port}"}]}), workers=1)
    for _ in range(2):
        seen = gateway.get("/data", headers={"Authorization": "Bearer the-clients-own"}).json()
        assert seen["x-demo-authorization-token-type"] == "KEYPAIR_JWT"
        scheme, _, token = seen["authorization"].partition(" ")
        assert scheme == "Bearer" and jwt.get_unverified_header(token)["kid"] == "demo-key-1"
        found = jwt.decode(token, key.public_key(), algorithms=["ES256"], audience=claims["aud"])
        assert {name: found[name] for name in claims} == claims and 0 < found["exp"] - time.time() <= 300
    assert pem.splitlines()[1] not in gateway.stderr() + gateway.stdout() + gateway.admin("/config_dump").text


def test_browser_login_is_logged(start: Start, peers: Peers) -> None:
    """Log in at the provider, come back, and be named in the access log."""
    provider = OpenId()
    peers.serve(provider.peer)
    upstream, port = peers.http(echo), free_port()
    oidc = {
        "issuer": provider.issuer, "clientId": "agentgateway-browser", "clientSecret": SECRET, "redirectURI": f"http://localhost:{port}/oauth/callback",
        "scopes": ["profile", "email"],
    }  # fmt: skip
    route = {"name": "app", "matches": [{"path": {"pathPrefix": "/"}}], "backends": [{"host": f"localhost:{upstream.port}"}], "policies": {"oidc": oidc}}
    log = {"accessLog": {"add": {"user.id": "jwt.sub", "user.email": "jwt.email"}}}
    gateway = start(bind(port, route, frontendPolicies=log), workers=1)
    page = {"accept": "text/html", "sec-fetch-mode": "navigate"}
    answer = wait_until(lambda: (found := gateway.get("/app", headers=page)).status == 302 and found, 10, "the provider was discovered")
    login = answer.headers["set-cookie"].partition(";")[0]
    back = provider.authorize(answer.headers["location"])
    answer = gateway.get(f"/oauth/callback?{urlencode(back)}", headers={**page, "cookie": login})
    assert (answer.status, answer.headers["location"]) == (303, "/app")
    session = next(value.partition(";")[0] for value in answer.headers.get_all("set-cookie") or [] if "Max-Age=0" not in value)
    for _ in range(2):
        assert gateway.get("/app", headers={"cookie": session}).json()[":path"] == "/app"
    lines = access_log(gateway)
    assert [(line["user.id"], line["user.email"]) for line in lines[-2:]] == [("kim", "kim@example.com")] * 2
    assert not any("user.id" in line for line in lines[:-2]), "nobody was known before"
    assert back["code"] not in gateway.stdout() and session.partition("=")[2] not in gateway.stdout()


def test_oauth2_proxy(start: Start, peers: Peers) -> None:
    """What the proxy says decides, its own pages go to it with the client's Host, and its users are in the log."""

    def proxy(asked: Asked) -> Answer:
        if asked.target == "/oauth2/auth":
            if "_oauth2_proxy=good" in asked.headers.get("cookie", "") and asked.headers["x-forwarded-host"] == "app.example":
                return 202, [("x-auth-request-user", "kim"), ("x-auth-request-email", "kim@example.com")], b""
            return 401, [], b"Unauthorized"
        return echo(asked)

    service, upstream = peers.http(proxy), peers.http(echo)
    ext_authz = {
        "host": f"localhost:{service.port}", "includeRequestHeaders": ["cookie"],
        "protocol": {"http": {
            "path": '"/oauth2/auth"', "redirect": '"/oauth2/start?rd=" + request.path',
            "metadata": {"githubUser": 'response.headers["x-auth-request-user"]', "githubEmail": 'response.headers["x-auth-request-email"]'},
            "addRequestHeaders": {"x-forwarded-host": "request.host"}, "includeResponseHeaders": ["x-auth-request-user"],
        }},
    }  # fmt: skip
    routes = [
        {"name": "oauth2-proxy", "matches": [{"path": {"pathPrefix": "/oauth2"}}], "policies": {"urlRewrite": {"authority": "none"}},
         "backends": [{"host": f"localhost:{service.port}"}]},
        {"name": "application", "backends": [{"host": f"localhost:{upstream.port}"}], "policies": {"extAuthz": ext_authz}},
    ]  # fmt: skip
    log = {"accessLog": {"add": {"github.user": "extauthz.githubUser", "github.email": "extauthz.githubEmail"}}}
    gateway = start(bind(0, *routes, frontendPolicies=log), workers=2)
    app = {"host": "app.example"}
    answer = gateway.get("/page", headers=app)
    assert (answer.status, answer.headers["location"]) == (302, "/oauth2/start?rd=/page")
    seen = gateway.get(answer.headers["location"], headers=app).json()
    assert (seen[":path"], seen["host"]) == ("/oauth2/start?rd=/page", "app.example"), "the proxy's own page, for the client's Host"
    seen = gateway.get("/page", headers={**app, "cookie": "_oauth2_proxy=good", "x-auth-request-user": "root"}).json()
    assert (seen["x-auth-request-user"], seen["host"]) == ("kim", f"localhost:{upstream.port}")
    assert len(upstream.asked) == 1
    lines = {(line["route"], line["http.status"]): line for line in access_log(gateway)}
    known = lines["application", 200]
    assert (known["github.user"], known["github.email"]) == ("kim", "kim@example.com")
    assert "github.user" not in lines["application", 302] and "github.user" not in lines["oauth2-proxy", 200]
