# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False
"""The loop of the paced client: plays a timetable of requests over given connections and notes when each answer came.

Compiled, because in Python it cost some 45 us per request (measured on two shared CPUs), more than the peers it is to
measure. Knows just enough HTTP/1.1 to see where an answer ends: Content-Length, or the last chunk. Owns no
descriptors: the caller opens and closes them. One call, no Python object inside the loop, the GIL released.
"""

from cpython.bytes cimport PyBytes_AS_STRING
from libc.stdlib cimport calloc, free, strtol
from libc.string cimport memcpy, memmove, memset
from libc.errno cimport errno, EAGAIN, EINTR
from posix.time cimport CLOCK_MONOTONIC, clock_gettime, timespec

cdef extern from "<sys/epoll.h>" nogil:
    enum: EPOLL_CTL_ADD, EPOLLIN
    ctypedef union epoll_data_t:
        unsigned int u32
    struct epoll_event:
        unsigned int events
        epoll_data_t data
    int epoll_create1(int flags)
    int epoll_ctl(int epfd, int op, int fd, epoll_event *event)
    int epoll_wait(int epfd, epoll_event *events, int maximum, int timeout_ms)

cdef extern from "<poll.h>" nogil:
    enum: POLLIN, POLLOUT
    struct pollfd:
        int fd
        short events
        short revents
    int poll(pollfd *fds, unsigned long count, int timeout_ms)

cdef extern from *:
    """
    #ifndef _GNU_SOURCE
    #define _GNU_SOURCE
    #endif
    #include <poll.h>
    #include <string.h>
    #include <strings.h>
    #include <sys/socket.h>
    #include <unistd.h>
    """
    int ppoll(pollfd *fds, unsigned long count, timespec *timeout, void *signals) nogil
    char *strcasestr(const char *text, const char *part) nogil
    char *strstr(const char *text, const char *part) nogil
    ssize_t send(int fd, const void *data, size_t size, int flags) nogil
    ssize_t recv(int fd, void *data, size_t size, int flags) nogil
    int close(int fd) nogil
    enum: MSG_NOSIGNAL, MSG_DONTWAIT

cdef enum:
    HEAD = 8192  # an answer's head must fit
    BUFFER = 131072
    EVENTS = 128
    SEND_LIMIT_MS = 1000
    EPOLL_CTL_DEL = 2


cdef struct Connection:
    int fd
    int dead
    long long due
    long need          # bytes of the answer, head included; 0: head not complete; -1: chunked
    long received
    int head_size
    char head[HEAD]
    char tail[5]


cdef long long now_ns() noexcept nogil:
    cdef timespec t
    clock_gettime(CLOCK_MONOTONIC, &t)
    return <long long>t.tv_sec * 1000000000 + t.tv_nsec


cdef int send_all(int fd, const char *data, long size) noexcept nogil:
    """0, or -1 if the connection is broken or does not take the request within a second."""
    cdef long sent = 0
    cdef ssize_t n
    cdef pollfd waiting
    while sent < size:
        n = send(fd, data + sent, size - sent, MSG_NOSIGNAL | MSG_DONTWAIT)
        if n >= 0:
            sent += n
        elif errno == EAGAIN:
            waiting.fd, waiting.events = fd, POLLOUT
            if poll(&waiting, 1, SEND_LIMIT_MS) <= 0:
                return -1
        elif errno != EINTR:
            return -1
    return 0


cdef int take(Connection *c, char *buffer) noexcept nogil:
    """Read what is there: 1 answer complete, 0 not yet, -1 broken, closed, or not a 2xx."""
    cdef ssize_t n = recv(c.fd, buffer, BUFFER, MSG_DONTWAIT)
    cdef char *end
    cdef char *field
    cdef long keep
    if n < 0:
        return 0 if errno == EAGAIN or errno == EINTR else -1
    if n == 0:
        return -1
    c.received += n
    if c.need == 0:
        keep = HEAD - 1 - c.head_size
        if keep > n:
            keep = n
        memcpy(c.head + c.head_size, buffer, keep)
        c.head_size += <int>keep
        c.head[c.head_size] = 0
        end = strstr(c.head, b"\r\n\r\n")
        if end == NULL:
            return 0 if c.head_size < HEAD - 1 else -1
        if c.head[0] != b"H" or c.head[9] != b"2":
            return -1
        end[2] = 0
        field = strcasestr(c.head, b"\r\ncontent-length:")
        c.need = (end + 4 - c.head) + strtol(field + 17, NULL, 10) if field != NULL else -1
    if c.need > 0:
        return 1 if c.received >= c.need else 0
    if n >= 5:
        memcpy(c.tail, buffer + n - 5, 5)
    else:
        memmove(c.tail, c.tail + n, 5 - n)
        memcpy(c.tail + 5 - n, buffer, n)
    return (c.tail[0] == b"0" and c.tail[1] == b"\r" and c.tail[2] == b"\n"
            and c.tail[3] == b"\r" and c.tail[4] == b"\n")


