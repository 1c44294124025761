"""What the metrics and the access log say of MCP requests, on the compiled path and on the service's alike.

`mcp_upstream_duration_seconds` counts what the service carries; a call that it does not count went the compiled way.
"""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.mcp.conftest import configuration, http_target, route, stdio_target
from tests.kits.gateway import Gateway, Metrics, wait_until
from tests.peers.mcp_client import Endpoint, Session, Stream, initialize
from tests.peers.mcp_script import MODERN, Exchange, Offer
from tests.peers.mcp_server import McpServer

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
OTHER = "00-11111111111111111111111111111111-2222222222222222-00"


async def fails(x: Exchange) -> None:
    """A tool that ran into trouble."""
    await x.result({"content": [{"type": "text", "text": "disk full"}], "isError": True})


async def unknown(x: Exchange) -> None:
    """What SDKs say of tools they do not have."""
    await x.result({"content": [{"type": "text", "text": "Unknown tool: " + x.params["name"]}], "isError": True})


async def refuses(x: Exchange) -> None:
    """The protocol's own error."""
    await x.error(-32602, "Unknown tool")


class Site:
    """A gateway with an access log before three servers: a, b (legacy) and m (modern), and a program."""

    def __init__(self, directory: Path, a: McpServer, b: McpServer, m: McpServer) -> None:
        self.a, self.b, self.m = a, b, m
        self.log = directory / "access.log"
        one, two, modern = (http_target(x.offer.name, x.port) for x in (a, b, m))
        self.gateway = Gateway(
            configuration(
                route("/one", one), route("/two", one, two), route("/modern", modern), route("/pair", one, modern),
                route("/stdio", stdio_target("s")), route("/dead", http_target("nobody", 1)),
                frontendPolicies={"accessLog": {"enabled": True, "path": str(self.log)}}),
            workers=1)

    def at(self, path: str) -> Endpoint:
        return Endpoint(self.gateway.port, path)

    def session(self, path: str, version: str = "2025-11-25") -> Session:
        return Session(self.at(path), version)

    def metrics(self) -> Metrics:
        return self.gateway.metrics()

    def until(self, wanted: float, name: str, **labels: str) -> None:
        """Wait until a metric has this total."""
        wait_until(lambda: self.metrics().total(name, **labels) == wanted, 5, f"{name} {labels} == {wanted}")

    def lines(self, **fields: Any) -> list[dict[str, Any]]:
        """The log's lines that have these fields."""
        text = self.log.read_text() if self.log.exists() else ""
        found = [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]
        return [line for line in found if all(line.get(name.replace("__", ".")) == value for name, value in fields.items())]

    def line(self, count: int = 1, **fields: Any) -> dict[str, Any]:
        """The last of the lines that have these fields, once there are so many."""
        wait_until(lambda: len(self.lines(**fields)) >= count, 5, f"log lines {fields}")
        return self.lines(**fields)[-1]


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    offers = [Offer(name="a", tools=["echo", "whoami", "fails", "refuses"]), Offer(name="b", tools=["echo", "hang"]),
              Offer(name="m", tools=["echo", "fails"], era="modern")]
    with McpServer(offers[0]) as a, McpServer(offers[1]) as b, McpServer(offers[2]) as m:
        for server in (a, b, m):
            for name, behaviour in (("fails", fails), ("refuses", refuses), ("nothing", unknown)):
                server.on(name, behaviour)
        site = Site(tmp_path, a, b, m)
        with site.gateway:
            yield site


def carried(metrics: Metrics, server: str, method: str = "tools/call") -> float:
    """Requests to a target that the service carried."""
    return metrics.total("mcp_upstream_duration_seconds_count", server=server, method=method)


# --------------------------------------------------------------------------------------------------------- counters


