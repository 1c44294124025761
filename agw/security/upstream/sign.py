"""Signatures of agw itself: compact JWS with a private key.

Rules:
- a key is read once and must fit its algorithm; RSA keys have 2048 to 8192 bits;
- an RSA signature takes up to some milliseconds: whoever runs on the loop calls `token` on a thread.

Sources: RFC 7515, RFC 7518 section 3, RFC 7519.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from typing import Any

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import load_pem_private_key

_RSA: dict[str, Callable[[], hashes.HashAlgorithm]] = {"RS256": hashes.SHA256, "RS384": hashes.SHA384, "RS512": hashes.SHA512, "PS256": hashes.SHA256}
_EC: dict[str, tuple[type[ec.EllipticCurve], type[hashes.HashAlgorithm], int]] = {
    "ES256": (ec.SECP256R1, hashes.SHA256, 32), "ES384": (ec.SECP384R1, hashes.SHA384, 48),
}  # fmt: skip


class Signer:
    """A private key with its algorithm."""

    __slots__ = ("_sign", "alg", "kid")

    def __init__(self, pem: str, alg: str, kid: str = "") -> None:
        """Errors: ValueError when the text is no private key, or not one for `alg`."""
        self.alg = alg
        self.kid = kid
        try:
            key = load_pem_private_key(pem.encode("utf-8"), None)
        except (ValueError, TypeError, UnsupportedAlgorithm, UnicodeEncodeError):
            raise ValueError("no private key in PEM form without passphrase") from None
        self._sign: Callable[[bytes], bytes]
        if alg in _RSA:
            if not isinstance(key, rsa.RSAPrivateKey) or not 2048 <= key.key_size <= 8192:
                raise ValueError(f"{alg} needs an RSA key of 2048 to 8192 bits")
            self._sign = _rsa_signature(key, alg)
        elif alg in _EC:
            curve = _EC[alg][0]
            if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, curve):
                raise ValueError(f"{alg} needs an EC key of the curve {curve.name}")
            self._sign = _ec_signature(key, alg)
        else:
            raise ValueError("no such signature algorithm")

    def token(self, claims: dict[str, Any]) -> bytes:
        """A signed JWT. Blocks for up to some milliseconds with RSA. Errors: ValueError for claims that are no JSON."""
        header = {"alg": self.alg, "typ": "JWT"} | ({"kid": self.kid} if self.kid else {})
        signed = _part(header) + b"." + _part(claims)
        return signed + b"." + _base64(self._sign(signed))


def _rsa_signature(key: rsa.RSAPrivateKey, alg: str) -> Callable[[bytes], bytes]:
    kind = _RSA[alg]()
    pad = padding.PSS(padding.MGF1(kind), kind.digest_size) if alg == "PS256" else padding.PKCS1v15()
    return lambda octets: key.sign(octets, pad, kind)


def _ec_signature(key: ec.EllipticCurvePrivateKey, alg: str) -> Callable[[bytes], bytes]:
    _, kind, size = _EC[alg]

    def sign(octets: bytes) -> bytes:
        r, s = decode_dss_signature(key.sign(octets, ec.ECDSA(kind())))
        return r.to_bytes(size, "big") + s.to_bytes(size, "big")

    return sign


def _part(value: dict[str, Any]) -> bytes:
    try:
        return _base64(json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode("utf-8"))
    except (TypeError, ValueError, RecursionError):
        raise ValueError("a claim is no JSON value") from None


def _base64(octets: bytes) -> bytes:
    return base64.urlsafe_b64encode(octets).rstrip(b"=")
