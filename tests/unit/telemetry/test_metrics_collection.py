"""The metric table, the sums over the arena, and the text, held against prometheus_client."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable

import pytest
from prometheus_client.exposition import generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text
from prometheus_client.registry import CollectorRegistry

from agw.shm.layout import TARGET_GAUGES
from agw.shm.reader import DURATION_BOUNDS_S, McpSeries, RequestSeries, SlotView, TargetNumbers, UpstreamSeries, decision_name
from agw.telemetry.collector import (
    ArenaCollector,
    BackendLabels,
    ConfigState,
    Distribution,
    Labels,
    MetricsSource,
    RouteLabels,
)
from agw.telemetry.exposition import OPENMETRICS, TEXT, negotiate, render
from agw.telemetry.metrics import METRICS, REQUEST_LABELS, markdown

BUCKETS = len(DURATION_BOUNDS_S) + 1


class MemoryArena:
    """An ArenaReader over lists: `rows[slot]`, `mcp[slot]`, `numbers[slot]`."""

    def __init__(self, slots: int) -> None:
        self.rows: list[list[RequestSeries]] = [[] for _ in range(slots)]
        self.mcp: list[list[McpSeries]] = [[] for _ in range(slots)]
        self.upstream: list[list[UpstreamSeries]] = [[] for _ in range(slots)]
        self.of_targets: list[list[TargetNumbers]] = [[] for _ in range(slots)]
        self.numbers: list[dict[str, int]] = [{} for _ in range(slots)]

    def slots(self) -> list[SlotView]:
        return [SlotView(index, 100 + index, "ready", 2, 250_000_000, 0) for index in range(len(self.rows))]

    def series(self, slot: int) -> Iterable[RequestSeries]:
        return self.rows[slot]

    def mcp_series(self, slot: int) -> Iterable[McpSeries]:
        return self.mcp[slot]

    def upstream_series(self, slot: int) -> Iterable[UpstreamSeries]:
        return self.upstream[slot]

    def targets(self, slot: int) -> Iterable[TargetNumbers]:
        return self.of_targets[slot]

    def gauges(self, slot: int) -> dict[str, int]:
        return self.numbers[slot]


DOCUMENTS = {
    "ages": {("https://idp/jwks",): 12.5},
    "fetches": {("https://idp/jwks", "changed"): 3, ("https://idp/jwks", "failed"): 1},
}
LIMITS = [("per user", 7, 3, 2, 1), ("per user", 1, 0, 0, 0), ("other", 5, 0, 0, 0)]


def source_over(arena: MemoryArena, labels: Labels | None = None) -> MetricsSource:
    known = labels or Labels({}, {})
    return MetricsSource(arena, labels=lambda: known, config=lambda: ConfigState(True, 2), version="9.9", documents=lambda: DOCUMENTS, limits=lambda: LIMITS,
                         admin=lambda: {"ok": 3, "refused": 1})


def row(route: int, backend: int, *, count: int = 1, bucket: int = 0, status: int = 200) -> RequestSeries:
    buckets = tuple(count if index == bucket else 0 for index in range(BUCKETS))
    return RequestSeries(route, backend, "POST", status, "Upstream", count, count * 100, count * 1_000_000, buckets)


def buckets_of(count: int, bucket: int) -> tuple[int, ...]:
    return tuple(count if index == bucket else 0 for index in range(BUCKETS))


def mcp_row(route: int, backend: int, *, count: int = 1, bucket: int = 0, code: str = "", tool: str = "echo") -> McpSeries:
    return McpSeries(route, backend, "tools/call", "tool", tool, code, count * 1_000_000, buckets_of(count, bucket))


def busy_arena(slots: int, series: int) -> tuple[MemoryArena, Labels]:
    """Every slot has the same `series` label combinations."""
    arena = MemoryArena(slots)
    for slot in range(slots):
        arena.rows[slot] = [
            row(number, number % 50, count=number + 1, bucket=number % BUCKETS) for number in range(series)
        ]
        arena.mcp[slot] = [mcp_row(number, 1, count=number + 1, code="tool" if number % 2 else "") for number in range(20)]
        arena.upstream[slot] = [UpstreamSeries(number, "tools/call", "ok", 5_000_000, buckets_of(1, 2)) for number in range(3)]
        arena.of_targets[slot] = [TargetNumbers(number, dict.fromkeys(TARGET_GAUGES, number + 1)) for number in range(3)]
        arena.numbers[slot] = {metric.source: 1_234_567 for metric in METRICS if metric.origin == "worker"}
        arena.numbers[slot] |= {decision_name("jwt", "ok"): 5, decision_name("limit", "refused"): slot}
    routes = {number: RouteLabels("8080", "default", "http", f"route-{number}", "rule-0") for number in range(series)}
    backends = {number: BackendLabels(f"backend-{number}", "mcp", f"server-{number}") for number in range(50)}
    return arena, Labels(routes, backends)


def test_every_row_of_the_table_keeps_the_naming_rules() -> None:
    names = [metric.name for metric in METRICS]
    assert len(set(names)) == len(names)
    for metric in METRICS:
        assert re.fullmatch(r"[a-z][a-z0-9]*(_[a-z0-9]+)*", metric.name)
        assert not metric.name.endswith(("_total", "_info", "_bucket", "_sum", "_count"))
        assert metric.help.endswith(".")
        assert not metric.unit or metric.name.endswith("_" + metric.unit)
        assert len(set(metric.labels)) == len(metric.labels)
        assert "le" not in metric.labels
    sources = [metric.source for metric in METRICS if metric.origin == "worker"]
    assert len(set(sources)) == len(sources)


def test_the_arena_numbers_of_the_table_are_the_agreed_ones() -> None:
    assert {metric.source for metric in METRICS if metric.origin == "worker"} == {
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
        "tls_handshakes_total",
        "tls_handshake_failures_total",
        "mcp_sessions",
        "mcp_replicas",
        "mcp_streams",
        "mcp_parked",
        "mcp_children_started_total",
        "mcp_children_restarted_total",
        "mcp_children_failed_total",
    }
    named = {metric.source for metric in METRICS if metric.origin == "target"} - {"items"}
    assert named | {"tools", "prompts", "resources", "templates"} == set(TARGET_GAUGES)


def test_request_metrics_have_the_names_and_labels_of_agentgateway() -> None:
    by_name = {name: metric for metric in METRICS for name in metric.sample_names("agentgateway")}
    assert ",".join(REQUEST_LABELS) == "backend,protocol,method,status,reason,bind,gateway,listener,route,route_rule"
    for name in ("requests_total", "response_bytes_total", "request_duration_seconds_bucket"):
        assert by_name[f"agentgateway_{name}"].labels == REQUEST_LABELS
    assert by_name["agentgateway_mcp_requests_total"].labels[:4] == ("method", "resource_type", "server", "resource")
    for name in ("build_info", "downstream_connections_total", "retries_total", "config_synchronized"):
        assert f"agentgateway_{name}" in by_name


def test_the_reference_page_has_a_line_for_every_metric() -> None:
    lines = markdown("agw").splitlines()
    assert len(lines) == 2 + len(METRICS)
    assert any("`agw_request_duration_seconds`" in line for line in lines)


def test_slots_are_summed_by_label() -> None:
    arena = MemoryArena(3)
    arena.rows = [[row(1, 1, count=2, bucket=1)], [row(1, 1, count=3, bucket=14)], [row(1, 1, status=502)]]
    labels = Labels({1: RouteLabels("b", "g", "l", "r", "x")}, {1: BackendLabels("up", "http", "")})
    families = {family.metric.name: family.rows for family in source_over(arena, labels).read()}
    key = ("up", "http", "POST", "200", "Upstream", "b", "g", "l", "r", "x")
    assert families["requests"][key] == 5
    assert families["response_bytes"][key] == 500
    assert families["request_duration_seconds"][key] == Distribution((0, *([2] * 13), 5), 0.005)
    assert len(families["requests"]) == 2


def test_ids_without_names_fall_together_as_unknown() -> None:
    arena = MemoryArena(1)
    arena.rows = [[row(7, 7, count=2), row(8, 9, count=3)]]
    arena.mcp = [[McpSeries(7, 7, "tools/list", "unknown", "unknown", "", 4_000_000, buckets_of(4, 0))]]
    families = {family.metric.name: family.rows for family in source_over(arena).read()}
    assert families["requests"] == {("unknown", "unknown", "POST", "200", "Upstream", *["unknown"] * 5): 5}
    assert families["mcp_requests"] == {("tools/list", "unknown", "unknown", "unknown", *["unknown"] * 5): 4}


def test_mcp_requests_are_counted_over_all_outcomes_and_errors_by_class() -> None:
    arena = MemoryArena(2)
    arena.mcp = [[mcp_row(1, 1, count=2), mcp_row(1, 1, count=3, bucket=4, code="tool")], [mcp_row(1, 1, count=5, code="-32603"), mcp_row(1, 1, tool="x")]]
    labels = Labels({1: RouteLabels("b", "g", "l", "r", "x")}, {1: BackendLabels("up", "mcp", "files")})
    families = {family.metric.name: family.rows for family in source_over(arena, labels).read()}
    place = ("b", "g", "l", "r", "x")
    assert families["mcp_requests"] == {("tools/call", "tool", "files", "echo", *place): 10, ("tools/call", "tool", "files", "x", *place): 1}
    assert families["mcp_errors"] == {
        ("tools/call", "tool", "files", "echo", "tool", *place): 3, ("tools/call", "tool", "files", "echo", "-32603", *place): 5}
    took = families["mcp_request_duration_seconds"]["tools/call", "tool", "files", "echo", *place]
    assert took == Distribution((7, 7, 7, 7, *([10] * 11)), 0.01)


def test_numbers_of_targets() -> None:
    arena = MemoryArena(2)
    arena.upstream = [[UpstreamSeries(1, "tools/call", "ok", 2_000_000, buckets_of(2, 0))], [UpstreamSeries(1, "tools/call", "ok", 0, buckets_of(1, 1))]]
    arena.of_targets = [[TargetNumbers(1, {"healthy": 1, "children": 0, "tools": 12, "prompts": 0})], []]
    families = {family.metric.name: family.rows for family in source_over(arena, Labels({}, {1: BackendLabels("up", "mcp", "files")})).read()}
    assert families["mcp_upstream_duration_seconds"] == {("up", "files", "tools/call", "ok"): Distribution((2, *([3] * 14)), 0.002)}
    assert families["mcp_target_healthy"] == {("0", "up", "files"): 1}
    assert families["mcp_target_children"] == {("0", "up", "files"): 0}
    assert families["mcp_catalogue_items"] == {("0", "up", "files", "tools"): 12}


def test_worker_numbers_carry_the_slot_and_their_unit() -> None:
    arena = MemoryArena(2)
    arena.numbers = [{"loop_lag_ns": 1_500_000, "retries_total": 3}, {"retries_total": 0}]
    families = {family.metric.name: family.rows for family in source_over(arena).read()}
    assert families["retries"] == {("0",): 3, ("1",): 0}
    assert families["loop_lag_seconds"] == {("0",): 0.0015}
    assert families["worker_heartbeat_age_seconds"] == {("0",): 0.25, ("1",): 0.25}
    assert families["worker_ready"] == {("0",): 1, ("1",): 1}


def test_decisions_are_summed_over_the_workers_and_documents_are_the_helpers() -> None:
    arena, labels = busy_arena(3, 1)
    families = {family.metric.name: family.rows for family in source_over(arena, labels).read()}
    assert families["auth_decisions"] == {("jwt", "ok"): 15, ("limit", "refused"): 3}
    assert families["document_age_seconds"] == {("https://idp/jwks",): 12.5}
    assert families["document_fetches"] == {("https://idp/jwks", "changed"): 3, ("https://idp/jwks", "failed"): 1}


Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def samples(text: bytes, *, openmetrics: bool) -> tuple[Samples, dict[str, tuple[str, str, str]]]:
    """All samples, and (type, unit, help) by family."""
    parse = parse_openmetrics if openmetrics else parse_text
    values: Samples = {}
    families = {}
    for family in parse(text.decode()):
        families[family.name] = (family.type, family.unit, family.documentation)
        for sample in family.samples:
            key = (sample.name, frozenset(sample.labels.items()))
            assert key not in values
            values[key] = sample.value
    return values, families


@pytest.mark.parametrize("openmetrics", [False, True], ids=["text", "openmetrics"])
def test_our_text_says_what_prometheus_client_says(openmetrics: bool) -> None:
    arena, labels = busy_arena(2, 40)
    labels = Labels({**labels.routes, 0: RouteLabels(route='a"b\\c\nd é')}, labels.backends)
    source = source_over(arena, labels)
    registry = CollectorRegistry()
    registry.register(ArenaCollector(source))
    generate = generate_openmetrics if openmetrics else generate_latest
    reference: bytes = generate(registry)
    ours = render(source.read(), prefix="agw", openmetrics=openmetrics)
    assert samples(ours, openmetrics=openmetrics) == samples(reference, openmetrics=openmetrics)


def test_limits_are_summed_by_name() -> None:
    values, _ = samples(render(source_over(MemoryArena(1)).read(), prefix="x", openmetrics=False), openmetrics=False)
    found = {(name, *(v for _, v in sorted(labels))): value for (name, labels), value in values.items() if "rate_limit" in name}
    assert found == {
        ("x_rate_limit_decisions_total", "per user", "admitted"): 8, ("x_rate_limit_decisions_total", "per user", "refused"): 3,
        ("x_rate_limit_decisions_total", "other", "admitted"): 5, ("x_rate_limit_decisions_total", "other", "refused"): 0,
        ("x_rate_limit_evictions_total", "per user"): 2, ("x_rate_limit_evictions_total", "other"): 0,
        ("x_rate_limit_store_errors_total", "per user"): 1, ("x_rate_limit_store_errors_total", "other"): 0,
    }  # fmt: skip


def test_every_metric_of_the_table_is_exposed_and_nothing_else() -> None:
    arena, labels = busy_arena(1, 1)
    values, _ = samples(render(source_over(arena, labels).read(), prefix="x", openmetrics=False), openmetrics=False)
    assert {name for name, _ in values} == {name for metric in METRICS for name in metric.sample_names("x")}


@pytest.mark.parametrize(
    ("accept", "form"),
    [
        ("", TEXT),
        ("*/*", TEXT),
        ("text/html", TEXT),
        ("application/openmetrics-text", OPENMETRICS),
        ("application/openmetrics-text;version=1.0.0;q=0.6, text/plain;version=0.0.4;q=0.5, */*;q=0.1", OPENMETRICS),
        ("application/openmetrics-text;version=9.0.0, text/plain;q=0.5", TEXT),
        ("text/plain, application/openmetrics-text;q=0.2", TEXT),
        ("application/openmetrics-text;q=0", TEXT),
        ("application/openmetrics-text;q=x", TEXT),
    ],
)
def test_the_form_follows_accept(accept: str, form: object) -> None:
    assert negotiate(accept) == form


def test_a_scrape_of_two_workers_with_a_thousand_series_takes_less_than_100_ms() -> None:
    arena, labels = busy_arena(2, 1_000)
    source = source_over(arena, labels)
    times = []
    for _ in range(5):
        begin = time.perf_counter()
        render(source.read(), prefix="agw", openmetrics=True)
        times.append(time.perf_counter() - begin)
    assert min(times) < 0.1
