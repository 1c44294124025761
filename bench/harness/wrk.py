"""Closed-loop load with wrk: one thread, finished requests, results as numbers.

Closed loop: each connection sends its next request when the last answer is complete, so a slow peer is asked less and
the latencies say little about users; they are given for comparison at equal concurrency. Open loop is load/paced.py.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.harness import processes
from bench.harness.http_messages import HOST
from bench.harness.processes import BenchError

_SCRIPT = Path(__file__).resolve().parent.parent / "load" / "requests.lua"
_MARK = "BENCH "


@dataclass(frozen=True, slots=True)
class Load:
    """What wrk saw in one run."""

    requests: int
    seconds: float
    errors: int
    p50_us: float
    p99_us: float
    p999_us: float

    @property
    def per_s(self) -> float:
        """Requests per second."""
        return self.requests / self.seconds if self.seconds else 0.0


def run(port: int, requests: Path, connections: int, duration_s: float, cpus: Sequence[int], directory: Path) -> Load:
    """Load 127.0.0.1:`port` for `duration_s` (whole seconds, at least 1) with the requests of a file."""
    seconds = max(1, round(duration_s))
    argv = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "10s", "-s", str(_SCRIPT)]
    out = processes.run([*argv, f"http://{HOST}:{port}/", "--", str(requests)], cpus, seconds + 20, directory)
    for line in out.splitlines():
        if line.startswith(_MARK):
            found = json.loads(line.removeprefix(_MARK))
            return Load(
                requests=found["requests"],
                seconds=found["duration_us"] / 1e6,
                errors=found["errors"],
                p50_us=found["p50_us"],
                p99_us=found["p99_us"],
                p999_us=found["p999_us"],
            )
    raise BenchError(f"wrk gave no result: {out[-300:]!r}")
