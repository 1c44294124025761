# Who may come in: what was decided about a credential before, found again without asking anyone. Read gate.pyi first.

from libc.stdint cimport int64_t, uint32_t, uint64_t

from agw._fast.http1 cimport Head
from agw._fast.limiter cimport Limit
from agw._fast.policy cimport HeaderEdits

cdef class Charge:
    cdef readonly Limit limit
    cdef readonly uint64_t key
    cdef readonly uint64_t cost

cdef int give_back(list charges) except -1

cdef class License:
    cdef readonly tuple charges         # of Charge
    cdef readonly uint64_t stamp        # of the call table whose names were judged; 0: not about names

cdef class Identity:
    cdef readonly bytes key             # b"": nobody
    cdef readonly dict claims
    cdef readonly bytes token
    cdef readonly frozenset scopes
    cdef readonly int64_t expires_ns    # by the reactor's clock
    cdef readonly bytes log_fields
    cdef readonly HeaderEdits edits     # of the request towards the upstream, or None
    cdef readonly License entry
    cdef public dict extra
    cdef bytes shown
    cdef uint64_t generation        # of the gate that remembers it
    cdef dict calls                     # name as the client says it -> License

cdef class Gate:
    cdef readonly object plan
    cdef public object keeper
    cdef readonly bint messages
    cdef readonly tuple headers         # lower-case names of headers that hold credentials
    cdef readonly bint elsewhere        # the query or a cookie may hold one
    cdef readonly bint by_peer          # what is decided depends on the client's address
    cdef readonly uint32_t capacity
    cdef dict identities
    cdef list recent                    # of Identity or None, by a keyed hash
    cdef readonly uint64_t generation   # another one after `forget_all`; no two gates ever have the same
    cdef bytes shown(self, const Head* h, const char* buf, bytes peer, bytes mark)
    cdef Identity recall(self, const Head* h, const char* buf, Identity last, int64_t now)
    cdef bint is_of(self, Identity who, const char* value, uint32_t size, int64_t now) noexcept
    cdef License licence(self, Identity who, bytes name)
