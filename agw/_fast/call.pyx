# See call.pyi for the manual.
#
# Rules of this file:
# - a Call outlives its exchange: every method looks whether the exchange is still there and is silent when it is not;
# - a method that ends the exchange lets go of it first, because finished exchanges are used again at once;
# - what is queued for a client that does not read is bounded; over the bound the client is cut.

from libc.stdint cimport INT64_MAX, uint32_t
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE

from agw._fast.gate cimport give_back
from agw._fast.exchange cimport X_RESPONSE, Exchange
from agw._fast.forward cimport Out, put, put_hex, put_int, status_text
from agw._fast.http1 cimport FRAMING_CHUNKED, FRAMING_EOF, CLimits, Head, head_free, head_init, head_reset, request_head_feed
from agw._fast.methods cimport TOOLS_CALL
from agw._fast.outcome cimport O_OK, O_TOOL, O_UNKNOWN, outcome_of
from agw._fast.policy cimport Choice
from agw._fast.reactor cimport SCRATCH_OUT
from agw._fast.stream cimport HIGH_WATER

from libc.string cimport strlen

MAX_QUEUED = 8 * 1024 * 1024
MAX_NOTED = 8192


cdef int judge(Exchange x, bytes text) except -1:
    x.rpc_code = 0
    x.outcome = outcome_of(PyBytes_AS_STRING(text), <size_t> PyBytes_GET_SIZE(text), True, x.rpc == TOOLS_CALL, &x.rpc_code)
    if x.outcome == O_UNKNOWN:
        x.outcome = O_TOOL
    return 0


