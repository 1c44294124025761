"""Arguments mirrored into HTTP headers: `x-mcp-header` annotations, `Mcp-Param-*`, and the base64 sentinel.

A tool of the modern era may ask that an argument is repeated in a header, so that what routes on headers need not read
bodies. The gateway is on both ends: it checks what its clients mirrored and mirrors for the targets it calls.

Rules:
- an annotation counts only where a property is reached through `properties` alone; anywhere else it makes the tool's
  schema invalid, as do a name that is no token, a name used twice, and a type other than string, integer, boolean;
- an argument and its header are both there and equal, or both absent (`null` is absent);
- integers are compared as numbers of any size, everything else as text, after the sentinel is undone;
- a header that occurs twice is refused, and so is an argument: the target may read the other one.

There is no `from __future__ import annotations` here because `annotations` is what this module finds.

Source: MCP 2026-07-28, Streamable HTTP, "Custom Headers from Tool Parameters" and "Value Encoding".
"""

import base64
import binascii
import json
import re
from collections.abc import Callable, Iterable
from decimal import Decimal, InvalidOperation
from typing import Any, Final

import msgspec
import orjson

from agw.mcp.errors import HEADER_MISMATCH, RpcError
from agw.mcp.message import members, text, value

Header = Callable[[bytes], list[bytes]]
"""All values of a header field by its lower-case name, in order of arrival; [] when absent."""

Annotations = dict[str, tuple[str, ...]]
"""Header name after `Mcp-Param-`, as annotated, to the path of the argument."""

PREFIX: Final = b"Mcp-Param-"
_KEY: Final = "x-mcp-header"
_MAX_DEPTH: Final = 64
_MAX_DIGITS: Final = 1024
"""Integers written with an exponent are spelt out up to this many digits."""

_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_PLAIN = re.compile(r"[\x20-\x7e]*")
_SENTINEL = re.compile(r"=\?base64\?(?P<payload>.*)\?=", re.DOTALL)
_DECIMAL = re.compile(r"-?[0-9]+(\.[0-9]+)?")

# Where a schema may hold other schemas; what stands under any other keyword is data and is not looked at.
_ONE = frozenset(
    ("items", "contains", "additionalItems", "unevaluatedItems", "additionalProperties", "unevaluatedProperties", "propertyNames", "not", "if", "then",
     "else", "contentSchema")
)  # fmt: skip
_LIST = frozenset(("allOf", "anyOf", "oneOf", "prefixItems", "items"))
_MAP = frozenset(("patternProperties", "dependentSchemas", "dependencies", "$defs", "definitions"))


def encode_value(plain: str) -> bytes:
    """A header value for any text: itself if it survives as a field value, else wrapped in the sentinel."""
    if _PLAIN.fullmatch(plain) and plain == plain.strip(" ") and not _SENTINEL.fullmatch(plain):
        return plain.encode()
    return b"=?base64?" + base64.b64encode(plain.encode()) + b"?="


def decode_value(field: bytes) -> str | None:
    """The text of a header value, None if it is malformed (not ASCII, bad or non-canonical base64, not UTF-8)."""
    try:
        plain = field.strip(b" \t").decode("ascii")
        match = _SENTINEL.fullmatch(plain)
        if match is None:
            return plain
        octets = base64.b64decode(match["payload"], validate=True)
        if base64.b64encode(octets).decode() != match["payload"]:
            return None
        return octets.decode()
    except (UnicodeDecodeError, binascii.Error):
        return None


def mismatch(problem: str) -> RpcError:
    """HeaderMismatch: HTTP 400 is part of what it means."""
    return RpcError(HEADER_MISMATCH, problem, status=400, reason="headers", always=True)


class _Pairs(list[Any]):
    """An object as its pairs, duplicates and all."""


_with_pairs = json.JSONDecoder(object_pairs_hook=_Pairs, parse_int=str, parse_float=str)


def repeats(raw: bytes | msgspec.Raw | None, names: Iterable[str]) -> bool:
    """Whether one of `names` occurs more than once among the members of the object `raw`, in whatever spelling.

    The text is decoded only if that can be: a name is there more than once, at any depth, or some text has escapes that
    can spell it differently.
    """
    if raw is None:
        return False
    octets = bytes(raw)
    wanted = list(names)
    if b"\\u" not in octets and b"\\/" not in octets and all(octets.count(orjson.dumps(name)) < 2 for name in wanted):
        return False
    pairs = _with_pairs.decode(octets.decode())
    found = [name for name, _ in pairs] if isinstance(pairs, _Pairs) else []
    return any(found.count(name) > 1 for name in wanted)


def annotations(input_schema: bytes | msgspec.Raw | None) -> Annotations | None:
    """The annotations of a tool's `inputSchema`, {} if it has none, None if one of them is invalid.

    A tool with an invalid annotation must not be offered to clients over HTTP, and nothing is validated for it.
    """
    if input_schema is None:
        return {}
    raw = bytes(input_schema)
    if _KEY.encode() not in raw and b"\\u00" not in raw:
        return {}
    found: Annotations = {}
    return found if _collect(value(raw), (), found, set(), 0) else None


