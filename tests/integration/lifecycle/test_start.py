"""Starts that must fail, with which code and words; the demo; and what systemd gives and hears."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.conftest import Start
from tests.kits.backend import Backend
from tests.kits.gateway import Gateway, direct_route, free_port, proxy_config, wait_until
from tests.kits.load import Connection


def failing(start: Start, config: dict[str, Any] | str, **options: Any) -> tuple[int, str]:
    """Exit code and standard error of a gateway that must not start."""
    gateway: Gateway = start(config, ready=False, **options)
    code = gateway.wait(15)
    gateway.assert_gone()
    assert "Traceback" not in gateway.stderr()
    assert gateway.find_log("ready") is None
    return code, gateway.stderr()


# ---------------------------------------------------------------------------------------------------- refusals


def test_a_second_instance_on_the_same_port_is_refused(start: Start, backend: Backend) -> None:
    first = start(proxy_config(backend.port), workers=2)
    code, words = failing(start, proxy_config(backend.port, port=first.port))
    assert code == 71
    assert f"127.0.0.1:{first.port}" in words
    assert "another process listens there" in words
    assert first.get("/fast").status == 200
    assert first.pids()


def test_a_second_instance_is_refused_even_if_the_port_allows_it(start: Start) -> None:
    """A listener of somebody else with SO_REUSEPORT would let us in; half of its connections would be ours."""
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        other.bind(("127.0.0.1", 0))
        other.listen()
        code, words = failing(start, proxy_config(port=other.getsockname()[1]))
    assert code == 71
    assert "another process listens there" in words


def test_an_address_that_no_interface_has(start: Start) -> None:
    config = proxy_config()
    config["gateways"]["default"]["address"] = "192.0.2.77"
    config["gateways"]["default"]["port"] = free_port()
    code, words = failing(start, config)
    assert code == 71
    assert "192.0.2.77" in words
    assert "no interface of this machine has that address" in words


@pytest.mark.parametrize("name", ["adminAddr", "statsAddr", "readinessAddr"])
def test_an_internal_port_that_is_taken(start: Start, name: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        where = f"127.0.0.1:{other.getsockname()[1]}"
        code, words = failing(start, proxy_config(config={name: where}))
    assert code == 71
    assert where in words


def test_every_problem_of_a_config_is_told(start: Start) -> None:
    text = """
gateways:
  default:
    port: 70000
routes:
- backends:
  - host: nowhere
  surprise: 1
