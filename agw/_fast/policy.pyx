# See policy.pyi for the manual.
#
# Rules of this file:
# - everything is immutable once built; a request only reads;
# - header lines are ready octets, already checked for CR, LF and NUL;
# - a policy that is absent is None: one identity test on the hot path.

from libc.stdint cimport uint32_t, uint64_t
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE

from agw._fast.http1 cimport is_field_value, is_token

# What a wildcard of an origin may stand for: labels of a host name, nothing that starts another part of a URL.
cdef bytes HOST_OCTETS = b"abcdefghijklmnopqrstuvwxyz0123456789-_."


def header_line(name, value):
    """One wire line; ValueError when it could not be framed."""
    cdef bytes n = name.encode("latin-1")
    cdef bytes v = value.encode("utf-8")
    if not is_token(PyBytes_AS_STRING(n), PyBytes_GET_SIZE(n)) or not is_field_value(PyBytes_AS_STRING(v), PyBytes_GET_SIZE(v)):
        raise ValueError(f"header {name!r} cannot be sent")
    return n + b": " + v + b"\r\n"


cdef class HeaderEdits:
    def __init__(self, remove, set_, add):
        self.drop = tuple([n.lower().encode("latin-1") for n in remove] + [n.lower().encode("latin-1") for n, _ in set_])
        self.lines = b"".join([header_line(n, v) for n, v in set_] + [header_line(n, v) for n, v in add])

    def derived(self, bytes lines not None):
        cdef HeaderEdits edits = HeaderEdits.__new__(HeaderEdits)
        edits.drop = self.drop
        edits.lines = lines
        return edits

    def without(self, bytes lines not None):
        names = {line.partition(b":")[0].lower() for line in lines.split(b"\r\n")}
        return self.derived(b"".join([line + b"\r\n" for line in self.lines.split(b"\r\n") if line and line.partition(b":")[0].lower() not in names]))

    def would_drop(self, bytes name not None):
        return bool(self.drops(PyBytes_AS_STRING(name), <uint32_t> PyBytes_GET_SIZE(name)))

    cdef bint drops(self, const char* name, uint32_t n) noexcept:
        cdef bytes d
        cdef uint32_t i
        cdef const char* p
        cdef char c, e
        # `X_User` is `X-User` to whoever makes variables of header names (RFC 3875 section 4.1.18), as many backends do.
        for d in self.drop:
            if <uint32_t> PyBytes_GET_SIZE(d) != n:
                continue
            p = PyBytes_AS_STRING(d)
            i = 0
            while i < n:
                c = name[i]
                if b"A" <= c <= b"Z":
                    c += 32
                elif c == b"_":
                    c = b"-"
                e = p[i]
                if e == b"_":
                    e = b"-"
                if c != e:
                    break
                i += 1
            if i == n:
                return True
        return False


cdef class Cors:
    """The Fetch standard's server side. A refused origin gets no CORS headers, never an error."""

    def __init__(self, origins, methods, headers, expose, credentials, max_age_s):
        self.any_origin = "*" in origins
        self.exact = frozenset(o.lower().encode() for o in origins if "*" not in o)
        patterns = []
        for o in origins:
            if "*" in o and o != "*":
                scheme, _, rest = o.lower().partition("://")
                patterns.append((scheme.encode() + b"://", rest.lstrip("*").encode()))
        self.patterns = tuple(patterns)
        self.credentials = credentials
        lines = []
        if methods:
            lines.append(header_line("access-control-allow-methods", ", ".join(methods)))
        if headers:
            lines.append(header_line("access-control-allow-headers", ", ".join(headers)))
        if max_age_s is not None:
            lines.append(header_line("access-control-max-age", str(max_age_s)))
        self.preflight_lines = b"".join(lines)
        self.expose_line = header_line("access-control-expose-headers", ", ".join(expose)) if expose else b""

    def lines_for(self, bytes origin not None, bint preflight):
        return self.preflight(origin) if preflight else self.response_lines(origin)

    cdef bytes allowed(self, bytes origin):
        # The value for Access-Control-Allow-Origin, or None.
        cdef bytes low = origin.lower()
        if self.any_origin:
            # With credentials "*" means nothing to a browser; the origin itself is named then.
            return origin if self.credentials else b"*"
        if low in self.exact:
            return origin
        for scheme, suffix in self.patterns:
            if low.startswith(scheme) and low.endswith(suffix) and len(low) > len(scheme) + len(suffix):
                middle = low[len(scheme):len(low) - len(suffix)]
                if not middle.translate(None, HOST_OCTETS):
                    return origin
        return None

    cdef bytes response_lines(self, bytes origin):
        # Also for a request without Origin (None): caches must know that the answer depends on it.
        cdef bytes value = None if origin is None else self.allowed(origin)
        if value is None:
            return b"" if self.any_origin and not self.credentials else b"vary: origin\r\n"
        return b"".join((b"access-control-allow-origin: ", value, b"\r\n",
                         b"" if value == b"*" else b"vary: origin\r\n",
                         b"access-control-allow-credentials: true\r\n" if self.credentials else b"", self.expose_line))

    cdef bytes preflight(self, bytes origin):
        cdef bytes value = self.allowed(origin)
        if value is None:
            return b""
        return b"".join((b"access-control-allow-origin: ", value, b"\r\n",
                         b"" if value == b"*" else b"vary: origin\r\n",
                         b"access-control-allow-credentials: true\r\n" if self.credentials else b"", self.preflight_lines))


