"""`backendAuth` from the file to the wire: what backends and MCP targets get, what they do not, and what happens when there is nothing to give.

The issuer is a real authorization server (tests/peers/issuer.py); upstreams record what they see.
"""

from __future__ import annotations

import calendar
import json
import time
from collections.abc import Iterator
from functools import partial
from typing import Any

import jwt
import pytest

from agw.runtime.plan_security import AwsSign
from agw.security.upstream.outgoing import Outgoing
from agw.security.upstream.sigv4 import AwsSource
from tests.integration.mcp.conftest import configuration, http_target, route
from tests.kits.gateway import Gateway
from tests.peers.client import Client
from tests.peers.issuer import Issuer, make_key
from tests.peers.mcp_client import As, Endpoint, Session
from tests.peers.mcp_exchange import HttpExchange
from tests.peers.mcp_script import Offer
from tests.peers.mcp_server import McpServer
from tests.peers.upstream import Peer, Request, Upstream

AUDIENCE = "https://agw.example"


@pytest.fixture
def issuer() -> Iterator[Issuer]:
    with Issuer() as found:
        found.add_client("agw", "s3cret")
        yield found


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    with Upstream(Peer.serve) as found:
        yield found


def http_config(upstream: Upstream, policies: dict[str, Any], **auth: Any) -> dict[str, Any]:
    return {
        "gateways": {"default": {"port": 0, "address": "127.0.0.1"}},
        "routes": [{
            "name": "r", "matches": [{"path": {"pathPrefix": "/"}}], "policies": policies,
            "backends": [{"host": upstream.host, "policies": {"backendAuth": auth} if auth else {}}]}],
        "config": {"connectionTerminationDeadline": "1s"},
    }


def jwt_auth(issuer: Issuer, **more: Any) -> dict[str, Any]:
    return {"jwtAuth": {"issuer": issuer.url, "audiences": [AUDIENCE], "jwks": json.dumps(issuer.jwks), **more}}


def exchange(issuer: Issuer, **more: Any) -> dict[str, Any]:
    return {"host": issuer.origin, "path": "/token", "clientAuth": {"clientId": "agw", "clientSecret": "s3cret"}, **more}


def bearer(token: str) -> bytes:
    return b"Authorization: Bearer " + token.encode()


def values(request: Request, name: str) -> list[str]:
    return [value.decode() for value in request.get(name.encode())]


# ---------------------------------------------------------------------------------------------------------- places


def test_secrets_stand_where_they_should_and_nothing_of_the_client_beside_them(upstream: Upstream) -> None:
    auth = {
        "key": {"value": "header-secret", "location": {"header": {"name": "x-api-key"}}},
        "credentials": [
            {"key": "query-secret", "location": {"queryParameter": {"name": "key"}}},
            {"key": "cookie-secret", "location": {"cookie": {"name": "token"}}},
        ],
    }
    config = http_config(upstream, {"requestHeaderModifier": {"set": {"X-Api-Key": "operator"}}}, **auth)
    with Gateway(config, workers=1) as gateway, Client(gateway.port) as client:
        sent = b"X-API-Key: mine\r\nx-api-key: mine too\r\nCookie: a=1; token=mine; b=2\r\nCookie: c=3"
        assert client.get("/x?a=1&key=mine&k%65y=again&b=%20", sent).status == 200
        assert client.get("/x").status == 200
    first, second = upstream.requests
    assert values(first, "x-api-key") == ["header-secret"]
    assert first.target == b"/x?a=1&b=%20&key=query-secret"
    assert values(first, "cookie") == ["a=1; b=2; c=3; token=cookie-secret"]
    assert second.target == b"/x?key=query-secret"
    assert values(second, "cookie") == ["token=cookie-secret"]


@pytest.mark.parametrize(("location", "target", "header"), [
    ({"queryParameter": {"name": "key"}}, "/?x=1&key=k1", b""), ({"cookie": {"name": "key"}}, "/?x=1", b"Cookie: a=b; key=k1"),
])  # fmt: skip
def test_credentials_for_the_gateway_in_queries_and_cookies_stay_here(upstream: Upstream, location: dict[str, Any], target: str, header: bytes) -> None:
    policies = {"apiKey": {"keys": [{"key": "k1"}], "location": location}}
    with Gateway(http_config(upstream, policies), workers=1) as gateway, Client(gateway.port) as client:
        for _ in range(3):
            assert client.get(target, header).status == 200
        assert client.get("/?x=1").status == 401
    assert {seen.target for seen in upstream.requests} == {b"/?x=1"}
    assert "k1" not in str([seen.fields for seen in upstream.requests])
    if header:
        assert values(upstream.requests[0], "cookie") == ["a=b"]


