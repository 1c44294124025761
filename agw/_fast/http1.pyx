# See http1.pyi for the manual and http1.pxd for the contract towards other extensions.
#
# Rules of this file:
# - verdicts depend on the octets only, never on how they were split: a line is judged when it is complete;
# - CRLF only; whatever two parsers could read differently is an error (RFC 9112 section 11.2);
# - loops are linear in the input; every count has a limit.

from libc.stdint cimport int64_t, uint8_t, uint32_t
from libc.stdlib cimport free, malloc
from libc.string cimport memchr, memcmp, memset
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE

cdef extern from "arpa/inet.h" nogil:
    cdef enum:
        AF_INET6
    int inet_pton(int family, const char* text, void* address)

cdef uint8_t TOKEN[256]
cdef uint8_t REGNAME[256]
cdef uint8_t LOWER[256]


ctypedef signed char int8_t_

cdef int8_t_ HEX[256]


def _fill_tables():
    token = b"!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
    regname = b"-._~!$&'()*+,;=%0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
    for i in range(256):
        TOKEN[i] = 1 if i in token else 0
        REGNAME[i] = 1 if i in regname else 0
        LOWER[i] = i + 32 if 65 <= i <= 90 else i
        HEX[i] = -1
    for i in range(16):
        HEX[ord("0123456789abcdef"[i])] = i
        HEX[ord("0123456789ABCDEF"[i])] = i


_fill_tables()


cdef bint equals_lower(const char* p, const char* lower, uint32_t n) noexcept nogil:
    cdef uint32_t i
    for i in range(n):
        if LOWER[<uint8_t> p[i]] != <uint8_t> lower[i]:
            return False
    return True


cdef bint is_token(const char* p, size_t n) noexcept nogil:
    cdef size_t i
    if n == 0:
        return False
    for i in range(n):
        if not TOKEN[<uint8_t> p[i]]:
            return False
    return True


cdef bint is_field_value(const char* p, size_t n) noexcept nogil:
    # HTAB, SP, VCHAR, obs-text. Written without an early exit so that the compiler uses vector instructions.
    cdef size_t i
    cdef uint8_t bad = 0
    cdef uint8_t c
    for i in range(n):
        c = <uint8_t> p[i]
        bad |= (c < 32) & (c != 9)
        bad |= (c == 127)
    return not bad


cdef inline bint is_target(const char* p, size_t n) noexcept nogil:
    # Visible ASCII without "#": fragments never travel, and everything else needs percent-encoding (RFC 3986).
    cdef size_t i
    cdef uint8_t bad = 0
    cdef uint8_t c
    for i in range(n):
        c = <uint8_t> p[i]
        bad |= (c < 33) | (c > 126) | (c == 35)
    return not bad


cdef bint is_authority(const char* p, uint32_t n) noexcept nogil:
    # host [ ":" port ] of RFC 3986 section 3.2, without userinfo.
    cdef uint32_t i = 0
    cdef uint32_t digits = 0
    cdef uint32_t port = 0
    cdef char literal[48]
    cdef unsigned char address[16]
    if n == 0:
        return False
    if p[0] == b"[":
        i = 1
        while i < n and i < 47 and (HEX[<uint8_t> p[i]] >= 0 or p[i] == b":" or p[i] == b"."):
            literal[i - 1] = p[i]
            i += 1
        if i >= n or p[i] != b"]":
            return False
        literal[i - 1] = 0
        if inet_pton(AF_INET6, literal, address) != 1:
            return False
        i += 1
    else:
        while i < n and REGNAME[<uint8_t> p[i]]:
            if p[i] == b"%":
                if i + 2 >= n or HEX[<uint8_t> p[i + 1]] < 0 or HEX[<uint8_t> p[i + 2]] < 0:
                    return False
                i += 2
            i += 1
        if i == 0:
            return False
    if i == n:
        return True
    if p[i] != b":":
        return False
    i += 1
    while i < n:
        if p[i] < b"0" or p[i] > b"9":
            return False
        digits += 1
        if digits > 5:
            return False
        port = port * 10 + (<uint32_t> p[i] - 48)
        i += 1
    return port <= 65535


