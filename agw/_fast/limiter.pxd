from libc.stdint cimport int64_t, uint64_t

cdef class Limit:
    cdef readonly str name
    cdef readonly int kind
    cdef readonly uint64_t burst
    cdef uint64_t remaining
    cdef int64_t retry_ns
    cdef int64_t reset_ns
    cdef int take(self, uint64_t key, uint64_t cost, int64_t now_ns, int64_t wall_ns) noexcept
    cdef bytes lines(self)                # header lines about the last take()
    cdef void give_back(self, uint64_t key) noexcept
