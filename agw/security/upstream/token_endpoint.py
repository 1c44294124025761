"""A token endpoint: who agw is there, and what counts as an answer (RFC 6749 sections 2.3 and 5, RFC 7523 section 2.2).

Rules:
- only 200 with a JSON object, a bearer token in visible ASCII and a sane `expires_in` is a token; everything else is an error;
- 400, 401 and 403 are refusals, every other answer is none; of a refusal only the error code is told, and only when it is one;
- secrets go into the request and nowhere else.
"""

from __future__ import annotations

import asyncio
import base64
import re
import secrets
import time
from typing import Any, NamedTuple
from urllib.parse import quote_plus, urlencode

from agw.runtime.plan_security import CallPlan, ClientAuthPlan
from agw.security.compact import object_of
from agw.security.contract import CallError, Headers, HttpAnswer, SecurityHost
from agw.security.credentials_in import Malformed
from agw.security.upstream.source import CredentialError

ASSERTION = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
ACCESS_TOKEN = "urn:ietf:params:oauth:token-type:access_token"
JWT = "urn:ietf:params:oauth:token-type:jwt"
MAX_TOKEN = 16 * 1024
MAX_LIFETIME_S = 10 * 365 * 86_400
ASSERTION_S = 60
_TOKEN = re.compile(r"[!-~]+")
_REFRESH = re.compile(r"[ -~]+")  # RFC 6749, appendix A.17
_CODE = re.compile(r"[a-z][a-z_]{0,63}")
Form = list[tuple[str, str]]


class Answer(NamedTuple):
    """A token; `lifetime_s` None when its end is not said, `refresh` and `scope` "" when there is none."""

    token: bytes
    lifetime_s: float | None
    refresh: str = ""
    scope: str = ""

    def __repr__(self) -> str:
        return f"Answer(lifetime_s={self.lifetime_s})"


class TokenRefused(CredentialError):
    """The server says no. `code` is its error code (RFC 6749 section 5.2), "" for none."""

    def __init__(self, what: str, status: int, code: str) -> None:
        super().__init__("refused", f"{what}: the token endpoint answers {status}{f', {code}' if code else ''}")
        self.code = code


class ClientProof:
    """How agw says at token endpoints who it is."""

    __slots__ = ("_client", "_signer")

    def __init__(self, client: ClientAuthPlan) -> None:
        """Errors: ValueError for an unusable key."""
        self._client = client
        self._signer: Any = None
        if client.method == "privateKeyJwt":
            from agw.security.upstream.sign import Signer  # cryptography: only clients with a key pay for it

            self._signer = Signer(client.key, client.alg, client.kid)

    async def add_to(self, headers: Headers, url: str) -> Form:
        """Further parameters that say who agw is to the endpoint `url`; may add a header."""
        client = self._client
        if client.method == "basic":
            # RFC 6749, 2.3.1: both are form-encoded before they are joined.
            pair = f"{quote_plus(client.client_id)}:{quote_plus(client.client_secret)}".encode("ascii")
            headers.append((b"authorization", b"Basic " + base64.b64encode(pair)))
            return []
        if client.method == "post":
            return [("client_id", client.client_id), *([("client_secret", client.client_secret)] if client.client_secret else [])]
        if client.method == "none":
            return [("client_id", client.client_id)] if client.client_id else []
        now = int(time.time())
        claims = {
            "iss": client.client_id, "sub": client.client_id, "aud": client.audience or url, "jti": secrets.token_urlsafe(16),
            "iat": now, "exp": now + ASSERTION_S,
        }  # fmt: skip
        assertion = await asyncio.to_thread(self._signer.token, claims)
        return [("client_id", client.client_id), ("client_assertion_type", ASSERTION), ("client_assertion", assertion.decode("ascii"))]


class TokenEndpoint:
    """One endpoint for one client."""

    __slots__ = ("_call", "_host", "_proof", "_url", "_what")

    def __init__(self, call: CallPlan, url: str, client: ClientAuthPlan, host: SecurityHost, what: str) -> None:
        """`what` names the policy in errors. Errors: ValueError for an unusable key."""
        self._call = call
        self._url = url
        self._host = host
        self._what = what
        self._proof = ClientProof(client)

    async def ask(self, form: Form, accepted: frozenset[str] = frozenset((ACCESS_TOKEN, JWT)), kind: str = "bearer") -> Answer:
        """A token for this form. `accepted` are the issued token types taken, if the answer names one; it must for another `kind` than bearer.

        Errors: CredentialError.
        """
        headers: Headers = [(b"content-type", b"application/x-www-form-urlencoded"), (b"accept", b"application/json")]
        form = [*form, *await self._proof.add_to(headers, self._url)]
        try:
            answer = await self._host.caller(self._call, "POST", headers, urlencode(form).encode("ascii"))
        except CallError as error:
            raise CredentialError("unreachable", f"{self._what}: the token endpoint: {error.kind}") from None
        return read_answer(answer, self._what, accepted, kind)


def read_answer(answer: HttpAnswer, what: str, accepted: frozenset[str] = frozenset((ACCESS_TOKEN, JWT)), kind: str = "bearer") -> Answer:
    """What a token endpoint answered; see `TokenEndpoint.ask`. `what` names the policy in errors. Errors: CredentialError, TokenRefused among them."""
    says = object_of(answer.body)
    if answer.status != 200:
        if answer.status not in (400, 401, 403):
            raise CredentialError("unreachable", f"{what}: the token endpoint answers {answer.status}")
        code = says.get("error") if isinstance(says, dict) else None
        raise TokenRefused(what, answer.status, code if isinstance(code, str) and _CODE.fullmatch(code) else "")
    if isinstance(says, Malformed):
        raise _bad(what, says.cause)
    return _token(says, what, accepted, kind)


def _token(says: dict[str, Any], what: str, accepted: frozenset[str], wanted: str) -> Answer:
    token, kind, issued = says.get("access_token"), says.get("token_type"), says.get("issued_token_type")
    if not isinstance(token, str) or len(token) > MAX_TOKEN or not _TOKEN.fullmatch(token):
        raise _bad(what, "no access_token in visible ASCII of at most 16 KiB")
    if not isinstance(kind, str) or kind.lower() != wanted:
        raise _bad(what, "token_type is not Bearer" if wanted == "bearer" else "token_type is not N_A")
    if (issued is not None or wanted != "bearer") and (not isinstance(issued, str) or issued not in accepted):
        raise _bad(what, "issued_token_type is none that was asked for")
    refresh, scope = says.get("refresh_token", ""), says.get("scope", "")
    if not isinstance(refresh, str) or len(refresh) > MAX_TOKEN or (refresh and not _REFRESH.fullmatch(refresh)):
        raise _bad(what, "refresh_token is not of at most 16 KiB of ASCII")
    return Answer(token.encode("ascii"), _lifetime_s(says, what), refresh, scope if isinstance(scope, str) else "")


def _lifetime_s(says: dict[str, Any], what: str) -> float | None:
    lifetime = says.get("expires_in")
    # Some servers write the number as text.
    if isinstance(lifetime, str) and lifetime.isascii() and lifetime.isdigit() and len(lifetime) < 12:
        lifetime = int(lifetime)
    if lifetime is None:
        return None
    if type(lifetime) not in (int, float) or not 0 <= lifetime <= MAX_LIFETIME_S:
        raise _bad(what, "expires_in is no number of seconds of up to ten years")
    return float(lifetime)


def _bad(what: str, text: str) -> CredentialError:
    return CredentialError("unreachable", f"{what}: the token endpoint's answer: {text}")
