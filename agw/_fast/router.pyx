# See router.pyi for the manual.
#
# Rules of this file:
# - a lookup costs one hash per host label and per path segment that exists in the table; the number of routes does
#   not enter (regexes are the exception: they are tried in order of pattern length, because nothing else can);
# - precedence: most specific listener hostname, then most specific route hostname, then exact path, then prefix and
#   regex by length of their text, then method given, number of header matches, number of query matches, file order;
# - hosts are compared in lower case without port and final dot; paths are compared after normalisation, octet by octet.

from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t
from libc.stdlib cimport calloc, free
from libc.string cimport memchr, memcmp
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE

from urllib.parse import unquote_to_bytes

from agw._fast.http1 cimport Head, Limits, head_free, head_init, normalise_path, request_head_feed

from agw._fast.patterns import compiled


cdef inline uint32_t fnv(uint32_t seed, const char* p, uint32_t n) noexcept nogil:
    cdef uint32_t h = <uint32_t> 2166136261 ^ (seed * <uint32_t> 2654435761)
    cdef uint32_t i
    for i in range(n):
        h = (h ^ <uint8_t> p[i]) * <uint32_t> 16777619
    return h ^ (h >> 15)


cdef class ByteMap:
    """(parent, octets) -> int; open addressing, half full at most, never shrinks."""

    def __cinit__(self, uint32_t expected):
        cdef uint32_t size = 8
        cdef uint32_t i
        while size < expected * 2 + 2:
            size *= 2
        self.entries = <Entry*> calloc(size, sizeof(Entry))
        if self.entries == NULL:
            raise MemoryError()
        for i in range(size):
            self.entries[i].value = -1
        self.mask = size - 1
        self.keep = []

    def __dealloc__(self):
        free(self.entries)

    cdef int32_t find(self, uint32_t parent, const char* key, uint32_t n) noexcept nogil:
        cdef uint32_t h = fnv(parent, key, n)
        cdef uint32_t i = h & self.mask
        cdef Entry* e
        while True:
            e = &self.entries[i]
            if e.value < 0:
                return -1
            if e.hash == h and e.len == n and e.parent == parent and memcmp(e.key, key, n) == 0:
                return e.value
            i = (i + 1) & self.mask

    cdef int add(self, uint32_t parent, bytes key, int32_t value) except -1:
        cdef uint32_t h = fnv(parent, PyBytes_AS_STRING(key), <uint32_t> PyBytes_GET_SIZE(key))
        cdef uint32_t i = h & self.mask
        if self.count * 2 > self.mask:
            raise ValueError("table too small")
        while self.entries[i].value >= 0:
            i = (i + 1) & self.mask
        self.keep.append(key)
        self.entries[i].hash = h
        self.entries[i].len = <uint32_t> PyBytes_GET_SIZE(key)
        self.entries[i].parent = parent
        self.entries[i].key = PyBytes_AS_STRING(key)
        self.entries[i].value = value
        self.count += 1
        return 0


cdef class HostTable:
    """Hostname -> value, most specific first; `next_match` walks on to the less specific ones."""

    def __init__(self, dict hosts):
        self.exact = ByteMap(len(hosts))
        self.wild = ByteMap(len(hosts))
        self.fallback = -1
        for host, value in hosts.items():
            if host == "":
                self.fallback = value
            elif host.startswith("*."):
                self.wild.add(0, host[1:].encode(), value)
            else:
                self.exact.add(0, host.encode(), value)

    cdef int32_t next_match(self, const char* host, uint32_t n, uint32_t* state) noexcept nogil:
        # state: 0 at first, then the offset + 1 of the last tried suffix; 0xFFFFFFFF when done. -1: no more.
        cdef int32_t v
        cdef uint32_t i
        cdef const char* dot
        if state[0] == <uint32_t> 0xFFFFFFFF:
            return -1
        if state[0] == 0:
            state[0] = 1
            if self.exact.count:
                v = self.exact.find(0, host, n)
                if v >= 0:
                    return v
        if self.wild.count:
            i = state[0]
            while i < n:
                # "*.suffix" stands for at least one whole label, so the search starts behind the first octet.
                dot = <const char*> memchr(host + i, b".", n - i)
                if dot == NULL:
                    break
                i = <uint32_t> (dot - host)
                state[0] = i + 1
                v = self.wild.find(0, dot, n - i)
                if v >= 0:
                    return v
                i += 1
        state[0] = <uint32_t> 0xFFFFFFFF
        return self.fallback

    def lookup(self, str host):
        cdef bytes b = host.encode()
        cdef uint32_t state = 0
        cdef int32_t v
        found = []
        while True:
            v = self.next_match(PyBytes_AS_STRING(b), <uint32_t> PyBytes_GET_SIZE(b), &state)
            if v < 0:
                return found
            found.append(v)


