"""Drives a server with the Python SDK, mcp 2.3: `python2.py URL PROFILE auto|legacy|2026-07-28`."""

from __future__ import annotations

import asyncio
import json
import sys
import time
import warnings
from typing import Any

import mcp
import mcp_types as types
import report
from mcp.client.sse import sse_client
from mcp.client.streamable_http import streamable_http_client
from mcp.shared._httpx_utils import create_mcp_http_client
from mcp.shared.exceptions import MCPDeprecationWarning

MODERN = "2026-07-28"
LOG_LEVEL_META = "io.modelcontextprotocol/logLevel"


class Run:
    """One connection and what was seen on it."""

    def __init__(self, url: str, profile: dict[str, Any], mode: str) -> None:
        self.url, self.profile, self.mode = url, profile, mode
        self.session_ids: set[str] = set()
        self.deleted: list[int] = []
        self.streams: list[int] = []
        self.messages: list[tuple[float, str]] = []
        self.logs: list[tuple[float, str]] = []
        self.answered: list[str] = []
        self.client: mcp.Client

    async def _saw(self, response: Any) -> None:
        if session := response.headers.get("mcp-session-id"):
            self.session_ids.add(session)
        if response.request.method == "DELETE":
            self.deleted.append(response.status_code)
        if response.request.method == "GET":
            self.streams.append(response.status_code)

    async def _message(self, message: Any) -> None:
        method = getattr(message, "method", None)
        if method is not None:
            self.messages.append((time.monotonic(), method))

    async def _logged(self, params: Any) -> None:
        self.logs.append((time.monotonic(), str(params.data)))

    async def _elicited(self, context: Any, params: Any) -> types.ElicitResult:
        self.answered.append(params.message)
        fields = params.requested_schema["properties"]
        return types.ElicitResult(action="accept", content={name: f"my {name}" for name in fields})

    @property
    def modern(self) -> bool:
        """The era that was agreed on."""
        return bool(self.client.protocol_version >= MODERN)

    async def _call(self, part: dict[str, Any], **more: Any) -> str:
        result = await self.client.call_tool(part["tool"], part["arguments"], **more)
        report.expect(result.is_error, False, "isError")
        return "".join(content.text for content in result.content)

    async def connect(self) -> str:
        """The era is what the mode and the server allow."""
        modern = self.mode != "legacy" and self.profile["modern"]
        report.expect(self.client.protocol_version, MODERN if modern else "2025-11-25", "version")
        return f"{self.client.protocol_version}"

    async def refused(self) -> str:
        """A client of the modern era only cannot use a server of the legacy one, and is told so."""
        try:
            await self.client.list_tools()
        except mcp.MCPError as error:
            return f"refused: {error.error.code}"
        raise AssertionError("a legacy server answered")

    async def list(self) -> str:
        """All pages."""
        names, cursor, pages = [], None, 0
        while pages == 0 or cursor is not None:
            listed = await self.client.list_tools(cursor=cursor)
            names += [tool.name for tool in listed.tools]
            cursor, pages = listed.next_cursor, pages + 1
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
        report.expect((await self.client.call_tool(part["tool"], part["arguments"])).is_error, True, "isError")
        try:
            unknown = await self.client.call_tool("no-such-tool", {})
        except mcp.MCPError as error:
            report.expect(error.error.code, -32602, "code")
        else:
            report.expect(unknown.is_error, True, "isError of an unknown tool")

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
        meta: Any = {LOG_LEVEL_META: "info"} if self.modern else None
        await self._call(part, meta=meta)
        now = time.monotonic()
        times = [at for at, _ in self.logs[before:]]
        report.expect(len(times), part["messages"], "messages")
        if now - times[0] < part["spread_ms"] / 2000:
            raise AssertionError(f"the first message came {1000 * (now - times[0]):.0f} ms before the result")
        return f"first {1000 * (now - times[0]):.0f} ms before the result"

    async def idle(self) -> str:
        """A notification while no request is running."""
        part = report.need(self.profile, "idle")
        if self.modern:
            async with self.client.listen(tools_list_changed=True) as subscription:
                await self._call(part)
                result_at = time.monotonic()
                event = await anext(aiter(subscription))
                report.expect(type(event).__name__, "ToolsListChanged", "event")
                at = time.monotonic()
        else:
            await self._call(part)
            result_at = time.monotonic()
            while not any(at > result_at + 0.2 for at, _ in self.logs):
                await asyncio.sleep(0.02)
            at = next(at for at, _ in self.logs if at > result_at + 0.2)
        return f"{at - result_at:.1f} s after the result"

    async def subscribe(self) -> str:
        """resources/subscribe, then an update while idle."""
        part = report.need(self.profile, "subscribe")
        if self.modern:
            async with self.client.listen(resource_subscriptions=[part["uri"]]) as subscription:
                await self._call(part)
                event = await anext(aiter(subscription))
            report.expect(getattr(event, "uri", None), part["uri"], "uri")
            return "listen"
        await self.client.subscribe_resource(part["uri"])
        await self._call(part)
        while not any(method == "notifications/resources/updated" for _, method in self.messages):
            await asyncio.sleep(0.02)
        return "GET stream"

    async def resource(self) -> None:
        """List, read, and one that is not there."""
        part = report.need(self.profile, "resource")
        listed, cursor = [], None
        while True:
            page = await self.client.list_resources(cursor=cursor)
            listed += [str(resource.uri) for resource in page.resources]
            if (cursor := page.next_cursor) is None:
                break
        report.expect(part["uri"] in listed, True, f"{part['uri']} listed")
        read = await self.client.read_resource(part["uri"])
        report.expect(part["text"] in read.contents[0].text, True, "text")
        try:
            await self.client.read_resource("test://nowhere")
        except mcp.MCPError:
            return
        raise AssertionError("an unknown resource was read")

    async def prompt(self) -> None:
        """List and get."""
        part = report.need(self.profile, "prompt")
        report.expect(part["name"] in [prompt.name for prompt in (await self.client.list_prompts()).prompts], True, "listed")
        got = await self.client.get_prompt(part["name"], part["arguments"])
        report.expect(got.messages[0].content.text, part["text"], "text")

    async def complete(self) -> None:
        """completion/complete"""
        part = report.need(self.profile, "complete")
        reference = types.PromptReference(name=part["prompt"])
        got = await self.client.complete(reference, {"name": part["argument"], "value": part["value"]})
        report.expect(got.completion.values, part["values"], "values")

    async def elicit(self) -> None:
        """The server asks the client during a call."""
        part = report.need(self.profile, "elicit")["modern" if self.modern else "legacy"]
        before = len(self.answered)
        report.expect(part["text"] in await self._call(part), True, "answer in result")
        report.expect(len(self.answered) - before, 1, "questions")

    async def cancel(self) -> None:
        """A call that is given up is given up by the server too."""
        await report.given_up(report.need(self.profile, "cancel"), self._call)

    async def session(self) -> str:
        """A session id in the legacy era, none in the modern one, and whether there was a GET stream."""
        report.expect(len(self.session_ids), 0 if self.modern else 1, "session ids")
        if not self.modern:
            report.expect(self.streams[:1], [200], "GET stream")
        return "none" if self.modern else "one, with GET stream"

    async def all(self) -> None:
        """All checks, the last ones after the connection is closed."""
        http = create_mcp_http_client()
        http.event_hooks = {"response": [self._saw]}
        async with http:
            transport: Any = sse_client(self.url) if self.url.endswith("/sse") else streamable_http_client(self.url, http_client=http)
            self.client = mcp.Client(
                transport,
                mode=self.mode,
                message_handler=self._message,
                logging_callback=self._logged,
                elicitation_callback=self._elicited,
                read_timeout_seconds=30,
                cache=None,
            )
            async with self.client:
                if self.mode == MODERN and not self.profile["modern"]:
                    await report.run([("connect", self.refused)])
                    return
                names = "connect list call big error progress parallel log idle subscribe resource prompt complete elicit cancel session"
                await report.run([(name, getattr(self, name)) for name in report.chosen(self.profile, names)])
                modern, version = self.modern, self.client.protocol_version
        await report.run([(name, lambda: self.delete(modern, version)) for name in report.chosen(self.profile, "delete")])

    async def delete(self, modern: bool, version: str) -> str:
        """Closing deletes the session; its id is worth nothing then."""
        if modern:
            report.expect(self.deleted, [], "DELETE")
            raise report.Skip("no session")
        report.expect([status // 100 for status in self.deleted], [2], f"DELETE {self.deleted}")
        report.expect(await report.status_of_session(self.url, self.session_ids.pop(), version), self.profile["gone"], "status after DELETE")
        return f"then {self.profile['gone']}"


async def main() -> None:
    """Run it, and say so if there was no connection at all."""
    warnings.simplefilter("ignore", MCPDeprecationWarning)
    try:
        await Run(sys.argv[1], json.loads(sys.argv[2]), sys.argv[3]).all()
    except BaseExceptionGroup as error:
        report.emit("connect", False, repr(error.exceptions))
    except Exception as error:
        report.emit("connect", False, repr(error))


asyncio.run(main())
