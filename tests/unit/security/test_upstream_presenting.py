"""Credentials on their way into requests: what may be kept with an identity, and what has to be made of every request."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from agw._fast.gate import Identity
from agw.runtime.plan_security import BackendAuthPlan, JwtSign, KeyCredential, PassthroughCredential
from agw.security.upstream import presenting
from agw.security.upstream.presenting import Presenting
from tests.kits.external import Host

KEY = ec.generate_private_key(ec.SECP256R1()).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


def who(token: bytes = b"t") -> Identity:
    return Identity(b"k" * 16, {"jwt": {"sub": "alice"}}, token=token)


def made(*credentials: PassthroughCredential | KeyCredential | JwtSign) -> Presenting:
    return Presenting(BackendAuthPlan(list(credentials)), Host())


def test_what_follows_from_the_caller_is_kept_with_him_for_a_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    moment = 100.0
    monkeypatch.setattr(presenting.time, "monotonic", lambda: moment)
    one, other, alice = made(PassthroughCredential()), made(KeyCredential("a"), PassthroughCredential()), who()
    asked: list[object] = []
    ready = one.source.ready
    monkeypatch.setattr(type(one.source), "ready", lambda self, identity, request: asked.append(identity) or ready(identity, request))
    first = one.now(alice)
    assert first is not None
    assert first.lines == b"authorization: Bearer t\r\n"
    assert one.now(alice) is first
    assert len(asked) == 1
    found = other.now(alice)
    assert found is not None
    assert found.lines.count(b"authorization") == 2, "another backend's is another"
    moment += presenting.KEPT_S
    assert one.now(alice) == first
    assert one.now(who(b"u")) != first


def test_what_the_upstream_refused_is_not_kept() -> None:
    one, alice = made(PassthroughCredential()), who()
    assert one.now(alice) is not None
    assert one in alice.extra
    assert one.refused(alice, None) is False, "there is no other"
    assert one not in alice.extra


@pytest.mark.parametrize(("claim", "whatever"), [
    ('"fixed"', True), ("jwt.sub", True), ('request.headers["x-user"]', False), ('default(request.headers["x-user"], "nobody")', False),
    ("source.address", False), ('has(request.headers) ? "a" : "b"', False),
])  # fmt: skip
def test_what_an_expression_makes_of_the_request_is_made_of_every_request(claim: str, whatever: bool) -> None:
    one = made(JwtSign(KEY, "ES256", claims={"sub": claim}))
    assert one._by_identity is whatever
    assert one.now(who()) is None, "a signature takes a moment the first time"
