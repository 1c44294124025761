"""Key sets: what each key may be used for, and which are left out."""

from __future__ import annotations

import json
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from agw.security.jwks import MAX_KEYS, KeySet, UnusableSet, parse_jwks
from tests.kits.tokens import Signer, b64, b64_int, jwks, signer

DATA = b"some octets"
KINDS = {
    "rsa": {"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"},
    "P-256": {"ES256"},
    "P-384": {"ES384"},
    "P-521": {"ES512"},
    "Ed25519": {"EdDSA", "Ed25519"},
    "Ed448": {"EdDSA", "Ed448"},
    "oct": {"HS256", "HS384", "HS512"},
}


def parsed(*keys: dict[str, Any], symmetric: bool = True) -> KeySet:
    return parse_jwks(json.dumps({"keys": list(keys)}), symmetric)


def leaves_out(key: dict[str, Any]) -> bool:
    return parsed(key, signer("P-256", "good").jwk).skipped == 1


@pytest.mark.parametrize("kind", KINDS)
def test_the_key_says_which_algorithms(kind: str) -> None:
    key = parsed(signer(kind).jwk).keys[0]
    assert key.verify.keys() == KINDS[kind]
    for alg, verify in key.verify.items():
        signature = signer(kind).signature(DATA, alg)
        assert verify(signature, DATA)
        assert not verify(signature, DATA + b"x")
        assert not verify(signature + b"\0", DATA)
        assert not verify(signature[:-1], DATA)
        assert not verify(b"", DATA)
        assert not verify(bytes(len(signature)), DATA)


@pytest.mark.parametrize(
    ("kind", "alg", "left"),
    [("rsa", "RS256", {"RS256"}), ("rsa", "PS512", {"PS512"}), ("P-256", "ES256", {"ES256"}), ("Ed25519", "EdDSA", {"EdDSA", "Ed25519"}),
     ("Ed25519", "Ed25519", {"EdDSA", "Ed25519"}), ("oct", "HS256", {"HS256"})],
)  # fmt: skip
def test_alg_of_the_key_pins_it(kind: str, alg: str, left: set[str]) -> None:
    assert parsed({**signer(kind).jwk, "alg": alg}).keys[0].verify.keys() == left


@pytest.mark.parametrize(
    "change",
    [{"use": "enc"}, {"alg": "RSA-OAEP"}, {"alg": "none"}, {"alg": "HS256"}, {"alg": ["RS256"]}, {"key_ops": ["sign"]}, {"key_ops": "verify"}, {"kid": 1},
     {"kty": "AKP"}, {"kty": None}, {"n": "AQAB"}, {"n": "!"}, {"n": 1}, {"e": "Ag"}, {"e": "AQ"}, {"e": b64_int(2**40 + 1)}, {"n": b64(b"\xff" * 2000)}],
)  # fmt: skip
def test_rsa_keys_left_out(change: dict[str, Any]) -> None:
    assert leaves_out({**signer("rsa").jwk, **change})


def test_other_keys_left_out() -> None:
    assert leaves_out(Signer("rsa1024").jwk)
    point = signer("P-256").jwk
    assert leaves_out({**point, "crv": "secp256k1"})
    assert leaves_out({**point, "crv": "P-384"})
    assert leaves_out({**point, "x": point["y"]}), "not on the curve"
    assert leaves_out({**point, "y": "AA"})
    assert leaves_out({**signer("Ed25519").jwk, "crv": "X25519"})
    assert leaves_out({**signer("Ed25519").jwk, "x": "AA"})
    assert leaves_out({"kty": "oct", "k": b64(b"short")})
    pem = signer("rsa").private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    assert leaves_out({"kty": "oct", "k": b64(pem)}), "a public key as a secret: HS/RS confusion"


def test_short_secrets_serve_short_hashes_only() -> None:
    assert parsed({"kty": "oct", "k": b64(b"x" * 32)}).keys[0].verify.keys() == {"HS256"}


def test_fetched_sets_have_no_secrets() -> None:
    assert parse_jwks(jwks(signer("oct"), signer("P-256"))).skipped == 1
    with pytest.raises(UnusableSet):
        parse_jwks(jwks(signer("oct")))


@pytest.mark.parametrize(
    "text",
    ["", "x", "[]", "1", "[" * 100_000, '{"keys":[]}', '{"keys":{}}', '{"keys":[1]}', '{"keys":null}', json.dumps({"keys": [{}] * (MAX_KEYS + 1)}),
     " " * (1024 * 1024 + 1)],
    ids=lambda text: text[:12],
)  # fmt: skip
def test_unusable_sets(text: str) -> None:
    with pytest.raises(UnusableSet):
        parse_jwks(text)


def test_look_up_by_exact_id() -> None:
    keys = parsed(signer("rsa", "a").jwk, signer("P-256", "a").jwk, signer("P-256", "b").jwk, signer("P-384", None).jwk)
    assert [len(keys.known(kid)) for kid in ("a", "b", "A", "a ", "", "c")] == [2, 1, 0, 0, 0, 0]
    assert len(keys.keys) == 4
    assert len(keys.identities()) == 4


def test_one_key_alone_is_a_set() -> None:
    assert len(parse_jwks(json.dumps(signer("P-256").jwk)).keys) == 1
