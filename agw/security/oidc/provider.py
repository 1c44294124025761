"""The OpenID provider as the gateway sees it: its endpoints, the exchange of a code, and what an ID token must say.

Rules:
- what the configuration says goes before what is discovered, and a document of another issuer is no document (Discovery 4.3);
- a discovered endpoint is believed only when it is of the document's own origin: the plan knows no other way there, and an
  endpoint elsewhere is the operator's to name;
- keys that were fetched never are shared secrets; they are fetched again for an unknown key, at most once per COOLDOWN.
"""

from __future__ import annotations

import asyncio
import base64
import hmac
import json
import time
from typing import Any, NamedTuple
from urllib.parse import quote_plus, urlencode, urlsplit

from agw.runtime.plan_security import CallPlan, JwtProviderPlan, OidcPlan
from agw.security.contract import CallError, Document, Headers, HttpAnswer, SecurityHost
from agw.security.jwt import TokenVerifier, Verified, Waiting

PATIENCE_S = 5.0
"""How long a login waits for the discovery document when there was none yet."""
KEYS_FOR_S = 900.0
COOLDOWN_S = 30.0
MAX_TOKEN = 32_768


class ProviderError(Exception):
    """The provider cannot be used now, or refuses. `mine` tells whether the visitor did something wrong."""

    def __init__(self, text: str, *, mine: bool = False) -> None:
        super().__init__(text)
        self.mine = mine


class Endpoints(NamedTuple):
    """Where a login goes. `token_path` None is the path of the call itself."""

    authorization: str
    token: CallPlan
    token_path: str | None
    token_auth: str
    end_session: str = ""
    says_issuer: bool = False
    keys_path: str = ""


