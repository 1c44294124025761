# One HTTP/1.1 request of the gateway's own. See fetch.pyi for the manual.
#
# Reading order: __init__ (build the head) -> dispatch (a connection takes it) -> on_upstream_data (response head) ->
# respond -> relay (body) -> complete or broken_off -> end (tell).
#
# Rules of this file:
# - Python code runs in `respond`, `relay` and `end` only, and may call `cancel` or start other requests: behind each of
#   these calls `phase` is looked at before anything else, and no pointer into scratch memory lives across one;
# - the request is two immutable bytes objects, so a second try needs no copy;
# - it may be made outside of a reactor's batch: `kick` sees to it that what was deferred runs soon.

from libc.stdint cimport int64_t, uint8_t, uint32_t
from libc.stdlib cimport free
from libc.string cimport memchr, memcpy
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE

from agw._fast.arena cimport G_INTERNAL_ERRORS, G_RETRIES
from agw._fast.exchange cimport Context
from agw._fast.http1 cimport (BODY_DATA, BODY_END, BODY_ERROR, FRAMING_EOF, M_DELETE, M_GET, M_HEAD, M_OPTIONS, M_POST,
                              Head, body_feed, body_init, head_free, head_reset, is_field_value, is_token,
                              response_head_feed)
from agw._fast.pool cimport (FAIL_CONNECT, FAIL_CONNECT_TIMEOUT, FAIL_DNS, FAIL_TLS, Client, Cluster, Upstream)
from agw._fast.stream cimport buf_append, buf_consume, buf_free

cdef enum:
    MAX_INTERIM = 16        # 1xx answers to one request

cdef frozenset RESERVED = frozenset((b"host", b"content-length", b"transfer-encoding", b"connection"))
cdef dict REPEATABLE = {b"GET": M_GET, b"HEAD": M_HEAD, b"DELETE": M_DELETE, b"OPTIONS": M_OPTIONS}


cdef int check_target(bytes path) except -1:
    # Origin form in visible ASCII: nothing that could end the request line (RFC 9112 section 3.2.1).
    cdef const char* p = PyBytes_AS_STRING(path)
    cdef Py_ssize_t i
    cdef uint8_t c
    if PyBytes_GET_SIZE(path) == 0 or p[0] != b"/":
        raise ValueError("not an origin-form target")
    for i in range(PyBytes_GET_SIZE(path)):
        c = <uint8_t> p[i]
        if c <= 0x20 or c >= 0x7F or c == b"#":
            raise ValueError("octet not allowed in a request target")
    return 0


cdef int check_lines(bytes lines) except -1:
    # Whole lines, each a field that the caller may write (RFC 9112 section 5).
    cdef const char* p = PyBytes_AS_STRING(lines)
    cdef const char* end = p + PyBytes_GET_SIZE(lines)
    cdef const char* lf
    cdef const char* colon
    while p < end:
        lf = <const char*> memchr(p, b"\n", <size_t> (end - p))
        if lf == NULL or lf == p or (lf - 1)[0] != b"\r":
            raise ValueError("header line without CRLF")
        colon = <const char*> memchr(p, b":", <size_t> (lf - 1 - p))
        if colon == NULL or not is_token(p, <size_t> (colon - p)) or not is_field_value(colon + 1, <size_t> (lf - 1 - colon - 1)):
            raise ValueError("malformed header line")
        if p[:colon - p].lower() in RESERVED:
            raise ValueError("header field is not the caller's to write")
        p = lf + 1
    return 0


