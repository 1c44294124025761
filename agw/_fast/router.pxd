# Host and path to route index. Built once per snapshot, immutable afterwards.

from libc.stdint cimport int32_t, uint32_t

from agw._fast.http1 cimport Head

ctypedef struct Entry:
    uint32_t hash
    uint32_t len
    int32_t value           # -1: free
    uint32_t parent
    const char* key         # owned by the table's keep-alive list

ctypedef struct Candidate:
    int32_t route
    int32_t condition       # index into PathTable.conditions, or -1
    uint32_t method_len     # 0: any
    uint32_t rank           # among all rows of the table: method, conditions, place in the file
    const char* method

cdef class ByteMap:
    cdef Entry* entries
    cdef uint32_t mask
    cdef uint32_t count
    cdef list keep
    cdef int32_t find(self, uint32_t parent, const char* key, uint32_t n) noexcept nogil
    cdef int add(self, uint32_t parent, bytes key, int32_t value) except -1

cdef class HostTable:
    cdef ByteMap exact
    cdef ByteMap wild
    cdef int32_t fallback
    cdef int32_t next_match(self, const char* host, uint32_t n, uint32_t* state) noexcept nogil

cdef class PathTable:
    cdef ByteMap exact
    cdef ByteMap edges
    cdef Candidate* candidates
    cdef uint32_t ncandidates
    cdef uint32_t* first        # per group: offset into candidates
    cdef uint32_t ngroups
    cdef int32_t* prefix_group  # per trie node
    cdef uint32_t* prefix_len   # per trie node: octets of the prefix, for precedence against regexes
    cdef int32_t* prefix_up     # per trie node: the nearest node above it where a prefix ends, or -1
    cdef uint32_t nnodes
    cdef list conditions
    cdef list regexes           # (pattern octets, compiled, group), longest first
    cdef list keep
    cdef int32_t pick(self, int32_t group, const Head* h, const char* buf) except -2
    cdef int32_t match(self, const Head* h, const char* buf, const char* path, uint32_t n) except -2

cdef class Router:
    cdef HostTable listeners
    cdef list tables            # per listener: (HostTable, list[PathTable])
    cdef readonly list listener_ids
    cdef int32_t route(self, const Head* h, const char* buf, const char* path, uint32_t n, int32_t* listener) except -2
