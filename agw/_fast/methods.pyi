"""Methods, of HTTP and of MCP, by the numbers that the counters' keys hold: closed sets, because callers choose methods.

C functions: `rpc_number(name, n)`, -1 for a name that is not in the table; `rpc_kind(number)`, its resource type as text.
"""

from typing import Final

RPC_METHODS: Final[tuple[tuple[str, str], ...]]
"""(method, resource type or "") of MCP messages, by number. 0 to 4 are other, batch, response, GET and DELETE."""

KINDS: Final[tuple[str, ...]]
"""Kinds of JSON-RPC messages, by the number of `jsonrpc.pxd`; 0 is none."""

METHODS: Final[tuple[str, ...]]
"""HTTP methods by number; 0 is every other one."""
