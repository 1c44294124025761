"""The tools of the dual-era fixture: their declarations as sent, and one method per tool in `Tools`.

A tool named `x` is the coroutine method `x(ctx, params)`. It returns a text, content, or a whole result.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import counting
import mcp_types as types
from mcp.server.subscriptions import InMemorySubscriptionBus, PromptsListChanged, ResourceUpdated, ToolsListChanged
from mcp.shared.exceptions import MCPError
from mcp.shared.message import ServerMessageMetadata
from media import PNG, WAV

STEP_S = 0.05
LEVELS = ["debug", "info", "notice", "warning", "error", "critical", "alert", "emergency"]


def _object(properties: dict[str, Any] | None = None, required: list[str] | None = None) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "object", "properties": properties or {}}
    return schema | {"required": required} if required else schema


_TEXT = {"type": "string"}
_NUMBER = {"type": "number"}
_COUNT = {"type": "integer", "minimum": 0}

_JSON_SCHEMA_2020_12 = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "type": "object",
    "$defs": {
        "address": {
            "$anchor": "addressDef",
            "type": "object",
            "properties": {"street": {"type": "string"}, "city": {"type": "string"}},
        }
    },
    "properties": {
        "name": {"type": "string"},
        "address": {"$ref": "#/$defs/address"},
        "contactMethod": {"type": "string", "enum": ["phone", "email"]},
        "phone": {"type": "string"},
        "email": {"type": "string"},
    },
    "allOf": [{"anyOf": [{"required": ["phone"]}, {"required": ["email"]}]}],
    "if": {"properties": {"contactMethod": {"const": "phone"}}, "required": ["contactMethod"]},
    "then": {"required": ["phone"]},
    "else": {"required": ["email"]},
    "additionalProperties": False,
}

SCHEMAS: dict[str, dict[str, Any]] = {
    # own
    "echo": _object({"text": _TEXT}, ["text"]),
    "add": _object({"a": _NUMBER, "b": _NUMBER}, ["a", "b"]),
    "progress": _object({"steps": _COUNT, "step_ms": _COUNT}, ["steps"]),
    "notify_later": _object({"delay_ms": _COUNT, "count": _COUNT, "every_ms": _COUNT}),
    "touch_resource": _object({"uri": _TEXT, "delay_ms": _COUNT}, ["uri"]),
    "cancelled": _object(),
    "fail": _object(),
    "big": _object({"bytes": _COUNT}, ["bytes"]),
    # both wires
    "test_simple_text": _object(),
    "test_image_content": _object(),
    "test_audio_content": _object(),
    "test_embedded_resource": _object(),
    "test_multiple_content_types": _object(),
    "test_error_handling": _object(),
    "test_tool_with_progress": _object(),
    "json_schema_2020_12_tool": _JSON_SCHEMA_2020_12,
    # wire 2025
    "test_tool_with_logging": _object(),
    "test_sampling": _object({"prompt": _TEXT}, ["prompt"]),
    "test_elicitation": _object({"message": _TEXT}, ["message"]),
    "test_elicitation_sep1034_defaults": _object(),
    "test_elicitation_sep1330_enums": _object(),
    "test_reconnection": _object(),
    # wire 2026
    "test_missing_capability": _object(),
    "test_logging_tool": _object(),
    "test_streaming_elicitation": _object(),
    "test_trigger_tool_change": _object(),
    "test_trigger_prompt_change": _object(),
    "test_x_mcp_header": _object({"region": {"type": "string", "x-mcp-header": "Region"}}, ["region"]),
    "test_input_required_result_elicitation": _object(),
    "test_input_required_result_sampling": _object(),
    "test_input_required_result_list_roots": _object(),
    "test_input_required_result_request_state": _object(),
    "test_input_required_result_multiple_inputs": _object(),
    "test_input_required_result_multi_round": _object(),
    "test_input_required_result_tampered_state": _object(),
    "test_input_required_result_capabilities": _object(),
}

DECLARED = [types.Tool(name=name, description=f"Interoperability fixture: {name}", input_schema=schema) for name, schema in SCHEMAS.items()]

_DEFAULTS = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "default": "John Doe"},
        "age": {"type": "integer", "default": 30},
        "score": {"type": "number", "default": 95.5},
        "status": {"type": "string", "enum": ["active", "inactive", "pending"], "default": "active"},
        "verified": {"type": "boolean", "default": True},
    },
    "required": [],
}
_TITLES = [{"const": f"value{number}", "title": f"{word} Option"} for number, word in enumerate(["First", "Second", "Third"], 1)]
_CHOICES = [{"const": f"value{number}", "title": f"{word} Choice"} for number, word in enumerate(["First", "Second", "Third"], 1)]
_OPTIONS = ["option1", "option2", "option3"]
_ENUMS = {
    "type": "object",
    "properties": {
        "untitledSingle": {"type": "string", "enum": _OPTIONS},
        "titledSingle": {"type": "string", "oneOf": _TITLES},
        "legacyEnum": {"type": "string", "enum": ["opt1", "opt2", "opt3"], "enumNames": ["Option One", "Option Two", "Option Three"]},
        "untitledMulti": {"type": "array", "items": {"type": "string", "enum": _OPTIONS}},
        "titledMulti": {"type": "array", "items": {"anyOf": _CHOICES}},
    },
    "required": [],
}


def session_of(ctx: Any) -> str | None:
    """The legacy session a request belongs to; None on stdio, where there is only one."""
    if ctx.request is None:
        return None
    return ctx.request.headers.get("mcp-session-id") or ctx.request.query_params.get("session_id")


def is_modern(ctx: Any) -> bool:
    """Whether a request speaks the stateless protocol."""
    return bool(ctx.protocol_version >= "2026-07-28")


def ask(message: str, field: str, kind: str = "string") -> types.ElicitRequest:
    """An elicitation of one field, to be put into an InputRequiredResult."""
    schema = {"type": "object", "properties": {field: {"type": kind}}, "required": [field]}
    return types.ElicitRequest(params=types.ElicitRequestFormParams(message=message, requested_schema=schema))


def _sample(text: str, max_tokens: int) -> types.CreateMessageRequest:
    message = types.SamplingMessage(role="user", content=types.TextContent(type="text", text=text))
    return types.CreateMessageRequest(params=types.CreateMessageRequestParams(messages=[message], max_tokens=max_tokens))


def accepted(params: Any, key: str, field: str) -> Any:
    """The value of a field the client was asked for, or None if it has not (properly) answered."""
    answer = (params.input_responses or {}).get(key)
    if not isinstance(answer, types.ElicitResult) or answer.action != "accept":
        return None
    return (answer.content or {}).get(field)


def _text(text: str) -> types.TextContent:
    return types.TextContent(type="text", text=text)


def _image() -> types.ImageContent:
    return types.ImageContent(type="image", data=PNG, mime_type="image/png")


def _embedded(uri: str, mime_type: str, text: str) -> types.EmbeddedResource:
    return types.EmbeddedResource(type="resource", resource=types.TextResourceContents(uri=uri, mime_type=mime_type, text=text))


class ToolError(Exception):
    """To be answered as a result with isError."""


class Asks(Exception):
    """Ends a tool with what the client must answer first (modern era)."""

    def __init__(self, **requests: Any) -> None:
        super().__init__()
        self.result = types.InputRequiredResult(input_requests=requests)


_ANSWERS = {
    "elicitation/create": types.ElicitResult,
    "sampling/createMessage": types.CreateMessageResult,
    "roots/list": types.ListRootsResult,
}


async def answered(ctx: Any, params: Any, handler: Callable[[Any, Any], Awaitable[Any]]) -> Any:
    """What a handler that may ask the client answers in the end.

    The modern client answers by repeating its request. The legacy client is asked at once, everything at the same time.
    """
    result = await handler(ctx, params)
    while isinstance(result, types.InputRequiredResult) and not is_modern(ctx):
        requests = result.input_requests or {}
        related = ServerMessageMetadata(related_request_id=ctx.request_id)
        asked = [ctx.session.send_request(request, _ANSWERS[request.method], metadata=related) for request in requests.values()]
        answers = dict(zip(requests, await asyncio.gather(*asked), strict=True))
        result = await handler(ctx, params.model_copy(update={"input_responses": answers, "request_state": result.request_state}))
    return result


class Tools:
    """State and code of the tools. Owner: the server's loop."""

    def __init__(self, bus: InMemorySubscriptionBus, names: set[str]) -> None:
        self._bus, self._names = bus, names
        self._sessions: dict[str | None, Any] = {}
        self._later: set[asyncio.Task[None]] = set()
        self.subscriptions: set[tuple[str | None, str]] = set()
        self.levels: dict[str | None, str] = {}

    async def call(self, ctx: Any, params: types.CallToolRequestParams) -> types.CallToolResult | types.InputRequiredResult:
        """Run a tool by name. Errors: MCPError for an unknown one."""
        if params.name not in self._names:
            raise MCPError(types.INVALID_PARAMS, f"Unknown tool: {params.name}")
        missing = [name for name in SCHEMAS[params.name].get("required", ()) if name not in (params.arguments or {})]
        try:
            if missing and params.name != "test_x_mcp_header":
                raise ToolError(f"missing: {', '.join(missing)}")
            result = await answered(ctx, params, getattr(self, params.name))
        except Asks as asks:
            return asks.result
        except ToolError as error:
            return types.CallToolResult(content=[_text(str(error))], is_error=True)
        if isinstance(result, types.CallToolResult | types.InputRequiredResult):
            return result
        content = result if isinstance(result, list) else [_text(result) if isinstance(result, str) else result]
        return types.CallToolResult(content=content)

    async def remember(self, ctx: Any, call_next: Callable[[Any], Awaitable[Any]]) -> Any:
        """Middleware: who is to be told of changes. A session has its id from `notifications/initialized` on."""
        if ctx.method != "initialize" and not is_modern(ctx):
            self._sessions[session_of(ctx)] = ctx.session
        return await call_next(ctx)

    def subscribe(self, ctx: Any, uri: str) -> None:
        """A legacy session wants to know when a resource changes."""
        self.subscriptions.add((session_of(ctx), uri))

    async def _changed(self, event: Any, notify: str) -> None:
        """Tell everybody: who listens (modern), and every session (legacy). Sessions that are gone are none of our business."""
        await self._bus.publish(event)
        for name, session in list(self._sessions.items()):
            try:
                await getattr(session, notify)()
            except Exception:
                del self._sessions[name]

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._later.add(task)
        task.add_done_callback(self._later.discard)

    async def _log(self, ctx: Any, level: str, text: str, *, on_request: bool = True) -> None:
        wanted = self.levels.get(session_of(ctx), "debug")
        if is_modern(ctx) or LEVELS.index(level) >= LEVELS.index(wanted):
            await ctx.session.send_log_message(level, text, "interop", ctx.request_id if on_request else None)

    # own

    async def echo(self, ctx: Any, params: Any) -> str:
        """The text, unchanged."""
        return str(params.arguments["text"])

    async def add(self, ctx: Any, params: Any) -> types.CallToolResult:
        """The sum, as text and structured."""
        a, b = (params.arguments or {}).get("a"), (params.arguments or {}).get("b")
        if not all(isinstance(number, int | float) and not isinstance(number, bool) for number in (a, b)):
            raise ToolError("a and b must be numbers")
        return types.CallToolResult(content=[_text(str(a + b))], structured_content={"sum": a + b})

    async def progress(self, ctx: Any, params: Any) -> str:
        """One progress notification after every step, then the result one step later."""
        steps, step_s = params.arguments["steps"], params.arguments.get("step_ms", 1000 * STEP_S) / 1000
        try:
            for step in range(steps):
                await asyncio.sleep(step_s)
                await ctx.session.report_progress(step + 1, steps, f"step {step + 1}")
            await asyncio.sleep(step_s)
        except asyncio.CancelledError:
            counting.one_more()
            raise
        return f"{steps} steps"

    async def cancelled(self, ctx: Any, params: Any) -> str:
        """How many calls of `progress` were cancelled so far."""
        return str(counting.so_far())

    async def notify_later(self, ctx: Any, params: Any) -> str:
        """Log messages on the session's own stream (legacy) or tool changes to listeners (modern), after the answer."""
        arguments = params.arguments or {}
        delay_s, every_s = arguments.get("delay_ms", 500) / 1000, arguments.get("every_ms", 1000) / 1000
        count = arguments.get("count", 1)

        async def notify() -> None:
            for number in range(count):
                await asyncio.sleep(every_s if number else delay_s)
                await self._changed(ToolsListChanged(), "send_tool_list_changed")
                if not is_modern(ctx):
                    await self._log(ctx, "warning", f"later {number + 1}", on_request=False)

        self._spawn(notify())
        return "later"

    async def touch_resource(self, ctx: Any, params: Any) -> str:
        """Say that a resource changed, to whom it may concern, after the answer."""
        uri = params.arguments["uri"]

        async def notify() -> None:
            await asyncio.sleep(params.arguments.get("delay_ms", 300) / 1000)
            await self._bus.publish(ResourceUpdated(uri))
            for name, session in list(self._sessions.items()):
                if (name, uri) in self.subscriptions:
                    await session.send_resource_updated(uri)

        self._spawn(notify())
        return "touched"

    async def fail(self, ctx: Any, params: Any) -> str:
        """Always an error result."""
        raise ToolError("this tool always fails")

    async def big(self, ctx: Any, params: Any) -> str:
        """A text of so many bytes."""
        return "x" * int(params.arguments["bytes"])

    # The suite's own tools: what they do is said in the descriptions of its scenarios. Both wires:

    async def test_simple_text(self, ctx: Any, params: Any) -> str:
        return "This is a simple text response for testing."

    async def test_image_content(self, ctx: Any, params: Any) -> Any:
        return _image()

    async def test_audio_content(self, ctx: Any, params: Any) -> Any:
        return types.AudioContent(type="audio", data=WAV, mime_type="audio/wav")

    async def test_embedded_resource(self, ctx: Any, params: Any) -> Any:
        return _embedded("test://embedded-resource", "text/plain", "This is an embedded resource content.")

    async def test_multiple_content_types(self, ctx: Any, params: Any) -> Any:
        mixed = _embedded("test://mixed-content-resource", "application/json", '{"test":"data","value":123}')
        return [_text("Multiple content types test:"), _image(), mixed]

    async def test_error_handling(self, ctx: Any, params: Any) -> str:
        raise ToolError("This tool intentionally returns an error for testing")

    async def test_tool_with_progress(self, ctx: Any, params: Any) -> str:
        for done in (0, 50, 100):
            await ctx.session.report_progress(done, 100)
            if done < 100:
                await asyncio.sleep(STEP_S)
        return "progressed"

    async def json_schema_2020_12_tool(self, ctx: Any, params: Any) -> str:
        return f"arguments: {params.arguments}"

    # wire 2025

    async def test_tool_with_logging(self, ctx: Any, params: Any) -> str:
        for number, what in enumerate(("Tool execution started", "Tool processing data", "Tool execution completed")):
            if number:
                await asyncio.sleep(STEP_S)
            await self._log(ctx, "info", what)
        return "logged"

    async def test_sampling(self, ctx: Any, params: Any) -> str:
        self._need(ctx, types.ClientCapabilities(sampling=types.SamplingCapability()), "sampling")
        answer = await self._answer(ctx, params, "sampling", _sample(params.arguments["prompt"], 100))
        return f"LLM response: {getattr(answer.content, 'text', answer.content)}"

    async def test_elicitation(self, ctx: Any, params: Any) -> str:
        fields = {"username": "User's response", "email": "User's email address"}
        schema = {
            "type": "object",
            "properties": {name: {"type": "string", "description": text} for name, text in fields.items()},
            "required": list(fields),
        }
        answer = await self._elicit(ctx, params, params.arguments["message"], schema)
        return f"User response: action={answer.action}, content={answer.content}"

    async def test_elicitation_sep1034_defaults(self, ctx: Any, params: Any) -> str:
        answer = await self._elicit(ctx, params, "Please check these values", _DEFAULTS)
        return f"Elicitation completed: action={answer.action}, content={answer.content}"

    async def test_elicitation_sep1330_enums(self, ctx: Any, params: Any) -> str:
        answer = await self._elicit(ctx, params, "Please choose", _ENUMS)
        return f"Elicitation completed: action={answer.action}, content={answer.content}"

    async def test_reconnection(self, ctx: Any, params: Any) -> str:
        if ctx.close_sse_stream is not None:
            await ctx.close_sse_stream()
        await asyncio.sleep(2 * STEP_S)
        return "The result came after the stream was closed."

    def _need(self, ctx: Any, capability: types.ClientCapabilities, name: str) -> None:
        if not ctx.session.check_client_capability(capability):
            raise ToolError(f"the client does not support {name}")

    async def _answer(self, ctx: Any, params: Any, key: str, request: Any) -> Any:
        """What the client says to one question, whichever way it is asked."""
        if is_modern(ctx):
            if (answer := (params.input_responses or {}).get(key)) is None:
                raise Asks(**{key: request})
            return answer
        related = ServerMessageMetadata(related_request_id=ctx.request_id)
        return await ctx.session.send_request(request, _ANSWERS[request.method], metadata=related)

    async def _elicit(self, ctx: Any, params: Any, message: str, schema: dict[str, Any]) -> Any:
        self._need(ctx, types.ClientCapabilities(elicitation=types.ElicitationCapability()), "elicitation")
        request = types.ElicitRequest(params=types.ElicitRequestFormParams(message=message, requested_schema=schema))
        return await self._answer(ctx, params, "elicitation", request)

    # wire 2026

    async def test_missing_capability(self, ctx: Any, params: Any) -> str:
        if not ctx.session.check_client_capability(types.ClientCapabilities(sampling=types.SamplingCapability())):
            data = {"requiredCapabilities": {"sampling": {}}}
            raise MCPError(types.MISSING_REQUIRED_CLIENT_CAPABILITY, "this tool needs sampling", data)
        return "the client can sample"

    async def test_logging_tool(self, ctx: Any, params: Any) -> str:
        await self._log(ctx, "info", "a message for those who asked for it")
        return "logged"

    async def test_streaming_elicitation(self, ctx: Any, params: Any) -> Any:
        await ctx.session.report_progress(1, 2)
        return types.InputRequiredResult(input_requests={"answer": ask("What is your answer?", "answer")})

    async def test_trigger_tool_change(self, ctx: Any, params: Any) -> str:
        await self._changed(ToolsListChanged(), "send_tool_list_changed")
        return "changed"

    async def test_trigger_prompt_change(self, ctx: Any, params: Any) -> str:
        await self._changed(PromptsListChanged(), "send_prompt_list_changed")
        return "changed"

    async def test_x_mcp_header(self, ctx: Any, params: Any) -> str:
        return f"region: {(params.arguments or {}).get('region')}"

    async def test_input_required_result_elicitation(self, ctx: Any, params: Any) -> Any:
        name = accepted(params, "user_name", "name")
        if name is None:
            return types.InputRequiredResult(input_requests={"user_name": ask("What is your name?", "name")})
        return f"Hello, {name}!"

    async def test_input_required_result_sampling(self, ctx: Any, params: Any) -> Any:
        answer = (params.input_responses or {}).get("capital_question")
        if answer is None:
            return types.InputRequiredResult(input_requests={"capital_question": _sample("What is the capital of France?", 100)})
        return f"Answer: {getattr(getattr(answer, 'content', None), 'text', answer)}"

    async def test_input_required_result_list_roots(self, ctx: Any, params: Any) -> Any:
        answer = (params.input_responses or {}).get("client_roots")
        if not isinstance(answer, types.ListRootsResult):
            return types.InputRequiredResult(input_requests={"client_roots": types.ListRootsRequest(params=types.RequestParams())})
        return "Roots: " + ", ".join(str(root.uri) for root in answer.roots)

    async def test_input_required_result_request_state(self, ctx: Any, params: Any) -> Any:
        if accepted(params, "confirm", "ok") is None or params.request_state != "confirm":
            return types.InputRequiredResult(input_requests={"confirm": ask("Please confirm", "ok", "boolean")}, request_state="confirm")
        return "state-ok"

    async def test_input_required_result_tampered_state(self, ctx: Any, params: Any) -> Any:
        return await self.test_input_required_result_request_state(ctx, params)

    async def test_input_required_result_multiple_inputs(self, ctx: Any, params: Any) -> Any:
        requests = {
            "user_name": ask("What is your name?", "name"),
            "greeting": _sample("Generate a greeting", 50),
            "client_roots": types.ListRootsRequest(params=types.RequestParams()),
        }
        if params.request_state != "three" or set(requests) - set(params.input_responses or {}):
            return types.InputRequiredResult(input_requests=requests, request_state="three")
        return f"Thank you, {accepted(params, 'user_name', 'name')}."

    async def test_input_required_result_multi_round(self, ctx: Any, params: Any) -> Any:
        match params.request_state:
            case "one" if (name := accepted(params, "step1", "name")) is not None:
                question = ask("Step 2: What is your favorite color?", "color")
                return types.InputRequiredResult(input_requests={"step2": question}, request_state=f"two:{name}")
            case str(state) if state.startswith("two:") and (color := accepted(params, "step2", "color")) is not None:
                return f"{state.removeprefix('two:')} likes {color}."
            case _:
                question = ask("Step 1: What is your name?", "name")
                return types.InputRequiredResult(input_requests={"step1": question}, request_state="one")

    async def test_input_required_result_capabilities(self, ctx: Any, params: Any) -> Any:
        wanted = {
            "name": (types.ClientCapabilities(elicitation=types.ElicitationCapability()), ask("What is your name?", "name")),
            "greeting": (types.ClientCapabilities(sampling=types.SamplingCapability()), _sample("Generate a greeting", 50)),
            "roots": (types.ClientCapabilities(roots=types.RootsCapability()), types.ListRootsRequest(params=types.RequestParams())),
        }
        requests: dict[str, Any] = {key: request for key, (capability, request) in wanted.items() if ctx.session.check_client_capability(capability)}
        if requests and not params.input_responses:
            return types.InputRequiredResult(input_requests=requests)
        return f"answers: {sorted(params.input_responses or {})}"
