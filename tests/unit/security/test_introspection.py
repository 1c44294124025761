"""`tokenIntrospection`: what the issuer says, how long it holds, and what happens when it says nothing."""

from __future__ import annotations

import asyncio
import base64
import json
from typing import Any
from urllib.parse import parse_qs

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agw.runtime.plan_security import CallPlan, IntrospectionPlan
from agw.security.contract import JWT_AUTH, CallError, Found, HttpAnswer, Refusal
from agw.security.introspection import MAX_CALLS, NEGATIVE, IntrospectionAuth, factory
from tests.kits.tokens import ISSUER, NOW, Asked, Host, at_once, bearer, key_of, settled

ACTIVE: dict[str, Any] = {"active": True, "iss": ISSUER, "sub": "alice", "aud": "gateway", "exp": NOW + 300, "scope": "read write"}


class Time:
    now = float(NOW)

    def __call__(self) -> float:
        return self.now


def says(body: Any, status: int = 200) -> HttpAnswer:
    return HttpAnswer(status, [], body if isinstance(body, bytes) else json.dumps(body).encode())


def step(host: Host, clock: Time | None = None, **plan: Any) -> IntrospectionAuth:
    return IntrospectionAuth(IntrospectionPlan(**{"call": CallPlan(0), "audiences": ["gateway"], "issuer": ISSUER, **plan}), host, clock=clock or Time())


def ask(auth: IntrospectionAuth, token: bytes = b"opaque") -> tuple[Refusal | None, Found]:
    async def run() -> tuple[Refusal | None, Found]:
        found = Found()
        return await settled(auth.check(bearer(token), found)), found

    return asyncio.run(run())


def test_an_active_token() -> None:
    host = Host()
    host.answers = [says(ACTIVE)]
    refusal, found = ask(step(host, client_id="a b", client_secret="c:d%"))
    assert refusal is None
    assert found.claims["jwt"] == ACTIVE
    assert found.key() == key_of("token-sub", ISSUER, "alice")
    assert (found.token, found.scopes, found.expires, found.log_fields) == (b"opaque", {"read", "write"}, NOW + 60, b',"jwt.sub":"alice"')
    headers, body = host.calls[0]
    assert parse_qs(body.decode()) == {"token": ["opaque"], "token_type_hint": ["access_token"]}
    assert dict(headers)[b"authorization"] == b"Basic " + base64.b64encode(b"a+b:c%3Ad%25")
    assert host.counted == [("introspection", "ok")]


def test_answers_are_kept_until_they_or_the_token_end() -> None:
    clock = Time()
    host = Host()
    host.answers = [says(ACTIVE), says(ACTIVE), says({**ACTIVE, "exp": NOW + 70})]
    auth = step(host, clock)
    assert [ask(auth)[0] for _ in range(3)] == [None] * 3
    assert len(host.calls) == 1
    clock.now += 60
    assert ask(auth)[0] is None
    assert len(host.calls) == 2
    other = step(host, clock)
    refusal, found = ask(other)
    assert (refusal, found.expires) == (None, NOW + 70)
    clock.now += 10
    host.answers = [says({"active": False})]
    assert ask(other)[0] is not None
    assert len(host.calls) == 4


def test_not_active_is_kept_shortly() -> None:
    clock = Time()
    host = Host()
    host.answers = [says({"active": False}), says(ACTIVE)]
    auth = step(host, clock)
    for _ in range(2):
        refusal, _ = ask(auth)
        assert refusal is not None
        assert (refusal.status, refusal.reason, refusal.cause) == (401, JWT_AUTH, "introspection: the token is not active")
        assert refusal.lines == b'WWW-Authenticate: Bearer error="invalid_token"\r\n'
    assert len(host.calls) == 1
    clock.now += NEGATIVE
    assert ask(auth)[0] is None


@pytest.mark.parametrize(
    "answer",
    [CallError("connect", "no"), CallError("timeout", "no"), says(ACTIVE, 500), says(ACTIVE, 401), says(ACTIVE, 201), says(b""), says(b"[]"), says(b"x"),
     says(b'{"active":false,"active":true}')],
)  # fmt: skip
def test_no_answer_is_not_the_callers_fault_and_not_remembered(answer: HttpAnswer | CallError) -> None:
    host = Host()
    host.answers = [answer, says(ACTIVE)]
    auth = step(host)
    refusal, found = ask(auth)
    assert refusal is not None
    assert (refusal.status, found.claims) == (503, {})
    assert ask(auth)[0] is None


