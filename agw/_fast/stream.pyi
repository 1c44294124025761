"""A non-blocking byte stream on the reactor, and the growable buffer it queues in. C only; nothing to call from Python.

Rules:
- a send is tried at once; only what the kernel does not take is copied into the queue. A large body of our own is not
  copied at all: the stream holds it until the kernel has it;
- the queue has no limit of its own: whoever produces stops at HIGH_WATER (128 KiB) and goes on at LOW_WATER (16 KiB);
- a broken connection is a return value, never an exception;
- with `tls` set, what goes in and out of these methods is plaintext, and the queue holds ciphertext: its bounds and the
  edges of epoll are those of the wire. Whatever was received is decrypted at once, so nothing waits where no edge tells;
- an empty buffer keeps at most one page, so that idle connections stay small.
"""

from typing_extensions import disjoint_base

from agw._fast.reactor import Handler

@disjoint_base
class Stream(Handler):
    """One connected socket: base of Upstream and Downlink.

    C methods (stream.pxd): `receive(p, n)`, `send(p, n)`, `send2(a, na, b, nb)` (two parts, one segment),
    `send_held(a, na, body, c, nc)` (the same with a body that is kept, not copied), `flush()`,
    `shut_write()` (FIN, behind what is still queued; with TLS, behind close_notify).
    Owner:  the descriptor belongs to the stream once it is registered; `Reactor.unregister` closes it.
    """
