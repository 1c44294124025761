"""`backendAuth.oauthAuthorizationCode`: the credential of a request is the token its user granted.

Rules:
- a worker uses a token for KEPT_S without looking into the store, which all workers share; what is not there is looked for
  at every request, so a grant that was just given counts everywhere at once;
- the same user's token wanted many times at once is one look; one refresh at a time, over all workers (`GrantStore.lock`);
- a token the upstream refuses is refreshed; when it refuses the fresh one, too, the user is asked again.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Callable
from functools import partial

from agw.runtime.plan_security import UserGrant
from agw.security.authentication import Remembered
from agw.security.contract import Request, SecurityHost
from agw.security.upstream.grants import EARLY_S, FAILED_S, WHAT, UserGrants
from agw.security.upstream.source import CredentialError, Identity, Placer, Presented

KEPT_S = 60.0
"""How long a worker uses a token without looking into the store."""
REFUSED_S = 60.0
"""How long it is known that the upstream refused a token."""
MAX_USERS = 10_000
MAX_WAITING = 256
"""Requests at a time that wait for their users to grant access, per source."""
LOOK_FIRST_S, LOOK_MOST_S = 0.1, 1.0
"""Between two looks into the store while somebody waits."""


class GrantSource:
    """The source."""

    __slots__ = ("_failed", "_grants", "_kept", "_place", "_refused", "_running", "_void", "_waiting")

    def __init__(self, plan: UserGrant, host: SecurityHost, clock: Callable[[], float] = time.monotonic, wall: Callable[[], float] = time.time) -> None:
        """Errors: ValueError for an unusable key of the client."""
        self._grants = UserGrants(plan, host, wall)
        self._place = Placer(plan.location)
        self._kept: Remembered[bytes] = Remembered(MAX_USERS, clock)
        self._failed: Remembered[str] = Remembered(MAX_USERS, clock)
        self._refused: Remembered[bytes] = Remembered(MAX_USERS, clock)
        self._void: Remembered[bytes] = Remembered(MAX_USERS, clock)
        self._running: dict[bytes, asyncio.Future[Presented]] = {}
        self._waiting = 0

    def __repr__(self) -> str:
        return f"GrantSource({self._grants.plan.resource!r})"

    def ready(self, identity: Identity | None, request: Request | None) -> Presented | None:
        """The token when this worker has it. Errors: CredentialError (missing) for nobody."""
        token = self._kept.get(_user(identity))
        return None if token is None else self._place(token)

    async def fetch(self, identity: Identity | None, request: Request | None) -> Presented:
        """The token, refreshed when need be. Errors: CredentialError; `consent` when the user has to be asked."""
        user = _user(identity)
        failed = self._failed.get(user)
        if failed is not None:
            raise CredentialError("unreachable", failed)
        running = self._running.get(user)
        if running is None:
            # A task of its own: who asked first may go away before the others have their answer.
            running = self._running[user] = asyncio.get_running_loop().create_task(self._current(user))
            running.add_done_callback(lambda done: self._ended(user, done))
        return await asyncio.shield(running)

    def invalidate(self, identity: Identity | None, request: Request | None = None) -> None:
        """The upstream refused the token: it is refreshed before it is used again."""
        user = _user(identity)
        token = self._kept.get(user)
        if token is None:
            return
        digest = hashlib.sha256(token).digest()
        before = self._refused.get(user)
        if before is not None and before != digest:
            # The one in its place was refused, too: refreshing does not help.
            self._void.put(user, digest, REFUSED_S)
        self._refused.put(user, digest, REFUSED_S)
        self._kept.put(user, b"", 0)

    async def _granted(self, user: bytes, timeout_s: float) -> bool:
        """Wait until this user has granted access, in whichever worker; False when he has not in time, or too many wait. Errors: CredentialError."""
        if self._waiting >= MAX_WAITING:
            return False
        self._waiting += 1
        try:
            deadline, pause = time.monotonic() + timeout_s, LOOK_FIRST_S
            while not await self._has(user):
                left = deadline - time.monotonic()
                if left <= 0:
                    return False
                await asyncio.sleep(min(pause, left))
                pause = min(pause * 1.5, LOOK_MOST_S)
            return True
        finally:
            self._waiting -= 1

    def _ended(self, user: bytes, done: asyncio.Future[Presented]) -> None:
        self._running.pop(user, None)
        # Whoever waits for it has its error; often nobody does any more.
        _ = done.cancelled() or done.exception()

    async def _has(self, user: bytes) -> bool:
        try:
            await self._current(user)
        except CredentialError as error:
            if error.kind == "consent":
                return False
            raise
        return True

    async def _current(self, user: bytes) -> Presented:
        void = self._void.get(user)
        try:
            grant = await self._grants.current(user, b"" if void is not None else self._refused.get(user) or b"")
        except CredentialError as error:
            if error.kind == "unreachable":
                self._failed.put(user, str(error), FAILED_S)
            raise self._told(user, error) from None
        token = grant.access_token.encode("ascii")
        if void == hashlib.sha256(token).digest():
            raise self._told(user, self._grants.consent(user, "the upstream refuses the user's token, refreshed or not"))
        self._kept.put(user, token, min(KEPT_S, grant.expires - EARLY_S - time.time()))
        return self._place(token)

    def _told(self, user: bytes, error: CredentialError) -> CredentialError:
        if error.kind == "consent":
            error.granted = partial(self._granted, user)
        return error


def _user(identity: Identity | None) -> bytes:
    if identity is None or not identity.key:
        raise CredentialError("missing", f"{WHAT}: a grant belongs to a user, and the caller is nobody")
    return identity.key
