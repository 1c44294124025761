"""A backend that does exactly what a test says, octet by octet, and remembers exactly what it got.

    with Upstream() as up:                          # listens on 127.0.0.1, a port of the system's choice
        up.play(lambda peer: peer.answer(peer.request(), b"hello"))
        ...
        up.requests[0].head                         # what came, as it came

A script is called once per connection, in a thread of its own, with the connection (`Peer`). It reads, sends, waits,
resets; what it raises is kept and raised by `check()`. A script that returns closes its connection in good order.

Nothing here knows the gateway: no parser of agw is used, and framing is read in the most literal way.
"""

from __future__ import annotations

import os
import socket
import struct
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

PATIENCE = 10.0
"""Upper bound of every wait, in seconds. No test waits that long unless something is broken."""


class Gone(ConnectionError):
    """The other side closed or reset where the script wanted octets."""


@dataclass
class Request:
    """One request as it arrived. `head` ends with the empty line; `wire` is everything, body framing included."""

    head: bytes
    body: bytes = b""
    chunks: list[bytes] = field(default_factory=list)
    trailer: bytes = b""
    wire: bytes = b""
    peer: Peer | None = None

    @property
    def line(self) -> bytes:
        return self.head.split(b"\r\n", 1)[0]

    @property
    def method(self) -> bytes:
        return self.line.split(b" ")[0]

    @property
    def target(self) -> bytes:
        return self.line.split(b" ")[1]

    @property
    def fields(self) -> list[tuple[bytes, bytes]]:
        """Names and values in order, names in their case, values exactly as between ": " and CRLF."""
        out = []
        for line in self.head.split(b"\r\n")[1:-2]:
            name, colon, value = line.partition(b": ")
            assert colon, f"field line without ': ': {line!r}"
            out.append((name, value))
        return out

    def get(self, name: bytes) -> list[bytes]:
        return [value for key, value in self.fields if key.lower() == name.lower()]


