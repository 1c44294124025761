"""A server with the tasks extension, on fastmcp and fastmcp-tasks: `fastmcp_tasks_server.py PORT`.

It has the tools of the matrix: echo, add, progress, cancelled (cases.py says what they do). `slow_echo` runs as a task for
clients that can do that.
"""

from __future__ import annotations

import asyncio
import sys

import counting
from fastmcp import Context, FastMCP
from fastmcp_tasks import TasksExtension

server = FastMCP("agw-tasks")
server.add_extension(TasksExtension())


@server.tool
async def echo(text: str) -> str:
    """The text, unchanged."""
    return text


@server.tool
async def add(a: int, b: int) -> str:
    """The sum."""
    return str(a + b)


@server.tool
async def progress(steps: int, step_ms: int, ctx: Context) -> str:
    """One progress notification after every step, then the result one step later."""
    try:
        for step in range(steps):
            await asyncio.sleep(step_ms / 1000)
            await ctx.report_progress(step + 1, steps)
        await asyncio.sleep(step_ms / 1000)
    except asyncio.CancelledError:
        counting.one_more()
        raise
    return f"{steps} steps"


@server.tool
async def cancelled() -> str:
    """How many calls of `progress` were cancelled so far."""
    return str(counting.so_far())


@server.tool(task=True)
async def slow_echo(text: str) -> str:
    """The text, unchanged, a little later."""
    await asyncio.sleep(0.3)
    return text


server.run("http", host="127.0.0.1", port=int(sys.argv[1]), show_banner=False, log_level="warning")
