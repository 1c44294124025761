"""Every vector of tests/vectors/jsonrpc gets the verdict in its name.

valid/<kind>[-<what it shows>].json is one message of that kind, invalid/<code>-<what is wrong>.json is refused with the
JSON-RPC error code -<code>. What follows from a verdict is checked, too: a valid object or array is refused when it is
cut anywhere, and blanks around it change nothing.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from agw._fast.jsonrpc import EnvelopeError, locate

ROOT = Path(__file__).resolve().parents[2] / "vectors" / "jsonrpc"
VALID = sorted((ROOT / "valid").glob("*.json"))
INVALID = sorted((ROOT / "invalid").glob("*.json"))


def refusal(text: bytes, max_depth: int = 64) -> EnvelopeError:
    with pytest.raises(EnvelopeError) as caught:
        locate(text, max_depth)
    return caught.value


@pytest.mark.parametrize("path", VALID, ids=lambda p: p.stem)
def test_valid(path: Path) -> None:
    text = path.read_bytes()
    found = locate(text)
    assert found["kind"] == path.stem.partition("-")[0]
    assert locate(b" \r\n\t" + text + b"\n ")["params"] == found["params"]
    end = len(text.rstrip())
    for cut in range(end):
        assert refusal(text[:cut]).code in (-32700, -32600)
    assert refusal(text + b",").code == -32700


@pytest.mark.parametrize("path", INVALID, ids=lambda p: p.stem)
def test_invalid(path: Path) -> None:
    text = path.read_bytes()
    error = refusal(text)
    assert error.code == -int(path.stem.partition("-")[0])
    assert str(error).isascii()
    if error.code == -32600:
        json.loads(text)
    refusal(text + b" ")


def test_the_vectors_are_there() -> None:
    assert len(VALID) >= 40
    assert len(INVALID) >= 100


def message(**members: Any) -> bytes:
    return json.dumps({"jsonrpc": "2.0", **members}).encode()


def test_spans_are_raw_slices() -> None:
    found = locate(rb'{"jsonrpc":"2.0","id":"a\u0062","method":"tools\/call","params":{ "name" : "e\"cho", "uri":"x" } }')
    assert found == {
        "kind": "request",
        "id": rb'"a\u0062"',
        "method": rb"tools\/call",
        "params": rb'{ "name" : "e\"cho", "uri":"x" }',
        "name": rb"e\"cho",
        "uri": b"x",
    }


def test_absent_parts_are_none_and_empty_ones_are_not() -> None:
    assert locate(message(method="")) == {"kind": "notification", "id": None, "method": b"", "params": None, "name": None, "uri": None}
    found = locate(message(id="", method="m", params={"name": "", "uri": ""}))
    assert (found["id"], found["name"], found["uri"]) == (b'""', b"", b"")


def test_name_and_uri_are_those_of_params_only() -> None:
    found = locate(message(id=1, method="m", name="outside", params={"arguments": {"name": "inside"}}, uri="outside"))
    assert (found["name"], found["uri"]) == (None, None)


@pytest.mark.parametrize("depth", [1, 2, 5, 40, 64])
def test_the_depth_limit_counts_open_containers(depth: int) -> None:
    nested = b"[" * depth + b"]" * depth
    assert locate(nested, depth)["kind"] == "batch"
    assert refusal(nested, depth - 1).code == -32700
    assert refusal(b'{"a":' * depth + b"1" + b"}" * depth, depth).code == -32600
    assert refusal(b'{"a":' * depth + b"1" + b"}" * depth, depth - 1).code == -32700


def test_no_limit_above_64() -> None:
    assert locate(b"[" * 64 + b"]" * 64, 1000)["kind"] == "batch"
    assert refusal(b"[" * 65 + b"]" * 65, 1000).code == -32700


def test_siblings_do_not_add_up() -> None:
    assert locate(b"[" + b",".join([b"[[[{}]]]"] * 1000) + b"]", 5)["kind"] == "batch"


def test_a_large_message_in_linear_time() -> None:
    filler = "\\u00e9x" * 200_000
    assert locate(f'{{"jsonrpc":"2.0","id":1,"method":"m","params":["{filler}"]}}'.encode())["kind"] == "request"


def test_only_bytes() -> None:
    for wrong in ("{}", None, bytearray(b"{}")):
        with pytest.raises(TypeError):
            locate(wrong)  # type: ignore[arg-type]
