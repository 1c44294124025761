"""What the page says to browsers and servers. Nothing in it comes from a request, but the addresses where a browser is sent."""

from __future__ import annotations

from agw.security.contract import OIDC, Refusal
from agw.security.upstream.discovery import is_url

PLAIN = b"text/plain; charset=utf-8"
_LINES = (
    b"Cache-Control: no-store\r\nReferrer-Policy: no-referrer\r\nX-Content-Type-Options: nosniff\r\n"
    b"Content-Security-Policy: default-src 'none'; frame-ancestors 'none'\r\n"
)
"""The address of the page holds a secret, and nobody may show it in a frame."""


def said(status: int, text: bytes, cause: str, lines: bytes = b"") -> Refusal:
    """A page with one sentence. `cause` is for the operator's log."""
    return Refusal(status, OIDC, text, cause, lines + _LINES, body=text + b"\n", content_type=PLAIN)


def sent(target: str, lines: bytes) -> Refusal:
    """A redirect. Errors: ValueError for what is no URL."""
    if not is_url(target.partition("?")[0]) or not target.isascii() or any(char <= " " for char in target):
        raise ValueError("not a URL to send a browser to")
    return Refusal(302, OIDC, b"", "consent: sent on", b"Location: " + target.encode("ascii") + b"\r\n" + lines + _LINES, body=b"")


def document(body: bytes) -> Refusal:
    """A JSON document for everybody."""
    return Refusal(200, OIDC, b"", "consent: client metadata", b"Cache-Control: max-age=3600\r\nX-Content-Type-Options: nosniff\r\n", body=body)
