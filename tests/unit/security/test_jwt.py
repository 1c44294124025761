"""`jwtAuth`: which tokens let in, what is learned from them, and what is said to whom about the others."""

from __future__ import annotations

import json
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from agw._fast.forward import REASONS
from agw.runtime.plan_security import JwtPlan, JwtProviderPlan, LocationPlan, Mode
from agw.security.contract import JWT_AUTH, Found, Refusal
from agw.security.jwt import JwtAuth, Unavailable, Verified
from tests.kits.tokens import ISSUER, NOW, Asked, Host, Signer, at_once, b64, bearer, jwks, key_of, sha256, signer

KEYS = jwks(signer("rsa"), signer("P-256", "ec"), signer("Ed25519", "ed"), signer("rsa", None))


def step(mode: Mode = "strict", host: Host | None = None, parameters: str = "", location: LocationPlan | None = None, **provider: Any) -> JwtAuth:
    plan = JwtProviderPlan(**{"issuer": ISSUER, "audiences": ["gateway", "other"], "jwks": KEYS, **provider})
    return JwtAuth(JwtPlan([plan], mode, location or LocationPlan()), host or Host(), parameters, lambda: NOW)


def checked(token: bytes, **provider: Any) -> tuple[Refusal | None, Found]:
    found = Found()
    return at_once(step(**provider).check(bearer(token), found)), found


def cause(token: bytes, **provider: Any) -> str:
    refusal, found = checked(token, **provider)
    assert refusal is not None, "it was let in"
    assert (refusal.status, refusal.reason, refusal.message) == (401, JWT_AUTH, b"the credential is not valid")
    assert refusal.lines == b'WWW-Authenticate: Bearer error="invalid_token"\r\n'
    assert (found.claims, found.key(), found.token) == ({}, b"", b"")
    return refusal.cause


# ------------------------------------------------------------------------------------------------------------- good


