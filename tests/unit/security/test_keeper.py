"""The keeper and requests that wait for a policy: places that are given back, and nothing that is begun and never awaited."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from agw._fast.gate import Gate
from agw.runtime.plan import PolicyPlan
from agw.runtime.plan_security import BackendAuthPlan, JwtPlan, JwtProviderPlan, KeyCredential, McpAuthPlan
from agw.security import keeper as module
from agw.security.contract import Found, Refusal, Request, Verdict
from agw.security.keeper import BROKEN, CROWDED, SLOW, Keeper
from agw.security.mcp_auth.step import McpAuthStep
from agw.security.upstream.presenting import Presenting
from tests.kits.tokens import Asked, Host, bearer

NO = Refusal(401, 6, b"who are you")


class Entry:
    """What the exchange would give to the keeper."""

    def __init__(self) -> None:
        self.distinct = self.open = True
        self.labels = ("", "", "", "route", "")
        self.now = 0
        self.on_close: Any = None
        self.ends: list[object] = []

    def refuse(self, refusal: Refusal) -> None:
        self.ends.append(refusal)

    def admit(self, *_: object) -> None:
        self.ends.append("admitted")

    def leave(self) -> None:
        """The client goes away."""
        self.open = False
        if self.on_close is not None:
            self.on_close()


class Step:
    """Answers with what `make` gives."""

    def __init__(self, make: Callable[[], Awaitable[Verdict]]) -> None:
        self.make = make

    def check(self, request: Request, found: Found) -> Awaitable[Verdict]:
        return self.make()


def keeper_of(host: Host, make: Callable[[], Awaitable[Verdict]]) -> Keeper:
    made = Keeper(Gate(None, [b"authorization"]), PolicyPlan(), host)
    made.steps = [Step(make)]
    return made


async def settle(host: Host) -> None:
    while host.tasks:
        await asyncio.wait(host.tasks)


def test_a_client_that_leaves_at_once_gives_its_place_back() -> None:
    async def body() -> None:
        host = Host()

        async def never() -> Verdict:
            await asyncio.Event().wait()
            return None

        keeper = keeper_of(host, never)
        for steps in (0, 1, 2):
            entry = Entry()
            keeper.enter(entry)  # type: ignore[arg-type]
            assert keeper.waiting == 1
            for _ in range(steps):
                await asyncio.sleep(0)
            entry.leave()
            await settle(host)
            assert (keeper.waiting, entry.ends) == (0, []), f"left after {steps} turns of the loop"

    asyncio.run(body())
    gc.collect()  # a coroutine that nobody awaited warns when it goes, and warnings are errors here


def test_when_too_many_wait_the_next_one_is_refused_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_WAITING", 1)

    async def body() -> None:
        host = Host()
        release = asyncio.Event()

        async def wait() -> Verdict:
            await release.wait()
            return NO

        class Plain:
            """An awaitable that cannot be closed."""

            def __await__(self) -> Any:
                return wait().__await__()

        futures: list[asyncio.Future[Verdict]] = []

        def future() -> Awaitable[Verdict]:
            futures.append(asyncio.get_running_loop().create_future())
            return futures[-1]

        keeper = keeper_of(host, wait)
        first = Entry()
        keeper.enter(first)  # type: ignore[arg-type]
        for make in (wait, Plain, future):
            keeper.steps = [Step(make)]
            entry = Entry()
            keeper.enter(entry)  # type: ignore[arg-type]
            assert entry.ends == [CROWDED]
        assert futures[0].cancelled()
        assert host.counted == [("authorization", "error")] * 3
        release.set()
        await settle(host)
        assert (first.ends, keeper.waiting) == ([NO], 0)

    asyncio.run(body())
    gc.collect()


def test_what_breaks_or_is_late_refuses_and_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WAIT_S", 0.01)

    async def body() -> None:
        async def broken() -> Verdict:
            raise ZeroDivisionError

        async def late() -> Verdict:
            await asyncio.Event().wait()
            return None

        for make, expected in ((broken, BROKEN), (late, SLOW)):
            host = Host()
            entry = Entry()
            keeper_of(host, make).enter(entry)  # type: ignore[arg-type]
            await settle(host)
            assert entry.ends == [expected]
            assert host.counted == [("authorization", "error")]

    asyncio.run(body())


def test_the_wait_for_a_token_of_an_mcp_endpoint_can_be_given_up() -> None:
    async def verdict() -> Verdict:
        return NO

    class Inner:
        def check(self, request: Request, found: Found) -> Awaitable[Verdict]:
            return verdict()

    async def body() -> None:
        step = McpAuthStep(McpAuthPlan(JwtPlan([JwtProviderPlan("i")]), "https://agw.example/mcp", "{}"), Host(), Inner())
        given_up: Any = step.check(bearer(b"x"), Found())
        given_up.close()
        awaited: Any = step.check(Asked(), Found())
        refusal = await awaited
        assert refusal.status == 401
        assert b"resource_metadata" in refusal.lines

    asyncio.run(body())
    gc.collect()


def test_a_client_that_leaves_before_its_credential_was_asked_for_gives_its_place_back() -> None:
    class Source:
        def ready(self, *_: object) -> None:
            return None

        async def fetch(self, *_: object) -> None:
            await asyncio.Event().wait()

    async def body() -> None:
        host = Host()
        presenting = Presenting(BackendAuthPlan([KeyCredential("x")]), host)
        presenting.source = Source()  # type: ignore[assignment]
        for steps in (0, 1, 2):
            entry: Any = Entry()
            entry.identity = None
            presenting.enter(entry)
            assert presenting._waiting == 1
            for _ in range(steps):
                await asyncio.sleep(0)
            entry.leave()
            await settle(host)
            assert presenting._waiting == 0, f"left after {steps} turns of the loop"

    asyncio.run(body())
