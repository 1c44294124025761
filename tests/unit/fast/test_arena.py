"""The shared mapping: what one process writes another reads, whole rows only, and the drawing fits the memory."""

from __future__ import annotations

import os
import re
import signal
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agw._fast.arena import DECISION_SHAPE, GAUGE_COUNT, MCP_BYTES, OVERFLOW_ID, SERIES_BYTES, TARGET_BYTES, TOOL_BYTES, Slot
from agw._fast.forward import REASONS
from agw._fast.methods import METHODS, RPC_METHODS
from agw._fast.outcome import OUTCOMES
from agw.shm import layout
from agw.shm.layout import Arena
from agw.shm.reader import DECISION_POLICIES, DECISION_RESULTS, DURATION_BOUNDS_S, ArenaReader, decision_name

FAST = Path(__file__).resolve().parents[3] / "agw" / "_fast"


def small_slot(series_cap: int = 64, mcp_cap: int = 16, tool_cap: int = 8, target_cap: int = 4, memory: bytearray | None = None) -> Slot:
    series = 512 + 8 * GAUGE_COUNT
    mcp = series + series_cap * SERIES_BYTES
    tools = mcp + mcp_cap * MCP_BYTES
    targets = tools + tool_cap * TOOL_BYTES
    room = bytearray(targets + target_cap * TARGET_BYTES) if memory is None else memory
    return Slot(room, 0, 0, 512, series, series_cap, mcp, mcp_cap, tools, tool_cap, targets, target_cap)


def in_child(body: Callable[[], None]) -> int:
    """Run `body` in a forked process; its pid."""
    pid = os.fork()
    if pid == 0:
        try:
            body()
        finally:
            os._exit(0)
    return pid


def enumeration(file: str, prefix: str) -> list[str]:
    """Members of the cdef enum in `file` that begin with `prefix`, in order."""
    return re.findall(rf"^    {prefix}(\w+)", (FAST / file).read_text(), re.MULTILINE)


# ----------------------------------------------------------------------------------------------------- the drawing


def test_the_names_of_the_words_follow_the_enumeration() -> None:
    words = enumeration("arena.pxd", "G_")
    assert words.pop() == "COUNT"
    # One word begins the counters of decisions.
    assert words.pop() == "DECISIONS"
    decisions = [decision_name(policy, result) for policy in DECISION_POLICIES for result in DECISION_RESULTS]
    assert list(layout.GAUGES[len(words) :]) == decisions and layout.DECISION_WORDS["jwt", "ok"] == len(words)
    assert (len(DECISION_POLICIES), len(DECISION_RESULTS)) == DECISION_SHAPE
    assert len(words) + len(decisions) == len(layout.GAUGES) == GAUGE_COUNT
    assert [name for word, name in zip(words, layout.GAUGES[: len(words)], strict=True) if word.lower() not in name] == []


def test_the_methods_follow_the_enumeration() -> None:
    assert tuple(enumeration("http1.pxd", "M_")) == METHODS


def test_numbers_fit_the_bits_of_a_key() -> None:
    assert len(METHODS) <= 16
    assert len(REASONS) <= 64
    assert len(RPC_METHODS) <= 64
    assert len(OUTCOMES) <= 31
    assert len(set(RPC_METHODS)) == len(RPC_METHODS)


def test_the_parts_of_a_slot_do_not_overlap() -> None:
    assert layout.PAGE >= 8 * 7
    assert layout.GAUGES_AT >= 8 * 6
    assert layout.GAUGES_AT + 8 * GAUGE_COUNT <= layout.SLOT_HEAD
    assert layout.SLOT_BYTES == (
        layout.SLOT_HEAD + layout.SERIES_ROWS * SERIES_BYTES + layout.MCP_ROWS * MCP_BYTES + layout.TOOL_ROWS * TOOL_BYTES
        + layout.TARGET_ROWS * TARGET_BYTES)
    assert SERIES_BYTES % 64 == MCP_BYTES % 64 == 0
    assert layout.PAGE % 64 == layout.SLOT_HEAD % 64 == layout.SLOT_BYTES % 64 == 0
    for rows in (layout.SERIES_ROWS, layout.MCP_ROWS):
        assert rows & (rows - 1) == 0