cdef bytes field_value(const Head* h, const char* buf, bytes name):
    # All values of a field, joined as RFC 9110 section 5.2 says; None when absent. `name` is lower case.
    if name == b":authority":
        return buf[h.host_off:h.host_off + h.host_len]
    if name == b":method":
        return buf[h.start:h.start + h.method_len]
    found = [buf[h.headers[i].value_off:h.headers[i].value_off + h.headers[i].value_len] for i in range(h.nheaders)
             if h.headers[i].name_len == len(name)
             and buf[h.headers[i].name_off:h.headers[i].name_off + h.headers[i].name_len].lower() == name]
    return b", ".join(found) if found else None


cdef class Condition:
    """Header and query conditions of one match; only routes that have some pay for them."""

    cdef list headers           # (name, value | None, compiled | None)
    cdef list query

    def __init__(self, headers, query):
        self.headers = [(n.lower().encode("latin-1"), *self.matcher(kind, value)) for n, kind, value in headers]
        self.query = [(n.encode(), *self.matcher(kind, value)) for n, kind, value in query]

    @staticmethod
    def matcher(kind, value):
        return (None, compiled(value)) if kind == "regex" else (value.encode(), None)

    cdef bint holds(self, const Head* h, const char* buf) except -1:
        cdef bytes value
        for name, exact, regex in self.headers:
            value = field_value(h, buf, name)
            if value is None or (value != exact if regex is None else regex.fullmatch(value) is None):
                return False
        if self.query:
            pairs = {}
            for part in buf[h.query_off:h.query_off + h.query_len].split(b"&"):
                k, _, v = part.partition(b"=")
                pairs.setdefault(unquote_to_bytes(k.replace(b"+", b" ")), unquote_to_bytes(v.replace(b"+", b" ")))
            for name, exact, regex in self.query:
                value = pairs.get(name)
                if value is None or (value != exact if regex is None else regex.fullmatch(value) is None):
                    return False
        return True


