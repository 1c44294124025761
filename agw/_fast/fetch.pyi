"""One HTTP/1.1 request of the gateway's own, over the worker's connection pools, told to a sink by callbacks.

Everything that is not a plain relay uses this: sessions with targets, event streams, list refreshes, OpenAPI calls. It
shares pools, time-outs and counters with the relayed traffic.

Rules:
- the sink hears `on_head` at most once, then `on_data` any number of times, then `on_end` exactly once;
- no callback comes from inside a call into this class, except from `Cluster` events that happen later anyway: the
  constructor never calls back, `cancel` never calls back;
- interim (1xx) answers are skipped; the body is decoded (length, chunked, until close); nothing is decompressed, and no
  `Accept-Encoding` is sent unless the caller says so;
- reading stops while `pause` is in force, so a slow consumer bounds the memory; what was read before still arrives;
- a connection is reused only when the answer was read to its end and its framing allows it;
- a request is sent again only if the kernel took nothing of it, or, once, if it is GET, HEAD, OPTIONS or DELETE and a
  pooled connection ended before one octet of an answer (RFC 9110 section 9.2.2);
- a sink that raises is counted and reported like any internal error; its request ends with `reset`.
"""

from typing import Protocol, type_check_only

from typing_extensions import disjoint_base

from agw._fast.exchange import Context
from agw._fast.pool import Client, Cluster, Upstream

@type_check_only
class Sink(Protocol):
    """Who is told. A callback may call `cancel`, `pause` and `resume`, and start other requests."""

    def on_head(self, status: int, headers: list[tuple[bytes, bytes]], /) -> None:
        """The final response head; names in lower case, in wire order."""

    def on_data(self, data: bytes, /) -> None:
        """Decoded body octets, at most what one read and an incomplete head can hold (192 KiB)."""

    def on_end(self, problem: str | None, sent: bool, /) -> None:
        """The end: None when the answer is whole, else one of `connect`, `connect-timeout`, `dns`, `queue`, `timeout`,
        `reset`, `protocol`. `sent`: whether the target may have seen the request."""

@disjoint_base
class Fetch(Client):
    """One request. Starts at once; keep a reference until `on_end` or `cancel`.

    `path` is the request target (with query); `lines` are complete header lines (`b"Name: value\\r\\n..."`) without Host,
    Content-Length, Transfer-Encoding and Connection, which are written here. `body` None sends no body (GET, DELETE).
    Units:  `timeout_ns` bounds the wait for the head and, restarted by every octet, for the rest; 0 means the cluster's
    response time-out. The wait for a connection has the cluster's bounds. No time-out ends a paused request.
    Errors: ValueError when method or path are no token and no target, when `lines` hold a malformed or reserved line, and
    for a cluster that is not attached to a reactor; nothing else raises.
    """

    def __init__(
        self, context: Context, cluster: Cluster, method: bytes, path: bytes, lines: bytes, body: bytes | None, sink: Sink, timeout_ns: int = 0
    ) -> None: ...
    def attach(self, sink: Sink) -> None:
        """Who is told of an adopted answer; what came so far is told before this returns."""
    def cancel(self) -> None:
        """Give up: the connection is closed, the sink hears nothing more. Harmless after the end."""

    def pause(self) -> None:
        """Stop reading until `resume`."""

    def resume(self) -> None:
        """Go on reading, after this turn."""

def adopt(context: Context, up: Upstream, octets: bytes) -> Fetch:
    """For the exchange: an answer that has begun there goes on here; `octets` are all of it so far, head first."""
