"""The part of the plan that says who may do what, how much of it, and with whose credentials.

The rules of `agw.runtime.plan` hold here. Besides:
- secrets stand in the plan as they are (it never leaves the gateway's processes); `agw.config.redact` keeps them out of output;
- files are read when the plan is built; documents behind a URL are named here and fetched by the helper process
  (`DocumentPlan`), calls at request time go through a cluster of the plan (`CallPlan`);
- expressions are CEL text that has been compiled once, so they are known to be valid; `where` is where they stand in the file.
"""

from __future__ import annotations

from typing import Literal

import msgspec

Mode = Literal["strict", "optional", "permissive"]
"""strict: no credential, no entry. optional: none is fine, a bad one is refused. permissive: a bad one counts as none."""


class Frozen(msgspec.Struct, frozen=True, omit_defaults=True):
    """Base of all plan structs: immutable, and defaults are not sent over the wire."""


class LocationPlan(Frozen, frozen=True, omit_defaults=True):
    """Where a credential stands: a header after `prefix` ("Bearer ", compared without case), a query parameter or a cookie.

    Of `kind` expression, `name` is CEL that makes it of the `headers` it looks at (lower case); only for what is read.
    """

    kind: Literal["header", "query", "cookie", "expression"] = "header"
    name: str = "authorization"
    prefix: str = "Bearer "
    headers: list[str] = []


class DocumentPlan(Frozen, frozen=True, omit_defaults=True):
    """A JSON document that is fetched from a URL and kept: a JWKS, a discovery document. `url` is its name everywhere.

    Refreshed when `ttl_ns` is over (or what Cache-Control says, never sooner than 60 s); `internal` allows addresses that are not
    public, because the operator wrote the URL; `ca` is PEM text, "" the system's.
    """

    url: str
    ttl_ns: int = 900_000_000_000
    max_bytes: int = 1_048_576
    internal: bool = True
    ca: str = ""
    insecure: bool = False


class CallPlan(Frozen, frozen=True, omit_defaults=True):
    """An HTTP endpoint that is called at request time: an index into `Plan.clusters`, and the path with its query."""

    cluster: int
    path: str = "/"
    timeout_ns: int = 5_000_000_000


class JwtProviderPlan(Frozen, frozen=True, omit_defaults=True):
    """One issuer. Keys are `jwks` (JSON text) or the document `jwks_url`. `algorithms` empty: what each key is made for.

    `audiences` empty: not checked. `required_claims` must be present.
    """

    issuer: str
    audiences: list[str] = []
    jwks: str = ""
    jwks_url: str = ""
    algorithms: list[str] = []
    required_claims: list[str] = msgspec.field(default_factory=lambda: ["exp"])
    leeway_s: int = 60


class JwtPlan(Frozen, frozen=True, omit_defaults=True):
    """`jwtAuth`."""

    providers: list[JwtProviderPlan]
    mode: Mode = "strict"
    location: LocationPlan = LocationPlan()


class ApiKeyEntry(Frozen, frozen=True, omit_defaults=True):
    """A key by its SHA-256 (64 hex digits), and its metadata as JSON text (an object)."""

    sha256: str
    metadata: str = "{}"


class ApiKeyPlan(Frozen, frozen=True, omit_defaults=True):
    """`apiKey`."""

    keys: list[ApiKeyEntry]
    mode: Mode = "strict"
    location: LocationPlan = LocationPlan()


class BasicPlan(Frozen, frozen=True, omit_defaults=True):
    """`basicAuth`: (name, hash as in a htpasswd file: bcrypt, apr1 or {SHA})."""

    users: list[tuple[str, str]]
    realm: str = "Restricted"
    mode: Mode = "strict"
    location: LocationPlan = LocationPlan(prefix="Basic ")


class IntrospectionPlan(Frozen, frozen=True, omit_defaults=True):
    """Opaque tokens by RFC 7662. An answer is kept for `ttl_ns`, never beyond the token's own end."""

    call: CallPlan
    client_id: str = ""
    client_secret: str = ""
    issuer: str = ""
    audiences: list[str] = []
    ttl_ns: int = 60_000_000_000
    max_entries: int = 10_000
    mode: Mode = "strict"
    location: LocationPlan = LocationPlan()


class RulePlan(Frozen, frozen=True, omit_defaults=True):
    """One rule of a set."""

    expression: str
    effect: Literal["allow", "deny", "require"] = "allow"
    where: str = ""


class RulesPlan(Frozen, frozen=True, omit_defaults=True):
    """A rule set. `phase` decides which variables there are: of the connection, of the request head, or of a message."""

    phase: Literal["network", "http", "mcp"]
    rules: list[RulePlan]


class CsrfPlan(Frozen, frozen=True, omit_defaults=True):
    """`csrf`: origins besides the request's own that may send unsafe methods."""

    additional_origins: list[str] = []


class SourcesPlan(Frozen, frozen=True, omit_defaults=True):
    """Client addresses: CIDR blocks. A denied one is refused; with `allow`, so is every other."""

    allow: list[str] = []
    deny: list[str] = []


