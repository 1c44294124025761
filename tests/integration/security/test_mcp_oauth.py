"""MCP authorization end to end: an issuer with real signatures, the gateway as resource server, a client that insists on the rules.

From the first 401 to the call of a tool: with the issuer's own metadata, and through the gateway where a provider needs it.
"""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.integration.conftest import Start
from tests.kits.gateway import Gateway, free_port, proxy_config, wait_until
from tests.kits.oauth_client import Got, OAuthClient, fetch
from tests.peers.issuer import Issuer
from tests.peers.mcp_client import Endpoint, Session, initialize
from tests.peers.mcp_server import McpServer, Offer

TOOLS = ["echo", "files_read", "files_delete"]


class Bearing(Endpoint):
    """An endpoint as a client with tokens uses it."""

    def __init__(self, port: int, client: OAuthClient, path: str = "/mcp") -> None:
        super().__init__(port, path)
        self.client = client

    def connect(self, method: str, body: bytes | None = None, headers: dict[str, str] | None = None) -> http.client.HTTPConnection:
        own = self.client.bearer if self.client.tokens else {}
        return super().connect(method, body, {**own, **(headers or {})})


@pytest.fixture
def target() -> Iterator[McpServer]:
    with McpServer(Offer(name="files", era="dual", tools=TOOLS)) as server:
        yield server


def config(port: int, issuer: str, target: McpServer, jwks: str, **auth: Any) -> dict[str, Any]:
    resource = f"http://127.0.0.1:{port}/mcp"
    policy = {"issuer": issuer, "audiences": [], "jwks": {"url": jwks}, "resourceMetadata": {"resource": resource}, **auth}
    targets = [{"name": "files", "mcp": {"host": f"http://127.0.0.1:{target.port}/mcp"}}]
    return proxy_config(port=port, routes=[{
        "name": "m", "matches": [{"path": {"pathPrefix": "/mcp"}}], "backends": [{"mcp": {"targets": targets}}], "policies": {"mcpAuthentication": policy},
    }])  # fmt: skip


def refused(endpoint: Endpoint, modern: bool = False) -> dict[str, str]:
    """The challenge of a 401."""
    answer = endpoint.modern("tools/list") if modern else endpoint.post(initialize())
    assert answer.status == 401, answer
    return challenge_of(answer)


def challenge_of(answer: Any) -> dict[str, str]:
    """The challenge of an MCP answer."""
    return Got(answer.status, answer.headers, answer.body).challenge


def use(port: int, client: OAuthClient) -> None:
    """Both eras work, with the tools of the target."""
    endpoint = Bearing(port, client)
    with Session(endpoint) as session:
        assert [tool["name"] for tool in session.request("tools/list").result["tools"]] == TOOLS
        assert session.call("echo", {"text": "hi"}).status == 200
    assert [tool["name"] for tool in endpoint.modern("tools/list").result["tools"]] == TOOLS
    assert endpoint.modern("tools/call", {"name": "echo", "arguments": {}}).status == 200


@pytest.mark.parametrize("modern", [False, True])
def test_the_whole_flow_at_a_server_that_needs_no_help(start: Start, target: McpServer, modern: bool) -> None:
    with Issuer() as issuer:
        port = free_port()
        start(config(port, issuer.url, target, issuer.jwks_url))
        client = OAuthClient(f"http://127.0.0.1:{port}/mcp")
        challenge = refused(Bearing(port, client), modern)
        assert challenge == {"resource_metadata": f"http://127.0.0.1:{port}/.well-known/oauth-protected-resource/mcp"}
        client.authorize(challenge)
        assert client.server["registration_endpoint"] == f"{issuer.url}/register", "nothing goes through the gateway"
        use(port, client)
        assert issuer.count("/register") == issuer.count("/token") == 1
        for method in ("GET", "DELETE"):
            assert Endpoint(port, "/mcp").send(method).status == 401


def test_refresh_and_tokens_for_others(start: Start, target: McpServer) -> None:
    with Issuer() as issuer:
        port = free_port()
        start(config(port, issuer.url, target, issuer.jwks_url))
        client = OAuthClient(f"http://127.0.0.1:{port}/mcp")
        issuer.expires_in = -300
        client.authorize(refused(Bearing(port, client)))
        assert refused(Bearing(port, client))["error"] == "invalid_token", "it has expired"
        issuer.expires_in = 300
        client.refresh()
        use(port, client)
        issuer.decide = lambda call, claims: {**claims, "aud": "http://127.0.0.1:1/other"}
        client.refresh()
        assert refused(Bearing(port, client), modern=True)["error"] == "invalid_token", "it is for another resource"


