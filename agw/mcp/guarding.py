"""What the caller of one MCP message may do: rules, scopes and limits of its route, asked before anything goes to a target.

Rules:
- a route without rules, scopes and limits for messages has no warrant, and pays one look-up for that;
- what is hidden by a rule is unknown: the answer is the one for a name that nobody has, in lists it does not stand;
- a missing scope is said aloud (403 with all scopes of the operation), since the client can get it; but not for what is hidden;
- a limit is said aloud too: 429 for modern callers. For legacy ones it is a JSON-RPC error with HTTP 200 (and Retry-After),
  because their transport knows statuses for sessions and authorization only: an SDK takes any other for a broken connection;
- whoever works for a message finds its warrant through the context of its task, like the observation of it (`observe`).

Source: MCP 2026-07-28, "Authorization" (scope challenges); reference sections 1.6 and 4.2.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Protocol

import orjson

from agw._fast.call import Call
from agw.mcp import errors
from agw.mcp.federation.drain import KindName
from agw.security.contract import AUTHORIZATION, McpFacts, Refusal

if TYPE_CHECKING:
    from agw._fast.gate import Identity, License

SINGULAR: dict[KindName, str] = {"tools": "tool", "prompts": "prompt", "resources": "resource", "templates": "resource"}
"""What rules call an item of a list."""


class Keeper(Protocol):
    """Who decides about messages (`agw.security.keeper.Keeper`)."""

    @property
    def by_name(self) -> bool:
        """Does what is visible depend on identity and names alone, and not on headers, time or the like? Then lists are kept."""
    @property
    def described(self) -> bool:
        """Do the rules look at what a target says of its tool? Then facts about tools have it."""
    def visible(self, identity: Identity, facts: McpFacts, call: Call) -> bool:
        """May the caller know of it? Nothing is charged."""
    def judge(self, identity: Identity, facts: McpFacts, call: Call) -> Refusal | None:
        """Rules, then limits; AUTHORIZATION as reason of a rule's refusal. A message about nothing named has `kind` ""."""
    def licence(self, identity: Identity, facts: McpFacts, call: Call, stamp: int) -> License | None:
        """What such calls are charged for when they need not be judged again; None when they must be."""
    def lacking(self, identity: Identity, tools: Sequence[str], call: Call) -> Refusal | None:
        """The step-up for calls of these tools, by the names clients use; None when the token's scopes reach."""


class Warrant:
    """The rights of one message's caller."""

    __slots__ = ("_keeper", "_stamp", "call", "identity")

    def __init__(self, keeper: Keeper, identity: Identity, call: Call) -> None:
        self._keeper = keeper
        self._stamp: bytes | None = None
        self.identity = identity
        self.call = call

    @property
    def stamp(self) -> tuple[object, bytes] | None:
        """The same for callers who see the same in lists; None when that cannot be told."""
        if not self._keeper.by_name:
            return None
        if self._stamp is None:
            who = self.identity
            digest = hashlib.blake2b(who.key, digest_size=16)
            digest.update(orjson.dumps([who.claims, sorted(who.scopes)], default=repr, option=orjson.OPT_SORT_KEYS | orjson.OPT_NON_STR_KEYS))
            self._stamp = digest.digest()
        return self._keeper, self._stamp

    @property
    def described(self) -> bool:
        """Do the rules look at what a target says of its tool?"""
        return self._keeper.described

    def sees(self, facts: McpFacts) -> bool:
        """Does it exist for the caller?"""
        return self._keeper.visible(self.identity, facts, self.call)

    def lacking(self, tools: Sequence[str]) -> Refusal | None:
        """The step-up for calls of these tools."""
        return self._keeper.lacking(self.identity, tools, self.call)

    def learn(self, facts: McpFacts, stamp: int) -> None:
        """The message was let in: where that will hold again, the compiled path may let it in by itself."""
        licence = self._keeper.licence(self.identity, facts, self.call, stamp)
        if licence is not None:
            self.identity.learn(facts.public.encode("utf-8", "surrogatepass"), licence)

    def admit(self, facts: McpFacts, unknown: errors.RpcError) -> None:
        """Let a message pass. Errors: `unknown` for what is hidden, else RpcError (scope: 403, limit: 429)."""
        if facts.method == "tools/call":
            refusal = self.lacking((facts.public,))
            if refusal is not None:
                raise as_error(refusal) if self.sees(facts) else unknown
        refusal = self._keeper.judge(self.identity, facts, self.call)
        if refusal is not None:
            raise unknown if refusal.reason == AUTHORIZATION else as_error(refusal)


def as_error(refusal: Refusal) -> errors.RpcError:
    """A refusal that is said aloud."""
    challenge = refusal.status in (401, 403)
    return errors.RpcError(
        refusal.code, refusal.message.decode("utf-8", "replace"), status=refusal.status, reason="scope" if challenge else "limit", always=challenge,
        lines=refusal.lines)


def warrant_of(call: Call) -> Warrant | None:
    """The rights of a call's caller; None when its route judges no messages."""
    gate = call.gate
    if gate is None or not gate.messages:
        return None
    identity = call.identity
    keeper: Any = gate.keeper
    if identity is None or keeper is None:
        # A gate lets nobody in without having named him, so nobody comes here.
        raise errors.RpcError(errors.INTERNAL, "Internal error", status=500, always=True)
    return Warrant(keeper, identity, call)


_current: ContextVar[Warrant | None] = ContextVar("warrant", default=None)


def begin(warrant: Warrant | None) -> None:
    """The task that runs now, and what it starts, works for this caller."""
    _current.set(warrant)


def current() -> Warrant | None:
    """The rights of whom is worked for; None: there is nothing to ask."""
    return _current.get()


def admit_method(method: str, session: str = "") -> None:
    """Let a message pass that is about nothing named. Errors: RpcError."""
    warrant = _current.get()
    if warrant is not None:
        warrant.admit(McpFacts(method, session=session), errors.method_not_found(method))