cdef class PathTable:
    """All matches under one hostname.

    `rows`: (kind, path, method, headers, query, route) in file order; headers and query are (name, kind, value).
    Filled by `fill`, a generator that yields between pieces of about a millisecond.
    """

    def fill(self, list rows):
        cdef uint32_t i, node
        cdef int32_t child, up
        order = sorted(range(len(rows)), key=lambda r: (rows[r][2] == "", -len(rows[r][3]), -len(rows[r][4]), r))
        groups = {}
        for rank, r in enumerate(order):
            kind, path = rows[r][0], rows[r][1]
            if kind == "prefix":
                path = path.rstrip("/")
            groups.setdefault((kind, path), []).append((rank, rows[r]))
        yield
        prefixes = [path for kind, path in groups if kind == "prefix"]
        self.keep = []
        self.conditions = []
        self.ngroups = len(groups)
        self.candidates = <Candidate*> calloc(len(rows) + 1, sizeof(Candidate))
        self.first = <uint32_t*> calloc(len(groups) + 1, sizeof(uint32_t))
        self.exact = ByteMap(len(groups) - len(prefixes))
        self.edges = ByteMap(sum(path.count("/") for path in prefixes) + 1)
        self.nnodes = 1
        nodes = sum(path.count("/") for path in prefixes) + 2
        self.prefix_group = <int32_t*> calloc(nodes, sizeof(int32_t))
        self.prefix_len = <uint32_t*> calloc(nodes, sizeof(uint32_t))
        self.prefix_up = <int32_t*> calloc(nodes, sizeof(int32_t))
        if self.candidates == NULL or self.first == NULL or self.prefix_group == NULL or self.prefix_len == NULL \
                or self.prefix_up == NULL:
            raise MemoryError()
        for i in range(nodes):
            self.prefix_group[i] = self.prefix_up[i] = -1
        regexes = []
        for i, ((kind, path), members) in enumerate(groups.items()):
            self.first[i] = self.ncandidates
            if i % 256 == 255:
                yield
            for rank, row in members:
                self.add_candidate(row, rank)
            if kind == "exact":
                self.exact.add(0, path.encode(), i)
            elif kind == "regex":
                regexes.append((path.encode(), compiled(path), i))
            else:
                node = 0
                for segment in path.split("/")[1:]:
                    piece = segment.encode()
                    child = self.edges.find(node, PyBytes_AS_STRING(piece), <uint32_t> PyBytes_GET_SIZE(piece))
                    if child < 0:
                        child = self.nnodes
                        self.nnodes += 1
                        self.edges.add(node, piece, child)
                        self.prefix_up[child] = <int32_t> node
                    node = child
                self.prefix_group[node] = i
                self.prefix_len[node] = max(1, len(path.encode()))
        self.first[self.ngroups] = self.ncandidates
        for node in range(1, self.nnodes):
            # So far the parent; parents come before their children.
            up = self.prefix_up[node]
            if self.prefix_group[up] < 0:
                self.prefix_up[node] = self.prefix_up[up]
        self.regexes = sorted(regexes, key=lambda r: -len(r[0]))

    def add_candidate(self, row, uint32_t rank):
        cdef Candidate* c = &self.candidates[self.ncandidates]
        cdef bytes method = row[2].encode()
        self.keep.append(method)
        c.route = row[5]
        c.rank = rank
        c.condition = -1
        c.method = PyBytes_AS_STRING(method)
        c.method_len = len(method)
        if row[3] or row[4]:
            c.condition = len(self.conditions)
            self.conditions.append(Condition(row[3], row[4]))
        self.ncandidates += 1

    def __dealloc__(self):
        free(self.candidates)
        free(self.first)
        free(self.prefix_group)
        free(self.prefix_len)
        free(self.prefix_up)

    cdef int32_t pick(self, int32_t group, const Head* h, const char* buf) except -2:
        # The group's best candidate that takes this request, or -1.
        cdef uint32_t i
        cdef Candidate* c
        for i in range(self.first[group], self.first[group + 1]):
            c = &self.candidates[i]
            if c.method_len and (c.method_len != h.method_len or memcmp(c.method, buf + h.start, c.method_len) != 0):
                continue
            if c.condition >= 0 and not (<Condition> self.conditions[c.condition]).holds(h, buf):
                continue
            return <int32_t> i
        return -1

    cdef int32_t match(self, const Head* h, const char* buf, const char* path, uint32_t n) except -2:
        cdef int32_t node = 0
        cdef int32_t last = -1          # longest prefix not tried yet, as a trie node
        cdef int32_t v, best
        cdef int64_t length, longest
        cdef uint32_t i = 1
        cdef uint32_t e
        cdef const char* slash
        cdef Py_ssize_t r = 0
        cdef bytes text = None
        if self.exact.count:
            v = self.exact.find(0, path, n)
            if v >= 0:
                v = self.pick(v, h, buf)
                if v >= 0:
                    return self.candidates[v].route
        # Walk the trie along the segments to the longest prefix; prefix_up leads to the shorter ones.
        while True:
            if self.prefix_group[node] >= 0:
                last = node
            if i > n or self.edges.count == 0:
                break
            slash = <const char*> memchr(path + i, b"/", n - i) if i < n else NULL
            e = n if slash == NULL else <uint32_t> (slash - path)
            if e == i and e == n:
                break       # a trailing slash adds no segment
            node = self.edges.find(<uint32_t> node, path + i, e - i)
            if node < 0:
                break
            i = e + 1
        if not self.regexes:
            while last >= 0:
                v = self.pick(self.prefix_group[last], h, buf)
                if v >= 0:
                    return self.candidates[v].route
                last = self.prefix_up[last]
            return -1
        # Prefixes and regexes by length; what is equally long is decided by the rank of the candidates.
        text = path[:n]
        while last >= 0 or r < len(self.regexes):
            longest = <int64_t> self.prefix_len[last] if last >= 0 else -1
            if r < len(self.regexes):
                length = len(self.regexes[r][0])
                longest = max(length, longest)
            best = -1
            if last >= 0 and self.prefix_len[last] == longest:
                best = self.pick(self.prefix_group[last], h, buf)
                last = self.prefix_up[last]
            while r < len(self.regexes):
                pattern, regex, group = self.regexes[r]
                if len(pattern) != longest:
                    break
                r += 1
                if regex.fullmatch(text) is not None:
                    v = self.pick(group, h, buf)
                    if v >= 0 and (best < 0 or self.candidates[v].rank < self.candidates[best].rank):
                        best = v
            if best >= 0:
                return self.candidates[best].route
        return -1


