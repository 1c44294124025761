"""What the person at the screen sees: one line that redraws itself on a terminal, plain lines elsewhere."""

import shutil
import sys
import time
from typing import TextIO

_BAR = 24


class Progress:
    """Counts single runs against their total."""

    def __init__(self, total: int, out: TextIO = sys.stderr) -> None:
        """`total`: how many single runs there will be."""
        self._total = total
        self._done = 0
        self._out = out
        self._redraws = out.isatty()
        self._started = time.monotonic()
        self._last = ""

    def begin(self, what: str) -> None:
        """A single run starts."""
        if self._redraws:
            self._draw(what)

    def end(self, what: str, outcome: str) -> None:
        """A single run is over, well or badly."""
        self._done += 1
        self._last = f"{what}: {outcome}"
        if self._redraws:
            self._draw("")
        else:
            print(f"[{self._done}/{self._total}] {self._last}", file=self._out, flush=True)

    def note(self, text: str) -> None:
        """A line that stays."""
        self.clear()
        print(text, file=self._out, flush=True)

    def clear(self) -> None:
        """Remove the moving line."""
        if self._redraws:
            print("\r\x1b[K", end="", file=self._out, flush=True)

    def _draw(self, now: str) -> None:
        filled = _BAR * self._done // max(1, self._total)
        left = ""
        if self._done:
            seconds = (time.monotonic() - self._started) / self._done * (self._total - self._done)
            left = f" {int(seconds) // 60}:{int(seconds) % 60:02d} left"
        text = f"[{'#' * filled}{'.' * (_BAR - filled)}] {self._done}/{self._total}{left} | {now or self._last}"
        width = shutil.get_terminal_size().columns - 1
        print(f"\r\x1b[K{text[:width]}", end="", file=self._out, flush=True)
