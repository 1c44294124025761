"""Grants of users, end to end against a real authorization server: discovery, login, refresh, and everybody who cheats."""

from __future__ import annotations

import asyncio
import http.client
import json
from collections.abc import Coroutine
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import pytest

from agw.security.contract import CallError, Headers, HttpAnswer
from agw.security.upstream.discovery import Wanted, read_challenge, resource_urls, server_urls
from agw.security.upstream.grants import Client, GrantSource, UserGrants
from agw.security.upstream.source import CredentialError
from agw.security.upstream.store import GrantStore
from tests.peers.issuer import Issuer, query_of

KEY = bytes(range(32))
REDIRECT = "https://gw.example/oauth/callback"
ALICE, MALLORY = b"a" * 16, b"m" * 16


class Who:
    def __init__(self, key: bytes) -> None:
        self.key = key
        self.token = b""
        self.claims: dict[str, Any] = {}


async def fetch(method: str, url: str, headers: Headers, body: bytes) -> HttpAnswer:
    """A caller for any URL, over real sockets."""

    def work() -> HttpAnswer:
        parts = urlsplit(url)
        connection = http.client.HTTPConnection(parts.netloc, timeout=10)
        try:
            connection.request(method, parts.path + (f"?{parts.query}" if parts.query else ""), body or None, {k.decode(): v.decode() for k, v in headers})
            answer = connection.getresponse()
            return HttpAnswer(answer.status, [(k.lower().encode(), v.encode()) for k, v in answer.getheaders()], answer.read())
        except (OSError, http.client.HTTPException):
            raise CallError("closed", "no answer") from None
        finally:
            connection.close()

    return await asyncio.to_thread(work)


class World:
    """A resource, its server, a gateway with a store."""

    def __init__(self, issuer: Issuer, path: Path) -> None:
        self.issuer = issuer
        self.resource = f"{issuer.origin}/mcp"
        self.path = path
        document = {"resource": self.resource, "authorization_servers": [issuer.url], "scopes_supported": ["read"]}
        issuer.answers["/.well-known/oauth-protected-resource/mcp"] = (200, "application/json", json.dumps(document).encode())
        issuer.add_client("agw", "s3cret", redirect_uris=[REDIRECT])
        self.grants = self.gateway()

    def gateway(self, **more: Any) -> UserGrants:
        more.setdefault("clients", {self.issuer.url: Client("agw", "s3cret")})
        return UserGrants(self.resource, REDIRECT, GrantStore(str(self.path), [KEY]), fetch, **more)

    async def browse(self, url: str) -> bytes:
        """What the browser brings back."""
        answer = await fetch("GET", url, [], b"")
        assert answer.status == 302, answer
        where = dict(answer.headers)[b"location"].decode()
        assert where.startswith(REDIRECT + "?")
        return urlsplit(where).query.encode()

    async def login(self, user: bytes = ALICE) -> Any:
        return await self.grants.callback(user, await self.browse(await self.grants.begin(user)))


def run(directory: Path, test: Any, path: str = "") -> None:
    with Issuer(path) as issuer:
        asyncio.run(_bounded(test(World(issuer, directory))))


async def _bounded(work: Coroutine[Any, Any, None]) -> None:
    async with asyncio.timeout(30):
        await work


def changed(query: bytes, **changes: str | None) -> bytes:
    values = {**{name: items[0] for name, items in parse_qs(query.decode()).items()}, **changes}
    return urlencode({name: value for name, value in values.items() if value is not None}).encode()


