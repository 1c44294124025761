# See forward.pyi for the manual.
#
# Rules of this file:
# - nothing is copied as a block: each field is written from its parsed name and value (reliability over cleverness);
# - hop-by-hop fields and those named by Connection are dropped; framing is written by us, in place of the original;
# - names, values and order of everything else are kept (names in lower case when the operator asks for it);
# - X-Forwarded-For/-Host/-Proto say what we saw; what a client claims about itself is dropped unless configured;
# - `agw-hop` (2: the client speaks TLS, else 1), `agw-peer` and `agw-certificate` are between workers: whoever sends them, they are not
#   passed on, and a hop gets our own;
# - an Out that overflows is marked, never written past its end.

from libc.stdint cimport int64_t, uint32_t
from libc.string cimport memcpy, strlen
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE

from agw._fast.http1 cimport (F_NAMED, FRAMING_CHUNKED, H_CONNECTION, H_CONTENT_LENGTH, H_FORWARDED, H_HOST,
                              H_HTTP2_SETTINGS, H_KEEP_ALIVE, H_OTHER, H_PROXY_AUTHENTICATE, H_PROXY_CONNECTION, H_TE,
                              H_TRAILER, H_TRANSFER_ENCODING, H_UPGRADE, H_X_FORWARDED_FOR, H_X_FORWARDED_HOST,
                              H_X_FORWARDED_PROTO, Head, Header, connection_names, equals_lower)
from agw._fast.policy cimport Choice, HeaderEdits, Http

REASONS = ("", "DirectResponse", "NotFound", "NoHealthyBackend", "Internal", "InvalidRequest", "JwtAuth", "Oidc",
           "BasicAuth", "APIKeyAuth", "ExtAuth", "Authorization", "Timeout", "ExtProc", "RateLimit", "Guardrail", "MCP",
           "UpstreamFailure", "ClientDisconnect")

cdef enum:
    R_NONE = 0
    R_DIRECT = 1
    R_NOT_FOUND = 2
    R_NO_BACKEND = 3
    R_INTERNAL = 4
    R_INVALID = 5
    R_AUTHORIZATION = 11
    R_TIMEOUT = 12
    R_RATE = 14
    R_MCP = 16
    R_UPSTREAM = 17
    R_GONE = 18

cdef const char* NAMES[19]
cdef list _keep = [name.encode() for name in REASONS]


def _fill_names():
    for i in range(19):
        NAMES[i] = PyBytes_AS_STRING(<bytes> _keep[i])


_fill_names()

cdef Failure FAILURES[48]


cdef void define(int which, int status, int reason, int code, const char* text) noexcept:
    FAILURES[which].status = status
    FAILURES[which].reason = reason
    FAILURES[which].code = code
    FAILURES[which].text = text


