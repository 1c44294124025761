"""The page where users grant access, with a real authorization server: from the link to the grant, and everybody who cheats."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import msgspec
import pytest

from agw.runtime.plan import PolicyPlan
from agw.runtime.plan_security import ClientAuthPlan, ConsentPlan, UserGrant
from agw.security.consent import document, page
from agw.security.contract import Found, Refusal
from agw.security.steps import make_steps
from agw.security.upstream.grant_source import GrantSource
from agw.security.upstream.grants import UserGrants
from agw.security.upstream.source import CredentialError
from agw.security.upstream.store import GrantStore
from tests.kits.external import FakeRequest, Host, verdict_of
from tests.peers.issuer import Issuer, query_of

KEY = bytes(range(32))
PATH = "/.agw/oauth/callback"
ALICE, MALLORY = "alice", "mallory"


class Who:
    def __init__(self, name: str) -> None:
        self.key = found_of(name).key()
        self.token = b""
        self.claims: dict[str, Any] = {}


def found_of(name: str) -> Found:
    found = Found()
    if name:
        found.name("jwt", "https://login.example", name)
    return found


class Browser:
    """A browser of somebody: keeps cookies, shows them to every worker's page."""

    def __init__(self, world: World, name: str) -> None:
        self.world = world
        self.name = name
        self.cookie = b""

    async def get(self, url: str, method: str = "GET", step: page.ConsentPage | None = None) -> Refusal:
        """What the page answers."""
        query = url.partition("?")[2].encode() or None
        headers = [(b"cookie", b"other=1; " + self.cookie)] if self.cookie else []
        answer = await verdict_of(step or self.world.page(), FakeRequest(method, PATH.encode(), headers, query=query), found_of(self.name))
        assert answer is not None
        for line in answer.lines.split(b"\r\n"):
            if line.startswith(b"Set-Cookie: "):
                self.cookie = line.removeprefix(b"Set-Cookie: ").partition(b";")[0]
        return answer

    async def follow(self, url: str) -> str:
        """From a link to the URL that the authorization server sends the browser to."""
        answer = await self.get(url)
        assert answer.status == 302, answer
        there = await Host().outside("GET", location(answer), [], b"")
        return dict(there.headers)[b"location"].decode()


def location(answer: Refusal) -> str:
    return next(line for line in answer.lines.decode().split("\r\n") if line.startswith("Location: ")).removeprefix("Location: ")


class World:
    def __init__(self, issuer: Issuer, path: Path, **more: Any) -> None:
        self.issuer = issuer
        self.path = path
        self.redirect = f"https://gw.example{PATH}"
        issuer.add_client("agw", "s3cret", redirect_uris=[self.redirect])
        plan = UserGrant("https://api.example/mcp", self.redirect, issuer.url, ClientAuthPlan("basic", "agw", "s3cret"), trusted=[issuer.origin])
        self.plan = msgspec.structs.replace(plan, **more)
        self.plans = [msgspec.structs.replace(self.plan, resource="https://other.example/"), self.plan]

    def host(self) -> Host:
        made = Host()
        made.store = GrantStore(str(self.path), [KEY])
        return made

    def page(self) -> page.ConsentPage:
        """The page in another worker."""
        return page.factory(ConsentPlan(self.plans), self.host())

    async def link(self, name: str = ALICE) -> str:
        """What a call without grant leads to."""
        with pytest.raises(CredentialError) as caught:
            await GrantSource(self.plan, self.host()).fetch(Who(name), None)
        assert caught.value.kind == "consent"
        return caught.value.url

    async def token(self, name: str = ALICE) -> Any:
        presented = await GrantSource(self.plan, self.host()).fetch(Who(name), None)
        return self.issuer.verified(presented.lines.removeprefix(b"authorization: Bearer ").strip().decode())


def run(directory: Path, test: Any, **more: Any) -> None:
    async def bounded(work: Coroutine[Any, Any, None]) -> None:
        async with asyncio.timeout(30):
            await work

    with Issuer() as issuer:
        asyncio.run(bounded(test(World(issuer, directory, **more))))


