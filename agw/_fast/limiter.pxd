# Limits in memory that all workers share. agw/_fast/limiter.pyi is the manual.

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

cdef enum:
    RATE = 0
    CONCURRENCY = 1
    QUOTA = 2

cdef enum:
    HOUR = 1
    DAY = 2
    MONTH = 3

ctypedef struct Cell:
    # One per (limit, worker): one writer, so plain stores.
    uint64_t admitted
    uint64_t refused
    uint64_t evictions
    uint64_t errors

cdef class Table:
    cdef object memory
    cdef char* base
    cdef readonly Py_ssize_t size
    cdef readonly int workers
    cdef readonly int worker        # whose cells this process writes; -1: nobody's, it may only read
    cdef uint64_t k0, k1            # the key of all hashes
    cdef uint64_t* slots
    cdef uint64_t line_mask
    cdef char* rows                 # of permits
    cdef Py_ssize_t row_bytes
    cdef uint64_t row_mask
    cdef char* names
    cdef Py_ssize_t name_bytes

    cdef Cell* cell(self, int number) noexcept

cdef class Limit:
    cdef readonly str name
    cdef readonly int kind              # RATE, CONCURRENCY, QUOTA
    cdef readonly uint64_t burst
    cdef readonly uint64_t interval
    cdef readonly int window
    cdef readonly int number            # row of its counters
    cdef readonly Table table
    cdef Table counters
    cdef public object store            # None, or who shares this limit with other machines
    cdef uint64_t remaining             # of the last take()
    cdef int64_t retry_ns               # of the last take(): 0 when admitted
    cdef int64_t reset_ns               # of the last take(): until the bucket is full again
    cdef uint64_t k0, k1
    cdef int64_t tau
    cdef Cell* counts
    cdef int64_t window_from, window_to # of the wall clock, what the last quota was about
    cdef uint64_t window_number

    cdef uint64_t hash(self, const char* key, Py_ssize_t n) noexcept
    cdef int take(self, uint64_t key, uint64_t cost, int64_t now_ns, int64_t wall_ns) noexcept     # 1 admitted, 0 refused
    cdef void give_back(self, uint64_t key) noexcept        # concurrency: the request is over
    cpdef bytes lines(self)             # header lines about the last take()

    cdef int64_t _ask(self, uint64_t key, uint64_t cost, int64_t now_ns) noexcept
    cdef int _locate(self, uint64_t key, uint64_t now, int64_t wall_ns, uint64_t** at, uint64_t* fingerprint, uint64_t* word) noexcept
    cdef void _settle(self, uint64_t key, uint64_t now) noexcept
    cdef int _rate(self, uint64_t key, uint64_t cost, int64_t now_ns) noexcept
    cdef void _turn(self, int64_t wall_ns) noexcept
    cdef int _quota(self, uint64_t key, uint64_t cost, int64_t wall_ns) noexcept
    cdef uint64_t* _row(self, uint64_t key, int i) noexcept
    cdef int _empty(self, uint64_t* row) noexcept
    cdef uint64_t* _claim(self, uint64_t key) noexcept
    cdef int _permit(self, uint64_t key) noexcept
