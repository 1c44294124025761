# See process.pyi for the manual. What a process needs from the kernel and Python does not offer.

from libc.errno cimport errno

cdef extern from "sys/prctl.h" nogil:
    cdef enum:
        PR_SET_PDEATHSIG
        PR_SET_NAME
    int prctl(int option, unsigned long a, unsigned long b, unsigned long c, unsigned long d)

cdef extern from "linux/filter.h" nogil:
    struct sock_filter:
        unsigned short code
        unsigned char jt
        unsigned char jf
        unsigned int k
    struct sock_fprog:
        unsigned short len
        sock_filter* filter

cdef extern from "sys/socket.h" nogil:
    cdef enum:
        SOL_SOCKET
        SO_ATTACH_FILTER
    int setsockopt(int fd, int level, int name, const void* value, unsigned int n)


def set_name(bytes name not None):
    cdef char* p = name
    prctl(PR_SET_NAME, <unsigned long> p, 0, 0, 0)


def set_parent_death_signal(int signal):
    if prctl(PR_SET_PDEATHSIG, <unsigned long> signal, 0, 0, 0) < 0:
        raise OSError(errno, "prctl(PR_SET_PDEATHSIG)")


cdef void statement(sock_filter* f, int code, int jt, int jf, unsigned int k) noexcept:
    f.code = code
    f.jt = jt
    f.jf = jf
    f.k = k


def refuse_new_connections(int fd):
    # Classic BPF over the TCP header: a segment with SYN and without ACK is dropped, everything else passes. What is
    # half open still completes and can be accepted; nobody new gets in between the last accept() and close().
    cdef sock_filter code[5]
    cdef sock_fprog program
    statement(&code[0], 0x30, 0, 0, 13)             # A = TCP flags
    statement(&code[1], 0x54, 0, 0, 0x12)           # A &= SYN | ACK
    statement(&code[2], 0x15, 0, 1, 0x02)           # only SYN?
    statement(&code[3], 0x06, 0, 0, 0)              # drop
    statement(&code[4], 0x06, 0, 0, 0xFFFFFFFF)     # pass
    program.len = 5
    program.filter = code
    if setsockopt(fd, SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof(sock_fprog)) < 0:
        raise OSError(errno, "setsockopt(SO_ATTACH_FILTER)")
