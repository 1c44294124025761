"""Limits in shared memory: GCRA against an exact model, quotas and windows, permits, keys that fill the table, header lines."""

from __future__ import annotations

import datetime
import mmap
import time
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agw._fast.limiter import NAME_ROWS, Limit, Table, table_bytes

S = 1_000_000_000
NOON = 1_700_000_000 * S


def make(keys: int = 1000, workers: int = 2, permits: int = 64, key: bytes = bytes(range(16))) -> Table:
    memory = mmap.mmap(-1, table_bytes(keys, workers, permits))
    Table.format(memory, keys, workers, permits, key)
    return Table(memory, 0)


# ----------------------------------------------------------------------------------------------------------- rates

STEPS = st.lists(st.tuples(st.integers(0, 3 * S), st.integers(0, 6), st.integers(0, 2)), max_size=60)


@settings(max_examples=200, deadline=None)
@given(burst=st.integers(1, 5), interval=st.integers(1, 2 * S), steps=STEPS)
def test_a_rate_is_the_token_bucket(burst: int, interval: int, steps: list[tuple[int, int, int]]) -> None:
    """Tokens as exact fractions: `burst` at the start, one more per interval, never more than `burst`."""
    limit = Limit(make(), "r", "rate", burst, interval)
    now = 10**15
    tokens: dict[int, tuple[Fraction, int]] = {}
    for wait, cost, key in steps:
        now += wait
        had, at = tokens.get(key, (Fraction(burst), now))
        have = min(Fraction(burst), had + Fraction(now - at, interval))
        wanted = min(cost, burst)
        admitted = limit.spend_at(b"%d" % key, cost, now, 0)
        assert admitted == (have >= wanted)
        left = have - wanted if admitted else have
        tokens[key] = (left, now)
        remaining, retry, reset = limit.last
        assert remaining == left.__floor__()
        assert reset == (burst - left) * interval
        assert retry == (0 if admitted else (wanted - left) * interval)


def test_trying_again_after_the_said_time_succeeds() -> None:
    limit = Limit(make(), "r", "rate", 3, S)
    now = 10**15
    assert [limit.spend_at(b"k", 1, now, 0) for _ in range(4)] == [True, True, True, False]
    retry = limit.last[1]
    assert not limit.spend_at(b"k", 1, now + retry - 1, 0)
    assert limit.spend_at(b"k", 1, now + retry, 0)


def test_a_cost_above_the_burst_is_the_burst() -> None:
    limit = Limit(make(), "r", "rate", 3, S)
    assert limit.spend_at(b"k", 1_000_000, 10**15, 0)
    assert not limit.spend_at(b"k", 1, 10**15, 0)
    assert limit.last == (0, S, 3 * S)


def test_units_that_were_not_used_come_back() -> None:
    limit = Limit(make(), "r", "rate", 3, S)
    now = 10**15
    assert limit.spend_at(b"k", 3, now, 0)
    limit.refund(b"k", 2, now)
    assert limit.spend_at(b"k", 2, now, 0)
    assert not limit.spend_at(b"k", 1, now, 0)


def test_limits_keep_apart_and_the_same_limit_goes_on() -> None:
    table = make()
    one = Limit(table, "one", "rate", 1, S, identity=b"1" * 16)
    two = Limit(table, "two", "rate", 1, S, identity=b"2" * 16)
    again = Limit(table, "one", "rate", 1, S, identity=b"1" * 16)
    assert one.number == again.number != two.number
    assert one.hash_key(b"k") == again.hash_key(b"k") != two.hash_key(b"k")
    assert one.spend(b"k") and two.spend(b"k") and not again.spend(b"k")
    assert [row[:3] for row in table.counts() if row[0] == "one"] == [("one", 1, 1)]


def test_hashes_depend_on_the_key_of_the_table() -> None:
    one, two = (Limit(make(key=bytes([i]) * 16), "r", "rate", 1, S).hash_key(b"k") for i in (1, 2))
    assert one != two


# ---------------------------------------------------------------------------------------------------------- quotas


def ns(*when: int) -> int:
    return int(datetime.datetime(*when, tzinfo=datetime.UTC).timestamp()) * S  # type: ignore[arg-type, misc]


