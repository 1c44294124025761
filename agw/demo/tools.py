"""The demo server's three tools, the same in every protocol version: `echo`, `add`, `slow`.

Arguments are msgspec structs: one declaration is the check, the input schema and the type the tool sees. A tool fails
in two ways, as MCP demands: an unknown name is a JSON-RPC error, everything the model could correct (wrong arguments,
a sum out of range) is a result with `isError`.
"""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Annotated, Any, NamedTuple

import msgspec

from agw.demo.jsonrpc import INVALID_PARAMS, Object, RpcError

Report = Callable[[int, int, str], Awaitable[None]]
"""`await report(done, total, text)` tells the caller how far a tool is; `done` grows with each call."""

Run = Callable[[Report], Awaitable[Object]]
"""A prepared call: runs the tool and returns its CallToolResult; only cancellation escapes."""


class ToolFailure(Exception):
    """The tool ran and could not do what was asked; the text is for the caller."""


class Arguments(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Base of all argument structs: unknown members are refused."""


class EchoArguments(Arguments, frozen=True):
    """Arguments of `echo`."""

    text: Annotated[str, msgspec.Meta(description="Text to send back")]


class AddArguments(Arguments, frozen=True):
    """Arguments of `add`."""

    a: Annotated[int | float, msgspec.Meta(description="First summand")]
    b: Annotated[int | float, msgspec.Meta(description="Second summand")]


class SlowArguments(Arguments, frozen=True):
    """Arguments of `slow`; the bounds keep one call from occupying the server for long."""

    seconds: Annotated[float, msgspec.Meta(ge=0, le=60, description="How long to take")] = 3.0
    steps: Annotated[int, msgspec.Meta(ge=1, le=100, description="How often to report progress")] = 5


async def _echo(arguments: EchoArguments, report: Report) -> str | Object:
    return arguments.text


async def _add(arguments: AddArguments, report: Report) -> str | Object:
    try:
        total = arguments.a + arguments.b
    except OverflowError:
        raise ToolFailure("the sum is out of range") from None
    if isinstance(total, float) and not math.isfinite(total):
        raise ToolFailure("the sum is out of range")
    return {"sum": total}


async def _slow(arguments: SlowArguments, report: Report) -> str | Object:
    for step in range(1, arguments.steps + 1):
        await asyncio.sleep(arguments.seconds / arguments.steps)
        await report(step, arguments.steps, f"step {step} of {arguments.steps}")
    return {"seconds": arguments.seconds, "steps": arguments.steps}


class Tool(NamedTuple):
    """A tool: `run(arguments, report)` returns text, or an object that matches `output_schema`."""

    name: str
    title: str
    description: str
    arguments: type[Arguments]
    output_schema: Object | None
    run: Callable[[Any, Report], Awaitable[str | Object]]

    def describe(self, *, structured: bool) -> Object:
        """The entry in `tools/list`; `structured` says the version knows titles and output schemas (2025-06-18 on)."""
        entry: Object = {
            "name": self.name,
            "description": self.description,
            "inputSchema": _input_schema(self.arguments),
            "annotations": {"title": self.title, "readOnlyHint": True, "openWorldHint": False},
        }
        if structured:
            entry["title"] = self.title
            if self.output_schema is not None:
                entry["outputSchema"] = self.output_schema
        return entry


def _object_schema(**properties: str) -> Object:
    return {
        "type": "object",
        "properties": {name: {"type": kind} for name, kind in properties.items()},
        "required": list(properties),
    }


TOOLS = (
    Tool("echo", "Echo", "Sends the text back unchanged.", EchoArguments, None, _echo),
    Tool("add", "Add", "Adds two numbers.", AddArguments, _object_schema(sum="number"), _add),
    Tool(
        "slow",
        "Slow",
        "Takes its time and reports progress after each step; can be cancelled.",
        SlowArguments,
        _object_schema(seconds="number", steps="integer"),
        _slow,
    ),
)
_BY_NAME = {tool.name: tool for tool in TOOLS}


def listing(*, structured: bool) -> list[Object]:
    """`tools/list`, always in the same order and on one page."""
    return [tool.describe(structured=structured) for tool in TOOLS]


def prepare(params: Object, *, structured: bool) -> Run:
    """The call that the params of `tools/call` ask for, checked but not begun.

    Errors: RpcError INVALID_PARAMS if there is no such tool or `arguments` is not an object.
    """
    name, arguments = params.get("name"), params.get("arguments", {})
    tool = _BY_NAME.get(name) if isinstance(name, str) else None
    if tool is None:
        raise RpcError(INVALID_PARAMS, "unknown tool")
    if not isinstance(arguments, dict):
        raise RpcError(INVALID_PARAMS, "arguments must be an object")
    return partial(_run, tool, arguments, structured)


async def _run(tool: Tool, arguments: Object, structured: bool, report: Report) -> Object:
    try:
        # The text of a ValidationError names the member and the expected type, never the value.
        value = await tool.run(msgspec.convert(arguments, tool.arguments), report)
    except (msgspec.ValidationError, ToolFailure) as error:
        return {"content": [{"type": "text", "text": str(error)}], "isError": True}
    if isinstance(value, str):
        return {"content": [{"type": "text", "text": value}], "isError": False}
    # The text repeats the structure for clients that do not read structuredContent (tools page, "Structured Content").
    answer: Object = {"content": [{"type": "text", "text": json.dumps(value)}], "isError": False}
    if structured:
        answer["structuredContent"] = value
    return answer


def _input_schema(arguments: type[Arguments]) -> Object:
    _, components = msgspec.json.schema_components([arguments])
    schema: Object = components[arguments.__name__]
    # The struct's name and docstring are ours, not the caller's.
    return {name: part for name, part in schema.items() if name not in ("title", "description")}
