"""The one table of all metrics. The collector, the exposition, the reference page and a test are derived from it.

Adding a metric is adding a row here, and a number in the arena under the row's `source`.

Naming rules (Prometheus, OpenMetrics; checked by a test):
- `name` is without prefix and without type suffix; it ends in `unit` if there is one; samples of a counter add
  `_total`, of an info `_info`, of a histogram `_bucket`, `_sum`, `_count`;
- no two rows share a name, not even a counter and a gauge: OpenMetrics knows one family per name. The number of
  connections open now is therefore `..._connections_active` beside the counter `..._connections`;
- label values come from the configuration or from fixed sets, never from a request; a missing one is `unknown`. The one
  exception, `resource`, holds names of tools that a target has answered for, at most 1,022 per worker, then `other`;
- stems and labels are those of agentgateway where it has the metric, so that its dashboards work with its prefix.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

Unit = Literal["", "seconds", "bytes"]
Kind = Literal["counter", "gauge", "histogram", "info"]
Origin = Literal["requests", "mcp", "upstream", "target", "limit", "worker", "slot", "process", "decisions", "admin", "documents"]

ROUTE_LABELS = ("bind", "gateway", "listener", "route", "route_rule")
REQUEST_LABELS = ("backend", "protocol", "method", "status", "reason", *ROUTE_LABELS)
MCP_LABELS = ("method", "resource_type", "server", "resource", *ROUTE_LABELS)
UPSTREAM_LABELS = ("backend", "server", "method", "outcome")
TARGET_LABELS = ("worker", "backend", "server")
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

    `origin` says where its rows come from: `requests`, `mcp` and `upstream` are summed over the slots by label; `target` is
    one number per slot and MCP target, `limit` one per limit over all slots, `worker` one per slot, `slot` one field of the slot itself;
    `decisions` are summed over the slots; `process`, `admin` and `documents` are known to the helper process. `source` is the arena's name of a
    `worker` or `target` number, the field for the other origins. The exposed value is the number over `divisor`.
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


def _target(name: str, help: str, *, source: str = "") -> Metric:
    """A gauge per worker and MCP target."""
    return Metric(f"mcp_target_{name}", "gauge", "", TARGET_LABELS, "target", source or name, help)


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
    Metric("mcp_requests", "counter", "", MCP_LABELS, "mcp", "count", "MCP requests answered, by JSON-RPC method, target and tool."),
    Metric("mcp_request_duration_seconds", "histogram", "seconds", MCP_LABELS, "mcp", "buckets",
           "Time from the first byte of an MCP request to the last byte of its answer."),
    Metric("mcp_errors", "counter", "", (*MCP_LABELS[:4], "code", *ROUTE_LABELS), "mcp", "errors",
           "MCP requests answered with an error, by class of JSON-RPC code; `tool` is a result with isError, `cancelled` a caller that left."),
    Metric("mcp_upstream_duration_seconds", "histogram", "seconds", UPSTREAM_LABELS, "upstream", "buckets",
           "Time from a request to an MCP target to its answer, of requests that the service carries."),
    _worker("mcp_sessions_active", "gauge", "Sessions of legacy clients that this worker is home of.", source="mcp_sessions"),
    _worker("mcp_replicas", "gauge", "Sessions of other workers that this worker makes calls for."),
    _worker("mcp_streams_active", "gauge", "Event streams to MCP clients open now: answers, GET, subscriptions, HTTP+SSE.", source="mcp_streams"),
    _worker("mcp_parked_calls", "gauge", "Calls at legacy targets that wait for answers of modern clients.", source="mcp_parked"),
    _worker("mcp_children_started", "counter", "Processes of stdio targets started."),
    _worker("mcp_children_restarted", "counter", "Those of them that replaced one that had ended."),
    _worker("mcp_children_failed", "counter", "Processes of stdio targets that could not be started."),
    _target("healthy", "1 unless the last attempt to reach the target failed."),
    _target("sessions_owned", "Sessions with the target that belong to one client's session."),
    _target("sessions_pooled", "Sessions with the target that clients without one share."),
    _target("children", "Processes of the stdio target not reaped yet."),
    Metric("mcp_catalogue_items", "gauge", "", (*TARGET_LABELS, "kind"), "target", "items", "What the target listed last; known only where lists are merged."),
    Metric("rate_limit_decisions", "counter", "", ("limit", "result"), "limit", "decisions", "Requests that a limit admitted or refused."),
    Metric("rate_limit_evictions", "counter", "", ("limit",), "limit", "evictions",
           "Keys that lost their bucket to another one because the table of limits was full."),
    Metric("rate_limit_store_errors", "counter", "", ("limit",), "limit", "errors",
           "Times a limit could not be decided as configured: the shared store did not answer, or a key or cost failed."),
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
    Metric("auth_decisions", "counter", "", ("policy", "result"), "decisions", "decisions",
           "Decisions of policies about requests; `cached`: the same as for an earlier request with the same credential."),
    Metric("admin_auth_decisions", "counter", "", ("result",), "admin", "decisions",
           "Requests to the admin listener by what `adminAuth` said since the helper process began: ok, missing, refused (a bad credential), "
           "forbidden (beyond its role), limited (too many bad ones from the address)."),
    Metric("document_age_seconds", "gauge", "seconds", ("url",), "documents", "ages",
           "Time since a fetched document (keys, metadata) was last known to be good; absent until it was loaded."),
    Metric("document_fetches", "counter", "", ("url", "result"), "documents", "fetches",
           "Attempts to fetch a document since the helper process began: changed, same, failed, or invalid (no JSON object, too large)."),
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
