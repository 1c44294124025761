"""What callers say about themselves, in every place but the credential: headers, claims with line ends, ids of other people's sessions, arguments that two
parsers read differently, floods of keys. One gateway; nothing of it may pass, and all of it is counted."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from tests.integration.mcp.conftest import http_target
from tests.integration.mcp.test_authentication import As
from tests.integration.security.test_external_services import Peers
from tests.kits.external import Answer, Asked
from tests.kits.gateway import Gateway, ask, wait_until
from tests.kits.tokens import ISSUER, jwks, signer
from tests.peers.client import Client
from tests.peers.mcp_client import Endpoint, Session, call, initialize
from tests.peers.mcp_script import Offer
from tests.peers.mcp_server import McpServer
from tests.peers.upstream import Peer, Upstream

KEY = signer("P-256", "ec")
MAX_KEYS = 1000
ECHO = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": call("echo", {"n": 1})}


def token(sub: str = "alice", **claims: Any) -> str:
    return KEY.token({"iss": ISSUER, "aud": "gateway", "sub": sub, "exp": int(time.time()) + 600, **claims}).decode()


def bearer(sub: str = "alice", **claims: Any) -> bytes:
    return b"Authorization: Bearer " + token(sub, **claims).encode()


class House:
    """The gateway and who is behind it."""

    def __init__(self, stack: ExitStack) -> None:
        self.peers = Peers()
        stack.callback(self.peers.close)
        self.service = self.peers.http(self.decide)
        self.upstream = stack.enter_context(Upstream(Peer.serve))
        self.tools = stack.enter_context(McpServer(Offer(name="a", tools=["echo", "whoami"])))
        self.gateway = stack.enter_context(Gateway(self.config(), workers=2))

    @staticmethod
    def decide(asked: Asked) -> Answer:
        """Says who is there to those it knows, and nothing about others."""
        return 200, [("x-user", "verified")] if asked.headers.get("x-name") == "alice" else [], b""

    def config(self, **blocks: Any) -> dict[str, Any]:
        jwt = {"jwtAuth": {"mode": "strict", "issuer": ISSUER, "audiences": ["gateway"], "jwks": jwks(KEY)}}
        service = {
            "host": f"127.0.0.1:{self.service.port}", "protocol": {"http": {"addRequestHeaders": {"x-name": "jwt.name"}, "includeResponseHeaders": ["x-user"]}},
        }
        rules = {
            "fails": [{"deny": 'jwt.team == "x"'}],
            "fails-required": [{"require": 'jwt.team == "x"'}],
            "fails-allowed": ['jwt.team == "x"'],
            "fails-type": [{"deny": "jwt.level > 3"}],
            "absorbed": [{"deny": 'has(jwt.team) && jwt.team == "x"'}],
        }

        def route(name: str, **policies: Any) -> dict[str, Any]:
            match, backend = {"path": {"pathPrefix": f"/{name}"}}, {"host": self.upstream.host}
            return {"name": name, "matches": [match], "policies": {**jwt, **policies}, "backends": [backend]}

        limit = {"maxTokens": 3, "tokensPerFill": 1, "fillInterval": "1h", "key": 'request.headers["x-key"]', "name": "flooded"}
        arguments = [{"deny": 'mcp.tool.arguments.path.startsWith("/etc")'}, "mcp.tool.name in ['echo', 'whoami']"]
        where = {"rules": ['proxy.route == "public" || jwt.sub == "root"']}
        mcp = {"mcp": {"targets": [http_target("a", self.tools.port)]}}
        return {
            "gateways": {"default": {"port": 0, "address": "127.0.0.1"}}, "config": {"connectionTerminationDeadline": "1s"},
            "frontendPolicies": {"accessLog": {"enabled": True}}, "rateLimit": {"maxKeys": MAX_KEYS}, **blocks,
            "routes": [
                route("told", extAuthz=service),
                route("set", requestHeaderModifier={"set": {"x-user": "gateway"}, "remove": ["x-role"]}),
                *(route(name, authorization={"rules": found}) for name, found in rules.items()),
                route("public", authorization=where), route("secret", authorization=where),
                route("limited", localRateLimit=[limit]),
                {"name": "mcp", "matches": [{"path": {"pathPrefix": "/mcp"}}], "policies": jwt, "backends": [mcp]},
                {"name": "judged", "matches": [{"path": {"pathPrefix": "/judged"}}], "policies": {**jwt, "mcpAuthorization": {"rules": arguments}},
                 "backends": [mcp]},
            ],
        }  # fmt: skip

    def counted(self, policy: str, result: str) -> float:
        return self.gateway.metrics().total("auth_decisions_total", policy=policy, result=result)


@pytest.fixture(scope="module")
def house() -> Iterator[House]:
    with ExitStack() as stack:
        yield House(stack)


# ------------------------------------------------------------------------------------------------- identity headers


@pytest.mark.parametrize("name", [b"X-User", b"x-user", b"X-USER", b"X_User", b"x_user"])
def test_an_identity_header_is_the_gateways_to_write(house: House, name: bytes) -> None:
    begun = len(house.upstream.requests)
    with Client(house.gateway.port) as client:
        assert client.get("/told", bearer(name="alice"), name + b": root").status == 200
        assert client.get("/told", bearer(name="bob"), name + b": root", name + b": admin").status == 200
        assert client.get("/set", bearer(), name + b": root", b"X-Role: admin", name + b": admin").status == 200
    alice, bob, fixed = house.upstream.requests[begun:]
    assert alice.get(b"x-user") == [b"verified"]
    assert bob.get(b"x-user") == [], "what the service does not say the client does not say either"
    assert (fixed.get(b"x-user"), fixed.get(b"x-role")) == ([b"gateway"], [])
    for seen in (alice, bob, fixed):  # as a backend sees them that makes variables of names
        assert [value for field, value in seen.fields if field.lower().replace(b"_", b"-") == b"x-user" and value != b"root"] == seen.get(b"x-user")
        assert not [value for _, value in seen.fields if value in (b"root", b"admin")]


@pytest.mark.parametrize("name", [b"X-Forwarded-For", b"X_Forwarded_For", b"x_forwarded-FOR", b"X-Forwarded-Host", b"X_Forwarded_Host", b"X_Forwarded_Proto"])
def test_where_a_client_is_is_the_gateways_to_say(house: House, name: bytes) -> None:
    begun = len(house.upstream.requests)
    with Client(house.gateway.port) as client:
        assert client.get("/set", bearer(), name + b": 198.51.100.7").status == 200
    (seen,) = house.upstream.requests[begun:]
    assert not [field for field in seen.fields if field[1] == b"198.51.100.7"]
    assert seen.get(b"x-forwarded-for") == [b"127.0.0.1"]


def test_connection_takes_no_identity_off(house: House) -> None:
    """`Connection: x-user` names a hop-by-hop header: the client's own, never the one the gateway adds behind it."""
    begun = len(house.upstream.requests)
    with Client(house.gateway.port) as client:
        assert client.get("/set", bearer(), b"Connection: x-user", b"X-User: root").status == 200
        assert client.get("/told", bearer(name="alice"), b"Connection: x-user, x-name").status == 200
    assert [seen.get(b"x-user") for seen in house.upstream.requests[begun:]] == [[b"gateway"], [b"verified"]]


