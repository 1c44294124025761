"""Tokens that others issue, kept until they end: one question at a time per token, asked before the old one ends.

Rules:
- a token is used until SKEW_S before its end; from four fifths of its life on it is renewed in the background, and a
  renewal that fails leaves the old one in use;
- the same token wanted many times at once is one question; questions at once and tokens kept are bounded;
- a refusal is remembered for REFUSED_S, an issuer that does not answer for UNREACHABLE_S: a flood of requests is no flood there;
- a token the upstream refuses is dropped, unless it was made within SETTLED_S: an upstream that refuses everything costs
  one question in that time;
- keys are digests: what is kept tells nothing about the tokens it was made of.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import NamedTuple, TypeVar

from agw.security.contract import SecurityHost
from agw.security.upstream.source import CredentialError, Presented

SKEW_S = 10.0
"""Seconds before its end from which a token is not used; a tenth of its life if that is less."""
REFUSED_S = 5.0
UNREACHABLE_S = 1.0
SETTLED_S = 5.0
MAX_CALLS = 64
"""Questions at once of one cache."""

T = TypeVar("T")
Ask = Callable[[], Awaitable["Issued"]]
"""Gets a token. Errors: CredentialError."""


class Issued(NamedTuple):
    """A token in its place, and for how many seconds it is good."""

    presented: Presented
    lifetime_s: float


class _Kept(NamedTuple):
    presented: Presented
    made: float
    renew: float
    end: float


class _Failed(NamedTuple):
    error: CredentialError
    end: float


class TokenCache:
    """Tokens by key. `what` names the policy in counters."""

    __slots__ = ("_clock", "_failed", "_host", "_kept", "_max", "_running", "_what")

    def __init__(self, host: SecurityHost, what: str, max_entries: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._host = host
        self._what = what
        self._max = max_entries
        self._clock = clock
        self._kept: OrderedDict[bytes, _Kept] = OrderedDict()
        self._failed: OrderedDict[bytes, _Failed] = OrderedDict()
        self._running: dict[bytes, asyncio.Task[Presented]] = {}

    def __len__(self) -> int:
        return len(self._kept)

    def ready(self, key: bytes, ask: Ask) -> Presented | None:
        """A token that is kept; starts its renewal when that is due. Errors: CredentialError while a failure is remembered."""
        kept = self._kept.get(key)
        now = self._clock()
        if kept is None or kept.end <= now:
            failed = self._failed.get(key)
            if failed is not None and failed.end > now:
                raise CredentialError(failed.error.kind, str(failed.error))
            return None
        self._kept.move_to_end(key)
        if kept.renew <= now and key not in self._running and len(self._running) < MAX_CALLS and not self._has_failed(key, now):
            self._start(key, ask)
        return kept.presented

    async def fetch(self, key: bytes, ask: Ask) -> Presented:
        """The token, asked for unless it is kept. Errors: CredentialError."""
        found = self.ready(key, ask)
        if found is not None:
            return found
        running = self._running.get(key)
        if running is None:
            if len(self._running) >= MAX_CALLS:
                raise CredentialError("unreachable", f"{self._what}: more than {MAX_CALLS} tokens asked for at once")
            running = self._start(key, ask)
        # A task of its own: the request that asked first may go away before the others have their answer.
        return await asyncio.shield(running)

    def drop(self, key: bytes) -> None:
        """The upstream refused this token."""
        kept = self._kept.get(key)
        if kept is not None and self._clock() - kept.made >= SETTLED_S:
            del self._kept[key]

    def _has_failed(self, key: bytes, now: float) -> bool:
        failed = self._failed.get(key)
        return failed is not None and failed.end > now

    def _start(self, key: bytes, ask: Ask) -> asyncio.Task[Presented]:
        task = self._running[key] = asyncio.get_running_loop().create_task(self._ask(key, ask))
        # A renewal has nobody who waits for its error; `_failed` has it.
        task.add_done_callback(lambda done: done.cancelled() or done.exception())
        return task

    async def _ask(self, key: bytes, ask: Ask) -> Presented:
        try:
            issued = await ask()
        except CredentialError as error:
            self._host.count(self._what, error.kind)
            wait_s = UNREACHABLE_S if error.kind == "unreachable" else REFUSED_S
            _put(self._failed, key, _Failed(error, self._clock() + wait_s), max(self._max, 1))
            if error.kind == "refused":
                self._kept.pop(key, None)
            raise
        finally:
            del self._running[key]
        self._host.count(self._what, "ok")
        self._failed.pop(key, None)
        now, life = self._clock(), issued.lifetime_s
        usable = life - min(SKEW_S, life / 10)
        if self._max > 0 and usable > 0:
            _put(self._kept, key, _Kept(issued.presented, now, now + min(life * 0.8, usable), now + usable), self._max)
        return issued.presented


def _put(table: OrderedDict[bytes, T], key: bytes, value: T, most: int) -> None:
    table[key] = value
    table.move_to_end(key)
    while len(table) > most:
        table.popitem(last=False)
