"""Documents that the helper process fetches, as one worker sees them.

Rules:
- what the supervisor sends is kept as it comes; nothing here opens a connection;
- a worker asks for a document at most once per cool-down, so a flood of unknown keys costs one message;
- waiting ends with the first news of the document, good or bad: who waits for a key learns at once that there is none;
- those who watch belong to a snapshot (`View`); the last two snapshots are told, as requests may still run on the older one.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable

from agw.runtime.documents import COOLDOWN_S, Fetched, shown
from agw.security.contract import Document

log = logging.getLogger(__name__)

ANSWER_S = 15.0
"""How long an answer to "I want this" is waited for: the helper may have died over it."""


class DocumentTable:
    """All documents of one worker. `ask` sends "I want this URL" to the supervisor."""

    def __init__(self, ask: Callable[[str], None], kept: Iterable[Fetched] = (), cooldown_s: float = COOLDOWN_S) -> None:
        self._ask = ask
        self._cooldown_s = cooldown_s
        self._documents = {news.url: Document(news.body, news.version) for news in kept}
        self._asked: dict[str, float] = {}
        self._awaited: dict[str, float] = {}
        self._failed: set[str] = set()
        self._waiters: dict[str, asyncio.Future[None]] = {}
        self._views: list[View] = []

    def attach(self, urls: Iterable[str]) -> View:
        """The view of a new snapshot whose plan has these documents; the rest is forgotten."""
        view = View(self, frozenset(urls))
        # What neither this snapshot nor the one before names. Newer documents may have come ahead of their snapshot.
        gone = frozenset(url for old in self._views for url in old.urls) - view.urls
        self._views = [*self._views[-1:], view]
        for url in gone:
            self._documents.pop(url, None)
            self._asked.pop(url, None)
            self._awaited.pop(url, None)
            self._failed.discard(url)
            self._wake(url)
        return view

    def take(self, news: Fetched) -> None:
        """News from the helper."""
        url = news.url
        self._awaited.pop(url, None)
        if news.outcome == "failed":
            self._failed.add(url)
        elif news.outcome != "later":
            self._failed.discard(url)
        known = self._documents.get(url)
        if news.outcome == "changed" and (known is None or known.version != news.version):
            self._documents[url] = Document(news.body, news.version)
            for view in self._views:
                view.changed(url)
        self._wake(url)

    def get(self, url: str) -> Document | None:
        """The newest good one."""
        return self._documents.get(url)

    def want(self, url: str) -> None:
        """Ask the helper, unless that was done lately."""
        now = time.monotonic()
        if now - self._asked.get(url, float("-inf")) >= self._cooldown_s:
            self._asked[url] = now
            self._awaited[url] = now + ANSWER_S
            self._ask(url)

    async def arrival(self, url: str, timeout_s: float) -> Document | None:
        """Wait for the first or the wanted version; at once when nothing is on its way."""
        if self._awaited.get(url, 0.0) > time.monotonic() or (url not in self._documents and url not in self._failed):
            waiter = self._waiters.get(url)
            if waiter is None:
                waiter = self._waiters[url] = asyncio.get_running_loop().create_future()
            await asyncio.wait((waiter,), timeout=timeout_s)
        return self._documents.get(url)

    def _wake(self, url: str) -> None:
        waiter = self._waiters.pop(url, None)
        if waiter is not None:
            waiter.set_result(None)

    def close(self) -> None:
        """The worker leaves: nobody waits any longer, nobody is told."""
        for url in list(self._waiters):
            self._wake(url)
        self._views.clear()


class View:
    """The documents of one snapshot. Implements `agw.security.contract.Documents`."""

    def __init__(self, table: DocumentTable, urls: frozenset[str]) -> None:
        self.urls = urls
        self._table = table
        self._watchers: dict[str, list[Callable[[], object]]] = {}

    def get(self, url: str) -> Document | None:
        """See Documents."""
        return self._table.get(url)

    def want(self, url: str) -> None:
        """See Documents. A URL that is not in the plan is nobody's to fetch."""
        if url in self.urls:
            self._table.want(url)

    def watch(self, url: str, changed: Callable[[], object]) -> None:
        """See Documents. Holds until the snapshot after the next."""
        self._watchers.setdefault(url, []).append(changed)

    async def arrival(self, url: str, timeout_s: float) -> Document | None:
        """See Documents. None at once for a URL that is not in the plan."""
        return await self._table.arrival(url, timeout_s) if url in self.urls else None

    def changed(self, url: str) -> None:
        """A new version is here: tell those who watch."""
        for watcher in self._watchers.get(url, ()):
            try:
                watcher()
            except Exception:
                log.exception("what a document means could not be taken over", extra={"url": shown(url)})
