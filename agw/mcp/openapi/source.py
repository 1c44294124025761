"""Where an OpenAPI document comes from, and when it is read again.

Rules:
- the document is parsed in a thread, one at a time, at first use; callers wait for the same load and may give up on it;
- with a URL it is fetched again every `refresh_ns`, give or take a tenth, sooner after a failure with growing pauses; what
  is not modified or not changed is not parsed;
- a refresh that fails, in transit or in the document, keeps the last good tools;
- refreshing goes on while somebody is attached. Listeners hear of a changed list only.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol
from urllib.parse import urlsplit

from agw.mcp.openapi.text import MAX_BYTES, DocumentError
from agw.mcp.openapi.tools import ToolSet, build
from agw.mcp.transport import TransportError
from agw.runtime.origin import Answer
from agw.runtime.plan import OpenApiPlan

log = logging.getLogger(__name__)

FETCH_TIMEOUT_S = 30.0
FAILURE_PAUSE_S = 5.0
"""After a failed first load nobody asks again for this long; refreshes begin their pauses here."""


class Fetcher(Protocol):
    """What is needed of an origin. Errors: TransportError, of kind `status` for a 3xx, which is never followed."""

    async def fetch(
        self, method: bytes, path: bytes, headers: Sequence[tuple[bytes, bytes]], body: bytes | None, *, timeout_s: float, max_bytes: int
    ) -> Answer: ...


class SchemaSource:
    """The tools of one target, from the text and the URL of its plan.

    `origin` is the document's own, None when nothing fetches it: then the plan's text is all there is. `name` is the
    target's, for the log.
    """

    def __init__(self, name: str, plan: OpenApiPlan, origin: Fetcher | None) -> None:
        self._name = name
        self._text: bytes | None = plan.schema.encode() if plan.schema else None
        self._prefix = plan.prefix_path
        self._origin = origin
        self._path = _request_target(plan.url)
        self._refresh_s = max(plan.refresh_ns / 1e9, 0.001)
        self._current: ToolSet | None = None
        self._digest = b""
        self._etag: bytes | None = None
        self._loading: asyncio.Task[bool] | None = None
        self._failure: TransportError | None = None
        self._retry_at = 0.0
        self._timer: asyncio.Task[None] | None = None
        self._listeners: list[Callable[[], None]] = []

    @property
    def changes(self) -> bool:
        """Can the list change?"""
        return self._origin is not None and self._path is not None

    def attach(self, listener: Callable[[], None]) -> None:
        """Hear of changed lists until `detach`; keeps the refreshing going."""
        self._listeners.append(listener)
        if self.changes and self._timer is None:
            self._timer = asyncio.get_running_loop().create_task(self._keep_fresh())

    def detach(self, listener: Callable[[], None]) -> None:
        """Undo `attach`; the last one stops the refreshing."""
        if listener in self._listeners:
            self._listeners.remove(listener)
        if not self._listeners and self._timer is not None:
            self._timer.cancel()
            self._timer = None

    async def tools(self) -> ToolSet:
        """The tools as last known; the first call loads them.

        Errors: TransportError (the document cannot be fetched or used; the log has the details).
        """
        if self._current is not None:
            return self._current
        if self._failure is not None and time.monotonic() < self._retry_at:
            raise self._failure.with_traceback(None)
        await self.refresh()
        assert self._current is not None
        return self._current

    async def refresh(self) -> bool:
        """Read the document again now; True when the list of tools is another. Concurrent calls share one attempt.

        Errors: TransportError; the last good tools stay.
        """
        if self._loading is None:
            self._loading = asyncio.get_running_loop().create_task(self._load())
            self._loading.add_done_callback(self._loaded)
        return await asyncio.shield(self._loading)

    def _loaded(self, task: asyncio.Task[bool]) -> None:
        self._loading = None
        if not task.cancelled() and (error := task.exception()) is not None:
            self._retry_at = time.monotonic() + FAILURE_PAUSE_S
            self._failure = error if isinstance(error, TransportError) else None

    async def _load(self) -> bool:
        text, etag = self._text, None
        if self.changes and (self._current is not None or text is None):
            text, etag = await self._fetch()
        if text is None:
            if self._current is not None:
                return False
            raise TransportError("connect", "nothing fetches its OpenAPI document", sent=False)
        digest = hashlib.sha256(text).digest()
        if self._current is not None and digest == self._digest:
            self._etag = etag
            return False
        try:
            found = await asyncio.to_thread(build, text, self._prefix)
        except DocumentError as error:
            log.error("OpenAPI document cannot be used", extra={"target": self._name, "error": str(error)})
            if self.changes:
                self._text = None  # the URL may have a better one
            raise TransportError("protocol", "its OpenAPI document cannot be used", sent=False) from None
        changed = self._current is not None and found.listing != self._current.listing
        self._current, self._digest, self._etag = found, digest, etag
        self._text = None  # it is parsed; the next one comes from the URL
        if changed:
            log.info("OpenAPI document changed", extra={"target": self._name, "tools": len(found.tools)})
            for listener in list(self._listeners):
                listener()
        return changed

    async def _fetch(self) -> tuple[bytes | None, bytes | None]:
        """The document and its entity tag; no document when it is the one we have."""
        assert self._origin is not None and self._path is not None
        headers = [(b"accept", b"application/json, application/yaml;q=0.9, */*;q=0.5")]
        if self._etag is not None and self._current is not None:
            headers.append((b"if-none-match", self._etag))
        answer = await whatever_status(self._origin.fetch(b"GET", self._path, headers, None, timeout_s=FETCH_TIMEOUT_S, max_bytes=MAX_BYTES))
        if answer.status == 304 and len(headers) > 1:
            return None, self._etag
        if answer.status != 200:
            log.warning("OpenAPI document not fetched", extra={"target": self._name, "status": answer.status})
            raise TransportError("status", "its OpenAPI document cannot be fetched", sent=False, status=answer.status)
        return answer.body, answer.header(b"etag")

    async def _keep_fresh(self) -> None:
        failures = 0
        while True:
            pause = self._refresh_s if failures == 0 else min(self._refresh_s, FAILURE_PAUSE_S * 2 ** min(failures, 10))
            await asyncio.sleep(pause * random.uniform(0.9, 1.1))
            try:
                await self.refresh()
                failures = 0
            except TransportError as error:
                failures += 1
                log.warning("OpenAPI document not refreshed", extra={"target": self._name, "error": str(error)})


async def whatever_status(fetching: Awaitable[Answer]) -> Answer:
    """The answer of a fetch, whose 3xx come as errors of kind `status`. Errors: TransportError of any other kind."""
    try:
        return await fetching
    except TransportError as error:
        if error.kind != "status":
            raise
        return Answer(error.status, error.headers, error.body)


def _request_target(url: str) -> bytes | None:
    """Path and query of a URL; None when there is no URL."""
    if not url:
        return None
    parts = urlsplit(url)
    return ("/" + parts.path.lstrip("/") + (f"?{parts.query}" if parts.query else "")).encode()
