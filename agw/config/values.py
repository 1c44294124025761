"""The small languages inside configuration values: durations, addresses, hosts, header parts, patterns.

Rules kept here:
- every function takes the text of one value and returns what the plan holds, or raises ValueError whose text is the
  problem as the operator will read it: what is wrong, and an example of what is right;
- nothing is looked up: no DNS, no file, no environment;
- what ends up on the wire (header names and values, paths, hosts) is proven harmless here and nowhere else.
"""

from __future__ import annotations

import re
from _socket import AF_INET, AF_INET6, inet_pton  # the C module: `socket` costs milliseconds at import
from functools import lru_cache
from typing import NamedTuple

from agw._fast.http1 import normalised_path
from agw._fast.patterns import compiled

NOT_YET = "is known to agw, not implemented yet"

_UNIT_NS = {"ns": 1, "us": 1_000, "µs": 1_000, "ms": 10**6, "s": 10**9, "m": 60 * 10**9, "h": 3600 * 10**9}
_DURATION = re.compile(r"(?:[0-9]{1,18}(?:\.[0-9]{1,9})?(?:ns|us|µs|ms|s|m|h))+")
_DURATION_PART = re.compile(r"([0-9]+)(?:\.([0-9]+))?(ns|us|µs|ms|s|m|h)")
_MAX_DURATION_NS = 10 * 365 * 86_400 * 10**9
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_LABEL = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?")
_BAD_PATH = re.compile(r"[^!-~]|[?#]")
_USERINFO = re.compile(r"(?<=://)[^/?#]*@")
_SECRET_KEY = re.compile(
    r"passw|secret|token|credential|authorization|cookie|api[-_]?key|private[-_]?key|signing[-_]?key|^keys?$|^jwks$|auth$",
    re.IGNORECASE,
)
_ORIGIN = re.compile(r"(https?)://(\*\.)?([^/?#@\s]+)", re.IGNORECASE)

# Agw writes these itself; letting a policy write them would let two parsers disagree about where a message ends.
FRAMING_HEADERS = frozenset(
    (
        "connection",
        "content-length",
        "host",
        "keep-alive",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    )
)


class Endpoint(NamedTuple):
    """A parsed upstream address; `path` is "" when the text had none, `tls` says that it was an https:// URL."""

    host: str = ""
    port: int = 0
    unix_path: str = ""
    authority: str = ""
    path: str = ""
    tls: bool = False


def is_secret_key(name: str) -> bool:
    """Whether a value under this key may be a secret."""
    return _SECRET_KEY.search(name) is not None


def quoted(text: str, limit: int = 60) -> str:
    """The value as it appears in a message: shortened, control characters escaped, without the user and password of a URL."""
    shown = _USERINFO.sub("***@", text)
    shown = shown if len(shown) <= limit else shown[: limit - 3] + "..."
    return '"' + shown.encode("unicode_escape").decode("ascii").replace('"', '\\"') + '"'


@lru_cache(maxsize=1024)
def duration_ns(text: str) -> int:
    """`1m30s`, `500ms`, `1.5h` or `0` in nanoseconds."""
    if text == "0":
        return 0
    if not _DURATION.fullmatch(text):
        raise ValueError(f"{quoted(text)} is no duration; write it like 10s, 500ms or 1m30s")
    total = 0
    for whole, fraction, unit in _DURATION_PART.findall(text):
        total += int(whole) * _UNIT_NS[unit]
        if fraction:
            total += int(fraction) * _UNIT_NS[unit] // 10 ** len(fraction)
    if total > _MAX_DURATION_NS:
        raise ValueError(f"{quoted(text)} is longer than ten years; use a shorter duration")
    return total


def positive_duration_ns(text: str) -> int:
    """A duration that may not be zero, because agw has no unlimited form of this limit."""
    value = duration_ns(text)
    if value <= 0:
        raise ValueError("this limit cannot be switched off; give a duration above zero, such as 30s")
    return value


def header_name(text: str) -> str:
    """A field name in lower case (RFC 9110, 5.1)."""
    if not _TOKEN.fullmatch(text):
        raise ValueError(f"{quoted(text)} is no header name; use letters, digits and - only, such as x-request-id")
    return text.lower()


def header_value(text: str) -> str:
    """A field value without the octets that end a line (RFC 9110, 5.5); outer blanks do not belong to it."""
    value = text.strip(" \t")
    for char in value:
        if (char < " " and char != "\t") or char == "\x7f":
            raise ValueError(f"the value holds the control character {quoted(char)}; remove it")
    return value


