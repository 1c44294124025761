"""What is different about single authorization servers, one table entry each.

An MCP client wants RFC 8414 metadata, registration (RFC 7591) and resource indicators (RFC 8707) of the server it is sent to.
For a server that lacks one of them the gateway stands in: clients are sent to the gateway, which hands out the server's
metadata with the differences made up for.

| | metadata | audience | registration |
|---|---|---|---|
| auth0 | RFC 8414 | query parameter, no `resource` support | its own |
| okta | OpenID | query parameter, no `resource` support | through the gateway: no CORS there |
| keycloak | OpenID | | through the gateway: no CORS there |
| descope | OpenID | | through the gateway |
| authentik | OpenID | | answered by the gateway: there is none |
| entra | OpenID | `resource` is refused: authorize and token go through the gateway | answered by the gateway: there is none |

Rules:
- with `clientId` the gateway answers registrations itself, whatever the provider;
- endpoints are derived from the issuer the operator wrote, never from anything a client says.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple
from urllib.parse import urlsplit

from agw.security.mcp_auth.places import AUTHORIZE, REGISTRATION, SERVER_PREFIX, TOKEN

OPENID_SUFFIX = "/.well-known/openid-configuration"


def _origin(issuer: str) -> str:
    parts = urlsplit(issuer)
    return f"{parts.scheme}://{parts.netloc}"


def _none(issuer: str) -> str:
    return ""


def _below(suffix: str) -> Callable[[str], str]:
    return lambda issuer: issuer.rstrip("/") + suffix


def _rfc8414(issuer: str) -> str:
    return _origin(issuer) + SERVER_PREFIX + urlsplit(issuer).path.rstrip("/")


def _okta_registration(issuer: str) -> str:
    # Registration belongs to the organisation, not to one of its authorization servers.
    return _origin(issuer) + "/oauth2/v1/clients"


def _descope_ids(issuer: str) -> tuple[str, str] | None:
    parts = urlsplit(issuer).path.strip("/").split("/")
    return (parts[3], parts[4]) if len(parts) == 5 and parts[:3] == ["v1", "apps", "agentic"] else None


def _descope_registration(issuer: str) -> str:
    found = _descope_ids(issuer)
    return "" if found is None else f"{_origin(issuer)}/v1/mgmt/mcp/client/{found[0]}/{found[1]}/register"


def _descope_jwks(issuer: str) -> str:
    found = _descope_ids(issuer)
    return f"{issuer.rstrip('/')}/.well-known/jwks.json" if found is None else f"{_origin(issuer)}/{found[0]}/.well-known/jwks.json"


def entra_tenant(issuer: str) -> str:
    """The URL of an Entra tenant, from the issuer of its tokens of version 1 or 2."""
    parts = urlsplit(issuer)
    tenant = parts.path.strip("/").split("/")[0]
    if parts.hostname == "sts.windows.net":
        return f"https://login.microsoftonline.com/{tenant}"
    return f"{_origin(issuer)}/{tenant}"


class Adapter(NamedTuple):
    """One provider. The functions take the issuer and give a URL, "" for none.

    `audience`: the audience goes into the authorization endpoint's query; `injects`: a registration endpoint is offered even
    when the server has none; `relays`: authorize and token go through the gateway; `plain`: clients are sent to the issuer itself.
    """

    metadata: Callable[[str], str]
    jwks: Callable[[str], str]
    registration: Callable[[str], str] = _none
    audience: bool = False
    injects: bool = False
    relays: bool = False
    plain: bool = False


ADAPTERS: dict[str, Adapter] = {
    "": Adapter(_rfc8414, _below("/.well-known/jwks.json"), plain=True),
    "auth0": Adapter(_rfc8414, _below("/.well-known/jwks.json"), audience=True),
    "okta": Adapter(_below(OPENID_SUFFIX), _below("/v1/keys"), _okta_registration, audience=True),
    "keycloak": Adapter(_below(OPENID_SUFFIX), _below("/protocol/openid-connect/certs"), _below("/clients-registrations/openid-connect")),
    "descope": Adapter(_below(OPENID_SUFFIX), _descope_jwks, _descope_registration),
    "authentik": Adapter(_below(OPENID_SUFFIX), _below("/jwks/"), injects=True),
    "entra": Adapter(
        lambda issuer: entra_tenant(issuer) + "/v2.0" + OPENID_SUFFIX, lambda issuer: entra_tenant(issuer) + "/discovery/v2.0/keys", injects=True, relays=True),
}


def endpoints(provider: str, client_id: str) -> frozenset[str]:
    """The endpoints the gateway has below the authorization server's document."""
    adapter = ADAPTERS[provider]
    found = set()
    if client_id or adapter.injects or adapter.registration is not _none:
        found.add(REGISTRATION)
    if adapter.relays:
        found |= {AUTHORIZE, TOKEN}
    return frozenset(found)
