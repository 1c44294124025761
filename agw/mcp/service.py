"""One MCP backend in one worker: takes calls from the data path, judges them, and gives them to the front of their era.

Rules:
- order of judgement: Host and Origin, method, media types, the ladder (era and headers against body), session;
- every failure becomes an answer in one place (`refuse` and `serve`), in JSON-RPC, with the caller's id;
- sessions live here in their home worker; ids that name another worker are passed to it as they came;
- a service outlives reloads: a new plan is taken over (`reconfigure`) and those who listen are told what changed.

Source: reference section 2.2 (order), 2.4 (sessions).
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import time
from collections.abc import Coroutine, Iterator
from typing import TYPE_CHECKING, Any, Protocol

from agw._fast.call import Call
from agw._fast.exchange import Context
from agw._fast.policy import Choice
from agw.mcp import credentials, errors, guarding, ladder, message, observe, revisions
from agw.mcp.farm import Farm
from agw.mcp.headers import passing
from agw.mcp.legacy import SESSION_HEADER, LegacyFront
from agw.mcp.legacy_session import LegacySession
from agw.mcp.legacy_sse import SseFront
from agw.mcp.listen import Listener, listen
from agw.mcp.message import Message
from agw.mcp.modern import ModernFront, ModernRequest
from agw.mcp.origin_guard import Guard
from agw.mcp.parking import Parking
from agw.mcp.peer import SessionGone
from agw.mcp.seal import KeyRing
from agw.mcp.session_table import SessionTable
from agw.mcp.streams import KEEP_ALIVE_S, Answer, Reporter
from agw.mcp.view import View
from agw.mcp.ways import Ways

if TYPE_CHECKING:
    from agw._fast.fetch import Fetch
    from agw.runtime.endpoint import McpEndpoint
    from agw.runtime.origin import Stream

log = logging.getLogger(__name__)


class Journal(Protocol):
    """Where session state outlives the worker."""

    def put(self, uuid: bytes, state: bytes) -> bool: ...
    def drop(self, uuid: bytes) -> None: ...

MCP_REASON = 16
"""`MCP` in the table of reasons (forward.pyx)."""


class Host(Protocol):
    """The worker, as its MCP services see it."""

    context: Context
    ring: KeyRing
    instance: bytes
    index: int
    workers: int
    started: float
    binds: list[str]
    recovered: dict[bytes, bytes]

    @property
    def journal(self) -> Journal: ...

    def hop(self, call: Call, slot: int) -> Choice | None:
        """The way to the worker in another slot; None when there is no such worker."""
        ...


class McpService:
    """One backend. `endpoint` is its compiled plan; replaced by `reconfigure`."""

    def __init__(self, endpoint: McpEndpoint, host: Host) -> None:
        self.host = host
        self.sessions = SessionTable(self)
        self.answers: set[Reporter] = set()
        self.listeners: set[Listener] = set()
        self.tasks: set[asyncio.Task[Any]] = set()
        self.legacy = LegacyFront(self)
        self.modern = ModernFront(self)
        self.sse = SseFront(self)
        self._begun: Stream | None = None
        self.parking = Parking(host.ring, host.instance, host.index)
        self.origin = f"{host.index}.{int(host.started * 1000):x}"
        self._look_at(endpoint, None)

    def _look_at(self, endpoint: McpEndpoint, previous: Farm | None) -> None:
        self.endpoint = endpoint
        self._guards = {
            bind: Guard(endpoint.plan.guard, _is_loopback(bind), endpoint.plan.allowed_hosts, endpoint.plan.allowed_origins) for bind in self.host.binds
        }
        self.farm = Farm(endpoint, self.host, previous)
        self.view = View(self, endpoint, self.farm)
        self.virtual = {plan.name.encode(): View(self, endpoint, self.farm, plan, self.view) for plan in endpoint.plan.virtual_servers}
        only = self.farm.targets[0] if self.view.is_plain else None
        self._only = None if only is None else (only.label, only.name.encode())
        self.ways = Ways(self.view, any(guard.active for guard in self._guards.values()))

    def reconfigure(self, endpoint: McpEndpoint) -> None:
        """A new plan: targets that stay are kept with what is known of them, sessions go on, and everybody hears of it."""
        before = self.farm
        old = self.view
        if endpoint.identity == self.endpoint.identity and endpoint.credentials == self.endpoint.credentials:
            # The same backend in a new snapshot; its clusters are the same objects too.
            self.endpoint = endpoint
            self.ways.lend(endpoint)
            return
        self._look_at(endpoint, before)
        names = {target.name: target for target in self.farm.targets}
        for session in self.all_sessions():
            virtual = session.view.virtual
            view = self.view if virtual is None else self.virtual.get(virtual.name.encode())
            if view is None:
                self.spawn(self.sessions.end(session))
                continue
            session.view = view
            self.ways.open(session)
            for name in [name for name, peer in session.peers.items() if names.get(name) is not peer.target]:
                self.spawn(session.drop_peer(name))
        for listener in list(self.listeners):
            virtual = listener.view.virtual
            view = self.view if virtual is None else self.virtual.get(virtual.name.encode())
            if view is None:
                listener.leave()
            else:
                listener.follow(view)
        self.spawn(before.close())
        self.spawn(old.catalogue.close())
        for kind in ("tools", "prompts", "resources"):
            self.announce(f"notifications/{kind}/list_changed")

    # ------------------------------------------------------------------------------------------ calls

    def handle(self, call: Call) -> None:
        """One request from the data path. Answers or starts answering; never raises."""
        try:
            self._judge(call)
        except errors.RpcError as error:
            self.refuse(call, error)

    def resume(self, call: Call, target: int, fetch: Fetch) -> None:
        """One request whose answer has begun on the compiled path and is not one to relay."""
        self._begun = self.farm.targets[target].adopt(fetch)
        try:
            self._judge(call)
        except errors.RpcError as error:
            self.refuse(call, error)
        finally:
            begun = self.take_begun()
            if begun is not None:
                begun.cancel()

    def take_begun(self) -> Stream | None:
        """The answer that has begun, once."""
        begun, self._begun = self._begun, None
        return begun

    def _judge(self, call: Call) -> None:
        if self._only is not None:
            call.note(*self._only)
        hosts = call.values(b"host")
        guard = self._guard(call)
        refused = guard.check(hosts, call.values(b"origin"))
        if refused:
            raise errors.RpcError(
                errors.INVALID_REQUEST, "Host or Origin is not allowed here", status=refused, reason="guard", always=True)
        if guard.active:
            self.ways.table.learn_host(hosts[0])
        if call.path.endswith(b"/sse") and self.endpoint.plan.stateful and (call.method == "POST" or call.method == "GET"):
            self._over_sse(call)
            return
        view = self._view(call)
        if call.method == "POST":
            self._post(call, view)
            return
        if call.method != "GET" and call.method != "DELETE":
            self._not_allowed(call, b"Allow: GET, POST, DELETE\r\n")
            return
        versions = call.values(b"mcp-protocol-version")
        if not self.endpoint.plan.stateful or any(version.decode("latin-1") in revisions.MODERN for version in versions):
            self._not_allowed(call, b"Allow: POST\r\n")
            return
        if call.method == "GET":
            if not ladder.accepts(call.values(b"accept"))[1]:
                raise errors.RpcError(errors.INVALID_REQUEST, "Not Acceptable: GET answers with text/event-stream", status=406, always=True)
            self.legacy.get(call, view)
        else:
            self.legacy.delete(call, view)

    def _not_allowed(self, call: Call, allow: bytes) -> None:
        refusal = errors.RpcError(errors.INVALID_REQUEST, "method not allowed here")
        call.reply(405, b"application/json", _failure(None, refusal), allow, MCP_REASON)

    def _over_sse(self, call: Call) -> None:
        """2024-11-05: the path before `/sse` names the view."""
        if call.method == "POST":
            self.sse.post(call)
        elif not ladder.accepts(call.values(b"accept"))[1]:
            raise errors.RpcError(errors.INVALID_REQUEST, "Not Acceptable: GET answers with text/event-stream", status=406, always=True)
        else:
            name = call.path.split(b"/")[-2]
            self.sse.get(call, self.virtual.get(name, self.view))

    def _post(self, call: Call, view: View) -> None:
        if not ladder.is_json(call.header(b"content-type")):
            raise errors.RpcError(errors.INVALID_REQUEST, "Unsupported Media Type: Content-Type must be application/json", status=415, always=True)
        json, events = ladder.accepts(call.values(b"accept"))
        if not json and not events:
            raise errors.RpcError(errors.INVALID_REQUEST, "Not Acceptable: the answer is application/json or text/event-stream", status=406, always=True)
        if call.kind == "batch":
            self.legacy.post(call, view, None, json, events)
            return
        method = None if call.rpc is None else message.text(b'"' + call.rpc + b'"')
        kind = call.kind
        assert kind == "request" or kind == "notification" or kind == "response"
        note = Message(call.body, kind, call.ident, method, call.params)
        verdict = ladder.judge(call.values, note, revisions.ALL, allow_unknown=view.takes_unknown)
        if verdict.era == "modern":
            self.modern.post(call, view, note, verdict, json, events)
        else:
            # Of two types that are equally welcome the one named first is preferred; sessions know streams, so they may choose.
            self.legacy.post(call, view, note, json and not (events and ladder.prefers_events(call.values(b"accept"))), events)

    def _guard(self, call: Call) -> Guard:
        return self._guards[call.bind]

    def _view(self, call: Call) -> View:
        if self.virtual:
            found = self.virtual.get(call.path.rpartition(b"/")[2])
            if found is not None:
                return found
        return self.view

    def refuse(self, call: Call, error: errors.RpcError) -> None:
        """An answer instead of a handled request."""
        status = error.status if error.always or call.kind != "request" else 200 if self._is_legacy(call) else error.status
        call.reply(status, b"application/json", _failure(call.ident if call.kind == "request" else None, error), error.lines, MCP_REASON)

    def _is_legacy(self, call: Call) -> bool:
        return not any(version.decode("latin-1") in revisions.MODERN for version in call.values(b"mcp-protocol-version"))

    def serve(self, call: Call, work: Coroutine[Any, Any, None], answer: Reporter, ident: bytes | None, *, legacy: bool) -> asyncio.Task[None]:
        """Run the handling of one request to its end, whatever that is."""
        task = asyncio.get_running_loop().create_task(self._served(call, work, answer, ident, legacy))
        self.tasks.add(task)
        self.answers.add(answer)
        task.add_done_callback(self.tasks.discard)
        task.add_done_callback(lambda _: self.answers.discard(answer))
        return task

    async def _served(self, call: Call, work: Coroutine[Any, Any, None], answer: Reporter, ident: bytes | None, legacy: bool) -> None:
        label = self.endpoint.label if self._only is None else self._only[0]
        observe.begin(observe.Observation(call, self.host.context.slot, label))
        try:
            credentials.begin(call)
            guarding.begin(guarding.warrant_of(call))
            await work
        except errors.RpcError as error:
            work.close()  # where nothing of it was allowed to begin
            status = error.status if error.always or not legacy else 200
            if isinstance(error, errors.TargetError) and error.denied and not legacy:
                # A target's refusal is no challenge of ours: the caller would answer it with another token.
                status = 502
            answer.finish(_failure(ident, error), status, error.lines)
        except SessionGone:
            # Only the session's home may open another one.
            self._send_home(call, answer, ident)
        except asyncio.CancelledError:
            answer.drop()
        except Exception as error:
            log.exception("internal error in an MCP request", exc_info=error)
            answer.finish(_failure(ident, errors.RpcError(errors.INTERNAL, "Internal error")), 200 if legacy else 500)

    def spawn(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Something nobody waits for; its failures are logged."""
        task = asyncio.get_running_loop().create_task(work)
        self.tasks.add(task)
        task.add_done_callback(self._spawned)
        return task

    def _spawned(self, task: asyncio.Task[Any]) -> None:
        self.tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            log.error("internal error behind an MCP request", exc_info=task.exception())

    # ------------------------------------------------------------------------------------------ what a call carries

    def principal(self, call: Call) -> bytes:
        """Who calls: what sessions, cursors, states and task ids are bound to. Empty where no policy names a principal."""
        return credentials.principal(call, self.endpoint.auths)

    def forwarded(self, call: Call) -> list[tuple[bytes, bytes]]:
        """The caller's header fields that may go to targets: without those that proved to the gateway who he is."""
        own = self.endpoint.credentials
        return [field for field in passing(call.headers) if field[0] not in own]

    # ------------------------------------------------------------------------------------------ sessions

    def session_of(self, call: Call, view: View) -> LegacySession | None:
        """The session a call belongs to; None when the call was passed on to the session's home.

        Errors: RpcError, 400 without an id, 404 for an id that is no session of this caller here.
        """
        if not self.endpoint.plan.stateful:
            return view.stateless_session(call, self.principal(call))
        ids = call.values(SESSION_HEADER)
        if len(ids) != 1:
            raise errors.RpcError(errors.INVALID_REQUEST, "Bad Request: exactly one Mcp-Session-Id is needed", status=400, always=True)
        return self.sessions.find(call, view, ids[0], self.principal(call), self._begun is not None)

    def _send_home(self, call: Call, answer: Reporter, ident: bytes | None) -> None:
        token = call.header(SESSION_HEADER) or b""
        replica = self.sessions.drop_replica(token)
        way = None if replica is None else self.host.hop(call, self.sessions.home(replica.state))
        if way is None or call.started:
            answer.finish(_failure(ident, errors.target_down("", "its session was lost")))
        else:
            answer.done = True
            call.pass_on(way, None)

    def remember(self, session: LegacySession) -> None:
        """What a session has set must survive this worker."""
        if session.token:
            self.host.journal.put(session.state.uuid, session.memo())

    async def listen(self, request: ModernRequest, note: Message, answer: Answer) -> None:
        """`subscriptions/listen`, until the caller leaves."""
        await listen(self, request, note, answer)

    def all_sessions(self) -> Iterator[LegacySession]:
        """Every session of this worker."""
        yield from self.sessions
        yield from self.sse.sessions()

    def view_named(self, name: str) -> View:
        """The view a session id was made for; the whole backend when that view is gone."""
        return next((view for view in self.virtual.values() if view.name == name), self.view)

    # ------------------------------------------------------------------------------------------ time, change, end

    def sweep(self) -> None:
        """Called every few seconds: keep streams alive, end what is idle for too long."""
        now = time.monotonic()
        self.sse.sweep()
        for answer in list(self.answers):
            if now - answer.since > KEEP_ALIVE_S:
                answer.keep_alive()
        self.sessions.sweep()
        self.spawn(self._sweep_shared(now))

    async def _sweep_shared(self, now: float) -> None:
        await self.parking.sweep(now)
        await self.farm.sweep(now)

    def announce(self, method: str) -> None:
        """Lists changed: tell every session and every listener, once."""
        note = message.notification(method, None)
        for session in self.all_sessions():
            session.tell(note)
        for listener in list(self.listeners):
            listener.changed(method)

    def drain(self) -> None:
        """The worker is about to leave: streams that could stay open for ever end now, so that clients come back elsewhere."""
        for session in self.sessions:
            if session.standalone is not None:
                session.standalone.part(None)
        for listener in list(self.listeners):
            listener.leave()
        self.spawn(self.sse.close())

    async def close(self) -> None:
        """The end of the worker or of the backend."""
        await self.sessions.close()
        for task in list(self.tasks):
            if task is not asyncio.current_task():
                task.cancel()
        await self.sse.close()
        await self.parking.close()
        await self.view.catalogue.close()
        await self.farm.close()


def _failure(ident: bytes | None, error: errors.RpcError) -> bytes:
    return message.failure(ident, error.raw())



def _is_loopback(bind: str) -> bool:
    """Is a bind key (`address:port`, `*:port`) a loopback address?"""
    address = bind.rpartition(":")[0].strip("[]")
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return address == "localhost"


