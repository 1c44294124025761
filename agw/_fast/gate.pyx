# See gate.pyi for the manual.
#
# Rules of this file:
# - it decides nothing itself: what is found here was put here by the keeper, for exactly these octets;
# - a credential is looked up by its SHA-256; before that the connection's last identity, and one that was found before under the same
#   keyed hash, are compared octet by octet: the key is this process's secret, so nobody can choose whom they are compared with;
# - generations are numbers that no other gate ever had, so an identity that a connection holds is only of the gate that made it: the same
#   octets are a stranger to the gate of another route, and to the one that a reload put in its place;
# - two fields of a name that holds credentials are two opinions: nothing is found, and the keeper judges;
# - caches are bounded; a full one forgets its oldest entry.

import hashlib
import os
from time import monotonic_ns, time_ns

from libc.stdint cimport INT64_MAX, int64_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE

from agw._fast.http1 cimport Head, Header, equals_lower
from agw._fast.limiter cimport Limit
from agw._fast.policy cimport HeaderEdits
from agw._fast.siphash cimport sip13

cdef object sha256 = hashlib.sha256
cdef uint64_t generations = 0


cdef uint64_t next_generation() noexcept:
    # An addition: nothing can raise.
    global generations
    generations += 1
    return generations


cdef enum:
    MAX_CALLS = 1024            # names an identity has licences for
    RECENT = 1024               # identities found without a digest
    TAIL = 64                   # octets of a credential that are hashed

cdef uint64_t[2] hash_key
memcpy(hash_key, PyBytes_AS_STRING(<bytes> os.urandom(16)), 16)


cdef class Charge:
    def __init__(self, Limit limit not None, uint64_t key, uint64_t cost=1):
        self.limit = limit
        self.key = key
        self.cost = cost

    def take(self):
        return self.limit.take(self.key, self.cost, monotonic_ns(), time_ns()) != 0


cdef int give_back(list charges) except -1:
    cdef Charge c
    for c in charges:
        c.limit.give_back(c.key)
    return 0


cdef class License:
    def __init__(self, charges=(), uint64_t stamp=0):
        self.stamp = stamp
        self.charges = tuple(charges)
        for charge in self.charges:
            if not isinstance(charge, Charge):
                raise TypeError("a licence consists of charges")


cdef class Identity:
    def __init__(self, bytes key not None, dict claims not None, *, bytes token=b"", frozenset scopes=frozenset(), int64_t expires_ns=INT64_MAX,
                 bytes log_fields=b"", HeaderEdits edits=None):
        self.key = key
        self.claims = claims
        self.token = token
        self.scopes = scopes
        self.expires_ns = expires_ns
        self.log_fields = log_fields
        self.edits = edits
        self.calls = {}
        self.extra = {}

    def learn(self, bytes name not None, License licence not None):
        if len(self.calls) >= MAX_CALLS:
            self.calls.clear()
        self.calls[name] = licence

    def __repr__(self):
        return f"<Identity {self.key.hex()}>"


cdef class Gate:
    def __init__(self, plan, headers, *, bint elsewhere=False, bint by_peer=False, bint messages=False, uint32_t capacity=10000):
        self.plan = plan
        self.headers = tuple(headers)
        self.elsewhere = elsewhere
        self.by_peer = by_peer
        self.messages = messages
        self.capacity = capacity
        self.identities = {}
        self.recent = None
        self.generation = next_generation()

    cdef bytes shown(self, const Head* h, const char* buf, bytes peer, bytes mark):
        # Everything a decision may depend on, in one piece; None when a field comes twice.
        cdef uint32_t i
        cdef const Header* f
        cdef bytes name, value
        cdef list parts = []
        for name in self.headers:
            value = None
            for i in range(h.nheaders):
                f = &h.headers[i]
                if f.name_len == <uint32_t> PyBytes_GET_SIZE(name) and equals_lower(buf + f.name_off, PyBytes_AS_STRING(name), f.name_len):
                    if value is not None:
                        return None
                    value = buf[f.value_off:f.value_off + f.value_len]
            parts.append(b"-" if value is None else b"=" + value)
        if self.elsewhere:
            for i in range(h.nheaders):
                f = &h.headers[i]
                if f.name_len == 6 and equals_lower(buf + f.name_off, b"cookie", 6):
                    parts.append(buf[f.value_off:f.value_off + f.value_len])
            parts.append(buf[h.query_off:h.query_off + h.query_len] if h.has_query else b"")
        if self.by_peer:
            parts.append(peer)
        if mark:
            parts.append(mark)
        # Fields cannot hold a line feed, so the parts cannot run into each other.
        return b"\n".join(parts)

    cdef Identity recall(self, const Head* h, const char* buf, Identity last, int64_t now):
        # For gates with one header and nothing else. None: unknown, or not to be said here.
        cdef uint32_t i
        cdef uint32_t n
        cdef const Header* f
        cdef bytes name = <bytes> self.headers[0]
        cdef const char* value = NULL
        cdef uint32_t size = 0
        cdef uint64_t place
        cdef Identity who
        n = <uint32_t> PyBytes_GET_SIZE(name)
        for i in range(h.nheaders):
            f = &h.headers[i]
            if f.name_len == n and equals_lower(buf + f.name_off, PyBytes_AS_STRING(name), n):
                if value != NULL:
                    return None
                value = buf + f.value_off
                size = f.value_len
        if last is not None and self.is_of(last, value, size, now):
            return last
        # Their ends tell credentials apart well enough: who shares a place costs the other a digest, no more.
        place = 0 if value == NULL else sip13(value + size - min(size, <uint32_t> TAIL), min(size, <uint32_t> TAIL), hash_key[0], hash_key[1]) % RECENT
        if self.recent is None:
            self.recent = [None] * RECENT
        who = <Identity> self.recent[place]
        if who is not None and self.is_of(who, value, size, now):
            return who
        who = self.find(b"-" if value == NULL else b"=" + value[:size], now)
        if who is not None:
            self.recent[place] = who
        return who

    cdef bint is_of(self, Identity who, const char* value, uint32_t size, int64_t now) noexcept:
        # Was it made here, of these octets (NULL: of nothing), and is it still good? Comparisons of numbers and octets: nothing can raise.
        cdef const char* text
        if who.generation != self.generation or now >= who.expires_ns or <uint32_t> PyBytes_GET_SIZE(who.shown) != size + 1:
            return False
        text = PyBytes_AS_STRING(who.shown)
        return text[0] == b"-" if value == NULL else text[0] == b"=" and memcmp(text + 1, value, size) == 0

    def find(self, bytes shown not None, int64_t now):
        cdef bytes digest = sha256(shown).digest()
        cdef Identity who = <Identity> self.identities.get(digest)
        if who is None:
            return None
        if now >= who.expires_ns:
            del self.identities[digest]
            return None
        return who

    def remember(self, Identity who not None, License entry not None, bytes shown not None):
        who.entry = entry
        who.shown = shown
        who.generation = self.generation
        if self.capacity == 0:
            return
        if len(self.identities) >= self.capacity:
            del self.identities[next(iter(self.identities))]
        self.identities[sha256(shown).digest()] = who

    def forget_all(self):
        self.generation = next_generation()
        self.identities.clear()
        self.recent = None

    def __len__(self):
        return len(self.identities)

    cdef License licence(self, Identity who, bytes name):
        return <License> who.calls.get(name)