# The one place where what went wrong becomes a status, a reason and a JSON-RPC code.
define(E_NONE, 200, R_NONE, 0, b"")
define(E_MALFORMED, 400, R_INVALID, -32600, b"malformed request")
define(E_NO_LISTENER, 404, R_NOT_FOUND, -32600, b"no listener for this host")
define(E_NO_ROUTE, 404, R_NOT_FOUND, -32600, b"no route matches this request")
define(E_NO_BACKEND, 500, R_NO_BACKEND, -32603, b"the route has no usable backend")
define(E_BAD_PATH, 400, R_INVALID, -32600, b"the path cannot be normalised")
define(E_METHOD, 405, R_INVALID, -32600, b"method not allowed here")
define(E_MEDIA_TYPE, 415, R_INVALID, -32600, b"content type not supported")
define(E_TOO_LARGE, 413, R_INVALID, -32600, b"the request body is larger than the gateway buffers")
define(E_HEADER_TIMEOUT, 408, R_TIMEOUT, -32600, b"the request head did not arrive in time")
define(E_BODY_TIMEOUT, 408, R_TIMEOUT, -32600, b"the request body stopped arriving")
define(E_REQUEST_TIMEOUT, 504, R_TIMEOUT, -32603, b"the request took longer than the route allows")
define(E_RESPONSE_TIMEOUT, 504, R_TIMEOUT, -32603, b"the backend did not answer in time")
define(E_CONNECT, 503, R_UPSTREAM, -32603, b"the backend refused the connection")
define(E_CONNECT_TIMEOUT, 504, R_TIMEOUT, -32603, b"the backend could not be reached in time")
define(E_DNS, 503, R_UPSTREAM, -32603, b"the backend's name has no address")
define(E_QUEUE_FULL, 503, R_NO_BACKEND, -32603, b"too many requests are waiting for the backend")
define(E_QUEUE_TIMEOUT, 503, R_NO_BACKEND, -32603, b"no connection to the backend became free in time")
define(E_RESET, 502, R_UPSTREAM, -32603, b"the backend closed the connection before it answered")
define(E_PROTOCOL, 502, R_UPSTREAM, -32603, b"the backend's answer was not valid HTTP")
define(E_UPGRADE, 502, R_UPSTREAM, -32603, b"the backend switched protocols unasked")
define(E_JSON, 400, R_MCP, -32700, b"the body is not a JSON-RPC message")
define(E_OVERLOAD, 503, R_INTERNAL, -32603, b"the gateway has no room for another connection")
define(E_INTERNAL, 500, R_INTERNAL, -32603, b"internal error")
define(E_CLIENT_GONE, 499, R_GONE, 0, b"the client left")
define(E_DRAIN_CUT, 503, R_TIMEOUT, -32603, b"the gateway stopped before the request was done")
define(E_BODY_CUT, 502, R_UPSTREAM, 0, b"the backend's answer broke off")
define(E_TLS, 503, R_UPSTREAM, -32603, b"no trusted TLS connection to the backend")
define(E_MISDIRECTED, 421, R_INVALID, -32600, b"this TLS connection was made for another host")
define(E_RATE, 429, R_RATE, -32003, b"too many requests: slow down and try again")
define(E_CLOSED, 500, R_AUTHORIZATION, -32603, b"the gateway cannot decide about this request now")
define(E_PLAIN_HTTP, 400, R_INVALID, -32600, b"this port speaks TLS: use https")


cdef const Failure* failure(int which) noexcept nogil:
    return &FAILURES[which]


cdef const char* reason_name(int reason) noexcept nogil:
    return NAMES[reason] if 0 < reason < 19 else NULL


_TEXTS = {100: "Continue", 101: "Switching Protocols", 200: "OK", 201: "Created", 202: "Accepted", 204: "No Content",
          301: "Moved Permanently", 302: "Found", 303: "See Other", 304: "Not Modified", 307: "Temporary Redirect",
          308: "Permanent Redirect", 400: "Bad Request", 401: "Unauthorized", 403: "Forbidden", 404: "Not Found",
          405: "Method Not Allowed", 408: "Request Timeout", 413: "Content Too Large", 414: "URI Too Long",
          415: "Unsupported Media Type", 417: "Expectation Failed", 421: "Misdirected Request", 429: "Too Many Requests",
          431: "Request Header Fields Too Large", 500: "Internal Server Error", 501: "Not Implemented", 502: "Bad Gateway",
          503: "Service Unavailable", 504: "Gateway Timeout", 505: "HTTP Version Not Supported"}
cdef const char* TEXTS[600]
cdef list _keep_texts = []


def _fill_texts():
    for i in range(600):
        text = _TEXTS.get(i, "Status").encode()
        _keep_texts.append(text)
        TEXTS[i] = PyBytes_AS_STRING(<bytes> text)


_fill_texts()


cdef const char* status_text(int status) noexcept nogil:
    return TEXTS[status] if 0 <= status < 600 else TEXTS[0]


cdef inline void put_(Out* o, const char* p, size_t n) noexcept nogil:
    if o.n + n > o.cap:
        o.full = True
        return
    memcpy(o.p + o.n, p, n)
    o.n += n


cdef void put(Out* o, const char* p, size_t n) noexcept nogil:
    put_(o, p, n)


cdef inline void put_bytes(Out* o, bytes b) noexcept:
    put_(o, PyBytes_AS_STRING(b), PyBytes_GET_SIZE(b))


