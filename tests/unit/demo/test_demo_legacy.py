"""The demo server by raw HTTP, as clients of 2025-03-26 to 2025-11-25 speak to it."""

from __future__ import annotations

import json
import threading
from typing import Any

import pytest

MINUTE_NS = 60 * 1_000_000_000


@pytest.mark.parametrize(
    ("asked", "agreed"),
    [
        ("2024-11-05", "2025-03-26"),
        ("2025-03-26", "2025-03-26"),
        ("2025-06-18", "2025-06-18"),
        ("2025-09-01", "2025-06-18"),
        ("2025-11-25", "2025-11-25"),
        ("2026-07-28", "2025-11-25"),
        ("draft", "2025-11-25"),
    ],
)
def test_initialize_agrees_on_the_nearest_version(client: Any, asked: str, agreed: str) -> None:
    result = client.initialize(asked)
    assert result["protocolVersion"] == agreed
    assert result["capabilities"] == {"tools": {}}
    assert result["serverInfo"]["name"] == "agw-demo"
    assert ("title" in result["serverInfo"]) == (agreed > "2025-03-26")
    assert len(client.session) == 32


def test_tools_are_described_for_the_version(client: Any) -> None:
    client.initialize("2025-11-25")
    _, answer = client.call("tools/list")
    tools = {tool["name"]: tool for tool in answer["result"]["tools"]}
    assert list(tools) == ["echo", "add", "slow"]
    assert tools["echo"]["inputSchema"] == {
        "type": "object",
        "properties": {"text": {"type": "string", "description": "Text to send back"}},
        "required": ["text"],
        "additionalProperties": False,
    }
    assert tools["add"]["outputSchema"]["required"] == ["sum"]
    client.session = client.version = None
    client.initialize("2025-03-26")
    _, answer = client.call("tools/list")
    assert all("outputSchema" not in tool and "title" not in tool for tool in answer["result"]["tools"])


def test_calls_without_progress_are_answered_as_json(client: Any) -> None:
    client.initialize()
    assert client.call("ping")[1]["result"] == {}
    _, answer = client.call("tools/call", {"name": "echo", "arguments": {"text": "héllo\ud800\n"}})
    assert answer["result"] == {"content": [{"type": "text", "text": "héllo\ud800\n"}], "isError": False}
    _, answer = client.call("tools/call", {"name": "add", "arguments": {"a": 2**70, "b": 1}})
    assert answer["result"]["structuredContent"] == {"sum": 2**70 + 1}
    assert json.loads(answer["result"]["content"][0]["text"]) == {"sum": 2**70 + 1}
    _, answer = client.call("tools/call", {"name": "slow", "arguments": {"seconds": 0, "steps": 3}})
    assert answer["result"]["structuredContent"] == {"seconds": 0.0, "steps": 3}


@pytest.mark.parametrize(
    ("name", "arguments", "text"),
    [
        ("echo", {}, "missing required field `text`"),
        ("echo", {"text": 1}, "$.text"),
        ("echo", {"text": "a", "more": 1}, "more"),
        ("add", {"a": True, "b": 1}, "$.a"),
        ("add", {"a": 1e308, "b": 1e308}, "out of range"),
        ("add", {"a": 10**400, "b": 0.5}, "out of range"),
        ("slow", {"seconds": 61}, "$.seconds"),
        ("slow", {"steps": 0}, "$.steps"),
    ],
)
def test_what_a_model_could_correct_is_a_tool_error(client: Any, name: str, arguments: Any, text: str) -> None:
    client.initialize()
    status, answer = client.call("tools/call", {"name": name, "arguments": arguments})
    assert status == 200
    assert answer["result"]["isError"] is True
    assert text in answer["result"]["content"][0]["text"]
    assert "structuredContent" not in answer["result"]


@pytest.mark.parametrize(
    ("method", "params", "code"),
    [
        ("tools/call", {"name": "nothing"}, -32602),
        ("tools/call", {"name": "echo", "arguments": []}, -32602),
        ("tools/call", {}, -32602),
        ("tools/list", {"cursor": ""}, -32602),
        ("resources/list", {}, -32601),
        ("server/discover", {}, -32601),
        ("logging/setLevel", {"level": "info"}, -32601),
    ],
)
def test_errors_of_a_session_are_http_200(client: Any, method: str, params: Any, code: int) -> None:
    client.initialize()
    status, answer = client.call(method, params)
    assert (status, answer["error"]["code"]) == (200, code)


def test_progress_is_streamed_before_the_response(client: Any, read_events: Any) -> None:
    client.initialize()
    params = {"name": "slow", "arguments": {"seconds": 0.03, "steps": 3}, "_meta": {"progressToken": "t"}}
    response = client.send("POST", {"jsonrpc": "2.0", "id": "a", "method": "tools/call", "params": params})
    *notes, last = [event for event in read_events(response) if isinstance(event, dict)]
    assert [note["params"]["progress"] for note in notes] == [1, 2, 3]
    assert all(note["method"] == "notifications/progress" for note in notes)
    assert all((note["params"]["progressToken"], note["params"]["total"]) == ("t", 3) for note in notes)
    assert last["id"] == "a"
    assert last["result"]["structuredContent"]["steps"] == 3


