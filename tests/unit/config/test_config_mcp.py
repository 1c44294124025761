"""MCP backends of the file as MCP backends of the plan: targets, options, names, virtual servers, documents."""

from __future__ import annotations

import json
import textwrap
from pathlib import Path
from typing import Any

import msgspec
import pytest

from agw.config import ConfigErrors, Loaded, load_bytes, load_file
from agw.runtime.plan import (
    BackendRef,
    HeaderOps,
    MatchPlan,
    McpPlan,
    McpTargetPlan,
    OpenApiPlan,
    Plan,
    PolicyPlan,
    StdioPlan,
    VirtualServerPlan,
    VirtualToolPlan,
)

GATEWAY = "gateways: {default: {port: 3000}}\n"
SECOND = 1_000_000_000


def load(text: str) -> Loaded:
    return load_bytes((GATEWAY + textwrap.dedent(text)).encode(), "f.yaml", {})


def plan(text: str) -> Plan:
    loaded = load(text)
    assert loaded.warnings == []
    return loaded.plan


def backend(options: str) -> McpPlan:
    """The only MCP backend of a file whose `mcp` block is a flow mapping without its braces."""
    (only,) = plan(f"mcp: {{{options}}}").mcp
    return only


def target(text: str) -> McpTargetPlan:
    return backend(f"targets: [{{name: t, {text}}}]").targets[0]


def problems(text: str) -> list[str]:
    with pytest.raises(ConfigErrors) as caught:
        load(text)
    return [problem.text for problem in caught.value.problems]


def warnings(text: str) -> list[tuple[str, str]]:
    return [(problem.path, problem.text) for problem in load(text).warnings]


def test_nothing_given_is_the_default_of_the_plan() -> None:
    built = plan("mcp: {targets: [{name: t, mcp: {host: 'a:1'}}]}")
    assert built.mcp == [McpPlan("t", [McpTargetPlan("t", "http", 0)], "mcp")]
    assert built.routes[0].backends == [BackendRef(0, 1, None, 0)]
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(built), type=Plan) == built


def test_every_option_of_a_backend_reaches_the_plan() -> None:
    built = backend(
        """targets: [{name: t, stdio: {cmd: x}}], prefixMode: always, separator: __, statefulMode: stateless, failureMode: failOpen,
        dnsRebindingProtection: true, allowedHosts: [A.example, 'b.example:8443', 'C.example:*', '*'],
        allowedOrigins: ['https://A.example', 'http://b.example:*', 'vscode-webview://X', 'null', '*'], catalogueTtl: 0s, pageSize: 7,
        instructions: be kind, replayEvents: 1, replayBytes: 2,
        maxSessions: 3, fanoutTimeout: 4s"""
    )
    assert built == McpPlan(
        "t",
        [McpTargetPlan("t", "stdio", deadline_ns=4 * SECOND, stdio=StdioPlan("x"))],
        "mcp",
        prefix_mode="always",
        separator="__",
        stateful=False,
        fail_open=True,
        guard="on",
        allowed_hosts=["a.example", "b.example:8443", "c.example:*", "*"],
        allowed_origins=["https://a.example", "http://b.example:*", "vscode-webview://X", "null", "*"],
        catalogue_ttl_ns=0,
        page_size=7,
        instructions="be kind",
        replay_events=1,
        replay_bytes=2,
        max_sessions=3,
    )
    assert backend("targets: [{name: t, stdio: {cmd: x}}], dnsRebindingProtection: false").guard == "off"


def test_the_session_ttl_is_that_of_the_process() -> None:
    (only,) = plan("config: {mcp: {sessionTtl: 90s}}\nmcp: {targets: [{name: t, stdio: {cmd: x}}]}").mcp
    assert only.session_ttl_ns == 90 * SECOND


