"""The journal of a worker's place: session state that must outlive the worker.

A session id holds what was settled at the handshake; what changes later (log level, subscriptions, upstream sessions that
were made anew) is written here, and the successor of a crashed worker reads it back. The octets live in a memfd that the
supervisor made before it forked, one per slot: they survive a worker, not the supervisor.

Rules:
- one writer at a time: the worker in the slot, on its loop; a successor starts after its predecessor was reaped;
- a process may die between any two instructions: a record is valid when its length and checksum are, what follows the
  last valid record is cut off, and the only word that is ever overwritten fits into one page;
- everything is bounded: a record, the living records, the log. What does not fit is not kept, and `put` says so;
- no pauses: each `put` moves a few of the oldest living records to the end, so the log follows what lives.

    0      header: magic, where the log starts, checksum of both
    start  records: length, CRC-32, msgpack of [session uuid, state or nil for a dropped one]
    end    end of file

Offsets only grow; what lies before the start is given back to the kernel.
"""

from __future__ import annotations

import logging
import mmap
import os
import struct
import zlib
from collections import deque
from collections.abc import Iterator

import msgspec

log = logging.getLogger(__name__)

MAX_RECORD = 64 * 1024
MAX_LIVE = 16 * 1024 * 1024
MAX_SESSIONS = 100_000
SLACK = 256 * 1024
"""Octets of dead records that are not worth moving living ones for."""
STEP = 16
"""Records looked at by one `put`, at least."""

_MAGIC = b"agwjrnl1"
_HEADER = struct.Struct("<8sQI")
_RECORD = struct.Struct("<II")
_FIRST = mmap.PAGESIZE
_GIVE_BACK = 256 * 1024


def make_journal(slot: int) -> int:
    """The descriptor of a new, empty journal. Errors: OSError."""
    return os.memfd_create(f"agw-journal-{slot}", os.MFD_CLOEXEC)


