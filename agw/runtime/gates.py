"""The gate of a route: which of its policies the data path must ask about, and what a decision may depend on.

Rules:
- a route without security policies has no gate, and pays one comparison with None;
- who decides (`Gate.keeper`) is attached by the worker: the supervisor compiles plans too, and asks nobody;
- what holds credentials is taken off requests to upstreams; where, is said here once for all requests (`taken_off`).

Adding a policy: its plan field goes into `SECURITY`, its step into `agw.security.steps`.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from agw._fast.gate import Gate
from agw.runtime.plan import BackendRef, ClusterPlan, PolicyPlan
from agw.runtime.plan_security import CallPlan, LocationPlan, PassthroughCredential

SECURITY = (
    "sources", "oidc", "jwt", "mcp_auth", "introspection", "basic", "api_key", "ext_authz", "authorization", "mcp_authorization", "limits",
    "remote_limits", "csrf", "backend_authorization", "backend_ext_authz", "consent",
)
"""Fields of PolicyPlan that make a gate."""


def locations(policies: PolicyPlan) -> list[LocationPlan]:
    """Where credentials of these policies stand, each place once."""
    found: list[LocationPlan] = []
    for plan in (policies.jwt, policies.mcp_auth.jwt if policies.mcp_auth is not None else None, policies.introspection, policies.basic, policies.api_key):
        if plan is not None:
            place = plan.location
            places = [LocationPlan("header", name, "") for name in place.headers] if place.kind == "expression" else [place]
            found += [each for each in places if each not in found]
    return found


def effective(policies: PolicyPlan, backends: list[BackendRef]) -> PolicyPlan:
    """The policies with the rules for messages that stand at the route's backend."""
    if policies.mcp_authorization is None:
        for ref in backends:
            if ref.policies is not None and ref.policies.mcp_authorization is not None:
                return msgspec.structs.replace(policies, mcp_authorization=ref.policies.mcp_authorization)
    return policies


def calls(part: object) -> Iterator[CallPlan]:
    """Every CallPlan inside a part of the plan."""
    if isinstance(part, CallPlan):
        yield part
    elif isinstance(part, msgspec.Struct):
        for name in part.__struct_fields__:
            yield from calls(getattr(part, name))
    elif isinstance(part, (list, tuple)):
        for inner in part:
            yield from calls(inner)
    elif isinstance(part, dict):
        for inner in part.values():
            yield from calls(inner)


class Gates:
    """The gates of a snapshot: one for all routes with the same policies, the same one as before when they did not change."""

    def __init__(self, clusters: list[ClusterPlan], previous: dict[bytes, Gate] | None = None) -> None:
        self._clusters = clusters
        self._previous = previous or {}
        self.by_identity: dict[bytes, Gate] = {}

    def of(self, policies: PolicyPlan, backends: list[BackendRef]) -> Gate | None:
        """The gate of a route; None when everybody may enter."""
        policies = effective(policies, backends)
        parts = [getattr(policies, name) for name in SECURITY]
        if not any(parts):
            return None
        # A number of a cluster means another service when the list has changed.
        identity = msgspec.msgpack.encode((parts, [self._clusters[call.cluster] for call in calls(parts)]))
        gate = self.by_identity.get(identity)
        if gate is None:
            # A gate that knows nobody yet is empty, and so no truth value.
            gate = self._previous.get(identity)
            self.by_identity[identity] = gate = gate if gate is not None else make_gate(policies)
        return gate


def make_gate(policies: PolicyPlan) -> Gate:
    """A gate that knows nobody yet."""
    places = locations(policies)
    headers = sorted({place.name.lower().encode() for place in places if place.kind == "header"})
    return Gate(
        policies,
        headers,
        elsewhere=policies.oidc is not None or any(place.kind != "header" for place in places),
        by_peer=depends_on_peer(policies),
        messages=policies.mcp_authorization is not None or bool(policies.mcp_auth and policies.mcp_auth.tool_scopes)
        or any(limit.phase == "mcp" for limit in policies.limits),
    )


def depends_on_peer(policies: PolicyPlan) -> bool:
    """May a decision depend on who connects, beyond the credentials? Told by the text: wrong in one direction only."""
    if policies.sources is not None:
        return True
    texts: list[str] = []
    for rules in (policies.authorization, policies.mcp_authorization, policies.backend_authorization):
        if rules is not None:
            texts.extend(rule.expression for rule in rules.rules)
    for limit in policies.limits:
        texts.extend((limit.key, limit.cost))
    return any("source" in text for text in texts)


def taken_off(policies: PolicyPlan, own: PolicyPlan) -> list[LocationPlan]:
    """Where credentials for this gateway stand; they do not go to the backend."""
    kept = [
        (credential.location.kind, credential.location.name.lower())
        for auth in (own.backend_auth or policies.backend_auth,)
        if auth is not None
        for credential in auth.credentials
        if isinstance(credential, PassthroughCredential)
    ]
    return [place for place in locations(policies) if (place.kind, place.name.lower()) not in kept]
