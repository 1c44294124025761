"""Signals that end the instance: drained, at the deadline, at once (reliability rule 28)."""

from __future__ import annotations

import os
import signal
import socket
import time

import pytest

from tests.integration.conftest import Start
from tests.kits.backend import Backend
from tests.kits.gateway import Gateway, free_port, proxy_config, wait_until
from tests.kits.load import Connection, Load, ReadError


def assert_free(port: int) -> None:
    """Anybody may listen on the port, without SO_REUSEADDR's help against listeners."""
    socket.create_server(("127.0.0.1", port)).close()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_drain(start: Start, backend: Backend, number: int) -> None:
    gateway = start(proxy_config(backend.port, config={"connectionTerminationDeadline": "20s"}), workers=2)
    port = gateway.port
    busy, idle, fresh = Connection(port), Connection(port), Connection(port)
    busy.send("/held")
    assert idle.ask("/fast").body == b"fast"
    wait_until(lambda: backend.waiting == 1, 5)

    gateway.signal(number)
    wait_until(lambda: gateway.ready() == 503, 5, "readiness is off")
    # Before the grace for queued connections ends, or after it: an accepted connection is answered or told.
    wait_until(lambda: idle.ended() and fresh.ended(), 5, "idle connections are closed")
    wait_until(lambda: closed(port), 5, "the port refuses")
    assert gateway.process is not None
    assert gateway.process.poll() is None, "a request is still under way"
    assert gateway.ready() == 503
    assert gateway.metrics().total("requests_in_flight") == 1
    assert [slot["state"] for slot in gateway.slots()].count("draining") >= 1

    backend.release()
    answer = busy.answer()
    assert (answer.status, answer.body, answer.closing) == (200, b"held", True)
    wait_until(busy.ended, 5)
    busy.close()
    assert gateway.wait(5) == 0
    gateway.assert_gone()
    assert_free(port)
    assert not gateway.find_log("drain time is over")
    for connection in (idle, fresh):
        connection.close()


def closed(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 5).close()
    except ConnectionRefusedError:
        return True
    except TimeoutError:
        return False
    return False


@pytest.mark.parametrize(("pause", "once"), [(0.0, False), (0.01, False), (0.0, True)], ids=["busy", "thinking", "new connections"])
def test_sigterm_under_load_drops_nothing_that_was_accepted(start: Start, backend: Backend, pause: float, once: bool) -> None:
    gateway = start(proxy_config(backend.port), workers=2)
    port = gateway.port
    with Load(port, "/slow?ms=5", connections=16, pause=pause, once=once) as load:
        wait_until(lambda: load.count("ok") > 200, 10)
        gateway.signal(signal.SIGTERM)
        assert gateway.wait(10) == 0
        wait_until(lambda: load.count("refused") > 16, 10)
    assert load.tally().keys() == {"ok", "refused"}, [o for o in load.failures() if o.kind != "refused"][:3]
    if not once:
        assert any(o.closing for o in load.outcomes if o.kind == "ok"), "answers during the drain carry Connection: close"
    gateway.assert_gone()
    assert_free(port)


def test_requests_sent_before_the_signal_but_not_yet_read_are_answered(start: Start, backend: Backend) -> None:
    gateway = start(proxy_config(backend.port), workers=1)
    port, (pid,) = gateway.port, gateway.pids()


    kept = [Connection(port) for _ in range(20)]
    for connection in kept:
        assert connection.ask("/fast").body == b"fast"
    # While the worker stands still, requests arrive on kept connections and on new ones; then comes the signal.
    os.kill(pid, signal.SIGSTOP)
    fresh = [Connection(port) for _ in range(20)]
    for connection in (*kept, *fresh):
        connection.send("/fast")
    gateway.signal(signal.SIGTERM)
    gateway.wait_log("draining")
    os.kill(pid, signal.SIGCONT)
    for connection in (*kept, *fresh):
        assert connection.answer().body == b"fast"
        connection.close()
    assert gateway.wait(5) == 0


