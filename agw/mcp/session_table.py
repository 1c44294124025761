"""The legacy sessions of one backend in one worker: found by id, shared with other workers, put to sleep, ended.

Rules:
- an id that opens is a session of this backend and principal; whether it still lives is known to its home alone, so whatever
  only the home can do goes there, and calls to HTTP targets are served by whichever worker gets them (replicas);
- a session that rests is put to sleep after a while: what it is stands in its id, what was set in it is kept, and the next
  request wakes it. Sleeping costs about a kilobyte; the upstream sessions stay open;
- idle for longer than the time to live, a session ends, asleep or not, and so do the sessions behind it;
- long walks over sessions are spread over time, a few of them at once;
- what most clients say alike (version, capabilities, name) is kept once.

Source: MCP 2025-11-25, "Session Management"; reference section 2.4.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from agw._fast.call import Call
from agw.mcp import errors
from agw.mcp.legacy_session import LegacySession, StatelessSession
from agw.mcp.peer import Hello
from agw.mcp.session import SessionState, UpstreamSession

if TYPE_CHECKING:
    from agw.mcp.service import McpService
    from agw.mcp.view import View

log = logging.getLogger(__name__)

LONGEST_LIFE_S = 86_400
"""How long an id is good at most, however busy the session is."""
REST_S = 60.0
"""How long a session rests before it is put to sleep."""
MAX_ENDED = 100_000
STRIDE = 16
"""Sessions looked at between two turns of the loop."""
SWEPT_PER_S = 5000
"""The pace of a walk over all sessions: calls must not notice it, however many sessions there are."""
MAX_HELLOS = 1024


class Asleep(NamedTuple):
    """A session that rests: what its id says, what was set in it, and when it was used last (monotonic seconds)."""

    state: SessionState
    memo: bytes
    principal: bytes
    last_used: float


class SessionTable:
    """All sessions of one service."""

    def __init__(self, service: McpService) -> None:
        self.service = service
        self.awake: dict[bytes, LegacySession] = {}
        """By id."""
        self.asleep: dict[bytes, Asleep] = {}
        """By uuid, in the order they fell asleep."""
        self.replicas: dict[bytes, LegacySession] = {}
        """By id: sessions of other workers whose calls are served here."""
        self._ended: dict[bytes, None] = {}
        self._hellos: dict[Hello, Hello] = {}
        self._sweeping: asyncio.Task[None] | None = None

    def __len__(self) -> int:
        return len(self.awake) + len(self.asleep)

    def __iter__(self) -> Iterator[LegacySession]:
        yield from list(self.awake.values())

    # ------------------------------------------------------------------------------------------ open

    async def open(self, view: View, hello: Hello, principal: bytes) -> tuple[LegacySession | None, bytes]:
        """A new session and its InitializeResult; no session when the backend is stateless. Errors: RpcError."""
        service = self.service
        plan = service.endpoint.plan
        if len(self) >= plan.max_sessions:
            raise errors.RpcError(errors.INTERNAL, "the gateway has no room for another session", status=503, always=True, reason="sessions")
        if not plan.stateful:
            return None, await view.initialize(StatelessSession(view, hello, principal))
        session, result = await self.begin(view, hello, principal, max(LONGEST_LIFE_S, plan.session_ttl_ns // 1_000_000_000))
        state = session.state
        upstream = {
            name: UpstreamSession((peer.sid or b"").decode("latin-1"), peer.version)
            for name, peer in session.legacy_peers() if not peer.target.is_channel
        }
        session.state = msgspec.structs.replace(state, version=session.hello.version, upstream=upstream)
        session.token = session.state.pack(service.host.ring, principal)
        self.awake[session.token] = session
        service.ways.open(session)
        return session, result

    def same(self, hello: Hello) -> Hello:
        """An equal greeting that other sessions share."""
        if len(self._hellos) >= MAX_HELLOS:
            self._hellos.clear()
        return self._hellos.setdefault(hello, hello)

    async def begin(self, view: View, hello: Hello, principal: bytes, life_s: int = 0) -> tuple[LegacySession, bytes]:
        """A session without an id, for whoever holds it in another way, and its InitializeResult. Errors: RpcError."""
        host = self.service.host
        hello = self.same(hello)
        now = int(time.time())
        state = SessionState(
            version=hello.version, capabilities=hello.capabilities, client_info=hello.client_info, backend=view.name, created=now, expires=now + life_s,
            uuid=os.urandom(16), instance=host.instance, slot=host.index)
        session = LegacySession(view, hello, principal, state, b"")
        try:
            return session, await view.initialize(session)
        except BaseException:
            await session.close()
            raise

    # ------------------------------------------------------------------------------------------ find

    def find(self, call: Call, view: View, token: bytes, principal: bytes, begun: bool) -> LegacySession | None:
        """The session of an id; None when the call was passed on to the session's home.

        `begun`: an answer to the call has begun here, so it cannot go elsewhere.
        Errors: RpcError 404 for an id that is no session of this caller here.
        """
        found = self.awake.get(token)
        if found is not None:
            if found.principal != principal or found.view is not view:
                raise errors.unknown_session()
            return found
        host = self.service.host
        state = SessionState.unpack(host.ring, token, principal, view.name, int(time.time()))
        if state is None:
            raise errors.unknown_session()
        home = self.home(state)
        if home != host.index and not call.hopped:
            return self._away(call, view, token, state, home, principal, begun)
        if state.instance == host.instance:
            sleeper = self.asleep.pop(state.uuid, None)
            if sleeper is not None:
                return self._wake(view, token, state, principal, sleeper.memo)
            if state.slot == host.index and (state.created > host.started or state.uuid in self._ended):
                # It was opened in this very process and is not here any more: it was ended, or its time was over.
                raise errors.unknown_session()
        return self._wake(view, token, state, principal, host.recovered.pop(state.uuid, None))

    def _wake(self, view: View, token: bytes, state: SessionState, principal: bytes, memo: bytes | None) -> LegacySession:
        if state.capabilities is None or state.client_info is None or len(self) >= self.service.endpoint.plan.max_sessions:
            raise errors.unknown_session()
        hello = self.same(Hello(state.version, state.capabilities, state.client_info))
        session = self.awake[token] = LegacySession(view, hello, principal, state, token)
        session.recall(memo)
        self.service.ways.open(session)
        return session

    def home(self, state: SessionState) -> int:
        """The slot of the worker a session belongs to. One from another host or life belongs to whom its name points."""
        host = self.service.host
        return state.slot if state.instance == host.instance else state.uuid[0] % host.workers

    def _away(
        self, call: Call, view: View, token: bytes, state: SessionState, home: int, principal: bytes, begun: bool
    ) -> LegacySession | None:
        """A session whose home is another worker: what only its home can do goes there, calls go from here."""
        host = self.service.host
        # Answers of the client to what a target asked through this worker name it. Whatever else has such a name, of a
        # session that nothing was asked of here, goes home like the rest.
        asked_here = call.kind == "response" and (call.ident or b"").startswith(b'"agw-%d-' % host.index)
        found = self.replicas.get(token) if begun or asked_here else None
        if found is not None:
            return found
        if begun:
            raise errors.unknown_session()
        way = host.hop(call, home)
        if way is None:
            raise errors.unknown_session()
        if state.capabilities is not None and token not in self.replicas and len(self.replicas) < self.service.endpoint.plan.max_sessions:
            hello = self.same(Hello(state.version, state.capabilities, state.client_info or b"{}"))
            replica = self.replicas[token] = LegacySession(view, hello, principal, state, token)
            replica.is_replica = True
            self.service.ways.open(replica)
        call.pass_on(way, None)
        return None

    def drop_replica(self, token: bytes) -> LegacySession | None:
        """Whatever the session is now, only its home knows."""
        self.service.ways.close(token)
        return self.replicas.pop(token, None)

    # ------------------------------------------------------------------------------------------ end

    def forget(self, session: LegacySession) -> None:
        """From now on its id is unknown."""
        host = self.service.host
        self.awake.pop(session.token, None)
        self.service.ways.close(session.token)
        if session.state.created <= host.started:
            # Times of ids are whole seconds, so the rule for ids of an earlier life does not cover the first one.
            self._ended[session.state.uuid] = None
            if len(self._ended) > MAX_ENDED:
                del self._ended[next(iter(self._ended))]
        host.journal.drop(session.state.uuid)

    async def end(self, session: LegacySession) -> None:
        """Forget a session and end what stands behind it."""
        self.forget(session)
        await session.close()

    async def close(self) -> None:
        """The worker or the backend ends. Sleeping sessions stay what they are: another life may go on with them."""
        if self._sweeping is not None:
            self._sweeping.cancel()
        await asyncio.gather(*(self.end(session) for session in self), return_exceptions=True)

    # ------------------------------------------------------------------------------------------ time

    def sweep(self) -> None:
        """Called every few seconds."""
        if self._sweeping is None or self._sweeping.done():
            self._sweeping = self.service.spawn(self._sweep())

    async def _sweep(self) -> None:
        ttl = self.service.endpoint.plan.session_ttl_ns / 1e9
        sessions = list(self)
        now = time.monotonic()
        for number, session in enumerate(sessions):
            if number % STRIDE == STRIDE - 1:
                await asyncio.sleep(STRIDE / SWEPT_PER_S)
                now = time.monotonic()
            if session.over or session.token not in self.awake:
                continue
            if session.standalone is not None and session.standalone.call is not None:
                session.last_used = now
                session.standalone.look_after(now)
                continue
            idle = now - self._last_used(session)
            if idle > ttl and not session.flights:
                self.service.spawn(self.end(session))
            elif idle > REST_S and session.may_sleep():
                self._lay_down(session)
        while self.asleep:
            uuid, sleeper = next(iter(self.asleep.items()))
            if now - sleeper.last_used <= ttl:
                break
            del self.asleep[uuid]
            await self._end_asleep(sleeper)
        for token, replica in list(self.replicas.items()):
            if now - self._last_used(replica) > REST_S and not replica.flights and not replica.pending:
                self.drop_replica(token)

    def _last_used(self, session: LegacySession) -> float:
        return max(session.last_used, self.service.ways.last_used(session.token))

    def _lay_down(self, session: LegacySession) -> None:
        last_used = self._last_used(session)
        self.awake.pop(session.token, None)
        self.service.ways.close(session.token)
        self.asleep[session.state.uuid] = Asleep(session.state, session.memo(), session.principal, last_used)
        session.rest()

    async def _end_asleep(self, sleeper: Asleep) -> None:
        state = sleeper.state
        if state.capabilities is None or state.client_info is None:
            return
        view = self.service.view_named(state.backend)
        session = LegacySession(view, Hello(state.version, state.capabilities, state.client_info), sleeper.principal, state, b"")
        session.recall(sleeper.memo)
        for target in view.targets:
            if target.name in state.upstream:
                await session.peer(target)
        await self.end(session)
