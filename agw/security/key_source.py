"""Where the keys of an issuer come from: a set in the plan, or a document that the helper process fetches and follows.

Rules:
- a new document replaces the set; an unusable one does not, and the old keys go on;
- when keys go away, whoever keeps verified tokens is told, so that those tokens end as well;
- an unknown key id asks for a new document at most once per COOLDOWN, whatever the ids are, and only requests that came before the
  answer wait for it; all others are decided with the keys at hand. Ids that stayed unknown do not ask again for UNKNOWN_FOR.
"""

from __future__ import annotations

import asyncio
import time
import weakref
from collections.abc import Callable
from typing import Protocol

from agw.security.authentication import Remembered, digest
from agw.security.contract import Documents, SecurityHost
from agw.security.jwks import MAX_TRIED, Key, KeySet, UnusableSet, parse_jwks

COOLDOWN = 30.0
"""Seconds between two requests for a new document."""
PATIENCE = 2.0
"""Seconds that requests wait for it."""
UNKNOWN_FOR = 60.0
"""Seconds for which an id that stayed unknown does not ask again."""
MAX_WAITING = 256
"""Requests that wait at once; further ones are decided with the keys at hand."""
MAX_UNKNOWN = 1024
"""Ids remembered as unknown."""


class Keys(Protocol):
    """The keys of one issuer."""

    def get(self) -> KeySet | None:
        """The current set, None while none was ever there."""

    def ask(self, kid: str | None) -> asyncio.Future[None] | None:
        """Ask for newer keys because of this id (None: a token without one). None: no use, or not now; else `wait`, then look again."""

    async def wait(self, asked: asyncio.Future[None]) -> None:
        """Wait for the answer, at most PATIENCE + 1 seconds."""

    def still_unknown(self, kid: str | None) -> None:
        """The newer keys have no such id either."""

    def watch(self, removed: Callable[[], object]) -> None:
        """Call when keys went away. The bound method is held weakly."""


class FixedKeys:
    """Keys that stand in the plan."""

    __slots__ = ("_keys",)

    def __init__(self, keys: KeySet) -> None:
        self._keys = keys

    def get(self) -> KeySet | None:
        return self._keys

    def ask(self, kid: str | None) -> asyncio.Future[None] | None:
        return None

    async def wait(self, asked: asyncio.Future[None]) -> None:
        return

    def still_unknown(self, kid: str | None) -> None:
        return

    def watch(self, removed: Callable[[], object]) -> None:
        return


class FollowedKeys:
    """Keys of the document `url`. One per host and URL, whatever the number of policies that use it."""

    def __init__(self, host: SecurityHost, url: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._host = host
        self._documents: Documents = host.documents
        self._url = url
        self._clock = clock
        self._keys: KeySet | None = None
        self._version: int | None = None
        self._next_ask = float("-inf")
        self._waiting: asyncio.Future[None] | None = None
        self._waiters = 0
        self._unknown: Remembered[bool] = Remembered(MAX_UNKNOWN, clock)
        self._watchers: list[weakref.WeakMethod[Callable[[], object]]] = []
        self._documents.watch(url, self._changed)
        self._changed()

    def get(self) -> KeySet | None:
        return self._keys

    def watch(self, removed: Callable[[], object]) -> None:
        self._watchers = [watcher for watcher in self._watchers if watcher() is not None]
        self._watchers.append(weakref.WeakMethod(removed))

    def ask(self, kid: str | None) -> asyncio.Future[None] | None:
        waiting = self._waiting
        if waiting is not None and not waiting.done():
            return waiting if self._waiters < MAX_WAITING else None
        now = self._clock()
        if now < self._next_ask or self._unknown.get(_name(kid)) is not None:
            return None
        self._next_ask = now + COOLDOWN
        self._waiting = waiting = asyncio.get_running_loop().create_future()
        # A task of its own: the request that asked first may go away before the others have their answer.
        self._host.spawn(self._fetch(waiting))
        return waiting

    def still_unknown(self, kid: str | None) -> None:
        self._unknown.put(_name(kid), True, UNKNOWN_FOR)

    async def wait(self, asked: asyncio.Future[None]) -> None:
        self._waiters += 1
        try:
            await asyncio.wait((asked,), timeout=PATIENCE + 1)
        finally:
            self._waiters -= 1

    async def _fetch(self, waiting: asyncio.Future[None]) -> None:
        try:
            self._documents.want(self._url)
            await asyncio.wait_for(self._documents.arrival(self._url, PATIENCE), PATIENCE + 0.5)
            self._changed()
        except TimeoutError:
            pass
        finally:
            if not waiting.done():
                waiting.set_result(None)

    def _changed(self) -> None:
        document = self._documents.get(self._url)
        if document is None or document.version == self._version:
            return
        self._version = document.version
        try:
            # At most 100 keys: two milliseconds, once per new document.
            keys = parse_jwks(document.body)
        except UnusableSet:
            self._host.count("jwks", "error")
            return
        self._host.count("jwks", "ok")
        before, self._keys = self._keys, keys
        self._unknown.clear()
        if before is not None and before.identities() - keys.identities():
            for watcher in self._watchers:
                call = watcher()
                if call is not None:
                    call()


def _name(kid: str | None) -> bytes:
    return b"" if kid is None else digest(kid.encode("utf-8"))


# By the host's identity and URL. A source holds its host, so the identity is not another's while the entry is here.
_followed: weakref.WeakValueDictionary[tuple[int, str], FollowedKeys] = weakref.WeakValueDictionary()


def keys_of(host: SecurityHost, text: str, url: str) -> Keys:
    """The keys of one provider. Raises UnusableSet for a `text` that the configuration did not check."""
    if not url:
        return FixedKeys(parse_jwks(text, symmetric=True))
    keys = _followed.get((id(host), url))
    if keys is None:
        keys = _followed[(id(host), url)] = FollowedKeys(host, url)
    return keys


def candidates(keys: KeySet, kid: str | None, alg: str) -> list[Key]:
    """The keys that a token of this id and algorithm may be signed by; without id, every key made for the algorithm."""
    pool = keys.keys if kid is None else keys.known(kid)
    return [key for key in pool if alg in key.verify][:MAX_TRIED]
