# One request and its response: match, admit, dispatch, relay, finish. Read exchange.pyx first.

from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t

from agw._fast.accesslog cimport AccessLog
from agw._fast.arena cimport Slot
from agw._fast.calls cimport CallSession
from agw._fast.forward cimport Out
from agw._fast.gate cimport Gate, Identity, License
from agw._fast.http1 cimport Body, CLimits, Head
from agw._fast.jsonrpc cimport Envelope
from agw._fast.policy cimport Bind, Choice, Match, Route
from agw._fast.pool cimport Client, Upstream
from agw._fast.reactor cimport Reactor, Timer
from agw._fast.stream cimport Buf, Stream

cdef enum:
    # Exchange.phase
    X_FREE = 0
    X_BUFFER                # waits for the rest of a body that must be whole
    X_WAIT                  # waits for an upstream connection
    X_SENT                  # request (so far) handed to the upstream; no response head yet
    X_RESPONSE              # response head went to the client
    X_TUNNEL                # 101: octets both ways
    X_SERVICE               # handed to Python code (call.pyx)
    X_GATE                  # the gate's keeper is asked (entry.pyx)

cdef enum:
    # What begin() decided
    DONE_LOCALLY = 0
    WANT_STREAM = 1
    WANT_BUFFER = 2
    WANT_GATE = 3           # somebody is asked whether it may enter
    ENTERED = 4

cdef class Context:
    cdef readonly Reactor reactor
    cdef readonly Slot slot
    cdef readonly AccessLog log
    cdef Head request_head          # scratch heads: valid during one synchronous step
    cdef Head response_head
    cdef CLimits response_limits
    cdef uint32_t head_capacity
    cdef char* path_scratch
    cdef readonly bint draining
    cdef uint64_t rng
    cdef bytes date_line
    cdef list free_exchanges
    cdef dict per_address
    cdef object make_call           # call.make
    cdef object make_entry          # entry.make
    cdef public object admits       # (address, port) -> bool for every new connection, or None: all may come
    cdef object make_fetch          # fetch.adopt
    cdef Exchange take_exchange(self)
    cdef uint64_t random(self) noexcept
    cdef Head* detach_head(self, Head* shared) except NULL

cdef class Downlink(Stream):
    # What an exchange knows of the client's connection.
    cdef Context ctx
    cdef Bind bind
    cdef Exchange exchange
    cdef Timer deadline             # the exchange's total time
    cdef Identity known             # whom the last request was from
    cdef bytes mark                 # what a decision depends on besides the head: a digest of the client's certificate, `hop`; None: not looked for yet
    cdef bytes passed               # the client's certificate (DER), as the worker that passed the request on saw it; or None
    cdef char peer[72]
    cdef uint32_t peer_len
    cdef uint32_t peer_ip_len
    cdef bint hop                   # another worker passed this request on; `peer` is its client
    cdef bint from_worker           # the connection is another worker's
    cdef bint secure                # the client speaks TLS, here or with the worker that passed the request on
    cdef bint read_paused
    cdef bint reset_on_close        # end with RST: the client must not take what it has for the whole
    cdef bint request_complete      # the whole request has been read
    cdef bint unbounded             # what is left of it may be too much to skip
    cdef bint keep_alive
    cdef int begin_tunnel(self) except -1
    cdef int exchange_done(self, bint broken) except -1
    cdef int resume_reading(self) except -1
    cdef int entered(self) except -1
    cdef int collect(self, uint64_t limit) except -1

