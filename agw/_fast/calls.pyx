# See calls.pyi for the manual.
#
# Rules of this file:
# - it says yes only to the plainest form of a request; whatever is unusual (spelling of a header, a query, an escape in a
#   name, an id under way) is left to Python code, which judges it fully: there is no second opinion, only a quicker one;
# - everything it knows was put here by that code after it had judged the same thing once;
# - it opens nothing and sends nothing.

from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memchr, memcmp
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE

from agw._fast.http1 cimport F_HOST, FRAMING_LENGTH, H_CONTENT_TYPE, H_MCP_SESSION_ID, H_ORIGIN, H_OTHER, Head, Header, equals_lower
from agw._fast.jsonrpc cimport KIND_REQUEST, Envelope
from agw._fast.policy cimport Choice

cdef extern from "string.h" nogil:
    void* memmem(const void* hay, size_t n, const void* needle, size_t m)

cdef enum:
    RPC_CALL = 10           # tools/call in methods.RPC_METHODS
    RPC_LIST = 9
    RPC_PROMPT = 12
    RPC_READ = 14
    MAX_NAMES = 65536
    MAX_HOSTS = 256
    MOST_MISSES = 16


cdef uint64_t stamps = 0


cdef uint64_t next_stamp() noexcept:
    # Of all tables of this process: no licence of one is good in another.
    global stamps
    stamps += 1
    return stamps


cdef class CallSession:
    def __init__(self, list choices not None, bytes version not None, bytes log_fields=b"", bytes principal=b""):
        self.principal = principal
        self.choices = choices
        self.version = version
        self.log_fields = log_fields
        self.flights = {}


cdef class CallTable:
    def __init__(self, int targets, bint plain, bint guarded, bint watched):
        self.sessions = {}
        self.tools = {}
        self.modern = [None] * targets
        self.hosts = set() if guarded else None
        self.plain = plain
        self.watched = watched
        self.stamp = next_stamp()

    def learn_tool(self, bytes public not None, uint32_t target, bytes own not None, bint modern):
        # Licences end when a name leads elsewhere, and only then: callers who learn a name in turn must not end each other's.
        place = self.tools.get(public)
        if place is not None and place[0] == target and place[1] == own:
            if place[2] or not modern:
                return
        elif place is not None:
            self.stamp = next_stamp()
        if len(self.tools) >= MAX_NAMES:
            self.tools.clear()
        self.tools[public] = (target, own, modern)

    def learn_host(self, bytes host not None):
        if self.hosts is not None and len(self.hosts) < MAX_HOSTS:
            self.hosts.add(host)

    def forget_tools(self):
        self.tools.clear()
        self.stamp = next_stamp()


cdef inline bint is_value(const char* buf, const Header* f, const char* text, uint32_t n) noexcept nogil:
    return f.value_len == n and memcmp(buf + f.value_off, text, n) == 0


cdef inline bint says(const char* p, size_t n, const char* key, size_t size, const char* then, size_t m) noexcept nogil:
    # Does an object have `key` and then `then`, as compact or as usual JSON writers put it?
    cdef const char* at = <const char*> memmem(p, n, key, size)
    cdef const char* end = p + n
    if at == NULL:
        return False
    at += size
    if at < end and at[0] == b" ":
        at += 1
    return at + m <= end and memcmp(at, then, m) == 0


cdef const char* trace_parent(const char* p, size_t n) noexcept nogil:
    # The 55 octets of a W3C traceparent of version 00, or NULL. Other versions go with other fields of the request: they are left alone.
    cdef const char* at = <const char*> memmem(p, n, b'"traceparent"', 13)
    cdef const char* end = p + n
    cdef int i
    if at == NULL:
        return NULL
    at += 13
    while at < end and (at[0] == b" " or at[0] == b":"):
        at += 1
    if end - at < 57 or at[0] != b'"' or at[56] != b'"' or at[1] != b"0" or at[2] != b"0":
        return NULL
    at += 1
    for i in range(55):
        if i == 2 or i == 35 or i == 52:
            if at[i] != b"-":
                return NULL
        elif not (b"0" <= at[i] <= b"9" or b"a" <= at[i] <= b"f"):
            return NULL
    return at


