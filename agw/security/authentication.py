"""What all authentication policies share: their modes, their refusals and their counters.

Rules:
- strict needs a good credential; optional takes none and refuses a bad one; permissive takes a bad one for none;
- a caller without credential is told how to bring one; a caller with a bad one is told that it is bad, not why;
- whether a credential is good cannot always be told (an issuer is down): that is 503, in permissive mode none;
- results counted: ok; missing and none (no credential: refused, passed); refused and ignored (a bad one); error (503).
"""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, TypeVar

from agw.runtime.plan_security import LocationPlan, Mode
from agw.security.contract import Refusal, SecurityHost, Verdict

MAX_LOGGED = 256
"""Characters of a claim in the access log."""
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9-]*")
T = TypeVar("T")


class Policy:
    """The verdicts of one authentication policy. `what` names it in counters, `reason` indexes `REASONS`.

    `challenge` is the value of WWW-Authenticate when no credential came, `rejection` when a bad one did.
    """

    __slots__ = ("_host", "_mode", "_rejection", "_what", "absent", "challenge", "reason")

    def __init__(self, host: SecurityHost, what: str, reason: int, mode: Mode, challenge: str, rejection: str) -> None:
        self._host = host
        self._what = what
        self._mode = mode
        self.reason = reason
        self.challenge = _line(challenge)
        self._rejection = _line(rejection)
        self.absent = Refusal(401, reason, b"authentication is required", f"{what}: no credential", self.challenge)

    def missing(self) -> Verdict:
        """No credential came."""
        if self._mode == "strict":
            self._host.count(self._what, "missing")
            return self.absent
        self._host.count(self._what, "none")
        return None

    def bad(self, cause: str) -> Verdict:
        """A credential came and is not good; `cause` tells the operator why, without a secret in it."""
        if self._mode == "permissive":
            self._host.count(self._what, "ignored")
            return None
        self._host.count(self._what, "refused")
        return Refusal(401, self.reason, b"the credential is not valid", f"{self._what}: {cause}", self._rejection)

    def unavailable(self, cause: str) -> Verdict:
        """A credential came, and who could judge it is not there."""
        if self._mode == "permissive":
            self._host.count(self._what, "ignored")
            return None
        self._host.count(self._what, "error")
        return Refusal(503, self.reason, b"authentication is not available at the moment", f"{self._what}: {cause}", b"Retry-After: 5\r\n")

    def good(self) -> Verdict:
        """The credential holds."""
        self._host.count(self._what, "ok")
        return None


def bearer_challenges(location: LocationPlan, parameters: str = "") -> tuple[str, str]:
    """The two challenges of a policy whose credential is a bearer token (RFC 6750, 3) at `location`.

    `parameters` are further auth-params, `realm="x"`. A place that no scheme belongs to is named by a scheme of its own, since a
    401 has to name one (RFC 9110, 15.5.2).
    """
    scheme = "Bearer"
    if location.kind != "header" or location.name != "authorization":
        return f"ApiKey {parameters}".rstrip(), f"ApiKey {parameters}".rstrip()
    own = location.prefix.rstrip(" ")
    if own and own.lower() != "bearer" and _SCHEME.fullmatch(own):
        scheme = own
    error = 'error="invalid_token"'
    return f"{scheme} {parameters}".rstrip(), f"{scheme} {parameters}, {error}" if parameters else f"{scheme} {error}"


def _line(challenge: str) -> bytes:
    return f"WWW-Authenticate: {challenge}\r\n".encode("ascii")


def log_field(name: str, value: str) -> bytes:
    """A member for the access log with its leading comma: ASCII, control characters escaped, at most MAX_LOGGED characters."""
    return f',"{name}":{json.dumps(value[:MAX_LOGGED])}'.replace("\x7f", "\\u007f").encode("ascii")


def is_plain(name: str) -> bool:
    """Whether a text may be part of a principal's name: not empty, at most 1024 characters, no control characters, no half pairs."""
    if not name or len(name) > 1024 or _CONTROL.search(name):
        return False
    return name.isascii() or not any("\ud800" <= char <= "\udfff" for char in name)


def scopes_of(claims: dict[str, object]) -> frozenset[str]:
    """The scopes of a token: `scope` (RFC 8693, 4.2), or `scp` as text or list; what is neither counts for nothing."""
    out: set[str] = set()
    for key in ("scope", "scp"):
        value = claims.get(key)
        if isinstance(value, str):
            out.update(value.split(" "))
        elif isinstance(value, list):
            out.update(item for item in value if isinstance(item, str))
    out.discard("")
    return frozenset(out)


def digest(credential: bytes) -> bytes:
    """SHA-256 of a credential: how credentials are told apart in tables."""
    return hashlib.sha256(credential).digest()


class Remembered(Generic[T]):
    """Results by key, each until its own time, the least recently used leaving first. Times are in seconds of `clock`."""

    __slots__ = ("_clock", "_entries", "_limit")

    def __init__(self, limit: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._limit = max(1, limit)
        self._clock = clock
        self._entries: OrderedDict[bytes, tuple[float, T]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: bytes) -> T | None:
        """What is remembered, None when nothing is or its time is over."""
        entry = self._entries.get(key)
        if entry is None:
            return None
        if entry[0] <= self._clock():
            del self._entries[key]
            return None
        self._entries.move_to_end(key)
        return entry[1]

    def put(self, key: bytes, value: T, seconds: float) -> None:
        """Remember for `seconds`; nothing is kept for zero or less."""
        self._entries.pop(key, None)
        if seconds <= 0:
            return
        self._entries[key] = (self._clock() + seconds, value)
        if len(self._entries) > self._limit:
            self._entries.popitem(last=False)

    def clear(self) -> None:
        """Forget everything."""
        self._entries.clear()
