"""Endpoints are what connect(2) takes: checked by connecting with them, without Python's own address code."""

from __future__ import annotations

import asyncio
import ctypes
import os
import socket
import time
from pathlib import Path

import pytest

from agw._fast.pool import Cluster
from agw.runtime.plan import ClusterPlan
from agw.worker.resolver import Endpoint, Resolver, endpoint_of_ip, endpoint_of_unix, literal

libc = ctypes.CDLL(None, use_errno=True)


def connects(endpoint: Endpoint) -> bool:
    family, address, _ = endpoint
    with socket.socket(family, socket.SOCK_STREAM) as sock:
        return bool(libc.connect(sock.fileno(), address, len(address)) == 0)


def test_ipv4() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        endpoint = endpoint_of_ip("127.0.0.1", server.getsockname()[1])
        assert connects(endpoint)
        assert endpoint[2] == f"127.0.0.1:{server.getsockname()[1]}"


@pytest.mark.skipif(not os.path.exists("/proc/net/if_inet6"), reason="this machine has no IPv6")
def test_ipv6() -> None:
    with socket.create_server(("::1", 0), family=socket.AF_INET6) as server:
        endpoint = endpoint_of_ip("::1", server.getsockname()[1])
        assert connects(endpoint)
        assert endpoint[2] == f"[::1]:{server.getsockname()[1]}"


@pytest.mark.parametrize("abstract", [False, True])
def test_unix(abstract: bool, tmp_path: Path) -> None:
    name = f"@agw-test-{os.getpid()}-{time.monotonic_ns()}" if abstract else str(tmp_path / "s")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(name.replace("@", "\0", 1))
        server.listen()
        endpoint = endpoint_of_unix(name)
        assert connects(endpoint)
        assert endpoint[2] == f"unix:{name}"


def test_the_wrong_port_is_another_endpoint() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    assert not connects(endpoint_of_ip("127.0.0.1", port))


def test_names_need_a_look_up_and_literals_do_not() -> None:
    assert literal(ClusterPlan("c", host="10.0.0.1", port=80)) == endpoint_of_ip("10.0.0.1", 80)
    assert literal(ClusterPlan("c", host="::1", port=80)) == endpoint_of_ip("::1", 80)
    assert literal(ClusterPlan("c", unix_path="@a", host="10.0.0.1")) == endpoint_of_unix("@a")
    assert literal(ClusterPlan("c", host="localhost", port=80)) is None


def prepared(*plans: ClusterPlan) -> list[Cluster]:
    clusters = [Cluster(plan, i) for i, plan in enumerate(plans)]

    async def run() -> None:
        await Resolver(asyncio.get_running_loop()).prepare(clusters, 10)

    asyncio.run(run())
    return clusters


def test_prepare_gives_every_cluster_its_addresses() -> None:
    fixed, named, same = prepared(
        ClusterPlan("a", host="10.0.0.1", port=80), ClusterPlan("b", host="localhost", port=81), ClusterPlan("c", host="localhost", port=81)
    )
    assert fixed.resolved and named.resolved and same.resolved
    assert fixed.endpoints == [endpoint_of_ip("10.0.0.1", 80)]
    assert endpoint_of_ip("127.0.0.1", 81) in named.endpoints
    assert named.endpoints == same.endpoints
    assert len(set(named.endpoints)) == len(named.endpoints)


def test_a_name_that_cannot_be_looked_up_has_no_address() -> None:
    (cluster,) = prepared(ClusterPlan("a", host="x" * 64 + ".example", port=80))
    assert cluster.resolved
    assert cluster.endpoints == []


def test_a_failed_refresh_keeps_what_worked() -> None:
    cluster = Cluster(ClusterPlan("a", host="x" * 64 + ".example", port=80), 0)
    cluster.set_endpoints([endpoint_of_ip("10.0.0.1", 80)])

    async def run() -> None:
        resolver = Resolver(asyncio.get_running_loop())
        task = asyncio.ensure_future(resolver.keep_fresh([cluster], 1_000_000))
        await asyncio.sleep(0.05)
        assert not task.done()
        task.cancel()

    asyncio.run(run())
    assert cluster.endpoints == [endpoint_of_ip("10.0.0.1", 80)]
