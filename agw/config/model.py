"""The configuration file as the operator writes it.

Rules of all model files:
- key names and shapes are agentgateway's; keys that only agw has are marked `x-agw-extension` in the schema;
- only what is implemented is a field; what agentgateway has beyond that is listed in `agw.config.known`;
- fields hold what was written: durations, hosts and patterns are parsed by `agw.config.values` when the plan is built;
- every field carries its description, which is what editors show.
"""

from __future__ import annotations

from typing import Annotated, Literal

from agw.config.model_authn import ApiKeys, BasicAuth, JwtAuth, TokenIntrospection
from agw.config.model_external import ExtAuthz, Oidc
from agw.config.model_limits import RateLimitStore
from agw.config.model_mcp import McpBackend, SimpleMcp
from agw.config.model_policies import BackendPolicies, Cors, GatewayPolicies, RoutePolicies, TargetedPolicy
from agw.config.model_process import FrontendPolicies, ProcessConfig
from agw.config.model_rules import RuleSet, Sources
from agw.config.model_tls import ServerTls
from agw.config.modelling import Model, about, bounds, ours


class ValueMatch(Model, frozen=True):
    """A condition on one value; exactly one key."""

    exact: Annotated[str | None, about("The whole value.")] = None
    regex: Annotated[str | None, about("A regular expression that matches the whole value.")] = None


class NamedMatch(Model, frozen=True):
    """A header or query parameter and its condition."""

    name: Annotated[str, about("Name of the header (or :authority, :method) or query parameter.")]
    value: Annotated[ValueMatch, about("Condition on its value.")]


class PathMatch(Model, frozen=True):
    """A condition on the path; exactly one key."""

    exact: Annotated[str | None, about("The whole path.")] = None
    path_prefix: Annotated[str | None, about("Leading segments of the path.")] = None
    regex: Annotated[str | None, about("A regular expression that matches the whole path.")] = None


class RouteMatch(Model, frozen=True):
    """One way to match a request; all given conditions must hold."""

    path: Annotated[PathMatch | None, about("Condition on the path; prefix / when not given.")] = None
    method: Annotated[str | None, about("The request method.")] = None
    headers: Annotated[list[NamedMatch], about("Conditions on headers.")] = []
    query: Annotated[list[NamedMatch], about("Conditions on query parameters.")] = []


class RouteBackend(Model, frozen=True):
    """A weighted choice of a route: one of `host`, `mcp`, `backend`."""

    weight: Annotated[int, about("Share of requests relative to the other backends.", ge=0, le=1_000_000)] = 1
    policies: Annotated[BackendPolicies | None, about("Policies for this choice only.")] = None
    host: Annotated[str | None, about("name:port, http:// or https:// URL, or unix:/path.")] = None
    mcp: Annotated[McpBackend | None, about("MCP servers.")] = None
    backend: Annotated[str | None, about("Name of an entry of `backends`.")] = None


class NamedBackend(Model, frozen=True):
    """A backend that routes refer to by name: one of `host`, `mcp`."""

    name: Annotated[str, about("Name of the backend.")]
    policies: Annotated[BackendPolicies | None, about("Policies wherever this backend is used.")] = None
    host: Annotated[str | None, about("name:port, http:// or https:// URL, or unix:/path.")] = None
    mcp: Annotated[McpBackend | None, about("MCP servers.")] = None


class BindRoute(Model, frozen=True):
    """A route of a listener in the older `binds` form."""

    name: Annotated[str | None, about("Name, in metrics and logs; route0, route1, ... when not given.")] = None
    namespace: Annotated[str | None, about("Namespace of the name.")] = None
    rule_name: Annotated[str | None, about("Name of this rule of the route.")] = None
    hostnames: Annotated[list[str], about("Host names: exact or *.suffix; any when empty.")] = []
    matches: Annotated[list[RouteMatch] | None, about("Ways to match; prefix / when not given.")] = None
    policies: Annotated[RoutePolicies | None, about("Policies of this route.")] = None
    backends: Annotated[list[RouteBackend], about("Where requests go, by weight.")] = []


class Route(BindRoute, frozen=True):
    """A route of one or more gateways."""

    gateways: Annotated[
        str | list[str], about("`gateway` or `gateway/listener`, one or several; the gateway `default` when not given.")
    ] = []


