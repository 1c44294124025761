"""The MCP half of the benchmark: what a call, a list, a handshake, a session and a stream cost as their number grows."""
