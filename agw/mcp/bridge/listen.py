"""Changes a client wants to hear of: `subscriptions/listen` (modern), subscriptions and unsolicited messages (legacy).

| modern | legacy |
|---|---|
| `toolsListChanged`, `promptsListChanged`, `resourcesListChanged` | `notifications/*/list_changed`, sent to everybody |
| `resourceSubscriptions` | `resources/subscribe`, `resources/unsubscribe` (`changes` says which), `notifications/resources/updated` |
| `notifications/subscriptions/acknowledged` | the empty results of subscribe |
| `_meta` subscriptionId on all of it | nothing |
| the final result | the end of the session |

Rules: nothing that was not asked for is passed on; a subscription covers the resource and what lies below it; the
subscriptionId is the raw id of the listen request (`1` is not `"1"`); other members of a notification stay as they came.

Cannot be bridged: `notifications/message`, `progress` and a server's requests never travel here; `notifications/tasks` and
`notifications/tasks/status` speak of different tasks; a legacy target without GET stream or stdio tells nobody of changes:
do not count it in `honoured`.

Source: MCP 2026-07-28, "Subscriptions"; MCP 2025-11-25, resources, "Subscriptions" and "List Changed Notification".
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import msgspec

from agw.mcp.bridge.results import COMPLETE, with_server_info
from agw.mcp.errors import INVALID_PARAMS, RpcError
from agw.mcp.message import Members, Message, encode, members, notification, raw, text, value
from agw.mcp.revisions import META_SUBSCRIPTION, TASKS_EXTENSION

ACKNOWLEDGED = "notifications/subscriptions/acknowledged"
UPDATED = "notifications/resources/updated"
TOOLS = "notifications/tools/list_changed"
PROMPTS = "notifications/prompts/list_changed"
RESOURCES = "notifications/resources/list_changed"
TASKS = "notifications/tasks"

MAX_SUBSCRIPTIONS = 1024
"""URIs, and task ids, of one listen request."""


class Filter(NamedTuple):
    """What is wanted: three flags, URIs and task ids (tasks extension), each once and in the order given."""

    tools: bool = False
    prompts: bool = False
    resources: bool = False
    uris: tuple[str, ...] = ()
    tasks: tuple[str, ...] = ()

    def raw(self) -> bytes:
        """The `notifications` object: only what is wanted is there."""
        wanted: dict[str, object] = {name: True for name, on in zip(_FLAGS, self[:3], strict=True) if on}
        if self.uris:
            wanted["resourceSubscriptions"] = self.uris
        if self.tasks:
            wanted["taskIds"] = self.tasks
        return encode(wanted)


_FLAGS = ("toolsListChanged", "promptsListChanged", "resourcesListChanged")


def parse_filter(params: bytes | None) -> Filter:
    """The filter of a listen request, or of an acknowledgment. Members nobody knows are left out: not honoured.

    Errors: RpcError -32602 (no filter, a member of the wrong type, more than MAX_SUBSCRIPTIONS).
    """
    found = value(members(params).get("notifications"))
    if not isinstance(found, dict):
        raise RpcError(INVALID_PARAMS, "params.notifications is not an object", status=400)
    flags = []
    for name in _FLAGS:
        flag = found.get(name)
        if flag is not None and not isinstance(flag, bool):
            raise RpcError(INVALID_PARAMS, f"params.notifications.{name} is not a boolean", status=400)
        flags.append(flag is True)
    return Filter(flags[0], flags[1], flags[2], _strings(found, "resourceSubscriptions"), _strings(found, "taskIds"))


def _strings(found: dict[str, object], name: str) -> tuple[str, ...]:
    given = found.get(name)
    if given is None:
        return ()
    if not isinstance(given, list) or not all(isinstance(entry, str) for entry in given) or len(given) > MAX_SUBSCRIPTIONS:
        raise RpcError(INVALID_PARAMS, f"params.notifications.{name} is not a list of at most {MAX_SUBSCRIPTIONS} strings", status=400)
    return tuple(dict.fromkeys(given))


def honoured(wanted: Filter, capabilities: Members) -> Filter:
    """The part of `wanted` that a server with these capabilities (of either era) will tell of."""
    tools, prompts, resources = (members(capabilities.get(name)) for name in ("tools", "prompts", "resources"))
    return Filter(
        wanted.tools and value(tools.get("listChanged")) is True,
        wanted.prompts and value(prompts.get("listChanged")) is True,
        wanted.resources and value(resources.get("listChanged")) is True,
        wanted.uris if value(resources.get("subscribe")) is True else (),
        wanted.tasks if TASKS_EXTENSION in members(capabilities.get("extensions")) else (),
    )


def union(filters: Iterable[Filter]) -> Filter:
    """What any of them wants, for one acknowledgment over several targets or one listen for several sessions."""
    given = list(filters)
    return Filter(
        any(one.tools for one in given), any(one.prompts for one in given), any(one.resources for one in given),
        tuple(dict.fromkeys(uri for one in given for uri in one.uris)), tuple(dict.fromkeys(task for one in given for task in one.tasks)),
    )


def changes(before: Filter, after: Filter) -> tuple[list[str], list[str]]:
    """`(URIs to subscribe, URIs to unsubscribe)` at a legacy target."""
    return [uri for uri in after.uris if uri not in set(before.uris)], [uri for uri in before.uris if uri not in set(after.uris)]


def listen_params(wanted: Filter) -> bytes:
    """The params of a listen request; the envelope is added by `bridge.requests.with_envelope`."""
    return b'{"notifications":%b}' % wanted.raw()


def covers(subscribed: Sequence[str], uri: str) -> bool:
    """Whether an update of `uri` belongs to one of the subscriptions: that resource, or one below it."""
    return any(uri == one or (uri.startswith(one) and (one.endswith("/") or uri[len(one)] in "/?#")) for one in subscribed)


def wants(accepted: Filter, message: Message) -> bool:
    """Whether a server's notification is one of those asked for."""
    if message.method == UPDATED:
        uri = text(members(message.params).get("uri"))
        return uri is not None and covers(accepted.uris, uri)
    if message.method == TASKS:
        return text(members(message.params).get("taskId")) in accepted.tasks
    return {TOOLS: accepted.tools, PROMPTS: accepted.prompts, RESOURCES: accepted.resources}.get(message.method or "", False)