def test_calls_are_counted_by_method_target_and_tool_on_both_paths(site: Site) -> None:
    session = site.session("/one")
    for tool, times in (("echo", 4), ("whoami", 3)):
        for _ in range(times):
            assert session.call(tool).status == 200
    site.until(4, "mcp_requests_total", method="tools/call", resource_type="tool", server="a", resource="echo", route="one")
    site.until(3, "mcp_requests_total", method="tools/call", server="a", resource="whoami")
    site.until(1, "mcp_requests_total", method="initialize", server="a", resource="unknown")
    site.until(1, "mcp_requests_total", method="notifications/initialized", server="a")
    metrics = site.metrics()
    assert carried(metrics, "a") == 1, "all but the first call took the compiled path"
    assert metrics.total("mcp_request_duration_seconds_count", method="tools/call", server="a", resource="echo") == 4
    assert metrics.total("mcp_request_duration_seconds_bucket", method="tools/call", server="a", resource="echo", le="+Inf") == 4
    assert metrics.total("mcp_errors_total") == 0


def test_names_behind_prefixes_are_those_of_the_target(site: Site) -> None:
    session = site.session("/two")
    for _ in range(3):
        assert session.call("a_echo").status == 200
        assert session.call("b_echo").status == 200
    for server in ("a", "b"):
        site.until(3, "mcp_requests_total", method="tools/call", server=server, resource="echo", route="two")
    assert session.names() == ["a_echo", "a_whoami", "a_fails", "a_refuses", "b_echo", "b_hang"]
    # A list is nobody's: the label says that no single target answered.
    site.until(1, "mcp_requests_total", method="tools/list", server="unknown", route="two")


def test_modern_calls_are_counted_likewise(site: Site) -> None:
    for _ in range(3):
        assert site.at("/modern").modern("tools/call", {"name": "echo"}).status == 200
    site.until(3, "mcp_requests_total", method="tools/call", server="m", resource="echo", route="modern")
    assert carried(site.metrics(), "m") == 1


def test_errors_are_counted_by_class_on_both_paths(site: Site) -> None:
    session = site.session("/one")
    assert session.call("echo").status == 200
    for _ in range(3):
        assert session.call("fails").result["isError"] is True
    for _ in range(2):
        assert session.call("refuses").error["code"] == -32602
    site.until(3, "mcp_errors_total", code="tool", server="a", resource="fails")
    site.until(2, "mcp_errors_total", code="-32602", server="a", method="tools/call")
    assert carried(site.metrics(), "a") == 1, "all but the first call took the compiled path"
    other = site.session("/two")
    for _ in range(2):
        assert other.call("a_refuses").error["code"] == -32602
    assert other.call("c_nothing").error["code"] == -32602
    site.until(2, "mcp_errors_total", code="-32602", server="a", route="two")
    site.until(1, "mcp_errors_total", code="-32602", server="unknown", route="two")
    assert site.at("/one").post(b"{").status == 400
    site.until(1, "mcp_errors_total", code="-32700")


def test_a_listed_tool_that_always_fails_has_a_label(site: Site) -> None:
    session = site.session("/two")
    assert len(session.names()) == 6
    assert session.call("a_refuses").error["code"] == -32602
    site.until(1, "mcp_errors_total", code="-32602", server="a", resource="refuses")


def test_names_that_callers_make_up_become_no_labels(site: Site) -> None:
    for path in ("/one", "/modern"):
        server = site.a if path == "/one" else site.m
        for n in range(40):
            server.on(f"made-up-{n}", unknown if n % 2 else refuses)
    session = site.session("/one")
    assert session.call("echo").status == 200
    for n in range(40):
        session.call(f"made-up-{n}")
        site.at("/modern").modern("tools/call", {"name": f"made-up-{n}"})
    site.until(40, "mcp_requests_total", method="tools/call", server="a", resource="unknown")
    site.until(40, "mcp_requests_total", method="tools/call", server="m", resource="unknown")
    assert not [labels for name, labels in site.metrics() if any("made-up" in value for _, value in labels)]


