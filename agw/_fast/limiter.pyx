# See limiter.pyi for the manual.
#
# Rules of this file:
# - fingerprint and word of a slot are read apart and written together: only a compare-and-swap of both counts;
# - a full barrier follows every claim (the compare-and-swap is one), so of two that insert a key the later one sees the other;
# - the data path allocates nothing and raises nothing.

from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.string cimport memcpy
from cpython.buffer cimport PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from posix.time cimport CLOCK_MONOTONIC, CLOCK_REALTIME, clock_gettime, timespec

from agw._fast.siphash cimport sip13

cdef extern from *:
    """
    #include <stdint.h>
    #include <string.h>

    static inline uint64_t agw_load(const uint64_t *at) { return __atomic_load_n(at, __ATOMIC_ACQUIRE); }
    static inline void agw_store(uint64_t *at, uint64_t v) { __atomic_store_n(at, v, __ATOMIC_RELEASE); }
    static inline uint32_t agw_load32(const uint32_t *at) { return __atomic_load_n(at, __ATOMIC_SEQ_CST); }
    static inline uint32_t agw_add32(uint32_t *at, uint32_t v) { return __atomic_add_fetch(at, v, __ATOMIC_SEQ_CST); }
    static inline int agw_cas(uint64_t *at, uint64_t old, uint64_t now) {
        return __atomic_compare_exchange_n(at, &old, now, 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
    }

    /* 16 octets at once; a compiler would call libatomic, which may take a lock in memory of one process. */
    static inline int agw_cas16(uint64_t *at, uint64_t old0, uint64_t old1, uint64_t new0, uint64_t new1) {
    #if defined(__x86_64__)
        unsigned char done;
        __asm__ __volatile__("lock cmpxchg16b %1\\n\\tsete %0"
            : "=q"(done), "+m"(*(volatile unsigned __int128 *) at), "+a"(old0), "+d"(old1) : "b"(new0), "c"(new1) : "cc", "memory");
        return done;
    #else
        unsigned __int128 old = ((unsigned __int128) old1 << 64) | old0, next = ((unsigned __int128) new1 << 64) | new0;
        return __sync_bool_compare_and_swap((unsigned __int128 *) at, old, next);
    #endif
    }
    """
    uint64_t load "agw_load"(const uint64_t*) noexcept nogil
    void store "agw_store"(uint64_t*, uint64_t) noexcept nogil
    uint32_t load32 "agw_load32"(const uint32_t*) noexcept nogil
    uint32_t add32 "agw_add32"(uint32_t*, uint32_t) noexcept nogil
    int cas "agw_cas"(uint64_t*, uint64_t, uint64_t) noexcept nogil
    int cas16 "agw_cas16"(uint64_t*, uint64_t, uint64_t, uint64_t, uint64_t) noexcept nogil

cdef enum:
    PAGE = 4096
    LINE = 8                # words of a cache line: four slots
    H_MAGIC = 0
    H_VERSION = 1
    H_LINES = 2
    H_WORKERS = 3
    H_ROWS = 4
    H_KEY = 5               # two words
    H_HELD = 16             # one word per worker: has it ever held a permit?
    MOST_WORKERS = 480
    NAMES = 512
    NAME_TEXT = 48
    TRIES = 4096            # a failed compare-and-swap means that somebody else got on; so many in a row do not happen
    COUNT_BITS = 40
    NUMBER_BITS = 22

cdef uint64_t MAGIC = 0x6167772D6C696D31
cdef uint64_t VERSION_NOW = 1
cdef uint64_t COUNT_MASK = (<uint64_t> 1 << COUNT_BITS) - 1
cdef uint64_t NUMBER_MASK = (<uint64_t> 1 << NUMBER_BITS) - 1
cdef int64_t HOUR_NS = 3600000000000
cdef int64_t DAY_NS = 86400000000000
cdef int64_t AGAIN_NS = 1000000000      # when a place may be free again is unknown: a second
cdef int64_t MOST_NS = 315360000000000000

KINDS = ("rate", "concurrency", "quota")
WINDOWS = ("", "hour", "day", "month")
NAME_ROWS = NAMES


