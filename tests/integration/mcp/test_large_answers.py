"""Lists of megabytes: sent without a copy, so whoever reads them slowly, over TLS or not to the end must get them right."""

from __future__ import annotations

import json
import socket

from tests.integration.mcp.conftest import configuration, http_target, route
from tests.kits.gateway import Gateway
from tests.peers.mcp_client import Endpoint, Session
from tests.peers.mcp_script import Offer
from tests.peers.mcp_server import McpServer

TOOLS = 6000


def raw_list(token: str, ident: int) -> bytes:
    """A tools/list as it goes on the wire; the answer is JSON."""
    body = json.dumps({"jsonrpc": "2.0", "id": ident, "method": "tools/list"}).encode()
    return (
        b"POST /mcp HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nAccept: application/json, text/event-stream\r\n"
        b"Mcp-Session-Id: %b\r\nContent-Length: %d\r\n\r\n%b" % (token.encode(), len(body), body)
    )


def read_answer(sock: socket.socket, before: bytes = b"") -> tuple[bytes, bytes]:
    """(body, what came behind it), in small pieces so that the gateway's send stops in many places."""
    data = before
    while b"\r\n\r\n" not in data:
        data += sock.recv(700)
    head, _, data = data.partition(b"\r\n\r\n")
    size = next(int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length"))
    parts, have = [data], len(data)
    while have < size:
        parts.append(sock.recv(30_011))
        assert parts[-1], "cut off"
        have += len(parts[-1])
    whole = b"".join(parts)
    return whole[:size], whole[size:]


def test_a_slow_reader_gets_every_octet_and_the_next_answer_behind_it() -> None:
    described = [{"name": f"tool_{i}", "description": "é" * 90, "inputSchema": {"type": "object"}} for i in range(TOOLS)]
    with McpServer(Offer(name="big", lists={"tools": described})) as server, \
            Gateway(configuration(route("/mcp", http_target("big", server.port)), config={"connectionTerminationDeadline": "1s"}), workers=1) as gateway, \
            Session(Endpoint(gateway.port, "/mcp")) as session:
        token = session.headers["Mcp-Session-Id"]
        with socket.create_connection(("127.0.0.1", gateway.port)) as sock, socket.create_connection(("127.0.0.1", gateway.port)) as leaver:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
            sock.settimeout(20)
            # Two at once: the second answer queues behind what the kernel did not take of the first.
            sock.sendall(raw_list(token, 1) + raw_list(token, 2))
            leaver.sendall(raw_list(token, 3))
            leaver.recv(1000)
            leaver.close()
            rest = b""
            for ident in (1, 2):
                body, rest = read_answer(sock, rest)
                found = json.loads(body)
                assert found["id"] == ident
                assert found["result"]["tools"] == described
            assert rest == b""
        assert len(session.request("tools/list").result["tools"]) == TOOLS
        gateway.assert_clean_log()
