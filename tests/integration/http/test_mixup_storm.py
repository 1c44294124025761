"""Everything at once: many clients, an upstream that does something wrong in every third answer, clients that leave.

Whatever happens, an answer belongs to its request or is a gateway error, nothing is executed twice that may not be, and
afterwards nothing is left over.
"""

from __future__ import annotations

import os
import random
import threading
import time
from collections import Counter
from collections.abc import Iterator

import pytest

from tests.integration.http.conftest import configuration, host_route, settled, unharmed
from tests.kits.gateway import Gateway, open_fds, wait_until
from tests.peers.client import Client, Truncated
from tests.peers.upstream import Peer, Upstream

SECONDS = float(os.environ.get("AGW_TEST_SECONDS", "4"))


class Storm:
    """Scripts and clients that share one source of chance and one list of what was wrong."""

    def __init__(self, port: int, seed: int) -> None:
        self.port = port
        self.seed = seed
        self.over = threading.Event()
        self.wrong: list[str] = []
        self.seen: Counter[str] = Counter()
        self.executed: Counter[bytes] = Counter()

    def script(self, peer: Peer) -> None:
        r = random.Random(self.seed * 100_003 + peer.index)
        while True:
            request = peer.request()
            peer.owner.requests.clear()
            token = request.get(b"x-token")[0]
            if request.body and not request.body.endswith(token):
                self.wrong.append(f"request {token!r} has the body of another: {request.body[-80:]!r}")
            self.executed[token] += 1
            body = token * r.choice([1, 1, 1, 50, 3000])
            fault = r.choices(
                ["", "close", "reset", "early close", "short", "surplus", "garbage", "cut chunk", "interim", "slow"],
                [30, 2, 2, 2, 2, 2, 2, 2, 3, 3],
            )[0]
            chunked = r.random() < 0.4
            head = b"HTTP/1.1 200 OK\r\nX-Token: %b\r\n" % token
            if request.method == b"HEAD":
                whole = head + b"Content-Length: %d\r\n\r\n" % len(body)
            elif chunked:
                cuts = [body[i : i + 5000] for i in range(0, len(body), 5000)]
                whole = head + b"Transfer-Encoding: chunked\r\n\r\n" + b"".join(b"%x\r\n%b\r\n" % (len(c), c) for c in cuts) + b"0\r\n\r\n"
            else:
                whole = head + b"Content-Length: %d\r\n\r\n" % len(body) + body
            if fault == "early close":
                return
            if fault == "reset":
                peer.reset()
                return
            if fault == "garbage":
                peer.send(b"\x00" * 20 + b"\r\n\r\n" + whole)
                return
            if fault in ("short", "cut chunk"):
                peer.send(whole[: -r.randrange(1, min(len(whole), 200))])
                return
            if fault == "interim":
                peer.send(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nX-Token: %b\r\n\r\n" % token)
            if fault == "slow":
                self.over.wait(r.random() * 0.05)
                cut = r.randrange(1, len(whole))
                peer.send(whole[:cut])
                self.over.wait(r.random() * 0.02)
                whole = whole[cut:]
            # In one segment with the answer: what comes later could not be told from the answer to the next request.
            surplus = fault == "surplus" and len(whole) < 20_000
            peer.send(whole + (b"HTTP/1.1 200 OK\r\nX-Token: poison\r\nContent-Length: 6\r\n\r\npoison" if surplus else b""))
            if fault in ("close", "surplus"):
                return

    def ask(self, client: Client, r: random.Random, number: int, worker: int) -> bool:
        """One request; whether the connection can go on."""
        token = b"<%d-%d>" % (worker, number)
        method = r.choice([b"GET", b"GET", b"POST", b"POST", b"PUT", b"HEAD", b"DELETE"])
        body = b"z" * r.choice([0, 10, 5000, 100_000]) + token if method in (b"POST", b"PUT") else b""
        head = b"%b /s HTTP/1.1\r\nHost: h\r\nX-Token: %b\r\n" % (method, token)
        if not body:
            octets = head + b"\r\n"
        elif r.random() < 0.5:
            octets = head + b"Content-Length: %d\r\n\r\n" % len(body) + body
        else:
            octets = head + b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
        leave = r.random()
        try:
            if leave < 0.03:
                client.send(octets[: r.randrange(1, len(octets))])
                return False
            client.send(octets)
            if leave < 0.06:
                client.reset()
                return False
            if leave < 0.08:
                return False
            answer = client.head()
            while answer.status < 200:
                if answer.get(b"x-token") != [token]:
                    self.wrong.append(f"{token!r} got the interim answer of another: {answer.head!r}")
                answer = client.head()
            if answer.status == 200:
                if answer.get(b"x-token") != [token]:
                    self.wrong.append(f"{token!r} got another's head: {answer.head!r}")
                client.body(answer, method)
                if method != b"HEAD" and (not answer.body or answer.body.replace(token, b"")):
                    self.wrong.append(f"{token!r} got another's body: {answer.body[:100]!r}")
            else:
                client.body(answer, method)
                if answer.status not in (502, 503, 504):
                    self.wrong.append(f"{token!r} got {answer.head!r}")
            self.seen[str(answer.status)] += 1
        except (Truncated, ConnectionError) as error:
            # A cut body is fine; a second answer inside what came is not.
            self.seen["cut"] += 1
            got = getattr(error, "got", b"")
            if b"poison" in got or b'"error"' in got:
                self.wrong.append(f"{token!r} got {got[-200:]!r}")
            return False
        except (TimeoutError, AssertionError, ValueError) as error:
            self.wrong.append(f"{token!r}: {error!r}")
            return False
        finally:
            if method in (b"POST", b"PATCH") and self.executed[token] > 1:
                self.wrong.append(f"{token!r} was executed {self.executed[token]} times")
        return not answer.closes

    def client(self, worker: int) -> None:
        r = random.Random(self.seed * 7919 + worker)
        number = 0
        while not self.over.is_set():
            with Client(self.port) as client:
                while not self.over.is_set():
                    number += 1
                    if not self.ask(client, r, number, worker):
                        break


@pytest.fixture(scope="module")
def module_few(session_upstreams: dict[str, Upstream]) -> Iterator[Gateway]:
    backend = {"maxConnections": 3, "maxPending": 6, "pendingTimeout": "500ms"}
    with Gateway(configuration([host_route(session_upstreams["a"].host)], backend=backend), workers=1) as gateway:
        yield gateway


@pytest.fixture
def few(module_few: Gateway) -> Iterator[Gateway]:
    """Three connections to the upstream, so that most requests wait for one."""
    with unharmed(module_few):
        yield module_few


@pytest.mark.parametrize("kind", ["gateway", "few"])
def test_mixup_storm(request: pytest.FixtureRequest, upstream: Upstream, kind: str) -> None:
    gateway: Gateway = request.getfixturevalue(kind)
    seed = int(os.environ.get("AGW_TEST_SEED", "1"))
    (pid,) = gateway.pids()
    storm = Storm(gateway.port, seed)
    upstream.play(storm.script)
    upstream.record = False
    settled(gateway)
    before = open_fds(pid)
    threads = [threading.Thread(target=storm.client, args=(n,), daemon=True) for n in range(12)]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline and not storm.wrong:
        storm.over.wait(0.1)
    storm.over.set()
    for thread in threads:
        thread.join(10)
    upstream.errors = [e for e in upstream.errors if not isinstance(e, OSError)]
    assert not storm.wrong, storm.wrong[:5]
    assert storm.seen["200"] > 200, storm.seen
    settled(gateway)
    upstream.settle()
    wait_until(lambda: open_fds(pid) <= before + 3, 5, f"descriptors are given back ({before} before)")
