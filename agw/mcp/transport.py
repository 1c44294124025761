"""The contract of transports: how whole JSON-RPC messages get to one target and back.

A transport frames and carries; it knows ids only to match a response with its request, and nothing of MCP's methods,
sessions or eras. `agw.mcp.peer` decides what is said; the four transports are in `agw.mcp.transports`.

Rules every transport keeps:
- `request` ends exactly once: with the response message of that id, or with a TransportError;
- messages the target sends on a request's own stream go to that request's `on_message`, in order, before it ends; whatever
  is not tied to a request (a GET stream; everything but responses on a shared channel) goes to `on_stray`;
- cancelling the awaiting task gives the request up: HTTP closes its connection, a shared channel forgets the id and
  swallows a late response. Saying so to the target is the caller's business;
- a message may hold line breaks; transports that cannot carry them use `message.one_line`;
- every buffer, queue and wait is bounded; one slow reader or broken message costs its own request only;
- the ids of requests in flight on one transport are unique: the caller sees to that.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple, Protocol

from agw.runtime.origin import Headers, TransportError

__all__ = ["Headers", "OnMessage", "Reply", "Transport", "TransportError"]


class Reply(NamedTuple):
    """What ended a request: the response message, and (HTTP only) the status and the headers it came with."""

    message: bytes
    status: int = 0
    headers: Headers = ()

    def header(self, name: bytes) -> bytes | None:
        """The first value of a received header; `name` in lower case."""
        for key, found in self.headers:
            if key == name:
                return found
        return None


OnMessage = Callable[[bytes], None]


class Transport(Protocol):
    """One way to one target. Used from the worker's event loop only."""

    kind: Literal["http", "sse", "stdio", "openapi"]
    on_stray: OnMessage
    """Set by the owner before the first request: gets messages that belong to no request."""
    on_down: Callable[[str], None]
    """Set by the owner: called when a channel (process, SSE stream, GET stream) ended by itself, with the reason."""

    async def request(
        self, message: bytes, ident: bytes, *, headers: Headers = (), on_message: OnMessage | None = None,
        on_gap: Callable[[int | None], None] | None = None, timeout_s: float = 60.0,
    ) -> Reply:
        """Send a request and wait for the response whose raw id is `ident`.

        Units:  `timeout_s` bounds the silence before the response; every message on the request's stream restarts it.
        `on_gap(retry_ms)`: the target closed the stream of an unfinished request on purpose (2025-11-25 polling); the
        transport goes on by itself with Last-Event-ID.
        Errors: TransportError.
        """
        ...

    async def send(self, message: bytes, *, headers: Headers = ()) -> None:
        """Send a notification or a response; returns when the target took it. Errors: TransportError."""
        ...

    async def listen(self, headers: Headers = ()) -> None:
        """Open the stream of unsolicited messages (HTTP GET) and keep it open, reconnecting, until `close`.

        Returns when it is open. A transport whose one channel carries everything returns at once.
        Errors: TransportError (`status` 405: the target has none, which is normal).
        """
        ...

    async def close(self, headers: Headers = ()) -> None:
        """End the conversation: DELETE with `headers` if they hold a session id, close streams, end the process."""
        ...