def test_a_user_follows_the_link_and_the_next_call_works(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        browser = Browser(world, ALICE)
        back = await browser.follow(await world.link())
        assert browser.cookie.startswith(b"__Secure-agw-consent=")
        answer = await browser.get(back)
        assert (answer.status, answer.body) == (200, page.GRANTED + b"\n")
        for line in (b"Cache-Control: no-store", b"Referrer-Policy: no-referrer", b"frame-ancestors 'none'"):
            assert line in answer.lines
        assert (await world.token())["aud"] == ["https://api.example/mcp"]
        with pytest.raises(CredentialError):
            await world.token(MALLORY)

    run(tmp_path, test)


def test_a_link_is_for_the_principal_it_was_made_for(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        link = await world.link(ALICE)
        for name in (MALLORY, ""):
            answer = await Browser(world, name).get(link)
            assert (answer.status, answer.body) == (403, page.OTHER + b"\n")
        assert world.issuer.calls == []

    run(tmp_path, test)


def test_an_answer_is_for_the_principal_and_the_browser_that_began(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        # Mallory begins, and has Alice bring the answer: what Alice granted must not become Mallory's.
        mallory = Browser(world, MALLORY)
        back = await mallory.follow(await world.link(MALLORY))
        alice = Browser(world, ALICE)
        alice.cookie = mallory.cookie
        assert (await alice.get(back)).status == 403
        # The same user, but another browser.
        assert (await Browser(world, MALLORY).get(back)).status == 400
        assert world.issuer.count("/token") == 0
        assert (await mallory.get(back)).status == 200

    run(tmp_path, test)


def test_an_answer_is_good_once_in_all_workers(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        browser = Browser(world, ALICE)
        back = await browser.follow(await world.link())
        answers = await asyncio.gather(*(browser.get(back) for _ in range(4)))
        assert sorted(answer.status for answer in answers) == [200, 400, 400, 400]
        assert world.issuer.count("/token") == 1

    run(tmp_path, test)


def test_a_link_ends_in_one_grant(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        link = await world.link()
        browser = Browser(world, ALICE)
        first, second = await browser.follow(link), await browser.follow(link)
        assert (await browser.get(first)).status == 200
        assert (await browser.get(second)).status == 400

    run(tmp_path, test)


@pytest.mark.parametrize(
    "query",
    ["", "?", "?ticket=", "?ticket=AAAA", "?state=AAAA&code=x", "?code=x", "?ticket=a&ticket=b", "?error=access_denied", "?%ff=%ff", "?" + "a=b&" * 3000],
    ids=lambda query: query[:20],
)
def test_what_is_no_link_and_no_answer(tmp_path: Path, query: str) -> None:
    async def test(world: World) -> None:
        answer = await Browser(world, ALICE).get(world.redirect + query)
        assert (answer.status, answer.body) == (400, page.AGAIN + b"\n")
        for method in ("POST", "HEAD", "OPTIONS"):
            assert (await Browser(world, ALICE).get(world.redirect + query, method)).status == 405

    run(tmp_path, test)


def test_a_user_who_declines_and_a_server_that_is_down(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        browser = Browser(world, ALICE)
        back = await browser.follow(await world.link())
        declined = f"{world.redirect}?error=access_denied&state={query_of(back)['state']}&iss={world.issuer.url}"
        answer = await browser.get(declined)
        assert (answer.status, answer.body) == (400, page.DECLINED + b"\n")
        world.issuer.faults["/.well-known/oauth-authorization-server"] = "down"
        answer = await browser.get(await world.link())
        assert (answer.status, answer.body) == (503, page.DOWN + b"\n")
        assert b"Retry-After: 5\r\n" in answer.lines

    run(tmp_path, test)


def test_anyone_may_grant_where_the_operator_said_so(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        browser = Browser(world, "")
        back = await browser.follow(await world.link())
        assert (await Browser(world, "").get(back)).status == 400, "another browser than began"
        assert (await browser.get(back)).status == 200
        assert (await world.token())["sub"] == "alice"

    run(tmp_path, test, anyone=True)


def test_the_servers_address_is_looked_at(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        world.issuer.extra_metadata["authorization_endpoint"] = "javascript:alert(1)"
        assert (await Browser(world, ALICE).get(await world.link())).status == 400

    run(tmp_path, test)


def test_the_clients_document_is_for_everybody(tmp_path: Path) -> None:
    own = UserGrant("https://api.example/mcp", f"https://gw.example{PATH}")
    step = document.factory(ConsentPlan([own]), Host())
    answer = step.check(FakeRequest("GET", PATH.encode()), Found())
    assert answer is not None
    assert answer.status == 200
    says = json.loads(answer.body or b"")
    assert (says["client_id"], says["redirect_uris"], says["token_endpoint_auth_method"]) == (own.redirect_uri, [own.redirect_uri], "none")
    assert step.check(FakeRequest("GET", PATH.encode(), query=b"ticket=x"), Found()) is None
    for other in (msgspec.structs.replace(own, document=False), msgspec.structs.replace(own, redirect_uri="http://localhost/cb")):
        assert document.factory(ConsentPlan([other]), Host()).check(FakeRequest("GET", PATH.encode()), Found()) is None


def test_the_document_is_asked_first_and_the_page_last() -> None:
    plan = PolicyPlan(consent=ConsentPlan([UserGrant("https://api.example/mcp", f"https://gw.example{PATH}")]))
    kinds = [type(step).__name__ for step in make_steps(plan, Host())]
    assert kinds.index("ClientDocument") < kinds.index("SourceAddress" if "SourceAddress" in kinds else kinds[-1])
    assert kinds[-1] == "ConsentPage"


def test_links_say_nothing_of_the_user(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        grants = UserGrants(world.plan, world.host())
        url, _ = grants.link(Who(ALICE).key)
        assert Who(ALICE).key.hex() not in url
        assert len(url) < 1024

    run(tmp_path, test)
