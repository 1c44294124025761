"""OpenApiTransport over the gateway's own connections: what the plain way to a service in the other tests cannot show."""

from __future__ import annotations

import asyncio
import gzip
import json
import threading
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest

from agw.mcp import message
from agw.mcp.transport import TransportError
from agw.mcp.transports.openapi import OpenApiTransport
from agw.runtime.plan import OpenApiPlan
from tests.kits.openapi_service import Seen, Service
from tests.kits.plane import Plane, refused_host, run

JSON = {"content-type": "application/json"}
DOCUMENT = {
    "openapi": "3.0.3",
    "info": {"title": "Wire", "version": "1"},
    "paths": {
        "/a/{p}": {
            "parameters": [{"name": "H", "in": "header", "schema": {"type": "string"}}, {"name": "q", "in": "query", "schema": {"type": "array", "items": {}}}],
            **{method: {"operationId": method} for method in ("get", "head", "delete", "options")},
            "post": {"operationId": "post", "requestBody": {"content": {"application/json": {}}}},
        }
    },
}


@pytest.fixture
def service() -> Iterator[Service]:
    with Service() as running:
        yield running


def with_transport(service: Service, work: Callable[[Plane, OpenApiTransport], Awaitable[None]], **options: Any) -> None:
    async def body(plane: Plane) -> None:
        plan = OpenApiPlan(schema=json.dumps(DOCUMENT)) if "plan" not in options else options.pop("plan")
        transport = OpenApiTransport("wire", plan, plane.origin(f"127.0.0.1:{service.port}"), **options)
        await work(plane, transport)
        await transport.close()

    run(body)


async def call(transport: OpenApiTransport, name: str, arguments: dict[str, Any], **options: Any) -> dict[str, Any]:
    params = json.dumps({"name": name, "arguments": {"path": {"p": "x"}, **arguments}}).encode()
    reply = await transport.request(message.request(b"1", "tools/call", params), b"1", **options)
    result: dict[str, Any] = json.loads(reply.message)["result"]
    return result


def text(value: str) -> list[dict[str, str]]:
    return [{"type": "text", "text": value}]


def test_requests_of_every_method(service: Service) -> None:
    service.answers["/a/x"] = lambda seen: (200, {"content-type": "text/plain", "etag": '"e"'}, seen.method.encode())

    async def work(plane: Plane, transport: OpenApiTransport) -> None:
        for method in ("get", "delete", "options", "post"):
            assert (await call(transport, method, {"header": {"H": "grüße"}, "query": {"q": ["1 2", "&"]}}))["content"] == text(method.upper())
        assert (await call(transport, "head", {}))["content"] == text('HTTP 200\ncontent-type: text/plain\netag: "e"\ncontent-length: 4')
        assert {seen.target for seen in service.seen[:4]} == {"/a/x?q=1%202&q=%26"}
        assert service.seen[0].headers["h"].encode("latin-1").decode() == "grüße"
        post = next(seen for seen in service.seen if seen.method == "POST")
        assert post.headers["content-length"] == "0"
        assert all("host" in seen.headers and "accept-encoding" not in seen.headers for seen in service.seen)

    with_transport(service, work)


def test_bodies_both_ways(service: Service) -> None:
    service.answers["/a/x"] = lambda seen: (200, {"content-encoding": "gzip", **JSON}, gzip.compress(seen.body))

    async def work(plane: Plane, transport: OpenApiTransport) -> None:
        body = {"list": ["x" * 1000] * 500}
        assert (await call(transport, "post", {"body": body}))["structuredContent"] == body

    with_transport(service, work)


def test_a_redirect_is_not_followed(service: Service) -> None:
    service.answers["/a/x"] = (307, {"location": "/a/y"}, b"")

    async def work(plane: Plane, transport: OpenApiTransport) -> None:
        result = await call(transport, "post", {"body": {}})
        assert result == {"content": text("HTTP 307\nA redirect to /a/y, which is not followed."), "isError": True}
        assert len(service.seen) == 1

    with_transport(service, work)


def test_bounds(service: Service) -> None:
    service.answers["/a/x"] = (200, JSON, b'"' + b"x" * 200_000 + b'"')

    async def work(plane: Plane, transport: OpenApiTransport) -> None:
        result = await call(transport, "get", {})
        assert result == {"content": text("The request was carried out, but its answer is larger than 100000 octets."), "isError": True}

    with_transport(service, work, max_bytes=100_000)


def test_time_and_giving_up(service: Service) -> None:
    asked = threading.Event()

    def hold(seen: Seen) -> tuple[int, dict[str, str], bytes]:
        asked.set()
        service.release.wait(20)
        return 200, {}, b""

    service.answers["/a/x"] = hold

    async def work(plane: Plane, transport: OpenApiTransport) -> None:
        with pytest.raises(TransportError) as caught:
            await call(transport, "get", {}, timeout_s=0.2)
        assert caught.value.kind == "timeout"
        asked.clear()
        asking = asyncio.ensure_future(call(transport, "get", {}))
        await plane.until(asked.is_set, "the request")
        assert plane.clusters[0].connections
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        await plane.until(lambda: not plane.clusters[0].connections, "the end of the connection")

    with_transport(service, work)


def test_a_service_that_is_not_there() -> None:
    async def body(plane: Plane) -> None:
        transport = OpenApiTransport("wire", OpenApiPlan(schema=json.dumps(DOCUMENT)), plane.origin(refused_host()))
        with pytest.raises(TransportError) as caught:
            await call(transport, "get", {})
        assert (caught.value.kind, caught.value.sent) == ("connect", False)

    run(body)


def test_a_document_that_was_not_modified(service: Service) -> None:
    service.answers["/d.json"] = lambda seen: (
        (304, {}, b"") if "if-none-match" in seen.headers else (200, {"etag": '"1"', **JSON}, json.dumps(DOCUMENT).encode()))

    async def work(plane: Plane, transport: OpenApiTransport) -> None:
        first = await transport.source.tools()
        assert await transport.source.refresh() is False
        assert await transport.source.tools() is first
        assert len(service.seen) == 2

    with_transport(service, work, plan=OpenApiPlan(url="/d.json"))
