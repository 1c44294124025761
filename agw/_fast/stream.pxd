# A non-blocking byte stream on the reactor, and the growable buffer it queues in.

from libc.stdint cimport uint32_t, uint64_t

from agw._fast.reactor cimport Handler
from agw._fast.tls cimport Tls

cdef enum:
    HIGH_WATER = 131072         # queued octets at which the producer is paused
    LOW_WATER = 16384           # and at which it may go on

ctypedef struct Buf:
    char* p
    size_t off                  # first live octet
    size_t len                  # live octets
    size_t cap

cdef int buf_append(Buf* b, const char* p, size_t n) except -1
cdef void buf_consume(Buf* b, size_t n) noexcept
cdef void buf_clear(Buf* b) noexcept
cdef void buf_free(Buf* b) noexcept

cdef class Stream(Handler):
    cdef Buf outq
    cdef bint readable          # the last edge has not been used up
    cdef bint peer_closed       # the peer sent FIN
    cdef bint fin_after_flush
    cdef uint64_t* sent             # where octets given to send() are counted, or NULL
    cdef bytes held                 # a body that goes before the queue, or None; then the queue is not empty
    cdef size_t held_off
    cdef Tls tls                    # None: octets go as they are

    cdef Py_ssize_t receive(self, char* p, size_t n) noexcept
    cdef int send(self, const char* p, size_t n) except -2
    cdef int send2(self, const char* a, size_t na, const char* b, size_t nb) except -2
    cdef int send_held(self, const char* a, size_t na, bytes body, const char* c, size_t nc) except -2
    cdef Py_ssize_t send_queue(self) noexcept
    cdef void drop_queue(self) noexcept
    cdef int flush(self) noexcept
    cdef void shut_write(self) noexcept
    cdef Py_ssize_t receive_tls(self, char* p, size_t n) noexcept
    cdef int send_tls(self, const char* a, size_t na, const char* b, size_t nb) except -2
    cdef int push(self, const char* p, size_t n) except -2
    cdef int push_bytes(self, bytes octets) noexcept
    cdef bint silent(self) noexcept
