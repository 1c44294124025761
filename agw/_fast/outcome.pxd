# What a JSON-RPC answer means to the counters. See outcome.pyi.

from libc.stdint cimport int32_t

cdef enum:
    O_OK = 0
    O_TOOL = 1              # a result that says of itself that it is an error
    O_UNKNOWN = 31          # like O_TOOL, and the target says that there is no such tool; counted as O_TOOL
    O_CANCELLED = 14        # nobody waited for it any more

cdef int outcome_of_code(int32_t code) noexcept nogil
cdef int outcome_of(const char* p, size_t n, bint whole, bint call, int32_t* code) noexcept nogil
