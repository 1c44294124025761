"""Fetched documents: what replaces a copy, when it is fetched again, and what a flood of wishes costs. Against real servers."""

from __future__ import annotations

import asyncio
import gzip
import logging
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import uvloop
from hypothesis import given
from hypothesis import strategies as st

from agw.admin.documents import MAX_FRESH_NS, STALE_NS, DocumentFetcher, Guard, Timing, freshness_ns, public_address
from agw.runtime.documents import Fetched, shown, version_of
from agw.runtime.plan_security import DocumentPlan
from tests.kits.plane import refused_host
from tests.peers.authority import Authority, serving
from tests.peers.tls import TlsUpstream
from tests.peers.upstream import Peer, Upstream

QUICK = Timing(floor=0.1, retry_first=0.05, retry_most=0.2, cooldown=0.4, attempt=0.5)
CALM = Timing(floor=60.0, retry_first=30.0, retry_most=60.0, cooldown=30.0, attempt=0.5)
"""Nothing happens by itself after the first attempt."""
KEYS = b'{"keys": []}'
ROTATED = b'{"keys": [{"kid": "new"}]}'
S = 1_000_000_000


class Fetching:
    """A fetcher in a loop, and what it told."""

    def __init__(self, timing: Timing, kept: tuple[Fetched, ...] = (), guard: Guard | None = None) -> None:
        self.news: list[Fetched] = []
        self.fetcher = DocumentFetcher(self.news.append, kept, guard=guard, timing=timing)

    @property
    def outcomes(self) -> list[str]:
        return [news.outcome for news in self.news]

    async def until(self, condition: Callable[[], object], what: str = "the news", patience: float = 8.0) -> None:
        end = time.monotonic() + patience
        while not condition():
            assert time.monotonic() < end, f"{what} did not come; there was {self.outcomes}"
            await asyncio.sleep(0.005)


def run(body: Callable[[Fetching], Awaitable[None]], *, timing: Timing = CALM, kept: tuple[Fetched, ...] = (), guard: Guard | None = None) -> Fetching:
    async def whole() -> Fetching:
        problems: list[Any] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: problems.append(context))
        fetching = Fetching(timing, kept, guard)
        try:
            await body(fetching)
        finally:
            fetching.fetcher.close()
            # What was cancelled ends, so that no connection outlives the loop.
            rest = asyncio.all_tasks() - {asyncio.current_task()}
            await asyncio.gather(*rest, return_exceptions=True)
        assert problems == []
        return fetching

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(whole())


def copy_of(url: str, body: bytes = KEYS, *, age_s: float = 0.0, fresh_s: float = 900.0, etag: str = "") -> Fetched:
    return Fetched(url, "changed", body, version_of(body), etag, time.monotonic_ns() - int(age_s * S), int(fresh_s * S))


def answering(body: bytes = KEYS, **how: Any) -> Callable[[Peer], None]:
    return lambda peer: peer.serve(body, **how)


# ---------------------------------------------------------------------------------------------------------- one attempt


def test_the_first_version_is_told_with_everything_a_successor_needs() -> None:
    with Upstream(answering(head=b'Cache-Control: public, max-age=300\r\nETag: "v1"\r\n')) as server:
        plan = DocumentPlan(f"http://{server.host}/jwks?tenant=7")

        async def body(it: Fetching) -> None:
            begun = time.monotonic_ns()
            it.fetcher.adopt([plan])
            await it.until(lambda: it.news)
            (news,) = it.news
            assert (news.url, news.outcome, news.body, news.version, news.etag) == (plan.url, "changed", KEYS, version_of(KEYS), '"v1"')
            assert begun <= news.fetched_ns <= time.monotonic_ns() and news.fresh_ns == 300 * S
            assert list(it.fetcher.ages_s()) == [(f"http://{server.host}/jwks",)] and it.fetcher.ages_s().popitem()[1] < 5
            assert it.fetcher.fetches() == {(f"http://{server.host}/jwks", "changed"): 1}

        run(body)
        (request,) = server.requests
        assert (request.method, request.target) == (b"GET", b"/jwks?tenant=7")
        assert request.get(b"accept-encoding") == [b"identity"] and request.get(b"if-none-match") == []