@pytest.mark.parametrize(
    "arguments",
    [(64, 63, 16), (64, 64, 15), (0, 64, 16)],
    ids=["series-not-a-power", "mcp-not-a-power", "too-small"],
)
def test_a_slot_outside_its_memory_is_refused(arguments: tuple[int, int, int]) -> None:
    room, series_cap, mcp_cap = arguments
    memory = bytearray(1024 + room * SERIES_BYTES + 16 * MCP_BYTES)
    with pytest.raises(ValueError):
        Slot(memory, 0, 0, 512, 1024, series_cap, 1024 + series_cap * SERIES_BYTES, mcp_cap, 0, 2, 0, 0)


@pytest.mark.parametrize(("tools", "targets"), [(1, 0), (1025, 0), (2, 10_000)])
def test_tables_that_do_not_fit_are_refused(tools: int, targets: int) -> None:
    with pytest.raises(ValueError):
        Slot(bytearray(1 << 20), 0, 0, 512, 1024, 64, 32768, 16, 65536, tools, 262144, targets)


def test_read_only_memory_is_refused() -> None:
    with pytest.raises(BufferError):
        Slot(bytes(1 << 20), 0, 0, 512, 1024, 64, 32768, 16, 65536, 2, 66000, 1)  # type: ignore[arg-type]


def test_words_have_64_bits_and_no_sign() -> None:
    slot = small_slot()
    slot.set(0, 2**64 - 1)
    assert slot.get(0) == 2**64 - 1
    for wrong in (-1, 2**64):
        with pytest.raises(OverflowError):
            slot.set(0, wrong)


# --------------------------------------------------------------------------------------------------------- counting

ROWS = st.tuples(
    st.sampled_from([0, 1, 2, 0xFFFFE]),
    st.sampled_from([0, 1, 0xFFFE]),
    st.integers(0, len(METHODS) - 1),
    st.sampled_from([200, 404, 503, 999]),
    st.integers(0, len(REASONS) - 1),
    st.integers(0, 100_000_000_000),
    st.integers(0, 1 << 40),
)


@settings(max_examples=150, deadline=None, derandomize=True, database=None)
@given(st.lists(ROWS, max_size=60))
def test_rows_add_up_to_what_was_observed(observed: list[tuple[int, int, int, int, int, int, int]]) -> None:
    slot = small_slot(series_cap=256)
    expected: dict[tuple[int, ...], list[int]] = {}
    for route, backend, method, status, reason, took, size in observed:
        slot.observe_request(route, backend, method, status, reason, took, size)
        row = expected.setdefault((route, backend, method, status, reason), [0] * 18)
        bucket = sum(took > bound * 1e9 for bound in DURATION_BOUNDS_S)
        for at, much in ((0, 1), (1, size), (2, took), (3 + bucket, 1)):
            row[at] += much
    found = {row[:5]: [*row[5:8], *row[8]] for row in slot.read_series()}
    assert found == expected


def test_a_duration_on_a_bound_belongs_below_it() -> None:
    for i, bound in enumerate(DURATION_BOUNDS_S):
        for took, bucket in ((round(bound * 1e9), i), (round(bound * 1e9) + 1, i + 1)):
            slot = small_slot()
            slot.observe_request(0, 0, 1, 200, 0, took, 0)
            assert slot.read_series()[0][8].index(1) == bucket


def test_a_full_table_counts_the_rest_in_one_row() -> None:
    slot = small_slot(series_cap=64, mcp_cap=16)
    for _ in range(2):
        for route in range(500):
            slot.observe_request(route, 0, 1, 200, 0, 1000, 10)
            slot.observe_mcp(route, 0, 9, 0, 0, 1000)
    rows = slot.read_series()
    assert sum(row[5] for row in rows) == 1000
    assert sum(row[6] for row in rows) == 10_000
    assert len(rows) == 64
    rest = [row for row in rows if row[0] == OVERFLOW_ID]
    assert len(rest) == 1
    assert rest[0][5] == 2 * (500 - 63)
    mcp = slot.read_mcp()
    assert sum(sum(row[7]) for row in mcp) == 1000
    assert [sum(row[7]) for row in mcp if row[1] == OVERFLOW_ID] == [2 * (500 - 15)]


