"""Policies as the operator writes them. See `agw.config.model` for the rules all model files keep."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from agw.config.model_authn import ApiKeys, BasicAuth, JwtAuth, TokenIntrospection
from agw.config.model_credentials import BackendAuth
from agw.config.model_external import ExtAuthz, Oidc
from agw.config.model_limits import LocalRateLimit, RemoteRateLimit
from agw.config.model_mcp_auth import McpAuthentication
from agw.config.model_rules import Csrf, RuleSet, Sources
from agw.config.model_tls import BackendTls
from agw.config.modelling import Model, about, bounds, ours


class HeaderModifier(Model, frozen=True):
    """Static header changes, made in the order remove, set, add."""

    add: Annotated[dict[str, str], about("Headers to append, also when the message has one of that name.")] = {}
    set: Annotated[dict[str, str], about("Headers to write, replacing those of that name.")] = {}
    remove: Annotated[list[str], about("Names of headers to delete.")] = []


class Authority(Model, frozen=True):
    """A new host, port, or both; exactly one key."""

    full: Annotated[str | None, about("Host with optional port.")] = None
    host: Annotated[str | None, about("Only the host; the port stays.")] = None
    port: Annotated[Annotated[int, bounds(1, 65535)] | None, about("Only the port; the host stays.")] = None


class PathChange(Model, frozen=True):
    """A new path; exactly one key."""

    full: Annotated[str | None, about("The whole new path.")] = None
    prefix: Annotated[str | None, about("What replaces the prefix the route matched.")] = None


class UrlRewrite(Model, frozen=True):
    """Changes to the request before it is sent upstream."""

    authority: Annotated[
        Literal["auto", "none"] | Authority | None,
        about("The Host sent upstream: `auto` is the backend's own, `none` is the client's."),
    ] = None
    path: Annotated[PathChange | None, about("The path sent upstream.")] = None


class RequestRedirect(Model, frozen=True):
    """Answer with a redirect; what is not given is taken from the request."""

    scheme: Annotated[Literal["http", "https"] | None, about("Scheme of the new location.")] = None
    authority: Annotated[
        Literal["auto", "none"] | Authority | None, about("Host and port of the new location; `none` keeps them.")
    ] = None
    path: Annotated[PathChange | None, about("Path of the new location.")] = None
    status: Annotated[Annotated[int, bounds(300, 399)] | None, about("Status of the answer; 302 when not given.")] = (
        None
    )


class DirectResponse(Model, frozen=True):
    """Answer from the gateway itself."""

    status: Annotated[int, about("Status of the answer.", ge=200, le=599)]
    body: Annotated[str | list[int], about("Body of the answer: text, or a list of octets that are UTF-8.")] = ""
    headers: Annotated[
        dict[str, str], about("Headers of the answer; values are expressions, only text constants so far: \"'x'\".")
    ] = {}


class Cors(Model, frozen=True):
    """Cross-origin access for browsers; preflights are answered by the gateway."""

    allow_origins: Annotated[list[str], about("Origins: `*`, `https://a.example` or `https://*.example`.")] = []
    allow_methods: Annotated[list[str], about("Methods a preflight may allow, or `*`.")] = []
    allow_headers: Annotated[list[str], about("Request headers a preflight may allow, or `*`.")] = []
    expose_headers: Annotated[list[str], about("Response headers scripts may read.")] = []
    allow_credentials: Annotated[bool, about("Whether cookies and HTTP authentication may be sent.")] = False
    max_age: Annotated[str | None, about("How long a browser may keep a preflight, such as 100s.")] = None


class Timeout(Model, frozen=True):
    """Time limits of one request."""

    request_timeout: Annotated[str | None, about("For the whole exchange, body included; 504 before headers.")] = None
    backend_request_timeout: Annotated[str | None, about("For one upstream attempt.")] = None


class RoutePolicies(Model, frozen=True):
    """Policies of a route, of the `mcp` block, or of an entry of `policies`."""

    request_header_modifier: Annotated[HeaderModifier | None, about("Changes to request headers.")] = None
    response_header_modifier: Annotated[HeaderModifier | None, about("Changes to response headers.")] = None
    request_redirect: Annotated[RequestRedirect | None, about("Answer with a redirect.")] = None
    url_rewrite: Annotated[UrlRewrite | None, about("Change Host or path before the upstream sees them.")] = None
    direct_response: Annotated[DirectResponse | None, about("Answer without an upstream.")] = None
    cors: Annotated[Cors | None, about("Cross-origin access for browsers.")] = None
    timeout: Annotated[Timeout | None, about("Time limits of one request.")] = None
    jwt_auth: Annotated[JwtAuth | None, about("Authentication by JSON Web Tokens.")] = None
    token_introspection: Annotated[TokenIntrospection | None, ours("Authentication by opaque tokens, asking who issued them.")] = None
    basic_auth: Annotated[BasicAuth | None, about("Authentication by name and password.")] = None
    api_key: Annotated[ApiKeys | None, about("Authentication by keys.")] = None
    oidc: Annotated[Oidc | None, about("Browser login at an OpenID provider.")] = None
    ext_authz: Annotated[ExtAuthz | None, about("Another service decides.")] = None
    mcp_authentication: Annotated[McpAuthentication | None, about("Authentication of MCP clients by an OAuth authorization server.")] = None
    authorization: Annotated[RuleSet | None, about("Rules about requests: who may send what.")] = None
    mcp_authorization: Annotated[RuleSet | None, about("Rules about MCP: who may use, and see, which tool, prompt, resource or task.")] = None
    csrf: Annotated[Csrf | None, about("Refuse what other sites make a browser send.")] = None
    sources: Annotated[Sources | None, ours("Which client addresses may come.")] = None
    local_rate_limit: Annotated[list[LocalRateLimit] | None, about("Limits that all workers of this gateway share.")] = None
    remote_rate_limit: Annotated[RemoteRateLimit | None, about("A rate limit service that is asked.")] = None
    backend_tls: Annotated[BackendTls | None, about("TLS towards the backends.")] = msgspec.field(default=None, name="backendTLS")
    backend_auth: Annotated[BackendAuth | None, about("Credentials the backends get.")] = None


class BackendPolicies(Model, frozen=True):
    """Policies that apply only when this backend is chosen."""

    request_header_modifier: Annotated[HeaderModifier | None, about("Changes to request headers.")] = None
    response_header_modifier: Annotated[HeaderModifier | None, about("Changes to response headers.")] = None
    request_redirect: Annotated[RequestRedirect | None, about("Answer with a redirect.")] = None
    authorization: Annotated[RuleSet | None, about("Rules about requests to this backend, behind those of the route.")] = None
    ext_authz: Annotated[ExtAuthz | None, about("Another service decides about requests to this backend, behind that of the route.")] = None
    mcp_authorization: Annotated[RuleSet | None, about("Rules about MCP: who may use, and see, which tool, prompt, resource or task.")] = None
    backend_tls: Annotated[BackendTls | None, about("TLS towards the backend.")] = msgspec.field(default=None, name="backendTLS")
    backend_auth: Annotated[BackendAuth | None, about("Credentials the backend gets.")] = None


class TargetPolicies(Model, frozen=True):
    """Policies for the connection to one MCP target."""

    request_header_modifier: Annotated[HeaderModifier | None, about("Changes to request headers.")] = None
    backend_tls: Annotated[BackendTls | None, about("TLS towards the server.")] = msgspec.field(default=None, name="backendTLS")
    backend_auth: Annotated[BackendAuth | None, about("Credentials the server gets.")] = None


class GatewayPolicies(Model, frozen=True):
    """Policies of a listener in the older `binds` form."""

    cors: Annotated[Cors | None, about("Cross-origin access for browsers.")] = None
    jwt_auth: Annotated[JwtAuth | None, about("Authentication by JSON Web Tokens.")] = None
    token_introspection: Annotated[TokenIntrospection | None, ours("Authentication by opaque tokens, asking who issued them.")] = None
    basic_auth: Annotated[BasicAuth | None, about("Authentication by name and password.")] = None
    api_key: Annotated[ApiKeys | None, about("Authentication by keys.")] = None
    oidc: Annotated[Oidc | None, about("Browser login at an OpenID provider.")] = None
    ext_authz: Annotated[ExtAuthz | None, about("Another service decides.")] = None
    authorization: Annotated[RuleSet | None, about("Rules about requests: who may send what.")] = None
    sources: Annotated[Sources | None, ours("Which client addresses may come.")] = None


class GatewayTarget(Model, frozen=True):
    """The gateway or listener a policy attaches to."""

    gateway_name: Annotated[str, about("Name of the gateway; listeners under `binds` belong to `default`.")]
    gateway_namespace: Annotated[str | None, about("Namespace; compared with a listener that has one.")] = None
    listener_name: Annotated[str | None, about("Only this listener of the gateway.")] = None
    port: Annotated[Annotated[int, bounds(0, 65535)] | None, about("Only the listeners of this port.")] = None


class RouteTarget(Model, frozen=True):
    """The route a policy attaches to."""

    name: Annotated[str, about("Name of the route.")]
    namespace: Annotated[str | None, about("Namespace; compared with a route that has one.")] = None
    rule_name: Annotated[str | None, about("Only this rule of the route.")] = None


class BackendName(Model, frozen=True):
    """A named backend."""

    name: Annotated[str, about("Name of the entry of `backends`.")]
    namespace: Annotated[str | None, about("Namespace; file backends have none.")] = None


class BackendTarget(Model, frozen=True):
    """The backend a policy attaches to."""

    backend: Annotated[BackendName | None, about("An entry of `backends`.")] = None


class PolicyTarget(Model, frozen=True):
    """What a policy attaches to; exactly one key."""

    gateway: Annotated[GatewayTarget | None, about("A gateway or one of its listeners.")] = None
    route: Annotated[RouteTarget | None, about("A route, or one rule of it.")] = None
    backend: Annotated[BackendTarget | None, about("A named backend.")] = None


class PolicyName(Model, frozen=True):
    """Name of an entry of `policies`."""

    name: Annotated[str, about("Name, unique in its namespace.")]
    namespace: Annotated[str | None, about("Namespace of the name.")] = None


class TargetedPolicy(Model, frozen=True):
    """Policies attached from outside to what they apply to."""

    name: Annotated[PolicyName, about("Name of this entry.")]
    target: Annotated[PolicyTarget, about("What the policies attach to.")]
    policy: Annotated[RoutePolicies, about("The policies.")]
    phase: Annotated[
        Literal["route", "gateway"], about("Whether they run after (`route`) or before the choice of a route.")
    ] = "route"
