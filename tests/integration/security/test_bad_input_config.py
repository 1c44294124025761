"""Bombs in what the operator loads and in what rules are asked about: refused in bounded time, told with a place, and the gateway goes on."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from tests.integration.mcp.conftest import http_target
from tests.kits.gateway import Gateway, cpu_seconds, wait_until
from tests.peers.mcp_client import Endpoint, Session
from tests.peers.mcp_script import Offer
from tests.peers.mcp_server import McpServer

HEAD = "gateways: {default: {port: 0, address: 127.0.0.1}}\n"
SPENT_S = 5.0
"""Processor seconds one bomb may cost; without bounds each costs minutes, or all of the memory."""


def laughs(levels: int) -> str:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"] + [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, levels)]
    return HEAD + "x:\n" + "".join(f"  {line}\n" for line in lines)


def ruled(expression: str) -> str:
    """A route with this rule."""
    route = {"matches": [{"path": {"pathPrefix": "/"}}], "policies": {"authorization": {"rules": [expression]}, "directResponse": {"status": 200}}}
    return json.dumps({"gateways": {"default": {"port": 0, "address": "127.0.0.1"}}, "routes": [route]})


def matched(pattern: str) -> str:
    route = {"matches": [{"path": {"regex": pattern}}], "policies": {"directResponse": {"status": 200}}}
    return json.dumps({"gateways": {"default": {"port": 0, "address": "127.0.0.1"}}, "routes": [route]})


FILES = {
    "a billion laughs": (laughs(10), "alias"),
    "a quadrillion laughs": (laughs(16), "alias"),
    "an alias of itself": (HEAD + "x: &a [*a]\n", "alias|itself|circle"),
    "brackets": (HEAD + "x: " + "[" * 100_000 + "]" * 100_000, "deep|nest"),
    "mappings": ("{a: " * 20_000 + "1" + "}" * 20_000, "deep|nest"),
    "JSON brackets": ('{"a":' * 20_000 + "1" + "}" * 20_000, "deep|nest"),
    "a tag of Python": (HEAD + "x: !!python/object/apply:os.system [id]\n", "tag|python"),
    "a megabyte of one text": (HEAD + "x: '" + "y" * 3_000_000 + "'\n", "unknown key|large|larger"),
    "a number of a million digits": (HEAD + "x: " + "9" * 1_000_000 + "\n", "unknown key|number"),
    "an expression too long": (ruled("true || " * 3000 + "true"), "octets|deep"),
    "an expression too deep": (ruled("(" * 500 + "true" + ")" * 500), "deep"),
    "an expression of lists": (ruled("[" * 200 + "]" * 200 + " == []"), "deep"),
    "a pattern that goes back": (matched(r"/(a+)+\1"), "regular expression"),
    "a pattern with look-ahead": (matched("/(?=(a+)+$).*"), "regular expression"),
    "a pattern that grows": (matched("/((a{900}){900}){900}"), "regular expression"),
    "a pattern in an expression that goes back": (ruled(r'request.path.matches("(a+)\\1")'), "1:|matches|escape"),
}

SQUARE = 'mcp.tool.arguments.list.all(x, mcp.tool.arguments.list.all(y, x != "b" && y != "b"))'
CUBE = "mcp.tool.arguments.list.all(x, mcp.tool.arguments.list.all(y, mcp.tool.arguments.list.all(z, x + y + z != 'b')))"
PATTERN = 'mcp.tool.arguments.text.matches("^(a+)+$")'
REPLACE = 'mcp.tool.arguments.text.replace("a", mcp.tool.arguments.text).size() > 0'


@pytest.fixture(scope="module")
def tools() -> Iterator[McpServer]:
    with McpServer(Offer(name="a", tools=["echo"])) as server:
        yield server


@pytest.fixture(scope="module")
def gateway(tools: McpServer) -> Iterator[Gateway]:
    def route(name: str, rule: str) -> dict[str, Any]:
        policies = {"mcpAuthorization": {"rules": [rule]}}
        return {"name": name, "matches": [{"path": {"pathPrefix": f"/{name}"}}], "policies": policies,
                "backends": [{"mcp": {"targets": [http_target("a", tools.port)]}}]}  # fmt: skip

    alive = {"matches": [{"path": {"exact": "/alive"}}], "policies": {"directResponse": {"status": 200, "body": "ok"}}}
    rules = {"square": SQUARE, "cube": CUBE, "pattern": PATTERN, "replace": REPLACE}
    config = {
        "gateways": {"default": {"port": 0, "address": "127.0.0.1"}}, "config": {"connectionTerminationDeadline": "1s"},
        "routes": [*(route(*item) for item in rules.items()), alive],
    }  # fmt: skip
    with ExitStack() as stack:
        yield stack.enter_context(Gateway(config, workers=1))


@pytest.mark.parametrize("name", list(FILES))
def test_a_file_that_is_a_bomb_is_refused(gateway: Gateway, name: str) -> None:
    text, words = FILES[name]
    config = gateway.file.read_text()
    before, spent = gateway.count_log("reload refused"), cpu_seconds(gateway.pid)
    try:
        gateway.write(text)
        gateway.signal(1)
        wait_until(lambda: gateway.count_log("reload refused") > before, 20, "the refusal")
    finally:
        gateway.write(config)
    assert cpu_seconds(gateway.pid) - spent < SPENT_S
    line = gateway.find_log("reload refused")
    assert line is not None
    said = "\n".join(line["problems"])
    assert any(word in said for word in words.split("|")), said[:2000]
    assert len(said) < 20_000, "and the refusal is no bomb either"
    assert gateway.get("/alive").text == "ok"
    assert gateway.metrics().total("config_synchronized") == 0


@pytest.mark.parametrize(
    ("path", "arguments"),
    [("square", {"list": ["a"] * 5000}), ("cube", {"list": ["a"] * 5000}), ("cube", {"list": ["a" * 1000] * 900}), ("pattern", {"text": "a" * 200_000 + "!"}),
     ("replace", {"text": "a" * 100_000})],
    ids=["square", "cube", "cube of texts", "pattern", "replace"],
)  # fmt: skip
def test_arguments_that_make_a_rule_run_away_are_denied(gateway: Gateway, tools: McpServer, path: str, arguments: dict[str, Any]) -> None:
    (worker,) = gateway.pids()
    with Session(Endpoint(gateway.port, f"/{path}")) as session:
        few = {"list": ["a"], "text": "aaa"}
        assert session.call("echo", few).status == 200
        before, spent, begun = len(tools.requests("tools/call")), cpu_seconds(worker), time.monotonic()
        assert session.call("echo", arguments).error["code"] == -32602
        assert cpu_seconds(worker) - spent < 1
        assert time.monotonic() - begun < SPENT_S
        assert len(tools.requests("tools/call")) == before
        assert session.call("echo", few).status == 200
    assert gateway.get("/alive").text == "ok"
    counted = gateway.metrics()
    assert counted.total("auth_decisions_total", policy="mcpAuthorization", result="refused") >= 1
    if path != "pattern":  # which has an answer: false
        assert counted.total("auth_decisions_total", policy="mcpAuthorization", result="error") >= 1