@pytest.mark.parametrize(
    "changes",
    [{"active": "true"}, {"active": 1}, {"active": None}, {"exp": NOW}, {"exp": "x"}, {"exp": -1}, {"exp": 10**15}, {"nbf": NOW + 61},
     {"iss": "other"}, {"iss": 1}, {"aud": "other"}, {"aud": None}, {"aud": 1}, {"sub": 1}, {"sub": "a\r\nb"}, {"sub": ""}],
)  # fmt: skip
def test_answers_that_refuse(changes: dict[str, Any]) -> None:
    host = Host()
    host.answers = [says({**ACTIVE, **changes})]
    refusal, found = ask(step(host))
    assert refusal is not None
    assert (refusal.status, found.claims, found.key()) == (401, {}, b"")


def test_names_of_principals() -> None:
    host = Host()
    host.answers = [says({"active": True, "username": "u"}), says({"active": True, "client_id": "c"}), says({"active": True}), says({"active": True})]
    auth = step(host, audiences=[], issuer="")
    found = [ask(auth, token)[1] for token in (b"a", b"b", b"c", b"d")]
    assert found[0].key() == key_of("token-user", "", "u")
    assert found[1].key() == key_of("token-client", "", "c")
    assert len({item.key() for item in found}) == 4


def test_the_same_token_at_once_is_one_call() -> None:
    async def run() -> None:
        host = Host()
        host.answers = [says(ACTIVE)]
        host.gate.clear()
        auth = step(host)
        tasks = [asyncio.ensure_future(settled(auth.check(bearer(b"opaque"), Found()))) for _ in range(50)]
        await asyncio.sleep(0)
        tasks[0].cancel()
        await asyncio.sleep(0)
        host.gate.set()
        assert await asyncio.gather(*tasks[1:]) == [None] * 49
        assert len(host.calls) == 1

    asyncio.run(run())


def test_calls_at_once_are_bounded() -> None:
    async def run() -> None:
        host = Host()
        host.answers = [says(ACTIVE)] * MAX_CALLS
        host.gate.clear()
        auth = step(host)
        tasks = [asyncio.ensure_future(settled(auth.check(bearer(b"t%d" % i), Found()))) for i in range(MAX_CALLS)]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        refusal = await settled(auth.check(bearer(b"one more"[:3]), Found()))
        assert refusal is not None
        assert refusal.status == 503
        host.gate.set()
        assert await asyncio.gather(*tasks) == [None] * MAX_CALLS
        assert auth._running == {}

    asyncio.run(run())


def test_the_cache_is_bounded() -> None:
    host = Host()
    host.answers = [says(ACTIVE)] * 10
    auth = step(host, max_entries=4)
    for i in range(10):
        ask(auth, b"t%d" % i)
    assert len(auth._answers) == 4


def test_tokens_that_are_none_are_not_sent() -> None:
    host = Host()
    auth = step(host)
    for token in (b"a b", b"a&token=b", b"a\xc3\xa9", b"a=b", b"x" * 20_000):
        assert at_once(auth.check(bearer(token), Found())) is not None
    assert host.calls == []
    for mode, status in (("strict", 401), ("optional", 0), ("permissive", 0)):
        refusal = at_once(step(host, mode=mode).check(Asked(), Found()))
        assert (0 if refusal is None else refusal.status) == status


def test_permissive_lets_in_when_nobody_can_say() -> None:
    host = Host()
    host.answers = [CallError("connect", "no")]
    assert ask(step(host, mode="permissive"))[0] is None


SCALAR = st.none() | st.booleans() | st.floats() | st.integers() | st.text()


@given(st.recursive(SCALAR, lambda item: st.lists(item) | st.dictionaries(st.text(), item), max_leaves=5), st.binary())
def test_any_answer_ends_in_a_verdict(value: Any, octets: bytes) -> None:
    host = Host()
    host.answers = [says({**ACTIVE, "sub": value, "exp": value, "aud": value}), says(octets)]
    auth = factory(IntrospectionPlan(CallPlan(0)), host)
    for token in (b"a", b"b"):
        refusal, found = ask(auth, token)
        assert refusal is None or refusal.status in (401, 503)
        assert (refusal is None) == bool(found.key())