def cut(peer: Peer) -> None:
    peer.request()
    peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 900\r\n\r\n{")


def slow(peer: Peer) -> None:
    peer.request()
    peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 9000\r\n\r\n")
    peer.until_eof()


def endless(peer: Peer) -> None:
    peer.request()
    peer.send(b"HTTP/1.1 200 OK\r\n\r\n{")
    try:
        while True:
            peer.send(b" " * 65536)
    except OSError:
        pass


@pytest.mark.parametrize(
    ("script", "result", "cause"),
    [
        (answering(status=b"500 Oh"), "failed", "HTTP status 500"),
        (answering(status=b"404 Not Found"), "failed", "HTTP status 404"),
        (answering(status=b"302 Found", head=b"Location: /other\r\n"), "failed", "a redirect, which is not followed"),
        (answering(b"", status=b"304 Not Modified"), "failed", "HTTP status 304"),
        (answering(b"<html>"), "invalid", "not JSON"),
        (answering(b""), "invalid", "not JSON"),
        (answering(b'{"a": "\xff"}'), "invalid", "not JSON"),
        (answering(b"[" * 4000), "invalid", "not JSON"),
        (answering(b'["keys"]'), "invalid", "not a JSON object"),
        (answering(b'{"a": "' + b"x" * 5000 + b'"}'), "invalid", "larger than 4096 octets"),
        (endless, "invalid", "larger than 4096 octets"),
        (answering(gzip.compress(KEYS), head=b"Content-Encoding: gzip\r\n"), "invalid", "a content coding nobody asked for"),
        (cut, "failed", "no answer: RemoteProtocolError"),
        (lambda peer: peer.reset(), "failed", "no answer: "),
        (slow, "failed", "no whole answer in time"),
    ],
    ids=["500", "404", "redirect", "304", "html", "empty", "not-utf8", "deep", "array", "large", "endless", "gzip", "cut", "reset", "slow"],
)
def test_what_is_no_document_does_not_replace_one(script: Callable[[Peer], None], result: str, cause: str, caplog: pytest.LogCaptureFixture) -> None:
    with Upstream(script) as server:
        url = f"http://user:word@{server.host}/jwks?key=hidden"

        async def body(it: Fetching) -> None:
            it.fetcher.adopt([DocumentPlan(url, max_bytes=4096)])
            await it.until(lambda: it.news)
            assert it.news == [Fetched(url, "failed")]
            assert it.fetcher.fetches() == {(shown(url), result): 1}
            # The age is that of the copy, which is served on.
            assert 1000 < it.fetcher.ages_s()[(shown(url),)] < 1100

        run(body, kept=(copy_of(url, age_s=1000),))
    (record,) = [record for record in caplog.records if record.name == "agw.admin.documents"]
    assert record.levelno == logging.WARNING and record.__dict__["cause"].startswith(cause) and record.__dict__["url"] == f"http://{server.host}/jwks"
    assert "hidden" not in caplog.text and "word" not in caplog.text


@pytest.mark.parametrize("url", ["ftp://h/x", "file:///etc/passwd", "nonsense", "http://", "http://[::1", "http://h:99999/"])
def test_what_is_no_url_is_not_fetched(url: str) -> None:
    async def body(it: Fetching) -> None:
        it.fetcher.adopt([DocumentPlan(url)])
        await it.until(lambda: it.news)
        assert it.outcomes == ["failed"]

    run(body)


def test_a_copy_older_than_a_day_is_served_on_and_complained_about(caplog: pytest.LogCaptureFixture) -> None:
    url = f"http://{refused_host()}/jwks"

    async def body(it: Fetching) -> None:
        it.fetcher.adopt([DocumentPlan(url)])
        await it.until(lambda: it.news)
        assert it.news == [Fetched(url, "failed")] and it.fetcher.ages_s()[(url,)] > STALE_NS / S

    run(body, kept=(copy_of(url, age_s=STALE_NS / S + 60),))
    assert [record.levelno for record in caplog.records if "more than a day" in record.message] == [logging.ERROR]


# ------------------------------------------------------------------------------------------------------------ schedule


@pytest.mark.parametrize(
    ("control", "age", "seconds"),
    [
        ("", "", 900), ("max-age=120", "", 120), ("public, MAX-AGE=120, immutable", "", 120), ('max-age="60"', "", 60), ("max-age=100", "30", 70),
        ("max-age=100", "300", 0), ("max-age=100", "x", 100), ("s-maxage=5", "", 900), ("no-store", "", 0), ("max-age=60, no-cache", "", 0),
        ("max-age=99999999999999", "", 86_400), ("max-age=9999999999", "", 86_400), ("max-age=-1", "", 900), ("x-max-age=7", "", 900),
    ],
)  # fmt: skip
def test_freshness(control: str, age: str, seconds: int) -> None:
    assert freshness_ns({"cache-control": control, "age": age}, 900 * S) == seconds * S


@given(st.text(max_size=60), st.text(max_size=20), st.integers(0, 10**20))
def test_freshness_is_bounded_whatever_a_server_says(control: str, age: str, ttl_ns: int) -> None:
    assert 0 <= freshness_ns({"cache-control": control, "age": age}, ttl_ns) <= MAX_FRESH_NS


def test_a_server_that_is_down_is_asked_again_and_again() -> None:
    with Upstream(answering()) as server:
        server.stop_listening()

        async def body(it: Fetching) -> None:
            it.fetcher.adopt([DocumentPlan(f"http://{server.host}/")])
            begun = time.monotonic()
            await it.until(lambda: len(it.news) >= 4)
            # 50, 100 and 200 ms between four attempts, each a little less by chance.
            assert time.monotonic() - begun > 0.3
            assert set(it.outcomes) == {"failed"}
            server.listen_again()
            await it.until(lambda: it.outcomes[-1] == "changed")

        run(body, timing=QUICK)


def test_a_rotated_document_arrives_by_itself() -> None:
    with Upstream(answering(head=b"Cache-Control: max-age=0\r\n")) as server:

        async def body(it: Fetching) -> None:
            it.fetcher.adopt([DocumentPlan(f"http://{server.host}/")])
            await it.until(lambda: "same" in it.outcomes)
            server.play(answering(ROTATED))
            await it.until(lambda: it.outcomes.count("changed") == 2)
            changed = [news for news in it.news if news.outcome == "changed"]
            assert [news.body for news in changed] == [KEYS, ROTATED] and changed[0].version != changed[1].version
            # The same content is not sent again.
            assert {news.body for news in it.news if news.outcome == "same"} == {b""}

        run(body, timing=QUICK)


def test_ahead_of_its_end_and_never_sooner_than_the_floor() -> None:
    with Upstream(answering(head=b"Cache-Control: max-age=1\r\n")) as server:

        async def body(it: Fetching) -> None:
            it.fetcher.adopt([DocumentPlan(f"http://{server.host}/")])
            await it.until(lambda: len(it.news) == 2)
            assert 0.7 < (it.news[1].fetched_ns - it.news[0].fetched_ns) / S < 0.99

        run(body, timing=QUICK)

        async def floor(it: Fetching) -> None:
            it.fetcher.adopt([DocumentPlan(f"http://{server.host}/", ttl_ns=1)])
            await it.until(lambda: len(it.news) == 2)
            assert (it.news[1].fetched_ns - it.news[0].fetched_ns) / S >= 1.2

        run(floor, timing=QUICK._replace(floor=1.2))


def test_etags_save_the_body() -> None:
    with Upstream(answering(head=b'ETag: W/"1"\r\nCache-Control: max-age=0\r\n')) as server:
        url = f"http://{server.host}/"

        async def body(it: Fetching) -> None:
            it.fetcher.adopt([DocumentPlan(url)])
            await it.until(lambda: it.news)
            server.play(lambda peer: peer.serve(b"", status=b"304 Not Modified", head=b"Cache-Control: max-age=500\r\n"))
            await it.until(lambda: len(it.news) == 2)
            same = it.news[1]
            assert (same.outcome, same.body, same.etag, same.fresh_ns) == ("same", b"", 'W/"1"', 500 * S)
            kept = same.after(it.news[0])
            assert kept is not None and (kept.body, kept.fetched_ns, kept.fresh_ns) == (KEYS, same.fetched_ns, 500 * S)

        run(body, timing=QUICK)
        assert server.requests[-1].get(b"if-none-match") == [b'W/"1"']


@pytest.mark.parametrize("etag", [b'"\xc3\xa9"', b'"' + b"x" * 600 + b'"', b'"\x01"'])
def test_an_etag_that_could_not_be_sent_back_is_forgotten(etag: bytes) -> None:
    with Upstream(answering(head=b"Cache-Control: max-age=0\r\nETag: " + etag + b"\r\n")) as server:

        async def body(it: Fetching) -> None:
            it.fetcher.adopt([DocumentPlan(f"http://{server.host}/")])
            await it.until(lambda: len(it.news) >= 2)

        assert {news.etag for news in run(body, timing=QUICK).news} == {""}
        assert all(request.get(b"if-none-match") == [] for request in server.requests)


# -------------------------------------------------------------------------------------------------------------- wanted


def test_a_flood_of_wishes_is_one_fetch_per_cool_down() -> None:
    with Upstream(answering()) as server:
        plan = DocumentPlan(f"http://{server.host}/")
        timing = CALM._replace(cooldown=0.6)

        async def body(it: Fetching) -> None:
            it.fetcher.adopt([plan])
            await it.until(lambda: it.outcomes == ["changed"])
            server.play(answering(ROTATED))
            end = time.monotonic() + 2.0
            while time.monotonic() < end:
                it.fetcher.want(plan.url)
                await asyncio.sleep(0.001)
            assert 3 <= len(server.requests) <= 4
            assert it.outcomes.count("changed") == 2
            # Each wish that is put off is answered at once.
            assert it.outcomes.count("later") > 50

        run(body, timing=timing)


def test_a_flood_of_wishes_for_what_was_never_loaded() -> None:
    with Upstream(answering(status=b"503 Busy")) as server:
        plan = DocumentPlan(f"http://{server.host}/")

        async def body(it: Fetching) -> None:
            it.fetcher.adopt([plan])
            await it.until(lambda: it.outcomes == ["failed"])
            for _ in range(1000):
                it.fetcher.want(plan.url)
            await asyncio.sleep(0.2)
            assert len(server.requests) == 1
            assert it.outcomes.count("failed") == 1

        run(body)


def test_a_wish_is_granted_at_once_when_the_last_attempt_is_long_ago() -> None:
    with Upstream(answering(ROTATED)) as server:
        url = f"http://{server.host}/"

        async def body(it: Fetching) -> None:
            it.fetcher.adopt([DocumentPlan(url)])
            it.fetcher.want(url)
            it.fetcher.want("http://nobody.knows/this")
            await it.until(lambda: it.news)
            assert it.outcomes == ["changed"] and it.news[0].body == ROTATED

        run(body, kept=(copy_of(url, age_s=31),))


def test_one_attempt_at_a_time() -> None:
    asked, go = threading.Event(), threading.Event()

    def script(peer: Peer) -> None:
        request = peer.request()
        asked.set()
        peer.pause(go)
        peer.answer(request, KEYS)

    with Upstream(script) as server:
        plan = DocumentPlan(f"http://{server.host}/")

        async def body(it: Fetching) -> None:
            it.fetcher.adopt([plan])
            await it.until(asked.is_set)
            for _ in range(100):
                it.fetcher.want(plan.url)
            go.set()
            await it.until(lambda: it.news)
            assert it.outcomes == ["changed"] and len(server.requests) == 1

        run(body, timing=CALM._replace(cooldown=0.0, attempt=5.0))


# -------------------------------------------------------------------------------------------------------------- reloads


def test_a_reload_forgets_begins_and_leaves_alone() -> None:
    with Upstream(answering()) as server:
        a, b, c = (DocumentPlan(f"http://{server.host}/{name}") for name in "abc")

        async def body(it: Fetching) -> None:
            it.fetcher.adopt([a, b])
            await it.until(lambda: len(it.news) == 2)
            it.fetcher.adopt([b, c])
            await it.until(lambda: len(it.news) == 3)
            it.fetcher.want(a.url)
            assert sorted(news.url for news in it.news) == [a.url, b.url, c.url]
            assert sorted(it.fetcher.ages_s()) == [(b.url,), (c.url,)]
            assert sorted(it.fetcher.fetches()) == [(b.url, "changed"), (c.url, "changed")]
            # Another way to the same document is tried at once.
            it.fetcher.adopt([b, DocumentPlan(c.url, max_bytes=4)])
            await it.until(lambda: it.outcomes[3:] == ["failed"])

        run(body)


def test_a_successor_begins_with_what_is_known() -> None:
    with Upstream(answering()) as server:
        fresh, old = f"http://{server.host}/fresh", f"http://{server.host}/old"

        async def body(it: Fetching) -> None:
            it.fetcher.adopt([DocumentPlan(fresh), DocumentPlan(old)])
            assert sorted(it.fetcher.ages_s()) == [(fresh,), (old,)]
            await it.until(lambda: it.news)
            assert [(news.url, news.outcome) for news in it.news] == [(old, "same")]
            assert [request.target for request in server.requests] == [b"/old"]

        run(body, kept=(copy_of(fresh, age_s=100), copy_of(old, age_s=800)))


# ----------------------------------------------------------------------------------------------------- where it may go


def test_a_url_from_outside_needs_a_guard() -> None:
    with Upstream(answering()) as server:

        async def body(it: Fetching) -> None:
            it.fetcher.adopt([DocumentPlan(f"http://{server.host}/", internal=False)])
            await it.until(lambda: it.news)
            assert it.outcomes == ["failed"]

        run(body)
        assert server.requests == []


def test_the_guard_chooses_the_address() -> None:
    with Upstream(answering()) as server:
        port = server.host.rpartition(":")[2]
        asked = []

        async def guard(url: str) -> str:
            asked.append(url)
            if "inside.test" in url:
                raise ValueError("a private address")
            return "127.0.0.1"

        async def body(it: Fetching) -> None:
            it.fetcher.adopt([DocumentPlan(f"http://no.such.name.test:{port}/x", internal=False)])
            await it.until(lambda: it.news)
            assert it.outcomes == ["changed"]
            it.fetcher.adopt([DocumentPlan(f"http://inside.test:{port}/x", internal=False)])
            await it.until(lambda: len(it.news) == 2)
            assert it.outcomes == ["changed", "failed"]

        run(body, guard=guard)
        assert asked == [f"http://no.such.name.test:{port}/x", f"http://inside.test:{port}/x"]
        (request,) = server.requests
        assert request.get(b"host") == [f"no.such.name.test:{port}".encode()]


@pytest.mark.parametrize("url", ["http://{host}/", "https://{host}/", "https://localhost:{port}/", "https://[::1]:{port}/", "https://169.254.169.254/"])
def test_the_guard_of_the_helper_lets_nothing_inside(url: str) -> None:
    with Upstream(answering()) as server:

        async def body(it: Fetching) -> None:
            it.fetcher.adopt([DocumentPlan(url.format(host=server.host, port=server.host.rpartition(":")[2]), internal=False)])
            await it.until(lambda: it.news)
            assert it.outcomes == ["failed"]

        run(body, guard=public_address)
        assert server.peers == []


def test_tls_trusts_what_the_plan_says() -> None:
    ca = Authority()
    with TlsUpstream(serving(ca.issue("idp.test", "localhost")), answering()) as server:
        port = server.host.rpartition(":")[2]

        async def guard(url: str) -> str:
            return "127.0.0.1"

        async def body(it: Fetching) -> None:
            async def one(plan: DocumentPlan) -> str:
                del it.news[:]
                it.fetcher.adopt([plan])
                await it.until(lambda: it.news)
                return it.outcomes[0]

            assert await one(DocumentPlan(f"https://localhost:{port}/", ca=ca.pem)) == "changed"
            assert await one(DocumentPlan(f"https://localhost:{port}/a", ca=Authority("other").pem)) == "failed"
            assert await one(DocumentPlan(f"https://localhost:{port}/b")) == "failed"
            assert await one(DocumentPlan(f"https://127.0.0.1:{port}/c", ca=ca.pem)) == "failed"
            assert await one(DocumentPlan(f"https://127.0.0.1:{port}/d", insecure=True)) == "changed"
            assert await one(DocumentPlan(f"https://localhost:{port}/e", ca="nonsense")) == "failed"
            # The certificate is checked for the name of the URL, not for the address it was replaced by.
            assert await one(DocumentPlan(f"https://idp.test:{port}/f", ca=ca.pem, internal=False)) == "changed"
            assert await one(DocumentPlan(f"https://other.test:{port}/g", ca=ca.pem, internal=False)) == "failed"

        run(body, guard=guard)


@pytest.mark.parametrize(
    ("url", "seen"),
    [("https://u:p@h.test:8443/a/b?k=v#f", "https://h.test:8443/a/b"), ("https://h.test", "https://h.test"), ("http://[::1", "invalid"), ("http://[::1]:5/x", "http://[::1]:5/x")],
)
def test_urls_are_shown_without_secrets(url: str, seen: str) -> None:
    assert shown(url) == seen


def test_who_fetches_nothing_does_not_load_the_client() -> None:
    code = "import sys, agw.admin.helper, agw.supervisor.supervisor; sys.exit('httpx2' in sys.modules or 'agw.admin.documents' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
