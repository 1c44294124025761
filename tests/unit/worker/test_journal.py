"""agw.worker.journal: what a successor reads is what its predecessor wrote, wherever that one was killed."""

from __future__ import annotations

import os
import random
import select
import signal
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from agw.worker.journal import Journal, make_journal

ROOT = Path(__file__).resolve().parents[3]
Make = Callable[[], int]


@pytest.fixture
def make() -> Iterator[Make]:
    made: list[int] = []

    def one() -> int:
        made.append(make_journal(0))
        return made[-1]

    yield one
    for fd in made:
        os.close(fd)


def uuid(number: int) -> bytes:
    return struct.pack(">16x")[:8] + struct.pack(">Q", number)


def test_a_successor_reads_what_was_kept(make: Make) -> None:
    fd = make()
    journal = Journal(fd)
    assert journal.load() == {}
    assert journal.put(uuid(1), b"one")
    assert journal.put(uuid(2), b"two")
    assert journal.put(uuid(1), b"one again")
    assert journal.put(uuid(3), b"")
    journal.drop(uuid(2))
    journal.drop(uuid(9))
    assert Journal(fd).load() == journal.load() == {uuid(1): b"one again", uuid(3): b""}


def test_the_last_session_takes_the_log_with_it(make: Make) -> None:
    fd = make()
    journal = Journal(fd)
    journal.put(uuid(1), b"x" * 1000)
    journal.drop(uuid(1))
    assert (len(journal), journal.live_bytes, journal.log_bytes) == (0, 0, 0)
    assert Journal(fd).load() == {}


def test_bounds_are_told_and_leave_nothing_stale(make: Make) -> None:
    fd = make()
    journal = Journal(fd, max_record=1000, max_live=5000, max_sessions=10)
    assert journal.put(uuid(1), b"fits")
    assert not journal.put(uuid(1), b"x" * 1001)
    assert Journal(fd).load() == {}, "an older state than the last would be wrong"
    kept = [i for i in range(20) if journal.put(uuid(i), b"x" * 100)]
    assert kept == list(range(10))
    assert journal.put(uuid(3), b"y" * 100), "a known session is not a new one"
    kept = [i for i in range(10) if journal.put(uuid(i), b"z" * 900)]
    assert 3 <= len(kept) < 10
    assert journal.live_bytes <= 5000
    assert Journal(fd).load() == journal.load() == {uuid(i): b"z" * 900 for i in kept}


def test_the_log_follows_what_lives_and_gives_memory_back(make: Make) -> None:
    fd = make()
    journal = Journal(fd)
    for i in range(200):
        journal.put(uuid(i), b"old" * 100)
    for i in range(20_000):
        journal.put(uuid(1000 + i % 50), b"%d" % i * 100)
        assert journal.log_bytes <= 4 * journal.live_bytes + 512 * 1024
    assert len(journal) == 250
    assert os.fstat(fd).st_blocks * 512 < 2 * 1024 * 1024
    assert os.fstat(fd).st_size > 4 * 1024 * 1024, "or this test shows nothing"
    assert Journal(fd).load() == journal.load()


@given(st.binary(max_size=200))
def test_any_octets_are_an_empty_journal(octets: bytes) -> None:
    fd = make_journal(0)
    try:
        os.pwrite(fd, octets, 0)
        journal = Journal(fd)
        assert journal.load() == {}
        assert journal.put(uuid(1), b"works")
        assert Journal(fd).load() == {uuid(1): b"works"}
    finally:
        os.close(fd)


def copy(fd: int, size: int) -> int:
    twin = make_journal(1)
    os.pwrite(twin, os.pread(fd, size, 0), 0)
    return twin


def test_a_log_cut_anywhere_is_the_log_before_that_record(make: Make) -> None:
    fd = make()
    journal = Journal(fd)
    states: list[tuple[int, dict[bytes, bytes]]] = [(os.fstat(fd).st_size, {})]
    for i in range(6):
        if i == 4:
            journal.drop(uuid(1))
        else:
            journal.put(uuid(i % 3), b"state %d" % i * (i + 1))
        states.append((os.fstat(fd).st_size, journal.load()))
    for size in range(states[0][0], states[-1][0] + 1):
        twin = copy(fd, size)
        expected = [state for at, state in states if at <= size][-1]
        successor = Journal(twin)
        assert successor.load() == expected
        successor.put(uuid(7), b"next")
        assert Journal(twin).load() == {**expected, uuid(7): b"next"}
        os.close(twin)


