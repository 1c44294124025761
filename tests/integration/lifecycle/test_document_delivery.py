"""Documents on their way: helper, supervisor, workers; deaths of each, reloads, floods. The documents are put into the plan."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import msgspec
import pytest

from agw.runtime.documents import version_of
from agw.runtime.plan_security import DocumentPlan
from tests.kits.gateway import Gateway, proxy_config, wait_until
from tests.peers.upstream import Upstream

SERVE = Path(__file__).with_name("serve_documents.py")
V1 = b'{"keys": []}'
V2 = b'{"keys": [2]}'
QUICK = 1
"""A ttl that is over at once."""
CALM = 900_000_000_000


class Documented(Gateway):
    """A gateway with documents in its plan, see serve_documents.py."""

    def __init__(self, documents: list[DocumentPlan], directory: Path, workers: int = 2) -> None:
        super().__init__(proxy_config(), wrapper=[sys.executable, str(SERVE)], directory=directory, workers=workers)
        self.put(documents)

    def put(self, documents: list[DocumentPlan]) -> None:
        """What the next start or reload has."""
        (self.directory / "documents.json").write_bytes(msgspec.json.encode(documents))

    def want(self, *urls: str) -> None:
        """What workers want from now on."""
        fresh = self.directory / "want.new"
        fresh.write_text(" ".join(urls))
        fresh.rename(self.directory / "want")

    def seen(self, url: str) -> dict[int, list[int | None]]:
        """By worker, the versions its snapshots found and were told."""
        found: dict[int, list[int | None]] = {}
        for line in self.log_lines():
            if line["msg"] == "document" and line["url"] == url:
                found.setdefault(line["worker_pid"], []).append(line["version"])
        return found

    def until_all_have(self, url: str, body: bytes) -> None:
        """Wait until every living worker's newest version of a document is this."""

        def all_have() -> bool:
            seen = self.seen(url)
            workers = self.named("agw-worker")
            return bool(workers) and all(seen.get(pid, [None])[-1] == version_of(body) for pid in workers)

        wait_until(all_have, 10, f"{url} in all workers")


class Begin:
    """Starts gateways for a test."""

    def __init__(self, stack: ExitStack, directory: Path) -> None:
        self._stack = stack
        self._directory = directory

    def __call__(self, *documents: DocumentPlan, workers: int = 2) -> Documented:
        return self._stack.enter_context(Documented(list(documents), self._directory, workers))


@pytest.fixture
def begin(tmp_path: Path) -> Iterator[Begin]:
    with ExitStack() as stack:
        yield Begin(stack, tmp_path)


@pytest.fixture
def server() -> Iterator[Upstream]:
    with Upstream(lambda peer: peer.serve(V1)) as upstream:
        yield upstream


def rotate(server: Upstream, body: bytes) -> None:
    server.play(lambda peer: peer.serve(body))


def test_all_workers_get_each_version(begin: Begin, server: Upstream) -> None:
    url = f"http://{server.host}/jwks"
    gateway = begin(DocumentPlan(url, ttl_ns=QUICK))
    gateway.until_all_have(url, V1)
    rotate(server, V2)
    gateway.until_all_have(url, V2)
    # Each version was told once.
    assert all(versions in ([None, version_of(V1), version_of(V2)], [version_of(V1), version_of(V2)]) for versions in gateway.seen(url).values())
    metrics = gateway.metrics()
    assert metrics.total("document_fetches_total", url=url, result="changed") == 2
    assert 0 <= metrics.total("document_age_seconds", url=url) < 5
    assert metrics.total("auth_decisions_total", policy="jwt", result="ok") == 2


def test_a_worker_that_starts_later_has_what_the_others_have_though_the_server_is_gone(begin: Begin, server: Upstream) -> None:
    url = f"http://{server.host}/jwks"
    gateway = begin(DocumentPlan(url, ttl_ns=CALM))
    gateway.until_all_have(url, V1)
    server.stop_listening()
    victim = gateway.named("agw-worker")[0]
    os.kill(victim, signal.SIGKILL)
    wait_until(lambda: victim not in gateway.pids() and len(gateway.pids()) == 2, 10, "a successor")
    (successor,) = gateway.seen(url).keys() - {victim} - set(list(gateway.seen(url))[:2])
    assert gateway.seen(url)[successor] == [version_of(V1)]


