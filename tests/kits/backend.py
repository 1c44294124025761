"""A real HTTP/1.1 server for lifecycle tests: asyncio on a thread of its own, one behaviour per path.

    GET /fast           200 "fast"
    GET /slow?ms=300    200 "slow" after that many milliseconds
    GET /held           200 "held" once the test calls `release()`
    GET /sse?ms=20      an event stream: an event every `ms` milliseconds until the client leaves or `end_streams()`
    any /echo           200 with the request's body
    anything else       200 with the path

Behaviour that is octet-exact or broken belongs to the fake upstream of the data-path tests, not here.
"""

from __future__ import annotations

import asyncio
import threading
from types import TracebackType
from typing import Self
from urllib.parse import parse_qs, urlsplit


class Backend:
    """`port` is where it listens; counters may be read from any thread."""

    def __init__(self) -> None:
        self.port = 0
        self.requests = 0
        self.waiting = 0
        """Requests that came and are not answered yet (slow, held and streams)."""
        self.streams = 0
        self.connections = 0
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="backend", daemon=True)
        self._started = threading.Event()
        self._tasks: set[asyncio.Task[None]] = set()

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._started.wait(10), "the backend did not start"
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    def release(self) -> None:
        """Answer every request for /held, now and from now on."""
        self._loop.call_soon_threadsafe(self._released.set)

    def end_streams(self) -> None:
        """End every event stream cleanly."""
        self._loop.call_soon_threadsafe(self._ended.set)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._start())
        self._loop.run_forever()

    async def _start(self) -> None:
        self._released = asyncio.Event()
        self._ended = asyncio.Event()
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0, backlog=1024)
        self.port = self._server.sockets[0].getsockname()[1]
        self._started.set()

    async def _stop(self) -> None:
        self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.connections += 1
        try:
            while await self._request(reader, writer):
                pass
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            self.connections -= 1
            self._tasks.discard(task)
            writer.transport.abort()

    async def _request(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = await reader.readuntil(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        method, target, _ = first.split(" ")
        fields = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines if line)}
        body = await self._body(reader, fields)
        url = urlsplit(target)
        query = {name: values[0] for name, values in parse_qs(url.query).items()}
        self.requests += 1
        self.waiting += 1
        try:
            if url.path == "/sse":
                await self._stream(writer, float(query.get("ms", "20")) / 1000)
                return True
            answer = url.path.encode()
            if url.path == "/fast":
                answer = b"fast"
            elif url.path == "/slow":
                await asyncio.sleep(float(query.get("ms", "300")) / 1000)
                answer = b"slow"
            elif url.path == "/held":
                await self._released.wait()
                answer = b"held"
            elif url.path == "/echo":
                answer = body
        finally:
            self.waiting -= 1
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n\r\n" % len(answer))
        if method != "HEAD":
            writer.write(answer)
        await writer.drain()
        return fields.get("connection", "").lower() != "close"

    @staticmethod
    async def _body(reader: asyncio.StreamReader, fields: dict[str, str]) -> bytes:
        if fields.get("transfer-encoding", "").lower() != "chunked":
            return await reader.readexactly(int(fields.get("content-length", "0")))
        body = b""
        while size := int((await reader.readuntil(b"\r\n")).partition(b";")[0], 16):
            body += (await reader.readexactly(size + 2))[:-2]
        await reader.readuntil(b"\r\n")
        return body

    async def _stream(self, writer: asyncio.StreamWriter, interval: float) -> None:
        self.streams += 1
        try:
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
            number = 0
            while not self._ended.is_set():
                event = b"id: %d\ndata: tick\n\n" % number
                writer.write(b"%x\r\n%s\r\n" % (len(event), event))
                await writer.drain()
                number += 1
                try:
                    await asyncio.wait_for(self._ended.wait(), interval)
                except TimeoutError:
                    pass
            writer.write(b"0\r\n\r\n")
            await writer.drain()
        finally:
            self.streams -= 1
