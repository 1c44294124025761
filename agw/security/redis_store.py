"""Limits that several machines share through Redis or Valkey: leases of permits, so that no request waits for the store.

    request -> decide(): takes from this worker's lease of the key, at once
    run()   -> one pipeline of script calls for all keys that need permits: debts are charged, permits leased

Rules:
- a worker that has no lease yet lets through up to one block in advance and charges it afterwards; so does one whose last
  lease was granted in full. Once the store grants less, nothing is let through in advance until the time it named is over;
- everything let through is charged in the end, beyond the burst if need be: over time the count is exact, at one moment it
  may be over by one block per worker and key. Unsent debts of a worker that dies are lost, at most one block per key;
- a lease that nobody uses for LEASE_IDLE_NS is returned; there are at most MOST_LEASES, further keys are this machine's affair
  and counted as errors;
- while the store does not answer, `down` decides: `local` this machine's own books, `open` everything passes, `closed`
  nothing; the store is tried again after 0.1 s, doubled up to 5 s;
- keys in the store are prefix, identity of the limit and a keyed hash: no name of a user leaves the process; each lives as
  long as its bucket is not full, or its window lasts;
- the URL may hold a password and is never logged.
"""

from __future__ import annotations

import asyncio
import datetime
import hashlib
import logging
import random
import time
from collections.abc import Callable
from typing import Any

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import NoScriptError, RedisError

from agw._fast.limiter import Limit
from agw.runtime.plan_security import LimitPlan, RateStorePlan

log = logging.getLogger(__name__)

MOST_LEASES = 10_000
LEASE_IDLE_NS = 5_000_000_000
SOON_NS = 50_000_000
"""When the answer of the store is on its way."""
BATCH = 128
TIMEOUT_S = 1.0
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.1, 5.0

SCRIPT = """
local kind, interval, burst = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local debt, want, ttl = tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])
local had = tonumber(redis.call('GET', KEYS[1]))
if kind == 'quota' then
    local used = math.max(0, (had or 0) + debt)
    local granted = math.max(0, math.min(want, burst - used))
    redis.call('SET', KEYS[1], string.format('%.0f', used + granted), 'PX', ttl)
    return {granted, granted < want and ttl * 1000 or 0}
end
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000000 + tonumber(time[2])
local tat = math.max(now, math.max(now, had or now) + debt * interval)
local granted = math.max(0, math.min(want, math.floor(burst - (tat - now) / interval)))
tat = tat + granted * interval
if tat > now then
    redis.call('SET', KEYS[1], string.format('%.3f', tat), 'PX', math.ceil((tat - now) / 1000) + 1000)
else
    redis.call('DEL', KEYS[1])
end
return {granted, granted < want and math.max(1, math.ceil(tat + interval - now - burst * interval)) or 0}
"""
"""KEYS: the bucket. ARGV: kind, us per unit, burst, debt to charge (negative: permits to return), permits wanted, ms of the window left.
Returns permits granted, and when not all were, us until the next one."""


class Lease:
    """What one worker may still let through for one key. `balance` below zero is a debt."""

    __slots__ = ("balance", "blocked_ns", "flush", "pending", "used_ns", "window")

    def __init__(self, now_ns: int, window: str) -> None:
        self.balance = 0
        self.flush = True
        """Was the last wish granted in full?"""
        self.blocked_ns = 0
        self.pending = False
        self.used_ns = now_ns
        self.window = window


