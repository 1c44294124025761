"""The steps of authorization, csrf and sources, each with requests of their own."""

from __future__ import annotations

import ipaddress
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agw.runtime.plan_security import CsrfPlan, RulePlan, RulesPlan, SourcesPlan
from agw.security import csrf, http_rules, network_rules, sources
from agw.security.contract import AUTHORIZATION, Found, Headers, Refusal


class Gate:
    def __init__(self, by_peer: bool) -> None:
        self.by_peer = by_peer


class Head:
    """A request."""

    hopped = False
    certificate = None
    query = None

    def __init__(self, headers: Headers | None = None, method: str = "POST", peer: bytes = b"192.0.2.1", secure: bool = False, by_peer: bool = False) -> None:
        self.method = method
        self.path = b"/a"
        self.headers: Headers = [(b"host", b"app.example")] if headers is None else headers
        self.peer = peer
        self.secure = secure
        self.gate = Gate(by_peer)

    def values(self, name: bytes) -> list[bytes]:
        return [value for key, value in self.headers if key == name]


class Host:
    """Counts."""

    def __init__(self) -> None:
        self.counted: list[tuple[str, str]] = []

    def count(self, what: str, result: str) -> None:
        self.counted.append((what, result))


def step(module: Any, plan: Any) -> tuple[Any, Host]:
    host = Host()
    return module.factory(plan, host), host


def rules(*texts: str) -> RulesPlan:
    return RulesPlan("http", [RulePlan(text) for text in texts])


# ---------------------------------------------------------------------------------------------------- authorization


def test_what_the_rules_do_not_allow_is_403() -> None:
    made, host = step(http_rules, rules('jwt.sub == "a"'))
    found = Found()
    found.claims["jwt"] = {"sub": "a"}
    assert made.check(Head(), found) is None
    assert found.lasting
    refusal = made.check(Head(), Found())
    assert isinstance(refusal, Refusal)
    assert (refusal.status, refusal.reason) == (403, AUTHORIZATION)
    assert b"jwt" not in refusal.message
    assert host.counted == [("authorization", "allowed"), ("authorization", "error"), ("authorization", "denied")]


@pytest.mark.parametrize(
    ("text", "by_peer", "lasting"),
    [
        ('jwt.sub == "a" || true', False, True),
        ('source.address == "192.0.2.1"', False, False),
        ('source.address == "192.0.2.1"', True, True),
        ('source.subject == "x" || true', True, False),
        ('request.path == "/a"', True, False),
        ("now > timestamp('2020-01-01T00:00:00Z')", True, False),
        ("true", False, True),
    ],
)
def test_a_decision_lasts_as_long_as_what_it_depends_on(text: str, by_peer: bool, lasting: bool) -> None:
    made, _ = step(http_rules, rules(text))
    found = Found()
    assert made.check(Head(by_peer=by_peer), found) is None
    assert found.lasting is lasting


# ------------------------------------------------------------------------------------------------------------- csrf

OWN = (b"host", b"app.example")


@pytest.mark.parametrize(
    ("method", "secure", "headers", "passes"),
    [
        ("GET", False, [(b"sec-fetch-site", b"cross-site")], True),
        ("POST", False, [], True),
        ("POST", False, [(b"sec-fetch-site", b"same-origin")], True),
        ("POST", False, [(b"sec-fetch-site", b"none")], True),
        ("POST", False, [(b"sec-fetch-site", b"same-site")], False),
        ("POST", False, [(b"sec-fetch-site", b"cross-site"), (b"origin", b"http://app.example")], False),
        ("DELETE", False, [(b"sec-fetch-site", b"cross-site"), (b"origin", b"https://listed.example")], True),
        ("POST", False, [(b"sec-fetch-site", b"same-origin"), (b"sec-fetch-site", b"same-origin")], False),
        ("POST", False, [(b"origin", b"http://app.example")], True),
        ("POST", False, [(b"origin", b"http://APP.example:80")], True),
        ("POST", False, [(b"origin", b"https://app.example")], False),
        ("POST", True, [(b"origin", b"https://app.example:443")], True),
        ("POST", False, [(b"origin", b"http://app.example:81")], False),
        ("POST", False, [(b"origin", b"http://app.example.evil")], False),
        ("POST", False, [(b"origin", b"null")], False),
        ("POST", False, [(b"origin", b"")], False),
        ("POST", False, [(b"origin", b"http://app.example"), (b"origin", b"http://app.example")], False),
        ("POST", False, [(b"origin", b"https://LISTED.example:443")], True),
        ("POST", False, [(b"sec-fetch-site", b"")], False),
    ],
)
def test_csrf(method: str, secure: bool, headers: Headers, passes: bool) -> None:
    made, host = step(csrf, CsrfPlan(["https://listed.example"]))
    found = Found()
    verdict = made.check(Head([OWN, *headers], method, secure=secure), found)
    assert not found.lasting
    assert (verdict is None) is passes
    if verdict is not None:
        assert verdict.status == 403
        assert host.counted == [("csrf", "denied")]


