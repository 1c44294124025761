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
    table = Asked().table(changed(b"{}"))
    table.attach([URL, OTHER])
    assert table.get(URL) == Document(b"{}", version_of(b"{}")) and table.get(OTHER) is None


def test_versions_are_told_once_each() -> None:
    table = Asked().table(changed(b"{}"))
    table.attach([URL])
    told = []
    table.watch(URL, lambda: told.append(table.get(URL)))
    for news in (changed(b"{}"), Fetched(URL, "same"), Fetched(URL, "failed"), Fetched(URL, "later"), changed(b"{1}"), changed(b"{1}"), changed(b"{}", OTHER)):
        table.take(news)
    assert told == [Document(b"{1}", version_of(b"{1}"))]


def test_a_watcher_that_fails_harms_nobody_else(caplog: pytest.LogCaptureFixture) -> None:
    table = Asked().table()
    table.attach([URL])
    told = []

    def bad() -> None:
        raise ValueError("a key")

    table.watch(URL, bad)
    table.watch(URL, lambda: told.append(1))
    table.take(changed(b"{}"))
    assert told == [1] and "could not be taken over" in caplog.text


class Follower:
    """A policy that follows a document."""

    def __init__(self, table: DocumentTable, told: list[str], name: str) -> None:
        self._told = told
        self._name = name
        table.watch(URL, self.changed)

    def changed(self) -> None:
        self._told.append(self._name)


def test_policies_are_told_as_long_as_they_live_over_any_number_of_reloads() -> None:
    table = Asked().table()
    told: list[str] = []
    table.attach([URL])
    kept, gone = Follower(table, told, "kept"), Follower(table, told, "gone")
    table.take(changed(b"{1}"))
    assert told == ["kept", "gone"]
    del gone
    for _ in range(5):
        table.attach([URL, OTHER])
    table.take(changed(b"{2}"))
    assert told == ["kept", "gone", "kept"] and kept


def test_a_document_that_left_the_plan_is_forgotten_and_one_that_is_early_is_not() -> None:
    asked = Asked()
    table = asked.table(changed(b"{}"))
    table.attach([URL])
    table.take(changed(b"{2}", OTHER))
    table.attach([OTHER])
    assert table.get(URL) is None and table.get(OTHER) == Document(b"{2}", version_of(b"{2}"))
    # And it is no longer asked for.
    table.want(URL)
    assert asked == []
    table.attach([URL])
    table.want(URL)
    assert table.get(URL) is None and asked == [URL]


def test_a_flood_of_wishes_is_one_question() -> None:
    asked = Asked()
    table = asked.table(cooldown_s=0.3)
    table.attach([URL])
    for _ in range(10_000):
        table.want(URL)
    table.want("https://not.in.the.plan/")
    assert asked == [URL]
    time.sleep(0.3)
    table.want(URL)
    assert asked == [URL, URL]


def test_waiting_for_the_first_version() -> None:
    async def body() -> None:
        table = Asked().table()
        table.attach([URL])
        many = [asyncio.create_task(table.arrival(URL, 5)) for _ in range(100)]
        await asyncio.sleep(0)
        table.take(changed(b"{}"))
        assert set(await asyncio.gather(*many)) == {Document(b"{}", version_of(b"{}"))}
        assert await table.arrival(URL, 5) is not None

    run(body)


def test_nobody_waits_for_what_is_known_to_fail() -> None:
    async def body() -> None:
        table = Asked().table()
        table.attach([URL])
        waiting = asyncio.create_task(table.arrival(URL, 5))
        await asyncio.sleep(0)
        table.take(Fetched(URL, "failed"))
        assert await waiting is None
        begun = time.monotonic()
        assert await table.arrival(URL, 5) is None and await table.arrival("https://not.in.the.plan/", 5) is None
        assert time.monotonic() - begun < 1
        table.take(changed(b"{}"))
        assert await table.arrival(URL, 5) is not None

    run(body)


def test_waiting_has_an_end() -> None:
    async def body() -> None:
        table = Asked().table()
        table.attach([URL])
        begun = time.monotonic()
        assert await table.arrival(URL, 0.05) is None
        assert 0.04 < time.monotonic() - begun < 2

    run(body)


@pytest.mark.parametrize("outcome", ["changed", "same", "failed", "later"])
def test_who_wanted_hears_of_any_end(outcome: str) -> None:
    async def body() -> None:
        table = Asked().table(changed(b"{}"))
        table.attach([URL])
        assert await table.arrival(URL, 5) is not None
        table.want(URL)
        waiting = asyncio.create_task(table.arrival(URL, 5))
        await asyncio.sleep(0.01)
        assert not waiting.done()
        table.take(changed(b"{2}") if outcome == "changed" else Fetched(URL, outcome))  # type: ignore[arg-type]
        found = await waiting
        assert found is not None and found.body == (b"{2}" if outcome == "changed" else b"{}")
        # Inside the cool-down nothing more is on its way, so nobody waits.
        table.want(URL)
        assert await asyncio.wait_for(table.arrival(URL, 60), 1) == found

    run(body)


def test_an_answer_that_never_comes_is_not_waited_for_again_and_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ANSWER_S", 0.05)

    async def body() -> None:
        table = Asked().table(changed(b"{}"))
        table.attach([URL])
        table.want(URL)
        await asyncio.sleep(0.06)
        assert await asyncio.wait_for(table.arrival(URL, 60), 1) is not None

    run(body)


def test_a_caller_that_leaves_takes_nothing_from_the_others() -> None:
    async def body() -> None:
        table = Asked().table()
        table.attach([URL])
        first, second = (asyncio.create_task(table.arrival(URL, 5)) for _ in range(2))
        await asyncio.sleep(0)
        first.cancel()
        await asyncio.sleep(0)
        table.take(changed(b"{}"))
        assert await second is not None and first.cancelled()

    run(body)


def test_closing_ends_all_waiting() -> None:
    async def body() -> None:
        table = Asked().table()
        table.attach([URL])
        waiting = asyncio.create_task(table.arrival(URL, 60))
        await asyncio.sleep(0)
        table.close()
        assert await waiting is None

    run(body)
