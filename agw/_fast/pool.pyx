# See pool.pyi for the manual.
#
# Rules of this file:
# - an idle connection that becomes readable is dead, whatever it says (surplus octets would poison the next answer),
#   unless TLS spoke to itself: session tickets come when they come;
# - connections are used last in, first out, so that surplus ones age out;
# - the queue of waiting clients is bounded in length and time;
# - a connection that is being made belongs to the cluster, not to a client: whoever waits first gets it.

from collections import deque
from libc.errno cimport EAGAIN, EINPROGRESS, EINTR, errno
from libc.stdint cimport uint32_t
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from posix.unistd cimport close as c_close

from agw._fast.arena cimport (G_UPSTREAM_CONNECT_FAILURES, G_UPSTREAM_CONNECTIONS, G_UPSTREAM_CONNECTS,
                              G_UPSTREAM_REUSES)
from agw._fast.reactor cimport EV_ERR, EV_HUP, EV_IN, EV_OUT, EV_RDHUP, SCRATCH_IN, Handler, Reactor, Timer
from agw._fast.stream cimport LOW_WATER, Stream
from agw._fast.tls cimport T_CLOSED, T_OPEN, ClientTls

cdef extern from "sys/socket.h" nogil:
    cdef enum:
        AF_UNIX
        SOCK_STREAM
        SOCK_NONBLOCK
        SOCK_CLOEXEC
        SOL_SOCKET
        SO_ERROR
    struct sockaddr:
        pass
    ctypedef unsigned int socklen_t
    cdef enum:
        MSG_PEEK
        MSG_DONTWAIT
    int socket(int domain, int type, int protocol)
    ssize_t recv(int fd, void* buf, size_t n, int flags)
    int c_connect "connect"(int fd, const sockaddr* addr, socklen_t n)
    int getsockopt(int fd, int level, int name, void* value, socklen_t* n)
    int setsockopt(int fd, int level, int name, const void* value, socklen_t n)

cdef extern from "netinet/in.h" nogil:
    cdef enum:
        IPPROTO_TCP

cdef extern from "netinet/tcp.h" nogil:
    cdef enum:
        TCP_NODELAY

cdef enum:
    EV_ET = 0x80000000
    CONNECT_ATTEMPTS = 3
    TELL_NS = 10000000000           # how often the operator hears of the same TLS problem


cdef class Client:
    cdef int on_upstream_ready(self, Upstream up) except -1:
        return 0

    cdef int on_upstream_failed(self, int why) except -1:
        return 0

    cdef int on_upstream_data(self, char* p, size_t n) except -1:
        return 0

    cdef int on_upstream_eof(self, bint broken) except -1:
        return 0

    cdef int on_upstream_drain(self) except -1:
        return 0

    cdef int on_upstream_timeout(self) except -1:
        return 0


