"""Processes that die or freeze: a worker, all workers, the helper, the supervisor (reliability rules 26 and fault matrix)."""

from __future__ import annotations

import itertools
import os
import signal
import time

import pytest

from tests.integration.conftest import Start
from tests.kits.backend import Backend
from tests.kits.gateway import Gateway, Metrics, alive, free_port, proxy_config, wait_until
from tests.kits.load import Connection, Load


def successor(gateway: Gateway, slot: int, old: int) -> int | None:
    """The pid of the worker that took a dead one's place, once it serves."""
    view = gateway.slots()[slot]
    return view["pid"] if view["state"] == "ready" and view["pid"] not in (0, old) else None


# ---------------------------------------------------------------------------------------------------- kill -9


def test_a_killed_worker_costs_only_its_requests_in_flight(start: Start, backend: Backend) -> None:
    gateway = start(proxy_config(backend.port), workers=2)
    scrapes: list[Metrics] = []
    with Load(gateway.port, connections=12) as load:
        wait_until(lambda: load.count("ok") > 300, 10, "load runs")
        for slot in (0, 1):
            scrapes.append(gateway.metrics())
            victim = gateway.slots()[slot]["pid"]
            known = len(load.failures())
            connections = 12
            killed = time.monotonic()
            os.kill(victim, signal.SIGKILL)
            wait_until(lambda slot=slot, victim=victim: successor(gateway, slot, victim), 5, "a successor")
            assert time.monotonic() - killed < 1.0
            scrapes.append(gateway.metrics())
            seen = load.count("ok")
            wait_until(lambda seen=seen: load.count("ok") > seen + 300, 10, "load runs on")
            assert len(load.failures()) - known <= connections
    scrapes.append(gateway.metrics())
    assert {o.kind for o in load.failures()} <= {"reset", "truncated"}, load.tally()
    for before, after in itertools.pairwise(scrapes):
        assert not after.fallen_since(before)
    assert gateway.metrics().total("worker_ready") == 2
    # Gauges of a dead worker do not stick.
    wait_until(lambda: gateway.metrics().total("requests_in_flight") == 0, 5)
    wait_until(lambda: gateway.metrics().total("downstream_connections_active") == 0, 5)


def test_nothing_queued_is_lost_with_a_killed_worker(start: Start, backend: Backend) -> None:
    gateway = start(proxy_config(backend.port), workers=1)
    port, (victim,) = gateway.port, gateway.pids()
    os.kill(victim, signal.SIGSTOP)
    waiting = [Connection(port) for _ in range(100)]
    for connection in waiting:
        connection.send("/fast")
    os.kill(victim, signal.SIGKILL)
    assert [connection.answer().body for connection in waiting] == [b"fast"] * 100
    assert backend.requests == 100
    for connection in waiting:
        connection.close()


def test_all_workers_killed_serves_again_within_two_seconds(start: Start, backend: Backend) -> None:
    gateway = start(proxy_config(backend.port), workers=3)
    killed = time.monotonic()
    for pid in gateway.pids():
        os.kill(pid, signal.SIGKILL)
    # Connections are never refused: the supervisor holds the listening sockets.
    for _ in range(10):
        assert gateway.get("/fast").status == 200
    assert time.monotonic() - killed < 2.0


def test_a_worker_killed_twice_in_a_row_comes_back_both_times(start: Start) -> None:
    gateway = start(proxy_config(), workers=1)
    for _ in range(3):
        (victim,) = gateway.pids()
        os.kill(victim, signal.SIGKILL)
        killed = time.monotonic()
        wait_until(lambda victim=victim: successor(gateway, 0, victim), 5, "a successor")
        assert time.monotonic() - killed < 1.0
    assert gateway.get().status == 200
    assert gateway.count_log("worker died") == 3


def test_sigterm_to_a_worker_does_not_shut_its_door_for_its_successor(start: Start, backend: Backend) -> None:
    """A worker is drained through its supervisor only; a stray signal must not leave a listener that drops SYNs."""
    gateway = start(proxy_config(backend.port), workers=1)
    (victim,) = gateway.pids()
    with Load(gateway.port, connections=4, once=True, timeout=5) as load:
        wait_until(lambda: load.count("ok") > 50, 10)
        os.kill(victim, signal.SIGTERM)
        seen = load.count("ok")
        wait_until(lambda: load.count("ok") > seen + 500, 10, "new connections are served on")
    assert load.tally().keys() == {"ok"}, load.failures()[:3]


def test_crash_loop_stops_with_a_reason(start: Start) -> None:
    gateway = start(proxy_config(), workers=4)
    deadline = time.monotonic() + 30
    while gateway.process is not None and gateway.process.poll() is None:
        assert time.monotonic() < deadline, "the supervisor goes on for ever"
        for pid in gateway.named("agw-worker"):
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
    assert gateway.wait() == 70
    line = gateway.wait_log("children keep dying")
    assert line["last"] == "killed by signal 9"
    assert gateway.find_log("stopped", code=70)
    gateway.assert_gone()


# ---------------------------------------------------------------------------------------------------- frozen


