"""The step of an MCP endpoint as OAuth resource server: well-known documents for everybody, everything else with a token.

Rules:
- documents and registration are public, since they are how a client gets its token; they are read by browsers of any origin;
- tokens are judged by the JWT step; a refusal of it becomes the challenge that leads the client to a token;
- a token in the query or the body of a request is no token here, whatever the metadata says of other servers;
- scopes every call needs are demanded here, those of single tools where the message is known (`scopes`).

The body of the few requests that are answered here is in `found.body` when `check` is asked (`contract.Reader`).
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Generator
from functools import partial
from typing import Any

from agw.runtime.plan_security import McpAuthPlan
from agw.security.contract import Found, Refusal, Request, SecurityHost, Step, Verdict
from agw.security.mcp_auth.adapters import endpoints
from agw.security.mcp_auth.challenge import insufficient, unauthenticated
from agw.security.mcp_auth.metadata import Documents
from agw.security.mcp_auth.places import AUTHORIZE, REGISTRATION, Place, place_of
from agw.security.mcp_auth.proxy import MAX_FORM, ServerProxy, answer, oauth_error

_CORS = b"Access-Control-Allow-Origin: *\r\n"
_PREFLIGHT = (
    b"Access-Control-Allow-Methods: GET, POST, OPTIONS\r\nAccess-Control-Allow-Headers: authorization, content-type, mcp-protocol-version\r\n"
    b"Access-Control-Max-Age: 600\r\n"
)


class _Later:
    """A verdict that is waited for, and what is made of it. Await it, or close it: a coroutine would keep the other one from being closed."""

    __slots__ = ("_then", "_verdict")

    def __init__(self, verdict: Awaitable[Verdict], then: Callable[[Verdict], Verdict]) -> None:
        self._verdict = verdict
        self._then = then

    def __await__(self) -> Generator[Any, None, Verdict]:
        """The verdict."""
        return self._then((yield from self._verdict.__await__()))

    def close(self) -> None:
        """Nobody waits for it."""
        close: Any = getattr(self._verdict, "close", None)
        if close is not None:
            close()


class McpAuthStep:
    """One `mcpAuthentication` policy. `inner` judges tokens."""

    takes_part = False

    def __init__(self, plan: McpAuthPlan, host: SecurityHost, inner: Step) -> None:
        self._plan = plan
        self._host = host
        self._inner = inner
        self._cors = plan.cors
        self._offered = endpoints(plan.provider, plan.client_id)
        self._documents = Documents(plan)
        self._server = ServerProxy(plan, host, self._offered)
        self._required = frozenset(plan.scopes_required)

    def too_long(self) -> Refusal:
        """See `contract.Reader`."""
        return self._finished(oauth_error(413, "invalid_request", "the request is too large"))

    def wants_body(self, request: Request) -> int:
        """How many octets of the body `check` needs; 0 for none."""
        if request.method != "POST":
            return 0
        place = place_of(request.path, self._offered)
        return 0 if place is None or place.what in ("resource", "server", AUTHORIZE) else MAX_FORM

    def watch(self, removed: Callable[[], object]) -> None:
        """Call `removed` when tokens that were verified may not hold any more."""
        watch: Any = getattr(self._inner, "watch", None)
        if watch is not None:
            watch(removed)

    def check(self, request: Request, found: Found) -> Verdict | Awaitable[Verdict]:
        """See `contract.Step`."""
        place = place_of(request.path, self._offered)
        if place is not None:
            found.lasting = False
            return self._public(request, found, place)
        verdict = self._inner.check(request, found)
        if inspect.isawaitable(verdict):
            return _Later(verdict, partial(self.judged, request, found))
        return self.judged(request, found, verdict)

    def judged(self, request: Request, found: Found, verdict: Verdict) -> Verdict:
        """What becomes of the token's verdict at this endpoint."""
        if verdict is not None:
            if verdict.status != 401:
                return verdict
            return unauthenticated(self._plan, request, self._was_sent(request), verdict.cause)
        if self._required and (found.token or self._plan.jwt.mode == "strict") and self._plan.jwt.mode != "permissive":
            missing = sorted(self._required - found.scopes)
            if missing:
                self._host.count("mcpAuthentication", "denied")
                return insufficient(self._plan, request, self._plan.scopes_required, f"scope {missing[0]!r} is missing")
        return None

    def _was_sent(self, request: Request) -> bool:
        place = self._plan.jwt.location
        if place.kind == "expression":
            return any(request.values(header.encode("latin-1")) for header in place.headers)
        name = place.name.encode("latin-1")
        if place.kind == "query":
            return any(part.partition(b"=")[0] == name for part in (request.query or b"").split(b"&"))
        if place.kind == "cookie":
            return any(part.strip().partition(b"=")[0] == name for value in request.values(b"cookie") for part in value.split(b";"))
        prefix = place.prefix.strip().lower().encode("latin-1")
        return any(value.lower().startswith(prefix) for value in request.values(name.lower()))

    # ------------------------------------------------------------------------------------------ public

    def _public(self, request: Request, found: Found, place: Place) -> Refusal | Awaitable[Verdict]:
        posts = place.what not in ("resource", "server", AUTHORIZE)
        if request.method == "OPTIONS":
            return answer(204, b"", self._lines() + (_PREFLIGHT if self._cors else b""))
        if posts != (request.method == "POST") or (not posts and request.method not in ("GET", "HEAD")):
            allowed = b"POST" if posts else b"GET, HEAD"
            return self._finished(oauth_error(405, "invalid_request", "method not allowed here")._replace(lines=b"Allow: " + allowed + b", OPTIONS\r\n"))
        if place.what == "resource":
            made = self._documents.get(request, place.path)
            if made is None:
                return self._finished(oauth_error(400, "invalid_request", "the request does not say which resource it is about"))
            return self._finished(answer(200, made))
        return self._served(request, found, place)

    async def _served(self, request: Request, found: Found, place: Place) -> Verdict:
        body = found.body or b""
        if place.what == "server":
            out = await self._server.metadata(request, place.path)
        elif place.what == AUTHORIZE:
            out = await self._server.authorize(request.query or b"")
        elif len(body) > MAX_FORM:
            return self.too_long()
        elif place.what == REGISTRATION:
            out = await self._server.register(request.headers, body)
        else:
            out = await self._server.token(request.headers, body)
        return self._finished(out)

    def _lines(self) -> bytes:
        return _CORS if self._cors else b""

    def _finished(self, out: Refusal) -> Refusal:
        return out._replace(lines=out.lines + self._lines())


def factory(plan: McpAuthPlan, host: SecurityHost) -> McpAuthStep:
    """The step of a plan."""
    from agw.security import jwt

    return McpAuthStep(plan, host, jwt.factory(plan.jwt, host))