def test_requests_that_come_while_idle_connections_close_are_answered(start: Start, backend: Backend) -> None:
    """The moment a worker closes idle connections must not be the moment it loses what has just arrived on them."""


    gateway = start(proxy_config(backend.port), workers=1)
    port, (pid,) = gateway.port, gateway.pids()
    kept = [Connection(port) for _ in range(20)]
    for connection in kept:
        assert connection.ask("/fast").body == b"fast"
    gateway.signal(signal.SIGTERM)
    wait_until(lambda: gateway.slots()[0]["state"] == "draining", 5, interval=0.001)
    os.kill(pid, signal.SIGSTOP)
    still_open = [connection for connection in kept if not connection.ended()]
    for connection in still_open:
        connection.send("/fast")
    # Longer than the worker waits before it closes idle connections: its timer is due before the sockets are read.
    stopped = time.monotonic()
    wait_until(lambda: time.monotonic() - stopped > 0.3, 5)
    os.kill(pid, signal.SIGCONT)
    for connection in still_open:
        assert connection.answer().body == b"fast"
        connection.close()
    assert gateway.wait(5) == 0


def test_a_stream_is_cut_at_the_deadline_and_counted(start: Start, backend: Backend) -> None:
    gateway = start(proxy_config(backend.port, config={"connectionTerminationDeadline": "700ms"}), workers=1)
    stream, held = Connection(gateway.port), Connection(gateway.port)
    stream.send("/sse?ms=10")
    assert stream.head()[0] == 200
    held.send("/held")
    wait_until(lambda: backend.waiting == 2, 5)
    began = time.monotonic()
    gateway.signal(signal.SIGTERM)
    with pytest.raises(ReadError) as error:
        while stream.chunk():
            pass
    took = time.monotonic() - began
    assert error.value.kind == "truncated", "a cut stream never ends cleanly"
    assert 0.6 < took < 2.0
    assert gateway.wait(5) == 0
    assert gateway.wait_log("drain time is over")["connections"] == 2
    wait_until(lambda: backend.streams == 0, 5, "the backend's stream is closed")
    stream.close()
    held.close()


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGQUIT])
def test_a_second_signal_ends_at_once(start: Start, backend: Backend, second: int) -> None:
    gateway = start(proxy_config(backend.port), workers=2)
    connection = Connection(gateway.port)
    connection.send("/held")
    wait_until(lambda: backend.waiting == 1, 5)
    gateway.signal(signal.SIGTERM)
    gateway.wait_log("draining")
    began = time.monotonic()
    gateway.signal(second)
    assert gateway.wait(5) == 0
    assert time.monotonic() - began < 1.0
    gateway.assert_gone()
    with pytest.raises(ReadError):
        connection.answer()
    connection.close()


def test_sigquit_ends_at_once(start: Start, backend: Backend) -> None:
    port = free_port()
    gateway = start(proxy_config(backend.port, port=port), workers=2)
    connection = Connection(port)
    connection.send("/held")
    wait_until(lambda: backend.waiting == 1, 5)
    began = time.monotonic()
    gateway.signal(signal.SIGQUIT)
    assert gateway.wait(5) == 0
    assert time.monotonic() - began < 1.0
    gateway.assert_gone()
    again: Gateway = start(proxy_config(backend.port, port=port), workers=2)
    assert again.get("/fast").status == 200
    connection.close()


def test_sigterm_to_the_whole_group_is_a_drain_too(start: Start, backend: Backend) -> None:
    """What `timeout`, a shell's `kill -- -pgid` and KillMode=control-group do."""


    gateway = start(proxy_config(backend.port), workers=2)
    with Load(gateway.port, "/slow?ms=5", connections=8) as load:
        wait_until(lambda: load.count("ok") > 100, 10)
        os.killpg(gateway.pid, signal.SIGTERM)
        assert gateway.wait(10) == 0
        wait_until(lambda: load.count("refused") > 8, 10)
    assert load.tally().keys() == {"ok", "refused"}, [o for o in load.failures() if o.kind != "refused"][:3]


def test_a_worker_that_dies_while_draining_is_not_replaced(start: Start, backend: Backend) -> None:


    gateway = start(proxy_config(backend.port), workers=1)
    connection = Connection(gateway.port)
    connection.send("/held")
    wait_until(lambda: backend.waiting == 1, 5)
    gateway.signal(signal.SIGTERM)
    gateway.wait_log("draining")
    os.kill(gateway.named("agw-worker")[0], signal.SIGKILL)
    assert gateway.wait(5) == 0
    connection.close()


def test_a_worker_that_is_frozen_while_draining_does_not_hold_the_end(start: Start, backend: Backend) -> None:


    gateway = start(proxy_config(backend.port, config={"connectionTerminationDeadline": "500ms"}), workers=2)
    os.kill(gateway.pids()[0], signal.SIGSTOP)
    began = time.monotonic()
    gateway.signal(signal.SIGTERM)
    assert gateway.wait(10) == 0
    assert time.monotonic() - began < 3.0
    gateway.assert_gone()
