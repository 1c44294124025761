"""Keepers that look at the body: how much of it they get and when, and that the upstream gets all of it, however it was framed.

Real sockets. Bodies come whole with the head, in pieces, in chunks, or only after 100; the keeper asks at once or later.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from agw._fast.entry import Entry
from agw.runtime.plan import HttpPlan
from tests.kits.door import NO, Door, admit, answer, behind, request
from tests.kits.plane import Plane
from tests.peers.upstream import Upstream

PAYLOAD = bytes(range(256)) * 400
CALL = b'{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":"t","arguments":{"x":"' + b"y" * 60_000 + b'"}}}'


def once(entry: Entry) -> None:
    """Let this request in; the next one is asked about again."""
    admit(entry, lasting=False)


def reading(limit: int, seen: list[tuple[bytes | None, bool]], then: Callable[[Entry], object] = once) -> Callable[[Entry], object]:
    """A keeper that reads `limit` octets and then decides."""

    def do(entry: Entry) -> None:
        def here() -> None:
            seen.append((entry.body, entry.whole))
            then(entry)

        entry.read_body(limit, here)

    return do


def chunked(payload: bytes, size: int) -> bytes:
    pieces = [payload[at : at + size] for at in range(0, len(payload), size)]
    return b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\nX-Trailer: 1\r\n\r\n"


async def send(writer: asyncio.StreamWriter, octets: bytes, pieces: int) -> None:
    """In so many parts, each on its way before the next."""
    size = len(octets) // pieces + 1
    for at in range(0, len(octets), size):
        writer.write(octets[at : at + size])
        await writer.drain()
        await asyncio.sleep(0)


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("pieces", [1, 7])
@pytest.mark.parametrize("framing", ["length", "chunked"])
@pytest.mark.parametrize("limit", [1, 1000, 102_400, 500_000])
def test_the_keeper_sees_the_body_and_the_upstream_gets_it(framing: str, pieces: int, limit: int, late: bool) -> None:
    async def body(plane: Plane, door: Door, upstream: Upstream) -> None:
        seen: list[tuple[bytes | None, bool]] = []
        ask = reading(limit, seen)
        door.keeper.do = (lambda entry: plane.loop.call_soon(ask, entry)) if late else ask
        reader, writer = await door.connect()
        if framing == "chunked":
            octets = request(method="POST", more="Transfer-Encoding: chunked\r\n") + chunked(PAYLOAD, 5000)
        else:
            octets = request(method="POST", body=PAYLOAD)
        for _ in range(2):
            await send(writer, octets, pieces)
            assert (await answer(reader))[0] == 200
        assert seen == [(PAYLOAD[:limit], limit >= len(PAYLOAD))] * 2
        assert [each.body for each in upstream.requests] == [PAYLOAD] * 2
        writer.write(request("/next") + request("/last"))
        door.keeper.do = admit
        for _ in range(2):
            assert (await answer(reader))[0] == 200
        assert [each.target for each in upstream.requests[2:]] == [b"/next", b"/last"]
        writer.close()

    behind(lambda entry: None, body)


@pytest.mark.parametrize("pieces", [1, 7])
@pytest.mark.parametrize("framing", ["length", "chunked"])
@pytest.mark.parametrize("limit", [10, 100_000])
def test_a_message_is_read_further_where_it_must_be_whole(framing: str, pieces: int, limit: int) -> None:
    async def body(plane: Plane, door: Door, upstream: Upstream) -> None:
        seen: list[tuple[bytes | None, bool]] = []
        door.keeper.do = reading(limit, seen)
        reader, writer = await door.connect()
        octets = request(method="POST", body=CALL)
        if framing == "chunked":
            octets = request(method="POST", more="Transfer-Encoding: chunked\r\n") + chunked(CALL, 5000)
        await send(writer, octets, pieces)
        assert (await answer(reader))[0] == 200
        assert seen == [(CALL[:limit], limit >= len(CALL))]
        assert upstream.requests[0].body == CALL
        assert upstream.requests[0].get(b"content-length") == [b"%d" % len(CALL)]
        writer.close()

    behind(lambda entry: None, body, kind="mcp")


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("split", [False, True])
@pytest.mark.parametrize("more", ["Content-Length: 5\r\n", "Transfer-Encoding: chunked\r\n"])
def test_a_client_that_waits_for_100_is_told_to_go_on_once(more: str, split: bool, late: bool) -> None:
    async def body(plane: Plane, door: Door, upstream: Upstream) -> None:
        seen: list[tuple[bytes | None, bool]] = []
        ask = reading(100, seen)
        door.keeper.do = (lambda entry: plane.loop.call_soon(ask, entry)) if late else ask
        reader, writer = await door.connect()
        head = request(method="POST", more=f"Expect: 100-continue\r\n{more}")
        await send(writer, head, 2 if split else 1)
        assert await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10) == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(b"hello" if "Length" in more else b"5\r\nhello\r\n0\r\n\r\n")
        assert (await answer(reader))[0] == 200
        assert seen == [(b"hello", True)] and upstream.requests[0].body == b"hello"
        writer.close()

    behind(lambda entry: None, body)


def test_who_is_refused_before_is_not_told_to_send() -> None:
    async def body(plane: Plane, door: Door, upstream: Upstream) -> None:
        reader, writer = await door.connect()
        writer.write(request(method="POST", more="Expect: 100-continue\r\nContent-Length: 5\r\n"))
        assert (await answer(reader))[0] == 401
        assert await reader.read() == b"", "and the connection ends, because the body may come or not"
        writer.close()

    behind(lambda entry: entry.refuse(NO), body)


@pytest.mark.parametrize("rest", [0, 3])
def test_a_refusal_after_looking_leaves_the_connection_in_order(rest: int) -> None:
    async def body(plane: Plane, door: Door, upstream: Upstream) -> None:
        seen: list[tuple[bytes | None, bool]] = []
        door.keeper.do = reading(4, seen, lambda entry: entry.refuse(NO))
        reader, writer = await door.connect()
        payload = b"abcdefghij"
        octets = request(method="POST", body=payload)
        writer.write(octets[: len(octets) - rest])
        assert (await answer(reader))[0] == 401
        assert seen == [(b"abcd", False)]
        door.keeper.do = admit
        writer.write(octets[len(octets) - rest :] + request("/next"))
        assert (await answer(reader))[0] == 200
        assert [each.target for each in upstream.requests] == [b"/next"]
        writer.close()

    behind(lambda entry: None, body)


def test_a_body_may_be_read_in_steps() -> None:
    async def body(plane: Plane, door: Door, upstream: Upstream) -> None:
        seen: list[tuple[bytes | None, bool]] = []
        door.keeper.do = reading(4, seen, reading(8, seen, reading(100, seen)))
        reader, writer = await door.connect()
        writer.write(request(method="POST", body=b"abcdefghij"))
        assert (await answer(reader))[0] == 200
        assert seen == [(b"abcd", False), (b"abcdefgh", False), (b"abcdefghij", True)]
        assert upstream.requests[0].body == b"abcdefghij"
        writer.close()

    behind(lambda entry: None, body)


def test_no_more_is_kept_than_the_listener_allows() -> None:
    async def body(plane: Plane, door: Door, upstream: Upstream) -> None:
        seen: list[tuple[bytes | None, bool]] = []
        door.keeper.do = reading(1_000_000, seen)
        reader, writer = await door.connect()
        writer.write(request(method="POST", body=PAYLOAD))
        assert (await answer(reader))[0] == 200
        assert seen == [(PAYLOAD[:5000], False)] and upstream.requests[0].body == PAYLOAD
        writer.close()

    behind(lambda entry: None, body, http=HttpPlan(max_buffer_bytes=5000))


@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_a_message_that_is_too_long_to_be_whole_is_413(framing: str) -> None:
    async def body(plane: Plane, door: Door, upstream: Upstream) -> None:
        door.keeper.do = reading(10, [])
        reader, writer = await door.connect()
        octets = request(method="POST", body=CALL)
        if framing == "chunked":
            octets = request(method="POST", more="Transfer-Encoding: chunked\r\n") + chunked(CALL, 5000)
        writer.write(octets)
        assert (await answer(reader))[0] == 413
        assert not upstream.requests
        writer.close()

    behind(lambda entry: None, body, kind="mcp", http=HttpPlan(max_buffer_bytes=5000))


def test_who_does_not_send_is_408_and_who_leaves_is_forgotten() -> None:
    async def body(plane: Plane, door: Door, upstream: Upstream) -> None:
        seen: list[tuple[bytes | None, bool]] = []
        door.keeper.do = reading(100, seen)
        reader, writer = await door.connect()
        writer.write(request(method="POST", body=b"abcdefghij")[:-1])
        assert (await answer(reader))[0] == 408
        _, other = await door.connect()
        other.write(request(method="POST", body=b"abcdefghij")[:-1])
        await plane.until(lambda: len(door.keeper.asked) == 2, "the question")
        other.transport.abort()
        await plane.until(lambda: not door.keeper.asked[1].open, "the leaving")
        admit(door.keeper.asked[1])
        assert not seen and not upstream.requests
        assert plane.gauge("requests_in_flight") == 0
        writer.close()

    behind(lambda entry: None, body, http=HttpPlan(progress_timeout_ns=300_000_000))


def test_a_malformed_body_is_refused_and_a_missing_one_is_empty() -> None:
    async def body(plane: Plane, door: Door, upstream: Upstream) -> None:
        seen: list[tuple[bytes | None, bool]] = []
        door.keeper.do = reading(100, seen)
        reader, writer = await door.connect()
        writer.write(request() + request(method="POST", more="Content-Length: 0\r\n"))
        assert [(await answer(reader))[0] for _ in range(2)] == [200, 200]
        assert seen == [(b"", True)] * 2
        writer.write(request(method="POST", more="Transfer-Encoding: chunked\r\n") + b"zz\r\n")
        assert (await answer(reader))[0] == 400
        assert len(seen) == 2 and len(upstream.requests) == 2
        writer.close()

    behind(lambda entry: None, body)


def test_a_keeper_that_fails_when_the_body_is_here_lets_nobody_in() -> None:
    async def body(plane: Plane, door: Door, upstream: Upstream) -> None:
        door.keeper.do = reading(100, [], lambda entry: 1 // 0)
        reader, writer = await door.connect()
        writer.write(request(method="POST", body=b"abc"))
        assert (await answer(reader))[0] == 500
        assert [type(error) for error in plane.errors] == [ZeroDivisionError] and not upstream.requests
        plane.errors.clear()
        with pytest.raises(RuntimeError, match="is decided"):
            door.keeper.asked[0].read_body(1, lambda: None)
        writer.close()

    behind(lambda entry: None, body)
