# See downstream.pyi for the manual.
#
# Rules of this file:
# - one request at a time per connection; what a client sends ahead waits, bounded, in `inbuf` and in the kernel;
# - the common case copies nothing: head and body are read where recv() put them;
# - after a framing error: one answer, then the connection ends, and not one further octet is parsed;
# - `agw-hop`, `agw-peer` and `agw-certificate` mean something only on a connection of another worker (see acceptor.pyx);
# - every wait has a timer: handshake, first octet, head, body progress, write progress, idle, linger.

from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.stdlib cimport free
from libc.string cimport memcpy
from cpython.bytes cimport PyBytes_AS_STRING

from agw._fast.arena cimport G_CONNECTIONS, G_PARSE_ERRORS, G_RECEIVED_BYTES, G_TLS_HANDSHAKE_FAILURES, G_TLS_HANDSHAKES
from agw._fast.exchange cimport DONE_LOCALLY, WANT_BUFFER, WANT_GATE, Downlink, Exchange
from agw._fast.forward cimport (E_BODY_TIMEOUT, E_CLOSED, E_HEADER_TIMEOUT, E_MALFORMED, E_PLAIN_HTTP, E_TOO_LARGE, Failure, Out,
                                build_reply, failure, is_hop_field, reason_name)
from agw._fast.http1 cimport (BODY_DATA, BODY_END, BODY_ERROR, F_EXPECT_CONTINUE, FRAMING_CHUNKED, FRAMING_LENGTH,
                              FRAMING_NONE, M_OTHER, CLimits, Head, Header, body_feed, body_init, head_free, head_reset,
                              request_head_feed)
from agw._fast.policy cimport Http
from agw._fast.reactor cimport EV_ERR, EV_HUP, EV_IN, EV_OUT, EV_RDHUP, SCRATCH_IN, Handler, Timer
from agw._fast.stream cimport buf_append, buf_clear, buf_consume, buf_free
from agw._fast.tls cimport T_BROKEN, T_CLOSED, T_OPEN, T_PLAIN

from base64 import b64decode
from hashlib import sha256

cdef extern from "sys/socket.h" nogil:
    ctypedef unsigned int socklen_t
    cdef enum:
        SOL_SOCKET
        SO_LINGER
    struct linger_t "linger":
        int l_onoff
        int l_linger
    int setsockopt(int fd, int level, int name, const void* value, socklen_t n)

cdef enum:
    DISCARD = 262144                # octets of an unwanted body read to keep a connection
    LINGER_NS = 2000000000
    GRACE_NS = 1500000000           # for a client that sent FIN and may have left altogether
    HOP_IDLE_NS = 75000000000       # longer than another worker keeps an idle connection
    BUFFER_NS = 300000000000        # total time for a body that must be whole

cdef bytes CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


cdef void reset_on_close(int fd) noexcept:
    cdef linger_t now
    now.l_onoff = 1
    now.l_linger = 0
    setsockopt(fd, SOL_SOCKET, SO_LINGER, &now, sizeof(linger_t))


cdef class Entrance(Handler):
    pass


