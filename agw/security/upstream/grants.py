"""Tokens that a user granted the gateway at another server: authorization code with PKCE, kept and refreshed per user.

    link(user)        the URL of the gateway's page, for the user          (shown to him by URL elicitation)
    begin(ticket)     where the page sends him: the authorization server
    finish(state)     what comes back with the browser, made into a grant
    current(user)     the grant with a token that is good                  (`grant_source.GrantSource` is the credential)

Rules:
- a state is good for a while and once; `resource` stands in every request (RFC 8707);
- `iss` of the answer is compared where the server says that it sends it, and always when it is there (RFC 9207); credentials
  belong to one issuer and are never shown to another;
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
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar
from urllib.parse import urlencode

from agw.runtime.plan_security import ClientAuthPlan, UserGrant
from agw.security.contract import CallError, Headers, HttpAnswer, SecurityHost, Trust
from agw.security.upstream.discovery import Server, discover, origin_of, server_of
from agw.security.upstream.grant_links import STATE_S, Links, State, Ticket
from agw.security.upstream.source import CredentialError
from agw.security.upstream.store import Grant, GrantStore, StoreError
from agw.security.upstream.token_endpoint import Answer, ClientProof, TokenRefused, read_answer

EARLY_S = 30.0
"""A token is refreshed this long before its end."""
SERVER_S = 3600.0
FAILED_S = 5.0
"""How long a server that failed is left alone."""
DEFAULT_S = 300.0
"""Life of a token whose answer does not say."""
WHAT = "oauthAuthorizationCode"
T = TypeVar("T")


class UserGrants:
    """The grants for one resource (an upstream's identifier)."""

    def __init__(self, plan: UserGrant, host: SecurityHost, clock: Callable[[], float] = time.time) -> None:
        """Errors: ValueError for an unusable key of the client."""
        self.plan = plan
        self.links = Links(plan.resource, plan.redirect_uri, clock)
        self._host = host
        self._clock = clock
        self._trusted = frozenset(plan.trusted)
        self._trust = Trust(plan.ca, plan.insecure)
        self._known = None if plan.client is None else (plan.client, ClientProof(plan.client))
        self._registered: dict[str, ClientAuthPlan] = {}
        self._server: tuple[float, Server, list[str]] | None = None
        self._failed_until = 0.0
        self._finding = asyncio.Lock()

    def __repr__(self) -> str:
        return f"UserGrants({self.plan.resource!r})"

    @property
    def store(self) -> GrantStore:
        """Where grants are kept. Errors: CredentialError."""
        try:
            return self._host.grants
        except StoreError as error:
            raise CredentialError("unreachable", f"{WHAT}: {error}") from None

    # ------------------------------------------------------------------------------------------------------------ the way in

    def link(self, user: bytes) -> tuple[str, str]:
        """(the URL where this user grants access, the occasion's ident). Errors: CredentialError."""
        ticket, ident = self.links.ticket(self.store, user)
        return f"{self.plan.redirect_uri}?ticket={ticket}", ident

    async def begin(self, ticket: Ticket, browser: str) -> str:
        """The URL at the authorization server. `browser` is the digest of its cookie. Errors: CredentialError."""
        server, known = await self.server()
        client = await self._client(server)
        verifier = secrets.token_urlsafe(48)
        challenge = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()
        scope = " ".join(self.plan.scopes or known)
        query = {
            "response_type": "code", "client_id": client.client_id, "redirect_uri": self.plan.redirect_uri, "code_challenge": challenge,
            "code_challenge_method": "S256", "resource": self.plan.resource,
            "state": self.links.state(self.store, ticket, browser, server.issuer, client.client_id, verifier), **({"scope": scope} if scope else {}),
        }  # fmt: skip
        return f"{server.authorization_endpoint}{'&' if '?' in server.authorization_endpoint else '?'}{urlencode(query)}"

    async def finish(self, state: State, says: Mapping[str, str]) -> Grant:
        """The grant behind an authorization response with a state that was opened here. Errors: CredentialError."""
        if not await self._stored(self.store.spend(state.ident, STATE_S)):
            raise CredentialError("refused", f"{WHAT}: the login was answered before")
        server, _ = await self.server()
        if server.issuer != state.issuer:
            raise CredentialError("refused", f"{WHAT}: the resource has another authorization server now")
        stated = says.get("iss")
        if (stated is None and server.says_issuer) or (stated is not None and stated != state.issuer):
            raise CredentialError("refused", f"{WHAT}: the answer is not of the server that was asked")
        if "error" in says or not says.get("code"):
            raise CredentialError("refused", f"{WHAT}: the user or the server declined")
        client = await self._client(server)
        if client.client_id != state.client:
            raise CredentialError("refused", f"{WHAT}: the gateway is another client there now")
        form = [("grant_type", "authorization_code"), ("code", says["code"]), ("redirect_uri", self.plan.redirect_uri), ("code_verifier", state.verifier)]
        tokens = await self._tokens(server.token_endpoint, client, form)
        grant = self._grant(server.issuer, server.token_endpoint, client, tokens)
        await self._stored(self.store.put(bytes.fromhex(state.user), grant))
        return grant

    # ------------------------------------------------------------------------------------------------------------ later on

    async def current(self, user: bytes, refused: bytes = b"") -> Grant:
        """The grant with a token that is good, refreshed when need be. `refused` is the SHA-256 of a token the upstream took no longer.

        Errors: CredentialError; `consent` when the user has to be asked.
        """
        issuer = await self.issuer()
        grant = await self._stored(self.store.get(user, issuer, self.plan.resource))
        if grant is None:
            raise self.consent(user, "the user has granted nothing")
        if self._good(grant, refused):
            return grant
        try:
            async with self.store.lock(user, issuer, self.plan.resource):
                return await self._refreshed(user, issuer, refused)
        except StoreError as error:
            raise CredentialError("unreachable", f"{WHAT}: {error}") from None

    async def has(self, user: bytes) -> bool:
        """Has this user granted something? Errors: CredentialError."""
        return await self._stored(self.store.get(user, await self.issuer(), self.plan.resource)) is not None

    async def forget(self, user: bytes) -> None:
        """Forget this user's grant. Errors: CredentialError."""
        await self._stored(self.store.remove(user, await self.issuer(), self.plan.resource))

    def consent(self, user: bytes, text: str) -> CredentialError:
        """The error that asks this user for access. Errors: CredentialError."""
        url, ident = self.link(user)
        return CredentialError("consent", f"{WHAT}: {text}", url=url, ident=ident, resource=self.plan.resource)

    async def _refreshed(self, user: bytes, issuer: str, refused: bytes) -> Grant:
        # Under the lock: another worker may have been here while this one waited.
        grant = await self.store.get(user, issuer, self.plan.resource)
        if grant is None:
            raise self.consent(user, "the user's grant was taken back")
        if self._good(grant, refused):
            return grant
        if grant.refresh_token:
            form = [("grant_type", "refresh_token"), ("refresh_token", grant.refresh_token)]
            client = self._client_of(grant)
            try:
                tokens = await self._tokens(grant.token_endpoint, client, form)
            except TokenRefused as error:
                if error.code != "invalid_grant":
                    raise
            else:
                fresh = self._grant(grant.issuer, grant.token_endpoint, client, tokens, grant)
                await self.store.put(user, fresh)
                return fresh
        await self.store.remove(user, issuer, self.plan.resource)
        raise self.consent(user, "the user's grant is over")

    def _good(self, grant: Grant, refused: bytes) -> bool:
        own = hashlib.sha256(grant.access_token.encode()).digest()
        return grant.expires - EARLY_S > self._clock() and not (refused and hmac.compare_digest(own, refused))

    def _grant(self, issuer: str, endpoint: str, client: ClientAuthPlan, tokens: Answer, before: Grant | None = None) -> Grant:
        lifetime = DEFAULT_S if tokens.lifetime_s is None else tokens.lifetime_s
        # A short life is refreshed late rather than always.
        expires = self._clock() + max(lifetime, EARLY_S + 1)
        is_own = self._known is None or client is not self._known[0]
        return Grant(
            issuer, self.plan.resource, endpoint, client.client_id, client.client_secret if is_own else "", client.method if is_own else "",
            tokens.token.decode("ascii"), tokens.refresh or (before.refresh_token if before is not None else ""), expires,
            tokens.scope or (before.scope if before is not None else ""),
        )  # fmt: skip

    # ------------------------------------------------------------------------------------------------------------ the server

    async def issuer(self) -> str:
        """Who issues the tokens. Errors: CredentialError."""
        return self.plan.issuer or (await self.server())[0].issuer

    async def server(self) -> tuple[Server, list[str]]:
        """The authorization server and the scopes the resource names; an old answer while it cannot be asked. Errors: CredentialError."""
        async with self._finding:
            kept, now = self._server, time.monotonic()
            if kept is not None and now < kept[0]:
                return kept[1], kept[2]
            if now < self._failed_until:
                raise CredentialError("unreachable", f"{WHAT}: discovery failed a moment ago")
            try:
                if self.plan.issuer:
                    found, scopes = await server_of(self._fetch, self.plan.issuer), list[str]()
                else:
                    found, scopes = await discover(self._fetch, self.plan.resource)
            except CredentialError as error:
                if kept is not None and error.kind == "unreachable":
                    self._server = (now + FAILED_S, kept[1], kept[2])
                    return kept[1], kept[2]
                self._failed_until = now + FAILED_S
                raise
            self._server = (now + SERVER_S, found, scopes)
            return found, scopes

    async def _client(self, server: Server) -> ClientAuthPlan:
        """Who the gateway is there: registered by hand, by its document, or registered now. Errors: CredentialError."""
        if self._known is not None:
            return self._known[0]
        if self.plan.document and server.knows_documents and self.plan.redirect_uri.startswith("https://"):
            return ClientAuthPlan("none", self.plan.redirect_uri)
        client = self._registered.get(server.issuer)
        if client is None:
            try:
                client = await self._registered_at(server)
            except StoreError as error:
                raise CredentialError("unreachable", f"{WHAT}: {error}") from None
            self._registered[server.issuer] = client
        return client

    async def _registered_at(self, server: Server) -> ClientAuthPlan:
        # Registrations are kept beside grants, under the user nobody is: once for all workers.
        store, page = self.store, self.plan.redirect_uri
        async with store.lock(b"", server.issuer, page):
            kept = await store.get(b"", server.issuer, page)
            if kept is None:
                kept = await self._register(server)
                await store.put(b"", kept)
        return _client_of(kept)

    async def _register(self, server: Server) -> Grant:
        if not server.registration_endpoint:
            raise CredentialError("refused", f"{WHAT}: the gateway is no client of the authorization server and cannot register; configure clientAuth")
        method = "none" if "none" in server.auth_methods else "client_secret_basic"
        headers: Headers = [(b"content-type", b"application/json"), (b"accept", b"application/json")]
        asked = {**client_metadata(self.plan), "token_endpoint_auth_method": method}
        answer = await self._fetched("POST", server.registration_endpoint, headers, json.dumps(asked).encode(), "registration")
        try:
            says: Any = json.loads(answer.body) if answer.status in (200, 201) else None
        except (ValueError, RecursionError):
            says = None
        ident, secret = (says.get("client_id"), says.get("client_secret", "")) if isinstance(says, dict) else (None, "")
        if not isinstance(ident, str) or not isinstance(secret, str) or not 0 < len(ident) <= 2048 or len(secret) > 4096:
            raise CredentialError("refused", f"{WHAT}: the authorization server does not register the gateway; configure clientAuth")
        known = "none" if not secret else "post" if says.get("token_endpoint_auth_method") == "client_secret_post" else "basic"
        return Grant(server.issuer, self.plan.redirect_uri, server.token_endpoint, ident, secret, known, "")

    def _client_of(self, grant: Grant) -> ClientAuthPlan:
        if grant.client_auth == "":
            if self._known is None or self._known[0].client_id != grant.client_id:
                raise CredentialError("refused", f"{WHAT}: the grant was given to another client of the gateway")
            return self._known[0]
        return _client_of(grant)

    async def _tokens(self, endpoint: str, client: ClientAuthPlan, form: list[tuple[str, str]]) -> Answer:
        headers: Headers = [(b"content-type", b"application/x-www-form-urlencoded"), (b"accept", b"application/json")]
        proof = self._known[1] if self._known is not None and client is self._known[0] else ClientProof(client)
        form = [*form, ("resource", self.plan.resource), *await proof.add_to(headers, endpoint)]
        return read_answer(await self._fetched("POST", endpoint, headers, urlencode(form).encode("ascii"), "the token endpoint"), WHAT)

    async def _fetch(self, method: str, url: str, headers: Headers, body: bytes) -> HttpAnswer:
        return await self._host.outside(method, url, headers, body, self._trust if origin_of(url) in self._trusted else None)

    async def _fetched(self, method: str, url: str, headers: Headers, body: bytes, what: str) -> HttpAnswer:
        try:
            return await self._fetch(method, url, headers, body)
        except CallError as error:
            raise CredentialError("unreachable", f"{WHAT}: {what}: no answer ({error.kind})") from None

    async def _stored(self, work: Awaitable[T]) -> T:
        try:
            return await work
        except StoreError as error:
            raise CredentialError("unreachable", f"{WHAT}: {error}") from None


def client_metadata(plan: UserGrant) -> dict[str, Any]:
    """What the gateway says of itself as a client (RFC 7591 section 2)."""
    return {
        "client_name": "agw", "redirect_uris": [plan.redirect_uri], "grant_types": ["authorization_code", "refresh_token"],
        "response_types": ["code"], "application_type": "web",
    }  # fmt: skip


def _client_of(grant: Grant) -> ClientAuthPlan:
    method: Any = grant.client_auth
    return ClientAuthPlan(method, grant.client_id, grant.client_secret)