cdef class Upstream(Stream):
    cdef int on_events(self, uint32_t events) except -1:
        cdef int err = 0
        cdef socklen_t size = sizeof(int)
        cdef int r
        if self.state == UP_CONNECTING:
            if self.tls is not None:
                return self.handshake(events)
            getsockopt(self.fd, SOL_SOCKET, SO_ERROR, &err, &size)
            if err or events & (EV_ERR | EV_HUP):
                return self.cluster.connect_failed(self, FAIL_CONNECT)
            if events & EV_OUT:
                if events & EV_IN:
                    self.readable = True
                if self.cluster.tls is None:
                    return self.cluster.connected(self)
                self.tls = self.cluster.tls.connect()
                return self.handshake(events)
            return 0
        if self.state == UP_IDLE:
            if events & (EV_RDHUP | EV_HUP | EV_ERR) or (events & EV_IN and (self.tls is None or not self.silent())):
                self.close()
            return 0
        if self.state == UP_CLOSED:
            return 0
        if events & EV_OUT and self.outq.len:
            r = self.flush()
            if r < 0:
                # The answer may already be here although the request can no longer be sent.
                events |= EV_IN
            elif self.outq.len <= LOW_WATER:
                self.owner.on_upstream_drain()
                if self.state != UP_ACTIVE:
                    return 0
        if events & EV_RDHUP:
            self.peer_closed = True
        if events & (EV_IN | EV_RDHUP | EV_HUP | EV_ERR):
            self.readable = True
            self.pump()
        return 0

    cdef int handshake(self, uint32_t events) except -1:
        # TCP stands; the connect timer goes on until TLS does too.
        cdef char none
        if events & EV_OUT and self.outq.len and self.flush() < 0:
            return self.cluster.connect_failed(self, FAIL_TLS)
        if events & EV_RDHUP:
            self.peer_closed = True
        if events & (EV_IN | EV_RDHUP | EV_HUP | EV_ERR):
            self.readable = True
        if self.receive_tls(&none, 0) != -1 or self.tls.state >= T_CLOSED:
            return self.cluster.connect_failed(self, FAIL_TLS)
        return self.cluster.connected(self) if self.tls.state == T_OPEN else 0

    cdef int pump(self) except -1:
        # Reads while the edge lasts, the owner is not paused, and the turn's share is not used up.
        cdef Py_ssize_t n
        cdef int budget = 8
        while self.state == UP_ACTIVE and self.readable and not self.paused:
            if budget == 0:
                self.reactor.defer(self)
                return 0
            budget -= 1
            n = self.receive(self.reactor.scratch_in, SCRATCH_IN)
            if n > 0:
                self.owner.on_upstream_data(self.reactor.scratch_in, <size_t> n)
            elif n == -1:
                return 0
            else:
                self.owner.on_upstream_eof(n < -1)
                return 0
        return 0

    cdef int on_deferred(self) except -1:
        return self.pump()

    cdef int resume(self) except -1:
        if self.paused:
            self.paused = False
            self.reactor.defer(self)
        return 0

    cdef int on_timer(self, Timer* timer) except -1:
        if self.state == UP_CONNECTING:
            return self.cluster.connect_failed(self, FAIL_CONNECT_TIMEOUT)
        if self.state == UP_IDLE:
            return self.close()
        if self.state == UP_ACTIVE:
            return self.owner.on_upstream_timeout()
        return 0

    cdef int abort(self) except -1:
        cdef Client owner = self.owner
        self.close()
        if owner is not None:
            owner.on_upstream_eof(True)
        return 0

    cdef int close(self) except -1:
        if self.state == UP_CLOSED:
            return 0
        self.cluster.closed(self)
        return 0


