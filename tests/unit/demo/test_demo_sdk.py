"""The demo server driven by the official Python SDK, in both eras."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

mcp = pytest.importorskip("mcp")
if not hasattr(mcp, "Client"):
    pytest.skip("mcp 2.x is needed", allow_module_level=True)


def drive(port: int, mode: str) -> dict[str, Any]:
    """What the SDK's client sees when it uses everything the server has."""

    async def use() -> dict[str, Any]:
        seen: list[tuple[float, float | None]] = []

        async def note(done: float, total: float | None, message: str | None) -> None:
            seen.append((done, total))

        async with mcp.Client(f"http://127.0.0.1:{port}/mcp", mode=mode) as client:
            listed = await client.list_tools()
            echo = await client.call_tool("echo", {"text": "hello"})
            add = await client.call_tool("add", {"a": 2, "b": 3})
            wrong = await client.call_tool("add", {"a": "2", "b": 3})
            slow = await client.call_tool("slow", {"seconds": 0.05, "steps": 5}, progress_callback=note)
            cancelled = False
            try:
                async with asyncio.timeout(0.2):
                    await client.call_tool("slow", {"seconds": 60}, progress_callback=note)
            except TimeoutError:
                cancelled = True
            return {
                "version": client.protocol_version,
                "tools": [tool.name for tool in listed.tools],
                "echo": echo.content[0].text,
                "sum": add.structured_content,
                "wrong": wrong.is_error,
                "slow": slow.structured_content,
                "progress": seen[:5],
                "cancelled": cancelled,
            }

    return asyncio.run(use())


@pytest.mark.parametrize(("mode", "version"), [("legacy", "2025-11-25"), ("auto", "2026-07-28")])
def test_the_sdk_client_finds_everything_in_order(demo: Any, mode: str, version: str) -> None:
    assert drive(demo.port, mode) == {
        "version": version,
        "tools": ["echo", "add", "slow"],
        "echo": "hello",
        "sum": {"sum": 5},
        "wrong": True,
        "slow": {"seconds": 0.05, "steps": 5},
        "progress": [(step, 5) for step in range(1, 6)],
        "cancelled": True,
    }
