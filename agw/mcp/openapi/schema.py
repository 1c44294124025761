"""Schemas of an OpenAPI document as JSON Schema 2020-12, with `$defs` in place of references into the document.

Rules:
- only keywords of 2020-12 with values of the right kind get through; `nullable`, boolean exclusive bounds and `example` are
  translated, everything else (`discriminator`, `xml`, `x-...`) is dropped. That includes `$id` and anchors, which would
  move the base of our own references, and `x-mcp-header`, which is not the service's to set;
- every referenced schema becomes one definition, converted once per document and direction; a recursive schema is a
  definition that refers to itself;
- read-only properties are no part of a request, write-only ones no part of a response;
- nothing is nested deeper than a JSON-RPC message may be, and the work for one document is bounded, however often its
  parts refer to each other. What is cut off becomes `{}`: anything is allowed there, and the service has the last word.

Source: OpenAPI 3.0.4 "Schema Object"; OpenAPI 3.1.1 "Schema Object"; JSON Schema 2020-12.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, Literal, NamedTuple

import msgspec

from agw.mcp.openapi.document import Document
from agw.mcp.openapi.text import DocumentError

Direction = Literal["request", "response"]

MAX_LEVEL = 58
"""Nesting of a schema within the message that lists it; messages may be 64 deep."""
DEFINITION_LEVEL = 7
MAX_WORK = 10_000_000
"""Schemas and values looked at and definitions visited for one document; references may repeat them."""

_OPEN = msgspec.Raw(b"{}")
_TYPES = frozenset(("null", "boolean", "object", "array", "number", "string", "integer"))


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _string(value: Any) -> bool:
    return isinstance(value, str)


def _boolean(value: Any) -> bool:
    return isinstance(value, bool)


def _strings(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def _list(value: Any) -> bool:
    return isinstance(value, list) and bool(value)


def _anything(value: Any) -> bool:
    return True


_PLAIN: dict[str, Callable[[Any], bool]] = {
    **dict.fromkeys(("title", "description", "format", "pattern", "contentEncoding", "contentMediaType"), _string),
    **dict.fromkeys(("multipleOf", "maximum", "minimum", "exclusiveMaximum", "exclusiveMinimum"), _number),
    **dict.fromkeys(
        ("maxLength", "minLength", "maxItems", "minItems", "maxProperties", "minProperties", "maxContains", "minContains"), _count),
    **dict.fromkeys(("uniqueItems", "deprecated", "readOnly", "writeOnly"), _boolean),
    "required": _strings,
    "enum": _list,
    "examples": _list,
    "const": _anything,
    "default": _anything,
}
_ONE = frozenset(
    ("items", "additionalProperties", "not", "if", "then", "else", "contains", "propertyNames", "unevaluatedItems", "unevaluatedProperties"))
_MANY = frozenset(("allOf", "anyOf", "oneOf", "prefixItems"))
_NAMED = frozenset(("properties", "patternProperties", "dependentSchemas"))
_BOUNDS = (("exclusiveMinimum", "minimum"), ("exclusiveMaximum", "maximum"))


class Definition(NamedTuple):
    """A converted schema as JSON text, and the definitions it refers to, by pointer."""

    raw: msgspec.Raw
    references: frozenset[str]


class Schemas:
    """The converter for one document."""

    def __init__(self, document: Document) -> None:
        self._document = document
        self._names: dict[str, str] = {}
        self._taken: set[str] = set()
        self._known: dict[tuple[Direction, str], Definition] = {}
        self._work = 0

    def convert(self, node: Any, direction: Direction, level: int, references: set[str]) -> Any:
        """A schema in 2020-12; the pointers it refers to are added to `references`.

        Units:  `level` is how many containers of the message are open around the schema, itself included.
        Errors: DocumentError (a reference that cannot be followed, too much work).
        """
        self._spend()
        if isinstance(node, bool):
            return node
        if not isinstance(node, dict) or level > MAX_LEVEL:
            return {}
        reference = node.get("$ref")
        if isinstance(reference, str):
            target = self._document.chain(reference)
            if target is None:
                return {}
            references.add(target)
            out: dict[str, Any] = {"$ref": f"#/$defs/{self._name(target)}"}
            if self._document.dialect == "3.0" or len(node) == 1:
                return out
            out |= self._keywords(node, direction, level, references)
            return out
        return self._keywords(node, direction, level, references)

    def close(self, references: Iterable[str], direction: Direction, limit: int) -> dict[str, msgspec.Raw]:
        """The definitions that `references` need, directly or not, by name.

        The nearest come first; what would make them more than `limit` octets together is `{}`, and needs nothing more.
        """
        found: dict[str, msgspec.Raw] = {}
        waiting = deque(sorted(references))
        seen = set(waiting)
        size = 0
        while waiting:
            self._spend()
            pointer = waiting.popleft()
            definition = self._definition(pointer, direction)
            if size + len(bytes(definition.raw)) > limit:
                found[self._name(pointer)] = _OPEN
                continue
            size += len(bytes(definition.raw))
            found[self._name(pointer)] = definition.raw
            fresh = definition.references - seen
            seen |= fresh
            waiting.extend(sorted(fresh))
        return dict(sorted(found.items()))

    def _spend(self, amount: int = 1) -> None:
        self._work += amount
        if self._work > MAX_WORK:
            raise DocumentError("its references expand to too much")

    def _definition(self, pointer: str, direction: Direction) -> Definition:
        known = self._known.get((direction, pointer))
        if known is None:
            references: set[str] = set()
            converted = self.convert(self._document.at(pointer), direction, DEFINITION_LEVEL, references)
            known = Definition(msgspec.Raw(msgspec.json.encode(converted)), frozenset(references))
            self._known[direction, pointer] = known
        return known

    def _name(self, pointer: str) -> str:
        """The name of a definition: the last word of its pointer, numbered when two pointers end alike."""
        name = self._names.get(pointer)
        if name is None:
            word = re.sub(r"[^A-Za-z0-9_.-]+", "_", pointer.rpartition("/")[2])[:100] or "schema"
            name, number = word, 1
            while name in self._taken:
                number += 1
                name = f"{word}_{number}"
            self._names[pointer] = name
            self._taken.add(name)
        return name

    def _keywords(self, node: dict[str, Any], direction: Direction, level: int, references: set[str]) -> dict[str, Any]:
        out: dict[str, Any] = {}
        nullable = node.get("nullable") is True
        if nullable and "type" not in node:
            level += 2  # `_nullable` will put it into an anyOf
        kind = node.get("type")
        kinds = [item for item in (kind if isinstance(kind, list) else [kind]) if isinstance(item, str) and item in _TYPES]
        if kinds:
            out["type"] = kinds[0] if len(kinds) == 1 else list(dict.fromkeys(kinds))
        for key, value in node.items():
            check = _PLAIN.get(key)
            if check is not None:
                if check(value) and self._fits(value, MAX_LEVEL + 4 - level):
                    out[key] = value
            elif key in _ONE:
                if isinstance(value, (dict, bool)):
                    out[key] = self.convert(value, direction, level + 1, references)
            elif key in _MANY:
                if isinstance(value, list) and value:
                    out[key] = [self.convert(item, direction, level + 2, references) for item in value]
            elif key in _NAMED and isinstance(value, dict):
                out[key] = {
                    name: self.convert(child, direction, level + 2, references) for name, child in value.items() if not self._hidden(child, direction)
                }
        if "example" in node and "examples" not in out and self._fits(node["example"], MAX_LEVEL + 3 - level):
            out["examples"] = [node["example"]]
        self._bounds(node, out)
        self._required(node, out, direction)
        return _nullable(out) if nullable else out

    def _fits(self, value: Any, room: int) -> bool:
        """Is a value nested at most `room` deep?"""
        level = [value]
        for _ in range(max(room, 0) + 1):
            self._spend(len(level))
            level = [
                child for item in level if isinstance(item, (dict, list)) for child in (item.values() if isinstance(item, dict) else item)
            ]
            if not level:
                return True
        return False

    def _hidden(self, node: Any, direction: Direction) -> bool:
        """Is a property no part of what goes this way?"""
        return isinstance(node, dict) and node.get("readOnly" if direction == "request" else "writeOnly") is True

    def _required(self, node: dict[str, Any], out: dict[str, Any], direction: Direction) -> None:
        properties = node.get("properties")
        if "required" not in out or not isinstance(properties, dict):
            return
        names = [name for name in dict.fromkeys(out["required"]) if not self._hidden(properties.get(name), direction)]
        if names:
            out["required"] = names
        else:
            del out["required"]

    def _bounds(self, node: dict[str, Any], out: dict[str, Any]) -> None:
        """`minimum: 3, exclusiveMinimum: true` of 3.0 is `exclusiveMinimum: 3`."""
        for exclusive, bound in _BOUNDS:
            if node.get(exclusive) is True and bound in out:
                out[exclusive] = out.pop(bound)


def _nullable(out: dict[str, Any]) -> dict[str, Any]:
    """The same schema with null allowed."""
    if "type" in out:
        kinds = out["type"] if isinstance(out["type"], list) else [out["type"]]
        if "null" not in kinds:
            out["type"] = [*kinds, "null"]
        if "enum" in out and None not in out["enum"]:
            out["enum"] = [*out["enum"], None]
        return out
    if any(key in out for key in ("allOf", "anyOf", "oneOf", "enum", "not")):
        return {"anyOf": [out, {"type": "null"}]}
    return out