cdef class Exchange(Client):
    cdef Context ctx
    cdef Downlink down
    cdef Bind bind
    cdef Route route
    cdef Match match
    cdef Choice choice
    cdef int phase
    cdef int64_t start_ns
    cdef uint8_t method
    cdef int client_version
    cdef bint wants_upgrade
    cdef frozenset upgrade_asked    # protocols the client listed, lower case
    cdef bint client_fin, upstream_fin      # directions of a tunnel that ended
    cdef bint event_stream
    cdef bint replayable
    cdef bint head_sent
    cdef bint up_keep_alive
    cdef bint request_chunked       # framing towards the upstream
    cdef int retries
    cdef int interim
    cdef int client_framing
    cdef const char* path
    cdef uint32_t path_len
    cdef Buf pending
    cdef Buf rbuf
    cdef Head* rhead
    cdef Body rbody
    cdef int status
    cdef int reason
    cdef const char* error
    cdef uint64_t response_bytes
    cdef bytes cors_lines
    cdef Buf meta
    cdef uint32_t method_len, path_log_len, host_len, name_len, id_len, rpc_len
    cdef int rpc
    cdef int name_kind
    cdef bint is_rpc                # errors are JSON-RPC errors
    cdef Envelope envelope          # spans into the body; valid during one step
    cdef object call                # the Call, while Python code serves this request
    cdef uint32_t service_label     # what the counters and the log name in place of a cluster
    cdef bytes service_target
    cdef Choice served              # the service's choice, while one of its targets answers without it
    cdef CallSession session        # whose request it is then, if it is of a session
    cdef bint legacy                # a session's errors are HTTP 200
    cdef Buf kept                   # that request: head and body, in case the service must go on with it
    cdef size_t kept_head
    cdef const char* own_name       # what Mcp-Name must say upstream; valid during one step
    cdef uint32_t own_name_len
    cdef const char* trace_parent   # a traceparent that only `_meta` holds; valid during one step
    cdef Buf spliced                # its body with the tool's own name
    cdef int tool                   # number of the tool's name in the counters; below 1: none
    cdef int outcome                # what the answer is to the counters (outcome.pxd)
    cdef int32_t rpc_code           # its JSON-RPC error code, or 0
    cdef Identity identity          # whom it is from, when the route has a gate
    cdef object entry               # the Entry, while somebody is asked about it
    cdef object presented           # (header lines, query, cookies): the backend's credentials, or None
    cdef object shower              # the Entry they were made for, where they differ from caller to caller
    cdef uint64_t body_wanted       # octets of the body the keeper asked for while it was asked itself
    cdef object refused             # the Refusal that ended it: `error` points into it
    cdef bint charged               # the limits of its message are taken already
    cdef list permits               # charges of concurrency limits that end with it
    cdef bytes noted                # more fields for the access log, or None
    cdef list seen                  # request fields, query, parameters, response fields; None: the log needs none of them

    cdef int open(self, int method, int version) except -1
    cdef int begin(self, Head* h, const char* buf) except -1
    cdef int locate_path(self, Head* h, const char* buf) except -1
    cdef int admit(self, Head* h, const char* buf) except -1
    cdef int enter(self, Gate gate, Head* h, const char* buf) except -1
    cdef int pass_in(self, Identity who, License licence) except -1
    cdef bint charge(self, License licence) except -1
    cdef int opened(self, Identity who, License licence) except -1
    cdef int armed(self, object presented) except -1
    cdef int ask(self, object asked, Gate gate, Head* h, const char* buf, bytes shown) except -1
    cdef int proceed(self, Head* h, const char* buf) except -1
    cdef int turn_away(self, object refusal) except -1
    cdef int choose(self, Head* h, const char* buf) except -1
    cdef list fields(self, Head* h, const char* buf)
    cdef int redirect(self, rule, Head* h, const char* buf) except -1
    cdef int message(self, const char* body, size_t n) except -1
    cdef int dispatch(self, Head* h, const char* buf, const char* body, size_t n, bint complete, bint chunked) except -1
    cdef int take_shortcut(self, Head* h, const char* buf, const char* body, size_t n) except -1
    cdef int hand_over(self, Head* h, const char* buf, const char* body, size_t n) except -1
    cdef bint relayable(self, const Head* h, const char* buf, const char* rest, size_t n) except -1
    cdef int escalate(self, const char* at, size_t n) except -1
    cdef object new_call(self, Head* h, const char* buf, bytes text)
    cdef int send_first(self, Upstream up, Out* o, const char* body, size_t n) except -1
    cdef int body(self, const char* p, size_t n) except -1
    cdef int body_end(self) except -1
    cdef int client_ended(self) except -1
    cdef int tunnel_over(self) except -1
    cdef int respond(self, Head* h, const char* buf, const char* rest, size_t n) except -1
    cdef int look_at(self, const char* p, size_t n, bint whole) except -1
    cdef int relay(self, Out* o, const char* p, size_t n) except -1
    cdef int push(self, Out* o) except -1
    cdef int complete(self, bint clean) except -1
    cdef int reply(self, int status, const char* content_type, bytes body, bytes lines, int reason, bytes ident=*) except -1
    cdef int fail(self, int which, const char* text, int status, int code) except -1
    cdef int upstream_failed(self, int which) except -1
    cdef int drop_upstream(self) except -1
    cdef int client_gone(self) except -1
    cdef int on_deadline(self) except -1
    cdef int client_drained(self) except -1
    cdef int finish(self, bint broken) except -1
    cdef int note_request(self, Head* h, const char* buf) except -1