def test_a_session_is_its_users(start: Start, target: McpServer) -> None:
    with Issuer() as issuer:
        port = free_port()
        start(config(port, issuer.url, target, issuer.jwks_url))
        alice, bob = OAuthClient(f"http://127.0.0.1:{port}/mcp"), OAuthClient(f"http://127.0.0.1:{port}/mcp")
        alice.authorize(refused(Bearing(port, alice)))
        issuer.user = "bob"
        bob.authorize(refused(Bearing(port, bob)))
        session = Session(Bearing(port, alice))
        listing = session.message("tools/list")
        assert Bearing(port, bob).post(listing, session.headers).status == 404
        assert Endpoint(port, "/mcp").post(listing, session.headers).status == 401
        alice.refresh()
        assert session.request("tools/list").status == 200, "another token of the same user is the same user"


@pytest.mark.parametrize("modern", [False, True])
def test_scopes_are_stepped_up(start: Start, target: McpServer, modern: bool) -> None:
    with Issuer() as issuer:
        port = free_port()
        scopes = {"scopesRequired": ["mcp"], "toolScopes": {"files_delete": ["files.write"], "files_*": ["files"]}}
        start(config(port, issuer.url, target, issuer.jwks_url, **scopes))
        client = OAuthClient(f"http://127.0.0.1:{port}/mcp")
        challenge = refused(Bearing(port, client), modern)
        assert challenge["scope"] == "mcp"
        client.authorize(challenge)
        assert client.resource["scopes_supported"] == ["mcp", "files.write", "files"]
        endpoint = Bearing(port, client)
        session = None if modern else Session(endpoint)

        def call(name: str) -> Any:
            params = {"name": name, "arguments": {}}
            return endpoint.modern("tools/call", params) if session is None else session.request("tools/call", params)

        listed = endpoint.modern("tools/list") if session is None else session.request("tools/list")
        assert [tool["name"] for tool in listed.result["tools"]] == TOOLS, "what a step-up reaches is not hidden"
        assert call("echo").status == 200
        for tool, wanted in (("files_read", {"mcp", "files"}), ("files_delete", {"mcp", "files", "files.write"})):
            answer = call(tool)
            assert answer.status == 403, answer
            challenge = challenge_of(answer)
            assert (challenge["error"], set(challenge["scope"].split())) == ("insufficient_scope", wanted)
            client.authorize(challenge)
            assert call(tool).status == 200
        assert issuer.count("/register") == 1 and issuer.count("/token") == 3
        client.tokens["access_token"] = issuer.token(aud=client.url, scope="files")
        answer = call("echo")
        assert (answer.status, challenge_of(answer)["scope"]) == (403, "mcp"), "what every call needs is asked for at the door"


def test_registration_is_passed_on(start: Start, target: McpServer) -> None:
    with Issuer(path="/realms/mcp") as issuer:
        issuer.aliases = {"/protocol/openid-connect/certs": "/jwks", "/clients-registrations/openid-connect": "/register"}
        issuer.response_iss = None
        port = free_port()
        gateway = start(config(port, issuer.url, target, issuer.url + "/protocol/openid-connect/certs", provider={"keycloak": {}}))
        client = OAuthClient(f"http://127.0.0.1:{port}/mcp")
        client.authorize(refused(Bearing(port, client)))
        assert client.resource["authorization_servers"] == [f"http://127.0.0.1:{port}/mcp"]
        assert client.server["authorization_endpoint"] == f"{issuer.url}/authorize"
        assert client.server["registration_endpoint"] == f"http://127.0.0.1:{port}/.well-known/oauth-authorization-server/mcp/client-registration"
        assert issuer.count("/clients-registrations/openid-connect") == 1
        use(port, client)
        # However the body comes.
        wanted = json.dumps({"redirect_uris": ["http://127.0.0.1:1/x"], "client_name": "é" * 5000}).encode()
        pieces = b"".join(b"%x\r\n%b\r\n" % (len(wanted[at : at + 999]), wanted[at : at + 999]) for at in range(0, len(wanted), 999))
        path = "/.well-known/oauth-authorization-server/mcp/client-registration"
        with gateway.connect() as sock:
            sock.sendall(f"POST {path} HTTP/1.1\r\nHost: h\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n".encode())
            sock.sendall(pieces + b"0\r\n\r\n")
            assert sock.makefile("rb").readline().startswith(b"HTTP/1.1 201")
        assert issuer.last("/clients-registrations/openid-connect").body == wanted
        answer = gateway.get(path, method="POST", body=b'{"x":"' + b"y" * 70_000 + b'"}', headers={"content-type": "application/json"})
        assert (answer.status, answer.json()["error"]) == (413, "invalid_request")


