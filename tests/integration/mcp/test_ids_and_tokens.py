"""Ids and tokens of many parties on one way: nobody gets another's, and everybody gets their own back octet for octet."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.integration.conftest import Start
from tests.integration.mcp.conftest import Farm, configuration, http_target, route
from tests.kits.gateway import wait_until
from tests.peers.mcp_client import META, MODERN, Answer, Endpoint, Session, modern_request
from tests.peers.mcp_server import McpServer

IDS = ["1", '"1"', "0", "-7", "9007199254740993", "123456789012345678901234567890", '""', '"a b"', '"\\u00e9"', '"\\ud83d\\ude00"', '"x\\"y\\\\z"', '"\\/"']
PATHS = [("/one", ""), ("/two", "a_"), ("/modern", ""), ("/mixed", "m_"), ("/dual", ""), ("/stdio", ""), ("/pair", "s_")]
MODERN_PATHS = [*PATHS, ("/both", ""), ("/modern-stdio", "")]


@pytest.mark.parametrize(("path", "prefix"), PATHS)
def test_ids_come_back_as_they_were(farm: Farm, path: str, prefix: str) -> None:
    with Session(farm.at(path)) as session:
        for _ in range(2):
            for ident in IDS:
                body = b'{"jsonrpc":"2.0","id":%b,"method":"tools/call","params":{"name":"%b","arguments":{}}}' % (ident.encode(), (prefix + "echo").encode())
                answer = session.post(body)
                assert "result" in answer.message, (ident, answer.body)
                assert b'"id":' + ident.encode() in answer.raws[-1].replace(b'"id": ', b'"id":'), (ident, answer.body)


@pytest.mark.parametrize(("path", "prefix"), MODERN_PATHS)
def test_modern_ids_come_back_as_they_were(farm: Farm, path: str, prefix: str) -> None:
    at = farm.at(path)
    for ident in IDS:
        body, fields = modern_request("tools/call", {"name": prefix + "echo"}, "ID", None, None, None)
        answer = at.post(body.replace(b'"ID"', ident.encode()), fields)
        assert "result" in answer.message, (ident, answer.body)
        assert b'"id":' + ident.encode() in answer.raws[-1].replace(b'"id": ', b'"id":'), (ident, answer.body)


@pytest.mark.parametrize(("path", "prefix"), MODERN_PATHS)
def test_equal_ids_of_many_callers(farm: Farm, path: str, prefix: str) -> None:
    at = farm.at(path)

    def one(number: int) -> tuple[int, Answer]:
        return number, at.modern("tools/call", {"name": prefix + "echo", "arguments": {"me": number}}, ident=1)

    with ThreadPoolExecutor(8) as pool:
        for number, answer in pool.map(one, range(48)):
            assert f'"me":{number}}}' in answer.text.replace(" ", ""), (number, answer.body)
            assert answer.message["id"] == 1


@pytest.mark.parametrize(("path", "prefix"), PATHS)
def test_equal_ids_of_many_sessions(farm: Farm, path: str, prefix: str) -> None:
    sessions = [Session(farm.at(path)) for _ in range(4)]

    def one(number: int) -> tuple[int, Answer]:
        return number, sessions[number % 4].call(prefix + "echo", {"me": number}, ident=1 + number // 4)

    with ThreadPoolExecutor(4) as pool:
        for number, answer in pool.map(one, range(32)):
            assert f'"me":{number}}}' in answer.text.replace(" ", ""), (number, answer.body)
    for session in sessions:
        session.delete()


@pytest.mark.parametrize("warm", [0, 2])
def test_an_id_under_way_is_refused_and_free_afterwards(start: Start, server: Callable[..., McpServer], warm: int) -> None:
    """In one worker; what another one has under way is not known."""
    a = server(name="a", tools=["echo", "wait"])
    gateway = start(configuration(route("/one", http_target("a", a.port, timeout="5s"))), workers=1)
    with Session(Endpoint(gateway.port, "/one")) as session:
        for _ in range(warm):
            session.call("echo")
        first: list[Answer] = []
        thread = threading.Thread(target=lambda: first.append(session.call("wait", ident="same")))
        thread.start()
        wait_until(lambda: [m for m in a.requests("tools/call") if m["params"]["name"] == "wait"], what="the first is under way")
        second = session.call("echo", ident="same")
        assert second.error["code"] == -32600
        assert second.message["id"] == "same"
        a.release()
        thread.join(5)
        assert first[0].text == "released"
        for _ in range(5):
            assert "result" in session.call("echo", ident="same").message


def test_a_modern_id_is_free_after_its_answer(farm: Farm) -> None:
    for path, prefix in MODERN_PATHS:
        for _ in range(4):
            assert "result" in farm.at(path).modern("tools/call", {"name": prefix + "echo"}, ident="again").message


# --------------------------------------------------------------------------------------------------------------- progress

TOKENS = [0, 1, "1", "tok", 9007199254740993, ""]


@pytest.mark.parametrize(("path", "prefix"), [("/one", ""), ("/two", "a_"), ("/modern", ""), ("/mixed", "m_"), ("/dual", "")])
def test_progress_tokens_keep_their_type(farm: Farm, path: str, prefix: str) -> None:
    at = farm.at(path)
    with Session(at) as session:
        for token in TOKENS:
            for answer in (
                session.call(prefix + "progress", {"steps": 3}, meta={"progressToken": token}),
                at.modern("tools/call", {"name": prefix + "progress", "arguments": {"steps": 3}}, meta={"progressToken": token}),
            ):
                notes = answer.messages[:-1]
                assert [note["params"]["progress"] for note in notes] == [1, 2, 3], answer.body
                assert all(json.dumps(note["params"]["progressToken"]) == json.dumps(token) for note in notes), (token, answer.body)


@pytest.mark.parametrize(("path", "prefix", "era"), [
    ("/one", "", "legacy"), ("/one", "", "modern"), ("/two", "a_", "modern"), ("/modern", "", "legacy"), ("/modern", "", "modern"),
    ("/stdio", "", "modern"), ("/both", "", "modern"), ("/modern-stdio", "", "modern"), ("/stdio", "", "legacy"),
])
def test_equal_tokens_of_many_callers(farm: Farm, path: str, prefix: str, era: str) -> None:
    """SDKs count 0, 1, 2 …: every caller has the same tokens, and each gets its own progress and nobody else's."""
    at = farm.at(path)

    def one(number: int) -> tuple[int, Answer]:
        steps = 1 + number % 5
        if era == "modern":
            params = {"name": prefix + "progress", "arguments": {"steps": steps}}
            return steps, at.modern("tools/call", params, ident=1, meta={"progressToken": 1})
        with Session(at) as session:
            return steps, session.call(prefix + "progress", {"steps": steps}, ident=1, meta={"progressToken": 1})

    with ThreadPoolExecutor(6) as pool:
        for steps, answer in pool.map(one, range(18)):
            notes = [m for m in answer.messages if "method" in m]
            assert [note["params"]["progress"] for note in notes] == list(range(1, steps + 1)), answer.body
            assert all(note["params"]["total"] == steps and note["params"]["progressToken"] == 1 for note in notes)
            assert answer.message["id"] == 1


