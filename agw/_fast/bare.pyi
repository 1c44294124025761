"""Queries and Cookie fields without what a backend must not see, and with what it is presented.

Called only where a configuration puts credentials into queries or cookies, for the gateway or for a backend.

Rules:
- a parameter is named as whoever reads it would (escapes undone); what stays, stays octet for octet and in its order;
- several Cookie fields become one (RFC 9113 section 8.2.3 has them mean the same).
"""

def bare_query(query: bytes | None, names: frozenset[bytes], more: bytes) -> bytes | None:
    """The query without the parameters of these names, and with `more` behind it; None when nothing is left."""

def bare_cookies(headers: list[tuple[bytes, bytes]], names: frozenset[bytes], more: bytes) -> bytes:
    """A complete header line with the cookies of all Cookie fields but these, and with `more`; b"" when nothing is left."""
