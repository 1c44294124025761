"""Legacy clients over HTTP+SSE (2024-11-05): one event stream carries everything to the client, POSTs carry everything from it.

Rules:
- `GET …/sse` opens the stream, whose first event names the address for POSTs: the same path with a sealed, unguessable id;
- a POST is answered 202 at once, its answer comes as an event; whatever is wrong with an id, the answer is 404;
- the stream is the session: when it ends, the session and what stands behind it end;
- a POST may come to any worker: the id names the one that holds the stream.

A POST without an id is answered 405, which is what newer clients look for to find out which transport this is.

Source: MCP 2024-11-05, "HTTP with SSE"; MCP 2025-11-25, "Backwards Compatibility".
"""

from __future__ import annotations

import logging
import os
import time
from typing import TYPE_CHECKING
from urllib.parse import parse_qs

import msgspec

from agw._fast.arena import Slot
from agw._fast.call import Call
from agw._fast.outcome import CANCELLED, classify
from agw.mcp import errors, guarding, message, observe
from agw.mcp.legacy import answer_at_once, hello_of
from agw.mcp.legacy_session import MAX_IN_FLIGHT, Flight, LegacySession, open_ear
from agw.mcp.message import Message
from agw.mcp.streams import EventStream
from agw.security.contract import McpFacts

if TYPE_CHECKING:
    from agw.mcp.service import McpService
    from agw.mcp.view import View

log = logging.getLogger(__name__)

_PURPOSE = b"mcp sse channel 1"
NOT_THIS_WAY = b"HTTP+SSE: GET opens the stream, whose first event names the address for POST\n"


class _Address(msgspec.Struct, array_like=True, frozen=True):
    instance: bytes
    slot: int
    ident: bytes


class ChannelAnswer:
    """The answer to one POST: on the stream, whatever it is. The same methods as `streams.Answer`."""

    def __init__(self, call: Call, stream: EventStream, slot: Slot, label: int) -> None:
        self.call = call
        self.stream = stream
        self.done = False
        self.since = float("inf")
        self._slot = slot
        self._label = label
        self._began = time.perf_counter_ns()
        # The POST is over long before the request is: it is counted here.
        call.not_counted()

    def _count(self, outcome: int) -> None:
        seen = observe.current()
        label, tool = (self._label, 0) if seen is None else (seen.label, seen.tool)
        self._slot.observe_mcp(self.call.route, label, max(0, self.call.number), tool, outcome, time.perf_counter_ns() - self._began)

    def begin(self, retry_ms: int | None = None) -> EventStream | None:
        """It is a stream already."""
        return self.stream

    def send(self, raw: bytes) -> None:
        """A message before the response."""
        self.stream.send(raw)

    def part(self, retry_ms: int | None) -> None:
        """There is no way back to this kind of stream: it stays open."""

    def succeed(self, ident: bytes, result: bytes, lines: bytes = b"") -> None:
        """The response with a raw result."""
        self.finish(message.result(ident, result))

    def finish(self, raw: bytes, status: int = 200, lines: bytes = b"") -> None:
        """The response."""
        if not self.done:
            self.done = True
            self._count(classify(raw, self.call.rpc == b"tools/call")[0])
            self.stream.send(raw)

    def drop(self) -> None:
        """No response."""
        if not self.done:
            self.done = True
            self._count(CANCELLED)

    def keep_alive(self) -> None:
        """The stream is kept alive as a whole."""


class Channel:
    """One client's stream, and its session from `initialize` on."""

    def __init__(self, view: View, ident: bytes, principal: bytes) -> None:
        self.view = view
        self.ident = ident
        self.principal = principal
        self.stream = EventStream()
        self.session: LegacySession | None = None
        self.opening = False


