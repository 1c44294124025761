"""Authentication as the operator writes it. See `agw.config.model` for the rules all model files keep."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec

from agw.config.model_location import Location
from agw.config.model_tls import BackendTls
from agw.config.modelling import Model, about, ours
from agw.config.outside import FromFile

Mode = Literal["strict", "optional", "permissive"]
Algorithm = Literal[
    "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512",
    "EdDSA", "Ed25519", "Ed448", "HS256", "HS384", "HS512",
]  # fmt: skip
_MODE = "strict: a good credential is needed, the default. optional: none is fine. permissive: a bad one counts as none."


class JwksSource(Model, frozen=True):
    """Where a key set is; exactly one key."""

    file: Annotated[str | None, about("Name of a file with the key set, read when the configuration is.")] = None
    url: Annotated[str | None, about("URL of the key set, fetched and followed while running.")] = None


class JwtValidationOptions(Model, frozen=True):
    """What a token has to say."""

    required_claims: Annotated[list[str], about("Claims that must be there; `exp` by default.")] = msgspec.field(default_factory=lambda: ["exp"])


class JwtProvider(Model, frozen=True):
    """One issuer of tokens."""

    issuer: Annotated[str, about("The `iss` of its tokens, exactly.")]
    jwks: Annotated[str | JwksSource, about("Its key set: JSON text, `{file}` or `{url}`.")]
    audiences: Annotated[list[str] | None, about("One of these has to be in `aud`; not checked when empty.")] = None
    jwt_validation_options: Annotated[JwtValidationOptions | None, about("What a token has to say.")] = None
    algorithms: Annotated[list[Algorithm], ours("Algorithms that are accepted; those each key is made for when empty.")] = []
    leeway: Annotated[str | None, ours("How far clocks may differ; 60s by default.")] = None


class JwtAuth(Model, frozen=True):
    """Bearer tokens that are JWTs: of one issuer, or of several `providers`."""

    mode: Annotated[Mode | None, about(_MODE)] = None
    location: Annotated[Location | None, about("Where the token stands; the header Authorization after `Bearer ` by default.")] = None
    providers: Annotated[list[JwtProvider] | None, about("Several issuers, instead of the keys of one.")] = None
    issuer: Annotated[str | None, about("The `iss` of the tokens, exactly.")] = None
    jwks: Annotated[str | JwksSource | None, about("The issuer's key set: JSON text, `{file}` or `{url}`.")] = None
    audiences: Annotated[list[str] | None, about("One of these has to be in `aud`; not checked when empty.")] = None
    jwt_validation_options: Annotated[JwtValidationOptions | None, about("What a token has to say.")] = None
    algorithms: Annotated[list[Algorithm], ours("Algorithms that are accepted; those each key is made for when empty.")] = []
    leeway: Annotated[str | None, ours("How far clocks may differ; 60s by default.")] = None


class ApiKey(Model, frozen=True):
    """A key; exactly one of `key` and `keyHash`."""

    key: Annotated[str | None, about("The key itself.")] = None
    key_hash: Annotated[str | None, about("Its hash: `sha256:` and 64 hex digits.")] = None
    metadata: Annotated[dict[str, Any], about("What rules and limits see as `apiKey`.")] = {}


class ApiKeys(Model, frozen=True):
    """Keys that the operator gave out."""

    keys: Annotated[list[ApiKey], about("The keys that are accepted.")]
    mode: Annotated[Mode | None, about(_MODE)] = None
    location: Annotated[Location | None, about("Where the key stands; the header Authorization after `Bearer ` by default.")] = None


class BasicAuth(Model, frozen=True):
    """User names and passwords."""

    htpasswd: Annotated[str | FromFile, about("The users as in a htpasswd file: text, or `{file}`. bcrypt, apr1 and {SHA} hashes.")]
    realm: Annotated[str | None, about("What browsers show when they ask; `Restricted` by default.")] = None
    mode: Annotated[Mode | None, about(_MODE)] = None
    authorization_location: Annotated[Location | None, about("Where the credential stands; the header Authorization after `Basic ` by default.")] = None


class TokenIntrospection(Model, frozen=True):
    """Opaque bearer tokens, judged by the server that issued them (RFC 7662)."""

    url: Annotated[str, about("The introspection endpoint.")]
    client_id: Annotated[str, about("Who asks, by HTTP Basic; nobody when empty.")] = ""
    client_secret: Annotated[str | FromFile, about("The secret of `clientId`: text, or `{file}`.")] = ""
    issuer: Annotated[str, about("The `iss` an answer has to have, when it has one.")] = ""
    audiences: Annotated[list[str], about("One of these has to be in `aud`; not checked when empty.")] = []
    cache_ttl: Annotated[str | None, about("How long an answer is kept, at most until the token's end; 60s by default.")] = None
    max_entries: Annotated[int, about("Answers that are kept, per worker.", ge=1, le=1_000_000)] = 10_000
    timeout: Annotated[str | None, about("For one question; 5s by default.")] = None
    mode: Annotated[Mode | None, about(_MODE)] = None
    location: Annotated[Location | None, about("Where the token stands; the header Authorization after `Bearer ` by default.")] = None
    backend_tls: Annotated[BackendTls | None, about("TLS towards the endpoint.")] = msgspec.field(default=None, name="backendTLS")