cdef inline int header_id(const char* p, uint32_t n) noexcept nogil:
    # One switch on the length, then at most a few comparisons; unknown names cost the switch only.
    cdef uint8_t c = LOWER[<uint8_t> p[0]]
    if n == 2:
        if equals_lower(p, b"te", 2):
            return H_TE
    elif n == 4:
        if c == b"h" and equals_lower(p, b"host", 4):
            return H_HOST
        if c == b"v" and equals_lower(p, b"vary", 4):
            return H_VARY
        if c == b"d" and equals_lower(p, b"date", 4):
            return H_DATE
    elif n == 6:
        if c == b"e" and equals_lower(p, b"expect", 6):
            return H_EXPECT
        if c == b"o" and equals_lower(p, b"origin", 6):
            return H_ORIGIN
    elif n == 7:
        if c == b"u" and equals_lower(p, b"upgrade", 7):
            return H_UPGRADE
        if c == b"t" and equals_lower(p, b"trailer", 7):
            return H_TRAILER
    elif n == 9:
        if c == b"f" and equals_lower(p, b"forwarded", 9):
            return H_FORWARDED
    elif n == 10:
        if c == b"c" and equals_lower(p, b"connection", 10):
            return H_CONNECTION
        if c == b"k" and equals_lower(p, b"keep-alive", 10):
            return H_KEEP_ALIVE
    elif n == 12:
        if c == b"c" and equals_lower(p, b"content-type", 12):
            return H_CONTENT_TYPE
    elif n == 14:
        if c == b"c" and equals_lower(p, b"content-length", 14):
            return H_CONTENT_LENGTH
        if c == b"m" and equals_lower(p, b"mcp-session-id", 14):
            return H_MCP_SESSION_ID
        if c == b"h" and equals_lower(p, b"http2-settings", 14):
            return H_HTTP2_SETTINGS
    elif n == 15:
        if c == b"x" and equals_lower(p, b"x-forwarded-for", 15):
            return H_X_FORWARDED_FOR
    elif n == 16:
        if c == b"p" and equals_lower(p, b"proxy-connection", 16):
            return H_PROXY_CONNECTION
        if c == b"x" and equals_lower(p, b"x-forwarded-host", 16):
            return H_X_FORWARDED_HOST
    elif n == 17:
        if c == b"t" and equals_lower(p, b"transfer-encoding", 17):
            return H_TRANSFER_ENCODING
        if c == b"x" and equals_lower(p, b"x-forwarded-proto", 17):
            return H_X_FORWARDED_PROTO
    elif n == 18:
        if c == b"p" and equals_lower(p, b"proxy-authenticate", 18):
            return H_PROXY_AUTHENTICATE
    elif n == 19:
        if c == b"p" and equals_lower(p, b"proxy-authorization", 19):
            return H_PROXY_AUTHORIZATION
    elif n == 29:
        if c == b"a" and equals_lower(p, b"access-control-request-method", 29):
            return H_ACR_METHOD
    return H_OTHER


cdef inline int method_id(const char* p, uint32_t n) noexcept nogil:
    # Methods are case-sensitive (RFC 9110 section 9.1).
    if n == 3:
        if memcmp(p, b"GET", 3) == 0:
            return M_GET
        if memcmp(p, b"PUT", 3) == 0:
            return M_PUT
    elif n == 4:
        if memcmp(p, b"POST", 4) == 0:
            return M_POST
        if memcmp(p, b"HEAD", 4) == 0:
            return M_HEAD
    elif n == 5:
        if memcmp(p, b"PATCH", 5) == 0:
            return M_PATCH
        if memcmp(p, b"TRACE", 5) == 0:
            return M_TRACE
    elif n == 6:
        if memcmp(p, b"DELETE", 6) == 0:
            return M_DELETE
    elif n == 7:
        if memcmp(p, b"OPTIONS", 7) == 0:
            return M_OPTIONS
        if memcmp(p, b"CONNECT", 7) == 0:
            return M_CONNECT
    return M_OTHER


cdef int head_init(Head* h, const CLimits* lim) except -1:
    memset(h, 0, sizeof(Head))
    h.capacity = lim.max_headers
    h.headers = <Header*> malloc(sizeof(Header) * (lim.max_headers + 1))
    if h.headers == NULL:
        raise MemoryError()
    head_reset(h)
    return 0


cdef void head_reset(Head* h) noexcept nogil:
    h.start = h.line = h.scan = h.size = 0
    h.flags = 0
    h.nheaders = 0
    h.phase = h.blank = 0
    h.method = 0
    h.framing = FRAMING_NONE
    h.status = h.error = 0
    h.content_length = -1
    h.host_len = h.upgrade_len = h.path_len = h.query_len = h.has_query = h.reason_len = h.target_len = 0
    h.host_off = h.upgrade_off = h.path_off = h.query_off = h.reason_off = h.target_off = 0
    h.problem = NULL


cdef void head_free(Head* h) noexcept nogil:
    free(h.headers)
    h.headers = NULL


cdef inline int fail(Head* h, int status, const char* problem) noexcept nogil:
    h.error = status
    h.problem = problem
    return -1