@settings(max_examples=300, deadline=None)
@given(moment=st.datetimes(datetime.datetime(1970, 1, 1), datetime.datetime(2200, 1, 1)), window=st.sampled_from(["hour", "day", "month"]))
def test_windows_end_where_the_calendar_says(moment: datetime.datetime, window: str) -> None:
    moment = moment.replace(microsecond=0, tzinfo=datetime.UTC)
    start = moment.replace(minute=0, second=0)
    if window == "hour":
        end = start + datetime.timedelta(hours=1)
    elif window == "day":
        end = start.replace(hour=0) + datetime.timedelta(days=1)
    else:
        end = (start.replace(hour=0, day=1) + datetime.timedelta(days=32)).replace(day=1)
    limit = Limit(make(), "q", "quota", 2, window=window)
    wall = int(moment.timestamp()) * S
    ends = int(end.timestamp()) * S
    assert limit.spend_at(b"k", 2, 0, wall) and limit.last == (0, 0, ends - wall)
    assert not limit.spend_at(b"k", 1, 0, ends - 1)
    assert limit.last == (0, 1, 1)
    assert limit.spend_at(b"k", 1, 0, ends)
    assert limit.last[0] == 1


def test_a_clock_set_back_grants_nothing_anew() -> None:
    limit = Limit(make(), "q", "quota", 1, window="hour")
    assert limit.spend_at(b"k", 1, 0, ns(2026, 5, 5, 12, 0, 1))
    assert not limit.spend_at(b"k", 1, 0, ns(2026, 5, 5, 11, 59, 59))
    assert limit.spend_at(b"k", 1, 0, ns(2026, 5, 5, 13))


def test_a_clock_that_was_years_ahead_locks_nobody_out() -> None:
    limit = Limit(make(), "q", "quota", 1, window="day")
    assert limit.spend_at(b"k", 1, 0, ns(2036, 5, 5))
    assert limit.spend_at(b"k", 1, 0, ns(2026, 5, 5))
    assert not limit.spend_at(b"k", 1, 0, ns(2026, 5, 5, 1))


# --------------------------------------------------------------------------------------------------------- permits


def test_permits_are_counted_over_all_workers() -> None:
    table = make()
    mine, other = Limit(table, "c", "concurrency", 2), Limit(table.as_worker(1), "c", "concurrency", 2)
    assert mine.spend(b"k") and other.spend(b"k")
    assert not mine.spend(b"k") and not other.spend(b"k")
    assert mine.spend(b"another key")
    other.return_permit(b"k")
    assert mine.spend(b"k") and not other.spend(b"k")


def test_giving_back_what_one_does_not_hold_changes_nothing() -> None:
    table = make()
    mine, other = Limit(table, "c", "concurrency", 1), Limit(table.as_worker(1), "c", "concurrency", 1)
    assert mine.spend(b"k")
    other.return_permit(b"k")
    assert not other.spend(b"k")


def test_what_a_dead_worker_held_comes_back() -> None:
    table = make()
    mine, other = Limit(table, "c", "concurrency", 3), Limit(table.as_worker(1), "c", "concurrency", 3)
    assert mine.spend(b"k") and other.spend(b"k") and other.spend(b"k") and not mine.spend(b"k")
    assert table.release(1) == 2
    assert table.release(1) == 0
    assert mine.spend(b"k") and mine.spend(b"k") and not mine.spend(b"k")


def test_rows_of_permits_serve_any_number_of_keys_one_after_the_other() -> None:
    limit = Limit(make(permits=8), "c", "concurrency", 1)
    for i in range(1000):
        assert limit.spend(b"%d" % i)
        limit.return_permit(b"%d" % i)
    assert limit.table.counts()[0][3] == 0


def test_more_keys_at_the_same_time_than_rows_pass_uncounted() -> None:
    limit = Limit(make(permits=8), "c", "concurrency", 1)
    assert all(limit.spend(b"%d" % i) for i in range(50))
    evictions = limit.table.counts()[0][3]
    assert evictions >= 42
    for i in range(50):
        limit.return_permit(b"%d" % i)
    assert limit.table.release(0) == 0


# ------------------------------------------------------------------------------------------------------- the table


def test_a_full_table_evicts_and_counts() -> None:
    limit = Limit(make(keys=8), "r", "rate", 10, S)
    now = 10**15
    for i in range(1000):
        assert limit.spend_at(b"%d" % i, 1, now, 0)
    _, admitted, refused, evictions, errors = limit.table.counts()[0]
    assert (admitted, refused, errors) == (1000, 0, 0)
    assert evictions >= 1000 - limit.table.slots_in_all
    assert limit.table.live(now) <= limit.table.slots_in_all


def test_the_heavy_key_is_not_evicted_for_light_ones() -> None:
    limit = Limit(make(keys=8), "r", "rate", 100, S)
    now = 10**15
    assert limit.spend_at(b"heavy", 100, now, 0)
    for i in range(5000):
        limit.spend_at(b"%d" % i, 1, now, 0)
        assert not limit.spend_at(b"heavy", 1, now, 0)


def test_slots_of_full_buckets_are_free() -> None:
    limit = Limit(make(keys=8), "r", "rate", 1, 1000)
    now = 10**15
    for i in range(10_000):
        now += 1000
        assert limit.spend_at(b"%d" % i, 1, now, 0)
    assert limit.table.counts()[0][3] == 0