def test_every_option_of_a_target_reaches_the_plan() -> None:
    built = target(
        """mcp: {host: 'a:1'}, forwardHeaders: [Authorization, X-Tenant], timeout: 1s, timeouts: {tools/call: 120s, ping: 2s},
        fanoutTimeout: 3s, protocolEra: modern, policies: {requestHeaderModifier: {set: {X-A: a}}}"""
    )
    assert built == McpTargetPlan(
        "t",
        "http",
        0,
        HeaderOps([], [("x-a", "a")]),
        ["authorization", "x-tenant"],
        SECOND,
        {"tools/call": 120 * SECOND, "ping": 2 * SECOND},
        3 * SECOND,
        era="modern",
    )


def test_a_program() -> None:
    built = target(
        "stdio: {cmd: npx, args: [-y, x], env: {A: b}, clear_env: true, cwd: /srv, sharing: shared, maxProcesses: 2, idleTimeout: 3s, stopGrace: 4s}"
    )
    assert built.kind == "stdio"
    assert built.cluster == -1
    assert built.stdio == StdioPlan("npx", ["-y", "x"], {"A": "b"}, True, "/srv", "shared", 2, 3 * SECOND, 4 * SECOND)
    assert plan("mcp: {targets: [{name: t, stdio: {cmd: x}}]}").routes[0].backends == [BackendRef(-1, 1, None, 0)]


@pytest.mark.parametrize(
    ("endpoint", "expected"),
    [
        ("{host: 'http://a'}", ("a", 80, "a", "/sse", False)),
        ("{host: 'http://a/events'}", ("a", 80, "a", "/events", False)),
        ("{host: 'https://a/events'}", ("a", 443, "a", "/events", True)),
        ("{host: a, port: 81, path: /x}", ("a", 81, "a:81", "/x", False)),
        ("{backend: named}", ("named", 80, "named", "/sse", False)),
        ("{backend: named, path: /y}", ("named", 80, "named", "/y", False)),
    ],
)
def test_the_older_transport(endpoint: str, expected: tuple[Any, ...]) -> None:
    built = plan(f"backends: [{{name: named, host: 'named:80'}}]\nmcp: {{targets: [{{name: t, sse: {endpoint}}}]}}")
    (only,) = built.mcp[0].targets
    cluster = built.clusters[only.cluster]
    assert only.kind == "sse"
    assert (cluster.kind, cluster.target) == ("mcp", "t")
    assert (cluster.host, cluster.port, cluster.authority, cluster.path, cluster.tls is not None) == expected
    assert built.routes[0].backends[0].cluster == -1, "the cluster of a reference is that of a streamable HTTP target"


# -------------------------------------------------------------------------------------------------- several targets


def test_several_targets_have_a_cluster_each_and_the_first_http_one_is_the_reference() -> None:
    built = plan(
        """
        routes:
        - name: tools
          backends:
          - mcp:
              targets:
              - {name: a, stdio: {cmd: x}}
              - {name: b, sse: {host: 'b:1'}}
              - {name: c, mcp: {host: 'c:1'}, policies: {requestHeaderModifier: {set: {x: c}}}}
              - {name: d, mcp: {host: 'd:1'}}
            policies: {requestHeaderModifier: {set: {x: all}}, responseHeaderModifier: {remove: [y]}}
        """
    )
    (only,) = built.mcp
    assert only.name == "tools"
    assert [(item.name, item.kind, item.cluster) for item in only.targets] == [("a", "stdio", -1), ("b", "sse", 0), ("c", "http", 1), ("d", "http", 2)]
    assert [(item.name, item.target, item.host) for item in built.clusters] == [("tools", "b", "b"), ("tools", "c", "c"), ("tools", "d", "d")]
    everywhere, special = HeaderOps([], [("x", "all")]), HeaderOps([], [("x", "c")])
    assert [item.headers for item in only.targets] == [None, everywhere, special, everywhere]
    policies = PolicyPlan(request_headers=special, response_headers=HeaderOps(["y"]))
    assert built.routes[0].backends == [BackendRef(1, 1, policies, 0)]


