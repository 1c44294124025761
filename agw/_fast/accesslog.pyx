# See accesslog.pyi for the manual.
#
# Rules of this file:
# - one JSON object per line, agentgateway's field names; control octets and invalid UTF-8 are escaped, so a line is
#   always one line of valid JSON whatever a client sent;
# - queries, whole session ids and credentials are not logged;
# - the request path only fills memory; `sink` gets whole buffers and may drop them (it counts).

from libc.stdint cimport int64_t, uint8_t, uint32_t
from libc.stdio cimport snprintf
from libc.string cimport memcpy, strlen
from libc.time cimport gmtime_r, time_t, tm
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE

from agw._fast.stream cimport buf_append, buf_free

cdef enum:
    ROOM = 768              # fixed parts of one record
    FULL = 65536            # hand over from here on


cdef inline char* put(char* o, const char* p, size_t n) noexcept:
    memcpy(o, p, n)
    return o + n


cdef char* put_number(char* o, int64_t v) noexcept:
    cdef char digits[24]
    cdef int n = 0
    if v < 0:
        o[0] = 45
        o += 1
        v = -v
    while True:
        digits[n] = <char> (48 + v % 10)
        n += 1
        v //= 10
        if v == 0:
            break
    while n:
        n -= 1
        o[0] = digits[n]
        o += 1
    return o


cdef char* put_text(char* o, const char* p, uint32_t n) noexcept:
    # Escaped for JSON; at most six octets out per octet in. Octets above 127 pass when they form UTF-8.
    cdef uint32_t i = 0
    cdef uint32_t k, j
    cdef uint8_t c
    cdef const char* hexa = b"0123456789abcdef"
    while i < n:
        c = <uint8_t> p[i]
        if c == 34 or c == 92:
            o[0] = 92
            o[1] = <char> c
            o += 2
        elif c < 32 or c == 127:
            o = put(o, b"\\u00", 4)
            o[0] = hexa[c >> 4]
            o[1] = hexa[c & 15]
            o += 2
        elif c < 128:
            o[0] = <char> c
            o += 1
        else:
            k = 2 if 0xC2 <= c < 0xE0 else 3 if 0xE0 <= c < 0xF0 else 4 if 0xF0 <= c < 0xF5 else 0
            j = 1
            while j < k and i + j < n and (<uint8_t> p[i + j] & 0xC0) == 0x80:
                j += 1
            if k == 0 or j < k or (c == 0xED and <uint8_t> p[i + 1] > 0x9F) or (c == 0xE0 and <uint8_t> p[i + 1] < 0xA0) \
                    or (c == 0xF0 and <uint8_t> p[i + 1] < 0x90) or (c == 0xF4 and <uint8_t> p[i + 1] > 0x8F):
                o = put(o, b"\\ufffd", 6)
            else:
                o = put(o, p + i, k)
                i += k
                continue
        i += 1
    return o


cdef void spread(Record* r, const char* at, uint32_t method_len, uint32_t host_len, uint32_t path_len, uint32_t id_len, uint32_t rpc_len,
                 uint32_t name_len) noexcept nogil:
    # What an exchange notes of a request stands in one run of octets, in this order.
    r.method, r.method_len = at, method_len
    r.host, r.host_len = at + method_len, host_len
    r.path, r.path_len = r.host + host_len, path_len
    r.rpc, r.rpc_len = r.path + path_len + id_len, rpc_len
    r.name, r.name_len = r.rpc + rpc_len, name_len


