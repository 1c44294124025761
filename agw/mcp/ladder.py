"""The first judgement of an HTTP POST: which era it belongs to, and whether its headers say what its body says.

Order of the rungs (the first that fails answers):

    era       the body's `_meta` names a version, or the header names one that is not of the legacy era: modern
    modern    a response, or deciding members that occur twice: -32600 . version header missing or twice: -32020
              . header names what nobody serves and the body nothing: -32022 . `_meta` or a required key missing or of the
              wrong type: -32602 . header and `_meta` differ: -32020 . both name what nobody serves: -32022
              . Mcp-Method, Mcp-Name missing, twice, malformed or different: -32020 . unknown or removed method: -32601
    legacy    version header twice or not served: -32600; none at all is fine

Every error of the ladder has an HTTP status that is part of its meaning (400; 404 for -32601). A notification of the modern
era needs the version header; Mcp-Method is compared if it is there; there is no envelope to ask for and no method to know.
`Mcp-Param-*` need the tool's schema and come later (`param_headers`), as do sessions, Host and Origin (`origin_guard`).

Also here: what `Accept` and `Content-Type` allow, and which client capability a server's question needs.

Sources: MCP 2026-07-28, "Streamable HTTP" (request headers, validation), "Versioning", "Error codes"; MCP 2025-11-25,
"Protocol Version Header"; RFC 9110 sections 8.3 and 12.5.1.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

from agw.mcp.errors import INVALID_PARAMS, INVALID_REQUEST, MISSING_CAPABILITY, UNSUPPORTED_VERSION, RpcError, method_not_found
from agw.mcp.message import Members, Message, members, text, value
from agw.mcp.param_headers import Header, decode_value, mismatch, repeats
from agw.mcp.revisions import LEGACY, LOG_LEVELS, META_CAPABILITIES, META_CLIENT_INFO, META_LOG_LEVEL, META_VERSION, METHODS, TASKS_EXTENSION, Era

_DECIDING = ("_meta", "arguments", "taskId")
_ENVELOPE = (META_VERSION, META_CAPABILITIES, META_CLIENT_INFO, META_LOG_LEVEL)


class Verdict(NamedTuple):
    """What a message is. `version` is "" for a legacy message without the header; `meta` the raw members of `params._meta`, None if absent."""

    era: Era
    version: str
    meta: Members | None


def supported(known: Sequence[str]) -> list[str]:
    """The versions that `server/discover` and -32022 name: the modern ones. Legacy ones are negotiated by `initialize`."""
    return [version for version in known if version not in LEGACY]


def judge(header: Header, message: Message, known: tuple[str, ...], *, allow_unknown: bool = False) -> Verdict:
    """Era and version of a message that came by POST.

    Args:   `header` gives all values of a field by lower-case name; `known` the versions this gateway serves, of both eras;
            `allow_unknown` lets methods pass that no table lists (a single target may know them).
    Errors: RpcError with `always` set: HTTP status and code as in the table above.
    """
    named = [_shown(field) for field in header(b"mcp-protocol-version")]
    params = members(message.params)
    meta = members(params["_meta"]) if "_meta" in params else None
    if (meta is None or META_VERSION not in meta) and all(version in LEGACY for version in named):
        return _legacy(named, known, meta)
    if message.kind == "response":
        raise _refused(INVALID_REQUEST, "A response is not a request: this protocol version has no requests to clients")
    if repeats(message.params, _DECIDING) or repeats(params.get("_meta"), _ENVELOPE):
        raise _refused(INVALID_REQUEST, "A member of params or params._meta occurs more than once")
    version = _modern_version(named, message, meta, known)
    _mirrors(header, message, params)
    if message.kind == "request":
        method = METHODS.get(message.method or "")
        if (method is None and not allow_unknown) or (method is not None and "modern" not in method.eras):
            error = method_not_found(message.method or "")
            error.always = True
            raise error
    return Verdict("modern", version, meta)


def _legacy(named: list[str], known: tuple[str, ...], meta: Members | None) -> Verdict:
    if len(named) > 1:
        raise _refused(INVALID_REQUEST, "MCP-Protocol-Version occurs more than once")
    if named and named[0] not in known:
        raise _refused(INVALID_REQUEST, "Unsupported protocol version", data={"supported": [version for version in known if version in LEGACY]})
    return Verdict("legacy", named[0] if named else "", meta)


def _modern_version(named: list[str], message: Message, meta: Members | None, known: tuple[str, ...]) -> str:
    """The version that header and envelope agree on."""
    if not named:
        raise mismatch("MCP-Protocol-Version is missing")
    if len(named) > 1:
        raise mismatch("MCP-Protocol-Version occurs more than once")
    version = named[0]
    envelope = {} if meta is None else meta
    if META_VERSION not in envelope and version not in known:
        raise _unsupported(version, known)
    if message.kind == "request":
        _envelope(envelope)
    if META_VERSION in envelope and text(envelope[META_VERSION]) != version:
        raise mismatch("MCP-Protocol-Version differs from the version in params._meta")
    if version not in supported(known):
        raise _unsupported(version, known)
    return version


def _envelope(meta: Members) -> None:
    """The keys a modern request must carry, and the types of those it may carry."""
    if text(meta.get(META_VERSION)) is None:
        raise _refused(INVALID_PARAMS, f"params._meta lacks {META_VERSION}")
    for key in (META_CAPABILITIES, META_CLIENT_INFO):
        if (key in meta or key == META_CAPABILITIES) and not isinstance(value(meta.get(key)), dict):
            raise _refused(INVALID_PARAMS, f"params._meta lacks {key}, or it is no object")
    if META_LOG_LEVEL in meta and text(meta[META_LOG_LEVEL]) not in LOG_LEVELS:
        raise _refused(INVALID_PARAMS, f"params._meta has an unknown {META_LOG_LEVEL}")


def _mirrors(header: Header, message: Message, params: Members) -> None:
    """Mcp-Method and Mcp-Name against the body. On notifications Mcp-Method may be absent."""
    methods, names = header(b"mcp-method"), header(b"mcp-name")
    if len(methods) > 1 or len(names) > 1:
        raise mismatch("Mcp-Method or Mcp-Name occurs more than once")
    if not methods:
        if message.kind == "request":
            raise mismatch("Mcp-Method is missing")
    elif methods[0].strip(b" \t") != (message.method or "").encode():
        raise mismatch("Mcp-Method differs from the method")
    method = METHODS.get(message.method or "")
    if message.kind != "request" or method is None or not method.name or "modern" not in method.eras:
        return
    name = text(params.get(method.name))
    if name is None:
        raise mismatch("Mcp-Name names what the body does not") if names else _refused(INVALID_PARAMS, f"params.{method.name} is missing")
    if not names:
        if method.route == "task":
            # The tasks extension wants it too, but its clients leave it out and its servers take that; nothing here is routed by it.
            return
        raise mismatch("Mcp-Name is missing")
    if decode_value(names[0]) != name:
        raise mismatch(f"Mcp-Name differs from params.{method.name}")


def _shown(field: bytes) -> str:
    return field.strip(b" \t").decode("latin-1")


def _refused(code: int, problem: str, *, data: Any = None) -> RpcError:
    return RpcError(code, problem, status=400, data=data, always=True)


def _unsupported(version: str, known: tuple[str, ...]) -> RpcError:
    return _refused(UNSUPPORTED_VERSION, "Unsupported protocol version", data={"supported": supported(known), "requested": version})


# ---------------------------------------------------------------------------------------------------- media types

_ELEMENT = re.compile(rb'(?:[^,"]|"(?:[^"\\]|\\.)*"?)+')
_PART = re.compile(rb'(?:[^;"]|"(?:[^"\\]|\\.)*"?)+')
_QUALITY = re.compile(rb"[qQ][ \t]*=[ \t]*([01](?:\.[0-9]{0,3})?)")


def accepts(values: Sequence[bytes]) -> tuple[bool, bool]:
    """Whether `(application/json, text/event-stream)` are welcome, by the values of the Accept field.

    Lenient: no field, or an empty one, welcomes both; `*` is `*/*`; parameters other than q are passed over, as is what
    cannot be read. The most specific range decides (RFC 9110 section 12.5.1).
    """
    ranges: dict[bytes, float] = {}
    anything = False
    for element in (element for field in values for element in _ELEMENT.findall(field) if element.strip()):
        anything = True
        media, *parameters = (part.strip().lower() for part in _PART.findall(element))
        weights = [float(match[1]) for match in map(_QUALITY.fullmatch, parameters) if match]
        media = b"*/*" if media == b"*" else media
        ranges[media] = max(ranges.get(media, 0.0), weights[0] if weights else 1.0)
    if not anything:
        return True, True
    return _welcome(ranges, b"application/json", b"application/*"), _welcome(ranges, b"text/event-stream", b"text/*")


def _welcome(ranges: dict[bytes, float], *media: bytes) -> bool:
    return next((ranges[one] for one in (*media, b"*/*") if one in ranges), 0.0) > 0.0


def prefers_events(values: Sequence[bytes]) -> bool:
    """Whether an `Accept` names `text/event-stream` before `application/json`: of types equally welcome the first is preferred."""
    field = b",".join(values).lower()
    events = field.find(b"text/event-stream")
    json = field.find(b"application/json")
    return 0 <= events < json


def is_json(content_type: bytes | None) -> bool:
    """Whether a body is declared as `application/json`, parameters aside. Absent is no: a page may send that anywhere."""
    return content_type is not None and content_type.partition(b";")[0].strip(b" \t").lower() == b"application/json"


# ------------------------------------------------------------------------------------------------ client capabilities

Kind = Literal["roots", "sampling", "sampling.tools", "sampling.context", "elicitation", "elicitation.url", "tasks"]
"""What a server may ask a client for; `elicitation` is the form."""

_REQUIRED: MappingProxyType[str, dict[str, Any]] = MappingProxyType(
    {
        "roots": {"roots": {}},
        "sampling": {"sampling": {}},
        "sampling.tools": {"sampling": {"tools": {}}},
        "sampling.context": {"sampling": {"context": {}}},
        "elicitation": {"elicitation": {"form": {}}},
        "elicitation.url": {"elicitation": {"url": {}}},
        "tasks": {"extensions": {TASKS_EXTENSION: {}}},
    }
)


def has_capability(kind: Kind, capabilities: Members) -> bool:
    """Whether declared client capabilities include `kind`. `null` is absent; `elicitation: {}` is the form (2025-06-18)."""
    if kind == "elicitation":
        modes = value(capabilities.get("elicitation"))
        return isinstance(modes, dict) and (isinstance(modes.get("form"), dict) or modes.get("url") is None)
    declared: Any = {name: value(raw) for name, raw in capabilities.items() if name in _REQUIRED[kind]}
    wanted = _REQUIRED[kind]
    while wanted:
        (name, wanted), = wanted.items()
        declared = declared.get(name)
        if not isinstance(declared, dict):
            return False
    return True


def check_capability(kind: Kind, capabilities: Members) -> RpcError | None:
    """MissingRequiredClientCapability (-32021, HTTP 400) if `kind` was not declared, with `data.requiredCapabilities`."""
    if has_capability(kind, capabilities):
        return None
    return RpcError(
        MISSING_CAPABILITY, "The client did not declare a capability this request needs", status=400, data={"requiredCapabilities": _REQUIRED[kind]},
        reason="capability", always=True,
    )
