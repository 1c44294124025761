"""The shared mapping: one anonymous MAP_SHARED region, made by the supervisor before it forks.

    0      header      magic, version, slots, slot bytes, phase, generation, synchronized        one page
    page   slot 0      words: pid, state, generation, heartbeat_ns, started_ns, restarts, settled  1 KiB
                       gauges and counters, one 64-bit word each (GAUGES)                          3 KiB
                       request series: open-addressed rows of 192 octets (_fast/arena.pxd)
                       MCP series: open-addressed rows of 192 octets, two kinds: what callers got, what targets took
                       names of tools: 1,024 rows of 160 octets, in the order they were learned; a row's number is part
                       of the keys of MCP series, so it never changes
                       targets: 512 rows of 128 octets, the numbers of TARGET_GAUGES, written anew twice a second
    ...    slot n-1

Rules:
- every word has one writer: the supervisor writes the header and `restarts`, a worker writes its own slot;
- a slot belongs to a place, not to a process: the successor of a dead worker goes on counting where it stopped;
- rows of targets are gauges of the process in the slot and go with it; everything that has more than one word is valid
  while its key is set, which is written last;
- times are CLOCK_MONOTONIC nanoseconds, which all processes of a machine share.
"""

from __future__ import annotations

import mmap
import time
from collections.abc import Iterable

from agw._fast.arena import DECISION_SHAPE, GAUGE_COUNT, MCP_BYTES, SERIES_BYTES, TARGET_BYTES, TARGET_NUMBERS, TOOL_BYTES, Slot
from agw._fast.forward import REASONS
from agw._fast.methods import METHODS, RPC_METHODS
from agw._fast.outcome import OUTCOMES, UPSTREAM_OUTCOMES
from agw.shm.limits import SharedLimits
from agw.shm.reader import DECISION_POLICIES, DECISION_RESULTS, McpSeries, RequestSeries, SlotView, TargetNumbers, UpstreamSeries, decision_name

MAGIC = 0x6167772D61726E61
VERSION = 2
PAGE = 4096
SLOT_HEAD = 4096
GAUGES_AT = 1024
SERIES_ROWS = 8192
MCP_ROWS = 4096
TOOL_ROWS = 1024
TARGET_ROWS = 512
SLOT_BYTES = SLOT_HEAD + SERIES_ROWS * SERIES_BYTES + MCP_ROWS * MCP_BYTES + TOOL_ROWS * TOOL_BYTES + TARGET_ROWS * TARGET_BYTES

H_MAGIC, H_VERSION, H_SLOTS, H_SLOT_BYTES, H_PHASE, H_GENERATION, H_SYNCHRONIZED = range(7)
W_PID, W_STATE, W_GENERATION, W_HEARTBEAT, W_STARTED, W_RESTARTS, W_SETTLED = range(7)
"""W_SETTLED: draining, and no client is left; only other workers may still ask for something."""

PHASES = ("starting", "running", "draining")
STATES = ("empty", "starting", "ready", "draining")
EMPTY, STARTING, READY, DRAINING = range(4)

GAUGES = (
    "downstream_connections",
    "downstream_connections_total",
    "downstream_received_bytes_total",
    "downstream_sent_bytes_total",
    "upstream_connections",
    "upstream_connects_total",
    "upstream_connect_failures_total",
    "upstream_reuses_total",
    "retries_total",
    "requests_in_flight",
    "exchanges_total",
    "access_log_dropped_total",
    "parse_errors_total",
    "accept_paused_total",
    "relay_pauses_total",
    "loop_lag_ns",
    "internal_errors_total",
    "tls_handshakes_total",
    "tls_handshake_failures_total",
    "mcp_sessions",
    "mcp_replicas",
    "mcp_streams",
    "mcp_parked",
    "mcp_children_started_total",
    "mcp_children_restarted_total",
    "mcp_children_failed_total",
    *(decision_name(policy, result) for policy in DECISION_POLICIES for result in DECISION_RESULTS),
)
"""Names of the words in a slot, in the order of the G_ enumeration in _fast/arena.pxd."""

DECISION_WORDS = {
    (policy, result): GAUGES.index(decision_name(policy, result)) for policy in DECISION_POLICIES for result in DECISION_RESULTS
}
"""Where each decision is counted."""

TARGET_GAUGES = ("healthy", "sessions_owned", "sessions_pooled", "children", "tools", "prompts", "resources", "templates")
"""Names of a target's numbers, in the order of its row."""

if len(TARGET_GAUGES) > TARGET_NUMBERS or len(UPSTREAM_OUTCOMES) > 32 or len(OUTCOMES) > 31:
    raise ImportError("agw.shm.layout and _fast/arena.pxd disagree")

