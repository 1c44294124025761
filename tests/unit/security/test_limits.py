"""Limits of the plan: identity, keys and costs from expressions, and what happens when these fail."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agw._fast.gate import Charge
from agw.runtime.plan_security import LimitPlan
from agw.security.contract import Refusal
from agw.security.limits import LimitCheck, Limits, identity_of, key_bytes
from agw.shm.limits import make_limits


class Looked:
    """An expression that looks a name up in the facts, a dict."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.needs = frozenset((name.partition(".")[0],))

    def evaluate(self, values: Any) -> Any:
        return values.get(self.name, RuntimeError("no such value"))


def compile(text: str, phase: str) -> Looked:
    return Looked(text)


PLAN = LimitPlan("l", burst=2, interval_ns=10**12, key="jwt.sub", cost="request.size")


def limits() -> Limits:
    return Limits(make_limits(1000, 1).as_worker(0), compile)


def test_the_identity_is_the_content() -> None:
    assert identity_of(PLAN) == identity_of(msgspec.structs.replace(PLAN, where="elsewhere"))
    assert len({identity_of(msgspec.structs.replace(PLAN, **{k: v})) for k, v in (("name", "x"), ("burst", 3), ("key", "k"), ("phase", "mcp"))}) == 4  # type: ignore[arg-type]


def test_the_same_limit_is_one_and_outlives_a_reload() -> None:
    mine = limits()
    one = mine.check(PLAN)
    mine.keep_only([PLAN])
    two = mine.check(msgspec.structs.replace(PLAN, where="moved"))
    assert one.limit is two.limit
    mine.keep_only([])
    assert mine.check(PLAN).limit is not one.limit
    assert one.needs == {"jwt", "request"}


def taken(check: LimitCheck, facts: dict[str, Any]) -> tuple[int, int] | str:
    charge = check.charge(facts)
    if isinstance(charge, Refusal):
        assert charge.status == 429
        return charge.cause
    assert isinstance(charge, Charge)
    return charge.key, charge.cost


def test_key_and_cost() -> None:
    check = limits().check(PLAN)
    assert taken(check, {"jwt.sub": "ann", "request.size": 7}) == (check.limit.hash_key(b"sann"), 7)
    free = limits().check(LimitPlan("l", burst=1, interval_ns=1))
    assert taken(free, {}) == (free.limit.hash_key(b""), 1)


@pytest.mark.parametrize("key", [RuntimeError("e"), None, {}, [], ["a", None], [["a"]], ["x"] * 33])
def test_a_key_that_fails_refuses_and_is_counted(key: Any) -> None:
    check = limits().check(PLAN)
    assert taken(check, {"jwt.sub": key, "request.size": 1}) == "limit l: its key has no usable value"
    assert check.limit.table.counts()[0][4] == 1


@pytest.mark.parametrize("cost", [RuntimeError("e"), None, -1, 1.5, True, "1", 2**63])
def test_a_cost_that_fails_refuses_and_is_counted(cost: Any) -> None:
    check = limits().check(PLAN)
    assert taken(check, {"jwt.sub": "ann", "request.size": cost}) == "limit l: its cost has no usable value"
    assert check.limit.table.counts()[0][4] == 1


SCALARS = st.one_of(st.text(max_size=5), st.binary(max_size=5), st.booleans(), st.integers(-(10**6), 10**6), st.floats(allow_nan=False))
KEYS = st.one_of(SCALARS, st.lists(SCALARS, min_size=1, max_size=4))


def typed(value: Any) -> Any:
    return [typed(part) for part in value] if isinstance(value, list) else (type(value), repr(value))


@given(KEYS, KEYS)
def test_different_keys_are_different_buckets(one: Any, two: Any) -> None:
    assert (key_bytes(one) == key_bytes(two)) == (typed(one) == typed(two))
