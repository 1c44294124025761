"""What a scripted MCP server offers and how its tools behave, over whichever transport.

An `Offer` is plain data (a program gets it as JSON); a behaviour is a coroutine that answers one request through an
`Exchange`, as well or as badly as it is told. Every server has the tools of `BEHAVIOURS` under their names.

Rules:
- results and errors may be given as octets, which go out as they are; what was received can be looked at as octets;
- nothing here waits without being ended by the other side or by the end of the test.
"""

from __future__ import annotations

import asyncio
import json
import os
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

LEGACY = ["2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25"]
MODERN = "2026-07-28"
VERSION_KEY = "io.modelcontextprotocol/protocolVersion"
SUBSCRIPTION_KEY = "io.modelcontextprotocol/subscriptionId"
CAPABILITIES = {
    "tools": {"listChanged": True}, "prompts": {"listChanged": True}, "resources": {"subscribe": True, "listChanged": True},
    "completions": {}, "logging": {},
}
LISTS = {"tools/list": "tools", "prompts/list": "prompts", "resources/list": "resources", "resources/templates/list": "resourceTemplates"}


@dataclass
class Offer:
    """What one server has.

    `lists`: by array name; `page_size` 0: one page; `answers`: raw results by tool name or method; `era`: `legacy`,
    `modern` or `dual`; `prime`: event streams have ids and begin with an empty event; `json_only`: no GET stream.
    """

    name: str = "peer"
    era: str = "legacy"
    capabilities: dict[str, Any] = field(default_factory=lambda: dict(CAPABILITIES))
    versions: list[str] = field(default_factory=lambda: list(LEGACY))
    instructions: str = ""
    tools: list[str] = field(default_factory=lambda: ["echo"])
    lists: dict[str, list[Any]] = field(default_factory=dict)
    page_size: int = 0
    answers: dict[str, Any] = field(default_factory=dict)
    prime: bool = False
    get_stream: bool = True
    sessions: bool = True
    ttl_ms: int = 0

    def listed(self, array: str) -> list[Any]:
        """A list as it is now."""
        if array == "tools" and "tools" not in self.lists:
            return [{"name": name, "description": f"{name} of {self.name}", "inputSchema": {"type": "object"}} for name in self.tools]
        return self.lists.get(array, [])


class Exchange(ABC):
    """One request and the way back. `message` is the decoded request, `raw` its octets, `headers` those it came with."""

    message: dict[str, Any]
    raw: bytes
    headers: dict[str, str]
    modern: bool
    offer: Offer

    @property
    def params(self) -> dict[str, Any]:
        """Of the request."""
        return self.message.get("params") or {}

    @property
    def arguments(self) -> dict[str, Any]:
        """Of the tool."""
        return self.params.get("arguments") or {}

    @property
    def raw_id(self) -> bytes:
        """The id as many libraries write it: no escapes but those that must be."""
        return json.dumps(self.message["id"], ensure_ascii=False).encode()

    async def result(self, value: Any) -> None:
        """The response: a value, or its octets."""
        if isinstance(value, dict) and self.modern:
            value = {"resultType": "complete", **value}
        raw = value if isinstance(value, bytes) else json.dumps(value).encode()
        await self.finish(b'{"jsonrpc":"2.0","id":' + self.raw_id + b',"result":' + raw + b"}")

    async def error(self, code: int, message: str, data: Any = None) -> None:
        """An error as response."""
        error = {"code": code, "message": message, **({} if data is None else {"data": data})}
        await self.finish(json.dumps({"jsonrpc": "2.0", "id": self.message["id"], "error": error}).encode())

    async def text(self, text: str) -> None:
        """A tool's result that is one text."""
        await self.result({"content": [{"type": "text", "text": text}]})

    async def notify(self, method: str, params: Any = None) -> None:
        """A notification related to the request."""
        await self.send(json.dumps({"jsonrpc": "2.0", "method": method, **({} if params is None else {"params": params})}).encode())

    @abstractmethod
    async def send(self, raw: bytes) -> None:
        """A message before the response."""

    @abstractmethod
    async def ask(self, method: str, params: Any, ident: Any = None) -> dict[str, Any]:
        """A request to the client; its whole response."""

    @abstractmethod
    async def finish(self, raw: bytes) -> None:
        """The last message, as octets."""

    @abstractmethod
    async def write(self, octets: bytes) -> None:
        """Octets in place of messages; the answer stays open."""

    @abstractmethod
    async def die(self) -> None:
        """End the connection or the process now."""

    @abstractmethod
    async def gone(self) -> None:
        """Wait until the other side gives the request up (HTTP) or for ever (a process)."""

    @abstractmethod
    async def released(self) -> None:
        """Wait until the test lets go on."""


Behaviour = Callable[[Exchange], Awaitable[None]]


async def echo(x: Exchange) -> None:
    """The request's own octets, as text."""
    await x.text(x.raw.decode("latin-1"))


async def whoami(x: Exchange) -> None:
    """Which server, and its process."""
    await x.text(json.dumps({"name": x.offer.name, "pid": os.getpid()}))


async def hang(x: Exchange) -> None:
    """Never an answer."""
    await x.gone()


async def wait(x: Exchange) -> None:
    """An answer when the test says so."""
    await x.released()
    await x.text("released")


async def die(x: Exchange) -> None:
    """No answer, and the end."""
    await x.die()


