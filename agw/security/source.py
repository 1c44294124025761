"""Where a request comes from: always the first step, so that every rule and limit may ask.

Rules:
- `source` holds only what the connection proves: the address, and the certificate that TLS verified; no header counts;
- an IPv4 address is written as IPv4 however the socket reports it; a Unix socket has the address "".
"""

from __future__ import annotations

from typing import Any

from agw.security.contract import Found, Request, SecurityHost, Verdict

_MAPPED = "::ffff:"


class Source:
    """The step."""

    __slots__ = ()

    def check(self, request: Request, found: Found) -> Verdict:
        """Fill `source`. Never refuses."""
        source: dict[str, Any] = {"address": address_of(request.peer)}
        certificate = request.certificate
        if certificate is not None:
            from agw.security.x509_identity import read_certificate  # only callers with a certificate pay for it

            identity = read_certificate(certificate)
            if identity is not None:
                source.update(identity.source())
        found.claims["source"] = source
        return None


def address_of(peer: bytes) -> str:
    """An address without zone, IPv4 in its own form; "" for what is none."""
    text = peer.decode("ascii", "replace").partition("%")[0].lower()
    if text.startswith(_MAPPED) and "." in text:
        return text[len(_MAPPED) :]
    return text if text[:1] in "0123456789abcdef:" and ("." in text or ":" in text) else ""


def factory(plan: object, host: SecurityHost) -> Source:
    """The step that knows where requests come from; it has no plan of its own."""
    return Source()
