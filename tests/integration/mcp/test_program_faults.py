"""Programs as targets that misbehave, one after the other and a thousand at once: errors in time, limits, and no child left."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.integration.conftest import Start
from tests.integration.mcp.conftest import configuration, http_target, route, stdio_target
from tests.kits.gateway import Gateway, alive, open_fds, wait_until
from tests.peers.mcp_client import Answer, Endpoint, Session, initialize
from tests.peers.mcp_server import McpServer


def program(*args: str, **more: Any) -> dict[str, Any]:
    """A scripted program that has little time."""
    return stdio_target("s", *args, **{"timeouts": {"tools/call": "500ms"}, **more})


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """One worker; programs of either era, alone and beside others."""
    record = str(tmp_path_factory.mktemp("record") / "lines")
    with McpServer(name="h") as server, Gateway(configuration(
        route("/legacy", program(record)), route("/modern", program(record, offer={"era": "modern"})),
        route("/dual", program(record, offer={"era": "dual"})),
        route("/pair", program(record), http_target("h", server.port)),
        route("/missing", {"name": "x", "stdio": {"cmd": "/nonexistent/program"}}), route("/dead", {"name": "x", "stdio": {"cmd": "/bin/false"}}),
        route("/mute", {"name": "x", "timeout": "700ms", "stdio": {"cmd": "/bin/sleep", "args": ["600"], "stopGrace": "300ms"}}),
        route("/cat", {"name": "x", "timeout": "700ms", "stdio": {"cmd": "/bin/cat"}}),
    ), workers=1) as running:
        running.record = Path(record)  # type: ignore[attr-defined]
        yield running


def children(gateway: Gateway) -> list[int]:
    """Processes of the worker's targets."""
    ours = {gateway.pid, *gateway.pids(), *gateway.named("agw-helper")}
    return [pid for pid in _descendants(gateway.pid) if pid not in ours and alive(pid)]


