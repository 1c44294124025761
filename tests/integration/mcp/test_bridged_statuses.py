"""What a modern HTTP caller sees of targets whose own transport has no statuses and no headers, or another era's framing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.integration.mcp.conftest import Farm, configuration, route, stdio_target
from tests.kits.gateway import Gateway
from tests.peers.mcp_client import Endpoint, Session

MIRRORED = {
    "name": "echo",
    "inputSchema": {"type": "object", "properties": {"region": {"type": "string", "x-mcp-header": "Region"}}, "required": ["region"]},
}


@pytest.mark.parametrize("path", ["/modern-stdio", "/stdio", "/one", "/polled"])
def test_an_unknown_method_is_404_whatever_the_target_speaks(farm: Farm, path: str) -> None:
    answer = farm.at(path).modern("no/such")
    assert (answer.status, answer.error["code"]) == (404, -32601)
    assert answer.headers["content-type"] == "application/json"


@pytest.mark.parametrize("era", ["legacy", "modern"])
def test_mirrored_arguments_are_checked_for_a_target_that_gets_no_headers(era: str) -> None:
    offer: dict[str, Any] = {"era": era, "lists": {"tools": [MIRRORED]}}
    with Gateway(configuration(route("/mcp", stdio_target("s", offer=offer)))) as gateway:
        endpoint = Endpoint(gateway.port)
        params = {"name": "echo", "arguments": {"region": "graz"}}
        assert endpoint.modern("tools/call", params, headers={"Mcp-Param-Region": "graz"}).status == 200
        for headers in ({"Mcp-Param-Region": "linz"}, {}):
            answer = endpoint.modern("tools/call", params, headers=headers)
            assert (answer.status, answer.error["code"]) == (400, -32020)


def test_a_modern_only_program_is_asked_for_a_handshake_once(tmp_path: Path) -> None:
    record = tmp_path / "received"
    with Gateway(configuration(route("/mcp", stdio_target("s", str(record), offer={"era": "modern"}))), workers=1) as gateway:
        for _ in range(3):
            with Session(Endpoint(gateway.port)) as session:
                assert "echo" in session.names()
    methods = [json.loads(line.split(b" ", 1)[1]).get("method") for line in record.read_bytes().splitlines()]
    assert methods.count("initialize") <= 1
    assert len({line.split(b" ", 1)[0] for line in record.read_bytes().splitlines()}) <= 2
