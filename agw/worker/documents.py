"""Documents that the helper process fetches, as one worker sees them.

Rules:
- what the supervisor sends is kept as it comes; nothing here opens a connection;
- a worker asks for a document at most once per cool-down, so a flood of unknown keys costs one message;
- waiting ends with the first news of the document, good or bad: who waits for a key learns at once that there is none;
- who watches by a bound method is held weakly, so policies come and go with their snapshot, however many reloads they outlive;
  any other callable stays as long as the document.
"""

from __future__ import annotations

import asyncio
import logging
import time
import weakref
from collections.abc import Callable, Iterable
from types import MethodType

from agw.runtime.documents import COOLDOWN_S, Fetched, shown
from agw.security.contract import Document

log = logging.getLogger(__name__)

ANSWER_S = 15.0
"""How long an answer to "I want this" is waited for: the helper may have died over it."""


class DocumentTable:
    """All documents of one worker. Implements `agw.security.contract.Documents`; `ask` sends "I want this URL" to the supervisor."""

    def __init__(self, ask: Callable[[str], None], kept: Iterable[Fetched] = (), cooldown_s: float = COOLDOWN_S) -> None:
        self._ask = ask
        self._cooldown_s = cooldown_s
        self._documents = {news.url: Document(news.body, news.version) for news in kept}
        self._asked: dict[str, float] = {}
        self._awaited: dict[str, float] = {}
        self._failed: set[str] = set()
        self._waiters: dict[str, asyncio.Future[None]] = {}
        self._urls: frozenset[str] = frozenset()
        self._watchers: dict[str, list[Callable[[], Callable[[], object] | None]]] = {}

    def attach(self, urls: Iterable[str]) -> None:
        """A new snapshot has these documents; those only its predecessor had are forgotten."""
        wanted = frozenset(urls)
        # Not what is unknown: a new document may have come ahead of its snapshot.
        gone, self._urls = self._urls - wanted, wanted
        for url, watchers in self._watchers.items():
            self._watchers[url] = [watcher for watcher in watchers if watcher() is not None]
        for url in gone:
            self._documents.pop(url, None)
            self._watchers.pop(url, None)
            self._asked.pop(url, None)
            self._awaited.pop(url, None)
            self._failed.discard(url)
            self._wake(url)

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
            self._tell(url)
        self._wake(url)

    def _tell(self, url: str) -> None:
        for watcher in self._watchers.get(url, ()):
            changed = watcher()
            if changed is not None:
                try:
                    changed()
                except Exception:
                    log.exception("what a document means could not be taken over", extra={"url": shown(url)})

    def get(self, url: str) -> Document | None:
        """See Documents."""
        return self._documents.get(url)

    def want(self, url: str) -> None:
        """See Documents. Asks the helper, unless that was done lately; a URL that is not in the plan is nobody's to fetch."""
        now = time.monotonic()
        if url in self._urls and now - self._asked.get(url, float("-inf")) >= self._cooldown_s:
            self._asked[url] = now
            self._awaited[url] = now + ANSWER_S
            self._ask(url)

    def watch(self, url: str, changed: Callable[[], object]) -> None:
        """See Documents."""
        weak = isinstance(changed, MethodType)
        watcher: Callable[[], Callable[[], object] | None] = weakref.WeakMethod(changed) if weak else lambda: changed
        self._watchers.setdefault(url, []).append(watcher)

    async def arrival(self, url: str, timeout_s: float) -> Document | None:
        """See Documents. Ends at once when nothing is on its way."""
        unknown = url in self._urls and url not in self._documents and url not in self._failed
        if unknown or self._awaited.get(url, 0.0) > time.monotonic():
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
        self._watchers.clear()
