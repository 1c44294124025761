"""Hearing of changes: from targets, from the gateway itself, by GET streams and by `subscriptions/listen`."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import pytest

from tests.integration.conftest import Start
from tests.integration.mcp.conftest import Farm, configuration, http_target, route
from tests.kits.gateway import free_port, wait_until
from tests.peers.mcp_client import META, Endpoint, Session, Stream
from tests.peers.mcp_server import McpServer

TOOLS = "notifications/tools/list_changed"
UPDATED = "notifications/resources/updated"
SUBSCRIPTION = f"{META}subscriptionId"


@pytest.fixture(autouse=True)
def alone(farm: Farm) -> None:
    """What the test before listened to has ended."""
    wait_until(lambda: not farm.m.listeners, what="no listens are left")


def listen(at: Endpoint, ident: Any = "sub", **wanted: Any) -> Stream:
    return at.modern_stream("subscriptions/listen", {"notifications": wanted}, ident=ident)


def heard(stream: Stream, seconds: float = 0.5) -> list[Any]:
    return stream.messages_for(seconds)


def all_listen(*servers: McpServer, count: int = 1) -> None:
    wait_until(lambda: all(server.listeners >= count for server in servers), what="the gateway listens upstream")


# ------------------------------------------------------------------------------------------------------------ GET streams


@pytest.mark.parametrize("path", ["/one", "/two", "/modern", "/mixed", "/dual"])
def test_a_change_reaches_every_session_once(farm: Farm, path: str) -> None:
    server = {"/modern": farm.m, "/mixed": farm.m, "/dual": farm.d}.get(path, farm.a)
    sessions = [Session(farm.at(path)) for _ in range(3)]
    streams = [session.listen() for session in sessions]
    for session in sessions:
        session.names()
    all_listen(server, count=1 if server is farm.m else 3)
    server.tell(TOOLS)
    for stream in streams:
        # With several targets the sessions of a worker hear at the first news and once more behind the burst.
        found = heard(stream, 0.5)
        assert {m["method"] for m in found} == {TOOLS}
        assert len(found) <= (1 if path in ("/one", "/modern", "/dual") else 2), found
    for stream in streams:
        stream.close()
    for session in sessions:
        session.delete()


def test_a_storm_is_held_back(farm: Farm) -> None:
    with Session(farm.at("/two")) as session, session.listen() as stream:
        session.names()
        all_listen(farm.a)
        began = time.monotonic()
        for _ in range(100):
            farm.a.tell(TOOLS)
        lasted = time.monotonic() - began
        found = heard(stream, 0.8)
        assert 1 <= len(found) <= 3 + lasted / 0.2, (len(found), lasted)


def test_a_change_is_seen_in_the_list(farm: Farm) -> None:
    with Session(farm.at("/two")) as session, session.listen() as stream:
        assert "a_fresh" not in session.names()
        all_listen(farm.a)
        farm.a.offer.tools.append("fresh")
        try:
            farm.a.tell(TOOLS)
            assert stream.message()["method"] == TOOLS
            wait_until(lambda: "a_fresh" in session.names(), 3, "the new list")
            assert "result" in session.call("a_fresh").message
        finally:
            farm.a.offer.tools.remove("fresh")
            farm.a.tell(TOOLS)
        wait_until(lambda: "a_fresh" not in session.names(), 3, "the old list")


@pytest.mark.parametrize("path", ["/one", "/two", "/modern", "/mixed"])
def test_updates_of_subscribed_resources(farm: Farm, path: str) -> None:
    server, target = {"/modern": (farm.m, "m"), "/mixed": (farm.m, "m"), "/two": (farm.b, "b")}.get(path, (farm.a, "a"))
    with Session(farm.at(path)) as session, Session(farm.at(path)) as other, session.listen() as stream, other.listen() as silent:
        uris = session.names("resources/list")
        own = {"b": "file:///b.txt"}.get(target, "file:///a.txt")
        [uri] = [uri for uri in uris if uri.endswith(own.removeprefix("file://")) and (path not in ("/two", "/mixed") or target in uri)]
        assert session.request("resources/subscribe", {"uri": uri}).result in ({}, {"resultType": "complete"})
        all_listen(server)
        if server is farm.m:
            wait_until(lambda: any(own in json.dumps(m) for m in server.requests("subscriptions/listen")), what="a listen with the URI")
            wait_until(lambda: server.listeners >= 1)
        else:
            assert server.requests("resources/subscribe")[-1]["params"]["uri"] == own
            sids = list(server.sessions)
            assert sids
        server.tell(UPDATED, {"uri": own})
        note = stream.until(lambda m: m["method"] == UPDATED)
        assert note["params"]["uri"] == uri
        session.request("resources/unsubscribe", {"uri": uri})
        if server is farm.m:
            assert [m for m in heard(silent, 0.3) if m["method"] == UPDATED] == []


def test_one_get_stream_per_session(farm: Farm) -> None:
    """A newer one takes the place of the older one; a message goes to one stream only."""
    with Session(farm.at("/one")) as session, session.listen() as first:
        first.event()
        with session.listen() as second:
            second.event()
            assert first.rest() == []
            all_listen(farm.a)
            farm.a.tell(UPDATED, {"uri": "file:///x"})
            assert second.message()["method"] == UPDATED


@pytest.mark.parametrize("grown", [1, 2])
def test_a_reload_is_told_and_sessions_go_on(start: Start, server: Callable[..., McpServer], grown: int) -> None:
    a, b = server(name="a"), server(name="b")
    more = [server(name="c")] if grown == 2 else []
    names = ["c_echo"] * len(more)
    port = free_port()

    def config(*targets: McpServer) -> dict[str, Any]:
        made = configuration(route("/mcp", *(http_target(each.offer.name, each.port) for each in targets), prefixMode="always"))
        made["gateways"]["default"]["port"] = port
        return made

    gateway = start(config(a, *more), workers=1)
    at = Endpoint(port)
    with Session(at) as session, session.listen() as stream:
        assert session.names() == ["a_echo", *names]
        gateway.reload(config(a, *more, b))
        assert stream.until(lambda m: m["method"] == TOOLS)
        assert session.names() == ["a_echo", *names, "b_echo"]
        assert session.call("b_echo").status == 200
        gateway.reload(config(*more, b))
        assert stream.until(lambda m: m["method"] == TOOLS)
        assert session.names() == [*names, "b_echo"]
        assert session.call("a_echo").error["code"] == -32602
        wait_until(lambda: not a.sessions, what="the sessions with the removed target ended")


@pytest.mark.parametrize("era", ["legacy", "modern"])
def test_listens_follow_a_reload(start: Start, server: Callable[..., McpServer], era: str) -> None:
    """The new target's changes are told, the removed one's stream ends."""
    a, b, c = server(name="a", era=era), server(name="b", era=era), server(name="c", era=era)
    port = free_port()

    def config(*targets: McpServer) -> dict[str, Any]:
        made = configuration(route("/mcp", *(http_target(each.offer.name, each.port) for each in targets)))
        made["gateways"]["default"]["port"] = port
        return made

    gateway = start(config(a, b), workers=1)
    with listen(Endpoint(port), toolsListChanged=True) as stream:
        assert stream.message()["method"].endswith("acknowledged")
        all_listen(a, b)
        gateway.reload(config(b, c))
        note = stream.message()
        assert note["method"] == TOOLS
        assert note["params"]["_meta"][SUBSCRIPTION] == "sub"
        wait_until(lambda: c.listeners, 3, "the gateway listens to the new target")
        c.tell(TOOLS)
        assert stream.message()["method"] == TOOLS
        wait_until(lambda: not a.listeners, 3, "the stream to the removed target ended")


# ------------------------------------------------------------------------------------------------------------------ listen


@pytest.mark.parametrize("ident", ["sub", 7, "7", "é", 9007199254740991])
@pytest.mark.parametrize("path", ["/one", "/two", "/modern", "/mixed", "/dual"])
def test_acknowledged_and_tagged(farm: Farm, path: str, ident: Any) -> None:
    server = {"/modern": farm.m, "/mixed": farm.m, "/dual": farm.d}.get(path, farm.a)
    with listen(farm.at(path), ident, toolsListChanged=True, resourceSubscriptions=[]) as stream:
        first = stream.message()
        assert first["method"] == "notifications/subscriptions/acknowledged"
        assert first["params"]["notifications"].get("toolsListChanged") is True
        assert first["params"]["_meta"][SUBSCRIPTION] == ident
        all_listen(server)
        server.tell("notifications/prompts/list_changed", unasked=True)
        server.tell(TOOLS)
        note = stream.message()
        assert note["method"] == TOOLS, "prompts were not asked for"
        assert json.dumps(note["params"]["_meta"][SUBSCRIPTION]) == json.dumps(ident)


def test_an_acknowledgment_does_not_wait_for_the_slowest(farm: Farm) -> None:
    async def hang(x: Any) -> None:
        await x.gone()

    farm.m.on("server/discover", hang)
    began = time.monotonic()
    with listen(farm.at("/mixed"), toolsListChanged=True) as stream:
        assert stream.message()["method"].endswith("acknowledged")
        assert time.monotonic() - began < 0.9


def test_several_listens_of_equal_ids(farm: Farm) -> None:
    with listen(farm.at("/modern"), 1, toolsListChanged=True) as tools, listen(farm.at("/modern"), 1, promptsListChanged=True) as prompts:
        assert tools.message()["params"]["notifications"].get("toolsListChanged")
        assert prompts.message()["params"]["notifications"].get("promptsListChanged")
        all_listen(farm.m, count=2)
        farm.m.tell(TOOLS)
        farm.m.tell("notifications/prompts/list_changed")
        assert tools.message()["method"] == TOOLS
        assert prompts.message()["method"] == "notifications/prompts/list_changed"


def test_a_target_that_ends_its_listen_does_not_end_ours(farm: Farm) -> None:
    with listen(farm.at("/modern"), toolsListChanged=True) as stream:
        stream.message()
        all_listen(farm.m)
        farm.m.end_listens()
        assert stream.message()["method"] == TOOLS, "changes may have been missed"
        all_listen(farm.m)
        farm.m.tell(TOOLS)
        assert stream.message()["method"] == TOOLS


def test_leaving_ends_it_upstream(farm: Farm) -> None:
    with listen(farm.at("/modern"), toolsListChanged=True) as stream:
        stream.message()
        all_listen(farm.m)
        before = farm.m.listeners
    wait_until(lambda: farm.m.listeners < before, what="the upstream listen ended")


def test_a_shutdown_ends_listens_with_a_result(start: Start, server: Callable[..., McpServer]) -> None:
    m = server(name="m", era="modern")
    gateway = start(configuration(route("/mcp", http_target("m", m.port))), workers=1)
    with listen(Endpoint(gateway.port), "last", toolsListChanged=True) as stream:
        assert stream.message()["method"].endswith("acknowledged")
        gateway.stop()
        final = stream.rest()[-1]
    assert final["id"] == "last"
    assert final["result"]["resultType"] == "complete"
    assert final["result"]["_meta"][SUBSCRIPTION] == "last"


@pytest.mark.parametrize("params", [{}, {"notifications": None}, {"notifications": []}, {"notifications": {"resourceSubscriptions": "x"}}])
def test_malformed_filters(farm: Farm, params: dict[str, Any]) -> None:
    with farm.at("/two").modern_stream("subscriptions/listen", params, ident=1) as stream:
        if stream.headers["content-type"].startswith("application/json"):
            assert json.loads(stream.response.read())["error"]["code"] == -32602
        else:
            found = stream.message()
            assert found.get("error", {}).get("code") == -32602 or found["method"].endswith("acknowledged")


def test_resource_updates_by_listen(farm: Farm) -> None:
    uris = [each["uri"] for each in farm.at("/two").modern("resources/list").result["resources"]]
    [uri] = [uri for uri in uris if "b.txt" in uri]
    with listen(farm.at("/two"), resourceSubscriptions=[uri]) as stream:
        ack = stream.message()
        assert ack["params"]["notifications"]["resourceSubscriptions"] == [uri]
        assert farm.b.requests("resources/subscribe")[-1]["params"]["uri"] == "file:///b.txt"
        assert not farm.a.requests("resources/subscribe")
        farm.a.tell(UPDATED, {"uri": "file:///a.txt"})
        farm.b.tell(UPDATED, {"uri": "file:///b.txt/part"})
        note = stream.message()
        assert note["method"] == UPDATED
        assert note["params"]["uri"].endswith("file:///b.txt/part".removeprefix("file://")), note
        assert note["params"]["_meta"][SUBSCRIPTION] == "sub"