cdef int parse_request_line(Head* h, const char* buf, uint32_t start, uint32_t end) noexcept nogil:
    # method SP request-target SP HTTP-version; exactly one SP each (RFC 9112 section 3).
    cdef const char* p = buf + start
    cdef uint32_t n = end - start
    cdef uint32_t i = 0
    cdef uint32_t t
    cdef uint32_t m
    cdef const char* q
    while i < n and TOKEN[<uint8_t> p[i]]:
        i += 1
    if i == 0 or i >= n or p[i] != b" ":
        return fail(h, 400, "malformed request line")
    h.start = start
    h.method_len = i
    h.method = method_id(p, i)
    t = i + 1
    q = <const char*> memchr(p + t, b" ", n - t)
    if q == NULL:
        return fail(h, 400, "malformed request line")
    m = <uint32_t> (q - p) - t
    h.target_off = start + t
    h.target_len = m
    if m == 0 or not is_target(p + t, m):
        return fail(h, 400, "invalid octet in request target")
    q += 1
    i = n - <uint32_t> (q - p)
    if i != 8 or q[0] != b"H" or q[1] != b"T" or q[2] != b"T" or q[3] != b"P" or q[4] != b"/" or q[6] != b"." \
            or q[5] < b"0" or q[5] > b"9" or q[7] < b"0" or q[7] > b"9":
        return fail(h, 400, "malformed HTTP version")
    if q[5] != b"1":
        return fail(h, 505, "HTTP version not supported")
    h.version = 10 if q[7] == b"0" else 11
    return parse_target(h, buf)


cdef int parse_target(Head* h, const char* buf) noexcept nogil:
    # The four forms of RFC 9112 section 3.2.
    cdef const char* p = buf + h.target_off
    cdef uint32_t n = h.target_len
    cdef uint32_t i
    cdef uint32_t off
    cdef const char* q
    if h.method == M_CONNECT:
        if not is_authority(p, n):
            return fail(h, 400, "CONNECT needs host:port")
        h.host_off = h.target_off
        h.host_len = n
        return 0
    if p[0] == b"/":
        off = 0
    elif p[0] == b"*" and n == 1:
        if h.method != M_OPTIONS:
            return fail(h, 400, "'*' is for OPTIONS only")
        h.path_off = h.target_off
        h.path_len = 1
        return 0
    else:
        if n > 7 and equals_lower(p, b"http://", 7):
            i = 7
        elif n > 8 and equals_lower(p, b"https://", 8):
            i = 8
        else:
            return fail(h, 400, "invalid request target")
        off = i
        while off < n and p[off] != b"/" and p[off] != b"?":
            off += 1
        if not is_authority(p + i, off - i):
            return fail(h, 400, "invalid authority in request target")
        h.flags |= F_ABSOLUTE
        h.host_off = h.target_off + i
        h.host_len = off - i
    h.path_off = h.target_off + off
    q = <const char*> memchr(p + off, b"?", n - off)
    if q == NULL:
        h.path_len = n - off
    else:
        h.path_len = <uint32_t> (q - p) - off
        h.has_query = 1
        h.query_off = h.target_off + <uint32_t> (q - p) + 1
        h.query_len = n - <uint32_t> (q - p) - 1
    return 0


cdef int parse_status_line(Head* h, const char* buf, uint32_t start, uint32_t end) noexcept nogil:
    cdef const char* p = buf + start
    cdef uint32_t n = end - start
    cdef int i
    if n < 12 or p[0] != b"H" or p[1] != b"T" or p[2] != b"T" or p[3] != b"P" or p[4] != b"/" or p[5] != b"1" \
            or p[6] != b"." or p[7] < b"0" or p[7] > b"9" or p[8] != b" ":
        return fail(h, 502, "malformed status line")
    for i in range(9, 12):
        if p[i] < b"0" or p[i] > b"9":
            return fail(h, 502, "malformed status code")
    h.start = start
    h.version = 10 if p[7] == b"0" else 11
    h.status = (p[9] - 48) * 100 + (p[10] - 48) * 10 + (p[11] - 48)
    if h.status < 100:
        return fail(h, 502, "malformed status code")
    if n > 12:
        if p[12] != b" " or not is_field_value(p + 12, n - 12):
            return fail(h, 502, "malformed reason phrase")
        h.reason_off = start + 13
        h.reason_len = n - 13
    return 0


cdef inline bint next_element(const char* p, uint32_t n, uint32_t* i, uint32_t* off, uint32_t* size) noexcept nogil:
    # Elements of a comma-separated list, OWS trimmed, empty elements skipped (RFC 9110 section 5.6.1).
    cdef uint32_t e
    while i[0] < n and (p[i[0]] == b"," or p[i[0]] == b" " or p[i[0]] == b"\t"):
        i[0] += 1
    if i[0] >= n:
        return False
    off[0] = i[0]
    while i[0] < n and p[i[0]] != b",":
        i[0] += 1
    e = i[0]
    while e > off[0] and (p[e - 1] == b" " or p[e - 1] == b"\t"):
        e -= 1
    size[0] = e - off[0]
    return True


