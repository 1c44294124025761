# See jsonrpc.pyi for the manual.
#
# Rules of this file:
# - the whole text is checked against RFC 8259 (strict UTF-8, no NaN, no trailing text) before any span is used;
# - depth is counted, never recursed, so hostile nesting costs one counter;
# - members that decide anything (jsonrpc, id, method, params, result, error; name and uri inside params) may occur
#   once, unescaped and in their exact spelling; a second or case-variant one is refused, because another parser
#   would see another message.

from libc.stdint cimport int32_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcmp, memset
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE

cdef uint8_t PLAIN[256]     # 1: may stand inside a string with no further thought
cdef uint8_t BLANK[256]


def _fill_tables():
    for i in range(256):
        PLAIN[i] = 1 if 32 <= i < 128 and i != 34 and i != 92 else 0
        BLANK[i] = 1 if i in (32, 9, 10, 13) else 0


_fill_tables()


cdef inline bint is_hex(uint8_t c) noexcept nogil:
    return (48 <= c <= 57) or (65 <= c <= 70) or (97 <= c <= 102)


cdef inline uint32_t utf8_length(const uint8_t* p, uint32_t n) noexcept nogil:
    # Octets of the well-formed sequence at p (Unicode table 3-7), or 0.
    cdef uint8_t c = p[0]
    if c < 0xC2:
        return 0
    if c < 0xE0:
        return 2 if n >= 2 and (p[1] & 0xC0) == 0x80 else 0
    if c < 0xF0:
        if n < 3 or (p[1] & 0xC0) != 0x80 or (p[2] & 0xC0) != 0x80:
            return 0
        if (c == 0xE0 and p[1] < 0xA0) or (c == 0xED and p[1] > 0x9F):
            return 0
        return 3
    if c < 0xF5:
        if n < 4 or (p[1] & 0xC0) != 0x80 or (p[2] & 0xC0) != 0x80 or (p[3] & 0xC0) != 0x80:
            return 0
        if (c == 0xF0 and p[1] < 0x90) or (c == 0xF4 and p[1] > 0x8F):
            return 0
        return 4
    return 0


cdef inline uint32_t string_end(const char* s, uint32_t i, uint32_t n, bint* escaped) noexcept nogil:
    # i: just behind the opening quote. Returns the offset of the closing quote, or 0 when malformed.
    cdef const uint8_t* p = <const uint8_t*> s
    cdef uint32_t k
    escaped[0] = False
    while i < n:
        if PLAIN[p[i]]:
            i += 1
            continue
        if p[i] == 34:
            return i
        if p[i] == 92:
            escaped[0] = True
            if i + 1 >= n:
                return 0
            k = p[i + 1]
            if k == 117:
                if i + 5 >= n or not (is_hex(p[i + 2]) and is_hex(p[i + 3]) and is_hex(p[i + 4]) and is_hex(p[i + 5])):
                    return 0
                i += 6
            elif k == 34 or k == 92 or k == 47 or k == 98 or k == 102 or k == 110 or k == 114 or k == 116:
                i += 2
            else:
                return 0
        elif p[i] >= 128:
            k = utf8_length(p + i, n - i)
            if k == 0:
                return 0
            i += k
        else:
            return 0
    return 0


cdef inline uint32_t number_end(const char* p, uint32_t i, uint32_t n, bint* integer) noexcept nogil:
    # Returns the offset behind the number at i, or 0 when malformed.
    integer[0] = True
    if i < n and p[i] == b"-":
        i += 1
    if i >= n or p[i] < b"0" or p[i] > b"9":
        return 0
    if p[i] == b"0":
        i += 1
    else:
        while i < n and b"0" <= p[i] <= b"9":
            i += 1
    if i < n and p[i] == b".":
        integer[0] = False
        i += 1
        if i >= n or p[i] < b"0" or p[i] > b"9":
            return 0
        while i < n and b"0" <= p[i] <= b"9":
            i += 1
    if i < n and (p[i] == b"e" or p[i] == b"E"):
        integer[0] = False
        i += 1
        if i < n and (p[i] == b"+" or p[i] == b"-"):
            i += 1
        if i >= n or p[i] < b"0" or p[i] > b"9":
            return 0
        while i < n and b"0" <= p[i] <= b"9":
            i += 1
    return i


cdef inline bint same_letters(const char* p, const char* lower, uint32_t n) noexcept nogil:
    cdef uint32_t i
    cdef uint8_t c
    for i in range(n):
        c = <uint8_t> p[i]
        if 65 <= c <= 90:
            c += 32
        if c != <uint8_t> lower[i]:
            return False
    return True


cdef inline int member(const char* p, uint32_t n, const char* name, uint32_t size) noexcept nogil:
    # 1: this is `name`; -1: a case variant of it; 0: another name.
    if n != size or not same_letters(p, name, n):
        return 0
    return 1 if memcmp(p, name, n) == 0 else -1


