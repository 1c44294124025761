"""Answers of services as tool results."""

from __future__ import annotations

import base64
import json
from typing import Any

import msgspec
import pytest

from agw.mcp.openapi.result import MAX_ERROR_TEXT, render
from agw.runtime.origin import Answer


def shown(status: int, body: bytes, content_type: str = "", *, structured: bool = False, head: bool = False, **fields: str) -> dict[str, Any]:
    headers = [(name.replace("_", "-").encode(), value.encode()) for name, value in fields.items()]
    if content_type:
        headers.append((b"content-type", content_type.encode()))
    result = render(Answer(status, headers, body), "tool", structured=structured, head=head)
    found: dict[str, Any] = json.loads(msgspec.json.encode(result))
    return found


def text(value: str) -> list[dict[str, str]]:
    return [{"type": "text", "text": value}]


def test_an_object_is_text_and_structure() -> None:
    body = b'{"id": 12345678901234567890123, "b":1.0}\n'
    result = render(Answer(200, [(b"content-type", b"application/json; charset=utf-8")], body), "tool", structured=True)
    assert msgspec.json.encode(result["structuredContent"]) == body
    assert result["content"] == text(body.decode())
    assert "isError" not in result


@pytest.mark.parametrize("content_type", ["application/vnd.api+json", "text/json", "", "APPLICATION/JSON"])
def test_what_counts_as_json(content_type: str) -> None:
    assert shown(201, b' {"a":1}', content_type)["structuredContent"] == {"a": 1}


@pytest.mark.parametrize("body", [b"[1]", b"3", b"null", b'"x"', b'{"a":', b'{"a":1}{"b":2}', b'{}},"error":{"a":{}', b'{"a":NaN}', b'{"a":"\xff"}'])
def test_what_is_no_object_is_text_only(body: bytes) -> None:
    result = shown(200, body, "application/json")
    assert result == {"content": text(body.decode(errors="replace"))}


def test_an_object_too_deep_for_a_message_is_text_only() -> None:
    for depth, fits in ((62, True), (63, False), (300, False)):
        body = b'{"a":' + b"[" * (depth - 1) + b"]" * (depth - 1) + b"}"
        result = shown(200, body, "application/json")
        assert ("structuredContent" in result) == fits, depth
        assert result["content"] == text(body.decode())


def test_a_broken_promise_is_an_error_that_says_the_call_happened() -> None:
    for status, body, content_type in ((200, b"[1]", "application/json"), (204, b"", ""), (200, b"ok", "text/plain")):
        result = shown(status, body, content_type, structured=True)
        assert result["isError"] is True
        assert result["content"][0]["text"].startswith(f"HTTP {status}: the request was carried out")
        assert result["content"][0]["text"].endswith(body.decode())
        assert "structuredContent" not in result


@pytest.mark.parametrize("status", [400, 404, 429, 500, 503, 599, 304, 100])
def test_other_statuses_are_errors_with_their_body(status: int) -> None:
    result = shown(status, b'{"detail":"no"}', "application/problem+json")
    assert result == {"content": text(f'HTTP {status}\n{{"detail":"no"}}'), "isError": True}


def test_a_redirect_says_where_to() -> None:
    result = shown(302, b"", location="https://elsewhere.test/x")
    assert result == {"content": text("HTTP 302\nA redirect to https://elsewhere.test/x, which is not followed."), "isError": True}


def test_the_text_of_an_error_is_bounded() -> None:
    result = shown(500, b"x" * 1_000_000, "text/html")
    shortened = result["content"][0]["text"]
    assert len(shortened) < MAX_ERROR_TEXT + 100
    assert shortened.endswith("(cut off; 1000000 octets)")
    wide = shown(500, "😀".encode() * MAX_ERROR_TEXT, "text/plain")["content"][0]["text"]
    assert wide == "HTTP 500\n" + "😀" * MAX_ERROR_TEXT
    assert shown(500, b"\x00\x01", "image/png")["content"] == text("HTTP 500\n(2 octets of image/png)")


def test_no_body() -> None:
    assert shown(204, b"") == {"content": text("")}
    assert shown(200, b"", "application/json") == {"content": text("")}
    assert shown(201, b"", location="/pets/7") == {"content": text("HTTP 201\nlocation: /pets/7")}
    head = shown(200, b"", head=True, content_length="12", etag='"a"', x_other="1")
    assert head == {"content": text('HTTP 200\ncontent-length: 12\netag: "a"')}


@pytest.mark.parametrize("kind", ["image", "audio"])
def test_images_and_sounds_are_blocks(kind: str) -> None:
    result = shown(200, b"\x00\xff", f"{kind}/x-y; q=1")
    assert result == {"content": [{"type": kind, "data": base64.b64encode(b"\x00\xff").decode(), "mimeType": f"{kind}/x-y"}]}


def test_text_in_its_charset() -> None:
    assert shown(200, "grün".encode("latin-1"), 'text/plain; charset="ISO-8859-1"') == {"content": text("grün")}
    assert shown(200, "grün".encode(), "application/xml") == {"content": text("grün")}
    assert shown(200, b"<svg/>", "image/svg+xml") == {"content": text("<svg/>")}
    assert shown(200, b"\xff", "text/plain; charset=rot13") == {"content": text("\ufffd")}
    assert shown(200, b"bare") == {"content": text("bare")}


def test_other_octets_are_a_resource() -> None:
    blob = {"uri": "openapi:tool", "mimeType": "application/pdf", "blob": "AA=="}
    assert shown(200, b"\x00", "application/pdf") == {"content": [{"type": "resource", "resource": blob}]}
    assert shown(200, b"\x00")["content"][0]["resource"]["mimeType"] == "application/octet-stream"
