"""Access-log records: one JSON object per line, formatted into a buffer that somebody else writes out.

Rules:
- agentgateway's field names and order; a field without a value is left out;
- control octets and invalid UTF-8 are escaped or replaced by U+FFFD: a line is one line of valid JSON whatever a client
  sent. The fragments `fields`, `noted` and `added` are trusted: they come from the configuration and from our own encoder;
- queries, whole session ids and credentials are not logged;
- the request path only fills memory; the sink gets whole lines and may drop them (it counts).
"""

from collections.abc import Callable

from typing_extensions import disjoint_base

from agw._fast.exchange import Exchange
from agw._fast.gate import Identity

@disjoint_base
class AccessLog:
    """The buffer of one worker. C methods: `add(record)`, which hands over from 64 KiB on, and `emit()`."""

    def __init__(self, sink: Callable[[bytes], object] | None) -> None:
        """`sink` takes runs of whole lines and must not block; None switches the log off."""

    details: Callable[[Identity | None, Exchange], bytes | None] | None
    """What the configuration adds to each line: JSON members after a comma; None: this request has no line. Must not raise."""
    shape: Callable[[bytes], bytes] | None
    """Takes members off a line, which it gets without its closing brace. What it returns is not longer."""
    looks: bool
    """Do `details` need heads and parameters of requests and answers? They are copied only then."""
    @property
    def enabled(self) -> bool:
        """Is there a sink?"""

    def flush(self) -> None:
        """Hand over what is there; called by the worker's tick."""

    def reserve(self, need: int) -> None:
        """Make room for `need` octets. Part of `add`."""

def formatted(
    *,
    fields: bytes = b"",
    peer: bytes = b"",
    endpoint: bytes = b"",
    method: bytes = b"",
    host: bytes = b"",
    path: bytes = b"",
    target: bytes = b"",
    rpc: bytes = b"",
    name: bytes = b"",
    resource_type: bytes = b"",
    noted: bytes = b"",
    added: bytes = b"",
    shape: Callable[[bytes], bytes] | None = None,
    rpc_code: int = 0,
    tool_failed: bool = False,
    wall_ns: int = 0,
    duration_ns: int = 0,
    version: int = 11,
    status: int = 200,
    name_kind: int = 1,
    retries: int = 0,
) -> bytes:
    """One record as its line, for tests.

    fields: a JSON fragment, empty or from a comma on; version: 10 or 11; name_kind: 1 tool, 2 prompt, 3 resource;
    noted: a JSON fragment like `fields`, behind the fields of MCP; added: likewise, at the end; rpc_code: a JSON-RPC error code, 0 for none;
    wall_ns: since the epoch, UTC; duration_ns: printed as milliseconds with three decimals.
    """
