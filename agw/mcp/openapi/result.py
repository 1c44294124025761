"""The answer of a service as the result of a tool call.

Rules:
- the model reads `content`, programs read `structuredContent`: a JSON object is given as both, octet for octet; other JSON
  is text only, because legacy clients know objects only;
- a status outside 2xx is a failed call (`isError`) whose text holds the status and the beginning of the body; a redirect
  is not followed, it would lead the gateway's credentials elsewhere;
- a tool that promised an output schema never succeeds without an object: clients throw such results away, so it is said
  what happened instead, status included.

Source: MCP tools, "Tool Result", "Structured Content", "Error Handling".
"""

from __future__ import annotations

import base64
from typing import Any

import msgspec
import orjson

from agw._fast.jsonrpc import EnvelopeError, locate
from agw.runtime.origin import Answer

MAX_ERROR_TEXT = 16 * 1024
"""Characters of a failed answer's body that are shown."""

_CHARSETS = frozenset(("utf-8", "us-ascii", "iso-8859-1", "windows-1252", "utf-16", "utf-16le", "utf-16be"))
_TEXTUAL = ("/xml", "+xml", "/yaml", "+yaml", "/x-yaml", "/javascript", "/x-www-form-urlencoded", "/graphql", "/sql", "/x-ndjson", "/jsonl", "/toml")
_SHOWN_HEADERS = (b"content-type", b"content-length", b"last-modified", b"etag", b"location", b"allow")


def render(answer: Answer, name: str, *, structured: bool, head: bool = False) -> dict[str, Any]:
    """A CallToolResult; `structuredContent` is raw JSON.

    `name` is the tool's, `structured` whether it promised an output schema, `head` whether the request was a HEAD.
    """
    if not 200 <= answer.status <= 299:
        return _failed(answer)
    media_type, charset = _media_type(answer)
    body = answer.body.removeprefix(b"\xef\xbb\xbf")
    if _is_json(media_type, body):
        known = _object(body)
        if known is not None:
            return {"content": [text_block(body.decode())], "structuredContent": known}
    if structured:
        shown = _shown(body, media_type, charset)
        return failure(f"HTTP {answer.status}: the request was carried out, but its answer is not the JSON object the service documents.\n{shown}")
    return {"content": [_block(answer, body, media_type, charset, name, head)]}


def failure(text: str) -> dict[str, Any]:
    """A failed call in words for the model."""
    return {"content": [text_block(text)], "isError": True}


def text_block(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text}


def _failed(answer: Answer) -> dict[str, Any]:
    lines = [f"HTTP {answer.status}"]
    location = answer.header(b"location")
    if 300 <= answer.status <= 399 and location is not None:
        lines.append(f"A redirect to {location.decode(errors='replace')[:2000]}, which is not followed.")
    shown = _shown(answer.body, *_media_type(answer))
    return failure("\n".join([*lines, shown] if shown else lines))


def _shown(body: bytes, media_type: str, charset: str) -> str:
    """The beginning of a body as text, or what it is."""
    if not _is_text(media_type, body):
        return f"({len(body)} octets of {media_type or 'unknown type'})"
    # Four octets per character at most, so no more than this has to be decoded.
    text = body[: 4 * MAX_ERROR_TEXT].decode(charset, "replace")
    return text if len(text) <= MAX_ERROR_TEXT and len(body) <= 4 * MAX_ERROR_TEXT else f"{text[:MAX_ERROR_TEXT]}\n(cut off; {len(body)} octets)"


def _block(answer: Answer, body: bytes, media_type: str, charset: str, name: str, head: bool) -> dict[str, Any]:
    """The one content block of a success."""
    if not body:
        return text_block(_about_nothing(answer, head))
    kind = media_type.partition("/")[0]
    if kind in ("image", "audio") and not _is_text(media_type, body):
        return {"type": kind, "data": base64.b64encode(body).decode(), "mimeType": media_type}
    if _is_text(media_type, body):
        return text_block(body.decode(charset, "replace"))
    blob = {"uri": f"openapi:{name}", "mimeType": media_type or "application/octet-stream", "blob": base64.b64encode(body).decode()}
    return {"type": "resource", "resource": blob}


def _about_nothing(answer: Answer, head: bool) -> str:
    """What is worth saying of an answer without a body: nothing for 204, the headers where they are all there is."""
    if answer.status == 204 and not head:
        return ""
    wanted = _SHOWN_HEADERS if head else (b"location",)
    lines = [f"{name.decode()}: {value.decode(errors='replace')[:2000]}" for name, value in answer.headers if name in wanted]
    return "\n".join([f"HTTP {answer.status}", *lines]) if lines or head else ""


def _media_type(answer: Answer) -> tuple[str, str]:
    """Media type in lower case without parameters, and a charset Python knows. A content coding is the origin's to undo."""
    value = (answer.header(b"content-type") or b"").decode("latin-1").lower()
    media_type, _, parameters = value.partition(";")
    charset = "utf-8"
    for parameter in parameters.split(";"):
        name, _, given = parameter.partition("=")
        if name.strip() == "charset" and given.strip(' "') in _CHARSETS:
            charset = given.strip(' "')
    return media_type.strip()[:200], charset


def _is_json(media_type: str, body: bytes) -> bool:
    return media_type in ("application/json", "text/json") or media_type.endswith("+json") or (not media_type and body.lstrip()[:1] == b"{")


def _is_text(media_type: str, body: bytes) -> bool:
    if media_type.startswith("text/") or media_type.endswith(_TEXTUAL) or _is_json(media_type, body):
        return True
    if media_type:
        return False
    try:
        body.decode()
    except UnicodeDecodeError:
        return False
    return b"\x00" not in body


def _object(body: bytes) -> msgspec.Raw | None:
    """The body if it is one JSON object that fits into a message (whose nesting is bounded), else None."""
    if body.lstrip()[:1] != b"{":
        return None
    try:
        orjson.loads(body)
        # Only after the body stands for itself may it be looked at inside something.
        locate(b'{"jsonrpc":"2.0","id":0,"result":{"structuredContent":%b}}' % body)
    except (orjson.JSONDecodeError, EnvelopeError):
        return None
    return msgspec.Raw(body)
