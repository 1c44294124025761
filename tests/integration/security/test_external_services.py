"""The whole gateway: services that are asked about a request, browser login, and who may use the admin listener."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlencode

import pytest

from agw.security.ext_authz.messages import CheckResponse
from tests.integration.conftest import Start
from tests.kits.authorization import AuthorizationPeer
from tests.kits.external import Answer, Asked
from tests.kits.gateway import ask, free_port, proxy_config, wait_until
from tests.kits.openid import SECRET, OpenId
from tests.kits.peers import Peers


@pytest.fixture
def peers() -> Iterator[Peers]:
    running = Peers()
    yield running
    running.close()


def echo(asked: Asked) -> Answer:
    """An upstream that says what it saw."""
    return 200, [("content-type", "application/json")], json.dumps(asked.headers).encode()


def config(port: int, policies: dict[str, Any], **blocks: Any) -> dict[str, Any]:
    return proxy_config(routes=[{"name": "app", "backends": [{"host": f"127.0.0.1:{port}"}], "policies": policies}], **blocks)


def test_http_authorization_as_oauth2_proxy_does_it(start: Start, peers: Peers) -> None:
    def decide(asked: Asked) -> Answer:
        if "session=good" in asked.headers.get("cookie", ""):
            return 202, [("x-auth-request-user", "kim")], b""
        return 401, [("content-type", "text/plain")], b"who are you?"

    service, upstream = peers.http(decide), peers.http(echo)
    policy = {
        "host": f"localhost:{service.port}", "includeRequestHeaders": ["cookie"],
        "protocol": {"http": {
            "path": '"/oauth2/auth"', "redirect": '"/oauth2/start?rd=" + request.path', "metadata": {"user": 'response.headers["x-auth-request-user"]'},
            "addRequestHeaders": {"x-forwarded-host": "request.host"}, "includeResponseHeaders": ["x-auth-request-user"],
        }},
    }  # fmt: skip
    rules = {"rules": ['extauthz.user == "kim"']}
    gateway = start(config(upstream.port, {"extAuthz": policy, "authorization": rules}), workers=1)
    answer = gateway.get("/deep/page")
    assert (answer.status, answer.headers["location"], answer.body) == (302, "/oauth2/start?rd=/deep/page", b"")
    answer = gateway.get("/deep/page", headers={"cookie": "session=good", "x-auth-request-user": "root"})
    assert answer.status == 200
    assert answer.json()["x-auth-request-user"] == "kim" and answer.json()["cookie"] == "session=good"
    assert [asked.target for asked in service.asked] == ["/oauth2/auth"] * 2
    assert len(upstream.asked) == 1
    metrics = gateway.metrics()
    assert metrics.total("auth_decisions_total", policy="extAuthz", result="ok") == 1
    assert metrics.total("auth_decisions_total", policy="extAuthz", result="refused") == 1


def test_grpc_authorization_over_a_reload(start: Start, peers: Peers) -> None:
    def decide(attributes: Any) -> Any:
        if attributes.request.http.headers.get("authorization") == "good":
            headers = [{"header": {"key": "x-user", "value": "kim"}}]
            return CheckResponse(status={}, ok_response={"headers": headers, "headers_to_remove": ["authorization"]})
        return CheckResponse(status={"code": 7}, denied_response={"status": {"code": 418}, "body": "no"})

    upstream, service = peers.http(echo), AuthorizationPeer(decide)
    peers.serve(service)
    port, seen = service.port, service.service.asked
    policies = {"extAuthz": {"host": f"127.0.0.1:{port}", "failureMode": {"denyWithStatus": 503}}}
    gateway = start(config(upstream.port, policies), workers=1)
    for _ in range(2):
        answer = gateway.get("/a?b", headers={"authorization": "good", "x-user": "root"})
        assert answer.status == 200 and answer.json()["x-user"] == "kim" and "authorization" not in answer.json()
        answer = gateway.get("/a?b", headers={"authorization": "bad"})
        assert (answer.status, answer.body) == (418, b"no")
        policies["extAuthz"]["protocol"] = {"grpc": {"context": {"generation": "2"}}}
        gateway.reload(config(upstream.port, policies))
    http = seen[0].request.http
    assert (http.path, http.method, seen[0].source.address.socket_address.address) == ("/a?b", "GET", "127.0.0.1")
    assert dict(seen[-1].context_extensions) == {"generation": "2"}


def test_a_browser_logs_in(start: Start, peers: Peers) -> None:
    provider = OpenId()
    peers.serve(provider.peer)
    upstream = peers.http(echo)
    port = free_port()
    oidc = {
        "issuer": provider.issuer, "clientId": "client", "clientSecret": SECRET, "redirectURI": f"http://localhost:{port}/oauth/callback",
        "scopes": ["email"],
    }  # fmt: skip
    rules = {"rules": ['jwt.email.endsWith("@example.com")']}
    made = config(upstream.port, {"oidc": oidc, "authorization": rules})
    made["gateways"]["default"]["port"] = port
    gateway = start(made, workers=2)
    page = {"accept": "text/html", "sec-fetch-mode": "navigate"}
    assert gateway.get("/app", headers={"accept": "application/json"}).status == 401
    answer = wait_until(lambda: (found := gateway.get("/app?x=1", headers=page)).status == 302 and found, 10, "the provider was discovered")
    login = answer.headers["set-cookie"].partition(";")[0]
    back = provider.authorize(answer.headers["location"])
    answer = gateway.get(f"/oauth/callback?{urlencode(back)}", headers={**page, "cookie": login})
    assert (answer.status, answer.headers["location"]) == (303, "/app?x=1"), answer
    session = next(value.partition(";")[0] for value in answer.headers.get_all("set-cookie") or [] if "Max-Age=0" not in value)
    for _ in range(8):  # both workers know the session
        answer = gateway.get("/app", headers={"cookie": f"mine=1; {session}"})
        assert (answer.status, answer.json()["cookie"]) == (200, "mine=1")
    provider.changes = {"email": "kim@evil.example"}
    answer = gateway.get("/app", headers=page)
    back = provider.authorize(answer.headers["location"])
    answer = gateway.get(f"/oauth/callback?{urlencode(back)}", headers={**page, "cookie": answer.headers["set-cookie"].partition(";")[0]})
    session = next(value.partition(";")[0] for value in answer.headers.get_all("set-cookie") or [] if "Max-Age=0" not in value)
    assert gateway.get("/app", headers={"cookie": session}).status == 403
    gateway.reload()
    assert gateway.get("/app", headers={"cookie": session}).status == 403, "a session outlives a reload"
    assert SECRET not in gateway.stderr() + gateway.stdout() + gateway.admin("/config_dump").text


def test_the_admin_listener_asks(start: Start) -> None:
    address = f"127.0.0.1:{free_port()}"
    token = hashlib.sha256(b"let me in").hexdigest()
    gateway = start(proxy_config(config={"adminAddr": address, "adminAuth": {"tokens": [{"sha256": token, "role": "read"}]}}), workers=1)
    assert ask(address, "GET", "/workers").status == 401
    good = {"authorization": "Bearer let me in"}
    assert ask(address, "GET", "/workers", headers=good).status == 200
    assert ask(address, "POST", "/quitquitquit", headers=good).status == 403
    dump = ask(address, "GET", "/config_dump", headers=good)
    assert dump.status == 200 and token not in dump.text
    metrics = gateway.metrics()
    assert metrics.total("worker_ready") == 1, "stats and probes stay open"
    for _ in range(12):
        assert ask(address, "GET", "/workers", headers={"authorization": "Bearer guess"}).status in (401, 429)
    counted = gateway.metrics()
    wanted = {"ok": 2, "missing": 1, "forbidden": 1, "refused": 10, "limited": 2}
    assert {result: counted.total("admin_auth_decisions_total", result=result) for result in wanted} == wanted


def test_one_of_several_services_and_the_rules_of_a_backend(start: Start, peers: Peers) -> None:
    def deny(asked: Asked) -> Answer:
        return (200, [], b"") if asked.body == b"please" else (403, [], b"strict says no")

    strict, lax, upstream = peers.http(deny), peers.http(lambda _: (200, [], b"")), peers.http(echo)
    http = {"protocol": {"http": {}}}
    policy = {"conditional": [
        {"condition": 'request.path.startsWith("/admin")', "backend": "strict", **http, "includeRequestBody": {}},
        {"condition": 'request.path != "/free"', "host": f"127.0.0.1:{lax.port}", **http},
    ]}  # fmt: skip
    rules = {"rules": [{"deny": 'request.path == "/lax/secret"'}]}
    made = proxy_config(
        routes=[{"name": "app", "backends": [{"host": f"127.0.0.1:{upstream.port}", "policies": {"authorization": rules}}], "policies": {"extAuthz": policy}}],
        backends=[{"name": "strict", "host": f"127.0.0.1:{strict.port}"}],
    )
    gateway = start(made, workers=1)
    answers = {path: gateway.get(path).status for path in ("/admin", "/lax", "/lax/secret", "/free") for _ in range(2)}
    assert answers == {"/admin": 403, "/lax": 200, "/lax/secret": 403, "/free": 200}
    assert (len(strict.asked), len(lax.asked), len(upstream.asked)) == (2, 4, 4)
    assert gateway.get("/admin", method="POST", body=b"please").status == 200, "who is chosen sees the body"
    assert gateway.get("/admin", method="POST", body=b"now").status == 403
    assert gateway.get("/lax", method="POST", body=b"x" * 10_000).status == 200, "and nobody else's bound holds"


def test_a_key_that_an_expression_finds(start: Start, peers: Peers) -> None:
    upstream = peers.http(echo)
    location = {"expression": 'request.headers["x-auth"].split(":")[1]'}
    keys = {"mode": "strict", "keys": [{"key": "key-of-kim-0123456789", "metadata": {"user": "kim"}}], "location": location}
    gateway = start(config(upstream.port, {"apiKey": keys, "authorization": {"rules": ['apiKey.user == "kim"']}}), workers=1)
    for _ in range(2):
        answer = gateway.get("/", headers={"x-auth": "kim:key-of-kim-0123456789", "x-rest": "stays"})
        assert answer.status == 200 and "x-auth" not in answer.json() and answer.json()["x-rest"] == "stays"
        assert gateway.get("/", headers={"x-auth": "kim:wrong"}).status == 401
        assert gateway.get("/", headers={"x-auth": "key-of-kim-0123456789"}).status == 401
        assert gateway.get("/").status == 401
