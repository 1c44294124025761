"""Grants of users, end to end against a real authorization server: discovery, login, refresh, and everybody who cheats."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import msgspec
import pytest

from agw.runtime.plan_security import ClientAuthPlan, UserGrant
from agw.security.contract import HttpAnswer, Trust
from agw.security.upstream.discovery import Wanted, read_challenge, resource_urls, server_urls
from agw.security.upstream.grant_source import GrantSource
from agw.security.upstream.grants import UserGrants
from agw.security.upstream.source import CredentialError
from agw.security.upstream.store import GrantStore
from tests.kits.external import Host
from tests.peers.issuer import Issuer, query_of

KEY = bytes(range(32))
REDIRECT = "https://gw.example/oauth/callback"
ALICE, MALLORY = b"a" * 16, b"m" * 16
BROWSER = "b" * 32


class Who:
    def __init__(self, key: bytes) -> None:
        self.key = key
        self.token = b""
        self.claims: dict[str, Any] = {}


class World:
    """A resource, its server, a gateway with a store."""

    def __init__(self, issuer: Issuer, path: Path) -> None:
        self.issuer = issuer
        self.resource = f"{issuer.origin}/mcp"
        self.path = path
        document = {"resource": self.resource, "authorization_servers": [issuer.url], "scopes_supported": ["read"]}
        issuer.answers["/.well-known/oauth-protected-resource/mcp"] = (200, "application/json", json.dumps(document).encode())
        issuer.add_client("agw", "s3cret", redirect_uris=[REDIRECT])
        self.plan = UserGrant(self.resource, REDIRECT, issuer.url, ClientAuthPlan("basic", "agw", "s3cret"), scopes=["read"], trusted=[issuer.origin])
        self.grants = self.gateway()

    def host(self) -> Host:
        """A worker: what it shares with the others is the directory."""
        made = Host()
        made.store = GrantStore(str(self.path), [KEY])
        return made

    def gateway(self, clock: Any = time.time, **more: Any) -> UserGrants:
        return UserGrants(msgspec.structs.replace(self.plan, **more), self.host(), clock)

    def source(self, **clocks: Any) -> GrantSource:
        return GrantSource(self.plan, self.host(), **clocks)

    def begin(self, user: bytes = ALICE, grants: UserGrants | None = None) -> Any:
        grants = grants or self.grants
        ticket = grants.links.open_ticket(grants.store, query_of(grants.link(user)[0])["ticket"])
        assert ticket is not None
        return grants.begin(ticket, BROWSER)

    async def browse(self, url: str) -> dict[str, str]:
        """What the browser brings back."""
        answer = await Host().outside("GET", url, [], b"")
        assert answer.status == 302, answer
        where = dict(answer.headers)[b"location"].decode()
        assert where.startswith(REDIRECT + "?")
        return query_of(where)

    async def finish(self, says: dict[str, str], grants: UserGrants | None = None) -> Any:
        grants = grants or self.grants
        state = grants.links.open_state(grants.store, says["state"])
        assert state is not None
        return await grants.finish(state, says)

    async def login(self, user: bytes = ALICE, grants: UserGrants | None = None) -> Any:
        return await self.finish(await self.browse(await self.begin(user, grants)), grants)


def run(directory: Path, test: Any, path: str = "") -> None:
    with Issuer(path) as issuer:
        asyncio.run(_bounded(test(World(issuer, directory))))


async def _bounded(work: Coroutine[Any, Any, None]) -> None:
    async with asyncio.timeout(30):
        await work


@pytest.mark.parametrize("path", ["", "/realms/x"])
def test_a_user_grants_access_and_the_token_is_theirs(tmp_path: Path, path: str) -> None:
    async def test(world: World) -> None:
        with pytest.raises(CredentialError) as caught:
            await world.source().fetch(Who(ALICE), None)
        assert (caught.value.kind, caught.value.resource) == ("consent", world.resource)
        assert caught.value.url.startswith(REDIRECT + "?ticket=")
        url = await world.begin()
        query = query_of(url)
        assert (query["resource"], query["code_challenge_method"], query["scope"], query["client_id"]) == (world.resource, "S256", "read", "agw")
        await world.finish(await world.browse(url))
        assert world.issuer.last("/token")["resource"] == world.resource
        source = world.source()
        presented = await source.fetch(Who(ALICE), None)
        token = presented.lines.removeprefix(b"authorization: Bearer ").strip().decode()
        assert world.issuer.verified(token, world.resource)["sub"] == "alice"
        assert source.ready(Who(ALICE), None) == presented
        with pytest.raises(CredentialError, match="granted nothing"):
            await source.fetch(Who(MALLORY), None)
        for nobody in (None, Who(b"")):
            with pytest.raises(CredentialError, match="nobody"):
                source.ready(nobody, None)
        assert await world.source().fetch(Who(ALICE), None) == presented  # another worker, another life

    run(tmp_path, test, path=path)


def test_links_name_the_user_and_end(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        grants = world.grants
        url, ident = grants.link(ALICE)
        text = query_of(url)["ticket"]
        ticket = grants.links.open_ticket(grants.store, text)
        assert ticket is not None
        assert (ticket.ident, ticket.user) == (ident, ALICE.hex())
        assert grants.links.open_state(grants.store, text) is None, "a link is no state"
        for other in (world.gateway(resource="https://other.example/"), world.gateway(redirect_uri="https://gw.example/other"), world.gateway(lambda: 1e11)):
            assert other.links.open_ticket(other.store, text) is None
        state = (await world.browse(await world.begin()))["state"]
        assert grants.links.open_ticket(grants.store, state) is None
        assert world.gateway(lambda: 1e11).links.open_state(grants.store, state) is None
        for bad in ("", "A", "A" * 80, "A" * 5000, state[:-2] + "é", state[:-1] + ("A" if state[-1] != "A" else "B")):
            assert grants.links.open_state(grants.store, bad) is None

    run(tmp_path, test)


def test_an_answer_is_good_once(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        says = await world.browse(await world.begin())
        await world.finish(says)
        for grants in (world.grants, world.gateway()):
            with pytest.raises(CredentialError, match="answered before"):
                await world.finish(says, grants)
        assert world.issuer.count("/token") == 1

    run(tmp_path, test)


def test_the_issuer_of_an_answer(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        for iss in ("https://evil.example", world.issuer.url + "/", None):
            says = {**await world.browse(await world.begin()), "iss": iss}
            with pytest.raises(CredentialError, match="not of the server that was asked"):
                await world.finish({name: value for name, value in says.items() if value is not None})
        declined = {**await world.browse(await world.begin()), "code": "", "error": "access_denied"}
        with pytest.raises(CredentialError, match="declined"):
            await world.finish(declined)
        assert world.issuer.count("/token") == 0

    run(tmp_path, test)


def test_one_refresh_for_all_and_the_old_token_is_not_used_again(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        first = await world.login()
        sources = [world.source() for _ in range(3)]
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


def test_near_its_end_a_token_is_refreshed_once_by_many(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        world.issuer.expires_in = 100
        await world.login()
        late = time.time() + 75
        sources = [world.source(wall=lambda: late) for _ in range(3)]
        after = await asyncio.gather(*(source.fetch(Who(ALICE), None) for source in sources for _ in range(5)))
        assert len(set(after)) == 1
        assert world.issuer.count("/token") == 2
        assert world.issuer.last("/token")["grant_type"] == "refresh_token"

    run(tmp_path, test)


WORKER = """
import asyncio, sys, time
import msgspec
from agw.runtime.plan_security import UserGrant
from agw.security.upstream.grant_source import GrantSource
from agw.security.upstream.store import GrantStore
from tests.kits.external import Host

