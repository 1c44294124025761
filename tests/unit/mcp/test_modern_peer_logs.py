"""Log messages of a modern program: nothing on the wire says whose they are."""

from __future__ import annotations

from typing import Any

import pytest

from agw.mcp.message import Message
from agw.mcp.modern_peer import ModernPeer
from agw.mcp.peer import Flight

NOTE = b'{"jsonrpc":"2.0","method":"notifications/message","params":{"level":"info","data":"x"}}'


class Ear:
    """A sink that only hears."""

    def __init__(self) -> None:
        self.heard: list[Message] = []

    def notification(self, note: Message) -> None:
        self.heard.append(note)


@pytest.mark.parametrize(("methods", "hears"), [
    (["tools/call"], [1]),
    (["subscriptions/listen", "tools/call"], [0, 1]),
    (["subscriptions/listen"], [0]),
    (["tools/call", "tools/call"], [0, 0]),
])
def test_only_the_one_call_that_can_be_meant_hears_it(methods: list[str], hears: list[int]) -> None:
    peer: Any = ModernPeer.__new__(ModernPeer)
    ears = [Ear() for _ in methods]
    peer.flights = {b"%d" % n: Flight(b"%d" % n, method, ear, None, None) for n, (method, ear) in enumerate(zip(methods, ears, strict=True))}  # type: ignore[arg-type]
    peer._stray(NOTE)
    assert [len(ear.heard) for ear in ears] == hears
