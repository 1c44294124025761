"""The Host and Origin guard: who passes a listener on loopback, and who one with lists of its own."""

from __future__ import annotations

import pytest

from agw.mcp.origin_guard import Guard

LOCAL = Guard("auto", True)
LISTED = Guard(
    "on", False, ["Gateway.example", "other.example:8443", "wide.example:*"], ["HTTPS://App.example", "http://dev.example:*", "null", "vscode-webview://a1"],
)


@pytest.mark.parametrize("host", [b"localhost", b"LOCALHOST:3000", b"127.0.0.1", b"127.8.9.10:80", b"[::1]", b"[::1]:65535", b" localhost. ", b"localhost:080"])
def test_this_machine_passes_with_any_port(host: bytes) -> None:
    assert LOCAL.check([host], []) == 0
    assert LISTED.check([host], []) == 0


@pytest.mark.parametrize(
    "host",
    [b"", b"evil.example", b"localhost.evil.example", b"evil.localhost", b"127.0.0.1.evil.example", b"128.0.0.1", b"[::2]", b"::1", b"127.1", b"0.0.0.0",
     b"localhost:0", b"localhost:65536", b"localhost:x", b"user@localhost", b"localhost/", b"[127.0.0.1]", b"local\xc3\xb6host", b"[::1", b"localhost:"],
)  # fmt: skip
def test_a_foreign_or_malformed_host_is_misdirected(host: bytes) -> None:
    assert LOCAL.check([host], []) == 421


def test_host_must_be_there_once() -> None:
    assert LOCAL.check([], []) == 421
    assert LOCAL.check([b"localhost", b"localhost"], []) == 421


@pytest.mark.parametrize("origin", [b"http://localhost:5173", b"https://127.0.0.1", b"HTTP://[::1]:1", b"http://localhost"])
def test_pages_of_this_machine_pass(origin: bytes) -> None:
    assert LOCAL.check([b"localhost"], [origin]) == 0


@pytest.mark.parametrize(
    "origin",
    [b"null", b"", b"http://evil.example", b"http://localhost.evil.example", b"http://localhost@evil.example", b"http://localhost/", b"file://localhost",
     b"localhost", b"http://localhost:x", b"chrome-extension://abc", b"http://localhost, http://evil.example"],
)  # fmt: skip
def test_other_origins_are_forbidden(origin: bytes) -> None:
    assert LOCAL.check([b"localhost"], [origin]) == 403


def test_an_origin_must_not_occur_twice() -> None:
    assert LOCAL.check([b"localhost"], [b"http://localhost", b"http://localhost"]) == 403


def test_when_the_guard_is_active() -> None:
    evil = ([b"evil.example"], [b"http://evil.example"])
    assert Guard("auto", True).check(*evil) == 421
    assert Guard("auto", False).check(*evil) == 0
    assert Guard("on", False).check(*evil) == 421
    assert Guard("off", True).check(*evil) == 0


@pytest.mark.parametrize(
    ("host", "status"),
    [(b"gateway.example", 0), (b"gateway.example:99", 0), (b"other.example:8443", 0), (b"other.example:8444", 421), (b"other.example", 421),
     (b"wide.example:1", 0), (b"sub.gateway.example", 421)],
)  # fmt: skip
def test_listed_hosts(host: bytes, status: int) -> None:
    assert LISTED.check([host], []) == status


@pytest.mark.parametrize(
    ("origin", "status"),
    [(b"https://app.example", 0), (b"https://app.example:443", 0), (b"http://app.example", 403), (b"https://app.example:444", 403),
     (b"http://dev.example:5", 0), (b"https://dev.example:5", 403), (b"null", 0), (b"vscode-webview://a1", 0), (b"vscode-webview://a2", 403)],
)  # fmt: skip
def test_listed_origins(origin: bytes, status: int) -> None:
    assert LISTED.check([b"localhost"], [origin]) == status


def test_the_star_admits_any_host_and_any_origin_but_null() -> None:
    guard = Guard("on", False, ["*"], ["*"])
    assert guard.check([b"any.example"], [b"https://any.example"]) == 0
    assert guard.check([b"any.example"], [b"app://x"]) == 0
    assert guard.check([b"any.example"], [b"null"]) == 403
    assert guard.check([b"not a host"], []) == 421


@pytest.mark.parametrize("host", ["*.example", "https://gateway.example", "a b", "", "name:99999", "name:80:*"])
def test_entries_that_match_nothing_are_refused(host: str) -> None:
    with pytest.raises(ValueError, match="not a host"):
        Guard("on", False, [host])


@pytest.mark.parametrize("origin", ["app.example", "https://app.example/", "https://", "https://*.example", "", "https://app.example:1:*"])
def test_origins_that_match_nothing_are_refused(origin: str) -> None:
    with pytest.raises(ValueError, match="not an origin"):
        Guard("on", False, [], [origin])
