"""Credentials towards backends and targets: `backendAuth`.

Rules:
- `make` is the one way in; what a credential needs (cryptography, an expression engine) is imported when a plan has it;
- several credentials of one backend are one source: all of them, or no request.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from agw.runtime.plan_security import (
    AwsSign,
    BackendAuthPlan,
    ClientCredentials,
    Credential,
    CrossAppAccess,
    JwtSign,
    KeyCredential,
    PassthroughCredential,
    TokenExchange,
    UserGrant,
)
from agw.security.contract import Request, SecurityHost

if TYPE_CHECKING:
    from agw.security.ext_authz.values import Compile
    from agw.security.upstream.source import CredentialSource, Identity, Presented


def make(plan: BackendAuthPlan, host: SecurityHost, compile: Compile | None = None) -> CredentialSource:
    """The source of a backend's credentials. `compile` makes expressions; without it only constants are possible.

    Errors: ValueError for a plan that cannot work (a secret with a line end, a key that cannot be read).
    """
    sources = [_one(credential, host, compile) for credential in plan.credentials]
    return sources[0] if len(sources) == 1 else Several(sources)


def _one(plan: Credential, host: SecurityHost, compile: Compile | None) -> CredentialSource:
    if isinstance(plan, KeyCredential):
        from agw.security.upstream.static import KeySource

        return KeySource(plan)
    if isinstance(plan, PassthroughCredential):
        from agw.security.upstream.static import PassthroughSource

        return PassthroughSource(plan)
    if isinstance(plan, ClientCredentials):
        from agw.security.upstream.client_credentials import ClientCredentialsSource

        return ClientCredentialsSource(plan, host)
    if isinstance(plan, TokenExchange):
        from agw.security.upstream.exchange import TokenExchangeSource

        return TokenExchangeSource(plan, host, compile)
    if isinstance(plan, JwtSign):
        from agw.security.upstream.jwt_sign import JwtSignSource

        return JwtSignSource(plan, host, compile)
    if isinstance(plan, CrossAppAccess):
        from agw.security.upstream.cross_app import cross_app_source

        return cross_app_source(plan, host, compile)
    if isinstance(plan, AwsSign):
        from agw.security.upstream.sigv4 import AwsSource

        return AwsSource(plan)
    if isinstance(plan, UserGrant):
        from agw.security.upstream.grant_source import GrantSource

        return GrantSource(plan, host)
    raise ValueError(f"no source for {type(plan).__name__}")


class Several:
    """All credentials of a backend, in the order of the plan."""

    __slots__ = ("_sources", "signs")

    def __init__(self, sources: list[CredentialSource]) -> None:
        from agw.security.upstream.source import signs

        self._sources = sources
        self.signs = any(signs(item) for item in sources)

    def ready(self, identity: Identity | None, request: Request | None) -> Presented | None:
        """All of them when all are at hand. Errors: CredentialError."""
        found: list[Presented] = []
        for source in self._sources:
            presented = source.ready(identity, request)
            if presented is None:
                return None
            found.append(presented)
        return _joined(found)

    async def fetch(self, identity: Identity | None, request: Request | None) -> Presented:
        """All of them, one after the other. Errors: CredentialError."""
        found: list[Presented] = []
        for source in self._sources:
            presented = source.ready(identity, request)
            found.append(presented if presented is not None else await source.fetch(identity, request))
        return _joined(found)

    def invalidate(self, identity: Identity | None, request: Request | None = None) -> None:
        """Which one the upstream refused is not known: all of them."""
        for source in self._sources:
            source.invalidate(identity, request)


def _joined(found: list[Presented]) -> Presented:
    from agw.security.upstream.source import Presented

    return Presented(
        b"".join(item.lines for item in found),
        b"&".join(item.query for item in found if item.query),
        b"; ".join(item.cookie for item in found if item.cookie),
    )
