"""`backendAuth`: credentials towards backends, as the operator writes them. See `agw.config.model` for the rules all model files keep."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from agw.config.model_external import ServicePolicies
from agw.config.model_location import HeaderLocation, Location, NamedLocation
from agw.config.modelling import Model, about, bounds, ours
from agw.config.outside import FromFile

SigningAlg = Literal["RS256", "RS384", "RS512", "PS256", "ES256", "ES384"]


class KeyAuth(Model, frozen=True):
    """A secret that is sent as it is: `{file}`, or `{value, location}`."""

    file: Annotated[str | None, about("Name of a file that holds the secret.")] = None
    value: Annotated[str | FromFile | None, about("The secret, or `{file}`.")] = None
    location: Annotated[Location | None, about("Where it goes; `Authorization: Bearer` by default.")] = None


class Passthrough(Model, frozen=True):
    """The caller's own token, after a policy of the route has verified it."""

    location: Annotated[Location | None, about("Where it goes; `Authorization: Bearer` by default.")] = None


class ExtraCredential(Model, frozen=True):
    """A further secret."""

    location: Annotated[Location, about("Where it goes.")]
    key: Annotated[str | FromFile, about("The secret, or `{file}`.")]


class JwtSignAuth(Model, frozen=True):
    """A short-lived JWT, signed by agw."""

    signing_key: Annotated[str | FromFile, about("Private key in PEM form, RSA or EC as `alg` says, or `{file}`.")]
    alg: Annotated[SigningAlg, about("Signature algorithm.")] = "RS256"
    kid: Annotated[str | None, about("Key id in the header.")] = None
    claims: Annotated[dict[str, Any], about("Claims of every token, such as iss, sub, aud: any JSON; never iat, exp, nbf.")] = {}
    claim_expressions: Annotated[dict[str, str], ours("Claims that depend on the caller: a CEL expression each.")] = {}
    ttl: Annotated[str | None, about("How long a token is valid; 300s by default.")] = None
    location: Annotated[Location | None, about("Where it goes; `Authorization: Bearer` by default.")] = None


class OAuthClientAuth(Model, frozen=True):
    """Who agw is at a token endpoint."""

    client_id: Annotated[str, about("Client id.")]
    client_secret: Annotated[str | FromFile | None, about("Its secret, or `{file}`.")] = None
    method: Annotated[
        Literal["clientSecretBasic", "clientSecretPost", "privateKeyJwt"], about("How agw proves it; clientSecretBasic by default.")
    ] = "clientSecretBasic"
    signing_key: Annotated[str | FromFile | None, about("privateKeyJwt: private key in PEM form, or `{file}`.")] = None
    alg: Annotated[SigningAlg, about("privateKeyJwt: signature algorithm.")] = "RS256"
    kid: Annotated[str | None, about("privateKeyJwt: key id.")] = None
    assertion_audience: Annotated[str | None, about("privateKeyJwt: audience of the assertion, mostly the URL of the token endpoint.")] = None


class TokenSource(Model, frozen=True):
    """Where a token is read from; exactly one key."""

    header: Annotated[HeaderLocation | None, about("From a header.")] = None
    query_parameter: Annotated[NamedLocation | None, about("From a parameter of the query.")] = None
    cookie: Annotated[NamedLocation | None, about("From a cookie.")] = None
    expression: Annotated[str | None, about("Only `jwt.rawToken.unredacted()`: the token that a policy of the route has verified.")] = None


class SubjectToken(Model, frozen=True):
    """The token that is exchanged."""

    source: Annotated[TokenSource | None, about("Where it is; the caller's bearer token by default.")] = None
    token_type: Annotated[str | None, about("Its type as RFC 8693 names it; an access token by default.")] = None


class ActorToken(Model, frozen=True):
    """The token of who acts for the subject."""

    source: Annotated[TokenSource, about("Where it is.")]
    token_type: Annotated[str | None, about("Its type as RFC 8693 names it; an access token by default.")] = None


