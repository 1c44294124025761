# SipHash-1-3 (Aumasson, Bernstein): a keyed hash of octets from outside, for tables inside. Whoever does not know the key cannot make
# two texts meet. Little-endian machines only, like the rest of the shared memory.

from libc.stdint cimport uint64_t

cdef extern from *:
    """
    #include <stdint.h>
    #include <string.h>

    #define AGW_ROTL(x, b) (((x) << (b)) | ((x) >> (64 - (b))))
    #define AGW_ROUND v0 += v1; v1 = AGW_ROTL(v1, 13); v1 ^= v0; v0 = AGW_ROTL(v0, 32); v2 += v3; v3 = AGW_ROTL(v3, 16); v3 ^= v2; \\
        v0 += v3; v3 = AGW_ROTL(v3, 21); v3 ^= v0; v2 += v1; v1 = AGW_ROTL(v1, 17); v1 ^= v2; v2 = AGW_ROTL(v2, 32);

    static inline uint64_t agw_sip13(const char *p, size_t n, uint64_t k0, uint64_t k1) {
        uint64_t v0 = k0 ^ 0x736f6d6570736575ULL, v1 = k1 ^ 0x646f72616e646f6dULL;
        uint64_t v2 = k0 ^ 0x6c7967656e657261ULL, v3 = k1 ^ 0x7465646279746573ULL;
        uint64_t m, b = (uint64_t) n << 56;
        for (; n >= 8; n -= 8, p += 8) { memcpy(&m, p, 8); v3 ^= m; AGW_ROUND v0 ^= m; }
        m = 0; memcpy(&m, p, n); b |= m;
        v3 ^= b; AGW_ROUND v0 ^= b; v2 ^= 0xff;
        AGW_ROUND AGW_ROUND AGW_ROUND
        return v0 ^ v1 ^ v2 ^ v3;
    }
    """
    uint64_t sip13 "agw_sip13"(const char* p, size_t n, uint64_t k0, uint64_t k1) noexcept nogil
