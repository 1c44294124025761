"""Plan to Snapshot. Pure: reads no file (but the system's CA certificates), opens nothing, knows no clock.

Rules:
- `compile_steps` is a generator that yields often, so that a worker can spread a 10,000-route compile over many turns of
  its loop; `compile_plan` runs it to its end;
- a cluster whose plan is unchanged is carried over with its connections and addresses;
- what cannot be compiled raises `CompileError` before anything is replaced.
"""

from __future__ import annotations

import ssl
from collections.abc import Generator, Iterable
from typing import Any

import msgspec
import orjson

from agw._fast.policy import Bind, Choice, Cors, HeaderEdits, Http, Match, Route, header_line
from agw._fast.pool import Cluster
from agw._fast.router import Router
from agw._fast.tls import ClientTls, ServerTls
from agw.runtime.credentials import NOWHERE, BackendAuths, places_of
from agw.runtime.endpoint import McpEndpoint
from agw.runtime.gates import Gates, calls, taken_off
from agw.runtime.plan import (
    BackendRef,
    BindPlan,
    ClusterPlan,
    CorsPlan,
    DirectResponsePlan,
    HeaderOps,
    ListenerPlan,
    Plan,
    PolicyPlan,
    RedirectPlan,
    RoutePlan,
)
from agw.runtime.snapshot import BindKey, LabelIndex, Snapshot
from agw.runtime.tls import TlsError, client_context, server_context

STEP = 64
"""Routes compiled between two yields: about a millisecond of work."""

FRAMING = frozenset({"content-length", "transfer-encoding", "connection", "keep-alive", "upgrade", "te", "trailer"})


class CompileError(ValueError):
    """The plan asks for something that cannot be put on the wire."""


class Redirect:
    """`requestRedirect`, ready to make a Location. Called once per redirected request. `scheme`: the listener's."""

    def __init__(self, plan: RedirectPlan, scheme: str = "http") -> None:
        self.status = plan.status
        self._plan = plan
        self._scheme = scheme

    def location(self, host: bytes, path: bytes, query: bytes | None, prefix_len: int) -> bytes:
        """The absolute URL to go to; `prefix_len` octets of `path` were matched by the route's prefix."""
        plan = self._plan
        name, port = split_authority(host.decode("latin-1"))
        scheme = plan.scheme or self._scheme
        if plan.authority_mode == "full":
            name, port = split_authority(plan.authority)
        elif plan.authority_mode == "host":
            name = plan.authority
        elif plan.authority_mode == "port":
            port = plan.authority
        if (scheme, port) in (("http", "80"), ("https", "443")) or (plan.scheme and plan.authority_mode != "port"):
            port = port if plan.authority_mode == "full" else ""
        if plan.path_full is not None:
            target = plan.path_full
        elif plan.path_prefix is not None:
            target = join_prefix(plan.path_prefix, path.decode("latin-1")[prefix_len:])
        else:
            target = path.decode("latin-1")
        if query is not None:
            target += "?" + query.decode("latin-1")
        if not name:
            # HTTP/1.0 without Host: a relative reference says all we know (RFC 9110 section 10.2.2).
            return target.encode("latin-1")
        return f"{scheme}://{name}{':' + port if port else ''}{target}".encode("latin-1")


def split_authority(authority: str) -> tuple[str, str]:
    """(host, port or "") of `host`, `host:port` or `[v6]:port`."""
    cut = authority.rfind(":")
    if cut <= authority.rfind("]"):
        return authority, ""
    return authority[:cut], authority[cut + 1 :]


def join_prefix(prefix: str, rest: str) -> str:
    """The new prefix and what followed the old one, with exactly one slash between them."""
    if not rest or rest == "/":
        return (prefix.rstrip("/") + rest) or "/"
    return prefix.rstrip("/") + "/" + rest.lstrip("/")


def merge_ops(first: HeaderOps | None, second: HeaderOps | None) -> HeaderOps | None:
    """One HeaderOps that does what `first` and then `second` would."""
    if first is None or second is None:
        return first or second
    gone = {n.lower() for n in second.remove} | {n.lower() for n, _ in second.set}
    return HeaderOps(
        remove=[*first.remove, *second.remove, *(n for n, _ in first.set)],
        set=[(n, v) for n, v in first.set if n.lower() not in gone] + second.set,
        add=[(n, v) for n, v in first.add if n.lower() not in gone] + second.add,
    )


