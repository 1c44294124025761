# Shared memory between supervisor, workers and helper. agw/shm/layout.py draws it; offsets come from there.

from libc.stdint cimport int64_t, uint32_t, uint64_t

cdef enum:
    BUCKETS = 15            # 14 upper bounds and +Inf

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
    G_COUNT

ctypedef struct Series:
    uint64_t key            # 0 = free; written last, so a reader never sees a half-made row
    uint64_t count
    uint64_t response_bytes
    uint64_t duration_sum_ns
    uint64_t buckets[15]
    uint64_t pad[5]         # to 192 octets: three cache lines

ctypedef struct McpSeries:
    uint64_t key
    uint64_t count

cdef class Slot:
    cdef object arena
    cdef readonly int index
    cdef uint64_t* head
    cdef uint64_t* gauges
    cdef Series* series
    cdef McpSeries* mcp
    cdef uint32_t series_mask
    cdef uint32_t mcp_mask

    cdef Series* row(self, uint32_t route, uint32_t backend, uint32_t method, uint32_t status, uint32_t reason) noexcept nogil
    cdef void observe(self, Series* row, int64_t duration_ns, uint64_t size) noexcept nogil
    cdef void count_mcp(self, uint32_t route, uint32_t backend, uint32_t method) noexcept nogil