cdef class Call:
    def header(self, bytes name not None):
        for key, value in self.headers:
            if key == name:
                return value
        return None

    def values(self, bytes name not None):
        return [value for key, value in self.headers if key == name]

    @property
    def open(self):
        return self.exchange is not None

    @property
    def hopped(self):
        return self.exchange is not None and self.exchange.down.hop

    @property
    def queued(self):
        return self.exchange.down.outq.len if self.exchange is not None else 0

    @property
    def full(self):
        return self.exchange is not None and self.exchange.down.outq.len > HIGH_WATER

    @property
    def bind(self):
        return self.exchange.down.bind.key if self.exchange is not None else ""

    def note(self, uint32_t label, bytes target not None):
        # Which backend the counters and the access log name.
        if self.exchange is not None:
            self.exchange.service_label = label
            self.exchange.service_target = target

    def note_tool(self, int number):
        # Which tool the counters name: a number of the slot's table.
        if self.exchange is not None:
            self.exchange.tool = number

    def note_answer(self, bytes text not None):
        # What the counters say of an answer that does not go through reply().
        if self.exchange is not None:
            judge(self.exchange, text)

    def note_fields(self, bytes fragment not None):
        # More for the access log, behind what was noted before.
        cdef Exchange x = self.exchange
        if x is not None and x.ctx.log.enabled:
            if x.noted is not None:
                fragment = x.noted + fragment
            if PyBytes_GET_SIZE(fragment) <= MAX_NOTED:
                x.noted = fragment

    def hold(self, charge not None):
        # A charge of a concurrency limit that ends with this request.
        cdef Exchange x = self.exchange
        if x is None:
            give_back([charge])
            return
        if x.permits is None:
            x.permits = []
        x.permits.append(charge)

    def not_counted(self):
        # Somebody else counts what this request asks for.
        if self.exchange is not None:
            self.exchange.rpc = -1

    @property
    def logged(self):
        return self.exchange is not None and self.exchange.ctx.log.enabled

    def reply(self, int status, bytes content_type, bytes body not None, bytes lines=b"", int reason=0):
        cdef Exchange x = self.exchange
        if x is None:
            return
        if self.started:
            raise RuntimeError("the answer has begun")
        self.release()
        if x.is_rpc and PyBytes_GET_SIZE(body):
            judge(x, body)
        x.reply(status, PyBytes_AS_STRING(content_type) if content_type is not None else NULL, body, lines, reason)

    def reply_result(self, bytes ident not None, bytes result not None, bytes lines=b""):
        cdef Exchange x = self.exchange
        if x is None:
            return
        if self.started:
            raise RuntimeError("the answer has begun")
        if x.rpc == TOOLS_CALL:
            # Whether a tool failed stands in its result.
            self.reply(200, b"application/json", b"".join((b'{"jsonrpc":"2.0","id":', ident, b',"result":', result, b"}")), lines)
            return
        self.release()
        x.rpc_code = 0
        x.outcome = O_OK
        x.reply(200, b"application/json", result, lines, 0, ident)

    def start(self, int status, bytes lines not None, bint stream=True):
        # The head of an answer whose body follows in pieces.
        cdef Exchange x = self.exchange
        cdef Out o
        cdef bint close
        cdef const char* text
        if x is None:
            return
        if self.started:
            raise RuntimeError("the answer has begun")
        self.started = True
        self.chunked = x.client_version != 10
        close = not self.chunked or not x.down.keep_alive or x.ctx.draining
        if close:
            x.down.keep_alive = False
        o.p = x.ctx.reactor.scratch_out
        o.n = 0
        o.cap = SCRATCH_OUT
        o.full = False
        put(&o, b"HTTP/1.1 ", 9)
        put_int(&o, status)
        put(&o, b" ", 1)
        text = status_text(status)
        put(&o, text, strlen(text))
        put(&o, b"\r\n", 2)
        for part in (x.ctx.date_line, lines, x.cors_lines, x.route.reply_edits.lines if x.route.reply_edits is not None else None,
                     b"Transfer-Encoding: chunked\r\n" if self.chunked else None, b"Connection: close\r\n" if close else None, b"\r\n"):
            if part is not None:
                put(&o, PyBytes_AS_STRING(<bytes> part), PyBytes_GET_SIZE(<bytes> part))
        x.status = status
        x.head_sent = True
        x.event_stream = stream
        x.phase = X_RESPONSE
        x.client_framing = FRAMING_CHUNKED if self.chunked else FRAMING_EOF
        if x.down.send(o.p, o.n) < 0:
            x.client_gone()

    def write(self, bytes data not None):
        if self.exchange is None or not PyBytes_GET_SIZE(data):
            return
        if not self.started:
            raise RuntimeError("the answer has not begun")
        self.put_chunk(data)

    cdef int put_chunk(self, bytes data) except -1:
        cdef Exchange x = self.exchange
        cdef char room[24]
        cdef Out o
        cdef int r
        o.p = room
        o.n = 0
        o.cap = 24
        o.full = False
        if x.down.peer_closed and x.event_stream:
            return x.client_gone()
        x.response_bytes += <size_t> PyBytes_GET_SIZE(data)
        if self.chunked:
            put_hex(&o, <size_t> PyBytes_GET_SIZE(data))
            put(&o, b"\r\n", 2)
            data = b"%b%b\r\n" % (room[:o.n], data)
        r = x.down.send(PyBytes_AS_STRING(data), <size_t> PyBytes_GET_SIZE(data))
        if r < 0 or x.down.outq.len > MAX_QUEUED:
            return x.client_gone()
        if x.down.outq.len and x.down.timer.deadline_ns == INT64_MAX:
            # A reader that makes no progress is cut; only its progress moves the deadline, not ours.
            x.ctx.reactor.arm(&x.down.timer, x.ctx.reactor.now + x.bind.http.progress_timeout)
        return 0

    def end(self):
        cdef Exchange x = self.exchange
        if x is None:
            return
        if not self.started:
            raise RuntimeError("the answer has not begun")
        self.release()
        if self.chunked and x.down.send(b"0\r\n\r\n", 5) < 0:
            x.client_gone()
            return
        x.finish(False)

    def forget(self):
        # Long-lived streams do not need what they began with.
        self.headers = []
        self.head = self.body = self.params = b""

    def abort(self):
        # Ends it visibly broken.
        cdef Exchange x = self.exchange
        if x is not None:
            self.release()
            x.down.keep_alive = False
            x.finish(True)

    def pass_on(self, Choice choice not None, bytes body):
        # The rest is a plain relay to `choice`, with `body` in place of the caller's (None: as it came).
        cdef Exchange x = self.exchange
        cdef Head h
        cdef CLimits lim
        cdef bytes head = self.head
        if x is None:
            return
        if self.started:
            raise RuntimeError("the answer has begun")
        self.release()
        lim = x.bind.http.hop_limits
        head_init(&h, &lim)
        try:
            head_reset(&h)
            if request_head_feed(&h, PyBytes_AS_STRING(head), <uint32_t> PyBytes_GET_SIZE(head), &lim) <= 0:
                raise RuntimeError("a head that was accepted before")
            x.path = PyBytes_AS_STRING(self.path)
            x.path_len = <uint32_t> PyBytes_GET_SIZE(self.path)
            x.choice = choice
            if body is None:
                body = self.body
            elif h.content_length >= 0:
                h.content_length = PyBytes_GET_SIZE(body)
            x.dispatch(&h, PyBytes_AS_STRING(head), PyBytes_AS_STRING(body), <size_t> PyBytes_GET_SIZE(body), True, False)
        finally:
            head_free(&h)

    cdef release(self):
        self.ended = True
        self.exchange.call = None
        self.exchange = None

    # -------------------------------------------------------------------- called by the exchange

    def _finished(self):
        # The exchange ended, and not through us: the client left, a deadline struck, or the worker cut it.
        self.exchange = None
        if self.on_close is not None and not self.ended:
            self.on_close()
        self.on_close = self.on_drain = None

    def _drained(self):
        if self.on_drain is not None:
            self.on_drain()


def make(Exchange x, object service, str method, bytes path, bytes query, list headers, bytes head, bytes body, tuple envelope,
         bytes peer, uint32_t prefix_len):
    cdef Call call = Call.__new__(Call)
    call.exchange = x
    call.service = service
    call.method = method
    call.path = path
    call.query = query
    call.headers = headers
    call.head = head
    call.body = body
    call.kind, call.ident, call.rpc, call.params, call.name, call.uri = envelope
    call.peer = peer
    call.prefix_len = prefix_len
    call.route = x.route.label
    call.number = x.rpc
    call.identity = x.identity
    call.gate = x.route.gate
    call.charged = x.charged
    call.secure = x.down.secure
    call.labels = x.route.labels
    return call
