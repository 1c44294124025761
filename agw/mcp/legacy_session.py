"""A legacy session: what a client of 2024-11-05 … 2025-11-25 has with the gateway, and the sessions behind it.

Rules:
- the session lives in its home worker; its id is sealed state, so that a successor can go on with it;
- every target has a session of its own behind it, opened at the handshake or when first needed, with the client's own
  version, capabilities and name, so that targets behave as if the client had called them;
- a request of a target gets an id of ours; the answer, on whatever connection it comes, is mapped back once;
- what a client has set (log level, subscriptions) is remembered and replayed to sessions that are opened later;
- a disconnect is not a cancellation; a cancelled request says nothing further.

Source: MCP 2025-11-25, lifecycle, transports, cancellation; reference sections 2.3, 2.4.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import msgspec
import orjson

from agw.mcp import errors, message, observe
from agw.mcp.bridge import rounds
from agw.mcp.conversation import AnyPeer, Conversation
from agw.mcp.message import Message
from agw.mcp.peer import Hello, LegacyPeer, SessionGone, Sink, VersionRefused, drop_begun
from agw.mcp.replay import Replay, ReplayStore
from agw.mcp.revisions import LOG_LEVELS
from agw.mcp.session import SessionState, UpstreamSession
from agw.mcp.streams import EventStream, Reporter
from agw.mcp.target import Target
from agw.mcp.transport import Headers, TransportError
from agw.runtime.origin import Stream

if TYPE_CHECKING:
    from agw.mcp.farm import Pooled
    from agw.mcp.view import View

log = logging.getLogger(__name__)

MAX_PENDING = 256
"""Requests of targets that wait for the client's answer, per session."""

MAX_IN_FLIGHT = 1024
"""Requests of the client under way, per session."""


class Memo(msgspec.Struct, array_like=True, frozen=True):
    """A session's state beyond its id: log level (raw), target by subscribed URI, upstream ids and versions."""

    level: bytes | None
    subscriptions: dict[str, str]
    upstream: dict[str, tuple[str, str]]


class Flight:
    """A request of the client under way."""

    __slots__ = ("answer", "begun", "session", "target", "task")

    def __init__(self, session: LegacySession, answer: Reporter) -> None:
        self.session = session
        self.answer = answer
        self.target: Target | None = None
        self.begun: Stream | None = None
        self.task: asyncio.Task[Any] | None = None

    def drop(self) -> None:
        """It was cancelled: its answer ends without a response."""
        self.answer.drop()

    def notification(self, note: Message) -> None:
        self.answer.send(self.session.outward_note(self.target, note).raw)

    def server_request(self, peer: LegacyPeer, ask: Message) -> None:
        self.session.relay(peer, ask, self.answer.send)

    def gap(self, retry_ms: int | None) -> None:
        self.answer.part(retry_ms)

    def streamed(self) -> None:
        # What streams there streams here: some callers count on it.
        self.answer.begin()


class PartFlight(Flight):
    """A request of a batch under way: when it is cancelled, the others go on."""

    __slots__ = ()

    def drop(self) -> None:
        """The batch's answer leaves it out."""