def test_the_target_wins_over_the_reference_and_that_over_the_named_backend() -> None:
    built = plan(
        """
        backends:
        - name: api
          host: api:80
          policies: {requestHeaderModifier: {set: {x: api}}}
        - name: tools
          policies: {requestHeaderModifier: {set: {x: tools}}}
          mcp:
            targets:
            - {name: plain, mcp: {host: 'a:1'}}
            - {name: own, mcp: {host: 'b:1'}, policies: {requestHeaderModifier: {set: {x: own}}}}
            - {name: referring, mcp: {backend: api}}
            - {name: both, mcp: {backend: api, path: /b}, policies: {requestHeaderModifier: {set: {x: both}}}}
        routes:
        - backends: [{backend: tools}]
        - matches: [{path: {exact: /2}}]
          backends: [{backend: tools, policies: {requestHeaderModifier: {set: {x: reference}}}}]
        """
    )
    first, second = built.mcp
    headers = [[dict(item.headers.set)["x"] for item in only.targets if item.headers] for only in (first, second)]
    assert headers == [["tools", "own", "api", "both"], ["reference", "own", "api", "both"]]
    assert (first.name, second.name) == ("tools", "tools-2")
    assert [route.backends[0].mcp for route in built.routes] == [0, 1]
    assert [item.cluster for item in first.targets] == [item.cluster for item in second.targets]


def test_backends_that_mean_the_same_are_one_and_others_never_share_a_name() -> None:
    built = plan(
        """
        backends:
        - {name: n, mcp: {targets: [{name: t, mcp: {host: 'a:1'}}]}}
        routes:
        - {backends: [{backend: n}, {backend: n, weight: 5}]}
        - {matches: [{path: {exact: /1}}], backends: [{mcp: {targets: [{name: n, mcp: {host: 'a:1'}}]}}]}
        - {matches: [{path: {exact: /2}}], backends: [{mcp: {targets: [{name: n, mcp: {host: 'b:1'}}]}}]}
        - {matches: [{path: {exact: /3}}], backends: [{mcp: {targets: [{name: n, mcp: {host: 'b:1'}}]}}]}
        """
    )
    assert [item.name for item in built.mcp] == ["n", "n-2", "n-3"]
    assert [[(item.mcp, item.weight) for item in route.backends] for route in built.routes] == [[(0, 1), (0, 5)], [(1, 1)], [(2, 1)], [(2, 1)]]


def test_the_block_with_several_targets_is_named_mcp() -> None:
    assert backend("targets: [{name: a, stdio: {cmd: x}}, {name: b, stdio: {cmd: x}}]").name == "mcp"


# ------------------------------------------------------------------------------------------------- virtual servers

VIRTUAL = """virtualServers: [{name: v, tools: [{target: a, tool: t}, {target: a, tool: u, name: w, title: W, description: ''}]}]"""


def test_virtual_servers_have_paths_below_the_block() -> None:
    built = plan(f"mcp: {{targets: [{{name: a, stdio: {{cmd: x}}}}], {VIRTUAL}}}")
    tools = [VirtualToolPlan("a", "t"), VirtualToolPlan("a", "u", "w", "W", "")]
    assert built.mcp[0].virtual_servers == [VirtualServerPlan("v", tools)]
    assert built.routes[0].matches == [MatchPlan("exact", "/mcp"), MatchPlan("exact", "/sse"), MatchPlan("exact", "/mcp/v")]


def test_a_route_that_does_not_lead_to_a_virtual_server_is_warned_about() -> None:
    def route(matches: str) -> str:
        return f"routes: [{{matches: [{matches}], backends: [{{mcp: {{targets: [{{name: a, stdio: {{cmd: x}}}}], {VIRTUAL}}}}}]}}]"

    assert warnings(route("{path: {exact: /m}}"))[0][0] == "routes[0].matches"
    assert warnings(route("{path: {exact: /m}}, {path: {exact: /m/v}}")) == []
    assert warnings(route("{path: {pathPrefix: /m}}")) == []


def test_lists_of_a_guard_that_is_off_are_warned_about() -> None:
    text = "mcp: {targets: [{name: a, stdio: {cmd: x}}], dnsRebindingProtection: false, allowedHosts: [a.example]}"
    assert [path for path, _ in warnings(text)] == ["mcp.dnsRebindingProtection"]


# ------------------------------------------------------------------------------------------------ OpenAPI documents

