"""The access log's thread: whole lines in order, rotation, pipes, and lines that cannot be written are counted."""

from __future__ import annotations

import itertools
import os
import select
import threading
import time
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from agw.shm import layout
from agw.shm.layout import Arena
from agw.worker.logwriter import MAX_BUFFERS, LogWriter, pieces

LINES = st.lists(st.integers(0, 60).map(lambda n: b"x" * n + b"\n"), max_size=20).map(b"".join)


@settings(max_examples=400, deadline=None, derandomize=True, database=None)
@given(LINES, st.integers(1, 50))
def test_pieces_are_runs_of_whole_lines(data: bytes, limit: int) -> None:
    found = pieces(data, limit)
    assert b"".join(found) == data
    for piece in found:
        assert piece.endswith(b"\n")
        assert len(piece) <= limit or piece.count(b"\n") == 1
    # As few as possible: a piece and the next line do not fit together.
    for piece, following in itertools.pairwise(found):
        assert len(piece) + following.index(b"\n") + 1 > limit


def dropped(arena: Arena) -> int:
    return arena.gauges(0)["access_log_dropped_total"]


def batch(number: int, lines: int = 20) -> bytes:
    return b"".join(b'{"batch":%d,"line":%d}\n' % (number, i) for i in range(lines))


def test_everything_put_before_close_is_written_in_order(tmp_path: Path) -> None:
    arena = Arena(1)
    writer = LogWriter(str(tmp_path / "log"), arena.slot(0))
    for i in range(100):
        writer.put(batch(i))
    writer.close()
    assert (tmp_path / "log").read_bytes() == b"".join(batch(i) for i in range(100))
    assert dropped(arena) == 0
    assert (tmp_path / "log").stat().st_mode & 0o777 == 0o640


def test_rotation_loses_nothing(tmp_path: Path) -> None:
    arena = Arena(1)
    path = tmp_path / "log"
    writer = LogWriter(str(path), arena.slot(0))
    for i in range(5):
        writer.put(batch(2 * i))
        deadline = time.monotonic() + 5
        while not path.exists() and time.monotonic() < deadline:
            pass
        path.rename(tmp_path / f"log.{i}")
        writer.reopen()
        writer.put(batch(2 * i + 1))
    writer.close()
    files = [*(tmp_path / f"log.{i}" for i in range(5)), path]
    assert b"".join(f.read_bytes() for f in files) == b"".join(batch(i) for i in range(10))
    assert path.read_bytes() == batch(9)
    assert dropped(arena) == 0


def test_two_writers_append_to_one_file(tmp_path: Path) -> None:
    arena = Arena(2)
    writers = [LogWriter(str(tmp_path / "log"), arena.slot(i)) for i in range(2)]
    for i in range(50):
        for number, writer in enumerate(writers):
            writer.put(batch(1000 * number + i))
    for writer in writers:
        writer.close()
    text = (tmp_path / "log").read_bytes()
    assert len(text.splitlines()) == 2 * 50 * 20
    assert all(batch(1000 * number + i) in text for i in range(50) for number in range(2))


def test_a_pipe_gets_no_piece_that_could_be_torn(tmp_path: Path) -> None:
    path = tmp_path / "fifo"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    writer = LogWriter(str(path), Arena(1).slot(0))
    sent = b"".join(batch(i, 400) for i in range(3))
    writer.put(sent)
    found = b""
    deadline = time.monotonic() + 10
    while len(found) < len(sent) and time.monotonic() < deadline:
        select.select([reader], [], [], 5)
        try:
            piece = os.read(reader, select.PIPE_BUF)
        except BlockingIOError:
            continue
        found += piece
    writer.close()
    os.close(reader)
    assert found == sent


def test_what_cannot_be_opened_costs_lines_and_is_tried_again(tmp_path: Path) -> None:
    arena = Arena(1)
    path = tmp_path / "missing" / "log"
    writer = LogWriter(str(path), arena.slot(0))
    writer.put(batch(1))
    deadline = time.monotonic() + 5
    while dropped(arena) < 20 and time.monotonic() < deadline:
        pass
    path.parent.mkdir()
    writer.reopen()
    writer.put(batch(2))
    writer.close()
    assert path.read_bytes() == batch(2)
    assert dropped(arena) == 20


def test_a_reader_that_stops_costs_lines_and_never_time(tmp_path: Path) -> None:
    """A full pipe blocks the thread; `put` returns at once and counts what finds no room."""
    arena = Arena(1)
    path = tmp_path / "fifo"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    writer = LogWriter(str(path), arena.slot(0))
    total = MAX_BUFFERS * 2
    started = time.monotonic()
    for i in range(total):
        writer.put(batch(i, 50))
    assert time.monotonic() - started < 5
    assert 0 < dropped(arena) < total * 50
    stop = threading.Event()
    found = bytearray()

    def drain() -> None:
        while not stop.is_set() or select.select([reader], [], [], 0)[0]:
            if select.select([reader], [], [], 0.05)[0]:
                piece = os.read(reader, 1 << 16)
                if not piece:
                    return
                found.extend(piece)

    thread = threading.Thread(target=drain)
    thread.start()
    writer.close(10)
    stop.set()
    thread.join(10)
    os.close(reader)
    assert found.count(b"\n") + dropped(arena) == total * 50
    assert {len(line.split(b",")) for line in bytes(found).splitlines()} == {2}


def test_the_word_that_counts_is_named() -> None:
    assert "access_log_dropped_total" in layout.GAUGES