@pytest.mark.parametrize(
    ("kind", "kid", "alg"),
    [("rsa", "k1", alg) for alg in ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512")]
    + [("P-256", "ec", "ES256"), ("Ed25519", "ed", "EdDSA"), ("Ed25519", "ed", "Ed25519"), ("P-384", "x", "ES384"),
       ("P-521", "x", "ES512"), ("Ed448", "x", "Ed448"), ("oct", "x", "HS256")],
)  # fmt: skip
def test_every_algorithm(kind: str, kid: str, alg: str) -> None:
    keys = KEYS if kid != "x" else jwks(signer(kind, kid))
    refusal, found = checked(signer(kind, kid).token(alg=alg), jwks=keys)
    assert refusal is None
    assert found.claims["jwt"]["sub"] == "alice"


def test_what_is_learned() -> None:
    token = signer("rsa").token(aud=["x", "gateway"], nested={"key": "value"})
    host = Host()
    found = Found()
    assert step(host=host).check(bearer(token), found) is None
    assert found.claims["jwt"] == json.loads(json.dumps(found.claims["jwt"]))
    assert found.claims["jwt"]["nested"] == {"key": "value"}
    assert found.key() == key_of("jwt", ISSUER, "alice")
    assert (found.expires, found.token, found.scopes, found.lasting) == (NOW + 300 + 60, token, {"read", "write"}, True)
    assert found.log_fields == b',"jwt.sub":"alice"'
    assert host.counted == [("jwt", "ok")]
    assert REASONS[JWT_AUTH] == "JwtAuth"


@pytest.mark.parametrize(
    ("claims", "scopes"),
    [({"scope": None}, set()), ({"scope": "a  b"}, {"a", "b"}), ({"scope": None, "scp": ["a", 1, "b"]}, {"a", "b"}),
     ({"scope": "a", "scp": "b"}, {"a", "b"}), ({"scope": 1}, set())],
)  # fmt: skip
def test_scopes(claims: dict[str, Any], scopes: set[str]) -> None:
    assert checked(signer("rsa").token(**claims))[1].scopes == scopes


def test_who_has_no_subject_is_the_client_or_only_this_token() -> None:
    _, client = checked(signer("rsa").token(sub=None, client_id="c"))
    assert client.key() == key_of("jwt-client", ISSUER, "c")
    one, other = signer("rsa").token(sub=None), signer("rsa").token(sub=None, jti="2")
    assert checked(one)[1].key() == key_of("jwt-token", ISSUER, sha256(one.decode()))
    assert checked(one)[1].key() != checked(other)[1].key()


def test_the_log_field_is_bounded_and_cannot_forge() -> None:
    _, found = checked(signer("rsa").token(sub='a","x":"' + "\u00e9" * 400))
    fields = json.loads("{" + found.log_fields.decode("ascii")[1:] + "}")
    assert list(fields) == ["jwt.sub"]
    assert len(fields["jwt.sub"]) == 256


def test_tokens_without_id_are_tried_with_the_keys_made_for_the_algorithm() -> None:
    assert checked(signer("P-256", "ec").token(header={"alg": "ES256"}))[0] is None
    strangers = jwks(*(signer("P-256", f"k{i}") for i in range(8)), signer("P-256", "ec"))
    assert cause(signer("P-256", "ec").token(header={"alg": "ES256"}), jwks=strangers) == "jwt: no key without id verifies the signature"


def test_times_within_the_leeway() -> None:
    assert checked(signer("rsa").token(exp=NOW - 59))[0] is None
    assert checked(signer("rsa").token(nbf=NOW + 59, iat=NOW + 59.5))[0] is None


def test_several_issuers_have_their_own_keys() -> None:
    plans = [JwtProviderPlan("a", jwks=jwks(signer("P-256", "k"))), JwtProviderPlan("b", jwks=jwks(signer("P-384", "k")))]
    both = JwtAuth(JwtPlan(plans), Host(), clock=lambda: NOW)
    for kind, issuer, good in (("P-256", "a", True), ("P-384", "b", True), ("P-256", "b", False), ("P-384", "a", False), ("P-256", "c", False)):
        found = Found()
        verdict = at_once(both.check(bearer(signer(kind, "k").token(iss=issuer)), found))
        assert (verdict is None) == good
        assert bool(found.claims) == good


# -------------------------------------------------------------------------------------------------------------- bad


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"exp": None}, "the claim exp is missing"),
        ({"exp": str(NOW + 300)}, "exp is no number"),
        ({"exp": True}, "exp is no number"),
        ({"exp": [NOW + 300]}, "exp is no number"),
        ({"exp": -1}, "exp is no number"),
        ({"exp": -0.5}, "exp is no number"),
        ({"exp": 10**12}, "exp is no number"),
        ({"exp": 10**300}, "exp is no number"),
        ({"exp": 1e300}, "exp is no number"),
        ({"exp": NOW - 60}, "expired"),
        ({"exp": 0}, "expired"),
        ({"nbf": NOW + 61}, "not valid yet"),
        ({"nbf": "soon"}, "nbf is no number"),
        ({"iat": NOW + 61}, "issued in the future"),
        ({"iat": "now"}, "iat is no number"),
        ({"iat": -5}, "iat is no number"),
        ({"iss": None}, "another issuer"),
        ({"iss": ISSUER + "/"}, "another issuer"),
        ({"iss": ISSUER.upper()}, "another issuer"),
        ({"iss": [ISSUER]}, "another issuer"),
        ({"aud": None}, "another audience"),
        ({"aud": "Gateway"}, "another audience"),
        ({"aud": "gatewa"}, "another audience"),
        ({"aud": []}, "another audience"),
        ({"aud": ["gateway", 1]}, "another audience"),
        ({"aud": {"gateway": 1}}, "another audience"),
        ({"sub": 1}, "the subject is no text"),
        ({"sub": ""}, "the subject is no text"),
        ({"sub": "a\r\nx-admin: 1"}, "the subject is no text"),
        ({"sub": "a\1basic\0root"}, "the subject is no text"),
        ({"sub": "a" * 1025}, "the subject is no text"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_claims_that_are_refused(changes: dict[str, Any], why: str) -> None:
    assert why in cause(signer("rsa").token(**changes))


def test_null_is_no_time() -> None:
    claims = json.dumps({"iss": ISSUER, "aud": "gateway", "exp": None})
    assert "exp is missing" in cause(signer("rsa").token(claims))
    assert "exp is no number" in cause(signer("rsa").token(claims), required_claims=[])


def test_required_claims() -> None:
    assert "the claim tenant is missing" in cause(signer("rsa").token(), required_claims=["exp", "tenant"])
    assert checked(signer("rsa").token(tenant="t"), required_claims=["exp", "tenant"])[0] is None
    refusal, found = checked(signer("rsa").token(exp=None), required_claims=[])
    assert (refusal, found.expires) == (None, float("inf"))


@pytest.mark.parametrize("alg", ["none", "None", "NONE", "HS256", "HS512", "RS1", "ES256", "EdDSA", "RS256 ", "rs256", "ES256K", "A128KW"])
def test_an_algorithm_the_key_is_not_made_for(alg: str) -> None:
    good = signer("rsa").token()
    header = b64(json.dumps({"alg": alg, "kid": "k1"}).encode()).encode()
    assert "not made for the algorithm" in cause(b".".join((header, *good.split(b".")[1:])))


def test_a_public_key_is_no_secret() -> None:
    """HS/RS confusion (CVE-2022-29217): a token made with the octets of the public key, in all forms they go around in."""
    public = signer("rsa").private.public_key()
    for secret in (
        public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo),
        public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
        json.dumps(signer("rsa").jwk).encode(),
    ):
        forger = Signer("oct")
        forger.private = secret
        assert "not made for the algorithm" in cause(forger.token(alg="HS256"))
        assert "no key without id" in cause(forger.token(header={"alg": "HS256"}))


def test_the_configuration_narrows_the_algorithms() -> None:
    assert "not one the configuration allows" in cause(signer("rsa").token(alg="RS256"), algorithms=["PS256"])
    assert checked(signer("rsa").token(alg="PS256"), algorithms=["PS256"])[0] is None
    pinned = jwks(Signer("rsa", alg="RS256"))
    assert "not made for the algorithm" in cause(signer("rsa").token(alg="PS256"), jwks=pinned)


