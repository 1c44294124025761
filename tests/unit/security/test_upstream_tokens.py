"""Tokens that others issue: kept, asked for once, renewed, and what is remembered of failures; against a real token endpoint."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Callable, Coroutine
from typing import Any
from urllib.parse import parse_qsl

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from hypothesis import given, settings
from hypothesis import strategies as st

from agw.runtime.credentials import BackendAuth
from agw.runtime.plan_security import BackendAuthPlan, CallPlan, ClientAuthPlan, ClientCredentials, CrossAppAccess, LocationPlan, TokenExchange
from agw.security.contract import HttpAnswer
from agw.security.upstream import make
from agw.security.upstream.source import CredentialError, Presented
from agw.security.upstream.token_endpoint import TokenEndpoint
from agw.security.upstream.tokens import MAX_CALLS, REFUSED_S, SETTLED_S, UNREACHABLE_S, Issued, TokenCache
from tests.kits.external import Answer, Asked, FakeRequest, Host, HttpPeer, compile_python


class Caller:
    """Who calls."""

    def __init__(self, token: bytes = b"", key: bytes = b"k" * 16, claims: dict[str, Any] | None = None) -> None:
        self.key = key
        self.token = token
        self.claims = claims or {}


def run(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(work, 10))


# ------------------------------------------------------------------------------------------------------------ cache


class Issuer:
    """What a cache asks. Answers when it is let; counts."""

    def __init__(self, lifetime_s: float = 100) -> None:
        self.asked = 0
        self.error: CredentialError | None = None
        self.lifetime_s = lifetime_s
        self.gate = asyncio.Event()
        self.gate.set()

    async def __call__(self) -> Issued:
        self.asked += 1
        number = self.asked
        await self.gate.wait()
        if self.error is not None:
            raise self.error
        return Issued(Presented(b"%d" % number), self.lifetime_s)


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


async def settled() -> None:
    """Lets every task that can go on do so."""
    for _ in range(5):
        await asyncio.sleep(0)


def test_a_token_is_asked_for_once_and_kept_until_shortly_before_its_end() -> None:
    async def work() -> None:
        clock, issuer = Clock(), Issuer(100)
        cache = TokenCache(Host(), "x", 10, clock)
        assert cache.ready(b"a", issuer) is None
        found = await asyncio.gather(*(cache.fetch(b"a", issuer) for _ in range(20)))
        assert (set(found), issuer.asked) == ({Presented(b"1")}, 1)
        clock.now += 79
        assert (cache.ready(b"a", issuer), issuer.asked) == (Presented(b"1"), 1)
        clock.now += 11.5  # 90.5: beyond the margin of 10 s
        assert cache.ready(b"a", issuer) is None
        assert await cache.fetch(b"a", issuer) == Presented(b"2")

    run(work())


def test_a_token_is_renewed_before_its_end_and_a_failed_renewal_leaves_the_old_one() -> None:
    async def work() -> None:
        clock, issuer, host = Clock(), Issuer(100), Host()
        cache = TokenCache(host, "x", 10, clock)
        await cache.fetch(b"a", issuer)
        clock.now += 81
        issuer.error = CredentialError("unreachable", "down")
        for _ in range(5):
            assert cache.ready(b"a", issuer) == Presented(b"1")
            await settled()
        assert issuer.asked == 2, "what failed is not asked for again at once"
        clock.now += UNREACHABLE_S
        issuer.error = None
        assert cache.ready(b"a", issuer) == Presented(b"1")
        await settled()
        assert cache.ready(b"a", issuer) == Presented(b"3")
        assert host.counted == {("x", "ok"): 2, ("x", "unreachable"): 1}

    run(work())


@pytest.mark.parametrize(("kind", "wait_s"), [("refused", REFUSED_S), ("unreachable", UNREACHABLE_S)])
def test_a_failure_is_remembered_for_a_short_time(kind: Any, wait_s: float) -> None:
    async def work() -> None:
        clock, issuer = Clock(), Issuer()
        issuer.error = CredentialError(kind, "why")
        cache = TokenCache(Host(), "x", 10, clock)
        for _ in range(10):
            with pytest.raises(CredentialError, match="why") as caught:
                await cache.fetch(b"a", issuer)
            assert caught.value.kind == kind
        assert issuer.asked == 1
        issuer.error = None
        assert await cache.fetch(b"b", issuer) == Presented(b"2"), "another token is another matter"
        clock.now += wait_s
        assert await cache.fetch(b"a", issuer) == Presented(b"3")

    run(work())


def test_a_refused_renewal_ends_the_token() -> None:
    async def work() -> None:
        clock, issuer = Clock(), Issuer(100)
        cache = TokenCache(Host(), "x", 10, clock)
        await cache.fetch(b"a", issuer)
        clock.now += 81
        issuer.error = CredentialError("refused", "revoked")
        cache.ready(b"a", issuer)
        await settled()
        with pytest.raises(CredentialError):
            cache.ready(b"a", issuer)

    run(work())


def test_an_upstream_that_refuses_everything_costs_one_question_at_a_time() -> None:
    async def work() -> None:
        clock, issuer = Clock(), Issuer()
        cache = TokenCache(Host(), "x", 10, clock)
        for _ in range(10):
            await cache.fetch(b"a", issuer)
            cache.drop(b"a")
        assert issuer.asked == 1
        clock.now += SETTLED_S
        cache.drop(b"a")
        assert await cache.fetch(b"a", issuer) == Presented(b"2")

    run(work())


def test_tokens_failures_and_questions_are_bounded() -> None:
    async def work() -> None:
        issuer = Issuer()
        cache = TokenCache(Host(), "x", 3)
        for number in range(10):
            await cache.fetch(b"%d" % number, issuer)
        assert len(cache) == 3
        issuer.error = CredentialError("refused", "no")
        for number in range(100, 110):
            with pytest.raises(CredentialError):
                await cache.fetch(b"%d" % number, issuer)
        assert len(cache._failed) == 3
        issuer.error = None
        issuer.gate.clear()
        waiting = [asyncio.ensure_future(cache.fetch(b"w%d" % number, issuer)) for number in range(MAX_CALLS)]
        await settled()
        with pytest.raises(CredentialError, match="at once") as caught:
            await cache.fetch(b"more", issuer)
        assert caught.value.kind == "unreachable"
        issuer.gate.set()
        await asyncio.gather(*waiting)
        assert not cache._running

    run(work())


def test_without_entries_nothing_is_kept_but_a_question_is_still_shared() -> None:
    async def work() -> None:
        issuer = Issuer()
        cache = TokenCache(Host(), "x", 0)
        assert await asyncio.gather(cache.fetch(b"a", issuer), cache.fetch(b"a", issuer)) == [Presented(b"1")] * 2
        assert await cache.fetch(b"a", issuer) == Presented(b"2")

    run(work())


def test_who_asked_first_may_leave() -> None:
    async def work() -> None:
        issuer = Issuer()
        issuer.gate.clear()
        cache = TokenCache(Host(), "x", 10)
        first, second = (asyncio.ensure_future(cache.fetch(b"a", issuer)) for _ in range(2))
        await settled()
        first.cancel()
        await settled()
        issuer.gate.set()
        assert (await second, issuer.asked) == (Presented(b"1"), 1)

    run(work())


# --------------------------------------------------------------------------------------------------------- endpoint


def good(asked: Asked) -> Answer:
    return 200, [("content-type", "application/json")], b'{"access_token": "t0k", "token_type": "Bearer", "expires_in": 3600}'


def against(handler: Callable[[Asked], Any], test: Callable[[HttpPeer, Host], Coroutine[Any, Any, None]]) -> None:
    async def work() -> None:
        async with HttpPeer(handler) as peer:
            await test(peer, Host())

    run(work())


def form_of(asked: Asked) -> list[tuple[str, str]]:
    assert asked.headers["content-type"] == "application/x-www-form-urlencoded"
    return parse_qsl(asked.body.decode(), strict_parsing=True)


def client_credentials(port: int, client: ClientAuthPlan, **fields: Any) -> BackendAuthPlan:
    return BackendAuthPlan([ClientCredentials(CallPlan(port, "/token"), "https://idp.example/token", client, **fields)])


def test_client_credentials_are_asked_for_once_for_all_callers() -> None:
    async def test(peer: HttpPeer, host: Host) -> None:
        source = make(client_credentials(peer.port, ClientAuthPlan("basic", "a:b", "s e+c"), scopes=["x", "y"], audience="api", resource="https://r/"), host)
        assert source.ready(None, None) is None
        found = await asyncio.gather(*(source.fetch(Caller(key=b"%016d" % n), FakeRequest()) for n in range(5)))
        assert set(found) == {Presented(b"authorization: Bearer t0k\r\n")}
        assert source.ready(None, None) == found[0]
        source.invalidate(None)
        (asked,) = peer.asked
        assert (asked.method, asked.target) == ("POST", "/token")
        assert form_of(asked) == [("grant_type", "client_credentials"), ("scope", "x y"), ("audience", "api"), ("resource", "https://r/")]
        assert base64.b64decode(asked.headers["authorization"].removeprefix("Basic ")) == b"a%3Ab:s+e%2Bc"

    against(good, test)


@pytest.mark.parametrize(
    ("client", "expected"),
    [
        (ClientAuthPlan("post", "me", "s3cret"), [("client_id", "me"), ("client_secret", "s3cret")]),
        (ClientAuthPlan("post", "me"), [("client_id", "me")]),
        (ClientAuthPlan("none", "me"), [("client_id", "me")]),
        (ClientAuthPlan("none"), []),
    ],
)
def test_the_client_in_the_form(client: ClientAuthPlan, expected: list[tuple[str, str]]) -> None:
    async def test(peer: HttpPeer, host: Host) -> None:
        await make(client_credentials(peer.port, client), host).fetch(None, None)
        assert form_of(peer.asked[0])[1:] == expected
        assert "authorization" not in peer.asked[0].headers

    against(good, test)


@pytest.mark.parametrize(("audience", "expected"), [("", "https://idp.example/token"), ("https://idp.example/", "https://idp.example/")])
def test_the_client_proves_itself_by_a_key(audience: str, expected: str) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()

    async def test(peer: HttpPeer, host: Host) -> None:
        await make(client_credentials(peer.port, ClientAuthPlan("privateKeyJwt", "me", "", pem, "ES256", "k1", audience)), host).fetch(None, None)
        form = dict(form_of(peer.asked[0]))
        assert (form["client_id"], form["client_assertion_type"]) == ("me", "urn:ietf:params:oauth:client-assertion-type:jwt-bearer")
        claims = jwt.decode(form["client_assertion"], key.public_key(), algorithms=["ES256"], audience=expected)
        assert (claims["iss"], claims["sub"], claims["exp"] - claims["iat"]) == ("me", "me", 60)
        assert len(claims["jti"]) >= 20
        assert jwt.get_unverified_header(form["client_assertion"]) == {"alg": "ES256", "typ": "JWT", "kid": "k1"}

    against(good, test)


@pytest.mark.parametrize(
    ("status", "body", "kind", "text"),
    [
        (400, b'{"error": "invalid_grant", "error_description": "s3cr"}', "refused", "answers 400, invalid_grant"),
        (401, b'{"error": "<s3cr>"}', "refused", "answers 401"),
        (403, b"s3cr", "refused", "answers 403"),
        (500, b"s3cr", "unreachable", "answers 500"),
        (429, b"{}", "unreachable", "answers 429"),
        (302, b"", "unreachable", "answers 302"),
        (201, b'{"access_token": "s3cr", "token_type": "Bearer"}', "unreachable", "answers 201"),
        (200, b"s3cr", "unreachable", "not JSON"),
        (200, b"[]", "unreachable", "not a JSON object"),
        (200, b'{"token_type": "Bearer"}', "unreachable", "no access_token"),
        (200, b'{"access_token": "s3cr\\r\\nx: y", "token_type": "Bearer"}', "unreachable", "no access_token"),
        (200, b'{"access_token": "s3cr", "access_token": "b", "token_type": "Bearer"}', "unreachable", "a member twice"),
        (200, b'{"access_token": "s3cr"}', "unreachable", "token_type"),
        (200, b'{"access_token": "s3cr", "token_type": "N_A"}', "unreachable", "token_type"),
        (200, b'{"access_token": "s3cr", "token_type": "Bearer", "expires_in": -1}', "unreachable", "expires_in"),
        (200, b'{"access_token": "s3cr", "token_type": "Bearer", "expires_in": true}', "unreachable", "expires_in"),
        (200, b'{"access_token": "s3cr", "token_type": "Bearer", "expires_in": 1e300}', "unreachable", "expires_in"),
        (200, b'{"access_token": "s3cr", "token_type": "Bearer", "issued_token_type": "urn:x"}', "unreachable", "issued_token_type"),
    ],
)
def test_what_is_no_token(status: int, body: bytes, kind: str, text: str) -> None:
    async def test(peer: HttpPeer, host: Host) -> None:
        with pytest.raises(CredentialError, match=text) as caught:
            await make(client_credentials(peer.port, ClientAuthPlan("post", "me")), host).fetch(None, None)
        assert caught.value.kind == kind
        assert "s3cr" not in str(caught.value)
        assert host.counted == {("oauthClientCredentials", kind): 1}

    against(lambda asked: (status, [], body), test)


def test_nobody_listens() -> None:
    async def work() -> None:
        async with HttpPeer(good) as peer:
            port = peer.port
        source = make(client_credentials(port, ClientAuthPlan("post", "me")), Host())
        for _ in range(3):
            with pytest.raises(CredentialError) as caught:
                await source.fetch(None, None)
            assert caught.value.kind == "unreachable"

    run(work())


@settings(max_examples=150, deadline=None)
@given(st.dictionaries(st.sampled_from(["access_token", "token_type", "expires_in", "issued_token_type", "error"]), st.none() | st.booleans()
       | st.integers() | st.floats() | st.text() | st.just("Bearer") | st.lists(st.integers())), st.sampled_from([200, 400]))  # fmt: skip
def test_any_answer_ends_in_a_token_or_an_error(body: dict[str, Any], status: int) -> None:
    class Fixed(Host):
        async def __call__(self, *_: Any, **__: Any) -> HttpAnswer:
            return HttpAnswer(status, [], json.dumps(body).encode())

    async def work() -> None:
        endpoint = TokenEndpoint(CallPlan(1), "https://x/", ClientAuthPlan("none"), Fixed(), "x")
        try:
            answer = await endpoint.ask([])
        except CredentialError:
            return
        assert answer.token
        assert all(33 <= octet <= 126 for octet in answer.token)
        assert answer.lifetime_s is None or 0 <= answer.lifetime_s < 1e9

    asyncio.run(work())


# --------------------------------------------------------------------------------------------------------- exchange


def echo(asked: Asked) -> Answer:
    """A token that says for whom it is."""
    form = dict(parse_qsl(asked.body.decode()))
    subject = form.get("subject_token") or form["assertion"]
    body = {"access_token": f"for-{subject}", "token_type": "bearer", "issued_token_type": "urn:ietf:params:oauth:token-type:access_token"}
    return 200, [], json.dumps(body).encode()


def exchange(port: int, **fields: Any) -> BackendAuthPlan:
    return BackendAuthPlan([TokenExchange(CallPlan(port), "https://idp.example/", ClientAuthPlan("post", "me"), **fields)])


def bearer(token: bytes) -> FakeRequest:
    return FakeRequest(headers=[(b"authorization", b"Bearer " + token)])


def test_exchange_by_rfc_8693() -> None:
    async def test(peer: HttpPeer, host: Host) -> None:
        requested = "urn:ietf:params:oauth:token-type:access_token"
        plan = exchange(
            peer.port, audiences=["a", "b"], resources=["https://r/"], scopes=["x", "y"], requested_type=requested, actor=LocationPlan("cookie", "act", ""),
            additional_params_cel={"tenant": "'t1'", "peer": "request.peer.decode()"},
        )  # fmt: skip
        source = make(plan, host, compile_python)
        request = FakeRequest(headers=[(b"cookie", b"act=actor")])
        assert await source.fetch(Caller(b"alice"), request) == Presented(b"authorization: Bearer for-alice\r\n")
        assert sorted(form_of(peer.asked[0])) == sorted([
            ("grant_type", "urn:ietf:params:oauth:grant-type:token-exchange"), ("subject_token", "alice"), ("subject_token_type", requested),
            ("requested_token_type", requested), ("audience", "a"), ("audience", "b"), ("resource", "https://r/"), ("scope", "x y"),
            ("actor_token", "actor"), ("actor_token_type", requested), ("tenant", "t1"), ("peer", "192.0.2.7"), ("client_id", "me"),
        ])  # fmt: skip

    against(echo, test)


def test_exchange_by_rfc_7523() -> None:
    async def test(peer: HttpPeer, host: Host) -> None:
        source = make(exchange(peer.port, grant="jwtBearer", audiences=["a"], additional_params_cel={"requested_token_use": '"on_behalf_of"'}), host)
        assert await source.fetch(Caller(b"alice"), None) == Presented(b"authorization: Bearer for-alice\r\n")
        assert form_of(peer.asked[0]) == [
            ("grant_type", "urn:ietf:params:oauth:grant-type:jwt-bearer"), ("audience", "a"), ("assertion", "alice"),
            ("requested_token_use", "on_behalf_of"), ("client_id", "me"),
        ]  # fmt: skip

    against(echo, test)


def test_every_caller_gets_his_own_and_is_asked_for_once() -> None:
    async def test(peer: HttpPeer, host: Host) -> None:
        source = make(exchange(peer.port), host)
        for _ in range(3):
            for name in (b"alice", b"bob"):
                assert (await source.fetch(Caller(name, name * 4), None)).lines == b"authorization: Bearer for-" + name + b"\r\n"
        assert source.ready(Caller(b"alice", b"alice" * 4), None) is not None
        assert source.ready(Caller(b"alice", b"mallory"), None) is None, "the same octets verified as another's are another's"
        assert source.ready(Caller(b"carol"), None) is None
        assert len(peer.asked) == 2

    against(echo, test)


def test_the_verified_token_goes_before_the_header_and_the_header_before_nothing() -> None:
    async def test(peer: HttpPeer, host: Host) -> None:
        source = make(exchange(peer.port), host)
        assert b"for-alice" in (await source.fetch(Caller(b"alice"), bearer(b"forged"))).lines
        assert b"for-unseen" in (await source.fetch(None, bearer(b"unseen"))).lines
        assert BackendAuth(exchange(peer.port)).places.headers == {b"authorization"}
        for identity, request in ((None, None), (None, FakeRequest()), (Caller(), FakeRequest(headers=[(b"authorization", b"Basic x")]))):
            with pytest.raises(CredentialError) as caught:
                source.ready(identity, request)
            assert caught.value.kind == "missing"
            source.invalidate(identity, request)
        twice = FakeRequest(headers=[(b"authorization", b"Bearer a"), (b"authorization", b"Bearer b")])
        with pytest.raises(CredentialError, match="more than once"):
            source.ready(None, twice)

    against(echo, test)


def test_a_subject_elsewhere_is_read_there_and_does_not_go_on() -> None:
    async def test(peer: HttpPeer, host: Host) -> None:
        source = make(exchange(peer.port, subject=LocationPlan("header", "x-id-token", "")), host)
        request = FakeRequest(headers=[(b"x-id-token", b"id")])
        assert b"for-id" in (await source.fetch(Caller(b"alice"), request)).lines
        assert BackendAuth(exchange(peer.port, subject=LocationPlan("header", "x-id-token", ""))).places.headers == {b"authorization", b"x-id-token"}

    against(echo, test)


def test_a_token_is_not_kept_longer_than_the_callers() -> None:
    async def test(peer: HttpPeer, host: Host) -> None:
        source = make(exchange(peer.port), host)
        ended = Caller(b"alice", claims={"jwt": {"exp": 1}})
        await source.fetch(ended, None)
        assert source.ready(ended, None) is None

    against(echo, test)


def test_a_parameter_without_value_is_no_request() -> None:
    async def test(peer: HttpPeer, host: Host) -> None:
        source = make(exchange(peer.port, additional_params_cel={"who": "claims['jwt']['sub']"}), host, compile_python)
        with pytest.raises(CredentialError, match=r"additionalParams\.who") as caught:
            await source.fetch(Caller(b"alice"), FakeRequest())
        assert (caught.value.kind, peer.asked) == ("missing", [])
        assert await source.fetch(Caller(b"alice", claims={"jwt": {"sub": "al"}}), FakeRequest())
        assert ("who", "al") in form_of(peer.asked[0])

    against(echo, test)


def test_an_expression_needs_an_engine() -> None:
    with pytest.raises(ValueError, match="only text constants"):
        make(exchange(1, additional_params_cel={"a": "request.path"}), Host())


# -------------------------------------------------------------------------------------------------- cross app access

ID_JAG = "urn:ietf:params:oauth:token-type:id-jag"


def cross(port: int) -> BackendAuthPlan:
    id_token = "urn:ietf:params:oauth:token-type:id_token"
    first = TokenExchange(
        CallPlan(port, "/idp"), "https://idp.example/", ClientAuthPlan("post", "agent", "a"), subject_type=id_token, audiences=["https://as.example"],
        resources=["https://r/"], scopes=["x"],
    )  # fmt: skip
    second = ClientCredentials(CallPlan(port, "/as"), "https://as.example/", ClientAuthPlan("post", "resource", "b"), scopes=["y"])
    return BackendAuthPlan([CrossAppAccess(first, second)])


def two_servers(first: dict[str, Any]) -> Callable[[Asked], Answer]:
    second = {"access_token": "t0k", "token_type": "Bearer", "expires_in": 60}
    return lambda asked: (200, [], json.dumps(first if asked.target == "/idp" else second).encode())


def test_an_id_token_becomes_an_assertion_and_that_a_token() -> None:
    async def test(peer: HttpPeer, host: Host) -> None:
        source = make(cross(peer.port), host)
        for _ in range(2):
            assert await source.fetch(Caller(b"id"), None) == Presented(b"authorization: Bearer t0k\r\n")
        first, second = peer.asked
        assert sorted(form_of(first)) == sorted([
            ("grant_type", "urn:ietf:params:oauth:grant-type:token-exchange"), ("subject_token", "id"), ("requested_token_type", ID_JAG),
            ("subject_token_type", "urn:ietf:params:oauth:token-type:id_token"), ("audience", "https://as.example"), ("resource", "https://r/"),
            ("scope", "x"), ("client_id", "agent"), ("client_secret", "a"),
        ])  # fmt: skip
        assert sorted(form_of(second)) == sorted([
            ("grant_type", "urn:ietf:params:oauth:grant-type:jwt-bearer"), ("assertion", "a.b.c"), ("scope", "y"),
            ("client_id", "resource"), ("client_secret", "b"),
        ])  # fmt: skip
        assert host.counted == {("crossAppAccess", "ok"): 1}

    against(two_servers({"access_token": "a.b.c", "token_type": "N_A", "issued_token_type": ID_JAG}), test)


@pytest.mark.parametrize(
    "first",
    [
        {"access_token": "a.b.c", "token_type": "Bearer", "issued_token_type": ID_JAG},
        {"access_token": "a.b.c", "token_type": "N_A"},
        {"access_token": "a.b.c", "token_type": "N_A", "issued_token_type": ["x"]},
        {"access_token": "a.b.c", "token_type": "N_A", "issued_token_type": "urn:ietf:params:oauth:token-type:access_token"},
    ],
)
def test_what_is_no_assertion_goes_nowhere(first: dict[str, Any]) -> None:
    async def test(peer: HttpPeer, host: Host) -> None:
        with pytest.raises(CredentialError, match="crossAppAccess"):
            await make(cross(peer.port), host).fetch(Caller(b"id"), None)
        assert len(peer.asked) == 1

    against(two_servers(first), test)
