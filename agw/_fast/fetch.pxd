# One HTTP/1.1 request of the gateway's own. Read fetch.pyx first.

from libc.stdint cimport int64_t

from agw._fast.exchange cimport Context
from agw._fast.http1 cimport Body, Head
from agw._fast.pool cimport Client, Cluster, Upstream
from agw._fast.stream cimport Buf

cdef enum:
    # Fetch.phase
    F_WAIT = 0              # waits for a connection
    F_SENT                  # handed to a connection; no final head yet
    F_BODY                  # the sink knows the head
    F_DONE                  # the sink hears nothing more

cdef class Fetch(Client):
    cdef Context ctx
    cdef Cluster cluster
    cdef object sink
    cdef bytes begun                # what came before `attach`, of an adopted answer
    cdef bytes head, body           # as they go out; dropped with the first octet of an answer
    cdef int64_t patience
    cdef int method
    cdef int phase
    cdef int interim
    cdef bint sent, replayable, retried, keep_alive, paused
    cdef Head* rhead                # a head that came in parts, and its octets
    cdef Buf rbuf
    cdef Body rbody

    cdef int take(self, Context context, Upstream up, bytes octets) except -1
    cdef int dispatch(self, Upstream up) except -1
    cdef int wait(self, bint fresh) except -1
    cdef int kick(self) except -1
    cdef int rearm(self) except -1
    cdef int respond(self, Head* h, const char* at, size_t n) except -1
    cdef int relay(self, const char* p, size_t n) except -1
    cdef int complete(self, bint clean) except -1
    cdef int drop(self) except -1
    cdef int broken_off(self, object problem) except -1
    cdef int end(self, object problem) except -1
    cdef int clear(self) except -1
    cdef int report(self, error) except -1
