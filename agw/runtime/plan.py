"""The plan: a configuration with nothing left to decide.

`agw.config` turns what the operator wrote into a `Plan`; `agw.runtime.compile` turns a `Plan` into a
`Snapshot`. The plan is the only thing that crosses the process border on a reload (as msgpack), so it
holds plain data only: no file is read, no name resolved, no default chosen after it is built.

Rules of this file:
- every duration is an integer of nanoseconds and ends in `_ns`; 0 means "no limit" where a limit may be off;
- policies are already merged (backend < gateway < listener < route, the most specific wins per policy);
- references between parts are list indexes, checked when the plan is built;
- header names in `HeaderOps` are lower case; values are exactly what goes on the wire.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from agw.runtime.plan_security import (
    AdminAuthPlan,
    ApiKeyPlan,
    BackendAuthPlan,
    BasicPlan,
    ConsentPlan,
    CsrfPlan,
    DocumentPlan,
    ExtAuthzPlan,
    IntrospectionPlan,
    JwtPlan,
    LimitPlan,
    McpAuthPlan,
    OidcPlan,
    RateStorePlan,
    RemoteLimitPlan,
    RulesPlan,
    SourcesPlan,
)


class Frozen(msgspec.Struct, frozen=True, omit_defaults=True):
    """Base of all plan structs: immutable, and defaults are not sent over the wire."""


class Pattern(Frozen, frozen=True, omit_defaults=True):
    """One value condition: `exact` equality, or `regex` matching the whole value."""

    kind: Literal["exact", "regex"]
    value: str


class NamedPattern(Frozen, frozen=True, omit_defaults=True):
    """A header (lower-case name, or `:authority`/`:method`) or query parameter and its condition."""

    name: str
    pattern: Pattern


class MatchPlan(Frozen, frozen=True, omit_defaults=True):
    """One way a request may match a route; the parts are joined by AND."""

    path_kind: Literal["exact", "prefix", "regex"] = "prefix"
    path: str = "/"
    method: str = ""
    headers: list[NamedPattern] = []
    query: list[NamedPattern] = []


class HeaderOps(Frozen, frozen=True, omit_defaults=True):
    """Header changes in the order remove, set, add. Names are lower case."""

    remove: list[str] = []
    set: list[tuple[str, str]] = []
    add: list[tuple[str, str]] = []


class RewritePlan(Frozen, frozen=True, omit_defaults=True):
    """`urlRewrite`: `authority` "" keeps, else the new Host; at most one of `path_full`, `path_prefix` is set.

    `authority_mode`: "auto" = the backend's own authority, "none" = the client's Host, "full"/"host"/"port" take
    `authority` (whole authority, host part, or port part).
    """

    authority_mode: Literal["unset", "auto", "none", "full", "host", "port"] = "unset"
    authority: str = ""
    path_full: str | None = None
    path_prefix: str | None = None


class RedirectPlan(Frozen, frozen=True, omit_defaults=True):
    """`requestRedirect`: parts that are None are taken from the request."""

    scheme: str | None = None
    authority_mode: Literal["unset", "full", "host", "port"] = "unset"
    authority: str = ""
    path_full: str | None = None
    path_prefix: str | None = None
    status: int = 302


class DirectResponsePlan(Frozen, frozen=True, omit_defaults=True):
    """`directResponse`: answered by the gateway itself."""

    status: int
    body: str = ""
    headers: list[tuple[str, str]] = []


class CorsPlan(Frozen, frozen=True, omit_defaults=True):
    """`cors`. Origins are `*`, exact (`https://a.example:8443`) or with a wildcard host (`https://*.example`)."""

    allow_origins: list[str] = []
    allow_methods: list[str] = []
    allow_headers: list[str] = []
    expose_headers: list[str] = []
    allow_credentials: bool = False
    max_age_s: int | None = None


class PolicyPlan(Frozen, frozen=True, omit_defaults=True):
    """The merged policies of one route (or of one backend)."""

    cors: CorsPlan | None = None
    request_headers: HeaderOps | None = None
    response_headers: HeaderOps | None = None
    url_rewrite: RewritePlan | None = None
    request_redirect: RedirectPlan | None = None
    direct_response: DirectResponsePlan | None = None
    request_timeout_ns: int = 0
    backend_timeout_ns: int = 0
    sources: SourcesPlan | None = None
    oidc: OidcPlan | None = None
    jwt: JwtPlan | None = None
    mcp_auth: McpAuthPlan | None = None
    introspection: IntrospectionPlan | None = None
    basic: BasicPlan | None = None
    api_key: ApiKeyPlan | None = None
    ext_authz: list[ExtAuthzPlan] = []
    authorization: RulesPlan | None = None
    mcp_authorization: RulesPlan | None = None
    limits: list[LimitPlan] = []
    remote_limits: list[RemoteLimitPlan] = []
    csrf: CsrfPlan | None = None
    backend_authorization: RulesPlan | None = None
    """Of the route's backends: behind the route's own."""
    backend_ext_authz: list[ExtAuthzPlan] = []
    consent: ConsentPlan | None = None
    backend_auth: BackendAuthPlan | None = None


class BackendRef(Frozen, frozen=True, omit_defaults=True):
    """A weighted choice of a route: index into `Plan.clusters`, and policies that apply only there.

    `mcp` is an index into `Plan.mcp` (-1: not an MCP backend). Of an MCP backend `cluster` is the cluster of its
    first http target, -1 when it has none, and the request header changes of `policies` are that target's: each target
    has its own, merged, in `McpTargetPlan.headers`.
    """

    cluster: int
    weight: int = 1
    policies: PolicyPlan | None = None
    mcp: int = -1


class RoutePlan(Frozen, frozen=True, omit_defaults=True):
    """One route as attached to one listener. Label names are what metrics and the access log print."""

    name: str
    rule: str = ""
    hostnames: list[str] = []
    matches: list[MatchPlan] = []
    backends: list[BackendRef] = []
    policies: PolicyPlan = PolicyPlan()


class TlsClientPlan(Frozen, frozen=True, omit_defaults=True):
    """TLS towards an upstream. All certificates and keys are PEM text; "" for `ca` means the system's trust store.

    `server_name` is sent as SNI and is the name the certificate must bear ("" = the cluster's host). `verify` false
    accepts any certificate; `verify_host` false accepts a trusted certificate of another name. `names`: alternative names (host
    names, addresses, URIs) one of which will do instead of `server_name`.
    """

    server_name: str = ""
    verify: bool = True
    verify_host: bool = True
    ca: str = ""
    cert: str = ""
    key: str = ""
    alpn: list[str] = msgspec.field(default_factory=lambda: ["http/1.1"])
    names: list[str] = []


class TlsServerPlan(Frozen, frozen=True, omit_defaults=True):
    """TLS of a listener, PEM text. `client_ca` "" asks clients for no certificate; else they must show one it signed. `max_version`
    "" is the newest there is.
    """

    cert: str
    key: str
    min_version: Literal["1.2", "1.3"] = "1.2"
    client_ca: str = ""
    max_version: Literal["", "1.2", "1.3"] = ""


class ClusterPlan(Frozen, frozen=True, omit_defaults=True):
    """One upstream. `kind` "mcp" means: the body of POST is JSON-RPC, and `path` replaces the request's path.

    `host` is a DNS name or an IP literal (IPv6 without brackets); `unix_path` replaces host and port when set
    (a leading `@` means the abstract namespace). `authority` is what Host says upstream (`host:port`, port left
    out when it is the scheme's default). `name` is the backend label; `target` the MCP target's name.
    """

    name: str
    kind: Literal["host", "mcp"] = "host"
    host: str = ""
    port: int = 0
    unix_path: str = ""
    authority: str = ""
    path: str = ""
    target: str = ""
    connect_timeout_ns: int = 5_000_000_000
    response_timeout_ns: int = 60_000_000_000
    idle_timeout_ns: int = 55_000_000_000
    lifetime_ns: int = 3_600_000_000_000
    max_connections: int = 1024
    max_idle: int = 512
    max_pending: int = 1024
    pending_timeout_ns: int = 5_000_000_000
    tls: TlsClientPlan | None = None


class StdioPlan(Frozen, frozen=True, omit_defaults=True):
    """A process of an MCP server. `cwd` "" is the gateway's own directory; `clear_env` starts it with only `env`.

    `sharing` "auto" is a process per legacy session and one shared process for stateless requests. `max_processes`
    counts per worker; a process idle for `idle_timeout_ns` is stopped, and killed `stop_grace_ns` after being asked.
    """

    cmd: str
    args: list[str] = []
    env: dict[str, str] = {}
    clear_env: bool = False
    cwd: str = ""
    sharing: Literal["auto", "session", "shared"] = "auto"
    max_processes: int = 64
    idle_timeout_ns: int = 300_000_000_000
    stop_grace_ns: int = 2_000_000_000


class OpenApiPlan(Frozen, frozen=True, omit_defaults=True):
    """An OpenAPI document as JSON text, "" when it is fetched from `url` at run time (again every `refresh_ns`).

    `prefix_path` goes before the path of every operation. `url_cluster` is where `url` is fetched: an index into
    `Plan.clusters`, -1 when `url` is a path of the service itself.
    """

    schema: str = ""
    url: str = ""
    refresh_ns: int = 86_400_000_000_000
    prefix_path: str = ""
    url_cluster: int = -1


class McpTargetPlan(Frozen, frozen=True, omit_defaults=True):
    """One server of an MCP backend. `cluster` is an index into `Plan.clusters`, -1 for stdio.

    `timeout_ns` is the silence allowed before an answer, `method_timeouts` replaces it per method, `deadline_ns`
    bounds this target's part of a fan-out. `forward_headers` are the client headers passed on (lower case).
    """

    name: str
    kind: Literal["http", "sse", "stdio", "openapi"] = "http"
    cluster: int = -1
    headers: HeaderOps | None = None
    forward_headers: list[str] = []
    timeout_ns: int = 60_000_000_000
    method_timeouts: dict[str, int] = {}
    deadline_ns: int = 10_000_000_000
    stdio: StdioPlan | None = None
    openapi: OpenApiPlan | None = None
    auth: BackendAuthPlan | None = None
    era: Literal["auto", "legacy", "modern"] = "auto"


class VirtualToolPlan(Frozen, frozen=True, omit_defaults=True):
    """A tool of a virtual server: `tool` of `target`, shown as `name` ("" = its own); None keeps title, description."""

    target: str
    tool: str
    name: str = ""
    title: str | None = None
    description: str | None = None


class VirtualServerPlan(Frozen, frozen=True, omit_defaults=True):
    """A named view of a backend's tools; its endpoint is the backend's path + "/" + `name`."""

    name: str
    tools: list[VirtualToolPlan] = []


class McpPlan(Frozen, frozen=True, omit_defaults=True):
    """An MCP backend. `name` is the backend label, `place` what sessions and reloads know it by: where it stands in the file.

    Limits of sessions and replay hold per worker.

    `guard` "auto" checks Host and Origin only on listeners bound to loopback. `fail_open` goes on with the targets
    that work. `page_size` 0 lists everything in one page; `catalogue_ttl_ns` is the age of a reused listing.
    """

    name: str
    targets: list[McpTargetPlan]
    place: str = ""
    prefix_mode: Literal["always", "conditional", "never"] = "conditional"
    separator: str = "_"
    stateful: bool = True
    fail_open: bool = False
    guard: Literal["auto", "on", "off"] = "auto"
    allowed_hosts: list[str] = []
    allowed_origins: list[str] = []
    catalogue_ttl_ns: int = 30_000_000_000
    page_size: int = 0
    virtual_servers: list[VirtualServerPlan] = []
    instructions: str = ""
    replay_events: int = 256
    replay_bytes: int = 1024 * 1024
    max_sessions: int = 100_000
    session_ttl_ns: int = 1_800_000_000_000


class ListenerPlan(Frozen, frozen=True, omit_defaults=True):
    """A listener of a bind. `hostname` is "" (any), exact, or `*.suffix`; lower case, without port."""

    name: str
    gateway: str
    hostname: str = ""
    routes: list[int] = []
    tls: TlsServerPlan | None = None


class BindPlan(Frozen, frozen=True, omit_defaults=True):
    """One port. `address` "" means every interface (dual stack where the host has IPv6)."""

    name: str
    port: int
    address: str = ""
    listeners: list[ListenerPlan] = []


class HttpPlan(Frozen, frozen=True, omit_defaults=True):
    """Limits of `frontendPolicies.http`; every one has a bound."""

    max_buffer_bytes: int = 4 * 1024 * 1024
    max_headers: int = 100
    max_head_bytes: int = 32 * 1024
    max_line_bytes: int = 8 * 1024
    max_field_bytes: int = 16 * 1024
    header_timeout_ns: int = 10_000_000_000
    first_byte_timeout_ns: int = 30_000_000_000
    progress_timeout_ns: int = 30_000_000_000
    idle_timeout_ns: int = 75_000_000_000
    stream_idle_timeout_ns: int = 300_000_000_000
    max_connection_ns: int = 0
    max_requests_per_connection: int = 10_000
    max_connections: int = 10_000
    max_connections_per_address: int = 1_000
    lowercase_headers: bool = False
    forwarded: Literal["replace", "append", "off"] = "replace"


class AccessLogPlan(Frozen, frozen=True, omit_defaults=True):
    """`path` "" is standard output; `enabled` false writes nothing.

    `add` are CEL by name of the field, `filter` is CEL that is false for what has no line, `remove` are names of fields.
    """

    enabled: bool = True
    path: str = ""
    filter: str = ""
    add: dict[str, str] = {}
    remove: list[str] = []


class ProcessPlan(Frozen, frozen=True, omit_defaults=True):
    """The `config:` block: read once at start, not by a reload.

    `session_keys` (32 octets as hex, the first seals, all open) are the exception: a reload may change them. The
    supervisor fills in what is not configured, and `instance`: 8 octets as hex, another one for each life of a supervisor.
    `grant_directory` is its choice, too, "" while no policy keeps grants.
    """

    workers: int = 0
    pin_cpus: bool = False
    admin_address: str = "127.0.0.1:15000"
    admin_auth: AdminAuthPlan | None = None
    stats_address: str = "0.0.0.0:15020"
    readiness_address: str = "0.0.0.0:15021"
    drain_ns: int = 30_000_000_000
    heartbeat_timeout_ns: int = 5_000_000_000
    watch_ns: int = 5_000_000_000
    backlog: int = 2048
    log_level: str = "info"
    metrics_prefix: str = "agw"
    dns_refresh_ns: int = 30_000_000_000
    session_keys: list[str] = []
    session_key_file: str = ""
    instance: str = ""
    grant_directory: str = ""


class Plan(Frozen, frozen=True, omit_defaults=True):
    """Everything a worker needs, in one value."""

    binds: list[BindPlan] = []
    routes: list[RoutePlan] = []
    clusters: list[ClusterPlan] = []
    mcp: list[McpPlan] = []
    http: HttpPlan = HttpPlan()
    access_log: AccessLogPlan = AccessLogPlan()
    network_rules: RulesPlan | None = None
    documents: list[DocumentPlan] = []
    rate_store: RateStorePlan = RateStorePlan()
    process: ProcessPlan = ProcessPlan()
    demo: bool = False
