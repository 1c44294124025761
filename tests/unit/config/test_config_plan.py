"""What a configuration means: names, attachment, matching, clusters, merged policies, warnings."""

from __future__ import annotations

import textwrap
from typing import Any

import msgspec
import pytest

from agw.config import ConfigErrors, Loaded, load_bytes, load_default
from agw.runtime.plan import (
    BackendRef,
    CorsPlan,
    DirectResponsePlan,
    HeaderOps,
    MatchPlan,
    NamedPattern,
    Pattern,
    Plan,
    PolicyPlan,
    RedirectPlan,
    RewritePlan,
)

GATEWAY = "gateways: {default: {port: 3000}}\n"


def load(text: str, environ: dict[str, str] | None = None) -> Loaded:
    return load_bytes(textwrap.dedent(text).encode(), "f.yaml", environ or {})


def plan(text: str) -> Plan:
    loaded = load(text)
    assert loaded.warnings == []
    return loaded.plan


def route(text: str) -> Any:
    """The only route of a file whose one route is `text`, a flow mapping without its braces."""
    (result,) = plan(f"{GATEWAY}routes: [{{{text}}}]\n").routes
    return result


def problems(text: str) -> list[str]:
    with pytest.raises(ConfigErrors) as caught:
        load(text)
    return [problem.text for problem in caught.value.problems]


def test_the_plan_survives_the_process_border() -> None:
    built = plan(GATEWAY + "routes: [{backends: [{host: 'a:1'}]}]")
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(built), type=Plan) == built


def test_names_and_defaults() -> None:
    built = plan("gateways: {default: {port: 3000, address: 127.0.0.1}}\nroutes: [{backends: [{host: 'a:8080'}]}]")
    (bind,) = built.binds
    assert (bind.name, bind.port, bind.address) == ("bind/3000", 3000, "127.0.0.1")
    (listener,) = bind.listeners
    assert (listener.name, listener.gateway, listener.hostname, listener.routes) == ("default", "default", "", [0])
    (only,) = built.routes
    assert (only.name, only.rule, only.hostnames, only.matches) == ("route0", "", [], [MatchPlan("prefix", "/")])
    assert only.backends == [BackendRef(0, 1, None)]
    (cluster,) = built.clusters
    assert (cluster.name, cluster.kind, cluster.authority) == ("a:8080", "host", "a:8080")
    assert cluster.response_timeout_ns == 60_000_000_000
    assert built.demo is False


def test_matches() -> None:
    result = route(
        "hostnames: [A.example, '*.B.example'], matches: [{path: {exact: /a}, method: GET, headers: ["
        "{name: X-A, value: {exact: '1'}}, {name: ':authority', value: {regex: 'a.*'}}],"
        " query: [{name: Q, value: {exact: ''}}]}, {path: {regex: '/b+'}}, {}], backends: [{host: 'a:1'}]"
    )
    assert result.hostnames == ["a.example", "*.b.example"]
    assert result.matches == [
        MatchPlan(
            "exact",
            "/a",
            "GET",
            [NamedPattern("x-a", Pattern("exact", "1")), NamedPattern(":authority", Pattern("regex", "a.*"))],
            [NamedPattern("Q", Pattern("exact", ""))],
        ),
        MatchPlan("regex", "/b+"),
        MatchPlan("prefix", "/"),
    ]


def test_a_star_among_the_hostnames_is_any_name() -> None:
    assert route("hostnames: [a.example, '*'], backends: [{host: 'a:1'}]").hostnames == []


def test_every_policy_reaches_the_plan() -> None:
    policies = route(
        """policies: {
        requestHeaderModifier: {add: {X-A: a}, set: {x-b: ' b '}, remove: [X-C]},
        responseHeaderModifier: {set: {x-d: d}},
        urlRewrite: {authority: {port: 8080}, path: {prefix: /p}},
        requestRedirect: {scheme: https, authority: {full: 'a.example:8443'}, path: {full: /f}, status: 301},
        directResponse: {status: 503, body: sorry, headers: {retry-after: "'5'"}},
        cors: {allowOrigins: ['*'], allowMethods: [GET], allowHeaders: [a], exposeHeaders: [b], maxAge: 1m30s},
        timeout: {requestTimeout: 2s, backendRequestTimeout: 1s}}"""
    ).policies
    assert policies == PolicyPlan(
        cors=CorsPlan(["*"], ["GET"], ["a"], ["b"], False, 90),
        request_headers=HeaderOps(["x-c"], [("x-b", "b")], [("x-a", "a")]),
        response_headers=HeaderOps([], [("x-d", "d")], []),
        url_rewrite=RewritePlan("port", "8080", None, "/p"),
        request_redirect=RedirectPlan("https", "full", "a.example:8443", "/f", None, 301),
        direct_response=DirectResponsePlan(503, "sorry", [("retry-after", "5")]),
        request_timeout_ns=2_000_000_000,
        backend_timeout_ns=1_000_000_000,
    )


