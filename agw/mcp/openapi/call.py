"""The arguments of a tool call as an HTTP request.

Rules:
- only what the document declares can be said: unknown groups and names are refused with their names, not passed on;
- what is missing or cannot be written is an `ArgumentError`; whether a value suits its schema is the service's to judge;
- a JSON body leaves as the octets it came in;
- headers the gateway gives (`forwarded`: credentials, trace context) win over arguments of the same name; those that
  belong to the hop, to the framing or to MCP are not forwarded at all.

Source: OpenAPI 3.0.4 and 3.1.1; RFC 9110 section 7.6.1; RFC 7578 (multipart/form-data).
"""

from __future__ import annotations

import base64
import binascii
import re
import secrets
from typing import Any, NamedTuple

import msgspec

from agw.mcp import message
from agw.mcp.openapi.operations import FORBIDDEN, Body, Field, Operation
from agw.mcp.openapi.parameters import (
    PLACES,
    ArgumentError,
    Number,
    Parameter,
    cookie_text,
    decode,
    encode,
    header_text,
    path_text,
    plain,
    query_pairs,
)
from agw.mcp.transport import Headers

_FORBIDDEN = frozenset(name.encode() for name in FORBIDDEN - {"cookie"})
_MEDIA_TYPE = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+/[!#$%&'*+.^_`|~0-9A-Za-z-]+(; ?[!#$%&'*+.^_`|~0-9A-Za-z=-]+)*")
_WITH_BODY = ("POST", "PUT", "PATCH")


class Request(NamedTuple):
    """What goes to `Origin.fetch`. `path` is the request target with its query."""

    method: bytes
    path: bytes
    headers: list[tuple[bytes, bytes]]
    body: bytes | None


def compose(operation: Operation, arguments: bytes | msgspec.Raw | None, forwarded: Headers = ()) -> Request:
    """The request of one call; `arguments` is the raw JSON object of `tools/call`.

    Errors: ArgumentError.
    """
    groups = _groups(operation, arguments)
    passed = _passed_on(forwarded)
    taken = {name.lower() for name, _ in passed}
    path = _path(operation, groups["path"])
    declared = operation.of("query")
    pairs = [pair for name, value in groups["query"].items() for pair in query_pairs(declared[name], value)]
    headers = [(b"accept", operation.accept.encode())]
    body, content_type = _body(operation.body, groups["body"])
    if content_type:
        headers.append((b"content-type", content_type.encode()))
    declared = operation.of("header")
    for name, value in groups["header"].items():
        field = header_text(declared[name], value)
        if name.lower().encode() not in taken:
            headers.append((name.encode(), field))
    cookie = _cookie(operation, groups["cookie"], passed)
    if cookie:
        headers.append((b"cookie", cookie))
    headers += [(name, value) for name, value in passed if name.lower() != b"cookie"]
    if body is None and operation.method in _WITH_BODY:
        body = b""
    target = path + ("?" + "&".join(pairs) if pairs else "")
    return Request(operation.method.encode(), target.encode("ascii"), headers, body)


def _groups(operation: Operation, arguments: bytes | msgspec.Raw | None) -> dict[str, Any]:
    """The arguments by place; every place is there, its values decoded and known to be declared. `body` stays raw or None."""
    raw = {} if arguments is None else message.members(arguments)
    if arguments is not None and not raw and decode(bytes(arguments)) not in ({}, None):
        raise ArgumentError("the arguments are no object of Unicode text")
    unknown = next((name for name in raw if name != "body" and name not in PLACES), None)
    if unknown is not None:
        raise ArgumentError(f"{unknown[:100]} is unknown; arguments are grouped as path, query, header, cookie and body")
    groups: dict[str, Any] = {"body": raw.pop("body", None)}
    if groups["body"] is not None and operation.body is None and bytes(groups["body"]).strip() != b"null":
        raise ArgumentError("there is no body")
    for place in PLACES:
        declared = operation.of(place)
        given = decode(bytes(raw.pop(place, b"{}")))
        if given is None:
            given = {}
        if not isinstance(given, dict):
            raise ArgumentError(f"{place} is no object")
        found = {}
        for name, value in given.items():
            if name not in declared:
                raise ArgumentError(f"{place}.{name[:100]} is unknown")
            if value is not None:
                found[name] = value
        for name, parameter in declared.items():
            if parameter.required and name not in found:
                raise ArgumentError(f"{place}.{name} is missing")
        groups[place] = {name: found[name] for name in declared if name in found}
    return groups


def _path(operation: Operation, given: dict[str, Any]) -> str:
    path = "".join(piece if isinstance(piece, str) else path_text(piece, given[piece.name]) for piece in operation.path)
    if any(segment in (".", "..") for segment in path.split("/")):
        raise ArgumentError("path: the values make a dot segment")
    return path


def _cookie(operation: Operation, given: dict[str, Any], passed: list[tuple[bytes, bytes]]) -> bytes:
    """One Cookie field: what is forwarded, then arguments whose names are not in it."""
    crumbs = [crumb.strip() for name, value in passed if name.lower() == b"cookie" for crumb in value.split(b";") if crumb.strip()]
    names = {crumb.partition(b"=")[0] for crumb in crumbs}
    declared = operation.of("cookie")
    crumbs += [cookie_text(declared[name], value).encode() for name, value in given.items() if name.encode() not in names]
    return b"; ".join(crumbs)


def _passed_on(headers: Headers) -> list[tuple[bytes, bytes]]:
    named = {token.strip().lower() for name, value in headers if name.lower() == b"connection" for token in value.split(b",")}
    return [
        (name, value) for name, value in headers
        if name.lower() not in _FORBIDDEN and name.lower() not in named and not name.lower().startswith(b"mcp-")
    ]


# ---------------------------------------------------------------------------------------------------------- bodies


def _body(body: Body | None, raw: msgspec.Raw | None) -> tuple[bytes | None, str]:
    """The octets and their Content-Type; (None, "") for no body."""
    given = None if raw is None else bytes(raw).strip()
    if body is None or given is None or (given == b"null" and not body.required):
        if body is not None and body.required:
            raise ArgumentError("body is missing")
        return None, ""
    if body.kind == "json":
        return given, body.media_type
    value = decode(given)
    if body.kind == "octets":
        return _content(value, "body")[0], body.media_type
    if body.kind == "text":
        return _octets(plain(value)), body.media_type
    if not isinstance(value, dict):
        raise ArgumentError("body is no object")
    if body.kind == "form":
        return _form(body, value), body.media_type
    return _multipart(body, value)


def _form(body: Body, value: dict[str, Any]) -> bytes:
    pairs: list[str] = []
    for name, item in value.items():
        if item is None:
            continue
        field = body.fields.get(name)
        # An object is JSON unless the document says how to flatten it ("Encoding Object", contentType).
        as_json = field.content_type.endswith("json") if field is not None else isinstance(item, dict)
        field = field or Field()
        pairs += query_pairs(Parameter(name, "query", False, field.style, field.explode, field.reserved, as_json), item)
    return "&".join(pairs).encode("ascii")


def _multipart(body: Body, value: dict[str, Any]) -> tuple[bytes, str]:
    boundary = "agw-" + secrets.token_hex(16)
    out = bytearray()
    for name, item in value.items():
        if item is None:
            continue
        is_list = isinstance(item, list) and (name in body.files or not any(isinstance(part, (dict, list)) for part in item))
        for part in item if is_list else [item]:
            out += f"--{boundary}\r\n".encode() + _part(body, name, part) + b"\r\n"
    out += f"--{boundary}--\r\n".encode()
    return bytes(out), f"{body.media_type}; boundary={boundary}"


def _part(body: Body, name: str, item: Any) -> bytes:
    """One part without its delimiter. RFC 7578 section 4.2; quotes and line breaks in names as browsers encode them."""
    field = body.fields.get(name)
    content_type = field.content_type if field is not None else ""
    disposition = f'form-data; name="{_quoted(name)}"'
    if name in body.files:
        content, filename, named = _content(item, f"body.{name}")
        disposition += f'; filename="{_quoted(filename or name)}"'
        content_type = named or content_type or "application/octet-stream"
    elif isinstance(item, (dict, list)):
        content, content_type = encode(item).encode(), content_type or "application/json"
    else:
        content = _octets(plain(item))
    head = f"Content-Disposition: {disposition}\r\n" + (f"Content-Type: {content_type}\r\n" if content_type else "") + "\r\n"
    return _octets(head) + content


def _quoted(text: str) -> str:
    return text.replace('"', "%22").replace("\r", "%0D").replace("\n", "%0A").replace("\x00", "%00")


def _content(value: Any, where: str) -> tuple[bytes, str, str]:
    """Octets, file name and media type of text or of `{"base64": ...}`."""
    if isinstance(value, str):
        return _octets(value), "", ""
    if isinstance(value, Number):
        return value.text.encode(), "", ""
    if not isinstance(value, dict) or not isinstance(value.get("base64"), str):
        raise ArgumentError(f'{where} is neither text nor {{"base64": ...}}')
    try:
        content = base64.b64decode("".join(value["base64"].split()), validate=True)
    except (binascii.Error, ValueError):
        raise ArgumentError(f"{where}.base64 is not base64") from None
    filename, content_type = value.get("filename"), value.get("contentType")
    if content_type is not None and (not isinstance(content_type, str) or not _MEDIA_TYPE.fullmatch(content_type)):
        raise ArgumentError(f"{where}.contentType is no media type")
    return content, filename if isinstance(filename, str) else "", content_type or ""


def _octets(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise ArgumentError("text that is not Unicode") from None
