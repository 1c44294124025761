"""Streams that break off and go on: our own event ids, replay of one stream only, bounded memory, priming by version."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from tests.integration.conftest import Start
from tests.integration.mcp.conftest import Farm, configuration, http_target, route
from tests.kits.gateway import wait_until
from tests.peers.mcp_client import Endpoint, Session, Stream
from tests.peers.mcp_exchange import HttpExchange
from tests.peers.mcp_script import LEGACY, Exchange
from tests.peers.mcp_server import McpServer


def in_steps(server: McpServer, steps: int = 5) -> list[int]:
    """`steps` is a tool that sends one message, the others when it is released, and then answers. Grows when it is done."""
    finished: list[int] = []

    async def work(x: Exchange) -> None:
        await x.notify("notifications/message", {"level": "info", "data": 0})
        await x.released()
        for step in range(1, steps):
            await x.notify("notifications/message", {"level": "info", "data": step})
        await x.text("done")
        finished.append(steps)

    server.on("steps", work)
    return finished


@pytest.mark.parametrize("version", LEGACY)
@pytest.mark.parametrize("path", ["/one", "/two"])
def test_priming_by_version(farm: Farm, path: str, version: str) -> None:
    """An empty event first, for those who can read it: older clients parse its data as JSON."""
    with Session(farm.at(path), version) as session:
        with session.listen() as stream:
            stream.patience(0.4)
            try:
                first = stream.event()
            except TimeoutError:
                first = None
            if version >= "2025-11-25":
                assert first is not None
                assert first.id
                assert first.data == ""
                assert first.retry is not None
            else:
                assert first is None
        with session.open_call("progress" if path == "/one" else "a_progress", {"steps": 1}) as stream:
            event = stream.event()
            assert event is not None
            assert (event.data == "") == (version >= "2025-11-25")


def test_event_ids_are_ours_and_unique(farm: Farm) -> None:
    with Session(farm.at("/polled")) as session:
        seen: list[str] = []
        for _ in range(3):
            with session.open_call("progress", {"steps": 3}) as stream:
                while (event := stream.event()) is not None:
                    if event.id is not None:
                        seen.append(event.id)
        assert len(set(seen)) == len(seen) >= 12
        assert not any(ident in "".join(farm.p.sessions[sid].events) for sid in farm.p.sessions for ident in seen)
        assert not any(ident.startswith("s") and "/" in ident for ident in seen), "the target's own"


@pytest.mark.parametrize(("path", "prefix"), [("/one", ""), ("/two", "a_"), ("/modern", "")])
def test_the_rest_of_a_stream(farm: Farm, path: str, prefix: str) -> None:
    server = farm.m if path == "/modern" else farm.a
    in_steps(server)
    with Session(farm.at(path)) as session:
        if path == "/modern":
            session.request("logging/setLevel", {"level": "debug"})
        with session.open_call(prefix + "steps", ident="call") as stream:
            assert stream.until(lambda m: m.get("method") == "notifications/message")["params"]["data"] == 0
            last = stream.last_id
        assert last
        server.release()
        with session.listen(last) as rest:
            assert rest.status == 200
            found = rest.rest()
        assert [m["params"]["data"] for m in found[:-1]] == [1, 2, 3, 4]
        assert found[-1]["id"] == "call"
        assert found[-1]["result"]["content"][0]["text"] == "done"
        with session.listen(last) as again:
            assert again.rest() == found, "what was sent once can be had again"


def test_only_the_same_stream_is_replayed(farm: Farm) -> None:
    in_steps(farm.a)
    with Session(farm.at("/one")) as session:
        with session.open_call("steps", ident="first") as stream:
            stream.until(lambda m: "method" in m)
            last = stream.last_id
        with session.open_call("progress", {"steps": 2}, ident="second") as other:
            assert other.rest()
        farm.a.release()
        with session.listen(last) as rest:
            assert [m["id"] for m in rest.rest() if "id" in m] == ["first"]


def test_the_get_stream_resumes(farm: Farm) -> None:
    with Session(farm.at("/one")) as session:
        with session.listen() as stream:
            primed = stream.event()
            assert primed is not None
            wait_until(lambda: farm.a.listeners == 1, what="the upstream GET stream")
            farm.a.tell("notifications/resources/updated", {"uri": "file:///1"})
            stream.message()
            last = stream.last_id
        for number in (2, 3):
            farm.a.tell("notifications/resources/updated", {"uri": f"file:///{number}"})
        with session.listen(last) as stream:
            assert [stream.message()["params"]["uri"] for _ in range(2)] == ["file:///2", "file:///3"]
            farm.a.tell("notifications/resources/updated", {"uri": "file:///4"})
            assert stream.message()["params"]["uri"] == "file:///4"


def test_foreign_event_ids(farm: Farm) -> None:
    with Session(farm.at("/one")) as session, Session(farm.at("/one")) as other:
        with session.open_call("progress", {"steps": 2}) as stream:
            stream.rest()
            last = stream.last_id
        assert last
        for ident in ("nonsense", "0", "9" * 500, last + "x", "s1/1", "../etc", "\xff"):
            assert session.endpoint.send("GET", None, {**session.headers, "Last-Event-ID": ident}).status == 400, ident
        assert other.endpoint.send("GET", None, {**other.headers, "Last-Event-ID": last}).status == 400
        assert session.request("ping").status == 200


def test_the_memory_is_bounded(start: Start, server: Callable[..., McpServer]) -> None:
    a = server(name="a")
    finished = in_steps(a, 50)
    gateway = start(configuration(route("/mcp", http_target("a", a.port), replayEvents=8)), workers=1)
    with Session(Endpoint(gateway.port)) as session:
        with session.open_call("steps", ident="call") as stream:
            stream.until(lambda m: "method" in m)
            last = stream.last_id
        a.release()
        wait_until(lambda: finished == [50], what="the target is done")
        answer = session.endpoint.send("GET", None, {**session.headers, "Last-Event-ID": str(last)})
        if answer.status == 200:
            assert len(answer.messages) <= 8
            assert answer.messages[-1]["result"]["content"][0]["text"] == "done"
        else:
            assert answer.status == 400


def test_a_target_that_wants_to_be_polled(farm: Farm) -> None:
    """It ends the connection of a call (2025-11-25); we come back to it, and our caller gets everything once."""
    async def polled(x: Exchange) -> None:
        assert isinstance(x, HttpExchange)
        await x.notify("notifications/message", {"level": "info", "data": "before"})
        await x.pause()
        await x.notify("notifications/message", {"level": "info", "data": "between"})
        await x.notify("notifications/message", {"level": "info", "data": "after"})
        await x.text("polled")

    farm.p.on("polled", polled)
    for version in ("2025-11-25", "2025-06-18"):
        with Session(farm.at("/polled"), version) as session:
            found: list[Any] = []
            stream = session.open_call("polled", ident="call")
            for _ in range(10):
                found += stream.rest()
                if found and "result" in found[-1]:
                    break
                assert stream.last_id, "the caller can come back"
                stream.close()
                stream = session.listen(stream.last_id)
                assert stream.status == 200
            stream.close()
            assert [m["params"]["data"] for m in found[:-1]] == ["before", "between", "after"], version
            assert found[-1]["result"]["content"][0]["text"] == "polled"
            assert found[-1]["id"] == "call"
    gets = [each for each in farm.p.seen if each.method == "GET"]
    assert all(each.values("last-event-id") for each in gets)


def test_a_broken_connection_of_a_resumable_target(farm: Farm) -> None:
    async def broken(x: Exchange) -> None:
        assert isinstance(x, HttpExchange)
        await x.notify("notifications/message", {"level": "info", "data": "before"})
        assert x.session is not None
        follower = x.session.following.pop(x.name)
        follower.writer.transport.abort()
        await x.text("survived")

    farm.p.on("broken", broken)
    with Session(farm.at("/polled")) as session:
        found: list[Any] = []
        stream: Stream = session.open_call("broken")
        while True:
            found += stream.rest()
            if found and "id" in found[-1]:
                break
            stream.close()
            stream = session.listen(stream.last_id)
            assert stream.status == 200
        stream.close()
        assert [m.get("method") for m in found] == ["notifications/message", None]
        assert found[-1]["result"]["content"][0]["text"] == "survived", found
        assert len(farm.p.requests("tools/call")) == 1, "a call is never repeated"


def test_modern_streams_have_no_ids(farm: Farm) -> None:
    for path, prefix in (("/one", ""), ("/two", "a_"), ("/modern", "")):
        with farm.at(path).modern_stream("tools/call", {"name": prefix + "progress"}, meta={"progressToken": 1}) as stream:
            events = []
            while (event := stream.event()) is not None:
                events.append(event)
            assert len(events) == 4
            assert all(event.id is None and event.data for event in events), events


def test_streams_are_written_as_proxies_like_them(farm: Farm) -> None:
    with Session(farm.at("/one")) as session:
        answers = [session.listen(), session.open_call("progress"), farm.at("/two").modern_stream("tools/call", {"name": "a_progress"})]
        for stream in answers:
            assert stream.headers["content-type"].startswith("text/event-stream")
            assert "no-cache" in stream.headers["cache-control"]
            assert "no-transform" in stream.headers["cache-control"]
            assert stream.headers["x-accel-buffering"] == "no"
            stream.close()


def test_line_ends_and_large_events(farm: Farm) -> None:
    """What a target writes over several lines, in many pieces, with any line end, arrives as one line of JSON."""
    async def odd(x: Exchange) -> None:
        assert isinstance(x, HttpExchange)
        await x.begin()
        await x.write("\ufeff: comment\r\r".encode())
        await x.write(b"event: message\rdata: {\"jsonrpc\":\"2.0\",\rdata:  \"method\":\"notifications/message\",\"params\":\rdata: {\"data\":\"\xc3")
        await x.write(b"\xa9\\n\"}}\r\n\r\nid\r\nretry: x\r\nunknown: y\r\n\r\ndata\n\n")
        await x.write(b"data: " + json.dumps({"jsonrpc": "2.0", "method": "notifications/message", "params": {"data": "x" * 300_000}}).encode() + b"\n\n")
        await x.write(b'data:{"jsonrpc":"2.0","id":' + x.raw_id + b',\ndata:"result":{"content":[]}}\n\ndata: unfinished')
        await x.end()

    farm.a.on("odd", odd)
    for path, tool in (("/one", "odd"), ("/two", "a_odd")):
        if path == "/two":
            continue
        with Session(farm.at(path)) as session, session.open_call(tool, ident="call") as stream:
            raw = stream.response.read()
            data = [line[6:] for line in raw.split(b"\n") if line.startswith(b"data: ") and len(line) > 6]
            found = [json.loads(line) for line in data]
            assert [m.get("method", m.get("id")) for m in found] == ["notifications/message", "notifications/message", "call"]
            assert found[0]["params"]["data"] == "é\n"
            assert len(found[1]["params"]["data"]) == 300_000
