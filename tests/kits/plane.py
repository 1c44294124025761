"""A data plane for tests inside this process: a real reactor in a uvloop loop, a slot of counters, clusters to real peers.

    def test_it(): run(body)
    async def body(plane: Plane) -> None:
        cluster = plane.cluster(upstream)

Rules:
- `run` bounds the whole test and fails it when the data plane reported an internal error, when a callback of the loop
  raised, or when a connection is open after `Plane.close`;
- the wiring is the worker's: the loop polls the reactor's descriptor, a timer ticks, waiting clients expire.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import uvloop

from agw._fast.accesslog import AccessLog
from agw._fast.exchange import Context
from agw._fast.pool import Cluster
from agw._fast.reactor import Reactor
from agw.runtime.origin import Origin
from agw.runtime.plan import ClusterPlan
from agw.shm.layout import Arena
from agw.worker.resolver import literal

TICK_S = 0.05
T = TypeVar("T")


class Plane:
    """One worker's data plane without downstream side."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.errors: list[BaseException] = []
        self.loop.set_exception_handler(lambda _, context: self.errors.append(context.get("exception") or AssertionError(context["message"])))
        self.arena = Arena(1)
        self.slot = self.arena.slot(0)
        self.reactor = Reactor(self.slot, self.errors.append)
        self.reactor.wake = self.loop.call_soon
        self.context = Context(self.reactor, self.slot, AccessLog(None), 1)
        self.clusters: list[Cluster] = []
        self.loop.add_reader(self.reactor.fileno(), self.reactor.on_readable)
        self._ticker = self.loop.call_soon(self._tick)

    def _tick(self) -> None:
        self.reactor.tick()
        for cluster in self.clusters:
            cluster.expire_waiters()
        self._ticker = self.loop.call_later(TICK_S, self._tick)

    def cluster(self, host: str, **plan: Any) -> Cluster:
        """A cluster for `127.0.0.1:port` or `unix:path`; further arguments are fields of its plan."""
        if host.startswith("unix:"):
            wanted = ClusterPlan(name="peer", unix_path=host[5:], **plan)
        else:
            name, _, port = host.rpartition(":")
            wanted = ClusterPlan(name="peer", host=name, port=int(port), authority=host, **plan)
        cluster = Cluster(wanted, len(self.clusters))
        cluster.attach(self.reactor)
        endpoint = literal(wanted)
        if endpoint is not None:
            cluster.set_endpoints([endpoint])
        self.clusters.append(cluster)
        return cluster

    def origin(self, host: str, **plan: Any) -> Origin:
        return Origin(self.context, self.cluster(host, **plan))

    def gauge(self, name: str) -> int:
        """A counter of the slot, by its name in agw.shm.layout."""
        return self.arena.gauges(0)[name]

    async def until(self, condition: Callable[[], object], what: str, patience: float = 10.0) -> None:
        """Wait, with a bound, until `condition` holds."""
        end = self.loop.time() + patience
        while not condition():
            assert self.loop.time() < end, f"{what} did not happen within {patience} s"
            await asyncio.sleep(0.005)

    def close(self) -> None:
        for cluster in self.clusters:
            cluster.retire()
        self._ticker.cancel()
        self.loop.remove_reader(self.reactor.fileno())


def run(body: Callable[[Plane], Awaitable[T]], *, timeout: float = 30.0, leaks: bool = False) -> T:
    """Run `body` with a plane of its own. `leaks`: connections may be open at the end."""

    async def whole() -> T:
        plane = Plane()
        try:
            async with asyncio.timeout(timeout):
                result = await body(plane)
                if not leaks:
                    for cluster in plane.clusters:
                        cluster.retire()
                    await plane.until(lambda: not any(c.connections or c.waiting_count() for c in plane.clusters), "the end of all connections", 3.0)
        finally:
            plane.close()
        assert not plane.errors, plane.errors
        return result

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(whole())


def refused_host() -> str:
    """An address where nobody listens."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{sock.getsockname()[1]}"
