"""Drives any HTTP/1 framing machine over split input and writes down what it said; loads the vectors.

The rules a machine is held to while it is driven (a breach raises Breach):

- events of one message come as HEAD BODY* END, with 1xx heads before the final response head and nothing else between;
- a BODY event carries at least one octet;
- ERROR is for ever: the same error, whatever is fed afterwards;
- the number of events is bounded by the number of octets, so no driver can be made to spin.

What it said is a Trace: runs of BODY are joined, so that two traces are equal exactly if the machine promised the same
heads, body octets, ends and errors. This file knows nothing about pytest or hypothesis; tests/fuzz uses it too.
"""

from __future__ import annotations

import base64
import itertools
import json
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from agw._fast.http1 import BODY, END, ERROR, HEAD, NEED_DATA, Limits, RequestParser, ResponseParser

ROOT = Path(__file__).resolve().parents[1] / "vectors" / "http1"


class Breach(AssertionError):
    """The machine broke a rule that holds for every input."""


class RequestHead(NamedTuple):
    method: bytes
    target: bytes
    path: bytes
    host: bytes
    version: int
    headers: tuple[tuple[bytes, bytes], ...]
    keep_alive: bool
    expect_continue: bool
    upgrade: bytes
    content_length: int
    chunked: bool


class ResponseHead(NamedTuple):
    status: int
    reason: bytes
    version: int
    headers: tuple[tuple[bytes, bytes], ...]
    keep_alive: bool
    content_length: int
    chunked: bool

    @property
    def interim(self) -> bool:
        return self.status < 200 and self.status != 101


class Message(NamedTuple):
    head: Any  # RequestHead or ResponseHead
    body: bytes
    complete: bool


@dataclass
class Trace:
    """What a machine said about one stream of octets."""

    messages: list[Message] = field(default_factory=list)
    interim: list[ResponseHead] = field(default_factory=list)
    error: tuple[int, str] | None = None
    surplus: bytes = b""

    @property
    def complete(self) -> list[Message]:
        return [message for message in self.messages if message.complete]


def read_request_head(parser: RequestParser) -> RequestHead:
    return RequestHead(
        parser.method,
        parser.target,
        parser.path,
        parser.host,
        parser.version,
        tuple(parser.headers),
        parser.keep_alive,
        parser.expect_continue,
        parser.upgrade,
        parser.content_length,
        parser.chunked,
    )


def read_response_head(parser: ResponseParser) -> ResponseHead:
    return ResponseHead(
        parser.status,
        parser.reason,
        parser.version,
        tuple(parser.headers),
        parser.keep_alive,
        parser.content_length,
        parser.chunked,
    )


