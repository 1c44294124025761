"""`backendAuth` to its plan: credentials towards backends and targets.

Rules kept here:
- secrets and keys are read now, and proven to fit: what no header can hold and what cannot sign is found before a request needs it;
- no message quotes a secret, nor what a file holds;
- two credentials never stand in the same place;
- static claims become constants of the expression language (JSON is a part of it), so the plan has one form for all.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import msgspec

from agw.config import values
from agw.config.aws import aws_sign
from agw.config.credential_places import Placed, check_places, places_of
from agw.config.model_credentials import (
    ActorToken,
    BackendAuth,
    CrossAppAccessAuth,
    CrossAppAccessEndpoint,
    JwtSignAuth,
    KeyAuth,
    OAuthClientCredentialsAuth,
    OAuthTokenExchangeAuth,
    Passthrough,
    SubjectToken,
    TokenCacheConfig,
    TokenSource,
)
from agw.config.model_location import Location, location_plan
from agw.config.oauth_client import client_plan, resource_of, scopes_of, service_tls, signing_key
from agw.config.outside import FromFile, text_of
from agw.config.problem import Path
from agw.config.rules import expression
from agw.config.tls import secured
from agw.config.user_grants import user_grant
from agw.config.values import NOT_YET, Endpoint, quoted
from agw.runtime.plan_security import (
    BackendAuthPlan,
    CallPlan,
    ClientAuthPlan,
    ClientCredentials,
    Credential,
    CrossAppAccess,
    JwtSign,
    KeyCredential,
    LocationPlan,
    PassthroughCredential,
    TokenExchange,
)
from agw.security.ext_authz.values import constant

if TYPE_CHECKING:
    from agw.config.check import Context

VERIFIED_TOKEN = "jwt.rawToken.unredacted()"
"""The one expression a token can be read by: what a policy of the route has verified."""

_KINDS = (
    "key", "passthrough", "jwt_sign", "oauth_token_exchange", "cross_app_access", "aws", "oauth_client_credentials",
    "oauth_authorization_code",
)  # fmt: skip
_ID_TOKEN = "urn:ietf:params:oauth:token-type:id_token"
_ID_JAG = "urn:ietf:params:oauth:token-type:id-jag"
_SIGNER_S = frozenset(("iat", "exp", "nbf"))
_PARAMETER = re.compile(r"[!-~]{1,128}")
_RESERVED = frozenset((
    "grant_type", "subject_token", "subject_token_type", "actor_token", "actor_token_type", "assertion", "client_id", "client_secret",
    "client_assertion", "client_assertion_type", "requested_token_type", "scope", "audience", "resource",
))  # fmt: skip
_LOOPBACK = re.compile(r"localhost|127\.[0-9.]+|::1")
_MAX_TTL_S = 86_400


def backend_auth(context: Context, value: BackendAuth, path: Path) -> BackendAuthPlan | None:
    """`backendAuth`; None after a problem that leaves no credential."""
    given = [name for name in _KINDS if getattr(value, name) is not None]
    if value.credentials is None or given:
        context.choice(value, path, _KINDS)
    found: list[Credential] = []
    places: list[Placed] = []

    def add(credential: Credential | None, place: Path) -> None:
        if credential is not None:
            found.append(credential)
            places.extend((place, location) for location in places_of(credential))

    if value.key is not None:
        add(_key(context, value.key, (*path, "key")), (*path, "key"))
    if value.passthrough is not None:
        add(_passthrough(context, value.passthrough, (*path, "passthrough")), (*path, "passthrough"))
    if value.jwt_sign is not None:
        add(_jwt_sign(context, value.jwt_sign, (*path, "jwtSign")), (*path, "jwtSign"))
    if value.oauth_token_exchange is not None:
        add(_exchange(context, value.oauth_token_exchange, (*path, "oauthTokenExchange")), (*path, "oauthTokenExchange"))
    if value.cross_app_access is not None:
        add(_cross_app(context, value.cross_app_access, (*path, "crossAppAccess")), (*path, "crossAppAccess"))
    if value.aws is not None:
        add(aws_sign(context, value.aws, (*path, "aws")), (*path, "aws"))
    if value.oauth_client_credentials is not None:
        add(_client_credentials(context, value.oauth_client_credentials, (*path, "oauthClientCredentials")), (*path, "oauthClientCredentials"))
    if value.oauth_authorization_code is not None:
        add(user_grant(context, value.oauth_authorization_code, (*path, "oauthAuthorizationCode")), (*path, "oauthAuthorizationCode"))
    for index, extra in enumerate(value.credentials or ()):
        below = (*path, "credentials", index)
        location = location_plan(context, extra.location, (*below, "location"), LocationPlan())
        add(_secret(context, extra.key, (*below, "key"), location), (*below, "location"))
    if not found and value.credentials is not None and not given and context.is_complete((*path, "credentials")) and not value.credentials:
        context.findings.problem((*path, "credentials"), "no credential; add one, or remove backendAuth")
    check_places(context, places)
    return BackendAuthPlan(found) if found else None


# ----------------------------------------------------------------------------------------------------------- static


def _key(context: Context, value: str | KeyAuth, path: Path) -> KeyCredential | None:
    if isinstance(value, str):
        return _secret(context, value, path, LocationPlan())
    chosen = context.choice(value, path, ("file", "value"))
    location = location_plan(context, value.location, (*path, "location"), LocationPlan())
    if chosen == "file" and value.file is not None:
        return _secret(context, FromFile(value.file), path, location)
    return None if value.value is None or chosen is None else _secret(context, value.value, (*path, "value"), location)


def _secret(context: Context, value: str | FromFile, path: Path, location: LocationPlan) -> KeyCredential | None:
    text = text_of(context, value, path)
    if text is None:
        return None
    from agw.security.upstream.static import KeySource  # only files with credentials pay for it

    plan = KeyCredential(text, location)
    try:
        KeySource(plan)
    except ValueError as error:
        context.findings.problem(path, f"{error}; write only the secret, in one line")
        return None
    return plan


def _passthrough(context: Context, value: Passthrough, path: Path) -> PassthroughCredential:
    return PassthroughCredential(location_plan(context, value.location, (*path, "location"), LocationPlan()))


# ---------------------------------------------------------------------------------------------------------- signing


def _jwt_sign(context: Context, value: JwtSignAuth, path: Path) -> JwtSign | None:
    findings = context.findings
    key = signing_key(context, value.signing_key, value.alg, (*path, "signingKey"))
    claims: dict[str, str] = {}
    for name, claim in value.claims.items():
        below = (*path, "claims", name)
        _check_claim(context, name, below)
        try:
            claims[name] = json.dumps(claim, ensure_ascii=False, allow_nan=False)
        except (TypeError, ValueError):
            findings.problem(below, "no JSON value; write text, a number, true, false, a list or a mapping")
    for name, text in value.claim_expressions.items():
        below = (*path, "claimExpressions", name)
        _check_claim(context, name, below)
        if name in claims:
            findings.problem(below, f"{quoted(name)} is in `claims` too; keep one of them")
        claims[name] = _expression(context, text, below)
    ttl_s = JwtSign(key="").ttl_s
    if value.ttl is not None:
        ttl_s = findings.value((*path, "ttl"), values.positive_duration_ns, value.ttl, ttl_s * 10**9) // 10**9
        if not 1 <= ttl_s <= _MAX_TTL_S:
            findings.problem((*path, "ttl"), "a token is valid for 1s to 24h; 300s is what most servers expect")
    location = location_plan(context, value.location, (*path, "location"), LocationPlan())
    return None if key is None else JwtSign(key, value.alg, value.kid or "", claims, ttl_s, location)


def _check_claim(context: Context, name: str, path: Path) -> None:
    if name in _SIGNER_S:
        context.findings.problem(path, f"`{name}` is written by agw itself; remove it, and set `ttl`")


# ------------------------------------------------------------------------------------------------------------ OAuth


def _client_credentials(context: Context, value: OAuthClientCredentialsAuth, path: Path) -> ClientCredentials | None:
    findings = context.findings
    timeout_ns = _timeout(context, value.timeout, path)
    where, tls = (*path, "tokenUrl"), service_tls(context, value.policies, path)
    call = context.outside.call(context, value.token_url, where, "oauthClientCredentials", timeout_ns=timeout_ns, tls=tls)
    client = client_plan(context, value.client_auth, (*path, "clientAuth"))
    scopes = scopes_of(context, value.scopes, (*path, "scopes"))
    location = location_plan(context, value.location, (*path, "location"), LocationPlan())
    resource = "" if value.resource is None else findings.value((*path, "resource"), resource_of, value.resource, "")
    if call is None or client is None:
        return None
    _warn_plain(context, urlsplit(value.token_url).scheme == "https", urlsplit(value.token_url).hostname or "", where)
    return ClientCredentials(call, value.token_url, client, scopes, value.audience or "", resource, location)


def _exchange(context: Context, value: OAuthTokenExchangeAuth, path: Path) -> TokenExchange | None:
    findings = context.findings
    place = _endpoint(context, value, path, "oauthTokenExchange")
    if place is None:
        return None
    client = ClientAuthPlan("none") if value.client_auth is None else client_plan(context, value.client_auth, (*path, "clientAuth"))
    out: dict[str, Any] = {"grant": value.grant_type}
    out |= _subject(context, value.subject_token, path) | _actor(context, value.actor_token, value.grant_type == "tokenExchange", path)
    out["requested_type"] = value.requested_token_type or ""
    out["audiences"] = value.audiences
    out["scopes"] = scopes_of(context, value.scopes, (*path, "scopes"))
    out["resources"] = [findings.value((*path, "resources", index), resource_of, text, "") for index, text in enumerate(value.resources)]
    out["additional_params_cel"] = {
        name: _expression(context, text, _parameter(context, name, (*path, "additionalParams", name))) for name, text in (value.additional_params or {}).items()
    }
    out |= _cache(context, value.cache, path)
    out["location"] = location_plan(context, value.authorization_location, (*path, "authorizationLocation"), LocationPlan())
    return None if client is None else TokenExchange(*place, client, **out)


def _endpoint(context: Context, value: OAuthTokenExchangeAuth | CrossAppAccessEndpoint, path: Path, label: str) -> tuple[CallPlan, str] | None:
    """The call and the URL of a token endpoint; None after a problem that leaves none."""
    findings = context.findings
    chosen = context.choice(value, path, ("host", "service", "backend"))
    if chosen in ("service", "backend"):
        findings.problem((*path, chosen), f"`{chosen}` {NOT_YET}; write the address: host: name:port")
    if chosen != "host" or value.host is None:
        return None
    where = (*path, "host")
    endpoint = findings.value(where, values.host_endpoint, value.host, Endpoint("invalid", 1))
    endpoint, tls = secured(context, endpoint, value.host, service_tls(context, value.policies, path), where)
    if not endpoint.unix_path:
        _warn_plain(context, tls is not None, endpoint.host, where)
    url_path = findings.value((*path, "path"), values.url_path, value.path, "/")
    call = context.outside.service(endpoint, label, tls, _timeout(context, value.timeout, path))
    return msgspec.structs.replace(call, path=url_path), f"{'https' if tls is not None else 'http'}://{endpoint.authority}{url_path}"


def _subject(context: Context, value: SubjectToken | None, path: Path) -> dict[str, Any]:
    subject = value or SubjectToken()
    source = None if subject.source is None else _source(context, subject.source, (*path, "subjectToken", "source"))
    return {"subject": source} if subject.token_type is None else {"subject": source, "subject_type": subject.token_type}


def _cache(context: Context, value: TokenCacheConfig | None, path: Path) -> dict[str, Any]:
    out: dict[str, Any] = {}
    if value is not None and value.max_entries is not None:
        out["max_entries"] = value.max_entries
    if value is not None and value.default_ttl is not None:
        out["ttl_ns"] = context.findings.value((*path, "cache", "defaultTtl"), values.positive_duration_ns, value.default_ttl, 1)
    return out


def _cross_app(context: Context, value: CrossAppAccessAuth, path: Path) -> CrossAppAccess | None:
    findings = context.findings
    below = ((*path, "identityProvider"), (*path, "resourceAuthorizationServer"))
    given = (value.identity_provider, value.resource_authorization_server)
    places = [_endpoint(context, item, place, "crossAppAccess") for item, place in zip(given, below, strict=True)]
    clients = [client_plan(context, item.client_auth, (*place, "clientAuth")) for item, place in zip(given, below, strict=True)]
    if not value.audience.strip():
        findings.problem((*path, "audience"), "the value is empty; write the issuer of the backend's authorization server")
    scopes = scopes_of(context, value.scopes, (*path, "scopes"))
    own = scopes if value.access_token_scopes is None else scopes_of(context, value.access_token_scopes, (*path, "accessTokenScopes"))
    resources = [findings.value((*path, "resources", index), resource_of, text, "") for index, text in enumerate(value.resources)]
    out = {"subject_type": _ID_TOKEN, **_subject(context, value.subject_token, path), **_cache(context, value.cache, path)}
    location = location_plan(context, value.location, (*path, "location"), LocationPlan())
    first, second = places
    who, other = clients
    if first is None or second is None or who is None or other is None:
        return None
    most = {"max_entries": out.pop("max_entries")} if "max_entries" in out else {}
    exchange = TokenExchange(*first, who, requested_type=_ID_JAG, audiences=[value.audience], scopes=scopes, resources=resources, **out)
    return CrossAppAccess(exchange, ClientCredentials(*second, other, own, location=location), **most)


def _actor(context: Context, value: ActorToken | None, is_exchange: bool, path: Path) -> dict[str, Any]:
    if value is None:
        return {}
    below = (*path, "actorToken")
    if not is_exchange:
        context.findings.problem(below, "an actor belongs to the grant tokenExchange; remove it, or change grantType")
    source = _source(context, value.source, (*below, "source"))
    out: dict[str, Any] = {"actor": source or LocationPlan()}
    return out if value.token_type is None else {**out, "actor_type": value.token_type}


def _source(context: Context, value: TokenSource, path: Path) -> LocationPlan | None:
    """Where a token is read; None is the caller's own."""
    if value.expression is None:
        location = location_plan(context, Location(value.header, value.query_parameter, value.cookie), path, LocationPlan())
        return None if location == LocationPlan() else location
    context.choice(value, path, ("header", "query_parameter", "cookie", "expression"))
    if value.expression.replace(" ", "") != VERIFIED_TOKEN:
        context.findings.problem((*path, "expression"), f"an expression other than {VERIFIED_TOKEN} {NOT_YET}; use it, or header, queryParameter or cookie")
    return None


def _warn_plain(context: Context, is_secure: bool, host: str, path: Path) -> None:
    if not is_secure and not _LOOPBACK.fullmatch(host):
        context.findings.warning(path, "tokens and secrets go over plain http:// outside of this machine: anyone on the way can use them; use https://")


def _timeout(context: Context, text: str | None, path: Path) -> int:
    return 5_000_000_000 if text is None else context.findings.value((*path, "timeout"), values.positive_duration_ns, text, 1)


def _parameter(context: Context, name: str, path: Path) -> Path:
    if name in _RESERVED or not _PARAMETER.fullmatch(name):
        context.findings.problem(path, f"{quoted(name)} cannot be added; it is written by agw itself, or no name in visible ASCII")
    return path


def _expression(context: Context, text: str, path: Path) -> str:
    if constant(text) is None:  # a constant needs no library
        expression(context, text, path, "http")
    return text.strip()
