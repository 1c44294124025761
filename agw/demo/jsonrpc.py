"""JSON-RPC 2.0 messages of the demo server: strict reading, exact writing. No HTTP, no MCP, no I/O.

Rules (reliability rules 17 and 18): UTF-8 only, no duplicate member, no NaN or Infinity, an id is a string or an
integer and comes back as it was. What cannot be read is -32700, what is not a message is -32600; nothing a client
sends ends in another exception.
"""

from __future__ import annotations

import json
import math
from typing import NamedTuple, NoReturn

PARSE_ERROR = -32700
INVALID_REQUEST = -32600
METHOD_NOT_FOUND = -32601
INVALID_PARAMS = -32602
INTERNAL_ERROR = -32603
HEADER_MISMATCH = -32020  # MCP 2026-07-28
UNSUPPORTED_VERSION = -32022  # MCP 2026-07-28

Id = str | int
Object = dict[str, object]


class RpcError(Exception):
    """A JSON-RPC error to be answered. `status` is the HTTP status it goes with, `id` the request's if it was read."""

    def __init__(
        self, code: int, message: str, *, status: int = 400, id: Id | None = None, data: object = None
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.status = status
        self.id = id
        self.data = data


class Message(NamedTuple):
    """A request (`id` and `method`), a notification (`method` only) or a response (neither, its content is unused)."""

    id: Id | None
    method: str | None
    params: Object


def decode(body: bytes) -> object:
    """The JSON value of a body. Errors: RpcError PARSE_ERROR."""
    try:
        return json.loads(
            body.decode("utf-8"),
            object_pairs_hook=_unique,
            parse_float=_finite,
            parse_constant=_refuse_constant,
        )
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError and JSONDecodeError are ValueErrors
        raise RpcError(PARSE_ERROR, "parse error") from error


def classify(value: object) -> Message:
    """What kind of message a JSON value is; an array is none, batches are taken apart before.

    Errors: RpcError INVALID_REQUEST, INVALID_PARAMS, with the id if it could be read.
    """
    if not isinstance(value, dict):
        raise RpcError(INVALID_REQUEST, "a message is an object")
    id = value.get("id")
    known = id if isinstance(id, str) or (isinstance(id, int) and not isinstance(id, bool)) else None
    if value.get("jsonrpc") != "2.0":
        raise RpcError(INVALID_REQUEST, 'jsonrpc must be "2.0"', id=known)
    if "id" in value and known is None:
        raise RpcError(INVALID_REQUEST, "an id is a string or an integer")
    if "method" not in value:
        if known is None or ("result" in value) == ("error" in value):
            raise RpcError(INVALID_REQUEST, "neither a request nor a response", id=known)
        return Message(None, None, {})
    method = value["method"]
    if not isinstance(method, str):
        raise RpcError(INVALID_REQUEST, "method must be a string", id=known)
    params = value.get("params", {})
    if not isinstance(params, dict):
        raise RpcError(INVALID_PARAMS, "params must be an object", id=known)
    return Message(known, method, params)


def result(id: Id, value: Object) -> Object:
    """A successful response."""
    return {"jsonrpc": "2.0", "id": id, "result": value}


def failure(error: RpcError, id: Id | None = None) -> Object:
    """An error response; the id is null only if it could not be read."""
    body: Object = {"code": error.code, "message": error.message}
    if error.data is not None:
        body["data"] = error.data
    return {"jsonrpc": "2.0", "id": error.id if id is None else id, "error": body}


def encode(message: object) -> bytes:
    """One line of UTF-8 JSON. Lone surrogates, which JSON can spell and UTF-8 cannot, stay `\\udxxx`."""
    try:
        return json.dumps(message, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
    except UnicodeEncodeError:
        return json.dumps(message, allow_nan=False, separators=(",", ":")).encode()


def _unique(pairs: list[tuple[str, object]]) -> Object:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("duplicate member")
    return members


def _finite(text: str) -> float:
    if not math.isfinite(number := float(text)):
        raise ValueError("number out of range")
    return number


def _refuse_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is not JSON")
