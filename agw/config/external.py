"""`extAuthz`, `oidc` and `config.adminAuth` to their plans.

Rules kept here:
- what a request could only find out is found out now: URLs, header names, scopes, key sets, documents that stand in the file;
- a login needs no file at run time: what is not discovered is read here;
- an admin listener that others can reach is refused unless it asks who they are.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from agw.config import values
from agw.config.files import read_text
from agw.config.model_external import AdminAuth, DocumentSource, ExtAuthz, ExtAuthzService, HttpProtocol, Oidc
from agw.config.problem import Finding, Path
from agw.config.rules import expression
from agw.config.services import service_of, under_conditions
from agw.config.values import NOT_YET, Endpoint, quoted
from agw.runtime.plan import TlsClientPlan
from agw.runtime.plan_security import AdminAuthPlan, AdminTokenPlan, CallPlan, ExtAuthzPlan, OidcPlan
from agw.security.cel_names import Phase
from agw.security.ext_authz.values import constant

if TYPE_CHECKING:
    from agw.config.check import Context

COOKIE_SECRET = "OIDC_COOKIE_SECRET"

_KEY = re.compile(r"[0-9A-Fa-f]{64}")
_SCOPE = re.compile(r"[!#-\[\]-~]{1,256}")
_HEX = re.compile(r"(?:sha256:)?([0-9A-Fa-f]{64})")
_PSEUDO = frozenset((":authority", ":method", ":path", ":scheme"))
_LOOPBACK = re.compile(r"localhost|127\.[0-9.]+|::1")
_MAX_TTL_NS = 30 * 86_400 * 10**9


def ext_authz(context: Context, value: ExtAuthz, path: Path) -> list[ExtAuthzPlan]:
    """`extAuthz`; empty after a problem that leaves nobody to ask."""
    if value.conditional is None:
        return _service(context, value, path)
    beside = any(getattr(value, name) is not None for name in ("host", "service", "backend", "policies", "protocol"))
    return under_conditions(context, value.conditional, (*path, "conditional"), beside, _service)


def _service(context: Context, value: ExtAuthzService, path: Path) -> list[ExtAuthzPlan]:
    """One service; empty after a problem that leaves nobody to ask."""
    found = service_of(context, value, path)
    if found is None:
        return []
    endpoint, tls = found
    common = _common(context, value, path)
    over_http = value.protocol is not None and context.choice(value.protocol, (*path, "protocol"), ("grpc", "http")) == "http"
    if value.protocol is not None and over_http and value.protocol.http is not None:
        return [_http(context, value.protocol.http, endpoint, tls, common, (*path, "protocol", "http"))]
    if tls not in (None, TlsClientPlan()):
        place = (*path, "policies", "backendTLS") if value.policies is not None else (*path, "backend")
        context.findings.problem(place, f"more than `backendTLS: {{}}` for gRPC {NOT_YET}; use a certificate the system trusts, or protocol http")
    host = f"unix:{endpoint.unix_path}" if endpoint.unix_path else endpoint.host
    grpc = value.protocol.grpc if value.protocol is not None else None
    metadata = _expressions(context, (grpc.metadata if grpc is not None else None) or {}, (*path, "protocol", "grpc", "metadata"))
    extensions = dict((grpc.context if grpc is not None else None) or {})
    return [ExtAuthzPlan(protocol="grpc", host=host, port=endpoint.port, tls=tls is not None, context=extensions, metadata_cel=metadata, **common)]


def _common(context: Context, value: ExtAuthzService, path: Path) -> dict[str, Any]:
    """What both protocols have."""
    findings = context.findings
    out: dict[str, Any] = {"on_failure": 403}
    if value.failure_mode == "allow":
        out["on_failure"] = 0
        findings.warning((*path, "failureMode"), "whoever can make the service fail gets in; write `deny` unless it only adds information")
    elif not isinstance(value.failure_mode, str):
        out["on_failure"] = status = value.failure_mode.deny_with_status
        if not 400 <= status <= 599:
            findings.problem((*path, "failureMode", "denyWithStatus"), f"{status} is no refusal; use 400 to 599, such as 503")
    over_http = value.protocol is not None and value.protocol.http is not None
    out["include_headers"] = [
        findings.value((*path, "includeRequestHeaders", i), _http_header if over_http else _grpc_header, name, "invalid")
        for i, name in enumerate(value.include_request_headers or ())
    ]
    body = value.include_request_body
    if body is not None:
        out |= {"body_bytes": body.max_request_bytes or 8192, "allow_partial": body.allow_partial_message, "pack_as_bytes": body.pack_as_bytes}
    if value.cache is not None:
        below = (*path, "cache")
        out["cache_key_cel"] = [_expression(context, text, (*below, "key", i)) for i, text in enumerate(value.cache.key)]
        out["cache_ttl_cel"] = _expression(context, value.cache.ttl, (*below, "ttl"))
        out["cache_entries"] = value.cache.max_entries
        if not value.cache.key:
            findings.warning((*below, "key"), "without a key nothing is kept; list what the service decides by, such as the Authorization header and the path")
    if value.timeout is not None:
        out["timeout_ns"] = findings.value((*path, "timeout"), values.positive_duration_ns, value.timeout, 1)
    return out


def _http(context: Context, value: HttpProtocol, endpoint: Endpoint, tls: TlsClientPlan | None, common: dict[str, Any], path: Path) -> ExtAuthzPlan:
    findings = context.findings
    added: dict[str, str] = {}
    for name, text in value.add_request_headers.items():
        where = (*path, "addRequestHeaders", name)
        if name.lower() in (":authority", "host"):
            # Host is one per service: connections are shared by all requests.
            endpoint = endpoint._replace(authority=findings.value(where, values.cel_constant, text, "") or endpoint.authority)
        elif name == ":method":
            added[name] = _expression(context, text, where)
        elif name in _PSEUDO:
            findings.problem(where, f"`{name}` here {NOT_YET}; use `path` for the path, and backendTLS for the scheme")
        else:
            added[findings.value(where, values.changed_header, name, name)] = _expression(context, text, where)
    timeout_ns = common.get("timeout_ns", ExtAuthzPlan().timeout_ns)
    names = [findings.value((*path, "includeResponseHeaders", i), values.changed_header, name, name) for i, name in enumerate(value.include_response_headers)]
    return ExtAuthzPlan(
        protocol="http", call=context.outside.service(endpoint, "extAuthz", tls, timeout_ns), add_headers_cel=added, response_headers=names,
        path_cel=_expression(context, value.path, (*path, "path")), redirect_cel=_expression(context, value.redirect, (*path, "redirect"), "response"),
        body_cel=_expression(context, value.body, (*path, "body")), metadata_cel=_expressions(context, value.metadata, (*path, "metadata"), "response"),
        **common,
    )  # fmt: skip


def _expression(context: Context, text: str | None, path: Path, phase: Phase = "http") -> str:
    """An expression, "" for none."""
    if text is None:
        return ""
    if not text.strip():
        context.findings.problem(path, "an empty expression; write one, like request.path, or remove the key")
    elif constant(text) is None:
        expression(context, text, path, phase)
    return text


def _expressions(context: Context, texts: dict[str, str], path: Path, phase: Phase = "http") -> dict[str, str]:
    return {name: _expression(context, text, (*path, name), phase) for name, text in texts.items()}


def _grpc_header(text: str) -> str:
    return text if text in _PSEUDO else values.header_name(text)


def _http_header(text: str) -> str:
    if text in _PSEUDO:
        raise ValueError(f"the pseudo header {quoted(text)} over HTTP {NOT_YET}; method and path are sent anyhow, add others with addRequestHeaders")
    return values.changed_header(text)


# ------------------------------------------------------------------------------------------------------------- oidc


def oidc(context: Context, value: Oidc, path: Path) -> OidcPlan:
    """`oidc`; after a problem the plan is not to be used."""
    findings = context.findings
    issuer = findings.value((*path, "issuer"), _url, value.issuer, "")
    redirect = findings.value((*path, "redirectURI"), _callback, value.redirect_uri, "http://localhost/")
    for key, url in (("issuer", issuer), ("redirectURI", redirect)):
        parts = urlsplit(url)
        if parts.scheme == "http" and not _LOOPBACK.fullmatch(parts.hostname or ""):
            findings.warning((*path, key), "http:// outside of this machine: anyone on the way can take over sessions; use https://")
    for key, text in (("clientId", value.client_id), ("issuer", value.issuer)):
        if not text.strip():
            findings.problem((*path, key), "the value is empty; write what the provider gave you")
    for index, scope in enumerate(value.scopes):
        if not _SCOPE.fullmatch(scope):
            findings.problem((*path, "scopes", index), f"{quoted(scope)} is no scope; write one per entry, without blanks")
    given = _inline_document(context, value.discovery, issuer, path)
    endpoints = {
        "authorization_endpoint": value.authorization_endpoint or given.get("authorization_endpoint", ""),
        "token_endpoint": value.token_endpoint or given.get("token_endpoint", ""),
    }
    for key, name in (("authorizationEndpoint", "authorization_endpoint"), ("tokenEndpoint", "token_endpoint")):
        if endpoints[name]:
            endpoints[name] = findings.value((*path, key), _url, endpoints[name], "")
    jwks, jwks_url = _keys(context, value, given, path)
    complete = all(endpoints.values()) and bool(jwks or jwks_url)
    discovery_url = "" if complete and not isinstance(value.discovery, DocumentSource) else _discovery(context, value, issuer, bool(given), path)
    call: CallPlan | None = None
    if discovery_url:
        call = context.outside.call(context, discovery_url, (*path, "issuer"), "oidc")
    token_call = context.outside.call(context, endpoints["token_endpoint"], (*path, "tokenEndpoint"), "oidc") if endpoints["token_endpoint"] else None
    session_ns = 3_600_000_000_000
    if value.session_ttl is not None:
        session_ns = findings.value((*path, "sessionTtl"), values.positive_duration_ns, value.session_ttl, session_ns)
        if session_ns > _MAX_TTL_NS:
            findings.problem((*path, "sessionTtl"), "a login of more than 30 days; use a shorter duration")
    logout = "" if value.logout_path is None else findings.value((*path, "logoutPath"), values.match_path, value.logout_path, "")
    if logout and logout == urlsplit(redirect).path:
        findings.problem((*path, "logoutPath"), "the callback has this path; use another one")
    return OidcPlan(
        issuer, value.client_id, value.client_secret, redirect, value.scopes, discovery_url, endpoints["authorization_endpoint"],
        endpoints["token_endpoint"], token_call, {None: "", "clientSecretBasic": "basic", "clientSecretPost": "post"}[value.token_endpoint_auth],  # type: ignore[arg-type]
        call, logout, jwks, jwks_url, _cookie_keys(context), session_ns,
    )  # fmt: skip


def _url(text: str) -> str:
    try:
        parts = urlsplit(text)
        bad = parts.scheme not in ("http", "https") or not parts.hostname or parts.username is not None or bool(parts.fragment)
        bad = bad or parts.port == 0 or not text.isascii() or any(char <= " " or char in '\x7f"<>\\' for char in text)
    except ValueError:
        bad = True
    if bad:
        raise ValueError(f"{quoted(text)} is no URL; write it like https://issuer.example/realms/main")
    return text


def _callback(text: str) -> str:
    parts = urlsplit(_url(text))
    if parts.query:
        raise ValueError("a callback with a query; remove it, and register the same URL at the provider")
    if values.match_path(parts.path or "/") != (parts.path or "/") or len(parts.path) < 2:
        raise ValueError(f"{quoted(parts.path)} is no path of a callback in normal form; write it like https://app.example/oauth/callback")
    return text


def _inline_document(context: Context, source: str | DocumentSource | None, issuer: str, path: Path) -> dict[str, str]:
    """The endpoints of a document that stands in the file or beside it."""
    where = (*path, "discovery")
    text = source if isinstance(source, str) else None
    if isinstance(source, DocumentSource) and context.choice(source, where, ("file", "url")) == "file" and source.file is not None:
        where = (*where, "file")
        text = read_text(context, source.file, where, "mend the path", "write it as UTF-8 text")
    if text is None:
        return {}
    try:
        says = json.loads(text)
    except (ValueError, RecursionError):
        says = None
    if not isinstance(says, dict):
        context.findings.problem(where, "the discovery document is no JSON object; save what the provider serves at /.well-known/openid-configuration")
        return {}
    if says.get("issuer") != issuer:
        context.findings.problem(where, "the discovery document is of another issuer; make `issuer` the same as its `issuer`")
    wanted = ("authorization_endpoint", "token_endpoint", "jwks_uri")
    for name in wanted:
        if not isinstance(says.get(name), str):
            context.findings.problem(where, f"the discovery document has no {name}; save it whole")
    return {name: says[name] for name in wanted if isinstance(says.get(name), str)}


def _keys(context: Context, value: Oidc, given: dict[str, str], path: Path) -> tuple[str, str]:
    """Key set as text, or its URL; both empty when it is discovered."""
    where = (*path, "jwks")
    source = value.jwks
    if source is None:
        return "", context.outside.document(context, given["jwks_uri"], (*path, "discovery")) if "jwks_uri" in given else ""
    text = source if isinstance(source, str) else None
    if isinstance(source, DocumentSource):
        chosen = context.choice(source, where, ("file", "url"))
        if chosen == "url" and source.url is not None:
            return "", context.outside.document(context, source.url, (*where, "url"))
        if chosen == "file" and source.file is not None:
            where = (*where, "file")
            text = read_text(context, source.file, where, "mend the path", "write it as UTF-8 text")
    if text is None:
        return "", ""
    from agw.security.jwks import UnusableSet, parse_jwks  # cryptography: only files with keys pay for it

    try:
        parse_jwks(text)
    except UnusableSet as error:
        context.findings.problem(where, f"{error}; save what the provider serves at its jwks_uri")
    return text, ""


def _discovery(context: Context, value: Oidc, issuer: str, is_inline: bool, path: Path) -> str:
    """The URL of the document that is fetched, "" when none is needed."""
    if is_inline or not issuer:
        return ""
    if isinstance(value.discovery, DocumentSource):
        return context.outside.document(context, value.discovery.url, (*path, "discovery", "url")) if value.discovery.url is not None else ""
    return context.outside.document(context, issuer.rstrip("/") + "/.well-known/openid-configuration", (*path, "issuer"))


def _cookie_keys(context: Context) -> list[str]:
    """The keys of the environment: one, or several separated by commas, the first seals."""
    keys = [text.strip().lower() for text in context.environ.get(COOKIE_SECRET, "").split(",") if text.strip()]
    if not all(_KEY.fullmatch(key) for key in keys):
        # A secret: the message holds nothing of it, and there is no line to point at.
        text = "a cookie secret is 64 hex digits; make one with: openssl rand -hex 32"
        context.findings.problems.append(Finding((f"${COOKIE_SECRET}",), text, place=(0, 0)))
        return []
    return list(dict.fromkeys(keys))


# ------------------------------------------------------------------------------------------------------------ admin


def admin_auth(context: Context, value: AdminAuth | None, address: str, is_insecure: bool) -> AdminAuthPlan | None:
    """`config.adminAuth`; `address` is where the admin listener is."""
    findings = context.findings
    path: Path = ("config", "adminAuth")
    if value is None:
        if _is_reachable(address) and not is_insecure:
            text = (
                f"the admin listener ({address}) can be reached from other machines and asks nobody who he is; add `config.adminAuth` "
                "with the SHA-256 of a token, listen on 127.0.0.1:15000 or unix:/path, or write `config.adminInsecure: true`"
            )
            from_environment = bool(context.environ.get("ADMIN_ADDR"))
            place = Finding(("$ADMIN_ADDR",), text, place=(0, 0)) if from_environment else Finding(("config", "adminAddr"), text)
            findings.problems.append(place)
        return None
    tokens: list[AdminTokenPlan] = []
    for index, token in enumerate(value.tokens):
        below = (*path, "tokens", index)
        digest = findings.value((*below, "sha256"), _digest, token.sha256, "")
        if any(digest == other.sha256 for other in tokens):
            findings.problem((*below, "sha256"), "the same token as one before; remove one")
        tokens.append(AdminTokenPlan(digest, token.role, token.name or ""))
    if not value.tokens and context.is_complete((*path, "tokens")):
        findings.problem((*path, "tokens"), "no token, so nobody gets in; add one, or write `adminAddr: off`")
    if _is_reachable(address):
        findings.warning(path, "the admin listener speaks plain HTTP: tokens can be read on the way; put it behind TLS or a tunnel")
    return AdminAuthPlan(tokens)


def _digest(text: str) -> str:
    # The value may be the token itself, put there by mistake: no message may hold any of it.
    match = _HEX.fullmatch(text.strip())
    if match is None:
        raise ValueError("not the SHA-256 of a token, which is 64 hex digits: printf %s TOKEN | sha256sum")
    return match[1].lower()


def _is_reachable(address: str) -> bool:
    """Whether other machines can connect; not a loopback address, a unix socket, or nothing at all."""
    host = address.rpartition(":")[0]
    return not (address == "off" or address.startswith("unix:") or host.startswith("127.") or host == "[::1]")
