"""The table of scenarios: what is sent, over how many connections, and which peers can take part. One row each.

Rules: a scenario changes one thing against its neighbour; every peer gets the same bytes. Adding one is adding a row;
a new kind of load needs a function in harness/measure.py.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from bench.harness import http_messages as messages


class Kind(Enum):
    """How load is made and what comes out."""

    CLOSED = "closed loop (wrk)"
    PACED = "open loop (paced.py)"
    IDLE = "idle connections"
    STREAM = "event streams"


# (port, session) -> finished requests, sent in turn; `session` is an MCP session id or None.
Build = Callable[[int, str | None], list[bytes]]


@dataclass(frozen=True, slots=True)
class Scenario:
    """One row."""

    key: str
    title: str
    build: Build
    kind: Kind = Kind.CLOSED
    connections: int = 64
    expect: bytes = b"ok"  # must be in the body of the first answer
    session_path: str = ""  # open an MCP session per connection here first (twice as many) and give each to `build`
    mcp: bool = False  # the backend is the MCP server
    rate: float = 0.0  # PACED: requests per second; 0: half of what the peer can do
    stream_path: str = ""  # STREAM: what to GET
    routes: int = 0
    access_log: bool = False
    workers: int = 1
    peers: tuple[str, ...] = ()  # only these; empty: all
    quick: bool = False


def _get(port: int, session: str | None) -> list[bytes]:
    return [messages.render("GET", "/", port)]


def _get_close(port: int, session: str | None) -> list[bytes]:
    return [messages.render("GET", "/", port, {"Connection": "close"})]


def _call_plain(port: int, session: str | None) -> list[bytes]:
    return [messages.render("POST", "/rpc", port, messages.mcp_headers("bench-session"), messages.call_body())]


def _call_mcp(port: int, session: str | None) -> list[bytes]:
    return [messages.render("POST", "/mcp", port, messages.mcp_headers(session), messages.call_body())]


def _call_modern(port: int, session: str | None) -> list[bytes]:
    body = messages.call_body(meta=messages.modern_meta())
    return [messages.render("POST", "/mcp", port, messages.modern_headers(), body)]


def _large(port: int, session: str | None) -> list[bytes]:
    headers = {"Content-Type": "application/octet-stream"}
    return [messages.render("POST", "/16k", port, headers, b"b" * messages.LARGE_BYTES)]


def _routed(routes: int) -> Build:
    """Requests spread evenly over all routes, 1,000 different ones at most."""

    def build(port: int, session: str | None) -> list[bytes]:
        step = max(1, routes // 1000)
        return [messages.render("GET", f"/r{number:05d}/item", port) for number in range(0, routes, step)]

    return build


_ROUTED = ("nginx", "agw")
_PROXIES = ("nginx", "haproxy", "envoy", "agw")
_MCP_ANSWER = b'"result"'

SCENARIOS: tuple[Scenario, ...] = (
    Scenario("get_c1", "GET, 2-byte answer, 1 connection", _get, connections=1),
    Scenario("get_c64", "GET, 2-byte answer, 64 connections", _get, quick=True),
    Scenario("get_c512", "GET, 2-byte answer, 512 connections", _get, connections=512),
    Scenario("call_plain", "tools/call 200 B -> 180 B, plain host", _call_plain, expect=_MCP_ANSWER, quick=True),
    Scenario("call_plain_c1", "the same, 1 connection", _call_plain, connections=1, expect=_MCP_ANSWER),
    Scenario(
        "call_mcp",
        "tools/call 200 B -> 180 B, mcp target, session",
        _call_mcp,
        expect=_MCP_ANSWER,
        session_path="/mcp", mcp=True,
        quick=True,
    ),
    Scenario(
        "call_mcp_c1", "the same, 1 connection", _call_mcp, connections=1, expect=_MCP_ANSWER, session_path="/mcp", mcp=True
    ),
    Scenario(
        "call_mcp_c512",
        "the same, 512 connections",
        _call_mcp,
        connections=512,
        expect=_MCP_ANSWER,
        session_path="/mcp", mcp=True,
    ),
    Scenario("call_modern", "tools/call, mcp target, 2026-07-28, no session", _call_modern, expect=_MCP_ANSWER, mcp=True),
    Scenario("body_16k", "POST 16 KiB -> 16 KiB", _large, expect=b"z" * messages.LARGE_BYTES, quick=True),
    Scenario("conn_close", "GET, new connection per request", _get_close, quick=True),
    Scenario("access_log", "GET, JSON access log on", _get, access_log=True, peers=_PROXIES, quick=True),
    Scenario("routes_10", "GET over 10 routes", _routed(10), routes=10, peers=_ROUTED),
    Scenario("routes_10k", "GET over 10,000 routes", _routed(10_000), routes=10_000, peers=_ROUTED, quick=True),
    Scenario("rate_1000", "GET at 1,000/s, 16 connections", _get, Kind.PACED, connections=16, rate=1000),
    Scenario("half_get", "GET at half of saturation", _get, Kind.PACED, quick=True),
    Scenario(
        "half_mcp",
        "tools/call, mcp target, at half of saturation",
        _call_mcp,
        Kind.PACED,
        expect=_MCP_ANSWER,
        session_path="/mcp", mcp=True,
    ),
    Scenario(
        "idle", "2,000 idle keep-alive connections", _get, Kind.IDLE, connections=2000, peers=_PROXIES, quick=True
    ),
    Scenario(
        "sse_plain",
        "1,000 event streams, 10/s each, plain host",
        _get,
        Kind.STREAM,
        connections=1000,
        stream_path="/events",
        quick=True,
    ),
    Scenario(
        "sse_mcp",
        "1,000 MCP GET streams, 10/s each, mcp target",
        _get,
        Kind.STREAM,
        connections=1000,
        stream_path="/mcp-stream",
    ),
    Scenario("workers_2", "GET, 2 workers (threads)", _get, workers=2),
    Scenario(
        "workers_2_mcp",
        "tools/call, mcp target, 2 workers",
        _call_mcp,
        expect=_MCP_ANSWER,
        session_path="/mcp", mcp=True,
        workers=2,
    ),
)


def takes_part(scenario: Scenario, peer: str) -> bool:
    """True if `peer` is compared in `scenario`."""
    return not scenario.peers or peer in scenario.peers
