"""`backendAuth.jwtSign`: what is signed, with which keys, and how often."""

from __future__ import annotations

import asyncio
from functools import cache
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, NoEncryption, PrivateFormat

from agw.runtime.plan_security import BackendAuthPlan, JwtSign, LocationPlan
from agw.security.upstream import make
from agw.security.upstream.sign import Signer
from agw.security.upstream.source import CredentialError, Presented
from tests.kits.external import FakeRequest, Host, compile_python


class Caller:
    """Who calls."""

    def __init__(self, claims: dict[str, Any] | None = None) -> None:
        self.key = b"k" * 16
        self.token = b""
        self.claims = claims or {}


@cache
def key_for(alg: str) -> Any:
    if alg.startswith("ES"):
        return ec.generate_private_key(ec.SECP256R1() if alg == "ES256" else ec.SECP384R1())
    return rsa.generate_private_key(65537, 2048)


def pem(key: Any) -> str:
    return str(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode())


def token_of(presented: Presented) -> str:
    line = presented.lines.decode()
    assert line.startswith("authorization: Bearer ")
    return line.removeprefix("authorization: Bearer ").removesuffix("\r\n")


def source(alg: str = "ES256", claims: dict[str, str] | None = None, **fields: Any) -> Any:
    return make(BackendAuthPlan([JwtSign(pem(key_for(alg)), alg, claims=claims or {}, **fields)]), Host(), compile_python)


@pytest.mark.parametrize("alg", ["RS256", "RS384", "RS512", "PS256", "ES256", "ES384"])
def test_others_verify_what_is_signed(alg: str) -> None:
    made = source(alg, {"iss": '"me"', "aud": '["x"]', "n": "1", "deep": '{"a": null}', "q": "'single'"}, kid="k1", ttl_s=120)
    assert made.ready(None, None) is None
    token = token_of(asyncio.run(made.fetch(None, None)))
    claims = jwt.decode(token, key_for(alg).public_key(), algorithms=[alg], audience="x", issuer="me")
    assert claims.pop("exp") - claims.pop("iat") == 120
    assert claims == {"iss": "me", "aud": ["x"], "n": 1, "deep": {"a": None}, "q": "single"}
    assert jwt.get_unverified_header(token) == {"alg": alg, "typ": "JWT", "kid": "k1"}


def test_a_token_is_used_again_for_who_says_the_same() -> None:
    made = source(claims={"sub": "claims['jwt']['sub']", "path": "request.path.decode()"})

    async def work() -> None:
        alice, bob = Caller({"jwt": {"sub": "alice"}}), Caller({"jwt": {"sub": "bob"}})
        first = await made.fetch(alice, FakeRequest(path=b"/a"))
        assert made.ready(alice, FakeRequest(path=b"/a")) == first
        assert made.ready(bob, FakeRequest(path=b"/a")) is None
        assert made.ready(alice, FakeRequest(path=b"/b")) is None
        second = await made.fetch(bob, FakeRequest(path=b"/a"))
        assert jwt.decode(token_of(second), key_for("ES256").public_key(), algorithms=["ES256"])["sub"] == "bob"
        made.invalidate(alice, FakeRequest(path=b"/a"))
        assert made.ready(alice, FakeRequest(path=b"/a")) == first, "it was made just now"

    asyncio.run(work())


@pytest.mark.parametrize("expression", ["claims['jwt']['none']", "float('nan') + 0", "object()", "'x' * 5000 + ''", "b'\\xff' + b''"])
def test_a_claim_without_a_value_is_no_request(expression: str) -> None:
    made = source(claims={"sub": expression})
    with pytest.raises(CredentialError) as caught:
        made.ready(Caller(), FakeRequest())
    assert caught.value.kind == "missing"
    made.invalidate(Caller(), FakeRequest())


def test_the_token_stands_where_the_plan_says() -> None:
    made = source(location=LocationPlan("cookie", "t", ""))
    assert asyncio.run(made.fetch(None, None)).cookie.startswith(b"t=ey")


def test_an_expression_needs_an_engine() -> None:
    with pytest.raises(ValueError, match="only text constants"):
        make(BackendAuthPlan([JwtSign(pem(key_for("ES256")), "ES256", claims={"sub": "jwt.sub"})]), Host())


@pytest.mark.parametrize(
    ("text", "alg"),
    [
        ("", "RS256"), ("s3cr", "RS256"), ("-----BEGIN PRIVATE KEY-----\ns3cr\n-----END PRIVATE KEY-----\n", "RS256"), ("\ud800", "RS256"),
        (pem(key_for("ES256")), "RS256"), (pem(key_for("RS256")), "ES256"), (pem(key_for("ES384")), "ES256"), (pem(key_for("RS256")), "none"),
        (pem(key_for("RS256")), "HS256"), (pem(Ed25519PrivateKey.generate()), "ES256"), (pem(rsa.generate_private_key(65537, 1024)), "RS256"),
        (key_for("ES256").private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"x")).decode(), "ES256"),
    ],
    ids=range(12),
)  # fmt: skip
def test_a_key_that_does_not_fit_is_refused_without_showing_it(text: str, alg: str) -> None:
    with pytest.raises(ValueError, match=r"key|algorithm") as caught:
        Signer(text, alg)
    assert "s3cr" not in str(caught.value)
