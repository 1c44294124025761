"""Hops: a worker passes a request on to the worker that has what the request needs.

A stdio process, an SSE stream or a session's memory has one owner, and its id names the owner's slot. Whoever accepted
the client's connection relays the request there, over the same data path as to any upstream, and relays the answer back.

Rules:
- every bind has one abstract unix socket per slot beside its TCP sockets: the supervisor makes and keeps them, so they
  belong to the place, a successor serves what its predecessor left in the queue, and nobody else can take the name;
- the kernel says who connects: only processes of our own user get in (`Acceptor`), and only there the fields `agw-hop`,
  `agw-peer` and `agw-certificate` are believed. From anywhere else they are neither believed nor passed on (`forward.build_request`);
- a request hops once: whoever gets one with `agw-hop` answers it, whatever it finds;
- while the gateway drains, hops are served until no worker has a client left.

The request goes as it came (`policy.hop_choice`): route, policies and protocol are decided again by the owner, who runs the
same configuration.
"""

from __future__ import annotations

from collections.abc import Mapping

from agw._fast.acceptor import Acceptor
from agw._fast.exchange import Context
from agw._fast.policy import Bind, Choice, hop_choice
from agw._fast.pool import Cluster
from agw.runtime.plan import ClusterPlan
from agw.runtime.snapshot import BindKey
from agw.worker.resolver import endpoint_of_unix

NO_LABEL = 0xFFFF
"""A hop is no backend: the counters show the request where it is answered and relayed."""
CONNECT_NS = 2_000_000_000
ANSWER_NS = 86_400_000_000_000
"""The owner keeps the time-outs of the route; a dead owner closes the connection."""
MAX_CONNECTIONS = 4096


def hop_name(instance: str, slot: int, key: BindKey) -> str:
    """The socket of a bind in a worker's place, `@` for the abstract namespace. `instance`: the supervisor's life, hex."""
    return f"@agw.{instance}.{slot}.{key}"


class Hops:
    """Both sides of hops in one worker: sockets that other workers connect to, and pools of connections to theirs."""

    def __init__(self, context: Context, instance: str, slot: int) -> None:
        self._context = context
        self._instance = instance
        self._slot = slot
        self._acceptors: dict[BindKey, Acceptor] = {}
        self._retired: list[Acceptor] = []
        self._choices: dict[tuple[BindKey, int], Choice] = {}

    # -------------------------------------------------------------------------------- for who passes a request on

    def choice(self, key: BindKey, slot: int) -> Choice:
        """Relay a request to this choice (`Call.pass_on`), and the worker in `slot` answers it.

        Errors: ValueError for the own slot: what is here needs no hop.
        """
        if slot == self._slot:
            raise ValueError("a worker does not hop to itself")
        found = self._choices.get((key, slot))
        if found is None:
            plan = ClusterPlan(
                name="hop", unix_path=hop_name(self._instance, slot, key), connect_timeout_ns=CONNECT_NS, response_timeout_ns=ANSWER_NS,
                max_connections=MAX_CONNECTIONS,
            )
            cluster = Cluster(plan, NO_LABEL)
            cluster.attach(self._context.reactor)
            cluster.set_endpoints([endpoint_of_unix(plan.unix_path)])
            found = self._choices[key, slot] = hop_choice(cluster)
        return found

    def cluster(self, key: BindKey, slot: int) -> Cluster:
        """The connections to the worker in `slot`, for requests of our own. Errors: as `choice`."""
        found = self.choice(key, slot).cluster
        assert found is not None
        return found

    # ------------------------------------------------------------------------------------------- for the worker

    def adopt(self, binds: Mapping[BindKey, Bind], opened: Mapping[BindKey, int]) -> None:
        """Point the sockets at a snapshot's binds; those without one close. `opened`: descriptors of new ones."""
        for key, fd in opened.items():
            self._acceptors[key] = Acceptor(self._context, fd, binds[key])
            self._acceptors[key].start()
        for key in [k for k in self._acceptors if k not in binds]:
            acceptor = self._acceptors.pop(key)
            acceptor.take_waiting()
            acceptor.stop_accepting()
            acceptor.drain()
            self._retired.append(acceptor)
        for key, acceptor in self._acceptors.items():
            acceptor.switch(binds[key])
        for place in [p for p in self._choices if p[0] not in binds]:
            cluster = self._choices.pop(place).cluster
            if cluster is not None:
                cluster.retire()

    def tick(self) -> None:
        """What depends on time: waiting requests, sockets paused for want of descriptors."""
        for choice in self._choices.values():
            if choice.cluster is not None and choice.cluster.waiting_count():
                choice.cluster.expire_waiters()
        for acceptor in self._acceptors.values():
            if acceptor.paused:
                acceptor.set_paused(False)
        if self._retired:
            self._retired = [a for a in self._retired if a.connection_count()]

    def close(self) -> None:
        """The worker leaves: no client is left whose request could come this way."""
        for acceptor in (*self._acceptors.values(), *self._retired):
            acceptor.stop_accepting()
            acceptor.cut()
