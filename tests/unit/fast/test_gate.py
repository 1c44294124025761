"""The gate on the data path: real sockets, a real upstream, a keeper that does what a test wants.

What a keeper is asked, what is remembered, that a request may wait before its body is read, and how it ends in each case.
"""

from __future__ import annotations

import pytest

from agw._fast.gate import Gate, Identity, License
from agw._fast.policy import HeaderEdits
from agw.runtime.plan import BackendRef, MatchPlan, PolicyPlan, RoutePlan
from agw.runtime.plan_security import JwtPlan, JwtProviderPlan
from tests.kits.door import NO, Door, Keeper, admit, answer, behind, request
from tests.kits.plane import Plane, run
from tests.peers.upstream import Peer, Upstream


def test_a_known_credential_asks_nobody_and_stays_here() -> None:
    async def body(plane: Plane, door: Door, upstream: Upstream) -> None:
        reader, writer = await door.connect()
        for _ in range(3):
            writer.write(request())
            assert (await answer(reader))[0] == 200
        other_reader, other = await door.connect()
        other.write(request())
        assert (await answer(other_reader))[0] == 200
        assert len(door.keeper.asked) == 1
        writer.write(request(credential="Bearer you"))
        assert (await answer(reader))[0] == 200
        assert len(door.keeper.asked) == 2
        assert all(not seen.get(b"authorization") for seen in upstream.requests)
        assert len(door.gate) == 2
        entry = door.keeper.asked[0]
        assert (entry.method, entry.path, entry.query, entry.peer, entry.secure, entry.hopped) == ("GET", b"/", None, b"127.0.0.1", False, False)
        writer.close()
        other.close()

    behind(admit, body)


def test_credentials_with_the_same_end_are_told_apart() -> None:
    """Where known ones are found by their ends, all of their octets count."""
    end = "x" * 200
    names = [f"Bearer {head}{end}" for head in ("a", "b", "ab", "")]

    async def body(plane: Plane, door: Door, upstream: Upstream) -> None:
        reader, writer = await door.connect()
        for _ in range(3):
            for name in [*names, f"Bearer {end[1:]}"]:
                writer.write(request(credential=name))
                assert (await answer(reader))[0] == 200
        assert len(door.keeper.asked) == len(door.gate) == 5
        for number, name in enumerate(names):
            identity = door.keeper.asked[number].identity
            assert identity is not None
            assert identity.key == name.encode()
        door.gate.forget_all()
        for name in names:
            writer.write(request(credential=name))
            await answer(reader)
        assert len(door.keeper.asked) == 9
        writer.write(request(credential=None))
        assert (await answer(reader))[0] == 200
        assert len(door.keeper.asked) == 10
        writer.close()

    behind(admit, body)


def test_forgetting_reaches_connections_too_and_so_does_time() -> None:
    async def body(plane: Plane, door: Door, upstream: Upstream) -> None:
        reader, writer = await door.connect()
        for expected in (1, 1):
            writer.write(request())
            await answer(reader)
            assert len(door.keeper.asked) == expected
        door.gate.forget_all()
        writer.write(request())
        await answer(reader)
        assert len(door.keeper.asked) == 2
        door.keeper.do = lambda entry: admit(entry, expires_ns=entry.now)
        door.gate.forget_all()
        for expected in (3, 4):
            writer.write(request())
            assert (await answer(reader))[0] == 200
            assert len(door.keeper.asked) == expected
        writer.close()

    behind(admit, body)


def test_what_does_not_last_is_asked_again_and_two_fields_are_two_opinions() -> None:
    async def body(plane: Plane, door: Door, upstream: Upstream) -> None:
        reader, writer = await door.connect()
        for expected in (1, 2):
            writer.write(request())
            await answer(reader)
            assert len(door.keeper.asked) == expected
        assert len(door.gate) == 0
        door.keeper.do = admit
        writer.write(request(more="Authorization: Bearer me\r\n"))
        await answer(reader)
        assert not door.keeper.asked[-1].distinct
        assert len(door.gate) == 0
        writer.close()

    behind(lambda entry: admit(entry, lasting=False), body)


@pytest.mark.parametrize("late", [False, True])
def test_a_refusal_is_an_answer_and_the_connection_goes_on(late: bool) -> None:
    async def body(plane: Plane, door: Door, upstream: Upstream) -> None:
        reader, writer = await door.connect()
        for number in range(2):
            writer.write(request(method="POST", body=b"x" * 1000))
            if late:
                await plane.until(lambda n=number: len(door.keeper.asked) == n + 1, "the question")  # type: ignore[misc]
                door.keeper.asked[-1].refuse(NO)
            status, head, text = await answer(reader)
            assert (status, text) == (401, b'{"error":{"status":401,"reason":"JwtAuth","message":"who are you"}}')
            assert b"WWW-Authenticate: Bearer\r\n" in head
        door.keeper.do = admit
        writer.write(request())
        assert (await answer(reader))[0] == 200
        assert len(upstream.requests) == 1
        writer.close()

    behind((lambda entry: None) if late else (lambda entry: entry.refuse(NO)), body)