cdef int parse_connection(Head* h, const char* p, uint32_t n, int status) noexcept nogil:
    cdef uint32_t i = 0
    cdef uint32_t off = 0
    cdef uint32_t size = 0
    cdef int known
    while next_element(p, n, &i, &off, &size):
        if not is_token(p + off, size):
            return fail(h, status, "malformed Connection")
        if size == 5 and equals_lower(p + off, b"close", 5):
            h.flags |= F_CLOSE
        elif size == 10 and equals_lower(p + off, b"keep-alive", 10):
            h.flags |= F_KEEP_ALIVE
        elif size == 7 and equals_lower(p + off, b"upgrade", 7):
            h.flags |= F_UPGRADE
        else:
            known = header_id(p + off, size)
            if known == H_CONTENT_LENGTH or known == H_TRANSFER_ENCODING or known == H_HOST \
                    or (size == 13 and equals_lower(p + off, b"authorization", 13)):
                return fail(h, status, "Connection names a field that must not be dropped")
            h.flags |= F_NAMED
    return 0


cdef int parse_length(Head* h, const char* p, uint32_t n, int status) noexcept nogil:
    cdef uint32_t i
    cdef int64_t v = 0
    if h.flags & F_LENGTH:
        return fail(h, status, "more than one Content-Length")
    if n == 0 or n > 18:
        return fail(h, status, "malformed Content-Length")
    for i in range(n):
        if p[i] < b"0" or p[i] > b"9":
            return fail(h, status, "malformed Content-Length")
        v = v * 10 + (p[i] - 48)
    h.flags |= F_LENGTH
    h.content_length = v
    return 0


cdef int parse_field(Head* h, const char* buf, uint32_t start, uint32_t end, int status) noexcept nogil:
    cdef const char* p = buf + start
    cdef uint32_t n = end - start
    cdef uint32_t i = 0
    cdef uint32_t e = n
    cdef uint32_t m
    cdef Header* f
    while i < n and TOKEN[<uint8_t> p[i]]:
        i += 1
    if i == 0 or i >= n or p[i] != b":":
        # Covers obs-fold (leading blank), a blank before the colon, an empty name and a missing colon.
        return fail(h, status, "malformed header field name")
    if i > 0xFFFF:
        return fail(h, 431 if status == 400 else status, "header field too long")
    m = i
    i += 1
    while i < e and (p[i] == b" " or p[i] == b"\t"):
        i += 1
    while e > i and (p[e - 1] == b" " or p[e - 1] == b"\t"):
        e -= 1
    if not is_field_value(p + i, e - i):
        return fail(h, status, "control octet in header field")
    if h.nheaders >= h.capacity:
        return fail(h, 431 if status == 400 else status, "too many header fields")
    f = &h.headers[h.nheaders]
    h.nheaders += 1
    f.name_off = start
    f.name_len = m
    f.value_off = start + i
    f.value_len = e - i
    f.id = header_id(p, m)
    if f.id == H_OTHER:
        return 0
    p += i
    n = e - i
    if f.id == H_CONTENT_LENGTH:
        return parse_length(h, p, n, status)
    if f.id == H_TRANSFER_ENCODING:
        if h.flags & F_TRANSFER:
            return fail(h, status, "more than one Transfer-Encoding")
        h.flags |= F_TRANSFER
        if n == 7 and equals_lower(p, b"chunked", 7):
            h.flags |= F_CHUNKED_VALUE
        elif n == 0:
            return fail(h, status, "empty Transfer-Encoding")
    elif f.id == H_CONNECTION:
        return parse_connection(h, p, n, status)
    elif f.id == H_HOST and status == 400:
        if h.flags & F_HOST:
            return fail(h, 400, "more than one Host")
        if not is_authority(p, n):
            return fail(h, 400, "invalid Host")
        h.flags |= F_HOST
        if not h.host_len:
            h.host_off = f.value_off
            h.host_len = n
    elif f.id == H_UPGRADE:
        h.upgrade_off = f.value_off
        h.upgrade_len = n
    elif f.id == H_EXPECT and status == 400:
        if n == 12 and equals_lower(p, b"100-continue", 12):
            h.flags |= F_EXPECT_CONTINUE
        else:
            return fail(h, 417, "unknown expectation")
    elif f.id == H_CONTENT_TYPE:
        if n >= 17 and equals_lower(p, b"text/event-stream", 17) and (n == 17 or not TOKEN[<uint8_t> p[17]]):
            h.flags |= F_EVENT_STREAM
    return 0


