"""The `config` and `frontendPolicies` blocks. See `agw.config.model` for the rules all model files keep."""

from __future__ import annotations

from typing import Annotated, Literal

from agw.config.model_external import AdminAuth
from agw.config.model_rules import RuleSet
from agw.config.modelling import Model, about, bounds, ours

_GIB = 1 << 30


class LogFields(Model, frozen=True):
    """Fields to add and to remove."""

    add: Annotated[dict[str, str], about("Expressions by name of the field.")] = {}
    remove: Annotated[list[str], about("Names of fields to leave out.")] = []


class Tracing(Model, frozen=True):
    """Export of spans. Known and not done yet: `agw validate` warns."""

    otlp_endpoint: Annotated[str | None, about("URL of the collector.")] = None
    headers: Annotated[dict[str, str], about("Headers of exports.")] = {}
    otlp_protocol: Annotated[Literal["grpc", "http"], about("Protocol of exports.")] = "grpc"
    fields: Annotated[LogFields | None, about("Attributes of spans to add and to remove.")] = None
    random_sampling: Annotated[str | bool | float | None, about("Share of requests without a trace that begin one: 0 to 1, true, false or an expression.")] = (
        None
    )
    client_sampling: Annotated[str | bool | float | None, about("Likewise, of requests with a trace.")] = None
    path: Annotated[str | None, about("Path of exports; /v1/traces when not given.")] = None


class Logging(Model, frozen=True):
    """The process log."""

    level: Annotated[
        Literal["error", "warn", "info", "debug", "trace"] | None, about("Least severity to write; info by default.")
    ] = None
    format: Annotated[Literal["json"] | None, about("How lines are written.")] = None
    filter: Annotated[str | None, about("The older form of frontendPolicies.accessLog.filter.")] = None
    fields: Annotated[LogFields | None, about("The older form of `add` and `remove` of frontendPolicies.accessLog.")] = None


class Metrics(Model, frozen=True):
    """Metrics exposition."""

    prefix: Annotated[str | None, ours("First word of every metric name; agw by default.")] = None


class BackendDefaults(Model, frozen=True):
    """Defaults for all upstream connections."""

    connect_timeout: Annotated[str | None, about("Time to open a connection; 5s by default.")] = None
    pool_idle_timeout: Annotated[str | None, about("How long an unused connection is kept; 55s by default.")] = None
    pool_max_size: Annotated[
        Annotated[int, bounds(0, 1_000_000)] | None, about("Unused connections kept per upstream.")
    ] = None
    pool_max_lifetime: Annotated[str | None, ours("Age at which a connection is not reused; 1h by default.")] = None
    max_connections: Annotated[
        Annotated[int, bounds(1, 1_000_000)] | None, ours("Connections per upstream and worker.")
    ] = None
    max_pending: Annotated[Annotated[int, bounds(0, 1_000_000)] | None, ours("Requests waiting for a connection.")] = (
        None
    )
    pending_timeout: Annotated[str | None, ours("How long a request waits for a connection; 5s by default.")] = None
    response_timeout: Annotated[
        str | None, ours("Time until response headers; 60s by default, 600s for MCP targets; 0 is no limit.")
    ] = None


class Dns(Model, frozen=True):
    """Name resolution."""

    refresh_interval: Annotated[str | None, ours("How often upstream names are resolved again; 30s by default.")] = None


class McpSettings(Model, frozen=True):
    """Settings of all MCP backends."""

    session_ttl: Annotated[str | None, about("How long a session lives without a request; 30m by default.")] = None


class SessionKeys(Model, frozen=True):
    """Keys that protect session ids, so that every process and replica accepts them and nobody can forge one."""

    key: Annotated[str | None, about("32 octets as 64 hex digits, as `openssl rand -hex 32` prints. Environment: SESSION_KEY.")] = None
    keys: Annotated[list[str] | None, ours("Several, to change them without losing sessions: the first seals, all open.")] = None


