"""Listening sockets: one per slot, refused with advice when somebody else has the port, held by a lock, given up whole."""

from __future__ import annotations

import errno
import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from agw.runtime.snapshot import BindKey
from agw.supervisor.sockets import ListenSet, SocketError, address_text, bind_plain, family_of

LOCAL = "127.0.0.1"


@pytest.fixture
def listen() -> Iterator[ListenSet]:
    made = ListenSet(3, 16, [])
    yield made
    for key in list(made.sockets):
        made.close(key)


def free_port() -> int:
    with socket.create_server((LOCAL, 0)) as sock:
        port: int = sock.getsockname()[1]
        return port


def accepts(socks: list[socket.socket], port: int, clients: int) -> int:
    """How many of `clients` connections all `socks` together accept."""
    connections = [socket.create_connection((LOCAL, port), 5) for _ in range(clients)]
    found = 0
    for sock in socks:
        while True:
            try:
                sock.accept()[0].close()
            except BlockingIOError:
                break
            found += 1
    for connection in connections:
        connection.close()
    return found


def test_one_socket_per_slot_on_one_port(listen: ListenSet) -> None:
    key = BindKey(LOCAL, 0)
    listen.open(key)
    socks = listen.sockets[key]
    ports = {sock.getsockname()[1] for sock in socks}
    assert len(socks) == 3
    assert len(ports) == 1
    assert listen.addresses() == [f"{LOCAL}:{ports.copy().pop()}"]
    assert all(not sock.getblocking() and not os.get_inheritable(sock.fileno()) for sock in socks)
    assert accepts(socks, ports.pop(), 30) == 30


def test_opening_twice_changes_nothing(listen: ListenSet) -> None:
    key = BindKey(LOCAL, free_port())
    listen.open(key)
    before = list(listen.sockets[key])
    listen.open(key)
    assert listen.sockets[key] == before


def test_port_0_is_a_new_port_for_every_address(listen: ListenSet) -> None:
    listen.open(BindKey(LOCAL, 0))
    listen.open(BindKey("127.0.0.2", 0))
    assert len(set(listen.addresses())) == 2
    assert all(not text.endswith(":0") for text in listen.addresses())


def test_every_interface(listen: ListenSet) -> None:
    port = free_port()
    listen.open(BindKey("", port))
    assert listen.addresses() == [f"*:{port}"]
    assert accepts(listen.sockets[BindKey("", port)], port, 3) == 3


@pytest.mark.parametrize("reuse", [False, True])
def test_a_port_that_somebody_listens_on_is_refused_with_advice(listen: ListenSet, reuse: bool) -> None:
    """Also when that somebody uses SO_REUSEPORT, which would let us in and give us a part of its clients."""
    with socket.socket() as other:
        if reuse:
            other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        other.bind((LOCAL, 0))
        other.listen()
        port = other.getsockname()[1]
        before = len(os.listdir("/proc/self/fd"))
        with pytest.raises(SocketError) as caught:
            listen.open(BindKey(LOCAL, port), 0.05)
        assert caught.value.errno == errno.EADDRINUSE
        assert f"{LOCAL}:{port}" in str(caught.value)
        assert "another process listens there" in str(caught.value)
        assert listen.sockets == {}
        assert len(os.listdir("/proc/self/fd")) == before
    listen.open(BindKey(LOCAL, port))


def test_two_instances_cannot_have_one_bind(listen: ListenSet) -> None:
    key = BindKey(LOCAL, free_port())
    listen.open(key)
    other = ListenSet(1, 16, [])
    with pytest.raises(SocketError, match="another process listens there"):
        other.open(key, 0.05)
    listen.close(key)
    other.open(key, 0.05)
    other.close(key)


def test_a_predecessor_is_waited_for(listen: ListenSet) -> None:
    old = ListenSet(1, 16, [])
    key = BindKey(LOCAL, free_port())
    old.open(key)
    timer = threading.Timer(0.1, old.close, [key])
    timer.start()
    started = time.monotonic()
    listen.open(key, 5)
    assert time.monotonic() - started < 4
    timer.join()


