"""Rule sets: allow, deny and require over expressions.

The order, for every decision:
1. a deny rule that is true denies, and so does one that cannot be evaluated;
2. every require rule must be true;
3. when there are allow rules, one must be true; without any, what is not denied is allowed.

Rules that name a thing of MCP (`mcp.tool`, `mcp.prompt`, `mcp.resource`, `mcp.task`) about a message that concerns another kind of thing:
- an allow does not match and a require fails, so a set that allows tools only allows no prompt;
- a deny says nothing: that it cannot be evaluated is no accident then, and `mcp.tool.name == "rm"` is not meant to hide prompts.

While a list is filtered (`listing`), the arguments and method of a call to come are unknown: a rule that cannot be evaluated for that reason alone
neither hides nor refuses; the call itself is decided in full.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, NamedTuple

from agw.runtime.plan_security import RulePlan, RulesPlan
from agw.security import cel
from agw.security.cel import EvaluationError, Expression
from agw.security.cel_names import KINDS
from agw.security.facts import Facts

_THINGS = tuple(f"mcp.{kind}" for kind in KINDS)
_WORTH_IT = 2
THINGS: Final = 4096
"""Tools, prompts and the like for which a set remembers which rules can be true; when there are more, all are forgotten."""

_VARYING = (".arguments", ".annotations", ".methodName", ".sessionId")
_UNTOLD = ("mcp.tool.arguments", "mcp.methodName")


class Decision(NamedTuple):
    """`rule` is the index of the rule that decided, None when it was the lack of one; `why` is for the operator, without values."""

    allowed: bool
    rule: int | None
    why: str


class Rule(NamedTuple):
    """A rule of a set, compiled."""

    number: int
    plan: RulePlan
    expression: Expression


class _Part(NamedTuple):
    """Rules to ask, and the variables and members they look at."""

    deny: list[Rule]
    allow: list[Rule]
    names: frozenset[str]
    members: dict[str, frozenset[str] | None]


class RuleSet:
    """A compiled rule set. `on_error` is called with the index of a rule for every evaluation that gave no truth value.

    `needs` are the groups of facts (see `cel_names`) that decisions depend on, `names` the variables. Errors: CelError, CelMissing.
    """

    def __init__(self, plan: RulesPlan, on_error: Callable[[int], object] | None = None) -> None:
        self.phase = plan.phase
        self.rules = [Rule(index, item, cel.compile(item.expression, plan.phase)) for index, item in enumerate(plan.rules)]
        self.deny = [item for item in self.rules if item.plan.effect == "deny"]
        self.require = [item for item in self.rules if item.plan.effect == "require"]
        self.allow = [item for item in self.rules if item.plan.effect == "allow"]
        self.needs: frozenset[str] = frozenset().union(*(item.expression.needs for item in self.rules))
        self.names, self._members = cel.merged(item.expression for item in self.rules)
        self._on_error = on_error
        self._all = _Part(self.deny, self.allow, self.names, self._members)
        self._by_thing: dict[tuple[str, str, str], _Part] = {}

    def decide(self, facts: Facts) -> Decision:
        """What the rules say. Never raises."""
        if not self.rules:
            return _EMPTY
        part = self._part(facts)
        bound = cel.activation(self.phase, facts.data(part.names, part.members))
        kind = facts.mcp.kind if facts.mcp is not None else ""
        listing = facts.listing
        for rule in part.deny:
            result = rule.expression.test(bound)
            if result is False:
                continue
            if result is True:
                return Decision(False, rule.number, "a deny rule is true")
            if _elsewhere(result, kind) or (listing and result.missing in _UNTOLD):
                continue
            self._failed(rule)
            return Decision(False, rule.number, "a deny rule cannot be evaluated")
        for rule in self.require:
            result = rule.expression.test(bound)
            if result is True:
                continue
            if result is False:
                return Decision(False, rule.number, "a require rule is false")
            if listing and result.missing in _UNTOLD:
                continue
            if not _elsewhere(result, kind):
                self._failed(rule)
            return Decision(False, rule.number, "a require rule cannot be evaluated")
        if not self.allow:
            return _NOT_DENIED
        for rule in part.allow:
            result = rule.expression.test(bound)
            if result is True:
                return Decision(True, rule.number, "an allow rule is true")
            if result is False:
                continue
            if listing and result.missing in _UNTOLD:
                return Decision(True, rule.number, "an allow rule may be true for a call")
            if not _elsewhere(result, kind):
                self._failed(rule)
        return _NOT_ALLOWED

    def results(self, facts: Facts) -> list[bool | EvaluationError]:
        """What each rule gives by itself, for whoever wants to know why."""
        bound = cel.activation(self.phase, facts.data(self.names, self._members))
        return [item.expression.test(bound) for item in self.rules]

    def _part(self, facts: Facts) -> _Part:
        """The deny and allow rules that may be true for this thing: without those that its names alone make false.

        What is false while everything else is unknown stays false: an unknown value is an error, which only `&&`, `||` and what is made of
        them (`all`, `exists`) absorb, and only when the known side decides.
        """
        mcp = facts.mcp
        if mcp is None or not mcp.kind or len(self.rules) < _WORTH_IT or "name" not in self.needs:
            return self._all
        thing = (mcp.kind, mcp.target, mcp.name)
        part = self._by_thing.get(thing)
        if part is None:
            names = [name for name in self.names if name.startswith((f"mcp.{mcp.kind}.", "has_mcp.")) and not name.endswith(_VARYING)]
            bound = cel.activation(self.phase, facts.data(names, {}))
            deny, allow = ([rule for rule in rules if rule.expression.test(bound) is not False] for rules in (self.deny, self.allow))
            part = _Part(deny, allow, *cel.merged(item.expression for item in (*deny, *self.require, *allow)))
            if len(self._by_thing) >= THINGS:
                self._by_thing.clear()
            self._by_thing[thing] = part
        return part

    def _failed(self, rule: Rule) -> None:
        if self._on_error is not None:
            self._on_error(rule.number)


_EMPTY = Decision(True, None, "there is no rule")
_NOT_DENIED = Decision(True, None, "no rule denies")
_NOT_ALLOWED = Decision(False, None, "no allow rule is true")


def _elsewhere(error: EvaluationError, kind: str) -> bool:
    """Was the rule about another kind of thing than this message?"""
    missing = error.missing
    return missing.startswith("mcp.") and missing.startswith(_THINGS) and missing.split(".")[1] != kind


def remarks(plan: RulesPlan) -> list[tuple[int, str]]:
    """(index of a rule, what is probably not meant by it). The rules must compile."""
    out: list[tuple[int, str]] = []
    seen: dict[tuple[str, str], int] = {}
    for index, rule in enumerate(plan.rules):
        first = seen.setdefault((rule.effect, " ".join(rule.expression.split())), index)
        if first != index:
            out.append((index, f"the same rule as number {first + 1}; remove one"))
            continue
        constant: Any = cel.compile(rule.expression, plan.phase).constant
        if constant is False:
            effect = "it refuses everything" if rule.effect == "require" else "it can never match"
            out.append((index, f"the rule is false whatever is asked, so {effect}; mend or remove it"))
        elif constant is True and rule.effect == "deny":
            out.append((index, "the rule is true whatever is asked, so it denies everything; mend or remove it"))
    return out