def acknowledged(accepted: Filter, ident: bytes) -> bytes:
    """The first message of a listen stream; `ident` is the raw id of the listen request."""
    return notification(ACKNOWLEDGED, b'{"_meta":%b,"notifications":%b}' % (_meta(ident), accepted.raw()))


def final_result(ident: bytes, server_info: bytes | None = None) -> bytes:
    """The result of a listen request whose server ends it."""
    parts: Members = {"resultType": raw(COMPLETE), "_meta": msgspec.Raw(_meta(ident))}
    return encode(with_server_info(parts, server_info))


def _meta(ident: bytes) -> bytes:
    return encode({META_SUBSCRIPTION: msgspec.Raw(ident)})


def subscription_of(message: Message) -> bytes | None:
    """The raw subscriptionId of a notification, None if it has none."""
    found = members(members(message.params).get("_meta")).get(META_SUBSCRIPTION)
    return None if found is None else bytes(found)


def tag(message: Message, ident: bytes) -> bytes:
    """The notification with this raw subscriptionId in place of any it had."""
    parts = members(message.params)
    meta = members(parts.get("_meta"))
    meta[META_SUBSCRIPTION] = msgspec.Raw(ident)
    parts["_meta"] = raw(meta)
    return _with_params(message, raw(parts))


def to_modern(message: Message, accepted: Filter, ident: bytes) -> bytes | None:
    """A target's notification for one listen stream, None if the stream did not ask for it."""
    return tag(message, ident) if wants(accepted, message) else None


def to_legacy(message: Message) -> bytes | None:
    """A message of an upstream listen stream for a legacy client, None if it means nothing there.

    List changes and updates lose their subscriptionId, acknowledgments and tasks have no counterpart.
    """
    if message.method not in (TOOLS, PROMPTS, RESOURCES, UPDATED):
        return None
    parts = members(message.params)
    meta = members(parts.get("_meta"))
    if META_SUBSCRIPTION not in meta:
        return message.raw
    del meta[META_SUBSCRIPTION]
    if meta:
        parts["_meta"] = raw(meta)
    else:
        del parts["_meta"]
    return _with_params(message, raw(parts) if parts else None)


def _with_params(message: Message, params: msgspec.Raw | None) -> bytes:
    parts = members(message.raw)
    if params is None:
        parts.pop("params", None)
    else:
        parts["params"] = params
    return encode(parts)
