"""The principal of a client that shows a certificate and nothing else.

Rules:
- the step comes after all other authentication: who named the principal before is not contradicted;
- a SPIFFE id is the name; else issuer and subject; else issuer and serial number, for a certificate without subject;
- a gate remembers what requests show, and a certificate is not among it: what depends on one is decided anew each time.
"""

from __future__ import annotations

from agw.security.authentication import is_plain, log_field
from agw.security.contract import Found, Request, SecurityHost, Verdict


class CertificateName:
    """The step."""

    __slots__ = ()

    def check(self, request: Request, found: Found) -> Verdict:
        """Name the principal by the certificate when nothing else did. Never refuses: TLS has verified it."""
        der = request.certificate
        if der is None or found.parts:
            return None
        from agw.security.x509_identity import read_certificate  # only callers with a certificate pay for it

        identity = read_certificate(der)
        if identity is None:
            return None
        found.lasting = False
        found.expires = min(found.expires, identity.expires)
        if identity.spiffe_id:
            found.name("spiffe", identity.spiffe_id)
            found.log_fields += log_field("source.spiffeId", identity.spiffe_id)
        elif is_plain(identity.subject) and is_plain(identity.issuer):
            found.name("certificate", identity.issuer, identity.subject)
            found.log_fields += log_field("source.subject", identity.subject)
        elif is_plain(identity.issuer):
            found.name("certificate-serial", identity.issuer, f"{identity.serial:x}")
        return None


def factory(plan: object, host: SecurityHost) -> CertificateName:
    """The step that names principals by certificates; it has no plan of its own."""
    return CertificateName()