cdef class Downstream(Downlink):
    def __dealloc__(self):
        buf_free(&self.inbuf)
        buf_free(&self.headbuf)
        buf_free(&self.bodybuf)
        if self.head != NULL:
            head_free(self.head)
            free(self.head)

    cdef int free_head(self) except -1:
        if self.head != NULL:
            head_free(self.head)
            free(self.head)
            self.head = NULL
        return 0

    # ------------------------------------------------------------------------------------------------ events

    cdef int on_events(self, uint32_t events) except -1:
        cdef int r
        if self.state == S_CLOSED:
            return 0
        if events & EV_ERR:
            return self.gone()
        if events & EV_RDHUP:
            self.peer_closed = True
        if events & EV_OUT and self.outq.len:
            r = self.flush()
            if r < 0:
                return self.gone()
            if r == 1:
                if self.state == S_LINGER:
                    self.ctx.reactor.arm(&self.timer, self.ctx.reactor.now + LINGER_NS)
                elif self.state == S_HEAD and not self.in_head and not self.shaking:
                    self.ctx.reactor.arm(&self.timer, self.ctx.reactor.now + self.idle_time())
                elif self.exchange is not None and self.state == S_BUSY:
                    self.ctx.reactor.disarm(&self.timer)
            elif self.state == S_BUSY or self.state == S_LINGER or (self.state == S_HEAD and not self.in_head):
                # It takes what it is sent, however slowly.
                self.ctx.reactor.arm(&self.timer, self.ctx.reactor.now + self.bind.http.progress_timeout)
            if self.exchange is not None:
                self.exchange.client_drained()
            if self.state == S_CLOSED:
                return 0
        if events & (EV_IN | EV_RDHUP | EV_HUP):
            self.readable = True
            if self.state == S_BUSY:
                if events & EV_HUP:
                    return self.gone()
                if events & EV_RDHUP and self.exchange is not None:
                    # FIN while we work: maybe half-closed and waiting, maybe gone. Streams end at once; an answer
                    # gets a short grace (RFC 9112 section 9.6 lets a half-closed client read).
                    if self.exchange.event_stream:
                        return self.gone()
                    self.mind_leaving()
                elif self.tls is not None and self.inbuf.len == 0:
                    return self.look_ahead()
                return 0
            self.read()
            self.mind_leaving()
        return 0

    cdef int mind_leaving(self) except -1:
        # The client's FIN is here and its answer is not: see GRACE_NS.
        if self.peer_closed and self.state == S_BUSY and self.exchange is not None and not self.exchange.head_sent:
            self.ctx.reactor.arm(&self.timer, self.ctx.reactor.now + GRACE_NS)
        return 0

    cdef int on_deferred(self) except -1:
        if self.state == S_CLOSED:
            return 0
        if self.body_due:
            self.tell_gate()
            if self.state == S_CLOSED:
                return 0
        if self.inbuf.len and (self.state == S_HEAD or self.state == S_BODY or self.state == S_BUFFER or self.state == S_DISCARD):
            self.consume_buffered()
        self.read()
        return self.mind_leaving()

    cdef int on_timer(self, Timer* timer) except -1:
        if self.state == S_CLOSED:
            return 0
        if timer == &self.deadline:
            return self.exchange.on_deadline() if self.exchange is not None else 0
        if self.state == S_HEAD:
            if self.outq.len:
                return self.gone()
            if self.shaking:
                self.ctx.slot.gauges[G_TLS_HANDSHAKE_FAILURES] += 1
            return self.bare_answer(E_HEADER_TIMEOUT) if self.in_head else self.close()
        if self.state == S_BODY:
            if self.read_paused:
                # Not the client's fault: the upstream does not take it; its own timer decides.
                self.ctx.reactor.arm(&self.timer, self.ctx.reactor.now + self.bind.http.progress_timeout)
                return 0
            if self.exchange is not None:
                self.keep_alive = False
                return self.exchange.fail(E_BODY_TIMEOUT, NULL, 0, 0)
            return self.close()
        if self.state == S_BUFFER:
            self.keep_alive = False
            return self.exchange.fail(E_BODY_TIMEOUT, NULL, 0, 0)
        if self.state == S_BUSY:
            # Write stalled, or the grace of a half-closed client ended without an answer.
            if self.outq.len or (self.peer_closed and self.exchange is not None and not self.exchange.head_sent):
                return self.gone()
            return 0
        return self.gone()

    cdef int abort(self) except -1:
        # The error boundary: whatever was going on ends with this connection.
        cdef Exchange x = self.exchange
        if x is not None:
            x.drop_upstream()
            x.status = x.status if x.status else 500
            x.finish(True)
        return self.close()

    # ------------------------------------------------------------------------------------------------ reading

    cdef int read(self) except -1:
        cdef Py_ssize_t n
        cdef size_t used
        cdef int budget = 8
        cdef char* scratch = self.ctx.reactor.scratch_in
        while self.readable and self.state != S_BUSY and self.state != S_CLOSED and not self.read_paused:
            if budget == 0:
                self.ctx.reactor.defer(self)
                return 0
            budget -= 1
            n = self.receive(scratch, SCRATCH_IN)
            if self.shaking and self.handshake(n):
                return 0
            if n > 0:
                self.ctx.slot.gauges[G_RECEIVED_BYTES] += <size_t> n
                if self.inbuf.len:
                    buf_append(&self.inbuf, scratch, <size_t> n)
                    self.consume_buffered()
                else:
                    used = self.consume(scratch, <size_t> n)
                    if used < <size_t> n and self.state != S_CLOSED and self.state != S_LINGER:
                        buf_append(&self.inbuf, scratch + used, <size_t> n - used)
            elif n == -1:
                return 0
            elif n == 0 or (n == -3 and self.state != S_TUNNEL):
                if self.state == S_HEAD or self.state == S_LINGER or self.state == S_DISCARD:
                    if self.outq.len and self.state == S_HEAD:
                        # Half-closed, last answer still on its way.
                        self.keep_alive = False
                        return self.linger()
                    return self.close()
                if self.state == S_TUNNEL:
                    return self.exchange.client_ended() if self.exchange is not None else 0
                return self.gone()
            else:
                return self.gone()
        return 0

    cdef int handshake(self, Py_ssize_t n) except -1:
        # After a receive() that may have carried the handshake on; 1: the caller is done with the connection.
        cdef int state = self.tls.state
        if state == T_OPEN or state == T_CLOSED:
            self.shaking = False
            self.ctx.slot.gauges[G_TLS_HANDSHAKES] += 1
            self.ctx.reactor.arm(&self.timer, self.ctx.reactor.now + (
                DRAIN_IDLE_NS if self.ctx.draining or self.acceptor.retired else self.bind.http.first_byte_timeout))
            return 0
        if n == -1:
            if not self.in_hello and self.tls.begun():
                self.in_hello = True
                self.ctx.reactor.arm(&self.timer, self.ctx.reactor.now + self.bind.http.header_timeout)
            return 0
        self.shaking = False
        self.ctx.slot.gauges[G_TLS_HANDSHAKE_FAILURES] += 1
        # Whatever is still to be said (an alert is queued already) goes as it is.
        self.tls = None
        if state == T_PLAIN:
            self.readable = True
            self.bare_answer(E_PLAIN_HTTP)
            return 1
        if state == T_BROKEN:
            self.linger()
            return 1
        return 0

    cdef int look_ahead(self) except -1:
        # Something came while we work. Over TLS the client's leaving is a message like any other, so it must be read.
        cdef Py_ssize_t n = self.receive(self.ctx.reactor.scratch_in, SCRATCH_IN)
        if n > 0:
            self.ctx.slot.gauges[G_RECEIVED_BYTES] += <size_t> n
            buf_append(&self.inbuf, self.ctx.reactor.scratch_in, <size_t> n)
        elif n == 0 or n == -3:
            if self.exchange is not None and self.exchange.event_stream:
                return self.gone()
            self.mind_leaving()
        elif n == -2:
            return self.gone()
        return 0

    cdef int consume_buffered(self) except -1:
        cdef size_t used
        used = self.consume(self.inbuf.p + self.inbuf.off, self.inbuf.len)
        if used and self.inbuf.len:
            buf_consume(&self.inbuf, used if used < self.inbuf.len else self.inbuf.len)
        return 0

    cdef size_t consume(self, const char* p, size_t n) except? 0:
        # Parses and hands on; returns how many octets are done with. The rest is kept by the caller.
        cdef size_t used = 0
        cdef size_t size
        cdef Head* h
        cdef int r
        cdef Http http = self.bind.http
        cdef const CLimits* limits
        self.consuming = True
        try:
            while used < n:
                if self.state == S_HEAD:
                    http = self.bind.http
                    limits = &http.hop_limits if self.from_worker else &http.limits
                    if self.head != NULL:
                        h = self.head
                    else:
                        h = &self.ctx.request_head
                        head_reset(h)
                    r = request_head_feed(h, p + used, <uint32_t> min(n - used, <size_t> limits.max_head + 2), limits)
                    if r == 0:
                        if self.head == NULL:
                            self.head = self.ctx.detach_head(h)
                        if not self.in_head:
                            self.in_head = True
                            self.head_started = self.ctx.reactor.now
                            self.ctx.reactor.arm(&self.timer, self.head_started + http.header_timeout)
                        break
                    if r < 0:
                        self.refuse(h)
                        return n
                    self.in_head = False
                    # Read before the call: begin_request may release the head.
                    size = h.size
                    used += size
                    used += self.begin_request(h, p + used - size, p + used, n - used)
                elif self.state == S_BODY or self.state == S_BUFFER or self.state == S_DISCARD:
                    if self.read_paused:
                        break
                    r = <int> self.take_body(p + used, n - used)
                    used += <size_t> r
                    if r == 0 and self.state != S_HEAD and self.state != S_BUSY:
                        break
                elif self.state == S_TUNNEL:
                    self.exchange.body(p + used, n - used)
                    used = n
                elif self.state == S_BUSY:
                    break
                else:
                    return n        # S_LINGER, S_CLOSED: not one further octet is looked at
        finally:
            self.consuming = False
        return used

    cdef int refuse(self, Head* h) except -1:
        # A request that cannot be framed: answer, close, forget the rest.
        cdef Exchange x = self.ctx.take_exchange()
        cdef int status = h.error
        cdef const char* problem = h.problem
        self.ctx.slot.gauges[G_PARSE_ERRORS] += 1
        self.in_head = False
        self.keep_alive = False
        x.down = self
        self.exchange = x
        x.open(M_OTHER, 11)
        self.state = S_BUSY
        self.request_complete = False
        return x.fail(E_MALFORMED, problem, status, 0)

    cdef size_t begin_request(self, Head* h, const char* buf, const char* rest, size_t n) except? 0:
        # A head is complete. Returns how many octets of `rest` belong to it and are used.
        cdef Exchange x = self.ctx.take_exchange()
        cdef int want
        self.requests += 1
        if self.from_worker:
            self.take_peer(h, buf)
        x.down = self
        self.exchange = x
        self.keep_alive = h.keep_alive and not self.ctx.draining and not self.acceptor.retired \
            and (not self.bind.http.max_requests or self.requests < self.bind.http.max_requests) \
            and (not self.bind.http.max_connection or self.ctx.reactor.now - self.accepted_ns < self.bind.http.max_connection)
        self.client_closes = not h.keep_alive
        self.request_complete = h.framing == FRAMING_NONE
        self.unbounded = h.framing == FRAMING_CHUNKED or h.content_length > DISCARD or h.flags & F_EXPECT_CONTINUE
        body_init(&self.reqbody, h.framing, h.content_length)
        self.state = S_BUSY
        self.ctx.reactor.disarm(&self.timer)
        want = x.begin(h, buf)
        if want == WANT_GATE:
            # Head and body wait; nothing more is read meanwhile.
            self.gated = True
            buf_append(&self.headbuf, buf, h.size)
            if self.head == NULL:
                self.head = self.ctx.detach_head(h)
            self.collected = self.body_due = False
            if x.body_wanted:
                self.collect_after(n, x.body_wanted)
            return 0
        return self.go_on(want, h, buf, rest, n)

    cdef int collect(self, uint64_t limit) except -1:
        return self.collect_after(self.inbuf.len, limit)

    cdef int collect_after(self, size_t n, uint64_t limit) except -1:
        # The request waits at the gate until so much of its body is here; bodybuf takes it. n octets came with the head.
        self.body_limit = limit
        if self.request_complete or self.bodybuf.len > limit or self.reqbody.framing == FRAMING_NONE \
                or (self.reqbody.framing == FRAMING_LENGTH and self.reqbody.remaining == 0):
            return self.body_for_gate()
        if not self.collected:
            self.collected = True
            self.body_until = self.ctx.reactor.now + BUFFER_NS
            if self.head.flags & F_EXPECT_CONTINUE and n == 0:
                self.send(PyBytes_AS_STRING(CONTINUE), len(CONTINUE))
        self.state = S_BUFFER
        self.ctx.reactor.arm(&self.timer, min(self.ctx.reactor.now + self.bind.http.progress_timeout, self.body_until))
        if not self.consuming and (self.inbuf.len or self.readable):
            self.go_on_soon()
        return 0

    cdef int go_on_soon(self) except -1:
        # For what a keeper said between two batches of events: nothing else would make the reactor look here before its tick.
        self.ctx.reactor.defer(self)
        if self.ctx.reactor.wake is not None:
            self.ctx.reactor.wake(self.ctx.reactor.on_readable)
        return 0

    cdef int body_for_gate(self) except -1:
        # So much is here as the gate wants. It hears so when nobody is in the middle of these octets.
        self.state = S_BUSY
        if self.reqbody.framing == FRAMING_NONE or (self.reqbody.framing == FRAMING_LENGTH and self.reqbody.remaining == 0):
            self.request_complete = True
        self.ctx.reactor.disarm(&self.timer)
        self.body_due = True
        return self.ctx.reactor.defer(self) if self.consuming else self.go_on_soon()

    cdef int tell_gate(self) except -1:
        cdef bytes body = b""
        cdef size_t n = self.bodybuf.len
        self.body_due = False
        if not self.gated or self.exchange is None:
            return 0
        if n:
            body = self.bodybuf.p[self.bodybuf.off:self.bodybuf.off + min(n, self.body_limit)]
        entry = self.exchange.entry
        try:
            entry._tell(body, self.request_complete and n <= self.body_limit)
        except Exception as error:
            self.ctx.reactor.on_error(error)
            if entry.open:
                return self.exchange.fail(E_CLOSED, NULL, 0, 0)
        return 0

    cdef int entered(self) except -1:
        # The request that waited at the gate may go on.
        cdef Exchange x = self.exchange
        cdef size_t used
        cdef int want
        cdef Head* h = self.head
        cdef const char* buf = self.headbuf.p + self.headbuf.off
        cdef const char* rest = b""
        self.gated = False
        if self.inbuf.len:
            rest = self.inbuf.p + self.inbuf.off
        self.ctx.reactor.disarm(&self.timer)
        x.locate_path(h, buf)
        self.consuming = True
        try:
            want = x.choose(h, buf)
            if want == WANT_GATE:
                self.gated = True
                return 0
            if self.collected:
                used = 0
                self.go_on_collected(want)
            else:
                used = self.go_on(want, h, buf, rest, self.inbuf.len)
        finally:
            self.consuming = False
        if self.state == S_CLOSED:
            return 0
        if self.state != S_BUFFER:
            buf_clear(&self.headbuf)
        if used and self.inbuf.len:
            buf_consume(&self.inbuf, used if used < self.inbuf.len else self.inbuf.len)
        if self.inbuf.len or self.readable:
            self.go_on_soon()
        return 0

    cdef size_t go_on(self, int want, Head* h, const char* buf, const char* rest, size_t n) except? 0:
        # What begin() or choose() decided is carried out.
        cdef Exchange x = self.exchange
        cdef size_t used = 0
        cdef size_t size
        cdef bint whole
        if want == DONE_LOCALLY:
            # Answered already; exchange_done() chose the next state. The body, if any, is still to be skipped.
            if self.head != NULL:
                self.free_head()
            return 0
        if want == WANT_BUFFER and h.framing != FRAMING_NONE:
            if h.framing == FRAMING_LENGTH and <int64_t> n >= h.content_length:
                # All here: no copy at all.
                size = <size_t> h.content_length
                self.request_complete = True
                if x.message(rest, size) == 0:
                    x.dispatch(h, buf, rest, size, True, False)
                if self.head != NULL:
                    self.free_head()
                return size
            self.state = S_BUFFER
            self.body_limit = self.bind.http.max_buffer
            self.body_until = self.ctx.reactor.now + BUFFER_NS
            if self.headbuf.len == 0:
                buf_append(&self.headbuf, buf, h.size)
            if self.head == NULL:
                self.head = self.ctx.detach_head(h)
            if self.head.flags & F_EXPECT_CONTINUE and n == 0:
                self.send(PyBytes_AS_STRING(CONTINUE), len(CONTINUE))
            self.ctx.reactor.arm(&self.timer, self.ctx.reactor.now + self.bind.http.progress_timeout)
            return 0
        if want == WANT_BUFFER:
            # POST without a body: say what is wrong with it as JSON-RPC.
            if x.message(rest, 0) == 0:
                x.dispatch(h, buf, rest, 0, True, False)
        elif h.framing == FRAMING_NONE:
            x.dispatch(h, buf, rest, 0, True, False)
        elif h.framing == FRAMING_LENGTH:
            size = n if <int64_t> n < h.content_length else <size_t> h.content_length
            whole = <int64_t> size == h.content_length
            self.reqbody.remaining -= <int64_t> size
            used = size
            if not whole:
                self.state = S_BODY
                self.ctx.reactor.arm(&self.timer, self.ctx.reactor.now + self.bind.http.progress_timeout)
                if h.flags & F_EXPECT_CONTINUE and n == 0:
                    self.send(PyBytes_AS_STRING(CONTINUE), len(CONTINUE))
            x.dispatch(h, buf, rest, size, whole, False)
        else:
            self.state = S_BODY
            self.ctx.reactor.arm(&self.timer, self.ctx.reactor.now + self.bind.http.progress_timeout)
            if h.flags & F_EXPECT_CONTINUE and n == 0:
                self.send(PyBytes_AS_STRING(CONTINUE), len(CONTINUE))
            x.dispatch(h, buf, rest, 0, False, True)
        if self.head != NULL and self.state != S_BUFFER:
            self.free_head()
        return used

    cdef int go_on_collected(self, int want) except -1:
        # The same for a request whose body has been read at the gate, in part or whole.
        cdef Exchange x = self.exchange
        cdef Head* h = self.head
        cdef const char* buf = self.headbuf.p + self.headbuf.off
        cdef const char* text = b""
        cdef size_t n = self.bodybuf.len
        cdef bint whole = self.request_complete
        cdef bint chunked = h.framing == FRAMING_CHUNKED and not whole
        self.collected = False
        if want == DONE_LOCALLY:
            return self.free_head()
        if want == WANT_BUFFER and n <= self.bind.http.max_buffer:
            self.body_limit = self.bind.http.max_buffer
            if whole:
                return self.hand_on()
            self.state = S_BUFFER
            self.ctx.reactor.arm(&self.timer, min(self.ctx.reactor.now + self.bind.http.progress_timeout, self.body_until))
            return 0
        if want == WANT_BUFFER:
            self.keep_alive = False
            return x.fail(E_TOO_LARGE, NULL, 0, 0)
        if n:
            text = self.bodybuf.p + self.bodybuf.off
        if not whole:
            self.state = S_BODY
            self.ctx.reactor.arm(&self.timer, self.ctx.reactor.now + self.bind.http.progress_timeout)
        # A chunk is as long as what was read, and a rebuilt head has no room for that.
        x.dispatch(h, buf, text, 0 if chunked else n, whole, chunked)
        if chunked and n and self.exchange is x and self.state == S_BODY:
            x.body(text, n)
        buf_clear(&self.bodybuf)
        return self.free_head()

    cdef int take_peer(self, Head* h, const char* buf) except -1:
        # Whose request another worker passes on.
        cdef uint32_t i
        cdef Header* f
        self.hop = self.secure = False
        self.passed = None
        memcpy(self.peer, b"unix", 4)
        self.peer_len = self.peer_ip_len = 4
        for i in range(h.nheaders):
            f = &h.headers[i]
            if not is_hop_field(buf + f.name_off, f.name_len):
                continue
            if f.name_len == 7:
                self.secure = f.value_len == 1 and buf[f.value_off] == b"2"
                self.hop = self.secure or (f.value_len == 1 and buf[f.value_off] == b"1")
            elif f.name_len == 15:
                try:
                    self.passed = b64decode(buf[f.value_off:f.value_off + f.value_len], validate=True) or None
                except ValueError:
                    continue        # no worker wrote that: it is nobody's
            elif 0 < f.value_len <= sizeof(self.peer):
                memcpy(self.peer, buf + f.value_off, f.value_len)
                self.peer_len = self.peer_ip_len = f.value_len
        # Some policies were asked by the worker that passed it on, and only there. What is admitted that way is remembered apart: it says
        # nothing about a client who comes directly.
        self.mark = (b"hop" if self.hop else b"") + (b"" if self.passed is None else sha256(self.passed).digest())
        return 0

    cdef int64_t idle_time(self) noexcept:
        cdef int64_t configured = self.bind.http.idle_timeout
        return HOP_IDLE_NS if self.from_worker and configured < <int64_t> HOP_IDLE_NS else configured

    cdef size_t take_body(self, const char* p, size_t n) except? 0:
        cdef size_t used = 0
        cdef size_t total = 0
        cdef const char* data = NULL
        cdef size_t size = 0
        cdef int r
        while True:
            r = body_feed(&self.reqbody, p + total, n - total, &used, &data, &size, &self.bind.http.limits)
            total += used
            if r == BODY_DATA:
                if self.state == S_BODY:
                    self.exchange.body(data, size)
                    if self.exchange is None or self.state != S_BODY:
                        return total
                    if self.read_paused and (self.reqbody.framing != FRAMING_LENGTH or self.reqbody.remaining):
                        return total        # the end of a counted body is seen all the same: no octet would tell of it later
                elif self.state == S_BUFFER:
                    if self.bodybuf.len + size > self.body_limit:
                        if self.gated:
                            buf_append(&self.bodybuf, data, size)
                            self.body_for_gate()
                            return total
                        self.keep_alive = False
                        self.exchange.fail(E_TOO_LARGE, NULL, 0, 0)
                        return total
                    buf_append(&self.bodybuf, data, size)
                else:
                    self.discard_left -= <int64_t> size
                    if self.discard_left < 0:
                        self.linger()
                        return n
                continue
            break
        if r == BODY_ERROR:
            self.ctx.slot.gauges[G_PARSE_ERRORS] += 1
            self.keep_alive = False
            if self.exchange is not None:
                self.exchange.fail(E_MALFORMED, b"malformed chunked body", 400, 0)
            else:
                self.linger()
            return total
        if r == BODY_END:
            if self.state == S_DISCARD:
                self.next_request()
            elif self.state == S_BODY:
                self.state = S_BUSY
                self.ctx.reactor.disarm(&self.timer)
                self.exchange.body_end()
            else:
                self.buffered()
            return total
        self.ctx.reactor.arm(&self.timer, min(self.ctx.reactor.now + self.bind.http.progress_timeout,
                                              self.body_until if self.state == S_BUFFER else <int64_t> 0x7FFFFFFFFFFFFFFF))
        if self.reqbody.framing == FRAMING_LENGTH and self.reqbody.remaining == 0:
            # The end of a counted body needs no further octet.
            return total + self.take_body(p + total, 0)
        return total

    cdef int buffered(self) except -1:
        # The body is whole.
        self.state = S_BUSY
        self.request_complete = True
        if self.gated:
            return self.body_for_gate()
        self.ctx.reactor.disarm(&self.timer)
        return self.hand_on()

    cdef int hand_on(self) except -1:
        # Head and body are ours until the request is handed on.
        cdef Exchange x = self.exchange
        cdef const char* text = b""
        if self.bodybuf.len:
            text = self.bodybuf.p + self.bodybuf.off
        if x.message(text, self.bodybuf.len) == 0:
            x.locate_path(self.head, self.headbuf.p + self.headbuf.off)
            x.dispatch(self.head, self.headbuf.p + self.headbuf.off, text, self.bodybuf.len, True, False)
        buf_clear(&self.headbuf)
        buf_clear(&self.bodybuf)
        self.free_head()
        return 0

    # ---------------------------------------------------------------------------------------------- after it

    cdef int begin_tunnel(self) except -1:
        self.state = S_TUNNEL
        self.keep_alive = False
        self.ctx.reactor.disarm(&self.timer)
        if self.inbuf.len:
            self.exchange.body(self.inbuf.p + self.inbuf.off, self.inbuf.len)
            buf_clear(&self.inbuf)
        if self.readable:
            self.ctx.reactor.defer(self)
        return 0

    cdef int resume_reading(self) except -1:
        self.read_paused = False
        if self.state != S_BUSY:
            self.ctx.reactor.defer(self)
        return 0

    cdef int exchange_done(self, bint broken) except -1:
        # The exchange is over (and already forgotten); what happens to the connection?
        cdef int was = self.state
        self.read_paused = False
        if self.gated:
            self.gated = self.body_due = False
            self.free_head()
        if was == S_CLOSED:
            return 0
        if broken:
            return self.close()
        if was == S_TUNNEL:
            return self.linger()
        buf_clear(&self.headbuf)
        buf_clear(&self.bodybuf)
        if was == S_BUFFER or was == S_BODY or not self.request_complete:
            # The request is not read to its end.
            if was == S_BUFFER:
                self.free_head()
            if not self.keep_alive or self.reqbody.remaining > DISCARD:
                return self.linger()
            self.discard_left = DISCARD
            self.state = S_DISCARD
            self.ctx.reactor.arm(&self.timer, self.ctx.reactor.now + LINGER_NS)
            if not self.consuming:
                self.ctx.reactor.defer(self)
            return 0
        if not self.keep_alive:
            if self.client_closes and self.outq.len == 0 and self.inbuf.len == 0 and not self.readable and not self.consuming:
                # The client asked for it and has sent nothing more: no reset can reach the answer.
                if self.tls is not None:
                    self.shut_write()
                return self.close()
            return self.linger()
        return self.next_request()

    cdef int next_request(self) except -1:
        self.state = S_HEAD
        self.ctx.reactor.arm(&self.timer, self.ctx.reactor.now + (
            self.bind.http.progress_timeout if self.outq.len
            else DRAIN_IDLE_NS if self.ctx.draining or self.acceptor.retired else self.idle_time()))
        if not self.consuming and (self.inbuf.len or self.readable):
            self.ctx.reactor.defer(self)
        return 0

    cdef int bare_answer(self, int which) except -1:
        # No exchange exists yet: a bare answer, then the end.
        cdef const Failure* f = failure(which)
        cdef Out o
        cdef bytes body = b'{"error":{"status":%d,"reason":"%b","message":"%b"}}' % (f.status, reason_name(f.reason), f.text)
        o.p = self.ctx.reactor.scratch_out
        o.n = 0
        o.cap = 4096
        o.full = False
        build_reply(&o, f.status, b"application/json", PyBytes_AS_STRING(body), len(body), None, self.ctx.date_line, 11, True, False)
        self.send(o.p, o.n)
        return self.linger()

    cdef int linger(self) except -1:
        # Close in two steps: FIN behind what is queued, then wait for the peer, so that unread octets do not turn
        # into a reset that destroys the answer on its way (RFC 9112 section 9.6).
        self.state = S_LINGER
        self.keep_alive = False
        buf_clear(&self.inbuf)
        self.free_head()
        self.shut_write()
        self.tls = None         # what still comes is thrown away, whatever it says
        if self.peer_closed and self.outq.len == 0:
            return self.close()
        self.ctx.reactor.arm(&self.timer, self.ctx.reactor.now + (self.bind.http.progress_timeout if self.outq.len else LINGER_NS))
        if self.readable and not self.consuming:
            self.ctx.reactor.defer(self)
        return 0

    cdef int gone(self) except -1:
        # The peer left or the connection broke.
        cdef Exchange x = self.exchange
        self.keep_alive = False
        if x is not None:
            return x.client_gone()
        return self.close()

    cdef int close(self) except -1:
        if self.state == S_CLOSED:
            return 0
        if self.tls is not None:
            if self.state == S_HEAD and self.outq.len == 0 and not self.reset_on_close:
                self.shut_write()
            self.tls = None
        self.state = S_CLOSED
        self.ctx.slot.gauges[G_CONNECTIONS] -= 1
        held = self.ctx.per_address.get(self.address, 0)
        if held <= 1:
            self.ctx.per_address.pop(self.address, None)
        else:
            self.ctx.per_address[self.address] = held - 1
        self.acceptor.connections.discard(self)
        self.ctx.reactor.disarm(&self.deadline)
        buf_clear(&self.inbuf)
        self.drop_queue()
        if self.reset_on_close:
            reset_on_close(self.fd)
        self.ctx.reactor.unregister(self)
        return 0
