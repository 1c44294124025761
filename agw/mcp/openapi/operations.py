"""What must be known of an operation to call it: its path in pieces, its parameters, its body.

Rules:
- parameters of the path item are those of every operation, an operation's own replace them by name and place;
- a name in the path template without a parameter is a required one of type string;
- header parameters that HTTP, the gateway or the body decides about are not arguments (OpenAPI says so for Accept and
  Content-Type); a declared Authorization is one;
- of several media types of a body the one a model can best fill in is taken: JSON, form, multipart, octets, text.

Source: OpenAPI 3.0.4 and 3.1.1, "Operation Object", "Parameter Object", "Request Body Object", "Encoding Object".
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Literal, NamedTuple
from urllib.parse import quote

from agw.mcp.openapi.document import Document, base_path
from agw.mcp.openapi.parameters import PLACES, STYLES, Parameter
from agw.mcp.openapi.text import DocumentError

# TRACE would show the caller what the gateway adds, credentials included.
METHODS = ("get", "put", "post", "delete", "options", "head", "patch")
MAX_OPERATIONS = 10_000

Kind = Literal["json", "form", "multipart", "octets", "text"]

FORBIDDEN = frozenset(
    ("host", "content-length", "content-type", "content-encoding", "transfer-encoding", "connection", "keep-alive", "upgrade", "te", "trailer",
     "expect", "accept", "accept-encoding", "cookie", "proxy-connection", "proxy-authorization", "proxy-authenticate", "last-event-id"))
"""Headers no argument sets and no caller forwards as they are: the framing, the body, or the hop."""

_TEMPLATE = re.compile(r"\{([^{}]+)\}")
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_MEDIA_TYPE = re.compile(r"[!#$%&'*+.^_`|~0-9a-z-]+/[!#$%&'*+.^_`|~0-9a-z-]+")
_LITERAL_SAFE = "/:@!$&'()*+,;=~-._%"


class Field(NamedTuple):
    """How a property of a form or multipart body is written. `content_type` "" is the default for its value."""

    style: str = "form"
    explode: bool = True
    reserved: bool = False
    content_type: str = ""


class Body(NamedTuple):
    """A request body. `media_type` is what Content-Type says; `schema` is the document's, not converted.

    `fields` has the declared encodings; `files` names the properties of a multipart body that are octets.
    """

    kind: Kind
    media_type: str
    required: bool
    schema: Any
    fields: dict[str, Field]
    files: frozenset[str] = frozenset()


class Argument(NamedTuple):
    """A parameter with what its schema and description in the document are."""

    parameter: Parameter
    schema: Any
    description: str
    deprecated: bool


class Operation(NamedTuple):
    """A callable operation. `path` alternates between encoded text and parameters; `accept` is the header's value."""

    method: str
    path: tuple[str | Parameter, ...]
    arguments: tuple[Argument, ...]
    body: Body | None
    accept: str

    def of(self, place: str) -> dict[str, Parameter]:
        """The parameters of one place, by name."""
        return {argument.parameter.name: argument.parameter for argument in self.arguments if argument.parameter.place == place}

    def bare(self) -> Operation:
        """The same without schemas and descriptions, which would keep the whole document in memory."""
        arguments = tuple(Argument(argument.parameter, None, "", False) for argument in self.arguments)
        return self._replace(arguments=arguments, body=None if self.body is None else self.body._replace(schema=None))


class Entry(NamedTuple):
    """An operation where it is in the document."""

    template: str
    method: str
    item: dict[str, Any]
    node: dict[str, Any]


def entries(document: Document) -> Iterator[Entry]:
    """Every operation in the order of the document, methods in a fixed order. Errors: DocumentError."""
    count = 0
    for template, item in document.paths.items():
        if template.startswith("x-"):
            continue
        item = document.follow(item)
        for method in METHODS:
            node = item.get(method)
            if not isinstance(node, dict):
                continue
            count += 1
            if count > MAX_OPERATIONS:
                raise DocumentError(f"more than {MAX_OPERATIONS} operations")
            yield Entry(template, method, item, node)


def operation(document: Document, entry: Entry, prefix: str) -> Operation:
    """One operation; `prefix` is the encoded path in front of the servers' own. Errors: DocumentError."""
    arguments = {(a.parameter.place, a.parameter.name): a for owner in (entry.item, entry.node) for a in _arguments(document, owner.get("parameters"))}
    servers = next((owner["servers"] for owner in (entry.node, entry.item, document.tree) if owner.get("servers")), None)
    pieces: list[str | Parameter] = []
    text = prefix + base_path(servers)
    used = set()
    template = entry.template if entry.template.startswith("/") else "/" + entry.template
    for index, part in enumerate(_TEMPLATE.split(template)):
        if index % 2 == 0:
            text += quote(part, safe=_LITERAL_SAFE)
            continue
        argument = arguments.get(("path", part))
        if argument is None:
            argument = Argument(Parameter(part, "path", True, "simple", False), {"type": "string"}, "", False)
            arguments["path", part] = argument
        used.add(part)
        pieces += [text, argument.parameter]
        text = ""
    pieces.append(text)
    kept = tuple(a for (place, name), a in arguments.items() if place != "path" or name in used)
    return Operation(entry.method.upper(), tuple(pieces), kept, _body(document, entry.node.get("requestBody")), _accept(document, entry.node))


