"""Edits of raw messages: what the specification names is mapped, every other octet survives."""

from __future__ import annotations

import json
from typing import Any

import pytest

from agw.mcp.federation import rewrite
from agw.mcp.federation.rewrite import Maps

MAPS = Maps(lambda uri: "a+" + uri, lambda task: "T+" + task)
NUMBERS = '{"big":123456789012345678901234567890,"e":1e5,"one":1.0,"long":0.1000000000000000055,"esc":"\\u00e9\\/"}'


def call(method: str, value: Any) -> Any:
    return json.loads(rewrite.result(method, json.dumps(value).encode(), MAPS))


def test_untouched_results_are_the_same_object() -> None:
    raw = b'{"content":[{"type":"text","text":"hello"}],"isError":false}'
    assert not rewrite.needs(raw)
    assert rewrite.result("tools/call", raw, MAPS) is raw
    raw = b'{"content":[{"type":"text","text":"a uri, and a taskId"}],"structuredContent":{"uri":"x:1","taskId":"t"}}'
    assert rewrite.needs(raw)
    assert rewrite.result("tools/call", raw, MAPS) is raw


def test_what_is_not_edited_keeps_its_octets() -> None:
    inner = NUMBERS.encode()
    raw = b'{"z":%b,"content":[{"type":"resource_link","uri":"x:1","n":%b},{"a" : 1}],"structuredContent": %b}' % (inner, inner, inner)
    changed = rewrite.result("tools/call", raw, MAPS)
    assert changed.count(inner) == 3
    assert b'{"a" : 1}' in changed
    assert b'"uri":"a+x:1"' in changed
    assert changed.index(b'"z"') < changed.index(b'"content"')


def test_tool_results() -> None:
    blocks = [
        {"type": "text", "text": "uri x:1"},
        {"type": "resource_link", "uri": "x:1", "name": "n"},
        {"type": "resource", "resource": {"uri": "x:2", "text": "uri"}},
        {"type": "unknown", "uri": "x:3"},
        7,
    ]
    meta = {"ui": {"resourceUri": "ui:1", "other": 1}, "ui/resourceUri": "ui:1", "io.modelcontextprotocol/related-task": {"taskId": "t"}, "uri": "x:4"}
    changed = call("tools/call", {"content": blocks, "_meta": meta, "uri": "x:5"})
    assert changed["content"] == [
        blocks[0], {"type": "resource_link", "uri": "a+x:1", "name": "n"}, {"type": "resource", "resource": {"uri": "a+x:2", "text": "uri"}}, blocks[3], 7,
    ]
    assert changed["_meta"] == {
        "ui": {"resourceUri": "a+ui:1", "other": 1}, "ui/resourceUri": "a+ui:1", "io.modelcontextprotocol/related-task": {"taskId": "T+t"}, "uri": "x:4",
    }
    assert changed["uri"] == "x:5"


def test_escaped_member_names_are_found() -> None:
    raw = b'{"contents":[{"\\u0075ri":"x:1"}]}'
    assert json.loads(rewrite.result("resources/read", raw, MAPS)) == {"contents": [{"uri": "a+x:1"}]}


def test_prompts_and_resources() -> None:
    messages = [
        {"role": "user", "content": {"type": "resource", "resource": {"uri": "x:1"}}},
        {"role": "user", "content": [{"type": "resource_link", "uri": "x:2"}]},
        {"role": "user", "content": {"type": "text", "text": "uri"}},
    ]
    changed = call("prompts/get", {"messages": messages})["messages"]
    assert changed[0]["content"]["resource"]["uri"] == "a+x:1"
    assert changed[1]["content"][0]["uri"] == "a+x:2"
    assert changed[2] == messages[2]
    assert call("resources/read", {"contents": [{"uri": "x:1", "blob": "AA=="}]}) == {"contents": [{"uri": "a+x:1", "blob": "AA=="}]}


