"""`backendAuth.oauthAuthorizationCode` to its plan. Its pages are made by `agw.config.grant_pages`.

Rules kept here:
- a page's URL is one that browsers and the router read alike, and https beyond this machine;
- origins the operator wrote may be http and inside the network, no others.
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from agw.config.model_credentials import OAuthAuthorizationCodeAuth
from agw.config.model_location import location_plan
from agw.config.oauth_client import client_plan, resource_of, scopes_of, service_tls
from agw.config.problem import Path
from agw.config.values import quoted
from agw.runtime.plan_security import LocationPlan, UserGrant
from agw.security.upstream.discovery import is_url, origin_of

if TYPE_CHECKING:
    from agw.config.check import Context

_LOOPBACK = ("localhost", "127.0.0.1", "::1")


def user_grant(context: Context, value: OAuthAuthorizationCodeAuth, path: Path) -> UserGrant | None:
    """The plan; None after a problem."""
    findings = context.findings
    before = len(findings.problems)
    resource = findings.value((*path, "resource"), resource_of, value.resource, "")
    if value.issuer is None and resource and (not is_url(resource) or "?" in resource):
        findings.problem((*path, "resource"), "only an http(s) URL without query can be asked for its authorization server; mend it, or add `issuer`")
    if value.issuer is not None:
        findings.value((*path, "issuer"), _issuer, value.issuer, "")
    redirect = findings.value((*path, "redirectUri"), page_url, value.redirect_uri, "")
    client = None if value.client_auth is None else client_plan(context, value.client_auth, (*path, "clientAuth"))
    if value.client_auth is not None and value.issuer is None and context.is_complete(path):
        findings.problem((*path, "clientAuth"), "a client is registered at one server and shown to no other; add `issuer`")
    scopes = scopes_of(context, value.scopes, (*path, "scopes"))
    written = [findings.value((*path, "internalOrigins", index), _origin, text, "") for index, text in enumerate(value.internal_origins)]
    trusted = dict.fromkeys(origin for origin in (origin_of(resource), origin_of(value.issuer or ""), *written) if origin)
    tls = service_tls(context, value.policies, path)
    if tls is not None and (tls.server_name or tls.names or tls.cert or (tls.verify and not tls.verify_host)):
        text = "one policy for several servers: only `root` and `insecure` fit; remove the rest"
        findings.problem((*path, "policies", "backendTLS"), text)
    location = location_plan(context, value.location, (*path, "location"), LocationPlan())
    if value.browser == "anyone":
        findings.warning((*path, "browser"), "whoever is given a link can connect an account of his own to the caller it was made for; give the page's "
                         "route a policy that names the caller (oidc with the same issuer), and leave this out")  # fmt: skip
    if len(findings.problems) > before or (client is None and value.client_auth is not None):
        return None
    return UserGrant(
        resource, redirect, value.issuer or "", client, value.client_document, scopes, list(trusted), "" if tls is None else tls.ca,
        tls is not None and not tls.verify, value.browser == "anyone", location)


def page_url(text: str) -> str:
    """The URL of a page: https, or http on this machine. Errors: ValueError."""
    parts = urlsplit(text) if is_url(text) else None
    if parts is None or "?" in text or not parts.path or parts.path == "/" or any(part in ("", ".", "..") for part in parts.path.split("/")[1:]):
        raise ValueError(f"{quoted(text)} is no URL with a plain path; write it like https://gw.example/.agw/oauth/callback")
    if "%" in parts.path or ";" in parts.path:
        raise ValueError(f"{quoted(text)} has escapes in its path; write a plain one, like /.agw/oauth/callback")
    if parts.scheme != "https" and parts.hostname not in _LOOPBACK:
        raise ValueError(f"{quoted(text)} is not https; browsers would bring secrets over plain http")
    return text


def _issuer(text: str) -> str:
    if not is_url(text) or "?" in text:
        raise ValueError(f"{quoted(text)} is no http(s) URL without query; write the issuer as its metadata does")
    return text


def _origin(text: str) -> str:
    origin = origin_of(text)
    if not origin or text.rstrip("/").lower() != origin:
        raise ValueError(f"{quoted(text)} is no origin; write scheme, host and port only, like https://login.internal.example")
    return origin
