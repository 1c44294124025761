"""`x-mcp-header` annotations, `Mcp-Param-*` in both directions, and the base64 sentinel."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agw.mcp import param_headers
from agw.mcp.param_headers import decode_value, encode_value, headers_for, validate


def schema(properties: Any, **more: Any) -> bytes:
    return orjson.dumps({"type": "object", "properties": properties, **more})


def getter(**named: bytes | list[bytes]) -> Callable[[bytes], list[bytes]]:
    table = {b"mcp-param-" + name.replace("_", "-").encode(): [v] if isinstance(v, bytes) else v for name, v in named.items()}
    return lambda name: table.get(name, [])


# ---------------------------------------------------------------------------------------------------------- sentinel


@pytest.mark.parametrize(
    ("plain", "field"),
    [
        ("us-east 1", b"us-east 1"),
        ("", b""),
        ("größe", b"=?base64?Z3LDtsOfZQ==?="),
        (" x", b"=?base64?IHg=?="),
        ("x ", b"=?base64?eCA=?="),
        ("a\tb", b"=?base64?YQli?="),
        ("a\nb", b"=?base64?YQpi?="),
        ("=?base64?eA==?=", b"=?base64?PT9iYXNlNjQ/ZUE9PT89?="),
        ("=?base64?x", b"=?base64?x"),
        ("=?BASE64?eA==?=", b"=?BASE64?eA==?="),
        ("\x7f", b"=?base64?fw==?="),
    ],
)
def test_encoded(plain: str, field: bytes) -> None:
    assert encode_value(plain) == field
    assert decode_value(field) == plain


@given(st.text())
def test_any_text_comes_back(plain: str) -> None:
    field = encode_value(plain)
    assert all(0x20 <= octet < 0x7F for octet in field)
    assert decode_value(b" " + field + b"\t") == plain


@pytest.mark.parametrize("field", [b"=?base64?eA?=", b"=?base64?e A==?=", b"=?base64?eB==?=", b"=?base64?/w==?=", b"gr\xc3\xb6\xc3\x9fe", b"\xff"])
def test_malformed(field: bytes) -> None:
    assert decode_value(field) is None


def test_markers_that_overlap_are_no_sentinel() -> None:
    assert decode_value(b"=?base64?=") == "=?base64?="


# ------------------------------------------------------------------------------------------------------- annotations


def test_found_on_nested_properties() -> None:
    found = param_headers.annotations(
        schema(
            {
                "region": {"type": "string", "x-mcp-header": "Region"},
                "x-mcp-header": {"type": "string"},
                "deep": {"type": "object", "properties": {"n": {"type": "integer", "x-mcp-header": "N"}, "flag": {"type": "boolean", "x-mcp-header": "Flag"}}},
            },
            default={"x-mcp-header": "data"},
            examples=[{"x-mcp-header": "data"}],
        )
    )
    assert found == {"Region": ("region",), "N": ("deep", "n"), "Flag": ("deep", "flag")}


@pytest.mark.parametrize("raw", [None, b"{}", b"true", b'{"type":"object"}', schema({"a": {"type": "string"}})])
def test_none(raw: bytes | None) -> None:
    assert param_headers.annotations(raw) == {}


MARK = {"type": "string", "x-mcp-header": "X"}


@pytest.mark.parametrize(
    "raw",
    [
        schema({"a": {"type": "string", "x-mcp-header": ""}}),
        schema({"a": {"type": "string", "x-mcp-header": "a b"}}),
        schema({"a": {"type": "string", "x-mcp-header": "a\n"}}),
        schema({"a": {"type": "string", "x-mcp-header": "é"}}),
        schema({"a": {"type": "string", "x-mcp-header": 1}}),
        schema({"a": {"type": "number", "x-mcp-header": "X"}}),
        schema({"a": {"type": ["string", "null"], "x-mcp-header": "X"}}),
        schema({"a": {"x-mcp-header": "X"}}),
        schema({"a": {"$ref": "#/$defs/s", "x-mcp-header": "X"}}),
        schema({"a": MARK, "b": {"type": "string", "x-mcp-header": "x"}}),
        schema({"a": {"type": "string", "x-mcp-header": "x"}, "b": MARK}),
        schema({"a": {"type": "array", "items": MARK}}),
        schema({"a": {"type": "array", "prefixItems": [MARK]}}),
        schema({"a": {"anyOf": [MARK]}}),
        schema({}, allOf=[{"properties": {"a": MARK}}]),
        schema({}, **{"$defs": {"s": MARK}}),
        schema({}, additionalProperties=MARK),
        schema({}, patternProperties={".*": MARK}),
        schema({}, **{"if": {"properties": {"a": MARK}}}),
        schema({}, **{"x-mcp-header": "X"}),
        schema({"a": MARK}).replace(b"x-mcp-header", b"\\u0078-mcp-header").replace(b'"X"', b'"a b"'),
    ],
)
def test_invalid(raw: bytes) -> None:
    assert param_headers.annotations(raw) is None


def test_a_schema_too_deep_is_invalid() -> None:
    nested: dict[str, Any] = MARK
    for _ in range(80):
        nested = {"type": "object", "properties": {"a": nested}}
    assert param_headers.annotations(orjson.dumps(nested)) is None


# ---------------------------------------------------------------------------------------------- arguments to headers

FOUND = {"V": ("v",), "Deep": ("a", "b")}


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (b'{"v":"eu"}', [(b"Mcp-Param-V", b"eu")]),
        (b'{"v":"\\u00e9"}', [(b"Mcp-Param-V", b"=?base64?w6k=?=")]),
        (b'{"v":true}', [(b"Mcp-Param-V", b"true")]),
        (b'{"v":false,"a":{"b":0}}', [(b"Mcp-Param-V", b"false"), (b"Mcp-Param-Deep", b"0")]),
        (b'{"v":42.0}', [(b"Mcp-Param-V", b"42")]),
        (b'{"v":-1.5e3}', [(b"Mcp-Param-V", b"-1500")]),
        (b'{"v":-0.0}', [(b"Mcp-Param-V", b"0")]),
        (b'{"v":123456789012345678901234567890}', [(b"Mcp-Param-V", b"123456789012345678901234567890")]),
        (b'{"v":1.5}', [(b"Mcp-Param-V", b"1.5")]),
        (b'{"v":1e999999999999}', [(b"Mcp-Param-V", b"1e999999999999")]),
        (b'{"v":1e99999999999999999999999}', [(b"Mcp-Param-V", b"1e99999999999999999999999")]),
        (b'{"v":null,"a":null}', []),
        (b'{"v":[1],"a":{"b":{}}}', []),
        (b'{"a":"b"}', []),
        (b"{}", []),
        (None, []),
    ],
)
def test_headers_for(arguments: bytes | None, expected: list[tuple[bytes, bytes]]) -> None:
    built = headers_for(FOUND, arguments)
    assert built == expected
    sent = {name.lower(): [field] for name, field in built}
    assert validate(FOUND, arguments, lambda name: sent.get(name, [])) is None


@pytest.mark.parametrize(
    ("arguments", "field"),
    [(b'{"v":42}', b"42.0"), (b'{"v":42.0}', b"42"), (b'{"v":4.2e1}', b"42.00"), (b'{"v":9007199254740993}', b"9007199254740993.0"), (b'{"v":0}', b"-0"),
     (b'{"v":"eu"}', b"=?base64?ZXU=?="), (b'{"v":"eu"}', b"\teu ")],
)  # fmt: skip
def test_equal(arguments: bytes, field: bytes) -> None:
    assert validate({"V": ("v",)}, arguments, getter(v=field)) is None


@pytest.mark.parametrize(
    ("arguments", "given_fields"),
    [
        (b'{"v":"eu"}', []),
        (b'{"v":"eu"}', [b"EU"]),
        (b'{"v":"eu"}', [b"eu", b"eu"]),
        (b'{"v":"eu"}', [b"=?base64?ZX?="]),
        (b'{"v":"42"}', [b"42.0"]),
        (b'{"v":9007199254740993}', [b"9007199254740992"]),
        (b'{"v":42}', [b"4.2e1"]),
        (b'{"v":42}', [b"43"]),
        (b'{"v":42}', [b"Infinity"]),
        (b'{"v":42}', [b"42." + b"0" * 5000]),
        (b'{"v":1.5}', [b"1.50"]),
        (b'{"v":true}', [b"True"]),
        (b'{"v":null}', [b"null"]),
        (b"{}", [b"eu"]),
        (b'{"v":{}}', [b"{}"]),
        (b'{"v":"eu","v":"us"}', [b"us"]),
        (b'{"v":"eu","\\u0076":"us"}', [b"us"]),
    ],
)
def test_different(arguments: bytes, given_fields: list[bytes]) -> None:
    error = validate({"V": ("v",)}, arguments, getter(v=given_fields))
    assert error is not None
    assert (error.code, error.status, error.always) == (-32020, 400, True)


def test_headers_nobody_asked_for_are_not_looked_at() -> None:
    assert validate({"V": ("v",)}, b'{"v":"eu"}', getter(v=b"eu", w=[b"1", b"2"])) is None
    assert validate({}, b'{"v":"eu"}', getter(v=b"us")) is None


@given(st.integers())
def test_any_integer_is_itself(number: int) -> None:
    arguments = orjson.dumps({"v": 0}).replace(b"0", str(number).encode())
    built = headers_for({"V": ("v",)}, arguments)
    assert built == [(b"Mcp-Param-V", str(number).encode())]
