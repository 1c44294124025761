"""A whole legacy conversation and a modern request with a real MCP server: the built-in demo, over real sockets."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from agw.admin.http import HttpServer
from agw.demo.server import DemoServer
from agw.mcp.transport import TransportError
from agw.mcp.transports.http import HttpTransport
from tests.kits.plane import Plane, run


def against_the_demo(body: Callable[[Plane, HttpTransport], Awaitable[None]]) -> None:
    async def whole(plane: Plane) -> None:
        sock = socket.create_server(("127.0.0.1", 0))
        demo = DemoServer()
        server = HttpServer(demo)
        await server.listen(sock)
        transport = HttpTransport(plane.origin(f"127.0.0.1:{sock.getsockname()[1]}"), b"/mcp")
        try:
            await body(plane, transport)
            await transport.close()
        finally:
            demo.close()
            await server.close()

    run(whole)


def message(ident: int, method: str, **params: Any) -> bytes:
    return json.dumps({"jsonrpc": "2.0", "id": ident, "method": method, "params": params}).encode()


def test_a_legacy_session() -> None:
    async def body(plane: Plane, transport: HttpTransport) -> None:
        client = {"name": "test", "version": "1"}
        reply = await transport.request(message(1, "initialize", protocolVersion="2025-11-25", capabilities={}, clientInfo=client), b"1")
        session = reply.header(b"mcp-session-id")
        assert session is not None and json.loads(reply.message)["result"]["protocolVersion"] == "2025-11-25"
        headers = [(b"Mcp-Session-Id", session), (b"MCP-Protocol-Version", b"2025-11-25")]
        await transport.send(b'{"jsonrpc":"2.0","method":"notifications/initialized"}', headers=headers)
        await transport.listen(headers)

        told: list[dict[str, Any]] = []
        slow = message(2, "tools/call", name="slow", arguments={"seconds": 0.2, "steps": 2}, _meta={"progressToken": "p"})
        replies = await asyncio.gather(
            transport.request(slow, b"2", headers=headers, on_message=lambda raw: told.append(json.loads(raw))),
            *(transport.request(message(n, "tools/call", name="add", arguments={"a": n, "b": 1}), b"%d" % n, headers=headers) for n in range(3, 20)),
        )
        assert [json.loads(r.message)["id"] for r in replies] == list(range(2, 20))
        assert [json.loads(r.message)["result"]["structuredContent"] for r in replies[1:]] == [{"sum": n + 1} for n in range(3, 20)]
        assert told and all(note["method"] == "notifications/progress" for note in told)

        await transport.close(headers)
        again = HttpTransport(transport._origin, b"/mcp")
        with pytest.raises(TransportError) as caught:
            await again.send(b'{"jsonrpc":"2.0","method":"notifications/initialized"}', headers=headers)
        assert (caught.value.kind, caught.value.status) == ("status", 404)

    against_the_demo(body)


def test_a_modern_request() -> None:
    async def body(plane: Plane, transport: HttpTransport) -> None:
        meta = {"io.modelcontextprotocol/protocolVersion": "2026-07-28", "io.modelcontextprotocol/clientCapabilities": {}}
        call = message(1, "tools/call", name="echo", arguments={"text": "hi"}, _meta=meta)
        headers = [(b"MCP-Protocol-Version", b"2026-07-28"), (b"Mcp-Method", b"tools/call"), (b"Mcp-Name", b"echo")]
        reply = await transport.request(call, b"1", headers=headers)
        assert json.loads(reply.message)["result"]["content"][0]["text"] == "hi"
        # A refusal with a JSON-RPC error is a reply: the bridge looks at both its code and its status.
        reply = await transport.request(call, b"1", headers=[*headers[:2], (b"Mcp-Name", b"other")])
        assert reply.status == 400 and json.loads(reply.message)["error"]["code"] == -32020
        with pytest.raises(TransportError) as caught:
            await transport.listen(headers)
        assert (caught.value.kind, caught.value.status) == ("status", 405)

    against_the_demo(body)
