"""Cursors of merged lists: opaque to clients, sealed, bound to who may use them, and expiring.

Rules:
- a cursor says where in which list to go on: by generation and offset while that list is still known, else by the digest
  of the last name that was served, so that another worker or a changed list goes on instead of starting over;
- it may also hold a target and that target's own cursor, for lists that are walked through target by target; an empty
  upstream cursor is a cursor;
- it opens only for the same principal, method and backend; whatever does not open, or is too old, is -32602.

Source: MCP, "Pagination" (cursors are opaque; an invalid one is -32602).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Protocol

import msgspec

from agw.mcp.errors import INVALID_PARAMS, RpcError

MAX_CURSOR = 8192
"""Longest cursor looked at, in octets."""

_PURPOSE = b"cursor"


class KeyRing(Protocol):
    """What seals: authenticated encryption whose result is base64url text."""

    def seal(self, purpose: bytes, payload: bytes, bound: bytes) -> bytes:
        """Seal `payload` so that it opens only for the same `purpose` and `bound`."""
        ...

    def open(self, purpose: bytes, token: bytes, bound: bytes) -> bytes | None:
        """The payload, or None when the token is not ours or was sealed for something else."""
        ...


class Cursor(msgspec.Struct, frozen=True, array_like=True):
    """A place in a list.

    `generation`: the list's digest; `offset`: items before this place; `last`: digest of the name just before it;
    `target` (-1: none) and `upstream` (the raw JSON string of that target's cursor, None at its first page).
    """

    generation: bytes
    offset: int
    last: bytes = b""
    target: int = -1
    upstream: bytes | None = None


class _Sealed(msgspec.Struct, frozen=True, array_like=True):
    expires_s: int
    cursor: Cursor


_decoder = msgspec.msgpack.Decoder(_Sealed)


def invalid_cursor() -> RpcError:
    return RpcError(INVALID_PARAMS, "Invalid cursor", status=400)


def digest(name: str) -> bytes:
    """What a cursor keeps of a name: 8 octets."""
    return hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=8).digest()


def bound_to(principal: bytes, method: str, backend: str) -> bytes:
    """What a cursor is bound to, without two readings."""
    return b"".join(b"%d:%b," % (len(part), part) for part in (principal, method.encode(), backend.encode()))


class Cursors:
    """Seals and opens cursors. `clock` is wall time in seconds: cursors outlive workers. `ttl_s`: how long one is good."""

    def __init__(self, keys: KeyRing, clock: Callable[[], float], ttl_s: float = 3600.0) -> None:
        self._keys = keys
        self._clock = clock
        self._ttl_s = ttl_s

    def seal(self, cursor: Cursor, bound: bytes) -> str:
        """The text clients get. `bound` comes from `bound_to`."""
        payload = msgspec.msgpack.encode(_Sealed(int(self._clock() + self._ttl_s), cursor))
        return self._keys.seal(_PURPOSE, payload, bound).decode("ascii")

    def open(self, token: str, bound: bytes) -> Cursor:
        """The place a client's cursor means. Errors: RpcError -32602."""
        if not 0 < len(token) <= MAX_CURSOR or not token.isascii():
            raise invalid_cursor()
        payload = self._keys.open(_PURPOSE, token.encode("ascii"), bound)
        if payload is None:
            raise invalid_cursor()
        try:
            sealed = _decoder.decode(payload)
        except msgspec.DecodeError:
            raise invalid_cursor() from None
        if sealed.expires_s < self._clock() or sealed.cursor.offset < 0:
            raise invalid_cursor()
        return sealed.cursor
