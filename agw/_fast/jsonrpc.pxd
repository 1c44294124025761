# JSON-RPC envelope location: one validating pass over the text, spans out, nothing decoded.

from libc.stdint cimport int32_t, uint8_t, uint32_t

cdef enum:
    KIND_NONE = 0
    KIND_REQUEST
    KIND_NOTIFICATION
    KIND_RESPONSE
    KIND_BATCH

ctypedef struct Span:
    uint32_t off
    uint32_t len

ctypedef struct Envelope:
    uint8_t kind
    uint8_t id_kind         # 0 absent, 1 string, 2 integer, 3 null
    uint8_t escaped         # bit 0: method, bit 1: name, bit 2: uri contain escapes
    Span id                 # raw text, quotes included
    Span method             # inside the quotes, raw
    Span params             # raw value
    Span name               # params.name, inside the quotes, raw
    Span uri                # params.uri, likewise
    Span meta               # params._meta, raw, when it is an object
    int32_t code            # JSON-RPC error code when the scan fails
    const char* problem

cdef int envelope_scan(const char* p, uint32_t n, Envelope* e, uint32_t max_depth) noexcept nogil
