# A request handed to Python code, and the way back: answer at once, or stream. See call.pyi.

from libc.stdint cimport uint32_t

from agw._fast.exchange cimport Exchange

cdef class Call:
    cdef Exchange exchange          # None when the exchange is over
    cdef readonly str method
    cdef readonly bytes path        # normalised
    cdef readonly bytes query       # or None
    cdef readonly list headers      # (name in lower case, value), wire order
    cdef readonly bytes head        # the request head as it came
    cdef readonly bytes body
    cdef readonly str kind          # request, notification, response, batch, or "" when there is no message
    cdef readonly bytes ident       # raw, or None
    cdef readonly bytes rpc         # method between its quotes, raw, or None
    cdef readonly bytes params      # raw, or None
    cdef readonly bytes name        # params.name between its quotes, raw, or None
    cdef readonly bytes uri         # likewise
    cdef readonly bytes peer
    cdef readonly object service
    cdef readonly uint32_t prefix_len
    cdef readonly uint32_t route    # label
    cdef readonly int number        # of the method, in methods.RPC_METHODS; -1: none
    cdef readonly object identity   # gate.Identity of the caller, or None without a gate
    cdef readonly object gate       # gate.Gate of the route, or None
    cdef readonly bint secure       # the client speaks TLS
    cdef readonly tuple labels      # of the route: bind, gateway, listener, route, rule
    cdef readonly bint started
    cdef readonly bint ended
    cdef bint chunked
    cdef public object on_close
    cdef public object on_drain
    cdef int put_chunk(self, bytes data) except -1
    cdef release(self)