# ---------------------------------------------------------------------------------------------------- from the caller


def test_a_verified_token_passes_only_through(issuer: Issuer, upstream: Upstream) -> None:
    token = issuer.token(sub="alice", aud=AUDIENCE)
    with Gateway(http_config(upstream, jwt_auth(issuer), passthrough={}), workers=1) as gateway, Client(gateway.port) as client:
        assert client.get("/", bearer(token)).status == 200
    with Gateway(http_config(upstream, jwt_auth(issuer)), workers=1) as gateway, Client(gateway.port) as client:
        assert client.get("/", bearer(token)).status == 200
    with Gateway(http_config(upstream, jwt_auth(issuer, mode="optional"), passthrough={}), workers=1) as gateway, Client(gateway.port) as client:
        assert client.get("/").status == 200
    with Gateway(http_config(upstream, {}, passthrough={}), workers=1) as gateway, Client(gateway.port) as client:
        refused = client.get("/", bearer(token))
        assert (refused.status, refused.get(b"www-authenticate")) == (401, [b"Bearer"])
    assert [values(seen, "authorization") for seen in upstream.requests] == [[f"Bearer {token}"], [], []]


def test_tokens_are_exchanged_once_per_caller_and_anew_after_a_refusal(issuer: Issuer, upstream: Upstream) -> None:
    config = http_config(upstream, jwt_auth(issuer), oauthTokenExchange=exchange(issuer, audiences=["https://api.example"]))
    with Gateway(config, workers=1) as gateway, Client(gateway.port) as client:
        for name in ("alice", "bob"):
            token = issuer.token(sub=name, aud=AUDIENCE)
            for _ in range(4):
                assert client.get("/", bearer(token)).status == 200
    tokens = [values(seen, "authorization") for seen in upstream.requests]
    assert all(len(found) == 1 for found in tokens)
    subjects = [issuer.verified(found[0].removeprefix("Bearer "), "https://api.example")["sub"] for found in tokens]
    assert subjects == ["alice"] * 4 + ["bob"] * 4
    assert len({found[0] for found in tokens}) == 2
    assert issuer.count("/token") == 2


def test_waiting_for_a_token_keeps_the_body_and_the_next_request(issuer: Issuer, upstream: Upstream) -> None:
    issuer.faults["/token"] = "slow"
    config = http_config(upstream, jwt_auth(issuer), oauthTokenExchange=exchange(issuer))
    token = issuer.token(sub="alice", aud=AUDIENCE)
    with Gateway(config, workers=1) as gateway, Client(gateway.port) as client:
        body = b"x" * 70_000
        client.send(b"POST /a HTTP/1.1\r\nHost: h\r\n%b\r\nContent-Length: %d\r\n\r\n%b" % (bearer(token), len(body), body))
        client.send(b"POST /b HTTP/1.1\r\nHost: h\r\n%b\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n" % bearer(token))
        issuer.release()
        assert client.answer().status == 200
        assert client.answer().status == 200
    assert [(seen.target, seen.body) for seen in upstream.requests] == [(b"/a", body), (b"/b", b"abc")]
    assert issuer.count("/token") == 1


@pytest.mark.parametrize(("fault", "status"), [("down", 502), ("500", 502), ("garbage", 502)])
def test_no_credential_is_no_request(issuer: Issuer, upstream: Upstream, fault: str, status: int) -> None:
    issuer.faults["/token"] = fault
    config = http_config(upstream, {}, oauthClientCredentials={"tokenUrl": issuer.token_url, "clientAuth": {"clientId": "agw", "clientSecret": "s3cret"}})
    with Gateway(config, workers=1) as gateway, Client(gateway.port) as client:
        refused = client.get("/")
        assert refused.status == status
        assert json.loads(refused.body)["error"]["reason"] == "UpstreamFailure"
        assert b"s3cret" not in refused.body
        assert gateway.metrics().total("agw_auth_decisions_total", policy="credentials", result="error") >= 1
        assert "s3cret" not in gateway.stderr()
    assert not upstream.requests


