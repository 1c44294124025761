"""The table of MCP scenarios: variants that take turns, and the limits their results are held to. One entry each.

Rules: within a scenario the variants differ in one thing; a limit compares medians, ratios round by round.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum


class Kind(Enum):
    """How load is made and what comes out."""

    CALLS = "closed loop (wrk)"
    HANDSHAKES = "one initialize after another"
    STREAMS = "calls, open loop (paced.py), beside open streams"
    MEMORY = "memory of idle sessions"
    INSTRUCTIONS = "instructions in user mode, one call after another"
    COLD = "one request after another, tokens seen for the first time"
    TOKENS = "memory while tokens come that were not seen before"
    SATURATION = "closed loop (wrk), far more than is admitted"
    KEYS = "one process fills the table of limits"


@dataclass(frozen=True, slots=True)
class Variant:
    """One participant: a peer (gateway.PEERS) and its job."""

    name: str
    peer: str = "agw"
    job: Mapping[str, object] = field(default_factory=dict)  # fields of McpJob
    what: str = "call"  # call, modern, list, file (agw's list as a file), initialize
    sessions: int = 64
    held: int = 0  # MEMORY: sessions; STREAMS: sessions beside those of the calls
    streams: bool = False  # STREAMS: is a GET stream open in each of them?
    connections: int = 64
    tokens: int = 0  # different bearer tokens in turn; 0: no Authorization
    disturbance: str = ""  # SATURATION: in the middle of the window; kill, reload


@dataclass(frozen=True, slots=True)
class Limit:
    """`metric` of `variant`, divided by that of `against` if there is one (or less it: `difference`), must be at most `bound`."""

    variant: str
    metric: str
    bound: float
    against: str = ""
    text: str = ""
    difference: bool = False


@dataclass(frozen=True, slots=True)
class McpScenario:
    """One entry. `keep`: instances live through all rounds, because preparing them takes long. `rounds`: at most so many, when one says it all."""

    key: str
    title: str
    variants: tuple[Variant, ...]
    limits: tuple[Limit, ...] = ()
    kind: Kind = Kind.CALLS
    keep: bool = False
    rounds: int = 100


def _calls(key: str, title: str, targets: int, what: str, bound: float, *more: Variant) -> McpScenario:
    # agw first: nginx is given session ids of the length of agw's.
    job = {"targets": targets}
    variants = (Variant("agw", job=job, what=what), Variant("nginx", "nginx", job, what), *more)
    return McpScenario(key, title, variants, (Limit("agw", "cpu_us", bound, "nginx", "CPU per call, x nginx"),))


_DELAYS = tuple(range(3, 33, 3))
_SLOWEST = max(_DELAYS)

SCENARIOS: tuple[McpScenario, ...] = (
    _calls(
        "mcp_call_1",
        "tools/call 200 B -> 180 B, session, 1 target",
        1,
        "call",
        1.00,
        Variant("direct", "direct"),
        Variant("fastmcp", "fastmcp", sessions=8, connections=8),
        Variant("mcp-proxy", "mcp-proxy", sessions=8, connections=8),
    ),
    _calls("mcp_call_10", "the same, 10 targets federated, prefix taken off", 10, "call", 1.10),
    _calls("mcp_modern_1", "tools/call of 2026-07-28, 1 target", 1, "modern", 1.10),
    _calls("mcp_modern_10", "the same, 10 targets federated, prefix taken off", 10, "modern", 1.10),
    McpScenario(
        "mcp_targets",
        "tools/call with a prefix, 1 to 200 targets",
        (
            Variant("targets-1", job={"prefix_always": True}, sessions=10),
            Variant("targets-200", job={"targets": 200}, sessions=10),
        ),
        (Limit("targets-200", "cpu_us", 1.10, "targets-1", "CPU per call, 200 targets x 1"),),
        keep=True,
    ),
    McpScenario(
        "mcp_tools",
        "tools/call, 10 targets, 10 to 20,000 tools, all of them called",
        (
            Variant("tools-10", job={"targets": 10}, sessions=10),
            Variant("tools-20000", job={"targets": 10, "tools": 2000}, sessions=10),
        ),
        (Limit("tools-20000", "cpu_us", 1.10, "tools-10", "CPU per call, 20,000 tools x 10"),),
        keep=True,
    ),
    McpScenario(
        "mcp_sessions",
        "tools/call, 1 target, 10 to 100,000 sessions, all of them used",
        (Variant("sessions-10", sessions=10), Variant("sessions-100000", sessions=100_000)),
        (Limit("sessions-100000", "cpu_us", 1.10, "sessions-10", "CPU per call, 100,000 sessions x 10"),),
        keep=True,
    ),
    McpScenario(
        "mcp_list_10000",
        "tools/list of 10,000 tools from the catalogue, 10 targets",
        (
            Variant("agw", job={"targets": 10, "tools": 1000}, what="list", sessions=16, connections=16),
            Variant("nginx", "nginx", {"targets": 10, "tools": 1000}, "file", connections=16),
            Variant("nginx-proxy", "nginx", {"tools": 10_000}, "list", sessions=16, connections=16),
        ),
        (Limit("agw", "cpu_us", 2.0, "nginx", "CPU per list, x nginx sending those bytes as a file"),),
    ),
    McpScenario(
        "mcp_init_10",
        f"initialize on 10 targets that take 3 to {_SLOWEST} ms, against the slowest alone",
        (
            Variant("agw", job={"targets": 10, "delays_ms": _DELAYS}, what="initialize"),
            Variant("slowest", "direct", {"delays_ms": (_SLOWEST,)}, "initialize"),
            Variant("agw-0-ms", job={"targets": 10}, what="initialize"),
        ),
        (Limit("agw", "p50_us", 1.5, "slowest", "median time of initialize, x the slowest target"),),
        kind=Kind.HANDSHAKES,
    ),
    McpScenario(
        "mcp_streams_10000",
        "tools/call at half of saturation beside 10,000 sessions with and without an open GET stream",
        (Variant("closed", held=10_000), Variant("open", held=10_000, streams=True)),
        (
            Limit("open", "bytes_per_stream", 12 * 1024, text="bytes per open idle stream"),
            Limit("open", "p99_us", 1.5, "closed", "p99 of calls with 10,000 open streams, x without"),
        ),
        kind=Kind.STREAMS,
        keep=True,
    ),
    McpScenario(
        "mcp_memory",
        "memory of 10,000 idle sessions",
        (
            Variant("agw", held=10_000),
            Variant("agw-10-targets", job={"targets": 10}, held=2_000),
        ),
        (Limit("agw", "bytes_per_session", 4 * 1024, text="bytes per idle session"),),
        kind=Kind.MEMORY,
    ),
)
QUICK = frozenset(("mcp_call_1", "mcp_call_10", "mcp_modern_1", "mcp_list_10000", "mcp_init_10", "mcp_memory"))