class LegacySession(Conversation):
    """One session. `token` is its id; `state` what is sealed in it."""

    era = "legacy"

    def __init__(self, view: View, hello: Hello, principal: bytes, state: SessionState, token: bytes) -> None:
        super().__init__(view, hello, principal)
        self.state = state
        self.token = token
        self.peers: dict[str, AnyPeer] = {}
        self.flights: dict[bytes, Flight] = {}
        self.pending: dict[bytes, tuple[LegacyPeer, bytes] | Callable[[bytes], None]] = {}
        self.memory: ReplayStore | None = None
        self.streams: dict[int, EventStream] = {}
        self.standalone: EventStream | None = None
        self.level: bytes | None = None
        self.subscriptions: dict[str, str] = {}
        """Target's name by its own URI."""
        self.last_used = time.monotonic()
        self.over = False
        self.is_replica = False
        self._asked = 0
        self._opening: dict[str, asyncio.Lock] = {}
        self._resumable = dict(state.upstream)

    @property
    def session_name(self) -> str:
        """What rules call it: not its id, which is a secret."""
        return self.state.uuid.hex() if any(self.state.uuid) else ""

    @property
    def log_fields(self) -> bytes:
        """What the access log says of its requests."""
        return observe.session_fields(self.state.uuid, self.hello.version)

    # ------------------------------------------------------------------------------------------ targets

    async def peer(self, target: Target) -> AnyPeer:
        found = self.peers.get(target.name)
        if found is not None:
            return found
        lock = self._opening.setdefault(target.name, asyncio.Lock())
        async with lock:
            found = self.peers.get(target.name)
            if found is None:
                found = await self._open(target)
                if self.over:
                    await self._close_peer(found)
                    raise errors.unknown_session()
                self.peers[target.name] = found
                # Whoever comes later finds the peer. A dictionary that was filled keeps its size, and sessions are many.
                del self._opening[target.name]
                if not self._opening:
                    self._opening = {}
        return found

    async def _open(self, target: Target) -> AnyPeer:
        """A session with a target: the one named in our id, a new one, or the bridge to a modern-only target."""
        if target.plan.stdio is not None and target.plan.stdio.sharing == "shared":
            return await self._share(target)
        if target.verdict("legacy") is not False:
            peer = LegacyPeer(target, self.hello)
            peer.on_stray = self._on_stray
            peer.on_reopen = self._reopened
            peer.may_reopen = not self.is_replica
            known = self._resumable.pop(target.name, None)
            if known is not None and not target.is_channel:
                peer.resume(known.sid.encode("latin-1") or None, known.version)
                peer.level = self.level
                peer.subscriptions.update((orjson.dumps(uri), None) for uri, owner in self.subscriptions.items() if owner == target.name)
                peer.capabilities = self.view.known_capabilities(target)
                peer.result = {"capabilities": message.raw(peer.capabilities)}
                return peer
            if self.is_replica:
                raise SessionGone
            try:
                await peer.open()
            except VersionRefused:
                target.learn("legacy", False)
                await peer.close()
            except TransportError as error:
                await peer.close()
                if error.kind != "status" or error.status not in (400, 404, 405):
                    raise target.failed(error) from None
            except BaseException:
                await peer.close()
                raise
            else:
                self.view.note_capabilities(target, peer)
                await self._set_up(peer)
                return peer
        return await self.view.bridged(self, target)

    async def _share(self, target: Target) -> AnyPeer:
        """One process for everybody, by the operator's choice: nobody can be asked anything through it."""
        hello = self.hello._replace(capabilities=b"{}")
        pooled = await self.view.farm.borrow(target, hello, b"shared " + hello.version.encode(), alone=False, many=True)
        self.view.farm.give_back(pooled)
        self.view.note_capabilities(target, pooled.peer)
        return SharedPeer(pooled)

    async def _set_up(self, peer: LegacyPeer) -> None:
        if self.level is not None and "logging" in peer.capabilities:
            await self._tell(peer, "logging/setLevel", b'{"level":%b}' % self.level)
            peer.level = self.level
        for uri, owner in self.subscriptions.items():
            if owner == peer.target.name:
                await self._tell(peer, "resources/subscribe", b'{"uri":%b}' % orjson.dumps(uri))
                peer.subscriptions[orjson.dumps(uri)] = None
        if self.standalone is not None:
            await peer.listen()

    def went(self, target: Target, peer: AnyPeer) -> None:
        if isinstance(peer, LegacyPeer) and not peer.shared:
            self.view.service.ways.used_session(self, peer)

    def _reopened(self, peer: LegacyPeer) -> None:
        self.view.service.ways.lost(self, peer.target)
        self.view.service.remember(self)

    def landed(self, ident: bytes, flight: Flight) -> None:
        """A request of the client is over. Its id may be under way anew by now."""
        if self.flights.get(ident) is flight:
            del self.flights[ident]
            if not self.flights:
                self.flights = {}  # one that was filled keeps its size, and sessions are many
        drop_begun(flight)

    # ------------------------------------------------------------------------------------------ what survives

    def memo(self) -> bytes:
        """What was set in the session since the handshake, for whoever goes on with it."""
        upstream = {name: ((peer.sid or b"").decode("latin-1"), peer.version) for name, peer in self.legacy_peers() if not peer.target.is_channel}
        return msgspec.msgpack.encode(Memo(self.level, self.subscriptions, upstream))

    def may_sleep(self) -> bool:
        """Can everything it is be told from its id and its memo?"""
        if self.flights or self.pending or self.standalone is not None or (self.memory is not None and self.memory.events):
            return False
        if self.state.home_only or self.state.partial:
            return False
        return all(isinstance(peer, LegacyPeer) and not peer.target.is_channel and not peer.flights for peer in self.peers.values())

    def rest(self) -> None:
        """Let go of everything but the upstream sessions themselves."""
        self.over = True
        for _, peer in self.legacy_peers():
            # Counted again when the session wakes.
            peer.is_open = False
        self.peers.clear()

    def recall(self, raw: bytes | None) -> None:
        """Go on where another worker left off."""
        if raw is None:
            return
        memo = msgspec.msgpack.decode(raw, type=Memo)
        self.level = memo.level
        self.subscriptions = memo.subscriptions
        self._resumable.update({name: UpstreamSession(sid, version) for name, (sid, version) in memo.upstream.items()})

    async def _tell(self, peer: AnyPeer, method: str, params: bytes) -> None:
        try:
            await peer.request(method, params, b'"agw-%d"' % self._next(), None, timeout_s=peer.target.deadline_s)
        except errors.RpcError as error:
            log.info("a target did not take session state", extra={"target": peer.target.name, "method": method, "error": error.message})

    def _next(self) -> int:
        self._asked += 1
        return self._asked

    def legacy_peers(self) -> list[tuple[str, LegacyPeer]]:
        """The open sessions with targets, by target name."""
        return [(name, peer) for name, peer in self.peers.items() if isinstance(peer, LegacyPeer)]

    async def for_each(self, what: Callable[[AnyPeer], Awaitable[None]]) -> None:
        """Do something with every open peer at once; failures are theirs."""
        await asyncio.gather(*(what(peer) for peer in list(self.peers.values())), return_exceptions=True)

    async def drop_peer(self, name: str) -> None:
        """A target is no longer there, or is another one now."""
        peer = self.peers.pop(name, None)
        if peer is not None:
            await self._close_peer(peer)

    async def close(self) -> None:
        """The end of the session: streams end, sessions and processes behind it too."""
        self.over = True
        if self.standalone is not None:
            self.standalone.close()
        for flight in list(self.flights.values()):
            if flight.task is not None:
                flight.task.cancel()
        self.pending.clear()
        await self.for_each(self._close_peer)
        self.peers.clear()

    async def _close_peer(self, peer: AnyPeer) -> None:
        close = getattr(peer, "close", None)
        if close is not None:
            await close()

    # ------------------------------------------------------------------------------------------ streams

    def open_stream(self) -> EventStream:
        """A stream with event ids, remembered for callers that come back."""
        if self.memory is None:
            self.memory = self.view.new_memory()
        memory = self.memory.open()
        stream = self.streams[memory.number] = EventStream(memory)
        if len(self.streams) > self.memory.max_streams:
            self.streams = {number: old for number, old in self.streams.items() if number in self.memory.streams or old.call is not None}
        return stream

    def resume_stream(self, last_event_id: bytes) -> tuple[EventStream, Replay] | None:
        """The stream an event id belongs to and what followed; None for ids that are not of this session."""
        if self.memory is None:
            return None
        found = self.memory.resume(last_event_id.decode("latin-1"), time.monotonic_ns())
        if found is None:
            return None
        stream = self.streams.get(found[0].number)
        return None if stream is None else (stream, found[1])

    # ------------------------------------------------------------------------------------------ from targets

    def relay(self, peer: LegacyPeer, ask: Message, send: Callable[[bytes], None]) -> None:
        """A target's request to the client: under an id of ours, on the stream of the call that caused it."""
        if ask.method == "ping":
            self._answer(peer, message.result(ask.ident or b"null", b"{}"))
            return
        if len(self.pending) >= MAX_PENDING or not self._can(ask.method or ""):
            self._answer(peer, message.failure(ask.ident, orjson.dumps({"code": errors.METHOD_NOT_FOUND, "message": "the client does not offer this"})))
            return
        ident = self._new_ident()
        self.pending[ident] = (peer, ask.ident or b"null")
        params = self.view.outward_ask(peer.target, ask, self.principal)
        send(message.request(ident, ask.method or "", params))

    def ask(self, question: rounds.Question, send: Callable[[bytes], None], answer: asyncio.Future[bytes]) -> bytes:
        """A question of a modern target, on the stream of the call that caused it; `answer` gets the client's response.

        Returns the id it was asked under. Errors: RpcError when too many wait or the client's version has no such request.
        """
        ident = self._new_ident()
        if len(self.pending) >= MAX_PENDING:
            raise errors.RpcError(errors.INTERNAL, "too many requests wait for the client's answer", status=503)
        text = rounds.legacy_request(ident, question, self.hello.version, secrets.token_urlsafe(16))
        self.pending[ident] = lambda raw: None if answer.done() else answer.set_result(raw)
        send(text)
        return ident

    def _new_ident(self) -> bytes:
        # It names this worker, because the answer may arrive at any.
        return b'"agw-%d-%d"' % (self.view.service.host.index, self._next())

    def answered(self, raw: bytes, ident: bytes) -> None:
        """The client's answer to a request of a target. Unknown ids are dropped: nobody waits."""
        waiting = self.pending.pop(ident, None)
        if waiting is None:
            return
        if callable(waiting):
            waiting(raw)
            return
        peer, theirs = waiting
        self._answer(peer, message.with_id(raw, theirs))

    def _answer(self, peer: LegacyPeer, raw: bytes) -> None:
        self.view.spawn(peer.send(raw))

    def _can(self, method: str) -> bool:
        needed = {"sampling/createMessage": "sampling", "elicitation/create": "elicitation", "roots/list": "roots"}.get(method)
        return needed is None or needed in message.members(self.hello.capabilities)

    def outward_note(self, target: Target | None, note: Message) -> Message:
        """A target's notification in the client's terms."""
        return self.view.outward_note(target, note, self.principal)

    def _on_stray(self, peer: LegacyPeer, found: Message) -> None:
        """A message outside any request."""
        if found.kind == "request":
            if self.standalone is not None:
                self.relay(peer, found, self.standalone.send)
            elif found.method == "ping":
                self._answer(peer, message.result(found.ident or b"null", b"{}"))
            else:
                self._answer(peer, message.failure(
                    found.ident, orjson.dumps({"code": errors.INVALID_PARAMS, "message": "no request of the client is under way"})))
            return
        if (found.method or "").endswith("/list_changed") and not self.view.is_plain:
            # The shared lists are old now. With one target every session hears of it from its own upstream session.
            self.view.changed(peer.target, found.method or "")
            return
        self.tell(self.outward_note(peer.target, found).raw)

    def tell(self, raw: bytes) -> None:
        """A notification for the client that belongs to no request."""
        if self.standalone is not None:
            self.standalone.send(raw)

    # ------------------------------------------------------------------------------------------ from the client

    async def set_level(self, params: bytes | None) -> bytes:
        """`logging/setLevel`: remembered, told to every target that logs."""
        level = message.members(params).get("level")
        if message.text(level) not in LOG_LEVELS:
            raise errors.RpcError(errors.INVALID_PARAMS, "params.level must be one of the log levels", status=400)
        self.level = bytes(level or b"")

        async def tell(peer: AnyPeer) -> None:
            if isinstance(peer, LegacyPeer) and "logging" in peer.capabilities:
                peer.level = self.level
                await self._tell(peer, "logging/setLevel", b'{"level":%b}' % (self.level or b'"info"'))

        await self.for_each(tell)
        self.view.service.remember(self)
        return b"{}"

    async def subscribe(self, method: str, params: bytes | None, ident: bytes, flight: Flight) -> bytes:
        """`resources/subscribe` and `unsubscribe`: routed, and remembered for a session that has to be opened again."""
        result = await self.perform(method, params, ident, flight)
        uri = message.text(message.members(params).get("uri")) or ""
        target, inner = await self.view.resource(self, uri)
        peer = self.peers.get(target.name)
        if method == "resources/subscribe":
            self.subscriptions[inner] = target.name
        else:
            self.subscriptions.pop(inner, None)
        if isinstance(peer, LegacyPeer):
            if method == "resources/subscribe":
                peer.subscriptions[orjson.dumps(inner)] = None
            else:
                peer.subscriptions.pop(orjson.dumps(inner), None)
        self.view.service.remember(self)
        return result

    async def cancelled(self, params: bytes | None) -> None:
        """`notifications/cancelled`: to the target that serves the request, and nowhere else."""
        parts = message.members(params)
        wanted = parts.get("requestId")
        if wanted is None or not isinstance(message.value(wanted), (str, int)):
            return
        flight = self.flights.get(bytes(wanted))
        reason = parts.get("reason")
        if flight is None:
            await self._cancel_relayed(bytes(wanted), reason)
            return
        for peer in self.peers.values():
            inner = getattr(peer, "flights", {})
            for upstream in list(inner.values()):
                if upstream.sink is flight and isinstance(peer, LegacyPeer):
                    await peer.cancel(upstream.ident, bytes(reason) if reason is not None else None)
        flight.drop()
        if flight.task is not None:
            flight.task.cancel()

    async def _cancel_relayed(self, wanted: bytes, reason: msgspec.Raw | None) -> None:
        """A request the compiled path carries: there ids are the client's own. Another worker may have it: then any target may."""
        service = self.view.service
        index = service.ways.give_up(self.token, wanted)
        if index is None and service.host.workers == 1:
            return
        for _, peer in self.legacy_peers():
            if index is None or peer.target.index == index:
                await peer.cancel(wanted, bytes(reason) if reason is not None else None)

    async def notified(self, note: Message) -> None:
        """A notification of the client."""
        if note.method == "notifications/cancelled":
            await self.cancelled(note.params)
        elif note.method == "notifications/initialized":
            # Each target heard it when its own session was opened.
            return
        elif note.method == "notifications/progress":
            await self._progressed(note)
        else:
            await self.for_each(lambda peer: self._pass(peer, note))

    async def _progressed(self, note: Message) -> None:
        # Progress of a request that a target made: tokens are the target's own and go back as they came.
        for peer in self.peers.values():
            if isinstance(peer, LegacyPeer) and any(isinstance(w, tuple) and w[0] is peer for w in self.pending.values()):
                await peer.send(note.raw)

    async def _pass(self, peer: AnyPeer, note: Message) -> None:
        if isinstance(peer, LegacyPeer):
            await peer.send(note.raw)








