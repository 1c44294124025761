"""MCP backends behind a gate, inside this process: the real data path, the real service, real servers, and a keeper of the test's.

    with McpServer(Offer(name="a")) as a:
        guarded(lambda house: ..., {"/one": [a], "/two": [a, b]})

`Bearer NAME` and `Bearer NAME scope scope` are credentials: whoever shows one is that principal, without any they are nobody.
What they may do is `house.rules`.

Rules:
- the test's own function runs in a thread, with clients that block; gate, service and keeper run in the loop;
- nothing is relayed before the keeper was asked about the request, and what it was asked about messages is in `rules.judged`.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable, Sequence
from typing import Any

from agw._fast.acceptor import Acceptor
from agw._fast.entry import Entry
from agw._fast.gate import Identity, License
from agw.runtime.compile import compile_plan
from agw.runtime.plan import BackendRef, BindPlan, ClusterPlan, ListenerPlan, MatchPlan, McpPlan, McpTargetPlan, Plan, PolicyPlan, RoutePlan
from agw.runtime.plan_security import JwtPlan, JwtProviderPlan, McpAuthPlan, RulePlan, RulesPlan
from agw.runtime.snapshot import LabelIndex, Labels
from agw.security.contract import AUTHORIZATION, RATE_LIMIT, McpFacts, Refusal
from agw.security.mcp_auth.scopes import ToolScopes
from agw.worker.hop import Hops
from agw.worker.journal import Journal, make_journal
from agw.worker.mcp import McpHost
from agw.worker.resolver import literal
from tests.kits.plane import Plane, run
from tests.peers.mcp_client import As, Endpoint
from tests.peers.mcp_server import McpServer

NAMED = PolicyPlan(jwt=JwtPlan([JwtProviderPlan("i")]))
"""Callers have names, and nothing is asked about their messages: known ones go the compiled way."""
JUDGED = PolicyPlan(jwt=JwtPlan([JwtProviderPlan("i")]), mcp_authorization=RulesPlan("mcp", [RulePlan("true")]))
HIDDEN = Refusal(403, AUTHORIZATION, b"no", "a rule")
LIMITED = Refusal(429, RATE_LIMIT, b"Too many requests", "a limit", b"Retry-After: 7\r\n", code=-32029)


class Rules:
    """Who may do what. `hidden`: (principal, kind, own name); `limited`: public names; `scopes` by tool."""

    def __init__(self) -> None:
        self.hidden: set[tuple[str, str, str]] = set()
        self.limited: set[str] = set()
        self.scopes = ToolScopes(McpAuthPlan(JwtPlan([]), "https://agw.example/mcp", "{}"))
        self.by_name = True
        self.described = False
        self.judged: list[McpFacts] = []
        self.looked = 0
        self.fails = False

    def need(self, **scopes: list[str]) -> None:
        """Scopes of tools."""
        self.scopes = ToolScopes(McpAuthPlan(JwtPlan([]), "https://agw.example/mcp", "{}", scopes_required=["mcp"], tool_scopes=scopes))

    def enter(self, entry: Entry) -> None:
        """Let everybody in under the name they say."""
        said = entry.values(b"authorization")
        name, *scopes = said[0].decode().removeprefix("Bearer ").split() if said else [""]
        claims = {"jwt": {"sub": name}}
        entry.admit(Identity(name.encode().ljust(16, b"-") if name else b"", claims, scopes=frozenset(scopes)), License(), lasting=False)

    def visible(self, identity: Identity, facts: McpFacts, call: Any) -> bool:
        self.looked += 1
        if self.fails:
            raise RuntimeError("a rule set that is broken")
        return (identity.claims["jwt"]["sub"], facts.kind, facts.name) not in self.hidden

    def judge(self, identity: Identity, facts: McpFacts, call: Any) -> Refusal | None:
        self.judged.append(facts)
        if not self.visible(identity, facts, call):
            return HIDDEN
        return LIMITED if facts.public in self.limited or facts.method in self.limited else None

    def licence(self, identity: Identity, facts: McpFacts, call: Any, stamp: int) -> None:
        """What these rules say may change at any moment."""

    def lacking(self, identity: Identity, tools: Sequence[str], call: Any) -> Refusal | None:
        return self.scopes.lacking(identity.scopes, tools, call)


class House:
    """The gateway."""

    def __init__(self, plane: Plane, backends: dict[str, list[McpServer]], policies: PolicyPlan, options: dict[str, Any]) -> None:
        self.rules = Rules()
        servers = list(dict.fromkeys(server for targets in backends.values() for server in targets))
        plan = Plan(
            binds=[BindPlan("b", 0, "127.0.0.1", [ListenerPlan("l", "g", "", list(range(len(backends))))])],
            routes=[
                RoutePlan(path.strip("/"), "", [], [MatchPlan("prefix", path)], [BackendRef(servers.index(targets[0]), mcp=number)], policies)
                for number, (path, targets) in enumerate(backends.items())],
            clusters=[ClusterPlan(s.offer.name, host="127.0.0.1", port=s.port, authority=f"127.0.0.1:{s.port}", path="/mcp") for s in servers],
            mcp=[
                McpPlan(path.strip("/"), [McpTargetPlan(s.offer.name, "http", servers.index(s), timeout_ns=5_000_000_000) for s in targets], **options)
                for path, targets in backends.items()],
        )
        snapshot = compile_plan(plan, 1, LabelIndex(Labels()))
        (key,) = snapshot.binds
        bind = snapshot.binds[key]
        for cluster in snapshot.clusters.values():
            cluster.attach(plane.reactor)
            endpoint = literal(cluster.plan)
            assert endpoint is not None
            cluster.set_endpoints([endpoint])
            plane.clusters.append(cluster)
        for match in bind.matches:
            assert match.route.gate is not None
            match.route.gate.keeper = self.rules
        plane.context.adopt(bind.http)
        self._journal = make_journal(0)
        self.host = McpHost(plane.context, 0, 1, os.urandom(8), Hops(plane.context, "00", 0), Journal(self._journal))
        self.host.adopt(snapshot.endpoints, [os.urandom(32)], list(snapshot.binds))
        listener = socket.create_server(("127.0.0.1", 0))
        listener.setblocking(False)
        self.port: int = listener.getsockname()[1]
        self.acceptor = Acceptor(plane.context, listener.detach(), bind)
        self.acceptor.start()

    def at(self, path: str, who: str = "") -> Endpoint:
        """A route, as one caller sees it."""
        return As(self.port, who or None, path)

    async def close(self) -> None:
        self.acceptor.stop_accepting()
        self.acceptor.cut()
        await asyncio.gather(*(service.close() for service in self.host.services.values()))
        os.close(self._journal)


def guarded(body: Callable[[House], None], backends: dict[str, list[McpServer]], policies: PolicyPlan = JUDGED, **options: Any) -> None:
    """Run a test; `options` are fields of the backends' plans."""

    async def whole(plane: Plane) -> None:
        house = House(plane, backends, policies, options)
        try:
            await asyncio.to_thread(body, house)
        finally:
            await house.close()

    run(whole)
