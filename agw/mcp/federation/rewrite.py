"""Names, URIs and task ids inside messages: replaced where the specification puts them, nothing else touched.

Rules:
- raw JSON in, raw JSON out; what is not edited leaves as the octets it came in, and a text in which nothing changes is
  returned as the same object;
- only named members are looked at: text, `arguments`, `structuredContent` and unknown members never are;
- the direction is the caller's: each function takes the map to apply (`Uris.public` bound to a target, or its inverse);
- what cannot be read (a wrong type, lone surrogates) is left alone.

`needs` is one cheap look at a whole result; most hold nothing to rewrite and pass without being taken apart.

Source: MCP 2025-11-25 and 2026-07-28 schemas; tasks extension; MCP Apps (`_meta.ui.resourceUri`, formerly `ui/resourceUri`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import NamedTuple

from msgspec import Raw

from agw.mcp import message
from agw.mcp.message import Members

Map = Callable[[str], str]
"""From a name, URI or id to the one that stands in its place."""


class Maps(NamedTuple):
    """The maps a message needs: `uri` for resource URIs and templates, `task` for task ids."""

    uri: Map
    task: Map


Edit = Callable[[Raw], Raw]


def needs(raw: bytes) -> bool:
    """Whether a text can hold anything to rewrite at all. May be wrong with yes, never with no."""
    return b"uri" in raw or b"taskId" in raw or b"esource" in raw or b"\\u" in raw


# ------------------------------------------------------------------------------------------------------------- parts


def _edited(raw: Raw, edits: Mapping[str, Edit]) -> Raw:
    """An object with some members edited; the same object when none of them changed."""
    return _walk(raw, edits, None)


def _walk(raw: Raw, edits: Mapping[str, Edit], every: Edit | None) -> Raw:
    parts = message.members(raw)
    changed = False
    for name in parts if every is not None else edits.keys() & parts.keys():
        edit = every if every is not None else edits[name]
        before = parts[name]
        after = edit(before)
        if after is not before:
            parts[name] = after
            changed = True
    return Raw(message.encode(parts)) if changed else raw


def _values(edit: Edit) -> Edit:
    """The same edit for every value of an object."""
    return lambda raw: _walk(raw, {}, edit)


def _each(edit: Edit) -> Edit:
    """The same edit for every element of an array."""

    def apply(raw: Raw) -> Raw:
        found = message.elements(raw)
        after = [edit(element) for element in found]
        return Raw(message.encode(after)) if any(a is not b for a, b in zip(after, found, strict=True)) else raw

    return apply


def _one_or_each(edit: Edit) -> Edit:
    """For members that hold one object or an array of them."""
    array = _each(edit)
    return lambda raw: array(raw) if bytes(raw)[:1] == b"[" else edit(raw)


def _string(mapping: Map) -> Edit:
    def apply(raw: Raw) -> Raw:
        before = message.text(raw)
        if before is None:
            return raw
        after = mapping(before)
        return raw if after == before else message.raw(after)

    return apply


def _within(name: str, edit: Edit) -> Edit:
    """The edit applied to one member of an object."""
    return lambda raw: _edited(raw, {name: edit})


def _bytes(raw: bytes, edits: Mapping[str, Edit]) -> bytes:
    before = Raw(raw)
    after = _edited(before, edits)
    return raw if after is before else bytes(after)


def _meta(maps: Maps) -> Edit:
    uri = _string(maps.uri)
    return lambda raw: _edited(
        raw,
        {"ui": _within("resourceUri", uri), "ui/resourceUri": uri, "io.modelcontextprotocol/related-task": _within("taskId", _string(maps.task))},
    )


def _content(maps: Maps) -> Edit:
    """One content block: text and media have nothing; a tool's result inside a sampling message has blocks of its own."""
    uri = _string(maps.uri)

    def apply(raw: Raw) -> Raw:
        if not needs(bytes(raw)):
            return raw
        kind = message.text(message.members(raw).get("type"))
        if kind == "resource_link":
            return _edited(raw, {"uri": uri})
        if kind == "resource":
            return _edited(raw, {"resource": _within("uri", uri)})
        if kind == "tool_result":
            return _edited(raw, {"content": _each(apply)})
        return raw

    return apply


