# See acceptor.pyi for the manual.
#
# Rules of this file:
# - a connection through a unix socket is another worker's (see agw.worker.hop): the kernel says so, not the request;
# - who may not connect, or is one too many, costs a look and no memory;
# - out of descriptors, accepting pauses until the tick.

from libc.errno cimport EAGAIN, ECONNABORTED, EINTR, EMFILE, ENFILE, ENOBUFS, ENOMEM, errno
from libc.stdint cimport uint32_t
from libc.string cimport memcpy, strlen
from cpython.bytes cimport PyBytes_AS_STRING
from posix.fcntl cimport O_CLOEXEC, O_RDONLY, open as c_open
from posix.unistd cimport close as c_close

from agw._fast.arena cimport G_ACCEPT_PAUSED, G_CONNECTIONS, G_CONNECTIONS_TOTAL, G_SENT_BYTES
from agw._fast.downstream cimport DRAIN_IDLE_NS, S_HEAD, Downstream
from agw._fast.exchange cimport Context
from agw._fast.forward cimport E_DRAIN_CUT, E_OVERLOAD, Failure, failure
from agw._fast.policy cimport Bind, Http
from agw._fast.reactor cimport EV_IN, EV_OUT, EV_RDHUP

from agw._fast.process import refuse_new_connections

cdef extern from "sys/socket.h" nogil:
    cdef enum:
        AF_INET
        AF_INET6
        SOCK_NONBLOCK
        SOCK_CLOEXEC
        MSG_NOSIGNAL
        MSG_DONTWAIT
    struct sockaddr:
        unsigned short sa_family
    struct sockaddr_storage:
        unsigned short ss_family
    ctypedef unsigned int socklen_t
    int accept4(int fd, sockaddr* addr, socklen_t* n, int flags)
    ssize_t c_send "send"(int fd, const void* buf, size_t n, int flags)
    cdef enum:
        AF_UNIX
        SOL_SOCKET
        SO_PEERCRED
    int getsockopt(int fd, int level, int name, void* value, socklen_t* n)

cdef extern from *:
    """
    #include <sys/socket.h>
    #include <unistd.h>
    struct agw_ucred { pid_t pid; uid_t uid; gid_t gid; };  /* struct ucred without _GNU_SOURCE */
    """
    struct ucred "agw_ucred":
        unsigned int uid
    unsigned int geteuid() nogil

cdef extern from "arpa/inet.h" nogil:
    struct in_addr:
        pass
    struct in6_addr:
        unsigned char s6_addr[16]
    struct sockaddr_in:
        unsigned short sin_port
        in_addr sin_addr
    struct sockaddr_in6:
        unsigned short sin6_port
        in6_addr sin6_addr
    const char* inet_ntop(int family, const void* src, char* dst, socklen_t size)
    unsigned short ntohs(unsigned short v)

cdef enum:
    EV_ET = 0x80000000
    ACCEPTS = 64                    # per event


cdef bint is_our_own(int fd) noexcept:
    # Is the process at the other end of a unix socket ours? An abstract name has no permissions of its own. C alone: nothing can raise.
    cdef ucred who
    cdef socklen_t size = sizeof(ucred)
    return getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &who, &size) == 0 and who.uid == geteuid()


