"""Event streams: every vector of tests/vectors/sse, whole and octet by octet, and what the writer writes.

<name>.txt is the stream as it comes; <name>.json has its `events` as [type, data, id, retry], the `last_event_id` behind
them, and where it is about the bound, `max_event_bytes` and the number of events `dropped`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from agw._fast.sse import Event, EventReader, frame

ROOT = Path(__file__).resolve().parents[2] / "vectors" / "sse"
VECTORS = sorted(ROOT.glob("*.txt"))


def expected(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.with_suffix(".json").read_text())
    found["events"] = [
        (kind.encode(), data.encode(), None if ident is None else ident.encode(), retry) for kind, data, ident, retry in found["events"]
    ]
    return found


def test_there_are_vectors() -> None:
    assert len(VECTORS) > 30 and {p.stem for p in VECTORS} == {p.stem for p in ROOT.glob("*.json")}


@pytest.mark.parametrize("size", [1 << 20, 7, 3, 2, 1])
@pytest.mark.parametrize("path", VECTORS, ids=lambda p: p.stem)
def test_vectors(path: Path, size: int) -> None:
    octets, want = path.read_bytes(), expected(path)
    reader = EventReader(want.get("max_event_bytes", 1 << 20))
    events: list[Event] = []
    for start in range(0, len(octets), size):
        events += reader.feed(octets[start : start + size])
    assert events == want["events"]
    assert reader.last_event_id == want["last_event_id"].encode()
    assert reader.dropped == want.get("dropped", 0)


def test_an_event_is_there_with_its_empty_line() -> None:
    reader = EventReader(100)
    assert reader.feed(b"data: a\r") == []
    # CR ends the line at once; the LF that may follow belongs to it.
    assert reader.feed(b"\r") == [(b"message", b"a", None, None)]
    assert reader.feed(b"\ndata: b\n") == []
    assert reader.feed(b"") == []
    assert reader.feed(b"\n") == [(b"message", b"b", None, None)]


def test_an_endless_line_is_not_kept() -> None:
    reader = EventReader(1000)
    for _ in range(5000):
        assert reader.feed(b"data: " + b"x" * 1000) == []
        assert reader.feed(b":" * 1000) == []
    assert reader.dropped == 1
    assert reader.feed(b"\n\ndata: next\n\n") == [(b"message", b"next", None, None)]


def test_the_bound_is_exact() -> None:
    for size, dropped in ((94, 0), (95, 1)):
        reader = EventReader(100)
        assert len(reader.feed(b"data: " + b"x" * size + b"\n\n")) == 1 - dropped
        assert reader.dropped == dropped
    with pytest.raises(ValueError):
        EventReader(0)


@pytest.mark.parametrize(
    ("arguments", "octets"),
    [
        ({"data": b"a"}, b"event: message\ndata: a\n\n"),
        ({"data": b"a", "event": b""}, b"data: a\n\n"),
        ({"data": b"a", "event": b"endpoint", "id": b"7", "retry": 500}, b"event: endpoint\nid: 7\nretry: 500\ndata: a\n\n"),
        ({"data": b"", "event": b"", "id": b"7"}, b"id: 7\ndata: \n\n"),
        ({"data": b"a\nb\r\nc\rd\n\re"}, b"event: message\ndata: a\ndata: b\ndata: c\ndata: d\ndata: \ndata: e\n\n"),
        ({"data": b"\n"}, b"event: message\ndata: \ndata: \n\n"),
    ],
)
def test_frames(arguments: dict[str, Any], octets: bytes) -> None:
    assert frame(**arguments) == octets


@pytest.mark.parametrize("arguments", [{"event": b"a\nb"}, {"event": b"a\r"}, {"id": b"\n"}, {"id": b"\r"}, {"id": b"a\0"}, {"retry": -1}])
def test_frames_that_are_not_written(arguments: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        frame(b"x", **arguments)
