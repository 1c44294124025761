"""`extAuthz` over gRPC, against a real server of Envoy's Authorization service."""

from __future__ import annotations

import asyncio
import gc
import subprocess
import sys
from typing import Any

import pytest

from agw.runtime.plan_security import ExtAuthzPlan
from agw.security.contract import Found
from agw.security.ext_authz import channel, factory
from agw.security.ext_authz.messages import CheckRequest, CheckResponse
from tests.kits.authorization import AuthorizationPeer, Decide
from tests.kits.external import FakeRequest, Host, compile_python, verdict_of


def allow(**fields: Any) -> Any:
    return CheckResponse(status={"code": 0}, **fields)


def option(key: str, value: str, **more: Any) -> dict[str, Any]:
    return {"header": {"key": key, "value": value}, **more}


def check(decide: Decide, request: FakeRequest, found: Found | None = None, **fields: Any) -> tuple[Any, Any, Host]:
    async def run() -> tuple[Any, Any, Host]:
        host = Host()
        async with AuthorizationPeer(decide) as peer:
            step = factory(ExtAuthzPlan(host="127.0.0.1", port=peer.port, **fields), host, compile_python)
            verdict = await verdict_of(step, request, found)
            step.close()
        asked = peer.service.asked[0] if peer.service.asked else None
        return verdict, asked, host

    result = asyncio.run(run())
    gc.collect()  # an unclosed connection would be a warning, and so an error
    return result


def test_the_service_sees_the_request_as_envoy_shows_it() -> None:
    request = FakeRequest("POST", b"/a", [(b"x-a", b"1"), (b"x-a", b"2"), (b"x-request-id", b"id"), (b"content-length", b"5")], query=b"q", secure=True)
    found = Found()
    found.claims["jwt"] = {"sub": "kim"}
    verdict, asked, host = check(lambda _: allow(), request, found, context={"k": "v"})
    assert verdict is None and host.counted == {("extAuthz", "ok"): 1}
    http = asked.request.http
    assert (http.method, http.path, http.host, http.scheme, http.size, http.id) == ("POST", "/a?q", "app.example", "https", 5, "id")
    assert dict(http.headers) == {
        ":method": "POST", ":path": "/a?q", ":authority": "app.example", ":scheme": "https", "x-a": "1,2", "x-request-id": "id", "content-length": "5",
    }  # fmt: skip
    assert asked.source.address.socket_address.address == "192.0.2.7"
    assert dict(asked.context_extensions) == {"k": "v"}
    assert asked.metadata_context.filter_metadata["envoy.filters.http.jwt_authn"]["jwt_payload"]["sub"] == "kim"


def test_listed_headers_and_metadata() -> None:
    _, asked, _ = check(
        lambda _: allow(), FakeRequest(headers=[(b"cookie", b"c"), (b"x", b"y")]), include_headers=["Cookie"], metadata_cel={"ns": "{'a': [1, 'b']}", "n": "7"}
    )
    assert dict(asked.request.http.headers) == {"cookie": "c"}
    assert list(asked.metadata_context.filter_metadata["ns"]["a"]) == [1, "b"]
    assert asked.metadata_context.filter_metadata["n"]["value"] == 7


@pytest.mark.parametrize("as_bytes", [False, True])
def test_the_body(as_bytes: bool) -> None:
    found = Found()
    found.body = b"hello\xff"
    request = FakeRequest("POST", b"/", [(b"content-length", b"6")])
    _, asked, _ = check(lambda _: allow(), request, found, body_bytes=8, pack_as_bytes=as_bytes)
    http = asked.request.http
    assert (http.raw_body, http.body) == ((b"hello\xff", "") if as_bytes else (b"", "hello\ufffd"))
    verdict, asked, _ = check(lambda _: allow(), request, found, body_bytes=3)
    assert (verdict.status, asked) == (413, None)