def edits(ops: HeaderOps | None) -> HeaderEdits | None:
    """Wire-ready header changes; framing fields may not be touched."""
    if ops is None or not (ops.remove or ops.set or ops.add):
        return None
    for name in [*ops.remove, *(n for n, _ in ops.set), *(n for n, _ in ops.add)]:
        if name.lower() in FRAMING:
            raise CompileError(f"header {name!r} frames the message and cannot be changed")
    return HeaderEdits(ops.remove, ops.set, ops.add)


def cors(plan: CorsPlan | None) -> Cors | None:
    """The compiled CORS policy."""
    if plan is None:
        return None
    return Cors(plan.allow_origins, plan.allow_methods, plan.allow_headers, plan.expose_headers, plan.allow_credentials, plan.max_age_s)


def direct(plan: DirectResponsePlan | None) -> tuple[int, bytes, bytes] | None:
    """(status, body, header lines) of a direct response; a body without a type is plain text."""
    if plan is None:
        return None
    lines = b"".join(header_line(n, v) for n, v in plan.headers)
    if plan.body and not any(n.lower() == "content-type" for n, _ in plan.headers):
        lines = b"Content-Type: text/plain; charset=utf-8\r\n" + lines
    return plan.status, plan.body.encode(), lines


def service_choice(ref: BackendRef, endpoint: McpEndpoint, policies: PolicyPlan) -> Choice:
    """A weighted choice whose requests the backend's service answers."""
    endpoint.credentials |= places_of(taken_off(policies, PolicyPlan())).headers
    choice = Choice(
        None, ref.weight, request_edits=None, response_edits=None, host=None, host_mode=0, host_part=None, path=None, path_prefix=None, redirect=None,
        response_timeout_ns=0, service=endpoint,
    )
    endpoint.choices.append(choice)
    return choice


def choice(ref: BackendRef, cluster_plan: ClusterPlan, cluster: Cluster, policies: PolicyPlan, auths: BackendAuths, scheme: str = "http") -> Choice:
    """One weighted backend of a route, with everything about the rewritten head decided."""
    own = ref.policies or PolicyPlan()
    request_ops = merge_ops(policies.request_headers, own.request_headers)
    shown = places_of(taken_off(policies, own))
    if shown.headers:
        # Before the operator's own changes, which may set such a header for the backend.
        request_ops = merge_ops(HeaderOps(remove=names(shown.headers)), request_ops)
    auth = auths.of(own.backend_auth or policies.backend_auth)
    presented = auth.places if auth is not None else NOWHERE
    if presented.headers:
        # What the backend is presented stands alone, whatever else sets such a header.
        gone = HeaderOps(remove=names(presented.headers))
        request_ops = merge_ops(request_ops, gone)
        if request_ops is not None:
            request_ops = without(request_ops, presented.headers)
    bare = (shown.queries | presented.queries, shown.cookies | presented.cookies)
    host: bytes | None = cluster_plan.authority.encode()
    host_mode, host_part = 0, b""
    rewrite = own.url_rewrite or policies.url_rewrite
    path = path_prefix = None
    if rewrite is not None:
        if rewrite.authority_mode == "full":
            host = rewrite.authority.encode()
        elif rewrite.authority_mode == "none":
            host = None
        elif rewrite.authority_mode in ("host", "port"):
            host_mode, host_part = (1 if rewrite.authority_mode == "host" else 2), rewrite.authority.encode()
        if rewrite.path_full is not None:
            path = rewrite.path_full.encode()
        elif rewrite.path_prefix is not None:
            path_prefix = rewrite.path_prefix.rstrip("/").encode()
    if cluster_plan.unix_path and not cluster_plan.authority and rewrite is None:
        host = None
    if cluster_plan.kind == "mcp" and path is None and path_prefix is None:
        path = cluster_plan.path.encode()
    if request_ops is not None:
        # Setting Host is rewriting the authority; two Host fields would be two opinions.
        for name, value in request_ops.set:
            if name.lower() == "host":
                host, host_mode = value.encode(), 0
        request_ops = HeaderOps(
            remove=[n for n in request_ops.remove if n.lower() != "host"],
            set=[(n, v) for n, v in request_ops.set if n.lower() != "host"],
            add=[(n, v) for n, v in request_ops.add if n.lower() != "host"],
        )
    return Choice(
        cluster,
        ref.weight,
        request_edits=edits(request_ops),
        response_edits=edits(merge_ops(own.response_headers, policies.response_headers)),
        host=host,
        host_mode=host_mode,
        host_part=host_part,
        path=path,
        path_prefix=path_prefix,
        redirect=Redirect(own.request_redirect, scheme) if own.request_redirect else None,
        response_timeout_ns=own.backend_timeout_ns or policies.backend_timeout_ns,
        auth=auth,
        bare=bare if any(bare) else None,
    )


