"""Callers and targets of different eras: each gets its own protocol, whole, and nothing of the other's."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.integration.conftest import Start
from tests.integration.mcp.conftest import Farm, configuration, http_target, route
from tests.kits.gateway import wait_until
from tests.peers.mcp_client import META, MODERN, Answer, Endpoint, Session
from tests.peers.mcp_exchange import HttpExchange
from tests.peers.mcp_script import Exchange
from tests.peers.mcp_server import McpServer

LEGACY_PLACES = [("/one", ""), ("/two", "a_"), ("/stdio", ""), ("/pair", "s_"), ("/mixed", "a_")]
ASK = {"method": "sampling/createMessage", "params": {"messages": [], "maxTokens": 1}}
CAN = {"sampling": {}, "elicitation": {}, "roots": {}}


def retry(at: Endpoint, tool: str, arguments: Any, state: str | None, responses: Any, **more: Any) -> Answer:
    params = {"name": tool, "arguments": arguments, **({} if responses is None else {"inputResponses": responses})}
    if state is not None:
        params["requestState"] = state
    return at.modern("tools/call", params, ident=2, capabilities=CAN, **more)


# ------------------------------------------------------------------------------------------- modern caller, legacy target


@pytest.mark.parametrize(("path", "prefix"), LEGACY_PLACES)
def test_legacy_results_become_modern(farm: Farm, path: str, prefix: str) -> None:
    at = farm.at(path)
    for _ in range(2):
        called = at.modern("tools/call", {"name": prefix + "echo"}).result
        assert called["resultType"] == "complete"
        listed = at.modern("tools/list").result
        assert listed["resultType"] == "complete"
        assert isinstance(listed["ttlMs"], int)
        assert listed["cacheScope"] in ("public", "private")
    discovered = at.modern("server/discover").result
    assert discovered["supportedVersions"] == [MODERN]
    assert discovered["resultType"] == "complete"
    assert {"ttlMs", "cacheScope", "capabilities"} <= set(discovered)
    assert discovered["capabilities"]["tools"] is not None
    assert discovered["_meta"][f"{META}serverInfo"]["name"]


def test_modern_errors_have_modern_codes(farm: Farm) -> None:
    async def missing(x: Exchange) -> None:
        await x.error(-32002, "Resource not found", {"uri": x.params["uri"]})

    async def url(x: Exchange) -> None:
        await x.error(-32042, "go there", {"elicitations": [{"mode": "url", "url": "https://x.example/1", "elicitationId": "e1", "message": "Sign in"}]})

    farm.a.on("resources/read", missing)
    farm.a.on("echo", url)
    error = farm.at("/one").modern("resources/read", {"uri": "file:///none"}).error
    assert (error["code"], error["data"]["uri"]) == (-32602, "file:///none")
    for capabilities in ({}, {"elicitation": {"url": {}}}):
        answer = farm.at("/one").modern("tools/call", {"name": "echo"}, capabilities=capabilities)
        assert answer.message.get("error", {}).get("code") != -32042
        if capabilities:
            assert answer.result["resultType"] == "input_required"
            [asked] = answer.result["inputRequests"].values()
            assert asked["params"]["url"] == "https://x.example/1"
    with Session(farm.at("/one")) as session:
        assert session.request("resources/read", {"uri": "file:///none"}).error["code"] == -32002
        assert session.call("echo").error["code"] == -32042


@pytest.mark.parametrize(("path", "prefix"), LEGACY_PLACES)
def test_a_question_parks_the_call(farm: Farm, path: str, prefix: str) -> None:
    at, tool = farm.at(path), prefix + "ask"
    first = retry(at, tool, ASK, None, None).result
    assert first["resultType"] == "input_required"
    [(key, asked)] = first["inputRequests"].items()
    assert asked["method"] == "sampling/createMessage"
    assert asked["params"]["maxTokens"] == 1
    again = retry(at, tool, ASK, first["requestState"], None).result
    assert again["resultType"] == "input_required", "no answers: the same questions"
    assert list(again["inputRequests"].values()) == [asked]
    done = retry(at, tool, ASK, again["requestState"], {next(iter(again["inputRequests"])): {"model": "m", "role": "assistant"}, "extra": {}}).result
    assert done["resultType"] == "complete"
    assert json.loads(done["content"][0]["text"]) == {"result": {"model": "m", "role": "assistant"}}
    assert key


def test_state_is_sealed_and_bound(farm: Farm) -> None:
    at = farm.at("/one")
    first = retry(at, "ask", ASK, None, None).result
    state, key = first["requestState"], next(iter(first["inputRequests"]))
    responses = {key: {"model": "m"}}
    middle = len(state) // 2
    tampered = state[:middle] + ("A" if state[middle] != "A" else "B") + state[middle + 1 :]
    for bad in (tampered, state[:-1], state + "A", "", "nonsense", "é"):
        answer = retry(at, "ask", ASK, bad, responses)
        assert answer.error["code"] == -32602, bad
        assert answer.status == 400
    assert retry(at, "ask", {**ASK, "other": 1}, state, responses).error["code"] == -32602, "another call's"
    assert retry(at, "echo", ASK, state, responses).error["code"] == -32602, "another tool's"
    assert "result" in retry(at, "ask", ASK, state, responses).message
    assert retry(at, "ask", ASK, state, responses).error["code"] == -32602, "used up"


def test_questions_a_modern_caller_did_not_offer(farm: Farm) -> None:
    answer = farm.at("/one").modern("tools/call", {"name": "ask", "arguments": ASK}, capabilities={"elicitation": {}})
    assert json.loads(answer.text)["error"]["code"] in (-32601, -32602)


def test_parallel_parked_calls(farm: Farm) -> None:
    at = farm.at("/two")

    def one(number: int) -> Any:
        tool = "ab"[number % 2] + "_ask"
        arguments = {**ASK, "params": {"n": number}}
        first = retry(at, tool, arguments, None, None).result
        [(key, asked)] = first["inputRequests"].items()
        assert asked["params"]["n"] == number
        done = retry(at, tool, arguments, first["requestState"], {key: {"n": number}})
        return json.loads(done.text)["result"]["n"] == number

    with ThreadPoolExecutor(6) as pool:
        assert all(pool.map(one, range(18)))


def test_log_levels_of_modern_callers(farm: Farm) -> None:
    at = farm.at("/one")
    for _ in range(2):
        assert [m for m in at.modern("tools/call", {"name": "logs"}).messages if "method" in m] == []
        assert at.modern("tools/call", {"name": "logs"}, meta={f"{META}logLevel": "debug"}).messages[0]["method"] == "notifications/message"
    wait_until(lambda: any(m["params"]["level"] == "debug" for m in farm.a.requests("logging/setLevel")))


# ------------------------------------------------------------------------------------------- legacy caller, modern target


def test_modern_results_become_legacy(farm: Farm) -> None:
    async def missing(x: Exchange) -> None:
        await x.error(-32602, "Resource not found", {"uri": x.params["uri"]})

    async def internal(x: Exchange) -> None:
        await x.error({"version": -32022, "header": -32020, "capability": -32021}[x.arguments["kind"]], "x", {"supported": [MODERN]})

    farm.m.on("internal", internal)
    for path, prefix in (("/modern", ""), ("/mixed", "m_")):
        with Session(farm.at(path)) as session:
            assert session.call(prefix + "echo", {"a": 1}).result["content"]
            for kind in ("version", "header", "capability"):
                assert session.call(prefix + "internal", {"kind": kind}).error["code"] not in (-32020, -32021, -32022), kind
            assert session.request("ping").result == {}
    farm.m.on("resources/read", missing)
    with Session(farm.at("/modern")) as session:
        assert session.request("resources/read", {"uri": "file:///none"}).error["code"] in (-32002, -32602)


def test_the_envelope_is_written_for_legacy_callers(farm: Farm) -> None:
    with Session(farm.at("/modern"), "2025-06-18", {"elicitation": {}, "roots": {"listChanged": True}, "sampling": {}}) as session:
        session.request("logging/setLevel", {"level": "error"})
        session.call("echo", {"a": 1}, meta={"progressToken": 4, "vendor/x": 1})
        seen = farm.m.last("tools/call")
        meta = seen.message["params"]["_meta"]
        assert meta[f"{META}protocolVersion"] == MODERN
        assert meta[f"{META}clientInfo"] == {"name": "test", "version": "1"}
        assert meta[f"{META}logLevel"] == "error"
        assert meta["vendor/x"] == 1
        capabilities = meta[f"{META}clientCapabilities"]
        assert set(capabilities) == {"elicitation", "roots", "sampling"}
        assert capabilities["roots"] == {}
        fields = dict(seen.headers)
        assert (fields["mcp-protocol-version"], fields["mcp-method"], fields["mcp-name"]) == (MODERN, "tools/call", "echo")
        assert "mcp-session-id" not in fields
        farm.m.seen.clear()
        session.notify("notifications/roots/list_changed")
        session.request("ping")
        assert farm.m.requests("notifications/roots/list_changed") == [], "the modern era has no such notification"


def test_rounds_for_legacy_callers(farm: Farm) -> None:
    """Several questions and several rounds become requests on the stream of the call; state goes back to the octet."""
    state = "opaque \"state\" é"

    async def rounds(x: Exchange) -> None:
        number = 0 if "requestState" not in x.params else int(x.params["requestState"][-1]) + 1
        if number:
            assert x.params["requestState"] == f"{state}{number - 1}"
        if number == 2:
            await x.text(json.dumps(x.params["inputResponses"]))
            return
        form = {"mode": "form", "message": f"round {number}", "requestedSchema": {"type": "object", "properties": {}}}
        await x.result({"resultType": "input_required", "requestState": f"{state}{number}", "inputRequests": {
            f"k{number}": {"method": "elicitation/create", "params": form},
            f"s{number}": {"method": "sampling/createMessage", "params": {"messages": [], "maxTokens": number + 1}},
        }})

    farm.m.on("rounds", rounds)
    with Session(farm.at("/modern"), capabilities=CAN) as session, session.open_call("rounds") as stream:
        for number in range(2):
            asked = [stream.until(lambda m: "method" in m and "id" in m) for _ in range(2)]
            for question in asked:
                if question["method"] == "elicitation/create":
                    assert question["params"]["message"] == f"round {number}"
                    session.answer(question, {"action": "accept", "content": {"n": number}})
                else:
                    session.answer(question, {"model": f"m{number}"})
        text = stream.until(lambda m: "result" in m)["result"]["content"][0]["text"]
        assert json.loads(text) == {"k1": {"action": "accept", "content": {"n": 1}}, "s1": {"model": "m1"}}
        idents = [message["id"] for message in farm.m.requests("tools/call")]
        assert len(set(map(json.dumps, idents))) == 3, "every repetition has an id of its own"


def test_a_legacy_caller_cannot_forge_rounds(farm: Farm) -> None:
    with Session(farm.at("/modern"), capabilities=CAN) as session:
        session.request("tools/call", {"name": "echo", "arguments": {}, "inputResponses": {"one": {"model": "forged"}}, "requestState": "forged"})
        params = farm.m.last("tools/call").message["params"]
        assert "inputResponses" not in params
        assert "requestState" not in params


def test_a_client_that_declines(farm: Farm) -> None:
    with Session(farm.at("/modern"), capabilities=CAN) as session, session.open_call("ask", ASK) as stream:
        question = stream.until(lambda m: m.get("method") == "sampling/createMessage")
        session.post({"jsonrpc": "2.0", "id": question["id"], "error": {"code": -1, "message": "User rejected sampling request"}})
        assert stream.until(lambda m: "id" in m)["error"]["code"] == -1


# ------------------------------------------------------------------------------------------------------ finding out, mixes


def test_eras_are_asked_once(start: Start, server: Callable[..., McpServer]) -> None:
    a, m = server(name="a"), server(name="m", era="modern")
    gateway = start(configuration(route("/mcp", http_target("a", a.port), http_target("m", m.port))), workers=1)
    at = Endpoint(gateway.port)
    for _ in range(5):
        with Session(at) as session:
            assert session.names() == ["a_echo", "m_echo"]
            assert session.call("m_echo").status == 200
        assert [tool["name"] for tool in at.modern("tools/list").result["tools"]] == ["a_echo", "m_echo"]
        assert at.modern("tools/call", {"name": "a_echo"}).status == 200
    assert len(a.requests("server/discover")) <= 2
    assert len(m.requests("initialize")) <= 2, "a refusal with -32022 is evidence enough"


def test_a_target_that_changes_its_era(start: Start, server: Callable[..., McpServer]) -> None:
    a = server(name="a")
    gateway = start(configuration(route("/mcp", http_target("a", a.port))), workers=1)
    at = Endpoint(gateway.port)
    session = Session(at)
    assert session.call("echo").status == 200
    assert at.modern("tools/call", {"name": "echo"}).status == 200
    a.stop_listening()
    a.offer.era = "modern"
    assert session.call("echo").error["code"] == -32603
    assert "error" in at.modern("tools/call", {"name": "echo"}).message
    a.listen_again()
    wait_until(lambda: "result" in at.modern("tools/call", {"name": "echo"}).message, what="modern calls of the new target")
    fresh = Session(at)
    assert "result" in fresh.call("echo").message


def test_pinned_eras(start: Start, server: Callable[..., McpServer]) -> None:
    d = server(name="d", era="dual")
    gateway = start(configuration(
        route("/legacy", http_target("d", d.port, protocolEra="legacy")), route("/modern", http_target("d", d.port, protocolEra="modern")),
    ), workers=1)
    for path, method in (("/legacy", "initialize"), ("/modern", "server/discover")):
        d.seen.clear()
        at = Endpoint(gateway.port, path)
        with Session(at) as session:
            assert session.call("echo").status == 200
        assert at.modern("tools/call", {"name": "echo"}).status == 200
        other = {"initialize": "server/discover", "server/discover": "initialize"}[method]
        assert d.requests(method)
        assert not d.requests(other), path


def test_a_legacy_server_that_executes_anything(start: Start, server: Callable[..., McpServer]) -> None:
    """Some legacy servers run `tools/call` before any handshake: a modern call must not be tried out on them."""
    a = server(name="a", sessions=False)

    async def lenient(x: HttpExchange) -> bool:
        if x.message.get("method") == "tools/call":
            await x.text("executed")
            return True
        if x.message.get("method") == "server/discover":
            await x.error(-32601, "Method not found")
            return True
        return False

    a.take = lenient
    gateway = start(configuration(route("/mcp", http_target("a", a.port))), workers=1)
    answer = Endpoint(gateway.port).modern("tools/call", {"name": "echo"})
    assert answer.result["resultType"] == "complete"
    calls = [each for each in a.seen if isinstance(each.message, dict) and each.message.get("method") == "tools/call"]
    assert len(calls) == 1
    assert a.requests("initialize"), "with a handshake first"
