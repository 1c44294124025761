"""A real gRPC server of Envoy's Authorization service, for tests."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from grpclib.const import Cardinality, Handler
from grpclib.server import Server

from agw.security.ext_authz.messages import CHECK, CheckRequest, CheckResponse

Decide = Callable[[Any], Any]


class Authorization:
    """The service; `decide` makes the answer, a coroutine function may take its time."""

    def __init__(self, decide: Decide) -> None:
        self.decide = decide
        self.asked: list[Any] = []

    def __mapping__(self) -> dict[str, Handler]:
        async def check(stream: Any) -> None:
            message = await stream.recv_message()
            self.asked.append(message.attributes)
            made = self.decide(message.attributes)
            await stream.send_message(await made if asyncio.iscoroutine(made) else made)

        return {CHECK: Handler(check, Cardinality.UNARY_UNARY, CheckRequest, CheckResponse)}


class Recorded(Server):
    """A server that knows its connections, so that they end with it."""

    def _protocol_factory(self) -> Any:
        self.protocols = [*getattr(self, "protocols", []), super()._protocol_factory()]
        return self.protocols[-1]


class AuthorizationPeer:
    """A gRPC server on a loopback port, or a unix socket."""

    def __init__(self, decide: Decide, port: int = 0, path: str = "") -> None:
        self.service = Authorization(decide)
        self._at: dict[str, Any] = {"path": path} if path else {"host": "127.0.0.1", "port": port}

    async def __aenter__(self) -> AuthorizationPeer:
        self._server = Recorded([self.service])
        await self._server.start(**self._at)
        if "port" in self._at:
            self.port = self._server._server.sockets[0].getsockname()[1]  # type: ignore[union-attr]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for protocol in getattr(self._server, "protocols", []):
            protocol.processor.close()
        await self._server.wait_closed()
