"""agw.security.ssrf: where the gateway goes because somebody else named the place."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agw.security import ssrf
from agw.security.ssrf import Place, Refused, check_url, guard, is_public, resolve_public

INSIDE = [
    "127.0.0.1", "127.255.255.254", "0.0.0.0", "10.1.2.3", "172.16.0.1", "172.31.255.255", "192.168.1.1", "169.254.169.254", "100.64.0.1",
    "224.0.0.1", "255.255.255.255", "240.0.0.1", "198.18.0.1", "192.0.2.1", "168.63.129.16", "100.100.100.200", "192.0.0.192",
]  # fmt: skip
INSIDE_6 = [
    "::", "::1", "fe80::1", "fc00::1", "fd00:ec2::254", "ff02::1", "2001:db8::1", "100::1", "64:ff9b:1::1", "fec0::1", "3fff::1", "2001:20::1", "4000::1",
]  # fmt: skip
OUTSIDE = ["1.1.1.1", "8.8.8.8", "172.32.0.1", "172.15.0.1", "100.128.0.1", "2606:4700::1111", "2a00:1450::1", "64:ff9b::808:808"]


def wrapped(text: str) -> list[str]:
    """The IPv6 addresses an IPv4 one hides in."""
    number = int(ipaddress.IPv4Address(text))
    forms = [0xFFFF << 32 | number, number, 0x64FF9B << 96 | number, 0x2002 << 112 | number << 80, 0x20010000 << 96 | (~number & 0xFFFFFFFF)]
    return [str(ipaddress.IPv6Address(form)) for form in forms]


@pytest.mark.parametrize("text", [*INSIDE, *INSIDE_6, *(form for item in INSIDE for form in wrapped(item))])
def test_addresses_inside(text: str) -> None:
    assert not is_public(ipaddress.ip_address(text))
    host = f"[{text}]" if ":" in text else text
    with pytest.raises(Refused):
        check_url(f"https://{host}/")
    assert check_url(f"http://{host}:8080/", internal=True).port == 8080


@pytest.mark.parametrize("text", OUTSIDE)
def test_addresses_outside(text: str) -> None:
    assert is_public(ipaddress.ip_address(text))


@given(st.integers(0, 2**32 - 1).map(ipaddress.IPv4Address))
def test_what_python_calls_not_global_is_inside(address: ipaddress.IPv4Address) -> None:
    assert not is_public(address) or (address.is_global and not address.is_multicast)


@given(st.integers(0, 2**128 - 1).map(ipaddress.IPv6Address))
def test_likewise_of_ipv6(address: ipaddress.IPv6Address) -> None:
    assert not is_public(address) or (address.is_global and not address.is_multicast and address.ipv4_mapped is None and address.sixtofour is None)


def test_a_good_url() -> None:
    assert check_url("https://Issuer.Example:8443/a/b?c=d") == Place("https", "issuer.example", 8443, "/a/b?c=d")
    assert check_url("https://issuer.example") == Place("https", "issuer.example", 443, "/")


@pytest.mark.parametrize(
    "url",
    [
        "", "https://", "http://issuer.example/", "ftp://issuer.example/", "file:///etc/passwd", "gopher://a.example", "//issuer.example/", "issuer.example",
        "https://user@issuer.example/", "https://user:pw@issuer.example/", "https://good.example@10.0.0.1/", "https://@issuer.example/",
        "https://issuer.example\\@10.0.0.1/", "https://issuer.example/#f", "https://issuer.example/#", "https://issuer.example:0/", "https://issuer.example:99999/",
        "https://issuer.example:x/", "https://localhost/", "https://a.localhost/", "https://printer.local/", "https://metadata.google.internal/", "https://intranet/",
        "https://2130706433/", "https://0x7f000001/", "https://127.1/", "https://0177.0.0.1/", "https://0x7f.0x1/", "https://1.2.3/", "https://a..example/",
        "https://-a.example/", "https://a.example./", "https://issuer.example%00.evil/", "https://%31%30.0.0.1/", "https://[::1%25eth0]/", "https://[::1/", "https://issuer.exämple/",
        "https://issuer.example/\r\nHost: x", "https://issuer.example/ a", "https://" + "a" * 2100 + ".example",
    ],
)  # fmt: skip
def test_urls_that_are_refused(url: str) -> None:
    with pytest.raises(Refused):
        check_url(url)


@given(st.text(max_size=60))
def test_no_other_exception(text: str) -> None:
    for url in (text, f"https://{text}", f"https://{text}/"):
        for internal in (False, True):
            try:
                check_url(url, internal=internal)
            except Refused:
                pass


def answers(monkeypatch: pytest.MonkeyPatch, *addresses: str) -> list[str]:
    """What the resolver of the system says; the names it was asked for are returned as they come."""
    asked: list[str] = []

    def getaddrinfo(host: str, *_: Any, **__: Any) -> list[Any]:
        asked.append(host)
        if not addresses:
            raise socket.gaierror(socket.EAI_NONAME, "no")
        return [(socket.AF_INET6 if ":" in text else socket.AF_INET, socket.SOCK_STREAM, 6, "", (text, 0)) for text in addresses]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    return asked


def resolve(host: str, **options: Any) -> list[str]:
    return asyncio.run(resolve_public(host, **options))


def test_every_address_is_looked_at_and_pinned(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = answers(monkeypatch, "1.1.1.1", "2606:4700::1111", "1.1.1.1")
    assert resolve("issuer.example") == ["1.1.1.1", "2606:4700::1111"]
    assert asked == ["issuer.example"]


@pytest.mark.parametrize("bad", ["10.0.0.1", "::ffff:10.0.0.1", "fe80::1%eth0", "64:ff9b::a00:1", "2002:a00:1::"])
def test_one_bad_address_is_enough(monkeypatch: pytest.MonkeyPatch, bad: str) -> None:
    answers(monkeypatch, "1.1.1.1", bad)
    with pytest.raises(Refused, match="not public"):
        resolve("issuer.example")
    assert len(resolve("issuer.example", internal=True)) == 2


def test_no_address_and_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    answers(monkeypatch)
    with pytest.raises(Refused, match="no address"):
        resolve("issuer.example")
    answers(monkeypatch, *(f"1.1.1.{i}" for i in range(ssrf.MAX_ADDRESSES + 1)))
    with pytest.raises(Refused, match="too many"):
        resolve("issuer.example")


def test_literals_are_not_looked_up(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = answers(monkeypatch, "1.1.1.1")
    assert resolve("8.8.8.8") == ["8.8.8.8"]
    with pytest.raises(Refused):
        resolve("::ffff:127.0.0.1")
    assert asked == []


def test_the_guard_of_fetched_documents(monkeypatch: pytest.MonkeyPatch) -> None:
    answers(monkeypatch, "1.1.1.1", "8.8.8.8")
    assert asyncio.run(guard("https://issuer.example/keys")) == "1.1.1.1"
    answers(monkeypatch, "1.1.1.1", "10.0.0.1")
    for url in ("https://issuer.example/keys", "http://issuer.example/keys", "https://127.0.0.1/"):
        with pytest.raises(Refused):
            asyncio.run(guard(url))