async def open_ear(peer: AnyPeer) -> None:
    """Have a peer listen for what belongs to no request, if it can."""
    listen = getattr(peer, "listen", None)
    if listen is not None:
        await listen()


class SharedPeer:
    """A session's view of a peer that many sessions use: it is not this session's to close."""

    def __init__(self, pooled: Pooled) -> None:
        self.pooled = pooled
        self.target = pooled.peer.target
        self.result = pooled.peer.result
        self.capabilities = pooled.peer.capabilities

    async def request(
        self, method: str, params: bytes | None, ident: bytes, sink: Sink | None, *, headers: Headers = (), timeout_s: float | None = None
    ) -> bytes:
        """See LegacyPeer.request."""
        self.pooled.last_used = time.monotonic()
        return await self.pooled.peer.request(method, params, ident, sink, headers=headers, timeout_s=timeout_s)

    async def fetch(self, method: str, params: bytes, hello: Hello) -> bytes:
        """See LegacyPeer.fetch."""
        return await self.pooled.peer.fetch(method, params, hello)


class StatelessSession(LegacySession):
    """Stands for a session where none are kept: pooled sessions behind it, and no way to ask the client anything."""

    def __init__(self, view: View, hello: Hello, principal: bytes) -> None:
        now = int(time.time())
        state = SessionState(
            version=hello.version, capabilities=hello.capabilities, client_info=hello.client_info, backend=view.name, created=now, expires=now,
            uuid=bytes(16), instance=bytes(8), slot=0)
        super().__init__(view, hello._replace(capabilities=b"{}"), principal, state, b"")

    async def peer(self, target: Target) -> AnyPeer:
        if target.verdict("legacy") is not False:
            try:
                pooled = await self.view.farm.borrow(target, self.hello, self.audience, alone=False)
            except VersionRefused:
                target.learn("legacy", False)
            else:
                self.view.farm.give_back(pooled)
                return pooled.peer
        return await self.view.bridged(self, target)