def _collect(schema: Any, path: tuple[str, ...] | None, found: Annotations, seen: set[str], depth: int) -> bool:
    """Gather annotations of `schema` and below; `path` is None off the chain of `properties`. False if one is invalid."""
    if not isinstance(schema, dict):
        return True
    if depth > _MAX_DEPTH:
        return False
    if _KEY in schema:
        name = schema[_KEY]
        if not path or not isinstance(name, str) or not _TOKEN.fullmatch(name) or name.lower() in seen:
            return False
        if schema.get("type") not in ("string", "integer", "boolean"):
            return False
        seen.add(name.lower())
        found[name] = path
    below: list[tuple[Any, tuple[str, ...] | None]] = []
    for keyword, part in schema.items():
        if keyword == "properties" and isinstance(part, dict):
            below += [(child, None if path is None else (*path, name)) for name, child in part.items()]
        elif keyword in _LIST and isinstance(part, list):
            below += [(child, None) for child in part]
        elif keyword in _MAP and isinstance(part, dict):
            below += [(child, None) for child in part.values()]
        elif keyword in _ONE:
            below.append((part, None))
    return all(_collect(child, at, found, seen, depth + 1) for child, at in below)


def _argument(arguments: bytes | msgspec.Raw | None, path: tuple[str, ...]) -> bytes | None:
    """The raw argument at `path`; None when absent or null."""
    node: bytes | msgspec.Raw | None = arguments
    for step in path:
        node = members(node).get(step)
        if node is None:
            return None
    raw = b"" if node is None else bytes(node).strip()
    return None if raw in (b"", b"null") else raw


def _ambiguous(arguments: bytes | msgspec.Raw | None, path: tuple[str, ...]) -> bool:
    """Whether two parsers may find different values at `path`."""
    node: bytes | msgspec.Raw | None = arguments
    for step in path:
        if repeats(node, (step,)):
            return True
        node = members(node).get(step)
    return False


def _integer(number: str) -> Decimal | None:
    """The exact value of a JSON number that is an integer; None for fractions and what is out of all proportion."""
    try:
        exact = Decimal(number)
    except InvalidOperation:
        return None
    if not exact.is_finite() or exact.adjusted() > _MAX_DIGITS:
        return None
    _, digits, exponent = exact.as_tuple()
    return exact if isinstance(exponent, int) and (exponent >= 0 or not any(digits[exponent:])) else None


def _rendered(raw: bytes) -> str | None:
    """What a header says for an argument; None for arrays and objects, which have no such form."""
    if raw[:1] == b'"':
        return text(raw)
    if raw[:1] in b"[{":
        return None
    number = raw.decode()
    if raw in (b"true", b"false"):
        return number
    exact = _integer(number)
    return number if exact is None else format(abs(exact) if exact == 0 else exact, "f").partition(".")[0]


def validate(found: Annotations, arguments: bytes | msgspec.Raw | None, header: Header) -> RpcError | None:
    """Compare the `Mcp-Param-*` headers of a `tools/call` with `params.arguments`; the first difference as -32020.

    Headers that no annotation asks for are not looked at: they are forwarded.
    """
    for name, path in found.items():
        shown = f"Mcp-Param-{name}"
        fields = header(shown.lower().encode())
        if _ambiguous(arguments, path):
            return mismatch(f"The argument that {shown} mirrors occurs more than once")
        raw = _argument(arguments, path)
        expected = None if raw is None else _rendered(raw)
        if len(fields) > 1:
            return mismatch(f"{shown} occurs more than once")
        if not fields:
            if expected is not None:
                return mismatch(f"{shown} is missing")
            continue
        if raw is None or expected is None:
            return mismatch(f"{shown} mirrors an argument that is absent or has no header form")
        got = decode_value(fields[0])
        if got is None:
            return mismatch(f"{shown} is malformed")
        if got != expected and not _same_integer(raw, expected, got):
            return mismatch(f"{shown} differs from the argument")
    return None


def _same_integer(raw: bytes, expected: str, got: str) -> bool:
    """Whether a number argument and a header are one integer: `42` is `42.0`, and `4.2e1` in the body."""
    if raw[:1] not in b"-0123456789" or len(got) > _MAX_DIGITS or not _DECIMAL.fullmatch(got):
        return False
    wanted = _integer(expected)
    return wanted is not None and wanted == Decimal(got)


def headers_for(found: Annotations, arguments: bytes | msgspec.Raw | None) -> list[tuple[bytes, bytes]]:
    """The `Mcp-Param-*` fields to send with these arguments; absent, null and compound arguments have none."""
    out = []
    for name, path in found.items():
        raw = _argument(arguments, path)
        shown = None if raw is None else _rendered(raw)
        if shown is not None:
            out.append((PREFIX + name.encode(), encode_value(shown)))
    return out