if len(GAUGES) != GAUGE_COUNT or (len(DECISION_POLICIES), len(DECISION_RESULTS)) != DECISION_SHAPE:
    raise ImportError("agw.shm.layout.GAUGES and _fast/arena.pxd disagree")


class Arena:
    """The mapping with its parts. Implements `agw.shm.reader.ArenaReader`."""

    def __init__(self, slots: int) -> None:
        self._map = mmap.mmap(-1, PAGE + slots * SLOT_BYTES)
        self._header = memoryview(self._map)[:PAGE].cast("Q")
        self._header[H_VERSION] = VERSION
        self._header[H_SLOTS] = slots
        self._header[H_SLOT_BYTES] = SLOT_BYTES
        self._header[H_SYNCHRONIZED] = 1
        self._header[H_MAGIC] = MAGIC
        self.slots_in_use = [self._slot(i) for i in range(slots)]
        self.limits: SharedLimits | None = None
        """The tables of limits; the supervisor makes them before it forks."""

    def _slot(self, index: int) -> Slot:
        base = PAGE + index * SLOT_BYTES
        series = base + SLOT_HEAD
        mcp = series + SERIES_ROWS * SERIES_BYTES
        tools = mcp + MCP_ROWS * MCP_BYTES
        targets = tools + TOOL_ROWS * TOOL_BYTES
        return Slot(self._map, index, base, base + GAUGES_AT, series, SERIES_ROWS, mcp, MCP_ROWS, tools, TOOL_ROWS, targets, TARGET_ROWS)

    def slot(self, index: int) -> Slot:
        """The slot's writer; only its own worker may use it."""
        return self.slots_in_use[index]

    @property
    def phase(self) -> str:
        """What the whole instance does: starting, running or draining."""
        return PHASES[self._header[H_PHASE]]

    def set_phase(self, phase: str) -> None:
        """Supervisor only."""
        self._header[H_PHASE] = PHASES.index(phase)

    @property
    def generation(self) -> int:
        """Number of the configuration that the supervisor last published."""
        return self._header[H_GENERATION]

    @property
    def synchronized(self) -> bool:
        """False after a reload was refused, until one succeeds."""
        return self._header[H_SYNCHRONIZED] == 1

    def publish(self, generation: int, synchronized: bool) -> None:
        """Supervisor only."""
        self._header[H_GENERATION] = generation
        self._header[H_SYNCHRONIZED] = int(synchronized)

    def limit_counts(self) -> list[tuple[str, int, int, int, int]]:
        """(name, admitted, refused, evictions, errors) of every limit."""
        return [] if self.limits is None else self.limits.counts()

    def series(self, slot: int) -> Iterable[RequestSeries]:
        """See ArenaReader."""
        for route, backend, method, status, reason, count, size, took, buckets in self.slots_in_use[slot].read_series():
            yield RequestSeries(route, backend, METHODS[method], status, REASONS[reason], count, size, took, buckets)

    def mcp_series(self, slot: int) -> Iterable[McpSeries]:
        """See ArenaReader."""
        names = self.slots_in_use[slot].read_tools()
        for upstream, route, backend, method, tool, outcome, took, buckets in self.slots_in_use[slot].read_mcp():
            if not upstream:
                name, kind = RPC_METHODS[method]
                resource = names[tool].decode("utf-8", "replace") if tool in names else "other" if tool == 1 else "unknown"
                yield McpSeries(route, backend, name, kind or "unknown", resource, OUTCOMES[outcome], took, buckets)

    def upstream_series(self, slot: int) -> Iterable[UpstreamSeries]:
        """See ArenaReader."""
        for upstream, _, backend, method, _, outcome, took, buckets in self.slots_in_use[slot].read_mcp():
            if upstream:
                yield UpstreamSeries(backend, RPC_METHODS[method][0], UPSTREAM_OUTCOMES[outcome], took, buckets)

    def targets(self, slot: int) -> Iterable[TargetNumbers]:
        """See ArenaReader."""
        for backend, numbers in self.slots_in_use[slot].read_targets():
            yield TargetNumbers(backend, dict(zip(TARGET_GAUGES, numbers, strict=False)))

    def gauges(self, slot: int) -> dict[str, int]:
        """See ArenaReader."""
        return dict(zip(GAUGES, self.slots_in_use[slot].read_gauges(), strict=True))

    def slots(self) -> list[SlotView]:
        """See ArenaReader."""
        now = time.monotonic_ns()
        return [
            SlotView(s.index, s.get(W_PID), STATES[s.get(W_STATE)], s.get(W_GENERATION), max(0, now - s.get(W_HEARTBEAT)), s.get(W_STARTED))
            for s in self.slots_in_use
        ]
