"""A listening socket of one worker: accepts, says who may connect, and ends what came through it.

Rules:
- who may not connect, or is one too many, costs a look and no memory; over TLS the latter hears nothing: it is closed;
- out of descriptors: one client is told with 503, then accepting pauses until the tick.
"""

from typing_extensions import disjoint_base

from agw._fast.downstream import Entrance
from agw._fast.exchange import Context
from agw._fast.policy import Bind

@disjoint_base
class Acceptor(Entrance):
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