def test_no_token_is_asked_of_targets_in_fan_outs(farm: Farm) -> None:
    with Session(farm.at("/two")) as session:
        assert session.request("tools/list", {"_meta": {"progressToken": 5}}).status == 200
    assert farm.at("/two").modern("tools/list", meta={"progressToken": 6}).status == 200
    for server in (farm.a, farm.b):
        assert not any("progressToken" in json.dumps(message) for message in server.requests())


def test_progress_ends_with_the_request(farm: Farm) -> None:
    """What a target says of a request that is over reaches nobody."""
    async def early(x: Any) -> None:
        await x.begin()
        await x.event(json.dumps({"jsonrpc": "2.0", "id": x.message["id"], "result": {"content": []}}).encode())
        await x.event(b'{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":1,"progress":9}}')
        await x.end()

    farm.a.on("early", early)
    farm.m.on("early", early)
    with Session(farm.at("/one")) as session:
        for _ in range(3):
            answer = session.call("early", meta={"progressToken": 1})
            assert [m for m in answer.messages if "method" in m] == []
    assert [m for m in farm.at("/modern").modern("tools/call", {"name": "early"}, meta={"progressToken": 1}).messages if "method" in m] == []


# ------------------------------------------------------------------------------------------------------- requests of targets


def asking(at: Endpoint, capabilities: dict[str, Any]) -> Session:
    return Session(at, capabilities=capabilities)


