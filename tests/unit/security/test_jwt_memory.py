"""Refused tokens are remembered for a while: the same one again costs no verification, and no good one is ever late."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from agw.runtime.plan_security import JwtProviderPlan
from agw.security import jwks as jwks_module
from agw.security import jwt as module
from agw.security.credentials_in import Malformed
from agw.security.jwt import MAX_REFUSED, REFUSED_FOR, TokenVerifier, Verified, Waiting
from tests.kits.tokens import ISSUER, NOW, Host, Signer, jwks, signer

URL = "https://issuer.example/jwks"
ONE = JwtProviderPlan(ISSUER, ["gateway"], jwks_url=URL)


class Clock:
    """Seconds, moved by the test."""

    def __init__(self) -> None:
        self.now = float(NOW)

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def work(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The tokens that were parsed, and the signatures that were looked at."""
    done: list[bytes] = []
    parse = module.parse
    monkeypatch.setattr(module, "parse", lambda token: done.append(token) or parse(token))  # type: ignore[func-returns-value]
    return done


def verifier_of(host: Host, *keys: Signer, clock: Clock | None = None) -> TokenVerifier:
    host.documents.publish(URL, jwks(*keys))
    return TokenVerifier([ONE], host, clock or Clock())


def cause(outcome: Any) -> str:
    assert isinstance(outcome, Malformed), outcome
    return outcome.cause


KEY, OTHER = signer("P-256", "a"), Signer("P-256", "a")


@pytest.mark.parametrize(
    "token", [OTHER.token(), KEY.token(exp=NOW - 1000), KEY.token(aud="other"), KEY.token(iss="x"), b"x.y.z", b"a" * 20_000, KEY.token(exp="x")],
    ids=["signature", "expired", "audience", "issuer", "form", "size", "type"],
)  # fmt: skip
def test_the_same_bad_token_is_looked_at_once(work: list[bytes], token: bytes) -> None:
    verifier = verifier_of(Host(), KEY)
    first = verifier.verify(token)
    for _ in range(5):
        assert verifier.verify(token) == first
    assert len(work) == 1
    assert isinstance(verifier.verify(KEY.token()), Verified)


def test_it_ends_with_time_and_its_size_is_bounded(work: list[bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    verifier = verifier_of(Host(), KEY)
    monkeypatch.setattr(verifier._refused, "_clock", lambda: now[0])
    token = OTHER.token()
    verifier.verify(token)
    now[0] = REFUSED_FOR + 1
    verifier.verify(token)
    assert len(work) == 2
    for number in range(2 * MAX_REFUSED):
        verifier.verify(b"%d" % number)
    assert len(verifier._refused) == MAX_REFUSED


def test_a_new_key_under_the_same_id_is_seen_at_once() -> None:
    """No key goes away here, so nobody forgets anything; the token is good with the set that has the second key."""
    host = Host()
    verifier = verifier_of(host, KEY)
    token = OTHER.token()
    assert "signature" in cause(verifier.verify(token))
    host.documents.publish(URL, jwks(KEY, OTHER))
    assert isinstance(verifier.verify(token), Verified)
    host.documents.publish(URL, jwks(KEY))
    assert "signature" in cause(verifier.verify(token))


def test_a_token_that_is_early_is_good_as_soon_as_it_is() -> None:
    clock = Clock()
    verifier = verifier_of(Host(), KEY, clock=clock)
    for token in (KEY.token(nbf=NOW + 100), KEY.token(iat=NOW + 100)):
        clock.now = float(NOW)
        assert isinstance(verifier.verify(token), Malformed)
        clock.now = NOW + 41.0
        assert isinstance(verifier.verify(token), Verified)


def test_an_unknown_id_goes_on_asking(work: list[bytes]) -> None:
    async def body() -> None:
        host = Host()
        verifier = verifier_of(host, KEY)
        new = Signer("P-256", "new")
        token = new.token()
        waiting = verifier.verify(token)
        assert isinstance(waiting, Waiting)
        assert "unknown" in cause(await waiting)
        assert "unknown" in cause(verifier.verify(token)), "in the cool-down"
        host.documents.publish(URL, jwks(KEY, new))
        assert isinstance(verifier.verify(token), Verified), "the moment its key is there"

    asyncio.run(body())


def test_a_token_without_id_is_tried_once_per_set_and_goes_on_asking(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[bytes] = []
    parsed = jwks_module.parse_jwks

    def counting(text: Any, symmetric: bool = False) -> Any:
        found = parsed(text, symmetric)
        for key in found.keys:
            for alg, check in list(key.verify.items()):
                key.verify[alg] = lambda signature, signed, check=check: tried.append(signed) or check(signature, signed)  # type: ignore[misc]
        return found

    async def body() -> None:
        host = Host()
        now = [0.0]
        anonymous = Signer("P-256", None)
        keys = [Signer("P-256", f"k{number}") for number in range(4)]
        monkeypatch.setattr("agw.security.key_source.parse_jwks", counting)
        verifier = verifier_of(host, *keys)
        (provider,) = verifier._providers[ISSUER]
        monkeypatch.setattr(provider.keys, "_clock", lambda: now[0])
        monkeypatch.setattr(provider.keys._unknown, "_clock", lambda: now[0])  # type: ignore[attr-defined]
        token = anonymous.token()
        waiting = verifier.verify(token)
        assert isinstance(waiting, Waiting)
        assert "no key without id" in cause(await waiting)
        del tried[:]
        for _ in range(10):
            assert "no key without id" in cause(verifier.verify(token))
        assert len(tried) == 4, "once per key, not once per request and key"
        now[0] += 61
        again = verifier.verify(token)
        assert isinstance(again, Waiting), "after the cool-down it asks again"
        host.documents.publish(URL, jwks(*keys, anonymous))
        assert isinstance(await again, Verified)
        assert host.documents.wanted == 2

    asyncio.run(body())