class Who:
    key, token, claims = b"a" * 16, b"", {}

async def main():
    host = Host()
    host.store = GrantStore(sys.argv[2], [bytes(range(32))])
    source = GrantSource(msgspec.json.decode(sys.argv[1], type=UserGrant), host, wall=lambda: time.time() + 280)
    print("ready", flush=True)
    sys.stdin.readline()
    print((await source.fetch(Who, None)).lines.decode().strip(), flush=True)

asyncio.run(main())
"""


def test_workers_are_processes_and_one_of_them_refreshes(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        before = await world.login()
        command = [sys.executable, "-c", WORKER, msgspec.json.encode(world.plan).decode(), str(tmp_path)]
        pipe = asyncio.subprocess.PIPE
        workers = [await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe, cwd=Path(__file__).parents[3]) for _ in range(3)]
        for worker in workers:
            assert worker.stdout is not None
            assert await worker.stdout.readline() == b"ready\n"
        ends = await asyncio.gather(*(worker.communicate(b"go\n") for worker in workers))
        assert len({out for out, _ in ends}) == 1
        assert before.access_token.encode() not in ends[0][0]
        assert ends[0][0].startswith(b"authorization: Bearer ey")
        assert world.issuer.count("/token") == 2

    run(tmp_path, test)


def test_a_grant_that_is_over_is_asked_for_again_and_a_server_that_is_down_is_not(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        await world.login()
        late = time.time() + 1e6
        old = world.gateway(lambda: late)
        world.issuer.faults["/token"] = "500"
        with pytest.raises(CredentialError) as caught:
            await old.current(ALICE)
        assert caught.value.kind == "unreachable"
        source = world.source(wall=lambda: late)
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
            assert caught.value.kind == "consent"

    run(tmp_path, test)


def test_an_upstream_that_refuses_fresh_tokens_leads_to_a_new_grant(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        await world.login()
        source, alice = world.source(), Who(ALICE)
        first = await source.fetch(alice, None)
        source.invalidate(alice)
        second = await source.fetch(alice, None)
        assert second != first
        source.invalidate(alice)
        for _ in range(2):
            with pytest.raises(CredentialError, match="refreshed or not") as caught:
                await source.fetch(alice, None)
            assert caught.value.kind == "consent"
        assert world.issuer.count("/token") == 2
        await world.login()
        assert (await source.fetch(alice, None)) not in (first, second)

    run(tmp_path, test)


def test_who_waits_hears_of_a_grant_in_another_worker(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        source = world.source()
        with pytest.raises(CredentialError) as caught:
            await source.fetch(Who(ALICE), None)
        granted = caught.value.granted
        assert granted is not None
        assert not await granted(0)
        waiting = asyncio.ensure_future(granted(20))
        await world.login(grants=world.gateway())
        assert await waiting
        assert source.ready(Who(ALICE), None) is not None

    run(tmp_path, test)


def test_the_gateway_registers_once_for_all_workers(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        gateways = [world.gateway(client=None, document=False) for _ in range(3)]
        await asyncio.gather(*(world.login(grants=grants) for grants in gateways))
        assert world.issuer.count("/register") == 1
        assert (await gateways[0].current(ALICE)).client_auth == "none"
        world.issuer.accept_registration = False
        with pytest.raises(CredentialError, match="does not register"):
            await world.begin(grants=world.gateway(client=None, redirect_uri="https://other.example/cb"))

    run(tmp_path, test)


def test_the_gateways_document_instead_of_a_registration(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        world.issuer.extra_metadata["client_id_metadata_document_supported"] = True
        assert query_of(await world.begin(grants=world.gateway(client=None)))["client_id"] == REDIRECT
        assert query_of(await world.begin(grants=world.gateway()))["client_id"] == "agw"
        assert world.issuer.count("/register") == 0

    run(tmp_path, test)


def test_the_secret_of_a_configured_client_is_not_kept(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        grant = await world.login()
        assert (grant.client_id, grant.client_secret, grant.client_auth) == ("agw", "", "")
        changed = world.gateway(lambda: time.time() + 1e6, client=ClientAuthPlan("basic", "other", "x"))
        with pytest.raises(CredentialError, match="another client"):
            await changed.current(ALICE)

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
        grants = world.gateway(issuer="", client=None)
        for message in (text, "failed a moment ago"):
            with pytest.raises(CredentialError, match=message):
                await world.begin(grants=grants)

    run(tmp_path, test)


def test_the_server_is_found_by_the_resource_and_the_second_place_is_looked_at(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        world.issuer.faults["/.well-known/oauth-authorization-server"] = "404"
        del world.issuer.answers["/.well-known/oauth-protected-resource/mcp"]
        document = {"resource": world.issuer.origin, "authorization_servers": [world.issuer.url], "scopes_supported": ["write"]}
        world.issuer.answers["/.well-known/oauth-protected-resource"] = (200, "application/json", json.dumps(document).encode())
        grants = world.gateway(issuer="", client=None, scopes=[])
        assert query_of(await world.begin(grants=grants))["scope"] == "write"
        await world.login(grants=grants)
        assert (await grants.current(ALICE)).issuer == world.issuer.url

    run(tmp_path, test)


def test_the_document_may_be_named_in_the_challenge_only(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        document = {"resource": world.resource, "authorization_servers": [world.issuer.url], "scopes_supported": ["write"]}
        del world.issuer.answers["/.well-known/oauth-protected-resource/mcp"]
        world.issuer.answers["/elsewhere"] = (200, "application/json", json.dumps(document).encode())
        grants = world.gateway(issuer="", client=None)
        host: Any = grants._host
        with pytest.raises(CredentialError, match="no metadata"):
            await grants.server()
        usual = host.outside

        async def challenged(method: str, url: str, *rest: Any) -> HttpAnswer:
            answer = await usual(method, url, *rest)
            if url != world.resource:
                return answer
            assert method == "POST"
            return HttpAnswer(401, [(b"www-authenticate", f'Bearer resource_metadata="{world.issuer.origin}/elsewhere"'.encode())], b"")

        host.outside = challenged
        grants._failed_until = 0.0
        assert (await grants.server())[1] == ["write"]
        world.issuer.answers["/elsewhere"] = (200, "application/json", b'{"resource": "https://other.example"}')
        grants._server = None
        with pytest.raises(CredentialError, match="about another resource"):
            await grants.server()

    run(tmp_path, test)


def test_only_origins_that_the_operator_wrote_are_trusted(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        await world.login()
        grants = world.gateway(trusted=["https://other.example"], ca="PEM")
        host: Any = grants._host
        await world.begin(grants=grants)
        assert {trust for _, trust in host.outside_calls} == {None}
        grants = world.gateway(ca="PEM")
        host = grants._host
        await world.begin(grants=grants)
        assert {trust for _, trust in host.outside_calls} == {Trust("PEM")}

    run(tmp_path, test)


def test_without_a_store_there_is_no_credential(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        with pytest.raises(CredentialError, match="no directory") as caught:
            await GrantSource(world.plan, Host()).fetch(Who(ALICE), None)
        assert caught.value.kind == "unreachable"

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
