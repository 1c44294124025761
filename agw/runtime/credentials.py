"""Credentials towards backends as compiled parts of a snapshot: one `BackendAuth` per different `backendAuth`, and the places they fill.

Rules:
- who presents them (`BackendAuth.presenting`) is attached by the worker: the supervisor compiles plans too, and asks nobody;
- one that did not change is carried over a reload with all it has: tokens are not asked for again;
- what a client sent at a place of a credential does not go on, whatever it was: headers are told to the compiled edits here.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import msgspec

from agw.runtime.gates import calls
from agw.runtime.plan import ClusterPlan
from agw.runtime.plan_security import AwsSign, BackendAuthPlan, ClientCredentials, JwtSign, KeyCredential, LocationPlan, TokenExchange


class Places(NamedTuple):
    """Where credentials stand: headers in lower case, names of query parameters, names of cookies."""

    headers: frozenset[bytes] = frozenset()
    queries: frozenset[bytes] = frozenset()
    cookies: frozenset[bytes] = frozenset()

    def __or__(self, other: Places) -> Places:
        """The places of both."""
        return Places(self.headers | other.headers, self.queries | other.queries, self.cookies | other.cookies)


NOWHERE = Places()
AWS_HEADERS = ("authorization", "x-amz-date", "x-amz-security-token", "x-amz-content-sha256")
"""What a signature consists of (AWS Signature Version 4)."""


def places_of(locations: list[LocationPlan]) -> Places:
    """The places of several credentials together."""

    def named(kind: str) -> frozenset[bytes]:
        return frozenset(item.name.encode("ascii") for item in locations if item.kind == kind)

    return Places(frozenset(name.lower() for name in named("header")), named("query"), named("cookie"))


def locations(part: object) -> list[LocationPlan]:
    """Every location inside a part of a plan. Without `subject` a token exchange looks where bearer tokens are."""
    if isinstance(part, LocationPlan):
        return [part]
    inner: list[object] = []
    if isinstance(part, AwsSign):
        return [LocationPlan("header", name, "") for name in AWS_HEADERS]
    if isinstance(part, msgspec.Struct):
        inner = [getattr(part, name) for name in part.__struct_fields__]
        if isinstance(part, TokenExchange) and part.subject is None:
            inner.append(LocationPlan())
    elif isinstance(part, (list, tuple)):
        inner = list(part)
    return [found for each in inner for found in locations(each)]


class BackendAuth:
    """`backendAuth` of one or more backends or targets.

    `presenting` is an `agw.security.upstream.presenting.Presenting`, None until the worker has attached it: no request goes
    out meanwhile. `personal`: what is presented may differ from caller to caller.
    """

    __slots__ = ("personal", "places", "plan", "presenting")

    def __init__(self, plan: BackendAuthPlan) -> None:
        self.plan = plan
        self.places = places_of(locations(plan.credentials))
        self.personal = any(
            not isinstance(credential, KeyCredential | ClientCredentials | AwsSign) and not (isinstance(credential, JwtSign) and not credential.claims)
            for credential in plan.credentials)
        self.presenting: Any = None


class BackendAuths:
    """Those of a snapshot: equal plans share one, the same as before when nothing of it changed."""

    def __init__(self, clusters: list[ClusterPlan], previous: dict[bytes, BackendAuth] | None = None) -> None:
        self._clusters = clusters
        self._previous = previous or {}
        self.by_identity: dict[bytes, BackendAuth] = {}

    def of(self, plan: BackendAuthPlan | None) -> BackendAuth | None:
        """The one of a plan; None for none."""
        if plan is None or not plan.credentials:
            return None
        # A number of a cluster means another service when the list has changed.
        identity = msgspec.msgpack.encode((plan, [self._clusters[call.cluster] for call in calls(plan)]))
        found = self.by_identity.get(identity)
        if found is None:
            found = self.by_identity[identity] = self._previous.get(identity) or BackendAuth(plan)
        return found