cdef void put_int(Out* o, int64_t v) noexcept nogil:
    cdef char digits[24]
    cdef int n = 24
    while True:
        n -= 1
        digits[n] = <char> (48 + v % 10)
        v //= 10
        if v == 0:
            break
    put_(o, digits + n, 24 - n)


cdef void put_hex(Out* o, size_t v) noexcept nogil:
    cdef char digits[24]
    cdef int n = 24
    cdef int d
    while True:
        n -= 1
        d = <int> (v & 15)
        digits[n] = <char> (48 + d if d < 10 else 87 + d)
        v >>= 4
        if v == 0:
            break
    put_(o, digits + n, 24 - n)


cdef inline void put_field(Out* o, const char* buf, const Header* f, bint lower) noexcept nogil:
    cdef char* p
    cdef uint32_t i
    cdef size_t n = <size_t> f.name_len + f.value_len + 4
    if o.n + n > o.cap:
        o.full = True
        return
    p = o.p + o.n
    memcpy(p, buf + f.name_off, f.name_len)
    if lower:
        for i in range(f.name_len):
            if b"A" <= p[i] <= b"Z":
                p[i] += 32
    p += f.name_len
    p[0] = b":"
    p[1] = b" "
    memcpy(p + 2, buf + f.value_off, f.value_len)
    p += 2 + f.value_len
    p[0] = b"\r"
    p[1] = b"\n"
    o.n += n


cdef frozenset upgrade_elements(bytes value):
    # The protocols of an Upgrade field, lower case.
    return frozenset([e.strip().lower() for e in value.split(b",") if e.strip()])


cdef bint is_hop_field(const char* name, uint32_t n) noexcept nogil:
    return ((n == 7 and equals_lower(name, b"agw-hop", 7)) or (n == 8 and equals_lower(name, b"agw-peer", 8))
            or (n == 15 and equals_lower(name, b"agw-certificate", 15)))


cdef bint is_forwarded(const char* name, uint32_t n) noexcept nogil:
    # X_Forwarded_For and its kin: what backends that make variables of names take for what the gateway says.
    cdef const char* own = b"x-forwarded-for" if n == 15 else b"x-forwarded-host" if n == 16 else b"x-forwarded-proto"
    cdef uint32_t i
    cdef char c
    if n < 15 or n > 17:
        return False
    for i in range(n):
        c = name[i]
        if b"A" <= c <= b"Z":
            c += 32
        elif c == b"_":
            c = b"-"
        if c != own[i]:
            return False
    return True


cdef int put_host(Out* o, const Head* h, const char* buf, Choice choice) except -1:
    cdef bytes host = choice.host
    cdef bytes mine
    if choice.host_mode:
        # urlRewrite.authority.host or .port: one half is the operator's, the other the client's.
        mine = buf[h.host_off:h.host_off + h.host_len]
        cut = mine.rfind(b":")
        if cut <= mine.rfind(b"]"):
            cut = len(mine)
        host = choice.host_part + mine[cut:] if choice.host_mode == 1 else mine[:cut] + b":" + choice.host_part
    put_(o, b"Host: ", 6)
    if host is None:
        put_(o, buf + h.host_off, h.host_len)
    else:
        put_bytes(o, host)
    put_(o, b"\r\n", 2)
    return 0


