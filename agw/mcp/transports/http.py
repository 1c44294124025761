"""Streamable HTTP: every message a POST, answered by one JSON text or by an event stream; a GET stream for the rest.

Reading order: `request` (POST, then `_whole` or `_follow`), `_resume` (the stream ended too soon), `listen`, `close`.

Rules:
- nothing of MCP but the framing is known here: sessions and versions are header fields that the caller gives;
- a stream that ends before the response is resumed by its last event id, with bounded patience; without an id it is lost;
- after the response the rest of its stream is nobody's: it may end by itself for a moment, then its connection is closed;
- a body with a status that says no is still an answer when it is a JSON-RPC error for this request (or for no id).

Source: MCP 2025-03-26 to 2026-07-28, "Streamable HTTP"; docs of 2025-11-25, "Resumability and Redelivery", "polling".
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable
from typing import Literal

from agw.mcp.message import MessageError, split_batch
from agw.mcp.transport import Headers, OnMessage, Reply, TransportError
from agw.mcp.transports.events import MAX_RETRY_S, Events, Position, answers, messages, refused
from agw.runtime.origin import Origin, Stream, first

log = logging.getLogger(__name__)

MAX_MESSAGE_BYTES = 4 << 20
RESUME_ATTEMPTS = 5
"""Connections in a row that brought a lost stream no further."""
LISTEN_ATTEMPTS = 8
"""Failures in a row after which the GET stream is lost for good: a little more than a minute."""
LISTEN_OPEN_S = 30.0
STEADY_S = 10.0
"""A GET stream that lived this long was no failure, whatever ended it."""
DELETE_S = 5.0

_POST = ((b"Content-Type", b"application/json"), (b"Accept", b"application/json, text/event-stream"))


def ignore(_: object) -> None:
    """Nobody listens (yet)."""


def _log_dropped(error: TransportError) -> None:
    log.warning("a message of a target was dropped", extra={"problem": str(error)})


class HttpTransport:
    """One target over streamable HTTP. Contract: `agw.mcp.transport.Transport`."""

    kind: Literal["http", "sse", "stdio", "openapi"] = "http"

    def __init__(self, origin: Origin, path: bytes, *, max_message_bytes: int = MAX_MESSAGE_BYTES) -> None:
        """`path` is the endpoint's request target, query included; `max_message_bytes` bounds every answer and event."""
        self.on_stray: OnMessage = ignore
        self.on_down: Callable[[str], None] = ignore
        self._origin = origin
        self._path = path
        self._max = max_message_bytes
        self._active: dict[Stream, None] = {}  # an empty set would be three times as large
        self._listener: asyncio.Task[None] | None = None
        self._listening: Stream | None = None
        self._closed = False

    # --------------------------------------------------------------------------------------------------- one message

    async def request(
        self, message: bytes, ident: bytes, *, headers: Headers = (), on_message: OnMessage | None = None,
        on_gap: Callable[[int | None], None] | None = None, timeout_s: float = 60.0, begun: Stream | None = None,
    ) -> Reply:
        """See Transport.request. `begun`: the answer is on its way already.

        `Reply.headers` are those of the POST's answer, also when the response came on a later GET.
        """
        ident = ident.strip()
        tell = self.on_stray if on_message is None else on_message
        stream = begun or await self._post(message, headers, timeout_s)
        if begun is not None:
            self._active[begun] = None
        try:
            await stream.opened()
            if begun is not None and stream.status == 401 and self._origin.refused():
                self._done(stream)
                stream = await self._post(message, headers, timeout_s)
            if not 200 <= stream.status < 300:
                return await refused(stream, ident)
            if stream.media_type != b"text/event-stream":
                return await self._whole(stream, ident, tell)
            position = Position()
            answer = await self._follow(stream, position, ident, tell, timeout_s)
            if answer is not None:
                stream.linger()
        finally:
            self._done(stream)
        if answer is None:
            session = first(stream.headers, b"mcp-session-id")
            if session is not None and all(name.lower() != b"mcp-session-id" for name, _ in headers):
                headers = [*headers, (b"Mcp-Session-Id", session)]
            answer = await self._resume(position, headers, ident, tell, on_gap, timeout_s)
        return Reply(answer, stream.status, stream.headers)

    async def send(self, message: bytes, *, headers: Headers = ()) -> None:
        """See Transport.send. Any 2xx is taken for the 202 it should be."""
        stream = await self._post(message, headers, LISTEN_OPEN_S)
        try:
            if not 200 <= stream.status < 300:
                raise await stream.refusal()
            stream.linger()
        finally:
            self._done(stream)

    async def _post(self, message: bytes, headers: Headers, timeout_s: float) -> Stream:
        if self._closed:
            raise TransportError("closed", "the conversation is over", sent=False)
        return await self._open(b"POST", (*_POST, *headers), message, timeout_s)

    async def _open(self, method: bytes, headers: Headers, body: bytes | None, timeout_s: float) -> Stream:
        # A credential that is refused is renewed; when the new one is refused, too, its source says what is to be done.
        for last in (False, False, True):
            stream = await self._origin.begin(method, self._path, headers, body, timeout_s=timeout_s)
            if self._closed and method != b"DELETE":
                stream.cancel()
                raise TransportError("closed", "the conversation is over")
            self._active[stream] = None
            try:
                await stream.opened()
            except BaseException:
                self._forget(stream)
                raise
            if last or stream.status != 401 or not self._origin.refused():
                break
            self._done(stream)
        return stream

    def _done(self, stream: Stream) -> None:
        self._forget(stream)
        if not stream.lingering:
            stream.cancel()

    def _forget(self, stream: Stream) -> None:
        self._active.pop(stream, None)
        if not self._active:
            self._active = {}  # one that was filled keeps its size, and transports are many

    async def _whole(self, stream: Stream, ident: bytes, tell: OnMessage) -> Reply:
        """The answer in one JSON text, or in an array with others (MCP 2025-03-26)."""
        body = await stream.read_all(self._max)
        answer = None
        try:
            for raw in split_batch(body):
                if answer is None and answers(raw, ident):
                    answer = raw
                else:
                    tell(raw)
        except MessageError:
            raise TransportError("protocol", "the answer is not JSON-RPC") from None
        if answer is None:
            raise TransportError("protocol", "the answer is for another request")
        return Reply(answer, stream.status, stream.headers)

    async def _follow(self, stream: Stream, position: Position, ident: bytes, tell: OnMessage, timeout_s: float) -> bytes | None:
        """Passes messages on until the response, which is returned, or the end of the stream (None)."""
        stream.restart(timeout_s)
        events = Events(stream, self._max)
        while True:
            try:
                found = await events.next()
            except TransportError as error:
                if error.kind == "closed" and position.resumable and not self._closed:
                    return None
                raise
            if found is None:
                return None
            for event in found:
                position.note(event)
                answer = None
                for raw in messages(event):
                    stream.restart(timeout_s)
                    try:
                        if answer is None and answers(raw, ident):
                            answer = raw
                        else:
                            tell(raw)
                    except MessageError:
                        raise TransportError("protocol", "an event is not JSON-RPC") from None
                if answer is not None:
                    return answer

    async def _resume(
        self, position: Position, headers: Headers, ident: bytes, tell: OnMessage, on_gap: Callable[[int | None], None] | None, timeout_s: float
    ) -> bytes:
        """Goes on with a stream that ended before the response, until the response or the end of patience."""
        fruitless = 0
        while position.resumable and not self._closed:
            if on_gap is not None:
                on_gap(position.retry_ms)
            before = position.last_id
            while True:
                fruitless += 1
                if fruitless > RESUME_ATTEMPTS or self._closed:
                    raise TransportError("closed", "the stream ended before the response and could not be resumed")
                await asyncio.sleep(position.retry_s)
                try:
                    stream = await self._open(b"GET", position.headers(headers), None, timeout_s)
                    break
                except TransportError as error:
                    if error.kind in ("protocol", "status"):
                        raise TransportError("closed", "the stream ended before the response and cannot be resumed") from error
            try:
                if stream.status != 200 or stream.media_type != b"text/event-stream":
                    raise TransportError("closed", "the stream ended before the response and cannot be resumed")
                answer = await self._follow(stream, position, ident, tell, timeout_s)
                if answer is not None:
                    stream.linger()
                    return answer
            finally:
                self._done(stream)
            if position.last_id != before:
                fruitless = 0
        raise TransportError("closed", "the stream ended before the response")

    # ------------------------------------------------------------------------------------- unsolicited messages, end

    async def listen(self, headers: Headers = ()) -> None:
        """See Transport.listen. A second call replaces the stream of the first."""
        if self._closed:
            raise TransportError("closed", "the conversation is over", sent=False)
        await self._stop_listening()
        position = Position()
        stream = await self._open_listening(position, headers)
        # Somebody else may have begun, or ended everything, meanwhile.
        await self._stop_listening()
        if self._closed:
            self._done(stream)
            raise TransportError("closed", "the conversation is over")
        self._listening = stream
        self._listener = asyncio.get_running_loop().create_task(self._keep_listening(stream, position, headers))

    async def _open_listening(self, position: Position, headers: Headers) -> Stream:
        stream = await self._open(b"GET", position.headers(headers), None, LISTEN_OPEN_S)
        try:
            if stream.status != 200:
                raise await stream.refusal()
            if stream.media_type != b"text/event-stream":
                raise TransportError("protocol", "the answer to GET is no event stream")
        except BaseException:
            self._done(stream)
            raise
        stream.restart(None)
        return stream

    async def _keep_listening(self, stream: Stream, position: Position, headers: Headers) -> None:
        loop = asyncio.get_running_loop()
        failures = 0
        while True:
            began = loop.time()
            if await self._hear(stream, position) or loop.time() - began >= STEADY_S:
                failures = 0
            while True:
                failures += 1
                if failures > LISTEN_ATTEMPTS:
                    self.on_down("the event stream was lost and could not be opened again")
                    return
                # The first time what the target asked for (a stream may end in good order), then longer and longer.
                pause = position.retry_s if failures == 1 else max(position.retry_s, min(MAX_RETRY_S, 0.5 * 2.0**failures))
                await asyncio.sleep(pause * random.uniform(1.0, 1.25))
                try:
                    stream = self._listening = await self._open_listening(position, headers)
                    break
                except TransportError as error:
                    if error.kind == "status" and error.status < 500 and error.status not in (408, 429):
                        self.on_down(f"the event stream was refused with HTTP status {error.status}")
                        return

    async def _hear(self, stream: Stream, position: Position) -> bool:
        """Passes on what one GET stream brings until it ends. Did it bring anything?"""
        events = Events(stream, self._max, on_dropped=_log_dropped)
        heard = False
        try:
            while (found := await events.next()) is not None:
                for event in found:
                    heard = position.note(event) or heard
                    self._tell_stray(event)
        except TransportError:
            # Whatever it was, it cost this connection; the next one goes on behind the last event.
            pass
        finally:
            self._done(stream)
        return heard

    def _tell_stray(self, event: tuple[bytes, bytes, bytes | None, int | None]) -> None:
        try:
            for raw in messages(event):
                self.on_stray(raw)
        except TransportError:
            log.debug("an event of a target is not JSON")
        except Exception:
            # The stream belongs to many; a fault of one listener's must not end it.
            log.exception("internal error while taking a message of a target")

    async def _stop_listening(self) -> None:
        listener, self._listener = self._listener, None
        if listener is not None and listener is not asyncio.current_task():
            listener.cancel()
            await asyncio.wait((listener,))
            if self._listening is not None:
                # A task that never began has not closed what it was given.
                self._done(self._listening)

    async def close(self, headers: Headers = ()) -> None:
        """See Transport.close. Requests in flight fail with kind `closed`; never raises."""
        self._closed = True
        await self._stop_listening()
        for stream in list(self._active):
            stream.cancel()
        if any(name.lower() == b"mcp-session-id" for name, _ in headers):
            try:
                # 405: the target keeps its sessions to itself; 404: it forgot this one already. Both are fine.
                await self._origin.fetch(b"DELETE", self._path, headers, None, timeout_s=DELETE_S, max_bytes=self._max)
            except TransportError:
                pass
