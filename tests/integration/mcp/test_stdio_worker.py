"""Stdio targets inside a process like our workers: forked by a parent without a loop, threads running, gc frozen, uvloop."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest

from agw.mcp.transport import TransportError
from tests.peers.stdio_kit import Channel, alive, children, nothing_left, on_uvloop, peer, until

PATIENCE_S = 60.0


@contextmanager
def worker(body: Callable[[Callable[[str], None]], Coroutine[Any, Any, None]]) -> Iterator[tuple[int, Callable[[], str]]]:
    """Fork as the supervisor does and run `body(tell)` on a loop of the child's own; gives its pid and `hear()`."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            for number in (signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGPIPE):
                signal.signal(number, signal.SIG_IGN)
            os.close(reading)
            told = os.fdopen(writing, "w", closefd=False)
            threading.Thread(target=threading.Event().wait, daemon=True).start()
            gc.collect()
            gc.freeze()
            on_uvloop(body(lambda text: print(text, file=told, flush=True)))
            code = 0
        except BaseException as error:
            with suppress(OSError):
                os.write(writing, f"failed: {error!r}\n".encode())
        finally:
            os._exit(code)
    os.close(writing)
    with os.fdopen(reading) as stream:
        try:
            yield pid, lambda: stream.readline().strip()
        finally:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            with suppress(ChildProcessError):
                os.waitpid(pid, 0)


def all_gone(pids: list[int]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while left := [pid for pid in pids if alive(pid)]:
        assert time.monotonic() < deadline, f"still alive: {left}"
        time.sleep(0.01)


@pytest.mark.timeout(120)
def test_the_transport_lives_in_a_forked_worker() -> None:
    async def body(tell: Callable[[str], None]) -> None:
        with nothing_left():
            channel = Channel()
            for round_ in range(3):
                assert await channel.call("echo", {"n": round_}) == {"n": round_}
                with pytest.raises(TransportError):
                    await channel.call("die", {"code": round_})
            assert channel.downs == ["exit code 0", "exit code 1", "exit code 2"]
            await channel.close()
            assert signal.getsignal(signal.SIGCHLD) == signal.SIG_DFL
            tell("done")

    with worker(body) as (pid, hear):
        assert hear() == "done"
        assert os.waitpid(pid, 0)[1] == 0


@pytest.mark.timeout(120)
def test_uvloops_own_subprocesses_and_ours_do_not_disturb_each_other() -> None:
    async def body(tell: Callable[[str], None]) -> None:
        channel = Channel()
        await channel.call("echo")
        other = await asyncio.create_subprocess_exec("/bin/sh", "-c", "exit 5")
        assert await other.wait() == 5
        with pytest.raises(TransportError):
            await channel.call("die", {"code": 9})
        assert channel.downs == ["exit code 9"]
        await channel.close()
        tell("done")

    with worker(body) as (_, hear):
        assert hear() == "done"


@pytest.mark.timeout(120)
def test_a_killed_worker_takes_its_children_along() -> None:
    async def body(tell: Callable[[str], None]) -> None:
        channels = [Channel(peer(name)) for name in ("stubborn", "stubborn", "deaf", "echo")]
        tasks = [asyncio.ensure_future(channel.call("echo")) for channel in channels]
        await asyncio.gather(tasks[0], tasks[1], tasks[3])
        await until(lambda: channels[2].strays)
        tell(" ".join(str(channel.pid) for channel in channels))
        await asyncio.sleep(PATIENCE_S)

    with worker(body) as (pid, hear):
        pids = [int(word) for word in hear().split()]
        assert len(pids) == 4 and all(alive(pid) for pid in pids)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        all_gone(pids)


@pytest.mark.timeout(120)
def test_a_worker_killed_while_it_starts_children_leaves_none() -> None:
    """The kernel's death signal is set after the fork: a child that finds its parent gone by then ends by itself."""

    async def body(tell: Callable[[str], None]) -> None:
        channels = [Channel(peer("stubborn")) for _ in range(30)]
        tasks = [asyncio.ensure_future(channel.call("echo")) for channel in channels]
        await until(lambda: len(children()) >= 10)
        assert len(tasks) == 30
        tell(" ".join(str(pid) for pid in children()))
        await asyncio.sleep(PATIENCE_S)

    with worker(body) as (pid, hear):
        pids = [int(word) for word in hear().split()]
        assert len(pids) >= 10
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        all_gone(pids)


@pytest.mark.timeout(120)
def test_two_hundred_children_left_behind_end_with_the_worker() -> None:
    async def body(tell: Callable[[str], None]) -> None:
        channels = [Channel(peer("echo")) for _ in range(200)]
        await asyncio.gather(*(channel.call("echo") for channel in channels))
        tell(" ".join(str(channel.pid) for channel in channels))

    with worker(body) as (pid, hear):
        pids = [int(word) for word in hear().split()]
        assert len(pids) == 200
        assert os.waitpid(pid, 0)[1] == 0
        all_gone(pids)
