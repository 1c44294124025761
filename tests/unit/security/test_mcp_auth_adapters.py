"""The gateway before authorization servers that lack something: metadata, registration, authorize and token, by provider."""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qs, parse_qsl, urlsplit

import orjson
import pytest

from agw.runtime.plan_security import CallPlan
from agw.security.contract import CallError, HttpAnswer, Verdict
from agw.security.mcp_auth.adapters import ADAPTERS, entra_tenant
from agw.security.mcp_auth.proxy import same_origin
from tests.kits.mcp_auth import ISSUER, METADATA_URL, RESOURCE, SERVER, Asking, Host, ask, plan, step_of

AS = "/.well-known/oauth-authorization-server/mcp"
BASE = "https://agw.example" + AS


def body_of(verdict: Verdict, status: int = 200) -> Any:
    assert verdict is not None
    assert verdict.status == status, verdict
    assert verdict.lines.endswith(b"Access-Control-Allow-Origin: *\r\n")
    return orjson.loads(verdict.body or b"null")


def served(provider: str, **more: Any) -> Any:
    return body_of(ask(step_of(plan(provider, **more)), Asking(AS))[0])


# ------------------------------------------------------------------------------------------------------ metadata


def test_without_a_provider_the_document_passes_as_it_is() -> None:
    assert served("") == SERVER


@pytest.mark.parametrize("provider", ["auth0", "okta"])
def test_the_audience_goes_into_the_query(provider: str) -> None:
    found = served(provider)
    assert found["authorization_endpoint"] == ISSUER + "/auth?audience=urn%3Aaud+one"
    assert found["issuer"] == RESOURCE
    assert "authorization_response_iss_parameter_supported" not in found
    assert found["x-unknown"] == [1]


@pytest.mark.parametrize("provider", ["okta", "keycloak", "descope"])
def test_registration_goes_through_the_gateway(provider: str) -> None:
    assert served(provider)["registration_endpoint"] == BASE + "/client-registration"


def test_auth0_registers_itself() -> None:
    assert served("auth0")["registration_endpoint"] == ISSUER + "/register"


@pytest.mark.parametrize("provider", ["", "auth0", "okta", "keycloak", "descope", "authentik", "entra"])
def test_with_a_client_id_the_gateway_answers_registrations(provider: str) -> None:
    step = step_of(plan(provider, client_id="known"))
    found = body_of(ask(step, Asking(AS))[0])
    assert found["registration_endpoint"] == BASE + "/client-registration"
    assert "none" in found["token_endpoint_auth_methods_supported"]
    request = Asking(AS + "/client-registration", "POST")
    assert step.wants_body(request) > 0
    sent = {"redirect_uris": ["http://localhost:1/cb"], "client_name": "me", "token_endpoint_auth_method": "client_secret_basic"}
    made = body_of(ask(step, request, orjson.dumps(sent))[0], 201)
    assert made == {
        "client_id": "known", "client_id_issued_at": 0, "token_endpoint_auth_method": "none", "grant_types": ["authorization_code", "refresh_token"],
        "response_types": ["code"], "redirect_uris": ["http://localhost:1/cb"], "client_name": "me",
    }


@pytest.mark.parametrize(("body", "error"), [
    (b"", "invalid_client_metadata"), (b"[]", "invalid_client_metadata"), (b'{"redirect_uris":1}', "invalid_redirect_uri"),
    (b'{"redirect_uris":[1]}', "invalid_redirect_uri"), (b"{", "invalid_client_metadata"),
])
def test_bad_registrations(body: bytes, error: str) -> None:
    found = body_of(ask(step_of(plan("entra", client_id="known")), Asking(AS + "/client-registration", "POST"), body)[0], 400)
    assert found["error"] == error


def test_entra_goes_through_the_gateway() -> None:
    found = served("entra", client_id="known")
    assert found["authorization_endpoint"] == BASE + "/authorize"
    assert found["token_endpoint"] == BASE + "/token"
    assert found["code_challenge_methods_supported"] == ["S256"]


