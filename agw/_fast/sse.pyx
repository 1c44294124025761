# Server-sent events. See sse.pyi for the manual.
#
# Lines are looked for with memchr and taken from the input where they lie; only a line that the input cuts and the data
# of the event so far are copied. An octet is looked at twice at most (once for LF, once for CR).

from libc.stdint cimport int64_t
from libc.string cimport memchr, memcmp
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE

from agw._fast.stream cimport buf_append, buf_clear, buf_free

cdef enum:
    MAX_RETRY = 2147483647

Event = tuple[bytes, bytes, bytes | None, int | None]

cdef bytes MESSAGE = b"message"


cdef inline size_t bom(const char* p, size_t n) noexcept nogil:
    return 3 if n >= 3 and memcmp(p, b"\xef\xbb\xbf", 3) == 0 else 0


cdef class EventReader:
    def __init__(self, Py_ssize_t max_event_bytes):
        if max_event_bytes <= 0:
            raise ValueError("the bound must be positive")
        self.limit = <size_t> max_event_bytes
        self.last_event_id = b""

    def __dealloc__(self):
        buf_free(&self.line)
        buf_free(&self.data)

    def feed(self, bytes data not None):
        cdef list out = []
        cdef const char* p = PyBytes_AS_STRING(data)
        cdef const char* end = p + PyBytes_GET_SIZE(data)
        cdef const char* lf = NULL      # the next LF at or behind p; end when there is none
        cdef const char* cr = NULL      # likewise
        cdef const char* stop
        cdef size_t skip
        while p < end:
            if self.after_cr:
                self.after_cr = False
                if p[0] == b"\n":
                    p += 1
                    continue
            if lf == NULL or lf < p:
                lf = <const char*> memchr(p, b"\n", <size_t> (end - p))
                if lf == NULL:
                    lf = end
            if cr == NULL or cr < p:
                cr = <const char*> memchr(p, b"\r", <size_t> (end - p))
                if cr == NULL:
                    cr = end
            stop = lf if lf < cr else cr
            if stop == end:
                # The rest of a line is still to come.
                if self.skipping:
                    break
                buf_append(&self.line, p, <size_t> (end - p))
                skip = 0 if self.started else bom(self.line.p + self.line.off, self.line.len)
                if self.line.len > skip and self.line.p[self.line.off + skip] == b":":
                    self.skipping = True
                    self.started = True
                    buf_clear(&self.line)
                elif self.line.len > self.limit + skip and (self.started or self.line.len >= 3):
                    # A BOM does not count; fewer than three octets may still become one.
                    self.skipping = True
                    self.started = True
                    buf_clear(&self.line)
                    self.spoil()
                break
            if self.skipping:
                self.skipping = False
            elif self.line.len:
                buf_append(&self.line, p, <size_t> (stop - p))
                self.take_line(self.line.p + self.line.off, self.line.len, out)
                buf_clear(&self.line)
            else:
                self.take_line(p, <size_t> (stop - p), out)
            self.after_cr = stop == cr
            p = stop + 1
        return out

    cdef void spoil(self) noexcept:
        if not self.spoilt:
            self.spoilt = True
            self.dropped += 1
            buf_free(&self.data)

    cdef int take_line(self, const char* p, size_t n, list out) except -1:
        cdef const char* colon
        cdef size_t m
        if not self.started:
            self.started = True
            m = bom(p, n)
            p += m
            n -= m
        if n == 0:
            return self.dispatch(out)
        if p[0] == b":":
            return 0
        if n > self.limit:
            self.spoil()
            return 0
        colon = <const char*> memchr(p, b":", n)
        if colon == NULL:
            return self.take_field(p, n, p + n, 0)
        m = <size_t> (colon - p)
        colon += 1
        n -= m + 1
        if n and colon[0] == b" ":
            colon += 1
            n -= 1
        return self.take_field(p, m, colon, n)

    cdef int take_field(self, const char* name, size_t n, const char* value, size_t m) except -1:
        cdef size_t i
        cdef int64_t number = 0
        if n == 4 and memcmp(name, b"data", 4) == 0:
            if self.data.len + m > self.limit:
                self.spoil()
            if not self.spoilt:
                if m:
                    buf_append(&self.data, value, m)
                buf_append(&self.data, b"\n", 1)
        elif n == 5 and memcmp(name, b"event", 5) == 0:
            self.kind = value[:m]
        elif n == 2 and memcmp(name, b"id", 2) == 0:
            if m == 0 or memchr(value, 0, m) == NULL:
                self.ident = value[:m]
        elif n == 5 and memcmp(name, b"retry", 5) == 0:
            for i in range(m):
                if value[i] < b"0" or value[i] > b"9":
                    return 0
                number = min(number * 10 + <int64_t> value[i] - 48, <int64_t> MAX_RETRY)
            if m:
                self.retry = number
        return 0

    cdef int dispatch(self, list out) except -1:
        if self.ident is not None:
            self.last_event_id = self.ident
        if self.data.len:
            out.append((self.kind or MESSAGE, PyBytes_FromStringAndSize(self.data.p + self.data.off, <Py_ssize_t> (self.data.len - 1)),
                        self.ident, self.retry))
            buf_clear(&self.data)
        elif self.ident is not None or self.retry is not None:
            out.append((self.kind or MESSAGE, b"", self.ident, self.retry))
        self.kind = None
        self.ident = None
        self.retry = None
        self.spoilt = False
        return 0


def frame(bytes data not None, bytes event not None=b"message", bytes id=None, retry=None):
    cdef list parts = []
    if event:
        if b"\n" in event or b"\r" in event:
            raise ValueError("line break in an event type")
        parts.append(b"event: %b\n" % event)
    if id is not None:
        if b"\n" in id or b"\r" in id or b"\0" in id:
            raise ValueError("line break or NUL in an event id")
        parts.append(b"id: %b\n" % id)
    if retry is not None:
        if retry < 0:
            raise ValueError("negative retry")
        parts.append(b"retry: %d\n" % retry)
    if b"\r" in data:
        data = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    if b"\n" in data:
        data = data.replace(b"\n", b"\ndata: ")
    parts.append(b"data: %b\n\n" % data)
    return b"".join(parts)
