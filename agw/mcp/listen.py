"""Hearing of changes: `subscriptions/listen` of modern callers over targets of both eras, and of modern targets for sessions.

Rules:
- one acknowledgment, soon, with what the targets that are known by then will tell of; a slow target does not delay it;
- nothing that was not asked for is sent; everything is tagged with the caller's own listen id, type and all;
- a target's stream that ends is opened again with growing pauses, and since changes may have been missed in between, the
  caller is told that the lists it watches have changed;
- the gateway's own changes (reload, a target coming back) are told like a target's;
- the caller leaves by disconnecting; when the gateway leaves first, the result says so.

Source: MCP 2026-07-28, "Subscriptions"; reference section 2.3.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Callable
from typing import TYPE_CHECKING

import orjson

from agw.mcp import errors, guarding, message, revisions
from agw.mcp.bridge import capabilities as bridge_capabilities
from agw.mcp.bridge import listen as protocol
from agw.mcp.bridge.requests import Envelope, with_envelope
from agw.mcp.message import Message
from agw.mcp.modern_peer import ModernPeer
from agw.mcp.peer import Hello, LegacyPeer
from agw.mcp.streams import Answer
from agw.mcp.target import Target
from agw.mcp.transport import TransportError
from agw.runtime.origin import Stream
from agw.security.contract import McpFacts

if TYPE_CHECKING:
    from agw.mcp.modern import ModernRequest
    from agw.mcp.service import McpService
    from agw.mcp.view import View

log = logging.getLogger(__name__)

ACK_S = 0.4
"""How long the acknowledgment waits for targets to say what they can tell of."""
SILENCE_S = 3_000_000.0
"""A listen stream may be silent for weeks; its end is noticed by the connection."""
FIRST_PAUSE_S = 0.25
LONGEST_PAUSE_S = 30.0
LISTS = (protocol.TOOLS, protocol.PROMPTS, protocol.RESOURCES)


class Upstream:
    """A listen stream to one modern target, kept open. `hear` gets every event; `missed` is called after a gap."""

    def __init__(self, peer: ModernPeer, hello: Hello, wanted: protocol.Filter, hear: Callable[[Message], None], missed: Callable[[], None]) -> None:
        self.peer = peer
        self.hello = hello
        self.wanted = wanted
        self.target: Target | None = peer.target
        self.begun: Stream | None = None
        self._hear = hear
        self._missed = missed

    async def run(self) -> None:
        """Until cancelled."""
        pause = FIRST_PAUSE_S
        envelope = Envelope(self.peer.version, self.hello.capabilities, self.hello.client_info)
        params = with_envelope(protocol.listen_params(self.wanted), envelope)
        while True:
            began = asyncio.get_running_loop().time()
            ident = orjson.dumps("agw-listen-" + secrets.token_hex(8))
            try:
                await self.peer.request("subscriptions/listen", params, ident, self, timeout_s=SILENCE_S)
            except errors.TargetError as error:
                log.info("a target does not tell of changes", extra={"target": self.peer.target.name, "code": error.code})
                return
            except errors.RpcError as error:
                log.info("a listen stream ended", extra={"target": self.peer.target.name, "error": error.message})
            if asyncio.get_running_loop().time() - began > LONGEST_PAUSE_S:
                pause = FIRST_PAUSE_S
            await asyncio.sleep(pause * (0.5 + secrets.randbelow(1000) / 1000))
            pause = min(pause * 2, LONGEST_PAUSE_S)
            self._missed()

    def notification(self, note: Message) -> None:
        if note.method != protocol.ACKNOWLEDGED:
            self._hear(note)

    def server_request(self, peer: LegacyPeer, ask: Message) -> None:
        """There is none in this era."""

    def gap(self, retry_ms: int | None) -> None:
        """Nor this."""

    def streamed(self) -> None:
        """It always is."""


class Listener:
    """One listen request of a modern caller."""

    def __init__(self, service: McpService, request: ModernRequest, ident: bytes, wanted: protocol.Filter, answer: Answer) -> None:
        self.service = service
        self.request = request
        self.view = request.view
        self.ident = ident
        self.wanted = wanted
        self.answer = answer
        self.accepted = protocol.Filter()
        self.acknowledged = False
        self._early: list[Message] = []
        self._left = asyncio.Event()
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._peers: dict[str, LegacyPeer] = {}
        self._opening: dict[str, asyncio.Task[None]] = {}
        self._known: dict[str, protocol.Filter] = {}

    def leave(self) -> None:
        """The gateway ends the subscription."""
        self._left.set()

    def changed(self, method: str) -> None:
        """The gateway's own lists changed."""
        self.hear(Message(message.notification(method, None), "notification", None, method, None))

    def hear(self, note: Message) -> None:
        """An event in the caller's terms; kept back until the acknowledgment is out."""
        if not self.acknowledged:
            if len(self._early) < 64:
                self._early.append(note)
            return
        told = protocol.to_modern(note, self.accepted, self.ident)
        if told is not None:
            self.answer.send(told)

    def _from(self, target: Target, note: Message) -> None:
        if note.method in LISTS and not self.view.is_plain:
            # The shared lists are old now; everybody who watches them hears of it, this caller included.
            self.view.changed(target, note.method)
            return
        self.hear(self.view.outward_note(target, note, self.request.principal))

    def _missed(self) -> None:
        for method, on in zip(LISTS, self.wanted[:3], strict=True):
            if on:
                self.changed(method)

    async def run(self) -> None:
        """Open what is needed, acknowledge, and stay."""
        stream = self.answer.begin()
        if stream is None:
            raise errors.RpcError(errors.INVALID_REQUEST, "subscriptions/listen answers with text/event-stream", status=406, always=True)
        own = self._own()
        parts = await self._split()
        for target, part in parts:
            self._opening[target.name] = asyncio.get_running_loop().create_task(self._open(target, part))
        if self._opening:
            await asyncio.wait(self._opening.values(), timeout=ACK_S)
        self.accepted = protocol.union([own, *self._known.values()])
        self.answer.send(protocol.acknowledged(self.accepted, self.ident))
        self.acknowledged = True
        for note in self._early:
            self.hear(note)
        self._early.clear()
        try:
            await self._left.wait()
            self.answer.finish(message.result(self.ident, protocol.final_result(self.ident)))
        finally:
            for name in {*self._opening, *self._tasks, *self._peers}:
                self._drop(name)

    def follow(self, view: View) -> None:
        """After a reload: targets that are gone are left, new ones are listened to. What was acknowledged stays."""
        before = {target.name: target for target in self.view.targets}
        self.view = self.request.view = view
        after = {target.name: target for target in view.targets}
        for name, target in before.items():
            if after.get(name) is not target:
                self._drop(name)
        for name, target in after.items():
            if before.get(name) is not target:
                wanted = self.wanted._replace(uris=(), tasks=())
                self._opening[name] = asyncio.get_running_loop().create_task(self._open(target, wanted))

    def _drop(self, name: str) -> None:
        for tasks in (self._opening, self._tasks):
            task = tasks.pop(name, None)
            if task is not None:
                task.cancel()
        peer = self._peers.pop(name, None)
        if peer is not None:
            self.service.spawn(peer.close())

    def _own(self) -> protocol.Filter:
        """What the gateway itself tells of: its lists, when it may change them."""
        if self.view.is_plain:
            return protocol.Filter()
        return protocol.Filter(self.wanted.tools, self.wanted.prompts, self.wanted.resources)

    async def _split(self) -> list[tuple[Target, protocol.Filter]]:
        """What each target is to be asked for, in its own terms."""
        uris: dict[str, list[str]] = {}
        tasks: dict[str, list[str]] = {}
        for uri in self.wanted.uris:
            try:
                target, inner = await self.view.resource(self.request, uri)
                if not may_hear("resource", target, inner, uri):
                    continue
            except errors.RpcError:
                continue
            uris.setdefault(target.name, []).append(inner)
        for ident in self.wanted.tasks:
            try:
                target, inner = self.view.task(ident, self.request.principal)
                if not may_hear("task", target, inner, ident):
                    continue
            except errors.RpcError:
                continue
            tasks.setdefault(target.name, []).append(inner)
        return [
            (target, self.wanted._replace(uris=tuple(uris.get(target.name, ())), tasks=tuple(tasks.get(target.name, ()))))
            for target in self.view.targets
        ]

    async def _open(self, target: Target, wanted: protocol.Filter) -> None:
        try:
            if await self.view.is_modern(target):
                peer = self.view.modern_peer(target)
                await peer.discover()
                accepted = protocol.honoured(wanted, peer.capabilities)
                if any(accepted):
                    self._learned(target, accepted)
                    up = Upstream(peer, self.request.hello, accepted, lambda note: self._from(target, note), self._missed)
                    self._tasks[target.name] = asyncio.get_running_loop().create_task(up.run())
            else:
                await self._open_legacy(target, wanted)
        except (errors.RpcError, TransportError) as error:
            log.info("a target does not tell of changes", extra={"target": target.name, "error": str(error)})

    async def _open_legacy(self, target: Target, wanted: protocol.Filter) -> None:
        hello = self.request.hello
        declared = bridge_capabilities.client_to_legacy(message.members(hello.capabilities))
        peer = LegacyPeer(target, Hello(revisions.NEWEST_LEGACY, message.encode(declared), hello.client_info))
        peer.on_stray = lambda _, note: self._from(target, note) if note.kind == "notification" else None
        peer.on_reopen = lambda _: self._missed()
        self._peers[target.name] = peer
        await peer.open()
        accepted = protocol.honoured(wanted, peer.capabilities)
        if not any(accepted):
            return
        await peer.listen()
        for uri in accepted.uris:
            raw_uri = orjson.dumps(uri)
            await peer.request("resources/subscribe", b'{"uri":%b}' % raw_uri, b'"agw-subscribe"', None)
            peer.subscriptions[raw_uri] = None
        self._learned(target, accepted)

    def _learned(self, target: Target, accepted: protocol.Filter) -> None:
        maps = self.view
        self._known[target.name] = accepted._replace(
            uris=tuple(maps.public_uri(target, uri) for uri in accepted.uris),
            tasks=tuple(maps.public_task(target, task, self.request.principal) for task in accepted.tasks))
        if self.acknowledged:
            # Too late for the acknowledgment: what was acknowledged is all that may be sent.
            return


