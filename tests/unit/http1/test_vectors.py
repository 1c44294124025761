"""Every vector of tests/vectors/http1, fed whole and in all splits that could matter, gets the verdict it asks for.

Beyond the verdict of each vector this holds agw to what follows from its being incremental and pipelined: a prefix of a
valid message is never refused and never complete; what comes before or after a message changes nothing in it; requests
that were complete before a framing error are delivered first, and nothing is parsed behind it (rule 4).
"""

from __future__ import annotations

import random
from collections.abc import Iterable

import pytest

from tests.kits.http1 import ROOT, Trace, Vector, halves, judge, octets, random_cuts, run_request, vectors
from tests.vectors.http1 import generate

NEXT = b"GET /next HTTP/1.1\r\nHost: next\r\n\r\n"
SHORT = 400  # octets up to which every two-way split is tried

ALL = vectors()


def named(chosen: Iterable[Vector]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("vector", [pytest.param(vector, id=vector.name) for vector in chosen])


def pipelining(vector: Vector) -> bool:
    """A request that another may follow."""
    if not (vector.is_request and vector.is_valid) or vector.expected.get("incomplete"):
        return False
    messages = vector.run([vector.raw]).complete
    return bool(messages) and messages[-1].head.keep_alive


REQUESTS = [vector for vector in ALL if vector.is_request]
PIPELINING = [vector for vector in REQUESTS if pipelining(vector)]
VALID_WHOLE = [vector for vector in ALL if vector.is_valid and not vector.expected.get("incomplete")]


def test_the_tree_is_complete() -> None:
    """Each .http has its .json and the other way round; the floors keep a bad glob from passing."""
    for kind, floor in [
        ("request/valid", 140),
        ("request/invalid", 340),
        ("response/valid", 50),
        ("response/invalid", 80),
    ]:
        bodies, verdicts = ({path.stem for path in (ROOT / kind).glob(f"*.{suffix}")} for suffix in ("http", "json"))
        assert bodies == verdicts
        assert len(bodies) >= floor


def test_the_generator_writes_what_is_on_disk() -> None:
    """A vector edited by hand, or a generator edited without running it, is found here."""
    files = generate.build()
    assert generate.on_disk() == set(files)
    assert [name for name, content in files.items() if (ROOT / name).read_bytes() != content] == []


@named(ALL)
def test_verdict(vector: Vector) -> None:
    judge(vector, vector.run([vector.raw]))


@named(ALL)
def test_verdict_does_not_depend_on_the_split(vector: Vector) -> None:
    """The whole trace is the same, the wording of the error included."""
    raw = vector.raw
    whole = vector.run([raw])
    source = random.Random(vector.name)
    splits = [octets(raw), *(random_cuts(raw, source) for _ in range(12))]
    if len(raw) <= SHORT:
        splits += halves(raw)
    for chunks in splits:
        assert vector.run(chunks) == whole, f"split at {[len(chunk) for chunk in chunks]}"
    for chunks in (octets(raw), random_cuts(raw, source)):
        assert vector.run(chunks, lazy=True) == whole, "fed whole before the first event is taken"


@named(VALID_WHOLE)
def test_prefix_is_neither_refused_nor_complete(vector: Vector) -> None:
    """Truncation, the commonest fault, always shows as "more is needed"."""
    raw = vector.raw
    whole = vector.run([raw], eof=False) if not vector.is_request else vector.run([raw])
    end = len(raw) - len(whole.surplus)
    step = 1 if len(raw) <= SHORT else len(raw) // 97
    for size in range(0, end, step):
        trace = vector.run([raw[:size]], eof=False) if not vector.is_request else vector.run([raw[:size]])
        assert trace.error is None, f"refused after {size} octets: {trace.error}"
        assert len(trace.complete) < len(whole.complete) or not whole.complete


@named(PIPELINING)
def test_what_follows_changes_nothing(vector: Vector) -> None:
    alone = vector.run([vector.raw])
    source = random.Random(vector.name)
    for tail in (NEXT, NEXT[:20], b"\r\n" + NEXT, b"\x16\x03\x01\r\n\r\n"):
        whole = vector.raw + tail
        for chunks in ([whole], [vector.raw, tail], octets(whole), random_cuts(whole, source)):
            trace = vector.run(chunks)
            assert trace.messages[: len(alone.messages)] == alone.messages
            if tail.endswith(NEXT):
                assert trace.error is None
                assert [message.head.target for message in trace.messages[len(alone.messages) :]] == [b"/next"]
            else:
                assert len(trace.messages) == len(alone.messages)
                assert (trace.error is not None) == tail.startswith(b"\x16")


@named([vector for vector in REQUESTS if "limits" not in vector.expected])
def test_what_came_before_changes_nothing(vector: Vector) -> None:
    """Rule 4: a request already complete is delivered, then the verdict is the one the vector has alone."""
    alone = vector.run([vector.raw])
    before = run_request([NEXT], vector.limits)
    whole = NEXT + vector.raw
    for chunks in ([whole], [NEXT, vector.raw], octets(whole)):
        trace = vector.run(chunks)
        assert trace.messages == before.messages + alone.messages
        assert trace.error == alone.error


@named([vector for vector in REQUESTS if not vector.is_valid])
def test_nothing_is_parsed_after_an_error(vector: Vector) -> None:
    alone = vector.run([vector.raw])
    for chunks in ([vector.raw, NEXT], [vector.raw, b"", NEXT], [*octets(vector.raw), *octets(NEXT)]):
        assert vector.run(chunks) == alone


@named([vector for vector in VALID_WHOLE if not vector.is_request and vector.run([vector.raw], eof=False).complete])
def test_octets_after_a_response_are_surplus(vector: Vector) -> None:
    """Queue poisoning: what follows a response is surplus, never read as another one, and changes nothing in it."""
    alone = vector.run([vector.raw], eof=False)
    poison = b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison"
    for chunks in ([vector.raw + poison], [vector.raw, poison], octets(vector.raw + poison)):
        trace: Trace = vector.run(chunks, eof=False)
        assert trace.messages == alone.messages
        assert trace.surplus == alone.surplus + poison
