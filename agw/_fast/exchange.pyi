"""One request and its response: match, admit, message, dispatch, respond, relay, finish. exchange.pyx is read in that order.

Rules:
- it runs synchronously until something must be waited for, and goes on from a callback: no task, no coroutine;
- head offsets are valid during one step only; what must outlive it is copied into a buffer of the exchange;
- a request is sent a second time only when nothing of it can have been processed;
- a response that breaks off ends visibly broken: no last chunk, no invented body, connection closed;
- an exchange keeps the route it began with, whatever is reloaded meanwhile.
"""

from collections.abc import Callable
from typing import Self

from typing_extensions import disjoint_base

from agw._fast.accesslog import AccessLog
from agw._fast.arena import Slot
from agw._fast.policy import Http
from agw._fast.pool import Client
from agw._fast.reactor import Reactor
from agw._fast.stream import Stream

@disjoint_base
class Context:
    """What all exchanges of a worker share: scratch memory, counters, log, free list. One per worker.

    C methods (exchange.pxd): `take_exchange()`, `random()`, `detach_head(shared)`.
    """

    def __init__(self, reactor: Reactor, slot: Slot, log: AccessLog, seed: int) -> None:
        """`seed`: 64 bits for the weighted choice of backends; spread matters, secrecy does not."""

    admits: Callable[[bytes, int], bool] | None
    """(address, port) of every new client connection: may it be made? None: all may. One that raises lets nobody in."""
    @property
    def reactor(self) -> Reactor: ...
    @property
    def slot(self) -> Slot: ...
    @property
    def log(self) -> AccessLog: ...
    @property
    def draining(self) -> bool:
        """Has `drain` been called?"""

    def adopt(self, http: Http) -> None:
        """A new snapshot: make the scratch head large enough for its header limit."""

    def refresh_date(self) -> None:
        """Renew the Date line of own answers; called by the worker's tick, at least once a second."""

    def drain(self) -> None:
        """From now on every response closes its connection."""

    def trim(self) -> None:
        """Give back what a burst of requests left on the free list; called by the worker's tick."""

@disjoint_base
class Downlink(Stream):
    """What an exchange knows of the client's connection; Downstream implements it."""

@disjoint_base
class Exchange(Client):
    """One request and its response, taken from the context's free list and given back when it is finished.

    Owner:  the Downstream that began it; nobody may touch it after a call that may finish it.
    """

    def __new__(cls, ctx: Context) -> Self: ...
    def give_up(self) -> int:
        """See `calls.Flight`."""

    def end_flight(self) -> None:
        """The request is no longer under way in the data path."""

    def redirect_lines(self, location: bytes) -> bytes:
        """The header lines of a redirect."""