@pytest.mark.parametrize("framing", ["none", "length", "chunked", "split"])
def test_a_request_that_waits_goes_on_with_its_body(framing: str) -> None:
    async def body(plane: Plane, door: Door, upstream: Upstream) -> None:
        reader, writer = await door.connect()
        payload = b"" if framing == "none" else b"payload" * 9000
        if framing == "chunked":
            writer.write(request(method="POST", more="Transfer-Encoding: chunked\r\n") + b"%x\r\n%b\r\n0\r\n\r\n" % (len(payload), payload))
        elif framing == "split":
            whole = request(method="POST", body=payload)
            writer.write(whole[:-20])
        else:
            writer.write(request(method="POST" if payload else "GET", body=payload) + request("/next"))
        await plane.until(lambda: door.keeper.asked, "the question")
        assert not upstream.requests, "nothing goes anywhere before the decision"
        door.keeper.do = admit
        admit(door.keeper.asked[0])
        if framing == "split":
            writer.write(whole[-20:])
        assert (await answer(reader))[0] == 200
        assert upstream.requests[0].body == payload
        if framing not in ("chunked", "split"):
            assert (await answer(reader))[0] == 200
            assert upstream.requests[1].target == b"/next"
        writer.write(request("/last"))
        assert (await answer(reader))[0] == 200
        assert upstream.requests[-1].target == b"/last"
        writer.close()

    behind(lambda entry: None, body)


def test_who_leaves_while_waiting_is_told_and_forgotten() -> None:
    async def body(plane: Plane, door: Door, upstream: Upstream) -> None:
        left: list[int] = []
        door.keeper.do = lambda entry: setattr(entry, "on_close", lambda: left.append(1))
        _, writer = await door.connect()
        writer.write(request())
        await plane.until(lambda: door.keeper.asked, "the question")
        writer.transport.abort()
        await plane.until(lambda: left, "the leaving")
        entry = door.keeper.asked[0]
        assert not entry.open
        admit(entry)
        entry.refuse(NO)
        assert left == [1]
        assert not upstream.requests
        assert plane.gauge("requests_in_flight") == 0

    behind(lambda entry: None, body)


def test_a_keeper_that_fails_lets_nobody_in() -> None:
    with Upstream(Peer.serve) as upstream:

        async def body(plane: Plane) -> None:
            door = Door(plane, upstream, lambda entry: 1 // 0)
            reader, writer = await door.connect()
            writer.write(request())
            assert (await answer(reader))[0] == 500
            assert [type(error) for error in plane.errors] == [ZeroDivisionError]
            plane.errors.clear()
            door.gate.keeper = None
            writer.write(request())
            assert (await answer(reader))[0] == 500
            assert not upstream.requests
            writer.close()
            door.close()

        run(body)


def test_an_identity_may_change_the_request() -> None:
    edits = HeaderEdits(["x-user"], [], []).derived(b"X-User: verified\r\n")

    async def body(plane: Plane, door: Door, upstream: Upstream) -> None:
        reader, writer = await door.connect()
        writer.write(request(more="X-User: claimed\r\nX-Other: 1\r\n"))
        await answer(reader)
        assert upstream.requests[0].get(b"x-user") == [b"verified"]
        assert upstream.requests[0].get(b"x-other") == [b"1"]
        writer.close()

    behind(lambda entry: admit(entry, edits=edits), body)


def test_the_same_octets_are_a_stranger_at_another_gate() -> None:
    """One connection, two routes with policies of their own: what the first one found out about a token is nothing to the second."""
    with Upstream(Peer.serve) as upstream:

        async def body(plane: Plane) -> None:
            other = PolicyPlan(jwt=JwtPlan([JwtProviderPlan("j")]))
            door = Door(plane, upstream, admit, [RoutePlan("other", "", [], [MatchPlan("prefix", "/other")], [BackendRef(0)], other)])
            second = door.gates[1]
            second.keeper = keeper = Keeper(lambda entry: entry.refuse(NO))
            reader, writer = await door.connect()
            for path, status in (("/", 200), ("/", 200), ("/other", 401), ("/", 200), ("/other", 401)):
                writer.write(request(path))
                assert (await answer(reader))[0] == status
            assert (len(door.keeper.asked), len(keeper.asked)) == (1, 2)
            assert door.gate.generation != second.generation
            # Nor does the gate that a reload puts in a gate's place know anybody, though the connection stays.
            door.acceptor.switch(door.compile([], "k"))
            door.gates[0].keeper = Keeper(lambda entry: entry.refuse(NO))
            writer.write(request("/"))
            assert (await answer(reader))[0] == 401
            assert len(upstream.requests) == 3
            writer.close()
            door.close()

        run(body)


def test_what_was_found_out_before_keys_went_away_is_not_remembered() -> None:
    async def body(plane: Plane, door: Door, upstream: Upstream) -> None:
        reader, writer = await door.connect()
        for number in (1, 2):
            writer.write(request())
            await plane.until(lambda n=number: len(door.keeper.asked) == n, "the question")  # type: ignore[misc]
            if number == 1:
                door.gate.forget_all()
            admit(door.keeper.asked[-1])
            assert (await answer(reader))[0] == 200
        assert len(door.gate) == 1, "only the second one"
        writer.close()

    behind(lambda entry: None, body)


def test_the_cache_is_bounded() -> None:
    gate = Gate(None, [b"authorization"], capacity=100)
    for number in range(1000):
        gate.remember(Identity(b"%d" % number, {}), License(), b"=%d" % number)
    assert len(gate) == 100
    found = gate.find(b"=999", 0)
    assert found is not None and found.key == b"999"
    assert gate.find(b"=0", 0) is None
    for number in range(5000):
        found.learn(b"%d" % number, License())
