"""Drives a server with the Python SDK, mcp 1.30: `python1.py URL PROFILE`. Legacy era only."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from datetime import timedelta
from typing import Any

import httpx
import report
from mcp import ClientSession, McpError, types
from mcp.client.sse import sse_client
from mcp.client.streamable_http import streamable_http_client
from mcp.shared._httpx_utils import create_mcp_http_client


class Run:
    """One connection and what was seen on it."""

    def __init__(self, url: str, profile: dict[str, Any]) -> None:
        self.url, self.profile = url, profile
        self.deleted: list[int] = []
        self.streams: list[int] = []
        self.updates: list[str] = []
        self.logs: list[float] = []
        self.answered: list[str] = []
        self.session_id: str | None = None
        self.version = ""
        self.client: ClientSession

    async def _saw(self, response: httpx.Response) -> None:
        if response.request.method == "DELETE":
            self.deleted.append(response.status_code)
        if response.request.method == "GET":
            self.streams.append(response.status_code)

    async def _message(self, message: Any) -> None:
        if isinstance(message, types.ServerNotification) and isinstance(message.root, types.ResourceUpdatedNotification):
            self.updates.append(str(message.root.params.uri))

    async def _logged(self, params: types.LoggingMessageNotificationParams) -> None:
        self.logs.append(time.monotonic())

    async def _elicited(self, context: Any, params: Any) -> types.ElicitResult:
        self.answered.append(params.message)
        return types.ElicitResult(action="accept", content={name: f"my {name}" for name in params.requestedSchema["properties"]})

    async def _call(self, part: dict[str, Any], **more: Any) -> str:
        result = await self.client.call_tool(part["tool"], part["arguments"], **more)
        report.expect(result.isError, False, "isError")
        return "".join(content.text for content in result.content if isinstance(content, types.TextContent))

    async def connect(self) -> str:
        """The handshake."""
        initialized = await self.client.initialize()
        self.version = str(initialized.protocolVersion)
        report.expect(self.version, "2025-11-25", "version")
        return self.version

    async def list(self) -> str:
        """All pages."""
        names, cursor, pages = [], None, 0
        while pages == 0 or cursor is not None:
            listed = await self.client.list_tools(params=types.PaginatedRequestParams(cursor=cursor))
            names += [tool.name for tool in listed.tools]
            cursor, pages = listed.nextCursor, pages + 1
        report.expect((len(names), len(set(names))), (self.profile["tools"], self.profile["tools"]), "tools")
        report.expect(pages, self.profile["pages"], "pages")
        return f"{len(names)} tools on {pages} pages"

    async def call(self) -> None:
        """Texts come back as they were."""
        for key in ("echo", "add"):
            report.said(await self._call(self.profile[key]), self.profile[key])

    async def big(self) -> None:
        """A result of a megabyte."""
        part = report.need(self.profile, "big")
        report.expect(len(await self._call(part)), part["bytes"], "length")

    async def error(self) -> None:
        """An error result, and a JSON-RPC error."""
        part = report.need(self.profile, "error")
        report.expect((await self.client.call_tool(part["tool"], part["arguments"])).isError, True, "isError")
        try:
            unknown = await self.client.call_tool("no-such-tool", {})
        except McpError as error:
            report.expect(error.error.code, -32602, "code")
        else:
            report.expect(unknown.isError, True, "isError of an unknown tool")

    async def _one_progress(self) -> str:
        part = report.need(self.profile, "progress")
        progress = report.Progress(part)

        async def note(done: float, total: float | None, message: str | None) -> None:
            progress.note(done)

        await self._call(part, progress_callback=note)
        return progress.judge()

    async def progress(self) -> str:
        """Progress comes as it is sent."""
        return await self._one_progress()

    async def parallel(self) -> str:
        """Six calls at once on as many connections, their progress not mixed up."""
        return (await asyncio.gather(*(self._one_progress() for _ in range(6))))[0]

    async def log(self) -> str:
        """Log messages during a call."""
        part = report.need(self.profile, "log")
        before = len(self.logs)
        await self._call(part)
        now, times = time.monotonic(), self.logs[before:]
        report.expect(len(times), part["messages"], "messages")
        if now - times[0] < part["spread_ms"] / 2000:
            raise AssertionError(f"the first message came {1000 * (now - times[0]):.0f} ms before the result")
        return f"first {1000 * (now - times[0]):.0f} ms before the result"

    async def idle(self) -> str:
        """A notification on the GET stream while no request is running."""
        await self._call(report.need(self.profile, "idle"))
        result_at = time.monotonic()
        while not any(at > result_at + 0.2 for at in self.logs):
            await asyncio.sleep(0.02)
        return f"{next(at for at in self.logs if at > result_at + 0.2) - result_at:.1f} s after the result"

    async def subscribe(self) -> str:
        """resources/subscribe, then an update while idle."""
        part = report.need(self.profile, "subscribe")
        await self.client.subscribe_resource(part["uri"])
        await self._call(part)
        while part["uri"] not in self.updates:
            await asyncio.sleep(0.02)
        return "GET stream"

    async def resource(self) -> None:
        """List, read, and one that is not there."""
        part = report.need(self.profile, "resource")
        listed, cursor = [], None
        while True:
            page = await self.client.list_resources(params=types.PaginatedRequestParams(cursor=cursor))
            listed += [str(resource.uri) for resource in page.resources]
            if (cursor := page.nextCursor) is None:
                break
        report.expect(part["uri"] in listed, True, f"{part['uri']} listed")
        read = await self.client.read_resource(part["uri"])
        report.expect(part["text"] in getattr(read.contents[0], "text", ""), True, "text")
        try:
            await self.client.read_resource(types.AnyUrl("test://nowhere"))
        except McpError:
            return
        raise AssertionError("an unknown resource was read")

    async def prompt(self) -> None:
        """List and get."""
        part = report.need(self.profile, "prompt")
        report.expect(part["name"] in [prompt.name for prompt in (await self.client.list_prompts()).prompts], True, "listed")
        got = await self.client.get_prompt(part["name"], part["arguments"])
        report.expect(getattr(got.messages[0].content, "text", None), part["text"], "text")

    async def complete(self) -> None:
        """completion/complete"""
        part = report.need(self.profile, "complete")
        reference = types.PromptReference(type="ref/prompt", name=part["prompt"])
        got = await self.client.complete(reference, {"name": part["argument"], "value": part["value"]})
        report.expect(got.completion.values, part["values"], "values")

    async def elicit(self) -> None:
        """The server asks the client during a call."""
        part = report.need(self.profile, "elicit")["legacy"]
        report.expect(part["text"] in await self._call(part), True, "answer in result")
        report.expect(len(self.answered), 1, "questions")

    async def cancel(self) -> None:
        """This SDK never tells the server."""
        raise report.Skip("not sent by this client")

    async def session(self) -> str:
        """A session id and a GET stream."""
        report.expect(bool(self.session_id), True, "session id")
        report.expect(self.streams[:1], [200], "GET stream")
        return "one, with GET stream"

    async def delete(self) -> str:
        """Closing deletes the session; its id is worth nothing then."""
        report.expect([status // 100 for status in self.deleted], [2], f"DELETE {self.deleted}")
        assert self.session_id is not None
        report.expect(await report.status_of_session(self.url, self.session_id, self.version), self.profile["gone"], "status after DELETE")
        return f"then {self.profile['gone']}"

    async def all(self) -> None:
        """All checks, the last one after the connection is closed."""
        http = create_mcp_http_client()
        http.event_hooks = {"response": [self._saw]}
        over = sse_client(self.url) if self.url.endswith("/sse") else streamable_http_client(self.url, http_client=http)
        async with http, over as (read, write, *session_id):
            self.client = ClientSession(
                read,
                write,
                read_timeout_seconds=timedelta(seconds=30),
                message_handler=self._message,
                logging_callback=self._logged,
                elicitation_callback=self._elicited,
            )
            async with self.client:
                await report.run([("connect", self.connect)])
                self.session_id = session_id[0]() if session_id else None
                names = "list call big error progress parallel log idle subscribe resource prompt complete elicit cancel session"
                await report.run([(name, getattr(self, name)) for name in report.chosen(self.profile, names)])
        await report.run([(name, getattr(self, name)) for name in report.chosen(self.profile, "delete")])


async def main() -> None:
    """Run it, and say so if there was no connection at all."""
    try:
        await Run(sys.argv[1], json.loads(sys.argv[2])).all()
    except BaseExceptionGroup as error:
        report.emit("connect", False, repr(error.exceptions))


asyncio.run(main())
