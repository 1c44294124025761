# See stream.pyi for the manual.
#
# Rules of this file:
# - a send is tried at once; only what the kernel does not take is copied into the queue;
# - the queue has no limit of its own: whoever produces stops at HIGH_WATER;
# - a broken connection is a return value (-1), never an exception.

from libc.errno cimport EAGAIN, EINTR, errno
from libc.stdlib cimport free, realloc
from libc.string cimport memcpy, memmove, memset


cdef extern from "sys/socket.h" nogil:
    cdef enum:
        MSG_NOSIGNAL
        SHUT_WR
    struct iovec:
        void* iov_base
        size_t iov_len
    struct msghdr:
        void* msg_name
        unsigned int msg_namelen
        iovec* msg_iov
        size_t msg_iovlen
        void* msg_control
        size_t msg_controllen
        int msg_flags
    ssize_t recv(int fd, void* buf, size_t n, int flags)
    ssize_t c_send "send"(int fd, const void* buf, size_t n, int flags)
    ssize_t sendmsg(int fd, const msghdr* msg, int flags)
    int shutdown(int fd, int how)


cdef int buf_append(Buf* b, const char* p, size_t n) except -1:
    cdef size_t cap
    cdef char* grown
    if b.off and b.off + b.len + n > b.cap:
        memmove(b.p, b.p + b.off, b.len)
        b.off = 0
    if b.len + n > b.cap:
        cap = b.cap * 2 if b.cap else 1024
        while cap < b.len + n:
            cap *= 2
        grown = <char*> realloc(b.p, cap)
        if grown == NULL:
            raise MemoryError()
        b.p = grown
        b.cap = cap
    memcpy(b.p + b.off + b.len, p, n)
    b.len += n
    return 0


cdef void buf_consume(Buf* b, size_t n) noexcept:
    b.off += n
    b.len -= n
    if b.len == 0:
        buf_clear(b)


cdef void buf_clear(Buf* b) noexcept:
    # An empty buffer keeps at most one page: idle connections stay small.
    b.off = b.len = 0
    if b.cap > 4096:
        buf_free(b)


cdef void buf_free(Buf* b) noexcept:
    free(b.p)
    b.p = NULL
    b.off = b.len = b.cap = 0


cdef class Stream(Handler):
    def __dealloc__(self):
        buf_free(&self.outq)

    cdef Py_ssize_t receive(self, char* p, size_t n) noexcept:
        # > 0 octets; 0: the peer closed; -1: nothing now; -2: broken. A short read uses up the edge (epoll(7)).
        cdef ssize_t r
        while True:
            r = recv(self.fd, p, n, 0)
            if r > 0:
                if <size_t> r < n and not self.peer_closed:
                    self.readable = False
                return r
            if r == 0:
                self.readable = False
                self.peer_closed = True
                return 0
            if errno == EINTR:
                continue
            self.readable = False
            return -1 if errno == EAGAIN else -2

    cdef int send(self, const char* p, size_t n) except -2:
        cdef ssize_t r = 0
        if self.sent != NULL:
            self.sent[0] += n
        if self.outq.len == 0:
            while True:
                r = c_send(self.fd, p, n, MSG_NOSIGNAL)
                if r >= 0 or errno != EINTR:
                    break
            if r == <ssize_t> n:
                return 0
            if r < 0:
                if errno != EAGAIN:
                    return -1
                r = 0
        buf_append(&self.outq, p + r, n - <size_t> r)
        return 0

    cdef int send2(self, const char* a, size_t na, const char* b, size_t nb) except -2:
        # Both parts in one segment where the kernel takes them.
        cdef iovec iov[2]
        cdef msghdr msg
        cdef ssize_t r = 0
        if self.sent != NULL:
            self.sent[0] += na + nb
        if self.outq.len == 0:
            iov[0].iov_base = <void*> a
            iov[0].iov_len = na
            iov[1].iov_base = <void*> b
            iov[1].iov_len = nb
            memset(&msg, 0, sizeof(msghdr))
            msg.msg_iov = iov
            msg.msg_iovlen = 2
            while True:
                r = sendmsg(self.fd, &msg, MSG_NOSIGNAL)
                if r >= 0 or errno != EINTR:
                    break
            if r == <ssize_t> (na + nb):
                return 0
            if r < 0:
                if errno != EAGAIN:
                    return -1
                r = 0
        if <size_t> r < na:
            buf_append(&self.outq, a + r, na - <size_t> r)
            r = 0
        else:
            r -= na
        buf_append(&self.outq, b + r, nb - <size_t> r)
        return 0

    cdef int flush(self) noexcept:
        # 1: queue empty; 0: the kernel is full again; -1: broken.
        cdef ssize_t r
        while self.outq.len:
            r = c_send(self.fd, self.outq.p + self.outq.off, self.outq.len, MSG_NOSIGNAL)
            if r < 0:
                if errno == EINTR:
                    continue
                return 0 if errno == EAGAIN else -1
            buf_consume(&self.outq, <size_t> r)
        if self.fin_after_flush:
            self.fin_after_flush = False
            shutdown(self.fd, SHUT_WR)
        return 1

    cdef void shut_write(self) noexcept:
        # FIN now, or behind what is still queued.
        if self.outq.len:
            self.fin_after_flush = True
        else:
            shutdown(self.fd, SHUT_WR)
