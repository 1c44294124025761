"""Users grant the gateway access to their accounts elsewhere: from the call that lacks it, over the browser, to the call that works.

The authorization server is a real one (tests/peers/issuer.py). The caller's tokens are of another issuer; his browser shows one in a cookie.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urljoin, urlsplit

import pytest

from tests.integration.mcp.conftest import configuration, http_target, route
from tests.kits.gateway import Gateway, free_port, wait_until
from tests.peers.client import Client
from tests.peers.issuer import Issuer, query_of
from tests.peers.mcp_client import As, Session
from tests.peers.mcp_exchange import HttpExchange
from tests.peers.mcp_script import Offer
from tests.peers.mcp_server import McpServer
from tests.peers.upstream import Peer, Upstream

AUDIENCE = "https://agw.example"
PAGE = "http://localhost:9/.agw/oauth/callback"
URL_MODE: dict[str, Any] = {"elicitation": {"form": {}, "url": {}}}
META_CAPABILITIES = "io.modelcontextprotocol/clientCapabilities"


@pytest.fixture
def people() -> Iterator[Issuer]:
    """Who the callers are."""
    with Issuer() as found:
        yield found


@pytest.fixture
def server() -> Iterator[Issuer]:
    """Where they grant access."""
    with Issuer("/as") as found:
        found.add_client("agw", "s3cret", redirect_uris=[PAGE])
        yield found


def user(port: int, people: Issuer, name: str) -> As:
    """The endpoint for one user of the gateway."""
    return As(port, people.token(sub=name, aud=AUDIENCE))


class Browser:
    """A browser whose user is logged in at the gateway."""

    def __init__(self, port: int, people: Issuer, name: str) -> None:
        self.port = port
        self.session = people.token(sub=name, aud=AUDIENCE)
        self.cookie = ""

    def get(self, url: str) -> Any:
        parts = urlsplit(url)
        with Client(self.port) as client:
            more = f"; {self.cookie}" if self.cookie else ""
            answer = client.get(f"{parts.path}?{parts.query}", f"Cookie: login={self.session}{more}".encode())
        for value in answer.get(b"set-cookie"):
            self.cookie = value.decode().partition(";")[0]
        return answer

    def follow(self, url: str) -> str:
        """From a link to where the authorization server sends the browser."""
        answer = self.get(url)
        assert answer.status == 302, answer
        parts = urlsplit(answer.get(b"location")[0].decode())
        with Client(int(parts.port or 0)) as client:
            there = client.get(f"{parts.path}?{parts.query}")
        return str(there.get(b"location")[0].decode())

    def grant(self, url: str) -> int:
        """All of it; the status of the last page."""
        return int(self.get(self.follow(url)).status)


def jwt_auth(people: Issuer, **more: Any) -> dict[str, Any]:
    return {"mode": "strict", "issuer": people.url, "audiences": [AUDIENCE], "jwks": json.dumps(people.jwks), **more}


def grant_auth(server: Issuer, **more: Any) -> dict[str, Any]:
    client = {"clientId": "agw", "clientSecret": "s3cret"}
    return {"oauthAuthorizationCode": {"resource": "https://api.example/mcp", "redirectUri": PAGE, "issuer": server.url, "clientAuth": client, **more}}


def login_route(people: Issuer) -> dict[str, Any]:
    """Who opens the page is known by a cookie."""
    policies = {"jwtAuth": jwt_auth(people, location={"cookie": {"name": "login"}})}
    return {"name": "login", "matches": [{"path": {"pathPrefix": "/.agw"}}], "policies": policies, "backends": [{"host": "127.0.0.1:1"}]}


def mcp_config(people: Issuer, server: Issuer, *targets: McpServer, **more: Any) -> dict[str, Any]:
    first = http_target("a", targets[0].port, policies={"backendAuth": grant_auth(server)})
    others = [http_target(f"b{number}", each.port) for number, each in enumerate(targets[1:])]
    return configuration({**route("/mcp", first, *others, **more), "policies": {"jwtAuth": jwt_auth(people)}}, login_route(people))


@pytest.fixture(params=["legacy", "modern"])
def tools(request: pytest.FixtureRequest) -> Iterator[McpServer]:
    with McpServer(Offer(name="a", tools=["echo", "whoami"], era=request.param)) as found:
        yield found


def url_of(error: Any) -> str:
    """The address in an error -32042."""
    assert error["code"] == -32042
    (asked,) = error["data"]["elicitations"]
    assert asked["mode"] == "url"
    assert asked["elicitationId"]
    return str(asked["url"])


def subjects(server: Issuer, tools: McpServer) -> set[str]:
    """Whose tokens the target saw. Every request had exactly one."""
    shown = [seen.values("authorization") for seen in tools.seen]
    assert all(len(values) == 1 for values in shown)
    return {server.verified(values[0].removeprefix("Bearer "), "https://api.example/mcp")["sub"] for values in shown}


def test_a_session_with_url_mode(people: Issuer, server: Issuer, tools: McpServer, tmp_path: Path) -> None:
    with Gateway(mcp_config(people, server, tools), workers=2, env={"STATE_DIRECTORY": str(tmp_path)}) as gateway:
        alice = user(gateway.port, people, "alice")
        with Session(alice, capabilities=URL_MODE) as session:
            listed = session.request("tools/list")
            asked = session.call("echo", {"n": 1})
            assert tools.seen == [], "nothing goes out without the user's own credential"
            assert url_of(listed.error).startswith(f"{PAGE}?ticket=")
            assert Browser(gateway.port, people, "mallory").get(url_of(asked.error)).status == 403
            assert Browser(gateway.port, people, "alice").grant(url_of(asked.error)) == 200
            for number in range(6):
                assert "result" in session.call("echo", {"n": number}).message
            assert {tool["name"] for tool in session.request("tools/list").result["tools"]} == {"echo", "whoami"}
        with Session(user(gateway.port, people, "bob"), capabilities=URL_MODE) as session:
            assert url_of(session.call("echo").error)
        assert server.count("/token") == 1
        assert subjects(server, tools) == {"alice"}
        assert not any(url_of(asked.error) in line for line in gateway.stderr().splitlines())
    files = [(tmp_path / "grants" / name).read_bytes() for name in os.listdir(tmp_path / "grants")]
    assert not any(b"Bearer" in text or b"eyJ" in text or b"alice" in text for text in files)
    # Another life of the gateway knows the grant.
    with Gateway(mcp_config(people, server, tools), workers=1, env={"STATE_DIRECTORY": str(tmp_path)}) as gateway, Session(
        user(gateway.port, people, "alice")
    ) as session:
        assert "result" in session.call("echo").message
    assert server.count("/token") == 1


def modern_meta(*, url: bool) -> dict[str, Any]:
    return {META_CAPABILITIES: URL_MODE if url else {}}


def test_a_modern_client_is_asked_and_its_retry_waits_for_the_user(people: Issuer, server: Issuer, tools: McpServer) -> None:
    with Gateway(mcp_config(people, server, tools), workers=2) as gateway:
        alice = user(gateway.port, people, "alice")
        params = {"name": "echo", "arguments": {"n": 1}}
        asked = alice.modern("tools/call", params, meta=modern_meta(url=True)).result
        assert asked["resultType"] == "input_required"
        ((key, question),) = asked["inputRequests"].items()
        assert (question["method"], question["params"]["mode"]) == ("elicitation/create", "url")
        browser = Browser(gateway.port, people, "alice")
        back = browser.follow(question["params"]["url"])
        declined = alice.modern("tools/call", {**params, "inputResponses": {key: {"action": "decline"}}}, meta=modern_meta(url=True))
        assert declined.error["data"]["reason"] == "consent_required"
        answers: list[Any] = []
        retry = {**params, "inputResponses": {key: {"action": "accept"}}}
        waiting = threading.Thread(target=lambda: answers.append(alice.modern("tools/call", retry, ident=2, meta=modern_meta(url=True))))
        waiting.start()
        assert browser.get(back).status == 200
        waiting.join(25)
        assert answers[0].result["resultType"] == "complete"
        assert not any(b"agw-consent" in seen.body for seen in tools.seen), "the answer to our question is no business of the target's"
        assert subjects(server, tools) == {"alice"}


def test_clients_without_url_mode_are_told_the_address(people: Issuer, server: Issuer, tools: McpServer) -> None:
    with Gateway(mcp_config(people, server, tools), workers=1) as gateway:
        alice = user(gateway.port, people, "alice")
        told = [alice.modern("tools/call", {"name": "echo", "arguments": {}}, meta=modern_meta(url=False)).error, alice.modern("tools/list").error]
        with Session(alice, "2025-06-18", capabilities={"elicitation": {}}) as session:
            told += [session.call("echo").error, session.request("tools/list").error]
        for error in told:
            assert (error["code"], error["data"]["reason"]) == (-32603, "consent_required")
            assert error["data"]["url"] in error["message"]
        assert Browser(gateway.port, people, "alice").grant(told[-1]["data"]["url"]) == 200
        with Session(alice, "2025-06-18") as session:
            assert "result" in session.call("echo").message


@pytest.mark.parametrize("mode", ["failOpen", "failClosed"])
def test_with_several_targets_the_others_go_on(people: Issuer, server: Issuer, tools: McpServer, mode: str) -> None:
    with McpServer(Offer(name="other", tools=["noop"])) as other, Gateway(
        mcp_config(people, server, tools, other, failureMode=mode), workers=1
    ) as gateway, Session(user(gateway.port, people, "alice"), capabilities=URL_MODE) as session:
        listed = session.request("tools/list")
        if mode == "failOpen":
            assert {tool["name"] for tool in listed.result["tools"]} == {"b0_noop"}
            assert "result" in session.call("b0_noop").message
            link = url_of(session.call("a_echo").error)
        else:
            link = url_of(listed.error)
        assert Browser(gateway.port, people, "alice").grant(link) == 200
        assert "result" in session.call("a_echo").message
        assert {tool["name"] for tool in session.request("tools/list").result["tools"]} >= {"a_echo", "b0_noop"}


def test_a_target_that_refuses_the_users_token(people: Issuer, server: Issuer, tools: McpServer) -> None:
    refusing: set[str] = set()
    refuse_all = threading.Event()

    async def take(exchange: HttpExchange) -> bool:
        (given,) = exchange.seen.values("authorization")
        if refuse_all.is_set() or given in refusing:
            await exchange.reply(401, {"WWW-Authenticate": 'Bearer realm="target"'}, b"")
            return True
        return False

    with Gateway(mcp_config(people, server, tools), workers=1) as gateway, Session(user(gateway.port, people, "alice"), capabilities=URL_MODE) as session:
        browser = Browser(gateway.port, people, "alice")
        assert browser.grant(url_of(session.call("echo").error)) == 200
        assert "result" in session.call("echo").message
        tools.take = take
        refusing.update(value for seen in tools.seen for value in seen.values("authorization"))
        # One refresh, and the caller notices nothing.
        assert "result" in session.call("echo").message
        assert server.last("/token")["grant_type"] == "refresh_token"
        refuse_all.set()
        link = url_of(session.call("echo").error)
        refuse_all.clear()
        assert browser.grant(link) == 200
        assert "result" in session.call("echo").message


def test_a_refresh_that_is_refused_leads_to_the_user(people: Issuer, server: Issuer, tools: McpServer) -> None:
    server.expires_in = 1
    with Gateway(mcp_config(people, server, tools), workers=2) as gateway, Session(user(gateway.port, people, "alice"), capabilities=URL_MODE) as session:
        assert Browser(gateway.port, people, "alice").grant(url_of(session.call("echo").error)) == 200
        server.answers["/token"] = (400, "application/json", b'{"error": "invalid_grant"}')

        async def take(exchange: HttpExchange) -> bool:
            await exchange.reply(401, {}, b"")
            return True

        tools.take = take
        assert url_of(session.call("echo").error)
        assert server.last("/token")["grant_type"] == "refresh_token"


def test_where_anyone_may_grant_nobody_is_asked_who_he_is(people: Issuer, server: Issuer, tools: McpServer) -> None:
    target = http_target("a", tools.port, policies={"backendAuth": grant_auth(server, browser="anyone")})
    config = configuration({**route("/", target), "policies": {"jwtAuth": jwt_auth(people)}}, frontendPolicies={"accessLog": {"enabled": True}})
    with Gateway(config, workers=1) as gateway, Session(user(gateway.port, people, "alice"), capabilities=URL_MODE) as session:
        link = url_of(session.call("echo").error)
        assert Browser(gateway.port, people, "nobody").grant(link) == 200
        assert "result" in session.call("echo").message
        wait_until(lambda: gateway.stdout().count("oauth-callback") == 2, 5, "both records of the page")
        for secret in (query_of(link)["ticket"][:20], "ticket=", "state=", "code="):
            assert secret not in gateway.stdout() + gateway.stderr()


def test_an_http_route_tells_its_caller_where_to_go(people: Issuer, server: Issuer) -> None:
    with Upstream(Peer.serve) as upstream:
        routes = [
            {"name": "api", "matches": [{"path": {"pathPrefix": "/"}}], "backends": [{"host": upstream.host}],
             "policies": {"jwtAuth": jwt_auth(people), "backendAuth": grant_auth(server)}},
            login_route(people),
        ]  # fmt: skip
        with Gateway(configuration(*routes), workers=2) as gateway, Client(gateway.port) as client:
            alice = b"Authorization: Bearer " + people.token(sub="alice", aud=AUDIENCE).encode()
            told = client.get("/", alice)
            assert told.status == 403
            link = told.get(b"link")[0].decode().partition("<")[2].partition(">")[0]
            assert query_of(link).keys() == {"ticket"}
            assert Browser(gateway.port, people, "alice").grant(link) == 200
            assert [client.get("/", alice).status for _ in range(3)] == [200] * 3
            # The page is the gateway's own: nothing there reaches the backend, whoever asks.
            for method in (b"GET", b"POST"):
                client.send(method + b" /.agw/oauth/callback HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n" + alice + b"\r\n\r\n")
                assert client.answer().status == 401
        assert {server.verified(seen.get(b"authorization")[0].decode().removeprefix("Bearer "))["sub"] for seen in upstream.requests} == {"alice"}
        assert len(upstream.requests) == 3


class Visitor:
    """A browser with a cookie jar that goes where it is sent, as somebody whom the issuer of `people` knows."""

    def __init__(self) -> None:
        self.cookies: dict[tuple[str, str], str] = {}

    def open(self, url: str) -> tuple[int, list[str]]:
        """The last status, and every address on the way, without queries."""
        way: list[str] = []
        for _ in range(12):
            parts = urlsplit(url)
            way.append(parts.path)
            jar = "; ".join(f"{name}={value}" for (host, name), value in self.cookies.items() if host == parts.netloc)
            with Client(int(parts.port or 0)) as client:
                answer = client.get(f"{parts.path}?{parts.query}" if parts.query else parts.path, f"Accept: text/html\r\nCookie: {jar}".encode())
            for value in answer.get(b"set-cookie"):
                name, _, rest = value.decode().partition("=")
                self.cookies[parts.netloc, name] = rest.partition(";")[0]
            if answer.status not in (302, 303):
                return answer.status, way
            url = urljoin(url, answer.get(b"location")[0].decode())
        raise AssertionError(f"sent around in circles: {way}")


def test_the_page_behind_a_browser_login(people: Issuer, server: Issuer, tools: McpServer) -> None:
    port = free_port()
    origin = f"http://127.0.0.1:{port}"
    page, login = f"{origin}/.agw/oauth/callback", f"{origin}/.agw/login"
    people.add_client("ui", "ui-secret", redirect_uris=[login])
    server.clients["agw"].redirect_uris = [page]
    oidc = {"issuer": people.url, "clientId": "ui", "clientSecret": "ui-secret", "redirectURI": login}
    pages = {"name": "pages", "matches": [{"path": {"pathPrefix": "/.agw"}}], "policies": {"oidc": oidc}, "backends": [{"host": "127.0.0.1:1"}]}
    target = http_target("a", tools.port, policies={"backendAuth": grant_auth(server, redirectUri=page)})
    config = configuration({**route("/mcp", target), "policies": {"jwtAuth": jwt_auth(people)}}, pages)
    config["gateways"]["default"]["port"] = port
    with Gateway(config, workers=2) as gateway, Session(user(gateway.port, people, "alice"), capabilities=URL_MODE) as session:
        link = url_of(session.call("echo").error)
        people.user = "mallory"
        assert Visitor().open(link)[0] == 403
        people.user = "alice"
        status, way = Visitor().open(link)
        assert (status, way) == (200, ["/.agw/oauth/callback", "/authorize", "/.agw/login", "/.agw/oauth/callback", "/as/authorize", "/.agw/oauth/callback"])
        assert "result" in session.call("echo").message
        assert subjects(server, tools) == {"alice"}
