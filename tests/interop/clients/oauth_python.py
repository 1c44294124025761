"""The Python SDK's OAuth client: `oauth_python.py URL PROFILE [MODE]`, for mcp 1.30 (no mode) and mcp 2.3.

The user agrees to everything: the redirects of the authorization endpoint are followed up to our own address, which nobody serves.
"""

from __future__ import annotations

import asyncio
import json
import sys
import urllib.error
import urllib.request
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from typing import Any
from urllib.parse import parse_qs, urlsplit

import report
from mcp.client.auth import OAuthClientProvider
from mcp.client.streamable_http import streamable_http_client
from mcp.shared._httpx_utils import create_mcp_http_client
from mcp.shared.auth import OAuthClientMetadata

REDIRECT = "http://127.0.0.1:1/callback"


class Storage:
    """Tokens and registration, in memory."""

    def __init__(self) -> None:
        self.tokens: Any = None
        self.client: Any = None

    async def get_tokens(self) -> Any:
        return self.tokens

    async def set_tokens(self, tokens: Any) -> None:
        self.tokens = tokens

    async def get_client_info(self) -> Any:
        return self.client

    async def set_client_info(self, client_info: Any) -> None:
        self.client = client_info


class _Stay(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *args: Any) -> None:
        return None


class Browser:
    """Goes where it is sent, and brings back what came to our address."""

    def __init__(self) -> None:
        self.back: dict[str, str] = {}

    async def go(self, url: str) -> None:
        """The redirect handler."""
        self.back = await asyncio.to_thread(self._follow, url)

    def _follow(self, url: str) -> dict[str, str]:
        opener = urllib.request.build_opener(_Stay)
        for _ in range(5):
            try:
                opener.open(url, timeout=10).close()
            except urllib.error.HTTPError as answer:
                with answer:
                    url = answer.headers["location"] or ""
            if url.startswith(REDIRECT):
                return {name: values[0] for name, values in parse_qs(urlsplit(url).query).items()}
        raise AssertionError(f"no way back from {url}")

    async def came(self) -> Any:
        """The callback handler, as the SDK's version wants it."""
        try:
            from mcp.shared.auth import AuthorizationCodeResult
        except ImportError:
            return self.back["code"], self.back.get("state")
        return AuthorizationCodeResult(code=self.back["code"], state=self.back.get("state"), iss=self.back.get("iss"))


class Run:
    """One client."""

    def __init__(self, url: str, profile: dict[str, Any], mode: str) -> None:
        self.url, self.profile, self.mode = url, profile, mode
        self.storage = Storage()
        browser = Browser()
        metadata = OAuthClientMetadata(redirect_uris=[REDIRECT], client_name="agw-interop", token_endpoint_auth_method="none")
        self.auth = OAuthClientProvider(url, metadata, self.storage, browser.go, browser.came)
        self.client: Any = None

    def _connected(self, http: Any) -> AbstractAsyncContextManager[Any]:
        transport = streamable_http_client(self.url, http_client=http)
        if self.mode:
            import mcp

            return mcp.Client(transport, mode=self.mode, read_timeout_seconds=30, cache=None)
        return _Old(transport)

    async def list(self) -> str:
        """tools/list"""
        listed = await self.client.list_tools()
        report.expect(self.profile["echo"]["tool"] in [tool.name for tool in listed.tools], True, "listed")
        return f"{len(listed.tools)} tools"

    async def _call(self, part: dict[str, Any]) -> None:
        result = await self.client.call_tool(part["tool"], part["arguments"])
        report.said("".join(content.text for content in result.content), part)

    async def call(self) -> None:
        """A tool that needs nothing more."""
        await self._call(self.profile["echo"])

    async def step_up(self) -> str:
        """A tool that needs a scope the first token has not."""
        before = self.storage.tokens.scope
        await self._call(report.need(self.profile, "scoped"))
        return f"{before} -> {self.storage.tokens.scope}"

    async def refresh(self) -> None:
        """A call with a token that has ended."""
        report.need(self.profile, "refresh")
        before = self.storage.tokens.access_token
        await asyncio.sleep(self.profile["refresh"]["wait_s"])
        await self._call(self.profile["echo"])
        report.expect(self.storage.tokens.access_token != before, True, "another token")

    async def all(self) -> None:
        """Connect, which authorizes; then the checks."""
        async with AsyncExitStack() as stack:
            http = await stack.enter_async_context(create_mcp_http_client(auth=self.auth))
            self.client = await stack.enter_async_context(self._connected(http))
            report.emit("connect", True, str(getattr(self.client, "protocol_version", "")))
            await report.run([(name, getattr(self, name)) for name in ("list", "call", "step_up", "refresh")])


class _Old(AbstractAsyncContextManager[Any]):
    """A session of the 1.x line, initialized."""

    def __init__(self, transport: Any) -> None:
        self._transport = transport
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Any:
        from mcp import ClientSession

        read, write, _ = await self._stack.enter_async_context(self._transport)
        session: Any = await self._stack.enter_async_context(ClientSession(read, write))
        session.protocol_version = (await session.initialize()).protocolVersion
        return session

    async def __aexit__(self, *exc: Any) -> None:
        await self._stack.aclose()


async def main() -> None:
    """Run it, and say so if there was no connection at all."""
    try:
        await Run(sys.argv[1], json.loads(sys.argv[2]), sys.argv[3] if len(sys.argv) > 3 else "").all()
    except BaseExceptionGroup as error:
        report.emit("connect", False, repr(error.exceptions))
    except Exception as error:
        report.emit("connect", False, repr(error))


asyncio.run(main())
