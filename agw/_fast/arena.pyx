# See arena.pyi for the manual and agw/shm/layout.py for the drawing.
#
# Rules of this file:
# - one writer per slot, aligned 64-bit stores, no lock: a worker may die at any instruction and leave the rows valid;
# - rows are never freed: counters survive the worker that wrote them, and its successor goes on in the same slot;
# - a full table puts everything else into the last row ("other"), it never grows and never fails;
# - the text of a tool's name is written before its key, so a reader never sees half a name.

from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.string cimport memcpy
from cpython.buffer cimport PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE

from agw._fast.router cimport ByteMap

cdef int64_t BOUNDS[14]


def _fill_bounds():
    for i, ms in enumerate((1, 5, 10, 25, 50, 100, 250, 500, 1000, 2500, 5000, 10000, 30000, 80000)):
        BOUNDS[i] = ms * 1000000


_fill_bounds()

GAUGE_COUNT = G_COUNT
DECISION_SHAPE = (DECISION_POLICIES, DECISION_RESULTS)
assert G_COUNT == G_DECISIONS + DECISION_POLICIES * DECISION_RESULTS
SERIES_BYTES = sizeof(Series)
MCP_BYTES = sizeof(McpSeries)
TOOL_BYTES = sizeof(ToolName)
TARGET_BYTES = sizeof(TargetRow)
TARGET_NUMBERS = TARGET_WORDS
OVERFLOW_ID = 0xFFFFF

cdef enum:
    MOST_TOOLS = 1024       # what ten bits of a key can name


cdef inline uint64_t mix(uint64_t x) noexcept nogil:
    x ^= x >> 33
    x *= <uint64_t> 0xFF51AFD7ED558CCD
    x ^= x >> 33
    return x