cdef class AccessLog:
    def __init__(self, sink):
        self.sink = sink
        self.stamp_second = -1
        self.enabled = sink is not None

    def __dealloc__(self):
        buf_free(&self.buf)

    cdef int add(self, const Record* r) except -1:
        cdef size_t texts = <size_t> r.peer_len + r.endpoint_len + r.method_len + r.host_len + r.path_len + r.target_len + r.rpc_len + r.name_len
        cdef size_t need = ROOM + r.fields_len + r.noted_len + r.added_len + 6 * texts
        cdef char* o
        cdef char* start
        cdef time_t seconds = <time_t> (r.wall_ns // 1000000000)
        cdef tm t
        cdef int64_t us = r.duration_ns // 1000 if r.duration_ns > 0 else 0
        cdef int ms
        if self.buf.off + self.buf.len + need > self.buf.cap:
            self.reserve(need)
        start = o = self.buf.p + self.buf.off + self.buf.len
        if seconds != self.stamp_second:
            gmtime_r(&seconds, &t)
            snprintf(self.stamp, 40, b'{"time":"%04d-%02d-%02dT%02d:%02d:%02d.', t.tm_year + 1900, t.tm_mon + 1, t.tm_mday,
                     t.tm_hour, t.tm_min, t.tm_sec)
            self.stamp_second = seconds
            self.stamp_len = strlen(self.stamp)
        o = put(o, self.stamp, self.stamp_len)
        ms = <int> (r.wall_ns % 1000000000 // 1000000)
        o[0] = <char> (48 + ms // 100)
        o[1] = <char> (48 + ms // 10 % 10)
        o[2] = <char> (48 + ms % 10)
        o = put(o + 3, b'Z","scope":"request"', 20)
        o = put(o, r.fields, r.fields_len)
        if r.endpoint_len:
            o = put(o, b',"endpoint":"', 13)
            o = put_text(o, r.endpoint, r.endpoint_len)
            o = put(o, b'"', 1)
        o = put(o, b',"src.addr":"', 13)
        o = put_text(o, r.peer, r.peer_len)
        o = put(o, b'","http.method":"', 17)
        o = put_text(o, r.method, r.method_len)
        o = put(o, b'","http.host":"', 15)
        o = put_text(o, r.host, r.host_len)
        o = put(o, b'","http.path":"', 15)
        o = put_text(o, r.path, r.path_len)
        o = put(o, b'","http.version":"HTTP/1.', 25)
        o[0] = 48 if r.version == 10 else 49
        o = put(o + 1, b'","http.status":', 16)
        o = put_number(o, r.status)
        if r.protocol != NULL:
            o = put(o, b',"protocol":"', 13)
            o = put(o, r.protocol, strlen(r.protocol))
            o = put(o, b'"', 1)
        if r.rpc_len:
            o = put(o, b',"mcp.method.name":"', 20)
            o = put_text(o, r.rpc, r.rpc_len)
            o = put(o, b'"', 1)
        if r.target_len:
            o = put(o, b',"mcp.target":"', 15)
            o = put_text(o, r.target, r.target_len)
            o = put(o, b'"', 1)
        if r.name_len:
            if r.name_kind == 1:
                o = put(o, b',"gen_ai.tool.name":"', 21)
            elif r.name_kind == 2:
                o = put(o, b',"gen_ai.prompt.name":"', 23)
            else:
                o = put(o, b',"mcp.resource.uri":"', 21)
            o = put_text(o, r.name, r.name_len)
            o = put(o, b'"', 1)
        if r.resource_type != NULL and r.resource_type[0]:
            o = put(o, b',"mcp.resource.type":"', 22)
            o = put(o, r.resource_type, strlen(r.resource_type))
            o = put(o, b'"', 1)
        if r.rpc_code:
            o = put(o, b',"mcp.error.code":', 18)
            o = put_number(o, r.rpc_code)
        elif r.tool_failed:
            o = put(o, b',"mcp.tool.is_error":true', 25)
        o = put(o, r.noted, r.noted_len)
        if r.retries:
            o = put(o, b',"retry.attempt":', 17)
            o = put_number(o, r.retries)
        if r.error != NULL:
            o = put(o, b',"error":"', 10)
            o = put_text(o, r.error, <uint32_t> min(strlen(r.error), <size_t> 64))
            o = put(o, b'"', 1)
        if r.reason != NULL:
            o = put(o, b',"reason":"', 11)
            o = put(o, r.reason, strlen(r.reason))
            o = put(o, b'"', 1)
        o = put(o, b',"duration":"', 13)
        o = put_number(o, us // 1000)
        o[0] = 46
        o[1] = <char> (48 + us // 100 % 10)
        o[2] = <char> (48 + us // 10 % 10)
        o[3] = <char> (48 + us % 10)
        o = put(o + 4, b'ms"', 3)
        if self.shape is not None:
            o = self.shaped(start, o)
        o = put(o, r.added, r.added_len)
        o = put(o, b"}\n", 2)
        self.buf.len += <size_t> (o - start)
        if self.buf.len >= FULL:
            self.emit()
        return 0

    cdef char* shaped(self, char* start, char* end) except NULL:
        cdef bytes line = self.shape(start[:end - start])
        if PyBytes_GET_SIZE(line) > end - start:
            return end
        return put(start, PyBytes_AS_STRING(line), <size_t> PyBytes_GET_SIZE(line))

    cdef int emit(self) except -1:
        if self.buf.len:
            data = self.buf.p[self.buf.off:self.buf.off + self.buf.len]
            self.buf.off = self.buf.len = 0
            self.sink(data)
        return 0

    def reserve(self, size_t need):
        # buf_append knows how to grow; the octets it copies are overwritten at once.
        cdef bytes blank = bytes(need)
        cdef size_t before = self.buf.len
        buf_append(&self.buf, blank, need)
        self.buf.len = before

    def flush(self):
        """Hand over what is there; called by the worker's tick."""
        self.emit()


def formatted(**fields):
    """One record as text, for tests: keyword arguments are the members of Record."""
    cdef Record r
    cdef list out = []
    cdef AccessLog log = AccessLog(out.append)
    texts = {k: (v if isinstance(v, bytes) else b"") for k, v in fields.items()}
    cdef bytes f = texts.get("fields", b"")
    cdef bytes peer = texts.get("peer", b"")
    cdef bytes endpoint = texts.get("endpoint", b"")
    cdef bytes method = texts.get("method", b"")
    cdef bytes host = texts.get("host", b"")
    cdef bytes path = texts.get("path", b"")
    cdef bytes target = texts.get("target", b"")
    cdef bytes rpc = texts.get("rpc", b"")
    cdef bytes name = texts.get("name", b"")
    cdef bytes resource_type = texts.get("resource_type", b"")
    cdef bytes noted = texts.get("noted", b"")
    cdef bytes added = texts.get("added", b"")
    r.fields, r.fields_len = f, <uint32_t> len(f)
    r.peer, r.peer_len = peer, <uint32_t> len(peer)
    r.endpoint, r.endpoint_len = endpoint, <uint32_t> len(endpoint)
    r.method, r.method_len = method, <uint32_t> len(method)
    r.host, r.host_len = host, <uint32_t> len(host)
    r.path, r.path_len = path, <uint32_t> len(path)
    r.target, r.target_len = target, <uint32_t> len(target)
    r.rpc, r.rpc_len = rpc, <uint32_t> len(rpc)
    r.name, r.name_len = name, <uint32_t> len(name)
    r.resource_type = resource_type
    r.noted, r.noted_len = noted, <uint32_t> len(noted)
    r.added, r.added_len = added, <uint32_t> len(added)
    log.shape = fields.get("shape")
    r.rpc_code = fields.get("rpc_code", 0)
    r.tool_failed = fields.get("tool_failed", False)
    r.wall_ns = fields.get("wall_ns", 0)
    r.duration_ns = fields.get("duration_ns", 0)
    r.version = fields.get("version", 11)
    r.status = fields.get("status", 200)
    r.name_kind = fields.get("name_kind", 1)
    r.retries = fields.get("retries", 0)
    r.protocol = NULL
    r.reason = NULL
    r.error = NULL
    log.add(&r)
    log.emit()
    return out[0]
