"""Open-loop client: requests leave when the timetable says so, whether or not earlier answers have come.

    python -m bench.load.paced --port N --requests FILE --rate R --connections C --duration S

Latency counts from the scheduled time, so waiting for a free connection or for this client itself is part of it (no
coordinated omission). Arrivals are Poisson with a fixed seed: the same timetable for every peer. wrk's delay() was not
used: it is closed loop per connection and has millisecond steps.

The client is one epoll loop on raw sockets. select() on the epoll descriptor gives microsecond timeouts (epoll itself
rounds to milliseconds), without spinning, so the backend on the same CPU is not starved. It reports its own CPU share
and how late it sent; if `lag_p99_us` is not small against the latencies, the client was the bottleneck.
"""

import argparse
import ctypes
import gc
import json
import os
import random
import resource
import select
import sys
import time
from collections import deque
from pathlib import Path

from bench.harness.http_messages import connect, read_requests

_PR_SET_TIMERSLACK = 29
_GRACE_S = 2.0
_SEED = 20260728


class Connection:
    """One keep-alive connection with at most one request on it."""

    __slots__ = ("due", "need", "received", "sock", "tail")

    def __init__(self, port: int) -> None:
        """Connect; raises OSError."""
        self.sock = connect(port)
        self.sock.setblocking(False)
        self.due = 0.0
        self.need = 0  # bytes of the answer in all; 0: head not complete yet; -1: chunked
        self.received = 0
        self.tail = b""

    def send(self, request: bytes, due: float) -> None:
        """Send one request whose time was `due`."""
        self.due, self.need, self.received, self.tail = due, 0, 0, b""
        sent = self.sock.send(request)
        if sent != len(request):  # socket buffers hold more than our largest request; this is the exception
            self.sock.setblocking(True)
            self.sock.sendall(request[sent:])
            self.sock.setblocking(False)

    def feed(self) -> bool:
        """Read what is there; True if the answer is complete. ConnectionError at end of file or on an error status."""
        data = self.sock.recv(131072)
        if not data:
            raise ConnectionError("closed by the peer")
        self.received += len(data)
        if self.need == 0:
            self.tail += data
            head_end = self.tail.find(b"\r\n\r\n")
            if head_end < 0:
                return False
            self._read_head(self.tail[:head_end])
            data = self.tail
        if self.need > 0:
            return self.received >= self.need
        self.tail = (self.tail + data)[-5:]
        return self.tail == b"0\r\n\r\n"

    def _read_head(self, head: bytes) -> None:
        if not head.startswith(b"HTTP/1.1 2"):
            raise ConnectionError(head.split(b"\r\n", 1)[0].decode("latin-1"))
        lower = head.lower()
        at = lower.find(b"\r\ncontent-length:")
        if at < 0:
            self.need = -1
            return
        self.need = len(head) + 4 + int(lower[at + 17 :].split(b"\r\n", 1)[0])


class Run:
    """One timetable played against one port."""

    def __init__(self, port: int, requests: list[bytes], rate: float, connections: int) -> None:
        """Opens all connections."""
        self._port = port
        self._requests = requests
        self._rate = rate
        self._epoll = select.epoll()
        self._by_fd: dict[int, Connection] = {}
        self._free: deque[Connection] = deque()
        self._waiting: deque[float] = deque()
        self._turn = 0
        self.latencies: list[float] = []
        self.lags: list[float] = []
        self.errors = 0
        for _ in range(connections):
            self._open()

    def play(self, duration_s: float) -> None:
        """Send everything due within `duration_s`, then wait a bounded time for the last answers."""
        gaps = random.Random(_SEED)
        due = time.monotonic() + 0.01
        end = due + duration_s
        clock = time.monotonic
        while True:
            now = clock()
            while due <= now and due < end:
                self._waiting.append(due)
                self.lags.append(now - due)
                due += gaps.expovariate(self._rate)
            self._send_waiting()
            all_answered = len(self._free) == len(self._by_fd) and not self._waiting
            if due >= end and (all_answered or now > end + _GRACE_S):
                break
            limit = due - clock() if due < end else 0.05
            ready, _, _ = select.select([self._epoll], [], [], max(0.0, limit))
            if ready:
                for fd, _ in self._epoll.poll(0):
                    self._receive(self._by_fd[fd])
        self.errors += len(self._waiting) + len(self._by_fd) - len(self._free)

    def _send_waiting(self) -> None:
        while self._waiting and self._free:
            connection, due = self._free.popleft(), self._waiting.popleft()
            self._turn = (self._turn + 1) % len(self._requests)
            try:
                connection.send(self._requests[self._turn], due)
            except OSError:
                self._replace(connection)
                continue

    def _receive(self, connection: Connection) -> None:
        try:
            complete = connection.feed()
        except BlockingIOError:
            return
        except OSError:
            self._replace(connection)
            return
        if complete:
            self.latencies.append(time.monotonic() - connection.due)
            self._free.append(connection)

    def _open(self) -> None:
        connection = Connection(self._port)
        self._by_fd[connection.sock.fileno()] = connection
        self._epoll.register(connection.sock, select.EPOLLIN)
        self._free.append(connection)

    def _replace(self, broken: Connection) -> None:
        """Count an error and put a new connection in the place of `broken`."""
        self.errors += 1
        if self.errors > 1000:
            raise ConnectionError("more than 1,000 errors")
        del self._by_fd[broken.sock.fileno()]
        if broken in self._free:
            self._free.remove(broken)
        broken.sock.close()
        self._open()


def be_punctual() -> bool:
    """Wake up when asked to: 1 us of timer slack instead of 50, and real-time priority if we may have it (True).

    The client never fills its CPU, so it takes from the backend beside it no more than at normal priority; it only is
    not made to wait for the end of somebody's time slice, which would be measured as latency of the peer.
    """
    ctypes.CDLL(None).prctl(_PR_SET_TIMERSLACK, 1000, 0, 0, 0)
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    except OSError:
        return False
    return True


def percentile(ordered: list[float], share: float) -> float:
    """Nearest rank in an ordered list; 0 if it is empty."""
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))] if ordered else 0.0


def main() -> int:
    """Play the timetable of the command line and print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--requests", type=Path, required=True)
    parser.add_argument("--rate", type=float, required=True, help="requests per second")
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--duration", type=float, default=5.0, help="seconds")
    args = parser.parse_args()
    realtime = be_punctual()
    try:
        run = Run(args.port, read_requests(args.requests), args.rate, args.connections)
        gc.collect()
        gc.freeze()
        gc.disable()
        before, started = resource.getrusage(resource.RUSAGE_SELF), time.monotonic()
        run.play(args.duration)
    except OSError as error:
        print(f"paced: {error}", file=sys.stderr)
        return 1
    wall, after = time.monotonic() - started, resource.getrusage(resource.RUSAGE_SELF)
    run.latencies.sort()
    run.lags.sort()
    client_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    result = {
        "requests": len(run.latencies),
        "duration_s": wall,
        "errors": run.errors,
        "client_busy": client_s / wall,
        "realtime": realtime,
        "lag_p99_us": percentile(run.lags, 0.99) * 1e6,
        "mean_us": sum(run.latencies) / max(1, len(run.latencies)) * 1e6,
    }
    result |= {f"{name}_us": percentile(run.latencies, share) * 1e6 for name, share in _SHARES.items()}
    print(json.dumps(result))
    return 0


_SHARES = {"p50": 0.5, "p99": 0.99, "p999": 0.999}

if __name__ == "__main__":
    sys.exit(main())