cdef int finish_request(Head* h) noexcept nogil:
    if h.version == 11 and not (h.flags & F_HOST):
        return fail(h, 400, "missing Host")
    if h.flags & F_TRANSFER:
        if h.version == 10:
            return fail(h, 400, "Transfer-Encoding in HTTP/1.0")
        if h.flags & F_LENGTH:
            return fail(h, 400, "Content-Length beside Transfer-Encoding")
        if not (h.flags & F_CHUNKED_VALUE):
            return fail(h, 501, "unknown transfer coding")
        h.framing = FRAMING_CHUNKED
    elif h.content_length > 0:
        h.framing = FRAMING_LENGTH
    else:
        h.framing = FRAMING_NONE
    if h.version == 10:
        # RFC 9110 sections 10.1.1 and 7.8: both are ignored in HTTP/1.0.
        h.flags &= ~<uint32_t> (F_EXPECT_CONTINUE | F_UPGRADE)
        h.keep_alive = (h.flags & (F_KEEP_ALIVE | F_CLOSE)) == F_KEEP_ALIVE
    else:
        h.keep_alive = not (h.flags & F_CLOSE)
    return 1


cdef int finish_response(Head* h, int request_method) noexcept nogil:
    # RFC 9112 section 6.3, without the leniencies.
    if h.flags & F_TRANSFER:
        if h.version == 10 or h.flags & F_LENGTH or not (h.flags & F_CHUNKED_VALUE):
            return fail(h, 502, "unusable Transfer-Encoding")
    if h.status < 200 or h.status == 204 or h.status == 304 or request_method == M_HEAD:
        h.framing = FRAMING_NONE
    elif h.flags & F_TRANSFER:
        h.framing = FRAMING_CHUNKED
    elif h.flags & F_LENGTH:
        h.framing = FRAMING_LENGTH if h.content_length > 0 else FRAMING_NONE
    else:
        h.framing = FRAMING_EOF
    if h.version == 10:
        h.keep_alive = (h.flags & (F_KEEP_ALIVE | F_CLOSE)) == F_KEEP_ALIVE
    else:
        h.keep_alive = not (h.flags & F_CLOSE)
    if h.framing == FRAMING_EOF:
        h.keep_alive = 0
    return 1


cdef inline int head_feed(Head* h, const char* buf, uint32_t n, const CLimits* lim, int request_method) noexcept nogil:
    # request_method < 0: a request head. Else a response to that method.
    cdef const char* lf
    cdef uint32_t end
    cdef uint32_t size
    cdef bint is_request = request_method < 0
    cdef int bad = 400 if is_request else 502
    if h.error:
        return -1
    while True:
        lf = <const char*> memchr(buf + h.scan, b"\n", n - h.scan) if n > h.scan else NULL
        if lf == NULL:
            h.scan = n
            size = n - h.line
            if h.phase == 0:
                if size > lim.max_line + 1:
                    return fail(h, 414 if is_request else 502, "request line too long" if is_request else "status line too long")
            elif size > lim.max_field + 1:
                return fail(h, 431 if is_request else 502, "header field too long")
            if n > lim.max_head:
                return fail(h, 431 if is_request else 502, "header section too large")
            return 0
        end = <uint32_t> (lf - buf)
        size = end - h.line
        if h.phase == 0 and size > lim.max_line + 1:
            return fail(h, 414 if is_request else 502, "request line too long" if is_request else "status line too long")
        if h.phase == 1 and size > lim.max_field + 1:
            return fail(h, 431 if is_request else 502, "header field too long")
        if end + 1 > lim.max_head:
            return fail(h, 431 if is_request else 502, "header section too large")
        if size == 0 or buf[end - 1] != b"\r":
            return fail(h, bad, "bare LF")
        end -= 1
        if h.phase == 0:
            if end == h.line:
                # Robustness of RFC 9112 section 2.2: an empty line left over from the previous body.
                h.blank += 1
                if h.blank > 2 or not is_request:
                    return fail(h, bad, "empty line instead of a start line")
            else:
                if is_request:
                    if parse_request_line(h, buf, h.line, end) < 0:
                        return -1
                elif parse_status_line(h, buf, h.line, end) < 0:
                    return -1
                h.phase = 1
        elif end == h.line:
            h.size = end + 2
            return finish_request(h) if is_request else finish_response(h, request_method)
        elif parse_field(h, buf, h.line, end, bad) < 0:
            return -1
        h.line = end + 2
        h.scan = h.line


cdef int request_head_feed(Head* h, const char* buf, uint32_t n, const CLimits* lim) noexcept nogil:
    return head_feed(h, buf, n, lim, -1)


cdef int response_head_feed(Head* h, const char* buf, uint32_t n, const CLimits* lim, int request_method) noexcept nogil:
    return head_feed(h, buf, n, lim, request_method)


