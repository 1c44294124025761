# TLS over octets in memory: what came from the peer goes in, what is to be sent comes out. No socket, no timer.

from agw._fast.router cimport HostTable

cdef enum:
    # Tls.state; what is above T_OPEN has ended
    T_HELLO = 0         # server: the ClientHello is not whole yet
    T_SHAKING
    T_OPEN
    T_CLOSED            # the peer sent close_notify; we may still write
    T_BROKEN            # `problem` says why
    T_PLAIN             # server: the first octet is a letter, so this is no TLS (most likely HTTP)

cdef enum:
    PIECE = 16384       # plaintext of the largest record, and what is fed at once

cdef class ServerTls:
    cdef readonly list contexts         # ssl.SSLContext
    cdef readonly list demands          # per context: what clients must prove; equal values, equal demands
    cdef readonly list context_of       # per listener of the bind: index into contexts
    cdef HostTable names                # host name -> listener
    cdef int choose(self, bytes name) except -2
    cdef Tls accept(self)

cdef class ClientTls:
    cdef readonly object context
    cdef readonly str server_name
    cdef readonly frozenset names       # alternative names that will do as well as server_name; None: the context looks for that one
    cdef Tls connect(self)

cdef class Tls:
    cdef object ssl
    cdef object inbio, outbio
    cdef readonly int state
    cdef readonly object problem
    cdef frozenset names                # what the certificate must bear one of; None: the context has looked
    cdef bint more                      # something that was fed may not be decrypted yet
    cdef bint said_bye
    cdef ServerTls server               # whose contexts `index` means; None on the client's side
    cdef int index                      # -1: what the bind demands has changed since the handshake
    cdef object demand                  # what this client had to prove
    cdef bytes name                     # what the client called us, lower case; b"" when it did not
    cdef bytes hello

    cdef Py_ssize_t decrypt(self, const char* raw, size_t n, char* p, size_t room) noexcept
    cdef bytes encrypt(self, const char* p, size_t n)
    cdef bytes output(self)
    cdef bint begun(self) noexcept
    cdef void bye(self) noexcept
    cdef int feed(self, const char* raw, size_t n) except -1

cdef bint may_serve(ServerTls have, Tls used, int listener) except -1
