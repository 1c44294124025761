"""Whatever is put anywhere into a document, it gives tools or is refused; whatever is said to a tool, it is sent or refused."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from agw.mcp import message
from agw.mcp.openapi.call import compose
from agw.mcp.openapi.parameters import ArgumentError
from agw.mcp.openapi.text import DocumentError
from agw.mcp.openapi.tools import build

DOCUMENTS = [
    vector["document"]
    for path in sorted((Path(__file__).parents[2] / "vectors" / "openapi").glob("*.json"))
    if "document" in (vector := json.loads(path.read_text()))
]
ODD: list[Any] = [
    None, True, False, 0, -1, 1.5, "", "x", "/a/{b}", "#/components/schemas/Node", "#/paths", "\ud7ff\n", [], [None], ["x"], [[]], {}, {"x": None},
    {"$ref": "#/components/schemas/Node"}, {"$ref": "#/paths"}, {"$ref": 3}, {"$ref": "#/info/title"}, {"type": "object"}, {"type": ["null", []]},
]


def places(node: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The way to every value inside."""
    found = []
    for key, value in node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ():
        found.append((*path, key))
        found += places(value, (*path, key))
    return found


PLACES = [places(document) for document in DOCUMENTS]


@settings(max_examples=400, deadline=None)
@given(st.data())
def test_a_damaged_document_gives_tools_or_is_refused(data: st.DataObject) -> None:
    index = data.draw(st.integers(0, len(DOCUMENTS) - 1))
    document = copy.deepcopy(DOCUMENTS[index])
    for _ in range(data.draw(st.integers(1, 3))):
        node: Any = document
        *way, last = data.draw(st.sampled_from(PLACES[index]))
        try:
            for key in way:
                node = node[key]
            node[last] = copy.deepcopy(data.draw(st.sampled_from(ODD)))
        except (KeyError, IndexError, TypeError):
            pass  # an earlier blow removed it
    try:
        found = build(json.dumps(document).encode())
    except DocumentError as error:
        assert 0 < len(str(error)) < 1000
        return
    listed = json.loads(found.listing)
    assert [tool["name"] for tool in listed] == list(found.tools)
    assert message.parse(message.result(b"1", b'{"tools":%b}' % found.listing)).kind == "response"
    for tool in listed:
        assert tool["inputSchema"]["type"] == "object"
        for schema in (tool["inputSchema"], tool.get("outputSchema", {})):
            assert refers_to(schema) <= {f"#/$defs/{name}" for name in schema.get("$defs", {})}


def refers_to(schema: Any) -> set[str]:
    """Every reference in a schema; properties may be called `$ref` too."""
    if isinstance(schema, list):
        return set().union(*(refers_to(item) for item in schema))
    if not isinstance(schema, dict):
        return set()
    inner: set[str] = set().union(*(refers_to(value) for key, value in schema.items() if key not in ("default", "examples", "const", "enum")))
    return inner | ({schema["$ref"]} if isinstance(schema.get("$ref"), str) else set())


TOOLS = [tool for document in DOCUMENTS for tool in build(json.dumps(document).encode()).tools.values()]
LEAVES = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), st.text(max_size=12), st.sampled_from(["..", "/", "\r\n", ""]))
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=400, deadline=None)
@given(st.data())
def test_whatever_is_said_is_sent_safely_or_refused(data: st.DataObject) -> None:
    tool = data.draw(st.sampled_from(TOOLS))
    arguments: dict[str, Any] = {
        place: {name: data.draw(VALUES) for name in tool.operation.of(place)} for place in ("path", "query", "header", "cookie")}
    if tool.operation.body is not None:
        arguments["body"] = data.draw(VALUES)
    try:
        request = compose(tool.operation, json.dumps(arguments).encode())
    except ArgumentError as error:
        assert 0 < len(str(error)) < 500
        return
    path, _, query = request.path.partition(b"?")
    template = tool.operation.path
    assert path.startswith(template[0].encode() if isinstance(template[0], str) else b"/")
    assert path.count(b"/") == sum(piece.count("/") for piece in template if isinstance(piece, str))
    assert not {b".", b".."} & set(path.split(b"/"))
    for line in (path, query, *(part for field in request.headers for part in field)):
        assert not {0, 10, 13} & set(line)
    assert not {32, 35} & set(request.path)