def test_what_workers_tell_each_other_nobody_else_says(house: House) -> None:
    begun = len(house.upstream.requests)
    forged = (b"agw-hop: 1", b"agw-peer: 203.0.113.9", b"agw-certificate: MIIB", b"Agw-Certificate: AA==")
    with Client(house.gateway.port) as client:
        assert client.get("/told", bearer(name="alice"), *forged).status == 200
        assert client.get("/told", *forged).status == 401
    (seen,) = house.upstream.requests[begun:]
    assert not [name for name, _ in seen.fields if name.lower().startswith(b"agw-")]
    assert seen.get(b"x-forwarded-for") == [b"127.0.0.1"]


@pytest.mark.parametrize("value", ["alice\r\nX-Admin: 1", "alice\nx", "alice\0", "alice\0root", "alice\x7f", "\u2028".join(("a", "b")) + "\r", "a" * 20_000])
def test_a_claim_that_cannot_be_a_header_is_none(house: House, value: str) -> None:
    asked, begun, errors = len(house.service.asked), len(house.upstream.requests), house.counted("extAuthz", "error")
    # 20,000 characters do not fit into a token at all.
    with Client(house.gateway.port) as client:
        answer = client.get("/told", bearer(name=value))
    if len(value) > 10_000:
        assert answer.status in (401, 431)
    else:
        assert answer.status == 403
        assert house.counted("extAuthz", "error") == errors + 1
    assert (len(house.service.asked), len(house.upstream.requests)) == (asked, begun)
    assert b"Admin" not in answer.head + answer.body