class Provider:
    """One provider for one client."""

    def __init__(self, plan: OidcPlan, host: SecurityHost) -> None:
        """Errors: ValueError for an unusable key set."""
        self._plan = plan
        self._host = host
        self._made: tuple[int, Endpoints] | None = None
        self._verifier = self._verifier_of(plan.jwks) if plan.jwks or plan.jwks_url else None
        self._kept: TokenVerifier | None = None
        self._fetched_at = float("-inf")
        self._fetching = asyncio.Lock()

    # ------------------------------------------------------------------------------------------------ endpoints

    def known(self) -> Endpoints | None:
        """The endpoints when nothing must be waited for. Errors: ProviderError."""
        plan = self._plan
        if not plan.discovery_url:
            if plan.token_call is None or not plan.authorization_endpoint:
                raise ProviderError("no endpoints")
            return Endpoints(plan.authorization_endpoint, plan.token_call, None, plan.token_auth or "basic")
        document = self._host.documents.get(plan.discovery_url)
        return None if document is None else self._from(document)

    async def endpoints(self) -> Endpoints:
        """The endpoints, waiting for the discovery document if need be. Errors: ProviderError."""
        found = self.known()
        if found is not None:
            return found
        self._host.documents.want(self._plan.discovery_url)
        document = await self._host.documents.arrival(self._plan.discovery_url, PATIENCE_S)
        if document is None:
            raise ProviderError("the discovery document was not fetched yet")
        return self._from(document)

    def _from(self, document: Document) -> Endpoints:
        if self._made is not None and self._made[0] == document.version:
            return self._made[1]
        try:
            says = json.loads(document.body)
        except (ValueError, RecursionError):
            raise ProviderError("the discovery document is not JSON") from None
        if not isinstance(says, dict) or says.get("issuer") != self._plan.issuer:
            raise ProviderError("the discovery document is of another issuer")
        made = self._endpoints(says)
        self._made = (document.version, made)
        return made

    def _endpoints(self, says: dict[str, Any]) -> Endpoints:
        plan = self._plan
        authorization = plan.authorization_endpoint or _text(says, "authorization_endpoint")
        if not _is_url(authorization, plan.issuer.startswith("https:")):
            raise ProviderError("the authorization endpoint is no URL, or not https as the issuer is")
        token, token_path = plan.token_call, None
        if token is None:
            token, token_path = self._discovered(says, "token_endpoint", "tokenEndpoint")
        keys_path = "" if self._verifier is not None else self._discovered(says, "jwks_uri", "jwks")[1]
        end = _text(says, "end_session_endpoint")
        return Endpoints(
            authorization, token, token_path, plan.token_auth or _auth_method(says), end if _is_url(end, plan.issuer.startswith("https:")) else "",
            says.get("authorization_response_iss_parameter_supported") is True, keys_path,
        )  # fmt: skip

    def _discovered(self, says: dict[str, Any], name: str, key: str) -> tuple[CallPlan, str]:
        url = _text(says, name)
        call = self._plan.discovery_call
        parts, own = urlsplit(url), urlsplit(self._plan.discovery_url)
        if call is None or (parts.scheme, parts.netloc.lower()) != (own.scheme, own.netloc.lower()):
            raise ProviderError(f"{name} is not of the same origin as the discovery document; name it in the configuration: oidc.{key}")
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        return call, path

    # ------------------------------------------------------------------------------------------------ the code

    async def exchange(self, code: str, verifier: str) -> bytes:
        """The ID token for a code (RFC 6749 section 4.1.3). Errors: ProviderError."""
        plan = self._plan
        endpoints = await self.endpoints()
        form = {"grant_type": "authorization_code", "code": code, "redirect_uri": plan.redirect_uri, "code_verifier": verifier}
        headers: Headers = [(b"content-type", b"application/x-www-form-urlencoded"), (b"accept", b"application/json")]
        if endpoints.token_auth == "basic" and plan.client_secret:
            # RFC 6749 section 2.3.1: both are form-encoded before they are joined.
            pair = f"{quote_plus(plan.client_id)}:{quote_plus(plan.client_secret)}".encode()
            headers.append((b"authorization", b"Basic " + base64.b64encode(pair)))
        else:
            form["client_id"] = plan.client_id
            if plan.client_secret:
                form["client_secret"] = plan.client_secret
        answer = await self._call(endpoints.token, "POST", headers, urlencode(form).encode(), endpoints.token_path)
        says = _object(answer.body)
        if answer.status != 200:
            # invalid_grant is a code that was used before or came too late; everything else is not the visitor's doing.
            stale = says.get("error") == "invalid_grant"
            raise ProviderError(f"the token endpoint answered {answer.status}{', invalid_grant' if stale else ''}", mine=stale)
        token = says.get("id_token")
        if not isinstance(token, str) or not token.isascii() or len(token) > MAX_TOKEN:
            raise ProviderError("the token endpoint gave no ID token")
        return token.encode()

    async def claims(self, token: bytes, nonce: str) -> Verified:
        """What an ID token says, verified (OpenID Connect Core section 3.1.3.7). Errors: ProviderError."""
        verified = await self._verify(token)
        claims = verified.claims
        presented = claims.get("nonce")
        if not isinstance(presented, str) or not hmac.compare_digest(presented.encode(), nonce.encode()):
            raise ProviderError("the nonce of the ID token is not the one of this login", mine=True)
        audience = claims.get("aud")
        party = claims.get("azp")
        if (party is not None and party != self._plan.client_id) or (isinstance(audience, list) and len(audience) > 1 and party is None):
            raise ProviderError("the ID token was made for another party")
        return verified

    async def _verify(self, token: bytes) -> Verified:
        verifier = self._verifier or await self._fetched(KEYS_FOR_S)
        outcome = verifier.verify(token)
        if isinstance(outcome, Waiting):
            outcome = await outcome
        if not isinstance(outcome, Verified) and self._verifier is None:
            newer = await self._fetched(COOLDOWN_S)
            again = newer.verify(token) if newer is not verifier else outcome
            if not isinstance(again, Waiting):
                outcome = again
        if not isinstance(outcome, Verified):
            raise ProviderError(f"the ID token is not valid: {outcome.cause}")
        return outcome

    async def _fetched(self, age_s: float) -> TokenVerifier:
        """A verifier with discovered keys that are not older than that. Errors: ProviderError."""
        async with self._fetching:
            if self._kept is not None and time.monotonic() - self._fetched_at < age_s:
                return self._kept
            endpoints = await self.endpoints()
            assert self._plan.discovery_call is not None, "no discovered keys without it"
            answer = await self._call(self._plan.discovery_call, "GET", [(b"accept", b"application/json")], b"", endpoints.keys_path)
            keys = _object(answer.body).get("keys")
            if answer.status != 200 or not isinstance(keys, list):
                raise ProviderError(f"the keys cannot be fetched: {answer.status}")
            public = [key for key in keys if isinstance(key, dict) and key.get("kty") != "oct"]
            try:
                self._kept = self._verifier_of(json.dumps({"keys": public}))
            except ValueError as error:
                raise ProviderError(f"the keys cannot be used: {error}") from None
            self._fetched_at = time.monotonic()
            return self._kept

    def _verifier_of(self, jwks: str) -> TokenVerifier:
        plan = self._plan
        claims = ["exp", "iat", "sub", "aud"]
        provider = JwtProviderPlan(plan.issuer, [plan.client_id], jwks, "" if jwks else plan.jwks_url, required_claims=claims)
        return TokenVerifier([provider], self._host)

    async def _call(self, call: CallPlan, method: str, headers: Headers, body: bytes, path: str | None) -> HttpAnswer:
        try:
            return await self._host.caller(call, method, headers, body, path)
        except CallError as error:
            raise ProviderError(f"the provider gave no answer: {error}") from None


def _object(body: bytes) -> dict[str, Any]:
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _text(says: dict[str, Any], name: str) -> str:
    value = says.get(name)
    return value if isinstance(value, str) else ""


def _is_url(url: str, secure: bool) -> bool:
    if len(url) > 2048 or not url.isascii() or any(char <= " " or char in '\x7f"<>\\' for char in url):
        return False
    try:
        parts = urlsplit(url)
    except ValueError:
        return False
    return parts.scheme in (("https",) if secure else ("https", "http")) and bool(parts.hostname) and not parts.fragment


def _auth_method(says: dict[str, Any]) -> str:
    offered = says.get("token_endpoint_auth_methods_supported", ["client_secret_basic"])
    if not isinstance(offered, list) or "client_secret_basic" in offered or "client_secret_post" not in offered:
        return "basic"
    return "post"
