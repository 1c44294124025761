"""An MCP endpoint as OAuth resource server: documents, challenges, scopes."""

from __future__ import annotations

import re
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agw.security.contract import AUTHORIZATION, JWT_AUTH, Verdict
from agw.security.mcp_auth.challenge import insufficient, unauthenticated
from agw.security.mcp_auth.places import Place, origin_of, place_of
from agw.security.mcp_auth.scopes import ToolScopes
from tests.kits.mcp_auth import ISSUER, RESOURCE, Asking, ask, plan, step_of

PRM = "/.well-known/oauth-protected-resource"
URL = "https://agw.example/.well-known/oauth-protected-resource/mcp"


def document(verdict: Verdict) -> Any:
    assert verdict is not None
    assert verdict.status == 200
    assert verdict.content_type == b"application/json"
    assert verdict.body is not None
    return orjson.loads(verdict.body)


# ------------------------------------------------------------------------------------------------------ the document


@pytest.mark.parametrize("path", [PRM, PRM + "/mcp", PRM + "/mcp/"])
def test_the_document_needs_no_token_and_names_the_resource(path: str) -> None:
    verdict, found = ask(step_of(plan()), Asking(path))
    assert document(verdict) == {"resource": RESOURCE, "authorization_servers": [ISSUER], "bearer_methods_supported": ["header"]}
    assert verdict is not None
    assert verdict.lines == b"Access-Control-Allow-Origin: *\r\n"
    assert not found.lasting
    assert not found.parts


def test_what_the_operator_wrote_stays() -> None:
    said = {"resource": "https://elsewhere.example", "scopes_supported": ["read:all"], "bearer_methods_supported": ["body"], "resource_policy_uri": "p"}
    verdict, _ = ask(step_of(plan(resource_metadata=orjson.dumps(said).decode(), authorization_servers=["https://two.example"])), Asking(PRM))
    assert document(verdict) == {**said, "resource": RESOURCE, "authorization_servers": ["https://two.example"]}


def test_demanded_scopes_are_offered() -> None:
    verdict, _ = ask(step_of(plan(scopes_required=["mcp"], tool_scopes={"a": ["x", "mcp"], "b": ["y"]})), Asking(PRM))
    assert document(verdict)["scopes_supported"] == ["mcp", "x", "y"]


def test_without_a_configured_resource_the_request_says_where_it_is() -> None:
    step = step_of(plan(resource=""))
    assert document(ask(step, Asking(PRM + "/a/mcp", secure=False))[0])["resource"] == "http://agw.example/a/mcp"
    assert document(ask(step, Asking(PRM + "/a/mcp", secure=False, x_forwarded_proto="https"))[0])["resource"] == "https://agw.example/a/mcp"
    assert document(ask(step, Asking(PRM, secure=True, x_forwarded_proto="gopher"))[0])["resource"] == "https://agw.example"
    refused, _ = ask(step, Asking(PRM + "/mcp", host='e"vil'))
    assert refused is not None
    assert refused.status == 400


def test_with_an_adapter_clients_are_sent_to_the_gateway() -> None:
    assert document(ask(step_of(plan("keycloak")), Asking(PRM + "/mcp"))[0])["authorization_servers"] == [RESOURCE]


def test_one_origin_header_only_when_the_route_has_its_own_policy() -> None:
    verdict, _ = ask(step_of(plan(cors=False)), Asking(PRM))
    assert verdict is not None
    assert verdict.lines == b""


def test_browsers_may_read_it() -> None:
    verdict, _ = ask(step_of(plan()), Asking(PRM, "OPTIONS"))
    assert verdict is not None
    assert verdict.status == 204
    assert b"Access-Control-Allow-Origin: *\r\n" in verdict.lines
    assert b"mcp-protocol-version" in verdict.lines


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE"])
def test_it_is_read_only(method: str) -> None:
    verdict, _ = ask(step_of(plan()), Asking(PRM, method))
    assert verdict is not None
    assert verdict.status == 405
    assert b"Allow: GET, HEAD, OPTIONS\r\n" in verdict.lines


@pytest.mark.parametrize("path", ["/mcp", PRM + "x", "/.well-known/openid-configuration", "/x" + PRM, PRM.upper()])
def test_other_paths_need_a_token(path: str) -> None:
    assert place_of(path.encode(), frozenset()) is None
    verdict, _ = ask(step_of(plan()), Asking(path))
    assert verdict is not None
    assert verdict.status == 401


def test_endpoints_of_the_adapter_are_known_by_their_last_segment() -> None:
    both = frozenset({"token", "client-registration"})
    prefix = b"/.well-known/oauth-authorization-server"
    assert place_of(prefix + b"/mcp/token", both) == Place("token", "/mcp")
    assert place_of(prefix + b"/token", both) == Place("token", "")
    assert place_of(prefix + b"/mcp/token", frozenset()) == Place("server", "/mcp/token")
    assert place_of(prefix + b"/mcp/authorize", both) == Place("server", "/mcp/authorize")


# ------------------------------------------------------------------------------------------------------ challenges


