"""Lists as they are served: items under public names, merged over targets, encoded once.

`Content` is one target's list, `Merge` the list over all targets, `Listing` a merge as one caller gets it now. Contents and
merges are immutable and shared by everybody who gets the same; building one yields to the event loop every few
milliseconds, using one is a dict look-up or the same bytes object again.

Rules:
- items stand in configuration order of their targets, then in the target's own order;
- of two items with one public name the first counts, even while its target is down (tool shadowing);
- the octets of an item change only where a name or URI in it is mapped.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import Any

from msgspec import Raw

from agw.mcp import message, param_headers
from agw.mcp.federation import rewrite
from agw.mcp.federation.drain import Drained, Kind
from agw.mcp.federation.names import Naming
from agw.mcp.federation.uris import Uris
from agw.mcp.param_headers import Annotations

META_PARTIAL = "dev.agw/partial"
"""`_meta` member of a list that some targets did not contribute to: their ids."""

_SLICE_S = 0.002
_LOOK_EVERY = 64
_MAX_ENCODED = 4
_MANY = 1000
_NO_HEADERS: Annotations = {}


class Pace:
    """Gives the event loop a turn between slices of a long loop. Wall time, not the catalogue's clock: it bounds work."""

    __slots__ = ("_count", "_since")

    def __init__(self) -> None:
        self._count = 0
        self._since = time.perf_counter()

    def due(self) -> bool:
        """Call once per step; True when it is time to call `turn`."""
        self._count += 1
        return self._count % _LOOK_EVERY == 0 and time.perf_counter() - self._since > _SLICE_S

    async def turn(self) -> None:
        await asyncio.sleep(0)
        self._since = time.perf_counter()


class Item:
    """One tool, prompt, resource or template: `target`, its own `name` there (or URI), its `public` one, `raw` as served.

    `headers`: the arguments that modern HTTP requests repeat as headers (tools only).
    """

    __slots__ = ("headers", "name", "public", "raw", "target")

    def __init__(self, target: int, name: str, public: str, raw: bytes, headers: Annotations = _NO_HEADERS) -> None:
        self.target = target
        self.name = name
        self.public = public
        self.raw = raw
        self.headers = headers

    @property
    def schema(self) -> bytes | None:
        """A tool's raw `inputSchema`."""
        found = message.members(self.raw).get("inputSchema")
        return None if found is None else bytes(found)


class Content:
    """One target's list under public names. `dropped`: items left out (no name, a second time the same, broken annotations)."""

    __slots__ = ("__weakref__", "cut", "digest", "dropped", "items", "size", "target")

    def __init__(self, target: int, items: Sequence[Item], digest: bytes, dropped: int, cut: str) -> None:
        self.target = target
        self.items = items
        self.digest = digest
        self.dropped = dropped
        self.cut = cut
        self.size = sum(len(item.raw) for item in items)


Shape = Callable[[bytes, str], tuple[str, bytes]]


def _shape(kind: Kind, target: int, naming: Naming, uris: Uris, array: bytes) -> Shape:
    """How an item of the target becomes public: (raw, own name) to (public name, raw). One look at `array` saves one at every item."""
    uri = partial(uris.public, target)
    if kind.name == "tools" and rewrite.may_have_apps(array):
        return lambda raw, name: ((public := naming.public(target, name)), rewrite.tools_list_item(raw, public, uri))
    if kind.name in ("tools", "prompts"):
        return lambda raw, name: ((public := naming.public(target, name)), rewrite.prompt_item(raw, public))
    edit = rewrite.resource_item if kind.name == "resources" else rewrite.template_item
    return lambda raw, name: ((public := uri(name)), edit(raw, public))


def _headers(raw_tool: bytes) -> Annotations | None:
    """The annotations of a tool, None if invalid."""
    return param_headers.annotations(message.members(raw_tool).get("inputSchema"))


async def build_content(kind: Kind, target: int, drained: Drained, naming: Naming, uris: Uris, *, mirrored: bool, max_items: int) -> Content:
    """A target's pages as items. `mirrored`: an HTTP target, whose tools with invalid `x-mcp-header` must be dropped."""
    pace = Pace()
    items: list[Item] = []
    seen: set[str] = set()
    dropped = 0
    cut = drained.cut
    for array in drained.arrays:
        shape = _shape(kind, target, naming, uris, array)
        annotated = kind.name == "tools" and (b"x-mcp-header" in array or b"\\u00" in array)
        for element in message.elements(array):
            if pace.due():
                await pace.turn()
            name = kind.name_of(element)
            if name is None or name in seen:
                dropped += 1
                continue
            if len(items) >= max_items:
                cut = "items"
                break
            raw = bytes(element)
            headers = _headers(raw) if annotated else _NO_HEADERS
            if headers is None and mirrored:
                dropped += 1
                continue
            seen.add(name)
            public, shown = shape(raw, name)
            items.append(Item(target, name, public, shown, headers or _NO_HEADERS))
    return Content(target, items, drained.digest, dropped, cut)


