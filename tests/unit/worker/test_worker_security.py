"""What a worker lends to policies: calls over its pools, tasks, counters; snapshots and their numbering of clusters."""

from __future__ import annotations

import ast
import asyncio
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import agw
from agw.runtime.compile import compile_plan
from agw.runtime.plan import BackendRef, BindPlan, ClusterPlan, ListenerPlan, MatchPlan, Plan, RoutePlan
from agw.runtime.plan_security import CallPlan, DocumentPlan
from agw.runtime.snapshot import LabelIndex, Labels
from agw.security.contract import CallError, SecurityHost
from agw.shm.layout import DECISION_WORDS
from agw.shm.reader import DECISION_POLICIES, DECISION_RESULTS, decision_name
from agw.worker.caller import MAX_ANSWER, ClusterCaller
from agw.worker.resolver import literal
from agw.worker.security import NAMED, SAID, WorkerSecurity
from tests.kits.plane import Plane, refused_host, run
from tests.peers.upstream import Blackhole, Peer, Upstream

S = 1_000_000_000




# -------------------------------------------------------------------------------------------------------------- calls


@pytest.mark.parametrize("status", [b"200 OK", b"401 Unauthorized", b"500 Oh", b"302 Found"])
def test_an_answer_of_any_status(status: bytes) -> None:
    with Upstream(lambda peer: peer.serve(b"{}", status=status, head=b"X-Who: Me\r\nLocation: http://127.0.0.1:1/\r\n")) as upstream:

        async def body(plane: Plane) -> None:
            call = ClusterCaller(plane.context, [plane.cluster(refused_host()), plane.cluster(upstream.host)])
            answer = await call(CallPlan(1, "/token?x=1"), "POST", [(b"content-type", b"text/plain")], b"a=b")
            assert (answer.status, answer.body) == (int(status[:3]), b"{}") and (b"x-who", b"Me") in answer.headers
            await call(CallPlan(1, "/token"), "GET", [], b"", "/other?y")
            await call(CallPlan(1), "POST", [], b"")
            assert len(upstream.peers) == 1

        run(body)
        one, two, three = upstream.requests
        assert (one.line, one.body, one.get(b"content-type"), one.get(b"host")) == (
            b"POST /token?x=1 HTTP/1.1", b"a=b", [b"text/plain"], [upstream.host.encode()])
        assert (two.line, two.get(b"content-length")) == (b"GET /other?y HTTP/1.1", [])
        assert (three.line, three.get(b"content-length")) == (b"POST / HTTP/1.1", [b"0"])


