"""Definitions of tools, watched: a tool that changes after somebody approved it is reported (a rug pull).

Only reports; what to do about it is a policy. The digest covers the meaning of a definition, not its spelling: members
are sorted before hashing. Bounded; beyond the bound new tools are not watched.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping

import orjson

from agw.mcp.federation.listing import Item, Pace

MAX_PINS = 100_000


def pin_of(raw_tool: bytes) -> str:
    """SHA-256 of a definition, in hex."""
    try:
        text = orjson.dumps(orjson.loads(raw_tool), option=orjson.OPT_SORT_KEYS)
    except (orjson.JSONDecodeError, TypeError):
        text = raw_tool
    return hashlib.sha256(text).hexdigest()


class Pins:
    """`on_change(target, public name, old pin, new pin)` when a definition is not the one pinned, or not the last one seen.

    `approved`: pins by public name, of definitions as the gateway serves them; they stay what they are.
    """

    def __init__(self, on_change: Callable[[int, str, str, str], None], approved: Mapping[str, str] | None = None) -> None:
        self._on_change = on_change
        self._approved = dict(approved or {})
        self._seen: dict[tuple[int, str], str] = {}
        self.changes = 0

    async def check(self, target: int, items: Iterable[Item]) -> None:
        """Compare a target's new list with what is known."""
        pace = Pace()
        for item in items:
            if pace.due():
                await pace.turn()
            pin = pin_of(item.raw)
            key = (target, item.public)
            before = self._seen.get(key)
            known = self._approved.get(item.public, before)
            if before is None and len(self._seen) >= MAX_PINS:
                continue
            self._seen[key] = pin
            if known is not None and known != pin and before != pin:
                self.changes += 1
                self._on_change(target, item.public, known, pin)