def names(headers: Iterable[bytes]) -> list[str]:
    """Header names as plans have them."""
    return sorted(name.decode("latin-1") for name in headers)


def without(ops: HeaderOps, headers: frozenset[bytes]) -> HeaderOps:
    """The same changes, but nothing set or added of these names."""
    return HeaderOps(
        remove=ops.remove,
        set=[(name, value) for name, value in ops.set if name.lower().encode() not in headers],
        add=[(name, value) for name, value in ops.add if name.lower().encode() not in headers])


def log_fragment(gateway: str, listener: str, rule: str, route: str) -> bytes:
    """The label part of an access-log record, as it stands inside the JSON object."""
    fields = {"gateway": gateway, "listener": listener}
    if rule:
        fields["route_rule"] = rule
    if route:
        fields["route"] = route
    return b"," + orjson.dumps(fields)[1:-1]


def mcp_endpoint(plan: Plan, index: int, clusters: list[Cluster], auths: BackendAuths, labels: LabelIndex) -> McpEndpoint:
    """An MCP backend with its clusters and counter labels."""
    mcp = plan.mcp[index]
    own = [clusters[target.cluster] if target.cluster >= 0 else None for target in mcp.targets]
    schemas = [clusters[target.openapi.url_cluster] if target.openapi is not None and target.openapi.url_cluster >= 0 else None for target in mcp.targets]
    asked = [plan.clusters[call.cluster] for target in mcp.targets for call in calls(target.auth)]
    identity = msgspec.msgpack.encode((mcp, [plan.clusters[target.cluster] if target.cluster >= 0 else None for target in mcp.targets], asked))
    return McpEndpoint(
        mcp, own, labels.backend((mcp.name, "mcp", "")), [labels.backend((mcp.name, "mcp", target.name)) for target in mcp.targets], identity, schemas,
        [auths.of(target.auth) for target in mcp.targets])


def compile_route(
    plan: Plan, route: RoutePlan, clusters: list[Cluster], endpoints: list[McpEndpoint], gates: Gates, auths: BackendAuths, bind: str,
    listener: ListenerPlan, labels: LabelIndex,
) -> Route:
    """One route as attached to one listener."""
    key = (bind, listener.gateway, listener.name, route.name, route.rule)
    policies = route.policies
    scheme = "https" if listener.tls is not None else "http"
    return Route(
        route.name,
        labels.route(key),
        key,
        log_fragment(listener.gateway, listener.name, route.rule, route.name),
        [
            service_choice(ref, endpoints[ref.mcp], policies) if ref.mcp >= 0
            else choice(ref, plan.clusters[ref.cluster], clusters[ref.cluster], policies, auths, scheme)
            for ref in route.backends
        ],
        cors=cors(policies.cors),
        reply_edits=edits(policies.response_headers),
        redirect=Redirect(policies.request_redirect, scheme) if policies.request_redirect else None,
        direct=direct(policies.direct_response),
        request_timeout_ns=policies.request_timeout_ns,
        gate=gates.of(policies, route.backends),
    )


def client_tls(plan: ClusterPlan) -> ClientTls | None:
    """How a cluster speaks TLS. The context is shared by all clusters that differ in nothing but the name."""
    if plan.tls is None:
        return None
    name = plan.tls.server_name or plan.host
    if not name and plan.tls.verify and plan.tls.verify_host:
        raise CompileError(f"backend {plan.name}: TLS over a unix socket needs the server's name")
    try:
        context = client_context(plan.tls)
        # What Python would refuse for every connection is refused here.
        context.wrap_bio(ssl.MemoryBIO(), ssl.MemoryBIO(), server_hostname=name or None)
    except TlsError as error:
        raise CompileError(f"backend {plan.name}: {error}") from None
    except (ValueError, TypeError):
        raise CompileError(f"backend {plan.name}: {name!r} cannot be a server's name") from None
    return ClientTls(context, name, plan.tls.names if plan.tls.verify else ())


