"""Listening sockets: one SO_REUSEPORT socket per bind and worker slot, made and kept by the supervisor.

Rules:
- a worker inherits the socket of its slot; its death closes nothing, so its successor serves the same queue;
- a port that somebody else listens on is refused, although SO_REUSEPORT would let a second instance in: a plain bind
  is tried first, and an abstract unix name is held as a lock for as long as the supervisor lives;
- beside them every bind and slot has an abstract unix socket for requests that other workers pass on (agw.worker.hop);
- sockets of a `.socket` unit are used as they are, shared by all slots; they outlive this instance, so nothing is ever
  done to them that lasts.
"""

from __future__ import annotations

import errno
import os
import socket
import stat
import time
from typing import Any

from agw._fast.process import refuse_new_connections
from agw.runtime.snapshot import BindKey
from agw.worker.hop import hop_name

SO_DETACH_FILTER = 27
"""asm-generic/socket.h; Python does not name it."""
FREE_WAIT_S = 3.0
"""How long a port may still be held by the dying workers of a predecessor."""


class SocketError(OSError):
    """A listening socket cannot be had; the text names the address and what to do."""


def family_of(address: str) -> tuple[int, str]:
    """Address family and the address to bind for a configured one ("" = every interface)."""
    if address == "":
        return (socket.AF_INET6, "::") if socket.has_ipv6 and os.path.exists("/proc/net/if_inet6") else (socket.AF_INET, "0.0.0.0")
    return (socket.AF_INET6 if ":" in address else socket.AF_INET), address


def new_socket(address: str) -> tuple[socket.socket, str]:
    """An unbound stream socket for an address, and the address as bind() wants it."""
    family, host = family_of(address)
    sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0 if address == "" else 1)
    return sock, host


def explain(error: OSError, where: str) -> SocketError:
    """The same error with what to do about it."""
    advice = {
        errno.EADDRINUSE: "another process listens there; stop it or choose another port",
        errno.EACCES: "ports below 1024 need CAP_NET_BIND_SERVICE",
        errno.EADDRNOTAVAIL: "no interface of this machine has that address",
    }.get(error.errno or 0, "check the address")
    return SocketError(error.errno, f"cannot listen on {where}: {os.strerror(error.errno or 0)} ({advice})")


class ListenSet:
    """All listening sockets of an instance, by bind and slot. Without the name of an `instance` there are none for hops."""

    def __init__(self, slots: int, backlog: int, inherited: list[socket.socket], instance: str = "") -> None:
        self._slots = slots
        self._backlog = backlog
        self._inherited = {self._where(s): s for s in inherited}
        self._locks: dict[BindKey, socket.socket] = {}
        self._instance = instance
        self.sockets: dict[BindKey, list[socket.socket]] = {}
        self.hops: dict[BindKey, list[socket.socket]] = {}

    @staticmethod
    def _where(sock: socket.socket) -> int:
        name = sock.getsockname()
        return int(name[1]) if isinstance(name, tuple) else 0

    def open(self, key: BindKey, wait_s: float = FREE_WAIT_S) -> None:
        """Make the sockets of one bind. Errors: SocketError; nothing is left open then."""
        if key in self.sockets:
            return
        given = self._inherited.get(key.port)
        if given is not None:
            given.setblocking(False)
            self.sockets[key] = [given.dup() for _ in range(self._slots)]
            self._open_hops(key)
            return
        where = f"{key.address or '*'}:{key.port}"
        made: list[socket.socket] = []
        lock: socket.socket | None = None
        try:
            lock = self._claim(key, where, wait_s)
            port = key.port
            for _ in range(self._slots):
                sock, host = new_socket(key.address)
                made.append(sock)
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
                # Inherited by accepted connections, so no call per connection.
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                sock.bind((host, port))
                port = sock.getsockname()[1]
            for sock in made:
                sock.listen(self._backlog)
        except OSError as error:
            for sock in made:
                sock.close()
            if lock is not None:
                lock.close()
            raise error if isinstance(error, SocketError) else explain(error, where) from None
        self.sockets[key] = made
        if lock is not None:
            self._locks[key] = lock
        self._open_hops(key)

    def _open_hops(self, key: BindKey) -> None:
        """One socket per slot; nobody else knows the name of an instance before it is taken."""
        for slot in range(self._slots if self._instance else 0):
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
            self.hops.setdefault(key, []).append(sock)
            sock.bind("\0" + hop_name(self._instance, slot, key)[1:])
            sock.listen(self._backlog)

    def _claim(self, key: BindKey, where: str, wait_s: float) -> socket.socket | None:
        if key.port == 0:
            return None
        lock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        deadline = time.monotonic() + wait_s
        while True:
            try:
                lock.bind(f"\0agw-listen/{os.getuid()}/{key.address}/{key.port}")
                break
            except OSError as error:
                if time.monotonic() > deadline:
                    lock.close()
                    raise explain(OSError(errno.EADDRINUSE, ""), where) from error
                time.sleep(0.02)
        while True:
            probe, host = new_socket(key.address)
            try:
                probe.bind((host, key.port))
                return lock
            except OSError as error:
                # The workers of a killed predecessor need a moment to let go; anybody else keeps the port.
                if error.errno != errno.EADDRINUSE or time.monotonic() > deadline:
                    lock.close()
                    raise explain(error, where) from None
                time.sleep(0.02)
            finally:
                probe.close()

    def close(self, key: BindKey) -> None:
        """Give up one bind in this process."""
        for sock in (*self.sockets.pop(key, []), *self.hops.pop(key, [])):
            sock.close()
        lock = self._locks.pop(key, None)
        if lock is not None:
            lock.close()

    def keep_only_slot(self, slot: int) -> tuple[dict[BindKey, int], dict[BindKey, int]]:
        """In a child: close what belongs to other slots; returns this slot's descriptors, now owned by the caller: those
        for clients and those for hops."""
        mine, hops = keep_one(self.sockets, slot), keep_one(self.hops, slot)
        for lock in self._locks.values():
            lock.close()
        for sock in self._inherited.values():
            sock.close()
        self._locks.clear()
        return mine, hops

    @property
    def lent(self) -> frozenset[BindKey]:
        """Binds on sockets of a `.socket` unit."""
        return frozenset(key for key in self.sockets if key.port in self._inherited)

    def shut_doors(self, key: BindKey) -> None:
        """Let nobody new into the queues of a bind; what is in them stays, and what is half open still completes."""
        if key not in self.lent:
            for sock in self.sockets[key]:
                refuse_new_connections(sock.fileno())

    def open_door(self, key: BindKey, slot: int) -> None:
        """Undo it for one slot; nothing happens if the door is open."""
        try:
            self.sockets[key][slot].setsockopt(socket.SOL_SOCKET, SO_DETACH_FILTER, 0)
        except OSError:
            pass

    def addresses(self) -> list[str]:
        """What is listened on, with the ports that port 0 became."""
        return [address_text(socks[0].getsockname()) for socks in self.sockets.values()]


