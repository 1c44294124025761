"""A small load client that knows exactly what became of each request.

Blocking sockets, one thread per connection, keep-alive, `Connection: close` honoured, every wait bounded. A connection
that the server closed while no request was under way is simply replaced: that is the server's right. What counts as
lost is a request of which at least one octet was sent.

    ok          a complete answer with a 2xx status
    refused     no connection, so nothing was sent
    shed        a complete answer with status 503
    status      a complete answer with any other status
    reset       sent, and the connection ended before any octet of an answer
    truncated   the connection ended within an answer
    timeout     no complete answer in time
"""

from __future__ import annotations

import gc
import select
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable
from types import TracebackType
from typing import NamedTuple, Self

OUTCOMES = ("ok", "refused", "shed", "status", "reset", "truncated", "timeout")


class Outcome(NamedTuple):
    """What became of one request; times are time.monotonic()."""

    kind: str
    status: int
    began: float
    took: float
    closing: bool
    """The answer said `Connection: close`."""
    body: bytes
    cause: str


class ReadError(Exception):
    """The answer did not come; the argument is an outcome's name."""

    def __init__(self, kind: str, cause: str) -> None:
        super().__init__(kind, cause)
        self.kind = kind
        self.cause = cause


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def closing(self) -> bool:
        return self.headers.get("connection", "").lower() == "close"


