"""Requests and notifications of one era, said in the other.

| what | legacy client -> modern target | modern client -> legacy target |
|---|---|---|
| envelope | `_meta`: version, capabilities, clientInfo, logLevel of the session | taken out of `_meta`; the rest of `_meta` stays |
| headers | `MCP-Protocol-Version`, `Mcp-Method`, `Mcp-Name`, `Mcp-Param-*` | none of them |
| `inputResponses`, `requestState` | the client's own are taken out (`own_params`), those of a round stay | taken out: `bridge.rounds` has read them |
| `task` of a `tools/call` | taken out: the target answers synchronously | - |
| `initialize`, `ping`, `logging/setLevel`, `tasks/result`, `tasks/list` | no request; the session answers | - |
| `resources/subscribe`, `unsubscribe` | `bridge.listen` | - |
| `server/discover`, `subscriptions/listen`, `tasks/update` | - | no request; the bridge answers |
| `notifications/cancelled` | stdio: as it came; HTTP: the request's stream is closed | as it came |
| other client notifications | dropped: the modern era has none | dropped, the era has none to bring |

`params` leaves octet for octet where nothing has to change, and member by member otherwise (`arguments` is never touched).

Cannot be bridged: `notifications/roots/list_changed`; a client's progress on a server's request; tasks.

Source: MCP 2026-07-28, "Per-request protocol fields", "Standard Request Headers"; MCP 2025-11-25, lifecycle and utilities.
"""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from agw.mcp.message import Members, Message, encode, members, raw, text
from agw.mcp.param_headers import Annotations, encode_value, headers_for
from agw.mcp.revisions import META_CAPABILITIES, META_CLIENT_INFO, META_LOG_LEVEL, META_VERSION, METHODS

_ENVELOPE = (META_VERSION, META_CAPABILITIES, META_CLIENT_INFO, META_LOG_LEVEL)
_ROUND = ("inputResponses", "requestState")


class Envelope(NamedTuple):
    """What every modern request says of its sender. `capabilities` and `client_info` are raw JSON objects, modern ones."""

    version: str
    capabilities: bytes
    client_info: bytes | None = None
    log_level: str | None = None


class Outgoing(NamedTuple):
    """A request as a modern target takes it: raw params, and the header fields that mirror it (for HTTP only)."""

    params: bytes
    headers: list[tuple[bytes, bytes]]


def with_envelope(params: bytes | None, envelope: Envelope) -> bytes:
    """Raw params whose `_meta` carries the envelope; what the sender wrote under these keys is replaced."""
    parts = members(params)
    meta = {name: part for name, part in members(parts.get("_meta")).items() if name not in _ENVELOPE}
    meta[META_VERSION] = raw(envelope.version)
    meta[META_CAPABILITIES] = msgspec.Raw(envelope.capabilities)
    if envelope.client_info is not None:
        meta[META_CLIENT_INFO] = msgspec.Raw(envelope.client_info)
    if envelope.log_level is not None:
        meta[META_LOG_LEVEL] = raw(envelope.log_level)
    parts["_meta"] = raw(meta)
    return encode(parts)


def mirror_headers(method: str, params: bytes | None, version: str, annotations: Annotations | None = None) -> list[tuple[bytes, bytes]]:
    """The header fields of a modern request over HTTP. `annotations`: those of the tool called, None if it has none."""
    headers = [(b"MCP-Protocol-Version", version.encode()), (b"Mcp-Method", method.encode())]
    known = METHODS.get(method)
    parts = members(params) if (known is not None and known.name) or annotations else {}
    if known is not None and known.name and "modern" in known.eras:
        name = text(parts.get(known.name))
        if name is not None:
            headers.append((b"Mcp-Name", encode_value(name)))
    if annotations and method == "tools/call":
        headers += headers_for(annotations, parts.get("arguments"))
    return headers


def to_modern(method: str, params: bytes | None, envelope: Envelope, annotations: Annotations | None = None) -> Outgoing:
    """A legacy client's request for a modern target. For methods that both eras have (see the table).

    Round members stay, so that the params of a repeated call (`rounds.retry_params`) come here as well.
    """
    out = with_envelope(_dropping(params, ("task",)) if method == "tools/call" else params, envelope)
    return Outgoing(out, mirror_headers(method, out, envelope.version, annotations))


def own_params(params: bytes | None) -> bytes | None:
    """What a legacy client sent, without round members: those are the bridge's, a legacy client cannot mean them.

    For the first call of a series only; the same octets if there are none.
    """
    return _dropping(params, _ROUND)


def to_legacy(params: bytes | None) -> bytes | None:
    """A modern client's params for a legacy target; the same octets if they hold nothing of the modern era.

    A `_meta` that held the envelope only is left out.
    """
    parts = members(params)
    meta = members(parts.get("_meta"))
    if not any(name in meta for name in _ENVELOPE) and not any(name in parts for name in _ROUND):
        return params
    kept: Members = {name: part for name, part in parts.items() if name not in _ROUND}
    if meta:
        rest = {name: part for name, part in meta.items() if name not in _ENVELOPE}
        if rest:
            kept["_meta"] = raw(rest)
        else:
            del kept["_meta"]
    return encode(kept)


def notification_to_modern(message: Message, *, shared_channel: bool) -> bytes | None:
    """A legacy client's notification for a modern target, None if there is nothing to send.

    `shared_channel`: stdio, where a cancellation is a message; over HTTP it is the end of the request's stream.
    The caller has already put the target's own request id into it.
    """
    return message.raw if shared_channel and message.method == "notifications/cancelled" else None


def notification_to_legacy(message: Message) -> bytes | None:
    """A modern client's notification for a legacy target: only a cancellation (stdio) has a meaning there."""
    return message.raw if message.method == "notifications/cancelled" else None


def _dropping(params: bytes | None, names: tuple[str, ...]) -> bytes | None:
    parts = members(params)
    if not any(name in parts for name in names):
        return params
    return encode({name: part for name, part in parts.items() if name not in names})
