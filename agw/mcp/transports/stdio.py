"""A target that is a child process: one JSON-RPC message per line on its standard input and output.

`StdioTransport` is one channel: at most one usable process at a time, started by the first request and restarted by the
next one after it ended. Who shares a transport (a legacy session, or all modern callers) is the owner's decision; how many
processes a target may have in this worker is counted by a `ChildLimit` that its transports share.

Rules:
- responses go to their requests by raw id; requests and notifications of the target go to `on_stray`; a response that
  nobody waits for (given up, unknown) is counted and dropped;
- a message leaves as one line; a line that is too long is skipped, not kept, and fails only the request it answers, or all
  in flight when that cannot be told;
- a process that ends fails what is in flight (`closed`), never silently repeats it; `sent` is False for what was still
  queued as a whole;
- restarts wait longer and longer; a wait under `PATIENCE_S` is sat out, a longer one is refused at once;
- a new process knows nothing of the old one's handshake: the owner hears of the end (`on_down`) before the next start,
  and `generation` counts the starts.

Source: MCP basic protocol, "Transports", stdio (all revisions).
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, Literal, Protocol

import msgspec

from agw.mcp.message import MessageError, one_line, parse, split_batch
from agw.mcp.transport import Headers, OnMessage, Reply, TransportError
from agw.mcp.transports.process import Child, Command, Outgoing, QueueFull

log = logging.getLogger(__name__)

MAX_LINE_BYTES: Final = 16 * 1024 * 1024
MAX_QUEUE_BYTES: Final = 16 * 1024 * 1024
MAX_IN_FLIGHT: Final = 4096
SEND_TIMEOUT_S: Final = 60.0
BACKOFF_FIRST_S: Final = 0.1
BACKOFF_MOST_S: Final = 30.0
HEALTHY_S: Final = 10.0
"""A process that lived this long was healthy: the next restart begins with the shortest wait again."""
PATIENCE_S: Final = 1.0
BURST_S: Final = 10.0
"""Lines that are no messages are logged again after this long without any."""
EDGE_BYTES: Final = 512

_ID = rb'("(?:[^"\\]|\\.)*"|-?\d+)'
_HEAD = re.compile(rb'\s*\{\s*(?:"jsonrpc"\s*:\s*"[^"]*"\s*,\s*|"id"\s*:\s*' + _ID + rb'\s*,\s*){0,2}"(result|error|method|params)"')
_TAIL = re.compile(rb',\s*"id"\s*:\s*' + _ID + rb'\s*(?:,\s*"jsonrpc"\s*:\s*"[^"]*"\s*)?\}\s*\Z')


class StdioOptions(Command, Protocol):
    """What a transport needs to know of the plan of a stdio target."""

    @property
    def stop_grace_ns(self) -> int: ...


class ChildLimit:
    """How many processes one target has in this worker, and how many it may have. Counters are for the metrics."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.running = 0
        """Processes not reaped yet, those that are being stopped included."""
        self.spawned_total = 0
        self.restarts_total = 0
        self.failed_total = 0
        """Starts that the system refused."""
        self.refused_total = 0
        """Starts that this limit refused."""

    def acquire(self) -> None:
        """Take a place. Errors: TransportError `limit`."""
        if self.running >= self.most:
            self.refused_total += 1
            raise TransportError("limit", "too many processes of this target", sent=False)
        self.running += 1

    def release(self) -> None:
        """Give the place back: the process is reaped, or was never there."""
        self.running -= 1


@dataclass(slots=True, eq=False)
class Pending:
    """Somebody who waits: for the response to a request, or for a message to be written."""

    future: asyncio.Future[Any]
    item: Outgoing
    timeout_s: float
    timer: asyncio.TimerHandle | None = None

    def expect(self, seconds: float, expire: Callable[[Pending], None]) -> None:
        """Set the time anew."""
        self.rest()
        self.timer = self.future.get_loop().call_later(seconds, expire, self)

    def rest(self) -> None:
        """Stop the time."""
        if self.timer is not None:
            self.timer.cancel()

    def fail(self, error: TransportError) -> None:
        if not self.future.done():
            self.future.set_exception(error)


