"""gRPC connections of a worker: one per service, shared by the policies that name it, made on first use and again when lost.

Rules:
- calls in flight are bounded, and so is each in time by its caller; who comes on top fails at once;
- a connection on which nothing is answered any more is given up after `MAX_SILENT` calls in a row ran out of time;
- closed when the last policy that uses it is: a reload leaves nothing behind.
"""

from __future__ import annotations

import asyncio
import ssl
from typing import Any

from grpclib.client import Channel, UnaryUnaryMethod
from grpclib.exceptions import GRPCError, ProtocolError, StreamTerminatedError

MAX_IN_FLIGHT = 1024
MAX_SILENT = 3


class CallFailed(Exception):
    """No answer. The text is for the operator."""


class SharedChannel:
    """One service. `host` is a name, an address, or `unix:/path`."""

    def __init__(self, host: str, port: int, tls: bool) -> None:
        self._host = host
        self._port = port
        # Loads the system's certificates, some milliseconds: once per service and configuration, not per call.
        self._context = _client_context() if tls else None
        self._channel: Channel | None = None
        self._in_flight = 0
        self._silent = 0
        self.users = 0

    async def call(self, method: str, message: Any, answer: type[Any]) -> Any:
        """One unary call; the caller bounds the time. Errors: CallFailed, and TimeoutError from outside."""
        if self._in_flight >= MAX_IN_FLIGHT:
            raise CallFailed("too many calls are waiting for the service")
        channel = self._channel = self._channel or self._open()
        self._in_flight += 1
        try:
            reply = await UnaryUnaryMethod(channel, method, type(message), answer)(message)
        except asyncio.CancelledError:
            self._silent += 1
            if self._silent >= MAX_SILENT and self._channel is channel:
                self._drop()
            raise
        except GRPCError as error:
            self._silent = 0
            raise CallFailed(f"gRPC status {error.status.name}") from None
        except StreamTerminatedError:
            raise CallFailed("the connection was lost") from None
        except ProtocolError:
            raise CallFailed("the service does not speak gRPC") from None
        except OSError as error:
            raise CallFailed(f"cannot connect: {error.strerror or type(error).__name__}") from None
        finally:
            self._in_flight -= 1
        if reply is None:
            raise CallFailed("no message in the answer")
        self._silent = 0
        return reply

    def close(self) -> None:
        """Close the connection; calls in flight fail."""
        self._drop()

    def _open(self) -> Channel:
        if self._host.startswith("unix:"):
            path = self._host.removeprefix("unix:")
            return Channel(path="\0" + path[1:] if path.startswith("@") else path)
        return Channel(self._host, self._port, ssl=self._context)

    def _drop(self) -> None:
        channel, self._channel = self._channel, None
        self._silent = 0
        if channel is not None:
            channel.close()


def _client_context() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["h2"])
    return context


_channels: dict[tuple[str, int, bool], SharedChannel] = {}


def acquire(host: str, port: int, tls: bool) -> SharedChannel:
    """The channel of a service, shared within the process; `release` it."""
    key = (host, port, tls)
    channel = _channels.get(key)
    if channel is None:
        channel = _channels[key] = SharedChannel(host, port, tls)
    channel.users += 1
    return channel


def release(host: str, port: int, tls: bool) -> None:
    """One user less; the last one closes."""
    key = (host, port, tls)
    channel = _channels.get(key)
    if channel is not None:
        channel.users -= 1
        if channel.users <= 0:
            del _channels[key]
            channel.close()
