"""A caller's view of a backend: which target a message is for, under which name, and what its answer looks like outside.

Rules:
- routing looks at the one member the method table names and at nothing else; every other octet goes through;
- a name or URI is rewritten on the way in and back on the way out in the same module pair (federation.names, .rewrite);
- lists come from the catalogue; a call never waits for a list unless its name is not known yet;
- the caller's era and the target's era are chosen independently: `peer()` gives something that answers in the caller's.

Source: reference sections 2.1-2.3.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Protocol

import msgspec

from agw.mcp import consent, errors, guarding, message, observe, revisions
from agw.mcp.federation.drain import BY_METHOD
from agw.mcp.headers import for_target
from agw.mcp.message import Members
from agw.mcp.peer import Hello, Sink
from agw.mcp.revisions import METHODS
from agw.mcp.target import Target
from agw.mcp.transport import Headers
from agw.security.contract import McpFacts

if TYPE_CHECKING:
    from agw.mcp.view import View


class AnyPeer(Protocol):
    """A conversation with a target in the caller's era, whatever the target speaks."""

    target: Target
    result: Members
    capabilities: Members

    async def request(
        self, method: str, params: bytes | None, ident: bytes, sink: Sink | None, *, headers: Headers = (), timeout_s: float | None = None
    ) -> bytes: ...

    async def fetch(self, method: str, params: bytes, hello: Hello) -> bytes:
        """A page of a list, as the target gives it; `hello` is who asks."""
        ...


