"""Which routes share a gate, and which reloads it lives through."""

from __future__ import annotations

import pytest

from agw.runtime.gates import Gates, calls
from agw.runtime.plan import ClusterPlan, PolicyPlan
from agw.runtime.plan_security import CallPlan, ExtAuthzPlan, IntrospectionPlan, JwtPlan, JwtProviderPlan

A, B, C = (ClusterPlan(name, host=name, port=80) for name in "abc")
ASKS_SECOND = PolicyPlan(introspection=IntrospectionPlan(call=CallPlan(1)))
ASKS_NOBODY = PolicyPlan(jwt=JwtPlan([JwtProviderPlan("issuer", jwks="{}")]))


def test_every_call_of_a_policy_is_found() -> None:
    policies = PolicyPlan(
        introspection=IntrospectionPlan(call=CallPlan(1)), ext_authz=[ExtAuthzPlan(call=CallPlan(2)), ExtAuthzPlan(call=CallPlan(0, "/x")), ExtAuthzPlan()])
    assert sorted(call.cluster for call in calls(policies)) == [0, 1, 2]
    assert list(calls(ASKS_NOBODY)) == []


def test_no_security_no_gate() -> None:
    assert Gates([A]).of(PolicyPlan(), []) is None


def test_routes_with_the_same_policies_share_a_gate() -> None:
    gates = Gates([A, B])
    assert gates.of(ASKS_SECOND, []) is gates.of(PolicyPlan(introspection=IntrospectionPlan(call=CallPlan(1))), [])
    assert gates.of(ASKS_NOBODY, []) is not gates.of(ASKS_SECOND, [])


@pytest.mark.parametrize(
    ("policies", "clusters", "lives"),
    [
        (ASKS_NOBODY, [C], True),
        (ASKS_SECOND, [A, B], True),
        (ASKS_SECOND, [C, B, A], True),
        # The same text, and another service behind it.
        (ASKS_SECOND, [A, C], False),
    ],
)
def test_a_gate_lives_on_while_what_it_says_and_whom_it_asks_are_the_same(policies: PolicyPlan, clusters: list[ClusterPlan], lives: bool) -> None:
    before = Gates([A, B])
    old = before.of(policies, [])
    assert (Gates(clusters, before.by_identity).of(policies, []) is old) is lives
