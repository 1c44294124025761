"""The MCP gateway: many MCP servers behind one endpoint, for clients of every protocol version. See docs/mcp.md."""