cdef class Acceptor(Entrance):
    def __init__(self, Context ctx not None, int fd, Bind bind not None):
        self.ctx = ctx
        self.fd = fd
        self.bind = bind
        self.connections = set()
        self.reserve_fd = c_open(b"/dev/null", O_RDONLY | O_CLOEXEC)

    def __dealloc__(self):
        if self.reserve_fd >= 0:
            c_close(self.reserve_fd)

    def start(self):
        self.ctx.reactor.register(self, EV_IN)

    def switch(self, Bind bind not None):
        # A new snapshot: the next request of every connection sees it.
        cdef Downstream d
        self.bind = bind
        for d in self.connections:
            d.bind = bind

    def connection_count(self):
        return len(self.connections)

    def stop_accepting(self):
        # Takes nothing more from the queue and gives up the descriptor; connections go on.
        if self.fd >= 0:
            self.ctx.reactor.unregister(self)

    def shut_door(self):
        # Nobody new gets into the queue; who is half in still completes.
        if self.fd >= 0:
            refuse_new_connections(self.fd)

    def take_waiting(self):
        # Accepts everything that is queued.
        if self.fd >= 0:
            while self.on_events(EV_IN):
                pass

    def set_paused(self, bint paused):
        if paused != self.paused and self.fd >= 0:
            self.paused = paused
            self.ctx.reactor.pause(self, paused)

    def drain(self):
        # Idle connections close now, busy ones after their answer.
        # An idle client may be about to send: it gets DRAIN_IDLE_NS, and `Connection: close` if it does.
        cdef Downstream d
        if self.retired:
            return
        self.retired = True
        for d in list(self.connections):
            d.keep_alive = False
            if d.state == S_HEAD and not d.in_head:
                self.ctx.reactor.arm(&d.timer, self.ctx.reactor.now + DRAIN_IDLE_NS)

    def cut(self):
        # The drain time is over.
        cdef Downstream d
        n = 0
        for d in list(self.connections):
            n += 1
            if d.exchange is not None:
                d.exchange.fail(E_DRAIN_CUT, NULL, 0, 0)
            d.close()
        return n

    cdef int on_events(self, uint32_t events) except -1:
        cdef sockaddr_storage storage
        cdef socklen_t size
        cdef int fd
        cdef int budget = ACCEPTS
        while budget and not self.paused and self.fd >= 0:
            budget -= 1
            size = sizeof(sockaddr_storage)
            fd = accept4(self.fd, <sockaddr*> &storage, &size, SOCK_NONBLOCK | SOCK_CLOEXEC)
            if fd < 0:
                if errno == EAGAIN:
                    return 0
                if errno == EINTR or errno == ECONNABORTED:
                    continue
                if errno == EMFILE or errno == ENFILE or errno == ENOBUFS or errno == ENOMEM:
                    # Out of descriptors: tell one client with the reserve, then wait for the tick to try again.
                    self.shed()
                    self.set_paused(True)
                    self.ctx.slot.gauges[G_ACCEPT_PAUSED] += 1
                    return 0
                continue
            self.admit(fd, &storage)
        return 0 if self.paused else 1      # there may be more

    cdef int shed(self) except -1:
        cdef int fd
        if self.reserve_fd >= 0:
            c_close(self.reserve_fd)
            fd = accept4(self.fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)
            if fd >= 0:
                self.turn_away(fd)
            self.reserve_fd = c_open(b"/dev/null", O_RDONLY | O_CLOEXEC)
        return 0

    cdef int turn_away(self, int fd) except -1:
        cdef const Failure* f = failure(E_OVERLOAD)
        cdef bytes body = b'{"error":{"status":503,"reason":"%b","message":"%b"}}' % (b"Internal", f.text)
        cdef bytes answer = (b"HTTP/1.1 503 Service Unavailable\r\n" + self.ctx.date_line
                             + b"Content-Type: application/json\r\nRetry-After: 1\r\nConnection: close\r\nContent-Length: "
                             + str(len(body)).encode() + b"\r\n\r\n" + body)
        if self.bind.tls is None:
            c_send(fd, PyBytes_AS_STRING(answer), len(answer), MSG_NOSIGNAL | MSG_DONTWAIT)
        c_close(fd)
        return 0

    cdef bint may_connect(self, bytes address, int port) except -1:
        # What the rules about connections say; rules that fail let nobody in.
        try:
            return bool(self.ctx.admits(address, port))
        except Exception as error:
            self.ctx.reactor.on_error(error)
            return False

    cdef int admit(self, int fd, void* where) except -1:
        cdef Downstream d
        cdef Http http = self.bind.http
        cdef bytes key
        cdef char text[64]
        cdef unsigned short port = 0
        cdef sockaddr_in6* six
        cdef sockaddr* addr = <sockaddr*> where
        cdef bint from_worker = addr.sa_family == AF_UNIX
        text[0] = 0
        if addr.sa_family == AF_INET:
            inet_ntop(AF_INET, &(<sockaddr_in*> addr).sin_addr, text, 64)
            port = ntohs((<sockaddr_in*> addr).sin_port)
        elif addr.sa_family == AF_INET6:
            six = <sockaddr_in6*> addr
            inet_ntop(AF_INET6, &six.sin6_addr, text, 64)
            port = ntohs(six.sin6_port)
            if text[0] == b":" and text[1] == b":" and (text[2] == b"f" or text[2] == b"F") and strlen(text) > 9 and text[6] == b":":
                # ::ffff:1.2.3.4 is an IPv4 client of a dual-stack socket.
                for i in range(10, 12):
                    if six.sin6_addr.s6_addr[i] != 0xFF:
                        break
                else:
                    inet_ntop(AF_INET, &six.sin6_addr.s6_addr[12], text, 64)
        else:
            memcpy(text, b"unix", 5)
        if from_worker and not is_our_own(fd):
            c_close(fd)
            return 0
        key = text
        if self.ctx.admits is not None and not from_worker and not self.may_connect(key, port):
            c_close(fd)
            return 0
        held = self.ctx.per_address.get(key, 0)
        # What another worker passes on was admitted there; its pool is bounded.
        if not from_worker and ((http.max_connections and self.ctx.slot.gauges[G_CONNECTIONS] >= http.max_connections)
                                or (http.max_per_address and held >= http.max_per_address)):
            return self.turn_away(fd)
        self.ctx.per_address[key] = held + 1
        d = Downstream()
        d.fd = fd
        d.ctx = self.ctx
        d.bind = self.bind
        d.acceptor = self
        d.from_worker = from_worker
        d.address = key
        d.keep_alive = True
        d.deadline.owner = <void*> d
        d.deadline.deadline_ns = 0x7FFFFFFFFFFFFFFF
        d.peer_ip_len = <uint32_t> strlen(text)
        memcpy(d.peer, text, d.peer_ip_len)
        tail = b":%d" % port
        memcpy(d.peer + d.peer_ip_len, PyBytes_AS_STRING(tail), len(tail))
        d.peer_len = d.peer_ip_len + <uint32_t> len(tail)
        d.accepted_ns = self.ctx.reactor.now
        d.sent = &self.ctx.slot.gauges[G_SENT_BYTES]
        if self.bind.tls is not None and not from_worker:
            d.tls = self.bind.tls.accept()
            d.shaking = d.secure = True
        self.ctx.slot.gauges[G_CONNECTIONS] += 1
        self.ctx.slot.gauges[G_CONNECTIONS_TOTAL] += 1
        self.connections.add(d)
        self.ctx.reactor.register(d, EV_IN | EV_OUT | EV_RDHUP | <uint32_t> EV_ET)
        self.ctx.reactor.arm(&d.timer, d.accepted_ns + (DRAIN_IDLE_NS if self.retired else http.first_byte_timeout))
        # Most clients speak first and at once: look before epoll says so.
        d.readable = True
        return d.read()
