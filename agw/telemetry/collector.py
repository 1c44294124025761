"""From the arena's rows to metric families, on each scrape; nothing is kept between scrapes.

Rows of all slots are summed by their ids first, which is cheap, then by their label values, which may coincide for
different ids (unknown ones, and routes of two generations with the same names). The result feeds
`agw.telemetry.exposition`, or any prometheus_client registry through `ArenaCollector`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import accumulate
from operator import add
from typing import TYPE_CHECKING, NamedTuple

from agw.shm.reader import (
    DECISION_POLICIES,
    DECISION_RESULTS,
    DURATION_BOUNDS_S,
    ArenaReader,
    McpSeries,
    RequestSeries,
    SlotView,
    UpstreamSeries,
    decision_name,
)
from agw.telemetry.metrics import METRICS, UNKNOWN, Metric

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric as PrometheusFamily

LE_VALUES = (*(repr(bound) for bound in DURATION_BOUNDS_S), "+Inf")
"""Values of the `le` label, in bucket order."""


class RouteLabels(NamedTuple):
    """The label values of a route, in the order of ROUTE_LABELS."""

    bind: str = UNKNOWN
    gateway: str = UNKNOWN
    listener: str = UNKNOWN
    route: str = UNKNOWN
    route_rule: str = UNKNOWN


class BackendLabels(NamedTuple):
    """The label values of a backend. `protocol` is http or mcp; `target` names the MCP server behind it."""

    backend: str = UNKNOWN
    protocol: str = UNKNOWN
    target: str = UNKNOWN


class Labels(NamedTuple):
    """What the ids in the arena stand for. An id that is not in here reads `unknown` in every label."""

    routes: Mapping[int, RouteLabels]
    backends: Mapping[int, BackendLabels]


class ConfigState(NamedTuple):
    """`synchronized`: file valid and all workers on `generation`."""

    synchronized: bool
    generation: int


class Distribution(NamedTuple):
    """A histogram's value: cumulative counts in the order of LE_VALUES, and the sum in seconds."""

    cumulative: tuple[int, ...]
    sum_s: float


Value = int | float | Distribution


class Family(NamedTuple):
    """A metric and its rows: label values (in the order of `metric.labels`) to value."""

    metric: Metric
    rows: Mapping[tuple[str, ...], Value]


def no_documents() -> Mapping[str, Mapping[tuple[str, ...], Value]]:
    """Where none are fetched."""
    return {"ages": {}, "fetches": {}}


class _Sums:
    """Request counters summed so far for one combination of labels."""

    __slots__ = ("buckets", "count", "duration_ns", "response_bytes")

    def __init__(self, row: RequestSeries) -> None:
        self.count = row.count
        self.response_bytes = row.response_bytes
        self.duration_ns = row.duration_sum_ns
        self.buckets = row.buckets

    def add(self, other: _Sums) -> None:
        self.count += other.count
        self.response_bytes += other.response_bytes
        self.duration_ns += other.duration_ns
        self.buckets = tuple(map(add, self.buckets, other.buckets))

    def value(self, source: str) -> Value:
        """The number the table calls `source`."""
        if source == "count":
            return self.count
        if source == "response_bytes":
            return self.response_bytes
        return Distribution(tuple(accumulate(self.buckets)), self.duration_ns / 1e9)


