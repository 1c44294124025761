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
from typing import Any, NamedTuple

from agw.runtime.plan_security import RulePlan, RulesPlan
from agw.security import cel
from agw.security.cel import EvaluationError, Expression
from agw.security.cel_names import KINDS
from agw.security.facts import Facts

_THINGS = tuple(f"mcp.{kind}" for kind in KINDS)
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

    def decide(self, facts: Facts) -> Decision:
        """What the rules say. Never raises."""
        if not self.rules:
            return _EMPTY
        bound = cel.activation(self.phase, facts.data(self.names, self._members))
        kind = facts.mcp.kind if facts.mcp is not None else ""
        listing = facts.listing
        for rule in self.deny:
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
        for rule in self.allow:
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