class TokenCacheConfig(Model, frozen=True):
    """How tokens are kept."""

    max_entries: Annotated[Annotated[int, bounds(0, 1_000_000)] | None, about("Tokens kept per worker; 8192 by default, 0 keeps none.")] = None
    default_ttl: Annotated[str | None, about("How long a token is kept whose end is not said; 300s by default.")] = None


class OAuthTokenExchangeAuth(Model, frozen=True):
    """A token for the caller, from an authorization server."""

    host: Annotated[str | None, about("The authorization server: name:port, http:// or https:// URL, or unix:/path.")] = None
    service: Annotated[dict[str, Any] | None, about("A service by reference.")] = None
    backend: Annotated[str | None, about("A backend by name.")] = None
    policies: Annotated[ServicePolicies | None, about("Policies for the connection to it.")] = None
    path: Annotated[str, about("Path of its token endpoint.")] = "/"
    grant_type: Annotated[Literal["tokenExchange", "jwtBearer"], about("tokenExchange is RFC 8693, jwtBearer RFC 7523.")] = "tokenExchange"
    subject_token: Annotated[SubjectToken | None, about("The token that is exchanged; the caller's by default.")] = None
    actor_token: Annotated[ActorToken | None, about("Who acts for the subject (tokenExchange only).")] = None
    audiences: Annotated[list[str], about("`audience` parameters.")] = []
    scopes: Annotated[list[str], about("Scopes to ask for.")] = []
    resources: Annotated[list[str], about("`resource` parameters: URIs.")] = []
    requested_token_type: Annotated[str | None, about("`requested_token_type`; not sent when not given.")] = None
    client_auth: Annotated[OAuthClientAuth | None, about("Who agw is at the token endpoint; nobody when not given.")] = None
    additional_params: Annotated[dict[str, str] | None, about("Further parameters: a CEL expression each, text constants with inner quotes.")] = None
    authorization_location: Annotated[Location | None, about("Where the token goes; `Authorization: Bearer` by default.")] = None
    cache: Annotated[TokenCacheConfig | None, about("How tokens are kept.")] = None
    timeout: Annotated[str | None, ours("How long the endpoint may take; 5s by default.")] = None


class CrossAppAccessEndpoint(Model, frozen=True):
    """An authorization server of one of the two steps."""

    client_auth: Annotated[OAuthClientAuth, about("Who agw is at the token endpoint.")]
    host: Annotated[str | None, about("The authorization server: name:port, http:// or https:// URL, or unix:/path.")] = None
    service: Annotated[dict[str, Any] | None, about("A service by reference.")] = None
    backend: Annotated[str | None, about("A backend by name.")] = None
    policies: Annotated[ServicePolicies | None, about("Policies for the connection to it.")] = None
    path: Annotated[str, about("Path of its token endpoint.")] = "/"
    timeout: Annotated[str | None, ours("How long the endpoint may take; 5s by default.")] = None


class CrossAppAccessAuth(Model, frozen=True):
    """A token for the caller by an identity assertion (ID-JAG)."""

    identity_provider: Annotated[CrossAppAccessEndpoint, about("The caller's identity provider, which issues the assertion.")]
    resource_authorization_server: Annotated[CrossAppAccessEndpoint, about("The backend's authorization server, which takes it.")]
    audience: Annotated[str, about("Identifier of the backend's authorization server.")]
    resources: Annotated[list[str], about("`resource` parameters: URIs.")] = []
    scopes: Annotated[list[str], about("Scopes to ask the identity provider for.")] = []
    access_token_scopes: Annotated[list[str] | None, about("Scopes to ask the backend's server for; `scopes` when not given.")] = None
    subject_token: Annotated[SubjectToken | None, about("The caller's token, an ID token by default.")] = None
    location: Annotated[Location | None, ours("Where the token goes; `Authorization: Bearer` by default.")] = None
    cache: Annotated[TokenCacheConfig | None, about("How tokens are kept.")] = None


