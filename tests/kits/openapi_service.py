"""A real HTTP service for the OpenAPI tests, and a plain way to it that keeps the contract of `Origin.fetch`.

    with Service() as service:                       # a server on a thread, on a port of the system's choice
        service.answers["/pets"] = (200, {"content-type": "application/json"}, b"[]")
        origin = PlainOrigin(service.port)           # one connection per request, asyncio and h11
        service.seen[0].target                       # what came, as it came
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, NamedTuple, Self

import h11

from agw.mcp.transport import TransportError
from agw.runtime.origin import Answer

Reply = tuple[int, dict[str, str], bytes]


class Seen(NamedTuple):
    """One request: names of headers in lower case, values joined when repeated."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes


class Service:
    """Answers by path (without query): a reply, or a function of the request. Without one: 404."""

    def __init__(self) -> None:
        self.answers: dict[str, Reply | Callable[[Seen], Reply]] = {}
        self.seen: list[Seen] = []
        self.release = threading.Event()
        """Set by `__exit__`, so that an answer may wait for it."""
        service = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_one_request(self) -> None:
                self.raw_requestline = self.rfile.readline(65537)
                if not self.raw_requestline or not self.parse_request():
                    self.close_connection = True
                    return
                headers: dict[str, str] = {}
                for name, value in self.headers.items():
                    key = name.lower()
                    headers[key] = f"{headers[key]}, {value}" if key in headers else value
                body = self.rfile.read(int(headers.get("content-length", "0")))
                seen = Seen(self.command, self.path, headers, body)
                service.seen.append(seen)
                found = service.answers.get(self.path.partition("?")[0], (404, {"content-type": "text/plain"}, b"nothing here"))
                status, fields, content = found(seen) if callable(found) else found
                self.send_response_only(status)
                for name, value in fields.items():
                    self.send_header(name, value)
                if status not in (204, 304):
                    self.send_header("content-length", fields.get("content-length", str(len(content))))
                self.send_header("connection", "close")
                self.end_headers()
                if self.command != "HEAD" and status not in (204, 304):
                    self.wfile.write(content)
                self.close_connection = True

        class Server(ThreadingHTTPServer):
            request_queue_size = 64

        self._server = Server(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.port: int = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.release.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(10)


class PlainOrigin:
    """`fetch` over a connection of its own; the same errors as the real one."""

    def __init__(self, port: int) -> None:
        self.port = port

    async def fetch(
        self, method: bytes, path: bytes, headers: Sequence[tuple[bytes, bytes]], body: bytes | None, *, timeout_s: float, max_bytes: int
    ) -> Answer:
        try:
            async with asyncio.timeout(timeout_s):
                return await self._fetch(method, path, headers, body, max_bytes)
        except TimeoutError:
            raise TransportError("timeout", "no answer in time") from None

    async def _fetch(self, method: bytes, path: bytes, headers: Sequence[tuple[bytes, bytes]], body: bytes | None, max_bytes: int) -> Answer:
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        except OSError:
            raise TransportError("connect", "cannot connect", sent=False) from None
        try:
            wire: Any = h11.Connection(h11.CLIENT)
            fields = [(b"Host", b"service.test"), *headers]
            if body is not None:
                fields.append((b"Content-Length", str(len(body)).encode()))
            writer.write(wire.send(h11.Request(method=method, target=path, headers=fields)))
            if body:
                writer.write(wire.send(h11.Data(data=body)))
            writer.write(wire.send(h11.EndOfMessage()))
            head: Any = None
            content = bytearray()
            while True:
                event = wire.next_event()
                if event is h11.NEED_DATA:
                    wire.receive_data(await reader.read(65536))
                elif isinstance(event, h11.Response):
                    head = event
                elif isinstance(event, h11.Data):
                    content += event.data
                    if len(content) > max_bytes:
                        raise TransportError("limit", "the answer is too large")
                elif isinstance(event, h11.EndOfMessage):
                    if 300 <= head.status_code < 400:
                        headers = [(bytes(k), bytes(v)) for k, v in head.headers]
                        raise TransportError("status", "a redirect", status=head.status_code, headers=headers)
                    return Answer(head.status_code, [(bytes(k), bytes(v)) for k, v in head.headers], bytes(content))
                elif isinstance(event, h11.ConnectionClosed):
                    raise TransportError("closed", "closed before the answer")
        except (h11.RemoteProtocolError, ConnectionError):
            raise TransportError("closed", "closed in the answer") from None
        finally:
            writer.close()
