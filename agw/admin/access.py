"""Who may use the admin listener: tokens, what each may do, and what happens to those who guess.

Rules:
- a token comes as `Authorization: Bearer TOKEN`, or as the password of `Basic` for browsers; the user name does not matter then;
- every token of the configuration is compared, by its digest and in constant time;
- `read` may GET, `operate` may do everything;
- every decision is counted by its result: ok, missing (no credential), refused (a bad one), forbidden (beyond its role), limited (not listened to);
- an address that failed MAX_FAILURES times within WINDOW_S is not listened to until the window is over; the table of addresses is bounded.

Must not know: sockets, endpoints.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import ipaddress
import logging
import time
from collections import OrderedDict
from collections.abc import Callable

from agw.admin.message import HttpError, Request
from agw.runtime.plan_security import AdminAuthPlan

log = logging.getLogger(__name__)

MAX_FAILURES = 10
WINDOW_S = 60.0
MAX_ADDRESSES = 1024
MAX_CREDENTIAL = 1024
RESULTS = ("ok", "missing", "refused", "forbidden", "limited")

_CHALLENGE = (("www-authenticate", 'Bearer realm="agw admin"'), ("www-authenticate", 'Basic realm="agw admin", charset="UTF-8"'))
_SAFE = frozenset(("GET", "HEAD"))


class Access:
    """The decision of one listener. `results` counts decisions since the start, by result."""

    def __init__(self, plan: AdminAuthPlan, clock: Callable[[], float] = time.monotonic) -> None:
        self._tokens = [(bytes.fromhex(token.sha256), token.role, token.name or f"tokens[{i}]") for i, token in enumerate(plan.tokens)]
        self._clock = clock
        self._failed: OrderedDict[str, tuple[float, int]] = OrderedDict()
        self.results = dict.fromkeys(RESULTS, 0)

    def check(self, request: Request) -> None:
        """Let an entitled request pass. Errors: HttpError 401 (who?), 403 (not that), 429 (guessed too often)."""
        address = _source(request.peer)
        wait = self._wait_s(address)
        if wait > 0:
            self.results["limited"] += 1
            raise HttpError(429, "too many failed attempts", headers=(("retry-after", str(int(wait) + 1)),))
        given = request.header_values("authorization")
        if not given:
            self.results["missing"] += 1
            raise HttpError(401, "authentication is required", headers=_CHALLENGE)
        role, name = self._role(_credential(given[0]) if len(given) == 1 else None)
        if not role:
            self._note(address)
            raise HttpError(401, "the credential is not valid", headers=_CHALLENGE)
        if role != "operate" and request.method not in _SAFE:
            self.results["forbidden"] += 1
            log.warning("admin request beyond its role", extra={"peer": request.peer, "who": name, "method": request.method, "path": request.path[:100]})
            raise HttpError(403, "this credential may only read")
        self.results["ok"] += 1
        if request.method not in _SAFE:
            log.info("admin request", extra={"peer": request.peer, "who": name, "method": request.method, "path": request.path[:100]})

    def _role(self, credential: bytes | None) -> tuple[str, str]:
        """Role and name of a token, "" for none."""
        digest = hashlib.sha256(credential or b"").digest()
        found = ("", "")
        for token, role, name in self._tokens:
            if hmac.compare_digest(token, digest) and credential:
                found = (role, name)
        return found

    def _wait_s(self, address: str) -> float:
        begun, count = self._failed.get(address, (0.0, 0))
        return begun + WINDOW_S - self._clock() if count >= MAX_FAILURES else 0.0

    def _note(self, address: str) -> None:
        now = self._clock()
        begun, count = self._failed.pop(address, (now, 0))
        if now - begun >= WINDOW_S:
            begun, count = now, 0
        self._failed[address] = (begun, count + 1)
        while len(self._failed) > MAX_ADDRESSES:
            self._failed.popitem(last=False)
        self.results["refused"] += 1
        log.warning("admin request with a bad credential", extra={"peer_address": address, "failures": count + 1, "failures_total": self.results["refused"]})


def _credential(value: str) -> bytes | None:
    """The token in an Authorization header; None for what is none."""
    scheme, _, rest = value.strip().partition(" ")
    rest = rest.strip()
    if not rest or len(rest) > MAX_CREDENTIAL:
        return None
    if scheme.lower() == "bearer":
        return rest.encode("latin-1", "replace")
    if scheme.lower() == "basic":
        try:
            return base64.b64decode(rest, validate=True).partition(b":")[2]
        except (binascii.Error, ValueError):
            return None
    return None


def _source(peer: str) -> str:
    """What is limited: an IPv4 address, the network of an IPv6 one (whoever has one address has 2^64), or the unix socket."""
    host = peer.rpartition(":")[0] or peer
    try:
        address = ipaddress.ip_address(host.strip("[]").partition("%")[0])
    except ValueError:
        return peer
    if isinstance(address, ipaddress.IPv6Address):
        mapped = address.ipv4_mapped
        return str(mapped) if mapped else str(ipaddress.IPv6Network((address, 64), strict=False))
    return str(address)
