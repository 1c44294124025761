"""Too many: descriptors and connections."""

from __future__ import annotations

import resource
import time

import pytest

from tests.integration.conftest import Start
from tests.kits.backend import Backend
from tests.kits.gateway import Gateway, cpu_seconds, free_port, open_fds, proxy_config, wait_until
from tests.kits.load import Connection, Load, ReadError


def starve(pid: int, spare: int) -> None:
    """Leave a process so many free descriptors."""
    _, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (open_fds(pid) + spare, hard))


def test_out_of_descriptors_pauses_accepting_and_recovers(start: Start, backend: Backend) -> None:
    gateway = start(proxy_config(backend.port), workers=1)
    port, (pid,) = gateway.port, gateway.pids()
    held, kept = Connection(port), Connection(port)
    held.send("/held")
    wait_until(lambda: backend.waiting == 1, 5)
    # Leaves a connection to the backend in the pool; without one, requests would need descriptors as well.
    assert kept.ask("/fast").body == b"fast"
    starve(pid, 3)
    crowd = [Connection(port) for _ in range(30)]
    paused = "accept_paused_total"
    wait_until(lambda: gateway.metrics().total(paused) >= 1, 5, "accepting is paused")

    # It tries again now and then, and does not spin.
    count, cpu, began = gateway.metrics().total(paused), cpu_seconds(pid), time.monotonic()
    wait_until(lambda: gateway.metrics().total(paused) >= count + 2, 10, "it tries again")
    assert cpu_seconds(pid) - cpu < 0.3 * (time.monotonic() - began)

    # What is connected is served meanwhile.
    assert kept.ask("/fast").body == b"fast"
    backend.release()
    assert held.answer().body == b"held"
    for connection in crowd:
        connection.close()
    assert gateway.get("/fast", timeout=10).status == 200
    resource.prlimit(pid, resource.RLIMIT_NOFILE, resource.prlimit(gateway.pid, resource.RLIMIT_NOFILE))
    with Load(port, connections=8) as load:
        wait_until(lambda: load.count("ok") > 200, 10)
    assert load.tally().keys() == {"ok"}
    assert gateway.pids() == [pid]
    kept.close()
    held.close()


def test_somebody_is_told_when_descriptors_run_out(start: Start, backend: Backend) -> None:
    gateway = start(proxy_config(backend.port), workers=1)
    starve(gateway.pids()[0], 0)
    connection = Connection(gateway.port)
    connection.send("/fast")
    answer = connection.answer()
    assert answer.status == 503
    assert answer.headers["retry-after"] == "1"
    assert answer.closing
    connection.close()


@pytest.mark.parametrize("how", ["drain", "listener removed"])
def test_an_end_comes_while_accepting_is_paused(start: Start, backend: Backend, how: str) -> None:
    """Taking what is queued must end, although nothing can be taken."""
    config = proxy_config(backend.port, config={"connectionTerminationDeadline": "3s"})
    config["gateways"]["other"] = {"port": free_port(), "address": "127.0.0.1"}
    gateway = start(config, workers=1)
    port, (pid,) = gateway.port, gateway.pids()
    starve(pid, 2)
    crowd = [Connection(port) for _ in range(20)]
    wait_until(lambda: gateway.metrics().total("accept_paused_total") >= 1, 5, "accepting is paused")
    if how == "drain":
        gateway.signal(15)
        assert gateway.wait(10) == 0
    else:
        del config["gateways"]["default"]
        config["routes"][0]["gateways"] = "other"
        gateway.reload(config)
        assert gateway.pids() == [pid]
    for connection in crowd:
        connection.close()


@pytest.mark.parametrize("limit", ["maxConnections", "maxConnectionsPerAddress"])
def test_connections_over_the_limit_are_shed(start: Start, backend: Backend, limit: str) -> None:
    gateway = start(proxy_config(backend.port, frontendPolicies={"http": {limit: 5}}), workers=1)
    port = gateway.port
    inside = [Connection(port) for _ in range(5)]
    for connection in inside:
        assert connection.ask("/fast").body == b"fast"
    for _ in range(20):
        outside = Connection(port)
        answer = outside.answer()
        assert answer.status == 503
        assert int(answer.headers["retry-after"]) >= 1
        assert answer.closing
        assert wait_until(outside.ended, 5)
        outside.close()
    for connection in inside:
        assert connection.ask("/fast").body == b"fast"
    inside.pop().close()
    wait_until(lambda: gateway.metrics().total("downstream_connections_active") == 4, 5)
    again = Connection(port)
    assert again.ask("/fast").body == b"fast"
    for connection in (*inside, again):
        connection.close()
    wait_until(lambda: gateway.metrics().total("downstream_connections_active") == 0, 5)


def test_a_request_sent_at_once_over_the_limit_still_reads_its_503(start: Start, backend: Backend) -> None:
    """Closing with unread octets resets the connection; the answer must not be lost by that."""
    gateway: Gateway = start(proxy_config(backend.port, frontendPolicies={"http": {"maxConnections": 1}}), workers=1)
    first = Connection(gateway.port)
    assert first.ask("/fast").body == b"fast"
    lost = 0
    for _ in range(50):
        with_body = Connection(gateway.port)
        try:
            with_body.send("/echo", "POST", b"x" * 20_000)
            assert with_body.answer().status == 503
        except (ReadError, OSError):
            lost += 1
        with_body.close()
    first.close()
    assert lost == 0
