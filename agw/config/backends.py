"""What routes send to: hosts, MCP servers, and entries of `backends`, as references of the plan.

Names are what metrics print: `host:port` for a plain host, the MCP target's name for an MCP backend with one target, the
route's name for one with several, and the backend's own name for an entry of `backends`.
"""

from __future__ import annotations

import msgspec

from agw.config import values
from agw.config.check import Context, Names
from agw.config.clusters import Clusters
from agw.config.mcp_backends import HostBackend, McpBackends
from agw.config.model import Config, NamedBackend, RouteBackend
from agw.config.model_mcp import McpBackend
from agw.config.policies import EMPTY, TLS, PolicySet, Targeted, convert, plan_of, tls_of
from agw.config.problem import Path
from agw.config.tls import secured
from agw.config.values import Endpoint
from agw.runtime.plan import BackendRef, ClusterPlan, McpPlan

_HOST_KEYS = ("host", "mcp", "backend")


class Backends:
    """All backends of a configuration; `clusters` and `mcp` of the plan come from here."""

    def __init__(
        self,
        context: Context,
        config: Config,
        clusters: Clusters,
        targeted: Targeted,
    ) -> None:
        self.context = context
        self.targeted = targeted
        self._clusters = clusters
        self._by_host: dict[str, int | None] = {}
        self._named: dict[str, tuple[NamedBackend, Path]] = {}
        self._policies: dict[str, PolicySet] = {}
        self._hosts: dict[str, HostBackend | None] = {}
        self._servers: dict[str, BackendRef | None] = {}
        self._mcp = McpBackends(context, config, self._clusters, self._target_backend)
        names = Names(context, "backend")
        for index, backend in enumerate(config.backends):
            path: Path = ("backends", index)
            if names.claim(backend.name, backend.name, (*path, "name")):
                self._named[backend.name] = (backend, path)
        for name in self._named:
            self._build(name)

    @property
    def clusters(self) -> list[ClusterPlan]:
        """The clusters of the plan so far."""
        return self._clusters.plans

    @property
    def mcp(self) -> list[McpPlan]:
        """The MCP backends of the plan so far."""
        return self._mcp.plans

    @property
    def names(self) -> list[str]:
        """The names of the entries of `backends`."""
        return list(self._named)

    def reference(self, backend: RouteBackend, label: str, inherited: PolicySet, path: Path) -> BackendRef | None:
        """A route's backend as the plan has it; None after a problem.

        `label` names an MCP backend that has no name of its own; `inherited` is what the route says about its backends.
        """
        # The frequent case first: a plain host without policies, seen before.
        if backend.host is not None and backend.mcp is None and backend.backend is None and backend.policies is None and not inherited:
            cluster = self._host(backend.host, (*path, "host"))
            return None if cluster is None else BackendRef(cluster, backend.weight)
        own = convert(self.context, backend.policies, (*path, "policies"))
        chosen = self.context.choice(backend, path, _HOST_KEYS)
        if chosen is None:
            return None
        if backend.mcp is not None:
            return self._mcp.reference(backend.mcp, "", label, {**inherited, **own}, backend.weight, (*path, "mcp"))
        if backend.host is not None:
            policies = {**tls_of(inherited), **own}
            cluster = self._secured_host(backend.host, policies, (*path, "host"))
            return None if cluster is None else self._plain(cluster, backend.weight, policies)
        name = backend.backend or ""
        below: Path = (*path, "backend")
        if name not in self._named:
            self.context.unknown(below, "backend", name, self._named)
            return None
        named, place = self._named[name]
        self._build(name)
        policies = {**inherited, **self._policies[name], **own}
        if name in self._servers and not inherited and not own:
            reference = self._servers[name]
            return None if reference is None else msgspec.structs.replace(reference, weight=backend.weight)
        if named.mcp is not None:
            return self._mcp.reference(named.mcp, name, name, policies, backend.weight, (*place, "mcp"))
        host = self._hosts[name]
        if host is None:
            return None
        policies = {**tls_of(inherited), **self._policies[name], **own}
        endpoint, tls = secured(self.context, host.endpoint, named.host or "", policies.get(TLS), (*place, "host"))
        return self._plain(self._clusters.add("host", name, "", endpoint, tls), backend.weight, policies)

    def mcp_block(self, backend: McpBackend, policies: PolicySet, path: Path) -> BackendRef | None:
        """The backend of the `mcp` block; None after a problem."""
        return self._mcp.reference(backend, "", "mcp", policies, 1, path)

    def _plain(self, cluster: int, weight: int, policies: PolicySet) -> BackendRef:
        plan = plan_of(policies)
        return BackendRef(cluster, weight, plan if plan != plan_of(EMPTY) else None)

    def _build(self, name: str) -> None:
        """Make an entry of `backends`: all of it is checked and has its clusters, referred to or not."""
        if name in self._policies:
            return
        backend, path = self._named[name]
        own = convert(self.context, backend.policies, (*path, "policies"))
        policies = self._policies[name] = {**self.targeted.on_backend(name), **own}
        self._hosts[name] = None
        chosen = self.context.choice(backend, path, ("host", "mcp"))
        if chosen == "host":
            endpoint = self.context.findings.value((*path, "host"), values.host_endpoint, backend.host or "", Endpoint())
            if endpoint.authority:
                endpoint, tls = secured(self.context, endpoint, backend.host or "", policies.get(TLS), (*path, "host"))
                self._clusters.add("host", name, "", endpoint, tls)
                self._hosts[name] = HostBackend(endpoint, policies)
        elif backend.mcp is not None and chosen:
            self._servers[name] = self._mcp.reference(backend.mcp, name, name, policies, 1, (*path, "mcp"))

    def _target_backend(self, name: str, owner: str, path: Path) -> HostBackend | None:
        """The entry of `backends` an MCP target refers to; `owner` is the entry the target stands in, "" for none."""
        if name not in self._named:
            self.context.unknown(path, "backend", name, self._named)
            return None
        if name == owner:
            self.context.findings.problem(path, f"the backend {values.quoted(name)} refers to itself; name another")
            return None
        if self._named[name][0].mcp is not None:
            self.context.findings.problem(path, f"{values.quoted(name)} is itself an MCP backend; name a host")
            return None
        self._build(name)  # an entry of `backends` may refer to a later one
        return self._hosts[name]

    def _host(self, text: str, path: Path) -> int | None:
        if text in self._by_host and self._by_host[text] is not None:
            return self._by_host[text]
        index = self._by_host[text] = self._secured_host(text, EMPTY, path)
        return index

    def _secured_host(self, text: str, policies: PolicySet, path: Path) -> int | None:
        endpoint = self.context.findings.value(path, values.host_endpoint, text, Endpoint())
        if not endpoint.authority:
            return None
        endpoint, tls = secured(self.context, endpoint, text, policies.get(TLS), path)
        name = f"unix:{endpoint.unix_path}" if endpoint.unix_path else _host_port(endpoint)
        return self._clusters.add("host", name, "", endpoint, tls)


def _host_port(endpoint: Endpoint) -> str:
    host = f"[{endpoint.host}]" if ":" in endpoint.host else endpoint.host
    return f"{host}:{endpoint.port}"