cdef bint connection_names(const Head* h, const char* buf, const char* name, uint32_t n) noexcept nogil:
    # Is the field `name` to be dropped because a Connection field names it? Asked only when F_NAMED is set.
    cdef uint32_t k, i, off, size, j
    cdef const Header* f
    for k in range(h.nheaders):
        f = &h.headers[k]
        if f.id != H_CONNECTION:
            continue
        i = off = size = 0
        while next_element(buf + f.value_off, f.value_len, &i, &off, &size):
            if size == n:
                j = 0
                while j < n and LOWER[<uint8_t> buf[f.value_off + off + j]] == LOWER[<uint8_t> name[j]]:
                    j += 1
                if j == n:
                    return True
    return False


cdef bint needs_normalising(const char* p, uint32_t n) noexcept nogil:
    cdef uint32_t i
    for i in range(n):
        if p[i] == b"%" or p[i] == b"\\":
            return True
        if p[i] == b"/" and i + 1 < n and (p[i + 1] == b"/" or p[i + 1] == b"."):
            return True
    return False


cdef int normalise_path(const char* p, uint32_t n, char* out) noexcept nogil:
    # RFC 3986 section 6.2.2: unreserved escapes decoded, other escapes in upper case, dot segments removed, and
    # empty segments merged. Returns the length written (at most n), or -1 for what must be refused: %2f, %5c,
    # %00..%1f, %7f, a broken escape, a raw backslash, or dot segments above the root.
    cdef uint32_t i = 0
    cdef uint32_t o = 0
    cdef uint32_t seg
    cdef int hi, lo
    cdef uint8_t c
    cdef bint last
    if n == 0 or p[0] != b"/":
        return -1
    while i < n:
        # At a "/" of the input; out[:o] is normal and does not end in "/".
        while i < n and p[i] == b"/":
            i += 1
        out[o] = b"/"
        o += 1
        seg = o
        while i < n and p[i] != b"/":
            c = <uint8_t> p[i]
            if c == b"\\":
                return -1
            if c == b"%":
                if i + 2 >= n:
                    return -1
                hi = HEX[<uint8_t> p[i + 1]]
                lo = HEX[<uint8_t> p[i + 2]]
                if hi < 0 or lo < 0:
                    return -1
                c = <uint8_t> (hi * 16 + lo)
                if c < 32 or c == 127 or c == b"/" or c == b"\\":
                    return -1
                if (48 <= c <= 57) or (65 <= c <= 90) or (97 <= c <= 122) or c == b"-" or c == b"." or c == b"_" or c == b"~":
                    out[o] = <char> c
                    o += 1
                else:
                    out[o] = b"%"
                    out[o + 1] = p[i + 1] - 32 if 97 <= p[i + 1] <= 102 else p[i + 1]
                    out[o + 2] = p[i + 2] - 32 if 97 <= p[i + 2] <= 102 else p[i + 2]
                    o += 3
                i += 3
                continue
            out[o] = <char> c
            o += 1
            i += 1
        last = i >= n
        if o - seg == 1 and out[seg] == b".":
            o = seg - 1
            if last:
                out[o] = b"/"
                o += 1
        elif o - seg == 2 and out[seg] == b"." and out[seg + 1] == b".":
            if seg == 1:
                return -1
            o = seg - 2
            while out[o] != b"/":
                o -= 1
            if last:
                o += 1
    return <int> o


# ---------------------------------------------------------------------------------------------------- bodies

cdef enum:
    S_SIZE = 0
    S_EXT
    S_SIZE_LF
    S_DATA
    S_DATA_CR
    S_DATA_LF
    S_TRAILER
    S_NAME
    S_VALUE
    S_VALUE_LF
    S_END_LF
    S_DONE
    S_FAILED


cdef void body_init(Body* b, int framing, int64_t length) noexcept nogil:
    b.framing = framing
    b.state = S_SIZE
    b.digits = 0
    b.remaining = length if framing == FRAMING_LENGTH else 0
    b.line = b.extensions = b.trailers = 0
    if framing == FRAMING_NONE or (framing == FRAMING_LENGTH and length == 0):
        b.state = S_DONE


