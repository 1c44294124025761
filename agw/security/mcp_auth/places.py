"""Where an MCP endpoint is for its clients: its own URL, those of its well-known documents, and what a request path asks for.

Rules:
- the configured resource is believed over anything in a request; without one the URL comes from Host and, behind a proxy that
  ends TLS, from X-Forwarded-Proto. Whoever forges these gets a wrong answer himself and nobody else does;
- a well-known path is the resource's path put behind the well-known prefix (RFC 9728 section 3.1, RFC 8414 section 3.1);
- everything here is text that came from a request or a file: it is checked before it is put into a header or a document.
"""

from __future__ import annotations

import re
from typing import Literal, NamedTuple, Protocol
from urllib.parse import urlsplit

RESOURCE_PREFIX = "/.well-known/oauth-protected-resource"
SERVER_PREFIX = "/.well-known/oauth-authorization-server"
REGISTRATION, AUTHORIZE, TOKEN = "client-registration", "authorize", "token"

_HOST = re.compile(r"(?:[A-Za-z0-9._-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\])(?::[0-9]{1,5})?")
_PATH = re.compile(r"(?:/[A-Za-z0-9._~!$&'()*+,;=:@%-]*)*")


class Asked(Protocol):
    """As much of a request as places depend on (`contract.Request` and `Call` are such)."""

    @property
    def path(self) -> bytes: ...
    @property
    def secure(self) -> bool: ...
    def values(self, name: bytes) -> list[bytes]: ...


class Place(NamedTuple):
    """What a well-known path asks for: a document or one of the endpoints below it, for the resource at `path` ("" for the root form)."""

    what: Literal["resource", "server", "client-registration", "authorize", "token"]
    path: str


def place_of(path: bytes, endpoints: frozenset[str]) -> Place | None:
    """The place of a request path, None when it is none of ours. `endpoints` are the ones that exist below the server's document."""
    if not path.startswith(b"/.well-known/oauth-"):
        return None
    text = path.decode("latin-1")
    for what, prefix in (("resource", RESOURCE_PREFIX), ("server", SERVER_PREFIX)):
        if not text.startswith(prefix):
            continue
        rest = text[len(prefix) :]
        if rest and not rest.startswith("/"):
            return None
        if what == "resource":
            return Place("resource", rest.rstrip("/"))
        head, _, last = rest.rpartition("/")
        if last in endpoints:
            return Place(last, head)  # type: ignore[arg-type]  # `endpoints` holds nothing else
        return Place("server", rest.rstrip("/"))
    return None


def origin_of(asked: Asked) -> str:
    """`scheme://host[:port]` of a request as its client sees it; "" when it has no usable Host."""
    hosts = asked.values(b"host")
    host = hosts[0].decode("latin-1") if len(hosts) == 1 else ""
    if not _HOST.fullmatch(host):
        return ""
    said = asked.values(b"x-forwarded-proto")
    first = said[0].split(b",")[0].strip().lower() if said else b""
    scheme = first.decode() if first in (b"http", b"https") else "https" if asked.secure else "http"
    return f"{scheme}://{host}"


def resource_of(configured: str, asked: Asked, path: str) -> str:
    """The URL that names the resource at `path`: the configured one, else by the request. "" when neither is usable."""
    if configured:
        return configured
    origin = origin_of(asked)
    return origin + path if origin and _PATH.fullmatch(path) else ""


def well_known(prefix: str, resource: str) -> str:
    """The URL of a well-known document of `resource`; "" for no URL."""
    parts = urlsplit(resource)
    if not parts.scheme or not parts.netloc:
        return ""
    return f"{parts.scheme}://{parts.netloc}{prefix}{parts.path.rstrip('/')}"


def gateway_issuer(resource: str) -> str:
    """The identifier of the gateway as authorization server of a resource: its URL without a slash at the end."""
    return resource.rstrip("/")
