"""Replay of event streams: what a client missed while its connection was down.

Every event of a resumable stream has an id of ours, `<origin><stream>-<sequence>`; a client that comes back with
Last-Event-ID gets what followed that id on the same stream, and nothing of any other. Sans I/O: no clock, no socket.

Rules:
- an id is unique in the session: streams are numbered by their store, events by their stream, and the origin tells apart
  the stores a session may have in several workers, one after another or at the same time;
- whatever is kept is bounded by count, octets and age, per session (`ReplayStore`) and over all sessions of a worker
  (`ReplayBudget`); the oldest event goes first, whoever has it;
- a gap is told (`Replay.complete`), never glossed over; ids that were never given out lead nowhere;
- sequence 0 is the priming event: an id before the first message, with empty data.

Units:  times in ns of one monotonic clock; sizes in octets of data.
Source: MCP 2025-11-25, "Resumability and Redelivery"; WHATWG HTML section 9.2 (event streams).
"""

from __future__ import annotations

import re
from collections import deque
from typing import NamedTuple

OVERHEAD = 256
"""Octets an event is taken to cost beside its data."""
_ID = re.compile(r"(?a:([A-Za-z0-9_.]{0,32}:)?([1-9]\d{0,14})-(0|[1-9]\d{0,14}))")
_ORIGIN = re.compile(r"[A-Za-z0-9_.]{0,32}")


class EventId(NamedTuple):
    """The parts of an event id."""

    origin: str
    stream: int
    sequence: int

    def __str__(self) -> str:
        return f"{self.origin}:{self.stream}-{self.sequence}" if self.origin else f"{self.stream}-{self.sequence}"


def event_id(text: str) -> EventId | None:
    """The parts of what a client sent as Last-Event-ID; None for what cannot be ours."""
    found = _ID.fullmatch(text) if len(text) <= 128 else None
    if found is None or found[1] == ":":
        return None
    return EventId((found[1] or "").removesuffix(":"), int(found[2]), int(found[3]))


def message_frame(ident: str, data: bytes) -> bytes:
    """One message as an event; `data` is JSON text without line breaks."""
    return b"id: %b\nevent: message\ndata: %b\n\n" % (ident.encode(), data)


def priming_frame(ident: str, retry_ms: int | None = None) -> bytes:
    """The event that gives a client an id before the first message; only for clients of 2025-11-25 and newer."""
    return b"id: %b\n%bdata: \n\n" % (ident.encode(), b"" if retry_ms is None else b"retry: %d\n" % retry_ms)


def retry_frame(retry_ms: int) -> bytes:
    """Tells the client how long to wait before it comes back; sent before a stream is closed on purpose."""
    return b"retry: %d\n\n" % retry_ms


class _Event:
    """One kept event; `data` None once it was dropped."""

    __slots__ = ("at_ns", "data", "sequence", "stream")

    def __init__(self, stream: ReplayStream, sequence: int, data: bytes, at_ns: int) -> None:
        self.stream = stream
        self.sequence = sequence
        self.data: bytes | None = data
        self.at_ns = at_ns


class _Ledger:
    """Events in the order they came, and the bounds they are held to."""

    def __init__(self, max_events: int, max_bytes: int) -> None:
        self.max_events = max_events
        self.max_bytes = max_bytes
        self.events = 0
        self.bytes = 0
        self._order: deque[_Event] = deque()

    def add(self, event: _Event) -> None:
        assert event.data is not None
        self._order.append(event)
        self.events += 1
        self.bytes += len(event.data) + OVERHEAD
        if len(self._order) > 2 * self.events + 64:
            # Events that another ledger dropped stay in line until it is mostly made of them.
            self._order = deque(e for e in self._order if e.data is not None)

    def forget(self, size: int) -> None:
        self.events -= 1
        self.bytes -= size + OVERHEAD

    def oldest(self) -> _Event | None:
        while self._order and self._order[0].data is None:
            self._order.popleft()
        return self._order[0] if self._order else None

    def enforce(self, older_than_ns: int | None = None) -> None:
        """Drop the oldest until the bounds are kept, and everything from before `older_than_ns`."""
        while (event := self.oldest()) is not None:
            late = older_than_ns is not None and event.at_ns < older_than_ns
            if not late and self.events <= self.max_events and self.bytes <= self.max_bytes:
                return
            event.stream._drop_first()


class ReplayBudget(_Ledger):
    """What all sessions of one worker may keep together."""

    def __init__(self, max_events: int = 200_000, max_bytes: int = 64 << 20) -> None:
        super().__init__(max_events, max_bytes)


class Replay(NamedTuple):
    """What to send to a client that came back: (event id, data) in order. `complete`: nothing in between is missing."""

    events: list[tuple[str, bytes]]
    complete: bool


