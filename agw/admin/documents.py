"""Fetches the documents of the plan (JWKS, discovery documents) in the helper process and keeps them fresh.

    never loaded, failed         again after 1 s, 2 s, 4 s ... 60 s; what is known stays in use
    loaded                       again at 80 % of max-age (else of the plan's ttl), a little earlier by chance, never within 60 s
    wanted (an unknown key id)   at once, but not within 30 s of the last attempt; then when those are over

Rules:
- one attempt per URL at a time, and at most `PARALLEL` in all; every attempt is bounded in time and size;
- redirects are not followed, content codings not undone, the environment's proxies not used;
- only a JSON object with status 200 replaces what is known;
- where the plan did not come from the operator (`internal` false), a guard chooses the address to connect to, so the name
  cannot mean something else a moment later; without a guard nothing is fetched;
- a document that cannot be refreshed goes on being served, however old: an issuer that is down must not lock everybody out,
  and tokens end by themselves. Each failed attempt is logged, as an error once the copy is older than 24 h; the age is a metric;
- logs and labels name URLs without user, password and query, and never quote what came back.

Sources: RFC 9111 (max-age, Age), RFC 9110 section 13.1.2 (If-None-Match).
"""

from __future__ import annotations

import asyncio
import logging
import random
import re
import ssl
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import NamedTuple

import httpx2
import msgspec

from agw.runtime.documents import COOLDOWN_S, Fetched, Outcome, shown, version_of
from agw.runtime.plan import TlsClientPlan
from agw.runtime.plan_security import DocumentPlan
from agw.runtime.tls import TlsError, client_context
from agw.security.ssrf import check_url, resolve_public

log = logging.getLogger(__name__)

PARALLEL = 8
STALE_NS = 24 * 3_600_000_000_000
MAX_FRESH_NS = STALE_NS
"""No document is trusted for longer without asking, whatever its origin says."""
PIECE = 65536
MAX_ETAG = 512

Tell = Callable[[Fetched], None]
Guard = Callable[[str], Awaitable[str]]
"""A URL from outside to the IP address to connect to. Errors: ValueError, saying why there is none."""



async def public_address(url: str) -> str:
    """The guard of the helper: https to a public address only. Errors: ValueError (`agw.security.ssrf.Refused`)."""
    return (await resolve_public(check_url(url).host))[0]


RESULTS = ("changed", "same", "failed", "invalid")
"""How an attempt ends in the metric: a new content, the known one, no usable answer, an answer that is no JSON object."""


class Timing(NamedTuple):
    """Seconds. Tests have their own."""

    floor: float = 60.0
    retry_first: float = 1.0
    retry_most: float = 60.0
    cooldown: float = COOLDOWN_S
    attempt: float = 10.0


USUAL = Timing()


class NotUsable(Exception):
    """No document; the text says why. `invalid`: there was an answer, but not one to keep."""

    def __init__(self, text: str, *, invalid: bool = False) -> None:
        super().__init__(text)
        self.invalid = invalid


def freshness_ns(headers: Mapping[str, str], ttl_ns: int) -> int:
    """How long an answer is fresh: its max-age less its Age, else the plan's ttl; no longer than a day, before the floor."""
    control = headers.get("cache-control", "").lower()
    found = re.search(r"(?:^|[,\s])max-age\s*=\s*\"?(\d{1,10})", control)
    if re.search(r"(?:^|[,\s])no-(?:cache|store)(?:$|[,\s=])", control):
        ttl_ns = 0
    elif found is not None:
        age = headers.get("age", "")
        ttl_ns = (int(found[1]) - (int(age) if age.isascii() and age.isdigit() and len(age) <= 10 else 0)) * 1_000_000_000
    return min(max(ttl_ns, 0), MAX_FRESH_NS)


