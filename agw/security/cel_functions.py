"""Functions of CEL beyond the standard ones, in plain Python: addresses, JSON, codecs, digests, cookies.

Rules:
- a function that cannot answer raises ValueError, which becomes an evaluation error: an allow does not match, a deny denies;
- the library takes a text or octets that we give it up to the first NUL: what holds one is no value (`safe`), or a rule would judge less than
  what the target gets;
- results are bounded by MAX_TEXT, and values that came from text are checked like all others (`safe`);
- maps have no order, so what is made of them is sorted by name;
- addresses and networks are their text, so they need no type of their own; members of them check it again.

The library adds `matches`, `size`, the strings and math extensions, optional values (`jwt.?sub.orValue("")`) and `cel.bind`.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import ipaddress
import json
import re
import uuid
from collections.abc import Callable
from functools import lru_cache
from typing import Any, Final, NamedTuple
from urllib.parse import parse_qsl, quote, unquote, urlencode

from agw._fast.patterns import of_text

MAX_TEXT: Final = 1_048_576
"""Characters of any text or JSON text that goes into or comes out of a function, and about octets of a value as JSON."""
MAX_DEPTH: Final = 64
_SHORT: Final = 4096

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class Function(NamedTuple):
    """One overload: parameter and result types as in `Variable.kind`, and bool, bytes, double, dyn."""

    name: str
    parameters: tuple[str, ...]
    result: str
    call: Callable[..., Any]
    member: bool = False


def safe(value: Any) -> Any:
    """A value as the library takes it: lists for tuples and sets, no lone surrogates, no NUL, at most MAX_DEPTH deep and about MAX_TEXT long.

    What holds a NUL is refused: the library would take its beginning for the whole, and "admin\\0x" for "admin".
    Errors: ValueError when it cannot be made so.
    """
    if type(value) is str and len(value) < _SHORT and value.isascii() and "\0" not in value:
        return value
    left = MAX_TEXT

    def walk(item: Any, depth: int) -> Any:
        nonlocal left
        left -= 8
        if isinstance(item, str):
            left -= len(item)
            if left < 0:
                raise ValueError("the value is too large")
            if not item.isascii():
                item.encode()  # UnicodeEncodeError is a ValueError
            if "\0" in item:
                raise ValueError("the value holds NUL")
            return item
        if left < 0:
            raise ValueError("the value is too large")
        if item is None or isinstance(item, (bool, int, float)):
            return item
        if isinstance(item, (bytes, bytearray)):
            left -= len(item)
            if b"\0" in item:
                raise ValueError("the value holds NUL")
            return bytes(item)
        if depth >= MAX_DEPTH:
            raise ValueError(f"the value is more than {MAX_DEPTH} levels deep")
        if isinstance(item, dict):
            return {walk(name if type(name) is str else str(name), depth): walk(member, depth + 1) for name, member in item.items()}
        if isinstance(item, (list, tuple, set, frozenset)):
            return [walk(member, depth + 1) for member in item]
        raise ValueError("the value has no form in JSON")

    return walk(value, 0)


def strict_json(text: bytes | str) -> Any:
    """JSON as a safe value. A name that occurs twice in one object is an error: readers disagree on which counts.

    Errors: ValueError.
    """
    if len(text) > MAX_TEXT:
        raise ValueError("the JSON text is too large")
    try:
        return safe(_decoder.decode(text if isinstance(text, str) else bytes(text).decode()))
    except RecursionError:
        raise ValueError("the JSON text is too deep") from None


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        raise ValueError("a name occurs twice in one object")
    return made


def _no_constant(_: str) -> None:
    raise ValueError("NaN and Infinity are no JSON")


_decoder = json.JSONDecoder(object_pairs_hook=_distinct, parse_constant=_no_constant)


def _bounded(text: str) -> str:
    if len(text) > MAX_TEXT:
        raise ValueError("the text is too large")
    return text


def _octets(value: Any) -> bytes:
    return value.encode() if isinstance(value, str) else bytes(value)


@lru_cache(maxsize=1024)
def network(text: str) -> Network:
    """A CIDR block; bits behind the prefix are ignored, as in 127.0.0.1/8. Errors: ValueError."""
    if "/" not in text:
        raise ValueError(f"{text[:64]!r} is no CIDR block")
    return ipaddress.ip_network(text, strict=False)


@lru_cache(maxsize=1024)
def address(text: str) -> Address:
    """An IP address; an IPv4 address in IPv6 form counts as IPv4. Errors: ValueError."""
    found = ipaddress.ip_address(text)
    return getattr(found, "ipv4_mapped", None) or found


def _holds(parse: Callable[[str], Any]) -> Callable[[str], bool]:
    def check(text: str) -> bool:
        try:
            parse(text)
        except ValueError:
            return False
        return True

    return check


def _checked(parse: Callable[[str], Any]) -> Callable[[str], str]:
    def check(text: str) -> str:
        return str(parse(text)) if parse is address else (parse(text), text)[1]

    return check


def _contains(outer: str, inner: str) -> bool:
    block = network(outer)
    if "/" in inner:
        other: Any = network(inner)
        return block.version == other.version and bool(other.subnet_of(block))
    return address(inner) in block


def _unpadded(text: str) -> bytes:
    """Base64 of either alphabet, with or without padding. Errors: ValueError."""
    plain = text.translate(_STANDARD).rstrip("=")
    try:
        return base64.b64decode(plain + "=" * (-len(plain) % 4), validate=True)
    except binascii.Error as error:
        raise ValueError(str(error)) from None


_STANDARD = str.maketrans("-_", "+/")


def _payload(token: str) -> Any:
    parts = token.split(".")
    if len(parts) != 3:
        raise ValueError("the text is no JWT")
    claims = strict_json(_unpadded(parts[1]))
    if not isinstance(claims, dict):
        raise ValueError("the payload of the JWT is no object")
    return claims


def _cookie(headers: dict[str, str], name: str) -> str:
    for item in headers.get("cookie", "").split(";"):
        key, separator, value = item.strip().partition("=")
        if separator and key == name:
            return value.strip('"')
    raise ValueError("there is no such cookie")


def _replace(text: str, old: str, new: str) -> str:
    """Like the strings extension's, which has no bound: a short text can be made to fill the memory."""
    if len(text) + text.count(old) * max(len(new) - len(old), 0) > MAX_TEXT:
        raise ValueError("the text is too large")
    return text.replace(old, new)


