"""Finds the authorization server of an upstream that wants OAuth: protected resource metadata, then the server's own.

Rules:
- every URL here comes from outside, so `fetch` has to guard (`agw.security.ssrf`): https, public addresses, no redirects, bounded;
- a resource's document must be about that resource, and a server's about that issuer, letter by letter (RFC 9728 section 3.3,
  RFC 8414 section 3.3): documents of somebody else are none;
- a server that does not say that it does PKCE with S256 is not used;
- documents are looked for in the order the MCP specification gives; what is not there (404 and the like) is passed over.

Source: RFC 9728, RFC 8414, OpenID Connect Discovery 1.0, MCP 2025-11-25 "Authorization".
"""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from agw.security.contract import CallError, Headers, HttpAnswer
from agw.security.upstream.source import CredentialError

Fetch = Callable[[str, str, Headers, bytes], Awaitable[HttpAnswer]]
"""(method, URL, headers, body) -> answer, for URLs from outside. Errors: CallError."""

MAX_URL = 2048
_PING = b'{"jsonrpc":"2.0","id":0,"method":"ping"}'
_METADATA = re.compile(r'(?:^|[\s,])resource_metadata\s*=\s*(?:"([^"\\]*)"|([^\s,"]+))', re.IGNORECASE)
_SCOPE = re.compile(r'(?:^|[\s,])scope\s*=\s*"([\x20\x21\x23-\x5b\x5d-\x7e]*)"', re.IGNORECASE)


class Server(NamedTuple):
    """An authorization server, as it describes itself. `says_issuer`: its answers carry `iss` (RFC 9207)."""

    issuer: str
    authorization_endpoint: str
    token_endpoint: str
    registration_endpoint: str = ""
    says_issuer: bool = False
    knows_documents: bool = False
    """Whether a client's id may be the URL of its document (CIMD)."""
    auth_methods: tuple[str, ...] = ("client_secret_basic",)


class Wanted(NamedTuple):
    """What a challenge of the upstream says. `scope` is what it wants for the operation."""

    metadata_url: str = ""
    scope: str = ""


def read_challenge(values: list[bytes]) -> Wanted:
    """What the `WWW-Authenticate` headers of a 401 or 403 say. Never raises."""
    text = ", ".join(value.decode("latin-1") for value in values)[:8192]
    metadata, scope = _METADATA.search(text), _SCOPE.search(text)
    return Wanted((metadata[1] or metadata[2] or "") if metadata else "", scope[1] if scope else "")


async def discover(fetch: Fetch, resource: str, challenge: Wanted | None = None) -> tuple[Server, list[str]]:
    """The server for a resource, and the scopes its document names. Errors: CredentialError."""
    document = await _resource_document(fetch, resource, challenge or Wanted())
    servers = document.get("authorization_servers")
    if not isinstance(servers, list) or not servers or not isinstance(servers[0], str):
        raise CredentialError("unreachable", "discovery: the resource names no authorization server")
    scopes = document.get("scopes_supported")
    return await server_of(fetch, servers[0]), [item for item in scopes if isinstance(item, str)] if isinstance(scopes, list) else []


async def server_of(fetch: Fetch, issuer: str) -> Server:
    """The server behind an issuer's identifier. Errors: CredentialError."""
    for url in server_urls(issuer):
        says = await _document(fetch, url)
        if says is not None:
            return _server(says, issuer)
    raise CredentialError("unreachable", "discovery: the authorization server has no metadata")


def resource_urls(resource: str) -> list[str]:
    """Where the document of a resource may be: for its path, then for its origin."""
    origin, path = _split(resource)
    known = f"{origin}/.well-known/oauth-protected-resource"
    return [known + path, known] if path else [known]


def server_urls(issuer: str) -> list[str]:
    """Where the document of an issuer may be, in the order in which to look."""
    origin, path = _split(issuer)
    oauth, openid = f"{origin}/.well-known/oauth-authorization-server", f"{origin}/.well-known/openid-configuration"
    return [oauth + path, openid + path, f"{origin}{path}/.well-known/openid-configuration"] if path else [oauth, openid]


