"""Writes access-log buffers in a thread of its own, so that a slow disk or pipe never stops the loop.

Rules:
- the loop only appends to a bounded queue; what does not fit is dropped and counted, never waited for;
- lines stay whole: files are opened for appending, and on a pipe nothing larger than PIPE_BUF is written at once;
- SIGUSR1 (through the supervisor) reopens the file, after log rotation.
"""

from __future__ import annotations

import os
import queue
import select
import stat
import threading

from agw._fast.arena import Slot

MAX_BUFFERS = 256


class LogWriter:
    """One per worker; `put` is the sink of the worker's AccessLog."""

    def __init__(self, path: str, slot: Slot) -> None:
        self._path = path
        self._slot = slot
        self._queue: queue.Queue[bytes | None] = queue.Queue(MAX_BUFFERS)
        self._reopen = False
        self._fd = self._open()
        self._thread = threading.Thread(target=self._run, name="access-log", daemon=True)
        self._thread.start()

    def put(self, data: bytes) -> None:
        """Take a buffer of whole lines; drops it when the writer is too far behind."""
        try:
            self._queue.put_nowait(data)
        except queue.Full:
            self._slot.add_dropped(data.count(b"\n"))

    def reopen(self) -> None:
        """Open the file anew before the next write."""
        self._reopen = True

    def close(self, timeout_s: float = 2.0) -> None:
        """Write what is queued, at most for this long."""
        try:
            self._queue.put(None, timeout=timeout_s)
        except queue.Full:
            return
        self._thread.join(timeout_s)

    def _open(self) -> int:
        if not self._path:
            return os.dup(1)
        return os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o640)

    def _run(self) -> None:
        pipe = stat.S_ISFIFO(os.fstat(self._fd).st_mode)
        while (data := self._queue.get()) is not None:
            if self._reopen and self._path:
                self._reopen = False
                try:
                    fresh = self._open()
                except OSError:
                    fresh = -1
                if fresh >= 0:
                    os.close(self._fd)
                    self._fd = fresh
            try:
                for piece in pieces(data, select.PIPE_BUF) if pipe else (data,):
                    view = memoryview(piece)
                    while view:
                        view = view[os.write(self._fd, view) :]
            except OSError:
                self._slot.add_dropped(data.count(b"\n"))


def pieces(data: bytes, limit: int) -> list[bytes]:
    """Runs of whole lines of at most `limit` octets; a longer line is a piece of its own."""
    found, start = [], 0
    while start < len(data):
        end = len(data) if len(data) - start <= limit else data.rfind(b"\n", start, start + limit) + 1
        if end <= start:
            end = data.index(b"\n", start) + 1
        found.append(data[start:end])
        start = end
    return found
