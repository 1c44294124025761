"""A server of the legacy era on the Python SDK, mcp 1.30: `python1.py http PORT` or `python1.py stdio`.

It has the tools of the matrix: echo, add, progress, cancelled (cases.py says what they do).
"""

from __future__ import annotations

import asyncio
import sys

import counting
from mcp.server.fastmcp import Context, FastMCP

server = FastMCP("agw-python1", host="127.0.0.1", log_level="WARNING")


@server.tool()
async def echo(text: str) -> str:
    """The text, unchanged."""
    return text


@server.tool()
async def add(a: int, b: int) -> str:
    """The sum."""
    return str(a + b)


@server.tool()
async def progress(steps: int, step_ms: int, ctx: Context) -> str:  # type: ignore[type-arg]
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


@server.tool()
async def cancelled() -> str:
    """How many calls of `progress` were cancelled so far."""
    return str(counting.so_far())


if sys.argv[1] == "stdio":
    server.run("stdio")
else:
    server.settings.port = int(sys.argv[2])
    server.run("streamable-http")