cdef enum:
    K_OTHER = 0
    K_JSONRPC = 1
    K_ID = 2
    K_METHOD = 4
    K_PARAMS = 8
    K_RESULT = 16
    K_ERROR = 32
    K_NAME = 64
    K_URI = 128
    K_META = 256


cdef inline int top_key(const char* p, uint32_t n) noexcept nogil:
    if n == 2:
        return member(p, n, b"id", 2) * K_ID
    if n == 5:
        return member(p, n, b"error", 5) * K_ERROR
    if n == 6:
        if same_letters(p, b"method", 6):
            return member(p, n, b"method", 6) * K_METHOD
        if same_letters(p, b"params", 6):
            return member(p, n, b"params", 6) * K_PARAMS
        return member(p, n, b"result", 6) * K_RESULT
    if n == 7:
        return member(p, n, b"jsonrpc", 7) * K_JSONRPC
    return K_OTHER


cdef inline int refuse(Envelope* e, int32_t code, const char* problem) noexcept nogil:
    e.code = code
    e.problem = problem
    return -1


cdef enum:
    AT_VALUE = 0            # a value must follow
    AT_FIRST_MEMBER         # behind "{"
    AT_MEMBER               # behind "," in an object
    AT_FIRST_ELEMENT        # behind "["
    AT_NEXT                 # behind a value


cdef int envelope_scan(const char* p, uint32_t n, Envelope* e, uint32_t max_depth) noexcept nogil:
    # 0: fine, spans are set; -1: e.code and e.problem say why not.
    cdef uint64_t objects = 0           # bit d - 1: the container at depth d is an object
    cdef uint32_t depth = 0
    cdef uint32_t i = 0
    cdef uint32_t start, end
    cdef uint32_t params_at = 0
    cdef uint32_t meta_at = 0
    cdef uint32_t seen = 0
    cdef bint escaped = False
    cdef bint integer = False
    cdef bint top = False               # directly inside the envelope
    cdef bint in_params = False         # directly inside params, which is an object
    cdef bint batch = False
    cdef bint version_ok = False
    cdef int key = K_OTHER
    cdef int state = AT_VALUE
    cdef char c
    memset(e, 0, sizeof(Envelope))
    if max_depth > 64:
        max_depth = 64
    while True:
        while i < n and BLANK[<uint8_t> p[i]]:
            i += 1
        if i >= n:
            if state == AT_NEXT and depth == 0:
                break
            return refuse(e, -32700, b"unexpected end of JSON text")
        c = p[i]
        if (state == AT_NEXT and depth and c == (125 if objects >> (depth - 1) & 1 else 93)) \
                or (state == AT_FIRST_MEMBER and c == b"}") or (state == AT_FIRST_ELEMENT and c == b"]"):
            i += 1
            depth -= 1
            if depth == 1 and params_at and not e.params.len:
                e.params.off = params_at
                e.params.len = i - params_at
            if depth == 2 and meta_at and not e.meta.len:
                e.meta.off = meta_at
                e.meta.len = i - meta_at
            top = depth == 1 and not batch
            in_params = False if depth < 2 else in_params
            if depth == 2 and params_at and not e.params.len:
                in_params = objects >> 1 & 1
            state = AT_NEXT
            continue
        if state == AT_NEXT:
            if depth == 0:
                return refuse(e, -32700, b"text behind the JSON value")
            if c != b",":
                return refuse(e, -32700, b"expected ',' or the end of the container")
            i += 1
            key = K_OTHER
            state = AT_MEMBER if objects >> (depth - 1) & 1 else AT_VALUE
            continue
        if state == AT_FIRST_MEMBER or state == AT_MEMBER:
            if c != b'"':
                return refuse(e, -32700, b"expected a member name")
            start = i + 1
            end = string_end(p, start, n, &escaped)
            if end == 0:
                return refuse(e, -32700, b"malformed string")
            key = K_OTHER
            if top or in_params:
                if escaped:
                    return refuse(e, -32600, b"escaped member name")
                if top:
                    key = top_key(p + start, end - start)
                elif end - start == 4:
                    key = member(p + start, 4, b"name", 4) * K_NAME
                elif end - start == 3:
                    key = member(p + start, 3, b"uri", 3) * K_URI
                elif end - start == 5:
                    key = member(p + start, 5, b"_meta", 5) * K_META
                if key:
                    if key < 0 or seen & <uint32_t> key:
                        return refuse(e, -32600, b"duplicate or case-variant member")
                    seen |= <uint32_t> key
            i = end + 1
            while i < n and BLANK[<uint8_t> p[i]]:
                i += 1
            if i >= n or p[i] != b":":
                return refuse(e, -32700, b"expected ':'")
            i += 1
            state = AT_VALUE
            continue
        # A value starts at i.
        start = i
        state = AT_NEXT
        if c == b"{" or c == b"[":
            if depth >= max_depth:
                return refuse(e, -32700, b"JSON nested too deeply")
            if depth == 0:
                batch = c == b"["
            elif top and key == K_PARAMS:
                params_at = i
            elif top and key & (K_ID | K_METHOD | K_JSONRPC):
                return refuse(e, -32600, b"member of the wrong type")
            elif in_params and key == K_META and c == b"{":
                meta_at = i
            depth += 1
            if c == b"{":
                objects |= <uint64_t> 1 << (depth - 1)
                state = AT_FIRST_MEMBER
            else:
                objects &= ~(<uint64_t> 1 << (depth - 1))
                state = AT_FIRST_ELEMENT
            in_params = depth == 2 and top and key == K_PARAMS and c == b"{"
            top = depth == 1 and not batch
            key = K_OTHER
            i += 1
        elif c == b'"':
            end = string_end(p, i + 1, n, &escaped)
            if end == 0:
                return refuse(e, -32700, b"malformed string")
            i = end + 1
            if key == K_OTHER:
                pass
            elif key == K_METHOD:
                e.method.off = start + 1
                e.method.len = end - start - 1
                e.escaped |= 1 if escaped else 0
            elif key == K_ID:
                e.id.off = start
                e.id.len = i - start
                e.id_kind = 1
            elif key == K_JSONRPC:
                version_ok = end - start == 4 and memcmp(p + start + 1, b"2.0", 3) == 0
            elif key == K_PARAMS:
                return refuse(e, -32600, b"params must be an object or an array")
            elif key == K_NAME:
                e.name.off = start + 1
                e.name.len = end - start - 1
                e.escaped |= 2 if escaped else 0
            elif key == K_URI:
                e.uri.off = start + 1
                e.uri.len = end - start - 1
                e.escaped |= 4 if escaped else 0
        elif c == b"-" or b"0" <= c <= b"9":
            end = number_end(p, i, n, &integer)
            if end == 0:
                return refuse(e, -32700, b"malformed number")
            i = end
            if key == K_ID and integer:
                e.id.off = start
                e.id.len = i - start
                e.id_kind = 2
            elif key & (K_ID | K_METHOD | K_JSONRPC | K_PARAMS):
                return refuse(e, -32600, b"member of the wrong type")
        else:
            if n - i >= 4 and memcmp(p + i, b"true", 4) == 0:
                i += 4
            elif n - i >= 5 and memcmp(p + i, b"false", 5) == 0:
                i += 5
            elif n - i >= 4 and memcmp(p + i, b"null", 4) == 0:
                i += 4
            else:
                return refuse(e, -32700, b"malformed JSON value")
            if key == K_ID and c == b"n":
                e.id.off = start
                e.id.len = 4
                e.id_kind = 3
            elif key & (K_ID | K_METHOD | K_JSONRPC | K_PARAMS):
                return refuse(e, -32600, b"member of the wrong type")
    if batch:
        e.kind = KIND_BATCH
        return 0
    if not version_ok:
        return refuse(e, -32600, b"jsonrpc must be \"2.0\"")
    if seen & K_METHOD:
        if seen & (K_RESULT | K_ERROR):
            return refuse(e, -32600, b"both a call and an answer")
        if not seen & K_ID:
            e.kind = KIND_NOTIFICATION
        elif e.id_kind == 3:
            return refuse(e, -32600, b"id must be a string or an integer")
        else:
            e.kind = KIND_REQUEST
        return 0
    if ((seen & K_RESULT) != 0) == ((seen & K_ERROR) != 0) or not seen & K_ID:
        return refuse(e, -32600, b"neither a call nor an answer")
    e.kind = KIND_RESPONSE
    return 0