class _Driver:
    """Collects events into a Trace and checks their order; one per stream."""

    def __init__(self, parser: Any, read_head: Callable[[Any], Any], stop_at_close: bool) -> None:
        self.parser = parser
        self.read_head = read_head
        self.stop_at_close = stop_at_close
        self.trace = Trace()
        self.head: Any = None  # of the message being read
        self.runs: list[bytes] = []
        self.finished = False  # no more events are asked for

    def drain(self, octets: int) -> None:
        """Take every event now ready; `octets` is what was fed since the last time, to bound their number."""
        parser, trace = self.parser, self.trace
        budget = 3 * octets + 8
        while not self.finished:
            event = parser.next_event()
            if event == NEED_DATA:
                return
            budget -= 1
            if budget < 0:
                raise Breach("more events than octets")
            if event == BODY:
                if self.head is None or not parser.body:
                    raise Breach("BODY outside a message" if self.head is None else "empty BODY")
                self.runs.append(parser.body)
            elif event == HEAD:
                if self.head is not None:
                    raise Breach("HEAD inside a message")
                self.head = self.read_head(parser)
                if isinstance(self.head, ResponseHead) and self.head.interim:
                    trace.interim.append(self.head)
                    self.head = None
            elif event == END:
                if self.head is None:
                    raise Breach("END outside a message")
                trace.messages.append(Message(self.head, b"".join(self.runs), True))
                self.finished = isinstance(self.head, ResponseHead) or (self.stop_at_close and not self.head.keep_alive)
                self.head, self.runs = None, []
            elif event == ERROR:
                trace.error = tuple(parser.error)
                self.finished = True
            else:
                raise Breach(f"unknown event {event!r}")

    def finish(self) -> Trace:
        parser, trace = self.parser, self.trace
        if self.head is not None:
            trace.messages.append(Message(self.head, b"".join(self.runs), False))
        if trace.error is not None:
            parser.feed(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            if parser.next_event() != ERROR or tuple(parser.error) != trace.error:
                raise Breach("ERROR did not last")
        elif isinstance(parser, ResponseParser):
            trace.surplus = parser.surplus
            if trace.complete and parser.next_event() != NEED_DATA:
                raise Breach("an event after the end of the response")
        return trace


def run_request(chunks: Iterable[bytes], limits: Limits, *, stop_at_close: bool = False, lazy: bool = False) -> Trace:
    """The trace of a RequestParser fed `chunks`; `lazy` takes events only after the last one was fed."""
    driver = _Driver(RequestParser(limits), read_request_head, stop_at_close)
    fed = 0
    for chunk in chunks:
        driver.parser.feed(chunk)
        fed += len(chunk)
        if not lazy:
            driver.drain(fed)
    driver.drain(fed)
    return driver.finish()


def run_response(
    chunks: Iterable[bytes], limits: Limits, method: bytes = b"GET", *, eof: bool = False, lazy: bool = False
) -> Trace:
    """The trace of a ResponseParser fed `chunks`, and then the end of the stream if `eof`."""
    driver = _Driver(ResponseParser(limits, method), read_response_head, False)
    fed = 0
    for chunk in chunks:
        driver.parser.feed(chunk)
        fed += len(chunk)
        if not lazy:
            driver.drain(fed)
    driver.drain(fed)
    if eof:
        driver.parser.feed_eof()
        driver.drain(fed)
    return driver.finish()


def halves(raw: bytes) -> Iterator[list[bytes]]:
    """Every two-way split."""
    for cut in range(1, len(raw)):
        yield [raw[:cut], raw[cut:]]


def octets(raw: bytes) -> list[bytes]:
    """Byte by byte."""
    return [raw[i : i + 1] for i in range(len(raw))]


def cut(raw: bytes, places: Iterable[int]) -> list[bytes]:
    """`raw` cut at `places`; places out of range or repeated give empty chunks, which are harmless."""
    edges = [0, *sorted(min(max(place, 0), len(raw)) for place in places), len(raw)]
    return [raw[a:b] for a, b in itertools.pairwise(edges)]


def random_cuts(raw: bytes, source: random.Random, most: int = 8) -> list[bytes]:
    return cut(raw, [source.randrange(len(raw) + 1) for _ in range(source.randint(1, most))])


@dataclass(frozen=True)
class Vector:
    """One pair NAME.http, NAME.json; the fields of the JSON are described in tests/vectors/http1/generate.py."""

    name: str  # request/valid/get-minimal
    raw: bytes
    expected: dict[str, Any]

    @property
    def is_request(self) -> bool:
        return self.name.startswith("request/")

    @property
    def is_valid(self) -> bool:
        return self.name.split("/")[1] == "valid"

    @property
    def limits(self) -> Limits:
        return Limits(**self.expected.get("limits", {}))

    @property
    def request_method(self) -> bytes:
        return self.expected.get("request_method", "GET").encode()

    @property
    def eof(self) -> bool:
        return self.expected.get("eof", False)

    def run(self, chunks: Sequence[bytes], **options: Any) -> Trace:
        if self.is_request:
            return run_request(chunks, self.limits, **options)
        return run_response(chunks, self.limits, self.request_method, eof=options.pop("eof", self.eof), **options)


@cache
def vectors() -> tuple[Vector, ...]:
    """All vectors on disk, by name."""
    return tuple(
        Vector(
            str(path.relative_to(ROOT).with_suffix("")),
            path.read_bytes(),
            json.loads(path.with_suffix(".json").read_text()),
        )
        for path in sorted(ROOT.rglob("*.http"))
    )


def corpus(requests: bool) -> list[bytes]:
    """Octets to mutate: all vectors, the valid ones three times because a mutation of those reaches further."""
    chosen = [vector for vector in vectors() if vector.is_request == requests]
    return [vector.raw for vector in chosen for _ in range(3 if vector.is_valid else 1)]


def _octets_of(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("latin-1")
    if isinstance(value, list):
        return tuple(_octets_of(item) for item in value)
    return value


def _mismatches(head: Any, body: bytes | None, expected: dict[str, Any]) -> Iterator[str]:
    for name, value in expected.items():
        if name in ("body", "body_base64"):
            wanted = base64.b64decode(value) if name == "body_base64" else _octets_of(value)
            if body != wanted:
                yield f"body is {body!r}, not {wanted!r}"
        elif getattr(head, name) != _octets_of(value):
            yield f"{name} is {getattr(head, name)!r}, not {_octets_of(value)!r}"


def judge(vector: Vector, trace: Trace) -> None:
    """Raise AssertionError unless `trace` is what the vector asks for."""
    expected = vector.expected
    problems: list[str] = []
    wanted, got = expected.get("messages", []), trace.complete
    if len(wanted) != len(got):
        problems.append(f"{len(got)} complete messages, not {len(wanted)}")
    for number, (message, fields) in enumerate(zip(got, wanted, strict=False)):
        problems += [f"message {number}: {text}" for text in _mismatches(message.head, message.body, fields)]
    if "interim" in expected:
        if len(trace.interim) != len(expected["interim"]):
            problems.append(f"{len(trace.interim)} interim heads, not {len(expected['interim'])}")
        for head, fields in zip(trace.interim, expected["interim"], strict=False):
            problems += [f"interim {head.status}: {text}" for text in _mismatches(head, None, fields)]
    elif trace.interim:
        problems.append(f"{len(trace.interim)} interim heads, none expected")
    partial = [message for message in trace.messages if not message.complete]
    if vector.is_valid:
        if trace.error is not None:
            problems.append(f"refused: {trace.error}")
        if partial and not expected.get("incomplete"):
            problems.append("the last message does not end")
        if trace.surplus != _octets_of(expected.get("surplus", "")):
            problems.append(f"surplus is {trace.surplus!r}")
    else:
        at_body = expected.get("at", "head") == "body"
        if trace.error is None:
            problems.append("not refused")
        elif "status" in expected and trace.error[0] not in expected["status"]:
            problems.append(f"refused as {trace.error}, not as one of {expected['status']}")
        if bool(partial) != at_body:
            problems.append("HEAD was delivered" if partial else "refused before HEAD")
        if partial and "body" in expected and not _octets_of(expected["body"]).startswith(partial[0].body):
            problems.append(f"delivered {partial[0].body!r}, not part of {expected['body']!r}")
    assert not problems, f"{vector.name} ({expected['origin']}): " + "; ".join(problems)
