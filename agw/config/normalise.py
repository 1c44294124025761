"""A configuration to its plan: nothing is left to decide afterwards.

What happens where:
- policies are merged by `agw.config.policies`, whose module text gives the order; the merged result of a route may
  differ between listeners, and then the plan has the route once per result;
- a route without name is `route<i>` by its position in its list; the route of the `mcp` block is `mcp`;
- a route without matches matches the prefix `/`; without hostnames, or with `*`, any host;
- backends become clusters and MCP backends by `agw.config.backends`, ports become binds by `agw.config.listeners`;
- the `mcp` block serves exactly `/mcp` and, for clients of 2024-11-05, `/sse`, and `/mcp/<name>` for each of its virtual
  servers;
- routes with `mcpAuthentication` match the well-known paths of their endpoints as well (`agw.config.mcp_auth`);
- pages where users grant access are routes of their own (`agw.config.grant_pages`);
- `urlRewrite.authority` that is not given stays `unset`: the data plane then sends the cluster's authority.

Problems are recorded, never raised; a plan built with problems must not be used.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from agw.config import values
from agw.config.backends import Backends
from agw.config.bystanders import warn_of_strangers
from agw.config.check import Context, MatchKey, Names, Ports, hostnames_meet
from agw.config.clusters import Clusters
from agw.config.grant_pages import add_pages
from agw.config.limits import rate_store
from agw.config.listeners import DEFAULT, Listener, Listeners
from agw.config.mcp_auth import with_well_known
from agw.config.mcp_backends import MCP_PATH, SSE_PATH
from agw.config.model import BindRoute, Config, NamedMatch, PathMatch, RouteMatch, ValueMatch
from agw.config.model_mcp import SimpleMcp
from agw.config.outside import Outside
from agw.config.policies import NO_POLICIES, PolicySet, Targeted, convert, inherited_of, plan_of
from agw.config.problem import Path
from agw.config.process import access_log_plan, cluster_defaults, http_plan, process_plan
from agw.config.rules import network_rules
from agw.runtime.plan import BackendRef, MatchPlan, NamedPattern, Pattern, Plan, RoutePlan
from agw.runtime.plan_security import RulesPlan

_ROOT_KEY: MatchKey = ("prefix", "/", "", (), ())
_PathKind = Literal["exact", "prefix", "regex"]
_OF_BACKENDS = {
    "mcp_authorization": ("mcpAuthorization", "mcp_authorization"), "authorization": ("authorization", "backend_authorization"),
    "ext_authz": ("extAuthz", "backend_ext_authz"),
}  # fmt: skip
"""Field of a backend's policies -> its key, and the field of the route's policies that it becomes."""
_PSEUDO_HEADERS = frozenset((":authority", ":method"))


def build_plan(context: Context, config: Config) -> Plan:
    """The plan of a configuration. Look at `context.findings.problems` before using it."""
    return _PlanBuilder(context, config).build()


class _PlanBuilder:
    def __init__(self, context: Context, config: Config) -> None:
        self.context = context
        self.config = config
        clusters = Clusters(*cluster_defaults(context, config))
        context.outside = Outside(clusters, config)
        self.ports = Ports(context)
        self.targeted = Targeted(context, config)
        self.listeners = Listeners(context, config, self.targeted, self.ports)
        self.backends = Backends(context, config, clusters, self.targeted)
        self.routes: list[RoutePlan] = []
        self.route_names: list[str] = []
        self._hostnames: dict[str, str] = {}

    def build(self) -> Plan:
        config = self.config
        names = Names(self.context, "route")
        for index, route in enumerate(config.routes):
            path: Path = ("routes", index)
            self._route(route, index, path, self.listeners.resolve(route.gateways, path), names)
        for listener, item in self.listeners.bind_listeners:
            names = Names(self.context, "route")
            for index, bind_route in enumerate(item.routes or ()):
                self._route(bind_route, index, (*listener.path, "routes", index), [listener], names)
        if config.mcp is not None:
            self._mcp(config.mcp)
        add_pages(self.context, self.routes, [listener for port in self.listeners.ports for listener in port.listeners], self.backends.mcp)
        self.targeted.report_unused(self.listeners.gateway_labels, self.route_names, self.backends.names)
        process = process_plan(self.context, config)
        for address, key in (
            (process.admin_address, "adminAddr"),
            (process.stats_address, "statsAddr"),
            (process.readiness_address, "readinessAddr"),
        ):
            self.ports.claim_service(address, f"`config.{key}` ({address})", ("config", key))
        if not self.listeners.ports:
            self.context.findings.warning((), "nothing is served; add a gateway with a port, and routes or mcp")
        return Plan(
            binds=[port.plan() for port in self.listeners.ports],
            routes=with_well_known(self.routes),
            clusters=self.backends.clusters,
            mcp=self.backends.mcp,
            http=http_plan(self.context, config),
            access_log=access_log_plan(self.context, config),
            network_rules=network_rules(self.context, config),
            documents=list(self.context.outside.documents.values()),
            rate_store=rate_store(self.context, config.rate_limit, ("rateLimit",)),
            process=process,
        )

    def _route(self, route: BindRoute, index: int, path: Path, listeners: list[Listener], names: Names) -> None:
        name = route.name or f"route{index}"
        rule = route.rule_name or ""
        namespace = route.namespace or ""
        if route.name is not None:
            names.claim((namespace, name, rule), name, (*path, "name"))
        self.route_names.append(name)
        hostnames = self._route_hostnames(route.hostnames, path) if route.hostnames else []
        matches, keys = self._matches(route.matches, (*path, "matches"))
        own = self.targeted.on_route(name, namespace, rule)
        if route.policies is not None:
            own = {**own, **convert(self.context, route.policies, (*path, "policies"))}
        inherited = inherited_of(own)
        backends: list[BackendRef] = []
        for position, backend in enumerate(route.backends):
            reference = self.backends.reference(backend, name, inherited, (*path, "backends", position))
            if reference is not None:
                backends.append(reference)
                if reference.mcp >= 0:
                    self._warn_of_hidden_servers(reference, matches, path)
        own = self._of_backends(own, backends, path)
        self._refuse_what_nobody_asks(own, backends, path)
        plan = RoutePlan(name, rule, hostnames, matches, backends)
        self._attach(plan, keys, own, listeners, path, bool(route.backends))

    def _of_backends(self, own: PolicySet, backends: list[BackendRef], path: Path) -> PolicySet:
        """What backends say of who may enter is decided where the route is; so the backends of a route must agree.

        Rules for messages become the route's, rules for requests and services that are asked stand behind the route's own.
        """
        for field, (key, becomes) in _OF_BACKENDS.items():
            found = [getattr(item.policies, field) if item.policies is not None else None for item in backends]
            if not any(found):
                continue
            if any(_without_places(item) != _without_places(found[0]) for item in found):
                text = f"the backends of this route have different {key}; attach one to the route, or make a route for each"
                self.context.findings.problem((*path, "backends"), text)
            own = {**own, becomes: next(item for item in found if item)}
            for index, item in enumerate(backends):
                if item.policies is not None:
                    policies = msgspec.structs.replace(item.policies, **{field: [] if field == "ext_authz" else None})
                    backends[index] = msgspec.structs.replace(item, policies=None if policies == NO_POLICIES else policies)
        return own

    def _refuse_what_nobody_asks(self, own: PolicySet, backends: list[BackendRef], path: Path) -> None:
        """Policies about messages of MCP on a way where nobody reads messages: rules that look as if they held are worse than none."""
        if all(item.mcp >= 0 for item in backends):
            return
        scopes = own.get("mcp_auth")
        found = {
            "mcpAuthorization": bool(own.get("mcp_authorization")),
            "mcpAuthentication.toolScopes": scopes is not None and bool(scopes.tool_scopes),
            "localRateLimit with phase mcp": any(limit.phase == "mcp" for limit in own.get("limits") or []),
        }
        for name in [name for name, there in found.items() if there]:
            text = f"{name} of this route is about messages of MCP, and not all of its backends are `mcp`: what goes to the others would not be asked about"
            self.context.findings.problem((*path, "backends"), f"{text}; write the backend as `mcp: {{targets: ...}}`, or remove the policy")

    def _warn_of_hidden_servers(self, reference: BackendRef, matches: list[MatchPlan], path: Path) -> None:
        """Virtual servers have paths below the route's; a route of exact paths may not match them."""
        if any(match.path_kind != "exact" for match in matches):
            return
        for server in self.backends.mcp[reference.mcp].virtual_servers:
            if not any(match.path.endswith(f"/{server.name}") for match in matches):
                text = f"no match has a path that ends in /{server.name}, where that virtual server is; add one, or match a pathPrefix"
                self.context.findings.warning((*path, "matches"), text)

    def _attach(
        self, route: RoutePlan, keys: list[MatchKey], own: PolicySet, listeners: list[Listener], path: Path, sends: bool
    ) -> None:
        """Put the route on its listeners, once per distinct result of merging the policies."""
        variants: list[tuple[PolicySet, int]] = []
        reached = False
        hidden: dict[int, Path] | None = None
        for listener in listeners:
            hostnames = route.hostnames
            if hostnames and listener.hostname:
                hostnames = [name for name in hostnames if hostnames_meet(listener.hostname, name)]
                if not hostnames:
                    continue
            reached = True
            taken = listener.reach.note(hostnames, keys, path)
            hidden = taken if hidden is None else {index: hidden[index] for index in hidden if index in taken}
            merged = {**listener.inherited, **own} if listener.inherited else own
            number = next((number for before, number in variants if before == merged), None)
            if number is None:
                number = len(self.routes)
                variants.append((merged, number))
                warn_of_strangers(self.context, merged, path)
                self.routes.append(
                    RoutePlan(route.name, route.rule, route.hostnames, route.matches, route.backends, plan_of(merged))
                )
            listener.routes.append(number)
        findings = self.context.findings
        for index, first in (hidden or {}).items():
            where = (*path, "matches", index)
            findings.warning(where, f"the same match as {self.context.shown(first)}; this one is never reached")
        if listeners and not reached:
            findings.warning((*path, "hostnames"), "no listener has these host names; the route is never reached")
        if all("direct_response" in merged or "request_redirect" in merged for merged, _ in variants):
            return
        if not sends:
            findings.warning(path, "no backends and no answer of its own; every request to this route fails")
        elif not any(backend.weight for backend in route.backends):
            findings.warning((*path, "backends"), "all weights are 0; every request to this route fails")

    def _route_hostnames(self, hostnames: list[str], path: Path) -> list[str]:
        out: list[str] = []
        for index, text in enumerate(hostnames):
            name = self._hostnames.get(text)
            if name is None:
                below = (*path, "hostnames", index)
                if not text:
                    self.context.findings.problem(below, "the host name is empty; remove it, or use *")
                name = self.context.findings.value(below, values.hostname_pattern, text, "")
                self._hostnames[text] = name
            out.append(name)
        return [] if "" in out else out

    def _matches(self, matches: list[RouteMatch] | None, path: Path) -> tuple[list[MatchPlan], list[MatchKey]]:
        if not matches:
            return [MatchPlan()], [_ROOT_KEY]
        plans: list[MatchPlan] = []
        keys: list[MatchKey] = []
        for index, match in enumerate(matches):
            below = (*path, index)
            kind: _PathKind = "prefix"
            text, method = "/", ""
            headers: list[NamedPattern] = []
            query: list[NamedPattern] = []
            if match.path is not None:
                kind, text = self._path(match.path, (*below, "path"))
            if match.method is not None:
                method = self.context.findings.value((*below, "method"), values.method, match.method, "")
            if match.headers:
                headers = self._conditions(match.headers, (*below, "headers"), header=True)
            if match.query:
                query = self._conditions(match.query, (*below, "query"), header=False)
            plans.append(MatchPlan(kind, text, method, headers, query))
            keys.append((kind, text, method, _condition_key(headers), _condition_key(query)))
        return plans, keys

    def _path(self, match: PathMatch, path: Path) -> tuple[_PathKind, str]:
        findings = self.context.findings
        chosen = self.context.choice(match, path, ("exact", "path_prefix", "regex"))
        if chosen == "path_prefix":
            return "prefix", findings.value((*path, "pathPrefix"), values.match_path, match.path_prefix or "", "/")
        if chosen == "exact":
            return "exact", findings.value((*path, "exact"), values.match_path, match.exact or "", "/")
        if chosen == "regex":
            return "regex", findings.value((*path, "regex"), values.regex, match.regex or "", "/")
        return "prefix", "/"

    def _conditions(self, items: list[NamedMatch], path: Path, header: bool) -> list[NamedPattern]:
        out: list[NamedPattern] = []
        for index, item in enumerate(items):
            below = (*path, index)
            name = item.name
            if header:
                if name.startswith(":"):
                    if name not in _PSEUDO_HEADERS:
                        self.context.findings.problem(
                            (*below, "name"),
                            f"the pseudo header {values.quoted(name)} {values.NOT_YET}; "
                            "use :authority, :method, or `path`",
                        )
                else:
                    name = self.context.findings.value((*below, "name"), values.header_name, name, "invalid")
            elif not name:
                self.context.findings.problem((*below, "name"), "the parameter name is empty; give one")
            out.append(NamedPattern(name, self._pattern(item.value, (*below, "value"), header)))
        return out

    def _pattern(self, value: ValueMatch, path: Path, header: bool) -> Pattern:
        chosen = self.context.choice(value, path, ("exact", "regex"))
        if chosen == "regex":
            return Pattern("regex", self.context.findings.value((*path, "regex"), values.regex, value.regex or "", ""))
        text = value.exact or ""
        if header and text:
            text = self.context.findings.value((*path, "exact"), values.header_value, text, "")
        return Pattern("exact", text)

    def _mcp(self, block: SimpleMcp) -> None:
        path: Path = ("mcp",)
        findings = self.context.findings
        if block.port is not None:
            listeners = self.listeners.mcp_port
            if block.gateways:
                findings.problem((*path, "port"), "`port` and `gateways` exclude each other; remove `port`")
        elif block.gateways or DEFAULT in self.listeners.gateways:
            listeners = self.listeners.resolve(block.gateways, path)
        else:
            listeners = []
            if self.context.is_complete(path) and not self.context.is_lost(DEFAULT):
                findings.problem(path, "no gateway to serve it on; add `gateways: {default: {port: 3000}}` to the file")
        own = self.targeted.on_route("mcp", "", "")
        own = {**own, **convert(self.context, block.policies, (*path, "policies"))} if block.policies else own
        self.route_names.append("mcp")
        reference = self.backends.mcp_block(block, inherited_of(own), path)
        paths = [MCP_PATH, *([SSE_PATH] if block.stateful_mode == "stateful" else []), *(f"{MCP_PATH}/{server.name}" for server in block.virtual_servers)]
        references = [] if reference is None else [reference]
        own = self._of_backends(own, references, path)
        plan = RoutePlan("mcp", "", [], [MatchPlan("exact", text) for text in paths], references)
        self._attach(plan, [("exact", text, "", (), ()) for text in paths], own, listeners, path, True)


def _condition_key(items: list[NamedPattern]) -> tuple[object, ...]:
    if not items:
        return ()
    return tuple(sorted((item.name, item.pattern.kind, item.pattern.value) for item in items))


def _without_places(policy: object) -> object:
    """A policy as it is compared: wherever in the file it stands."""
    if isinstance(policy, RulesPlan):
        return [(rule.effect, rule.expression) for rule in policy.rules]
    return policy or None
