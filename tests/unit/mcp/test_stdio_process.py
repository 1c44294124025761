"""Child processes: what they inherit, how they end, and that nothing of them stays. Also the cutting of lines."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from agw.mcp.transport import TransportError
from agw.mcp.transports.process import WITHHELD
from agw.mcp.transports.stdio import ChildLimit, LineReader, answered
from tests.peers.stdio_kit import Channel, Options, alive, children, nothing_left, on_uvloop, peer, until


@pytest.fixture(autouse=True)
def clean() -> Iterator[None]:
    with nothing_left():
        yield


# ------------------------------------------------------------------------------------------------- what is inherited


def test_a_child_gets_its_arguments_directory_and_a_group_of_its_own(tmp_path: Path) -> None:
    async def body() -> None:
        channel = Channel(peer("echo", "a b", "$HOME", "*", "", "ü\udcff", cwd=str(tmp_path)))
        about = await channel.call("about")
        assert about["argv"][1:] == ["a b", "$HOME", "*", "", "ü\udcff"]
        assert about["cwd"] == str(tmp_path)
        assert about["pid"] == about["pgid"] == about["sid"] == channel.pid
        assert about["ppid"] == os.getpid()
        await channel.close()

    on_uvloop(body())


def test_a_child_gets_no_descriptor_and_no_ignored_signal_of_ours() -> None:
    async def body() -> None:
        reading, writing = os.pipe()
        os.set_inheritable(reading, True)
        before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
        try:
            channel = Channel()
            about = await channel.call("about")
            assert about["fds"][:3] == [0, 1, 2] and len(about["fds"]) == 4  # the fourth is the listing itself
            assert about["ignored"] == [signal.SIGPIPE, signal.SIGXFSZ]  # Python's own doing
            await channel.close()
        finally:
            signal.signal(signal.SIGHUP, before)
            os.close(reading)
            os.close(writing)

    on_uvloop(body())


def test_the_environment_is_ours_without_secrets_or_none(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in WITHHELD:
        monkeypatch.setenv(name, "withheld")
    monkeypatch.setenv("OF_THE_GATEWAY", "1")

    async def body() -> None:
        added = {"ADDED": "ü=1", "NOTIFY_SOCKET": "on purpose"}
        inherited = Channel(peer("echo", env=added))
        env = (await inherited.call("about"))["env"]
        assert env["OF_THE_GATEWAY"] == "1" and env["ADDED"] == "ü=1" and env["NOTIFY_SOCKET"] == "on purpose"
        assert WITHHELD & env.keys() == {"NOTIFY_SOCKET"}
        await inherited.close()
        printing = 'import os; os.write(1, b\'{"jsonrpc":"2.0","method":"%d"}\\n\' % len(open("/proc/self/environ", "rb").read())); os.read(0, 1)'
        for env, size in (({}, 0), ({"A": "b"}, 4), ({"LC_CTYPE": "C"}, 11)):
            cleared = Channel(Options(args=["-I", "-S", "-c", printing], env=env, clear_env=True))
            task = asyncio.ensure_future(cleared.call("echo"))
            await until(lambda channel=cleared: channel.strays)  # type: ignore[misc]
            assert cleared.strays[0]["method"] == str(size), env
            await cleared.close()
            with pytest.raises(TransportError):
                await task

    on_uvloop(body())


def test_commands_are_found_in_the_childs_path_and_relative_to_its_directory(tmp_path: Path) -> None:
    script = tmp_path / "bin" / "answer"
    script.parent.mkdir()
    script.write_text('#!/bin/sh\nread line\necho "{\\"jsonrpc\\":\\"2.0\\",\\"id\\":1,\\"result\\":\\"$0\\"}"\nread line\n')
    script.chmod(0o755)

    async def body() -> None:
        for options in (
            Options(cmd="answer", env={"PATH": f"{script.parent}:/usr/bin:/bin"}),
            Options(cmd="bin/answer", cwd=str(tmp_path)),
            Options(cmd=str(script), clear_env=True),
        ):
            channel = Channel(options)
            assert await channel.call("echo") == str(script)
            await channel.close()

    on_uvloop(body())


# ------------------------------------------------------------------------------------------------------------ ending


def test_the_end_of_input_is_enough_for_a_good_server() -> None:
    async def body() -> None:
        channel = Channel()
        await channel.call("echo")
        begun = time.monotonic()
        await channel.close()
        assert time.monotonic() - begun < 1.5  # less than the grace time: no signal was needed
        assert channel.downs == []

    on_uvloop(body())


def test_a_stubborn_child_is_killed_after_two_grace_times() -> None:
    async def body() -> None:
        channel = Channel(peer("stubborn", stop_grace_ns=100_000_000))
        pid = await channel.call("echo")
        begun = time.monotonic()
        await channel.close()
        assert 0.2 <= time.monotonic() - begun < 5
        assert not alive(pid) and channel.limit.running == 0

    on_uvloop(body())


def test_sigterm_comes_before_sigkill(tmp_path: Path) -> None:
    told = tmp_path / "told"
    program = (
        "import os, signal, sys, time\n"
        f"def told(number, frame):\n    open({str(told)!r}, 'w').write(str(number))\n    os._exit(0)\n"
        "signal.signal(signal.SIGTERM, told)\n"
        'os.write(1, b\'{"jsonrpc":"2.0","method":"ready"}\\n\')\n'
        "time.sleep(600)\n"
    )

    async def body() -> None:
        channel = Channel(Options(args=["-I", "-S", "-c", program], stop_grace_ns=100_000_000))
        task = asyncio.ensure_future(channel.call("echo"))
        await until(lambda: channel.strays)
        await channel.close()
        assert told.read_text() == "15"
        with pytest.raises(TransportError):
            await task

    on_uvloop(body())


def test_heirs_are_killed_with_their_leader() -> None:
    async def body() -> None:
        channel = Channel(peer("family"))
        heir = await channel.call("stay")
        assert alive(heir)
        await channel.close()
        await until(lambda: not alive(heir))

    on_uvloop(body())


def test_a_leader_that_leaves_its_heirs_with_the_pipes_has_ended() -> None:
    async def body() -> None:
        channel = Channel(peer("family"))
        heir = await channel.call("leave")
        await until(lambda: channel.downs)
        assert channel.downs == ["exit code 3"]
        await until(lambda: not alive(heir))
        second = await channel.call("stay")
        assert second != heir
        await channel.close()
        await until(lambda: not alive(second))

    on_uvloop(body())


def test_a_stop_that_is_given_up_still_ends_the_child() -> None:
    async def body() -> None:
        channel = Channel(peer("stubborn", stop_grace_ns=50_000_000))
        pid = await channel.call("echo")
        closing = asyncio.ensure_future(channel.close())
        await asyncio.sleep(0)
        closing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await closing
        await until(lambda: not alive(pid) and channel.limit.running == 0)

    on_uvloop(body())


def test_a_loop_that_ends_during_a_stop_kills() -> None:
    pids = []

    async def body() -> None:
        channel = Channel(peer("stubborn", stop_grace_ns=60_000_000_000))
        pids.append(await channel.call("echo"))
        closing = asyncio.ensure_future(channel.close())
        await asyncio.sleep(0)
        assert not closing.done()
        held.append(channel)

    held: list[Channel] = []
    on_uvloop(body())
    deadline = time.monotonic() + 10
    while alive(pids[0]):
        assert time.monotonic() < deadline
        time.sleep(0.005)
    (child,) = held[0]._children
    if not child.gone.done():
        # The loop that would have reaped it has ended before: done here, so that this process is clean again.
        child._popen.wait()
        for pipe in child._pipes.values():
            pipe.close()
        os.close(child._pidfd)


def test_without_a_pidfd_the_end_is_found_by_asking(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(pid: int, flags: int = 0) -> int:
        raise OSError(38, "not implemented")

    monkeypatch.setattr(os, "pidfd_open", refuse)

    async def body() -> None:
        channel = Channel()
        assert await channel.call("answer_and_die") == "last words"
        await until(lambda: channel.downs)
        assert channel.downs == ["exit code 0"]
        assert await channel.call("echo", {"n": 1}) == {"n": 1}
        await channel.close()
        assert channel.limit.running == 0

    on_uvloop(body())


def test_no_descriptors_left_is_a_failed_start_that_leaks_nothing() -> None:
    import resource

    async def body() -> None:
        channel = Channel()
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        taken: list[int] = []
        # Whatever this process has open already lies below: the limit is about numbers, not about their count.
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(map(int, os.listdir("/proc/self/fd"))) + 32, hard))
        try:
            for spare in range(9):
                while True:
                    try:
                        taken.append(os.open("/dev/null", os.O_RDONLY))
                    except OSError:
                        break
                for _ in range(spare):
                    os.close(taken.pop())
                channel._retry_at = 0.0
                try:
                    await channel.call("die", {"code": 0}, timeout_s=10)
                except TransportError as error:
                    assert error.kind in ("connect", "closed"), (spare, error)
                else:
                    raise AssertionError("it cannot answer")
                await until(lambda: channel.limit.running == 0)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            for fd in taken:
                os.close(fd)
        assert channel.limit.failed_total >= 5 and channel.limit.running == 0
        await channel.close()

    on_uvloop(body())


def test_two_hundred_children_opened_and_abandoned() -> None:
    async def body() -> None:
        limit = ChildLimit(200)
        channels = [Channel(peer("echo"), limit, send_timeout_s=5) for _ in range(200)]
        tasks = [asyncio.ensure_future(channel.call("hold")) for channel in channels]
        await asyncio.gather(*(channel.call("echo") for channel in channels))
        assert limit.running == 200 and len(children()) >= 200
        for task in tasks[::2]:
            task.cancel()
        for channel in channels[::3]:
            os.kill(channel.pid, signal.SIGKILL)
        await asyncio.gather(*(channel.close() for channel in channels))
        ends = await asyncio.gather(*tasks, return_exceptions=True)
        assert {type(end) for end in ends} == {TransportError, asyncio.CancelledError}
        assert limit.running == 0

    on_uvloop(body())


# ------------------------------------------------------------------------------------------------------------- lines


def cut(text: bytes, limit: int, pieces: list[int]) -> tuple[list[bytes], list[tuple[bytes, bytes]]]:
    lines: list[bytes] = []
    oversized: list[tuple[bytes, bytes]] = []
    reader = LineReader(limit, lines.append, lambda head, tail: oversized.append((head, tail)))
    start = 0
    for size in pieces:
        reader.feed(text[start : start + size])
        start += size
    reader.feed(text[start:])
    reader.finish()
    return lines, oversized


def test_lines_are_the_same_however_they_arrive() -> None:
    generator = random.Random(5)
    for _ in range(300):
        sizes = [generator.choice((0, 1, 99, 100, 101, 700, 2000)) for _ in range(8)]
        parts = [bytes(generator.choices(b"abc\r", k=size)) for size in sizes]
        text = b"\n".join(parts)
        lines, oversized = cut(text, 100, [generator.randint(0, 900) for _ in range(6)])
        assert lines == [part for part in parts if 0 < len(part) <= 100]
        assert oversized == [(part[:512], part[-512:]) for part in parts if len(part) > 100] or _edges_agree(oversized, parts)


def _edges_agree(oversized: list[tuple[bytes, bytes]], parts: list[bytes]) -> bool:
    """The head is what was there when the limit was passed: at least `limit` octets, at most 512."""
    long = [part for part in parts if len(part) > 100]
    return len(long) == len(oversized) and all(
        part.startswith(head) and len(head) > 100 and tail == part[-512:] for part, (head, tail) in zip(long, oversized, strict=True)
    )


def test_a_long_line_is_never_held() -> None:
    reader = LineReader(1000, lambda line: None, lambda head, tail: None)
    for _ in range(2000):
        reader.feed(b"x" * 997)
        assert len(reader._part) <= 1000 + 997


@pytest.mark.parametrize(
    ("text", "ident"),
    [
        (b'{"jsonrpc":"2.0","id":17,"result":{"id":18', b"17"),
        (b'{"id": "a\\"b" , "jsonrpc" : "2.0", "error":{', b'"a\\"b"'),
        (b'{"jsonrpc":"2.0","id":17,"method":"ping","params":{}}', None),
        (b'{"method":"x","params":{"a":1},"id":17}', None),
        (b'{"params":{"a":1},"method":"x","id":17}', None),
        (b'{"result":{"id":1},"jsonrpc":"2.0","id":17}', b"17"),
        (b'{"result":{"id":1},"id":"s","jsonrpc":"2.0"} \r', b'"s"'),
        (b'{"result":{"x":[1,{"a":2,"id":1}]}}', b""),
        (b'{"result":"x,\\"id\\":1}', b""),
        (b'{"else":1,"id":3}', b""),
        (b"[1,2,3", b""),
        (b"Traceback (most recent call last)", None),
    ],
)
def test_whose_answer_the_edges_show(text: bytes, ident: bytes | None) -> None:
    assert answered(text, text) == ident