class ReplayStream:
    """The events of one stream, by sequence without holes."""

    def __init__(self, store: ReplayStore, number: int) -> None:
        self.store = store
        self.number = number
        self.last = 0
        """Sequence of the youngest event; 0 before the first."""
        self.finished = False
        """Nothing follows any more; what is kept may still be asked for."""
        self._kept: deque[_Event] = deque()

    @property
    def priming_id(self) -> str:
        """The id before the first event."""
        return self._text(0)

    @property
    def last_id(self) -> str:
        """The id of the youngest event, or the priming id."""
        return self._text(self.last)

    def append(self, data: bytes, now_ns: int) -> str:
        """Keep one event, sent or not; returns its id. An event larger than all bounds gets an id and is not kept."""
        assert not self.finished, "an event after the end of its stream"
        self.last += 1
        if self.store.streams.get(self.number) is self:
            event = _Event(self, self.last, data, now_ns)
            self._kept.append(event)
            self.store._added(event, now_ns)
        return self._text(self.last)

    def after(self, sequence: int, now_ns: int) -> Replay | None:
        """What followed `sequence`; None for a sequence this stream never gave out."""
        if not 0 <= sequence <= self.last:
            return None
        self.store.expire(now_ns)
        events = [(self._text(e.sequence), e.data) for e in self._kept if e.sequence > sequence and e.data is not None]
        return Replay(events, len(events) == self.last - sequence)

    def finish(self) -> None:
        """The last event was appended."""
        self.finished = True
        self.store._tidy(self)

    def _text(self, sequence: int) -> str:
        return str(EventId(self.store.origin, self.number, sequence))

    def _drop_first(self) -> None:
        event = self._kept.popleft()
        assert event.data is not None
        size, event.data = len(event.data), None
        self.store._dropped(size)
        self.store._tidy(self)

    def _drop_all(self) -> None:
        while self._kept:
            self._drop_first()


class ReplayStore:
    """The streams of one session in one worker.

    origin: up to 32 letters, digits, `_` and `.`; tells this store's ids from those of any other store the session has or
    had (a worker's slot and the time it started, say). A router may read it back with `event_id`.
    Errors: ValueError for an origin of another form.
    """

    def __init__(
        self, *, origin: str = "", max_events: int = 256, max_bytes: int = 1 << 20, max_age_ns: int = 300_000_000_000, max_streams: int = 64,
        budget: ReplayBudget | None = None,
    ) -> None:
        if not _ORIGIN.fullmatch(origin):
            raise ValueError("an origin is made of at most 32 letters, digits, _ and .")
        self.origin = origin
        self.max_age_ns = max_age_ns
        self.max_streams = max_streams
        self.streams: dict[int, ReplayStream] = {}
        """By number, oldest first: those that run, and finished ones with events."""
        self._budget = budget
        self._ledger = _Ledger(max_events, max_bytes)
        self._next = 1

    @property
    def events(self) -> int:
        """Events kept now."""
        return self._ledger.events

    @property
    def bytes(self) -> int:
        """What they cost."""
        return self._ledger.bytes

    def open(self) -> ReplayStream:
        """A new stream. When there are too many, the oldest finished one is forgotten, else the oldest."""
        if len(self.streams) >= self.max_streams:
            victim = next((s for s in self.streams.values() if s.finished), next(iter(self.streams.values())))
            self._forget(victim)
        stream = self.streams[self._next] = ReplayStream(self, self._next)
        self._next += 1
        return stream

    def find(self, last_event_id: str) -> tuple[ReplayStream, int] | None:
        """The stream and sequence of an id, None when it is not of this store or its stream is forgotten."""
        found = event_id(last_event_id)
        if found is None or found.origin != self.origin:
            return None
        stream = self.streams.get(found.stream)
        if stream is None or found.sequence > stream.last:
            return None
        return stream, found.sequence

    def resume(self, last_event_id: str, now_ns: int) -> tuple[ReplayStream, Replay] | None:
        """The stream of an id and what followed; None as in `find`."""
        self.expire(now_ns)
        found = self.find(last_event_id)
        if found is None:
            return None
        stream, sequence = found
        replay = stream.after(sequence, now_ns)
        return None if replay is None else (stream, replay)

    def expire(self, now_ns: int) -> None:
        """Drop what is too old. Costs nothing when nothing is; call it now and then for sessions that are silent."""
        self._ledger.enforce(now_ns - self.max_age_ns)

    def close(self) -> None:
        """The session is over."""
        for stream in list(self.streams.values()):
            self._forget(stream)

    def _forget(self, stream: ReplayStream) -> None:
        self.streams.pop(stream.number, None)
        stream._drop_all()

    def _added(self, event: _Event, now_ns: int) -> None:
        self._ledger.add(event)
        if self._budget is not None:
            self._budget.add(event)
        self._ledger.enforce(now_ns - self.max_age_ns)
        if self._budget is not None:
            self._budget.enforce()

    def _dropped(self, size: int) -> None:
        self._ledger.forget(size)
        if self._budget is not None:
            self._budget.forget(size)

    def _tidy(self, stream: ReplayStream) -> None:
        """A finished stream that has nothing left is forgotten."""
        if stream.finished and not stream._kept:
            self.streams.pop(stream.number, None)