@pytest.mark.parametrize("kid", ["../../../dev/null", "K1", "k1 ", "k1\0", "k1' OR '1'='1", "k1|cat /etc/passwd", "https://attacker.example/key"])
def test_a_key_id_is_only_compared(kid: str) -> None:
    assert cause(signer("rsa").token(header={"alg": "RS256", "kid": kid})) == "jwt: the key id is unknown"


def test_a_forged_signature() -> None:
    assert cause(Signer("rsa").token()) == "jwt: the signature does not hold"
    zeros = signer("P-256", "ec").token().rpartition(b".")[0] + b"." + b64(bytes(64)).encode()
    assert cause(zeros) == "jwt: the signature does not hold"  # CVE-2022-21449


def test_changed_claims() -> None:
    head, _, signature = signer("rsa").token().split(b".")
    other = signer("rsa").token(sub="root").split(b".")[1]
    assert cause(b".".join((head, other, signature))) == "jwt: the signature does not hold"


def test_no_fetch_for_a_key_in_the_token() -> None:
    host = Host()
    attacker = Signer("rsa", "mine")
    for header in ({"jwk": attacker.jwk}, {"jku": "https://attacker.example"}, {"x5u": "https://attacker.example"}):
        refusal = at_once(step(host=host).check(bearer(attacker.token(header={"alg": "RS256", **header})), Found()))
        assert refusal is not None
    assert host.documents.wanted == 0
    refusal, _ = checked(attacker.token(header={"alg": "RS256", "kid": "k1", "x5c": ["AAAA"]}))
    assert refusal is not None


# ----------------------------------------------------------------------------------------------------------- verdicts


def test_modes() -> None:
    bad = bearer(b"x.y.z")
    none = Asked()
    outcome = {}
    for mode in ("strict", "optional", "permissive"):
        host = Host()
        one = step(mode, host)
        outcome[mode] = (at_once(one.check(none, Found())) is None, at_once(one.check(bad, Found())) is None, [result for _, result in host.counted])
    assert outcome == {
        "strict": (False, False, ["missing", "refused"]),
        "optional": (True, False, ["none", "refused"]),
        "permissive": (True, True, ["none", "ignored"]),
    }


def test_who_brings_nothing_is_told_how_and_not_that_it_was_wrong() -> None:
    refusal = at_once(step().check(Asked(), Found()))
    assert refusal is not None
    assert (refusal.status, refusal.lines) == (401, b"WWW-Authenticate: Bearer\r\n")
    refusal = at_once(step(parameters='resource_metadata="https://a.example/x"').check(bearer(b"x"), Found()))
    assert refusal is not None
    assert refusal.lines == b'WWW-Authenticate: Bearer resource_metadata="https://a.example/x", error="invalid_token"\r\n'


def test_two_authorization_headers() -> None:
    token = signer("rsa").token()
    twice = Asked([(b"authorization", b"Bearer " + token), (b"authorization", b"Bearer " + token)])
    for mode in ("strict", "optional"):
        refusal = at_once(step(mode).check(twice, Found()))
        assert refusal is not None
        assert "more than once" in refusal.cause


def test_other_places() -> None:
    token = signer("rsa").token()
    assert step(location=LocationPlan("query", "t", "")).check(Asked(query=b"t=" + token), Found()) is None
    assert step(location=LocationPlan("cookie", "t", "")).check(Asked([(b"cookie", b"t=" + token)]), Found()) is None
    refusal = at_once(step(location=LocationPlan("header", "x-token", "")).check(bearer(token), Found()))
    assert refusal is not None
    assert refusal.lines.startswith(b"WWW-Authenticate: ")


def test_neither_token_nor_keys_are_in_the_refusal() -> None:
    token = Signer("rsa").token()
    refusal, _ = checked(token)
    assert token.decode()[:20] not in repr(refusal)


def test_an_id_token_without_a_request() -> None:
    verifier = step().verifier
    outcome = verifier.verify(signer("rsa").token())
    assert isinstance(outcome, Verified)
    assert outcome.issuer == ISSUER
    assert not isinstance(verifier.verify(b"x"), Verified | Unavailable)


ONE = step()
CLAIM = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.lists(st.text(max_size=3), max_size=2) | st.just({"a": 1})


@given(st.dictionaries(st.sampled_from(("iss", "sub", "aud", "exp", "nbf", "iat", "scope", "scp", "client_id", "azp")), CLAIM))
def test_signed_claims_of_any_kind_end_in_a_verdict(claims: dict[str, Any]) -> None:
    text = json.dumps({"iss": ISSUER, "aud": "gateway", "exp": NOW + 1, **claims})
    found = Found()
    verdict = ONE.check(bearer(signer("P-256", "ec").token(text)), found)
    assert verdict is None or isinstance(verdict, Refusal)
    assert (verdict is None) == bool(found.key())
