# What goes on the wire: heads rebuilt from what was parsed, and the gateway's own answers.

from libc.stdint cimport int64_t, uint32_t

from agw._fast.http1 cimport Head
from agw._fast.policy cimport Choice, HeaderEdits, Http

ctypedef struct Out:
    char* p
    size_t n
    size_t cap
    bint full               # something did not fit; the head must not be sent

cdef enum:
    # What ended a request with an answer of our own; rows of FAILURES in forward.pyx.
    E_NONE = 0
    E_MALFORMED             # status and text come from the parser
    E_NO_LISTENER
    E_NO_ROUTE
    E_NO_BACKEND
    E_BAD_PATH
    E_METHOD
    E_MEDIA_TYPE
    E_TOO_LARGE
    E_HEADER_TIMEOUT
    E_BODY_TIMEOUT
    E_REQUEST_TIMEOUT
    E_RESPONSE_TIMEOUT
    E_CONNECT
    E_CONNECT_TIMEOUT
    E_DNS
    E_QUEUE_FULL
    E_QUEUE_TIMEOUT
    E_RESET
    E_PROTOCOL
    E_UPGRADE
    E_JSON                  # code and text come from the envelope scan
    E_OVERLOAD
    E_INTERNAL
    E_CLIENT_GONE
    E_BODY_CUT              # the answer broke off after its head
    E_DRAIN_CUT
    E_TLS                   # towards the backend
    E_MISDIRECTED
    E_PLAIN_HTTP
    E_RATE
    E_CLOSED                # the gate has nobody to ask

ctypedef struct Failure:
    int status
    int reason              # index into REASONS
    int code                # JSON-RPC error code
    const char* text

cdef void put(Out* o, const char* p, size_t n) noexcept nogil
cdef void put_int(Out* o, int64_t v) noexcept nogil
cdef void put_hex(Out* o, size_t v) noexcept nogil
cdef const Failure* failure(int which) noexcept nogil
cdef const char* reason_name(int reason) noexcept nogil
cdef const char* status_text(int status) noexcept nogil

ctypedef struct RequestContext:
    const char* path            # normalised, or rewritten
    uint32_t path_len
    const char* peer            # client address without port
    uint32_t peer_len
    int framing                 # of the body that follows
    int64_t length
    bint upgrade
    bint secure                 # the client speaks TLS
    const char* name            # value of Mcp-Name, or NULL: as the client sent it
    uint32_t name_len
    const char* parent          # a traceparent (55 octets) to add, or NULL
    const char* query
    uint32_t query_len
    char mark                   # what stands before the query; 0: there is none
    bint cookieless             # Cookie fields stay behind
    const char* certificate     # the client's, in base64, for another worker; or NULL
    uint32_t certificate_len

cdef frozenset upgrade_elements(bytes value)
cdef bint is_hop_field(const char* name, uint32_t n) noexcept nogil
cdef int build_request(Out* o, const Head* h, const char* buf, Choice choice, Http http,
                       const RequestContext* ctx, HeaderEdits more, bytes lines) except -1
cdef int build_response(Out* o, const Head* h, const char* buf, HeaderEdits edits, bytes cors, Http http,
                        int client_version, int framing, bint close, bint upgrade) except -1
cdef int build_reply(Out* o, int status, const char* content_type, const char* body, size_t n, bytes lines, bytes date,
                     int client_version, bint close, bint head_only) except -1