@pytest.mark.parametrize(
    ("text", "mode", "authority"),
    [
        ("{}", "unset", ""),
        ("{authority: auto}", "auto", ""),
        ("{authority: none}", "none", ""),
        ("{authority: {host: A}}", "host", "a"),
        ("{authority: {full: 'a:1'}}", "full", "a:1"),
    ],
)
def test_rewrite_of_the_authority(text: str, mode: str, authority: str) -> None:
    rewrite = route(f"policies: {{urlRewrite: {text}}}, backends: [{{host: 'a:1'}}]").policies.url_rewrite
    assert (rewrite.authority_mode, rewrite.authority) == (mode, authority)


def test_a_body_may_be_octets() -> None:
    assert route("policies: {directResponse: {status: 200, body: [104, 105]}}").policies.direct_response.body == "hi"


def test_attachment_by_name_list_and_listener() -> None:
    built = plan(
        """
        gateways:
          default: {port: 1, listeners: [{name: web, hostname: a.example}, {hostname: b.example}]}
          other: {port: 2}
        routes:
        - {name: r0, backends: [{host: 'x:1'}]}
        - {name: r1, gateways: other, backends: [{host: 'x:1'}]}
        - {name: r2, gateways: [default/web, other], matches: [{path: {pathPrefix: /r}}], backends: [{host: 'x:1'}]}
        - {name: r3, gateways: default/listener1, matches: [{path: {exact: /}}], backends: [{host: 'x:1'}]}
        """
    )
    names = {
        (listener.gateway, listener.name): [built.routes[index].name for index in listener.routes]
        for bind in built.binds
        for listener in bind.listeners
    }
    assert names == {
        ("default", "web"): ["r0", "r2"],
        ("default", "listener1"): ["r0", "r3"],
        ("other", "default"): ["r1", "r2"],
    }
    assert len(built.routes) == 4
    assert len(built.clusters) == 1


def test_the_older_form_nests_routes() -> None:
    built = plan(
        """
        binds:
        - port: 3000
          listeners:
          - hostname: a.example
            routes: [{backends: [{host: 'a:1'}]}]
          - name: b
            policies: {cors: {allowOrigins: ['*']}}
            routes: [{name: x, backends: [{host: 'b:1'}]}]
        """
    )
    first, second = built.binds[0].listeners
    assert (first.name, first.gateway, first.hostname) == ("listener0", "default", "a.example")
    assert (second.name, second.hostname) == ("b", "")
    assert [built.routes[index].name for index in first.routes + second.routes] == ["route0", "x"]
    assert built.routes[0].policies.cors is None
    assert built.routes[1].policies.cors == CorsPlan(["*"])


