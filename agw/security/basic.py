"""`basicAuth`: user names and passwords (RFC 7617) against the hashes of a htpasswd file.

Rules:
- bcrypt and apr1 take milliseconds: they run in one thread, bounded in number; whoever comes when it is full is told to come again;
- what held is remembered for REMEMBER seconds by an HMAC under a key of this process, never by the password;
- a name that does not exist costs what the dearest hash of the file costs, and so does a wrong password of a cheaper one;
- the same pair asked many times at once is computed once.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hmac
import os
import time
from collections.abc import Awaitable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import Literal

from agw.runtime.plan_security import BasicPlan
from agw.security import htpasswd
from agw.security.authentication import Policy, Remembered, is_plain, log_field
from agw.security.contract import BASIC_AUTH, Found, Request, SecurityHost, Verdict
from agw.security.credentials_in import Malformed, reader

REMEMBER = 300.0
"""Seconds for which a pair that held is not computed again."""
MAX_REMEMBERED = 4096
MAX_QUEUED = 32
"""Computations that run or wait in this process."""
MAX_CREDENTIAL = 2048
"""Octets of the base64 text."""

_SECRET = os.urandom(32)
_Result = Literal["good", "bad", "busy"]


@lru_cache(maxsize=1)
def _executor() -> ThreadPoolExecutor:
    # One thread: logins may take as much of a processor as one, whatever is tried. bcrypt releases the interpreter meanwhile.
    return ThreadPoolExecutor(1, "passwords")


_queued = 0


class BasicAuth:
    """The step."""

    __slots__ = ("_costs", "_dearest", "_good", "_policy", "_read", "_running", "_top", "_users")

    def __init__(self, plan: BasicPlan, host: SecurityHost) -> None:
        self._read = reader(plan.location)
        realm = plan.realm.replace("\\", "\\\\").replace('"', '\\"')
        challenge = f'Basic realm="{realm}", charset="UTF-8"'
        self._policy = Policy(host, "basic", BASIC_AUTH, plan.mode, challenge, challenge)
        self._users = dict(plan.users)
        self._costs = {name: (htpasswd.cost(hashed) or ("sha", 0))[1] for name, hashed in plan.users}
        dearest = max(self._costs, key=self._costs.__getitem__, default="")
        self._top = self._costs.get(dearest, 0)
        self._dearest = htpasswd.stand_in(self._users.get(dearest, ""))
        self._good: Remembered[bool] = Remembered(MAX_REMEMBERED)
        self._running: dict[bytes, asyncio.Task[_Result]] = {}

    def check(self, request: Request, found: Found) -> Verdict | Awaitable[Verdict]:
        """Compare the password. Awaits when the hash is a slow one and the pair is not remembered."""
        credential = self._read(request)
        if credential is None:
            return self._policy.missing()
        pair = credential if isinstance(credential, Malformed) else _split(credential)
        if isinstance(pair, Malformed):
            return self._policy.bad(pair.cause)
        name, password = pair
        key = hmac.digest(_SECRET, len(name).to_bytes(4, "big") + name.encode() + password, "sha256")
        if self._good.get(key):
            return self._entered(name, found)
        if self._top <= 1:
            return self._decide(name, "good" if self._compare(name, password) else "bad", found)
        return self._later(name, password, key, found)

    async def _later(self, name: str, password: bytes, key: bytes, found: Found) -> Verdict:
        running = self._running.get(key)
        if running is None:
            # A task of its own: the request that asked first may go away before the others have their answer.
            running = self._running[key] = asyncio.get_running_loop().create_task(self._compute(name, password, key))
        return self._decide(name, await asyncio.shield(running), found)

    async def _compute(self, name: str, password: bytes, key: bytes) -> _Result:
        global _queued
        try:
            if _queued >= MAX_QUEUED:
                return "busy"
            _queued += 1
            try:
                good = await asyncio.get_running_loop().run_in_executor(_executor(), self._compare, name, password)
            finally:
                _queued -= 1
            if good:
                self._good.put(key, True, REMEMBER)
            return "good" if good else "bad"
        finally:
            del self._running[key]

    def _compare(self, name: str, password: bytes) -> bool:
        hashed = self._users.get(name)
        if hashed is not None and htpasswd.matches(password, hashed):
            return True
        if hashed is None or self._costs[name] < self._top:
            htpasswd.matches(password, self._dearest)
        return False

    def _decide(self, name: str, result: _Result, found: Found) -> Verdict:
        if result == "good":
            return self._entered(name, found)
        if result == "busy":
            return self._policy.unavailable(f"more than {MAX_QUEUED} passwords are being compared")
        return self._policy.bad("no such user, or another password")

    def _entered(self, name: str, found: Found) -> Verdict:
        found.claims["basicAuth"] = {"username": name}
        found.name("basic", name)
        found.expires = min(found.expires, time.time() + REMEMBER)
        found.log_fields += log_field("basicAuth.username", name)
        return self._policy.good()


def _split(credential: bytes) -> tuple[str, bytes] | Malformed:
    """Name and password of a credential (RFC 7617, 2): canonical base64, the name UTF-8, no control characters."""
    if len(credential) > MAX_CREDENTIAL:
        return Malformed(f"the credential is longer than {MAX_CREDENTIAL} octets")
    try:
        octets = base64.b64decode(credential, validate=True)
        if base64.b64encode(octets) != credential:
            return Malformed("base64 that is not canonical")
        name, colon, password = octets.partition(b":")
        user = name.decode("utf-8")
    except (binascii.Error, ValueError):
        return Malformed("not base64 of name:password in UTF-8")
    if not colon or not is_plain(user) or any(octet < 32 or octet == 127 for octet in password):
        return Malformed("no name, no colon, or control characters")
    return user, password


def factory(plan: BasicPlan, host: SecurityHost) -> BasicAuth:
    """The step of a `basicAuth` policy."""
    return BasicAuth(plan, host)
