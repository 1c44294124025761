# HTTP/1.1 framing: head scanner, body decoder. Pure functions over caller-owned bytes; no I/O, no clock.
#
# Ownership: a Head holds offsets, never pointers. They index the buffer that was passed to *_head_feed, which the
# caller keeps unchanged (it may move it) until the head is released. `Head.headers` is owned by the Head:
# head_init allocates it, head_free releases it.

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t

cdef enum:
    # Known header names; the order is that of _KNOWN in http1.pyx.
    H_OTHER = 0
    H_HOST
    H_CONTENT_LENGTH
    H_TRANSFER_ENCODING
    H_CONNECTION
    H_KEEP_ALIVE
    H_PROXY_CONNECTION
    H_PROXY_AUTHORIZATION
    H_PROXY_AUTHENTICATE
    H_TE
    H_TRAILER
    H_UPGRADE
    H_EXPECT
    H_HTTP2_SETTINGS
    H_FORWARDED
    H_X_FORWARDED_FOR
    H_X_FORWARDED_HOST
    H_X_FORWARDED_PROTO
    H_ORIGIN
    H_ACR_METHOD
    H_CONTENT_TYPE
    H_MCP_SESSION_ID
    H_VARY
    H_DATE

cdef enum:
    M_OTHER = 0
    M_GET
    M_HEAD
    M_POST
    M_PUT
    M_DELETE
    M_CONNECT
    M_OPTIONS
    M_TRACE
    M_PATCH

cdef enum:
    FRAMING_NONE = 0
    FRAMING_LENGTH
    FRAMING_CHUNKED
    FRAMING_EOF

cdef enum:
    # Head.flags
    F_HOST = 1
    F_LENGTH = 2
    F_TRANSFER = 4
    F_CLOSE = 8
    F_KEEP_ALIVE = 16
    F_UPGRADE = 32          # Connection names Upgrade
    F_NAMED = 64            # Connection names further fields, to be dropped
    F_EXPECT_CONTINUE = 128
    F_ABSOLUTE = 256        # absolute-form target
    F_EVENT_STREAM = 512    # Content-Type: text/event-stream
    F_CHUNKED_VALUE = 1024

cdef enum:
    BODY_NEED = 0
    BODY_DATA = 1
    BODY_END = 2
    BODY_ERROR = -1

ctypedef struct CLimits:
    uint32_t max_line
    uint32_t max_field
    uint32_t max_head
    uint32_t max_headers
    uint32_t max_chunk_line
    uint32_t max_chunk_ext
    uint32_t max_trailers

ctypedef struct Header:
    uint32_t name_off
    uint32_t value_off
    uint32_t value_len
    uint16_t name_len
    uint16_t id

ctypedef struct Head:
    uint32_t start          # first octet after skipped empty lines
    uint32_t line           # first octet of the first unparsed line
    uint32_t scan           # no LF before this offset in that line
    uint32_t size           # octets of the whole head, once complete
    uint32_t flags
    uint32_t nheaders
    uint32_t capacity
    uint8_t phase           # 0 start line, 1 fields
    uint8_t blank           # empty lines skipped before the start line
    uint8_t method
    uint8_t keep_alive
    uint8_t framing
    uint8_t version         # 10 or 11
    uint16_t status
    uint16_t error          # HTTP status hint, 0 while fine
    int64_t content_length  # -1 when absent
    uint32_t method_len
    uint32_t target_off
    uint32_t target_len
    uint32_t path_off
    uint32_t path_len
    uint32_t query_off      # behind the "?"; query_len is 0 when there is none
    uint32_t query_len
    uint32_t has_query
    uint32_t host_off
    uint32_t host_len
    uint32_t upgrade_off
    uint32_t upgrade_len
    uint32_t reason_off
    uint32_t reason_len
    const char* problem     # static text, with `error`
    Header* headers

ctypedef struct Body:
    uint8_t framing
    uint8_t state
    uint8_t digits
    int64_t remaining
    uint32_t line
    uint32_t extensions
    uint32_t trailers

cdef int head_init(Head* h, const CLimits* lim) except -1
cdef void head_reset(Head* h) noexcept nogil
cdef void head_free(Head* h) noexcept nogil
cdef int request_head_feed(Head* h, const char* buf, uint32_t n, const CLimits* lim) noexcept nogil
cdef int response_head_feed(Head* h, const char* buf, uint32_t n, const CLimits* lim, int request_method) noexcept nogil
cdef bint connection_names(const Head* h, const char* buf, const char* name, uint32_t n) noexcept nogil
cdef bint needs_normalising(const char* p, uint32_t n) noexcept nogil
cdef int normalise_path(const char* p, uint32_t n, char* out) noexcept nogil

cdef void body_init(Body* b, int framing, int64_t length) noexcept nogil
cdef int body_feed(Body* b, const char* p, size_t n, size_t* used, const char** data, size_t* size,
                   const CLimits* lim) noexcept nogil

cdef bint equals_lower(const char* p, const char* lower, uint32_t n) noexcept nogil
cdef bint is_field_value(const char* p, size_t n) noexcept nogil
cdef bint is_token(const char* p, size_t n) noexcept nogil
cdef bint is_authority(const char* p, uint32_t n) noexcept nogil


cdef class Limits:
    cdef CLimits c
