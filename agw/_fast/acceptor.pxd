# A listening socket of one worker, and how its connections begin.

from agw._fast.downstream cimport Entrance
from agw._fast.exchange cimport Context
from agw._fast.policy cimport Bind

cdef class Acceptor(Entrance):
    cdef Context ctx
    cdef readonly Bind bind
    cdef readonly bint paused
    cdef int reserve_fd
    cdef int shed(self) except -1
    cdef int admit(self, int fd, void* where) except -1
    cdef bint may_connect(self, bytes address, int port) except -1
    cdef int turn_away(self, int fd) except -1
