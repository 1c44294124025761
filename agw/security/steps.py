"""Which policy is which step, in the order in which a request meets them. Adding one is a line here.

A step's module has `factory(plan, host) -> Step` and is imported when a plan has the policy: what nobody configured costs
nothing.
"""

from __future__ import annotations

import importlib
from typing import Any

from agw.runtime.plan import PolicyPlan
from agw.security.contract import SecurityHost, Step

ORDER = (
    ("", "agw.security.source"),
    ("sources", "agw.security.sources"),
    ("consent", "agw.security.consent.document"),
    ("oidc", "agw.security.oidc"),
    ("jwt", "agw.security.jwt"),
    ("mcp_auth", "agw.security.mcp_auth.step"),
    ("introspection", "agw.security.introspection"),
    ("basic", "agw.security.basic"),
    ("api_key", "agw.security.api_key"),
    ("", "agw.security.certificate"),
    ("ext_authz", "agw.security.ext_authz"),
    ("authorization", "agw.security.http_rules"),
    ("remote_limits", "agw.security.rls"),
    ("csrf", "agw.security.csrf"),
    ("backend_authorization", "agw.security.http_rules"),
    ("backend_ext_authz", "agw.security.ext_authz"),
    ("consent", "agw.security.consent.page"),
)
"""(field of PolicyPlan, module); without field it is a step of every route that has any."""


def make_steps(policies: PolicyPlan, host: SecurityHost) -> list[Step]:
    """The steps of a route's policies; a list of plans is one step, of which each request asks one."""
    steps: list[Step] = []
    for field, module in ORDER:
        plan: Any = getattr(policies, field) if field else policies
        if plan:
            factory = factory_of(module)
            made: list[Step] = [factory(each, host) for each in (plan if isinstance(plan, list) else [plan])]
            if isinstance(plan, list) and (len(plan) > 1 or plan[0].condition):
                from agw.security.conditional import Conditional  # only policies under conditions pay for it

                made = [Conditional([(each.condition, step) for each, step in zip(plan, made, strict=True)])]
            steps += made
    return steps


def factory_of(module: str) -> Any:
    """The factory in a step's module."""
    return importlib.import_module(module).factory