def test_live_gauges_go_with_the_process_and_totals_stay() -> None:
    slot = small_slot()
    slot.set_lag(5)
    slot.add_dropped(7)
    slot.reset_live_gauges()
    gauges = dict(zip(layout.GAUGES, slot.read_gauges(), strict=True))
    assert gauges["access_log_dropped_total"] == 7
    assert gauges["loop_lag_ns"] == 0


MCP_ROWS = st.tuples(
    st.booleans(), st.sampled_from([0, 0xFFFFE]), st.sampled_from([0, 0xFFFE]), st.integers(0, len(RPC_METHODS) - 1), st.sampled_from([0, 2, 1023]),
    st.integers(0, len(OUTCOMES) - 1), st.integers(0, 100_000_000_000))


@settings(max_examples=100, deadline=None, derandomize=True, database=None)
@given(st.lists(MCP_ROWS, max_size=60))
def test_mcp_rows_add_up_to_what_was_observed(observed: list[tuple[bool, int, int, int, int, int, int]]) -> None:
    slot = small_slot(mcp_cap=256)
    expected: dict[tuple[object, ...], list[int]] = {}
    for upstream, route, backend, method, tool, outcome, took in observed:
        if upstream:
            slot.observe_upstream(backend, method, outcome, took)
        else:
            slot.observe_mcp(route, backend, method, tool, outcome, took)
        key = (True, 0, backend, method, 0, outcome) if upstream else (False, route, backend, method, tool, outcome)
        row = expected.setdefault(key, [0] * 16)
        row[0] += took
        row[1 + sum(took > bound * 1e9 for bound in DURATION_BOUNDS_S)] += 1
    assert {row[:6]: [row[6], *row[7]] for row in slot.read_mcp()} == expected


def test_names_of_tools_get_numbers_once_and_are_bounded() -> None:
    slot = small_slot(tool_cap=5)
    assert slot.find_tool(1, b"a") == 0
    assert [slot.learn_tool(1, b"a"), slot.learn_tool(2, b"a"), slot.learn_tool(1, b"a"), slot.learn_tool(1, b"b")] == [2, 3, 2, 4]
    assert slot.learn_tool(1, b"no room") == 1
    assert slot.find_tool(1, b"no room") == 1, "it will not be learned, so nobody need try"
    assert slot.find_tool(2, b"a") == 3
    assert slot.learn_tool(1, b"") == 0
    assert slot.read_tools() == {2: b"a", 3: b"a", 4: b"b"}


def test_a_name_that_is_too_long_is_one_of_the_others() -> None:
    slot = small_slot()
    assert slot.learn_tool(1, b"x" * 152) == 2
    assert slot.learn_tool(1, b"x" * 153) == 1


def test_a_successor_goes_on_with_the_names() -> None:
    memory = bytearray(1 << 20)
    first = small_slot(memory=memory)
    first.learn_tool(7, b"one")
    first.learn_tool(7, b"two")
    second = small_slot(memory=memory)
    second.recall_tools()
    assert second.find_tool(7, b"two") == 3
    assert second.learn_tool(7, b"three") == 4


def test_targets_are_written_anew_and_go_with_the_process() -> None:
    slot = small_slot(target_cap=3)
    slot.set_targets([(n, (n, 1)) for n in range(5)])
    assert [(label, numbers[:3]) for label, numbers in slot.read_targets()] == [(0, (0, 1, 0)), (1, (1, 1, 0)), (2, (2, 1, 0))]
    slot.set_targets([(9, (4,))])
    assert [(label, numbers[0]) for label, numbers in slot.read_targets()] == [(9, 4)]
    slot.reset_live_gauges()
    assert slot.read_targets() == []


