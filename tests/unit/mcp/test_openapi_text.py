"""Documents as octets: JSON and YAML mean the same, and nothing grows or nests beyond its bound."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agw.mcp import message
from agw.mcp.openapi import schema, text, tools
from agw.mcp.openapi.text import DocumentError, read
from agw.mcp.openapi.tools import build


def document(paths: dict[str, Any], **more: Any) -> bytes:
    return json.dumps({"openapi": "3.1.0", "info": {"title": "T", "version": "1"}, "paths": paths, **more}).encode()


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("200: ok\nyes: no\non: 012\n", {"200": "ok", "yes": "no", "on": 12}),
        ("a: ~\nb: null\nc:\nd: ''\n", {"a": None, "b": None, "c": None, "d": ""}),
        ("a: true\nb: 'true'\nc: !!str true\n", {"a": True, "b": "true", "c": "true"}),
        ("a: 1\nb: -1.5e3\nc: 0x1F\nd: 0o17\ne: 1_000\nf: 12:30\ng: .inf\nh: 1.0.0\n",
         {"a": 1, "b": -1500.0, "c": 31, "d": 15, "e": "1_000", "f": "12:30", "g": ".inf", "h": "1.0.0"}),
        ("a: 2020-01-01\n", {"a": "2020-01-01"}),
        ("x: &x {a: 1, b: 2}\ny: {<<: *x, b: 3}\nz: {<<: [*x, {c: 4}]}\n", {"x": {"a": 1, "b": 2}, "y": {"a": 1, "b": 3}, "z": {"a": 1, "b": 2, "c": 4}}),
        ("k: &k name\n*k : 1\n", {"k": "name", "name": 1}),
        ("- [1, {a: []}]\n- |\n  text\n", [[1, {"a": []}], "text\n"]),
        ("\ufeff{\"a\": 1}", {"a": 1}),
        ("", None),
    ],
)
def test_what_a_text_means(source: str, expected: Any) -> None:
    assert read(source.encode()) == expected


@pytest.mark.parametrize(
    ("source", "problem"),
    [
        (b'{"a": 1', "not JSON: line 1"),
        (b'{"a": NaN}', "not JSON"),
        (b"a: [1\nb: 2", "not YAML: line"),
        (b"a: 1\na: 2\n", "occurs twice"),
        (b"a: &a [*a]\n", "unknown or still open"),
        (b"a: *b\n", "unknown or still open"),
        (b"? [a]\n: 1\n", "a key is not text"),
        (b"a: &a [1]\n*a : 2\n", "a key is not text"),
        (b"a: {<<: 3}\n", "merge key"),
        (b"a: 1\n---\nb: 2\n", "more than one"),
        (b"\xff\xfe\xfd", "not YAML"),
        (b"a: \x00", "not YAML"),
    ],
)
def test_what_is_refused(source: bytes, problem: str) -> None:
    with pytest.raises(DocumentError, match=problem):
        read(source)


def test_nothing_of_a_yaml_document_runs() -> None:
    assert read(b"a: !!python/object/apply:os.system ['x']\n") == {"a": ["x"]}


# Without what YAML cannot hold unescaped; a merge key is no plain key.
TEXT = st.text(st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="\x85\u2028\u2029\ufeff\ufffe\uffff"))
KEYS = st.text(st.characters(min_codepoint=32, max_codepoint=126)).filter(lambda key: key != "<<")
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**9), 10**9) | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=20,
)


@given(JSON)
def test_json_is_read_as_yaml_to_the_same_value(value: Any) -> None:
    assert read(b"- " + json.dumps(value, ensure_ascii=False).encode()) == [value]


# ------------------------------------------------------------------------------------------------------------ bounds


def test_size(monkeypatch: pytest.MonkeyPatch) -> None:
    assert text.MAX_BYTES == 16 * 1024 * 1024
    monkeypatch.setattr(text, "MAX_BYTES", 100)
    assert read(b'{"a":"' + b"x" * 92 + b'"}')
    with pytest.raises(DocumentError, match="larger than"):
        read(b'{"a":"' + b"x" * 93 + b'"}')


@pytest.mark.parametrize("depth", [200, 201, 1_000, 1_000_000])
@pytest.mark.parametrize("kind", ["json", "yaml", "mixed"])
def test_depth(depth: int, kind: str) -> None:
    source = {
        "json": b'{"a":' + b"[" * (depth - 1) + b"]" * (depth - 1) + b"}",
        "yaml": b"[" * depth + b"]" * depth,
        "mixed": b"- " * (depth - 1) + b"{}",
    }[kind]
    began = time.monotonic()
    if depth <= 200:
        assert read(source)
    else:
        with pytest.raises(DocumentError):
            read(source)
    assert time.monotonic() - began < 5


def test_aliases_count_as_what_they_expand_to(monkeypatch: pytest.MonkeyPatch) -> None:
    levels = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    levels += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 9)]
    with pytest.raises(DocumentError, match="more than"):
        read("\n".join(levels).encode())
    deep = ["a0: &a0 []"] + [f"a{i}: &a{i} [*a{i - 1}]" for i in range(1, 250)]
    with pytest.raises(DocumentError, match="nested deeper"):
        read("\n".join(deep).encode())


def test_values(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text, "MAX_NODES", 1000)
    for source in (b'{"a":[' + b"1," * 1000 + b"1]}", b"- 1\n" * 1001):
        with pytest.raises(DocumentError, match="more than 1000"):
            read(source)


def test_operations() -> None:
    paths = {f"/{i}": {"get": {}, "put": {}} for i in range(5000)}
    assert len(build(document(paths)).tools) == 10_000
    with pytest.raises(DocumentError, match="more than 10000 operations"):
        build(document({**paths, "/more": {"get": {}}}))


def test_names_that_all_meet_cost_no_squares() -> None:
    paths = {f"/{i}": {"get": {"operationId": "same"}} for i in range(10_000)}
    began = time.monotonic()
    found = build(document(paths))
    assert time.monotonic() - began < 20
    assert len(found.tools) == 10_000
    assert {"same", "same_2", "same_10000"} <= found.tools.keys()


def test_a_schema_nested_to_the_limit_fits_a_message() -> None:
    deep: Any = {"type": "string", "example": "x"}
    for _ in range(40):
        deep = {"type": "object", "properties": {"p": {"nullable": True, "allOf": [deep]}}, "example": {"a": [[[1]]]}}
    found = build(document({"/a": {"post": {"requestBody": {"content": {"application/json": {"schema": deep}}}}}}))
    assert message.parse(message.result(b"1", b'{"tools":%b}' % found.listing)).result is not None
    assert found.listing.count(b'"anyOf"') > 5
    assert b'"p":{}' in found.listing or b'"allOf":[{}]' in found.listing


def test_definitions_beyond_the_bound_stay_open(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tools, "MAX_INPUT_BYTES", 2_000)
    monkeypatch.setattr(tools, "MAX_OUTPUT_BYTES", 2_000)

    def link(i: int) -> dict[str, Any]:
        return {"type": "object", "description": "x" * 600, "properties": {"next": {"$ref": f"#/components/schemas/S{(i + 1) % 100}"}}}

    content = {"application/json": {"schema": {"$ref": "#/components/schemas/S0"}}}
    paths = {"/a": {"post": {"requestBody": {"content": content}, "responses": {"200": {"content": content}}}}}
    (shown,) = json.loads(build(document(paths, components={"schemas": {f"S{i}": link(i) for i in range(100)}})).listing)
    definitions = shown["inputSchema"]["$defs"]
    assert list(definitions) == ["S0", "S1", "S2"]
    assert definitions["S1"]["properties"] == {"next": {"$ref": "#/$defs/S2"}}
    assert definitions["S2"] == {}
    assert list(shown["outputSchema"]["$defs"]) == ["S1", "S2", "S3"]
    assert shown["outputSchema"]["$defs"]["S3"] == {}


def test_arguments_too_large_by_themselves_are_listed_without_schemas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tools, "MAX_INPUT_BYTES", 2_000)
    big = {"type": "object", "properties": {f"p{i}": {"type": "string"} for i in range(200)}}
    parameter = {"name": "q", "in": "query", "required": True, "description": "Which", "schema": big}
    body = {"required": True, "content": {"application/json": {"schema": big}}}
    shown = json.loads(build(document({"/a": {"post": {"parameters": [parameter], "requestBody": body}}})).listing)[0]["inputSchema"]
    assert shown["properties"] == {
        "query": {"type": "object", "properties": {"q": {"description": "Which"}}, "required": ["q"], "additionalProperties": False},
        "body": {},
    }
    assert shown["required"] == ["query", "body"]
    many = [{"name": f"name-{i}", "in": "query"} for i in range(200)]
    with pytest.raises(DocumentError, match="parameters are larger"):
        build(document({"/a": {"get": {"parameters": many}}}))


def test_a_huge_output_schema_is_not_promised(monkeypatch: pytest.MonkeyPatch) -> None:
    paths = {"/a": {"get": {"operationId": "a", "responses": {"200": {"content": {"application/json": {"schema": {"type": "object", "title": "x" * 3000}}}}}}}}
    assert build(document(paths)).tools["a"].structured
    monkeypatch.setattr(tools, "MAX_OUTPUT_BYTES", 2_000)
    assert not build(document(paths)).tools["a"].structured


def test_the_listing_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tools, "MAX_LISTING_BYTES", 10_000)
    with pytest.raises(DocumentError, match="its tools are larger"):
        build(document({f"/{i}": {"get": {"description": "x" * 1000}} for i in range(20)}))


def test_many_tools_that_refer_to_nearly_everything_share_the_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tools, "MAX_LISTING_BYTES", 1_000_000)
    schemas = {
        f"S{i}": {"type": "object", "properties": {f"p{j}": {"$ref": f"#/components/schemas/S{(7 * i + j) % 200}"} for j in range(20)}} for i in range(200)}
    content = {"application/json": {"schema": {"$ref": "#/components/schemas/S3"}}}
    paths = {f"/{i}": {"put": {"requestBody": {"content": content}, "responses": {"200": {"content": content}}}} for i in range(100)}
    found = build(document(paths, components={"schemas": schemas}))
    assert 300_000 < len(found.listing) < 1_000_000
    for tool in json.loads(found.listing):
        assert tool["inputSchema"]["$defs"]["S3"]["properties"]
        assert tool["outputSchema"]["properties"]


def test_references_to_one_large_thing_are_bounded_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schema, "MAX_WORK", 20_000)
    big = {"name": "q", "in": "query", "schema": {"enum": list(range(1000))}}
    paths = {f"/{i}": {"get": {"parameters": [{"$ref": "#/components/parameters/Big"}]}} for i in range(100)}
    with pytest.raises(DocumentError, match="expand to too much"):
        build(document(paths, components={"parameters": {"Big": big}}))


def test_a_long_chain_of_references_ends() -> None:
    chain: dict[str, Any] = {f"S{i}": {"$ref": f"#/components/schemas/S{i + 1}"} for i in range(1000)}
    chain["S1000"] = {"type": "string"}
    paths = {"/a": {"get": {"parameters": [{"name": "q", "in": "query", "schema": {"$ref": "#/components/schemas/S0"}}]}}}
    with pytest.raises(DocumentError, match="too long"):
        build(document(paths, components={"schemas": chain}))