class LimitLeases:
    """The leases of one limit; what `Limit.store` calls."""

    def __init__(self, store: RedisStore, plan: LimitPlan, identity: bytes) -> None:
        self.store = store
        self.plan = plan
        self.name = f"{store.plan.prefix}{identity.hex()}:"
        self.block = min(plan.burst, store.plan.lease or max(1, min(plan.burst // 16, 1000)))
        self.leases: dict[int, Lease] = {}
        self._window = ""
        self._window_ends = 0.0

    def __call__(self, limit: Limit, key: int, cost: int, now_ns: int) -> int:
        """0 admits, above zero: come back in so many ns, -1: this machine decides alone."""
        store = self.store
        if store.is_down:
            limit.count_error()
            return {"local": -1, "open": 0, "closed": 1_000_000_000}[store.plan.down]
        window = self.window() if self.plan.window else ""
        lease = self.leases.get(key)
        if lease is None or lease.window != window:
            if lease is None:
                if store.held >= MOST_LEASES:
                    limit.count_error()
                    return -1
                store.held += 1
            pending = lease is not None and lease.pending
            lease = self.leases[key] = Lease(now_ns, window)
            if pending:
                # The answer that is on its way is about the window before.
                store.forget(self, key)
        lease.used_ns = now_ns
        if lease.balance < cost:
            advance = max(self.block, cost) if lease.flush else cost
            if lease.blocked_ns > now_ns:
                return lease.blocked_ns - now_ns
            if lease.balance - cost < -advance or (lease.balance < 0 and not lease.flush):
                store.want(self, key, lease)
                return SOON_NS
        lease.balance -= cost
        if 2 * lease.balance < self.block:
            store.want(self, key, lease)
        return 0

    def window(self) -> str:
        """A name for the window of now."""
        now = time.time()
        if now >= self._window_ends:
            moment = datetime.datetime.fromtimestamp(now, datetime.UTC)
            start = moment.replace(minute=0, second=0, microsecond=0)
            if self.plan.window == "hour":
                end = start + datetime.timedelta(hours=1)
            elif self.plan.window == "day":
                end = start.replace(hour=0) + datetime.timedelta(days=1)
            else:
                end = (start.replace(hour=0, day=1) + datetime.timedelta(days=32)).replace(day=1)
            self._window = f"{moment:%Y%m%d%H}"[: {"hour": 10, "day": 8, "month": 6}[self.plan.window]]
            self._window_ends = end.timestamp()
        return self._window

    def arguments(self, key: int, lease: Lease, want: int) -> list[Any]:
        """Key and arguments of the script."""
        name = f"{self.name}{key:016x}"
        left = 0
        if lease.window:
            name += f":{lease.window}"
            self.window()
            left = max(1000, int((self._window_ends - time.time()) * 1000))
        kind = "quota" if lease.window else "rate"
        return [name, kind, self.plan.interval_ns / 1000, self.plan.burst, -lease.balance if lease.balance < 0 or not want else 0, want, left]


class RedisStore:
    """The store of one worker. `run` on its loop; `close` at the end."""

    def __init__(self, plan: RateStorePlan, pause_s: float = FIRST_PAUSE_S) -> None:
        self.plan = plan
        self.is_down = False
        self.held = 0
        """Leases of all limits."""
        self.calls = 0
        """Script calls made."""
        self._pause = self._first_pause = pause_s
        self._redis = Redis.from_url(plan.url, socket_timeout=TIMEOUT_S, socket_connect_timeout=TIMEOUT_S, retry=Retry(NoBackoff(), 0), max_connections=2)
        self._sha = hashlib.sha1(SCRIPT.encode()).hexdigest()
        self._limits: dict[bytes, LimitLeases] = {}
        self._wanted: dict[tuple[LimitLeases, int], Lease] = {}
        self._wake = asyncio.Event()
        self._closing = False
        self._lock = asyncio.Lock()

    def leases(self, plan: LimitPlan, identity: bytes) -> Callable[[Limit, int, int, int], int]:
        """What decides for a limit; the same one for the same identity."""
        found = self._limits.get(identity)
        if found is None:
            found = self._limits[identity] = LimitLeases(self, plan, identity)
        return found

    def want(self, limit: LimitLeases, key: int, lease: Lease) -> None:
        """Ask for permits soon."""
        if not lease.pending:
            lease.pending = True
            self._wanted[limit, key] = lease
            self._wake.set()

    def forget(self, limit: LimitLeases, key: int) -> None:
        """Do not ask for that any more."""
        self._wanted.pop((limit, key), None)

    async def run(self) -> None:
        """Keep leases filled until `close`. Never raises but for cancellation."""
        while not self._closing:
            try:
                async with asyncio.timeout(1.0):
                    await self._wake.wait()
            except TimeoutError:
                pass
            self._wake.clear()
            try:
                async with self._lock:
                    if self._closing:
                        return
                    if self.is_down:
                        async with asyncio.timeout(2 * TIMEOUT_S):
                            await self._redis.ping()
                    await self._ask()
                    await self._return_idle(time.monotonic_ns() - LEASE_IDLE_NS)
            except Exception as error:  # of the library, of the network, of an answer that is none: all mean that the store is of no use now
                await self._failed(error)
                continue
            if self.is_down:
                log.warning("the store of limits answers again")
            self.is_down = False
            self._pause = self._first_pause

    async def _failed(self, error: Exception) -> None:
        if not self.is_down:
            log.error("the store of limits does not answer", extra={"cause": type(error).__name__, "until_then": self.plan.down})
        self.is_down = True
        self._wake.set()
        pause, self._pause = self._pause, min(2 * self._pause, LONGEST_PAUSE_S)
        await asyncio.sleep(pause * random.uniform(0.8, 1.2))

    async def _ask(self) -> None:
        """Charge debts and lease permits for what is wanted."""
        while self._wanted:
            batch = list(self._wanted.items())[:BATCH]
            asked = [(limit, lease, min(lease.balance, 0), limit.arguments(key, lease, limit.block)) for (limit, key), lease in batch]
            answers = await self._call([arguments for *_, arguments in asked])
            now = time.monotonic_ns()
            for place, lease in batch:
                self._wanted.pop(place, None)
                lease.pending = False
            for (limit, lease, debt, _), answer in zip(asked, answers, strict=True):
                granted, again_us = answer
                # What was let through meanwhile is a debt of its own.
                lease.balance += granted - debt
                lease.flush = granted >= limit.block
                lease.blocked_ns = 0 if granted else now + again_us * 1000

    async def _return_idle(self, before_ns: int) -> None:
        """Return what nobody uses; debts are charged."""
        for limit in self._limits.values():
            idle = [(key, lease) for key, lease in limit.leases.items() if lease.used_ns < before_ns and not lease.pending]
            for start in range(0, len(idle), BATCH):
                part = idle[start : start + BATCH]
                for key, _ in part:
                    del limit.leases[key]
                    self.held -= 1
                current = limit.window() if limit.plan.window else ""
                calls = [limit.arguments(key, lease, 0) for key, lease in part if lease.balance and lease.window == current]
                if calls:
                    await self._call(calls)

    async def _call(self, calls: list[list[Any]]) -> list[list[int]]:
        """One pipeline; loads the script when the server does not have it. Errors: RedisError, OSError, TimeoutError."""
        for attempt in (0, 1):
            async with asyncio.timeout(2 * TIMEOUT_S), self._redis.pipeline(transaction=False) as pipe:
                for arguments in calls:
                    pipe.evalsha(self._sha, 1, *arguments)
                answers: list[Any] = await pipe.execute(raise_on_error=False)
            self.calls += len(calls)
            failed = next((answer for answer in answers if isinstance(answer, Exception)), None)
            if failed is None:
                return answers
            if attempt or not all(isinstance(answer, NoScriptError) for answer in answers):
                raise failed
            await self._redis.script_load(SCRIPT)
        return []

    async def close(self) -> None:
        """Return all leases, at most for a second, and close the connections."""
        self._closing = True
        self._wake.set()
        try:
            async with asyncio.timeout(TIMEOUT_S), self._lock:
                if not self.is_down:
                    await self._ask()
                    await self._return_idle(time.monotonic_ns() + 1)
        except (RedisError, OSError, TimeoutError):
            log.warning("leases of limits could not be returned")
        await self._redis.aclose()