def _regex_replace(text: str, pattern: str, replacement: str) -> str:
    """The first match replaced, in time linear in the text. `$1`, `${name}` are groups, "" when there is none such; `$$` is a dollar sign."""
    if len(pattern) > _SHORT:
        raise ValueError("the pattern is too long")
    found = of_text(pattern).search(text)
    if found is None:
        return text

    def group(asked: re.Match[str]) -> str:
        name = asked[1] or asked[2]
        if name is None:
            return "$"
        try:
            return found.group(int(name) if name.isdigit() else name) or ""
        except IndexError:
            return ""

    return _bounded(text[: found.start()] + _GROUP.sub(group, replacement) + text[found.end() :])


_GROUP = re.compile(r"\$(?:([0-9A-Za-z_]+)|\{([^}]+)\}|\$)")


def _json_field(text: bytes | str, name: str) -> Any:
    found = strict_json(text)
    if not isinstance(found, dict) or name not in found:
        raise ValueError("there is no such member")
    return found[name]


def _fail(text: str) -> bool:
    raise ValueError(text[:256])


def _json_text(value: Any) -> str:
    return _bounded(json.dumps(safe(value), separators=(",", ":"), ensure_ascii=False, sort_keys=True))


def _form(values: dict[str, Any]) -> str:
    return _bounded(urlencode({name: value if isinstance(value, str) else _json_text(value) for name, value in sorted(safe(values).items())}))


def _digest(name: str) -> Callable[[Any], str]:
    return lambda value: hashlib.new(name, _octets(value), usedforsecurity=False).hexdigest()


def _each(name: str, kinds: tuple[str, ...], result: str, call: Callable[..., Any]) -> tuple[Function, ...]:
    return tuple(Function(name, (kind,), result, call) for kind in kinds)


_TEXTS = ("string", "bytes")

FUNCTIONS: Final[tuple[Function, ...]] = (
    Function("ip", ("string",), "string", _checked(address)),
    Function("isIP", ("string",), "bool", _holds(address)),
    Function("cidr", ("string",), "string", _checked(network)),
    Function("isCIDR", ("string",), "bool", _holds(network)),
    Function("containsIP", ("string", "string"), "bool", _contains, True),
    Function("containsCIDR", ("string", "string"), "bool", _contains, True),
    Function("prefixLength", ("string",), "int", lambda text: network(text).prefixlen, True),
    Function("masked", ("string",), "string", lambda text: str(network(text)), True),
    Function("family", ("string",), "int", lambda text: address(text).version, True),
    Function("isLoopback", ("string",), "bool", lambda text: address(text).is_loopback, True),
    Function("isUnspecified", ("string",), "bool", lambda text: address(text).is_unspecified, True),
    Function("isLinkLocalUnicast", ("string",), "bool", lambda text: address(text).is_link_local, True),
    *_each("json", _TEXTS, "dyn", strict_json),
    *_each("toJson", ("string", "int", "double", "bool", "map", "list"), "string", _json_text),
    *_each("to_json", ("string", "int", "double", "bool", "map", "list"), "string", _json_text),
    *_each("base64.encode", _TEXTS, "string", lambda value: base64.b64encode(_octets(value)).decode()),
    *_each("base64Encode", _TEXTS, "string", lambda value: base64.b64encode(_octets(value)).decode()),
    Function("base64.decode", ("string",), "bytes", _unpadded),
    Function("base64Decode", ("string",), "bytes", _unpadded),
    *(Function("jsonField", (kind, "string"), "dyn", _json_field) for kind in _TEXTS),
    Function("regexReplace", ("string", "string", "string"), "string", _regex_replace, True),
    *_each("url.encode", _TEXTS, "string", lambda value: quote(_octets(value), safe="")),
    Function("url.decode", ("string",), "string", lambda text: unquote(text, errors="strict")),
    Function("form.encode", ("map",), "string", _form),
    Function("form.decode", ("string",), "map", lambda text: _distinct(parse_qsl(text, keep_blank_values=True, strict_parsing=True, max_num_fields=1000))),
    *_each("sha256.encode", _TEXTS, "string", _digest("sha256")),
    *_each("sha1.encode", _TEXTS, "string", _digest("sha1")),
    *_each("md5.encode", _TEXTS, "string", _digest("md5")),
    Function("unvalidatedJwtPayload", ("string",), "map", _payload),
    Function("merge", ("map", "map"), "map", lambda first, second: {**first, **second}),
    Function("merge", ("map", "map"), "map", lambda first, second: {**first, **second}, True),
    Function("uuid", (), "string", lambda: str(uuid.uuid4())),
    Function("fail", ("string",), "bool", _fail),
    Function("cookie", ("strings", "string"), "string", _cookie, True),
    Function("replacE", ("string", "string", "string"), "string", _replace, True),
)
"""`replacE` is `replace` in expressions: the adapter renames it, since the extension's own cannot be left out."""