def test_policies_merge_with_the_most_specific_winning_as_a_whole() -> None:
    built = plan(
        """
        gateways:
          default:
            port: 1
            cors: {allowOrigins: ['https://gateway.example'], allowMethods: [GET]}
            listeners:
            - {name: a, hostname: a.example}
            - {name: b, hostname: b.example, cors: {allowOrigins: ['https://listener.example']}}
        policies:
        - name: {name: p1}
          target: {gateway: {gatewayName: default}}
          policy: {timeout: {requestTimeout: 1s}, cors: {}}
        - name: {name: p2}
          target: {gateway: {gatewayName: default, listenerName: b}}
          policy: {timeout: {requestTimeout: 2s}}
        - name: {name: p3}
          target: {route: {name: two}}
          policy: {timeout: {requestTimeout: 3s}, requestHeaderModifier: {remove: [x]}}
        - name: {name: p4}
          target: {route: {name: two, ruleName: r}}
          policy: {timeout: {requestTimeout: 4s}}
        - name: {name: p5}
          target: {route: {name: two}}
          policy: {requestHeaderModifier: {remove: [y]}}
        routes:
        - name: one
          backends: [{host: 'x:1'}]
        - name: two
          ruleName: r
          matches: [{path: {exact: /2}}]
          policies: {cors: {allowOrigins: ['*']}}
          backends: [{host: 'x:1'}]
        - name: two
          ruleName: s
          matches: [{path: {exact: /3}}]
          policies: {timeout: {backendRequestTimeout: 5s}}
          backends: [{host: 'x:1'}]
        """
    )
    on_a, on_b = ([built.routes[index] for index in listener.routes] for listener in built.binds[0].listeners)
    second = 1_000_000_000
    assert [item.policies.request_timeout_ns // second for item in on_a] == [1, 4, 0]
    assert [item.policies.request_timeout_ns // second for item in on_b] == [2, 4, 0]
    assert on_a[2].policies.backend_timeout_ns == 5 * second
    assert on_a[0].policies.cors == CorsPlan(["https://gateway.example"], ["GET"])
    assert on_b[0].policies.cors == CorsPlan(["https://listener.example"])
    assert on_a[1].policies.cors == on_b[1].policies.cors == CorsPlan(["*"])
    assert on_a[1].policies.request_headers == HeaderOps(["y"])
    assert on_a[1] is on_b[1]
    assert on_a[0] is not on_b[0]


def test_backend_policies_merge_from_the_named_backend_to_the_reference() -> None:
    built = plan(
        GATEWAY
        + textwrap.dedent("""
        backends:
        - name: orders
          host: http://orders
          policies: {requestHeaderModifier: {set: {x: named}}, responseHeaderModifier: {set: {x: named}}}
        policies:
        - name: {name: p}
          target: {backend: {backend: {name: orders}}}
          policy: {requestHeaderModifier: {set: {x: attached}}, requestRedirect: {status: 307}}
        routes:
        - backends: [{backend: orders, weight: 3, policies: {responseHeaderModifier: {set: {x: own}}}}]
        """)
    )
    (backend,) = built.routes[0].backends
    assert (built.clusters[backend.cluster].name, backend.weight) == ("orders", 3)
    assert backend.policies == PolicyPlan(
        request_headers=HeaderOps([], [("x", "named")]),
        response_headers=HeaderOps([], [("x", "own")]),
        request_redirect=RedirectPlan(status=307),
    )


def test_equal_upstreams_share_a_cluster_and_named_ones_do_not() -> None:
    built = plan(
        GATEWAY + "backends: [{name: n, host: 'a:80'}]\n"
        "routes: [{backends: [{host: 'a:80'}, {host: 'http://a'}, {backend: n}, {host: 'b:80'}]}]"
    )
    assert [cluster.name for cluster in built.clusters] == ["n", "a:80", "b:80"]
    assert [backend.cluster for backend in built.routes[0].backends] == [1, 1, 0, 2]


@pytest.mark.parametrize(
    ("endpoint", "expected"),
    [
        ("{host: 'http://a:9000/x'}", ("a", 9000, "", "a:9000", "/x")),
        ("{host: 'http://a'}", ("a", 80, "", "a", "/mcp")),
        ("{host: 'http://a/'}", ("a", 80, "", "a", "/mcp")),
        ("{host: 'a:9000'}", ("a", 9000, "", "a:9000", "/mcp")),
        ("{host: 'a:9000', path: /y}", ("a", 9000, "", "a:9000", "/y")),
        ("{host: a, port: 80, path: /y}", ("a", 80, "", "a", "/y")),
        ("{host: '[::1]', port: 81}", ("::1", 81, "", "[::1]:81", "/mcp")),
        ("{host: 'unix:/run/s'}", ("", 0, "/run/s", "localhost", "/mcp")),
        ("{host: 'unix:@s', path: /y}", ("", 0, "@s", "localhost", "/y")),
        ("{backend: named, path: /z}", ("named.example", 81, "", "named.example:81", "/z")),
    ],
)
def test_mcp_targets(endpoint: str, expected: tuple[Any, ...]) -> None:
    built = plan(
        GATEWAY + "backends: [{name: named, host: 'named.example:81'}]\n"
        f"routes: [{{backends: [{{mcp: {{targets: [{{name: t, mcp: {endpoint}}}]}}}}]}}]"
    )
    cluster = built.clusters[-1]
    assert (cluster.host, cluster.port, cluster.unix_path, cluster.authority, cluster.path) == expected
    assert (cluster.kind, cluster.name, cluster.target) == ("mcp", "t", "t")
    assert cluster.response_timeout_ns == 600_000_000_000


def test_a_named_mcp_backend_keeps_its_name() -> None:
    built = plan(
        GATEWAY + "backends: [{name: tools, mcp: {prefixMode: never, failureMode: failClosed, statefulMode: stateful,"
        " targets: [{name: t, mcp: {host: 'a:1'}, policies: {requestHeaderModifier: {set: {x: y}}}}]}}]\n"
        "routes: [{backends: [{backend: tools}]}]"
    )
    assert [(cluster.name, cluster.target) for cluster in built.clusters] == [("tools", "t")]
    assert built.routes[0].backends[0].policies == PolicyPlan(request_headers=HeaderOps([], [("x", "y")]))


def test_the_mcp_block_serves_exactly_its_paths() -> None:
    built = plan(GATEWAY + "mcp: {targets: [{name: t, mcp: {host: 'a:1'}}], policies: {timeout: {requestTimeout: 1s}}}")
    (only,) = built.routes
    assert (only.name, only.matches) == ("mcp", [MatchPlan("exact", "/mcp"), MatchPlan("exact", "/sse")])
    assert only.policies.request_timeout_ns == 1_000_000_000
    assert built.binds[0].listeners[0].routes == [0]


def test_the_mcp_block_may_have_a_port_or_gateways() -> None:
    target = "targets: [{name: t, mcp: {host: 'a:1'}}]"
    built = plan(f"mcp: {{port: 3000, {target}}}")
    assert (built.binds[0].port, built.binds[0].listeners[0].gateway) == (3000, "mcp")
    built = plan(f"gateways: {{g: {{port: 1, listeners: [{{name: l}}]}}}}\nmcp: {{gateways: g/l, {target}}}")
    assert built.binds[0].listeners[0].routes == [0]
    assert "no gateway to serve it on" in problems(f"mcp: {{{target}}}")[0]


def test_the_default_is_the_demo_on_the_loopback() -> None:
    built = load_default("@agw-demo-7", {}).plan
    assert built.demo is True
    assert (built.binds[0].address, built.binds[0].port) == ("127.0.0.1", 3000)
    assert built.routes[0].matches == [MatchPlan("exact", "/mcp"), MatchPlan("exact", "/sse")]
    (cluster,) = built.clusters
    assert (cluster.kind, cluster.target, cluster.unix_path) == ("mcp", "demo", "@agw-demo-7")
    assert built.access_log.enabled
    assert built.access_log.path == ""


def warnings(text: str) -> list[tuple[str, str]]:
    return [(problem.path, problem.text) for problem in load(text).warnings]


def test_warnings() -> None:
    found = warnings(
        GATEWAY
        + textwrap.dedent("""
        routes:
        - {name: a, hostnames: [x.example], backends: [{host: 'a:1'}]}
        - {name: b, hostnames: [X.example], matches: [{path: {exact: /}}, {}], backends: [{host: 'a:1'}]}
        - {name: c, hostnames: [x.example, y.example], backends: [{host: 'a:1'}]}
        - {name: d}
        - {name: e, matches: [{path: {exact: /e}}], backends: [{host: 'a:1', weight: 0}]}
        - name: f
          matches: [{path: {exact: /f}}]
          policies: {cors: {allowOrigins: ['*'], allowCredentials: true}}
          backends: [{host: 'a:1'}]
        """)
    )
    assert [path for path, _ in found] == [
        "routes[1].matches[1]",
        "routes[3]",
        "routes[4].backends",
        "routes[5].policies.cors.allowCredentials",
    ]
    assert "the same match as routes[0]" in found[0][1]


def test_hidden_listeners_and_routes_without_a_listener_are_warned_about() -> None:
    found = warnings(
        """
        gateways:
          default: {port: 1, listeners: [{name: a, hostname: '*.a.example'}, {name: b, hostname: '*.A.example'}]}
        routes: [{name: r, hostnames: [b.example], backends: [{host: 'a:1'}]}]
        """
    )
    assert [path for path, _ in found] == ["gateways.default.listeners[1]", "routes[0].hostnames"]
    assert warnings("{}") == [("(top level)", "nothing is served; add a gateway with a port, and routes or mcp")]


@pytest.mark.parametrize(
    ("listener", "hostname", "meets"),
    [
        ("*.a.example", "x.a.example", True),
        ("*.a.example", "a.example", False),
        ("*.a.example", "*.x.a.example", True),
        ("*.x.a.example", "*.a.example", True),
        ("x.a.example", "*.a.example", True),
        ("a.example", "*.a.example", False),
        ("*.a.example", "*.b.example", False),
        ("a.example", "b.example", False),
    ],
)
def test_hostnames_meet(listener: str, hostname: str, meets: bool) -> None:
    text = f"""
    gateways: {{default: {{port: 1, listeners: [{{hostname: '{listener}'}}]}}}}
    routes: [{{hostnames: ['{hostname}'], backends: [{{host: 'a:1'}}]}}]
    """
    assert bool(load(text).plan.binds[0].listeners[0].routes) is meets
