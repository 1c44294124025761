"""A gateway in front of scripted MCP servers, shared by the tests of this directory.

One gateway with two workers and a route per arrangement of targets lives as long as the session; the servers behind it
are set to new before every test. Tests that reload, that count processes or that let a server be down begin a gateway of
their own (`start`) or use routes of their own. Every test ends with a look at the shared gateway: the same workers, and
no exception logged.

| path | targets |
|---|---|
| /one | a (legacy) |
| /two | a and b (legacy): names get prefixes |
| /never | a and c (legacy), never a prefix |
| /modern | m (modern only) |
| /mixed | a (legacy), m (modern only) |
| /dual | d (both eras) |
| /stdio, /pair | one program; a and a program |
| /patient/one … | the same as /one …, with a time-out of 20 s instead of 1 s |
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.kits.gateway import Gateway, alive
from tests.peers.mcp_client import Endpoint
from tests.peers.mcp_script import Offer
from tests.peers.mcp_server import McpServer

PROGRAM = str(Path(__file__).resolve().parents[2] / "peers" / "mcp_stdio.py")
RESOURCES = {
    "resources": [{"uri": "file:///a.txt", "name": "a"}],
    "resourceTemplates": [{"uriTemplate": "file:///{path}", "name": "files"}],
    "prompts": [{"name": "greet", "description": "d"}],
}


def http_target(name: str, port: int, **more: Any) -> dict[str, Any]:
    """A target of a backend."""
    return {"name": name, "mcp": {"host": f"http://127.0.0.1:{port}"}, "timeout": "1s", "fanoutTimeout": "600ms", **more}


def stdio_target(name: str, *args: str, stdio: dict[str, Any] | None = None, offer: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    """A scripted program as target; `args`: the file that records what it receives."""
    described = json.dumps({"name": name, "tools": ["echo", "hang", "die", "garbage"], **(offer or {})})
    program = {"cmd": sys.executable, "args": [PROGRAM, described, *args], "stopGrace": "500ms", **(stdio or {})}
    return {"name": name, "stdio": program, "timeout": "5s", "timeouts": {"tools/call": "1s"}, **more}


def route(path: str, *targets: dict[str, Any], **mcp: Any) -> dict[str, Any]:
    """A route to one MCP backend."""
    return {
        "name": path.strip("/"), "matches": [{"path": {"pathPrefix": path}}],
        "backends": [{"mcp": {"targets": list(targets), "failureMode": "failOpen", **mcp}}],
    }


def configuration(*routes: dict[str, Any], **blocks: Any) -> dict[str, Any]:
    """One gateway on a port of the kernel's choice."""
    return {
        "gateways": {"default": {"port": 0, "address": "127.0.0.1"}}, "routes": list(routes),
        **blocks, "config": {"connectionTerminationDeadline": "1s", **blocks.get("config", {})},
    }


WORKERS = 2
TOOLS = ["echo", "whoami", "hang", "wait", "die", "half", "garbage", "not_rpc", "wrong_id", "big", "progress", "logs", "ask", "endless"]


class Farm:
    """The shared servers and the gateway before them."""

    def __init__(self, stack: ExitStack) -> None:
        both = {**RESOURCES}
        self.a = stack.enter_context(McpServer(Offer(name="a", tools=[*TOOLS, "only_a"], lists=both)))
        self.b = stack.enter_context(McpServer(Offer(name="b", tools=[*TOOLS, "only_b"], lists={**both, "resources": [{"uri": "file:///b.txt", "name": "b"}]})))
        self.c = stack.enter_context(McpServer(Offer(name="c", tools=["only_c", "whoami"])))
        self.d = stack.enter_context(McpServer(Offer(name="d", tools=[*TOOLS, "only_d"], lists=both, era="dual")))
        self.m = stack.enter_context(McpServer(Offer(name="m", tools=[*TOOLS, "only_m"], lists=both, era="modern")))
        self.p = stack.enter_context(McpServer(Offer(name="p", tools=TOOLS, prime=True)))
        a, b, c, d, m, p = (http_target(x.offer.name, x.port) for x in self.servers)
        self.gateway = stack.enter_context(Gateway(configuration(
            route("/one", a), route("/two", a, b), route("/never", a, c, prefixMode="never"), route("/always", c, prefixMode="always"),
            route("/modern", m), route("/mixed", a, m), route("/dual", d), route("/polled", p),
            route("/stdio", stdio_target("s")), route("/pair", a, stdio_target("s")), route("/both", stdio_target("s", offer={"era": "dual"})),
            route("/modern-stdio", stdio_target("s", offer={"era": "modern"})),
            route("/stateless", a, statefulMode="stateless"),
            *(route("/patient" + path, *({**target, "timeout": "20s"} for target in targets))
              for path, targets in {"/one": [a], "/two": [a, b], "/modern": [m], "/mixed": [a, m], "/dual": [d]}.items()),
        ), workers=WORKERS))
        self.workers = self.gateway.pids()

    @property
    def servers(self) -> tuple[McpServer, ...]:
        """All of them."""
        return self.a, self.b, self.c, self.d, self.m, self.p

    def at(self, path: str) -> Endpoint:
        """A route of the gateway."""
        return Endpoint(self.gateway.port, path)


@pytest.fixture(scope="session")
def shared() -> Iterator[Farm]:
    """Made once."""
    with ExitStack() as stack:
        yield Farm(stack)


@pytest.fixture
def farm(shared: Farm) -> Iterator[Farm]:
    """The shared gateway and its servers, as new."""
    for server in shared.servers:
        server.reset()
    yield shared
    for server in shared.servers:
        server.release()
    assert shared.gateway.pids() == shared.workers
    assert all(map(alive, shared.workers))
    shared.gateway.assert_clean_log()


@pytest.fixture
def server() -> Iterator[Callable[..., McpServer]]:
    """`server(name="x", tools=[...])` runs one more server until the end of the test."""
    with ExitStack() as stack:
        yield lambda **offer: stack.enter_context(McpServer(Offer(**offer)))
