"""What steps that ask others are tested with: a request, a host, and a caller that makes real HTTP calls on real sockets."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any
from urllib.parse import urlsplit

import h11

from agw.runtime.plan_security import CallPlan
from agw.security.contract import CallError, Document, Found, Headers, HttpAnswer, Refusal, Step, Trust
from agw.security.upstream.store import GrantStore, StoreError

Answer = tuple[int, list[tuple[str, str]], bytes]
Handler = Callable[["Asked"], Answer | Awaitable[Answer]]


class FakeRequest:
    """A request's head, see `agw.security.contract.Request`."""

    def __init__(self, method: str = "GET", path: bytes = b"/", headers: Headers | None = None, *, query: bytes | None = None, secure: bool = False) -> None:
        self.method = method
        self.path = path
        self.query = query
        self.headers: Headers = [(b"host", b"app.example"), *(headers or [])]
        self.peer = b"192.0.2.7"
        self.secure = secure
        self.certificate: bytes | None = None
        self.hopped = False

    def values(self, name: bytes) -> list[bytes]:
        return [value for key, value in self.headers if key == name]


class Asked:
    """A request as a test's server saw it."""

    def __init__(self, method: str, target: str, headers: Headers, body: bytes) -> None:
        self.method = method
        self.target = target
        self.headers = {name.decode(): value.decode("latin-1") for name, value in headers}
        self.body = body


class HttpPeer:
    """A small HTTP server on a free loopback port. `handler` says what it answers; `asked` is what it saw."""

    def __init__(self, handler: Handler) -> None:
        self.handler = handler
        self.asked: list[Asked] = []
        self.port = 0

    async def __aenter__(self) -> HttpPeer:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = h11.Connection(h11.SERVER)
        try:
            head, body = await _receive(connection, reader)
            asked = Asked(head.method.decode(), head.target.decode(), list(head.headers), body)
            self.asked.append(asked)
            made = self.handler(asked)
            status, headers, text = made if isinstance(made, tuple) else await made
            fields = [*headers, ("content-length", str(len(text))), ("connection", "close")]
            writer.write(connection.send(h11.Response(status_code=status, headers=fields)) or b"")
            writer.write(connection.send(h11.Data(data=text)) or b"")
            await writer.drain()
        except (ConnectionError, h11.RemoteProtocolError):
            pass
        finally:
            writer.close()
            try:
                await writer.wait_closed()
            except ConnectionError:
                pass


async def _receive(connection: h11.Connection, reader: asyncio.StreamReader) -> tuple[Any, bytes]:
    head, body = None, b""
    while True:
        event = connection.next_event()
        if event is h11.NEED_DATA:
            connection.receive_data(await reader.read(65536))
        elif isinstance(event, h11.Request | h11.Response):
            head = event
        elif isinstance(event, h11.Data):
            body += event.data
        elif isinstance(event, h11.EndOfMessage):
            return head, body


class Documents:
    """Documents that were fetched before the test."""

    def __init__(self) -> None:
        self.known: dict[str, Document] = {}
        self.wanted: list[str] = []
        self.watchers: list[tuple[str, Callable[[], object]]] = []
        self.newer: dict[str, object] = {}
        """What is fetched when a document is wanted."""

    def get(self, url: str) -> Document | None:
        return self.known.get(url)

    def want(self, url: str) -> None:
        self.wanted.append(url)
        if url in self.newer:
            self.put(url, self.newer[url])

    def watch(self, url: str, changed: Callable[[], object]) -> None:
        self.watchers.append((url, changed))

    async def arrival(self, url: str, timeout_s: float) -> Document | None:
        return self.known.get(url)

    def put(self, url: str, value: object) -> None:
        before = self.known.get(url)
        self.known[url] = Document(json.dumps(value).encode(), 1 if before is None else before.version + 1)
        for watched, changed in self.watchers:
            if watched == url:
                changed()


class Host:
    """A `SecurityHost` whose clusters are loopback ports: `CallPlan.cluster` is the port."""

    def __init__(self) -> None:
        self.documents = Documents()
        self.counted: Counter[tuple[str, str]] = Counter()
        self.calls = 0
        self.store: GrantStore | None = None
        self.outside_calls: list[tuple[str, Trust | None]] = []

    @property
    def grants(self) -> GrantStore:
        if self.store is None:
            raise StoreError("there is no directory for grants")
        return self.store

    async def outside(self, method: str, url: str, headers: Headers, body: bytes, trust: Trust | None = None) -> HttpAnswer:
        """Any URL, unguarded; `outside_calls` is what was asked and how."""
        self.outside_calls.append((url, trust))
        parts = urlsplit(url)
        target = parts.path + (f"?{parts.query}" if parts.query else "")
        return await self(CallPlan(parts.port or 80, target), method, [(b"host", parts.netloc.encode()), *headers], body)

    def spawn(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.ensure_future(work)

    def count(self, what: str, result: str) -> None:
        self.counted[what, result] += 1

    @property
    def caller(self) -> Host:
        return self

    async def __call__(self, call: CallPlan, method: str, headers: Headers, body: bytes, path: str | None = None) -> HttpAnswer:
        self.calls += 1
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", call.cluster)
        except OSError:
            raise CallError("connect", "refused") from None
        connection = h11.Connection(h11.CLIENT)
        try:
            fields = headers if any(name == b"host" for name, _ in headers) else [(b"host", b"service"), *headers]
            fields = [*fields, (b"content-length", b"%d" % len(body))] if body else fields
            writer.write(connection.send(h11.Request(method=method, target=path or call.path, headers=fields)) or b"")
            writer.write((connection.send(h11.Data(data=body)) if body else b"") or b"")
            writer.write(connection.send(h11.EndOfMessage()) or b"")
            head, text = await _receive(connection, reader)
        except (h11.RemoteProtocolError, ConnectionError):
            raise CallError("protocol", "no answer") from None
        finally:
            writer.close()
            try:
                await writer.wait_closed()
            except ConnectionError:
                pass
        return HttpAnswer(head.status_code, [(bytes(name), bytes(value)) for name, value in head.headers], text)


async def verdict_of(step: Step, request: FakeRequest, found: Found | None = None) -> Refusal | None:
    """What a step says, after waiting for it when it asks."""
    verdict = step.check(request, found if found is not None else Found())
    return verdict if verdict is None or isinstance(verdict, Refusal) else await verdict


def compile_python(expression: str, phase: str) -> Callable[..., Any]:
    """An expression engine for tests: Python over `request`, `claims` and `response` instead of CEL."""
    code = compile(expression, phase, "eval")
    return lambda request, found, roots: eval(code, {}, {"request": request, "claims": found.claims, **roots})
