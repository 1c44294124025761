"""How a backend, or a virtual server of it, looks to callers: its names, lists, capabilities, and the way to each target.

Rules:
- with one target and no renaming everything but the routed member passes as it is, lists included;
- with several, lists come from the catalogue, names and URIs are rewritten by one pair of maps per target;
- which conversation a list is fetched through is the caller's own: another caller with the same audience reads the result;
- a view that picks tools (a virtual server) offers tools and nothing else.

Source: reference sections 2.1-2.3.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Coroutine
from contextvars import ContextVar
from functools import partial
from typing import TYPE_CHECKING, Any

import orjson
from msgspec import Raw

import agw
from agw._fast.call import Call
from agw.mcp import errors, guarding, message, observe, param_headers, revisions
from agw.mcp.bridge import capabilities as bridge_capabilities
from agw.mcp.bridged import OverLegacy, OverModern
from agw.mcp.consent import ConsentNeeded
from agw.mcp.conversation import AnyPeer, Conversation
from agw.mcp.farm import Farm
from agw.mcp.federation import merge, rewrite
from agw.mcp.federation.catalogue import Audience, Catalogue, Settings
from agw.mcp.federation.cursors import Cursors
from agw.mcp.federation.drain import KINDS, KindName
from agw.mcp.federation.listing import Listing
from agw.mcp.federation.names import Naming
from agw.mcp.federation.rewrite import Maps
from agw.mcp.federation.uris import Uris
from agw.mcp.federation.virtual import View as Picked
from agw.mcp.federation.visible import Sees, Visible, private
from agw.mcp.headers import for_target
from agw.mcp.legacy_session import LegacySession, StatelessSession
from agw.mcp.message import Message
from agw.mcp.modern import ModernRequest
from agw.mcp.modern_peer import ModernPeer
from agw.mcp.peer import Hello, LegacyPeer, Sink
from agw.mcp.replay import ReplayStore
from agw.mcp.target import Target
from agw.mcp.transport import Headers, TransportError
from agw.runtime.endpoint import McpEndpoint
from agw.runtime.plan import VirtualServerPlan
from agw.security.contract import McpFacts

if TYPE_CHECKING:
    from agw.mcp.service import McpService

log = logging.getLogger(__name__)

USES: dict[KindName, str] = {"tools": "tools/call", "prompts": "prompts/get", "resources": "resources/read", "templates": "resources/read"}
"""What an item of a list is for."""

SERVER_INFO = orjson.dumps({"name": "agw", "title": "agw", "version": agw.__version__})

_TASKS = b"mcp task 1"

_asking: ContextVar[Conversation] = ContextVar("asking")
"""The conversation that waits for a list: it is fetched through its sessions."""


class View:
    """One backend, or one virtual server of it."""

    def __init__(self, service: McpService, endpoint: McpEndpoint, farm: Farm, virtual: VirtualServerPlan | None = None, whole: View | None = None) -> None:
        plan = endpoint.plan
        self.service = service
        self.endpoint = endpoint
        self.plan = plan
        self.farm = farm
        self.targets = farm.targets
        self.fail_open = plan.fail_open
        place = plan.place or plan.name
        self.name = place if virtual is None else f"{place}/{virtual.name}"
        names = [target.name for target in self.targets]
        self.naming = Naming(names, plan.prefix_mode, plan.separator)
        self.uris = Uris(names, self.naming.prefixed)
        self.is_multiplexed = len(self.targets) > 1
        self.virtual = virtual
        self.picked = Picked(virtual, self.naming) if virtual is not None else None
        self.is_plain = not self.is_multiplexed and not self.naming.prefixed and virtual is None
        self.takes_unknown = self.is_plain
        self._maps = [Maps(partial(self.uris.public, index), partial(self.naming.task, index)) for index in range(len(names))]
        self.visible = Visible()
        self.catalogue: Catalogue = whole.catalogue if whole is not None else self._catalogue(endpoint)

    def _catalogue(self, endpoint: McpEndpoint) -> Catalogue:
        plan = endpoint.plan
        settings = Settings(
            fail_open=plan.fail_open, ttl_s=plan.catalogue_ttl_ns / 1e9, page_size=plan.page_size,
            deadlines_s=[self.farm.start_s(target) for target in self.targets],
            http_targets=frozenset(target.index for target in self.targets if target.plan.kind == "http"))
        return Catalogue(
            self.naming, self.uris, self._fetch, time.monotonic, settings, backend=plan.name, cursors=Cursors(self.service.host.ring, time.time),
            server_info=SERVER_INFO, on_change=self._on_change, on_event=self._on_event)

    # ------------------------------------------------------------------------------------------ handshakes

    async def initialize(self, session: LegacySession) -> bytes:
        """Open every target for a new session; the merged InitializeResult."""
        if self.is_plain:
            target = self.targets[0]
            try:
                peer = await session.peer(target)
            except ConsentNeeded:
                return merge.initialize_result(session.hello.version, [merge.Part.unknown(target.name)], SERVER_INFO, multiplexed=False)
            if isinstance(peer, LegacyPeer):
                if session.hello.version != peer.version:
                    session.hello = self.service.sessions.same(session.hello._replace(version=peer.version))
                return message.encode(peer.result)
            return bridge_capabilities.server_to_legacy(message.encode(peer.result), session.hello.version, SERVER_INFO)
        parts = await self._parts(session)
        return merge.initialize_result(
            session.hello.version, parts, SERVER_INFO, multiplexed=True, own_instructions=self.plan.instructions)

    async def discover(self, request: ModernRequest, note: Message, headers: list[tuple[bytes, bytes]]) -> bytes:
        """The result of `server/discover`."""
        supported = list(revisions.MODERN)
        if self.is_plain:
            try:
                peer = await request.peer(self.targets[0])
            except ConsentNeeded:
                return merge.discover_result([merge.Part.unknown(self.targets[0].name)], supported, 0, SERVER_INFO, multiplexed=False)
            if isinstance(peer, ModernPeer):
                passed = for_target(self.targets[0], headers, pipe=True)
                raw = await peer.request("server/discover", note.params, note.ident or b"null", request, headers=passed)
                parts = message.members(raw)
                parts["supportedVersions"] = message.raw(supported)
                return message.encode(parts)
            return bridge_capabilities.server_to_modern(message.encode(peer.result), supported)
        return merge.discover_result(
            await self._parts(request), supported, 0, SERVER_INFO, multiplexed=True, own_instructions=self.plan.instructions)

    async def _parts(self, conversation: Conversation) -> list[merge.Part]:
        """What every target says of itself; a target that fails is left out or fails the whole, as configured."""
        used = self.targets if self.picked is None else [self.targets[index] for index in sorted(self.picked.targets)]

        async def one(target: Target) -> merge.Part:
            async with asyncio.timeout(self.farm.start_s(target)):
                peer = await conversation.peer(target)
            return merge.Part.of(target.name, message.encode(peer.result))

        found = await asyncio.gather(*(one(target) for target in used), return_exceptions=True)
        parts: list[merge.Part] = []
        failed: list[errors.RpcError] = []
        for target, outcome in zip(used, found, strict=True):
            if isinstance(outcome, merge.Part):
                parts.append(outcome if self.picked is None else outcome._replace(capabilities=_tools_only(outcome.capabilities)))
                continue
            error = self._as_error(target, outcome)
            if isinstance(error, ConsentNeeded):
                # Clients can only show their users where to go once they are connected.
                parts.append(merge.Part.unknown(target.name))
                continue
            log.warning("a target did not open", extra={"backend": self.name, "target": target.name, "error": error.message})
            failed.append(error)
        if failed and (not parts or not self.fail_open):
            raise failed[0]
        return parts

    def _as_error(self, target: Target, outcome: BaseException) -> errors.RpcError:
        if isinstance(outcome, errors.RpcError):
            return outcome
        if isinstance(outcome, TransportError):
            return target.failed(outcome)
        if isinstance(outcome, TimeoutError):
            observe.mark(target.name, "timeout")
            return errors.RpcError(errors.INTERNAL, f"Target {target.name} did not answer in time", status=504, reason="timeout")
        if not isinstance(outcome, Exception):
            raise outcome
        log.error("internal error while a target was opened", exc_info=outcome)
        return errors.target_down(target.name)

    # ------------------------------------------------------------------------------------------ lists

    async def listing(
        self, conversation: Conversation, kind: KindName, params: bytes | None, ident: bytes, sink: Sink | None, headers: Headers = ()
    ) -> bytes:
        """The result of a list request."""
        method = KINDS[kind].method
        guarding.admit_method(method, conversation.session_name)
        warrant = guarding.current()
        if self.is_plain:
            peer = await conversation.peer(self.targets[0])
            raw = await peer.request(method, params, ident, sink, headers=for_target(self.targets[0], headers, pipe=True))
            if warrant is None:
                return raw
            return await self.visible.page(KINDS[kind], raw, guarding.SINGULAR[kind], self._sees(kind, warrant, conversation), warrant.stamp)
        cursor = message.members(params).get("cursor")
        token = None if cursor is None else message.text(cursor)
        if cursor is not None and token is None:
            raise errors.RpcError(errors.INVALID_PARAMS, "params.cursor must be a string", status=400)
        _asking.set(conversation)
        audience = self.audience(conversation)
        if self.picked is None:
            shown = None if warrant is None else partial(self._shown, kind, warrant, conversation)
            return await self.catalogue.result(kind, audience, conversation.era == "modern", token, shown)
        if kind != "tools":
            raise errors.method_not_found(method)
        picked = self.picked.apply(self.catalogue.ready(kind, audience) or await self.catalogue.listing(kind, audience))
        if warrant is not None:
            picked = await self._shown(kind, warrant, conversation, picked)
        return picked.result(conversation.era == "modern", time.monotonic(), Raw(SERVER_INFO) if conversation.era == "modern" else None)

    def _sees(self, kind: KindName, warrant: guarding.Warrant, conversation: Conversation) -> Sees:
        """Whether an item stands in a list: whether its use would be let pass, as far as names tell."""
        session, method = conversation.session_name, USES[kind]

        described = warrant.described

        def sees(target: int, what: str, name: str, public: str, raw: bytes) -> bool:
            tool = raw if described and what == "tool" else None
            use = method if what != "resource" else "resources/read"
            return warrant.sees(McpFacts(use, what, self.targets[target].name, name, public, session, tool=tool))

        return sees

    async def _shown(self, kind: KindName, warrant: guarding.Warrant, conversation: Conversation, whole: Listing) -> Listing:
        sees = self._sees(kind, warrant, conversation)
        return await self.visible.listing(whole, guarding.SINGULAR[kind], sees, self._own_uri, warrant.stamp)

    def _own_uri(self, target: int, uri: str) -> str:
        found = self.uris.split(uri)
        return uri if found is None else found[1]

    def audience(self, conversation: Conversation) -> Audience:
        """Who shares lists with this conversation."""
        return Audience(conversation.principal, conversation.audience)

    def lists(self, conversation: Conversation, kind: KindName, public: str) -> bool:
        """Did a target list an item of this name to the conversation's audience? Nothing is asked."""
        return not self.is_plain and self.catalogue.lists(kind, self.audience(conversation), public if self.picked is None else self.picked.public(public))

    async def _fetch(self, target: int, method: str, cursor: bytes | None, audience: Audience) -> bytes:
        conversation = _asking.get()
        peer = await conversation.peer(self.targets[target])
        needed = {"tools/list": "tools", "prompts/list": "prompts"}.get(method, "resources")
        if needed not in peer.capabilities:
            raise errors.method_not_found(method)
        params = b"{}" if cursor is None else b'{"cursor":%b}' % cursor
        return await peer.fetch(method, params, conversation.hello)

    def _on_change(self, kind: KindName) -> None:
        if kind == "tools":
            self.service.ways.forget_tools()
        self.service.announce(f"notifications/{'resources' if kind == 'templates' else kind}/list_changed")

    def _on_event(self, word: str, target: int, count: int) -> None:
        name = self.targets[target].name if target >= 0 else ""
        if word == "failed":
            observe.mark(name, "timeout")
        log.warning("listing", extra={"backend": self.name, "target": name, "event": word, "count": count})

    # ------------------------------------------------------------------------------------------ routing

    async def tool(self, conversation: Conversation, name: str) -> tuple[Target, str]:
        """The target of a tool and its name there. Errors: RpcError -32602, the same for what is hidden and what is not there."""
        if self.picked is not None:
            found = self.picked.resolve(name)
        else:
            found = await self._route(conversation, "tools", name)
        if found is None:
            raise errors.unknown_tool(name)
        return self.targets[found[0]], found[1]

    def tool_now(self, conversation: Conversation, name: str) -> tuple[Target, str] | None:
        """Like `tool`, without asking anybody; None when that is needed, or it is nobody's."""
        if self.picked is not None:
            found = self.picked.resolve(name)
        elif self.is_plain:
            found = 0, name
        else:
            found = self.catalogue.route_now("tools", self.audience(conversation), name)
        return None if found is None else (self.targets[found[0]], found[1])

    async def described(self, conversation: Conversation, name: str) -> bytes | None:
        """A tool as it is listed, raw JSON; None when it is not. Errors: RpcError when the lists cannot be had."""
        _asking.set(conversation)
        # Not Catalogue.find, which is content with a list that is out of date.
        lists = await self.catalogue.listing("tools", self.audience(conversation))
        found = lists.merge.find(name if self.picked is None else self.picked.public(name) or name)
        return None if found is None else found.raw

    async def prompt(self, conversation: Conversation, name: str) -> tuple[Target, str]:
        """The target of a prompt and its name there."""
        found = await self._route(conversation, "prompts", name) if self.picked is None else None
        if found is None:
            raise errors.unknown_prompt(name)
        return self.targets[found[0]], found[1]

    async def _route(self, conversation: Conversation, kind: KindName, name: str) -> tuple[int, str] | None:
        if self.is_plain:
            return 0, name
        _asking.set(conversation)
        return await self.catalogue.route(kind, self.audience(conversation), name)

    async def resource(self, conversation: Conversation, uri: str) -> tuple[Target, str]:
        """The target of a resource (or template text) and its URI there."""
        if self.is_plain:
            return self.targets[0], uri
        found = None
        if self.picked is None:
            _asking.set(conversation)
            found = await self.catalogue.route_uri(self.audience(conversation), uri)
        if found is None:
            raise errors.unknown_resource(uri, conversation.era == "modern")
        return self.targets[found[0]], found[1]

    def public_uri(self, target: Target, uri: str) -> str:
        """A target's URI as callers see it."""
        return self.uris.public(target.index, uri)

    def public_task(self, target: Target, ident: str, principal: bytes) -> str:
        """A target's task id as callers see it: where callers have names, with a signature that only its owner's requests bear out."""
        public = self.naming.task(target.index, ident)
        return public if not principal else f"{public}.{self.service.host.ring.sign(_TASKS, self._signed(public), principal)}"

    def task(self, ident: str, principal: bytes) -> tuple[Target, str]:
        """The target of a task and its id there. Errors: RpcError -32602, the same for another caller's task and for none."""
        if principal:
            ident, _, signature = ident.rpartition(".")
            if not self.service.host.ring.signed(_TASKS, self._signed(ident), principal, signature):
                raise errors.unknown_task()
        found = self.naming.split_task(ident)
        if found is None:
            raise errors.unknown_task()
        return self.targets[found[0]], found[1]

    def _signed(self, task: str) -> bytes:
        # Virtual servers are views of the same tasks.
        return f"{self.plan.name}\0{task}".encode("utf-8", "surrogatepass")

    def _maps_for(self, target: Target, principal: bytes) -> Maps:
        if not principal:
            return self._maps[target.index]
        uri = _same if self.is_plain else self._maps[target.index].uri
        return Maps(uri, lambda ident: self.public_task(target, ident, principal))

    def _is_left(self, raw: bytes | None, principal: bytes) -> bool:
        """Does a text of a target pass as it is?"""
        return self.is_plain and (not principal or raw is None or (b"taskId" not in raw and b"\\u" not in raw))

    def outward(self, target: Target, method: str, raw: bytes, principal: bytes) -> bytes:
        """A target's result as this caller sees it."""
        if method == "resources/read" and guarding.current() is not None:
            raw = private(raw)
        return raw if self._is_left(raw, principal) else rewrite.result(method, raw, self._maps_for(target, principal))

    def outward_error(self, target: Target, raw: bytes) -> bytes:
        """A target's error as callers see it."""
        return raw if self.is_plain else rewrite.error(raw, self._maps[target.index].uri)

    def outward_note(self, target: Target | None, note: Message, principal: bytes) -> Message:
        """A target's notification as this caller sees it."""
        if target is None or note.method is None or self._is_left(note.params, principal):
            return note
        params = rewrite.notification(note.method, note.params, self._maps_for(target, principal))
        if params is note.params:
            return note
        return Message(message.notification(note.method, params), "notification", None, note.method, params)

    def outward_ask(self, target: Target, ask: Message, principal: bytes) -> bytes | None:
        """The params of a target's request as this caller sees them."""
        if self._is_left(ask.params, principal):
            return ask.params
        return rewrite.server_request(ask.method or "", ask.params, self._maps_for(target, principal))

    async def check_param_headers(self, request: ModernRequest, note: Message, call: Call) -> None:
        """`Mcp-Param-*` against the arguments, where we know what the tool wants mirrored.

        A single target that gets the headers itself, modern and on HTTP, checks them itself.
        """
        if note.method != "tools/call":
            return
        if self.is_plain and self.targets[0].plan.kind == "http" and await self.is_modern(self.targets[0]):
            return
        parts = message.members(note.params)
        name = message.text(parts.get("name"))
        public = name if self.picked is None or name is None else self.picked.public(name)
        if public is None:
            return
        _asking.set(request)
        try:
            item = await self.catalogue.find("tools", self.audience(request), public)
        except errors.RpcError:
            return
        if item is None:
            return
        warrant = guarding.current()
        if warrant is not None and not self._sees("tools", warrant, request)(item.target, "tool", item.name, name or public, item.raw):
            # Said to be unknown by whoever carries the call out; a word about its headers would say that it exists.
            return
        if b"x-mcp-header" not in item.raw:
            request.names_for_all = True
            return
        found = param_headers.annotations(item.schema)
        if found:
            problem = param_headers.validate(found, parts.get("arguments"), call.values)
            if problem is not None:
                raise problem

    # ------------------------------------------------------------------------------------------ targets

    async def is_modern(self, target: Target) -> bool:
        """Does the target speak the modern era?"""
        return await self.farm.is_modern(target)

    def modern_peer(self, target: Target) -> ModernPeer:
        """The shared peer of a modern target."""
        return self.farm.modern_peer(target)

    async def bridged(self, conversation: Conversation, target: Target) -> AnyPeer:
        """A target in an era its caller does not speak."""
        if isinstance(conversation, LegacySession):
            peer = self.farm.modern_peer(target)
            await peer.discover()
            return OverModern(peer, conversation)
        assert isinstance(conversation, ModernRequest)
        return await OverLegacy.open(self.farm, target, conversation)

    def stateless_session(self, call: Call, principal: bytes) -> LegacySession:
        """What stands for a session where none are kept."""
        version = (call.header(b"mcp-protocol-version") or b"2025-03-26").decode("latin-1")
        return StatelessSession(self, Hello(version, b"{}", SERVER_INFO), principal)

    def note_capabilities(self, target: Target, peer: LegacyPeer) -> None:
        """What a target said at a handshake."""
        self.farm.note_capabilities(target, peer.capabilities)

    def known_capabilities(self, target: Target) -> message.Members:
        """What a target said last."""
        return self.farm.known_capabilities(target)

    def changed(self, target: Target, method: str) -> None:
        """A target says that a list of it changed."""
        if self.is_plain:
            self.service.announce(method)
            return
        for kind in KINDS:
            if method.startswith(f"notifications/{'resources' if kind == 'templates' else kind}/"):
                self.catalogue.invalidate(target.index, kind)

    def spawn(self, work: Coroutine[Any, Any, Any]) -> None:
        """Something nobody waits for."""
        self.service.spawn(work)

    def new_memory(self) -> ReplayStore:
        """The memory of a session's streams."""
        return ReplayStore(origin=self.service.origin, max_events=self.plan.replay_events, max_bytes=self.plan.replay_bytes)


def _same(text: str) -> str:
    return text


def _tools_only(capabilities: message.Members) -> message.Members:
    return {name: value for name, value in capabilities.items() if name in ("tools", "logging")}
