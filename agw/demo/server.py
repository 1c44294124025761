"""The built-in demo MCP server: a complete, plain streamable HTTP server with three tools and no I/O of its own.

It exists so that a newcomer has something to route to. It knows nothing of the gateway, and speaks both eras on one
endpoint: sessions for 2025-03-26 to 2025-11-25 (`legacy.py`), stateless requests for 2026-07-28 (`modern.py`). The era
is chosen per request, from what the request says about itself.

    server = HttpServer(demo_handler())
    await server.listen(sock)
"""

from __future__ import annotations

import time
from collections.abc import Callable

from agw.admin.guard import check_host, check_origin
from agw.admin.message import HttpError, Request, Response
from agw.demo.answers import error_reply
from agw.demo.jsonrpc import RpcError, decode
from agw.demo.legacy import VERSIONS, LegacyEndpoint
from agw.demo.modern import ModernEndpoint, is_modern
from agw.demo.sessions import SessionTable

MAX_SESSIONS = 1_000
SESSION_IDLE_NS = 30 * 60 * 1_000_000_000
KEEP_ALIVE_S = 15.0

_ALLOW = (("allow", "DELETE, GET, POST"),)
_LEGACY = ("2024-11-05", *VERSIONS)


class DemoServer:
    """A `Handler` (agw.admin.http) for one MCP endpoint at `path`; other paths are 404.

    `now_ns` is a monotonic clock, `keep_alive_s` the time between comments on an open stream.
    Owner: the loop it is first called on; `close` ends its sessions and cancels their calls.
    """

    def __init__(
        self,
        *,
        path: str = "/mcp",
        now_ns: Callable[[], int] = time.monotonic_ns,
        max_sessions: int = MAX_SESSIONS,
        session_idle_ns: int = SESSION_IDLE_NS,
        keep_alive_s: float = KEEP_ALIVE_S,
    ) -> None:
        self._path = path
        self._legacy = LegacyEndpoint(
            SessionTable(now_ns=now_ns, max_sessions=max_sessions, idle_ns=session_idle_ns), keep_alive_s
        )
        self._modern = ModernEndpoint(keep_alive_s)

    async def __call__(self, request: Request) -> Response:
        """Answer one request. Errors: HttpError 403 (Host, Origin), 404 (path), 405, 406, 415."""
        check_host(request)
        check_origin(request, allow_loopback=True)
        if request.path != self._path:
            raise HttpError(404, f"the MCP endpoint is {self._path}")
        try:
            return await self._dispatch(request)
        except RpcError as error:
            return error_reply(error)

    def close(self) -> None:
        """End all sessions, their streams and their calls."""
        self._legacy.close()

    async def _dispatch(self, request: Request) -> Response:
        if request.method == "POST":
            kind = (request.header("content-type") or "").partition(";")[0].strip().lower()
            if kind != "application/json":
                raise HttpError(415, "content-type must be application/json")
            value = decode(request.body)
            if is_modern(request, value, _LEGACY):
                return await self._modern.post(request, value)
            return await self._legacy.post(request, value)
        if request.method not in ("GET", "DELETE"):
            raise HttpError(405, "method not allowed", headers=_ALLOW)
        if is_modern(request, None, _LEGACY):
            raise HttpError(405, "this protocol version has POST only", headers=(("allow", "POST"),))
        return await (self._legacy.get(request) if request.method == "GET" else self._legacy.delete(request))


def demo_handler() -> DemoServer:
    """The demo server with its defaults, ready to be given to an `HttpServer`."""
    return DemoServer()