class MetricsSource:
    """Everything a scrape needs. `labels` and `config` are asked once per scrape, so they see reloads.

    `documents` gives the rows of the metrics of that origin, by their `source`.
    """

    def __init__(
        self,
        arena: ArenaReader,
        *,
        labels: Callable[[], Labels],
        config: Callable[[], ConfigState],
        version: str,
        prefix: str = "agw",
        documents: Callable[[], Mapping[str, Mapping[tuple[str, ...], Value]]] = no_documents,
        limits: Callable[[], Iterable[tuple[str, int, int, int, int]]] = tuple,
        admin: Callable[[], Mapping[str, int]] = dict,
    ) -> None:
        self.prefix = prefix
        self._limits = limits
        self._admin = admin
        self._arena = arena
        self._labels = labels
        self._config = config
        self._version = version
        self._documents = documents

    def read(self) -> list[Family]:
        """All families, in the order of METRICS; those without rows are included."""
        slots = self._arena.slots()
        labels = self._labels()
        config = self._config()
        requests = self._requests(slots, labels)
        mcp = self._mcp(slots, labels)
        targets = self._targets(slots, labels)
        limits = list(self._limits())
        numbers = [(slot, self._arena.gauges(slot.index)) for slot in slots]
        documents = self._documents()
        process: dict[str, dict[tuple[str, ...], Value]] = {
            "version": {(self._version,): 1},
            "synchronized": {(): int(config.synchronized)},
            "generation": {(): config.generation},
        }
        families = []
        for metric in METRICS:
            rows: Mapping[tuple[str, ...], Value]
            if metric.origin == "requests":
                rows = {key: sums.value(metric.source) for key, sums in requests.items()}
            elif metric.origin == "mcp":
                rows = _of_mcp(mcp, metric.source)
            elif metric.origin == "upstream":
                rows = self._upstream(slots, labels)
            elif metric.origin == "limit":
                rows = _of_limits(limits, metric.source)
            elif metric.origin == "target":
                rows = _of_targets(targets, metric.source)
            elif metric.origin == "worker":
                rows = {
                    (str(slot.index),): _scaled(by_name[metric.source], metric)
                    for slot, by_name in numbers
                    if metric.source in by_name
                }
            elif metric.origin == "decisions":
                rows = _decisions([by_name for _, by_name in numbers])
            elif metric.origin == "admin":
                rows = {(result,): number for result, number in self._admin().items()}
            elif metric.origin == "documents":
                rows = documents[metric.source]
            elif metric.origin == "slot":
                rows = {(str(slot.index),): _slot_value(slot, metric) for slot in slots}
            else:
                rows = process[metric.source]
            families.append(Family(metric, rows))
        return families

    def _requests(self, slots: Iterable[SlotView], labels: Labels) -> dict[tuple[str, ...], _Sums]:
        by_ids: dict[tuple[int, int, str, int, str], _Sums] = {}
        for slot in slots:
            for row in self._arena.series(slot.index):
                ids = (row.route_id, row.backend_id, row.method, row.status, row.reason)
                if (sums := by_ids.get(ids)) is None:
                    by_ids[ids] = _Sums(row)
                else:
                    sums.add(_Sums(row))
        by_labels: dict[tuple[str, ...], _Sums] = {}
        for (route_id, backend_id, method, status, reason), sums in by_ids.items():
            route = labels.routes.get(route_id, _UNKNOWN_ROUTE)
            backend = labels.backends.get(backend_id, _UNKNOWN_BACKEND)
            key = (backend.backend, backend.protocol, method, str(status), reason, *route)
            if (known := by_labels.get(key)) is None:
                by_labels[key] = sums
            else:
                known.add(sums)
        return by_labels

    def _mcp(self, slots: Iterable[SlotView], labels: Labels) -> dict[tuple[str, ...], _Timed]:
        """By the labels of MCP_LABELS with the class of error in front."""
        rows: dict[tuple[str, ...], _Timed] = {}
        for slot in slots:
            for row in self._arena.mcp_series(slot.index):
                route = labels.routes.get(row.route_id, _UNKNOWN_ROUTE)
                server = labels.backends.get(row.backend_id, _UNKNOWN_BACKEND).target or UNKNOWN
                _add(rows, (row.code, row.method, row.resource_type, server, row.resource, *route), row)
        return rows

    def _upstream(self, slots: Iterable[SlotView], labels: Labels) -> dict[tuple[str, ...], Value]:
        rows: dict[tuple[str, ...], _Timed] = {}
        for slot in slots:
            for row in self._arena.upstream_series(slot.index):
                backend = labels.backends.get(row.backend_id, _UNKNOWN_BACKEND)
                _add(rows, (backend.backend, backend.target or UNKNOWN, row.method, row.outcome), row)
        return {key: timed.value() for key, timed in rows.items()}

    def _targets(self, slots: Iterable[SlotView], labels: Labels) -> dict[tuple[str, ...], Mapping[str, int]]:
        rows: dict[tuple[str, ...], Mapping[str, int]] = {}
        for slot in slots:
            for row in self._arena.targets(slot.index):
                backend = labels.backends.get(row.backend_id, _UNKNOWN_BACKEND)
                rows[str(slot.index), backend.backend, backend.target or UNKNOWN] = row.numbers
        return rows


class _Timed:
    """A histogram summed so far."""

    __slots__ = ("buckets", "sum_ns")

    def __init__(self, row: McpSeries | UpstreamSeries) -> None:
        self.sum_ns = row.duration_sum_ns
        self.buckets = row.buckets

    def add(self, row: McpSeries | UpstreamSeries | _Timed) -> None:
        self.sum_ns += row.sum_ns if isinstance(row, _Timed) else row.duration_sum_ns
        self.buckets = tuple(map(add, self.buckets, row.buckets))

    def copy(self) -> _Timed:
        other = _Timed.__new__(_Timed)
        other.sum_ns, other.buckets = self.sum_ns, self.buckets
        return other

    def count(self) -> int:
        return sum(self.buckets)

    def value(self) -> Distribution:
        return Distribution(tuple(accumulate(self.buckets)), self.sum_ns / 1e9)


