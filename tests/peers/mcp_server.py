"""A scripted MCP server over HTTP, of either era: streamable HTTP and, for old clients, HTTP+SSE. Runs in a thread.

    with McpServer(Offer(name="a", tools=["echo", "hang"])) as server:
        ...                      # http://127.0.0.1:{server.port}/mcp
        assert server.requests("tools/call")

What a server does is data (`Offer`) or a coroutine per tool or method (`on`); `take` replaces the whole HTTP answer.

Rules:
- everything that arrives is kept in `seen`, head and body, for the test to look at;
- it is as strict as a server may be: unknown sessions are 404, missing ones 400, modern headers must agree with the body;
- tests act on it from their own thread: `release`, `tell`, `forget`, `stop_listening`, `hang_up`.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import threading
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from tests.peers.mcp_exchange import HttpExchange, Seen, Session
from tests.peers.mcp_script import MODERN, SUBSCRIPTION_KEY, VERSION_KEY, Behaviour, Offer, answer, initialize_result


class McpServer:
    """The server. `take(exchange)` returns whether it dealt with the whole HTTP request itself."""

    def __init__(self, offer: Offer | None = None, **options: Any) -> None:
        self.offer = offer or Offer(**options)
        self.seen: list[Seen] = []
        self.given_up: list[Any] = []
        self.sessions: dict[str, Session] = {}
        self.own: dict[str, Behaviour] = {}
        self.take: Callable[[HttpExchange], Awaitable[bool]] | None = None
        self.numbers = itertools.count(1)
        self.port = 0
        self._old: dict[str, Session] = {}
        self._connections: set[asyncio.StreamWriter] = set()
        self._serving: set[asyncio.Task[Any]] = set()
        self._listens: dict[str, tuple[HttpExchange, asyncio.Event]] = {}

    # ------------------------------------------------------------------------------------------------ life

    def __enter__(self) -> McpServer:
        ready = threading.Event()

        def run() -> None:
            with asyncio.Runner() as runner:
                self.loop = runner.get_loop()
                runner.run(self._main(ready))

        self._thread = threading.Thread(target=run, daemon=True)
        self._thread.start()
        assert ready.wait(5)
        return self

    def __exit__(self, *exc: object) -> None:
        self.loop.call_soon_threadsafe(self._over.set)
        self._thread.join(5)

    async def _main(self, ready: threading.Event) -> None:
        self._over = asyncio.Event()
        self.gate = asyncio.Event()
        await self._listen()
        ready.set()
        await self._over.wait()
        await self._close()
        for _ in range(3):
            await asyncio.sleep(0.001)  # transports close their sockets in turns of their own
            self._abort_all()
            serving = list(self._serving)
            for task in serving:
                task.cancel()
            await asyncio.gather(*serving, return_exceptions=True)

    async def _listen(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port, limit=1 << 26, reuse_address=True)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _close(self) -> None:
        # A connection that asyncio has accepted but not set up when its server closes is lost with its socket open (3.11).
        for sock in self._server.sockets:
            self.loop.remove_reader(sock.fileno())
        for _ in range(5):
            await asyncio.sleep(0)
        self._server.close()

    def _abort_all(self) -> None:
        for writer in list(self._connections):
            writer.transport.abort()

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        """Do something in the server's loop."""
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(5)

    # ------------------------------------------------------------------------------------------------ from the test

    def requests(self, method: str = "") -> list[Any]:
        """The decoded messages that came, of one method."""
        return [each.message for each in list(self.seen) if isinstance(each.message, dict) and (not method or each.message.get("method") == method)]

    def last(self, method: str) -> Seen:
        """The newest HTTP request with a message of that method."""
        return [each for each in list(self.seen) if isinstance(each.message, dict) and each.message.get("method") == method][-1]

    def on(self, name: str, behaviour: Behaviour) -> None:
        """What a tool or method does from now on."""
        self.own[name] = behaviour

    def release(self) -> None:
        """Let go on whoever waits."""
        self.loop.call_soon_threadsafe(self.gate.set)

    def reset(self) -> None:
        """As new: no behaviours, no records, no sessions."""
        self.own.clear()
        self.forget()
        self.take = None
        self.seen.clear()
        self.given_up.clear()
        self.loop.call_soon_threadsafe(self.gate.clear)

    def forget(self) -> None:
        """All sessions end: their ids are unknown from now on, their streams break."""
        async def work() -> None:
            sessions = list(self.sessions.values())
            self.sessions.clear()
            for session in sessions:
                if session.stream is not None:
                    await session.stream.die()
        self.run(work())

    def tell(self, method: str, params: Any = None, *, unasked: bool = False) -> int:
        """A notification on every open GET stream and on the listens that want it (`unasked`: all); how many there were."""
        return int(self.run(self._tell(method, params, unasked)))

    async def _tell(self, method: str, params: Any, unasked: bool) -> int:
        told = 0
        for session in self.sessions.values():
            if session.stream is not None and not session.stream.over:
                await session.stream.notify(method, params)
                told += 1
        for ident, (x, _) in self._listens.items():
            wanted = json.dumps(x.params["notifications"])
            kind = method.split("/")[1]
            if not unasked and (f'"{kind}ListChanged": true' if method.endswith("list_changed") else json.dumps((params or {}).get("uri"))) not in wanted:
                continue
            meta = {"_meta": {SUBSCRIPTION_KEY: json.loads(ident)}}
            await x.notify(method, {**(params or {}), **meta})
            told += 1
        return told

    def ask_all(self, method: str, params: Any) -> list[dict[str, Any]]:
        """A request on every GET stream, outside any request of a client; the responses."""
        async def work() -> list[dict[str, Any]]:
            streams = [session.stream for session in self.sessions.values() if session.stream is not None and not session.stream.over]
            return [await asyncio.wait_for(stream.ask(method, params), 4) for stream in streams]
        found: list[dict[str, Any]] = self.run(work())
        return found

    @property
    def listeners(self) -> int:
        """Open streams for what belongs to no request."""
        return sum(s.stream is not None and not s.stream.over for s in list(self.sessions.values())) + len(self._listens)

    @property
    def connections(self) -> int:
        """Open connections."""
        return len(self._connections)

    def stop_listening(self) -> None:
        """Down: nothing is accepted, everything open breaks, sessions are lost."""
        async def work() -> None:
            await self._close()
            self._abort_all()
            self.sessions.clear()
        self.run(work())

    def listen_again(self) -> None:
        """Up, on the same port."""
        self.run(self._listen())

    def end_listens(self) -> None:
        """End every `subscriptions/listen` gracefully."""
        async def work() -> None:
            for _, event in self._listens.values():
                event.set()
        self.run(work())

    def hang_up(self) -> None:
        """Break every connection; sessions stay."""
        async def work() -> None:
            self._abort_all()
        self.run(work())

    # ------------------------------------------------------------------------------------------------ HTTP

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._connections.add(writer)
        task = asyncio.current_task()
        assert task is not None
        self._serving.add(task)
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
                method, path, _ = head[0].split(" ")
                headers = [(line.partition(":")[0].lower(), line.partition(":")[2].strip()) for line in head[1:-2]]
                body = await self._body(reader, dict(headers))
                try:
                    message = json.loads(body) if body else None
                except ValueError:
                    message = None
                x = HttpExchange(self, Seen(method, path, headers, body, message), reader, writer)
                self.seen.append(x.seen)
                if self.take is None or not await self.take(x):
                    await self._route(x)
                if x.abandoned or writer.transport.is_closing():
                    break
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            self._connections.discard(writer)
            self._serving.discard(task)
            writer.transport.abort()

    async def _body(self, reader: asyncio.StreamReader, headers: dict[str, str]) -> bytes:
        if "content-length" in headers:
            return await reader.readexactly(int(headers["content-length"]))
        body = b""
        if headers.get("transfer-encoding") == "chunked":
            while size := int(await reader.readuntil(b"\r\n"), 16):
                body += (await reader.readexactly(size + 2))[:-2]
            await reader.readuntil(b"\r\n")
        return body

    async def _route(self, x: HttpExchange) -> None:
        method = x.seen.method
        if method == "POST":
            if x.modern or VERSION_KEY in ((x.message.get("params") or {}).get("_meta") or {}):
                await self._modern(x)
            else:
                await self._legacy(x)
        elif method == "GET" and self.offer.get_stream and self._session(x) is not None:
            await self._get(x)
        elif method == "DELETE" and self._session(x) is not None:
            session = self.sessions.pop(x.headers["mcp-session-id"])
            if session.stream is not None:
                await session.stream.die()
            await x.reply(200)
        elif "mcp-session-id" in x.headers and self._session(x) is None:
            await x.reply(404)
        else:
            await x.reply(405, {"Allow": "POST"})

    def _session(self, x: HttpExchange) -> Session | None:
        x.session = self.sessions.get(x.headers.get("mcp-session-id", ""))
        return x.session

    async def _refuse(self, x: HttpExchange, status: int, code: int, text: str, data: Any = None) -> None:
        error = {"code": code, "message": text, **({} if data is None else {"data": data})}
        body = json.dumps({"jsonrpc": "2.0", "id": x.message.get("id"), "error": error}).encode()
        await x.reply(status, {"Content-Type": "application/json"}, body)

    # ------------------------------------------------------------------------------------------------ legacy

    async def _legacy(self, x: HttpExchange) -> None:
        if self.offer.era == "modern":
            await self._refuse(x, 400, -32022, "Unsupported protocol version", {"supported": [MODERN], "requested": ""})
            return
        if x.message.get("method") == "initialize":
            lines = {"Content-Type": "application/json"}
            if self.offer.sessions:
                sid = f"{self.offer.name}-session-{next(self.numbers)}"
                params = x.message["params"]
                self.sessions[sid] = Session(params["protocolVersion"], params["capabilities"])
                lines["Mcp-Session-Id"] = sid
            found = self.own.get("initialize")
            if found is not None:
                await found(x)
                return
            result = initialize_result(self.offer, x.params["protocolVersion"])
            await x.reply(200, lines, json.dumps({"jsonrpc": "2.0", "id": x.message["id"], "result": result}).encode())
            return
        if self._session(x) is None and self.offer.sessions:
            known = "mcp-session-id" in x.headers
            await self._refuse(x, 404 if known else 400, -32600, "Session not found" if known else "Bad Request: no session")
        elif "method" not in x.message:
            future = x.session.asked.pop(json.dumps(x.message.get("id")), None) if x.session is not None else None
            if future is not None and not future.done():
                future.set_result(x.message)
            await x.reply(202)
        elif "id" not in x.message:
            await x.reply(202)
        else:
            await answer(self.offer, x, self.own)

    async def _get(self, x: HttpExchange) -> None:
        assert x.session is not None
        last = x.headers.get("last-event-id")
        if last:
            name, _, number = last.partition("/")
            if name not in x.session.events:
                await x.reply(400)
                return
            x.streaming = True
            await x._out(x._head(200, {"Content-Type": "text/event-stream", "Transfer-Encoding": "chunked"}))
            for ident, raw in x.session.events[name][int(number) :]:
                await x.write(f"id: {ident}\ndata: ".encode() + raw + b"\n\n")
            x.session.following[name] = x
            while not x.over and not x.reader.at_eof() and x.session.following.get(name) is x:
                await asyncio.sleep(0.005)
            return
        x.session.stream = x
        await x.begin()
        await x.gone()

    # ------------------------------------------------------------------------------------------------ modern

    async def _modern(self, x: HttpExchange) -> None:
        if self.offer.era == "legacy":
            await x.reply(400, {"Content-Type": "text/plain", "Mcp-Session-Id": "leaked"}, b"Bad Request: no valid session ID provided")
            return
        x.modern = True
        meta = (x.message.get("params") or {}).get("_meta") or {}
        method = x.message.get("method")
        if meta.get(VERSION_KEY) != x.headers.get("mcp-protocol-version"):
            await self._refuse(x, 400, -32020, "header mismatch")
        elif x.headers.get("mcp-method") != method:
            await self._refuse(x, 400, -32020, "Mcp-Method mismatch")
        elif "id" not in x.message:
            await x.reply(202)
        elif method == "subscriptions/listen":
            await self._listen_modern(x)
        else:
            await answer(self.offer, x, self.own)

    async def _listen_modern(self, x: HttpExchange) -> None:
        ident = json.dumps(x.message["id"])
        meta = {"_meta": {SUBSCRIPTION_KEY: x.message["id"]}}
        await x.notify("notifications/subscriptions/acknowledged", {"notifications": x.params["notifications"], **meta})
        event = asyncio.Event()
        self._listens[ident] = x, event
        gone, ended = asyncio.ensure_future(x.gone()), asyncio.ensure_future(event.wait())
        try:
            await asyncio.wait({gone, ended}, return_when=asyncio.FIRST_COMPLETED)
            if ended.done():
                await x.result(meta)
        finally:
            self._listens.pop(ident, None)
            gone.cancel()
            ended.cancel()
