"""URLs that come from outside: where the gateway may go because somebody else named the place.

Rules:
- https with a host and nothing that hides another; plain http and addresses that are not public only for what the operator wrote;
- every address of a name must be public, and the connection goes to the addresses that were looked at: a name is asked once;
- an IPv4 address inside an IPv6 one (mapped, compatible, NAT64, 6to4, Teredo) is looked at as the IPv4 address it leads to.

Source: IANA special-purpose address registries (RFC 6890), RFC 4291 section 2.5.5, RFC 6052, RFC 3056, RFC 4380.
"""

from __future__ import annotations

import asyncio
import ipaddress
import re
import socket
from typing import NamedTuple
from urllib.parse import urlsplit

MAX_URL = 2048
MAX_ADDRESSES = 32
LOOKUP_S = 5.0
"""How long a name is looked up."""

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

_HOST = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]{0,252}[A-Za-z0-9_])?")
# A last label of digits, or of hexadecimal ones, is a number to some resolvers: 0x7f.1, 2130706433, 127.1.
_NUMBER = re.compile(r"(?:[0-9]+|0[xX][0-9A-Fa-f]*)")

_V4_REFUSED = [
    ipaddress.IPv4Network(text)
    for text in (
        "0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.0.0.0/24", "192.0.2.0/24",
        "192.31.196.0/24", "192.52.193.0/24", "192.88.99.0/24", "192.168.0.0/16", "192.175.48.0/24", "198.18.0.0/15", "198.51.100.0/24",
        "203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4", "168.63.129.16/32", "100.100.100.200/32",
    )
]  # fmt: skip
"""Not public, or where clouds answer machines about themselves."""
_V6_PUBLIC = ipaddress.IPv6Network("2000::/3")
_V6_REFUSED = [
    ipaddress.IPv6Network(text) for text in ("2001::/23", "2001:db8::/32", "2002::/16", "2620:4f:8000::/48", "3fff::/20", "5f00::/16", "fd00:ec2::254/128")
]
_MAPPED = ipaddress.IPv6Network("::ffff:0:0/96")
_COMPATIBLE = ipaddress.IPv6Network("::/96")
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
_SIX_TO_FOUR = ipaddress.IPv6Network("2002::/16")
_TEREDO = ipaddress.IPv6Network("2001::/32")


class Refused(ValueError):
    """The gateway does not go there. The text says why, and never where a name leads."""


class Place(NamedTuple):
    """A URL that may be fetched; `host` in lower case, IPv6 without brackets, `target` the path with its query."""

    scheme: str
    host: str
    port: int
    target: str


def check_url(url: str, *, internal: bool = False) -> Place:
    """A URL in parts. `internal`: the operator wrote it, so http and addresses that are not public are fine. Errors: Refused."""
    if len(url) > MAX_URL or not url.isascii() or any(char <= " " or char in '\x7f\\"<>^`{|}' for char in url):
        raise Refused("the URL is too long or holds characters that do not belong there")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise Refused("not a URL") from None
    if parts.scheme not in (("https", "http") if internal else ("https",)):
        raise Refused("the URL is not https")
    if "@" in parts.netloc or parts.fragment or "#" in url:
        raise Refused("the URL holds a user name or a fragment")
    host = parts.hostname or ""
    if not parts.netloc or "%" in parts.netloc or port == 0:
        raise Refused("the URL has no host that can be asked")
    literal = _literal(host)
    if literal is None and (not _HOST.fullmatch(host) or ".." in host or _NUMBER.fullmatch(host.rpartition(".")[2])):
        raise Refused("the host is no name")
    if not internal:
        if literal is not None and not is_public(literal):
            raise Refused("the address is not public")
        if literal is None and (host == "localhost" or host.endswith((".localhost", ".local", ".internal")) or "." not in host):
            raise Refused("the host is a name of an inner network")
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return Place(parts.scheme, host, port or (443 if parts.scheme == "https" else 80), target)


async def resolve_public(host: str, *, internal: bool = False) -> list[str]:
    """The addresses of a host, each of them fit to connect to; connect to these and to no others. Errors: Refused."""
    literal = _literal(host)
    if literal is not None:
        found: list[Address] = [literal]
    else:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(LOOKUP_S):
                answer = await loop.getaddrinfo(host, None, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError):
            raise Refused("the name has no address") from None
        # An interface after % would make one address into two texts.
        texts = dict.fromkeys(str(item[4][0]).partition("%")[0] for item in answer)
        found = [ipaddress.ip_address(text) for text in texts]
    if not 0 < len(found) <= MAX_ADDRESSES:
        raise Refused("the name has no address, or too many")
    # One bad address among good ones is how a name is made to lead inside on the second try.
    if not internal and not all(is_public(address) for address in found):
        raise Refused("the name leads to an address that is not public")
    return [str(address) for address in found]


async def guard(url: str) -> str:
    """The address to connect to for a URL from outside. Errors: Refused."""
    return (await resolve_public(check_url(url).host))[0]


def is_public(address: Address) -> bool:
    """Whether an address belongs to the public internet, also the one inside it."""
    if isinstance(address, ipaddress.IPv4Address):
        return not any(address in network for network in _V4_REFUSED)
    inner = _inside(address)
    if inner is not None:
        # Wrapped addresses are public where what they wrap is; only translation is a way that exists.
        return address in _NAT64 and is_public(inner)
    return address in _V6_PUBLIC and not any(address in network for network in _V6_REFUSED)


def _inside(address: ipaddress.IPv6Address) -> ipaddress.IPv4Address | None:
    """The IPv4 address an IPv6 one leads to."""
    number = int(address)
    if address in _MAPPED or address in _NAT64 or address in _COMPATIBLE:
        return ipaddress.IPv4Address(number & 0xFFFFFFFF)
    if address in _SIX_TO_FOUR:
        return ipaddress.IPv4Address(number >> 80 & 0xFFFFFFFF)
    if address in _TEREDO:
        return ipaddress.IPv4Address(~number & 0xFFFFFFFF)
    return None


def _literal(host: str) -> Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None
