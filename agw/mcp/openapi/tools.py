"""Operations of a document as MCP tools.

Rules:
- a tool is named after its `operationId`, made fit for MCP, else after method and path; names that meet are numbered in
  the order of path and method, and a name that needed no change is never taken from its owner;
- arguments are grouped by place (`path`, `query`, `header`, `cookie`) beside `body`; a group is required when something in
  it is;
- an output schema is promised only where every documented success is one JSON object, because a client holds the tool to it;
- schemas are bounded, because a model has to read them: definitions too far from the arguments stay open, and arguments
  that are too large by themselves are listed without their schemas. The tool works all the same, the service checks.

Source: MCP tools (names, annotations, outputSchema); OpenAPI 3.0.4 and 3.1.1.
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple

import msgspec

from agw.mcp.openapi.document import Document, quoted_path
from agw.mcp.openapi.operations import Argument, Entry, Operation, entries, json_media, operation, successes
from agw.mcp.openapi.parameters import PLACES
from agw.mcp.openapi.schema import Schemas
from agw.mcp.openapi.text import DocumentError

MAX_INPUT_BYTES = 64 * 1024
MAX_OUTPUT_BYTES = 32 * 1024
MAX_LISTING_BYTES = 32 * 1024 * 1024
"""Of all tools together. Many tools share half of it, so that those who nearly all refer to each other fit, too."""
MAX_DESCRIPTION = 8_000
MAX_INSTRUCTIONS = 4_000
NAME_LENGTH = 128

_INPUT_LEVEL = 5
_UNFIT = re.compile(r"[^A-Za-z0-9_.-]+")

def _octets(**more: Any) -> dict[str, Any]:
    properties = {"base64": {"type": "string", "contentEncoding": "base64"}, **more}
    binary = {"type": "object", "properties": properties, "required": ["base64"], "additionalProperties": False}
    return {"description": 'Text as a string, anything else as {"base64": "..."}.', "anyOf": [{"type": "string"}, binary]}


OCTETS_SCHEMA = _octets()
FILE_SCHEMA = _octets(filename={"type": "string"}, contentType={"type": "string"})


class Tool(NamedTuple):
    """A tool: what calls it. `structured`: it promises an output schema."""

    name: str
    operation: Operation
    structured: bool


class ToolSet(NamedTuple):
    """What one document offers. `listing` is the JSON array of `tools/list`."""

    title: str
    version: str
    instructions: str
    tools: dict[str, Tool]
    listing: bytes


def build(text: bytes, prefix: str = "") -> ToolSet:
    """The tools of a document; `prefix` is the path in front of all its operations.

    Takes from milliseconds to seconds, by the size of the document: not for an event loop.
    Errors: DocumentError.
    """
    document = Document(text)
    prefix = quoted_path(prefix)
    schemas = Schemas(document)
    found = list(entries(document))
    share = MAX_LISTING_BYTES // 2 // max(len(found), 1)
    input_limit, output_limit = min(MAX_INPUT_BYTES, share // 3), min(MAX_OUTPUT_BYTES, share // 6)
    tools: dict[str, Tool] = {}
    listed: list[bytes] = []
    size = 0
    for entry, name in zip(found, _names(found), strict=True):
        try:
            called = operation(document, entry, prefix)
            shown: dict[str, Any] = {"name": name, **_words(entry), "inputSchema": _input(called, document, schemas, input_limit)}
            output = _output(entry, document, schemas, output_limit)
        except DocumentError as error:
            raise DocumentError(f"{entry.method.upper()} {entry.template[:200]}: {error}") from None
        if output is not None:
            shown["outputSchema"] = output
        shown["annotations"] = _annotations(entry.method)
        tools[name] = Tool(name, called.bare(), output is not None)
        listed.append(msgspec.json.encode(shown))
        size += len(listed[-1])
        if size > MAX_LISTING_BYTES:
            raise DocumentError(f"its tools are larger than {MAX_LISTING_BYTES >> 20} MiB")
    return ToolSet(document.title[:200], document.version[:100], document.description[:MAX_INSTRUCTIONS], tools, b"[" + b",".join(listed) + b"]")


def _names(found: list[Entry]) -> list[str]:
    """A name for each operation; names that meet are numbered."""
    wanted: dict[int, str] = {}
    taken: set[str] = set()
    names: dict[int, str] = {}
    for index, entry in sorted(enumerate(found), key=lambda pair: (pair[1].template, pair[1].method)):
        ident = entry.node.get("operationId")
        ident = ident if isinstance(ident, str) else ""
        name = _UNFIT.sub("_", ident)[:NAME_LENGTH]
        if not name.strip("_"):
            name = _UNFIT.sub("_", f"{entry.method}_{entry.template.strip('/')}").strip("_")[:NAME_LENGTH]
        if name == ident and name not in taken:
            names[index] = name
            taken.add(name)
        else:
            wanted[index] = name
    following: dict[str, int] = {}
    for index, name in wanted.items():
        candidate = name
        number = following.get(name, 1)
        while candidate in taken:
            number += 1
            ending = f"_{number}"
            candidate = name[: NAME_LENGTH - len(ending)] + ending
        following[name] = number
        names[index] = candidate
        taken.add(candidate)
    return [names[index] for index in range(len(found))]


def _words(entry: Entry) -> dict[str, str]:
    """Title and description."""
    summary, description = (entry.node.get(key) for key in ("summary", "description"))
    summary = summary.strip() if isinstance(summary, str) else ""
    description = description.strip() if isinstance(description, str) else ""
    parts = [summary, description if description != summary else ""]
    if entry.node.get("deprecated") is True:
        parts.append("Deprecated.")
    text = "\n\n".join(part for part in parts if part) or f"{entry.method.upper()} {entry.template}"
    return {**({"title": summary[:200]} if summary else {}), "description": text[:MAX_DESCRIPTION]}


def _annotations(method: str) -> dict[str, bool]:
    """Hints that HTTP's own semantics give (RFC 9110 section 9.2)."""
    if method in ("get", "head", "options"):
        return {"readOnlyHint": True}
    hints = {"readOnlyHint": False}
    if method == "delete":
        hints["destructiveHint"] = True
    if method in ("put", "delete"):
        hints["idempotentHint"] = True
    return hints


