"""The routes of the pages where users grant access (`backendAuth.oauthAuthorizationCode`).

Rules kept here:
- a page is a route of its own on every listener with a route that uses it: exactly its path, and nothing reaches a backend there;
- who may open it is said by the policies of the route that would serve the path otherwise (an exact match, else the longest
  prefix), else by those of the route that uses it; `browser: anyone` asks for nobody;
- several backends may share a page; who shares one agrees about who may open it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import msgspec

from agw.config.listeners import Listener
from agw.runtime.plan import MatchPlan, McpPlan, PolicyPlan, RoutePlan
from agw.runtime.plan_security import BackendAuthPlan, ConsentPlan, LimitPlan, UserGrant

if TYPE_CHECKING:
    from agw.config.check import Context

PAGE_NAME = "oauth-callback"


def add_pages(context: Context, routes: list[RoutePlan], listeners: list[Listener], mcp: list[McpPlan]) -> None:
    """Append the routes of pages, and attach them to the listeners whose routes need them."""
    for listener in listeners:
        pages: dict[str, tuple[list[UserGrant], RoutePlan]] = {}
        for index in listener.routes:
            for grant in _grants(routes[index], mcp):
                grants, _ = pages.setdefault(grant.redirect_uri, ([], routes[index]))
                if grant not in grants:
                    grants.append(grant)
        for url, (grants, user) in pages.items():
            page = _page(context, listener, url, grants, user, [routes[index] for index in listener.routes])
            if page not in routes:
                routes.append(page)
            listener.routes.insert(0, routes.index(page))


def _grants(route: RoutePlan, mcp: list[McpPlan]) -> Iterator[UserGrant]:
    auths: list[BackendAuthPlan | None] = [route.policies.backend_auth]
    for ref in route.backends:
        auths.append(None if ref.policies is None else ref.policies.backend_auth)
        auths.extend(target.auth for target in (mcp[ref.mcp].targets if ref.mcp >= 0 else ()))
    for auth in auths:
        for credential in auth.credentials if auth is not None else ():
            if isinstance(credential, UserGrant):
                yield credential


def _page(context: Context, listener: Listener, url: str, grants: list[UserGrant], user: RoutePlan, routes: list[RoutePlan]) -> RoutePlan:
    parts = urlsplit(url)
    host = (parts.hostname or "").lower()
    if any(grant.anyone != grants[0].anyone for grant in grants):
        context.findings.problem((), f"backends that share the page {url} differ in `browser`; give them the same, or another redirectUri")
    other = _otherwise(parts.path, host, routes) or user
    policies = _opened(other.policies) if grants[0].anyone else _kept(other.policies)
    if not grants[0].anyone and not _for_browsers(policies) and not (listener.tls is not None and listener.tls.client_ca):
        text = (
            f"nobody can log in at {url} with a browser, so no user can grant access there; make a route for {parts.path} with `oidc` of the "
            "issuer that the callers' tokens have, or write `browser: anyone`"
        )
        context.findings.warning((), text)
    return RoutePlan(PAGE_NAME, "", [host, ""], [MatchPlan("exact", parts.path)], [], msgspec.structs.replace(policies, consent=ConsentPlan(grants)))


def _otherwise(path: str, host: str, routes: list[RoutePlan]) -> RoutePlan | None:
    """The route that would serve the page's path."""
    best: tuple[int, int] = (-1, 0)
    found = None
    for route in routes:
        if route.name == PAGE_NAME or (route.hostnames and not any(_meets(name, host) for name in route.hostnames)):
            continue
        for match in route.matches:
            if match.method not in ("", "GET") or match.headers or match.query:
                continue
            rank = len(path) + 1 if match.path_kind == "exact" and match.path == path else -1
            if match.path_kind == "prefix" and (path + "/").startswith(match.path.rstrip("/") + "/"):
                rank = len(match.path.rstrip("/"))
            if (rank, 1 if route.hostnames else 0) > best and rank >= 0:
                best, found = (rank, 1 if route.hostnames else 0), route
    return found


def _meets(pattern: str, host: str) -> bool:
    return host.endswith(pattern[1:]) if pattern.startswith("*.") else pattern in ("", host)


def _kept(policies: PolicyPlan) -> PolicyPlan:
    """What says who may come in, and how often."""
    return PolicyPlan(
        sources=policies.sources, oidc=policies.oidc, jwt=policies.jwt, mcp_auth=policies.mcp_auth, introspection=policies.introspection,
        basic=policies.basic, api_key=policies.api_key, ext_authz=policies.ext_authz, authorization=policies.authorization, limits=_limits(policies),
        remote_limits=policies.remote_limits)


def _opened(policies: PolicyPlan) -> PolicyPlan:
    return PolicyPlan(sources=policies.sources, limits=_limits(policies))


def _limits(policies: PolicyPlan) -> list[LimitPlan]:
    return [limit for limit in policies.limits if limit.phase == "http"]


def _for_browsers(policies: PolicyPlan) -> bool:
    if policies.oidc is not None or policies.basic is not None or policies.ext_authz:
        return True
    return any(plan is not None and plan.location.kind == "cookie" for plan in (policies.jwt, policies.introspection, policies.api_key))
