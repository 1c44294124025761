"""Invariants of event streams over generated input.

- Split independence: however the octets are cut, the events, the last id and the number of dropped events are the same.
- The reader agrees with a plain reading of WHATWG HTML section 9.2 that works on the whole text.
- What `frame` writes is one event, read back exactly but for its line breaks, which become LF.
"""

from __future__ import annotations

import itertools
import re

from hypothesis import given, settings
from hypothesis import strategies as st

from agw._fast.sse import Event, EventReader, frame

PROFILE = settings(max_examples=500, deadline=None, derandomize=True, database=None)

PARTS = st.sampled_from(
    [b"data", b"event", b"id", b"retry", b"x", b":", b": ", b" ", b"\n", b"\r", b"\r\n", b"\n\n", b"\0", b"12", b"\xef\xbb\xbf", b"\xc3\xa4", b"abcdefgh"]
)
STREAMS = st.builds(lambda bom, parts: bom + b"".join(parts), st.sampled_from([b"", b"", b"\xef\xbb\xbf", b"\xef\xbb"]), st.lists(PARTS, max_size=60))
CUTS = st.lists(st.integers(0, 200), max_size=12)


def plain(stream: bytes) -> tuple[list[Event], bytes]:
    """The standard's text, line by line, over a whole stream."""
    lines = re.split(rb"\r\n|\n|\r", stream.removeprefix(b"\xef\xbb\xbf"))[:-1]
    events: list[Event] = []
    data: list[bytes] = []
    kind, ident, retry, last = b"", None, None, b""
    for line in lines:
        if line:
            name, _, value = line.partition(b":")
            value = value.removeprefix(b" ")
            if name == b"data":
                data.append(value)
            elif name == b"event":
                kind = value
            elif name == b"id" and b"\0" not in value:
                ident = value
            elif name == b"retry" and value.isdigit():
                retry = min(int(value), 2**31 - 1)
            continue
        last = last if ident is None else ident
        if data or ident is not None or retry is not None:
            events.append((kind or b"message", b"\n".join(data), ident, retry))
        data, kind, ident, retry = [], b"", None, None
    return events, last


def read(stream: bytes, cuts: list[int], limit: int) -> tuple[list[Event], bytes, int]:
    reader = EventReader(limit)
    events: list[Event] = []
    edges = sorted({0, len(stream), *(cut for cut in cuts if cut < len(stream))})
    for start, end in itertools.pairwise(edges):
        events += reader.feed(stream[start:end])
    return events, reader.last_event_id, reader.dropped


@PROFILE
@given(STREAMS, CUTS)
def test_any_split_reads_as_the_standard_says(stream: bytes, cuts: list[int]) -> None:
    events, last = plain(stream)
    assert read(stream, cuts, 1 << 20) == (events, last, 0)


@PROFILE
@given(STREAMS, CUTS, st.integers(1, 24))
def test_any_split_drops_the_same(stream: bytes, cuts: list[int], limit: int) -> None:
    whole = read(stream, [], limit)
    assert read(stream, cuts, limit) == whole
    assert read(stream, list(range(len(stream))), limit) == whole
    assert all(len(data) <= limit for _, data, _, _ in whole[0])


FIELD = st.binary(max_size=12).map(lambda b: re.sub(rb"[\r\n\0]", b"", b))


@PROFILE
@given(st.binary(max_size=60), FIELD, st.none() | FIELD, st.none() | st.integers(0, 2**31 - 1), CUTS)
def test_frames_are_read_back(data: bytes, kind: bytes, ident: bytes | None, retry: int | None, cuts: list[int]) -> None:
    octets = frame(data, kind, ident, retry)
    assert octets.endswith(b"\n\n") and b"\n\n" not in octets[:-1] and b"\r" not in octets
    # A blank behind the colon is always written, so one that belongs to the value survives.
    want = (kind or b"message", re.sub(rb"\r\n|\r", b"\n", data), ident, retry)
    assert read(octets + octets, cuts, 1 << 20)[0] == [want, want]
