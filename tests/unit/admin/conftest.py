"""A server under test runs on a loop of its own thread; the test itself is a blocking client on real sockets."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import pytest

from agw.admin.http import Handler, HttpServer, Limits


class LoopThread:
    """An event loop in a thread. `run` executes a coroutine there and returns its result, within 10 s."""

    def __init__(self, kind: str) -> None:
        self.loop = pytest.importorskip("uvloop").new_event_loop() if kind == "uvloop" else asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self.thread.start()

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(10)

    def stop(self) -> None:
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(10)
        self.loop.close()


@pytest.fixture(params=["asyncio", "uvloop"])
def loop_thread(request: pytest.FixtureRequest) -> Iterator[LoopThread]:
    thread = LoopThread(request.param)
    yield thread
    thread.stop()


Serve = Callable[..., tuple[HttpServer, int]]


@pytest.fixture
def serve(loop_thread: LoopThread) -> Iterator[Serve]:
    """`serve(handler, limits)` starts a server on a free loopback port and returns it and the port."""
    servers: list[HttpServer] = []

    def start(handler: Handler, limits: Limits | None = None) -> tuple[HttpServer, int]:
        sock = socket.create_server(("127.0.0.1", 0))
        server = HttpServer(handler, limits=limits)
        servers.append(server)
        port = sock.getsockname()[1]
        loop_thread.run(server.listen(sock))
        return server, port

    yield start
    for server in servers:
        loop_thread.run(server.close(0.0))
        assert server.connection_count == 0