class StdioTransport:
    """One channel to one target over a child process. See `agw.mcp.transport.Transport` for the contract.

    `name` is the target's, for the log. Counters: `noise_total` lines that were no messages, `oversized_total` lines over
    the bound, `unmatched_total` responses nobody waited for.
    Units:  `last_used` in monotonic seconds (`time.monotonic`): the last begin or end of a request, or notification.
    Owner:  create and use on the loop of the main thread; `close` ends it for good.
    """

    kind: Literal["http", "sse", "stdio", "openapi"] = "stdio"

    def __init__(
        self, name: str, options: StdioOptions, limit: ChildLimit, *, max_line_bytes: int = MAX_LINE_BYTES, max_queue_bytes: int = MAX_QUEUE_BYTES,
        max_in_flight: int = MAX_IN_FLIGHT, send_timeout_s: float = SEND_TIMEOUT_S,
    ) -> None:
        self.name = name
        self.limit = limit
        self.on_stray: OnMessage = _ignore
        self.on_down: Callable[[str], None] = _ignore
        self.last_used = time.monotonic()
        self.generation = 0
        self.noise_total = 0
        self.oversized_total = 0
        self.unmatched_total = 0
        self._options = options
        self._max_line_bytes = max_line_bytes
        self._max_queue_bytes = max_queue_bytes
        self._max_in_flight = max_in_flight
        self._send_timeout_s = send_timeout_s
        self._child: Child | None = None
        self._children: list[Child] = []
        self._waiting: dict[bytes, Pending] = {}
        self._sending: set[Pending] = set()
        self._closed = False
        self._failures = 0
        self._retry_at = 0.0
        self._noise_at = -BURST_S

    @property
    def running(self) -> bool:
        """Whether there is a process that takes messages."""
        return self._child is not None

    @property
    def in_flight(self) -> int:
        """Requests without a response yet."""
        return len(self._waiting)

    # ------------------------------------------------------------------------------------------------ contract

    async def request(
        self, message: bytes, ident: bytes, *, headers: Headers = (), on_message: OnMessage | None = None,
        on_gap: Callable[[int | None], None] | None = None, timeout_s: float = 60.0,
    ) -> Reply:
        """Send a request, starting the process if there is none. `headers`, `on_message` and `on_gap` have no meaning here.

        The time allowed includes a wait for a restart; `touch` starts it anew.
        Errors: TransportError; ValueError when `ident` is in flight already.
        """
        until = time.monotonic() + timeout_s
        child = await self._ready(until)
        if ident in self._waiting:
            raise ValueError("the id of a request in flight")
        if len(self._waiting) >= self._max_in_flight:
            raise TransportError("limit", "too many requests wait for this target", sent=False)
        pending = self._put(child, message, timeout_s, max(0.0, until - time.monotonic()))
        self._waiting[ident] = pending
        try:
            reply: Reply = await pending.future
            return reply
        finally:
            if self._waiting.get(ident) is pending:
                del self._waiting[ident]
            self._retire(child, pending)

    async def send(self, message: bytes, *, headers: Headers = ()) -> None:
        """Write a notification or a response; returns when all of it is in the pipe.

        Never starts a process: what a new one would get so belonged to the old one's conversation.
        Errors: TransportError (`connect` when no process runs).
        """
        child = self._child
        if child is None:
            raise TransportError("closed" if self._closed else "connect", "the target's process is not running", sent=False)
        pending = self._put(child, message, self._send_timeout_s, self._send_timeout_s)
        self._sending.add(pending)
        try:
            if not pending.item.done:
                pending.item.waiter = pending.future
                await pending.future
        finally:
            self._sending.discard(pending)
            self._retire(child, pending)

    async def listen(self, headers: Headers = ()) -> None:
        """Nothing to open: the one channel carries everything."""

    async def close(self, headers: Headers = ()) -> None:
        """End the process in good order, and its group; what is in flight fails with `closed`. Returns when it is reaped."""
        self._closed = True
        self._child = None
        self._fail_all("the connection to the target was closed")
        endings = {child.stop() for child in self._children}
        if endings:
            await asyncio.wait(endings)  # which does not cancel them when we are cancelled
        self._children.clear()

    def touch(self, ident: bytes) -> None:
        """The request gave a sign of life on the shared channel (its progress, say): its silence begins anew."""
        pending = self._waiting.get(ident)
        if pending is not None:
            pending.expect(pending.timeout_s, self._expire)

    # ------------------------------------------------------------------------------------------------- process

    async def _ready(self, until: float) -> Child:
        """The running child, or a new one as soon as the back-off allows it."""
        while True:
            if self._closed:
                raise TransportError("closed", "the connection to the target was closed", sent=False)
            if self._child is not None:
                return self._child
            now = time.monotonic()
            wait = self._retry_at - now
            if wait <= 0:
                return self._start(now)
            if wait >= PATIENCE_S or now + wait >= until:
                raise TransportError("connect", "the target's process ended and is not started again yet", sent=False)
            await asyncio.sleep(wait)

    def _start(self, now: float) -> Child:
        self._children = [child for child in self._children if not child.gone.done()]
        self.limit.acquire()
        reader = LineReader(self._max_line_bytes, self._on_line, self._on_oversized)
        try:
            child = Child(
                self.name, self._options, on_output=reader.feed, on_lost=partial(self._on_lost, reader), on_gone=self.limit.release,
                grace_s=self._options.stop_grace_ns / 1e9, max_queue_bytes=self._max_queue_bytes,
            )
        except (OSError, ValueError) as error:
            self.limit.release()
            self.limit.failed_total += 1
            self._back_off(now)
            log.warning("a stdio target cannot be started", extra={"target": self.name, "problem": str(error)})
            raise TransportError("connect", "the target's process could not be started", sent=False) from None
        self._children.append(child)
        self._child = child
        self.limit.spawned_total += 1
        self.limit.restarts_total += self.generation > 0
        self.generation += 1
        log.info("a stdio target was started", extra={"target": self.name, "child": child.pid, "generation": self.generation})
        return child

    def _back_off(self, now: float) -> None:
        self._retry_at = now + min(BACKOFF_MOST_S, BACKOFF_FIRST_S * 2**self._failures)
        self._failures = min(self._failures + 1, 16)

    def _on_lost(self, reader: LineReader, reason: str) -> None:
        child, self._child = self._child, None
        assert child is not None, "a child that was not stopped is the current one"
        reader.finish()
        now = time.monotonic()
        if now - child.started >= HEALTHY_S:
            self._failures = 0
        self._back_off(now)
        log.warning("a stdio target ended", extra={"target": self.name, "child": child.pid, "reason": reason, "in_flight": len(self._waiting)})
        self._fail_all("the target's process ended")
        self.on_down(reason)

    # ------------------------------------------------------------------------------------------------- waiting

    def _put(self, child: Child, message: bytes, timeout_s: float, left_s: float) -> Pending:
        try:
            item = child.write(one_line(message) + b"\n")
        except msgspec.DecodeError:
            raise TransportError("protocol", "the message is not JSON", sent=False) from None
        except QueueFull:
            raise TransportError("limit", "the target does not read what it is sent", sent=False) from None
        self.last_used = time.monotonic()
        pending = Pending(asyncio.get_running_loop().create_future(), item, timeout_s)
        pending.expect(left_s, self._expire)
        return pending

    def _retire(self, child: Child, pending: Pending) -> None:
        """However the wait ended: nothing of it stays behind."""
        pending.rest()
        if not pending.item.done:
            child.withdraw(pending.item)
        self.last_used = time.monotonic()

    def _expire(self, pending: Pending) -> None:
        sent = pending.item.begun
        if not sent and self._child is not None:
            self._child.withdraw(pending.item)
        pending.fail(TransportError("timeout", "no answer within the time allowed" if sent else "the target does not read what it is sent", sent=sent))

    def _fail_all(self, text: str) -> None:
        waiting = [*self._waiting.values(), *self._sending]
        self._waiting.clear()
        self._sending.clear()
        for pending in waiting:
            pending.fail(TransportError("closed", text, sent=pending.item.begun))

    # ------------------------------------------------------------------------------------------------- reading

    def _on_line(self, line: bytes) -> None:
        line = line.strip(b" \t\r")
        if not line:
            return
        try:
            for part in split_batch(line):
                self._on_message(part)
        except MessageError:
            self._noise(line)

    def _on_message(self, raw: bytes) -> None:
        try:
            message = parse(raw)
        except MessageError:
            if self._child is None:
                return  # cut short by the end of the process, which is the reason to give
            if not self._fail_answered(raw, raw[-EDGE_BYTES:], TransportError("protocol", "the target's answer is no valid JSON-RPC message")):
                self._noise(raw)
            return
        if message.kind == "response":
            pending = self._waiting.pop(message.ident or b"", None)
            if pending is None:
                self.unmatched_total += 1
            elif not pending.future.done():
                pending.future.set_result(Reply(raw))
            return
        try:
            self.on_stray(raw)
        except Exception:  # the border of one message: the others of this chunk must get through
            log.exception("a message of a stdio target could not be handled", extra={"target": self.name})

    def _on_oversized(self, head: bytes, tail: bytes) -> None:
        self.oversized_total += 1
        log.warning("a stdio target wrote a line over the limit", extra={"target": self.name, "limit_bytes": self._max_line_bytes})
        self._fail_answered(head, tail, TransportError("limit", "the target's answer is too long"), guess=True)

    def _fail_answered(self, head: bytes, tail: bytes, error: TransportError, *, guess: bool = False) -> bool:
        """Fail the request that a broken message answers; if that cannot be told and `guess` is set, all in flight."""
        ident = answered(head, tail)
        idents = [ident] if ident else list(self._waiting) if ident is not None and guess else []
        found = [pending for each in idents if (pending := self._waiting.pop(each, None))]
        for pending in found:
            pending.fail(TransportError(error.kind, str(error)))
        return bool(found)

    def _noise(self, line: bytes) -> None:
        self.noise_total += 1
        now = time.monotonic()
        if now - self._noise_at >= BURST_S:
            log.warning("a stdio target writes to its standard output what is no JSON-RPC message", extra={"target": self.name, "line_bytes": len(line)})
        self._noise_at = now


