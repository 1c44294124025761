# One request and its response. See exchange.pyi for the manual.
#
# Reading order: begin (match, admit) -> message (what the body says, for MCP) -> dispatch (rebuild, send) ->
# on_upstream_data (response head) -> respond -> relay (body) -> complete -> finish (count, log, release).
#
# Rules of this file:
# - it runs synchronously until something must be waited for, and goes on from a callback: no task, no coroutine;
# - head offsets are valid during one step only; what must outlive it is copied into a Buf of the exchange;
# - whoever calls into an exchange must not touch it after a call that may finish it: a finished exchange is reused;
# - a request is sent a second time only when nothing of it can have been processed;
# - a response that breaks off ends visibly broken: no last chunk, no invented body, connection closed.

from libc.stdint cimport INT64_MAX, int32_t, int64_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memchr, memcmp
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE

import time
from base64 import b64encode
from hashlib import sha256
from email.utils import formatdate

from agw._fast.accesslog cimport AccessLog, Record, spread
from agw._fast.arena cimport G_EXCHANGES, G_IN_FLIGHT, G_RELAY_PAUSES, G_RETRIES, Slot
from agw._fast.calls cimport CallSession, CallTable, Way, answers, find_way, has_state, is_for_anybody, may_relay
from agw._fast.forward cimport (E_BAD_PATH, E_BODY_CUT, E_CLIENT_GONE, E_CLOSED, E_CONNECT, E_CONNECT_TIMEOUT, E_DNS, E_INTERNAL,
                                E_JSON, E_METHOD, E_NO_BACKEND, E_NO_LISTENER, E_NO_ROUTE, E_MISDIRECTED, E_PROTOCOL,
                                E_QUEUE_FULL, E_QUEUE_TIMEOUT, E_RATE, E_REQUEST_TIMEOUT, E_RESET, E_RESPONSE_TIMEOUT, E_TLS, E_TOO_LARGE, E_UPGRADE,
                                Failure, Out, RequestContext, build_reply, build_request, build_response, failure, put,
                                put_hex, reason_name, upgrade_elements)
from agw._fast.http1 cimport (BODY_DATA, BODY_END, BODY_ERROR, F_EVENT_STREAM, F_UPGRADE, FRAMING_CHUNKED, FRAMING_EOF,
                              FRAMING_LENGTH, FRAMING_NONE, H_ACR_METHOD, H_CONTENT_TYPE, H_ORIGIN, M_CONNECT, M_DELETE, M_GET, M_HEAD,
                              M_OPTIONS, M_POST, M_PUT, M_TRACE, CLimits, Head, body_feed, body_init, equals_lower,
                              head_free, head_init, head_reset, needs_normalising, normalise_path, request_head_feed,
                              response_head_feed)
from agw._fast.gate cimport Charge, Gate, Identity, License, give_back
from agw._fast.jsonrpc cimport KIND_BATCH, KIND_REQUEST, KIND_RESPONSE, Envelope, envelope_scan
from agw._fast.policy cimport HOP_CERTIFICATE, HeaderEdits, Http, Match, Route
from agw._fast.methods cimport rpc_kind, rpc_number
from agw._fast.outcome cimport O_CANCELLED, O_OK, O_TOOL, O_UNKNOWN, outcome_of, outcome_of_code
from agw._fast.pool cimport FAIL_CONNECT, FAIL_CONNECT_TIMEOUT, FAIL_DNS, FAIL_QUEUE_FULL, FAIL_TLS, Client, Cluster, Upstream
from agw._fast.reactor cimport SCRATCH_OUT, Reactor, timer_unlink
from agw._fast.stream cimport HIGH_WATER, LOW_WATER, Stream, buf_append, buf_clear, buf_consume, buf_free
from agw._fast.tls cimport may_serve

from agw._fast.bare import bare_cookies, bare_query
from agw._fast.jsonrpc import locate
from agw._fast.methods import KINDS as _kinds, METHODS as _methods

cdef enum:
    PATH_ROOM = 65537
    WHOLE = 4096            # octets of an answer that are checked from end to end before they are relayed
    SMALL = 2048            # octets copied behind a head rather than sent as a second part
    MAX_INTERIM = 16        # 1xx answers to one request
    MAX_REPLAY = 65536      # octets of a request kept for one more try
    RPC_OTHER = 0
    RPC_BATCH = 1
    RPC_RESPONSE = 2
    RPC_GET = 3
    RPC_DELETE = 4
    RPC_LIST = 9
    RPC_CALL = 10


cdef tuple NOTHING = (b"", b"", b"")


cdef inline bint is_named(Identity who) noexcept:
    # Is there somebody whom states and tasks belong to?
    return who is not None and PyBytes_GET_SIZE(who.key) != 0


cdef bytes MODERN_FIELDS = b',"mcp.era":"modern","mcp.protocol.version":"2026-07-28"'


cdef class Context:
    def __init__(self, Reactor reactor not None, Slot slot not None, AccessLog log not None, uint64_t seed):
        self.reactor = reactor
        self.slot = slot
        self.log = log
        self.rng = seed | 1
        self.free_exchanges = []
        self.per_address = {}
        self.path_scratch = <char*> malloc(PATH_ROOM)
        if self.path_scratch == NULL:
            raise MemoryError()
        self.response_limits.max_line = 8192
        self.response_limits.max_field = 32768
        self.response_limits.max_head = 65536
        self.response_limits.max_headers = 200
        self.response_limits.max_chunk_line = 4096
        self.response_limits.max_chunk_ext = 16384
        self.response_limits.max_trailers = 8192
        head_init(&self.response_head, &self.response_limits)
        from agw._fast.call import make
        from agw._fast.entry import make as make_entry
        from agw._fast.fetch import adopt
        self.make_call = make
        self.make_entry = make_entry
        self.make_fetch = adopt
        self.refresh_date()

    def __dealloc__(self):
        head_free(&self.request_head)
        head_free(&self.response_head)
        free(self.path_scratch)

    def adopt(self, Http http not None):
        # A new snapshot: the scratch head follows its header limit.
        if http.limits.max_headers != self.head_capacity:
            head_free(&self.request_head)
            head_init(&self.request_head, &http.limits)
            self.head_capacity = http.limits.max_headers

    def refresh_date(self):
        self.date_line = b"Date: " + formatdate(time.time(), usegmt=True).encode() + b"\r\n"

    def drain(self):
        self.draining = True

    def trim(self):
        # Called by the worker's tick: a burst's exchanges are given back, a working set is kept.
        del self.free_exchanges[256:]

    cdef uint64_t random(self) noexcept:
        # xorshift64*: weights need spread, not secrecy.
        self.rng ^= self.rng >> 12
        self.rng ^= self.rng << 25
        self.rng ^= self.rng >> 27
        return self.rng * <uint64_t> 2685821657736338717

    cdef Exchange take_exchange(self):
        if self.free_exchanges:
            return <Exchange> self.free_exchanges.pop()
        return Exchange(self)

    cdef Head* detach_head(self, Head* shared) except NULL:
        # The scratch head's content moves to a head of its own; the scratch gets a new field table.
        cdef CLimits lim
        cdef Head* own = <Head*> malloc(sizeof(Head))
        if own == NULL:
            raise MemoryError()
        own[0] = shared[0]
        lim.max_headers = own.capacity
        head_init(shared, &lim)
        return own


cdef dict _PRINTABLE = {**{i: 63 for i in range(32)}, 34: 39, 92: 47, 127: 63}
cdef bytes _BEFORE_ID = b'{"jsonrpc":"2.0","id":'
cdef bytes _BEFORE_RESULT = b',"result":'


cdef class Downlink(Stream):
    cdef int begin_tunnel(self) except -1:
        return 0

    cdef int exchange_done(self, bint broken) except -1:
        return 0

    cdef int resume_reading(self) except -1:
        return 0

    cdef int entered(self) except -1:
        return 0

    cdef int collect(self, uint64_t limit) except -1:
        return 0

    def __dealloc__(self):
        timer_unlink(&self.deadline)


