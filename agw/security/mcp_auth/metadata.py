"""Protected-resource documents: what an MCP endpoint publishes about itself (RFC 9728 section 2).

Rules:
- what the operator wrote stands in the document as it is written; only what is missing is filled in;
- `resource` is the endpoint's public URL: clients compare it with the one they use and refuse any other;
- `authorization_servers` is the issuer, or the gateway itself where an adapter stands before the issuer;
- scopes that are demanded are offered too, unless the operator lists others.
"""

from __future__ import annotations

from typing import Any

import orjson

from agw.runtime.plan_security import McpAuthPlan
from agw.security.mcp_auth.places import Asked, gateway_issuer, resource_of

MAX_KEPT = 256
"""Documents kept by the URL they are for."""


def scopes_of(plan: McpAuthPlan) -> list[str]:
    """All scopes the plan may demand, in the order they are first named."""
    named = [*plan.scopes_required, *(scope for scopes in plan.tool_scopes.values() for scope in scopes)]
    return list(dict.fromkeys(named))


def document(plan: McpAuthPlan, resource: str) -> bytes:
    """The document of one endpoint as JSON. `resource` is its public URL."""
    said: dict[str, Any] = orjson.loads(plan.resource_metadata or "{}")
    servers = plan.authorization_servers or [plan.jwt.providers[0].issuer]
    out: dict[str, Any] = {"resource": resource, "authorization_servers": [gateway_issuer(resource)] if plan.provider else servers}
    scopes = scopes_of(plan)
    if scopes:
        out["scopes_supported"] = scopes
    out["bearer_methods_supported"] = ["header"]
    out.update({name: value for name, value in said.items() if value is not None and name != "resource"})
    return orjson.dumps(out)


class Documents:
    """The documents of one policy, made once per endpoint."""

    def __init__(self, plan: McpAuthPlan) -> None:
        self._plan = plan
        self._kept: dict[str, bytes] = {}

    def get(self, asked: Asked, path: str) -> bytes | None:
        """The document of the endpoint at `path`; None when the request does not say where that is."""
        resource = resource_of(self._plan.resource, asked, path)
        if not resource:
            return None
        found = self._kept.get(resource)
        if found is None:
            if len(self._kept) >= MAX_KEPT:
                # Only without a configured resource, and then by what requests say: none is worth more than another.
                self._kept.clear()
            found = self._kept[resource] = document(self._plan, resource)
        return found