def test_the_gateway_has_tokens_of_its_own(issuer: Issuer, upstream: Upstream) -> None:
    own = {"tokenUrl": issuer.token_url, "clientAuth": {"clientId": "agw", "clientSecret": "s3cret"}, "scopes": ["read"]}
    with Gateway(http_config(upstream, {}, oauthClientCredentials=own), workers=1) as gateway, Client(gateway.port) as client:
        assert [client.get("/", b"Authorization: Bearer mine").status for _ in range(5)] == [200] * 5
    assert {values(seen, "authorization")[0] != "Bearer mine" for seen in upstream.requests} == {True}
    assert all(len(values(seen, "authorization")) == 1 for seen in upstream.requests)
    assert issuer.count("/token") == 1


def test_tokens_of_our_own_are_signed_with_the_callers_claims(issuer: Issuer, upstream: Upstream) -> None:
    key = make_key("k", "ES256")
    sign = {"signingKey": key.pem, "alg": "ES256", "claims": {"iss": "agw"}, "claimExpressions": {"sub": "jwt.sub"}}
    with Gateway(http_config(upstream, jwt_auth(issuer), jwtSign=sign), workers=1) as gateway, Client(gateway.port) as client:
        assert client.get("/", bearer(issuer.token(sub="alice", aud=AUDIENCE))).status == 200
    (token,) = values(upstream.requests[0], "authorization")
    assert jwt.decode(token.removeprefix("Bearer "), key.public_pem, ["ES256"])["sub"] == "alice"


def test_what_goes_to_aws_is_signed_as_it_goes_out(upstream: Upstream) -> None:
    aws = {"accessKeyId": "AKIDEXAMPLE", "secretAccessKey": "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY", "region": "us-east-1", "serviceName": "service"}
    policies = {"urlRewrite": {"path": {"prefix": "/model"}}, "requestHeaderModifier": {"add": {"x-amz-target": "t"}}}
    with Gateway(http_config(upstream, policies, aws=aws), workers=1) as gateway, Client(gateway.port) as client:
        assert client.get("/a%20b?z=1&a=%2F", b"X-Amz-Date: 20000101T000000Z\r\nAuthorization: AWS4 mine").status == 200
        client.send(b"POST /x HTTP/1.1\r\nHost: h\r\nContent-Type: text/plain\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n")
        assert client.answer().status == 200
    for seen in upstream.requests:
        headers = [(name.lower(), value) for name, value in seen.fields]
        (given,) = values(seen, "authorization")
        (stamp,) = values(seen, "x-amz-date")
        path, mark, query = seen.target.partition(b"?")
        again = Outgoing(
            seen.method.decode(), path, query if mark else None,
            [field for field in headers if field[0] not in (b"authorization", b"x-amz-date")], seen.body)
        when = calendar.timegm(time.strptime(stamp, "%Y%m%dT%H%M%SZ"))
        plan = AwsSign("AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY", "", "us-east-1", "service")
        expected = AwsSource(plan, partial(float, when)).ready(None, again)
        assert expected is not None
        assert f"authorization: {given}".encode() in expected.lines
    assert [seen.body for seen in upstream.requests] == [b"", b"abcde"]


# -------------------------------------------------------------------------------------------------------------- MCP


@pytest.fixture
def tools() -> Iterator[McpServer]:
    with McpServer(Offer(name="a", tools=["echo", "whoami"])) as server:
        yield server


def mcp_config(server: McpServer, policies: dict[str, Any], auth: dict[str, Any], *more: McpServer) -> dict[str, Any]:
    targets = [http_target("a", server.port, policies={"backendAuth": auth}), *(http_target(f"b{n}", s.port) for n, s in enumerate(more))]
    return configuration({**route("/mcp", *targets), "policies": policies})


def shown(server: McpServer) -> list[str]:
    assert all(len(seen.values("authorization")) <= 1 for seen in server.seen)
    return [value for seen in server.seen for value in seen.values("authorization")]


@pytest.mark.parametrize("federated", [False, True])
def test_a_target_gets_its_secret_on_both_paths(tools: McpServer, federated: bool) -> None:
    with McpServer(Offer(name="other", tools=["noop"])) as other:
        more = [other] if federated else []
        with Gateway(mcp_config(tools, {}, {"key": "target-secret"}, *more), workers=1) as gateway, Session(As(gateway.port, "callers-own")) as session:
            name = "a_echo" if federated else "echo"
            for number in range(6):
                assert "result" in session.call(name, {"n": number}).message
        assert set(shown(tools)) == {"Bearer target-secret"}
        assert len(shown(tools)) == len(tools.seen)
        assert shown(other) == []


