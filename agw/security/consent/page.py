"""The page where a user grants the gateway access to an upstream: from the link to the authorization server, and back.

    GET PAGE?ticket=...          to the authorization server     the link of an elicitation
    GET PAGE?code=...&state=...  the grant is made and kept      what comes back

Rules:
- the page is a route of its own, and every request for it is answered here;
- whoever opens a link must be the principal it was made for, as the policies of the page's route see him: a link that is passed
  on grants nothing to whom it came from. Only `anyone` leaves this out, because the operator said so;
- both requests must come from one browser: a cookie binds them, whose digest is in the state;
- a state is good once; an answer that is not of a login that began here is no answer;
- the browser is told nothing about causes; the operator's log is.

Source: MCP 2025-11-25, elicitation, "URL Mode ... Phishing"; RFC 6749 section 10.12; RFC 9700 section 4.7.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
import re
from collections.abc import Awaitable
from typing import NamedTuple
from urllib.parse import parse_qsl, urlsplit

from agw.runtime.plan_security import ConsentPlan
from agw.security.consent.answers import said, sent
from agw.security.contract import Found, Refusal, Request, SecurityHost, Verdict
from agw.security.upstream.grant_links import STATE_S, State, Ticket
from agw.security.upstream.grants import UserGrants
from agw.security.upstream.source import CredentialError
from agw.security.upstream.store import GrantStore

POLICY = "oidc"
"""What the metric calls logins of browsers."""
MAX_QUERY = 8192
_COOKIE = re.compile(rb"[A-Za-z0-9_-]{43}")

AGAIN = b"This link is not valid any more. Go back to your application and try again there."
OTHER = b"This link was made for somebody else. Log in as the user of the application that gave it to you."
DECLINED = b"Access was not granted. Go back to your application and try again there."
GRANTED = b"Access was granted. You can close this page and go on in your application."
DOWN = b"The server that grants access does not answer at the moment. Try again later."


class _Met(NamedTuple):
    """What one of the page's grants made of a request."""

    grants: UserGrants
    what: Ticket | State


class ConsentPage:
    """One page. `check` is `agw.security.contract.Step`."""

    def __init__(self, plan: ConsentPlan, host: SecurityHost) -> None:
        """Errors: ValueError for an unusable key of a client."""
        self._grants = [UserGrants(grant, host) for grant in plan.grants]
        self._host = host
        parts = urlsplit(plan.grants[0].redirect_uri)
        self._anyone = plan.grants[0].anyone
        secure = parts.scheme == "https"
        self._name = b"__Secure-agw-consent" if secure else b"agw-consent"
        self._rest = b"; Path=%b; Max-Age=%d; HttpOnly; SameSite=Lax%b\r\n" % (parts.path.encode(), STATE_S, b"; Secure" if secure else b"")

    def check(self, request: Request, found: Found) -> Verdict | Awaitable[Verdict]:
        """Answer a request; see the contract."""
        found.lasting = False
        if request.method != "GET":
            return said(405, b"Open this page with a browser.", "consent: another method than GET", b"Allow: GET\r\n")
        return self._answered(request, found)

    async def _answered(self, request: Request, found: Found) -> Verdict:
        try:
            says = _fields(request.query)
            if "state" in says:
                return await self._come_back(request, found, says)
            return await self._go(request, found, says.get("ticket", ""))
        except CredentialError as error:
            if error.kind == "unreachable":
                self._host.count(POLICY, "error")
                return said(503, DOWN, f"consent: {error}", b"Retry-After: 5\r\n")
            return self._refused(400, DECLINED, str(error))

    async def _go(self, request: Request, found: Found, text: str) -> Refusal:
        met = self._open(text, is_state=False)
        if met is None or not isinstance(met.what, Ticket):
            return self._refused(400, AGAIN, "no link of this gateway, or its time is over")
        if not self._is_his(found, met.what.user):
            return self._refused(403, OTHER, "a link was opened by somebody else than the principal it was made for")
        known = self._cookies(request)
        cookie = known[0] if known else base64.urlsafe_b64encode(os.urandom(32)).rstrip(b"=")
        target = await met.grants.begin(met.what, _digest(cookie))
        try:
            return sent(target, b"Set-Cookie: " + self._name + b"=" + cookie + self._rest)
        except ValueError:
            return self._refused(400, DECLINED, "the authorization server's address is no URL")

    async def _come_back(self, request: Request, found: Found, says: dict[str, str]) -> Refusal:
        met = self._open(says["state"], is_state=True)
        if met is None or not isinstance(met.what, State):
            return self._refused(400, AGAIN, "an answer to no login of this gateway, or too late")
        state = met.what
        if not self._is_his(found, state.user):
            return self._refused(403, OTHER, "the answer to a login was brought by somebody else than the principal it is of")
        if not any(hmac.compare_digest(_digest(cookie), state.browser) for cookie in self._cookies(request)):
            return self._refused(400, AGAIN, "the answer to a login was brought by another browser than began it")
        await met.grants.finish(state, says)
        self._host.count(POLICY, "ok")
        return said(200, GRANTED, "consent: granted")

    def _open(self, text: str, *, is_state: bool) -> _Met | None:
        store: GrantStore | None = None
        for grants in self._grants:
            store = grants.store if store is None else store
            opened = grants.links.open_state(store, text) if is_state else grants.links.open_ticket(store, text)
            if opened is not None:
                return _Met(grants, opened)
        return None

    def _is_his(self, found: Found, user: str) -> bool:
        return self._anyone or hmac.compare_digest(found.key().hex(), user)

    def _cookies(self, request: Request) -> list[bytes]:
        """The values of our cookie that are well formed."""
        pairs = (part.strip().partition(b"=") for value in request.values(b"cookie") for part in value.split(b";"))
        return [value for name, _, value in pairs if name == self._name and _COOKIE.fullmatch(value)][:8]

    def _refused(self, status: int, text: bytes, cause: str) -> Refusal:
        self._host.count(POLICY, "refused")
        return said(status, text, f"consent: {cause}")


def _fields(query: bytes | None) -> dict[str, str]:
    """The fields of a query; none when it is no query, or has one twice (RFC 6749 section 3.1)."""
    text = (query or b"").decode("ascii", "replace")
    try:
        pairs = parse_qsl(text, keep_blank_values=True, max_num_fields=32, errors="strict") if len(text) <= MAX_QUERY else []
    except ValueError:
        pairs = []
    fields = dict(pairs)
    return fields if len(fields) == len(pairs) else {}


def _digest(cookie: bytes) -> str:
    return hashlib.sha256(cookie).hexdigest()[:32]


def factory(plan: ConsentPlan, host: SecurityHost) -> ConsentPage:
    """The step of a plan."""
    return ConsentPage(plan, host)
