"""Header lines that come from other services or from expressions: what may go on the wire, and in which form.

Rules:
- a name is a token, a value has no octet that ends a line; what breaks this is left out, never mended;
- headers that frame a message, or that only the gateway says, are nobody else's to write.

Source: RFC 9110 sections 5.1, 5.5 and 7.6.1.
"""

from __future__ import annotations

import re

_NAME = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,256}")
_BAD_VALUE = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")
MAX_VALUE = 8192
"""Octets of one value."""

RESERVED = frozenset(
    (
        b"connection", b"content-length", b"expect", b"host", b"keep-alive", b"proxy-connection", b"te", b"trailer",
        b"transfer-encoding", b"upgrade",
    )
)  # fmt: skip
"""Lower-case names that agw writes itself."""


def is_name(name: bytes) -> bool:
    """Whether this is a header name that others may write; lower or mixed case."""
    return _NAME.fullmatch(name) is not None and name.lower() not in RESERVED


def is_value(value: bytes) -> bool:
    """Whether this value can go on the wire as it is."""
    return len(value) <= MAX_VALUE and _BAD_VALUE.search(value) is None


def line(name: bytes, value: bytes) -> bytes:
    """A complete header line, b"" when name or value must not go on the wire."""
    return name + b": " + value.strip(b" \t") + b"\r\n" if is_name(name) and is_value(value) else b""
