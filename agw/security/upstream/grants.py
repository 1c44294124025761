"""Tokens that a user granted the gateway at another server: authorization code with PKCE, kept and refreshed per user.

    begin(user)      the URL where the user has to go         (shown to the user by URL elicitation)
    callback(user)   what comes back with the browser         (the user must be the same principal)
    GrantSource      the credential of a request of that user

Rules:
- the state is sealed, names the principal, is good for STATE_S and once; whoever brings another's state has brought nothing;
- `resource` stands in every request (RFC 8707); `iss` of the answer is compared where the server says that it sends it, and
  always when it is there (RFC 9207); credentials belong to one issuer and are never shown to another;
- one refresh at a time for a grant, over all workers of a host; a refresh token that was replaced is not used again;
- a grant that the server takes back is forgotten, and the user is asked again; a server that is down changes nothing;
- tokens, codes and secrets stand in no error, log or repr, and go to no client.

Source: RFC 6749 sections 4.1 and 6, RFC 7636, RFC 7591, RFC 8707, RFC 9207, MCP 2025-11-25 "Authorization".
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar
from urllib.parse import parse_qsl, quote_plus, urlencode

import msgspec

from agw.runtime.plan_security import LocationPlan
from agw.security.authentication import Remembered
from agw.security.contract import CallError, Headers, Request
from agw.security.upstream.discovery import Fetch, Server, Wanted, discover, server_of
from agw.security.upstream.source import CredentialError, Identity, Placer, Presented
from agw.security.upstream.store import Grant, GrantStore, StoreError
from agw.security.upstream.token_endpoint import Answer, TokenRefused, read_answer

STATE_S = 600
EARLY_S = 30.0
"""A token is refreshed this long before its end."""
KEPT_S = 60.0
"""How long a worker uses a grant without looking into the store."""
SERVER_S = 3600.0
FAILED_S = 5.0
"""How long a server that failed is left alone."""
DEFAULT_S = 300.0
"""Life of a token whose answer does not say."""
MAX_USERS = 10_000
MAX_QUERY = 8192
T = TypeVar("T")


class Client(NamedTuple):
    """Who the gateway is at one issuer."""

    ident: str
    secret: str = ""

    def __repr__(self) -> str:
        return f"Client({self.ident!r})"


class UserGrants:
    """The grants for one resource (an upstream's identifier).

    `redirect_uri` is the gateway's callback; `clients` are registered by hand, by issuer; `client_document` is the URL of the gateway's
    own client metadata document, "" without; `issuer` pins the server instead of asking the resource.
    """

    def __init__(
        self, resource: str, redirect_uri: str, store: GrantStore, fetch: Fetch, *, issuer: str = "",
        clients: Mapping[str, Client] | None = None, client_document: str = "", scopes: Sequence[str] = (), clock: Callable[[], float] = time.time,
    ) -> None:  # fmt: skip
        self.resource = resource
        self._redirect = redirect_uri
        self._store = store
        self._fetch = fetch
        self._issuer = issuer
        self._clients = dict(clients or {})
        self._document = client_document
        self._scopes = tuple(scopes)
        self._clock = clock
        self._server: tuple[float, Server, list[str]] | None = None
        self._failed_until = 0.0
        self._finding = asyncio.Lock()

    def __repr__(self) -> str:
        return f"UserGrants({self.resource!r})"

    # ------------------------------------------------------------------------------------------------------------ the way in

    async def begin(self, user: bytes, wanted: Wanted | None = None) -> str:
        """The URL where this user grants access. `wanted` is what the upstream's challenge said. Errors: CredentialError."""
        server, known = await self.server(wanted)
        client = await self._client(server)
        verifier = secrets.token_urlsafe(48)
        challenge = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()
        payload = msgspec.json.encode([secrets.token_hex(16), int(self._clock()) + STATE_S, server.issuer, client.ident, verifier])
        asked = wanted.scope.split() if wanted is not None and wanted.scope else known
        scope = " ".join(dict.fromkeys((*self._scopes, *asked)))
        query = {
            "response_type": "code", "client_id": client.ident, "redirect_uri": self._redirect, "code_challenge": challenge,
            "code_challenge_method": "S256", "state": self._store.seal_state(payload, self._bound(user)), "resource": self.resource,
        }  # fmt: skip
        if scope:
            query["scope"] = scope
        return f"{server.authorization_endpoint}{'&' if '?' in server.authorization_endpoint else '?'}{urlencode(query)}"

    async def callback(self, user: bytes, query: bytes) -> Grant:
        """The grant behind an authorization response. `user` is the principal of the browser's request. Errors: CredentialError."""
        try:
            pairs = parse_qsl(query.decode("ascii"), keep_blank_values=True, max_num_fields=32) if len(query) <= MAX_QUERY else []
        except ValueError:
            pairs = []
        says = dict(pairs)
        payload = self._store.open_state(says.get("state", ""), self._bound(user)) if len(says) == len(pairs) else None
        if payload is None:
            raise CredentialError("refused", "grant: not an answer to a login of this user")
        ident, expires, issuer, client_id, verifier = msgspec.json.decode(payload, type=tuple[str, int, str, str, str])
        if expires < self._clock() or not await self._stored(self._store.spend(ident, STATE_S)):
            raise CredentialError("refused", "grant: the login is over, or was answered before")
        server, _ = await self.server()
        if server.issuer != issuer:
            raise CredentialError("refused", "grant: the resource has another authorization server now")
        stated = says.get("iss")
        if (stated is None and server.says_issuer) or (stated is not None and stated != issuer):
            raise CredentialError("refused", "grant: the answer is not of the server that was asked")
        if "error" in says or not says.get("code"):
            raise CredentialError("refused", "grant: the user or the server declined")
        client = await self._client(server)
        if client.ident != client_id:
            raise CredentialError("refused", "grant: the gateway is another client there now")
        form = {"grant_type": "authorization_code", "code": says["code"], "redirect_uri": self._redirect, "code_verifier": verifier}
        tokens = await self._tokens(server.token_endpoint, client, form, server.auth_methods)
        grant = self._grant(server.issuer, server.token_endpoint, client, tokens)
        await self._stored(self._store.put(user, grant))
        return grant

    # ------------------------------------------------------------------------------------------------------------ later on

    async def current(self, user: bytes, refused: bytes = b"") -> Grant:
        """The grant with a token that is good, refreshed when need be. `refused` is the SHA-256 of a token the upstream took no longer.

        Errors: CredentialError; missing when the user has to be asked (`begin`).
        """
        server, _ = await self.server()
        grant = await self._stored(self._store.get(user, server.issuer, self.resource))
        if grant is None:
            raise CredentialError("missing", "grant: the user has granted nothing")
        if self._good(grant, refused):
            return grant
        try:
            async with self._store.lock(user, server.issuer, self.resource):
                return await self._refreshed(user, server, refused)
        except StoreError as error:
            raise CredentialError("unreachable", f"grant: {error}") from None

    async def forget(self, user: bytes) -> None:
        """Forget this user's grant. Errors: CredentialError."""
        server, _ = await self.server()
        await self._stored(self._store.remove(user, server.issuer, self.resource))

    async def _refreshed(self, user: bytes, server: Server, refused: bytes) -> Grant:
        # Under the lock: another worker may have been here while this one waited.
        grant = await self._store.get(user, server.issuer, self.resource)
        if grant is None:
            raise CredentialError("missing", "grant: the user's grant was taken back")
        if self._good(grant, refused):
            return grant
        client = Client(grant.client_id, grant.client_secret)
        if grant.refresh_token:
            form = {"grant_type": "refresh_token", "refresh_token": grant.refresh_token}
            try:
                tokens = await self._tokens(grant.token_endpoint, client, form, server.auth_methods)
            except TokenRefused as error:
                if error.code != "invalid_grant":
                    raise
            else:
                fresh = self._grant(grant.issuer, grant.token_endpoint, client, tokens, grant)
                await self._store.put(user, fresh)
                return fresh
        await self._store.remove(user, server.issuer, self.resource)
        raise CredentialError("missing", "grant: the user's grant is over")

    def _good(self, grant: Grant, refused: bytes) -> bool:
        own = hashlib.sha256(grant.access_token.encode()).digest()
        return grant.expires - EARLY_S > self._clock() and not (refused and hmac.compare_digest(own, refused))

    def _grant(self, issuer: str, endpoint: str, client: Client, tokens: Answer, before: Grant | None = None) -> Grant:
        lifetime = DEFAULT_S if tokens.lifetime_s is None else tokens.lifetime_s
        refresh = tokens.refresh or (before.refresh_token if before is not None else "")
        scope = tokens.scope or (before.scope if before is not None else "")
        # A short life is refreshed late rather than always.
        expires = self._clock() + max(lifetime, EARLY_S + 1)
        return Grant(issuer, self.resource, endpoint, client.ident, client.secret, tokens.token.decode("ascii"), refresh, expires, scope)

    # ------------------------------------------------------------------------------------------------------------ the server

    async def server(self, wanted: Wanted | None = None) -> tuple[Server, list[str]]:
        """The authorization server and the scopes the resource names; an old answer while it cannot be asked. Errors: CredentialError."""
        async with self._finding:
            kept, now = self._server, time.monotonic()
            if kept is not None and now < kept[0]:
                return kept[1], kept[2]
            if now < self._failed_until:
                raise CredentialError("unreachable", "discovery: it failed a moment ago")
            try:
                found, scopes = (await server_of(self._fetch, self._issuer), []) if self._issuer else await discover(self._fetch, self.resource, wanted)
            except CredentialError as error:
                if kept is not None and error.kind == "unreachable":
                    self._server = (now + FAILED_S, kept[1], kept[2])
                    return kept[1], kept[2]
                self._failed_until = now + FAILED_S
                raise
            self._server = (now + SERVER_S, found, scopes)
            return found, scopes

    async def _client(self, server: Server) -> Client:
        """Who the gateway is there: registered by hand, by its document, or registered now. Errors: CredentialError."""
        known = self._clients.get(server.issuer)
        if known is not None:
            return known
        if self._document and server.knows_documents:
            return Client(self._document)
        # Registrations are kept beside grants, under the user nobody is.
        kept = await self._stored(self._store.get(b"", server.issuer, self._redirect))
        if kept is None:
            kept = await self._register(server)
            await self._stored(self._store.put(b"", kept))
        client = self._clients[server.issuer] = Client(kept.client_id, kept.client_secret)
        return client

    async def _register(self, server: Server) -> Grant:
        if not server.registration_endpoint:
            raise CredentialError("refused", "grant: the gateway is no client of the authorization server and cannot register")
        method = "none" if "none" in server.auth_methods else "client_secret_basic"
        asked = {
            "client_name": "agw", "redirect_uris": [self._redirect], "grant_types": ["authorization_code", "refresh_token"],
            "response_types": ["code"], "token_endpoint_auth_method": method, "application_type": "web",
        }  # fmt: skip
        headers: Headers = [(b"content-type", b"application/json"), (b"accept", b"application/json")]
        try:
            answer = await self._fetch("POST", server.registration_endpoint, headers, json.dumps(asked).encode())
            says: Any = json.loads(answer.body) if answer.status in (200, 201) else None
        except CallError as error:
            raise CredentialError("unreachable", f"grant: registration got no answer ({error.kind})") from None
        except (ValueError, RecursionError):
            says = None
        ident, secret = (says.get("client_id"), says.get("client_secret", "")) if isinstance(says, dict) else (None, "")
        if not isinstance(ident, str) or not isinstance(secret, str) or not 0 < len(ident) <= 2048 or len(secret) > 4096:
            raise CredentialError("refused", "grant: the authorization server does not register the gateway")
        return Grant(server.issuer, self._redirect, server.token_endpoint, ident, secret, "")

    async def _tokens(self, endpoint: str, client: Client, form: dict[str, str], methods: Sequence[str]) -> Answer:
        headers: Headers = [(b"content-type", b"application/x-www-form-urlencoded"), (b"accept", b"application/json")]
        form = {**form, "resource": self.resource}
        if client.secret and ("client_secret_basic" in methods or "client_secret_post" not in methods):
            pair = f"{quote_plus(client.ident)}:{quote_plus(client.secret)}".encode()  # RFC 6749 section 2.3.1
            headers.append((b"authorization", b"Basic " + base64.b64encode(pair)))
        else:
            form["client_id"] = client.ident
            if client.secret:
                form["client_secret"] = client.secret
        try:
            answer = await self._fetch("POST", endpoint, headers, urlencode(form).encode())
        except CallError as error:
            raise CredentialError("unreachable", f"grant: the token endpoint gave no answer ({error.kind})") from None
        return read_answer(answer, "grant")

    def _bound(self, user: bytes) -> bytes:
        return b"\0".join((user.hex().encode(), self.resource.encode(), self._redirect.encode()))

    async def _stored(self, work: Awaitable[T]) -> T:
        try:
            return await work
        except StoreError as error:
            raise CredentialError("unreachable", f"grant: {error}") from None


class GrantSource:
    """The credential of a request: the token its user granted."""

    __slots__ = ("_failed", "_grants", "_kept", "_place", "_refused", "_running")

    def __init__(self, grants: UserGrants, location: LocationPlan | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._grants = grants
        self._place = Placer(location or LocationPlan())
        self._kept: Remembered[str] = Remembered(MAX_USERS, clock)
        self._failed: Remembered[str] = Remembered(MAX_USERS, clock)
        self._refused: Remembered[bytes] = Remembered(MAX_USERS, clock)
        self._running: dict[bytes, asyncio.Task[Presented]] = {}

    def ready(self, identity: Identity | None, request: Request | None) -> Presented | None:
        """The token when this worker has it. Errors: CredentialError (missing) for nobody."""
        token = self._kept.get(self._user(identity))
        return None if token is None else self._place(token.encode())

    async def fetch(self, identity: Identity | None, request: Request | None) -> Presented:
        """The token, refreshed when need be. Errors: CredentialError; missing when the user has to be asked."""
        user = self._user(identity)
        failed = self._failed.get(user)
        if failed is not None:
            raise CredentialError("unreachable", failed)
        running = self._running.get(user)
        if running is None:
            # A task of its own: who asked first may go away before the others have their answer.
            running = self._running[user] = asyncio.get_running_loop().create_task(self._current(user))
        return await asyncio.shield(running)

    def invalidate(self, identity: Identity | None, request: Request | None = None) -> None:
        """The upstream refused the token: it is refreshed before it is used again."""
        user = self._user(identity)
        token = self._kept.get(user)
        if token is not None:
            self._refused.put(user, hashlib.sha256(token.encode()).digest(), DEFAULT_S)
            self._kept.put(user, "", 0)

    def granted(self, user: bytes) -> None:
        """The user has granted access anew: what was known of before is void."""
        for table in (self._kept, self._failed):
            table.put(user, "", 0)

    async def _current(self, user: bytes) -> Presented:
        try:
            grant = await self._grants.current(user, self._refused.get(user) or b"")
        except CredentialError as error:
            if error.kind == "unreachable":
                self._failed.put(user, str(error), FAILED_S)
            raise
        finally:
            del self._running[user]
        self._kept.put(user, grant.access_token, min(KEPT_S, grant.expires - EARLY_S - time.time()))
        return self._place(grant.access_token.encode())

    @staticmethod
    def _user(identity: Identity | None) -> bytes:
        if identity is None or not identity.key:
            raise CredentialError("missing", "grant: a grant belongs to a user, and the caller is nobody")
        return identity.key