def test_a_client_without_a_token_is_told_where_to_get_one() -> None:
    verdict, _ = ask(step_of(plan(scopes_required=["mcp", "tools"])), Asking("/mcp", "POST"))
    assert verdict is not None
    assert (verdict.status, verdict.reason) == (401, JWT_AUTH)
    assert verdict.lines == f'WWW-Authenticate: Bearer resource_metadata="{URL}", scope="mcp tools"\r\n'.encode()
    assert verdict.body is None


@pytest.mark.parametrize("later", [False, True])
@pytest.mark.parametrize("method", ["POST", "GET", "DELETE"])
def test_a_bad_token_is_an_error(method: str, later: bool) -> None:
    verdict, _ = ask(step_of(plan(), later=later), Asking("/mcp", method, authorization="Bearer bad"))
    assert verdict is not None
    assert verdict.lines == f'WWW-Authenticate: Bearer resource_metadata="{URL}", error="invalid_token"\r\n'.encode()
    assert verdict.cause == "why it is not good"
    assert b"good" not in verdict.message + verdict.lines


def test_other_credentials_are_no_token() -> None:
    verdict, _ = ask(step_of(plan()), Asking("/mcp", authorization="Basic YTpi"))
    assert verdict is not None
    assert b"error" not in verdict.lines


def test_a_good_token_passes() -> None:
    verdict, found = ask(step_of(plan()), Asking("/mcp", authorization="Bearer good"))
    assert verdict is None
    assert found.token == b"good"
    assert found.lasting


def test_a_refusal_that_is_no_challenge_passes_as_it_is() -> None:
    verdict, _ = ask(step_of(plan()), Asking("/mcp", authorization="Bearer early"))
    assert verdict is not None
    assert (verdict.status, verdict.lines) == (503, b"")


@pytest.mark.parametrize("later", [False, True])
def test_scopes_of_every_call(later: bool) -> None:
    policy = plan(scopes_required=["mcp", "tools"])
    verdict, _ = ask(step_of(policy, scopes="mcp other", later=later), Asking("/mcp", authorization="Bearer good"))
    assert verdict is not None
    assert (verdict.status, verdict.reason) == (403, AUTHORIZATION)
    assert verdict.lines == f'WWW-Authenticate: Bearer resource_metadata="{URL}", scope="mcp tools", error="insufficient_scope"\r\n'.encode()
    assert ask(step_of(policy, scopes="tools mcp", later=later), Asking("/mcp", authorization="Bearer good"))[0] is None


def test_who_needs_no_token_needs_no_scope() -> None:
    optional = plan(mode="optional", scopes_required=["mcp"])
    assert ask(step_of(optional), Asking("/mcp"))[0] is None
    verdict, _ = ask(step_of(optional), Asking("/mcp", authorization="Bearer good"))
    assert verdict is not None
    assert verdict.status == 403
    assert ask(step_of(plan(mode="permissive", scopes_required=["mcp"])), Asking("/mcp", authorization="Bearer good"))[0] is None


def test_tools_have_scopes_of_their_own() -> None:
    scopes = ToolScopes(plan(scopes_required=["mcp"], tool_scopes={"files_delete": ["delete"], "files_*": ["files"], "b": ["b"]}))
    assert scopes
    assert scopes.needed("files_delete") == {"delete", "files"}
    assert scopes.needed("files_read") == {"files"}
    assert not scopes.needed("other")
    held = frozenset({"mcp", "files"})
    assert scopes.lacking(held, ["files_read", "other"], Asking()) is None
    refusal = scopes.lacking(held, ["files_delete", "b"], Asking())
    assert refusal is not None
    assert refusal.status == 403
    assert refusal.lines == f'WWW-Authenticate: Bearer resource_metadata="{URL}", scope="mcp b delete files", error="insufficient_scope"\r\n'.encode()
    assert not ToolScopes(plan())


# ------------------------------------------------------------------------------------------------------ hostile input


@given(host=st.text(max_size=40), scheme=st.text(max_size=10), path=st.text(max_size=40))
def test_a_challenge_is_one_line_whatever_the_request(host: str, scheme: str, path: str) -> None:
    asked = Asking()
    asked.path = ("/" + path).encode()
    asked.headers = [(b"host", host.encode()), (b"x-forwarded-proto", scheme.encode())]
    policy = plan(resource="", scopes_required=['a"b', "c\\d", "e\r\nX: y"])
    for refusal in (unauthenticated(policy, asked, True, "x"), insufficient(policy, asked, policy.scopes_required, "x")):
        assert re.fullmatch(rb"[ -~]+\r\n", refusal.lines)
        assert refusal.lines.startswith(b"WWW-Authenticate: Bearer ")
    assert re.fullmatch(r"(https?://[\w.:\[\]-]+)?", origin_of(asked))


@given(st.binary(max_size=80))
def test_any_path_has_a_place_or_none(path: bytes) -> None:
    for raw in (path, b"/.well-known/oauth-" + path, b"/.well-known/oauth-authorization-server/" + path):
        place = place_of(raw, frozenset({"token"}))
        assert place is None or place.what in ("resource", "server", "token")
