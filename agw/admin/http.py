"""A small strict HTTP/1.1 server for the cold path: administration, metrics, probes, the demo server.

One task per connection; a handler runs inside it, so whatever ends the connection ends the handler. This file owns
transports and timers; framing is `agw.admin.framing`, meaning is the handler's.

Rules:
- every wait has a limit (`Limits`), every buffer a bound: unread input stops the socket, an unread response stops the
  handler's generator (at most one chunk is waiting), connections over the limit get 503 and are closed;
- end of input counts as the client leaving: the handler is cancelled at once. A client that half-closes after its
  request is therefore not answered; over TCP nothing tells it apart from one that is gone;
- a response that fails half-way is cut, never ended cleanly;
- a handler's exception costs one exchange: it is logged here, and the client sees a bare 500.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from contextlib import aclosing
from typing import cast

from agw.admin.framing import Limits, RequestFramer, make_request
from agw.admin.guard import is_loopback_socket
from agw.admin.message import Handler, HttpError, Request, Response, error_response

__all__ = ["Handler", "HttpError", "HttpServer", "Limits", "Request", "Response"]

log = logging.getLogger(__name__)

_READ_AHEAD_BYTES = 64 * 1024  # pipelined input kept while a handler runs; more of it stops the socket
_SHED = HttpError(503, "too many connections", headers=(("retry-after", "1"),))


class _ClientGone(Exception):
    """The client takes nothing any more; there is nobody to answer."""


class HttpServer:
    """Accepts on any number of sockets and answers with one handler, within one set of limits.

    Owner: the caller's running loop; sockets passed to `listen` belong to the server afterwards.
    """

    def __init__(self, handler: Handler, *, limits: Limits | None = None) -> None:
        self.handler = handler
        self.limits = limits or Limits()
        self.closing = False
        self._listeners: list[asyncio.Server] = []
        self._connections: set[_Connection] = set()

    @property
    def connection_count(self) -> int:
        """Connections being served now."""
        return len(self._connections)

    async def listen(self, sock: socket.socket) -> None:
        """Start to accept on a bound stream socket (TCP or unix) and return; may be called for several sockets.

        Errors: OSError if the socket cannot listen; the caller keeps it then.
        """
        loop = asyncio.get_running_loop()
        loopback = is_loopback_socket(sock)

        def connection() -> _Connection:
            return _Connection(self, loopback)

        sock.setblocking(False)
        if sock.family == socket.AF_UNIX:
            self._listeners.append(await loop.create_unix_server(connection, sock=sock))
        else:
            self._listeners.append(await loop.create_server(connection, sock=sock))

    async def close(self, grace_s: float = 1.0) -> None:
        """Stop accepting, drop connections without a complete request, and cancel handlers after `grace_s` seconds."""
        self.closing = True
        for listener in self._listeners:
            listener.close()
        self._listeners.clear()
        for connection in self._connections:
            if not connection.answering:
                connection.cancel()
        if tasks := {connection.task for connection in self._connections if connection.task is not None}:
            _, running = await asyncio.wait(tasks, timeout=grace_s)
            for task in running:
                task.cancel()
            if running:
                await asyncio.wait(running)

    def admit(self, connection: _Connection) -> bool:
        """Count a new connection in; False if there are already too many or the server is closing."""
        if self.closing or len(self._connections) >= self.limits.connections:
            return False
        self._connections.add(connection)
        return True

    def forget(self, connection: _Connection) -> None:
        """Count a finished connection out."""
        self._connections.discard(connection)


class _Connection(asyncio.Protocol):
    """One connection: its transport, its framer and the task that reads, handles and answers in turn."""

    def __init__(self, server: HttpServer, loopback: bool) -> None:
        self.task: asyncio.Task[None] | None = None  # stays None if the connection was not admitted
        self._server = server
        self._limits = server.limits
        self._loopback = loopback
        self._framer = RequestFramer(server.limits)
        self._arrival = asyncio.Event()  # input came since it was last cleared
        self._writable = asyncio.Event()  # the transport holds nothing unsent
        self._writable.set()
        self._reading = True
        self._discarding = False
        self._served = 0
        self.answering = False

    def cancel(self) -> None:
        """End the connection, and the handler if one runs."""
        if self.task is not None:
            self.task.cancel()

    # Transport side. Runs between steps of the task, never inside one.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        if not self._server.admit(self):
            self._discarding = True
            self._transport.write(self._framer.refusal_bytes(_SHED))
            self._transport.close()
            return
        # With a limit of 0 "writable" means "all handed to the kernel": one chunk waits here at most.
        self._transport.set_write_buffer_limits(high=0)
        peer = transport.get_extra_info("peername")
        self._peer = f"{peer[0]}:{peer[1]}" if isinstance(peer, tuple) else "unix"
        self.task = asyncio.get_running_loop().create_task(self._serve())
        self.task.add_done_callback(self._finished)

    def data_received(self, data: bytes) -> None:
        if self._discarding:
            return
        self._framer.feed(data)
        self._arrival.set()
        if self._reading and self._framer.buffered_bytes > _READ_AHEAD_BYTES:
            self._reading = False
            self._transport.pause_reading()

    def eof_received(self) -> bool:
        self.cancel()
        return False  # the transport closes itself

    def connection_lost(self, exc: Exception | None) -> None:
        self.cancel()

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._server.forget(self)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("connection failed", exc_info=error)
        if self._writable.is_set() and not task.cancelled():
            self._transport.close()
        else:
            self._transport.abort()  # nobody reads what is still unsent

    # Task side.

    async def _serve(self) -> None:
        """Requests in turn until the client, a limit or a shutdown ends the connection."""
        try:
            while (request := await self._receive()) is not None:
                self.answering = True
                await self._answer(request)
                self.answering = False
                self._served += 1
                if self._server.closing or not self._framer.reusable:
                    return
        except HttpError as error:
            await self._refuse(error)
        except _ClientGone:
            self._transport.abort()

    async def _receive(self) -> Request | None:
        """The next complete request; None if the connection stayed idle. Errors: HttpError if it is not acceptable."""
        limits = self._limits
        try:
            async with asyncio.timeout(limits.idle_timeout_s if self._served else limits.header_timeout_s):
                while not self._framer.buffered_bytes:
                    await self._more()
        except TimeoutError:
            return None
        try:
            async with asyncio.timeout(limits.header_timeout_s):
                while (head := self._framer.next_head()) is None:
                    await self._more()
            async with asyncio.timeout(limits.body_timeout_s):
                body = await self._receive_body()
        except TimeoutError:
            raise HttpError(408, "request took too long") from None
        return make_request(head, body, loopback=self._loopback, peer=self._peer)

    async def _receive_body(self) -> bytes:
        while (body := self._framer.next_body()) is None:
            if interim := self._framer.continue_bytes():
                await self._write(interim)
            await self._more()
        return body

    async def _more(self) -> None:
        """Wait for input; the caller has just found that what it has is not enough."""
        if not self._reading:
            self._reading = True
            self._transport.resume_reading()
        self._arrival.clear()
        await self._arrival.wait()

    async def _answer(self, request: Request) -> None:
        """Run the handler and send what it returns."""
        try:
            response = await self._server.handler(request)
        except HttpError as error:
            response = error_response(error)
        except Exception:  # the exchange border: one broken handler must not end the process or the connection
            log.exception("handler failed", extra={"method": request.method, "path": request.path})
            response = error_response(HttpError(500, "internal error"))
        head = self._framer.head_bytes(response, close=self._server.closing)
        if isinstance(response.body, bytes):
            payload = b"" if request.method == "HEAD" or not response.body else self._framer.chunk_bytes(response.body)
            await self._write(head + payload + self._framer.end_bytes())
            return
        async with aclosing(response.body) as chunks:
            await self._write(head)
            try:
                if request.method != "HEAD":
                    async for chunk in chunks:
                        if chunk:
                            await self._write(self._framer.chunk_bytes(chunk))
            except _ClientGone:
                raise
            except Exception as error:
                log.exception("stream failed", extra={"method": request.method, "path": request.path})
                raise _ClientGone from error
        await self._write(self._framer.end_bytes())

    async def _write(self, data: bytes) -> None:
        """Send, and return when the kernel has it all. Errors: _ClientGone if the reader takes too long."""
        self._transport.write(data)
        try:
            async with asyncio.timeout(self._limits.write_timeout_s):
                await self._writable.wait()
        except TimeoutError:
            raise _ClientGone from None

    async def _refuse(self, error: HttpError) -> None:
        """Answer what was not acceptable, then swallow input for a moment so that the answer is not reset away."""
        self._discarding = True
        await self._write(self._framer.refusal_bytes(error))
        if self._transport.can_write_eof():
            self._transport.write_eof()
        if not self._reading:
            self._transport.resume_reading()
        await asyncio.sleep(self._limits.linger_s)  # ends early when the client closes: that cancels the task
