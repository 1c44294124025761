# Access-log records, formatted into a buffer that somebody else writes out.

from libc.stdint cimport int32_t, int64_t, uint32_t

from agw._fast.stream cimport Buf

ctypedef struct Record:
    int64_t wall_ns
    int64_t duration_ns
    const char* fields          # JSON fragment: gateway, listener, route labels
    uint32_t fields_len
    const char* peer            # "address:port", as text
    uint32_t peer_len
    const char* endpoint
    uint32_t endpoint_len
    const char* method
    uint32_t method_len
    const char* host
    uint32_t host_len
    const char* path
    uint32_t path_len
    int version
    int status
    const char* protocol
    const char* target
    uint32_t target_len
    const char* rpc             # MCP method
    uint32_t rpc_len
    const char* name            # tool, prompt or resource name
    uint32_t name_len
    int name_kind               # 1 tool, 2 prompt, 3 resource
    const char* resource_type   # tool, prompt, ...; "": none
    int32_t rpc_code            # JSON-RPC error code, or 0
    bint tool_failed            # the result says isError
    const char* noted           # JSON fragment: what the service adds
    uint32_t noted_len
    const char* added           # JSON fragment: what the configuration adds, at the end
    uint32_t added_len
    int retries
    const char* reason
    const char* error

cdef void spread(Record* r, const char* at, uint32_t method_len, uint32_t host_len, uint32_t path_len, uint32_t id_len, uint32_t rpc_len,
                 uint32_t name_len) noexcept nogil

cdef class AccessLog:
    cdef Buf buf
    cdef readonly bint enabled
    cdef object sink
    cdef public object details      # (identity, exchange) -> bytes added to the line, or None: no line; None: nothing is added
    cdef public object shape        # (line without its end) -> the same, shorter; None: as it is
    cdef public bint looks          # do details need heads and parameters?
    cdef char stamp[48]             # the record's beginning up to the second, made once per second
    cdef size_t stamp_len
    cdef int64_t stamp_second
    cdef int add(self, const Record* r) except -1
    cdef char* shaped(self, char* start, char* end) except NULL
    cdef int emit(self) except -1
