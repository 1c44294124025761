"""The catalogue: what one backend offers to whom - lists merged over its targets, looked up by name and by URI.

Rules:
- a request for a list that is fresh waits for nothing; otherwise all targets are asked at once, each within its deadline,
  and everybody who wants the same list meanwhile waits for the same answers;
- a list with gaps says who is missing (`dev.agw/partial`) and is not cacheable; it is never empty because everybody failed:
  that is an error. Failing closed, one target's failure is everybody's;
- names never move to another target because their own is down;
- time comes from `clock`, lists come from `fetch`, nothing else is touched. Audiences are bounded, by number and by octets.

Source: MCP "Pagination", "List changed" notifications; 2026-07-28 "Caching".
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from weakref import WeakValueDictionary

from msgspec import Raw

from agw.mcp.consent import ConsentNeeded
from agw.mcp.errors import INTERNAL, RpcError, target_down
from agw.mcp.federation import rewrite
from agw.mcp.federation.cursors import Cursor, Cursors, bound_to, digest, invalid_cursor
from agw.mcp.federation.debounce import Debounce
from agw.mcp.federation.drain import KINDS, Kind, KindName
from agw.mcp.federation.listing import Content, Item, Listing, Merge, build_merge, encode
from agw.mcp.federation.names import Naming
from agw.mcp.federation.pins import Pins
from agw.mcp.federation.sources import Audience, Entries, Entry, Fetch, OnEvent, Settings, Sources
from agw.mcp.federation.uris import UriOwners, Uris

__all__ = ["Allow", "Audience", "Catalogue", "Fetch", "Settings", "Shown"]

Shown = Callable[[Listing], Awaitable[Listing]]
"""A list as one caller may see it."""

Allow = Callable[[Audience, KindName, int, str], bool]
"""Whether the audience may see `name` (or URI) of the target."""

_PINNED = 3
"""How many lists per audience and kind stay for the sake of cursors that point into them."""

_WITH: dict[KindName, tuple[KindName, ...]] = {"resources": ("resources", "templates"), "templates": ("resources", "templates")}
"""Lists that one notification is about."""

_DEFAULTS = Settings()


class _View:
    """What one audience sees."""

    __slots__ = ("audience", "entries", "known", "listings", "paged", "tasks", "uris")

    def __init__(self, audience: Audience, targets: int) -> None:
        self.audience = audience
        self.entries: Entries = {}
        self.listings: dict[KindName, Listing] = {}
        self.tasks: dict[KindName, tuple[int, asyncio.Task[Listing]]] = {}
        self.paged: dict[KindName, list[Merge]] = {}
        self.uris = UriOwners(targets)
        self.known: dict[KindName, Merge] = {}


class Catalogue:
    """The lists of one backend. Used from one event loop.

    `on_change(kind)`: told, not too often, that clients should list again (kinds: tools, prompts, resources). `allow`: the
    policy over what an audience may see; with it every list is private. `server_info`: the gateway's Implementation as raw
    JSON, put into modern results.
    """

    def __init__(
        self, naming: Naming, uris: Uris, fetch: Fetch, clock: Callable[[], float], settings: Settings = _DEFAULTS, *, backend: str = "",
        cursors: Cursors | None = None, server_info: bytes | None = None, on_change: Callable[[KindName], None] | None = None,
        on_event: OnEvent | None = None, allow: Allow | None = None, pins: Pins | None = None,
    ) -> None:
        self._naming = naming
        self._uris = uris
        self._clock = clock
        self._settings = settings
        self._backend = backend
        self._cursors = cursors
        self._server_info = None if server_info is None else Raw(server_info)
        self._on_event = on_event
        self._allow = allow
        self._targets = len(naming.targets)
        self._sources = Sources(naming, uris, fetch, clock, settings, self._event, pins)
        self._views: OrderedDict[Audience, _View] = OrderedDict()
        self._merges: WeakValueDictionary[tuple[object, ...], Merge] = WeakValueDictionary()
        self._epoch: dict[KindName, int] = dict.fromkeys(KINDS, 0)
        self._changes: dict[KindName, Debounce] = {}
        if on_change is not None:
            self._changes = {kind: Debounce(settings.debounce_s, partial(on_change, kind)) for kind in KINDS if kind != "templates"}

    # ------------------------------------------------------------------------------------------------------- lists

    def ready(self, kind: KindName, audience: Audience) -> Listing | None:
        """The list if it is fresh; nothing is waited for."""
        view = self._views.get(audience)
        found = None if view is None else view.listings.get(kind)
        if found is None or found.epoch != self._epoch[kind] or self._clock() >= found.valid_until:
            return None
        self._views.move_to_end(audience)
        return found

    async def listing(self, kind: KindName, audience: Audience) -> Listing:
        """The list, fetched as far as it is not fresh.

        Errors: RpcError: -32603 when no target answered (a single target's own error), or one did not and we fail closed.
        """
        view = self._view(audience)
        while True:
            found = self.ready(kind, audience)
            if found is not None:
                return found
            epoch = self._epoch[kind]
            running = view.tasks.get(kind)
            if running is None:
                return await self._shielded(self._start(view, kind, epoch))
            began, task = running
            if began == epoch:
                return await self._shielded(task)
            await asyncio.wait({task})  # began before the last change: its answer may be old

    async def result(self, kind: KindName, audience: Audience, modern: bool, cursor: str | None = None, shown: Shown | None = None) -> bytes:
        """The raw result of a list request; `shown` makes of the list what this caller may see of it.

        Errors: RpcError, -32602 for a bad cursor.
        """
        found = self.ready(kind, audience) or await self.listing(kind, audience)
        if shown is not None:
            found = await shown(found)
        if self._settings.page_size > 0 and self._cursors is not None:
            # A list another caller of the audience was shown is nothing this one may go on in.
            pinned = [] if shown is not None else self._view(audience).paged.setdefault(kind, [])
            return self._page(self._cursors, kind, audience, found, pinned, modern, cursor)
        if cursor is not None:
            raise invalid_cursor()
        return found.result(modern, self._clock(), self._server_info if modern else None)

    def _page(self, cursors: Cursors, kind: KindName, audience: Audience, found: Listing, pinned: list[Merge], modern: bool, token: str | None) -> bytes:
        bound = bound_to(audience.principal, KINDS[kind].method, self._backend)
        merge, offset = found.merge, 0
        if token is not None:
            place = cursors.open(token, bound)
            merge = next((each for each in (found.merge, *pinned) if each.generation == place.generation), found.merge)
            offset = place.offset
            if merge.generation != place.generation:
                offset = next((i + 1 for i, item in enumerate(merge.items) if digest(item.public) == place.last), offset)
        if not any(each is merge for each in pinned):
            pinned.append(merge)
            del pinned[:-_PINNED]
        items = merge.items[offset : offset + self._settings.page_size]
        first = found.members(modern, self._clock(), self._server_info if modern else None)
        if offset + len(items) < len(merge.items):
            first["nextCursor"] = cursors.seal(Cursor(merge.generation, offset + len(items), digest(items[-1].public)), bound)
        return encode(KINDS[kind], items, first)

    # ------------------------------------------------------------------------------------------------------ look-ups

    async def find(self, kind: KindName, audience: Audience, public: str, *, fresh: bool = False) -> Item | None:
        """The item with a public name. What was listed before is enough, unless `fresh`; an unknown name has the list fetched.

        Errors: as `listing`.
        """
        view = self._views.get(audience)
        found = None if view is None or fresh else view.listings.get(kind)
        item = None if found is None else found.merge.find(public)
        return item or (await self.listing(kind, audience)).merge.find(public)

    def lists(self, kind: KindName, audience: Audience, public: str | None) -> bool:
        """Was an item of this public name in the last list of the audience? Nothing is waited for."""
        view = self._views.get(audience)
        found = None if view is None else view.listings.get(kind)
        return found is not None and public is not None and found.merge.find(public) is not None

    def counts(self) -> dict[tuple[int, KindName], int]:
        """How many items each target listed last, to whomever: by target and kind."""
        return self._sources.counts()

    async def route(self, kind: KindName, audience: Audience, public: str) -> tuple[int, str] | None:
        """Target and own name of a public tool or prompt name; None when it is nobody's. Waits only when names have no prefix.

        Errors: as `listing`.
        """
        known = self.route_now(kind, audience, public)
        if known is not None or self._naming.prefixed or self._targets == 1:
            return known
        owner = (await self.listing(kind, audience)).merge.owner(public)
        return None if owner is None else (owner, public)

    def route_now(self, kind: KindName, audience: Audience, public: str) -> tuple[int, str] | None:
        """Like `route`, from what was listed before."""
        if self._naming.prefixed or self._targets == 1:
            return self._naming.split(public)
        view = self._views.get(audience)
        found = None if view is None else view.listings.get(kind)
        owner = None if found is None else found.merge.owner(public)
        return None if owner is None else (owner, public)

    async def route_uri(self, audience: Audience, uri: str) -> tuple[int, str] | None:
        """Target and own URI of a public URI (or template, for completions); None when it is nobody's.

        Waits only when the URI does not name its target and lists have to be fetched. A list that cannot be had is done without.
        """
        found = self._uris.split(uri)
        if found is not None:
            return found
        if self._targets == 1 and not self._uris.prefixed:
            return 0, uri
        if self._uris.prefixed and self._uris.public(0, uri) != uri:
            return None  # one that would have been rewritten, had we given it out
        kinds: tuple[KindName, ...] = ("resources", "templates")
        for listing in await asyncio.gather(*(self.listing(kind, audience) for kind in kinds), return_exceptions=True):
            if isinstance(listing, Listing):
                self._learn(self._view(audience), listing.merge)
            elif not isinstance(listing, RpcError):
                raise listing
        owner = self._view(audience).uris.owner(uri)
        return None if owner is None else (owner, uri)

    def saw(self, audience: Audience, target: int, uri: str) -> None:
        """A result for the audience linked to a URI that is not rewritten."""
        self._view(audience).uris.saw(target, uri)

    def _learn(self, view: _View, merge: Merge) -> None:
        kind = merge.kind.name
        if view.known.get(kind) is merge:
            return
        view.known[kind] = merge
        for target in range(self._targets):
            content = self._sources.known(view.entries, target, kind, view.audience)
            names = [] if content is None else [item.name for item in content.items]
            if kind == "resources":
                view.uris.learn(target, uris=names)
            else:
                view.uris.learn(target, templates=names)

    # ------------------------------------------------------------------------------------------------------- changes

    def invalidate(self, target: int | None = None, kind: KindName | None = None) -> None:
        """What a target (None: every one) lists has changed or may have: it is asked again when somebody wants it.

        Resources and templates change together. Clients are told through `on_change`.
        """
        for each in KINDS if kind is None else _WITH.get(kind, (kind,)):
            for index in range(self._targets) if target is None else (target,):
                self._sources.outdate(index, each)
            self._epoch[each] += 1
            if each in self._changes:
                self._changes[each].fire()

    def forget(self, audience: Audience) -> None:
        """The audience is gone (its session ended): drop what only it saw."""
        view = self._views.get(audience)
        if view is not None and not view.tasks:
            del self._views[audience]

    async def close(self) -> None:
        """Stop all fetches and timers; who still waits for a list gets an RpcError."""
        for change in self._changes.values():
            change.close()
        tasks = [task for view in self._views.values() for _, task in view.tasks.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._views.clear()

    # ------------------------------------------------------------------------------------------------------- merging

    def _view(self, audience: Audience) -> _View:
        view = self._views.get(audience)
        if view is None:
            view = self._views[audience] = _View(audience, self._targets)
            self._evict(view)
        else:
            self._views.move_to_end(audience)
        return view

    def _evict(self, keep: _View) -> None:
        """Forget who was not here for longest, until both bounds hold; views with a fetch under way stay."""
        old = [audience for audience, view in self._views.items() if view is not keep and not view.tasks]
        while old and (len(self._views) > self._settings.max_audiences or self._held() > self._settings.max_bytes):
            batch = 1 + len(old) // 8  # in batches, because summing up what is held takes a look at all of it
            for audience in old[:batch]:
                del self._views[audience]
            del old[:batch]

    def _held(self) -> int:
        return self._sources.size() + sum(merge.size for merge in self._merges.values())

    def _start(self, view: _View, kind: KindName, epoch: int) -> asyncio.Task[Listing]:
        task = asyncio.get_running_loop().create_task(self._assemble(view, kind, epoch))
        view.tasks[kind] = (epoch, task)

        def ended(task: asyncio.Task[Listing]) -> None:
            view.tasks.pop(kind, None)
            if not task.cancelled():
                task.exception()  # those who wait get it; with nobody waiting it is not worth a report

        task.add_done_callback(ended)
        return task

    async def _shielded(self, task: asyncio.Task[Listing]) -> Listing:
        """Wait for others' work: giving up does not end it, and its end by `close` is not our cancellation."""
        await asyncio.wait({task})
        if task.cancelled():
            raise RpcError(INTERNAL, "The configuration has changed, try again", status=503, reason="reload")
        return task.result()

    async def _assemble(self, view: _View, kind: KindName, epoch: int) -> Listing:
        """Bring every target's entry up to date, then merge."""
        sources = self._sources
        entries = await asyncio.gather(*(sources.refresh(view.entries, target, KINDS[kind], view.audience) for target in range(self._targets)))
        now = self._clock()
        failed = [target for target, entry in enumerate(entries) if entry.error is not None]
        usable = [entry.error is None or (entry.content is not None and self._settings.fail_open and now < entry.stale_until) for entry in entries]
        if failed and not (self._settings.fail_open and any(usable)):
            raise self._failure(entries, failed)
        contents = []
        for target, entry in enumerate(entries):
            content = entry.content or sources.known(view.entries, target, kind, view.audience)
            if content is not None:
                contents.append((content, usable[target] and content is entry.content))
        merge = await self._merge(view, KINDS[kind], contents)
        fresh_until = min((entry.fresh_until for entry in entries if entry.error is None), default=now + self._settings.partial_ttl_s)
        listing = Listing(
            merge,
            tuple(self._naming.targets[target] for target in failed),
            fresh_until if not failed and all(entry.ttl_known for entry in entries) else None,
            not failed and self._allow is None and all(entry.public for entry in entries),
            min(now + self._partial_s(entries), fresh_until) if failed else fresh_until,
            epoch,
        )
        view.listings[kind] = listing
        return listing

    def _partial_s(self, entries: Sequence[Entry]) -> float:
        """How long a list without some targets is used again: not at all while a user may grant access at any moment."""
        return 0.0 if any(isinstance(entry.error, ConsentNeeded) for entry in entries) else self._settings.partial_ttl_s

    def _failure(self, entries: Sequence[Entry], failed: Sequence[int]) -> RpcError:
        """What to say when there is no list. A target's own words only where there is no other target, or it turned the caller away."""
        errors = [error for entry in entries if (error := entry.error) is not None]
        denied = [error for error in errors if error.denied]
        if self._targets == 1 or (denied and len(denied) == self._targets):
            return errors[0].with_traceback(None)
        asks = next((error for error in denied if isinstance(error, ConsentNeeded)), None)
        if asks is not None and not self._settings.fail_open:
            return asks.with_traceback(None)
        if len(failed) < self._targets or not self._settings.fail_open:
            return target_down(self._naming.targets[failed[0]])
        return RpcError(INTERNAL, "No target is available", status=502, reason="upstream")

    async def _merge(self, view: _View, kind: Kind, contents: Sequence[tuple[Content, bool]]) -> Merge:
        key: tuple[object, ...] = (kind.name, *((content.target, content.digest, content.cut, listed) for content, listed in contents))
        if self._allow is not None:
            key = (view.audience, *key)
        merge = self._merges.get(key)
        if merge is None:
            merge = await build_merge(kind, contents, None if self._allow is None else self._keep(self._allow, view.audience, kind.name))
            self._merges[key] = merge
            self._evict(view)
            if merge.duplicates:
                self._event("duplicates", -1, merge.duplicates)
        return merge

    def _keep(self, allow: Allow, audience: Audience, kind: KindName) -> Callable[[Item], Item | None]:
        """The policy as a filter: hidden items go, and tools lose an app whose resource is hidden."""

        def keep(item: Item) -> Item | None:
            if not allow(audience, kind, item.target, item.name):
                return None
            app = rewrite.app_uri(item.raw) if kind == "tools" else None
            if app is not None:
                place = self._uris.split(app)
                if not allow(audience, "resources", item.target, app if place is None else place[1]):
                    return Item(item.target, item.name, item.public, rewrite.without_app(item.raw), item.headers)
            return item

        return keep

    def _event(self, word: str, target: int, count: int) -> None:
        if word == "recovered":  # clients may have been given a list with a gap
            for change in self._changes.values():
                change.fire()
        if self._on_event is not None:
            self._on_event(word, target, count)
