"""`backendAuth.oauthAuthorizationCode`: from the file to the plan, and the routes of its pages."""

from __future__ import annotations

import textwrap
from typing import Any

import pytest

from agw.config import ConfigErrors, load_bytes
from agw.config.load import Loaded
from agw.runtime.plan import MatchPlan, RoutePlan
from agw.runtime.plan_security import ClientAuthPlan, LocationPlan, UserGrant

PAGE = "https://gw.example/.agw/oauth/callback"
LEAST = f"oauthAuthorizationCode: {{resource: https://api.example/mcp, redirectUri: {PAGE}}}"
FULL = f"""
oauthAuthorizationCode:
  resource: https://api.example/mcp
  redirectUri: {PAGE}
  issuer: http://login.internal:8080/realm
  clientAuth: {{clientId: agw, clientSecret: s3cret}}
  clientDocument: false
  scopes: [read, write]
  browser: anyone
  internalOrigins: [https://token.internal/]
  location: {{header: {{name: x-token}}}}
"""
OIDC = """
    oidc:
      issuer: https://login.example
      clientId: ui
      clientSecret: s
      redirectURI: https://gw.example/login
"""
JWT = "    jwtAuth: {mode: strict, issuer: https://login.example, audiences: [a], jwks: {url: 'https://login.example/jwks'}}\n"


def file(auth: str, *more: str, own: str = "") -> str:
    head = "gateways: {default: {port: 3000}}\nroutes:\n- name: api\n  matches: [{path: {pathPrefix: /api}}]\n  backends: [{host: 'a:1'}]\n  policies:\n"
    return head + own + "    backendAuth:\n" + textwrap.indent(auth.strip("\n"), "      ") + "\n" + "".join(more)


def load(text: str) -> Loaded:
    return load_bytes(text.encode(), "f.yaml", {})


def credential(auth: str) -> Any:
    auths = load(file(auth)).plan.routes[0].policies.backend_auth
    assert auths is not None
    (item,) = auths.credentials
    return item


def page_of(text: str) -> RoutePlan:
    """The first route of the first listener, which is the page's."""
    plan = load(text).plan
    found = plan.routes[plan.binds[0].listeners[0].routes[0]]
    assert found.matches == [MatchPlan("exact", "/.agw/oauth/callback")]
    return found


def test_the_least() -> None:
    assert credential(LEAST) == UserGrant("https://api.example/mcp", PAGE, trusted=["https://api.example"])


def test_everything() -> None:
    assert credential(FULL) == UserGrant(
        "https://api.example/mcp", PAGE, "http://login.internal:8080/realm", ClientAuthPlan("basic", "agw", "s3cret"), False, ["read", "write"],
        ["https://api.example", "http://login.internal:8080", "https://token.internal"], anyone=True, location=LocationPlan("header", "x-token", ""),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (("redirectUri: https", "redirectUri: http"), "is not https"),
        ((PAGE, "https://gw.example/"), "no URL with a plain path"),
        ((PAGE, "https://gw.example/a?b"), "no URL with a plain path"),
        ((PAGE, "https://gw.example/a/../b"), "no URL with a plain path"),
        ((PAGE, "https://gw.example/a%2fb"), "escapes in its path"),
        (("https://api.example/mcp", "relative"), "no absolute URI"),
        (("issuer: http://login.internal:8080/realm", "issuer: ftp://x"), "no http(s) URL"),
        (("  issuer: http://login.internal:8080/realm\n", ""), "add `issuer`"),
        (("https://token.internal/", "https://token.internal/path"), "is no origin"),
        (("[read, write]", "['a b']"), "is no scope"),
        (("clientSecret: s3cret", "clientSecret: ''"), "the secret is empty"),
        (("browser: anyone", "policies: {backendTLS: {hostname: x.example}}"), "only `root` and `insecure` fit"),
    ],
)
def test_what_is_refused(change: tuple[str, str], text: str) -> None:
    assert change[0] in FULL
    with pytest.raises(ConfigErrors) as caught:
        load(file(FULL.replace(*change)))
    assert text in str(caught.value)
    assert "s3cret" not in str(caught.value)


