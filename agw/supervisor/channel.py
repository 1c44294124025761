"""Messages between the supervisor and a child: length-prefixed msgpack on a socket pair, descriptors alongside.

Rules:
- neither side ever blocks: what does not go out is queued, bounded;
- a message is one struct of `Message`; its descriptors arrive with it, in order;
- end of file means the other process is gone.
"""

from __future__ import annotations

import array
import socket
import struct
from typing import Any

import msgspec

MAX_QUEUED = 256 * 1024 * 1024
MAX_FDS = 64
"""Of one system call; a message may have more, one call per octet of its beginning."""


class Message(msgspec.Struct, frozen=True):
    """`op` says what to do; the other fields depend on it.

    To children: config (generation, plan, labels, new binds; descriptors for clients, then for hops), document, drain (deadline_ns), stop,
    reopen, level (text). To the supervisor: ready, applied (generation), failed (generation, text), quit, level (text).

    Fetched documents: `fetch` (payload: the list of DocumentPlan) to the helper; `want` (text: url) from a worker over the
    supervisor to the helper; `fetched` (text: url, payload: Fetched) from the helper over the supervisor to all workers.
    """

    op: str
    generation: int = 0
    payload: bytes = b""
    labels: bytes = b""
    text: str = ""
    number: int = 0
    binds: list[tuple[str, int]] = []


class ChannelClosed(Exception):
    """The other end is gone."""


class Channel:
    """One end. `fileno()` for poll; `flush()` when writable; `receive()` when readable."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._out: list[tuple[memoryview, list[int]]] = []
        self._queued = 0
        self._in = bytearray()
        self._fds: list[int] = []
        self._encoder = msgspec.msgpack.Encoder()
        self._decoder = msgspec.msgpack.Decoder(tuple[Message, int])

    @classmethod
    def pair(cls) -> tuple[Channel, Channel]:
        """Both ends."""
        a, b = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        return cls(a), cls(b)

    def fileno(self) -> int:
        """The descriptor to poll."""
        return self._sock.fileno()

    @property
    def pending(self) -> bool:
        """True while something waits to be written."""
        return bool(self._out)

    def close(self) -> None:
        """Close this end."""
        self._sock.close()

    def send(self, message: Message, fds: list[int] | None = None) -> None:
        """Queue a message and write what the kernel takes. Errors: ChannelClosed."""
        fds = fds or []
        body = self._encoder.encode((message, len(fds)))
        if self._queued + len(body) > MAX_QUEUED:
            raise ChannelClosed("the other end does not read")
        data = memoryview(struct.pack("!I", len(body)) + body)
        # Descriptors travel with the first octets, so that they are there before the message is complete.
        for at in range(0, len(fds), MAX_FDS):
            self._out.append((data[:1], fds[at : at + MAX_FDS]))
            data = data[1:]
        self._out.append((data, []))
        self._queued += 4 + len(body)
        self.flush()

    def flush(self) -> None:
        """Write what the kernel takes. Errors: ChannelClosed."""
        while self._out:
            view, fds = self._out[0]
            try:
                rights: list[Any] = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
                n = self._sock.sendmsg([view], rights, socket.MSG_NOSIGNAL)
            except BlockingIOError:
                return
            except OSError as error:
                raise ChannelClosed(str(error)) from None
            self._queued -= n
            if n == len(view):
                self._out.pop(0)
            else:
                self._out[0] = (view[n:], [])

    def receive(self) -> list[tuple[Message, list[int]]]:
        """Every complete message that is here. Errors: ChannelClosed at end of file."""
        closed = False
        while True:
            try:
                data, fds, _, _ = socket.recv_fds(self._sock, 1 << 18, MAX_FDS)
            except BlockingIOError:
                break
            except OSError:
                closed = True
                break
            self._fds.extend(fds)
            if not data:
                closed = True
                break
            self._in += data
        messages = []
        while len(self._in) >= 4:
            size = struct.unpack_from("!I", self._in)[0]
            if len(self._in) < 4 + size:
                break
            message, count = self._decoder.decode(bytes(self._in[4 : 4 + size]))
            del self._in[: 4 + size]
            messages.append((message, self._fds[:count]))
            del self._fds[:count]
        if closed and not messages:
            raise ChannelClosed("end of file")
        return messages