def test_csrf_with_two_hosts_or_none_knows_no_own_origin() -> None:
    made, _ = step(csrf, CsrfPlan())
    for headers in ([OWN, OWN, (b"origin", b"http://app.example")], [(b"origin", b"http://")], [(b"host", b""), (b"origin", b"http://x")]):
        assert made.check(Head(headers), Found()) is not None


# ---------------------------------------------------------------------------------------------------------- sources


def admits(peer: bytes, allow: list[str], deny: list[str]) -> bool:
    made, _ = step(sources, SourcesPlan(allow, deny))
    return bool(made.check(Head(peer=peer), Found()) is None)


def test_addresses_are_allowed_and_denied() -> None:
    assert admits(b"10.1.2.3", ["10.0.0.0/8"], [])
    assert not admits(b"11.1.2.3", ["10.0.0.0/8"], [])
    assert not admits(b"10.1.2.3", ["10.0.0.0/8"], ["10.1.0.0/16"])
    assert admits(b"11.1.2.3", [], ["10.1.0.0/16"])
    assert admits(b"::ffff:10.1.2.3", ["10.0.0.0/8"], [])
    assert admits(b"10.1.2.3", ["::ffff:10.0.0.0/104"], [])
    assert not admits(b"10.1.2.3", ["::/0"], [])
    assert admits(b"fe80::1%eth0", ["fe80::/10"], [])
    assert not admits(b"", ["0.0.0.0/0"], [])
    assert admits(b"", [], ["0.0.0.0/0"])
    assert admits(b"10.1.2.3", ["10.1.2.3"], [])


def test_a_decision_by_address_lasts_where_the_gate_shows_it() -> None:
    made, host = step(sources, SourcesPlan(["192.0.2.0/24"]))
    for by_peer in (True, False):
        found = Found()
        assert made.check(Head(by_peer=by_peer), found) is None
        assert found.lasting is by_peer
    refusal = made.check(Head(peer=b"198.51.100.1"), Found())
    assert refusal.status == 403
    assert host.counted == [("sources", "denied")]


_ADDRESS = st.ip_addresses()
_BLOCK = st.builds(lambda address, length: f"{address}/{length if address.version == 4 else length * 4}", _ADDRESS, st.integers(0, 32))


@given(st.lists(_BLOCK, max_size=8), st.lists(_BLOCK, max_size=8), _ADDRESS)
@settings(max_examples=300, deadline=None)
def test_blocks_agree_with_asking_each(allow: list[str], deny: list[str], address: Any) -> None:
    if (address.version == 6 and address.ipv4_mapped) or any("ffff:" in block for block in allow + deny):
        return

    def within(blocks: list[str]) -> bool:
        return any(address in ipaddress.ip_network(block, strict=False) for block in blocks)

    expected = not within(deny) and (not allow or within(allow))
    assert admits(str(address).encode(), allow, deny) is expected


def test_many_blocks_cost_no_more_than_few_and_memory_is_bounded() -> None:
    made = sources.factory(SourcesPlan(deny=[f"10.{a}.{b}.0/24" for a in range(100) for b in range(100)]), Host())
    peers = [f"10.200.{number >> 8}.{number & 255}".encode() for number in range(2 * sources.CACHED)]
    started = time.process_time()
    assert all(made.admits(peer) for peer in peers)
    assert time.process_time() - started < 2, "16,384 addresses against 10,000 blocks"
    assert len(made._known) <= sources.CACHED
    assert not made.admits(b"10.99.99.1")


# ---------------------------------------------------------------------------------------------------------- network


def network(*texts: str) -> tuple[network_rules.NetworkRules, Host]:
    host = Host()
    return network_rules.NetworkRules(RulesPlan("network", [RulePlan(text) for text in texts]), host), host  # type: ignore[arg-type]


def test_connections_are_decided_by_address_port_and_certificate() -> None:
    made, host = network('cidr("10.0.0.0/8").containsIP(source.address)')
    assert [made.admits(address) for address in ("10.1.1.1", "11.1.1.1", "")] == [True, False, False]
    assert not made.needs_certificate
    assert host.counted == [("networkAuthorization", "denied"), ("networkAuthorization", "error"), ("networkAuthorization", "denied")]
    made, _ = network("source.port < 1024")
    assert (made.admits("1.1.1.1", 80), made.admits("1.1.1.1", 8080), made.needs_certificate) == (True, False, False)
    made, _ = network('has(source.spiffeId) && source.identity.trustDomain == "td"')
    assert made.needs_certificate
    assert made.admits("1.1.1.1", 1, {"spiffeId": "spiffe://td/ns/n/sa/s"})
    assert not made.admits("1.1.1.1", 1, {"spiffeId": ""})
    assert not made.admits("1.1.1.1", 1)


def test_decisions_by_address_are_remembered_within_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network_rules, "CACHED", 8)
    made, host = network('source.address == "1.1.1.1"')
    assert not made.admits("2.2.2.2")
    assert not made.admits("2.2.2.2")
    assert host.counted == [("networkAuthorization", "denied")] * 2
    for number in range(50):
        made.admits(f"3.3.3.{number}")
    assert len(made._known) <= 8