@pytest.mark.parametrize("warm", [0, 2])
@pytest.mark.parametrize("path", ["/two", "/one", "/pair"])
def test_equal_ids_of_two_targets(farm: Farm, path: str, warm: int) -> None:
    """Both targets ask under id 1 at the same time; every answer finds its own question."""
    tools = {"/two": ("a_ask", "b_ask"), "/one": ("ask", "ask"), "/pair": ("a_ask", "s_ask")}[path]
    session = asking(farm.at(path), {"sampling": {}, "elicitation": {}, "roots": {}})
    for _ in range(warm):
        session.call(tools[0].replace("ask", "echo"))
        session.call(tools[1].replace("ask", "echo"))
    ids = (1, 1) if path != "/one" else (1, "1")
    streams = [
        session.open_call(tool, {"method": "sampling/createMessage", "params": {"n": n}, "id": ids[n]}) for n, tool in enumerate(tools)
    ]
    asks = [stream.until(lambda m: m.get("method") == "sampling/createMessage") for stream in streams]
    assert [ask["params"]["n"] for ask in asks] == [0, 1]
    assert json.dumps(asks[0]["id"]) != json.dumps(asks[1]["id"])
    for number in (1, 0):
        accepted = session.answer(asks[number], {"model": f"m{number}"})
        assert (accepted.status, accepted.body) == (202, b"")
    for number, stream in enumerate(streams):
        response = stream.until(lambda m: "result" in m or "error" in m)
        assert json.loads(response["result"]["content"][0]["text"]) == {"result": {"model": f"m{number}"}}
        stream.close()
    session.delete()


@pytest.mark.parametrize("capability", ["sampling", "elicitation", "roots"])
@pytest.mark.parametrize(("path", "tool"), [("/one", "ask"), ("/two", "b_ask"), ("/modern", "ask"), ("/mixed", "m_ask"), ("/stdio", "ask")])
def test_questions_of_a_call(farm: Farm, path: str, tool: str, capability: str) -> None:
    method = {"sampling": "sampling/createMessage", "elicitation": "elicitation/create", "roots": "roots/list"}[capability]
    params = {"sampling": {"messages": [], "maxTokens": 5}, "elicitation": {"message": "?", "requestedSchema": {"type": "object", "properties": {}}},
              "roots": {}}[capability]
    result = {"sampling": {"role": "assistant", "content": {"type": "text", "text": "hi"}, "model": "m"},
              "elicitation": {"action": "accept", "content": {}}, "roots": {"roots": [{"uri": "file:///r"}]}}[capability]
    with asking(farm.at(path), {capability: {}}) as session, session.open_call(tool, {"method": method, "params": params}) as stream:
        question = stream.until(lambda m: "method" in m and "id" in m)
        assert question["method"] == method
        assert {name: value for name, value in (question.get("params") or {}).items() if name != "_meta"} in (params, {**params, "mode": "form"})
        session.answer(question, result)
        answer = stream.until(lambda m: "result" in m or "error" in m)
        told = json.loads(answer["result"]["content"][0]["text"])
        assert result in (told.get("result"), (told.get("answers") or {}).get("one"))


@pytest.mark.parametrize(("path", "tool"), [("/one", "ask"), ("/two", "b_ask"), ("/stdio", "ask")])
def test_questions_the_client_cannot_answer(farm: Farm, path: str, tool: str) -> None:
    with Session(farm.at(path)) as session:
        answer = session.call(tool, {"method": "sampling/createMessage", "params": {}})
        assert [m for m in answer.messages if "method" in m] == []
        assert json.loads(answer.text)["error"]["code"] == -32601
        assert json.loads(session.call(tool, {"method": "ping", "params": {}}).text) == {"result": {}}


