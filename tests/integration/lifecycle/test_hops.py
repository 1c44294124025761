"""Hops: requests that one worker passes on to another, over sockets that only our own user gets into."""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from agw._fast.acceptor import Acceptor
from agw._fast.accesslog import AccessLog
from agw._fast.exchange import Context
from agw._fast.policy import Bind, Http, Match, Route
from agw._fast.reactor import Reactor
from agw._fast.router import Router
from agw.runtime.plan import HttpPlan
from agw.runtime.snapshot import BindKey
from agw.shm import layout
from agw.worker.hop import Hops
from tests.integration.conftest import Start
from tests.kits.backend import Backend
from tests.kits.gateway import Gateway, ask, free_port, free_ports, proxy_config, wait_until
from tests.peers.upstream import Upstream

LOCAL = "127.0.0.1"


def names(port: int) -> dict[int, str]:
    """Abstract names of a bind's hop sockets that are listened on, by slot."""
    found = {}
    with open("/proc/net/unix") as table:
        for line in table:
            name = line.rpartition(" ")[2].strip()
            if name.startswith("@agw.") and name.endswith(f".{LOCAL}:{port}") and line.split()[3] == "00010000":
                found[int(name.split(".")[2])] = name
    return found


def instance(port: int) -> str:
    return names(port)[0].split(".")[1]


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    with Upstream() as up:
        yield up
        up.check()


@pytest.fixture
def gateway(start: Start, upstream: Upstream) -> Gateway:
    return start(proxy_config(int(upstream.host.rpartition(":")[2]), port=free_port()), workers=2)


def seen(upstream: Upstream, what: Any) -> list[list[bytes]]:
    """X-Forwarded-For, and the fields between workers, of the newest request; `what` is the answer it got."""
    assert what.status == 200
    return [upstream.requests[-1].get(name) for name in (b"x-forwarded-for", b"agw-hop", b"agw-peer")]


# ------------------------------------------------------------------------------------------------- who is believed


def test_a_process_of_our_own_is_answered_by_that_worker(start: Start, backend: Backend) -> None:
    gateway = start(proxy_config(backend.port, port=free_port()), workers=2)
    sockets = names(gateway.port)
    assert sockets.keys() == {0, 1}
    for slot, name in sockets.items():
        assert ask(f"unix:{name}", "GET", "/fast").body == b"fast"
        stopped = gateway.slots()[slot]["pid"]
        os.kill(stopped, signal.SIGSTOP)
        try:
            with pytest.raises(TimeoutError):
                ask(f"unix:{name}", "GET", "/fast", timeout=0.3)
            assert ask(f"unix:{sockets[1 - slot]}", "GET", "/fast").body == b"fast"
        finally:
            os.kill(stopped, signal.SIGCONT)


def test_a_hop_says_whose_request_it_is(gateway: Gateway, upstream: Upstream) -> None:
    where = f"unix:{names(gateway.port)[0]}"
    for peer in ("203.0.113.9", "2001:db8::7"):
        answer = ask(where, "GET", "/", headers={"agw-hop": "1", "agw-peer": peer, "X-Forwarded-For": "198.51.100.1"})
        assert seen(upstream, answer) == [[peer.encode()], [], []]
    assert seen(upstream, ask(where, "GET", "/")) == [[b"unix"], [], []]


def test_each_request_of_a_connection_says_it_anew(gateway: Gateway, upstream: Upstream) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(5)
        sock.connect("\0" + names(gateway.port)[1][1:])
        for field, expected in ((b"agw-peer: 203.0.113.1\r\n", b"203.0.113.1"), (b"", b"unix"), (b"Agw-Peer: 203.0.113.2\r\n", b"203.0.113.2"),
                                (b"agw-peer: " + b"9" * 73 + b"\r\n", b"unix")):
            sock.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n" + field + b"\r\n")
            got = b""
            while not got.endswith(b"\r\n\r\nok"):
                got += sock.recv(4096)
            assert upstream.requests[-1].get(b"x-forwarded-for") == [expected]


