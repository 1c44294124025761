"""Plan to snapshot: header operations in order, redirects, what is refused, and what survives a reload."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agw._fast.policy import HeaderEdits
from agw.runtime.compile import (
    STEP,
    CompileError,
    Redirect,
    compile_plan,
    compile_steps,
    direct,
    edits,
    join_prefix,
    log_fragment,
    merge_ops,
    split_authority,
)
from agw.runtime.plan import (
    BackendRef,
    BindPlan,
    ClusterPlan,
    CorsPlan,
    DirectResponsePlan,
    HeaderOps,
    HttpPlan,
    ListenerPlan,
    MatchPlan,
    NamedPattern,
    Pattern,
    Plan,
    PolicyPlan,
    RedirectPlan,
    RewritePlan,
    RoutePlan,
)
from agw.runtime.snapshot import MAX_ROUTE_LABELS, BindKey, LabelIndex, Labels, Snapshot

PROFILE = settings(max_examples=250, deadline=None, derandomize=True, database=None)
Fields = list[tuple[str, str]]


# ------------------------------------------------------------------------------------------------------- merge_ops

NAMES = st.sampled_from(["a", "b", "c"])
PAIRS = st.lists(st.tuples(NAMES, st.sampled_from(["1", "2", "3"])), max_size=3)
OPS = st.builds(HeaderOps, remove=st.lists(NAMES, max_size=2), set=PAIRS, add=PAIRS) | st.none()
HEADS = st.lists(st.tuples(st.sampled_from(["a", "A", "b", "C", "d"]), st.sampled_from(["0", "9"])), max_size=5)


def applied(ops: HeaderOps | None, head: Fields) -> Fields:
    """Remove, set, add: what a `HeaderOps` says, done to a list of fields."""
    if ops is None:
        return head
    gone = {n.lower() for n in ops.remove} | {n.lower() for n, _ in ops.set}
    return [(n, v) for n, v in head if n.lower() not in gone] + ops.set + ops.add


def by_name(head: Fields) -> dict[str, list[str]]:
    """The values of each field in order; the order of different fields means nothing (RFC 9110 section 5.3)."""
    found: dict[str, list[str]] = {}
    for name, value in head:
        found.setdefault(name.lower(), []).append(value)
    return found


def on_the_wire(compiled: HeaderEdits | None, head: Fields) -> Fields:
    if compiled is None:
        return head
    kept = [(n, v) for n, v in head if not compiled.would_drop(n.encode())]
    lines = [line.partition(": ") for line in compiled.lines.decode().split("\r\n")[:-1]]
    return kept + [(name, value) for name, _, value in lines]


@PROFILE
@given(OPS, OPS, HEADS)
def test_merged_operations_do_what_both_do_one_after_the_other(first: HeaderOps | None, second: HeaderOps | None, head: Fields) -> None:
    merged = merge_ops(first, second)
    assert by_name(applied(merged, head)) == by_name(applied(second, applied(first, head)))
    assert by_name(on_the_wire(edits(merged), head)) == by_name(applied(merged, head))


@PROFILE
@given(OPS, OPS, OPS, HEADS)
def test_merging_is_associative(a: HeaderOps | None, b: HeaderOps | None, c: HeaderOps | None, head: Fields) -> None:
    left, right = merge_ops(merge_ops(a, b), c), merge_ops(a, merge_ops(b, c))
    assert by_name(applied(left, head)) == by_name(applied(right, head))


# -------------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize("name", ["content-length", "Transfer-Encoding", "connection", "Keep-Alive", "upgrade", "te", "Trailer"])
@pytest.mark.parametrize(
    "ops",
    [lambda n: HeaderOps(remove=[n]), lambda n: HeaderOps(set=[(n, "1")]), lambda n: HeaderOps(add=[(n, "1")])],
    ids=["remove", "set", "add"],
)
def test_framing_headers_are_not_for_policies(name: str, ops: Callable[[str], HeaderOps]) -> None:
    with pytest.raises(CompileError, match="frames the message"):
        edits(ops(name))
    for policies in (PolicyPlan(request_headers=ops(name)), PolicyPlan(response_headers=ops(name))):
        with pytest.raises(CompileError):
            compiled(one_route(policies))


def test_no_operation_is_no_edit() -> None:
    assert edits(None) is None
    assert edits(HeaderOps()) is None


@pytest.mark.parametrize(
    "policies",
    [
        PolicyPlan(request_headers=HeaderOps(set=[("x", "a\r\nb: c")])),
        PolicyPlan(response_headers=HeaderOps(add=[("x y", "a")])),
        PolicyPlan(cors=CorsPlan(["*"], allow_methods=["A\nB"])),
        PolicyPlan(direct_response=DirectResponsePlan(200, headers=[("x", "\0")])),
    ],
    ids=["value", "name", "cors", "direct"],
)
def test_what_cannot_be_framed_does_not_compile(policies: PolicyPlan) -> None:
    with pytest.raises(ValueError):
        compiled(one_route(policies))


# -------------------------------------------------------------------------------------------------------- redirects


@pytest.mark.parametrize(
    ("plan", "host", "path", "query", "prefix_len", "location"),
    [
        (RedirectPlan(), b"a.example", b"/x", None, 0, b"http://a.example/x"),
        (RedirectPlan(), b"a.example:8080", b"/x", b"q=1&r", 0, b"http://a.example:8080/x?q=1&r"),
        (RedirectPlan(), b"a.example:80", b"/x", b"", 0, b"http://a.example/x?"),
        (RedirectPlan(), b"[::1]:8080", b"/", None, 0, b"http://[::1]:8080/"),
        (RedirectPlan(), b"[::1]", b"/", None, 0, b"http://[::1]/"),
        (RedirectPlan(scheme="https"), b"a.example:8080", b"/x", None, 0, b"https://a.example/x"),
        (RedirectPlan(scheme="https"), b"a.example", b"/x", None, 0, b"https://a.example/x"),
        (RedirectPlan(scheme="https", authority_mode="port", authority="8443"), b"a.example:8080", b"/", None, 0, b"https://a.example:8443/"),
        (RedirectPlan(scheme="https", authority_mode="port", authority="443"), b"a.example:8080", b"/", None, 0, b"https://a.example/"),
        (RedirectPlan(authority_mode="port", authority="80"), b"a.example:8080", b"/", None, 0, b"http://a.example/"),
        (RedirectPlan(authority_mode="port", authority="9000"), b"a.example", b"/", None, 0, b"http://a.example:9000/"),
        (RedirectPlan(authority_mode="host", authority="b.example"), b"a.example:8080", b"/", None, 0, b"http://b.example:8080/"),
        (RedirectPlan(scheme="https", authority_mode="host", authority="b.example"), b"a:8080", b"/", None, 0, b"https://b.example/"),
        (RedirectPlan(authority_mode="full", authority="b.example"), b"a.example:8080", b"/", None, 0, b"http://b.example/"),
        (RedirectPlan(authority_mode="full", authority="b.example:9000"), b"a.example:8080", b"/", None, 0, b"http://b.example:9000/"),
        (RedirectPlan(scheme="https", authority_mode="full", authority="b:9000"), b"a", b"/", None, 0, b"https://b:9000/"),
        (RedirectPlan(path_full="/new"), b"a", b"/old/x", b"q", 4, b"http://a/new?q"),
        (RedirectPlan(path_prefix="/new"), b"a", b"/old/x", None, 4, b"http://a/new/x"),
        (RedirectPlan(path_prefix="/new/"), b"a", b"/old/x", None, 4, b"http://a/new/x"),
        (RedirectPlan(path_prefix="/new"), b"a", b"/old", None, 4, b"http://a/new"),
        (RedirectPlan(path_prefix="/new"), b"a", b"/old/", None, 4, b"http://a/new/"),
        (RedirectPlan(path_prefix="/"), b"a", b"/old/x", None, 4, b"http://a/x"),
        (RedirectPlan(path_prefix="/"), b"a", b"/old", None, 4, b"http://a/"),
        (RedirectPlan(path_prefix="/new"), b"a", b"/x", None, 0, b"http://a/new/x"),
        (RedirectPlan(path_prefix="/new"), b"a", b"/caf%C3%A9", None, 0, b"http://a/new/caf%C3%A9"),
        (RedirectPlan(), b"", b"/x", b"q", 0, b"/x?q"),
        (RedirectPlan(authority_mode="full", authority="b"), b"", b"/x", None, 0, b"http://b/x"),
        (RedirectPlan(), b"a", b"/\xff", b"\xfe", 0, b"http://a/\xff?\xfe"),
    ],
)  # fmt: skip
def test_redirects(plan: RedirectPlan, host: bytes, path: bytes, query: bytes | None, prefix_len: int, location: bytes) -> None:
    redirect = Redirect(plan)
    assert redirect.status == 302
    assert redirect.location(host, path, query, prefix_len) == location


def test_authorities_and_prefixes() -> None:
    assert [split_authority(a) for a in ("a", "a:1", "[::1]", "[::1]:1")] == [("a", ""), ("a", "1"), ("[::1]", ""), ("[::1]", "1")]
    assert [join_prefix("/p", rest) for rest in ("", "/", "/x", "x")] == ["/p", "/p/", "/p/x", "/p/x"]
    assert [join_prefix("/", rest) for rest in ("", "/", "/x")] == ["/", "/", "/x"]


# ------------------------------------------------------------------------------------------------------ the compile


def one_route(policies: PolicyPlan, **more: object) -> Plan:
    return Plan(
        binds=[BindPlan("b", 3000, listeners=[ListenerPlan("l", "g", routes=[0])])],
        routes=[RoutePlan("r", matches=[MatchPlan()], backends=[BackendRef(0)], policies=policies)],
        clusters=[ClusterPlan("c", host="a.example", port=80, authority="a.example")],
    )


def compiled(plan: Plan, generation: int = 1, labels: LabelIndex | None = None, previous: Snapshot | None = None) -> Snapshot:
    return compile_plan(plan, generation, labels or LabelIndex(Labels()), previous)


def large_plan(count: int) -> Plan:
    routes = [
        RoutePlan(
            f"r{i}",
            hostnames=[f"h{i % 7}.example", "*.wild.example"] if i % 3 else [],
            matches=[
                MatchPlan("prefix", f"/p{i}/"),
                MatchPlan("exact", f"/e{i}", "GET", [NamedPattern("x-a", Pattern("exact", "1"))], [NamedPattern("q", Pattern("regex", "[0-9]+"))]),
            ],
            backends=[BackendRef(i % 50)],
        )
        for i in range(count)
    ]
    return Plan(
        binds=[
            BindPlan("one", 3000, listeners=[ListenerPlan("l", "g", routes=list(range(count)))]),
            BindPlan("two", 3001, "127.0.0.1", listeners=[ListenerPlan("any", "g2", routes=[0, 1]), ListenerPlan("own", "g2", "Own.Example", routes=[2])]),
        ],
        routes=routes,
        clusters=[ClusterPlan(f"c{i}", host=f"b{i}.example", port=80, authority=f"b{i}.example") for i in range(100)],
    )


def described(snapshot: Snapshot) -> object:
    """Everything a snapshot decides, as plain values."""
    return [
        (
            key,
            bind.key,
            bind.label,
            bind.log_fields,
            [(m.prefix_len, m.route.name, m.route.label, m.route.labels, [c.cluster.plan for c in m.route.choices]) for m in bind.matches],
        )
        for key, bind in snapshot.binds.items()
    ]


def answers(snapshot: Snapshot) -> list[tuple[str, str, str, tuple[int, int]]]:
    found = []
    for bind in snapshot.binds.values():
        for host in ("h1.example", "x.wild.example", "own.example", "other"):
            for target in ("/p0/x", "/p1", "/p2/", "/e4?q=7", "/e4?q=x", "/p150/1", "/none"):
                head = f"GET {target} HTTP/1.1\r\nHost: {host}\r\nX-A: 1\r\n\r\n".encode()
                found.append((bind.key, host, target, bind.router.match_request(head)))
    return found


def test_in_steps_and_at_once_are_the_same() -> None:
    plan = large_plan(400)
    at_once = compiled(plan, 7)
    steps = compile_steps(plan, 7, LabelIndex(Labels()), None)
    count = 0
    try:
        while True:
            next(steps)
            count += 1
    except StopIteration as done:
        stepped: Snapshot = done.value
    assert count >= 400 // STEP
    assert described(stepped) == described(at_once)
    assert answers(stepped) == answers(at_once)
    assert stepped.generation == at_once.generation == 7
    assert stepped.clusters.keys() == at_once.clusters.keys()
    assert len({match for _, _, _, match in answers(at_once)}) > 5


def test_a_plan_that_crossed_a_process_border_compiles_to_the_same() -> None:
    plan = large_plan(50)
    copy = msgspec.msgpack.decode(msgspec.msgpack.encode(plan), type=Plan)
    assert copy == plan
    assert described(compiled(copy)) == described(compiled(plan))


def test_unchanged_clusters_are_carried_over() -> None:
    plan = large_plan(10)
    labels = LabelIndex(Labels())
    before = compiled(plan, 1, labels)
    changed = [msgspec.structs.replace(c, port=81) if i == 3 else c for i, c in enumerate(plan.clusters)]
    after = compiled(msgspec.structs.replace(plan, clusters=list(reversed(changed[1:]))), 2, labels, before)
    kept = before.clusters.keys() & after.clusters.keys()
    assert len(kept) == 98
    assert all(before.clusters[identity] is after.clusters[identity] for identity in kept)
    assert {c.plan.name for identity, c in before.clusters.items() if identity not in kept} == {"c0", "c3"}
    assert [c.plan.port for identity, c in after.clusters.items() if identity not in kept] == [81]
    used = {choice.cluster for match in after.binds[BindKey("", 3000)].matches for choice in match.route.choices}
    assert used <= set(after.clusters.values())


def test_equal_clusters_are_one() -> None:
    cluster = ClusterPlan("c", host="a.example", port=80)
    plan = Plan(
        binds=[BindPlan("b", 3000, listeners=[ListenerPlan("l", "g", routes=[0])])],
        routes=[RoutePlan("r", matches=[MatchPlan()], backends=[BackendRef(0, 1), BackendRef(1, 3), BackendRef(0, 0)])],
        clusters=[cluster, msgspec.structs.replace(cluster)],
    )
    snapshot = compiled(plan)
    assert len(snapshot.clusters) == 1
    route = snapshot.binds[BindKey("", 3000)].matches[0].route
    assert [c.weight for c in route.choices] == [1, 3, 0]
    assert route.total_weight == 4
    assert len({id(c.cluster) for c in route.choices}) == 1


def test_labels_only_grow() -> None:
    labels = LabelIndex(Labels())
    first = compiled(large_plan(20), 1, labels)
    before = list(labels.labels.routes), list(labels.labels.backends)
    second = compiled(large_plan(30), 2, labels, first)
    assert labels.labels.routes[: len(before[0])] == before[0]
    assert labels.labels.backends[: len(before[1])] == before[1]
    for snapshot in (first, second):
        for bind in snapshot.binds.values():
            for match in bind.matches:
                assert labels.labels.routes[match.route.label] == match.route.labels
    rebuilt = LabelIndex(msgspec.msgpack.decode(msgspec.msgpack.encode(labels.labels), type=Labels))
    assert rebuilt.route(labels.labels.routes[5]) == 5


def test_labels_beyond_the_arena_share_one_id() -> None:
    full = LabelIndex(Labels())
    full.labels.routes = [("", "", "", "", "")] * MAX_ROUTE_LABELS
    assert full.route(("a", "", "", "", "")) == full.route(("b", "", "", "", "")) == MAX_ROUTE_LABELS
    assert len(full.labels.routes) == MAX_ROUTE_LABELS


# -------------------------------------------------------------------------------------------------------- a choice


def choice_of(policies: PolicyPlan, cluster: ClusterPlan | None = None, own: PolicyPlan | None = None) -> tuple[object, ...]:
    plan = one_route(policies)
    plan = msgspec.structs.replace(
        plan,
        clusters=[cluster or plan.clusters[0]],
        routes=[msgspec.structs.replace(plan.routes[0], backends=[BackendRef(0, policies=own)])],
    )
    choice = compiled(plan).binds[BindKey("", 3000)].matches[0].route.choices[0]
    return choice.host, choice.host_mode, choice.host_part, choice.path, choice.path_prefix


def rewrite(**parts: object) -> PolicyPlan:
    return PolicyPlan(url_rewrite=RewritePlan(**parts))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("policies", "expected"),
    [
        (PolicyPlan(), (b"a.example", 0, b"", None, None)),
        (rewrite(), (b"a.example", 0, b"", None, None)),
        (rewrite(authority_mode="auto"), (b"a.example", 0, b"", None, None)),
        (rewrite(authority_mode="none"), (None, 0, b"", None, None)),
        (rewrite(authority_mode="full", authority="x:1"), (b"x:1", 0, b"", None, None)),
        (rewrite(authority_mode="host", authority="x"), (b"a.example", 1, b"x", None, None)),
        (rewrite(authority_mode="port", authority="1"), (b"a.example", 2, b"1", None, None)),
        (rewrite(path_full="/f"), (b"a.example", 0, b"", b"/f", None)),
        (rewrite(path_prefix="/p/"), (b"a.example", 0, b"", None, b"/p")),
        (rewrite(path_prefix="/"), (b"a.example", 0, b"", None, b"")),
        (PolicyPlan(request_headers=HeaderOps(set=[("host", "h")])), (b"h", 0, b"", None, None)),
    ],
)
def test_what_the_backend_sees(policies: PolicyPlan, expected: tuple[object, ...]) -> None:
    assert choice_of(policies) == expected
    # The backend's own policy wins over the route's.
    if policies.url_rewrite:
        assert choice_of(rewrite(authority_mode="full", authority="loses", path_full="/loses"), own=policies) == expected


def test_mcp_backends_have_a_path_of_their_own() -> None:
    mcp = ClusterPlan("c", "mcp", host="a", port=80, authority="a", path="/mcp")
    assert choice_of(PolicyPlan(), mcp)[3] == b"/mcp"
    assert choice_of(rewrite(path_full="/f"), mcp)[3] == b"/f"


def test_a_unix_backend_gets_the_clients_host() -> None:
    assert choice_of(PolicyPlan(), ClusterPlan("c", unix_path="/run/x"))[0] is None


def test_a_direct_response_has_a_type() -> None:
    assert direct(None) is None
    assert direct(DirectResponsePlan(204)) == (204, b"", b"")
    assert direct(DirectResponsePlan(200, "é")) == (200, "é".encode(), b"Content-Type: text/plain; charset=utf-8\r\n")
    assert direct(DirectResponsePlan(200, "{}", [("Content-Type", "application/json")])) == (200, b"{}", b"Content-Type: application/json\r\n")


def test_log_fragments_are_members() -> None:
    assert log_fragment("g", "l", "", "") == b',"gateway":"g","listener":"l"'
    assert msgspec.json.decode(b"{" + log_fragment('g"\n', "l\\", "é", "r")[1:] + b"}") == {
        "gateway": 'g"\n', "listener": "l\\", "route_rule": "é", "route": "r",
    }  # fmt: skip


def test_limits_that_contradict_each_other_do_not_compile() -> None:
    with pytest.raises(ValueError):
        compiled(Plan(http=HttpPlan(max_line_bytes=100_000)))
