"""The demo server on a real socket, run by a loop in its own thread, and blocking clients for it."""

from __future__ import annotations

import asyncio
import http.client
import itertools
import json
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from agw.admin.http import HttpServer
from agw.demo.server import DemoServer

BOTH = "application/json, text/event-stream"


class Client:
    """Plain HTTP to one MCP endpoint. `session` and `version` go into the headers once set."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.session: str | None = None
        self.version: str | None = None
        self._ids = itertools.count(1)
        self._open: list[http.client.HTTPConnection] = []

    def send(
        self, method: str, body: object = None, *, headers: dict[str, str] | None = None, path: str = "/mcp"
    ) -> http.client.HTTPResponse:
        """One exchange on a connection of its own; header values of "" leave the header out."""
        fields = {"Accept": BOTH, "Host": "localhost"}
        if body is not None:
            fields["Content-Type"] = "application/json"
        if self.session is not None:
            fields["Mcp-Session-Id"] = self.session
        if self.version is not None:
            fields["MCP-Protocol-Version"] = self.version
        fields |= headers or {}
        data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
        self._open.append(connection)
        connection.request(method, path, data, {name: value for name, value in fields.items() if value})
        return connection.getresponse()

    def call(self, method: str, params: dict[str, Any] | None = None, **options: Any) -> tuple[int, dict[str, Any]]:
        """Status and JSON-RPC message of one request that is answered as JSON."""
        message = {"jsonrpc": "2.0", "id": next(self._ids), "method": method, "params": params or {}}
        response = self.send("POST", message, **options)
        assert response.getheader("content-type") == "application/json"
        answer = json.load(response)
        assert answer["id"] == message["id"]
        return response.status, answer

    def notify(self, method: str, params: dict[str, Any] | None = None) -> int:
        """Status of a notification; it has no body."""
        response = self.send("POST", {"jsonrpc": "2.0", "method": method, "params": params or {}})
        assert response.read() == b""
        return response.status

    def initialize(self, version: str = "2025-11-25") -> dict[str, Any]:
        """The handshake; the session and the negotiated version are used from here on."""
        params = {"protocolVersion": version, "capabilities": {}, "clientInfo": {"name": "test", "version": "0"}}
        response = self.send("POST", {"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": params})
        assert response.status == 200
        self.session = response.getheader("mcp-session-id")
        result: dict[str, Any] = json.load(response)["result"]
        self.version = result["protocolVersion"]
        assert self.notify("notifications/initialized") == 202
        return result

    def close(self) -> None:
        for connection in self._open:
            connection.close()


def events(response: http.client.HTTPResponse) -> Iterator[Any]:
    """The messages of an event stream as they come; a comment yields its text."""
    assert response.getheader("content-type") == "text/event-stream"
    data = ""
    for raw in response:
        line = raw.decode().rstrip("\n")
        if line.startswith(":"):
            yield line
        elif line.startswith("data: "):
            data += line[6:]
        elif not line and data:
            yield json.loads(data)
            data = ""


class Clock:
    """A monotonic clock that stands still until told otherwise."""

    def __init__(self) -> None:
        self.now_ns = 1_000

    def __call__(self) -> int:
        return self.now_ns


class Demo:
    """A running demo server with small limits: 3 sessions, 30 minutes, a keep-alive every 50 ms."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self.thread.start()
        self.handler = DemoServer(now_ns=self.clock, max_sessions=3, keep_alive_s=0.05)
        self.server = HttpServer(self.handler)
        sock = socket.create_server(("127.0.0.1", 0))
        self.port = sock.getsockname()[1]
        self.run(self.server.listen(sock))

    def run(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(10)

    def tasks(self) -> int:
        """Tasks alive on the server's loop, without the one that counts them."""

        async def count() -> int:
            return len(asyncio.all_tasks()) - 1

        alive: int = self.run(count())
        return alive

    def stop(self) -> None:
        async def close() -> None:
            self.handler.close()
            await self.server.close(0.0)
            await asyncio.sleep(0)  # cancelled calls end on the next turn

        self.run(close())
        assert self.tasks() == 0
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(10)
        self.loop.close()


@pytest.fixture
def demo() -> Iterator[Demo]:
    running = Demo()
    yield running
    running.stop()


@pytest.fixture
def client(demo: Demo) -> Iterator[Client]:
    plain = Client(demo.port)
    yield plain
    plain.close()


@pytest.fixture
def read_events() -> Any:
    """`read_events(response)`: the messages of an event stream, as an iterator."""
    return events