def test_header_changes_towards_the_upstream() -> None:
    reply = allow(
        ok_response={
            "headers": [
                option("X-User", "kim"), option("x-multi", "b", append={"value": True}), option("x-here", "no", append_action=1),
                option("x-new", "yes", append_action=1), option("x-absent", "no", append_action=3), option("x-bad", "a\r\nb: c"),
                option("content-length", "1"), option("x y", "z"), option("x-gone", "1"),
            ],
            "headers_to_remove": ["Authorization", "Host", ":path", "x-gone"],
        }
    )  # fmt: skip
    found = Found()
    request = FakeRequest(headers=[(b"x-user", b"root"), (b"x-multi", b"a"), (b"x-here", b"1"), (b"x-bad", b"client"), (b"authorization", b"t")])
    verdict, _, _ = check(lambda _: reply, request, found)
    assert verdict is None
    assert found.lines == b"x-user: kim\r\nx-multi: b\r\nx-new: yes\r\n"
    assert set(found.remove) == {b"authorization", b"x-user", b"x-new", b"x-bad", b"x-gone"}


def test_dynamic_metadata_becomes_claims() -> None:
    reply = allow()
    reply.dynamic_metadata.update({"user": "kim", "groups": ["a"]})
    found = Found()
    found.claims["extauthz"] = {"before": 1}
    check(lambda _: reply, FakeRequest(), found)
    assert found.claims["extauthz"] == {"before": 1, "user": "kim", "groups": ["a"]}


def test_a_refusal_says_what_the_service_says() -> None:
    reply = CheckResponse(
        status={"code": 7},
        denied_response={
            "status": {"code": 429}, "body": "slow down",
            "headers": [option("Retry-After", "1"), option("retry-after", "2"), option("content-type", "text/x"), option("a", "b\nc")],
        },
    )  # fmt: skip
    verdict, _, host = check(lambda _: reply, FakeRequest())
    assert (verdict.status, verdict.body, verdict.content_type, verdict.lines) == (429, b"slow down", b"text/x", b"retry-after: 2\r\n")
    assert host.counted == {("extAuthz", "refused"): 1}


@pytest.mark.parametrize(
    "reply",
    [
        CheckResponse(status={"code": 7}),
        CheckResponse(denied_response={}),
        CheckResponse(status={"code": 0}, denied_response={"status": {"code": 200}}),
    ],
)
def test_every_refusal_is_one(reply: Any) -> None:
    verdict, _, _ = check(lambda _: reply, FakeRequest())
    assert (verdict.status, verdict.body) == (403, None)


def test_an_ok_response_alone_lets_pass_and_nothing_at_all_does_not() -> None:
    assert check(lambda _: CheckResponse(ok_response={}), FakeRequest())[0] is None
    verdict, _, host = check(lambda _: CheckResponse(), FakeRequest(), on_failure=503)
    assert verdict.status == 503 and host.counted == {("extAuthz", "error"): 1}


def test_too_many_changes_are_no_permission() -> None:
    reply = allow(ok_response={"headers_to_remove": [f"h{i}" for i in range(101)]})
    assert check(lambda _: reply, FakeRequest())[0].status == 403


def test_an_error_of_the_service_and_nobody_there() -> None:
    def broken(_: Any) -> Any:
        raise RuntimeError

    for fields, status in (({}, 403), ({"on_failure": 0}, None)):
        verdict, _, _ = check(broken, FakeRequest(), **fields)
        assert (verdict.status if verdict else None) == status

    async def nobody() -> None:
        async with AuthorizationPeer(lambda _: allow()) as peer:
            port = peer.port
        step = factory(ExtAuthzPlan(host="127.0.0.1", port=port), Host())
        verdict = await verdict_of(step, FakeRequest())
        assert verdict is not None and "cannot connect" in verdict.cause
        step.close()

    asyncio.run(nobody())