cdef class Choice:
    def __init__(self, cluster, weight, *, request_edits, response_edits, host, host_mode, host_part, path, path_prefix,
                 redirect, response_timeout_ns, service=None, target=0, auth=None, tuple bare=None):
        self.cluster = cluster
        self.service = service
        self.table = None
        self.target = target
        self.weight = weight
        self.request_edits = request_edits
        self.response_edits = response_edits
        self.host = host
        self.host_mode = host_mode
        self.host_part = host_part
        self.path = path
        self.path_prefix = path_prefix
        self.redirect = redirect
        self.response_timeout = response_timeout_ns
        self.auth = auth
        self.bare = bare

    def set_table(self, table):
        self.table = table


def hop_choice(cluster not None):
    cdef Choice choice = Choice(cluster, 1, request_edits=None, response_edits=None, host=None, host_mode=0, host_part=b"",
                                path=None, path_prefix=None, redirect=None, response_timeout_ns=0)
    choice.hop = True
    return choice


cdef class Route:
    def __init__(self, name, label, labels, log_fields, choices, *, cors, reply_edits, redirect, direct, request_timeout_ns, gate=None):
        self.gate = gate
        cdef Choice choice
        self.speaks_rpc = False
        for choice in choices:
            if choice.service is not None or (choice.cluster is not None and choice.cluster.is_mcp):
                self.speaks_rpc = True
        self.name = name
        self.label = label
        self.labels = labels
        self.log_fields = log_fields
        self.choices = choices
        self.total_weight = sum(c.weight for c in choices)
        self.cors = cors
        self.reply_edits = reply_edits
        self.redirect = redirect
        self.direct = direct
        self.request_timeout = request_timeout_ns

    cdef Choice choose(self, uint64_t random):
        cdef uint32_t pick
        cdef Choice choice
        if self.total_weight == 0:
            return None
        if len(self.choices) == 1:
            return <Choice> self.choices[0]
        pick = <uint32_t> ((random >> 32) % self.total_weight)
        for choice in self.choices:
            if pick < choice.weight:
                return choice
            pick -= choice.weight
        return None


cdef class Match:
    def __init__(self, Route route not None, uint32_t prefix_len):
        self.route = route
        self.prefix_len = prefix_len


cdef class Http:
    def __init__(self, plan):
        if not (plan.max_line_bytes <= plan.max_head_bytes <= 65536 and plan.max_field_bytes <= 65536 and 0 < plan.max_headers <= 1000):
            raise ValueError("header limits: maxLineBytes <= maxHeadBytes <= 65536, maxFieldBytes <= 65536, http1MaxHeaders <= 1000")
        self.limits.max_line = plan.max_line_bytes
        self.limits.max_field = plan.max_field_bytes
        self.limits.max_head = plan.max_head_bytes
        self.limits.max_headers = plan.max_headers
        self.limits.max_chunk_line = 4096
        self.limits.max_chunk_ext = 16384
        self.limits.max_trailers = 8192
        self.hop_limits = self.limits
        self.hop_limits.max_field = max(self.limits.max_field, <uint32_t> HOP_CERTIFICATE + 32)
        self.hop_limits.max_head += HOP_CERTIFICATE + 256
        self.max_buffer = plan.max_buffer_bytes
        self.header_timeout = plan.header_timeout_ns
        self.first_byte_timeout = plan.first_byte_timeout_ns
        self.progress_timeout = plan.progress_timeout_ns
        self.idle_timeout = plan.idle_timeout_ns
        self.stream_idle_timeout = plan.stream_idle_timeout_ns
        self.max_connection = plan.max_connection_ns
        self.max_requests = plan.max_requests_per_connection
        self.max_connections = plan.max_connections
        self.max_per_address = plan.max_connections_per_address
        self.lowercase = plan.lowercase_headers
        self.forwarded = {"off": 0, "replace": 1, "append": 2}[plan.forwarded]


cdef class Bind:
    def __init__(self, key, router, matches, http, log_fields, label, tls=None):
        self.key = key
        self.router = router
        self.matches = matches
        self.http = http
        self.log_fields = log_fields
        self.label = label
        self.tls = tls
