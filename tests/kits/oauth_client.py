"""An MCP client's side of OAuth, strict: what a document or an answer must say is asserted, and nothing is guessed.

    client = OAuthClient(f"http://127.0.0.1:{port}/mcp")
    client.authorize(challenge)                 # from the 401 or 403 the endpoint gave: metadata, registration, code, token
    client.refresh()

The user agrees to everything: the authorization endpoint's redirects are followed up to our own address, which nobody serves.
Source: MCP 2026-07-28 "Authorization"; RFC 9728, RFC 8414 section 3, RFC 7591, RFC 7636, RFC 8707, RFC 9207.
"""

from __future__ import annotations

import base64
import hashlib
import http.client
import json
import re
import secrets
from typing import Any, NamedTuple
from urllib.parse import parse_qs, urlencode, urlsplit

REDIRECT = "http://127.0.0.1:1/callback"
_PART = re.compile(r'([a-z_]+)="((?:[^"\\]|\\.)*)"')


class Got(NamedTuple):
    """A whole answer; names of headers in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def challenge(self) -> dict[str, str]:
        """The parameters of `WWW-Authenticate: Bearer`."""
        value = self.headers["www-authenticate"]
        assert value.startswith("Bearer "), value
        return dict(_PART.findall(value))


def fetch(url: str, method: str = "GET", body: bytes | None = None, headers: dict[str, str] | None = None) -> Got:
    """One request; redirects are answers."""
    parts = urlsplit(url)
    assert parts.hostname is not None
    connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=10)
    try:
        connection.request(method, (parts.path or "/") + (f"?{parts.query}" if parts.query else ""), body, headers or {})
        answer = connection.getresponse()
        return Got(answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read())
    finally:
        connection.close()


class OAuthClient:
    """One client of one MCP endpoint."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.resource: dict[str, Any] = {}
        """The protected resource's document."""
        self.server: dict[str, Any] = {}
        """The authorization server's."""
        self.client: dict[str, Any] = {}
        self.tokens: dict[str, Any] = {}
        self.scope = ""

    @property
    def bearer(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.tokens['access_token']}"}

    def authorize(self, challenge: dict[str, str]) -> None:
        """The whole way from a challenge to tokens; what was found out before is used again, as in a step-up."""
        if not self.resource:
            self.discover(challenge["resource_metadata"])
        if not self.client:
            self.register()
        asked = challenge.get("scope") or " ".join(self.resource.get("scopes_supported", []))
        self.scope = " ".join(dict.fromkeys([*self.scope.split(), *asked.split()]))
        self.take_code()

    def discover(self, url: str) -> None:
        """Both documents, each where it must be and saying what it must say."""
        got = fetch(url, headers={"Origin": "https://inspector.example"})
        assert (got.status, got.headers["content-type"]) == (200, "application/json"), got
        assert got.headers["access-control-allow-origin"] in ("*", "https://inspector.example"), "browsers read it"
        self.resource = got.json
        assert self.resource["resource"] == self.url
        issuer = self.resource["authorization_servers"][0]
        parts = urlsplit(issuer)
        got = fetch(f"{parts.scheme}://{parts.netloc}/.well-known/oauth-authorization-server{parts.path.rstrip('/')}")
        assert got.status == 200, got
        self.server = got.json
        assert self.server["issuer"] == issuer, "RFC 8414 section 3.3"
        assert "S256" in self.server["code_challenge_methods_supported"]

    def register(self) -> None:
        """Dynamic registration of a public client."""
        wanted = {
            "client_name": "test", "redirect_uris": [REDIRECT], "grant_types": ["authorization_code", "refresh_token"],
            "response_types": ["code"], "token_endpoint_auth_method": "none",
        }  # fmt: skip
        got = fetch(self.server["registration_endpoint"], "POST", json.dumps(wanted).encode(), {"Content-Type": "application/json"})
        assert got.status == 201, got
        self.client = got.json
        assert self.client["redirect_uris"] == [REDIRECT] and self.client["client_id"]

    def take_code(self) -> None:
        """Authorization code with PKCE, then tokens."""
        verifier, state = secrets.token_urlsafe(48), secrets.token_urlsafe(8)
        challenge = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()
        query = {
            "response_type": "code", "client_id": self.client["client_id"], "redirect_uri": REDIRECT, "code_challenge": challenge,
            "code_challenge_method": "S256", "state": state, "resource": self.resource["resource"], **({"scope": self.scope} if self.scope else {}),
        }  # fmt: skip
        endpoint = self.server["authorization_endpoint"]
        where = f"{endpoint}{'&' if '?' in endpoint else '?'}{urlencode(query)}"
        for _ in range(5):
            if where.startswith(REDIRECT):
                break
            got = fetch(where)
            assert got.status in (302, 303), got
            where = got.headers["location"]
        said = {name: values[0] for name, values in parse_qs(urlsplit(where).query).items()}
        assert said["state"] == state and "code" in said, said
        if "iss" in said or self.server.get("authorization_response_iss_parameter_supported"):
            assert said["iss"] == self.server["issuer"], "RFC 9207"
        self._token(grant_type="authorization_code", code=said["code"], redirect_uri=REDIRECT, code_verifier=verifier)

    def refresh(self) -> None:
        """New tokens for the refresh token."""
        self._token(grant_type="refresh_token", refresh_token=self.tokens["refresh_token"])

    def _token(self, **form: str) -> None:
        text = urlencode({**form, "client_id": self.client["client_id"], "resource": self.resource["resource"]}).encode()
        got = fetch(self.server["token_endpoint"], "POST", text, {"Content-Type": "application/x-www-form-urlencoded", "Accept": "application/json"})
        assert got.status == 200, got
        self.tokens = {**self.tokens, **got.json}
        assert self.tokens["token_type"].lower() == "bearer"