class Connection:
    """One connection with exact reading of HTTP/1.1 answers."""

    def __init__(self, port: int, timeout: float = 10.0) -> None:
        self.sock = socket.socket()
        self.sock.settimeout(timeout)
        self.sock.connect(("127.0.0.1", port))
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._in = b""

    def close(self) -> None:
        self.sock.close()

    def __del__(self) -> None:
        # A test that fails half-way must not fail once more because of what it left open.
        self.sock.close()

    def send(self, path: str = "/", method: str = "GET", body: bytes = b"") -> None:
        """One request, without waiting for the answer."""
        length = f"Content-Length: {len(body)}\r\n" if body else ""
        self.sock.sendall(f"{method} {path} HTTP/1.1\r\nHost: test\r\n{length}\r\n".encode() + body)

    def ended(self) -> bool:
        """True if the server closed the idle connection. Reads nothing."""
        poll = select.poll()
        poll.register(self.sock, select.POLLIN)
        if not poll.poll(0):
            return False
        try:
            return self.sock.recv(1, socket.MSG_PEEK) == b""
        except OSError:
            return True

    def head(self) -> tuple[int, dict[str, str]]:
        """Status and headers. Errors: ReadError."""
        while b"\r\n\r\n" not in self._in:
            self._more()
        head, _, self._in = self._in.partition(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        return int(first.split(" ")[1]), {n.lower(): v.strip() for n, _, v in (line.partition(":") for line in lines)}

    def answer(self) -> Answer:
        """A whole answer. Errors: ReadError."""
        status, headers = self.head()
        if headers.get("transfer-encoding") == "chunked":
            return Answer(status, headers, b"".join(iter(self.chunk, b"")))
        length = 0 if status == 204 else int(headers["content-length"])
        while len(self._in) < length:
            self._more(begun=True)
        body, self._in = self._in[:length], self._in[length:]
        return Answer(status, headers, body)

    def chunk(self) -> bytes:
        """The next chunk, b"" being the last. Errors: ReadError."""
        while b"\r\n" not in self._in:
            self._more(begun=True)
        line, _, rest = self._in.partition(b"\r\n")
        size = int(line, 16)
        while len(rest) < size + 2:
            self._more(begun=True)
            rest = self._in.partition(b"\r\n")[2]
        self._in = rest[size + 2 :]
        return rest[:size]

    def ask(self, path: str = "/", method: str = "GET", body: bytes = b"") -> Answer:
        """Request and answer. Errors: ReadError, OSError."""
        self.send(path, method, body)
        return self.answer()

    def _more(self, begun: bool = False) -> None:
        dead = "truncated" if begun or self._in else "reset"
        try:
            data = self.sock.recv(65536)
        except TimeoutError:
            raise ReadError("timeout", "no answer in time") from None
        except OSError as error:
            raise ReadError(dead, str(error)) from None
        if not data:
            raise ReadError(dead, "end of file")
        self._in += data


class Load:
    """Keeps `connections` connections busy with GET requests until it is stopped.

    path: a path, or a function of the number of the request on its thread.
    pause: seconds between an answer and the next request. once: a new connection for each request.
    """

    def __init__(self, port: int, path: str | Callable[[int], str] = "/fast", *, connections: int = 8, pause: float = 0.0,
                 timeout: float = 10.0, once: bool = False) -> None:
        self.port = port
        self.outcomes: list[Outcome] = []
        self._path = path if callable(path) else lambda _: path
        self._pause = pause
        self._timeout = timeout
        self._once = once
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run, name=f"load-{i}", daemon=True) for i in range(connections)]

    def __enter__(self) -> Self:
        # Looking through all that a long run of tests has gathered takes a quarter of a second, which is no pause of the gateway.
        gc.collect()
        gc.freeze()
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()

    def stop(self) -> Self:
        """Let the requests under way finish."""
        self._stop.set()
        for thread in self._threads:
            thread.join(self._timeout + 5)
            assert not thread.is_alive(), "a load thread hangs"
        gc.unfreeze()
        return self

    def count(self, *kinds: str) -> int:
        """How many outcomes of these kinds there are so far; of all kinds without an argument."""
        return sum(not kinds or o.kind in kinds for o in list(self.outcomes))

    def tally(self) -> dict[str, int]:
        """Outcomes by kind."""
        return dict(Counter(o.kind for o in list(self.outcomes)))

    def failures(self) -> list[Outcome]:
        """Everything but `ok`."""
        return [o for o in list(self.outcomes) if o.kind != "ok"]

    def longest(self, since: float = 0.0) -> float:
        """The longest time a request took, of those that were under way after `since`."""
        return max((o.took for o in list(self.outcomes) if o.began + o.took >= since), default=0.0)

    def quantile(self, q: float, since: float = 0.0) -> float:
        """Quantile of the durations of good requests."""
        took = sorted(o.took for o in list(self.outcomes) if o.kind == "ok" and o.began >= since)
        return took[min(len(took) - 1, int(q * len(took)))] if took else 0.0

    def _run(self) -> None:
        connection: Connection | None = None
        number = 0
        while not self._stop.is_set():
            began = time.monotonic()
            try:
                if connection is not None and connection.ended():
                    connection.close()
                    connection = None
                if connection is None:
                    connection = Connection(self.port, self._timeout)
            except OSError as error:
                self._note("refused", began, cause=str(error))
                # Bounded: a port that is gone must not fill the list.
                self._stop.wait(0.01)
                continue
            try:
                answer = connection.ask(self._path(number))
            except ReadError as error:
                self._note(error.kind, began, cause=error.cause)
                connection.close()
                connection = None
            except OSError as error:
                # The request could not be sent whole: some of it may have been.
                self._note("reset", began, cause=str(error))
                connection.close()
                connection = None
            else:
                kind = "ok" if 200 <= answer.status < 300 else "shed" if answer.status == 503 else "status"
                self._note(kind, began, answer)
                if answer.closing or self._once:
                    connection.close()
                    connection = None
            number += 1
            if self._pause:
                self._stop.wait(self._pause)
        if connection is not None:
            connection.close()

    def _note(self, kind: str, began: float, answer: Answer | None = None, cause: str = "") -> None:
        took = time.monotonic() - began
        if answer is None:
            self.outcomes.append(Outcome(kind, 0, began, took, False, b"", cause))
        else:
            self.outcomes.append(Outcome(kind, answer.status, began, took, answer.closing, answer.body, cause))
