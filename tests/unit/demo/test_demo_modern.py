"""The demo server by raw HTTP, as stateless clients of 2026-07-28 speak to it."""

from __future__ import annotations

import asyncio
import base64
import json
from typing import Any

import pytest

VERSION = "2026-07-28"
PREFIX = "io.modelcontextprotocol/"
META = {PREFIX + "protocolVersion": VERSION, PREFIX + "clientCapabilities": {}}


def ask(client: Any, method: str, params: dict[str, Any] | None = None, **changes: str) -> tuple[int, dict[str, Any]]:
    """One modern request with right headers; `changes` replace headers (`_` for `-`), "" leaves one out."""
    headers = {"mcp-protocol-version": VERSION, "mcp-method": method}
    if method == "tools/call" and params:
        headers["mcp-name"] = str(params.get("name"))
    headers |= {name.replace("_", "-"): value for name, value in changes.items()}
    answer: tuple[int, dict[str, Any]] = client.call(method, {"_meta": META, **(params or {})}, headers=headers)
    return answer


def test_discover_and_list_are_complete_and_cacheable(client: Any) -> None:
    status, answer = ask(client, "server/discover")
    result = answer["result"]
    assert status == 200
    assert (result["resultType"], result["supportedVersions"]) == ("complete", [VERSION])
    assert result["capabilities"] == {"tools": {}}
    assert (result["cacheScope"], result["ttlMs"] > 0) == ("public", True)
    assert result["_meta"][PREFIX + "serverInfo"]["name"] == "agw-demo"
    result = ask(client, "tools/list")[1]["result"]
    assert [tool["name"] for tool in result["tools"]] == ["echo", "add", "slow"]
    assert (result["resultType"], result["cacheScope"], result["ttlMs"] > 0) == ("complete", "public", True)


def test_a_call_needs_no_session_and_gets_none(client: Any) -> None:
    client.session = "ignored"
    message = {
        "jsonrpc": "2.0",
        "id": 2**60,
        "method": "tools/call",
        "params": {"_meta": META, "name": "add", "arguments": {"a": 1, "b": 2.5}},
    }
    headers = {"MCP-Protocol-Version": VERSION, "Mcp-Method": "tools/call", "Mcp-Name": "add"}
    response = client.send("POST", message, headers=headers)
    assert response.getheader("mcp-session-id") is None
    answer = json.load(response)
    assert answer["id"] == 2**60
    assert answer["result"]["structuredContent"] == {"sum": 3.5}
    assert answer["result"]["resultType"] == "complete"


def test_a_name_may_be_wrapped(client: Any) -> None:
    wrapped = "=?base64?" + base64.b64encode(b"echo").decode() + "?="
    status, answer = ask(client, "tools/call", {"name": "echo", "arguments": {"text": "a"}}, mcp_name=wrapped)
    assert (status, answer["result"]["isError"]) == (200, False)


@pytest.mark.parametrize(
    ("method", "params", "changes", "status", "code"),
    [
        pytest.param("tools/list", {}, {"mcp_protocol_version": ""}, 400, -32020, id="no-version-header"),
        pytest.param("tools/list", {"_meta": {}}, {}, 400, -32602, id="no-version-in-meta"),
        pytest.param("tools/list", {"_meta": None}, {}, 400, -32602, id="no-meta"),
        pytest.param(
            "tools/list", {"_meta": {PREFIX + "protocolVersion": VERSION}}, {}, 400, -32602, id="no-capabilities"
        ),
        pytest.param("tools/list", {}, {"mcp_protocol_version": "2025-11-25"}, 400, -32020, id="versions-differ"),
        pytest.param("tools/list", {}, {"mcp_method": ""}, 400, -32020, id="no-method-header"),
        pytest.param("tools/list", {}, {"mcp_method": "Tools/List"}, 400, -32020, id="method-differs"),
        pytest.param("tools/call", {"name": "echo"}, {"mcp_name": "add"}, 400, -32020, id="name-differs"),
        pytest.param("tools/call", {"name": "echo"}, {"mcp_name": ""}, 400, -32020, id="no-name-header"),
        pytest.param("tools/call", {"name": "echo"}, {"mcp_name": "=?base64?*?="}, 400, -32020, id="bad-wrapping"),
        pytest.param("tools/call", {"name": "nothing"}, {}, 400, -32602, id="unknown-tool"),
        pytest.param("tools/list", {"cursor": "x"}, {}, 400, -32602, id="cursor"),
        pytest.param("ping", {}, {}, 404, -32601, id="ping"),
        pytest.param("initialize", {}, {}, 404, -32601, id="initialize"),
        pytest.param("subscriptions/listen", {}, {}, 404, -32601, id="listen"),
    ],
)
def test_each_fault_has_its_code_and_the_id(
    client: Any, method: str, params: Any, changes: dict[str, str], status: int, code: int
) -> None:
    got, answer = ask(client, method, params, **changes)
    assert (got, answer["error"]["code"]) == (status, code)


def test_an_unknown_version_is_told_the_known_ones(client: Any) -> None:
    meta = {**META, PREFIX + "protocolVersion": "2030-01-01"}
    status, answer = ask(client, "server/discover", {"_meta": meta}, mcp_protocol_version="2030-01-01")
    assert (status, answer["error"]["code"]) == (400, -32022)
    assert answer["error"]["data"] == {"supported": [VERSION], "requested": "2030-01-01"}


def test_only_post_exists(client: Any) -> None:
    for method in ("GET", "DELETE"):
        response = client.send(method, headers={"MCP-Protocol-Version": VERSION})
        assert (response.status, response.getheader("allow")) == (405, "POST")


def test_notifications_are_202_and_responses_and_batches_400(client: Any) -> None:
    client.version = VERSION
    assert client.notify("notifications/whatever", {"_meta": META}) == 202
    assert client.send("POST", {"jsonrpc": "2.0", "id": 1, "result": {}}).status == 400
    assert client.send("POST", [{"jsonrpc": "2.0", "id": 1, "method": "tools/list"}]).status == 400


def test_progress_is_streamed_and_leaving_cancels(client: Any, demo: Any, read_events: Any) -> None:
    params = {"_meta": {**META, "progressToken": 3}, "name": "slow", "arguments": {"seconds": 0.03, "steps": 3}}
    headers = {"MCP-Protocol-Version": VERSION, "Mcp-Method": "tools/call", "Mcp-Name": "slow"}
    message = {"jsonrpc": "2.0", "id": "s", "method": "tools/call", "params": params}
    *notes, last = [
        event for event in read_events(client.send("POST", message, headers=headers)) if event != ": keep-alive"
    ]
    assert [note["params"]["progress"] for note in notes] == [1, 2, 3]
    assert (last["id"], last["result"]["resultType"]) == ("s", "complete")
    params["arguments"] = {"seconds": 60, "steps": 100}
    response = client.send("POST", message, headers=headers)
    next(read_events(response))
    response.close()
    client.close()

    async def unfinished() -> int:
        others = asyncio.all_tasks() - {asyncio.current_task()}
        return len((await asyncio.wait(others, timeout=5))[1]) if others else 0

    assert demo.run(unfinished()) == 0
