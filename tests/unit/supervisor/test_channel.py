"""Messages over a real socket pair: whole, in order, with their descriptors, whatever the kernel takes at a time."""

from __future__ import annotations

import os
import select
import socket
import threading
from collections.abc import Iterator

import pytest

from agw.supervisor import channel as module
from agw.supervisor.channel import Channel, ChannelClosed, Message

PATIENCE_MS = 10_000


@pytest.fixture
def ends() -> Iterator[tuple[Channel, Channel]]:
    a, b = Channel.pair()
    yield a, b
    a.close()
    b.close()


def exchange(sender: Channel, receiver: Channel, count: int) -> list[tuple[Message, list[int]]]:
    """Do what both loops do until `count` messages have arrived."""
    found: list[tuple[Message, list[int]]] = []
    poll = select.poll()
    poll.register(receiver.fileno(), select.POLLIN)
    while len(found) < count:
        if sender.pending:
            sender.flush()
        assert poll.poll(PATIENCE_MS)
        found += receiver.receive()
    return found


def test_every_field_arrives(ends: tuple[Channel, Channel]) -> None:
    a, b = ends
    message = Message("config", 7, b"\x00plan", b"labels", "te\nxt \u20ac", -5, [("", 80), ("::1", 8080)])
    a.send(message)
    a.send(Message("stop"))
    assert exchange(a, b, 2) == [(message, []), (Message("stop"), [])]
    assert b.receive() == []


def test_both_directions(ends: tuple[Channel, Channel]) -> None:
    a, b = ends
    a.send(Message("drain", number=1))
    b.send(Message("ready", generation=2))
    assert b.receive() == [(Message("drain", number=1), [])]
    assert a.receive() == [(Message("ready", generation=2), [])]


@pytest.mark.parametrize("size", [0, 1, 200_000, 20_000_000])
def test_large_messages_with_descriptors(ends: tuple[Channel, Channel], size: int) -> None:
    """More than a socket buffer, descriptors before, in and behind it; each end of a pipe still is what it was."""
    a, b = ends
    pipes = [os.pipe() for _ in range(70)]
    payload = os.urandom(min(size, 1_000_000)) * max(1, size // 1_000_000)
    a.send(Message("first"), [pipes[0][0]])
    a.send(Message("config", payload=payload), [r for r, _ in pipes])
    a.send(Message("none"))
    a.send(Message("last"), [pipes[0][0], pipes[1][0]])
    found = exchange(a, b, 4)
    try:
        assert [message.op for message, _ in found] == ["first", "config", "none", "last"]
        assert found[1][0].payload == payload
        assert [len(fds) for _, fds in found] == [1, 70, 0, 2]
        for i, (_, w) in enumerate(pipes):
            os.write(w, b"%d" % i)
            assert os.read(found[1][1][i], 10) == b"%d" % i
        os.write(pipes[1][1], b"x")
        assert os.read(found[3][1][1], 10) == b"x"
        assert not a.pending
    finally:
        for fd in [fd for pair in pipes for fd in pair] + [fd for _, fds in found for fd in fds]:
            os.close(fd)


def test_descriptors_arrive_close_on_exec_or_not_but_open(ends: tuple[Channel, Channel]) -> None:
    a, b = ends
    sock = socket.create_server(("127.0.0.1", 0))
    a.send(Message("config", binds=[("127.0.0.1", 1)]), [sock.fileno()])
    ((_, (fd,)),) = b.receive()
    with socket.socket(fileno=fd) as copy:
        assert copy.getsockname() == sock.getsockname()
    sock.close()


def test_octet_by_octet() -> None:
    left, right = socket.socketpair()
    writer, reader = Channel.pair()
    messages = [Message("a", payload=b"x" * 300), Message("b"), Message("c", text="y")]
    for message in messages:
        writer.send(message)
    raw = os.read(reader.fileno(), 1 << 16)
    slow = Channel(right)
    found = []
    for i in range(len(raw)):
        left.send(raw[i : i + 1])
        found += slow.receive()
    assert [message for message, _ in found] == messages
    left.close()
    for end in (slow, writer, reader):
        end.close()


def test_what_was_sent_before_the_end_still_arrives(ends: tuple[Channel, Channel]) -> None:
    a, b = ends
    a.send(Message("failed", text="why"))
    a.close()
    assert b.receive() == [(Message("failed", text="why"), [])]
    with pytest.raises(ChannelClosed):
        b.receive()
    with pytest.raises(ChannelClosed):
        b.send(Message("x" * 100))


def test_an_end_inside_a_message_is_the_end() -> None:
    left, right = socket.socketpair()
    left.send(b"\x00\x00\x01\x00half")
    left.close()
    end = Channel(right)
    with pytest.raises(ChannelClosed):
        end.receive()
    end.close()


def test_nobody_blocks_and_the_queue_is_bounded(ends: tuple[Channel, Channel], monkeypatch: pytest.MonkeyPatch) -> None:
    a, _ = ends
    monkeypatch.setattr(module, "MAX_QUEUED", 3_000_000)
    with pytest.raises(ChannelClosed, match="does not read"):
        for _ in range(10):
            a.send(Message("document", payload=bytes(1_000_000)))
    assert a.pending


def test_a_slow_reader_gets_everything(ends: tuple[Channel, Channel]) -> None:
    a, b = ends
    for i in range(500):
        a.send(Message("document", generation=i, payload=bytes(i * 20)))
    found: list[tuple[Message, list[int]]] = []
    reader = threading.Thread(target=lambda: found.extend(exchange(a, b, 500)))
    reader.start()
    reader.join(PATIENCE_MS / 1000)
    assert [message.generation for message, _ in found] == list(range(500))
    assert all(len(message.payload) == message.generation * 20 for message, _ in found)