def changed_header(text: str) -> str:
    """The name of a header a policy may add, set or remove."""
    name = header_name(text)
    if name in FRAMING_HEADERS:
        hint = "use urlRewrite.authority" if name == "host" else "remove it from the policy"
        raise ValueError(f"`{name}` is written by agw itself; {hint}")
    return name


def method(text: str) -> str:
    """A request method; methods are case-sensitive and stay as written."""
    if not _TOKEN.fullmatch(text):
        raise ValueError(f"{quoted(text)} is no request method; write it like GET")
    return text


def token_or_star(text: str) -> str:
    """A header or method name in a CORS list, or `*`."""
    if not _TOKEN.fullmatch(text):
        raise ValueError(f"{quoted(text)} is neither a name nor *; write it like content-type")
    return text


def url_path(text: str) -> str:
    """An absolute path in visible ASCII, without query and fragment: it goes into a request line or a Location as it is."""
    if not text.startswith("/"):
        raise ValueError(f"{quoted(text)} must start with /")
    if _BAD_PATH.search(text):
        raise ValueError(f"{quoted(text)} holds ?, #, a blank, a control character or one outside ASCII; percent-encode it or remove it")
    return text


def match_path(text: str) -> str:
    """A path to match, in the form that requests have when they are matched."""
    form = normalised_path(url_path(text).encode())
    if form is None:
        raise ValueError(f"{quoted(text)} matches nothing: a request with \\, %2f, %5c, %00 to %1f, %7f, a broken escape or .. above the root is refused")
    return form.decode()


@lru_cache(maxsize=4096)
def regex(text: str) -> str:
    """A regular expression in RE2's syntax; it will have to match the whole value."""
    try:
        compiled(text)
    except ValueError as error:
        raise ValueError(f"{quoted(text)} is no regular expression: {error}") from None
    return text


def _is_ip(family: int, text: str) -> bool:
    try:
        inet_pton(family, text)
    except (OSError, ValueError):
        return False
    return True


def host_name(text: str) -> str:
    """A DNS name or IPv4 literal, lower case, or an IPv6 literal without brackets."""
    host = text.lower()
    if host.startswith("["):
        inner = host[1:-1] if host.endswith("]") else ""
        if not _is_ip(AF_INET6, inner):
            raise ValueError(f"{quoted(text)} is no IPv6 address; write it like [::1]")
        return inner
    if _is_ip(AF_INET, host):
        return host
    labels = host.removesuffix(".").split(".")
    if len(host) > 253 or labels[-1].isdigit() or not all(_LABEL.fullmatch(label) for label in labels):
        raise ValueError(f"{quoted(text)} is no host name or IP address; write it like app.example.com or 10.0.0.7")
    return host


def hostname_pattern(text: str) -> str:
    """A name to match Host against: exact or `*.suffix`, lower case, without final dot; `*` and "" mean any and give ""."""
    if text in ("", "*"):
        return ""
    host = text.lower().removesuffix(".")
    try:
        host_name(host.removeprefix("*."))
    except ValueError:
        raise ValueError(
            f"{quoted(text)} is no host name; write it like app.example.com or *.example.com, without port"
        ) from None
    return host


def port_number(text: str) -> int:
    """A decimal port between 1 and 65535."""
    if not (text.isascii() and text.isdigit() and len(text) <= 5 and 0 < int(text) < 65536):
        raise ValueError(f"{quoted(text)} is no port; use a number from 1 to 65535")
    return int(text)


def split_port(text: str) -> tuple[str, str]:
    """`host`, `host:port`, `[::1]:port` into host (brackets kept) and port text ("" when absent)."""
    if text.startswith("["):
        host, bracket, rest = text.partition("]")
        if bracket and (not rest or rest.startswith(":")):
            return host + bracket, rest[1:]
        raise ValueError(f"{quoted(text)} is no address; write an IPv6 address like [::1]:8080")
    if text.count(":") > 1:
        raise ValueError(f"{quoted(text)} is no address; put an IPv6 address in brackets, like [::1]:8080")
    host, _, port = text.partition(":")
    return host, port


def authority_of(host: str, port: int, tls: bool = False) -> str:
    """What Host says for this host and port; the default port of the scheme is left out (RFC 9110, 4.2.3)."""
    name = f"[{host}]" if ":" in host else host
    return name if port == (443 if tls else 80) else f"{name}:{port}"


def unix_socket(text: str) -> str:
    """The part after `unix:`: an absolute path, or `@name` for the abstract namespace."""
    path = text.removeprefix("unix:")
    path = path[2:] if path.startswith("///") else path
    if len(path) < 2 or path[0] not in "/@" or "\0" in path:
        raise ValueError(f"{quoted(text)} is no unix socket; write unix:/run/app.sock or unix:@name")
    if len(path.encode()) > 107:
        raise ValueError("the socket path is longer than the 107 octets a unix socket address holds; shorten it")
    return path


