# See logview.pyi for the manual.

from libc.stdint cimport int64_t

from agw._fast.exchange cimport Exchange
from agw._fast.methods import METHODS as _methods
from agw._fast.methods cimport rpc_kind


cdef class LogView:
    cdef readonly str method
    cdef readonly bytes path
    cdef readonly bytes query
    cdef readonly list headers
    cdef readonly bytes peer
    cdef readonly bint secure
    cdef readonly bint hopped
    cdef readonly tuple labels
    cdef readonly tuple credentials
    cdef readonly bint elsewhere
    cdef readonly object certificate
    cdef readonly int status
    cdef readonly list answer
    cdef readonly str rpc
    cdef readonly str kind
    cdef readonly str name
    cdef readonly str target
    cdef readonly bytes params
    cdef readonly str backend
    cdef readonly str protocol
    cdef readonly int64_t started_ns

    def values(self, bytes name not None):
        return [value for key, value in self.headers if key == name]


cdef str text(const char* p, size_t n):
    return p[:n].decode("utf-8", "replace")


def view(Exchange x not None):
    cdef LogView v = LogView.__new__(LogView)
    cdef const char* kind
    cdef const char* at = x.meta.p + x.meta.off
    if x.down is None:
        raise ValueError("the exchange is over")
    v.method = _methods[x.method] if x.method_len else ""
    v.path = at[x.method_len + x.host_len:x.method_len + x.host_len + x.path_log_len] if x.method_len else b""
    v.query = None
    v.headers = []
    v.answer = []
    v.params = None
    if x.seen is not None:
        v.headers, v.query, v.params, v.answer = x.seen
    v.peer = x.down.peer[:x.down.peer_ip_len]
    v.secure = x.down.secure
    v.hopped = x.down.from_worker and x.down.hop
    v.labels = x.route.labels if x.route is not None else None
    gate = x.route.gate if x.route is not None else None
    v.credentials = gate.headers if gate is not None else ()
    v.elsewhere = gate is not None and gate.elsewhere
    v.certificate = None
    v.status = x.status
    at += x.method_len + x.host_len + x.path_log_len + x.id_len
    v.rpc = text(at, x.rpc_len) if x.rpc_len else ""
    v.name = text(at + x.rpc_len, x.name_len) if x.name_len else ""
    kind = rpc_kind(x.rpc)
    v.kind = kind.decode() if kind != NULL and x.name_len else ""
    v.target = ""
    v.backend = ""
    v.protocol = ""
    if x.choice is not None and x.choice.cluster is not None:
        v.backend = x.choice.cluster.plan.name
        v.protocol = "mcp" if x.choice.cluster.is_mcp else "http"
        if x.choice.cluster.is_mcp:
            v.target = x.choice.cluster.target_text.decode()
    elif x.choice is not None and x.choice.service is not None:
        v.backend = x.choice.service.plan.name
        v.protocol = "mcp"
        if x.service_target is not None:
            v.target = x.service_target.decode()
    v.started_ns = x.ctx.reactor.wall - (x.ctx.reactor.now - x.start_ns)
    return v
