"""The documents of a worker: what is kept, who is told, who waits, and what a flood of wishes becomes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

import pytest

from agw.runtime.documents import Fetched, version_of
from agw.security.contract import Document
from agw.worker import documents as module
from agw.worker.documents import DocumentTable

URL = "https://idp.test/jwks"
OTHER = "https://idp.test/metadata"
T = TypeVar("T")


def changed(body: bytes, url: str = URL) -> Fetched:
    return Fetched(url, "changed", body, version_of(body))


class Asked(list[str]):
    """What was asked for; the table's way to the supervisor."""

    def table(self, *kept: Fetched, cooldown_s: float = 30.0) -> DocumentTable:
        return DocumentTable(self.append, kept, cooldown_s)


def run(body: Callable[[], Awaitable[T]]) -> T:
    async def whole() -> T:
        async with asyncio.timeout(10):
            return await body()

    return asyncio.run(whole())


def test_what_the_supervisor_has_is_there_from_the_start() -> None:
    view = Asked().table(changed(b"{}")).attach([URL, OTHER])
    assert view.get(URL) == Document(b"{}", version_of(b"{}")) and view.get(OTHER) is None


def test_versions_are_told_once_each() -> None:
    table = Asked().table(changed(b"{}"))
    view = table.attach([URL])
    told = []
    view.watch(URL, lambda: told.append(view.get(URL)))
    for news in (changed(b"{}"), Fetched(URL, "same"), Fetched(URL, "failed"), Fetched(URL, "later"), changed(b"{1}"), changed(b"{1}"), changed(b"{}", OTHER)):
        table.take(news)
    assert told == [Document(b"{1}", version_of(b"{1}"))]


def test_a_watcher_that_fails_harms_nobody_else(caplog: pytest.LogCaptureFixture) -> None:
    table = Asked().table()
    view = table.attach([URL])
    told = []

    def bad() -> None:
        raise ValueError("a key")

    view.watch(URL, bad)
    view.watch(URL, lambda: told.append(1))
    table.take(changed(b"{}"))
    assert told == [1] and "could not be taken over" in caplog.text


def test_two_snapshots_are_told_and_the_one_before_is_forgotten() -> None:
    table = Asked().table()
    told: list[int] = []
    for number in range(3):
        table.attach([URL]).watch(URL, lambda number=number: told.append(number))
    table.take(changed(b"{}"))
    assert told == [1, 2]


def test_a_document_that_left_the_plan_is_forgotten_and_one_that_is_early_is_not() -> None:
    table = Asked().table(changed(b"{}"))
    table.attach([URL])
    table.take(changed(b"{2}", OTHER))
    second = table.attach([OTHER])
    assert second.get(URL) is None and second.get(OTHER) == Document(b"{2}", version_of(b"{2}"))
    # And it is no longer asked for.
    second.want(URL)
    third = table.attach([URL])
    assert third.get(URL) is None


def test_a_flood_of_wishes_is_one_question() -> None:
    asked = Asked()
    view = asked.table(cooldown_s=0.3).attach([URL])
    for _ in range(10_000):
        view.want(URL)
    view.want("https://not.in.the.plan/")
    assert asked == [URL]
    time.sleep(0.3)
    view.want(URL)
    assert asked == [URL, URL]


def test_waiting_for_the_first_version() -> None:
    async def body() -> None:
        table = Asked().table()
        view = table.attach([URL])
        many = [asyncio.create_task(view.arrival(URL, 5)) for _ in range(100)]
        await asyncio.sleep(0)
        table.take(changed(b"{}"))
        assert set(await asyncio.gather(*many)) == {Document(b"{}", version_of(b"{}"))}
        assert await view.arrival(URL, 5) is not None

    run(body)


def test_nobody_waits_for_what_is_known_to_fail() -> None:
    async def body() -> None:
        table = Asked().table()
        view = table.attach([URL])
        waiting = asyncio.create_task(view.arrival(URL, 5))
        await asyncio.sleep(0)
        table.take(Fetched(URL, "failed"))
        assert await waiting is None
        begun = time.monotonic()
        assert await view.arrival(URL, 5) is None and await view.arrival("https://not.in.the.plan/", 5) is None
        assert time.monotonic() - begun < 1
        table.take(changed(b"{}"))
        assert await view.arrival(URL, 5) is not None

    run(body)


def test_waiting_has_an_end() -> None:
    async def body() -> None:
        view = Asked().table().attach([URL])
        begun = time.monotonic()
        assert await view.arrival(URL, 0.05) is None
        assert 0.04 < time.monotonic() - begun < 2

    run(body)


@pytest.mark.parametrize("outcome", ["changed", "same", "failed", "later"])
def test_who_wanted_hears_of_any_end(outcome: str) -> None:
    async def body() -> None:
        table = Asked().table(changed(b"{}"))
        view = table.attach([URL])
        assert await view.arrival(URL, 5) is not None
        view.want(URL)
        waiting = asyncio.create_task(view.arrival(URL, 5))
        await asyncio.sleep(0.01)
        assert not waiting.done()
        table.take(changed(b"{2}") if outcome == "changed" else Fetched(URL, outcome))  # type: ignore[arg-type]
        found = await waiting
        assert found is not None and found.body == (b"{2}" if outcome == "changed" else b"{}")
        # Inside the cool-down nothing more is on its way, so nobody waits.
        view.want(URL)
        assert await asyncio.wait_for(view.arrival(URL, 60), 1) == found

    run(body)


def test_an_answer_that_never_comes_is_not_waited_for_again_and_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ANSWER_S", 0.05)

    async def body() -> None:
        view = Asked().table(changed(b"{}")).attach([URL])
        view.want(URL)
        await asyncio.sleep(0.06)
        assert await asyncio.wait_for(view.arrival(URL, 60), 1) is not None

    run(body)


def test_a_caller_that_leaves_takes_nothing_from_the_others() -> None:
    async def body() -> None:
        table = Asked().table()
        view = table.attach([URL])
        first, second = (asyncio.create_task(view.arrival(URL, 5)) for _ in range(2))
        await asyncio.sleep(0)
        first.cancel()
        await asyncio.sleep(0)
        table.take(changed(b"{}"))
        assert await second is not None and first.cancelled()

    run(body)


def test_closing_ends_all_waiting() -> None:
    async def body() -> None:
        table = Asked().table()
        waiting = asyncio.create_task(table.attach([URL]).arrival(URL, 60))
        await asyncio.sleep(0)
        table.close()
        assert await waiting is None

    run(body)
