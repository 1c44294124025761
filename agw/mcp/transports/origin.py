"""One HTTP origin as asyncio code sees it: whole answers awaited, streams handed on as they come.

The only place where the MCP package touches `_fast.fetch`. `Origin.fetch` waits for a whole, bounded answer;
`Origin.stream` gives the head at once and the body through a callback.
"""

from __future__ import annotations

from typing import NamedTuple

from agw.mcp.transport import Headers


class Answer(NamedTuple):
    """A whole HTTP answer; header names in lower case."""

    status: int
    headers: Headers
    body: bytes

    def header(self, name: bytes) -> bytes | None:
        """The first value of a header, None when absent."""
        for key, found in self.headers:
            if key == name:
                return found
        return None
