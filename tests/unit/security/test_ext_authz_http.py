"""`extAuthz` over HTTP, against a real server."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from agw.runtime.plan_security import CallPlan, ExtAuthzPlan
from agw.security.contract import Found
from agw.security.ext_authz import factory
from agw.security.ext_authz.cache import lifetime_s
from agw.security.ext_authz.http import HttpService
from agw.security.ext_authz.values import constant
from tests.kits.external import Answer, Asked, FakeRequest, Host, HttpPeer, compile_python, verdict_of


def plan(port: int, **fields: Any) -> ExtAuthzPlan:
    return ExtAuthzPlan(protocol="http", call=CallPlan(port), **fields)


def ok(asked: Asked) -> Answer:
    return 200, [("x-auth-user", "kim"), ("x-other", "no")], b""


def refusing(status: int, *headers: tuple[str, str], body: bytes = b"") -> Any:
    return lambda asked: (status, list(headers), body)


def check(handler: Any, request: FakeRequest, found: Found | None = None, **fields: Any) -> tuple[Any, HttpPeer, Host]:
    async def run() -> tuple[Any, HttpPeer, Host]:
        host = Host()
        async with HttpPeer(handler) as peer:
            step = factory(plan(peer.port, **fields), host, compile_python)
            verdict = await verdict_of(step, request, found)
            step.close()
        return verdict, peer, host

    return asyncio.run(run())


def test_the_service_sees_method_path_and_authorization() -> None:
    request = FakeRequest("DELETE", b"/a/b", [(b"authorization", b"Bearer t"), (b"cookie", b"c=1")], query=b"q=1")
    verdict, peer, host = check(ok, request)
    assert verdict is None
    (asked,) = peer.asked
    assert (asked.method, asked.target) == ("DELETE", "/a/b?q=1")
    assert asked.headers["authorization"] == "Bearer t"
    assert "cookie" not in asked.headers
    assert host.counted == {("extAuthz", "ok"): 1}


def test_the_method_can_be_another() -> None:
    _, peer, _ = check(ok, FakeRequest("DELETE", b"/x"), add_headers_cel={":method": "'PO' + 'ST'", "a": "'b'"}, body_cel="'x=1'")
    assert (peer.asked[0].method, peer.asked[0].body, peer.asked[0].headers["a"]) == ("POST", b"x=1", "b")
    verdict, peer, _ = check(ok, FakeRequest(), add_headers_cel={":method": "'GET / HTTP/1.1'"})
    assert (verdict.status, peer.asked) == (403, [])


def test_listed_headers_replace_the_default() -> None:
    request = FakeRequest(headers=[(b"authorization", b"Bearer t"), (b"cookie", b"c=1")])
    _, peer, _ = check(ok, request, include_headers=["Cookie"])
    assert peer.asked[0].headers["cookie"] == "c=1"
    assert "authorization" not in peer.asked[0].headers


def test_path_body_and_added_headers_are_expressions() -> None:
    fields = {
        "path_cel": '"/oauth2/auth"', "body_cel": "{'who': request.peer.decode()}",
        "add_headers_cel": {"x-forwarded-host": "request.values(b'host')[0]", "host": "'elsewhere'"},
    }  # fmt: skip
    _, peer, _ = check(ok, FakeRequest("POST", b"/x"), **fields)
    (asked,) = peer.asked
    assert (asked.target, asked.body, asked.headers["x-forwarded-host"], asked.headers["host"]) == (
        "/oauth2/auth", b'{"who":"192.0.2.7"}', "app.example", "service",
    )  # fmt: skip


def test_chosen_response_headers_replace_those_of_the_client() -> None:
    found = Found()
    request = FakeRequest(headers=[(b"x-auth-user", b"root"), (b"x-auth-email", b"root@example.com")])
    verdict, _, _ = check(ok, request, found, response_headers=["X-Auth-User", "x-auth-email"])
    assert verdict is None
    assert found.lines == b"x-auth-user: kim\r\n"
    assert set(found.remove) == {b"x-auth-user", b"x-auth-email"}, "a header the service did not say is not the client's to say"
    assert not found.lasting


def test_metadata_of_the_answer_and_what_is_missing() -> None:
    found = Found()
    check(ok, FakeRequest(), found, metadata_cel={"user": "response['headers']['x-auth-user']", "email": "response['headers']['none']"})
    assert found.claims == {"extauthz": {"user": "kim"}}


def test_a_refusal_is_passed_on_with_what_a_client_needs() -> None:
    handler = refusing(401, ("www-authenticate", "Basic"), ("x-secret", "s"), ("content-type", "text/html"), body=b"<p>no</p>")
    verdict, _, host = check(handler, FakeRequest())
    assert (verdict.status, verdict.lines, verdict.body, verdict.content_type) == (401, b"www-authenticate: Basic\r\n", b"<p>no</p>", b"text/html")
    assert host.counted == {("extAuthz", "refused"): 1}


def test_a_long_refusal_is_replaced() -> None:
    verdict, _, _ = check(refusing(403, body=b"x" * 70_000), FakeRequest())
    assert (verdict.status, verdict.body) == (403, None)


def test_401_becomes_a_redirect() -> None:
    verdict, _, _ = check(refusing(401), FakeRequest(path=b"/deep"), redirect_cel="'/oauth2/start?rd=' + request.path.decode()")
    assert (verdict.status, verdict.body) == (302, b"")
    assert verdict.lines.startswith(b"Location: /oauth2/start?rd=/deep\r\n")


def test_only_401_is_redirected() -> None:
    verdict, _, _ = check(refusing(403), FakeRequest(), redirect_cel="'/login'")
    assert verdict.status == 403


@pytest.mark.parametrize("target", ["'//evil.example'", r"'/\\evil.example'", "'/a\\r\\nset-cookie: x'", "'javascript:alert(1)'", "'/' + 'a' * 9000"])
def test_a_redirect_to_nowhere_good_is_a_failure(target: str) -> None:
    verdict, _, host = check(refusing(401), FakeRequest(), redirect_cel=target + " + ''")
    assert (verdict.status, verdict.lines) == (403, b"")
    assert host.counted == {("extAuthz", "error"): 1}


@pytest.mark.parametrize(("on_failure", "status"), [(403, 403), (503, 503), (0, None)])
@pytest.mark.parametrize("fault", ["500", "expression", "closed"])
def test_failures_do_what_the_policy_says(fault: str, on_failure: int, status: int | None) -> None:
    async def run() -> None:
        host = Host()
        async with HttpPeer(refusing(500)) as peer:
            port = peer.port
            if fault != "closed":
                step = factory(plan(port, on_failure=on_failure, path_cel="1/0" if fault == "expression" else ""), host, compile_python)
                verdict = await verdict_of(step, FakeRequest())
        if fault == "closed":
            verdict = await verdict_of(factory(plan(port, on_failure=on_failure), host), FakeRequest())
        assert (verdict.status if verdict else None) == status
        assert host.counted == {("extAuthz", "error"): 1}

    asyncio.run(run())


def test_a_slow_service_is_not_waited_for() -> None:
    async def never(asked: Asked) -> Answer:
        await asyncio.sleep(3600)
        raise AssertionError

    async def run() -> None:
        host = Host()
        peer = HttpPeer(never)
        async with peer:
            verdict = await verdict_of(factory(plan(peer.port, timeout_ns=50_000_000), host), FakeRequest())
            for task in asyncio.all_tasks() - {asyncio.current_task()}:
                task.cancel()
        assert verdict is not None and verdict.status == 403

    asyncio.run(run())


def test_header_lines_of_the_service_cannot_split() -> None:
    async def run() -> None:
        async def lines(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 200 OK\r\nx-auth-user: a\x0bb\r\nconnection: close\r\ncontent-length: 0\r\n\r\n")
            writer.close()

        server = await asyncio.start_server(lines, "127.0.0.1", 0)
        found = Found()
        async with server:
            port = server.sockets[0].getsockname()[1]
            await verdict_of(factory(plan(port, response_headers=["x-auth-user", "connection"]), Host()), FakeRequest(), found)
        assert found.lines == b""

    asyncio.run(run())


def test_a_body_that_is_to_be_seen() -> None:
    request = FakeRequest("POST", b"/", [(b"content-length", b"5")])
    found = Found()
    found.body = b"hello"
    step = factory(plan(1, body_bytes=8), Host())
    assert (step.wants_body(request), step.wants_body(FakeRequest())) == (8, 0)
    _, peer, _ = check(ok, request, found, body_bytes=8)
    assert peer.asked[0].body == b"hello"
    verdict, peer, _ = check(ok, request, found, body_bytes=4)
    assert (verdict.status, peer.asked) == (413, [])
    _, peer, _ = check(ok, request, found, body_bytes=4, allow_partial=True)
    assert peer.asked[0].body == b"hell"
    verdict, peer, _ = check(ok, request, None, body_bytes=8)
    assert (verdict.status, peer.asked) == (403, []), "a body nobody buffered is no empty body"


def test_who_was_asked_about_elsewhere_passes() -> None:
    request = FakeRequest()
    request.hopped = True
    found = Found()
    verdict, peer, _ = check(refusing(403), request, found)
    assert (verdict, peer.asked) == (None, [])
    assert not found.lasting, "it says nothing about who comes directly with the same head"


def test_permissions_are_kept_under_the_key_and_refusals_never() -> None:
    async def run() -> None:
        host = Host()
        answers = [403, 200, 200]

        def handler(asked: Asked) -> Answer:
            return answers.pop(0), [("x-auth-user", "kim")], b""

        async with HttpPeer(handler) as peer:
            fields = {"cache_key_cel": ["request.path.decode()"], "cache_ttl_cel": "'5m'", "response_headers": ["x-auth-user"], "cache_entries": 1}
            step = factory(plan(peer.port, **fields), host, compile_python)
            assert await verdict_of(step, FakeRequest()) is not None
            assert await verdict_of(step, FakeRequest()) is None
            found = Found()
            assert step.check(FakeRequest(), found) is None, "at once, from the cache"
            assert found.lines == b"x-auth-user: kim\r\n" and not found.lasting
            assert await verdict_of(step, FakeRequest(path=b"/other")) is None
            assert step._cache is not None and len(step._cache) == 1
            assert len(peer.asked) == 3
            step.close()
            assert len(step._cache) == 0
        assert host.counted == {("extAuthz", "refused"): 1, ("extAuthz", "ok"): 2, ("extAuthz", "cached"): 1}

    asyncio.run(run())


@pytest.mark.parametrize("fields", [{"cache_ttl_cel": "0"}, {"cache_ttl_cel": "1/0"}, {}, {"cache_ttl_cel": "'5m'", "cache_key_cel": ["1/0"]}])
def test_without_lifetime_or_key_nothing_is_kept(fields: Any) -> None:
    async def run() -> None:
        async with HttpPeer(ok) as peer:
            step = factory(plan(peer.port, **{"cache_key_cel": ["'x'"], **fields}), Host(), compile_python)
            for _ in range(2):
                await verdict_of(step, FakeRequest())
            assert len(peer.asked) == 2

    asyncio.run(run())


def test_lifetimes() -> None:
    assert [lifetime_s(value) for value in ("5m", "1.5s", "200ms", 3, timedelta(seconds=2))] == [300, 1.5, 0.2, 3, 2]
    assert 3590 < lifetime_s(time.time() + 3600) <= 3600, "as the exp of a token"
    assert 3590 < lifetime_s(datetime.now(UTC) + timedelta(hours=1)) <= 3600
    for value in ("", "5", "5 minutes", None, True):
        with pytest.raises(ValueError):
            lifetime_s(value)


def test_constants_need_no_engine_and_others_do() -> None:
    assert [constant(text) for text in ('"/a"', "'/a'", ' "x" ', '"a" + "b"', '"a\\n"', "x")] == ["/a", "/a", "x", None, None, None]
    with pytest.raises(ValueError, match="path: only text constants"):
        HttpService(plan(1, path_cel="request.path"), Host().caller, None)
    with pytest.raises(ValueError, match="line 1, column"):
        factory(plan(1, path_cel="request.pth"), Host())


def test_real_expressions() -> None:
    """What agentgateway's examples for oauth2-proxy, tailscale and token exchange write."""
    says = b'{"access_token": "t", "Node": {"Name": "laptop"}}'

    async def run() -> None:
        answers = [(401, [], b""), (200, [("x-auth-request-user", "kim"), ("content-type", "application/json")], says)]
        async with HttpPeer(lambda _: answers.pop(0)) as peer:
            fields = {
                "path_cel": '"/whois?addr=" + source.address', "redirect_cel": '"/oauth2/start?rd=" + request.path',
                "add_headers_cel": {"x-forwarded-host": "request.host"}, "body_cel": 'form.encode({"audience": "a b"})',
                "metadata_cel": {
                    "user": 'response.headers["x-auth-request-user"]', "email": 'response.headers["x-auth-request-email"]',
                    "node": "json(response.body).Node.Name", "expires": "1900000000",
                },
                "cache_key_cel": ['request.headers["authorization"]'], "cache_ttl_cel": "extauthz.expires - 5",
            }  # fmt: skip
            step = factory(plan(peer.port, **fields), Host())
            request = FakeRequest("POST", b"/deep", [(b"authorization", b"Bearer t")])
            verdict = await verdict_of(step, request)
            assert verdict is not None and verdict.lines.startswith(b"Location: /oauth2/start?rd=/deep\r\n")
            found = Found()
            assert await verdict_of(step, request, found) is None
            assert found.claims["extauthz"] == {"user": "kim", "node": "laptop", "expires": 1_900_000_000}
            assert (peer.asked[1].target, peer.asked[1].body) == ("/whois?addr=192.0.2.7", b"audience=a+b")
            assert peer.asked[1].headers["x-forwarded-host"] == "app.example"
            assert step.check(request, found) is None, "kept until the token ends"

    asyncio.run(run())
