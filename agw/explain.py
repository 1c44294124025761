"""`agw explain`: what would happen to a request, decided by the very tables that serve it."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from agw.runtime.plan import BackendRef, ClusterPlan, HeaderOps, Plan, PolicyPlan, RoutePlan
from agw.runtime.plan_security import RulesPlan
from agw.runtime.snapshot import BindKey

if TYPE_CHECKING:
    from agw.explain_rules import Asked


def policy_lines(policies: PolicyPlan) -> list[str]:
    """One line per policy, in the order they run."""
    lines = []
    if policies.request_timeout_ns:
        lines.append(f"timeout: the whole request within {policies.request_timeout_ns / 1e9:g} s")
    if policies.backend_timeout_ns:
        lines.append(f"timeout: the backend answers within {policies.backend_timeout_ns / 1e9:g} s")
    if policies.sources:
        lines.append(f"sources: {len(policies.sources.allow)} blocks allowed, {len(policies.sources.deny)} denied")
    if policies.authorization:
        lines.append(f"authorization: {rule_count(policies.authorization)}")
    if policies.backend_authorization:
        lines.append(f"authorization of the backend: {rule_count(policies.backend_authorization)}")
    if policies.csrf:
        lines.append(f"csrf: own origin and {len(policies.csrf.additional_origins)} more")
    if policies.mcp_authorization:
        lines.append(f"mcpAuthorization: {rule_count(policies.mcp_authorization)}")
    if policies.cors:
        lines.append(f"cors: origins {', '.join(policies.cors.allow_origins) or 'none'}")
    if policies.request_redirect:
        lines.append(f"requestRedirect: {policies.request_redirect.status}, ends here")
    if policies.direct_response:
        lines.append(f"directResponse: {policies.direct_response.status}, ends here")
    if policies.request_headers:
        lines.append("requestHeaderModifier: " + header_text(policies.request_headers))
    if policies.url_rewrite:
        rewrite = policies.url_rewrite
        path = rewrite.path_full if rewrite.path_full is not None else rewrite.path_prefix
        lines.append(f"urlRewrite: authority {rewrite.authority or rewrite.authority_mode}" + (f", path {path}" if path is not None else ""))
    if policies.response_headers:
        lines.append("responseHeaderModifier: " + header_text(policies.response_headers))
    return lines


def rule_count(plan: RulesPlan) -> str:
    """How many rules of which effect."""
    counts = {effect: sum(rule.effect == effect for rule in plan.rules) for effect in ("allow", "deny", "require")}
    return ", ".join(f"{count} {effect}" for effect, count in counts.items() if count) or "no rule"


def header_text(ops: HeaderOps) -> str:
    """remove/set/add in short."""
    return ", ".join([*(f"remove {n}" for n in ops.remove), *(f"set {n}" for n, _ in ops.set), *(f"add {n}" for n, _ in ops.add)])


def backend_line(ref: BackendRef, cluster: ClusterPlan, total: int) -> str:
    """One backend with its share."""
    where = f"unix:{cluster.unix_path}" if cluster.unix_path else f"{cluster.host}:{cluster.port}"
    share = f", {ref.weight}/{total} of requests" if total != ref.weight else ""
    return f"{cluster.kind} {cluster.name} ({where}{cluster.path}){share}"


def request_head(method: str, authority: str, target: str, headers: list[str]) -> bytes:
    """The request as it would arrive."""
    lines = [f"{method} {target or '/'} HTTP/1.1", f"Host: {authority}", *headers]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


def pick_bind(plan: Plan, port: int | None) -> int | None:
    """Index of the bind a URL's port means; without a port the only bind, or the one on 80."""
    if port is None and len(plan.binds) == 1:
        return 0
    for i, bind in enumerate(plan.binds):
        if bind.port == (port if port is not None else 80):
            return i
    return None


def route_text(plan: Plan, route: RoutePlan) -> list[str]:
    """Everything about a route, line by line."""
    total = sum(ref.weight for ref in route.backends)
    lines = [f"route:    {route.name}" + (f" (rule {route.rule})" if route.rule else "")]
    policies = policy_lines(route.policies)
    lines += [f"policy:   {i + 1}. {line}" for i, line in enumerate(policies)] or ["policy:   none"]
    for ref in route.backends:
        lines.append("backend:  " + backend_line(ref, plan.clusters[ref.cluster], total))
        lines += [f"          {line}" for line in policy_lines(ref.policies or PolicyPlan())]
    if not route.backends:
        lines.append("backend:  none")
    return lines


def explain_as(file: str, method: str, url: str, headers: list[str], claims: str | None, kind: str, name: str, target: str, arguments: str | None) -> int:
    """`explain` with what the rules say to a caller with these claims (name of a file), about a thing of MCP when `kind` is given."""
    from agw.explain_rules import Asked, read_claims

    try:
        asked = Asked(read_claims(claims), kind, name, target, None if arguments is None else arguments.encode())
    except (OSError, ValueError) as error:
        print(f"agw explain: {error}", file=sys.stderr)
        return 2
    return explain(file, method, url, headers, asked)


def explain(file: str, method: str, url: str, headers: list[str], asked: Asked | None = None) -> int:
    """Print the decision; returns 0 when a route matches, 1 when none does or the file has problems."""
    from agw.config import ConfigErrors, load_file
    from agw.runtime.compile import CompileError, compile_plan
    from agw.runtime.snapshot import LabelIndex, Labels

    try:
        loaded = load_file(file, os.environ)
        snapshot = compile_plan(loaded.plan, 1, LabelIndex(Labels()))
        parts = urlsplit(url)
        port = parts.port
    except (ConfigErrors, CompileError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    plan = loaded.plan
    if not parts.hostname:
        print(f"agw explain: {url!r}: give an absolute URL, as in http://host/path", file=sys.stderr)
        return 2
    index = pick_bind(plan, port)
    if index is None:
        print(f"no bind on port {port or 80}; there are: {', '.join(str(b.port) for b in plan.binds)}")
        return 1
    bind_plan = plan.binds[index]
    bind = snapshot.binds[BindKey(bind_plan.address, bind_plan.port)]
    target = parts.path + ("?" + parts.query if parts.query else "")
    try:
        listener, match = bind.router.match_request(request_head(method, parts.netloc, target, headers))
    except ValueError as error:
        print(f"refused with 400: {error}")
        return 1
    print(f"bind:     {bind_plan.address or '*'}:{bind_plan.port}")
    if listener < 0:
        print("listener: none for this host (404)")
        return 1
    listener_plan = bind_plan.listeners[listener]
    print(f"listener: {listener_plan.gateway}/{listener_plan.name}" + (f" ({listener_plan.hostname})" if listener_plan.hostname else ""))
    if match < 0:
        print("route:    none matches (404)")
        return 1
    label = bind.matches[match].route.labels
    for i in listener_plan.routes:
        route = plan.routes[i]
        if (route.name, route.rule) == (label[3], label[4]):
            print("\n".join(route_text(plan, route)))
            if asked is not None:
                from agw.explain_rules import head_of, rule_lines  # loads the rules of the file once more

                head = head_of(request_head(method, parts.netloc, target, headers), label, tls=listener_plan.tls is not None)
                print("\n".join(rule_lines(plan, route.policies, head, asked) or ["rules:    none"]))
            break
    return 0
