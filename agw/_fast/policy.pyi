"""What a route does to a request, compiled to data. Built by agw.runtime.compile, read by the exchange.

Rules:
- everything is immutable once built and may be shared by snapshots; a request only reads;
- header lines are ready octets, checked for CR, LF and NUL when they are made, whoever asks;
- a policy that is absent is None: one identity test on the hot path;
- durations are ns; 0 means no limit.
"""

from collections.abc import Iterable, Sequence
from typing import Any, Protocol, type_check_only

from typing_extensions import disjoint_base

from agw._fast.call import Call
from agw._fast.calls import CallTable
from agw._fast.fetch import Fetch
from agw._fast.gate import Gate
from agw._fast.pool import Cluster
from agw._fast.router import Router
from agw._fast.tls import ServerTls
from agw.runtime.plan import HttpPlan

@type_check_only
class Location(Protocol):
    """A redirect, as the exchange calls it (`agw.runtime.compile.Redirect`)."""

    status: int
    def location(self, host: bytes, path: bytes, query: bytes | None, prefix_len: int) -> bytes:
        """The value of Location."""

def header_line(name: str, value: str) -> bytes:
    """One wire line, `name: value` and CRLF; the value in UTF-8.

    Errors: ValueError when it could not be framed: a name that is no token, a control octet in the value.
    Source: RFC 9110 section 5.5, RFC 9112 section 5.
    """

@disjoint_base
class HeaderEdits:
    """Remove, set, add. What is removed or set is dropped from the parsed head; what is set or added is appended to it.

    C method: `drops(name, n)`, case-insensitive; `_` and `-` are the same there, because many backends make variables of names.
    """

    def __init__(self, remove: Iterable[str], set_: Sequence[tuple[str, str]], add: Iterable[tuple[str, str]]) -> None:
        """Errors: ValueError, see header_line."""

    def derived(self, lines: bytes) -> HeaderEdits:
        """The same removals with other lines, which the caller vouches for (`header_line`)."""

    def without(self, lines: bytes) -> HeaderEdits:
        """The same removals, without own lines of a name that stands in `lines`."""

    def would_drop(self, name: bytes) -> bool:
        """Is a field of this name, in any case and with `_` for `-`, left out of the head? For tests; the exchange calls `drops`."""

    @property
    def drop(self) -> tuple[bytes, ...]:
        """Lower-case names that are not copied."""

    @property
    def lines(self) -> bytes:
        """Wire lines to append: set, then add."""

@disjoint_base
class Cors:
    """The Fetch standard's server side. A refused origin gets no CORS headers, never an error.

    C methods: `allowed(origin)`, `response_lines(origin)`, `preflight(origin)`.
    Source: Fetch standard, section "HTTP responses" of CORS; RFC 6454 (origins).
    """

    def __init__(
        self, origins: Sequence[str], methods: Sequence[str], headers: Sequence[str], expose: Sequence[str], credentials: bool, max_age_s: int | None
    ) -> None:
        """`origins`: `*`, `https://host[:port]`, or `https://*.suffix[:port]`, where the wildcard stands for one or more
        labels. With `credentials`, `*` answers with the origin itself. Errors: ValueError, see header_line."""

    def lines_for(self, origin: bytes, preflight: bool) -> bytes:
        """The header lines for a request with this Origin: of a preflight's answer, or of any other response. For tests;
        the exchange calls `preflight` and `response_lines`."""

@type_check_only
class Service(Protocol):
    """What a route may lead to instead of a cluster."""

    @property
    def label(self) -> int:
        """Its number in the counters."""

    def handle(self, call: Call) -> None:
        """Serve one request; must not raise."""

    def resume(self, call: Call, target: int, fetch: Fetch) -> None:
        """Serve one request whose answer from a target has begun."""

@disjoint_base
class Choice:
    """One weighted backend of a route, with everything about the rewritten head decided."""

    def __init__(
        self,
        cluster: Cluster | None,
        weight: int,
        *,
        request_edits: HeaderEdits | None,
        response_edits: HeaderEdits | None,
        host: bytes | None,
        host_mode: int,
        host_part: bytes | None,
        path: bytes | None,
        path_prefix: bytes | None,
        redirect: Location | None,
        response_timeout_ns: int,
        service: Service | None = None,
        target: int = 0,
        auth: Any = None,
        bare: tuple[frozenset[bytes], frozenset[bytes]] | None = None,
    ) -> None:
        """`cluster` is None when `service` answers; `target` numbers the choices of a service's own.

        `auth` is an `agw.runtime.credentials.BackendAuth`; `bare` names the query parameters and cookies that do not go on.
        """

    @property
    def auth(self) -> Any: ...
    @property
    def bare(self) -> tuple[frozenset[bytes], frozenset[bytes]] | None: ...

    def set_table(self, table: CallTable | None) -> None:
        """What the service lets the exchange do without it."""

    @property
    def table(self) -> CallTable | None: ...
    @property
    def target(self) -> int: ...
    @property
    def cluster(self) -> Cluster | None:
        """Where requests go."""

    @property
    def service(self) -> Service | None:
        """Python code that answers instead of a cluster."""

    @property
    def weight(self) -> int:
        """Share of `Route.total_weight`."""

    @property
    def request_edits(self) -> HeaderEdits | None:
        """For the head towards the backend."""

    @property
    def response_edits(self) -> HeaderEdits | None:
        """For the head towards the client."""

    @property
    def host(self) -> bytes | None:
        """Host towards the backend; None: the client's goes through."""

    @property
    def host_mode(self) -> int:
        """0: `host` decides; 1: `host_part` replaces the host and keeps the client's port; 2: the other way round."""

    @property
    def host_part(self) -> bytes | None:
        """See `host_mode`."""

    @property
    def path(self) -> bytes | None:
        """Replaces the whole path; None: it is kept."""

    @property
    def path_prefix(self) -> bytes | None:
        """Replaces the matched prefix, without trailing slash; None: it is kept."""

    @property
    def hop(self) -> bool:
        """Does the request go to another worker? See `hop_choice`."""

    @property
    def redirect(self) -> Location | None:
        """Answers instead of the backend."""

    @property
    def response_timeout(self) -> int:
        """Time for the response head; 0: the cluster's."""