def test_a_torn_record_cannot_hide_a_forged_one(make: Make) -> None:
    """A state may look like a record; what is left of a torn one must never be read as such."""
    fd, forge = make(), make()
    Journal(forge).put(uuid(66), b"forged")
    forged = os.pread(forge, 4096, 4096)
    journal = Journal(fd)
    journal.put(uuid(1), b"first")
    end = os.fstat(fd).st_size
    for padding in range(64):
        os.ftruncate(fd, end)
        Journal(fd).put(uuid(2), b"p" * padding + forged * 20)
        os.ftruncate(fd, os.fstat(fd).st_size - 3)
        Journal(fd).put(uuid(3), b"short")
        assert Journal(fd).load() == {uuid(1): b"first", uuid(3): b"short"}


def test_a_flipped_bit_ends_the_log_there(make: Make) -> None:
    fd = make()
    journal = Journal(fd)
    journal.put(uuid(1), b"first")
    end = os.fstat(fd).st_size
    journal.put(uuid(2), b"second")
    for at in range(end, os.fstat(fd).st_size):
        twin = copy(fd, os.fstat(fd).st_size)
        os.pwrite(twin, bytes([os.pread(twin, 1, at)[0] ^ 1]), at)
        assert Journal(twin).load() == {uuid(1): b"first"}
        os.close(twin)


class Journals(RuleBasedStateMachine):
    """Against a dict, with small bounds, so that cleaning happens all the time; a successor may come at any moment."""

    def __init__(self) -> None:
        super().__init__()
        self.fd = make_journal(0)
        self.journal = self.fresh()
        self.model: dict[bytes, bytes] = {}

    def fresh(self) -> Journal:
        return Journal(self.fd, max_record=400, max_live=4000, max_sessions=12, slack=200)

    @rule(number=st.integers(0, 15), state=st.binary(max_size=450))
    def put(self, number: int, state: bytes) -> None:
        if self.journal.put(uuid(number), state):
            self.model[uuid(number)] = state
        else:
            self.model.pop(uuid(number), None)

    @rule(number=st.integers(0, 15), sizes=st.lists(st.integers(0, 300), max_size=40))
    def many(self, number: int, sizes: list[int]) -> None:
        for size in sizes:
            self.put(number, b"s" * size)

    @rule(number=st.integers(0, 15))
    def drop(self, number: int) -> None:
        self.journal.drop(uuid(number))
        self.model.pop(uuid(number), None)

    @rule()
    def succeed(self) -> None:
        self.journal = self.fresh()

    @invariant()
    def same(self) -> None:
        assert self.journal.load() == self.model
        assert len(self.journal) == len(self.model) <= 12
        assert self.journal.live_bytes <= 4000
        assert self.journal.log_bytes <= 4 * 4000 + 200 + 2 * 450

    def teardown(self) -> None:
        os.close(self.fd)


Journals.TestCase.settings = settings(max_examples=100, stateful_step_count=50, deadline=None)
TestJournals = Journals.TestCase

# ------------------------------------------------------------------------------------------------------ kill -9


def change(random: random.Random) -> tuple[bytes, bytes | None]:
    """The next change of a session: small states and such of many pages, drops in between."""
    number = random.randrange(40)
    if random.random() < 0.2:
        return uuid(number), None
    return uuid(number), random.randbytes(random.choice((10, 200, 5000, 60_000)))


def write_for_ever(fd: int, seed: int) -> None:
    """The victim: a change, then an octet on standard output, until it is killed."""
    journal, source = Journal(fd), random.Random(seed)
    while True:
        who, state = change(source)
        if state is None:
            journal.drop(who)
        else:
            assert journal.put(who, state)
        os.write(1, b".")


def test_killed_in_the_middle_of_writes(make: Make) -> None:
    """What was acknowledged is there; of what was not, at most the one change under way, whole."""
    totals = []
    for seed in range(25):
        fd = make()
        code = f"from tests.unit.worker.test_journal import write_for_ever; write_for_ever({fd}, {seed})"
        victim = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, pass_fds=[fd], cwd=ROOT)
        assert victim.stdout is not None
        out = victim.stdout.fileno()
        acknowledged, wanted = 0, 1 + seed * 37
        while acknowledged < wanted:
            assert select.select([out], [], [], 20)[0], "the victim does not write"
            acknowledged += len(os.read(out, 1))
        os.kill(victim.pid, signal.SIGKILL)
        victim.wait(10)
        while rest := os.read(out, 65536):
            acknowledged += len(rest)
        victim.stdout.close()
        model: dict[bytes, bytes] = {}
        source = random.Random(seed)
        possible = []
        for n in range(acknowledged + 1):
            who, state = change(source)
            if n == acknowledged:
                possible.append(dict(model))
            if state is None:
                model.pop(who, None)
            else:
                model[who] = state
        possible.append(model)
        successor = Journal(fd)
        assert successor.load() in possible, f"seed {seed} after {acknowledged} changes"
        assert successor.put(uuid(99), b"goes on")
        assert Journal(fd).load()[uuid(99)] == b"goes on"
        totals.append(acknowledged)
    assert max(totals) > 500