def _descendants(root: int) -> list[int]:
    parents: dict[int, list[int]] = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                stat = Path(f"/proc/{entry}/stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            parents.setdefault(int(stat[1]), []).append(int(entry))
    found, todo = [], [root]
    while todo:
        below = parents.get(todo.pop(), [])
        found += below
        todo += below
    return found


def is_one_error(answer: Answer) -> None:
    assert len(answer.messages) == 1
    assert answer.error["code"] == -32603, answer.body
    assert answer.message["id"] == "mine"


FAULTS = ["die", "half", "hang", "garbage", "wrong_id", "not_rpc"]


@pytest.mark.parametrize("path", ["/legacy", "/modern", "/pair"])
def test_faults_of_programs(gateway: Gateway, path: str) -> None:
    """All at once, each in a session of its own; a modern-only program is one for all, so there one after the other."""
    prefix = "s_" if path == "/pair" else ""

    def one(fault: str) -> None:
        with Session(Endpoint(gateway.port, path)) as session:
            began = time.monotonic()
            is_one_error(session.call(prefix + fault, ident="mine"))
            assert time.monotonic() - began < 2.5
            wait_until(lambda: "result" in session.call(prefix + "echo").message, 5, "it works again")
            if path == "/pair":
                assert "result" in session.call("h_echo").message

    with ThreadPoolExecutor(1 if path == "/modern" else 6) as pool:
        list(pool.map(one, FAULTS))


@pytest.mark.parametrize(("path", "prefix"), [("/legacy", ""), ("/pair", "s_"), ("/dual", "")])
def test_faults_of_programs_and_modern_callers(gateway: Gateway, path: str, prefix: str) -> None:
    at = Endpoint(gateway.port, path)
    for fault in ("die", "hang", "wrong_id"):
        is_one_error(at.modern("tools/call", {"name": prefix + fault}, ident="mine"))
        wait_until(lambda: "result" in at.modern("tools/call", {"name": prefix + "echo"}).message, 5, "it works again")


@pytest.mark.parametrize("path", ["/legacy", "/dual"])
def test_what_is_not_for_us_on_the_pipes(gateway: Gateway, path: str) -> None:
    with Session(Endpoint(gateway.port, path)) as session:
        assert session.call("noise").text == "noisy"
        assert session.call("flood", {"size": 2_000_000}).text == "flooded", "standard error is always drained"
        assert session.call("long_line", {"size": 1 << 20}).text == "long"
        assert len(session.call("big", {"size": 3 << 20}).text) == 3 << 20


def test_a_line_without_end(gateway: Gateway) -> None:
    with Session(Endpoint(gateway.port, "/legacy")) as session:
        answer = session.call("long_line", {"size": 24 << 20}, ident="mine")
        assert answer.message.get("error", {}).get("code") == -32603 or answer.text == "long"
        wait_until(lambda: "result" in session.call("echo").message, 3, "it works again")


@pytest.mark.parametrize("path", ["/missing", "/dead", "/mute", "/cat"])
def test_programs_that_are_no_servers(gateway: Gateway, path: str) -> None:
    at = Endpoint(gateway.port, path)
    before = len(children(gateway))
    began = time.monotonic()
    answer = at.post(initialize(ident="mine"))
    is_one_error(answer)
    assert "mcp-session-id" not in answer.headers
    is_one_error(at.modern("tools/list", ident="mine"))
    assert time.monotonic() - began < 8
    wait_until(lambda: len(children(gateway)) <= before + 1, 4, "nothing is left of it")


def test_a_killed_program_is_opened_again_with_its_settings(gateway: Gateway) -> None:
    lines = gateway.record  # type: ignore[attr-defined]
    with Session(Endpoint(gateway.port, "/legacy")) as session:
        session.request("logging/setLevel", {"level": "error"})
        session.request("resources/subscribe", {"uri": "file:///watched"})
        pid = json.loads(session.call("whoami").text)["pid"]
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: not alive(pid), 3, "it is reaped")
        answer = wait_until(lambda: (found := session.call("whoami")) and "result" in found.message and found, 3, "a new one")
        fresh = json.loads(answer.text)["pid"]
        assert fresh != pid
        heard = [json.loads(line.partition(b" ")[2]) for line in lines.read_bytes().splitlines() if line.startswith(b"%d " % fresh)]
        methods = [each.get("method") for each in heard]
        assert methods[:2] == ["initialize", "notifications/initialized"]
        assert {"logging/setLevel", "resources/subscribe"} <= set(methods)


def test_a_program_per_session_and_none_left(gateway: Gateway) -> None:
    before = len(children(gateway))
    sessions = [Session(Endpoint(gateway.port, "/legacy")) for _ in range(4)]
    pids = {json.loads(session.call("whoami").text)["pid"] for session in sessions}
    assert len(pids) == 4
    for session in sessions:
        session.delete()
    wait_until(lambda: not any(map(alive, pids)), 4, "the sessions' programs ended")
    assert len(children(gateway)) <= before
    modern = {json.loads(Endpoint(gateway.port, "/dual").modern("tools/call", {"name": "whoami"}).text)["pid"] for _ in range(4)}
    assert len(modern) == 1, "stateless requests share one"


def test_eras_are_not_mixed_on_one_process(gateway: Gateway) -> None:
    at = Endpoint(gateway.port, "/dual")
    with Session(at) as session:
        for _ in range(3):
            legacy = json.loads(session.call("whoami").text)["pid"]
            modern = json.loads(at.modern("tools/call", {"name": "whoami"}).text)["pid"]
            assert legacy != modern


# ---------------------------------------------------------------------------------------------------------------- a storm

SHELL_SERVER = r"""
while read -r line; do
  case "$line" in
    *'"initialize"'*)
      result='{"protocolVersion":"2025-11-25","capabilities":{"tools":{}},"serverInfo":{"name":"sh","version":"1"}}'
      printf '%s\n' '{"jsonrpc":"2.0","id":"agw-initialize","result":'"$result"'}';;
  esac
done
"""


