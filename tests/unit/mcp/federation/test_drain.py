"""Reading all pages of a list, within bounds."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from agw.mcp.federation.drain import KINDS, NOTHING, Drained, Limits, drain
from agw.mcp.message import MessageError

TOOLS = KINDS["tools"]


def drained(*pages: Any, limits: Limits = Limits()) -> tuple[Drained, list[bytes | None]]:  # noqa: B008
    asked: list[bytes | None] = []

    async def fetch(cursor: bytes | None) -> bytes:
        page = pages[min(len(asked), len(pages) - 1)]
        asked.append(cursor)
        return page if isinstance(page, bytes) else json.dumps(page).encode()

    return asyncio.run(drain(TOOLS, fetch, limits)), asked


def test_all_pages_and_an_empty_cursor() -> None:
    found, asked = drained({"tools": [1], "nextCursor": ""}, b'{"tools":[2],"nextCursor":"\\u0041"}', {"tools": [], "nextCursor": None})
    assert found.arrays == [b"[1]", b"[2]", b"[]"]
    assert asked == [None, b'""', b'"\\u0041"']
    assert found.cut == ""


def test_circles_end() -> None:
    found, asked = drained({"tools": [1], "nextCursor": "x"}, {"tools": [2], "nextCursor": "x"})
    assert (found.cut, len(found.arrays), len(asked)) == ("cursor", 2, 2)


def test_bounds() -> None:
    pages = [{"tools": ["12345"], "nextCursor": str(n)} for n in range(9)]
    found, asked = drained(*pages, limits=Limits(pages=3))
    assert (found.cut, len(found.arrays), len(asked)) == ("pages", 3, 3)
    found, asked = drained(*pages, limits=Limits(size_bytes=20))
    assert (found.cut, len(found.arrays), len(asked)) == ("bytes", 2, 3)


@pytest.mark.parametrize("page", [b"{}", b'{"tools":null}', b'{"tools":{}}', b"[]"])
def test_no_list_is_an_error(page: bytes) -> None:
    with pytest.raises(MessageError):
        drained(page)


def test_hints() -> None:
    public = {"tools": [], "ttlMs": 5000, "cacheScope": "public"}
    assert drained({**public, "nextCursor": "x"}, {**public, "ttlMs": 300})[0][2:4] == (300, True)
    assert drained({**public, "nextCursor": "x"}, {**public, "cacheScope": "private"})[0][2:4] == (5000, False)
    assert drained({"tools": [], "cacheScope": "public"})[0][2:4] == (None, False)
    assert drained({"tools": [], "ttlMs": -1})[0].ttl_ms == 0
    assert drained({"tools": [], "ttlMs": True})[0].ttl_ms is None


def test_digests_tell_lists_apart() -> None:
    one = drained({"tools": [1, 2]})[0].digest
    assert one == drained({"tools": [1, 2], "_meta": {"x": 1}})[0].digest
    assert one != drained({"tools": [1], "nextCursor": "x"}, {"tools": [2]})[0].digest
    assert NOTHING.digest != drained({"tools": []})[0].digest
