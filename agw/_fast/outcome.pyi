"""What a JSON-RPC answer means to the counters and the access log: fine, or which class of error. Not for decisions.

Rules:
- it looks at the first and the last octets of an answer only, so that it costs the same for every size: an `error` behind
  another container, or `isError` far from the end, is taken for a result;
- the classes are a closed set: codes of the specifications by themselves, -32000 to -32099 as `server`, the rest `other`.

C functions: `outcome_of_code(code)`, `outcome_of(text, n, whole, call, code)`.

Sources: JSON-RPC 2.0 section 5.1; MCP, "Error Codes" and "Tools: Error Handling".
"""

from typing import Final

OUTCOMES: Final[tuple[str, ...]]
"""Label values by number. 0 is "": no error. 1 is `tool`: a tool's result with `isError`."""

CANCELLED: Final[int]
"""The number of what nobody waited for any more."""

UPSTREAM_OUTCOMES: Final[tuple[str, ...]]
"""How a request to a target ended: answered, answered with an error, the kind of a TransportError, or given up."""

def outcome(code: int) -> int:
    """The number of an error code."""

def classify(text: bytes, call: bool) -> tuple[int, int, bool]:
    """(number of its class, error code or 0, does it say that there is no such tool?) of a whole answer.

    call: it answers `tools/call`, whose results may be errors.
    """
