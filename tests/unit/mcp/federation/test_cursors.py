"""Cursors open for whom and what they were made, and not for long."""

from __future__ import annotations

import pytest

from agw.mcp.errors import INVALID_PARAMS, RpcError
from agw.mcp.federation.cursors import Cursor, Cursors, bound_to
from agw.mcp.seal import KeyRing

RING = KeyRing([b"k" * 32])
PLACE = Cursor(b"generation", 50, b"last", 2, b'""')


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_a_cursor_comes_back_whole() -> None:
    cursors = Cursors(RING, Clock())
    bound = bound_to(b"me", "tools/list", "backend")
    for place in (PLACE, Cursor(b"", 0)):
        assert cursors.open(cursors.seal(place, bound), bound) == place
    assert b"generation" not in cursors.seal(PLACE, bound).encode()


@pytest.mark.parametrize(
    "other",
    [(b"you", "tools/list", "backend"), (b"me", "prompts/list", "backend"), (b"me", "tools/list", "other"), (b"metools", "/list", "backend")],
)
def test_bound(other: tuple[bytes, str, str]) -> None:
    cursors = Cursors(RING, Clock())
    token = cursors.seal(PLACE, bound_to(b"me", "tools/list", "backend"))
    refused(cursors, token, bound_to(*other))


def refused(cursors: Cursors, token: str, bound: bytes) -> None:
    with pytest.raises(RpcError) as caught:
        cursors.open(token, bound)
    assert (caught.value.code, caught.value.status) == (INVALID_PARAMS, 400)


@pytest.mark.parametrize("token", ["", "x", "é", "A" * 100, "A" * 10_000])
def test_what_is_no_cursor(token: str) -> None:
    refused(Cursors(RING, Clock()), token, b"")


def test_other_sealed_values_are_no_cursors() -> None:
    refused(Cursors(RING, Clock()), RING.seal(b"cursor", b"not msgpack", b"").decode(), b"")
    refused(Cursors(RING, Clock()), RING.seal(b"session", b"", b"").decode(), b"")


def test_expiry() -> None:
    clock = Clock()
    cursors = Cursors(RING, clock, ttl_s=60)
    token = cursors.seal(PLACE, b"")
    clock.now += 60
    assert cursors.open(token, b"") == PLACE
    clock.now += 1
    refused(cursors, token, b"")
