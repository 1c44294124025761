"""An OpenAPI service as an MCP server: the messages are answered here, the calls go to the service.

It has no session and no state of its own: every request stands for itself, and its `_meta` says of which era it is. What
MCP needs beyond tools the service does not have, so every other method is unknown (-32601).

Rules:
- one source of tools per target; a conversation of its own comes from `another`, and closing it does not disturb the rest;
- what a caller did wrong is a JSON-RPC error (-32602), what the service did is a tool result, what happened on the way to
  it is a TransportError; an answer that is too large is a result, because the request was carried out;
- cancelling a request closes its connection to the service.

Source: MCP lifecycle, tools (all revisions); 2026-07-28 "Versioning", "Caching"; reference section 1.7.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Literal

import msgspec

from agw.mcp import errors, message, revisions
from agw.mcp.errors import RpcError
from agw.mcp.openapi.call import compose
from agw.mcp.openapi.parameters import ArgumentError
from agw.mcp.openapi.result import failure, render
from agw.mcp.openapi.source import Fetcher, SchemaSource, whatever_status
from agw.mcp.openapi.tools import ToolSet
from agw.mcp.transport import Headers, OnMessage, Reply, TransportError
from agw.runtime.plan import OpenApiPlan

MAX_ANSWER_BYTES = 4 * 1024 * 1024
TTL_MS = 300_000
"""For how long callers may keep the list of tools; a change is told where the era has a way to tell it."""

_CHANGED = message.notification("notifications/tools/list_changed", None)


class OpenApiTransport:
    """A way to one OpenAPI service.

    `name` is the target's. `origin` leads to the service; `schema_origin` to the host of `plan.url`, None if the service
    itself has the document (a URL without a host) or nobody fetches it. `source` is for `another`.
    """

    kind: Literal["http", "sse", "stdio", "openapi"] = "openapi"

    def __init__(
        self, name: str, plan: OpenApiPlan, origin: Fetcher, *, schema_origin: Fetcher | None = None, max_bytes: int = MAX_ANSWER_BYTES,
        source: SchemaSource | None = None,
    ) -> None:
        if schema_origin is None and "://" not in plan.url and not plan.url.startswith("//"):
            schema_origin = origin
        self.name = name
        self.source = source or SchemaSource(name, plan, schema_origin)
        self.on_stray: OnMessage = _ignore
        self.on_down: Callable[[str], None] = _ignore
        self._plan = plan
        self._origin = origin
        self._max_bytes = max_bytes
        self._attached = False

    def another(self) -> OpenApiTransport:
        """One more conversation with the same service and the same source of tools."""
        return OpenApiTransport(self.name, self._plan, self._origin, max_bytes=self._max_bytes, source=self.source)

    async def request(
        self, message: bytes, ident: bytes, *, headers: Headers = (), on_message: OnMessage | None = None,
        on_gap: Callable[[int | None], None] | None = None, timeout_s: float = 60.0,
    ) -> Reply:
        """Answer a request. `headers` go to the service with a `tools/call`, without those of MCP and of the hop.

        Units:  `timeout_s` bounds the whole answer, for nothing is heard of the service before.
        Errors: TransportError.
        """
        try:
            async with asyncio.timeout(timeout_s):
                return await self._answer(message, ident, headers, timeout_s)
        except TimeoutError:
            raise TransportError("timeout", "the service did not answer in time") from None

    async def send(self, message: bytes, *, headers: Headers = ()) -> None:
        """Take a notification; none of them means anything to a service without state."""

    async def listen(self, headers: Headers = ()) -> None:
        """Begin to hear of changed lists; returns at once."""
        self._attach()

    async def close(self, headers: Headers = ()) -> None:
        """Stop hearing of changed lists. Requests under way end by themselves; a later one begins the hearing again."""
        if self._attached:
            self._attached = False
            self.source.detach(self._list_changed)

    # ------------------------------------------------------------------------------------------------- answers

    async def _answer(self, raw: bytes, ident: bytes, headers: Headers, timeout_s: float) -> Reply:
        try:
            asked = message.parse(raw)
        except message.MessageError:
            raise TransportError("protocol", "the message is not JSON-RPC", sent=False) from None
        self._attach()
        params = message.members(asked.params)
        version = message.text(message.members(params.get("_meta")).get(revisions.META_VERSION))
        try:
            if version is None:
                result = await self._legacy(asked.method or "", params, headers, timeout_s)
            else:
                result = await self._modern(asked.method or "", params, version, headers, timeout_s)
        except RpcError as error:
            return Reply(message.failure(ident, error.raw()))
        return Reply(message.result(ident, message.encode(result)))

    async def _legacy(self, method: str, params: message.Members, headers: Headers, timeout_s: float) -> dict[str, Any]:
        if method == "ping":
            return {}
        if method == "initialize":
            found = await self.source.tools()
            wanted = message.text(params.get("protocolVersion")) or ""
            return {
                "protocolVersion": revisions.newest_common(wanted),
                "capabilities": {"tools": {"listChanged": True} if self.source.changes else {}},
                "serverInfo": _server_info(found),
                **_instructions(found),
            }
        return await self._either(method, params, headers, timeout_s)

    async def _modern(self, method: str, params: message.Members, version: str, headers: Headers, timeout_s: float) -> dict[str, Any]:
        if version not in revisions.MODERN:
            raise RpcError(
                errors.UNSUPPORTED_VERSION, "Unsupported protocol version", status=400, data={"supported": list(revisions.MODERN), "requested": version})
        found = await self.source.tools()
        if method == "server/discover":
            # No listChanged: it is told on a subscription, and there are none.
            result = {"supportedVersions": list(revisions.MODERN), "capabilities": {"tools": {}}, **_instructions(found)}
        else:
            result = await self._either(method, params, headers, timeout_s)
        hints = {"ttlMs": TTL_MS, "cacheScope": "public"} if revisions.METHODS[method].cacheable else {}
        return {"resultType": "complete", **result, **hints, "_meta": {revisions.META_SERVER_INFO: _server_info(found)}}

    async def _either(self, method: str, params: message.Members, headers: Headers, timeout_s: float) -> dict[str, Any]:
        """What both eras have."""
        if method == "tools/list":
            if message.value(params.get("cursor")) is not None:
                raise RpcError(errors.INVALID_PARAMS, "Unknown cursor", status=400)
            return {"tools": msgspec.Raw((await self.source.tools()).listing)}
        if method == "tools/call":
            return await self._call(params, headers, timeout_s)
        raise errors.method_not_found(method)

    async def _call(self, params: message.Members, headers: Headers, timeout_s: float) -> dict[str, Any]:
        name = message.text(params.get("name"))
        if name is None:
            raise RpcError(errors.INVALID_PARAMS, "tools/call needs a name", status=400)
        tool = (await self.source.tools()).tools.get(name)
        if tool is None:
            raise errors.unknown_tool(name)
        try:
            request = compose(tool.operation, params.get("arguments"), headers)
        except ArgumentError as error:
            raise RpcError(errors.INVALID_PARAMS, f"Invalid arguments: {error}", status=400) from None
        try:
            answer = await whatever_status(self._origin.fetch(
                request.method, request.path, request.headers, request.body, timeout_s=timeout_s, max_bytes=self._max_bytes))
        except TransportError as error:
            if error.kind == "limit" and error.sent:
                return failure(f"The request was carried out, but its answer is larger than {self._max_bytes} octets.")
            raise
        return render(answer, tool.name, structured=tool.structured, head=request.method == b"HEAD")

    # ----------------------------------------------------------------------------------------- list changes

    def _attach(self) -> None:
        if not self._attached:
            self._attached = True
            self.source.attach(self._list_changed)

    def _list_changed(self) -> None:
        self.on_stray(_CHANGED)


def _server_info(found: ToolSet) -> dict[str, str]:
    return {"name": found.title, "version": found.version}


def _instructions(found: ToolSet) -> dict[str, str]:
    return {"instructions": found.instructions} if found.instructions else {}


def _ignore(_: object) -> None:
    """Nobody listens yet."""
