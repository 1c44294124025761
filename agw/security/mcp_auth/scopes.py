"""Scopes that single tools need beyond those of every call: `toolScopes`.

Rules:
- a name is what the client says; `*` at the end of one stands for any rest, and all entries that fit count together;
- a missing scope is 403 with all scopes of the operation, those of every call included; it is no reason to hide the tool,
  because then nobody would know what to ask for.

Source: MCP 2026-07-28, "Authorization" (scope challenge, step-up).
"""

from __future__ import annotations

from collections.abc import Iterable

from agw.runtime.plan_security import McpAuthPlan
from agw.security.contract import Refusal
from agw.security.mcp_auth.challenge import insufficient
from agw.security.mcp_auth.places import Asked


class ToolScopes:
    """The scopes of one policy's tools."""

    def __init__(self, plan: McpAuthPlan) -> None:
        self._plan = plan
        self._exact = {name: frozenset(scopes) for name, scopes in plan.tool_scopes.items() if not name.endswith("*")}
        self._prefixes = [(name[:-1], frozenset(scopes)) for name, scopes in plan.tool_scopes.items() if name.endswith("*")]

    def __bool__(self) -> bool:
        return bool(self._exact or self._prefixes)

    def needed(self, tool: str) -> frozenset[str]:
        """What a call of this tool needs by its name alone."""
        out = self._exact.get(tool, frozenset())
        for prefix, scopes in self._prefixes:
            if tool.startswith(prefix):
                out |= scopes
        return out

    def lacking(self, held: frozenset[str], tools: Iterable[str], asked: Asked) -> Refusal | None:
        """The step-up for calls of `tools` with a token of scopes `held`; None when it reaches."""
        names = list(tools)
        needed = frozenset[str]().union(*(self.needed(tool) for tool in names))
        missing = needed - held
        if not missing:
            return None
        wanted = [*self._plan.scopes_required, *sorted(needed)]
        return insufficient(self._plan, asked, wanted, f"scope {sorted(missing)[0]!r} is missing")
