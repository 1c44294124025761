# See limiter.pyi for the manual.

from libc.stdint cimport int64_t, uint64_t


cdef class Limit:
    cdef int take(self, uint64_t key, uint64_t cost, int64_t now_ns, int64_t wall_ns) noexcept:
        return 0

    cdef bytes lines(self):
        return b""

    cdef void give_back(self, uint64_t key) noexcept:
        pass
