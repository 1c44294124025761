"""A secret in every place where one may stand, then everything the gateway says to anybody: none of them is in it.

What callers send (headers, cookies, the query, passwords), what the configuration holds (keys, secrets, passwords in URLs, headers, environments), in
good times and when services fail. Each secret names its place, so that a failing test says which one came out where.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.integration.mcp.conftest import PROGRAM
from tests.kits.gateway import ROOT, Gateway, ask, free_port, wait_until
from tests.kits.tokens import ISSUER, signer
from tests.peers.client import Client
from tests.peers.mcp_client import Endpoint, Session
from tests.peers.upstream import Peer, Upstream

MARK = "cAnAry"
KEY = signer("P-256", "ec")
USED: set[str] = set()


def secret(place: str) -> str:
    """A secret of this place: visible ASCII, long enough for a key."""
    USED.add(place)
    return f"{MARK}-{place}-0123456789abcdef"


def symmetric(place: str) -> str:
    """A key set with a symmetric key that is a secret."""
    octets = base64.urlsafe_b64encode(secret(place).encode().ljust(40, b"x")).rstrip(b"=").decode()
    return json.dumps({"keys": [KEY.jwk, {"kty": "oct", "kid": "s", "k": octets, "alg": "HS256"}]})


def configuration(upstream: str, closed: str, issuer: str, admin: str) -> dict[str, Any]:
    """Everything that has secrets, on routes of its own. `closed`: where nobody listens."""
    backend = [{"host": upstream}]
    hashed = base64.b64encode(hashlib.sha1(secret("basic").encode()).digest()).decode()

    def route(name: str, policies: dict[str, Any], backends: list[Any] | None = None) -> dict[str, Any]:
        return {"name": name, "matches": [{"path": {"pathPrefix": f"/{name}"}}], "policies": policies, "backends": backends or backend}

    jwt = {"mode": "strict", "issuer": ISSUER, "audiences": ["gateway"], "jwks": symmetric("jwks")}
    followed = {**jwt, "jwks": {"url": f"http://{closed}/jwks?api_key={secret('jwks-url-query')}"}}
    oidc = {"issuer": f"http://{issuer}", "clientId": "client", "clientSecret": secret("oidc-client-secret"), "redirectURI": "http://localhost/back"}
    introspection = {"mode": "strict", "url": f"http://{closed}/introspect?key={secret('introspection-query')}", "clientId": "c", "audiences": ["a"],
                     "clientSecret": secret("introspection-secret")}  # fmt: skip
    authz = {"host": closed, "protocol": {"http": {"addRequestHeaders": {"x-service-token": json.dumps(secret("ext-authz-header"))}}}}
    client = {"tokenUrl": f"http://{closed}/token", "clientAuth": {"clientId": "c", "clientSecret": secret("client-credentials")}}
    return {
        "gateways": {"default": {"port": 0, "address": "127.0.0.1"}},
        "config": {"connectionTerminationDeadline": "1s", "adminAddr": admin, "session": {"key": hashlib.sha256(secret("session").encode()).hexdigest()},
                   "adminAuth": {"tokens": [{"sha256": hashlib.sha256(secret("admin").encode()).hexdigest(), "role": "operate"}]}},
        "frontendPolicies": {"accessLog": {"enabled": True}},
        "rateLimit": {"store": "redis", "url": f"redis://:{secret('redis-password')}@{closed}/0"},
        "routes": [
            route("jwt", {"jwtAuth": jwt}),
            route("followed", {"jwtAuth": followed}),
            route("keys", {"apiKey": {"mode": "strict", "keys": [{"key": secret("api-key")}]}}),
            route("cookie", {"apiKey": {"mode": "strict", "location": {"cookie": {"name": "sid"}}, "keys": [{"key": secret("cookie-key")}]}}),
            route("query", {"apiKey": {"mode": "strict", "location": {"queryParameter": {"name": "api_key"}}, "keys": [{"key": secret("query-key")}]}}),
            route("basic", {"basicAuth": {"mode": "strict", "htpasswd": "kim:{SHA}" + hashed}}),
            route("asked", {"tokenIntrospection": introspection}),
            route("authz", {"extAuthz": authz}),
            route("login", {"oidc": oidc}),
            route("headers", {"requestHeaderModifier": {"set": {"authorization": f"Bearer {secret('header-set')}", "x-api-key": secret("header-key")}}}),
            route("limited", {"localRateLimit": [{"maxTokens": 100, "tokensPerFill": 1, "fillInterval": "1s"}]}),
            route("key", {"backendAuth": {"key": secret("backend-key")}}),
            route("grant", {"backendAuth": {"oauthClientCredentials": client}}),
            route("tools", {}, [{"mcp": {"targets": [{"name": "a", "stdio": {
                "cmd": sys.executable, "args": [PROGRAM, json.dumps({"name": "a", "tools": ["echo"]})],
                "env": {"SERVICE_TOKEN": secret("stdio-env"), "DATABASE_URL": f"postgres://u:{secret('stdio-env-url')}@db/x"}, "stopGrace": "500ms"}}]}}]),
        ],
    }  # fmt: skip


class House:
    """The gateway, and all it has said to clients so far."""

    def __init__(self, stack: ExitStack) -> None:
        self.upstream = stack.enter_context(Upstream(Peer.serve))
        self.issuer = stack.enter_context(Upstream(Peer.serve))
        self.closed = f"127.0.0.1:{free_port()}"
        self.admin = f"127.0.0.1:{free_port()}"
        self.config = configuration(self.upstream.host, self.closed, self.issuer.host, self.admin)
        self.gateway = stack.enter_context(Gateway(self.config, workers=1))
        self.said: list[bytes] = []

    def get(self, path: str, *fields: str) -> int:
        with Client(self.gateway.port) as client:
            answer = client.get(path, *(field.encode() for field in fields))
        self.said.append(answer.head + answer.body)
        return answer.status

    def pages(self) -> dict[str, str]:
        """What the admin listener and the metrics show."""
        good = {"Authorization": f"Bearer {secret('admin')}"}
        found = {path: ask(self.admin, "GET", path, headers=good).text for path in ("/config_dump", "/workers", "/logging", "/")}
        bad = [ask(self.admin, "GET", "/config_dump", headers={"Authorization": f"Bearer {secret('admin-guess')}"}) for _ in range(2)]
        return {**found, "refused": "".join(f"{answer.headers}{answer.text}" for answer in bad), "metrics": ask(
            self.gateway.addresses["stats"], "GET", "/metrics").text}


@pytest.fixture(scope="module")
def house() -> Iterator[House]:
    with ExitStack() as stack:
        yield House(stack)


def spellings(place: str) -> list[str]:
    """The secret and what it looks like in the usual codings; a piece of it is enough."""
    text = secret(place)
    coded = [base64.b64encode(text[shift:].encode()).decode()[:24] for shift in range(3)]
    return [text, text.encode().hex(), *coded]


def assert_none(where: str, text: str) -> None:
    for place in USED:
        for spelling in spellings(place):
            at = text.find(spelling)
            assert at < 0, f"the secret {place} is in {where}: ...{text[max(0, at - 200) : at + 120]}"
    assert MARK not in text, f"{where}: {re.findall(f'.*{MARK}.*', text)[:3]}"


def test_what_callers_send_and_the_file_holds_stays_inside(house: House) -> None:
    gateway = house.gateway
    good = KEY.token({"iss": ISSUER, "aud": "gateway", "sub": "kim", "exp": int(time.time()) + 600, "secret_claim": secret("claim")}).decode()
    forged = KEY.token({"iss": ISSUER, "aud": "gateway", "sub": "kim", "secret_claim": secret("forged")})[:-8].decode() + "AAAAAAAA"
    basic = base64.b64encode(f"kim:{secret('basic')}".encode()).decode()
    wrong = base64.b64encode(f"kim:{secret('basic-wrong')}".encode()).decode()
    expected = [
        (200, "/jwt?access_token=" + secret("query-unasked"), f"Authorization: Bearer {good}", f"Cookie: session={secret('cookie-unasked')}"),
        (401, "/jwt", f"Authorization: Bearer {forged}"),
        (401, "/jwt", f"Authorization: Bearer {secret('bearer')}"),
        (401, "/jwt", f"Authorization: Bearer {secret('bearer-blank')} x"),
        (400, "/jwt", f"Authorization: Bearer {secret('bearer-one')}", f"Authorization: Bearer {secret('bearer-two')}"),
        (503, "/followed", f"Authorization: Bearer {good}"),
        (200, "/keys", f"Authorization: Bearer {secret('api-key')}"),
        (401, "/keys", f"Authorization: Bearer {secret('api-key-wrong')}"),
        (200, "/cookie", f"Cookie: sid={secret('cookie-key')}"),
        (401, "/cookie", f"Cookie: sid={secret('cookie-wrong')}"),
        (200, f"/query?api_key={secret('query-key')}"),
        (401, f"/query?api_key={secret('query-wrong')}"),
        (401, f"/query?api_key={secret('query-one')}&api_key={secret('query-two')}"),
        (200, "/basic", f"Authorization: Basic {basic}"),
        (401, "/basic", f"Authorization: Basic {wrong}"),
        (503, "/asked", f"Authorization: Bearer {secret('opaque')}"),
        (403, "/authz", f"Authorization: Bearer {secret('authz-bearer')}"),
        (401, "/login", f"Cookie: agw_session={secret('login-cookie')}"),
        (200, "/headers", f"X-Secret: {secret('any-header')}", f"Proxy-Authorization: Basic {secret('proxy')}"),
        (200, "/limited", f"Authorization: Bearer {secret('limited')}"),
        (404, f"/nowhere?token={secret('nowhere')}", f"Authorization: Bearer {secret('nowhere-bearer')}"),
    ]
    for status, path, *fields in expected:
        assert house.get(path, *fields) == status, (path, house.said[-1])
    for path in ("/key", "/grant"):
        house.get(path, f"Authorization: Bearer {secret('to-backend')}")
    with Session(Endpoint(gateway.port, "/tools")) as session:
        assert session.call("echo", {"n": 1}).status == 200
    with Client(gateway.port) as client:  # what is no request at all
        client.send(f"GET / HTTP/1.1\r\nHost: h\r\nAuthorization : Bearer {secret('malformed')}\r\n\r\n".encode())
        house.said.append(client.answer().head)
    with Client(gateway.port) as client:
        client.send(f"GET /{secret('malformed-line')} HTTP/9.9\r\nHost: h\r\n\r\n".encode())
        house.said.append(client.answer().head)
    assert house.get("/jwt/last", f"Authorization: Bearer {good}") == 200
    wait_until(lambda: '"/jwt/last"' in gateway.stdout(), what="the access log")
    for where, text in house.pages().items():
        assert_none(where, text)
    assert_none("answers", b"".join(house.said).decode("latin-1"))
    assert_none("the access log", gateway.stdout())
    assert_none("the operator's log", gateway.stderr())


def test_a_reload_that_is_refused_quotes_no_secret(house: House) -> None:
    """Wrong where a secret stands: the operator is told where, not what."""
    gateway = house.gateway
    wrong: list[tuple[str, Any]] = [
        ("jwtAuth", {"mode": "strict", "issuer": ISSUER, "jwks": {"url": f"https://u:{secret('jwks-url-password')}@h/jwks"}}),
        ("jwtAuth", {"mode": "strict", "issuer": ISSUER, "jwks": {"url": f"https://{secret('jwks-url-user')}@h/jwks"}}),
        ("jwtAuth", {"mode": "strict", "issuer": ISSUER, "jwks": '{"keys":[{"kty":"oct","k":"' + secret("jwks-broken")}),
        ("apiKey", {"mode": "strict", "keys": [{"key": secret("key-blank") + " x"}]}),
        ("apiKey", {"mode": "strict", "keys": [{"keyHash": secret("hash-wrong")}]}),
        ("apiKey", {"mode": "strict", "keys": [secret("key-text")]}),
        ("apiKey", {"mode": "strict", "keys": secret("keys-text")}),
        ("basicAuth", {"mode": "strict", "htpasswd": "kim:" + secret("htpasswd-plain")}),
        ("tokenIntrospection", {"mode": "strict", "url": f"https://u:{secret('introspection-password')}@h/", "audiences": ["a"]}),
        ("oidc", {"issuer": "https://i", "clientId": "c", "clientSecret": [secret("oidc-list")], "redirectURI": "https://h/back"}),
        ("oidc", {"issuer": f"https://u:{secret('oidc-password')}@i", "clientId": "c", "clientSecret": "s", "redirectURI": "https://h/back"}),
        ("backendAuth", {"key": secret("backend-line") + "\n"}),
        ("backendAuth", {"jwtSign": {"alg": "ES256", "signingKey": secret("signing-key"), "claims": {}}}),
        ("backendAuth", {"oauthClientCredentials": {"tokenUrl": f"https://u:{secret('grant-password')}@h/"}}),
        ("requestHeaderModifier", {"set": {"authorization": f"Bearer {secret('header-line')}\r\nX: 1"}}),
    ]
    for name, policy in wrong:
        config = {**self_config(house), "routes": [{"name": "wrong", "policies": {name: policy}, "backends": [{"host": house.upstream.host}]}]}
        assert_refused(gateway, config)
    for url in (f"redis://:{secret('redis-broken')}@h:x/", secret("redis-text")):
        assert_refused(gateway, {**house.config, "rateLimit": {"store": "redis", "url": url}})
    backend = {"host": f"https://u:{secret('backend-password')}@h"}
    assert_refused(gateway, {**self_config(house), "routes": [{"name": "wrong", "backends": [backend]}]})
    assert_none("the operator's log", gateway.stderr())
    assert_none("the dump", house.pages()["/config_dump"])


def self_config(house: House) -> dict[str, Any]:
    return {name: value for name, value in house.config.items() if name != "routes"}


def assert_refused(gateway: Gateway, config: dict[str, Any]) -> None:
    """By the running gateway, by `validate` and by a start, none of which says the secret."""
    before = gateway.count_log("reload refused")
    gateway.write(config)
    gateway.signal(1)
    wait_until(lambda: gateway.count_log("reload refused") > before, 10, f"a refusal of {json.dumps(config['routes'])[:300]}")
    done = subprocess.run([sys.executable, "-m", "agw", "validate", "-f", str(gateway.file)], capture_output=True, text=True, timeout=30, cwd=ROOT, check=False)
    assert done.returncode != 0
    assert_none("what `agw validate` prints", done.stdout + done.stderr)


def test_secrets_are_in_no_repr() -> None:
    """What lands in a traceback by accident."""
    from agw._fast.gate import Identity
    from agw.security.contract import Found
    from agw.security.jwt import TokenVerifier
    from tests.kits.tokens import Host

    identity = Identity(b"k", {"jwt": {"x": secret("repr-claim")}}, token=secret("repr-token").encode())
    found = Found()
    found.token = secret("repr-found").encode()
    verifier = TokenVerifier([], Host())
    assert_none("repr", repr(identity) + repr(found) + repr(verifier))


def test_explain_shows_no_key(tmp_path: Path, house: House) -> None:
    """`agw explain` and `agw schema` of the same file."""
    file = tmp_path / "config.json"
    file.write_text(json.dumps(house.config))
    for arguments in (["explain", "-f", str(file), "GET", "http://h/jwt"], ["validate", "-f", str(file)]):
        done = subprocess.run([sys.executable, "-m", "agw", *arguments], capture_output=True, text=True, timeout=30, cwd=ROOT, check=False)
        assert done.stdout + done.stderr
        assert_none(f"agw {arguments[0]}", done.stdout + done.stderr)
