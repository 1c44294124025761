"""Targets over HTTP that misbehave: the caller gets one JSON-RPC error in time, and nobody else notices anything.

Every fault is tried on the first call of a session, on a later one (which may take a shorter way through the gateway), by
modern callers, and with one target as with several.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from tests.integration.mcp.conftest import Farm
from tests.kits.gateway import open_fds, wait_until
from tests.peers.mcp_client import Answer, Endpoint, Session, call
from tests.peers.mcp_exchange import HttpExchange
from tests.peers.mcp_script import Exchange
from tests.peers.mcp_server import McpServer

Ask = Callable[[str], Answer]


def legacy(at: Endpoint, prefix: str, warm: int) -> Ask:
    session = Session(at)
    for _ in range(warm):
        assert session.call(prefix + "echo").status == 200
    return lambda tool: session.call(prefix + tool, ident="mine")


def modern(at: Endpoint, prefix: str, warm: int) -> Ask:
    for _ in range(warm):
        assert at.modern("tools/call", {"name": prefix + "echo"}).status == 200
    return lambda tool: at.modern("tools/call", {"name": prefix + tool}, ident="mine")


WAYS = [
    (path, era, warm) for path in ("/one", "/two", "/dual", "/modern") for era in (legacy, modern) for warm in (0, 2)
    if warm or era is legacy or path in ("/one", "/two")  # a modern target is known since the test before
]


@pytest.fixture(params=WAYS, ids=[f"{path[1:]}-{era.__name__}-{warm}" for path, era, warm in WAYS])
def way(farm: Farm, request: pytest.FixtureRequest) -> tuple[Ask, McpServer, bool]:
    """How to call a tool, who serves it, and whether the caller is legacy."""
    path, era, warm = request.param
    server = {"/dual": farm.d, "/modern": farm.m}.get(path, farm.a)
    return era(farm.at(path), "a_" if path == "/two" else "", warm), server, era is legacy


def is_one_error(answer: Answer, is_legacy: bool) -> None:
    assert len(answer.messages) == 1, answer.body[:500]
    assert set(answer.message) == {"jsonrpc", "id", "error"}, answer.body[:500]
    assert answer.message["id"] == "mine"
    assert answer.error["code"] == -32603, answer.error
    if is_legacy:
        assert answer.status == 200
    else:
        assert answer.status in (200, 500, 502, 503, 504)


FAULTS: dict[str, Callable[[HttpExchange], Any]] = {
    "no answer at all": lambda x: x.die(),
    "not HTTP": lambda x: x._out(b"SSH-2.0-OpenSSH_9.9\r\n\r\n"),
    "a bare 500": lambda x: x.reply(500, {"Content-Type": "text/plain"}, b"oops, secret-of-the-target"),
    "a bare 403": lambda x: x.reply(403, {"Content-Type": "text/plain"}, b"secret-of-the-target"),
    "a bare 429": lambda x: x.reply(429, {"Retry-After": "1"}),
    "a redirect": lambda x: x.reply(307, {"Location": "http://127.0.0.1:1/elsewhere"}),
    "202 for a request": lambda x: x.reply(202),
    "200 without a body": lambda x: x.reply(200, {"Content-Type": "application/json"}),
    "no JSON": lambda x: x.reply(200, {"Content-Type": "application/json"}, b"<html>secret-of-the-target</html>"),
    "half a JSON": lambda x: x.reply(200, {"Content-Type": "application/json"}, b'{"jsonrpc":"2.0","id":"mine","resu'),
    "no JSON-RPC": lambda x: x.reply(200, {"Content-Type": "application/json"}, b'{"hello":"world"}'),
    "another id": lambda x: x.reply(200, {"Content-Type": "application/json"}, b'{"jsonrpc":"2.0","id":"theirs","result":{"content":[]}}'),
    "a number for a string id": lambda x: x.reply(200, {"Content-Type": "application/json"}, b'{"jsonrpc":"2.0","id":1,"result":{"content":[]}}'),
    "neither result nor error": lambda x: x.reply(200, {"Content-Type": "application/json"}, b'{"jsonrpc":"2.0","id":"mine"}'),
    "a request": lambda x: x.reply(200, {"Content-Type": "application/json"}, b'{"jsonrpc":"2.0","id":"mine","method":"ping"}'),
    "another type": lambda x: x.reply(200, {"Content-Type": "text/html"}, b"<html></html>"),
    "bad chunks": lambda x: x._out(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_faulty_answer(way: tuple[Ask, McpServer, bool], fault: str) -> None:
    ask, server, is_legacy = way
    calls = 0

    async def take(x: HttpExchange) -> bool:
        nonlocal calls
        if x.message.get("method") != "tools/call":
            return False
        calls += 1
        await FAULTS[fault](x)
        if fault in ("not HTTP", "bad chunks"):
            await x.die()
        return True

    server.take = take
    answer = ask("echo")
    is_one_error(answer, is_legacy)
    assert b"secret-of-the-target" not in answer.body
    assert calls == 1, "a call is not repeated"
    server.take = None
    assert "result" in ask("echo").message


STREAMS: dict[str, bytes] = {
    "nothing": b"",
    "only comments": b": hello\n\n: hello\n\n",
    "an event that is no JSON": b"data: hello\n\n",
    "half an event": b'data: {"jsonrpc":"2.0","id":"mine","result"',
    "binary": bytes(range(256)) * 8,
    "another id": b'data: {"jsonrpc":"2.0","id":"theirs","result":{}}\n\n',
}


@pytest.mark.parametrize("fault", STREAMS)
def test_a_faulty_stream(way: tuple[Ask, McpServer, bool], fault: str) -> None:
    ask, server, is_legacy = way

    async def stream(x: Exchange) -> None:
        assert isinstance(x, HttpExchange)
        await x.begin()
        if STREAMS[fault]:
            await x.write(STREAMS[fault])
        await x.end()

    server.on("echo", stream)
    is_one_error(ask("echo"), is_legacy)
    server.own.clear()
    assert "result" in ask("echo").message


def test_a_stream_that_breaks_off(way: tuple[Ask, McpServer, bool]) -> None:
    ask, _, is_legacy = way
    is_one_error(ask("half"), is_legacy)
    assert "result" in ask("echo").message


def test_a_target_that_hangs(way: tuple[Ask, McpServer, bool]) -> None:
    ask, server, is_legacy = way
    began = time.monotonic()
    is_one_error(ask("hang"), is_legacy)
    assert 0.8 < time.monotonic() - began < 2.5
    wait_until(lambda: server.given_up == ["mine"] or server.given_up, what="the target sees the request given up")
    assert "result" in ask("echo").message


@pytest.mark.parametrize(("path", "prefix"), [("/one", ""), ("/two", "a_"), ("/dual", "")])
def test_a_target_that_refuses_connections(farm: Farm, path: str, prefix: str) -> None:
    server = farm.d if path == "/dual" else farm.a
    ask = legacy(farm.at(path), prefix, 2)
    newcomer = modern(farm.at(path), prefix, 2)
    server.stop_listening()
    try:
        is_one_error(ask("echo"), True)
        is_one_error(newcomer("echo"), False)
    finally:
        server.listen_again()
    wait_until(lambda: "result" in ask("echo").message and "result" in newcomer("echo").message, what="back again")


# ------------------------------------------------------------------------------------------------------------------- size


@pytest.mark.parametrize("size", [100_000, 1 << 20, 3_500_000])
def test_large_results_pass(way: tuple[Ask, McpServer, bool], size: int) -> None:
    ask, server, _ = way

    async def big(x: Exchange) -> None:
        await x.text("x" * size)

    server.on("big", big)
    assert ask("big").text == "x" * size


@pytest.mark.parametrize("form", ["json", "event", "line"])
@pytest.mark.parametrize(("path", "prefix"), [("/one", ""), ("/two", "a_"), ("/dual", "")])
def test_answers_without_end(farm: Farm, path: str, prefix: str, form: str) -> None:
    server = farm.d if path == "/dual" else farm.a
    piece = b"x" * 65536
    sent = 0

    async def endless(x: Exchange) -> None:
        nonlocal sent
        assert isinstance(x, HttpExchange)
        if form == "json":
            await x._out(x._head(200, {"Content-Type": "application/json", "Transfer-Encoding": "chunked"}))
            x.streaming = True
        else:
            await x.begin()
        await x.write(b'{"jsonrpc":"2.0","id":"mine","result":{"content":[{"type":"text","text":"' if form == "json" else b"data: ")
        while sent < 1 << 28:
            await x.write(piece if form != "line" else piece + b"\ndata: ")
            sent += len(piece)

    server.on("endless", endless)
    for era, warm in ((legacy, 0), (modern, 0), (legacy, 2), (modern, 2)):
        sent = 0
        ask = era(farm.at(path), prefix, warm)
        is_one_error(ask("endless"), era is legacy)
        assert sent < 32 << 20, "it was read to its end"
        assert "result" in ask("echo").message


def test_notifications_without_end(farm: Farm) -> None:
    """A target that talks for ever is not silent, so no deadline strikes; the client leaves, and its call goes."""
    with Session(farm.at("/one")) as session, session.open_call("endless") as stream:
        assert stream.message()["method"] == "notifications/progress"
        assert session.call("echo").status == 200
        session.notify("notifications/cancelled", {"requestId": 1})
        wait_until(lambda: any(m["params"]["requestId"] == 1 for m in farm.a.requests("notifications/cancelled")), what="cancelled upstream")


# ------------------------------------------------------------------------------------------------------ others, and leaks


def test_others_notice_nothing(farm: Farm) -> None:
    stop = threading.Event()
    problems: list[object] = []
    calls = 0

    def bystander(path: str, tool: str) -> None:
        nonlocal calls
        session = Session(farm.at(path))
        while not stop.is_set():
            began = time.monotonic()
            answer = session.call(tool, {"x": 1})
            calls += 1
            if "result" not in answer.message or time.monotonic() - began > 1.0:
                problems.append((path, time.monotonic() - began, answer))

    threads = [threading.Thread(target=bystander, args=each) for each in (("/two", "b_echo"), ("/one", "echo"), ("/mixed", "m_echo"))]
    for thread in threads:
        thread.start()
    try:
        victim = Session(farm.at("/two"))
        for tool in ("die", "half", "garbage", "wrong_id", "not_rpc", "hang"):
            is_one_error(victim.call("a_" + tool, ident="mine"), True)
    finally:
        stop.set()
        for thread in threads:
            thread.join(5)
    assert not problems, problems[:3]
    assert calls > 20


def test_nothing_leaks(farm: Farm) -> None:
    def tour() -> None:
        for path, prefix in (("/one", ""), ("/two", "a_"), ("/dual", ""), ("/modern", "")):
            at = farm.at(path)
            with Session(at) as session:
                for tool in ("echo", "die", "half", "garbage", "wrong_id", "echo"):
                    assert session.call(prefix + tool).status == 200
                    at.modern("tools/call", {"name": prefix + tool})
            gone = at.connect("POST", json.dumps({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": call(prefix + "hang")}).encode())
            gone.close()

    def state() -> tuple[list[int], int]:
        return [open_fds(pid) for pid in farm.workers], sum(len(server.sessions) for server in farm.servers)

    tour()
    tour()
    before = state()
    for _ in range(4):
        tour()

    def settled() -> bool:
        fds, sessions = state()
        return all(now <= then + 4 for now, then in zip(fds, before[0], strict=True)) and sessions <= before[1] + 1

    try:
        wait_until(settled, 4)
    except AssertionError:
        raise AssertionError(f"before {before}, now {state()}") from None


def test_a_slow_reader_costs_only_itself(farm: Farm) -> None:
    async def much(x: Exchange) -> None:
        for step in range(200):
            await x.notify("notifications/message", {"level": "info", "data": "x" * 50_000, "n": step})
        await x.text("done")

    farm.a.on("much", much)
    with Session(farm.at("/one")) as session, session.open_call("much") as stream:
        assert stream.message()["params"]["n"] == 0
        for _ in range(20):
            assert session.call("echo").status == 200
