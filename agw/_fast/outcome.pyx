# See outcome.pyi for the manual.

from libc.stdint cimport int32_t, int64_t
from libc.string cimport memcmp
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE

cdef extern from "string.h" nogil:
    void* memmem(const void* hay, size_t n, const void* needle, size_t m)

cdef enum:
    HEAD = 128              # where `error` stands, if it stands before a container
    TAIL = 192              # where `isError` stands, if SDKs wrote it
    SPEECH = 2048           # how much of a short answer is searched for what it says

OUTCOMES = ("", "tool", "-32700", "-32600", "-32601", "-32602", "-32603", "-32002", "-32042", "-32020", "-32021", "-32022", "server",
            "other", "cancelled")
CANCELLED = O_CANCELLED
UPSTREAM_OUTCOMES = ("ok", "error", "connect", "timeout", "closed", "status", "protocol", "limit", "cancelled")


cdef int outcome_of_code(int32_t code) noexcept nogil:
    if code == -32700:
        return 2
    if code == -32600:
        return 3
    if code == -32601:
        return 4
    if code == -32602:
        return 5
    if code == -32603:
        return 6
    if code == -32002:
        return 7
    if code == -32042:
        return 8
    if code == -32020:
        return 9
    if code == -32021:
        return 10
    if code == -32022:
        return 11
    return 12 if -32099 <= code <= -32000 else 13


cdef inline size_t blanks(const char* p, size_t i, size_t n) noexcept nogil:
    while i < n and (p[i] == b" " or p[i] == b"\n" or p[i] == b"\r" or p[i] == b"\t"):
        i += 1
    return i


cdef size_t error_at(const char* p, size_t n) noexcept nogil:
    # Offset of the value of the top-level member `error` when only scalars stand before it; else 0.
    cdef size_t i = blanks(p, 0, n)
    cdef size_t start, size
    if i >= n or p[i] != b"{":
        return 0
    i += 1
    while True:
        i = blanks(p, i, n)
        if i >= n or p[i] != b'"':
            return 0
        start = i + 1
        i = start
        while i < n and p[i] != b'"':
            if p[i] == b"\\":
                return 0
            i += 1
        size = i - start
        i = blanks(p, i + 1, n)
        if i >= n or p[i] != b":":
            return 0
        i = blanks(p, i + 1, n)
        if size == 5 and memcmp(p + start, b"error", 5) == 0:
            return i if i < n and p[i] == b"{" else 0
        if i >= n or p[i] == b"{" or p[i] == b"[":
            return 0
        if p[i] == b'"':
            i += 1
            while i < n and p[i] != b'"':
                i += 2 if p[i] == b"\\" else 1
            i += 1
        while i < n and p[i] != b",":
            if p[i] == b"}":
                return 0
            i += 1
        i += 1


cdef int32_t code_in(const char* p, size_t n) noexcept nogil:
    # The number behind the first `"code":`; 0 when there is none.
    cdef const char* at = <const char*> memmem(p, n, b'"code"', 6)
    cdef size_t i
    cdef int64_t value = 0
    cdef bint minus
    if at == NULL:
        return 0
    i = blanks(p, <size_t> (at - p) + 6, n)
    if i >= n or p[i] != b":":
        return 0
    i = blanks(p, i + 1, n)
    minus = i < n and p[i] == b"-"
    if minus:
        i += 1
    while i < n and b"0" <= p[i] <= b"9" and value < 100000000:
        value = value * 10 + (p[i] - 48)
        i += 1
    return <int32_t> (-value if minus else value)


cdef int outcome_of(const char* p, size_t n, bint whole, bint call, int32_t* code) noexcept nogil:
    cdef size_t i
    cdef size_t tail
    if memmem(p, min(n, <size_t> HEAD), b'"error"', 7) != NULL:
        i = error_at(p, n)
        if i:
            code[0] = code_in(p + i, n - i)
            return outcome_of_code(code[0])
    if call and whole:
        tail = min(n, <size_t> TAIL)
        if memmem(p + n - tail, tail, b'"isError":true', 14) != NULL or memmem(p + n - tail, tail, b'"isError": true', 15) != NULL:
            if n <= SPEECH and (memmem(p, n, b"nknown tool", 11) != NULL or memmem(p, n, b"not found", 9) != NULL):
                return O_UNKNOWN
            return O_TOOL
    return O_OK


def outcome(int32_t code):
    return outcome_of_code(code)


def classify(bytes text not None, bint call):
    cdef int32_t code = 0
    cdef int found = outcome_of(PyBytes_AS_STRING(text), <size_t> PyBytes_GET_SIZE(text), True, call, &code)
    return (O_TOOL if found == O_UNKNOWN else found), code, found == O_UNKNOWN
