"""Servers of an event loop in a thread of its own, for tests that block."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from typing import Any

from tests.kits.external import HttpPeer


class Peers:
    """An event loop in a thread, for servers that outlive the calls of a test."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self.thread.start()
        self.running: list[Any] = []

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(10)

    def http(self, handler: Any) -> HttpPeer:
        peer: HttpPeer = self.serve(HttpPeer(handler))
        return peer

    def serve(self, peer: Any) -> Any:
        self.run(peer.__aenter__())
        self.running.append(peer)
        return peer

    def end(self, peer: Any) -> None:
        """End one before the others."""
        self.running.remove(peer)
        self.run(peer.__aexit__())

    def close(self) -> None:
        for peer in self.running:
            self.run(peer.__aexit__())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(10)
        self.loop.close()
