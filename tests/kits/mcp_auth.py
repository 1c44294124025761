"""A request, a host and a JWT step of tests of `mcpAuthentication`: what they are told, and what they saw."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import orjson

from agw.runtime.plan_security import CallPlan, JwtPlan, JwtProviderPlan, McpAuthPlan
from agw.security.contract import JWT_AUTH, Document, Documents, Found, Headers, HttpAnswer, Refusal, Verdict
from agw.security.mcp_auth.step import McpAuthStep

ISSUER = "https://issuer.example/realms/mcp"
RESOURCE = "https://agw.example/mcp"
METADATA_URL = "https://issuer.example/realms/mcp/.well-known/openid-configuration"
SERVER: dict[str, Any] = {
    "issuer": ISSUER, "authorization_endpoint": ISSUER + "/auth", "token_endpoint": ISSUER + "/token", "jwks_uri": ISSUER + "/keys",
    "registration_endpoint": ISSUER + "/register", "authorization_response_iss_parameter_supported": True, "x-unknown": [1],
}


class Asking:
    """A request."""

    def __init__(self, path: str = "/mcp", method: str = "GET", query: bytes | None = None, secure: bool = True, **headers: str) -> None:
        self.path = path.encode()
        self.method = method
        self.query = query
        self.secure = secure
        self.headers: Headers = [(name.replace("_", "-").encode(), value.encode()) for name, value in {"host": "agw.example", **headers}.items()]
        self.peer = b"192.0.2.1"
        self.certificate: bytes | None = None
        self.hopped = False

    def values(self, name: bytes) -> list[bytes]:
        return [value for each, value in self.headers if each == name]


class Kept:
    """Documents that are there."""

    def __init__(self, **documents: Any) -> None:
        self.known = {url: Document(orjson.dumps(body), 1) for url, body in documents.items()}

    def get(self, url: str) -> Document | None:
        return self.known.get(url)

    def want(self, url: str) -> None:
        raise AssertionError("metadata is not asked for anew")

    def watch(self, url: str, changed: Callable[[], object]) -> None:
        raise AssertionError("nobody watches metadata")

    async def arrival(self, url: str, timeout_s: float) -> Document | None:
        return self.known.get(url)


class Host:
    """The worker, as a step sees it; `called` is what it was asked to call."""

    def __init__(self, reply: HttpAnswer | None = None, **documents: Any) -> None:
        self.documents: Documents = Kept(**documents)
        self.called: list[tuple[CallPlan, str, Headers, bytes, str | None]] = []
        self.reply = reply or HttpAnswer(201, [(b"content-type", b"application/json"), (b"set-cookie", b"a=b")], b'{"client_id":"made"}')
        self.counted: list[tuple[str, str]] = []

    async def caller(self, call: CallPlan, method: str, headers: Headers, body: bytes, path: str | None = None) -> HttpAnswer:
        self.called.append((call, method, headers, body, path))
        return self.reply

    def spawn(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.ensure_future(work)

    def count(self, what: str, result: str) -> None:
        self.counted.append((what, result))


class Tokens:
    """Stands where the JWT step does: `Bearer good` is a token with the given scopes."""

    def __init__(self, scopes: str = "", later: bool = False, mode: str = "strict") -> None:
        self.scopes = frozenset(scopes.split())
        self.later = later
        self.mode = mode

    def check(self, request: Any, found: Found) -> Verdict | Awaitable[Verdict]:
        return self._later(request, found) if self.later else self._now(request, found)

    async def _later(self, request: Any, found: Found) -> Verdict:
        await asyncio.sleep(0)
        return self._now(request, found)

    def _now(self, request: Any, found: Found) -> Verdict:
        token = request.values(b"authorization")
        if token == [b"Bearer good"]:
            found.token, found.scopes = b"good", self.scopes
            return None
        if token == [b"Bearer early"]:
            return Refusal(503, JWT_AUTH, b"no keys yet")
        if self.mode == "permissive" or (self.mode == "optional" and not token):
            return None
        return Refusal(401, JWT_AUTH, b"no", "why it is not good")


def plan(provider: Any = "", mode: Any = "strict", **more: Any) -> McpAuthPlan:
    """A policy."""
    jwt = JwtPlan([JwtProviderPlan(more.pop("issuer", ISSUER), ["urn:aud one"], jwks="{}")], mode=mode)
    values = {"resource": RESOURCE, "resource_metadata": "{}", "metadata_url": METADATA_URL, "proxy": CallPlan(7, "/"), **more}
    return McpAuthPlan(jwt=jwt, provider=provider, **values)


def step_of(policy: McpAuthPlan, host: Host | None = None, **tokens: Any) -> McpAuthStep:
    """The step of a policy, with `Tokens(**tokens)` behind it."""
    return McpAuthStep(policy, host or Host(**{METADATA_URL: SERVER}), Tokens(mode=policy.jwt.mode, **tokens))


def ask(step: McpAuthStep, request: Asking, body: bytes | None = None) -> tuple[Verdict, Found]:
    """What the step says to a request."""
    found = Found()
    found.body = body

    async def run() -> Verdict:
        said = step.check(request, found)
        return await said if isinstance(said, Awaitable) else said

    return asyncio.run(run()), found