class Conversation(ABC):
    """One legacy session, or one modern request."""

    era: revisions.Era
    names_for_all = False
    """Has the tool called no arguments that a modern caller would have to mirror in headers?"""

    def __init__(self, view: View, hello: Hello, principal: bytes) -> None:
        self.view = view
        self.hello = hello
        self.principal = principal
        digest = hashlib.blake2b(digest_size=16)
        for part in (self.era.encode(), hello.version.encode(), hello.capabilities, principal):
            digest.update(len(part).to_bytes(4, "big") + part)
        self.audience = digest.digest()

    @property
    def session_name(self) -> str:
        """What rules and limits call the session; "" for none."""
        return ""

    @abstractmethod
    async def peer(self, target: Target) -> AnyPeer:
        """The conversation with a target, opened when need be. Errors: RpcError, TransportError."""

    async def perform(self, method: str, params: bytes | None, ident: bytes, sink: Sink | None, headers: Headers = ()) -> bytes:
        """Carry out a request; the raw result in the caller's terms. Errors: RpcError."""
        own = consent.without_answers(params, self.view.targets) if self.era == "modern" else params
        try:
            return await self._performed(method, own, ident, sink, headers)
        except consent.ConsentNeeded as need:
            asked = need
        try:
            if await consent.agreed(asked, params, self.era):
                return await self._performed(method, own, ident, sink, headers)
        except consent.ConsentNeeded as need:
            asked = need
        return consent.answer(asked, method, params, self.era, self.hello.version, self.hello.capabilities)

    async def _performed(self, method: str, params: bytes | None, ident: bytes, sink: Sink | None, headers: Headers) -> bytes:
        view = self.view
        rule = METHODS.get(method)
        if rule is None or self.era not in rule.eras:
            if view.takes_unknown:
                # With one target there is nothing to choose: methods of extensions pass.
                guarding.admit_method(method, self.session_name)
                return await self._ask(view.targets[0], method, params, ident, sink, headers)
            raise errors.method_not_found(method)
        if rule.route == "all":
            if method in BY_METHOD:
                return await view.listing(self, BY_METHOD[method].name, params, ident, sink, headers)
            return await self._merged_tasks(method, params, ident)
        parts = message.members(params)
        if rule.route == "ref":
            return await self._complete(method, parts, ident, sink, headers)
        key = rule.name
        name = message.text(parts.get(key))
        if name is None:
            raise errors.RpcError(errors.INVALID_PARAMS, f"params.{key} must be a string", status=400)
        if rule.route == "tool":
            target, inner = await view.tool(self, name)
            warrant = guarding.current()
            tool = await view.described(self, name) if warrant is not None and warrant.described else None
            facts = self._admit(method, "tool", target, inner, name, errors.unknown_tool(name), parts.get("arguments"), tool)
            ways = view.service.ways
            ways.learn_tool(view, name, target, inner, modern=self.names_for_all)
            if facts is not None and view is ways.view:
                facts[0].learn(facts[1], ways.table.stamp)
        elif rule.route == "prompt":
            target, inner = await view.prompt(self, name)
            self._admit(method, "prompt", target, inner, name, errors.unknown_prompt(name), parts.get("arguments"))
        elif rule.route == "task":
            target, inner = view.task(name, self.principal)
            self._admit(method, "task", target, inner, name, errors.unknown_task())
        else:
            target, inner = await view.resource(self, name)
            self._admit(method, "resource", target, inner, name, errors.unknown_resource(name, self.era == "modern"))
        if inner != name:
            parts[key] = message.raw(inner)
            params = message.encode(parts)
        if rule.route != "tool":
            return await self._ask(target, method, params, ident, sink, headers)
        try:
            return await self._ask(target, method, params, ident, sink, headers, inner)
        except errors.TargetError:
            seen = observe.current()
            if seen is not None and view.lists(self, "tools", name):
                seen.exists()
            raise

    def _admit(
        self, method: str, kind: str, target: Target, name: str, public: str, unknown: errors.RpcError, arguments: msgspec.Raw | None = None,
        tool: bytes | None = None,
    ) -> tuple[guarding.Warrant, McpFacts] | None:
        """Let a message about something named pass; by whose rights, unless nobody judges. Errors: `unknown` for what is hidden, or what
        the caller may do about it."""
        warrant = guarding.current()
        if warrant is None:
            return None
        facts = McpFacts(method, kind, target.name, name, public, self.session_name, None if arguments is None else bytes(arguments), tool)
        warrant.admit(facts, unknown)
        return warrant, facts

    async def _ask(
        self, target: Target, method: str, params: bytes | None, ident: bytes, sink: Sink | None, headers: Headers, tool: str | None = None
    ) -> bytes:
        seen = observe.current()
        if seen is not None:
            seen.routed(target, tool)
        peer = await self.peer(target)
        needed = CAPABILITY.get(method)
        if needed is not None and needed not in peer.capabilities and not self.view.is_plain and not _may_anyway(needed, peer):
            raise errors.method_not_found(method)
        if sink is not None:
            sink.target = target
        try:
            raw = await peer.request(method, params, ident, sink, headers=for_target(target, headers, pipe=self.view.is_plain))
        except errors.TargetError as error:
            raise errors.TargetError(self.view.outward_error(target, error.raw()), status=error.status) from None
        self.went(target, peer)
        if seen is not None:
            seen.answered(raw)
        return self.view.outward(target, method, raw, self.principal)

    @abstractmethod
    def went(self, target: Target, peer: AnyPeer) -> None:
        """A request was answered through `peer`."""

    async def _complete(self, method: str, parts: Members, ident: bytes, sink: Sink | None, headers: Headers) -> bytes:
        ref = message.members(parts.get("ref"))
        name, uri = message.text(ref.get("name")), message.text(ref.get("uri"))
        if message.text(ref.get("type")) == "ref/prompt" and name is not None:
            target, inner = await self.view.prompt(self, name)
            self._admit(method, "prompt", target, inner, name, errors.unknown_prompt(name))
            ref["name"] = message.raw(inner)
        elif uri is not None:
            target, inner = await self.view.resource(self, uri)
            self._admit(method, "resource", target, inner, uri, errors.unknown_resource(uri, self.era == "modern"))
            ref["uri"] = message.raw(inner)
        else:
            raise errors.RpcError(errors.INVALID_PARAMS, "params.ref must name a prompt or a resource", status=400)
        if inner not in (name, uri):
            parts["ref"] = msgspec.Raw(message.encode(ref))
        return await self._ask(target, method, message.encode(parts), ident, sink, headers)

    async def _merged_tasks(self, method: str, params: bytes | None, ident: bytes) -> bytes:
        """`tasks/list` of every target that has tasks (2025-11-25)."""
        guarding.admit_method(method, self.session_name)
        warrant = guarding.current()
        merged: list[msgspec.Raw] = []
        found = False
        for target in self.view.targets:
            try:
                peer = await self.peer(target)
                if "tasks" not in peer.capabilities:
                    continue
                found = True
                raw = await peer.request(method, None, ident, None, timeout_s=target.deadline_s)
            except errors.RpcError:
                if not self.view.fail_open:
                    raise
                continue
            if warrant is not None:
                raw = self._visible_tasks(warrant, target, raw)
            merged.extend(message.elements(message.members(self.view.outward(target, method, raw, self.principal)).get("tasks")))
        if not found:
            raise errors.method_not_found(method)
        return message.encode({"tasks": merged})

    def _visible_tasks(self, warrant: guarding.Warrant, target: Target, raw: bytes) -> bytes:
        """A target's `tasks/list` without what is hidden."""
        kept = []
        for task in message.elements(message.members(raw).get("tasks")):
            name = message.text(message.members(task).get("taskId"))
            if name is not None and warrant.sees(McpFacts("tasks/get", "task", target.name, name, name, self.session_name)):
                kept.append(task)
        return message.encode({"tasks": kept})


CAPABILITY = {
    "tools/call": "tools",
    "prompts/get": "prompts",
    "resources/read": "resources",
    "resources/subscribe": "resources",
    "resources/unsubscribe": "resources",
    "completion/complete": "completions",
}
"""The capability a target must have declared before a routed method is sent to it."""


def _may_anyway(needed: str, peer: AnyPeer) -> bool:
    """2024-11-05 has completions and no capability for them."""
    return needed == "completions" and message.text(peer.result.get("protocolVersion")) == "2024-11-05"
