"""`mcpAuthentication` as the operator writes it. See `agw.config.model` for the rules all model files keep."""

from __future__ import annotations

from typing import Annotated, Any

from agw.config.model_authn import JwksSource, JwtValidationOptions, Mode
from agw.config.model_location import Location
from agw.config.modelling import Model, about, ours
from agw.config.outside import FromFile


class NoSettings(Model, frozen=True):
    """Nothing to set: `{}`."""


class McpProvider(Model, frozen=True):
    """An authorization server that lacks something MCP clients need; exactly one key."""

    auth0: Annotated[NoSettings | None, about("Auth0: the audience goes into the query.")] = None
    keycloak: Annotated[NoSettings | None, about("Keycloak: clients register through the gateway.")] = None
    okta: Annotated[NoSettings | None, about("Okta: the audience goes into the query, clients register through the gateway.")] = None
    descope: Annotated[NoSettings | None, about("Descope: clients register through the gateway.")] = None
    authentik: Annotated[NoSettings | None, about("authentik: the gateway answers registrations with `clientId`.")] = None
    entra: Annotated[NoSettings | None, about("Microsoft Entra ID: registration, authorize and token go through the gateway.")] = None


class McpAuthentication(Model, frozen=True):
    """An MCP endpoint as OAuth resource server."""

    issuer: Annotated[str, about("The `iss` of the tokens, exactly.")]
    audiences: Annotated[list[str], about("One of these has to be in `aud`; the resource when empty.")]
    resource_metadata: Annotated[dict[str, Any], about("What RFC 9728 publishes, `resource` above all; names in camelCase or as they are published.")]
    provider: Annotated[McpProvider | None, about("What the authorization server is; nothing for one that speaks RFC 8414.")] = None
    jwks: Annotated[str | JwksSource | None, about("The issuer's key set: JSON text, `{file}` or `{url}`; from issuer and provider by default.")] = None
    mode: Annotated[Mode | None, about("strict: a good token is needed, the default. optional: none is fine. permissive: a bad one counts as none.")] = None
    authorization_location: Annotated[Location | None, about("Where the token stands; the header Authorization after `Bearer ` by default.")] = None
    jwt_validation_options: Annotated[JwtValidationOptions | None, about("What a token has to say.")] = None
    client_id: Annotated[str | None, about("The client that registrations are answered with, instead of registering one.")] = None
    client_secret: Annotated[str | FromFile | None, about("Its secret, added to token requests that go through the gateway (entra).")] = None
    scopes_required: Annotated[list[str], ours("Scopes every call needs.")] = []
    tool_scopes: Annotated[dict[str, list[str]], ours("Scopes of single tools, by the name clients use; `*` at its end stands for any rest.")] = {}
