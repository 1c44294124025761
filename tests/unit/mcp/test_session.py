"""agw.mcp.session: sessions that live in their ids."""

from __future__ import annotations

import os
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agw.mcp import session as module
from agw.mcp.seal import KeyRing
from agw.mcp.session import MAX_CLIENT, MAX_ID, SessionState, UpstreamSession

RING = KeyRing([b"k" * 32])
NOW = 1_800_000_000


def session(**changes: Any) -> SessionState:
    state = SessionState(
        version="2025-11-25", capabilities=b'{"roots":{"listChanged":true},"sampling":{}}', client_info=b'{"name":"client","version":"1"}',
        backend="default/mcp", created=NOW, expires=NOW + 1800, uuid=os.urandom(16), instance=os.urandom(8), slot=1,
        upstream={"time": UpstreamSession("abc", "2025-06-18"), "files": UpstreamSession("", "2025-11-25")},
    )
    return msgspec.structs.replace(state, **changes)


def test_any_worker_with_the_key_reads_it() -> None:
    state = session(transparent=True)
    ident = state.pack(RING, b"alice")
    assert SessionState.unpack(KeyRing([b"n" * 32, b"k" * 32]), ident, b"alice", "default/mcp", NOW) == state
    assert len(ident) <= 512, "a common session is short"


@pytest.mark.parametrize(("principal", "backend", "now"), [(b"bob", "default/mcp", NOW), (b"", "default/mcp", NOW), (b"alice", "default/other", NOW),
                                                           (b"alic", "edefault/mcp", NOW), (b"alice", "default/mcp", NOW + 1800)])
def test_a_foreign_or_expired_session_is_an_unknown_one(principal: bytes, backend: str, now: int) -> None:
    ident = session().pack(RING, b"alice")
    assert SessionState.unpack(RING, ident, b"alice", "default/mcp", NOW + 1799) is not None
    assert SessionState.unpack(RING, ident, principal, backend, now) is None


@given(st.binary(max_size=3000))
def test_anything_else_is_an_unknown_one(ident: bytes) -> None:
    assert SessionState.unpack(RING, ident, b"", "b", NOW) is None


@pytest.mark.parametrize("payload", [b"", b"\xc0", msgspec.msgpack.encode([1, 2, 3]), msgspec.msgpack.encode({"version": "x"})])
def test_a_sealed_value_of_another_layout_is_an_unknown_one(payload: bytes) -> None:
    ident = RING.seal(module._PURPOSE, payload, session().bound(b""))
    assert SessionState.unpack(RING, ident, b"", "default/mcp", NOW) is None


def test_large_capabilities_stay_at_home() -> None:
    state = session(capabilities=b'{"experimental":"' + b"x" * MAX_CLIENT + b'"}')
    found = SessionState.unpack(RING, state.pack(RING, b""), b"", "default/mcp", NOW)
    assert found is not None
    assert found.home_only
    assert found.capabilities is None
    assert found.client_info is None
    assert (found.uuid, found.instance, found.slot) == (state.uuid, state.instance, state.slot)


@given(st.dictionaries(st.text(max_size=40), st.builds(UpstreamSession, st.text(max_size=400), st.text(max_size=12)), max_size=40),
       st.integers(0, MAX_CLIENT))
def test_an_id_never_grows_too_long_and_says_what_it_lacks(upstream: dict[str, UpstreamSession], client: int) -> None:
    state = session(upstream=upstream, capabilities=b"c" * client, client_info=b"")
    ident = state.pack(RING, b"")
    assert len(ident) <= MAX_ID
    found = SessionState.unpack(RING, ident, b"", "default/mcp", NOW)
    assert found is not None
    assert found.upstream.items() <= upstream.items()
    assert found.partial == (len(found.upstream) < len(upstream))
    assert found.capabilities == b"c" * client


def test_what_fits_is_in_it() -> None:
    upstream = {f"target-{i}": UpstreamSession(f"{i:032x}", "2025-11-25") for i in range(12)}
    found = SessionState.unpack(RING, session(upstream=upstream).pack(RING, b""), b"", "default/mcp", NOW)
    assert found is not None
    assert found.upstream == upstream
    assert not found.partial


def test_what_cannot_fit_at_all_is_our_error() -> None:
    with pytest.raises(ValueError, match="does not fit"):
        session(version="x" * 2000).pack(RING, b"")
