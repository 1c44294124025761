"""Who may talk to a local listener: the Host and Origin checks against DNS rebinding and cross-site requests.

A page of any web site can make the browser of this machine's user send requests to 127.0.0.1. Two marks give it away:
the name it had to use to get there (Host), and the site it comes from (Origin). Reliability rule 25, MCP section
"Security Warning" of the streamable HTTP transport. Where nobody has to say who he is, the listener's address is the
permission, and where a browser remembers a password, it sends it along for any page: these checks are not optional.
"""

from __future__ import annotations

import ipaddress
import re
import socket

from agw.admin.message import HttpError, Request

# RFC 3986 host and optional port; what does not match is nobody's name. Brackets belong to IPv6 literals only.
_AUTHORITY = re.compile(r"(?P<host>\[[0-9a-fA-F:.]+\]|[A-Za-z0-9._~-]+)(?::(?P<port>[0-9]{1,5}))?")
_ORIGIN = re.compile(r"(?P<scheme>https?)://(?P<authority>[^/?#@]+)")
_DEFAULT_PORT = {"http": "80", "https": "443"}


def is_loopback_host(host: str) -> bool:
    """True for `localhost`, names under `.localhost` (RFC 6761) and literal loopback addresses, brackets allowed."""
    name = host.lower().removesuffix(".")
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(name.strip("[]")).is_loopback
    except ValueError:
        return False


def is_loopback_socket(sock: socket.socket) -> bool:
    """True if a bound TCP socket takes connections on a loopback address only."""
    return sock.family in (socket.AF_INET, socket.AF_INET6) and is_loopback_host(sock.getsockname()[0])


def split_authority(authority: str) -> tuple[str, str] | None:
    """`(host, port)` of `host[:port]`, port "" if absent; None if malformed. The host keeps IPv6 brackets."""
    match = _AUTHORITY.fullmatch(authority)
    return None if match is None else (match["host"].lower(), match["port"] or "")


def check_host(request: Request) -> None:
    """Refuse a foreign Host on a listener that is bound to loopback. Errors: HttpError 400, 403.

    Other listeners have names this process does not know; they are guarded by where they are bound, and by
    `check_origin`. A unix socket has no browser on its other end.
    """
    if not request.loopback:
        return
    parts = split_authority(request.authority)
    if parts is None:
        raise HttpError(400, "malformed host")
    if not is_loopback_host(parts[0]):
        raise HttpError(403, "host not allowed on a loopback listener")


def check_origin(request: Request, *, allow_loopback: bool = False) -> None:
    """Refuse a browser's request from another site. Errors: HttpError 403.

    Without an Origin the request passes: it is not a browser's, or it is one whose answer the page cannot read.
    `allow_loopback` also lets pages served from this machine in, whatever their port (local tools such as inspectors).
    `Origin: null` is a page without a site, not a missing Origin.
    """
    origins = request.header_values("origin")
    if not origins:
        return
    match = _ORIGIN.fullmatch(origins[0]) if len(origins) == 1 else None
    origin = split_authority(match["authority"]) if match else None
    target = split_authority(request.authority)
    if match is None or origin is None or target is None:
        raise HttpError(403, "origin not allowed")
    if allow_loopback and is_loopback_host(origin[0]):
        return
    port = _DEFAULT_PORT[match["scheme"]]
    if (origin[0], origin[1] or port) != (target[0], target[1] or port):
        raise HttpError(403, "origin not allowed")
