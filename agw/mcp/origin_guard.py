"""Who may talk to an MCP listener: the Host and Origin checks against DNS rebinding and cross-site requests.

A page of any site can make a browser send requests to a server on the user's own machine. The name it had to use to get
there (Host) and the site it comes from (Origin) give it away; no other client forges either against its own interest.

Rules:
- `auto` checks only a listener that is bound to loopback, `on` checks every listener, `off` none;
- this machine's own names pass with any port: `localhost`, 127.0.0.0/8, `[::1]`; what else passes is listed;
- no Origin passes (no browser sent it); `Origin: null` is a page without a site and passes only if `null` is listed;
- a header that occurs twice is refused: somebody else may have read the other one.

Sources: MCP 2026-07-28 and older, transports, "Security Warning"; RFC 9110 section 7.2 (Host), 7.4 (421); RFC 6454
section 6 (what an origin looks like).
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from typing import Literal

OK = 0
FORBIDDEN = 403
MISDIRECTED = 421

_AUTHORITY = re.compile(r"(?P<host>\[[0-9a-f:.]{2,45}\]|[a-z0-9._~-]{1,255})(?::(?P<port>[0-9]{1,5}))?")
_WEB_ORIGIN = re.compile(r"(?P<scheme>https?)://(?P<authority>[^/?#@]+)")
_DEFAULT_PORT = {"http": "80", "https": "443"}
_ANY_PORT = ":*"


def _split(authority: str) -> tuple[str, str] | None:
    """`(host, port)`, port "" when absent, host without the root's dot; None if malformed."""
    match = _AUTHORITY.fullmatch(authority)
    if match is None:
        return None
    port = match["port"] or ""
    if port and not 0 < int(port) < 65536:
        return None
    return match["host"].removesuffix("."), port.lstrip("0")


def _is_this_machine(host: str) -> bool:
    if host == "localhost":
        return True
    literal = host.startswith("[")
    try:
        address = ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return False
    return address.is_loopback and literal == (address.version == 6)


class Guard:
    """The check of one listener; immutable.

    Args:   `loopback`: whether the listener is bound to a loopback address. `allowed_hosts`: `name` or `name:*` (any
            port), `name:port`, or `*` (any host). `allowed_origins`: an origin as browsers write it
            (`https://name[:port]`, `https://name:*` for any port, other schemes octet for octet), `null`, or `*` (any
            origin but `null`).
    Errors: ValueError for an entry that can match nothing.
    """

    __slots__ = ("_any_host", "_any_origin", "_hosts", "_origins", "active")

    def __init__(
        self, mode: Literal["auto", "on", "off"], loopback: bool, allowed_hosts: Iterable[str] = (), allowed_origins: Iterable[str] = (),
    ) -> None:
        self.active = mode == "on" or (mode == "auto" and loopback)
        hosts = [entry.lower() for entry in allowed_hosts]
        origins = list(allowed_origins)
        self._any_host = "*" in hosts
        self._any_origin = "*" in origins
        self._hosts = frozenset(_host_entry(entry) for entry in hosts if entry != "*")
        self._origins = frozenset(_origin_entry(entry) for entry in origins if entry != "*")

    def check(self, hosts: list[bytes], origins: list[bytes]) -> int:
        """0 if the request may pass, 421 for a foreign Host, 403 for a foreign Origin; the values as they were received."""
        if not self.active:
            return OK
        if len(hosts) != 1 or not self._host_passes(hosts[0]):
            return MISDIRECTED
        if not origins:
            return OK
        if len(origins) != 1 or not self._origin_passes(origins[0]):
            return FORBIDDEN
        return OK

    def _host_passes(self, field: bytes) -> bool:
        parts = _split(_ascii(field).lower())
        if parts is None:
            return False
        host, port = parts
        return self._any_host or _is_this_machine(host) or (host, "*") in self._hosts or (host, port) in self._hosts

    def _origin_passes(self, field: bytes) -> bool:
        origin = _ascii(field)
        if origin == "null":
            return ("null", "", "") in self._origins
        match = _WEB_ORIGIN.fullmatch(origin.lower())
        if match is None:
            return bool(origin) and (self._any_origin or (origin, "", "") in self._origins)
        parts = _split(match["authority"])
        if parts is None:
            return False
        scheme, (host, port) = match["scheme"], parts
        if self._any_origin or _is_this_machine(host):
            return True
        return (scheme, host, "*") in self._origins or (scheme, host, port or _DEFAULT_PORT[scheme]) in self._origins


def _ascii(field: bytes) -> str:
    """The field without optional blanks; "" (which no rule accepts) for anything but ASCII."""
    try:
        return field.strip(b" \t").decode("ascii")
    except UnicodeDecodeError:
        return ""


def _host_entry(entry: str) -> tuple[str, str]:
    parts = _split(entry.removesuffix(_ANY_PORT))
    if parts is None or (parts[1] and entry.endswith(_ANY_PORT)):
        raise ValueError(f"not a host name with an optional port: {entry!r}")
    return parts[0], "*" if entry.endswith(_ANY_PORT) else parts[1] or "*"


def _origin_entry(entry: str) -> tuple[str, str, str]:
    match = _WEB_ORIGIN.fullmatch(entry.lower().removesuffix(_ANY_PORT))
    if match is None:
        if entry != "null" and not re.fullmatch(r"(?!https?:)[a-z][a-z0-9+.-]*://[!-~]+", entry):
            raise ValueError(f"not an origin: {entry!r}")
        return entry, "", ""
    parts = _split(match["authority"])
    if parts is None or (parts[1] and entry.endswith(_ANY_PORT)):
        raise ValueError(f"not an origin: {entry!r}")
    return match["scheme"], parts[0], "*" if entry.endswith(_ANY_PORT) else parts[1] or _DEFAULT_PORT[match["scheme"]]