@lru_cache(maxsize=16384)
def host_endpoint(text: str) -> Endpoint:
    """The value of a `host` backend: `name:port`, an `http://` or `https://` URL without path, or `unix:`."""
    endpoint = _endpoint(text)
    if endpoint.path not in ("", "/"):
        raise ValueError(
            f"{quoted(text)} has a path; use urlRewrite.path for that, and only scheme, host and port here"
        )
    return endpoint._replace(path="")


def mcp_endpoint(text: str) -> Endpoint:
    """The value of an MCP target's `host`: as for a backend, and a URL may have a path."""
    endpoint = _endpoint(text)
    return endpoint._replace(path="") if endpoint.path == "/" else endpoint


def _endpoint(text: str) -> Endpoint:
    if text.startswith("unix:"):
        return Endpoint(unix_path=unix_socket(text), authority="localhost")
    scheme, separator, rest = text.partition("://")
    if not separator:
        name, port_text = split_port(text)
        host = host_name(name)
        if not port_text:
            raise ValueError(f"{quoted(text)} has no port; write {name}:80 or http://{name}")
        port = port_number(port_text)
        return Endpoint(host, port, "", authority_of(host, port))
    tls = scheme.lower() == "https"
    if not tls and scheme.lower() != "http":
        raise ValueError(f"{quoted(text)} has the scheme {quoted(scheme)}; use http:// or https://")
    where, slash, path = rest.partition("/")
    if "@" in where:
        raise ValueError("the URL holds a user name; send credentials with requestHeaderModifier")
    if "?" in rest:
        raise ValueError(f"a query in an upstream URL {NOT_YET}; remove it")
    name, port_text = split_port(where)
    host = host_name(name)
    port = port_number(port_text) if port_text else (443 if tls else 80)
    return Endpoint(host, port, "", authority_of(host, port, tls), url_path("/" + path) if slash else "", tls)


def authority(text: str) -> str:
    """A whole authority, `host` or `host:port`, for a rewrite or redirect."""
    name, port_text = split_port(text)
    host = host_name(name)
    if port_text:
        port_number(port_text)
    shown = f"[{host}]" if ":" in host else host
    return f"{shown}:{int(port_text)}" if port_text else shown


def authority_host(text: str) -> str:
    """The host part of an authority; IPv6 keeps its brackets."""
    host = host_name(text)
    return f"[{host}]" if ":" in host else host


def bind_address(text: str) -> str:
    """An IP address to listen on; "" is every interface."""
    host = text.removeprefix("[").removesuffix("]")
    if host == "localhost":
        return "127.0.0.1"
    if text and not _is_ip(AF_INET, host) and not _is_ip(AF_INET6, host):
        raise ValueError(f"{quoted(text)} is no IP address; write it like 127.0.0.1 or ::1")
    return host


def service_address(text: str) -> str:
    """`off`, `unix:/path`, or `ip:port` of one of agw's own listeners; `localhost` is the IPv4 loopback."""
    if text == "off":
        return text
    if text.startswith("unix:"):
        return "unix:" + unix_socket(text)
    name, port_text = split_port(text)
    if name == "localhost":
        name = "127.0.0.1"
    host = name[1:-1] if name.startswith("[") else name
    if not _is_ip(AF_INET6 if name.startswith("[") else AF_INET, host) or not port_text:
        raise ValueError(f"{quoted(text)} is no address; write it like 127.0.0.1:15000, unix:/run/agw.sock or off")
    return f"{name}:{port_number(port_text)}"


def origin(text: str) -> str:
    """A CORS origin: `*`, `https://host[:port]`, or `https://*.suffix[:port]`, lower case."""
    if text == "*":
        return text
    match = _ORIGIN.fullmatch(text)
    if match is None:
        raise ValueError(
            f"{quoted(text)} is no origin; write it like https://app.example.com, https://*.example.com or *"
        )
    scheme, wildcard, rest = match[1].lower(), match[2] or "", match[3]
    return f"{scheme}://{wildcard}{authority(rest)}"


def cel_constant(text: str) -> str:
    """The text of a CEL string constant; other expressions wait for the expression engine."""
    body = text.strip()
    if len(body) >= 2 and body[0] in "'\"" and body[-1] == body[0]:
        inner = body[1:-1]
        if body[0] not in inner and "\\" not in inner:
            return header_value(inner)
    raise ValueError(
        f"an expression other than a text constant {NOT_YET}; write a constant with inner quotes, like \"'no-store'\""
    )
