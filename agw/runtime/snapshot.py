"""The snapshot: everything one configuration generation means to a worker, immutable once built.

A request keeps the route it began with, so a snapshot lives until its last request is done. Labels are numbers in the
shared counters; `Labels` maps them to names and only ever grows, so that counters keep their meaning over reloads.
"""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from agw._fast.gate import Gate
from agw._fast.policy import Bind
from agw._fast.pool import Cluster
from agw.runtime.credentials import BackendAuth
from agw.runtime.endpoint import McpEndpoint
from agw.runtime.plan import Plan

MAX_ROUTE_LABELS = 0xFFFFE
MAX_BACKEND_LABELS = 0xFFFE


class Labels(msgspec.Struct):
    """Names behind the numbers in the arena: append-only, made by the supervisor, sent along with each plan.

    routes: (bind, gateway, listener, route, rule); backends: (backend, protocol, MCP target).
    """

    routes: list[tuple[str, str, str, str, str]] = []
    backends: list[tuple[str, str, str]] = []


class LabelIndex:
    """`Labels` with look-up; ids beyond the arena's bit widths share one overflow id."""

    def __init__(self, labels: Labels) -> None:
        self.labels = labels
        self._routes = {key: i for i, key in enumerate(labels.routes)}
        self._backends = {key: i for i, key in enumerate(labels.backends)}

    def route(self, key: tuple[str, str, str, str, str]) -> int:
        found = self._routes.get(key)
        if found is None:
            if len(self.labels.routes) >= MAX_ROUTE_LABELS:
                return MAX_ROUTE_LABELS
            found = self._routes[key] = len(self.labels.routes)
            self.labels.routes.append(key)
        return found

    def backend(self, key: tuple[str, str, str]) -> int:
        found = self._backends.get(key)
        if found is None:
            if len(self.labels.backends) >= MAX_BACKEND_LABELS:
                return MAX_BACKEND_LABELS
            found = self._backends[key] = len(self.labels.backends)
            self.labels.backends.append(key)
        return found


class BindKey(NamedTuple):
    """What makes two binds the same listening sockets."""

    address: str
    port: int

    def __str__(self) -> str:
        return f"{self.address or '*'}:{self.port}"


class Snapshot:
    """One generation, compiled: binds by key, clusters, gates and credentials by identity, MCP backends in the order of the plan, and so are
    the clusters `by_index`."""

    __slots__ = ("auths", "binds", "by_index", "clusters", "endpoints", "gates", "generation", "plan")

    def __init__(
        self, generation: int, plan: Plan, binds: dict[BindKey, Bind], clusters: dict[bytes, Cluster], endpoints: list[McpEndpoint] | None = None,
        gates: dict[bytes, Gate] | None = None, by_index: list[Cluster] | None = None,
        auths: dict[bytes, BackendAuth] | None = None,
    ) -> None:
        self.generation = generation
        self.plan = plan
        self.binds = binds
        self.clusters = clusters
        self.endpoints = endpoints or []
        self.gates = gates or {}
        self.by_index = by_index or []
        self.auths = auths or {}
