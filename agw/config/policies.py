"""Policies of the file to policies of the plan.

A set of policies is a dict from `PolicyPlan` field (and `tls`, which becomes part of the cluster) to value, so that
merging is merging dicts: for every policy the most specific place that has it wins as a whole, and nothing inside one
policy is mixed. From the least specific:

    routes:    policies[] on the gateway, the gateway's own, policies[] on the listener (by name or port), the
               listener's own, policies[] on the route, policies[] on the route's rule, the route's own
    backends:  (backendTLS, and backendAuth of MCP targets: the route,) policies[] on the backend, the named backend's own, the reference's own,
               those of the named backend an MCP target refers to, the MCP target's own

Of two entries of `policies[]` for the same place the later one in the file wins. The two durations of `timeout` are
one policy.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from agw.config import authn, credentials, external, mcp_auth, rules, values
from agw.config.check import Context, Names
from agw.config.limits import local_limits, remote_limits
from agw.config.model import Config, Gateway, GatewayListener
from agw.config.model_policies import (
    Authority,
    BackendPolicies,
    Cors,
    DirectResponse,
    GatewayPolicies,
    GatewayTarget,
    HeaderModifier,
    PathChange,
    RequestRedirect,
    RouteTarget,
    TargetPolicies,
    Timeout,
    UrlRewrite,
)
from agw.config.model_policies import RoutePolicies as RoutePoliciesModel
from agw.config.problem import Path
from agw.config.tls import client_tls
from agw.runtime.plan import CorsPlan, DirectResponsePlan, HeaderOps, PolicyPlan, RedirectPlan, RewritePlan

PolicySet = dict[str, Any]
EMPTY: PolicySet = {}
TLS = "tls"
AUTH = "backend_auth"
NO_POLICIES = PolicyPlan()


def plan_of(policies: PolicySet) -> PolicyPlan:
    """The plan form of a merged set; its TLS is part of the cluster instead."""
    if TLS in policies:
        policies = {name: value for name, value in policies.items() if name != TLS}
    return PolicyPlan(**policies) if policies else NO_POLICIES


def tls_of(policies: PolicySet) -> PolicySet:
    """Only the TLS of a set: what the hosts of a route inherit from it."""
    return {TLS: policies[TLS]} if TLS in policies else EMPTY


def inherited_of(policies: PolicySet) -> PolicySet:
    """TLS and credentials of a set: what the MCP targets of a route inherit from it; a host's credentials stay the route's."""
    return {name: policies[name] for name in (TLS, AUTH) if name in policies} if policies else EMPTY


def convert(
    context: Context,
    policies: RoutePoliciesModel | BackendPolicies | TargetPolicies | GatewayPolicies | Gateway | GatewayListener | None,
    path: Path,
) -> PolicySet:
    """All policies that are set, checked and in plan form. `path` is where `policies` stands.

    Gateways and their listeners have policies among their other keys.
    """
    if policies is None:
        return EMPTY
    out: PolicySet = {}
    for name in policies.__struct_fields__:
        value = getattr(policies, name) if name in _CONVERSIONS else None
        if value is not None:
            key, field, build = _CONVERSIONS[name]
            result = build(context, value, (*path, key))
            if field:
                out[field] = result
            else:
                out.update(result)
    return out


def _header_ops(context: Context, value: HeaderModifier, path: Path) -> HeaderOps:
    def pairs(items: dict[str, str], key: str) -> list[tuple[str, str]]:
        below = (*path, key)
        return [
            (
                context.findings.value((*below, name), values.changed_header, name, name),
                context.findings.value((*below, name), values.header_value, text, ""),
            )
            for name, text in items.items()
        ]

    remove = [
        context.findings.value((*path, "remove", index), values.changed_header, name, name)
        for index, name in enumerate(value.remove)
    ]
    return HeaderOps(remove=remove, set=pairs(value.set, "set"), add=pairs(value.add, "add"))


def _authority(context: Context, value: Authority, path: Path) -> tuple[Any, str]:
    chosen = context.choice(value, path, ("full", "host", "port"))
    if chosen == "port":
        return "port", str(value.port)
    if chosen == "full":
        return "full", context.findings.value((*path, "full"), values.authority, value.full or "", "")
    if chosen == "host":
        return "host", context.findings.value((*path, "host"), values.authority_host, value.host or "", "")
    return "unset", ""


def _path_change(context: Context, value: PathChange | None, path: Path) -> tuple[str | None, str | None]:
    if value is None:
        return None, None
    chosen = context.choice(value, path, ("full", "prefix"))
    if chosen is None:
        return None, None
    text = getattr(value, chosen) or "/"
    parsed = context.findings.value((*path, chosen), values.url_path, text, "/")
    return (parsed, None) if chosen == "full" else (None, parsed)


def _rewrite(context: Context, value: UrlRewrite, path: Path) -> RewritePlan:
    mode: Any = "unset"
    authority = ""
    if isinstance(value.authority, Authority):
        mode, authority = _authority(context, value.authority, (*path, "authority"))
    elif value.authority is not None:
        mode = value.authority
    full, prefix = _path_change(context, value.path, (*path, "path"))
    return RewritePlan(authority_mode=mode, authority=authority, path_full=full, path_prefix=prefix)


def _redirect(context: Context, value: RequestRedirect, path: Path) -> RedirectPlan:
    mode: Any = "unset"
    authority = ""
    if isinstance(value.authority, Authority):
        mode, authority = _authority(context, value.authority, (*path, "authority"))
    elif value.authority == "auto":
        context.findings.problem(
            (*path, "authority"), "a redirect has no backend to take it from; give full, host or port"
        )
    full, prefix = _path_change(context, value.path, (*path, "path"))
    status = 302 if value.status is None else value.status
    if status == 304:
        context.findings.problem((*path, "status"), "304 is no redirect; use 301, 302, 303, 307 or 308")
    return RedirectPlan(
        scheme=value.scheme,
        authority_mode=mode,
        authority=authority,
        path_full=full,
        path_prefix=prefix,
        status=status,
    )


def _direct_response(context: Context, value: DirectResponse, path: Path) -> DirectResponsePlan:
    body = value.body
    if isinstance(body, list):
        try:
            body = bytes(body).decode("utf-8")
        except ValueError:
            context.findings.problem((*path, "body"), f"a body that is not UTF-8 {values.NOT_YET}; write it as text")
            body = ""
    if body and value.status in (204, 205, 304):
        context.findings.problem((*path, "body"), f"a {value.status} answer has no body; remove the body")
    headers = [
        (
            context.findings.value((*path, "headers", name), values.changed_header, name, name),
            context.findings.value((*path, "headers", name), values.cel_constant, text, ""),
        )
        for name, text in value.headers.items()
    ]
    return DirectResponsePlan(status=value.status, body=body, headers=headers)


def _cors(context: Context, value: Cors, path: Path) -> CorsPlan:
    def parsed(items: list[str], key: str, parse: Callable[[str], str]) -> list[str]:
        return [context.findings.value((*path, key, index), parse, text, "") for index, text in enumerate(items)]

    if value.allow_credentials and "*" in value.allow_origins:
        context.findings.warning(
            (*path, "allowCredentials"),
            "with the origin * every site may act with the user's cookies; list the origins",
        )
    max_age = None
    if value.max_age is not None:
        max_age = context.findings.value((*path, "maxAge"), values.duration_ns, value.max_age, 0) // 1_000_000_000
    return CorsPlan(
        allow_origins=parsed(value.allow_origins, "allowOrigins", values.origin),
        allow_methods=parsed(value.allow_methods, "allowMethods", values.token_or_star),
        allow_headers=parsed(value.allow_headers, "allowHeaders", values.token_or_star),
        expose_headers=parsed(value.expose_headers, "exposeHeaders", values.token_or_star),
        allow_credentials=value.allow_credentials,
        max_age_s=max_age,
    )


def _timeout(context: Context, value: Timeout, path: Path) -> PolicySet:
    def parsed(text: str | None, key: str) -> int:
        return 0 if text is None else context.findings.value((*path, key), values.duration_ns, text, 0)

    return {
        "request_timeout_ns": parsed(value.request_timeout, "requestTimeout"),
        "backend_timeout_ns": parsed(value.backend_request_timeout, "backendRequestTimeout"),
    }


# Model attribute -> (key in the file, plan field or "" when the result is a set of fields, conversion).
_CONVERSIONS: dict[str, tuple[str, str, Callable[[Context, Any, Path], Any]]] = {
    "request_header_modifier": ("requestHeaderModifier", "request_headers", _header_ops),
    "response_header_modifier": ("responseHeaderModifier", "response_headers", _header_ops),
    "request_redirect": ("requestRedirect", "request_redirect", _redirect),
    "url_rewrite": ("urlRewrite", "url_rewrite", _rewrite),
    "direct_response": ("directResponse", "direct_response", _direct_response),
    "cors": ("cors", "cors", _cors),
    "timeout": ("timeout", "", _timeout),
    "jwt_auth": ("jwtAuth", "jwt", authn.jwt_plan),
    "token_introspection": ("tokenIntrospection", "introspection", authn.introspection_plan),
    "basic_auth": ("basicAuth", "basic", authn.basic_plan),
    "api_key": ("apiKey", "api_key", authn.api_key_plan),
    "oidc": ("oidc", "oidc", external.oidc),
    "ext_authz": ("extAuthz", "ext_authz", external.ext_authz),
    "mcp_authentication": ("mcpAuthentication", "mcp_auth", mcp_auth.mcp_auth_plan),
    "authorization": ("authorization", "authorization", rules.http_rules),
    "mcp_authorization": ("mcpAuthorization", "mcp_authorization", rules.mcp_rules),
    "csrf": ("csrf", "csrf", rules.csrf_plan),
    "sources": ("sources", "sources", rules.sources_plan),
    "local_rate_limit": ("localRateLimit", "limits", local_limits),
    "remote_rate_limit": ("remoteRateLimit", "remote_limits", remote_limits),
    "backend_tls": ("backendTLS", TLS, client_tls),
    "backend_auth": ("backendAuth", AUTH, credentials.backend_auth),
}
_BACKEND_FIELDS = frozenset(BackendPolicies.__struct_fields__)
_GATEWAY_FIELDS = frozenset(GatewayPolicies.__struct_fields__)


class Targeted:
    """The entries of `policies[]`, by what they attach to."""

    def __init__(self, context: Context, config: Config) -> None:
        self.context = context
        self.gateways: list[tuple[Path, GatewayTarget, PolicySet]] = []
        self.routes: dict[str, list[tuple[Path, RouteTarget, PolicySet]]] = {}
        self.backends: dict[str, list[tuple[Path, PolicySet]]] = {}
        self.used: set[Path] = set()
        names = Names(context, "policy")
        for index, entry in enumerate(config.policies):
            path: Path = ("policies", index)
            names.claim((entry.name.namespace, entry.name.name), entry.name.name, (*path, "name"))
            policies = convert(context, entry.policy, (*path, "policy"))
            if entry.phase == "gateway":
                self._restrict(entry.policy, _GATEWAY_FIELDS, (*path, "policy"), "in the gateway phase")
            target = (*path, "target")
            chosen = context.choice(entry.target, target, ("gateway", "route", "backend"))
            if entry.target.gateway is not None:
                for name, key in ((TLS, "backendTLS"), (AUTH, "backendAuth")):
                    if name in policies and entry.phase != "gateway":
                        context.findings.problem((*path, "policy", key), f"`{key}` on a gateway {values.NOT_YET}; attach it to a route or backend")
                self.gateways.append(((*target, "gateway"), entry.target.gateway, policies))
            elif entry.target.route is not None:
                route = entry.target.route
                self.routes.setdefault(route.name, []).append(((*target, "route"), route, policies))
            elif entry.target.backend is not None and chosen:
                backend = entry.target.backend.backend
                if backend is None:
                    context.choice(entry.target.backend, (*target, "backend"), ("backend",))
                    continue
                self._restrict(entry.policy, _BACKEND_FIELDS, (*path, "policy"), "on a backend")
                self.backends.setdefault(backend.name, []).append(((*target, "backend", "backend", "name"), policies))

    def _restrict(self, policy: RoutePoliciesModel, allowed: frozenset[str], path: Path, where: str) -> None:
        for name in policy.__struct_fields__:
            if name not in allowed and getattr(policy, name) is not None:
                key = _CONVERSIONS[name][0]
                self.context.findings.problem((*path, key), f"`{key}` {where} {values.NOT_YET}; attach it to a route")

    def on_listener(self, gateway: str, listener: str, namespace: str, port: int) -> tuple[PolicySet, PolicySet]:
        """What is attached to the gateway as a whole, and to this listener of it."""
        whole: PolicySet = {}
        own: PolicySet = {}
        for path, target, policies in self.gateways:
            if target.gateway_name != gateway or _differs(target.gateway_namespace, namespace):
                continue
            if (target.listener_name or listener) == listener and (target.port is None or target.port == port):
                self.used.add(path)
                (whole if target.listener_name is None and target.port is None else own).update(policies)
        return whole, own

    def on_route(self, name: str, namespace: str, rule: str) -> PolicySet:
        """What is attached to this route, its rule's own policies over those of all rules."""
        entries = self.routes.get(name)
        if not entries:
            return EMPTY
        whole: PolicySet = {}
        own: PolicySet = {}
        for path, target, policies in entries:
            if not _differs(target.namespace, namespace) and (target.rule_name or rule) == rule:
                self.used.add(path)
                (own if target.rule_name else whole).update(policies)
        return {**whole, **own}

    def on_backend(self, name: str) -> PolicySet:
        """What is attached to this named backend."""
        out: PolicySet = {}
        for path, policies in self.backends.get(name, ()):
            self.used.add(path)
            out.update(policies)
        return out

    def report_unused(self, gateways: list[str], routes: list[str], backends: list[str]) -> None:
        """A policy that attached to nothing is a problem: somebody relies on it."""
        for path, gateway, _ in self.gateways:
            if path in self.used or self.context.is_lost(gateway.listener_name or ""):
                continue
            if gateway.gateway_name in gateways:
                self.context.findings.problem(
                    path,
                    f"the gateway {values.quoted(gateway.gateway_name)} has no such "
                    "listener; mend listenerName, port or gatewayNamespace",
                )
            else:
                self.context.unknown((*path, "gatewayName"), "gateway", gateway.gateway_name, gateways)
        for name, entries in self.routes.items():
            for path, _, _ in entries:
                if path in self.used:
                    continue
                if name in routes:
                    self.context.findings.problem(
                        path,
                        f"the route {values.quoted(name)} has no such rule or namespace; mend ruleName or namespace",
                    )
                else:
                    self.context.unknown((*path, "name"), "route", name, routes)
        for name, targets in self.backends.items():
            for path, _ in targets:
                if path not in self.used:
                    self.context.unknown(path, "backend", name, backends)


def _differs(wanted: str | None, actual: str) -> bool:
    """Whether two namespaces differ; one that is not given, or `default`, compares equal to none."""
    return wanted is not None and bool(actual) and wanted != actual