class LimitPlan(Frozen, frozen=True, omit_defaults=True):
    """A limit shared by all workers.

    `kind` rate: GCRA, a unit per `interval_ns`, `burst` at once. `kind` concurrency: `burst` at the same time.
    `kind` quota: `burst` per `window` (UTC), kept over restarts. `key` is CEL ("" is one bucket for everybody), `cost` is CEL
    for an unsigned number ("" is 1). `phase` http is before the body, mcp is when the message is known.
    """

    name: str
    kind: Literal["rate", "concurrency", "quota"] = "rate"
    burst: int = 1
    interval_ns: int = 0
    window: Literal["", "hour", "day", "month"] = ""
    key: str = ""
    cost: str = ""
    phase: Literal["http", "mcp"] = "http"
    where: str = ""


class DescriptorEntry(Frozen, frozen=True, omit_defaults=True):
    """One entry of a descriptor; the value is CEL."""

    key: str
    value: str


class DescriptorPlan(Frozen, frozen=True, omit_defaults=True):
    """One descriptor of `remoteRateLimit`; `cost` and `limit_override` are CEL, "" when absent."""

    entries: list[DescriptorEntry]
    cost: str = ""
    limit_override: str = ""


class RemoteLimitPlan(Frozen, frozen=True, omit_defaults=True):
    """`remoteRateLimit`: Envoy's RLS v3 over gRPC at `host:port`. Of several the first whose `condition` (CEL) is true is asked."""

    domain: str
    descriptors: list[DescriptorPlan]
    host: str
    port: int
    tls: bool = False
    fail_open: bool = False
    timeout_ns: int = 1_000_000_000
    condition: str = ""


class RateStorePlan(Frozen, frozen=True, omit_defaults=True):
    """`rateLimit.store`: where many machines share their limits. `down` is what holds while the store is unreachable."""

    kind: Literal["memory", "redis"] = "memory"
    url: str = ""
    prefix: str = "agw:"
    lease: int = 0
    down: Literal["local", "open", "closed"] = "local"
    max_keys: int = 1_000_000
    quota_file: str = ""


class ExtAuthzPlan(Frozen, frozen=True, omit_defaults=True):
    """`extAuthz`: another service decides, over HTTP (`call`) or Envoy's gRPC (`host`, `port`). Values with `cel` are CEL."""

    protocol: Literal["http", "grpc"] = "grpc"
    call: CallPlan | None = None
    host: str = ""
    port: int = 0
    tls: bool = False
    on_failure: int = 403
    """0 lets pass; else the status of the refusal."""
    include_headers: list[str] = []
    body_bytes: int = 0
    allow_partial: bool = False
    pack_as_bytes: bool = False
    context: dict[str, str] = {}
    metadata_cel: dict[str, str] = {}
    path_cel: str = ""
    redirect_cel: str = ""
    body_cel: str = ""
    add_headers_cel: dict[str, str] = {}
    response_headers: list[str] = []
    cache_key_cel: list[str] = []
    cache_ttl_cel: str = ""
    cache_entries: int = 10_000
    timeout_ns: int = 1_000_000_000
    condition: str = ""
    """Of several the first whose condition is true is asked; "" is true."""


class OidcPlan(Frozen, frozen=True, omit_defaults=True):
    """`oidc`: browser login by authorization code and PKCE. Endpoints left empty come from the document `discovery_url`.

    `token_call` is the token endpoint when it is given; one that was discovered, and the keys, are asked for over
    `discovery_call`, so they are of its origin. `token_auth` "" is what the document offers, else basic. `cookie_keys` are
    32 octets as hex, the first seals, all open; the supervisor fills in what is not configured.
    """

    issuer: str
    client_id: str
    client_secret: str
    redirect_uri: str
    scopes: list[str] = msgspec.field(default_factory=lambda: ["openid"])
    discovery_url: str = ""
    authorization_endpoint: str = ""
    token_endpoint: str = ""
    token_call: CallPlan | None = None
    token_auth: Literal["", "basic", "post"] = ""
    discovery_call: CallPlan | None = None
    logout_path: str = ""
    jwks: str = ""
    jwks_url: str = ""
    cookie_keys: list[str] = []
    session_ns: int = 3_600_000_000_000


class AdminTokenPlan(Frozen, frozen=True, omit_defaults=True):
    """Who may use the admin listener: a token by its SHA-256 (64 hex digits), and what it may do."""

    sha256: str
    role: Literal["read", "operate"] = "read"
    name: str = ""


class AdminAuthPlan(Frozen, frozen=True, omit_defaults=True):
    """`config.adminAuth`."""

    tokens: list[AdminTokenPlan]


