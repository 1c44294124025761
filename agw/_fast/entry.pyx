# See entry.pyi for the manual.

from libc.stdint cimport int64_t, uint64_t

from agw._fast.exchange cimport X_GATE, Exchange
from agw._fast.gate cimport Gate, Identity, License
from agw._fast.methods import METHODS as _methods

cdef enum:
    OPEN = 0
    ADMITTED
    REFUSED
    OVER


cdef class Entry:
    cdef Exchange exchange          # while it waits, or is asked
    cdef readonly Gate gate         # None when it is a backend that must be presented something
    cdef object asked               # who decides: has enter(entry)
    cdef readonly str method
    cdef readonly bytes path
    cdef readonly bytes query
    cdef readonly list headers
    cdef readonly bytes peer
    cdef readonly bint secure
    cdef readonly bint hopped
    cdef readonly str bind
    cdef readonly tuple labels
    cdef readonly int64_t now
    cdef bytes shown
    cdef uint64_t generation        # of the gate when it was asked
    cdef object tls
    cdef bytes passed
    cdef int state
    cdef bint waits
    cdef readonly Identity identity
    cdef readonly License licence
    cdef readonly object refusal
    cdef readonly object presented
    cdef readonly bytes body
    cdef readonly bint whole
    cdef readonly uint64_t body_asked
    cdef object then
    cdef public object on_close

    def values(self, bytes name not None):
        return [value for key, value in self.headers if key == name]

    @property
    def certificate(self):
        return self.tls.certificate() if self.tls is not None else self.passed

    @property
    def open(self):
        return self.state == OPEN

    @property
    def distinct(self):
        return self.shown is not None

    def read_body(self, uint64_t limit, then not None):
        if self.state != OPEN or self.then is not None:
            raise RuntimeError("a request that is decided, or whose body is awaited already, is asked for its body")
        self.then = then
        self.body_asked = limit
        limit = min(limit, self.exchange.bind.http.max_buffer)
        if self.exchange.phase == X_GATE:
            self.exchange.down.collect(limit)
        else:
            self.exchange.body_wanted = limit       # we are being asked: whoever asks sees this

    def admit(self, Identity who not None, License licence not None, bint lasting):
        if self.state != OPEN:
            return
        self.state = ADMITTED
        self.identity = who
        self.licence = licence
        # What was found out before keys went away lets this request in, and is no news for later ones.
        if lasting and self.shown is not None and self.generation == self.gate.generation:
            self.gate.remember(who, licence, self.shown)
        if self.waits:
            x = self.exchange
            self.release()
            (<Exchange> x).opened(who, licence)

    def refuse(self, refusal not None):
        if self.state != OPEN:
            return
        self.state = REFUSED
        self.refusal = refusal
        if self.waits:
            x = self.exchange
            self.release()
            (<Exchange> x).turn_away(refusal)

    def present(self, presented not None):
        if self.state != OPEN:
            return
        self.state = ADMITTED
        self.presented = presented
        if self.waits:
            x = self.exchange
            self.release()
            (<Exchange> x).armed(presented)

    cdef release(self):
        self.exchange.entry = None
        self.exchange = None
        self.tls = None
        self.then = None

    # -------------------------------------------------------------------- called by the exchange

    def _ask(self):
        # 0: it waits, 1: admitted or presented something, 2: refused. Exceptions of the keeper are the exchange's to handle.
        try:
            self.asked.enter(self)
        except BaseException:
            self.state = OVER
            self.release()
            raise
        if self.state == OPEN:
            self.waits = True
        else:
            self.release()
        return self.state

    def _tell(self, bytes body, bint whole):
        self.body = body
        self.whole = whole
        then = self.then
        self.then = None
        if self.state == OPEN and then is not None:
            then()

    def _finished(self):
        # The exchange ended while we waited: the client left, or a deadline struck.
        if self.state == OPEN:
            self.state = OVER
            self.exchange = None
            self.tls = None
            self.then = None
            if self.on_close is not None:
                self.on_close()
        self.on_close = None


def make(Exchange x, object asked, Gate gate, bytes path, bytes query, list headers, bytes shown):
    cdef Entry entry = Entry.__new__(Entry)
    entry.exchange = x
    entry.asked = asked
    entry.gate = gate
    entry.identity = x.identity
    entry.method = _methods[x.method]
    entry.path = path
    entry.query = query
    entry.headers = headers
    entry.peer = x.down.peer[:x.down.peer_ip_len]
    entry.secure = x.down.secure
    entry.hopped = x.down.from_worker and x.down.hop
    entry.bind = x.bind.key
    entry.labels = x.route.labels
    entry.now = x.ctx.reactor.now
    entry.shown = shown
    entry.generation = gate.generation
    entry.tls = x.down.tls
    entry.passed = x.down.passed
    return entry
