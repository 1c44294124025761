# The client's side of the data path: read, frame, and hand requests to exchanges one after another.

from libc.stdint cimport int64_t, uint32_t, uint64_t

from agw._fast.exchange cimport Context, Downlink, Exchange
from agw._fast.http1 cimport Body, Head
from agw._fast.policy cimport Bind
from agw._fast.reactor cimport Handler
from agw._fast.stream cimport Buf

cdef enum:
    S_HEAD = 0          # between requests, or inside a head
    S_BODY              # body streams to the exchange
    S_BUFFER            # body is collected until whole
    S_BUSY              # request read; the exchange answers
    S_DISCARD           # rest of a body nobody wants
    S_TUNNEL
    S_LINGER            # answered and shut; reading until the peer closes, so that our answer is not reset
    S_CLOSED

cdef enum:
    DRAIN_IDLE_NS = 1000000000      # idle time a client has while we drain

cdef class Entrance(Handler):
    # What a connection knows of the socket it came through.
    cdef readonly bint retired
    cdef set connections            # of Downstream

cdef class Downstream(Downlink):
    cdef Entrance acceptor
    cdef bytes address
    cdef int state
    cdef bint consuming
    cdef bint client_closes         # the request said this is the last one
    cdef bint in_head               # some octets of a head are here
    cdef bint gated                 # the request waits at the gate: head and headbuf are its
    cdef bint shaking               # the TLS handshake is not over
    cdef bint in_hello              # and has begun
    cdef int64_t head_started
    cdef int64_t accepted_ns
    cdef uint32_t requests
    cdef Buf inbuf
    cdef Buf headbuf                # head octets kept while a body is collected
    cdef Buf bodybuf
    cdef uint64_t body_limit        # octets that are collected in it
    cdef bint collected             # a request at the gate has some of its body in it already
    cdef bint body_due              # and its keeper, who waits for that, is to be told
    cdef Head* head                 # own head, while one is incomplete or kept
    cdef Body reqbody
    cdef int64_t discard_left
    cdef int64_t body_until         # when a body that is collected must be whole

    cdef int64_t idle_time(self) noexcept
    cdef int take_peer(self, Head* h, const char* buf) except -1
    cdef int read(self) except -1
    cdef int handshake(self, Py_ssize_t n) except -1
    cdef int look_ahead(self) except -1
    cdef int consume_buffered(self) except -1
    cdef size_t consume(self, const char* p, size_t n) except? 0
    cdef size_t begin_request(self, Head* h, const char* buf, const char* rest, size_t n) except? 0
    cdef size_t go_on(self, int want, Head* h, const char* buf, const char* rest, size_t n) except? 0
    cdef size_t take_body(self, const char* p, size_t n) except? 0
    cdef int collect_after(self, size_t n, uint64_t limit) except -1
    cdef int buffered(self) except -1
    cdef int hand_on(self) except -1
    cdef int body_for_gate(self) except -1
    cdef int go_on_soon(self) except -1
    cdef int tell_gate(self) except -1
    cdef int go_on_collected(self, int want) except -1
    cdef int refuse(self, Head* h) except -1
    cdef int next_request(self) except -1
    cdef int mind_leaving(self) except -1
    cdef int linger(self) except -1
    cdef int close(self) except -1
    cdef int gone(self) except -1
    cdef int free_head(self) except -1
    cdef int bare_answer(self, int which) except -1
