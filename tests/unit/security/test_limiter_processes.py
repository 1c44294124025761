"""Limits under several real processes: exact at saturation, usable after kill -9 anywhere, permits of the dead returned."""

from __future__ import annotations

import mmap
import os
import signal
import time
from collections.abc import Callable

import pytest

from agw._fast.limiter import Limit, Table, table_bytes

S = 1_000_000_000


def shared(keys: int = 1000, workers: int = 8) -> mmap.mmap:
    memory = mmap.mmap(-1, table_bytes(keys, workers, 64))
    Table.format(memory, keys, workers, 64, os.urandom(16))
    return memory


def fork(body: Callable[[], object]) -> int:
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            body()
            code = 0
        finally:
            os._exit(code)
    return pid


def wait(*pids: int) -> None:
    for pid in pids:
        assert os.waitpid(pid, 0)[1] == 0


def counts(memory: mmap.mmap) -> tuple[int, int, int, int]:
    return Table(memory).counts()[0][1:]


@pytest.mark.parametrize("processes", [2, 4])
@pytest.mark.parametrize("keys", [1, 50])
def test_saturation(processes: int, keys: int) -> None:
    """All processes ask as fast as they can; what is admitted is burst plus rate times time."""
    memory = shared()
    burst, interval, lasts = 5000, 100_000, S
    start = time.monotonic_ns() + 50_000_000
    names = [b"key-%d" % i for i in range(keys)]

    def body(worker: int) -> None:
        limit = Limit(Table(memory, worker), "r", "rate", burst, interval)
        spend = limit.spend_at
        while (now := time.monotonic_ns()) < start + lasts:
            if now >= start:
                for name in names:
                    # The same moment for every key, so that the end is the same for all.
                    spend(name, 1, now, 0)
        # Whoever was not let run towards the end: what had come back by then is still there.
        for name in names:
            while spend(name, 1, start + lasts, 0):
                pass

    wait(*(fork(lambda w=w: body(w)) for w in range(processes)))  # type: ignore[misc]
    admitted, refused, evictions, errors = counts(memory)
    exact = (burst + lasts // interval) * keys
    assert admitted <= exact + keys
    assert admitted >= exact * 0.99
    assert refused > 0 and evictions == 0 and errors == 0


@pytest.mark.parametrize("processes", [2, 4])
def test_insertion_of_the_same_keys_at_once(processes: int) -> None:
    """Everybody spends on the same new keys in the same order: however often two meet, no key gets more than its burst."""
    memory = shared(keys=100_000)
    now = time.monotonic_ns()
    names = [b"key-%d" % i for i in range(20_000)]

    def body(worker: int) -> None:
        limit = Limit(Table(memory, worker), "r", "rate", 3, 3600 * S)
        for name in names:
            limit.spend_at(name, 1, now, 0)
            limit.spend_at(name, 1, now, 0)

    wait(*(fork(lambda w=w: body(w)) for w in range(processes)))  # type: ignore[misc]
    admitted, _, evictions, errors = counts(memory)
    assert errors == 0 and evictions == 0
    asked = 40_000 * processes
    assert min(asked, 60_000) * 0.999 <= admitted <= 60_000 * 1.001 if asked > 60_000 else admitted == asked


def test_quota_is_exact_over_processes() -> None:
    memory = shared()
    wall = 1_700_000_000 * S

    def body(worker: int) -> None:
        limit = Limit(Table(memory, worker), "q", "quota", 10_000, window="day")
        for _ in range(9_000):
            limit.spend_at(b"k", 1, 0, wall)

    wait(*(fork(lambda w=w: body(w)) for w in range(4)))  # type: ignore[misc]
    assert counts(memory) == (10_000, 26_000, 0, 0)


def test_permits_are_never_more_than_allowed() -> None:
    memory = shared()
    most = mmap.mmap(-1, 4096)

    def body(worker: int) -> None:
        limit = Limit(Table(memory, worker), "c", "concurrency", 3)
        inside = memoryview(most).cast("Q")
        for i in range(20_000):
            if limit.spend(b"k"):
                inside[worker] = 1
                inside[8 + worker] = max(inside[8 + worker], sum(inside[:4]))
                if i % 7 == 0:
                    os.sched_yield()
                inside[worker] = 0
                limit.return_permit(b"k")

    wait(*(fork(lambda w=w: body(w)) for w in range(4)))  # type: ignore[misc]
    assert max(memoryview(most).cast("Q")[8:12]) <= 3
    admitted, refused, _, errors = counts(memory)
    assert errors == 0 and admitted + refused == 80_000
    assert Limit(Table(memory, 0), "c", "concurrency", 3).spend(b"k")


def test_killed_in_the_middle_again_and_again() -> None:
    """kill -9 at 200 arbitrary moments of inserting, spending, holding: the table stays usable and exact for those who live."""
    memory = shared(keys=64)
    for round_ in range(200):
        worker = 1 + round_ % 7

        def body(worker: int = worker) -> None:
            table = Table(memory, worker)
            rate = Limit(table, "r", "rate", 5, 10_000, identity=b"r" * 16)
            held = Limit(table, "c", "concurrency", 2, identity=b"c" * 16)
            i = 0
            while True:
                i += 1
                rate.spend(b"%d" % (i % 500))
                held.spend(b"%d" % (i % 11))

        pid = fork(body)
        # Until it is really at it; then wherever it happens to be.
        before = sum(row[1] + row[2] for row in Table(memory).counts())
        while sum(row[1] + row[2] for row in Table(memory).counts()) < before + 50 + round_:
            os.sched_yield()
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        Table(memory, 0).release(worker)
    table = Table(memory, 0)
    held = Limit(table, "c", "concurrency", 2, identity=b"c" * 16)
    for i in range(11):
        assert [held.spend(b"%d" % i) for _ in range(3)] == [True, True, False]
    rate = Limit(table, "r", "rate", 5, 10_000, identity=b"r" * 16)
    now = time.monotonic_ns() + S
    for i in range(64):
        assert [rate.spend_at(b"%d" % i, 1, now, 0) for i in [i] * 6] == [True] * 5 + [False]
    assert sum(row[4] for row in table.counts()) == 0