@pytest.mark.parametrize(
    ("key", "code", "advice"),
    [
        (BindKey("192.0.2.1", 0), errno.EADDRNOTAVAIL, "no interface of this machine has that address"),
        (BindKey("192.0.2.1", 47001), errno.EADDRNOTAVAIL, "no interface of this machine has that address"),
    ],
)
def test_other_refusals(listen: ListenSet, key: BindKey, code: int, advice: str) -> None:
    with pytest.raises(SocketError) as caught:
        listen.open(key, 0.05)
    assert caught.value.errno == code
    assert advice in str(caught.value)
    assert listen.sockets == {}


def test_inherited_sockets_are_used_as_they_are() -> None:
    given = socket.create_server((LOCAL, 0))
    port = given.getsockname()[1]
    listen = ListenSet(2, 16, [given])
    key = BindKey("", port)
    listen.open(key)
    assert [sock.getsockname() for sock in listen.sockets[key]] == [given.getsockname()] * 2
    assert accepts(listen.sockets[key], port, 4) == 4
    listen.close(key)
    given.close()


def test_a_child_keeps_only_its_slot(listen: ListenSet) -> None:
    keys = [BindKey(LOCAL, 0), BindKey("127.0.0.2", free_port())]
    for key in keys:
        listen.open(key)
    ports = {key: listen.sockets[key][0].getsockname()[1] for key in keys}
    r, w = os.pipe()
    pid = os.fork()
    if pid == 0:
        mine, _ = listen.keep_only_slot(1)
        fine = {key: socket.socket(fileno=fd).getsockname()[1] for key, fd in mine.items()} == ports and not listen.sockets
        os.write(w, b"1" if fine else b"0")
        os._exit(0)
    os.waitpid(pid, 0)
    assert os.read(r, 1) == b"1"
    os.close(r)
    os.close(w)
    # The parent still has all of them.
    assert accepts(listen.sockets[keys[0]], ports[keys[0]], 3) == 3


def test_addresses_as_text() -> None:
    assert address_text((LOCAL, 80)) == "127.0.0.1:80"
    assert address_text(("::", 80, 0, 0)) == address_text(("0.0.0.0", 80)) == "*:80"
    assert address_text(("::1", 80, 0, 0)) == "[::1]:80"
    assert family_of(LOCAL) == (socket.AF_INET, LOCAL)
    assert family_of("::1") == (socket.AF_INET6, "::1")


# ------------------------------------------------------------------------------------------------------- bind_plain


@pytest.mark.parametrize("text", ["", "off"])
def test_a_listener_that_is_off(text: str) -> None:
    assert bind_plain(text) is None


@pytest.mark.parametrize("text", ["127.0.0.1:0", "localhost:0"])
def test_a_plain_listener(text: str) -> None:
    sock = bind_plain(text)
    assert sock is not None
    with sock:
        assert sock.getsockname()[0] == LOCAL
        socket.create_connection(sock.getsockname(), 5).close()


def test_a_plain_listener_on_a_path_replaces_what_a_dead_process_left(tmp_path: Path) -> None:
    path = tmp_path / "admin.sock"
    for _ in range(2):
        sock = bind_plain(f"unix:{path}")
        assert sock is not None
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))
        sock.close()
        assert path.exists()


def test_a_plain_listener_waits_for_a_predecessor(tmp_path: Path) -> None:
    for address in (f"unix:{tmp_path / 's'}", f"{LOCAL}:{free_port()}"):
        old = bind_plain(address)
        assert old is not None
        timer = threading.Timer(0.05, old.close)
        timer.start()
        new = bind_plain(address, 5)
        timer.join()
        assert new is not None
        new.close()


def test_a_plain_listener_takes_nothing_away(tmp_path: Path) -> None:
    """Neither a file nor the socket of a process that is alive."""
    alive = bind_plain(f"unix:{tmp_path / 'alive'}")
    assert alive is not None
    (tmp_path / "file").write_text("precious")
    for name in ("alive", "file"):
        with pytest.raises(SocketError, match="another process listens there"):
            bind_plain(f"unix:{tmp_path / name}", 0.05)
    assert (tmp_path / "file").read_text() == "precious"
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(tmp_path / "alive"))
    alive.close()


def test_a_plain_listener_that_cannot_be_had() -> None:
    with socket.create_server((LOCAL, 0)) as other, pytest.raises(SocketError, match="another process listens there"):
        bind_plain(f"{LOCAL}:{other.getsockname()[1]}", 0.05)
    with pytest.raises(SocketError):
        bind_plain("unix:/nowhere/at/all")