class Peer:
    """One accepted connection."""

    def __init__(self, owner: Upstream, sock: socket.socket, index: int) -> None:
        self.owner = owner
        self.sock = sock
        self.index = index
        self.buffer = bytearray()
        self.received = bytearray()
        self.closed = threading.Event()
        self.ending = False
        sock.settimeout(PATIENCE)
        if sock.family != socket.AF_UNIX:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    # ------------------------------------------------------------------------------------------------ reading

    def _more(self) -> bytes:
        try:
            data = self.sock.recv(1 << 18)
        except ConnectionError:
            data = b""
        if not data:
            raise Gone
        if self.owner.record:
            self.received += data
        self.buffer += data
        return data

    def until(self, mark: bytes) -> bytes:
        """Everything up to and with `mark`."""
        start = 0
        while True:
            cut = self.buffer.find(mark, start)
            if cut >= 0:
                return self.read(cut + len(mark))
            start = max(0, len(self.buffer) - len(mark) + 1)
            self._more()

    def read(self, n: int) -> bytes:
        """Exactly n octets."""
        while len(self.buffer) < n:
            self._more()
        data = bytes(self.buffer[:n])
        del self.buffer[:n]
        return data

    def some(self) -> bytes:
        """What there is, at least one octet."""
        if not self.buffer:
            self._more()
        return self.read(len(self.buffer))

    def expect(self, octets: bytes) -> None:
        """The next octets must be these."""
        got = self.read(len(octets))
        assert got == octets, f"expected {octets!r}, got {got!r}"

    def head(self) -> Request:
        """A request head; the body is not read."""
        request = Request(self.until(b"\r\n\r\n"), peer=self)
        request.wire = request.head
        return request

    def body(self, request: Request) -> Request:
        """Reads the body that belongs to `request`, literally: one framing field, canonical chunks."""
        lengths, codings = request.get(b"content-length"), request.get(b"transfer-encoding")
        assert len(lengths) + len(codings) <= 1, request.head
        if lengths:
            request.body = self.read(int(lengths[0]))
            request.wire += request.body
        elif codings:
            assert codings == [b"chunked"], request.head
            while True:
                line = self.until(b"\r\n")
                data = self.read(int(line[:-2], 16))
                request.wire += line
                if not data:
                    break
                self.expect(b"\r\n")
                request.wire += data + b"\r\n"
                request.chunks.append(data)
            while (line := self.until(b"\r\n")) != b"\r\n":
                request.trailer += line
            request.wire += request.trailer + b"\r\n"
            request.body = b"".join(request.chunks)
        return request

    def request(self) -> Request:
        """A whole request, also kept in the upstream's list."""
        request = self.body(self.head())
        self.owner.keep(request)
        return request

    def until_eof(self, patience: float = PATIENCE) -> bytes:
        """Everything until the gateway closes; TimeoutError when it does not in time. A reset counts as closed."""
        self.sock.settimeout(patience)
        with suppress(Gone):
            while True:
                self._more()
        self.sock.settimeout(PATIENCE)
        return self.read(len(self.buffer))

    # ------------------------------------------------------------------------------------------------ sending

    def send(self, octets: bytes) -> None:
        self.sock.sendall(octets)

    def answer(self, request: Request | None = None, body: bytes = b"ok", *, status: bytes = b"200 OK", head: bytes = b"") -> None:
        """An answer with Content-Length; `head` are further field lines, each with its CRLF."""
        octets = b"HTTP/1.1 %b\r\nContent-Length: %d\r\n%b\r\n" % (status, len(body), head)
        self.send(octets if request is not None and request.method == b"HEAD" else octets + body)

    def serve(self, body: bytes = b"ok", **how: Any) -> None:
        """Answers requests until the gateway closes."""
        with suppress(Gone):
            while True:
                self.answer(self.request(), body, **how)

    def trickle(self, octets: bytes, pause: float, stop: threading.Event) -> None:
        """One octet at a time until `stop` is set or all are sent."""
        for i in range(len(octets)):
            self.send(octets[i : i + 1])
            if stop.wait(pause):
                return

    # ------------------------------------------------------------------------------------------------- ending

    def pause(self, event: threading.Event) -> None:
        """Waits for the test."""
        assert event.wait(PATIENCE), "the test never let the upstream go on"

    def half_close(self) -> None:
        with suppress(OSError):  # the gateway may have left already
            self.sock.shutdown(socket.SHUT_WR)

    def reset(self) -> None:
        """RST instead of FIN."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close()

    def close(self) -> None:
        self.ending = True  # what the script's thread raises from now on is no finding
        self.sock.close()
        self.closed.set()


Script = Callable[[Peer], None]


def serve(peer: Peer) -> None:
    """The script of an upstream nobody gave one."""
    peer.serve()


class Upstream:
    """A listening socket and its connections."""

    def __init__(self, script: Script = serve, *, unix: str | None = None, backlog: int = 256) -> None:
        self.unix = unix
        self.script = script
        self.record = True
        self.requests: list[Request] = []
        self.peers: list[Peer] = []
        self.errors: list[BaseException] = []
        self._backlog = backlog
        self._changed = threading.Condition()
        self._accepted = 0
        self.port = 0
        self._listen()

    def _listen(self) -> None:
        if self.unix is not None:
            self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            with suppress(FileNotFoundError):
                os.unlink(self.unix)
            self.listener.bind(self.unix)
        else:
            self.listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
            self.listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self.listener.bind(("127.0.0.1", self.port))
            self.port = self.listener.getsockname()[1]
        self.listener.listen(self._backlog)
        self._thread = threading.Thread(target=self._accept, args=(self.listener,), daemon=True, name=f"upstream:{self.host}")
        self._thread.start()

    @property
    def host(self) -> str:
        """As it stands in a configuration."""
        return f"unix:{self.unix}" if self.unix is not None else f"127.0.0.1:{self.port}"

    @property
    def authority(self) -> bytes:
        """The Host an upstream sees by default."""
        return b"localhost" if self.unix is not None else self.host.encode()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                sock, _ = listener.accept()
            except OSError:
                return
            with self._changed:
                peer = Peer(self, sock, len(self.peers))
                self.peers.append(peer)
                script = self.script
                self._changed.notify_all()
            threading.Thread(target=self._run, args=(peer, script), daemon=True, name=f"peer:{self.port}").start()

    def _run(self, peer: Peer, script: Script) -> None:
        try:
            script(peer)
        except Gone:
            pass
        except BaseException as error:
            # Broken pipes and closed descriptors are how a script notices that the gateway left, or that the test ended it.
            if not isinstance(error, ConnectionError) and not peer.ending:
                self.errors.append(error)
        finally:
            peer.close()

    def keep(self, request: Request) -> None:
        with self._changed:
            self.requests.append(request)
            self._changed.notify_all()

    # --------------------------------------------------------------------------------------------- the test's side

    def play(self, script: Script) -> Upstream:
        """Forgets everything, ends all connections, and uses `script` for the next ones."""
        self.settle()
        with self._changed:
            self.script = script
            self.requests = []
            self.errors = []
            self.record = True
        return self

    def settle(self) -> None:
        """Closes all connections and waits until the gateway has closed its ends too, so that none is in its pool."""
        with self._changed:
            peers, self.peers = self.peers, []
        for peer in peers:
            if peer.closed.is_set():
                continue
            with suppress(OSError):
                peer.sock.shutdown(socket.SHUT_WR)
        deadline = time.monotonic() + 2.0
        for peer in peers:
            with suppress(OSError):
                while not peer.closed.is_set():
                    peer.sock.settimeout(max(0.01, deadline - time.monotonic()))
                    if not peer.sock.recv(1 << 18):
                        break
            peer.close()

    def wait(self, condition: Callable[[], bool], what: str, patience: float = PATIENCE) -> None:
        """Until `condition` holds; looked at whenever a connection or request arrives, and at short intervals."""
        deadline = time.monotonic() + patience
        with self._changed:
            while not condition():
                left = deadline - time.monotonic()
                if left <= 0:
                    raise AssertionError(f"upstream {self.host}: {what} did not happen within {patience} s")
                self._changed.wait(min(left, 0.05))

    def wait_requests(self, n: int, patience: float = PATIENCE) -> list[Request]:
        self.wait(lambda: len(self.requests) >= n, f"request number {n}", patience)
        return self.requests

    def wait_peers(self, n: int, patience: float = PATIENCE) -> list[Peer]:
        self.wait(lambda: len(self.peers) >= n, f"connection number {n}", patience)
        return self.peers

    def check(self) -> None:
        """Raises the first thing a script raised."""
        if self.errors:
            raise self.errors[0]

    def stop_listening(self) -> None:
        """From now on connections are refused; existing ones go on. `listen_again` takes the same address back."""
        with suppress(OSError):
            self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        self._thread.join(PATIENCE)

    def listen_again(self) -> None:
        self._listen()

    def close(self) -> None:
        self.stop_listening()
        self.settle()
        if self.unix is not None:
            with suppress(FileNotFoundError):
                os.unlink(self.unix)

    def __enter__(self) -> Upstream:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


class Blackhole:
    """An address that neither answers nor refuses a connection: a listener whose queue is full and never emptied."""

    def __init__(self) -> None:
        self.listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        self.listener.bind(("127.0.0.1", 0))
        self.listener.listen(0)
        self.port = self.listener.getsockname()[1]
        self.fillers: list[socket.socket] = []
        # The kernel takes backlog + 1; further SYNs are dropped without a word.
        for _ in range(8):
            filler = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
            filler.setblocking(False)
            filler.connect_ex(("127.0.0.1", self.port))
            self.fillers.append(filler)

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.port}"

    def close(self) -> None:
        for sock in (self.listener, *self.fillers):
            sock.close()