def test_one_connection_for_all_that_comes_back_after_a_restart() -> None:
    async def run() -> None:
        async with AuthorizationPeer(lambda _: allow()) as peer:
            port = peer.port
            plan = ExtAuthzPlan(host="127.0.0.1", port=port)
            one, two = factory(plan, Host()), factory(plan, Host())
            assert len(channel._channels) == 1
            assert await asyncio.gather(*(verdict_of(step, FakeRequest()) for step in (one, two) * 20)) == [None] * 40
            assert len(peer._server.protocols) == 1
        assert (await verdict_of(one, FakeRequest())) is not None
        async with AuthorizationPeer(lambda _: allow(), port):
            assert await verdict_of(one, FakeRequest()) is None
            one.close()
            one.close()
            assert await verdict_of(two, FakeRequest()) is None, "closing is counted"
            two.close()
            assert channel._channels == {}

    asyncio.run(run())
    gc.collect()


def test_a_silent_connection_is_given_up() -> None:
    async def run() -> None:
        silent = True

        async def decide() -> Any:
            if silent:
                await asyncio.Event().wait()
            return allow()

        async with AuthorizationPeer(lambda _: decide()) as peer:
            step = factory(ExtAuthzPlan(host="127.0.0.1", port=peer.port, timeout_ns=30_000_000), Host())
            shared = channel._channels["127.0.0.1", peer.port, False]
            for _ in range(channel.MAX_SILENT):
                assert await verdict_of(step, FakeRequest()) is not None
            assert shared._channel is None
            silent = False
            assert await verdict_of(step, FakeRequest()) is None
            step.close()

    asyncio.run(run())


def test_calls_in_flight_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(channel, "MAX_IN_FLIGHT", 2)

    async def run() -> None:
        go = asyncio.Event()

        async def decide() -> Any:
            await go.wait()
            return allow()

        async with AuthorizationPeer(lambda _: decide()) as peer:
            step = factory(ExtAuthzPlan(host="127.0.0.1", port=peer.port), Host())
            waiting = [asyncio.ensure_future(verdict_of(step, FakeRequest())) for _ in range(3)]
            done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            (refused,) = [task.result() for task in done]
            assert refused is not None and "too many" in refused.cause
            go.set()
            assert [await task for task in waiting].count(None) == 2
            step.close()

    asyncio.run(run())


def test_a_unix_socket(tmp_path: Any) -> None:
    async def run() -> None:
        path = str(tmp_path / "authz.sock")
        async with AuthorizationPeer(lambda _: allow(), path=path):
            step = factory(ExtAuthzPlan(host=f"unix:{path}"), Host())
            assert await verdict_of(step, FakeRequest()) is None
            step.close()

    asyncio.run(run())


def test_the_wire_is_envoys() -> None:
    """Octets written by hand from the field numbers of Envoy's files."""
    message = CheckRequest(attributes={"source": {"address": {"socket_address": {"address": "::1"}}}, "context_extensions": {"k": "v"}})
    message.attributes.request.http.method = "GET"
    assert message.SerializeToString(deterministic=True).hex() == (
        "0a1c" + "0a09" + "0a07" + "0a05" + "1203" + b"::1".hex() + "2207" + "1205" + "1203" + b"GET".hex() + "5206" + "0a016b" + "120176"
    )
    reply = CheckResponse.FromString(bytes.fromhex("0a020807" + "1211" + "0a03089103" + "1205" + "0a03" + "0a0161" + "1a0362" + "7979"))
    assert (reply.status.code, reply.denied_response.status.code, reply.denied_response.headers[0].header.key) == (7, 401, "a")
    reply = CheckResponse.FromString(bytes.fromhex("1a0c" + "1207" + "0a03" + "0a0161" + "1200" + "2a0162"))
    assert reply.ok_response.headers_to_remove == ["b"] and reply.ok_response.headers[0].HasField("append")


def test_http_policies_do_not_load_grpc() -> None:
    code = "import sys, agw.security.ext_authz, agw.security.ext_authz.http; assert not {'grpclib', 'google.protobuf'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
