"""HTTP+SSE of 2024-11-05: one event stream carries everything from the target, POSTs carry everything to it.

The stream is opened by the first message; its first event names the address for the POSTs. The target's session is the
stream: when it ends, what is in flight fails, the owner hears of it (`on_down`), and the next message opens another.

Rules:
- the address must be of the stream's own origin: credentials go nowhere else, whatever a target says;
- responses go to their requests by raw id; a response nobody waits for is dropped; everything else goes to `on_stray`;
- the time of a request runs from its start; `touch` starts it anew, since what is on the stream may be anybody's;
- an event that is too large fails what is in flight, because nobody can tell whose response it was.

Source: MCP 2024-11-05, "Transports", HTTP with SSE; RFC 6454 section 4 (origin).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any, Literal, TypeVar
from urllib.parse import SplitResult, urljoin, urlsplit

from agw._fast.sse import Event
from agw.mcp.message import MessageError, parse
from agw.mcp.transport import Headers, OnMessage, Reply, TransportError
from agw.mcp.transports.events import Events, messages, refused
from agw.runtime.origin import Origin, Stream

log = logging.getLogger(__name__)

MAX_MESSAGE_BYTES = 4 << 20
MAX_IN_FLIGHT = 1024
OPEN_S = 30.0
"""Bound for the stream's head and its `endpoint` event together."""
SEND_S = 30.0

_ACCEPT = (b"Accept", b"text/event-stream")
_JSON = (b"Content-Type", b"application/json")
_PORTS = {"http": 80, "https": 443}
T = TypeVar("T")


def _ignore(_: object) -> None:
    """Nobody listens (yet)."""


def endpoint_path(base: str, named: bytes) -> bytes:
    """The request target that an `endpoint` event names, relative to the stream's URL `base`.

    Errors: TransportError (`protocol`) when it is no URL of the same origin.
    """
    try:
        text = named.decode("ascii")
        url = urlsplit(urljoin(base, text.strip()))
        same = _origin(url) == _origin(urlsplit(base)) and url.username is None and url.password is None
    except ValueError:
        raise TransportError("protocol", "the endpoint is no URL") from None
    if not same:
        raise TransportError("protocol", "the endpoint is of another origin")
    return ((url.path or "/") + (f"?{url.query}" if url.query else "")).encode()


def _origin(url: SplitResult) -> tuple[str, str | None, int | None]:
    return url.scheme, url.hostname, url.port or _PORTS.get(url.scheme)


class Pending:
    """A request that waits for its response on the stream."""

    def __init__(self, timeout_s: float) -> None:
        self._loop = asyncio.get_running_loop()
        self.response: asyncio.Future[bytes] = self._loop.create_future()
        self.timeout_s = timeout_s
        self._timer = self._loop.call_later(timeout_s, self._late)

    def restart(self) -> None:
        """The time allowed begins anew."""
        self._timer.cancel()
        self._timer = self._loop.call_later(self.timeout_s, self._late)

    def _late(self) -> None:
        self.fail(TransportError("timeout", "no answer in time"))

    def take(self, message: bytes) -> None:
        if not self.response.done():
            self.response.set_result(message)

    def fail(self, error: TransportError) -> None:
        if not self.response.done():
            self.response.set_exception(error)
            # It may have ended otherwise; then nobody asks.
            self.response.exception()

    def over(self) -> None:
        self._timer.cancel()


class Channel:
    """One event stream that named its endpoint, and who waits for what it brings."""

    def __init__(self, stream: Stream, max_event_bytes: int) -> None:
        self.stream = stream
        self.path = b""
        self.events = Events(stream, max_event_bytes, on_dropped=self.fail_all)
        self.waiting: dict[bytes, Pending] = {}

    def fail_all(self, error: TransportError) -> None:
        for pending in self.waiting.values():
            pending.fail(error)


