"""The tables behind limits: quotas that survive restarts and kill -9, files that are torn, what the supervisor chooses."""

from __future__ import annotations

import logging
import os
import signal
import time
from pathlib import Path

import pytest

from agw.runtime.plan import Plan, PolicyPlan, RoutePlan
from agw.runtime.plan_security import LimitPlan, RateStorePlan
from agw.shm.layout import Arena
from agw.shm.limits import FILE_NAME, QuotaFileError, SharedLimits, make_limits
from agw.supervisor.sockets import SocketError
from agw.supervisor.supervisor import shared_limits

WALL = 1_700_000_000 * 10**9
ID = b"identity of this"


def quota(limits: SharedLimits, worker: int = 0, burst: int = 5):  # type: ignore[no-untyped-def]
    return limits.as_worker(worker).limit("q", "quota", burst, 0, "month", ID)


def test_quotas_survive_a_restart_with_another_number_of_workers(tmp_path: Path) -> None:
    path = str(tmp_path / "q")
    limit = quota(make_limits(1000, 2, path), 1)
    assert all(limit.spend_at(b"k", 1, 0, WALL) for _ in range(3))
    again = quota(make_limits(1000, 7, path), 6)
    assert again.spend_at(b"k", 2, 0, WALL)
    assert not again.spend_at(b"k", 1, 0, WALL)
    assert os.stat(path).st_mode & 0o777 == 0o600


def spend_for_ever(limits: SharedLimits, path: str) -> None:
    limit = quota(make_limits(1000, 2, path), 1, 10**9)
    counter = limits.as_worker(1).limit("n", "rate", 10**6, 1000, "", b"what was done...")
    while True:
        limit.spend_at(b"k", 1, 0, WALL)
        counter.spend(b"k")


def test_quotas_survive_kill_9(tmp_path: Path) -> None:
    path = str(tmp_path / "q")
    limits = make_limits(1000, 2, path)
    pid = os.fork()
    if pid == 0:
        try:
            spend_for_ever(limits, path)
        finally:
            os._exit(1)
    while not any(row[1] > 1000 for row in limits.counts()):
        os.sched_yield()
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    done = next(row[1] for row in limits.counts() if row[1])
    limit = quota(make_limits(1000, 2, path), 0, 10**9)
    assert limit.spend_at(b"k", 1, 0, WALL)
    used = 10**9 - limit.last[0] - 1
    assert done <= used <= done + 1


@pytest.mark.parametrize("damage", ["short", "empty", "magic", "geometry"])
def test_a_torn_file_begins_anew_and_says_so(tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "q"
    assert quota(make_limits(1000, 1, str(path))).spend_at(b"k", 5, 0, WALL)
    whole = path.read_bytes()
    path.write_bytes({"short": whole[:-4096], "empty": b"", "magic": b"x" + whole[1:], "geometry": whole[:16] + b"\xff" + whole[17:]}[damage])
    with caplog.at_level(logging.ERROR):
        limit = quota(make_limits(1000, 1, str(path)))
    assert "quotas begin anew" in caplog.text
    assert limit.spend_at(b"k", 5, 0, WALL)
    assert not limit.spend_at(b"k", 1, 0, WALL)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["q"]


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("elsewhere")
    (tmp_path / "folder").mkdir()
    for name in ("link", "folder", "missing/q"):
        with pytest.raises(QuotaFileError, match="quota file"):
            make_limits(1000, 1, str(tmp_path / name))


def plan(kind: str, file: str = "") -> Plan:
    limit = LimitPlan("l", kind, 1, 1000 if kind == "rate" else 0, "day" if kind == "quota" else "")  # type: ignore[arg-type]
    return Plan(routes=[RoutePlan("r", policies=PolicyPlan(limits=[limit]))], rate_store=RateStorePlan(max_keys=1000, quota_file=file))


def test_the_state_directory_is_used_once_there_is_a_quota(tmp_path: Path) -> None:
    state = {"STATE_DIRECTORY": f"{tmp_path}:/elsewhere"}
    assert not shared_limits(plan("rate"), 1, state).lasting
    assert not (tmp_path / FILE_NAME).exists()
    assert shared_limits(plan("quota"), 1, state).lasting
    assert (tmp_path / FILE_NAME).exists()
    assert not shared_limits(plan("quota"), 1, {}).lasting


def test_a_file_that_cannot_be_used_stops_the_start_only_if_it_was_asked_for(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(SocketError, match="quota file"):
        shared_limits(plan("quota", str(tmp_path / "no" / "q")), 1, {})
    assert not shared_limits(plan("quota"), 1, {"STATE_DIRECTORY": str(tmp_path / "no")}).lasting
    assert "quotas are not kept" in caplog.text


def test_counters_of_all_tables_are_read_through_the_arena() -> None:
    arena = Arena(2)
    assert arena.limit_counts() == []
    arena.limits = make_limits(1000, 2)
    for worker in (0, 1):
        mine = arena.limits.as_worker(worker)
        assert mine.limit("q", "quota", 9, 0, "day", ID).spend(b"k")
        assert mine.limit("r", "rate", 9, 1000, "", b"another identity").spend(b"k")
        assert mine.limit("c", "concurrency", 9, 0, "", b"a third identity").spend(b"k")
    assert sorted(arena.limit_counts()) == [("c", 2, 0, 0, 0), ("q", 2, 0, 0, 0), ("r", 2, 0, 0, 0)]
    assert arena.limits.release(0) == 1


def test_the_start_is_quick_and_touches_little() -> None:
    begin = time.perf_counter()
    make_limits(1_000_000, 8)
    assert time.perf_counter() - begin < 0.5
