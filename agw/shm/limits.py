"""The tables of all limits of an instance: made by the supervisor before it forks, so that every worker has them.

    rates      anonymous; rates, concurrency limits, and the counters of every limit; ends with the supervisor
    quotas     a file, when there is one: its pages are the kernel's, so what is counted survives kill -9 and restarts

Rules:
- a reload keeps both: buckets belong to the limit's identity, not to a configuration;
- the quota file is exactly as large as its table and its blocks are allocated, so that writing to it cannot fail; one of
  another version or geometry, or a torn one, is replaced by a new one, which is logged;
- the file belongs to the user of the process; a link is not followed;
- its table has its own hash key, in its header, and no counters.
"""

from __future__ import annotations

import logging
import mmap
import os
import stat

from agw._fast.limiter import Limit, Table, table_bytes

log = logging.getLogger(__name__)

PERMIT_ROWS = 65_536
"""Keys of concurrency limits that hold something at the same time."""
FILE_NAME = "limits.quota"


class QuotaFileError(Exception):
    """The quota file cannot be used; the text says why."""


class SharedLimits:
    """Both tables, as one process sees them."""

    def __init__(self, rates: Table, quotas: Table, *, lasting: bool = False) -> None:
        self.rates = rates
        self.quotas = quotas
        self.lasting = lasting
        """Do quotas survive a restart?"""

    def as_worker(self, worker: int) -> SharedLimits:
        """The tables for a worker's process; it counts in its own cells."""
        return SharedLimits(self.rates.as_worker(worker), self.quotas.as_worker(0), lasting=self.lasting)

    def limit(self, name: str, kind: str, burst: int, interval_ns: int, window: str, identity: bytes) -> Limit:
        """A limit in the table that it belongs to. Errors: ValueError."""
        return Limit(self.quotas if kind == "quota" else self.rates, name, kind, burst, interval_ns, window, identity, self.rates)

    def release(self, worker: int) -> int:
        """Take back the permits of a dead worker; returns how many."""
        return self.rates.release(worker)

    def counts(self) -> list[tuple[str, int, int, int, int]]:
        """(name, admitted, refused, evictions, errors) of every limit since the supervisor started."""
        return self.rates.counts()


def make_limits(max_keys: int, workers: int, quota_file: str = "", key: bytes = b"") -> SharedLimits:
    """New tables for `max_keys` keys each; quotas in `quota_file` if it is not "". Errors: QuotaFileError.

    key: 16 octets that hashes depend on, for machines that share a store (which then also keeps the quotas); b"" makes one.
    """
    rates = mmap.mmap(-1, table_bytes(max_keys, workers, PERMIT_ROWS))
    Table.format(rates, max_keys, workers, PERMIT_ROWS, key or os.urandom(16))
    if key or not quota_file:
        anonymous = mmap.mmap(-1, table_bytes(max_keys, 1, 0))
        Table.format(anonymous, max_keys, 1, 0, key or os.urandom(16))
        return SharedLimits(Table(rates), Table(anonymous), lasting=bool(key))
    return SharedLimits(Table(rates), open_quotas(quota_file, max_keys), lasting=True)


def open_quotas(path: str, max_keys: int) -> Table:
    """The table in a file, made when there is none or a bad one. Errors: QuotaFileError."""
    size = table_bytes(max_keys, 1, 0)
    try:
        table = _kept(path, size)
        return table if table is not None else _made(path, size, max_keys)
    except OSError as error:
        raise QuotaFileError(f"cannot use the quota file {path}: {error.strerror}") from None


def _kept(path: str, size: int) -> Table | None:
    try:
        fd = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        return None
    try:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode):
            raise QuotaFileError(f"the quota file {path} is no regular file")
        if found.st_size == size:
            # Blocks that are missing, as after a copy that left out zeroes, would be a fatal signal later.
            os.posix_fallocate(fd, 0, size)
            try:
                return Table(mmap.mmap(fd, size))
            except ValueError:
                pass
    finally:
        os.close(fd)
    log.error("the quota file is torn, or of another version or size; quotas begin anew", extra={"file": path, "octets": found.st_size, "expected": size})
    return None


def _made(path: str, size: int, max_keys: int) -> Table:
    fresh = f"{path}.{os.urandom(4).hex()}"
    fd = os.open(fresh, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        try:
            os.posix_fallocate(fd, 0, size)
            memory = mmap.mmap(fd, size)
        finally:
            os.close(fd)
        Table.format(memory, max_keys, 1, 0, os.urandom(16))
        memory.flush(0, mmap.PAGESIZE)
        os.rename(fresh, path)
    except BaseException:
        os.unlink(fresh)
        raise
    return Table(memory)
