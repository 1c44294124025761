"""Rules for MCP messages (`mcpAuthorization`): may this caller use, or know of, this tool, prompt, resource or task?

Rules:
- what a list shows and what a call may do is decided by the same rules; what is hidden is unknown when it is called;
- a message that names no such thing (`initialize`, `ping`, the lists themselves) is decided only by deny and require rules that look at
  `mcp.methodName` and at no thing: an allow rule allows things, and lists are filtered one by one;
- decisions that depend on the identity and on names only are remembered, at most CACHED of them, least recently made out first.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec

from agw.runtime.plan_security import RulePlan, RulesPlan
from agw.security import cel
from agw.security.contract import McpFacts, Request
from agw.security.facts import Facts
from agw.security.rules import Decision, RuleSet

CACHED: Final = 10_000
BY_NAME: Final = frozenset(("identity", "name", "method"))
"""What a remembered decision may depend on."""

_FREE = Decision(True, None, "the message names nothing that rules are about")


class MessageRules:
    """The rules of one MCP backend or route. `needs` are those of the whole set."""

    def __init__(self, plan: RulesPlan, on_error: Callable[[int], object] | None = None) -> None:
        self.rules = RuleSet(plan, on_error)
        self.needs = self.rules.needs
        chosen = [number for number, item in enumerate(plan.rules) if _about_methods(item, plan)]
        self._general = None
        if chosen:
            part = msgspec.structs.replace(plan, rules=[plan.rules[number] for number in chosen])
            self._general = RuleSet(part, None if on_error is None else _nth(on_error, chosen))
        self._chosen = chosen
        self.lasting = self.needs <= BY_NAME
        """Do decisions depend on the identity, method and names only?"""
        self._known: OrderedDict[tuple[bytes, str, str, str, str, bool], Decision] = OrderedDict()

    def decide(self, claims: Mapping[str, Any], facts: McpFacts, request: Request | None = None, *, listing: bool = False, key: bytes = b"") -> Decision:
        """May the message be sent (`listing`: may the thing be shown)? Never raises.

        `key` names the identity `claims` belong to, and with it the claims themselves: a token with other claims has another key. With one,
        the decision may come from memory; b"" asks the rules.
        """
        if not facts.kind:
            return self._about_nothing(claims, facts, request)
        if not key or not self.lasting:
            return self.rules.decide(Facts(request, claims, facts, listing=listing))
        place = (key, facts.method, facts.kind, facts.target, facts.name, listing)
        known = self._known.get(place)
        if known is None:
            known = self.rules.decide(Facts(request, claims, facts, listing=listing))
            self._known[place] = known
            if len(self._known) > CACHED:
                self._known.popitem(last=False)
        return known

    def _about_nothing(self, claims: Mapping[str, Any], facts: McpFacts, request: Request | None) -> Decision:
        if self._general is None:
            return _FREE
        found = self._general.decide(Facts(request, claims, facts))
        return found if found.rule is None else found._replace(rule=self._chosen[found.rule])


def _about_methods(rule: RulePlan, plan: RulesPlan) -> bool:
    needs = cel.compile(rule.expression, plan.phase).needs
    return rule.effect != "allow" and "method" in needs and not needs & {"name", "arguments", "annotations"}


def _nth(on_error: Callable[[int], object], chosen: list[int]) -> Callable[[int], object]:
    return lambda index: on_error(chosen[index])