_KINDS = ("none", "request", "notification", "response", "batch")


class EnvelopeError(ValueError):
    """Not one well-formed JSON-RPC message; `code` is the JSON-RPC error code."""

    def __init__(self, code, problem):
        super().__init__(problem)
        self.code = code


def locate(bytes text not None, int max_depth=64):
    cdef Envelope e
    cdef const char* p = PyBytes_AS_STRING(text)
    if PyBytes_GET_SIZE(text) > 0x7FFFFFFF:
        raise EnvelopeError(-32600, "message too large")
    if envelope_scan(p, <uint32_t> PyBytes_GET_SIZE(text), &e, max_depth) < 0:
        raise EnvelopeError(e.code, (<bytes> e.problem).decode())
    return {
        "kind": _KINDS[e.kind],
        "id": text[e.id.off:e.id.off + e.id.len] if e.id_kind else None,
        "method": text[e.method.off:e.method.off + e.method.len] if e.method.off else None,
        "params": text[e.params.off:e.params.off + e.params.len] if e.params.len else None,
        "name": text[e.name.off:e.name.off + e.name.len] if e.name.off else None,
        "uri": text[e.uri.off:e.uri.off + e.uri.len] if e.uri.off else None,
    }


def spans(bytes text not None):
    cdef Envelope e
    if PyBytes_GET_SIZE(text) > 0x7FFFFFFF or envelope_scan(PyBytes_AS_STRING(text), <uint32_t> PyBytes_GET_SIZE(text), &e, 64) < 0:
        raise EnvelopeError(-32600, "not a message")
    return e.params.off, e.params.len, e.meta.off, e.meta.len
