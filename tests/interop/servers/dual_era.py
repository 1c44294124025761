"""An MCP server of both eras on the official Python SDK (mcp 2.3), to stand behind the gateway.

    python dual_era.py --port 9000                     plain
    python dual_era.py --port 9000 --page-size 5       lists in pages, for clients that must follow cursors
    python dual_era.py --port 9000 --share 2/3         every third tool, prompt and resource, from the second on
    python dual_era.py --port 9000 --era legacy        one era only, also `modern` (serving.py)
    python dual_era.py --transport stdio               or `sse`: http://127.0.0.1:PORT/sse

It offers what the official conformance suite asks of a server (names, texts and behaviour are the suite's), and a few
tools of our own, marked `own` in tools.py. The low-level server of the SDK is used because it sends declarations as
they are written here: the schemas of the suite have keywords a typed model would drop.

Streams have event ids and a store, so clients may resume; `retry` is 500 ms, as the suite's polling scenario wants it short.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import warnings
from typing import Any

import mcp_types as types
import tools
from mcp.server.lowlevel import NotificationOptions, Server
from mcp.server.request_state import RequestStateBoundary, RequestStateSecurity
from mcp.server.streamable_http import EventCallback, EventMessage, EventStore
from mcp.server.subscriptions import InMemorySubscriptionBus, ListenHandler
from mcp.shared.exceptions import MCPDeprecationWarning, MCPError
from media import PNG
from serving import serve

NAME = "agw-interop"
TEMPLATE = "test://template/{id}/data"

RESOURCES = [
    types.Resource(uri="test://static-text", name="static-text", description="A text that never changes", mime_type="text/plain"),
    types.Resource(uri="test://static-binary", name="static-binary", description="A picture of one pixel", mime_type="image/png"),
    types.Resource(uri="test://watched-resource", name="watched-resource", description="A text to subscribe to", mime_type="text/plain"),
]
TEXTS = {
    "test://static-text": "This is the content of the static text resource.",
    "test://watched-resource": "Somebody may be watching.",
}
PROMPTS = [
    types.Prompt(name="test_simple_prompt", description="A prompt without arguments"),
    types.Prompt(
        name="test_prompt_with_arguments",
        description="A prompt that repeats its arguments",
        arguments=[
            types.PromptArgument(name="arg1", description="First test argument", required=True),
            types.PromptArgument(name="arg2", description="Second test argument", required=True),
        ],
    ),
    types.Prompt(
        name="test_prompt_with_embedded_resource",
        description="A prompt with a resource in it",
        arguments=[types.PromptArgument(name="resourceUri", description="URI of the resource to embed", required=True)],
    ),
    types.Prompt(name="test_prompt_with_image", description="A prompt with a picture in it"),
    types.Prompt(name="test_input_required_result_prompt", description="A prompt that asks for its context first"),
]
COMPLETIONS = ["paris", "park", "party"]


class Events(EventStore):
    """All events of all streams, in order, for as long as the process lives. Ids are decimal numbers from 1."""

    def __init__(self) -> None:
        self._numbers = itertools.count(1)
        self._events: list[tuple[int, str, Any]] = []

    async def store_event(self, stream_id: str, message: Any) -> str:
        """Keep a message (None: the event that only opens a stream) and name it."""
        number = next(self._numbers)
        self._events.append((number, stream_id, message))
        return str(number)

    async def replay_events_after(self, last_event_id: str, send_callback: EventCallback) -> str | None:
        """Send what followed on the stream of that event."""
        stream = next((name for number, name, _ in self._events if str(number) == last_event_id), None)
        if stream is None:
            return None
        for number, name, message in list(self._events):
            if name == stream and number > int(last_event_id) and message is not None:
                await send_callback(EventMessage(message, str(number)))
        return stream


class Share:
    """One server's part when the fixture is dealt out to several: every `of`-th entry of each list, beginning with `number` (from 1)."""

    def __init__(self, text: str) -> None:
        self._number, self._of = (int(part) for part in text.split("/"))

    def of(self, items: list[Any]) -> list[Any]:
        """The part of a list."""
        return items[self._number - 1 :: self._of]