def _input(called: Operation, document: Document, schemas: Schemas, limit: int) -> dict[str, Any]:
    references: set[str] = set()
    shown = _arguments(called, document, schemas, references)
    if len(msgspec.json.encode(shown)) <= limit:
        definitions = schemas.close(references, "request", limit)
        return {**shown, "$defs": definitions} if definitions else shown
    shown = _arguments(called, document, None, set())
    if len(msgspec.json.encode(shown)) > MAX_INPUT_BYTES:
        raise DocumentError(f"its parameters are larger than {MAX_INPUT_BYTES >> 10} KiB")
    return shown


def _arguments(called: Operation, document: Document, schemas: Schemas | None, references: set[str]) -> dict[str, Any]:
    """The input schema without definitions; permissive without `schemas`."""
    properties: dict[str, Any] = {}
    required: list[str] = []
    for place in PLACES:
        members = [argument for argument in called.arguments if argument.parameter.place == place]
        if not members:
            continue
        needed = [argument.parameter.name for argument in members if argument.parameter.required]
        group: dict[str, Any] = {"type": "object", "properties": {a.parameter.name: _argument(a, schemas, references) for a in members}}
        if needed:
            group["required"] = needed
            required.append(place)
        group["additionalProperties"] = False
        properties[place] = group
    if called.body is not None:
        properties["body"] = _body(called, document, schemas, references)
        if called.body.required:
            required.append("body")
    shown: dict[str, Any] = {"type": "object", "properties": properties}
    if required:
        shown["required"] = required
    shown["additionalProperties"] = False
    return shown


def _argument(argument: Argument, schemas: Schemas | None, references: set[str]) -> Any:
    converted = {} if schemas is None else schemas.convert(argument.schema, "request", _INPUT_LEVEL + 4, references)
    if isinstance(converted, dict):
        if argument.description:
            converted = {**converted, "description": argument.description[: MAX_DESCRIPTION if schemas is not None else 200]}
        if argument.deprecated:
            converted = {**converted, "deprecated": True}
    return converted


def _body(called: Operation, document: Document, schemas: Schemas | None, references: set[str]) -> Any:
    body = called.body
    assert body is not None
    if body.kind == "octets":
        return OCTETS_SCHEMA
    if body.kind == "text":
        return {"type": "string", "description": f"The content, {body.media_type}."}
    if schemas is None:
        return {} if body.kind == "json" else {"type": "object"}
    if body.kind == "json":
        return schemas.convert(body.schema, "request", _INPUT_LEVEL + 2, references)
    # Fields are read one by one, so the object itself is written out rather than referred to.
    root = document.schema(body.schema)
    converted = schemas.convert(root, "request", _INPUT_LEVEL + 2, references)
    converted = converted if isinstance(converted, dict) else {}
    for name in body.files & converted.get("properties", {}).keys():
        is_list = document.schema(root["properties"][name]).get("type") == "array"
        converted["properties"][name] = {"type": "array", "items": FILE_SCHEMA} if is_list else FILE_SCHEMA
    return {"type": "object", **converted}


def _output(entry: Entry, document: Document, schemas: Schemas, limit: int) -> dict[str, Any] | None:
    roots = []
    for content in successes(document, entry.node):
        media = json_media(content)
        if media is None:
            return None
        roots.append(document.schema(document.follow(media).get("schema")))
    root = roots[0] if roots else None
    if not isinstance(root, dict) or root.get("type") not in ("object", ["object"]) or root.get("nullable") is True or any(r != root for r in roots[1:]):
        return None
    references: set[str] = set()
    shown: dict[str, Any] = schemas.convert(root, "response", _INPUT_LEVEL, references)
    if shown.get("type") != "object" or len(msgspec.json.encode(shown)) > limit:
        return None
    definitions = schemas.close(references, "response", limit)
    return {**shown, "$defs": definitions} if definitions else shown
