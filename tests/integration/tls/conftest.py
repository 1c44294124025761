"""Gateways that speak TLS on both sides, upstreams that do, and certificates for all of them."""

from __future__ import annotations

import json
import ssl
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from agw.runtime.plan import TlsClientPlan, TlsServerPlan
from tests.kits.gateway import Gateway, alive
from tests.peers.authority import Authority, Pair, serving, trusting
from tests.peers.tls import TlsClient, TlsUpstream
from tests.peers.upstream import Upstream

SERVE = Path(__file__).with_name("serve.py")


class TlsGateway(Gateway):
    """A gateway with TLS put into its plan, see serve.py. `listeners` and `clusters` by name, `*` for every other one."""

    def __init__(self, config: dict[str, Any], *, listeners: dict[str, TlsServerPlan] | None = None,
                 clusters: dict[str, TlsClientPlan] | None = None, **options: Any) -> None:
        super().__init__(config, wrapper=[sys.executable, str(SERVE)], **options)
        self.add(listeners, clusters)

    def add(self, listeners: dict[str, TlsServerPlan] | None = None, clusters: dict[str, TlsClientPlan] | None = None) -> None:
        """What the next start or reload adds."""
        (self.directory / "tls.json").write_bytes(msgspec.json.encode({"listeners": listeners or {}, "clusters": clusters or {}}))


class Pki:
    """An authority everybody trusts, and what it signed."""

    def __init__(self) -> None:
        self.ca = Authority()
        self.pair = self.ca.issue("localhost", "127.0.0.1", "gw.test")
        self.foreign = Authority("somebody else")

    def listener(self, pair: Pair | None = None, **more: Any) -> TlsServerPlan:
        """A listener's TLS."""
        cert, key = pair or self.pair
        return TlsServerPlan(cert, key, **more)

    def cluster(self, **more: Any) -> TlsClientPlan:
        """TLS towards a backend that is trusted."""
        return TlsClientPlan(**{"ca": self.ca.pem, **more})

    def client(self, **how: Any) -> ssl.SSLContext:
        """A context that trusts the authority."""
        return trusting(self.ca.pem, **how)

    def server(self, pair: Pair | None = None, **how: Any) -> ssl.SSLContext:
        """A backend's context."""
        return serving(pair or self.pair, **how)


@pytest.fixture(scope="session")
def pki() -> Pki:
    return Pki()


def configuration(routes: list[dict[str, Any]], http: dict[str, Any] | None = None, backend: dict[str, Any] | None = None, **blocks: Any) -> dict[str, Any]:
    """One gateway on a port of the kernel's choice, with these limits."""
    return {
        "gateways": {"default": {"port": 0, "address": "127.0.0.1"}},
        "routes": routes,
        "frontendPolicies": {"http": http or {}},
        "config": {"backend": backend or {}, "connectionTerminationDeadline": "1s"},
        **blocks,
    }


def host_route(where: str, prefix: str = "/", **route: Any) -> dict[str, Any]:
    """A route for a path prefix to one backend."""
    return {"name": prefix.strip("/") or "root", "matches": [{"path": {"pathPrefix": prefix}}], "backends": [{"host": where}], **route}


REDIRECT = {
    "name": "moved",
    "matches": [{"path": {"pathPrefix": "/moved"}}],
    "policies": {"requestRedirect": {"path": {"full": "/there"}}},
}


@contextmanager
def unharmed(gateway: Gateway) -> Iterator[Gateway]:
    """Yields the gateway; afterwards it must have the same workers and no exception in its log."""
    workers = gateway.named("agw-worker")
    yield gateway
    assert all(alive(pid) for pid in workers), f"a worker died:\n{gateway.stderr()[-4000:]}"
    gateway.assert_clean_log()


@pytest.fixture(scope="session")
def session_upstreams(pki: Pki) -> Iterator[dict[str, Upstream]]:
    """`tls` speaks TLS, `plain` does not."""
    ups = {"tls": TlsUpstream(pki.server()), "plain": Upstream()}
    yield ups
    for up in ups.values():
        up.close()


@pytest.fixture
def upstream(session_upstreams: dict[str, Upstream]) -> Iterator[TlsUpstream]:
    """The backend that speaks TLS; `play` a script first."""
    up = session_upstreams["tls"]
    assert isinstance(up, TlsUpstream)
    up.refused.clear()
    yield up
    up.check()


@pytest.fixture
def plain(session_upstreams: dict[str, Upstream]) -> Iterator[Upstream]:
    """The one that does not."""
    up = session_upstreams["plain"]
    yield up
    up.check()


@pytest.fixture(scope="session")
def session_gateway(pki: Pki, session_upstreams: dict[str, Upstream]) -> Iterator[TlsGateway]:
    tls, plain = session_upstreams["tls"].host, session_upstreams["plain"].host
    config = configuration([host_route(tls), host_route(plain, "/plain"), REDIRECT])
    with TlsGateway(config, listeners={"*": pki.listener()}, clusters={tls: pki.cluster()}, workers=1) as gateway:
        yield gateway


@pytest.fixture
def gateway(session_gateway: TlsGateway) -> Iterator[TlsGateway]:
    """TLS on the listener; / to `upstream`, /plain to `plain`, /moved is a redirect. One worker, default limits."""
    with unharmed(session_gateway):
        yield session_gateway


TIGHT_HTTP = {"headerTimeout": "600ms", "firstByteTimeout": "900ms", "progressTimeout": "700ms", "http1IdleTimeout": "900ms", "streamIdleTimeout": "1500ms"}
TIGHT_BACKEND = {"connectTimeout": "500ms", "responseTimeout": "1s", "pendingTimeout": "2s"}


@pytest.fixture(scope="session")
def session_tight(pki: Pki, session_upstreams: dict[str, Upstream]) -> Iterator[TlsGateway]:
    tls = session_upstreams["tls"].host
    with TlsGateway(configuration([host_route(tls)], TIGHT_HTTP, TIGHT_BACKEND), listeners={"*": pki.listener()}, clusters={"*": pki.cluster()},
                    workers=1) as gateway:
        yield gateway


@pytest.fixture
def tight(session_tight: TlsGateway) -> Iterator[TlsGateway]:
    """The same with all timeouts below a second."""
    with unharmed(session_tight):
        yield session_tight


Dial = Callable[..., TlsClient]


@pytest.fixture
def dial(pki: Pki) -> Iterator[Dial]:
    """`dial(gateway, name=..., context=...)` connects; all connections are closed at the end of the test."""
    clients: list[TlsClient] = []

    def connect(gateway: Gateway, *, context: ssl.SSLContext | None = None, **how: Any) -> TlsClient:
        clients.append(TlsClient(gateway.port, context or pki.client(), **how))
        return clients[-1]

    yield connect
    for client in clients:
        client.close()


@pytest.fixture
def client(gateway: TlsGateway, dial: Dial) -> TlsClient:
    """A connection to `gateway`."""
    return dial(gateway)


Start = Callable[..., TlsGateway]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """`start(config, listeners=..., clusters=...)` runs a gateway with one worker until the end of the test."""
    with ExitStack() as stack:
        count = 0

        def begin(config: dict[str, Any], **options: Any) -> TlsGateway:
            nonlocal count
            count += 1
            directory = tmp_path / f"gateway{count}"
            directory.mkdir()
            return stack.enter_context(TlsGateway(config, **{"directory": directory, "workers": 1, **options}))

        yield begin


def problem_of(text: str) -> str:
    """The message of one of the gateway's own JSON answers."""
    return str(json.loads(text)["error"]["message"])