def test_targets_get_the_callers_exchanged_token_and_lists_are_his_own(issuer: Issuer, tools: McpServer) -> None:
    with McpServer(Offer(name="other", tools=["noop"])) as other:
        config = mcp_config(tools, jwt_auth(issuer), {"oauthTokenExchange": exchange(issuer)}, other)
        with Gateway(config, workers=1) as gateway:
            for name in ("alice", "bob"):
                with Session(As(gateway.port, issuer.token(sub=name, aud=AUDIENCE))) as session:
                    assert {tool["name"] for tool in session.request("tools/list").result["tools"]} == {"a_echo", "a_whoami", "b0_noop"}
                    for number in range(5):
                        assert "result" in session.call("a_echo", {"n": number, "who": name}).message
        calls = [seen for seen in tools.seen if seen.message is not None and seen.message.get("method") == "tools/call"]
        assert len(calls) == 10
        for seen in calls:
            subject = issuer.verified(seen.values("authorization")[0].removeprefix("Bearer "))["sub"]
            assert subject == seen.message["params"]["arguments"]["who"]
        lists = [seen for seen in tools.seen if seen.message is not None and seen.message.get("method") == "tools/list"]
        assert {issuer.verified(seen.values("authorization")[0].removeprefix("Bearer "))["sub"] for seen in lists} == {"alice", "bob"}
        assert issuer.count("/token") == 2


def test_callers_nobody_verified_are_told_apart_by_what_they_show(issuer: Issuer, tools: McpServer) -> None:
    with McpServer(Offer(name="other", tools=["noop"])) as other, Gateway(
        mcp_config(tools, {}, {"oauthTokenExchange": exchange(issuer)}, other), workers=1
    ) as gateway:
        alice, bob = (As(gateway.port, issuer.token(sub=name, aud=AUDIENCE)) for name in ("alice", "bob"))
        with Session(alice) as session:
            session.request("tools/list")
            # Another caller with this session's id is a stranger to it.
            stolen = bob.post({"jsonrpc": "2.0", "id": 9, "method": "tools/list"}, {"Mcp-Session-Id": session.id})
            assert stolen.status == 404
        with Session(bob) as session:
            session.request("tools/list")
        lists = [seen for seen in tools.seen if seen.message is not None and seen.message.get("method") == "tools/list"]
        assert {issuer.verified(seen.values("authorization")[0].removeprefix("Bearer "))["sub"] for seen in lists} == {"alice", "bob"}


def test_a_targets_401_is_a_call_to_authorise_again_and_costs_one_more_try(issuer: Issuer, tools: McpServer) -> None:
    refusing: set[str] = set()

    async def take(exchange: HttpExchange) -> bool:
        given = exchange.seen.values("authorization")
        if not given or given[0] in refusing:
            await exchange.reply(401, {"WWW-Authenticate": 'Bearer realm="target"'}, b"")
            return True
        return False

    tools.take = take
    config = mcp_config(tools, jwt_auth(issuer), {"oauthTokenExchange": exchange(issuer)})
    with Gateway(config, workers=1) as gateway, Session(As(gateway.port, issuer.token(sub="alice", aud=AUDIENCE))) as session:
        assert "result" in session.call("echo").message
        refusing.update(shown(tools))
        refused = session.call("echo")
        assert refused.error["data"]["reason"] == "reauthorization_required"
        assert "www-authenticate" not in refused.headers


def test_an_issuer_that_is_down_is_an_error_and_no_empty_list(issuer: Issuer, tools: McpServer) -> None:
    issuer.faults["/token"] = "down"
    own = {"oauthClientCredentials": {"tokenUrl": issuer.token_url, "clientAuth": {"clientId": "agw", "clientSecret": "s3cret"}}}
    with Gateway(mcp_config(tools, {}, own), workers=1) as gateway:
        answer = Endpoint(gateway.port, "/mcp").post(
            {"jsonrpc": "2.0", "id": 1, "method": "initialize",
             "params": {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}}})
        assert "error" in answer.message
        assert tools.seen == []
        assert "s3cret" not in gateway.stderr()
