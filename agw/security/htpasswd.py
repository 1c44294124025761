"""Hashes of htpasswd files: bcrypt, Apache's MD5 (apr1) and {SHA}; how to read them and how to compare a password.

Rules:
- comparing takes the same time for every password of one hash; there is a stand-in of the same cost for users that do not exist;
- bcrypt sees the first 72 octets, as the tools that write these files do it;
- crypt(3) and plain text are not taken: the former is broken, the latter is the password itself.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
from typing import Literal

Kind = Literal["bcrypt", "apr1", "sha"]
MAX_COST = 14
"""bcrypt's exponent; each step doubles the time, 14 is about a second."""

_BCRYPT = re.compile(r"\$2[aby]\$([0-9]{2})\$[./A-Za-z0-9]{53}")
_APR1 = re.compile(r"\$apr1\$([./A-Za-z0-9]{1,8})\$[./A-Za-z0-9]{22}")
_SHA = re.compile(r"\{SHA\}([A-Za-z0-9+/]{27}=)")
_ALPHABET = "./0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_ORDER = ((0, 6, 12), (1, 7, 13), (2, 8, 14), (3, 9, 15), (4, 10, 5))


def cost(hashed: str) -> tuple[Kind, int] | None:
    """The kind of a hash and what comparing costs, in thousandths of bcrypt's lowest cost; None when it is no such hash."""
    match = _BCRYPT.fullmatch(hashed)
    if match is not None:
        exponent = int(match[1])
        return ("bcrypt", 1000 << (exponent - 4)) if 4 <= exponent <= MAX_COST else None
    if _APR1.fullmatch(hashed) is not None:
        return "apr1", 999
    return ("sha", 1) if _SHA.fullmatch(hashed) is not None else None


def stand_in(hashed: str) -> str:
    """A hash of the same cost that no password has."""
    kind = cost(hashed)
    if kind is not None and kind[0] == "bcrypt":
        return f"$2b${hashed[4:6]}$" + "." * 53
    return "$apr1$........$" + "." * 22 if kind is not None and kind[0] == "apr1" else "{SHA}" + "A" * 27 + "="


def matches(password: bytes, hashed: str) -> bool:
    """Whether the password has this hash. False for a hash that `cost` does not know."""
    kind = cost(hashed)
    if kind is None:
        return False
    if kind[0] == "bcrypt":
        import bcrypt  # compiled, and only needed for files that have such hashes

        return bcrypt.checkpw(password[:72], hashed.encode("ascii"))
    if kind[0] == "apr1":
        salt = hashed[6:].partition("$")[0]
        return hmac.compare_digest(apr1(password, salt.encode("ascii")).encode("ascii"), hashed.encode("ascii"))
    try:
        wanted = base64.b64decode(hashed[5:], validate=True)
    except binascii.Error:
        return False
    # The file's own format; what it lacks in strength is said when the file is read.
    return hmac.compare_digest(hashlib.sha1(password, usedforsecurity=False).digest(), wanted)


def apr1(password: bytes, salt: bytes) -> str:
    """Apache's variant of the MD5 crypt: 1000 rounds, about a millisecond. `salt` is up to 8 octets. (apr_md5_encode)"""

    def md5(data: bytes) -> bytes:
        return hashlib.md5(data, usedforsecurity=False).digest()

    inner = md5(password + salt + password)
    data = password + b"$apr1$" + salt + (inner * (len(password) // 16 + 1))[: len(password)]
    length = len(password)
    while length:
        data += b"\0" if length & 1 else password[:1]
        length >>= 1
    final = md5(data)
    for i in range(1000):
        data = password if i & 1 else final
        if i % 3:
            data += salt
        if i % 7:
            data += password
        final = md5(data + (final if i & 1 else password))
    out = []
    for a, b, c in _ORDER:
        out.append(_encoded(final[a] << 16 | final[b] << 8 | final[c], 4))
    out.append(_encoded(final[11], 2))
    return f"$apr1${salt.decode('ascii')}${''.join(out)}"


def _encoded(value: int, count: int) -> str:
    return "".join(_ALPHABET[value >> 6 * i & 63] for i in range(count))


def read_users(text: str) -> tuple[list[tuple[str, str]], list[tuple[int, str]]]:
    """The (name, hash) pairs of a htpasswd text, and what is wrong with it as (line, text); no text quotes a hash."""
    users: dict[str, str] = {}
    wrong: list[tuple[int, str]] = []
    for number, line in enumerate(text.splitlines(), 1):
        entry = line.strip()
        if not entry or entry.startswith("#"):
            continue
        name, colon, rest = entry.partition(":")
        hashed = rest.partition(":")[0]
        if not colon or not name or not name.isprintable() or len(name) > 255:
            wrong.append((number, "is not `name:hash`"))
        elif name in users:
            wrong.append((number, "names a user a second time"))
        elif cost(hashed) is None:
            wrong.append((number, f"has no bcrypt hash (cost 4 to {MAX_COST}), apr1 or {{SHA}}; make one with: htpasswd -nB name"))
        else:
            users[name] = hashed
    return list(users.items()), wrong
