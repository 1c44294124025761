"""What systemd hears and hands over: a real datagram socket in its place, real descriptors from 3 on in a fork."""

from __future__ import annotations

import json
import os
import re
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agw.supervisor.systemd import LISTEN_FDS_START, Notifier, take_listen_fds


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, socket.socket]]:
    """(NOTIFY_SOCKET, what systemd reads)."""
    name = str(tmp_path / "notify") if request.param == "path" else f"@agw-test-{os.getpid()}-{time.monotonic_ns()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(name.replace("@", "\0", 1))
        sock.settimeout(5)
        yield name, sock


def told(sock: socket.socket) -> dict[str, str]:
    lines = sock.recv(4096).decode().split("\n")
    return dict(line.split("=", 1) for line in lines)


def test_the_life_of_a_unit(manager: tuple[str, socket.socket]) -> None:
    address, sock = manager
    notifier = Notifier({"NOTIFY_SOCKET": address})
    notifier.ready("serving on *:3000")
    assert told(sock) == {"READY": "1", "STATUS": "serving on *:3000", "MAINPID": str(os.getpid())}
    before = time.monotonic_ns() // 1000
    notifier.reloading()
    said = told(sock)
    assert said.pop("RELOADING") == "1"
    assert before <= int(said.pop("MONOTONIC_USEC")) <= time.monotonic_ns() // 1000
    assert said == {}
    notifier.stopping(30.0)
    said = told(sock)
    assert said["STOPPING"] == "1"
    assert int(said["EXTEND_TIMEOUT_USEC"]) > 30_000_000
    notifier.status("fine")
    assert told(sock) == {"STATUS": "fine"}
    notifier.watchdog()
    assert told(sock) == {"WATCHDOG": "1"}
    notifier.close()
    notifier.watchdog()
    sock.setblocking(False)
    with pytest.raises(BlockingIOError):
        sock.recv(1)


def test_without_a_manager_nothing_happens() -> None:
    notifier = Notifier({})
    notifier.ready("x")
    notifier.watchdog()
    assert notifier.watchdog_ns == 0


def test_a_manager_that_is_gone_or_deaf_stops_nobody(tmp_path: Path) -> None:
    gone = Notifier({"NOTIFY_SOCKET": str(tmp_path / "none")})
    gone.ready("x")
    gone.close()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(tmp_path / "deaf"))
        notifier = Notifier({"NOTIFY_SOCKET": str(tmp_path / "deaf")})
        for _ in range(2000):
            notifier.watchdog()
        notifier.close()


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, 0),
        ({"WATCHDOG_USEC": "3000000"}, 3_000_000_000),
        ({"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": "self"}, 3_000_000_000),
        ({"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": "1"}, 0),
        ({"WATCHDOG_USEC": "soon"}, 0),
        ({"WATCHDOG_USEC": "-1"}, 0),
    ],
)
def test_the_watchdog_interval(environ: dict[str, str], expected: int) -> None:
    assert Notifier({k: v.replace("self", str(os.getpid())) for k, v in environ.items()}).watchdog_ns == expected


# -------------------------------------------------------------------------------------------------------- LISTEN_FDS


def handed_over(environ: dict[str, str]) -> Any:
    """Two listening sockets as descriptors 3 and 4, and `take_listen_fds` in a process of that environment."""
    first, second = socket.create_server(("127.0.0.1", 0)), socket.create_server(("127.0.0.1", 0))
    names = [list(s.getsockname()) for s in (first, second)]
    r, w = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.dup2(w, 200)
        os.dup2(first.fileno(), 100)
        os.dup2(second.fileno(), 101)
        os.dup2(100, LISTEN_FDS_START)
        os.dup2(101, LISTEN_FDS_START + 1)
        os.set_inheritable(3, True)
        mine = {k: v.replace("self", str(os.getpid())) for k, v in environ.items()}
        try:
            found = take_listen_fds(mine)
            answer: Any = {"names": [list(s.getsockname()) for s in found], "inherit": [os.get_inheritable(s.fileno()) for s in found], "left": mine}
        except BaseException as error:
            answer = repr(error)
        os.write(200, json.dumps(answer).encode())
        os._exit(0)
    os.close(w)
    first.close()
    second.close()
    text = b""
    while piece := os.read(r, 4096):
        text += piece
    os.close(r)
    os.waitpid(pid, 0)
    return names, json.loads(text)


def test_sockets_of_a_socket_unit() -> None:
    names, found = handed_over({"LISTEN_PID": "self", "LISTEN_FDS": "2", "LISTEN_FDNAMES": "a:b", "HOME": "/"})
    assert found == {"names": names, "inherit": [False, False], "left": {"HOME": "/"}}


@pytest.mark.parametrize(
    "environ",
    [{"LISTEN_PID": "1", "LISTEN_FDS": "2"}, {"LISTEN_FDS": "2"}, {"LISTEN_PID": "self"}, {"LISTEN_PID": "self", "LISTEN_FDS": "x"}, {}],
)
def test_sockets_for_somebody_else_are_left_alone(environ: dict[str, str]) -> None:
    _, found = handed_over(environ)
    assert found == {"names": [], "inherit": [], "left": {}}


def test_the_unit_in_the_repository_asks_for_what_the_notifier_says() -> None:
    unit = (Path(__file__).resolve().parents[3] / "config" / "systemd" / "agw.service").read_text()
    assert re.search(r"^Type=notify", unit, re.MULTILINE)