cdef class Router:
    """One bind: listeners by hostname, each with its hostnames and path tables.

    `listeners`: list of (hostname, listener id, {route hostname: rows}); rows as for PathTable.
    """

    def __init__(self, list listeners):
        for _ in self.fill(listeners):
            pass

    @staticmethod
    def build_steps(listeners):
        """As the constructor, in small steps; the value of the generator is the Router."""
        router = Router([])
        yield from router.fill(listeners)
        return router

    def fill(self, listeners):
        cdef PathTable table
        self.listeners = HostTable({hostname: i for i, (hostname, _, _) in enumerate(listeners)})
        self.listener_ids = [ident for _, ident, _ in listeners]
        self.tables = []
        for _, _, hosts in listeners:
            tables = []
            for rows in hosts.values():
                table = PathTable()
                yield from table.fill(rows)
                tables.append(table)
                yield
            self.tables.append((HostTable({host: i for i, host in enumerate(hosts)}), tables))

    cdef int32_t route(self, const Head* h, const char* buf, const char* path, uint32_t n, int32_t* listener) except -2:
        # Returns the route index, -1 when no route matches, with *listener = -1 when no listener does.
        cdef char host[256]
        cdef uint32_t size = 0
        cdef uint32_t i
        cdef uint32_t lstate = 0
        cdef uint32_t rstate = 0
        cdef int32_t v, found
        cdef char c
        cdef HostTable hosts
        cdef list paths
        for i in range(h.host_len):
            c = buf[h.host_off + i]
            if c == b":" and buf[h.host_off] != b"[":
                break
            if size == 255:
                # No hostname is that long; cut short it might match one, so it matches none but "".
                size = 0
                break
            host[size] = c + 32 if b"A" <= c <= b"Z" else c
            size += 1
            if c == b"]":
                break
        if size and host[size - 1] == b".":
            size -= 1       # `a.example.` is `a.example`, to rules as well
        listener[0] = -1
        v = self.listeners.next_match(host, size, &lstate)
        if v < 0:
            return -1
        listener[0] = v
        hosts, paths = <tuple> self.tables[v]
        while True:
            v = hosts.next_match(host, size, &rstate)
            if v < 0:
                return -1
            found = (<PathTable> paths[v]).match(h, buf, path, n)
            if found >= 0:
                return found

    def match_request(self, bytes head not None):
        cdef Limits limits = Limits(max_line=65536, max_head=1 << 20, max_field=65536, max_headers=1000)
        cdef Head h
        cdef int32_t listener = -1
        cdef int32_t found
        cdef bytes path
        head_init(&h, &limits.c)
        try:
            if request_head_feed(&h, PyBytes_AS_STRING(head), <uint32_t> PyBytes_GET_SIZE(head), &limits.c) <= 0:
                raise ValueError((<bytes> h.problem).decode() if h.problem != NULL else "incomplete head")
            raw = head[h.path_off:h.path_off + h.path_len] or b"/"
            path = bytes(PyBytes_GET_SIZE(raw) + 1)
            n = normalise_path(PyBytes_AS_STRING(raw), <uint32_t> PyBytes_GET_SIZE(raw), PyBytes_AS_STRING(path)) if raw != b"*" else -2
            if n == -1:
                raise ValueError("path cannot be normalised")
            path = path[:n] if n >= 0 else raw
            found = self.route(&h, PyBytes_AS_STRING(head), PyBytes_AS_STRING(path), <uint32_t> PyBytes_GET_SIZE(path), &listener)
            return listener, found
        finally:
            head_free(&h)
