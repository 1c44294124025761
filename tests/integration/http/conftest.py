"""Gateways and upstreams shared by the data-path tests.

Starting a gateway costs half a second, so those that many tests use live as long as the session; what they hold
between two tests must not matter, and `play` of the upstream ends all its connections first. Every test ends with a
look at the gateways it used: the same workers, and no exception logged.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.kits.gateway import Gateway, alive, wait_until
from tests.peers.client import Client
from tests.peers.upstream import Upstream


def host_route(where: str, prefix: str = "/", **route: Any) -> dict[str, Any]:
    """A route for a path prefix to one backend."""
    return {"name": prefix.strip("/") or "root", "matches": [{"path": {"pathPrefix": prefix}}], "backends": [{"host": where}], **route}


def mcp_route(where: str, prefix: str = "/mcp", **endpoint: Any) -> dict[str, Any]:
    """A route for a path prefix to one MCP server."""
    target = {"name": "tools", "mcp": {"host": f"http://{where}", **endpoint}}
    return {"name": "mcp", "matches": [{"path": {"pathPrefix": prefix}}], "backends": [{"mcp": {"targets": [target]}}]}


def configuration(routes: list[dict[str, Any]], http: dict[str, Any] | None = None, backend: dict[str, Any] | None = None, **blocks: Any) -> dict[str, Any]:
    """One gateway on a port of the kernel's choice, with these limits."""
    return {
        "gateways": {"default": {"port": 0, "address": "127.0.0.1"}},
        "routes": routes,
        "frontendPolicies": {"http": http or {}},
        "config": {"backend": backend or {}, "connectionTerminationDeadline": "1s"},
        **blocks,
    }


@pytest.fixture(scope="session")
def sockets() -> Iterator[Path]:
    """A directory whose name is short enough for unix sockets."""
    with tempfile.TemporaryDirectory(prefix="agw-up-") as directory:
        yield Path(directory)


@pytest.fixture(scope="session")
def session_upstreams(sockets: Path) -> Iterator[dict[str, Upstream]]:
    """Upstreams by name: a and b on TCP, u on a unix socket."""
    ups = {"a": Upstream(), "b": Upstream(), "u": Upstream(unix=str(sockets / "u.sock"))}
    yield ups
    for up in ups.values():
        up.close()


@pytest.fixture
def upstream(session_upstreams: dict[str, Upstream]) -> Iterator[Upstream]:
    """The backend of most tests; `play` a script first."""
    up = session_upstreams["a"]
    yield up
    up.check()


@pytest.fixture
def second(session_upstreams: dict[str, Upstream]) -> Iterator[Upstream]:
    """Another backend."""
    up = session_upstreams["b"]
    yield up
    up.check()


@pytest.fixture
def on_unix(session_upstreams: dict[str, Upstream]) -> Iterator[Upstream]:
    """A backend on a unix socket."""
    up = session_upstreams["u"]
    yield up
    up.check()


_workers: dict[int, list[int]] = {}


@contextmanager
def unharmed(gateway: Gateway) -> Iterator[Gateway]:
    """Yields the gateway; afterwards it must have the same workers and no exception in its log."""
    if gateway.pid not in _workers:
        _workers[gateway.pid] = gateway.named("agw-worker")
    yield gateway
    if not all(alive(pid) for pid in _workers[gateway.pid]):
        del _workers[gateway.pid]
        raise AssertionError(f"a worker died:\n{gateway.stderr()[-4000:]}")
    gateway.assert_clean_log()


@pytest.fixture(scope="session")
def session_gateway(session_upstreams: dict[str, Upstream]) -> Iterator[Gateway]:
    a, b, u = (session_upstreams[name].host for name in "abu")
    routes = [host_route(a), host_route(b, "/second"), host_route(u, "/unix"), mcp_route(a)]
    with Gateway(configuration(routes), workers=1) as gateway:
        yield gateway


@pytest.fixture
def gateway(session_gateway: Gateway) -> Iterator[Gateway]:
    """Default limits, one worker; / to `upstream`, /second to `second`, /unix to `on_unix`, /mcp to `upstream` as MCP."""
    with unharmed(session_gateway):
        yield session_gateway


TIGHT_HTTP = {
    "headerTimeout": "700ms",
    "firstByteTimeout": "900ms",
    "progressTimeout": "700ms",
    "http1IdleTimeout": "900ms",
    "streamIdleTimeout": "1500ms",
    "maxBufferSize": 65536,
}
TIGHT_BACKEND = {"connectTimeout": "500ms", "responseTimeout": "1s", "pendingTimeout": "600ms"}


@pytest.fixture(scope="session")
def session_tight(session_upstreams: dict[str, Upstream]) -> Iterator[Gateway]:
    a, b = (session_upstreams[name].host for name in "ab")
    routes = [host_route(a), host_route(b, "/second"), mcp_route(a)]
    with Gateway(configuration(routes, TIGHT_HTTP, TIGHT_BACKEND), workers=1) as gateway:
        yield gateway


@pytest.fixture
def tight(session_tight: Gateway) -> Iterator[Gateway]:
    """The same with all timeouts below a second and small buffers."""
    with unharmed(session_tight):
        yield session_tight


Dial = Callable[..., Client]


@pytest.fixture
def dial() -> Iterator[Dial]:
    """`dial(gateway)` connects; all connections are closed at the end of the test."""
    clients: list[Client] = []

    def connect(gateway: Gateway, **how: Any) -> Client:
        clients.append(Client(gateway.port, **how))
        return clients[-1]

    yield connect
    for client in clients:
        client.close()


@pytest.fixture
def client(gateway: Gateway, dial: Dial) -> Client:
    """A connection to `gateway`."""
    return dial(gateway)


def in_flight(gateway: Gateway) -> float:
    """Requests under way."""
    return gateway.metrics().total("requests_in_flight")


def settled(gateway: Gateway, timeout: float = 3.0) -> None:
    """Until nothing is under way."""
    wait_until(lambda: in_flight(gateway) == 0, timeout, "no request under way", 0.05)
