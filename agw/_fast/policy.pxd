# What a route does to a request, compiled to data. Built by agw.runtime.compile, read by the exchange.

from libc.stdint cimport int64_t, uint32_t, uint64_t

from agw._fast.http1 cimport CLimits, Head
from agw._fast.pool cimport Cluster
from agw._fast.router cimport Router
from agw._fast.tls cimport ServerTls

cdef enum:
    HOP_CERTIFICATE = 24576         # octets of a client's certificate in base64, towards another worker

cdef class HeaderEdits:
    cdef readonly tuple drop            # lower-case names
    cdef readonly bytes lines           # "name: value\r\n" of set and add
    cdef bint drops(self, const char* name, uint32_t n) noexcept

cdef class Cors:
    cdef bint any_origin
    cdef frozenset exact
    cdef tuple patterns                 # (scheme, suffix, port)
    cdef bint credentials
    cdef bytes preflight_lines
    cdef bytes expose_line
    cdef bytes allowed(self, bytes origin)
    cdef bytes response_lines(self, bytes origin)
    cdef bytes preflight(self, bytes origin)

cdef class Choice:
    cdef readonly object table              # CallTable: what the service lets us do without it, or None
    cdef readonly uint32_t target           # of a service's own choices: which of its targets
    cdef readonly Cluster cluster           # None when `service` answers
    cdef readonly object service            # Python code that serves the request (agw.mcp.service), or None
    cdef readonly uint32_t weight
    cdef readonly HeaderEdits request_edits
    cdef readonly HeaderEdits response_edits
    cdef readonly bytes host            # None: the client's Host goes through
    cdef readonly bytes host_part       # replaces the host or the port only; see host_mode
    cdef readonly int host_mode         # 0 fixed or kept, 1 host part, 2 port part
    cdef readonly bytes path            # whole path, or None
    cdef readonly bytes path_prefix     # replaces the matched prefix, or None
    cdef readonly bint hop              # to another worker: the request goes as it came, see hop_choice
    cdef readonly object redirect
    cdef readonly int64_t response_timeout
    cdef readonly object auth           # agw.runtime.credentials.BackendAuth: what the backend is presented, or None
    cdef readonly tuple bare            # (query parameters, cookies) that do not go on, or None

cdef class Route:
    cdef readonly str name
    cdef readonly uint32_t label
    cdef readonly tuple labels          # bind, gateway, listener, route, rule
    cdef readonly bytes log_fields      # JSON fragment with the label fields
    cdef readonly list choices
    cdef readonly uint32_t total_weight
    cdef readonly Cors cors
    cdef readonly object gate               # _fast.gate.Gate, or None: everybody may enter
    cdef readonly bint speaks_rpc           # refusals are JSON-RPC errors
    cdef readonly HeaderEdits reply_edits   # response edits that also apply to local replies
    cdef readonly object redirect
    cdef readonly object direct             # (status, body, header lines)
    cdef readonly int64_t request_timeout
    cdef Choice choose(self, uint64_t random)

cdef class Match:
    cdef readonly Route route
    cdef readonly uint32_t prefix_len

cdef class Http:
    cdef CLimits limits
    cdef CLimits hop_limits         # of what another worker passes on: with room for what it adds
    cdef readonly uint64_t max_buffer
    cdef readonly int64_t header_timeout, first_byte_timeout, progress_timeout, idle_timeout, stream_idle_timeout
    cdef readonly int64_t max_connection
    cdef readonly uint32_t max_requests, max_connections, max_per_address
    cdef readonly bint lowercase
    cdef readonly int forwarded         # 0 off, 1 replace, 2 append

cdef class Bind:
    cdef readonly str key
    cdef readonly Router router
    cdef readonly list matches          # of Match, by the router's value
    cdef readonly Http http
    cdef readonly ServerTls tls         # None: plain
    cdef readonly bytes log_fields      # JSON fragment for requests without a route
    cdef readonly uint32_t label
