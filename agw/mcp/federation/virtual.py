"""Virtual servers: a view of a backend that offers picked tools, renamed and described anew.

Rules:
- the tools stand in the order of the plan; one whose target is down or no longer has it is left out of the list;
- a pick names its target, so it is offered even where, without prefixes, an earlier target hides it from the backend's list;
- a name resolves from the plan alone, so a call costs one look-up and needs no list;
- everything a tool says besides name, title and description passes as it is.

The plan's structs are taken by shape: `VirtualServerPlan(name, tools)`, `VirtualToolPlan(target, tool, name, title,
description)`; an empty name means the tool's own.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol
from weakref import WeakKeyDictionary

from agw.mcp import message
from agw.mcp.federation.drain import KINDS
from agw.mcp.federation.listing import Item, Listing, Merge, digest_of
from agw.mcp.federation.names import Naming, Problems, name_problems


class PickedTool(Protocol):
    """One tool of a virtual server."""

    @property
    def target(self) -> str: ...
    @property
    def tool(self) -> str: ...
    @property
    def name(self) -> str: ...
    @property
    def title(self) -> str | None: ...
    @property
    def description(self) -> str | None: ...


class PickedTools(Protocol):
    """A virtual server."""

    @property
    def name(self) -> str: ...
    @property
    def tools(self) -> Sequence[PickedTool]: ...


def virtual_problems(servers: Iterable[PickedTools], targets: Sequence[str]) -> Problems:
    """Check plans at load: unknown targets, names that are given twice or cannot be used."""
    errors: list[str] = []
    warnings: list[str] = []
    names: set[str] = set()
    for server in servers:
        if server.name in names or not server.name or "/" in server.name:
            errors.append(f"virtual server {server.name!r}: names are unique, not empty and hold no '/'")
        names.add(server.name)
        errors.extend(f"virtual server {server.name!r}: no target {tool.target!r}" for tool in server.tools if tool.target not in targets)
        found = name_problems(tool.name or tool.tool for tool in server.tools)
        errors.extend(f"virtual server {server.name!r}: {problem}" for problem in found.errors)
        warnings.extend(f"virtual server {server.name!r}: {problem}" for problem in found.warnings)
    return Problems(errors, warnings)


def _shown(raw: bytes, tool: PickedTool) -> bytes:
    """The definition with what the plan says."""
    parts = message.members(raw)
    parts["name"] = message.raw(tool.name or tool.tool)
    if tool.title is not None:
        parts["title"] = message.raw(tool.title)
    if tool.description is not None:
        parts["description"] = message.raw(tool.description)
    return message.encode(parts)


class View:
    """One virtual server over the tools of a backend."""

    def __init__(self, plan: PickedTools, naming: Naming) -> None:
        self.name = plan.name
        index = {name: target for target, name in enumerate(naming.targets)}
        self._picked = [(index[tool.target], tool) for tool in plan.tools if tool.target in index]
        self._by_name = {tool.name or tool.tool: (target, tool.tool) for target, tool in self._picked}
        self._public = {tool.name or tool.tool: naming.public(target, tool.tool) for target, tool in self._picked}
        self._merges: WeakKeyDictionary[Merge, Merge] = WeakKeyDictionary()

    @property
    def targets(self) -> list[int]:
        """The targets it has tools of, in configuration order."""
        return sorted({target for target, _ in self._picked})

    def resolve(self, name: str) -> tuple[int, str] | None:
        """Target and own name of a tool of this server; None when it has no such tool."""
        return self._by_name.get(name)

    def public(self, name: str) -> str | None:
        """The name the tool has in the backend's own list; without prefixes that may be another target's tool there."""
        return self._public.get(name)

    def apply(self, listing: Listing) -> Listing:
        """The list of this server; made once per list of the backend."""
        merge = self._merges.get(listing.merge)
        if merge is None:
            merge = self._merges[listing.merge] = self._pick(listing.merge)
        return Listing(merge, listing.failed, listing.ttl_until, listing.public, listing.valid_until, listing.epoch)

    def _pick(self, whole: Merge) -> Merge:
        items: list[Item] = []
        for target, tool in self._picked:
            name = tool.name or tool.tool
            found = whole.pick(target, tool.tool, self._public[name])
            if found is not None:
                items.append(Item(target, tool.tool, name, _shown(found.raw, tool), found.headers))
        return Merge(KINDS["tools"], items, {item.public: item for item in items}, {}, {}, digest_of(items))