cdef inline bint is_plain_id(const char* p, uint32_t n) noexcept nogil:
    # Does every JSON library give this id back in these octets? (agw.mcp.peer.is_plain_id)
    cdef uint32_t i
    if p[0] != b'"':
        return n <= 15
    if n > 64:
        return False
    for i in range(1, n - 1):
        if p[i] == b"\\" or <unsigned char> p[i] >= 0x80:
            return False
    return True


cdef Choice find_way(CallTable table, const Head* h, const char* buf, const Envelope* e, const char* body, size_t n, int rpc,
                     Way* way, list found):
    # The choice for a request, or None. `found` gets the session, when there is one.
    cdef uint32_t i
    cdef const Header* f
    cdef const Header* session = NULL
    cdef const Header* version = NULL
    cdef const Header* method = NULL
    cdef const Header* name = NULL
    cdef bint typed = False
    cdef bint accepts = False
    cdef bint traced = False
    cdef CallSession known
    cdef tuple place = None
    way.name = NULL
    way.parent = NULL
    way.target = 0
    way.modern = 0
    if e.kind != KIND_REQUEST or e.escaped or h.has_query or h.framing != FRAMING_LENGTH \
            or not is_plain_id(body + e.id.off, e.id.len):
        return None
    if rpc != RPC_CALL and not (table.plain and (rpc == RPC_LIST or rpc == RPC_PROMPT or rpc == RPC_READ)):
        return None
    for i in range(h.nheaders):
        f = &h.headers[i]
        if f.id == H_MCP_SESSION_ID:
            if session != NULL:
                return None
            session = f
        elif f.id == H_CONTENT_TYPE:
            if typed or not is_value(buf, f, b"application/json", 16):
                return None
            typed = True
        elif f.id == H_ORIGIN:
            if table.hosts is not None:
                return None
        elif f.id == H_OTHER:
            if f.name_len == 6:
                if equals_lower(buf + f.name_off, b"accept", 6):
                    if accepts or not (is_value(buf, f, b"application/json, text/event-stream", 35) or is_value(buf, f, b"*/*", 3)):
                        return None
                    accepts = True
            elif f.name_len == 11:
                traced = traced or equals_lower(buf + f.name_off, b"traceparent", 11)
            elif f.name_len == 20:
                if equals_lower(buf + f.name_off, b"mcp-protocol-version", 20):
                    if version != NULL:
                        return None
                    version = f
            elif f.name_len == 10:
                if equals_lower(buf + f.name_off, b"mcp-method", 10):
                    if method != NULL:
                        return None
                    method = f
            elif f.name_len == 8:
                if equals_lower(buf + f.name_off, b"mcp-name", 8):
                    if name != NULL:
                        return None
                    name = f
            elif f.name_len > 10 and equals_lower(buf + f.name_off, b"mcp-param-", 10):
                return None
    if e.meta.len and not traced:
        way.parent = trace_parent(body + e.meta.off, e.meta.len)
        if way.parent != NULL and (memmem(body + e.meta.off, e.meta.len, b'"tracestate"', 12) != NULL
                                   or memmem(body + e.meta.off, e.meta.len, b'"baggage"', 9) != NULL):
            return None
    if not typed or (table.hosts is not None and (not h.flags & F_HOST or buf[h.host_off:h.host_off + h.host_len] not in table.hosts)):
        return None
    if not table.plain:
        place = table.tools.get(body[e.name.off:e.name.off + e.name.len])
        if place is None:
            return None
        way.target = place[0]
        if PyBytes_GET_SIZE(<bytes> place[1]) != <Py_ssize_t> e.name.len \
                or memcmp(PyBytes_AS_STRING(<bytes> place[1]), body + e.name.off, e.name.len) != 0:
            way.name = PyBytes_AS_STRING(<bytes> place[1])
            way.name_len = <uint32_t> PyBytes_GET_SIZE(<bytes> place[1])
    if version != NULL and is_value(buf, version, b"2026-07-28", 10):
        # Modern: what the headers mirror must be what the body says, octet for octet.
        if place is not None and not place[2]:
            return None
        if method == NULL or method.value_len != e.method.len or memcmp(buf + method.value_off, body + e.method.off, e.method.len) != 0:
            return None
        if rpc == RPC_CALL or rpc == RPC_PROMPT:
            if name == NULL or name.value_len != e.name.len or memcmp(buf + name.value_off, body + e.name.off, e.name.len) != 0:
                return None
        elif rpc == RPC_READ:
            if name == NULL or name.value_len != e.uri.len or memcmp(buf + name.value_off, body + e.uri.off, e.uri.len) != 0:
                return None
        elif name != NULL:
            return None
        if not e.meta.len \
                or not says(body + e.meta.off, e.meta.len, b'"io.modelcontextprotocol/protocolVersion":', 42, b'"2026-07-28"', 12) \
                or not says(body + e.meta.off, e.meta.len, b'"io.modelcontextprotocol/clientCapabilities":', 45, b"{", 1):
            return None
        way.modern = 1
        return <Choice> table.modern[way.target]
    if session == NULL or method != NULL or name != NULL \
            or (e.meta.len and memmem(body + e.meta.off, e.meta.len, b"io.modelcontextprotocol/", 24) != NULL):
        return None
    known = <CallSession> table.sessions.get(buf[session.value_off:session.value_off + session.value_len])
    if known is None or (version != NULL and not is_value(buf, version, PyBytes_AS_STRING(known.version),
                                                          <uint32_t> PyBytes_GET_SIZE(known.version))):
        return None
    if body[e.id.off:e.id.off + e.id.len] in known.flights:
        return None
    found.append(known)
    return <Choice> known.choices[way.target]


