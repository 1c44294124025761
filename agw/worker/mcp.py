"""The MCP backends of one worker: a service per backend, alive over reloads, and what the worker lends them.

Imported only when the configuration has an MCP backend.
"""

from __future__ import annotations

import asyncio
import logging
import time
from operator import add

from agw._fast.call import Call
from agw._fast.exchange import Context
from agw._fast.policy import Choice
from agw.mcp.federation.drain import KINDS
from agw.mcp.seal import KeyRing
from agw.mcp.service import McpService
from agw.mcp.streams import EventStream
from agw.runtime.endpoint import McpEndpoint
from agw.runtime.snapshot import BindKey
from agw.shm.layout import GAUGES
from agw.worker.hop import Hops
from agw.worker.journal import Journal

log = logging.getLogger(__name__)

_GAUGE = {name: number for number, name in enumerate(GAUGES)}
_CHILDREN = ("mcp_children_started_total", "mcp_children_restarted_total", "mcp_children_failed_total")
SWEEP_S = 5.0
PUBLISH_S = 0.5
"""How often the gauges of the shared memory are written."""


class McpHost:
    """Services by the backend's place. Implements `agw.mcp.service.Host`."""

    def __init__(self, context: Context, index: int, workers: int, instance: bytes, hops: Hops, journal: Journal) -> None:
        self.context = context
        self.index = index
        self.workers = workers
        self.instance = instance
        self.ring = KeyRing([bytes(32)])
        self.journal = journal
        self.recovered = journal.load()
        self.started = time.time()
        self.services: dict[str, McpService] = {}
        self.binds: list[str] = []
        self._hops = hops
        self._keys: dict[str, BindKey] = {}
        self._closing: set[asyncio.Task[None]] = set()
        self._swept = time.monotonic()
        self._published = 0.0

    def adopt(self, endpoints: list[McpEndpoint], keys: list[bytes], binds: list[BindKey]) -> None:
        """A new snapshot: services follow their newest endpoint, those without one end."""
        self.ring = KeyRing(keys)
        self._keys = {str(key): key for key in binds}
        self.binds = list(self._keys)
        seen = set()
        for endpoint in endpoints:
            name = endpoint.plan.place or endpoint.plan.name
            seen.add(name)
            service = self.services.get(name)
            if service is None:
                service = self.services[name] = McpService(endpoint, self)
            else:
                service.reconfigure(endpoint)
            endpoint.service = service
        for name in [name for name in self.services if name not in seen]:
            task = asyncio.get_running_loop().create_task(self.services.pop(name).close())
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)

    def hop(self, call: Call, slot: int) -> Choice | None:
        """The way to the worker in another slot; None for one that does not exist, or is this one."""
        key = self._keys.get(call.bind)
        if key is None or slot == self.index or not 0 <= slot < self.workers:
            return None
        return self._hops.choice(key, slot)

    def tick(self) -> None:
        """Called by the worker's tick."""
        now = time.monotonic()
        if now - self._published > PUBLISH_S:
            self._published = now
            self._publish()
        if now - self._swept > SWEEP_S:
            self._swept = now
            for service in self.services.values():
                service.sweep()

    def _publish(self) -> None:
        """What is open now, for the metrics."""
        slot = self.context.slot
        services = self.services.values()
        open_now = {
            "mcp_sessions": sum(len(service.sessions) + len(service.sse.channels) for service in services),
            "mcp_replicas": sum(len(service.sessions.replicas) for service in services),
            "mcp_streams": EventStream.open_now,
            "mcp_parked": sum(len(service.parking) for service in services),
        }
        for name, number in open_now.items():
            slot.set_gauge(_GAUGE[name], number)
        rows: dict[int, list[int]] = {}
        for service in services:
            items = service.view.catalogue.counts()
            for target in service.farm.targets:
                for name, step in zip(_CHILDREN, target.take_children(), strict=True):
                    slot.add_gauge(_GAUGE[name], step)
                numbers = [target.sessions_owned, target.sessions_pooled, target.children, *(items.get((target.index, kind), 0) for kind in KINDS)]
                known = rows.get(target.label)
                if known is None:
                    rows[target.label] = [int(target.is_up), *numbers]
                else:
                    # Two backends of one name: their targets share a label.
                    rows[target.label] = [min(known[0], target.is_up), *map(add, known[1:], numbers)]
        slot.set_targets([(label, tuple(row)) for label, row in rows.items()])

    def drain(self) -> None:
        """The worker is about to leave."""
        for service in self.services.values():
            service.drain()

    async def close(self) -> None:
        """The worker leaves: sessions upstream and processes end."""
        await asyncio.gather(*(service.close() for service in self.services.values()), return_exceptions=True)
