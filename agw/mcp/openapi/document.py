"""An OpenAPI 3.0 or 3.1 document: checked as far as tools need it, its local references followed.

Rules:
- only references into the document itself (`#/...`) are followed; anything else would make the gateway fetch what a
  document tells it to, and is refused;
- following is bounded, circles of references are found;
- a server's URL decides the path in front of its operations and nothing else: requests go to the configured target.

Source: OpenAPI 3.0.4 and 3.1.1 (Server Object, Reference Object); RFC 6901 (JSON Pointer).
"""

from __future__ import annotations

import re
from typing import Any, Literal
from urllib.parse import quote, unquote, urlsplit

from agw.mcp.openapi.text import DocumentError, read

__all__ = ["Document", "DocumentError", "base_path", "quoted_path"]

MAX_HOPS = 50
"""References that lead to references, one after another."""

_VERSION = re.compile(r"3\.([01])(\.[0-9]+)?(-.*)?")
_VARIABLE = re.compile(r"\{([^{}]*)\}")
_PATH_SAFE = "/:@!$&'()*+,;=~-._%"


class Document:
    """A loaded document. `tree` is shared and never changed; `title`, `version` and `description` are those of `info`."""

    def __init__(self, text: bytes) -> None:
        """Errors: DocumentError."""
        tree = read(text)
        if not isinstance(tree, dict):
            raise DocumentError("not an object")
        if "swagger" in tree and "openapi" not in tree:
            raise DocumentError("Swagger 2.0; convert it to OpenAPI 3")
        found = _VERSION.fullmatch(str(tree.get("openapi", "")))
        if found is None:
            raise DocumentError("openapi: 3.0 or 3.1 is needed")
        self.tree: dict[str, Any] = tree
        self.dialect: Literal["3.0", "3.1"] = "3.0" if found[1] == "0" else "3.1"
        info = tree.get("info")
        info = info if isinstance(info, dict) else {}
        self.title = _text(info.get("title")) or "OpenAPI service"
        self.version = _text(info.get("version")) or "0"
        self.description = _text(info.get("description"))
        paths = tree.get("paths", {})
        if not isinstance(paths, dict):
            raise DocumentError("paths: not an object")
        self.paths: dict[str, Any] = paths

    def at(self, reference: str) -> Any:
        """What a local reference (`#/a/b`) points at. Errors: DocumentError."""
        if not reference.startswith("#"):
            raise DocumentError(f"remote reference {reference[:200]!r}; only references into the document are followed")
        pointer = unquote(reference[1:])
        if not pointer.startswith("/"):
            raise DocumentError(f"reference {reference[:200]!r} is no JSON pointer")
        node: Any = self.tree
        for token in pointer[1:].split("/"):
            token = token.replace("~1", "/").replace("~0", "~")
            if isinstance(node, dict) and token in node:
                node = node[token]
            elif isinstance(node, list) and token.isascii() and token.isdigit() and len(token) < 8 and int(token) < len(node):
                node = node[int(token)]
            else:
                raise DocumentError(f"reference {reference[:200]!r} points at nothing")
        return node

    def follow(self, node: Any) -> dict[str, Any]:
        """An object, or what its `$ref` leads to. For all objects but schemas. Errors: DocumentError."""
        for _ in range(MAX_HOPS):
            if not isinstance(node, dict):
                raise DocumentError("an object is needed")
            reference = node.get("$ref")
            if not isinstance(reference, str):
                return node
            node = self.at(reference)
        raise DocumentError("references go round in a circle")

    def chain(self, reference: str) -> str | None:
        """The last of a chain of schemas that are nothing but references; None when the chain is a circle.

        In 3.0 every sibling of `$ref` is ignored; in 3.1 it counts. Errors: DocumentError.
        """
        seen = set()
        while reference not in seen:
            seen.add(reference)
            if len(seen) > MAX_HOPS:
                raise DocumentError("a chain of references is too long")
            node = self.at(reference)
            following = node.get("$ref") if isinstance(node, dict) else None
            if not isinstance(following, str) or (self.dialect == "3.1" and len(node) > 1):
                return reference
            reference = following
        return None

    def schema(self, node: Any) -> Any:
        """A schema, or the one its chain of plain references ends at; `{}` for a circle. Errors: DocumentError."""
        if isinstance(node, dict) and isinstance(node.get("$ref"), str) and (self.dialect == "3.0" or len(node) == 1):
            end = self.chain(node["$ref"])
            return {} if end is None else self.at(end)
        return node


def base_path(servers: Any) -> str:
    """The path part of the first server's URL, encoded, without its last slash; "" when there is none.

    Variables get their defaults. Errors: DocumentError.
    """
    if not isinstance(servers, list) or not servers or not isinstance(servers[0], dict):
        return ""
    variables = servers[0].get("variables")
    variables = variables if isinstance(variables, dict) else {}

    def default(found: re.Match[str]) -> str:
        variable = variables.get(found[1])
        value = variable.get("default") if isinstance(variable, dict) else None
        if value is None:
            raise DocumentError(f"server variable {found[1][:100]!r} has no default")
        return str(value)

    url = _VARIABLE.sub(default, _text(servers[0].get("url")))
    try:
        path = urlsplit(url).path
    except ValueError:
        raise DocumentError("a server's URL is malformed") from None
    return quoted_path(path)


def quoted_path(path: str) -> str:
    """A path that begins with one slash, ends without one, and holds no dot segments and nothing that needs encoding.

    "" stays "". Errors: DocumentError.
    """
    path = path.strip("/")
    if not path:
        return ""
    if any(unquote(segment) in (".", "..") for segment in path.split("/")):
        raise DocumentError("a path with dot segments")
    return "/" + quote(path, safe=_PATH_SAFE)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else "" if value is None or isinstance(value, (dict, list)) else str(value)
