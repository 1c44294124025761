"""What tests of stdio targets share: options of a peer, running on uvloop, proof that nothing is left behind."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import uvloop

from agw.mcp.message import notification, request
from agw.mcp.transport import Reply
from agw.mcp.transports.stdio import ChildLimit, StdioTransport

PEERS = Path(__file__).resolve().parent
PATIENCE_S = 20.0
"""Upper bound of every wait. No test waits that long unless something is broken."""


@dataclass(frozen=True)
class Options:
    """The fields of a stdio plan that a transport reads."""

    cmd: str = sys.executable
    args: list[str] = field(default_factory=list)
    env: dict[str, str] = field(default_factory=dict)
    clear_env: bool = False
    cwd: str = ""
    stop_grace_ns: int = 2_000_000_000


def peer(name: str, *args: str, **others: Any) -> Options:
    """Options that start tests/peers/stdio_<name>.py, in an interpreter that starts quickly."""
    return Options(args=["-I", "-S", str(PEERS / f"stdio_{name}.py"), *args], **others)


class Channel(StdioTransport):
    """The transport under test, with a shorthand for calls and a record of what it told its owner."""

    def __init__(self, options: Options | None = None, limit: ChildLimit | None = None, **others: Any) -> None:
        super().__init__("peer", options or peer("echo"), limit or ChildLimit(64), **others)
        self.strays: list[dict[str, Any]] = []
        self.downs: list[str] = []
        self.on_stray = lambda raw: self.strays.append(json.loads(raw))
        self.on_down = self.downs.append
        self._next = 0

    @property
    def pid(self) -> int:
        assert self._child is not None
        return self._child.pid

    async def call(self, method: str, params: Any = None, *, timeout_s: float = PATIENCE_S) -> Any:
        """The result of one request with an id of its own."""
        self._next += 1
        ident = str(self._next).encode()
        reply = await self.request(request(ident, method, json.dumps(params or {}).encode()), ident, timeout_s=timeout_s)
        return result(reply)

    async def note(self, params: Any) -> None:
        """Send a notification that the echo peer sends back."""
        await self.send(notification("notifications/echo", json.dumps(params).encode()))


def result(reply: Reply) -> Any:
    return json.loads(reply.message)["result"]


def on_uvloop(body: Coroutine[Any, Any, None]) -> None:
    """Run on the loop of our workers, within bounds."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(asyncio.wait_for(body, 100))


async def until(condition: Callable[[], object], what: str = "") -> None:
    """Wait, within bounds, for something the operating system or a child does."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, what or "nothing happened"
        await asyncio.sleep(0.005)


def alive(pid: int) -> bool:
    """Whether the process runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def children() -> set[int]:
    """Children of this process, zombies included."""
    found: set[int] = set()
    for task in Path("/proc/self/task").iterdir():
        found |= {int(pid) for pid in (task / "children").read_text().split()}
    return found


def descriptors() -> dict[str, str]:
    """Open descriptors and what they are."""
    found = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            found[name] = os.readlink(f"/proc/self/fd/{name}")
        except FileNotFoundError:
            pass
    return found


@contextmanager
def nothing_left() -> Iterator[None]:
    """Whatever happens inside: no descriptor, no child and no zombie afterwards that was not there before."""
    uvloop.new_event_loop().close()  # the first loop of a process opens what libuv never closes
    before, family = descriptors(), children()
    yield
    heirs = children() - family
    left = {name: what for name, what in descriptors().items() if before.get(name) != what}
    assert not heirs, f"children left: {heirs}"
    assert not left, f"descriptors left: {left}"
