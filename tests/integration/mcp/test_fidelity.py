"""What is not the gateway's business passes as the octets it came in, both ways, in both eras, on the first call and later."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from typing import Any

import pytest

from tests.integration.mcp.conftest import Farm
from tests.peers.mcp_client import Answer, Endpoint, Session, modern_request
from tests.peers.mcp_exchange import HttpExchange
from tests.peers.mcp_script import Exchange

PATHS = [("/one", "", "a"), ("/two", "a_", "a"), ("/modern", "", "m"), ("/mixed", "m_", "m"), ("/dual", "", "d")]
NUMBERS = (
    '{"big":123456789012345678901234567890,"edge":9007199254740993,"one":1.0,"exp":1e5,"long":0.1000000000000000055511151231257827,'
    '"neg":-0.0,"cap":1E+2,"tiny":1e-400,"huge":1e400}'
)
TEXTS = (
    r'{"lone":"\ud83d","pair":"\ud83d\ude00","esc":"\u00e9\/\b","raw":"é😀","nul":"\u0000","key\u0041":1}'
)
SHAPES = '{"z":1,"a":[],"m":{},"null":null,"deep":[[[[{"x":[null,true,false]}]]]],"":"empty key"," ":2}'
TWICE = '{"same":1,"same":2}'


@pytest.fixture(params=PATHS, ids=[path[1:] for path, _, _ in PATHS])
def place(farm: Farm, request: pytest.FixtureRequest) -> tuple[Endpoint, str, Any]:
    """An endpoint, the prefix of a tool there, and the server that has it."""
    path, prefix, name = request.param
    return farm.at(path), prefix, getattr(farm, name)


def both(at: Endpoint, tool: str, arguments: str, times: int = 3) -> list[Answer]:
    """Call with arguments given as text, by a legacy and a modern caller."""
    found = []
    with Session(at) as session:
        for number in range(times):
            body = b'{"jsonrpc":"2.0","id":%d,"method":"tools/call","params":{"name":"%b","arguments":%b}}' % (number + 1, tool.encode(), arguments.encode())
            found.append(session.post(body))
    for _ in range(times):
        text, fields = modern_request("tools/call", {"name": tool, "arguments": "HERE"}, 1, None, None, None)
        found.append(at.post(text.replace(b'"HERE"', arguments.encode()), fields))
    return found


@pytest.mark.parametrize("arguments", [NUMBERS, TEXTS, SHAPES, TWICE, '{ "blank" :\t[ 1 ,2 ] }'])
def test_arguments_arrive_as_they_were(place: tuple[Endpoint, str, Any], arguments: str) -> None:
    at, prefix, server = place
    for answer in both(at, prefix + "echo", arguments):
        assert "result" in answer.message, answer.body
    calls = [each.body for each in server.seen if b'"tools/call"' in each.body]
    assert len(calls) >= 6
    for body in calls:
        assert arguments.encode() in body, body


@pytest.mark.parametrize("members", [
    f'"structuredContent":{NUMBERS}', f'"structuredContent":{TEXTS}', f'"structuredContent":{SHAPES}', '"structuredContent":[1.0]',
    '"structuredContent":7e0', '"x-unknown":{"a":[1.50]}', '"_meta":{"vendor/key":1.0,"b":{}}', '"isError":true',
])
def test_results_arrive_as_they_were(place: tuple[Endpoint, str, Any], members: str) -> None:
    at, prefix, server = place

    async def exact(x: Exchange) -> None:
        kind = b'"resultType":"complete",' if x.modern else b""
        await x.result(b'{' + kind + b'"content":[{"type":"text","text":"t","x":1.0}],' + members.encode() + b"}")

    server.on("echo", exact)
    legacy_structured = members.startswith('"structuredContent":[') or members.endswith("7e0")
    for number, answer in enumerate(both(at, prefix + "echo", "{}")):
        if number < 3 and legacy_structured and server.offer.era == "modern":
            continue  # a legacy caller cannot have structured content that is no object
        if members.startswith('"_meta"'):
            # A modern caller's result may get the target's serverInfo beside it.
            assert b'"vendor/key":1.0,"b":{}' in answer.raws[-1]
            continue
        assert members.encode() in answer.raws[-1], answer.raws[-1]
        assert b'"x":1.0' in answer.raws[-1]


def test_structured_null_is_not_absent(place: tuple[Endpoint, str, Any]) -> None:
    at, prefix, server = place
    if server.offer.era == "modern":
        pytest.skip("legacy results have objects only")

    async def exact(x: Exchange) -> None:
        await x.result(b'{"content":[],"structuredContent":null}')

    server.on("echo", exact)
    for answer in both(at, prefix + "echo", "{}"):
        assert answer.result["structuredContent"] is None


@pytest.mark.parametrize("first", ["result", "error"])
def test_members_in_any_order(place: tuple[Endpoint, str, Any], first: str) -> None:
    at, prefix, server = place

    async def turned(x: Exchange) -> None:
        value = b'{"content":[{"text":"t","type":"text"}]}' if first == "result" else b'{"message":"m","code":-5,"data":{"n":1.0}}'
        await x.finish(b'{ "' + first.encode() + b'" : ' + value + b' , "id" : ' + x.raw_id + b' , "jsonrpc":"2.0" }')

    server.on("echo", turned)
    for answer in both(at, prefix + "echo", "{}"):
        if first == "result":
            assert answer.text == "t"
        else:
            assert answer.error == {"code": -5, "message": "m", "data": {"n": 1.0}}
            assert b'"n":1.0' in answer.raws[-1]


def test_json_over_several_lines(place: tuple[Endpoint, str, Any]) -> None:
    at, prefix, server = place

    async def pretty(x: Exchange) -> None:
        await x.finish(json.dumps({"jsonrpc": "2.0", "id": x.message["id"], "result": {"content": [{"type": "text", "text": "a\nb"}]}}, indent=4).encode())

    server.on("echo", pretty)
    for answer in both(at, prefix + "echo", "{\n\t\"x\":\r\n1}"):
        assert answer.message["result"]["content"][0]["text"] == "a\nb"


@pytest.mark.parametrize("path", ["/stdio", "/pair"])
def test_line_breaks_do_not_reach_programs(farm: Farm, path: str) -> None:
    tool = "echo" if path == "/stdio" else "s_echo"
    for answer in both(farm.at(path), tool, '{\n\t"text":\r\n"a\\nb",\n"n":1.0}'):
        assert '"a\\nb"' in answer.text
        assert "1.0" in answer.text
        assert "\n" not in answer.text


SCHEMA = {
    "$schema": "https://json-schema.org/draft/2020-12/schema", "$defs": {"p": {"$anchor": "here", "type": "integer"}}, "type": "object",
    "properties": {"a": {"$ref": "#here"}, "b": {"$ref": "https://example.invalid/never-fetched.json"}}, "allOf": [{"anyOf": [{"required": ["a"]}]}],
    "if": {"properties": {"a": {"const": 1}}}, "then": {"required": ["b"]}, "else": False, "additionalProperties": False, "x-vendor": {"k": [1]},
}


def test_schemas_survive(start: Callable[..., Any], server: Callable[..., Any]) -> None:
    from tests.integration.mcp.conftest import configuration, http_target, route

    tool = {"name": "t", "inputSchema": SCHEMA, "outputSchema": SCHEMA, "execution": {"taskSupport": "optional"}, "x": 1, "title": "é"}
    text = json.dumps({"tools": [tool, {"name": "u", "inputSchema": {"type": "object", "maximum": "N"}}]}).replace('"N"', "1.0e2")
    a, b, m = server(name="a"), server(name="b"), server(name="m", era="modern")
    for each in (a, m):
        each.offer.answers["tools/list"] = text if each is a else '{"resultType":"complete","ttlMs":0,"cacheScope":"private",' + text[1:]
    gateway = start(configuration(
        route("/one", http_target("a", a.port)), route("/two", http_target("a", a.port), http_target("b", b.port)), route("/modern", http_target("m", m.port)),
    ), workers=1)
    for path, prefix in (("/one", ""), ("/two", "a_"), ("/modern", "")):
        at = Endpoint(gateway.port, path)
        with Session(at) as session:
            for answer in (session.request("tools/list"), at.modern("tools/list")):
                assert answer.result["tools"][0] == {**tool, "name": prefix + "t"}, (path, answer.result["tools"][0])
                assert b"1.0e2" in answer.raws[-1]


@pytest.mark.parametrize("capabilities", [
    {}, {"elicitation": {}}, {"elicitation": None}, {"elicitation": {"form": {}, "url": {}}},
    {"sampling": {"tools": {}}, "experimental": {"x": {"y": 1}}, "unknown": []},
])
def test_capabilities_absent_null_and_empty(farm: Farm, capabilities: dict[str, Any]) -> None:
    for path in ("/one", "/two"):
        with Session(farm.at(path), capabilities=capabilities):
            assert farm.a.last("initialize").message["params"]["capabilities"] == capabilities
    farm.at("/modern").modern("tools/call", {"name": "echo"}, capabilities=capabilities)
    assert farm.m.last("tools/call").message["params"]["_meta"]["io.modelcontextprotocol/clientCapabilities"] == capabilities


def test_unknown_fields_of_the_envelope_survive(farm: Farm) -> None:
    at = farm.at("/modern")
    for _ in range(2):
        at.modern("tools/call", {"name": "echo", "x-more": {"n": [1]}}, meta={"traceparent": "00-" + "1" * 32 + "-" + "2" * 16 + "-01", "vendor/x": {"y": 1}})
        params = farm.m.last("tools/call").message["params"]
        assert params["x-more"] == {"n": [1]}
        assert params["_meta"]["vendor/x"] == {"y": 1}
        assert params["_meta"]["traceparent"].startswith("00-1111")
    with Session(farm.at("/two")) as session:
        session.request("tools/call", {"name": "a_echo", "x-more": 1, "_meta": {"vendor/x": 1}})
        assert farm.a.last("tools/call").message["params"] == {"name": "echo", "x-more": 1, "_meta": {"vendor/x": 1}}
        session.notify("notifications/vendor", {"a": 1})


def test_text_that_looks_like_sse(farm: Farm) -> None:
    text = "data: x\n\nevent: y\rid: 1\r\n\u2028\u2029\x85: comment"

    async def tricky(x: Exchange) -> None:
        assert isinstance(x, HttpExchange)
        await x.notify("notifications/message", {"level": "info", "data": text})
        await x.text(text)

    farm.a.on("echo", tricky)
    for path, prefix in (("/one", ""), ("/two", "a_")):
        for answer in both(farm.at(path), prefix + "echo", "{}"):
            assert answer.text == text


def test_large_blobs(farm: Farm) -> None:
    blob = os.urandom(700_000).hex()
    with Session(farm.at("/two")) as session:
        for _ in range(2):
            assert blob in session.call("a_echo", {"blob": blob}).text
    assert blob in farm.at("/modern").modern("tools/call", {"name": "echo", "arguments": {"blob": blob}}).text
    with Session(farm.at("/stdio")) as session:
        assert blob in session.call("echo", {"blob": blob}).text