def _messages(maps: Maps) -> Edit:
    return _each(_within("content", _one_or_each(_content(maps))))


def _server_request(maps: Maps) -> Edit:
    """`{method, params}` as in `inputRequests`."""
    sampling = _within("params", lambda raw: _edited(raw, _sampling_members(maps)))
    other = _within("params", _within("_meta", _meta(maps)))

    def apply(raw: Raw) -> Raw:
        if not needs(bytes(raw)):
            return raw
        return (sampling if message.text(message.members(raw).get("method")) == "sampling/createMessage" else other)(raw)

    return apply


def _sampling_members(maps: Maps) -> dict[str, Edit]:
    return {"messages": _messages(maps), "_meta": _meta(maps)}


def _common(maps: Maps) -> dict[str, Edit]:
    """What any result may hold."""
    return {"_meta": _meta(maps), "inputRequests": _values(_server_request(maps))}


def _tool_members(maps: Maps) -> dict[str, Edit]:
    task = _string(maps.task)
    return {**_common(maps), "content": _each(_content(maps)), "taskId": task, "task": _within("taskId", task)}


def _task_members(maps: Maps) -> dict[str, Edit]:
    inlined = {**_tool_members(maps), "contents": _each(_within("uri", _string(maps.uri))), "messages": _messages(maps)}
    return {
        **_common(maps),
        "taskId": _string(maps.task),
        "result": lambda raw: _edited(raw, inlined),
        "error": lambda raw: _edited(raw, _error_members(maps.uri)),
        "tasks": _each(_within("taskId", _string(maps.task))),
    }


def _error_members(uri: Map) -> dict[str, Edit]:
    return {"data": _within("uri", _string(uri))}


# -------------------------------------------------------------------------------------------------------- list items


def _item(raw: bytes, name: str, value: str, meta: Edit | None = None) -> bytes:
    """Written out instead of composed: lists of ten thousand items come through here."""
    parts = message.members(raw)
    before = parts.get(name)
    if before is None:
        return raw
    changed = message.text(before) != value
    if changed:
        parts[name] = message.raw(value)
    if meta is not None and (found := parts.get("_meta")) is not None:
        after = meta(found)
        if after is not found:
            parts["_meta"] = after
            changed = True
    return message.encode(parts) if changed else raw


def _same(text: str) -> str:
    return text


def may_have_apps(raw: bytes) -> bool:
    """Whether a text can name the app of a tool. May be wrong with yes, never with no."""
    return b"esource" in raw or b"\\u" in raw


def tools_list_item(raw: bytes, public_name: str, uri: Map = _same) -> bytes:
    """A tool under its public name, with the URI of its app (`_meta.ui.resourceUri`) mapped."""
    return _item(raw, "name", public_name, _meta(Maps(uri, _same)) if may_have_apps(raw) else None)


def prompt_item(raw: bytes, public_name: str) -> bytes:
    """A prompt under its public name."""
    return _item(raw, "name", public_name)


def resource_item(raw: bytes, public_uri: str) -> bytes:
    """A resource under its public URI."""
    return _item(raw, "uri", public_uri)


def template_item(raw: bytes, public_template: str) -> bytes:
    """A resource template under its public text."""
    return _item(raw, "uriTemplate", public_template)


def app_uri(raw: bytes) -> str | None:
    """The URI of a tool's app, None when it has none."""
    if not may_have_apps(raw):
        return None
    meta = message.members(message.members(raw).get("_meta"))
    return message.text(message.members(meta.get("ui")).get("resourceUri")) or message.text(meta.get("ui/resourceUri"))


def without_app(raw: bytes) -> bytes:
    """A tool without its app (`_meta.ui`, `_meta["ui/resourceUri"]`), for callers who may not read the app's resource."""
    parts = message.members(raw)
    meta = message.members(parts.get("_meta"))
    if "ui" not in meta and "ui/resourceUri" not in meta:
        return raw
    parts["_meta"] = message.raw({name: value for name, value in meta.items() if name not in ("ui", "ui/resourceUri")})
    return message.encode(parts)


