"""A peer: one conversation with one target, as a legacy session or as stateless modern requests.

Rules:
- the gateway is a conforming client: handshake, version and session headers, `_meta` of every modern request;
- a lost upstream session (404, process gone, stream gone) is opened again by the peer, with log level and subscriptions
  replayed; the caller does not notice unless its own request was under way and may have been processed;
- ids: a conversation of its own carries the caller's ids unchanged; a shared channel gets ids and progress tokens of the
  peer's own, restored octet for octet on the way back;
- messages outside any request are attributed where the wire allows it (progress by token, requests to the one request in
  flight) and otherwise handed to the conversation's owner.

Source: MCP lifecycle, transports, cancellation, progress (all revisions); reference sections 2.3-2.5.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import sys
from collections.abc import Callable
from typing import NamedTuple, Protocol

import msgspec
import orjson

from agw.mcp import errors, message, revisions, trace
from agw.mcp.bridge import errors as bridge_errors
from agw.mcp.message import Members, Message, MessageError
from agw.mcp.target import Target, header_lines
from agw.mcp.transport import Headers, OnMessage, Reply, TransportError
from agw.mcp.transports.http import HttpTransport
from agw.runtime.origin import Stream

log = logging.getLogger(__name__)

LONGEST_S = 86_400.0
"""Nothing is waited for longer, whatever signs of life there are."""


class Hello(NamedTuple):
    """What a caller says of itself. Capabilities and client info are raw JSON objects."""

    version: str
    capabilities: bytes
    client_info: bytes


class Sink(Protocol):
    """Where messages go that belong to a request in flight. `target` is set when the request is routed."""

    target: Target | None
    begun: Stream | None
    """An answer of the target that is on its way already; taken by the first attempt."""

    def notification(self, note: Message) -> None: ...
    def server_request(self, peer: LegacyPeer, ask: Message) -> None: ...
    def gap(self, retry_ms: int | None) -> None: ...
    def streamed(self) -> None:
        """The response came on an event stream."""


class Flight:
    """A request in flight: the id upstream, its sink, its progress token there and at the caller."""

    __slots__ = ("asks", "ident", "method", "patience", "sink", "their_token", "token", "wait")

    def __init__(self, ident: bytes, method: str, sink: Sink | None, token: bytes | None, their_token: bytes | None) -> None:
        self.ident = ident
        self.method = method
        self.sink = sink
        self.token = token
        self.their_token = their_token
        self.wait = 0.0
        self.patience: asyncio.Timeout | None = None
        self.asks: set[bytes] = set()

    def sign_of_life(self) -> None:
        """The target said something: the silence starts anew. While it waits for an answer of the client, nobody is silent."""
        if self.patience is not None and not self.patience.expired():
            self.patience.reschedule(None if self.asks else asyncio.get_running_loop().time() + self.wait)


class LegacyPeer:
    """A legacy session with a target.

    Owner: a conversation (`on_stray` is its ear) or a pool. `result` holds the members of the InitializeResult.
    """

    era: revisions.Era = "legacy"

    def __init__(self, target: Target, hello: Hello, *, shared: bool = False) -> None:
        self.target = target
        self.hello = hello
        self.shared = shared
        self.result: Members = {}
        self.capabilities: Members = {}
        self.version = hello.version
        self.sid: bytes | None = None
        self.level: bytes | None = None
        self.subscriptions: dict[bytes, None] = {}  # an empty set would be three times as large
        self.on_stray: Callable[[LegacyPeer, Message], None] = lambda peer, note: None
        self.on_reopen: Callable[[LegacyPeer], None] = lambda peer: None
        self._open = False
        self.may_reopen = True
        self.listening = False
        self._ended = False
        self.flights: dict[bytes, Flight] = {}
        self._ids = itertools.count(1)
        self._opening: asyncio.Future[None] | None = None
        self.transport = target.transport()
        self.transport.on_stray = self._stray
        self.transport.on_down = self._down

    # ------------------------------------------------------------------------------------------ session

    @property
    def is_open(self) -> bool:
        """Is there a session with the target?"""
        return self._open

    @is_open.setter
    def is_open(self, value: bool) -> None:
        # One place, because the target counts its sessions. A replica's session is counted where its home is.
        if value != self._open:
            self._open = value
            step = (1 if value else -1) if self.may_reopen else 0
            if self.shared:
                self.target.sessions_pooled += step
            else:
                self.target.sessions_owned += step

    def resume(self, sid: bytes | None, version: str) -> None:
        """Go on with a session that was opened elsewhere (another worker, an earlier life)."""
        self.sid = sid
        self.version = version
        self.is_open = True

    async def open(self) -> None:
        """The handshake; concurrent callers wait for the same one. Errors: RpcError, TransportError, VersionRefused."""
        if self.is_open:
            return
        if self._opening is not None:
            await asyncio.shield(self._opening)
            return
        self._opening = asyncio.get_running_loop().create_future()
        try:
            await self._handshake()
        except BaseException as error:
            self._opening.set_exception(error if isinstance(error, Exception) else TransportError("closed", "the handshake was given up"))
            self._opening.exception()
            raise
        else:
            self._opening.set_result(None)
        finally:
            self._opening = None

    async def _handshake(self) -> None:
        params = b'{"protocolVersion":%b,"capabilities":%b,"clientInfo":%b}' % (
            orjson.dumps(self.hello.version), self.hello.capabilities, self.hello.client_info)
        ident = b'"agw-initialize"'
        self.sid = None
        with self.target.timing("initialize") as timing:
            reply = await self.transport.request(
                message.request(ident, "initialize", params), ident, headers=self._headers(False), timeout_s=self.target.timeout_s("initialize"))
            timing.reply = reply.message
        answer = message.parse(reply.message)
        raw_error = answer.error
        if reply.status == 401:
            raise errors.reauthorise(self.target.name)
        if raw_error is not None:
            code = message.value(raw_error).get("code")
            if code in (errors.UNSUPPORTED_VERSION, errors.METHOD_NOT_FOUND) or reply.status == 404:
                raise VersionRefused(raw_error)
            raise errors.TargetError(raw_error)
        self.result, self.capabilities = self.target.greeting(answer.result or b"{}")
        self.version = sys.intern(message.text(self.result.get("protocolVersion")) or self.hello.version)
        self.sid = reply.header(b"mcp-session-id")
        self.is_open = True
        self.target.healthy = True
        self.target.learn("legacy", True)
        await self.transport.send(message.notification("notifications/initialized", None), headers=self._headers())

    async def _reopen(self) -> None:
        """A new session in place of a lost one, with what the caller had set up in it."""
        self.is_open = False
        await self.open()
        if self.level is not None and "logging" in self.capabilities:
            await self._quietly("logging/setLevel", b'{"level":%b}' % self.level)
        for uri in self.subscriptions:
            await self._quietly("resources/subscribe", b'{"uri":%b}' % uri)
        if self.listening:
            self.listening = False
            await self.listen()
        self.on_reopen(self)

    async def _quietly(self, method: str, params: bytes) -> None:
        ident = b'"agw-replay-%d"' % next(self._ids)
        try:
            await self.transport.request(
                message.request(ident, method, params), ident, headers=self._headers(), timeout_s=self.target.timeout_s(method))
        except TransportError as error:
            log.warning("session state could not be replayed", extra={"target": self.target.name, "method": method, "error": str(error)})

    def _headers(self, session: bool = True, more: Headers = ()) -> list[tuple[bytes, bytes]]:
        lines = header_lines(self.target.plan.headers)
        if session:
            if self.sid is not None:
                lines.append((b"mcp-session-id", self.sid))
            if self.version >= "2025-06-18":
                lines.append((b"mcp-protocol-version", self.version.encode()))
        lines.extend(more)
        return lines

    # ------------------------------------------------------------------------------------------ requests

    async def request(
        self, method: str, params: bytes | None, ident: bytes, sink: Sink | None, *, headers: Headers = (), timeout_s: float | None = None
    ) -> bytes:
        """Send a request; the raw result. Errors: TargetError (the target's own error), RpcError."""
        flight, params = self._fly(method, params, ident, sink)
        wait = timeout_s if timeout_s is not None else self.target.timeout_s(method)
        self.flights[flight.ident] = flight
        flight.wait = wait
        try:
            text, headers = trace.carried(message.request(flight.ident, method, params), headers, channel=self.target.is_channel)
            async with asyncio.timeout(wait) as flight.patience:
                reply = await self._carry(text, flight, headers)
        except TimeoutError:
            await self.cancel(flight.ident)
            raise self.target.failed(TransportError("timeout", "no answer in time")) from None
        except TransportError as error:
            raise self.target.failed(error) from None
        except VersionRefused as refused:
            raise errors.target_down(self.target.name, "it no longer speaks this protocol version") from refused
        except MessageError:
            raise errors.target_down(self.target.name, "its answer was not valid") from None
        finally:
            self.flights.pop(flight.ident, None)
            if not self.flights:
                self.flights = {}  # one that was filled keeps its size, and peers are many
        if sink is not None and is_stream(reply):
            sink.streamed()
        return outcome(reply, self.target.name)

    async def _carry(self, text: bytes, flight: Flight, headers: Headers) -> Reply:
        on_message = (lambda raw: self._related(flight, raw)) if flight.sink is not None else None
        on_gap = flight.sink.gap if flight.sink is not None else None
        for attempt in (1, 2):
            if self._ended:
                self._ended = False
                await self._reopen()
            else:
                await self.open()
            had = self.sid
            try:
                reply = await self._attempt(text, flight, self._headers(more=headers), on_message, on_gap)
            except TransportError as error:
                if attempt == 2 or not self._session_lost(error.status, had, error):
                    raise
            else:
                if attempt == 2 or not self._session_lost(reply.status, had, None):
                    return reply
            if not self.may_reopen:
                raise SessionGone
            if self.sid == had:
                await self._reopen()
        raise AssertionError("two attempts")

    async def _attempt(
        self, text: bytes, flight: Flight, headers: Headers, on_message: OnMessage | None, on_gap: Callable[[int | None], None] | None
    ) -> Reply:
        begun = take_begun(flight.sink)
        with self.target.timing(flight.method, flight.patience) as timing:
            if begun is not None and isinstance(self.transport, HttpTransport):
                reply = await self.transport.request(
                    text, flight.ident, headers=headers, on_message=on_message, on_gap=on_gap, timeout_s=LONGEST_S, begun=begun)
            else:
                reply = await self.transport.request(text, flight.ident, headers=headers, on_message=on_message, on_gap=on_gap, timeout_s=LONGEST_S)
            timing.reply = reply.message
        return reply

    def _session_lost(self, status: int, had: bytes | None, error: TransportError | None) -> bool:
        """Was the request refused, unprocessed, because the session is gone? Only then may it be sent again."""
        if error is not None and not error.sent and self.target.is_channel and not self.is_open:
            return True
        return had is not None and status in (400, 404)

    def _fly(self, method: str, params: bytes | None, ident: bytes, sink: Sink | None) -> tuple[Flight, bytes | None]:
        token = None
        meta = message.members(message.members(params).get("_meta")) if params is not None and b"progressToken" in params else {}
        if "progressToken" in meta:
            token = bytes(meta["progressToken"])
        if not self.shared:
            if not is_plain_id(ident) and (sink is None or sink.begun is None):
                ident = b'"agw-id-%d"' % next(self._ids)
            return Flight(ident, method, sink, token, token), params
        number = next(self._ids)
        own = b"%d" % number
        if token is not None and params is not None:
            parts = message.members(params)
            meta["progressToken"] = msgspec.Raw(own)
            parts["_meta"] = msgspec.Raw(message.encode(meta))
            params = message.encode(parts)
        return Flight(own, method, sink, own if token is not None else None, token), params

    async def fetch(self, method: str, params: bytes, hello: Hello) -> bytes:
        """A page of a list."""
        return await self.request(method, params, b'"agw-list-%d"' % next(self._ids), None)

    async def notify(self, method: str, params: bytes | None, headers: Headers = ()) -> None:
        """Send a notification; a target that is down is no error, nobody waits for the answer."""
        await self.send(message.notification(method, params), headers)

    async def send(self, text: bytes, headers: Headers = ()) -> None:
        """Send a notification or a response as it is."""
        if not self.is_open:
            return
        for flight in self.flights.values():
            if flight.asks and b'"id"' in text:
                flight.asks.discard(bytes(message.members(text).get("id", b"")))
                flight.sign_of_life()
        try:
            await self.transport.send(text, headers=self._headers(more=headers))
        except TransportError as error:
            log.info("message not delivered", extra={"target": self.target.name, "error": str(error)})

    async def cancel(self, ident: bytes, reason: bytes | None = None) -> None:
        """Tell the target that nobody waits for request `ident` (its id upstream) any more."""
        tail = b"" if reason is None else b',"reason":' + reason
        await self.notify("notifications/cancelled", b'{"requestId":%b%b}' % (ident, tail))

    async def listen(self) -> None:
        """Open the stream of unsolicited messages, if the target has one. Never fails."""
        if self.listening or not self.is_open:
            return
        self.listening = True
        try:
            await self.transport.listen(self._headers())
        except TransportError as error:
            if error.status != 405:
                log.info("no stream of unsolicited messages", extra={"target": self.target.name, "error": str(error)})

    async def close(self) -> None:
        """End the session: DELETE upstream, or end the process."""
        self.is_open = False
        try:
            await self.transport.close(self._headers() if self.sid is not None else ())
        except TransportError as error:
            log.info("session not ended cleanly", extra={"target": self.target.name, "error": str(error)})

    # ------------------------------------------------------------------------------------------ from the target

    def _related(self, flight: Flight, raw: bytes) -> None:
        """A message on the request's own stream."""
        flight.sign_of_life()
        try:
            found = message.parse(raw)
        except MessageError as error:
            log.warning("message of a target dropped", extra={"target": self.target.name, "error": str(error)})
            return
        self._tell(flight, found)

    def _tell(self, flight: Flight, found: Message) -> None:
        if found.kind == "request" and found.ident is not None and found.method != "ping":
            flight.asks.add(found.ident)
        flight.sign_of_life()
        if flight.sink is None:
            self.on_stray(self, found)
        elif found.kind == "notification":
            if self.shared and found.method == "notifications/progress":
                found = self._restore(flight, found)
            flight.sink.notification(found)
        elif found.kind == "request":
            flight.sink.server_request(self, found)

    def _restore(self, flight: Flight, note: Message) -> Message:
        if flight.their_token is None:
            return note
        parts = message.members(note.params)
        parts["progressToken"] = msgspec.Raw(flight.their_token)
        params = message.encode(parts)
        return Message(message.notification("notifications/progress", params), "notification", None, "notifications/progress", params)

    def _stray(self, raw: bytes) -> None:
        """A message on the common stream: find the request it belongs to, else the owner gets it."""
        try:
            found = message.parse(raw)
        except MessageError as error:
            log.warning("message of a target dropped", extra={"target": self.target.name, "error": str(error)})
            return
        if found.kind == "response":
            return
        if found.method == "notifications/progress":
            token = message.members(found.params).get("progressToken")
            for flight in self.flights.values():
                if token is not None and flight.token == bytes(token):
                    self._tell(flight, found)
                    return
            return
        if self.target.is_channel and len(self.flights) == 1 and (found.kind == "request" or found.method == "notifications/message"):
            (flight,) = self.flights.values()
            if flight.sink is not None:
                self._tell(flight, found)
                return
        self.on_stray(self, found)

    def _down(self, reason: str) -> None:
        if self.target.is_channel:
            # What was set up in it went with it.
            self._ended = self._ended or self.is_open
            self.is_open = False
            self.sid = None
        self.listening = False
        log.info("a target's channel ended", extra={"target": self.target.name, "reason": reason})


class SessionGone(Exception):
    """The target forgot the session, and whoever may open another one is elsewhere."""


class VersionRefused(Exception):
    """The target refused the legacy handshake in a way that says it is modern. `raw_error` is its error."""

    def __init__(self, raw_error: bytes) -> None:
        super().__init__("the target does not speak this era")
        self.raw_error = raw_error


def take_begun(sink: Sink | None) -> Stream | None:
    """The answer that is on its way already, once."""
    if sink is None or sink.begun is None:
        return None
    begun, sink.begun = sink.begun, None
    return begun


def drop_begun(sink: Sink) -> None:
    """Give up an answer nobody took."""
    begun = take_begun(sink)
    if begun is not None:
        begun.cancel()


def is_plain_id(ident: bytes) -> bool:
    """Does every JSON library give this id back in these octets? Not with escapes or non-ASCII, nor beyond 2**53 - 1."""
    if ident[:1] == b'"':
        return ident.isascii() and b"\\" not in ident
    return len(ident) <= 15


def is_stream(reply: Reply) -> bool:
    """Did the response come as an event of a stream?"""
    return (reply.header(b"content-type") or b"").lower().startswith(b"text/event-stream")


def outcome(reply: Reply, target: str) -> bytes:
    """The raw result of a response. Errors: TargetError; RpcError where `target` wants other credentials."""
    if reply.status == 401:
        raise errors.reauthorise(target)
    parts = message.members(reply.message)
    found = parts.get("result")
    if found is not None:
        return bytes(found)
    raw_error = bytes(parts.get("error", b'{"code":-32603,"message":"no answer"}'))
    raise errors.TargetError(raw_error, status=reply.status or bridge_errors.http_status(bridge_errors.code_of(raw_error)))

