"""Streaming backend on uvloop: every open stream gets R events per second, each stamped with the time it was written.

    python -m bench.load.sse_backend --port N --rate 10

GET of any path with `text/event-stream` in Accept opens a stream. POST is a minimal MCP server (2025-06-18, streamable
HTTP with session header): initialize, notifications, ping, tools/list, tools/call of `echo` and `add`; DELETE ends a
session. It serves the SSE scenarios and, as a target behind the gateway, the locust mix.

Streams are spread over the period of 1/R s in slots of one millisecond, so the load has no bursts of its own making.
The stamp is CLOCK_MONOTONIC in ns, the same clock the client on this machine reads.
"""

import argparse
import asyncio
import contextlib
import itertools
import json
import signal
import sys
import time
from typing import cast

import uvloop

from bench.harness.http_messages import HOST, LEGACY_VERSION

_SLOT_S = 0.001
_PAD = "p" * 64
_TOOLS = [
    {
        "name": "echo",
        "description": "Answers its text.",
        "inputSchema": {"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]},
    },
    {
        "name": "add",
        "description": "Adds two numbers.",
        "inputSchema": {
            "type": "object",
            "properties": {"a": {"type": "number"}, "b": {"type": "number"}},
            "required": ["a", "b"],
        },
    },
]
_MAX_MESSAGE = 1 << 20


class Streams:
    """All open streams, in the slots of one period."""

    def __init__(self, rate: float) -> None:
        """`rate`: events per second and stream."""
        self._slots: list[set[asyncio.Transport]] = [set() for _ in range(max(1, round(1 / rate / _SLOT_S)))]
        self._next_slot = itertools.cycle(range(len(self._slots)))
        self._open = 0
        self._ticking = False
        self._due = 0.0
        self._turn = 0
        self._serial = 0

    def add(self, transport: asyncio.Transport) -> set[asyncio.Transport]:
        """Put a stream into the next slot and return that slot."""
        slot = self._slots[next(self._next_slot)]
        slot.add(transport)
        self._open += 1
        if not self._ticking:
            self._ticking = True
            loop = asyncio.get_running_loop()
            self._due = loop.time() + _SLOT_S
            loop.call_later(_SLOT_S, self._tick, loop)
        return slot

    def discard(self, transport: asyncio.Transport, slot: set[asyncio.Transport]) -> None:
        """Forget a stream; without any the timetable stops."""
        if transport in slot:
            slot.discard(transport)
            self._open -= 1

    def _tick(self, loop: asyncio.AbstractEventLoop) -> None:
        now = loop.time()
        while self._due <= now:
            self._turn = (self._turn + 1) % len(self._slots)
            for transport in tuple(self._slots[self._turn]):
                self._serial += 1
                transport.write(_event(self._serial))
            self._due += _SLOT_S
        # uvloop's timers have whole milliseconds; a shorter wait would be none, and this loop would spin.
        self._ticking = self._open > 0
        if self._ticking:
            loop.call_later(_SLOT_S, self._tick, loop)


class Backend(asyncio.Protocol):
    """One connection: HTTP/1.1 requests in turn, until a GET makes it a stream."""

    def __init__(self, streams: Streams, sessions: set[str]) -> None:
        """`sessions` is shared by all connections."""
        self._streams = streams
        self._sessions = sessions
        self._buffer = b""
        self._slot: set[asyncio.Transport] | None = None
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's own class, same methods

    def connection_lost(self, exc: Exception | None) -> None:
        """A stream that is gone gets no more events."""
        if self._slot is not None and self._transport is not None:
            self._streams.discard(self._transport, self._slot)

    def data_received(self, data: bytes) -> None:
        """Answer every complete request in the buffer."""
        assert self._transport is not None
        self._buffer += data
        while (head_end := self._buffer.find(b"\r\n\r\n")) >= 0:
            request_line, *lines = self._buffer[:head_end].decode("latin-1").split("\r\n")
            headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
            length = int(headers.get("content-length", "0"))
            if length > _MAX_MESSAGE:
                self._transport.close()
                return
            end = head_end + 4 + length
            if len(self._buffer) < end:
                return
            body, self._buffer = self._buffer[head_end + 4 : end], self._buffer[end:]
            self._transport.write(self._answer(request_line.split(" ")[0], headers, body))

    def _answer(self, method: str, headers: dict[str, str], body: bytes) -> bytes:
        session = headers.get("mcp-session-id", "")
        if method == "GET" and "text/event-stream" in headers.get("accept", ""):
            assert self._transport is not None
            self._slot = self._streams.add(self._transport)
            return _STREAM_HEAD
        if method == "DELETE":
            known = session in self._sessions
            self._sessions.discard(session)
            return _response("200 OK" if known else "404 Not Found", b"")
        if method != "POST":
            return _response("200 OK", b"ok", "text/plain")
        try:
            message = json.loads(body)
        except ValueError:
            return _response("400 Bad Request", b"")
        if message.get("method") == "initialize":
            session = f"bench-{time.monotonic_ns():x}-{len(self._sessions):x}"
            self._sessions.add(session)
            return _result(message, _INITIALIZED, f"Mcp-Session-Id: {session}\r\n")
        if session not in self._sessions:
            return _response("404 Not Found" if session else "400 Bad Request", b"")
        return _mcp_answer(message)


def _mcp_answer(message: dict[str, object]) -> bytes:
    """The answer to one JSON-RPC message of an open session."""
    if "id" not in message:
        return _response("202 Accepted", b"")
    match message.get("method"):
        case "ping":
            return _result(message, {})
        case "tools/list":
            return _result(message, {"tools": _TOOLS})
        case "tools/call":
            params = message.get("params")
            assert isinstance(params, dict)
            arguments = params.get("arguments", {})
            text = str(arguments["a"] + arguments["b"]) if params["name"] == "add" else str(arguments.get("text"))
            return _result(message, {"content": [{"type": "text", "text": text}], "isError": False})
    error = {"jsonrpc": "2.0", "id": message["id"], "error": {"code": -32601, "message": "Method not found"}}
    return _response("200 OK", json.dumps(error).encode())


def _result(message: dict[str, object], result: object, extra: str = "") -> bytes:
    body = json.dumps({"jsonrpc": "2.0", "id": message.get("id"), "result": result}, separators=(",", ":"))
    return _response("200 OK", body.encode(), extra=extra)


def _response(status: str, body: bytes, content_type: str = "application/json", extra: str = "") -> bytes:
    kind = f"Content-Type: {content_type}\r\n" if body else ""
    return f"HTTP/1.1 {status}\r\n{kind}{extra}Content-Length: {len(body)}\r\n\r\n".encode() + body


def _event(serial: int) -> bytes:
    """One chunk with one event of about 190 bytes."""
    event = (
        f"event: message\nid: {serial}\n"
        'data: {"jsonrpc":"2.0","method":"notifications/message","params":'
        f'{{"level":"info","data":{{"t":{time.monotonic_ns()},"pad":"{_PAD}"}}}}}}\n\n'
    )
    return f"{len(event):x}\r\n{event}\r\n".encode()


_INITIALIZED = {
    "protocolVersion": LEGACY_VERSION,
    "capabilities": {"tools": {}, "logging": {}},
    "serverInfo": {"name": "bench", "version": "1"},
}
_STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nCache-Control: no-cache\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n8\r\n: open\n\n\r\n"
)


async def _serve(port: int, rate: float) -> None:
    loop = asyncio.get_running_loop()
    stopped = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopped.set)
    streams, sessions = Streams(rate), set[str]()
    server = await loop.create_server(lambda: Backend(streams, sessions), HOST, port, backlog=4096)
    await stopped.wait()
    server.close()


def main() -> int:
    """Serve until a signal."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--rate", type=float, default=10.0, help="events per second and stream")
    args = parser.parse_args()
    with contextlib.suppress(KeyboardInterrupt):
        uvloop.run(_serve(args.port, args.rate))
    return 0


if __name__ == "__main__":
    sys.exit(main())
