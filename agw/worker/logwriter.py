"""Writes access-log buffers in a thread of its own, so that a slow disk or pipe never stops the loop.

Rules:
- the loop only appends to a bounded queue; what does not fit is dropped and counted, never waited for;
- lines stay whole: files are opened for appending, and on a pipe nothing larger than PIPE_BUF is written at once;
- what cannot be opened or written costs lines, which are counted, and is tried again; it never costs a request;
- SIGUSR1 (through the supervisor) reopens the file, after log rotation.
"""

from __future__ import annotations

import logging
import os
import queue
import select
import stat
import threading
import time

from agw._fast.arena import Slot

log = logging.getLogger(__name__)

MAX_BUFFERS = 256
RETRY_S = 1.0
"""Pause between two tries to open what could not be opened."""


def open_log(path: str) -> int:
    """A descriptor to append to; "" is standard output. A pipe that nobody reads is an error, nothing to wait for."""
    if not path:
        return os.dup(1)
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NONBLOCK, 0o640)
    os.set_blocking(fd, True)
    return fd


class LogWriter:
    """One per worker; `put` is the sink of the worker's AccessLog."""

    def __init__(self, path: str, slot: Slot) -> None:
        self._wanted = path
        self._slot = slot
        self._queue: queue.Queue[bytes | str | None] = queue.Queue(MAX_BUFFERS)
        self._fd = -1
        self._pipe = False
        self._torn = False
        self._failing = False
        self._stale = True
        self._retry_at = 0.0
        self._thread = threading.Thread(target=self._run, name="access-log", daemon=True)
        self._thread.start()

    def put(self, data: bytes) -> None:
        """Take a buffer of whole lines; drops it when the writer is too far behind."""
        try:
            self._queue.put_nowait(data)
        except queue.Full:
            self._slot.add_dropped(data.count(b"\n"))

    def reopen(self, path: str | None = None) -> None:
        """Open the file anew, or another one, once everything put before is written."""
        self._wanted = self._wanted if path is None else path
        try:
            self._queue.put_nowait(self._wanted)
        except queue.Full:
            # Far behind: then as soon as there is a turn.
            self._stale = True

    def close(self, timeout_s: float = 2.0) -> None:
        """Write what is queued, at most for this long."""
        try:
            self._queue.put(None, timeout=timeout_s)
        except queue.Full:
            return
        self._thread.join(timeout_s)

    # ------------------------------------------------------------------------------------------- the thread

    def _run(self) -> None:
        self._open()
        while (item := self._queue.get()) is not None:
            if isinstance(item, str):
                self._open()
                continue
            if self._stale and time.monotonic() >= self._retry_at:
                self._open()
            self._write(item)

    def _open(self) -> None:
        self._stale = False
        try:
            fresh = open_log(self._wanted)
            pipe = stat.S_ISFIFO(os.fstat(fresh).st_mode)
        except OSError as error:
            # Until then lines go where they went before, if anywhere.
            self._stale = True
            self._retry_at = time.monotonic() + RETRY_S
            if not self._failing:
                self._failing = True
                log.error("cannot open the access log; trying again", extra={"path": self._wanted, "cause": str(error)})
            return
        if self._fd >= 0:
            os.close(self._fd)
        self._fd, self._pipe, self._torn = fresh, pipe, False
        if self._failing:
            self._failing = False
            log.info("the access log is open again", extra={"path": self._wanted})

    def _write(self, data: bytes) -> None:
        if self._torn:
            # The disk was full in the middle of a line: let the next one begin anew.
            data = b"\n" + data
        done = 0
        try:
            for piece in pieces(data, select.PIPE_BUF) if self._pipe else [data]:
                view = memoryview(piece)
                while view:
                    n = os.write(self._fd, view)
                    view = view[n:]
                    done += n
                    self._torn = False
        except OSError:
            # -1 is no descriptor: a log that was never opened loses its lines here as well.
            self._slot.add_dropped(data.count(b"\n", done) if done or not self._torn else data.count(b"\n") - 1)
            self._torn = self._torn if not done else data[done - 1 : done] != b"\n"


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
