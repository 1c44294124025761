"""agw: one door in front of MCP servers, A2A agents and model APIs."""

__version__ = "0.1.0"
