# See methods.pyi for the manual.

from libc.stdint cimport int32_t, uint32_t
from cpython.bytes cimport PyBytes_AS_STRING

from agw._fast.router cimport ByteMap

cdef enum:
    MOST = 64               # a key of the arena has six bits for a method

# Label values of mcp_requests_total: a closed set, because callers choose the method.
RPC_METHODS = (
    ("other", ""), ("batch", ""), ("response", ""), ("GET", ""), ("DELETE", ""),
    ("initialize", ""), ("ping", ""), ("server/discover", ""), ("subscriptions/listen", ""),
    ("tools/list", "tool"), ("tools/call", "tool"),
    ("prompts/list", "prompt"), ("prompts/get", "prompt"),
    ("resources/list", "resource"), ("resources/read", "resource"), ("resources/subscribe", "resource"),
    ("resources/unsubscribe", "resource"), ("resources/templates/list", "templates"),
    ("completion/complete", ""), ("logging/setLevel", ""),
    ("tasks/list", "task"), ("tasks/get", "task"), ("tasks/result", "task"), ("tasks/cancel", "task"), ("tasks/update", "task"),
    ("notifications/initialized", ""), ("notifications/cancelled", ""), ("notifications/progress", ""),
    ("notifications/roots/list_changed", ""),
)
KINDS = ("", "request", "notification", "response", "batch")
METHODS = ("OTHER", "GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH")

cdef const char* kinds[MOST]
cdef list kept = [kind.encode() for _, kind in RPC_METHODS]
cdef ByteMap numbers = ByteMap(len(RPC_METHODS))


def _fill():
    cdef bytes kind
    if len(RPC_METHODS) > MOST or RPC_METHODS[TOOLS_CALL][0] != "tools/call":
        raise ImportError("the table of methods and methods.pxd disagree")
    for i, kind in enumerate(kept):
        kinds[i] = PyBytes_AS_STRING(kind)
        if i >= 5:
            numbers.add(0, RPC_METHODS[i][0].encode(), i)


_fill()


cdef int32_t rpc_number(const char* name, uint32_t n) noexcept:
    return numbers.find(0, name, n)


cdef const char* rpc_kind(int number) noexcept nogil:
    if number < 0 or number >= MOST:
        return NULL
    return kinds[number]
