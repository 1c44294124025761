"""Drives a server with the client of fastmcp 4: `fastmcp_client.py URL PROFILE`. Modern first, legacy if need be."""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

import fastmcp_tasks  # noqa: F401  (teaches the client the extension)
import report
from fastmcp import Client


class Run:
    """One connection."""

    def __init__(self, url: str, profile: dict[str, Any]) -> None:
        self.url, self.profile = url, profile
        self.client: Any = Client(url, timeout=30)

    async def _call(self, part: dict[str, Any], **more: Any) -> str:
        result = await self.client.call_tool(part["tool"], part["arguments"], **more)
        return "".join(content.text for content in result.content)

    async def connect(self) -> str:
        """Either era."""
        return "connected" if self.client.is_connected() else "not connected"

    async def list(self) -> str:
        """All pages."""
        names = [tool.name for tool in await self.client.list_tools()]
        report.expect((len(names), len(set(names))), (self.profile["tools"], self.profile["tools"]), "tools")
        return f"{len(names)} tools"

    async def call(self) -> None:
        """Texts come back as they were."""
        for key in ("echo", "add"):
            report.said(await self._call(self.profile[key]), self.profile[key])

    async def progress(self) -> str:
        """Progress comes as it is sent."""
        part = report.need(self.profile, "progress")
        progress = report.Progress(part)

        async def note(done: float, total: float | None, message: str | None) -> None:
            progress.note(done)

        await self._call(part, progress_handler=note)
        return progress.judge()

    async def cancel(self) -> None:
        """A call that is given up is given up by the server too."""
        part = report.need(self.profile, "cancel")
        await report.given_up(part, self._call)

    async def task(self) -> None:
        """A tool that runs as a task: the client polls until it is done."""
        part = report.need(self.profile, "task")
        report.expect(await self._call(part), part["text"], "task")

    async def all(self) -> None:
        """All checks."""
        async with self.client:
            await report.run([(name, getattr(self, name)) for name in report.chosen(self.profile, "connect list call progress cancel task")])


async def main() -> None:
    """Run it, and say so if there was no connection at all."""
    try:
        await Run(sys.argv[1], json.loads(sys.argv[2])).all()
    except Exception as error:
        report.emit("connect", False, repr(error))


asyncio.run(main())