def test_no_document_no_answer() -> None:
    for host in (Host(), Host(**{METADATA_URL: [1]})):
        assert body_of(ask(step_of(plan("keycloak"), host), Asking(AS))[0], 503)["error"] == "temporarily_unavailable"


def test_the_document_follows_the_server() -> None:
    host = Host(**{METADATA_URL: SERVER})
    step = step_of(plan("keycloak"), host)
    ask(step, Asking(AS))
    host.documents.known[METADATA_URL] = host.documents.known[METADATA_URL]._replace(  # type: ignore[attr-defined]
        body=orjson.dumps({**SERVER, "scopes_supported": ["new"]}), version=2)
    assert body_of(ask(step, Asking(AS))[0])["scopes_supported"] == ["new"]


# ------------------------------------------------------------------------------------------------------ registration


@pytest.mark.parametrize(("provider", "issuer", "path"), [
    ("keycloak", "https://issuer.example/realms/mcp", "/realms/mcp/clients-registrations/openid-connect"),
    ("keycloak", "https://issuer.example/realms/mcp/", "/realms/mcp/clients-registrations/openid-connect"),
    ("okta", "https://issuer.example/oauth2/default", "/oauth2/v1/clients"),
    ("descope", "https://issuer.example/v1/apps/agentic/P1/S1", "/v1/mgmt/mcp/client/P1/S1/register"),
])
def test_registrations_are_passed_on(provider: str, issuer: str, path: str) -> None:
    host = Host(**{METADATA_URL: SERVER})
    request = Asking(AS + "/client-registration", "POST", content_type="application/json", cookie="secret=1", x_other="y")
    found = body_of(ask(step_of(plan(provider, issuer=issuer), host), request, b'{"redirect_uris":[]}')[0], 201)
    assert found == {"client_id": "made"}
    assert host.called == [(CallPlan(7, "/"), "POST", [(b"content-type", b"application/json")], b'{"redirect_uris":[]}', path)]


def test_an_answer_brings_no_cookies() -> None:
    verdict, _ = ask(step_of(plan("keycloak")), Asking(AS + "/client-registration", "POST"), b"{}")
    assert verdict is not None
    assert b"cookie" not in verdict.lines.lower()
    assert b"Cache-Control: no-store\r\n" in verdict.lines


@pytest.mark.parametrize(("provider", "issuer"), [("descope", "https://issuer.example/other"), ("authentik", ISSUER)])
def test_who_cannot_register_is_told(provider: str, issuer: str) -> None:
    body_of(ask(step_of(plan(provider, issuer=issuer)), Asking(AS + "/client-registration", "POST"), b"{}")[0], 501)


def test_a_server_that_is_down() -> None:
    class Down(Host):
        async def caller(self, *args: Any, **more: Any) -> HttpAnswer:
            raise CallError("connect", "no way")

    body_of(ask(step_of(plan("keycloak"), Down()), Asking(AS + "/client-registration", "POST"), b"{}")[0], 502)


def test_only_posts_register() -> None:
    verdict, _ = ask(step_of(plan("keycloak")), Asking(AS + "/client-registration"))
    assert verdict is not None
    assert verdict.status == 405
    assert b"Allow: POST, OPTIONS" in verdict.lines
    assert step_of(plan("keycloak")).wants_body(Asking("/mcp", "POST")) == 0


def test_a_long_body_is_refused() -> None:
    body_of(ask(step_of(plan("keycloak")), Asking(AS + "/client-registration", "POST"), b"x" * 70_000)[0], 413)


# ------------------------------------------------------------------------------------------------------ authorize, token


def test_authorize_loses_the_resource_and_nothing_else() -> None:
    query = b"response_type=code&resource=https%3A%2F%2Fagw.example%2Fmcp&state=a%26b%0d%0aX:%20y&resource=2&empty="
    verdict, _ = ask(step_of(plan("entra", client_id="known")), Asking(AS + "/authorize", query=query))
    assert verdict is not None
    assert verdict.status == 302
    location = verdict.lines.split(b"\r\n")[0].removeprefix(b"Location: ").decode()
    assert location.startswith(ISSUER + "/auth?")
    assert parse_qsl(urlsplit(location).query, keep_blank_values=True) == [("response_type", "code"), ("state", "a&b\r\nX: y"), ("empty", "")]
    assert b"\r\nX: y" not in verdict.lines