def may_hear(kind: str, target: Target, name: str, public: str) -> bool:
    """May the caller that is worked for know of it? What is hidden is not honoured, as if it did not exist."""
    warrant = guarding.current()
    method = "resources/subscribe" if kind == "resource" else "tasks/get"
    return warrant is None or warrant.sees(McpFacts(method, kind, target.name, name, public))


async def listen(service: McpService, request: ModernRequest, note: Message, answer: Answer) -> None:
    """Serve one listen request until the caller leaves or the worker ends."""
    ident = note.ident or b"null"
    wanted = protocol.parse_filter(note.params)
    listener = Listener(service, request, ident, wanted, answer)
    service.listeners.add(listener)
    try:
        await listener.run()
    finally:
        service.listeners.discard(listener)


class Watch:
    """What a legacy session wants to hear of from one modern-only target: one listen stream, opened anew when that changes."""

    def __init__(self, peer: ModernPeer, hello: Hello, tell: Callable[[Message], None]) -> None:
        self.peer = peer
        self.hello = hello
        self._tell = tell
        self._uris: set[str] = set()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Listen for what is wanted now."""
        self.stop()
        wanted = protocol.honoured(protocol.Filter(True, True, True, tuple(sorted(self._uris))), self.peer.capabilities)
        if any(wanted):
            self._task = asyncio.get_running_loop().create_task(Upstream(self.peer, self.hello, wanted, self._hear, self._missed).run())

    def stop(self) -> None:
        """Listen no more."""
        if self._task is not None:
            self._task.cancel()
            self._task = None

    def watch(self, uri: str, on: bool) -> None:
        """A resource more, or less."""
        if on:
            self._uris.add(uri)
        else:
            self._uris.discard(uri)
        self.start()

    def _hear(self, note: Message) -> None:
        told = protocol.to_legacy(note)
        if told is not None:
            self._tell(message.parse(told))

    def _missed(self) -> None:
        for method in LISTS:
            self._tell(Message(message.notification(method, None), "notification", None, method, None))
        for uri in self._uris:
            params = orjson.dumps({"uri": uri})
            self._tell(Message(message.notification(protocol.UPDATED, params), "notification", None, protocol.UPDATED, params))