class OAuthClientCredentialsAuth(Model, frozen=True):
    """A token for agw itself, from an authorization server (RFC 6749, 4.4)."""

    token_url: Annotated[str, ours("URL of the token endpoint.")]
    client_auth: Annotated[OAuthClientAuth, ours("Who agw is there.")]
    policies: Annotated[ServicePolicies | None, ours("Policies for the connection to it.")] = None
    scopes: Annotated[list[str], ours("Scopes to ask for.")] = []
    audience: Annotated[str | None, ours("`audience` parameter, which some servers want.")] = None
    resource: Annotated[str | None, ours("`resource` parameter (RFC 8707): URI of the backend.")] = None
    location: Annotated[Location | None, ours("Where the token goes; `Authorization: Bearer` by default.")] = None
    timeout: Annotated[str | None, ours("How long the endpoint may take; 5s by default.")] = None


class OAuthAuthorizationCodeAuth(Model, frozen=True):
    """A token that the caller himself granted agw at the backend's authorization server (RFC 6749, 4.1)."""

    resource: Annotated[str, ours("Identifier of the backend (RFC 8707), mostly its URL.")]
    redirect_uri: Annotated[str, ours("URL of agw's own page for it, as browsers reach it, such as https://gw.example/.agw/oauth/callback.")]
    issuer: Annotated[str | None, ours("The authorization server; what the backend names (RFC 9728) by default.")] = None
    client_auth: Annotated[OAuthClientAuth | None, ours("Who agw is at `issuer`; it registers itself (RFC 7591) when not given.")] = None
    client_document: Annotated[bool, ours("Whether `redirectUri` serves agw's client metadata document, for servers that fetch it.")] = True
    scopes: Annotated[list[str], ours("Scopes to ask for; those the backend names by default.")] = []
    browser: Annotated[
        Literal["samePrincipal", "anyone"], ours("Who may follow a link: only who asked, by the policies of the page's route, or anyone who has it.")
    ] = "samePrincipal"
    internal_origins: Annotated[list[str], ours("Origins besides those of `resource` and `issuer` that may be http or inside the network.")] = []
    policies: Annotated[ServicePolicies | None, ours("Policies for connections to those origins.")] = None
    location: Annotated[Location | None, ours("Where the token goes; `Authorization: Bearer` by default.")] = None


class AwsAuth(Model, frozen=True):
    """AWS Signature Version 4; without a key the one of the environment: AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN."""

    access_key_id: Annotated[str | None, about("Access key id.")] = None
    secret_access_key: Annotated[str | FromFile | None, about("Its secret, or `{file}`.")] = None
    session_token: Annotated[str | FromFile | None, about("Session token of temporary credentials, or `{file}`.")] = None
    region: Annotated[str | None, about("Region that is signed; AWS_REGION or AWS_DEFAULT_REGION by default.")] = None
    service_name: Annotated[str | None, about("Service that is signed, such as execute-api or bedrock-agentcore.")] = None


class BackendAuth(Model, frozen=True):
    """Credentials a backend gets; one kind, and `credentials` besides or alone."""

    key: Annotated[str | KeyAuth | None, about("A secret that is sent as it is.")] = None
    passthrough: Annotated[Passthrough | None, about("The caller's own verified token.")] = None
    credentials: Annotated[list[ExtraCredential] | None, about("Further secrets.")] = None
    jwt_sign: Annotated[JwtSignAuth | None, about("A JWT signed by agw.")] = None
    oauth_token_exchange: Annotated[OAuthTokenExchangeAuth | None, about("A token for the caller, exchanged for his own.")] = None
    cross_app_access: Annotated[CrossAppAccessAuth | None, about("A token for the caller by an identity assertion (ID-JAG).")] = None
    aws: Annotated[AwsAuth | None, about("A signature for AWS.")] = None
    oauth_client_credentials: Annotated[OAuthClientCredentialsAuth | None, ours("A token for agw itself.")] = None
    oauth_authorization_code: Annotated[OAuthAuthorizationCodeAuth | None, ours("A token the caller granted agw, asked for when it is missing.")] = None
