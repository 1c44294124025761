"""Idle keep-alive connections: each has done one request and then holds still.

    python -m bench.load.idle --port N --requests FILE --connections C

Prints READY once all are open, waits for a line on standard input, prints how many are still open, and ends.
"""

import argparse
import select
import sys
from pathlib import Path

from bench.harness.http_messages import connect, exchange, read_requests


def main() -> int:
    """Open, wait, count."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--requests", type=Path, required=True)
    parser.add_argument("--connections", type=int, default=2000)
    args = parser.parse_args()
    request = read_requests(args.requests)[0]
    try:
        held = [connect(args.port) for _ in range(args.connections)]
        refused = sum(exchange(sock, request).status != 200 for sock in held)
    except OSError as error:
        print(f"idle: {error}", file=sys.stderr)
        return 1
    if refused:
        print(f"idle: {refused} requests were not answered with 200", file=sys.stderr)
        return 1
    print("READY", flush=True)
    sys.stdin.readline()
    poll = select.poll()
    for sock in held:
        poll.register(sock, select.POLLIN | select.POLLRDHUP)
    closed = len(poll.poll(0))
    print(len(held) - closed, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
