"""The admin, stats and readiness listeners through real sockets, over an arena in memory."""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Iterable, Iterator
from typing import Any

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from agw.admin.server import AdminServer
from agw.admin.stats import ReadinessServer, StatsServer
from agw.shm.reader import McpSeries, RequestSeries, SlotView, TargetNumbers, UpstreamSeries
from agw.telemetry.collector import ConfigState, Labels, MetricsSource


class MemoryArena:
    """An ArenaReader over lists."""

    def __init__(self) -> None:
        self.views = [
            SlotView(0, 4711, "ready", 3, 1_500_000, 0),
            SlotView(1, 0, "empty", 0, 0, 0),
        ]

    def slots(self) -> list[SlotView]:
        return self.views

    def gauges(self, slot: int) -> dict[str, int]:
        return {"downstream_connections": 7, "exchanges_total": 42, "requests_in_flight": 2} if slot == 0 else {}

    def series(self, slot: int) -> Iterable[RequestSeries]:
        return (
            [RequestSeries(1, 1, "POST", 200, "Upstream", 2, 10, 2_000_000, (0, 2, *([0] * 13)))] if slot == 0 else []
        )

    def mcp_series(self, slot: int) -> Iterable[McpSeries]:
        return []

    def upstream_series(self, slot: int) -> Iterable[UpstreamSeries]:
        return []

    def targets(self, slot: int) -> Iterable[TargetNumbers]:
        return []


class Level:
    """A LogLevel without a logger."""

    def __init__(self) -> None:
        self.level = "info"

    def set_level(self, level: str) -> None:
        if level not in ("debug", "info", "warning", "error"):
            raise ValueError(level)
        self.level = level

    def reset(self) -> None:
        self.level = "info"


class Admin:
    """A running admin server, and a client for it."""

    def __init__(self, loop_thread: Any) -> None:
        self.arena = MemoryArena()
        self.level = Level()
        self.quits = 0
        self.server = AdminServer(
            config_dump=lambda: {
                "binds": [{"port": 1}],
                "auth": {"apiKey": "hunter2"},
                "headers": [("X-Api-Key", "k1")],
            },
            arena=self.arena,
            stop=self.quit,
            log_level=self.level,
        )
        sock = socket.create_server(("127.0.0.1", 0))
        self.port = sock.getsockname()[1]
        loop_thread.run(self.server.serve(sock))

    def quit(self) -> None:
        self.quits += 1

    def ask(self, method: str, path: str, **headers: str) -> tuple[int, Any]:
        return ask(self.port, method, path, **headers)


def ask(port: int, method: str, path: str, **headers: str) -> tuple[int, Any]:
    """Status and JSON (or text) of one exchange; header names with `_` for `-`."""
    client = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    client.request(method, path, headers={name.replace("_", "-"): value for name, value in headers.items()})
    response = client.getresponse()
    body = response.read()
    client.close()
    kind = response.getheader("content-type") or ""
    return response.status, json.loads(body) if kind == "application/json" and body else body.decode()


@pytest.fixture
def admin(loop_thread: Any) -> Iterator[Admin]:
    running = Admin(loop_thread)
    yield running
    loop_thread.run(running.server.close())


def test_the_index_lists_every_endpoint(admin: Admin) -> None:
    status, body = admin.ask("GET", "/")
    assert status == 200
    listed = {(entry["method"], entry["path"]) for entry in body["endpoints"]}
    assert {("GET", "/config_dump"), ("GET", "/workers"), ("POST", "/logging"), ("POST", "/quitquitquit")} <= listed


def test_the_configuration_is_shown_without_secrets(admin: Admin) -> None:
    status, body = admin.ask("GET", "/config_dump")
    assert status == 200
    assert body == {
        "binds": [{"port": 1}],
        "auth": {"apiKey": "<redacted>"},
        "headers": [["X-Api-Key", "<redacted>"]],
    }


def test_workers_are_listed_by_slot(admin: Admin) -> None:
    status, body = admin.ask("GET", "/workers")
    assert status == 200
    assert body["workers"][0] == {
        "slot": 0,
        "pid": 4711,
        "state": "ready",
        "generation": 3,
        "heartbeat_age_ms": 1,
        "connections": 7,
        "requests": 42,
        "requests_in_flight": 2,
    }
    assert body["workers"][1]["state"] == "empty"


def test_the_log_level_is_shown_changed_and_reset(admin: Admin) -> None:
    assert admin.ask("GET", "/logging") == (200, {"level": "info"})
    assert admin.ask("POST", "/logging?level=debug") == (200, {"level": "debug"})
    assert admin.ask("GET", "/logging") == (200, {"level": "debug"})
    assert admin.ask("POST", "/logging?reset") == (200, {"level": "info"})
    assert admin.ask("POST", "/logging?level=loud")[0] == 400
    assert admin.ask("POST", "/logging")[0] == 400
    assert admin.ask("POST", "/logging?level=debug&reset")[0] == 400
    assert admin.ask("GET", "/logging?level=debug")[0] == 405
    assert admin.level.level == "info"