cdef Py_ssize_t lines_for(Py_ssize_t keys) noexcept:
    cdef Py_ssize_t lines = 2
    while lines * 4 < keys + (keys >> 1):
        lines *= 2
    return lines


cdef Py_ssize_t whole_pages(Py_ssize_t n) noexcept:
    return (n + PAGE - 1) // PAGE * PAGE


cdef Py_ssize_t row_size(Py_ssize_t workers) noexcept:
    return (16 + 4 * workers + 63) // 64 * 64


cdef Py_ssize_t names_size(Py_ssize_t workers) noexcept:
    return whole_pages(NAMES * (16 + NAME_TEXT + <Py_ssize_t> sizeof(Cell) * workers))


cdef Py_ssize_t rows_for(Py_ssize_t permits) noexcept:
    cdef Py_ssize_t rows = 8
    if permits <= 0:
        return 0
    while rows < permits:
        rows *= 2
    return rows


def table_bytes(Py_ssize_t keys, Py_ssize_t workers, Py_ssize_t permits):
    if not (1 <= keys <= 1 << 30 and 1 <= workers <= MOST_WORKERS and 0 <= permits <= 1 << 24):
        raise ValueError("keys, workers or permits out of range")
    return PAGE + names_size(workers) + whole_pages(rows_for(permits) * row_size(workers)) + whole_pages(lines_for(keys) * 64)


