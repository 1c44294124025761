"""Documents, the tools they give and the requests calls become: tests/vectors/openapi/*.json.

    document, prefix     what is loaded
    tools                by name: members of the listed tool that must be exactly so (null: absent)
    names                the names of all tools in order
    calls                tool, arguments (or `raw` text), forwarded headers -> method, target, headers (null: absent), body or
                         parts of a multipart body; or `error`, a part of the refusal
    refused              documents and a part of what is said of each
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from agw.mcp.openapi.call import Request, compose
from agw.mcp.openapi.parameters import ArgumentError
from agw.mcp.openapi.text import DocumentError
from agw.mcp.openapi.tools import ToolSet, build

FILES = sorted((Path(__file__).parents[2] / "vectors" / "openapi").glob("*.json"))
VECTORS = {path.stem: json.loads(path.read_text()) for path in FILES}
CALLS = [pytest.param(name, call, id=f"{name}-{i}") for name, vector in VECTORS.items() for i, call in enumerate(vector.get("calls", ()))]
REFUSED = [pytest.param(case, id=f"{name}-{i}") for name, vector in VECTORS.items() for i, case in enumerate(vector.get("refused", ()))]
BUILT: dict[str, ToolSet] = {}


def built(name: str) -> ToolSet:
    if name not in BUILT:
        BUILT[name] = build(json.dumps(VECTORS[name]["document"]).encode(), VECTORS[name].get("prefix", ""))
    return BUILT[name]


def test_there_are_vectors() -> None:
    assert len(CALLS) > 100
    assert len(REFUSED) > 15


@pytest.mark.parametrize("name", [name for name, vector in VECTORS.items() if "document" in vector])
def test_tools_are_listed_as_expected(name: str) -> None:
    listed = {tool["name"]: tool for tool in json.loads(built(name).listing)}
    assert list(listed) == list(built(name).tools)
    for tool, expected in VECTORS[name].get("tools", {}).items():
        assert {member: listed[tool].get(member) for member in expected} == expected
        assert built(name).tools[tool].structured == ("outputSchema" in listed[tool])
    if "names" in VECTORS[name]:
        assert list(listed) == VECTORS[name]["names"]


@pytest.mark.parametrize("name", [name for name, vector in VECTORS.items() if "document" in vector])
def test_the_same_document_in_yaml_gives_the_same(name: str) -> None:
    text = yaml.safe_dump(VECTORS[name]["document"], allow_unicode=True, sort_keys=False)
    assert build(text.encode(), VECTORS[name].get("prefix", "")) == built(name)


@pytest.mark.parametrize(("name", "call"), CALLS)
def test_a_call_becomes_a_request(name: str, call: dict[str, Any]) -> None:
    operation = built(name).tools[call["tool"]].operation
    raw = call["raw"].encode() if "raw" in call else json.dumps(call["arguments"], ensure_ascii=False, separators=(",", ":")).encode()
    forwarded = [(k.encode(), v.encode()) for k, v in call.get("forwarded", {}).items()]
    if "error" in call:
        with pytest.raises(ArgumentError) as caught:
            compose(operation, raw, forwarded)
        assert call["error"] in str(caught.value)
        return
    request = compose(operation, raw, forwarded)
    lines = [f"{k.decode().lower()}: {v.decode()}" for k, v in request.headers]
    names = [line.partition(":")[0] for line in lines]
    assert len(names) == len(set(names))
    if "method" in call:
        assert request.method.decode() == call["method"]
    if "target" in call:
        assert request.path.decode() == call["target"]
    for header, value in call.get("headers", {}).items():
        found = [line.partition(": ")[2] for line in lines if line.startswith(f"{header}:")]
        assert found == ([] if value is None else [value]), header
    if "body" in call:
        assert request.body == call["body"].encode()
    if "multipart" in call:
        assert parts(request) == [(head.encode(), body.encode("latin-1")) for head, body in call["multipart"]]


def parts(request: Request) -> list[tuple[bytes, bytes]]:
    """Head and body of each part, by the letter of RFC 2046."""
    content_type = dict(request.headers)[b"content-type"]
    assert content_type.startswith(b"multipart/form-data; boundary=")
    delimiter = b"--" + content_type.partition(b"boundary=")[2]
    assert request.body is not None
    first, *middle, last = request.body.split(delimiter)
    assert (first, last) == (b"", b"--\r\n")
    found = []
    for part in middle:
        head, _, body = part.partition(b"\r\n\r\n")
        assert head.startswith(b"\r\n")
        assert body.endswith(b"\r\n")
        found.append((head[2:], body[:-2]))
    return found


@pytest.mark.parametrize("case", REFUSED)
def test_a_document_is_refused(case: dict[str, Any]) -> None:
    with pytest.raises(DocumentError) as caught:
        build(json.dumps(case["document"]).encode())
    assert case["error"] in str(caught.value)
