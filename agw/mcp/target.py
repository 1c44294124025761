"""A target: one MCP server of a backend, how it is reached, and what has been learned about it.

Rules:
- what a target speaks is learned by asking it, once, and forgotten after `VERDICT_S` or when it stops answering; it is
  never guessed from `supportedVersions`, which says nothing about the legacy era (mcp: versioning);
- a transport that carries one conversation at a time (a process, an SSE stream) is made per conversation; HTTP shares one;
- time-outs come from the plan: the silence allowed per method, and the bound on this target's part of a fan-out.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Protocol

from agw._fast.arena import Slot
from agw._fast.exchange import Context
from agw._fast.fetch import Fetch
from agw._fast.pool import Cluster
from agw.mcp import errors
from agw.mcp.consent import ConsentNeeded
from agw.mcp.credentials import NoCredential, PresentedOrigin
from agw.mcp.message import Members, members
from agw.mcp.observe import Timing
from agw.mcp.revisions import Era
from agw.mcp.transport import Transport, TransportError
from agw.mcp.transports.http import HttpTransport
from agw.mcp.transports.openapi import OpenApiTransport
from agw.mcp.transports.sse import SseTransport
from agw.mcp.transports.stdio import ChildLimit, StdioTransport
from agw.runtime.credentials import BackendAuth
from agw.runtime.origin import Origin, Stream
from agw.runtime.plan import HeaderOps, McpTargetPlan

log = logging.getLogger(__name__)

VERDICT_S = 600.0
MAX_GREETINGS = 16


class Host(Protocol):
    """What the worker lends to its MCP backends."""

    @property
    def context(self) -> Context: ...
    @property
    def index(self) -> int: ...


class Target:
    """One server. `label` is its number in the counters."""

    def __init__(self, index: int, plan: McpTargetPlan, cluster: Cluster | None, label: int, schema_cluster: Cluster | None = None,
                 auth: BackendAuth | None = None) -> None:
        self.index = index
        self.plan = plan
        self.name = plan.name
        self.cluster = cluster
        self.label = label
        self.schema_cluster = schema_cluster
        self.auth = auth
        self.speaks: dict[Era, bool] = {}
        self.healthy = True
        self._learned_at = 0.0
        self._origin: Origin | None = None
        self._children: ChildLimit | None = None
        self._shared: Transport | None = None
        self._make: Callable[[], Transport] | None = None
        self._greetings: dict[bytes, tuple[Members, Members]] = {}
        self.probing = asyncio.Lock()
        self.slot: Slot | None = None
        self.sessions_owned = 0
        """Sessions with it now, those of one client's session."""
        self.sessions_pooled = 0
        """And those that clients without a session share."""
        self._told = (0, 0, 0)
        if plan.era != "auto":
            self.speaks = {"legacy": plan.era == "legacy", "modern": plan.era == "modern"}

    @property
    def is_channel(self) -> bool:
        """Does one transport carry one conversation only, with everything on it in one stream?"""
        return self.plan.kind in ("stdio", "sse")

    def attach(self, host: Host) -> None:
        """Ready to make transports; called once in the worker."""
        plan = self.plan
        self.slot = host.context.slot
        if plan.kind == "stdio":
            assert plan.stdio is not None
            process = plan.stdio
            self._children = ChildLimit(process.max_processes)
            limit = self._children
            self._make = lambda: StdioTransport(plan.name, process, limit)
            return
        assert self.cluster is not None
        origin = self._origin = Origin(host.context, self.cluster) if self.auth is None else PresentedOrigin(host.context, self.cluster, self.auth)
        path = self.cluster.plan.path.encode() or b"/"
        if plan.kind == "http":
            self._make = lambda: HttpTransport(origin, path)
        elif plan.kind == "sse":
            self._make = lambda: SseTransport(origin, path)
        else:
            assert plan.openapi is not None
            api = plan.openapi
            schema_origin = None if self.schema_cluster is None else Origin(host.context, self.schema_cluster)
            self._make = lambda: OpenApiTransport(plan.name, api, origin, schema_origin=schema_origin)

    def transport(self) -> Transport:
        """A transport for a new conversation. An OpenAPI service has one for all."""
        assert self._make is not None, "attach() comes first"
        if self.plan.kind == "openapi":
            if self._shared is None:
                self._shared = self._make()
            assert isinstance(self._shared, OpenApiTransport)
            return self._shared.another()
        return self._make()

    def adopt(self, fetch: Fetch) -> Stream:
        """An answer of this target that has begun on the compiled path."""
        assert self._origin is not None
        return self._origin.adopt(fetch, timeout_s=self.timeout_s("tools/call"))

    def greeting(self, result: bytes) -> tuple[Members, Members]:
        """The members of an InitializeResult and of its capabilities. Not to be changed: equal ones are shared by all sessions."""
        found = self._greetings.get(result)
        if found is None:
            parts = members(result)
            found = (parts, members(parts.get("capabilities")))
            if len(self._greetings) >= MAX_GREETINGS:
                self._greetings.clear()
            self._greetings[result] = found
        return found

    def timeout_s(self, method: str) -> float:
        """The silence allowed before the answer to `method`."""
        return self.plan.method_timeouts.get(method, self.plan.timeout_ns) / 1e9

    @property
    def deadline_s(self) -> float:
        """This target's share of a fan-out."""
        return self.plan.deadline_ns / 1e9

    @property
    def children(self) -> int:
        """Processes running for this target in this worker."""
        return self._children.running if self._children is not None else 0

    def take_children(self) -> tuple[int, int, int]:
        """Processes started, started anew, and not startable since this was asked last."""
        limit = self._children
        if limit is None:
            return 0, 0, 0
        before = self._told
        self._told = limit.spawned_total, limit.restarts_total, limit.failed_total
        return self._told[0] - before[0], self._told[1] - before[1], self._told[2] - before[2]

    # ---------------------------------------------------------------------------------- what is counted

    def timing(self, method: str, patience: asyncio.Timeout | None = None) -> Timing:
        """Around one request to it: what it took is counted."""
        return Timing(self, method, patience)

    def seen(self, outcome: str) -> None:
        """How a request to it ended (`_fast.outcome.UPSTREAM_OUTCOMES`)."""
        if outcome in ("ok", "error", "status"):
            self.healthy = True
        elif outcome == "connect":
            self.healthy = False

    @property
    def is_up(self) -> bool:
        """Did the last attempt to reach it succeed, here or on the compiled path?"""
        return self.healthy and not (self.cluster is not None and self.cluster.down)

    # ---------------------------------------------------------------------------------- what was learned

    def learn(self, era: Era, speaks: bool) -> None:
        """Evidence about an era."""
        if self.plan.era == "auto":
            self.speaks[era] = speaks
            self._learned_at = time.monotonic()

    def verdict(self, era: Era) -> bool | None:
        """Does the target speak it? None: nobody asked lately."""
        if self.plan.era == "auto" and self.speaks and time.monotonic() - self._learned_at > VERDICT_S:
            self.speaks.clear()
        return self.speaks.get(era)

    def failed(self, error: TransportError) -> errors.RpcError:
        """The caller's view of a failure; what was learned is asked again when the target was out of reach."""
        if error.kind == "connect":
            self.healthy = False
            if self.plan.era == "auto":
                self.speaks.clear()
        return as_rpc_error(self.name, error)


