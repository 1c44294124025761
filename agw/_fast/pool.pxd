# Upstream side: Cluster decides, Upstream carries octets, Client (the exchange) is told.

from libc.stdint cimport int64_t, uint32_t

from agw._fast.reactor cimport Handler, Reactor, Timer
from agw._fast.stream cimport Stream
from agw._fast.tls cimport ClientTls

cdef enum:
    UP_CONNECTING = 0
    UP_IDLE
    UP_ACTIVE
    UP_CLOSED

cdef enum:
    # Why a request could not be sent, or what ended it; mapped to replies in reply.pyx.
    FAIL_CONNECT = 1
    FAIL_CONNECT_TIMEOUT
    FAIL_DNS
    FAIL_QUEUE_FULL
    FAIL_QUEUE_TIMEOUT
    FAIL_TLS

cdef class Client:
    cdef Upstream upstream
    cdef bint waiting           # in a cluster's queue
    cdef int64_t wait_deadline

    cdef int on_upstream_ready(self, Upstream up) except -1
    cdef int on_upstream_failed(self, int why) except -1
    cdef int on_upstream_data(self, char* p, size_t n) except -1
    cdef int on_upstream_eof(self, bint broken) except -1
    cdef int on_upstream_drain(self) except -1
    cdef int on_upstream_timeout(self) except -1

cdef class Upstream(Stream):
    cdef Cluster cluster
    cdef Client owner
    cdef int state
    cdef bint paused
    cdef bint reused
    cdef int64_t created_ns
    cdef int64_t idle_since
    cdef int attempts
    cdef readonly object endpoint

    cdef int pump(self) except -1
    cdef int handshake(self, uint32_t events) except -1
    cdef int resume(self) except -1
    cdef int close(self) except -1

cdef class Cluster:
    cdef readonly object plan
    cdef readonly uint32_t label
    cdef Reactor reactor
    cdef readonly list endpoints        # (family, sockaddr octets, text)
    cdef readonly bint resolved
    cdef readonly bint down             # the last attempt to connect failed
    cdef uint32_t next_endpoint
    cdef list idle                      # LIFO
    cdef object waiters                 # deque of Client
    cdef readonly uint32_t connections
    cdef readonly uint32_t connecting
    cdef readonly ClientTls tls         # None: plain
    cdef str problem                    # of the last TLS handshake, while nobody asked for it
    cdef str told_problem
    cdef int64_t told_ns
    cdef bint is_mcp
    cdef bytes endpoint_text, target_text       # for the access log
    cdef bint retired
    cdef int64_t connect_timeout, response_timeout, idle_timeout, lifetime, pending_timeout
    cdef uint32_t max_connections, max_idle, max_pending

    cdef Upstream take_idle(self, Client client)
    cdef Upstream acquire(self, Client client, bint fresh)
    cdef int release(self, Upstream up) except -1
    cdef int close_idle(self) except -1
    cdef int connect(self, int attempts) except -1
    cdef int connected(self, Upstream up) except -1
    cdef int connect_failed(self, Upstream up, int why) except -1
    cdef int closed(self, Upstream up) except -1
    cdef int forget(self, Client client) except -1