class _Source:
    """One URL: its copy, its timer, its running attempt."""

    def __init__(self, owner: DocumentFetcher, plan: DocumentPlan, kept: Fetched | None) -> None:
        self.plan = plan
        self.kept = kept
        self.failures = 0
        self._owner = owner
        self._timing = owner.timing
        self._loop = asyncio.get_running_loop()
        self._task: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        # The loop's clock is CLOCK_MONOTONIC, too.
        self._begun = kept.fetched_ns / 1e9 if kept is not None else float("-inf")
        self._at(0.0 if kept is None else self._refresh_at(kept))

    def _refresh_at(self, kept: Fetched) -> float:
        ahead = kept.fresh_ns / 1e9 * 0.8 * random.uniform(0.9, 1.0)
        return kept.fetched_ns / 1e9 + max(ahead, self._timing.floor)

    def _at(self, when: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_at(when, self._due)

    def _due(self) -> None:
        self._timer = None
        self._task = self._loop.create_task(self._attempt())

    def reconfigure(self, plan: DocumentPlan) -> None:
        """Another plan for the same URL: what changed shows in a fetch of its own."""
        if plan != self.plan:
            self.plan = plan
            if self._task is None:
                self._at(0.0)

    def want(self) -> None:
        """Somebody misses something in it."""
        if self._task is not None:
            return
        allowed = max(self._loop.time(), self._begun + self._timing.cooldown)
        if self._timer is None or allowed < self._timer.when():
            self._at(allowed)
        if allowed > self._loop.time():
            self._owner.tell(Fetched(self.plan.url, "later"))

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._task is not None:
            self._task.cancel()

    async def _attempt(self) -> None:
        async with self._owner.slots:
            self._begun = self._loop.time()
            plan = self.plan
            try:
                async with asyncio.timeout(self._timing.attempt):
                    news = await fetch(plan, self.kept, self._owner.guard)
                self.failures = 0
                self._owner.count(plan.url, news.outcome)
            except (NotUsable, TimeoutError) as error:
                self.failures += 1
                news = Fetched(plan.url, "failed")
                self._owner.count(plan.url, "invalid" if isinstance(error, NotUsable) and error.invalid else "failed")
                self._complain(str(error) or "no whole answer in time")
            except Exception:
                # Whatever it was: the next attempt comes.
                self.failures += 1
                news = Fetched(plan.url, "failed")
                self._owner.count(plan.url, "failed")
                log.exception("internal error while fetching a document", extra={"url": shown(plan.url)})
        self.kept = news.after(self.kept)
        self._task = None
        if plan != self.plan:
            self._at(0.0)
        elif self.failures or self.kept is None:
            most = min(self._timing.retry_most, self._timing.retry_first * 2.0 ** min(self.failures - 1, 16))
            self._at(self._loop.time() + most * random.uniform(0.9, 1.0))
        else:
            self._at(self._refresh_at(self.kept))
        self._owner.tell(news)

    def _complain(self, cause: str) -> None:
        age = time.monotonic_ns() - self.kept.fetched_ns if self.kept is not None else None
        more = {"url": shown(self.plan.url), "cause": cause, "failures": self.failures, "age_s": None if age is None else age // 1_000_000_000}
        if age is not None and age > STALE_NS:
            log.error("a document could not be refreshed for more than a day; the old one is still used", extra=more)
        else:
            log.warning("a document could not be fetched" if age is None else "a document could not be refreshed; the old one is used", extra=more)


class DocumentFetcher:
    """All documents of the plan. `tell` gets every outcome; needs a running loop."""

    def __init__(self, tell: Tell, kept: Iterable[Fetched] = (), *, guard: Guard | None = None, timing: Timing = USUAL) -> None:
        self.tell = tell
        self.guard = guard
        self.timing = timing
        self.slots = asyncio.Semaphore(PARALLEL)
        self._kept = {document.url: document for document in kept}
        self._sources: dict[str, _Source] = {}
        self._counts: dict[tuple[str, ...], int] = {}

    def adopt(self, plans: Iterable[DocumentPlan]) -> None:
        """A new plan: new documents are fetched, those without a plan forgotten, the rest goes on."""
        wanted = {plan.url: plan for plan in plans}
        for url in [url for url in self._sources if url not in wanted]:
            self._sources.pop(url).stop()
        names = {shown(url) for url in wanted}
        self._counts = {key: count for key, count in self._counts.items() if key[0] in names}
        for url, plan in wanted.items():
            source = self._sources.get(url)
            if source is None:
                self._sources[url] = _Source(self, plan, self._kept.get(url))
            else:
                source.reconfigure(plan)
        self._kept.clear()

    def want(self, url: str) -> None:
        """A worker misses something in it; an unknown URL is one that a reload has just removed."""
        source = self._sources.get(url)
        if source is not None:
            source.want()

    def count(self, url: str, result: str) -> None:
        """One more attempt ended."""
        key = (shown(url), result)
        self._counts[key] = self._counts.get(key, 0) + 1

    def fetches(self) -> dict[tuple[str, ...], int]:
        """Attempts by (url, result), of this process."""
        return dict(self._counts)

    def ages_s(self) -> dict[tuple[str, ...], float]:
        """Seconds since each document was last known to be good; those never loaded are left out."""
        now = time.monotonic_ns()
        ages: dict[tuple[str, ...], float] = {}
        for url, source in self._sources.items():
            if source.kept is not None:
                key = (shown(url),)
                ages[key] = max(ages.get(key, 0.0), (now - source.kept.fetched_ns) / 1e9)
        return ages

    def close(self) -> None:
        """Stop everything."""
        self.adopt(())


def _context(plan: DocumentPlan, secure: bool) -> ssl.SSLContext:
    if not secure:
        # Never used, but httpx2 would load the system's certificates for 20 ms.
        return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        return client_context(TlsClientPlan(ca=plan.ca, verify=not plan.insecure))
    except TlsError as error:
        raise NotUsable(str(error)) from None


async def fetch(plan: DocumentPlan, kept: Fetched | None, guard: Guard | None) -> Fetched:
    """One attempt. Errors: NotUsable. The caller bounds the time."""
    try:
        url = httpx2.URL(plan.url)
    except (httpx2.InvalidURL, ValueError):
        raise NotUsable("not a URL") from None
    if url.scheme not in ("http", "https") or not url.host:
        raise NotUsable("only http and https URLs are fetched")
    headers = {"accept": "application/json", "accept-encoding": "identity", "user-agent": "agw"}
    extensions = {}
    if kept is not None and kept.etag:
        headers["if-none-match"] = kept.etag
    secure = url.scheme == "https"
    if not plan.internal:
        if guard is None:
            raise NotUsable("a URL from outside, and no guard to check it")
        headers["host"] = url.netloc.decode("ascii")
        extensions["sni_hostname"] = url.host
        try:
            url = url.copy_with(host=await guard(plan.url))
        except ValueError as error:
            raise NotUsable(f"refused: {error}") from None
    try:
        async with (
            httpx2.AsyncClient(verify=_context(plan, secure), trust_env=False, follow_redirects=False, timeout=None) as client,
            client.stream("GET", url, headers=headers, extensions=extensions) as answer,
        ):
            begun = time.monotonic_ns()
            fresh = freshness_ns(answer.headers, plan.ttl_ns)
            if answer.status_code == 304 and kept is not None and kept.etag:
                return Fetched(plan.url, "same", etag=kept.etag, fetched_ns=begun, fresh_ns=fresh)
            if answer.status_code != 200:
                raise NotUsable("a redirect, which is not followed" if answer.has_redirect_location else f"HTTP status {answer.status_code}")
            if answer.headers.get("content-encoding", "identity").strip().lower() != "identity":
                raise NotUsable("a content coding nobody asked for", invalid=True)
            body = bytearray()
            async for piece in answer.aiter_raw(PIECE):
                body += piece
                if len(body) > plan.max_bytes:
                    raise NotUsable(f"larger than {plan.max_bytes} octets", invalid=True)
            etag = answer.headers.get("etag", "")
    except (httpx2.HTTPError, OSError) as error:
        raise NotUsable(f"no answer: {type(error).__name__}") from None
    except AttributeError:
        # anyio over uvloop, when a connection is reset between its beginning and its first use.
        raise NotUsable("no answer: the connection was lost at once") from None
    if not (len(etag) <= MAX_ETAG and etag.isascii() and etag.isprintable()):
        etag = ""
    return _judged(plan, kept, bytes(body), etag, begun, fresh)


def _judged(plan: DocumentPlan, kept: Fetched | None, body: bytes, etag: str, begun: int, fresh: int) -> Fetched:
    try:
        found = msgspec.json.decode(body)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        raise NotUsable("not JSON", invalid=True) from None
    if not isinstance(found, dict):
        raise NotUsable("not a JSON object", invalid=True)
    version = version_of(body)
    outcome: Outcome = "same" if kept is not None and kept.version == version else "changed"
    if outcome == "same":
        return Fetched(plan.url, outcome, etag=etag, fetched_ns=begun, fresh_ns=fresh)
    return Fetched(plan.url, outcome, body, version, etag, begun, fresh)
