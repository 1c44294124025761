"""Credentials that need nobody: a secret of the configuration, and the caller's own verified token.

Rules:
- the secret is put into its place once; a request costs a look;
- only a token that a policy of this route has verified is passed on; what the caller sent unasked never is. Whoever may come without
  any (`mode: optional`) is nobody to the backend too.
"""

from __future__ import annotations

from agw.runtime.plan_security import KeyCredential, PassthroughCredential
from agw.security.contract import Request
from agw.security.upstream.source import CredentialError, Identity, Placer, Presented


class KeySource:
    """`backendAuth.key`."""

    __slots__ = ("_presented",)

    def __init__(self, plan: KeyCredential) -> None:
        """Errors: ValueError for a secret that cannot stand where it should."""
        try:
            self._presented = Placer(plan.location)(plan.value.encode("utf-8"))
        except (CredentialError, UnicodeEncodeError) as error:
            raise ValueError(str(error) if isinstance(error, CredentialError) else "the credential is no Unicode text") from None

    def ready(self, identity: Identity | None, request: Request | None) -> Presented | None:
        """The secret in its place."""
        return self._presented

    async def fetch(self, identity: Identity | None, request: Request | None) -> Presented:
        """The secret in its place."""
        return self._presented

    def invalidate(self, identity: Identity | None, request: Request | None = None) -> None:
        """Nothing: there is no other."""


class PassthroughSource:
    """`backendAuth.passthrough`."""

    __slots__ = ("_place",)

    def __init__(self, plan: PassthroughCredential) -> None:
        self._place = Placer(plan.location)

    def ready(self, identity: Identity | None, request: Request | None) -> Presented | None:
        """The caller's token, nothing for nobody. Errors: CredentialError (missing) when he was known by something else, or no policy looked."""
        if identity is not None and not identity.key:
            return Presented()
        if identity is None or not identity.token:
            raise CredentialError("missing", "passthrough: the caller showed no token that this route verifies")
        return self._place(identity.token)

    async def fetch(self, identity: Identity | None, request: Request | None) -> Presented:
        """The same as `ready`."""
        presented = self.ready(identity, request)
        assert presented is not None
        return presented

    def invalidate(self, identity: Identity | None, request: Request | None = None) -> None:
        """Nothing: the caller has to bring another."""
