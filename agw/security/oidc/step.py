"""The step of `oidc`: who has a session passes, a browser is sent to log in, its return is checked, everybody else gets 401.

Rules:
- the path of `redirect_uri` and the logout path are the gateway's own; nothing there reaches the upstream;
- one login is one state: random, sealed in a cookie of its name with nonce, verifier and the way back, good once and for LOGIN_S;
- the way back is a path of this origin, taken from the request that began the login, never from the callback;
- the upstream never sees these cookies;
- what an answer says to the browser tells nothing about why; the operator's log does.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import logging
import os
import re
import time
from collections.abc import Awaitable
from typing import Any
from urllib.parse import parse_qsl, quote, urlsplit

from agw.runtime.plan_security import OidcPlan
from agw.security.contract import OIDC, Found, Refusal, Request, SecurityHost, Verdict
from agw.security.jwt import Verified
from agw.security.oidc.cookies import MAX_LOGINS, Jar, Sealer, TooLong, cookies_of, without
from agw.security.oidc.provider import Endpoints, Provider, ProviderError

log = logging.getLogger(__name__)

POLICY = "oidc"
LOGIN_S = 600
MAX_RETURN = 2048
MAX_QUERY = 8192
_LOGIN, _SESSION = b"login", b"session"
_RETURN = re.compile(rb"/(?![/\\])[!-\[\]-~]*")
_DROPPED = ("nonce", "at_hash", "c_hash", "s_hash", "sid", "jti")
"""Claims of the ID token that were for the login only."""
_NO_STORE = b"Cache-Control: no-store\r\n"


class Oidc:
    """One `oidc` policy of a route. `check` is `agw.security.contract.Step`."""

    def __init__(self, plan: OidcPlan, host: SecurityHost) -> None:
        """Errors: ValueError for a plan without usable cookie keys or key set."""
        parts = urlsplit(plan.redirect_uri)
        self._plan = plan
        self._host = host
        self._callback = (parts.path or "/").encode()
        self._logout = plan.logout_path.encode()
        identity = "\0".join((plan.issuer, plan.client_id, parts.path or "/")).encode()
        self._jar = Jar(identity, parts.scheme == "https")
        self._sealer = Sealer(plan.cookie_keys, identity)
        self._provider = Provider(plan, host)
        self._scopes = " ".join(dict.fromkeys(["openid", *plan.scopes]))

    def check(self, request: Request, found: Found) -> Verdict | Awaitable[Verdict]:
        """Look at a request; see the contract."""
        # Cookies are rewritten for every request anew; and nobody else who shows the same has been asked about elsewhere.
        found.lasting = False
        if request.hopped:
            return None
        if request.path == self._callback:
            return self._returned(request)
        if self._logout and request.path == self._logout:
            return self._leave(request)
        cookies = cookies_of(request)
        if self._enter(cookies, found):
            line, removed = without(request, self._jar)
            if removed:
                found.remove += (b"cookie",)
                found.lines += line
            self._host.count(POLICY, "ok")
            return None
        self._host.count(POLICY, "missing")
        if not is_navigation(request):
            return Refusal(401, OIDC, b"login required", "oidc: no session, and no browser that could log in", _NO_STORE)
        try:
            endpoints = self._provider.known()
        except ProviderError as error:
            return self._unavailable(error)
        return self._begin_later(request, cookies) if endpoints is None else self._begin(endpoints, request, cookies)

    # ------------------------------------------------------------------------------------------------ sessions

    def _enter(self, cookies: dict[bytes, bytes], found: Found) -> bool:
        """Take the session of a browser over into `found`; False when it has none that holds."""
        sealed = self._jar.session_of(cookies)
        session = None if sealed is None else self._sealer.open(_SESSION, sealed)
        if session is None:
            return False
        claims, expires = session.get("claims"), session.get("exp")
        if not isinstance(claims, dict) or not isinstance(expires, int) or expires <= time.time():
            return False
        found.claims["jwt"] = claims
        found.expires = min(found.expires, float(expires))
        found.name("jwt", self._plan.issuer, str(claims.get("sub", "")))
        return True

    def _leave(self, request: Request) -> Verdict:
        if request.method not in ("GET", "HEAD", "POST") or request.values(b"sec-fetch-site") == [b"cross-site"]:
            # Another site may not end the session of its visitor here.
            return Refusal(403, OIDC, b"not allowed", "oidc: logout asked for by another site", _NO_STORE)
        cookies = cookies_of(request)
        lines = self._jar.clear([*self._jar.session_names(cookies), *self._jar.logins(cookies)]) + _NO_STORE
        try:
            endpoints = self._provider.known()
        except ProviderError:
            endpoints = None
        if endpoints is not None and endpoints.end_session:
            return _sent(_with(endpoints.end_session, {"client_id": self._plan.client_id}), lines)
        return Refusal(200, OIDC, b"logged out", "oidc: logged out", lines, body=b"logged out\n", content_type=b"text/plain; charset=utf-8")

    # ------------------------------------------------------------------------------------------------ going

    async def _begin_later(self, request: Request, cookies: dict[bytes, bytes]) -> Verdict:
        try:
            return self._begin(await self._provider.endpoints(), request, cookies)
        except ProviderError as error:
            return self._unavailable(error)

    def _begin(self, endpoints: Endpoints, request: Request, cookies: dict[bytes, bytes]) -> Refusal:
        state, nonce, verifier = (_random() for _ in range(3))
        back = way_back(request, (self._callback, self._logout))
        login = {"state": state, "nonce": nonce, "verifier": verifier, "back": back.decode("ascii"), "at": int(time.time())}
        challenge = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()
        target = _with(
            endpoints.authorization,
            {
                "response_type": "code", "client_id": self._plan.client_id, "redirect_uri": self._plan.redirect_uri, "scope": self._scopes,
                "state": state, "nonce": nonce, "code_challenge": challenge, "code_challenge_method": "S256",
            },
        )  # fmt: skip
        running = self._jar.logins(cookies)
        # Logins nobody finished would fill the browser's head until nothing passes.
        lines = self._jar.clear(running) if len(running) >= MAX_LOGINS else b""
        lines += self._jar.set(self._jar.login_name(state.encode()), self._sealer.seal(_LOGIN, login), LOGIN_S)
        return _sent(target, lines + _NO_STORE)

    # ------------------------------------------------------------------------------------------------ coming back

    async def _returned(self, request: Request) -> Verdict:
        cookies = cookies_of(request)
        try:
            fields = _query(request)
            login, name = self._login_of(fields, cookies)
            try:
                verified = await self._finish(fields, login)
                return self._admit(verified, login, cookies, name)
            except ProviderError as error:
                return self._refused(error, self._jar.clear([name]))
        except ProviderError as error:
            if error.mine and self._enter(cookies, Found()):
                # A callback that was reloaded, or gone back to: the visitor is logged in already, and nothing of it is used.
                return _sent("/", _NO_STORE, 303)
            return self._refused(error, b"")

    def _login_of(self, fields: dict[str, str], cookies: dict[bytes, bytes]) -> tuple[dict[str, Any], bytes]:
        """The login that this callback ends, and its cookie."""
        state = fields.get("state", "")
        name = self._jar.login_name(state.encode("utf-8", "surrogatepass"))
        login = self._sealer.open(_LOGIN, cookies.get(name, b"")) if state else None
        if login is None or not hmac.compare_digest(str(login.get("state")).encode(), state.encode("utf-8", "surrogatepass")):
            raise ProviderError("a callback that no login of this browser waits for", mine=True)
        begun = login.get("at")
        if not isinstance(begun, int) or not 0 <= time.time() - begun + 1 <= LOGIN_S + 1:
            raise ProviderError("a callback of a login that began too long ago", mine=True)
        return login, name

    async def _finish(self, fields: dict[str, str], login: dict[str, Any]) -> Verified:
        endpoints = await self._provider.endpoints()
        issuer = fields.get("iss")
        # RFC 9207: an answer of another server than the one asked is no answer.
        if (issuer is not None and issuer != self._plan.issuer) or (issuer is None and endpoints.says_issuer):
            raise ProviderError("the callback is of another issuer, or says none although this one does", mine=True)
        if "error" in fields:
            error = fields["error"]
            raise ProviderError(f"the provider refused: {error if re.fullmatch('[a-z_]{1,40}', error) else 'an unknown error'}", mine=True)
        code = fields.get("code", "")
        if not code:
            raise ProviderError("a callback without code", mine=True)
        token = await self._provider.exchange(code, str(login.get("verifier")))
        return await self._provider.claims(token, str(login.get("nonce")))

    def _admit(self, verified: Verified, login: dict[str, Any], cookies: dict[bytes, bytes], name: bytes) -> Refusal:
        now = int(time.time())
        ends = min(now + self._plan.session_ns // 1_000_000_000, int(min(verified.expires, verified.claims.get("exp", now))))
        if ends <= now:
            raise ProviderError("the ID token ends too soon for a session")
        session = {"exp": ends, "claims": {key: value for key, value in verified.claims.items() if key not in _DROPPED}}
        try:
            lines = self._jar.session_lines(self._sealer.seal(_SESSION, session), ends - now, cookies)
        except TooLong:
            raise ProviderError("the claims of the ID token are too long for cookies; ask for fewer scopes") from None
        self._host.count(POLICY, "ok")
        # 303: whatever began the login, what follows is a GET.
        return _sent(str(login.get("back")), lines + self._jar.clear([name]) + _NO_STORE, 303)

    def _refused(self, error: ProviderError, lines: bytes) -> Refusal:
        if not error.mine:
            return self._unavailable(error, lines)
        self._host.count(POLICY, "refused")
        return Refusal(400, OIDC, b"the login failed; go back and try again", f"oidc: {error}", lines + _NO_STORE)

    def _unavailable(self, error: ProviderError, lines: bytes = b"") -> Refusal:
        self._host.count(POLICY, "error")
        return Refusal(503, OIDC, b"login is not available at the moment", f"oidc: {error}", lines + b"Retry-After: 5\r\n" + _NO_STORE)


def is_navigation(request: Request) -> bool:
    """Whether a browser goes to a page, so that a login page can be shown; scripts, images and programs cannot show one."""
    if request.method not in ("GET", "HEAD") or request.values(b"upgrade"):
        return False
    mode = request.values(b"sec-fetch-mode")
    if mode and mode != [b"navigate"]:
        return False
    if request.values(b"x-requested-with"):
        return False
    return any(part.partition(b";")[0].strip().lower() == b"text/html" for value in request.values(b"accept") for part in value.split(b","))


def way_back(request: Request, own: tuple[bytes, ...]) -> bytes:
    """Path and query to return to after the login: of this origin whatever reads it, `/` instead of everything doubtful."""
    target = request.path + (b"?" + request.query if request.query is not None else b"")
    if len(target) > MAX_RETURN or request.path in own or not _RETURN.fullmatch(target):
        return b"/"
    return target


def _random() -> str:
    """32 octets as text: more than enough for a state, a nonce and a verifier (RFC 7636 section 4.1: 43 characters)."""
    return base64.urlsafe_b64encode(os.urandom(32)).rstrip(b"=").decode()


def _query(request: Request) -> dict[str, str]:
    """The fields of a callback. A repeated one is no answer of a provider (RFC 6749 section 3.1). Errors: ProviderError."""
    if request.method != "GET":
        raise ProviderError("a callback with another method than GET", mine=True)
    text = (request.query or b"").decode("ascii", "replace")
    try:
        pairs = parse_qsl(text, keep_blank_values=True, max_num_fields=32, errors="strict") if len(text) <= MAX_QUERY else []
    except ValueError:
        pairs = []
    fields = dict(pairs)
    if len(fields) != len(pairs) or not fields:
        raise ProviderError("a callback without fields, or with one twice", mine=True)
    return fields


def _with(url: str, fields: dict[str, str]) -> str:
    """The URL with further fields in its query."""
    query = "&".join(f"{name}={quote(value, safe='')}" for name, value in fields.items())
    return f"{url}{'&' if '?' in url else '?'}{query}"


def _sent(target: str, lines: bytes, status: int = 302) -> Refusal:
    """A redirect. `target` was checked where it came from."""
    return Refusal(status, OIDC, b"", "oidc: sent on", b"Location: " + target.encode("ascii") + b"\r\n" + lines, body=b"")
