# Shared memory between supervisor, workers and helper. agw/shm/layout.py draws it; offsets come from there.

from libc.stdint cimport int64_t, uint32_t, uint64_t

from agw._fast.router cimport ByteMap

cdef enum:
    BUCKETS = 15            # 14 upper bounds and +Inf

cdef enum:
    DECISION_POLICIES = 16
    DECISION_RESULTS = 8

cdef enum:
    # Gauge and counter indexes inside a slot; names in agw/shm/layout.py, same order.
    G_CONNECTIONS = 0
    G_CONNECTIONS_TOTAL
    G_RECEIVED_BYTES
    G_SENT_BYTES
    G_UPSTREAM_CONNECTIONS
    G_UPSTREAM_CONNECTS
    G_UPSTREAM_CONNECT_FAILURES
    G_UPSTREAM_REUSES
    G_RETRIES
    G_IN_FLIGHT
    G_EXCHANGES
    G_LOG_DROPPED
    G_PARSE_ERRORS
    G_ACCEPT_PAUSED
    G_RELAY_PAUSES
    G_LOOP_LAG_NS
    G_INTERNAL_ERRORS
    G_TLS_HANDSHAKES
    G_TLS_HANDSHAKE_FAILURES
    G_MCP_SESSIONS
    G_MCP_REPLICAS
    G_MCP_STREAMS
    G_MCP_PARKED
    G_MCP_CHILDREN_STARTED
    G_MCP_CHILDREN_RESTARTED
    G_MCP_CHILDREN_FAILED
    G_DECISIONS             # of policies: G_DECISIONS + policy * DECISION_RESULTS + result, named in agw/shm/reader.py
    G_COUNT = G_DECISIONS + 128

ctypedef struct Series:
    uint64_t key            # 0 = free; written last, so a reader never sees a half-made row
    uint64_t count
    uint64_t response_bytes
    uint64_t duration_sum_ns
    uint64_t buckets[15]
    uint64_t pad[5]         # to 192 octets: three cache lines

ctypedef struct McpSeries:
    uint64_t key            # bit 62: what a target took, else what a caller got; see mcp_row
    uint64_t duration_sum_ns
    uint64_t buckets[15]    # their sum is the count
    uint64_t pad[7]         # to 192 octets

cdef enum:
    TARGET_WORDS = 15       # numbers of one target; names in agw/shm/layout.py
    TOOL_ROOM = 152         # octets of a tool's name
    TOOL_OTHER = 1          # the number of every name that found no place; 0 is no name

ctypedef struct ToolName:
    uint64_t key            # top bit, label of the target, length; written last
    char text[152]

ctypedef struct TargetRow:
    uint64_t key            # top bit and label
    uint64_t words[15]

cdef class Slot:
    cdef object arena
    cdef readonly int index
    cdef uint64_t* head
    cdef uint64_t* gauges
    cdef Series* series
    cdef McpSeries* mcp
    cdef uint32_t series_mask
    cdef uint32_t mcp_mask
    cdef ToolName* tools
    cdef uint32_t tool_cap
    cdef uint32_t tool_count        # of the rows in use, the two that name nothing included
    cdef ByteMap tool_map           # (label, name) -> number; None until the worker begins
    cdef TargetRow* targets
    cdef uint32_t target_cap

    cdef Series* row(self, uint32_t route, uint32_t backend, uint32_t method, uint32_t status, uint32_t reason) noexcept nogil
    cdef void observe(self, Series* row, int64_t duration_ns, uint64_t size) noexcept nogil
    cdef McpSeries* mcp_row(self, bint upstream, uint32_t route, uint32_t backend, uint32_t method, uint32_t tool, uint32_t outcome) noexcept nogil
    cdef void observe_row(self, McpSeries* row, int64_t duration_ns) noexcept nogil
    cdef int tool(self, uint32_t label, const char* name, uint32_t n) noexcept