def as_rpc_error(target: str, error: TransportError) -> errors.RpcError:
    """One mapping of what can happen on the way to a target."""
    if error.kind == "timeout":
        return errors.RpcError(errors.INTERNAL, f"Target {target} did not answer in time", status=504, reason="timeout")
    if error.kind == "status" and error.status == 401:
        return errors.reauthorise(target)
    if isinstance(error, NoCredential) and error.cause.kind == "consent":
        return ConsentNeeded(target, error.cause)
    if isinstance(error, NoCredential):
        log.warning("no credential for a target", extra={"target": target, "cause": str(error)})
        return errors.target_down(target, "no credential for it can be had now") if error.cause.kind == "unreachable" else errors.reauthorise(target)
    if error.kind == "status":
        return errors.target_down(target, f"it answered with HTTP status {error.status}")
    return errors.target_down(target, {"connect": "it cannot be reached", "closed": "it ended before it answered",
                                       "protocol": "its answer was not valid", "limit": "a limit of the gateway was reached",
                                       "credential": "there is no credential for it"}[error.kind])


def header_lines(ops: HeaderOps | None) -> list[tuple[bytes, bytes]]:
    """The fields a target's policies set or add."""
    if ops is None:
        return []
    return [(name.encode(), value.encode()) for name, value in [*ops.set, *ops.add]]