"""
    code, words = failing(start, text)
    assert code == 78
    assert "config.json:4:" in words
    assert "nowhere" in words
    assert "surprise" in words
    assert len(words.strip().splitlines()) == 3


def test_a_missing_file(start: Start) -> None:
    gateway: Gateway = start("{}", started=False)
    gateway.file.unlink()
    gateway.start(ready=False)
    assert gateway.wait(15) == 78
    assert str(gateway.file) in gateway.stderr()


def test_an_access_log_that_cannot_be_opened(start: Start) -> None:
    code, words = failing(start, proxy_config(frontendPolicies={"accessLog": {"enabled": True, "path": "/nonexistent/access.log"}}))
    assert code in (71, 78)
    assert "/nonexistent/access.log" in words


# ---------------------------------------------------------------------------------------------------- the demo


def port_3000_is_free() -> bool:
    try:
        socket.create_server(("127.0.0.1", 3000)).close()
    except OSError:
        return False
    return True


def test_without_a_file_the_demo_is_served(start: Start) -> None:
    if not port_3000_is_free():
        pytest.skip("port 3000 is taken")
    names = {name: f"unix:@agw-test-{os.getpid()}-demo-{name}" for name in ("admin", "stats", "readiness")}
    gateway = start(None, env={f"{name.upper()}_ADDR": where for name, where in names.items()})
    gateway.addresses = names
    assert gateway.port == 3000
    accept = {"content-type": "application/json", "accept": "application/json, text/event-stream"}

    def call(message: dict[str, Any], **headers: str) -> tuple[Any, Any]:
        reply = gateway.get("/mcp", method="POST", body=json.dumps(message).encode(), headers={**accept, **headers})
        assert reply.status in (200, 202), reply
        text = reply.text
        if "event-stream" in reply.headers.get("content-type", ""):
            text = next(line[6:] for line in text.splitlines() if line.startswith("data: {"))
        return reply, json.loads(text) if text else None

    client = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "test", "version": "1"}}
    reply, body = call({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": client})
    assert body["id"] == 1
    version = body["result"]["protocolVersion"]
    session = {"mcp-session-id": reply.headers["mcp-session-id"], "mcp-protocol-version": version}
    call({"jsonrpc": "2.0", "method": "notifications/initialized"}, **session)
    _, body = call({"jsonrpc": "2.0", "id": 2, "method": "tools/list"}, **session)
    assert "echo" in [tool["name"] for tool in body["result"]["tools"]]
    _, body = call({"jsonrpc": "2.0", "id": 3, "method": "tools/call", "params": {"name": "echo", "arguments": {"text": "hi"}}}, **session)
    assert "hi" in json.dumps(body["result"])
    metrics = gateway.metrics()
    assert metrics.total("mcp_requests_total", method="tools/call") == 1

    # The demo lives in the helper; its sessions die with it, its address does not.
    os.kill(gateway.helper_pid(), signal.SIGKILL)
    wait_until(lambda: gateway.ready() == 200, 5)
    _, body = call({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": client})
    assert body["id"] == 1
    assert gateway.reload() == 2


# ---------------------------------------------------------------------------------------------------- systemd


class Manager:
    """The receiving end of sd_notify(3): every datagram as a dict of its assignments."""

    def __init__(self, address: str) -> None:
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._sock.bind("\0" + address[1:] if address.startswith("@") else address)
        self._sock.setblocking(False)
        self.heard: list[dict[str, str]] = []

    def close(self) -> None:
        self._sock.close()

    def poll(self) -> list[dict[str, str]]:
        """All so far."""
        while True:
            try:
                data = self._sock.recv(4096)
            except BlockingIOError:
                return self.heard
            self.heard.append(dict(line.partition("=")[::2] for line in data.decode().splitlines()))

    def wait_for(self, name: str, value: str | None = None, after: int = 0, timeout: float = 10) -> int:
        """Index of the first datagram from `after` on that has the assignment."""

        def found() -> int | None:
            for i, message in enumerate(self.poll()):
                if i >= after and name in message and value in (None, message[name]):
                    return i + 1
            return None

        return wait_until(found, timeout, f"{name}={value or ''}") - 1


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Manager, str]]:
    address = str(tmp_path / "n") if request.param == "path" else f"@agw-notify-{os.getpid()}"
    receiver = Manager(address)
    yield receiver, address
    receiver.close()


def test_sd_notify(start: Start, manager: tuple[Manager, str]) -> None:
    systemd, address = manager
    gateway = start(proxy_config(routes=[direct_route("one")]), workers=2, env={"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "600000"})
    ready = systemd.wait_for("READY", "1")
    assert systemd.heard[ready]["MAINPID"] == str(gateway.pid)
    assert str(gateway.port) in systemd.heard[ready]["STATUS"]
    watchdog = systemd.wait_for("WATCHDOG", "1", ready)
    systemd.wait_for("WATCHDOG", "1", watchdog + 1)

    before = time.monotonic_ns() // 1000
    gateway.signal(signal.SIGHUP)
    at = systemd.wait_for("RELOADING", "1", ready)
    assert before <= int(systemd.heard[at]["MONOTONIC_USEC"]) <= time.monotonic_ns() // 1000
    again = systemd.wait_for("READY", "1", at)

    # A refused reload is over as well; systemd would wait for ever otherwise.
    gateway.write("{[")
    gateway.signal(signal.SIGHUP)
    at = systemd.wait_for("RELOADING", "1", again)
    done = systemd.wait_for("READY", "1", at)
    assert "refused" in systemd.heard[done]["STATUS"]

    gateway.stop()
    end = systemd.wait_for("STOPPING", "1", done)
    assert not [m for m in systemd.heard[end:] if "READY" in m or "WATCHDOG" in m]


@pytest.mark.parametrize("manager", ["path"], indirect=True)
def test_the_watchdog_is_not_fed_while_a_worker_is_frozen(start: Start, manager: tuple[Manager, str]) -> None:
    systemd, address = manager
    env = {"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "900000"}
    gateway = start(proxy_config(config={"heartbeatTimeout": "1500ms"}), workers=2, env=env)
    fed = systemd.wait_for("WATCHDOG", "1")
    victim = gateway.pids()[0]
    os.kill(victim, signal.SIGSTOP)
    gateway.wait_log("worker does not answer")
    wait_until(lambda: len(gateway.pids()) == 2 and victim not in gateway.pids(), 5)
    systemd.wait_for("WATCHDOG", "1", max(fed + 1, len(systemd.poll())))
    assert gateway.get().status == 200


def handed_over(*socks: socket.socket) -> dict[str, Any]:
    """Options for `Gateway`: descriptors 3... are these sockets, as for a service with a `.socket` unit."""
    fds = [sock.fileno() for sock in socks]
    script = (
        f"import os, sys; [os.dup2(fd, 3 + i) for i, fd in enumerate({fds})]; "
        f"os.environ.update(LISTEN_FDS='{len(fds)}', LISTEN_PID=str(os.getpid())); os.execvp(sys.argv[1], sys.argv[1:])"
    )
    return {"wrapper": [sys.executable, "-c", script], "pass_fds": fds}


def high(sock: socket.socket) -> socket.socket:
    """The same socket on a descriptor that is not in the way."""
    return socket.socket(fileno=fcntl.fcntl(sock.detach(), fcntl.F_DUPFD_CLOEXEC, 50))


def test_a_socket_of_a_socket_unit_is_used(start: Start, backend: Backend) -> None:
    with high(socket.create_server(("127.0.0.1", 0), backlog=128)) as given:
        port = given.getsockname()[1]
        # What came before the service ran is served by it.
        early = Connection(port)
        early.send("/fast")
        gateway = start(proxy_config(backend.port, port=port), workers=2, **handed_over(given))
        assert gateway.port == port
        assert early.answer().body == b"fast"
        early.close()
        assert gateway.get("/fast").status == 200
        gateway.reload()
        assert gateway.get("/fast").status == 200
        # Killed and started anew, as systemd does: the socket outlives the service.
        gateway.stop()
        waiting = Connection(port)
        waiting.send("/fast")
        start(proxy_config(backend.port, port=port), workers=2, **handed_over(given))
        assert waiting.answer().body == b"fast"
        waiting.close()


def test_another_process_s_listen_fds_are_not_ours(start: Start) -> None:
    gateway = start(proxy_config(), workers=1, env={"LISTEN_FDS": "1", "LISTEN_PID": "1"})
    assert gateway.get().status == 200
