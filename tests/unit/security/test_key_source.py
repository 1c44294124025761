"""Keys that are followed: rotation, unknown ids, floods, an issuer that is down."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import Awaitable

import pytest

from agw.runtime.plan_security import JwtPlan, JwtProviderPlan, Mode
from agw.security import key_source
from agw.security.contract import Found, Verdict
from agw.security.jwt import JwtAuth
from agw.security.key_source import COOLDOWN, MAX_UNKNOWN, UNKNOWN_FOR, FollowedKeys
from tests.kits.tokens import ISSUER, NOW, Host, bearer, jwks, settled, signer

URL = "https://issuer.example/jwks"
OLD, NEW = signer("P-256", "old"), signer("P-256", "new")


class Clock:
    """Monotonic time that the test moves."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def host() -> Host:
    return Host()


@pytest.fixture
def clock(host: Host) -> Clock:
    """The clock of the host's source of keys."""
    clock = Clock()
    source = FollowedKeys(host, URL, clock)
    key_source._followed[(id(host), URL)] = source
    clock.source = source  # type: ignore[attr-defined]  # the table holds sources weakly
    return clock


def step(host: Host, mode: Mode = "strict") -> JwtAuth:
    return JwtAuth(JwtPlan([JwtProviderPlan(ISSUER, ["gateway"], jwks_url=URL)], mode), host, clock=lambda: NOW)


def ask(auth: JwtAuth, token: bytes) -> Verdict | Awaitable[Verdict]:
    return auth.check(bearer(token), Found())


def waits(verdict: object) -> bool:
    return verdict is not None and not isinstance(verdict, tuple)


async def refused(auth: JwtAuth, token: bytes) -> tuple[int, str]:
    verdict = await settled(ask(auth, token))
    assert verdict is not None
    return verdict.status, verdict.cause


def test_a_known_key_never_waits(host: Host, clock: Clock) -> None:
    host.documents.publish(URL, jwks(OLD))
    auth = step(host)
    for _ in range(3):
        assert ask(auth, OLD.token()) is None
    assert host.documents.wanted == 0


def test_rotation_lets_the_first_tokens_of_the_new_key_in(host: Host, clock: Clock) -> None:
    async def run() -> None:
        host.documents.publish(URL, jwks(OLD))
        auth = step(host)
        host.documents.next_body = jwks(OLD, NEW)
        host.documents.answered.clear()
        waiting = [ask(auth, NEW.token(jti=str(i))) for i in range(20)]
        assert all(waits(verdict) for verdict in waiting)
        assert ask(auth, OLD.token()) is None, "known keys go on meanwhile"
        results = asyncio.gather(*(settled(verdict) for verdict in waiting))
        await asyncio.sleep(0)
        host.documents.answered.set()
        assert await results == [None] * 20
        assert host.documents.wanted == 1
        assert ask(auth, NEW.token()) is None

    asyncio.run(run())


def test_a_flood_of_unknown_ids_asks_and_waits_once_per_cooldown(host: Host, clock: Clock) -> None:
    async def run() -> None:
        host.documents.publish(URL, jwks(OLD))
        auth = step(host)
        first = ask(auth, signer("P-256", "x").token())
        assert waits(first)
        assert (await settled(first)) is not None
        for i in range(2000):
            assert not waits(ask(auth, OLD.token(header={"alg": "ES256", "kid": f"u{i}"})))
        assert host.documents.wanted == 1
        assert ask(auth, OLD.token()) is None
        clock.now += COOLDOWN
        again = ask(auth, OLD.token(header={"alg": "ES256", "kid": "one more"}))
        assert waits(again)
        await settled(again)
        assert host.documents.wanted == 2

    asyncio.run(run())


def test_an_id_that_stayed_unknown_does_not_ask_again_soon(host: Host, clock: Clock) -> None:
    async def run() -> None:
        host.documents.publish(URL, jwks(OLD))
        auth = step(host)
        await settled(ask(auth, NEW.token()))
        clock.now += COOLDOWN
        assert not waits(ask(auth, NEW.token()))
        clock.now += UNKNOWN_FOR - COOLDOWN
        await settled(ask(auth, NEW.token()))
        assert host.documents.wanted == 2
        host.documents.publish(URL, jwks(NEW))
        assert ask(auth, NEW.token()) is None, "a new document forgives at once"

    asyncio.run(run())


