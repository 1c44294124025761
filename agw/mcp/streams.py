"""What goes to the caller: one answer, or an event stream that may outlive its connection.

Rules:
- an answer is JSON when the response is the first thing there is to say and the caller takes JSON; else an event stream;
- a stream of a session has event ids and a bounded memory: a caller that comes back with Last-Event-ID goes on with the
  same stream and no other; callers from 2025-11-25 on are primed with an empty event, older ones cannot read those;
- a message goes to one stream only; comments keep idle streams alive through proxies in front;
- a caller that does not read is cut by the connection's own bound; what it missed is in the stream's memory.

Source: MCP 2025-11-25, "Streamable HTTP" (resumability, polling); WHATWG HTML section 9.2.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import ClassVar, Protocol

from agw._fast.call import Call
from agw.mcp import message, observe
from agw.mcp.message import one_line
from agw.mcp.replay import ReplayStream, message_frame, priming_frame, retry_frame

STREAM_LINES = b"Content-Type: text/event-stream\r\nCache-Control: no-cache, no-transform\r\nX-Accel-Buffering: no\r\n"
KEEP_ALIVE = b": keep-alive\n\n"
LARGE = 16384
"""Octets from which on a result is not copied into its response."""
KEEP_ALIVE_S = 15.0
"""How long a stream may say nothing."""


class EventStream:
    """A stream of messages to one caller. `memory` None: nothing is kept and events have no ids (modern, 2024-11-05)."""

    open_now: ClassVar[int] = 0
    """Streams of this process that have a connection."""

    def __init__(self, memory: ReplayStream | None = None) -> None:
        self.memory = memory
        self.call: Call | None = None
        self.over = False
        self._leave: Callable[[], object] | None = None
        self._said_at = 0.0

    def attach(self, call: Call, *, prime: bool, retry_ms: int | None = None, after: str = "", lines: bytes = b"") -> None:
        """Send on this connection from now on; an older one is ended. `after`: the event the caller saw last."""
        self._end()
        self.call = call
        EventStream.open_now += 1
        # Who waits for the caller to leave (a modern request: leaving is cancelling) goes on doing so.
        self._leave = call.on_close
        self._said_at = time.monotonic()
        call.on_close = self._lost
        call.start(200, STREAM_LINES + lines)
        if not call.open:
            # It left before: there is nobody who would tell us.
            self.lost()
            return
        if prime and self.memory is not None:
            call.write(priming_frame(after or self.memory.last_id, retry_ms))
        else:
            # Something at once, so that the caller sees the stream open through whatever is in between.
            call.write(KEEP_ALIVE)

    def replay(self, events: list[tuple[str, bytes]]) -> None:
        """Send again what the caller missed: (event id, data)."""
        if self.call is not None:
            self.call.write(b"".join(message_frame(ident, data) for ident, data in events))
            if self.over:
                self._end()

    def send(self, raw: bytes) -> None:
        """One message."""
        if self.over:
            return
        self._said_at = time.monotonic()
        data = one_line(raw)
        if self.memory is not None:
            ident = self.memory.append(data, time.monotonic_ns())
            if self.call is not None:
                self.call.write(message_frame(ident, data))
        elif self.call is not None:
            self.call.write(b"event: message\ndata: " + data + b"\n\n")

    def keep_alive(self) -> None:
        """A comment, so that nobody in between thinks the stream is dead."""
        if self.call is not None:
            self.call.write(KEEP_ALIVE)

    def look_after(self, now: float) -> None:
        """Called every few seconds (monotonic time): a stream that has been silent for long says something."""
        if now - self._said_at >= KEEP_ALIVE_S:
            self._said_at = now
            self.keep_alive()

    def part(self, retry_ms: int | None) -> None:
        """End the connection, not the stream: the caller is told to come back for the rest (2025-11-25 polling)."""
        if self.call is not None:
            if retry_ms is not None:
                self.call.write(retry_frame(retry_ms))
            self._end()

    def close(self) -> None:
        """Nothing more will be sent."""
        self.over = True
        if self.memory is not None and not self.memory.finished:
            self.memory.finish()
        self._end()

    def _end(self) -> None:
        call = self.call
        if call is not None:
            self.lost()
            call.on_close = None
            call.end()

    def lost(self) -> None:
        """The connection is no longer there."""
        if self.call is not None:
            self.call = None
            EventStream.open_now -= 1

    def _lost(self) -> None:
        self.lost()
        if self._leave is not None:
            self._leave()


class Reporter(Protocol):
    """Where what there is to say about one request is reported."""

    call: Call
    done: bool
    since: float

    def begin(self, retry_ms: int | None = None) -> EventStream | None: ...
    def send(self, raw: bytes) -> None: ...
    def part(self, retry_ms: int | None) -> None: ...
    def finish(self, raw: bytes, status: int = 200, lines: bytes = b"") -> None: ...
    def succeed(self, ident: bytes, result: bytes, lines: bytes = b"") -> None: ...
    def drop(self) -> None: ...
    def keep_alive(self) -> None: ...


class Answer:
    """The answer to one POST. Whoever handles the request reports messages here and ends with `finish`."""

    def __init__(self, call: Call, *, json: bool, events: bool, open_stream: Callable[[], EventStream] | None = None, prime: bool = False) -> None:
        self.call = call
        self.json = json
        self.events = events
        self.prime = prime
        self.stream: EventStream | None = None
        self._open_stream = open_stream
        self.done = False
        self.since = time.monotonic()
        self.on_end: Callable[[], object] | None = None
        """Called right before the last thing is said: who hears it may reuse the request's id at once."""

    def begin(self, retry_ms: int | None = None, lines: bytes = b"") -> EventStream | None:
        """Make it an event stream, if the caller takes one; `lines` are more header lines of it."""
        if self.stream is None and self.events and not self.done:
            self.stream = self._open_stream() if self._open_stream is not None else EventStream()
            if self.call.open:
                self.stream.attach(self.call, prime=self.prime, retry_ms=retry_ms, lines=lines)
        return self.stream

    def send(self, raw: bytes) -> None:
        """A message before the response. A caller that takes no event stream does not get it."""
        stream = self.begin()
        if stream is not None:
            stream.send(raw)

    def part(self, retry_ms: int | None) -> None:
        """The target closed its stream to be polled: so do we, where the caller knows how to come back."""
        if self.prime:
            stream = self.begin(retry_ms)
            if stream is not None:
                stream.part(retry_ms)

    def finish(self, raw: bytes, status: int = 200, lines: bytes = b"") -> None:
        """The response; the answer is over."""
        if self.done:
            return
        self.done = True
        seen = observe.current()
        if seen is not None:
            seen.conclude()
        if self.on_end is not None:
            self.on_end()
        if self.stream is not None:
            self.call.note_answer(raw)
            self.stream.send(raw)
            self.stream.close()
        elif self.json or status != 200 or not self.events:
            self.call.reply(status, b"application/json", raw, lines)
        else:
            self.call.note_answer(raw)
            self.done = False
            self.begin(lines=lines)
            self.send(raw)
            self.done = True
            if self.stream is not None:
                self.stream.close()

    def succeed(self, ident: bytes, result: bytes, lines: bytes = b"") -> None:
        """The response with a raw result."""
        if len(result) < LARGE or self.stream is not None or self.done or not self.json:
            self.finish(message.result(ident, result), lines=lines)
            return
        self.done = True
        seen = observe.current()
        if seen is not None:
            seen.conclude()
        if self.on_end is not None:
            self.on_end()
        self.call.reply_result(ident, result, lines)

    def drop(self) -> None:
        """Nothing more is to be said (a cancelled request): the answer ends without a response."""
        if self.done:
            return
        self.done = True
        if self.stream is not None:
            self.stream.close()
        elif self.call.open:
            if self.events:
                self.call.start(200, STREAM_LINES)
                self.call.end()
            else:
                self.call.reply(200, b"application/json", b"")

    def keep_alive(self) -> None:
        """Called now and then while the request is under way."""
        stream = self.begin()
        if stream is not None:
            stream.keep_alive()
