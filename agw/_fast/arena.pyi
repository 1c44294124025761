"""One worker's slot in the memory that supervisor, workers and helper share. agw/shm/layout.py draws the mapping.

Rules:
- one writer per slot (its worker; the supervisor while there is none), aligned 64-bit stores, no lock: a process may die
  at any instruction and leave every row valid;
- a row's key is written before its numbers count and is never taken back: counters outlive the worker;
- a full table puts the rest into its last row, with OVERFLOW_ID as the route. It never grows and never fails.

The data path adds to rows through the C methods of arena.pxd (`row`, `observe`, `count_mcp`).
"""

from mmap import mmap
from typing import Final

from typing_extensions import disjoint_base

GAUGE_COUNT: Final[int]
"""Number of gauge and counter words in a slot; `agw.shm.layout.GAUGES` names them in order."""
SERIES_BYTES: Final[int]
"""Octets of one request row: a multiple of a cache line."""
MCP_BYTES: Final[int]
"""Octets of one MCP row."""
OVERFLOW_ID: Final[int]
"""Route id of the row that takes what no longer fits; a label nobody gets."""

@disjoint_base
class Slot:
    """A slot's words and rows, for its writer and for readers.

    Readers see numbers while they change: two numbers of one row may be one request apart, none is ever torn.
    Owner:  keeps the mapping alive; the mapping must not be closed or resized while a slot exists.
    """

    def __init__(self, arena: mmap | bytearray | memoryview, index: int, head: int, gauges: int, series: int, series_cap: int, mcp: int, mcp_cap: int) -> None:
        """Look at one slot of `arena`.

        Units:  head, gauges, series, mcp: octets from the start of `arena`, multiples of 8; caps: rows, powers of two.
        Errors: ValueError when the slot does not lie inside `arena` or a cap is no power of two; BufferError when
                `arena` is read-only.
        """

    @property
    def index(self) -> int:
        """The slot's number, from 0."""

    def get(self, word: int) -> int:
        """Head word `word` (`agw.shm.layout.W_*`)."""

    def set(self, word: int, value: int) -> None:
        """Store a head word. Errors: OverflowError outside 0 to 2**64-1."""

    def observe_request(self, route: int, backend: int, method: int, status: int, reason: int, duration_ns: int, size: int) -> None:
        """Count one request, as an exchange does at its end.

        route (20 bits), backend (16): label ids; method: index into exchange.METHODS; status: 0 to 1023; reason: index
        into forward.REASONS; size: octets of the response body.
        """

    def observe_mcp(self, route: int, backend: int, method: int) -> None:
        """Count one MCP request; `method` is an index into exchange.RPC_METHODS."""

    def read_series(self) -> list[tuple[int, int, int, int, int, int, int, int, tuple[int, ...]]]:
        """Rows that counted something, any order: (route, backend, method, status, reason, count, response octets,
        duration sum in ns, 15 bucket counts, not cumulative)."""

    def read_mcp(self) -> list[tuple[int, int, int, int]]:
        """MCP rows in use, any order: (route, backend, method, count)."""

    def read_gauges(self) -> list[int]:
        """All gauge and counter words, in the order of `agw.shm.layout.GAUGES`."""

    def reset_live_gauges(self) -> None:
        """Zero what a dead worker held open (connections, requests in flight, lag); totals stay."""

    def add_dropped(self, lines: int) -> None:
        """Count access-log lines that could not be written. Called from the log writer's thread, the only writer of
        this word."""

    def set_lag(self, nanoseconds: int) -> None:
        """How late the loop's last tick was."""
