"""MCP over plain HTTP, for what no SDK lets one do: a connection per request, odd headers, and streams that are watched."""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Iterator
from typing import Any

LEGACY = "2025-11-25"
Reply = tuple[int, dict[str, str], bytes]


def send(port: int, method: str, body: object = None, headers: dict[str, str] | None = None) -> Reply:
    """One request on a connection of its own; the whole response, header names in lower case."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request(method, "/mcp", *_request(body, headers))
        response = connection.getresponse()
        return response.status, {name.lower(): value for name, value in response.getheaders()}, response.read()
    finally:
        connection.close()


def _request(body: object, headers: dict[str, str] | None) -> tuple[bytes | None, dict[str, str]]:
    fields = {"accept": "application/json, text/event-stream"} | (headers or {})
    if body is None:
        return None, fields
    return json.dumps(body).encode(), {"content-type": "application/json"} | fields


def messages(headers: dict[str, str], body: bytes) -> list[Any]:
    """The JSON-RPC messages of a response, whichever form it has."""
    if headers.get("content-type", "").startswith("application/json"):
        return [json.loads(body)]
    return [json.loads(line[5:]) for line in body.decode().splitlines() if line.startswith("data:") and line[5:].strip()]


class Session:
    """A legacy session. Every request goes over a new connection."""

    def __init__(self, port: int, *, host: str | None = None, origin: str | None = None) -> None:
        self._port, self._id = port, 0
        params = {"protocolVersion": LEGACY, "capabilities": {}, "clientInfo": {"name": "agw-interop", "version": "1.0.0"}}
        extra = {name: value for name, value in {"host": host, "origin": origin}.items() if value is not None}
        self.status, headers, _ = send(port, "POST", {"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": params}, extra)
        self.id = headers.get("mcp-session-id", "")
        self.headers = {"mcp-session-id": self.id, "mcp-protocol-version": LEGACY}
        if self.status == http.HTTPStatus.OK:
            send(port, "POST", {"jsonrpc": "2.0", "method": "notifications/initialized"}, self.headers)

    def call(self, tool: str, arguments: dict[str, Any]) -> str:
        """The text of a tool's result. Errors: AssertionError for anything else."""
        self._id += 1
        request = {"jsonrpc": "2.0", "id": self._id, "method": "tools/call", "params": {"name": tool, "arguments": arguments}}
        status, headers, body = send(self._port, "POST", request, self.headers)
        assert status == http.HTTPStatus.OK, (status, body)
        [answer] = [message for message in messages(headers, body) if message.get("id") == self._id]
        return "".join(content["text"] for content in answer["result"]["content"])

    def delete(self) -> int:
        """End it."""
        return send(self._port, "DELETE", None, self.headers)[0]


class Stream:
    """A response that is read as it comes: `events` yields (seconds since the stream began, message)."""

    def __init__(self, port: int, method: str, body: object, headers: dict[str, str], silence_s: float) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=silence_s)
        self._connection.request(method, "/mcp", *_request(body, headers))
        self._response = self._connection.getresponse()
        self.status = self._response.status
        self._began = time.monotonic()

    def events(self) -> Iterator[tuple[float, Any]]:
        """Until the stream ends. Errors: TimeoutError after silence."""
        while line := self._response.readline():
            if line.startswith(b"data:") and line[5:].strip():
                yield time.monotonic() - self._began, json.loads(line[5:])

    def close(self) -> None:
        """Drop the connection."""
        self._response.close()
        self._connection.close()