cdef class Exchange(Client):
    def __cinit__(self, Context ctx not None):
        self.ctx = ctx

    def __dealloc__(self):
        buf_free(&self.pending)
        buf_free(&self.rbuf)
        buf_free(&self.meta)
        buf_free(&self.kept)
        buf_free(&self.spliced)
        if self.rhead != NULL:
            head_free(self.rhead)
            free(self.rhead)

    # ------------------------------------------------------------------------------------------ match, admit

    cdef int open(self, int method, int version) except -1:
        # A used object becomes a new exchange of self.down.
        self.start_ns = self.ctx.reactor.now
        self.method = method
        self.client_version = version
        self.status = self.reason = 0
        self.error = NULL
        self.response_bytes = 0
        self.retries = self.interim = 0
        self.head_sent = self.event_stream = self.replayable = self.wants_upgrade = False
        self.client_fin = self.upstream_fin = False
        self.upgrade_asked = None
        self.is_rpc = False
        self.rpc = -1
        self.name_kind = 0
        self.service_label = 0xFFFF
        self.own_name = self.trace_parent = NULL
        self.served = None
        self.session = None
        self.legacy = False
        self.service_target = None
        self.tool = -1
        self.outcome = 0
        self.rpc_code = 0
        self.noted = self.seen = None
        self.identity = None
        self.refused = None
        self.permits = None
        self.presented = None
        self.shower = None
        self.charged = False
        self.envelope.kind = 0
        self.method_len = self.path_log_len = self.host_len = self.name_len = self.id_len = self.rpc_len = 0
        self.bind = self.down.bind
        self.ctx.slot.gauges[G_IN_FLIGHT] += 1
        return 0

    cdef int begin(self, Head* h, const char* buf) except -1:
        # h is complete and belongs to the caller. Returns DONE_LOCALLY (finished), WANT_STREAM or WANT_BUFFER.
        cdef int32_t listener = -1
        cdef int32_t found
        self.open(h.method, h.version)
        if h.method == M_CONNECT or h.method == M_TRACE:
            self.note_request(h, buf)
            self.fail(E_METHOD, NULL, 0, 0)
            return DONE_LOCALLY
        if self.locate_path(h, buf) < 0:
            self.note_request(h, buf)
            self.fail(E_BAD_PATH, NULL, 0, 0)
            return DONE_LOCALLY
        self.note_request(h, buf)
        found = self.bind.router.route(h, buf, self.path, self.path_len, &listener)
        if listener >= 0 and (self.bind.tls is not None or self.down.tls is not None) and not self.down.from_worker \
                and not may_serve(self.bind.tls, self.down.tls, listener):
            self.fail(E_MISDIRECTED, NULL, 0, 0)
            return DONE_LOCALLY
        if found < 0:
            self.fail(E_NO_LISTENER if listener < 0 else E_NO_ROUTE, NULL, 0, 0)
            return DONE_LOCALLY
        self.match = <Match> self.bind.matches[found]
        self.route = self.match.route
        if self.route.request_timeout:
            self.ctx.reactor.arm(&self.down.deadline, self.start_ns + self.route.request_timeout)
        return self.admit(h, buf)

    cdef int locate_path(self, Head* h, const char* buf) except -1:
        # self.path: what is routed, authorised, logged and forwarded. Points into buf or into the scratch.
        cdef int n
        self.path = buf + h.path_off
        self.path_len = h.path_len
        if self.path_len == 0:
            self.path = b"/"
            self.path_len = 1
        elif self.path[0] == b"/" and needs_normalising(self.path, self.path_len):
            n = normalise_path(self.path, self.path_len, self.ctx.path_scratch)
            if n < 0:
                return -2       # -1 would mean an exception
            self.path = self.ctx.path_scratch
            self.path_len = <uint32_t> n
        return 0

    cdef int note_request(self, Head* h, const char* buf) except -1:
        # For the access log only: the head is gone when the record is written.
        if not self.ctx.log.enabled:
            return 0
        self.method_len = h.method_len
        self.host_len = h.host_len
        self.path_log_len = self.path_len
        buf_append(&self.meta, buf + h.start, h.method_len)
        buf_append(&self.meta, buf + h.host_off, h.host_len)
        buf_append(&self.meta, self.path, self.path_len)
        if self.ctx.log.looks:
            self.seen = [self.fields(h, buf), buf[h.query_off:h.query_off + h.query_len] if h.has_query else None, None, []]
        return 0

    cdef int admit(self, Head* h, const char* buf) except -1:
        # Route policies in phase order: cors, who may enter, and what choose() decides.
        cdef Route route = self.route
        cdef int want
        cdef uint32_t i
        cdef bytes origin
        cdef bint asks = False
        if route.cors is not None:
            origin = None
            for i in range(h.nheaders):
                if h.headers[i].id == H_ORIGIN:
                    origin = buf[h.headers[i].value_off:h.headers[i].value_off + h.headers[i].value_len]
                elif h.headers[i].id == H_ACR_METHOD:
                    asks = True
            if origin is not None and h.method == M_OPTIONS and asks:
                self.reply(200, NULL, b"", route.cors.preflight(origin), 1)
                return DONE_LOCALLY
            self.cors_lines = route.cors.response_lines(origin)
        if route.gate is not None:
            want = self.enter(<Gate> route.gate, h, buf)
            if want != ENTERED:
                return want
        return self.choose(h, buf)

    cdef int enter(self, Gate gate, Head* h, const char* buf) except -1:
        # ENTERED, WANT_GATE (the keeper takes its time), or DONE_LOCALLY (refused).
        cdef Identity who = None
        cdef bytes shown
        cdef bint simple
        if self.down.mark is None:
            certificate = self.down.tls.certificate() if self.down.tls is not None else None
            self.down.mark = b"" if certificate is None else sha256(certificate).digest()
        simple = len(gate.headers) == 1 and not gate.elsewhere and not gate.by_peer and not self.down.mark
        if simple:
            who = gate.recall(h, buf, self.down.known, self.ctx.reactor.now)
            if who is not None:
                self.down.known = who
                return self.pass_in(who, who.entry)
        shown = gate.shown(h, buf, self.down.peer[:self.down.peer_ip_len], self.down.mark)
        if shown is not None and not simple:
            who = gate.find(shown, self.ctx.reactor.now)
            if who is not None:
                return self.pass_in(who, who.entry)
        self.is_rpc = self.route.speaks_rpc
        return self.ask(gate.keeper, gate, h, buf, shown)

    cdef int ask(self, object asked, Gate gate, Head* h, const char* buf, bytes shown) except -1:
        # Whoever decides about the request, or has what its backend is presented: ENTERED, WANT_GATE or DONE_LOCALLY.
        cdef int state
        if asked is None:
            self.fail(E_CLOSED, NULL, 0, 0)
            return DONE_LOCALLY
        entry = self.ctx.make_entry(
            self, asked, gate, self.path[:self.path_len], buf[h.query_off:h.query_off + h.query_len] if h.has_query else None, self.fields(h, buf),
            shown)
        self.entry = entry
        self.body_wanted = 0
        try:
            state = entry._ask()
        except Exception as error:
            self.ctx.reactor.on_error(error)
            self.fail(E_CLOSED, NULL, 0, 0)
            return DONE_LOCALLY
        if state == 0:
            self.phase = X_GATE
            return WANT_GATE
        if state == 2:
            self.turn_away(entry.refusal)
            return DONE_LOCALLY
        if gate is None:
            self.presented = entry.presented
            self.shower = entry
            return ENTERED
        return self.pass_in(entry.identity, entry.licence)

    cdef int pass_in(self, Identity who, License licence) except -1:
        self.identity = who
        # What another worker passes on was charged there.
        if licence.charges and not self.down.from_worker and not self.charge(licence):
            return DONE_LOCALLY
        return ENTERED

    cdef bint charge(self, License licence) except -1:
        # False: a limit is reached, and the request has been refused. What other limits took is not given back: asking costs.
        cdef Charge c
        cdef bytes lines = None
        for c in licence.charges:
            if not c.limit.take(c.key, c.cost, self.ctx.reactor.now, self.ctx.reactor.wall):
                lines = c.limit.lines()
                self.cors_lines = lines if self.cors_lines is None else self.cors_lines + lines
                self.is_rpc = self.route.speaks_rpc
                self.fail(E_RATE, NULL, 0, 0)
                return False
            if c.limit.kind == 1:
                if self.permits is None:
                    self.permits = []
                self.permits.append(c)
            elif lines is None:
                lines = c.limit.lines()
        if lines is not None:
            self.cors_lines = lines if self.cors_lines is None else self.cors_lines + lines
        return True

    cdef int opened(self, Identity who, License licence) except -1:
        # The keeper let it in, after a while. The head is with the connection.
        if self.pass_in(who, licence) == ENTERED:
            self.down.entered()
        return 0

    cdef int armed(self, object presented) except -1:
        # The backend's credential came, after a while.
        self.presented = presented
        self.down.entered()
        return 0

    cdef int turn_away(self, refusal) except -1:
        # Somebody may not enter. `cause` is for the log, `message` for the caller.
        cdef bytes message = refusal.message
        cdef bytes cause = (refusal.cause or message.decode("latin-1")).translate(_PRINTABLE).encode("ascii", "replace")[:256]
        cdef bytes body = refusal.body
        cdef bytes ident = b"null"
        self.refused = cause
        self.error = PyBytes_AS_STRING(cause)
        self.drop_upstream()
        if body is None and self.is_rpc:
            self.rpc_code = refusal.code
            self.outcome = outcome_of_code(self.rpc_code)
            if self.id_len:
                start = self.method_len + self.host_len + self.path_log_len
                ident = self.meta.p[self.meta.off + start:self.meta.off + start + self.id_len]
            body = b'{"jsonrpc":"2.0","id":%b,"error":{"code":%d,"message":"%b","data":{"reason":"%b","status":%d}}}' % (
                ident, refusal.code, message.replace(b'"', b"'"), reason_name(refusal.reason), refusal.status)
        elif body is None:
            body = b'{"error":{"status":%d,"reason":"%b","message":"%b"}}' % (
                refusal.status, reason_name(refusal.reason), message.replace(b'"', b"'"))
        return self.reply(refusal.status, PyBytes_AS_STRING(<bytes> refusal.content_type), body, refusal.lines, refusal.reason)

    cdef list fields(self, Head* h, const char* buf):
        # Copies: names in lower case, wire order.
        cdef uint32_t i
        cdef list found = []
        for i in range(h.nheaders):
            found.append((buf[h.headers[i].name_off:h.headers[i].name_off + h.headers[i].name_len].lower(),
                          buf[h.headers[i].value_off:h.headers[i].value_off + h.headers[i].value_len]))
        return found

    cdef int choose(self, Head* h, const char* buf) except -1:
        # What happens with a request that may enter: redirect, direct response, or a backend.
        cdef Route route = self.route
        cdef int want
        if self.presented is not None:
            return self.proceed(h, buf)
        self.is_rpc = False
        if route.redirect is not None:
            return self.redirect(route.redirect, h, buf)
        if route.direct is not None:
            status, body, lines = route.direct
            self.reply(status, NULL, body, lines, 1)
            return DONE_LOCALLY
        self.choice = route.choose(self.ctx.random())
        if self.choice is None:
            self.fail(E_NO_BACKEND, NULL, 0, 0)
            return DONE_LOCALLY
        if self.choice.redirect is not None:
            return self.redirect(self.choice.redirect, h, buf)
        if self.choice.auth is not None:
            asked = self.choice.auth.presenting
            self.presented = None if asked is None else asked.constant
            if self.presented is None and (asked is None or not asked.signs):
                want = self.ask(asked, None, h, buf, None)
                if want != ENTERED:
                    return want
        return self.proceed(h, buf)

    cdef int proceed(self, Head* h, const char* buf) except -1:
        # What the chosen backend needs of the request: its body as it comes, or whole.
        cdef Http http = self.bind.http
        if self.choice.auth is not None and self.choice.auth.presenting.signs and h.framing != FRAMING_NONE and self.choice.auth.presenting.whole:
            if h.content_length > <int64_t> http.max_buffer:
                self.fail(E_TOO_LARGE, NULL, 0, 0)
                return DONE_LOCALLY
            return WANT_BUFFER
        if self.choice.service is not None or self.choice.cluster.is_mcp:
            self.is_rpc = True
            if h.method == M_POST or (self.choice.service is not None and h.framing != FRAMING_NONE):
                if h.content_length > <int64_t> http.max_buffer:
                    self.fail(E_TOO_LARGE, NULL, 0, 0)
                    return DONE_LOCALLY
                return WANT_BUFFER
            if h.method == M_GET:
                self.rpc = RPC_GET
            elif h.method == M_DELETE:
                self.rpc = RPC_DELETE
            elif self.choice.service is not None or (h.method != M_OPTIONS and h.method != M_HEAD):
                self.fail(E_METHOD, NULL, 0, 0)
                return DONE_LOCALLY
        elif h.flags & F_UPGRADE and h.upgrade_len and h.framing == FRAMING_NONE:
            asked = upgrade_elements(buf[h.upgrade_off:h.upgrade_off + h.upgrade_len])
            if b"h2c" not in asked:
                self.wants_upgrade = True
                self.upgrade_asked = asked
        return WANT_STREAM

    def redirect_lines(self, bytes location):
        return b"Location: " + location + b"\r\n"

    cdef int redirect(self, rule, Head* h, const char* buf) except -1:
        cdef bytes host = buf[h.host_off:h.host_off + h.host_len]
        cdef bytes path = self.path[:self.path_len]
        cdef bytes query = buf[h.query_off:h.query_off + h.query_len] if h.has_query else None
        self.reply(rule.status, NULL, b"", self.redirect_lines(rule.location(host, path, query, self.match.prefix_len)), 1)
        return DONE_LOCALLY

    # --------------------------------------------------------------------------------------- message, dispatch

    cdef int message(self, const char* body, size_t n) except -1:
        # What a JSON-RPC body says. 0: fine; 1: refused and finished.
        cdef Envelope* e = &self.envelope
        cdef int32_t rpc
        if self.method != M_POST or not self.is_rpc:
            return 0
        if envelope_scan(body, <uint32_t> n, e, 64) < 0:
            if e.code != -32700 and (e.id_kind == 1 or e.id_kind == 2):
                # What is no JSON has no id; guessing one would name a request nobody sent.
                self.id_len = e.id.len if e.id.len <= 1024 else 0
                buf_append(&self.meta, body + e.id.off, self.id_len)
            self.rpc = RPC_OTHER
            self.fail(E_JSON, e.problem, 0, e.code)
            return 1
        if e.kind == KIND_BATCH:
            self.rpc = RPC_BATCH
            return 0
        if e.kind == KIND_RESPONSE:
            self.rpc = RPC_RESPONSE
            return 0
        rpc = rpc_number(body + e.method.off, e.method.len)
        self.rpc = RPC_OTHER if rpc < 0 else rpc
        if e.kind == KIND_REQUEST and e.id.len <= 1024:
            self.id_len = e.id.len
            buf_append(&self.meta, body + e.id.off, e.id.len)
        if self.ctx.log.enabled:
            if self.seen is not None:
                self.seen[2] = body[e.params.off:e.params.off + e.params.len]
            self.rpc_len = e.method.len if e.method.len <= 128 else 0
            buf_append(&self.meta, body + e.method.off, self.rpc_len)
            if e.name.len and e.name.len <= 1024:
                self.name_kind = 2 if self.rpc == 12 else 1
                self.name_len = e.name.len
                buf_append(&self.meta, body + e.name.off, e.name.len)
            elif e.uri.len and e.uri.len <= 1024:
                self.name_kind = 3
                self.name_len = e.uri.len
                buf_append(&self.meta, body + e.uri.off, e.uri.len)
        return 0

    cdef int dispatch(self, Head* h, const char* buf, const char* body, size_t n, bint complete, bint chunked) except -1:
        # Rebuild the request and hand it (with the first n octets of its body) to an upstream connection.
        # `complete`: that was the whole body. `chunked`: the body goes on in chunks of our own making.
        cdef Out o
        cdef RequestContext rc
        cdef Cluster cluster = self.choice.cluster
        cdef Upstream up
        cdef bytes built, proof, query
        cdef bytes lines = None
        cdef HeaderEdits more = self.identity.edits if self.identity is not None else None
        if self.choice.service is not None:
            taken = 0 if self.choice.table is None else self.take_shortcut(h, buf, body, n)
            if taken < 0:
                return 0
            if taken == 0:
                return self.hand_over(h, buf, body, n)
            cluster = self.choice.cluster
            if self.spliced.len:
                body = self.spliced.p + self.spliced.off
                n = self.spliced.len
                h.content_length = <int64_t> n
        o.p = self.ctx.reactor.scratch_out
        o.n = 0
        o.cap = SCRATCH_OUT
        o.full = False
        rc.path = self.path
        rc.path_len = self.path_len
        if self.choice.path is not None:
            rc.path = PyBytes_AS_STRING(self.choice.path)
            rc.path_len = <uint32_t> PyBytes_GET_SIZE(self.choice.path)
        elif self.choice.path_prefix is not None:
            built = self.choice.path_prefix + self.path[self.match.prefix_len:self.path_len]
            if not built.startswith(b"/"):
                built = b"/" + built
            rc.path = PyBytes_AS_STRING(built)
            rc.path_len = <uint32_t> PyBytes_GET_SIZE(built)
        rc.peer = self.down.peer
        rc.peer_len = self.down.peer_ip_len
        rc.upgrade = self.wants_upgrade
        rc.secure = self.down.secure
        rc.certificate = NULL
        if self.choice.hop and self.down.mark and self.down.tls is not None:
            # What the client proved here holds there, too. Only a worker is believed in this, and from outside nobody gets it through.
            proof = b64encode(self.down.tls.certificate() or b"")
            if PyBytes_GET_SIZE(proof) > HOP_CERTIFICATE:
                return self.fail(E_INTERNAL, "the client's certificate is too large to pass on to another worker", 0, 0)
            rc.certificate = PyBytes_AS_STRING(proof)
            rc.certificate_len = <uint32_t> PyBytes_GET_SIZE(proof)
        rc.name = self.own_name
        rc.name_len = self.own_name_len
        rc.parent = self.trace_parent
        rc.query = buf + h.query_off
        rc.query_len = h.query_len
        # The query of a request to the gateway's own service is none of its targets' business.
        rc.mark = b"?" if h.has_query and self.served is None else 0
        rc.cookieless = False
        if self.presented is not None:
            lines = <bytes> (<tuple> self.presented)[0]
        if self.choice.bare is not None:
            bare, eaten = self.choice.bare
            added = self.presented if self.presented is not None else NOTHING
            query = bare_query(rc.query[:rc.query_len] if rc.mark else None, bare, added[1])
            rc.mark = 0
            if query is not None:
                rc.query = PyBytes_AS_STRING(query)
                rc.query_len = <uint32_t> PyBytes_GET_SIZE(query)
                rc.mark = b"&" if memchr(rc.path, 63, rc.path_len) != NULL else b"?"
            if eaten or added[2]:
                rc.cookieless = True
                lines = (lines if lines is not None else b"") + bare_cookies(self.fields(h, buf), eaten, added[2])
        if lines and more is not None and more.lines:
            # What the backend is presented stands once, whatever another policy adds.
            more = more.without(lines)
        self.request_chunked = chunked
        if chunked:
            rc.framing = FRAMING_CHUNKED
            rc.length = 0
        elif h.framing == FRAMING_CHUNKED:
            # It was chunked and is whole now.
            rc.framing = FRAMING_LENGTH
            rc.length = <int64_t> n
        else:
            rc.framing = h.framing
            rc.length = h.content_length if h.content_length > 0 else 0
        if build_request(&o, h, buf, self.choice, self.bind.http, &rc, more, lines) < 0:
            return self.fail(E_INTERNAL, NULL, 0, 0)
        if self.choice.auth is not None and self.choice.auth.presenting.signs:
            # What is signed is what goes out: nothing but the signature is added.
            signed = self.choice.auth.presenting.sign(
                self.identity, _methods[self.method], o.p[:o.n - 4], body[:n] if complete and not chunked else None, cluster.tls is not None)
            if not isinstance(signed, bytes):
                return self.turn_away(signed)
            o.n -= 2
            put(&o, PyBytes_AS_STRING(<bytes> signed), <size_t> PyBytes_GET_SIZE(<bytes> signed))
            put(&o, b"\r\n", 2)
            if o.full:
                return self.fail(E_INTERNAL, NULL, 0, 0)
        self.own_name = self.trace_parent = NULL
        if chunked:
            if n:
                put_hex(&o, n)
                put(&o, b"\r\n", 2)
                put(&o, body, n)
                put(&o, b"\r\n", 2)
            if complete:
                put(&o, b"0\r\n\r\n", 5)
            n = 0
        elif n and n <= SMALL:
            put(&o, body, n)
            n = 0
        self.down.request_complete = complete
        self.replayable = complete and (h.method == M_GET or h.method == M_HEAD or h.method == M_PUT or h.method == M_DELETE
                                        or h.method == M_OPTIONS) and o.n + n <= MAX_REPLAY and not self.wants_upgrade
        up = cluster.acquire(self, False)
        if up is None:
            self.phase = X_WAIT
            buf_append(&self.pending, o.p, o.n)
            if n:
                buf_append(&self.pending, body, n)
            return 0
        return self.send_first(up, &o, body, n)

    cdef int take_shortcut(self, Head* h, const char* buf, const char* body, size_t n) except -1:
        # 1: one of the service's targets answers this without it, and self.choice says which. -2: refused, it is over.
        cdef Way way
        cdef Envelope* e = &self.envelope
        cdef list found = []
        cdef CallTable table = <CallTable> self.choice.table
        cdef Choice choice
        cdef Gate gate
        cdef License licence
        presented = None
        if self.method != M_POST:
            return 0
        choice = find_way(table, h, buf, e, body, n, self.rpc, &way, found)
        if choice is None:
            return 0
        if found and (<CallSession> found[0]).principal != (self.identity.key if self.identity is not None else b""):
            return 0
        if is_named(self.identity) and has_state(body, n):
            return 0
        if choice.auth is not None:
            presented = choice.auth.presenting.now(self.identity)
            if presented is None:
                return 0
        gate = <Gate> self.route.gate
        if gate is not None and gate.messages:
            # Also what another worker passed on: it did so before it looked at the message.
            # What is judged by more than who calls what is judged in Python, and so is every name for the first time.
            licence = gate.licence(self.identity, body[e.name.off:e.name.off + e.name.len]) if self.rpc == RPC_CALL else None
            if licence is None or licence.stamp != table.stamp:
                return 0
            if licence.charges and not self.charge(licence):
                return -2
            self.charged = True
        self.presented = presented
        self.served = self.choice
        self.choice = choice
        self.legacy = way.modern == 0
        self.own_name = NULL
        self.trace_parent = way.parent
        if found:
            self.session = <CallSession> found[0]
            self.session.used_ns = self.ctx.reactor.now
            self.session.flights[body[e.id.off:e.id.off + e.id.len]] = self
        if self.rpc == RPC_CALL:
            if way.name != NULL:
                self.tool = self.ctx.slot.tool(choice.cluster.label, way.name, way.name_len)
            else:
                self.tool = self.ctx.slot.tool(choice.cluster.label, body + e.name.off, e.name.len)
        self.noted = MODERN_FIELDS if way.modern else self.session.log_fields
        self.kept_head = h.size - h.start
        buf_append(&self.kept, buf + h.start, self.kept_head)
        buf_append(&self.kept, body, n)
        if way.name != NULL:
            buf_append(&self.spliced, body, e.name.off)
            buf_append(&self.spliced, way.name, way.name_len)
            buf_append(&self.spliced, body + e.name.off + e.name.len, n - e.name.off - e.name.len)
            if way.modern:
                # Interned by the table, which outlives this step.
                self.own_name = way.name
                self.own_name_len = way.name_len
        elif way.modern and (e.name.len or e.uri.len):
            self.own_name = body + e.name.off if e.name.len else body + e.uri.off
            self.own_name_len = e.name.len if e.name.len else e.uri.len
        return 1

    cdef int escalate(self, const char* at, size_t n) except -1:
        # The answer that has begun is not one to relay: the service goes on with it, on the connection it comes on.
        cdef Upstream up = self.upstream
        cdef Head h
        cdef CLimits lim = self.bind.http.hop_limits
        cdef uint32_t target = self.choice.target
        cdef object service = self.served.service
        cdef bytes octets = at[:n]
        cdef bytes head = self.kept.p[self.kept.off:self.kept.off + self.kept_head]
        cdef bytes text = self.kept.p[self.kept.off + self.kept_head:self.kept.off + self.kept.len]
        cdef object fetch = self.ctx.make_fetch(self.ctx, up, octets)
        self.upstream = None
        if self.rhead != NULL:
            head_free(self.rhead)
            free(self.rhead)
            self.rhead = NULL
        self.choice = self.served
        self.served = None
        self.service_label = service.label
        self.noted = None
        self.tool = -1
        self.phase = X_SERVICE
        head_init(&h, &lim)
        try:
            head_reset(&h)
            request_head_feed(&h, PyBytes_AS_STRING(head), <uint32_t> PyBytes_GET_SIZE(head), &lim)
            envelope_scan(PyBytes_AS_STRING(text), <uint32_t> PyBytes_GET_SIZE(text), &self.envelope, 64)
            self.locate_path(&h, PyBytes_AS_STRING(head))
            self.call = self.new_call(&h, PyBytes_AS_STRING(head), text)
        finally:
            head_free(&h)
        self.end_flight()
        try:
            service.resume(self.call, target, fetch)
        except Exception as error:
            self.ctx.reactor.on_error(error)
            if self.call is not None:
                return self.fail(E_INTERNAL, NULL, 0, 0)
        return 0

    def give_up(self):
        # The client cancelled this request: it says nothing further, if it has not begun to. Returns the target it was at.
        cdef int target = <int> self.choice.target
        if not self.head_sent:
            self.drop_upstream()
            self.reply(200, b"text/event-stream", b"", None, 0)
        return target

    def end_flight(self):
        # The request is no longer under way in the data path.
        if self.session is not None:
            start = self.method_len + self.host_len + self.path_log_len
            self.session.flights.pop(self.meta.p[self.meta.off + start:self.meta.off + start + self.id_len], None)
            self.session = None

    cdef int hand_over(self, Head* h, const char* buf, const char* body, size_t n) except -1:
        # Python code serves this request.
        cdef object service = self.choice.service
        self.down.request_complete = True
        self.phase = X_SERVICE
        self.service_label = service.label
        self.call = self.new_call(h, buf, body[:n])
        try:
            service.handle(self.call)
        except Exception as error:
            self.ctx.reactor.on_error(error)
            if self.call is not None:
                return self.fail(E_INTERNAL, NULL, 0, 0)
        return 0

    cdef object new_call(self, Head* h, const char* buf, bytes text):
        # Everything Python code may look at is copied, because it may wait.
        cdef Envelope* e = &self.envelope
        cdef list headers = self.fields(h, buf)
        cdef tuple envelope = ("", None, None, None, None, None)
        if self.method == M_POST:
            envelope = (_kinds[e.kind],
                        text[e.id.off:e.id.off + e.id.len] if e.id_kind else None,
                        text[e.method.off:e.method.off + e.method.len] if e.method.off else None,
                        text[e.params.off:e.params.off + e.params.len] if e.params.len else None,
                        text[e.name.off:e.name.off + e.name.len] if e.name.off else None,
                        text[e.uri.off:e.uri.off + e.uri.len] if e.uri.off else None)
        return self.ctx.make_call(
            self, self.choice.service, _methods[self.method], self.path[:self.path_len],
            buf[h.query_off:h.query_off + h.query_len] if h.has_query else None, headers, buf[h.start:h.size], text, envelope,
            self.down.peer[:self.down.peer_ip_len], self.match.prefix_len)

    cdef int send_first(self, Upstream up, Out* o, const char* body, size_t n) except -1:
        cdef Cluster cluster = self.choice.cluster
        cdef int r
        if self.replayable:
            buf_append(&self.pending, o.p, o.n)
            if n:
                buf_append(&self.pending, body, n)
        while True:
            r = up.send2(o.p, o.n, body, n) if n else up.send(o.p, o.n)
            if r == 0:
                break
            # A pooled connection that died: the kernel took nothing, so another one may be used, whatever the method.
            up.close()
            self.upstream = None
            up = cluster.acquire(self, False)
            if up is None:
                self.phase = X_WAIT
                if not self.replayable:
                    buf_append(&self.pending, o.p, o.n)
                    if n:
                        buf_append(&self.pending, body, n)
                return 0
        self.phase = X_SENT
        self.ctx.reactor.arm(&up.timer, self.ctx.reactor.now
                             + (self.choice.response_timeout if self.choice.response_timeout else cluster.response_timeout))
        if up.outq.len > HIGH_WATER:
            self.down.read_paused = True
        return 0

    cdef int on_upstream_ready(self, Upstream up) except -1:
        # A connection for a waiting request; everything so far is in `pending`.
        cdef int64_t patience = self.choice.response_timeout if self.choice.response_timeout else self.choice.cluster.response_timeout
        if up.send(self.pending.p + self.pending.off, self.pending.len) < 0:
            if up.reused:
                up.close()
                self.upstream = None
                up = self.choice.cluster.acquire(self, False)
                return 0 if up is None else self.on_upstream_ready(up)
            return self.upstream_failed(E_RESET)
        if not self.replayable:
            buf_clear(&self.pending)
        self.phase = X_TUNNEL if self.phase == X_TUNNEL else X_SENT
        self.ctx.reactor.arm(&up.timer, self.ctx.reactor.now + patience)
        if self.down.read_paused and up.outq.len <= HIGH_WATER:
            self.down.resume_reading()
        return up.pump() if up.readable else 0

    cdef int on_upstream_failed(self, int why) except -1:
        if why == FAIL_CONNECT:
            return self.fail(E_CONNECT, NULL, 0, 0)
        if why == FAIL_CONNECT_TIMEOUT:
            return self.fail(E_CONNECT_TIMEOUT, NULL, 0, 0)
        if why == FAIL_DNS:
            return self.fail(E_DNS, NULL, 0, 0)
        if why == FAIL_TLS:
            return self.fail(E_TLS, NULL, 0, 0)
        return self.fail(E_QUEUE_FULL if why == FAIL_QUEUE_FULL else E_QUEUE_TIMEOUT, NULL, 0, 0)

    cdef int body(self, const char* p, size_t n) except -1:
        # More of the request's body (or of the tunnel). Sets down.read_paused when enough is queued.
        cdef char head[24]
        cdef Out o
        cdef Upstream up = self.upstream
        cdef int r
        o.p = head
        o.n = 0
        o.cap = 24
        o.full = False
        if self.request_chunked and self.phase != X_TUNNEL:
            put_hex(&o, n)
            put(&o, b"\r\n", 2)
        if up is None:
            if self.phase != X_WAIT:
                return 0
            buf_append(&self.pending, head, o.n)
            buf_append(&self.pending, p, n)
            if self.request_chunked:
                buf_append(&self.pending, b"\r\n", 2)
            self.down.read_paused = self.pending.len > HIGH_WATER
            return 0
        r = up.send2(head, o.n, p, n) if o.n else up.send(p, n)
        if r == 0 and self.request_chunked and self.phase != X_TUNNEL:
            r = up.send(b"\r\n", 2)
        if r < 0:
            # The answer may be on its way already (early response, then close): let the read side decide.
            up.readable = True
            self.ctx.reactor.defer(up)
            return 0
        if self.phase == X_SENT:
            self.ctx.reactor.arm(&up.timer, self.ctx.reactor.now + self.choice.cluster.response_timeout)
        elif self.phase == X_TUNNEL:
            # Traffic of either direction keeps a tunnel open.
            self.ctx.reactor.arm(&up.timer, self.ctx.reactor.now + self.bind.http.stream_idle_timeout)
        if up.outq.len > HIGH_WATER:
            self.down.read_paused = True
            self.ctx.slot.gauges[G_RELAY_PAUSES] += 1
        return 0

    cdef int body_end(self) except -1:
        cdef Upstream up = self.upstream
        self.down.request_complete = True
        if not self.request_chunked:
            return 0
        if up is None:
            if self.phase == X_WAIT:
                buf_append(&self.pending, b"0\r\n\r\n", 5)
            return 0
        up.send(b"0\r\n\r\n", 5)
        return 0

    cdef int client_ended(self) except -1:
        # The client ended its direction of a tunnel.
        self.client_fin = True
        if self.upstream is not None:
            self.upstream.shut_write()
        return self.tunnel_over()

    cdef int tunnel_over(self) except -1:
        cdef Upstream up = self.upstream
        if self.client_fin and self.upstream_fin and (up is None or up.outq.len == 0):
            self.drop_upstream()
            return self.finish(False)
        return 0

    cdef int on_upstream_drain(self) except -1:
        if self.phase == X_TUNNEL and self.client_fin and self.upstream_fin:
            return self.tunnel_over()
        if self.down.read_paused:
            self.down.resume_reading()
        return 0

    # ---------------------------------------------------------------------------------------------- response

    cdef int on_upstream_data(self, char* p, size_t n) except -1:
        cdef Head* h
        cdef Upstream up = self.upstream
        cdef int r
        cdef Out o
        cdef const char* at = p
        cdef size_t left = n
        if self.phase == X_RESPONSE:
            o.p = self.ctx.reactor.scratch_out
            o.n = 0
            o.cap = SCRATCH_OUT
            o.full = False
            return self.relay(&o, p, n)
        if self.phase == X_TUNNEL:
            self.ctx.reactor.arm(&up.timer, self.ctx.reactor.now + self.bind.http.stream_idle_timeout)
            if self.down.send(p, n) < 0:
                return self.client_gone()
            if self.down.outq.len > HIGH_WATER:
                up.paused = True
            return 0
        # A response head, maybe behind interim ones.
        if self.replayable:
            self.replayable = False
            buf_clear(&self.pending)
        h = &self.ctx.response_head
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
                return self.upstream_failed(E_PROTOCOL)
            if r == 0:
                if self.rhead == NULL:
                    self.rhead = self.ctx.detach_head(h)
                    buf_append(&self.rbuf, at, left)
                elif at != self.rbuf.p + self.rbuf.off:
                    buf_consume(&self.rbuf, <size_t> (at - (self.rbuf.p + self.rbuf.off)))
                return 0
            if h.status >= 200 or h.status == 101:
                break
            self.interim += 1
            if self.interim > MAX_INTERIM:
                return self.upstream_failed(E_PROTOCOL)
            if h.status != 100 and self.client_version == 11:
                o.p = self.ctx.reactor.scratch_out
                o.n = 0
                o.cap = SCRATCH_OUT
                o.full = False
                build_response(&o, h, at, None, None, self.bind.http, 11, FRAMING_NONE, False, False)
                if self.down.send(o.p, o.n) < 0:
                    return self.client_gone()
            at += h.size
            left -= h.size
            head_reset(h)
        if self.served is not None and h.status == 200 and h.framing == FRAMING_LENGTH and not h.flags & F_EVENT_STREAM \
                and <int64_t> (left - h.size) < h.content_length <= MAX_REPLAY:
            # What it answers is judged when it is whole. A small answer is worth the wait.
            if self.rhead == NULL:
                self.rhead = self.ctx.detach_head(h)
                buf_append(&self.rbuf, at, left)
            elif at != self.rbuf.p + self.rbuf.off:
                buf_consume(&self.rbuf, <size_t> (at - (self.rbuf.p + self.rbuf.off)))
            head_reset(self.rhead)
            return 0
        return self.respond(h, at, at + h.size, left - h.size)

    cdef bint relayable(self, const Head* h, const char* buf, const char* rest, size_t n) except -1:
        # Is this, as far as it is here, the JSON answer to the very request? Everything else is for the service to judge.
        cdef Envelope e
        cdef uint32_t i
        cdef bint typed = False
        cdef bint watched = (<CallTable> self.served.table).watched
        # What a result says of tasks and states is the caller's own, where callers have names. Lists hold neither.
        cdef bint owned = self.rpc != RPC_LIST and is_named(self.identity)
        cdef size_t size
        cdef const char* ident = self.meta.p + self.meta.off + self.method_len + self.host_len + self.path_log_len
        if h.status != 200 or h.framing != FRAMING_LENGTH or n == 0 or h.flags & F_EVENT_STREAM:
            return False
        for i in range(h.nheaders):
            if h.headers[i].id == H_CONTENT_TYPE:
                typed = not typed and h.headers[i].value_len >= 16 and equals_lower(buf + h.headers[i].value_off, b"application/json", 16)
        if not typed:
            return False
        size = <size_t> h.content_length
        if n < size:
            # The rest is relayed as it comes; what it answers is to be seen at once.
            return not watched and not owned and answers(rest, n, ident, self.id_len)
        if size <= WHOLE:
            if envelope_scan(rest, <uint32_t> size, &e, 64) < 0 or e.kind != KIND_RESPONSE or e.id.len != self.id_len \
                    or memcmp(rest + e.id.off, ident, self.id_len) != 0:
                return False
        elif not answers(rest, size, ident, self.id_len) or rest[size - 1] != b"}":
            return False
        return (not watched or may_relay(<CallTable> self.served.table, rest, size)) and (not owned or is_for_anybody(rest, size))

    cdef int respond(self, Head* h, const char* buf, const char* rest, size_t n) except -1:
        cdef Out o
        cdef Upstream up = self.upstream
        cdef bint close
        cdef int framing
        o.p = self.ctx.reactor.scratch_out
        o.n = 0
        o.cap = SCRATCH_OUT
        o.full = False
        if self.seen is not None:
            self.seen[3] = self.fields(h, buf)
        if h.status == 401 and self.presented is not None and self.choice.auth is not None and self.served is None:
            # The next request gets another one, if there is another. A target's transport sees to it itself, and tries again.
            self.choice.auth.presenting.refused(self.identity, self.shower)
        if h.status == 101:
            if not self.wants_upgrade or not h.flags & F_UPGRADE or not h.upgrade_len \
                    or not upgrade_elements(buf[h.upgrade_off:h.upgrade_off + h.upgrade_len]) <= self.upgrade_asked:
                return self.upstream_failed(E_UPGRADE)
            self.status = 101
            if build_response(&o, h, buf, self.choice.response_edits, self.cors_lines, self.bind.http, 11, FRAMING_NONE,
                              False, True) < 0:
                return self.upstream_failed(E_PROTOCOL)
            put(&o, rest, n)
            self.phase = X_TUNNEL
            self.head_sent = True
            self.ctx.reactor.arm(&up.timer, self.ctx.reactor.now + self.bind.http.stream_idle_timeout)
            self.ctx.reactor.disarm(&self.down.deadline)
            if self.down.send(o.p, o.n) < 0:
                return self.client_gone()
            return self.down.begin_tunnel()
        if self.served is not None and not self.relayable(h, buf, rest, n):
            return self.escalate(buf, h.size + n)
        if self.served is not None:
            self.look_at(rest, n, h.framing == FRAMING_LENGTH and <int64_t> n >= h.content_length)
        self.status = h.status
        self.event_stream = h.flags & F_EVENT_STREAM
        self.up_keep_alive = h.keep_alive
        body_init(&self.rbody, h.framing, h.content_length)
        framing = h.framing
        if self.client_version == 10 and framing == FRAMING_CHUNKED:
            framing = FRAMING_EOF
        elif framing == FRAMING_EOF and self.client_version == 11:
            framing = FRAMING_EOF
        self.client_framing = framing
        close = not self.down.keep_alive or self.ctx.draining or framing == FRAMING_EOF or not self.down.request_complete
        if close:
            self.down.keep_alive = False
        if build_response(&o, h, buf, self.choice.response_edits, self.cors_lines, self.bind.http, self.client_version, framing,
                          close, False) < 0:
            return self.upstream_failed(E_PROTOCOL)
        self.phase = X_RESPONSE
        self.head_sent = True
        return self.relay(&o, rest, n)

    cdef int look_at(self, const char* p, size_t n, bint whole) except -1:
        # What an answer that is relayed means to the counters; a tool that answers for the first time gets a number.
        cdef bint own = self.spliced.len != 0
        self.outcome = outcome_of(p, n, whole, self.rpc == RPC_CALL, &self.rpc_code)
        if self.rpc == RPC_CALL and self.tool < 0 and whole and (self.outcome == O_OK or self.outcome == O_TOOL):
            text = self.spliced.p[self.spliced.off:self.spliced.off + self.spliced.len] if own \
                else self.kept.p[self.kept.off + self.kept_head:self.kept.off + self.kept.len]
            self.tool = self.ctx.slot.learn_tool(self.choice.cluster.label, locate(text)["name"])
        if self.outcome == O_UNKNOWN:
            self.outcome = O_TOOL
        return 0

    cdef int relay(self, Out* o, const char* p, size_t n) except -1:
        # Body octets from the upstream, behind whatever already is in `o`.
        cdef size_t used = 0
        cdef const char* data = NULL
        cdef size_t size = 0
        cdef int r
        cdef Upstream up = self.upstream
        while True:
            r = body_feed(&self.rbody, p, n, &used, &data, &size, &self.ctx.response_limits)
            p += used
            n -= used
            if r != BODY_DATA:
                break
            self.response_bytes += size
            if self.client_framing == FRAMING_CHUNKED:
                put_hex(o, size)
                put(o, b"\r\n", 2)
                put(o, data, size)
                put(o, b"\r\n", 2)
                if o.n > SCRATCH_OUT - 70000 and self.push(o) < 0:
                    return self.client_gone()
            elif o.n == 0:
                if self.down.send(data, size) < 0:
                    return self.client_gone()
            elif size <= SMALL:
                put(o, data, size)
            else:
                if self.down.send2(o.p, o.n, data, size) < 0:
                    return self.client_gone()
                o.n = 0
        if r == BODY_END:
            if self.client_framing == FRAMING_CHUNKED and self.rbody.framing == FRAMING_CHUNKED:
                put(o, b"0\r\n\r\n", 5)
            if self.push(o) < 0:
                return self.client_gone()
            return self.complete(n == 0)
        if self.push(o) < 0:
            return self.client_gone()
        if r == BODY_ERROR:
            return self.upstream_failed(E_BODY_CUT)
        self.ctx.reactor.arm(&up.timer, self.ctx.reactor.now + (
            self.bind.http.stream_idle_timeout if self.event_stream else self.bind.http.progress_timeout))
        if self.down.peer_closed and self.event_stream:
            return self.client_gone()
        if self.down.outq.len > HIGH_WATER:
            up.paused = True
            self.ctx.slot.gauges[G_RELAY_PAUSES] += 1
        if self.down.outq.len and self.down.timer.deadline_ns == INT64_MAX:
            # A reader that makes no progress is cut; only its progress moves the deadline, not ours.
            self.ctx.reactor.arm(&self.down.timer, self.ctx.reactor.now + self.bind.http.progress_timeout)
        return 0

    cdef int push(self, Out* o) except -1:
        # 0; a broken client is -2 (never -1, which means an exception).
        if o.n:
            if self.down.send(o.p, o.n) < 0:
                return -2
            o.n = 0
        return 0

    cdef int complete(self, bint clean) except -1:
        # The response is over. `clean`: the upstream sent nothing behind it.
        cdef Upstream up = self.upstream
        self.upstream = None
        if clean and self.up_keep_alive and self.down.request_complete and up.outq.len == 0:
            self.choice.cluster.release(up)
        else:
            up.close()
        return self.finish(False)

    cdef int client_drained(self) except -1:
        # The client took what was queued.
        cdef Upstream up = self.upstream
        if up is not None and up.paused and self.down.outq.len <= LOW_WATER:
            up.resume()
        elif self.call is not None and self.down.outq.len <= LOW_WATER:
            self.call._drained()
        return 0

    cdef int on_upstream_eof(self, bint broken) except -1:
        cdef Upstream up = self.upstream
        if self.phase == X_RESPONSE:
            if self.rbody.framing == FRAMING_EOF and not broken:
                self.up_keep_alive = False
                return self.complete(True)
            return self.upstream_failed(E_BODY_CUT)
        if self.phase == X_TUNNEL:
            if broken:
                self.drop_upstream()
                return self.finish(False)
            # Half-close is passed on; the other direction goes on until it ends too.
            self.upstream_fin = True
            self.down.shut_write()
            return self.tunnel_over()
        if self.rhead == NULL and self.replayable and up is not None and up.reused and self.retries == 0 and not self.head_sent:
            # Idempotent, pooled, and not one octet of an answer: RFC 9110 section 9.2.2 allows one more try.
            self.retries += 1
            self.ctx.slot.gauges[G_RETRIES] += 1
            self.drop_upstream()
            self.phase = X_WAIT
            # The others that were idle are as old as this one was.
            self.choice.cluster.close_idle()
            self.choice.cluster.acquire(self, True)
            return 0
        return self.upstream_failed(E_RESET if self.rhead == NULL else E_PROTOCOL)

    cdef int on_upstream_timeout(self) except -1:
        cdef Upstream up = self.upstream
        if self.phase == X_SENT:
            return self.upstream_failed(E_RESPONSE_TIMEOUT)
        if up.paused:
            # The client is the slow one; its own timer decides.
            self.ctx.reactor.arm(&up.timer, self.ctx.reactor.now + self.bind.http.progress_timeout)
            return 0
        return self.upstream_failed(E_BODY_CUT)

    # ------------------------------------------------------------------------------------------- ends

    cdef int drop_upstream(self) except -1:
        cdef Upstream up = self.upstream
        if self.waiting:
            self.choice.cluster.forget(self)
        if up is not None:
            self.upstream = None
            up.close()
        return 0

    cdef int upstream_failed(self, int which) except -1:
        self.drop_upstream()
        return self.fail(which, NULL, 0, 0)

    cdef int reply(self, int status, const char* content_type, bytes body, bytes lines, int reason, bytes ident=None) except -1:
        # An answer of our own; ends the exchange. With `ident`, the body is the result of a JSON-RPC response, whose other
        # members are put around it on the way out: lists have megabytes.
        cdef Out o
        cdef size_t size = <size_t> PyBytes_GET_SIZE(body)
        cdef bint close = not self.down.keep_alive or self.ctx.draining or (not self.down.request_complete and self.down.unbounded)
        cdef bytes extra = lines if lines is not None else b""
        if close:
            self.down.keep_alive = False
        if self.cors_lines is not None:
            extra = extra + self.cors_lines
        if self.route is not None and self.route.reply_edits is not None:
            extra = extra + self.route.reply_edits.lines
        self.status = status
        self.reason = reason
        self.head_sent = True
        o.p = self.ctx.reactor.scratch_out
        o.n = 0
        o.cap = SCRATCH_OUT
        o.full = False
        if ident is not None:
            size += <size_t> (PyBytes_GET_SIZE(ident) + PyBytes_GET_SIZE(_BEFORE_ID) + PyBytes_GET_SIZE(_BEFORE_RESULT) + 1)
        if build_reply(&o, status, content_type, NULL, size, extra, self.ctx.date_line,
                       self.client_version if self.client_version else 11, close, True) < 0:
            return self.finish(True)
        if ident is not None:
            self.response_bytes = size
            for part in (_BEFORE_ID, ident, _BEFORE_RESULT):
                put(&o, PyBytes_AS_STRING(<bytes> part), <size_t> PyBytes_GET_SIZE(<bytes> part))
            if o.full or self.down.send_held(o.p, o.n, body, b"}", 1) < 0:
                return self.finish(True)
        elif self.method != M_HEAD and PyBytes_GET_SIZE(body) and status != 204 and status != 304:
            self.response_bytes = <uint64_t> PyBytes_GET_SIZE(body)
            if self.down.send2(o.p, o.n, PyBytes_AS_STRING(body), PyBytes_GET_SIZE(body)) < 0:
                return self.finish(True)
        elif self.down.send(o.p, o.n) < 0:
            return self.finish(True)
        return self.finish(False)

    cdef int fail(self, int which, const char* text, int status, int code) except -1:
        # Every error ends here: mapped once, to the caller's protocol. `text`, `status`, `code` override the table's.
        cdef const Failure* f = failure(which)
        cdef bytes message = text if text != NULL else f.text
        cdef bytes reason = reason_name(f.reason) if f.reason else b"Internal"
        cdef bytes body, ident
        cdef bytes lines = None
        if status == 0:
            status = f.status
        self.error = text if text != NULL else f.text
        self.reason = f.reason
        self.drop_upstream()
        if self.head_sent:
            # Too late for an answer: end it visibly broken.
            self.down.keep_alive = False
            return self.finish(True)
        if which == E_CLIENT_GONE:
            self.status = status
            self.outcome = O_CANCELLED
            return self.finish(True)
        if self.is_rpc:
            self.rpc_code = code if code else f.code
            self.outcome = outcome_of_code(self.rpc_code)
        if which == E_METHOD:
            lines = b"Allow: GET, POST, DELETE\r\n" if self.is_rpc else b"Allow: GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS\r\n"
        if self.is_rpc:
            ident = b"null"
            if self.id_len:
                start = self.method_len + self.host_len + self.path_log_len
                ident = self.meta.p[self.meta.off + start:self.meta.off + start + self.id_len]
            body = b'{"jsonrpc":"2.0","id":%b,"error":{"code":%d,"message":"%b","data":{"reason":"%b","status":%d}}}' % (
                ident, code if code else f.code, message.replace(b'"', b"'"), reason, status)
        else:
            body = b'{"error":{"status":%d,"reason":"%b","message":"%b"}}' % (status, reason, message.replace(b'"', b"'"))
        return self.reply(200 if self.legacy else status, b"application/json", body, lines, f.reason)

    cdef int client_gone(self) except -1:
        # The client's connection broke or left; whatever runs upstream for it is cut.
        if self.head_sent:
            self.error = failure(E_CLIENT_GONE).text
            self.reason = failure(E_CLIENT_GONE).reason
            self.outcome = O_CANCELLED
            self.drop_upstream()
            return self.finish(True)
        return self.fail(E_CLIENT_GONE, NULL, 0, 0)

    cdef int on_deadline(self) except -1:
        return self.upstream_failed(E_BODY_CUT if self.head_sent else E_REQUEST_TIMEOUT)

    cdef int finish(self, bint broken) except -1:
        # Count, log, release. Afterwards this object belongs to the freelist.
        cdef Downlink down = self.down
        cdef Slot slot = self.ctx.slot
        cdef int64_t took = self.ctx.reactor.now - self.start_ns
        cdef Record r
        cdef bytes endpoint = None
        cdef bytes added = b""
        cdef Cluster cluster = self.choice.cluster if self.choice is not None else None
        if broken and self.phase == X_RESPONSE and self.client_framing == FRAMING_EOF:
            # A FIN would say that the body is whole.
            down.reset_on_close = True
        slot.gauges[G_IN_FLIGHT] -= 1
        slot.gauges[G_EXCHANGES] += 1
        slot.observe(slot.row(self.route.label if self.route is not None else self.bind.label,
                              cluster.label if cluster is not None else self.service_label, self.method, <uint32_t> self.status,
                              <uint32_t> self.reason), took, self.response_bytes)
        if self.rpc >= 0 and (cluster is None or not self.choice.hop or self.error != NULL):
            # A request that another worker answered is counted there.
            slot.observe_row(slot.mcp_row(False, self.route.label, cluster.label if cluster is not None else self.service_label, <uint32_t> self.rpc,
                                          <uint32_t> self.tool if self.tool > 0 else 0, <uint32_t> self.outcome), took)
        if self.ctx.log.enabled and self.ctx.log.details is not None:
            added = self.ctx.log.details(self.identity, self)
        if self.ctx.log.enabled and added is not None:
            r.added, r.added_len = PyBytes_AS_STRING(added), <uint32_t> PyBytes_GET_SIZE(added)
            r.wall_ns = self.ctx.reactor.wall
            r.duration_ns = took
            r.fields = PyBytes_AS_STRING(self.route.log_fields if self.route is not None else self.bind.log_fields)
            r.fields_len = <uint32_t> PyBytes_GET_SIZE(self.route.log_fields if self.route is not None else self.bind.log_fields)
            r.peer = down.peer
            r.peer_len = down.peer_len
            r.endpoint_len = 0
            r.target_len = 0
            r.protocol = NULL
            if cluster is not None:
                endpoint = cluster.endpoint_text
                r.endpoint = PyBytes_AS_STRING(endpoint)
                r.endpoint_len = <uint32_t> PyBytes_GET_SIZE(endpoint)
                r.protocol = b"mcp" if cluster.is_mcp else b"http"
                if cluster.is_mcp:
                    r.target = PyBytes_AS_STRING(cluster.target_text)
                    r.target_len = <uint32_t> PyBytes_GET_SIZE(cluster.target_text)
            elif self.is_rpc:
                r.protocol = b"mcp"
                if self.service_target is not None:
                    r.target = PyBytes_AS_STRING(self.service_target)
                    r.target_len = <uint32_t> PyBytes_GET_SIZE(self.service_target)
            spread(&r, self.meta.p + self.meta.off, self.method_len, self.host_len, self.path_log_len, self.id_len, self.rpc_len, self.name_len)
            r.name_kind = self.name_kind
            r.resource_type = rpc_kind(self.rpc)
            r.rpc_code = self.rpc_code
            r.tool_failed = self.outcome == O_TOOL
            r.noted_len = 0
            if self.identity is not None and self.identity.log_fields:
                self.noted = self.identity.log_fields + (self.noted if self.noted is not None else b"")
            if self.noted is not None:
                r.noted = PyBytes_AS_STRING(self.noted)
                r.noted_len = <uint32_t> PyBytes_GET_SIZE(self.noted)
            r.version = self.client_version
            r.status = self.status
            r.retries = self.retries
            r.reason = reason_name(self.reason)
            r.error = self.error
            self.ctx.log.add(&r)
        call = self.call
        self.call = None
        entry = self.entry
        self.entry = None
        if self.permits is not None:
            give_back(self.permits)
            self.permits = None
        if self.session is not None:
            self.end_flight()
        self.ctx.reactor.disarm(&down.deadline)
        self.phase = X_FREE
        self.route = None
        self.match = None
        self.choice = None
        self.bind = None
        self.down = None
        self.cors_lines = None
        buf_clear(&self.pending)
        buf_clear(&self.rbuf)
        buf_clear(&self.meta)
        buf_clear(&self.kept)
        buf_clear(&self.spliced)
        self.served = None
        self.noted = self.seen = None
        self.identity = None
        self.presented = None
        self.shower = None
        self.refused = None
        if self.rhead != NULL:
            head_free(self.rhead)
            free(self.rhead)
            self.rhead = NULL
        # The freelist's reference keeps this object alive while callers unwind; trim() shortens the list between turns.
        self.ctx.free_exchanges.append(self)
        down.exchange = None
        down.exchange_done(broken)
        if call is not None:
            call._finished()
        if entry is not None:
            entry._finished()
        return 0
