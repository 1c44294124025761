"""Warns of expressions that ask who calls where nothing finds that out.

Rules kept here:
- a route is looked at with all that listeners and `policies[]` give it: what counts is whether any such policy stands before it;
- legal all the same: a rule that fails to find `jwt` denies as an allow rule, and `!has(jwt)` is true.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from agw.config.problem import Path
from agw.runtime.plan_security import RemoteLimitPlan, RulesPlan

if TYPE_CHECKING:
    from agw.config.check import Context
    from agw.security.cel_names import Phase

FOUND_BY = {
    "jwt": ("jwt", "mcp_auth", "introspection", "oidc"), "apiKey": ("api_key",), "basicAuth": ("basic",), "extauthz": ("ext_authz", "backend_ext_authz"),
}  # fmt: skip
"""Variable -> the policies of the plan that fill it."""
_KEYS = {
    "jwt": "jwtAuth, mcpAuthentication, tokenIntrospection or oidc", "apiKey": "apiKey", "basicAuth": "basicAuth", "extauthz": "extAuthz",
}  # fmt: skip
_POLICIES = {
    "authorization": "authorization", "backend_authorization": "authorization", "mcp_authorization": "mcpAuthorization", "limits": "localRateLimit",
    "remote_limits": "remoteRateLimit",
}  # fmt: skip


def warn_of_strangers(context: Context, policies: dict[str, Any], path: Path) -> None:
    """Warnings for the merged policies of one route."""
    told: set[tuple[str, str]] = set()
    for field, key in _POLICIES.items():
        for text, phase in _expressions(policies.get(field)):
            for root in _roots(text, phase):
                if (key, root) not in told and not any(policies.get(name) for name in FOUND_BY[root]):
                    told.add((key, root))
                    text = f"{key} asks for `{root}`, and nothing on this route finds it out, so it is never there; add {_KEYS[root]}, or remove it"
                    context.findings.warning(path, text)


def _expressions(plan: Any) -> Iterator[tuple[str, Phase]]:
    if isinstance(plan, RulesPlan):
        for rule in plan.rules:
            yield rule.expression, plan.phase
        return
    for item in plan or ():
        if isinstance(item, RemoteLimitPlan):
            for descriptor in item.descriptors:
                for text in (*(entry.value for entry in descriptor.entries), descriptor.cost, descriptor.limit_override):
                    yield text, "http"
        else:
            yield item.key, item.phase
            yield item.cost, item.phase


def _roots(text: str, phase: Phase) -> list[str]:
    if not any(root in text for root in FOUND_BY):
        return []
    from agw.security import cel  # only files with such expressions pay for it

    try:
        names = cel.compile(text, phase).names
    except (cel.CelError, cel.CelMissing):
        return []  # told where it stands
    return sorted({name.removeprefix("has_").partition(".")[0] for name in names} & FOUND_BY.keys())
