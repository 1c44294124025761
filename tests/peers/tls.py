"""A TLS connection whose every part a test can hold: handshake, records, close_notify and FIN are separate acts.

`ssl.SSLSocket` joins what has to be told apart here: it cannot read on after its close_notify, and cannot end without.

    sock = TlsSocket(raw, trusting(ca.pem), server_hostname="localhost")
    sock.sendall(...); sock.recv(...)               # as a socket; the handshake happens in the constructor
    sock.notify()                                   # close_notify, no FIN
    sock.shutdown(socket.SHUT_WR)                   # close_notify and FIN
    sock.raw.shutdown(socket.SHUT_WR)               # FIN alone: truncated
"""

from __future__ import annotations

import socket
import ssl
import threading
from typing import Any

from tests.peers.client import Client
from tests.peers.upstream import Gone, Peer, Script, Upstream


class Truncated(ConnectionError):
    """FIN without close_notify."""


class TlsSocket:
    """As a blocking socket, for one reading and one writing thread. `bytewise` sends ciphertext octet by octet."""

    def __init__(self, raw: socket.socket, context: ssl.SSLContext, *, server: bool = False, name: str | None = None,
                 session: ssl.SSLSession | None = None, bytewise: bool = False) -> None:
        self.raw = raw
        self.bytewise = bytewise
        self.notified = False
        """The other side sent close_notify."""
        self.truncated = False
        """It sent FIN without."""
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self._in, self._out, server_side=server, server_hostname=name, session=session)
        self._reset = False
        self._lock = threading.Lock()
        self._sending = threading.Lock()
        while True:
            try:
                self.tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                self._flush()
                self._fill()
            except ssl.SSLError:
                self._flush()
                raise
        self._flush()

    def _flush(self) -> None:
        with self._sending:
            with self._lock:
                data = self._out.read()
            if self.bytewise:
                for i in range(len(data)):
                    self.raw.sendall(data[i : i + 1])
            elif data:
                self.raw.sendall(data)

    def _fill(self) -> None:
        data = self.raw.recv(1 << 16)
        if not data:
            self.truncated = True
            raise Truncated("FIN without close_notify")
        with self._lock:
            self._in.write(data)

    def recv(self, n: int) -> bytes:
        if self.notified or self.truncated:
            return b""
        while True:
            with self._lock:
                try:
                    data = self.tls.read(n)
                    if not data:
                        self.notified = True
                    return data
                except ssl.SSLZeroReturnError:
                    self.notified = True
                    return b""
                except ssl.SSLWantReadError:
                    pass
            if self._out.pending:
                self._flush()
            try:
                self._fill()
            except Truncated:
                return b""

    def recv_into(self, view: Any) -> int:
        data = self.recv(len(view))
        view[: len(data)] = data
        return len(data)

    def sendall(self, data: bytes) -> None:
        view = memoryview(data)
        for at in range(0, len(view), 1 << 16):
            with self._lock:
                self.tls.write(view[at : at + (1 << 16)])
            self._flush()

    def send(self, data: bytes) -> int:
        self.sendall(data)
        return len(data)

    def notify(self) -> None:
        """close_notify; the other direction goes on."""
        with self._lock:
            try:
                self.tls.unwrap()
            except ssl.SSLError:
                pass
        self._flush()

    def shutdown(self, how: int) -> None:
        if how != socket.SHUT_RD:
            self.notify()
        self.raw.shutdown(how)

    def close(self) -> None:
        """close_notify, unless the socket is set to end with RST. Tickets nobody read yet must not turn FIN into RST."""
        if not self._reset:
            try:
                self.raw.settimeout(0.0)
                while self.raw.recv(1 << 16):
                    pass
            except OSError:
                pass
            try:
                self.raw.settimeout(1.0)
                self.notify()
            except OSError:
                pass
        self.raw.close()

    def settimeout(self, seconds: float | None) -> None:
        self.raw.settimeout(seconds)

    def setsockopt(self, level: int, option: int, value: Any) -> None:
        self._reset |= (level, option) == (socket.SOL_SOCKET, socket.SO_LINGER)
        self.raw.setsockopt(level, option, value)

    def getsockname(self) -> Any:
        return self.raw.getsockname()

    def getpeername(self) -> Any:
        return self.raw.getpeername()

    def fileno(self) -> int:
        return self.raw.fileno()

    @property
    def session(self) -> ssl.SSLSession | None:
        return self.tls.session


class TlsClient(Client):
    """A client that speaks TLS. `name` is the SNI; everything else is Client's."""

    sock: Any

    def __init__(self, port: int, context: ssl.SSLContext, name: str | None = "localhost", *, bytewise: bool = False,
                 session: ssl.SSLSession | None = None, **how: Any) -> None:
        super().__init__(port, **how)
        try:
            self.sock = TlsSocket(self.sock, context, name=name, bytewise=bytewise, session=session)
        except BaseException:
            self.sock.close()
            raise


class TlsUpstream(Upstream):
    """A backend that speaks TLS. Handshakes that fail are kept in `refused`, and no script is played for them."""

    def __init__(self, context: ssl.SSLContext, *how: Any, **more: Any) -> None:
        self.context = context
        self.refused: list[Exception] = []
        super().__init__(*how, **more)

    def _run(self, peer: Peer, script: Script) -> None:
        raw = peer.sock
        sock: Any
        try:
            sock = TlsSocket(raw, self.context, server=True)
        except (ssl.SSLError, ConnectionError, TimeoutError, Gone) as error:
            self.refused.append(error)
            raw.close()
            peer.closed.set()
            return
        peer.sock = sock
        super()._run(peer, script)
