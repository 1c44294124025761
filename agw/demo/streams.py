"""Event streams of the demo server: messages of a running call, and the idle stream of a session, with keep-alives."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

from agw.admin.message import sse_event
from agw.demo.jsonrpc import Id, Object, encode

KEEP_ALIVE = b": keep-alive\n\n"


class Outbox:
    """Messages of one call on their way to the client, in order.

    Unlimited by itself: a call sends at most 100 progress notifications and one response, also if nobody reads.
    """

    def __init__(self) -> None:
        self._queue: asyncio.Queue[Object | None] = asyncio.Queue()

    def put(self, message: Object) -> None:
        """Add a message."""
        self._queue.put_nowait(message)

    def close(self) -> None:
        """No message follows."""
        self._queue.put_nowait(None)

    def messages(self) -> list[Object]:
        """Take what is there now, without waiting; for calls that ended."""
        taken = []
        while not self._queue.empty():
            if (message := self._queue.get_nowait()) is not None:
                taken.append(message)
        return taken

    async def events(self, keep_alive_s: float) -> AsyncGenerator[bytes, None]:
        """The messages as events until `close`, with a comment whenever none came for `keep_alive_s`."""
        while True:
            try:
                async with asyncio.timeout(keep_alive_s):
                    message = await self._queue.get()
            except TimeoutError:
                yield KEEP_ALIVE
                continue
            if message is None:
                return
            yield sse_event(encode(message))


async def one_event(event: bytes) -> AsyncGenerator[bytes, None]:
    """A stream of a single event."""
    yield event


async def no_events() -> AsyncGenerator[bytes, None]:
    """A stream that ends at once."""
    return
    yield b""  # unreachable; makes this a generator


async def idle_events(ended: asyncio.Event, keep_alive_s: float) -> AsyncGenerator[bytes, None]:
    """A stream without messages: a comment at once, so that every proxy passes the head on, then keep-alives."""
    yield KEEP_ALIVE
    while True:
        try:
            async with asyncio.timeout(keep_alive_s):
                await ended.wait()
                return
        except TimeoutError:
            yield KEEP_ALIVE


def progress(token: Id, done: int, total: int, text: str) -> Object:
    """A `notifications/progress` message."""
    params: Object = {"progressToken": token, "progress": done, "total": total, "message": text}
    return {"jsonrpc": "2.0", "method": "notifications/progress", "params": params}


def progress_token(params: Object) -> Id | None:
    """The progress token of a request's params, if it asks for progress with a valid one."""
    meta = params.get("_meta")
    token = meta.get("progressToken") if isinstance(meta, dict) else None
    return token if isinstance(token, (str, int)) and not isinstance(token, bool) else None