cdef int play_loop(
    int epfd, Connection *connections, int count, const char **requests, long *sizes, int kinds,
    long long *due, long total, long long *latency, long long *lag, long long grace_ns, char *buffer, int *ring,
) noexcept nogil:
    """Play the timetable; returns the number of errors. `latency[i]` stays -1 where no answer came."""
    cdef epoll_event events[EVENTS]
    cdef pollfd waiting
    cdef timespec pause
    cdef long scheduled = 0, sent = 0, answered = 0
    cdef int errors = 0, alive = count, first = 0, idle = count, turn = 0, i, n, outcome
    cdef long long now, left
    cdef Connection *c
    for i in range(count):
        ring[i] = i
    waiting.fd, waiting.events = epfd, POLLIN
    while True:
        now = now_ns()
        while scheduled < total and due[scheduled] <= now:
            lag[scheduled] = now - due[scheduled]
            scheduled += 1
        while sent < scheduled and idle > 0:
            i = ring[first]
            first = (first + 1) % count
            idle -= 1
            c = &connections[i]
            c.due, c.need, c.received, c.head_size = sent, 0, 0, 0
            memset(c.tail, 0, 5)
            sent += 1
            turn = (turn + 1) % kinds
            if send_all(c.fd, requests[turn], sizes[turn]) < 0:
                c.dead = 1
                errors += 1
                alive -= 1
        if alive == 0 or (scheduled == total and answered + errors >= total):
            return errors + <int>(total - answered - errors)
        if scheduled == total and now > due[total - 1] + grace_ns:
            return errors + <int>(total - answered - errors)
        left = (due[scheduled] if scheduled < total else now + 10000000) - now_ns()
        if left < 0:
            left = 0
        pause.tv_sec, pause.tv_nsec = left // 1000000000, left % 1000000000
        if ppoll(&waiting, 1, &pause, NULL) <= 0:
            continue
        n = epoll_wait(epfd, events, EVENTS, 0)
        for i in range(n):
            c = &connections[events[i].data.u32]
            if c.dead:
                continue
            outcome = take(c, buffer)
            if outcome == 1:
                latency[c.due] = now_ns() - due[c.due]
                answered += 1
                ring[(first + idle) % count] = events[i].data.u32
                idle += 1
            elif outcome < 0:
                c.dead = 1
                alive -= 1
                errors += 1
                epoll_remove(epfd, c.fd)


cdef void epoll_remove(int epfd, int fd) noexcept nogil:
    cdef epoll_event unused
    epoll_ctl(epfd, EPOLL_CTL_DEL, fd, &unused)


def play(fds: list[int], requests: list[bytes], long long[::1] due_ns, long long[::1] latency_ns, long long[::1] lag_ns,
         double grace_s) -> int:
    """Send `requests` in turn at the CLOCK_MONOTONIC times `due_ns` over the connections `fds`; returns the errors.

    Fills `latency_ns[i]` (from the due time to the last byte of the answer; untouched where none came) and `lag_ns[i]` (how
    late this loop noticed that request i was due). A broken connection is not replaced; its request is an error. Ends
    `grace_s` after the last due time at the latest. Errors: OSError, MemoryError, ValueError.
    """
    cdef int count = len(fds), kinds = len(requests), epfd, i, errors
    cdef long total = due_ns.shape[0]
    cdef epoll_event event
    cdef bytes text
    if not count or not kinds or not total or latency_ns.shape[0] != total or lag_ns.shape[0] != total:
        raise ValueError("nothing to play")
    cdef Connection *connections = <Connection *>calloc(count, sizeof(Connection))
    cdef const char **texts = <const char **>calloc(kinds, sizeof(char *))
    cdef long *sizes = <long *>calloc(kinds, sizeof(long))
    cdef int *ring = <int *>calloc(count, sizeof(int))
    cdef char *buffer = <char *>calloc(BUFFER, 1)
    cdef long long grace_ns = <long long>(grace_s * 1e9)
    epfd = epoll_create1(0)
    try:
        if connections == NULL or texts == NULL or sizes == NULL or ring == NULL or buffer == NULL:
            raise MemoryError
        if epfd < 0:
            raise OSError("epoll_create1")
        for i in range(kinds):
            text = requests[i]  # the caller's list keeps it alive
            texts[i], sizes[i] = PyBytes_AS_STRING(text), len(text)
        for i in range(count):
            connections[i].fd = fds[i]
            event.events, event.data.u32 = EPOLLIN, i
            if epoll_ctl(epfd, EPOLL_CTL_ADD, connections[i].fd, &event) < 0:
                raise OSError("epoll_ctl")
        with nogil:
            errors = play_loop(epfd, connections, count, texts, sizes, kinds, &due_ns[0], total, &latency_ns[0],
                               &lag_ns[0], grace_ns, buffer, ring)
        return errors
    finally:
        if epfd >= 0:
            close(epfd)
        free(connections)
        free(texts)
        free(sizes)
        free(ring)
        free(buffer)
