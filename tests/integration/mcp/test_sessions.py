"""Legacy sessions: whose they are, how they end, and that they outlive everything behind the gateway."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import pytest

from tests.integration.conftest import Start
from tests.integration.mcp.conftest import Farm, configuration, http_target, route
from tests.kits.gateway import Gateway, wait_until
from tests.peers.mcp_client import NEWEST, Endpoint, Session, initialize
from tests.peers.mcp_script import LEGACY, Exchange
from tests.peers.mcp_server import McpServer

PING = {"jsonrpc": "2.0", "id": 7, "method": "ping"}


@pytest.mark.parametrize("path", ["/one", "/two", "/modern", "/mixed", "/dual", "/stdio"])
def test_the_handshake(farm: Farm, path: str) -> None:
    for asked in (*LEGACY, "2026-07-28", "1999-01-01"):
        session = Session(farm.at(path), asked)
        assert session.version == (asked if asked in LEGACY else NEWEST)
        assert set(session.hello["capabilities"]) >= {"tools", "prompts", "resources"}
        assert session.hello["serverInfo"]["name"]
        assert session.delete().status in (200, 204)


def test_targets_are_spoken_to_in_the_clients_version_and_name(farm: Farm) -> None:
    for version in LEGACY:
        farm.a.seen.clear()
        with Session(farm.at("/two"), version, {"sampling": {}, "x-unknown": {"deep": [1.0]}}) as session:
            session.names()
            params = farm.a.last("initialize").message["params"]
            assert params["protocolVersion"] == version
            assert params["capabilities"] == {"sampling": {}, "x-unknown": {"deep": [1.0]}}
            assert params["clientInfo"] == {"name": "test", "version": "1"}
            assert farm.a.last("tools/list").values("mcp-protocol-version") == ([version] if version >= "2025-06-18" else [])
            wait_until(lambda: farm.a.requests("notifications/initialized"), what="initialized")


def test_ids_are_our_own(farm: Farm) -> None:
    seen = set()
    for path in ("/one", "/two", "/one"):
        with Session(farm.at(path)) as session:
            assert session.id
            assert all(0x21 <= ord(each) <= 0x7E for each in session.id)
            assert not any(sid in session.id for server in farm.servers for sid in server.sessions)
            seen.add(session.id)
    assert len(seen) == 3


@pytest.mark.parametrize("path", ["/one", "/two", "/modern", "/stdio"])
def test_deleted_sessions_are_gone_here_and_behind(farm: Farm, path: str) -> None:
    session = Session(farm.at(path))
    behind = {sid for server in (farm.a, farm.b) for sid in server.sessions}
    assert session.request("ping").status == 200
    assert session.delete().status in (200, 204)
    for answer in (session.request("ping"), session.endpoint.send("GET", None, session.headers), session.delete(), session.notify("notifications/x")):
        assert answer.status == 404, answer
    wait_until(lambda: not behind & {sid for server in (farm.a, farm.b) for sid in server.sessions}, what=f"{len(behind)} sessions ended")


def test_what_is_under_way_ends_with_the_session(farm: Farm) -> None:
    session = Session(farm.at("/one"))
    with session.listen() as standalone, session.open_call("progress", {"steps": 1}) as first:
        assert first.rest()
        session.delete()
        assert standalone.rest() == []
    assert session.request("ping").status == 404


def test_every_foreign_id_looks_alike(farm: Farm) -> None:
    session = Session(farm.at("/one"))
    ended = Session(farm.at("/one"))
    ended.delete()
    middle = len(session.id) // 2
    flipped = "A" if session.id[middle] != "A" else "B"
    foreign = {
        "unknown": "x" * len(session.id), "short": "x", "truncated": session.id[:-1], "longer": session.id + "A", "half": session.id[:middle],
        "tampered": session.id[:middle] + flipped + session.id[middle + 1 :], "ended": ended.id, "a target's": next(iter(farm.a.sessions)),
        "huge": session.id * 3,
    }
    answers = {name: session.endpoint.post(PING, {"Mcp-Session-Id": sid}) for name, sid in foreign.items()}
    other = farm.at("/two").post(PING, {"Mcp-Session-Id": session.id})
    assert {name: answer.status for name, answer in answers.items()} == dict.fromkeys(foreign, 404)
    assert {answer.body for answer in (*answers.values(), other)} == {answers["unknown"].body}
    assert other.status == 404
    for method in ("GET", "DELETE"):
        found = {name: session.endpoint.send(method, None, {"Mcp-Session-Id": sid}) for name, sid in foreign.items()}
        assert {each.status for each in found.values()} == {404}
        assert len({each.body for each in found.values()}) == 1
    assert session.request("ping").status == 200


def test_unknown_ids_take_the_same_time(farm: Farm) -> None:
    session = Session(farm.at("/one"))
    middle = len(session.id) // 2
    tampered = session.id[:middle] + ("A" if session.id[middle] != "A" else "B") + session.id[middle + 1 :]

    def median(sid: str) -> float:
        times = []
        for _ in range(40):
            began = time.perf_counter()
            assert session.endpoint.post(PING, {"Mcp-Session-Id": sid}).status == 404
            times.append(time.perf_counter() - began)
        return statistics.median(times)

    pairs = [(median("x" * len(session.id)), median(tampered)) for _ in range(3)]
    # The machine's noise is far larger than an HMAC; what must not be is a way that takes a multiple.
    assert min(max(pair) / min(pair) for pair in pairs) < 2.0, pairs


# ---------------------------------------------------------------------------------------------- what happens behind it


def setting(session: Session) -> None:
    assert session.request("logging/setLevel", {"level": "warning"}).result == {}
    assert "result" in session.request("resources/subscribe", {"uri": session.names("resources/list")[0]}).message


def replayed(server: McpServer) -> bool:
    subscribed = [each["params"]["uri"] for each in server.requests("resources/subscribe")]
    return [each["params"]["level"] for each in server.requests("logging/setLevel")] == ["warning"] and subscribed == ["file:///a.txt"]


@pytest.mark.parametrize("path", ["/one", "/two"])
def test_an_upstream_404_is_never_the_clients(farm: Farm, path: str) -> None:
    with Session(farm.at(path)) as session:
        echo = "echo" if path == "/one" else "a_echo"
        setting(session)
        farm.a.forget()
        farm.a.seen.clear()
        answer = session.call(echo, {"n": 1})
        assert (answer.status, '"n"' in answer.text) == (200, True)
        assert len(farm.a.requests("initialize")) == 1
        assert len(farm.a.requests("tools/call")) == 2, "the refused one and its repetition"
        wait_until(lambda: replayed(farm.a), what="log level and subscription in the new session")


def test_a_restarted_target_is_never_the_clients_404(farm: Farm) -> None:
    with Session(farm.at("/two")) as session, session.listen() as stream:
        setting(session)
        wait_until(lambda: farm.a.listeners >= 1, what="the upstream GET stream")
        farm.a.stop_listening()
        down = session.call("a_echo", {})
        assert down.status == 200
        assert down.error["code"] == -32603
        assert session.call("b_echo", {"n": 2}).status == 200
        farm.a.seen.clear()
        farm.a.listen_again()
        again = wait_until(lambda: (found := session.call("a_echo", {"n": 3})) and "result" in found.message and found, what="a is back")
        assert '"n":3' in again.text.replace(" ", "")
        wait_until(lambda: replayed(farm.a), what="log level and subscription")
        wait_until(lambda: farm.a.listeners >= 1, what="the upstream GET stream again")
        farm.a.tell("notifications/resources/updated", {"uri": "file:///a.txt"})
        assert stream.until(lambda m: m["method"].endswith("updated"))


def test_log_level_reaches_targets_opened_later(start: Start, server: Callable[..., McpServer]) -> None:
    a, late = server(name="a"), server(name="late")
    late.stop_listening()
    gateway = start(configuration(route("/mcp", http_target("a", a.port), http_target("late", late.port))), workers=1)
    with Session(Endpoint(gateway.port)) as session:
        assert session.request("logging/setLevel", {"level": "error"}).result == {}
        late.listen_again()
        wait_until(lambda: "result" in session.call("late_echo").message, what="the late target answers")
        wait_until(lambda: late.requests("logging/setLevel"), what="the level")
        assert late.requests("logging/setLevel")[0]["params"] == {"level": "error"}


def test_a_bad_level(farm: Farm) -> None:
    with Session(farm.at("/two")) as session:
        for params in ({"level": "loud"}, {"level": 3}, {}):
            answer = session.request("logging/setLevel", params)
            assert (answer.status, answer.error["code"]) == (200, -32602)
        assert not farm.a.requests("logging/setLevel")


def test_a_session_lives_on_in_the_next_worker(start: Start, server: Callable[..., McpServer]) -> None:
    a, b = server(name="a"), server(name="b")
    gateway = start(configuration(route("/mcp", http_target("a", a.port), http_target("b", b.port))), workers=1)
    with Session(Endpoint(gateway.port)) as session:
        assert session.call("a_echo").status == 200
        # Sessions opened in the very second of a worker's start are taken for its own.
        wait_until(lambda: time.time() > int(time.time()) and session.request("ping").status == 200)
        (old,) = gateway.pids()
        _kill(gateway, old)
        wait_until(lambda: gateway.pids() and gateway.pids() != [old], 10, "a new worker")
        answer = session.call("a_echo", {"n": 4})
        assert answer.status == 200, answer
        assert '"n":4' in answer.text.replace(" ", "")
        assert session.names() == ["a_echo", "b_echo"]


def _kill(gateway: Gateway, pid: int) -> None:
    import os
    import signal

    os.kill(pid, signal.SIGKILL)


def test_sessions_are_limited(start: Start, server: Callable[..., McpServer]) -> None:
    a = server(name="a")
    gateway = start(configuration(route("/mcp", http_target("a", a.port), maxSessions=2)), workers=1)
    at = Endpoint(gateway.port)
    first, second = Session(at), Session(at)
    answer = at.post(initialize())
    assert answer.status == 503
    assert answer.error["code"] == -32603
    assert "mcp-session-id" not in answer.headers
    first.delete()
    third = Session(at)
    assert second.request("ping").status == third.request("ping").status == 200


def test_idle_sessions_end(start: Start, server: Callable[..., McpServer]) -> None:
    a = server(name="a")
    gateway = start(configuration(route("/mcp", http_target("a", a.port)), config={"mcp": {"sessionTtl": "1s"}}), workers=1)
    session = Session(Endpoint(gateway.port))
    assert len(a.sessions) == 1
    wait_until(lambda: not a.sessions, 10, "the session upstream ended")
    assert session.request("ping").status == 404


def test_a_stateless_backend(farm: Farm) -> None:
    at = farm.at("/stateless")
    answer = at.post(initialize())
    assert answer.status == 200
    assert "mcp-session-id" not in answer.headers
    assert at.post({"jsonrpc": "2.0", "method": "notifications/initialized"}).status == 202
    headers = {"MCP-Protocol-Version": NEWEST}
    assert at.post({"jsonrpc": "2.0", "id": 3, "method": "tools/call", "params": {"name": "echo"}}, headers).status == 200
    assert [at.send(method).status for method in ("GET", "DELETE")] == [405, 405]


@pytest.mark.parametrize("answer", [{}, {"protocolVersion": "2025-11-25"}, {"protocolVersion": "2025-11-25", "capabilities": {}}])
def test_an_incomplete_handshake(farm: Farm, answer: dict[str, Any]) -> None:
    for path in ("/one", "/two"):
        found = farm.at(path).post({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": answer})
        assert found.error["code"] == -32602
        assert "mcp-session-id" not in found.headers


def test_a_target_that_refuses_the_handshake(farm: Farm) -> None:
    async def refuse(x: Exchange) -> None:
        await x.error(-32000, "not today", {"why": "holiday"})

    farm.a.on("initialize", refuse)
    alone = farm.at("/one").post(initialize())
    assert "error" in alone.message
    assert "mcp-session-id" not in alone.headers
    with Session(farm.at("/two")) as session:
        assert session.call("b_echo").status == 200
        assert "error" in session.call("a_echo").message
