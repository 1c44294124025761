"""Open-loop client: requests leave when the timetable says so, whether or not earlier answers have come.

    python -m bench.load.paced --port N --requests FILE --rate R --connections C --duration S

Latency counts from the scheduled time, so waiting for a free connection or for this client itself is part of it (no
coordinated omission). Arrivals are Poisson with a fixed seed: the same timetable for every peer. wrk's delay() was not
used: it is closed loop per connection and has millisecond steps.

The loop itself is compiled (_pacer.pyx, built by run.sh). ppoll() on the epoll descriptor gives microsecond timeouts (epoll
itself rounds to milliseconds) without spinning, so the backend on the same CPU is not starved. The client reports its own
CPU share and how late it noticed what was due; if `lag_p99_us` is not small against the latencies, it was the bottleneck.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import sys
import time
from array import array
from pathlib import Path

from bench.harness.http_messages import connect, read_requests
from bench.load._pacer import play
from bench.load.timing import SHARES, be_punctual, percentile

_GRACE_S = 2.0
_SEED = 20260728


def timetable(rate: float, duration_s: float) -> array[int]:
    """Poisson arrivals at `rate` per second, in ns from the start; the same for every peer."""
    gaps, due = random.Random(_SEED), 0.0
    due_ns: array[int] = array("q")
    while (due := due + gaps.expovariate(rate)) < duration_s:
        due_ns.append(int(due * 1e9))
    return due_ns


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
        found = _play(args)
    except (OSError, ValueError) as error:
        print(f"paced: {error}", file=sys.stderr)
        return 1
    print(json.dumps(found | {"realtime": realtime}))
    return 0


def _play(args: argparse.Namespace) -> dict[str, float]:
    """Open the connections and play the timetable once."""
    requests = read_requests(args.requests)
    socks = [connect(args.port) for _ in range(args.connections)]
    offsets = timetable(args.rate, args.duration)
    start_ns = time.monotonic_ns() + 20_000_000
    due_ns = array("q", (start_ns + offset for offset in offsets))
    latency_ns, lag_ns = array("q", [-1]) * len(due_ns), array("q", [0]) * len(due_ns)
    before, started = resource.getrusage(resource.RUSAGE_SELF), time.monotonic()
    errors = play([sock.fileno() for sock in socks], requests, due_ns, latency_ns, lag_ns, _GRACE_S)
    wall, after = time.monotonic() - started, resource.getrusage(resource.RUSAGE_SELF)
    latencies = sorted(latency / 1000 for latency in latency_ns if latency >= 0)
    client_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    result = {
        "requests": len(latencies),
        "duration_s": wall,
        "errors": errors,
        "client_busy": client_s / wall,
        "lag_p99_us": percentile(sorted(lag / 1000 for lag in lag_ns), 0.99),
        "mean_us": sum(latencies) / max(1, len(latencies)),
    }
    return result | {f"{name}_us": percentile(latencies, share) for name, share in SHARES.items()}


if __name__ == "__main__":
    sys.exit(main())
