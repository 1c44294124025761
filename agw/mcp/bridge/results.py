"""Results of one era as the other expects them, edited member by member.

| result | legacy -> modern | modern -> legacy |
|---|---|---|
| every | + `resultType: complete`, serverInfo in `_meta` | as it came: legacy clients pass over what they do not know |
| cacheable lists and reads | + `ttlMs`, `cacheScope` (0, private unless told) | as it came |
| `tools/call` | as it came | `structuredContent` that is no object: left out (2025-06-18 on), as text if there is no other content |
| `tools/list` | as it came | `outputSchema` that is not `type: object`: left out (2025-06-18 on) |
| `resultType` other than `complete` | - | refused; `input_required` is for `bridge.rounds` |

Versions before 2025-06-18 know neither structured member, so there any value is one of the unknown members they pass over.

Cannot be bridged: results of tasks (`task`, legacy `CreateTaskResult`); content types a client's version does not know
(`audio` before 2025-03-26, `resource_link` before 2025-06-18) come through as they are.

Source: MCP 2025-11-25 and 2026-07-28, `Result`, `CacheableResult`, `CallToolResult`, `Tool`.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from agw.mcp.errors import INTERNAL, RpcError
from agw.mcp.message import Members, elements, encode, members, one_line, raw, text
from agw.mcp.revisions import META_SERVER_INFO, METHODS

_STRUCTURED_SINCE = "2025-06-18"
COMPLETE = "complete"
INPUT_REQUIRED = "input_required"


def result_type(raw_result: bytes) -> str:
    """The `resultType`; `complete` when absent, as servers of earlier versions leave it out; "" for what is no string."""
    parts = members(raw_result)
    return COMPLETE if "resultType" not in parts else text(parts["resultType"]) or ""


def with_server_info(parts: Members, server_info: bytes | None) -> Members:
    """The same members with serverInfo in `_meta`, unless the result names a server itself. `parts` is not changed."""
    if server_info is None:
        return parts
    meta = members(parts.get("_meta"))
    if META_SERVER_INFO in meta:
        return parts
    meta[META_SERVER_INFO] = msgspec.Raw(server_info)
    return {**parts, "_meta": raw(meta)}


def to_modern(
    method: str, raw_result: bytes, server_info: bytes | None, *, ttl_ms: int = 0, scope: Literal["public", "private"] = "private",
) -> bytes:
    """A legacy target's result for a modern client.

    Whatever the target wrote into the three added members is replaced: a legacy server cannot have meant them.
    """
    parts: Members = {**members(raw_result), "resultType": raw(COMPLETE)}
    known = METHODS.get(method)
    if known is not None and known.cacheable:
        parts.update(ttlMs=raw(ttl_ms), cacheScope=raw(scope))
    return encode(with_server_info(parts, server_info))


def to_legacy(method: str, raw_result: bytes, version: str) -> bytes:
    """A modern target's complete result for a legacy client at `version`; the same octets where nothing has to change.

    Errors: RpcError (-32603) for a result that is not complete.
    """
    if result_type(raw_result) != COMPLETE:
        raise RpcError(INTERNAL, "The target answered with a kind of result that this protocol version does not have", status=502, reason="bridge")
    if version >= _STRUCTURED_SINCE:
        if method == "tools/call":
            return _call_result(raw_result)
        if method == "tools/list":
            return _tools(raw_result)
    return raw_result


def _call_result(raw_result: bytes) -> bytes:
    parts = members(raw_result)
    structured = parts.get("structuredContent")
    if structured is None or bytes(structured)[:1] == b"{":
        return raw_result
    del parts["structuredContent"]
    if not elements(parts.get("content")):
        parts["content"] = raw([{"type": "text", "text": one_line(bytes(structured)).decode()}])
    return encode(parts)


def _tools(raw_result: bytes) -> bytes:
    if b"outputSchema" not in raw_result and b"\\u00" not in raw_result:
        return raw_result
    parts = members(raw_result)
    changed = False
    tools: list[msgspec.Raw] = []
    for entry in elements(parts.get("tools")):
        tool = members(entry)
        schema = tool.get("outputSchema")
        if schema is not None and text(members(schema).get("type")) != "object":
            del tool["outputSchema"]
            changed = True
            entry = raw(tool)
        tools.append(entry)
    if not changed:
        return raw_result
    parts["tools"] = raw(tools)
    return encode(parts)