async def _resource_document(fetch: Fetch, resource: str, challenge: Wanted) -> dict[str, Any]:
    if not challenge.metadata_url:
        for url in resource_urls(resource):
            says = await _document(fetch, url)
            if says is not None:
                return _about(says, resource)
        # A resource may name the place of its document in its challenge only.
        challenge = await _challenge(fetch, resource)
    says = await _document(fetch, challenge.metadata_url) if challenge.metadata_url else None
    if says is None:
        raise CredentialError("unreachable", "discovery: the resource has no metadata")
    return _about(says, resource)


async def _challenge(fetch: Fetch, resource: str) -> Wanted:
    """What the resource says to somebody without token; a message that means nothing makes it say so."""
    try:
        answer = await fetch("POST", resource, [(b"content-type", b"application/json"), (b"accept", b"application/json, text/event-stream")], _PING)
    except CallError:
        return Wanted()
    return read_challenge([value for name, value in answer.headers if name == b"www-authenticate"]) if answer.status == 401 else Wanted()


def _about(says: dict[str, Any], resource: str) -> dict[str, Any]:
    if not _covers(says.get("resource"), resource):
        raise CredentialError("refused", "discovery: the document found is about another resource")
    return says


def _covers(stated: Any, resource: str) -> bool:
    """Whether a document is about this resource: itself, or its origin as a whole."""
    if not isinstance(stated, str):
        return False
    return stated == resource or stated.rstrip("/") == _split(resource)[0]


def _server(says: dict[str, Any], issuer: str) -> Server:
    if says.get("issuer") != issuer:
        raise CredentialError("refused", "discovery: the document found is of another issuer")
    methods = says.get("code_challenge_methods_supported")
    if not isinstance(methods, list) or "S256" not in methods:
        raise CredentialError("refused", "discovery: the authorization server does not do PKCE with S256")
    offered = says.get("token_endpoint_auth_methods_supported", ["client_secret_basic"])
    return Server(
        issuer,
        _endpoint(says, "authorization_endpoint", issuer),
        _endpoint(says, "token_endpoint", issuer),
        _endpoint(says, "registration_endpoint", issuer) if "registration_endpoint" in says else "",
        says.get("authorization_response_iss_parameter_supported") is True,
        says.get("client_id_metadata_document_supported") is True,
        tuple(item for item in offered if isinstance(item, str)) if isinstance(offered, list) else (),
    )


def _endpoint(says: dict[str, Any], name: str, issuer: str) -> str:
    value = says.get(name)
    if not isinstance(value, str) or not is_url(value) or (issuer.startswith("https:") and not value.startswith("https:")):
        raise CredentialError("refused", f"discovery: the {name} is no URL, or less safe than the issuer's")
    return value


def origin_of(url: str) -> str:
    """Scheme, host and port of a URL, "" for none."""
    if not is_url(url):
        return ""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.lower()}"


def is_url(text: str) -> bool:
    """An http(s) URL in visible ASCII with a host, without user and fragment."""
    if not text.isascii() or len(text) > MAX_URL or any(char <= " " or char in '\x7f"<>\\^`{|}' for char in text):
        return False
    try:
        parts = urlsplit(text)
        parts.port  # noqa: B018 - reading it is the check
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and bool(parts.hostname) and "@" not in parts.netloc and "#" not in text


def _split(url: str) -> tuple[str, str]:
    """Origin, and path without its last slash. Errors: CredentialError for what is no URL, or has a query."""
    if not is_url(url) or "?" in url:
        raise CredentialError("refused", "discovery: an identifier is no URL")
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}", parts.path.rstrip("/")


async def _document(fetch: Fetch, url: str) -> dict[str, Any] | None:
    if not is_url(url):
        raise CredentialError("refused", "discovery: the place of a document is no URL")
    try:
        answer = await fetch("GET", url, [(b"accept", b"application/json")], b"")
    except CallError as error:
        raise CredentialError("unreachable", f"discovery: no answer ({error.kind})") from None
    if 400 <= answer.status < 500:
        return None
    try:
        says = json.loads(answer.body) if answer.status == 200 else None
    except (ValueError, RecursionError):
        says = None
    if not isinstance(says, dict):
        raise CredentialError("unreachable", f"discovery: {answer.status} and no document")
    return says
