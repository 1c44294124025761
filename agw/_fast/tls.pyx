# See tls.pyi for the manual.
#
# Rules of this file:
# - OpenSSL is driven through Python's ssl module over two memory BIOs: one `read` or `write` per record, and an exception
#   (2.4 us) only where a record is cut by the end of what was received;
# - a memory BIO never gives back what it grew to, so nothing larger than one record is put into one;
# - nothing raises but lack of memory: a connection that cannot go on is T_BROKEN and says why;
# - the server's context is chosen by our own look at the ClientHello. OpenSSL's callback comes when the protocol version
#   and the demand for a client certificate are already those of another listener.

import ssl
from ipaddress import ip_address

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from cpython.buffer cimport PyBUF_READ, PyBUF_WRITE
from cpython.memoryview cimport PyMemoryView_FromMemory
from libc.stdint cimport uint32_t

from agw._fast.router cimport HostTable

cdef enum:
    MAX_HELLO = 16384       # octets of a ClientHello looked at; a larger one is for the default context
    MAX_RECORDS = 8         # and records it may be spread over

cdef object MemoryBIO = ssl.MemoryBIO
cdef object WantRead = ssl.SSLWantReadError
cdef object ZeroReturn = ssl.SSLZeroReturnError
cdef object CERT_NONE = ssl.CERT_NONE


cdef inline object reading(const char* p, size_t n):
    return PyMemoryView_FromMemory(<char*> p, <Py_ssize_t> n, PyBUF_READ)


def hello_name(bytes data not None):
    cdef const unsigned char* p = <const unsigned char*> PyBytes_AS_STRING(data)
    cdef Py_ssize_t n = PyBytes_GET_SIZE(data)
    cdef Py_ssize_t at = 0
    cdef Py_ssize_t size, want, end
    cdef int records = 0
    cdef bytes body = b""
    # Handshake messages may be cut anywhere by records (RFC 8446 section 5.1).
    while True:
        if n - at < 5:
            return None
        size = p[at + 3] << 8 | p[at + 4]
        records += 1
        if p[at] != 22 or p[at + 1] != 3 or size == 0 or size > MAX_HELLO or records > MAX_RECORDS:
            return b""
        body += data[at + 5:min(at + 5 + size, n)]
        if PyBytes_GET_SIZE(body) >= 4:
            p = <const unsigned char*> PyBytes_AS_STRING(body)
            want = 4 + (p[1] << 16 | p[2] << 8 | p[3])
            if p[0] != 1 or want > MAX_HELLO:
                return b""
            if PyBytes_GET_SIZE(body) >= want:
                break
            p = <const unsigned char*> PyBytes_AS_STRING(data)
        if n - at - 5 < size:
            return None
        at += 5 + size
    # ClientHello: version, random, session id, cipher suites, compression methods, extensions (RFC 8446 section 4.1.2).
    at = 38
    if want < at + 1:
        return b""
    at += 1 + p[at]
    if want < at + 2:
        return b""
    at += 2 + (p[at] << 8 | p[at + 1])
    if want < at + 1:
        return b""
    at += 1 + p[at]
    if want < at + 2:
        return b""
    end = at + 2 + (p[at] << 8 | p[at + 1])
    at += 2
    if end > want:
        return b""
    while at + 4 <= end:
        size = p[at + 2] << 8 | p[at + 3]
        if at + 4 + size > end:
            return b""
        if p[at] == 0 and p[at + 1] == 0:
            # server_name: a list with one host_name (RFC 6066 section 3).
            if size < 5 or p[at + 6] != 0:
                return b""
            want = p[at + 7] << 8 | p[at + 8]
            if want == 0 or want > 255 or want + 5 > size:
                return b""
            return body[at + 9:at + 9 + want].lower()
        at += 4 + size
    return b""


cdef class ServerTls:
    def __init__(self, list contexts not None, list demands not None, list listeners not None):
        if not contexts or len(contexts) != len(demands) or not listeners:
            raise ValueError("a TLS bind needs a context, its demand, and a listener")
        self.contexts = contexts
        self.demands = demands
        self.context_of = [index for _, index in listeners]
        hosts = {}
        for number, (hostname, index) in enumerate(listeners):
            if not 0 <= index < len(contexts):
                raise ValueError("no such context")
            hosts.setdefault(hostname, number)
        self.names = HostTable(hosts)

    def context_for(self, str name not None):
        return self.contexts[self.choose(name.lower().encode("latin-1"))]

    cdef int choose(self, bytes name) except -2:
        # By the same table as the Host of a request. Who gives no name, or an unknown one, gets the first context.
        cdef uint32_t state = 0
        cdef int listener
        if len(self.contexts) == 1:
            return 0
        listener = self.names.next_match(PyBytes_AS_STRING(name), <uint32_t> PyBytes_GET_SIZE(name), &state)
        return self.context_of[listener] if listener >= 0 else 0

    cdef Tls accept(self):
        cdef Tls t = Tls()
        t.server = self
        t.hello = t.name = b""
        t.state = T_HELLO
        return t


cdef class ClientTls:
    def __init__(self, context not None, str server_name not None, names=()):
        self.context = context
        self.server_name = server_name
        self.names = frozenset([plain_name(name) for name in (server_name, *names) if name]) if names else None

    cdef Tls connect(self):
        cdef Tls t = Tls()
        t.inbio = MemoryBIO()
        t.outbio = MemoryBIO()
        t.names = self.names
        t.ssl = self.context.wrap_bio(t.inbio, t.outbio, server_hostname=self.server_name or None)
        t.state = T_SHAKING
        t.more = True           # the first step sends without having received
        return t


