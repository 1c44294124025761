"""agw.mcp.seal: what opens, what does not, and that nobody can tell why."""

from __future__ import annotations

import base64
import os
import statistics
import time

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given
from hypothesis import strategies as st

from agw.mcp.seal import MAX_TOKEN, KeyRing, sealed_length

A, B, C = (bytes([i]) * 32 for i in range(3))
RING = KeyRing([A, B])


@given(st.binary(max_size=300), st.binary(max_size=50), st.binary(min_size=1, max_size=8))
def test_what_was_sealed_opens_and_only_for_its_purpose_and_owner(payload: bytes, bound: bytes, other: bytes) -> None:
    token = RING.seal(b"test", payload, bound)
    assert RING.open(b"test", token, bound) == payload
    assert RING.open(b"test", token, bound + other) is None
    assert RING.open(b"another", token, bound) is None
    assert len(token) == sealed_length(len(payload))
    assert all(0x21 <= octet <= 0x7E for octet in token)


def test_no_two_tokens_are_alike_and_the_payload_is_hidden() -> None:
    tokens = {RING.seal(b"test", b"the same payload", b"") for _ in range(100)}
    assert len(tokens) == 100
    assert all(b"same payload" not in base64.urlsafe_b64decode(t + b"==") for t in tokens)


def test_rotation_in_three_steps() -> None:
    old, both, new = KeyRing([A]), KeyRing([B, A]), KeyRing([B])
    before = old.seal(b"test", b"x", b"")
    between = both.seal(b"test", b"x", b"")
    assert both.open(b"test", before, b"") == b"x"
    assert old.open(b"test", between, b"") is None
    assert new.open(b"test", between, b"") == b"x"
    assert new.open(b"test", before, b"") is None


@given(st.binary(max_size=200))
def test_whatever_a_caller_sends_is_no_exception(token: bytes) -> None:
    assert RING.open(b"test", token, b"") is None
    assert RING.open(b"test", base64.urlsafe_b64encode(token).rstrip(b"="), b"") is None


@given(st.data())
def test_every_changed_octet_is_noticed(data: st.DataObject) -> None:
    token = RING.seal(b"test", b"payload", b"owner")
    at = data.draw(st.integers(0, len(token) - 1))
    octet = data.draw(st.integers(0, 255).filter(lambda v: v != token[at]))
    assert RING.open(b"test", token[:at] + bytes([octet]) + token[at + 1 :], b"owner") is None
    assert RING.open(b"test", token[:at], b"owner") is None
    assert RING.open(b"test", token + bytes([octet]), b"owner") is None


def test_one_spelling_only() -> None:
    token = RING.seal(b"test", b"ab", b"")
    assert len(token) % 4, "has spare bits in its last character"
    alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    opened = [last for last in alphabet if RING.open(b"test", token[:-1] + bytes([last]), b"") is not None]
    assert opened == [token[-1]]
    for other in (token + b"=", token + b"==", token + b"\n", b" " + token, token.replace(b"-", b"+").replace(b"_", b"/") + b"A"):
        assert RING.open(b"test", other, b"") is None


def test_bounds() -> None:
    longest = b"x" * (MAX_TOKEN * 3 // 4 - 32)
    token = RING.seal(b"test", longest, b"")
    assert len(token) <= MAX_TOKEN
    assert RING.open(b"test", token, b"") == longest
    with pytest.raises(ValueError, match="too long"):
        RING.seal(b"test", longest + b"xxx", b"")
    assert RING.open(b"test", token + b"A" * MAX_TOKEN, b"") is None


@pytest.mark.parametrize("keys", [[], [b"short"], [A, b"x" * 33]])
def test_bad_keys(keys: list[bytes]) -> None:
    with pytest.raises(ValueError, match="key"):
        KeyRing(keys)


def test_the_same_key_twice_is_one_key() -> None:
    ring = KeyRing([A, A, B])
    assert ring.open(b"test", RING.seal(b"test", b"x", b""), b"") == b"x"


def refused() -> dict[str, bytes]:
    good = RING.seal(b"test", os.urandom(600), b"owner")
    forged = good[:-8] + (b"A" * 8 if good[-8:] != b"A" * 8 else b"B" * 8)
    return {"unknown key": KeyRing([C]).seal(b"test", os.urandom(600), b"owner"), "forged": forged, "no token": b"!" + good[1:], "no length": good + b"A"}


def test_every_refusal_comes_from_one_decryption_of_that_length(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []

    class Recorder:
        def __init__(self, cipher: AESGCM) -> None:
            self.cipher = cipher

        def decrypt(self, nonce: bytes, data: bytes, bound: bytes) -> bytes:
            seen.append(len(data))
            return self.cipher.decrypt(nonce, data, bound)

    ring = KeyRing([A, B])
    sealing, nobody, known = ring._of(b"test")
    watched = (sealing, Recorder(nobody), {ident: Recorder(cipher) for ident, cipher in known.items()})
    monkeypatch.setitem(ring._ciphers, b"test", watched)
    for name, token in refused().items():
        assert ring.open(b"test", token, b"owner") is None, name
    assert len(seen) == 4
    assert max(seen) - min(seen) <= 3, "but for the rounding of base64"
    assert ring.open(b"test", b"", b"owner") is None
    assert ring.open(b"test", b"A" * 3 * MAX_TOKEN, b"owner") is None
    assert len(seen) == 6


def test_all_refusals_take_the_same_time() -> None:
    """As far as a test on a busy machine can tell; the test above says why it is so."""
    tokens = refused()
    for _ in range(3):
        taken: dict[str, list[int]] = {name: [] for name in tokens}
        for _ in range(1000):
            for name, token in tokens.items():
                began = time.perf_counter_ns()
                RING.open(b"test", token, b"owner")
                taken[name].append(time.perf_counter_ns() - began)
        fast = {name: statistics.quantiles(values, n=5)[0] for name, values in taken.items()}
        if max(fast.values()) < 1.7 * min(fast.values()):
            return
    pytest.fail(f"octets of the value show in the time: {fast}")


def test_a_signature_vouches_for_one_payload_purpose_and_owner() -> None:
    old, new = os.urandom(32), os.urandom(32)
    ring = KeyRing([new, old])
    signature = ring.sign(b"a", b"payload", b"alice")
    assert signature == ring.sign(b"a", b"payload", b"alice")
    assert len(signature) == 22
    assert ring.signed(b"a", b"payload", b"alice", signature)
    assert not ring.signed(b"b", b"payload", b"alice", signature)
    assert not ring.signed(b"a", b"payloae", b"alice", signature)
    assert not ring.signed(b"a", b"payload", b"alic", signature)
    assert not ring.signed(b"ap", b"ayload", b"alice", signature)
    assert not ring.signed(b"a", b"payload", b"alice", "")
    assert not ring.signed(b"a", b"payload", b"alice", "é" * 22)
    assert ring.signed(b"a", b"payload", b"alice", KeyRing([old]).sign(b"a", b"payload", b"alice")), "a key that was rotated still opens"
