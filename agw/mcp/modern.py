"""Modern clients (2026-07-28): stateless requests over Streamable HTTP, each judged by itself.

Rules:
- what the envelope and the mirrored headers say was compared before anything else (`ladder`); a stray session id is ignored;
- an answer is JSON unless something is to be said before the response; disconnecting is cancelling;
- results carry resultType, and ttlMs and cacheScope where the specification asks for them, whoever made them;
- nothing is remembered between requests but what the caller carries itself.

Source: MCP 2026-07-28, "Streamable HTTP", "Versioning", "Subscriptions".
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from agw._fast.call import Call
from agw.mcp import consent, errors, guarding, message, observe, revisions
from agw.mcp.conversation import AnyPeer, Conversation
from agw.mcp.ladder import Verdict
from agw.mcp.message import Members, Message
from agw.mcp.modern_peer import ModernPeer, NotModern
from agw.mcp.peer import Hello, LegacyPeer, drop_begun
from agw.mcp.streams import Answer
from agw.mcp.target import Target
from agw.runtime.origin import Stream

if TYPE_CHECKING:
    from agw.mcp.service import McpService
    from agw.mcp.view import View

log = logging.getLogger(__name__)


class ModernRequest(Conversation):
    """One request of a modern client, and the sink of what its target says before the response."""

    era = "modern"

    def __init__(self, view: View, meta: Members, version: str, principal: bytes, answer: Answer) -> None:
        capabilities = meta.get(revisions.META_CAPABILITIES)
        info = meta.get(revisions.META_CLIENT_INFO)
        super().__init__(view, Hello(version, bytes(capabilities or b"{}"), bytes(info or b'{"name":"unknown","version":"0"}')), principal)
        self.answer = answer
        level = meta.get(revisions.META_LOG_LEVEL)
        self.level = None if level is None else bytes(level)
        self.target: Target | None = None
        self.through: AnyPeer | None = None
        """What answered last."""
        self.begun: Stream | None = None

    async def peer(self, target: Target) -> AnyPeer:
        """The target in the modern era; a legacy-only target through the bridge."""
        if await self.view.is_modern(target):
            peer = self.view.modern_peer(target)
            try:
                await peer.discover()
            except NotModern:
                target.learn("modern", False)
            else:
                return peer
        return await self.view.bridged(self, target)

    def went(self, target: Target, peer: AnyPeer) -> None:
        self.through = peer
        if isinstance(peer, ModernPeer):
            self.view.service.ways.used_modern(target)

    # the sink

    def notification(self, note: Message) -> None:
        if note.method == "notifications/message" and self.level is None:
            return
        self.answer.send(self.view.outward_note(self.target, note, self.principal).raw)

    def server_request(self, peer: LegacyPeer, ask: Message) -> None:
        """The modern era has no requests of servers; the bridge parks those of legacy targets before they get here."""
        raise errors.target_down(peer.target.name, "it asked the client something that cannot be passed on")

    def gap(self, retry_ms: int | None) -> None:
        """A modern target cannot do this, and a bridged one's polling is no business of the client's."""

    def streamed(self) -> None:
        self.answer.begin()


class ModernFront:
    """What a service says to modern clients."""

    def __init__(self, service: McpService) -> None:
        self.service = service

    def post(self, call: Call, view: View, note: Message, verdict: Verdict, json: bool, events: bool) -> None:
        """One POST of a modern client; `verdict` holds its `_meta`."""
        if note.kind != "request":
            # Modern HTTP defines no notification of the client; it is taken and means nothing.
            call.reply(202, None, b"")
            return
        if self._belongs_elsewhere(call, note):
            return
        call.note_fields(observe.modern_fields(verdict.version))
        answer = Answer(call, json=json, events=events)
        meta = verdict.meta or {}
        request = ModernRequest(view, meta, verdict.version, self.service.principal(call), answer)
        request.begun = self.service.take_begun()
        task = self.service.serve(call, self._perform(request, call, note, answer), answer, note.ident, legacy=False)
        call.on_close = task.cancel
        task.add_done_callback(lambda _: drop_begun(request))

    def _belongs_elsewhere(self, call: Call, note: Message) -> bool:
        """A retry whose call is parked in another worker goes there as it came."""
        if note.params is None or b"requestState" not in note.params or call.hopped:
            return False
        state = message.text(message.members(note.params).get("requestState"))
        slot = None if state is None else self.service.parking.home(state, self.service.principal(call))
        way = None if slot is None else self.service.host.hop(call, slot)
        if way is None:
            return False
        call.pass_on(way, None)
        return True

    def _public_state(self, result: bytes, request: ModernRequest) -> bytes:
        """A process keeps what its requestState means, and every worker has processes of its own: the state names the worker."""
        target = request.target
        if target is None or b"requestState" not in result:
            return result
        bound = target.is_channel and self.service.host.workers > 1
        # What is parked here is the caller's own already (`Parking.park`).
        owned = bool(request.principal) and isinstance(request.through, ModernPeer)
        parts = message.members(result) if bound or owned else {}
        state = message.text(parts.get("requestState"))
        if state is None:
            return result
        if bound:
            state = self.service.parking.wrap(state, request.principal)
        elif owned:
            state = self.service.parking.own(state, request.principal)
        parts["requestState"] = message.raw(state)
        return message.encode(parts)

    def _own_state(self, params: bytes | None, request: ModernRequest) -> bytes | None:
        """The other way round."""
        if params is None or b"requestState" not in params:
            return params
        parts = message.members(params)
        state = message.text(parts.get("requestState"))
        if state is None:
            return params
        lot = self.service.parking
        inner = lot.unwrap(state, request.principal)
        if inner is None and request.principal:
            inner = lot.disown(state, request.principal)
            if inner is None and not lot.holds(state, request.principal):
                raise errors.RpcError(errors.INVALID_PARAMS, "Unknown or expired requestState", status=400)
        if inner is None:
            return params
        parts["requestState"] = message.raw(inner)
        return message.encode(parts)

    async def _perform(self, request: ModernRequest, call: Call, note: Message, answer: Answer) -> None:
        method, ident = note.method or "", note.ident or b"null"
        if method == "subscriptions/listen":
            guarding.admit_method(method)
            await self.service.listen(request, note, answer)
            return
        if method == "server/discover":
            guarding.admit_method(method)
            result = await request.view.discover(request, note, self.service.forwarded(call))
        else:
            try:
                await request.view.check_param_headers(request, note, call)
            except consent.ConsentNeeded as need:
                if not await consent.agreed(need, note.params, "modern"):
                    answer.succeed(ident, consent.answer(need, method, note.params, "modern", request.hello.version, request.hello.capabilities))
                    return
                await request.view.check_param_headers(request, note, call)
            headers = [*self.service.forwarded(call), *param_headers(call)]
            result = await request.perform(method, self._own_state(note.params, request), ident, request, headers)
            result = self._public_state(result, request)
        answer.succeed(ident, result)


def param_headers(call: Call) -> list[tuple[bytes, bytes]]:
    """The `Mcp-Param-*` fields of the caller, which go to the target as they are."""
    return [(name, value) for name, value in call.headers if name.startswith(b"mcp-param-")]
