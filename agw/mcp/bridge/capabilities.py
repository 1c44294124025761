"""Capabilities of either end, and the answer to the first question (`initialize`, `server/discover`), in the other era.

| what | legacy | modern |
|---|---|---|
| client: `roots` | `{listChanged?}` | `{}`; changes of roots are never told |
| client: `elicitation` | 2025-06-18 `{}` is the form; modes since 2025-11-25 | `{form?, url?}`, `{}` is the form |
| client, server: `tasks` | 2025-11-25 | gone; the tasks extension is another protocol |
| client, server: `extensions` | kept, it does no harm | kept without tasks |
| server: `InitializeResult` | `protocolVersion`, `serverInfo` | `supportedVersions`, `_meta` serverInfo, `ttlMs`, `cacheScope` |
| everything else | octet for octet | octet for octet |

Cannot be bridged: `roots.listChanged`; `tasks` <-> the tasks extension (different requests and results: never declared across
eras); URL elicitation towards versions before 2025-11-25; modern capabilities that depend on the request towards a
session, which declares once (keep one session per set).

Source: MCP 2025-11-25 and 2026-07-28, `ClientCapabilities`, `ServerCapabilities`, `InitializeResult`, `DiscoverResult`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import msgspec

from agw.mcp.bridge.results import with_server_info
from agw.mcp.ladder import Kind
from agw.mcp.message import Members, encode, members, raw, text
from agw.mcp.revisions import META_SERVER_INFO, NEWEST_LEGACY, TASKS_EXTENSION

_URL_MODE_SINCE = "2025-11-25"


def _without(parent: Members, name: str, member: str) -> None:
    """Drop `parent[name][member]` in place; nothing is touched when it is not there."""
    inner = members(parent.get(name))
    if member in inner:
        del inner[member]
        parent[name] = raw(inner)


def _declared(capabilities: Members) -> Members:
    """A copy without members that are null (absent, by the word of every version) and without what is tied to one era."""
    kept = {name: part for name, part in capabilities.items() if bytes(part) != b"null" and name != "tasks"}
    _without(kept, "extensions", TASKS_EXTENSION)
    return kept


def _server_declared(capabilities: msgspec.Raw | None) -> msgspec.Raw:
    """A server's capabilities without what is tied to one era; the same octets if there is nothing of the kind."""
    given = members(capabilities)
    kept = _declared(given)
    if capabilities is not None and given.keys() == kept.keys() and all(kept[name] is part for name, part in given.items()):
        return capabilities
    return raw(kept)


def client_to_modern(capabilities: Members, version: str = NEWEST_LEGACY) -> Members:
    """What a legacy client declared to `initialize` at `version`, as `_meta` of a modern request declares it."""
    kept = _declared(capabilities)
    _without(kept, "roots", "listChanged")
    if version < _URL_MODE_SINCE:
        _without(kept, "elicitation", "url")
    return kept


def client_to_legacy(capabilities: Members, version: str = NEWEST_LEGACY) -> Members:
    """What a modern request declares, for an `initialize` that asks for `version`.

    Before 2025-11-25 any `elicitation` object promises forms, so a client that can only open URLs declares none there.
    """
    kept = _declared(capabilities)
    if version < _URL_MODE_SINCE and "elicitation" in kept:
        modes = members(kept["elicitation"])
        if "url" in modes and "form" not in modes:
            del kept["elicitation"]
        else:
            _without(kept, "elicitation", "url")
    return kept


def server_to_modern(
    initialize_result: bytes, supported: Sequence[str], *, ttl_ms: int = 0, scope: Literal["public", "private"] = "private",
) -> bytes:
    """An `InitializeResult` as the result of `server/discover`. `supported`: the modern versions the bridge serves."""
    parts = members(initialize_result)
    server_info = parts.pop("serverInfo", None)
    parts.pop("protocolVersion", None)
    built: Members = {
        "resultType": raw("complete"),
        "supportedVersions": raw(list(supported)),
        "capabilities": _server_declared(parts.get("capabilities")),
    }
    built.update({name: part for name, part in parts.items() if name not in built})
    built.update(ttlMs=raw(ttl_ms), cacheScope=raw(scope))
    return encode(with_server_info(built, None if server_info is None else bytes(server_info)))


def server_to_legacy(discover_result: bytes, version: str, server_info: bytes) -> bytes:
    """The result of `server/discover` as an `InitializeResult` at `version`.

    `server_info`: raw `{name, version}` for a server that did not say who it is; the legacy era requires it.
    """
    parts = members(discover_result)
    meta = members(parts.pop("_meta", None))
    named = meta.pop(META_SERVER_INFO, None)
    for name in ("resultType", "supportedVersions", "ttlMs", "cacheScope"):
        parts.pop(name, None)
    built: Members = {
        "protocolVersion": raw(version),
        "capabilities": _server_declared(parts.get("capabilities")),
        "serverInfo": msgspec.Raw(server_info) if named is None else named,
    }
    built.update({name: part for name, part in parts.items() if name not in built})
    if meta:
        built["_meta"] = raw(meta)
    return encode(built)


def needed(method: str, params: bytes | None) -> Kind | None:
    """The client capability a server's request needs; None for a method that is no question to a client."""
    asked = members(params)
    if method == "roots/list":
        return "roots"
    if method == "sampling/createMessage":
        return "sampling.tools" if "tools" in asked or "toolChoice" in asked else "sampling"
    if method == "elicitation/create":
        return "elicitation.url" if text(asked.get("mode")) == "url" else "elicitation"
    return None
