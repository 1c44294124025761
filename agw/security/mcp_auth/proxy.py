"""The gateway before an authorization server: its metadata for MCP clients, registration, and what else a provider needs.

Rules:
- the server's document is the one the helper process fetched; nothing a client says chooses what is fetched or called;
- calls go to the issuer's own origin only, whatever its document says;
- what clients get is the server's document with the differences made up for (`adapters`), and the gateway as issuer where clients
  were sent to the gateway, since they compare that (RFC 8414 section 3.3);
- the client secret goes to the token endpoint only, for the configured client only, and for grants that a user stands behind;
- answers carry `no-store` where they carry credentials.

Source: RFC 8414, RFC 7591 section 3.2.1 (registration), RFC 6749 section 4.1.3, RFC 8707.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

import orjson

from agw.runtime.plan_security import CallPlan, McpAuthPlan
from agw.security.contract import CallError, Headers, Refusal, SecurityHost
from agw.security.mcp_auth.adapters import ADAPTERS
from agw.security.mcp_auth.places import AUTHORIZE, REGISTRATION, SERVER_PREFIX, TOKEN, Asked, gateway_issuer, resource_of, well_known

WAIT_S = 5.0
"""How long a request waits for a document that has not come yet."""
MAX_FORM = 65_536
"""Octets of a registration or token request."""
_INJECTED_GRANTS = frozenset({"authorization_code", "refresh_token"})
_NO_STORE = b"Cache-Control: no-store\r\n"
_JSON = b"application/json"
_PASSED_ON = frozenset({b"content-type", b"accept", b"authorization"})


def answer(status: int, body: bytes, lines: bytes = b"", content_type: bytes = _JSON) -> Refusal:
    """An answer of the gateway itself."""
    return Refusal(status, 0, b"", "", lines, body=body, content_type=content_type)


def oauth_error(status: int, error: str, text: str) -> Refusal:
    """An error as OAuth endpoints give it (RFC 6749 section 5.2)."""
    return answer(status, orjson.dumps({"error": error, "error_description": text}), _NO_STORE)


def with_query(url: str, **more: str) -> str:
    """The URL with more members in its query."""
    query = urlencode(more)
    return f"{url}{'&' if '?' in url else '?'}{query}" if query else url


def same_origin(one: str, other: str) -> bool:
    """Have two URLs scheme, host and port in common?"""
    a, b = urlsplit(one), urlsplit(other)
    ports = {"http": 80, "https": 443}
    try:
        return (a.scheme, a.hostname, a.port or ports.get(a.scheme)) == (b.scheme, b.hostname, b.port or ports.get(b.scheme))
    except ValueError:
        return False


class ServerProxy:
    """The endpoints of one policy below `/.well-known/oauth-authorization-server`."""

    def __init__(self, plan: McpAuthPlan, host: SecurityHost, offered: frozenset[str]) -> None:
        self._plan = plan
        self._host = host
        self._offered = offered
        self._adapter = ADAPTERS[plan.provider]
        self._issuer = plan.jwt.providers[0].issuer
        self._made: dict[tuple[int, str], bytes] = {}

    async def metadata(self, asked: Asked, path: str) -> Refusal:
        """The authorization server's document for clients of the resource at `path`."""
        found = await self._document()
        if found is None:
            return oauth_error(503, "temporarily_unavailable", "the authorization server's metadata is not known yet")
        version, said = found
        resource = resource_of(self._plan.resource, asked, path)
        base = well_known(SERVER_PREFIX, resource)
        if not base:
            return oauth_error(400, "invalid_request", "the request does not say which resource it is about")
        made = self._made.get((version, resource))
        if made is None:
            if len(self._made) >= 64:
                self._made.clear()
            made = self._made[version, resource] = orjson.dumps(self._adapted(said, gateway_issuer(resource), base))
        return answer(200, made)

    def _adapted(self, said: dict[str, Any], issuer: str, base: str) -> dict[str, Any]:
        out = dict(said)
        adapter, audiences = self._adapter, self._plan.jwt.providers[0].audiences
        if not adapter.plain:
            out["issuer"] = issuer
            # The server's own responses name the server, so clients must not be told to expect the gateway's name in them.
            out.pop("authorization_response_iss_parameter_supported", None)
        if adapter.audience and audiences and isinstance(out.get("authorization_endpoint"), str):
            out["authorization_endpoint"] = with_query(out["authorization_endpoint"], audience=audiences[0])
        if REGISTRATION in self._offered:
            out["registration_endpoint"] = f"{base}/{REGISTRATION}"
        if adapter.relays:
            out["authorization_endpoint"] = f"{base}/{AUTHORIZE}"
            out["token_endpoint"] = f"{base}/{TOKEN}"
            out["code_challenge_methods_supported"] = ["S256"]
        if self._plan.client_id and REGISTRATION in self._offered:
            # What a registration answered here says: the client has no secret of its own.
            known = out.get("token_endpoint_auth_methods_supported")
            methods = [each for each in known if isinstance(each, str)] if isinstance(known, list) else ["client_secret_basic"]
            out["token_endpoint_auth_methods_supported"] = methods if "none" in methods else ["none", *methods]
        return out

    async def _document(self) -> tuple[int, dict[str, Any]] | None:
        url = self._plan.metadata_url
        if not url:
            return None
        found = self._host.documents.get(url) or await self._host.documents.arrival(url, WAIT_S)
        if found is None:
            return None
        try:
            said = orjson.loads(found.body)
        except orjson.JSONDecodeError:
            return None
        return (found.version, said) if isinstance(said, dict) else None

    # ------------------------------------------------------------------------------------------ registration

    async def register(self, headers: Headers, body: bytes) -> Refusal:
        """A dynamic registration: answered with the configured client, or passed on."""
        if self._plan.client_id:
            return self._registered(body)
        url = self._adapter.registration(self._issuer)
        if not url or not self._plan.proxy:
            return oauth_error(501, "invalid_request", "clients cannot register here; ask the operator for a client id")
        return await self._call(self._plan.proxy, url, headers, body)

    def _registered(self, body: bytes) -> Refusal:
        try:
            said = orjson.loads(body)
        except orjson.JSONDecodeError:
            said = None
        if not isinstance(said, dict):
            return oauth_error(400, "invalid_client_metadata", "the request must be a JSON object")
        uris = said.get("redirect_uris", [])
        if not isinstance(uris, list) or not all(isinstance(uri, str) for uri in uris):
            return oauth_error(400, "invalid_redirect_uri", "redirect_uris must be an array of strings")
        out = {
            "client_id": self._plan.client_id, "client_id_issued_at": 0, "token_endpoint_auth_method": "none",
            "grant_types": ["authorization_code", "refresh_token"], "response_types": ["code"], "redirect_uris": uris,
        }
        if isinstance(said.get("client_name"), str):
            out["client_name"] = said["client_name"]
        return answer(201, orjson.dumps(out), _NO_STORE)

    # ------------------------------------------------------------------------------------------ authorize, token

    async def authorize(self, query: bytes) -> Refusal:
        """The browser goes on to the server, without `resource`, which the server refuses."""
        found = await self._document()
        target = None if found is None else found[1].get("authorization_endpoint")
        if not isinstance(target, str) or not target.startswith(("https://", "http://")):
            return oauth_error(503, "temporarily_unavailable", "the authorization server's metadata is not known yet")
        try:
            kept = [(name, value) for name, value in parse_qsl(query.decode("latin-1"), keep_blank_values=True, max_num_fields=100) if name != "resource"]
        except ValueError:
            return oauth_error(400, "invalid_request", "too many parameters")
        location = target + (("&" if "?" in target else "?") + urlencode(kept) if kept else "")
        if any(char <= " " or char > "~" for char in location):
            return oauth_error(502, "server_error", "the authorization server's metadata is not usable")
        return answer(302, b"", b"Location: " + location.encode("ascii") + b"\r\n" + _NO_STORE)

    async def token(self, headers: Headers, body: bytes) -> Refusal:
        """A token request, without `resource`, and with the secret of a confidential client."""
        found = await self._document()
        target = None if found is None else found[1].get("token_endpoint")
        if not isinstance(target, str) or not self._plan.proxy:
            return oauth_error(503, "temporarily_unavailable", "the authorization server's metadata is not known yet")
        try:
            form = [(name, value) for name, value in parse_qsl(body.decode("utf-8"), keep_blank_values=True, max_num_fields=100) if name != "resource"]
        except ValueError:
            return oauth_error(400, "invalid_request", "the request is no form")
        given = dict(form)
        if self._may_add_secret(given, headers):
            form.append(("client_secret", self._plan.client_secret))
        headers = [(name, value) for name, value in headers if name != b"content-type"]
        return await self._call(self._plan.proxy, target, [*headers, (b"content-type", b"application/x-www-form-urlencoded")], urlencode(form).encode())

    def _may_add_secret(self, form: dict[str, str], headers: Headers) -> bool:
        if not self._plan.client_secret or "client_secret" in form or any(name == b"authorization" for name, _ in headers):
            return False
        return form.get("client_id") == self._plan.client_id and form.get("grant_type") in _INJECTED_GRANTS

    async def _call(self, service: CallPlan, url: str, headers: Headers, body: bytes) -> Refusal:
        if not same_origin(url, self._plan.metadata_url):
            # A document must not make the gateway call, or give a secret to, somebody else.
            return oauth_error(502, "server_error", "the authorization server's metadata names a foreign endpoint")
        parts = urlsplit(url)
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        sent = [(name, value) for name, value in headers if name in _PASSED_ON]
        try:
            got = await self._host.caller(service, "POST", sent, body, path)
        except CallError:
            return oauth_error(502, "temporarily_unavailable", "the authorization server cannot be reached")
        kind = next((value for name, value in got.headers if name == b"content-type"), _JSON)
        return answer(got.status if 200 <= got.status < 600 else 502, got.body, _NO_STORE, kind)
