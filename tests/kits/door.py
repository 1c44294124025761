"""A gate on the data path of this process: a listener with one route, a real upstream, a keeper that does what a test wants.

    async def body(plane: Plane, door: Door, upstream: Upstream) -> None: ...
    behind(admit, body)
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Sequence
from typing import Any

from agw._fast.acceptor import Acceptor
from agw._fast.entry import Entry
from agw._fast.gate import Gate, Identity, License
from agw._fast.policy import Bind
from agw.runtime.compile import compile_plan
from agw.runtime.plan import BackendRef, BindPlan, ClusterPlan, HttpPlan, ListenerPlan, MatchPlan, Plan, PolicyPlan, RoutePlan
from agw.runtime.plan_security import JwtPlan, JwtProviderPlan
from agw.runtime.snapshot import LabelIndex, Labels
from agw.security.contract import Refusal
from agw.worker.resolver import literal
from tests.kits.plane import Plane, run
from tests.peers.upstream import Peer, Upstream

NO = Refusal(401, 6, b"who are you", "no \"credential\"", b"WWW-Authenticate: Bearer\r\n")


class Keeper:
    """Does with each entry what `do` says; keeps them."""

    def __init__(self, do: Callable[[Entry], object]) -> None:
        self.do = do
        self.asked: list[Entry] = []

    def enter(self, entry: Entry) -> None:
        self.asked.append(entry)
        self.do(entry)


def admit(entry: Entry, lasting: bool = True, **more: Any) -> None:
    """Let in whoever says who they are."""
    said = entry.values(b"authorization")
    entry.admit(Identity(said[0] if said else b"", {}, **more), License(), lasting)


class Door:
    """A listener of the data plane with one route, and raw clients to it."""

    def __init__(
        self, plane: Plane, upstream: Upstream, do: Callable[[Entry], object], others: Sequence[RoutePlan] = (), *, http: HttpPlan | None = None, **more: Any
    ) -> None:
        """`others`: further routes; `more`: fields of the cluster's plan."""
        self.plane = plane
        self.upstream = upstream
        self._http = http or HttpPlan()
        self._more = more
        bind = self.compile(others)
        self.gate: Gate = self.gates[0]
        self.keeper = self.gate.keeper = Keeper(do)
        plane.context.adopt(bind.http)
        listener = socket.create_server(("127.0.0.1", 0))
        listener.setblocking(False)
        self.port: int = listener.getsockname()[1]
        self.acceptor = Acceptor(plane.context, listener.detach(), bind)
        self.acceptor.start()

    def compile(self, others: Sequence[RoutePlan], issuer: str = "i") -> Bind:
        """A configuration whose first route asks for tokens of `issuer`; `gates` are those of its routes."""
        host, _, port = self.upstream.host.rpartition(":")
        first = RoutePlan("r", "", [], [MatchPlan()], [BackendRef(0)], PolicyPlan(jwt=JwtPlan([JwtProviderPlan(issuer)])))
        plan = Plan(
            binds=[BindPlan("b", 0, "127.0.0.1", [ListenerPlan("l", "g", "", list(range(1 + len(others))))])],
            routes=[first, *others],
            http=self._http,
            clusters=[ClusterPlan("c", host=host, port=int(port), authority=self.upstream.host, **self._more)],
        )
        snapshot = compile_plan(plan, 1, LabelIndex(Labels()))
        (bind,) = snapshot.binds.values()
        (cluster,) = snapshot.clusters.values()
        cluster.attach(self.plane.reactor)
        endpoint = literal(plan.clusters[0])
        assert endpoint is not None
        cluster.set_endpoints([endpoint])
        self.plane.clusters.append(cluster)
        self.gates = list(snapshot.gates.values())
        return bind

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", self.port)

    def close(self) -> None:
        self.acceptor.stop_accepting()
        self.acceptor.cut()


def request(path: str = "/", credential: str | None = "Bearer me", body: bytes = b"", method: str = "GET", more: str = "") -> bytes:
    field = "" if credential is None else f"Authorization: {credential}\r\n"
    length = f"Content-Length: {len(body)}\r\n" if body else ""
    return f"{method} {path} HTTP/1.1\r\nHost: h\r\n{field}{more}{length}\r\n".encode() + body


async def answer(reader: asyncio.StreamReader) -> tuple[int, bytes, bytes]:
    """(status, head, body)."""
    head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)
    sizes = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
    return int(head.split()[1]), head, await reader.readexactly(int(sizes[0].split(b":")[1]))


def behind(do: Callable[[Entry], object], body: Callable[[Plane, Door, Upstream], Any], **more: Any) -> None:
    """Run a test behind a gate whose keeper does `do`; `more` as for `Door`."""
    with Upstream(Peer.serve) as upstream:

        async def whole(plane: Plane) -> None:
            door = Door(plane, upstream, do, **more)
            try:
                await body(plane, door, upstream)
            finally:
                door.close()

        run(whole)
