"""Upstream side: a Cluster decides, an Upstream carries octets, a Client (the exchange) is told.

Rules:
- an idle connection that becomes readable is dead, whatever it says: surplus octets would poison the next answer. What
  TLS says to itself (session tickets, key updates) is taken in and is no answer;
- a TLS connection counts as being made until its handshake is over: `connect_timeout_ns` covers both;
- connections are used last in, first out, so that surplus ones age out;
- the queue of waiting clients is bounded in length (`max_pending`) and time (`pending_timeout_ns`);
- a connection that is being made belongs to the cluster, not to a client: whoever waits first gets it;
- `acquire` never calls back from inside; the client hears after the batch.
"""

from typing_extensions import disjoint_base

from agw._fast.reactor import Handler, Reactor
from agw._fast.stream import Stream
from agw._fast.tls import ClientTls
from agw.runtime.plan import ClusterPlan

@disjoint_base
class Client:
    """Who waits for, or uses, an upstream connection. Subclassed in Cython only (Exchange).

    C methods (pool.pxd): `on_upstream_ready`, `_failed`, `_data`, `_eof`, `_drain`, `_timeout`.
    """

@disjoint_base
class Upstream(Stream):
    """One connection to an endpoint: connecting, idle, active or closed. Made by a cluster only."""

    @property
    def endpoint(self) -> str:
        """The endpoint's text; `None` before a cluster connected it."""

@disjoint_base
class Cluster:
    """One backend with its addresses, connections and waiting clients; carried over reloads while its plan is unchanged.

    C methods (pool.pxd): `acquire(client, fresh)`, `release(upstream)`, `forget(client)`, `close_idle()`.
    Owner:  snapshots; a cluster that no snapshot names is retired and goes when its last connection does.
    """

    def __init__(self, plan: ClusterPlan, label: int, tls: ClientTls | None = None) -> None:
        """`label` is the backend id in the arena; `tls` None speaks plain. Nothing is opened before `attach` and `set_endpoints`."""

    @property
    def plan(self) -> ClusterPlan:
        """What it was made from."""

    @property
    def label(self) -> int:
        """The backend's id in the arena's rows."""

    @property
    def tls(self) -> ClientTls | None:
        """How it speaks TLS, or None."""

    @property
    def endpoints(self) -> list[tuple[int, bytes, str]]:
        """(address family, sockaddr octets for connect(2), text), in the resolver's order."""

    @property
    def resolved(self) -> bool:
        """Has `set_endpoints` been called? Before that, clients wait."""

    @property
    def down(self) -> bool:
        """Did the last attempt to connect fail?"""

    @property
    def connections(self) -> int:
        """Connections in any state, those being made included."""

    @property
    def connecting(self) -> int:
        """Connections being made."""

    def attach(self, reactor: Reactor) -> None:
        """Give it its worker's reactor; before any request, again after a reload is harmless."""

    def set_endpoints(self, endpoints: list[tuple[int, bytes, str]]) -> None:
        """Take what the resolver found. Idle connections to other addresses close; an empty list fails those who wait
        (the name has no address)."""

    def retire(self) -> None:
        """No snapshot names it any more: idle connections close, active ones close when they are done."""

    def revive(self) -> None:
        """A snapshot names it again."""

    def idle_count(self) -> int:
        """Idle connections."""

    def waiting_count(self) -> int:
        """Clients in the queue."""

    def serve_waiters(self) -> None:
        """Give idle connections to those who wait, open what is missing, refuse what exceeds `max_pending`. Called after
        the batch."""

    def expire_waiters(self) -> None:
        """Refuse those who waited longer than `pending_timeout_ns`. Called by the worker's tick."""

    def note_problem(self, text: str, endpoint: str) -> None:
        """Keep why a TLS handshake failed for `take_problem`; the same text once in ten seconds."""

    def take_problem(self) -> str | None:
        """What the operator should hear of a failed TLS handshake, once. Asked for by the worker's tick."""

    def none_to_be_had(self, why: int) -> int:
        """Tell the client that waits longest that no connection could be made; `why` is a FAIL_ code of pool.pxd.
        Always 0."""

@disjoint_base
class Waker(Handler):
    """Calls `serve_waiters` after the batch. Made by a cluster only."""

    def __init__(self, cluster: Cluster) -> None: ...
