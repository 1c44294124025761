"""Who is asked about a request from outside the file, as the operator writes it: `extAuthz`, `oidc`, `config.adminAuth`.

See `agw.config.model` for the rules all model files keep.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec

from agw.config.model_tls import BackendTls
from agw.config.modelling import Model, about, bounds, ours

_EXPRESSION = "a CEL expression, text constants with inner quotes"


class ServicePolicies(Model, frozen=True):
    """Policies for the connection to a service that is asked."""

    backend_tls: Annotated[BackendTls | None, about("TLS towards the service.")] = msgspec.field(default=None, name="backendTLS")


class GrpcProtocol(Model, frozen=True):
    """Envoy's `envoy.service.auth.v3.Authorization`."""

    context: Annotated[dict[str, str] | None, about("Fixed values, sent as context extensions.")] = None
    metadata: Annotated[dict[str, str] | None, about(f"Values by name of the filter metadata: each {_EXPRESSION}.")] = None


class HttpProtocol(Model, frozen=True):
    """A request whose status is the verdict."""

    path: Annotated[str | None, about(f"Path to ask for: {_EXPRESSION}; the request's own when not given.")] = None
    redirect: Annotated[str | None, about(f"Where a browser goes when the service answers 401: {_EXPRESSION}.")] = None
    body: Annotated[str | None, about(f"Body to send: {_EXPRESSION}; instead of the request's.")] = None
    include_response_headers: Annotated[list[str], about("Headers of a permission that replace those of the request.")] = []
    add_request_headers: Annotated[dict[str, str], about(f"Headers to send: each {_EXPRESSION}.")] = {}
    metadata: Annotated[dict[str, str], about("Values of `extauthz` from the answer: each a CEL expression.")] = {}


class AuthzProtocol(Model, frozen=True):
    """How the service is asked; exactly one key."""

    grpc: Annotated[GrpcProtocol | None, about("Over Envoy's gRPC.")] = None
    http: Annotated[HttpProtocol | None, about("Over HTTP.")] = None


class DenyWithStatus(Model, frozen=True):
    """A refusal with a status of one's own."""

    deny_with_status: Annotated[Annotated[int, bounds(0, 65535)], about("Status of the refusal, 400 to 599.")]


class BodyOptions(Model, frozen=True):
    """How much of the body the service sees."""

    max_request_bytes: Annotated[int, about("Octets of the body that are sent; 8192 when 0.", ge=0, le=1 << 20)] = 0
    allow_partial_message: Annotated[bool, about("Whether a longer body is cut; otherwise it is refused with 413.")] = False
    pack_as_bytes: Annotated[bool, about("Whether gRPC carries it as octets instead of text.")] = False


class CacheConfig(Model, frozen=True):
    """How long permissions are used again."""

    key: Annotated[list[str], about("What a permission depends on: CEL expressions; everything the service looks at belongs here.")]
    ttl: Annotated[str, about("How long, like \"'5m'\" or duration(\"5m\"): a CEL expression.")]
    max_entries: Annotated[int, about("Permissions kept per worker.", ge=0, le=1_000_000)] = 10_000


class ExtAuthzService(Model, frozen=True):
    """Another service decides; exactly one of `host`, `service`, `backend`."""

    host: Annotated[str | None, about("The service: name:port, http:// or https:// URL, or unix:/path.")] = None
    service: Annotated[dict[str, Any] | None, about("A service by reference.")] = None
    backend: Annotated[str | None, about("Name of an entry of `backends` with a host.")] = None
    policies: Annotated[ServicePolicies | None, about("Policies for the connection to the service.")] = None
    protocol: Annotated[AuthzProtocol | None, about("How it is asked; `{grpc: {}}` when not given.")] = None
    failure_mode: Annotated[
        Literal["allow", "deny"] | DenyWithStatus, about("What holds when the service gives no verdict: deny (403), allow, or a status.")
    ] = "deny"
    include_request_headers: Annotated[
        list[str] | None, about("Headers the service sees; when not given all over gRPC, `authorization` over HTTP.")
    ] = None
    include_request_body: Annotated[BodyOptions | None, about("Whether and how the service sees the body.")] = None
    cache: Annotated[CacheConfig | None, about("How long permissions are used again; not at all when not given.")] = None
    timeout: Annotated[str | None, ours("How long a verdict is waited for; 1s by default.")] = None


class ExtAuthzEntry(ExtAuthzService, frozen=True):
    """One of several services."""

    condition: Annotated[str | None, about("When this one is asked: an expression; always when not given, for the last.")] = None


class ExtAuthz(ExtAuthzService, frozen=True):
    """Another service decides, or one of several."""

    conditional: Annotated[list[ExtAuthzEntry] | None, about("Several services; the first whose condition is true is asked.")] = None


class DocumentSource(Model, frozen=True):
    """Where a document is; exactly one key."""

    file: Annotated[str | None, about("Name of a file, read when the configuration is.")] = None
    url: Annotated[str | None, about("URL, fetched and followed while running.")] = None


class Oidc(Model, frozen=True):
    """Browser login at an OpenID provider."""

    issuer: Annotated[str, about("The provider; also where it is discovered.")]
    client_id: Annotated[str, about("Who agw is at the provider.")]
    client_secret: Annotated[str, about("Its secret there.")]
    redirect_uri: Annotated[str, about("Absolute URL of the callback, which agw answers itself.")] = msgspec.field(name="redirectURI")
    scopes: Annotated[list[str], about("Scopes to ask for besides `openid`.")] = []
    discovery: Annotated[
        str | DocumentSource | None, about("The provider's document: JSON text, `{file}` or `{url}`; below the issuer when not given.")
    ] = None
    authorization_endpoint: Annotated[str | None, about("Where browsers log in; discovered when not given.")] = None
    token_endpoint: Annotated[str | None, about("Where codes become tokens; discovered when not given.")] = None
    token_endpoint_auth: Annotated[
        Literal["clientSecretBasic", "clientSecretPost"] | None, about("How the secret is sent; what is discovered, else clientSecretBasic.")
    ] = None
    jwks: Annotated[str | DocumentSource | None, about("Keys of the ID tokens: JSON text, `{file}` or `{url}`; discovered when not given.")] = None
    session_ttl: Annotated[str | None, ours("How long a login lasts at most; 1h by default, never longer than the ID token.")] = None
    logout_path: Annotated[str | None, ours("A path that ends the session; none by default.")] = None


class AdminToken(Model, frozen=True):
    """A token of the admin listener."""

    sha256: Annotated[str, ours("SHA-256 of the token, 64 hex digits: printf %s TOKEN | sha256sum.")]
    role: Annotated[Literal["read", "operate"], ours("read: only GET. operate: everything.")] = "read"
    name: Annotated[str | None, ours("What logs call it.")] = None


class AdminAuth(Model, frozen=True):
    """Who may use the admin listener."""

    tokens: Annotated[list[AdminToken], ours("Bearer tokens; browsers send one as the password.")]
