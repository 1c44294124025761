"""Whatever the framing, the pieces it comes in, and how much a keeper looks at and when: the upstream gets the bodies, in order, as they were sent."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import NamedTuple

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agw._fast.entry import Entry
from agw.runtime.plan import HttpPlan
from tests.kits.door import Door, admit, answer, behind, request
from tests.kits.plane import Plane
from tests.peers.upstream import Upstream

BOUND = 50_000
"""`maxBufferSize` here."""


class Sent(NamedTuple):
    """One request, and what its keeper does."""

    size: int
    chunk: int
    """Octets per chunk; 0: Content-Length."""
    limits: list[int]
    """What is read before it is let in, one after the other."""
    late: bool


requests = st.lists(
    st.builds(
        Sent,
        size=st.one_of(st.integers(0, 40), st.integers(0, 200_000)),
        chunk=st.one_of(st.just(0), st.integers(1, 300), st.integers(300, 90_000)),
        limits=st.lists(st.one_of(st.integers(1, 50), st.integers(1, 300_000)), max_size=3),
        late=st.booleans(),
    ),
    min_size=1,
    max_size=4,
)


def payload_of(sent: Sent, number: int) -> bytes:
    return (b"%d:" % number * (sent.size // 2 + 1))[: sent.size]


def octets_of(sent: Sent, number: int) -> bytes:
    payload = payload_of(sent, number)
    if not sent.chunk:
        return request(f"/{number}", method="POST", body=payload, more="" if payload else "Content-Length: 0\r\n")
    # At most a thousand chunks, so that an example stays small.
    size = max(sent.chunk, sent.size // 1000 + 1)
    pieces = [payload[at : at + size] for at in range(0, len(payload), size)]
    head = request(f"/{number}", method="POST", more="Transfer-Encoding: chunked\r\n")
    return head + b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(requests, st.lists(st.integers(1, 70_000), min_size=1, max_size=6))
def test_bodies_arrive_as_they_were_sent(sent: list[Sent], cuts: list[int]) -> None:
    async def body(plane: Plane, door: Door, upstream: Upstream) -> None:
        looked: list[tuple[int, int, bytes, bool]] = []

        def step(entry: Entry, number: int, limits: list[int]) -> None:
            if not limits:
                admit(entry, lasting=False)
                return

            def here() -> None:
                assert entry.body is not None
                looked.append((number, limits[0], entry.body, entry.whole))
                soon(lambda: step(entry, number, limits[1:]), number)

            entry.read_body(limits[0], here)

        def soon(work: Callable[[], None], number: int) -> None:
            if sent[number].late:
                plane.loop.call_soon(work)
            else:
                work()

        def ask(entry: Entry) -> None:
            number = int(entry.path[1:])
            soon(lambda: step(entry, number, sent[number].limits), number)

        door.keeper.do = ask
        reader, writer = await door.connect()
        octets = b"".join(octets_of(each, number) for number, each in enumerate(sent))
        at = turn = 0
        while at < len(octets):
            size = max(cuts[turn % len(cuts)], len(octets) // 300)
            writer.write(octets[at : at + size])
            at += size
            turn += 1
            await asyncio.sleep(0)
        for _ in sent:
            assert (await answer(reader))[0] == 200
        assert [each.body for each in upstream.requests] == [payload_of(each, number) for number, each in enumerate(sent)]
        assert [each.target for each in upstream.requests] == [b"/%d" % number for number in range(len(sent))]
        assert len(looked) == sum(len(each.limits) for each in sent)
        for number, limit, part, whole in looked:
            payload = payload_of(sent[number], number)
            assert part == payload[: min(limit, BOUND)]
            assert not whole or part == payload
            assert whole or len(part) == min(limit, BOUND)
        writer.close()

    behind(lambda entry: None, body, http=HttpPlan(max_buffer_bytes=BOUND))
