"""How one argument is written into a path, a query, a header or a cookie.

Rules:
- a value cannot leave the place it is written to: in a path everything but unreserved characters is percent-encoded, and
  empty values and dot segments are refused; in a query the delimiters are always encoded, `allowReserved` or not; a header
  value with a control character is refused;
- numbers are written with the digits they came with;
- inside arrays and objects null is left out; what is nested deeper than a style can say is written as JSON.

Source: OpenAPI 3.0.4 and 3.1.1, "Style Values", "Style Examples"; RFC 6570; RFC 3986 section 2; RFC 6265 section 4.1.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any, Literal, NamedTuple
from urllib.parse import quote, unquote

import msgspec

Place = Literal["path", "query", "header", "cookie"]
PLACES: tuple[Place, ...] = ("path", "query", "header", "cookie")

STYLES: dict[Place, tuple[str, ...]] = {
    "path": ("simple", "label", "matrix"),
    "query": ("form", "spaceDelimited", "pipeDelimited", "deepObject"),
    "header": ("simple",),
    "cookie": ("form",),
}
"""The styles of each place, its default first."""

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_HEADER_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
_SEPARATORS = {"form": ",", "spaceDelimited": "%20", "pipeDelimited": "%7C"}
# Of RFC 3986's reserved characters those that neither end a query nor separate its parts nor mean a blank.
_RESERVED = ":/?@!$'()*,;="
_COOKIE_SAFE = "!#$&'()*+-./:<=>?@[]^_`{|}~"


class ArgumentError(ValueError):
    """Arguments that cannot be sent. The text names the argument and never holds its value."""


class Number:
    """A JSON number, as its text."""

    __slots__ = ("text",)

    def __init__(self, text: str) -> None:
        self.text = text


class Parameter(NamedTuple):
    """A parameter of an operation. `as_json`: written as JSON text (a parameter with `content`)."""

    name: str
    place: Place
    required: bool
    style: str
    explode: bool
    reserved: bool = False
    as_json: bool = False


def decode(raw: bytes) -> Any:
    """A JSON value with `Number` in place of numbers. Errors: ArgumentError."""
    try:
        return json.loads(raw, parse_int=Number, parse_float=Number, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        raise ArgumentError("the arguments are not JSON") from None


def _no_constant(name: str) -> Any:
    raise ValueError(name)


def encode(value: Any) -> str:
    """JSON text of a decoded value."""
    return msgspec.json.encode(value, enc_hook=_as_raw).decode()


def _as_raw(value: Any) -> Any:
    if isinstance(value, Number):
        return msgspec.Raw(value.text.encode())
    raise NotImplementedError


def plain(value: Any) -> str:
    """The text of a value that is no array and no object; those as JSON."""
    if isinstance(value, str):
        return value
    if isinstance(value, Number):
        return value.text
    return encode(value)


def escape(text: str, safe: str = "") -> str:
    """Percent-encoded, all but unreserved characters and `safe`. Errors: ArgumentError (lone surrogates)."""
    try:
        return quote(text, safe=safe)
    except UnicodeEncodeError:
        raise ArgumentError("text that is not Unicode") from None


def path_text(parameter: Parameter, value: Any) -> str:
    """What stands in place of `{name}`. Errors: ArgumentError."""

    def leaf(item: Any) -> str:
        text = plain(item)
        # A server may decode %2F before it splits, so no part between slashes may be a dot segment either.
        for seen in (text, unquote(text)):
            if not text or _CONTROL.search(seen) or any(part in (".", "..") for part in re.split(r"[/\\]", seen)):
                raise ArgumentError(f"path.{parameter.name} is empty or not allowed in a path")
        return escape(text)

    if parameter.as_json:
        return leaf(encode(value))
    name = escape(parameter.name)
    if parameter.style == "label":
        text = "." + _joined(value, "." if parameter.explode else ",", parameter.explode, leaf)
    elif parameter.style == "matrix":
        if not parameter.explode or not isinstance(value, (list, dict)):
            text = f";{name}={_joined(value, ',', False, leaf)}"
        elif isinstance(value, dict):
            text = ";" + _joined(value, ";", True, leaf)
        else:
            text = "".join(f";{name}={leaf(item)}" for item in value if item is not None)
    else:
        text = _joined(value, ",", parameter.explode, leaf)
    if text in ("", ".", "..", ";", f";{name}="):
        raise ArgumentError(f"path.{parameter.name} is empty or not allowed in a path")
    return text


def query_pairs(parameter: Parameter, value: Any) -> list[str]:
    """The `name=value` pieces of a query, encoded; also the fields of a form. Errors: ArgumentError."""

    def leaf(item: Any) -> str:
        return escape(plain(item), _RESERVED if parameter.reserved else "")

    name = escape(parameter.name)
    if parameter.as_json:
        return [f"{name}={leaf(encode(value))}"]
    if isinstance(value, dict):
        if parameter.style == "deepObject":
            return _deep(name, value, leaf)
        if parameter.explode:
            return [f"{escape(key)}={leaf(item)}" for key, item in value.items() if item is not None]
    elif isinstance(value, list):
        if parameter.explode or parameter.style == "deepObject":
            return [f"{name}={leaf(item)}" for item in value if item is not None]
        if not value:
            return []
    return [f"{name}={_joined(value, _SEPARATORS.get(parameter.style, ','), False, leaf)}"]


def header_text(parameter: Parameter, value: Any) -> bytes:
    """A header's value. Errors: ArgumentError (CR, LF, NUL and other control characters)."""
    text = encode(value) if parameter.as_json else _joined(value, ",", parameter.explode, plain)
    text = text.strip(" \t")
    if _HEADER_CONTROL.search(text):
        raise ArgumentError(f"header.{parameter.name} holds a control character")
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise ArgumentError("text that is not Unicode") from None


def cookie_text(parameter: Parameter, value: Any) -> str:
    """`name=value` of one cookie; arrays and objects are joined with commas, exploded or not. Errors: ArgumentError."""

    def leaf(item: Any) -> str:
        return escape(plain(item), _COOKIE_SAFE)

    if parameter.as_json:
        return f"{parameter.name}={leaf(encode(value))}"
    return f"{parameter.name}={_joined(value, ',', False, leaf)}"


def _joined(value: Any, separator: str, explode: bool, leaf: Callable[[Any], str]) -> str:
    if isinstance(value, list):
        return separator.join(leaf(item) for item in value if item is not None)
    if isinstance(value, dict):
        between = "=" if explode else separator
        return separator.join(f"{leaf(key)}{between}{leaf(item)}" for key, item in value.items() if item is not None)
    return leaf(value)


def _deep(name: str, value: dict[str, Any], leaf: Callable[[Any], str]) -> list[str]:
    """`name[key]=value`; objects in objects go on as `name[key][key]`, which OpenAPI leaves undefined and servers read."""
    out: list[str] = []
    for key, item in value.items():
        inner = f"{name}%5B{escape(key)}%5D"
        if isinstance(item, dict):
            out.extend(_deep(inner, item, leaf))
        elif isinstance(item, list):
            out.extend(f"{inner}={leaf(part)}" for part in item if part is not None)
        elif item is not None:
            out.append(f"{inner}={leaf(item)}")
    return out
