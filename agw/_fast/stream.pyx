# See stream.pyi for the manual.
#
# Rules of this file:
# - a send is tried at once; only what the kernel does not take is copied into the queue, and a large body is not even then;
# - the queue has no limit of its own: whoever produces stops at HIGH_WATER;
# - a broken connection is a return value, never an exception;
# - with TLS the queue holds ciphertext, and `readable` also means that something received is not decrypted yet.

from libc.errno cimport EAGAIN, EINTR, errno
from libc.stdlib cimport free, realloc
from libc.string cimport memcpy, memmove, memset
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE

from agw._fast.tls cimport PIECE, T_BROKEN, T_CLOSED, T_OPEN, Tls

cdef enum:
    RAW = 49152                 # ciphertext of one recv: decrypted it fits into SCRATCH_IN with what was left before
    SEALED = 81920              # ciphertext of one send: four records and what OpenSSL adds

# One thread serves all streams, and nobody keeps these between two calls.
cdef char raw_in[RAW]
cdef char sealed[SEALED]
cdef char mixed[PIECE]


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
    if n == 0:
        return 0
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
        # > 0 octets; 0: the peer closed; -1: nothing now; -2: broken; -3: TLS was cut off, which may have been an
        # attacker. A short read uses up the edge (epoll(7)).
        cdef ssize_t r
        if self.tls is not None:
            return self.receive_tls(p, n)
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
        if self.tls is not None:
            return self.send_tls(p, n, NULL, 0)
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
        if self.tls is not None:
            return self.send_tls(a, na, b, nb)
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

    cdef int send_held(self, const char* a, size_t na, bytes body, const char* c, size_t nc) except -2:
        # A large body between two short parts, without a copy: what the kernel does not take stays where it is, and the
        # queue begins behind it. `nc` is not 0, so that a queue with something held is never empty.
        cdef iovec iov[3]
        cdef msghdr msg
        cdef ssize_t r = 0
        cdef size_t nb = <size_t> PyBytes_GET_SIZE(body)
        if self.tls is not None or self.outq.len:
            r = self.send2(a, na, PyBytes_AS_STRING(body), nb)
            return r if r < 0 else self.send(c, nc)
        if self.sent != NULL:
            self.sent[0] += na + nb + nc
        iov[0].iov_base = <void*> a
        iov[0].iov_len = na
        iov[1].iov_base = <void*> PyBytes_AS_STRING(body)
        iov[1].iov_len = nb
        iov[2].iov_base = <void*> c
        iov[2].iov_len = nc
        memset(&msg, 0, sizeof(msghdr))
        msg.msg_iov = iov
        msg.msg_iovlen = 3
        while True:
            r = sendmsg(self.fd, &msg, MSG_NOSIGNAL)
            if r >= 0 or errno != EINTR:
                break
        if r < 0:
            if errno != EAGAIN:
                return -1
            r = 0
        if <size_t> r < na:
            buf_append(&self.outq, a + r, na - <size_t> r)
            buf_append(&self.outq, PyBytes_AS_STRING(body), nb)
            buf_append(&self.outq, c, nc)
        elif <size_t> r < na + nb:
            self.held = body
            self.held_off = <size_t> r - na
            buf_append(&self.outq, c, nc)
        else:
            buf_append(&self.outq, c + (<size_t> r - na - nb), na + nb + nc - <size_t> r)
        return 0

    cdef Py_ssize_t send_queue(self) noexcept:
        # One send of what is queued, the held body first. As sendmsg(2).
        cdef iovec iov[2]
        cdef msghdr msg
        cdef ssize_t r
        cdef size_t left
        if self.held is None:
            r = c_send(self.fd, self.outq.p + self.outq.off, self.outq.len, MSG_NOSIGNAL)
            if r > 0:
                buf_consume(&self.outq, <size_t> r)
            return r
        left = <size_t> PyBytes_GET_SIZE(self.held) - self.held_off
        iov[0].iov_base = <void*> (PyBytes_AS_STRING(self.held) + self.held_off)
        iov[0].iov_len = left
        iov[1].iov_base = <void*> (self.outq.p + self.outq.off)
        iov[1].iov_len = self.outq.len
        memset(&msg, 0, sizeof(msghdr))
        msg.msg_iov = iov
        msg.msg_iovlen = 2
        r = sendmsg(self.fd, &msg, MSG_NOSIGNAL)
        if r > 0 and <size_t> r < left:
            self.held_off += <size_t> r
        elif r > 0:
            self.held = None
            buf_consume(&self.outq, <size_t> r - left)
        return r

    cdef void drop_queue(self) noexcept:
        self.held = None
        buf_free(&self.outq)

    cdef int flush(self) noexcept:
        # 1: queue empty; 0: the kernel is full again; -1: broken.
        cdef ssize_t r
        while self.outq.len:
            r = self.send_queue()
            if r < 0:
                if errno == EINTR:
                    continue
                return 0 if errno == EAGAIN else -1
        if self.fin_after_flush:
            self.fin_after_flush = False
            shutdown(self.fd, SHUT_WR)
        return 1

    cdef void shut_write(self) noexcept:
        # FIN now, or behind what is still queued; with TLS, close_notify first.
        if self.tls is not None:
            self.tls.bye()
            self.push_bytes(self.tls.output())
        if self.outq.len:
            self.fin_after_flush = True
        else:
            shutdown(self.fd, SHUT_WR)

    # --------------------------------------------------------------------------------------------------- TLS

    cdef Py_ssize_t receive_tls(self, char* p, size_t n) noexcept:
        # As receive(). Also carries the handshake on; n == 0 does only that, and `tls.state` tells how far it is.
        cdef Tls t = self.tls
        cdef Py_ssize_t got
        cdef ssize_t r
        while True:
            if t.state >= T_CLOSED:
                self.readable = False
                return 0 if t.state == T_CLOSED else -2
            got = 0
            if t.more:
                got = t.decrypt(NULL, 0, p, n)
            else:
                if not self.readable:
                    return -1
                r = recv(self.fd, raw_in, RAW, 0)
                if r <= 0:
                    if r < 0 and errno == EINTR:
                        continue
                    self.readable = False
                    if r == 0:
                        self.peer_closed = True
                        return -3
                    return -1 if errno == EAGAIN else -2
                if r < RAW and not self.peer_closed:
                    self.readable = False
                got = t.decrypt(raw_in, <size_t> r, p, n)
            if self.push_bytes(t.output()) < 0 and t.state < T_CLOSED:
                t.state = T_BROKEN
                t.problem = "the connection broke"
            if t.state == T_CLOSED:
                self.peer_closed = True
            if t.more or (got and t.state >= T_CLOSED):
                # No edge will tell of what is here already.
                self.readable = True
            if got or (n == 0 and t.state == T_OPEN):
                return got if got else -1

    cdef int send_tls(self, const char* a, size_t na, const char* b, size_t nb) except -2:
        # Both parts in records as large as may be, and as many records as fit in one send.
        cdef const char* p
        cdef size_t n
        cdef size_t filled = 0
        cdef bytes record
        if self.sent != NULL:
            self.sent[0] += na + nb
        while na or nb:
            if na and na < PIECE and nb:
                n = min(nb, PIECE - na)
                memcpy(mixed, a, na)
                memcpy(mixed + na, b, n)
                p = mixed
                b += n
                nb -= n
                n += na
                na = 0
            elif na:
                p = a
                n = min(na, <size_t> PIECE)
                a += n
                na -= n
            else:
                p = b
                n = min(nb, <size_t> PIECE)
                b += n
                nb -= n
            record = self.tls.encrypt(p, n)
            if record is None:
                return -1
            n = <size_t> PyBytes_GET_SIZE(record)
            if filled and filled + n > SEALED:
                if self.push(sealed, filled) < 0:
                    return -1
                filled = 0
            if filled == 0 and (n > SEALED or (na == 0 and nb == 0)):
                if self.push(PyBytes_AS_STRING(record), n) < 0:
                    return -1
                continue
            memcpy(sealed + filled, PyBytes_AS_STRING(record), n)
            filled += n
        return self.push(sealed, filled) if filled else 0

    cdef int push(self, const char* p, size_t n) except -2:
        # Octets for the wire as they are.
        cdef ssize_t r = 0
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

    cdef int push_bytes(self, bytes octets) noexcept:
        if octets is None:
            return 0
        try:
            return self.push(PyBytes_AS_STRING(octets), <size_t> PyBytes_GET_SIZE(octets))
        except MemoryError:
            return -1

    cdef bint silent(self) noexcept:
        # Nothing but what TLS says to itself (tickets, key updates) has come, and the peer is there. TLS streams only.
        cdef char octets[64]
        self.readable = True
        return self.receive_tls(octets, 64) == -1