cdef int body_feed(Body* b, const char* p, size_t n, size_t* used, const char** data, size_t* size,
                   const CLimits* lim) noexcept nogil:
    # Consumes from p[:n]; returns DATA with one run inside p, END, NEED (all consumed), or ERROR.
    cdef size_t i = 0
    cdef size_t k
    cdef uint8_t c
    used[0] = 0
    if b.state == S_DONE:
        return BODY_END
    if b.framing == FRAMING_EOF:
        if n == 0:
            return BODY_NEED
        data[0] = p
        size[0] = n
        used[0] = n
        return BODY_DATA
    if b.framing == FRAMING_LENGTH:
        if n == 0:
            return BODY_NEED
        k = n if <int64_t> n < b.remaining else <size_t> b.remaining
        b.remaining -= k
        if b.remaining == 0:
            b.state = S_DONE
        data[0] = p
        size[0] = k
        used[0] = k
        return BODY_DATA
    while i < n:
        c = <uint8_t> p[i]
        if b.state == S_DATA:
            k = n - i
            if <int64_t> k > b.remaining:
                k = <size_t> b.remaining
            b.remaining -= k
            if b.remaining == 0:
                b.state = S_DATA_CR
            data[0] = p + i
            size[0] = k
            used[0] = i + k
            return BODY_DATA
        i += 1
        if b.state == S_SIZE:
            if HEX[c] >= 0:
                if b.digits >= 15:
                    b.state = S_FAILED
                    break
                b.digits += 1
                b.remaining = b.remaining * 16 + HEX[c]
            elif b.digits and c == b"\r":
                b.state = S_SIZE_LF
            elif b.digits and c == b";":
                b.line = b.digits + 1
                b.state = S_EXT
            else:
                b.state = S_FAILED
                break
        elif b.state == S_EXT:
            if c == b"\r":
                b.state = S_SIZE_LF
                continue
            b.line += 1
            b.extensions += 1
            if (c < 32 and c != 9) or c == 127 or b.line > lim.max_chunk_line or b.extensions > lim.max_chunk_ext:
                b.state = S_FAILED
                break
        elif b.state == S_SIZE_LF:
            if c != b"\n":
                b.state = S_FAILED
                break
            b.digits = 0
            b.state = S_DATA if b.remaining else S_TRAILER
        elif b.state == S_DATA_CR:
            if c != b"\r":
                b.state = S_FAILED
                break
            b.state = S_DATA_LF
        elif b.state == S_DATA_LF:
            if c != b"\n":
                b.state = S_FAILED
                break
            b.state = S_SIZE
        elif b.state == S_END_LF:
            if c != b"\n":
                b.state = S_FAILED
                break
            b.state = S_DONE
            used[0] = i
            return BODY_END
        elif b.state == S_FAILED:
            break
        elif b.state == S_TRAILER and c == b"\r":
            b.state = S_END_LF
        else:
            b.trailers += 1
            if b.trailers > lim.max_trailers:
                b.state = S_FAILED
                break
            if b.state == S_TRAILER:
                if TOKEN[c]:
                    b.state = S_NAME
                else:
                    b.state = S_FAILED
                    break
            elif b.state == S_NAME:
                if c == b":":
                    b.state = S_VALUE
                elif not TOKEN[c]:
                    b.state = S_FAILED
                    break
            elif b.state == S_VALUE:
                if c == b"\r":
                    b.state = S_VALUE_LF
                elif (c < 32 and c != 9) or c == 127:
                    b.state = S_FAILED
                    break
            else:
                if c != b"\n":
                    b.state = S_FAILED
                    break
                b.state = S_TRAILER
    used[0] = i
    return BODY_ERROR if b.state == S_FAILED else BODY_NEED


# ------------------------------------------------------------------------------------------- Python surface

NEED_DATA = 0
HEAD = 1
BODY = 2
END = 3
ERROR = 4

_METHODS = {b"GET": M_GET, b"HEAD": M_HEAD, b"POST": M_POST, b"PUT": M_PUT, b"DELETE": M_DELETE, b"CONNECT": M_CONNECT,
            b"OPTIONS": M_OPTIONS, b"TRACE": M_TRACE, b"PATCH": M_PATCH}


cdef class Limits:
    def __init__(self, *, max_line=8192, max_field=16384, max_head=32768, max_headers=100, max_chunk_line=4096,
                 max_chunk_ext=16384, max_trailers=8192):
        for value in (max_line, max_field, max_head, max_chunk_line, max_chunk_ext, max_trailers):
            if not 0 <= value <= 1 << 26:
                raise ValueError("limits are octets from 0 to 67108864")
        if not 0 <= max_headers <= 65535:
            raise ValueError("max_headers is a number from 0 to 65535")
        self.c.max_line = max_line
        self.c.max_field = max_field
        self.c.max_head = max_head
        self.c.max_headers = max_headers
        self.c.max_chunk_line = max_chunk_line
        self.c.max_chunk_ext = max_chunk_ext
        self.c.max_trailers = max_trailers


