"""The bytes the benchmark sends, and a small blocking exchange for checks and handshakes.

Rules: every load program gets finished requests, so nobody formats anything during a measurement, and all of them
send the same bytes. Speaks HTTP/1.1 as far as the peers use it: Content-Length, chunked, SSE-wrapped JSON-RPC answers.
Must not know: peers, scenarios, processes.
"""

import json
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

HOST = "127.0.0.1"
TIMEOUT_S = 10.0
CALL_BYTES = 200
ANSWER_BYTES = 180
LARGE_BYTES = 16 * 1024
LEGACY_VERSION = "2025-06-18"
MODERN_VERSION = "2026-07-28"
MCP_ACCEPT = "application/json, text/event-stream"


@dataclass(frozen=True, slots=True)
class Response:
    """One answer; header names in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


def render(method: str, path: str, port: int, headers: Mapping[str, str] | None = None, body: bytes = b"") -> bytes:
    """One complete request."""
    lines = [f"{method} {path} HTTP/1.1", f"Host: {HOST}:{port}", "User-Agent: agw-bench"]
    lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
    if body:
        lines.append(f"Content-Length: {len(body)}")
    return ("\r\n".join(lines) + "\r\n\r\n").encode() + body


def call_body(size: int = CALL_BYTES, meta: Mapping[str, object] | None = None) -> bytes:
    """A tools/call of the tool `echo`, padded to `size` bytes (longer if its fixed part is)."""
    params: dict[str, object] = {"name": "echo", "arguments": {"text": ""}}
    if meta:
        params["_meta"] = meta
    bare = _compact({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params})
    params["arguments"] = {"text": "x" * max(0, size - len(bare))}
    return _compact({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params})


def answer_body(size: int = ANSWER_BYTES, *, modern: bool = False) -> bytes:
    """The matching result, padded to `size` bytes."""
    result: dict[str, object] = {"content": [{"type": "text", "text": ""}], "isError": False}
    if modern:
        result["resultType"] = "complete"
    bare = _compact({"jsonrpc": "2.0", "id": 1, "result": result})
    result["content"] = [{"type": "text", "text": "y" * max(0, size - len(bare))}]
    return _compact({"jsonrpc": "2.0", "id": 1, "result": result})


def modern_meta() -> dict[str, object]:
    """`_meta` of a 2026-07-28 request (MCP 2026-07-28, per-request metadata)."""
    prefix = "io.modelcontextprotocol/"
    return {f"{prefix}protocolVersion": MODERN_VERSION, f"{prefix}clientCapabilities": {}}


def mcp_headers(session: str | None = None) -> dict[str, str]:
    """Headers of a legacy MCP POST."""
    headers = {"Content-Type": "application/json", "Accept": MCP_ACCEPT, "MCP-Protocol-Version": LEGACY_VERSION}
    return headers | ({"Mcp-Session-Id": session} if session else {})


def modern_headers() -> dict[str, str]:
    """Headers of a 2026-07-28 tools/call of `echo`."""
    return {
        "Content-Type": "application/json",
        "Accept": MCP_ACCEPT,
        "MCP-Protocol-Version": MODERN_VERSION,
        "Mcp-Method": "tools/call",
        "Mcp-Name": "echo",
    }


def connect(port: int) -> socket.socket:
    """A blocking connection with Nagle off."""
    sock = socket.create_connection((HOST, port), TIMEOUT_S)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


def exchange(sock: socket.socket, request: bytes) -> Response:
    """Send one request and read its whole answer; ConnectionError if the peer closes early."""
    sock.sendall(request)
    data = b""
    while (head_end := data.find(b"\r\n\r\n")) < 0:
        data += _receive(sock)
    status_line, *lines = data[:head_end].decode("latin-1").split("\r\n")
    headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    body = data[head_end + 4 :]
    status = int(status_line.split()[1])
    if "chunked" in headers.get("transfer-encoding", ""):
        body = _read_chunked(sock, body)
    else:
        length = int(headers.get("content-length", "0"))
        while len(body) < length:
            body += _receive(sock)
    return Response(status, headers, body)


def open_session(port: int, path: str, sock: socket.socket | None = None) -> str | None:
    """Initialize a legacy MCP session; its id, or None from a server without sessions; ValueError if it is refused."""
    own = sock or connect(port)
    try:
        hello = {
            "protocolVersion": LEGACY_VERSION,
            "capabilities": {},
            "clientInfo": {"name": "agw-bench", "version": "1"},
        }
        body = _compact({"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": hello})
        headers = mcp_headers()
        del headers["MCP-Protocol-Version"]
        answer = exchange(own, render("POST", path, port, headers, body))
        if answer.status != 200 or b'"protocolVersion"' not in answer.body:
            raise ValueError(f"initialize answered {answer.status}: {answer.body[:200]!r}")
        session = answer.headers.get("mcp-session-id")
        done = _compact({"jsonrpc": "2.0", "method": "notifications/initialized"})
        answer = exchange(own, render("POST", path, port, mcp_headers(session), done))
        if answer.status not in (200, 202):
            raise ValueError(f"notifications/initialized answered {answer.status}: {answer.body[:200]!r}")
        return session
    finally:
        if sock is None:
            own.close()


def write_requests(path: Path, requests: Sequence[bytes]) -> None:
    """Store requests for the load programs: a line with their lengths, then their bytes one after another."""
    path.write_bytes(" ".join(str(len(request)) for request in requests).encode() + b"\n" + b"".join(requests))


def read_requests(path: Path) -> list[bytes]:
    """Inverse of `write_requests`."""
    line, _, rest = path.read_bytes().partition(b"\n")
    requests, offset = [], 0
    for length in (int(word) for word in line.split()):
        requests.append(rest[offset : offset + length])
        offset += length
    return requests


def _read_chunked(sock: socket.socket, data: bytes) -> bytes:
    body = b""
    while True:
        while (line_end := data.find(b"\r\n")) < 0:
            data += _receive(sock)
        size = int(data[:line_end].split(b";")[0], 16)
        data = data[line_end + 2 :]
        while len(data) < size + 2:
            data += _receive(sock)
        if size == 0:
            return body
        body += data[:size]
        data = data[size + 2 :]


def _receive(sock: socket.socket) -> bytes:
    data = sock.recv(65536)
    if not data:
        raise ConnectionError("connection closed before the end of the answer")
    return data


def _compact(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()