def test_names_are_bounded(site: Site) -> None:
    session = site.session("/one")
    for n in range(1100):
        assert session.call(f"tool-{n}").status == 200
    site.until(1100, "mcp_requests_total", method="tools/call", server="a")
    metrics = site.metrics()
    labels = {dict(labels)["resource"] for name, labels in metrics if name == "agw_mcp_requests_total"}
    assert len(labels) == 1024
    assert metrics.total("mcp_requests_total", method="tools/call", resource="other") == 1100 - 1022


def test_names_outlive_a_worker(site: Site) -> None:
    session = site.session("/one")
    for _ in range(2):
        session.call("echo")
    site.until(2, "mcp_requests_total", method="tools/call", server="a", resource="echo")
    [pid] = site.gateway.pids()
    site.gateway.strict = False
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: site.gateway.pids() not in ([], [pid]), 10, "a successor")
    again = site.session("/one")
    again.call("whoami")
    again.call("echo")
    site.until(3, "mcp_requests_total", method="tools/call", server="a", resource="echo")
    site.until(1, "mcp_requests_total", method="tools/call", server="a", resource="whoami")


def test_calls_over_http_and_sse_are_counted_when_they_are_answered(site: Site) -> None:
    with Stream(Endpoint(site.gateway.port, "/one/sse").connect("GET")) as stream:
        event = stream.event()
        assert event is not None and event.data is not None
        where = Endpoint(site.gateway.port, event.data)
        assert where.post(initialize("2024-11-05")).status == 202
        assert stream.message()["result"]["serverInfo"]
        for n in (1, 2):
            assert where.post({"jsonrpc": "2.0", "id": n, "method": "tools/call", "params": {"name": "fails" if n == 2 else "echo"}}).status == 202
            assert stream.message()["id"] == n
        site.until(1, "mcp_requests_total", method="tools/call", server="a", resource="echo")
        site.until(1, "mcp_errors_total", method="tools/call", server="a", resource="fails", code="tool")
        site.until(2, "mcp_requests_total", method="tools/call")
        site.until(1, "mcp_sessions_active")
        site.until(1, "mcp_streams_active")
    site.until(0, "mcp_streams_active")
    site.until(0, "mcp_sessions_active")


# ----------------------------------------------------------------------------------------------------------- gauges


def test_sessions_and_streams_are_counted_while_they_last(site: Site) -> None:
    sessions = [site.session("/two") for _ in range(3)]
    site.until(3, "mcp_sessions_active")
    site.until(3, "mcp_target_sessions_owned", server="a")
    site.until(3, "mcp_target_sessions_owned", server="b")
    with sessions[0].listen() as stream, site.at("/modern").modern_stream("subscriptions/listen", {"notifications": {"toolsListChanged": True}}) as other:
        assert stream.status == other.status == 200
        site.until(2, "mcp_streams_active")
    site.until(0, "mcp_streams_active")
    for session in sessions:
        session.delete()
    site.until(0, "mcp_sessions_active")
    site.until(0, "mcp_target_sessions_owned")


def test_sessions_of_callers_without_one_are_pooled(site: Site) -> None:
    assert site.at("/one").modern("tools/call", {"name": "echo"}).status == 200
    site.until(1, "mcp_target_sessions_pooled", server="a")
    assert site.metrics().total("mcp_target_sessions_owned") == 0


def test_processes_are_counted(site: Site) -> None:
    session = site.session("/stdio")
    site.until(1, "mcp_target_children", server="s")
    site.until(1, "mcp_children_started_total")
    session.call("die")
    assert session.call("echo").status == 200
    site.until(2, "mcp_children_started_total")
    site.until(1, "mcp_children_restarted_total")
    session.delete()
    site.until(0, "mcp_target_children")


