"""`backendAuth.jwtSign`: a JWT of our own for the upstream.

Rules:
- a token says the same for everybody whose claims are the same; who differs in one gets another;
- a token is used again for a quarter of its life, at most REUSE_S: that bounds how many signatures a flood of requests costs,
  and leaves every request a token with most of its life before it;
- signatures are made on a thread, since one with RSA takes up to some milliseconds;
- `iat` and `exp` are ours; a claim without a value is no request.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from collections.abc import Callable
from datetime import date, timedelta
from typing import Any

from agw.runtime.plan_security import JwtSign
from agw.security.contract import Found, Request, SecurityHost
from agw.security.ext_authz.values import Compile, Value, ValueFailure
from agw.security.upstream.sign import Signer
from agw.security.upstream.source import CredentialError, Identity, Placer, Presented
from agw.security.upstream.tokens import Issued, TokenCache

REUSE_S = 60.0
MAX_ENTRIES = 8192
MAX_CLAIMS = 4096
"""Octets of all claims together."""
_WHAT = "jwtSign"


class JwtSignSource:
    """The source."""

    __slots__ = ("_cache", "_clock", "_dynamic", "_fixed", "_fixed_text", "_place", "_reuse_s", "_signer", "_ttl_s")

    def __init__(self, plan: JwtSign, host: SecurityHost, compile: Compile | None = None, clock: Callable[[], float] = time.time) -> None:
        """Errors: ValueError for an unusable key or expression."""
        self._place = Placer(plan.location)
        self._signer = Signer(plan.key, plan.alg, plan.kid)
        self._clock = clock
        self._ttl_s = plan.ttl_s
        self._reuse_s = min(plan.ttl_s / 4, REUSE_S)
        self._cache = TokenCache(host, _WHAT, MAX_ENTRIES)
        self._fixed: dict[str, Any] = {}
        self._dynamic: list[tuple[str, Value]] = []
        for name, text in plan.claims.items():
            try:
                self._fixed[name] = json.loads(text)  # JSON is a part of the expression language
            except ValueError:
                self._dynamic.append((name, Value(text, f"{_WHAT}.{name}", compile)))
        self._fixed_text = _text(self._fixed)

    def ready(self, identity: Identity | None, request: Request | None) -> Presented | None:
        """A token that was signed a moment ago. Errors: CredentialError (missing) for a claim without a value."""
        text = self._claims(identity, request)
        return self._cache.ready(_key(text), lambda: self._ask(text))

    async def fetch(self, identity: Identity | None, request: Request | None) -> Presented:
        """A token. Errors: CredentialError."""
        text = self._claims(identity, request)
        return await self._cache.fetch(_key(text), lambda: self._ask(text))

    def invalidate(self, identity: Identity | None, request: Request | None = None) -> None:
        """The next request signs anew, unless this one is new."""
        try:
            self._cache.drop(_key(self._claims(identity, request)))
        except CredentialError:
            pass  # no claims, so there was no token

    async def _ask(self, text: str) -> Issued:
        now = int(self._clock())
        claims = {**json.loads(text), "iat": now, "exp": now + self._ttl_s}
        token = await asyncio.to_thread(self._signer.token, claims)
        return Issued(self._place(token), self._reuse_s)

    def _claims(self, identity: Identity | None, request: Request | None) -> str:
        """What the token says, as JSON. Errors: CredentialError (missing)."""
        if not self._dynamic:
            return self._fixed_text
        found = Found()
        if identity is not None:
            found.claims = dict(identity.claims)
        claims = dict(self._fixed)
        for name, value in self._dynamic:
            try:
                claims[name] = value(request, found, {})  # type: ignore[arg-type]  # a constant needs no request
                _text(claims[name])
            except (ValueFailure, ValueError, TypeError):
                raise CredentialError("missing", f"{_WHAT}: the claim {name} has no value for this request") from None
        text = _text(claims)
        if len(text) > MAX_CLAIMS:
            raise CredentialError("missing", f"{_WHAT}: the claims are longer than {MAX_CLAIMS} characters")
        return text


def _text(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), sort_keys=True, allow_nan=False, default=_plain)


def _plain(value: Any) -> Any:
    """JSON for what expressions give besides: durations in seconds, times as text."""
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, bytes):
        return value.decode("utf-8")
    if isinstance(value, date):
        return value.isoformat()
    raise ValueError("no JSON value")


def _key(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8")).digest()