@pytest.mark.parametrize("path", ["", "/realms/x"])
def test_a_user_grants_access_and_the_token_is_theirs(tmp_path: Path, path: str) -> None:
    async def test(world: World) -> None:
        with pytest.raises(CredentialError) as caught:
            await GrantSource(world.grants).fetch(Who(ALICE), None)
        assert caught.value.kind == "missing"
        url = await world.grants.begin(ALICE)
        query = query_of(url)
        assert (query["resource"], query["code_challenge_method"], query["scope"], query["client_id"]) == (world.resource, "S256", "read", "agw")
        await world.grants.callback(ALICE, await world.browse(url))
        assert world.issuer.last("/token")["resource"] == world.resource
        source = GrantSource(world.grants)
        presented = await source.fetch(Who(ALICE), None)
        token = presented.lines.removeprefix(b"authorization: Bearer ").strip().decode()
        assert world.issuer.verified(token, world.resource)["sub"] == "alice"
        assert source.ready(Who(ALICE), None) == presented
        with pytest.raises(CredentialError, match="granted nothing"):
            await source.fetch(Who(MALLORY), None)
        for nobody in (None, Who(b"")):
            with pytest.raises(CredentialError, match="nobody"):
                source.ready(nobody, None)
        assert await GrantSource(world.gateway()).fetch(Who(ALICE), None) == presented  # another worker, another life

    run(tmp_path, test, path=path)


