"""Spellings of paths and hosts: one normal form decides the route and the rule, and it is what the backend gets.

Each spelling of tests/vectors/security/spellings.json is sent twice: `/admin` is a route of its own that wants a login, and `/rules/admin` is denied by
a rule of a route for everything else. What is `admin` is stopped both times, what is `open` reaches the backend in the form that was judged,
what is `refused` reaches nobody.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.kits.gateway import Gateway, wait_until
from tests.peers.client import Client
from tests.peers.upstream import Peer, Upstream

SPELLINGS = json.loads((Path(__file__).parents[2] / "vectors" / "security" / "spellings.json").read_text())
NAMES = ["guarded.example", "guarded.example.", "GUARDED.example", "Guarded.Example.", "guarded.example:80", "guarded.example.:8080", "x.guarded.example."]
HOSTS = [name.encode() for name in NAMES]


@pytest.fixture(scope="module")
def upstream() -> Iterator[Upstream]:
    with Upstream(Peer.serve) as server:
        yield server


@pytest.fixture(scope="module")
def gateway(upstream: Upstream) -> Iterator[Gateway]:
    login = {"apiKey": {"mode": "strict", "keys": [{"key": "a-key-that-is-long-enough"}]}}
    rules = {"authorization": {"rules": [{"deny": 'request.path.startsWith("/rules/admin/") || request.path == "/rules/admin"'}]}}
    hosts = {"authorization": {"rules": [{"deny": 'request.host == "ruled.example" || request.host.endsWith(".ruled.example")'}]}}
    backend = [{"host": upstream.host}]

    def prefix(path: str) -> list[dict[str, Any]]:
        return [{"path": {"pathPrefix": path}}]

    config = {
        "gateways": {"default": {"port": 0, "address": "127.0.0.1"}}, "config": {"connectionTerminationDeadline": "1s"},
        "frontendPolicies": {"accessLog": {"enabled": True}},
        "routes": [
            {"name": "guarded", "hostnames": ["guarded.example", "*.guarded.example"], "policies": login, "backends": backend},
            {"name": "ruled", "hostnames": ["*.example"], "policies": hosts, "backends": backend},
            {"name": "admin", "matches": prefix("/admin"), "policies": login, "backends": backend},
            {"name": "rules", "matches": prefix("/rules"), "policies": rules, "backends": backend},
            {"name": "open", "matches": prefix("/"), "backends": backend},
            {"name": "slow", "matches": [{"path": {"regex": "/(a|aa|a*)*(a|b)*c"}}], "backends": backend},
            {"name": "slow header", "matches": [{"path": {"pathPrefix": "/h"}, "headers": [{"name": "x", "value": {"regex": "(x+x+)+y"}}],
                                                 "query": [{"name": "q", "value": {"regex": "(z*)*z{0,30}!"}}]}], "backends": backend},
        ],
    }  # fmt: skip
    with Gateway(config, workers=1) as running:
        yield running


def goes_on(spelling: dict[str, Any], below: str) -> bytes:
    """What the backend gets."""
    normal = str(spelling["goes"]).encode()
    if not below:
        return normal
    return below.encode() + (normal if normal != b"/" else b"/")


@pytest.mark.parametrize("below", ["", "/rules"], ids=["route", "rule"])
@pytest.mark.parametrize("spelling", SPELLINGS, ids=lambda spelling: spelling["sent"])
def test_a_spelling(gateway: Gateway, upstream: Upstream, spelling: dict[str, Any], below: str) -> None:
    sent = str(spelling["sent"])
    reached = len(upstream.requests)
    expected = spelling["is"]
    if below and (sent.startswith(("/../", "/%2e%2e/")) or "x/../../" in sent):
        expected = "elsewhere"  # a level further down these lead out of /rules, to /admin
    with Client(gateway.port) as client:
        answer = client.get((below + sent).encode("latin-1"))
    if expected == "open":
        assert answer.status == 200
        assert [seen.target.partition(b"?")[0] for seen in upstream.requests[reached:]] == [goes_on(spelling, below)]
        return
    assert answer.status == {"refused": 400, "elsewhere": 401, "admin": 403 if below else 401}[expected]
    assert len(upstream.requests) == reached
    assert b"admin" not in answer.body.lower(), "the answer repeats nothing of the path"


def test_refused_paths_are_counted_and_told_to_the_operator(gateway: Gateway) -> None:
    def refused() -> float:
        return gateway.metrics().total("requests_total", status="400")

    before = refused()
    with Client(gateway.port) as client:
        assert client.get("/of/the/log%2f").status == 400
    assert refused() == before + 1

    def records() -> list[dict[str, Any]]:
        return [line for line in map(json.loads, gateway.stdout().splitlines()) if line.get("http.path") == "/of/the/log%2f"]

    record = wait_until(records, what="a record")[0]
    assert record["http.status"] == 400
    assert record["error"]


@pytest.mark.parametrize("host", HOSTS, ids=lambda host: host.decode())
def test_every_spelling_of_a_host_takes_the_same_route_and_rule(gateway: Gateway, upstream: Upstream, host: bytes) -> None:
    reached = len(upstream.requests)
    with Client(gateway.port) as client:
        for name, status in ((host, 401), (host.lower().replace(b"guarded", b"ruled"), 403), (host.upper().replace(b"GUARDED", b"RULED"), 403)):
            client.send(b"GET / HTTP/1.1\r\nHost: " + name + b"\r\n\r\n")
            assert client.answer().status == status
            client.send(b"GET http://" + name + b"/ HTTP/1.1\r\nHost: " + name + b"\r\n\r\n")
            assert client.answer().status == status
    assert len(upstream.requests) == reached


def test_two_hosts_are_no_request(gateway: Gateway, upstream: Upstream) -> None:
    reached = len(upstream.requests)
    for lines in (b"Host: open.test\r\nHost: guarded.example\r\n", b"Host: open.test, guarded.example\r\n", b"Host: open.test guarded.example\r\n", b""):
        with Client(gateway.port) as client:
            client.send(b"GET / HTTP/1.1\r\n" + lines + b"\r\n")
            assert client.answer().status == 400
    assert len(upstream.requests) == reached


def test_no_path_and_no_header_makes_a_pattern_slow(gateway: Gateway) -> None:
    """With a matcher that goes back, each of these takes longer than the universe has time."""
    with Client(gateway.port) as client:
        assert client.get("/" + "a" * 8000).status == 200
        assert client.get("/h?q=" + "z" * 7000, b"X: " + b"x" * 15000).status == 200
        assert client.get("/" + "a" * 100 + "c").status == 200
