"""What the instance tells about itself, and what it lets itself be told: probes, admin, metrics, log level, quit."""

from __future__ import annotations

import json
import os
import signal
from typing import Any

from tests.integration.conftest import Start
from tests.kits.backend import Backend
from tests.kits.gateway import Gateway, direct_route, free_port, proxy_config, wait_until
from tests.kits.load import Load

SECRET = "s3cr3t-Zq81xT"


def test_ready_line_probe_workers_and_metrics(start: Start, backend: Backend) -> None:
    gateway = start(proxy_config(backend.port), workers=2)
    assert gateway.ready_line["workers"] == 2
    assert gateway.ready_line["listening"] == [f"127.0.0.1:{gateway.port}"]
    assert gateway.ready() == 200

    slots = gateway.slots()
    assert [slot["slot"] for slot in slots] == [0, 1]
    assert [slot["state"] for slot in slots] == ["ready", "ready"]
    assert sorted(slot["pid"] for slot in slots) == sorted(gateway.named("agw-worker"))
    assert all(slot["generation"] == 1 and slot["heartbeat_age_ms"] < 2000 for slot in slots)
    assert len(gateway.named("agw")) == 1
    assert len(gateway.named("agw-helper")) == 1

    for _ in range(10):
        assert gateway.get("/fast").body == b"fast"
    metrics = gateway.metrics()
    assert metrics.total("requests_total", status="200", route="all") == 10
    assert metrics.total("request_duration_seconds_count", route="all") == 10
    assert metrics.total("exchanges_total") == 10
    assert metrics.total("worker_ready") == 2
    assert metrics.total("config_generation") == 1
    assert metrics.total("config_synchronized") == 1
    wait_until(lambda: gateway.metrics().total("downstream_connections_active") == 0, 5, "no client connection is left")
    assert gateway.metrics().total("requests_in_flight") == 0


def test_the_ready_line_names_the_internal_listeners(start: Start) -> None:
    admin = f"127.0.0.1:{free_port()}"
    gateway = start(proxy_config(config={"adminAddr": admin}), workers=1)
    assert gateway.ready_line["admin"] == admin
    assert gateway.ready_line["stats"] == gateway.addresses["stats"]
    assert gateway.admin("/workers").status == 200


def test_no_secret_shows_in_dump_metrics_or_log(start: Start, backend: Backend) -> None:
    config = proxy_config(backend.port)
    config["routes"][0]["policies"] = {"requestHeaderModifier": {"set": {"authorization": "Bearer ${env:TOKEN}", "x-api-key": SECRET}}}
    gateway = start(config, workers=1, env={"TOKEN": SECRET + "env"})
    assert gateway.get("/fast").status == 200
    dump = gateway.admin("/config_dump")
    assert dump.status == 200
    assert dump.json()["routes"][0]["name"] == "all", "the dump shows what is configured"
    gateway.reload()
    for text in (dump.text, gateway.admin("/config_dump").text, str(gateway.metrics()), gateway.stderr(), gateway.stdout()):
        assert SECRET not in text


def test_a_log_level_set_by_admin_reaches_every_process(start: Start) -> None:
    gateway = start(proxy_config(), workers=2)
    words = "SIGTERM for a worker has no effect"  # a warning of the worker itself

    def provoke() -> None:
        for pid in gateway.pids():
            os.kill(pid, signal.SIGTERM)

    provoke()
    wait_until(lambda: gateway.count_log(words) == 2, 5, "both workers warn")
    assert gateway.admin("/logging").json() == {"level": "info"}
    assert gateway.admin("/logging?level=error", "POST").json() == {"level": "error"}
    assert gateway.admin("/logging").json() == {"level": "error"}

    # A level travels through the supervisor; so does a reload, later on the same channel: then all have heard of it.
    gateway.signal(signal.SIGHUP)
    wait_until(lambda: gateway.metrics().total("worker_generation") == 4, 5, "the reload is applied")
    provoke()
    # Born after the change: the new worker keeps silent, too.
    victim = gateway.pids()[0]
    os.kill(victim, signal.SIGKILL)
    wait_until(lambda: len(gateway.pids()) == 2 and victim not in gateway.pids(), 5, "a successor")
    provoke()
    gateway.signal(signal.SIGHUP)
    wait_until(lambda: gateway.metrics().total("worker_generation") == 6, 5, "the reload is applied")
    assert gateway.count_log(words) == 2
    assert gateway.count_log("configuration applied") == 0, "the supervisor heard of it as well"

    assert gateway.admin("/logging?reset", "POST").json() == {"level": "info"}
    gateway.reload()
    provoke()
    wait_until(lambda: gateway.count_log(words) == 4, 5, "both workers warn again")
    assert gateway.admin("/logging?level=loud", "POST").status == 400


def test_a_helper_that_is_respawned_keeps_the_level(start: Start) -> None:
    gateway = start(proxy_config(), workers=1)
    old = gateway.helper_pid()
    assert gateway.admin("/logging?level=debug", "POST").status == 200
    gateway.reload()  # on the same channel, later: the supervisor has heard of the level
    os.kill(old, signal.SIGKILL)
    wait_until(lambda: [p for p in gateway.named("agw-helper") if p != old], 5, "a new helper")
    assert gateway.admin("/logging").json() == {"level": "debug"}


def test_nothing_changes_by_get(start: Start) -> None:
    gateway = start(proxy_config(), workers=1)
    for method in ("GET", "HEAD"):
        assert gateway.admin("/quitquitquit", method).status == 405
    assert gateway.get().status == 200


def test_quitquitquit_drains(start: Start, backend: Backend) -> None:
    gateway = start(proxy_config(backend.port))
    with Load(gateway.port, "/held", connections=1) as load:
        wait_until(lambda: backend.waiting == 1, 5, "a request is under way")
        assert gateway.admin("/quitquitquit", "POST").status == 202
        wait_until(lambda: gateway.ready() == 503, 5, "readiness is off")
        backend.release()
        assert gateway.wait() == 0
        load.stop()
    assert load.outcomes[0].kind == "ok"
    assert load.outcomes[0].closing
    gateway.assert_gone()


def test_signals_without_a_meaning_change_nothing(start: Start) -> None:
    gateway = start(proxy_config(), workers=1)
    before = gateway.group()
    for number in (signal.SIGUSR2, signal.SIGPIPE, signal.SIGWINCH, signal.SIGUSR1):
        for pid in before:
            os.kill(pid, number)
    gateway.reload()  # signals are handled in order of arrival or earlier; afterwards all is as it was
    assert gateway.group() == before
    assert gateway.get().status == 200


def test_the_log_is_json_lines_only(start: Start) -> None:
    gateway = start(proxy_config(routes=[direct_route("one")]))
    gateway.reload(proxy_config(routes=[direct_route("two")]))
    gateway.stop()
    lines = gateway.stderr().splitlines()
    parsed: list[dict[str, Any]] = [json.loads(line) for line in lines]
    assert [p["msg"] for p in parsed] == ["ready", "configuration applied", "draining", "stopped"]
    assert all(p.keys() >= {"ts", "level", "logger", "msg"} for p in parsed)
    assert gateway.stdout() == ""


def test_listeners_that_are_off_are_off(start: Start) -> None:
    off = {"adminAddr": "off", "statsAddr": "off", "readinessAddr": "off"}
    gateway = start(proxy_config(config=off), workers=1)
    assert gateway.ready_line["admin"] == gateway.ready_line["stats"] == gateway.ready_line["readiness"] == "off"
    assert gateway.get().status == 200
    assert isinstance(gateway, Gateway)