def test_a_claim_in_the_log_is_one_field_of_one_record(house: House) -> None:
    sub = 'a","http.status":200,"x":"\u00e9\u202e'
    with Client(house.gateway.port) as client:
        assert client.get("/set/log", bearer(sub)).status == 200

    def records() -> list[Any]:
        return [found for line in house.gateway.stdout().splitlines() if (found := json.loads(line)).get("http.path") == "/set/log"]

    (record,) = wait_until(records, what="the record")
    assert record["jwt.sub"] == sub
    assert "\u202e" not in house.gateway.stdout()


# ------------------------------------------------------------------------------------------------- rules


@pytest.mark.parametrize(
    ("route", "claims"), [("fails", {}), ("fails-required", {}), ("fails-allowed", {}), ("fails-type", {"level": "high"}), ("fails-type", {})]
)
def test_a_rule_that_fails_to_evaluate_denies_and_is_counted(house: House, route: str, claims: dict[str, Any]) -> None:
    begun, errors = len(house.upstream.requests), house.counted("authorization", "error")
    with Client(house.gateway.port) as client:
        for number in (1, 2):
            answer = client.get(f"/{route}", bearer(number=number, **claims))
            assert (answer.status, json.loads(answer.body)["error"]["message"]) == (403, "not allowed")
        assert client.get("/absorbed", bearer()).status == 200
    assert house.counted("authorization", "error") == errors + 2
    assert len(house.upstream.requests) == begun + 1


def test_a_number_no_rule_can_hold_denies(house: House) -> None:
    with Client(house.gateway.port) as client:
        for value in (10**30, -(10**30), [[[10**25]]]):
            assert client.get("/fails-type", bearer(level=value)).status == 403
        assert client.get("/fails-type", bearer(level=2)).status == 200


def test_a_rule_about_the_route_is_decided_for_each_route(house: House) -> None:
    """Routes with the same policies share what is remembered about a caller, and such a rule is not the same on both."""
    begun = len(house.upstream.requests)
    with Client(house.gateway.port) as client:
        for _ in range(3):
            assert client.get("/public", bearer()).status == 200
            assert client.get("/secret", bearer()).status == 403
        same = bearer()
        for _ in range(3):
            assert client.get("/public", same).status == 200
            assert client.get("/secret", same).status == 403
    assert {seen.target for seen in house.upstream.requests[begun:]} == {b"/public"}


# ------------------------------------------------------------------------------------------------- arguments


def tower(depth: int) -> str:
    return '{"path":"/tmp","x":' + "[" * depth + "]" * depth + "}"


ARGUMENTS = {
    "a member twice": '{"path":"/tmp","path":"/etc/passwd"}',
    "a member twice, escaped": '{"path":"/tmp","p\\u0061th":"/etc/passwd"}',
    "a member twice further down": '{"path":"/tmp","x":{"a":1,"a":2}}',
    "deeper than rules look": tower(63),
    "larger than rules look": '{"path":"/tmp","x":"' + "a" * 1_100_000 + '"}',
    "many small things": '{"path":"/tmp","x":[' + ",".join(["[]"] * 200_000) + "]}",
    "NUL, where the library stops reading": '{"path":"/tmp\\u0000/../etc"}',
    "another type": '{"path":["/tmp"]}',
    "missing": "{}",
    "the denied one": '{"path":"/etc/passwd"}',
}


def call_text(arguments: str) -> bytes:
    return b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"echo","arguments":' + arguments.encode() + b"}}"


