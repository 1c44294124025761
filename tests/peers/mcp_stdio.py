"""A scripted MCP server as a program: one message per line on standard input and output.

    python tests/peers/mcp_stdio.py '{"name": "a", "tools": ["echo"], "era": "dual"}' [RECORD]

The first argument is an `Offer` as JSON; to a file RECORD it appends every line it receives, behind its process id.
Beyond the common behaviours it has tools that only a process can have: `noise` (lines that are no messages, on both
outputs), `long_line` (a line of `size` octets that never ends until the next answer), `late` (answers after the next
request), `flood` (fills standard error).
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import sys
from pathlib import Path
from typing import Any

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.peers.mcp_script import VERSION_KEY, Behaviour, Exchange, Offer, answer, initialize_result

_ASKED = itertools.count(1)


class LineExchange(Exchange):
    """One request on standard input."""

    def __init__(self, server: Server, raw: bytes, message: dict[str, Any]) -> None:
        self.server = server
        self.offer = server.offer
        self.raw = raw
        self.message = message
        self.headers = {}
        self.modern = VERSION_KEY in ((message.get("params") or {}).get("_meta") or {})

    async def send(self, raw: bytes) -> None:
        await self.write(raw + b"\n")

    async def finish(self, raw: bytes) -> None:
        await self.write(raw + b"\n")

    async def write(self, octets: bytes) -> None:
        sys.stdout.buffer.write(octets)
        sys.stdout.buffer.flush()

    async def ask(self, method: str, params: Any, ident: Any = None) -> dict[str, Any]:
        ident = next(_ASKED) if ident is None else ident
        future: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self.server.asked[json.dumps(ident)] = future
        await self.send(json.dumps({"jsonrpc": "2.0", "id": ident, "method": method, "params": params}).encode())
        return await future

    async def die(self) -> None:
        os._exit(3)

    async def gone(self) -> None:
        await asyncio.Event().wait()

    async def released(self) -> None:
        await self.server.next_line()


class Server:
    """The process."""

    def __init__(self, offer: Offer, record: str) -> None:
        self.offer = offer
        self.record = record
        self.asked: dict[str, asyncio.Future[dict[str, Any]]] = {}
        self.tasks: set[asyncio.Task[None]] = set()
        self._line = asyncio.Event()
        self.era = ""
        self.own: dict[str, Behaviour] = {"noise": self._noise, "long_line": self._long_line, "late": self._late, "flood": self._flood}

    async def next_line(self) -> None:
        """Wait for something on standard input."""
        self._line.clear()
        await self._line.wait()

    async def run(self) -> None:
        """Until the end of standard input."""
        reader = asyncio.StreamReader(limit=1 << 26)
        await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
        while line := await reader.readline():
            if self.record:
                with open(self.record, "ab") as file:
                    file.write(b"%d " % os.getpid() + line)
            message = json.loads(line)
            self._line.set()
            if "method" not in message:
                future = self.asked.pop(json.dumps(message.get("id")), None)
                if future is not None:
                    future.set_result(message)
            elif "id" in message:
                task = asyncio.create_task(self._serve(LineExchange(self, line.rstrip(b"\n"), message)))
                self.tasks.add(task)
                task.add_done_callback(self.tasks.discard)

    async def _serve(self, x: LineExchange) -> None:
        method = x.message["method"]
        modern = x.modern or method == "server/discover"
        if modern and (self.offer.era == "legacy" or self.era == "legacy"):
            await x.error(-32602, "Invalid request parameters")
        elif not modern and (self.offer.era == "modern" or self.era == "modern"):
            await x.error(-32022, "Unsupported protocol version", {"supported": ["2026-07-28"], "requested": "?"})
        elif method == "initialize":
            self.era = "legacy"
            await x.result(initialize_result(self.offer, x.params["protocolVersion"]))
        else:
            self.era = "modern" if modern else "legacy"
            await answer(self.offer, x, self.own)

    async def _noise(self, x: Exchange) -> None:
        await x.write(b"Welcome!\n\n\xff\xfe{\n[1,\n")
        print("noise on standard error", file=sys.stderr, flush=True)
        await x.text("noisy")

    async def _long_line(self, x: Exchange) -> None:
        size = int(x.arguments["size"])
        await x.write(b"x" * size + b"\n")
        await x.text("long")

    async def _late(self, x: Exchange) -> None:
        await self.next_line()
        await x.text("late")

    async def _flood(self, x: Exchange) -> None:
        print("e" * int(x.arguments["size"]), file=sys.stderr, flush=True)
        await x.text("flooded")


if __name__ == "__main__":
    asyncio.run(Server(Offer(**json.loads(sys.argv[1])), sys.argv[2] if len(sys.argv) > 2 else "").run())