cdef class Parser:
    cdef Limits limits
    cdef Head h
    cdef Body b
    cdef bytes buf
    cdef bytes head_bytes
    cdef Py_ssize_t pos
    cdef int state              # 0 head, 1 body, 2 error
    cdef bint at_eof
    cdef bytes run
    cdef tuple failure
    cdef int request_method     # -1: requests

    def __cinit__(self, Limits limits not None, *args):
        self.limits = limits
        head_init(&self.h, &limits.c)
        self.buf = b""
        self.head_bytes = b""
        self.run = b""
        self.request_method = -1

    def __dealloc__(self):
        head_free(&self.h)

    def feed(self, bytes data not None):
        if self.state == 2:
            return
        if self.pos:
            self.buf = self.buf[self.pos:]
            self.pos = 0
        self.buf = self.buf + data if self.buf else data

    cdef int fail_(self, int status, str problem):
        self.state = 2
        self.failure = (status, problem)
        return ERROR

    def next_event(self):
        cdef const char* p
        cdef size_t n
        cdef int r
        cdef size_t used = 0
        cdef const char* data = NULL
        cdef size_t size = 0
        if self.state == 2:
            return ERROR
        if self.state == 0:
            p = PyBytes_AS_STRING(self.buf) + self.pos
            n = PyBytes_GET_SIZE(self.buf) - self.pos
            if self.h.size:
                head_reset(&self.h)
            # The head scanner counts in 32 bits; it never needs to see more than its limit to decide.
            r = head_feed(&self.h, p, <uint32_t> min(n, <size_t> self.limits.c.max_head + 2), &self.limits.c, self.request_method)
            if r < 0:
                return self.fail_(self.h.error, (<bytes> self.h.problem).decode())
            if r == 0:
                if self.at_eof:
                    return self.fail_(502, "closed before the end of a head")
                return NEED_DATA
            self.head_bytes = p[:self.h.size]
            self.pos += self.h.size
            if self.request_method >= 0 and self.h.status < 200 and self.h.status != 101:
                return HEAD
            body_init(&self.b, self.h.framing, self.h.content_length)
            self.state = 1
            return HEAD
        p = PyBytes_AS_STRING(self.buf) + self.pos
        n = PyBytes_GET_SIZE(self.buf) - self.pos
        r = body_feed(&self.b, p, n, &used, &data, &size, &self.limits.c)
        self.pos += used
        if r == BODY_DATA:
            self.run = data[:size]
            return BODY
        if r == BODY_END:
            self.state = 0 if self.request_method < 0 else 3
            return END
        if r == BODY_ERROR:
            return self.fail_(400 if self.request_method < 0 else 502, "malformed chunked body")
        if self.at_eof:
            if self.b.framing == FRAMING_EOF:
                self.state = 3
                return END
            return self.fail_(502, "closed inside a body")
        return NEED_DATA

    cdef bytes cut(self, uint32_t off, uint32_t size):
        return self.head_bytes[off:off + size]

    @property
    def version(self):
        return self.h.version

    @property
    def headers(self):
        return [(self.cut(self.h.headers[i].name_off, self.h.headers[i].name_len),
                 self.cut(self.h.headers[i].value_off, self.h.headers[i].value_len)) for i in range(self.h.nheaders)]

    @property
    def keep_alive(self):
        return bool(self.h.keep_alive)

    @property
    def content_length(self):
        return self.h.content_length

    @property
    def chunked(self):
        return self.h.framing == FRAMING_CHUNKED

    @property
    def body(self):
        return self.run

    @property
    def error(self):
        return self.failure if self.failure is not None else (0, "")


cdef class RequestParser(Parser):
    def __init__(self, Limits limits not None):
        self.request_method = -1

    @property
    def method(self):
        return self.cut(self.h.start, self.h.method_len)

    @property
    def target(self):
        return self.cut(self.h.target_off, self.h.target_len)

    @property
    def path(self):
        if self.h.path_len == 0 and self.h.flags & F_ABSOLUTE:
            return b"/"
        return self.cut(self.h.path_off, self.h.path_len)

    @property
    def host(self):
        return self.cut(self.h.host_off, self.h.host_len)

    @property
    def expect_continue(self):
        return bool(self.h.flags & F_EXPECT_CONTINUE)

    @property
    def upgrade(self):
        return self.cut(self.h.upgrade_off, self.h.upgrade_len) if self.h.flags & F_UPGRADE else b""


cdef class ResponseParser(Parser):
    def __init__(self, Limits limits not None, bytes request_method=b"GET"):
        self.request_method = _METHODS.get(request_method, M_OTHER)

    def feed_eof(self):
        self.at_eof = True

    def next_event(self):
        if self.state == 3:
            return NEED_DATA
        return Parser.next_event(self)

    @property
    def status(self):
        return self.h.status

    @property
    def reason(self):
        return self.cut(self.h.reason_off, self.h.reason_len)

    @property
    def surplus(self):
        return self.buf[self.pos:] if self.state == 3 else b""


def normalised_path(bytes path not None):
    cdef bytes out = PyBytes_FromStringAndSize(NULL, PyBytes_GET_SIZE(path) + 1)
    cdef int n = normalise_path(PyBytes_AS_STRING(path), <uint32_t> PyBytes_GET_SIZE(path), PyBytes_AS_STRING(out))
    return None if n < 0 else out[:n]