def _arguments(document: Document, listed: Any) -> Iterator[Argument]:
    for node in listed if isinstance(listed, list) else ():
        node = document.follow(node)
        name, place = node.get("name"), node.get("in")
        if not isinstance(name, str) or not name or place not in PLACES:
            raise DocumentError("a parameter without name or place")
        if place in ("header", "cookie") and not _TOKEN.fullmatch(name):
            raise DocumentError(f"{name[:100]!r} is no name for a {place}")
        if place == "header" and (name.lower() in FORBIDDEN or name.lower().startswith("mcp-")):
            continue
        schema, as_json = node.get("schema"), False
        content = node.get("content")
        if isinstance(content, dict) and content:
            media_type, media = next(iter(content.items()))
            schema, as_json = document.follow(media or {}).get("schema"), _is_json(_media_type(media_type))
        style = node.get("style")
        if style not in STYLES[place]:
            style = STYLES[place][0]
        explode = node.get("explode")
        yield Argument(
            Parameter(
                name, place, place == "path" or node.get("required") is True, style, explode if isinstance(explode, bool) else style == "form",
                node.get("allowReserved") is True, as_json),
            {} if schema is None else schema,
            node["description"] if isinstance(node.get("description"), str) else "",
            node.get("deprecated") is True,
        )


def _media_type(text: Any) -> str:
    return str(text).partition(";")[0].strip().lower()


def _is_json(media_type: str) -> bool:
    return media_type in ("application/json", "*/*", "application/*") or media_type.endswith("+json")


_RANKS: tuple[Kind, ...] = ("json", "form", "multipart", "octets", "text")


def _kind(media_type: str) -> Kind:
    if _is_json(media_type):
        return "json"
    if media_type == "application/x-www-form-urlencoded":
        return "form"
    if media_type in ("multipart/form-data", "multipart/*"):
        return "multipart"
    if media_type.startswith("text/") or media_type.endswith(("/xml", "+xml", "/yaml", "+yaml")):
        return "text"
    return "octets"


_WILDCARDS: dict[Kind, str] = {
    "json": "application/json",
    "multipart": "multipart/form-data",
    "octets": "application/octet-stream",
    "text": "text/plain",
}


def _body(document: Document, node: Any) -> Body | None:
    if node is None:
        return None
    node = document.follow(node)
    content = node.get("content")
    if not isinstance(content, dict) or not content:
        return None
    offers = [(_RANKS.index(_kind(name)), name != "application/json", name, media) for name, media in ((_media_type(n), m) for n, m in content.items())]
    rank, _, media_type, media = min(offers, key=lambda offer: offer[:2])
    kind = _RANKS[rank]
    if "*" in media_type:
        media_type = _WILDCARDS[kind]
    if not _MEDIA_TYPE.fullmatch(media_type):
        raise DocumentError(f"{media_type[:100]!r} is no media type")
    media = document.follow(media or {})
    encoding = media.get("encoding")
    fields = {name: _field(value) for name, value in encoding.items()} if isinstance(encoding, dict) else {}
    schema = media.get("schema")
    files = _files(document, schema) if kind == "multipart" else frozenset()
    return Body(kind, media_type, node.get("required") is True, {} if schema is None else schema, fields, files)


def _files(document: Document, schema: Any) -> frozenset[str]:
    """The properties that are octets, or arrays of octets."""
    root = document.schema(schema)
    listed = root.get("properties") if isinstance(root, dict) else None
    found = set()
    for name, node in listed.items() if isinstance(listed, dict) else ():
        node = document.schema(node)
        if isinstance(node, dict) and node.get("type") == "array":
            node = document.schema(node.get("items"))
        if _is_binary(node):
            found.add(name)
    return frozenset(found)


def _is_binary(schema: Any) -> bool:
    """Octets rather than text: `format: binary` of 3.0, `contentMediaType` of 3.1."""
    return isinstance(schema, dict) and (
        schema.get("format") == "binary" or (isinstance(schema.get("contentMediaType"), str) and schema.get("type") in (None, "string")))


def _field(node: Any) -> Field:
    if not isinstance(node, dict):
        return Field()
    style = str(node.get("style"))
    if style not in STYLES["query"]:
        style = STYLES["query"][0]
    explode = node.get("explode")
    content_type = _media_type(str(node.get("contentType", "")).partition(",")[0])
    return Field(
        style, explode if isinstance(explode, bool) else style == "form", node.get("allowReserved") is True,
        content_type if _MEDIA_TYPE.fullmatch(content_type) and "*" not in content_type else "")


def successes(document: Document, node: dict[str, Any]) -> list[dict[str, Any]]:
    """The `content` of every documented 2xx answer, {} for one without. Errors: DocumentError."""
    responses = node.get("responses")
    found = []
    for status, response in responses.items() if isinstance(responses, dict) else ():
        if re.fullmatch(r"2([0-9]{2}|XX)", str(status).upper()):
            content = document.follow(response).get("content")
            found.append(content if isinstance(content, dict) else {})
    return found


def json_media(content: dict[str, Any]) -> Any:
    """The JSON media type object of a `content`, None when there is none."""
    return next((media or {} for name, media in content.items() if _is_json(_media_type(name))), None)


def _accept(document: Document, node: dict[str, Any]) -> str:
    """JSON first where it is documented or nothing is; then what is documented; then anything."""
    offered = list(dict.fromkeys(_media_type(name) for content in successes(document, node) for name in content))
    named = [name for name in offered if _MEDIA_TYPE.fullmatch(name) and "*" not in name]
    preferred = [name for name in named if _is_json(name)] or ["application/json"] * (not named) or named[:4]
    return ", ".join([*preferred[:4], "*/*;q=0.5"])