def test_from_outside_nobody_is_believed(gateway: Gateway, upstream: Upstream) -> None:
    for fields in ({"agw-hop": "1", "agw-peer": "203.0.113.9"}, {"AGW-HOP": "1", "Agw-Peer": "203.0.113.9"}):
        assert seen(upstream, gateway.get("/", headers=fields)) == [[LOCAL.encode()], [], []]
        assert seen(upstream, gateway.get("/", method="POST", body=b"x" * 10, headers=fields)) == [[LOCAL.encode()], [], []]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_another_user_does_not_get_in(gateway: Gateway, upstream: Upstream) -> None:
    name = names(gateway.port)[0]
    code = (
        "import os,socket,sys; os.setuid(int(sys.argv[2]))\n"
        "s=socket.socket(socket.AF_UNIX); s.settimeout(5); s.connect('\\0'+sys.argv[1][1:])\n"
        "try:\n"
        "    s.sendall(b'GET / HTTP/1.1\\r\\nHost: x\\r\\nagw-hop: 1\\r\\nagw-peer: 203.0.113.9\\r\\n\\r\\n'); print(repr(s.recv(100)))\n"
        "except (ConnectionResetError, BrokenPipeError): print(b'')\n"
    )
    for user, expected in ((65534, "b''"), (0, "b'HTTP/1.1 200")):
        done = subprocess.run([sys.executable, "-c", code, name, str(user)], capture_output=True, text=True, timeout=20, check=True)
        assert done.stdout.startswith(expected)
    assert len(upstream.requests) == 1


def test_hops_do_not_count_against_the_limit_per_address(start: Start, backend: Backend) -> None:
    config = proxy_config(backend.port, port=free_port(), frontendPolicies={"http": {"maxConnectionsPerAddress": 1}})
    gateway = start(config, workers=1)
    name = names(gateway.port)[0]
    with socket.socket(socket.AF_UNIX) as idle:
        idle.connect("\0" + name[1:])
        assert ask(f"unix:{name}", "GET", "/fast").status == 200


# ------------------------------------------------------------------------------------------------------- its life


def test_a_successor_serves_what_waited_for_its_predecessor(start: Start, backend: Backend) -> None:
    gateway = start(proxy_config(backend.port, port=free_port()), workers=2)
    name = names(gateway.port)[0]
    for _ in range(2):
        victim = gateway.slots()[0]["pid"]
        os.kill(victim, signal.SIGSTOP)
        with socket.socket(socket.AF_UNIX) as waiting:
            waiting.settimeout(10)
            waiting.connect("\0" + name[1:])
            waiting.sendall(b"GET /fast HTTP/1.1\r\nHost: x\r\n\r\n")
            os.kill(victim, signal.SIGKILL)
            assert waiting.recv(4096).startswith(b"HTTP/1.1 200 ")
    assert names(gateway.port)[0] == name


def test_a_reload_brings_and_takes_the_sockets_of_a_bind(start: Start, backend: Backend) -> None:
    one, two = free_ports(2)
    gateway = start(proxy_config(backend.port, port=one), workers=2)
    life = instance(one)
    gateway.reload(proxy_config(backend.port, port=two))
    assert instance(two) == life
    for name in names(two).values():
        assert ask(f"unix:{name}", "GET", "/fast").body == b"fast"
    wait_until(lambda: not names(one), 5, "the old bind's sockets are gone")
    victim = gateway.slots()[1]["pid"]
    os.kill(victim, signal.SIGKILL)
    assert ask(f"unix:{names(two)[1]}", "GET", "/fast").body == b"fast", "a successor serves the new bind"


def test_another_instance_has_other_names(start: Start, backend: Backend) -> None:
    port = free_port()
    first = start(proxy_config(backend.port, port=port), workers=1)
    before = instance(port)
    first.stop()
    assert not names(port)
    start(proxy_config(backend.port, port=port), workers=1)
    assert instance(port) != before


def test_a_drain_serves_hops_while_a_client_is_left(start: Start, backend: Backend) -> None:
    gateway = start(proxy_config(backend.port, port=free_port()), workers=2)
    sockets = names(gateway.port)
    with socket.create_connection((LOCAL, gateway.port), 5) as client:
        client.settimeout(10)
        client.sendall(b"GET /held HTTP/1.1\r\nHost: x\r\n\r\n")
        wait_until(lambda: backend.waiting == 1, 5, "the request is under way")
        gateway.signal(signal.SIGTERM)
        # The worker without clients has settled by then and still serves the other one.
        wait_until(lambda: any(slot["state"] == "draining" for slot in gateway.slots()), 5)
        settled_for = threading.Event()
        for _ in range(5):
            for name in sockets.values():
                assert ask(f"unix:{name}", "GET", "/fast").body == b"fast"
            settled_for.wait(0.1)
        backend.release()
        assert client.recv(4096).startswith(b"HTTP/1.1 200 ")
    gateway.stop()


