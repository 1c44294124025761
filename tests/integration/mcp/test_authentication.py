"""A gateway with `mcpAuthentication`, from the file to the wire: documents, challenges, tokens, scopes."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from tests.integration.mcp.conftest import http_target
from tests.kits.gateway import Gateway
from tests.peers.mcp_client import As, Endpoint, Session, call, initialize
from tests.peers.mcp_script import Offer
from tests.peers.mcp_server import McpServer

ISSUER = "https://issuer.example"
RESOURCE = "http://gateway.example/mcp"
PRM = "http://gateway.example/.well-known/oauth-protected-resource/mcp"
KEY = ec.generate_private_key(ec.SECP256R1())


def token(**claims: Any) -> str:
    """A token of the issuer for the resource; None leaves a claim out."""
    said = {"iss": ISSUER, "aud": RESOURCE, "sub": "alice", "exp": int(time.time()) + 600, "scope": "mcp", **claims}
    return jwt.encode({name: value for name, value in said.items() if value is not None}, KEY, "ES256", {"kid": "one"})


@pytest.fixture(scope="module")
def server() -> Iterator[McpServer]:
    with McpServer(Offer(name="a", tools=["echo", "whoami"])) as found:
        yield found


@pytest.fixture(scope="module")
def port(server: McpServer) -> Iterator[int]:
    jwk = {**json.loads(jwt.algorithms.ECAlgorithm.to_jwk(KEY.public_key())), "kid": "one", "alg": "ES256", "use": "sig"}
    policy = {
        "issuer": ISSUER, "audiences": [RESOURCE], "jwks": json.dumps({"keys": [jwk]}), "scopesRequired": ["mcp"],
        "toolScopes": {"whoami": ["who"]}, "resourceMetadata": {"resource": RESOURCE, "bearerMethodsSupported": ["header"]},
    }
    config = {
        "gateways": {"default": {"port": 0, "address": "127.0.0.1"}},
        "mcp": {"targets": [http_target("a", server.port)], "policies": {"mcpAuthentication": policy}},
        "config": {"connectionTerminationDeadline": "1s"},
    }
    with ExitStack() as stack:
        yield stack.enter_context(Gateway(config, workers=2)).port


@pytest.mark.parametrize("path", ["", "/mcp"])
def test_the_document_is_public(port: int, path: str) -> None:
    found = Endpoint(port, "/.well-known/oauth-protected-resource" + path).send("GET")
    assert found.status == 200
    assert found.headers["access-control-allow-origin"] == "*"
    assert json.loads(found.body) == {
        "resource": RESOURCE, "authorization_servers": [ISSUER], "scopes_supported": ["mcp", "who"], "bearer_methods_supported": ["header"]}


@pytest.mark.parametrize("method", ["POST", "GET", "DELETE"])
def test_without_a_token(port: int, method: str) -> None:
    refused = Endpoint(port).send(method, initialize() if method == "POST" else None)
    assert refused.status == 401
    assert refused.headers["www-authenticate"] == f'Bearer resource_metadata="{PRM}", scope="mcp"'


@pytest.mark.parametrize("bearer", [token(aud="https://other.example"), token(iss="https://evil.example"), token(exp=1), token(exp=None), "x.y.z", ""])
def test_with_a_bad_token(port: int, bearer: str) -> None:
    refused = As(port, bearer).post(initialize())
    assert refused.status == 401
    assert 'error="invalid_token"' in refused.headers["www-authenticate"]


def test_without_the_scope_of_every_call(port: int) -> None:
    refused = As(port, token(scope="other")).post(initialize())
    assert refused.status == 403
    assert refused.headers["www-authenticate"] == f'Bearer resource_metadata="{PRM}", scope="mcp", error="insufficient_scope"'


def test_with_a_good_token(port: int, server: McpServer) -> None:
    server.seen.clear()
    session = Session(As(port, token()))
    assert session.names() == ["echo", "whoami"]
    for _ in range(6):
        assert session.call("echo").status == 200
        stepped = session.call("whoami")
        assert stepped.status == 403
        assert stepped.headers["www-authenticate"] == f'Bearer resource_metadata="{PRM}", scope="mcp who", error="insufficient_scope"'
    assert As(port, token(scope="mcp who", jti="2")).post(session.message("tools/call", call("whoami")), session.headers).status == 200
    for _ in range(3):
        assert As(port, token(sub="eve")).post(session.message("tools/call", call("echo")), session.headers).status == 404
    assert As(port, token(exp=1)).post(session.message("ping"), session.headers).status == 401, "a session is no authentication"
    assert not [seen for seen in server.seen if "authorization" in dict(seen.headers)]
