"""A small MCP server that comes with the gateway, so that the first minute needs nothing else. See `server.py`."""
