"""Names to addresses, off the request path: looked up before a snapshot is used, refreshed while it is.

Rules:
- IP literals and unix paths never leave this process;
- a failed refresh keeps the addresses that worked; a name that never had one fails its requests with 503;
- look-ups run in the loop's thread pool, one per name at a time.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import random
import socket
import struct
from collections.abc import Iterable

from agw._fast.pool import Cluster
from agw.runtime.plan import ClusterPlan

log = logging.getLogger(__name__)

Endpoint = tuple[int, bytes, str]
"""(address family, sockaddr octets for connect(2), text for logs)."""


def endpoint_of_ip(text: str, port: int) -> Endpoint:
    """The endpoint of an IP literal."""
    address = ipaddress.ip_address(text)
    if address.version == 4:
        return socket.AF_INET, struct.pack("=H", socket.AF_INET) + struct.pack("!H4s8x", port, address.packed), f"{text}:{port}"
    return (
        socket.AF_INET6,
        struct.pack("=H", socket.AF_INET6) + struct.pack("!HI16sI", port, 0, address.packed, 0),
        f"[{text}]:{port}",
    )


def endpoint_of_unix(path: str) -> Endpoint:
    """The endpoint of a unix path, `@name` meaning the abstract namespace (no terminating NUL there)."""
    raw = b"\0" + path[1:].encode() if path.startswith("@") else path.encode() + b"\0"
    return socket.AF_UNIX, struct.pack("=H", socket.AF_UNIX) + raw, f"unix:{path}"


def literal(plan: ClusterPlan) -> Endpoint | None:
    """The endpoint of a cluster that needs no look-up, else None."""
    if plan.unix_path:
        return endpoint_of_unix(plan.unix_path)
    try:
        return endpoint_of_ip(plan.host, plan.port)
    except ValueError:
        return None


class Resolver:
    """Keeps the addresses of clusters; belongs to one worker's loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._running: dict[tuple[str, int], asyncio.Task[list[Endpoint] | None]] = {}

    async def prepare(self, clusters: Iterable[Cluster], timeout_s: float) -> None:
        """Give every unresolved cluster its addresses; names that take longer than `timeout_s` come later."""
        waiting = []
        for cluster in clusters:
            if cluster.resolved:
                continue
            fixed = literal(cluster.plan)
            if fixed is not None:
                cluster.set_endpoints([fixed])
            else:
                waiting.append(asyncio.ensure_future(self._refresh(cluster)))
        if waiting:
            await asyncio.wait(waiting, timeout=timeout_s)

    async def keep_fresh(self, clusters: Iterable[Cluster], interval_ns: int) -> None:
        """Refresh for ever, with jitter so that workers and names do not ask in step; cancelled on a new snapshot."""
        named = [c for c in clusters if literal(c.plan) is None]
        while named:
            await asyncio.sleep(interval_ns / 1e9 * random.uniform(0.8, 1.2))
            for cluster in named:
                await self._refresh(cluster)

    async def _refresh(self, cluster: Cluster) -> None:
        key = (cluster.plan.host, cluster.plan.port)
        task = self._running.get(key)
        if task is None:
            task = self._running[key] = asyncio.ensure_future(self._lookup(*key))
            task.add_done_callback(lambda _: self._running.pop(key, None))
        found = await asyncio.shield(task)
        if found:
            cluster.set_endpoints(found)
        elif not cluster.endpoints:
            cluster.set_endpoints([])

    async def _lookup(self, host: str, port: int) -> list[Endpoint] | None:
        try:
            infos = await self._loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            # UnicodeError: no name that DNS could hold.
            log.warning("name look-up failed", extra={"host": host, "cause": str(error)})
            return None
        found: list[Endpoint] = []
        for _, _, _, _, address in infos:
            endpoint = endpoint_of_ip(str(address[0]).partition("%")[0], int(address[1]))
            if endpoint not in found:
                found.append(endpoint)
        return found