class GatewayListener(Model, frozen=True):
    """A listener of a gateway: one host name of its port."""

    name: Annotated[str | None, about("Name, for references and metrics.")] = None
    hostname: Annotated[str | None, about("Host name: exact or *.suffix; any when not given.")] = None
    protocol: Annotated[Literal["HTTP", "HTTPS"] | None, about("Protocol of the listener; HTTPS when there is `tls`.")] = None
    tls: Annotated[ServerTls | None, about("Certificate of the listener.")] = None
    cors: Annotated[Cors | None, about("Cross-origin access for browsers, for all routes of the listener.")] = None
    jwt_auth: Annotated[JwtAuth | None, about("Authentication by JSON Web Tokens, for all routes of the listener.")] = None
    token_introspection: Annotated[TokenIntrospection | None, ours("Authentication by opaque tokens, asking who issued them.")] = None
    basic_auth: Annotated[BasicAuth | None, about("Authentication by name and password, for all routes of the listener.")] = None
    api_key: Annotated[ApiKeys | None, about("Authentication by keys, for all routes of the listener.")] = None
    oidc: Annotated[Oidc | None, about("Browser login at an OpenID provider, for all routes of the listener.")] = None
    ext_authz: Annotated[ExtAuthz | None, about("Another service decides, for all routes of the listener.")] = None
    authorization: Annotated[RuleSet | None, about("Rules about requests, for all routes of the listener without their own.")] = None
    sources: Annotated[Sources | None, ours("Which client addresses may come, for all routes of the listener.")] = None


class Gateway(Model, frozen=True):
    """One port and what is served on it."""

    port: Annotated[Annotated[int, bounds(0, 65535)] | None, about("TCP port; 0 lets the system choose.")] = None
    address: Annotated[str, ours("IP address to listen on; all interfaces when empty.")] = ""
    protocol: Annotated[Literal["HTTP", "HTTPS"] | None, about("Protocol of the port; HTTPS when there is `tls`.")] = None
    tls: Annotated[ServerTls | None, about("Certificate of the port, for listeners without their own.")] = None
    listeners: Annotated[list[GatewayListener], about("Host names of the port; one for any name when empty.")] = []
    cors: Annotated[Cors | None, about("Cross-origin access for browsers, for all routes of the gateway.")] = None
    jwt_auth: Annotated[JwtAuth | None, about("Authentication by JSON Web Tokens, for all routes of the gateway.")] = None
    token_introspection: Annotated[TokenIntrospection | None, ours("Authentication by opaque tokens, asking who issued them.")] = None
    basic_auth: Annotated[BasicAuth | None, about("Authentication by name and password, for all routes of the gateway.")] = None
    api_key: Annotated[ApiKeys | None, about("Authentication by keys, for all routes of the gateway.")] = None
    oidc: Annotated[Oidc | None, about("Browser login at an OpenID provider, for all routes of the gateway.")] = None
    ext_authz: Annotated[ExtAuthz | None, about("Another service decides, for all routes of the gateway.")] = None
    authorization: Annotated[RuleSet | None, about("Rules about requests, for all routes of the gateway without their own.")] = None
    sources: Annotated[Sources | None, ours("Which client addresses may come, for all routes of the gateway.")] = None


class BindListener(Model, frozen=True):
    """A listener in the older `binds` form."""

    name: Annotated[str | None, about("Name, in metrics and for policies.")] = None
    namespace: Annotated[str | None, about("Namespace of the name.")] = None
    hostname: Annotated[str | None, about("Host name: exact or *.suffix; any when not given.")] = None
    protocol: Annotated[Literal["HTTP", "HTTPS"], about("Protocol of the listener.")] = "HTTP"
    tls: Annotated[ServerTls | None, about("Certificate of the listener; needs protocol HTTPS.")] = None
    routes: Annotated[list[BindRoute] | None, about("Routes of the listener.")] = None
    policies: Annotated[GatewayPolicies | None, about("Policies of the listener.")] = None


class Bind(Model, frozen=True):
    """One port in the older form, with listeners and routes nested."""

    port: Annotated[int, about("TCP port; 0 lets the system choose.", ge=0, le=65535)]
    listeners: Annotated[list[BindListener], about("Listeners of the port.")]
    address: Annotated[str, ours("IP address to listen on; all interfaces when empty.")] = ""
    tunnel_protocol: Annotated[Literal["direct"], about("How connections arrive.")] = "direct"
    mode: Annotated[Literal["standard"], about("Whether a socket is opened.")] = "standard"


class Config(Model, frozen=True):
    """A whole configuration file."""

    config: Annotated[ProcessConfig | None, about("Settings of the process, read once at start.")] = None
    gateways: Annotated[dict[str, Gateway], about("Ports by name.")] = {}
    routes: Annotated[list[Route], about("Routes, attached to gateways by name.")] = []
    backends: Annotated[list[NamedBackend], about("Backends that routes refer to by name.")] = []
    policies: Annotated[list[TargetedPolicy], about("Policies attached from outside.")] = []
    frontend_policies: Annotated[FrontendPolicies | None, about("Policies of all client connections.")] = None
    rate_limit: Annotated[RateLimitStore | None, ours("Where limits are kept.")] = None
    mcp: Annotated[SimpleMcp | None, about("MCP servers at /mcp, without writing a route.")] = None
    binds: Annotated[list[Bind], about("The older form: ports with listeners and routes nested.")] = []
