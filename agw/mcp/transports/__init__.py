"""Ways to reach a target: streamable HTTP, HTTP+SSE, a child process, an OpenAPI service. Contract: agw.mcp.transport."""