def hop_choice(cluster: Cluster) -> Choice:
    """A choice that passes a request on to another worker of this gateway, as it came: path, Host and X-Forwarded-* are
    the client's, and `agw-hop: 1` and `agw-peer` (the client's address) are added, `agw-certificate` (the client's, base64
    of DER) when it showed one. See agw.worker.hop."""

@disjoint_base
class Route:
    """One route as attached to one listener. C method: `choose(random)`, the weighted choice; None when all weigh 0."""

    def __init__(
        self,
        name: str,
        label: int,
        labels: tuple[str, str, str, str, str],
        log_fields: bytes,
        choices: list[Choice],
        *,
        cors: Cors | None,
        reply_edits: HeaderEdits | None,
        redirect: Location | None,
        direct: tuple[int, bytes, bytes] | None,
        request_timeout_ns: int,
        gate: Gate | None = None,
    ) -> None: ...
    @property
    def name(self) -> str:
        """The name in the configuration."""

    @property
    def gate(self) -> Gate | None:
        """Who may enter; None: everybody."""

    @property
    def speaks_rpc(self) -> bool:
        """Are refusals JSON-RPC errors?"""

    @property
    def label(self) -> int:
        """Id in the arena's rows."""

    @property
    def labels(self) -> tuple[str, str, str, str, str]:
        """(bind, gateway, listener, route, rule)."""

    @property
    def log_fields(self) -> bytes:
        """JSON fragment of the access log: a comma, then members."""

    @property
    def choices(self) -> list[Choice]:
        """The backends; empty for redirects and direct responses."""

    @property
    def total_weight(self) -> int:
        """Sum of the weights."""

    @property
    def cors(self) -> Cors | None:
        """Runs first, so that browsers can read refusals."""

    @property
    def reply_edits(self) -> HeaderEdits | None:
        """Response edits that the gateway's own replies get, too."""

    @property
    def redirect(self) -> Location | None:
        """Answers instead of a backend."""

    @property
    def direct(self) -> tuple[int, bytes, bytes] | None:
        """(status, body, header lines), answered instead of a backend."""

    @property
    def request_timeout(self) -> int:
        """Time for the whole exchange."""

@disjoint_base
class Match:
    """What the router's value stands for: a route, and how much of the path its prefix matched."""

    def __init__(self, route: Route, prefix_len: int) -> None: ...
    @property
    def route(self) -> Route: ...
    @property
    def prefix_len(self) -> int:
        """Octets, without trailing slash; 0 for exact and regex."""

@disjoint_base
class Http:
    """Limits and manners of the client side, `agw.runtime.plan.HttpPlan` for C."""

    def __init__(self, plan: HttpPlan) -> None:
        """Errors: ValueError when the header limits contradict each other or exceed the scratch buffers."""

    @property
    def max_buffer(self) -> int:
        """Octets of a body that must be whole (MCP)."""

    @property
    def header_timeout(self) -> int:
        """From the first octet of a head to its end."""

    @property
    def first_byte_timeout(self) -> int:
        """From accept to the first octet."""

    @property
    def progress_timeout(self) -> int:
        """Between two octets of a body, in either direction."""

    @property
    def idle_timeout(self) -> int:
        """Between two requests."""

    @property
    def stream_idle_timeout(self) -> int:
        """Between two octets of an event stream or a tunnel."""

    @property
    def max_connection(self) -> int:
        """Age at which a connection takes no further request."""

    @property
    def max_requests(self) -> int:
        """Requests per connection; 0: any number."""

    @property
    def max_connections(self) -> int:
        """Connections per worker and bind."""

    @property
    def max_per_address(self) -> int:
        """Connections per worker and client address."""

    @property
    def lowercase(self) -> bool:
        """Forward header names in lower case."""

    @property
    def forwarded(self) -> int:
        """X-Forwarded-*: 0 leave alone, 1 replace, 2 append."""

@disjoint_base
class Bind:
    """One port of a snapshot."""

    def __init__(self, key: str, router: Router, matches: list[Match], http: Http, log_fields: bytes, label: int, tls: ServerTls | None = None) -> None: ...
    @property
    def key(self) -> str:
        """`address:port`."""

    @property
    def router(self) -> Router: ...
    @property
    def matches(self) -> list[Match]:
        """By the router's value."""

    @property
    def http(self) -> Http: ...
    @property
    def tls(self) -> ServerTls | None:
        """How connections speak TLS; None: plain."""

    @property
    def log_fields(self) -> bytes:
        """JSON fragment for requests that found no route."""

    @property
    def label(self) -> int:
        """Id in the arena of such requests."""
