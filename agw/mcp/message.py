"""JSON-RPC messages as raw text: taken apart only where something must be looked at, put together from the same octets.

Rules:
- a message, a params object or a result is `bytes` of JSON text; what is not edited leaves as the octets it came in;
- an object that is edited becomes `Members` (name -> raw value, in order), so number text, key order and unknown members
  survive; only the edited members are encoded anew;
- text from a client has been validated by `_fast.jsonrpc` before it gets here; text from a target is validated by `parse`.

Source: JSON-RPC 2.0; MCP basic protocol, "Messages".
"""

from __future__ import annotations

import json
import re
from typing import Any, Literal

import msgspec
import orjson

from agw._fast.jsonrpc import EnvelopeError, locate

Members = dict[str, msgspec.Raw]
"""The members of a JSON object: name to raw value, in the order of the text."""

_members = msgspec.json.Decoder(Members)
_elements = msgspec.json.Decoder(list[msgspec.Raw])


class MessageError(ValueError):
    """A target sent something that is not one JSON-RPC message."""


class Message:
    """One JSON-RPC message and where its parts are.

    `raw` is the whole text; `ident` the raw id (quotes included) or None; `method` is decoded, None for a response;
    `params` the raw value or None.
    """

    __slots__ = ("ident", "kind", "method", "params", "raw")

    def __init__(self, raw: bytes, kind: Literal["request", "notification", "response"], ident: bytes | None, method: str | None, params: bytes | None) -> None:
        self.raw = raw
        self.kind = kind
        self.ident = ident
        self.method = method
        self.params = params

    def __repr__(self) -> str:
        return f"<{self.kind} {self.method or ''} id={self.ident!r}>"

    @property
    def result(self) -> bytes | None:
        """The raw `result` of a response, None when it is an error."""
        found = members(self.raw).get("result")
        return None if found is None else bytes(found)

    @property
    def error(self) -> bytes | None:
        """The raw `error` object of a response, None when it is a result."""
        found = members(self.raw).get("error")
        return None if found is None else bytes(found)


def parse(raw: bytes) -> Message:
    """One message of a target. Errors: MessageError (not JSON, not JSON-RPC, a batch)."""
    try:
        found = locate(raw)
    except EnvelopeError as error:
        raise MessageError(str(error)) from None
    kind = found["kind"]
    if kind == "batch":
        raise MessageError("a batch")
    method = found["method"]
    return Message(raw, kind, found["id"], None if method is None else text(b'"' + method + b'"'), found["params"])


def split_batch(raw: bytes) -> list[bytes]:
    """The messages of a batch (MCP 2025-03-26), or the one message."""
    if raw.lstrip()[:1] != b"[":
        return [raw]
    try:
        return [bytes(element) for element in _elements.decode(raw)]
    except msgspec.DecodeError as error:
        found = _parts(raw, b"[")
        if not found:
            raise MessageError(str(error)) from None
        return [element for _, element in found]


def members(raw: bytes | msgspec.Raw | None) -> Members:
    """The members of an object; empty for None and for what is no object."""
    if raw is None:
        return {}
    try:
        return _members.decode(raw)
    except msgspec.DecodeError:
        try:
            return {json.loads(name): msgspec.Raw(found) for name, found in _parts(bytes(raw), b"{")}
        except ValueError:
            return {}


def elements(raw: bytes | msgspec.Raw | None) -> list[msgspec.Raw]:
    """The elements of an array; empty for None and for what is no array."""
    if raw is None:
        return []
    try:
        return _elements.decode(raw)
    except msgspec.DecodeError:
        return [msgspec.Raw(found) for _, found in _parts(bytes(raw), b"[")]


def text(raw: bytes | msgspec.Raw | None) -> str | None:
    """The decoded string, None for None and for what is no string."""
    if raw is None:
        return None
    try:
        value = orjson.loads(bytes(raw))
    except orjson.JSONDecodeError:
        return None
    return value if isinstance(value, str) else None