cdef int build_request(Out* o, const Head* h, const char* buf, Choice choice, Http http,
                       const RequestContext* ctx, HeaderEdits more, bytes lines) except -1:
    # The head of the request as the backend sees it. 0, or -2 when it does not fit. `more` and `lines` are for this request only:
    # what its identity brings, and credentials for the backend.
    cdef uint32_t i
    cdef const Header* f
    cdef HeaderEdits edits = choice.request_edits
    cdef bint named = h.flags & F_NAMED
    cdef bint framed = False
    cdef bint hosted = False
    cdef int forwarded = 0 if choice.hop else http.forwarded
    cdef const Header* xff = NULL
    put_(o, buf + h.start, h.method_len)
    put_(o, b" ", 1)
    put_(o, ctx.path, ctx.path_len)
    if ctx.mark:
        put_(o, &ctx.mark, 1)
        put_(o, ctx.query, ctx.query_len)
    put_(o, b" HTTP/1.1\r\n", 11)
    for i in range(h.nheaders):
        f = &h.headers[i]
        if f.id != H_OTHER and f.id <= H_X_FORWARDED_PROTO:
            # Everything up to here in the enum is ours to decide.
            if f.id == H_HOST:
                put_host(o, h, buf, choice)
                hosted = True
            elif f.id == H_CONTENT_LENGTH:
                if ctx.framing != FRAMING_CHUNKED:
                    put_(o, buf + f.name_off, f.name_len)
                    put_(o, b": ", 2)
                    put_int(o, ctx.length)
                    put_(o, b"\r\n", 2)
                    framed = True
            elif f.id == H_TRANSFER_ENCODING:
                if ctx.framing == FRAMING_CHUNKED:
                    put_(o, b"Transfer-Encoding: chunked\r\n", 28)
                    framed = True
            elif edits is not None and edits.drops(buf + f.name_off, f.name_len):
                pass
            elif more is not None and more.drops(buf + f.name_off, f.name_len):
                pass
            elif f.id == H_FORWARDED:
                if forwarded != 1 and not (named and connection_names(h, buf, buf + f.name_off, f.name_len)):
                    put_field(o, buf, f, http.lowercase)
            elif f.id == H_X_FORWARDED_FOR or f.id == H_X_FORWARDED_HOST or f.id == H_X_FORWARDED_PROTO:
                if forwarded == 0:
                    put_field(o, buf, f, http.lowercase)
                elif forwarded == 2 and f.id == H_X_FORWARDED_FOR:
                    if xff != NULL:
                        put_field(o, buf, xff, http.lowercase)
                    xff = f
            continue
        if named and connection_names(h, buf, buf + f.name_off, f.name_len):
            continue
        if is_hop_field(buf + f.name_off, f.name_len) or (forwarded and is_forwarded(buf + f.name_off, f.name_len)):
            continue
        if edits is not None and edits.drops(buf + f.name_off, f.name_len):
            continue
        if more is not None and more.drops(buf + f.name_off, f.name_len):
            continue
        if ctx.cookieless and f.name_len == 6 and equals_lower(buf + f.name_off, b"cookie", 6):
            continue
        put_field(o, buf, f, http.lowercase)
    if not hosted:
        put_host(o, h, buf, choice)
    if not framed and ctx.framing != 0:
        if ctx.framing == FRAMING_CHUNKED:
            put_(o, b"Transfer-Encoding: chunked\r\n", 28)
        else:
            put_(o, b"Content-Length: ", 16)
            put_int(o, ctx.length)
            put_(o, b"\r\n", 2)
    if forwarded:
        # What the operator removes or sets is not ours to add.
        if edits is None or not edits.drops(b"x-forwarded-for", 15):
            put_(o, b"X-Forwarded-For: ", 17)
            if xff != NULL:
                put_(o, buf + xff.value_off, xff.value_len)
                put_(o, b", ", 2)
            put_(o, ctx.peer, ctx.peer_len)
            put_(o, b"\r\n", 2)
        if edits is None or not edits.drops(b"x-forwarded-proto", 17):
            if ctx.secure:
                put_(o, b"X-Forwarded-Proto: https\r\n", 26)
            else:
                put_(o, b"X-Forwarded-Proto: http\r\n", 25)
        if edits is None or not edits.drops(b"x-forwarded-host", 16):
            put_(o, b"X-Forwarded-Host: ", 18)
            put_(o, buf + h.host_off, h.host_len)
            put_(o, b"\r\n", 2)
    if edits is not None:
        put_bytes(o, edits.lines)
    if more is not None:
        put_bytes(o, more.lines)
    if lines is not None:
        put_bytes(o, lines)
    if ctx.name != NULL:
        put_(o, b"Mcp-Name: ", 10)
        put_(o, ctx.name, ctx.name_len)
        put_(o, b"\r\n", 2)
    if ctx.parent != NULL and (edits is None or not edits.drops(b"traceparent", 11)):
        put_(o, b"traceparent: ", 13)
        put_(o, ctx.parent, 55)
        put_(o, b"\r\n", 2)
    if choice.hop:
        put_(o, b"agw-hop: 2\r\nagw-peer: " if ctx.secure else b"agw-hop: 1\r\nagw-peer: ", 22)
        put_(o, ctx.peer, ctx.peer_len)
        put_(o, b"\r\n", 2)
        if ctx.certificate != NULL:
            put_(o, b"agw-certificate: ", 17)
            put_(o, ctx.certificate, ctx.certificate_len)
            put_(o, b"\r\n", 2)
    if ctx.upgrade:
        put_(o, b"Connection: upgrade\r\nUpgrade: ", 30)
        put_(o, buf + h.upgrade_off, h.upgrade_len)
        put_(o, b"\r\n", 2)
    put_(o, b"\r\n", 2)
    return -2 if o.full else 0