def test_errors_and_unknown_answers(farm: Farm) -> None:
    with asking(farm.at("/two"), {"sampling": {}}) as session, session.open_call("a_ask", {"method": "sampling/createMessage"}) as stream:
        question = stream.until(lambda m: m.get("method") == "sampling/createMessage")
        for ident in ("nobody's", 99999, 0):
            assert session.post({"jsonrpc": "2.0", "id": ident, "result": {"model": "forged"}}).status == 202
        assert session.post({"jsonrpc": "2.0", "id": question["id"], "error": {"code": -1, "message": "User rejected"}}).status == 202
        assert session.post({"jsonrpc": "2.0", "id": question["id"], "result": {"model": "twice"}}).status == 202
        answer = stream.until(lambda m: "result" in m)
        assert json.loads(answer["result"]["content"][0]["text"]) == {"error": {"code": -1, "message": "User rejected"}}


def test_another_session_cannot_answer(farm: Farm) -> None:
    with (
        asking(farm.at("/two"), {"sampling": {}}) as session, asking(farm.at("/two"), {"sampling": {}}) as thief,
        session.open_call("a_ask", {"method": "sampling/createMessage"}) as stream,
    ):
        question = stream.until(lambda m: m.get("method") == "sampling/createMessage")
        assert thief.answer(question, {"model": "forged"}).status == 202
        session.answer(question, {"model": "mine"})
        answer = stream.until(lambda m: "result" in m)
        assert json.loads(answer["result"]["content"][0]["text"]) == {"result": {"model": "mine"}}


def test_questions_outside_any_call(farm: Farm) -> None:
    """Sampling belongs to a call (SEP-2260); with a GET stream it may be passed on, without one it is refused."""
    with asking(farm.at("/one"), {"sampling": {}}) as session, session.listen() as stream:
        wait_until(lambda: farm.a.listeners == 1, what="the upstream GET stream")
        results: list[Any] = []
        thread = threading.Thread(target=lambda: results.extend(farm.a.ask_all("ping", {})))
        thread.start()
        stream.patience(0.3)
        try:
            ask = stream.message()
            session.answer(ask, {})
        except TimeoutError:
            pass
        thread.join(5)
        assert results[0]["result"] == {}


def test_client_progress_goes_to_who_asked(farm: Farm) -> None:
    with asking(farm.at("/two"), {"sampling": {}}) as session, session.open_call(
        "a_ask", {"method": "sampling/createMessage", "params": {"_meta": {"progressToken": "theirs"}}}
    ) as stream:
        question = stream.until(lambda m: m.get("method") == "sampling/createMessage")
        assert question["params"]["_meta"]["progressToken"] == "theirs"
        session.notify("notifications/progress", {"progressToken": "theirs", "progress": 1})
        wait_until(lambda: farm.a.requests("notifications/progress"), what="progress at the asking target")
        assert not farm.b.requests("notifications/progress")
        session.answer(question, {})
        assert stream.until(lambda m: "result" in m)


def test_modern_levels_and_capabilities_are_the_callers(farm: Farm) -> None:
    at = farm.at("/modern")
    quiet = at.modern("tools/call", {"name": "logs"})
    assert [m for m in quiet.messages if m.get("method") == "notifications/message"] == []
    loud = at.modern("tools/call", {"name": "logs"}, meta={f"{META}logLevel": "debug"})
    assert len([m for m in loud.messages if m.get("method") == "notifications/message"]) == 3
    at.modern("tools/call", {"name": "echo"}, capabilities={"sampling": {}, "x": 1})
    meta = farm.m.last("tools/call").message["params"]["_meta"]
    assert meta[f"{META}clientCapabilities"] == {"sampling": {}, "x": 1}
    assert meta[f"{META}protocolVersion"] == MODERN
