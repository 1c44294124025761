"""The `config` and `frontendPolicies` blocks to their plans.

Rules kept here:
- an environment variable that agentgateway reads wins over the file, as it does there;
- what is not given keeps the default of `agw.runtime.plan`, so defaults live in one place;
- every duration that may be unlimited may be `0`; the others refuse it.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from agw.config import values
from agw.config.check import Context
from agw.config.document import resolve_scalar
from agw.config.external import admin_auth
from agw.config.model import Config
from agw.config.model_process import AccessLog, Logging, ProcessConfig
from agw.config.problem import Finding, Path
from agw.config.rules import expression
from agw.runtime.plan import AccessLogPlan, ClusterPlan, HttpPlan, ProcessPlan

_MCP_RESPONSE_TIMEOUT_NS = 600_000_000_000
_PREFIX = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_MAX_WORKERS = 1024
_SESSION_KEY = re.compile(r"[0-9A-Fa-f]{64}")
_MAX_FIELD, _MAX_FIELDS = 128, 64
_MAKE_KEY = "make one with: openssl rand -hex 32"

# Attribute of the model -> (key in the file, plan field, parser or None for numbers and words).
_Row = tuple[str, str, Callable[[str], Any] | None]
_HTTP: dict[str, _Row] = {
    "max_buffer_size": ("maxBufferSize", "max_buffer_bytes", None),
    "http1_max_headers": ("http1MaxHeaders", "max_headers", None),
    "http1_idle_timeout": ("http1IdleTimeout", "idle_timeout_ns", values.positive_duration_ns),
    "max_connection_duration": ("maxConnectionDuration", "max_connection_ns", values.duration_ns),
    "max_head_bytes": ("maxHeadBytes", "max_head_bytes", None),
    "max_line_bytes": ("maxLineBytes", "max_line_bytes", None),
    "max_field_bytes": ("maxFieldBytes", "max_field_bytes", None),
    "header_timeout": ("headerTimeout", "header_timeout_ns", values.positive_duration_ns),
    "first_byte_timeout": ("firstByteTimeout", "first_byte_timeout_ns", values.positive_duration_ns),
    "progress_timeout": ("progressTimeout", "progress_timeout_ns", values.positive_duration_ns),
    "stream_idle_timeout": ("streamIdleTimeout", "stream_idle_timeout_ns", values.positive_duration_ns),
    "max_requests_per_connection": ("maxRequestsPerConnection", "max_requests_per_connection", None),
    "max_connections": ("maxConnections", "max_connections", None),
    "max_connections_per_address": ("maxConnectionsPerAddress", "max_connections_per_address", None),
    "forwarded": ("forwarded", "forwarded", None),
}
_CLUSTER: dict[str, _Row] = {
    "connect_timeout": ("connectTimeout", "connect_timeout_ns", values.positive_duration_ns),
    "pool_idle_timeout": ("poolIdleTimeout", "idle_timeout_ns", values.positive_duration_ns),
    "pool_max_size": ("poolMaxSize", "max_idle", None),
    "pool_max_lifetime": ("poolMaxLifetime", "lifetime_ns", values.positive_duration_ns),
    "max_connections": ("maxConnections", "max_connections", None),
    "max_pending": ("maxPending", "max_pending", None),
    "pending_timeout": ("pendingTimeout", "pending_timeout_ns", values.positive_duration_ns),
    "response_timeout": ("responseTimeout", "response_timeout_ns", values.duration_ns),
}
# Attribute of `config` -> (key, environment variable, plan field, parser).
_FROM_ENVIRONMENT: dict[str, tuple[str, str, str, Callable[[str], Any]]] = {
    "admin_addr": ("adminAddr", "ADMIN_ADDR", "admin_address", values.service_address),
    "stats_addr": ("statsAddr", "STATS_ADDR", "stats_address", values.service_address),
    "readiness_addr": ("readinessAddr", "READINESS_ADDR", "readiness_address", values.service_address),
    "connection_termination_deadline": (
        "connectionTerminationDeadline",
        "CONNECTION_TERMINATION_DEADLINE",
        "drain_ns",
        values.duration_ns,
    ),
}


def _fields(context: Context, struct: Any, rows: dict[str, _Row], path: Path) -> dict[str, Any]:
    out: dict[str, Any] = {}
    if struct is None:
        return out
    for name, (key, field, parse) in rows.items():
        value = getattr(struct, name)
        if value is None:
            continue
        if parse is not None:
            value = context.findings.value((*path, key), parse, value, None)
        if value is not None:
            out[field] = value
    return out


def process_plan(context: Context, config: Config) -> ProcessPlan:
    """The settings of the process, environment first."""
    block = config.config or ProcessConfig()
    path: Path = ("config",)
    out: dict[str, Any] = {}
    for name, (key, variable, field, parse) in _FROM_ENVIRONMENT.items():
        text = getattr(block, name)
        value = None if text is None else context.findings.value((*path, key), parse, text, None)
        value = _environment(context, variable, parse, value)
        if value is not None:
            out[field] = value
    workers = block.worker_threads
    count = workers
    if isinstance(workers, str):
        count = context.findings.value((*path, "workerThreads"), _worker_count, workers, 0)
    count = _environment(context, "WORKER_THREADS", _worker_count, count)
    if count is not None:
        out["workers"] = count
    if block.logging is not None and block.logging.level is not None:
        out["log_level"] = block.logging.level
    if block.tracing is not None:
        context.findings.warning((*path, "tracing"), "agw exports no spans yet, so this has no effect; everything else of the file has")
    if block.metrics is not None and block.metrics.prefix is not None:
        out["metrics_prefix"] = context.findings.value(
            (*path, "metrics", "prefix"), _metric_prefix, block.metrics.prefix, "agw"
        )
    if block.dns is not None and block.dns.refresh_interval is not None:
        out["dns_refresh_ns"] = context.findings.value(
            (*path, "dns", "refreshInterval"), values.positive_duration_ns, block.dns.refresh_interval, 1
        )
    if block.heartbeat_timeout is not None:
        out["heartbeat_timeout_ns"] = context.findings.value(
            (*path, "heartbeatTimeout"), values.positive_duration_ns, block.heartbeat_timeout, 1
        )
    if block.watch_interval is not None:
        out["watch_ns"] = context.findings.value((*path, "watchInterval"), values.duration_ns, block.watch_interval, 0)
    if block.backlog is not None:
        out["backlog"] = block.backlog
    out["admin_auth"] = admin_auth(context, block.admin_auth, out.get("admin_address", ProcessPlan().admin_address), block.admin_insecure)
    return ProcessPlan(pin_cpus=block.pin_cpus, session_keys=_session_keys(context, block), **out)


def _session_keys(context: Context, block: ProcessConfig) -> list[str]:
    """The keys of session ids; the first seals. The environment replaces those of the file."""
    path: Path = ("config", "session")
    given: list[tuple[Path, str]] = []
    if block.session is not None:
        context.choice(block.session, path, ("key", "keys"))
        if block.session.key is not None:
            given.append(((*path, "key"), block.session.key))
        given += [((*path, "keys", index), text) for index, text in enumerate(block.session.keys or ())]
        if block.session.keys == [] and context.is_complete((*path, "keys")):
            context.findings.problem((*path, "keys"), f"no key; {_MAKE_KEY}")
    keys = [context.findings.value(place, _session_key, text, "") for place, text in given]
    only = _environment(context, "SESSION_KEY", _session_key, None)
    return list(dict.fromkeys(keys)) if only is None else [only]


def _session_key(text: str) -> str:
    # The value is a secret: no message may hold any of it.
    if not _SESSION_KEY.fullmatch(text.strip()):
        raise ValueError(f"a session key is 64 hex digits; {_MAKE_KEY}")
    return text.strip().lower()


def _environment(context: Context, variable: str, parse: Callable[[str], Any], value: Any) -> Any:
    text = context.environ.get(variable)
    if not text:
        return value
    try:
        return parse(text)
    except ValueError as error:
        # Path and place of the environment: there is no line to point at.
        context.findings.problems.append(Finding((f"${variable}",), str(error), place=(0, 0)))
        return value


def _worker_count(text: str) -> int:
    if text == "auto":
        return 0
    if text.endswith("%"):
        raise ValueError(f"a share of the CPUs {values.NOT_YET}; give a number or auto")
    number = resolve_scalar(text)
    if type(number) is not int or not 0 < number <= _MAX_WORKERS:
        raise ValueError(f"{values.quoted(text)} is no number of workers; use 1 to {_MAX_WORKERS}, or auto")
    return number


def _metric_prefix(text: str) -> str:
    if not _PREFIX.fullmatch(text):
        raise ValueError(f"{values.quoted(text)} is no metric name; use letters, digits and _")
    return text


def cluster_defaults(context: Context, config: Config) -> tuple[ClusterPlan, ClusterPlan]:
    """Two nameless clusters that carry the limits of host and MCP upstreams."""
    backend = config.config.backend if config.config is not None else None
    given = _fields(context, backend, _CLUSTER, ("config", "backend"))
    host = ClusterPlan(name="", **given)
    mcp = ClusterPlan(name="", **{"response_timeout_ns": _MCP_RESPONSE_TIMEOUT_NS, **given})
    return host, mcp


def http_plan(context: Context, config: Config) -> HttpPlan:
    """The limits on clients."""
    http = config.frontend_policies.http if config.frontend_policies is not None else None
    given = _fields(context, http, _HTTP, ("frontendPolicies", "http"))
    if http is not None and http.http1_header_case is not None:
        given["lowercase_headers"] = http.http1_header_case == "lowercase"
    plan = HttpPlan(**given)
    if not plan.max_line_bytes <= plan.max_head_bytes >= plan.max_field_bytes:
        context.findings.problem(
            ("frontendPolicies", "http", "maxHeadBytes"),
            "a head holds its longest line; make it at least maxLineBytes and maxFieldBytes",
        )
    return plan


def access_log_plan(context: Context, config: Config) -> AccessLogPlan:
    """Where request lines go, and what is in them. Where both forms say something of a field, the newer one counts."""
    log = (config.frontend_policies.access_log if config.frontend_policies is not None else None) or AccessLog()
    older = (config.config.logging if config.config is not None else None) or Logging()
    add: dict[str, str] = {}
    remove: list[str] = []
    chosen = ""
    for path, expressions, names, filtered in (
        (("config", "logging", "fields"), older.fields.add if older.fields else {}, older.fields.remove if older.fields else [], older.filter),
        (("frontendPolicies", "accessLog"), log.add, log.remove, log.filter),
    ):
        for name, text in expressions.items():
            place: Path = (*path, "add", name)
            if not name.isprintable() or not 1 <= len(name) <= _MAX_FIELD or name == "time":
                context.findings.problem(place, f"a field has a name of 1 to {_MAX_FIELD} characters that can be printed, and not `time`; choose another")
            expression(context, text, place, "log")
        for index, name in enumerate(names):
            if name == "time":
                context.findings.warning((*path, "remove", index), "the time stays: a line without it says little")
        if filtered is not None:
            place = (*(path[:2] if path[0] == "config" else path), "filter")
            if expression(context, filtered, place, "log", truth=True):
                chosen = filtered
        add |= expressions
        remove += [name for name in names if name not in remove]
    if len(add) > _MAX_FIELDS:
        context.findings.problem(("frontendPolicies", "accessLog", "add"), f"{len(add)} fields; at most {_MAX_FIELDS} are allowed")
    return AccessLogPlan(enabled=log.enabled, path=log.path or "", filter=chosen, add=add, remove=remove)