class SseTransport:
    """One target over HTTP+SSE. Contract: `agw.mcp.transport.Transport`."""

    kind: Literal["http", "sse", "stdio", "openapi"] = "sse"

    def __init__(self, origin: Origin, path: bytes, *, max_message_bytes: int = MAX_MESSAGE_BYTES, max_in_flight: int = MAX_IN_FLIGHT) -> None:
        """`path` is the request target of the event stream; `max_message_bytes` bounds every event and refusal."""
        self.on_stray: OnMessage = _ignore
        self.on_down: Callable[[str], None] = _ignore
        self._origin = origin
        self._path = path
        plan = origin.cluster.plan
        self._base = f"{'http' if plan.tls is None else 'https'}://{plan.authority or 'localhost'}{path.decode('ascii')}"
        self._max = max_message_bytes
        self._max_in_flight = max_in_flight
        self._channel: Channel | None = None
        self._opening: asyncio.Task[Channel] | None = None
        self._tasks: set[asyncio.Task[Any]] = set()
        self._closed = False

    # --------------------------------------------------------------------------------------------------- one message

    async def request(
        self, message: bytes, ident: bytes, *, headers: Headers = (), on_message: OnMessage | None = None,
        on_gap: Callable[[int | None], None] | None = None, timeout_s: float = 60.0,
    ) -> Reply:
        """See Transport.request. `on_message` and `on_gap` are never called: the stream is shared and cannot be resumed."""
        ident = ident.strip()
        channel = await self._ready(headers)
        if ident in channel.waiting or len(channel.waiting) >= self._max_in_flight:
            raise TransportError("limit", "too many requests in flight, or two with one id", sent=False)
        pending = Pending(timeout_s)
        channel.waiting[ident] = pending
        post = self._spawn(self._post(channel, message, ident, headers, timeout_s))
        try:
            # The response may overtake the answer to the POST, which is then of no interest.
            await asyncio.wait((post, pending.response), return_when=asyncio.FIRST_COMPLETED)
            if not pending.response.done():
                refusal = post.result()
                if refusal is not None:
                    return refusal
            return Reply(await pending.response)
        except asyncio.CancelledError:
            post.cancel()
            raise
        finally:
            pending.over()
            channel.waiting.pop(ident, None)

    async def send(self, message: bytes, *, headers: Headers = ()) -> None:
        """See Transport.send."""
        channel = await self._ready(headers)
        stream = await self._origin.open(b"POST", channel.path, (_JSON, *headers), message, timeout_s=SEND_S)
        try:
            if not 200 <= stream.status < 300:
                raise await stream.refusal()
            stream.linger()
        finally:
            if not stream.lingering:
                stream.cancel()

    async def _post(self, channel: Channel, message: bytes, ident: bytes, headers: Headers, timeout_s: float) -> Reply | None:
        """Send a request. A refusal that is a JSON-RPC error is returned. Errors: TransportError."""
        stream = await self._origin.open(b"POST", channel.path, (_JSON, *headers), message, timeout_s=timeout_s)
        try:
            if not 200 <= stream.status < 300:
                return await refused(stream, ident)
            stream.linger()
        finally:
            if not stream.lingering:
                stream.cancel()
        return None

    def touch(self, ident: bytes) -> None:
        """The request gave a sign of life on the stream (its progress, say): its time begins anew."""
        pending = self._channel.waiting.get(ident) if self._channel is not None else None
        if pending is not None:
            pending.restart()

    # --------------------------------------------------------------------------------------------------- the stream

    async def _ready(self, headers: Headers) -> Channel:
        """The open channel, or a new one; who comes meanwhile waits for the same."""
        if self._closed:
            raise TransportError("closed", "the conversation is over", sent=False)
        if self._channel is not None:
            return self._channel
        if self._opening is None or self._opening.done():
            self._opening = self._spawn(self._open(headers))
        opening = self._opening
        try:
            return await asyncio.shield(opening)
        except asyncio.CancelledError:
            if opening.cancelled() and self._closed:
                raise TransportError("closed", "the conversation is over", sent=False) from None
            raise
        finally:
            if self._opening is opening and opening.done():
                self._opening = None

    async def _open(self, headers: Headers) -> Channel:
        stream = await self._origin_open(headers)
        channel = Channel(stream, self._max)
        try:
            if stream.status != 200:
                error = await stream.refusal()
                raise TransportError("status", str(error), sent=False, status=error.status, headers=error.headers, body=error.body)
            if stream.media_type != b"text/event-stream":
                raise TransportError("protocol", "the answer to GET is no event stream", sent=False)
            early = await self._endpoint(channel)
        except BaseException:
            stream.cancel()
            raise
        stream.restart(None)
        self._channel = channel
        self._spawn(self._read(channel, early))
        return channel

    async def _origin_open(self, headers: Headers) -> Stream:
        try:
            return await self._origin.open(b"GET", self._path, (_ACCEPT, *headers), None, timeout_s=OPEN_S)
        except TransportError as error:
            # The GET may have been seen, but no message was sent.
            raise TransportError(error.kind, str(error), sent=False, status=error.status, headers=error.headers, body=error.body) from None

    async def _endpoint(self, channel: Channel) -> list[Event]:
        """Waits for the `endpoint` event; what came behind it in the same octets is returned."""
        try:
            while (found := await channel.events.next()) is not None:
                for number, event in enumerate(found):
                    if event[0] == b"endpoint":
                        channel.path = endpoint_path(self._base, event[1])
                        return found[number + 1 :]
        except TransportError as error:
            raise TransportError(error.kind, str(error), sent=False) from None
        raise TransportError("closed", "the stream ended before it named its endpoint", sent=False)

    async def _read(self, channel: Channel, events: list[Event]) -> None:
        """Hands on what comes until the stream ends."""
        try:
            found: list[Event] | None = events
            while found is not None:
                for event in found:
                    self._take(channel, event)
                found = await channel.events.next()
        except TransportError:
            # The reason is the connection's; who waits needs to know that the stream is gone.
            pass
        finally:
            channel.stream.cancel()
            if self._channel is channel:
                self._channel = None
            channel.fail_all(TransportError("closed", "the event stream ended before the response"))
        if not self._closed:
            self.on_down("the event stream ended")

    def _take(self, channel: Channel, event: Event) -> None:
        try:
            for raw in messages(event):
                found = parse(raw)
                if found.kind == "response" and found.ident is not None and found.ident != b"null":
                    pending = channel.waiting.get(found.ident)
                    if pending is not None:
                        pending.take(raw)
                else:
                    self.on_stray(raw)
        except (TransportError, MessageError):
            log.debug("an event of a target is not JSON-RPC")
        except Exception:
            # The stream belongs to all requests; a fault with one message must not end it.
            log.exception("internal error while taking a message of a target")

    def _spawn(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        # A TransportError that nobody waits for any more is no news.
        error = None if task.cancelled() else task.exception()
        if error is not None and not isinstance(error, TransportError):
            log.error("internal error in a conversation with a target", exc_info=error)

    # --------------------------------------------------------------------------------------------------------- the end

    async def listen(self, headers: Headers = ()) -> None:
        """Nothing to open: the one stream carries everything."""

    async def close(self, headers: Headers = ()) -> None:
        """Close the stream, which ends the target's session. Requests in flight fail with kind `closed`."""
        self._closed = True
        if self._channel is not None:
            self._channel.fail_all(TransportError("closed", "the conversation is over"))
            self._channel.stream.cancel()
        tasks = [task for task in self._tasks if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
