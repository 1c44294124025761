"""The client's side of the data path: accept, read, frame, and hand requests to exchanges one after another.

Rules:
- one request at a time per connection; what a client sends ahead waits, bounded, here and in the kernel;
- the common case copies nothing: head and body are read where recv() put them;
- after a framing error: one answer, then the connection ends, and not one further octet is parsed;
- every wait has a timer: TLS handshake, first octet, head, body progress, write progress, idle, linger;
- a TLS connection that is refused before its handshake hears an alert, one that speaks plain HTTP a 400, and one too
  many nothing: it is closed;
- out of descriptors: one client is told with 503, then accepting pauses until the tick.
"""

from typing_extensions import disjoint_base

from agw._fast.exchange import Context, Downlink
from agw._fast.policy import Bind
from agw._fast.reactor import Handler

@disjoint_base
class Acceptor(Handler):
    """One listening socket of one worker, and the connections that came through it.

    Owner:  takes the descriptor; `stop_accepting` closes it.
    """

    def __init__(self, ctx: Context, fd: int, bind: Bind) -> None:
        """`fd`: a listening, non-blocking stream socket. TCP is for clients; unix is for hops from other workers
        (agw.worker.hop): only processes of our own user get in, and their `agw-peer` says who the client is."""

    @property
    def bind(self) -> Bind:
        """The bind of the current snapshot."""

    @property
    def paused(self) -> bool:
        """Is accepting paused for want of descriptors?"""

    @property
    def retired(self) -> bool:
        """Has `drain` been called?"""

    def start(self) -> None:
        """Begin to accept. Errors: OSError from epoll_ctl."""

    def switch(self, bind: Bind) -> None:
        """A new snapshot: the next request of every connection sees it."""

    def connection_count(self) -> int:
        """Connections that are open, whatever they do."""

    def set_paused(self, paused: bool) -> None:
        """Stop or resume accepting without giving up the descriptor."""

    def shut_door(self) -> None:
        """Nobody new gets into the kernel's queue; who is half in still completes. Errors: OSError."""

    def take_waiting(self) -> None:
        """Accept everything that is queued, now."""

    def stop_accepting(self) -> None:
        """Close the descriptor; connections go on."""

    def drain(self) -> None:
        """Every connection closes after its current or next answer; idle ones have one second. A second call does nothing."""

    def cut(self) -> int:
        """The drain time is over: close every connection at once; returns how many there were."""

@disjoint_base
class Downstream(Downlink):
    """One client connection: reading a head, streaming or collecting a body, answering, tunnelling, lingering. Made by an
    Acceptor only."""
