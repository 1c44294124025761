"""Lists as one caller may see them: what his rules hide is not in them, nor is a tool's app whose resource is hidden.

Rules:
- a filtered list is made once per list and caller (his claims and scopes, not just his name) and kept, bounded in number and
  octets, so that ten thousand tools are not judged at every request; a list that dies takes nothing with it but its entry's use;
- making one gives the event loop a turn every few milliseconds; who wants the same list meanwhile waits for the same work;
- what is filtered is private to its caller, whatever the targets say of their lists.

Source: MCP 2026-07-28, "Caching" (`cacheScope`); MCP Apps (`_meta.ui.resourceUri`).
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import OrderedDict
from collections.abc import Callable, Hashable
from weakref import ref

import msgspec

from agw.mcp import message
from agw.mcp.federation import rewrite
from agw.mcp.federation.drain import Kind
from agw.mcp.federation.listing import Item, Listing, Merge, Pace, digest_of

MAX_LISTS = 256
MAX_BYTES = 64 << 20

Sees = Callable[[int, str, str, str, bytes], bool]
"""(target, kind as rules say it, own name, public name, the item as it is listed or b""): does the caller see it?"""
Apps = Callable[[int, str], str]
"""The target's own URI of a tool's app, from the one in the list."""


class Visible:
    """The filtered lists of one view."""

    def __init__(self, max_lists: int = MAX_LISTS, max_bytes: int = MAX_BYTES) -> None:
        self._max_lists = max_lists
        self._max_bytes = max_bytes
        self._merges: OrderedDict[tuple[int, Hashable], tuple[ref[Merge], Merge]] = OrderedDict()
        self._pages: OrderedDict[tuple[bytes, Hashable], bytes] = OrderedDict()
        self._making: dict[tuple[int, Hashable], asyncio.Task[Merge]] = {}
        self._size = 0

    def __len__(self) -> int:
        return len(self._merges) + len(self._pages)

    async def listing(self, whole: Listing, kind: str, sees: Sees, app: Apps, stamp: Hashable | None) -> Listing:
        """A list without what is hidden. `stamp`: the same for callers who see the same; None: nothing is kept."""
        if stamp is None:
            merge = await _filter(whole.merge, kind, sees, app)
        else:
            key = (id(whole.merge), stamp)
            found = self._merges.get(key)
            if found is not None and found[0]() is whole.merge:
                self._merges.move_to_end(key)
                merge = found[1]
            else:
                merge = await self._shared(key, whole.merge, kind, sees, app)
        return Listing(merge, whole.failed, whole.ttl_until, False, whole.valid_until, whole.epoch)

    async def _shared(self, key: tuple[int, Hashable], whole: Merge, kind: str, sees: Sees, app: Apps) -> Merge:
        task = self._making.get(key)
        if task is None:
            # The list is kept alive by the work, so its address is not another's meanwhile.
            task = self._making[key] = asyncio.get_running_loop().create_task(_filter(whole, kind, sees, app))
            task.add_done_callback(lambda done: self._made(key, whole, done))
        return await asyncio.shield(task)

    def _made(self, key: tuple[int, Hashable], whole: Merge, done: asyncio.Task[Merge]) -> None:
        self._making.pop(key, None)
        if done.cancelled() or done.exception() is not None:
            return
        old = self._merges.pop(key, None)
        self._size += done.result().size - (0 if old is None else old[1].size)
        self._merges[key] = (ref(whole), done.result())
        self._shrink()

    def _shrink(self) -> None:
        for dead in [key for key, (whole, _) in self._merges.items() if whole() is None]:
            self._size -= self._merges.pop(dead)[1].size
        while self._merges and (len(self._merges) > self._max_lists or self._size > self._max_bytes):
            self._size -= self._merges.popitem(last=False)[1][1].size
        while self._pages and (len(self._pages) > self._max_lists or self._size > self._max_bytes):
            self._size -= len(self._pages.popitem(last=False)[1])

    async def page(self, kind: Kind, raw: bytes, singular: str, sees: Sees, stamp: Hashable | None) -> bytes:
        """The result of a single target, which goes through as it is otherwise. Items without a name go too: nothing vouches for them."""
        key = None if stamp is None else (hashlib.blake2b(raw, digest_size=16).digest(), (kind.name, stamp))
        found = None if key is None else self._pages.get(key)
        if found is not None and key is not None:
            self._pages.move_to_end(key)
            return found
        parts = message.members(raw)
        pace = Pace()
        kept: list[msgspec.Raw] = []
        for element in message.elements(parts.get(kind.array)):
            if pace.due():
                await pace.turn()
            name = kind.name_of(element)
            if name is None or not sees(0, singular, name, name, bytes(element)):
                continue
            uri = rewrite.app_uri(bytes(element)) if kind.name == "tools" else None
            kept.append(element if uri is None or sees(0, "resource", uri, uri, b"") else msgspec.Raw(rewrite.without_app(bytes(element))))
        parts[kind.array] = message.raw(kept)
        out = private(message.encode(parts))
        if key is not None:
            if key not in self._pages:
                self._size += len(out)
            self._pages[key] = out
            self._shrink()
        return out


async def _filter(whole: Merge, kind: str, sees: Sees, app: Apps) -> Merge:
    pace = Pace()
    items: list[Item] = []
    for item in whole.items:
        if pace.due():
            await pace.turn()
        if not sees(item.target, kind, item.name, item.public, item.raw):
            continue
        uri = rewrite.app_uri(item.raw) if kind == "tool" else None
        if uri is not None and not sees(item.target, "resource", app(item.target, uri), uri, b""):
            item = Item(item.target, item.name, item.public, rewrite.without_app(item.raw), item.headers)
        items.append(item)
    return Merge(whole.kind, items, {item.public: item for item in items}, {}, {}, digest_of(items))


def private(result: bytes) -> bytes:
    """A result that says it may be shared between callers, without that."""
    if b"cacheScope" not in result and b"\\u" not in result:
        return result
    parts = message.members(result)
    if message.text(parts.get("cacheScope")) != "public":
        return result
    parts["cacheScope"] = message.raw("private")
    return message.encode(parts)
