"""The targets of a backend as one worker knows them: who speaks what, what they can do, and the peers that are shared.

Rules:
- what a target is gets asked once and concurrently by nobody else; the answer is used until it is stale or proves wrong;
- modern requests share one peer per target; legacy sessions that no client owns (bridged calls, stateless clients, list
  refreshes) are pooled by target, version, capabilities and principal, bounded, and ended when idle;
- a target that is down costs a caller no more than its own deadline.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

from agw.mcp import errors, message
from agw.mcp.message import Members
from agw.mcp.modern_peer import ModernPeer, NotModern
from agw.mcp.peer import Hello, LegacyPeer, VersionRefused
from agw.mcp.target import Host, Target
from agw.mcp.transport import TransportError
from agw.runtime.endpoint import McpEndpoint

log = logging.getLogger(__name__)

POOL_IDLE_S = 120.0
MAX_POOLED = 256
"""Legacy sessions per target that no client owns."""

STDIO_START_S = 60.0
"""The least time a process gets to start: package runners may have to install first."""


class Pooled:
    """A legacy session that several callers use, one after another or (HTTP) at the same time."""

    __slots__ = ("busy", "key", "last_used", "peer")

    def __init__(self, key: bytes, peer: LegacyPeer) -> None:
        self.key = key
        self.peer = peer
        self.busy = 0
        self.last_used = time.monotonic()


class Farm:
    """All targets of one backend."""

    def __init__(self, endpoint: McpEndpoint, host: Host, previous: Farm | None = None) -> None:
        self.endpoint = endpoint
        self.host = host
        self.fail_open = endpoint.plan.fail_open
        self.on_stray: Callable[[LegacyPeer | ModernPeer, message.Message], None] = lambda peer, note: None
        self._modern: dict[str, ModernPeer] = {}
        self._pool: dict[str, list[Pooled]] = {}
        self._capabilities: dict[str, Members] = {}
        self.targets: list[Target] = []
        kept = {target.name: target for target in previous.targets} if previous is not None else {}
        for index, plan in enumerate(endpoint.plan.targets):
            old = kept.get(plan.name)
            if old is not None and old.plan == plan and old.cluster is endpoint.clusters[index] and old.auth is endpoint.auths[index]:
                old.index = index
                self.targets.append(old)
                if previous is not None:
                    self._take_over(previous, old.name)
                continue
            target = Target(index, plan, endpoint.clusters[index], endpoint.labels[index], endpoint.schema_clusters[index], endpoint.auths[index])
            target.attach(host)
            self.targets.append(target)

    def _take_over(self, previous: Farm, name: str) -> None:
        if name in previous._modern:
            self._modern[name] = previous._modern.pop(name)
        if name in previous._pool:
            self._pool[name] = previous._pool.pop(name)
        if name in previous._capabilities:
            self._capabilities[name] = previous._capabilities[name]

    # ------------------------------------------------------------------------------------------ modern

    def modern_peer(self, target: Target) -> ModernPeer:
        """The shared peer of a modern target."""
        found = self._modern.get(target.name)
        if found is None:
            found = self._modern[target.name] = ModernPeer(target)
        return found

    async def is_modern(self, target: Target) -> bool:
        """Does the target speak 2026-07-28? Asks it when nobody knows. Errors: RpcError when it cannot be reached."""
        verdict = target.verdict("modern")
        if verdict is not None:
            return verdict
        async with target.probing:
            verdict = target.verdict("modern")
            if verdict is not None:
                return verdict
            peer = self.modern_peer(target)
            try:
                async with asyncio.timeout(self.start_s(target)):
                    await peer.discover()
            except NotModern:
                target.learn("modern", False)
                if target.is_channel:
                    # A process that has been asked is of no use for the other era (mcp: never mix eras on one process).
                    del self._modern[target.name]
                    await peer.close()
                return False
            except TimeoutError:
                raise errors.target_down(target.name, "it did not answer in time") from None
            return True

    def start_s(self, target: Target) -> float:
        """How long a target may take to say hello."""
        return max(target.deadline_s, STDIO_START_S) if target.plan.kind == "stdio" else target.deadline_s

    # ------------------------------------------------------------------------------------------ pooled legacy sessions

    async def borrow(self, target: Target, hello: Hello, audience: bytes, *, alone: bool, many: bool = False) -> Pooled:
        """A legacy session for a caller without one. `alone`: nobody else uses it meanwhile; `many`: a channel
        carries several callers' requests at once. Give it back with `give_back`.

        Errors: RpcError, VersionRefused (the target is modern only).
        """
        pool = self._pool.setdefault(target.name, [])
        for found in pool:
            if found.key == audience and (not found.busy or many or not (alone or target.is_channel)):
                found.busy += 1
                break
        else:
            if len(pool) >= MAX_POOLED:
                raise errors.RpcError(errors.INTERNAL, "too many sessions with this target", status=503, reason="sessions")
            found = Pooled(audience, LegacyPeer(target, hello, shared=True))
            found.peer.on_stray = self.on_stray
            found.busy = 1
            pool.append(found)
        try:
            async with asyncio.timeout(self.start_s(target)):
                await found.peer.open()
        except (VersionRefused, errors.RpcError):
            self._drop(found)
            raise
        except TimeoutError:
            self._drop(found)
            raise errors.target_down(target.name, "it did not answer in time") from None
        except TransportError as error:
            self._drop(found)
            if error.kind == "status" and error.status in (400, 404, 405):
                raise VersionRefused(error.body) from None
            raise target.failed(error) from None
        except BaseException:
            self.give_back(found)
            raise
        self._capabilities[target.name] = found.peer.capabilities
        return found

    def give_back(self, pooled: Pooled) -> None:
        """The caller is done with it."""
        pooled.busy -= 1
        pooled.last_used = time.monotonic()

    def _drop(self, pooled: Pooled) -> None:
        pool = self._pool.get(pooled.peer.target.name, [])
        if pooled in pool:
            pool.remove(pooled)

    async def discard(self, pooled: Pooled) -> None:
        """End a session that must not be used again."""
        self._drop(pooled)
        await pooled.peer.close()

    async def sweep(self, now: float) -> None:
        """End what has been idle for long."""
        for pool in list(self._pool.values()):
            for pooled in list(pool):
                if not pooled.busy and not pooled.peer.flights and now - pooled.last_used > idle_s(pooled.peer.target):
                    await self.discard(pooled)

    # ------------------------------------------------------------------------------------------ capabilities

    def note_capabilities(self, target: Target, capabilities: Members) -> None:
        """What a target said at a handshake."""
        self._capabilities[target.name] = capabilities

    def known_capabilities(self, target: Target) -> Members:
        """What it said last; a target that has not been asked here may be able to do anything."""
        return self._capabilities.get(target.name, _ANYTHING)

    async def close(self) -> None:
        """End everything shared."""
        peers: list[ModernPeer | LegacyPeer] = [*self._modern.values(), *(pooled.peer for pool in self._pool.values() for pooled in pool)]
        self._modern.clear()
        self._pool.clear()
        await asyncio.gather(*(peer.close() for peer in peers), return_exceptions=True)


def idle_s(target: Target) -> float:
    """How long a session or process that no caller owns may be idle."""
    stdio = target.plan.stdio
    return POOL_IDLE_S if stdio is None else stdio.idle_timeout_ns / 1e9


_ANYTHING: Members = {name: message.raw({}) for name in ("tools", "prompts", "resources", "completions", "logging", "tasks")}
