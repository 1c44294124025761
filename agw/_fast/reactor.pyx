# See reactor.pyi for the manual.
#
# Why not uvloop's transports: one request crosses a proxy four times (two reads, two writes). A transport costs a
# Python-level call, a context run and buffer objects each time; here readiness of a whole batch costs one Python
# call, and everything behind it is C. The loop stays uvloop's: it polls this epoll set like any other descriptor and
# runs timers, DNS, control and every slow policy. docs/architecture.md has the measurement.
#
# Rules of this file:
# - descriptors are registered once, edge-triggered, for both directions: no epoll_ctl per request;
# - the clock is read once per batch; nobody below reads it;
# - a handler that raises costs its own connection, is counted and reported once, and nothing else;
# - a timer belongs to the handler that embeds it; deadlines are lazy (moving one later touches no list).

from libc.errno cimport errno
from libc.stdint cimport INT64_MAX, int64_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memset
from posix.time cimport CLOCK_MONOTONIC, CLOCK_REALTIME, clock_gettime, timespec
from posix.unistd cimport close

from agw._fast.arena cimport G_INTERNAL_ERRORS, Slot

cdef extern from "sys/epoll.h" nogil:
    cdef enum:
        EPOLL_CTL_ADD
        EPOLL_CTL_DEL
        EPOLL_CTL_MOD
        EPOLL_CLOEXEC
    ctypedef union epoll_data_t:
        uint64_t u64
    struct epoll_event:
        uint32_t events
        epoll_data_t data
    int epoll_create1(int flags)
    int epoll_ctl(int epfd, int op, int fd, epoll_event* event)
    int epoll_wait(int epfd, epoll_event* events, int maxevents, int timeout)

cdef enum:
    BATCH = 256
    ROUNDS = 16
    SLOTS = 1024
    TICK_SHIFT = 27         # 134 ms


cdef void timer_unlink(Timer* timer) noexcept:
    if timer.next != NULL:
        timer.prev.next = timer.next
        timer.next.prev = timer.prev
        timer.next = NULL
        timer.prev = NULL


cdef class Handler:
    def __cinit__(self, *args, **kwargs):
        self.fd = -1
        memset(&self.timer, 0, sizeof(Timer))
        self.timer.owner = <void*> self
        self.timer.deadline_ns = INT64_MAX

    def __dealloc__(self):
        timer_unlink(&self.timer)

    cdef int on_events(self, uint32_t events) except -1:
        return 0

    cdef int on_timer(self, Timer* timer) except -1:
        return 0

    cdef int on_deferred(self) except -1:
        return 0

    cdef int abort(self) except -1:
        return 0