def test_health_follows_the_last_attempt_on_both_paths(site: Site) -> None:
    site.until(1, "mcp_target_healthy", server="a", backend=backend_of(site, "a"))
    assert site.at("/dead").post(initialize()).error
    wait_until(lambda: site.metrics().total("mcp_target_healthy", server="nobody") == 0, 5, "the dead target is known")
    session = site.session("/one")
    for _ in range(2):
        assert session.call("echo").status == 200
    before = carried(site.metrics(), "a")
    site.a.stop_listening()
    site.a.hang_up()
    assert session.call("echo").error
    assert carried(site.metrics(), "a") == before, "it failed on the compiled path"
    wait_until(lambda: site.metrics().total("mcp_target_healthy", server="a", backend=backend_of(site, "a")) == 0, 5, "its end is noticed")


def backend_of(site: Site, server: str) -> str:
    """The first backend with this target."""
    return min(dict(labels)["backend"] for name, labels in site.metrics() if name == "agw_mcp_target_healthy" and ("server", server) in labels)


def test_merged_lists_are_counted_by_target_and_kind(site: Site) -> None:
    session = site.session("/two")
    assert len(session.names()) == 6
    site.until(4, "mcp_catalogue_items", server="a", kind="tools")
    site.until(2, "mcp_catalogue_items", server="b", kind="tools")


def test_what_targets_take_is_told_by_method_and_outcome(site: Site) -> None:
    session = site.session("/two")
    assert session.call("a_echo").status == 200
    assert session.call("a_refuses").error
    assert session.call("b_hang").error
    name = "mcp_upstream_duration_seconds_count"
    site.until(1, name, server="a", method="initialize", outcome="ok")
    site.until(1, name, server="a", method="tools/call", outcome="ok")
    site.until(1, name, server="b", method="tools/call", outcome="timeout")
    assert site.metrics().total("mcp_upstream_duration_seconds_sum", server="b", method="tools/call", outcome="timeout") >= 0.9


# ------------------------------------------------------------------------------------------------------- access log


def test_the_log_says_the_same_on_both_paths(site: Site) -> None:
    session = site.session("/one")
    for _ in range(2):
        session.call("echo")
        session.call("fails")
        session.call("refuses")
    opened = site.line(mcp__method__name="initialize")
    short = opened["mcp.session.id"]
    assert len(short) == 8
    assert session.id not in site.log.read_text()
    wanted = {
        "mcp.method.name": "tools/call", "mcp.target": "a", "mcp.resource.type": "tool", "mcp.session.id": short, "mcp.era": "legacy",
        "mcp.protocol.version": "2025-11-25", "protocol": "mcp", "route": "one", "http.status": 200}
    for tool, more in (("echo", {}), ("fails", {"mcp.tool.is_error": True}), ("refuses", {"mcp.error.code": -32602})):
        site.line(count=2, gen_ai__tool__name=tool)
        lines = site.lines(gen_ai__tool__name=tool)
        assert len(lines) == 2
        for line in lines:
            assert {**wanted, **more}.items() <= line.items()
            assert ("mcp.error.code" in line, "mcp.tool.is_error" in line) == ("mcp.error.code" in more, "mcp.tool.is_error" in more)
    assert carried(site.metrics(), "a") == 1, "all but the first call took the compiled path"
    listed = session.request("tools/list")
    assert listed.status == 200
    assert site.line(mcp__method__name="tools/list")["mcp.session.id"] == short
    with session.listen():
        pass
    assert site.line(http__method="GET")["mcp.session.id"] == short
    session.delete()
    assert site.line(http__method="DELETE")["mcp.session.id"] == short


def test_the_log_of_modern_requests(site: Site) -> None:
    for _ in range(2):
        site.at("/modern").modern("tools/call", {"name": "echo"})
    site.line(count=2, gen_ai__tool__name="echo")
    for line in site.lines(gen_ai__tool__name="echo"):
        assert {"mcp.era": "modern", "mcp.protocol.version": MODERN, "mcp.target": "m"}.items() <= line.items()
        assert "mcp.session.id" not in line


