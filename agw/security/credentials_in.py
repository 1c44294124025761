"""Reads a credential out of a request, from where the plan says it stands.

Rules:
- one credential, one reading: two headers, two parameters or two cookies of the name are an error, never "the first";
- a header is exactly its prefix (compared without case) and then visible ASCII: no further blank, no other octet;
- a header with another scheme holds no credential of this kind; an expression decides itself what is one: null or "" is none;
- nothing is trimmed, joined or repaired; a part that needs repair is an error.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple
from urllib.parse import unquote_to_bytes

from agw.runtime.plan_security import LocationPlan
from agw.security.contract import Request


class Malformed(NamedTuple):
    """There is something where the credential stands, and it is none. `cause` is for the operator."""

    cause: str


Reader = Callable[[Request], bytes | Malformed | None]
"""The octets of the credential; None when there is none."""

_VISIBLE = re.compile(rb"[!-~]+")
_VISIBLE_OCTETS = bytes(range(0x21, 0x7F))
_TOKEN_OCTET = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]")


def reader(location: LocationPlan) -> Reader:
    """What reads credentials from `location`."""
    if location.kind == "header":
        return _header_reader(location.name.lower().encode(), location.prefix.encode())
    if location.kind == "query":
        return _query_reader(location.name.encode())
    if location.kind == "expression":
        return _expression_reader(location.name, [name.encode() for name in location.headers])
    return _cookie_reader(location.name.encode())


def _header_reader(name: bytes, prefix: bytes) -> Reader:
    folded = prefix.lower()
    scheme = folded.rstrip(b" ")
    size = len(prefix)
    twice = Malformed(f"the header {name.decode()} was sent more than once")
    other = Malformed(f"the header {name.decode()} holds blanks or octets that are not visible ASCII, or nothing after its prefix")

    def read(request: Request) -> bytes | Malformed | None:
        found = request.values(name)
        if not found:
            return None
        if len(found) > 1:
            return twice
        value = found[0]
        if value[:size].lower() == folded:
            rest = value[size:]
            return rest if rest and not rest.translate(None, _VISIBLE_OCTETS) else other
        # `Bearer` alone, or before a tab: the scheme is ours and the form is not. `Bearerx` is another scheme.
        if value[: len(scheme)].lower() == scheme and not _TOKEN_OCTET.match(value, len(scheme)):
            return other
        return None

    return read


def _query_reader(name: bytes) -> Reader:
    twice = Malformed(f"the query parameter {name.decode()} was sent more than once")
    other = Malformed(f"the query parameter {name.decode()} is empty or holds octets that are not visible ASCII")

    def read(request: Request) -> bytes | Malformed | None:
        query = request.query
        if not query or (name not in query and b"%" not in query):
            return None
        found: bytes | None = None
        for part in query.split(b"&"):
            key, _, value = part.partition(b"=")
            # An encoded spelling of the name is the same parameter to whoever reads it behind us.
            if key == name or (b"%" in key and unquote_to_bytes(key) == name):
                if found is not None:
                    return twice
                # A form's + is a blank, which no credential holds: it has to be %2B.
                found = unquote_to_bytes(value.replace(b"+", b" "))
        if found is None:
            return None
        return found if _VISIBLE.fullmatch(found) else other

    return read


def _expression_reader(text: str, headers: list[bytes]) -> Reader:
    """Errors: CelError, CelMissing."""
    from agw.security import cel
    from agw.security.facts import Facts

    expression = cel.compile(text, "http")
    failed = Malformed("the expression of `location` gives no credential of the headers it looks at")

    def read(request: Request) -> bytes | Malformed | None:
        if not any(request.values(name) for name in headers):
            return None
        found = expression.evaluate(Facts(request))
        if found is None or found == "":
            return None
        octets = found.encode("utf-8", "replace") if isinstance(found, str) else b""
        return octets if _VISIBLE.fullmatch(octets) else failed

    return read


def _cookie_reader(name: bytes) -> Reader:
    twice = Malformed(f"the cookie {name.decode()} was sent more than once")
    other = Malformed(f"the cookie {name.decode()} holds blanks or octets that are not visible ASCII")

    def read(request: Request) -> bytes | Malformed | None:
        found: bytes | None = None
        for line in request.values(b"cookie"):
            if name not in line:
                continue
            for pair in line.split(b";"):
                key, equals, value = pair.strip(b" \t").partition(b"=")
                if key == name and equals:
                    if found is not None:
                        return twice
                    found = value
        if not found:
            return None  # an empty cookie is one that was taken away
        if len(found) >= 2 and found[:1] == b'"' == found[-1:]:
            found = found[1:-1]  # RFC 6265, 4.1.1: the quotes are around the value
        return found if _VISIBLE.fullmatch(found) else other

    return read