def server_tls(plan: BindPlan) -> ServerTls | None:
    """How a bind's connections speak TLS: one context per different `tls` of its listeners, the first for who names none."""
    speaking = [listener for listener in plan.listeners if listener.tls is not None]
    if not speaking:
        return None
    if len(speaking) != len(plan.listeners):
        raise CompileError(f"{plan.name}: listeners with and without TLS cannot share a port")
    contexts: list[ssl.SSLContext] = []
    demands: list[object] = []
    known: dict[bytes, int] = {}
    listeners: list[tuple[str, int]] = []
    for listener in speaking:
        assert listener.tls is not None
        key = msgspec.msgpack.encode(listener.tls)
        if key not in known:
            try:
                contexts.append(server_context(listener.tls))
            except TlsError as error:
                raise CompileError(f"listener {listener.gateway}/{listener.name}: {error}") from None
            known[key] = len(demands)
            demands.append((listener.tls.min_version, listener.tls.max_version, listener.tls.client_ca))
        listeners.append((listener.hostname.lower(), known[key]))
    return ServerTls(contexts, demands, listeners)


def compile_steps(plan: Plan, generation: int, labels: LabelIndex, previous: Snapshot | None) -> Generator[None, None, Snapshot]:
    """Build a snapshot in small steps; the value of the generator is the Snapshot."""
    known = previous.clusters if previous is not None else {}
    by_identity: dict[bytes, Cluster] = {}
    clusters: list[Cluster] = []
    for i, cluster_plan in enumerate(plan.clusters):
        identity = msgspec.msgpack.encode(cluster_plan)
        cluster = by_identity.get(identity) or known.get(identity)
        if cluster is None:
            protocol = "mcp" if cluster_plan.kind == "mcp" else "http"
            cluster = Cluster(cluster_plan, labels.backend((cluster_plan.name, protocol, cluster_plan.target)), client_tls(cluster_plan))
        by_identity[identity] = cluster
        clusters.append(cluster)
        if i % STEP == STEP - 1:
            yield
    auths = BackendAuths(plan.clusters, previous.auths if previous is not None else None)
    endpoints = [mcp_endpoint(plan, index, clusters, auths, labels) for index in range(len(plan.mcp))]
    http = Http(plan.http)
    gates = Gates(plan.clusters, previous.gates if previous is not None else None)
    binds: dict[BindKey, Bind] = {}
    for bind_plan in plan.binds:
        matches: list[Match] = []
        listeners: list[tuple[str, int, dict[str, list[Any]]]] = []
        for number, listener in enumerate(bind_plan.listeners):
            hosts: dict[str, list[Any]] = {}
            for i, index in enumerate(listener.routes):
                route_plan = plan.routes[index]
                route = compile_route(plan, route_plan, clusters, endpoints, gates, auths, bind_plan.name, listener, labels)
                for match in route_plan.matches:
                    prefix_len = len(match.path.rstrip("/").encode()) if match.path_kind == "prefix" else 0
                    row = (
                        match.path_kind,
                        match.path,
                        match.method,
                        [(h.name, h.pattern.kind, h.pattern.value) for h in match.headers],
                        [(q.name, q.pattern.kind, q.pattern.value) for q in match.query],
                        len(matches),
                    )
                    matches.append(Match(route, prefix_len))
                    for hostname in route_plan.hostnames or [""]:
                        hosts.setdefault(hostname.lower(), []).append(row)
                if i % STEP == STEP - 1:
                    yield
            listeners.append((listener.hostname.lower(), number, hosts))
            yield
        key = BindKey(bind_plan.address, bind_plan.port)
        first = bind_plan.listeners[0]
        label = labels.route((bind_plan.name, first.gateway, first.name, "", ""))
        router = yield from Router.build_steps(listeners)
        binds[key] = Bind(str(key), router, matches, http, log_fragment(first.gateway, first.name, "", ""), label, server_tls(bind_plan))
        yield
    return Snapshot(generation, plan, binds, by_identity, endpoints, gates.by_identity, clusters, auths.by_identity)


def compile_plan(plan: Plan, generation: int, labels: LabelIndex, previous: Snapshot | None = None) -> Snapshot:
    """Build a snapshot at once."""
    steps = compile_steps(plan, generation, labels, previous)
    while True:
        try:
            next(steps)
        except StopIteration as done:
            snapshot: Snapshot = done.value
            return snapshot