def token(form: bytes, secret: str = "s3cret", **headers: str) -> tuple[Host, Verdict]:
    host = Host(HttpAnswer(200, [(b"content-type", b"application/json")], b'{"access_token":"t"}'), **{METADATA_URL: SERVER})
    request = Asking(AS + "/token", "POST", content_type="application/x-www-form-urlencoded", **headers)
    return host, ask(step_of(plan("entra", client_id="known", client_secret=secret), host), request, form)[0]


def test_the_secret_is_added_for_our_client() -> None:
    host, verdict = token(b"grant_type=authorization_code&client_id=known&code=c&resource=x")
    assert body_of(verdict) == {"access_token": "t"}
    call, method, headers, body, path = host.called[0]
    assert (call.cluster, method, path) == (7, "POST", "/realms/mcp/token")
    assert headers == [(b"content-type", b"application/x-www-form-urlencoded")]
    assert parse_qs(body.decode()) == {"grant_type": ["authorization_code"], "client_id": ["known"], "code": ["c"], "client_secret": ["s3cret"]}


@pytest.mark.parametrize("form", [
    b"grant_type=client_credentials&client_id=known", b"grant_type=authorization_code&client_id=other", b"grant_type=authorization_code",
    b"grant_type=refresh_token&client_id=known&client_secret=mine",
])
def test_the_secret_is_for_nobody_else(form: bytes) -> None:
    host, _ = token(form)
    assert b"s3cret" not in host.called[0][3]


def test_a_client_with_its_own_credentials_uses_them() -> None:
    host, _ = token(b"grant_type=refresh_token&client_id=known", authorization="Basic a2V5")
    assert b"s3cret" not in host.called[0][3]
    assert (b"authorization", b"Basic a2V5") in host.called[0][2]


def test_a_document_cannot_name_a_foreign_token_endpoint() -> None:
    for foreign in ("https://evil.example/token", "http://issuer.example/token", "https://issuer.example:8443/token", "https://issuer.example:x/token"):
        host = Host(**{METADATA_URL: {**SERVER, "token_endpoint": foreign}})
        step = step_of(plan("entra", client_id="known", client_secret="s3cret"), host)
        body_of(ask(step, Asking(AS + "/token", "POST"), b"grant_type=authorization_code&client_id=known")[0], 502)
        assert host.called == []


def test_other_providers_have_no_token_endpoint_here() -> None:
    verdict, _ = ask(step_of(plan("keycloak")), Asking(AS + "/token", "POST"), b"grant_type=authorization_code")
    assert verdict is not None
    assert verdict.status == 405


# ------------------------------------------------------------------------------------------------------ the table


def test_urls_by_provider() -> None:
    tenant = "https://login.microsoftonline.com/t1"
    assert entra_tenant(tenant + "/v2.0") == entra_tenant("https://sts.windows.net/t1/") == tenant
    assert ADAPTERS["entra"].jwks("https://sts.windows.net/t1/") == tenant + "/discovery/v2.0/keys"
    assert ADAPTERS["entra"].metadata(tenant + "/v2.0") == tenant + "/v2.0/.well-known/openid-configuration"
    assert ADAPTERS[""].metadata("https://i.example/a/b/") == "https://i.example/.well-known/oauth-authorization-server/a/b"
    assert ADAPTERS["okta"].jwks("https://d.okta.com/oauth2/default") == "https://d.okta.com/oauth2/default/v1/keys"
    assert ADAPTERS["authentik"].jwks("https://a.example/application/o/x/") == "https://a.example/application/o/x/jwks/"


def test_origins() -> None:
    assert same_origin("https://a.example/x", "https://a.example:443/y")
    assert not same_origin("https://a.example", "https://a.example.evil")
