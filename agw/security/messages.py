"""What is decided beyond the credentials: limits of requests, and rules, scopes and limits of single MCP messages.

Rules:
- rules come before limits: what a caller may not have costs it nothing, and tells it nothing;
- what rules hide is unknown; what scopes lack is told, because the client can ask for them (mcp.md 4.2);
- decisions are remembered with the identity they are about, so two tokens of one user are two.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from agw._fast.gate import Charge, Identity, License
from agw.runtime.plan import PolicyPlan
from agw.security.contract import AUTHORIZATION, RATE_LIMIT, Found, Headers, McpFacts, Refusal, SecurityHost

if TYPE_CHECKING:
    from agw._fast.call import Call
    from agw._fast.entry import Entry
    from agw.security.limits import LimitCheck, Limits
    from agw.security.mcp_auth.scopes import ToolScopes
    from agw.security.message_rules import MessageRules

_stamps = itertools.count(1)
_BY_NAME = frozenset(("identity", "name", "method"))
_KIND = re.compile(r"\bmcp\.(tool|prompt|resource|task)\b")
CONCURRENCY = 1


class MessageRequest:
    """A Call as rules see it (`contract.Request`)."""

    def __init__(self, call: Call) -> None:
        self._call = call
        self.method = call.method
        self.path = call.path
        self.query = call.query
        self.headers: Headers = call.headers
        self.peer = call.peer
        self.secure = call.secure
        self.hopped = call.hopped
        self.labels = call.labels
        self.certificate: bytes | None = None

    def values(self, name: bytes) -> list[bytes]:
        """All values of a header; `name` in lower case."""
        return self._call.values(name)


class Messages:
    """The message part of a gate's policies."""

    def __init__(self, policies: PolicyPlan, host: SecurityHost, limits: Limits | None = None) -> None:
        self.host = host
        self._request_limits: list[LimitCheck] = []
        self._message_limits: list[LimitCheck] = []
        for plan in policies.limits:
            if limits is None:
                raise RuntimeError("a worker without the tables of limits")
            (self._message_limits if plan.phase == "mcp" else self._request_limits).append(limits.check(plan))
        self._kinds = [frozenset(_KIND.findall(f"{check.plan.key} {check.plan.cost}")) for check in self._message_limits]
        self.charges_last = all(check.needs <= {"identity"} for check in self._request_limits)
        """Is what requests are charged for the same whenever the same credentials come?"""
        self._licences_last = all(check.needs <= _BY_NAME for check in self._message_limits)
        self.rules: MessageRules | None = None
        self._scopes: ToolScopes | None = None
        if policies.mcp_auth is not None and policies.mcp_auth.tool_scopes:
            from agw.security.mcp_auth.scopes import ToolScopes

            self._scopes = ToolScopes(policies.mcp_auth)
        if policies.mcp_authorization is not None:
            from agw.security.message_rules import MessageRules

            self.rules = MessageRules(policies.mcp_authorization, lambda _: host.count("mcpAuthorization", "error"))

    def request_charges(self, found: Found, entry: Entry) -> list[Charge] | Refusal:
        """What a request is charged for before its body is known."""
        if not self._request_limits:
            return []
        from agw.security.facts import Facts

        return _charges(self._request_limits, Facts(entry, found.claims))

    @property
    def described(self) -> bool:
        """Do rules or limits look at what a target says of its tool?"""
        asked = [check.needs for check in self._message_limits] + ([self.rules.needs] if self.rules is not None else [])
        return any("annotations" in needs for needs in asked)

    @property
    def by_name(self) -> bool:
        """Does what the rules show depend on identity and names alone?"""
        return self.rules is None or self.rules.lasting

    def visible(self, identity: Identity, facts: McpFacts, call: Call) -> bool:
        """Do the rules show the thing to this caller?"""
        return self.rules is None or self.rules.decide(identity.claims, facts, MessageRequest(call), listing=True, key=_stamp(identity)).allowed

    def lacking(self, identity: Identity, tools: Sequence[str], call: Call) -> Refusal | None:
        """The step-up for calls of these tools, by the names clients use; None when the token's scopes reach."""
        if self._scopes is None:
            return None
        refusal = self._scopes.lacking(identity.scopes, tools, MessageRequest(call))
        if refusal is not None:
            self.host.count("mcpAuthentication", "denied")
        return refusal

    def judge(self, identity: Identity, facts: McpFacts, call: Call) -> Refusal | None:
        """May the message be sent? Charges its limits: a worker that passes a message on has not looked at it."""
        request = MessageRequest(call)
        if self.rules is not None:
            decision = self.rules.decide(identity.claims, facts, request, key=_stamp(identity))
            self.host.count("mcpAuthorization", "allowed" if decision.allowed else "denied")
            if not decision.allowed:
                which = "" if decision.rule is None else f" (rule {decision.rule + 1})"
                return Refusal(403, AUTHORIZATION, b"not allowed", f"mcpAuthorization: {decision.why}{which}", code=-32602)
        if not self._message_limits or call.charged:
            return None
        from agw.security.facts import Facts

        checks = self._about(facts)
        charges = _charges(checks, Facts(request, identity.claims, facts))
        if isinstance(charges, Refusal):
            return charges
        for check, charge in zip(checks, charges, strict=True):
            if not charge.take():
                cause = f"limit {check.plan.name} is reached"
                return Refusal(429, RATE_LIMIT, b"too many requests: slow down and try again", cause, charge.limit.lines(), code=-32003)
            if charge.limit.kind == CONCURRENCY:
                call.hold(charge)
        return None

    def licence(self, identity: Identity, facts: McpFacts, call: Call, stamp: int) -> License | None:
        """What calls of this thing by this caller are charged for, when nothing else need be asked about them again."""
        if not self._licences_last or not self.by_name or self._scopes is not None:
            return None
        if not self._message_limits:
            return License((), stamp)
        from agw.security.facts import Facts

        charges = _charges(self._about(facts), Facts(MessageRequest(call), identity.claims, facts))
        return None if isinstance(charges, Refusal) else License(charges, stamp)

    def _about(self, facts: McpFacts) -> list[LimitCheck]:
        """The limits of such a message: one whose key or cost is about tools has nothing to say of a prompt, or of `initialize`."""
        return [check for check, kinds in zip(self._message_limits, self._kinds, strict=True) if not kinds or facts.kind in kinds]


def _charges(checks: list[LimitCheck], facts: object) -> list[Charge] | Refusal:
    charges: list[Charge] = []
    for check in checks:
        charge = check.charge(facts)
        if isinstance(charge, Refusal):
            return charge
        charges.append(charge)
    return charges


def _stamp(identity: Identity) -> bytes:
    """A name for these very claims."""
    stamp: bytes | None = identity.extra.get("stamp")
    if stamp is None:
        stamp = identity.extra["stamp"] = b"%d" % next(_stamps)
    return stamp
