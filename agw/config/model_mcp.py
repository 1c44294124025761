"""MCP servers behind one endpoint, as the operator writes them. See `agw.config.model` for the rules all model files keep."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from agw.config.model_policies import RoutePolicies, TargetPolicies
from agw.config.modelling import Model, about, bounds, ours


class McpEndpoint(Model, frozen=True):
    """Where an MCP server is: a `host`, or the name of a `backend`."""

    host: Annotated[str | None, about("http:// or https:// URL, name:port, unix:/path, or a name when `port` is given.")] = None
    port: Annotated[Annotated[int, bounds(1, 65535)] | None, about("Port of the server.")] = None
    path: Annotated[str | None, about("Path of the endpoint; by default /mcp, and /sse under `sse`.")] = None
    backend: Annotated[str | None, about("Name of an entry of `backends`, instead of `host`.")] = None


class SchemaSource(Model, frozen=True):
    """Where an OpenAPI document comes from; exactly one key."""

    file: Annotated[str | None, about("File, YAML or JSON; relative to the working directory, else to the configuration file.")] = None
    url: Annotated[str | None, about("http:// or https:// URL, or a path of the API itself; fetched while running.")] = None


class OpenApiServer(Model, frozen=True):
    """An HTTP API whose operations become tools: its OpenAPI document, and a `host` or the name of a `backend`."""

    schema: Annotated[str | SchemaSource, about("The OpenAPI 3 document: its text, a `file` or a `url`.")]
    host: Annotated[str | None, about("http:// or https:// URL, name:port, unix:/path, or a name when `port` is given.")] = None
    port: Annotated[Annotated[int, bounds(1, 65535)] | None, about("Port of the API.")] = None
    path: Annotated[str | None, about("What goes before the path of every operation.")] = None
    backend: Annotated[str | None, about("Name of an entry of `backends`, instead of `host`.")] = None
    refresh_interval: Annotated[str | None, ours("How often a document from a `url` is fetched again; 24h by default.")] = None


class StdioServer(Model, frozen=True):
    """A program that speaks MCP on its standard input and output."""

    cmd: Annotated[str, about("The program: a path, or a name to look for in PATH.")]
    args: Annotated[list[str], about("Its arguments.")] = []
    env: Annotated[dict[str, str], about("Environment variables, added to agw's own.")] = {}
    clear_env: Annotated[bool, about("Start it with only the variables of `env`.")] = msgspec.field(default=False, name="clear_env")
    cwd: Annotated[str | None, ours("Directory it runs in; agw's own by default.")] = None
    sharing: Annotated[
        Literal["auto", "session", "shared"],
        ours("A process per session, one shared by all, or (`auto`) per session and one shared by requests without session."),
    ] = "auto"
    max_processes: Annotated[Annotated[int, bounds(1, 65536)] | None, ours("Processes of one worker; 64 by default.")] = None
    idle_timeout: Annotated[str | None, ours("How long an unused process is kept; 5m by default.")] = None
    stop_grace: Annotated[str | None, ours("Time to end by itself before it is killed; 2s by default.")] = None


class McpTarget(Model, frozen=True):
    """One MCP server: one of `mcp`, `sse`, `stdio`, `openapi`."""

    name: Annotated[str, about("Name of the server, in metrics and (with several targets) in tool names: a-z, 0-9, - and dots.")]
    mcp: Annotated[McpEndpoint | None, about("A server that speaks streamable HTTP.")] = None
    sse: Annotated[McpEndpoint | None, about("A server that speaks the older HTTP+SSE.")] = None
    stdio: Annotated[StdioServer | None, about("A program that speaks on its standard input and output.")] = None
    openapi: Annotated[OpenApiServer | None, about("An HTTP API whose operations become tools.")] = None
    policies: Annotated[TargetPolicies | None, about("Policies for the connection to this server; not with `stdio`.")] = None
    forward_headers: Annotated[list[str], ours("Credentials of the client (`authorization`, `cookie`) that this server gets; none by default.")] = []
    timeout: Annotated[str | None, ours("Silence allowed before an answer; 60s by default.")] = None
    timeouts: Annotated[dict[str, str], ours("The same by method, like {tools/call: 120s}.")] = {}
    fanout_timeout: Annotated[str | None, ours("Time for this server's part of what goes to all; 10s by default.")] = None
    protocol_era: Annotated[
        Literal["auto", "legacy", "modern"], ours("Protocol it speaks: with handshake (legacy), stateless (modern), or find out.")
    ] = "auto"


class VirtualTool(Model, frozen=True):
    """A tool picked for a virtual server."""

    target: Annotated[str, ours("Name of the target that has it.")]
    tool: Annotated[str, ours("Its name there.")]
    name: Annotated[str | None, ours("Another name to show.")] = None
    title: Annotated[str | None, ours("Another title to show.")] = None
    description: Annotated[str | None, ours("Another description to show.")] = None


class VirtualServer(Model, frozen=True):
    """A named selection of tools with an endpoint of its own."""

    name: Annotated[str, ours("Last segment of its path: /mcp/<name>.")]
    tools: Annotated[list[VirtualTool], ours("Its tools.")]


class McpBackend(Model, frozen=True):
    """MCP servers behind one endpoint."""

    targets: Annotated[list[McpTarget], about("The MCP servers.")]
    stateful_mode: Annotated[Literal["stateful", "stateless"], about("Whether sessions are kept.")] = "stateful"
    prefix_mode: Annotated[
        Literal["conditional", "always", "never"] | None, about("When names get the target's as prefix; `conditional`: with several targets.")
    ] = None
    failure_mode: Annotated[
        Literal["failClosed", "failOpen"] | None, about("When a server fails: fail the request (default), or go on with the others.")
    ] = None
    dns_rebinding_protection: Annotated[
        bool | None, about("Whether Host and Origin must be localhost or allowed; when not given, only on loopback listeners.")
    ] = None
    allowed_hosts: Annotated[list[str], ours("Hosts the DNS rebinding protection lets through besides localhost.")] = []
    allowed_origins: Annotated[list[str], ours("Origins it lets through, like https://app.example.com.")] = []
    separator: Annotated[str | None, ours("Between target and tool name; _ by default.")] = None
    fanout_timeout: Annotated[str | None, ours("Default of `fanoutTimeout` of the targets.")] = None
    catalogue_ttl: Annotated[str | None, ours("Age up to which a listing is used again; 30s by default.")] = None
    page_size: Annotated[Annotated[int, bounds(0, 10_000)] | None, ours("Entries per page of a listing; 0 (default) is all.")] = None
    virtual_servers: Annotated[list[VirtualServer], ours("Selections of tools, each at its own path.")] = []
    instructions: Annotated[str | None, ours("What clients are told instead of the servers' own instructions.")] = None
    replay_events: Annotated[Annotated[int, bounds(0, 65536)] | None, ours("Events of a stream kept for a client that returns; 256 by default.")] = (
        None
    )
    replay_bytes: Annotated[Annotated[int, bounds(0, 1 << 30)] | None, ours("Octets of them; 1048576 by default.")] = None
    max_sessions: Annotated[Annotated[int, bounds(1, 10_000_000)] | None, ours("Sessions of one worker; 100000 by default.")] = None


class SimpleMcp(McpBackend, frozen=True, kw_only=True):
    """MCP servers at /mcp, without writing a route."""

    port: Annotated[Annotated[int, bounds(0, 65535)] | None, about("A port of its own; older form of `gateways`.")] = None
    gateways: Annotated[str | list[str], about("Gateways to serve on; `default` when there is one.")] = []
    policies: Annotated[RoutePolicies | None, about("Policies of the route.")] = None
