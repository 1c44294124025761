"""`backendAuth.oauthTokenExchange`: the caller's token for one that the upstream takes (RFC 8693, RFC 7523 section 2.1).

Rules:
- the subject is the token a policy of the route has verified; else what stands at its place in the request, which the
  authorization server then judges: nothing reaches the upstream but what that server issued;
- a token is kept by the digest of all that it was asked with, so no caller ever gets one made for another;
- a token is kept no longer than the caller's own is good, where that is known.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Awaitable, Callable

from agw.runtime.plan_security import LocationPlan, TokenExchange
from agw.security.contract import Found, Request, SecurityHost
from agw.security.credentials_in import Malformed, Reader, reader
from agw.security.ext_authz.values import Compile, Value, ValueFailure
from agw.security.upstream.source import CredentialError, Identity, Placer, Presented
from agw.security.upstream.token_endpoint import ACCESS_TOKEN, JWT, MAX_TOKEN, Answer, Form, TokenEndpoint
from agw.security.upstream.tokens import Issued, TokenCache

_EXCHANGE = "urn:ietf:params:oauth:grant-type:token-exchange"
JWT_BEARER = "urn:ietf:params:oauth:grant-type:jwt-bearer"
Grant = Callable[[bytes], Awaitable[Answer]]
"""A second step: what was issued, for the token the upstream takes. Errors: CredentialError."""
MAX_PARAMETER = 8192
"""Octets of an additional parameter."""




class TokenExchangeSource:
    """The source."""

    __slots__ = (
        "_accepted", "_actor", "_actor_type", "_cache", "_default_s", "_endpoint", "_fixed", "_grant", "_is_exchange", "_more", "_place", "_read", "_verified",
        "_what",
    )  # fmt: skip

    def __init__(
        self, plan: TokenExchange, host: SecurityHost, compile: Compile | None = None, grant: Grant | None = None, what: str = "oauthTokenExchange"
    ) -> None:
        """`grant` makes this the first of two steps, which issues nothing but `requested_type`. Errors: ValueError for an unusable key or expression."""
        self._what = what
        self._grant = grant
        self._place = Placer(plan.location)
        self._verified = plan.subject is None
        self._read: Reader = reader(plan.subject or LocationPlan())
        self._actor: Reader | None = None if plan.actor is None else reader(plan.actor)
        self._actor_type = plan.actor_type
        self._is_exchange = plan.grant == "tokenExchange"
        self._accepted = frozenset((plan.requested_type,) if grant is not None else (ACCESS_TOKEN, JWT, plan.requested_type))
        self._default_s = plan.ttl_ns / 1e9
        self._endpoint = TokenEndpoint(plan.call, plan.token_url, plan.client, host, what)
        self._cache = TokenCache(host, what, plan.max_entries)
        self._more = [(name, Value(text, f"{what}.additionalParams.{name}", compile)) for name, text in plan.additional_params_cel.items()]
        self._fixed: Form = [("grant_type", _EXCHANGE if self._is_exchange else JWT_BEARER)]
        if self._is_exchange:
            self._fixed.append(("subject_token_type", plan.subject_type))
            self._fixed += [("requested_token_type", plan.requested_type)] if plan.requested_type else []
        self._fixed += [("audience", text) for text in plan.audiences] + [("resource", text) for text in plan.resources]
        self._fixed += [("scope", " ".join(plan.scopes))] if plan.scopes else []

    def ready(self, identity: Identity | None, request: Request | None) -> Presented | None:
        """The caller's token when there is one. Errors: CredentialError (missing) when he brought nothing to exchange."""
        form = self._form(identity, request)
        return self._cache.ready(_key(identity, form), lambda: self._ask(form, identity))

    async def fetch(self, identity: Identity | None, request: Request | None) -> Presented:
        """The caller's token. Errors: CredentialError."""
        form = self._form(identity, request)
        return await self._cache.fetch(_key(identity, form), lambda: self._ask(form, identity))

    def invalidate(self, identity: Identity | None, request: Request | None = None) -> None:
        """The caller's next request exchanges anew, unless the token is new."""
        try:
            self._cache.drop(_key(identity, self._form(identity, request)))
        except CredentialError:
            pass  # nothing to exchange, so nothing was kept

    async def _ask(self, form: Form, identity: Identity | None) -> Issued:
        answer = await self._endpoint.ask(self._fixed + form, self._accepted, "bearer" if self._grant is None else "n_a")
        if self._grant is not None:
            answer = await self._grant(answer.token)
        lifetime_s = self._default_s if answer.lifetime_s is None else answer.lifetime_s
        claims = identity.claims.get("jwt") if identity is not None and self._verified else None
        end = claims.get("exp") if isinstance(claims, dict) else None
        if isinstance(end, int | float):
            lifetime_s = min(lifetime_s, end - time.time())
        return Issued(self._place(answer.token), lifetime_s)

    def _form(self, identity: Identity | None, request: Request | None) -> Form:
        """What depends on the caller. Errors: CredentialError (missing)."""
        subject = identity.token if self._verified and identity is not None else b""
        # A verified token that is no ASCII cannot be: what reads tokens takes visible ASCII only.
        text = (subject or self._found(self._read, request, "token")).decode("latin-1")
        form: Form = [("subject_token" if self._is_exchange else "assertion", text)]
        if self._actor is not None:
            form += [("actor_token", self._found(self._actor, request, "actor's token").decode("ascii")), ("actor_token_type", self._actor_type)]
        if self._more:
            form += self._parameters(identity, request)
        return form

    def _parameters(self, identity: Identity | None, request: Request | None) -> Form:
        found = Found()
        if identity is not None:
            found.claims = dict(identity.claims)
        out: Form = []
        for name, value in self._more:
            try:
                octets = value.octets(request, found, {})  # type: ignore[arg-type]  # a constant needs no request
                text = octets.decode("utf-8")
            except (ValueFailure, UnicodeDecodeError):
                raise CredentialError("missing", f"{self._what}: additionalParams.{name} has no value for this request") from None
            if len(octets) > MAX_PARAMETER:
                raise CredentialError("missing", f"{self._what}: additionalParams.{name} is longer than {MAX_PARAMETER} octets")
            out.append((name, text))
        return out

    def _found(self, read: Reader, request: Request | None, name: str) -> bytes:
        token = None if request is None else read(request)
        if token is None:
            raise CredentialError("missing", f"{self._what}: the caller brought no {name}")
        if isinstance(token, Malformed) or len(token) > MAX_TOKEN:
            cause = token.cause if isinstance(token, Malformed) else f"longer than {MAX_TOKEN} octets"
            raise CredentialError("missing", f"{self._what}: the {name}: {cause}")
        return token


def _key(identity: Identity | None, form: Form) -> bytes:
    """The principal's name is part of it: a token that was verified as another's is another."""
    digest = hashlib.sha256(b"" if identity is None else identity.key)
    for pair in form:
        for text in pair:
            octets = text.encode("utf-8")
            digest.update(b"%d:" % len(octets) + octets)
    return digest.digest()