def test_a_helper_that_starts_later_goes_on_with_what_the_supervisor_kept(begin: Begin, server: Upstream) -> None:
    url = f"http://{server.host}/jwks"
    gateway = begin(DocumentPlan(url, ttl_ns=CALM))
    gateway.until_all_have(url, V1)
    fetched = len(server.requests)
    first = gateway.helper_pid()
    os.kill(first, signal.SIGKILL)
    wait_until(lambda: gateway.named("agw-helper") not in ([], [first]), 10, "a new helper")
    wait_until(lambda: gateway.ready() == 200, 10, "a new helper that answers")
    # It knows the document and its age, and sees no reason to fetch it.
    assert gateway.metrics().total("document_age_seconds", url=url) > 0
    assert len(server.requests) == fetched and gateway.metrics().total("document_fetches_total") == 0
    rotate(server, V2)
    gateway.want(url)
    gateway.until_all_have(url, V2)


def test_a_server_that_comes_up_late(begin: Begin, server: Upstream) -> None:
    server.stop_listening()
    url = f"http://{server.host}/jwks"
    gateway = begin(DocumentPlan(url, ttl_ns=CALM))
    wait_until(lambda: gateway.metrics().total("document_fetches_total", url=url, result="failed") > 2, 10, "failures")
    assert set(map(tuple, gateway.seen(url).values())) == {(None,)}
    assert gateway.metrics().total("document_age_seconds") == 0
    server.listen_again()
    gateway.until_all_have(url, V1)


def test_a_reload_brings_and_takes_documents(begin: Begin, server: Upstream) -> None:
    a, b, c = (f"http://{server.host}/{name}" for name in "abc")
    gateway = begin(DocumentPlan(a, ttl_ns=CALM), DocumentPlan(b, ttl_ns=CALM))
    gateway.until_all_have(a, V1)
    gateway.until_all_have(b, V1)
    gateway.put([DocumentPlan(b, ttl_ns=CALM), DocumentPlan(c, ttl_ns=CALM)])
    gateway.reload()
    gateway.until_all_have(c, V1)
    # What stayed was not fetched again, and the new snapshots had it at once.
    assert [request.target for request in server.requests].count(b"/b") == 1
    assert {versions[-1] for versions in gateway.seen(b).values()} == {version_of(V1)}
    ages = gateway.metrics()
    assert ages.total("document_age_seconds", url=a) == 0 < ages.total("document_age_seconds", url=c)
    gateway.put([])
    gateway.reload()
    # A name that comes back is fetched anew.
    rotate(server, V2)
    gateway.put([DocumentPlan(a, ttl_ns=CALM)])
    gateway.reload()
    gateway.until_all_have(a, V2)
    assert all(versions[-2:] == [None, version_of(V2)] or versions[-1:] == [version_of(V2)] for versions in gateway.seen(a).values())


def test_a_flood_of_wishes_of_all_workers_is_one_fetch_per_cool_down(begin: Begin, server: Upstream) -> None:
    url = f"http://{server.host}/jwks"
    gateway = begin(DocumentPlan(url, ttl_ns=CALM), workers=4)
    gateway.until_all_have(url, V1)
    begun, before = time.monotonic(), len(server.requests)
    gateway.want(url, "http://not.in.the.plan/")
    wait_until(lambda: len(server.requests) >= before + 3, 10, "wishes that are granted")
    gateway.want()
    took = time.monotonic() - begun
    assert len(server.requests) - before <= took / 0.5 + 2


def test_a_large_document_over_the_small_buffers_of_a_channel(begin: Begin, server: Upstream) -> None:
    large = b'{"a": "' + b"x" * 1_000_000 + b'"}'
    rotate(server, large)
    url = f"http://{server.host}/large"
    gateway = begin(DocumentPlan(url, ttl_ns=CALM), workers=3)
    gateway.until_all_have(url, large)
    assert gateway.get().status == 200
