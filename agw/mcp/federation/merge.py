"""What the gateway says about itself when several targets stand behind it: capabilities, instructions, identity.

Rules:
- one target: its capabilities and instructions pass unchanged, unknown members included;
- several: a feature is offered when any target offers it; `listChanged` is true because the gateway itself can change the
  lists (reload, a target coming or going); of settings that differ the first target's count;
- extensions may bring methods and result types: with several targets only those the gateway can route are offered, and for
  the same reason unknown capabilities are not;
- what a legacy target declares and the modern era does not have (`tasks`, 2025-11-25) is not offered to modern callers.
  `logging` is: it is deprecated there, not removed, and works per request;
- instructions of targets are untrusted text: put under a heading with the target's id, and cut to a bound.

Source: MCP 2025-11-25 "Lifecycle"; 2026-07-28 "Discovery", "Caching", "Extension negotiation".
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from msgspec import Raw

from agw.mcp import message
from agw.mcp.message import Members
from agw.mcp.revisions import META_SERVER_INFO, TASKS_EXTENSION, Era

UI_EXTENSION = "io.modelcontextprotocol/ui"
ROUTABLE_EXTENSIONS = frozenset({TASKS_EXTENSION, UI_EXTENSION})
"""Extensions whose ids, URIs and methods are mapped, so that they work with several targets."""

MAX_INSTRUCTIONS = 16_384
"""Longest merged instructions, in characters."""

_LISTS = ("tools", "prompts", "resources")
_PLAIN = ("completions", "logging")
_TRUE = Raw(b"true")


class Part(NamedTuple):
    """What one target said: its id, `capabilities`, `instructions` and (from its result) the `_meta` members."""

    target: str
    capabilities: Members
    instructions: str | None = None
    meta: Members | None = None

    @classmethod
    def of(cls, target: str, raw_result: bytes) -> Part:
        """From an InitializeResult or a DiscoverResult."""
        found = message.members(raw_result)
        return cls(target, message.members(found.get("capabilities")), message.text(found.get("instructions")), message.members(found.get("_meta")))

    @classmethod
    def unknown(cls, target: str) -> Part:
        """For a target that cannot be asked yet: it will have tools."""
        return cls(target, {"tools": Raw(b'{"listChanged":true}')})


def _objects(parts: Sequence[Members], name: str) -> list[Members]:
    """The members of capability `name`, of those that have it as an object."""
    return [message.members(part[name]) for part in parts if bytes(part.get(name, b"")).startswith(b"{")]


def _first(parts: Sequence[Members]) -> Members:
    """All members of all parts; the first one of a name wins, unless it is `false`."""
    merged: Members = {}
    for part in parts:
        for name, value in part.items():
            if name not in merged or bytes(merged[name]) == b"false":
                merged[name] = value
    return merged


def _deep(parts: Sequence[Members]) -> Members:
    """Like `_first`, object by object: legacy `tasks` is nothing but nested objects."""
    merged: Members = {}
    for name in dict.fromkeys(name for part in parts for name in part):
        inner = _objects(parts, name)
        merged[name] = message.raw(_deep(inner)) if inner else _first(parts)[name]
    return merged


def capabilities(parts: Sequence[Members], *, multiplexed: bool, era: Era, own_changes: bool = True) -> Members:
    """The capabilities to declare, from those of the targets that are known now, in configuration order.

    `multiplexed`: the backend has several targets, whether or not all of them are known. `own_changes`: the gateway sends
    `list_changed` by itself.
    """
    if not multiplexed:
        return dict(parts[0]) if parts else {}
    merged: Members = {}
    for name in _LISTS:
        if found := _objects(parts, name):
            one = _first(found)
            if own_changes:
                one["listChanged"] = _TRUE
            merged[name] = message.raw(one)
    for name in _PLAIN:
        if found := _objects(parts, name):
            merged[name] = message.raw(_first(found))
    if found := _objects(parts, "experimental"):
        merged["experimental"] = message.raw(_first(found))
    extensions = {name: value for name, value in _first(_objects(parts, "extensions")).items() if name in ROUTABLE_EXTENSIONS}
    if extensions:
        merged["extensions"] = message.raw(extensions)
    if era == "legacy" and (found := _objects(parts, "tasks")):
        merged["tasks"] = message.raw(_deep(found))
    return merged


def instructions(parts: Sequence[Part], own: str = "", *, multiplexed: bool, limit: int = MAX_INSTRUCTIONS) -> str | None:
    """The operator's own text, then every target's under a heading (one target's alone is left as it is). None: nothing to say."""
    pieces = [own] if own else []
    for part in parts:
        if part.instructions:
            pieces.append(f"## {part.target}\n\n{part.instructions}" if multiplexed else part.instructions)
    text = "\n\n".join(pieces)
    if len(text) > limit and (multiplexed or own):
        text = text[: limit - 1] + "…"
    return text or None


def initialize_result(
    version: str, parts: Sequence[Part], server_info: bytes, *, multiplexed: bool, own_instructions: str = "", own_changes: bool = True
) -> bytes:
    """An InitializeResult in version `version`; `server_info` is the gateway's Implementation as raw JSON."""
    result: dict[str, Any] = {
        "protocolVersion": version,
        "capabilities": capabilities([part.capabilities for part in parts], multiplexed=multiplexed, era="legacy", own_changes=own_changes),
        "serverInfo": Raw(server_info),
    }
    return _finished(result, parts, {}, multiplexed, own_instructions)


def discover_result(
    parts: Sequence[Part], supported_versions: Sequence[str], ttl_ms: int, server_info: bytes, *, multiplexed: bool, own_instructions: str = "",
    own_changes: bool = True, scope: str = "private",
) -> bytes:
    """A DiscoverResult. `supported_versions` is what the gateway serves, whatever the targets list."""
    result: dict[str, Any] = {
        "resultType": "complete",
        "supportedVersions": list(supported_versions),
        "capabilities": capabilities([part.capabilities for part in parts], multiplexed=multiplexed, era="modern", own_changes=own_changes),
        "ttlMs": ttl_ms,
        "cacheScope": scope,
    }
    return _finished(result, parts, {META_SERVER_INFO: Raw(server_info)}, multiplexed, own_instructions)


def _finished(result: dict[str, Any], parts: Sequence[Part], meta: Members, multiplexed: bool, own: str) -> bytes:
    if not multiplexed and parts and parts[0].meta:
        meta = {**parts[0].meta, **meta}
    text = instructions(parts, own, multiplexed=multiplexed)
    if text:
        result["instructions"] = text
    if meta:
        result["_meta"] = meta
    return message.encode(result)