def test_input_requests() -> None:
    sampling = {"method": "sampling/createMessage", "params": {"messages": [{"content": {"type": "resource_link", "uri": "x:1"}}], "tools": [{"name": "uri"}]}}
    nested = {
        "method": "sampling/createMessage",
        "params": {"messages": [{"content": [{"type": "tool_result", "content": [{"type": "resource", "resource": {"uri": "x:2"}}]}]}]},
    }
    asking = {"method": "elicitation/create", "params": {"uri": "x:3", "message": "uri"}}
    changed = call("tools/call", {"resultType": "input_required", "inputRequests": {"s": sampling, "n": nested, "e": asking}, "requestState": "uri"})
    requests = changed["inputRequests"]
    assert requests["s"]["params"] == {"messages": [{"content": {"type": "resource_link", "uri": "a+x:1"}}], "tools": [{"name": "uri"}]}
    assert requests["n"]["params"]["messages"][0]["content"][0]["content"][0]["resource"]["uri"] == "a+x:2"
    assert requests["e"] == asking
    assert changed["requestState"] == "uri"


def test_tasks() -> None:
    assert call("tools/call", {"resultType": "task", "taskId": "t", "status": "working"})["taskId"] == "T+t"
    assert call("tools/call", {"task": {"taskId": "t", "ttl": 1}})["task"]["taskId"] == "T+t"
    assert call("tasks/list", {"tasks": [{"taskId": "1"}, {"taskId": "2"}]})["tasks"] == [{"taskId": "T+1"}, {"taskId": "T+2"}]
    done = call("tasks/get", {"taskId": "t", "result": {"content": [{"type": "resource_link", "uri": "x:1"}], "structuredContent": {"taskId": "t"}}})
    assert done == {"taskId": "T+t", "result": {"content": [{"type": "resource_link", "uri": "a+x:1"}], "structuredContent": {"taskId": "t"}}}
    assert call("tasks/get", {"taskId": "t", "error": {"code": -32602, "message": "", "data": {"uri": "x:1"}}})["error"]["data"] == {"uri": "a+x:1"}


@pytest.mark.parametrize(
    ("method", "params", "changed"),
    [
        ("notifications/resources/updated", {"uri": "x:1"}, {"uri": "a+x:1"}),
        ("notifications/tasks", {"taskId": "t", "status": "working"}, {"taskId": "T+t", "status": "working"}),
        ("notifications/tasks/status", {"taskId": "t"}, {"taskId": "T+t"}),
        ("notifications/message", {"data": {"uri": "x:1"}}, {"data": {"uri": "x:1"}}),
        (
            "notifications/progress",
            {"_meta": {"io.modelcontextprotocol/related-task": {"taskId": "t"}}},
            {"_meta": {"io.modelcontextprotocol/related-task": {"taskId": "T+t"}}},
        ),
        (
            "notifications/subscriptions/acknowledged",
            {"notifications": {"resourceSubscriptions": ["x:1"], "taskIds": ["t"], "toolsListChanged": True}},
            {"notifications": {"resourceSubscriptions": ["a+x:1"], "taskIds": ["T+t"], "toolsListChanged": True}},
        ),
    ],
)
def test_notifications(method: str, params: Any, changed: Any) -> None:
    found = rewrite.notification(method, json.dumps(params).encode(), MAPS)
    assert found is not None
    assert json.loads(found) == changed
    assert rewrite.notification(method, None, MAPS) is None


def test_server_requests() -> None:
    raw = b'{"messages":[{"role":"user","content":{"type":"resource_link","uri":"x:1"}}],"maxTokens":1.0}'
    assert rewrite.server_request("sampling/createMessage", raw, MAPS) == raw.replace(b"x:1", b"a+x:1")
    hosted = b'{"taskId":"the client\'s own"}'
    assert rewrite.server_request("tasks/get", hosted, MAPS) is hosted