def value(raw: bytes | msgspec.Raw | None) -> Any:
    """The decoded value, for what is looked at and not forwarded; None when absent or malformed."""
    if raw is None:
        return None
    try:
        return orjson.loads(bytes(raw))
    except orjson.JSONDecodeError:
        return None


def raw(value: Any) -> msgspec.Raw:
    """A value as raw JSON text; Raw values inside stay as they are."""
    return msgspec.Raw(msgspec.json.encode(value))


def encode(value: Any) -> bytes:
    """JSON text of a value that may hold Raw parts (a `Members`, say)."""
    try:
        return msgspec.json.encode(value)
    except UnicodeEncodeError:
        # A member's name with half a surrogate pair: JSON has such names, UTF-8 has not.
        if not isinstance(value, dict):
            raise
        return b"{%b}" % b",".join([b"%b:%b" % (json.dumps(name).encode(), encode(part)) for name, part in value.items()])


def one_line(raw: bytes) -> bytes:
    """The same JSON text without line breaks and other insignificant blanks between tokens; tokens stay octet for octet."""
    if b"\n" not in raw and b"\r" not in raw:
        return raw
    try:
        return msgspec.json.format(raw, indent=-1)
    except msgspec.DecodeError:
        if b"\\u" not in raw:
            raise
        return b"".join([found[0] if found[0][:1] == b'"' else b"".join(found[0].split()) for found in _STRETCH.finditer(raw)])


# Matches at every quotation mark, also of a text that breaks off: else each of the marks behind it would be tried anew, hours for what a target sends.
_STRING = rb'"(?:[^"\\]|\\.)*+(?:"|\\?\Z)'
_STRETCH = re.compile(_STRING + rb'|[^"]+', re.DOTALL)
_TOKEN = re.compile(_STRING + rb"|[{}\[\],:]", re.DOTALL)


def _parts(raw: bytes, opener: bytes) -> list[tuple[bytes, bytes]]:
    """Names (quoted) and raw values of an object, or the elements of an array, of valid text that msgspec does not read.

    That is text with half a surrogate pair in it (`"\\ud83d"`), which RFC 8259 section 8.2 allows. Empty for anything else.
    """
    if b"\\u" not in raw or raw.lstrip()[:1] != opener:
        return []
    found: list[tuple[bytes, bytes]] = []
    name, depth, begin = b"", 0, 0
    for token in _TOKEN.finditer(raw):
        sign = token[0]
        if sign in (b"{", b"["):
            depth += 1
            if depth == 1:
                begin = token.end()
        elif depth == 1 and sign == b":":
            name, begin = raw[begin : token.start()].strip(), token.end()
        elif depth == 1 and sign in (b",", b"}", b"]"):
            value = raw[begin : token.start()].strip()
            if value:
                found.append((name, value))
            begin = token.end()
        if sign in (b"}", b"]"):
            depth -= 1
    return found if depth == 0 else []


def request(ident: bytes, method: str, params: bytes | None) -> bytes:
    """A request; `ident` and `params` are raw JSON."""
    return b'{"jsonrpc":"2.0","id":%b,"method":%b%b}' % (ident, orjson.dumps(method), b"" if params is None else b',"params":' + params)


def notification(method: str, params: bytes | None) -> bytes:
    """A notification; `params` is raw JSON."""
    return b'{"jsonrpc":"2.0","method":%b%b}' % (orjson.dumps(method), b"" if params is None else b',"params":' + params)


def result(ident: bytes, raw_result: bytes) -> bytes:
    """A successful response."""
    # Lists have megabytes: joining copies once into what is needed, formatting grows its way there.
    return b"".join((b'{"jsonrpc":"2.0","id":', ident, b',"result":', raw_result, b"}"))


def failure(ident: bytes | None, raw_error: bytes) -> bytes:
    """An error response; an id that could not be read is null."""
    return b'{"jsonrpc":"2.0","id":%b,"error":%b}' % (ident if ident is not None else b"null", raw_error)


def with_id(message: bytes, ident: bytes) -> bytes:
    """The same message with another id; all other members as they were."""
    parts = members(message)
    parts["id"] = msgspec.Raw(ident)
    return encode(parts)
