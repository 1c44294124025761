"""`mcpAuthentication` of the file: what is derived, what is refused, and which well-known paths its routes match."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import msgspec
import pytest

from agw.config import ConfigErrors, Loaded, load_bytes, load_file
from agw.config.mcp_auth import with_well_known
from agw.runtime.plan import MatchPlan, Plan, PolicyPlan, RoutePlan
from agw.runtime.plan_security import JwtPlan, JwtProviderPlan, LocationPlan, McpAuthPlan

PRM, AS = "/.well-known/oauth-protected-resource", "/.well-known/oauth-authorization-server"
RESOURCE = "https://agw.example/mcp"
REFERENCE = os.environ.get("AGW_REFERENCE", "")


def policy(**more: Any) -> dict[str, Any]:
    found = {"issuer": "https://issuer.example/a", "audiences": ["me"], "resourceMetadata": {"resource": RESOURCE}, **more}
    return {name: value for name, value in found.items() if value is not None}


def load(given: dict[str, Any], **policies: Any) -> Loaded:
    mcp = {"targets": [{"name": "t", "mcp": {"host": "http://127.0.0.1:1/mcp"}}], "policies": {"mcpAuthentication": given, **policies}}
    return load_bytes(json.dumps({"gateways": {"default": {"port": 3000}}, "mcp": mcp}).encode(), "f.yaml", {})


def auth(**more: Any) -> McpAuthPlan:
    loaded = load(policy(**more))
    assert loaded.warnings == []
    found = loaded.plan.routes[0].policies.mcp_auth
    assert found is not None
    return found


def problems(**more: Any) -> list[tuple[str, str]]:
    with pytest.raises(ConfigErrors) as caught:
        load(policy(**more))
    return [(problem.path.removeprefix("mcp.policies.mcpAuthentication"), problem.text) for problem in caught.value.problems]


def test_what_is_not_given_is_derived() -> None:
    found = auth()
    provider = JwtProviderPlan("https://issuer.example/a", ["me"], jwks_url="https://issuer.example/a/.well-known/jwks.json")
    assert found == McpAuthPlan(
        jwt=JwtPlan([provider], "strict", LocationPlan()), resource=RESOURCE, resource_metadata=json.dumps({"resource": RESOURCE}, separators=(",", ":")),
        authorization_servers=["https://issuer.example/a"], metadata_url="https://issuer.example/.well-known/oauth-authorization-server/a")


def test_documents_are_fetched_by_the_helper() -> None:
    urls = {document.url for document in load(policy()).plan.documents}
    assert urls == {"https://issuer.example/a/.well-known/jwks.json", "https://issuer.example/.well-known/oauth-authorization-server/a"}


def test_names_are_published_in_snake_case() -> None:
    metadata = {"resource": RESOURCE, "scopesSupported": ["a"], "bearerMethodsSupported": ["header"], "resourcePolicyUri": "u", "x_own": {"keepThis": 1}}
    assert json.loads(auth(resourceMetadata=metadata).resource_metadata) == {
        "resource": RESOURCE, "scopes_supported": ["a"], "bearer_methods_supported": ["header"], "resource_policy_uri": "u", "x_own": {"keepThis": 1}}


def test_the_audience_is_the_resource() -> None:
    assert auth(audiences=[]).jwt.providers[0].audiences == [RESOURCE]


@pytest.mark.parametrize(("provider", "metadata", "jwks", "proxied"), [
    ("auth0", "https://issuer.example/.well-known/oauth-authorization-server/a", "https://issuer.example/a/.well-known/jwks.json", False),
    ("keycloak", "https://issuer.example/a/.well-known/openid-configuration", "https://issuer.example/a/protocol/openid-connect/certs", True),
    ("okta", "https://issuer.example/a/.well-known/openid-configuration", "https://issuer.example/a/v1/keys", True),
    ("descope", "https://issuer.example/a/.well-known/openid-configuration", "https://issuer.example/a/.well-known/jwks.json", False),
    ("authentik", "https://issuer.example/a/.well-known/openid-configuration", "https://issuer.example/a/jwks/", False),
    ("entra", "https://issuer.example/a/v2.0/.well-known/openid-configuration", "https://issuer.example/a/discovery/v2.0/keys", True),
])
def test_providers(provider: str, metadata: str, jwks: str, proxied: bool) -> None:
    loaded = load(policy(provider={provider: {}}, clientId="c" if provider in ("authentik", "entra") else None))
    found = loaded.plan.routes[0].policies.mcp_auth
    assert found is not None
    assert (found.provider, found.metadata_url, found.jwt.providers[0].jwks_url) == (provider, metadata, jwks)
    assert (found.proxy is not None) == proxied
    if found.proxy is not None:
        cluster = loaded.plan.clusters[found.proxy.cluster]
        assert (cluster.host, cluster.port, cluster.tls is not None) == ("issuer.example", 443, True)


def test_everything_else() -> None:
    found = auth(
        mode="optional", clientId="c", provider={"entra": {}}, clientSecret="s", scopesRequired=["a"], toolScopes={"t_*": ["b"]},
        authorizationLocation={"header": {"name": "x-token", "prefix": "T "}}, jwtValidationOptions={"requiredClaims": ["exp", "sub"]})
    assert found.jwt.mode == "optional"
    assert found.jwt.location == LocationPlan("header", "x-token", "T ")
    assert found.jwt.providers[0].required_claims == ["exp", "sub"]
    assert (found.client_id, found.client_secret, found.scopes_required, found.tool_scopes) == ("c", "s", ["a"], {"t_*": ["b"]})


@pytest.mark.parametrize(("more", "where"), [
    ({"provider": {}}, ".provider"),
    ({"provider": {"okta": {}, "auth0": {}}}, ".provider"),
    ({"provider": {"entra": {}}}, ""),
    ({"provider": {"authentik": {}}}, ""),
    ({"issuer": "not a url"}, ".issuer"),
    ({"resourceMetadata": {"resource": "mcp"}}, ".resourceMetadata.resource"),
    ({"resourceMetadata": {"resource": "https://a.example/#x"}}, ".resourceMetadata.resource"),
    ({"resourceMetadata": {"resource": 'https://a.example/\r\nx'}}, ".resourceMetadata.resource"),
    ({"resourceMetadata": {"resource": RESOURCE, "authorizationServers": "x"}}, ".resourceMetadata.authorizationServers"),
    ({"scopesRequired": ["a b"]}, ".scopesRequired[0]"),
    ({"toolScopes": {"t": ['"']}}, ".toolScopes.t[0]"),
    ({"jwks": "{}"}, ".jwks"),
])
def test_what_is_refused(more: dict[str, Any], where: str) -> None:
    found = problems(**more)
    assert [path for path, _ in found] == [where]


def test_an_opaque_issuer_needs_its_keys() -> None:
    key = {"kty": "oct", "k": "c2VjcmV0LXNlY3JldC1zZWNyZXQtc2VjcmV0LXNlY3JldA", "alg": "HS256"}
    found = load(policy(issuer="my-issuer", jwks=json.dumps({"keys": [key]}))).plan.routes[0].policies.mcp_auth
    assert found is not None
    assert found.metadata_url == ""


def test_what_is_odd() -> None:
    texts = [problem.text for problem in load(policy(resourceMetadata={}, clientSecret="s")).warnings]
    assert any("no `resource`" in text for text in texts)
    assert any("nothing uses it" in text for text in texts)


# ------------------------------------------------------------------------------------------------------ well-known paths


def route(name: str, *matches: MatchPlan, resource: str = "", auth: bool = True) -> RoutePlan:
    plan = McpAuthPlan(JwtPlan([]), resource, "{}") if auth else None
    return RoutePlan(name, matches=list(matches), policies=PolicyPlan(mcp_auth=plan))


def exact(path: str) -> MatchPlan:
    return MatchPlan("exact", path)


def added(*routes: RoutePlan) -> list[list[tuple[str, str]]]:
    return [[(match.path_kind, match.path) for match in after.matches[len(before.matches):]]
            for before, after in zip(routes, with_well_known(list(routes)), strict=True)]


def test_the_only_endpoint_has_the_root_forms_too() -> None:
    assert added(route("r", exact("/mcp"))) == [[("exact", PRM + "/mcp"), ("prefix", AS + "/mcp"), ("exact", PRM), ("exact", AS)]]


def test_of_several_endpoints_each_has_its_own() -> None:
    assert added(route("a", exact("/a")), route("b", MatchPlan("prefix", "/b")), route("c", exact("/c"), auth=False)) == [
        [("exact", PRM + "/a"), ("prefix", AS + "/a")], [("prefix", PRM + "/b"), ("prefix", AS + "/b")], []]


def test_the_resource_may_be_elsewhere_for_clients() -> None:
    found = added(route("r", exact("/mcp"), resource="https://agw.example/public/mcp/"))[0]
    assert ("exact", PRM + "/public/mcp") in found
    assert ("exact", PRM + "/mcp") in found


def test_a_route_that_lists_them_stays_as_it_is() -> None:
    assert added(route("r", exact("/mcp"), exact(PRM + "/mcp"), resource=RESOURCE)) == [[]]


def test_a_route_that_matches_everything_needs_no_more() -> None:
    assert added(route("r", MatchPlan())) == [[]]


def test_no_path_is_taken_from_another_route() -> None:
    assert added(route("r", exact("/mcp")), route("s", exact(PRM + "/mcp"), auth=False)) == [[("prefix", AS + "/mcp"), ("exact", PRM), ("exact", AS)], []]


def test_without_the_policy_nothing_changes() -> None:
    routes = [route("r", exact("/mcp"), auth=False)]
    assert with_well_known(routes) is routes


def test_the_mcp_block() -> None:
    paths = {match.path for match in load(policy()).plan.routes[0].matches}
    assert paths == {"/mcp", "/sse", PRM + "/mcp", AS + "/mcp", PRM + "/sse", AS + "/sse", PRM, AS}


def test_a_cors_policy_of_the_route_is_the_only_one() -> None:
    loaded = load(policy(), cors={"allowOrigins": ["https://a.example"]})
    found = loaded.plan.routes[0].policies.mcp_auth
    assert found is not None
    assert not found.cors
    assert auth().cors


@pytest.mark.skipif(not REFERENCE, reason="AGW_REFERENCE is not set")
def test_the_reference_example_loads() -> None:
    plan: Plan = load_file(Path(REFERENCE) / "agentgateway-examples" / "mcp-authentication" / "config.yaml", {}).plan
    found = [(route.policies.mcp_auth, [match.path for match in route.matches]) for route in plan.routes]
    assert all(policies is not None for policies, _ in found)
    assert [paths[0] for _, paths in found] == ["/stdio/mcp", "/remote/mcp", "/keycloak/mcp"]
    assert all(len(paths) <= 4 for _, paths in found)
    keycloak = found[2][0]
    assert keycloak is not None
    assert keycloak.provider == "keycloak"
    assert keycloak.proxy is not None
    assert msgspec.json.decode(keycloak.resource_metadata)["resource_documentation"] == "http://localhost:3000/keycloak/docs"
