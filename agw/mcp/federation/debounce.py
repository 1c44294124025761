"""Bursts of changes told as few: the first at once, those within the window after it together at its end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class Debounce:
    """Calls `tell` at most once per `window_s` seconds, and always after the last `fire`."""

    def __init__(self, window_s: float, tell: Callable[[], None]) -> None:
        self._window_s = window_s
        self._tell = tell
        self._timer: asyncio.TimerHandle | None = None
        self._again = False
        self._closed = False

    def fire(self) -> None:
        """Something changed. Must be called with the event loop running."""
        if self._closed:
            return
        if self._timer is not None:
            self._again = True
            return
        self._timer = asyncio.get_running_loop().call_later(self._window_s, self._over)
        self._tell()

    def _over(self) -> None:
        self._timer = None
        if self._again:
            self._again = False
            self.fire()

    def close(self) -> None:
        """Tell nothing any more."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
