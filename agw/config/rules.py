"""Rules, origins and address lists of the file to those of the plan.

Rules kept here:
- an expression is compiled when the file is loaded; each fault of it is a problem that names line and column inside the expression;
- a rule that decides nothing (constant, or there twice) is a warning;
- an empty rule list is legal and allows everything, which is a warning too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from agw.config import values
from agw.config.check import Context
from agw.config.model_rules import Csrf, RuleEntry, RuleSet, Sources
from agw.config.problem import Path
from agw.config.values import quoted
from agw.runtime.plan_security import CsrfPlan, RulePlan, RulesPlan, SourcesPlan

if TYPE_CHECKING:
    from agw.config.model import Config
    from agw.security.cel_names import Phase

_EFFECTS: tuple[Literal["allow", "deny", "require"], ...] = ("allow", "deny", "require")
MAX_RULES = 1000
MAX_BLOCKS = 100_000


def http_rules(context: Context, value: RuleSet, path: Path) -> RulesPlan:
    """`authorization`."""
    return _rules(context, value, path, "http")


def mcp_rules(context: Context, value: RuleSet, path: Path) -> RulesPlan:
    """`mcpAuthorization`."""
    return _rules(context, value, path, "mcp")


def network_rules(context: Context, config: Config) -> RulesPlan | None:
    """`frontendPolicies.networkAuthorization`."""
    value = config.frontend_policies.network_authorization if config.frontend_policies is not None else None
    return None if value is None else _rules(context, value, ("frontendPolicies", "networkAuthorization"), "network")


def _rules(context: Context, value: RuleSet, path: Path, phase: Literal["network", "http", "mcp"]) -> RulesPlan:
    below: Path = (*path, "rules")
    places: list[Path] = []
    rules: list[RulePlan] = []
    good = True
    if not value.rules and context.is_complete(below):
        context.findings.warning(below, "no rule, so everything is allowed; add one, or remove the policy")
    if len(value.rules) > MAX_RULES:
        context.findings.problem(below, f"{len(value.rules)} rules; at most {MAX_RULES} are allowed, join some with ||")
        return RulesPlan(phase, [])
    for index, item in enumerate(value.rules):
        place: Path = (*below, index)
        effect: Literal["allow", "deny", "require"] = "allow"
        text: str | None = item if isinstance(item, str) else None
        if isinstance(item, RuleEntry):
            chosen = context.choice(item, place, _EFFECTS)
            if chosen is None:
                good = False
                continue
            effect = next(name for name in _EFFECTS if name == chosen)
            text = getattr(item, effect)
            place = (*place, effect)
        good = expression(context, text or "", place, phase, truth=True) and good
        places.append(place)
        rules.append(RulePlan(text or "", effect, context.shown(place)))
    plan = RulesPlan(phase, rules)
    if good and rules:
        from agw.security.rules import remarks  # only files with rules pay for it

        for number, text in remarks(plan):
            context.findings.warning(places[number], text)
    return plan


def expression(context: Context, text: str, path: Path, phase: Phase, *, truth: bool = False) -> bool:
    """Check an expression of the file; faults become problems. `truth`: it must be true or false. True when it is usable."""
    from agw.security import cel  # only files with expressions pay for it

    try:
        compiled = cel.compile(text, phase)
    except cel.CelMissing as error:
        context.findings.problem(path, str(error))
        return False
    except cel.CelError as error:
        for fault in error.faults[:8]:
            context.findings.problem(path, f"{fault.message} (line {fault.line}, column {fault.column} of the expression)")
        return False
    if truth and compiled.returns not in ("bool", "dyn"):
        context.findings.problem(path, f"the rule gives {compiled.returns}, not true or false; compare it with something")
        return False
    return True


def csrf_plan(context: Context, value: Csrf, path: Path) -> CsrfPlan:
    """`csrf`."""
    origins = []
    for index, text in enumerate(value.additional_origins):
        place: Path = (*path, "additionalOrigins", index)
        origin = context.findings.value(place, values.origin, text, "")
        if "*" in origin:
            context.findings.problem(place, f"{quoted(text)} is no single origin; list each, like https://app.example.com")
        origins.append(origin)
    return CsrfPlan(origins)


def sources_plan(context: Context, value: Sources, path: Path) -> SourcesPlan:
    """`sources`."""
    from agw.security.sources import parse_block

    def parsed(blocks: list[str], key: str) -> list[str]:
        if len(blocks) > MAX_BLOCKS:
            context.findings.problem((*path, key), f"{len(blocks)} blocks; at most {MAX_BLOCKS} are allowed")
            return []
        for index, text in enumerate(blocks):
            try:
                parse_block(text)
            except ValueError:
                context.findings.problem((*path, key, index), f"{quoted(text)} is no address or CIDR block; write it like 10.0.0.0/8 or 2001:db8::/32")
        return blocks

    if not value.allow and not value.deny and context.is_complete(path):
        context.findings.warning(path, "neither allow nor deny, so every address may come; add one, or remove the policy")
    return SourcesPlan(parsed(value.allow, "allow"), parsed(value.deny, "deny"))
