"""The MCP backends of one worker: a service per backend, alive over reloads, and what the worker lends them.

Imported only when the configuration has an MCP backend.
"""

from __future__ import annotations

import asyncio
import logging
import time

from agw._fast.call import Call
from agw._fast.exchange import Context
from agw._fast.policy import Choice
from agw.mcp.seal import KeyRing
from agw.mcp.service import McpService
from agw.runtime.endpoint import McpEndpoint

log = logging.getLogger(__name__)

SWEEP_S = 5.0


class McpHost:
    """Services by backend name. Implements `agw.mcp.service.Host`."""

    def __init__(self, context: Context, index: int, keys: list[bytes], instance: bytes) -> None:
        self.context = context
        self.index = index
        self.ring = KeyRing(keys)
        self.instance = instance
        self.started = time.time()
        self.services: dict[str, McpService] = {}
        self._closing: set[asyncio.Task[None]] = set()
        self._swept = time.monotonic()

    def adopt(self, endpoints: list[McpEndpoint]) -> None:
        """A new snapshot: services follow their newest endpoint, those without one end."""
        seen = set()
        for endpoint in endpoints:
            name = endpoint.plan.name
            seen.add(name)
            service = self.services.get(name)
            if service is None:
                service = self.services[name] = McpService(endpoint, self)
            elif service.endpoint.identity != endpoint.identity:
                service.reconfigure(endpoint)
            endpoint.service = service
        for name in [name for name in self.services if name not in seen]:
            task = asyncio.get_running_loop().create_task(self.services.pop(name).close())
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)

    def hop(self, call: Call, slot: int) -> Choice | None:
        """The way to the worker in another slot."""
        return None

    def tick(self) -> None:
        """Called by the worker's tick."""
        now = time.monotonic()
        if now - self._swept > SWEEP_S:
            self._swept = now
            for service in self.services.values():
                service.sweep()

    async def close(self) -> None:
        """The worker leaves: sessions upstream and processes end."""
        await asyncio.gather(*(service.close() for service in self.services.values()), return_exceptions=True)
