"""Definitions that change after they were seen or approved."""

from __future__ import annotations

import asyncio

from agw.mcp.federation.listing import Item
from agw.mcp.federation.pins import Pins, pin_of


def check(pins: Pins, *raws: bytes) -> None:
    asyncio.run(pins.check(0, [Item(0, f"t{n}", f"t{n}", raw) for n, raw in enumerate(raws)]))


def test_a_change_is_told_once() -> None:
    told: list[tuple[int, str, str, str]] = []
    pins = Pins(lambda *what: told.append(what))
    old, new = b'{"name":"t","description":"a"}', b'{"name":"t","description":"b"}'
    check(pins, old)
    check(pins, b'{"description" : "a", "name":"t"}')
    assert told == []
    check(pins, new)
    check(pins, new)
    assert told == [(0, "t0", pin_of(old), pin_of(new))]
    assert pins.changes == 1


def test_an_approved_definition_is_compared_at_first_sight() -> None:
    told: list[str] = []
    pins = Pins(lambda target, name, old, new: told.append(name), {"t0": pin_of(b'{"x":1}'), "t1": pin_of(b"{}")})
    check(pins, b'{"x":1}', b'{"x":1}', b"{}")
    assert told == ["t1"]


def test_what_cannot_be_read_is_pinned_by_its_octets() -> None:
    assert pin_of(b'"\\ud800"') != pin_of(b'"\\ud801"')
