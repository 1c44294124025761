"""A real gRPC server of Envoy's RateLimitService, for tests."""

from __future__ import annotations

from collections import Counter
from typing import Any

from grpclib.const import Cardinality, Handler

from agw.security import rls
from tests.kits.authorization import Recorded

M = rls.MESSAGES


class RateService:
    """Counts requests by (domain, descriptor) and allows `limits` of each, as a service's configuration would say. `port` 0: any."""

    def __init__(self, limits: dict[tuple[tuple[str, str], ...], int], port: int = 0) -> None:
        self.limits = limits
        self.seen: Counter[tuple[tuple[str, str], ...]] = Counter()
        self.domains: set[str] = set()
        self.port = port

    def __mapping__(self) -> dict[str, Handler]:
        async def decide(stream: Any) -> None:
            request = await stream.recv_message()
            self.domains.add(request.domain)
            over = False
            for descriptor in request.descriptors:
                key = tuple((entry.key, entry.value) for entry in descriptor.entries)
                self.seen[key] += request.hits_addend or 1
                over = over or self.seen[key] > self.limits.get(key, 1 << 30)
            headers = [{"key": "x-ratelimit-limit", "value": "3, 3;w=60"}]
            await stream.send_message(M["RateLimitResponse"](overall_code=2 if over else 1, response_headers_to_add=headers))

        return {rls.METHOD: Handler(decide, Cardinality.UNARY_UNARY, M["RateLimitRequest"], M["RateLimitResponse"])}

    async def __aenter__(self) -> RateService:
        self._server = Recorded([self])
        await self._server.start("127.0.0.1", self.port)
        self.port = self._server._server.sockets[0].getsockname()[1]  # type: ignore[union-attr]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for protocol in getattr(self._server, "protocols", []):
            protocol.processor.close()
        await self._server.wait_closed()
