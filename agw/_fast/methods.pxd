# Methods by the numbers that the arena's keys hold. See methods.pyi.

from libc.stdint cimport int32_t, uint32_t

cdef enum:
    TOOLS_CALL = 10

cdef int32_t rpc_number(const char* name, uint32_t n) noexcept
cdef const char* rpc_kind(int number) noexcept nogil
