"""`mcpAuthentication` of the file to the plan, and the well-known paths its routes must match.

Rules kept here:
- what is not given is derived from issuer and provider: the key set, the authorization server's metadata;
- `resourceMetadata` is published as RFC 9728 spells it: names in camelCase become snake_case, values stay;
- a route whose matches hold no well-known path gets those of its resource and of its own paths; one that lists any is left as it
  is written, and no path that another route has is taken from it. The root forms go to the only such route.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import msgspec

from agw.config.authn import provider_plan
from agw.config.model_authn import JwksSource, JwtProvider
from agw.config.model_location import location_plan
from agw.config.model_mcp_auth import McpAuthentication, McpProvider
from agw.config.outside import text_of
from agw.config.problem import Path
from agw.config.values import quoted
from agw.runtime.plan import MatchPlan, RoutePlan
from agw.runtime.plan_security import CallPlan, JwtPlan, LocationPlan, McpAuthPlan
from agw.security.mcp_auth.adapters import ADAPTERS, endpoints
from agw.security.mcp_auth.places import RESOURCE_PREFIX, SERVER_PREFIX, TOKEN

if TYPE_CHECKING:
    from agw.config.check import Context

_SCOPE = re.compile(r"[!#-\[\]-~]{1,256}")
_WORD = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
_CLIENT_NEEDED = ("authentik", "entra")
_WELL_KNOWN = "/.well-known/oauth-"


def mcp_auth_plan(context: Context, value: McpAuthentication, path: Path) -> McpAuthPlan:
    """`mcpAuthentication`; after a problem the plan is not to be used."""
    findings = context.findings
    provider: Any = _provider(context, value.provider, (*path, "provider"))
    adapter = ADAPTERS[provider]
    metadata = {_published(name): item for name, item in value.resource_metadata.items()}
    resource = _resource(context, metadata.get("resource"), (*path, "resourceMetadata"))
    web = urlsplit(value.issuer).scheme in ("http", "https")
    if not web and (provider or value.jwks is None):
        findings.problem((*path, "issuer"), f"{quoted(value.issuer)} is no http(s) URL, so nothing can be derived from it; give `jwks`, and no `provider`")
        adapter = ADAPTERS[""]
    audiences = value.audiences or ([resource] if resource else [])
    derived = value.jwks is None
    keys: str | JwksSource = JwksSource(url=adapter.jwks(value.issuer)) if value.jwks is None else value.jwks
    jwt = None
    if web or not derived:
        # What was derived is found where its origin stands.
        jwt = provider_plan(context, JwtProvider(value.issuer, keys, audiences, value.jwt_validation_options), path)
    location = location_plan(context, value.authorization_location, (*path, "authorizationLocation"), LocationPlan(), read=True)
    client = value.client_id or ""
    secret = "" if value.client_secret is None else text_of(context, value.client_secret, (*path, "clientSecret")) or ""
    if provider in _CLIENT_NEEDED and not client and context.is_complete(path):
        findings.problem(path, f"`{provider}` cannot register clients; register one there and give its `clientId`")
    if secret and TOKEN not in endpoints(provider, client):
        findings.warning((*path, "clientSecret"), "nothing uses it: token requests go through the gateway for `entra` only")
    metadata_url = context.outside.document(context, adapter.metadata(value.issuer), (*path, "issuer")) if web else ""
    return McpAuthPlan(
        jwt=JwtPlan([] if jwt is None else [jwt], value.mode or "strict", location),
        resource=resource,
        resource_metadata=msgspec.json.encode(metadata).decode(),
        authorization_servers=_servers(context, metadata.get("authorization_servers"), value.issuer, (*path, "resourceMetadata")),
        provider=provider,
        metadata_url=metadata_url,
        client_id=client,
        client_secret=secret,
        scopes_required=_scopes(context, value.scopes_required, (*path, "scopesRequired")),
        tool_scopes={name: _scopes(context, scopes, (*path, "toolScopes", name)) for name, scopes in value.tool_scopes.items()},
        proxy=_proxy(context, provider, client, value.issuer, metadata_url, (*path, "issuer")),
    )


def _provider(context: Context, value: McpProvider | None, path: Path) -> str:
    return "" if value is None else context.choice(value, path, value.__struct_fields__) or ""


def _published(name: str) -> str:
    """`scopesSupported` as RFC 9728 spells it."""
    return _WORD.sub("_", name).lower() if _WORD.search(name) else name


def _resource(context: Context, value: Any, path: Path) -> str:
    if value is None:
        context.findings.warning(path, "no `resource`: it is taken from the Host of each request, which a client chooses; write the endpoint's public URL")
        return ""
    parts = urlsplit(value) if isinstance(value, str) else None
    if parts is None or parts.scheme not in ("http", "https") or not parts.hostname or parts.fragment or not value.isascii() or not value.isprintable():
        context.findings.problem((*path, "resource"), "no http(s) URL with a host and without fragment; write the endpoint's public URL")
        return ""
    assert isinstance(value, str)
    return value


def _servers(context: Context, value: Any, issuer: str, path: Path) -> list[str]:
    if value is None:
        return [issuer]
    if not isinstance(value, list) or not value or not all(isinstance(item, str) for item in value):
        context.findings.problem((*path, "authorizationServers"), "no list of URLs; leave it out to name the issuer")
        return [issuer]
    return value


def _scopes(context: Context, scopes: list[str], path: Path) -> list[str]:
    for index, scope in enumerate(scopes):
        if not _SCOPE.fullmatch(scope):
            context.findings.problem((*path, index), f"{quoted(scope)} is no scope; it has visible ASCII characters, no blanks, quotes or backslashes")
    return scopes


def _proxy(context: Context, provider: str, client: str, issuer: str, metadata_url: str, path: Path) -> CallPlan | None:
    """The service behind registrations and token requests that go through the gateway."""
    adapter = ADAPTERS[provider]
    if not metadata_url or not (adapter.relays or (not client and adapter.registration(issuer))):
        return None
    parts = urlsplit(metadata_url)
    return context.outside.call(context, f"{parts.scheme}://{parts.netloc}/", path, "authorization-server")


# ------------------------------------------------------------------------------------------------------ well-known paths


def with_well_known(routes: list[RoutePlan]) -> list[RoutePlan]:
    """The routes, those with `mcpAuthentication` matching their well-known paths as well."""
    guarded = [route for route in routes if _is_endpoint(route)]
    if not guarded:
        return routes
    taken = {match.path for route in routes for match in route.matches if match.path.startswith(_WELL_KNOWN)}
    alone = len({(route.name, route.rule) for route in guarded}) == 1
    return [_with_matches(_with_cors(route), taken, alone) if _is_endpoint(route) else route for route in routes]


def _is_endpoint(route: RoutePlan) -> bool:
    # A page where users grant access has the policies of an endpoint, but is none.
    return route.policies.mcp_auth is not None and route.policies.consent is None


def _with_cors(route: RoutePlan) -> RoutePlan:
    """Well-known answers allow every origin by themselves, unless the route says which."""
    policies = route.policies
    if policies.cors is None or policies.mcp_auth is None:
        return route
    own = msgspec.structs.replace(policies.mcp_auth, cors=False)
    return msgspec.structs.replace(route, policies=msgspec.structs.replace(policies, mcp_auth=own))


def _with_matches(route: RoutePlan, taken: set[str], alone: bool) -> RoutePlan:
    plan = route.policies.mcp_auth
    if plan is None or any(match.path.startswith(_WELL_KNOWN) for match in route.matches):
        return route
    more = [match for match in _wanted(route.matches, plan.resource, alone) if match.path not in taken and not _covered(match.path, route.matches)]
    return msgspec.structs.replace(route, matches=[*route.matches, *more]) if more else route


def _wanted(matches: list[MatchPlan], resource: str, alone: bool) -> Iterable[MatchPlan]:
    paths = {urlsplit(resource).path.rstrip("/"): "exact"} if resource else {}
    for match in matches:
        if match.path_kind != "regex":
            paths[match.path.rstrip("/")] = match.path_kind
    if alone:
        paths.setdefault("", "exact")
    for path, kind in paths.items():
        if not path and not alone:
            continue
        resource_kind: Any = "exact" if not path else kind
        yield MatchPlan(resource_kind, RESOURCE_PREFIX + path)
        # Endpoints of adapters are below the authorization server's document.
        yield MatchPlan("prefix" if path else "exact", SERVER_PREFIX + path)


def _covered(path: str, matches: list[MatchPlan]) -> bool:
    """Does the route match the path anyway?"""
    return any(
        match.path_kind == "prefix" and not (match.method or match.headers or match.query) and (path + "/").startswith(match.path.rstrip("/") + "/")
        for match in matches)