def test_tls_towards_origins_the_operator_wrote() -> None:
    made = credential(FULL.replace("browser: anyone", "policies: {backendTLS: {insecure: true}}"))
    assert (made.insecure, made.ca, made.anyone) == (True, "", False)


def test_an_identifier_that_is_no_url_needs_an_issuer() -> None:
    with pytest.raises(ConfigErrors, match="add `issuer`"):
        load(file(LEAST.replace("https://api.example/mcp", "urn:api")))
    assert credential(LEAST.replace("https://api.example/mcp", "urn:api, issuer: 'https://as.example'")).trusted == ["https://as.example"]


def test_http_is_fine_on_this_machine() -> None:
    assert credential(LEAST.replace(PAGE, "http://localhost:3000/cb")).redirect_uri == "http://localhost:3000/cb"


def test_the_page_has_the_policies_of_the_route_that_would_serve_its_path() -> None:
    login = "- name: login\n  matches: [{path: {pathPrefix: /.agw}}]\n  backends: [{host: 'b:1'}]\n  policies:\n" + OIDC
    other = "- name: other\n  matches: [{path: {pathPrefix: /}}]\n  backends: [{host: 'b:1'}]\n"
    page = page_of(file(LEAST, login, other, own=JWT))
    assert page.policies.oidc is not None
    assert page.policies.jwt is None
    assert page.policies.backend_auth is None
    assert page.policies.consent is not None
    assert [grant.resource for grant in page.policies.consent.grants] == ["https://api.example/mcp"]
    assert (page.backends, page.hostnames) == ([], ["gw.example", ""])
    assert not load(file(LEAST, login, other, own=JWT)).warnings


def test_without_such_a_route_the_page_is_as_guarded_as_the_route_and_the_operator_is_told() -> None:
    loaded = load(file(LEAST, own=JWT))
    assert page_of(file(LEAST, own=JWT)).policies.jwt is not None
    assert any("nobody can log in at" in item.text for item in loaded.warnings)


def test_anyone_is_asked_for_nobody_and_the_operator_is_told() -> None:
    text = file(LEAST.replace("}", ", browser: anyone}"), own=JWT)
    assert page_of(text).policies.jwt is None
    assert [item.text[:23] for item in load(text).warnings] == ["whoever is given a link"]


def test_a_page_shared_by_backends_is_one_route() -> None:
    second = file(LEAST.replace("api.example", "other.example")).partition("routes:\n")[2].replace("name: api", "name: two").replace("/api", "/two")
    page = page_of(file(LEAST, second))
    assert page.policies.consent is not None
    assert len(page.policies.consent.grants) == 2
    with pytest.raises(ConfigErrors, match="differ in `browser`"):
        load(file(LEAST, second.replace("}\n", ", browser: anyone}\n")))


def test_the_page_of_an_mcp_target() -> None:
    text = (
        "gateways: {default: {port: 3000}}\nroutes:\n- matches: [{path: {pathPrefix: /mcp}}]\n  backends:\n  - mcp:\n      targets:\n"
        "      - name: one\n        mcp: {host: 'https://api.example/mcp'}\n        policies:\n          backendAuth:\n            " + LEAST + "\n"
    )
    assert page_of(text).policies.consent is not None


def test_the_page_of_an_mcp_endpoint_is_no_endpoint() -> None:
    auth = "    mcpAuthentication: {issuer: https://login.example, audiences: [a], jwks: {url: 'https://login.example/jwks'}, resourceMetadata: {}}\n"
    text = file(LEAST, own=auth).replace("backends: [{host: 'a:1'}]", "backends: [{mcp: {targets: [{name: a, mcp: {host: 'http://a:1/mcp'}}]}}]")
    page = page_of(text)
    assert page.policies.mcp_auth is not None
    routes = load(text).plan.routes
    assert any(match.path.startswith("/.well-known/oauth-protected-resource/api") for route in routes for match in route.matches)