async def half(x: Exchange) -> None:
    """Half an answer, and the end."""
    await x.write(b'{"jsonrpc":"2.0","id":' + x.raw_id + b',"result":{"content":[{"type":"te')
    await x.die()


async def garbage(x: Exchange) -> None:
    """What is no JSON."""
    await x.finish(b"<html>this is not JSON</html>")


async def not_rpc(x: Exchange) -> None:
    """JSON that is no message."""
    await x.finish(b'{"hello":"world"}')


async def wrong_id(x: Exchange) -> None:
    """A response to a request that nobody made."""
    await x.finish(b'{"jsonrpc":"2.0","id":"somebody-else","result":{"content":[]}}')


async def big(x: Exchange) -> None:
    """A text of `size` octets."""
    await x.text("x" * int(x.arguments.get("size", 1 << 20)))


async def progress(x: Exchange) -> None:
    """`steps` notifications with the caller's token, then the token as text."""
    token = (x.params.get("_meta") or {}).get("progressToken")
    steps = int(x.arguments.get("steps", 3))
    for step in range(steps):
        await x.notify("notifications/progress", {"progressToken": token, "progress": step + 1, "total": steps})
    await x.text(json.dumps(token))


async def logs(x: Exchange) -> None:
    """Three log messages."""
    for level in ("debug", "info", "error"):
        await x.notify("notifications/message", {"level": level, "data": f"{x.offer.name} {level}"})
    await x.text("logged")


async def ask(x: Exchange) -> None:
    """Asks the client `method` with `params` and gives the response back as text; `id` is the one to ask under."""
    asked = x.arguments
    if x.modern:
        state, answers = x.params.get("requestState"), x.params.get("inputResponses")
        if answers is None:
            await x.result({"resultType": "input_required", "requestState": "state of " + x.offer.name,
                            "inputRequests": {"one": {"method": asked["method"], "params": asked.get("params", {})}}})
        else:
            await x.text(json.dumps({"state": state, "answers": answers}))
        return
    answer = await x.ask(asked["method"], asked.get("params", {}), asked.get("id"))
    await x.text(json.dumps({name: value for name, value in answer.items() if name in ("result", "error")}))


BEHAVIOURS: dict[str, Behaviour] = {
    each.__name__: each for each in (echo, whoami, hang, wait, die, half, garbage, not_rpc, wrong_id, big, progress, logs, ask)
}


async def endless(x: Exchange) -> None:
    """Progress without end."""
    for step in range(1 << 30):
        await x.notify("notifications/progress", {"progressToken": "nobody's", "progress": step})
        await asyncio.sleep(0)


async def answer(offer: Offer, x: Exchange, own: dict[str, Behaviour]) -> None:
    """Answer one request the way a server does. `own` behaviours, by tool or method, come first."""
    method = x.message["method"]
    name = x.params.get("name") if method == "tools/call" else None
    for key in (name, method):
        if key is not None and key in own:
            await own[key](x)
            return
    for key in (name, method):
        if key is not None and key in offer.answers:
            found = offer.answers[key]
            await x.result(found.encode() if isinstance(found, str) else found)
            return
    if method == "server/discover" and offer.era != "legacy":
        await x.result({"supportedVersions": [MODERN], "capabilities": offer.capabilities, "ttlMs": 0, "cacheScope": "private",
                        "_meta": {"io.modelcontextprotocol/serverInfo": {"name": offer.name, "version": "1"}}})
    elif method in LISTS:
        await _list(offer, x, LISTS[method])
    elif method == "tools/call":
        behaviour = BEHAVIOURS.get(str(name)) or (endless if name == "endless" else echo)
        await behaviour(x)
    elif method == "prompts/get":
        await x.result({"messages": [{"role": "user", "content": {"type": "text", "text": x.raw.decode("latin-1")}}]})
    elif method == "resources/read":
        cached = {"ttlMs": offer.ttl_ms, "cacheScope": "private"} if x.modern else {}
        await x.result({"contents": [{"uri": x.params["uri"], "text": f"{offer.name}: {x.params['uri']}"}], **cached})
    elif method == "completion/complete":
        await x.result({"completion": {"values": [json.dumps(x.params["ref"])]}})
    elif method in ("ping", "logging/setLevel", "resources/subscribe", "resources/unsubscribe") and not x.modern:
        await x.result({})
    else:
        await x.error(-32601, f"no such method: {method}")


async def _list(offer: Offer, x: Exchange, array: str) -> None:
    items = offer.listed(array)
    cursor = x.params.get("cursor")
    begin = 0 if cursor is None else int(str(cursor).removeprefix("at "))
    size = offer.page_size or len(items) + 1
    page: dict[str, Any] = {array: items[begin : begin + size]}
    if begin + size < len(items):
        page["nextCursor"] = f"at {begin + size}"
    if x.modern:
        page |= {"ttlMs": offer.ttl_ms, "cacheScope": "private"}
    await x.result(page)


def initialize_result(offer: Offer, asked: str) -> dict[str, Any]:
    """The answer to `initialize`."""
    return {
        "protocolVersion": asked if asked in offer.versions else offer.versions[-1], "capabilities": offer.capabilities,
        "serverInfo": {"name": offer.name, "version": "1"}, **({"instructions": offer.instructions} if offer.instructions else {}),
    }