@pytest.mark.parametrize("provider", ["auth0", "okta", "keycloak", "descope", "authentik"])
def test_registration_is_answered_with_the_configured_client(start: Start, target: McpServer, provider: str) -> None:
    with Issuer(path="/tenant") as issuer:
        issuer.response_iss = None
        issuer.add_client("made-before", redirect_uris=["http://127.0.0.1:1/callback"])
        issuer.decide = lambda call, claims: {**claims, "aud": "urn:agw"}
        port = free_port()
        more = {"provider": {provider: {}}, "clientId": "made-before", "audiences": ["urn:agw"]}
        start(config(port, issuer.url, target, issuer.jwks_url, **more))
        client = OAuthClient(f"http://127.0.0.1:{port}/mcp")
        client.authorize(refused(Bearing(port, client)))
        assert client.client["client_id"] == "made-before"
        assert client.server["token_endpoint"] == issuer.token_url
        assert issuer.count("/register") == 0
        audience = dict(issuer.last("/authorize").query).get("audience")
        assert audience == ("urn:agw" if provider in ("auth0", "okta") else None)
        use(port, client)


def test_authorization_and_tokens_through_the_gateway(start: Start, target: McpServer) -> None:
    with Issuer(path="/tenant/v2.0") as issuer:
        issuer.response_iss = None
        issuer.refuses_resource = True
        issuer.add_client("app", "very secret", redirect_uris=["http://127.0.0.1:1/callback"])
        issuer.decide = lambda call, claims: {**claims, "aud": "api://app"}
        port = free_port()
        more = {"provider": {"entra": {}}, "clientId": "app", "clientSecret": "very secret", "audiences": ["api://app"]}
        gateway = start(config(port, issuer.url, target, issuer.jwks_url, **more))
        client = OAuthClient(f"http://127.0.0.1:{port}/mcp")
        client.authorize(refused(Bearing(port, client)))
        base = f"http://127.0.0.1:{port}/.well-known/oauth-authorization-server/mcp"
        assert {name: client.server[name] for name in ("authorization_endpoint", "token_endpoint", "registration_endpoint")} == {
            "authorization_endpoint": f"{base}/authorize", "token_endpoint": f"{base}/token", "registration_endpoint": f"{base}/client-registration",
        }  # fmt: skip
        use(port, client)
        client.refresh()
        use(port, client)
        assert issuer.count("/token") == 2 and issuer.last("/token")["client_secret"] == "very secret"
        form = b"grant_type=client_credentials&client_id=app"
        got = fetch(f"{base}/token", "POST", form, {"Content-Type": "application/x-www-form-urlencoded"})
        assert (got.status, got.json["error"]) == (401, "invalid_client"), "the secret is for grants that a user stands behind"
        assert "very secret" not in gateway.stderr() + gateway.stdout() + gateway.admin("/config_dump").text


def test_documents_are_known_after_the_issuer_came_late(start: Start, target: McpServer) -> None:
    port, at = free_port(), free_port()
    url = f"http://127.0.0.1:{at}/realms/mcp"
    gateway: Gateway = start(config(port, url, target, url + "/jwks", provider={"keycloak": {}}, clientId="c"))
    path = "/.well-known/oauth-authorization-server/mcp"
    assert gateway.get(path, timeout=10).status == 503
    assert gateway.get("/.well-known/oauth-protected-resource/mcp").status == 200, "what the gateway itself says needs nobody"
    with Issuer(path="/realms/mcp", port=at):
        wait_until(lambda: gateway.get(path, timeout=10).status == 200, 20, "the issuer's document")
