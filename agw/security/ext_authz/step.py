"""The step of `extAuthz`: the cache before the service, the service, and what its failure means.

Rules:
- every way out is counted: ok, cached, refused, or error (whatever `on_failure` makes of it);
- a verdict depends on the whole request, so the gate must ask again (`Found.lasting`);
- a request that another worker has passed on was asked about there.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable
from typing import Any, NamedTuple, Protocol

from agw.runtime.plan_security import ExtAuthzPlan
from agw.security.contract import EXT_AUTH, CallError, Found, Refusal, Request, SecurityHost, Verdict
from agw.security.ext_authz.cache import Cache
from agw.security.ext_authz.values import Compile, ValueFailure

log = logging.getLogger(__name__)

POLICY = "extAuthz"


class Permission(NamedTuple):
    """The service lets a request pass: header lines for the upstream, headers taken off before, values for `extauthz`."""

    lines: bytes = b""
    remove: tuple[bytes, ...] = ()
    metadata: dict[str, Any] = {}


class ServiceFailure(Exception):
    """No verdict. The text is for the operator."""


class Service(Protocol):
    """One way to ask."""

    async def ask(self, request: Request, found: Found) -> Permission | Refusal:
        """The service's verdict, not bounded in time here. Errors: ServiceFailure, ValueFailure, CallError, TimeoutError, OSError."""

    def close(self) -> None:
        """Let go of connections."""


class ExtAuthz:
    """One `extAuthz` of a route. `check` is `agw.security.contract.Step`."""

    def __init__(self, plan: ExtAuthzPlan, host: SecurityHost, service: Service, compile: Compile | None) -> None:
        self._on_failure = plan.on_failure
        self._timeout_s = plan.timeout_ns / 1e9
        self._body_bytes = 0 if plan.body_cel else plan.body_bytes
        self.takes_part = plan.allow_partial
        self._host = host
        self._service = service
        self._cache = Cache(plan, compile) if plan.cache_key_cel else None

    def wants_body(self, request: Request) -> int:
        """How many octets of the body `check` needs in `found.body`; 0 for none."""
        return self._body_bytes if _has_body(request) and not request.hopped else 0

    def too_long(self) -> Refusal:
        """See `contract.Reader`."""
        self._host.count(POLICY, "refused")
        return Refusal(413, EXT_AUTH, b"request body too large", "the body is longer than includeRequestBody.maxRequestBytes")

    def check(self, request: Request, found: Found) -> Verdict | Awaitable[Verdict]:
        """Look at a request; see the contract."""
        found.lasting = False       # also of what was asked about elsewhere: the next one may come directly
        if request.hopped:
            return None
        key = b"" if self._cache is None else self._cache.key(request, found)
        if key and self._cache is not None:
            kept = self._cache.get(key)
            if kept is not None:
                self._host.count(POLICY, "cached")
                _apply(kept, found)
                return None
        return self._ask(request, found, key)

    def close(self) -> None:
        """Let go of connections and of what is kept."""
        self._service.close()
        if self._cache is not None:
            self._cache.clear()

    async def _ask(self, request: Request, found: Found, key: bytes) -> Verdict:
        try:
            if self._body_bytes and found.body is None and _has_body(request):
                raise ServiceFailure("the service is to see the body, and it is not there")
            async with asyncio.timeout(self._timeout_s):
                verdict = await self._service.ask(request, found)
        except (ServiceFailure, ValueFailure, CallError, TimeoutError, OSError) as error:
            return self._failed(str(error) or type(error).__name__)
        except Exception as error:
            # Whatever went wrong, it was no permission.
            log.exception("asking the authorization service failed")
            return self._failed(type(error).__name__)
        if isinstance(verdict, Refusal):
            self._host.count(POLICY, "refused")
            return verdict
        self._host.count(POLICY, "ok")
        _apply(verdict, found)
        if key and self._cache is not None:
            self._cache.put(key, verdict, request, found)
        return None

    def _failed(self, why: str) -> Verdict:
        if self._on_failure == 0:
            self._host.count(POLICY, "error")
            log.warning("the authorization service gave no verdict; the request passes", extra={"cause": why})
            return None
        self._host.count(POLICY, "error")
        return Refusal(self._on_failure, EXT_AUTH, b"authorization is not available", f"extAuthz gave no verdict: {why}")


def _apply(permission: Permission, found: Found) -> None:
    found.lines += permission.lines
    found.remove += permission.remove
    if permission.metadata:
        found.claims["extauthz"] = {**found.claims.get("extauthz", {}), **permission.metadata}


def _has_body(request: Request) -> bool:
    return bool(request.values(b"transfer-encoding")) or any(value.strip(b" 0") for value in request.values(b"content-length"))