DOCUMENT = "openapi: 3.1\ninfo: {title: x, version: '1'}\npaths:\n  /a:\n    get:\n      responses: {200: {$ref: '#/x'}}\n"
AS_JSON = {"openapi": "3.1", "info": {"title": "x", "version": "1"}, "paths": {"/a": {"get": {"responses": {"200": {"$ref": "#/x"}}}}}}


def openapi(schema: str, where: str = "host: 'a:1'") -> tuple[OpenApiPlan, Plan]:
    built = plan(f"mcp: {{targets: [{{name: t, openapi: {{schema: {schema}, {where}}}}}]}}")
    only = built.mcp[0].targets[0].openapi
    assert only is not None
    return only, built


def test_a_document_in_the_file_is_kept_as_json() -> None:
    """Also: `$ref` in it is no reference to the environment."""
    found, built = openapi(json.dumps(DOCUMENT))
    assert json.loads(found.schema) == AS_JSON
    assert (built.clusters[0].kind, built.clusters[0].path, built.clusters[0].target) == ("host", "", "t")
    assert built.mcp[0].targets[0].kind == "openapi"
    assert built.routes[0].backends[0].cluster == -1
    assert json.loads(openapi(json.dumps(json.dumps(AS_JSON)))[0].schema) == AS_JSON


def test_a_reference_may_bring_the_document_in(tmp_path: Path) -> None:
    (tmp_path / "api.yaml").write_text(DOCUMENT)
    (tmp_path / "agw.yaml").write_text(f"{GATEWAY}mcp: {{targets: [{{name: t, openapi: {{schema: '${{file:api.yaml}}', host: 'a:1'}}}}]}}")
    found = load_file(tmp_path / "agw.yaml", {}).plan.mcp[0].targets[0].openapi
    assert found is not None
    assert json.loads(found.schema) == AS_JSON


def test_a_file_is_looked_for_in_the_working_directory_and_then_beside_the_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def title() -> str:
        found = load_file(tmp_path / "config" / "agw.yaml", {}).plan.mcp[0].targets[0].openapi
        assert found is not None
        return str(json.loads(found.schema)["info"]["title"])

    for folder in ("config", "work"):
        (tmp_path / folder / "api").mkdir(parents=True)
    (tmp_path / "config" / "agw.yaml").write_text(
        f"{GATEWAY}mcp: {{targets: [{{name: t, openapi: {{schema: {{file: api/api.yaml}}, host: 'a:1'}}}}]}}"
    )
    monkeypatch.chdir(tmp_path / "work")
    with pytest.raises(ConfigErrors) as caught:
        title()
    assert f'cannot read "api/api.yaml" (nor "{tmp_path}/config/api/api.yaml"): No such file' in str(caught.value)
    (tmp_path / "config" / "api" / "api.yaml").write_text(DOCUMENT.replace("title: x", "title: beside"))
    assert title() == "beside"
    (tmp_path / "work" / "api" / "api.yaml").write_text(DOCUMENT.replace("title: x", "title: working"))
    assert title() == "working"


@pytest.mark.parametrize(
    ("where", "prefix"),
    [("host: 'http://a'", ""), ("host: 'http://a/v1'", "/v1"), ("host: 'a:1', path: /v2", "/v2"), ("host: 'a:1', path: /", "")],
)
def test_the_path_of_an_api_goes_before_its_operations(where: str, prefix: str) -> None:
    assert openapi(json.dumps(DOCUMENT), where)[0].prefix_path == prefix


