"""How the fixture is served: over which transport, and to which era.

The SDK's server speaks both eras. `legacy` and `modern` make it refuse the other one the way servers do that have never
heard of it: mcp 1.x answers a modern request with 400 and no modern code, a modern-only server answers `initialize` with
-32022 and has no GET or DELETE.
"""

from __future__ import annotations

import json
from typing import Any

import anyio
import mcp_types as types
import uvicorn
from mcp.server.lowlevel import Server
from mcp.server.runner import serve_loop
from mcp.server.sse import SseServerTransport
from mcp.server.stdio import stdio_server
from mcp.server.streamable_http import EventStore
from mcp.shared.message import SessionMessage
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Mount, Route

MODERN = "2026-07-28"
LEGACY = ("2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25")
UNSUPPORTED_VERSION = -32022
RETRY_MS = 500


def _unsupported(requested: object) -> types.ErrorData:
    return types.ErrorData(code=UNSUPPORTED_VERSION, message="Unsupported protocol version", data={"supported": [MODERN], "requested": requested})


class OneEra:
    """ASGI: lets the requests of one era through to the application."""

    def __init__(self, app: Any, era: str) -> None:
        self._app, self._modern = app, era == "modern"

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """See the module."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request = Request(scope, receive)
        version = request.headers.get("mcp-protocol-version")
        is_modern = version is not None and version not in LEGACY
        if is_modern == self._modern:
            await self._app(scope, receive, send)
        elif request.method != "POST":
            await Response(status_code=405, headers={"allow": "POST"})(scope, receive, send)
        else:
            await self._refuse(await request.body(), version)(scope, receive, send)

    def _refuse(self, body: bytes, version: str | None) -> Response:
        try:
            message = json.loads(body)
            id, params = message.get("id"), message.get("params") or {}
        except (ValueError, AttributeError):
            id, params = None, {}
        if self._modern:
            error = _unsupported(params.get("protocolVersion", version)).model_dump(mode="json", exclude_none=True)
        else:
            id, error = "server-error", {"code": -32600, "message": f"Bad Request: Unsupported protocol version: {version}"}
        return Response(json.dumps({"jsonrpc": "2.0", "id": id, "error": error}), 400, media_type="application/json")


async def _converse(server: Server[Any], read: Any, write: Any, era: str) -> None:
    """One conversation over a pair of streams."""
    if era == "legacy":
        async with server.lifespan(server) as state:
            await serve_loop(server, read, write, lifespan_state=state)
        return
    if era == "both":
        await server.run(read, write, server.create_initialization_options())
        return
    into, admitted = anyio.create_memory_object_stream[Any](0)

    async def admit() -> None:
        async with into:
            async for item in read:
                message = getattr(item, "message", None)
                if isinstance(message, types.JSONRPCRequest) and message.method == "initialize":
                    error = _unsupported((message.params or {}).get("protocolVersion"))
                    await write.send(SessionMessage(types.JSONRPCError(jsonrpc="2.0", id=message.id, error=error)))
                else:
                    await into.send(item)

    async with anyio.create_task_group() as group:
        group.start_soon(admit)
        await server.run(admitted, write, server.create_initialization_options())


def _sse_app(server: Server[Any], era: str) -> Starlette:
    transport = SseServerTransport("/messages/")

    async def connect(request: Request) -> Response:
        async with transport.connect_sse(request.scope, request.receive, request._send) as (read, write):
            await _converse(server, read, write, era)
        return Response()

    return Starlette(routes=[Route("/sse", connect, methods=["GET"]), Mount("/messages/", app=transport.handle_post_message)])


async def serve(server: Server[Any], transport: str, era: str, port: int, events: EventStore) -> None:
    """Serve until a signal, or the end of standard input."""
    if transport == "stdio":
        async with stdio_server() as (read, write):
            await _converse(server, read, write, era)
        return
    app: Any
    if transport == "sse":
        app = _sse_app(server, era)
    else:
        app = server.streamable_http_app(event_store=events, retry_interval=RETRY_MS, host="127.0.0.1")
        app = app if era == "both" else OneEra(app, era)
    await uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=port, log_level="warning", timeout_graceful_shutdown=1)).serve()
