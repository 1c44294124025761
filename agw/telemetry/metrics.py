"""The one table of all metrics. The collector, the exposition, the reference page and a test are derived from it.

Adding a metric is adding a row here, and a number in the arena under the row's `source`.

Naming rules (Prometheus, OpenMetrics; checked by a test):
- `name` is without prefix and without type suffix; it ends in `unit` if there is one; samples of a counter add
  `_total`, of an info `_info`, of a histogram `_bucket`, `_sum`, `_count`;
- no two rows share a name, not even a counter and a gauge: OpenMetrics knows one family per name. The number of
  connections open now is therefore `..._connections_active` beside the counter `..._connections`;
- label values come from the configuration or from fixed sets, never from a request; a missing one is `unknown`;
- stems and labels are those of agentgateway where it has the metric, so that its dashboards work with its prefix.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

Unit = Literal["", "seconds", "bytes"]
Kind = Literal["counter", "gauge", "histogram", "info"]
Origin = Literal["requests", "mcp", "worker", "slot", "process"]

ROUTE_LABELS = ("bind", "gateway", "listener", "route", "route_rule")
REQUEST_LABELS = ("backend", "protocol", "method", "status", "reason", *ROUTE_LABELS)
MCP_LABELS = ("method", "resource_type", "server", "resource", *ROUTE_LABELS)
WORKER_LABELS = ("worker",)

UNKNOWN = "unknown"
"""The value of a label that cannot be resolved."""


_SUFFIXES: dict[Kind, tuple[str, ...]] = {
    "counter": ("_total",),
    "gauge": ("",),
    "info": ("_info",),
    "histogram": ("_bucket", "_sum", "_count"),
}


class Metric(NamedTuple):
    """One metric family.

    `origin` says where its rows come from: `requests` and `mcp` are summed over the slots by label; `worker` is one
    arena number per slot, `slot` one field of the slot itself; `process` is known to the helper process.
    `source` is the arena's name of a `worker` number, the field for the other origins. The exposed value is the number
    over `divisor`.
    """

    name: str
    kind: Kind
    unit: Unit
    labels: tuple[str, ...]
    origin: Origin
    source: str
    help: str
    divisor: int = 1

    def sample_names(self, prefix: str) -> tuple[str, ...]:
        """The names on the wire, with `prefix`."""
        return tuple(f"{prefix}_{self.name}{suffix}" for suffix in _SUFFIXES[self.kind])


def _worker(name: str, kind: Kind, help: str, *, source: str = "", unit: Unit = "") -> Metric:
    """A per-worker number whose arena name is its sample name, unless `source` says otherwise."""
    suffix = "_total" if kind == "counter" else ""
    divisor = 1_000_000_000 if unit == "seconds" else 1
    return Metric(name, kind, unit, WORKER_LABELS, "worker", source or name + suffix, help, divisor)


METRICS: tuple[Metric, ...] = (
    Metric("build", "info", "", ("tag",), "process", "version", "The running version."),
    Metric("config_synchronized", "gauge", "", (), "process", "synchronized",
           "1 if every worker runs the newest valid configuration and the file is valid, else 0."),
    Metric("config_generation", "gauge", "", (), "process", "generation", "Number of the configuration in force."),
    Metric("requests", "counter", "", REQUEST_LABELS, "requests", "count", "Requests answered."),
    Metric("request_duration_seconds", "histogram", "seconds", REQUEST_LABELS, "requests", "buckets",
           "Time from the first byte of a request to the last byte of its response."),
    Metric("response_bytes", "counter", "bytes", REQUEST_LABELS, "requests", "response_bytes",
           "Bytes of response bodies sent downstream."),
    Metric("mcp_requests", "counter", "", MCP_LABELS, "mcp", "count", "MCP requests, by JSON-RPC method."),
    _worker("downstream_connections_active", "gauge", "Client connections open now.", source="downstream_connections"),
    _worker("downstream_connections", "counter", "Client connections accepted."),
    _worker("downstream_received_bytes", "counter", "Bytes received from clients.", unit="bytes"),
    _worker("downstream_sent_bytes", "counter", "Bytes sent to clients.", unit="bytes"),
    _worker("upstream_connections_active", "gauge", "Backend connections open now.", source="upstream_connections"),
    _worker("upstream_connects", "counter", "Backend connections opened."),
    _worker("upstream_connect_failures", "counter", "Backend connections that could not be opened."),
    _worker("upstream_reuses", "counter", "Requests sent on a kept backend connection."),
    _worker("retries", "counter", "Requests sent to a backend again."),
    _worker("requests_in_flight", "gauge", "Requests being served now."),
    _worker("exchanges", "counter", "Requests begun, answered or not."),
    _worker("access_log_dropped", "counter", "Access log records lost because the output was too slow."),
    _worker("parse_errors", "counter", "Connections ended because the input was not HTTP."),
    _worker("accept_paused", "counter", "Times accepting stopped for want of descriptors or at the connection limit."),
    _worker("relay_pauses", "counter", "Times reading stopped because the other side was slower."),
    _worker("loop_lag_seconds", "gauge", "Lateness of the last loop timer.", source="loop_lag_ns", unit="seconds"),
    _worker("tls_handshakes", "counter", "TLS handshakes completed with clients."),
    _worker("tls_handshake_failures", "counter", "Client connections that ended before their TLS handshake was complete."),
    Metric("worker_ready", "gauge", "", WORKER_LABELS, "slot", "state", "1 if the worker takes traffic, else 0."),
    Metric("worker_generation", "gauge", "", WORKER_LABELS, "slot", "generation", "Configuration the worker runs."),
    Metric("worker_heartbeat_age_seconds", "gauge", "seconds", WORKER_LABELS, "slot", "heartbeat_age_ns",
           "Time since the worker last showed that it is alive.", 1_000_000_000),
)  # fmt: skip


def markdown(prefix: str = "agw") -> str:
    """The reference table of all metrics as Markdown, in the order of METRICS."""
    lines = ["| metric | type | labels | meaning |", "| --- | --- | --- | --- |"]
    for metric in METRICS:
        name = f"{prefix}_{metric.name}" if metric.kind == "histogram" else metric.sample_names(prefix)[0]
        lines.append(f"| `{name}` | {metric.kind} | {', '.join(metric.labels) or '-'} | {metric.help} |")
    return "\n".join(lines) + "\n"
