"""Cancelling reaches the one target that works, and nothing further comes; batches of 2025-03-26; what a disconnect means."""

from __future__ import annotations

import json
import threading
from typing import Any

import pytest

from tests.integration.mcp.conftest import Farm
from tests.kits.gateway import wait_until
from tests.peers.mcp_client import Session, Stream, initialize, modern_request
from tests.peers.mcp_server import McpServer

PATHS = [("/one", ""), ("/two", "a_")]


def cancelled(server: McpServer) -> list[Any]:
    return [message["params"]["requestId"] for message in server.requests("notifications/cancelled")]


def under_way(server: McpServer, tool: str = "wait") -> None:
    wait_until(lambda: any(m["params"]["name"] == tool for m in server.requests("tools/call")), what=f"{tool} is under way")


# ----------------------------------------------------------------------------------------------------------------- cancel


@pytest.mark.parametrize("warm", [0, 2])
@pytest.mark.parametrize(("path", "prefix"), PATHS)
def test_a_cancelled_call(farm: Farm, path: str, prefix: str, warm: int) -> None:
    with Session(farm.at(path)) as session:
        for _ in range(warm):
            session.call(prefix + "echo")
        answers: list[Any] = []
        thread = threading.Thread(target=lambda: answers.append(session.call(prefix + "wait", ident=77)))
        thread.start()
        under_way(farm.a)
        asked = [m for m in farm.a.requests("tools/call") if m["params"]["name"] == "wait"][-1]
        assert session.notify("notifications/cancelled", {"requestId": 77, "reason": "enough"}).status == 202
        wait_until(lambda: cancelled(farm.a) == [asked["id"]], what="the target hears of it")
        assert farm.a.requests("notifications/cancelled")[0]["params"]["reason"] == "enough"
        assert not cancelled(farm.b)
        if warm == 0:
            # Nothing further: the connection of the call ends without a response, even if the target answers after all.
            thread.join(3)
            assert not thread.is_alive()
            assert answers[0].status in (200, 202, 204)
            assert answers[0].messages == []
        farm.a.release()
        thread.join(3)
        assert session.call(prefix + "echo", ident=78).status == 200


def test_a_cancelled_call_gets_no_late_response(farm: Farm) -> None:
    with Session(farm.at("/one")) as session:
        for _ in range(6):
            session.call("echo")
        answers: list[Any] = []
        thread = threading.Thread(target=lambda: answers.append(session.call("wait", ident=77)))
        thread.start()
        under_way(farm.a)
        session.notify("notifications/cancelled", {"requestId": 77})
        wait_until(lambda: cancelled(farm.a) == [77], what="the target hears of it")
        farm.a.release()
        thread.join(3)
        assert answers[0].messages == []


@pytest.mark.parametrize("params", [{"requestId": 12345}, {"requestId": "x"}, {}, {"requestId": None}, {"requestId": [1]}])
def test_cancelling_nothing(farm: Farm, params: dict[str, Any]) -> None:
    with Session(farm.at("/two")) as session:
        session.call("a_echo")
        farm.a.seen.clear()
        assert session.notify("notifications/cancelled", params).status == 202
        assert session.call("a_echo").status == 200
        if params.get("requestId") not in (12345, "x"):
            # Another worker may have a request with a valid id.
            assert not cancelled(farm.a)


def test_cancelling_another_sessions_call(farm: Farm) -> None:
    with Session(farm.at("/one")) as session, Session(farm.at("/one")) as stranger, _Later(session, "wait", "mine") as call:
        under_way(farm.a)
        stranger.notify("notifications/cancelled", {"requestId": "mine"})
        assert stranger.call("echo").status == 200
        farm.a.release()
        assert call.answer().text == "released"


class _Later:
    """A call in a thread."""

    def __init__(self, session: Session, tool: str, ident: Any) -> None:
        self.found: list[Any] = []
        self.thread = threading.Thread(target=lambda: self.found.append(session.call(tool, ident=ident)))

    def __enter__(self) -> _Later:
        self.thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.thread.join(3)

    def answer(self) -> Any:
        self.thread.join(3)
        return self.found[0]


