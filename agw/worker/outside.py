"""Calls to URLs that come from outside the configuration: each looked at, each on a connection of its own.

Rules:
- the guard (`agw.security.ssrf`) looks at the URL and at every address of its name, and the connection goes to those addresses;
- the certificate is that of the name; redirects are answers; nothing of a call is kept for the next one;
- calls at once, octets and time are bounded; whatever goes wrong is a CallError.

Such calls are rare (a user logs in, a token ends), so a connection each costs nothing that counts.
"""

from __future__ import annotations

import asyncio
import ssl
from collections import Counter

from agw._fast.exchange import Context
from agw._fast.pool import Cluster
from agw._fast.tls import ClientTls
from agw.runtime.origin import Origin, TransportError
from agw.runtime.plan import ClusterPlan, TlsClientPlan
from agw.runtime.tls import TlsError, client_context
from agw.security.contract import CallError, Headers, HttpAnswer, Trust
from agw.security.ssrf import Place, Refused, check_url, resolve_public
from agw.worker.caller import BODILESS, MAX_ANSWER
from agw.worker.hop import NO_LABEL
from agw.worker.resolver import endpoint_of_ip

MAX_CALLS = 64
"""At once, per worker."""
MAX_PER_HOST = 16
"""Of these: a server that hangs must not keep the others from being asked."""
TIMEOUT_S = 10.0
CONNECT_NS = 5_000_000_000


class OutsideCaller:
    """Implements `agw.security.contract.Outside`. `timeout_s` is for all of a call."""

    def __init__(self, context: Context, timeout_s: float = TIMEOUT_S) -> None:
        self._context = context
        self._timeout_s = timeout_s
        self._running: Counter[str] = Counter()
        self._usual: ssl.SSLContext | None = None

    async def __call__(self, method: str, url: str, headers: Headers, body: bytes, trust: Trust | None = None) -> HttpAnswer:
        """See Outside."""
        try:
            place = check_url(url, internal=trust is not None)
        except Refused as error:
            raise CallError("forbidden", str(error)) from None
        if self._running.total() >= MAX_CALLS or self._running[place.host] >= MAX_PER_HOST:
            raise CallError("limit", f"more than {MAX_CALLS} calls outside at once, or {MAX_PER_HOST} to one host")
        self._running[place.host] += 1
        try:
            async with asyncio.timeout(self._timeout_s):
                return await self._call(method, place, headers, body, trust)
        except TimeoutError:
            raise CallError("timeout", "no answer in time") from None
        finally:
            self._running[place.host] -= 1
            if not self._running[place.host]:
                del self._running[place.host]

    async def _call(self, method: str, place: Place, headers: Headers, body: bytes, trust: Trust | None) -> HttpAnswer:
        try:
            addresses = await resolve_public(place.host, internal=trust is not None)
        except Refused as error:
            raise CallError("forbidden", str(error)) from None
        cluster = Cluster(_plan(place), NO_LABEL, await self._tls(place, trust))
        cluster.attach(self._context.reactor)
        cluster.set_endpoints([endpoint_of_ip(address, place.port) for address in addresses])
        content = body if body or method not in BODILESS else None
        try:
            answer = await Origin(self._context, cluster).fetch(
                method.encode("ascii"), place.target.encode("ascii"), headers, content, timeout_s=self._timeout_s, max_bytes=MAX_ANSWER, redirects=True)
        except TransportError as error:
            raise CallError(error.kind, str(error)) from None
        finally:
            cluster.retire()
        return HttpAnswer(answer.status, list(answer.headers), answer.body)

    async def _tls(self, place: Place, trust: Trust | None) -> ClientTls | None:
        if place.scheme != "https":
            return None
        usual = trust is None or trust == Trust()
        context = self._usual if usual else None
        if context is None:
            plan = TlsClientPlan() if trust is None else TlsClientPlan(ca=trust.ca, verify=not trust.insecure)
            try:
                # Reading the system's certificates takes 20 ms.
                context = await asyncio.to_thread(client_context, plan)
            except TlsError as error:
                raise CallError("protocol", str(error)) from None
            if usual:
                self._usual = context
        return ClientTls(context, place.host)


def _plan(place: Place) -> ClusterPlan:
    host = f"[{place.host}]" if ":" in place.host else place.host
    usual = 443 if place.scheme == "https" else 80
    return ClusterPlan(
        name="outside", host=place.host, port=place.port, authority=host if place.port == usual else f"{host}:{place.port}",
        connect_timeout_ns=CONNECT_NS, max_connections=1, max_idle=0)