def test_a_quiet_stream_is_kept_alive(client: Any, read_events: Any) -> None:
    client.initialize()
    params = {"name": "slow", "arguments": {"seconds": 0.2, "steps": 1}, "_meta": {"progressToken": 7}}
    response = client.send("POST", {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params})
    seen = list(read_events(response))
    assert seen[0] == ": keep-alive"
    assert seen[-2]["params"]["progressToken"] == 7


def test_a_cancelled_stream_ends_without_a_response(client: Any, read_events: Any) -> None:
    client.initialize()
    params = {"name": "slow", "arguments": {"seconds": 5, "steps": 100}, "_meta": {"progressToken": 1}}
    response = client.send("POST", {"jsonrpc": "2.0", "id": 5, "method": "tools/call", "params": params})
    seen = read_events(response)
    assert client.notify("notifications/cancelled", {"requestId": "5"}) == 202  # another id: its type counts
    assert client.notify("notifications/cancelled", {"requestId": 6}) == 202
    assert client.notify("notifications/cancelled", {"requestId": True}) == 202
    assert next(event for event in seen if isinstance(event, dict))["params"]["progress"] >= 1
    assert client.notify("notifications/cancelled", {"requestId": 5}) == 202
    rest = [event for event in seen if isinstance(event, dict)]
    assert len(rest) < 50
    assert all("id" not in event for event in rest)


def test_a_cancelled_call_without_progress_gets_an_empty_stream(client: Any, read_events: Any) -> None:
    client.initialize()
    params = {"name": "slow", "arguments": {"seconds": 60, "steps": 1}}
    message = {"jsonrpc": "2.0", "id": 5, "method": "tools/call", "params": params}
    answers: list[Any] = []
    caller = threading.Thread(target=lambda: answers.append(client.send("POST", message)))
    caller.start()
    while caller.is_alive():  # nothing tells when the call has begun, so the cancel is repeated until it has an effect
        assert client.notify("notifications/cancelled", {"requestId": 5}) == 202
    assert list(read_events(answers[0])) == []


def test_a_client_that_leaves_does_not_cancel_its_call(client: Any, demo: Any, read_events: Any) -> None:
    client.initialize()
    params = {"name": "slow", "arguments": {"seconds": 5, "steps": 100}, "_meta": {"progressToken": 1}}
    message = {"jsonrpc": "2.0", "id": 5, "method": "tools/call", "params": params}
    response = client.send("POST", message)
    assert next(event for event in read_events(response) if isinstance(event, dict))["params"]["progress"] == 1
    client.close()
    # When the ping is answered the server knows that the caller left; the id is still taken, so the call still runs.
    assert client.call("ping")[0] == 200
    response = client.send("POST", message)
    assert (response.status, json.load(response)["error"]["code"]) == (400, -32600)


def test_the_session_stream_is_kept_alive_and_ends_with_the_session(client: Any, read_events: Any) -> None:
    client.initialize()
    stream = client.send("GET")
    assert (stream.status, stream.getheader("x-accel-buffering")) == (200, "no")
    seen = read_events(stream)
    assert [next(seen), next(seen)] == [": keep-alive"] * 2
    second = client.send("GET")
    assert second.status == 200
    assert next(seen) == ": keep-alive"  # the first one was not stolen
    assert client.send("DELETE").status == 204
    assert all(event == ": keep-alive" for event in seen)
    assert client.call("ping")[0] == 404
    assert client.send("GET").status == 404
    assert client.send("DELETE").status == 404


def test_sessions_are_needed_known_bounded_and_expire(client: Any, demo: Any) -> None:
    assert client.call("ping")[0] == 400
    assert client.send("GET").status == 400
    client.session = "0" * 32
    assert client.call("ping")[0] == 404
    client.session = None
    sessions = []
    for _ in range(3):
        client.session = client.version = None
        client.initialize()
        sessions.append(client.session)
    assert len(set(sessions)) == 3
    client.session = client.version = None
    params = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "t", "version": "0"}}
    assert client.call("initialize", params)[0] == 503
    demo.clock.now_ns += 20 * MINUTE_NS
    client.session = sessions[0]
    assert client.call("ping")[0] == 200
    demo.clock.now_ns += 20 * MINUTE_NS
    assert client.call("ping")[0] == 200
    client.session = sessions[1]
    assert client.call("ping")[0] == 404


