"""Compact JWS to header and claims (RFC 7515, RFC 7519): everything that can be refused before any cryptography.

Rules:
- one reading only: three parts, unpadded base64url with zero trailing bits, UTF-8, JSON objects without duplicate members;
- size, depth and the length of every number have a bound; nothing here is worse than linear;
- any octets end in a `Compact` or a `Malformed`, never in an exception;
- headers that bring their own key or change the meaning of the rest are refused, not ignored (RFC 8725, 2 and 3).
"""

from __future__ import annotations

import binascii
import json
import math
import re
from functools import lru_cache
from typing import Any, NamedTuple

from agw.security.credentials_in import Malformed

MAX_TOKEN = 16 * 1024
"""Octets of a token."""
MAX_DEPTH = 32
"""Of objects and lists in a header or claims, the outermost counted."""
MAX_KID = 256
"""Characters of a key id."""
MAX_ALG = 32
HEADERS = 64
"""Headers that are remembered with what they say, least recently used first to go."""

_STRING = re.compile(r'"(?:[^"\\]|\\.)*+(?:"|\\?\Z)', re.DOTALL)
"""Matches at every quotation mark, or what follows one that fails would be tried from each of the next ones: a second for a token."""
_ELSE = re.compile(r"[^\[\]{}]+")
_STANDARD = bytes.maketrans(b"-_+/=", b"+/***")
"""To the standard alphabet; what is in that one only becomes what is in neither."""
_PADDING = (b"", b"", b"==", b"=")
_ALPHABET = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
_NO_PARTS = Malformed("not three parts of unpadded base64url")
_NOT_CANONICAL = Malformed("base64url that is not canonical")
_LAST = {2: frozenset(b"AQgw"), 3: frozenset(b"AEIMQUYcgkosw048")}
_BRINGS_A_KEY = ("jwk", "jku", "x5u")
_TYPES = frozenset(("jwt", "at+jwt", "application/at+jwt"))


class Compact(NamedTuple):
    """A token in parts, nothing of it verified. `kid` is None when the header has none."""

    alg: str
    kid: str | None
    claims: dict[str, Any]
    signed: bytes
    signature: bytes


def parse(token: bytes) -> Compact | Malformed:
    """The parts of a token."""
    if len(token) > MAX_TOKEN:
        return Malformed(f"the token is longer than {MAX_TOKEN} octets")
    parts = token.split(b".")
    if len(parts) != 3:
        return _NO_PARTS
    payload, signature = _decode(parts[1]), _decode(parts[2])
    if isinstance(payload, Malformed):
        return payload
    if isinstance(signature, Malformed):
        return signature
    header = _header(parts[0])
    if isinstance(header, Malformed):
        return header
    claims = object_of(payload)
    if isinstance(claims, Malformed):
        return Malformed(f"claims: {claims.cause}")
    return Compact(*header, claims, token[: -len(parts[2]) - 1], signature)


def _decode(part: bytes) -> bytes | Malformed:
    """The octets of a part. Malformed for any other octet, and when another spelling of the same octets exists."""
    rest = len(part) & 3
    if not part:
        return _NO_PARTS
    try:
        octets = binascii.a2b_base64(part.translate(_STANDARD) + _PADDING[rest], strict_mode=True)
    except binascii.Error:
        return _NOT_CANONICAL if rest == 1 and not part.strip(_ALPHABET) else _NO_PARTS
    return _NOT_CANONICAL if rest and part[-1] not in _LAST[rest] else octets


@lru_cache(maxsize=HEADERS)
def _header(part: bytes) -> tuple[str, str | None] | Malformed:
    """Algorithm and key id. The tokens of a key have the same header: it is read once."""
    octets = _decode(part)
    if isinstance(octets, Malformed):
        return octets
    header = object_of(octets)
    if isinstance(header, Malformed):
        return Malformed(f"header: {header.cause}")
    refused = _refused_header(header)
    return (header["alg"], header.get("kid")) if refused is None else refused


def _refused_header(header: dict[str, Any]) -> Malformed | None:
    alg, kid, typ, cty = header.get("alg"), header.get("kid"), header.get("typ"), header.get("cty")
    if not isinstance(alg, str) or not alg or len(alg) > MAX_ALG:
        return Malformed("header: no algorithm")
    if "kid" in header and (not isinstance(kid, str) or not kid or len(kid) > MAX_KID):
        return Malformed(f"header: kid is no text of 1 to {MAX_KID} characters")
    if "crit" in header or "b64" in header:
        return Malformed("header: crit or b64, which change what the rest means")
    for name in _BRINGS_A_KEY:
        if name in header:
            return Malformed(f"header: {name}, by which a token brings its own key")
    if "typ" in header and (not isinstance(typ, str) or typ.lower() not in _TYPES):
        return Malformed("header: typ is neither JWT nor at+jwt")
    if "cty" in header and (not isinstance(cty, str) or cty.lower() in ("jwt", "application/jwt")):
        return Malformed("header: a token within the token")
    return None


def object_of(octets: bytes) -> dict[str, Any] | Malformed:
    """A JSON object with strict reading: UTF-8, no duplicate members at any level, bounded depth, finite numbers, whole characters."""
    try:
        text = octets.decode("utf-8")
        if text.count("{") + text.count("[") > MAX_DEPTH and _is_too_deep(text):
            return Malformed(f"JSON deeper than {MAX_DEPTH}, or brackets that do not fit")
        value = _DECODER.decode(text)
        if "\\u" in text:
            json.dumps(value, ensure_ascii=False).encode("utf-8")  # half of a surrogate pair is no text
    except UnicodeError:
        return Malformed("not UTF-8")
    except _Refused as refused:
        return Malformed(refused.args[0])
    except (ValueError, RecursionError):
        return Malformed("not JSON")
    return value if type(value) is dict else Malformed("not a JSON object")


class _Refused(ValueError):
    """Well-formed JSON that is not taken."""


def _is_too_deep(text: str) -> bool:
    """Do brackets nest deeper than MAX_DEPTH outside strings, or not fit each other? Inner pairs are taken off, one level each time."""
    left = _ELSE.sub("", _STRING.sub("", text))
    for _ in range(MAX_DEPTH):
        before, left = len(left), left.replace("[]", " ").replace("{}", " ").replace(" ", "")
        if len(left) == before:
            break
    return bool(left)


def _members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise _Refused("a member twice in one object")
    return found


def _number(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise _Refused("a number beyond all bounds")
    return value


def _no_constant(text: str) -> float:
    raise _Refused("NaN or Infinity, which is no JSON")


_DECODER = json.JSONDecoder(object_pairs_hook=_members, parse_float=_number, parse_constant=_no_constant)
