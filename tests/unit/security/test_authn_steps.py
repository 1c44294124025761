"""Authentication as part of a gate: the order of steps, what ends remembered identities, and counters that exist."""

from __future__ import annotations

import json

import pytest

from agw._fast.gate import Gate, Identity, License
from agw.runtime.plan import PolicyPlan
from agw.runtime.plan_security import (
    ApiKeyEntry,
    ApiKeyPlan,
    BasicPlan,
    CallPlan,
    IntrospectionPlan,
    JwtPlan,
    JwtProviderPlan,
    McpAuthPlan,
)
from agw.security.contract import Found
from agw.security.keeper import Keeper
from agw.security.steps import make_steps
from agw.shm.layout import DECISION_WORDS
from tests.kits.tokens import ISSUER, Asked, Host, at_once, bearer, jwks, sha256, signer

URL = "https://issuer.example/jwks"
JWT = JwtPlan([JwtProviderPlan(ISSUER, jwks_url=URL)])
ALL = PolicyPlan(
    jwt=JWT,
    introspection=IntrospectionPlan(CallPlan(0), mode="optional"),
    basic=BasicPlan([("a", "{SHA}5en6G6MezRroT3XKqkdPOmY/BfQ=")], mode="optional"),
    api_key=ApiKeyPlan([ApiKeyEntry(sha256("k"))], mode="optional"),
)


def test_source_is_first_and_certificates_come_after_all_other_authentication() -> None:
    names = [type(step).__name__ for step in make_steps(ALL, Host())]
    assert names == ["Source", "JwtAuth", "IntrospectionAuth", "BasicAuth", "ApiKeyAuth", "CertificateName"]


@pytest.mark.parametrize(
    "policies",
    [PolicyPlan(jwt=JWT), PolicyPlan(mcp_auth=McpAuthPlan(JWT, "https://gateway.example/mcp", json.dumps({"resource": "https://gateway.example/mcp"})))],
    ids=["jwtAuth", "mcpAuthentication"],
)
def test_a_gate_forgets_everybody_when_keys_go_away(policies: PolicyPlan) -> None:
    host = Host()
    host.documents.publish(URL, jwks(signer("P-256", "a"), signer("P-256", "b")))
    gate = Gate(policies, [b"authorization"])
    gate.keeper = Keeper(gate, policies, host)
    gate.remember(Identity(b"alice", {}), License(), b"=Bearer x")
    host.documents.publish(URL, jwks(signer("P-256", "a"), signer("P-256", "b"), signer("P-256", "c")))
    assert len(gate) == 1
    host.documents.publish(URL, jwks(signer("P-256", "b")))
    assert len(gate) == 0


def test_every_result_has_a_counter() -> None:
    host = Host()
    host.documents.publish(URL, "x")
    host.documents.publish(URL, jwks(signer("P-256")))
    for mode in ("strict", "optional", "permissive"):
        for step in make_steps(
            PolicyPlan(
                jwt=JwtPlan(JWT.providers, mode),  # type: ignore[arg-type]
                introspection=IntrospectionPlan(CallPlan(0), mode=mode),  # type: ignore[arg-type]
                basic=BasicPlan(ALL.basic.users if ALL.basic else [], mode=mode),  # type: ignore[arg-type]
                api_key=ApiKeyPlan([ApiKeyEntry(sha256("k"))], mode=mode),  # type: ignore[arg-type]
            ),
            host,
        ):
            for request in (Asked(), bearer(b"="), Asked([(b"authorization", b"Basic x")]), bearer(b"k")):
                if type(step).__name__ != "IntrospectionAuth" or request.values(b"authorization") != [b"Bearer k"]:
                    at_once(step.check(request, Found()))  # type: ignore[arg-type]
    assert set(host.counted) - DECISION_WORDS.keys() == set()
    assert len(set(host.counted)) >= 4 * 4