def test_an_answer_is_for_one_user_once_and_in_time(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        query = await world.browse(await world.grants.begin(ALICE))
        others = [changed(query, state="A" * 80), changed(query, state=None), query + b"&state=x", b"\xff", b"x" * 10_000]
        for user, bad in ((MALLORY, query), *((ALICE, other) for other in others)):
            with pytest.raises(CredentialError, match="not an answer to a login of this user"):
                await world.grants.callback(user, bad)
        late = world.gateway(clock=lambda: 1e11)
        with pytest.raises(CredentialError, match="login is over"):
            await late.callback(ALICE, query)
        await world.grants.callback(ALICE, query)
        with pytest.raises(CredentialError, match="answered before"):
            await world.gateway().callback(ALICE, query)
        assert world.issuer.count("/token") == 1

    run(tmp_path, test)


def test_the_issuer_of_an_answer(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        for iss in ("https://evil.example", world.issuer.url + "/", None):
            query = changed(await world.browse(await world.grants.begin(ALICE)), iss=iss)
            with pytest.raises(CredentialError, match="not of the server that was asked"):
                await world.grants.callback(ALICE, query)
        declined = changed(await world.browse(await world.grants.begin(ALICE)), code=None, error="access_denied")
        with pytest.raises(CredentialError, match="declined"):
            await world.grants.callback(ALICE, declined)
        assert world.issuer.count("/token") == 0

    run(tmp_path, test)


def test_one_refresh_for_all_and_the_old_token_is_not_used_again(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        first = await world.login()
        sources = [GrantSource(world.gateway()) for _ in range(3)]
        before = [await source.fetch(Who(ALICE), None) for source in sources]
        for source in sources:
            source.invalidate(Who(ALICE))
            assert source.ready(Who(ALICE), None) is None
        after = await asyncio.gather(*(source.fetch(Who(ALICE), None) for source in sources for _ in range(5)))
        assert len(set(after)) == 1
        assert after[0] not in before
        assert world.issuer.count("/token") == 2
        assert world.issuer.last("/token")["refresh_token"] == first.refresh_token

    run(tmp_path, test)


def test_a_grant_that_is_over_is_asked_for_again_and_a_server_that_is_down_is_not(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        await world.login()
        old = world.gateway(clock=lambda: 1e11)
        world.issuer.faults["/token"] = "500"
        with pytest.raises(CredentialError) as caught:
            await old.current(ALICE)
        assert caught.value.kind == "unreachable"
        source = GrantSource(old)
        count = world.issuer.count("/token")
        for _ in range(3):
            with pytest.raises(CredentialError, match="500"):
                await source.fetch(Who(ALICE), None)
        assert world.issuer.count("/token") == count + 1
        del world.issuer.faults["/token"]
        assert (await world.grants.current(ALICE)).refresh_token
        world.issuer._refresh.clear()
        for text in ("grant is over", "granted nothing"):
            with pytest.raises(CredentialError, match=text) as caught:
                await old.current(ALICE)
            assert caught.value.kind == "missing"

    run(tmp_path, test)


def test_the_gateway_registers_once(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        world.grants = world.gateway(clients={})
        await world.login()
        world.grants = world.gateway(clients={})
        await world.login()
        assert world.issuer.count("/register") == 1
        world.issuer.accept_registration = False
        other = UserGrants(world.resource, "https://other.example/cb", GrantStore(str(tmp_path), [KEY]), fetch)
        with pytest.raises(CredentialError, match="does not register"):
            await other.begin(ALICE)

    run(tmp_path, test)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda issuer: setattr(issuer, "claimed_issuer", "https://evil.example"), "of another issuer"),
        (lambda issuer: issuer.omit_metadata.add("code_challenge_methods_supported"), "PKCE"),
        (lambda issuer: issuer.extra_metadata.update(token_endpoint="file:///etc/passwd"), "token_endpoint is no URL"),
        (lambda issuer: issuer.faults.update({"/.well-known/oauth-authorization-server": "500"}), "500 and no document"),
        (lambda issuer: issuer.faults.update({"/.well-known/oauth-authorization-server": "redirect"}), "302 and no document"),
        (lambda issuer: issuer.faults.update({"/.well-known/oauth-authorization-server": "garbage"}), "200 and no document"),
        (lambda issuer: issuer.faults.update({"/.well-known/oauth-authorization-server": "down"}), "no answer"),
        (lambda issuer: issuer.answers.update({"/.well-known/oauth-protected-resource/mcp": (200, "application/json", b'{"resource":"https://o.example"}')}),
         "about another resource"),
    ],
)  # fmt: skip
def test_documents_that_are_not_believed(tmp_path: Path, change: Any, text: str) -> None:
    async def test(world: World) -> None:
        change(world.issuer)
        for message in (text, "failed a moment ago"):
            with pytest.raises(CredentialError, match=message):
                await world.grants.begin(ALICE)

    run(tmp_path, test)


def test_the_second_place_is_looked_at_when_the_first_has_nothing(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        world.issuer.faults["/.well-known/oauth-authorization-server"] = "404"
        del world.issuer.answers["/.well-known/oauth-protected-resource/mcp"]
        document = {"resource": world.issuer.origin, "authorization_servers": [world.issuer.url]}
        world.issuer.answers["/.well-known/oauth-protected-resource"] = (200, "application/json", json.dumps(document).encode())
        await world.login()
        world.issuer.answers["/elsewhere"] = (200, "application/json", json.dumps({**document, "resource": world.resource}).encode())
        named = Wanted(f"{world.issuer.origin}/elsewhere", "write")
        assert query_of(await world.gateway().begin(ALICE, named))["scope"] == "write"

    run(tmp_path, test)


def test_places_of_documents() -> None:
    assert resource_urls("https://a.example/x/mcp") == [
        "https://a.example/.well-known/oauth-protected-resource/x/mcp",
        "https://a.example/.well-known/oauth-protected-resource",
    ]
    assert server_urls("https://as.example/t/") == [
        "https://as.example/.well-known/oauth-authorization-server/t",
        "https://as.example/.well-known/openid-configuration/t",
        "https://as.example/t/.well-known/openid-configuration",
    ]
    assert len(server_urls("https://as.example")) == 2


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([b'Bearer resource_metadata="https://a/x", scope="read write"'], Wanted("https://a/x", "read write")),
        ([b"Basic realm=x", b"Bearer error=invalid_token, resource_metadata=https://a/x"], Wanted("https://a/x", "")),
        ([b'Bearer x_resource_metadata="no", scope="a\\"b"'], Wanted()),
        ([], Wanted()),
    ],
)
def test_challenges(values: list[bytes], expected: Wanted) -> None:
    assert read_challenge(values) == expected
