"""`backendAuth.oauthClientCredentials`: a token for agw itself (RFC 6749 section 4.4), the same for all callers."""

from __future__ import annotations

from agw.runtime.plan_security import ClientCredentials
from agw.security.contract import Request, SecurityHost
from agw.security.upstream.source import Identity, Placer, Presented
from agw.security.upstream.token_endpoint import Form, TokenEndpoint
from agw.security.upstream.tokens import Issued, TokenCache

DEFAULT_S = 300.0
"""How long a token is used whose end is not said."""
_KEY = b""


class ClientCredentialsSource:
    """The source."""

    __slots__ = ("_cache", "_endpoint", "_form", "_place")

    def __init__(self, plan: ClientCredentials, host: SecurityHost) -> None:
        """Errors: ValueError for an unusable key."""
        self._place = Placer(plan.location)
        self._endpoint = TokenEndpoint(plan.call, plan.token_url, plan.client, host, "oauthClientCredentials")
        self._cache = TokenCache(host, "oauthClientCredentials", 1)
        self._form: Form = [("grant_type", "client_credentials")]
        self._form += [("scope", " ".join(plan.scopes))] if plan.scopes else []
        self._form += [(name, value) for name, value in (("audience", plan.audience), ("resource", plan.resource)) if value]

    def ready(self, identity: Identity | None, request: Request | None) -> Presented | None:
        """The token when there is one. Errors: CredentialError while a failure is remembered."""
        return self._cache.ready(_KEY, self._ask)

    async def fetch(self, identity: Identity | None, request: Request | None) -> Presented:
        """The token. Errors: CredentialError."""
        return await self._cache.fetch(_KEY, self._ask)

    def invalidate(self, identity: Identity | None, request: Request | None = None) -> None:
        """The next request asks for another, unless this one is new."""
        self._cache.drop(_KEY)

    async def _ask(self) -> Issued:
        answer = await self._endpoint.ask(self._form)
        return Issued(self._place(answer.token), DEFAULT_S if answer.lifetime_s is None else answer.lifetime_s)