def test_tokens_without_id_ask_for_newer_keys_as_well(host: Host, clock: Clock) -> None:
    async def run() -> None:
        host.documents.publish(URL, jwks(OLD))
        auth = step(host)
        host.documents.next_body = jwks(NEW)
        assert await settled(ask(auth, NEW.token(header={"alg": "ES256"}))) is None
        clock.now += COOLDOWN
        assert await refused(auth, OLD.token(header={"alg": "ES256"})) == (401, "jwt: no key without id verifies the signature")

    asyncio.run(run())


def test_unknown_ids_are_remembered_in_bounds(host: Host, clock: Clock) -> None:
    source = FollowedKeys(host, URL, clock)
    for i in range(3 * MAX_UNKNOWN):
        source.still_unknown(str(i))
    assert len(source._unknown) == MAX_UNKNOWN


def test_keys_that_were_never_there(host: Host, clock: Clock) -> None:
    """Nobody can judge the token: that is not the caller's fault."""

    async def run() -> None:
        auth = step(host)
        assert await refused(auth, OLD.token()) == (503, "jwt: the keys of the issuer were never fetched")
        assert not waits(ask(auth, OLD.token()))
        assert await settled(ask(step(host, "permissive"), OLD.token())) is None
        assert host.documents.wanted == 1
        host.documents.publish(URL, jwks(OLD))
        assert ask(auth, OLD.token()) is None

    asyncio.run(run())


def test_an_issuer_that_never_answers_holds_nobody_for_long(host: Host, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(key_source, "PATIENCE", 0.01)

    async def run() -> None:
        host.documents.publish(URL, jwks(OLD))
        host.documents.answered.clear()
        auth = step(host)
        assert await refused(auth, NEW.token()) == (401, "jwt: the key id is unknown")
        assert ask(auth, OLD.token()) is None

    asyncio.run(run())


def test_an_unusable_document_leaves_the_old_keys(host: Host, clock: Clock) -> None:
    host.documents.publish(URL, jwks(OLD))
    auth = step(host)
    for body in ("", "<html>", '{"keys":[]}', jwks(signer("oct"))):
        host.documents.publish(URL, body)
        assert ask(auth, OLD.token()) is None
    assert host.counted.count(("jwks", "error")) == 4


def test_tokens_of_removed_keys_end(host: Host, clock: Clock) -> None:
    auth = step(host)
    told: list[str] = []
    auth.watch(lambda: told.append("removed"))
    host.documents.publish(URL, jwks(OLD))
    host.documents.publish(URL, jwks(OLD, NEW))
    assert told == []
    host.documents.publish(URL, jwks(NEW))
    assert told == ["removed"]

    async def run() -> None:
        assert await refused(auth, OLD.token()) == (401, "jwt: the key id is unknown")

    asyncio.run(run())


def test_a_key_replaced_under_its_id_is_removed(host: Host, clock: Clock) -> None:
    auth = step(host)
    told: list[str] = []
    auth.watch(lambda: told.append("removed"))
    host.documents.publish(URL, jwks(OLD))
    host.documents.publish(URL, jwks(signer("P-384", "old")))
    assert told == ["removed"]
    verdict = ask(auth, OLD.token())
    assert isinstance(verdict, tuple)
    assert verdict.cause == "jwt: the key is not made for the algorithm of the token"


def test_policies_share_the_keys_of_a_url_and_may_go(host: Host, clock: Clock) -> None:
    first, second = step(host), step(host)
    assert len(host.documents.watchers) == 1
    gone = weakref.ref(second.verifier)
    del second
    gc.collect()
    assert gone() is None
    host.documents.publish(URL, jwks(OLD))
    host.documents.publish(URL, jwks(NEW))
    assert ask(first, NEW.token()) is None


def test_a_request_that_leaves_does_not_spoil_the_others(host: Host, clock: Clock) -> None:
    async def run() -> None:
        host.documents.publish(URL, jwks(OLD))
        auth = step(host)
        host.documents.next_body = jwks(NEW)
        host.documents.answered.clear()
        first = asyncio.ensure_future(settled(ask(auth, NEW.token())))
        second = asyncio.ensure_future(settled(ask(auth, NEW.token())))
        await asyncio.sleep(0)
        first.cancel()
        await asyncio.sleep(0)
        host.documents.answered.set()
        assert await second is None

    asyncio.run(run())


def test_waiting_may_be_dropped(host: Host, clock: Clock) -> None:
    """Whoever has no room for one more waiting request closes what it got; nothing is left behind."""

    async def run() -> None:
        host.documents.publish(URL, jwks(OLD))
        verdict = ask(step(host), NEW.token())
        assert waits(verdict)
        verdict.close()  # type: ignore[union-attr]
        gc.collect()

    asyncio.run(run())
