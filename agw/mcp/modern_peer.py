"""The modern peer: stateless requests (2026-07-28) to one target, for any number of callers.

Rules:
- every request carries its envelope in `_meta` and, over HTTP, the mirrored headers, which this file writes: what the caller
  sent in Mcp-Method and Mcp-Name was checked against the body and is not passed on;
- giving a request up is the cancellation over HTTP (the connection closes); on a process it is said in a notification;
- on a shared channel ids and progress tokens are the peer's own and restored on the way back.

Source: MCP 2026-07-28, transports (Streamable HTTP, stdio), cancellation.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import time

import msgspec
import orjson

from agw.mcp import errors, message, revisions, trace
from agw.mcp.bridge.requests import Envelope, with_envelope
from agw.mcp.message import Members, Message, MessageError
from agw.mcp.param_headers import encode_value
from agw.mcp.peer import Flight, Hello, Sink, is_plain_id, is_stream, outcome, take_begun
from agw.mcp.target import Target, header_lines
from agw.mcp.transport import Headers, TransportError
from agw.mcp.transports.http import HttpTransport

log = logging.getLogger(__name__)

DISCOVER_S = 60.0
"""How long a target's own description is used before it is asked again, unless it names a longer time."""


class ModernPeer:
    """Requests to one modern target. One per target and worker."""

    era: revisions.Era = "modern"

    def __init__(self, target: Target) -> None:
        self.target = target
        self.version = revisions.NEWEST_MODERN
        self.result: Members = {}
        self.capabilities: Members = {}
        self.flights: dict[bytes, Flight] = {}
        self._ids = itertools.count(1)
        self._fresh_until = 0.0
        self._asking = asyncio.Lock()
        self.transport = target.transport()
        self.transport.on_stray = self._stray
        self.transport.on_down = self._down

    async def discover(self) -> None:
        """Ask what the target offers, at most once per its time to live. Errors: RpcError, NotModern."""
        if time.monotonic() < self._fresh_until:
            return
        async with self._asking:
            if time.monotonic() < self._fresh_until:
                return
            params = b'{"_meta":{%b:%b,%b:{},%b:{"name":"agw","version":"1"}}}' % (
                orjson.dumps(revisions.META_VERSION), orjson.dumps(self.version),
                orjson.dumps(revisions.META_CAPABILITIES), orjson.dumps(revisions.META_CLIENT_INFO))
            try:
                raw = await self.request("server/discover", params, b'"agw-discover"', None)
            except errors.TargetError as error:
                if error.code in (errors.HEADER_MISMATCH, errors.MISSING_CAPABILITY, errors.UNSUPPORTED_VERSION):
                    raise
                raise NotModern from None
            found = message.members(raw)
            if "capabilities" not in found:
                raise NotModern
            self.result = found
            self.capabilities = message.members(found.get("capabilities"))
            ttl = message.value(found.get("ttlMs"))
            self._fresh_until = time.monotonic() + max(DISCOVER_S, ttl / 1000 if isinstance(ttl, (int, float)) and not isinstance(ttl, bool) else 0)
            self.target.healthy = True
            self.target.learn("modern", True)

    async def request(
        self, method: str, params: bytes | None, ident: bytes, sink: Sink | None, *, headers: Headers = (), timeout_s: float | None = None
    ) -> bytes:
        """Send a request whose params hold the envelope already; the raw result. Errors: TargetError, RpcError."""
        flight, params = self._fly(method, params, ident, sink)
        self.flights[flight.ident] = flight
        lines = header_lines(self.target.plan.headers)
        lines.append((b"mcp-protocol-version", self.version.encode()))
        lines.append((b"mcp-method", method.encode()))
        known = revisions.METHODS.get(method)
        if known is not None and known.name:
            name = message.text(message.members(params).get(known.name))
            if name is not None:
                lines.append((b"mcp-name", encode_value(name)))
        wait = timeout_s if timeout_s is not None else self.target.timeout_s(method)
        on_message = (lambda raw: self._related(flight, raw)) if sink is not None else None
        done = False
        try:
            begun = take_begun(sink)
            text, more = trace.carried(message.request(flight.ident, method, params), headers, channel=self.target.is_channel)
            lines.extend(more)
            with self.target.timing(method) as timing:
                if begun is not None and isinstance(self.transport, HttpTransport):
                    reply = await self.transport.request(text, flight.ident, headers=lines, on_message=on_message, timeout_s=wait, begun=begun)
                else:
                    reply = await self.transport.request(text, flight.ident, headers=lines, on_message=on_message, timeout_s=wait)
                timing.reply = reply.message
            done = True
        except TransportError as error:
            done = error.kind != "timeout"
            if method == "server/discover" and error.kind in ("status", "protocol") and error.status != 401:
                raise NotModern from None
            raise self.target.failed(error) from None
        finally:
            self.flights.pop(flight.ident, None)
            if not done and self.target.is_channel:
                await asyncio.shield(self._tell_cancelled(flight.ident))
        try:
            message.parse(reply.message)
        except MessageError:
            raise errors.target_down(self.target.name, "its answer was not valid") from None
        if sink is not None and is_stream(reply):
            sink.streamed()
        return outcome(reply, self.target.name)

    async def fetch(self, method: str, params: bytes, hello: Hello) -> bytes:
        """A page of a list, asked in the name of `hello`."""
        envelope = Envelope(self.version, hello.capabilities, hello.client_info)
        return await self.request(method, with_envelope(params, envelope), b'"agw-list-%d"' % next(self._ids), None)

    async def _tell_cancelled(self, ident: bytes) -> None:
        try:
            await self.transport.send(message.notification("notifications/cancelled", b'{"requestId":%b}' % ident))
        except TransportError as error:
            log.info("cancellation not delivered", extra={"target": self.target.name, "error": str(error)})

    def _fly(self, method: str, params: bytes | None, ident: bytes, sink: Sink | None) -> tuple[Flight, bytes | None]:
        if not self.target.is_channel:
            if not is_plain_id(ident) and (sink is None or sink.begun is None):
                ident = b'"agw-id-%d"' % next(self._ids)
            return Flight(ident, method, sink, None, None), params
        own = b"%d" % next(self._ids)
        token = None
        if params is not None and b"progressToken" in params:
            parts = message.members(params)
            meta = message.members(parts.get("_meta"))
            if "progressToken" in meta:
                token = bytes(meta["progressToken"])
                meta["progressToken"] = msgspec.Raw(own)
                parts["_meta"] = msgspec.Raw(message.encode(meta))
                params = message.encode(parts)
        return Flight(own, method, sink, own if token is not None else None, token), params

    async def close(self) -> None:
        """End the shared process or stream."""
        await self.transport.close()

    # ------------------------------------------------------------------------------------------ from the target

    def _related(self, flight: Flight, raw: bytes) -> None:
        try:
            note = message.parse(raw)
        except MessageError as error:
            log.warning("message of a target dropped", extra={"target": self.target.name, "error": str(error)})
            return
        if note.kind == "notification" and flight.sink is not None:
            flight.sink.notification(note)

    def _stray(self, raw: bytes) -> None:
        """On a process everything arrives here: progress goes by token, listen events by subscription id."""
        try:
            note = message.parse(raw)
        except MessageError as error:
            log.warning("message of a target dropped", extra={"target": self.target.name, "error": str(error)})
            return
        if note.kind != "notification":
            return
        params = message.members(note.params)
        token = params.get("progressToken")
        subscription = message.members(params.get("_meta")).get(revisions.META_SUBSCRIPTION)
        for flight in self.flights.values():
            if flight.sink is None:
                continue
            if token is not None and note.method == "notifications/progress":
                if flight.token == bytes(token):
                    params["progressToken"] = msgspec.Raw(flight.their_token or flight.token)
                    raw_params = message.encode(params)
                    flight.sink.notification(
                        Message(message.notification(note.method, raw_params), "notification", None, note.method, raw_params))
                    return
            elif subscription is not None and bytes(subscription) == flight.ident:
                flight.sink.notification(note)
                return
        if note.method == "notifications/message":
            # Nothing on a process's wire says which request a log message is about. A listen cannot be it.
            calls = [flight for flight in self.flights.values() if flight.sink is not None and flight.method != "subscriptions/listen"]
            if len(calls) == 1 and calls[0].sink is not None:
                calls[0].sink.notification(note)

    def _down(self, reason: str) -> None:
        self._fresh_until = 0.0
        log.info("a target's channel ended", extra={"target": self.target.name, "reason": reason})


class NotModern(Exception):
    """The target does not speak 2026-07-28."""