class Handlers:
    """What the server answers. Subscriptions of legacy sessions and log levels are kept per session."""

    def __init__(self, page_size: int | None, share: Share) -> None:
        self._page_size = page_size
        self.bus = InMemorySubscriptionBus()
        self._tools, self._resources, self._prompts = (share.of(items) for items in (tools.DECLARED, RESOURCES, PROMPTS))
        self._templates = share.of([types.ResourceTemplate(uri_template=TEMPLATE, name="template", description="Data of an id", mime_type="application/json")])
        self.tools = tools.Tools(self.bus, {tool.name for tool in self._tools})

    def _page(self, items: list[Any], params: types.PaginatedRequestParams | None) -> tuple[list[Any], str | None]:
        cursor = params.cursor if params else None
        if cursor is not None and not cursor.isdigit():
            raise MCPError(types.INVALID_PARAMS, "unknown cursor")
        start = int(cursor or 0)
        end = start + (self._page_size or len(items))
        return items[start:end], str(end) if end < len(items) else None

    async def list_tools(self, ctx: Any, params: types.PaginatedRequestParams | None) -> types.ListToolsResult:
        """tools/list"""
        page, more = self._page(self._tools, params)
        return types.ListToolsResult(tools=page, next_cursor=more)

    async def call_tool(self, ctx: Any, params: types.CallToolRequestParams) -> types.CallToolResult | types.InputRequiredResult:
        """tools/call"""
        return await self.tools.call(ctx, params)

    async def list_resources(self, ctx: Any, params: types.PaginatedRequestParams | None) -> types.ListResourcesResult:
        """resources/list"""
        page, more = self._page(self._resources, params)
        return types.ListResourcesResult(resources=page, next_cursor=more)

    async def list_templates(self, ctx: Any, params: types.PaginatedRequestParams | None) -> types.ListResourceTemplatesResult:
        """resources/templates/list"""
        page, more = self._page(self._templates, params)
        return types.ListResourceTemplatesResult(resource_templates=page, next_cursor=more)

    async def read_resource(self, ctx: Any, params: types.ReadResourceRequestParams) -> types.ReadResourceResult:
        """resources/read"""
        uri = params.uri
        if not self._owns(uri):
            raise self._unknown_resource(ctx, uri)
        if uri == "test://static-binary":
            return types.ReadResourceResult(contents=[types.BlobResourceContents(uri=uri, mime_type="image/png", blob=PNG)])
        if uri in TEXTS:
            return types.ReadResourceResult(contents=[types.TextResourceContents(uri=uri, mime_type="text/plain", text=TEXTS[uri])])
        head, tail = TEMPLATE.split("{id}")
        id = uri.removeprefix(head).removesuffix(tail)
        if uri == head + id + tail and id:
            text = f'{{"id":"{id}","templateTest":true,"data":"Data for ID: {id}"}}'
            return types.ReadResourceResult(contents=[types.TextResourceContents(uri=uri, mime_type="application/json", text=text)])
        raise self._unknown_resource(ctx, uri)

    def _owns(self, uri: str) -> bool:
        return uri in [resource.uri for resource in self._resources] or bool(self._templates and uri.startswith(TEMPLATE.split("{", maxsplit=1)[0]))

    def _unknown_resource(self, ctx: Any, uri: str) -> MCPError:
        return MCPError(types.INVALID_PARAMS if tools.is_modern(ctx) else -32002, "Resource not found", {"uri": uri})

    async def subscribe(self, ctx: Any, params: types.SubscribeRequestParams) -> types.EmptyResult:
        """resources/subscribe"""
        self.tools.subscribe(ctx, params.uri)
        return types.EmptyResult()

    async def unsubscribe(self, ctx: Any, params: types.UnsubscribeRequestParams) -> types.EmptyResult:
        """resources/unsubscribe"""
        self.tools.subscriptions.discard((tools.session_of(ctx), params.uri))
        return types.EmptyResult()

    async def list_prompts(self, ctx: Any, params: types.PaginatedRequestParams | None) -> types.ListPromptsResult:
        """prompts/list"""
        page, more = self._page(self._prompts, params)
        return types.ListPromptsResult(prompts=page, next_cursor=more)

    async def get_prompt(self, ctx: Any, params: types.GetPromptRequestParams) -> types.GetPromptResult | types.InputRequiredResult:
        """prompts/get"""
        return await tools.answered(ctx, params, self._get_prompt)

    async def _get_prompt(self, ctx: Any, params: types.GetPromptRequestParams) -> types.GetPromptResult | types.InputRequiredResult:
        if params.name not in [prompt.name for prompt in self._prompts]:
            raise MCPError(types.INVALID_PARAMS, "no such prompt")
        arguments = params.arguments or {}
        match params.name:
            case "test_simple_prompt":
                contents: list[Any] = ["This is a simple prompt for testing."]
            case "test_prompt_with_arguments":
                contents = [f"Prompt with arguments: arg1='{arguments.get('arg1')}', arg2='{arguments.get('arg2')}'"]
            case "test_prompt_with_embedded_resource":
                text = "Embedded resource content for testing."
                inner = types.TextResourceContents(uri=arguments.get("resourceUri", ""), mime_type="text/plain", text=text)
                contents = [types.EmbeddedResource(type="resource", resource=inner), "Please process the embedded resource above."]
            case "test_prompt_with_image":
                contents = [types.ImageContent(type="image", data=PNG, mime_type="image/png"), "Please analyze the image above."]
            case "test_input_required_result_prompt":
                answer = tools.accepted(params, "user_context", "context")
                if answer is None:
                    return types.InputRequiredResult(input_requests={"user_context": tools.ask("What context should the prompt use?", "context")})
                contents = [f"Use this context: {answer}"]
            case _:
                raise MCPError(types.INVALID_PARAMS, "no such prompt")
        messages = [
            types.PromptMessage(role="user", content=types.TextContent(type="text", text=content) if isinstance(content, str) else content)
            for content in contents
        ]
        return types.GetPromptResult(messages=messages)

    async def complete(self, ctx: Any, params: types.CompleteRequestParams) -> types.CompleteResult:
        """completion/complete"""
        values = [word for word in COMPLETIONS if word.startswith(params.argument.value)]
        return types.CompleteResult(completion=types.Completion(values=values, total=len(values), has_more=False))

    async def set_level(self, ctx: Any, params: types.SetLevelRequestParams) -> types.EmptyResult:
        """logging/setLevel"""
        self.tools.levels[tools.session_of(ctx)] = params.level
        return types.EmptyResult()


