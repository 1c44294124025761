"""`mcpAuthentication`: an MCP endpoint as OAuth 2.1 resource server, and the adapters for authorization servers that need them."""