def test_only_post_stops(admin: Admin) -> None:
    status, body = admin.ask("GET", "/quitquitquit")
    assert (status, admin.quits) == (405, 0)
    assert body == {"error": {"status": 405, "message": "method not allowed"}}
    assert admin.ask("POST", "/quitquitquit") == (202, {"status": "draining"})
    assert admin.quits == 1


def test_unknown_paths_are_404(admin: Admin) -> None:
    assert admin.ask("GET", "/nothing") == (404, {"error": {"status": 404, "message": "no such endpoint"}})
    assert admin.ask("GET", "/workers/")[0] == 404


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1", 200),
        ("127.0.0.1:15000", 200),
        ("127.8.8.8", 200),
        ("localhost:1", 200),
        ("LOCALHOST.", 200),
        ("agw.localhost", 200),
        ("[::1]:15000", 200),
        ("evil.example", 403),
        ("localhost.evil.example", 403),
        ("127.0.0.1.evil.example", 403),
        ("10.0.0.1", 403),
        ("[::ffff:10.0.0.1]", 403),
        ("0.0.0.0", 403),
        ("a@localhost", 400),
        ("localhost/x", 400),
        ("", 400),
    ],
)
def test_a_loopback_listener_answers_to_loopback_names_only(admin: Admin, host: str, status: int) -> None:
    assert admin.ask("GET", "/workers", Host=host)[0] == status


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        ("http://localhost:15000", 202),
        ("http://evil.example", 403),
        ("http://localhost:9999", 403),
        ("https://localhost:15000.evil.example", 403),
        ("null", 403),
        ("file://", 403),
    ],
)
def test_a_page_of_another_site_changes_nothing(admin: Admin, origin: str, status: int) -> None:
    assert admin.ask("POST", "/quitquitquit", Host="localhost:15000", Origin=origin)[0] == status
    assert admin.quits == (1 if status == 202 else 0)


def test_a_listener_on_all_interfaces_answers_to_any_name(loop_thread: Any) -> None:
    source = MetricsSource(
        MemoryArena(), labels=lambda: Labels({}, {}), config=lambda: ConfigState(True, 3), version="1.2.3"
    )
    server = StatsServer(source)
    sock = socket.create_server(("0.0.0.0", 0))
    port = sock.getsockname()[1]
    loop_thread.run(server.serve(sock))
    assert ask(port, "GET", "/metrics", Host="gateway.example:15020")[0] == 200
    loop_thread.run(server.close())


def test_metrics_come_as_text_or_openmetrics(loop_thread: Any) -> None:
    source = MetricsSource(
        MemoryArena(),
        labels=lambda: Labels({}, {}),
        config=lambda: ConfigState(True, 3),
        version="1.2.3",
        prefix="agentgateway",
    )
    server = StatsServer(source)
    sock = socket.create_server(("127.0.0.1", 0))
    port = sock.getsockname()[1]
    loop_thread.run(server.serve(sock))
    status, text = ask(port, "GET", "/stats/prometheus")
    families = {family.name: family for family in parse_text(text)}
    assert status == 200
    assert families["agentgateway_requests"].samples[0].value == 2
    assert families["agentgateway_build_info"].samples[0].labels == {"tag": "1.2.3"}
    wanted = "application/openmetrics-text;version=1.0.0;q=0.6,text/plain;version=0.0.4;q=0.5"
    status, text = ask(port, "GET", "/metrics", Accept=wanted)
    assert text.endswith("# EOF\n")
    families = {family.name: family for family in parse_openmetrics(text)}  # type: ignore[no-untyped-call]
    assert families["agentgateway_config_generation"].samples[0].value == 3
    assert ask(port, "POST", "/metrics")[0] == 405
    loop_thread.run(server.close())


def test_readiness_follows_phase_and_workers(loop_thread: Any) -> None:
    arena = MemoryArena()
    phase = "starting"
    server = ReadinessServer(phase=lambda: phase, arena=arena, heartbeat_limit_ns=5_000_000_000)  # type: ignore[arg-type,return-value]
    sock = socket.create_server(("127.0.0.1", 0))
    port = sock.getsockname()[1]
    loop_thread.run(server.serve(sock))

    def ready() -> tuple[int, Any]:
        return ask(port, "GET", "/healthz/ready", Host="10.1.2.3:15021")

    def refusal(reason: str) -> tuple[int, Any]:
        return 503, {"error": {"status": 503, "message": reason}}

    assert ready() == refusal("starting")
    phase = "running"
    assert ready() == (200, "ready")
    arena.views = [SlotView(0, 1, "starting", 3, 0, 0)]
    assert ready() == refusal("no worker is ready")
    arena.views = [SlotView(0, 1, "ready", 3, 6_000_000_000, 0)]
    assert ready() == refusal("no worker is ready")
    phase = "draining"
    assert ready() == refusal("draining")
    assert ask(port, "GET", "/healthz/live") == (200, "live")
    loop_thread.run(server.close())