class Merge:
    """The list over all targets.

    `items` in order; `find` by public name; `held` says which target a name belongs to whose target is not listed now;
    `generation`: a digest of the texts, the same in every worker; `plain`: `{"tools":[...]}`.
    """

    __slots__ = ("__weakref__", "_encoded", "_find", "_held", "_hidden", "generation", "items", "kind", "plain")

    def __init__(
        self, kind: Kind, items: Sequence[Item], find: Mapping[str, Item], held: Mapping[str, int], hidden: Mapping[tuple[int, str], Item],
        generation: bytes,
    ) -> None:
        """`hidden`: items whose public name is an earlier target's, by target and own name."""
        self.kind = kind
        self.items = items
        self.generation = generation
        self.plain = encode(kind, items)
        self._find = find
        self._held = held
        self._hidden = hidden
        self._encoded: dict[bytes, bytes] = {}

    def find(self, public: str) -> Item | None:
        """The item with a public name."""
        return self._find.get(public)

    def pick(self, target: int, name: str, public: str) -> Item | None:
        """The item of one target, also when another target has its public name."""
        found = self._find.get(public)
        return found if found is not None and found.target == target else self._hidden.get((target, name))

    @property
    def duplicates(self) -> int:
        """How many items are not in the list because an earlier target has their name."""
        return len(self._hidden)

    @property
    def size(self) -> int:
        """Octets of the encodings held."""
        return len(self.plain) + sum(map(len, self._encoded.values()))

    def owner(self, public: str) -> int | None:
        """The target a public name belongs to, also when that target is down."""
        found = self._find.get(public)
        return found.target if found is not None else self._held.get(public)

    def encoded(self, first: Mapping[str, Any]) -> bytes:
        """The whole result with the members `first` before the list; the same object for the same members."""
        if not first:
            return self.plain
        head = message.encode(dict(first))
        found = self._encoded.get(head)
        if found is None:
            if len(self._encoded) >= _MAX_ENCODED:
                self._encoded.clear()
            found = self._encoded[head] = head[:-1] + b"," + self.plain[1:]
        return found


def encode(kind: Kind, items: Iterable[Item], first: Mapping[str, Any] = MappingProxyType({})) -> bytes:
    """A list result of these items."""
    head = message.encode(dict(first))[1:-1]
    return b'{%b%b"%b":[%b]}' % (head, b"," if head else b"", kind.array.encode(), b",".join([item.raw for item in items]))


Keep = Callable[[Item], Item | None]
"""What a caller may see of an item: the item, a changed one, or None."""


async def build_merge(kind: Kind, contents: Sequence[tuple[Content, bool]], keep: Keep | None = None) -> Merge:
    """Merge contents, in configuration order, each with whether it is listed now; one that is not only holds its names."""
    pace = Pace()
    items: list[Item] = []
    find: dict[str, Item] = {}
    held: dict[str, int] = {}
    hidden: dict[tuple[int, str], Item] = {}
    for content, listed in contents:
        for item in content.items:
            if pace.due():
                await pace.turn()
            public = item.public
            seen = (item if keep is None else keep(item)) if listed else None
            if public in find or public in held:
                if seen is not None:
                    hidden[item.target, item.name] = seen
            elif seen is None:
                held[public] = item.target  # down, or not for this caller, and still its own
            else:
                find[public] = seen
                items.append(seen)
    if len(items) > _MANY:
        await pace.turn()
    return Merge(kind, items, find, held, hidden, generation_of(kind, contents) if keep is None else digest_of(items))


def generation_of(kind: Kind, contents: Sequence[tuple[Content, bool]]) -> bytes:
    """A digest of what a merge is made of, without looking at the items."""
    hashed = hashlib.blake2b(kind.name.encode(), digest_size=8)
    for content, listed in contents:
        hashed.update(b"%d:%d:%b:" % (content.target, listed, content.digest))
    return hashed.digest()


def digest_of(items: Sequence[Item]) -> bytes:
    """A digest of which items there are, for merges that differ by caller."""
    hashed = hashlib.blake2b(digest_size=8)
    for item in items:
        hashed.update(item.public.encode("utf-8", "surrogatepass") + b"\0")
    return hashed.digest()


class Listing:
    """A merge as one caller gets it.

    `failed`: ids of targets that did not answer (their items may be old or missing); `ttl_until`: when the answer a modern
    caller gets stops being fresh, on the catalogue's clock, None for at once; `public`: whether it may be shared;
    `valid_until`, `epoch`: until when the catalogue gives it out again.
    """

    __slots__ = ("epoch", "failed", "merge", "public", "ttl_until", "valid_until")

    def __init__(self, merge: Merge, failed: tuple[str, ...], ttl_until: float | None, public: bool, valid_until: float, epoch: int) -> None:
        self.merge = merge
        self.failed = failed
        self.ttl_until = ttl_until
        self.public = public
        self.valid_until = valid_until
        self.epoch = epoch

    def members(self, modern: bool, now: float, server_info: Raw | None = None) -> dict[str, Any]:
        """What a result holds beside the list. `now` on the catalogue's clock; `ttlMs` in whole seconds, so that encodings are reused."""
        first: dict[str, Any] = {}
        meta: dict[str, Any] = {}
        if modern:
            left_s = 0 if self.ttl_until is None or self.failed else max(0, int(self.ttl_until - now))
            first = {"resultType": "complete", "ttlMs": left_s * 1000, "cacheScope": "public" if self.public else "private"}
            if server_info is not None:
                meta["io.modelcontextprotocol/serverInfo"] = server_info
        if self.failed:
            meta[META_PARTIAL] = list(self.failed)
        if meta:
            first["_meta"] = meta
        return first

    def result(self, modern: bool, now: float, server_info: Raw | None = None) -> bytes:
        """The raw result with the whole list."""
        return self.merge.encoded(self.members(modern, now, server_info))