@pytest.mark.parametrize("case", list(ARGUMENTS))
def test_arguments_that_no_rule_can_judge_are_refused(house: House, case: str) -> None:
    endpoint = As(house.gateway.port, token(), "/judged")
    with Session(endpoint) as session:
        assert session.call("echo", {"path": "/tmp"}).status == 200
        before, denied = len(house.tools.requests("tools/call")), house.counted("mcpAuthorization", "refused")
        headers = {"Content-Type": "application/json", "Accept": "application/json, text/event-stream", "Mcp-Session-Id": session.id,
                   "Mcp-Protocol-Version": "2025-11-25", "Authorization": f"Bearer {endpoint.bearer}"}  # fmt: skip
        answer = ask(f"127.0.0.1:{house.gateway.port}", "POST", "/judged", call_text(ARGUMENTS[case]), headers)
        said = answer.json()["error"]
        assert said["code"] in (-32602, -32600, -32700), said
        assert len(house.tools.requests("tools/call")) == before
        if said["code"] == -32602:
            assert said["message"] == session.call("nobody").error["message"].replace("nobody", "echo"), "as if there were no such tool"
            assert house.counted("mcpAuthorization", "refused") >= denied + 1


@pytest.mark.parametrize("depth", [65, 1000, 200_000])
def test_a_tower_of_brackets_is_no_message(house: House, depth: int) -> None:
    headers = {"Content-Type": "application/json", "Accept": "application/json, text/event-stream", "Authorization": f"Bearer {token()}"}
    answer = ask(f"127.0.0.1:{house.gateway.port}", "POST", "/judged", call_text(tower(depth)), headers)
    assert answer.status == 400
    assert answer.json()["error"]["code"] in (-32600, -32700)


# ------------------------------------------------------------------------------------------------- sessions


def test_a_session_is_its_principals(house: House) -> None:
    port = house.gateway.port
    alice, bob = As(port, token("alice"), "/mcp"), As(port, token("bob"), "/mcp")
    with Session(alice) as session:
        assert session.call("echo", {"n": 1}).status == 200
        stolen = {"Mcp-Session-Id": session.id, "Mcp-Protocol-Version": "2025-11-25"}
        made_up = {**stolen, "Mcp-Session-Id": session.id[:-2] + ("AA" if session.id[-2:] != "AA" else "BB")}
        nothing = {**stolen, "Mcp-Session-Id": "00000000-0000-0000-0000-000000000000"}
        before = len(house.tools.requests("tools/call"))
        answers = []
        for _ in range(4):  # new connections, so that both workers are asked
            answers += [bob.post(ECHO, stolen), alice.post(ECHO, made_up), bob.post(ECHO, nothing)]
            answers += [bob.send("DELETE", None, stolen)]
        assert {answer.status for answer in answers} == {404}, answers
        assert len({answer.body for answer in answers if b'"id":1' in answer.body}) == 1, "the same words, whosever it is"
        assert len(house.tools.requests("tools/call")) == before
        stream = bob.connect("GET", None, {**stolen, "Accept": "text/event-stream"})
        response = stream.getresponse()
        assert response.status == 404
        stream.close()
        # With other claims it is still alice.
        again = As(port, token("alice", jti="2"), "/mcp")
        assert again.post(ECHO, stolen).status == 200
        assert Endpoint(port, "/mcp").post(ECHO, stolen).status == 401
        assert session.call("echo", {"n": 2}).status == 200


def test_nobody_chooses_the_id_of_a_session(house: House) -> None:
    alice = As(house.gateway.port, token("alice"), "/mcp")
    for chosen in ("chosen-by-somebody", "0" * 400, "x\ty"):
        answer = alice.post(initialize(), {"Mcp-Session-Id": chosen})
        if answer.status == 200:
            assert answer.headers["mcp-session-id"] != chosen
        assert alice.post(ECHO, {"Mcp-Session-Id": chosen, "Mcp-Protocol-Version": "2025-11-25"}).status in (400, 404)


# ------------------------------------------------------------------------------------------------- other sites