cdef class Cluster:
    def __init__(self, plan, uint32_t label, ClientTls tls=None):
        self.plan = plan
        self.label = label
        self.tls = tls
        self.endpoints = []
        self.idle = []
        self.waiters = deque()
        self.is_mcp = plan.kind == "mcp"
        self.endpoint_text = (plan.unix_path or f"{plan.host}:{plan.port}").encode()
        self.target_text = plan.target.encode()
        self.connect_timeout = plan.connect_timeout_ns
        # 0 is no limit: ten years.
        self.response_timeout = plan.response_timeout_ns if plan.response_timeout_ns else 315360000000000000
        self.idle_timeout = plan.idle_timeout_ns
        self.lifetime = plan.lifetime_ns
        self.pending_timeout = plan.pending_timeout_ns
        self.max_connections = plan.max_connections
        self.max_idle = plan.max_idle
        self.max_pending = plan.max_pending

    def attach(self, Reactor reactor not None):
        self.reactor = reactor

    def set_endpoints(self, list endpoints):
        # Called with what the resolver found; an empty list means the name has no address now.
        cdef Upstream up
        self.endpoints = endpoints
        self.resolved = True
        known = {text for _, _, text in endpoints}
        for up in list(self.idle):
            if up.endpoint not in known:
                up.close()
        self.serve_waiters()

    cdef int close_idle(self) except -1:
        cdef Upstream up
        for up in list(self.idle):
            up.close()
        return 0

    def retire(self):
        # The last snapshot that names this cluster is gone: idle connections close, active ones finish.
        self.retired = True
        self.close_idle()

    def revive(self):
        self.retired = False

    def idle_count(self):
        return len(self.idle)

    def waiting_count(self):
        return len(self.waiters)

    cdef Upstream take_idle(self, Client client):
        # The youngest idle connection that is silent this very moment, or None. epoll may not have told yet of what
        # the upstream sent or that it left, and the next octets read would pass for the answer.
        cdef Upstream up
        cdef char octet
        while self.idle:
            up = <Upstream> self.idle.pop()
            if not up.silent() if up.tls is not None else recv(up.fd, &octet, 1, MSG_PEEK | MSG_DONTWAIT) >= 0 or errno != EAGAIN:
                up.close()
                continue
            up.state = UP_ACTIVE
            up.owner = client
            up.reused = True
            client.upstream = up
            self.reactor.slot.gauges[G_UPSTREAM_REUSES] += 1
            return up
        return None

    cdef Upstream acquire(self, Client client, bint fresh):
        # An idle connection now, or None: the client then hears on_upstream_ready or on_upstream_failed later,
        # never from inside this call.
        cdef Upstream up
        if not fresh:
            up = self.take_idle(client)
            if up is not None:
                return up
        client.waiting = True
        client.wait_deadline = self.reactor.now + self.pending_timeout
        self.waiters.append(client)
        self.reactor.defer(Waker(self))
        return None

    cdef int forget(self, Client client) except -1:
        if client.waiting:
            client.waiting = False
            self.waiters.remove(client)
        return 0

    def serve_waiters(self):
        # Gives idle connections to waiters, opens as many as are missing, refuses what exceeds the bounds.
        cdef Client client
        cdef Upstream up
        while self.waiters and self.idle:
            client = <Client> self.waiters[0]
            up = self.take_idle(client)
            if up is None:
                break
            self.waiters.popleft()
            client.waiting = False
            client.on_upstream_ready(up)
        if not self.waiters or not self.resolved:
            return
        if not self.endpoints:
            while self.waiters:
                client = <Client> self.waiters.popleft()
                client.waiting = False
                client.on_upstream_failed(FAIL_DNS)
            return
        while len(self.waiters) > self.connecting and self.connections < self.max_connections:
            if self.connect(0) < 0 or self.connecting == 0:
                break
        while len(self.waiters) > self.connecting + self.max_pending:
            client = <Client> self.waiters.pop()
            client.waiting = False
            client.on_upstream_failed(FAIL_QUEUE_FULL)

    def expire_waiters(self):
        # Called by the worker's tick.
        cdef Client client
        while self.waiters and (<Client> self.waiters[0]).wait_deadline <= self.reactor.now:
            client = <Client> self.waiters.popleft()
            client.waiting = False
            if not self.resolved:
                client.on_upstream_failed(FAIL_DNS)
            elif self.connections == self.connecting:
                # Nothing was ever connected: it is the network, not the queue.
                client.on_upstream_failed(FAIL_CONNECT_TIMEOUT)
            else:
                client.on_upstream_failed(FAIL_QUEUE_TIMEOUT)

    cdef int connect(self, int attempts) except -1:
        cdef Upstream up
        cdef int fd, r
        cdef int one = 1
        family, address, text = self.endpoints[self.next_endpoint % <uint32_t> len(self.endpoints)]
        self.next_endpoint += 1
        fd = socket(family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0)
        if fd < 0:
            return self.none_to_be_had(FAIL_CONNECT)
        if family != AF_UNIX:
            setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(int))
        while True:
            r = c_connect(fd, <const sockaddr*> PyBytes_AS_STRING(address), <socklen_t> PyBytes_GET_SIZE(address))
            if r == 0 or errno != EINTR:
                break
        if r < 0 and errno != EINPROGRESS:
            c_close(fd)
            self.reactor.slot.gauges[G_UPSTREAM_CONNECT_FAILURES] += 1
            if attempts + 1 < CONNECT_ATTEMPTS and len(self.endpoints) > 1:
                return self.connect(attempts + 1)
            return self.none_to_be_had(FAIL_CONNECT)
        up = Upstream()
        up.fd = fd
        up.cluster = self
        up.endpoint = text
        up.attempts = attempts
        up.created_ns = self.reactor.now
        up.state = UP_CONNECTING
        self.connections += 1
        self.connecting += 1
        self.reactor.slot.gauges[G_UPSTREAM_CONNECTIONS] += 1
        self.reactor.register(up, EV_IN | EV_OUT | EV_RDHUP | <uint32_t> EV_ET)
        self.reactor.arm(&up.timer, self.reactor.now + self.connect_timeout)
        return 0

    def none_to_be_had(self, int why):
        # One waiter hears of one failed attempt, so a burst of failures is not a burst of retries.
        cdef Client client
        self.down = True
        if self.waiters:
            client = <Client> self.waiters.popleft()
            client.waiting = False
            client.on_upstream_failed(why)
        return 0

    def note_problem(self, str text not None, str endpoint not None):
        if text != self.told_problem or self.reactor.now - self.told_ns > <int64_t> TELL_NS:
            self.told_problem = text
            self.told_ns = self.reactor.now
            self.problem = f"{endpoint}: {text}"

    def take_problem(self):
        text, self.problem = self.problem, None
        return text

    cdef int connected(self, Upstream up) except -1:
        cdef Client client
        self.connecting -= 1
        self.down = False
        self.reactor.slot.gauges[G_UPSTREAM_CONNECTS] += 1
        if not self.waiters:
            return self.release(up)
        client = <Client> self.waiters.popleft()
        client.waiting = False
        up.state = UP_ACTIVE
        up.owner = client
        up.reused = False
        client.upstream = up
        return client.on_upstream_ready(up)

    cdef int connect_failed(self, Upstream up, int why) except -1:
        cdef int attempts = up.attempts + 1
        self.reactor.slot.gauges[G_UPSTREAM_CONNECT_FAILURES] += 1
        if why == FAIL_TLS:
            self.note_problem(up.tls.problem if up.tls.problem is not None else "the connection ended during the handshake", up.endpoint)
        self.closed(up)
        if attempts < CONNECT_ATTEMPTS and attempts < len(self.endpoints) and self.waiters:
            return self.connect(attempts)
        self.none_to_be_had(why)
        return 0

    cdef int release(self, Upstream up) except -1:
        # The exchange is over and left the connection clean.
        up.owner = None
        up.paused = False
        if up.peer_closed or (up.readable and (up.tls is None or not up.silent())) or self.retired \
                or (self.lifetime and self.reactor.now - up.created_ns > self.lifetime) or <uint32_t> len(self.idle) >= self.max_idle:
            up.state = UP_IDLE
            return up.close()
        up.state = UP_IDLE
        up.idle_since = self.reactor.now
        self.idle.append(up)
        self.reactor.arm(&up.timer, self.reactor.now + self.idle_timeout)
        if self.waiters:
            self.reactor.defer(Waker(self))
        return 0

    cdef int closed(self, Upstream up) except -1:
        if up.state == UP_CLOSED:
            return 0
        if up.state == UP_CONNECTING:
            self.connecting -= 1
        elif up.state == UP_IDLE:
            if up in self.idle:
                self.idle.remove(up)
            if up.tls is not None and up.outq.len == 0 and not up.peer_closed:
                up.shut_write()
        up.state = UP_CLOSED
        up.owner = None
        self.connections -= 1
        self.reactor.slot.gauges[G_UPSTREAM_CONNECTIONS] -= 1
        self.reactor.unregister(up)
        if self.waiters:
            self.reactor.defer(Waker(self))
        return 0


cdef class Waker(Handler):
    """Serves a cluster's waiters after the batch, so that acquire() never calls back."""

    cdef Cluster cluster

    def __init__(self, Cluster cluster):
        self.cluster = cluster

    cdef int on_deferred(self) except -1:
        self.cluster.serve_waiters()
        return 0