cdef class Slot:
    def __init__(self, arena, int index, Py_ssize_t head, Py_ssize_t gauges, Py_ssize_t series, int series_cap,
                 Py_ssize_t mcp, int mcp_cap, Py_ssize_t tools, int tool_cap, Py_ssize_t targets, int target_cap):
        cdef Py_buffer view
        PyObject_GetBuffer(arena, &view, PyBUF_WRITABLE)
        if mcp + mcp_cap * <Py_ssize_t> sizeof(McpSeries) > view.len or series_cap & (series_cap - 1) or mcp_cap & (mcp_cap - 1) \
                or tools + tool_cap * <Py_ssize_t> sizeof(ToolName) > view.len or not 2 <= tool_cap <= MOST_TOOLS \
                or targets + target_cap * <Py_ssize_t> sizeof(TargetRow) > view.len:
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
        self.tools = <ToolName*> (<char*> view.buf + tools)
        self.tool_cap = tool_cap
        self.tool_count = 2
        self.targets = <TargetRow*> (<char*> view.buf + targets)
        self.target_cap = target_cap
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

    cdef McpSeries* mcp_row(self, bint upstream, uint32_t route, uint32_t backend, uint32_t method, uint32_t tool, uint32_t outcome) noexcept nogil:
        # Key: top bit, kind, route 20 bits, backend 16, method 6, tool 10, outcome 5.
        cdef uint64_t key = (<uint64_t> 1 << 63) | (<uint64_t> upstream << 62) | (<uint64_t> (route & 0xFFFFF) << 37) \
            | (<uint64_t> (backend & 0xFFFF) << 21) | ((method & 63) << 15) | ((tool & 1023) << 5) | (outcome & 31)
        cdef uint32_t i = <uint32_t> mix(key) & self.mcp_mask
        cdef uint32_t probes = 0
        while probes < 64:
            if self.mcp[i].key == key:
                return &self.mcp[i]
            if self.mcp[i].key == 0 and i != self.mcp_mask:
                self.mcp[i].key = key
                return &self.mcp[i]
            i = (i + 1) & self.mcp_mask
            probes += 1
        self.mcp[self.mcp_mask].key = (<uint64_t> 1 << 63) | (<uint64_t> 0xFFFFF << 37) | (<uint64_t> 0xFFFF << 21)
        return &self.mcp[self.mcp_mask]

    cdef void observe_row(self, McpSeries* row, int64_t duration_ns) noexcept nogil:
        cdef int b = 0
        while b < 14 and duration_ns > BOUNDS[b]:
            b += 1
        row.duration_sum_ns += <uint64_t> duration_ns
        row.buckets[b] += 1

    cdef int tool(self, uint32_t label, const char* name, uint32_t n) noexcept:
        # The number of a name that is known, TOOL_OTHER when it never will be; -1: it may be learned.
        cdef int known
        if self.tool_map is None:
            return -1
        known = self.tool_map.find(label, name, n)
        return TOOL_OTHER if known < 0 and n and (self.tool_count >= self.tool_cap or n > TOOL_ROOM) else known

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
        cdef McpSeries* r
        rows = []
        for i in range(self.mcp_mask + 1):
            r = &self.mcp[i]
            k = r.key
            if k:
                rows.append((bool(k >> 62 & 1), k >> 37 & 0xFFFFF, k >> 21 & 0xFFFF, k >> 15 & 63, k >> 5 & 1023, k & 31,
                             r.duration_sum_ns, tuple([r.buckets[b] for b in range(15)])))
        return rows

    # ------------------------------------------------------------------------------------------- names of tools

    def recall_tools(self):
        # The successor of a dead worker goes on with its names: numbers in keys keep their meaning.
        cdef uint32_t i
        cdef uint64_t k
        self.tool_map = ByteMap(self.tool_cap)
        for i in range(2, self.tool_cap):
            k = self.tools[i].key
            if k == 0:
                break
            self.tool_map.add(<uint32_t> (k >> 16 & 0xFFFFFFFF), self.tools[i].text[:k & 0xFFFF], <int> i)
            self.tool_count = i + 1

    def find_tool(self, uint32_t label, bytes name not None):
        return max(0, self.tool(label, PyBytes_AS_STRING(name), <uint32_t> PyBytes_GET_SIZE(name)))

    def learn_tool(self, uint32_t label, bytes name not None):
        cdef uint32_t n = <uint32_t> PyBytes_GET_SIZE(name)
        cdef int known
        cdef ToolName* row
        if self.tool_map is None:
            self.recall_tools()
        known = self.tool(label, PyBytes_AS_STRING(name), n)
        if known >= 0:
            return known
        if n == 0:
            return 0
        if n > TOOL_ROOM or self.tool_count >= self.tool_cap:
            return TOOL_OTHER
        row = &self.tools[self.tool_count]
        memcpy(row.text, PyBytes_AS_STRING(name), n)
        row.key = (<uint64_t> 1 << 63) | (<uint64_t> label << 16) | n
        self.tool_map.add(label, name, <int> self.tool_count)
        self.tool_count += 1
        return self.tool_count - 1

    def read_tools(self):
        cdef uint32_t i
        cdef uint64_t k
        names = {}
        for i in range(2, self.tool_cap):
            k = self.tools[i].key
            if k == 0:
                break
            names[i] = self.tools[i].text[:k & 0xFFFF]
        return names

    # ---------------------------------------------------------------------------------------- numbers of targets

    def set_targets(self, list rows not None):
        cdef uint32_t i, j, label
        cdef uint64_t k
        cdef TargetRow* row
        for i in range(self.target_cap):
            row = &self.targets[i]
            if i >= <uint32_t> len(rows):
                if row.key == 0:
                    break
                row.key = 0
                continue
            label, numbers = rows[i]
            k = (<uint64_t> 1 << 63) | label
            if row.key != k:
                row.key = 0
            for j in range(min(<uint32_t> len(numbers), <uint32_t> TARGET_WORDS)):
                row.words[j] = numbers[j]
            row.key = k

    def read_targets(self):
        cdef uint32_t i
        cdef uint64_t k
        rows = []
        for i in range(self.target_cap):
            k = self.targets[i].key
            if k:
                rows.append((<uint32_t> (k & 0xFFFFFFFF), tuple([self.targets[i].words[j] for j in range(TARGET_WORDS)])))
        return rows

    def read_gauges(self):
        return [self.gauges[i] for i in range(G_COUNT)]

    def get(self, int word):
        return self.head[word]

    def set(self, int word, value):
        self.head[word] = value

    def reset_live_gauges(self):
        # What a dead worker held open is gone with it; its totals stay.
        for i in (G_CONNECTIONS, G_UPSTREAM_CONNECTIONS, G_IN_FLIGHT, G_LOOP_LAG_NS, G_MCP_SESSIONS, G_MCP_REPLICAS, G_MCP_STREAMS,
                  G_MCP_PARKED):
            self.gauges[i] = 0
        self.set_targets([])

    def add_dropped(self, int lines):
        self.gauges[G_LOG_DROPPED] += lines

    def set_lag(self, nanoseconds):
        self.gauges[G_LOOP_LAG_NS] = nanoseconds

    def observe_request(self, route, backend, method, status, reason, duration_ns, size):
        self.observe(self.row(route, backend, method, status, reason), duration_ns, size)

    def observe_mcp(self, route, backend, method, tool, outcome, duration_ns):
        self.observe_row(self.mcp_row(False, route, backend, method, tool, outcome), duration_ns)

    def observe_upstream(self, backend, method, outcome, duration_ns):
        self.observe_row(self.mcp_row(True, 0, backend, method, 0, outcome), duration_ns)

    def set_gauge(self, uint32_t index, value):
        if index >= G_COUNT:
            raise IndexError(index)
        self.gauges[index] = value

    def add_gauge(self, uint32_t index, value):
        if index >= G_COUNT:
            raise IndexError(index)
        self.gauges[index] += <uint64_t> value
