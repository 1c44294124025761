"""What the OAuth policies of `backendAuth` have in common: who agw is at a server, scopes, resources, the connection there.

Rules kept here:
- keys are read now and proven to fit their algorithm; no message quotes a secret.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Literal

from agw.config.model_credentials import OAuthClientAuth
from agw.config.model_external import ServicePolicies
from agw.config.outside import FromFile, text_of
from agw.config.problem import Path
from agw.config.tls import client_tls
from agw.config.values import quoted
from agw.runtime.plan import TlsClientPlan
from agw.runtime.plan_security import ClientAuthPlan

if TYPE_CHECKING:
    from agw.config.check import Context

_METHODS: dict[str, Literal["basic", "post", "privateKeyJwt"]] = {
    "clientSecretBasic": "basic", "clientSecretPost": "post", "privateKeyJwt": "privateKeyJwt",
}  # fmt: skip
_SCOPE = re.compile(r"[!#-\[\]-~]{1,256}")  # RFC 6749, 3.3
KEY_HELP = "make one: openssl genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:2048 -out key.pem"


def client_plan(context: Context, value: OAuthClientAuth, path: Path) -> ClientAuthPlan | None:
    """Client authentication; None after a problem."""
    findings = context.findings
    if not value.client_id.strip():
        findings.problem((*path, "clientId"), "the value is empty; write what the authorization server gave you")
    method = _METHODS[value.method]
    if method == "privateKeyJwt":
        if value.client_secret is not None:
            findings.problem((*path, "clientSecret"), "privateKeyJwt has no secret; remove it, or change `method`")
        if value.signing_key is None:
            if context.is_complete(path):
                findings.problem(path, "the key `signingKey` is missing; add it")
            return None
        key = signing_key(context, value.signing_key, value.alg, (*path, "signingKey"))
        return None if key is None else ClientAuthPlan(method, value.client_id, "", key, value.alg, value.kid or "", value.assertion_audience or "")
    for key_name, given in (("signingKey", value.signing_key), ("assertionAudience", value.assertion_audience), ("kid", value.kid)):
        if given is not None:
            findings.problem((*path, key_name), f"only `method: privateKeyJwt` uses `{key_name}`; remove it, or change `method`")
    secret: str | None = ""
    if value.client_secret is not None:
        secret = text_of(context, value.client_secret, (*path, "clientSecret"))
        if secret == "":
            findings.problem((*path, "clientSecret"), "the secret is empty; write it, or `method: clientSecretPost` without one for a public client")
    elif method == "basic" and context.is_complete(path):
        findings.problem(path, "the key `clientSecret` is missing; add it, or write `method: clientSecretPost` for a public client")
    return None if secret is None else ClientAuthPlan(method, value.client_id, secret)


def signing_key(context: Context, value: str | FromFile, alg: str, path: Path) -> str | None:
    """A private key as PEM text; None after a problem."""
    text = text_of(context, value, path, KEY_HELP)
    if text is None:
        return None
    from agw.security.upstream.sign import Signer  # cryptography: only files with keys pay for it

    try:
        Signer(text, alg)
    except ValueError as error:
        context.findings.problem(path, f"{error}; {KEY_HELP}")
        return None
    return text


def service_tls(context: Context, policies: ServicePolicies | None, path: Path) -> TlsClientPlan | None:
    """The TLS towards a service, None when nothing is said about it. `path` is where `policies` stands."""
    given = policies.backend_tls if policies is not None else None
    return None if given is None else client_tls(context, given, (*path, "policies", "backendTLS"))


def scopes_of(context: Context, scopes: list[str], path: Path) -> list[str]:
    """The scopes, each looked at."""
    for index, scope in enumerate(scopes):
        if not _SCOPE.fullmatch(scope):
            context.findings.problem((*path, index), f"{quoted(scope)} is no scope; write one per entry, without blanks")
    return scopes


def resource_of(text: str) -> str:
    """A resource indicator: an absolute URI without fragment (RFC 8707, 2)."""
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9+.-]*:[!-\"$-~]+", text):
        raise ValueError(f"{quoted(text)} is no absolute URI without fragment; write it like https://api.example/v1")
    return text
