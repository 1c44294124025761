"""Opens many sessions, makes calls in them, and holds streams open.

    python -m bench.mcp.sessions --port N --sessions S

`open_many` and `exchange_all` work in lockstep over a few connections: send on all, then read from all.
As a program: opens S sessions, prints SESSIONS; after a line on standard input opens a GET stream in each and prints OPEN;
after another line prints how many are still open, and ends.
"""

import argparse
import itertools
import json
import select
import socket
import sys
from collections.abc import Callable, Iterable, Iterator

from bench.harness import http_messages as messages

_LANES = 32


def initialize_request(port: int, path: str = "/mcp", version: str = messages.LEGACY_VERSION) -> bytes:
    """`initialize` of a legacy client."""
    params = {"protocolVersion": version, "capabilities": {}, "clientInfo": {"name": "agw-bench", "version": "1"}}
    headers = messages.mcp_headers()
    del headers["MCP-Protocol-Version"]
    return messages.render("POST", path, port, headers, message({"id": 0, "method": "initialize", "params": params}))


def initialized_request(port: int, session: str, path: str = "/mcp") -> bytes:
    """`notifications/initialized`."""
    return messages.render(
        "POST", path, port, messages.mcp_headers(session), message({"method": "notifications/initialized"})
    )


def call_request(
    port: int, session: str | None, tool: str, *, number: int = 1, size: int = messages.CALL_BYTES, path: str = "/mcp"
) -> bytes:
    """A tools/call of about `size` octets with the id `number`; without a session the modern form."""
    meta = {"_meta": messages.modern_meta()} if session is None else {}
    params: dict[str, object] = {"name": tool, "arguments": {"text": ""}, **meta}
    bare = len(message({"id": number, "method": "tools/call", "params": params}))
    params["arguments"] = {"text": "x" * max(0, size - bare)}
    headers = messages.mcp_headers(session) if session is not None else messages.modern_headers() | {"Mcp-Name": tool}
    return messages.render("POST", path, port, headers, message({"id": number, "method": "tools/call", "params": params}))


def list_request(port: int, session: str, path: str = "/mcp") -> bytes:
    """tools/list."""
    body = message({"id": 1, "method": "tools/list", "params": {}})
    return messages.render("POST", path, port, messages.mcp_headers(session), body)


def message(members: dict[str, object]) -> bytes:
    """A JSON-RPC message."""
    return json.dumps({"jsonrpc": "2.0", **members}, separators=(",", ":")).encode()


def exchange_all(port: int, requests: Iterable[bytes], lanes: int = _LANES) -> Iterator[messages.Response]:
    """The answers to requests, in their order. Errors: ConnectionError, OSError."""
    socks = [messages.connect(port) for _ in range(lanes)]
    try:
        todo = iter(requests)
        while batch := list(itertools.islice(todo, lanes)):
            for sock, request in zip(socks, batch, strict=False):
                sock.sendall(request)
            for sock, _ in zip(socks, batch, strict=False):
                yield messages.exchange(sock, b"")
    finally:
        for sock in socks:
            sock.close()


Dress = Callable[[bytes, int], bytes]
"""Gives a request what clients bring besides: (request, number of the client)."""


def _bare(request: bytes, client: int) -> bytes:
    return request


def open_many(port: int, count: int, dress: Dress = _bare) -> list[str]:
    """Session ids of new sessions, ready for calls. Errors: ValueError when one is refused."""
    opened = []
    for answer in exchange_all(port, (dress(initialize_request(port), client) for client in range(count))):
        session = answer.headers.get("mcp-session-id")
        if answer.status != 200 or session is None:
            raise ValueError(f"initialize answered {answer.status}: {answer.body[:200]!r}")
        opened.append(session)
    for answer in exchange_all(port, (dress(initialized_request(port, session), client) for client, session in enumerate(opened))):
        if answer.status != 202:
            raise ValueError(f"initialized answered {answer.status}: {answer.body[:200]!r}")
    return opened


def call_all(port: int, requests: Iterable[bytes]) -> int:
    """Make calls once; how many. Errors: ValueError when one has no result."""
    count = 0
    for answer in exchange_all(port, requests):
        if answer.status != 200 or b'"result"' not in answer.body:
            raise ValueError(f"a call answered {answer.status}: {answer.body[:200]!r}")
        count += 1
    return count


def open_stream(port: int, session: str) -> socket.socket:
    """A GET stream whose head has been read. Errors: ValueError when it is refused."""
    sock = messages.connect(port)
    headers = {"Accept": "text/event-stream", "Mcp-Session-Id": session, "MCP-Protocol-Version": messages.LEGACY_VERSION}
    sock.sendall(messages.render("GET", "/mcp", port, headers))
    head = sock.recv(4096)
    if not head.startswith(b"HTTP/1.1 200"):
        raise ValueError(f"stream refused: {head[:100]!r}")
    return sock


def main() -> int:
    """See the module docstring."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--sessions", type=int, required=True)
    args = parser.parse_args()
    opened = open_many(args.port, args.sessions)
    print("SESSIONS", flush=True)
    sys.stdin.readline()
    streams = [open_stream(args.port, session) for session in opened]
    print("OPEN", flush=True)
    sys.stdin.readline()
    poll = select.poll()
    for sock in streams:
        poll.register(sock, select.POLLRDHUP)
    print(len(streams) - len(poll.poll(0)), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
