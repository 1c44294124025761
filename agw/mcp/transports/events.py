"""What streamable HTTP and HTTP+SSE read in the same way: the messages of event streams, and refusals.

Rules:
- a message is the data of an event of type `message`; other types are for whoever asked for the raw events;
- data that is an array holds several messages (MCP 2025-03-26);
- what is needed to go on after a loss (`last_id`, `retry_ms`) is remembered across the connections of one stream.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from agw._fast.sse import Event, EventReader
from agw.mcp.message import MessageError, failure, members, parse, split_batch
from agw.mcp.transport import Headers, Reply, TransportError
from agw.runtime.origin import Stream

MIN_RETRY_S = 0.1
MAX_RETRY_S = 30.0
DEFAULT_RETRY_S = 1.0
MAX_ID_BYTES = 1024
"""An event id longer than this is not sent back."""

_SENDABLE = re.compile(rb"[\x21-\x7e\x80-\xff]+(?:[ \t]+[\x21-\x7e\x80-\xff]+)*")
_DROPPED = (b"content-type", b"accept", b"last-event-id", b"mcp-method", b"mcp-name")


class Position:
    """Where a stream stands, whichever connection carries it."""

    def __init__(self) -> None:
        self.last_id = b""
        self.retry_ms: int | None = None

    def note(self, event: Event) -> bool:
        """Remember an event's id and retry. True when the stream got further by it."""
        _, data, ident, retry = event
        if retry is not None:
            self.retry_ms = retry
        if ident is not None and ident != self.last_id:
            self.last_id = ident
            return True
        return bool(data)

    @property
    def resumable(self) -> bool:
        """Is there an id that a header field can carry?"""
        return 0 < len(self.last_id) <= MAX_ID_BYTES and _SENDABLE.fullmatch(self.last_id) is not None

    @property
    def retry_s(self) -> float:
        """The wait before the next connection: what the target asked for, within bounds."""
        return DEFAULT_RETRY_S if self.retry_ms is None else min(max(self.retry_ms / 1000, MIN_RETRY_S), MAX_RETRY_S)

    def headers(self, given: Headers) -> list[tuple[bytes, bytes]]:
        """The header fields of a GET that opens or resumes the stream: what identifies the caller, not what described a message."""
        kept = [(name, value) for name, value in given if name.lower() not in _DROPPED and not name.lower().startswith(b"mcp-param-")]
        kept.append((b"Accept", b"text/event-stream"))
        if self.resumable:
            kept.append((b"Last-Event-ID", self.last_id))
        return kept


class Events:
    """The events of one connection of a stream.

    An event above the bound goes to `on_dropped`, as a TransportError of kind `limit`; by default it is raised.
    """

    def __init__(self, stream: Stream, max_event_bytes: int, on_dropped: Callable[[TransportError], None] | None = None) -> None:
        self._stream = stream
        self._reader = EventReader(max_event_bytes)
        self._on_dropped = on_dropped
        self._dropped = 0

    async def next(self) -> list[Event] | None:
        """What came next, at least one event; None at the end. Errors: TransportError."""
        while True:
            data = await self._stream.read()
            if not data:
                return None
            events = self._reader.feed(data)
            if self._reader.dropped != self._dropped:
                self._dropped = self._reader.dropped
                error = TransportError("limit", "an event is larger than allowed")
                if self._on_dropped is None:
                    raise error
                self._on_dropped(error)
            if events:
                return events


def answers(raw: bytes, ident: bytes) -> bool:
    """Is it the response with this raw id, or an error for a request whose id the target could not read?

    Errors: MessageError.
    """
    found = parse(raw)
    return found.kind == "response" and (found.ident == ident or (found.ident == b"null" and found.error is not None))


async def refused(stream: Stream, ident: bytes) -> Reply:
    """What a status that says no means: the JSON-RPC error in its body, for this id or for none; else TransportError `status`."""
    error = await stream.refusal()
    found = members(error.body)
    if "error" in found and "jsonrpc" in found:
        theirs = bytes(found["id"]) if "id" in found else None
        if theirs is None:
            return Reply(failure(None, bytes(found["error"])), stream.status, stream.headers)
        if theirs in (ident, b"null"):
            return Reply(error.body, stream.status, stream.headers)
    raise error


def messages(event: Event) -> list[bytes]:
    """The messages of an event; none when it is of another type or has no data. Errors: TransportError for a broken array."""
    kind, data, _, _ = event
    if kind != b"message" or not data:
        return []
    try:
        return split_batch(data)
    except MessageError:
        raise TransportError("protocol", "an event holds no JSON") from None
