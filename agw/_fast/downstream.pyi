"""The client's side of the data path: read, frame, and hand requests to exchanges one after another.

Rules:
- one request at a time per connection; what a client sends ahead waits, bounded, here and in the kernel;
- the common case copies nothing: head and body are read where recv() put them;
- after a framing error: one answer, then the connection ends, and not one further octet is parsed;
- every wait has a timer: TLS handshake, first octet, head, body progress, write progress, idle, linger;
- a TLS connection that is refused before its handshake hears an alert, one that speaks plain HTTP a 400.
"""

from typing_extensions import disjoint_base

from agw._fast.exchange import Downlink
from agw._fast.reactor import Handler

@disjoint_base
class Entrance(Handler):
    """The socket a connection came through, as far as the connection cares: see `acceptor.Acceptor`."""

    @property
    def retired(self) -> bool:
        """Has `drain` been called?"""

@disjoint_base
class Downstream(Downlink):
    """One client connection: reading a head, streaming or collecting a body, answering, tunnelling, lingering. Made by an
    Acceptor only."""
