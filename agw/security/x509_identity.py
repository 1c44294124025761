"""What a client's certificate says about its holder (RFC 5280, SPIFFE X.509-SVID).

Rules:
- only certificates that TLS has verified come here; what they claim is believed because their CA is;
- a SPIFFE id counts when it is the certificate's one URI name (SPIFFE X.509-SVID, 2);
- a certificate is read once; what was read is kept by its SHA-256, at most MAX_KEPT.
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple

from cryptography import x509
from cryptography.x509.oid import NameOID

from agw.security.authentication import Remembered, digest

MAX_KEPT = 1024
MAX_CERTIFICATE = 64 * 1024
_SPIFFE = re.compile(r"spiffe://[a-z0-9._-]{1,255}(?:/[A-Za-z0-9._-]+)*")


class Identity(NamedTuple):
    """What a certificate says. `names` are its alternative names as text; `expires` is in seconds of time.time()."""

    issuer: str
    subject: str
    subject_cn: str
    names: list[str]
    spiffe_id: str
    serial: int
    expires: float

    def source(self) -> dict[str, Any]:
        """Its part of `source`, a fresh dict."""
        return {
            "issuer": self.issuer,
            "subject": self.subject,
            "subjectCn": self.subject_cn,
            "subjectAltNames": list(self.names),
            "spiffeId": self.spiffe_id,
        }


_kept: Remembered[Identity] = Remembered(MAX_KEPT)


def read_certificate(der: bytes) -> Identity | None:
    """What the certificate says, None when it cannot be read. 50 to 200 us, once per certificate."""
    if len(der) > MAX_CERTIFICATE:
        return None
    key = digest(der)
    identity = _kept.get(key)
    if identity is None:
        identity = _read(der)
        if identity is not None:
            _kept.put(key, identity, float("inf"))
    return identity


def _read(der: bytes) -> Identity | None:
    try:
        certificate = x509.load_der_x509_certificate(der)
        common = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
        names, uris = _alternative_names(certificate)
        spiffe = uris[0] if len(uris) == 1 and len(uris[0]) <= 1024 and _SPIFFE.fullmatch(uris[0]) else ""
        return Identity(
            certificate.issuer.rfc4514_string(),
            certificate.subject.rfc4514_string(),
            str(common[0].value) if common else "",
            names,
            spiffe,
            certificate.serial_number,
            certificate.not_valid_after_utc.timestamp(),
        )
    except (ValueError, TypeError, x509.DuplicateExtension):
        return None


def _alternative_names(certificate: x509.Certificate) -> tuple[list[str], list[str]]:
    """All alternative names that are text, and the URIs among them."""
    try:
        extension = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except x509.ExtensionNotFound:
        return [], []
    names: list[str] = []
    uris: list[str] = []
    for name in extension.value:
        if isinstance(name, x509.UniformResourceIdentifier):
            uris.append(name.value)
        if isinstance(name, x509.DNSName | x509.UniformResourceIdentifier | x509.RFC822Name | x509.IPAddress):
            names.append(str(name.value))
    return names, uris