# ----------------------------------------------------------------------------------------------------------- results

_RESULTS: Mapping[str, Callable[[Maps], dict[str, Edit]]] = MappingProxyType(
    {
        "tools/call": _tool_members,
        "prompts/get": lambda maps: {**_common(maps), "messages": _messages(maps)},
        "resources/read": lambda maps: {**_common(maps), "contents": _each(_within("uri", _string(maps.uri)))},
        "tasks/result": _tool_members,
        "tasks/get": _task_members,
        "tasks/update": _task_members,
        "tasks/cancel": _task_members,
        "tasks/list": _task_members,
    }
)


def result(method: str, raw: bytes, maps: Maps) -> bytes:
    """The result of a request with `method`; methods not in the table have nothing but `_meta` and `inputRequests`."""
    return _bytes(raw, _RESULTS.get(method, _common)(maps)) if needs(raw) else raw


def error(raw: bytes, uri: Map) -> bytes:
    """An `error` object: `data.uri` (resource not found)."""
    return _bytes(raw, _error_members(uri)) if needs(raw) else raw


# ----------------------------------------------------------------------------------------------- what targets start


def server_request(method: str, params: bytes | None, maps: Maps) -> bytes | None:
    """The params of a request from a target (2025-11-25 and older). Ids of tasks the client hosts are the client's own: left."""
    if params is None or not needs(params):
        return params
    return _bytes(params, _sampling_members(maps) if method == "sampling/createMessage" else {"_meta": _meta(maps)})


_NOTIFICATIONS: Mapping[str, Callable[[Maps], dict[str, Edit]]] = MappingProxyType(
    {
        "notifications/resources/updated": lambda maps: {"uri": _string(maps.uri), "_meta": _meta(maps)},
        "notifications/tasks": _task_members,
        "notifications/tasks/status": _task_members,
        "notifications/subscriptions/acknowledged": lambda maps: {"notifications": lambda raw: _edited(raw, _filter_members(maps)), "_meta": _meta(maps)},
    }
)


def notification(method: str, params: bytes | None, maps: Maps) -> bytes | None:
    """The params of a notification from a target."""
    if params is None or not needs(params):
        return params
    members = _NOTIFICATIONS.get(method)
    return _bytes(params, {"_meta": _meta(maps)} if members is None else members(maps))


# ------------------------------------------------------------------------------------------------------- either way


def _filter_members(maps: Maps) -> dict[str, Edit]:
    return {"resourceSubscriptions": _each(_string(maps.uri)), "taskIds": _each(_string(maps.task))}


def listen_filter(raw: bytes, maps: Maps) -> bytes:
    """The `notifications` object of a listen request or of its acknowledgment: `resourceSubscriptions`, `taskIds`."""
    return _bytes(raw, _filter_members(maps))


def member(params: bytes, name: str, value: str) -> bytes:
    """Params with one string member set (`name`, `uri`, `taskId`); all else, `arguments` above all, octet for octet."""
    parts: Members = message.members(params)
    if message.text(parts.get(name)) == value:
        return params
    parts[name] = message.raw(value)
    return message.encode(parts)


def related_task(params: bytes, task: Map) -> bytes:
    """Params or a result with the task id in `_meta` mapped (client to target: the inverse map)."""
    return _bytes(params, {"_meta": _meta(Maps(_same, task))}) if needs(params) else params


def completion(params: bytes, name: Map, uri: Map) -> bytes:
    """The params of completion/complete: `ref.name` of a prompt, `ref.uri` of a resource or template (exact text)."""

    def reference(raw: Raw) -> Raw:
        kind = message.text(message.members(raw).get("type"))
        if kind == "ref/prompt":
            return _edited(raw, {"name": _string(name)})
        return _edited(raw, {"uri": _string(uri)}) if kind == "ref/resource" else raw

    return _bytes(params, {"ref": reference})
