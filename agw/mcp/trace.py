"""Trace context between header fields and `_meta`: both are ways to say the same, and a target gets the one it can read.

Rules:
- over HTTP the caller's fields go through as fields; a caller that names its trace in `_meta` only gets fields, too;
- a channel (a process, an HTTP+SSE stream) has no fields per message: they are written into `_meta` there;
- what the caller said itself is never replaced, and a `tracestate` never gets beside another caller's `traceparent`;
- a member is put in where it belongs, every other octet of the message stays;
- what is not well formed is no trace context: it is not moved from one place to the other.

Sources: W3C Trace Context, W3C Baggage; MCP 2026-07-28, `_meta` (SEP-414).
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import orjson

from agw._fast.jsonrpc import spans
from agw.mcp import message
from agw.mcp.transport import Headers

PARENT, STATE, BAGGAGE = b"traceparent", b"tracestate", b"baggage"
MAX_VALUE = 8192
"""Octets of a value that is moved; W3C asks for 512 of tracestate and 8,192 of baggage."""

_PARENT = re.compile(rb"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(?:-[!-~]*)?")
_VALUE = re.compile(rb"[\t -~]+")


def carried(text: bytes, headers: Headers, *, channel: bool) -> tuple[bytes, Headers]:
    """A request and its header fields as the target gets them. `channel`: fields do not reach it."""
    if channel:
        named = _chosen({name: b",".join(value for key, value in headers if key == name) for name in (PARENT, STATE, BAGGAGE)})
        return (_into_meta(text, named) if named else text), headers
    if b'"traceparent"' not in text and b'"baggage"' not in text:
        return text, headers
    _, _, start, size = spans(text)
    meta = message.members(text[start : start + size]) if size else {}
    said = {name: (message.text(meta.get(name.decode())) or "").encode("utf-8", "replace") for name in (PARENT, STATE, BAGGAGE)}
    known = {name for name, _ in headers}
    found = [(name, value) for name, value in _chosen(said).items() if name not in known and (name != STATE or PARENT not in known)]
    return text, [*headers, *found] if found else headers


def _chosen(said: Mapping[bytes, bytes]) -> dict[bytes, bytes]:
    """What is well formed; a state needs its parent."""
    found: dict[bytes, bytes] = {}
    if _PARENT.fullmatch(said[PARENT]) and (not said[PARENT].startswith(b"00") or len(said[PARENT]) == 55):
        found[PARENT] = said[PARENT]
    for name in (STATE, BAGGAGE):
        if len(said[name]) <= MAX_VALUE and _VALUE.fullmatch(said[name]) and (name == BAGGAGE or PARENT in found):
            found[name] = said[name]
    return found


def _into_meta(text: bytes, named: dict[bytes, bytes]) -> bytes:
    params, size, start, length = spans(text)
    if not size:
        # No params: the message ends with its closing brace, and nothing but blanks is behind it.
        end = text.rindex(b"}")
        return text[:end] + b',"params":{"_meta":{%b}}' % _listed(named) + text[end:]
    if text[params : params + 1] != b"{":
        return text
    if not length:
        members = message.members(text[params : params + size])
        if "_meta" in members:
            return text
        return _put(text, params, b'"_meta":{%b}' % _listed(named), bool(members))
    meta = message.members(text[start : start + length])
    if "traceparent" in meta:
        named.pop(PARENT, None)
        named.pop(STATE, None)
    named = {name: value for name, value in named.items() if name.decode() not in meta}
    return _put(text, start, _listed(named), bool(meta)) if named else text


def _put(text: bytes, brace: int, member: bytes, more: bool) -> bytes:
    """Right behind the opening brace."""
    return text[: brace + 1] + member + (b"," if more else b"") + text[brace + 1 :]


def _listed(named: dict[bytes, bytes]) -> bytes:
    return b",".join(b'"%b":%b' % (name, orjson.dumps(value.decode("latin-1"))) for name, value in named.items())
