"""What an authorization service permitted, kept for a while under a key that the operator chose.

Rules:
- only permissions are kept: a refusal is asked for again, so that who was let in meanwhile gets in;
- a key that cannot be computed means no cache for this request; an empty key list never hits;
- bounded in entries and in octets of each; the least recently used goes first.
"""

from __future__ import annotations

import hashlib
import re
import time
from collections import OrderedDict
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from agw.runtime.plan_security import ExtAuthzPlan
from agw.security.contract import Found, Request
from agw.security.ext_authz.values import Compile, Value, ValueFailure

if TYPE_CHECKING:
    from agw.security.ext_authz.step import Permission

MAX_TTL_S = 86_400.0
MAX_ENTRY = 16_384
"""Octets of the header lines, and of the values, of one permission; more is not kept."""

_DURATION = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,9})?)(ms|s|m|h)")
_EPOCH = 1e9
_UNIT_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


class Cache:
    """Permissions by key, in one worker."""

    def __init__(self, plan: ExtAuthzPlan, compile: Compile | None) -> None:
        """Errors: ValueError for an expression that cannot be compiled."""
        self._parts = [Value(text, f"cache.key[{i}]", compile) for i, text in enumerate(plan.cache_key_cel)]
        self._ttl = Value(plan.cache_ttl_cel, "cache.ttl", compile) if plan.cache_ttl_cel else None
        self._max = plan.cache_entries
        self._kept: OrderedDict[bytes, tuple[float, Permission]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    def key(self, request: Request, found: Found) -> bytes:
        """The key of a request, b"" when there is none."""
        digest = hashlib.sha256()
        try:
            for part in self._parts:
                text = _form(part(request, found, {}))
                digest.update(b"%d:" % len(text) + text)
        except (ValueFailure, ValueError):
            return b""
        return digest.digest()

    def get(self, key: bytes) -> Permission | None:
        """What is kept and still holds."""
        entry = self._kept.get(key)
        if entry is None:
            return None
        if entry[0] <= time.monotonic():
            del self._kept[key]
            return None
        self._kept.move_to_end(key)
        return entry[1]

    def put(self, key: bytes, permission: Permission, request: Request, found: Found) -> None:
        """Keep a permission for as long as the policy says, or not at all."""
        seconds = self._seconds(request, found)
        if seconds <= 0 or self._max <= 0 or max(len(permission.lines), len(repr(permission.metadata))) > MAX_ENTRY:
            return
        self._kept[key] = (time.monotonic() + min(seconds, MAX_TTL_S), permission)
        self._kept.move_to_end(key)
        while len(self._kept) > self._max:
            self._kept.popitem(last=False)

    def clear(self) -> None:
        """Forget everything."""
        self._kept.clear()

    def _seconds(self, request: Request, found: Found) -> float:
        try:
            return 0.0 if self._ttl is None else lifetime_s(self._ttl(request, found, {}))
        except (ValueFailure, ValueError, OverflowError):
            return 0.0


def lifetime_s(value: Any) -> float:
    """A duration, a moment, text like `5m`, or a number of seconds, in seconds from now. Errors: ValueError.

    A number of 30 years and more is a moment in seconds since the epoch, as `exp` of a token is.
    """
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, datetime):
        return value.timestamp() - time.time()
    if isinstance(value, str) and (match := _DURATION.fullmatch(value.strip())):
        return float(match[1]) * _UNIT_S[match[2]]
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value) - (time.time() if value >= _EPOCH else 0.0)
    raise ValueError("no lifetime")


def _form(value: Any) -> bytes:
    """Octets that differ whenever two values of CEL differ. Errors: ValueError for what has no such form."""
    if isinstance(value, str):
        return b"s" + value.encode("utf-8", "surrogatepass")
    if isinstance(value, bytes):
        return b"b" + value
    if value is None or isinstance(value, bool | int | float):
        return repr(value).encode()
    if isinstance(value, list | tuple):
        parts = [_form(item) for item in value]
        return b"l" + b"".join(b"%d:" % len(part) + part for part in parts)
    if isinstance(value, dict):
        pairs = sorted((_form(name), _form(item)) for name, item in value.items())
        return b"m" + b"".join(b"%d:%d:" % (len(name), len(item)) + name + item for name, item in pairs)
    raise ValueError("no key")
