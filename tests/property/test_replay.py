"""agw.mcp.replay against a model that keeps everything."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from agw.mcp.replay import OVERHEAD, EventId, ReplayBudget, ReplayStore, ReplayStream, event_id, message_frame, priming_frame, retry_frame

SECOND = 1_000_000_000


class Replays(RuleBasedStateMachine):
    """Two sessions of one worker. The model: every event ever appended, by id."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0
        self.budget = ReplayBudget(max_events=25, max_bytes=25 * OVERHEAD + 600)
        bounds = {"max_events": 16, "max_bytes": 16 * OVERHEAD + 300, "max_age_ns": 60 * SECOND, "max_streams": 4}
        self.stores = [ReplayStore(origin=f"w{i}", budget=self.budget, **bounds) for i in range(2)]
        self.running: list[ReplayStream] = []
        self.sent: dict[str, list[tuple[str, bytes, int]]] = {}
        self.given: set[str] = set()

    def stream_key(self, stream: ReplayStream) -> str:
        return stream.priming_id

    @rule(store=st.integers(0, 1))
    def open(self, store: int) -> None:
        stream = self.stores[store].open()
        assert stream.priming_id not in self.given
        self.given.add(stream.priming_id)
        self.sent[stream.priming_id] = []
        self.running.append(stream)

    @precondition(lambda self: self.running)
    @rule(data=st.data(), size=st.integers(0, 120))
    def append(self, data: st.DataObject, size: int) -> None:
        stream = data.draw(st.sampled_from(self.running))
        payload = b"%d" % len(self.given) + b"x" * size
        ident = stream.append(payload, self.now)
        assert ident not in self.given, "ids are unique"
        assert ident == stream.last_id
        self.given.add(ident)
        self.sent[stream.priming_id].append((ident, payload, self.now))

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def finish(self, data: st.DataObject) -> None:
        stream = data.draw(st.sampled_from(self.running))
        self.running.remove(stream)
        stream.finish()

    @rule(seconds=st.integers(0, 40))
    def later(self, seconds: int) -> None:
        self.now += seconds * SECOND

    @precondition(lambda self: self.given)
    @rule(data=st.data())
    def resume(self, data: st.DataObject) -> None:
        ident = data.draw(st.sampled_from(sorted(self.given)))
        parts = event_id(ident)
        assert parts is not None
        store = self.stores[int(parts.origin[1])]
        other = self.stores[1 - int(parts.origin[1])]
        assert other.resume(ident, self.now) is None, "another store's id leads nowhere"
        found = store.resume(ident, self.now)
        if found is None:
            return
        stream, replay = found
        everything = self.sent[stream.priming_id]
        wanted = everything[parts.sequence :]
        assert replay.events == [(i, d) for i, d, _ in wanted][len(wanted) - len(replay.events) :], "the end of what followed, in order"
        assert replay.complete == (len(replay.events) == len(wanted))
        assert all(at >= self.now - 60 * SECOND for _, _, at in wanted[len(wanted) - len(replay.events) :])
        assert store.resume(str(EventId(parts.origin, parts.stream, stream.last + 1)), self.now) is None, "an id of the future"

    @rule(store=st.integers(0, 1))
    def close(self, store: int) -> None:
        self.stores[store].close()
        assert (self.stores[store].events, self.stores[store].bytes) == (0, 0)

    @invariant()
    def bounds(self) -> None:
        for store in self.stores:
            kept = [e for s in store.streams.values() for e in s._kept]
            assert store.events == len(kept) <= 16
            assert store.bytes == sum(len(e.data or b"") + OVERHEAD for e in kept) <= 16 * OVERHEAD + 300
            assert len(store.streams) <= 4
            assert all(s._kept or not s.finished for s in store.streams.values())
        assert self.budget.events == sum(s.events for s in self.stores) <= 25
        assert self.budget.bytes == sum(s.bytes for s in self.stores) <= 25 * OVERHEAD + 600


Replays.TestCase.settings = settings(max_examples=150, stateful_step_count=60, deadline=None)
TestReplays = Replays.TestCase


@given(st.text(max_size=140))
def test_any_text_is_an_id_or_not(text: str) -> None:
    found = event_id(text)
    assert found is None or str(found) == text


@given(st.from_regex(r"(?a:[A-Za-z0-9_.]{0,32})", fullmatch=True), st.integers(1, 10**15 - 1), st.integers(0, 10**15 - 1))
def test_ids_there_and_back(origin: str, stream: int, sequence: int) -> None:
    ident = EventId(origin, stream, sequence)
    assert event_id(str(ident)) == ident
    assert all(0x21 <= ord(c) <= 0x7E for c in str(ident))


@pytest.mark.parametrize("text", ["", "-", "1", "1-", "-1", "0-1", "1-01", "01-1", ":1-1", "1-1 ", "1-1\n", "１-1", "a b:1-1", "1-" + "1" * 200])
def test_what_is_no_id(text: str) -> None:
    assert event_id(text) is None


def test_a_stream_that_was_pushed_out_still_counts() -> None:
    store = ReplayStore(max_streams=1)
    first = store.open()
    first.append(b"1", 0)
    store.open()
    assert first.append(b"2", 0) == "1-2"
    assert store.find("1-1") is None
    assert (store.events, store.bytes) == (0, 0)


def test_an_event_larger_than_everything_leaves_a_told_gap() -> None:
    store = ReplayStore(max_bytes=1000)
    stream = store.open()
    stream.append(b"x" * 2000, 0)
    stream.append(b"y", 0)
    replay = stream.after(0, 0)
    assert replay is not None
    assert replay.events == [("1-2", b"y")]
    assert not replay.complete
    assert stream.after(1, 0) == ([("1-2", b"y")], True)


def test_origins() -> None:
    with pytest.raises(ValueError, match="origin"):
        ReplayStore(origin="a-b")


def test_frames() -> None:
    assert message_frame("1-2", b"{}") == b"id: 1-2\nevent: message\ndata: {}\n\n"
    assert priming_frame("1-0") == b"id: 1-0\ndata: \n\n"
    assert priming_frame("1-0", 500) == b"id: 1-0\nretry: 500\ndata: \n\n"
    assert retry_frame(500) == b"retry: 500\n\n"