@pytest.mark.parametrize(("config", "bound"), [({}, 10.0), ({"heartbeatTimeout": "600ms"}, 2.0)], ids=["default", "short"])
def test_a_frozen_worker_is_replaced_and_the_others_serve(start: Start, backend: Backend, config: dict[str, str], bound: float) -> None:
    gateway = start(proxy_config(backend.port, config=config), workers=2)
    victim = gateway.slots()[0]["pid"]
    with Load(gateway.port, connections=16, timeout=20) as load:
        wait_until(lambda: load.count("ok") > 300, 10, "load runs")
        os.kill(victim, signal.SIGSTOP)
        frozen = time.monotonic()
        seen = load.count("ok")
        wait_until(lambda: load.count("ok") > seen + 300, 5, "the other worker serves on")
        wait_until(lambda: successor(gateway, 0, victim), bound + 2, "a successor")
        assert time.monotonic() - frozen < bound
        seen = load.count("ok")
        wait_until(lambda: load.count("ok") > seen + 300, 10, "load runs on")
    assert not alive(victim)
    assert load.count("reset", "truncated") <= 16
    assert load.count("ok") + load.count("reset", "truncated") == load.count(), load.tally()
    assert gateway.find_log("worker does not answer", worker=0, pid=victim)


def test_a_gateway_that_was_paused_as_a_whole_kills_nobody(start: Start, backend: Backend) -> None:
    """Ctrl-Z and fg, a container that is frozen and thawed: everybody was silent, nobody is to blame."""
    gateway = start(proxy_config(backend.port, config={"heartbeatTimeout": "1s"}), workers=2)
    before = gateway.pids()
    connection = Connection(gateway.port)
    assert connection.ask("/fast").body == b"fast"
    os.killpg(gateway.pid, signal.SIGSTOP)
    stopped = time.monotonic()
    wait_until(lambda: time.monotonic() - stopped > 1.8, 5, "the pause is longer than the heartbeat timeout")
    os.kill(gateway.pid, signal.SIGCONT)
    # The supervisor wakes first; the workers a little later, as on a machine with other things to do.
    woken = time.monotonic()
    wait_until(lambda: time.monotonic() - woken > 0.1, 5)
    os.killpg(gateway.pid, signal.SIGCONT)
    assert connection.ask("/fast").body == b"fast"
    assert gateway.pids() == before
    assert not gateway.find_log("worker does not answer")
    connection.close()


# ---------------------------------------------------------------------------------------------------- the others


def test_supervisor_killed_everyone_leaves_and_a_new_instance_starts_at_once(start: Start, backend: Backend) -> None:
    port = free_port()
    first = start(proxy_config(backend.port, port=port), workers=2)
    connections = [Connection(port) for _ in range(4)]
    for connection in connections:
        connection.send("/held")
    wait_until(lambda: backend.waiting == 4, 5, "requests are under way")
    idle = Connection(port)
    assert idle.ask("/fast").body == b"fast"
    helper = first.helper_pid()

    os.kill(first.pid, signal.SIGKILL)
    killed = time.monotonic()
    second = start(proxy_config(backend.port, port=port), workers=2)
    assert second.get("/fast").status == 200
    assert time.monotonic() - killed < 5.0
    wait_until(lambda: not alive(helper), 5, "the helper is gone")
    wait_until(idle.ended, 5, "the idle connection is closed")

    backend.release()
    for connection in connections:
        answer = connection.answer()
        assert (answer.status, answer.body, answer.closing) == (200, b"held", True)
        connection.close()
    wait_until(lambda: not first.group(), 5, "the orphans are gone")
    idle.close()
    second.stop()
    with pytest.raises(ConnectionRefusedError):
        Connection(port)


def test_supervisor_killed_under_load_loses_nothing_accepted(start: Start, backend: Backend) -> None:
    gateway = start(proxy_config(backend.port), workers=2)
    with Load(gateway.port, connections=12) as load:
        wait_until(lambda: load.count("ok") > 300, 10, "load runs")
        os.kill(gateway.pid, signal.SIGKILL)
        wait_until(lambda: load.count("refused") > 12, 10, "nobody listens any more")
    assert load.tally().keys() == {"ok", "refused"}, [o for o in load.failures() if o.kind != "refused"][:5]
    gateway.assert_gone()


def test_a_killed_helper_comes_back_and_requests_do_not_notice(start: Start, backend: Backend) -> None:
    gateway = start(proxy_config(backend.port), workers=2)
    gateway.reload(proxy_config(backend.port, routes=[{"name": "renamed", "backends": [{"host": f"127.0.0.1:{backend.port}"}]}]))
    with Load(gateway.port, connections=4) as load:
        wait_until(lambda: load.count("ok") > 200, 10, "load runs")
        before, old = gateway.metrics(), gateway.helper_pid()
        os.kill(old, signal.SIGKILL)
        killed = time.monotonic()
        new = wait_until(lambda: [p for p in gateway.named("agw-helper") if p != old], 5, "a new helper")
        after = gateway.metrics()
        assert time.monotonic() - killed < 1.5
        assert gateway.ready() == 200
        assert gateway.admin("/config_dump").json()["routes"][0]["name"] == "renamed"
    assert not after.fallen_since(before)
    assert after.total("requests_total", route="renamed") > 0
    assert not load.failures(), load.tally()
    assert len(new) == 1
    assert gateway.find_log("helper died", pid=old)