def keep_one(sockets: dict[BindKey, list[socket.socket]], slot: int) -> dict[BindKey, int]:
    """Close the sockets of all other slots and empty the table; returns the descriptors of this slot."""
    mine = {}
    for key, socks in sockets.items():
        for i, sock in enumerate(socks):
            if i == slot:
                mine[key] = sock.detach()
            else:
                sock.close()
    sockets.clear()
    return mine


def address_text(name: tuple[Any, ...]) -> str:
    """A socket's name as `host:port`; `*` is every interface."""
    host = "*" if name[0] in ("::", "0.0.0.0") else str(name[0])
    return f"[{host}]:{name[1]}" if ":" in host else f"{host}:{name[1]}"


def bind_plain(address: str, wait_s: float = FREE_WAIT_S) -> socket.socket | None:
    """A listening socket for the admin, stats or readiness listener: `host:port`, `unix:/path` or `off` (None).

    Waits for the helper of a killed predecessor to let go, at most `wait_s` seconds. Errors: SocketError.
    """
    if address in ("", "off"):
        return None
    deadline = time.monotonic() + wait_s
    while True:
        try:
            return _bind_plain(address)
        except OSError as error:
            if error.errno != errno.EADDRINUSE or time.monotonic() > deadline:
                raise explain(error, address) from None
        time.sleep(0.02)


def _bind_plain(address: str) -> socket.socket:
    sock: socket.socket | None = None
    try:
        if address.startswith("unix:"):
            path = address[5:]
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
            if not path.startswith("@"):
                remove_dead_socket(path)
            sock.bind("\0" + path[1:] if path.startswith("@") else path)
        else:
            host, _, port = address.rpartition(":")
            host = host.strip("[]")
            sock, host = new_socket("" if host in ("0.0.0.0", "::", "*", "") else "127.0.0.1" if host == "localhost" else host)
            sock.bind((host, int(port)))
        sock.listen(128)
        sock.setblocking(False)
        return sock
    except OSError:
        if sock is not None:
            sock.close()
        raise


def remove_dead_socket(path: str) -> None:
    """Remove the socket that a process left behind; what is alive, or no socket at all, stays and makes bind() fail."""
    if not os.path.exists(path) or not stat.S_ISSOCK(os.stat(path).st_mode):
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
        except BlockingIOError:
            return      # alive, and its queue is full