cdef inline size_t skip(const char* p, size_t n, size_t i, const char* text, size_t m) noexcept nogil:
    # Behind `text` at i, and a blank behind that; 0 when it is not there.
    if i == 0 or i + m >= n or memcmp(p + i, text, m) != 0:
        return 0
    i += m
    return i + 1 if p[i] == b" " else i


cdef bint answers(const char* p, size_t n, const char* ident, uint32_t size) noexcept nogil:
    # Does a response to this id begin here, the way nearly every server writes one?
    cdef size_t i = 1
    if n < 16 or p[0] != b"{":
        return False
    i = skip(p, n, i, b'"jsonrpc":', 10)
    i = skip(p, n, i, b'"2.0",', 6)
    i = skip(p, n, i, b'"id":', 5)
    i = skip(p, n, i, ident, size)
    i = skip(p, n, i, b",", 1)
    return i != 0 and (skip(p, n, i, b'"result":', 9) != 0 or skip(p, n, i, b'"error":', 8) != 0)


cdef bint holds(const char* p, size_t n, const char* needle, size_t m, size_t rare) noexcept nogil:
    # memmem for short texts, by the letter of the needle that is rarest in JSON; the vector instructions of memchr find that one. A text
    # that is full of it is left to memmem, which is linear whatever comes.
    cdef const char* at = p + rare
    cdef const char* end
    cdef int misses = 0
    if n < m:
        return False
    end = p + n - m + rare + 1
    while at < end:
        at = <const char*> memchr(at, needle[rare], <size_t> (end - at))
        if at == NULL:
            return False
        if memcmp(at - rare, needle, m) == 0:
            return True
        at += 1
        misses += 1
        if misses == MOST_MISSES:
            at -= rare
            return memmem(at, <size_t> (p + n - at), needle, m) != NULL
    return False


cdef bint may_relay(CallTable table, const char* p, size_t n) noexcept nogil:
    # Is there certainly nothing in this result that has to be rewritten? (federation.rewrite.needs, the other way round)
    return not (holds(p, n, b"\\u", 2, 0) or holds(p, n, b"taskId", 6, 4) or holds(p, n, b"uri", 3, 0) or holds(p, n, b"esource", 7, 3))


cdef bint has_state(const char* p, size_t n) noexcept nogil:
    # May a request bring back a state that is sealed for its caller?
    return holds(p, n, b"requestState", 12, 7)


cdef bint is_for_anybody(const char* p, size_t n) noexcept nogil:
    # Is there certainly nothing in this result that is to be bound to its caller: a task's id, a state?
    return not (holds(p, n, b"\\u", 2, 0) or holds(p, n, b"taskId", 6, 4) or holds(p, n, b"requestState", 12, 7))


def contains(bytes text not None, bytes needle not None, size_t rare):
    return bool(holds(PyBytes_AS_STRING(text), <size_t> PyBytes_GET_SIZE(text), PyBytes_AS_STRING(needle), <size_t> PyBytes_GET_SIZE(needle), rare))