def test_errors() -> None:
    raw = b'{"code":-32002,"message":"no uri","data":{"uri":"x:1","n":1.0}}'
    assert rewrite.error(raw, MAPS.uri) == raw.replace(b"x:1", b"a+x:1")
    plain = b'{"code":-32602,"message":"uri","data":"uri"}'
    assert rewrite.error(plain, MAPS.uri) is plain


def test_items() -> None:
    tool = b'{"description":"uri","name":"t","inputSchema": {"$defs":{"name":1.0}},"_meta":{"ui":{"resourceUri":"ui:1"},"x": 1}}'
    assert rewrite.tools_list_item(tool, "a_t", MAPS.uri) == (
        b'{"description":"uri","name":"a_t","inputSchema":{"$defs":{"name":1.0}},"_meta":{"ui":{"resourceUri":"a+ui:1"},"x":1}}'
    )
    plain = b'{"name" : "t"}'
    assert rewrite.tools_list_item(plain, "t", MAPS.uri) is plain
    assert rewrite.prompt_item(plain, "a_t") == b'{"name":"a_t"}'
    assert rewrite.resource_item(b'{"uri":"x:1","name":"t"}', "a+x:1") == b'{"uri":"a+x:1","name":"t"}'
    assert rewrite.template_item(b'{"uriTemplate":"x:{y}"}', "a+x:{y}") == b'{"uriTemplate":"a+x:{y}"}'


def test_apps() -> None:
    tool = b'{"name":"t","_meta":{"ui":{"resourceUri":"ui:1"},"ui/resourceUri":"ui:1","keep":1.0}}'
    assert rewrite.app_uri(tool) == "ui:1"
    assert rewrite.app_uri(b'{"name":"resource"}') is None
    assert rewrite.without_app(tool) == b'{"name":"t","_meta":{"keep":1.0}}'
    assert rewrite.without_app(b'{"_meta":{ }}') == b'{"_meta":{ }}'


def test_towards_targets() -> None:
    raw = b'{"name":"a_t","arguments":{"x" : 1.0,"name":"a_t"},"_meta":{"io.modelcontextprotocol/related-task":{"taskId":"T+t"}}}'
    changed = rewrite.member(raw, "name", "t")
    assert changed.startswith(b'{"name":"t","arguments":{"x" : 1.0,"name":"a_t"},')
    assert rewrite.member(raw, "name", "a_t") is raw
    assert b'"taskId":"t"' in rewrite.related_task(raw, lambda task: task.removeprefix("T+"))
    listening = b'{"resourceSubscriptions":["a+x:1"],"taskIds":["T+t"]}'
    assert rewrite.listen_filter(listening, Maps(lambda uri: uri[2:], lambda task: task[2:])) == b'{"resourceSubscriptions":["x:1"],"taskIds":["t"]}'


def test_completion_references() -> None:
    prompt = b'{"ref":{"type":"ref/prompt","name":"a_p"},"argument":{"name":"a_p","value":"1.0"}}'
    assert rewrite.completion(prompt, lambda name: name[2:], str) == prompt.replace(b'"a_p"},', b'"p"},')
    resource = b'{"ref":{"type":"ref/resource","uri":"a+x:{y}"},"argument":{}}'
    assert rewrite.completion(resource, str, lambda uri: uri[2:]) == b'{"ref":{"type":"ref/resource","uri":"x:{y}"},"argument":{}}'
    other = b'{"ref":{"type":"ref/other","uri":"a+x"}}'
    assert rewrite.completion(other, lambda _: "", lambda _: "") is other


@pytest.mark.parametrize("raw", [b"[]", b"null", b'"uri"', b'{"contents":{"uri":1}}', b'{"contents":[{"uri":7}]}', b'{"contents":[{"uri":"\\ud800"}]}'])
def test_odd_shapes_are_left_alone(raw: bytes) -> None:
    assert rewrite.result("resources/read", raw, MAPS) is raw
