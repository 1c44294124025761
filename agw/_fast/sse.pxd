# Event streams: a splitter of octets into events, and what writes one. Read sse.pyx first.

from libc.stdint cimport uint64_t

from agw._fast.stream cimport Buf

cdef class EventReader:
    cdef size_t limit
    cdef readonly uint64_t dropped
    cdef readonly bytes last_event_id
    cdef bint started               # the first line was seen, so no BOM any more
    cdef bint after_cr              # an LF now belongs to the CR before it
    cdef bint skipping              # the rest of this line is not kept: a comment, or above the limit
    cdef bint spoilt                # the event so far is above the limit
    cdef Buf line                   # a line whose end has not come
    cdef Buf data                   # lines of the event so far, each with its LF
    cdef bytes kind, ident          # of the event so far; None when it has no such field
    cdef object retry

    cdef int take_line(self, const char* p, size_t n, list out) except -1
    cdef int take_field(self, const char* name, size_t n, const char* value, size_t m) except -1
    cdef void spoil(self) noexcept
    cdef int dispatch(self, list out) except -1