def test_gauges_are_set_by_their_place() -> None:
    slot = small_slot()
    slot.set_gauge(layout.GAUGES.index("mcp_sessions"), 5)
    slot.add_gauge(layout.GAUGES.index("mcp_children_started_total"), 2)
    slot.add_gauge(layout.GAUGES.index("mcp_children_started_total"), 3)
    gauges = dict(zip(layout.GAUGES, slot.read_gauges(), strict=True))
    assert (gauges["mcp_sessions"], gauges["mcp_children_started_total"]) == (5, 5)
    slot.reset_live_gauges()
    gauges = dict(zip(layout.GAUGES, slot.read_gauges(), strict=True))
    assert (gauges["mcp_sessions"], gauges["mcp_children_started_total"]) == (0, 5)
    with pytest.raises(IndexError):
        slot.set_gauge(GAUGE_COUNT, 1)


# ---------------------------------------------------------------------------------------------------- over processes


def test_what_children_write_the_parent_reads() -> None:
    arena = Arena(3)

    def work(index: int) -> Callable[[], None]:
        def body() -> None:
            slot = arena.slot(index)
            slot.set(layout.W_PID, os.getpid())
            slot.set(layout.W_STATE, layout.READY)
            slot.set(layout.W_HEARTBEAT, time.monotonic_ns())
            for i in range(3000):
                slot.observe_request(i % 7, index, 1, 200, 0, i * 1000, 5)
                slot.observe_mcp(i % 7, index, 10, 0, 0, 2000)
            slot.add_dropped(index)

        return body

    pids = [in_child(work(i)) for i in range(2)]
    for pid in pids:
        assert os.waitpid(pid, 0)[1] == 0
    for index in range(2):
        rows = list(arena.series(index))
        assert {row.route_id for row in rows} == set(range(7))
        assert {(row.backend_id, row.method, row.status, row.reason) for row in rows} == {(index, "GET", 200, "")}
        assert sum(row.count for row in rows) == 3000
        assert sum(sum(row.buckets) for row in rows) == 3000
        assert sum(row.duration_sum_ns for row in rows) == sum(range(3000)) * 1000
        assert Counter({row.route_id: sum(row.buckets) for row in arena.mcp_series(index)}).total() == 3000
        assert {(row.method, row.resource_type) for row in arena.mcp_series(index)} == {("tools/call", "tool")}
        assert arena.gauges(index)["access_log_dropped_total"] == index
    views = arena.slots()
    assert [view.pid for view in views] == [*pids, 0]
    assert [view.state for view in views] == ["ready", "ready", "empty"]
    assert views[0].heartbeat_age_ns < 60_000_000_000
    assert not list(arena.series(2))
    assert not list(arena.mcp_series(2))


def test_a_writer_killed_anywhere_leaves_valid_rows() -> None:
    arena = Arena(1)

    def write() -> None:
        slot = arena.slot(0)
        for i in range(1_000_000_000):
            slot.observe_request(i % 5000, 0, 1, 200, 0, 1000, 1)
            slot.set(layout.W_HEARTBEAT, i)

    for _ in range(4):
        before = arena.slot(0).get(layout.W_HEARTBEAT)
        pid = in_child(write)
        deadline = time.monotonic() + 10
        while arena.slot(0).get(layout.W_HEARTBEAT) in (0, before) and time.monotonic() < deadline:
            pass
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        rows = list(arena.series(0))
        assert rows
        for row in rows:
            assert (row.backend_id, row.method, row.status) == (0, "GET", 200)
            # Each death leaves at most one request half counted.
            assert abs(row.count - sum(row.buckets)) <= 4
        # The successor goes on in the same rows.
        total = sum(row.count for row in rows)
        arena.slot(0).observe_request(0, 0, 1, 200, 0, 1000, 1)
        assert sum(row.count for row in arena.series(0)) == total + 1


def test_the_header_says_what_the_instance_does() -> None:
    arena = Arena(1)
    assert (arena.phase, arena.generation, arena.synchronized) == ("starting", 0, True)

    def supervise() -> None:
        arena.set_phase("running")
        arena.publish(3, False)

    os.waitpid(in_child(supervise), 0)
    assert (arena.phase, arena.generation, arena.synchronized) == ("running", 3, False)


def test_the_arena_is_what_readers_ask_for() -> None:
    reader: ArenaReader = Arena(1)
    assert [view.index for view in reader.slots()] == [0]