cdef int month_of(int64_t days, int64_t* year) noexcept:
    # Civil date of a day since 1970 (proleptic Gregorian, years that begin in March); the month from 0.
    cdef int64_t z = days + 719468
    cdef int64_t era = (z if z >= 0 else z - 146096) // 146097
    cdef int64_t doe = z - era * 146097
    cdef int64_t yoe = (doe - doe // 1460 + doe // 36524 - doe // 146096) // 365
    cdef int64_t doy = doe - (365 * yoe + yoe // 4 - yoe // 100)
    cdef int64_t mp = (5 * doy + 2) // 153
    cdef int64_t month = mp + 2 if mp < 10 else mp - 10
    year[0] = yoe + era * 400 + (1 if month <= 1 else 0)
    return <int> month


cdef int64_t day_of(int64_t year, int64_t month) noexcept:
    # The first day of a month (from 0) in days since 1970.
    cdef int64_t y, m, era, yoe, doy
    year += month // 12
    month = month % 12
    y = year - 1 if month <= 1 else year
    m = month + 1
    era = (y if y >= 0 else y - 399) // 400
    yoe = y - era * 400
    doy = (153 * (m - 3 if m > 2 else m + 9) + 2) // 5
    return era * 146097 + yoe * 365 + yoe // 4 - yoe // 100 + doy - 719468


cdef uint64_t number_at(int window, int64_t wall_ns) noexcept:
    # The number of the window of a moment.
    cdef int64_t year = 0
    cdef int month
    if window == HOUR:
        return <uint64_t> (wall_ns // HOUR_NS) & NUMBER_MASK
    if window == DAY:
        return <uint64_t> (wall_ns // DAY_NS) & NUMBER_MASK
    month = month_of(wall_ns // DAY_NS, &year)
    return <uint64_t> (year * 12 + month) & NUMBER_MASK


cdef class Table:
    def __init__(self, memory, int worker=-1):
        cdef Py_buffer view
        cdef uint64_t* head
        PyObject_GetBuffer(memory, &view, PyBUF_WRITABLE)
        head = <uint64_t*> view.buf
        fits = view.len >= PAGE and <Py_ssize_t> view.buf % 64 == 0 and head[H_MAGIC] == MAGIC and head[H_VERSION] == VERSION_NOW \
            and 1 <= head[H_WORKERS] <= MOST_WORKERS and 2 <= head[H_LINES] <= 1 << 30 and head[H_LINES] & (head[H_LINES] - 1) == 0 \
            and head[H_ROWS] <= 1 << 24 and head[H_ROWS] & (head[H_ROWS] - 1) == 0
        if fits:
            self.workers = <int> head[H_WORKERS]
            self.row_bytes = row_size(self.workers)
            self.name_bytes = 16 + NAME_TEXT + <Py_ssize_t> sizeof(Cell) * self.workers
            self.base = <char*> view.buf
            self.names = self.base + PAGE
            self.rows = self.names + names_size(self.workers)
            self.slots = <uint64_t*> (self.rows + whole_pages(<Py_ssize_t> head[H_ROWS] * self.row_bytes))
            self.size = <char*> self.slots - self.base + whole_pages(<Py_ssize_t> head[H_LINES] * 64)
            fits = self.size == view.len
        PyBuffer_Release(&view)
        if not fits:
            raise ValueError("no table of limits, or one of another version or size")
        if not -1 <= worker < self.workers:
            raise IndexError(worker)
        self.memory = memory        # the mapping is never closed while a table lives
        self.worker = worker
        self.line_mask = head[H_LINES] - 1
        self.row_mask = head[H_ROWS] - 1 if head[H_ROWS] else 0
        self.k0 = head[H_KEY]
        self.k1 = head[H_KEY + 1]

    @staticmethod
    def format(memory, Py_ssize_t keys, Py_ssize_t workers, Py_ssize_t permits, bytes key not None):
        cdef Py_buffer view
        cdef uint64_t* head
        cdef Py_ssize_t wanted = table_bytes(keys, workers, permits)
        if len(key) != 16:
            raise ValueError("the key of a table has 16 octets")
        PyObject_GetBuffer(memory, &view, PyBUF_WRITABLE)
        if view.len != wanted:
            PyBuffer_Release(&view)
            raise ValueError("memory of another size than the table")
        head = <uint64_t*> view.buf
        head[H_VERSION] = VERSION_NOW
        head[H_LINES] = lines_for(keys)
        head[H_WORKERS] = workers
        head[H_ROWS] = rows_for(permits)
        memcpy(&head[H_KEY], PyBytes_AS_STRING(key), 16)
        store(&head[H_MAGIC], MAGIC)
        PyBuffer_Release(&view)

    @property
    def slots_in_all(self):
        return (self.line_mask + 1) * 4

    def as_worker(self, int worker):
        return Table(self.memory, worker)

    cdef Cell* cell(self, int number) noexcept:
        return <Cell*> (self.names + number * self.name_bytes + 16 + NAME_TEXT) + self.worker

    def number_of(self, bytes identity not None, str name not None):
        cdef uint64_t parts[2]
        cdef uint64_t* row
        cdef uint64_t a, b
        cdef int i, at
        cdef bytes text = name.encode("utf-8", "replace")[:NAME_TEXT]
        if len(identity) != 16:
            raise ValueError("an identity has 16 octets")
        memcpy(parts, PyBytes_AS_STRING(identity), 16)
        parts[0] |= 1       # a row in use is never all zero
        i = 0
        while i < NAMES - 1:
            at = <int> ((parts[1] + <uint64_t> i) % (NAMES - 1))
            row = <uint64_t*> (self.names + at * self.name_bytes)
            a = load(row)
            b = load(row + 1)
            if a == 0 and b == 0:
                if not cas16(row, 0, 0, parts[0], parts[1]):
                    continue
                a = parts[0]
                b = parts[1]
            if a == parts[0] and b == parts[1]:
                memcpy(<char*> row + 16, PyBytes_AS_STRING(text), PyBytes_GET_SIZE(text))
                return at
            i += 1
        row = <uint64_t*> (self.names + (NAMES - 1) * self.name_bytes)
        memcpy(<char*> row + 16, b"other", 5)
        store(row, 1)
        return NAMES - 1

    def counts(self):
        cdef int i, w, n
        cdef char* row
        cdef Cell* cells
        cdef uint64_t admitted, refused, evictions, errors
        rows = []
        for i in range(NAMES):
            row = self.names + i * self.name_bytes
            if load(<uint64_t*> row) == 0:
                continue
            n = 0
            while n < NAME_TEXT and row[16 + n]:
                n += 1
            cells = <Cell*> (row + 16 + NAME_TEXT)
            admitted = refused = evictions = errors = 0
            for w in range(self.workers):
                admitted += cells[w].admitted
                refused += cells[w].refused
                evictions += cells[w].evictions
                errors += cells[w].errors
            rows.append((row[16:16 + n].decode("utf-8", "replace"), admitted, refused, evictions, errors))
        return rows

    def live(self, int64_t now_ns):
        cdef uint64_t i, n = 0
        for i in range((self.line_mask + 1) * 4):
            if self.slots[2 * i] and self.slots[2 * i + 1] > <uint64_t> now_ns:
                n += 1
        return n

    def release(self, int worker):
        cdef uint64_t* head = <uint64_t*> self.base
        cdef uint64_t* row
        cdef uint32_t* cells
        cdef uint64_t i
        cdef long total = 0
        if not 0 <= worker < self.workers:
            raise IndexError(worker)
        if head[H_ROWS] == 0 or load(&head[H_HELD + worker]) == 0:
            return 0
        for i in range(self.row_mask + 1):
            row = <uint64_t*> (self.rows + <Py_ssize_t> i * self.row_bytes)
            cells = <uint32_t*> (row + 2)
            if cells[worker]:
                total += cells[worker]
                add32(&cells[worker], <uint32_t> 0 - cells[worker])
            cas(row + 1, <uint64_t> worker + 1, 0)
        store(&head[H_HELD + worker], 0)
        return total


cdef class Limit:
    def __init__(self, Table table not None, str name not None, str kind not None, burst, interval_ns=0, str window="", bytes identity=b"",
                 Table counters=None):
        cdef uint64_t parts[2]
        if counters is None:
            counters = table
        if kind not in KINDS or window not in WINDOWS or table.worker < 0 or counters.worker < 0:
            raise ValueError("no such kind or window, or a table of no worker")
        self.name = name
        self.kind = KINDS.index(kind)
        self.window = WINDOWS.index(window)
        if burst < 1 or (self.kind == RATE and (interval_ns < 1 or burst * interval_ns > MOST_NS)) or burst > COUNT_MASK:
            raise ValueError("a burst from 1, of ten years at most")
        if (self.kind == QUOTA) != (self.window != 0) or (self.kind == CONCURRENCY and (<uint64_t*> table.base)[H_ROWS] == 0):
            raise ValueError("a window belongs to a quota, permits to a table of permits")
        self.burst = burst
        self.interval = interval_ns if self.kind == RATE else 0
        self.tau = <int64_t> (self.burst * self.interval)
        self.table = table
        self.store = None
        identity = identity or name.encode().ljust(16, b"\0")[:16]
        self.counters = counters
        self.number = counters.number_of(identity, name)
        memcpy(parts, PyBytes_AS_STRING(identity), 16)
        self.k0 = table.k0 ^ parts[0]
        self.k1 = table.k1 ^ parts[1]
        self.counts = counters.cell(self.number)

    # -------------------------------------------------------------------------------------------- for Python

    @property
    def last(self):
        return self.remaining, self.retry_ns, self.reset_ns

    def hash_key(self, bytes key not None):
        return self.hash(PyBytes_AS_STRING(key), PyBytes_GET_SIZE(key))

    def spend(self, bytes key not None, uint64_t cost=1):
        return self.take(self.hash(PyBytes_AS_STRING(key), PyBytes_GET_SIZE(key)), cost, clock(CLOCK_MONOTONIC), clock(CLOCK_REALTIME)) == 1

    def spend_at(self, bytes key not None, uint64_t cost, int64_t now_ns, int64_t wall_ns):
        return self.take(self.hash(PyBytes_AS_STRING(key), PyBytes_GET_SIZE(key)), cost, now_ns, wall_ns) == 1

    def return_permit(self, bytes key not None):
        self.give_back(self.hash(PyBytes_AS_STRING(key), PyBytes_GET_SIZE(key)))

    def refund(self, bytes key not None, uint64_t cost, int64_t now_ns):
        cdef uint64_t hashed = self.hash(PyBytes_AS_STRING(key), PyBytes_GET_SIZE(key))
        cdef uint64_t* at = NULL
        cdef uint64_t f = 0, w = 0, back = min(cost, self.burst) * self.interval
        cdef int tries = 0
        while self.kind == RATE and tries < TRIES and self._locate(hashed, <uint64_t> now_ns, 0, &at, &f, &w) == 1 and w > <uint64_t> now_ns:
            if cas16(at, f, w, f, w - back if w - back < w else 0):
                return
            tries += 1

    def count_error(self):
        self.counts.errors += 1

    # ---------------------------------------------------------------------------------------------- data path

    cdef uint64_t hash(self, const char* key, Py_ssize_t n) noexcept:
        cdef uint64_t h = sip13(key, n, self.k0, self.k1)
        return h if h else 1

    cdef int take(self, uint64_t key, uint64_t cost, int64_t now_ns, int64_t wall_ns) noexcept:
        cdef int done
        cdef int64_t again = -1
        if cost > self.burst:
            cost = self.burst
        if self.store is not None and self.kind != CONCURRENCY:
            again = self._ask(key, cost, now_ns)
        if self.kind == RATE:
            done = self._rate(key, cost, now_ns)
        elif self.kind == QUOTA:
            done = self._quota(key, cost, wall_ns)
        else:
            done = self._permit(key)
        if again >= 0:
            # The machines together decide; this one's own books only go along, for when it is alone.
            done = again == 0
            self.retry_ns = again
            if again > self.reset_ns:
                self.reset_ns = again
            if not done:
                self.remaining = 0
        if done:
            self.counts.admitted += 1
        else:
            self.counts.refused += 1
        return done

    cdef int64_t _ask(self, uint64_t key, uint64_t cost, int64_t now_ns) noexcept:
        try:
            return self.store(self, key, cost, now_ns)
        except Exception:
            self.counts.errors += 1
            return -1

    cdef int _locate(self, uint64_t key, uint64_t now, int64_t wall_ns, uint64_t** at, uint64_t* fingerprint, uint64_t* word) noexcept:
        # 1: there it is; 0: there it may be put; -1: there it may be put at somebody's expense.
        cdef uint64_t a = key & self.table.line_mask
        cdef uint64_t b = ((key >> 32) * <uint64_t> 0x9E3779B97F4A7C15 >> 24) & self.table.line_mask
        cdef uint64_t* lines[2]
        cdef uint64_t* p
        cdef uint64_t* place[2]
        cdef uint64_t f, w, score, least = <uint64_t> -1
        cdef uint64_t seen[4]
        cdef uint64_t* victim = NULL
        cdef int free[2]
        cdef int i, j, dead
        if b == a:
            b = a ^ 1
        lines[0] = self.table.slots + a * LINE
        lines[1] = self.table.slots + b * LINE
        place[0] = place[1] = NULL
        free[0] = free[1] = 0
        for i in range(2):
            for j in range(4):
                p = lines[i] + 2 * j
                f = load(p)
                w = load(p + 1)
                if f == key:
                    at[0] = p
                    fingerprint[0] = f
                    word[0] = w
                    return 1
                if self.kind == RATE:
                    dead = f == 0 or w <= now
                    score = w
                else:
                    dead = f == 0 or (w >> COUNT_BITS & NUMBER_MASK) < number_at(<int> (w >> 62), wall_ns)
                    score = w & COUNT_MASK
                if dead:
                    free[i] += 1
                    if place[i] == NULL:
                        place[i] = p
                        seen[2 * i] = f
                        seen[2 * i + 1] = w
                elif score < least:
                    least = score
                    victim = p
                    fingerprint[0] = f
                    word[0] = w
        if free[0] or free[1]:
            # The emptier line takes it: so both stay roomy.
            i = 0 if free[0] >= free[1] else 1
            at[0] = place[i]
            fingerprint[0] = seen[2 * i]
            word[0] = seen[2 * i + 1]
            return 0
        at[0] = victim
        return -1

    cdef void _settle(self, uint64_t key, uint64_t now) noexcept:
        # Another process may have inserted the same key in another slot: the lowest takes all debts.
        cdef uint64_t a = key & self.table.line_mask
        cdef uint64_t b = ((key >> 32) * <uint64_t> 0x9E3779B97F4A7C15 >> 24) & self.table.line_mask
        cdef uint64_t* p
        cdef uint64_t* first = NULL
        cdef uint64_t w, t, debt
        cdef int i, tries
        if b == a:
            b = a ^ 1
        for i in range(8):
            p = self.table.slots + (a if i < 4 else b) * LINE + 2 * (i & 3)
            if load(p) != key:
                continue
            if first == NULL:
                first = p
                continue
            w = load(p + 1)
            if not cas16(p, key, w, 0, 0):
                continue
            if self.kind == RATE:
                debt = w - now if w > now else 0
            else:
                debt = w & COUNT_MASK
            tries = 0
            while debt and tries < TRIES and load(first) == key:
                t = load(first + 1)
                w = (t if t > now or self.kind != RATE else now) + debt
                if cas16(first, key, t, key, w):
                    break
                tries += 1

    cdef int _rate(self, uint64_t key, uint64_t cost, int64_t now_ns) noexcept:
        cdef uint64_t now = <uint64_t> now_ns
        cdef uint64_t charge = cost * self.interval
        cdef uint64_t f = 0, w = 0, tat
        cdef uint64_t* at = NULL
        cdef int found, tries = 0
        cdef int64_t ahead
        while tries < TRIES:
            found = self._locate(key, now, 0, &at, &f, &w)
            tat = w if found == 1 and w > now else now
            ahead = <int64_t> (tat - now)
            if ahead + <int64_t> charge > self.tau:
                self.remaining = <uint64_t> (self.tau - ahead) // self.interval if ahead < self.tau else 0
                self.retry_ns = ahead + <int64_t> charge - self.tau
                self.reset_ns = ahead
                return 0
            if (cost == 0 and found != 1) or cas16(at, f, w, key, tat + charge):
                if found != 1 and cost:
                    if found < 0:
                        self.counts.evictions += 1
                    self._settle(key, now)
                ahead += <int64_t> charge
                self.remaining = <uint64_t> (self.tau - ahead) // self.interval
                self.retry_ns = 0
                self.reset_ns = ahead
                return 1
            tries += 1
        self.counts.errors += 1
        self.remaining = 0
        self.retry_ns = 0
        self.reset_ns = 0
        return 1

    cdef void _turn(self, int64_t wall_ns) noexcept:
        # Which window it is, and from when to when.
        cdef int64_t year = 0
        cdef int month
        self.window_number = number_at(self.window, wall_ns)
        if self.window == MONTH:
            month = month_of(wall_ns // DAY_NS, &year)
            self.window_from = day_of(year, month) * DAY_NS
            self.window_to = day_of(year, month + 1) * DAY_NS
        else:
            self.window_to = HOUR_NS if self.window == HOUR else DAY_NS
            self.window_from = wall_ns // self.window_to * self.window_to
            self.window_to += self.window_from

    cdef int _quota(self, uint64_t key, uint64_t cost, int64_t wall_ns) noexcept:
        cdef uint64_t f = 0, w = 0, count, number
        cdef uint64_t* at = NULL
        cdef int found, tries = 0
        if not self.window_from <= wall_ns < self.window_to:
            self._turn(wall_ns)
        self.reset_ns = self.window_to - wall_ns
        while tries < TRIES:
            found = self._locate(key, 0, wall_ns, &at, &f, &w)
            number = w >> COUNT_BITS & NUMBER_MASK
            if found == 1 and (number == self.window_number or number == self.window_number + 1):
                # The next window's number: a clock that was set back grants nothing anew.
                count = w & COUNT_MASK
            else:
                count = 0
                number = self.window_number
            if count + cost > self.burst:
                self.remaining = self.burst - count if count < self.burst else 0
                self.retry_ns = self.reset_ns
                return 0
            if (cost == 0 and found != 1) or cas16(at, f, w, key, <uint64_t> self.window << 62 | number << COUNT_BITS | (count + cost)):
                if found != 1 and cost:
                    if found < 0:
                        self.counts.evictions += 1
                    self._settle(key, 0)
                self.remaining = self.burst - count - cost
                self.retry_ns = 0
                return 1
            tries += 1
        self.counts.errors += 1
        self.remaining = 0
        self.retry_ns = 0
        return 1

    # ---------------------------------------------------------------------------------------------- permits

    cdef uint64_t* _row(self, uint64_t key, int i) noexcept:
        # The i-th of the eight rows that a key may have: two groups of four.
        cdef uint64_t group = key if i < 4 else (key >> 32) * <uint64_t> 0x9E3779B97F4A7C15 >> 24
        return <uint64_t*> (self.table.rows + <Py_ssize_t> (((group << 2) | <uint64_t> (i & 3)) & self.table.row_mask) * self.table.row_bytes)

    cdef int _empty(self, uint64_t* row) noexcept:
        cdef uint32_t* cells = <uint32_t*> (row + 2)
        cdef int w
        for w in range(self.table.workers):
            if load32(&cells[w]):
                return 0
        return 1

    cdef uint64_t* _claim(self, uint64_t key) noexcept:
        # A row without permits for a key that has none. Whoever holds the claim alone may rename it; the holders of permits
        # look at name and claim after they have counted themselves.
        cdef uint64_t* row
        cdef int i
        for i in range(8):
            row = self._row(key, i)
            if load(row + 1) == 0 and self._empty(row) and cas(row + 1, 0, <uint64_t> self.table.worker + 1):
                if self._empty(row):
                    store(row, key)
                    store(row + 1, 0)
                    return row
                store(row + 1, 0)
        return NULL

    cdef int _permit(self, uint64_t key) noexcept:
        cdef uint64_t* head = <uint64_t*> self.table.base
        cdef uint64_t* row
        cdef uint64_t* other
        cdef uint32_t* mine
        cdef uint64_t total
        cdef int i, w, tries = 0
        head[H_HELD + self.table.worker] = 1
        self.retry_ns = 0
        self.reset_ns = 0
        while tries < 16:
            tries += 1
            row = NULL
            for i in range(8):
                other = self._row(key, i)
                if load(other) == key and load(other + 1) == 0:
                    row = other
                    break
            if row == NULL:
                row = self._claim(key)
                if row == NULL:
                    break
            mine = <uint32_t*> (row + 2) + self.table.worker
            add32(mine, 1)
            if load(row) != key or load(row + 1) != 0:
                add32(mine, <uint32_t> -1)
                continue
            total = 0
            for i in range(8):
                other = self._row(key, i)
                if load(other) == key and (i < 4 or self._row(key, i - 4) != other):
                    for w in range(self.table.workers):
                        total += load32(<uint32_t*> (other + 2) + w)
            if total > self.burst:
                add32(mine, <uint32_t> -1)
                self.remaining = 0
                self.retry_ns = AGAIN_NS
                return 0
            self.remaining = self.burst - total
            return 1
        # No row: more keys at the same time than the table has room for. It passes uncounted.
        self.counts.evictions += 1
        self.remaining = 0
        return 1

    cdef void give_back(self, uint64_t key) noexcept:
        cdef uint64_t* row
        cdef uint32_t* mine
        cdef int i
        if self.kind != CONCURRENCY:
            return
        for i in range(8):
            row = self._row(key, i)
            mine = <uint32_t*> (row + 2) + self.table.worker
            if load(row) == key and mine[0]:
                add32(mine, <uint32_t> -1)
                return

    cpdef bytes lines(self):
        cdef char text[192]
        cdef char* out = text
        memcpy(out, b"x-ratelimit-limit: ", 19)
        out = digits(out + 19, self.burst)
        memcpy(out, b"\r\nx-ratelimit-remaining: ", 25)
        out = digits(out + 25, self.remaining)
        memcpy(out, b"\r\nx-ratelimit-reset: ", 21)
        out = digits(out + 21, seconds(self.reset_ns))
        if self.retry_ns > 0:
            memcpy(out, b"\r\nretry-after: ", 15)
            out = digits(out + 15, seconds(self.retry_ns))
        memcpy(out, b"\r\n", 2)
        return PyBytes_FromStringAndSize(text, out + 2 - text)


cdef int64_t clock(int which) noexcept:
    cdef timespec t
    clock_gettime(which, &t)
    return <int64_t> t.tv_sec * 1000000000 + t.tv_nsec


cdef inline char* digits(char* out, uint64_t number) noexcept:
    cdef char text[20]
    cdef int n = 20
    while True:
        n -= 1
        text[n] = <char> (48 + number % 10)
        number //= 10
        if number == 0:
            break
    memcpy(out, text + n, 20 - n)
    return out + 20 - n


cdef inline uint64_t seconds(int64_t ns) noexcept:
    return <uint64_t> ((ns + 999999999) // 1000000000) if ns > 0 else 0
