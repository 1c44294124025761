"""Cookies that only the gateway can read or make: sealed, split over several when long, and taken off before the upstream.

    NAME, NAME.1, NAME.2, NAME.3     a session; the first begins with the number of parts
    NAME-t-XXXXXXXX                  one login on its way, by its state

Rules:
- AES-256-GCM under keys derived for this purpose; what is sealed is bound to client, callback and purpose;
- `__Host-` over https: no other host, and no page of this host over http, can plant one (RFC 6265bis section 4.1.3.2);
- whatever a client sends opens or is nothing; no exception comes from it.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
import re
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from agw.security.contract import Request

PART = 3800
"""Octets of a cookie's value; browsers keep 4096 with name and attributes."""
MAX_PARTS = 4
MAX_KEYS = 8
MAX_LOGINS = 4
"""Logins on their way in one browser; further ones replace them."""

_NONCE, _TAG = 12, 16
_KEY = re.compile(r"[0-9a-f]{64}")
_TEXT = re.compile(rb"[A-Za-z0-9_-]*")
_HEAD = re.compile(rb"([1-4])\.")


class TooLong(Exception):
    """What is to be sealed does not fit into cookies."""


class Sealer:
    """Seals and opens values for one client and callback. `keys` are 32 octets as hex, newest first."""

    def __init__(self, keys: Sequence[str], bound: bytes) -> None:
        """Errors: ValueError without keys, or for something else than keys."""
        if not keys or not all(_KEY.fullmatch(key) for key in keys):
            raise ValueError("oidc needs cookie keys: 64 hex digits each")
        self._ciphers = [_derive(bytes.fromhex(key)) for key in keys[:MAX_KEYS]]
        self._bound = bound

    def seal(self, purpose: bytes, value: dict[str, Any]) -> bytes:
        """base64url text."""
        nonce = os.urandom(_NONCE)
        blob = nonce + self._ciphers[0].encrypt(nonce, msgspec.json.encode(value), purpose + b"\0" + self._bound)
        return base64.urlsafe_b64encode(blob).rstrip(b"=")

    def open(self, purpose: bytes, text: bytes) -> dict[str, Any] | None:
        """What was sealed for this purpose, None for everything else."""
        if len(text) > PART * MAX_PARTS or not _TEXT.fullmatch(text):
            return None
        try:
            blob = base64.urlsafe_b64decode(text + b"=" * (-len(text) % 4))
        except binascii.Error:
            return None
        if len(blob) < _NONCE + _TAG:
            return None
        for cipher in self._ciphers:
            try:
                value = msgspec.json.decode(cipher.decrypt(blob[:_NONCE], blob[_NONCE:], purpose + b"\0" + self._bound))
            except (InvalidTag, msgspec.DecodeError):
                continue
            return value if isinstance(value, dict) else None
        return None


def _derive(key: bytes) -> AESGCM:
    return AESGCM(HKDF(algorithm=SHA256(), length=32, salt=None, info=b"agw oidc cookie").derive(key))


class Jar:
    """The cookies of one policy: their names, and how they are written and read."""

    def __init__(self, identity: bytes, secure: bool) -> None:
        """`identity` tells policies of the same host apart; `secure` is whether the callback is https."""
        self.name = (b"__Host-" if secure else b"") + b"agw-oidc-" + hashlib.sha256(identity).hexdigest()[:8].encode()
        self._attributes = b"; Path=/; HttpOnly; SameSite=Lax" + (b"; Secure" if secure else b"")

    def login_name(self, state: bytes) -> bytes:
        """The cookie of one login."""
        return self.name + b"-t-" + hashlib.sha256(state).hexdigest()[:8].encode()

    def is_ours(self, name: bytes) -> bool:
        """Whether a cookie of this name is this policy's."""
        return name.startswith(self.name)

    def set(self, name: bytes, value: bytes, seconds: int) -> bytes:
        """A Set-Cookie line."""
        return b"Set-Cookie: " + name + b"=" + value + self._attributes + b"; Max-Age=%d\r\n" % seconds

    def clear(self, names: Iterable[bytes]) -> bytes:
        """Lines that take cookies away."""
        return b"".join(self.set(name, b"", 0) for name in names)

    def session_lines(self, sealed: bytes, seconds: int, present: Iterable[bytes]) -> bytes:
        """Lines that set a session and take away parts of a longer one. Errors: TooLong."""
        parts = [sealed[i : i + PART] for i in range(0, len(sealed), PART)]
        if len(parts) > MAX_PARTS:
            raise TooLong
        names = [self._part_name(i) for i in range(MAX_PARTS)]
        out = b"".join(self.set(names[i], b"%d." % len(parts) + part if i == 0 else part, seconds) for i, part in enumerate(parts))
        return out + self.clear(name for name in names[len(parts) :] if name in set(present))

    def session_names(self, cookies: dict[bytes, bytes]) -> list[bytes]:
        """The parts of a session a browser has."""
        return [name for i in range(MAX_PARTS) if (name := self._part_name(i)) in cookies]

    def session_of(self, cookies: dict[bytes, bytes]) -> bytes | None:
        """The sealed session a browser has, None when it has none or not all of it."""
        first = cookies.get(self.name, b"")
        head = _HEAD.match(first)
        if head is None:
            return None
        parts = [first[head.end() :], *(cookies.get(self._part_name(i), b"") for i in range(1, int(head[1])))]
        return b"".join(parts) if all(parts) else None

    def logins(self, cookies: dict[bytes, bytes]) -> list[bytes]:
        """The names of the logins that are on their way in a browser."""
        return [name for name in cookies if name.startswith(self.name + b"-t-")]

    def _part_name(self, index: int) -> bytes:
        return self.name + b".%d" % index if index else self.name


def cookies_of(request: Request) -> dict[bytes, bytes]:
    """The cookies of a request; of several of one name the first, which is the one of the longest path (RFC 6265 section 5.4)."""
    out: dict[bytes, bytes] = {}
    for field in request.values(b"cookie"):
        for pair in field.split(b";"):
            name, _, value = pair.strip(b" \t").partition(b"=")
            out.setdefault(name, value)
    return out


def without(request: Request, jar: Jar) -> tuple[bytes, bool]:
    """The Cookie line a request has without ours (b"" for none), and whether anything was taken off."""
    kept: list[bytes] = []
    removed = False
    for field in request.values(b"cookie"):
        for pair in field.split(b";"):
            pair = pair.strip(b" \t")
            if jar.is_ours(pair.partition(b"=")[0]):
                removed = True
            elif pair:
                kept.append(pair)
    return (b"Cookie: " + b"; ".join(kept) + b"\r\n" if kept else b""), removed