async def _abandon(port: int, number: int, seen: Counter[str]) -> None:
    """Open a session in one of several ways and leave without a word."""
    body = json.dumps(initialize(ident=number)).encode()
    head = (f"POST /storm HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nAccept: application/json, text/event-stream\r\n"
            f"Content-Length: {len(body)}\r\n\r\n").encode()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(head + body)
        if number % 5 == 0:
            seen["left"] += 1
            return
        answer = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 20)
        length = next(int(line.split(b":")[1]) for line in answer.lower().split(b"\r\n") if line.startswith(b"content-length"))
        message = json.loads(await reader.readexactly(length))
        assert message["id"] == number
        seen["opened" if "result" in message else f"refused {message['error']['code']}"] += 1
        token = next((line.split(b": ")[1] for line in answer.split(b"\r\n") if line.lower().startswith(b"mcp-session-id")), None)
        assert (token is not None) == ("result" in message)
        if token is not None and number % 5 == 1:
            writer.write(b"DELETE /storm HTTP/1.1\r\nHost: localhost\r\nMcp-Session-Id: %b\r\n\r\n" % token)
            assert b" 200 " in await asyncio.wait_for(reader.readline(), 10)
            seen["deleted"] += 1
    finally:
        writer.transport.abort()


def test_a_thousand_clients_that_come_and_go(start: Start, server: Callable[..., McpServer], tmp_path: Path) -> None:
    h = server(name="h")
    limit = 16
    program = tmp_path / "server.sh"
    program.write_text(SHELL_SERVER)
    gateway = start(configuration(
        route("/storm", {"name": "sh", "stdio": {"cmd": "/bin/sh", "args": [str(program)], "maxProcesses": limit, "stopGrace": "300ms"}},
              failureMode="failClosed"),
        route("/calm", http_target("h", h.port)), config={"mcp": {"sessionTtl": "1s"}},
    ), workers=2)
    calm = Session(Endpoint(gateway.port, "/calm"))
    fds = [open_fds(pid) for pid in gateway.pids()]
    workers = gateway.pids()
    most = 0
    over = threading.Event()
    slowest = 0.0

    def watch() -> None:
        nonlocal most, slowest
        while not over.wait(0.05):
            most = max(most, len(children(gateway)))
            began = time.monotonic()
            assert calm.call("echo").status == 200
            slowest = max(slowest, time.monotonic() - began)

    watcher = threading.Thread(target=watch)
    watcher.start()
    seen: Counter[str] = Counter()

    async def storm() -> None:
        gate = asyncio.Semaphore(50)

        async def one(number: int) -> None:
            async with gate:
                await _abandon(gateway.port, number, seen)

        await asyncio.gather(*(one(number) for number in range(1000)))

    try:
        asyncio.run(storm())
    finally:
        over.set()
        watcher.join(5)
    assert sum(seen.values()) - seen["deleted"] == 1000
    assert seen["opened"] > 0
    assert set(seen) <= {"opened", "left", "deleted", "refused -32603"}, seen
    assert most <= 2 * limit, "the limit is per worker"
    assert slowest < 2.0
    wait_until(lambda: not children(gateway), 15, "all children are gone")
    assert gateway.pids() == workers
    calm_again = Session(Endpoint(gateway.port, "/calm"))
    assert calm_again.call("echo").status == 200
    fresh = wait_until(lambda: (found := Endpoint(gateway.port, "/storm").post(initialize())) and "result" in found.message and found, 5, "there is room again")
    assert fresh.headers["mcp-session-id"]
    wait_until(lambda: all(open_fds(pid) <= before + 12 for pid, before in zip(gateway.pids(), fds, strict=True)), 10, "descriptors are given back")
