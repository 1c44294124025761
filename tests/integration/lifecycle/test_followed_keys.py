"""jwtAuth whose keys are behind a URL, through the real gateway: rotation, an endpoint that is down, floods, deaths, reloads."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from tests.kits.gateway import Gateway, direct_route, proxy_config, wait_until
from tests.peers.upstream import Peer, Upstream

SERVE = Path(__file__).with_name("serve_documents.py")
ISSUER = "https://issuer.test"


class Key:
    """A signing key with its id."""

    def __init__(self, kid: str) -> None:
        self.kid = kid
        self._key = ec.generate_private_key(ec.SECP256R1())

    @property
    def jwk(self) -> dict[str, Any]:
        return {**jwt.algorithms.ECAlgorithm.to_jwk(self._key.public_key(), as_dict=True), "kid": self.kid, "alg": "ES256", "use": "sig"}

    def token(self, kid: str = "", **claims: Any) -> dict[str, str]:
        """Headers with a token of its own."""
        body = {"iss": ISSUER, "sub": "me", "exp": int(time.time()) + 600, "jti": os.urandom(4).hex(), **claims}
        return {"Authorization": "Bearer " + jwt.encode(body, self._key, "ES256", {"kid": kid or self.kid})}


def publishing(*keys: Key) -> Callable[[Peer], None]:
    body = json.dumps({"keys": [key.jwk for key in keys]}).encode()
    return lambda peer: peer.serve(body, head=b"Cache-Control: max-age=3600\r\n")


def configuration(url: str, answer: str = "in") -> dict[str, Any]:
    route = direct_route(answer)
    route["policies"]["jwtAuth"] = {"mode": "strict", "issuer": ISSUER, "jwks": {"url": url}}
    return proxy_config(routes=[route])


@pytest.fixture(scope="module")
def keys() -> tuple[Key, Key]:
    return Key("one"), Key("two")


@pytest.fixture
def issuer(keys: tuple[Key, Key]) -> Iterator[Upstream]:
    with Upstream(publishing(keys[0])) as server:
        yield server


@pytest.fixture
def gateway(issuer: Upstream, tmp_path: Path) -> Iterator[Gateway]:
    """Two workers that know the first key. Its helper fetches what is wanted at most twice a second."""
    with Gateway(configuration(f"http://{issuer.host}/jwks"), wrapper=[sys.executable, str(SERVE)], directory=tmp_path) as running:
        wait_until(lambda: running.metrics().total("document_fetches_total", result="changed") == 1, 10, "the keys")
        yield running


def statuses(gateway: Gateway, make: Callable[[], dict[str, str]], count: int = 12) -> set[int]:
    """Over connections of their own, so that both workers are asked."""
    return {gateway.get(headers=make()).status for _ in range(count)}


def cooled(gateway: Gateway) -> None:
    """The cool-down of the last fetch is over: the helper says how old its document is."""
    wait_until(lambda: gateway.metrics().total("document_age_seconds") > 0.6, 5, "the end of the cool-down")


def test_who_has_a_token_of_the_issuer_gets_in(gateway: Gateway, keys: tuple[Key, Key]) -> None:
    one, two = keys
    assert statuses(gateway, one.token) == {200}
    assert statuses(gateway, dict) == {401}
    assert statuses(gateway, lambda: two.token("one")) == {401}
    metrics = gateway.metrics()
    assert metrics.total("auth_decisions_total", policy="jwt", result="missing") == 12
    assert metrics.total("auth_decisions_total", policy="jwt", result="refused") == 12


def test_a_new_key_gets_in_with_its_first_token(gateway: Gateway, issuer: Upstream, keys: tuple[Key, Key]) -> None:
    one, two = keys
    issuer.play(publishing(one, two))
    cooled(gateway)
    # The key is fetched while the first request waits.
    assert gateway.get(headers=two.token()).status == 200
    assert statuses(gateway, two.token) == statuses(gateway, one.token) == {200}


def test_an_endpoint_that_is_down_harms_no_known_key_whoever_dies(gateway: Gateway, issuer: Upstream, keys: tuple[Key, Key]) -> None:
    one, two = keys
    issuer.stop_listening()
    cooled(gateway)
    assert statuses(gateway, two.token) == {401}
    assert statuses(gateway, one.token) == {200}
    helper = gateway.helper_pid()
    for pid in (*gateway.named("agw-worker"), helper):
        os.kill(pid, signal.SIGKILL)
    wait_until(lambda: len(gateway.pids()) == 2 and helper not in gateway.named("agw-helper") and gateway.named("agw-helper"), 10, "successors")
    assert statuses(gateway, one.token) == {200}


def test_a_slow_endpoint_delays_no_known_key(gateway: Gateway, issuer: Upstream, keys: tuple[Key, Key]) -> None:
    one, two = keys
    go, asked = threading.Event(), threading.Event()

    def hang(peer: Peer) -> None:
        request = peer.request()
        asked.set()
        peer.pause(go)
        peer.answer(request, b"{}")

    issuer.play(hang)
    cooled(gateway)
    with ThreadPoolExecutor(1) as pool:
        # Its key may be among those that are on their way.
        patient = pool.submit(gateway.get, headers=two.token())
        assert asked.wait(5)
        for _ in range(6):
            assert gateway.get(headers=one.token(), timeout=1).status == 200
        assert not patient.done(), "known keys were not slower than the unknown one"
        assert patient.result(5).status == 401
        assert statuses(gateway, one.token) == {200}
        go.set()


def test_a_flood_of_unknown_keys_is_a_fetch_per_cool_down(gateway: Gateway, issuer: Upstream, keys: tuple[Key, Key]) -> None:
    one, two = keys
    begun, before = time.monotonic(), len(issuer.requests)
    assert statuses(gateway, lambda: two.token(os.urandom(8).hex()), 300) == {401}
    assert len(issuer.requests) - before <= (time.monotonic() - begun) / 0.5 + 1
    assert statuses(gateway, one.token) == {200}


def test_keys_are_followed_after_reloads_that_do_not_touch_them(gateway: Gateway, issuer: Upstream, keys: tuple[Key, Key]) -> None:
    one, two = keys
    for number in range(3):
        gateway.reload(configuration(f"http://{issuer.host}/jwks", f"answer {number}"))
    assert gateway.get(headers=one.token()).text == "answer 2"
    issuer.play(publishing(two))
    cooled(gateway)
    assert gateway.get(headers=two.token()).status == 200
    # What was signed by the key that is gone ends with it, in each worker.
    wait_until(lambda: statuses(gateway, one.token) == {401}, 5, "the end of the first key")


def test_another_url_is_another_set_of_keys(gateway: Gateway, keys: tuple[Key, Key]) -> None:
    one, two = keys
    with Upstream(publishing(two)) as other:
        gateway.reload(configuration(f"http://{other.host}/jwks"))
        wait_until(lambda: statuses(gateway, two.token) == {200}, 5, "the keys of the other endpoint")
        assert statuses(gateway, one.token) == {401}
