# MCP requests that need no Python code: which session, which target, under which name. See calls.pyi.

from libc.stdint cimport uint64_t, int64_t, uint32_t

from agw._fast.http1 cimport Head
from agw._fast.jsonrpc cimport Envelope
from agw._fast.policy cimport Choice

cdef class CallSession:
    cdef readonly list choices      # by target; None: not this way
    cdef readonly bytes version     # what MCP-Protocol-Version may say
    cdef readonly dict flights      # raw id -> Exchange, of what is under way
    cdef readonly int64_t used_ns   # when it was used last (reactor clock)
    cdef readonly bytes principal   # whose it is: Identity.key, b"" for nobody
    cdef readonly bytes log_fields  # what the access log says of its requests

cdef class CallTable:
    cdef readonly uint64_t stamp    # another one whenever a name may lead elsewhere than before
    cdef readonly dict sessions     # id -> CallSession
    cdef readonly dict tools        # public name between its quotes -> (target, own name there)
    cdef readonly list modern       # by target: Choice, or None
    cdef readonly set hosts         # values of Host that passed the guard; None: everyone passes
    cdef readonly bint plain        # one target, nothing renamed: other methods may go this way too
    cdef readonly bint watched      # results may hold what must be rewritten

ctypedef struct Way:
    uint32_t target
    int modern
    const char* name                # the tool's own name, when it differs; else NULL
    uint32_t name_len
    const char* parent              # traceparent in `_meta` of a request without that field; NULL: none

cdef Choice find_way(CallTable table, const Head* h, const char* buf, const Envelope* e, const char* body, size_t n, int rpc,
                     Way* way, list found)
cdef bint answers(const char* p, size_t n, const char* ident, uint32_t size) noexcept nogil
cdef bint may_relay(CallTable table, const char* p, size_t n) noexcept nogil
cdef bint has_state(const char* p, size_t n) noexcept nogil
cdef bint is_for_anybody(const char* p, size_t n, bint relayed) noexcept nogil