def cut(peer: Peer) -> None:
    peer.request()
    peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 900\r\n\r\n{")


def nonsense(peer: Peer) -> None:
    peer.request()
    peer.send(b"220 smtp ready\r\n\r\n")


@pytest.mark.parametrize(
    ("script", "kind"),
    [(cut, "closed"), (nonsense, "protocol"), (lambda peer: peer.serve(b"x" * (MAX_ANSWER + 1)), "limit"), (lambda peer: peer.until_eof() and None, "timeout")],
    ids=["cut", "nonsense", "large", "silent"],
)
def test_no_usable_answer(script: Callable[[Peer], None], kind: str) -> None:
    with Upstream(script) as upstream:

        async def body(plane: Plane) -> None:
            with pytest.raises(CallError) as caught:
                await ClusterCaller(plane.context, [plane.cluster(upstream.host)])(CallPlan(0, timeout_ns=S // 2), "POST", [], b"{}")
            assert caught.value.kind == kind

        run(body)


def test_an_answer_of_just_the_size_that_is_allowed() -> None:
    with Upstream(lambda peer: peer.serve(b"x" * MAX_ANSWER)) as upstream:

        async def body(plane: Plane) -> None:
            answer = await ClusterCaller(plane.context, [plane.cluster(upstream.host)])(CallPlan(0), "GET", [], b"")
            assert len(answer.body) == MAX_ANSWER

        run(body)


def test_no_connection() -> None:
    hole = Blackhole()

    async def body(plane: Plane) -> None:
        call = ClusterCaller(plane.context, [plane.cluster(refused_host()), plane.cluster(hole.host, connect_timeout_ns=S)])
        with pytest.raises(CallError) as refused:
            await call(CallPlan(0), "GET", [], b"")
        assert refused.value.kind == "connect"
        begun = time.monotonic()
        with pytest.raises(CallError) as late:
            await call(CallPlan(1, timeout_ns=S // 5), "GET", [], b"")
        assert late.value.kind == "timeout" and time.monotonic() - begun < 2

    try:
        run(body)
    finally:
        hole.close()


@pytest.mark.parametrize(
    ("method", "path", "headers"),
    [("GET", "/\u20ac", []), ("GET", "/a b", []), ("GET", "/\r\nX: y", []), ("G T", "/", []), ("\u0121ET", "/", []), ("GET", "/", [(b"X", b"a\r\nY: b")]),
     ("GET", "/", [(b"Host", b"other")])],
)  # fmt: skip
def test_what_cannot_be_written_goes_nowhere(method: str, path: str, headers: list[tuple[bytes, bytes]]) -> None:
    with Upstream() as upstream:

        async def body(plane: Plane) -> None:
            with pytest.raises(CallError) as caught:
                await ClusterCaller(plane.context, [plane.cluster(upstream.host)])(CallPlan(0), method, headers, b"", path)
            assert caught.value.kind == "protocol"

        run(body)
        assert upstream.requests == []


def test_a_caller_that_is_given_up_gives_its_connection_back() -> None:
    asked = threading.Event()

    def script(peer: Peer) -> None:
        peer.request()
        asked.set()
        peer.until_eof()

    with Upstream(script) as upstream:

        async def body(plane: Plane) -> None:
            call = asyncio.create_task(ClusterCaller(plane.context, [plane.cluster(upstream.host)])(CallPlan(0), "POST", [], b""))  # type: ignore[arg-type]
            await plane.until(asked.is_set, "the request")
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call

        run(body)


# ---------------------------------------------------------------------------------------------------------- snapshots


def plan_of(*hosts: str, documents: tuple[str, ...] = ()) -> Plan:
    clusters = [ClusterPlan(name=host, host=host.partition(":")[0], port=int(host.partition(":")[2]), authority=host) for host in hosts]
    routes = [RoutePlan("r", matches=[MatchPlan()], backends=[BackendRef(0)])]
    binds = [BindPlan("b", 8080, listeners=[ListenerPlan("l", "g", routes=[0])])]
    return Plan(binds=binds, routes=routes, clusters=clusters, documents=[DocumentPlan(url) for url in documents])


def test_each_snapshot_counts_its_own_clusters_and_the_old_one_still_gets_through() -> None:
    with Upstream(lambda peer: peer.serve(b"a")) as a, Upstream(lambda peer: peer.serve(b"b")) as b:

        async def body(plane: Plane) -> None:
            security = WorkerSecurity(plane.context, [].append)
            labels = LabelIndex(Labels())
            # The plan names b twice: one cluster, two numbers.
            first = compile_plan(plan_of(a.host, b.host, b.host), 1, labels)
            second = compile_plan(plan_of(b.host, documents=("https://idp.test/",)), 2, labels, first)
            for cluster in {*first.by_index, *second.by_index}:
                cluster.attach(plane.reactor)
                endpoint = literal(cluster.plan)
                assert endpoint is not None
                cluster.set_endpoints([endpoint])
                plane.clusters.append(cluster)
            old: SecurityHost = security.attach(first)
            new: SecurityHost = security.attach(second)
            first.by_index[0].retire()
            bodies = [(await host.caller(CallPlan(index), "GET", [], b"")).body for host, index in ((old, 0), (old, 1), (old, 2), (new, 0))]
            assert bodies == [b"a", b"b", b"b", b"b"]
            assert second.by_index[0] is first.by_index[1] is first.by_index[2]
            old.documents.want("https://idp.test/")
            await security.close()

        run(body)


# ------------------------------------------------------------------------------------------------- tasks and counters


def test_decisions_are_counted(caplog: pytest.LogCaptureFixture) -> None:
    async def body(plane: Plane) -> None:
        security = WorkerSecurity(plane.context, [].append)
        host = security.attach(compile_plan(plan_of("127.0.0.1:1"), 1, LabelIndex(Labels())))
        for policy in DECISION_POLICIES:
            for result in DECISION_RESULTS:
                host.count(policy, result)
        host.count("jwt", "expired")
        for _ in range(3):
            host.count("jwt", "nonsense")
        gauges = plane.arena.gauges(0)
        counted = {name: number for name, number in gauges.items() if name.startswith("auth_")}
        assert counted.pop(decision_name("jwt", "expired")) == 2
        assert set(counted.values()) == {1} and len(counted) == len(DECISION_POLICIES) * len(DECISION_RESULTS) - 1

    run(body)
    assert len([record for record in caplog.records if record.message == "a decision without a counter"]) == 1


def test_all_words_of_the_policies_are_counted() -> None:
    """Literal arguments of `count` in the policies, and the words of authentication in each of its modes."""
    said = {("jwt", word) for word in ("ok", "bad", "missing", "none", "ignored", "unavailable")}
    for path in (Path(agw.__file__).parent / "security").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "count" and len(node.args) == 2:
                what, result = (part.value if isinstance(part, ast.Constant) else None for part in node.args)
                if isinstance(result, str):
                    said.add((what if isinstance(what, str) else "jwt", result))
    assert {(what, result) for what, result in said if (NAMED.get(what, what), SAID.get(result, result)) not in DECISION_WORDS} == set()
    assert set(SAID.values()) <= set(DECISION_RESULTS) and set(NAMED.values()) <= set(DECISION_POLICIES)


def test_tasks_run_are_reported_and_end_with_the_worker(caplog: pytest.LogCaptureFixture) -> None:
    async def body(plane: Plane) -> None:
        security = WorkerSecurity(plane.context, [].append)
        host = security.attach(compile_plan(plan_of("127.0.0.1:1"), 1, LabelIndex(Labels())))
        seen = []

        async def fine() -> None:
            seen.append("fine")

        async def bad() -> None:
            raise ValueError("of a policy")

        async def long() -> None:
            try:
                await asyncio.sleep(60)
            finally:
                seen.append("cancelled")

        for work in (fine(), bad(), long()):
            host.spawn(work)
        await asyncio.sleep(0.01)
        await security.close()
        assert seen == ["fine", "cancelled"]

    run(body)
    assert len([record for record in caplog.records if record.message == "internal error in a policy"]) == 1