def test_a_fan_out_says_what_each_target_took(site: Site) -> None:
    session = site.session("/two")
    fanout = site.line(mcp__method__name="initialize")["mcp.fanout"]
    assert set(fanout) == {"a", "b"}
    assert all(isinstance(taken, float) and 0 < taken < 5000 for taken in fanout.values())

    async def never(x: Exchange) -> None:
        await x.gone()

    site.b.on("tools/list", never)
    assert session.names() == ["a_echo", "a_whoami", "a_fails", "a_refuses"]
    fanout = site.line(mcp__method__name="tools/list")["mcp.fanout"]
    assert isinstance(fanout["a"], float)
    assert fanout["b"] == "timeout"
    session.call("a_echo")
    assert "mcp.fanout" not in site.line(gen_ai__tool__name="a_echo")


# ---------------------------------------------------------------------------------------------------- trace context


def test_fields_reach_http_targets_on_both_paths_and_the_body_stays(site: Site) -> None:
    session = site.session("/one")
    for _ in range(2):
        session.request("tools/call", {"name": "echo"}, headers={"traceparent": PARENT, "tracestate": "a=1", "baggage": "k=v"})
        seen = site.a.last("tools/call")
        assert (seen.values("traceparent"), seen.values("tracestate"), seen.values("baggage")) == ([PARENT], ["a=1"], ["k=v"])
        assert seen.message["params"] == {"name": "echo"}
    assert session.request("tools/list", headers={"traceparent": PARENT}).status == 200
    assert site.a.last("tools/list").values("traceparent") == [PARENT]


@pytest.mark.parametrize("more", [{}, {"tracestate": "a=1", "baggage": "k=v"}], ids=["parent", "all"])
def test_meta_alone_becomes_fields_of_http_targets_on_both_paths(site: Site, more: dict[str, str]) -> None:
    session = site.session("/one")
    for _ in range(2):
        session.call("echo", meta={"traceparent": PARENT, **more})
        site.at("/modern").modern("tools/call", {"name": "echo"}, meta={"traceparent": PARENT, **more})
        for server in (site.a, site.m):
            seen = server.last("tools/call")
            assert {name: seen.values(name) for name in ("traceparent", *more)} == {"traceparent": [PARENT], **{name: [value] for name, value in more.items()}}
            assert seen.message["params"]["_meta"]["traceparent"] == PARENT
    assert carried(site.metrics(), "a") == carried(site.metrics(), "m") == (2 if more else 1)


def test_a_field_is_not_doubled_by_meta(site: Site) -> None:
    session = site.session("/one")
    for _ in range(2):
        session.request("tools/call", {"name": "echo", "_meta": {"traceparent": OTHER}}, headers={"traceparent": PARENT})
        assert site.a.last("tools/call").values("traceparent") == [PARENT]


@pytest.mark.parametrize("value", ["x", PARENT[:-1] + "G", PARENT + "0", PARENT.replace("-", "_")])
def test_what_is_no_traceparent_becomes_no_field(site: Site, value: str) -> None:
    session = site.session("/one")
    for _ in range(2):
        session.call("echo", meta={"traceparent": value})
        assert site.a.last("tools/call").values("traceparent") == []


def test_fields_are_written_into_meta_for_a_process(site: Site) -> None:
    session = site.session("/stdio")
    text = session.request("tools/call", {"name": "echo", "arguments": {"n": 1}}, headers={"traceparent": PARENT, "tracestate": "a=1"}).text
    assert json.loads(text)["params"] == {"name": "echo", "arguments": {"n": 1}, "_meta": {"traceparent": PARENT, "tracestate": "a=1"}}
    text = session.request("tools/call", {"name": "echo", "_meta": {"traceparent": OTHER}}, headers={"traceparent": PARENT}).text
    assert json.loads(text)["params"]["_meta"] == {"traceparent": OTHER}
    text = session.call("echo").text
    assert json.loads(text)["params"] == {"name": "echo"}