def test_an_open_stream_keeps_its_session(client: Any, demo: Any, read_events: Any) -> None:
    client.initialize()
    stream = client.send("GET")
    seen = read_events(stream)
    next(seen)
    demo.clock.now_ns += 40 * MINUTE_NS
    assert client.call("ping")[0] == 200


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"{", -32700),
        (b'{"jsonrpc":"2.0","id":1,"method":"ping","params":{"a":NaN}}', -32700),
        (b'{"jsonrpc":"2.0","id":1,"method":"ping","params":{"a":1e999}}', -32700),
        (b'{"jsonrpc":"2.0","id":1,"id":2,"method":"ping"}', -32700),
        (b'{"jsonrpc":"2.0","id":1,"method":"ping"} x', -32700),
        (b"\xff\xfe{", -32700),
        (b"\xef\xbb\xbf{}", -32700),
        (b"[" * 100_000, -32700),
        (b'{"jsonrpc":"2.0","id":' + b"9" * 5000 + b',"method":"ping"}', -32700),
        (b"3", -32600),
        (b"[]", -32600),
        (b'[{"jsonrpc":"2.0","id":1,"method":"ping"}]', -32600),
        (b'{"jsonrpc":"2.0","id":null,"method":"ping"}', -32600),
        (b'{"jsonrpc":"2.0","id":1.5,"method":"ping"}', -32600),
        (b'{"jsonrpc":"2.0","id":true,"method":"ping"}', -32600),
        (b'{"jsonrpc":"1.0","id":1,"method":"ping"}', -32600),
        (b'{"jsonrpc":"2.0","id":1,"method":1}', -32600),
        (b'{"jsonrpc":"2.0","id":1}', -32600),
        (b'{"jsonrpc":"2.0","id":1,"method":"ping","params":[]}', -32602),
    ],
)
def test_what_is_no_message_is_400(client: Any, body: bytes, code: int) -> None:
    client.initialize()
    response = client.send("POST", body)
    assert (response.status, json.load(response)["error"]["code"]) == (400, code)


@pytest.mark.parametrize("id", ["", "x", 0, -1, 9007199254740993, 2**80])
def test_ids_come_back_as_they_were(client: Any, id: Any) -> None:
    client.initialize()
    response = client.send("POST", {"jsonrpc": "2.0", "id": id, "method": "ping"})
    answer = json.load(response)
    assert (answer["id"], type(answer["id"])) == (id, type(id))


def test_responses_and_notifications_are_202(client: Any) -> None:
    client.initialize()
    assert client.notify("notifications/whatever") == 202
    response = client.send("POST", {"jsonrpc": "2.0", "id": 9, "result": {}})
    assert (response.status, response.read()) == (202, b"")


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Content-Type": "text/plain"}, 415),
        ({"Content-Type": "application/json; charset=utf-8"}, 200),
        ({"Accept": "text/html"}, 406),
        ({"Accept": "*/*"}, 200),
        ({"Accept": "application/json"}, 200),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "http://localhost:6274"}, 200),
        ({"Host": "evil.example"}, 403),
        ({"MCP-Protocol-Version": "2025-06-18"}, 400),
        ({"MCP-Protocol-Version": "1999-01-01"}, 400),
        ({"MCP-Protocol-Version": ""}, 200),
    ],
)
def test_headers_are_checked(client: Any, headers: dict[str, str], status: int) -> None:
    client.initialize()
    response = client.send("POST", {"jsonrpc": "2.0", "id": 1, "method": "ping"}, headers=headers)
    assert response.status == status


def test_other_methods_and_paths_are_refused(client: Any) -> None:
    response = client.send("PUT", {})
    assert (response.status, response.getheader("allow")) == (405, "DELETE, GET, POST")
    assert client.send("GET", path="/").status == 404


def test_a_client_that_takes_only_events_gets_one(client: Any, read_events: Any) -> None:
    client.initialize()
    response = client.send(
        "POST", {"jsonrpc": "2.0", "id": 1, "method": "ping"}, headers={"Accept": "text/event-stream"}
    )
    assert [event["result"] for event in read_events(response)] == [{}]


def test_batches_exist_in_2025_03_26_only(client: Any) -> None:
    batch = [
        {"jsonrpc": "2.0", "id": 1, "method": "ping"},
        {"jsonrpc": "2.0", "method": "notifications/progress"},
        {"jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": {"name": "add", "arguments": {"a": 1, "b": 2}}},
        {"jsonrpc": "2.0", "id": 3, "method": "initialize"},
        {"jsonrpc": "2.0", "id": 4, "method": "nothing"},
    ]
    client.initialize("2025-06-18")
    assert client.send("POST", batch).status == 400
    client.session = client.version = None
    client.initialize("2025-03-26")
    answers = {answer["id"]: answer for answer in json.load(client.send("POST", batch))}
    assert answers[1]["result"] == {}
    assert answers[2]["result"]["content"][0]["text"] == '{"sum": 3}'
    assert [answers[id]["error"]["code"] for id in (3, 4)] == [-32600, -32601]
    response = client.send("POST", batch[1:2])
    assert (response.status, response.read()) == (202, b"")
    assert client.send("POST", []).status == 400
    assert client.send("POST", batch[:1] * 51).status == 400


def test_too_many_calls_at_once_are_refused(client: Any, read_events: Any) -> None:
    client.initialize()
    params = {"name": "slow", "arguments": {"seconds": 60}, "_meta": {"progressToken": 1}}
    for id in range(100, 132):
        message = {"jsonrpc": "2.0", "id": id, "method": "tools/call", "params": params}
        assert client.send("POST", message).status == 200
    assert client.call("tools/call", params)[0] == 429
    assert client.send("DELETE").status == 204