class LineReader:
    """Cuts a stream into lines without their LF; never holds more than `limit` octets.

    Of a longer line only its first and last `EDGE_BYTES` are kept, and handed to `on_oversized` when it is over.
    """

    def __init__(self, limit: int, on_line: Callable[[bytes], None], on_oversized: Callable[[bytes, bytes], None]) -> None:
        self._limit = limit
        self._on_line = on_line
        self._on_oversized = on_oversized
        self._part = bytearray()
        self._head = b""
        self._skipping = False

    def feed(self, chunk: bytes) -> None:
        """The next octets of the stream."""
        start = 0
        while (end := chunk.find(b"\n", start)) >= 0:
            self._keep(chunk[start:end])
            self.finish()
            start = end + 1
        self._keep(chunk[start:])

    def finish(self) -> None:
        """The line is over: a LF was found, or the stream ended."""
        part, skipped = bytes(self._part), self._skipping
        self._part = bytearray()
        self._skipping = False
        if skipped:
            self._on_oversized(self._head, part[-EDGE_BYTES:])
        elif part:
            self._on_line(part)

    def _keep(self, piece: bytes) -> None:
        self._part += piece
        if not self._skipping and len(self._part) > self._limit:
            self._skipping = True
            self._head = bytes(self._part[:EDGE_BYTES])
        if self._skipping and len(self._part) > EDGE_BYTES:
            self._part = self._part[-EDGE_BYTES:]


def answered(head: bytes, tail: bytes) -> bytes | None:
    """Whose answer is a message of which only the edges can be read? The raw id, b"" when unknown, None when nobody's.

    Members may come in any order; SDKs write the id before the result or last of all. At the very end of an object an
    `"id"` is the object's own, however deep what stands before it is.
    """
    found = _HEAD.match(head)
    if found is None:
        return b"" if head.lstrip()[:1] in (b"{", b"[") else None
    ident, member = found.groups()
    if member in (b"method", b"params"):
        return None
    if ident is None:
        last = _TAIL.search(tail)
        ident = None if last is None else last[1]
    return ident or b""


def _ignore(_: object) -> None:
    """Until the owner says who listens."""