def test_a_cancelled_stream_says_nothing_more(farm: Farm) -> None:
    with Session(farm.at("/one")) as session, session.open_call("endless", ident=9) as stream:
        assert stream.message()["method"] == "notifications/progress"
        session.notify("notifications/cancelled", {"requestId": 9})
        assert not [m for m in stream.rest() if "result" in m or "error" in m], "the stream ended without a response"


@pytest.mark.parametrize(("path", "prefix"), [("/stdio", ""), ("/pair", "s_")])
def test_a_cancelled_call_of_a_program(farm: Farm, path: str, prefix: str) -> None:
    with Session(farm.at(path)) as session, _Later(session, prefix + "hang", 5) as call:
        wait_until(lambda: session.call(prefix + "echo").status == 200)
        session.notify("notifications/cancelled", {"requestId": 5})
        answer = call.answer()
        assert answer.messages == [] or answer.error["code"] == -32603
        assert session.call(prefix + "echo").status == 200


@pytest.mark.parametrize("warm", [0, 2])
def test_a_modern_disconnect_is_the_cancel(farm: Farm, warm: int) -> None:
    """On every way to a target; a client that only closed its sending side gets a moment's grace."""
    left = []
    for path, prefix, server in (("/modern", "", farm.m), ("/mixed", "m_", farm.m), ("/dual", "", farm.d), ("/one", "", farm.a), ("/two", "b_", farm.b)):
        at = farm.at("/patient" + path)
        for _ in range(warm):
            assert at.modern("tools/call", {"name": prefix + "echo"}).status == 200
        body, fields = modern_request("tools/call", {"name": prefix + "hang"}, path, None, None, None)
        left.append(at.connect("POST", body, fields))
        under_way(server, "hang")
    wait_until(lambda: len([m for m in farm.m.requests("tools/call") if m["params"]["name"] == "hang"]) == 2, what="both are under way")
    for connection in left:
        connection.sock.close()
        connection.close()
    servers = (farm.m, farm.d, farm.a, farm.b)
    wait_until(lambda: [len(each.given_up) + len(cancelled(each)) >= 1 + (each is farm.m) for each in servers] == [True] * 4, 4, "all hear of it")


@pytest.mark.parametrize("warm", [0, 2])
@pytest.mark.parametrize(("path", "prefix"), [("/one", ""), ("/two", "a_"), ("/modern", "")])
def test_a_legacy_disconnect_is_no_cancel(farm: Farm, path: str, prefix: str, warm: int) -> None:
    server = farm.m if path == "/modern" else farm.a
    with Session(farm.at(path)) as session:
        for _ in range(warm):
            session.call(prefix + "echo")
        body = json.dumps(session.message("tools/call", {"name": prefix + "wait"})).encode()
        connection = session.endpoint.connect("POST", body, session.headers)
        under_way(server)
        connection.sock.close()
        connection.close()
        for _ in range(3):
            assert session.call(prefix + "echo").status == 200
        assert not cancelled(server)


def test_initialize_cannot_be_cancelled(farm: Farm) -> None:
    session = Session(farm.at("/one"))
    session.notify("notifications/cancelled", {"requestId": 0})
    assert session.call("echo").status == 200
    assert not [i for i in cancelled(farm.a) if i == "agw-initialize"]


# ---------------------------------------------------------------------------------------------------------------- batches


def old(farm: Farm, path: str, **options: Any) -> Session:
    return Session(farm.at(path), "2025-03-26", **options)


