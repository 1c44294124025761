"""`backendAuth.crossAppAccess`: the caller's ID token for an assertion (ID-JAG) at the identity provider, and that for a token at the
upstream's own authorization server.

Rules:
- the first answer counts only as an ID-JAG (`issued_token_type`, and `token_type` N_A): no access token of the provider is passed on;
- the assertion is used once and not kept; what is kept is the token it was exchanged for.

Source: draft-ietf-oauth-identity-assertion-authz-grant; RFC 8693; RFC 7523 section 2.1.
"""

from __future__ import annotations

import msgspec

from agw.runtime.plan_security import CrossAppAccess
from agw.security.contract import SecurityHost
from agw.security.ext_authz.values import Compile
from agw.security.upstream.exchange import JWT_BEARER, TokenExchangeSource
from agw.security.upstream.token_endpoint import Answer, Form, TokenEndpoint

ID_JAG = "urn:ietf:params:oauth:token-type:id-jag"
_WHAT = "crossAppAccess"


def cross_app_source(plan: CrossAppAccess, host: SecurityHost, compile: Compile | None = None) -> TokenExchangeSource:
    """The source of both steps. Errors: ValueError for an unusable key."""
    second = plan.grant
    endpoint = TokenEndpoint(second.call, second.token_url, second.client, host, _WHAT)
    fixed: Form = [("grant_type", JWT_BEARER)]
    fixed += [("scope", " ".join(second.scopes))] if second.scopes else []

    async def grant(assertion: bytes) -> Answer:
        return await endpoint.ask([*fixed, ("assertion", assertion.decode("ascii"))])

    first = msgspec.structs.replace(plan.exchange, requested_type=ID_JAG, max_entries=plan.max_entries, location=second.location)
    return TokenExchangeSource(first, host, compile, grant, _WHAT)
