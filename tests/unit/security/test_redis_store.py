"""Limits shared by several machines, against a real Redis or Valkey on loopback."""

from __future__ import annotations

import asyncio
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import msgspec
import pytest

pytest.importorskip("redis")

from agw._fast.limiter import Limit
from agw.runtime.plan_security import LimitPlan, RateStorePlan
from agw.security import redis_store
from agw.security.limits import Limits
from agw.security.redis_store import RedisStore
from agw.shm.limits import make_limits
from agw.supervisor.supervisor import store_hash_key

PROGRAM = shutil.which("valkey-server") or shutil.which("redis-server")
pytestmark = pytest.mark.skipif(PROGRAM is None, reason="neither valkey-server nor redis-server is installed")
PASSWORD = "geheim"


class Server:
    """A store of its own: no persistence, loopback only."""

    def __init__(self) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.folder = tempfile.mkdtemp(prefix="agw-store-")
        self.start()

    def start(self) -> None:
        assert PROGRAM is not None
        self.process = subprocess.Popen(
            [PROGRAM, "--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", self.folder, "--requirepass", PASSWORD],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        until = time.monotonic() + 10
        while True:
            with suppress(OSError):
                if b"PONG" in self.command("PING"):
                    return
            if time.monotonic() > until:
                self.stop()
                raise AssertionError("the store does not start")

    def command(self, *words: str) -> bytes:
        with socket.create_connection(("127.0.0.1", self.port), 1) as talk:
            talk.sendall(f"AUTH {PASSWORD}\r\n{' '.join(words)}\r\nQUIT\r\n".encode())
            out = b""
            while part := talk.recv(65536):
                out += part
        return out.removeprefix(b"+OK\r\n").removesuffix(b"+OK\r\n")

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture(scope="module")
def running() -> Iterator[Server]:
    server = Server()
    yield server
    server.stop()
    shutil.rmtree(server.folder)


@pytest.fixture
def server(running: Server) -> Server:
    running.command("FLUSHALL")
    return running


def plan_of(server: Server, **changes: Any) -> RateStorePlan:
    return msgspec.structs.replace(RateStorePlan("redis", f"redis://:{PASSWORD}@127.0.0.1:{server.port}/0", max_keys=1000), **changes)


class Machine:
    """A gateway of one worker."""

    def __init__(self, plan: RateStorePlan) -> None:
        self.store = RedisStore(plan, pause_s=0.01)
        self.limits = Limits(make_limits(1000, 1, key=store_hash_key(plan)).as_worker(0), lambda text, phase: None, self.store.leases)  # type: ignore[arg-type, return-value]
        self.task = asyncio.get_running_loop().create_task(self.store.run())

    def limit(self, plan: LimitPlan) -> Limit:
        return self.limits.check(plan).limit

    async def settled(self) -> None:
        """Everything that was wanted is answered."""
        while self.store._wanted:
            await asyncio.sleep(0.001)

    async def close(self) -> None:
        await self.store.close()
        await self.task


@asynccontextmanager
async def machines(plan: RateStorePlan, count: int) -> AsyncIterator[list[Machine]]:
    made = [Machine(plan) for _ in range(count)]
    try:
        yield made
    finally:
        for machine in made:
            await machine.close()


def run(body: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(body())


RATE = LimitPlan("r", burst=160, interval_ns=10_000_000)


def test_two_machines_share_a_rate(server: Server) -> None:
    """Both at saturation: admitted is burst plus rate times time, within one block per machine."""

    async def body() -> None:
        async with machines(plan_of(server), 2) as both:
            limits = [machine.limit(RATE) for machine in both]
            admitted = 0
            start = time.monotonic()
            while time.monotonic() < start + 2:
                for limit in limits:
                    admitted += sum(limit.spend(b"k") for _ in range(5))
                await asyncio.sleep(0.002)
            took = time.monotonic() - start
            exact = 160 + took * 100
            assert exact * 0.9 <= admitted <= exact + 2 * 10
            # Far fewer calls than requests.
            asked = sum(row[1] + row[2] for limit in limits for row in limit.table.counts())
            assert sum(machine.store.calls for machine in both) < asked / 3

    run(body)


def test_two_machines_share_a_quota(server: Server) -> None:
    plan = LimitPlan("q", "quota", 100, 0, "month")

    async def body() -> None:
        async with machines(plan_of(server), 2) as both:
            limits = [machine.limit(plan) for machine in both]
            admitted = 0
            for _ in range(200):
                for limit, machine in zip(limits, both, strict=True):
                    admitted += limit.spend(b"k")
                    await machine.settled()
            assert 100 <= admitted <= 112
        async with machines(plan_of(server), 1) as (third,):
            limit = third.limit(plan)
            limit.spend(b"k")
            await third.settled()
            assert not limit.spend(b"k")
        (name,) = [word for word in server.command("KEYS", "*").decode().split() if word.startswith("agw:")]
        assert name.count(":") == 3
        assert int(server.command("PTTL", name).decode().removeprefix(":")) > 0

    run(body)


def test_leases_nobody_uses_are_returned(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redis_store, "LEASE_IDLE_NS", 0)
    slow = msgspec.structs.replace(RATE, interval_ns=10**12)

    async def body() -> None:
        async with machines(plan_of(server, lease=100), 1) as (one,):
            assert one.limit(slow).spend(b"k")
            await one.settled()
            while one.store.held:
                one.store._wake.set()
                await asyncio.sleep(0.001)
        async with machines(plan_of(server, lease=100), 1) as (two,):
            limit = two.limit(slow)
            assert limit.spend(b"k")
            await two.settled()
            assert [limit.spend(b"k") for _ in range(100)] == [True] * 100

    run(body)


def test_a_closed_machine_returns_its_leases(server: Server) -> None:
    slow = msgspec.structs.replace(RATE, interval_ns=10**12)

    async def body() -> None:
        for _ in range(4):
            async with machines(plan_of(server, lease=100), 1) as (one,):
                limit = one.limit(slow)
                assert [limit.spend(b"k") for _ in range(10)] == [True] * 10
                await one.settled()
        async with machines(plan_of(server), 1) as (last,):
            limit = last.limit(slow)
            admitted = 0
            for _ in range(300):
                admitted += limit.spend(b"k")
                await last.settled()
            assert 120 <= admitted <= 130

    run(body)


def test_the_number_of_leases_is_bounded(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redis_store, "MOST_LEASES", 5)

    async def body() -> None:
        async with machines(plan_of(server), 1) as (one,):
            limit = one.limit(RATE)
            assert all(limit.spend(b"%d" % i) for i in range(20))
            assert one.store.held == 5
            assert limit.table.counts()[0][4] == 15

    run(body)


@pytest.mark.parametrize(("down", "expected"), [("local", [True, True, False]), ("open", [True] * 3), ("closed", [False] * 3)])
def test_down_and_back(down: str, expected: list[bool]) -> None:
    server = Server()
    plan = LimitPlan("r", burst=2, interval_ns=3600 * 10**9)

    async def until(condition: Callable[[], bool]) -> None:
        while not condition():
            await asyncio.sleep(0.005)

    async def body() -> None:
        async with machines(plan_of(server, down=down), 1) as (one,):
            limit = one.limit(plan)
            server.stop()
            limit.spend(b"wakes the store")
            await until(lambda: one.store.is_down)
            assert [limit.spend(b"k") for _ in range(3)] == expected
            assert limit.table.counts()[0][4] == 3
            server.start()
            await until(lambda: not one.store.is_down)
            assert limit.spend(b"another")
            await one.settled()
            # The script was loaded anew into a server that had never seen it.
            assert b"agw:" in server.command("KEYS", "*")

    try:
        run(body)
    finally:
        server.stop()
        shutil.rmtree(server.folder)


def test_hashes_agree_between_machines_and_depend_on_the_password(server: Server) -> None:
    one = store_hash_key(plan_of(server))
    assert one == store_hash_key(plan_of(server, url=f"redis://:{PASSWORD}@elsewhere:1/0"))
    assert one != store_hash_key(plan_of(server, url="redis://:other@127.0.0.1/0"))
    assert len(one) == 16


def test_the_password_is_not_shown(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    async def body() -> None:
        async with machines(plan_of(server, url=f"redis://:{PASSWORD}@127.0.0.1:1/0"), 1) as (one,):
            one.limit(RATE).spend(b"k")
            while not one.store.is_down:
                await asyncio.sleep(0.005)
            assert PASSWORD not in repr(one.store)

    run(body)
    assert "does not answer" in caplog.text
    assert PASSWORD not in caplog.text