cdef class Tls:
    def certificate(self):
        if self.ssl is None or self.state == T_SHAKING or self.state == T_BROKEN:
            return None
        # A peer that nobody demanded a proof of may have shown any certificate.
        if self.ssl.context.verify_mode == CERT_NONE:
            return None
        return self.ssl.getpeercert(True)

    cdef int feed(self, const char* raw, size_t n) except -1:
        cdef bytes name = b""
        if self.state != T_HELLO:
            self.inbio.write(reading(raw, n))
            return 0
        if not self.hello and (b"A" <= raw[0] <= b"Z" or b"a" <= raw[0] <= b"z"):
            self.state = T_PLAIN
            return 0
        self.hello += raw[:n]
        if len(self.server.contexts) > 1:
            name = hello_name(self.hello)
            if name is None:
                if len(self.hello) <= MAX_HELLO:
                    return 0
                name = b""
        self.name = name
        self.index = self.server.choose(name)
        self.demand = self.server.demands[self.index]
        self.inbio = MemoryBIO()
        self.outbio = MemoryBIO()
        self.ssl = self.server.contexts[self.index].wrap_bio(self.inbio, self.outbio, server_side=True)
        self.inbio.write(self.hello)
        self.hello = None
        self.state = T_SHAKING
        return 0

    cdef Py_ssize_t decrypt(self, const char* raw, size_t n, char* p, size_t room) noexcept:
        # Takes all of `raw`; returns octets of plaintext put into p. See `state` for everything else.
        cdef size_t got = 0
        cdef size_t step
        cdef Py_ssize_t r
        try:
            self.more = False
            while True:
                if n:
                    step = PIECE if n > PIECE and got < room else n
                    self.feed(raw, step)
                    raw += step
                    n -= step
                if self.state == T_SHAKING:
                    try:
                        self.ssl.do_handshake()
                        if self.names is not None and not bears(self.ssl.getpeercert(), self.names):
                            self.state = T_BROKEN
                            self.problem = "certificate verify failed: it bears none of the names that are accepted"
                            break
                        self.state = T_OPEN
                    except WantRead:
                        pass
                if self.state == T_OPEN:
                    while got < room:
                        try:
                            r = self.ssl.read(room - got, PyMemoryView_FromMemory(p + got, <Py_ssize_t> (room - got), PyBUF_WRITE))
                        except WantRead:
                            break
                        except ZeroReturn:
                            r = 0
                        if r <= 0:
                            self.state = T_CLOSED
                            break
                        got += <size_t> r
                        if not self.inbio.pending and not self.ssl.pending():
                            break
                    else:
                        self.more = True
                elif self.state > T_OPEN:
                    break
                if n == 0:
                    break
        except Exception as error:
            self.state = T_BROKEN
            self.problem = explain(error)
        return <Py_ssize_t> got

    cdef bytes encrypt(self, const char* p, size_t n):
        # The records for at most PIECE octets, behind whatever else is to be sent; None when the connection is broken.
        cdef size_t done = 0
        if self.ssl is None or self.state == T_SHAKING or self.state == T_BROKEN or self.said_bye:
            return None
        try:
            while done < n:
                done += <size_t> self.ssl.write(reading(p + done, n - done))
        except Exception as error:
            self.state = T_BROKEN
            self.problem = explain(error)
            return None
        return self.outbio.read()

    cdef bytes output(self):
        # What OpenSSL wants sent (handshake, alerts, key updates), or None.
        if self.outbio is None or not self.outbio.pending:
            return None
        return self.outbio.read()

    cdef bint begun(self) noexcept:
        # Has the peer said anything?
        return self.ssl is not None or bool(self.hello)

    cdef void bye(self) noexcept:
        # close_notify goes to the output. What the peer still sends can be read as before.
        if self.said_bye or self.ssl is None or (self.state != T_OPEN and self.state != T_CLOSED):
            return
        self.said_bye = True
        try:
            self.ssl.unwrap()
        except Exception:
            pass        # the usual case: ours is written, the peer's is not here


def plain_name(str name not None):
    # Host names in lower case, addresses in their one form, URIs as they are.
    try:
        return str(ip_address(name))
    except ValueError:
        return name if "://" in name else name.lower()


def bears(certificate, frozenset names not None):
    cdef str kind, value, first, rest
    for kind, value in (certificate or {}).get("subjectAltName", ()):
        if kind == "URI":
            if value in names:
                return True
        elif kind == "DNS" or kind == "IP Address":
            value = plain_name(value)
            if value in names:
                return True
            if kind == "DNS" and value.startswith("*.") and value.count(".") > 1:
                # One whole label, the leftmost (RFC 9525 section 6.3).
                for first in names:
                    rest = first.partition(".")[2]
                    if rest == value[2:] and "://" not in first:
                        return True
    return False


cdef str explain(error):
    # One line for people: why a certificate was refused, or OpenSSL's name for the reason.
    cdef str text = getattr(error, "verify_message", None)
    if text:
        return f"certificate verify failed: {text}"
    text = getattr(error, "reason", None)
    return text.lower().replace("_", " ") if text else str(error)


cdef bint may_serve(ServerTls have, Tls used, int listener) except -1:
    # Does the handshake of this connection meet what the listener of the request's Host demands?
    if have is None:
        return True
    if used is None:
        return False
    if used.server is not have:
        # A reload since. A new certificate is no matter; a new demand on clients is.
        used.server = have
        used.index = have.choose(used.name)
        if have.demands[used.index] != used.demand:
            used.index = -1
    return <int> have.context_of[listener] == used.index
