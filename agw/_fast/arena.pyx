# See arena.pyi for the manual and agw/shm/layout.py for the drawing.
#
# Rules of this file:
# - one writer per slot, aligned 64-bit stores, no lock: a worker may die at any instruction and leave the rows valid;
# - rows are never freed: counters survive the worker that wrote them, and its successor goes on in the same slot;
# - a full table puts everything else into the last row ("other"), it never grows and never fails.

from libc.stdint cimport int64_t, uint32_t, uint64_t
from cpython.buffer cimport PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer

cdef int64_t BOUNDS[14]


def _fill_bounds():
    for i, ms in enumerate((1, 5, 10, 25, 50, 100, 250, 500, 1000, 2500, 5000, 10000, 30000, 80000)):
        BOUNDS[i] = ms * 1000000


_fill_bounds()

GAUGE_COUNT = G_COUNT
SERIES_BYTES = sizeof(Series)
MCP_BYTES = sizeof(McpSeries)
OVERFLOW_ID = 0xFFFFF


cdef inline uint64_t mix(uint64_t x) noexcept nogil:
    x ^= x >> 33
    x *= <uint64_t> 0xFF51AFD7ED558CCD
    x ^= x >> 33
    return x


cdef class Slot:
    def __init__(self, arena, int index, Py_ssize_t head, Py_ssize_t gauges, Py_ssize_t series, int series_cap,
                 Py_ssize_t mcp, int mcp_cap):
        cdef Py_buffer view
        PyObject_GetBuffer(arena, &view, PyBUF_WRITABLE)
        if mcp + mcp_cap * <Py_ssize_t> sizeof(McpSeries) > view.len or series_cap & (series_cap - 1) or mcp_cap & (mcp_cap - 1):
            PyBuffer_Release(&view)
            raise ValueError("slot outside the arena")
        self.arena = arena          # the mapping is never closed while a slot lives
        self.index = index
        self.head = <uint64_t*> (<char*> view.buf + head)
        self.gauges = <uint64_t*> (<char*> view.buf + gauges)
        self.series = <Series*> (<char*> view.buf + series)
        self.mcp = <McpSeries*> (<char*> view.buf + mcp)
        self.series_mask = series_cap - 1
        self.mcp_mask = mcp_cap - 1
        PyBuffer_Release(&view)

    cdef Series* row(self, uint32_t route, uint32_t backend, uint32_t method, uint32_t status, uint32_t reason) noexcept nogil:
        # Key: route 20 bits, backend 16, method 4, status 10, reason 6, and a set top bit.
        cdef uint64_t key = (<uint64_t> 1 << 63) | (<uint64_t> (route & 0xFFFFF) << 36) | (<uint64_t> (backend & 0xFFFF) << 20) \
            | ((method & 15) << 16) | ((status & 1023) << 6) | (reason & 63)
        cdef uint32_t i = <uint32_t> mix(key) & self.series_mask
        cdef uint32_t probes = 0
        while probes < 64:
            if self.series[i].key == key:
                return &self.series[i]
            if self.series[i].key == 0 and i != self.series_mask:
                self.series[i].key = key
                return &self.series[i]
            i = (i + 1) & self.series_mask
            probes += 1
        # Table full: one row that says so.
        self.series[self.series_mask].key = (<uint64_t> 1 << 63) | (<uint64_t> 0xFFFFF << 36) | (<uint64_t> 0xFFFF << 20)
        return &self.series[self.series_mask]

    cdef void observe(self, Series* row, int64_t duration_ns, uint64_t size) noexcept nogil:
        cdef int b = 0
        while b < 14 and duration_ns > BOUNDS[b]:
            b += 1
        row.count += 1
        row.response_bytes += size
        row.duration_sum_ns += <uint64_t> duration_ns
        row.buckets[b] += 1

    cdef void count_mcp(self, uint32_t route, uint32_t backend, uint32_t method) noexcept nogil:
        cdef uint64_t key = (<uint64_t> 1 << 63) | (<uint64_t> (route & 0xFFFFF) << 36) | (<uint64_t> (backend & 0xFFFF) << 20) | (method & 0xFFFF)
        cdef uint32_t i = <uint32_t> mix(key) & self.mcp_mask
        cdef uint32_t probes = 0
        while probes < 64:
            if self.mcp[i].key == key:
                self.mcp[i].count += 1
                return
            if self.mcp[i].key == 0 and i != self.mcp_mask:
                self.mcp[i].key = key
                self.mcp[i].count = 1
                return
            i = (i + 1) & self.mcp_mask
            probes += 1
        self.mcp[self.mcp_mask].key = (<uint64_t> 1 << 63) | (<uint64_t> 0xFFFFF << 36) | (<uint64_t> 0xFFFF << 20)
        self.mcp[self.mcp_mask].count += 1

    def read_series(self):
        cdef uint32_t i
        cdef uint64_t k
        cdef Series* r
        rows = []
        for i in range(self.series_mask + 1):
            r = &self.series[i]
            k = r.key
            if k and r.count:
                rows.append((k >> 36 & 0xFFFFF, k >> 20 & 0xFFFF, k >> 16 & 15, k >> 6 & 1023, k & 63, r.count,
                             r.response_bytes, r.duration_sum_ns, tuple([r.buckets[b] for b in range(15)])))
        return rows

    def read_mcp(self):
        cdef uint32_t i
        cdef uint64_t k
        rows = []
        for i in range(self.mcp_mask + 1):
            k = self.mcp[i].key
            if k:
                rows.append((k >> 36 & 0xFFFFF, k >> 20 & 0xFFFF, k & 0xFFFF, self.mcp[i].count))
        return rows

    def read_gauges(self):
        return [self.gauges[i] for i in range(G_COUNT)]

    def get(self, int word):
        return self.head[word]

    def set(self, int word, value):
        self.head[word] = value

    def reset_live_gauges(self):
        # What a dead worker held open is gone with it; its totals stay.
        for i in (G_CONNECTIONS, G_UPSTREAM_CONNECTIONS, G_IN_FLIGHT, G_LOOP_LAG_NS):
            self.gauges[i] = 0

    def add_dropped(self, int lines):
        self.gauges[G_LOG_DROPPED] += lines

    def set_lag(self, nanoseconds):
        self.gauges[G_LOOP_LAG_NS] = nanoseconds

    def observe_request(self, route, backend, method, status, reason, duration_ns, size):
        self.observe(self.row(route, backend, method, status, reason), duration_ns, size)

    def observe_mcp(self, route, backend, method):
        self.count_mcp(route, backend, method)
