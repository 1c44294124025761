"""Backends of the file to clusters of the plan, one cluster for everything that means the same upstream.

Names are what metrics print: `host:port` for a plain host, the MCP target's name for an MCP backend, and the backend's
own name for an entry of `backends`.
"""

from __future__ import annotations

from agw.config import values
from agw.config.check import Context, Names
from agw.config.model import Config, McpBackend, McpEndpoint, NamedBackend, RouteBackend
from agw.config.policies import EMPTY, PolicySet, Targeted, convert, plan_of
from agw.config.problem import Path
from agw.config.values import Endpoint
from agw.runtime.plan import BackendRef, ClusterPlan

MCP_PATH = "/mcp"
_HOST_KEYS = ("host", "mcp", "backend")


class Clusters:
    """All clusters of a plan while it is built."""

    def __init__(
        self,
        context: Context,
        config: Config,
        host_defaults: ClusterPlan,
        mcp_defaults: ClusterPlan,
        targeted: Targeted,
    ) -> None:
        self.context = context
        self.targeted = targeted
        self.plans: list[ClusterPlan] = []
        self._by_identity: dict[tuple[str, str, str, Endpoint], int] = {}
        self._by_host: dict[str, int | None] = {}
        self._defaults = {kind: _limits(plan) for kind, plan in (("host", host_defaults), ("mcp", mcp_defaults))}
        self._named: dict[str, tuple[NamedBackend, Path]] = {}
        self._built: dict[str, tuple[int | None, PolicySet]] = {}
        self._open: set[str] = set()
        names = Names(context, "backend")
        for index, backend in enumerate(config.backends):
            path: Path = ("backends", index)
            if names.claim(backend.name, backend.name, (*path, "name")):
                self._named[backend.name] = (backend, path)
        for name in self._named:
            self._build_named(name)

    @property
    def names(self) -> list[str]:
        """The names of the entries of `backends`."""
        return list(self._named)

    def reference(self, backend: RouteBackend, path: Path) -> BackendRef | None:
        """A route's backend as the plan has it; None after a problem."""
        cluster: int | None
        # The frequent case first: a plain host without policies, seen before.
        if backend.host is not None and backend.mcp is None and backend.backend is None:
            cluster = self._host(backend.host, (*path, "host"))
            policies = EMPTY
        else:
            chosen = self.context.choice(backend, path, _HOST_KEYS)
            if chosen is None:
                return None
            if backend.mcp is not None:
                cluster, policies = self.mcp(backend.mcp, "", (*path, "mcp"))
            else:
                cluster, policies = self._lookup(backend.backend or "", (*path, "backend"))
        if backend.policies is not None:
            policies = {**policies, **convert(self.context, backend.policies, (*path, "policies"))}
        if cluster is None:
            return None
        return BackendRef(cluster, backend.weight, plan_of(policies) if policies else None)

    def mcp(self, backend: McpBackend, name: str, path: Path) -> tuple[int | None, PolicySet]:
        """The cluster of an MCP backend, and the policies of its target."""
        if backend.dns_rebinding_protection:
            self.context.findings.problem(
                (*path, "dnsRebindingProtection"), f"`dnsRebindingProtection` {values.NOT_YET}; remove it"
            )
        targets: Path = (*path, "targets")
        if len(backend.targets) != 1:
            if backend.targets:
                self.context.findings.problem(targets, f"more than one target {values.NOT_YET}; keep one")
            elif self.context.is_complete(targets):
                self.context.findings.problem(targets, "no target; add one")
            return None, EMPTY
        target = backend.targets[0]
        below: Path = (*targets, 0)
        policies = convert(self.context, target.policies, (*below, "policies"))
        if target.mcp is None:
            self.context.choice(target, below, ("mcp",))
            return None, EMPTY
        endpoint, inherited = self._mcp_endpoint(target.mcp, (*below, "mcp"))
        if endpoint is None:
            return None, EMPTY
        cluster = self._add("mcp", name or target.name, target.name, endpoint)
        return cluster, {**inherited, **policies}

    def _mcp_endpoint(self, value: McpEndpoint, path: Path) -> tuple[Endpoint | None, PolicySet]:
        findings = self.context.findings
        inherited = EMPTY
        endpoint: Endpoint | None
        chosen = self.context.choice(value, path, ("host", "backend"))
        if chosen is None:
            return None, EMPTY
        if value.backend is not None:
            if value.port is not None:
                findings.problem((*path, "port"), "the port comes from the backend; remove it here")
            index, inherited = self._lookup(value.backend, (*path, "backend"))
            if index is None:
                return None, EMPTY
            plan = self.plans[index]
            if plan.kind != "host":
                findings.problem(
                    (*path, "backend"), f"{values.quoted(value.backend)} is itself an MCP backend; name a host"
                )
                return None, EMPTY
            endpoint = Endpoint(plan.host, plan.port, plan.unix_path, plan.authority)
        elif value.port is not None and not (value.host or "").startswith("unix:"):
            host = findings.value((*path, "host"), values.host_name, value.host or "", "")
            endpoint = Endpoint(host, value.port, "", values.authority_of(host, value.port)) if host else None
        else:
            if value.port is not None:
                findings.problem((*path, "port"), "a unix socket has no port; remove it")
            endpoint = findings.value((*path, "host"), values.mcp_endpoint, value.host or "", Endpoint())
        if endpoint is None or not (endpoint.host or endpoint.unix_path):
            return None, EMPTY
        if value.path is not None:
            if endpoint.path:
                findings.problem((*path, "path"), "`host` has a path already; keep one of them")
            return endpoint._replace(
                path=findings.value((*path, "path"), values.url_path, value.path, MCP_PATH)
            ), inherited
        return endpoint._replace(path=endpoint.path or MCP_PATH), inherited

    def _lookup(self, name: str, path: Path) -> tuple[int | None, PolicySet]:
        if name not in self._named:
            self.context.unknown(path, "backend", name, self._named)
            return None, EMPTY
        if name in self._open:
            self.context.findings.problem(path, f"the backend {values.quoted(name)} refers to itself; name another")
            return None, EMPTY
        self._build_named(name)  # an entry of `backends` may refer to a later one
        return self._built[name]

    def _build_named(self, name: str) -> None:
        if name in self._built:
            return
        backend, path = self._named[name]
        self._open.add(name)
        cluster: int | None = None
        inner = EMPTY
        chosen = self.context.choice(backend, path, ("host", "mcp"))
        if chosen == "host":
            endpoint = self.context.findings.value(
                (*path, "host"), values.host_endpoint, backend.host or "", Endpoint()
            )
            cluster = self._add("host", name, "", endpoint) if endpoint.authority else None
        elif backend.mcp is not None and chosen:
            cluster, inner = self.mcp(backend.mcp, name, (*path, "mcp"))
        own = convert(self.context, backend.policies, (*path, "policies"))
        self._open.discard(name)
        self._built[name] = (cluster, {**self.targeted.on_backend(name), **own, **inner})

    def _host(self, text: str, path: Path) -> int | None:
        if text in self._by_host and self._by_host[text] is not None:
            return self._by_host[text]
        endpoint = self.context.findings.value(path, values.host_endpoint, text, Endpoint())
        index = None
        if endpoint.authority:
            name = f"unix:{endpoint.unix_path}" if endpoint.unix_path else _host_port(endpoint)
            index = self._add("host", name, "", endpoint)
        self._by_host[text] = index
        return index

    def _add(self, kind: str, name: str, target: str, endpoint: Endpoint) -> int:
        identity = (kind, name, target, endpoint)
        index = self._by_identity.get(identity)
        if index is None:
            index = self._by_identity[identity] = len(self.plans)
            host, port, unix_path, authority, path = endpoint
            self.plans.append(
                ClusterPlan(
                    name=name,
                    kind="mcp" if kind == "mcp" else "host",
                    host=host,
                    port=port,
                    unix_path=unix_path,
                    authority=authority,
                    path=path,
                    target=target,
                    **self._defaults[kind],
                )
            )
        return index


_LIMIT_FIELDS = tuple(name for name in ClusterPlan.__struct_fields__ if name.endswith("_ns") or name.startswith("max_"))


def _limits(plan: ClusterPlan) -> dict[str, int]:
    return {name: getattr(plan, name) for name in _LIMIT_FIELDS}


def _host_port(endpoint: Endpoint) -> str:
    host = f"[{endpoint.host}]" if ":" in endpoint.host else endpoint.host
    return f"{host}:{endpoint.port}"
