"""One HTTP origin as asyncio code sees it: whole answers awaited, streams handed on as they come.

The only place that touches `_fast.fetch` from Python, for targets of MCP and for services that policies ask. `Origin.fetch`
waits for a whole, bounded answer; `Origin.start` and `open` give a `Stream`, which hands on the body piece by piece.

Rules:
- whatever goes wrong is a TransportError, raised where the answer is awaited; nothing else escapes;
- a reader that is slower than its target stops the reading of the connection (`HIGH_WATER`), not only of the queue;
- a stream is closed by whoever opened it: `cancel`, or `linger` when its end is near and the connection worth keeping;
- redirects are never followed: where a request goes is configuration, not an answer's business.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import Literal, NamedTuple

from agw._fast.exchange import Context
from agw._fast.fetch import Fetch
from agw._fast.pool import Cluster
from agw.runtime.coding import CodingError, Inflater

Headers = Sequence[tuple[bytes, bytes]]
"""Header fields to send, or lower-case names that were received."""

HIGH_WATER = 131072
LOW_WATER = 16384
"""Octets waiting for the reader at which the connection is paused, and at which it goes on."""
SILENCE_S = 3600.0
"""A stream without one octet for this long is taken for dead: half-open connections are not noticed otherwise."""
LINGER_S = 1.0
LINGER_BYTES = 65536
MAX_LINGERING = 64
"""What the rest of an answer nobody needs may cost before its connection is closed instead of reused."""
REFUSAL_BYTES = 65536
"""Octets of the body that a TransportError of kind `status` carries at most."""

_PROBLEMS: dict[str, tuple[Literal["connect", "timeout", "closed", "protocol", "limit"], str]] = {
    "connect": ("connect", "no connection"),
    "connect-timeout": ("connect", "no connection in time"),
    "dns": ("connect", "the name has no address"),
    "queue": ("limit", "too many requests wait for a connection"),
    "timeout": ("timeout", "no answer in time"),
    "reset": ("closed", "the connection ended before the answer did"),
    "protocol": ("protocol", "the answer is not valid HTTP"),
}


class TransportError(Exception):
    """A message did not get through, or its answer did not come back.

    kind: `connect` (never reached the target), `timeout` (no sign of life within the time allowed), `closed` (the
    connection, process or stream ended first), `status` (HTTP said no; `status`, `headers` and at most 64 KiB of `body`
    are set), `protocol` (what came back is no valid HTTP, event stream or JSON-RPC), `limit` (one of our own bounds), `credential`
    (there is none for this caller; nothing was sent).
    sent: whether the target may have processed the request; only what was not sent may be tried again.
    The text is ours and safe to show; it never quotes the target.
    """

    def __init__(
        self, kind: Literal["connect", "timeout", "closed", "status", "protocol", "limit", "credential"], text: str, *, sent: bool = True, status: int = 0,
        headers: Headers = (), body: bytes = b"",
    ) -> None:
        super().__init__(text)
        self.kind = kind
        self.sent = sent
        self.status = status
        self.headers = headers
        self.body = body


class Answer(NamedTuple):
    """A whole HTTP answer; header names in lower case."""

    status: int
    headers: Headers
    body: bytes

    def header(self, name: bytes) -> bytes | None:
        """The first value of a header, None when absent."""
        return first(self.headers, name)


def first(headers: Headers, name: bytes) -> bytes | None:
    """The first value of a received header, None when absent; `name` in lower case."""
    for key, found in headers:
        if key == name:
            return found
    return None


def lines(headers: Headers) -> bytes:
    """Header fields as they go on the wire. Errors: ValueError for a field that would become two."""
    written = b"".join([b"%b: %b\r\n" % field for field in headers])
    if written.count(b"\n") != len(headers):
        raise ValueError("line break in a header field")
    return written


class Stream:
    """An answer that comes in pieces. For one reader; made by an `Origin`.

    Sequence: the constructor starts the request; `opened`; then `read` until it is empty; `cancel` or `linger` in any case.
    """

    def __init__(
        self, origin: Origin, method: bytes, path: bytes, headers: Headers, body: bytes | None, timeout_s: float, silence_s: float,
        begun: Fetch | None = None,
    ) -> None:
        self.status = 0
        self.headers: Headers = ()
        self._origin = origin
        self._loop = asyncio.get_running_loop()
        self._pieces: deque[bytes] = deque()
        self._queued = 0
        self._paused = False
        self._ended = False
        self._failure: TransportError | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._inflater: Inflater | None = None
        self._spare: int | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._deadline = 0.0
        if begun is not None:
            self._fetch = begun
            begun.attach(self)
            self.restart(timeout_s)
            return
        try:
            self._fetch = Fetch(origin.context, origin.cluster, method, path, lines(headers), body, self, int(max(silence_s, timeout_s) * 1e9))
        except ValueError as error:
            raise TransportError("protocol", f"the request cannot be sent: {error}", sent=False) from None
        self.restart(timeout_s)

    # ------------------------------------------------------------------------------------------------ the sink's side

    def on_head(self, status: int, headers: list[tuple[bytes, bytes]], /) -> None:
        self.status = status
        self.headers = headers
        coding = first(headers, b"content-encoding")
        if coding is not None and coding.strip().lower() not in (b"", b"identity"):
            try:
                self._inflater = Inflater(coding)
            except CodingError as error:
                self._fail(TransportError("protocol", str(error)))
        self._wake()

    def on_data(self, data: bytes, /) -> None:
        if self._spare is not None:
            self._spare -= len(data)
            if self._spare < 0:
                self.cancel()
            return
        self._pieces.append(data)
        self._queued += len(data)
        if self._queued >= HIGH_WATER and not self._paused:
            self._paused = True
            self._fetch.pause()
        self._wake()

    def on_end(self, problem: str | None, sent: bool, /) -> None:
        if problem is not None:
            kind, text = _PROBLEMS[problem]
            if kind == "connect" and sent:
                # A first try went out on a pooled connection that was lost; the second found no way.
                kind = "closed"
            self._failure = TransportError(kind, text, sent=sent)
        self._over()

    def _over(self) -> None:
        self._ended = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._origin.lingering.discard(self)
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def _wait(self) -> None:
        self._waiter = self._loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    # ---------------------------------------------------------------------------------------------------- time allowed

    def restart(self, timeout_s: float | None) -> None:
        """From now on `timeout_s` are allowed until the end or the next `restart`; None: as long as it takes."""
        if self._ended:
            return
        if timeout_s is None:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
            return
        self._deadline = self._loop.time() + timeout_s
        if self._timer is None or self._timer.when() > self._deadline:
            if self._timer is not None:
                self._timer.cancel()
            self._timer = self._loop.call_at(self._deadline, self._late)

    def _late(self) -> None:
        # A restart only moves the deadline; the timer follows when it fires.
        if self._loop.time() < self._deadline:
            self._timer = self._loop.call_at(self._deadline, self._late)
        else:
            self._timer = None
            self._fail(TransportError("timeout", "no answer in time"))

    # ----------------------------------------------------------------------------------------------- the reader's side

    @property
    def ended(self) -> bool:
        """Has the last octet come (or the failure)? Pieces may still wait to be read."""
        return self._ended

    @property
    def lingering(self) -> bool:
        """Is it on its way to its end without a reader?"""
        return self._spare is not None and not self._ended

    def header(self, name: bytes) -> bytes | None:
        """The first value of a header, None when absent; `name` in lower case."""
        return first(self.headers, name)

    @property
    def media_type(self) -> bytes:
        """The type of the content without parameters, lower case; empty when not stated."""
        return (self.header(b"content-type") or b"").partition(b";")[0].strip().lower()

    async def opened(self, *, redirects: bool = False) -> None:
        """Wait for the head. Errors: TransportError; the stream is cancelled then.

        `redirects`: a redirect is an answer like any other, else an error of kind `status`.
        """
        try:
            while not self.status:
                if self._failure is not None:
                    raise self._failure
                await self._wait()
            if 300 <= self.status < 400 and not redirects:
                raise TransportError("status", "a redirect, which is not followed", status=self.status, headers=self.headers)
        except BaseException:
            self.cancel()
            raise

    async def read(self) -> bytes:
        """The next octets of the body, content coding undone; empty at its end. Errors: TransportError."""
        while True:
            if self._inflater is not None:
                try:
                    content = self._inflater.take()
                    if content:
                        return content
                    if self._ended and not self._pieces and self._failure is None:
                        self._inflater.finish()
                except CodingError as error:
                    raise TransportError("protocol", str(error)) from None
            if self._pieces:
                data = self._pieces.popleft()
                self._queued -= len(data)
                if self._paused and self._queued <= LOW_WATER:
                    self._paused = False
                    self._fetch.resume()
                if self._inflater is None:
                    return data
                self._inflater.put(data)
            elif self._failure is not None:
                raise self._failure
            elif self._ended:
                return b""
            else:
                await self._wait()

    async def read_all(self, limit: int) -> bytes:
        """The whole body. Errors: TransportError, kind `limit` when it is longer than `limit` octets."""
        parts: list[bytes] = []
        size = 0
        while data := await self.read():
            size += len(data)
            if size > limit:
                raise TransportError("limit", "the answer is larger than allowed")
            parts.append(data)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    async def refusal(self) -> TransportError:
        """This answer as an error of kind `status`, with as much of the body as can be had and is allowed."""
        body = b""
        try:
            while len(body) < REFUSAL_BYTES and (data := await self.read()):
                body += data
        except TransportError:
            pass
        return TransportError("status", f"HTTP status {self.status}", status=self.status, headers=self.headers, body=body[:REFUSAL_BYTES])

    def cancel(self) -> None:
        """Give up: the connection is closed unless the answer was whole. Harmless at any time."""
        self._fail(TransportError("closed", "given up"))

    def linger(self) -> None:
        """Nothing more is read, but the end is near: let it come, within bounds, so that the connection can be used again."""
        if self._ended:
            return
        if len(self._origin.lingering) >= MAX_LINGERING or self._queued > LINGER_BYTES:
            self.cancel()
            return
        self._spare = LINGER_BYTES
        self._pieces.clear()
        self._origin.lingering.add(self)
        if self._paused:
            self._fetch.resume()
        self.restart(LINGER_S)

    def _fail(self, error: TransportError) -> None:
        if not self._ended:
            self._fetch.cancel()
            self._failure = error
            self._over()


class Origin:
    """The requests of one worker to one cluster. Used from the worker's event loop only."""

    def __init__(self, context: Context, cluster: Cluster) -> None:
        self.context = context
        self.cluster = cluster
        self.lingering: set[Stream] = set()

    def start(
        self, method: bytes, path: bytes, headers: Headers, body: bytes | None, *, timeout_s: float, silence_s: float = SILENCE_S
    ) -> Stream:
        """Send a request; `Stream.opened` waits for the head of its answer.

        Units:  `timeout_s` is for all of the answer until the caller says otherwise by `Stream.restart`; `silence_s` is what
        a connection may be without one octet.
        Owner:  the caller ends the stream in any case.
        Errors: TransportError when the request cannot be written.
        """
        return Stream(self, method, path, headers, body, timeout_s, silence_s)

    async def begin(
        self, method: bytes, path: bytes, headers: Headers, body: bytes | None, *, timeout_s: float, silence_s: float = SILENCE_S
    ) -> Stream:
        """`start`, after whatever the request must have. Errors: TransportError."""
        return self.start(method, path, headers, body, timeout_s=timeout_s, silence_s=silence_s)

    def refused(self) -> bool:
        """The origin answered 401. True: the same request may fare better now."""
        return False

    def adopt(self, begun: Fetch, *, timeout_s: float) -> Stream:
        """The stream of an answer that has begun elsewhere in the worker."""
        return Stream(self, b"", b"", (), None, timeout_s, timeout_s, begun)

    async def open(
        self, method: bytes, path: bytes, headers: Headers, body: bytes | None, *, timeout_s: float, silence_s: float = SILENCE_S
    ) -> Stream:
        """`start`, and return with the head. Errors: TransportError; a redirect is one of kind `status`."""
        stream = Stream(self, method, path, headers, body, timeout_s, silence_s)
        await stream.opened()
        return stream

    async def fetch(
        self, method: bytes, path: bytes, headers: Headers, body: bytes | None, *, timeout_s: float, max_bytes: int, redirects: bool = False
    ) -> Answer:
        """Send a request and wait for the whole answer, of whatever status.

        Units:  `timeout_s` for all of it; `max_bytes` of body, after its content coding.
        Errors: TransportError; a redirect is one of kind `status` unless `redirects`.
        """
        stream = Stream(self, method, path, headers, body, timeout_s, timeout_s)
        try:
            await stream.opened(redirects=redirects)
            return Answer(stream.status, stream.headers, await stream.read_all(max_bytes))
        finally:
            stream.cancel()
