"""Targets for the catalogue: lists held in memory, answered page by page, with every fault a test asks for."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from agw.mcp.federation.catalogue import Audience, Catalogue, Settings
from agw.mcp.federation.drain import BY_METHOD
from agw.mcp.federation.names import Mode, Naming
from agw.mcp.federation.uris import Uris

ME = Audience(b"me", b"v")
YOU = Audience(b"you", b"v")


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


class Target:
    """What one target lists, by method, and how it behaves."""

    def __init__(self, **lists: list[Any]) -> None:
        self.lists = {f"{kind}/list": items for kind, items in lists.items()}
        if "templates" in lists:
            self.lists["resources/templates/list"] = lists["templates"]
        self.page = 1000
        self.extra: dict[str, Any] = {}
        self.failing: Exception | None = None
        self.gate: asyncio.Event | None = None
        self.asked: list[tuple[str, bytes | None, Audience]] = []

    async def answer(self, method: str, cursor: bytes | None, audience: Audience) -> bytes:
        self.asked.append((method, cursor, audience))
        items = self.lists.get(method, [])
        if self.gate is not None:
            await self.gate.wait()
        if self.failing is not None:
            raise self.failing
        # The first cursor is the empty string, which is as good as any.
        start = 0 if cursor is None else int(json.loads(cursor) or self.page)
        result: dict[str, Any] = {BY_METHOD[method].array: items[start : start + self.page], **self.extra}
        if start + self.page < len(items):
            result["nextCursor"] = str(start + self.page) if start else ""
        return json.dumps(result, separators=(",", ":")).encode()


class Farm:
    """Targets and a catalogue over them."""

    def __init__(self, *targets: Target, mode: Mode = "conditional", settings: Settings = Settings(), **more: Any) -> None:  # noqa: B008
        self.targets = targets
        self.clock = Clock()
        names = [chr(ord("a") + index) for index in range(len(targets))]
        self.naming = Naming(names, mode)
        self.events: list[tuple[str, int, int]] = []
        self.catalogue = Catalogue(
            self.naming, Uris(names, self.naming.prefixed), self._fetch, self.clock, settings,
            on_event=lambda *event: self.events.append(event), **more,
        )

    async def _fetch(self, target: int, method: str, cursor: bytes | None, audience: Audience) -> bytes:
        return await self.targets[target].answer(method, cursor, audience)

    async def names(self, kind: Any = "tools", audience: Audience = ME) -> list[str]:
        return [item.public for item in (await self.catalogue.listing(kind, audience)).merge.items]

    async def result(self, kind: Any = "tools", audience: Audience = ME, modern: bool = False, cursor: str | None = None) -> Any:
        return json.loads(await self.catalogue.result(kind, audience, modern, cursor))

    def asked(self) -> int:
        return sum(len(target.asked) for target in self.targets)


def tools(*names: str, **more: Any) -> list[Any]:
    return [{"name": name, "inputSchema": {"type": "object"}, **more} for name in names]
