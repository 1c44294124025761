"""What rules, scopes and limits do to MCP messages, through the real service: lists, calls, batches, old transports."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from tests.kits.gateway import wait_until
from tests.kits.guarded import House, guarded
from tests.peers.mcp_client import Endpoint, Session, Stream, call, initialize
from tests.peers.mcp_script import Offer
from tests.peers.mcp_server import McpServer

LISTS = {
    "resources": [{"uri": "file:///a.txt", "name": "a"}, {"uri": "ui://app", "name": "app"}],
    "resourceTemplates": [{"uriTemplate": "file:///{path}", "name": "files"}],
    "prompts": [{"name": "greet"}, {"name": "secret"}],
}
KINDS = [("tools/list", "tool", "whoami"), ("prompts/list", "prompt", "secret"), ("resources/list", "resource", "file:///a.txt"),
         ("resources/templates/list", "resource", "file:///{path}")]


@pytest.fixture
def server() -> Iterator[Callable[..., McpServer]]:
    with ExitStack() as stack:
        yield lambda name="a", **more: stack.enter_context(McpServer(Offer(name=name, tools=["echo", "whoami"], lists=dict(LISTS), **more)))


def items(result: Any) -> list[str]:
    [found] = [value for value in result.values() if isinstance(value, list)]
    return [item.get("uriTemplate") or item.get("uri") or item["name"] for item in found]


# ------------------------------------------------------------------------------------------------------ lists


@pytest.mark.parametrize("modern", [False, True])
@pytest.mark.parametrize("path", ["/one", "/two"])
@pytest.mark.parametrize(("method", "kind", "name"), KINDS)
def test_what_is_hidden_is_not_listed(server: Callable[..., McpServer], method: str, kind: str, name: str, path: str, modern: bool) -> None:
    era = {"era": "modern"} if modern else {}

    def body(house: House) -> None:
        house.rules.hidden.add(("bob", kind, name))

        def listed(who: str) -> list[str]:
            at = house.at(path, who)
            return items(at.modern(method).result if modern else Session(at).request(method).result)

        alice, bob = listed("alice"), listed("bob")
        assert len(bob) == len(alice) - (1 if path == "/one" else 2)
        assert set(bob) < set(alice)
        assert listed("alice") == alice
        assert listed("bob") == bob

    a, b = server(**era), server("b", **era)
    guarded(body, {"/one": [a], "/two": [a, b]})


def test_a_filtered_list_is_made_once_per_caller(server: Callable[..., McpServer]) -> None:
    def body(house: House) -> None:
        for path in ("/one", "/two"):
            alice = Session(house.at(path, "alice"))
            alice.names()
            before = house.rules.looked
            alice.names()
            alice.names()
            assert house.rules.looked == before + 2, "but for the question about the method"
            Session(house.at(path, "alice more")).names()
            assert house.rules.looked > before + 4, "with other scopes he is looked at anew"
        house.rules.by_name = False
        before = house.rules.looked
        Session(house.at("/two", "alice")).names()
        assert house.rules.looked > before + 4

    a, b = server(), server("b")
    guarded(body, {"/one": [a], "/two": [a, b]})


def test_filtered_lists_are_private_and_paged(server: Callable[..., McpServer]) -> None:
    def body(house: House) -> None:
        house.rules.hidden.add(("bob", "tool", "echo"))
        at = house.at("/two", "bob")
        first = at.modern("tools/list").result
        assert first["cacheScope"] == "private"
        assert items(first) == ["a_whoami"]
        second = at.modern("tools/list", {"cursor": first["nextCursor"]}).result
        assert items(second) == ["b_whoami"]
        assert "nextCursor" not in second
        stolen = house.at("/two", "eve").modern("tools/list", {"cursor": first["nextCursor"]})
        assert stolen.error["code"] == -32602
        assert house.at("/one", "bob").modern("tools/list").result["cacheScope"] == "private"

    a, b = (server(name, era="modern", ttl_ms=60_000) for name in "ab")

    async def public(x: Any) -> None:
        names = ["echo", "whoami"]
        await x.result({"tools": [{"name": name, "inputSchema": {"type": "object"}} for name in names], "ttlMs": 60_000, "cacheScope": "public"})

    a.on("tools/list", public)
    b.on("tools/list", public)
    guarded(body, {"/one": [a], "/two": [a, b]}, page_size=1)


@pytest.mark.parametrize("path", ["/one", "/two"])
def test_a_tool_loses_an_app_that_is_hidden(server: Callable[..., McpServer], path: str) -> None:
    def body(house: House) -> None:
        house.rules.hidden.add(("bob", "resource", "ui://app"))
        for who, has in (("alice", True), ("bob", False)):
            tool = next(tool for tool in Session(house.at(path, who)).all() if tool["name"].endswith("with_app"))
            assert ("ui" in tool["_meta"]) == has
            assert tool["_meta"]["kept"] == 1

    app = {"name": "with_app", "inputSchema": {"type": "object"}, "_meta": {"ui": {"resourceUri": "ui://app"}, "kept": 1}}
    a, b = server(), server("b")
    a.offer.lists["tools"] = [app]
    guarded(body, {"/one": [a], "/two": [a, b]})


def test_a_rule_set_that_breaks_shows_nothing(server: Callable[..., McpServer], caplog: pytest.LogCaptureFixture) -> None:
    def body(house: House) -> None:
        session = Session(house.at("/two", "alice"))
        house.rules.fails = True
        assert session.request("tools/list").error["code"] == -32603
        assert session.call("a_echo").error["code"] == -32603

    a, b = server(), server("b")
    guarded(body, {"/two": [a, b]})
    assert "broken" in caplog.text
    assert not a.requests("tools/call")


# ------------------------------------------------------------------------------------------------------ calls

USES: list[tuple[str, dict[str, Any], str, str]] = [
    ("tools/call", {"name": "whoami", "arguments": {"x": 1}}, "tool", "whoami"),
    ("prompts/get", {"name": "secret"}, "prompt", "secret"),
    ("resources/read", {"uri": "file:///a.txt"}, "resource", "file:///a.txt"),
    ("resources/subscribe", {"uri": "file:///a.txt"}, "resource", "file:///a.txt"),
    ("completion/complete", {"ref": {"type": "ref/prompt", "name": "secret"}, "argument": {"name": "n", "value": ""}}, "prompt", "secret"),
    ("completion/complete", {"ref": {"type": "ref/resource", "uri": "file:///a.txt"}, "argument": {"name": "n", "value": ""}}, "resource", "file:///a.txt"),
]


@pytest.mark.parametrize(("method", "params", "kind", "name"), USES)
def test_what_is_hidden_is_unknown(server: Callable[..., McpServer], method: str, params: dict[str, Any], kind: str, name: str) -> None:
    def body(house: House) -> None:
        house.rules.hidden.add(("bob", kind, name))
        alice, bob = (Session(house.at("/one", who)) for who in ("alice", "bob"))
        assert "result" in alice.request(method, params).message
        came = len(a.requests(method))
        for _ in range(2):
            refused = bob.request(method, params)
            assert refused.status == 200
            assert refused.error["code"] == (-32002 if kind == "resource" else -32602)
            assert "a rule" not in refused.body.decode()
        assert len(a.requests(method)) == came
        facts = [each for each in house.rules.judged if each.method == method][-1]
        assert (facts.kind, facts.target, facts.name) == (kind, "a", name)
        assert facts.session
        assert facts.session not in bob.id
        if method == "tools/call":
            assert json.loads(facts.arguments or b"null") == {"x": 1}
            assert refused.error["message"] == "Unknown tool: whoami"

    a = server()
    guarded(body, {"/one": [a]})


@pytest.mark.parametrize(("method", "params", "kind", "name"), [use for use in USES if use[0] != "resources/subscribe"])
def test_what_is_hidden_is_unknown_to_modern_callers(server: Callable[..., McpServer], method: str, params: dict[str, Any], kind: str, name: str) -> None:
    def body(house: House) -> None:
        house.rules.hidden.add(("bob", kind, name))
        assert house.at("/one", "alice").modern(method, params).status == 200
        refused = house.at("/one", "bob").modern(method, params)
        assert refused.status == 400
        assert refused.error["code"] == -32602

    guarded(body, {"/one": [server(era="modern")]})


def test_a_hidden_tool_says_nothing_about_its_headers(server: Callable[..., McpServer]) -> None:
    schema = {"type": "object", "properties": {"region": {"type": "string", "x-mcp-header": "Region"}}}

    def body(house: House) -> None:
        house.rules.hidden.add(("bob", "tool", "mirrored"))
        use = {"name": "a_mirrored", "arguments": {"region": "eu"}}
        assert house.at("/two", "alice").modern("tools/call", use).error["code"] == -32020
        refused = house.at("/two", "bob").modern("tools/call", use)
        assert (refused.error["code"], refused.error["message"]) == (-32602, "Unknown tool: a_mirrored")

    a, b = server(era="modern"), server("b", era="modern")
    a.offer.lists["tools"] = [{"name": "mirrored", "inputSchema": schema}]
    guarded(body, {"/two": [a, b]})


@pytest.mark.parametrize("method", ["tools/list", "logging/setLevel", "tools/call", "initialize"])
def test_a_limit_is_said_aloud(server: Callable[..., McpServer], method: str) -> None:
    params = {"logging/setLevel": {"level": "info"}, "tools/call": call("echo")}.get(method)

    def body(house: House) -> None:
        if method == "initialize":
            house.rules.limited.add(method)
            with pytest.raises(AssertionError, match="Too many requests"):
                assert Session(house.at("/one", "bob")).id, "Too many requests"
            return
        session = Session(house.at("/one", "bob"))
        house.rules.limited.add(method)
        refused = session.request(method, params)
        assert refused.status == 200, "to a legacy client another status is a broken connection"
        assert refused.headers["retry-after"] == "7"
        assert refused.error == {"code": -32029, "message": "Too many requests"}
        if method.startswith("tools"):
            modern = house.at("/one", "bob").modern(method, params)
            assert modern.status == 429
            assert modern.headers["retry-after"] == "7"
            assert modern.error["code"] == -32029

    guarded(body, {"/one": [server(era="dual")]})


# ------------------------------------------------------------------------------------------------------ scopes

STEP_UP = 'Bearer resource_metadata="https://agw.example/.well-known/oauth-protected-resource/mcp", scope="mcp write", error="insufficient_scope"'


@pytest.mark.parametrize("modern", [False, True])
def test_a_missing_scope_is_a_challenge(server: Callable[..., McpServer], modern: bool) -> None:
    def body(house: House) -> None:
        house.rules.need(whoami=["write"])

        def use(who: str, tool: str) -> Any:
            at: Endpoint = house.at("/one", who)
            return at.modern("tools/call", call(tool)) if modern else Session(at).call(tool)

        refused = use("bob mcp", "whoami")
        assert refused.status == 403
        assert refused.headers["www-authenticate"] == STEP_UP
        assert "error" in refused.message
        assert use("bob mcp write", "whoami").status == 200
        assert use("bob mcp", "echo").status == 200
        house.rules.hidden.add(("bob", "tool", "whoami"))
        assert use("bob mcp", "whoami").error["message"] == "Unknown tool: whoami", "for what is hidden there is no scope to get"

    guarded(body, {"/one": [server(era="modern" if modern else "legacy")]})


def test_a_batch_steps_up_as_a_whole_before_anything_happens(server: Callable[..., McpServer]) -> None:
    def body(house: House) -> None:
        house.rules.need(whoami=["write"], other=["more"])
        session = Session(house.at("/one", "bob mcp"), "2025-03-26")
        batch = [session.message("tools/call", call(tool)) for tool in ("echo", "whoami", "other")]
        refused = session.post(batch)
        assert refused.status == 403
        assert 'scope="mcp more write"' in refused.headers["www-authenticate"]
        assert not a.requests("tools/call")

    a = server()
    guarded(body, {"/one": [a]})


def test_rules_and_limits_in_batches(server: Callable[..., McpServer]) -> None:
    def body(house: House) -> None:
        house.rules.hidden.add(("bob", "tool", "whoami"))
        house.rules.limited.add("slow")
        session = Session(house.at("/one", "bob"), "2025-03-26")
        batch = [session.message("tools/call", call(tool)) for tool in ("echo", "whoami", "slow")]
        said = {each["id"]: each for each in session.post(batch).message}
        first, second, third = (said[each["id"]] for each in batch)
        assert "result" in first
        assert second["error"]["code"] == -32602
        assert third["error"]["code"] == -32029

    guarded(body, {"/one": [server()]})


def test_the_oldest_transport(server: Callable[..., McpServer]) -> None:
    def body(house: House) -> None:
        house.rules.need(whoami=["write"])
        house.rules.hidden.add(("bob", "tool", "gone"))
        at = house.at("/one/sse", "bob mcp")
        with Stream(at.connect("GET")) as stream:
            event = stream.event()
            assert event is not None
            where = house.at(str(event.data), "bob mcp")
            where.post(initialize("2024-11-05"))
            assert "result" in stream.message()
            refused = where.post({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": call("whoami")})
            assert refused.status == 403
            assert refused.headers["www-authenticate"] == STEP_UP
            assert where.post({"jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": call("gone")}).status == 202
            assert stream.message()["error"]["code"] == -32602
            assert house.at(where.path, "eve").post({"jsonrpc": "2.0", "id": 3, "method": "ping"}).status == 404
        wait_until(lambda: not a.sessions, what="the end of the session behind it")

    a = server()
    guarded(body, {"/one": [a]})
