"""Legacy clients over Streamable HTTP (2025-03-26 … 2025-11-25): sessions, POST, GET, DELETE.

Rules:
- `initialize` opens a session and answers with its sealed id; everything else needs one: 400 without, 404 for any id that
  is not a living session here, whatever is wrong with it;
- errors of the protocol are JSON-RPC with HTTP 200; only what the transport section defines has another status;
- one GET stream per session: a newer one takes the place of an older one;
- batches only on sessions of 2025-03-26, the one version that has them.

Source: MCP 2025-03-26 and 2025-11-25, "Streamable HTTP", "Session Management"; reference sections 1.6, 1.8, 2.2.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any

from agw._fast.call import Call
from agw._fast.jsonrpc import EnvelopeError, locate
from agw.mcp import errors, guarding, message, observe
from agw.mcp.legacy_session import MAX_IN_FLIGHT, Flight, LegacySession, PartFlight, open_ear
from agw.mcp.message import Message
from agw.mcp.peer import Hello
from agw.mcp.revisions import LEGACY, newest_common
from agw.mcp.streams import Answer, Reporter
from agw.security.contract import McpFacts

if TYPE_CHECKING:
    from agw.mcp.service import McpService
    from agw.mcp.view import View

log = logging.getLogger(__name__)

SESSION_HEADER = b"mcp-session-id"
PRIMED_SINCE = "2025-11-25"
RETRY_MS = 1000


class LegacyFront:
    """What a service says to legacy clients over Streamable HTTP."""

    def __init__(self, service: McpService) -> None:
        self.service = service

    # ------------------------------------------------------------------------------------------ POST

    def post(self, call: Call, view: View, note: Message | None, json: bool, events: bool) -> None:
        """One POST of a legacy client. `note` None: a batch."""
        if note is not None and note.kind == "request" and note.method == "initialize":
            if call.header(SESSION_HEADER) is not None:
                raise errors.RpcError(errors.INVALID_REQUEST, "initialize begins a session and carries no Mcp-Session-Id", status=400, always=True)
            answer = Answer(call, json=json, events=events)
            # No comment may begin the answer: its head carries the session id, which is known at the end.
            answer.since = float("inf")
            self._run(call, self._initialize(view, note, call, answer), answer, note.ident)
            return
        session = self.service.session_of(call, view)
        if session is None:
            return
        session.last_used = time.monotonic()
        call.note_fields(session.log_fields)
        if note is None:
            self._batch(call, session, json, events)
        elif note.kind == "request":
            self._request(call, session, note, Answer(
                call, json=json, events=events, open_stream=session.open_stream, prime=session.hello.version >= PRIMED_SINCE))
        else:
            self._accept(session, note)
            call.reply(202, None, b"")

    def _accept(self, session: LegacySession, note: Message) -> None:
        if note.kind == "response":
            session.answered(note.raw, note.ident or b"null")
        else:
            self.service.spawn(session.notified(note))

    def _request(self, call: Call, session: LegacySession, note: Message, answer: Answer) -> None:
        ident = note.ident or b"null"
        if ident in session.flights or self.service.ways.is_under_way(session.token, ident):
            raise errors.RpcError(errors.INVALID_REQUEST, "a request with this id is under way", status=400)
        if len(session.flights) >= MAX_IN_FLIGHT:
            raise errors.RpcError(errors.INTERNAL, "too many requests of this session are under way", status=503)
        flight = Flight(session, answer)
        flight.begun = self.service.take_begun()
        headers = self.service.forwarded(call)
        done = answer_at_once(session, note)
        if done is not None:
            answer.finish(message.result(ident, done))
            return
        session.flights[ident] = flight
        answer.on_end = lambda: session.landed(ident, flight)
        flight.task = self._run(call, self.perform(session, note, flight, answer, headers), answer, ident)
        flight.task.add_done_callback(lambda _: session.landed(ident, flight))

    async def perform(self, session: LegacySession, note: Message, flight: Flight, answer: Reporter, headers: list[tuple[bytes, bytes]]) -> None:
        """Carry out a request of a session and answer it."""
        method, ident = note.method or "", note.ident or b"null"
        if method == "logging/setLevel":
            guarding.admit_method(method, session.session_name)
            result = await session.set_level(note.params)
        elif method in ("resources/subscribe", "resources/unsubscribe"):
            result = await session.subscribe(method, note.params, ident, flight)
        else:
            result = await session.perform(method, note.params, ident, flight, headers)
        answer.succeed(ident, result)

    def _run(self, call: Call, work: Coroutine[Any, Any, None], answer: Answer, ident: bytes | None) -> asyncio.Task[None]:
        return self.service.serve(call, work, answer, ident, legacy=True)

    async def _initialize(self, view: View, note: Message, call: Call, answer: Answer) -> None:
        guarding.admit_method("initialize")
        hello = hello_of(note)
        session, result = await self.service.sessions.open(view, hello, self.service.principal(call))
        call.note_fields(observe.session_fields(b"", hello.version) if session is None else session.log_fields)
        ident = note.ident or b"null"
        lines = b"" if session is None else b"Mcp-Session-Id: " + session.token + b"\r\n"
        answer.succeed(ident, result, lines)

    # ------------------------------------------------------------------------------------------ batches

    def _batch(self, call: Call, session: LegacySession, json: bool, events: bool) -> None:
        if session.hello.version != "2025-03-26":
            raise errors.RpcError(errors.INVALID_REQUEST, "batches exist in protocol version 2025-03-26 only", status=400, always=True)
        notes: list[Message] = []
        for raw in message.split_batch(call.body):
            try:
                found = locate(raw)
                notes.append(message.parse(raw))
            except (EnvelopeError, message.MessageError) as error:
                raise errors.RpcError(errors.INVALID_REQUEST, "an element of the batch is no JSON-RPC message", status=400, always=True) from error
            if found["method"] == b"initialize":
                raise errors.RpcError(errors.INVALID_REQUEST, "initialize cannot be part of a batch", status=400, always=True)
        if not notes:
            raise errors.RpcError(errors.INVALID_REQUEST, "an empty batch", status=400, always=True)
        asks = [note for note in notes if note.kind == "request"]
        for note in notes:
            if note.kind != "request":
                self._accept(session, note)
        if not asks:
            call.reply(202, None, b"")
            return
        answer = Answer(call, json=json, events=events, open_stream=session.open_stream)
        self._run(call, self._answer_batch(session, asks, answer, self.service.forwarded(call)), answer, None)

    async def _answer_batch(self, session: LegacySession, asks: list[Message], answer: Answer, headers: list[tuple[bytes, bytes]]) -> None:
        async def one(note: Message) -> bytes:
            """The response; empty when the request was cancelled."""
            ident = note.ident or b"null"
            done = answer_at_once(session, note)
            if done is not None:
                return message.result(ident, done)
            flight = PartFlight(session, answer)
            flight.task = asyncio.current_task()
            if ident in session.flights:
                return message.failure(ident, errors.RpcError(errors.INVALID_REQUEST, "a request with this id is under way").raw())
            session.flights[ident] = flight
            try:
                if note.method == "logging/setLevel":
                    guarding.admit_method("logging/setLevel", session.session_name)
                    return message.result(ident, await session.set_level(note.params))
                return message.result(ident, await session.perform(note.method or "", note.params, ident, flight, headers))
            except errors.RpcError as error:
                return message.failure(ident, error.raw())
            except asyncio.CancelledError:
                return b""
            finally:
                session.flights.pop(ident, None)

        await step_up(session, asks)
        said = [each for each in await asyncio.gather(*(one(note) for note in asks)) if each]
        if said:
            answer.finish(b"[%b]" % b",".join(said))
        else:
            answer.drop()

    # ------------------------------------------------------------------------------------------ GET, DELETE

    def get(self, call: Call, view: View) -> None:
        """The stream of what belongs to no request, or the rest of a stream that broke off."""
        session = self.service.session_of(call, view)
        if session is None:
            return
        session.last_used = time.monotonic()
        call.note_fields(session.log_fields)
        last = call.header(b"last-event-id")
        prime = session.hello.version >= PRIMED_SINCE
        if last:
            found = session.resume_stream(last)
            if found is None:
                raise errors.RpcError(errors.INVALID_REQUEST, "no stream with this event id", status=400, always=True)
            stream, replay = found
            stream.attach(call, prime=prime, after=last.decode("latin-1"))
            stream.replay(replay.events)
        else:
            stream = session.open_stream()
            if session.standalone is not None:
                session.standalone.close()
            session.standalone = stream
            stream.attach(call, prime=prime, retry_ms=RETRY_MS if prime else None)
            self.service.spawn(session.for_each(open_ear))
        call.forget()

    def delete(self, call: Call, view: View) -> None:
        """The client ends its session."""
        session = self.service.session_of(call, view)
        if session is None:
            return
        call.note_fields(session.log_fields)
        # Before the answer: the client's next request may be here sooner than the task.
        self.service.sessions.forget(session)
        self.service.spawn(session.close())
        call.reply(200, None, b"")


async def step_up(session: LegacySession, asks: list[Message]) -> None:
    """Before anything of a batch is carried out: the scopes all its calls need, in one challenge. Errors: RpcError 403."""
    warrant = guarding.current()
    if warrant is None:
        return
    names: list[str] = []
    for note in asks:
        if note.method != "tools/call":
            continue
        name = message.text(message.members(note.params).get("name"))
        if name is None or warrant.lacking((name,)) is None:
            continue
        try:
            target, inner = await session.view.tool(session, name)
        except errors.RpcError:
            continue
        if warrant.sees(McpFacts("tools/call", "tool", target.name, inner, name, session.session_name)):
            names.append(name)
    refusal = warrant.lacking(names) if names else None
    if refusal is not None:
        raise guarding.as_error(refusal)


def hello_of(note: Message) -> Hello:
    """What `initialize` says of the client, with the version we answer. Errors: RpcError."""
    params = message.members(note.params)
    wanted = message.text(params.get("protocolVersion"))
    if wanted is None or not all(bytes(params.get(name, b"")).startswith(b"{") for name in ("capabilities", "clientInfo")):
        raise errors.RpcError(errors.INVALID_PARAMS, "initialize needs protocolVersion, capabilities and clientInfo", status=400)
    return Hello(newest_common(wanted, LEGACY), bytes(params["capabilities"]), bytes(params["clientInfo"]))


def answer_at_once(session: LegacySession, note: Message) -> bytes | None:
    """The result of what the gateway answers itself without asking anyone."""
    if note.method == "ping":
        return b"{}"
    if note.method in ("notifications/initialized", "server/discover", "subscriptions/listen"):
        raise errors.method_not_found(note.method)
    return None
