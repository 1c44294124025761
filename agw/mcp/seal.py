"""Sealed values: state the gateway hands to a caller and believes when it comes back.

Session ids, cursors, request states and the like are opaque to callers, so they may carry what any worker, and any other
host with the same keys, needs to go on. A sealed value is encrypted and authenticated, and bound to what the caller must
not change: whose it is and what it is for.

Rules:
- the first key of a ring seals, every key opens; rotating is putting a new key in front and leaving out the old one later;
- each purpose has a key of its own (HKDF), so a value sealed for one is noise for another;
- what cannot be opened is None, whatever the reason; an unknown key costs the same work as a forged value, and a malformed
  value the same as an authentic one of its length;
- no exception comes from a value a caller sent, and no value is longer than MAX_TOKEN.

Form: base64url(key id (4 octets) | nonce (12) | ciphertext | tag (16)), without padding.
Source: RFC 5116 (AEAD), RFC 5869 (HKDF), RFC 4648 section 5. NIST SP 800-38D section 8.3: random 96-bit nonces allow 2**32
values per key, here per purpose and key.
"""

from __future__ import annotations

import binascii
import hashlib
import hmac
import os
from collections.abc import Sequence

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

KEY_BYTES = 32
MAX_TOKEN = 65_536
"""Octets of the longest sealed value, as the caller sees it."""

MAX_PURPOSES = 64

_ID, _NONCE, _TAG = 4, 12, 16
_OVERHEAD = _ID + _NONCE + _TAG
_SHORTEST = (_OVERHEAD * 4 + 2) // 3
_ALPHABET = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
_TO_URL = bytes.maketrans(b"+/", b"-_")
_FROM_URL = bytes.maketrans(b"-_", b"+/")


def sealed_length(payload: int) -> int:
    """Octets of the sealed form of a payload of that many octets."""
    return ((payload + _OVERHEAD) * 4 + 2) // 3


class KeyRing:
    """Keys, newest first, and the ciphers derived from them.

    keys: 32 octets each, at least one; made by a random generator, never a password.
    Errors: ValueError for no key, a key of another length, and two keys with the same id.
    """

    __slots__ = ("_ciphers", "_ids", "_keys", "_nobody")

    def __init__(self, keys: Sequence[bytes]) -> None:
        if not keys:
            raise ValueError("a key ring needs a key")
        if any(len(key) != KEY_BYTES for key in keys):
            raise ValueError(f"a key has {KEY_BYTES} octets")
        self._keys = list(dict.fromkeys(keys))
        self._ids = [hashlib.sha256(key).digest()[:_ID] for key in self._keys]
        if len(set(self._ids)) != len(self._ids):
            raise ValueError("two keys have the same id")
        # Opens nothing: what names an unknown key is tried with it, so that it takes as long as any other.
        self._nobody = os.urandom(KEY_BYTES)
        self._ciphers: dict[bytes, tuple[AESGCM, AESGCM, dict[bytes, AESGCM]]] = {}

    def _of(self, purpose: bytes) -> tuple[AESGCM, AESGCM, dict[bytes, AESGCM]]:
        """For a purpose: the cipher that seals, the one that opens nothing, and all others by key id."""
        found = self._ciphers.get(purpose)
        if found is None:
            # Purposes are constants of the program; more than a handful means a caller's text became one.
            assert len(self._ciphers) < MAX_PURPOSES, purpose
            known = {ident: _derive(key, purpose) for ident, key in zip(self._ids, self._keys, strict=True)}
            found = self._ciphers[purpose] = (known[self._ids[0]], _derive(self._nobody, purpose), known)
        return found

    def seal(self, purpose: bytes, payload: bytes, bound: bytes) -> bytes:
        """The sealed form of `payload`: base64url text. `bound` is not in it, but only who presents the same may open it.

        Errors: ValueError when the result would be longer than MAX_TOKEN.
        """
        if sealed_length(len(payload)) > MAX_TOKEN:
            raise ValueError("too long to seal")
        nonce = os.urandom(_NONCE)
        blob = self._ids[0] + nonce + self._of(purpose)[0].encrypt(nonce, payload, bound)
        return _encode(blob)

    def sign(self, purpose: bytes, payload: bytes, bound: bytes) -> str:
        """22 characters that vouch for `payload` without hiding it: the same ones each time, until the keys are rotated."""
        return _signature(self._keys[0], purpose, payload, bound)

    def signed(self, purpose: bytes, payload: bytes, bound: bytes, signature: str) -> bool:
        """Was it signed with a key of this ring, for this purpose and `bound`?"""
        given = signature.encode("utf-8", "replace")
        # Every key is tried, whichever fits: the time taken says nothing.
        return sum([hmac.compare_digest(_signature(key, purpose, payload, bound).encode(), given) for key in self._keys]) > 0

    def open(self, purpose: bytes, token: bytes, bound: bytes) -> bytes | None:
        """The payload, or None for whatever was not sealed by a key of this ring for this purpose and `bound`."""
        blob, genuine = _decode(token[:MAX_TOKEN])
        _, nobody, known = self._of(purpose)
        cipher = known.get(blob[:_ID], nobody)
        try:
            payload = cipher.decrypt(blob[_ID : _ID + _NONCE], blob[_ID + _NONCE :], bound)
        except InvalidTag:
            return None
        return payload if genuine and len(token) <= MAX_TOKEN else None


def _derive(key: bytes, purpose: bytes) -> AESGCM:
    return AESGCM(HKDF(algorithm=SHA256(), length=KEY_BYTES, salt=None, info=b"agw sealed " + purpose).derive(key))


def _signature(key: bytes, purpose: bytes, payload: bytes, bound: bytes) -> str:
    # HMAC with the ring's key itself is apart from everything else made of it: HKDF's extraction has another salt.
    text = b"".join(b"%d:%b" % (len(part), part) for part in (b"agw signed", purpose, bound, payload))
    return _encode(hmac.digest(key, text, "sha256")[:16]).decode("ascii")


def _encode(blob: bytes) -> bytes:
    return binascii.b2a_base64(blob, newline=False).translate(_TO_URL).rstrip(b"=")


def _decode(token: bytes) -> tuple[bytes, bool]:
    """The octets behind the text, and whether the text is their one spelling; if not, as many octets that open nothing."""
    malformed = len(token) < _SHORTEST or len(token) % 4 == 1 or token.translate(None, _ALPHABET) != b""
    text = b"A" * (max(len(token), _SHORTEST) // 4 * 4) if malformed else token
    blob = binascii.a2b_base64(text.translate(_FROM_URL) + b"=" * (-len(text) % 4))
    # Only the spare bits of the last group can be spelt in several ways.
    tail = len(blob) % 3 or 3
    return blob, _encode(blob[-tail:]) == token[-tail - 1 :] and not malformed
