"""Gateways and upstreams shared by the data-path tests.

Starting a gateway costs half a second, so those that many tests use live as long as the session; what they hold
between two tests must not matter, and `play` of the upstream ends all its connections first. Every test ends with a
look at the gateways it used: the same workers, and no exception logged.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.kits.gateway import Gateway, alive, wait_until
from tests.peers.client import Answer, Client
from tests.peers.upstream import Peer, Request, Script, Upstream


def host_route(where: str, prefix: str = "/", **route: Any) -> dict[str, Any]:
    """A route for a path prefix to one backend."""
    return {"name": prefix.strip("/") or "root", "matches": [{"path": {"pathPrefix": prefix}}], "backends": [{"host": where}], **route}


def mcp_route(where: str, prefix: str = "/mcp", **target: Any) -> dict[str, Any]:
    """A route for a path prefix to one MCP server, open to clients that come by any Host."""
    targets = [{"name": "tools", "mcp": {"host": f"http://{where}"}, **target}]
    backend = {"mcp": {"targets": targets, "dnsRebindingProtection": False}}
    return {"name": "mcp", "matches": [{"path": {"pathPrefix": prefix}}], "backends": [backend]}


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
    routes = [host_route(a), host_route(b, "/second"), mcp_route(a, timeout="1s")]
    with Gateway(configuration(routes, TIGHT_HTTP, TIGHT_BACKEND), workers=1) as gateway:
        yield gateway


@pytest.fixture
def tight(session_tight: Gateway) -> Iterator[Gateway]:
    """The same with all timeouts below a second and small buffers."""
    with unharmed(session_tight):
        yield session_tight


# -------------------------------------------------------------------------------------------------------------------- MCP

JSON = (b"Content-Type: application/json", b"Accept: application/json, text/event-stream")
INITIALIZE = (
    b'{"jsonrpc":"2.0","id":0,"method":"initialize","params":'
    b'{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"test","version":"1"}}}'
)
INITIALIZED = b'{"jsonrpc":"2.0","method":"notifications/initialized"}'
WARMING = b'{"jsonrpc":"2.0","id":"warming","method":"tools/call","params":{"name":"t"}}'
CAPABILITIES = {"protocolVersion": "2025-11-25", "capabilities": {"tools": {}}, "serverInfo": {"name": "up", "version": "1"}}


def result(request: Request, value: Any = None) -> bytes:
    """A response to the request in the body, as most servers write it."""
    return b'{"jsonrpc":"2.0","id":%b,"result":%b}' % (json.dumps(json.loads(request.body)["id"]).encode(), json.dumps(value or {}).encode())


def answered(peer: Peer, request: Request) -> None:
    """What an MCP server does that nobody told anything else."""
    if request.method != b"POST":
        peer.answer(request, b"", status=b"405 Method Not Allowed")
    elif "id" not in json.loads(request.body) or "method" not in json.loads(request.body):
        peer.answer(request, b"", status=b"202 Accepted")
    else:
        peer.answer(request, result(request), head=b"Content-Type: application/json\r\n")


def as_mcp(script: Callable[[Peer, Request], object] = answered) -> Script:
    """An upstream that is an MCP server with sessions `theirs`.

    The handshake, the end of sessions and the calls that warm a session are answered here and not kept; all else goes to `script`.
    """

    def run(peer: Peer) -> None:
        while True:
            request = peer.body(peer.head())
            message = json.loads(request.body) if request.body else {}
            if message.get("method") == "initialize":
                peer.answer(request, result(request, CAPABILITIES), head=b"Content-Type: application/json\r\nMcp-Session-Id: theirs\r\n")
            elif message.get("method") == "notifications/initialized" or message.get("id") == "warming":
                answered(peer, request)
            elif request.method == b"DELETE":
                peer.answer(request, b"")
            else:
                peer.owner.keep(request)
                script(peer, request)

    return run


class Talk:
    """A session of an MCP client on one connection.

    The first call of a session is served by the MCP service, later ones in their plainest form are relayed without it;
    `warm` has the first call behind it.
    """

    def __init__(self, client: Client, *, warm: bool, path: str = "/mcp") -> None:
        self.client = client
        self.path = path
        self.lines: tuple[bytes, ...] = JSON
        opened = self.post(INITIALIZE)
        assert opened.status == 200, (opened.head, opened.body)
        [self.id] = opened.get(b"mcp-session-id")
        self.lines = (*JSON, b"Mcp-Session-Id: " + self.id)
        assert self.post(INITIALIZED).status == 202
        if warm:
            assert b'"result"' in self.post(WARMING).body

    def message(self, body: bytes, *lines: bytes) -> bytes:
        """A POST of this session."""
        return self.client.message(b"POST", self.path, body, *self.lines, *lines)

    def post(self, body: bytes, *lines: bytes) -> Answer:
        """The same, and its answer."""
        return self.client.ask(self.message(body, *lines))


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


OpenTalk = Callable[..., Talk]


@pytest.fixture
def talk(dial: Dial, upstream: Upstream) -> Iterator[OpenTalk]:
    """`talk(gateway, warm=True)` opens an MCP session with `upstream` on a connection of its own; all of them end with the test."""
    open_talks: list[tuple[Gateway, Talk]] = []

    def begin(gateway: Gateway, *, warm: bool = False) -> Talk:
        open_talks.append((gateway, Talk(dial(gateway), warm=warm)))
        return open_talks[-1][1]

    yield begin

    def ended() -> int:
        return sum(peer.received.count(b"DELETE /mcp HTTP/1.1\r\n") for peer in upstream.peers)

    for gateway, opened in open_talks:
        before = ended()
        if dial(gateway).get("/mcp", b"Mcp-Session-Id: " + opened.id, method=b"DELETE").status == 200:
            # The caller is answered first; what comes then must not meet the script of the next test.
            wait_until(lambda before=before: ended() > before, what="the end of the session upstream")


def in_flight(gateway: Gateway) -> float:
    """Requests under way."""
    return gateway.metrics().total("requests_in_flight")


def settled(gateway: Gateway, timeout: float = 3.0) -> None:
    """Until nothing is under way."""
    wait_until(lambda: in_flight(gateway) == 0, timeout, "no request under way", 0.05)