cdef int build_response(Out* o, const Head* h, const char* buf, HeaderEdits edits, bytes cors, Http http,
                        int client_version, int framing, bint close, bint upgrade) except -1:
    # The head of the answer as the client sees it. `framing`: of the body towards the client.
    cdef uint32_t i
    cdef const Header* f
    cdef bint named = h.flags & F_NAMED
    put_(o, b"HTTP/1.1 ", 9)
    put_int(o, h.status)
    put_(o, b" ", 1)
    put_(o, buf + h.reason_off, h.reason_len)
    put_(o, b"\r\n", 2)
    for i in range(h.nheaders):
        f = &h.headers[i]
        if f.id != H_OTHER:
            if f.id == H_TRANSFER_ENCODING:
                if framing == FRAMING_CHUNKED:
                    put_(o, b"Transfer-Encoding: chunked\r\n", 28)
                continue
            if f.id == H_CONNECTION or f.id == H_KEEP_ALIVE or f.id == H_PROXY_CONNECTION or f.id == H_PROXY_AUTHENTICATE \
                    or f.id == H_TE or f.id == H_TRAILER or f.id == H_UPGRADE or f.id == H_HTTP2_SETTINGS:
                continue
            if f.id == H_CONTENT_LENGTH and (h.status < 200 or h.status == 204):
                # RFC 9110 section 8.6: never in these.
                continue
        if named and connection_names(h, buf, buf + f.name_off, f.name_len):
            continue
        if edits is not None and edits.drops(buf + f.name_off, f.name_len):
            continue
        if cors is not None and f.name_len >= 15 and equals_lower(buf + f.name_off, b"access-control-", 15):
            continue
        put_field(o, buf, f, http.lowercase)
    if edits is not None:
        put_bytes(o, edits.lines)
    if cors is not None:
        put_bytes(o, cors)
    if upgrade:
        put_(o, b"Connection: upgrade\r\nUpgrade: ", 30)
        put_(o, buf + h.upgrade_off, h.upgrade_len)
        put_(o, b"\r\n", 2)
    elif close:
        put_(o, b"Connection: close\r\n", 19)
    elif client_version == 10 and h.status >= 200:
        put_(o, b"Connection: keep-alive\r\n", 24)
    put_(o, b"\r\n", 2)
    return -2 if o.full else 0


cdef int build_reply(Out* o, int status, const char* content_type, const char* body, size_t n, bytes lines, bytes date,
                     int client_version, bint close, bint head_only) except -1:
    put_(o, b"HTTP/1.1 ", 9)
    put_int(o, status)
    put_(o, b" ", 1)
    put_(o, status_text(status), strlen(status_text(status)))
    put_(o, b"\r\n", 2)
    if date is not None:
        put_bytes(o, date)
    if content_type != NULL:
        put_(o, b"Content-Type: ", 14)
        put_(o, content_type, strlen(content_type))
        put_(o, b"\r\n", 2)
    if lines is not None:
        put_bytes(o, lines)
    if status >= 200 and status != 204 and status != 304:
        put_(o, b"Content-Length: ", 16)
        put_int(o, <int64_t> n)
        put_(o, b"\r\n", 2)
    if close:
        put_(o, b"Connection: close\r\n", 19)
    elif client_version == 10:
        put_(o, b"Connection: keep-alive\r\n", 24)
    put_(o, b"\r\n", 2)
    if not head_only and n:
        put_(o, body, n)
    return -2 if o.full else 0
