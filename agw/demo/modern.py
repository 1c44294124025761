"""Streamable HTTP of 2026-07-28: one POST per request, no session, everything about a request in its `_meta`.

Source: revision 2026-07-28, pages "Transports" and "Versioning", as far as a server with tools only needs them. The
order of the checks: version header present (-32020), `_meta` complete (-32602), header equals `_meta` (-32020), version
known (-32022), Mcp-Method and Mcp-Name equal the body (-32020), method known (-32601 with 404). Each carries the
request's id. Nothing is remembered between requests; the end of the connection is the cancel.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import logging
from collections.abc import AsyncGenerator

from agw.admin.message import Request, Response, event_stream
from agw.demo import tools
from agw.demo.answers import CAPABILITIES, INSTRUCTIONS, Answer, internal_error, server_info
from agw.demo.jsonrpc import (
    HEADER_MISMATCH,
    INVALID_PARAMS,
    INVALID_REQUEST,
    METHOD_NOT_FOUND,
    UNSUPPORTED_VERSION,
    Id,
    Object,
    RpcError,
    classify,
    failure,
    result,
)
from agw.demo.streams import Outbox, progress, progress_token

log = logging.getLogger(__name__)

VERSION = "2026-07-28"

_PREFIX = "io.modelcontextprotocol/"
_VERSION_HEADER = "mcp-protocol-version"
# Lists never change while the process lives, and everybody sees the same.
_CACHE_HINTS: Object = {"ttlMs": 3_600_000, "cacheScope": "public"}


def is_modern(request: Request, value: object, legacy_versions: tuple[str, ...]) -> bool:
    """True if a POST is of this era: its `_meta` names a version, or its header names one that is not legacy."""
    params = value.get("params") if isinstance(value, dict) else None
    meta = params.get("_meta") if isinstance(params, dict) else None
    if isinstance(meta, dict) and _PREFIX + "protocolVersion" in meta:
        return True
    return any(version not in legacy_versions for version in request.header_values(_VERSION_HEADER))


class ModernEndpoint:
    """The MCP endpoint for stateless clients."""

    def __init__(self, keep_alive_s: float) -> None:
        self._keep_alive_s = keep_alive_s

    async def post(self, request: Request, value: object) -> Response:
        """Answer a POST whose body is the JSON `value`. Errors: RpcError."""
        message = classify(value)
        if message.method is None:
            raise RpcError(INVALID_REQUEST, "responses are not accepted", id=message.id)
        if message.id is None:
            return Response(202)  # the revision defines no client notification over HTTP; there is nothing to do
        try:
            _check_version(request, message.params)
            _check_mirror(request, "mcp-method", message.method)
            if message.method == "tools/call":
                _check_mirror(request, "mcp-name", message.params.get("name"))
            return await self._dispatch(message.id, message.method, message.params, Answer(request))
        except RpcError as error:
            error.id = message.id
            raise

    async def _dispatch(self, id: Id, method: str, params: Object, answer: Answer) -> Response:
        if method == "server/discover":
            return answer.json(
                _complete(
                    id,
                    {
                        "supportedVersions": [VERSION],
                        "capabilities": CAPABILITIES,
                        "instructions": INSTRUCTIONS,
                        **_CACHE_HINTS,
                    },
                )
            )
        if method == "tools/list":
            if params.get("cursor") is not None:
                raise RpcError(INVALID_PARAMS, "unknown cursor")
            return answer.json(_complete(id, {"tools": tools.listing(structured=True), **_CACHE_HINTS}))
        if method != "tools/call":
            raise RpcError(METHOD_NOT_FOUND, "method not found", status=404)
        run = tools.prepare(params, structured=True)
        token = progress_token(params)
        if token is not None and answer.accepts_events:
            return event_stream(self._call_stream(id, run, token))
        return answer.json(await _call(id, run, _no_report))

    async def _call_stream(self, id: Id, run: tools.Run, token: Id) -> AsyncGenerator[bytes, None]:
        """Progress and the response of one call; closing the generator cancels the call."""
        outbox = Outbox()

        async def report(done: int, total: int, text: str) -> None:
            outbox.put(progress(token, done, total, text))

        async def call() -> None:
            outbox.put(await _call(id, run, report))
            outbox.close()

        task = asyncio.get_running_loop().create_task(call())
        try:
            async for event in outbox.events(self._keep_alive_s):
                yield event
        finally:
            task.cancel()


async def _call(id: Id, run: tools.Run, report: tools.Report) -> Object:
    try:
        return _complete(id, await run(report))
    except Exception:  # the border of a call: a broken tool costs its caller one error
        log.exception("tool failed")
        return failure(internal_error(), id)


async def _no_report(done: int, total: int, text: str) -> None:
    """Progress nobody asked for."""


def _complete(id: Id, value: Object) -> Object:
    return result(id, {"resultType": "complete", **value, "_meta": {_PREFIX + "serverInfo": server_info()}})


def _check_version(request: Request, params: Object) -> None:
    """Errors: RpcError -32020, -32602, -32022, in the order the module states."""
    headers = request.header_values(_VERSION_HEADER)
    if len(headers) != 1:
        raise RpcError(HEADER_MISMATCH, "exactly one MCP-Protocol-Version is needed")
    meta = params.get("_meta")
    version = meta.get(_PREFIX + "protocolVersion") if isinstance(meta, dict) else None
    capabilities = meta.get(_PREFIX + "clientCapabilities") if isinstance(meta, dict) else None
    if not isinstance(version, str) or not isinstance(capabilities, dict):
        raise RpcError(INVALID_PARAMS, f"_meta needs {_PREFIX}protocolVersion and {_PREFIX}clientCapabilities")
    if headers[0] != version:
        raise RpcError(HEADER_MISMATCH, "MCP-Protocol-Version differs from the body")
    if version != VERSION:
        data = {"supported": [VERSION], "requested": version}
        raise RpcError(UNSUPPORTED_VERSION, "unsupported protocol version", data=data)


def _check_mirror(request: Request, header: str, value: object) -> None:
    """The header must repeat what the body says. Errors: RpcError -32020.

    A body value that is no string is left to the method's own check, which names the real fault.
    """
    sent = request.header_values(header)
    if len(sent) != 1 or (isinstance(value, str) and _unwrap(sent[0]) != value):
        raise RpcError(HEADER_MISMATCH, f"{header} is missing or differs from the body")


def _unwrap(value: str) -> str | None:
    """A mirrored header's value without its base64 sentinel; None if it is malformed."""
    if not (value.startswith("=?base64?") and value.endswith("?=") and len(value) >= 11):
        return value
    try:
        return base64.b64decode(value[9:-2], validate=True).decode()
    except (binascii.Error, UnicodeDecodeError):
        return None
