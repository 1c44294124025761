"""One target's lists, fetched and kept: freshness, failures, and sharing between audiences. The catalogue merges them.

Rules:
- a list is fresh until its time is over (a modern target's `ttlMs`, else our own) or its target said that it changed; what
  was asked for before a change is never fresh after it;
- a target that failed is not asked again at once, and keeps its last good list for a while; a target that turned a caller
  away (401, 403) keeps nothing for that caller;
- what a target calls `public` is shared by all principals of one variant, everything else stays with its audience; equal
  lists are one object whoever sees them;
- a target without such a list (-32601) has an empty one, and that says nothing about how the others may be cached.

Source: MCP 2026-07-28, "Caching".
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol
from weakref import WeakValueDictionary

from agw.mcp.consent import ConsentNeeded
from agw.mcp.errors import METHOD_NOT_FOUND, RpcError, target_down
from agw.mcp.federation.drain import KINDS, NOTHING, Drained, Kind, KindName, Limits, drain
from agw.mcp.federation.listing import Content, build_content
from agw.mcp.federation.names import Naming
from agw.mcp.federation.pins import Pins
from agw.mcp.federation.uris import Uris
from agw.mcp.message import MessageError
from agw.mcp.transport import TransportError


class Audience(NamedTuple):
    """Who may see a list: `principal` (credentials digest), `variant` (version and client capabilities digest)."""

    principal: bytes
    variant: bytes


class Fetch(Protocol):
    """Asks a target for one page of a list."""

    async def __call__(self, target: int, method: str, cursor: bytes | None, audience: Audience) -> bytes:
        """The raw result. `cursor` is a raw JSON string, None for the first page.

        Errors: RpcError (-32601: the target has no such list, which is an empty one), TransportError, MessageError.
        """
        ...


class Settings(NamedTuple):
    """How the catalogue behaves; times in seconds.

    `ttl_s`: for targets that say nothing; `max_ttl_s`: whatever they say; `stale_s`: how long a failing target's last list
    is served; `partial_ttl_s`: how long a list with gaps is given out again; `retry_s`, `max_retry_s`: pause after a
    failure, doubled each time; `debounce_s`: between two calls of `on_change`; `deadlines_s` by target (missing:
    `deadline_s`); `page_size` 0: all in one page; `http_targets`: those whose tools must have valid `x-mcp-header`.
    """

    fail_open: bool = True
    ttl_s: float = 30.0
    max_ttl_s: float = 3600.0
    stale_s: float = 600.0
    partial_ttl_s: float = 1.0
    retry_s: float = 1.0
    max_retry_s: float = 30.0
    debounce_s: float = 0.2
    deadline_s: float = 10.0
    deadlines_s: Sequence[float] = ()
    page_size: int = 0
    max_audiences: int = 1024
    max_bytes: int = 256 << 20
    limits: Limits = Limits()
    http_targets: frozenset[int] = frozenset()


OnEvent = Callable[[str, int, int], None]
"""Told (word, target, count) for counters and the log: `failed`, `recovered`, `cut`, `dropped`, `duplicates` (target -1)."""


class Entry:
    """One target's list for one audience: the last good content, how long it counts, and how the last attempt ended.

    `ttl_known`: the target said how long; `public`: it may be shared; times on the catalogue's clock.
    """

    __slots__ = ("content", "epoch", "error", "failures", "fresh_until", "public", "retry_at", "stale_until", "ttl_known")

    def __init__(self) -> None:
        self.content: Content | None = None
        self.epoch = -1
        self.fresh_until = 0.0
        self.stale_until = 0.0
        self.ttl_known = False
        self.public = False
        self.error: RpcError | None = None
        self.failures = 0
        self.retry_at = 0.0


Entries = dict[tuple[int, KindName], Entry]
"""What one audience has: by target and kind."""


class Sources:
    """The targets of one backend as sources of lists. The caller sees to it that one audience refreshes a kind once at a time."""

    def __init__(
        self, naming: Naming, uris: Uris, fetch: Fetch, clock: Callable[[], float], settings: Settings, on_event: OnEvent, pins: Pins | None,
    ) -> None:
        self._naming = naming
        self._uris = uris
        self._fetch = fetch
        self._clock = clock
        self._settings = settings
        self._on_event = on_event
        self._pins = pins
        self._shared: dict[tuple[int, KindName, bytes], Entry] = {}
        self._last: dict[tuple[int, KindName], Content] = {}
        self._contents: WeakValueDictionary[tuple[int, KindName, bytes, str], Content] = WeakValueDictionary()
        self._epochs: dict[tuple[int, KindName], int] = {(target, kind): 0 for target in range(len(naming.targets)) for kind in KINDS}

    def size(self) -> int:
        """Octets of all items held, by whomever."""
        return sum(content.size for content in self._contents.values())

    def counts(self) -> dict[tuple[int, KindName], int]:
        """Items of each target's last list, whoever asked."""
        return {where: len(content.items) for where, content in self._last.items()}

    def outdate(self, target: int, kind: KindName) -> None:
        """The target's list has changed, or may have."""
        self._epochs[target, kind] += 1

    def entry(self, entries: Entries, target: int, kind: KindName, audience: Audience) -> Entry:
        """The audience's own entry, or the shared one while that is fresh."""
        shared = self._shared.get((target, kind, audience.variant))
        if shared is not None and self._fresh(shared, target, kind):
            return shared
        return entries.setdefault((target, kind), Entry())

    def known(self, entries: Entries, target: int, kind: KindName, audience: Audience) -> Content | None:
        """The last list of the target that the audience, or else anybody, got: for whose names are whose, not for showing."""
        return self.entry(entries, target, kind, audience).content or self._last.get((target, kind))

    def _fresh(self, entry: Entry, target: int, kind: KindName) -> bool:
        return entry.error is None and entry.epoch == self._epochs[target, kind] and self._clock() < entry.fresh_until

    async def refresh(self, entries: Entries, target: int, kind: Kind, audience: Audience) -> Entry:
        """The entry to use, fetched if it must be; ends within the target's deadline. A failure is in the entry."""
        entry = self.entry(entries, target, kind.name, audience)
        epoch = self._epochs[target, kind.name]
        if self._fresh(entry, target, kind.name) or (entry.error is not None and entry.epoch == epoch and self._clock() < entry.retry_at):
            return entry
        name = self._naming.targets[target]
        deadlines = self._settings.deadlines_s
        try:
            async with asyncio.timeout(deadlines[target] if target < len(deadlines) else self._settings.deadline_s):
                drained = await self._drain(target, kind, audience)
                content = await self._content(target, kind, drained)
        except RpcError as error:
            return self._failed(entry, target, kind.name, audience, epoch, error)
        except TimeoutError:
            return self._failed(entry, target, kind.name, audience, epoch, target_down(name, "timeout"))
        except TransportError as error:
            return self._failed(entry, target, kind.name, audience, epoch, target_down(name, error.kind))
        except MessageError:
            return self._failed(entry, target, kind.name, audience, epoch, target_down(name, "malformed list"))
        self._succeeded(entry, target, kind.name, audience, epoch, drained, content)
        return entry

    async def _drain(self, target: int, kind: Kind, audience: Audience) -> Drained:
        try:
            return await drain(kind, lambda cursor: self._fetch(target, kind.method, cursor, audience), self._settings.limits)
        except RpcError as error:
            if error.code != METHOD_NOT_FOUND:
                raise
            return NOTHING

    async def _content(self, target: int, kind: Kind, drained: Drained) -> Content:
        """The content of what was drained; the very same object when somebody has it already."""
        key = (target, kind.name, drained.digest, drained.cut)
        content = self._contents.get(key)
        if content is None:
            mirrored = target in self._settings.http_targets
            content = await build_content(kind, target, drained, self._naming, self._uris, mirrored=mirrored, max_items=self._settings.limits.items)
            self._contents[key] = content
            if content.dropped:
                self._on_event("dropped", target, content.dropped)
            if content.cut:
                self._on_event("cut", target, 1)
            if self._pins is not None and kind.name == "tools":
                await self._pins.check(target, content.items)
        return content

    def _succeeded(self, entry: Entry, target: int, kind: KindName, audience: Audience, epoch: int, drained: Drained, content: Content) -> None:
        nothing = drained is NOTHING
        ttl_s = self._settings.ttl_s if drained.ttl_ms is None else drained.ttl_ms / 1000
        failures = entry.failures
        entry.content = content
        entry.error = None
        entry.failures = 0
        entry.epoch = epoch
        entry.ttl_known = nothing or drained.ttl_ms is not None
        entry.fresh_until = self._clock() + min(ttl_s, self._settings.max_ttl_s)
        entry.stale_until = entry.fresh_until + self._settings.stale_s
        entry.public = nothing or drained.public
        self._last[target, kind] = content
        if drained.public:
            self._share(entry, (target, kind, audience.variant))
        if failures:
            self._on_event("recovered", target, failures)

    def _share(self, entry: Entry, key: tuple[int, KindName, bytes]) -> None:
        """Keep a copy for others: the entry itself may turn private later."""
        self._shared.pop(key, None)
        if len(self._shared) >= self._settings.max_audiences:
            del self._shared[next(iter(self._shared))]
        copy = self._shared[key] = Entry()
        for name in Entry.__slots__:
            setattr(copy, name, getattr(entry, name))

    def _failed(self, entry: Entry, target: int, kind: KindName, audience: Audience, epoch: int, error: RpcError) -> Entry:
        entry.error = error
        entry.epoch = epoch
        entry.failures += 1
        entry.retry_at = self._clock() + min(self._settings.retry_s * 2 ** min(entry.failures - 1, 16), self._settings.max_retry_s)
        if isinstance(error, ConsentNeeded):
            # The user may come back at any moment, and asking again costs the target nothing.
            entry.retry_at = self._clock()
        if error.denied:
            entry.content = None
        elif entry.content is None:
            shared = self._shared.get((target, kind, audience.variant))
            if shared is not None:
                entry.content, entry.stale_until = shared.content, shared.stale_until
        self._on_event("failed", target, 1)
        return entry
