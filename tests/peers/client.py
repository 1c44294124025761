"""A client on a raw socket: sends octets, reads answers literally, notices how the connection ends."""

from __future__ import annotations

import socket
import struct
import threading
import time
from dataclasses import dataclass, field
from typing import Any

PATIENCE = 5.0


class Truncated(Exception):
    """The connection ended inside a message. `got` is what came."""

    def __init__(self, got: bytes) -> None:
        super().__init__(f"the connection ended inside a message: {got[-200:]!r}")
        self.got = got


@dataclass
class Answer:
    head: bytes
    body: bytes = b""
    chunks: list[bytes] = field(default_factory=list)
    trailer: bytes = b""

    @property
    def status(self) -> int:
        return int(self.head.split(b" ", 2)[1])

    @property
    def line(self) -> bytes:
        return self.head.split(b"\r\n", 1)[0]

    @property
    def fields(self) -> list[tuple[bytes, bytes]]:
        return [tuple(line.split(b": ", 1)) for line in self.head.split(b"\r\n")[1:-2]]  # type: ignore[misc]

    def get(self, name: bytes) -> list[bytes]:
        return [value for key, value in self.fields if key.lower() == name.lower()]

    @property
    def closes(self) -> bool:
        return [v.lower() for v in self.get(b"connection")] == [b"close"]


class Client:
    """One connection to the gateway."""

    def __init__(self, port: int, *, rcvbuf: int | None = None, host: str = "127.0.0.1", source: str | None = None) -> None:
        self.sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
        if source is not None:
            self.sock.bind((source, 0))
        if rcvbuf is not None:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, rcvbuf)
        self.sock.settimeout(PATIENCE)
        self.sock.connect((host, port))
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.buffer = bytearray()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        self.sock.close()

    def reset(self) -> None:
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()

    def half_close(self) -> None:
        self.sock.shutdown(socket.SHUT_WR)

    def send(self, octets: bytes) -> None:
        self.sock.sendall(octets)

    def send_pieces(self, *pieces: bytes, pause: float = 0.002) -> None:
        """Each piece in a segment of its own (TCP_NODELAY, and time for the gateway to read it)."""
        stop = threading.Event()
        for piece in pieces:
            self.sock.sendall(piece)
            stop.wait(pause)

    # ------------------------------------------------------------------------------------------------ reading

    def _more(self) -> bool:
        try:
            data = self.sock.recv(1 << 18)
        except ConnectionError:
            data = b""
        self.buffer += data
        return bool(data)

    def until(self, mark: bytes) -> bytes:
        start = 0
        while True:
            cut = self.buffer.find(mark, start)
            if cut >= 0:
                return self.read(cut + len(mark))
            start = max(0, len(self.buffer) - len(mark) + 1)
            if not self._more():
                raise Truncated(bytes(self.buffer))

    def read(self, n: int) -> bytes:
        while len(self.buffer) < n:
            if not self._more():
                raise Truncated(bytes(self.buffer))
        data = bytes(self.buffer[:n])
        del self.buffer[:n]
        return data

    def until_eof(self, patience: float = PATIENCE) -> bytes:
        """Everything until the gateway ends the connection (FIN or RST); TimeoutError when it does not."""
        deadline = time.monotonic() + patience
        while True:
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError(f"still open; got {bytes(self.buffer)!r}")
            self.sock.settimeout(left)
            try:
                if not self._more():
                    break
            except TimeoutError:
                raise TimeoutError(f"still open after {patience} s; got {bytes(self.buffer)!r}") from None
        self.sock.settimeout(PATIENCE)
        return self.read(len(self.buffer))

    def silent_for(self, seconds: float) -> bool:
        """Whether nothing comes (and the connection stays) for that long."""
        if self.buffer:
            return False
        self.sock.settimeout(seconds)
        try:
            self._more()
        except TimeoutError:
            return True
        finally:
            self.sock.settimeout(PATIENCE)
        return False

    def head(self) -> Answer:
        return Answer(self.until(b"\r\n\r\n"))

    def answer(self, method: bytes = b"GET") -> Answer:
        """A whole final answer; 1xx heads before it are an error (read those with `head`)."""
        answer = self.head()
        assert answer.status >= 200, answer.head
        return self.body(answer, method)

    def body(self, answer: Answer, method: bytes = b"GET") -> Answer:
        lengths, codings = answer.get(b"content-length"), answer.get(b"transfer-encoding")
        assert len(lengths) + len(codings) <= 1, answer.head
        if method == b"HEAD" or answer.status in (204, 304):
            return answer
        if lengths:
            answer.body = self.read(int(lengths[0]))
        elif codings:
            assert codings == [b"chunked"], answer.head
            while True:
                size = int(self.until(b"\r\n")[:-2], 16)
                if not size:
                    break
                answer.chunks.append(self.read(size))
                assert self.read(2) == b"\r\n"
            while (line := self.until(b"\r\n")) != b"\r\n":
                answer.trailer += line
            answer.body = b"".join(answer.chunks)
        else:
            assert answer.closes or answer.line.startswith(b"HTTP/1.0"), answer.head
            answer.body = self.until_eof()
        return answer

    def ask(self, octets: bytes, **how: Any) -> Answer:
        """Sends and reads one answer."""
        self.send(octets)
        return self.answer(octets.split(b" ", 1)[0], **how)

    def get(self, path: str | bytes, *lines: bytes, host: bytes = b"gw.test", method: bytes = b"GET") -> Answer:
        target = path.encode() if isinstance(path, str) else path
        return self.ask(b"%b %b HTTP/1.1\r\nHost: %b\r\n%b\r\n" % (method, target, host, b"".join(line + b"\r\n" for line in lines)))

    def post(self, path: str | bytes, body: bytes, *lines: bytes, host: bytes = b"gw.test", method: bytes = b"POST") -> Answer:
        return self.ask(self.message(method, path, body, *lines, host=host))

    @staticmethod
    def message(method: bytes, path: str | bytes, body: bytes, *lines: bytes, host: bytes = b"gw.test") -> bytes:
        target = path.encode() if isinstance(path, str) else path
        extra = b"".join(line + b"\r\n" for line in lines)
        return b"%b %b HTTP/1.1\r\nHost: %b\r\nContent-Length: %d\r\n%b\r\n%b" % (method, target, host, len(body), extra, body)

    def closed(self, patience: float = 3.0) -> bool:
        """Whether the gateway ends the connection in time and sends nothing more."""
        return self.until_eof(patience) == b""


def once(port: int, octets: bytes, patience: float = PATIENCE) -> bytes:
    """Sends, reads until the connection ends."""
    with Client(port) as client:
        client.send(octets)
        return client.until_eof(patience)
