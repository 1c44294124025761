"""Readiness and timers of the data path: one epoll set and one timer wheel per worker, inside a uvloop loop.

The loop polls `fileno()` like any other descriptor and calls `on_readable` for a whole batch; everything behind that
call is C. The loop's own timer calls `tick` about every 100 ms.

Rules:
- descriptors are registered once, edge-triggered, for both directions; `unregister` closes them;
- the clock is read once per batch (`now`, `wall`); nobody below reads it;
- a handler that raises costs its own connection, is counted (`internal_errors_total`), reported once, and nothing else;
- timers fire up to 0.3 s late and never early.
"""

from collections.abc import Callable
from typing import Self

from typing_extensions import disjoint_base

from agw._fast.arena import Slot

@disjoint_base
class Handler:
    """Whoever owns a descriptor in the epoll set. Subclassed in Cython only; nothing of it is visible to Python.

    C methods (reactor.pxd): `on_events(events)`, `on_timer(timer)`, `on_deferred()` and `abort()`, which must end the
    handler's business at once because one of the others raised.
    Owner:  a registered handler is referenced by the reactor until it is unregistered; it embeds its timer.
    """

    def __new__(cls, *args: object, **kwargs: object) -> Self: ...

@disjoint_base
class Reactor:
    """One per worker process. Not shared between threads.

    C methods: `register(handler, events)`, `unregister(handler)` (closes the descriptor), `defer(handler)` (one
    `on_deferred` after the batch), `arm(timer, deadline_ns)`, `disarm(timer)`.
    """

    wake: Callable[[Callable[[], None]], object] | None
    """Called with `on_readable` when one turn's share is used up and work is left: the loop's `call_soon`."""

    def __new__(cls, slot: Slot, on_error: Callable[[BaseException], object]) -> Self:
        """`slot` takes the counters; `on_error` hears of every exception that a handler let escape.

        Errors: OSError when there is no descriptor for the epoll set.
        """

    @property
    def now(self) -> int:
        """CLOCK_MONOTONIC in ns, as of the current batch."""

    @property
    def wall(self) -> int:
        """CLOCK_REALTIME in ns, as of the current batch."""

    def fileno(self) -> int:
        """The epoll descriptor, to be polled for reading; closed with the reactor."""

    def on_readable(self) -> None:
        """Handle what is ready: at most 16 batches of 256 events, then what they deferred."""

    def tick(self) -> None:
        """Fire the timers that are due, then what was deferred."""

    def pause(self, handler: Handler, paused: bool) -> None:
        """Listeners only: take the handler's descriptor out of the set, or put it back."""

    def failed(self, handler: Handler, error: BaseException) -> None:
        """The error boundary: count, abort the handler, tell `on_error`. Called by the reactor itself."""
