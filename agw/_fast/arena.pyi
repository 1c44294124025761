"""One worker's slot in the memory that supervisor, workers and helper share. agw/shm/layout.py draws the mapping.

Rules:
- one writer per slot (its worker; the supervisor while there is none), aligned 64-bit stores, no lock: a process may die
  at any instruction and leave every row valid;
- a row's key is written before its numbers count and is never taken back: counters outlive the worker;
- a full table puts the rest into its last row, with OVERFLOW_ID as the route. It never grows and never fails;
- names of tools get numbers once and for all, so that a row's key can hold one; numbers of targets are written anew.

The data path adds to rows through the C methods of arena.pxd (`row`, `observe`, `mcp_row`, `observe_row`, `tool`).
"""

from mmap import mmap
from typing import Final

from typing_extensions import disjoint_base

GAUGE_COUNT: Final[int]
"""Number of gauge and counter words in a slot; `agw.shm.layout.GAUGES` names them in order."""
DECISION_SHAPE: Final[tuple[int, int]]
"""(policies, results) of the counters of decisions, the last gauge words; `agw.shm.reader` names them in order."""
SERIES_BYTES: Final[int]
"""Octets of one request row: a multiple of a cache line."""
MCP_BYTES: Final[int]
"""Octets of one MCP row."""
TOOL_BYTES: Final[int]
"""Octets of one tool's name with its key."""
TARGET_BYTES: Final[int]
"""Octets of the numbers of one target with their key."""
TARGET_NUMBERS: Final[int]
"""Numbers per target; `agw.shm.layout.TARGET_GAUGES` names those in use, in order."""
OVERFLOW_ID: Final[int]
"""Route id of the row that takes what no longer fits; a label nobody gets."""

@disjoint_base
class Slot:
    """A slot's words and rows, for its writer and for readers.

    Readers see numbers while they change: two numbers of one row may be one request apart, none is ever torn.
    Owner:  keeps the mapping alive; the mapping must not be closed or resized while a slot exists.
    """

    def __init__(
        self, arena: mmap | bytearray | memoryview, index: int, head: int, gauges: int, series: int, series_cap: int, mcp: int, mcp_cap: int,
        tools: int, tool_cap: int, targets: int, target_cap: int,
    ) -> None:
        """Look at one slot of `arena`.

        Units:  head, gauges, series, mcp, tools, targets: octets from the start of `arena`, multiples of 8; caps: rows, powers
                of two for series and mcp, 2 to 1024 for tools.
        Errors: ValueError when the slot does not lie inside `arena` or a cap is not as it should be; BufferError when
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

        route (20 bits), backend (16): label ids; method: index into methods.METHODS; status: 0 to 1023; reason: index
        into forward.REASONS; size: octets of the response body.
        """

    def observe_mcp(self, route: int, backend: int, method: int, tool: int, outcome: int, duration_ns: int) -> None:
        """Count one MCP request. method: index into methods.RPC_METHODS; tool: from `find_tool`; outcome: index into outcome.OUTCOMES."""

    def observe_upstream(self, backend: int, method: int, outcome: int, duration_ns: int) -> None:
        """Count what one target took for one request. outcome: index into outcome.UPSTREAM_OUTCOMES."""

    def recall_tools(self) -> None:
        """Read the names that this worker's predecessors learned; once, when the worker begins."""

    def find_tool(self, label: int, name: bytes) -> int:
        """The number of a tool's name at the target with this label; 0 when it has none."""

    def learn_tool(self, label: int, name: bytes) -> int:
        """The same, with a new number for a new name; 1 when the table is full or the name too long. Callers must know that it exists."""

    def read_tools(self) -> dict[int, bytes]:
        """Names by number."""

    def set_targets(self, rows: list[tuple[int, tuple[int, ...]]]) -> None:
        """The numbers of all targets, (label, numbers) each; what does not fit is left out."""

    def read_targets(self) -> list[tuple[int, tuple[int, ...]]]:
        """(label, numbers) of the targets of this worker."""

    def set_gauge(self, index: int, value: int) -> None:
        """Store a gauge word by its index in `agw.shm.layout.GAUGES`. Errors: IndexError."""

    def add_gauge(self, index: int, value: int) -> None:
        """Add to a counter word. Errors: IndexError."""

    def read_series(self) -> list[tuple[int, int, int, int, int, int, int, int, tuple[int, ...]]]:
        """Rows that counted something, any order: (route, backend, method, status, reason, count, response octets,
        duration sum in ns, 15 bucket counts, not cumulative)."""

    def read_mcp(self) -> list[tuple[bool, int, int, int, int, int, int, tuple[int, ...]]]:
        """MCP rows in use, any order: (is it of `observe_upstream`?, route, backend, method, tool, outcome, duration sum in ns, 15 bucket counts)."""

    def read_gauges(self) -> list[int]:
        """All gauge and counter words, in the order of `agw.shm.layout.GAUGES`."""

    def reset_live_gauges(self) -> None:
        """Zero what a dead worker held open (connections, requests, sessions, targets); totals stay."""

    def add_dropped(self, lines: int) -> None:
        """Count access-log lines that could not be written. Called from the log writer's thread, the only writer of
        this word."""

    def set_lag(self, nanoseconds: int) -> None:
        """How late the loop's last tick was."""
