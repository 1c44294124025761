"""`jwtAuth`: bearer tokens that are JSON Web Tokens (RFC 7519), verified against the keys of their issuer.

Rules:
- the unverified `iss` chooses a provider, and nothing else; then only that provider's keys and rules count (RFC 8725, 3.8);
- the algorithm is one the key is made for and the configuration allows; the token only chooses among those (RFC 8725, 3.1);
- times are JSON numbers between the epoch and the year 9999; texts, infinities, negative ones are refused;
- a token that nothing but other keys can save is remembered as refused for REFUSED_FOR: it costs a digest then, and no second verification.
  What asks for newer keys goes on asking; a token that is early, or whose key is unknown, is never remembered;
- `sub` names the principal together with `iss`; a token without it is its client, or only itself.

Cost: an RS256 token that was not seen before takes 40 us, of which the signature is 21; ES256 120, Ed25519 200. That runs inline.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Generator, Sequence
from typing import Any, NamedTuple

from agw.runtime.plan_security import JwtPlan, JwtProviderPlan
from agw.security.authentication import Policy, Remembered, bearer_challenges, digest, is_plain, log_field, scopes_of
from agw.security.compact import Compact, parse
from agw.security.contract import JWT_AUTH, Found, Request, SecurityHost, Verdict
from agw.security.credentials_in import Malformed, reader
from agw.security.jwks import KeySet
from agw.security.key_source import Keys, candidates, keys_of

MAX_TIME = 253_402_300_799
"""The end of the year 9999, in seconds since the epoch."""
_TIMES = ("exp", "nbf", "iat")
REFUSED_FOR = 30.0
"""Seconds for which a refused token is remembered."""
MAX_REFUSED = 1024
"""Refused tokens remembered, per policy and worker."""


class Verified(NamedTuple):
    """A token that holds. `expires` is in seconds of time.time(), leeway included; infinity when the token says none."""

    claims: dict[str, Any]
    issuer: str
    expires: float


class _Early(Malformed):
    """Not valid now, and maybe soon."""


class Unavailable(NamedTuple):
    """The keys of the issuer are not here, and were never."""

    cause: str


Outcome = Verified | Malformed | Unavailable


class Waiting:
    """A token whose key is unknown, while its issuer is asked for newer ones. Await it, or drop it."""

    __slots__ = ("_asked", "_provider", "_token")

    def __init__(self, provider: _Provider, token: Compact, asked: asyncio.Future[None]) -> None:
        self._provider = provider
        self._token = token
        self._asked = asked

    def __await__(self) -> Generator[Any, None, Outcome]:
        """What the token is, after 3 s at most."""
        return self.outcome().__await__()

    async def outcome(self) -> Outcome:
        """The same as awaiting it."""
        await self._provider.keys.wait(self._asked)
        outcome = self._provider.verify(self._token)
        if outcome is None:
            self._provider.keys.still_unknown(self._token.kid)
            outcome = self._provider.hopeless(self._token)
        return outcome


class _Provider:
    """One issuer: its keys, and what its tokens must say."""

    __slots__ = ("_algorithms", "_audiences", "_clock", "_leeway", "_required", "issuer", "keys")

    def __init__(self, plan: JwtProviderPlan, keys: Keys, clock: Callable[[], float]) -> None:
        self.issuer = plan.issuer
        self.keys = keys
        self._audiences = frozenset(plan.audiences)
        self._algorithms = frozenset(plan.algorithms)
        self._required = tuple(plan.required_claims)
        self._leeway = plan.leeway_s
        self._clock = clock

    def verify(self, token: Compact) -> Outcome | None:
        """What the token is; None when newer keys might say otherwise."""
        if self._algorithms and token.alg not in self._algorithms:
            return Malformed("the algorithm is not one the configuration allows")
        keys = self.keys.get()
        if keys is None:
            return None
        if token.kid is not None:
            known = keys.known(token.kid)
            if not known:
                return None
            if not any(token.alg in key.verify for key in known):
                return Malformed("the key is not made for the algorithm of the token")
        for key in candidates(keys, token.kid, token.alg):
            if key.verify[token.alg](token.signature, token.signed):
                return self._claims(token.claims)
        return None if token.kid is None else Malformed("the signature does not hold")

    def hopeless(self, token: Compact) -> Outcome:
        """What a token is that no newer keys can save."""
        if self.keys.get() is None:
            return Unavailable("the keys of the issuer were never fetched")
        return Malformed("no key without id verifies the signature" if token.kid is None else "the key id is unknown")

    def _claims(self, claims: dict[str, Any]) -> Outcome:
        for name in self._required:
            if claims.get(name) is None:
                return Malformed(f"the claim {name} is missing")
        for name in _TIMES:
            value = claims.get(name, 0)
            if type(value) not in (int, float) or not 0 <= value <= MAX_TIME:
                return Malformed(f"the claim {name} is no number of seconds between 0 and the year 9999")
        now, leeway = self._clock(), self._leeway
        expires = float("inf")
        if "exp" in claims:
            expires = claims["exp"] + leeway
            if now >= expires:
                return Malformed("the token has expired")
        if claims.get("nbf", 0) > now + leeway:
            return _Early("the token is not valid yet")
        if claims.get("iat", 0) > now + leeway:
            return _Early("the token was issued in the future")
        if self._audiences:
            audience = claims.get("aud")
            named = [audience] if isinstance(audience, str) else audience
            if not isinstance(named, list) or not all(isinstance(item, str) for item in named) or self._audiences.isdisjoint(named):
                return Malformed("the token is for another audience")
        subject = claims.get("sub")
        if subject is not None and (not isinstance(subject, str) or not is_plain(subject)):
            return Malformed("the subject is no text of 1 to 1024 characters without control characters")
        return Verified(claims, self.issuer, expires)


class _Refused(NamedTuple):
    """A token that was refused by these key sets; `asks`: newer ones might say otherwise, and each time they are asked for when it is time."""

    outcome: Malformed
    judged: tuple[tuple[Keys, KeySet | None], ...]
    asks: bool

    def holds(self) -> bool:
        """Would the same be said of it now?"""
        return all(keys.get() is then for keys, then in self.judged) and not (
            self.asks and any(keys.ask(None) is not None for keys, _ in self.judged)
        )


class TokenVerifier:
    """Verifies tokens of some issuers. Also for tokens that do not come with a request: an ID token of a login."""

    __slots__ = ("__weakref__", "_providers", "_refused", "_removed")

    def __init__(self, providers: list[JwtProviderPlan], host: SecurityHost, clock: Callable[[], float] = time.time) -> None:
        self._providers: dict[str, list[_Provider]] = {}
        self._removed: list[Callable[[], object]] = []
        self._refused: Remembered[_Refused] = Remembered(MAX_REFUSED)
        for plan in providers:
            keys = keys_of(host, plan.jwks, plan.jwks_url)
            keys.watch(self._keys_removed)
            self._providers.setdefault(plan.issuer, []).append(_Provider(plan, keys, clock))

    def verify(self, token: bytes) -> Outcome | Waiting:
        """What a token is; `Waiting` only when its key is unknown and the issuer may be asked."""
        mark = digest(token)
        before = self._refused.get(mark)
        if before is not None and before.holds():
            return before.outcome
        compact = parse(token)
        if isinstance(compact, Malformed):
            return self._refuse(mark, compact)
        issuer = compact.claims.get("iss")
        providers = self._providers.get(issuer) if isinstance(issuer, str) else None
        if providers is None:
            return self._refuse(mark, Malformed("the token is from another issuer, or says none"))
        last: Outcome | None = None
        lasting = True
        judged: list[tuple[Keys, KeySet | None]] = []
        for provider in providers:
            keys = provider.keys.get()
            outcome = provider.verify(compact)
            if isinstance(outcome, Verified):
                return outcome
            if outcome is None:
                asked = provider.keys.ask(compact.kid)
                if asked is not None:
                    return Waiting(provider, compact, asked)
                outcome = provider.hopeless(compact)
                lasting = lasting and compact.kid is None
            judged.append((provider.keys, keys))
            lasting = lasting and isinstance(outcome, Malformed) and not isinstance(outcome, _Early)
            last = outcome
        assert last is not None
        return self._refuse(mark, last, judged, compact.kid is None) if lasting and isinstance(last, Malformed) else last

    def _refuse(self, mark: bytes, outcome: Malformed, judged: Sequence[tuple[Keys, KeySet | None]] = (), asks: bool = False) -> Malformed:
        self._refused.put(mark, _Refused(outcome, tuple(judged), asks), REFUSED_FOR)
        return outcome

    def on_keys_removed(self, removed: Callable[[], object]) -> None:
        """Call `removed` when tokens that were verified may not hold any more: drop what is remembered of them."""
        self._removed.append(removed)

    def _keys_removed(self) -> None:
        for call in self._removed:
            call()


class JwtAuth:
    """The step. `parameters` are auth-params for both challenges, such as `resource_metadata="..."` (RFC 9728)."""

    __slots__ = ("_policy", "_read", "verifier")

    def __init__(self, plan: JwtPlan, host: SecurityHost, parameters: str = "", clock: Callable[[], float] = time.time) -> None:
        self._read = reader(plan.location)
        self._policy = Policy(host, "jwt", JWT_AUTH, plan.mode, *bearer_challenges(plan.location, parameters))
        self.verifier = TokenVerifier(plan.providers, host, clock)

    def check(self, request: Request, found: Found) -> Verdict | Awaitable[Verdict]:
        """Verify the token of the request. Awaits only for an unknown key."""
        token = self._read(request)
        if token is None:
            return self._policy.missing()
        if isinstance(token, Malformed):
            return self._policy.bad(token.cause)
        outcome = self.verifier.verify(token)
        if isinstance(outcome, Waiting):
            return self._later(token, outcome, found)
        return self._decide(token, outcome, found)

    def watch(self, removed: Callable[[], object]) -> None:
        """Call `removed` when keys went away: what is remembered of verified tokens may not hold any more."""
        self.verifier.on_keys_removed(removed)

    async def _later(self, token: bytes, waiting: Waiting, found: Found) -> Verdict:
        return self._decide(token, await waiting, found)

    def _decide(self, token: bytes, outcome: Outcome, found: Found) -> Verdict:
        if isinstance(outcome, Malformed):
            return self._policy.bad(outcome.cause)
        if isinstance(outcome, Unavailable):
            return self._policy.unavailable(outcome.cause)
        remember(found, token, outcome)
        return self._policy.good()


def remember(found: Found, token: bytes, verified: Verified) -> None:
    """Write what a verified token says into `found`."""
    claims = verified.claims
    found.claims["jwt"] = claims
    found.token = token
    found.scopes |= scopes_of(claims)
    found.expires = min(found.expires, verified.expires)
    subject = claims.get("sub")
    if isinstance(subject, str):
        found.name("jwt", verified.issuer, subject)
        found.log_fields += log_field("jwt.sub", subject)
        return
    client = claims.get("client_id", claims.get("azp"))
    if isinstance(client, str) and is_plain(client):
        found.name("jwt-client", verified.issuer, client)
        found.log_fields += log_field("jwt.client_id", client)
        return
    # Nobody is named: who holds this very token is somebody, and not everybody else of this issuer.
    found.name("jwt-token", verified.issuer, digest(token).hex())


def factory(plan: JwtPlan, host: SecurityHost) -> JwtAuth:
    """The step of a `jwtAuth` policy."""
    return JwtAuth(plan, host)
