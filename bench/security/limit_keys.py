"""Fills a table of limits, as the supervisor makes it, with keys that spend their whole bucket; then each asks once more.

    python -m bench.security.limit_keys [--keys 1000000] [--max-keys 1000000]

One line of JSON: MiB of the mapping and of its pages that were touched, keys evicted, and the share that was admitted too much.
"""

import argparse
import json
import re
import sys
import time
from pathlib import Path

from agw.shm.limits import make_limits

_BURST = 10
_HOUR_NS = 3_600_000_000_000


def main() -> int:
    """See the module docstring."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--keys", type=int, default=1_000_000)
    parser.add_argument("--max-keys", type=int, default=1_000_000)
    args = parser.parse_args()
    before = _shared_mib()
    shared = make_limits(args.max_keys, 4).as_worker(0)
    limit = shared.limit("bench", "rate", _BURST, _HOUR_NS, "", b"bench-bench-benc")
    now = time.monotonic_ns()
    begun = time.perf_counter()
    for number in range(args.keys):
        limit.spend_at(b"suser-%d" % number, _BURST, now, 0)
    per_key_us = (time.perf_counter() - begun) / args.keys * 1e6
    touched = _shared_mib()
    excess = sum(limit.spend_at(b"suser-%d" % number, 1, now, 0) for number in range(args.keys))
    ((_, admitted, refused, evicted, errors),) = [row for row in shared.counts() if row[0] == "bench"]
    print(
        json.dumps(
            {
                "units": args.keys,
                "mapping_mib": shared.rates.size / 2**20,
                "resident_mib": touched - before,
                "evicted": evicted,
                "excess": excess * _BURST / (args.keys * _BURST),
                "admitted": admitted,
                "refused": refused,
                "errors": errors,
                "take_us": per_key_us,
            }
        )
    )
    return 0


def _shared_mib() -> float:
    """Shared memory of this process that is resident."""
    found = re.search(r"^RssShmem:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    return int(found.group(1)) / 1024 if found else 0.0


if __name__ == "__main__":
    sys.exit(main())