# ---------------------------------------------------------------------------------------------- who passes it on


@contextmanager
def passing_on(life: str, key: BindKey, slot: int) -> Iterator[int]:
    """A worker's data path on a thread, that passes every request on to a slot; yields its port."""
    arena = layout.Arena(1)
    errors: list[BaseException] = []
    reactor = Reactor(arena.slot(0), errors.append)
    context = Context(reactor, arena.slot(0), AccessLog(None), 1)
    hops = Hops(context, life, slot + 1)
    route = Route(
        "hop", 0, ("", "", "", "", ""), b"", [hops.choice(key, slot)], cors=None, reply_edits=None, redirect=None, direct=None, request_timeout_ns=0,
    )
    router = Router([("", 0, {"": [("prefix", "/", "", [], [], 0)]})])
    http = Http(HttpPlan())
    context.adopt(http)
    listener = socket.create_server((LOCAL, 0))
    listener.setblocking(False)
    port: int = listener.getsockname()[1]
    acceptor = Acceptor(context, listener.detach(), Bind("test", router, [Match(route, 0)], http, b"", 0))
    over = threading.Event()

    def run() -> None:
        acceptor.start()
        while not over.is_set():
            select.select([reactor.fileno()], [], [], 0.02)
            reactor.on_readable()
            reactor.tick()
            hops.tick()
        acceptor.stop_accepting()
        acceptor.cut()

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield port
    finally:
        over.set()
        thread.join(10)
    assert not errors


def test_a_request_is_passed_on_as_it_came(gateway: Gateway, upstream: Upstream) -> None:
    with passing_on(instance(gateway.port), BindKey(LOCAL, gateway.port), 1) as port:
        claims = {"X-Forwarded-For": "198.51.100.1", "agw-peer": "198.51.100.2", "agw-hop": "7", "Authorization": "Bearer t", "X-Other": "1"}
        answer = ask(f"{LOCAL}:{port}", "POST", "/a/b?c=d", b"body", {**claims, "Host": "client.example"})
    assert seen(upstream, answer) == [[LOCAL.encode()], [], []]
    request = upstream.requests[-1]
    assert (request.line, request.body) == (b"POST /a/b?c=d HTTP/1.1", b"body")
    assert request.get(b"x-forwarded-host") == [b"client.example"]
    assert request.get(b"authorization") == [b"Bearer t"]
    assert request.get(b"x-other") == [b"1"]


def test_what_the_client_claimed_reaches_the_owner_who_decides(start: Start, upstream: Upstream) -> None:
    config = proxy_config(int(upstream.host.rpartition(":")[2]), port=free_port(), frontendPolicies={"http": {"forwarded": "append"}})
    gateway = start(config, workers=2)
    with passing_on(instance(gateway.port), BindKey(LOCAL, gateway.port), 0) as port:
        answer = ask(f"{LOCAL}:{port}", "GET", "/", headers={"X-Forwarded-For": "198.51.100.1", "Forwarded": "for=198.51.100.1"})
    assert seen(upstream, answer) == [[b"198.51.100.1, 127.0.0.1"], [], []]
    assert upstream.requests[-1].get(b"forwarded") == [b"for=198.51.100.1"]


def test_a_stream_runs_through_a_hop(start: Start, backend: Backend) -> None:
    gateway = start(proxy_config(backend.port, port=free_port()), workers=2)
    with passing_on(instance(gateway.port), BindKey(LOCAL, gateway.port), 0) as port, socket.create_connection((LOCAL, port), 5) as client:
        client.settimeout(5)
        client.sendall(b"GET /sse?ms=1 HTTP/1.1\r\nHost: x\r\n\r\n")
        got = b""
        while got.count(b"data: tick") < 20:
            got += client.recv(4096)
        client.close()
        wait_until(lambda: backend.streams == 0, 5, "leaving ends the stream at its owner")


def test_an_instance_that_is_gone_is_an_answer(start: Start) -> None:
    with passing_on("00" * 8, BindKey(LOCAL, 1), 0) as port:
        assert ask(f"{LOCAL}:{port}", "GET", "/").status == 503
    with pytest.raises(ValueError, match="itself"):
        Hops(Context(Reactor(layout.Arena(1).slot(0), print), layout.Arena(1).slot(0), AccessLog(None), 1), "00", 3).choice(BindKey("", 1), 3)
