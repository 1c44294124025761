"""TLS over octets in memory: what came from the peer goes in, what is to be sent comes out. No socket, no timer.

Rules:
- OpenSSL is driven through Python's `ssl` over two memory BIOs, so that the reactor keeps its epoll set, its queues and
  their bounds; the C API of OpenSSL would need headers that a fresh machine has not;
- nothing larger than one record (16 KiB) is put into a BIO at once, because a BIO never gives back what it grew to;
- a connection that cannot go on is a state with a reason, never an exception;
- a server's context is chosen by the name in the ClientHello, before OpenSSL sees any of it: version and client
  certificate are then those of the right listener from the first octet on;
- until the ClientHello is whole a connection costs its octets and no OpenSSL object.

The price, per message of 500 octets and direction (Python 3.11, OpenSSL 3.0): 2 us more than a plain one.
"""

import ssl
from collections.abc import Hashable, Iterable
from typing import Any

from typing_extensions import disjoint_base

def hello_name(data: bytes) -> bytes | None:
    """The host name a TLS client asks for, lower case, from the first octets it sent.

    None: more octets are needed. b"": it names none, or this is no ClientHello (OpenSSL will say so).
    Bounds: 16 KiB, 8 records. Source: RFC 8446 section 4.1.2, RFC 6066 section 3.
    """

@disjoint_base
class ServerTls:
    """TLS of one bind: the contexts of its listeners, and which name gets which. C methods: `accept()`, `choose(name)`."""

    def __init__(self, contexts: list[ssl.SSLContext], demands: list[Hashable], listeners: list[tuple[str, int]]) -> None:
        """`listeners`, in the bind's order: (hostname as in ListenerPlan, index of its context). `demands`, per context:
        what clients had to prove; after a reload connections go on only where it is the same. The first context is for
        clients that name no host, or one no listener has. Errors: ValueError when the lists do not fit together."""

    def context_for(self, name: str) -> ssl.SSLContext:
        """The context of a client that names this host."""

    @property
    def contexts(self) -> list[ssl.SSLContext]:
        """The different ones."""

    @property
    def demands(self) -> list[Hashable]:
        """See the constructor."""

    @property
    def context_of(self) -> list[int]:
        """Per listener of the bind, an index into `contexts`."""

@disjoint_base
class ClientTls:
    """TLS towards one cluster. C method: `connect()`."""

    def __init__(self, context: ssl.SSLContext, server_name: str, names: Iterable[str] = ()) -> None:
        """`server_name` is sent as SNI unless it is an IP address, and checked if the context does so; "" is neither.

        `names`: further alternative names (DNS, IP address, URI) of which the certificate may bear one instead; the context then
        leaves the name to us.
        """

    @property
    def names(self) -> frozenset[str] | None:
        """All that are accepted; None when the context looks for `server_name`."""

    @property
    def context(self) -> ssl.SSLContext: ...
    @property
    def server_name(self) -> str: ...

@disjoint_base
class Tls:
    """One connection. Made by `ServerTls.accept` and `ClientTls.connect` only.

    C methods (tls.pxd): `decrypt(raw, n, p, room)`, `encrypt(p, n)`, `output()`, `bye()`, `begun()`.
    """

    @property
    def state(self) -> int:
        """A T_ number of tls.pxd: hello, shaking, open, closed, broken, plain."""

    def certificate(self) -> bytes | None:
        """The peer's certificate (DER), once the handshake has verified it; None while it has not, and for a peer that showed none.

        A resumed session has the certificate of its first handshake. Not kept: a caller that asks often remembers it."""

    @property
    def problem(self) -> str | None:
        """Why it is broken, in words."""

def plain_name(name: str) -> str:
    """A name as certificates' names are compared: host names in lower case, addresses in their one form, URIs as they are."""

def bears(certificate: Any, names: frozenset[str]) -> bool:
    """Does a certificate (`SSLSocket.getpeercert`) bear one of the names? A wildcard stands for one whole leftmost label (RFC 9525)."""
