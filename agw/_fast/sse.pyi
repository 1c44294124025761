"""Server-sent events: octets to events, and an event to octets. No I/O, no clock, nothing of MCP.

Rules:
- what is read depends on the octets only, never on how they were split;
- lines end with LF, CRLF or CR; one BOM at the start is skipped; comments and unknown fields are ignored;
- an event counts when its empty line has come: what the end of the stream cuts off was never said;
- octets are passed on as they are: whoever needs UTF-8 checks it (JSON does);
- an event with a line or data above the bound loses its data, is counted, and costs nothing else; comments are unbounded;
- what is written holds no line break inside a field, whatever it was given.

Source: WHATWG HTML section 9.2 (Server-sent events), "Parsing" and "Interpreting an event stream".
"""

from typing_extensions import disjoint_base

Event = tuple[bytes, bytes, bytes | None, int | None]
"""(event type, data, id field, retry in ms). The type is `message` when the event names none; id and retry are None unless
the event itself has such a field."""

@disjoint_base
class EventReader:
    """The events of one stream.

    Departure from the source: an event without data is reported when it has an id or a retry, since MCP 2025-11-25 primes
    a stream with such an event.
    """

    def __init__(self, max_event_bytes: int) -> None:
        """`max_event_bytes` bounds each line and the data of an event (line breaks included). Errors: ValueError unless positive."""

    def feed(self, data: bytes) -> list[Event]:
        """The events that are complete now."""

    @property
    def dropped(self) -> int:
        """Events so far that exceeded the bound, counted as soon as they do. Their id and retry still count, unless it was
        such a line that was too long."""

    @property
    def last_event_id(self) -> bytes:
        """The id to resume after: that of the last complete event that had one; empty when there is none."""

def frame(data: bytes, event: bytes = b"message", id: bytes | None = None, retry: int | None = None) -> bytes:
    """One event, ready to send. Line breaks in `data` (LF, CRLF, CR) become `data` lines of their own, read back as LF.

    `event` empty writes no event line, which means `message`.
    Units:  `retry` in ms.
    Errors: ValueError when `event` or `id` hold a line break, `id` a NUL, or `retry` is negative.
    """
