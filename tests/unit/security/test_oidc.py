"""`oidc`: the whole login against a provider with real signatures, and everything that must not work."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agw.runtime.plan_security import CallPlan, OidcPlan
from agw.security.contract import Found, Refusal
from agw.security.oidc import factory, step
from agw.security.oidc.cookies import PART, Jar, Sealer, TooLong
from agw.security.oidc.step import Oidc, is_navigation, way_back
from tests.kits.external import FakeRequest, Host, verdict_of
from tests.kits.openid import SECRET, OpenId

KEYS = ["11" * 32]
PAGE: list[tuple[bytes, bytes]] = [(b"accept", b"text/html,application/xhtml+xml"), (b"sec-fetch-mode", b"navigate")]


class Browser:
    """Keeps cookies, as a browser does."""

    def __init__(self, oidc: Oidc) -> None:
        self.oidc = oidc
        self.cookies: dict[bytes, bytes] = {}
        self.attributes: dict[bytes, bytes] = {}
        self.found = Found()

    async def go(self, path: bytes, query: bytes | None = None, headers: list[tuple[bytes, bytes]] | None = None, method: str = "GET") -> Refusal | None:
        cookie = b"; ".join(name + b"=" + value for name, value in self.cookies.items())
        fields = [*(PAGE if headers is None else headers), *([(b"cookie", cookie)] if cookie else [])]
        self.found = Found()
        answer = await verdict_of(self.oidc, FakeRequest(method, path, fields, query=query), self.found)
        for line in (answer.lines if answer else b"").split(b"\r\n"):
            if line.startswith(b"Set-Cookie: "):
                pair, _, attributes = line.removeprefix(b"Set-Cookie: ").partition(b"; ")
                name, _, value = pair.partition(b"=")
                if attributes.endswith(b"Max-Age=0"):
                    self.cookies.pop(name, None)
                else:
                    self.cookies[name] = value
                    self.attributes[name] = attributes
        return answer

    async def back(self, fields: dict[str, str]) -> Refusal | None:
        return await self.go(b"/oauth/callback", urlencode(fields).encode())


def location(answer: Refusal | None) -> str:
    assert answer is not None and answer.status in (302, 303), answer
    return next(line for line in answer.lines.split(b"\r\n") if line.startswith(b"Location: ")).removeprefix(b"Location: ").decode()


class World:
    """A provider, a host that knows its documents, and a policy."""

    def __init__(self, **fields: Any) -> None:
        self.provider = OpenId()
        self.host = Host()
        self.fields = fields

    def build(self) -> Oidc:
        issuer = self.provider.issuer
        url = f"{issuer}/.well-known/openid-configuration"
        self.host.documents.put(url, self.provider.discovery())
        plan = OidcPlan(
            issuer, "client", SECRET, "https://app.example/oauth/callback", scopes=["profile"], discovery_url=url,
            discovery_call=CallPlan(self.provider.peer.port), cookie_keys=KEYS,
        )  # fmt: skip
        return factory(msgspec.structs.replace(plan, **self.fields), self.host)


def play(work: Callable[[World, Browser], Awaitable[None]], world: World | None = None) -> None:
    async def run() -> None:
        here = world or World()
        async with here.provider.peer:
            await work(here, Browser(here.build()))

    asyncio.run(run())


def test_a_login() -> None:
    async def work(world: World, browser: Browser) -> None:
        answer = await browser.go(b"/deep/page", b"x=1&y=%2F")
        asked = {name: values[0] for name, values in parse_qs(urlsplit(location(answer)).query).items()}
        assert (asked["client_id"], asked["redirect_uri"], asked["scope"]) == ("client", "https://app.example/oauth/callback", "openid profile")
        assert len(asked["state"]) == len(asked["nonce"]) == len(asked["code_challenge"]) == 43
        assert answer is not None and b"no-store" in answer.lines and answer.body == b""
        (name,) = browser.cookies
        assert name.startswith(b"__Host-agw-oidc-") and browser.attributes[name] == b"Path=/; HttpOnly; SameSite=Lax; Secure; Max-Age=600"

        answer = await browser.back(world.provider.authorize(location(answer)))
        assert location(answer) == "/deep/page?x=1&y=%2F" and answer is not None and answer.status == 303
        (name,) = browser.cookies
        assert b"Max-Age=300" in browser.attributes[name] or b"Max-Age=299" in browser.attributes[name], "not longer than the ID token"
        assert b"kim" not in browser.cookies[name]

        browser.cookies[b"theirs"] = b"1"
        assert await browser.go(b"/deep/page", headers=[]) is None, "a session is one for programs, too"
        assert browser.found.claims["jwt"]["email"] == "kim@example.com" and "nonce" not in browser.found.claims["jwt"]
        assert browser.found.lines == b"Cookie: theirs=1\r\n" and browser.found.remove == (b"cookie",)
        assert not browser.found.lasting and len(browser.found.key()) == 16
        assert 0 < browser.found.expires - time.time() <= 300
        assert world.host.counted == {("oidc", "missing"): 1, ("oidc", "ok"): 2}

    play(work)


@pytest.mark.parametrize("how", ["discovered post", "configured post"])
def test_client_authentication_by_post(how: str) -> None:
    world = World(**({"token_auth": "post"} if how == "configured post" else {}))
    if how == "discovered post":
        world.provider.auth_methods = ["client_secret_post"]

    async def work(world: World, browser: Browser) -> None:
        assert location(await browser.back(world.provider.authorize(location(await browser.go(b"/"))))) == "/"
        (token,) = [asked for asked in world.provider.peer.asked if asked.target.endswith("/token")]
        assert "authorization" not in token.headers

    play(work, world)


def test_explicit_endpoints_need_no_discovery() -> None:
    async def run() -> None:
        world = World()
        async with world.provider.peer as peer:
            jwks = msgspec.json.encode(world.provider.jwks()).decode()
            world.fields = {
                "discovery_url": "", "discovery_call": None, "authorization_endpoint": f"{world.provider.issuer}/authorize",
                "token_call": CallPlan(peer.port, "/realm/token"), "jwks": jwks,
            }  # fmt: skip
            browser = Browser(world.build())
            assert location(await browser.back(world.provider.authorize(location(await browser.go(b"/x"))))) == "/x"

    asyncio.run(run())


# ------------------------------------------------------------------------------------------- who is not sent away


@pytest.mark.parametrize(
    ("method", "headers"),
    [
        ("GET", []), ("GET", [(b"accept", b"*/*")]), ("GET", [(b"accept", b"application/json")]), ("POST", PAGE),
        ("GET", [(b"accept", b"text/html"), (b"sec-fetch-mode", b"cors")]), ("GET", [*PAGE, (b"x-requested-with", b"XMLHttpRequest")]),
        ("GET", [*PAGE, (b"upgrade", b"websocket")]),
    ],
)  # fmt: skip
def test_programs_get_401(method: str, headers: list[tuple[bytes, bytes]]) -> None:
    async def work(world: World, browser: Browser) -> None:
        answer = await browser.go(b"/api", headers=headers, method=method)
        assert answer is not None and (answer.status, browser.cookies) == (401, {})

    play(work)


def test_browsers_without_fetch_metadata_are_known_by_what_they_accept() -> None:
    assert is_navigation(FakeRequest("GET", b"/", [(b"accept", b"application/xml, Text/HTML;q=0.9")]))


def test_who_was_asked_about_elsewhere_passes() -> None:
    async def work(world: World, browser: Browser) -> None:
        request = FakeRequest()
        request.hopped = True
        found = Found()
        assert browser.oidc.check(request, found) is None
        assert not found.lasting, "it says nothing about who comes directly with the same head"

    play(work)


# ------------------------------------------------------------------------------------------------- the way back


@pytest.mark.parametrize("path", [b"//evil.example", b"/\\evil.example", b"/a\\b", b"/a\r\nb", b"/a b", b"/" + b"a" * 2050, b"/oauth/callback", b"", b"/\xff"])
def test_ways_back_that_are_not_taken(path: bytes) -> None:
    assert way_back(FakeRequest(path=path), (b"/oauth/callback",)) == b"/"


@given(st.binary(max_size=60), st.none() | st.binary(max_size=40))
def test_every_way_back_is_one_path_of_this_origin(path: bytes, query: bytes | None) -> None:
    back = way_back(FakeRequest(path=path, query=query), ())
    parts = urlsplit(back.decode("ascii"))
    assert back[:1] == b"/" and back[1:2] not in (b"/", b"\\") and (parts.scheme, parts.netloc) == ("", "")
    assert not any(octet <= 32 or octet >= 127 for octet in back)


# ------------------------------------------------------------------------------------------------ bad callbacks


async def login(world: World, browser: Browser, **more: str) -> dict[str, str]:
    return world.provider.authorize(location(await browser.go(b"/x")), **more)


async def refused(world: World, browser: Browser, fields: dict[str, str], status: int = 400) -> str:
    answer = await browser.back(fields)
    assert answer is not None and answer.status == status, answer
    assert not any(b"-t-" not in name for name in browser.cookies), "no session"
    assert answer.message in (b"the login failed; go back and try again", b"login is not available at the moment")
    return answer.cause


def bad(work: Callable[[World, Browser], Awaitable[None]], **fields: Any) -> None:
    play(work, World(**fields))


def test_a_callback_of_another_browser() -> None:
    async def work(world: World, browser: Browser) -> None:
        fields = await login(world, browser)
        assert "no login of this browser" in await refused(world, Browser(browser.oidc), fields)
        assert "no login of this browser" in await refused(world, browser, {**fields, "state": fields["state"][:-1] + "A" + "x"})
        assert "no login of this browser" in await refused(world, browser, {"code": fields["code"]})

    bad(work)


def test_a_login_works_once() -> None:
    async def work(world: World, browser: Browser) -> None:
        fields = await login(world, browser)
        again = dict(browser.cookies)
        assert location(await browser.back(fields)) == "/x"
        assert location(await browser.back(fields)) == "/", "reloaded: the visitor is logged in, nothing of the callback is used"
        browser.cookies = again
        assert "invalid_grant" in await refused(world, browser, fields)
        assert browser.cookies == {}

    bad(work)


def test_a_login_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    async def work(world: World, browser: Browser) -> None:
        fields = await login(world, browser)
        later = time.time() + step.LOGIN_S + 2
        monkeypatch.setattr(step.time, "time", lambda: later)
        assert "too long ago" in await refused(world, browser, fields)

    bad(work)


@pytest.mark.parametrize(
    ("more", "cause"),
    [
        ({"iss": "https://evil.example"}, "another issuer"), ({"error": "access_denied"}, "refused: access_denied"),
        ({"error": "<b>\r\nx"}, "an unknown error"), ({"code": ""}, "without code"),
    ],
)  # fmt: skip
def test_answers_that_are_none(more: dict[str, str], cause: str) -> None:
    async def work(world: World, browser: Browser) -> None:
        assert cause in await refused(world, browser, await login(world, browser, **more))

    bad(work)


def test_a_provider_that_says_its_issuer_always_does() -> None:
    world = World()
    world.provider.discovery_changes = {"authorization_response_iss_parameter_supported": True}

    async def work(world: World, browser: Browser) -> None:
        fields = await login(world, browser)
        assert "says none although" in await refused(world, browser, fields)
        fields = await login(world, browser)
        assert location(await browser.back({**fields, "iss": world.provider.issuer})) == "/x"

    play(work, world)


@pytest.mark.parametrize("query", [None, b"", b"code=a&code=b&state=c", b"a=1&" * 40, b"x=" + b"y" * 9000, b"code=%ff&state=a"])
def test_callbacks_that_are_no_query(query: bytes | None) -> None:
    async def work(world: World, browser: Browser) -> None:
        answer = await browser.go(b"/oauth/callback", query)
        assert answer is not None and answer.status == 400

    bad(work)


def test_the_callback_is_a_get() -> None:
    async def work(world: World, browser: Browser) -> None:
        answer = await browser.go(b"/oauth/callback", b"code=a&state=b", method="POST")
        assert answer is not None and answer.status == 400

    bad(work)


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({"nonce": "another"}, 400), ({"nonce": None}, 400), ({"iss": "https://evil.example"}, 503), ({"aud": "other"}, 503),
        ({"aud": ["client", "other"]}, 503), ({"azp": "other"}, 503), ({"exp": 1}, 503), ({"exp": None}, 503), ({"iat": 1 << 40}, 503),
        ({"sub": None}, 503), ({"exp": int(time.time()) - 30}, 503),
    ],
)  # fmt: skip
def test_id_tokens_that_are_not_for_us(changes: dict[str, Any], status: int) -> None:
    world = World()
    world.provider.changes = changes

    async def work(world: World, browser: Browser) -> None:
        await refused(world, browser, await login(world, browser), status)

    play(work, world)


def test_several_audiences_with_us_as_the_party() -> None:
    world = World()
    world.provider.changes = {"aud": ["client", "other"], "azp": "client"}

    async def work(world: World, browser: Browser) -> None:
        assert location(await browser.back(await login(world, browser))) == "/x"

    play(work, world)


def test_a_rotated_key_is_fetched_once(monkeypatch: pytest.MonkeyPatch) -> None:
    async def work(world: World, browser: Browser) -> None:
        def keys_fetched() -> int:
            return sum(asked.target.endswith("/keys") for asked in world.provider.peer.asked)

        assert location(await browser.back(await login(world, browser))) == "/x"
        browser.cookies.clear()
        world.provider.rotate()
        await refused(world, browser, await login(world, browser), 503)
        assert keys_fetched() == 1, "inside the cool-down"
        browser.oidc._provider._fetched_at -= 31
        assert location(await browser.back(await login(world, browser))) == "/x"
        assert keys_fetched() == 2

    play(work)


def test_keys_of_a_url_are_followed() -> None:
    async def run() -> None:
        world = World(jwks_url="https://keys.example/jwks")
        async with world.provider.peer:
            world.host.documents.put("https://keys.example/jwks", world.provider.jwks())
            browser = Browser(world.build())
            assert location(await browser.back(await login(world, browser))) == "/x"
            browser.cookies.clear()
            world.provider.rotate()
            world.host.documents.newer["https://keys.example/jwks"] = world.provider.jwks()
            assert location(await browser.back(await login(world, browser))) == "/x"
            assert world.host.documents.wanted == ["https://keys.example/jwks"]
            assert not any(asked.target.endswith("/keys") for asked in world.provider.peer.asked)

    asyncio.run(run())


# ------------------------------------------------------------------------------------------------ the provider is down


@pytest.mark.parametrize(
    ("changes", "cause"),
    [
        ({"issuer": "https://evil.example"}, "another issuer"), ({"authorization_endpoint": "javascript:x"}, "no URL"),
        ({"token_endpoint": "http://elsewhere.example/token"}, "oidc.tokenEndpoint"), ({"jwks_uri": "http://127.0.0.1:1/keys"}, "oidc.jwks"),
    ],
)  # fmt: skip
def test_documents_that_are_not_believed(changes: dict[str, Any], cause: str) -> None:
    world = World()
    world.provider.discovery_changes = changes

    async def work(world: World, browser: Browser) -> None:
        answer = await browser.go(b"/")
        assert answer is not None and answer.status == 503 and cause in answer.cause
        assert world.host.counted["oidc", "error"] == 1

    play(work, world)


def test_no_document_yet() -> None:
    async def work(world: World, browser: Browser) -> None:
        known = dict(world.host.documents.known)
        world.host.documents.known.clear()
        answer = await browser.go(b"/")
        assert answer is not None and answer.status == 503
        assert world.host.documents.wanted == list(known)

    play(work)


def test_a_token_endpoint_that_fails() -> None:
    world = World()
    world.provider.token_status = 500

    async def work(world: World, browser: Browser) -> None:
        assert "answered 500" in await refused(world, browser, await login(world, browser), 503)

    play(work, world)


# ------------------------------------------------------------------------------------------------------- sessions


def test_sessions_of_another_client_key_or_purpose_are_none() -> None:
    sealer = Sealer(KEYS, b"a")
    text = sealer.seal(b"session", {"x": 1})
    assert sealer.open(b"session", text) == {"x": 1}
    assert sealer.open(b"login", text) is None
    assert Sealer(KEYS, b"b").open(b"session", text) is None
    assert Sealer(["22" * 32], b"a").open(b"session", text) is None
    assert Sealer(["22" * 32, *KEYS], b"a").open(b"session", text) == {"x": 1}, "the first seals, all open"
    for keys in ([], ["x"], ["11" * 31]):
        with pytest.raises(ValueError, match="cookie keys"):
            Sealer(keys, b"")


@given(st.binary(max_size=200))
def test_whatever_comes_opens_or_is_nothing(text: bytes) -> None:
    assert Sealer(KEYS, b"a").open(b"session", text) is None


def test_every_octet_of_a_session_counts() -> None:
    sealer = Sealer(KEYS, b"a")
    text = sealer.seal(b"session", {"x": 1})
    for index in range(len(text) - 1):
        other = b"A" if text[index : index + 1] != b"A" else b"B"
        assert sealer.open(b"session", text[:index] + other + text[index + 1 :]) is None


@pytest.mark.parametrize("size", [10, 4000, 9000])
def test_long_sessions_are_split(size: int) -> None:
    world = World()
    world.provider.claims["groups"] = "g" * size

    async def work(world: World, browser: Browser) -> None:
        assert location(await browser.back(await login(world, browser))) == "/x"
        assert len(browser.cookies) == (size * 4 // 3 + 400) // PART + 1
        assert all(len(name) + len(value) <= 4000 for name, value in browser.cookies.items())
        assert await browser.go(b"/") is None
        assert browser.found.claims["jwt"]["groups"] == "g" * size
        for name in list(browser.cookies)[1:]:
            less = Browser(browser.oidc)
            less.cookies = {other: value for other, value in browser.cookies.items() if other != name}
            assert await less.go(b"/", headers=[]) is not None
        # A shorter session after a longer one: the parts that are left over do no harm, and are taken away.
        world.provider.claims["groups"] = "g"
        fields = world.provider.authorize(location(await Browser.go(lost := Browser(browser.oidc), b"/x")))
        browser.cookies |= lost.cookies
        assert location(await browser.back(fields)) == "/x"
        assert len(browser.cookies) == 1

    play(work, world)


def test_claims_that_fit_into_no_cookies() -> None:
    world = World()
    world.provider.claims["groups"] = "g" * 11_700

    async def work(world: World, browser: Browser) -> None:
        assert "too long for cookies" in await refused(world, browser, await login(world, browser), 503)

    play(work, world)
    with pytest.raises(TooLong):
        Jar(b"", True).session_lines(b"x" * (4 * PART + 1), 1, [])


def test_sessions_end(monkeypatch: pytest.MonkeyPatch) -> None:
    async def work(world: World, browser: Browser) -> None:
        await browser.back(await login(world, browser))
        assert await browser.go(b"/") is None
        later = time.time() + 61
        monkeypatch.setattr(step.time, "time", lambda: later)
        assert location(await browser.go(b"/")).startswith(world.provider.issuer)

    bad(work, session_ns=60_000_000_000)


def test_many_logins_do_not_fill_the_browser() -> None:
    async def work(world: World, browser: Browser) -> None:
        for _ in range(20):
            await browser.go(b"/")
            assert len(browser.cookies) <= 4
        fields = await login(world, browser)
        assert location(await browser.back(fields)) == "/x"

    bad(work)


def test_two_tabs_log_in() -> None:
    async def work(world: World, browser: Browser) -> None:
        one, two = await login(world, browser), await login(world, browser)
        assert location(await browser.back(one)) == "/x"
        assert location(await browser.back(two)) == "/x"

    bad(work)


def test_logout() -> None:
    async def work(world: World, browser: Browser) -> None:
        await browser.back(await login(world, browser))
        answer = await browser.go(b"/logout", headers=[(b"sec-fetch-site", b"cross-site")])
        assert answer is not None and answer.status == 403 and browser.cookies
        answer = await browser.go(b"/logout")
        assert answer is not None and (answer.status, answer.body, browser.cookies) == (200, b"logged out\n", {})
        world.host.documents.put(browser.oidc._plan.discovery_url, {**world.provider.discovery(), "end_session_endpoint": f"{world.provider.issuer}/end"})
        browser.oidc._provider._made = None
        assert location(await browser.go(b"/logout")) == f"{world.provider.issuer}/end?client_id=client"

    bad(work, logout_path="/logout")


def test_plain_http_for_trials_has_no_secure_cookies() -> None:
    async def work(world: World, browser: Browser) -> None:
        await browser.go(b"/")
        (name,) = browser.cookies
        assert name.startswith(b"agw-oidc-") and b"Secure" not in browser.attributes[name]

    bad(work, redirect_uri="http://localhost:3000/oauth/callback")
