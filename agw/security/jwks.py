"""JSON Web Key Sets (RFC 7517) to keys that verify, and what each may be used for (RFC 7518, RFC 8037, RFC 9864).

Rules:
- the key says by which algorithms it is used: its `alg`, else what its type and curve allow; a token only chooses among those;
- a key that is weak, damaged, for encryption or of unknown kind is left out; a set without a key left is unusable;
- symmetric keys are taken only from where secrets may stand: never from a document that was fetched;
- a set never changes; another document makes another set.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import json
import re
from collections.abc import Callable
from functools import lru_cache
from typing import Any

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.ed448 import Ed448PublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

MAX_KEYS = 100
MAX_SET = 1024 * 1024
"""Octets of the JSON text."""
MAX_TRIED = 8
"""Keys that one token is tried with."""
MIN_RSA, MAX_RSA = 2048, 8192

Verify = Callable[[bytes, bytes], bool]
"""(signature, signed octets) -> does it hold?"""

_HASHES: dict[str, Callable[[], hashes.HashAlgorithm]] = {"256": hashes.SHA256, "384": hashes.SHA384, "512": hashes.SHA512}
_RSA = frozenset(("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"))
_CURVES: dict[str, tuple[Callable[[], ec.EllipticCurve], str, int]] = {
    "P-256": (ec.SECP256R1, "ES256", 32),
    "P-384": (ec.SECP384R1, "ES384", 48),
    "P-521": (ec.SECP521R1, "ES512", 66),
}
_EDWARDS: dict[str, tuple[Any, int]] = {"Ed25519": (Ed25519PublicKey, 32), "Ed448": (Ed448PublicKey, 57)}
_OCT = {"HS256": 32, "HS384": 48, "HS512": 64}  # RFC 7518, 3.2: a key is at least as long as the hash
ALGORITHMS = frozenset((*_RSA, "ES256", "ES384", "ES512", "EdDSA", "Ed25519", "Ed448", *_OCT))
"""Every algorithm a token can be signed with here; `none` is not one."""
_BASE64URL = re.compile(r"[A-Za-z0-9_-]*")


class UnusableSet(ValueError):
    """No key set, or none with a usable key; the text says why, without octets of keys."""


class Key:
    """One key: its id (None when it has none) and a verification per algorithm it may be used for."""

    __slots__ = ("identity", "kid", "verify")

    def __init__(self, kid: str | None, verify: dict[str, Verify], identity: bytes) -> None:
        self.kid = kid
        self.verify = verify
        self.identity = identity
        """Equal for equal keys of equal use: tells whether a key of the old set is in the new one."""


class KeySet:
    """Keys by id, immutable. `skipped` counts the keys that were left out."""

    __slots__ = ("_by_kid", "keys", "skipped")

    def __init__(self, keys: list[Key], skipped: int = 0) -> None:
        self.keys = tuple(keys)
        self.skipped = skipped
        by_kid: dict[str, tuple[Key, ...]] = {}
        for key in keys:
            if key.kid is not None:
                by_kid[key.kid] = (*by_kid.get(key.kid, ()), key)
        self._by_kid = by_kid

    def known(self, kid: str) -> tuple[Key, ...]:
        """The keys of exactly this id, () for an unknown one."""
        return self._by_kid.get(kid, ())

    def identities(self) -> frozenset[bytes]:
        """What all keys are, to compare two sets."""
        return frozenset(key.identity for key in self.keys)


@lru_cache(maxsize=64)
def parse_jwks(text: str | bytes, symmetric: bool = False) -> KeySet:
    """The keys of a set, or of a single JWK. `symmetric`: keys of kty oct count. Raises UnusableSet."""
    if len(text) > MAX_SET:
        raise UnusableSet(f"the key set is larger than {MAX_SET >> 20} MiB")
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        raise UnusableSet("the key set is not JSON") from None
    items = document.get("keys") if isinstance(document, dict) and "keys" in document else [document]
    if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
        raise UnusableSet('not a key set; it looks like {"keys": [{"kty": ...}]}')
    if len(items) > MAX_KEYS:
        raise UnusableSet(f"more than {MAX_KEYS} keys in one set")
    keys = [key for key in (_key(item, symmetric) for item in items) if key is not None]
    if not keys:
        raise UnusableSet(f"none of the {len(items)} keys can verify a signature (RSA from 2048 bits, EC P-256, P-384, P-521, Ed25519, Ed448)")
    return KeySet(keys, len(items) - len(keys))


def _key(jwk: dict[str, Any], symmetric: bool) -> Key | None:
    use, operations, kid = jwk.get("use", "sig"), jwk.get("key_ops"), jwk.get("kid")
    if use != "sig" or (operations is not None and not (isinstance(operations, list) and "verify" in operations)):
        return None
    if kid is not None and not isinstance(kid, str):
        return None
    make = {"RSA": _rsa, "EC": _ec, "OKP": _okp, "oct": _oct if symmetric else None}.get(str(jwk.get("kty")))
    if make is None:
        return None
    try:
        verify = make(jwk)
    except (ValueError, TypeError, KeyError, UnsupportedAlgorithm):
        return None
    alg = jwk.get("alg")
    if alg is not None and not isinstance(alg, str):
        return None
    if alg is not None:
        # EdDSA is the older, common name of both Edwards algorithms.
        same = {"EdDSA", "Ed25519", "Ed448"} if alg in ("EdDSA", "Ed25519", "Ed448") else {alg}
        verify = {name: check for name, check in verify.items() if name in same}
    if not verify:
        return None
    identity = json.dumps([kid, sorted(verify), {name: jwk.get(name) for name in ("kty", "crv", "n", "e", "x", "y", "k")}], sort_keys=True)
    return Key(kid, verify, hmac.digest(b"agw key", identity.encode("utf-8", "surrogatepass"), "sha256"))


def _octets(jwk: dict[str, Any], name: str) -> bytes:
    text = jwk[name]
    if not isinstance(text, str) or len(text) > 4096 or not _BASE64URL.fullmatch(text):
        raise ValueError(name)
    try:
        return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except binascii.Error:
        raise ValueError(name) from None


def _rsa(jwk: dict[str, Any]) -> dict[str, Verify]:
    n, e = (int.from_bytes(_octets(jwk, name), "big") for name in ("n", "e"))
    if not MIN_RSA <= n.bit_length() <= MAX_RSA or not 3 <= e < 1 << 32:
        raise ValueError("size")
    public = rsa.RSAPublicNumbers(e, n).public_key()
    return {alg: _rsa_verify(public, alg) for alg in _RSA}


def _rsa_verify(public: rsa.RSAPublicKey, alg: str) -> Verify:
    algorithm = _HASHES[alg[2:]]()
    pad: padding.AsymmetricPadding = padding.PKCS1v15()
    if alg.startswith("PS"):
        pad = padding.PSS(padding.MGF1(algorithm), algorithm.digest_size)
    size = public.key_size + 7 >> 3

    def verify(signature: bytes, signed: bytes) -> bool:
        if len(signature) != size:
            return False
        try:
            public.verify(signature, signed, pad, algorithm)
        except InvalidSignature:
            return False
        return True

    return verify


def _ec(jwk: dict[str, Any]) -> dict[str, Verify]:
    curve, alg, size = _CURVES[jwk["crv"]]
    x, y = (_octets(jwk, name) for name in ("x", "y"))
    if len(x) != size or len(y) != size:
        raise ValueError("size")
    public = ec.EllipticCurvePublicNumbers(int.from_bytes(x, "big"), int.from_bytes(y, "big"), curve()).public_key()
    algorithm = ec.ECDSA(_HASHES[alg[2:]]())

    def verify(signature: bytes, signed: bytes) -> bool:
        if len(signature) != 2 * size:
            return False
        r, s = int.from_bytes(signature[:size], "big"), int.from_bytes(signature[size:], "big")
        if not r or not s:
            return False  # CVE-2022-21449: zeros hold for every message where nobody looks
        try:
            public.verify(encode_dss_signature(r, s), signed, algorithm)
        except InvalidSignature:
            return False
        return True

    return {alg: verify}


def _okp(jwk: dict[str, Any]) -> dict[str, Verify]:
    kind, size = _EDWARDS[jwk["crv"]]
    x = _octets(jwk, "x")
    if len(x) != size:
        raise ValueError("size")
    public: Ed25519PublicKey | Ed448PublicKey = kind.from_public_bytes(x)

    def verify(signature: bytes, signed: bytes) -> bool:
        try:
            public.verify(signature, signed)
        except InvalidSignature:
            return False
        return True

    return {"EdDSA": verify, jwk["crv"]: verify}


def _oct(jwk: dict[str, Any]) -> dict[str, Verify]:
    secret = _octets(jwk, "k")
    if secret.lstrip()[:10] == b"-----BEGIN":
        raise ValueError("a public key as a secret")  # what everybody knows would sign tokens
    return {alg: _hmac_verify(secret, f"sha{alg[2:]}") for alg, size in _OCT.items() if len(secret) >= size}


def _hmac_verify(secret: bytes, name: str) -> Verify:
    def verify(signature: bytes, signed: bytes) -> bool:
        return hmac.compare_digest(hmac.digest(secret, signed, name), signature)

    return verify
