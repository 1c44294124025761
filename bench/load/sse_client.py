"""Streaming client on uvloop: opens N event streams and says how many events came and how late.

    python -m bench.load.sse_client --port N --path /events --streams 1000 --duration S [--mcp]

With --mcp each stream first opens an MCP session of its own on the same connection (initialize, initialized), then
GETs. Delay is the time from the backend's write (stamp inside the event) to this client's read, queues of all three
included. Prints OPEN <n> once the streams are up, START and END around the measured window, then one JSON object.
"""

import argparse
import asyncio
import gc
import json
import re
import resource
import socket
import sys
import time
from array import array

import uvloop

from bench.harness.http_messages import connect, open_session, render
from bench.load.timing import SHARES, be_punctual, percentile

_STAMP = re.compile(rb'"t":(\d+),')
_OPEN_LIMIT_S = 30.0
_SETTLE_S = 1.0


class Tally:
    """What all streams saw; counts only while `counting`."""

    def __init__(self) -> None:
        """Empty."""
        self.delays_ns = array("q")
        self.counting = False
        self.opened = 0
        self.lost = 0
        self.refused = ""


class Stream(asyncio.Protocol):
    """One event stream: head, chunks, events."""

    def __init__(self, tally: Tally) -> None:
        """`tally` is shared."""
        self._tally = tally
        self._raw = b""
        self._events = b""
        self._in_head = True
        self._chunked = False

    def data_received(self, data: bytes) -> None:
        """Strip the framing and note the stamp of every complete event."""
        now = time.monotonic_ns()
        self._raw += data
        if self._in_head and not self._take_head():
            return
        if self._chunked:
            self._take_chunks()
        else:
            self._events, self._raw = self._events + self._raw, b""
        complete = self._events.rfind(b"\n\n") + 2
        if complete > 1:
            if self._tally.counting:
                found = _STAMP.findall(self._events, 0, complete)
                self._tally.delays_ns.extend(now - int(stamp) for stamp in found)
            self._events = self._events[complete:]

    def connection_lost(self, exc: Exception | None) -> None:
        """A stream must not end by itself."""
        self._tally.lost += 1

    def _take_head(self) -> bool:
        end = self._raw.find(b"\r\n\r\n")
        if end < 0:
            return False
        head, self._raw = self._raw[:end].lower(), self._raw[end + 4 :]
        if not head.startswith(b"http/1.1 200") or b"text/event-stream" not in head:
            self._tally.refused = head.split(b"\r\n", 1)[0].decode("latin-1")
        self._chunked = b"transfer-encoding: chunked" in head
        self._in_head = False
        self._tally.opened += 1
        return True

    def _take_chunks(self) -> None:
        raw, at = self._raw, 0
        while (line_end := raw.find(b"\r\n", at)) >= 0:
            size = int(raw[at:line_end].split(b";")[0], 16)
            end = line_end + 2 + size
            if len(raw) < end + 2:
                break
            self._events += raw[line_end + 2 : end]
            at = end + 2
        self._raw = raw[at:]


def _prepared(args: argparse.Namespace) -> socket.socket:
    """A connection that needs only the GET."""
    sock = connect(args.port)
    if args.mcp:
        session = open_session(args.port, args.path, sock)
        headers = {"Accept": "text/event-stream", "Mcp-Session-Id": session or ""}
    else:
        headers = {"Accept": "text/event-stream"}
    sock.sendall(render("GET", args.path, args.port, headers))
    sock.setblocking(False)
    return sock


async def _measure(args: argparse.Namespace) -> dict[str, float]:
    loop, tally = asyncio.get_running_loop(), Tally()
    for count in range(args.streams):
        await loop.create_connection(lambda: Stream(tally), sock=_prepared(args))
        if count % 20 == 0:
            await asyncio.sleep(0)
    deadline = loop.time() + _OPEN_LIMIT_S
    while tally.opened < args.streams and not tally.refused and not tally.lost:
        if loop.time() > deadline:
            raise ConnectionError(f"only {tally.opened} of {args.streams} streams opened")
        await asyncio.sleep(0.02)
    if tally.refused or tally.lost:
        raise ConnectionError(f"stream refused: {tally.refused or 'connection closed'}")
    print(f"OPEN {tally.opened}", flush=True)
    await asyncio.sleep(_SETTLE_S)
    gc.collect()
    gc.freeze()
    before, started = resource.getrusage(resource.RUSAGE_SELF), time.monotonic()
    print("START", flush=True)
    tally.counting = True
    await asyncio.sleep(args.duration)
    tally.counting = False
    print("END", flush=True)
    wall, after = time.monotonic() - started, resource.getrusage(resource.RUSAGE_SELF)
    delays = sorted(delay / 1000 for delay in tally.delays_ns)
    return {
        "events": len(delays),
        "duration_s": wall,
        "lost": tally.lost,
        "client_busy": (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime) / wall,
    } | {f"{name}_us": percentile(delays, share) for name, share in SHARES.items()}


def main() -> int:
    """Measure as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--path", default="/events")
    parser.add_argument("--streams", type=int, default=1000)
    parser.add_argument("--duration", type=float, default=5.0)
    parser.add_argument("--mcp", action="store_true")
    args = parser.parse_args()
    realtime = be_punctual()
    try:
        print(json.dumps(uvloop.run(_measure(args)) | {"realtime": realtime}), flush=True)
    except (OSError, ValueError) as error:
        print(f"sse_client: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
