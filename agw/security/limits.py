"""From limits of the plan to limits that are asked: whose bucket, how much, and in which memory.

Rules:
- a limit's identity is the digest of its plan without its place in the file: unchanged over a reload, it goes on counting;
- limits of several routes with the same identity are one limit;
- a key or cost that cannot be worked out refuses the request and is counted: it never lands in a bucket for everybody;
- keys are told apart by type and length: 1 and "1", ["a", "bc"] and ["ab", "c"] are four buckets.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable, Iterable
from typing import Any, Protocol

import msgspec

from agw._fast.gate import Charge
from agw._fast.limiter import Limit
from agw.runtime.plan_security import LimitPlan
from agw.security.contract import RATE_LIMIT, Refusal
from agw.shm.limits import SharedLimits

MOST_COST = 2**63 - 1
MOST_PARTS = 32
"""Members of a list that is a key."""


class Expression(Protocol):
    """A compiled expression. `evaluate` never raises: what is no value of a known type is an error."""

    @property
    def needs(self) -> frozenset[str]:
        """The groups of facts it depends on."""

    def evaluate(self, values: Any) -> Any: ...


Compile = Callable[[str, Any], Expression]
"""(text, phase) to an expression; errors are the compiler's own."""


class LimitCheck:
    """A limit with the expressions of its plan."""

    __slots__ = ("cost", "key", "limit", "needs", "plan")

    def __init__(self, plan: LimitPlan, limit: Limit, compile: Compile) -> None:
        self.plan = plan
        self.limit = limit
        self.key = compile(plan.key, plan.phase) if plan.key else None
        self.cost = compile(plan.cost, plan.phase) if plan.cost else None
        self.needs = frozenset[str]().union(*(part.needs for part in (self.key, self.cost) if part is not None))
        """What a charge depends on; one that depends on the identity only may be kept with it."""

    def key_of(self, facts: Any) -> bytes | None:
        """The bucket's key; None when the expression has no usable value."""
        return b"" if self.key is None else key_bytes(self.key.evaluate(facts))

    def cost_of(self, facts: Any) -> int | None:
        """The units; None when the expression gives no whole number from 0."""
        if self.cost is None:
            return 1
        value = self.cost.evaluate(facts)
        return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MOST_COST else None

    def charge(self, facts: Any) -> Charge | Refusal:
        """What the data path takes for a request with these facts; a refusal when that cannot be worked out."""
        key = self.key_of(facts)
        cost = self.cost_of(facts) if key is not None else None
        if key is None or cost is None:
            self.limit.count_error()
            part = "key" if key is None else "cost"
            return Refusal(429, RATE_LIMIT, b"rate limit cannot be decided", f"limit {self.plan.name}: its {part} has no usable value", code=-32029)
        return Charge(self.limit, self.limit.hash_key(key), cost)


class Limits:
    """The limits of one worker. `store`: None, or who shares rates and quotas with other machines (`RedisStore.leases`)."""

    def __init__(self, shared: SharedLimits, compile: Compile, store: Callable[[LimitPlan, bytes], Any] | None = None) -> None:
        self._shared = shared
        self._compile = compile
        self._store = store
        self._limits: dict[bytes, Limit] = {}

    def check(self, plan: LimitPlan) -> LimitCheck:
        """The limit of a plan. Errors: those of the compiler."""
        identity = identity_of(plan)
        limit = self._limits.get(identity)
        if limit is None:
            limit = self._shared.limit(plan.name, plan.kind, plan.burst, plan.interval_ns, plan.window, identity)
            if self._store is not None and plan.kind != "concurrency":
                limit.store = self._store(plan, identity)
            self._limits[identity] = limit
        return LimitCheck(plan, limit, self._compile)

    def keep_only(self, plans: Iterable[LimitPlan]) -> None:
        """After a reload: forget limits that are in no plan any more. Their buckets empty with time."""
        wanted = {identity_of(plan) for plan in plans}
        self._limits = {identity: limit for identity, limit in self._limits.items() if identity in wanted}


def identity_of(plan: LimitPlan) -> bytes:
    """16 octets."""
    return hashlib.blake2b(msgspec.msgpack.encode(msgspec.structs.replace(plan, where="")), digest_size=16).digest()


def key_bytes(value: Any, depth: int = 0) -> bytes | None:
    """A value as octets that no other value has; None for what is no key: an error, null, a map, an empty list."""
    if isinstance(value, str):
        return b"s" + value.encode("utf-8", "surrogatepass")
    if isinstance(value, bytes):
        return b"b" + value
    if isinstance(value, bool):
        return b"t" if value else b"f"
    if isinstance(value, int):
        return b"i%d" % value
    if isinstance(value, float):
        return b"d" + struct.pack("<d", value)
    if isinstance(value, (list, tuple)) and 0 < len(value) <= MOST_PARTS and depth == 0:
        parts = [key_bytes(part, 1) for part in value]
        if all(part is not None for part in parts):
            return b"l" + b"".join(struct.pack("<I", len(part)) + part for part in parts if part is not None)
    return None