@pytest.mark.parametrize(("path", "prefix"), [("/one", ""), ("/two", "b_"), ("/modern", ""), ("/stdio", "")])
def test_a_batch(farm: Farm, path: str, prefix: str) -> None:
    with old(farm, path) as session:
        batch = [
            session.message("tools/call", {"name": prefix + "echo", "arguments": {"n": 1}}, "one"),
            {"jsonrpc": "2.0", "method": "notifications/whatever"},
            session.message("ping", None, 2),
            session.message("no/such", {}, 3),
            session.message("tools/list", None, "four"),
            {"jsonrpc": "2.0", "id": 99, "result": {}},
        ]
        answer = session.post(batch)
        assert answer.status == 200
        found = answer.messages[0] if isinstance(answer.messages[0], list) else answer.messages
        by_id = {json.dumps(each["id"]): each for each in found}
        assert sorted(by_id) == ['"four"', '"one"', "2", "3"]
        assert '"n"' in by_id['"one"']["result"]["content"][0]["text"]
        assert by_id["2"]["result"] == {}
        assert by_id["3"]["error"]["code"] == -32601
        assert by_id['"four"']["result"]["tools"]


def test_a_batch_of_notifications(farm: Farm) -> None:
    with old(farm, "/one") as session:
        answer = session.post([{"jsonrpc": "2.0", "method": "notifications/a"}, {"jsonrpc": "2.0", "id": 1, "result": {}}])
        assert (answer.status, answer.body) == (202, b"")


@pytest.mark.parametrize("batch", [
    b"[]", b"[1]", b"[{}]", b"[[]]", b'[{"jsonrpc":"2.0","id":null,"method":"ping"}]', json.dumps([initialize()]).encode(),
    b'[{"jsonrpc":"2.0","id":1,"method":"ping"},{"jsonrpc":"2.0","id":1.5,"method":"ping"}]',
])
def test_bad_batches(farm: Farm, batch: bytes) -> None:
    with old(farm, "/one") as session:
        farm.a.seen.clear()
        answer = session.post(batch)
        assert answer.status == 400
        assert answer.error["code"] == -32600


@pytest.mark.parametrize("version", ["2024-11-05", "2025-06-18", "2025-11-25"])
def test_batches_of_other_versions(farm: Farm, version: str) -> None:
    with Session(farm.at("/one"), version) as session:
        answer = session.post([session.message("ping")])
        assert (answer.status, answer.error["code"]) == (400, -32600)


def test_cancelling_one_of_a_batch(farm: Farm) -> None:
    with old(farm, "/one") as session:
        answers: list[Any] = []
        batch = [session.message("tools/call", {"name": "wait"}, "slow"), session.message("tools/call", {"name": "echo"}, "quick")]
        thread = threading.Thread(target=lambda: answers.append(session.post(batch)))
        thread.start()
        under_way(farm.a)
        session.notify("notifications/cancelled", {"requestId": "slow"})
        wait_until(lambda: cancelled(farm.a), what="the target hears of it")
        farm.a.release()
        thread.join(4)
        assert answers, "the batch was answered"
        found = [each for m in answers[0].messages for each in (m if isinstance(m, list) else [m])]
        assert [each["id"] for each in found] == ["quick"]


def test_two_equal_ids_in_a_batch(farm: Farm) -> None:
    with old(farm, "/one") as session:
        answer = session.post([session.message("tools/call", {"name": "echo"}, 1), session.message("tools/call", {"name": "echo"}, 1)])
        found = [each for m in answer.messages for each in (m if isinstance(m, list) else [m])]
        assert len(found) == 2
        assert sorted("error" in each for each in found) == [False, True]


def test_a_question_inside_a_batch(farm: Farm) -> None:
    session = old(farm, "/one", capabilities={"sampling": {}})
    body = json.dumps([session.message("tools/call", {"name": "ask", "arguments": {"method": "sampling/createMessage"}}, 1)]).encode()
    with Stream(session.endpoint.connect("POST", body, session.headers)) as stream:
        question = stream.until(lambda m: isinstance(m, dict) and "method" in m)
        session.answer(question, {"model": "m"})
        found = stream.message()
        assert (found[0] if isinstance(found, list) else found)["result"]["content"]
