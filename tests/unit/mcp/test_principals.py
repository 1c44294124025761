"""What belongs to one caller is unknown to every other: sessions, streams, states, tasks; and no credential of his goes further."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from agw.runtime.plan import PolicyPlan
from tests.kits.gateway import wait_until
from tests.kits.guarded import JUDGED, NAMED, House, guarded
from tests.peers.mcp_client import Session, call
from tests.peers.mcp_script import Offer
from tests.peers.mcp_server import McpServer

ELICIT = {"method": "elicitation/create", "params": {"message": "m", "requestedSchema": {"type": "object", "properties": {}}}}
CLIENT = {"elicitation": {}}
PING = {"jsonrpc": "2.0", "id": 7, "method": "ping"}


@pytest.fixture
def server() -> Iterator[Callable[..., McpServer]]:
    with ExitStack() as stack:
        yield lambda name="a", **more: stack.enter_context(McpServer(Offer(name=name, tools=["echo", "ask", "task"], **more)))


@pytest.mark.parametrize("policies", [JUDGED, NAMED], ids=["judged", "named"])
@pytest.mark.parametrize("other", ["eve", "", "alicf"])
def test_a_session_is_its_principals(server: Callable[..., McpServer], other: str, policies: PolicyPlan) -> None:
    def body(house: House) -> None:
        alice = Session(house.at("/one", "alice"))
        stranger = house.at("/one", other)
        assert alice.call("echo").status == 200
        for method, message in (("POST", PING), ("POST", alice.message("tools/call", call("echo"))), ("GET", None), ("DELETE", None)):
            refused = stranger.send(method, message, alice.headers)
            assert refused.status == 404
            assert refused.error["message"] == "Session not found"
        with alice.listen() as stream:
            assert stream.status == 200
        assert alice.call("echo").status == 200, "a stranger's DELETE ended nothing"
        fresh = house.at("/one", "alice more scopes")
        assert fresh.post(PING, alice.headers).status == 200, "another token of the same principal is the same principal"

    guarded(body, {"/one": [server()]}, policies)


def test_nobodys_session_is_not_for_somebody(server: Callable[..., McpServer]) -> None:
    def body(house: House) -> None:
        nobody = Session(house.at("/one"))
        assert nobody.call("echo").status == 200
        assert house.at("/one", "eve").post(PING, nobody.headers).status == 404

    guarded(body, {"/one": [server()]})


def test_a_relayed_call_is_its_principals_too(server: Callable[..., McpServer]) -> None:
    def body(house: House) -> None:
        alice = Session(house.at("/one", "alice"))
        for number in range(5):
            assert alice.call("echo", {"n": number}).status == 200
        came = len(a.requests("tools/call"))
        for _ in range(3):
            assert house.at("/one", "eve").post(alice.message("tools/call", call("echo")), alice.headers).status == 404
        assert len(a.requests("tools/call")) == came

    a = server()
    guarded(body, {"/one": [a]}, NAMED)


def test_event_ids_are_the_sessions_own(server: Callable[..., McpServer]) -> None:
    def body(house: House) -> None:
        alice, eve = (Session(house.at("/one", who)) for who in ("alice", "eve"))
        with alice.open_call("progress", meta={"progressToken": "t"}) as stream:
            stream.rest()
            last = stream.last_id
        assert last is not None
        with eve.listen(last) as stolen:
            assert stolen.status == 400
        with alice.listen(last) as own:
            assert own.status == 200
        assert house.at("/one", "eve").send("GET", None, {**alice.headers, "Last-Event-ID": last}).status == 404

    guarded(body, {"/one": [server(prime=True)]})


@pytest.mark.parametrize("policies", [JUDGED, NAMED], ids=["judged", "named"])
@pytest.mark.parametrize(("era", "path"), [("modern", "/one"), ("modern", "/two"), ("legacy", "/one"), ("legacy", "/two")])
def test_a_request_state_is_its_callers(server: Callable[..., McpServer], era: str, path: str, policies: PolicyPlan) -> None:
    def body(house: House) -> None:
        tool = "ask" if path == "/one" else "a_ask"
        house.at(path, "alice").modern("tools/list")
        for _ in range(3):
            assert house.at(path, "alice").modern("tools/call", call(tool.replace("ask", "echo"))).status == 200

        def begin(who: str) -> Any:
            asked = house.at(path, who).modern("tools/call", call(tool, ELICIT), capabilities=CLIENT).result
            assert asked["resultType"] == "input_required"
            return asked

        def go_on(who: str, asked: Any) -> Any:
            answers = {name: {"action": "decline"} for name in asked["inputRequests"]}
            params = {**call(tool, ELICIT), "requestState": asked["requestState"], "inputResponses": answers}
            return house.at(path, who).modern("tools/call", params, capabilities=CLIENT)

        asked = begin("alice")
        assert "state of" not in asked["requestState"]
        came = len(a.requests("tools/call"))
        refused = go_on("eve", asked)
        assert (refused.status, refused.error["code"]) == (400, -32602)
        assert go_on("alice", {**asked, "requestState": "made up"}).status == 400
        assert len(a.requests("tools/call")) == came
        done = go_on("alice", asked)
        assert "decline" in done.text
        if era == "modern":
            assert json.loads(done.text)["state"] == "state of a", "the target gets its own state back"

    a, b = server(era=era), server("b", era=era)
    guarded(body, {"/one": [a], "/two": [a, b]}, policies)


@pytest.mark.parametrize("policies", [JUDGED, NAMED], ids=["judged", "named"])
@pytest.mark.parametrize("path", ["/one", "/two"])
def test_a_task_is_its_callers(server: Callable[..., McpServer], path: str, policies: PolicyPlan) -> None:
    def body(house: House) -> None:
        tool = "task" if path == "/one" else "a_task"
        alice, again, eve = (Session(house.at(path, who)) for who in ("alice", "alice", "eve"))
        for _ in range(3):
            alice.request("tools/call", {**call(tool), "task": {}})
        made = alice.request("tools/call", {**call(tool), "task": {}}).result["task"]["taskId"]
        assert made != "t-1"
        assert "t-1" in made, "it is signed, not hidden"
        for session in (alice, again):
            assert session.request("tasks/get", {"taskId": made}).result["taskId"] == made, "it is the same wherever it stands"
        assert [task["taskId"] for task in alice.request("tasks/list").result["tasks"]] == [made] * (1 if path == "/one" else 2 - 1)
        came = len(a.requests("tasks/get"))
        for method in ("tasks/get", "tasks/result", "tasks/cancel"):
            for ident in (made, "t-1", made[:-1] + "_", made.rpartition(".")[0] + "."):
                assert eve.request(method, {"taskId": ident}).error == {"code": -32602, "message": "Unknown task"}
        assert len(a.requests("tasks/get")) == came
        assert a.requests("tasks/get")[-1]["params"]["taskId"] == "t-1"
        if policies is NAMED:
            return
        house.rules.hidden.add(("alice", "task", "t-1"))
        assert alice.request("tasks/get", {"taskId": made}).error["message"] == "Unknown task"
        assert alice.request("tasks/list").result["tasks"] == []

    capabilities = {"tools": {}, "tasks": {"list": {}, "cancel": {}, "requests": {"tools": {"call": {}}}}}
    a, b = server(capabilities=capabilities), server("b", capabilities={"tools": {}})
    task = {"taskId": "t-1", "status": "working"}
    a.offer.answers.update({"task": {"task": task}, "tasks/get": task, "tasks/list": {"tasks": [task]}, "tasks/result": {"content": []}, "tasks/cancel": task})
    guarded(body, {"/one": [a], "/two": [a, b]}, policies)


def test_without_principals_task_ids_stay_as_they_are(server: Callable[..., McpServer]) -> None:
    def body(house: House) -> None:
        assert Session(house.at("/one")).request("tools/call", {**call("task"), "task": {}}).result["task"]["taskId"] == "t-1"

    a = server()
    a.offer.answers["task"] = {"task": {"taskId": "t-1", "status": "working"}}
    guarded(body, {"/one": [a]})


def test_stateless_callers_share_nothing(server: Callable[..., McpServer]) -> None:
    def body(house: House) -> None:
        for who in ("alice", "eve"):
            for _ in range(3):
                house.at("/one", who).post({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": call("echo")})
        sessions = [dict(seen.headers).get("mcp-session-id") for seen in a.seen if seen.message and seen.message.get("method") == "tools/call"]
        assert len(sessions) == 6
        assert len(set(sessions)) == 2

    a = server()
    guarded(body, {"/one": [a]}, stateful=False)


@pytest.mark.parametrize("policies", [JUDGED, NAMED], ids=["judged", "named"])
@pytest.mark.parametrize("path", ["/one", "/two"])
@pytest.mark.parametrize("era", ["legacy", "modern"])
def test_the_callers_token_goes_nowhere(server: Callable[..., McpServer], path: str, era: str, policies: PolicyPlan) -> None:
    def body(house: House) -> None:
        tool = "echo" if path == "/one" else "a_echo"
        at = house.at(path, "alice")
        if era == "legacy":
            session = Session(at)
            session.names()
            assert [session.call(tool).status for _ in range(3)] == [200] * 3
        else:
            at.modern("tools/list")
            assert [at.modern("tools/call", call(tool)).status for _ in range(3)] == [200] * 3
        assert a.seen
        assert not [seen for seen in a.seen if "authorization" in dict(seen.headers)]

    a, b = server(era=era), server("b", era=era)
    guarded(body, {"/one": [a], "/two": [a, b]}, policies)


# ------------------------------------------------------------------------------------------------------ a target's 401


@pytest.mark.parametrize("with_body", [False, True])
@pytest.mark.parametrize("path", ["/one", "/two"])
@pytest.mark.parametrize("era", ["legacy", "modern"])
def test_a_target_that_wants_other_credentials(server: Callable[..., McpServer], era: str, path: str, with_body: bool) -> None:
    def body(house: House) -> None:
        at = house.at(path, "alice")
        session = Session(at) if era == "legacy" else None
        if session is None:
            at.modern("tools/list")

        async def refuse(x: Any) -> bool:
            if not isinstance(x.message, dict) or x.message.get("method") not in ("tools/call", "tools/list"):
                return False
            error = {"jsonrpc": "2.0", "id": x.message["id"], "error": {"code": -32001, "message": "go to evil.example"}}
            await x.reply(401, {"WWW-Authenticate": 'Bearer resource_metadata="https://evil.example"', "Content-Type": "application/json"},
                          json.dumps(error).encode() if with_body else b"")
            return True

        a.take = refuse
        tool = "echo" if path == "/one" else "a_echo"
        for method, params in (("tools/call", call(tool)), ("tools/list", None)):
            if method == "tools/list" and path == "/two":
                continue
            refused = session.request(method, params) if session is not None else at.modern(method, params)
            assert refused.status == (200 if era == "legacy" else 502)
            assert "www-authenticate" not in refused.headers
            assert b"evil" not in refused.body
            assert refused.error["data"] == {"target": "a", "reason": "reauthorization_required"}
        wait_until(lambda: a.seen, what="requests")

    a, b = server(era=era), server("b", era=era)
    guarded(body, {"/one": [a], "/two": [a, b]})


def test_lists_are_never_empty_because_of_a_401(server: Callable[..., McpServer]) -> None:
    def body(house: House) -> None:
        sessions = {path: Session(house.at(path, "alice")) for path in ("/two", "/one")}

        async def refuse(x: Any) -> bool:
            if isinstance(x.message, dict) and x.message.get("method") == "tools/list":
                await x.reply(401)
                return True
            return False

        a.take = b.take = refuse
        for session in sessions.values():
            assert session.request("tools/list").error["data"]["reason"] == "reauthorization_required"

    a, b = server(), server("b")
    guarded(body, {"/one": [a], "/two": [a, b]}, fail_open=True)
