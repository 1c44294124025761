"""What the Python clients share: a line of JSON per check, and the judgement of what they saw. Standard library only.

A client is called as `client.py URL PROFILE [MODE]`. PROFILE is JSON, made by cases.py, and says what to call on the
server and what to expect. Checks that do not apply are reported with `ok: null`.
"""

from __future__ import annotations

import asyncio
import json
import time
import traceback
import urllib.error
import urllib.request
from collections.abc import Awaitable, Callable
from typing import Any


class Skip(Exception):
    """The check does not apply to this server or client."""


def emit(check: str, ok: bool | None, detail: str = "") -> None:
    """One result."""
    print(json.dumps({"check": check, "ok": ok, "detail": detail}), flush=True)


async def run(checks: list[tuple[str, Callable[[], Awaitable[str | None]]]], limit_s: float = 20) -> None:
    """Run checks in order, each within a time; one that fails does not stop the others."""
    for name, check in checks:
        try:
            async with asyncio.timeout(limit_s):
                detail = await check()
            emit(name, True, detail or "")
        except Skip as reason:
            emit(name, None, str(reason))
        except Exception as error:
            where = traceback.extract_tb(error.__traceback__)[-1]
            emit(name, False, f"{type(error).__name__}: {error} (line {where.lineno} of {where.name})")


def chosen(profile: dict[str, Any], names: str) -> list[str]:
    """The checks to do, of those a client has: all, or those the profile names."""
    return [name for name in names.split() if name in profile.get("checks", names.split())]


def need(profile: dict[str, Any], key: str) -> dict[str, Any]:
    """A part of the profile. Errors: Skip."""
    part: dict[str, Any] | None = profile.get(key)
    if part is None:
        raise Skip("not offered")
    return part


def expect(got: object, wanted: object, what: str) -> None:
    """Errors: AssertionError naming both."""
    if got != wanted:
        raise AssertionError(f"{what}: {str(got)[:200]!r} instead of {str(wanted)[:200]!r}")


async def given_up(part: dict[str, Any], call: Callable[[dict[str, Any]], Awaitable[str]]) -> None:
    """Give a call up after 400 ms; its server must count it as cancelled within 5 s. Errors: AssertionError."""
    count = {"tool": part["count_tool"], "arguments": {}}
    before = int(await call(count))
    try:
        async with asyncio.timeout(0.4):
            await call(part)
    except TimeoutError:
        pass
    for _ in range(100):
        if int(await call(count)) == before + 1:
            return
        await asyncio.sleep(0.05)
    raise AssertionError("the server still runs it after 5 s")


def said(text: str, part: dict[str, Any]) -> None:
    """A tool answered what it should: `text` as it is, or something that has `has` in it. Errors: AssertionError."""
    if "has" in part:
        expect(part["has"] in text, True, f"{part['has']!r} in {text[:100]!r}")
    else:
        expect(text, part["text"], part["tool"])


class Progress:
    """When progress arrived. `judge` says whether it came as it was sent, and not all at once with the result."""

    def __init__(self, part: dict[str, Any]) -> None:
        self._steps, self._step_s = int(part["steps"]), part["step_ms"] / 1000
        self._seen: list[tuple[float, float]] = []

    def note(self, done: float) -> None:
        """To be called for each notification."""
        self._seen.append((time.monotonic(), done))

    def judge(self) -> str:
        """To be called when the result is there. Errors: AssertionError."""
        now = time.monotonic()
        expect([done for _, done in self._seen], [float(step) for step in range(1, self._steps + 1)], "progress values")
        spread, lead = self._seen[-1][0] - self._seen[0][0], now - self._seen[0][0]
        if spread < 0.5 * (self._steps - 1) * self._step_s:
            raise AssertionError(f"{self._steps} notifications within {1000 * spread:.0f} ms were not passed on one by one")
        if lead < self._step_s:
            raise AssertionError(f"the first notification came {1000 * lead:.0f} ms before the result")
        return f"{self._steps} in {1000 * spread:.0f} ms, first {1000 * lead:.0f} ms before the result"


async def status_of_session(url: str, session: str, version: str) -> int:
    """The status of a request in a session."""

    def post() -> int:
        body = json.dumps({"jsonrpc": "2.0", "id": 99, "method": "tools/list", "params": {}}).encode()
        headers = {
            "content-type": "application/json",
            "accept": "application/json, text/event-stream",
            "mcp-session-id": session,
            "mcp-protocol-version": version,
        }
        try:
            with urllib.request.urlopen(urllib.request.Request(url, body, headers), timeout=5) as response:
                return int(response.status)
        except urllib.error.HTTPError as error:
            with error:
                return error.code

    return await asyncio.to_thread(post)