def test_a_document_from_a_url_is_fetched_later() -> None:
    """From its own host, from that of the API with the API's own TLS, or from a path of the API."""
    found, built = openapi("{url: 'https://d.example/openapi.json?x=1'}", "host: 'a:1', refreshInterval: 1h")
    assert found == OpenApiPlan(url="https://d.example/openapi.json?x=1", refresh_ns=3600 * SECOND, url_cluster=1)
    assert [(item.host, item.port, item.tls is not None) for item in built.clusters] == [("a", 1, False), ("d.example", 443, True)]
    found, built = openapi("{url: 'https://a/x'}", "host: 'https://a/v1'}, policies: {backendTLS: {hostname: b}")
    assert (found.url_cluster, len(built.clusters)) == (0, 1)
    assert openapi("{url: 'http://a?x'}", "host: 'https://a'")[0].url_cluster == 1
    assert openapi("{url: /openapi.json}")[0] == OpenApiPlan(url="/openapi.json")


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"\xff\xfe", "not UTF-8 text; save it as UTF-8"),
        (b"a: 1\na: 2\nopenapi: 3.0.0\npaths: {}", "line 2.: the key `a` was already given"),
        (b"openapi: 3.0.0\npaths: []", "has no `paths`"),
        (b'{"openapi": "3.0.0", "paths": {}, "x": ' + b"[" * 5000 + b"]" * 5000 + b"}", "neither JSON nor YAML.*nested deeper"),
        (b"&a [*a]", "contains itself"),
        (b"", "no OpenAPI document"),
        (b"[" * 100_000, "neither JSON nor YAML"),
    ],
)
def test_documents_that_are_none(tmp_path: Path, content: bytes, match: str) -> None:
    (tmp_path / "api.yaml").write_bytes(content)
    text = f"mcp: {{targets: [{{name: t, openapi: {{schema: {{file: {tmp_path}/api.yaml}}, host: 'a:1'}}}}]}}"
    with pytest.raises(ConfigErrors, match=match):
        load(text)


def test_only_regular_files_within_the_limit_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "mcp: {{targets: [{{name: t, openapi: {{schema: {{file: {file}}}, host: 'a:1'}}}}]}}"
    assert "no regular file" in problems(text.format(file="/dev/zero"))[0]
    monkeypatch.setattr("agw.config.files.MAX_FILE_BYTES", 1 << 20)
    (tmp_path / "large").write_bytes(b" " * ((1 << 20) + 1))
    assert "larger than 1 MiB" in problems(text.format(file=tmp_path / "large"))[0]


# --------------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize("name", ["a", "a1", "a-b.c", "0", "a" * 253])
def test_names_of_targets(name: str) -> None:
    assert backend(f"targets: [{{name: '{name}', stdio: {{cmd: x}}}}]").targets[0].name == name


@pytest.mark.parametrize("name", ["", "A", "a_b", "a+b", "-a", "a-", ".a", "a" * 254, "ä"])
def test_names_that_no_target_may_have(name: str) -> None:
    assert "no usable name" in problems(f"mcp: {{targets: [{{name: '{name}', stdio: {{cmd: x}}}}]}}")[0]


@pytest.mark.parametrize("separator", ["_", "__", ".", "-", "._."])
def test_separators(separator: str) -> None:
    assert backend(f"targets: [{{name: a, stdio: {{cmd: x}}}}], separator: '{separator}'").separator == separator


@pytest.mark.parametrize("separator", ["", "a", "a_", "_" * 9, "+", "/", ":"])
def test_what_cannot_separate(separator: str) -> None:
    assert "cannot separate" in problems(f"mcp: {{targets: [{{name: a, stdio: {{cmd: x}}}}], separator: '{separator}'}}")[0]


def named(names: list[str], options: str) -> str:
    return f"mcp: {{targets: [{', '.join(f'{{name: {name}, stdio: {{cmd: x}}}}' for name in names)}], {options}}}"


def test_no_tool_name_has_two_readings() -> None:
    """With the separator `-` the tool `time-zone-now` could be `now` of time-zone or `zone-now` of time."""
    found = problems(named(["time", "time-zone"], "separator: '-'"))
    assert found == ['with the separator "-" its tools could be those of "time"; rename it, or set `separator: __`']
    assert plan(named(["time", "time-zone"], "separator: __"))
    assert plan(named(["time", "timezone"], "separator: '-'"))
    assert plan(named(["time", "time-zone"], "separator: '-', prefixMode: never"))


def test_prefixes_leave_room_for_the_name() -> None:
    assert "leaves no room" in problems(named(["a" * 127], "prefixMode: always"))[0]
    assert warnings(named(["a" * 63], "prefixMode: always"))[0][0] == "mcp.targets[0].name"
    assert plan(named(["a" * 62], "prefixMode: always"))
    assert plan(named(["a" * 200], ""))