class SseFront:
    """What a service says to clients over HTTP+SSE."""

    def __init__(self, service: McpService) -> None:
        self.service = service
        self.channels: dict[bytes, Channel] = {}

    def get(self, call: Call, view: View) -> None:
        """Open a stream."""
        service = self.service
        if len(self.channels) >= service.endpoint.plan.max_sessions:
            raise errors.RpcError(errors.INTERNAL, "the gateway has no room for another session", status=503, always=True, reason="sessions")
        ident = os.urandom(16)
        channel = self.channels[ident] = Channel(view, ident, service.principal(call))
        address = msgspec.msgpack.encode(_Address(service.host.instance, service.host.index, ident))
        token = service.host.ring.seal(_PURPOSE, address, channel.principal)
        channel.stream.attach(call, prime=False)
        call.write(b"event: endpoint\ndata: %b?sessionId=%b\n\n" % (call.path, token))
        call.on_close = lambda: self._lost(channel)
        call.forget()
        if not call.open:
            self._lost(channel)

    def _lost(self, channel: Channel) -> None:
        self.channels.pop(channel.ident, None)
        channel.stream.lost()
        channel.stream.close()
        if channel.session is not None:
            self.service.spawn(channel.session.close())

    def post(self, call: Call) -> None:
        """A message of a client."""
        tokens = parse_qs((call.query or b"").decode("latin-1")).get("sessionId", [])
        if not tokens:
            call.reply(405, b"text/plain; charset=utf-8", NOT_THIS_WAY, b"Allow: GET\r\n")
            return
        channel = self._find(call, tokens[0])
        if channel is None:
            return
        if call.kind == "batch":
            raise errors.RpcError(errors.INVALID_REQUEST, "batches exist in protocol version 2025-03-26 only", status=400, always=True)
        note = message.parse(call.body)
        service = self.service
        if note.kind == "request" and note.method == "tools/call" and channel.session is not None:
            self._step_up(call, channel.session, note)
        answer = ChannelAnswer(call, channel.stream, service.host.context.slot, service.endpoint.label) if note.kind == "request" else None
        call.reply(202, b"text/plain; charset=utf-8", b"Accepted")
        if answer is None:
            self._told(channel, note)
        else:
            self._take(call, channel, note, answer)

    def _step_up(self, call: Call, session: LegacySession, note: Message) -> None:
        """A challenge is an HTTP status, so it comes before the POST is taken. Whose name is not known yet is judged later.

        Errors: RpcError 403.
        """
        warrant = guarding.warrant_of(call)
        name = None if warrant is None else message.text(message.members(note.params).get("name"))
        if warrant is None or name is None:
            return
        refusal = warrant.lacking((name,))
        found = None if refusal is None else session.view.tool_now(session, name)
        if refusal is not None and found is not None and warrant.sees(
                McpFacts("tools/call", "tool", found[0].name, found[1], name, session.session_name)):
            raise guarding.as_error(refusal)

    def _find(self, call: Call, token: str) -> Channel | None:
        service = self.service
        payload = service.host.ring.open(_PURPOSE, token.encode("latin-1", "replace"), service.principal(call))
        address = None if payload is None else msgspec.msgpack.decode(payload, type=_Address)
        if address is not None and address.instance == service.host.instance:
            if address.slot != service.host.index and not call.hopped:
                way = service.host.hop(call, address.slot)
                if way is not None:
                    call.pass_on(way, None)
                    return None
            found = self.channels.get(address.ident)
            if found is not None:
                return found
        raise errors.unknown_session()

    def _told(self, channel: Channel, note: Message) -> None:
        session = channel.session
        if session is None:
            return
        if note.kind == "response":
            session.answered(note.raw, note.ident or b"null")
        else:
            self.service.spawn(session.notified(note))

    def _take(self, call: Call, channel: Channel, note: Message, answer: ChannelAnswer) -> None:
        session = channel.session
        if note.method == "initialize":
            if session is not None or channel.opening:
                answer.finish(message.failure(note.ident, errors.RpcError(errors.INVALID_REQUEST, "already initialized").raw()))
                return
            channel.opening = True
            self.service.serve(call, self._initialize(channel, note, answer, call), answer, note.ident, legacy=True)
            return
        if session is None:
            result = b"{}" if note.method == "ping" else None
            refusal = errors.RpcError(errors.INVALID_REQUEST, "initialize comes first")
            answer.finish(message.result(note.ident or b"null", result) if result else message.failure(note.ident, refusal.raw()))
            return
        self._request(call, session, note, answer)

    def _request(self, call: Call, session: LegacySession, note: Message, answer: ChannelAnswer) -> None:
        ident = note.ident or b"null"
        try:
            done = answer_at_once(session, note)
            if ident in session.flights or len(session.flights) >= MAX_IN_FLIGHT:
                raise errors.RpcError(errors.INVALID_REQUEST, "a request with this id is under way, or too many are")
        except errors.RpcError as error:
            answer.finish(message.failure(ident, error.raw()))
            return
        if done is not None:
            answer.finish(message.result(ident, done))
            return
        flight = session.flights[ident] = Flight(session, answer)
        flight.task = self.service.serve(
            call, self.service.legacy.perform(session, note, flight, answer, self.service.forwarded(call)), answer, ident, legacy=True)
        flight.task.add_done_callback(lambda _: session.landed(ident, flight))

    async def _initialize(self, channel: Channel, note: Message, answer: ChannelAnswer, call: Call) -> None:
        try:
            session, result = await self.service.sessions.begin(channel.view, hello_of(note), channel.principal)
        finally:
            channel.opening = False
        if channel.ident not in self.channels:
            await session.close()
            return
        channel.session = session
        session.standalone = channel.stream
        answer.finish(message.result(note.ident or b"null", result))
        await session.for_each(open_ear)

    def sweep(self) -> None:
        """Keep streams alive."""
        for channel in self.channels.values():
            channel.stream.keep_alive()

    def sessions(self) -> list[LegacySession]:
        """The sessions of all channels."""
        return [channel.session for channel in self.channels.values() if channel.session is not None]

    async def close(self) -> None:
        """The worker or the backend ends."""
        for channel in list(self.channels.values()):
            self.channels.pop(channel.ident, None)
            channel.stream.close()
            if channel.session is not None:
                await channel.session.close()
