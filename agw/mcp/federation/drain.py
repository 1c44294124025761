"""One list of one target, all pages of it, within bounds.

Rules:
- pages are read until a page has no `nextCursor`; a cursor is given back as the octets it came in, and an empty string is
  one; a cursor that comes twice ends the list, because the target runs in a circle;
- pages and octets are bounded; what is beyond is cut and said so (`cut`), never waited for. Time is the caller's bound;
- an answer without the array is an error, not an empty list: an empty list looks authoritative.

Source: MCP, "Pagination"; 2026-07-28, "Caching" (`ttlMs`, `cacheScope` per page).
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable
from types import MappingProxyType
from typing import Literal, NamedTuple

import msgspec

from agw.mcp import message
from agw.mcp.message import MessageError

KindName = Literal["tools", "prompts", "resources", "templates"]


_LARGE = 256 << 10
"""Octets of a page whose reading is worth a turn of the event loop between steps."""


class _Named(msgspec.Struct):
    name: str


class _Located(msgspec.Struct):
    uri: str


class _Templated(msgspec.Struct):
    uriTemplate: str


class Kind(NamedTuple):
    """One kind of list: its method, the member with the items, the member that identifies an item."""

    name: KindName
    method: str
    array: str
    key: str
    decoder: msgspec.json.Decoder[_Named] | msgspec.json.Decoder[_Located] | msgspec.json.Decoder[_Templated]

    def name_of(self, item: msgspec.Raw) -> str | None:
        """What identifies an item; None when it has nothing of the kind."""
        try:
            found = self.decoder.decode(item)
        except msgspec.DecodeError:
            # Half a surrogate pair somewhere in the item is no reason to lose it.
            return message.text(message.members(item).get(self.key))
        name: str = getattr(found, self.key)
        return name


KINDS: MappingProxyType[KindName, Kind] = MappingProxyType(
    {
        "tools": Kind("tools", "tools/list", "tools", "name", msgspec.json.Decoder(_Named)),
        "prompts": Kind("prompts", "prompts/list", "prompts", "name", msgspec.json.Decoder(_Named)),
        "resources": Kind("resources", "resources/list", "resources", "uri", msgspec.json.Decoder(_Located)),
        "templates": Kind("templates", "resources/templates/list", "resourceTemplates", "uriTemplate", msgspec.json.Decoder(_Templated)),
    }
)
BY_METHOD: MappingProxyType[str, Kind] = MappingProxyType({kind.method: kind for kind in KINDS.values()})


class Limits(NamedTuple):
    """Bounds of one target's list."""

    pages: int = 256
    items: int = 50_000
    size_bytes: int = 64 << 20


class Drained(NamedTuple):
    """The pages of a list.

    `arrays`: raw JSON arrays, one a page; `digest`: of these; `ttl_ms`: the least of the pages', None when the target says
    nothing (a legacy one); `public`: every page may be shared between callers; `cut`: which bound ended it early, or "".
    """

    arrays: list[bytes]
    digest: bytes
    ttl_ms: int | None = None
    public: bool = False
    cut: str = ""


NOTHING = Drained([], hashlib.blake2b(digest_size=16).digest())
"""The list of a target that has none."""


async def drain(kind: Kind, fetch: Callable[[bytes | None], Awaitable[bytes]], limits: Limits) -> Drained:
    """Read all pages. `fetch(cursor)` asks for one: the raw result, for a cursor as raw JSON string (None: first page).

    Errors: MessageError (no such list in the answer), and whatever `fetch` raises.
    """
    arrays: list[bytes] = []
    hashed = hashlib.blake2b(digest_size=16)
    ttl_ms: int | None = None
    public = True
    size = 0
    seen: set[bytes] = set()
    cursor: bytes | None = None
    cut = ""
    while True:
        page = message.members(await fetch(cursor))
        array = bytes(page.get(kind.array, b""))
        if len(array) > _LARGE:
            await asyncio.sleep(0)
        if not array.startswith(b"["):
            raise MessageError(f"the answer to {kind.method} has no {kind.array}")
        size += len(array)
        if size > limits.size_bytes:
            cut = "bytes"
            break
        arrays.append(array)
        hashed.update(b"%d:" % len(array))
        hashed.update(array)
        if len(array) > _LARGE:
            await asyncio.sleep(0)
        said = message.value(page.get("ttlMs"))
        if isinstance(said, int) and not isinstance(said, bool):
            ttl_ms = max(0, said) if ttl_ms is None else min(ttl_ms, max(0, said))
        public = public and message.text(page.get("cacheScope")) == "public"
        following = page.get("nextCursor")
        if following is None or message.text(following) is None:
            break
        cursor = bytes(following)
        if cursor in seen:
            cut = "cursor"
            break
        seen.add(cursor)
        if len(arrays) >= limits.pages:
            cut = "pages"
            break
    return Drained(arrays, hashed.digest(), ttl_ms, public and ttl_ms is not None, cut)
