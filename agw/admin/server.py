"""The admin listener: what is configured, who is running, how much is logged, and the way to stop.

Rules:
- with `config.adminAuth` every request says who it is (`agw.admin.access`). Without, the address is the permission: the
  configuration takes only loopback and unix sockets then;
- on loopback only requests for a loopback name are answered; a browser's request from another site never is (`agw.admin.guard`);
- nothing changes by GET;
- no answer shows a secret: whatever the configuration callback returns passes through `agw.telemetry.redact`.

Everything it knows comes through callbacks and an `ArenaReader`, so it starts nothing and stops nothing itself.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable
from typing import Protocol

import msgspec

from agw.admin.access import Access
from agw.admin.endpoints import Endpoint, EndpointTable
from agw.admin.http import HttpServer, Limits
from agw.admin.message import HttpError, Request, Response, json_response
from agw.shm.reader import ArenaReader
from agw.telemetry.redact import redact

log = logging.getLogger(__name__)


class LogLevel(Protocol):
    """The switch behind `/logging`; `agw.telemetry.logs.OperatorLog` is one for this process alone."""

    @property
    def level(self) -> str:
        """The level now, as `set_level` takes it."""

    def set_level(self, level: str) -> None:
        """Change the level. Errors: ValueError for an unknown name."""

    def reset(self) -> None:
        """Back to the level of the configuration."""


class AdminServer:
    """The admin endpoints on any number of sockets.

    `config_dump` returns the running configuration as JSON builtins or msgspec structs; it is redacted here.
    `access` decides who may do what, None lets everybody in who gets to the socket.
    `stop` asks the supervisor to drain and stop; it must return at once, the answer is written after it.
    `arena` is read on each `/workers`; `log_level` is set by `POST /logging`.
    """

    def __init__(
        self,
        *,
        config_dump: Callable[[], object],
        arena: ArenaReader,
        stop: Callable[[], None],
        log_level: LogLevel,
        limits: Limits | None = None,
        access: Access | None = None,
    ) -> None:
        self._config_dump = config_dump
        self._arena = arena
        self._request_stop = stop
        self._log_level = log_level
        endpoints = (
            Endpoint("GET", "/config_dump", "the running configuration, secrets replaced", self._dump),
            Endpoint("GET", "/workers", "worker slots: process, state, generation, heartbeat, load", self._workers),
            Endpoint("GET", "/logging", "the log level", self._show_level),
            Endpoint("POST", "/logging", "?level=debug|info|warning|error or ?reset", self._change_level),
            Endpoint("POST", "/quitquitquit", "drain and stop", self._stop),
        )
        self._http = HttpServer(EndpointTable(endpoints, access=access), limits=limits)

    async def serve(self, sock: socket.socket) -> None:
        """Start to answer on a bound socket (TCP or unix) and return; the socket belongs to the server afterwards."""
        await self._http.listen(sock)

    async def close(self, grace_s: float = 1.0) -> None:
        """Stop accepting; running requests have `grace_s` seconds."""
        await self._http.close(grace_s)

    async def _dump(self, request: Request) -> Response:
        return json_response(redact(msgspec.to_builtins(self._config_dump(), enc_hook=str)))

    async def _workers(self, request: Request) -> Response:
        workers = []
        for slot in self._arena.slots():
            numbers = self._arena.gauges(slot.index)
            workers.append(
                {
                    "slot": slot.index,
                    "pid": slot.pid,
                    "state": slot.state,
                    "generation": slot.generation,
                    "heartbeat_age_ms": slot.heartbeat_age_ns // 1_000_000,
                    "connections": numbers.get("downstream_connections", 0),
                    "requests": numbers.get("exchanges_total", 0),
                    "requests_in_flight": numbers.get("requests_in_flight", 0),
                }
            )
        return json_response({"workers": workers})

    async def _show_level(self, request: Request) -> Response:
        if request.query:
            raise HttpError(405, "the level is changed by POST", headers=(("allow", "POST"),))
        return json_response({"level": self._log_level.level})

    async def _change_level(self, request: Request) -> Response:
        wanted = request.query_values()
        if wanted.keys() == {"reset"}:
            self._log_level.reset()
        elif wanted.keys() == {"level"}:
            try:
                self._log_level.set_level(wanted["level"])
            except ValueError:
                raise HttpError(400, "unknown level: use debug, info, warning or error") from None
        else:
            raise HttpError(400, "give ?level=<name> or ?reset")
        log.info("log level changed", extra={"level_now": self._log_level.level, "peer": request.peer})
        return json_response({"level": self._log_level.level})

    async def _stop(self, request: Request) -> Response:
        log.info("stop requested", extra={"peer": request.peer})
        self._request_stop()
        return json_response({"status": "draining"}, 202)
