"""`tokenIntrospection`: opaque bearer tokens, judged by the server that issued them (RFC 7662).

Rules:
- an answer is kept by the SHA-256 of the token, for `ttl_ns` and never beyond the token's end; "not active" for at most NEGATIVE;
- the same token asked many times at once is one call; calls at once are bounded;
- only 200 with a JSON object whose `active` is true lets in; no answer is 503, and is not remembered;
- what the server says about the token is `jwt` for rules and limits: the same words mean the same.
"""

from __future__ import annotations

import asyncio
import base64
import re
import time
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple
from urllib.parse import quote_plus, urlencode

from agw.runtime.plan_security import IntrospectionPlan
from agw.security.authentication import Policy, Remembered, bearer_challenges, digest, is_plain, log_field, scopes_of
from agw.security.compact import MAX_TOKEN, object_of
from agw.security.contract import JWT_AUTH, CallError, Found, Headers, Request, SecurityHost, Verdict
from agw.security.credentials_in import Malformed, reader

NEGATIVE = 10.0
"""Seconds for which a token stays not active."""
MAX_CALLS = 64
"""Calls at once of one policy."""
MAX_TIME = 253_402_300_799
_TOKEN = re.compile(rb"[A-Za-z0-9._~+/-]+=*")  # RFC 6750, 2.1


class _Active(NamedTuple):
    """What the server said about a token that is active."""

    claims: dict[str, Any]
    kind: str
    name: str
    expires: float


class _NoAnswer(NamedTuple):
    cause: str


_Answer = _Active | Malformed | _NoAnswer


class IntrospectionAuth:
    """The step."""

    __slots__ = ("_answers", "_body", "_clock", "_headers", "_host", "_plan", "_policy", "_read", "_running")

    def __init__(self, plan: IntrospectionPlan, host: SecurityHost, parameters: str = "", clock: Callable[[], float] = time.time) -> None:
        self._plan = plan
        self._host = host
        self._clock = clock
        self._read = reader(plan.location)
        self._policy = Policy(host, "introspection", JWT_AUTH, plan.mode, *bearer_challenges(plan.location, parameters))
        self._answers: Remembered[_Active | Malformed] = Remembered(plan.max_entries, clock)
        self._running: dict[bytes, asyncio.Task[_Answer]] = {}
        self._headers: Headers = [(b"content-type", b"application/x-www-form-urlencoded"), (b"accept", b"application/json")]
        if plan.client_id:
            # RFC 6749, 2.3.1: both are form-encoded before they are put together.
            pair = f"{quote_plus(plan.client_id)}:{quote_plus(plan.client_secret)}".encode()
            self._headers.append((b"authorization", b"Basic " + base64.b64encode(pair)))

    def check(self, request: Request, found: Found) -> Verdict | Awaitable[Verdict]:
        """Find out whether the token is active. Awaits when it is not remembered."""
        token = self._read(request)
        if token is None:
            return self._policy.missing()
        if isinstance(token, Malformed):
            return self._policy.bad(token.cause)
        if len(token) > MAX_TOKEN or not _TOKEN.fullmatch(token):
            return self._policy.bad("not a bearer token of at most 16 KiB")
        key = digest(token)
        answer = self._answers.get(key)
        if answer is not None:
            return self._decide(token, key, answer, found)
        return self._later(token, key, found)

    async def _later(self, token: bytes, key: bytes, found: Found) -> Verdict:
        running = self._running.get(key)
        if running is None:
            if len(self._running) >= MAX_CALLS:
                return self._policy.unavailable(f"more than {MAX_CALLS} introspections at once")
            # A task of its own: the request that asked first may go away before the others have their answer.
            running = self._running[key] = asyncio.get_running_loop().create_task(self._ask(token, key))
        return self._decide(token, key, await asyncio.shield(running), found)

    async def _ask(self, token: bytes, key: bytes) -> _Answer:
        try:
            answer = await self._call(token)
        finally:
            del self._running[key]
        ttl = self._plan.ttl_ns / 1e9
        if isinstance(answer, _Active):
            self._answers.put(key, answer, min(ttl, answer.expires - self._clock()))
        elif isinstance(answer, Malformed):
            self._answers.put(key, answer, min(ttl, NEGATIVE))
        return answer

    async def _call(self, token: bytes) -> _Answer:
        body = urlencode({"token": token, "token_type_hint": "access_token"}).encode("ascii")
        try:
            answer = await self._host.caller(self._plan.call, "POST", self._headers, body)
        except CallError as error:
            return _NoAnswer(f"the introspection endpoint: {error.kind}")
        if answer.status != 200:
            return _NoAnswer(f"the introspection endpoint answers {answer.status}")
        claims = object_of(answer.body)
        if isinstance(claims, Malformed):
            return _NoAnswer(f"the introspection endpoint's answer: {claims.cause}")
        return self._judge(claims)

    def _judge(self, claims: dict[str, Any]) -> _Answer:
        if claims.get("active") is not True:
            return Malformed("the token is not active")
        now = self._clock()
        for name in ("exp", "nbf", "iat"):
            value = claims.get(name, 0)
            if type(value) not in (int, float) or not 0 <= value <= MAX_TIME:
                return Malformed(f"{name} is no number of seconds between 0 and the year 9999")
        if "exp" in claims and claims["exp"] <= now:
            return Malformed("the token has expired")
        if claims.get("nbf", 0) > now + 60:
            return Malformed("the token is not valid yet")
        issuer = claims.get("iss", self._plan.issuer)
        if not isinstance(issuer, str) or (self._plan.issuer and issuer != self._plan.issuer):
            return Malformed("the token is from another issuer")
        if self._plan.audiences:
            audience = claims.get("aud")
            named = [audience] if isinstance(audience, str) else audience
            if not isinstance(named, list) or not any(item in self._plan.audiences for item in named):
                return Malformed("the token is for another audience")
        for kind, member in (("token-sub", "sub"), ("token-user", "username"), ("token-client", "client_id")):
            user = claims.get(member)
            if user is None:
                continue
            if not isinstance(user, str) or not is_plain(user):
                return Malformed(f"{member} is no text of 1 to 1024 characters without control characters")
            who = f"{issuer}\0{user}" if is_plain(issuer) else f"\0{user}"
            return _Active(claims, kind, who, float(claims.get("exp", float("inf"))))
        return _Active(claims, "token", "", float(claims.get("exp", float("inf"))))

    def _decide(self, token: bytes, key: bytes, answer: _Answer, found: Found) -> Verdict:
        if isinstance(answer, Malformed):
            return self._policy.bad(answer.cause)
        if isinstance(answer, _NoAnswer):
            return self._policy.unavailable(answer.cause)
        found.claims["jwt"] = answer.claims
        found.token = token
        found.scopes |= scopes_of(answer.claims)
        # A token can be revoked: whoever remembers the identity asks again after the time an answer is kept.
        found.expires = min(found.expires, answer.expires, self._clock() + self._plan.ttl_ns / 1e9)
        found.name(answer.kind, answer.name or key.hex())
        subject = claims_text(answer.claims, "sub") or claims_text(answer.claims, "username")
        if subject:
            found.log_fields += log_field("jwt.sub", subject)
        return self._policy.good()


def claims_text(claims: dict[str, Any], name: str) -> str:
    """A claim that is text, "" for every other."""
    value = claims.get(name)
    return value if isinstance(value, str) else ""


def factory(plan: IntrospectionPlan, host: SecurityHost) -> IntrospectionAuth:
    """The step of a `tokenIntrospection` policy."""
    return IntrospectionAuth(plan, host)