class Fixture(Server[Any]):
    """Says in the legacy era, too, that its lists change."""

    def create_initialization_options(self, notification_options: NotificationOptions | None = None, *more: Any, **named: Any) -> Any:
        """What `initialize` is answered with."""
        changes = notification_options or NotificationOptions(prompts_changed=True, resources_changed=True, tools_changed=True)
        return super().create_initialization_options(changes, *more, **named)


def make(page_size: int | None, share: Share) -> Server[Any]:
    """The server, ready to be run on a transport."""
    handlers = Handlers(page_size, share)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", MCPDeprecationWarning)
        server = Fixture(
            NAME,
            version="1.0.0",
            title="agw interoperability fixture",
            instructions="Tools for the tests of a gateway.",
            get_tool_input_schema=tools.SCHEMAS.get,
            on_list_tools=handlers.list_tools,
            on_call_tool=handlers.call_tool,
            on_list_resources=handlers.list_resources,
            on_list_resource_templates=handlers.list_templates,
            on_read_resource=handlers.read_resource,
            on_subscribe_resource=handlers.subscribe,
            on_unsubscribe_resource=handlers.unsubscribe,
            on_subscriptions_listen=ListenHandler(handlers.bus),
            on_list_prompts=handlers.list_prompts,
            on_get_prompt=handlers.get_prompt,
            on_completion=handlers.complete,
            on_set_logging_level=handlers.set_level,
        )
    server.middleware.append(handlers.tools.remember)
    server.middleware.append(RequestStateBoundary(RequestStateSecurity.ephemeral(), default_audience=NAME))
    return server


def main() -> None:
    """Serve until a signal."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--page-size", type=int)
    parser.add_argument("--share", type=Share, default=Share("1/1"), metavar="NUMBER/OF")
    parser.add_argument("--transport", choices=["http", "sse", "stdio"], default="http")
    parser.add_argument("--era", choices=["both", "legacy", "modern"], default="both")
    options = parser.parse_args()
    warnings.simplefilter("ignore", MCPDeprecationWarning)
    asyncio.run(serve(make(options.page_size, options.share), options.transport, options.era, options.port, Events()))


if __name__ == "__main__":
    main()
