"""One HTTP request at a scripted MCP server, and its answer in whatever form: see mcp_server.

Rules:
- the answer is JSON when the response is the first thing said, else an event stream; either may be broken off anywhere;
- on a server with `prime` the streams of a session have event ids and are kept whole, so that a client may come back.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import zlib
from typing import Any, NamedTuple, Protocol

from tests.peers.mcp_script import MODERN, Exchange, Offer

REASONS = {200: "OK", 202: "Accepted", 400: "Bad Request", 404: "Not Found", 405: "Method Not Allowed"}


class Owner(Protocol):
    """The server, as far as a request knows it."""

    offer: Offer
    numbers: itertools.count[int]
    gate: asyncio.Event
    given_up: list[Any]


class Seen(NamedTuple):
    """One request as it came; header names in lower case, `message` decoded (None when there is no body)."""

    method: str
    path: str
    headers: list[tuple[str, str]]
    body: bytes
    message: Any

    def values(self, name: str) -> list[str]:
        """All values of a header."""
        return [value for key, value in self.headers if key == name]


class Session:
    """What the server keeps for a client."""

    def __init__(self, version: str, capabilities: Any) -> None:
        self.version = version
        self.capabilities = capabilities
        self.stream: HttpExchange | None = None
        self.asked: dict[str, asyncio.Future[dict[str, Any]]] = {}
        self.events: dict[str, list[tuple[str, bytes]]] = {}
        self.following: dict[str, HttpExchange] = {}


class HttpExchange(Exchange):
    """One HTTP request and its answer: JSON when the response is the first thing said, else an event stream."""

    def __init__(self, server: Owner, seen: Seen, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.server = server
        self.offer = server.offer
        self.seen = seen
        self.reader = reader
        self.writer = writer
        self.raw = seen.body
        self.message = seen.message if isinstance(seen.message, dict) else {}
        self.headers = dict(seen.headers)
        self.modern = self.headers.get("mcp-protocol-version", "") >= MODERN
        self.session: Session | None = None
        self.streaming = False
        self.chunked = False
        self.over = False
        self.abandoned = False
        self.name = ""
        self.squeeze: Any = None

    async def reply(self, status: int, headers: dict[str, str] | None = None, body: bytes = b"") -> None:
        """A whole answer."""
        fields = {"Content-Length": str(len(body)), **(headers or {})}
        self.over = True
        await self._out(self._head(status, fields) + body)

    def _head(self, status: int, fields: dict[str, str]) -> bytes:
        lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
        return f"HTTP/1.1 {status} {REASONS.get(status, 'Whatever')}\r\n{lines}\r\n".encode()

    async def _out(self, octets: bytes) -> None:
        try:
            self.writer.write(octets)
            await self.writer.drain()
        except ConnectionError:
            self.abandoned = True
            raise asyncio.CancelledError from None

    async def begin(self, *, gzip: bool = False, **headers: str) -> None:
        """The head of an event stream."""
        self.streaming = self.chunked = True
        fields = {"Content-Type": "text/event-stream", "Transfer-Encoding": "chunked"}
        if gzip:
            fields["Content-Encoding"] = "gzip"
            self.squeeze = zlib.compressobj(wbits=31)
        await self._out(self._head(200, fields | {name.replace("_", "-"): value for name, value in headers.items()}))
        if self.offer.prime and self.session is not None:
            self.name = self.name or f"s{next(self.server.numbers)}"
            self.session.events.setdefault(self.name, [])
            self.session.following[self.name] = self
            await self.write(f"id: {self.name}/0\nretry: 10\ndata:\n\n".encode())

    async def write(self, octets: bytes) -> None:
        if not self.streaming:
            await self.begin()
        if self.squeeze is not None:
            octets = self.squeeze.compress(octets) + self.squeeze.flush(zlib.Z_SYNC_FLUSH)
        await self._out(b"%x\r\n%b\r\n" % (len(octets), octets))

    async def event(self, raw: bytes) -> None:
        """One message as an event, remembered when streams have ids."""
        ident = b""
        if self.name and self.session is not None:
            events = self.session.events[self.name]
            events.append((f"{self.name}/{len(events) + 1}", raw))
            ident = b"id: " + events[-1][0].encode() + b"\n"
            follower = self.session.following.get(self.name)
            if follower is None:
                return
            await follower.write(ident + b"event: message\ndata: " + raw + b"\n\n")
            return
        await self.write(ident + b"event: message\ndata: " + raw + b"\n\n")

    async def send(self, raw: bytes) -> None:
        if not self.streaming and not self.name:
            await self.begin()
        await self.event(raw)

    async def finish(self, raw: bytes) -> None:
        if self.over:
            return
        if self.streaming or self.name:
            await self.event(raw)
            last: HttpExchange | None = self
            if self.name and self.session is not None:
                last = self.session.following.pop(self.name, None)
            if last is not None:
                await last.end()
            self.over = True
        else:
            await self.reply(200, {"Content-Type": "application/json"}, raw)

    async def end(self) -> None:
        """End the stream, and keep the connection."""
        self.over = True
        self.streaming = False
        if self.squeeze is not None:
            octets = self.squeeze.flush()
            await self._out(b"%x\r\n%b\r\n" % (len(octets), octets))
        await self._out(b"0\r\n\r\n")

    async def pause(self) -> None:
        """End the connection and go on with the stream when the client comes back (2025-11-25 polling)."""
        assert self.name and self.session is not None
        follower = self.session.following.pop(self.name)
        await follower.end()
        self.over = False

    async def ask(self, method: str, params: Any, ident: Any = None) -> dict[str, Any]:
        assert self.session is not None
        ident = next(self.server.numbers) if ident is None else ident
        future: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self.session.asked[json.dumps(ident)] = future
        await self.send(json.dumps({"jsonrpc": "2.0", "id": ident, "method": method, "params": params}).encode())
        return await future

    async def die(self) -> None:
        self.over = True
        self.writer.transport.abort()

    async def gone(self) -> None:
        try:
            await self.reader.read(1)
        except ConnectionError:
            pass
        self.abandoned = self.over = True
        self.server.given_up.append(self.message.get("id"))

    async def released(self) -> None:
        await self.server.gate.wait()