@pytest.mark.parametrize(
    ("fields", "status"),
    [((), 200), ((b"Origin: http://localhost:5000",), 200), ((b"Origin: https://attacker.example",), 403), ((b"Origin: null",), 403),
     ((b"Origin: http://localhost.attacker.example",), 403), ((b"Origin: http://localhost", b"Origin: https://attacker.example"), 403)],
    ids=["none", "own", "foreign", "null", "looks like ours", "two"],
)  # fmt: skip
def test_a_page_of_another_site_uses_no_tool(house: House, fields: tuple[bytes, ...], status: int) -> None:
    before = len(house.tools.requests("tools/call"))
    with Client(house.gateway.port) as client:
        body = json.dumps(initialize()).encode()
        lines = (b"POST /mcp HTTP/1.1", b"Host: 127.0.0.1", bearer(), b"Content-Type: application/json", b"Accept: application/json, text/event-stream",
                 *fields, b"Content-Length: %d" % len(body), b"", body)  # fmt: skip
        client.send(b"\r\n".join(lines))
        assert client.answer().status == status
    assert len(house.tools.requests("tools/call")) == before


@pytest.mark.parametrize("host", [b"attacker.example", b"127.0.0.1.attacker.example", b"localhost.attacker.example:80"])
def test_a_name_that_was_rebound_to_us_is_refused(house: House, host: bytes) -> None:
    with Client(house.gateway.port) as client:
        client.send(b"GET /mcp HTTP/1.1\r\nHost: " + host + b"\r\n" + bearer() + b"\r\nAccept: text/event-stream\r\n\r\n")
        assert client.answer().status == 421


def test_a_session_that_is_known_is_no_way_around_the_guard(house: House) -> None:
    """Calls of a known session go the compiled way, which asks the guard as well."""
    alice = As(house.gateway.port, token("alice"), "/mcp")
    with Session(alice) as session:
        known = {"Mcp-Session-Id": session.id, "Mcp-Protocol-Version": "2025-11-25"}
        for _ in range(6):
            assert session.call("echo", {"n": 1}).status == 200
            assert alice.post(ECHO, {**known, "Origin": "https://attacker.example"}).status == 403
            assert alice.post(ECHO, {**known, "Host": "attacker.example"}).status == 421


# ------------------------------------------------------------------------------------------------- floods


def test_a_flood_of_keys_costs_memory_for_so_many_and_locks_nobody_out(house: House) -> None:
    gateway = house.gateway
    with Client(gateway.port) as client:
        same = bearer()
        statuses = {client.get("/limited", same, b"X-Key: %d" % number).status for number in range(3 * MAX_KEYS)}
        assert statuses == {200}
        assert gateway.metrics().total("rate_limit_evictions_total", limit="flooded") > 0
        # Its own key is limited all the same, and other keys are not.
        assert [client.get("/limited", same, b"X-Key: mine").status for _ in range(5)] == [200, 200, 200, 429, 429]
        assert client.get("/limited", same, b"X-Key: yours").status == 200
        # Without the header there is no bucket for everybody.
        assert client.get("/limited", same).status == 429
    assert gateway.metrics().total("rate_limit_store_errors_total", limit="flooded") >= 1


def test_a_flood_of_tokens_leaves_the_caches_at_their_size(house: House) -> None:
    """Each of them is refused by a signature, and remembered in a table of 1,024; who is known stays known."""
    known = bearer("known")
    with Client(house.gateway.port) as client:
        assert client.get("/set", known).status == 200
        begun = house.counted("jwt", "refused")
        wrong = signer("P-256", "ec").token
        for number in range(1500):
            forged = wrong({"iss": ISSUER, "aud": "gateway", "sub": "x", "n": number, "exp": int(time.time()) + 600})[:-6] + b"AAAAAA"
            assert client.get("/set", b"Authorization: Bearer " + forged).status == 401
        assert house.counted("jwt", "refused") == begun + 1500
        assert client.get("/set", known).status == 200


def test_a_reload_that_changes_the_store_of_limits_says_so(house: House) -> None:
    gateway = house.gateway
    gateway.reload(house.config(rateLimit={"maxKeys": 2 * MAX_KEYS}))
    gateway.wait_log("rateLimit is read at start only, restart to apply it")
    with Client(gateway.port) as client:
        assert client.get("/set", bearer()).status == 200
