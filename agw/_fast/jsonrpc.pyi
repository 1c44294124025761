"""Where the parts of a JSON-RPC message are, without decoding it: one validating pass, spans out.

`envelope_scan` (jsonrpc.pxd) is what the exchange calls on the body of an MCP POST; `locate` is the same for Python.

Rules:
- the whole text is checked against RFC 8259 (strict UTF-8, no NaN, no trailing text) before any span is used;
- members that decide anything may occur once, in their exact spelling and unescaped: `jsonrpc`, `id`, `method`,
  `params`, `result`, `error`, and `name`, `uri` directly inside `params`. Duplicates and case variants are refused,
  because another parser would see another message. A member name with an escape is refused there whatever it spells;
- nesting costs a counter, never a stack;
- a batch (MCP 2025-03-26) is checked as JSON only; what its members say is not looked at.

Sources: JSON-RPC 2.0; RFC 8259; MCP basic protocol (an id is a string or an integer and never null in a request).
"""

from typing import Literal, TypedDict, type_check_only

@type_check_only
class Envelope(TypedDict):
    """What `locate` found; every value is a slice of the text, raw.

    `id` includes its quotes; `method`, `name` and `uri` are what stands between theirs, escapes left alone.
    """

    kind: Literal["request", "notification", "response", "batch"]
    id: bytes | None
    method: bytes | None
    params: bytes | None
    name: bytes | None
    uri: bytes | None

class EnvelopeError(ValueError):
    """Not one well-formed JSON-RPC message.

    `code` is the JSON-RPC error code to answer with: -32700 when the text is not JSON (or is nested too deeply), -32600
    when it is JSON and not a message. The text of the exception is for people and holds nothing from the message.
    """

    code: int
    def __init__(self, code: int, problem: str) -> None: ...

def locate(text: bytes, max_depth: int = 64) -> Envelope:
    """Check one message and say where its parts are.

    Units:  `max_depth` in containers open at once; values above 64 mean 64.
    Errors: EnvelopeError, also for texts over 2 GiB.
    """

def spans(text: bytes) -> tuple[int, int, int, int]:
    """Offset and length of `params` and of the object `params._meta` in one message; length 0: there is none.

    Errors: EnvelopeError.
    """
