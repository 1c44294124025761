"""Limits that all workers of an instance keep together: rates, quotas, and how much at the same time.

    page 0     header        magic, version, geometry, workers, hash key
    page 1     names         512 rows: identity, name, and per worker four counters (admitted, refused, evictions, errors)
    ...        permits       rows of concurrency limits: fingerprint, claim, and one count per worker
    ...        slots         16 octets each: fingerprint of (limit, key), and a word; four to a cache line

The word of a rate is the theoretical arrival time of GCRA (CLOCK_MONOTONIC, ns); that of a quota is window and count.

Rules:
- no lock: a slot changes by one compare-and-swap of its 16 octets, a permit is a count with one writer, so a process may
  die at any instruction; what it held at the same time is taken back by `Table.release`;
- a key may be in either of two lines of four slots. A slot whose time has passed says "bucket full", as an empty one does;
- only when all eight are in use is the one nearest to full given to another key, which is counted: its key may get up to
  what it had used once more;
- two processes that insert the same key at once find each other when they look again: the lower slot takes both debts;
- a hash is keyed per table and mixed with the identity of its limit: nobody outside can choose which keys meet.
"""

from mmap import mmap
from typing import Any, Final

from typing_extensions import disjoint_base

KINDS: Final[tuple[str, ...]]
"""Names of the kinds, by number."""
NAME_ROWS: Final[int]
"""Limits that have counters of their own; the rest share the last row."""

def table_bytes(keys: int, workers: int, permits: int) -> int:
    """Octets of a table for `keys` live keys, and `permits` rows of concurrency limits (0: none)."""

@disjoint_base
class Table:
    """A view of the shared memory for one process.

    Owner:  keeps the mapping alive; it must not be closed or resized while a table exists.
    """

    def __init__(self, memory: mmap | bytearray | memoryview, worker: int = -1) -> None:
        """Look at a table that `format` has made. `worker` is whose counters this process writes.

        Errors: ValueError when magic, version or geometry are not those of a table of this size; BufferError when it is read-only.
        """

    @staticmethod
    def format(memory: mmap | bytearray | memoryview, keys: int, workers: int, permits: int, key: bytes) -> None:
        """Make a table of zeroed memory of `table_bytes` octets; the magic is written last. `key`: 16 octets for hashes."""

    @property
    def workers(self) -> int:
        """Workers it has room for."""

    @property
    def worker(self) -> int:
        """The worker whose cells this process writes; -1 for none."""

    @property
    def size(self) -> int:
        """Octets."""

    @property
    def slots_in_all(self) -> int:
        """Slots for keys."""

    def as_worker(self, worker: int) -> Table:
        """The same memory for another worker's process. Errors: IndexError."""

    def number_of(self, identity: bytes, name: str) -> int:
        """The row of counters of a limit, made when there is none. `identity`: 16 octets."""

    def release(self, worker: int) -> int:
        """Take back what a dead worker held of concurrency limits; returns how many. Only while no process is this worker."""

    def counts(self) -> list[tuple[str, int, int, int, int]]:
        """(name, admitted, refused, evictions, errors) of every limit, summed over workers."""

    def live(self, now_ns: int) -> int:
        """Slots of rates in use; for tests and the documentation, it reads the whole table."""

@disjoint_base
class Limit:
    """One limit of a route. Not to be shared between threads."""

    store: Any
    """None, or `decide(limit, key, cost, now_ns) -> int`: it shares the limit with other machines and says in how many ns to come
    again, 0 admits, -1 leaves the decision to this machine."""

    def __init__(
        self, table: Table, name: str, kind: str, burst: int, interval_ns: int = 0, window: str = "", identity: bytes = b"", counters: Table | None = None
    ) -> None:
        """kind: rate (a unit per `interval_ns`, `burst` at once), concurrency, quota (`burst` per `window`: hour, day, month).

        identity: 16 octets; limits with the same one share their buckets. counters: the table that counts its decisions, when it is
        another one. Errors: ValueError for what is out of range.
        """

    @property
    def name(self) -> str:
        """Name, a label of metrics."""

    @property
    def kind(self) -> int:
        """Index into KINDS."""

    @property
    def burst(self) -> int:
        """The most at once, or per window."""

    @property
    def interval(self) -> int:
        """ns per unit of a rate."""

    @property
    def window(self) -> int:
        """0 none, 1 hour, 2 day, 3 month."""

    @property
    def number(self) -> int:
        """Row of its counters."""

    @property
    def table(self) -> Table:
        """Where it is kept."""

    @property
    def last(self) -> tuple[int, int, int]:
        """(remaining units, ns until it is worth trying again, ns until the bucket is full) of the last decision."""

    def hash_key(self, key: bytes) -> int:
        """64 bits for the C methods: SipHash-1-3, keyed."""

    def spend(self, key: bytes, cost: int = 1) -> bool:
        """Take `cost` units for a key, now. A cost above `burst` counts as `burst`."""

    def spend_at(self, key: bytes, cost: int, now_ns: int, wall_ns: int) -> bool:
        """The same at another time. now_ns: CLOCK_MONOTONIC, wall_ns: since 1970, UTC."""

    def return_permit(self, key: bytes) -> None:
        """Concurrency: what `spend` took is over."""

    def refund(self, key: bytes, cost: int, now_ns: int) -> None:
        """Rate: `cost` units were not used after all."""

    def count_error(self) -> None:
        """One more time that key, cost or store failed."""

    def lines(self) -> bytes:
        """Header lines about the last decision: x-ratelimit-limit, -remaining, -reset, and retry-after of a refusal; seconds, rounded up."""