def _add(rows: dict[tuple[str, ...], _Timed], key: tuple[str, ...], row: McpSeries | UpstreamSeries) -> None:
    known = rows.get(key)
    if known is None:
        rows[key] = _Timed(row)
    else:
        known.add(row)


def _of_mcp(mcp: Mapping[tuple[str, ...], _Timed], source: str) -> dict[tuple[str, ...], Value]:
    """The rows of one metric: errors by class, everything else over all classes."""
    if source == "errors":
        # The label `code` stands behind the four labels of the request.
        return {(*key[1:5], key[0], *key[5:]): timed.count() for key, timed in mcp.items() if key[0]}
    sums: dict[tuple[str, ...], _Timed] = {}
    for key, timed in mcp.items():
        known = sums.get(key[1:])
        if known is None:
            sums[key[1:]] = timed.copy()
        else:
            known.add(timed)
    return {key: timed.count() if source == "count" else timed.value() for key, timed in sums.items()}


def _of_targets(targets: Mapping[tuple[str, ...], Mapping[str, int]], source: str) -> dict[tuple[str, ...], Value]:
    if source == "items":
        return {(*key, kind): numbers[kind] for key, numbers in targets.items() for kind in ITEMS if numbers.get(kind)}
    return {key: numbers[source] for key, numbers in targets.items() if source in numbers}


def _decisions(slots: list[dict[str, int]]) -> dict[tuple[str, ...], Value]:
    """Only what was counted: most policies of the table are in no configuration."""
    sums: dict[tuple[str, ...], Value] = {}
    for policy in DECISION_POLICIES:
        for result in DECISION_RESULTS:
            name = decision_name(policy, result)
            total = sum(by_name.get(name, 0) for by_name in slots)
            if total:
                sums[policy, result] = total
    return sums


def _of_limits(limits: Iterable[tuple[str, int, int, int, int]], source: str) -> dict[tuple[str, ...], Value]:
    """Sums by name: two limits may bear the same one."""
    rows: dict[tuple[str, ...], Value] = {}

    def count(key: tuple[str, ...], number: int) -> None:
        before = rows.get(key, 0)
        assert not isinstance(before, Distribution)
        rows[key] = before + number

    for name, admitted, refused, evictions, errors in limits:
        if source == "decisions":
            count((name, "admitted"), admitted)
            count((name, "refused"), refused)
        else:
            count((name,), evictions if source == "evictions" else errors)
    return rows


ITEMS = ("tools", "prompts", "resources", "templates")
"""Kinds of items in catalogues."""

_UNKNOWN_ROUTE = RouteLabels()
_UNKNOWN_BACKEND = BackendLabels()


def _slot_value(slot: SlotView, metric: Metric) -> int | float:
    if metric.source == "state":
        return int(slot.state == "ready")
    return slot.generation if metric.source == "generation" else _scaled(slot.heartbeat_age_ns, metric)


def _scaled(number: int, metric: Metric) -> int | float:
    return number if metric.divisor == 1 else number / metric.divisor


class ArenaCollector:
    """The same families for a prometheus_client registry. Import cost: prometheus_client, on the first collection.

    The stats listener does not go through it: prometheus_client needs 0.3 to 0.5 s to print 1,000 series of ten
    labels, `agw.telemetry.exposition` a twentieth of that. A test holds the two outputs against each other.
    """

    def __init__(self, source: MetricsSource) -> None:
        self._source = source

    def describe(self) -> list[PrometheusFamily]:
        """Nothing, on purpose: registering must not read the arena."""
        return []

    def collect(self) -> Iterator[PrometheusFamily]:
        """One prometheus_client family per metric."""
        from prometheus_client.metrics_core import Metric as PrometheusFamily

        for metric, rows in self._source.read():
            family = PrometheusFamily(f"{self._source.prefix}_{metric.name}", metric.help, metric.kind, metric.unit)
            for values, value in rows.items():
                labels = dict(zip(metric.labels, values, strict=True))
                bucket, *rest = metric.sample_names(self._source.prefix)
                if isinstance(value, Distribution):
                    for le, count in zip(LE_VALUES, value.cumulative, strict=True):
                        family.add_sample(bucket, {**labels, "le": le}, count)
                    family.add_sample(rest[0], labels, value.sum_s)
                    family.add_sample(rest[1], labels, value.cumulative[-1])
                else:
                    family.add_sample(bucket, labels, value)
            yield family
