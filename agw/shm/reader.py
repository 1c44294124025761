"""What a reader may learn from the arena, as plain values.

The collector, the admin endpoints and the readiness probe know this file and not the layout; whoever owns the layout
implements `ArenaReader`. Readers never write and never lock: numbers are read while workers change them, so two
numbers of one row may be one request apart, but none is ever torn (aligned 64-bit loads).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

import msgspec

DURATION_BOUNDS_S = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 80.0)
"""Upper bounds of the request duration buckets, seconds; one more bucket counts what took longer."""

DECISION_POLICIES = (
    "jwt", "mcp", "introspection", "basic", "apiKey", "extAuthz", "oidc", "authorization", "mcpAuthorization", "csrf", "sources", "limit",
    "remoteLimit", "credentials", "jwks", "network",
)
DECISION_RESULTS = ("ok", "refused", "error", "missing", "expired", "cached", "none", "ignored")
"""What decides, and how: the labels of the counters of decisions, in the order of their words."""


def decision_name(policy: str, result: str) -> str:
    """The name of one counter of decisions among the gauges of a slot."""
    return f"auth_decisions_total/{policy}/{result}"


class RequestSeries(msgspec.Struct, frozen=True, gc=False):
    """One row of request counters: what one worker counted for one combination of labels.

    `buckets` are the counts per bucket of DURATION_BOUNDS_S plus the last one, not cumulative: 15 numbers.
    """

    route_id: int
    backend_id: int
    method: str
    status: int
    reason: str
    count: int
    response_bytes: int
    duration_sum_ns: int
    buckets: tuple[int, ...]


class McpSeries(msgspec.Struct, frozen=True, gc=False):
    """One row of MCP request counters.

    `resource_type` is tool, prompt, resource, templates, task or unknown; `resource` a tool's name at its target, `other`
    for one that found no place among the names, or unknown; `code` the class of error, "" for none (`_fast.outcome`);
    `buckets` as in RequestSeries.
    """

    route_id: int
    backend_id: int
    method: str
    resource_type: str
    resource: str
    code: str
    duration_sum_ns: int
    buckets: tuple[int, ...]


class UpstreamSeries(msgspec.Struct, frozen=True, gc=False):
    """What one target took for requests of one method that ended one way (`_fast.outcome.UPSTREAM_OUTCOMES`)."""

    backend_id: int
    method: str
    outcome: str
    duration_sum_ns: int
    buckets: tuple[int, ...]


class TargetNumbers(msgspec.Struct, frozen=True):
    """Gauges of one target in one worker, by the names of `layout.TARGET_GAUGES`."""

    backend_id: int
    numbers: dict[str, int]


class SlotView(msgspec.Struct, frozen=True, gc=False):
    """One worker slot. `pid` is 0 in an empty slot; `started_ns` is on the monotonic clock.

    `state` is `ready` for a worker that takes traffic; every other word (`empty`, `starting`, `draining`, ...) means
    that it does not.
    """

    index: int
    pid: int
    state: str
    generation: int
    heartbeat_age_ns: int
    started_ns: int


class ArenaReader(Protocol):
    """Reads the arena. All counts belong to the slot, not to the process in it: they survive a worker's end."""

    def series(self, slot: int) -> Iterable[RequestSeries]:
        """The request rows in use of one slot, any order."""

    def mcp_series(self, slot: int) -> Iterable[McpSeries]:
        """The rows of MCP requests in use of one slot, any order."""

    def upstream_series(self, slot: int) -> Iterable[UpstreamSeries]:
        """The rows of requests to MCP targets in use of one slot, any order."""

    def targets(self, slot: int) -> Iterable[TargetNumbers]:
        """The MCP targets of one slot's worker."""

    def gauges(self, slot: int) -> dict[str, int]:
        """The single numbers of one slot, by the `source` names of `agw.telemetry.metrics`; absent means unknown."""

    def slots(self) -> list[SlotView]:
        """All slots, by index."""