class McpAuthPlan(Frozen, frozen=True, omit_defaults=True):
    """`mcpAuthentication`: an MCP endpoint as OAuth resource server.

    `resource_metadata` is JSON text, what RFC 9728 publishes; `scopes_required` are the scopes every call needs, `tool_scopes`
    those of single tools (names as the client sees them). `metadata_url` is the authorization server's document, `proxy` its
    service for what goes through the gateway. `cors` False: the route has a CORS policy of its own.
    """

    jwt: JwtPlan
    resource: str
    resource_metadata: str
    authorization_servers: list[str] = []
    provider: Literal["", "auth0", "keycloak", "okta", "descope", "authentik", "entra"] = ""
    metadata_url: str = ""
    client_id: str = ""
    client_secret: str = ""
    scopes_required: list[str] = []
    tool_scopes: dict[str, list[str]] = {}
    proxy: CallPlan | None = None
    cors: bool = True


class KeyCredential(Frozen, frozen=True, omit_defaults=True, tag="key"):
    """A secret that never changes, sent at `location`."""

    value: str
    location: LocationPlan = LocationPlan()


class PassthroughCredential(Frozen, frozen=True, omit_defaults=True, tag="passthrough"):
    """The caller's own verified credential."""

    location: LocationPlan = LocationPlan()


class ClientAuthPlan(Frozen, frozen=True, omit_defaults=True):
    """How agw presents itself to a token endpoint. `key` is PEM text of a private key (privateKeyJwt).

    `audience` is that of the assertion, "" the URL of the token endpoint. `post` without secret is a public client.
    """

    method: Literal["none", "basic", "post", "privateKeyJwt"] = "basic"
    client_id: str = ""
    client_secret: str = ""
    key: str = ""
    alg: str = "RS256"
    kid: str = ""
    audience: str = ""


class ClientCredentials(Frozen, frozen=True, omit_defaults=True, tag="clientCredentials"):
    """OAuth 2 client credentials (RFC 6749 section 4.4)."""

    call: CallPlan
    token_url: str
    client: ClientAuthPlan
    scopes: list[str] = []
    audience: str = ""
    resource: str = ""
    location: LocationPlan = LocationPlan()


class TokenExchange(Frozen, frozen=True, omit_defaults=True, tag="tokenExchange"):
    """`oauthTokenExchange`: RFC 8693, or RFC 7523 with `grant` jwtBearer. The subject token is the caller's unless `subject` says.

    The caller's is what a policy of the route has verified, else the bearer token of the request: who issues the new one judges it.
    """

    call: CallPlan
    token_url: str
    client: ClientAuthPlan
    grant: Literal["tokenExchange", "jwtBearer"] = "tokenExchange"
    subject: LocationPlan | None = None
    subject_type: str = "urn:ietf:params:oauth:token-type:access_token"
    requested_type: str = ""
    actor: LocationPlan | None = None
    actor_type: str = "urn:ietf:params:oauth:token-type:access_token"
    audiences: list[str] = []
    scopes: list[str] = []
    resources: list[str] = []
    additional_params_cel: dict[str, str] = {}
    ttl_ns: int = 300_000_000_000
    max_entries: int = 8192
    location: LocationPlan = LocationPlan()


class CrossAppAccess(Frozen, frozen=True, omit_defaults=True, tag="crossAppAccess"):
    """ID-JAG: an assertion from the identity provider (`exchange`), then a token from the target's server (`grant`)."""

    exchange: TokenExchange
    grant: ClientCredentials
    max_entries: int = 8192


class JwtSign(Frozen, frozen=True, omit_defaults=True, tag="jwtSign"):
    """A JWT of our own per request. `claims` are CEL by claim name."""

    key: str
    alg: str = "RS256"
    kid: str = ""
    claims: dict[str, str] = {}
    ttl_s: int = 300
    location: LocationPlan = LocationPlan()


class AwsSign(Frozen, frozen=True, omit_defaults=True, tag="aws"):
    """AWS Signature Version 4."""

    access_key: str
    secret_key: str
    session_token: str = ""
    region: str = ""
    service: str = ""


class UserGrant(Frozen, frozen=True, omit_defaults=True, tag="userGrant"):
    """Tokens a user granted the gateway at the upstream's authorization server (authorization code and PKCE), kept per user.

    `resource` is the upstream's identifier, `redirect_uri` the gateway's page, `issuer` "" what the resource names. `client` is who
    agw is at `issuer`, None registers (RFC 7591); `document`: the page is a client metadata document, too. `trusted` are origins
    the operator wrote, for which `ca` and `insecure` hold. `anyone`: whoever opens the link may grant, else only the same principal.
    """

    resource: str
    redirect_uri: str
    issuer: str = ""
    client: ClientAuthPlan | None = None
    document: bool = True
    scopes: list[str] = []
    trusted: list[str] = []
    ca: str = ""
    insecure: bool = False
    anyone: bool = False
    location: LocationPlan = LocationPlan()


class ConsentPlan(Frozen, frozen=True, omit_defaults=True):
    """A page of the gateway where users grant access: all grants whose `redirect_uri` leads there."""

    grants: list[UserGrant]


Credential = UserGrant | KeyCredential | PassthroughCredential | ClientCredentials | TokenExchange | CrossAppAccess | JwtSign | AwsSign


class BackendAuthPlan(Frozen, frozen=True, omit_defaults=True):
    """`backendAuth`: the credentials a backend or target gets."""

    credentials: list[Credential]