cdef class Fetch(Client):
    def __init__(self, Context context not None, Cluster cluster not None, bytes method not None, bytes path not None,
                 bytes lines not None, bytes body, sink, int64_t timeout_ns=0):
        cdef Upstream up
        cdef bytes length = b""
        if self.ctx is not None:
            raise ValueError("a request starts once")
        if not is_token(PyBytes_AS_STRING(method), <size_t> PyBytes_GET_SIZE(method)) or method == b"CONNECT":
            raise ValueError("not a method for an origin")
        check_target(path)
        check_lines(lines)
        if cluster.reactor is None:
            raise ValueError("the cluster is not attached")
        if body is not None:
            length = b"Content-Length: %d\r\n" % PyBytes_GET_SIZE(body)
        elif method == b"POST" or method == b"PUT" or method == b"PATCH":
            # RFC 9110 section 8.6: methods that anticipate content say that there is none.
            length = b"Content-Length: 0\r\n"
        self.ctx = context
        self.cluster = cluster
        self.sink = sink
        self.head = b"%b %b HTTP/1.1\r\nHost: %b\r\n%b%b\r\n" % (method, path, cluster.plan.authority.encode() or b"localhost", lines, length)
        self.body = body if body else None
        self.patience = timeout_ns if timeout_ns > 0 else cluster.response_timeout
        self.method = REPEATABLE.get(method, M_POST)
        self.replayable = method in REPEATABLE
        # The loop may have come here outside of any batch, with a clock that is a tick old.
        context.reactor.read_clock()
        up = cluster.acquire(self, False)
        if up is None:
            self.kick()
        else:
            self.dispatch(up)

    cdef int take(self, Context context, Upstream up, bytes octets) except -1:
        # An answer that has begun at another client of the pool; `octets` are all that came so far.
        self.ctx = context
        self.cluster = up.cluster
        self.patience = up.cluster.response_timeout
        self.method = M_POST
        self.phase = F_SENT
        self.sent = True
        self.begun = octets
        self.upstream = up
        up.owner = self
        up.paused = self.paused = True
        return self.rearm()

    def attach(self, sink):
        # Who is told of an adopted answer; hears what came so far before this returns.
        cdef bytes octets = self.begun
        if self.sink is not None or octets is None:
            raise ValueError("nothing to attach to")
        self.sink = sink
        self.begun = None
        self.paused = False
        if self.phase == F_DONE:
            sink.on_end("reset", True)
            return
        self.on_upstream_data(PyBytes_AS_STRING(octets), <size_t> PyBytes_GET_SIZE(octets))
        if self.upstream is not None and not self.paused:
            self.upstream.resume()
            self.kick()

    def __dealloc__(self):
        buf_free(&self.rbuf)
        if self.rhead != NULL:
            head_free(self.rhead)
            free(self.rhead)

    # ----------------------------------------------------------------------------------------------- the caller's side

    def cancel(self):
        if self.phase != F_DONE:
            self.drop()
            self.clear()

    def pause(self):
        self.paused = True
        if self.upstream is not None:
            self.upstream.paused = True

    def resume(self):
        self.paused = False
        if self.upstream is not None and self.upstream.paused:
            self.upstream.resume()
            self.rearm()
            self.kick()

    # -------------------------------------------------------------------------------------------------------- request

    cdef int dispatch(self, Upstream up) except -1:
        # Hand the request to a connection; another one when the kernel takes nothing on a pooled one.
        cdef int r
        while True:
            if self.body is not None:
                r = up.send2(PyBytes_AS_STRING(self.head), <size_t> PyBytes_GET_SIZE(self.head),
                             PyBytes_AS_STRING(self.body), <size_t> PyBytes_GET_SIZE(self.body))
            else:
                r = up.send(PyBytes_AS_STRING(self.head), <size_t> PyBytes_GET_SIZE(self.head))
            if r == 0:
                break
            if not up.reused:
                # A new one that broke at once: the read side tells, later, what there is to tell.
                up.readable = True
                self.ctx.reactor.defer(up)
                self.kick()
                break
            up.close()
            self.upstream = None
            up = self.cluster.acquire(self, False)
            if up is None:
                self.phase = F_WAIT
                return self.kick()
        if r == 0:
            self.sent = True
        self.phase = F_SENT
        up.paused = self.paused
        return self.rearm()

    cdef int wait(self, bint fresh) except -1:
        cdef Upstream up
        self.phase = F_WAIT
        up = self.cluster.acquire(self, fresh)
        return self.kick() if up is None else self.dispatch(up)

    cdef int kick(self) except -1:
        # Outside of a batch nobody would run what was deferred before the next tick.
        if self.ctx.reactor.wake is not None:
            self.ctx.reactor.wake(self.ctx.reactor.tick)
        return 0

    cdef int rearm(self) except -1:
        self.ctx.reactor.arm(&self.upstream.timer, self.ctx.reactor.now + self.patience)
        return 0

    cdef int on_upstream_ready(self, Upstream up) except -1:
        cdef Fetch alive = self
        alive.dispatch(up)
        return up.pump() if up.readable and up.owner is self else 0

    cdef int on_upstream_drain(self) except -1:
        # A long body on its way is a sign of life.
        return self.rearm() if self.phase == F_SENT else 0

    cdef int on_upstream_failed(self, int why) except -1:
        cdef Fetch alive = self
        if why == FAIL_CONNECT or why == FAIL_TLS:
            return alive.end("connect")
        if why == FAIL_CONNECT_TIMEOUT:
            return alive.end("connect-timeout")
        return alive.end("dns" if why == FAIL_DNS else "queue")

    # ------------------------------------------------------------------------------------------------------- response

    cdef int on_upstream_data(self, char* p, size_t n) except -1:
        # A response head, maybe behind interim ones; then the body.
        cdef Fetch alive = self     # the connection may let go of us in here
        cdef Head* h = &self.ctx.response_head
        cdef const char* at = p
        cdef size_t left = n
        cdef int r
        if self.phase == F_BODY:
            return alive.relay(p, n)
        self.replayable = False
        self.head = self.body = None
        if self.rhead != NULL:
            h = self.rhead
            buf_append(&self.rbuf, p, n)
            at = self.rbuf.p + self.rbuf.off
            left = self.rbuf.len
        else:
            head_reset(h)
        while True:
            r = response_head_feed(h, at, <uint32_t> min(left, <size_t> self.ctx.response_limits.max_head + 2),
                                   &self.ctx.response_limits, self.method)
            if r < 0:
                return alive.broken_off("protocol")
            if r == 0:
                if self.rhead == NULL:
                    self.rhead = self.ctx.detach_head(h)
                    if left:
                        buf_append(&self.rbuf, at, left)
                elif at != self.rbuf.p + self.rbuf.off:
                    buf_consume(&self.rbuf, <size_t> (at - (self.rbuf.p + self.rbuf.off)))
                return self.rearm()
            if h.status >= 200:
                return alive.respond(h, at, left)
            self.interim += 1
            if h.status == 101 or self.interim > MAX_INTERIM:
                # Nobody asked for another protocol.
                return alive.broken_off("protocol")
            at += h.size
            left -= h.size
            head_reset(h)

    cdef int respond(self, Head* h, const char* at, size_t n) except -1:
        cdef list headers = []
        cdef uint32_t i
        cdef size_t size = h.size
        for i in range(h.nheaders):
            headers.append((at[h.headers[i].name_off:h.headers[i].name_off + h.headers[i].name_len].lower(),
                            at[h.headers[i].value_off:h.headers[i].value_off + h.headers[i].value_len]))
        body_init(&self.rbody, h.framing, h.content_length)
        self.keep_alive = h.keep_alive
        self.phase = F_BODY
        self.rearm()
        try:
            self.sink.on_head(h.status, headers)
        except Exception as error:
            self.report(error)
            return self.broken_off("reset")
        # From here on h belongs to whoever uses the scratch head next; `at` is the reactor's read buffer or ours.
        return self.relay(at + size, n - size) if self.phase == F_BODY else 0

    cdef int relay(self, const char* p, size_t n) except -1:
        # What one read brought becomes one bytes object, however many chunks it had.
        cdef size_t used = 0
        cdef size_t size = 0
        cdef size_t filled = 0
        cdef const char* data = NULL
        cdef const char* run = NULL
        cdef char* out = self.ctx.reactor.scratch_out
        cdef bytes octets
        cdef int r
        while True:
            r = body_feed(&self.rbody, p, n, &used, &data, &size, &self.ctx.response_limits)
            p += used
            n -= used
            if r != BODY_DATA:
                break
            if run == NULL:
                run = data
            else:
                if run != out:
                    memcpy(out, run, filled)
                    run = out
                memcpy(out + filled, data, size)
            filled += size
        if filled or r != BODY_END:
            self.rearm()
        if filled:
            octets = PyBytes_FromStringAndSize(run, <Py_ssize_t> filled)
            try:
                self.sink.on_data(octets)
            except Exception as error:
                self.report(error)
                return self.broken_off("reset")
            if self.phase == F_DONE:
                return 0
        if r == BODY_END:
            return self.complete(n == 0)
        if r == BODY_ERROR:
            return self.broken_off("protocol")
        buf_free(&self.rbuf)
        return 0

    cdef int complete(self, bint clean) except -1:
        # The answer is whole. `clean`: nothing came behind it.
        cdef Upstream up = self.upstream
        self.upstream = None
        if clean and self.keep_alive and up.outq.len == 0:
            self.cluster.release(up)
        else:
            up.close()
        return self.end(None)

    cdef int on_upstream_eof(self, bint broken) except -1:
        cdef Fetch alive = self
        cdef Upstream up = self.upstream
        if self.phase == F_BODY and self.rbody.framing == FRAMING_EOF and not broken:
            self.keep_alive = False
            return alive.complete(True)
        if self.phase == F_SENT and self.replayable and up is not None and up.reused and not self.retried:
            # Not one octet of an answer on a pooled connection: one more try, on a new one; the others are as old.
            self.retried = True
            self.ctx.slot.gauges[G_RETRIES] += 1
            self.drop()
            self.cluster.close_idle()
            return alive.wait(True)
        return alive.broken_off("reset")

    cdef int on_upstream_timeout(self) except -1:
        cdef Fetch alive = self
        if self.paused:
            # Our own consumer is the slow one.
            return self.rearm()
        return alive.broken_off("timeout")

    # ----------------------------------------------------------------------------------------------------------- ends

    cdef int drop(self) except -1:
        cdef Upstream up = self.upstream
        if self.waiting:
            self.cluster.forget(self)
        if up is not None:
            self.upstream = None
            up.close()
        return 0

    cdef int broken_off(self, object problem) except -1:
        self.drop()
        return self.end(problem)

    cdef int end(self, object problem) except -1:
        # The last word to the sink; nothing is touched behind it.
        cdef object sink = self.sink
        if self.phase == F_DONE:
            return 0
        self.clear()
        if sink is None:
            return 0
        try:
            sink.on_end(problem, self.sent)
        except Exception as error:
            self.report(error)
        return 0

    cdef int clear(self) except -1:
        self.phase = F_DONE
        self.sink = None
        self.head = self.body = None
        buf_free(&self.rbuf)
        if self.rhead != NULL:
            head_free(self.rhead)
            free(self.rhead)
            self.rhead = NULL
        return 0

    cdef int report(self, error) except -1:
        # Not left to the reactor: some callers are not events of a connection and could not end one.
        self.ctx.slot.gauges[G_INTERNAL_ERRORS] += 1
        self.ctx.reactor.on_error(error)
        return 0


def adopt(Context context not None, Upstream up not None, bytes octets not None):
    cdef Fetch fetch = Fetch.__new__(Fetch)
    fetch.take(context, up, octets)
    return fetch