class Journal:
    """The journal behind a descriptor, as its predecessor left it. The descriptor stays the caller's.

    Errors: none for whatever the file holds; what makes no sense is an empty journal.
    """

    def __init__(self, fd: int, *, max_record: int = MAX_RECORD, max_live: int = MAX_LIVE, max_sessions: int = MAX_SESSIONS, slack: int = SLACK) -> None:
        self._fd = fd
        self._max_record = max_record
        self._max_live = max_live
        self._max_sessions = max_sessions
        self._slack = slack
        self._index: dict[bytes, tuple[int, int]] = {}
        """By session: offset and size of its living record."""
        self._order: deque[tuple[bytes, int, int]] = deque()
        """Every record of the log: session, offset, size."""
        self._live = 0
        self._start = self._end = self._given_back = _FIRST
        self._recover()

    def __len__(self) -> int:
        return len(self._index)

    @property
    def live_bytes(self) -> int:
        """Octets of living records."""
        return self._live

    @property
    def log_bytes(self) -> int:
        """Octets of all records, dead ones included."""
        return self._end - self._start

    def put(self, uuid: bytes, state: bytes) -> bool:
        """Keep the state of a session, in place of what was kept. False: it does not fit, and nothing is kept of it now."""
        record = _encode(uuid, state)
        _, old = self._index.get(uuid, (0, 0))
        fits = len(record) <= self._max_record and self._live - old + len(record) <= self._max_live and (old or len(self._index) < self._max_sessions)
        if fits and self._append(uuid, record):
            self._forget(uuid)
            self._index[uuid] = (self._end - len(record), len(record))
            self._live += len(record)
            self._clean(len(record))
            return True
        self.drop(uuid)
        return False

    def drop(self, uuid: bytes) -> None:
        """The session is over; a second call does nothing."""
        if uuid not in self._index:
            return
        record = _encode(uuid, None)
        self._forget(uuid)
        if not self._index:
            self._reset()
        elif self._append(uuid, record):
            self._clean(len(record))

    def load(self) -> dict[bytes, bytes]:
        """What is kept now: state by session."""
        found = {}
        for uuid, (offset, size) in self._index.items():
            _, state = _decoder.decode(os.pread(self._fd, size, offset)[_RECORD.size :])
            found[uuid] = state or b""
        return found

    # ---------------------------------------------------------------------------------------------- writing

    def _append(self, uuid: bytes, record: bytes) -> bool:
        view = memoryview(record)
        try:
            while view:
                view = view[os.pwrite(self._fd, view, self._end + len(record) - len(view)) :]
        except OSError as error:
            # No memory left for it. Half a record would hide every later one.
            log.warning("the session journal cannot grow", extra={"cause": error.strerror, "bytes": self.log_bytes})
            os.ftruncate(self._fd, self._end)
            return False
        self._order.append((uuid, self._end, len(record)))
        self._end += len(record)
        return True

    def _forget(self, uuid: bytes) -> None:
        self._live -= self._index.pop(uuid, (0, 0))[1]

    def _clean(self, written: int) -> None:
        """Move the start: past dead records, and living ones to the end."""
        start, seen, passed = self._start, 0, 0
        while self._order and self._end - start > 2 * self._live + self._slack:
            within = seen < STEP or passed < 4 * written
            if not within and self._end - start <= 4 * self._max_live + self._slack:
                break
            uuid, offset, size = self._order[0]
            if self._index.get(uuid) == (offset, size):
                if not self._append(uuid, os.pread(self._fd, size, offset)):
                    break
                self._index[uuid] = (self._end - size, size)
            # A dropped session's mark goes, too: nothing older than it is left.
            self._order.popleft()
            start = offset + size
            seen += 1
            passed += size
        if start != self._start:
            self._move_start(start)

    def _move_start(self, start: int) -> None:
        # One write within one page: a kill lets it happen or not.
        os.pwrite(self._fd, _header(start), 0)
        self._start = start
        until = start // _GIVE_BACK * _GIVE_BACK
        begin = -(-self._given_back // _GIVE_BACK) * _GIVE_BACK
        if until > begin:
            try:
                with mmap.mmap(self._fd, until - begin, offset=begin) as area:
                    area.madvise(mmap.MADV_REMOVE)
                self._given_back = until
            except OSError as error:
                # Tried again with the next part of the log.
                log.warning("the session journal cannot shrink", extra={"cause": error.strerror})

    def _reset(self) -> None:
        # Cut first: a start behind the end of the file means an empty log.
        self._index.clear()
        self._order.clear()
        self._live = 0
        os.ftruncate(self._fd, _FIRST)
        os.pwrite(self._fd, _header(_FIRST), 0)
        self._start = self._end = self._given_back = _FIRST

    # --------------------------------------------------------------------------------------------- recovery

    def _recover(self) -> None:
        head = os.pread(self._fd, _HEADER.size, 0)
        start = _HEADER.unpack(head)[1] if len(head) == _HEADER.size else 0
        if start < _FIRST or head != _header(start) or start > os.fstat(self._fd).st_size:
            self._reset()
            return
        self._start = self._end = start
        for uuid, size, alive in self._scan(start):
            self._forget(uuid)
            self._order.append((uuid, self._end, size))
            if alive:
                self._index[uuid] = (self._end, size)
                self._live += size
            self._end += size
        # A later, shorter record must not leave the rest of a torn one behind it.
        os.ftruncate(self._fd, self._end)
        if not self._index:
            self._reset()

    def _scan(self, start: int) -> Iterator[tuple[bytes, int, bool]]:
        """Session, size and liveliness of each valid record, up to the first that is none."""
        begin = start // mmap.ALLOCATIONGRANULARITY * mmap.ALLOCATIONGRANULARITY
        length = os.fstat(self._fd).st_size - begin
        if length <= 0:
            return
        at = start - begin
        with mmap.mmap(self._fd, length, offset=begin, access=mmap.ACCESS_READ) as area:
            while at + _RECORD.size <= length:
                size, checksum = _RECORD.unpack_from(area, at)
                payload = area[at + _RECORD.size : at + _RECORD.size + size] if 0 < size <= self._max_record else b""
                if len(payload) != size or not size or zlib.crc32(payload) != checksum:
                    return
                try:
                    uuid, state = _decoder.decode(payload)
                except msgspec.DecodeError:
                    return
                yield uuid, _RECORD.size + size, state is not None
                at += _RECORD.size + size


_decoder = msgspec.msgpack.Decoder(tuple[bytes, bytes | None])


def _header(start: int) -> bytes:
    body = struct.pack("<8sQ", _MAGIC, start)
    return body + struct.pack("<I", zlib.crc32(body))


def _encode(uuid: bytes, state: bytes | None) -> bytes:
    payload = msgspec.msgpack.encode((uuid, state))
    return _RECORD.pack(len(payload), zlib.crc32(payload)) + payload