cdef class Reactor:
    def __cinit__(self, Slot slot not None, on_error):
        cdef int i
        self.epfd = -1
        self.slot = slot
        self.on_error = on_error
        self.handlers = []
        self.later = []
        self.next_generation = 1
        for i in range(SLOTS):
            self.wheel[i].prev = self.wheel[i].next = &self.wheel[i]
        self.scratch_in = <char*> malloc(SCRATCH_IN)
        self.scratch_out = <char*> malloc(SCRATCH_OUT)
        if self.scratch_in == NULL or self.scratch_out == NULL:
            raise MemoryError()
        self.epfd = epoll_create1(EPOLL_CLOEXEC)
        if self.epfd < 0:
            raise OSError(errno, "epoll_create1")
        self.read_clock()
        self.tick_now = self.now >> TICK_SHIFT

    def __dealloc__(self):
        if self.epfd >= 0:
            close(self.epfd)
        free(self.scratch_in)
        free(self.scratch_out)

    def fileno(self):
        return self.epfd

    cdef void read_clock(self) noexcept:
        cdef timespec ts
        clock_gettime(CLOCK_MONOTONIC, &ts)
        self.now = <int64_t> ts.tv_sec * 1000000000 + ts.tv_nsec
        clock_gettime(CLOCK_REALTIME, &ts)
        self.wall = <int64_t> ts.tv_sec * 1000000000 + ts.tv_nsec

    cdef int register(self, Handler handler, uint32_t events) except -1:
        # Takes a reference until unregister(). `events` includes EPOLLET where wanted.
        cdef epoll_event ev
        while len(self.handlers) <= handler.fd:
            self.handlers.extend([None] * 256)
        handler.reactor = self
        handler.generation = self.next_generation
        self.next_generation = (self.next_generation + 1) & 0x7FFFFFFF
        ev.events = events
        ev.data.u64 = (<uint64_t> handler.generation << 32) | <uint32_t> handler.fd
        if epoll_ctl(self.epfd, EPOLL_CTL_ADD, handler.fd, &ev) < 0:
            raise OSError(errno, "epoll_ctl")
        self.handlers[handler.fd] = handler
        return 0

    cdef int unregister(self, Handler handler) except -1:
        # Closes the descriptor (which removes it from the epoll set) and drops the reference.
        cdef int fd = handler.fd
        timer_unlink(&handler.timer)
        if fd >= 0:
            handler.fd = -1
            self.handlers[fd] = None
            close(fd)
        return 0

    def pause(self, Handler handler not None, bint paused):
        # For listeners only: take the descriptor out of the set, or put it back.
        cdef epoll_event ev
        ev.events = EV_IN
        ev.data.u64 = (<uint64_t> handler.generation << 32) | <uint32_t> handler.fd
        epoll_ctl(self.epfd, EPOLL_CTL_DEL if paused else EPOLL_CTL_ADD, handler.fd, &ev)

    cdef int defer(self, Handler handler) except -1:
        # Calls handler.on_deferred() once, after the current batch.
        if not handler.deferred:
            handler.deferred = True
            self.later.append(handler)
        return 0

    cdef void arm(self, Timer* timer, int64_t deadline_ns) noexcept:
        cdef int64_t tick
        cdef Timer* head
        timer.deadline_ns = deadline_ns
        tick = (deadline_ns >> TICK_SHIFT) + 1
        if timer.next != NULL:
            if tick >= timer.slot_tick:
                return
            timer_unlink(timer)
        if tick <= self.tick_now:
            tick = self.tick_now + 1
        elif tick >= self.tick_now + SLOTS:
            tick = self.tick_now + SLOTS - 1
        timer.slot_tick = tick
        head = &self.wheel[tick & (SLOTS - 1)]
        timer.prev = head.prev
        timer.next = head
        head.prev.next = timer
        head.prev = timer

    cdef void disarm(self, Timer* timer) noexcept:
        timer.deadline_ns = INT64_MAX

    def tick(self):
        # Fires what is due; called by the loop's own timer about every 100 ms.
        cdef int64_t target
        cdef Timer due
        cdef Timer* t
        cdef Timer* head
        cdef Handler handler
        self.read_clock()
        target = self.now >> TICK_SHIFT
        if target > self.tick_now + SLOTS:
            self.tick_now = target - SLOTS
        while self.tick_now < target:
            self.tick_now += 1
            head = &self.wheel[self.tick_now & (SLOTS - 1)]
            if head.next == head:
                continue
            # Move the slot's list to a local head, so that callbacks may arm and unlink freely.
            due.next = head.next
            due.prev = head.prev
            due.next.prev = &due
            due.prev.next = &due
            head.next = head.prev = head
            while due.next != &due:
                t = due.next
                timer_unlink(t)
                if t.deadline_ns == INT64_MAX:
                    continue
                if t.deadline_ns > self.now:
                    self.arm(t, t.deadline_ns)
                    continue
                t.deadline_ns = INT64_MAX
                handler = <Handler> t.owner
                try:
                    handler.on_timer(t)
                except Exception as e:
                    self.failed(handler, e)
        self.run_deferred()

    cdef int run_deferred(self) except -1:
        cdef Handler handler
        cdef list batch
        cdef int rounds = 0
        while self.later and rounds < 4:
            rounds += 1
            batch = self.later
            self.later = []
            for handler in batch:
                handler.deferred = False
                try:
                    handler.on_deferred()
                except Exception as e:
                    self.failed(handler, e)
        return 0

    def failed(self, Handler handler, error):
        # The error boundary: one connection pays, the operator hears of it.
        self.slot.gauges[G_INTERNAL_ERRORS] += 1
        try:
            handler.abort()
        finally:
            self.on_error(error)

    def on_readable(self):
        # The loop says the epoll set has something. Handles batches until a short one.
        cdef epoll_event events[BATCH]
        cdef int n, i
        cdef int rounds = 0
        cdef uint32_t fd
        cdef Handler handler
        while rounds < ROUNDS:
            rounds += 1
            n = epoll_wait(self.epfd, events, BATCH, 0)
            if n <= 0:
                if self.later:
                    self.run_deferred()
                break
            self.read_clock()
            for i in range(n):
                fd = <uint32_t> events[i].data.u64
                handler = <Handler> self.handlers[fd]
                if handler is None or handler.generation != <uint32_t> (events[i].data.u64 >> 32):
                    continue
                try:
                    handler.on_events(events[i].events)
                except Exception as e:
                    self.failed(handler, e)
            if self.later:
                self.run_deferred()
            if n < 4:
                break
        if self.later and self.wake is not None:
            # More than one turn's share; the set itself may be quiet now, so ask for another turn.
            self.wake(self.on_readable)
