"""OpenApiTransport against a real HTTP service: both eras, calls, failures, and documents that change."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest

from agw.mcp import message
from agw.mcp.openapi import source
from agw.mcp.transport import TransportError
from agw.mcp.transports.openapi import OpenApiTransport
from agw.runtime.plan import OpenApiPlan
from tests.kits.openapi_service import PlainOrigin, Seen, Service

MODERN = {"io.modelcontextprotocol/protocolVersion": "2026-07-28", "io.modelcontextprotocol/clientCapabilities": {}}
JSON = {"content-type": "application/json"}


def document(**more: Any) -> dict[str, Any]:
    """A small service of pets; `more` are further paths by operationId."""
    pet = {"type": "object", "properties": {"id": {"type": "integer"}}}
    return {
        "openapi": "3.1.0",
        "info": {"title": "Pets", "version": "2.1", "description": "All about pets. " * 500},
        "servers": [{"url": "https://unused.test/api"}],
        "paths": {
            "/pets/{id}": {
                "get": {"operationId": "pet", "summary": "One pet", "responses": {"200": {"content": {"application/json": {"schema": pet}}}}},
                "delete": {"operationId": "forget"},
            },
            "/pets": {"post": {"operationId": "add", "requestBody": {"required": True, "content": {"application/json": {}}}}},
            **{f"/{name}": {"get": {"operationId": name}} for name in more},
        },
    }


class Kit:
    """A service and a transport to it; `ask` returns the decoded message."""

    def __init__(self, service: Service, plan: OpenApiPlan | None = None, **options: Any) -> None:
        self.service = service
        self.origin = PlainOrigin(service.port)
        self.transport = OpenApiTransport("pets", plan or OpenApiPlan(schema=json.dumps(document())), self.origin, **options)
        self.stray: list[dict[str, Any]] = []
        self.transport.on_stray = lambda raw: self.stray.append(json.loads(raw))

    async def ask(self, method: str, params: dict[str, Any] | None = None, *, modern: bool = False, **options: Any) -> dict[str, Any]:
        params = {**(params or {}), **({"_meta": MODERN} if modern else {})}
        raw = message.request(b'"q"', method, json.dumps(params).encode())
        reply = await self.transport.request(raw, b'"q"', **options)
        answer: dict[str, Any] = json.loads(reply.message)
        assert message.parse(reply.message).kind == "response"
        assert (answer["jsonrpc"], answer["id"]) == ("2.0", "q")
        return answer

    async def call(self, name: str, arguments: Any = None, **options: Any) -> dict[str, Any]:
        answer = await self.ask("tools/call", {"name": name, **({} if arguments is None else {"arguments": arguments})}, **options)
        result: dict[str, Any] = answer["result"]
        return result


@pytest.fixture
def service() -> Iterator[Service]:
    with Service() as running:
        yield running


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.005)


def run(work: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(30):
            await work()

    asyncio.run(bounded())


# ---------------------------------------------------------------------------------------------------------- messages


def test_the_legacy_era(service: Service) -> None:
    async def work() -> None:
        kit = Kit(service)
        for asked, answered in (("2024-11-05", "2024-11-05"), ("2025-11-25", "2025-11-25"), ("2026-07-28", "2025-11-25"), ("1999-01-01", "2025-11-25")):
            result = (await kit.ask("initialize", {"protocolVersion": asked, "capabilities": {}}))["result"]
            assert result["protocolVersion"] == answered
            assert result["capabilities"] == {"tools": {}}
            assert result["serverInfo"] == {"name": "Pets", "version": "2.1"}
            assert result["instructions"].startswith("All about pets.")
            assert len(result["instructions"]) == 4000
        assert (await kit.ask("ping"))["result"] == {}
        listed = (await kit.ask("tools/list"))["result"]
        assert [tool["name"] for tool in listed["tools"]] == ["pet", "forget", "add"]
        assert listed.keys() == {"tools"}
        for method in ("server/discover", "prompts/list", "resources/read", "logging/setLevel", "completion/complete", "nonsense"):
            assert (await kit.ask(method))["error"]["code"] == -32601, method
        await kit.transport.send(message.notification("notifications/initialized", None))
        await kit.transport.close()

    run(work)


def test_the_modern_era(service: Service) -> None:
    service.answers["/api/pets/1"] = (200, JSON, b'{"id":1}')

    async def work() -> None:
        kit = Kit(service)
        info = {"io.modelcontextprotocol/serverInfo": {"name": "Pets", "version": "2.1"}}
        found = (await kit.ask("server/discover", modern=True))["result"]
        assert found["supportedVersions"] == ["2026-07-28"]
        assert found["capabilities"] == {"tools": {}}
        assert (found["resultType"], found["cacheScope"], found["_meta"]) == ("complete", "public", info)
        assert found["ttlMs"] > 0
        listed = (await kit.ask("tools/list", modern=True))["result"]
        assert (listed["resultType"], listed["cacheScope"], listed["_meta"], len(listed["tools"])) == ("complete", "public", info, 3)
        result = await kit.call("pet", {"path": {"id": 1}}, modern=True)
        assert result == {"resultType": "complete", "content": [{"type": "text", "text": '{"id":1}'}], "structuredContent": {"id": 1}, "_meta": info}
        for method in ("initialize", "ping", "logging/setLevel", "prompts/list", "subscriptions/listen", "nonsense"):
            assert (await kit.ask(method, modern=True))["error"]["code"] == -32601, method
        error = (await kit.ask("tools/list", {"_meta": {**MODERN, "io.modelcontextprotocol/protocolVersion": "2030-01-01"}}))["error"]
        assert (error["code"], error["data"]) == (-32022, {"supported": ["2026-07-28"], "requested": "2030-01-01"})

    run(work)


def test_what_the_caller_did_wrong(service: Service) -> None:
    async def work() -> None:
        kit = Kit(service)
        for params, said in (
            ({"name": "gone"}, "Unknown tool: gone"),
            ({}, "needs a name"),
            ({"name": 3}, "needs a name"),
            ({"name": "pet"}, "path.id is missing"),
            ({"name": "pet", "arguments": {"path": {"id": ".."}}}, "path.id"),
            ({"name": "add", "arguments": {}}, "body is missing"),
        ):
            error = (await kit.ask("tools/call", params))["error"]
            assert error["code"] == -32602
            assert said in error["message"]
        assert (await kit.ask("tools/list", {"cursor": "x"}))["error"]["code"] == -32602
        assert "result" in await kit.ask("tools/list", {"cursor": None})
        with pytest.raises(TransportError) as caught:
            await kit.transport.request(b"[]", b"1")
        assert (caught.value.kind, caught.value.sent) == ("protocol", False)
        assert service.seen == []

    run(work)


# ------------------------------------------------------------------------------------------------------------- calls


def test_a_call_arrives_and_comes_back(service: Service) -> None:
    service.answers["/edge/api/pets"] = lambda seen: (201, JSON, seen.body)

    async def work() -> None:
        kit = Kit(service, OpenApiPlan(schema=json.dumps(document()), prefix_path="/edge"))
        headers = [(b"Authorization", b"Bearer t"), (b"mcp-session-id", b"s"), (b"mcp-protocol-version", b"2025-06-18"), (b"accept", b"text/event-stream")]
        result = await kit.call("add", {"body": {"id": 7, "tags": ["a"]}}, headers=headers)
        assert result["structuredContent"] == {"id": 7, "tags": ["a"]}
        (seen,) = service.seen
        assert (seen.method, seen.target) == ("POST", "/edge/api/pets")
        assert json.loads(seen.body) == {"id": 7, "tags": ["a"]}
        assert seen.headers["authorization"] == "Bearer t"
        assert seen.headers["content-type"] == "application/json"
        assert seen.headers["accept"] == "application/json, */*;q=0.5"
        assert not [name for name in seen.headers if name.startswith("mcp-")]

    run(work)


def test_a_value_that_looks_like_a_path_reaches_the_operation_only(service: Service) -> None:
    service.answers["/api/pets/a%2Fb%3Fc"] = (200, JSON, b'{"id":1}')

    async def work() -> None:
        assert (await Kit(service).call("pet", {"path": {"id": "a/b?c"}}))["structuredContent"] == {"id": 1}
        assert service.seen[0].target == "/api/pets/a%2Fb%3Fc"

    run(work)


def test_failures_of_the_service_are_results(service: Service) -> None:
    service.answers["/api/pets/1"] = (503, {"content-type": "text/plain"}, b"later")
    service.answers["/api/pets/2"] = (204, {}, b"")

    async def work() -> None:
        kit = Kit(service)
        assert await kit.call("pet", {"path": {"id": 1}}) == {"content": [{"type": "text", "text": "HTTP 503\nlater"}], "isError": True}
        assert await kit.call("forget", {"path": {"id": 9}}) == {"content": [{"type": "text", "text": "HTTP 404\nnothing here"}], "isError": True}
        assert await kit.call("forget", {"path": {"id": 2}}) == {"content": [{"type": "text", "text": ""}]}

    run(work)


def test_an_answer_beyond_the_bound(service: Service) -> None:
    service.answers["/api/pets/1"] = (200, JSON, b'{"x":"' + b"y" * 2000 + b'"}')

    async def work() -> None:
        result = await Kit(service, max_bytes=1000).call("pet", {"path": {"id": 1}})
        assert result == {"content": [{"type": "text", "text": "The request was carried out, but its answer is larger than 1000 octets."}], "isError": True}

    run(work)


def test_trouble_on_the_way_is_the_transports(service: Service) -> None:
    waiting = threading.Event()

    def hold(seen: Seen) -> tuple[int, dict[str, str], bytes]:
        waiting.set()
        service.release.wait(20)
        return 200, {}, b""

    service.answers["/api/pets/1"] = hold
    service.answers["/api/pets/2"] = (200, {"content-length": "50", **JSON}, b"{}")

    async def work() -> None:
        kit = Kit(service)
        with pytest.raises(TransportError) as caught:
            await kit.call("pet", {"path": {"id": 1}}, timeout_s=0.1)
        assert caught.value.kind == "timeout"
        with pytest.raises(TransportError) as caught:
            await kit.call("pet", {"path": {"id": 2}})
        assert caught.value.kind == "closed"
        waiting.clear()
        asking = asyncio.ensure_future(kit.call("pet", {"path": {"id": 1}}))
        await until(waiting.is_set)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        kit.origin.port = 1
        with pytest.raises(TransportError) as caught:
            await kit.call("pet", {"path": {"id": 1}})
        assert (caught.value.kind, caught.value.sent) == ("connect", False)

    run(work)


def test_calls_do_not_wait_for_each_other(service: Service) -> None:
    together = threading.Barrier(8)

    def meet(seen: Seen) -> tuple[int, dict[str, str], bytes]:
        together.wait(10)
        return 200, JSON, b'{"id":1}'

    service.answers["/api/pets/1"] = meet

    async def work() -> None:
        kit = Kit(service)
        found = await asyncio.gather(*(kit.call("pet", {"path": {"id": 1}}) for _ in range(8)))
        assert all(result["structuredContent"] == {"id": 1} for result in found)

    run(work)


# --------------------------------------------------------------------------------------------------------- documents


def test_a_document_that_cannot_be_used(service: Service) -> None:
    async def work() -> None:
        kit = Kit(service, OpenApiPlan(schema='{"openapi":"3.0.0","paths":{"/secret-path":3}}'))
        for _ in range(2):
            with pytest.raises(TransportError) as caught:
                await kit.ask("initialize", {"protocolVersion": "2025-11-25"})
            assert (caught.value.kind, caught.value.sent) == ("protocol", False)
            assert "secret" not in str(caught.value)
        assert (await kit.ask("ping"))["result"] == {}

    run(work)


def test_a_document_with_a_url_nobody_fetches(service: Service) -> None:
    async def work() -> None:
        for url in ("https://elsewhere.test/openapi.json", "//elsewhere.test/openapi.json"):
            with pytest.raises(TransportError) as caught:
                await Kit(service, OpenApiPlan(url=url)).ask("tools/list")
            assert (caught.value.kind, caught.value.sent) == ("connect", False)
        assert service.seen == []

    run(work)


def test_a_document_from_the_service_itself_in_yaml(service: Service) -> None:
    text = b"openapi: 3.0.0\ninfo: {title: Y, version: 1}\npaths: {/a: {get: {operationId: a}}}\n"
    service.answers["/openapi.yaml"] = (200, {"content-type": "application/yaml"}, text)

    async def work() -> None:
        kit = Kit(service, OpenApiPlan(url="openapi.yaml?v=1"))
        first, second = await asyncio.gather(kit.ask("tools/list"), kit.ask("initialize"))
        assert [tool["name"] for tool in first["result"]["tools"]] == ["a"]
        assert second["result"]["capabilities"] == {"tools": {"listChanged": True}}
        assert second["result"]["serverInfo"] == {"name": "Y", "version": "1"}
        assert [seen.target for seen in service.seen] == ["/openapi.yaml?v=1"]
        await kit.transport.close()

    run(work)


def test_a_first_load_that_fails_is_tried_again_after_a_pause(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    async def work() -> None:
        kit = Kit(service, OpenApiPlan(url="/openapi.json"))
        for _ in range(3):
            with pytest.raises(TransportError) as caught:
                await kit.ask("tools/list")
            assert (caught.value.kind, caught.value.status, caught.value.sent) == ("status", 404, False)
        assert len(service.seen) == 1
        service.answers["/openapi.json"] = (200, JSON, json.dumps(document()).encode())
        monkeypatch.setattr(kit.transport.source, "_retry_at", 0.0)
        assert len((await kit.ask("tools/list"))["result"]["tools"]) == 3
        await kit.transport.close()

    run(work)


def test_a_changed_document_is_told_and_a_broken_one_is_not(service: Service) -> None:
    etag = {"etag": '"1"', **JSON}
    service.answers["/openapi.json"] = lambda seen: (
        (304, {}, b"") if seen.headers.get("if-none-match") == '"1"' else (200, etag, json.dumps(document()).encode()))

    async def work() -> None:
        kit = Kit(service, OpenApiPlan(url="/openapi.json"))
        other = kit.transport.another()
        heard: list[bytes] = []
        other.on_stray = heard.append
        await other.listen()
        assert len((await kit.ask("tools/list"))["result"]["tools"]) == 3
        schema = kit.transport.source
        assert await schema.refresh() is False
        assert service.seen[-1].headers["if-none-match"] == '"1"'

        service.answers["/openapi.json"] = (200, JSON, json.dumps({**document(), "tags": []}).encode())
        assert await schema.refresh() is False  # another text, the same tools

        service.answers["/openapi.json"] = (200, JSON, b"{")
        with pytest.raises(TransportError):
            await schema.refresh()
        service.answers["/openapi.json"] = (500, {}, b"")
        with pytest.raises(TransportError):
            await schema.refresh()
        assert len((await kit.ask("tools/list"))["result"]["tools"]) == 3
        assert kit.stray == []

        service.answers["/openapi.json"] = (200, JSON, json.dumps(document(extra=1)).encode())
        assert await schema.refresh() is True
        assert kit.stray == [{"jsonrpc": "2.0", "method": "notifications/tools/list_changed"}]
        assert [json.loads(raw) for raw in heard] == kit.stray
        assert len((await kit.ask("tools/list"))["result"]["tools"]) == 4

        await other.close()
        service.answers["/openapi.json"] = (200, JSON, json.dumps(document()).encode())
        assert await schema.refresh() is True
        assert (len(kit.stray), len(heard)) == (2, 1)
        await kit.transport.close()

    run(work)


def test_the_given_text_serves_until_the_url_is_due(service: Service) -> None:
    service.answers["/openapi.json"] = (200, JSON, json.dumps(document(extra=1)).encode())

    async def work() -> None:
        plan = OpenApiPlan(schema=json.dumps(document()), url="https://schemas.test/openapi.json", refresh_ns=50_000_000)
        kit = Kit(service, plan, schema_origin=PlainOrigin(service.port))
        assert len((await kit.ask("tools/list"))["result"]["tools"]) == 3
        await until(lambda: bool(kit.stray))
        assert len((await kit.ask("tools/list"))["result"]["tools"]) == 4
        await kit.transport.close()
        await until(lambda: len(asyncio.all_tasks()) == 2)  # this one and the one that bounds it

    run(work)


def test_refreshing_goes_on_after_failures_and_stops_with_the_last_conversation(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source, "FAILURE_PAUSE_S", 0.01)
    service.answers["/openapi.json"] = (200, JSON, json.dumps(document()).encode())

    async def work() -> None:
        kit = Kit(service, OpenApiPlan(url="/openapi.json", refresh_ns=20_000_000))
        await kit.ask("tools/list")
        service.answers["/openapi.json"] = (500, {}, b"")
        count = len(service.seen)
        await until(lambda: len(service.seen) > count + 3)
        service.answers["/openapi.json"] = (200, JSON, json.dumps(document(extra=1)).encode())
        await until(lambda: bool(kit.stray))
        await kit.transport.close()
        await kit.transport.close()
        await until(lambda: len(asyncio.all_tasks()) == 2)
        await kit.ask("tools/list")  # whoever comes back is served, and refreshing begins again
        count = len(service.seen)
        await until(lambda: len(service.seen) > count)
        await kit.transport.close()

    run(work)


def test_a_caller_that_gives_up_does_not_end_the_load(service: Service) -> None:
    asked = threading.Event()
    go = threading.Event()

    def held(seen: Seen) -> tuple[int, dict[str, str], bytes]:
        asked.set()
        go.wait(20)
        return 200, JSON, json.dumps(document()).encode()

    service.answers["/openapi.json"] = held

    async def work() -> None:
        kit = Kit(service, OpenApiPlan(url="/openapi.json"))
        first = asyncio.ensure_future(kit.ask("tools/list"))
        await until(asked.is_set)
        first.cancel()
        second = asyncio.ensure_future(kit.ask("tools/list"))
        go.set()
        assert len((await second)["result"]["tools"]) == 3
        assert len(service.seen) == 1
        assert first.cancelled()
        await kit.transport.close()

    run(work)