class ProcessConfig(Model, frozen=True):
    """Settings read once at start; a reload does not change them."""

    admin_addr: Annotated[str | None, about("Admin listener: ip:port, unix:/path or off. Environment: ADMIN_ADDR.")] = (
        None
    )
    admin_auth: Annotated[AdminAuth | None, ours("Who may use the admin listener; needed beyond loopback and unix sockets.")] = None
    admin_insecure: Annotated[bool, ours("Whether the admin listener may be reachable without authentication.")] = False
    stats_addr: Annotated[str | None, about("Metrics listener, likewise. Environment: STATS_ADDR.")] = None
    readiness_addr: Annotated[str | None, about("Readiness listener, likewise. Environment: READINESS_ADDR.")] = None
    worker_threads: Annotated[
        Annotated[int, bounds(1, 1024)] | str | None,
        about("Worker processes, or auto for one per CPU. Environment: WORKER_THREADS."),
    ] = None
    connection_termination_deadline: Annotated[
        str | None, about("How long a drain may last; 30s by default. Environment: CONNECTION_TERMINATION_DEADLINE.")
    ] = None
    logging: Annotated[Logging | None, about("The process log.")] = None
    metrics: Annotated[Metrics | None, about("Metrics exposition.")] = None
    tracing: Annotated[Tracing | None, about("Export of spans; not done yet.")] = None
    backend: Annotated[BackendDefaults | None, about("Defaults for all upstream connections.")] = None
    dns: Annotated[Dns | None, about("Name resolution.")] = None
    mcp: Annotated[McpSettings | None, about("Settings of all MCP backends.")] = None
    session: Annotated[SessionKeys | None, about("Keys that protect session ids.")] = None
    pin_cpus: Annotated[bool, ours("Whether each worker is bound to one CPU.")] = False
    watch_interval: Annotated[
        str | None, ours("How often files that the configuration names (certificates, keys, secrets) are looked at for changes; 5s by default, 0s never.")
    ] = None
    heartbeat_timeout: Annotated[str | None, ours("Silence after which a worker is replaced; 5s by default.")] = None
    backlog: Annotated[
        Annotated[int, bounds(1, 65535)] | None, ours("Connections the kernel queues per listening socket.")
    ] = None


class FrontendHttp(Model, frozen=True):
    """Limits on clients; every one has a bound."""

    max_buffer_size: Annotated[Annotated[int, bounds(1, _GIB)] | None, about("Octets of a body that is buffered.")] = (
        None
    )
    http1_max_headers: Annotated[Annotated[int, bounds(1, 10_000)] | None, about("Header lines of a request.")] = None
    http1_idle_timeout: Annotated[str | None, about("Pause between two requests of a connection; 75s by default.")] = (
        None
    )
    http1_header_case: Annotated[
        Literal["lowercase", "preserve"] | None, about("Whether header names are sent in lower case or as they came.")
    ] = None
    max_connection_duration: Annotated[str | None, about("Age at which a connection is closed; 0 is never.")] = None
    max_head_bytes: Annotated[Annotated[int, bounds(1024, 1 << 20)] | None, ours("Octets of a request head.")] = None
    max_line_bytes: Annotated[Annotated[int, bounds(512, 1 << 20)] | None, ours("Octets of a request line.")] = None
    max_field_bytes: Annotated[Annotated[int, bounds(512, 1 << 20)] | None, ours("Octets of one header line.")] = None
    header_timeout: Annotated[str | None, ours("Time for a head from its first octet; 10s by default.")] = None
    first_byte_timeout: Annotated[str | None, ours("Time to the first octet of a connection; 30s by default.")] = None
    progress_timeout: Annotated[str | None, ours("Time a body may stand still, either way; 30s by default.")] = None
    stream_idle_timeout: Annotated[str | None, ours("Silence after which a stream ends; 5m by default.")] = None
    max_requests_per_connection: Annotated[
        Annotated[int, bounds(1, 1 << 31)] | None, ours("Requests of one connection.")
    ] = None
    max_connections: Annotated[Annotated[int, bounds(1, 1 << 20)] | None, ours("Client connections of one worker.")] = (
        None
    )
    max_connections_per_address: Annotated[
        Annotated[int, bounds(1, 1 << 20)] | None, ours("Likewise, of one client address.")
    ] = None
    forwarded: Annotated[
        Literal["replace", "append", "off"] | None, ours("What happens to x-forwarded-*; replace by default.")
    ] = None


class AccessLog(Model, frozen=True):
    """One line per request."""

    enabled: Annotated[bool, ours("Whether lines are written.")] = True
    path: Annotated[str | None, ours("File to append to; standard output when not given.")] = None
    filter: Annotated[str | None, about("Expression; a request for which it is false has no line.")] = None
    add: Annotated[dict[str, str], about("Expressions by name of the field they make.")] = {}
    remove: Annotated[list[str], about("Names of fields to leave out.")] = []


class FrontendPolicies(Model, frozen=True):
    """Policies of all client connections."""

    http: Annotated[FrontendHttp | None, about("Limits on clients.")] = None
    access_log: Annotated[AccessLog | None, about("The access log.")] = None
    network_authorization: Annotated[RuleSet | None, about("Rules about client connections: which may be made.")] = None
