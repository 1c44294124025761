# Readiness for the data plane: one epoll set and one timer wheel per worker, driven from inside a uvloop loop.

from libc.stdint cimport int64_t, uint32_t, uint64_t

from agw._fast.arena cimport Slot

cdef enum:
    SCRATCH_IN = 65536              # one recv
    SCRATCH_OUT = 196608            # one rebuilt head (bounded by the head limit) and one re-framed recv

cdef enum:
    EV_IN = 0x001
    EV_OUT = 0x004
    EV_ERR = 0x008
    EV_HUP = 0x010
    EV_RDHUP = 0x2000

ctypedef struct Timer:
    Timer* prev
    Timer* next
    void* owner             # the Handler that embeds this timer; alive while the timer is linked
    int64_t deadline_ns     # INT64_MAX = disarmed
    int64_t slot_tick

cdef class Handler:
    cdef Reactor reactor
    cdef int fd
    cdef uint32_t generation
    cdef bint deferred
    cdef Timer timer

    cdef int on_events(self, uint32_t events) except -1
    cdef int on_timer(self, Timer* timer) except -1
    cdef int on_deferred(self) except -1
    cdef int abort(self) except -1

cdef class Reactor:
    cdef int epfd
    cdef list handlers              # by fd
    cdef uint32_t next_generation
    cdef list later
    cdef readonly int64_t now       # monotonic ns, read once per batch
    cdef readonly int64_t wall      # realtime ns, likewise
    cdef int64_t tick_now
    cdef Timer wheel[1024]
    cdef char* scratch_in
    cdef char* scratch_out
    cdef Slot slot
    cdef object on_error
    cdef public object wake         # called with on_readable when work is left for another turn

    cdef int register(self, Handler handler, uint32_t events) except -1
    cdef int unregister(self, Handler handler) except -1
    cdef int defer(self, Handler handler) except -1
    cdef void arm(self, Timer* timer, int64_t deadline_ns) noexcept
    cdef void disarm(self, Timer* timer) noexcept
    cdef int run_deferred(self) except -1
    cdef void read_clock(self) noexcept

cdef void timer_unlink(Timer* timer) noexcept