def test_a_million_keys_in_64_mib() -> None:
    """The bound of docs/limits.md: at most one key in 1,000 is evicted, each eviction grants at most what its key had used."""
    size = table_bytes(1_000_000, 8, 65_536)
    assert size <= 64 * 1024 * 1024
    memory = mmap.mmap(-1, size)
    Table.format(memory, 1_000_000, 8, 65_536, bytes(16))
    limit = Limit(Table(memory, 0), "r", "rate", 1, 3600 * S)
    now = 10**15
    keys = [b"user-%d" % i for i in range(1_000_000)]
    spend = limit.spend_at
    assert all(spend(key, 1, now, 0) for key in keys)
    evictions = limit.table.counts()[0][3]
    assert evictions <= 1000
    again = sum(spend(key, 1, now + 1, 0) for key in keys)
    # Whoever was evicted comes back and may evict the next.
    assert again <= 1000
    print(f"{size} octets, {evictions} evictions, over-admitted {again} of 1,000,000")


def test_counters_of_more_limits_than_rows_share_the_last() -> None:
    table = make()
    limits = [Limit(table, f"l{i}", "rate", 1, S, identity=(2 * i + 1).to_bytes(16, "little")) for i in range(NAME_ROWS + 10)]
    assert all(limit.spend(b"k") for limit in limits)
    rows = {row[0]: row for row in table.counts()}
    assert len(rows) == NAME_ROWS
    assert rows["other"][1] == 11


@pytest.mark.parametrize("word", [0, 1, 2, 3, 4])
def test_a_damaged_header_is_refused(word: int) -> None:
    size = table_bytes(100, 2, 8)
    memory = mmap.mmap(-1, size)
    Table.format(memory, 100, 2, 8, bytes(16))
    memoryview(memory).cast("Q")[word] ^= 0xFF00FF
    with pytest.raises(ValueError, match="no table of limits"):
        Table(memory, 0)


def test_what_makes_no_limit_is_refused() -> None:
    table = make(permits=0)
    for kind, burst, interval, window in (
        ("rate", 0, 1, ""), ("rate", 1, 0, ""), ("rate", 1, 10**18, ""), ("quota", 1, 0, ""), ("rate", 1, 1, "day"), ("concurrency", 1, 0, ""), ("x", 1, 1, ""),
    ):
        with pytest.raises(ValueError):
            Limit(table, "l", kind, burst, interval, window)
    with pytest.raises(IndexError):
        table.as_worker(2)
    with pytest.raises(ValueError):
        Table.format(mmap.mmap(-1, 4096), 100, 2, 8, bytes(16))


# -------------------------------------------------------------------------------------------------- lines and store


def test_lines() -> None:
    limit = Limit(make(), "r", "rate", 2, 60 * S)
    now = 10**15
    assert limit.spend_at(b"k", 1, now, 0)
    assert limit.lines() == b"x-ratelimit-limit: 2\r\nx-ratelimit-remaining: 1\r\nx-ratelimit-reset: 60\r\n"
    assert limit.spend_at(b"k", 1, now + 1, 0)
    assert not limit.spend_at(b"k", 1, now + 2, 0)
    assert limit.lines() == b"x-ratelimit-limit: 2\r\nx-ratelimit-remaining: 0\r\nx-ratelimit-reset: 120\r\nretry-after: 60\r\n"


def test_a_store_decides_and_when_it_cannot_this_machine_does() -> None:
    table = make()
    limit = Limit(table, "r", "rate", 1, S)
    asked: list[tuple[int, int]] = []
    answers = [0, 5 * S, -1]

    def decide(which: Limit, key: int, cost: int, now_ns: int) -> int:
        assert which is limit
        asked.append((key, cost))
        return answers[len(asked) - 1]

    limit.store = decide
    now = 10**15
    assert limit.spend_at(b"k", 1, now, 0)
    assert not limit.spend_at(b"k", 1, now, 0)
    assert limit.last == (0, 5 * S, 5 * S)
    assert not limit.spend_at(b"k", 1, now, 0), "the machine's own books went along"
    limit.store = 5  # cannot be called
    assert limit.spend_at(b"other", 1, now, 0)
    assert table.counts()[0][4] == 1
    assert asked[0] == (limit.hash_key(b"k"), 1)


def test_the_clock_is_the_system_s() -> None:
    limit = Limit(make(), "r", "rate", 1, 3600 * S)
    assert limit.spend(b"k")
    assert not limit.spend_at(b"k", 1, time.monotonic_ns(), time.time_ns())
    assert limit.spend_at(b"k", 1, time.monotonic_ns() + 3600 * S, time.time_ns())
